/* bf16.c - level AVX512_BF16: bfloat16 products by vdpbf16ps, 32 a time.
 *
 * It adds pairs of products with its own rounding and reads denormals as 0, which the tolerance
 * in the test allows; tokens alone or in a batch take the same instructions in the same order. */
#include "num/x86/zmm.h"

#include "num/x86/attend_dot.h"
#include "num/x86/tiles.h"

#define TOKENS 16  /* at once: their sums and a panel's words are in registers */
#define AHEAD 8192 /* bytes between what is computed and what is fetched        */
#define STEP 32    /* elements in a vector */

struct pair {
    uint16_t v[2];
};

/* sum plus the products of each lane's pair with a token's, which is read from memory as often as
 * it is used: the load ports have room. */
INLINE vf dot2(vf sum, __m512i w, const char *x) {
    __asm__("vdpbf16ps %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(w), "m"(*(const struct pair *)(const void *)x));
    return sum;
}

/* Lanes of the panel from row j that are rows of this product. */
INLINE __mmask16 lanes(const struct gemm *g, int j) {
    return g->n - j >= PANEL ? 0xffff : mask_of(g->n - j);
}

/* y of mt tokens from i by the panel from row j: a lane is a row, and a sum goes from its first
 * column to the last.  fetch: the panel is not in a cache yet. */
INLINE void tile(const struct gemm *g, int mt, int i, int j, bool fetch) {
    const char *x[TOKENS], *p = (const char *)g->w + (size_t)j * g->ldw;
    vf acc[TOKENS];
    UNROLL for (int a = 0; a < mt; a++) {
        x[a] = tile_token(g, i + a);
        acc[a] = v_set(0);
    }
    for (int l = 0; l + 2 <= g->k; l += 2, p += PANEL * 4) {
        if (fetch)
            tile_ahead(p, AHEAD, PANEL * 4, mt == 1);
        __m512i w = _mm512_loadu_si512(p);
        UNROLL for (int a = 0; a < mt; a++) acc[a] = dot2(acc[a], w, x[a] + 2 * (size_t)l);
    }
    UNROLL for (int a = 0; a < mt; a++)
        _mm512_mask_storeu_ps(g->y + (size_t)(i + a) * g->ldy + (size_t)j, lanes(g, j), acc[a]);
}

/* The numbers must be constants where the tile is made. */
INLINE void tokens(const struct gemm *g, int mt, int i, int j, bool fetch) {
    switch (mt) {
    case 1:
        tile(g, 1, i, j, fetch);
        return;
    case 2:
        tile(g, 2, i, j, fetch);
        return;
    case 3:
        tile(g, 3, i, j, fetch);
        return;
    case 4:
        tile(g, 4, i, j, fetch);
        return;
    case 5:
        tile(g, 5, i, j, fetch);
        return;
    case 6:
        tile(g, 6, i, j, fetch);
        return;
    case 7:
        tile(g, 7, i, j, fetch);
        return;
    case 8:
        tile(g, 8, i, j, fetch);
        return;
    case 9:
        tile(g, 9, i, j, fetch);
        return;
    case 10:
        tile(g, 10, i, j, fetch);
        return;
    case 11:
        tile(g, 11, i, j, fetch);
        return;
    case 12:
        tile(g, 12, i, j, fetch);
        return;
    case 13:
        tile(g, 13, i, j, fetch);
        return;
    case 14:
        tile(g, 14, i, j, fetch);
        return;
    case 15:
        tile(g, 15, i, j, fetch);
        return;
    default:
        tile(g, 16, i, j, fetch);
        return;
    }
}

/* -- prompts ----------------------------------------------------------------------------------- */

/* For many tokens arithmetic is the limit: four panels by six tokens, whose sums fill registers,
 * and INPUTS of them at a time, so that the weights stay in the first cache while all tokens pass.
 * Between the pieces sums rest side by side in `sums`: rows of y, often a power of two apart, would
 * share a few lines of the caches.  No bit depends on it. */
#define MANY 96    /* tokens from which on this pays; fives and sixes make any number above 19 */
#define MOST 576   /* tokens whose sums rest at a time                                        */
#define PANELS 4   /* at once */
#define SIX 6      /* tokens at once */
#define INPUTS 256 /* of four panels: 32 KiB */

struct piece {
    int i, j, l, end;
    float *sums;           /* of the tile */
    size_t ahead, n_ahead; /* where in a panel, and how many bytes of it, will be needed next */
};

/* Adds inputs l .. end - 1 to the sums of mt tokens from i by np panels from row j. */
INLINE void piece(const struct gemm *g, int np, int mt, struct piece o) {
    const char *x = tile_token(g, o.i), *p[PANELS];
    vf acc[SIX * PANELS];
    UNROLL for (int r = 0; r < np; r++) {
        p[r] = (const char *)g->w + (size_t)(o.j + r * PANEL) * g->ldw;
        tile_ahead(p[r], o.ahead, o.n_ahead, false);
        p[r] += (size_t)o.l * PANEL * 2;
    }
    UNROLL for (int n = 0; n < mt * np; n++) acc[n] = o.l ? v_load(o.sums + n * W) : v_set(0);
    for (int l0 = o.l; l0 + 2 <= o.end; l0 += STEP) {
        int stop = tile_min(l0 + STEP, o.end);
        UNROLL for (int a = 0; a < mt; a++) /* of the next tokens, a line of 32 inputs */
            __builtin_prefetch(x + (size_t)(a + mt) * g->ldx + 2 * (size_t)l0, 0, 3);
        for (int l = l0; l + 2 <= stop; l += 2) {
            __m512i w[PANELS];
            UNROLL for (int r = 0; r < np; r++) {
                w[r] = _mm512_loadu_si512(p[r]);
                p[r] += PANEL * 4;
            }
            UNROLL for (int a = 0; a < mt; a++) {
                __m512bh two = (__m512bh)vi_words(x + (size_t)a * g->ldx + 2 * (size_t)l);
                UNROLL for (int r = 0; r < np; r++) acc[a * np + r] =
                    _mm512_dpbf16_ps(acc[a * np + r], (__m512bh)w[r], two);
            }
        }
    }
    if (o.end < g->k)
        UNROLL for (int n = 0; n < mt * np; n++) v_store(o.sums + n * W, acc[n]);
    else
        UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < np; r++) {
            int j = o.j + r * PANEL;
            _mm512_mask_storeu_ps(g->y + (size_t)(o.i + a) * g->ldy + j, lanes(g, j),
                                  acc[a * np + r]);
        }
}

/* Tokens [i, i1) by np panels from row j, piece after piece.  On the way what the next piece, or
 * the next panels, need is fetched, evenly. */
INLINE void panels(const struct gemm *g, int np, int i0, int i1, int j, float *sums) {
    for (int l = 0; l < g->k; l += INPUTS) {
        int end = tile_min(g->k, l + INPUTS), left = (i1 - i0 + SIX - 1) / SIX;
        size_t ahead = (end < g->k ? (size_t)end : (size_t)np * (size_t)g->k) * PANEL * 2;
        size_t each = ((size_t)(end - l) * PANEL * 2 / (size_t)left + 63) / 64 * 64;
        float *at = sums;
        for (int i = i0, n; left; i += n, left--, ahead += each, at += SIX * np * W) {
            n = (i1 - i + left - 1) / left; /* 5 or 6: tiles of about the same size */
            struct piece o = {i, j, l, end, at, ahead, each};
            if (n == SIX)
                piece(g, np, SIX, o);
            else
                piece(g, np, SIX - 1, o);
        }
    }
}

static void many(const struct gemm *g) {
    _Alignas(64) float sums[MOST * PANELS * W];
    int left = (g->m + MOST - 1) / MOST;
    for (int i = 0, n; left; i += n, left--) {
        int j = 0;
        n = (g->m - i + left - 1) / left;
        for (; j + PANELS * PANEL <= g->n; j += PANELS * PANEL)
            panels(g, PANELS, i, i + n, j, sums);
        for (; j < g->n; j += PANEL)
            panels(g, 1, i, i + n, j, sums);
    }
}

/* Panel after panel is read from front to back, whatever the number of tokens. */
static void few(const struct gemm *g) {
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

static void gemm_bf16(const struct gemm *g) {
    if (g->m >= MANY)
        many(g);
    else
        few(g);
    tile_odd_column(g);
}

static double probe_bf16(long iters) {
    vf acc[24];
    __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f00);
    UNROLL for (int j = 0; j < 24; j++) acc[j] = v_set(0);
    for (long i = 0; i < iters; i++)
        UNROLL for (int j = 0; j < 24; j++) {
            acc[j] = _mm512_dpbf16_ps(acc[j], a, a);
            __asm__ volatile("" : "+v"(acc[j])); /* keeps the work, in a register */
        }
    return 24.0 * 2 * STEP * (double)iters;
}

void kern_bf16(struct kern *k) {
    k->attend_bf16 = attend_bf16;
    k->gemm_bf16 = gemm_bf16;
    k->probe_bf16 = probe_bf16;
}
