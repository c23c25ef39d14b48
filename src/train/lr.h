/* lr.h - the learning rate of a step: pure functions. */
#ifndef TRAIN_LR_H
#define TRAIN_LR_H

#include <stdint.h>

#include "base/err.h"

enum lr_kind {
    LR_CONSTANT,   /* warm-up, then peak                                                          */
    LR_COSINE,     /* warm-up, then half a cosine from peak to min                                */
    LR_WSD_LINEAR, /* warm-up, stable at peak, then down to min in a straight line                */
    LR_WSD_SQRT,   /* the same, down along 1 - sqrt (Haegele et al., 2024)                        */
};
struct lr_plan {
    enum lr_kind kind;
    float peak, min;
    int64_t warmup; /* steps from 0 to peak: step i < warmup has peak * (i + 1) / warmup          */
    int64_t decay;  /* WSD: how many steps at the end fall                                        */
    int64_t total;  /* steps; beyond them the last rate stays                                     */
};

/* E_USAGE names what does not fit: rates that are negative or not numbers, parts longer than the
 * whole. */
int lr_check(const struct lr_plan *p, struct err *err);

float lr_at(const struct lr_plan *p, int64_t step); /* step 0 is the first update */

#endif
