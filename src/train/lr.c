/* lr.c - see lr.h. */
#include "train/lr.h"

#include <math.h>

int lr_check(const struct lr_plan *p, struct err *err) {
    if (!(p->peak >= 0) || !(p->min >= 0) || p->min > p->peak || isinf(p->peak))
        return err_set(err, E_USAGE, "learning rates: peak %g and minimum %g", (double)p->peak,
                       (double)p->min);
    if (p->warmup < 0 || p->decay < 0 || p->total < 0)
        return err_set(err, E_USAGE, "learning rate: a number of steps is negative");
    if (p->kind != LR_CONSTANT && (p->warmup > p->total || p->decay > p->total - p->warmup))
        return err_set(err, E_USAGE,
                       "learning rate: %lld steps of warm-up and %lld of decay are more than %lld",
                       (long long)p->warmup, (long long)p->decay, (long long)p->total);
    return 0;
}

float lr_at(const struct lr_plan *p, int64_t step) {
    if (step < p->warmup)
        return (float)((double)p->peak * (double)(step + 1) / (double)p->warmup);
    if (p->kind == LR_CONSTANT)
        return p->peak;
    int64_t from = p->kind == LR_COSINE ? p->warmup : p->total - p->decay, n = p->total - from;
    if (step < from)
        return p->peak;
    double x = n > 0 && step < p->total ? (double)(step - from) / (double)n : 1, left;
    if (p->kind == LR_COSINE)
        left = 0.5 * (1 + cos(M_PI * x));
    else
        left = 1 - (p->kind == LR_WSD_SQRT ? sqrt(x) : x);
    return (float)((double)p->min + ((double)p->peak - (double)p->min) * left);
}
