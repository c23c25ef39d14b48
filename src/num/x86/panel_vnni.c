/* panel_vnni.c - level AVX512_VNNI: INT8 weights in panels of 16 rows (num/panel.h).
 *
 * vpdpbusd adds four products of unsigned weights and signed, broadcast activations to a lane,
 * which is a row from the first to the last.  Weights become unsigned by 128 in excess; sums begin
 * with the negative excess.  Integer sums are exact, and the float operations of an element are
 * those of ref.c.  One panel after the other is read from front to back, whatever the number of
 * tokens: several at once were slower. */
#include "num/x86/zmm.h"

#include "num/panel.h"
#include "num/x86/panel.h"
#include "num/x86/tiles.h"
#include "num/x86/vnni.h"

#define AHEAD 8192 /* bytes between what is computed and what is fetched */
#define SUMS 4     /* of a single token */
#define TOKENS 12  /* at once; then their sums and the weights still are in registers */

/* Lanes of the panel from row j that are rows of this product. */
INLINE __mmask16 lanes(const struct gemm *g, int j) {
    return g->n - j >= PANEL ? 0xffff : mask_of(g->n - j);
}

struct four {
    int8_t q[4];
};

/* sum plus the products of each lane's four factors with q[0..3].  In words of its own, because
 * compilers copy the sum before and after the intrinsic, and load q through a general register:
 * either halves the speed. */
INLINE __m512i dot4_at(__m512i sum, __m512i factors, const int8_t *q) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(factors), "m"(*(const struct four *)(const void *)q));
    return sum;
}

/* A group's columns at .. at + 3 of a panel with mt tokens; of a token's n_sum sums, this adds to
 * the first. */
INLINE void word(__m512i *sum, int n_sum, const uint8_t *p, const char *const *x, int mt, int at,
                 bool fetch) {
    p += (size_t)(at + 4) * PANEL; /* behind the scales */
    if (fetch)
        tile_ahead(p, AHEAD, PANEL * 4, mt == 1);
    __m512i w = eight_bits(vi_load(p));
    UNROLL for (int a = 0; a < mt; a++) sum[a * n_sum] =
        dot4_at(sum[a * n_sum], w, (const int8_t *)x[a] + sizeof(struct i8x) + at);
}

/* acc plus the products of a group of n columns of a panel with mt tokens. */
INLINE void group(vf *acc, const uint8_t *p, const char *const *x, int mt, int n_sum, int n,
                  bool fetch) {
    __m512i sum[TOKENS > SUMS ? TOKENS : SUMS];
    UNROLL for (int a = 0; a < mt; a++) {
        sum[a * n_sum] = vi_set(-excess(DT_INT8) * ((const struct i8x *)(const void *)x[a])->sum);
        UNROLL for (int s = 1; s < n_sum; s++) sum[a * n_sum + s] = _mm512_setzero_si512();
    }
    int at = 0;
    for (; at + 4 * n_sum <= n; at += 4 * n_sum)
        UNROLL for (int s = 0; s < n_sum; s++) word(sum + s, n_sum, p, x, mt, at + 4 * s, fetch);
    for (; n_sum > 1 && at < n; at += 4)
        word(sum, n_sum, p, x, mt, at, fetch);
    UNROLL for (int a = 0; a < mt; a++) {
        UNROLL for (int s = 1; s < n_sum; s++) sum[a * n_sum] =
            _mm512_add_epi32(sum[a * n_sum], sum[a * n_sum + s]);
        vf d = v_set(((const struct i8x *)(const void *)x[a])->d);
        vf scale = v_mul(v_load((const float *)(const void *)p), d);
        acc[a] = v_fma(_mm512_cvtepi32_ps(sum[a * n_sum]), scale, acc[a]);
    }
}

/* y of mt tokens from i by the panel from row j; n_sum sums a token, so that few tokens do not wait
 * for each product.  fetch: the panel is not in a cache yet. */
INLINE void tile(const struct gemm *g, int mt, int n_sum, int i, int j, bool fetch) {
    int size = int8_group(g->k);
    const uint8_t *p = (const uint8_t *)g->w + (size_t)j * g->ldw;
    const char *x[TOKENS];
    vf acc[TOKENS];
    UNROLL for (int a = 0; a < mt; a++) {
        x[a] = tile_token(g, i + a);
        acc[a] = v_set(0);
    }
    for (int l = 0; l < g->k; l += size, p += (size_t)(size + 4) * PANEL) {
        group(acc, p, x, mt, n_sum, tile_min(size, g->k - l), fetch);
        UNROLL for (int a = 0; a < mt; a++) x[a] += sizeof(struct i8x) + (size_t)size;
    }
    UNROLL for (int a = 0; a < mt; a++)
        _mm512_mask_storeu_ps(g->y + (size_t)(i + a) * g->ldy + (size_t)j, lanes(g, j), acc[a]);
}

/* The numbers must be constants where the tile is made. */
INLINE void tokens(const struct gemm *g, int mt, int i, int j, bool fetch) {
#ifdef NO_UNROLL
    tile(g, mt, mt == 1 ? 4 : mt == 2 ? 2 : 1, i, j, fetch);
#else
    switch (mt) {
    case 1:
        tile(g, 1, 4, i, j, fetch);
        return;
    case 2:
        tile(g, 2, 2, i, j, fetch);
        return;
    case 3:
        tile(g, 3, 1, i, j, fetch);
        return;
    case 4:
        tile(g, 4, 1, i, j, fetch);
        return;
    case 5:
        tile(g, 5, 1, i, j, fetch);
        return;
    case 6:
        tile(g, 6, 1, i, j, fetch);
        return;
    case 7:
        tile(g, 7, 1, i, j, fetch);
        return;
    case 8:
        tile(g, 8, 1, i, j, fetch);
        return;
    case 9:
        tile(g, 9, 1, i, j, fetch);
        return;
    case 10:
        tile(g, 10, 1, i, j, fetch);
        return;
    case 11:
        tile(g, 11, 1, i, j, fetch);
        return;
    default:
        tile(g, 12, 1, i, j, fetch);
        return;
    }
#endif
}

static void gemm_int8(const struct gemm *g) {
    if (many_vnni(DT_INT8, g))
        return;
    int block = tile_fit(MIDDLE, g->ldx, TOKENS); /* tokens that stay in the second cache */
    for (int i0 = 0; i0 < g->m; i0 += block)
        for (int j = 0, i1 = tile_min(g->m, i0 + block); j < g->n; j += PANEL) {
            int left = (i1 - i0 + TOKENS - 1) / TOKENS, i = i0, n = (i1 - i + left - 1) / left;
            tokens(g, n, i, j, true);
            for (i += n, left--; left; i += n, left--) {
                n = (i1 - i + left - 1) / left; /* tiles of about the same size */
                tokens(g, n, i, j, false);
            }
        }
}

void panel_vnni(struct kern *k) {
    k->gemm_int8 = gemm_int8;
}
