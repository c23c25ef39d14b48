/* lanes.h - the float kernels, the same for every vector width.  Included once by avx2.c and by
 * avx512.c, after ymm.h or zmm.h: W lanes of vf.
 * exception: compiles only there, and is a kernel file in all but name, hence its length. */
#ifndef NUM_X86_LANES_H
#define NUM_X86_LANES_H

#include <math.h>
#include <string.h>

#include "num/x86/tiles.h"

/* -- vectors ----------------------------------------------------------------------------------- */

INLINE float sum_of(vf a) {
    return _mm_cvtss_f32(v_sum4(a, a, a, a));
}

/* x[i] = f(x[i]) */
INLINE void map(float *x, int n, vf (*f)(vf)) {
    int i = 0;
    for (; i + W <= n; i += W)
        v_store(x + i, f(v_load(x + i)));
    if (i < n)
        v_store_part(x + i, f(v_load_part(x + i, n - i)), n - i);
}

/* y[i] = f(y[i], x[i]) */
INLINE void map2(float *y, const float *x, int n, vf (*f)(vf, vf)) {
    int i = 0;
    for (; i + W <= n; i += W)
        v_store(y + i, f(v_load(y + i), v_load(x + i)));
    if (i < n)
        v_store_part(y + i, f(v_load_part(y + i, n - i), v_load_part(x + i, n - i)), n - i);
}

static void add(float *y, const float *x, int n) {
    map2(y, x, n, v_add);
}

static void mul(float *y, const float *x, int n) {
    map2(y, x, n, v_mul);
}

static void rms_norm(float *y, const float *x, const float *w, int n, float eps) {
    vf ss = v_set(0);
    int i = 0;
    for (; i + W <= n; i += W)
        ss = v_fma(v_load(x + i), v_load(x + i), ss);
    if (i < n) {
        vf a = v_load_part(x + i, n - i);
        ss = v_fma(a, a, ss);
    }
    vf r = v_set(1 / sqrtf(sum_of(ss) / (float)n + eps));
    for (i = 0; i + W <= n; i += W)
        v_store(y + i, v_mul(v_mul(v_load(x + i), r), v_load(w + i)));
    if (i < n)
        v_store_part(y + i, v_mul(v_mul(v_load_part(x + i, n - i), r), v_load_part(w + i, n - i)),
                     n - i);
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, int n, float eps) {
    vf sum = v_set(0), var = v_set(0);
    int i = 0;
    for (; i + W <= n; i += W)
        sum = v_add(sum, v_load(x + i));
    if (i < n)
        sum = v_add(sum, v_load_part(x + i, n - i));
    vf mean = v_set(sum_of(sum) / (float)n);
    for (i = 0; i + W <= n; i += W) {
        vf d = v_sub(v_load(x + i), mean);
        var = v_fma(d, d, var);
    }
    if (i < n) {
        vf d = v_first(v_sub(v_load_part(x + i, n - i), mean), n - i);
        var = v_fma(d, d, var);
    }
    vf r = v_set(1 / sqrtf(sum_of(var) / (float)n + eps));
    for (i = 0; i + W <= n; i += W) {
        vf v = v_mul(v_mul(v_sub(v_load(x + i), mean), r), v_load(w + i));
        v_store(y + i, b ? v_add(v, v_load(b + i)) : v);
    }
    if (i < n) {
        int k = n - i;
        vf v = v_mul(v_mul(v_sub(v_load_part(x + i, k), mean), r), v_load_part(w + i, k));
        v_store_part(y + i, b ? v_add(v, v_load_part(b + i, k)) : v, k);
    }
}

static void rope(float *x, const float *c, const float *s, int n_head, int head_dim, int rope_dim) {
    int half = rope_dim / 2;
    for (int h = 0; h < n_head; h++, x += head_dim) {
        float *y = x + half;
        int i = 0;
        for (; i + W <= half; i += W) {
            vf a = v_load(x + i), b = v_load(y + i), cos = v_load(c + i), sin = v_load(s + i);
            v_store(x + i, v_fnma(b, sin, v_mul(a, cos)));
            v_store(y + i, v_fma(a, sin, v_mul(b, cos)));
        }
        if (i < half) {
            int k = half - i;
            vf a = v_load_part(x + i, k), b = v_load_part(y + i, k);
            vf cos = v_load_part(c + i, k), sin = v_load_part(s + i, k);
            v_store_part(x + i, v_fnma(b, sin, v_mul(a, cos)), k);
            v_store_part(y + i, v_fma(a, sin, v_mul(b, cos)), k);
        }
    }
}

/* 2^n e^r for whole n and |r| <= ln(2)/2: the Taylor series of e^r, whose next term is below a
 * tenth of an ulp. */
INLINE vf v_exp_parts(vf n, vf r) {
    vf p = v_set(1.0f / 5040);
    p = v_fma(p, r, v_set(1.0f / 720));
    p = v_fma(p, r, v_set(1.0f / 120));
    p = v_fma(p, r, v_set(1.0f / 24));
    p = v_fma(p, r, v_set(1.0f / 6));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1));
    p = v_fma(p, r, v_set(1));
    return v_scale(p, n);
}

/* e^x within 2 ulp: x = n ln 2 + r.  Beyond the clamps the result is 0 or infinity in any case; NaN
 * stays. */
INLINE vf v_exp(vf x) {
    x = v_max(v_set(-105), v_min(v_set(90), x));
    vf n = v_round(v_mul(x, v_set(1.44269504f)));
    vf r = v_fnma(n, v_set(0.693359375f), x); /* ln 2 in two parts; n times the first is exact */
    r = v_fnma(n, v_set(-2.12194440e-4f), r);
    return v_exp_parts(n, r);
}

INLINE vf sigmoid_times(vf x, vf u) {
    return v_div(x, v_add(v_set(1), v_exp(v_sub(v_set(0), u))));
}

INLINE vf silu_of(vf x) {
    return sigmoid_times(x, x);
}

/* x/2 (1 + tanh u) = x sigmoid(2u) */
INLINE vf gelu_tanh_of(vf x) {
    vf x2 = v_mul(x, x),
       u2 = v_mul(v_set(2 * 0.79788456f), v_fma(v_mul(x2, x), v_set(0.044715f), x));
    return sigmoid_times(x, u2);
}

/* erfc(z) / 2 of z = |x| / sqrt(2), and *e = e^(-z^2); erfc as t P(t) e^(-z^2), t = 1/(1 + pz)
 * (Abramowitz and Stegun 7.1.26; error < 1.5e-7) */
INLINE vf half_erfc(vf x, vf *e) {
    vf z = v_mul(v_abs(x), v_set(0.70710678f));
    vf t = v_div(v_set(1), v_fma(z, v_set(0.3275911f), v_set(1)));
    vf p = v_set(1.061405429f);
    p = v_fma(p, t, v_set(-1.453152027f));
    p = v_fma(p, t, v_set(1.421413741f));
    p = v_fma(p, t, v_set(-0.284496736f));
    p = v_fma(p, t, v_set(0.254829592f));
    *e = v_exp(v_sub(v_set(0), v_mul(z, z)));
    return v_mul(v_mul(v_mul(p, t), *e), v_set(0.5f));
}

INLINE vf gelu_erf_of(vf x) {
    vf e, half = half_erfc(x, &e);
    return v_mul(x, v_if_negative(x, half, v_sub(v_set(1), half)));
}

INLINE vf relu_of(vf x) {
    return v_max(v_set(0), x);
}

static void silu(float *x, int n) {
    map(x, n, silu_of);
}

static void gelu_tanh(float *x, int n) {
    map(x, n, gelu_tanh_of);
}

static void gelu_erf(float *x, int n) {
    map(x, n, gelu_erf_of);
}

static void relu(float *x, int n) {
    map(x, n, relu_of);
}

static float softmax_exp(float *s, int n) {
    vf top = v_set(-INFINITY), sum = v_set(0);
    int i = 0;
    for (; i + W <= n; i += W)
        top = v_max(v_load(s + i), top); /* passes over NaN */
    float max = v_hmax(top);
    for (; i < n; i++)
        max = s[i] > max ? s[i] : max;
    vf m = v_set(max == -INFINITY ? 0 : max);
    for (i = 0; i + W <= n; i += W) {
        vf e = v_exp(v_sub(v_load(s + i), m));
        v_store(s + i, e);
        sum = v_add(sum, e);
    }
    if (i < n) {
        vf e = v_first(v_exp(v_sub(v_load_part(s + i, n - i), m)), n - i);
        v_store_part(s + i, e, n - i);
        sum = v_add(sum, e);
    }
    return sum_of(sum);
}

static bool peaks(float *peak, const float *x, int n) {
    bool nan = false;
    for (int i = 0; i < n; i += PEAK_OF) {
        vf top = v_set(-INFINITY);
        int end = tile_min(PEAK_OF, n - i), j = 0;
        for (; j + W <= end; j += W) {
            vf v = v_load(x + i + j);
            top = v_max(v, top);
            nan |= v_has_nan(v);
        }
        float max = v_hmax(top);
        for (; j < end; j++) {
            max = x[i + j] > max ? x[i + j] : max;
            nan |= x[i + j] != x[i + j];
        }
        peak[i / PEAK_OF] = max;
    }
    return nan;
}

static void f16_pack(void *dst, const float *src, int n) {
    char *p = dst;
    int i = 0;
    for (; i + W <= n; i += W)
        v_store_half(p + 2 * (size_t)i, v_load(src + i));
    if (i < n)
        v_store_half_part(p + 2 * (size_t)i, v_load_part(src + i, n - i), n - i);
}

static void bf16_pack(void *dst, const float *src, int n) {
    char *p = dst;
    int i = 0;
    for (; i + W <= n; i += W)
        v_store_bf16(p + 2 * (size_t)i, v_load(src + i));
    if (i < n)
        v_store_bf16_part(p + 2 * (size_t)i, v_load_part(src + i, n - i), n - i);
}

/* -- matrices ---------------------------------------------------------------------------------- */

/* Tokens in a tile: its sums, two vectors for each of its tokens, and weights fill the
 * registers. */
#define TOKENS (W / 4)
#define PAIR_TOKENS (W / 2) /* by two vectors of rows */

struct two {
    vf a, b;
};

/* 2 W elements of type t from the l-th, of which only `rest` exist (2 W or more: all). */
INLINE struct two load_two(enum dtype t, const char *p, int l, int rest) {
    bool all = rest >= 2 * W;
    int na = rest < W ? rest : W, nb = rest - na; /* elements of each vector where not all exist */
    if (t == DT_F16) {
        p += 2 * (size_t)l;
        if (all)
            return (struct two){v_load_half(p), v_load_half(p + 2 * W)};
        return (struct two){na < W ? v_load_half_part(p, na) : v_load_half(p),
                            nb > 0 ? v_load_half_part(p + 2 * W, nb) : v_set(0)};
    }
    const float *f = (const float *)(const void *)p + l;
    if (all)
        return (struct two){v_load(f), v_load(f + W)};
    return (struct two){na < W ? v_load_part(f, na) : v_load(f),
                        nb > 0 ? v_load_part(f + W, nb) : v_set(0)};
}

/* One sum vector for each of mt x nt elements of y, along k; `rest` of 2 W elements from the
 * l-th. */
INLINE void step(vf *acc, enum dtype t, const char *const *x, const char *const *w, int mt, int nt,
                 int l, int rest) {
    struct two xv[TOKENS];
    UNROLL for (int a = 0; a < mt; a++) xv[a] = load_two(DT_F32, x[a], l, rest);
    UNROLL for (int b = 0; b < nt; b++) {
        struct two wv = load_two(t, w[b], l, rest);
        UNROLL for (int a = 0; a < mt; a++) {
            acc[a * nt + b] = v_fma(xv[a].a, wv.a, acc[a * nt + b]);
            acc[a * nt + b] = v_fma(xv[a].b, wv.b, acc[a * nt + b]);
        }
    }
}

INLINE void tile(const struct gemm *g, enum dtype t, int mt, int nt, int i, int j) {
    vf acc[TOKENS * ONE_ROWS];
    const char *x[TOKENS], *w[ONE_ROWS];
    UNROLL for (int a = 0; a < mt; a++) x[a] = tile_token(g, i + a);
    UNROLL for (int b = 0; b < nt; b++) w[b] = tile_row(g, j + b);
    UNROLL for (int a = 0; a < mt * nt; a++) acc[a] = v_set(0);
    size_t size = t == DT_F32 ? 4 : 2;
    int l = 0;
    for (; l + 2 * W <= g->k; l += 2 * W) {
        if (i == 0) { /* with the first tokens, fetch the rows that come next */
            UNROLL for (int b = 0; b < nt; b++)
                tile_ahead(w[b], (size_t)nt * g->ldw + (size_t)l * size, 2 * W * size, false);
        }
        step(acc, t, x, w, mt, nt, l, 2 * W);
    }
    if (l < g->k)
        step(acc, t, x, w, mt, nt, l, g->k - l);
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int b = 0; b < nt; b += 4) {
        vf *v = acc + a * nt + b;
        tile_store(g, i + a, j + b, v_sum4(v[0], v[1], v[2], v[3]));
    }
}

INLINE void product(const struct gemm *g, enum dtype t,
                    void (*any)(const struct gemm *, int, int, int)) {
    if (g->m != 1) {
        tiles(g, TOKENS, any);
        return;
    }
    for (int j = 0; j < g->n; j += ONE_ROWS)
        tile(g, t, 1, ONE_ROWS, 0, j);
}

INLINE void tile_of(const struct gemm *g, enum dtype t, int i, int j, int mt) {
    if (mt == TOKENS)
        tile(g, t, TOKENS, TILE_ROWS, i, j);
    else if (mt == 1)
        tile(g, t, 1, TILE_ROWS, i, j);
    else if (mt == 2)
        tile(g, t, 2, TILE_ROWS, i, j);
    else
        tile(g, t, TOKENS - 1, TILE_ROWS, i, j);
}

static void tile_f32(const struct gemm *g, int i, int j, int mt) {
    tile_of(g, DT_F32, i, j, mt);
}

static void tile_f16(const struct gemm *g, int i, int j, int mt) {
    tile_of(g, DT_F16, i, j, mt);
}

static void gemm_f32(const struct gemm *g) {
    product(g, DT_F32, tile_f32);
}

static void gemm_f16(const struct gemm *g) {
    product(g, DT_F16, tile_f16);
}

/* BF16 lies in panels: a lane is a row, a word two columns of it.  y of mt tokens from i by the
 * panels from row j that nv vectors hold. */
INLINE void pair_tile(const struct gemm *g, int mt, int nv, int i, int j, bool fetch) {
    vf acc[2 * PAIR_TOKENS];
    const char *x[PAIR_TOKENS], *p = (const char *)g->w + (size_t)j * g->ldw;
    UNROLL for (int a = 0; a < mt; a++) x[a] = tile_token(g, i + a);
    UNROLL for (int a = 0; a < mt * nv; a++) acc[a] = v_set(0);
    for (int l = 0; l + 2 <= g->k; l += 2, p += PANEL * 4) {
        struct two w[4];
        UNROLL for (int r = 0; r < nv; r++) {
            const char *at = p + (size_t)(r * W / PANEL * PANEL) * g->ldw + r * W % PANEL * 4;
            if (fetch && r * W % PANEL == 0)
                tile_ahead(at, 8192, PANEL * 4, mt == 1);
            w[r] = (struct two){v_even(v_load_pairs(at)), v_odd(v_load_pairs(at))};
        }
        UNROLL for (int a = 0; a < mt; a++) {
            vi both = vi_words(x[a] + 2 * (size_t)l);
            UNROLL for (int r = 0; r < nv; r++) {
                acc[a * nv + r] = v_fma(v_even(both), w[r].a, acc[a * nv + r]);
                acc[a * nv + r] = v_fma(v_odd(both), w[r].b, acc[a * nv + r]);
            }
        }
    }
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < nv; r++) {
        float *y = g->y + (size_t)(i + a) * g->ldy + j + r * W;
        int n = g->n - j - r * W;
        if (n >= W)
            v_store(y, acc[a * nv + r]);
        else if (n > 0)
            v_store_part(y, acc[a * nv + r], n);
    }
}

/* Tokens i .. i1 - 1 by two vectors of rows, or as many as the last panel has. */
INLINE void pair_strip(const struct gemm *g, int nv, int i, int i1, int j) {
    bool fetch = true;
    for (; i + PAIR_TOKENS <= i1; i += PAIR_TOKENS, fetch = false)
        pair_tile(g, PAIR_TOKENS, nv, i, j, fetch);
    for (; PAIR_TOKENS > 4 && i + 4 <= i1; i += 4, fetch = false)
        pair_tile(g, 4, nv, i, j, fetch);
    for (; i + 2 <= i1; i += 2, fetch = false)
        pair_tile(g, 2, nv, i, j, fetch);
    if (i < i1)
        pair_tile(g, 1, nv, i, j, fetch);
}

/* -- prompts in BF16 at level AVX2 ------------------------------------------------------------ */

/* For many tokens arithmetic is the limit, and opening pairs takes as long as multiplying them: a
 * piece of four panels is opened once for all tokens, that of six tokens once for four panels.
 * Between the pieces sums rest side by side, as in bf16.c.  No bit depends on it.  Longer vectors
 * open twice as much at a time and gain nothing. */
#define MANY 24    /* tokens from which on this pays; fives and sixes make any number above 19 */
#define MOST 108   /* tokens whose sums rest at a time                                        */
#define PANELS 4   /* opened at once                                                          */
#define SIX 6      /* tokens at once: with a panel, their sums fill the registers             */
#define INPUTS 128 /* of a piece: 32 KiB of weights                                           */
#define VECTORS (PANEL / W)

struct piece {
    int i, j, l, end;
    float *sums;        /* of the tile                             */
    const float *w, *x; /* opened: (inputs, PANEL), (tokens, INPUTS) */
};

/* n columns, an even number, of a panel. */
INLINE void open_panel(float *to, const char *p, int n) {
    for (int l = 0; l < n; l += 2, p += PANEL * 4, to += 2 * PANEL)
        UNROLL for (int r = 0; r < PANEL; r += W) {
            vi both = v_load_pairs(p + (size_t)r * 4);
            v_store(to + r, v_even(both));
            v_store(to + PANEL + r, v_odd(both));
        }
}

INLINE void open_token(float *to, const char *p, int n) {
    int l = 0;
    for (; l + W <= n; l += W)
        v_store(to + l, v_load_bf16(p + 2 * (size_t)l));
    for (uint16_t half; l < n; l++) {
        memcpy(&half, p + 2 * (size_t)l, 2);
        to[l] = tile_bf16(half);
    }
}

/* Adds inputs l .. end - 1 to the sums of mt tokens from i by the panel from row j.  One column at
 * a time: with two, compilers run out of registers. */
INLINE void pair_piece(const struct gemm *g, int mt, struct piece o) {
    vf acc[SIX * VECTORS];
    const float *w = o.w, *x = o.x;
    UNROLL for (int n = 0; n < mt * VECTORS; n++) acc[n] = o.l ? v_load(o.sums + n * W) : v_set(0);
    for (int left = o.end - o.l; left > 0; left--, w += PANEL, x++)
        UNROLL for (int a = 0; a < mt; a++) {
            vf xv = v_set(x[a * INPUTS]);
            UNROLL for (int r = 0; r < VECTORS; r++) acc[a * VECTORS + r] =
                v_fma(xv, v_load(w + r * W), acc[a * VECTORS + r]);
        }
    UNROLL for (int n = 0; n < mt * VECTORS; n++) v_store(o.sums + n * W, acc[n]);
    for (int a = 0; o.end == g->k / 2 * 2 && a < mt; a++)
        memcpy(g->y + (size_t)(o.i + a) * g->ldy + (size_t)o.j, o.sums + a * PANEL,
               (size_t)tile_min(g->n - o.j, PANEL) * sizeof *o.sums);
}

/* Tokens [i0, i1) by np panels from row j, piece after piece. */
static void pair_panels(const struct gemm *g, int np, int i0, int i1, int j, float *sums) {
    _Alignas(64) float w[PANELS * PANEL * INPUTS], x[SIX * INPUTS];
    const char *p = (const char *)g->w + (size_t)j * g->ldw;
    for (int l = 0, end; l < g->k / 2 * 2; l = end) {
        int left = (i1 - i0 + SIX - 1) / SIX;
        float *at = sums;
        end = tile_min(g->k / 2 * 2, l + INPUTS);
        for (int r = 0; r < np; r++)
            open_panel(w + r * PANEL * INPUTS, p + ((size_t)r * g->ldw + (size_t)l * 2) * PANEL,
                       end - l);
        for (int i = i0, n; left; i += n, left--) {
            n = (i1 - i + left - 1) / left; /* 5 or 6: tiles of about the same size */
            for (int a = 0; a < n; a++)
                open_token(x + a * INPUTS, tile_token(g, i + a) + 2 * (size_t)l, end - l);
            for (int r = 0; r < np; r++, at += SIX * PANEL) {
                struct piece o = {i, j + r * PANEL, l, end, at, w + r * PANEL * INPUTS, x};
                if (n == SIX)
                    pair_piece(g, SIX, o);
                else
                    pair_piece(g, SIX - 1, o);
            }
        }
    }
}

static void pair_many(const struct gemm *g) {
    _Alignas(64) float sums[MOST * PANELS * PANEL];
    int left = (g->m + MOST - 1) / MOST;
    for (int i = 0, n; left; i += n, left--) {
        n = (g->m - i + left - 1) / left;
        for (int j = 0; j < g->n; j += PANELS * PANEL)
            pair_panels(g, tile_min(PANELS, (g->n - j + PANEL - 1) / PANEL), i, i + n, j, sums);
    }
}

static void pair_few(const struct gemm *g) {
    int block = tile_fit(MIDDLE, g->ldx, PAIR_TOKENS), wide = 2 * W > PANEL ? 2 * W : PANEL;
    for (int j = 0; g->m == 1 && j < g->n; j += 2 * PANEL)
        if (j + PANEL < g->n)
            pair_tile(g, 1, 2 * PANEL / W, 0, j, true);
        else
            pair_tile(g, 1, PANEL / W, 0, j, true);
    for (int i0 = 0; g->m > 1 && i0 < g->m; i0 += block)
        for (int j = 0, i1 = tile_min(g->m, i0 + block); j < g->n; j += wide)
            if (j + wide - PANEL < g->n)
                pair_strip(g, wide / W, i0, i1, j);
            else
                pair_strip(g, PANEL / W, i0, i1, j);
}

static void gemm_bf16(const struct gemm *g) {
    if (W == 8 && g->m >= MANY && g->k > 1)
        pair_many(g);
    else
        pair_few(g);
    tile_odd_column(g);
}

static void lanes_fill(struct kern *k) {
    k->rms_norm = rms_norm;
    k->layer_norm = layer_norm;
    k->add = add;
    k->rope = rope;
    k->silu = silu;
    k->gelu_tanh = gelu_tanh;
    k->gelu_erf = gelu_erf;
    k->relu = relu;
    k->mul = mul;
    k->softmax_exp = softmax_exp;
    k->peaks = peaks;
    k->f16_pack = f16_pack;
    k->bf16_pack = bf16_pack;
    k->gemm_f32 = gemm_f32;
    k->gemm_f16 = gemm_f16;
    k->gemm_bf16 = gemm_bf16;
}

#endif
