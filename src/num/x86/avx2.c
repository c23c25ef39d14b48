/* avx2.c - level AVX2, FMA, F16C: floats in vectors of 8 (lanes.h), quantised products of 8 rows at
 * a time.
 *
 * A lane of a quantised product's sum is a row of weights, so that its float operations follow
 * each other block by block exactly as in ref.c. */
#include "num/x86/ymm.h"

#include "num/x86/attend.h"
#include "num/x86/grad.h"
#include "num/x86/panel.h"
#include "num/x86/slices.h"

#define ROWS 8

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

struct panel { /* CHUNK slices of ROWS rows */
    __m256i u[CHUNK][ROWS];
    float d[CHUNK * 2 * ROWS], m[CHUNK * ROWS];
};

/* Sums of four adjacent products.  The 16-bit sums of two cannot saturate: unsigned factors are
 * below 64, and Q8_0's magnitudes 128 meet activations of at most 127. */
INLINE __m256i products(enum dtype t, __m256i w, __m256i x) {
    if (t == DT_Q8_0)
        x = _mm256_sign_epi8(x, w);
    __m256i u = t == DT_Q8_0 ? _mm256_abs_epi8(w) : w;
    return _mm256_madd_epi16(_mm256_maddubs_epi16(u, x), _mm256_set1_epi16(1));
}

/* Adds slice b's products of 8 rows (u) with one block of activations. */
INLINE vf accumulate(enum dtype t, vf acc, const __m256i *u, const struct q8x *x, const float *d,
                     const float *m) {
    __m256i v[ROWS], xq = _mm256_loadu_si256((const __m256i *)(const void *)x->q);
    UNROLL for (int r = 0; r < ROWS; r++) v[r] = products(t, u[r], xq);
    __m256i lo = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    __m256i hi = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    __m256i first = _mm256_permute2x128_si256(lo, hi, 0x20); /* elements 0..15 of rows 0..7 */
    __m256i second = _mm256_permute2x128_si256(lo, hi, 0x31);
    int off = slice_offset(t);
    vf dx = v_set(x->d);
    if (slice_kind(t) == SLICE_HALVES) {
        first = _mm256_sub_epi32(first, _mm256_set1_epi32(off * x->sum[0]));
        second = _mm256_sub_epi32(second, _mm256_set1_epi32(off * x->sum[1]));
        acc = v_fma(_mm256_cvtepi32_ps(first), v_mul(v_load(d), dx), acc);
        return v_fma(_mm256_cvtepi32_ps(second), v_mul(v_load(d + ROWS), dx), acc);
    }
    __m256i sum = _mm256_sub_epi32(_mm256_add_epi32(first, second),
                                   _mm256_set1_epi32(off * (x->sum[0] + x->sum[1])));
    acc = v_fma(_mm256_cvtepi32_ps(sum), v_mul(v_load(d), dx), acc);
    return slice_kind(t) == SLICE_MIN ? v_fma(v_load(m), v_set(x->s), acc) : acc;
}

/* What slices b0 .. b0 + nb - 1 of the panel add to y of one token. */
INLINE void token(enum dtype t, const struct panel *p, const struct q8x *x, float *y, int n,
                  bool first, int nb) {
    int parts = slice_kind(t) == SLICE_HALVES ? 2 : 1;
    vf acc = first ? v_set(0) : n < ROWS ? v_load_part(y, n) : v_load(y);
    for (int b = 0; b < nb; b++)
        acc = accumulate(t, acc, p->u[b], x + b, p->d + b * parts * ROWS, p->m + b * ROWS);
    if (n < ROWS)
        v_store_part(y, acc, n);
    else
        v_store(y, acc);
}

INLINE void gemm_quant(enum dtype t, const struct gemm *g) {
    struct panel p;
    for (int j = 0; j < g->n; j += rows_step(g, ROWS)) {
        struct rows rows = rows_at(g, j, ROWS);
        for (int b0 = 0; b0 < g->k / 32; b0 += CHUNK) {
            int nb = tile_min(CHUNK, g->k / 32 - b0);
            slice_scales(t, &rows, ROWS, b0, nb, p.d, p.m);
            for (int b = 0; b < nb; b++)
                UNROLL for (int r = 0; r < ROWS; r++) p.u[b][r] =
                    slice_ints(t, rows_row(&rows, r), b0 + b);
            for (int i = 0; i < g->m; i++) {
                const struct q8x *x = (const struct q8x *)(const void *)tile_token(g, i) + b0;
                token(t, &p, x, g->y + (size_t)i * g->ldy + (size_t)rows.j, rows.n, b0 == 0, nb);
            }
        }
    }
}

static void gemm_q8_0(const struct gemm *g) {
    gemm_quant(DT_Q8_0, g);
}

static void gemm_q4_0(const struct gemm *g) {
    gemm_quant(DT_Q4_0, g);
}

static void gemm_q4_1(const struct gemm *g) {
    gemm_quant(DT_Q4_1, g);
}

static void gemm_q5_0(const struct gemm *g) {
    gemm_quant(DT_Q5_0, g);
}

static void gemm_q5_1(const struct gemm *g) {
    gemm_quant(DT_Q5_1, g);
}

static void gemm_q4_k(const struct gemm *g) {
    gemm_quant(DT_Q4_K, g);
}

static void gemm_q5_k(const struct gemm *g) {
    gemm_quant(DT_Q5_K, g);
}

static void gemm_q6_k(const struct gemm *g) {
    gemm_quant(DT_Q6_K, g);
}

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

static double probe_i8(long iters) {
    __m256i acc[8], a = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    UNROLL for (int j = 0; j < 8; j++) acc[j] = a;
    for (long i = 0; i < iters; i++)
        UNROLL for (int j = 0; j < 8; j++) {
            __m256i x = a;
            __asm__ volatile("" : "+x"(x));
            acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(_mm256_maddubs_epi16(a, x), ones));
            __asm__ volatile("" : "+x"(acc[j]));
        }
    return 8.0 * 2 * 32 * (double)iters;
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
    k->gemm_q8_0 = gemm_q8_0;
    k->gemm_q4_0 = gemm_q4_0;
    k->gemm_q4_1 = gemm_q4_1;
    k->gemm_q5_0 = gemm_q5_0;
    k->gemm_q5_1 = gemm_q5_1;
    k->gemm_q4_k = gemm_q4_k;
    k->gemm_q5_k = gemm_q5_k;
    k->gemm_q6_k = gemm_q6_k;
    panel_avx2(k);
    k->probe_f32 = probe_f32;
    k->probe_i8 = probe_i8;
    k->probe_read = probe_read;
}
