/* act.h - private to train/: rows of activations and norms, and their gradients. */
#ifndef TRAIN_ACT_H
#define TRAIN_ACT_H

#include "model/cfg.h"

void act_forward(enum act_kind k, float *x, int n); /* x = act(x) */
void act_slope(enum act_kind k, float *x, int n);   /* x = act'(x) */

/* dx += gradient of x (n) where dy is that of norm(x); stat = {mean, 1 / deviation}, mean 0 for
 * RMS. */
void norm_backward(enum norm_kind k, float *dx, const float *dy, const float *x, const float *w,
                   int n, float eps, float stat[2]);
float rms_scale(const float *x, int n, float eps); /* 1 / sqrt(mean(x^2) + eps) */

#endif
