/* pack_vnni.c - level AVX512_VNNI: activations of quantised products, 64 floats at a time.  The
 * operations of an element are those of ref.c. */
#include <math.h>
#include <stddef.h>

#include "num/x86/zmm.h"

#include "num/x86/panel.h"
#include "num/x86/vnni.h"

#define FOUR 4 /* blocks of struct q8x at a time: a quarter of a vector belongs to each */
#define INF_BITS 0x7f800000

/* Of 16 floats; as bits NaN > infinity > any number. */
INLINE vi magnitudes(vf x) {
    return _mm512_castps_si512(v_abs(x));
}

INLINE vi vi_max(vi a, vi b) {
    return _mm512_max_epi32(a, b);
}

/* The four vectors of words, all within a byte, as bytes. */
INLINE vi to_bytes(const vi *v) {
    vi two = _mm512_packs_epi32(v[0], v[1]), more = _mm512_packs_epi32(v[2], v[3]);
    /* the packs interleave quarters; the permutation undoes both */
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        _mm512_packs_epi16(two, more));
}

/* sum plus the bytes of each word */
INLINE vi add_bytes(vi sum, vi q) {
    return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), q);
}

/* In each word of a quarter the largest of it, or the sum. */
INLINE vi quarter_max(vi v) {
    v = vi_max(v, _mm512_shuffle_epi32(v, 0x4e));
    return vi_max(v, _mm512_shuffle_epi32(v, 0xb1));
}

INLINE vi quarter_sum(vi v) {
    v = vi_add(v, _mm512_shuffle_epi32(v, 0x4e));
    return vi_add(v, _mm512_shuffle_epi32(v, 0xb1));
}

/* Quarter i of v in all quarters. */
INLINE vi spread(vi v, int i) {
    switch (i) {
    case 0:
        return _mm512_shuffle_i32x4(v, v, 0x00);
    case 1:
        return _mm512_shuffle_i32x4(v, v, 0x55);
    case 2:
        return _mm512_shuffle_i32x4(v, v, 0xaa);
    default:
        return _mm512_shuffle_i32x4(v, v, 0xff);
    }
}

/* Quarter i of the result: the largest of m[i]. */
INLINE vi four_max(const vi *m) {
    vi a = vi_max(_mm512_shuffle_i32x4(m[0], m[1], 0x44), _mm512_shuffle_i32x4(m[0], m[1], 0xee));
    vi b = vi_max(_mm512_shuffle_i32x4(m[2], m[3], 0x44), _mm512_shuffle_i32x4(m[2], m[3], 0xee));
    return quarter_max(vi_max(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd)));
}

/* Blocks 0 .. n - 1 (at most FOUR) of x, which has 32 FOUR floats. */
INLINE void pack_four(struct q8x *to, const float *x, int n) {
    vi m[FOUR], q[2], sum[2], bits;
    int sums[2 * 16];
    float d[16];
    UNROLL for (int b = 0; b < FOUR; b++) m[b] =
        vi_max(magnitudes(v_load(x + 32 * b)), magnitudes(v_load(x + 32 * b + 16)));
    bits = four_max(m);
    vf max = _mm512_castsi512_ps(bits);
    __mmask16 finite = _mm512_cmplt_epi32_mask(bits, vi_set(INF_BITS));
    __mmask16 some = finite & _mm512_cmp_ps_mask(max, v_set(1e-30f), _CMP_GE_OQ);
    vi id = _mm512_castps_si512(_mm512_maskz_div_ps(some, v_set(127), max));
    vi keep = _mm512_movm_epi32(some);
    v_store(d, _mm512_mask_mov_ps(_mm512_maskz_div_ps(some, max, v_set(127)), (__mmask16)~finite,
                                  v_set(NAN)));
    UNROLL for (int h = 0; h < 2; h++) {
        vi v[4];
        UNROLL for (int i = 0; i < 4; i++) {
            int b = 2 * h + i / 2;
            vf scale = _mm512_castsi512_ps(spread(id, b));
            v[i] = _mm512_cvtps_epi32(v_mul(v_load(x + 64 * h + 16 * i), scale));
            v[i] = vi_and(v[i], spread(keep, b));
        }
        q[h] = to_bytes(v);
        sum[h] = quarter_sum(add_bytes(vi_set(0), q[h]));
        _mm512_storeu_si512(sums + 16 * h, sum[h]);
    }
    for (int b = 0; b < n; b++) {
        vi two = b < 2 ? q[0] : q[1];
        const int *s = sums + 8 * b;
        to[b].d = d[4 * b];
        to[b].sum[0] = s[0];
        to[b].sum[1] = s[4];
        to[b].s = to[b].d * (float)(s[0] + s[4]);
        __m256i one = b % 2 ? _mm512_extracti64x4_epi64(two, 1) : _mm512_castsi512_si256(two);
        _mm256_storeu_si256((__m256i *)(void *)to[b].q, one);
    }
}

static void q8x_pack(struct q8x *dst, const float *src, int n) {
    int b = 0;
    for (; b + FOUR <= n / 32; b += FOUR)
        pack_four(dst + b, src + 32 * b, FOUR);
    if (b < n / 32) {
        float x[32 * FOUR] = {0};
        memcpy(x, src + 32 * b, (size_t)(n / 32 - b) * 32 * sizeof *x);
        pack_four(dst + b, x, n / 32 - b);
    }
}

/* The first n - at of 16 floats from src + at. */
INLINE vf some_of(const float *src, int at, int n) {
    return n - at >= W ? v_load(src + at) : v_load_part(src + at, n > at ? n - at : 0);
}

/* A group of n inputs, a multiple of 4. */
INLINE void pack_group(struct i8x *to, const float *src, int n) {
    vi bits = vi_set(0), sum = bits;
    for (int i = 0; i < n; i += W)
        bits = vi_max(bits, magnitudes(some_of(src, i, n)));
    int largest = _mm512_reduce_max_epi32(bits);
    float max;
    memcpy(&max, &largest, 4);
    bool finite = largest < INF_BITS, some = finite && max >= 1e-30f;
    vf id = v_set(some ? 127 / max : 0);
    for (int i = 0; i < n; i += 64) {
        vi v[4];
        UNROLL for (int k = 0; k < 4; k++) {
            v[k] = _mm512_cvtps_epi32(v_mul(some_of(src, i + 16 * k, n), id));
            v[k] = some ? v[k] : vi_set(0);
        }
        vi q = to_bytes(v);
        sum = add_bytes(sum, q);
        if (n - i >= 64)
            _mm512_storeu_si512(to->q + i, q);
        else
            _mm512_mask_storeu_epi8(to->q + i, (1ull << (n - i)) - 1, q);
    }
    to->d = !finite ? NAN : some ? max / 127 : 0;
    to->sum = _mm512_reduce_add_epi32(sum);
}

static void i8x_pack(void *dst, const float *src, int n) {
    char *to = dst;
    int group = int8_group(n), i = 0;
    for (; group == 128 && i + 128 <= n; i += 128, to += sizeof(struct i8x) + 128)
        pack_group((struct i8x *)(void *)to, src + i, 128);
    for (; i < n; i += group, to += sizeof(struct i8x) + (size_t)group)
        pack_group((struct i8x *)(void *)to, src + i, n - i < group ? n - i : group);
}

void pack_vnni(struct kern *k) {
    k->q8x_pack = q8x_pack;
    k->i8x_pack = i8x_pack;
}
