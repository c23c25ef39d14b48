/* grad.h - the float kernels of training, the same for every vector width.  Included once by avx2.c
 * and by avx512.c, after ymm.h or zmm.h.
 * exception: compiles only there. */
#ifndef NUM_X86_GRAD_H
#define NUM_X86_GRAD_H

#include "num/x86/lanes.h"

/* Both keep NaN. */
INLINE vf clamp(vf x, float most) {
    return v_max(v_set(-most), v_min(v_set(most), x));
}

INLINE vf sigmoid(vf x) {
    return v_div(v_set(1), v_add(v_set(1), v_exp(v_sub(v_set(0), x))));
}

/* s + x s (1 - s) */
INLINE vf silu_slope_of(vf x) {
    x = clamp(x, 60);
    vf s = sigmoid(x);
    return v_fma(v_mul(x, s), v_sub(v_set(1), s), s);
}

/* gelu = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): s + x s (1 - s) 2u' */
INLINE vf gelu_tanh_slope_of(vf x) {
    x = clamp(x, 10);
    vf x2 = v_mul(x, x), k2 = v_set(2 * 0.79788456f);
    vf s = sigmoid(v_mul(k2, v_fma(v_mul(x2, x), v_set(0.044715f), x)));
    vf du2 = v_mul(k2, v_fma(x2, v_set(3 * 0.044715f), v_set(1)));
    return v_fma(v_mul(v_mul(x, s), v_sub(v_set(1), s)), du2, s);
}

/* Phi(x) + x phi(x) */
INLINE vf gelu_erf_slope_of(vf x) {
    x = clamp(x, 10);
    vf e, half = half_erfc(x, &e);
    vf cdf = v_if_negative(x, half, v_sub(v_set(1), half));
    return v_fma(v_mul(x, v_set(0.39894228f)), e, cdf);
}

static void silu_slope(float *x, int n) {
    map(x, n, silu_slope_of);
}

static void gelu_tanh_slope(float *x, int n) {
    map(x, n, gelu_tanh_slope_of);
}

static void gelu_erf_slope(float *x, int n) {
    map(x, n, gelu_erf_slope_of);
}

static void scale(float *y, int n, float a) {
    int i = 0;
    for (; i + W <= n; i += W)
        v_store(y + i, v_mul(v_load(y + i), v_set(a)));
    if (i < n)
        v_store_part(y + i, v_mul(v_load_part(y + i, n - i), v_set(a)), n - i);
}

static void softmax_grad(float *dp, const float *p, int n, float a) {
    vf sum = v_set(0);
    int i = 0;
    for (; i + W <= n; i += W)
        sum = v_fma(v_load(dp + i), v_load(p + i), sum);
    if (i < n)
        sum = v_fma(v_load_part(dp + i, n - i), v_load_part(p + i, n - i), sum);
    vf all = v_set(sum_of(sum)), s = v_set(a);
    for (i = 0; i + W <= n; i += W)
        v_store(dp + i, v_mul(v_mul(v_load(p + i), v_sub(v_load(dp + i), all)), s));
    if (i < n) {
        vf d = v_sub(v_load_part(dp + i, n - i), all);
        v_store_part(dp + i, v_mul(v_mul(v_load_part(p + i, n - i), d), s), n - i);
    }
}

/* One vector of norm_grad: dx + r (g - mean_g - xn mean_gx), xn = (x - mean) r */
INLINE vf norm_grad_of(vf dx, vf g, vf xn, vf r, vf mean_g, vf mean_gx) {
    return v_fma(r, v_fnma(xn, mean_gx, v_sub(g, mean_g)), dx);
}

static void norm_grad(float *dx, const float *dy, const float *x, const float *w, int n,
                      const float stat[2], bool centred) {
    vf mean = v_set(stat[0]), r = v_set(stat[1]), sum_g = v_set(0), sum_gx = v_set(0);
    int i = 0, k;
    for (; i + W <= n; i += W) {
        vf g = v_mul(v_load(w + i), v_load(dy + i));
        sum_g = v_add(sum_g, g);
        sum_gx = v_fma(g, v_mul(v_sub(v_load(x + i), mean), r), sum_gx);
    }
    if ((k = n - i)) {
        vf g = v_mul(v_load_part(w + i, k), v_load_part(dy + i, k));
        sum_g = v_add(sum_g, g);
        sum_gx = v_fma(g, v_mul(v_sub(v_load_part(x + i, k), mean), r), sum_gx);
    }
    vf a = v_set(centred ? sum_of(sum_g) / (float)n : 0), b = v_set(sum_of(sum_gx) / (float)n);
    for (i = 0; i + W <= n; i += W) {
        vf g = v_mul(v_load(w + i), v_load(dy + i)), xn = v_mul(v_sub(v_load(x + i), mean), r);
        v_store(dx + i, norm_grad_of(v_load(dx + i), g, xn, r, a, b));
    }
    if (i < n) {
        vf g = v_mul(v_load_part(w + i, k), v_load_part(dy + i, k));
        vf xn = v_mul(v_sub(v_load_part(x + i, k), mean), r);
        v_store_part(dx + i, norm_grad_of(v_load_part(dx + i, k), g, xn, r, a, b), k);
    }
}

/* One vector of adamw; *w, *m and *v are replaced. */
INLINE void adamw_of(const struct adamw_rates *o, vf g, vf *w, vf *m, vf *v) {
    g = v_mul(g, v_set(o->scale));
    *m = v_fma(*m, v_set(o->beta1), v_mul(v_set(1 - o->beta1), g));
    *v = v_fma(*v, v_set(o->beta2), v_mul(v_mul(v_set(1 - o->beta2), g), g));
    vf root = v_fma(v_sqrt(*v), v_set(o->fix2), v_set(o->eps));
    *w = v_fnma(v_set(o->rate), v_div(*m, root), v_mul(*w, v_set(o->keep)));
}

static void adamw(float *w, float *m, float *v, const float *g, int n,
                  const struct adamw_rates *o) {
    vf a, b, c;
    int i = 0;
    for (; i + W <= n; i += W) {
        a = v_load(w + i), b = v_load(m + i), c = v_load(v + i);
        adamw_of(o, v_load(g + i), &a, &b, &c);
        v_store(w + i, a);
        v_store(m + i, b);
        v_store(v + i, c);
    }
    if (i < n) {
        int k = n - i;
        a = v_load_part(w + i, k), b = v_load_part(m + i, k), c = v_load_part(v + i, k);
        adamw_of(o, v_load_part(g + i, k), &a, &b, &c);
        v_store_part(w + i, a, k);
        v_store_part(m + i, b, k);
        v_store_part(v + i, c, k);
    }
}

static void grad_fill(struct kern *k) {
    k->silu_slope = silu_slope;
    k->gelu_tanh_slope = gelu_tanh_slope;
    k->gelu_erf_slope = gelu_erf_slope;
    k->scale = scale;
    k->softmax_grad = softmax_grad;
    k->norm_grad = norm_grad;
    k->adamw = adamw;
}

#endif
