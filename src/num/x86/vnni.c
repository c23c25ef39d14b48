/* vnni.c - level AVX512_VNNI: quantised products by vpdpbusd, which adds four products of unsigned
 * weights and signed activations to a 32-bit lane.
 *
 * One token (decode): 16 rows of weights are read as stored, a lane ends up as a row.  More
 * tokens: 32 rows are first rearranged so that a lane is a row all along, then tiles of tokens
 * pass over them.  Integer sums are exact, and the float operations of an element are those of
 * ref.c either way. */
#include "num/x86/zmm.h"

#include "num/x86/panel.h"
#include "num/x86/slices.h"
#include "num/x86/tiles.h"

#define ROWS 16
#define GROUPS 2 /* of ROWS rows, in a tile of several tokens                   */
#define TOKENS 6 /* in a tile: 12 integer sums and 12 float sums in registers   */

/* Unsigned weights exceed their value by this. */
INLINE int offset(enum dtype t) {
    return t == DT_Q8_0 ? 128 : slice_offset(t);
}

/* 16 bytes of nibbles of each of two rows */
INLINE __m512i two_nibbles(const uint8_t *a, const uint8_t *c) {
    __m256i lo = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)a));
    __m256i hi = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)c));
    __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
    const __m512i shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    return _mm512_and_si512(_mm512_srlv_epi64(both, shift), _mm512_set1_epi8(15));
}

/* Bits `from`.. of the 32 bytes at a and at c */
INLINE __m512i two_bits(const uint8_t *a, const uint8_t *c, int from, int mask) {
    __m256i lo = _mm256_loadu_si256((const __m256i *)(const void *)a);
    __m256i hi = _mm256_loadu_si256((const __m256i *)(const void *)c);
    __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
    return _mm512_and_si512(_mm512_srl_epi16(both, _mm_cvtsi32_si128(from)),
                            _mm512_set1_epi8((char)mask));
}

/* Slice b of two rows of a type with blocks of 256; places as in slice_ints. */
INLINE __m512i two_super(enum dtype t, const uint8_t *a, const uint8_t *c, int j) {
    if (t == DT_Q6_K) {
        int q = 64 * (j / 4) + 32 * (j % 2), h = 128 + 32 * (j / 4);
        return _mm512_or_si512(two_bits(a + q, c + q, j / 2 % 2 * 4, 15),
                               _mm512_slli_epi16(two_bits(a + h, c + h, j % 4 * 2, 3), 4));
    }
    int q = (t == DT_Q5_K ? 48 : 16) + 32 * (j / 2);
    __m512i low = two_bits(a + q, c + q, j % 2 * 4, 15);
    return t == DT_Q4_K
               ? low
               : _mm512_or_si512(low, _mm512_slli_epi16(two_bits(a + 16, c + 16, j, 1), 4));
}

/* Slice b of two rows, side by side, as unsigned integers. */
INLINE __m512i two_rows(enum dtype t, const uint8_t *a, const uint8_t *c, int b) {
    if (t == DT_Q4_0)
        return two_nibbles(slice_block(t, a, b) + 2, slice_block(t, c, b) + 2);
    if (slice_is_super(t))
        return two_super(t, slice_block(t, a, b), slice_block(t, c, b), b % 8);
    __m512i v =
        _mm512_inserti64x4(_mm512_castsi256_si512(slice_ints(t, a, b)), slice_ints(t, c, b), 1);
    return t == DT_Q8_0 ? _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80)) : v;
}

/* Slice b of 16 rows.  The quarters of v[i] are elements 0..15 and 16..31 of row i (i + 4 for i
 * >= 4), and of the row four further: then transposing 4 x 4 within quarters and exchanging
 * quarters puts rows in order. */
INLINE void load_rows(enum dtype t, const struct rows *rows, int b, __m512i v[8]) {
    UNROLL for (int i = 0; i < 8; i++) {
        int r = i < 4 ? i : i + 4;
        v[i] = two_rows(t, rows_row(rows, r), rows_row(rows, r + 4), b);
    }
}

/* Sums of the four lanes of each quarter of four vectors; quarter q of the result: those of
 * v[0..3]. */
INLINE __m512i sum_quarters(const __m512i *v) {
    __m512i ab =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i cd =
        _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* acc plus the integer sums of a slice, scaled.  first, second: sums over elements 0..15 and
 * 16..31; in a type without halves `first` is all of it.  d, m as slice_scales leaves them. */
INLINE vf scale_sums(enum dtype t, vf acc, __m512i first, __m512i second, const struct q8x *x,
                     const float *d, const float *m) {
    vf dx = v_set(x->d);
    acc = v_fma(_mm512_cvtepi32_ps(first), v_mul(v_load(d), dx), acc);
    if (slice_kind(t) == SLICE_HALVES)
        acc = v_fma(_mm512_cvtepi32_ps(second), v_mul(v_load(d + ROWS), dx), acc);
    if (slice_kind(t) == SLICE_MIN)
        acc = v_fma(v_load(m), v_set(x->s), acc);
    return acc;
}

/* -- one token --------------------------------------------------------------------------------- */

INLINE vf one_slice(enum dtype t, vf acc, const struct rows *rows, int b, const struct q8x *x,
                    const float *d, const float *m) {
    __m512i v[8], zero = _mm512_setzero_si512();
    __m512i q = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)x->q));
    load_rows(t, rows, b, v);
    UNROLL for (int i = 0; i < 8; i++) v[i] = _mm512_dpbusd_epi32(zero, v[i], q);
    __m512i lo = sum_quarters(v), hi = sum_quarters(v + 4);
    __m512i first = _mm512_shuffle_i32x4(lo, hi, 0x88), second = _mm512_shuffle_i32x4(lo, hi, 0xdd);
    if (slice_kind(t) == SLICE_HALVES) {
        first = _mm512_sub_epi32(first, _mm512_set1_epi32(offset(t) * x->sum[0]));
        second = _mm512_sub_epi32(second, _mm512_set1_epi32(offset(t) * x->sum[1]));
    } else {
        __m512i excess = _mm512_set1_epi32(offset(t) * (x->sum[0] + x->sum[1]));
        first = _mm512_sub_epi32(_mm512_add_epi32(first, second), excess);
    }
    return scale_sums(t, acc, first, second, x, d, m);
}

INLINE void one_token(enum dtype t, const struct gemm *g) {
    const struct q8x *x = g->x;
    float d[CHUNK * 2 * ROWS], m[CHUNK * ROWS];
    int parts = slice_kind(t) == SLICE_HALVES ? 2 : 1, n_slice = g->k / 32;
    size_t bytes = g->ldw * ROWS / (size_t)n_slice; /* of 16 rows, for each slice */
    for (int j = 0; j < g->n; j += rows_step(g, ROWS)) {
        struct rows rows = rows_at(g, j, ROWS);
        vf acc = v_set(0);
        for (int b0 = 0; b0 < n_slice; b0 += CHUNK) {
            int nb = tile_min(CHUNK, n_slice - b0);
            slice_scales(t, &rows, ROWS, b0, nb, d, m);
            for (int b = 0; b < nb; b++) {
                /* Rows are adjacent: the next 16 are fetched in order while these are computed. */
                tile_prefetch((const char *)rows.p, g->ldw, ROWS, bytes * (size_t)(b0 + b), bytes);
                acc = one_slice(t, acc, &rows, b0 + b, x + b0 + b, d + b * parts * ROWS,
                                m + b * ROWS);
            }
        }
        if (rows.n < ROWS)
            v_store_part(g->y + rows.j, acc, rows.n);
        else
            v_store(g->y + rows.j, acc);
    }
}

/* -- several tokens ---------------------------------------------------------------------------- */

struct panel {           /* CHUNK slices of ROWS rows */
    __m512i u[CHUNK][8]; /* lane = row, its four bytes = elements 4i .. 4i + 3 */
    float d[CHUNK * 2 * ROWS], m[CHUNK * ROWS];
};

INLINE void transpose(const __m512i *v, __m512i *out) {
    __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    out[0] = _mm512_unpacklo_epi64(a, c);
    out[1] = _mm512_unpackhi_epi64(a, c);
    out[2] = _mm512_unpacklo_epi64(b, d);
    out[3] = _mm512_unpackhi_epi64(b, d);
}

INLINE void pack(enum dtype t, const struct rows *rows, int b0, int nb, struct panel *p) {
    size_t bytes = ROWS * slice_block_bytes(t) / (slice_is_super(t) ? 8 : 1);
    slice_scales(t, rows, ROWS, b0, nb, p->d, p->m);
    for (int b = 0; b < nb; b++) {
        __m512i v[8], lo[4], hi[4];
        tile_prefetch((const char *)rows->p, rows->ld, GROUPS * ROWS, bytes * (size_t)(b0 + b),
                      bytes);
        load_rows(t, rows, b0 + b, v);
        transpose(v, lo);
        transpose(v + 4, hi);
        UNROLL for (int i = 0; i < 4; i++) {
            p->u[b][i] = _mm512_shuffle_i32x4(lo[i], hi[i], 0x88);
            p->u[b][i + 4] = _mm512_shuffle_i32x4(lo[i], hi[i], 0xdd);
        }
    }
}

/* Integer sums of mt tokens by 32 rows over elements 4 from .. 4 to - 1 of slice b. */
INLINE void sum_part(const struct panel *p, int b, const struct q8x *const *x, int mt, int from,
                     int to, __m512i *sum) {
    UNROLL for (int i = from; i < to; i++) {
        UNROLL for (int a = 0; a < mt; a++) {
            int four;
            memcpy(&four, x[a][b].q + 4 * i, 4);
            __m512i q = _mm512_set1_epi32(four);
            UNROLL for (int r = 0; r < GROUPS; r++) sum[a * GROUPS + r] =
                _mm512_dpbusd_epi32(sum[a * GROUPS + r], p[r].u[b][i], q);
        }
    }
}

/* acc plus slice b of mt tokens by 32 rows; `excess` as offset() says. */
INLINE void tile_slice(enum slice_kind kind, int excess, const struct panel *p, int b,
                       const struct q8x *const *x, int mt, vf *acc) {
    int parts = kind == SLICE_HALVES ? 2 : 1;
    UNROLL for (int h = 0; h < parts; h++) {
        __m512i sum[TOKENS * GROUPS];
        UNROLL for (int a = 0; a < mt; a++) {
            const int *s = x[a][b].sum;
            __m512i start = _mm512_set1_epi32(-excess * (parts == 2 ? s[h] : s[0] + s[1]));
            UNROLL for (int r = 0; r < GROUPS; r++) sum[a * GROUPS + r] = start;
        }
        sum_part(p, b, x, mt, h * 4, parts == 2 ? h * 4 + 4 : 8, sum);
        UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < GROUPS; r++) {
            vf scale = v_mul(v_load(p[r].d + (b * parts + h) * ROWS), v_set(x[a][b].d));
            vf *y = acc + a * GROUPS + r;
            *y = v_fma(_mm512_cvtepi32_ps(sum[a * GROUPS + r]), scale, *y);
        }
    }
    if (kind != SLICE_MIN)
        return;
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < GROUPS; r++) {
        vf *y = acc + a * GROUPS + r;
        *y = v_fma(v_load(p[r].m + b * ROWS), v_set(x[a][b].s), *y);
    }
}

struct work { /* of a tile: tokens from i, nb slices from b0, which are in panel */
    const struct gemm *g;
    const struct panel *panel;
    struct rows rows[GROUPS];
    int i, b0, nb, excess;
};

/* y of mt tokens by 32 rows, plus what the panel's slices add. */
INLINE void tile(enum slice_kind kind, int mt, const struct work *k) {
    const struct q8x *x[TOKENS];
    vf acc[TOKENS * GROUPS];
    __mmask16 cols = k->rows[0].n == ROWS ? 0xffff : 1;
    UNROLL for (int a = 0; a < mt; a++) {
        const float *y = k->g->y + (size_t)(k->i + a) * k->g->ldy;
        x[a] = (const struct q8x *)(const void *)tile_token(k->g, k->i + a) + k->b0;
        UNROLL for (int r = 0; r < GROUPS; r++) {
            tile_prepare(y + k->rows[r].j);
            acc[a * GROUPS + r] =
                _mm512_maskz_loadu_ps(k->b0 == 0 ? 0 : cols, y + k->rows[r].j);
        }
    }
    for (int b = 0; b < k->nb; b++)
        tile_slice(kind, k->excess, k->panel, b, x, mt, acc);
    UNROLL for (int a = 0; a < mt; a++) {
        float *y = k->g->y + (size_t)(k->i + a) * k->g->ldy;
        UNROLL for (int r = 0; r < GROUPS; r++)
            _mm512_mask_storeu_ps(y + k->rows[r].j, cols, acc[a * GROUPS + r]);
    }
}

INLINE void tile_of(enum slice_kind kind, int mt, const struct work *k) {
    switch (mt) {
    case 1:
        tile(kind, 1, k);
        return;
    case 2:
        tile(kind, 2, k);
        return;
    case 3:
        tile(kind, 3, k);
        return;
    case 4:
        tile(kind, 4, k);
        return;
    case 5:
        tile(kind, 5, k);
        return;
    default:
        tile(kind, 6, k);
    }
}

static void tile_plain(int mt, const struct work *k) {
    tile_of(SLICE_PLAIN, mt, k);
}

static void tile_minima(int mt, const struct work *k) {
    tile_of(SLICE_MIN, mt, k);
}

static void tile_halves(int mt, const struct work *k) {
    tile_of(SLICE_HALVES, mt, k);
}

INLINE void many_tokens(enum dtype t, const struct gemm *g) {
    static void (*const tile_by_kind[])(int, const struct work *) = {tile_plain, tile_minima,
                                                                     tile_halves};
    struct panel p[GROUPS];
    struct work k = {.g = g, .panel = p, .excess = offset(t)};
    int step = rows_step(g, ROWS);
    for (int j = 0; j < g->n; j += GROUPS * step) {
        for (int r = 0; r < GROUPS; r++)
            k.rows[r] = rows_at(g, j + r * step, ROWS);
        for (k.b0 = 0; k.b0 < g->k / 32; k.b0 += CHUNK) {
            k.nb = tile_min(CHUNK, g->k / 32 - k.b0);
            for (int r = 0; r < GROUPS; r++)
                pack(t, &k.rows[r], k.b0, k.nb, &p[r]);
            for (k.i = 0; k.i < g->m; k.i += TOKENS)
                tile_by_kind[slice_kind(t)](tile_min(TOKENS, g->m - k.i), &k);
        }
    }
}

INLINE void gemm_quant(enum dtype t, const struct gemm *g) {
    if (g->m == 1)
        one_token(t, g);
    else
        many_tokens(t, g);
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

static double probe_i8(long iters) {
    __m512i acc[24], a = _mm512_set1_epi8(3);
    UNROLL for (int j = 0; j < 24; j++) acc[j] = a;
    for (long i = 0; i < iters; i++)
        UNROLL for (int j = 0; j < 24; j++) {
            acc[j] = _mm512_dpbusd_epi32(acc[j], a, a);
            __asm__ volatile("" : "+v"(acc[j])); /* keeps the work, in a register */
        }
    return 24.0 * 2 * 64 * (double)iters;
}

void kern_vnni(struct kern *k) {
    k->gemm_q8_0 = gemm_q8_0;
    k->gemm_q4_0 = gemm_q4_0;
    k->gemm_q4_1 = gemm_q4_1;
    k->gemm_q5_0 = gemm_q5_0;
    k->gemm_q5_1 = gemm_q5_1;
    k->gemm_q4_k = gemm_q4_k;
    k->gemm_q5_k = gemm_q5_k;
    k->gemm_q6_k = gemm_q6_k;
    panel_vnni(k);
    k->probe_i8 = probe_i8;
}
