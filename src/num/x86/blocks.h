/* blocks.h - products with weights in blocks (GGUF's types and INT4), in panels of 16 rows
 * (num/panel.h); the same for every vector width.  Included once by avx2.c, avxvnni.c and vnni.c,
 * after ymm.h or zmm.h and what they define for it:
 *     SPAN                               tokens in a tile
 *     vi eight_bits(vi)                  bytes of Q8_0 as the factors that dot4 takes
 *     int excess(enum dtype)             by how much factors exceed the weights' integers
 *     vi dot16(enum dtype, vi sum, const vi *factors, const int8_t *q)
 *                                        sum plus the 16 products of each lane of four vectors of
 *                                        factors with q[0..15]
 *     bool many(enum dtype, const struct gemm *)
 *                                        true if it has done a product of many tokens
 * exception: compiles only there.
 *
 * A lane is a row of weights from the first step to the last.  The words of a slice (32 columns)
 * are opened into eight vectors of four columns and stay in registers while the tokens of a tile
 * pass; a panel is read from front to back, whatever the number of tokens.  Integer sums are exact,
 * and the float operations of an element are those of ref.c, slice after slice: the same bits in
 * any tile. */
#ifndef NUM_X86_BLOCKS_H
#define NUM_X86_BLOCKS_H

#include <string.h>

#include "num/x86/open.h"
#include "num/x86/tiles.h"

#define PARTS (PANEL / W) /* vectors that a panel's rows fill                            */
#define AHEAD 8192        /* bytes between what is computed and what is fetched          */

/* acc plus a slice of W rows times one token's block. */
INLINE vf slice_dot(enum dtype t, vf acc, const vi u[8], const struct scales *s,
                    const struct q8x *x) {
    bool halves = slice_kind(t) == SLICE_HALVES;
    vi a = vi_set(-excess(t) * (halves ? x->sum[0] : x->sum[0] + x->sum[1]));
    vi b = vi_set(halves ? -excess(t) * x->sum[1] : 0);
    vf dx = v_set(x->d);
    a = dot16(t, a, u, x->q); /* two sums: half as long a wait for the last */
    b = dot16(t, b, u + 4, x->q + 16);
    if (halves)
        return v_fma(vi_float(b), v_mul(s->d2, dx), v_fma(vi_float(a), v_mul(s->d, dx), acc));
    acc = v_fma(vi_float(vi_add(a, b)), v_mul(s->d, dx), acc);
    return slice_kind(t) == SLICE_MIN ? v_fma(s->m, v_set(x->s), acc) : acc;
}

struct place { /* of a tile: mt tokens from i by np W rows from j */
    int i, mt, j, np;
    bool fetch; /* the panel is not in a cache yet */
};

/* Adds slice `at`, which is slice k of the block at b. */
INLINE void block_slice(enum dtype t, vf *acc, struct lanes b, int k, const struct q8x *const *x,
                        int at, struct place o) {
    UNROLL for (int r = 0; r < o.np; r++) {
        struct lanes part = {b.p, b.at + r * W};
        vi u[8];
        if (slices(t) > 1)
            open_super(t, part, k, u);
        else
            open_small(t, part, u);
        struct scales s = open_scales(t, part, k);
        UNROLL for (int a = 0; a < o.mt; a++) acc[a * o.np + r] =
            slice_dot(t, acc[a * o.np + r], u, &s, x[a] + at);
    }
}

INLINE void block_tile(enum dtype t, const struct gemm *g, struct place o) {
    const struct q8x *x[SPAN];
    vf acc[SPAN > PARTS ? SPAN : PARTS];
    struct lanes b = {(const uint8_t *)g->w + (size_t)(o.j / PANEL * PANEL) * g->ldw, o.j % PANEL};
    UNROLL for (int a = 0; a < o.mt; a++) {
        x[a] = (const struct q8x *)(const void *)tile_token(g, o.i + a);
        tile_prepare(g->y + (size_t)(o.i + a) * g->ldy + o.j);
        UNROLL for (int r = 0; r < o.np; r++) acc[a * o.np + r] = v_set(0);
    }
    for (int at = 0; at < g->k / 32; b.p += (size_t)slices(t) * slice_bytes(t))
        for (int k = 0; k < slices(t); k++, at++) {
            if (o.fetch)
                tile_ahead(b.p, AHEAD + (size_t)k * slice_bytes(t), slice_bytes(t), o.mt == 1);
            block_slice(t, acc, b, k, x, at, o);
        }
    UNROLL for (int a = 0; a < o.mt; a++) UNROLL for (int r = 0; r < o.np; r++) {
        float *y = g->y + (size_t)(o.i + a) * g->ldy + o.j + r * W;
        int n = g->n - o.j - r * W;
        if (n >= W)
            v_store(y, acc[a * o.np + r]);
        else if (n > 0)
            v_store_part(y, acc[a * o.np + r], n);
    }
}

/* A tile of as many of `left` tokens as one takes; returns how many.  The number must be a constant
 * where the tile is made, and so must `fetch`: the loops take twice as long with a branch. */
INLINE int block_tokens(enum dtype t, const struct gemm *g, int left, int i, int j, bool fetch) {
    int n = left >= SPAN ? SPAN : left >= 8 ? 8 : left >= 6 ? 6 : left < 5 ? left : 4;
#ifdef NO_UNROLL
    block_tile(t, g, (struct place){i, n, j, 1, fetch});
#else
    if (n == SPAN)
        block_tile(t, g, (struct place){i, SPAN, j, 1, fetch});
    else if (SPAN > 8 && n == 8)
        block_tile(t, g, (struct place){i, 8, j, 1, fetch});
    else if (SPAN > 6 && n == 6)
        block_tile(t, g, (struct place){i, 6, j, 1, fetch});
    else if (SPAN > 4 && n == 4)
        block_tile(t, g, (struct place){i, 4, j, 1, fetch});
    else if (n == 3)
        block_tile(t, g, (struct place){i, 3, j, 1, fetch});
    else if (n == 2)
        block_tile(t, g, (struct place){i, 2, j, 1, fetch});
    else
        block_tile(t, g, (struct place){i, 1, j, 1, fetch});
#endif
    return n;
}

/* Blocks of tokens that stay in the second cache pass over the panels. */
INLINE void gemm_blocks(enum dtype t, const struct gemm *g) {
    if (many(t, g))
        return;
    int block = tile_fit(MIDDLE, g->ldx, SPAN);
    for (int j = 0; g->m == 1 && j < g->n; j += PANEL)
        block_tile(t, g, (struct place){0, 1, j, PARTS, true});
    for (int i0 = 0; g->m > 1 && i0 < g->m; i0 += block) {
        int i1 = tile_min(g->m, i0 + block);
        for (int j = 0; j < g->n; j += W) {
            int i = i0;
            if (j % PANEL == 0)
                i += block_tokens(t, g, i1 - i, i, j, true);
            while (i < i1)
                i += block_tokens(t, g, i1 - i, i, j, false);
        }
    }
}

static void gemm_q8_0(const struct gemm *g) {
    gemm_blocks(DT_Q8_0, g);
}

static void gemm_q4_0(const struct gemm *g) {
    gemm_blocks(DT_Q4_0, g);
}

static void gemm_q4_1(const struct gemm *g) {
    gemm_blocks(DT_Q4_1, g);
}

static void gemm_q5_0(const struct gemm *g) {
    gemm_blocks(DT_Q5_0, g);
}

static void gemm_q5_1(const struct gemm *g) {
    gemm_blocks(DT_Q5_1, g);
}

static void gemm_q4_k(const struct gemm *g) {
    gemm_blocks(DT_Q4_K, g);
}

static void gemm_q5_k(const struct gemm *g) {
    gemm_blocks(DT_Q5_K, g);
}

static void gemm_q6_k(const struct gemm *g) {
    gemm_blocks(DT_Q6_K, g);
}

static void blocks_fill(struct kern *k) {
    k->gemm_q8_0 = gemm_q8_0;
    k->gemm_q4_0 = gemm_q4_0;
    k->gemm_q4_1 = gemm_q4_1;
    k->gemm_q5_0 = gemm_q5_0;
    k->gemm_q5_1 = gemm_q5_1;
    k->gemm_q4_k = gemm_q4_k;
    k->gemm_q5_k = gemm_q5_k;
    k->gemm_q6_k = gemm_q6_k;
    k->gemm_int4 = gemm_q4_0; /* the same blocks, other values in them */
}

#endif
