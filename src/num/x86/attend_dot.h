/* attend_dot.h - attention of one split by products of bfloat16 pairs (vdpbf16ps).  Included once
 * by bf16.c, after zmm.h.
 *
 * As attend.h, but queries are rounded to bfloat16, and so are weights, before they are added up
 * and before they meet values.  A step of a chain is a pair of components, or of keys.
 * exception: compiles only there, and is a kernel file in all but name. */
#ifndef NUM_X86_ATTEND_DOT_H
#define NUM_X86_ATTEND_DOT_H

#include <math.h>

#include "num/x86/tiles.h"

#define VECS 4 /* vectors of keys or components in a tile: each block of keys is one */
#define PAIRS (ATTEND_SPLIT / 2)
#define NEXT (ATTEND_AHEAD - 1) /* blocks between what is read and what is fetched */

struct rows_of { /* some rows of a split, up to ATTEND_ROWS */
    const struct attend *a;
    int r;                               /* the first                                         */
    const uint32_t *q;                   /* (mt, d / 2) pairs                                 */
    float s[ATTEND_ROWS * ATTEND_SPLIT]; /* scores                                            */
    uint32_t p[ATTEND_ROWS * PAIRS];     /* pairs of weights                                  */
};

INLINE float *row_part(const struct attend *a, int r) {
    return a->part + (size_t)r * (size_t)(ATTEND_HEAD + a->d);
}

INLINE __m512bh pairs_of(uint32_t pair) {
    return (__m512bh)_mm512_set1_epi32((int)pair);
}

INLINE __m512bh load_pairs(const char *p, int at) {
    return (__m512bh)_mm512_loadu_si512(p + 4 * (size_t)at);
}

/* 2^x to 1e-4: what rounding to bfloat16 leaves of it is thirty times that.  0 for -inf; NaN
 * stays. */
INLINE vf v_exp2(vf x) {
    vf f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* x - floor(x) */
    vf p = v_fma(v_set(0.07802452f), f, v_set(0.22606716f));
    p = v_fma(p, f, v_set(0.69583356f));
    p = v_fma(p, f, v_set(0.99992520f));
    return v_scale(p, x); /* times 2^floor(x) */
}

/* Scores in [lo, hi) of keys that the row does not see become -inf. */
INLINE void hide(float *s, struct attend_keys see, int lo, int hi) {
    for (int j = lo; j < see.lo; j += W)
        v_store_part(s + j, v_set(-INFINITY), tile_min(W, see.lo - j));
    for (int j = see.hi; j < hi; j += W - j % W)
        v_store_part(s + j, v_set(-INFINITY), W - j % W);
}

/* Scores of mt rows against the keys of nb blocks from b. */
INLINE void score_tile(struct rows_of *x, int mt, int nb, int b) {
    const int half = x->a->d / 2;
    const char *const *k = x->a->k + b, *soon[VECS];
    vf acc[ATTEND_ROWS * VECS];
    UNROLL for (int i = 0; i < mt * nb; i++) acc[i] = v_set(0);
    UNROLL for (int n = 0; n < nb; n++) soon[n] = tile_block(x->a, b + n + NEXT);
    for (int i = 0; i < half; i++) {
        __m512bh key[VECS];
        if (x->r == 0) /* with the first rows, fetch the blocks that come next */
            UNROLL for (int n = 0; n < nb; n++)
                __builtin_prefetch(soon[n] + (size_t)i * sizeof(vf));
        UNROLL for (int n = 0; n < nb; n++) key[n] = load_pairs(k[n], i * ATTEND_BLOCK);
        UNROLL for (int r = 0; r < mt; r++) {
            __m512bh q = pairs_of(x->q[r * half + i]);
            UNROLL for (int n = 0; n < nb; n++) acc[r * nb + n] =
                _mm512_dpbf16_ps(acc[r * nb + n], q, key[n]);
        }
    }
    UNROLL for (int r = 0; r < mt; r++) UNROLL for (int n = 0; n < nb; n++)
        v_store(x->s + r * ATTEND_SPLIT + (b + n) * ATTEND_BLOCK, acc[r * nb + n]);
}

/* Scores of mt rows to weights, and to max and sum of their parts; two vectors give one of
 * weights.  Rows take turns, so that none waits for its own chain. */
INLINE void weigh(struct rows_of *x, int mt) {
    const struct attend_keys *see = x->a->see + x->r;
    const __m512bh ones = pairs_of(0x3f803f80);
    const int lo = see[0].lo / (2 * W) * 2 * W, hi = (see[mt - 1].hi + 2 * W - 1) / (2 * W) * 2 * W;
    vf max[ATTEND_ROWS], sum[ATTEND_ROWS];
    UNROLL for (int r = 0; r < mt; r++) {
        hide(x->s + r * ATTEND_SPLIT, see[r], lo, hi);
        max[r] = v_set(-INFINITY);
        sum[r] = v_set(0);
    }
    for (int j = lo; j < hi; j += W)
        UNROLL for (int r = 0; r < mt; r++) max[r] =
            v_max(v_load(x->s + r * ATTEND_SPLIT + j), max[r]); /* passes over NaN */
    UNROLL for (int r = 0; r < mt; r++) {
        float top = v_hmax(max[r]);
        max[r] = v_set(top == -INFINITY ? 0 : top);
    }
    for (int j = lo; j < hi; j += 2 * W)
        UNROLL for (int r = 0; r < mt; r++) {
            const float *s = x->s + r * ATTEND_SPLIT + j;
            vf e = v_exp2(v_sub(v_load(s), max[r])), f = v_exp2(v_sub(v_load(s + W), max[r]));
            __m512bh w = _mm512_cvtne2ps_pbh(f, e);
            sum[r] = _mm512_dpbf16_ps(sum[r], w, ones);
            _mm512_storeu_si512(x->p + r * PAIRS + j / 2, (__m512i)w);
        }
    UNROLL for (int r = 0; r < mt; r++) {
        row_part(x->a, x->r + r)[0] = _mm512_cvtss_f32(max[r]);
        row_part(x->a, x->r + r)[1] = _mm512_reduce_add_ps(sum[r]);
    }
}

/* Component i of pair j of the values. */
INLINE const char *value_at(const struct attend *a, int j, int i) {
    const int step = ATTEND_BLOCK / 2;
    return a->v[j / step] + sizeof(uint32_t) * ((size_t)(j % step) * (size_t)a->d + (size_t)i);
}

/* Adds what pair j of keys gives to nv vectors of mt rows' results, from component i.  edge: a row
 * may see one key of it or none; what it does not see is left out, whatever the value is. */
INLINE void mix_pair(const struct rows_of *x, vf *acc, int mt, int nv, int j, const char *v,
                     bool edge) {
    __m512bh value[VECS];
    UNROLL for (int n = 0; n < nv; n++) value[n] = load_pairs(v, n * W);
    UNROLL for (int m = 0; m < mt; m++) {
        __m512bh w = pairs_of(x->p[m * PAIRS + j]);
        if (edge) {
            const struct attend_keys see = x->a->see[x->r + m];
            bool first = see.lo <= 2 * j && 2 * j < see.hi;
            bool second = see.lo <= 2 * j + 1 && 2 * j + 1 < see.hi;
            vi seen = vi_set((int)((first ? 0xffffu : 0) | (second ? 0xffff0000u : 0)));
            __mmask16 any = first || second ? 0xffff : 0;
            UNROLL for (int n = 0; n < nv; n++) {
                vf *to = acc + m * nv + n;
                __m512bh part = (__m512bh)vi_and((vi)value[n], seen);
                *to = _mm512_mask_mov_ps(*to, any, _mm512_dpbf16_ps(*to, w, part));
            }
        } else {
            UNROLL for (int n = 0; n < nv; n++) acc[m * nv + n] =
                _mm512_dpbf16_ps(acc[m * nv + n], w, value[n]);
        }
    }
}

/* nv vectors of mt rows' results, from component i. */
INLINE void mix_tile(const struct rows_of *x, int mt, int i, int nv) {
    const struct attend *a = x->a;
    const struct attend_keys *see = a->see + x->r;
    const int step = ATTEND_BLOCK / 2, n_block = tile_blocks(a);
    const size_t row = sizeof(uint32_t) * (size_t)a->d;
    /* the pairs [lo, hi) that all rows see whole */
    const int lo = (see[mt - 1].lo + 1) / 2, hi = see[0].hi / 2 > lo ? see[0].hi / 2 : lo;
    int j = see[0].lo / 2;
    vf acc[ATTEND_ROWS * VECS];
    UNROLL for (int n = 0; n < mt * nv; n++) acc[n] = v_set(0);
    for (; j < lo; j++)
        mix_pair(x, acc, mt, nv, j, value_at(a, j, i), true);
    while (j < hi) {
        int b = j / step, end = tile_min(hi, (b + 1) * step);
        const char *v = value_at(a, j, i);
        const char *soon = tile_block(a, n_block + b + NEXT) + (v - a->v[b]);
        for (; j < end; j++, v += row, soon += row) {
            if (x->r == 0)
                UNROLL for (int n = 0; n < nv; n++)
                    __builtin_prefetch(soon + (size_t)n * sizeof(vf));
            mix_pair(x, acc, mt, nv, j, v, false);
        }
    }
    for (; j * 2 < see[mt - 1].hi; j++)
        mix_pair(x, acc, mt, nv, j, value_at(a, j, i), true);
    UNROLL for (int m = 0; m < mt; m++) UNROLL for (int n = 0; n < nv; n++)
        v_store(row_part(a, x->r + m) + ATTEND_HEAD + i + n * W, acc[m * nv + n]);
}

INLINE void attend_rows(struct rows_of *x, int mt) {
    const struct attend *a = x->a;
    const struct attend_keys *see = a->see + x->r;
    int b = see[0].lo / ATTEND_BLOCK, end = (see[mt - 1].hi + ATTEND_BLOCK - 1) / ATTEND_BLOCK;
    uint32_t *q = a->tmp;
    kern.bf16_pack(q, a->q + (size_t)x->r * (size_t)a->d, mt * a->d);
    x->q = q;
    /* few rows wait for memory, which is faster when one block is read after the other */
    for (; a->m > ATTEND_ROWS && b + VECS <= end; b += VECS)
        score_tile(x, mt, VECS, b);
    for (; b < end; b++)
        score_tile(x, mt, 1, b);
    weigh(x, mt);
    int i = 0;
    for (; i + VECS * W <= a->d; i += VECS * W)
        mix_tile(x, mt, i, VECS);
    for (; i < a->d; i += W)
        mix_tile(x, mt, i, 1);
}

static void attend_bf16(const struct attend *a) {
    struct rows_of x;
    x.a = a;
    for (x.r = 0; x.r < a->m; x.r += ATTEND_ROWS) {
        int mt = tile_min(ATTEND_ROWS, a->m - x.r);
#ifdef NO_UNROLL
        attend_rows(&x, mt);
#else
        switch (mt) {
        case 1:
            attend_rows(&x, 1);
            break;
        case 2:
            attend_rows(&x, 2);
            break;
        case 3:
            attend_rows(&x, 3);
            break;
        case 4:
            attend_rows(&x, 4);
            break;
        case 5:
            attend_rows(&x, 5);
            break;
        default:
            attend_rows(&x, 6);
        }
#endif
    }
}

#endif
