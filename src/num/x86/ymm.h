/* ymm.h - a vector of 8 floats, by the names that lanes.h uses.  `_part` reads or writes the
 * first n < W elements; what is not read is 0. */
#ifndef NUM_X86_YMM_H
#define NUM_X86_YMM_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "num/x86/inline.h"

#define W 8
#define vf __m256

/* All bits set in the first n of 8 elements. */
INLINE __m256i mask_of(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE vf v_set(float f) {
    return _mm256_set1_ps(f);
}
INLINE vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
INLINE vf v_load_part(const float *p, int n) {
    return _mm256_maskload_ps(p, mask_of(n));
}
INLINE void v_store(float *p, vf a) {
    _mm256_storeu_ps(p, a);
}
INLINE void v_store_part(float *p, vf a, int n) {
    _mm256_maskstore_ps(p, mask_of(n), a);
}

INLINE vf v_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
INLINE vf v_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
INLINE vf v_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
INLINE vf v_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
/* a b + c */
INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
/* c - a b */
INLINE vf v_fnma(vf a, vf b, vf c) {
    return _mm256_fnmadd_ps(a, b, c);
}
/* Both return b where either is NaN. */
INLINE vf v_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
INLINE vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
INLINE vf v_sqrt(vf a) {
    return _mm256_sqrt_ps(a);
}
INLINE vf v_abs(vf a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
/* yes where the sign bit of a is set, else no */
INLINE vf v_if_negative(vf a, vf yes, vf no) {
    return _mm256_blendv_ps(no, yes, a);
}
/* a in the first n lanes, 0 in the others */
INLINE vf v_first(vf a, int n) {
    return _mm256_and_ps(a, _mm256_castsi256_ps(mask_of(n)));
}
INLINE vf v_round(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf v_pow2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
/* a 2^n for integral n, |n| <= 250: in two steps, since 2^n itself may not be a float */
INLINE vf v_scale(vf a, vf n) {
    __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, v_pow2(half)), v_pow2(_mm256_sub_epi32(i, half)));
}
INLINE float v_hmax(vf a) {
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}

INLINE bool v_has_nan(vf a) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0;
}

/* The four sums of four vectors: always (0+2)+(1+3) of each half, then half 0 + half 1,
 * whichever of a, b, c, d a vector is. */
INLINE __m128 v_sum4(vf a, vf b, vf c, vf d) {
    vf ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    vf cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    vf s = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

/* IEEE half precision */
INLINE vf v_load_half(const void *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}
INLINE vf v_load_half_part(const void *p, int n) {
    __m128i h = _mm_setzero_si128();
    memcpy(&h, p, (size_t)n * 2);
    return _mm256_cvtph_ps(h);
}
INLINE void v_store_half(void *p, vf a) {
    _mm_storeu_si128(p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void v_store_half_part(void *p, vf a, int n) {
    __m128i h = _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
    memcpy(p, &h, (size_t)n * 2);
}

/* W signed bytes */
INLINE vf v_load_bytes(const void *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}

/* 2 W numbers in bfloat16, as their even and odd ones */
INLINE __m256i v_load_pairs(const void *p) {
    return _mm256_loadu_si256(p);
}
INLINE vf v_even(__m256i a) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
}
INLINE vf v_odd(__m256i a) {
    return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32((int)0xffff0000)));
}
INLINE vf v_load_bf16(const void *p) {
    return v_even(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)));
}
/* bfloat16, nearest even, NaN stays (and becomes quiet) */
INLINE __m128i v_bf16(vf a) {
    __m256i u = _mm256_castps_si256(a), one = _mm256_set1_epi32(1);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), one);
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    r = _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
INLINE void v_store_bf16(void *p, vf a) {
    _mm_storeu_si128(p, v_bf16(a));
}
INLINE void v_store_bf16_part(void *p, vf a, int n) {
    __m128i h = v_bf16(a);
    memcpy(p, &h, (size_t)n * 2);
}

/* 8 words of 32 bits, or 32 bytes */
#define vi __m256i
INLINE vi vi_set(int n) {
    return _mm256_set1_epi32(n);
}
/* the four bytes at p in each word */
INLINE vi vi_words(const void *p) {
    float f;
    memcpy(&f, p, 4);
    return _mm256_castps_si256(v_set(f));
}
INLINE vi vi_load(const void *p) {
    return _mm256_loadu_si256(p);
}
INLINE vi vi_and(vi a, vi b) {
    return _mm256_and_si256(a, b);
}
INLINE vi vi_or(vi a, vi b) {
    return _mm256_or_si256(a, b);
}
INLINE vi vi_xor(vi a, vi b) {
    return _mm256_xor_si256(a, b);
}
INLINE vi vi_add(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}
/* words moved by n bits: up, down, and down with copies of the sign */
INLINE vi vi_up(vi a, int n) {
    return _mm256_sll_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vi vi_down(vi a, int n) {
    return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vi vi_down_signed(vi a, int n) {
    return _mm256_sra_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vf vi_float(vi a) {
    return _mm256_cvtepi32_ps(a);
}

#endif
