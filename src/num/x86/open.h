/* open.h - blocks of GGUF's types and INT4 in panels of 16 rows (num/panel.h), opened to factors
 * and scales; the same for every vector width.  Included by blocks.h and by many_vnni.c, after
 * ymm.h or zmm.h and what they define for it:
 *     vi eight_bits(vi)                  bytes of Q8_0 as factors
 *     int excess(enum dtype)             by how much factors exceed the weights' integers
 * exception: compiles only there.
 *
 * A lane is a row of weights; the words of a slice (32 columns) become eight vectors of four
 * columns. */
#ifndef NUM_X86_OPEN_H
#define NUM_X86_OPEN_H

#include "num/panel.h"
#include "num/x86/inline.h"

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

#endif
