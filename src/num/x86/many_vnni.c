/* many_vnni.c - level AVX512_VNNI: quantised products of many tokens, for which arithmetic is the
 * limit.
 *
 * Two panels by six tokens: their integer and float sums fill the registers, and vpdpbusd does not
 * wait for loads.  INPUTS columns of the panels are opened once, to factors and scales that stay in
 * the first cache while all tokens pass.  Between the pieces sums rest side by side in a buffer,
 * for rows of y, often a power of two apart, would share a few lines of the caches.  It changes no
 * bit: the operations of an element are those of ref.c, in its order. */
#include <stddef.h>
#include <stdint.h>

#include "num/x86/zmm.h"

#include "num/x86/vnni.h"

#include "num/x86/open.h"
#include "num/x86/panel.h"
#include "num/x86/tiles.h"

#define PANELS 2      /* at once */
#define SIX 6         /* tokens at once; 20 and more can be had in fives and sixes */
#define INPUTS 512    /* of a piece: whole blocks and groups */
#define MOST 576      /* tokens whose sums rest at a time    */
#define LEAST_GROUP 8 /* columns of the shortest group */

/* How a group's sum becomes floats, and where its activations lie. */
enum kind {
    KIND_I8X,    /* a group of struct i8x, one scale            */
    KIND_PLAIN,  /* 32 columns, one scale                       */
    KIND_MIN,    /* 32 columns, a scale and a minimum           */
    KIND_HALVES, /* 16 columns, one scale; two share a q8x      */
};

INLINE enum kind kind_of(enum dtype t) {
    if (t == DT_INT8)
        return KIND_I8X;
    return slice_kind(t) == SLICE_PLAIN ? KIND_PLAIN
           : slice_kind(t) == SLICE_MIN ? KIND_MIN
                                        : KIND_HALVES;
}

/* Columns l .. end - 1 of np panels from row j: groups of `size` columns (the last may be shorter),
 * vectors of np panels side by side. */
struct piece {
    vi factor[INPUTS / 4 * PANELS];
    vf scale[INPUTS / LEAST_GROUP * PANELS];
    vf min[INPUTS / 32 * PANELS];
    int j, l, end, size;
};

/* -- opening ----------------------------------------------------------------------------------- */

static void open_int8(const struct gemm *g, struct piece *o, int np) {
    vi *to = o->factor;
    for (int at = o->l, b = 0; at < o->end; at += o->size, b++) {
        int words = tile_min(o->size, o->end - at) / 4;
        for (int r = 0; r < np; r++) {
            const uint8_t *p = (const uint8_t *)g->w + (size_t)(o->j + r * PANEL) * g->ldw +
                               (size_t)(at / o->size) * (size_t)(o->size + 4) * PANEL;
            o->scale[b * np + r] = v_load((const float *)(const void *)p);
            for (int i = 0; i < words; i++)
                to[i * np + r] = eight_bits(vi_load(p + (i + 1) * PANEL * 4));
        }
        to += words * np;
    }
}

INLINE void open_slice(enum dtype t, struct piece *o, int np, int r, struct lanes b, int at) {
    int k = at % slices(t);
    vi u[8];
    if (slices(t) > 1)
        open_super(t, b, k, u);
    else
        open_small(t, b, u);
    struct scales s = open_scales(t, b, k);
    UNROLL for (int i = 0; i < 8; i++) o->factor[(at * 8 + i) * np + r] = u[i];
    if (kind_of(t) == KIND_HALVES) {
        o->scale[2 * at * np + r] = s.d;
        o->scale[(2 * at + 1) * np + r] = s.d2;
    } else {
        o->scale[at * np + r] = s.d;
    }
    if (kind_of(t) == KIND_MIN)
        o->min[at * np + r] = s.m;
}

INLINE void open_blocks(enum dtype t, const struct gemm *g, struct piece *o, int np) {
    for (int r = 0; r < np; r++) {
        const uint8_t *p = (const uint8_t *)g->w + (size_t)(o->j + r * PANEL) * g->ldw +
                           (size_t)(o->l / 32) * slice_bytes(t);
        for (int at = 0; at < (o->end - o->l) / 32;)
            for (int k = 0; k < slices(t); k++, at++) {
                struct lanes b = {p + (size_t)(at - k) * slice_bytes(t), 0};
                open_slice(t, o, np, r, b, at);
            }
    }
}

/* -- products ---------------------------------------------------------------------------------- */

/* A token's activations of a group, from x on: INT8's have a struct of their own. */
INLINE vf scale_of(enum kind kind, const char *x) {
    return v_set(kind == KIND_I8X ? ((const struct i8x *)(const void *)x)->d
                                  : ((const struct q8x *)(const void *)x)->d);
}

INLINE int sum_of(enum kind kind, const char *x, int half) {
    const struct q8x *v = (const void *)x;
    if (kind == KIND_I8X)
        return ((const struct i8x *)(const void *)x)->sum;
    return kind == KIND_HALVES ? v->sum[half] : v->sum[0] + v->sum[1];
}

/* Bytes of a token's row for n columns, whole groups. */
INLINE size_t bytes_of(enum kind kind, int n, int size) {
    if (kind == KIND_I8X)
        return (size_t)(n / size) * (sizeof(struct i8x) + (size_t)size);
    return (size_t)(n / 32) * sizeof(struct q8x);
}

struct group { /* or, of KIND_HALVES, one half of it */
    const vi *factor;
    const vf *scale, *min;
    const char *x; /* activations of the first token */
    size_t ldx;
    int words, half;
};

/* y plus a group: mt tokens by np panels. */
INLINE void add_group(enum dtype t, const struct group *o, int np, int mt, vf *y) {
    enum kind kind = kind_of(t);
    vi sum[SIX * PANELS];
    UNROLL for (int a = 0; a < mt; a++) {
        vi less = vi_set(-excess(t) * sum_of(kind, o->x + (size_t)a * o->ldx, o->half));
        UNROLL for (int r = 0; r < np; r++) sum[a * np + r] = less;
    }
    const char *q = o->x + (kind == KIND_I8X ? sizeof(struct i8x) : offsetof(struct q8x, q));
    const vi *w = o->factor;
    q += 16 * o->half;
    for (int i = 0; i < o->words; i++, w += np, q += 4) {
        vi f[PANELS];
        UNROLL for (int r = 0; r < np; r++) f[r] = w[r];
        UNROLL for (int a = 0; a < mt; a++) {
            vi four = vi_words(q + (size_t)a * o->ldx);
            UNROLL for (int r = 0; r < np; r++) sum[a * np + r] = dot4(sum[a * np + r], f[r], four);
        }
    }
    UNROLL for (int a = 0; a < mt; a++) {
        const char *x = o->x + (size_t)a * o->ldx;
        vf d = scale_of(kind, x);
        UNROLL for (int r = 0; r < np; r++) {
            vf n = v_fma(vi_float(sum[a * np + r]), v_mul(o->scale[r], d), y[a * np + r]);
            if (kind == KIND_MIN)
                n = v_fma(o->min[r], v_set(((const struct q8x *)(const void *)x)->s), n);
            y[a * np + r] = n;
        }
    }
}

struct place {
    int i;                 /* the first token */
    vf *sums;              /* of the tile, between pieces */
    size_t ahead, n_ahead; /* where in a panel, and how many bytes of it, will be needed next */
};

/* Lanes of the panel from row j that are rows of this product. */
INLINE __mmask16 lanes(const struct gemm *g, int j) {
    return g->n - j >= PANEL ? 0xffff : mask_of(g->n - j);
}

/* Sums to y of mt tokens from i.  Only a panel alone can be the last one. */
INLINE void finish(const struct gemm *g, int np, int mt, int i, int j, const vf *sums) {
    __mmask16 m = lanes(g, j);
    UNROLL for (int a = 0; a < mt; a++) UNROLL for (int r = 0; r < np; r++) {
        float *y = g->y + (size_t)(i + a) * g->ldy + j + r * PANEL;
        if (np > 1)
            v_store(y, sums[a * np + r]);
        else
            _mm512_mask_storeu_ps(y, m, sums[a * np + r]);
    }
}

/* Fetches what the tile after this one needs, but its activations, and what the next panels do. */
INLINE void fetch(const struct gemm *g, const struct piece *o, int np, int mt, struct place p) {
    UNROLL for (int r = 0; r < np; r++) {
        tile_ahead((const char *)g->w + (size_t)(o->j + r * PANEL) * g->ldw, p.ahead, p.n_ahead,
                   false);
        if (o->end == g->k)
            UNROLL for (int a = mt; a < 2 * mt; a++)
                tile_prepare(g->y + (size_t)(p.i + a) * g->ldy + o->j + r * PANEL);
    }
}

/* Adds a piece to y of mt tokens. */
INLINE void tile(enum dtype t, const struct gemm *g, const struct piece *o, int np, int mt,
                 struct place p) {
    enum kind kind = kind_of(t);
    int size = kind == KIND_I8X ? o->size : 32, halves = kind == KIND_HALVES ? 2 : 1;
    const char *x = tile_token(g, p.i) + bytes_of(kind, o->l, size);
    struct group part = {o->factor, o->scale, o->min, x, g->ldx, 0, 0};
    size_t bytes = bytes_of(kind, size, size);
    vf sums[SIX * PANELS];
    fetch(g, o, np, mt, p);
    UNROLL for (int n = 0; n < mt * np; n++) sums[n] = o->l ? p.sums[n] : v_set(0);
    for (int l = o->l; l < o->end; l += size) {
        UNROLL for (int h = 0; h < halves; h++) {
            part.half = h;
            part.words = kind == KIND_I8X      ? tile_min(size, o->end - l) / 4
                         : kind == KIND_HALVES ? 4
                                               : 8;
            add_group(t, &part, np, mt, sums);
            part.factor += part.words * np;
            part.scale += np;
        }
        part.min += np;
        UNROLL for (int a = mt; a < 2 * mt; a++) /* the same of the next tokens */
            for (size_t at = 0; at < bytes; at += 64)
                __builtin_prefetch(part.x + (size_t)a * g->ldx + at, 0, 3);
        part.x += bytes;
    }
    if (o->end == g->k)
        finish(g, np, mt, p.i, o->j, sums);
    else
        UNROLL for (int n = 0; n < mt * np; n++) p.sums[n] = sums[n];
}

/* Opens columns l .. end - 1 of np panels from row j and multiplies them with tokens [i, i1).  On
 * the way what the next piece, or the next panels, need is fetched, evenly. */
INLINE void pass(enum dtype t, const struct gemm *g, struct piece *o, int np, int i, int i1,
                 vf *sums) {
    enum kind kind = kind_of(t);
    size_t column = kind == KIND_I8X ? PANEL : slice_bytes(t) / 32; /* bytes, about */
    int left = (i1 - i + SIX - 1) / SIX;
    size_t ahead = o->end < g->k ? (size_t)o->end * column : (size_t)np * PANEL * g->ldw;
    size_t each = ((size_t)(o->end - o->l) * column / (size_t)left + 63) / 64 * 64;
    if (kind == KIND_I8X)
        open_int8(g, o, np);
    else
        open_blocks(t, g, o, np);
    for (int n; left; i += n, left--, ahead += each, sums += SIX * np) {
        n = (i1 - i + left - 1) / left; /* 5 or 6: tiles of about the same size */
        struct place p = {i, sums, ahead, each};
#ifdef NO_UNROLL
        tile(t, g, o, np, n, p);
#else
        if (n == SIX)
            tile(t, g, o, np, SIX, p);
        else
            tile(t, g, o, np, SIX - 1, p);
#endif
    }
}

INLINE void pieces(enum dtype t, const struct gemm *g, struct piece *o, int np, int i, int i1,
                   vf *sums) {
    for (o->l = 0; o->l < g->k; o->l += INPUTS) {
        o->end = tile_min(g->k, o->l + INPUTS);
        pass(t, g, o, np, i, i1, sums);
    }
}

INLINE void many(enum dtype t, const struct gemm *g) {
    struct piece o;
    vf sums[MOST * PANELS];
    int left = (g->m + MOST - 1) / MOST;
    o.size = t == DT_INT8 ? int8_group(g->k) : 32;
    for (int i = 0, n; left; i += n, left--) {
        n = (g->m - i + left - 1) / left;
        for (o.j = 0; o.j + PANELS * PANEL <= g->n; o.j += PANELS * PANEL)
            pieces(t, g, &o, PANELS, i, i + n, sums);
        for (; o.j < g->n; o.j += PANEL)
            pieces(t, g, &o, 1, i, i + n, sums);
    }
}

/* Tokens from which on this pays: the sooner, the more there is to open. */
static int least_tokens(enum dtype t) {
    return t == DT_INT8 || t == DT_INT4 || slice_kind(t) == SLICE_PLAIN ? 80 : 40;
}

bool many_vnni(enum dtype t, const struct gemm *g) {
    if (g->m < least_tokens(t))
        return false;
#ifdef NO_UNROLL
    many(t == DT_INT4 ? DT_Q4_0 : t, g);
    return true;
#else
    switch (t) {
    case DT_INT8:
        many(DT_INT8, g);
        return true;
    case DT_Q8_0:
        many(DT_Q8_0, g);
        return true;
    case DT_INT4:
    case DT_Q4_0:
        many(DT_Q4_0, g);
        return true;
    case DT_Q4_1:
        many(DT_Q4_1, g);
        return true;
    case DT_Q5_0:
        many(DT_Q5_0, g);
        return true;
    case DT_Q5_1:
        many(DT_Q5_1, g);
        return true;
    case DT_Q4_K:
        many(DT_Q4_K, g);
        return true;
    case DT_Q5_K:
        many(DT_Q5_K, g);
        return true;
    case DT_Q6_K:
        many(DT_Q6_K, g);
        return true;
    default:
        return false;
    }
#endif
}
