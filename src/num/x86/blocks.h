/* blocks.h - products with weights in blocks (GGUF's types and INT4), in panels of 16 rows
 * (num/panel.h); the same for every vector width.  Included once by avx2.c and by vnni.c, after
 * ymm.h or zmm.h and what they define for it:
 *     SPAN                               tokens in a tile
 *     vi eight_bits(vi)                  bytes of Q8_0 as the factors that dot4 takes
 *     int excess(enum dtype)             by how much factors exceed the weights' integers
 *     vi dot4(enum dtype, vi sum, vi factors, const int8_t *q)
 *                                        sum plus the four products of each lane with q[0..3]
 * exception: compiles only there, and is a kernel file in all but name, hence its length.
 *
 * A lane is a row of weights from the first step to the last.  The words of a slice (32 columns)
 * are opened into eight vectors of four columns and stay in registers while the tokens of a tile
 * pass; a panel is read from front to back, whatever the number of tokens.  Integer sums are exact,
 * and the float operations of an element are those of ref.c, slice after slice: the same bits in
 * any tile. */
#ifndef NUM_X86_BLOCKS_H
#define NUM_X86_BLOCKS_H

#include <string.h>

#include "num/panel.h"
#include "num/x86/tiles.h"

#define PARTS (PANEL / W) /* vectors that a panel's rows fill                            */
#define AHEAD 8192        /* bytes between what is computed and what is fetched          */

enum slice_kind {
    SLICE_PLAIN,  /* one scale, an offset of the integers        */
    SLICE_MIN,    /* one scale and a minimum, no offset          */
    SLICE_HALVES, /* a scale for each 16 elements, and an offset */
};

INLINE enum slice_kind slice_kind(enum dtype t) {
    if (t == DT_Q6_K)
        return SLICE_HALVES;
    return t == DT_Q8_0 || t == DT_Q4_0 || t == DT_Q5_0 ? SLICE_PLAIN : SLICE_MIN;
}

/* Slices of a block. */
INLINE int slices(enum dtype t) {
    return t == DT_Q4_K || t == DT_Q5_K || t == DT_Q6_K ? 8 : 1;
}

/* Bytes of a panel for each slice: what a block has, divided evenly. */
INLINE size_t slice_bytes(enum dtype t) {
    switch (t) {
    case DT_Q8_0:
        return PANEL * 34;
    case DT_Q4_0:
        return PANEL * 18;
    case DT_Q4_1:
        return PANEL * 20;
    case DT_Q5_0:
        return PANEL * 22;
    case DT_Q5_1:
        return PANEL * 24;
    case DT_Q4_K:
        return PANEL * 144 / 8;
    case DT_Q5_K:
        return PANEL * 176 / 8;
    default:
        return PANEL * 210 / 8;
    }
}

/* -- opening a block --------------------------------------------------------------------------- */

struct lanes { /* W rows of a panel's block, from lane `at` on */
    const uint8_t *p;
    int at;
};

INLINE vf half(struct lanes b, int i) {
    return v_load_half(b.p + i * PANEL * 2 + b.at * 2);
}

/* Word i, behind n halves. */
INLINE vi word(struct lanes b, int n, int i) {
    return vi_load(b.p + n * PANEL * 2 + i * PANEL * 4 + b.at * 4);
}

INLINE vi bits(vi v, int from, int mask) {
    return vi_and(vi_down(v, from), vi_set(mask));
}

#define IN_EACH 0x01010101 /* times a byte: in each byte of a word */

/* The slice that is a block as eight vectors of factors. */
INLINE void open_small(enum dtype t, struct lanes b, vi u[8]) {
    if (t == DT_Q8_0) {
        UNROLL for (int i = 0; i < 8; i++) u[i] = eight_bits(word(b, 1, i));
        return;
    }
    int n = t == DT_Q4_1 || t == DT_Q5_1 ? 2 : 1, fifth = t == DT_Q5_0 || t == DT_Q5_1;
    UNROLL for (int i = 0; i < 4; i++) {
        vi v = word(b, n, i + fifth);
        u[i] = vi_and(v, vi_set(15 * IN_EACH));
        u[i + 4] = bits(v, 4, 15 * IN_EACH);
    }
    if (!fifth)
        return;
    vi top = word(b, n, 0); /* bit i of byte c belongs to column 4i + c */
    UNROLL for (int i = 0; i < 8; i++) {
        vi bit = i < 4 ? vi_up(top, 4 - i) : vi_down(top, i - 4);
        u[i] = vi_or(u[i], vi_and(bit, vi_set(16 * IN_EACH)));
    }
}

/* Slice j of a block of eight. */
INLINE void open_super(enum dtype t, struct lanes b, int j, vi u[8]) {
    if (t == DT_Q6_K) { /* 32 words of low bits, 16 of high ones, 4 of scales */
        int low = 16 * (j / 4) + 8 * (j % 2), high = 32 + 8 * (j / 4);
        UNROLL for (int i = 0; i < 8; i++) u[i] =
            vi_or(bits(word(b, 1, low + i), j / 2 % 2 * 4, 15 * IN_EACH),
                  vi_up(bits(word(b, 1, high + i), j % 4 * 2, 3 * IN_EACH), 4));
        return;
    }
    int low = (t == DT_Q5_K ? 11 : 3) + 8 * (j / 2); /* 3 words of scales, Q5_K: 8 of fifth bits */
    UNROLL for (int i = 0; i < 8; i++) {
        u[i] = bits(word(b, 2, low + i), j % 2 * 4, 15 * IN_EACH);
        if (t == DT_Q5_K)
            u[i] = vi_or(u[i], vi_up(bits(word(b, 2, 3 + i), j, IN_EACH), 4));
    }
}

struct scales {
    vf d, d2, m; /* d2: of a second half; m: a minimum */
};

/* Of slice j of a block. */
INLINE struct scales open_scales(enum dtype t, struct lanes b, int j) {
    struct scales s = {.d = half(b, 0)};
    if (t == DT_Q6_K) { /* signed bytes 2j and 2j + 1 */
        vi v = word(b, 1, 48 + j / 2);
        int from = j % 2 * 16;
        s.d2 = v_mul(s.d, vi_float(vi_down_signed(vi_up(v, 16 - from), 24)));
        s.d = v_mul(s.d, vi_float(vi_down_signed(vi_up(v, 24 - from), 24)));
    } else if (slices(t) > 1) { /* words of scales, of minima, and of what j >= 4 has below 16 */
        int at = j % 4 * 8;
        vi d = word(b, 2, 0), m = word(b, 2, 1), low = word(b, 2, 2);
        vi d6 = j < 4 ? bits(d, at, 63) : vi_or(bits(low, at, 15), bits(d, at + 2, 48));
        vi m6 = j < 4 ? bits(m, at, 63) : vi_or(bits(low, at + 4, 15), bits(m, at + 2, 48));
        s.d = v_mul(s.d, vi_float(d6));
        s.m = v_mul(v_sub(v_set(0), half(b, 1)), vi_float(m6));
    } else if (slice_kind(t) == SLICE_MIN) {
        s.m = half(b, 1);
    }
    return s;
}

/* -- products ---------------------------------------------------------------------------------- */

/* acc plus a slice of W rows times one token's block. */
INLINE vf slice_dot(enum dtype t, vf acc, const vi u[8], const struct scales *s,
                    const struct q8x *x) {
    bool halves = slice_kind(t) == SLICE_HALVES;
    vi a = vi_set(-excess(t) * (halves ? x->sum[0] : x->sum[0] + x->sum[1]));
    vi b = vi_set(halves ? -excess(t) * x->sum[1] : 0);
    vf dx = v_set(x->d);
    UNROLL for (int i = 0; i < 4; i++) { /* two sums: half as long a wait for the last */
        a = dot4(t, a, u[i], x->q + 4 * i);
        b = dot4(t, b, u[i + 4], x->q + 4 * i + 16);
    }
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
                tile_prefetch((const char *)b.p, 0, 0, AHEAD + (size_t)k * slice_bytes(t),
                              slice_bytes(t));
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
    return n;
}

/* Blocks of tokens that stay in the second cache pass over the panels. */
INLINE void gemm_blocks(enum dtype t, const struct gemm *g) {
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
