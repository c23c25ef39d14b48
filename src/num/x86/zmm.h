/* zmm.h - a vector of 16 floats, by the names that lanes.h uses.  `_part` reads or writes the
 * first n < W elements; what is not read is 0. */
#ifndef NUM_X86_ZMM_H
#define NUM_X86_ZMM_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "num/x86/inline.h"

#define W 16
#define vf __m512

INLINE __mmask16 mask_of(int n) {
    return (__mmask16)((1u << n) - 1);
}

INLINE vf v_set(float f) {
    return _mm512_set1_ps(f);
}
INLINE vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
INLINE vf v_load_part(const float *p, int n) {
    return _mm512_maskz_loadu_ps(mask_of(n), p);
}
INLINE void v_store(float *p, vf a) {
    _mm512_storeu_ps(p, a);
}
INLINE void v_store_part(float *p, vf a, int n) {
    _mm512_mask_storeu_ps(p, mask_of(n), a);
}

INLINE vf v_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
INLINE vf v_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
INLINE vf v_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
INLINE vf v_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
/* a b + c */
INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
/* c - a b */
INLINE vf v_fnma(vf a, vf b, vf c) {
    return _mm512_fnmadd_ps(a, b, c);
}
/* Both return b where either is NaN. */
INLINE vf v_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
INLINE vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
INLINE vf v_sqrt(vf a) {
    return _mm512_sqrt_ps(a);
}
INLINE vf v_abs(vf a) {
    return _mm512_abs_ps(a);
}
/* yes where the sign bit of a is set, else no */
INLINE vf v_if_negative(vf a, vf yes, vf no) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(a)), no, yes);
}
/* a in the first n lanes, 0 in the others */
INLINE vf v_first(vf a, int n) {
    return _mm512_maskz_mov_ps(mask_of(n), a);
}
INLINE vf v_round(vf a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a 2^n for integral n */
INLINE vf v_scale(vf a, vf n) {
    return _mm512_scalef_ps(a, n);
}
INLINE float v_hmax(vf a) {
    return _mm512_reduce_max_ps(a);
}
INLINE bool v_has_nan(vf a) {
    return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0;
}

/* The four sums of four vectors: always ((0+2)+(1+3)) of each 128-bit quarter, then quarters
 * (0+2)+(1+3), whichever of a, b, c, d a vector is. */
INLINE __m128 v_sum4(vf a, vf b, vf c, vf d) {
    vf ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vf cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    vf s = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

/* IEEE half precision */
INLINE vf v_load_half(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
INLINE vf v_load_half_part(const void *p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask_of(n), p));
}
INLINE void v_store_half(void *p, vf a) {
    _mm256_storeu_si256(p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void v_store_half_part(void *p, vf a, int n) {
    _mm256_mask_storeu_epi16(p, mask_of(n), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

/* W signed bytes */
INLINE vf v_load_bytes(const void *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}

/* 2 W numbers in bfloat16, as their even and odd ones */
INLINE __m512i v_load_pairs(const void *p) {
    return _mm512_loadu_si512(p);
}
INLINE vf v_even(__m512i a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
}
INLINE vf v_odd(__m512i a) {
    return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32((int)0xffff0000)));
}
INLINE vf v_load_bf16(const void *p) {
    return v_even(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)));
}
/* bfloat16, nearest even, NaN stays (and becomes quiet) */
INLINE __m256i v_bf16(vf a) {
    __m512i u = _mm512_castps_si512(a), one = _mm512_set1_epi32(1);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), one);
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
INLINE void v_store_bf16(void *p, vf a) {
    _mm256_storeu_si256(p, v_bf16(a));
}
INLINE void v_store_bf16_part(void *p, vf a, int n) {
    _mm256_mask_storeu_epi16(p, mask_of(n), v_bf16(a));
}

/* 16 words of 32 bits, or 64 bytes */
#define vi __m512i
INLINE vi vi_set(int n) {
    return _mm512_set1_epi32(n);
}
/* the four bytes at p in each word; an int would go through a general register: half as fast */
INLINE vi vi_words(const void *p) {
    float f;
    memcpy(&f, p, 4);
    return _mm512_castps_si512(v_set(f));
}
INLINE vi vi_load(const void *p) {
    return _mm512_loadu_si512(p);
}
INLINE vi vi_and(vi a, vi b) {
    return _mm512_and_si512(a, b);
}
INLINE vi vi_or(vi a, vi b) {
    return _mm512_or_si512(a, b);
}
INLINE vi vi_xor(vi a, vi b) {
    return _mm512_xor_si512(a, b);
}
INLINE vi vi_add(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}
/* words moved by n bits: up, down, and down with copies of the sign */
INLINE vi vi_up(vi a, int n) {
    return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vi vi_down(vi a, int n) {
    return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vi vi_down_signed(vi a, int n) {
    return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n));
}
INLINE vf vi_float(vi a) {
    return _mm512_cvtepi32_ps(a);
}

#endif
