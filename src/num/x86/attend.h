/* attend.h - attention of one split in floats, the same for every vector width.  Included once by
 * avx2.c and by avx512.c, after lanes.h.
 *
 * A lane of a score is a key, a lane of a result a component, so that nothing is added across
 * lanes but the sum of the weights.  ATTEND_ROWS queries share what is loaded of keys and values;
 * each has its own chain of additions, from the first component or key to the last.
 * exception: compiles only there, and is a kernel file in all but name. */
#ifndef NUM_X86_ATTEND_H
#define NUM_X86_ATTEND_H

#include "num/x86/lanes.h"

#define VECS (W / 4)                   /* vectors of keys or components in a tile        */
#define FAR (VECS * W / ATTEND_BLOCK)  /* blocks of keys in a tile                       */

struct rows_of { /* some rows of a split, up to ATTEND_ROWS */
    const struct attend *a;
    int r;                               /* the first                                         */
    float s[ATTEND_ROWS * ATTEND_SPLIT]; /* scores, then weights                              */
};

INLINE float *row_part(const struct attend *a, int r) {
    return a->part + (size_t)r * (size_t)(ATTEND_HEAD + a->d);
}

/* 2^x for x <= 0 or NaN within 2 ulp. */
INLINE vf v_exp2(vf x) {
    x = v_max(v_set(-200), x);
    vf n = v_round(x);
    return v_exp_parts(n, v_mul(v_sub(x, n), v_set(0.693147181f)));
}

/* Bytes of a component of ATTEND_BLOCK keys, or of ATTEND_BLOCK components of a value. */
INLINE size_t cell_bytes(enum dtype t) {
    return ATTEND_BLOCK * (size_t)(t == DT_F32 ? 4 : t == DT_INT8 ? 1 : 2);
}

/* W numbers from p; of bfloat16, the odd or even ones of W pairs. */
INLINE vf load_kv(enum dtype t, const char *p, bool odd) {
    switch (t) {
    case DT_F32:
        return v_load((const float *)(const void *)p);
    case DT_F16:
        return v_load_half(p);
    case DT_BF16:
        return odd ? v_odd(v_load_pairs(p)) : v_even(v_load_pairs(p));
    default:
        return v_load_bytes(p);
    }
}

/* Where in a run of them the i-th key of a component, or component of a value, lies. */
INLINE size_t lane_at(enum dtype t, int i) {
    return (size_t)i * (t == DT_F32 || t == DT_BF16 ? 4 : t == DT_F16 ? 2 : 1);
}

/* DT_INT8: the scales of tokens j .. j + W - 1 of a block. */
INLINE vf load_scales(const char *block, int j, int d) {
    return v_load((const float *)(const void *)(block + ATTEND_BLOCK * d) + j);
}

/* Scores of mt rows against the keys of nb blocks from b. */
INLINE void score_tile(enum dtype t, struct rows_of *x, int mt, int nb, int b) {
    const int nv = nb * ATTEND_BLOCK / W, d = x->a->d;
    const size_t size = cell_bytes(t);
    const float *q = x->a->q + (size_t)x->r * (size_t)d;
    const char *const *k = x->a->k + b, *soon[FAR];
    vf acc[ATTEND_ROWS * VECS];
    UNROLL for (int i = 0; i < mt * nv; i++) acc[i] = v_set(0);
    UNROLL for (int n = 0; n < nb; n++) soon[n] = tile_block(x->a, b + n + ATTEND_AHEAD);
    for (int i = 0; i < d; i += 2) {
        if (x->r == 0) /* with the first rows, fetch the blocks that come next */
            UNROLL for (int n = 0; n < nb; n++) UNROLL for (size_t at = 0; at < 2 * size; at += 64)
                __builtin_prefetch(soon[n] + (size_t)i * size + at);
        UNROLL for (int e = 0; e < 2; e++) { /* an even and an odd one */
            size_t at = (size_t)(t == DT_BF16 ? i : i + e) * size;
            vf key[VECS];
            UNROLL for (int n = 0; n < nv; n++) key[n] =
                load_kv(t, k[n * W / ATTEND_BLOCK] + at + lane_at(t, n * W % ATTEND_BLOCK), e);
            UNROLL for (int r = 0; r < mt; r++) {
                vf qi = v_set(q[(size_t)r * (size_t)d + (size_t)(i + e)]);
                UNROLL for (int n = 0; n < nv; n++) acc[r * nv + n] =
                    v_fma(qi, key[n], acc[r * nv + n]);
            }
        }
    }
    UNROLL for (int r = 0; r < mt; r++) UNROLL for (int n = 0; n < nv; n++) {
        vf s = acc[r * nv + n];
        if (t == DT_INT8)
            s = v_mul(s, load_scales(k[n * W / ATTEND_BLOCK], n * W % ATTEND_BLOCK, d));
        v_store(x->s + r * ATTEND_SPLIT + b * ATTEND_BLOCK + n * W, s);
    }
}

/* Scores of one row to weights, and to max and sum of its part. */
INLINE void weigh(enum dtype t, const struct attend *a, int r, float *s) {
    const struct attend_keys see = a->see[r];
    const int j0 = see.lo / W * W;
    vf top = v_set(-INFINITY), sum = v_set(0);
    if (see.lo > j0) /* what the row does not see */
        v_store_part(s + j0, v_set(-INFINITY), see.lo - j0);
    if (see.hi % W)
        v_store_part(s + see.hi, v_set(-INFINITY), W - see.hi % W);
    for (int j = j0; j < see.hi; j += W)
        top = v_max(v_load(s + j), top); /* passes over NaN */
    float max = v_hmax(top);
    max = max == -INFINITY ? 0 : max;
    for (int j = j0; j < see.hi; j += W) {
        vf e = v_exp2(v_sub(v_load(s + j), v_set(max)));
        sum = v_add(sum, e);
        if (t == DT_INT8) /* values are scaled with their weights */
            e = v_mul(e, load_scales(a->v[j / ATTEND_BLOCK], j % ATTEND_BLOCK, a->d));
        v_store(s + j, e);
    }
    row_part(a, r)[0] = max;
    row_part(a, r)[1] = sum_of(sum);
}

/* Adds what the keys see gives to nv vectors of mt rows' results, from component i. */
INLINE void mix_tile(enum dtype t, const struct rows_of *x, int r, int mt, struct attend_keys see,
                     int i, int nv) {
    const struct attend *a = x->a;
    const int d = a->d, pair = t == DT_BF16 ? 2 : 1, n_block = tile_blocks(a);
    const size_t row = (size_t)(d / ATTEND_BLOCK) * cell_bytes(t) * (size_t)pair;
    vf acc[ATTEND_ROWS * VECS];
    UNROLL for (int m = 0; m < mt; m++) UNROLL for (int n = 0; n < nv; n++) acc[m * nv + n] =
        v_load(row_part(a, x->r + r + m) + ATTEND_HEAD + i + n * W);
    for (int b = see.lo / ATTEND_BLOCK; b * ATTEND_BLOCK < see.hi; b++) {
        const char *v = a->v[b] + lane_at(t, i);
        const char *soon = tile_block(a, n_block + b + ATTEND_AHEAD) + lane_at(t, i);
        const float *s = x->s + r * ATTEND_SPLIT + b * ATTEND_BLOCK;
        int j = see.lo - b * ATTEND_BLOCK, end = tile_min(ATTEND_BLOCK, see.hi - b * ATTEND_BLOCK);
        for (j = j > 0 ? j : 0; j < end; j++) {
            const size_t at = (size_t)(j / pair) * row;
            vf value[VECS];
            UNROLL for (int n = 0; n < nv; n++) value[n] =
                load_kv(t, v + at + lane_at(t, n * W), j % 2);
            if (x->r == 0)
                UNROLL for (int n = 0; n < nv * W; n += ATTEND_BLOCK)
                    __builtin_prefetch(soon + at + lane_at(t, n));
            UNROLL for (int m = 0; m < mt; m++) {
                vf p = v_set(s[m * ATTEND_SPLIT + j]);
                UNROLL for (int n = 0; n < nv; n++) acc[m * nv + n] =
                    v_fma(p, value[n], acc[m * nv + n]);
            }
        }
    }
    UNROLL for (int m = 0; m < mt; m++) UNROLL for (int n = 0; n < nv; n++)
        v_store(row_part(a, x->r + r + m) + ATTEND_HEAD + i + n * W, acc[m * nv + n]);
}

INLINE void mix(enum dtype t, const struct rows_of *x, int r, int mt, struct attend_keys see) {
    int i = 0;
    if (see.lo >= see.hi)
        return;
    for (; i + VECS * W <= x->a->d; i += VECS * W)
        mix_tile(t, x, r, mt, see, i, VECS);
    for (; i < x->a->d; i += 16)
        mix_tile(t, x, r, mt, see, i, 16 / W);
}

INLINE void attend_rows(enum dtype t, struct rows_of *x, int mt) {
    const struct attend *a = x->a;
    const struct attend_keys *see = a->see + x->r;
    int b = see[0].lo / ATTEND_BLOCK, end = (see[mt - 1].hi + ATTEND_BLOCK - 1) / ATTEND_BLOCK;
    for (; b + FAR <= end; b += FAR)
        score_tile(t, x, mt, FAR, b);
    for (; b < end; b++)
        score_tile(t, x, mt, 1, b);
    for (int r = 0; r < mt; r++) {
        weigh(t, a, x->r + r, x->s + r * ATTEND_SPLIT);
        memset(row_part(a, x->r + r) + ATTEND_HEAD, 0, (size_t)a->d * sizeof(float));
    }
    /* the keys that all rows see together, those before and after them row by row */
    struct attend_keys all = {see[mt - 1].lo, see[0].hi};
    all.hi = all.hi > all.lo ? all.hi : all.lo;
    for (int r = 0; r < mt; r++)
        mix(t, x, r, 1, (struct attend_keys){see[r].lo, tile_min(all.lo, see[r].hi)});
    mix(t, x, 0, mt, all);
    for (int r = 0; r < mt; r++)
        mix(t, x, r, 1, (struct attend_keys){all.hi > see[r].lo ? all.hi : see[r].lo, see[r].hi});
}

INLINE void attend_split(enum dtype t, const struct attend *a) {
    struct rows_of x;
    x.a = a;
    for (x.r = 0; x.r < a->m; x.r += ATTEND_ROWS) {
        int mt = tile_min(ATTEND_ROWS, a->m - x.r);
#ifdef NO_UNROLL
        attend_rows(t, &x, mt);
#else
        switch (mt) {
        case 1:
            attend_rows(t, &x, 1);
            break;
        case 2:
            attend_rows(t, &x, 2);
            break;
        case 3:
            attend_rows(t, &x, 3);
            break;
        case 4:
            attend_rows(t, &x, 4);
            break;
        case 5:
            attend_rows(t, &x, 5);
            break;
        default:
            attend_rows(t, &x, 6);
        }
#endif
    }
}

static void attend_f32(const struct attend *a) {
    attend_split(DT_F32, a);
}

static void attend_f16(const struct attend *a) {
    attend_split(DT_F16, a);
}

static void attend_bf16(const struct attend *a) {
    attend_split(DT_BF16, a);
}

static void attend_int8(const struct attend *a) {
    attend_split(DT_INT8, a);
}

static void attend_merge(float *state, const float *part, int d) {
    float max = state[0] > part[0] ? state[0] : part[0];
    vf a = v_exp2(v_set(state[0] - max)), b = v_exp2(v_set(part[0] - max));
    for (int i = 0; i < d; i += W) {
        float *o = state + ATTEND_HEAD + i;
        v_store(o, v_fma(a, v_load(o), v_mul(b, v_load(part + ATTEND_HEAD + i))));
    }
    v_store_part(state + 1, v_fma(a, v_set(state[1]), v_mul(b, v_set(part[1]))), 1);
    state[0] = max;
}

static void attend_fill(struct kern *k) {
    k->attend_f32 = attend_f32;
    k->attend_f16 = attend_f16;
    k->attend_bf16 = attend_bf16;
    k->attend_int8 = attend_int8;
    k->attend_merge = attend_merge;
}

#endif
