/* net.h - the transformer for training: a forward pass that keeps its activations, and its
 * backward.
 *
 * The weights are those of a model opened in F32; training changes them in place, so that run.c
 * sees every step.  Gradients lie in a second arena of the same layout.  One thread calls a net. */
#ifndef TRAIN_NET_H
#define TRAIN_NET_H

#include <stdint.h>

#include "base/err.h"
#include "base/pool.h"
#include "model/model.h"

/* One array of the model.  What a file fuses (q, k and v; gate and up) is several params of one
 * name. */
struct param {
    const char *name; /* of the tensor in a Hugging Face folder; borrowed until net_free */
    float *w, *g;     /* (rows, cols), borrowed: master weights and gradient             */
    int rows, cols;   /* a vector is (n, 1)                                              */
    size_t at;        /* of w and g in their arenas, in floats                           */
    bool decay;       /* weight decay applies: its tensor has two dimensions             */
    bool frozen;      /* the optimiser leaves it alone, and the gradient of a frozen matrix is not
                       * computed; set by the caller                                      */
};
struct params {
    struct param *p; /* owned by the net */
    int n;
    size_t floats;    /* of each arena, gaps included */
    unsigned version; /* + 1 whenever weights change: params_changed */
};
void params_changed(struct params *p);

struct net_opts {
    struct pool *pool; /* borrowed until net_free                                          */
    enum dtype type;   /* of what products read: DT_F32, or DT_BF16 with sums in float     */
    int rows, len;     /* the largest batch: sequences and tokens in each                  */
    bool recompute;    /* keep each block's input only, and compute it again in the backward
                        * pass: a third more work, the same bits, a fraction of the memory */
};

/* B sequences of T tokens, row by row; all borrowed for the call. */
struct net_batch {
    int rows, len;
    const int32_t *ids;
    const int32_t *targets; /* the token that should follow; negative = does not count */
    const int32_t *start;   /* where in the row the token's document starts: attention and positions
                             * begin there; NULL = each row is one document */
    float dropout; /* of net_grad: share of the embedding's and of each branch's outputs that is
                    * left out, [0, 0.999]; parallel blocks have one branch */
    uint64_t draw; /* which elements: another number, others */
};

struct net;

/* m must have F32 weights and outlive the net.  E_USAGE for a type or size that cannot be,
 * E_MEMORY. */
struct net *net_new(struct model *m, const struct net_opts *o, struct err *err);
void net_free(struct net *n);
struct params *net_params(struct net *n);
const struct model *net_model(const struct net *n);

/* What net_new and adamw_new allocate for this shape and what its model takes, in bytes; exact but
 * for the scratch of the matrix library, of which products is the bound. */
struct net_bytes {
    size_t weights, gradients, moments, copies, activations, products, total;
};
int net_memory(const struct cfg *c, const struct net_opts *o, struct net_bytes *b, struct err *err);

/* The sum of the targets' negative log-likelihoods, and their number. */
struct net_loss {
    double sum;
    int64_t n;
};

/* Forward only. */
int net_eval(struct net *n, const struct net_batch *b, struct net_loss *loss, struct err *err);
/* Also adds scale * d(loss->sum)/dw to the gradients; scale is 1 / targets for a mean. */
int net_grad(struct net *n, const struct net_batch *b, float scale, struct net_loss *loss,
             struct err *err);
/* logits (B*T, vocab), for tests: those of run.c to the bit where the type is F32. */
int net_logits(struct net *n, const struct net_batch *b, float *logits, struct err *err);
void net_zero_grad(struct net *n);

/* An arena that has the layout of the weights (the gradients; the optimiser's moments) as
 * .safetensors under the model's names and shapes; net_write_weights takes the weights themselves.
 */
int net_write(const struct net *n, const float *arena, const char *path, struct err *err);
int net_write_gradients(const struct net *n, const char *path, struct err *err);
int net_write_weights(const struct net *n, const char *path, struct err *err);

#endif
