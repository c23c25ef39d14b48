/* search.c - see search.h.
 *
 * Two problems recur.  x ~ d q with signed q: trials send the element of largest magnitude to a
 * few places about the end of the range (beyond it, it is cut, which may pay); for the integers of
 * each, d is the weighted least squares fit.  x ~ d q + m with q from 0: trials stretch the range
 * somewhat, d and m are fitted, and the best is rounded and fitted anew.  K blocks then round the
 * scales and minima of their groups to few bits, and look at the neighbours of each. */
#include "num/search.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "num/quant.h"

#define BLOCK 32
#define SUPER 256

static void put_f16(uint8_t *p, float f) {
    unsigned short h = f16_from_f32(f);
    memcpy(p, &h, 2); /* the host is little endian, as the format */
}

/* f as it reads from the file. */
static float as_f16(float f) {
    return f16_to_f32(f16_from_f32(f));
}

/* The same, but not less than a hundredth below f, as tiny numbers may be: what is to be multiplied
 * by a bounded integer must reach. */
static float as_f16_not_below(float f) {
    unsigned short h = f16_from_f32(f);
    return f16_to_f32(fabsf(f16_to_f32(h)) < 0.99f * fabsf(f) ? (unsigned short)(h + 1) : h);
}

static float sum8(const float v[8]) {
    float sum = 0;
    for (int k = 0; k < 8; k++)
        sum += v[k];
    return sum;
}

float search_extreme(const float *x, int n) {
    float ext = 0;
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            return NAN;
        if (fabsf(x[i]) > fabsf(ext))
            ext = x[i];
    }
    return ext;
}

/* Weights of n elements. */
static void weigh(const float *x, int n, float *w) {
    float mean = 0;
    for (int i = 0; i < n; i++)
        mean += x[i] * x[i] / (float)n;
    for (int i = 0; i < n; i++)
        w[i] = sqrtf(mean + x[i] * x[i]);
}

/* -- x ~ d q ---------------------------------------------------------------------------------- */

struct fit {    /* with the integers of one trial scale */
    float gain; /* by how much the weighted square error is less than with d = 0 */
    float d;    /* the d that minimises it: sum(w x q) / sum(w q^2) */
};

static struct fit fit_scale(const float *x, const float *w, int n, float id, float half) {
    float xq[8] = {0}, qq[8] = {0};
    for (int i = 0; i < n; i += 8)
        for (int k = 0; k < 8; k++) {
            float q = search_clamp(search_nearest(x[i + k] * id), -half, half - 1);
            float wq = w[i + k] * q;
            xq[k] += wq * x[i + k];
            qq[k] += wq * q;
        }
    float sum_xq = sum8(xq), sum_qq = sum8(qq);
    if (!(sum_qq > 0))
        return (struct fit){0, 0};
    return (struct fit){sum_xq * sum_xq / sum_qq, sum_xq / sum_qq};
}

float search_scale(const float *x, int n, int half) {
    /* where the largest goes, as if the range were -8 .. 7, and with half the distance from the
     * range's end for each bit more */
    static const float trial[] = {-9.2f, -8.8f, -8.4f, -8.0f, -7.6f, -7.2f,
                                  -6.8f, 6.4f,  6.8f,  7.2f,  7.6f,  8.0f};
    float ext = search_extreme(x, n), inv = search_inverse(ext), unit[SEARCH_MOST], w[SEARCH_MOST];
    if (inv == 0)
        return isfinite(ext) ? 0 : NAN;
    for (int i = 0; i < n; i++)
        unit[i] = x[i] * inv; /* within -1 .. 1: nothing below can overflow */
    weigh(unit, n, w);
    float far = (float)half;
    struct fit best = {0, -1 / far};
    for (size_t k = 0; k < sizeof trial / sizeof *trial; k++) {
        float end = trial[k] < 0 ? -8 : 8, id = trial[k] < 0 ? -far : far;
        struct fit f = fit_scale(unit, w, n, half == 8 ? trial[k] : id + (trial[k] - end), far);
        if (f.gain > best.gain)
            best = f;
    }
    return best.d * ext;
}

void q50_write(const float *x, void *row, int n) {
    uint8_t *p = row;
    for (int b = 0; b < n / BLOCK; b++, x += BLOCK, p += 22) {
        float d = as_f16(search_scale(x, BLOCK, 16)), id = search_inverse(d);
        put_f16(p, d);
        memset(p + 2, 0, 20);
        for (int i = 0; i < BLOCK; i++) {
            int q = id != 0 ? (int)search_nearest(search_clamp(x[i] * id, -16, 15)) + 16 : 16;
            p[2 + i / 8] |= (uint8_t)(q >> 4 << i % 8);
            p[6 + i % 16] |= (uint8_t)((q & 15) << (i / 16 * 4));
        }
    }
}

/* The integers of 16 elements with the scale step, and their weighted square error. */
static float round_16(const float *x, const float *w, float step, float q[16]) {
    float inv = search_inverse(step), error = 0;
    for (int i = 0; i < 16; i++) {
        q[i] = search_clamp(search_nearest(search_clamp(x[i] * inv, -64, 64)), -32, 31);
        float e = x[i] - step * q[i];
        error += w[i] * e * e;
    }
    return error;
}

/* Group g: the best of the scales about the fitted one, and its integers. */
static void q6k_group(const float *u, float scale, float d, int g, uint8_t *p) {
    static const int order[] = {0, -1, 1};
    float w[16], q[16], best[16] = {0}, least = INFINITY;
    int at = (int)search_clamp(search_nearest(scale * search_inverse(d)), -128, 127), s = at;
    weigh(u, 16, w);
    for (int k = 0; k < 3; k++) {
        int t = at + order[k];
        float error = t < -128 || t > 127 ? INFINITY : round_16(u, w, d * (float)t, q);
        if (!(error < least))
            continue;
        least = error;
        s = t;
        memcpy(best, q, sizeof best);
    }
    p[192 + g] = (uint8_t)(int8_t)s;
    for (int i = 0; i < 16; i++) {
        int e = 16 * g + i, v = (int)best[i] + 32, half = e / 128, part = e / 32 % 4;
        p[64 * half + 32 * (part % 2) + e % 32] |= (uint8_t)((v & 15) << (part / 2 * 4));
        p[128 + 32 * half + e % 32] |= (uint8_t)(v >> 4 << (2 * part));
    }
}

/* 16 groups of 16 with signed scales of 8 bits. */
static void q6k_block(const float *x, uint8_t *p) {
    float ext = fabsf(search_extreme(x, SUPER)), inv = search_inverse(ext);
    float u[SUPER], scale[16], most = 0;
    memset(p, 0, 210);
    for (int i = 0; i < SUPER; i++)
        u[i] = inv != 0 ? x[i] * inv : 0;
    for (int g = 0; g < 16; g++) {
        scale[g] = search_scale(u + 16 * g, 16, 32);
        if (fabsf(scale[g]) > fabsf(most))
            most = scale[g];
    }
    float d = isfinite(ext) ? as_f16_not_below(most / -128 * ext) : NAN;
    put_f16(p + 208, d);
    d = isfinite(d) ? d * inv : 0;
    for (int g = 0; g < 16; g++)
        q6k_group(u + 16 * g, scale[g], d, g, p);
}

void q6k_write(const float *x, void *row, int n) {
    uint8_t *p = row;
    for (int b = 0; b < n / SUPER; b++, x += SUPER, p += 210)
        q6k_block(x, p);
}

/* -- x ~ d q + m ------------------------------------------------------------------------------ */

struct line {
    float d, m;
    float gain; /* sum(w x^2) less the weighted square error */
};

/* The d and m that minimise sum(w (x - d q - m)^2) for the q = 0 .. top that are nearest to
 * (x - m0) id.  below: m must not be positive. */
static struct line fit_line(const float *x, const float *w, float id, float m0, float top,
                            bool below) {
    float s1[8] = {0}, sx[8] = {0}, sq[8] = {0}, sxq[8] = {0}, sqq[8] = {0};
    for (int i = 0; i < BLOCK; i += 8)
        for (int k = 0; k < 8; k++) {
            float v = x[i + k], wi = w[i + k];
            float q = search_clamp(search_nearest((v - m0) * id), 0, top), wq = wi * q;
            s1[k] += wi;
            sx[k] += wi * v;
            sq[k] += wq;
            sxq[k] += wq * v;
            sqq[k] += wq * q;
        }
    float n = sum8(s1), vx = sum8(sx), vq = sum8(sq), vxq = sum8(sxq), vqq = sum8(sqq);
    float det = n * vqq - vq * vq;
    struct line l = {0, n > 0 ? vx / n : 0, 0};
    if (det > 1e-9f * n * vqq) {
        l.d = (n * vxq - vx * vq) / det;
        l.m = (vqq * vx - vq * vxq) / det;
    }
    if (below && l.m > 0) {
        l.m = 0;
        l.d = vqq > 0 ? vxq / vqq : 0;
    }
    l.gain = l.d * vxq + l.m * vx;
    return l;
}

/* For 32 elements within -1 .. 1. */
static struct line search_line(const float *x, const float *w, float top, bool below) {
    static const float stretch[] = {-0.9f, -0.6f, -0.3f, 0, 0.3f, 0.6f, 0.9f, 1.3f, 1.8f};
    float lo = below ? 0 : x[0], hi = x[0];
    for (int i = 0; i < BLOCK; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    struct line best = {0, lo, -INFINITY};
    if (!(hi - lo > 1e-30f))
        return best;
    for (size_t k = 0; k < sizeof stretch / sizeof *stretch; k++) {
        struct line l = fit_line(x, w, (top + stretch[k]) / (hi - lo), lo, top, below);
        if (l.gain > best.gain && l.d > 0)
            best = l;
    }
    for (int k = 0; k < 3 && best.d > 1e-30f; k++) {
        struct line l = fit_line(x, w, 1 / best.d, best.m, top, below);
        if (!(l.gain > best.gain && l.d > 0))
            break;
        best = l;
    }
    return best;
}

/* Q4_1 and Q5_1: integers of 32 elements, and d and m as they are written. */
static void line_block(const float *x, int top, uint8_t *p, int q[BLOCK]) {
    float ext = fabsf(search_extreme(x, BLOCK)), inv = search_inverse(ext), u[BLOCK], w[BLOCK];
    struct line l = {isfinite(ext) ? 0 : NAN, 0, 0};
    for (int i = 0; i < BLOCK && inv != 0; i++)
        u[i] = x[i] * inv;
    if (inv != 0) {
        weigh(u, BLOCK, w);
        l = search_line(u, w, (float)top, false);
    }
    float d = as_f16(l.d * ext), m = as_f16(l.m * ext), id = search_inverse(d);
    if (!isfinite(ext))
        d = m = NAN;
    put_f16(p, d);
    put_f16(p + 2, m);
    for (int i = 0; i < BLOCK; i++)
        q[i] = id != 0 ? (int)search_nearest(search_clamp((x[i] - m) * id, 0, (float)top)) : 0;
}

void q41_write(const float *x, void *row, int n) {
    uint8_t *p = row;
    int q[BLOCK];
    for (int b = 0; b < n / BLOCK; b++, p += 20) {
        line_block(x + BLOCK * b, 15, p, q);
        for (int i = 0; i < 16; i++)
            p[4 + i] = (uint8_t)(q[i] | q[i + 16] << 4);
    }
}

void q51_write(const float *x, void *row, int n) {
    uint8_t *p = row;
    int q[BLOCK];
    for (int b = 0; b < n / BLOCK; b++, p += 24) {
        line_block(x + BLOCK * b, 31, p, q);
        memset(p + 4, 0, 4);
        for (int i = 0; i < BLOCK; i++)
            p[4 + i / 8] |= (uint8_t)(q[i] >> 4 << i % 8);
        for (int i = 0; i < 16; i++)
            p[8 + i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
    }
}

/* -- eight groups of 32 with scales and minima of 6 bits -------------------------------------- */

struct group { /* x ~ D s q - M t */
    int s, t;
    float error;
    uint8_t q[BLOCK];
};

/* Rounds x with the scale d s and the minimum m t; *rest is the t for which those integers would
 * be best. */
static void try_group(const float *x, const float *w, const float dm[2], float top, struct group *g,
                      float *rest) {
    float d = dm[0] * (float)g->s, m = dm[1] * (float)g->t, id = search_inverse(d);
    float e[8] = {0}, r[8] = {0}, n[8] = {0};
    for (int i = 0; i < BLOCK; i += 8)
        for (int k = 0; k < 8; k++) {
            float v = x[i + k], wi = w[i + k];
            float q = search_clamp(search_nearest(search_clamp((v + m) * id, -1, 64)), 0, top);
            float over = d * q - v, miss = over - m;
            g->q[i + k] = (uint8_t)q;
            e[k] += wi * miss * miss;
            r[k] += wi * over;
            n[k] += wi;
        }
    g->error = sum8(e);
    *rest = sum8(r) * search_inverse(sum8(n)) * search_inverse(dm[1]);
}

static int six_bits(float v) {
    return (int)search_nearest(search_clamp(v, 0, 63));
}

/* The best of the integers about the fitted line: scales s - 1 .. s + 1, each with the minimum of
 * the fit and with the one that its integers ask for. */
static struct group best_group(const float *x, const float *w, const float dm[2],
                               const struct line *l, float top) {
    struct group best = {.error = INFINITY}, g;
    int s = six_bits(l->d * search_inverse(dm[0])), t = six_bits(-l->m * search_inverse(dm[1]));
    for (int k = -1; k <= 1; k++) {
        float rest;
        if (s + k < 0 || s + k > 63)
            continue;
        g = (struct group){.s = s + k, .t = t};
        try_group(x, w, dm, top, &g, &rest);
        if (g.error < best.error)
            best = g;
        if (six_bits(rest) == t)
            continue;
        g.t = six_bits(rest);
        try_group(x, w, dm, top, &g, &rest);
        if (g.error < best.error)
            best = g;
    }
    return best;
}

/* The bytes of f16 d, f16 dmin and the packed scales; integers in q.  u and w are scratch. */
static void k45_block(const float *x, float top, uint8_t *p, uint8_t q[SUPER]) {
    float ext = fabsf(search_extreme(x, SUPER)), inv = search_inverse(ext), dm[2] = {0, 0};
    float u[SUPER], w[SUPER];
    struct line l[8];
    memset(p, 0, 16);
    memset(q, 0, SUPER);
    if (inv == 0 || !isfinite(ext)) {
        put_f16(p, isfinite(ext) ? 0 : NAN);
        return;
    }
    for (int i = 0; i < SUPER; i++)
        u[i] = x[i] * inv;
    for (int g = 0; g < 8; g++) {
        weigh(u + BLOCK * g, BLOCK, w + BLOCK * g);
        l[g] = search_line(u + BLOCK * g, w + BLOCK * g, top, true);
        dm[0] = fmaxf(dm[0], l[g].d / 63);
        dm[1] = fmaxf(dm[1], -l[g].m / 63);
    }
    for (int k = 0; k < 2; k++) {
        float d = as_f16_not_below(dm[k] * ext);
        put_f16(p + 2 * k, d);
        dm[k] = d * inv;
    }
    for (int g = 0; g < 8; g++) {
        struct group b = best_group(u + BLOCK * g, w + BLOCK * g, dm, &l[g], top);
        memcpy(q + BLOCK * g, b.q, BLOCK);
        if (g < 4) {
            p[4 + g] = (uint8_t)b.s;
            p[8 + g] = (uint8_t)b.t;
            continue;
        }
        p[4 + g - 4] |= (uint8_t)(b.s >> 4 << 6);
        p[8 + g - 4] |= (uint8_t)(b.t >> 4 << 6);
        p[12 + g - 4] = (uint8_t)((b.s & 15) | (b.t & 15) << 4);
    }
}

void q4k_write(const float *x, void *row, int n) {
    uint8_t *p = row, q[SUPER];
    for (int b = 0; b < n / SUPER; b++, p += 144) {
        k45_block(x + SUPER * b, 15, p, q);
        for (int i = 0; i < 128; i++)
            p[16 + i] = (uint8_t)(q[i / 32 * 64 + i % 32] | q[i / 32 * 64 + 32 + i % 32] << 4);
    }
}

void q5k_write(const float *x, void *row, int n) {
    uint8_t *p = row, q[SUPER];
    for (int b = 0; b < n / SUPER; b++, p += 176) {
        k45_block(x + SUPER * b, 31, p, q);
        memset(p + 16, 0, 32);
        for (int i = 0; i < SUPER; i++)
            p[16 + i % 32] |= (uint8_t)(q[i] >> 4 << i / 32);
        for (int i = 0; i < 128; i++)
            p[48 + i] = (uint8_t)((q[i / 32 * 64 + i % 32] & 15) |
                                  (q[i / 32 * 64 + 32 + i % 32] & 15) << 4);
    }
}
