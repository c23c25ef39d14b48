/* act.c - see act.h. */
#include "train/act.h"

#include <math.h>

#include "num/kern.h"

void act_forward(enum act_kind k, float *x, int n) {
    switch (k) {
    case ACT_SILU:
        kern.silu(x, n);
        break;
    case ACT_GELU_TANH:
        kern.gelu_tanh(x, n);
        break;
    case ACT_GELU_ERF:
        kern.gelu_erf(x, n);
        break;
    case ACT_RELU:
        kern.relu(x, n);
        break;
    }
}

void act_slope(enum act_kind k, float *x, int n) {
    switch (k) {
    case ACT_SILU:
        kern.silu_slope(x, n);
        break;
    case ACT_GELU_TANH:
        kern.gelu_tanh_slope(x, n);
        break;
    case ACT_GELU_ERF:
        kern.gelu_erf_slope(x, n);
        break;
    case ACT_RELU:
        for (int i = 0; i < n; i++)
            x[i] = x[i] > 0;
        break;
    }
}

#define LANES 8 /* sums that do not wait for each other */

static double sum_lanes(const double s[LANES]) {
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

void norm_stat(enum norm_kind k, const float *x, int n, float eps, float stat[2]) {
    double sum[LANES] = {0}, sq[LANES] = {0}, mean = 0;
    for (int i = 0; k == NORM_LAYER && i < n; i++)
        sum[i % LANES] += x[i];
    mean = sum_lanes(sum) / n;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int c = 0; c < LANES; c++)
            sq[c] += (x[i + c] - mean) * (x[i + c] - mean);
    for (; i < n; i++)
        sq[0] += (x[i] - mean) * (x[i] - mean);
    stat[0] = (float)mean;
    stat[1] = (float)(1 / sqrt(sum_lanes(sq) / n + (double)eps));
}
