/* bf16.c - level AVX512_BF16: bfloat16 products by vdpbf16ps, 32 a time.
 *
 * It adds pairs of products with its own rounding and reads denormals as 0, which the tolerance
 * in the test allows; tokens alone or in a batch take the same instructions in the same order. */
#include "num/x86/zmm.h"

#include "num/x86/attend_dot.h"
#include "num/x86/tiles.h"

#define TOKENS 4
#define STEP 32 /* elements in a vector */

INLINE __m512bh load(const char *p, int l) {
    return (__m512bh)_mm512_loadu_si512(p + 2 * (size_t)l);
}

INLINE __m512bh load_part(const char *p, int l, int n) {
    return (__m512bh)_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p + 2 * (size_t)l);
}

/* One sum vector for each of mt x nt elements of y; n (<= STEP) elements from the l-th. */
INLINE void step(vf *acc, const char *const *x, const char *const *w, int mt, int nt, int l,
                 int n) {
    __m512bh xv[TOKENS];
    UNROLL for (int a = 0; a < mt; a++) xv[a] = n < STEP ? load_part(x[a], l, n) : load(x[a], l);
    UNROLL for (int b = 0; b < nt; b++) {
        __m512bh wv = n < STEP ? load_part(w[b], l, n) : load(w[b], l);
        UNROLL for (int a = 0; a < mt; a++) acc[a * nt + b] =
            _mm512_dpbf16_ps(acc[a * nt + b], xv[a], wv);
    }
}

/* With the first tokens, fetches a step's bytes of the nt rows that come next.  For one token,
 * which waits for nothing but weights, in the order of memory: that is faster than by turns from
 * eight places. */
INLINE void fetch(const struct gemm *g, const char *const *w, int mt, int nt, size_t at) {
    if (mt == 1) {
        tile_prefetch(w[0], g->ldw, nt, at * (size_t)nt, 2 * STEP * (size_t)nt);
        return;
    }
    UNROLL for (int b = 0; b < nt; b++) tile_prefetch(w[b], g->ldw, nt, at, 2 * STEP);
}

INLINE void tile(const struct gemm *g, int mt, int nt, int i, int j) {
    vf acc[TOKENS * ONE_ROWS];
    const char *x[TOKENS], *w[ONE_ROWS];
    UNROLL for (int a = 0; a < mt; a++) x[a] = tile_token(g, i + a);
    UNROLL for (int b = 0; b < nt; b++) w[b] = tile_row(g, j + b);
    UNROLL for (int a = 0; a < mt * nt; a++) acc[a] = v_set(0);
    int l = 0;
    for (; l + STEP <= g->k; l += STEP) {
        if (i == 0)
            fetch(g, w, mt, nt, 2 * (size_t)l);
        step(acc, x, w, mt, nt, l, STEP);
    }
    if (l < g->k)
        step(acc, x, w, mt, nt, l, g->k - l);
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int b = 0; b < nt; b += 4) tile_store(
        g, i + a, j + b,
        v_sum4(acc[a * nt + b], acc[a * nt + b + 1], acc[a * nt + b + 2], acc[a * nt + b + 3]));
}

static void tile_of(const struct gemm *g, int i, int j, int mt) {
    if (mt == 4)
        tile(g, 4, TILE_ROWS, i, j);
    else if (mt == 3)
        tile(g, 3, TILE_ROWS, i, j);
    else if (mt == 2)
        tile(g, 2, TILE_ROWS, i, j);
    else
        tile(g, 1, TILE_ROWS, i, j);
}

static void gemm_bf16(const struct gemm *g) {
    if (g->m != 1) {
        tiles(g, TOKENS, tile_of);
        return;
    }
    for (int j = 0; j < g->n; j += ONE_ROWS)
        tile(g, 1, ONE_ROWS, 0, j);
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
