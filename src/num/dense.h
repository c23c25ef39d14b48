/* dense.h - C = A B for training: both operands change, either may be transposed, threads are the
 * pool's.
 *
 * Every product is cut into tiles whose size depends on its shape alone; a tile is one
 * single-threaded call of oneDNN, or several that follow each other along k, so the bits do not
 * depend on the number of threads. */
#ifndef NUM_DENSE_H
#define NUM_DENSE_H

#include "base/err.h"
#include "base/pool.h"
#include "num/mat.h"

struct dense_ctx; /* one set of compiled products and scratch a thread */

struct dense_in {
    const void *p; /* row-major, borrowed for the call                                   */
    int ld;        /* elements from row to row                                           */
    bool t;        /* stored transposed                                                  */
};
struct dense {       /* c (m, n) = a (m, k) b (k, n) + bias, or c += a b                   */
    enum dtype type; /* of a and b: DT_F32 or DT_BF16; sums are float                      */
    int m, n, k;
    struct dense_in a, b;
    float *c; /* dense rows of ldc elements                                         */
    int ldc;
    bool add;          /* c += instead of c =                                                */
    const float *bias; /* (n) or NULL; not with add                                          */
};

/* pool is borrowed until dense_free.  E_USAGE if this processor lacks products of the type. */
struct dense_ctx *dense_new(struct pool *pool, enum dtype type, struct err *err);
void dense_free(struct dense_ctx *d);

/* On the whole pool. */
void dense(struct dense_ctx *d, const struct dense *j);
/* Whole, on the calling thread, which is thread `id` of a pool_run that is going on. */
void dense_one(struct dense_ctx *d, int id, const struct dense *j);

/* Scratch held by all threads now; it grows with the shapes seen, up to DENSE_MOST for each. */
size_t dense_bytes(const struct dense_ctx *d);
#define DENSE_MOST ((size_t)2 << 20) /* what oneDNN 2.6 asks for, rounded up; a test holds it */

#endif
