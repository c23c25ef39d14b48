/* panel_vnni.c - level AVX512_VNNI: INT8 weights in panels of 16 rows (num/panel.h).
 *
 * vpdpbusd adds four products of unsigned weights and signed, broadcast activations to a lane,
 * which is a row from the first to the last.  Weights become unsigned by 128 in excess; sums begin
 * with the negative excess.  Integer sums are exact, and the float operations of an element are
 * those of ref.c. */
#include "num/panel.h"

#include "num/x86/panel.h"
#include "num/x86/tiles.h"
#include "num/x86/zmm.h"

#define TOKENS 6 /* at once                                                          */
#define WIDE 4   /* panels at once for FEW tokens, else PAIR: then all sums are in registers */
#define PAIR 2
#define FEW 3
#define MOST (PAIR * TOKENS) /* elements of y in vectors: 12 */

INLINE __m512i load(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}

/* Four bytes of a token's integers, in each lane. */
INLINE __m512i four(const int8_t *q) {
    int v;
    memcpy(&v, q, 4);
    return _mm512_set1_epi32(v);
}

INLINE const uint8_t *panel_at(const struct gemm *g, int j) {
    return (const uint8_t *)g->w + (size_t)j * g->ldw;
}

/* Lanes of the panel from row j that are rows of this product. */
INLINE __mmask16 lanes(const struct gemm *g, int j) {
    return g->n - j >= PANEL ? 0xffff : mask_of(g->n - j);
}

/* -- INT8 -------------------------------------------------------------------------------------- */

/* acc plus the products of a group, n columns of np panels, with mt tokens.  `next` bytes further
 * on, unless it is 0, lie the panels that come next. */
INLINE void group_int8(vf *acc, const uint8_t *const *p, size_t next, const char *const *x, int np,
                       int mt, int n) {
    __m512i sum[MOST];
    UNROLL for (int a = 0; a < mt; a++) {
        __m512i start = _mm512_set1_epi32(-128 * ((const struct i8x *)(const void *)x[a])->sum);
        UNROLL for (int r = 0; r < np; r++) sum[a * np + r] = start;
    }
    for (int l = 0; l < n; l += 4) {
        size_t at = (size_t)(l + 4) * PANEL;
        __m512i w[WIDE];
        UNROLL for (int r = 0; r < np; r++) {
            if (next)
                __builtin_prefetch((const void *)((uintptr_t)p[r] + next + at), 0, 2);
            w[r] = _mm512_xor_si512(load(p[r] + at), _mm512_set1_epi8((char)0x80));
        }
        UNROLL for (int a = 0; a < mt; a++) {
            __m512i q = four((const int8_t *)x[a] + sizeof(struct i8x) + l);
            UNROLL for (int r = 0; r < np; r++) sum[a * np + r] =
                _mm512_dpbusd_epi32(sum[a * np + r], w[r], q);
        }
    }
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < np; r++) {
        vf d = v_set(((const struct i8x *)(const void *)x[a])->d);
        vf scale = v_mul(v_load((const float *)(const void *)p[r]), d);
        acc[a * np + r] = v_fma(_mm512_cvtepi32_ps(sum[a * np + r]), scale, acc[a * np + r]);
    }
}

/* y of mt tokens from i by np panels from row j; with the first tokens, fetches the panels that
 * come next. */
INLINE void tile_int8(const struct gemm *g, int np, int mt, int i, int j) {
    int group = int8_group(g->k);
    size_t next = i == 0 ? (size_t)np * PANEL * g->ldw : 0;
    vf acc[MOST];
    const uint8_t *p[WIDE];
    const char *x[TOKENS];
    UNROLL for (int r = 0; r < np; r++) p[r] = panel_at(g, j + r * PANEL);
    UNROLL for (int a = 0; a < mt; a++) x[a] = tile_token(g, i + a);
    UNROLL for (int a = 0; a < mt * np; a++) acc[a] = v_set(0);
    for (int l = 0; l < g->k; l += group) {
        group_int8(acc, p, next, x, np, mt, tile_min(group, g->k - l));
        UNROLL for (int r = 0; r < np; r++) p[r] += (size_t)(group + 4) * PANEL;
        UNROLL for (int a = 0; a < mt; a++) x[a] += sizeof(struct i8x) + (size_t)group;
    }
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < np; r++)
        _mm512_mask_storeu_ps(g->y + (size_t)(i + a) * g->ldy + (size_t)(j + r * PANEL),
                              lanes(g, j + r * PANEL), acc[a * np + r]);
}

INLINE void tokens_int8(const struct gemm *g, int np, int mt, int i, int j) {
    switch (mt) {
    case 1:
        tile_int8(g, np, 1, i, j);
        return;
    case 2:
        tile_int8(g, np, 2, i, j);
        return;
    case 3:
        tile_int8(g, np, 3, i, j);
        return;
    case 4:
        tile_int8(g, PAIR, 4, i, j);
        return;
    case 5:
        tile_int8(g, PAIR, 5, i, j);
        return;
    default:
        tile_int8(g, PAIR, 6, i, j);
    }
}

/* Tokens i0 .. i1 - 1 by np panels from row j. */
INLINE void strip_int8(const struct gemm *g, int np, int i0, int i1, int j) {
    for (int i = i0; i < i1; i += TOKENS)
        tokens_int8(g, np, tile_min(TOKENS, i1 - i), i, j);
}

static void gemm_int8(const struct gemm *g) {
    int block = tile_fit(MIDDLE, g->ldx, TOKENS); /* tokens that stay in the second cache */
    for (int i0 = 0; i0 < g->m; i0 += block) {
        int i1 = tile_min(g->m, i0 + block), j = 0;
        for (; g->m <= FEW && j + WIDE * PANEL <= g->n; j += WIDE * PANEL)
            strip_int8(g, WIDE, i0, i1, j);
        for (; j + PAIR * PANEL <= g->n; j += PAIR * PANEL)
            strip_int8(g, PAIR, i0, i1, j);
        for (; j < g->n; j += PANEL) /* at most two */
            for (int i = i0; i < i1; i++)
                tile_int8(g, 1, 1, i, j);
    }
}

void panel_vnni(struct kern *k) {
    k->gemm_int8 = gemm_int8;
}
