/* slices.h - slice_read of block.h for vectors: the same 32 excess integers and the same scales.
 *
 * `t` is a constant at every call, so that only one case is left of each function. */
#ifndef NUM_X86_SLICES_H
#define NUM_X86_SLICES_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "num/mat.h"
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

/* What the integers exceed their value by.  Q8_0 is two's complement here: a level that needs unsigned
 * factors flips the top bit and adds 128. */
INLINE int slice_offset(enum dtype t) {
    return t == DT_Q4_0 ? 8 : t == DT_Q5_0 ? 16 : t == DT_Q6_K ? 32 : 0;
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
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(16));
}

/* Bits `from`.. of each byte at p, where `mask` picks them after the shift */
INLINE __m256i slice_bits(const uint8_t *p, int from, int mask) {
    __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm256_and_si256(_mm256_srl_epi16(v, _mm_cvtsi32_si128(from)), _mm256_set1_epi8((char)mask));
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

INLINE float slice_half(const uint8_t *p) {
    unsigned short h;
    memcpy(&h, p, 2);
    return _cvtsh_ss(h);
}

/* The eight 6-bit scales and minima of a Q4_K or Q5_K block as bytes: in 4-byte words, scales 0-3 and 4-7,
 * minima 0-3 and 4-7. */
INLINE void slice_k_scales(const uint8_t *p, uint32_t out[4]) {
    uint32_t q[3];
    memcpy(q, p, 12);
    out[0] = q[0] & 0x3f3f3f3f;
    out[1] = (q[2] & 0x0f0f0f0f) | (q[0] >> 6 & 0x03030303) << 4;
    out[2] = q[1] & 0x3f3f3f3f;
    out[3] = (q[2] >> 4 & 0x0f0f0f0f) | (q[1] >> 6 & 0x03030303) << 4;
}

/* One row of a super block type: scale of slice b at d[b * step] and, of its second half, d[b * step + half];
 * minimum at m[b * step]. */
INLINE void slice_super_scales(enum dtype t, const uint8_t *p, float *d, float *m, int step, int half) {
    if (t == DT_Q6_K) {
        float scale = slice_half(p + 208);
        for (int j = 0; j < 8; j++) {
            d[j * step] = scale * (float)(int8_t)p[192 + 2 * j];
            d[j * step + half] = scale * (float)(int8_t)p[192 + 2 * j + 1];
        }
        return;
    }
    uint32_t k[4];
    float scale[8], min[8];
    slice_k_scales(p + 4, k);
    __m128i u = _mm_loadu_si128((const __m128i *)(const void *)k);
    __m256 us = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(u));
    __m256 um = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(u, u)));
    _mm256_storeu_ps(scale, _mm256_mul_ps(us, _mm256_set1_ps(slice_half(p))));
    _mm256_storeu_ps(min, _mm256_mul_ps(um, _mm256_set1_ps(-slice_half(p + 2))));
    for (int j = 0; j < 8; j++) {
        d[j * step] = scale[j];
        m[j * step] = min[j];
    }
}

#define CHUNK 16 /* slices that are unpacked together; a multiple of those in a block */

/* Scales of slices b0 .. b0 + nb - 1 (nb <= CHUNK) of n_row (8 or 16) rows: d[(b - b0) * n_row + row], twice
 * as many (first halves, second halves) in a type of halves; minima likewise at m. */
INLINE void slice_scales(enum dtype t, const uint8_t *const *row, int n_row, int b0, int nb, float *d,
                         float *m) {
    if (slice_is_super(t)) {
        int step = slice_kind(t) == SLICE_HALVES ? 2 * n_row : n_row;
        for (int b = 0; b < nb; b += 8)
            for (int r = 0; r < n_row; r++)
                slice_super_scales(t, slice_block(t, row[r], b0 + b), d + b * step + r, m + b * n_row + r,
                                   step, n_row);
        return;
    }
    unsigned short h[CHUNK * 16], hm[CHUNK * 16]; /* gathered first, then converted eight at a time */
    for (int r = 0; r < n_row; r++) {
        const uint8_t *p = slice_block(t, row[r], b0);
        for (int b = 0; b < nb; b++, p += slice_block_bytes(t)) {
            memcpy(&h[b * n_row + r], p, 2);
            if (slice_kind(t) == SLICE_MIN)
                memcpy(&hm[b * n_row + r], p + 2, 2);
        }
    }
    for (int i = 0; i < nb * n_row; i += 8) {
        _mm256_storeu_ps(d + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(h + i))));
        if (slice_kind(t) == SLICE_MIN)
            _mm256_storeu_ps(m + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(hm + i))));
    }
}

#endif
