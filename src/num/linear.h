/* linear.h - y = x W^T + b on the thread pool: the only multi-threaded arithmetic besides
 * attention.
 *
 * Bit equality: each y[t][r] is computed by one kernel call order that depends on W's type, cols
 * and the ISA level only - never on n_tok, on the other rows, or on the number of threads. */
#ifndef NUM_LINEAR_H
#define NUM_LINEAR_H

#include "base/err.h"
#include "base/pool.h"
#include "num/mat.h"

struct linear_ctx; /* pool + scratch for converted activations */

/* Scratch for up to max_tok tokens of max_cols inputs.  pool is borrowed until linear_free. */
struct linear_ctx *linear_new(struct pool *pool, int max_tok, int max_cols, struct err *err);
void linear_free(struct linear_ctx *l);
struct pool *linear_pool(struct linear_ctx *l);

struct linear_out {      /* one product of a group that shares its input     */
    float *y;            /* (n_tok, w->rows), dense                          */
    const struct mat *w; /* (rows, cols)                                     */
    const float *bias;   /* (rows) or NULL                                   */
};

/* out[i].y = x * w_i^T + bias_i for i < n_out (at most 4; q,k,v and gate,up share one call and
 * one pass over the pool).  x is (n_tok, cols) float, dense; all w_i have the same cols.
 * Allocates nothing. */
void linear(struct linear_ctx *l, const float *x, int n_tok, const struct linear_out *out,
            int n_out);

#endif
