/* tiles.h - in which order a product's tiles are computed, so that operands are read from near
 * caches.
 *
 * A tile is some tokens by TILE_ROWS rows of weights, whole sums over k: the order of tiles
 * cannot change a result. */
#ifndef NUM_X86_TILES_H
#define NUM_X86_TILES_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "num/kern.h"
#include "num/panel.h"
#include "num/x86/inline.h"

#define TILE_ROWS 4
#define ONE_ROWS 8 /* rows at once for a single token: enough sums in flight to hide latency */
#define NEAR                                                                                       \
    (16 * 1024) /* bytes of weights that stay in the first cache while tokens pass        */
#define MIDDLE                                                                                     \
    (256 * 1024) /* bytes of activations that stay in the second cache while weights pass  */

/* Row j of the weights; past the end, the last one again (its result is not stored). */
INLINE const char *tile_row(const struct gemm *g, int j) {
    return (const char *)g->w + (size_t)(j < g->n ? j : g->n - 1) * g->ldw;
}

INLINE const char *tile_token(const struct gemm *g, int i) {
    return (const char *)g->x + (size_t)i * g->ldx;
}

INLINE int tile_min(int a, int b) {
    return a < b ? a : b;
}

/* How many rows of so many bytes fill `bytes`: a multiple of unit, at least one unit. */
INLINE int tile_fit(size_t bytes, size_t row, int unit) {
    size_t n = bytes / (row ? row : 1) / (size_t)unit;
    return (int)(n < 1 ? 1 : n > 4096 ? 4096 : n) * unit;
}

/* Fetches the n bytes `ahead` of p, where a loop over weights will be soon.  Only an address: they
 * may lie past the end.  once: a single token passes, so they need not stay in the last cache, from
 * which they would drive keys and values. */
INLINE void tile_ahead(const void *p, size_t ahead, size_t n, bool once) {
    uintptr_t at = (uintptr_t)p + ahead;
    for (size_t i = 0; i < n; i += 64) {
        if (once)
            __builtin_prefetch((const void *)(at + i), 0, 0);
        else
            __builtin_prefetch((const void *)(at + i), 0, 2);
    }
}

/* A result goes to y once its sums are complete: until then its line is fetched, for a store that
 * misses would wait for it and hold up those behind. */
INLINE void tile_prepare(const float *y) {
    __builtin_prefetch(y, 1, 3);
}

/* Blocks of the keys that attention reads. */
INLINE int tile_blocks(const struct attend *a) {
    return (a->see[a->m - 1].hi + ATTEND_BLOCK - 1) / ATTEND_BLOCK;
}

/* Where the at-th block lies that attention reads: the keys, the values, then the next split's
 * keys; where there are none, the first block. For fetching only. */
INLINE const char *tile_block(const struct attend *a, int at) {
    int n = tile_blocks(a);
    const char *p = at < n || at >= 2 * n ? a->k[at < n ? at : at - n] : a->v[at - n];
    return p ? p : a->k[0];
}

INLINE float tile_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* y[i][j .. j + 3], as far as there are rows */
INLINE void tile_store(const struct gemm *g, int i, int j, __m128 sums) {
    float *y = g->y + (size_t)i * g->ldy + (size_t)j;
    if (j + 4 <= g->n)
        _mm_storeu_ps(y, sums);
    else if (j < g->n)
        memcpy(y, &sums, (size_t)(g->n - j) * sizeof *y);
}

/* What the last of an odd number of columns adds, in panels of BF16 (num/panel.h). */
INLINE void tile_odd_column(const struct gemm *g) {
    for (int j = 0; g->k % 2 && j < g->n; j++) {
        const char *w = (const char *)g->w + (size_t)(j / PANEL * PANEL) * g->ldw;
        uint16_t half;
        memcpy(&half, w + (size_t)(g->k / 2 * PANEL * 4 + j % PANEL * 2), 2);
        float wf = tile_bf16(half);
        for (int i = 0; i < g->m; i++) {
            float *y = g->y + (size_t)i * g->ldy + (size_t)j;
            memcpy(&half, tile_token(g, i) + 2 * (size_t)(g->k - 1), 2);
            *y = fmaf(tile_bf16(half), wf, *y);
        }
    }
}

/* Calls tile(g, i, j, mt) for tiles of mt <= max tokens that cover the product. */
INLINE void tiles(const struct gemm *g, int max, void (*tile)(const struct gemm *, int, int, int)) {
    int rows = tile_fit(NEAR, g->ldw, TILE_ROWS), tokens = tile_fit(MIDDLE, g->ldx, max);
    for (int i0 = 0; i0 < g->m; i0 += tokens) {
        int i1 = tile_min(g->m, i0 + tokens);
        for (int j0 = 0; j0 < g->n; j0 += rows) {
            int j1 = tile_min(g->n, j0 + rows);
            for (int i = i0; i < i1; i += max)
                for (int j = j0; j < j1; j += TILE_ROWS)
                    tile(g, i, j, tile_min(max, i1 - i));
        }
    }
}

#endif
