/* avx2.c - level AVX2, FMA, F16C: floats in vectors of 8 (lanes.h), quantised products of 8 rows at
 * a time (blocks.h). */
#include "num/x86/ymm.h"

#include "num/x86/attend.h"
#include "num/x86/grad.h"
#include "num/x86/panel.h"

/* -- activations ------------------------------------------------------------------------------- */

/* Eight floats times `scale`, as integers. */
INLINE __m256i to_int(const float *x, vf scale) {
    return _mm256_cvtps_epi32(v_mul(v_load(x), scale));
}

/* Largest magnitude of 32 floats as bits, where NaN > infinity > any number. */
INLINE uint32_t max_bits(const float *x) {
    const __m256i *p = (const __m256i *)(const void *)x, mag = _mm256_set1_epi32(0x7fffffff);
    __m256i m = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < 4; i++) m =
        _mm256_max_epi32(m, _mm256_and_si256(_mm256_loadu_si256(p + i), mag));
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(h);
}

static void q8x_pack(struct q8x *dst, const float *src, int n) {
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    for (int b = 0; b < n / 32; b++, dst++, src += 32) {
        uint32_t bits = max_bits(src);
        float max;
        memcpy(&max, &bits, 4);
        if (bits >= 0x7f800000 || max < 1e-30f) {
            *dst = (struct q8x){.d = bits >= 0x7f800000 ? NAN : 0};
            dst->s = dst->d * 0;
            continue;
        }
        vf id = v_set(127 / max);
        __m256i a = _mm256_packs_epi32(to_int(src, id), to_int(src + 8, id));
        __m256i c = _mm256_packs_epi32(to_int(src + 16, id), to_int(src + 24, id));
        /* the packs interleave halves; the permutation undoes both */
        __m256i q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, c),
                                                _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)dst->q, q);
        __m256i s = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, q), ones16);
        s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
        s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
        dst->sum[0] = _mm256_cvtsi256_si32(s);
        dst->sum[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(s, 1));
        dst->d = max / 127;
        dst->s = dst->d * (float)(dst->sum[0] + dst->sum[1]);
    }
}

/* -- quantised matrices ------------------------------------------------------------------------ */

#define SPAN 8 /* more than fit: sums wait in the first cache while weights are opened once */

INLINE vi eight_bits(vi v) {
    return v;
}

INLINE int excess(enum dtype t) {
    return t == DT_Q4_0 ? 8 : t == DT_Q5_0 ? 16 : t == DT_Q6_K ? 32 : 0;
}

/* Pairs of products in 16 bits.  They cannot saturate: unsigned factors are below 64, and Q8_0's
 * magnitudes of at most 128 meet activations of at most 127. */
INLINE vi pairs(enum dtype t, vi factors, const int8_t *q) {
    int four;
    memcpy(&four, q, 4);
    vi x = vi_set(four);
    if (t == DT_Q8_0) {
        x = _mm256_sign_epi8(x, factors);
        factors = _mm256_abs_epi8(factors);
    }
    return _mm256_maddubs_epi16(factors, x);
}

/* How many pairs can be added in 16 bits: factors are at most 128, 63, 31 or 15. */
INLINE int together(enum dtype t) {
    return t == DT_Q8_0 ? 1 : t == DT_Q6_K ? 2 : 4;
}

INLINE vi dot16(enum dtype t, vi sum, const vi *factors, const int8_t *q) {
    UNROLL for (int i = 0; i < 4; i += together(t)) {
        vi two = pairs(t, factors[i], q + 4 * i);
        UNROLL for (int k = i + 1; k < i + together(t); k++) two =
            _mm256_add_epi16(two, pairs(t, factors[k], q + 4 * k));
        sum = vi_add(sum, _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
    }
    return sum;
}

INLINE bool many(enum dtype t, const struct gemm *g) {
    (void)t;
    (void)g;
    return false;
}

#include "num/x86/blocks.h"

/* -- probes ------------------------------------------------------------------------------------ */

static double probe_f32(long iters) {
    vf acc[12], a = v_set(0.5f), b = v_set(1);
    UNROLL for (int j = 0; j < 12; j++) acc[j] = b;
    for (long i = 0; i < iters; i++)
        UNROLL for (int j = 0; j < 12; j++) {
            acc[j] = v_fma(acc[j], a, b);
            __asm__ volatile("" : "+x"(acc[j])); /* keeps the work, in a register */
        }
    return 12.0 * 2 * W * (double)iters;
}

/* With sums of four in 16 bits, as small factors allow: the most that there is at this level. */
static double probe_i8(long iters) {
    __m256i acc[4], a = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    UNROLL for (int j = 0; j < 4; j++) acc[j] = a;
    for (long i = 0; i < iters; i++)
        UNROLL for (int j = 0; j < 4; j++) {
            __m256i two = _mm256_setzero_si256();
            UNROLL for (int k = 0; k < 4; k++) {
                __m256i x = a;
                __asm__ volatile("" : "+x"(x));
                two = _mm256_add_epi16(two, _mm256_maddubs_epi16(a, x));
            }
            acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(two, ones));
            __asm__ volatile("" : "+x"(acc[j]));
        }
    return 4.0 * 4 * 2 * 32 * (double)iters;
}

static uint64_t probe_read(const void *p, size_t n) {
    const char *c = p;
    __m256i s = _mm256_setzero_si256(), t = s;
    for (size_t i = 0; i + 64 <= n; i += 64) {
        __builtin_prefetch((const void *)((uintptr_t)c + i + 4096), 0, 2);
        s = _mm256_add_epi64(s, _mm256_loadu_si256((const __m256i *)(const void *)(c + i)));
        t = _mm256_add_epi64(t, _mm256_loadu_si256((const __m256i *)(const void *)(c + i + 32)));
    }
    uint64_t v[4];
    _mm256_storeu_si256((__m256i *)(void *)v, _mm256_add_epi64(s, t));
    return v[0] + v[1] + v[2] + v[3];
}

void kern_avx2(struct kern *k) {
    lanes_fill(k);
    attend_fill(k);
    grad_fill(k);
    k->q8x_pack = q8x_pack;
    blocks_fill(k);
    panel_avx2(k);
    k->probe_f32 = probe_f32;
    k->probe_i8 = probe_i8;
    k->probe_read = probe_read;
}
