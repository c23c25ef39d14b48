/* slices.h - slice_read of block.h for vectors: the same 32 excess integers and the same scales.
 *
 * `t` is a constant at every call, so that only one case is left of each function.
 * exception: a kernel file in all but name: always inlined, hence its length. */
#ifndef NUM_X86_SLICES_H
#define NUM_X86_SLICES_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "num/kern.h"
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

/* What the integers exceed their value by.  Q8_0 is two's complement here: a level that needs
 * unsigned factors flips the top bit and adds 128. */
INLINE int slice_offset(enum dtype t) {
    return t == DT_Q4_0 ? 8 : t == DT_Q5_0 ? 16 : t == DT_Q6_K ? 32 : 0;
}

/* Rows of weights that are computed together, a lane each. */
struct rows {
    const uint8_t *p; /* row r is at p + r * ld; ld = 0: all lanes hold one row */
    size_t ld;
    int j, n; /* n results, which belong at y[j]                        */
};

/* `lanes` rows from the j-th.  The last ones overlap those before, whose results are then
 * written twice; of a product with fewer rows than lanes only one is computed at a time. */
INLINE struct rows rows_at(const struct gemm *g, int j, int lanes) {
    bool few = g->n < lanes;
    int last = few ? g->n - 1 : g->n - lanes;
    j = j < last ? j : last;
    return (struct rows){(const uint8_t *)g->w + (size_t)j * g->ldw, few ? 0 : g->ldw, j,
                         few ? 1 : lanes};
}

INLINE int rows_step(const struct gemm *g, int lanes) {
    return g->n < lanes ? 1 : lanes;
}

INLINE const uint8_t *rows_row(const struct rows *rows, int r) {
    return rows->p + (size_t)r * rows->ld;
}

/* Bytes per block and slices per block of t. */
INLINE size_t slice_block_bytes(enum dtype t) {
    switch (t) {
    case DT_Q8_0:
        return 34;
    case DT_Q4_0:
        return 18;
    case DT_Q4_1:
        return 20;
    case DT_Q5_0:
        return 22;
    case DT_Q5_1:
        return 24;
    case DT_Q4_K:
        return 144;
    case DT_Q5_K:
        return 176;
    default:
        return 210;
    }
}

INLINE bool slice_is_super(enum dtype t) {
    return t == DT_Q4_K || t == DT_Q5_K || t == DT_Q6_K;
}

INLINE const uint8_t *slice_block(enum dtype t, const uint8_t *row, int b) {
    return row + (size_t)(slice_is_super(t) ? b / 8 : b) * slice_block_bytes(t);
}

INLINE __m256i slice_nibbles(const uint8_t *p) {
    __m128i q = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(q), _mm_srli_epi16(q, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* 16 in each byte whose bit of the 32-bit word at p is set */
INLINE __m256i slice_fifth(const uint8_t *p) {
    int bits;
    memcpy(&bits, p, 4);
    const __m256i spread =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(16));
}

/* Bits `from`.. of each byte at p, where `mask` picks them after the shift */
INLINE __m256i slice_bits(const uint8_t *p, int from, int mask) {
    __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm256_and_si256(_mm256_srl_epi16(v, _mm_cvtsi32_si128(from)),
                            _mm256_set1_epi8((char)mask));
}

/* The 32 integers of slice b. */
INLINE __m256i slice_ints(enum dtype t, const uint8_t *row, int b) {
    const uint8_t *p = slice_block(t, row, b);
    int j = b % 8;
    switch (t) {
    case DT_Q8_0:
        return _mm256_loadu_si256((const __m256i *)(const void *)(p + 2));
    case DT_Q4_0:
        return slice_nibbles(p + 2);
    case DT_Q4_1:
        return slice_nibbles(p + 4);
    case DT_Q5_0:
        return _mm256_or_si256(slice_nibbles(p + 6), slice_fifth(p + 2));
    case DT_Q5_1:
        return _mm256_or_si256(slice_nibbles(p + 8), slice_fifth(p + 4));
    case DT_Q4_K:
        return slice_bits(p + 16 + 32 * (j / 2), j % 2 * 4, 15);
    case DT_Q5_K:
        return _mm256_or_si256(slice_bits(p + 48 + 32 * (j / 2), j % 2 * 4, 15),
                               _mm256_slli_epi16(slice_bits(p + 16, j, 1), 4));
    default:
        return _mm256_or_si256(
            slice_bits(p + 64 * (j / 4) + 32 * (j % 2), j / 2 % 2 * 4, 15),
            _mm256_slli_epi16(slice_bits(p + 128 + 32 * (j / 4), j % 4 * 2, 3), 4));
    }
}

#define CHUNK 16 /* slices that are unpacked together; a multiple of those in a block */

/* Byte i of vector j becomes byte j of vector i: four rounds of a perfect shuffle. */
INLINE void transpose_bytes(__m128i v[16]) {
    UNROLL for (int round = 0; round < 4; round++) {
        __m128i to[16];
        UNROLL for (int i = 0; i < 8; i++) {
            to[2 * i] = _mm_unpacklo_epi8(v[i], v[i + 8]);
            to[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + 8]);
        }
        UNROLL for (int i = 0; i < 16; i++) v[i] = to[i];
    }
}

/* n_row (8 or 16) halves in 16 lanes, as float */
INLINE void put_halves(float *d, __m128i lo, __m128i hi, int n_row) {
    _mm256_storeu_ps(d, _mm256_cvtph_ps(lo));
    if (n_row == 16)
        _mm256_storeu_ps(d + 8, _mm256_cvtph_ps(hi));
}

/* d = scale * n_row bytes, signed or not */
INLINE void put_scaled(float *d, __m128i u, const float *scale, int n_row, bool is_signed) {
    UNROLL for (int i = 0; i < n_row; i += 8) {
        __m256i w = is_signed ? _mm256_cvtepi8_epi32(u) : _mm256_cvtepu8_epi32(u);
        _mm256_storeu_ps(d + i, _mm256_mul_ps(_mm256_loadu_ps(scale + i), _mm256_cvtepi32_ps(w)));
        u = _mm_unpackhi_epi64(u, u);
    }
}

/* One block of 8 slices of Q4_K or Q5_K: its first 16 bytes are d, dmin and 12 bytes of 6-bit
 * scales and minima (slice_read has their places).  Transposed, the rows are lanes. */
INLINE void slice_scales_k45(const uint8_t *p, size_t ld, int n_row, float *d, float *m) {
    const __m128i low6 = _mm_set1_epi8(63), low4 = _mm_set1_epi8(15), low2 = _mm_set1_epi8(3);
    __m128i v[16];
    float scale[16], min[16];
    UNROLL for (int r = 0; r < 16; r++) v[r] =
        _mm_loadu_si128((const __m128i *)(const void *)(p + (size_t)(r % n_row) * ld));
    transpose_bytes(v);
    put_halves(scale, _mm_unpacklo_epi8(v[0], v[1]), _mm_unpackhi_epi8(v[0], v[1]), n_row);
    put_halves(min, _mm_unpacklo_epi8(v[2], v[3]), _mm_unpackhi_epi8(v[2], v[3]), n_row);
    UNROLL for (int r = 0; r < n_row; r++) min[r] = -min[r];
    const __m128i *q = v + 4;
    UNROLL for (int j = 0; j < 4; j++) {
        __m128i top = _mm_slli_epi16(_mm_and_si128(_mm_srli_epi16(q[j], 6), low2), 4);
        __m128i top_m = _mm_slli_epi16(_mm_and_si128(_mm_srli_epi16(q[j + 4], 6), low2), 4);
        __m128i rest = _mm_and_si128(q[j + 8], low4),
                rest_m = _mm_and_si128(_mm_srli_epi16(q[j + 8], 4), low4);
        put_scaled(d + j * n_row, _mm_and_si128(q[j], low6), scale, n_row, false);
        put_scaled(m + j * n_row, _mm_and_si128(q[j + 4], low6), min, n_row, false);
        put_scaled(d + (j + 4) * n_row, _mm_or_si128(rest, top), scale, n_row, false);
        put_scaled(m + (j + 4) * n_row, _mm_or_si128(rest_m, top_m), min, n_row, false);
    }
}

/* One block of Q6_K: 16 signed bytes at 192, d at 208. */
INLINE void slice_scales_k6(const uint8_t *p, size_t ld, int n_row, float *d) {
    __m128i v[16];
    unsigned short h[16];
    float scale[16];
    UNROLL for (int r = 0; r < 16; r++) {
        const uint8_t *row = p + (size_t)(r % n_row) * ld;
        v[r] = _mm_loadu_si128((const __m128i *)(const void *)(row + 192));
        memcpy(h + r, row + 208, 2);
    }
    transpose_bytes(v);
    put_halves(scale, _mm_loadu_si128((const __m128i *)(const void *)h),
               _mm_loadu_si128((const __m128i *)(const void *)(h + 8)), n_row);
    UNROLL for (int j = 0; j < 16; j++) put_scaled(d + j * n_row, v[j], scale, n_row, true);
}

/* The same for eight or sixteen rows of the small blocks, each with a half, or two, in front of
 * its slice. */
INLINE void slice_scales_32(enum dtype t, const struct rows *rows, int n_row, int b0, int nb,
                            float *d, float *m) {
    unsigned short h[CHUNK * 16],
        hm[CHUNK * 16]; /* gathered first, then converted eight at a time */
    for (int b = 0; b < nb; b++) {
        const uint8_t *p = slice_block(t, rows->p, b0 + b);
        UNROLL for (int r = 0; r < n_row; r++) {
            memcpy(&h[b * n_row + r], p + (size_t)r * rows->ld, 2);
            if (slice_kind(t) == SLICE_MIN)
                memcpy(&hm[b * n_row + r], p + (size_t)r * rows->ld + 2, 2);
        }
    }
    for (int i = 0; i < nb * n_row; i += 8) {
        _mm256_storeu_ps(d + i,
                         _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(h + i))));
        if (slice_kind(t) == SLICE_MIN)
            _mm256_storeu_ps(
                m + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(hm + i))));
    }
}

/* Scales of slices b0 .. b0 + nb - 1 (nb <= CHUNK) of n_row (8 or 16) rows: d[(b - b0) * n_row +
 * row], twice as many (first halves, second halves) in a type of halves; minima likewise at m. */
INLINE void slice_scales(enum dtype t, const struct rows *rows, int n_row, int b0, int nb, float *d,
                         float *m) {
    if (!slice_is_super(t)) {
        slice_scales_32(t, rows, n_row, b0, nb, d, m);
        return;
    }
    for (int b = 0; b < nb; b += 8) {
        const uint8_t *p = slice_block(t, rows->p, b0 + b);
        if (t == DT_Q6_K)
            slice_scales_k6(p, rows->ld, n_row, d + 2 * b * n_row);
        else
            slice_scales_k45(p, rows->ld, n_row, d + b * n_row, m + b * n_row);
    }
}

#endif
