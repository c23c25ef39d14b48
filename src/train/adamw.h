/* adamw.h - the optimiser: Adam with decoupled weight decay (Loshchilov and Hutter, 2019). */
#ifndef TRAIN_ADAMW_H
#define TRAIN_ADAMW_H

#include "base/pool.h"
#include "train/net.h"

struct adamw_opts {
    float beta1, beta2, eps;
    float decay; /* of the params whose decay is set */
};

/* Moments lie as the weights do.  A frozen param keeps weights and moments as they are. */
struct adamw {
    struct adamw_opts o;
    struct params *ps; /* borrowed */
    struct pool *pool; /* borrowed */
    float *m, *v;      /* owned: ps->floats each */
    int64_t step;      /* updates made: the bias corrections' exponent */
};

struct adamw *adamw_new(struct params *ps, const struct adamw_opts *o, struct pool *pool,
                        struct err *err);
void adamw_free(struct adamw *a);

/* L2 norm of the gradients of all params that are not frozen; the same bits for any number of
 * threads. Not finite if any gradient is not. */
double adamw_norm(const struct adamw *a);

/* The factor that makes a norm at most `max`; 1 if it is, or if max is 0 (no clipping). */
float adamw_clip(double norm, double max);

/* One update with the gradients times `scale`.  Gradients stay. */
void adamw_step(struct adamw *a, float lr, float scale);

#endif
