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

static float silu_slope(float x) {
    float s = 1 / (1 + expf(-x));
    return s * (1 + x * (1 - s));
}

static float gelu_tanh_slope(float x) {
    const float k = 0.79788456f; /* sqrt(2/pi) */
    float t = tanhf(k * (x + 0.044715f * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * k * (1 + 3 * 0.044715f * x * x);
}

/* Phi(x) + x phi(x) */
static float gelu_erf_slope(float x) {
    return 0.5f * erfcf(-x * 0.70710678f) + x * 0.39894228f * expf(-0.5f * x * x);
}

void act_slope(enum act_kind k, float *x, int n) {
    for (int i = 0; i < n; i++) {
        if (k == ACT_SILU)
            x[i] = silu_slope(x[i]);
        else if (k == ACT_GELU_TANH)
            x[i] = gelu_tanh_slope(x[i]);
        else if (k == ACT_GELU_ERF)
            x[i] = gelu_erf_slope(x[i]);
        else
            x[i] = x[i] > 0;
    }
}

float rms_scale(const float *x, int n, float eps) {
    double ss = 0;
    for (int i = 0; i < n; i++)
        ss += (double)x[i] * x[i];
    return (float)(1 / sqrt(ss / n + (double)eps));
}

/* With y = w n(x), g = w dy and n = (x - mean) r:  dx = r (g - mean(g) - n mean(g n)); RMS has no
 * means of x and g. */
void norm_backward(enum norm_kind k, float *dx, const float *dy, const float *x, const float *w,
                   int n, float eps, float stat[2]) {
    double mean = 0, var = 0, sum_g = 0, sum_gn = 0;
    for (int i = 0; k == NORM_LAYER && i < n; i++)
        mean += x[i];
    mean /= n;
    for (int i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean);
    double r = 1 / sqrt(var / n + (double)eps);
    for (int i = 0; i < n; i++) {
        double g = (double)w[i] * dy[i];
        sum_g += g;
        sum_gn += g * (x[i] - mean) * r;
    }
    double a = k == NORM_LAYER ? sum_g / n : 0, b = sum_gn / n;
    for (int i = 0; i < n; i++)
        dx[i] += (float)(r * ((double)w[i] * dy[i] - a - (x[i] - mean) * r * b));
    stat[0] = (float)mean;
    stat[1] = (float)r;
}
