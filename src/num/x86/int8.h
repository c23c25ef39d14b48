/* int8.h - products with INT8 weights in panels of 16 rows (num/panel.h), by vectors of 8 rows.
 * Included once by panel_avx2.c and by avxvnni.c, after ymm.h and what they define for it:
 *     TOKENS                             tokens in a tile: 4 or more
 *     int begin(const struct i8x *)      what a token's sums begin with
 *     vi factors_of(vi w)                of weights, once for all tokens of a tile
 *     vi add4(vi sum, vi w, vi factors, vi x)
 *                                        sum plus the four products of each lane
 * exception: compiles only there.
 *
 * A lane is a row from the first multiply on: four neighbouring activations are broadcast and meet
 * four neighbouring columns of eight rows.  Integer sums are exact, and the float operations of an
 * element are those of ref.c. */
#ifndef NUM_X86_INT8_H
#define NUM_X86_INT8_H

#include "num/panel.h"
#include "num/x86/tiles.h"

#define INT8_AHEAD 8192 /* bytes between what is computed and what is fetched */

INLINE void int8_store(float *y, vf v, int n) {
    if (n >= W)
        v_store(y, v);
    else if (n > 0)
        v_store_part(y, v, n);
}

/* Adds n columns of the panel's words at w to the sums of mt tokens. */
INLINE void int8_columns(vi sum[][2], const uint8_t *w, const char *const *x, int mt, int n,
                         bool fetch) {
    for (int at = 0; at < n; at += 4, w += PANEL * 4) {
        if (fetch)
            tile_ahead(w, INT8_AHEAD, PANEL * 4, mt == 1);
        vi v[2] = {vi_load(w), vi_load(w + 32)}, f[2] = {factors_of(v[0]), factors_of(v[1])};
        UNROLL for (int a = 0; a < mt; a++) {
            vi four = vi_words(x[a] + sizeof(struct i8x) + at);
            sum[a][0] = add4(sum[a][0], v[0], f[0], four);
            sum[a][1] = add4(sum[a][1], v[1], f[1], four);
        }
    }
}

/* y of mt tokens from i by the panel from row j.  fetch: it is not in a cache yet. */
INLINE void int8_tile(const struct gemm *g, int mt, int i, int j, bool fetch) {
    const uint8_t *p = (const uint8_t *)g->w + (size_t)j * g->ldw;
    int group = int8_group(g->k);
    const char *x[TOKENS];
    vf acc[TOKENS][2];
    UNROLL for (int a = 0; a < mt; a++) {
        x[a] = tile_token(g, i + a);
        acc[a][0] = acc[a][1] = v_set(0);
    }
    for (int l = 0; l < g->k; l += group, p += (size_t)(group + 4) * PANEL) {
        vi sum[TOKENS][2];
        UNROLL for (int a = 0; a < mt; a++) sum[a][0] = sum[a][1] =
            vi_set(begin((const struct i8x *)(const void *)x[a]));
        int8_columns(sum, p + PANEL * 4, x, mt, tile_min(group, g->k - l), fetch);
        UNROLL for (int a = 0; a < mt; a++) {
            vf d = v_set(((const struct i8x *)(const void *)x[a])->d);
            UNROLL for (int h = 0; h < 2; h++) {
                vf scale = v_mul(v_load((const float *)(const void *)p + 8 * h), d);
                acc[a][h] = v_fma(vi_float(sum[a][h]), scale, acc[a][h]);
            }
            x[a] += sizeof(struct i8x) + (size_t)group;
        }
    }
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int h = 0; h < 2; h++) int8_store(
        g->y + (size_t)(i + a) * g->ldy + (size_t)j + 8 * h, acc[a][h], g->n - j - 8 * h);
}

/* A tile of as many of `left` tokens as one takes; returns how many. */
INLINE int int8_tokens(const struct gemm *g, int left, int i, int j, bool fetch) {
    int n = left >= TOKENS ? TOKENS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (n == TOKENS)
        int8_tile(g, TOKENS, i, j, fetch);
    else if (TOKENS > 4 && n == 4)
        int8_tile(g, 4, i, j, fetch);
    else if (n == 2)
        int8_tile(g, 2, i, j, fetch);
    else
        int8_tile(g, 1, i, j, fetch);
    return n;
}

static void gemm_int8(const struct gemm *g) {
    for (int j = 0; j < g->n; j += PANEL) {
        int i = int8_tokens(g, g->m, 0, j, true);
        while (i < g->m)
            i += int8_tokens(g, g->m - i, i, j, false);
    }
}

#endif
