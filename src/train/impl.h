/* impl.h - private to train/: the net between its files.  net.c is the pass, attend.c its
 * attention, setup.c its memory.  Shapes: T tokens of the batch, D model width, H heads, G
 * key-value heads, C components of a head, F width of the MLP, V vocabulary, L tokens of a
 * sequence. */
#ifndef TRAIN_IMPL_H
#define TRAIN_IMPL_H

#include "model/plan.h"
#include "num/dense.h"
#include "num/linear.h"
#include "train/net.h"

#define ATTN_ROWS 64 /* query rows that attention handles together */

/* What one block keeps from forward to backward.  void: in the type that products read. */
struct act {
    float *x;             /* (T, D) the stream at its entry                               */
    float *mid;           /* (T, D) the stream between attention and MLP                  */
    void *h, *h2;         /* (T, D) normed inputs of attention and MLP                    */
    float *q_raw, *k_raw; /* (T, H*C), (T, G*C) before their norms; only with qk_norm     */
    void *q, *k, *v;      /* (T, H*C), (T, G*C), (T, G*C) as attention reads them         */
    void *att;            /* (T, H*C)                                                     */
    void *gate, *up;      /* (T, F) before the activation                                 */
    void *ff;             /* (T, F) input of down                                         */
};

struct net {
    struct model *m; /* borrowed */
    struct net_opts o;
    struct pool *pool;
    struct dense_ctx *dense;
    struct linear_ctx *lin; /* F32: the forward products are those of run.c; else NULL     */
    struct plan plan;
    struct params params;
    float *weight; /* the model's arena */
    float *grad;
    void *copy; /* the weights in BF16, as of copy_version; NULL for F32 */
    unsigned copy_version;

    const struct net_batch *b;
    float dropout;           /* of the pass under way: 0 unless it is net_grad's */
    int n_tok;               /* T of the current batch */
    struct act *act;         /* n_layer; all but x shared if recompute */
    float *out;              /* (T, D) the stream behind the last block */
    void *h;                 /* (T, D) its norm */
    float *y;                /* (T, D) what a sub-layer adds to the stream */
    float *wide, *wide2;     /* (T, max(F, H*C)), (T, max(F, 2 G*C)) */
    float *dx, *dh;          /* (T, D) gradients of the stream and of a norm's output */
    void *dy, *datt;         /* (T, D), (T, H*C) gradients of outputs, as products read them */
    float *stat;             /* (T, max(2, H + G)) of norms, between their two passes */
    float *logits;           /* (chunk, V) */
    void *dlogits;           /* the same; equals logits for F32 */
    int chunk;               /* tokens whose logits exist at a time */
    float *nll;              /* (T) */
    int *pos, *first;        /* (T) position, and first token of the row that is seen */
    float *cos, *sin, *nsin; /* (L, rope_dim/2); nsin = -sin turns back */
    float *row;              /* (threads, row_len) */
    size_t row_len;
    void *attn; /* (threads) of struct attn_scratch's arrays, attn_bytes each */
    size_t attn_bytes;
    void *arena; /* owns activations and scratch */
    size_t arena_bytes;
};

/* -- elements in the type that products read -- */
static inline size_t ct_size(const struct net *n) {
    return n->o.type == DT_BF16 ? 2 : 4;
}
static inline void *ct_at(const struct net *n, const void *p, size_t at) {
    return (char *)p + at * ct_size(n);
}
/* len of them from `at` as floats: in place, or in tmp */
const float *ct_read(const struct net *n, const void *p, size_t at, int len, float *tmp);
void ct_write(const struct net *n, void *p, size_t at, const float *src, int len);
static inline float *thread_row(const struct net *n, int id) {
    return n->row + (size_t)id * n->row_len;
}

/* attend.c: a->att from a->q, a->k, a->v; and back: n->wide = dq, n->wide2 = dk then dv, from
 * n->datt */
void attend(struct net *n, struct act *a);
void dattend(struct net *n, struct act *a);
size_t attend_bytes(const struct net *n); /* scratch of one thread */

#endif
