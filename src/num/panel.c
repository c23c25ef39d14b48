/* panel.c - see panel.h. */
#include "num/panel.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "num/quant.h"

#define BLOCK 32 /* columns of INT4 with one scale */
#define BLOCK_BYTES 18

void panel_pack(enum dtype t, const void *rows, int n_row, int cols, void *panel) {
    size_t ld = dtype_row_bytes(t, cols);
    uint8_t *p = panel;
    memset(p, 0, PANEL * ld);
    for (int r = 0; r < n_row; r++) {
        const uint8_t *row = (const uint8_t *)rows + (size_t)r * ld;
        if (t == DT_INT8) {
            for (size_t w = 0; w < ld / 4; w++)
                memcpy(p + (w * PANEL + (size_t)r) * 4, row + 4 * w, 4);
            continue;
        }
        for (int b = 0; b < cols / BLOCK; b++) {
            const uint8_t *q = row + (size_t)b * BLOCK_BYTES;
            uint8_t *to = p + (size_t)b * INT4_PANEL_BLOCK;
            memcpy(to + r * 2, q, 2);
            for (int w = 0; w < 4; w++)
                memcpy(to + PANEL * 2 + w * PANEL * 4 + r * 4, q + 2 + 4 * w, 4);
        }
    }
}

void panel_row(enum dtype t, const void *panel, int lane, int cols, void *row) {
    const uint8_t *p = panel;
    uint8_t *to = row;
    if (t == DT_INT8) {
        for (size_t w = 0; w < dtype_row_bytes(t, cols) / 4; w++)
            memcpy(to + 4 * w, p + (w * PANEL + (size_t)lane) * 4, 4);
        return;
    }
    for (int b = 0; b < cols / BLOCK; b++, p += INT4_PANEL_BLOCK, to += BLOCK_BYTES) {
        memcpy(to, p + lane * 2, 2);
        for (int w = 0; w < 4; w++)
            memcpy(to + 2 + 4 * w, p + PANEL * 2 + (w * PANEL + lane) * 4, 4);
    }
}

void mat_row_to_f32(const struct mat *m, int i, float *dst) {
    int panel = dtype_info(m->type)->panel, at = 0;
    if (panel == 1) {
        row_to_f32(m->type, mat_row(m, i), dst, m->cols);
        return;
    }
    const uint8_t *p = mat_row(m, i / panel * panel);
    int lane = i % panel;
    for (int group = int8_group(m->cols); m->type == DT_INT8 && at < m->cols;) {
        float d;
        int end = at + group < m->cols ? at + group : m->cols;
        memcpy(&d, p + lane * 4, 4);
        for (p += PANEL * 4; at < end; p += PANEL * 4)
            for (int k = 0; k < 4; k++)
                dst[at++] = d * (float)(int8_t)p[lane * 4 + k];
    }
    for (; at < m->cols; at += BLOCK, p += INT4_PANEL_BLOCK) {
        uint8_t block[BLOCK_BYTES];
        panel_row(DT_INT4, p, lane, BLOCK, block);
        row_to_f32(DT_INT4, block, dst + at, BLOCK);
    }
}

/* -- quantising -------------------------------------------------------------------------------- */

/* 1/d, and 0 where that is no use (quant.c has the same rule). */
static float inverse(float d) {
    float id = 1 / d;
    return isfinite(id) ? id : 0;
}

/* Nearest integer, ties to even, for |v| < 2^22. */
static float nearest(float v) {
    return (v + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: the sum has no room for a fraction */
}

/* Square error of n values (a multiple of 4) in steps of d; four sums, so that compilers may use
 * vectors and the result is the same bits whether they do or not. */
static float step_error(const float *x, int n, float d) {
    float id = 1 / d, sum[4] = {0};
    for (int i = 0; i < n; i += 4)
        for (int k = 0; k < 4; k++) {
            float e = x[i + k] - d * nearest(x[i + k] * id);
            sum[k] += e * e;
        }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

/* The step of a group whose largest magnitude is max: it becomes 127 or somewhat less, whichever
 * of 16 trials has the least square error.  How the errors fall is chance, and the shorter the
 * group the more the best of several gains: a quarter of the error for 16 columns. */
static float best_step(const float *x, int n, float max) {
    float d = max / 127, least = INFINITY;
    if (!(max > 1e-15f && max < 1e15f)) /* NaN, or squares would leave the range of float */
        return d;
    for (int k = 0; k < 16; k++) {
        float trial = max / (127 - 0.5f * (float)k), error = step_error(x, n, trial);
        if (error < least) {
            least = error;
            d = trial;
        }
    }
    return d;
}

static void write_group(const float *x, uint8_t *to, int n) {
    float max = 0;
    int8_t *q = (int8_t *)to + 4;
    for (int i = 0; i < n; i++)
        max = fmaxf(max, fabsf(x[i])); /* passes over NaN */
    for (int i = 0; i < n; i++)
        if (!isfinite(x[i]))
            max = NAN; /* the group reads as NaN */
    float d = best_step(x, n, max), id = inverse(d);
    memcpy(to, &d, 4);
    for (int i = 0; i < n; i++)
        q[i] = (int8_t)(id != 0 ? lrintf(x[i] * id) : 0);
}

void int8_write(const float *x, void *row, int n) {
    int group = int8_group(n);
    uint8_t *to = row;
    for (int i = 0; i < n; i += group, to += 4 + group)
        write_group(x + i, to, n - i < group ? n - i : group);
}

static float clamp4(float q) {
    q = q < -8 ? -8 : q;
    return q > 7 ? 7 : q;
}

struct fit {    /* of x ~ d q with the integers of one trial scale */
    float gain; /* by how much the weighted square error is less than with d = 0 */
    float d;    /* the d that minimises it */
};

/* Weighted least squares: d = sum(w x q) / sum(w q^2).  Eight sums each, so that compilers may use
 * vectors and the result is the same bits whether they do or not. */
static struct fit fit_scale(const float *x, const float *w, float id) {
    float xq[8] = {0}, qq[8] = {0}, sum_xq = 0, sum_qq = 0;
    for (int i = 0; i < BLOCK; i += 8)
        for (int k = 0; k < 8; k++) {
            float q = clamp4(nearest(x[i + k] * id)), wq = w[i + k] * q;
            xq[k] += wq * x[i + k];
            qq[k] += wq * q;
        }
    for (int k = 0; k < 8; k++) {
        sum_xq += xq[k];
        sum_qq += qq[k];
    }
    if (!(sum_qq > 0))
        return (struct fit){0, 0};
    return (struct fit){sum_xq * sum_xq / sum_qq, sum_xq / sum_qq};
}

/* The scale of a block.  Trials send the element of largest magnitude to -9.2 .. -6.8 (beyond -8 it
 * is cut, which may pay) or to 6.4 .. 8; each is then fitted.  Weights sqrt(mean(x^2) + x^2) count
 * large elements somewhat more, as activations are not equally large everywhere; both rules were
 * chosen by perplexity (docs/formats.md). */
static float best_scale(const float *x) {
    static const float trial[] = {-9.2f, -8.8f, -8.4f, -8.0f, -7.6f, -7.2f,
                                  -6.8f, 6.4f,  6.8f,  7.2f,  7.6f,  8.0f};
    float ext = 0, unit[BLOCK], w[BLOCK], mean = 0;
    for (int i = 0; i < BLOCK; i++) {
        if (!isfinite(x[i]))
            return NAN;
        if (fabsf(x[i]) > fabsf(ext))
            ext = x[i];
    }
    float inv = inverse(ext);
    if (inv == 0)
        return 0;
    for (int i = 0; i < BLOCK; i++) {
        unit[i] = x[i] * inv; /* within -1 .. 1: nothing below can overflow */
        mean += unit[i] * unit[i] / BLOCK;
    }
    for (int i = 0; i < BLOCK; i++)
        w[i] = sqrtf(mean + unit[i] * unit[i]);
    struct fit best = {0, -1.0f / 8};
    for (size_t k = 0; k < sizeof trial / sizeof *trial; k++) {
        struct fit f = fit_scale(unit, w, trial[k]);
        if (f.gain > best.gain)
            best = f;
    }
    return best.d * ext;
}

void int4_write(const float *x, void *row, int n) {
    uint8_t *p = row;
    for (int b = 0; b < n / BLOCK; b++, x += BLOCK, p += BLOCK_BYTES) {
        uint8_t u[BLOCK];
        uint16_t h = f16_from_f32(best_scale(x));
        float id = inverse(f16_to_f32(h));
        memcpy(p, &h, 2);
        for (int i = 0; i < BLOCK; i++) /* an id of a denormal scale may overflow: clamp4 first */
            u[i] = (uint8_t)(id != 0 ? (int)nearest(clamp4(x[i] * id)) + 8 : 8);
        for (int i = 0; i < BLOCK / 2; i++)
            p[2 + i] = (uint8_t)(u[i] | u[i + BLOCK / 2] << 4);
    }
}
