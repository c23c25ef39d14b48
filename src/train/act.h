/* act.h - private to train/: rows of activations and norms, and their gradients. */
#ifndef TRAIN_ACT_H
#define TRAIN_ACT_H

#include "model/cfg.h"

void act_forward(enum act_kind k, float *x, int n); /* x = act(x) */
void act_slope(enum act_kind k, float *x, int n);   /* x = act'(x) */

/* stat = {mean, 1 / deviation} of a row of n; RMS norm's mean is 0. */
void norm_stat(enum norm_kind k, const float *x, int n, float eps, float stat[2]);

#endif
