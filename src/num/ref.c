/* ref.c - every kernel in plain C: the definition of correct.
 *
 * Written like the equations, with sums in double where the order of a float sum would otherwise
 * be part of the definition.  The quantised products are the exception: their order is fixed
 * (kern.def), and the other levels must match them to the bit. */
#include <math.h>
#include <string.h>

#include "num/block.h"
#include "num/kern.h"
#include "num/panel.h"
#include "num/quant.h"

/* -- vectors ----------------------------------------------------------------------------------- */

static void rms_norm(float *y, const float *x, const float *w, int n, float eps) {
    double ss = 0;
    for (int i = 0; i < n; i++)
        ss += (double)x[i] * x[i];
    float r = (float)(1 / sqrt(ss / n + (double)eps));
    for (int i = 0; i < n; i++)
        y[i] = x[i] * r * w[i];
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, int n, float eps) {
    double sum = 0, var = 0;
    for (int i = 0; i < n; i++)
        sum += x[i];
    double mean = sum / n;
    for (int i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean);
    double r = 1 / sqrt(var / n + (double)eps);
    for (int i = 0; i < n; i++)
        y[i] = (float)((x[i] - mean) * r) * w[i] + (b ? b[i] : 0);
}

static void add(float *y, const float *x, int n) {
    for (int i = 0; i < n; i++)
        y[i] += x[i];
}

static void mul(float *y, const float *x, int n) {
    for (int i = 0; i < n; i++)
        y[i] *= x[i];
}

static void rope(float *x, const float *c, const float *s, int n_head, int head_dim, int rope_dim) {
    int half = rope_dim / 2;
    for (int h = 0; h < n_head; h++, x += head_dim)
        for (int i = 0; i < half; i++) {
            float a = x[i], b = x[i + half];
            x[i] = a * c[i] - b * s[i];
            x[i + half] = b * c[i] + a * s[i];
        }
}

static void silu(float *x, int n) {
    for (int i = 0; i < n; i++)
        x[i] = (float)(x[i] / (1 + exp(-(double)x[i])));
}

static void gelu_tanh(float *x, int n) {
    for (int i = 0; i < n; i++) {
        double v = x[i], u = 0.7978845608028654 * (v + 0.044715 * v * v * v); /* sqrt(2/pi) */
        x[i] = (float)(v / (1 + exp(-2 * u))); /* = v/2 (1 + tanh u), without its cancellation */
    }
}

static void gelu_erf(float *x, int n) {
    for (int i = 0; i < n; i++)
        x[i] = (float)(0.5 * x[i] * erfc(-x[i] * 0.7071067811865476));
}

static void relu(float *x, int n) {
    for (int i = 0; i < n; i++)
        x[i] = x[i] < 0 ? 0 : x[i]; /* NaN stays */
}

/* -- training --------------------------------------------------------------------------------- */

/* Beyond `most` the slopes are 0 and 1; NaN stays. */
static double clamp(float x, double most) {
    return x < -most ? -most : x > most ? most : x;
}

static void silu_slope(float *x, int n) {
    for (int i = 0; i < n; i++) {
        double v = clamp(x[i], 60), s = 1 / (1 + exp(-v));
        x[i] = (float)(s + v * s * (1 - s));
    }
}

static void gelu_tanh_slope(float *x, int n) {
    const double k = 0.7978845608028654; /* sqrt(2/pi) */
    for (int i = 0; i < n; i++) {
        double v = clamp(x[i], 10), s = 1 / (1 + exp(-2 * k * (v + 0.044715 * v * v * v)));
        x[i] = (float)(s + v * s * (1 - s) * 2 * k * (1 + 3 * 0.044715 * v * v));
    }
}

static void gelu_erf_slope(float *x, int n) {
    for (int i = 0; i < n; i++) {
        double v = clamp(x[i], 10);
        x[i] = (float)(0.5 * erfc(-v * 0.7071067811865476) +
                       v * 0.3989422804014327 * exp(-0.5 * v * v)); /* Phi(v) + v phi(v) */
    }
}

static void scale(float *y, int n, float a) {
    for (int i = 0; i < n; i++)
        y[i] *= a;
}

static void softmax_grad(float *dp, const float *p, int n, float a) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)p[i] * dp[i];
    for (int i = 0; i < n; i++)
        dp[i] = (float)((double)a * p[i] * (dp[i] - sum));
}

/* With g = w dy and xn = (x - mean) r:  dx += r (g - mean(g) - xn mean(g xn)). */
static void norm_grad(float *dx, const float *dy, const float *x, const float *w, int n,
                      const float stat[2], bool centred) {
    double r = stat[1], sum_g = 0, sum_gx = 0;
    for (int i = 0; i < n; i++) {
        double g = (double)w[i] * dy[i];
        sum_g += centred ? g : 0;
        sum_gx += g * ((double)x[i] - stat[0]) * r;
    }
    for (int i = 0; i < n; i++) {
        double g = (double)w[i] * dy[i], xn = ((double)x[i] - stat[0]) * r;
        dx[i] += (float)(r * (g - sum_g / n - xn * sum_gx / n));
    }
}

static void adamw(float *w, float *m, float *v, const float *g, int n,
                  const struct adamw_rates *o) {
    for (int i = 0; i < n; i++) {
        float d = g[i] * o->scale;
        m[i] = o->beta1 * m[i] + (1 - o->beta1) * d;
        v[i] = o->beta2 * v[i] + (1 - o->beta2) * d * d;
        w[i] = w[i] * o->keep - o->rate * (m[i] / (sqrtf(v[i]) * o->fix2 + o->eps));
    }
}

/* -- attention --------------------------------------------------------------------------------- */

/* Element i of a block's token j, keys or values; places as attend.h says. */
static double element(enum dtype t, const char *block, int j, int i, int d, bool key) {
    size_t at = key ? (size_t)(i * ATTEND_BLOCK + j) : (size_t)(j * d + i);
    if (t == DT_BF16)
        at = key ? (size_t)((i / 2 * ATTEND_BLOCK + j) * 2 + i % 2)
                 : (size_t)((j / 2 * d + i) * 2 + j % 2);
    float x;
    if (t == DT_INT8) {
        memcpy(&x, block + ATTEND_BLOCK * d + (size_t)j * sizeof x, sizeof x);
        return (double)x * ((const int8_t *)block)[at];
    }
    row_to_f32(t, block + at * dtype_row_bytes(t, 1), &x, 1);
    return x;
}

static void attend_row(enum dtype t, const struct attend *a, int r) {
    const struct attend_keys see = a->see[r];
    const float *q = a->q + (size_t)r * (size_t)a->d;
    float *part = a->part + (size_t)r * (size_t)(ATTEND_HEAD + a->d), *o = part + ATTEND_HEAD;
    double s[ATTEND_SPLIT], max = -INFINITY, sum = 0;
    for (int j = see.lo; j < see.hi; j++) {
        s[j] = 0;
        for (int i = 0; i < a->d; i++)
            s[j] += q[i] * element(t, a->k[j / ATTEND_BLOCK], j % ATTEND_BLOCK, i, a->d, true);
        max = s[j] > max ? s[j] : max;
    }
    max = max == -INFINITY ? 0 : (float)max; /* as it is stored */
    for (int j = see.lo; j < see.hi; j++)
        sum += s[j] = exp2(s[j] - max);
    for (int i = 0; i < a->d; i++) {
        double dot = 0;
        for (int j = see.lo; j < see.hi; j++)
            dot += s[j] * element(t, a->v[j / ATTEND_BLOCK], j % ATTEND_BLOCK, i, a->d, false);
        o[i] = (float)dot;
    }
    part[0] = (float)max;
    part[1] = (float)sum;
}

static void attend_rows(enum dtype t, const struct attend *a) {
    for (int r = 0; r < a->m; r++)
        attend_row(t, a, r);
}

static void attend_f32(const struct attend *a) {
    attend_rows(DT_F32, a);
}

static void attend_f16(const struct attend *a) {
    attend_rows(DT_F16, a);
}

static void attend_bf16(const struct attend *a) {
    attend_rows(DT_BF16, a);
}

static void attend_int8(const struct attend *a) {
    attend_rows(DT_INT8, a);
}

static void attend_merge(float *state, const float *part, int d) {
    float max = fmaxf(state[0], part[0]);
    float a = exp2f(state[0] - max), b = exp2f(part[0] - max);
    for (int i = 0; i < d; i++)
        state[ATTEND_HEAD + i] = a * state[ATTEND_HEAD + i] + b * part[ATTEND_HEAD + i];
    state[1] = a * state[1] + b * part[1];
    state[0] = max;
}

/* Where all of s is -inf the result is zeros and the sum 0; NaN or +inf anywhere makes the sum
 * NaN. */
static float softmax_exp(float *s, int n) {
    float max = -INFINITY;
    for (int i = 0; i < n; i++)
        if (s[i] > max)
            max = s[i];
    if (max == -INFINITY)
        max = 0;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        s[i] = expf(s[i] - max);
        sum += s[i];
    }
    return (float)sum;
}

static bool peaks(float *peak, const float *x, int n) {
    bool nan = false;
    for (int i = 0; i < n; i++) {
        float *p = peak + i / PEAK_OF;
        *p = i % PEAK_OF == 0 || x[i] > *p ? x[i] : *p;
        nan |= isnan(x[i]) != 0;
    }
    return nan;
}

/* -- activations ------------------------------------------------------------------------------- */

static void f16_pack(void *dst, const float *src, int n) {
    row_from_f32(DT_F16, src, dst, n);
}

static void bf16_pack(void *dst, const float *src, int n) {
    row_from_f32(DT_BF16, src, dst, n);
}

static void q8x_pack(struct q8x *dst, const float *src, int n) {
    for (int b = 0; b < n / 32; b++, dst++, src += 32) {
        float max = 0;
        bool finite = true;
        for (int i = 0; i < 32; i++) {
            finite = finite && isfinite(src[i]);
            max = fmaxf(max, fabsf(src[i]));
        }
        *dst = (struct q8x){.d = finite ? 0 : NAN};
        if (finite && max >= 1e-30f) { /* smaller ones are 0: 127 / max must not overflow */
            float id = 127 / max;
            dst->d = max / 127;
            for (int i = 0; i < 32; i++) {
                dst->q[i] = (int8_t)lrintf(src[i] * id);
                dst->sum[i / 16] += dst->q[i];
            }
        }
        dst->s = dst->d * (float)(dst->sum[0] + dst->sum[1]);
    }
}

static void i8x_group(struct i8x *x, const float *src, int n) {
    float max = 0;
    bool finite = true;
    for (int i = 0; i < n; i++) {
        finite = finite && isfinite(src[i]);
        max = fmaxf(max, fabsf(src[i]));
    }
    bool some = finite && max >= 1e-30f; /* as in q8x_pack */
    x->d = !finite ? NAN : some ? max / 127 : 0;
    x->sum = 0;
    for (int i = 0; i < n; i++) {
        x->q[i] = some ? (int8_t)lrintf(src[i] * (127 / max)) : 0;
        x->sum += x->q[i];
    }
}

static void i8x_pack(void *dst, const float *src, int n) {
    char *to = dst;
    int group = int8_group(n);
    for (int i = 0; i < n; i += group, to += sizeof(struct i8x) + (size_t)group)
        i8x_group((struct i8x *)(void *)to, src + i, n - i < group ? n - i : group);
}

/* -- matrices ---------------------------------------------------------------------------------- */

/* Weights one at a time through row_to_f32; activations are float, or bfloat16 where the weights
 * are. */
static void gemm_float(enum dtype wt, enum dtype xt, const struct gemm *g) {
    size_t w_size = dtype_row_bytes(wt, 1), x_size = dtype_row_bytes(xt, 1);
    for (int i = 0; i < g->m; i++)
        for (int j = 0; j < g->n; j++) {
            const char *x = (const char *)g->x + (size_t)i * g->ldx;
            const char *w = (const char *)g->w + (size_t)j * g->ldw;
            double dot = 0;
            for (int l = 0; l < g->k; l++) {
                float a, b;
                row_to_f32(xt, x + (size_t)l * x_size, &a, 1);
                row_to_f32(wt, w + (size_t)l * w_size, &b, 1);
                dot += (double)a * b;
            }
            g->y[(size_t)i * g->ldy + (size_t)j] = (float)dot;
        }
}

static void gemm_f32(const struct gemm *g) {
    gemm_float(DT_F32, DT_F32, g);
}

static void gemm_f16(const struct gemm *g) {
    gemm_float(DT_F16, DT_F32, g);
}

static void gemm_bf16(const struct gemm *g) {
    for (int j = 0; j < g->n; j++)
        for (int i = 0; i < g->m; i++) {
            const char *panel = (const char *)g->w + (size_t)(j / PANEL * PANEL) * g->ldw;
            const char *x = (const char *)g->x + (size_t)i * g->ldx;
            double dot = 0;
            for (int l = 0; l < g->k; l++) {
                bool odd = l == g->k - 1 && g->k % 2; /* has no other column in its word */
                const char *w = panel + (size_t)(l / 2 * PANEL * 4);
                float a, b;
                w += odd ? j % PANEL * 2 : j % PANEL * 4 + l % 2 * 2;
                row_to_f32(DT_BF16, x + (size_t)l * 2, &a, 1);
                row_to_f32(DT_BF16, w, &b, 1);
                dot += (double)a * b;
            }
            g->y[(size_t)i * g->ldy + (size_t)j] = (float)dot;
        }
}

/* y plus the products of one slice of weights and one block of activations. */
static float slice_dot(float y, const struct slice *w, const struct q8x *x) {
    int dot[2] = {0, 0};
    for (int i = 0; i < 32; i++)
        dot[i / 16] += (w->u[i] - w->off) * x->q[i];
    if (w->halves) {
        y = fmaf((float)dot[0], w->d[0] * x->d, y);
        y = fmaf((float)dot[1], w->d[1] * x->d, y);
    } else {
        y = fmaf((float)(dot[0] + dot[1]), w->d[0] * x->d, y);
    }
    return w->has_min ? fmaf(w->m, x->s, y) : y;
}

/* Block after block of a row of the panels. */
static void gemm_quant(enum dtype t, const struct gemm *g) {
    int per = dtype_info(t)->block / 32;
    for (int j = 0; j < g->n; j++) {
        const char *panel = (const char *)g->w + (size_t)(j / PANEL * PANEL) * g->ldw;
        uint8_t block[PANEL_BLOCK_MOST];
        for (int i = 0; i < g->m; i++)
            g->y[(size_t)i * g->ldy + (size_t)j] = 0;
        for (int b = 0; b < g->k / 32; b++) {
            struct slice s;
            if (b % per == 0)
                panel_block(t, panel, j % PANEL, b / per, block);
            slice_read(t, block, b % per, &s);
            for (int i = 0; i < g->m; i++) {
                float *y = &g->y[(size_t)i * g->ldy + (size_t)j];
                const char *x = (const char *)g->x + (size_t)i * g->ldx;
                *y = slice_dot(*y, &s, (const struct q8x *)(const void *)x + b);
            }
        }
    }
}

static void gemm_q8_0(const struct gemm *g) {
    gemm_quant(DT_Q8_0, g);
}

static void gemm_q4_0(const struct gemm *g) {
    gemm_quant(DT_Q4_0, g);
}

static void gemm_q4_1(const struct gemm *g) {
    gemm_quant(DT_Q4_1, g);
}

static void gemm_q5_0(const struct gemm *g) {
    gemm_quant(DT_Q5_0, g);
}

static void gemm_q5_1(const struct gemm *g) {
    gemm_quant(DT_Q5_1, g);
}

static void gemm_q4_k(const struct gemm *g) {
    gemm_quant(DT_Q4_K, g);
}

static void gemm_q5_k(const struct gemm *g) {
    gemm_quant(DT_Q5_K, g);
}

static void gemm_q6_k(const struct gemm *g) {
    gemm_quant(DT_Q6_K, g);
}

/* y plus the products of n columns of one row, whose words are PANEL words apart from w on. */
static float group_dot(float y, const char *w, const struct i8x *x, int n) {
    int dot = 0;
    float d;
    memcpy(&d, w, 4);
    w += PANEL * 4;
    for (int l = 0; l < n; l++)
        dot += (int8_t)w[l / 4 * PANEL * 4 + l % 4] * x->q[l];
    return fmaf((float)dot, d * x->d, y);
}

static void gemm_int8(const struct gemm *g) {
    int group = int8_group(g->k);
    for (int j = 0; j < g->n; j++) {
        const char *row = (const char *)g->w + (size_t)(j / PANEL * PANEL) * g->ldw + j % PANEL * 4;
        for (int i = 0; i < g->m; i++) {
            const char *w = row, *x = (const char *)g->x + (size_t)i * g->ldx;
            float y = 0;
            for (int l = 0; l < g->k; l += group) {
                int n = g->k - l < group ? g->k - l : group;
                y = group_dot(y, w, (const struct i8x *)(const void *)x, n);
                w += (group / 4 + 1) * PANEL * 4;
                x += sizeof(struct i8x) + (size_t)group;
            }
            g->y[(size_t)i * g->ldy + (size_t)j] = y;
        }
    }
}

static void gemm_int4(const struct gemm *g) {
    gemm_quant(DT_INT4, g);
}

/* -- probes ------------------------------------------------------------------------------------ */

static double probe_f32(long iters) {
    float acc[16] = {0};
    for (long i = 0; i < iters; i++)
        for (int j = 0; j < 16; j++) {
            acc[j] = acc[j] * 0.5f + 1;
            __asm__ volatile("" : "+x"(acc[j])); /* keeps the work, in a register */
        }
    return 32.0 * (double)iters;
}

/* No such instructions here. */
static double probe_bf16(long iters) {
    (void)iters;
    return 0;
}

static double probe_i8(long iters) {
    (void)iters;
    return 0;
}

static uint64_t probe_read(const void *p, size_t n) {
    uint64_t sum = 0, v[8];
    for (size_t i = 0; i + 64 <= n; i += 64) {
        memcpy(v, (const char *)p + i, 64);
        for (int j = 0; j < 8; j++)
            sum += v[j];
    }
    return sum;
}

void kern_ref(struct kern *k) {
#define KERN(ret, name, params) .name = name,
    *k = (struct kern){
#include "num/kern.def"
    };
#undef KERN
}
