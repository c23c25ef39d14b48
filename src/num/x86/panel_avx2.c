/* panel_avx2.c - level AVX2: INT8 weights in panels of 16 rows (int8.h), and their activations. */
#include "num/panel.h"

#include <math.h>

#include "num/x86/panel.h"
#include "num/x86/tiles.h"
#include "num/x86/ymm.h"

/* -- activations ------------------------------------------------------------------------------- */

/* Largest of 8 magnitudes as bits, where NaN > infinity > any number. */
INLINE __m256i magnitude(const float *x, __m256i max) {
    __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)x);
    return _mm256_max_epi32(max, _mm256_and_si256(v, _mm256_set1_epi32(0x7fffffff)));
}

INLINE __m256i to_int(const float *x, vf scale) {
    return _mm256_cvtps_epi32(v_mul(v_load(x), scale));
}

/* 32 floats to bytes at q; returns the sums of some of them, four to a lane. */
INLINE __m256i pack_32(const float *x, vf id, __m256i *q) {
    __m256i a = _mm256_packs_epi32(to_int(x, id), to_int(x + 8, id));
    __m256i c = _mm256_packs_epi32(to_int(x + 16, id), to_int(x + 24, id));
    /* the packs interleave halves; the permutation undoes both */
    *q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, c),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), *q), _mm256_set1_epi16(1));
}

INLINE int sum_lanes(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* A group of n <= 128 inputs, a multiple of 4. */
INLINE void pack_group(struct i8x *x, const float *src, int n) {
    int whole = n / 32 * 32, rest = n - whole;
    float tail[32] = {0}, max;
    uint32_t lane[8], bits = 0;
    __m256i m = _mm256_setzero_si256(), sum = m, q;
    memcpy(tail, src + whole, (size_t)rest * sizeof *tail);
    for (int i = 0; i < whole; i += 8)
        m = magnitude(src + i, m);
    for (int i = 0; i < rest; i += 8)
        m = magnitude(tail + i, m);
    _mm256_storeu_si256((__m256i *)(void *)lane, m);
    for (int i = 0; i < 8; i++)
        bits = lane[i] > bits ? lane[i] : bits;
    memcpy(&max, &bits, 4);
    if (bits >= 0x7f800000 || max < 1e-30f) {
        memset(x, 0, sizeof *x + (size_t)n);
        x->d = bits >= 0x7f800000 ? NAN : 0;
        return;
    }
    vf id = v_set(127 / max);
    for (int i = 0; i < whole; i += 32) {
        sum = _mm256_add_epi32(sum, pack_32(src + i, id, &q));
        _mm256_storeu_si256((__m256i *)(void *)(x->q + i), q);
    }
    if (rest) {
        int8_t last[32];
        sum = _mm256_add_epi32(sum, pack_32(tail, id, &q));
        _mm256_storeu_si256((__m256i *)(void *)last, q);
        memcpy(x->q + whole, last, (size_t)rest);
    }
    x->d = max / 127;
    x->sum = sum_lanes(sum);
}

static void i8x_pack(void *dst, const float *src, int n) {
    char *to = dst;
    int group = int8_group(n);
    for (int i = 0; i < n; i += group, to += sizeof(struct i8x) + (size_t)group)
        pack_group((struct i8x *)(void *)to, src + i, tile_min(group, n - i));
}

/* -- products ---------------------------------------------------------------------------------- */

#define TOKENS 4

INLINE int begin(const struct i8x *x) {
    (void)x;
    return 0;
}

INLINE vi factors_of(vi w) {
    return _mm256_abs_epi8(w);
}

/* The 16-bit sums of two products cannot saturate: magnitudes of at most 128 and 127. */
INLINE vi add4(vi sum, vi w, vi factors, vi x) {
    vi two = _mm256_maddubs_epi16(factors, _mm256_sign_epi8(x, w));
    return vi_add(sum, _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
}

#include "num/x86/int8.h"

void panel_avx2(struct kern *k) {
    k->i8x_pack = i8x_pack;
    k->gemm_int8 = gemm_int8;
}
