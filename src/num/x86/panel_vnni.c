/* panel_vnni.c - level AVX512_VNNI: INT8 and INT4 weights in panels of 16 rows (num/panel.h).
 *
 * vpdpbusd adds four products of unsigned weights and signed, broadcast activations to a lane,
 * which is a row from the first to the last.  INT8 weights become unsigned by 128 in excess, INT4's
 * are stored with 8 in excess; sums begin with the negative excess.  Integer sums are exact, and
 * the float operations of an element are those of ref.c. */
#include "num/panel.h"

#include "num/x86/panel.h"
#include "num/x86/tiles.h"
#include "num/x86/zmm.h"

#define TOKENS 6 /* at once                                                          */
#define WIDE 4   /* panels of INT8 at once: 24 sums, as many as registers allow      */
#define PAIR 2   /* panels of INT4: 12 integer sums and 12 float sums                */
#define CHUNK 16 /* blocks of INT4 that are unpacked together: 16 KiB of two panels  */

INLINE __m512i load(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}

/* Four bytes of a token's integers, in each lane. */
INLINE __m512i four(const int8_t *q) {
    int v;
    memcpy(&v, q, 4);
    return _mm512_set1_epi32(v);
}

INLINE const uint8_t *panel_at(const struct gemm *g, int j) {
    return (const uint8_t *)g->w + (size_t)j * g->ldw;
}

/* Lanes of the panel from row j that are rows of this product. */
INLINE __mmask16 lanes(const struct gemm *g, int j) {
    return g->n - j >= PANEL ? 0xffff : mask_of(g->n - j);
}

/* -- INT8 -------------------------------------------------------------------------------------- */

/* acc plus the products of a group, n columns of np panels, with mt tokens.  `next` bytes further
 * on, unless it is 0, lie the panels that come next. */
INLINE void group_int8(vf *acc, const uint8_t *const *p, size_t next, const char *const *x, int np,
                       int mt, int n) {
    __m512i sum[WIDE * TOKENS];
    UNROLL for (int a = 0; a < mt; a++) {
        __m512i start = _mm512_set1_epi32(-128 * ((const struct i8x *)(const void *)x[a])->sum);
        UNROLL for (int r = 0; r < np; r++) sum[a * np + r] = start;
    }
    for (int l = 0; l < n; l += 4) {
        size_t at = (size_t)(l + 4) * PANEL;
        __m512i w[WIDE];
        UNROLL for (int r = 0; r < np; r++) {
            if (next)
                __builtin_prefetch((const void *)((uintptr_t)p[r] + next + at), 0, 2);
            w[r] = _mm512_xor_si512(load(p[r] + at), _mm512_set1_epi8((char)0x80));
        }
        UNROLL for (int a = 0; a < mt; a++) {
            __m512i q = four((const int8_t *)x[a] + sizeof(struct i8x) + l);
            UNROLL for (int r = 0; r < np; r++) sum[a * np + r] =
                _mm512_dpbusd_epi32(sum[a * np + r], w[r], q);
        }
    }
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < np; r++) {
        vf d = v_set(((const struct i8x *)(const void *)x[a])->d);
        vf scale = v_mul(v_load((const float *)(const void *)p[r]), d);
        acc[a * np + r] = v_fma(_mm512_cvtepi32_ps(sum[a * np + r]), scale, acc[a * np + r]);
    }
}

/* y of mt tokens from i by np panels from row j; with the first tokens, fetches the panels that
 * come next. */
INLINE void tile_int8(const struct gemm *g, int np, int mt, int i, int j) {
    int group = int8_group(g->k);
    size_t next = i == 0 ? (size_t)np * PANEL * g->ldw : 0;
    vf acc[WIDE * TOKENS];
    const uint8_t *p[WIDE];
    const char *x[TOKENS];
    UNROLL for (int r = 0; r < np; r++) p[r] = panel_at(g, j + r * PANEL);
    UNROLL for (int a = 0; a < mt; a++) x[a] = tile_token(g, i + a);
    UNROLL for (int a = 0; a < mt * np; a++) acc[a] = v_set(0);
    for (int l = 0; l < g->k; l += group) {
        group_int8(acc, p, next, x, np, mt, tile_min(group, g->k - l));
        UNROLL for (int r = 0; r < np; r++) p[r] += (size_t)(group + 4) * PANEL;
        UNROLL for (int a = 0; a < mt; a++) x[a] += sizeof(struct i8x) + (size_t)group;
    }
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < np; r++)
        _mm512_mask_storeu_ps(g->y + (size_t)(i + a) * g->ldy + (size_t)(j + r * PANEL),
                              lanes(g, j + r * PANEL), acc[a * np + r]);
}

INLINE void tokens_int8(const struct gemm *g, int np, int mt, int i, int j) {
    switch (mt) {
    case 1:
        tile_int8(g, np, 1, i, j);
        return;
    case 2:
        tile_int8(g, np, 2, i, j);
        return;
    case 3:
        tile_int8(g, np, 3, i, j);
        return;
    case 4:
        tile_int8(g, np, 4, i, j);
        return;
    case 5:
        tile_int8(g, np, 5, i, j);
        return;
    default:
        tile_int8(g, np, 6, i, j);
    }
}

static void gemm_int8(const struct gemm *g) {
    int block = tile_fit(MIDDLE, g->ldx, TOKENS); /* tokens that stay in the second cache */
    for (int i0 = 0; i0 < g->m; i0 += block) {
        int i1 = tile_min(g->m, i0 + block), j = 0;
        for (; j + WIDE * PANEL <= g->n; j += WIDE * PANEL)
            for (int i = i0; i < i1; i += TOKENS)
                tokens_int8(g, WIDE, tile_min(TOKENS, i1 - i), i, j);
        for (; j < g->n; j += PANEL)
            for (int i = i0; i < i1; i += TOKENS)
                tokens_int8(g, 1, tile_min(TOKENS, i1 - i), i, j);
    }
}

/* -- INT4 -------------------------------------------------------------------------------------- */

/* The words of a block: u[i] has columns 4i .. 4i + 3 of 16 rows, 8 in excess. */
INLINE void unpack(const uint8_t *p, __m512i u[8]) {
    const __m512i low = _mm512_set1_epi8(15);
    UNROLL for (int w = 0; w < 4; w++) {
        __m512i v = load(p + PANEL * 2 + w * PANEL * 4);
        u[w] = _mm512_and_si512(v, low);
        u[w + 4] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
    }
}

/* acc plus the products of one block. */
INLINE vf block_int4(vf acc, const __m512i *u, vf d, const struct q8x *x) {
    __m512i s = _mm512_set1_epi32(-8 * (x->sum[0] + x->sum[1]));
    UNROLL for (int i = 0; i < 8; i++) s = _mm512_dpbusd_epi32(s, u[i], four(x->q + 4 * i));
    return v_fma(_mm512_cvtepi32_ps(s), v_mul(d, v_set(x->d)), acc);
}

static void one_int4(const struct gemm *g) {
    const struct q8x *x = g->x;
    for (int j = 0; j < g->n; j += PANEL) {
        const uint8_t *p = panel_at(g, j);
        vf acc = v_set(0);
        for (int b = 0; b < g->k / 32; b++, p += INT4_PANEL_BLOCK) {
            __m512i u[8];
            tile_prefetch((const char *)p, g->ldw, PANEL, 0, INT4_PANEL_BLOCK);
            unpack(p, u);
            acc = block_int4(acc, u, v_load_half(p), x + b);
        }
        _mm512_mask_storeu_ps(g->y + j, lanes(g, j), acc);
    }
}

struct open { /* CHUNK blocks of PAIR panels, unpacked once for all tokens */
    __m512i u[CHUNK][PAIR][8];
    vf d[CHUNK][PAIR];
};

INLINE void open_panels(struct open *o, const uint8_t *const *p, size_t ldw, int b0, int nb) {
    for (int b = 0; b < nb; b++)
        UNROLL for (int r = 0; r < PAIR; r++) {
            const uint8_t *at = p[r] + (size_t)(b0 + b) * INT4_PANEL_BLOCK;
            tile_prefetch((const char *)at, ldw, PAIR * PANEL, 0, INT4_PANEL_BLOCK);
            unpack(at, o->u[b][r]);
            o->d[b][r] = v_load_half(at);
        }
}

/* y of mt tokens from i by PAIR panels from row j[..], plus what blocks b0 .. b0 + nb - 1 add. */
INLINE void tile_int4(const struct gemm *g, const struct open *o, int mt, int i, const int *j,
                      int b0) {
    const struct q8x *x[TOKENS];
    vf acc[TOKENS * PAIR];
    int nb = tile_min(CHUNK, g->k / 32 - b0);
    UNROLL for (int a = 0; a < mt; a++) {
        const float *y = g->y + (size_t)(i + a) * g->ldy;
        x[a] = (const struct q8x *)(const void *)tile_token(g, i + a) + b0;
        UNROLL for (int r = 0; r < PAIR; r++) acc[a * PAIR + r] =
            _mm512_maskz_loadu_ps(b0 ? lanes(g, j[r]) : 0, y + j[r]);
    }
    for (int b = 0; b < nb; b++) {
        __m512i s[TOKENS * PAIR];
        UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < PAIR; r++) s[a * PAIR + r] =
            _mm512_set1_epi32(-8 * (x[a][b].sum[0] + x[a][b].sum[1]));
        UNROLL for (int w = 0; w < 8; w++) UNROLL for (int a = 0; a < mt; a++) {
            __m512i q = four(x[a][b].q + 4 * w);
            UNROLL for (int r = 0; r < PAIR; r++) s[a * PAIR + r] =
                _mm512_dpbusd_epi32(s[a * PAIR + r], o->u[b][r][w], q);
        }
        UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < PAIR; r++)
            acc[a * PAIR + r] = v_fma(_mm512_cvtepi32_ps(s[a * PAIR + r]),
                                      v_mul(o->d[b][r], v_set(x[a][b].d)), acc[a * PAIR + r]);
    }
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < PAIR; r++) _mm512_mask_storeu_ps(
        g->y + (size_t)(i + a) * g->ldy + j[r], lanes(g, j[r]), acc[a * PAIR + r]);
}

static void tokens_int4(const struct gemm *g, const struct open *o, int i, const int *j, int b0) {
    switch (tile_min(TOKENS, g->m - i)) {
    case 1:
        tile_int4(g, o, 1, i, j, b0);
        return;
    case 2:
        tile_int4(g, o, 2, i, j, b0);
        return;
    case 3:
        tile_int4(g, o, 3, i, j, b0);
        return;
    case 4:
        tile_int4(g, o, 4, i, j, b0);
        return;
    case 5:
        tile_int4(g, o, 5, i, j, b0);
        return;
    default:
        tile_int4(g, o, 6, i, j, b0);
    }
}

static void gemm_int4(const struct gemm *g) {
    struct open o;
    if (g->m == 1) {
        one_int4(g);
        return;
    }
    for (int j0 = 0; j0 < g->n; j0 += PAIR * PANEL) {
        /* where one panel is left, both are that one, and its results are written twice */
        const int j[PAIR] = {j0, j0 + PANEL < g->n ? j0 + PANEL : j0};
        const uint8_t *const p[PAIR] = {panel_at(g, j[0]), panel_at(g, j[1])};
        for (int b0 = 0; b0 < g->k / 32; b0 += CHUNK) {
            open_panels(&o, p, g->ldw, b0, tile_min(CHUNK, g->k / 32 - b0));
            for (int i = 0; i < g->m; i += TOKENS)
                tokens_int4(g, &o, i, j, b0);
        }
    }
}

void panel_vnni(struct kern *k) {
    k->gemm_int8 = gemm_int8;
    k->gemm_int4 = gemm_int4;
}
