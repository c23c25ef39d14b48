/* attend.c - see attend.h.  The kernels compute one split; here a tile is led through all of its
 * splits. */
#include "num/attend.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MOST 1024 /* components of a head: cfg.c allows no more */

/* -- blocks ------------------------------------------------------------------------------------ */

int attend_dim(int c) {
    return (c + 15) / 16 * 16;
}

bool attend_type(enum dtype t) {
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 || t == DT_INT8;
}

size_t attend_block_bytes(enum dtype t, int c) {
    size_t cells = (size_t)ATTEND_BLOCK * (size_t)attend_dim(c);
    return t == DT_INT8 ? cells + ATTEND_BLOCK * sizeof(float) : cells * dtype_row_bytes(t, 1);
}

/* Of a component, a scale apart. */
static int cell_bytes(enum dtype t) {
    return t == DT_INT8 ? 1 : (int)dtype_row_bytes(t, 1);
}

/* Integers and their scale; a scale that is not a number tells of an x that was not finite. */
static float quantise(int8_t *q, const float *x, int c) {
    float max = 0;
    bool finite = true;
    for (int i = 0; i < c; i++) {
        finite = finite && isfinite(x[i]);
        max = fmaxf(max, fabsf(x[i]));
    }
    bool some = finite && max >= 1e-30f; /* smaller ones are 0: 127 / max must not overflow */
    for (int i = 0; i < c; i++)
        q[i] = some ? (int8_t)lrintf(x[i] * (127 / max)) : 0;
    return !finite ? NAN : some ? max / 127 : 0;
}

/* dst[i * step] = src[i] for n cells of so many bytes. */
static void scatter(void *dst, size_t step, const void *src, int n, int bytes) {
    if (bytes == 4)
        for (int i = 0; i < n; i++)
            ((uint32_t *)dst)[(size_t)i * step] = ((const uint32_t *)src)[i];
    else if (bytes == 2)
        for (int i = 0; i < n; i++)
            ((uint16_t *)dst)[(size_t)i * step] = ((const uint16_t *)src)[i];
    else
        for (int i = 0; i < n; i++)
            ((uint8_t *)dst)[(size_t)i * step] = ((const uint8_t *)src)[i];
}

/* x in type t at dst; with INT8 also the scale of token j. */
static void convert(enum dtype t, void *dst, char *block, int j, const float *x, int c) {
    if (t == DT_F32)
        memcpy(dst, x, (size_t)c * sizeof *x);
    else if (t == DT_F16)
        kern.f16_pack(dst, x, c);
    else if (t == DT_BF16)
        kern.bf16_pack(dst, x, c);
    else
        ((float *)(void *)(block + ATTEND_BLOCK * attend_dim(c)))[j] = quantise(dst, x, c);
}

void attend_put_k(enum dtype t, void *block, int j, const float *x, int c) {
    uint32_t cell[MOST] = {0};
    assert(c <= MOST);
    convert(t, cell, block, j, x, c);
    if (t == DT_BF16) /* a pair is a cell */
        scatter((uint32_t *)block + j, ATTEND_BLOCK, cell, (c + 1) / 2, 4);
    else
        scatter((char *)block + j * cell_bytes(t), ATTEND_BLOCK, cell, c, cell_bytes(t));
}

void attend_put_v(enum dtype t, void *block, int j, const float *x, int c) {
    uint32_t cell[MOST];
    int d = attend_dim(c), bytes = cell_bytes(t);
    assert(c <= MOST);
    convert(t, cell, block, j, x, c);
    if (t == DT_BF16)
        scatter((uint16_t *)block + j / 2 * 2 * d + j % 2, 2, cell, c, 2);
    else
        memcpy((char *)block + j * d * bytes, cell, (size_t)(c * bytes));
}

/* -- a tile ------------------------------------------------------------------------------------ */

static int d_of(const struct attend_tile *t) {
    return attend_dim(t->c);
}

static size_t row_floats(const struct attend_tile *t) {
    return (size_t)(ATTEND_HEAD + d_of(t));
}

/* tmp: queries (rows, d); partial results and what they join to (rows, ATTEND_HEAD + d) each; what
 * rows see; the kernel's. */
static float *tmp_part(const struct attend_tile *t) {
    return (float *)t->tmp + (size_t)(t->n * t->group) * (size_t)d_of(t);
}

static float *tmp_state(const struct attend_tile *t) {
    return tmp_part(t) + attend_part_floats(t);
}

static struct attend_keys *tmp_see(const struct attend_tile *t) {
    return (struct attend_keys *)(void *)(tmp_state(t) + attend_part_floats(t));
}

size_t attend_tmp(int rows, int c) {
    size_t d = (size_t)attend_dim(c), n = (size_t)rows;
    return (n * d + 2 * n * (ATTEND_HEAD + d)) * sizeof(float) + n * sizeof(struct attend_keys) +
           (size_t)2 * ATTEND_ROWS * d;
}

size_t attend_part_floats(const struct attend_tile *t) {
    return (size_t)(t->n * t->group) * row_floats(t);
}

static int first_of(const struct attend_tile *t, int i) {
    return t->first ? t->first[i] : 0;
}

void attend_splits(const struct attend_tile *t, int *s0, int *s1) {
    *s0 = first_of(t, 0) / ATTEND_SPLIT;
    *s1 = (t->pos + t->n - 1) / ATTEND_SPLIT + 1;
}

/* Tokens [*i0, *i1) see keys of the split: early ones end before it, late ones begin after it. */
static void tokens_of(const struct attend_tile *t, int split, int *i0, int *i1) {
    int lo = split * ATTEND_SPLIT;
    *i0 = lo > t->pos ? lo - t->pos : 0;
    *i1 = t->n;
    while (*i1 > *i0 && first_of(t, *i1 - 1) >= lo + ATTEND_SPLIT)
        --*i1;
}

/* After this an exponent of 2 comes of a product with a key. */
static void scale_queries(const struct attend_tile *t) {
    float *q = t->tmp, scale = 1.44269504f / sqrtf((float)t->c); /* log2(e) / sqrt(c) */
    size_t d = (size_t)d_of(t);
    for (int i = 0; i < t->n; i++)
        for (int h = 0; h < t->group; h++) {
            float *to = q + (size_t)(i * t->group + h) * d;
            memset(to, 0, d * sizeof *to);
            memcpy(to, t->q + (size_t)i * t->ld + (size_t)(h * t->c), (size_t)t->c * sizeof *to);
            kern.scale(to, t->c, scale);
        }
}

static void run_kernel(enum dtype type, const struct attend *a) {
    switch (type) {
    case DT_F32:
        kern.attend_f32(a);
        return;
    case DT_F16:
        kern.attend_f16(a);
        return;
    case DT_BF16:
        kern.attend_bf16(a);
        return;
    default:
        kern.attend_int8(a);
    }
}

/* The blocks of `keys` tokens from block b0, and the ATTEND_AHEAD blocks of keys after them, which
 * only a prefetch may touch.  One division a split: groups are walked, not looked up. */
static int list_blocks(const struct attend_tile *t, int b0, int keys, const char **k,
                       const char **v) {
    const struct attend_place *p = &t->at;
    int n = (keys + ATTEND_BLOCK - 1) / ATTEND_BLOCK;
    int left = p->blocks ? p->blocks - b0 % p->blocks : n + ATTEND_AHEAD;
    size_t at = attend_at(p, b0);
    for (int b = 0; b < n + ATTEND_AHEAD; b++) {
        k[b] = t->k + at;
        if (b < n)
            v[b] = t->v + at;
        at += p->block;
        if (--left == 0) {
            at += p->group - (size_t)p->blocks * p->block;
            left = p->blocks;
        }
    }
    return n;
}

/* One split, with queries that are scaled already. */
static void part_of(const struct attend_tile *t, int split, float *part) {
    const char *k[ATTEND_SPLIT / ATTEND_BLOCK + ATTEND_AHEAD], *v[ATTEND_SPLIT / ATTEND_BLOCK];
    struct attend_keys *see = tmp_see(t);
    int i0, i1, base = split * ATTEND_SPLIT, end = 0;
    tokens_of(t, split, &i0, &i1);
    if (i0 >= i1)
        return;
    for (int i = i0; i < i1; i++) {
        int lo = first_of(t, i) - base, hi = t->pos + i + 1 - base;
        lo = lo < 0 ? 0 : lo;
        end = hi < ATTEND_SPLIT ? hi : ATTEND_SPLIT;
        for (int h = 0; h < t->group; h++)
            see[i * t->group + h] = (struct attend_keys){lo, end};
    }
    int n_block = list_blocks(t, base / ATTEND_BLOCK, end, k, v);
    for (int b = 0; b < ATTEND_AHEAD && end < ATTEND_SPLIT; b++) /* there is no next split */
        k[n_block + b] = k[n_block - 1];
    size_t row = (size_t)(i0 * t->group);
    struct attend a = {.q = (float *)t->tmp + row * (size_t)d_of(t),
                       .k = k,
                       .v = v,
                       .see = see + row,
                       .part = part + row * row_floats(t),
                       .tmp = see + t->n * t->group,
                       .m = (i1 - i0) * t->group,
                       .d = d_of(t)};
    run_kernel(t->type, &a);
}

void attend_part(const struct attend_tile *t, int split, float *part) {
    scale_queries(t);
    part_of(t, split, part);
}

/* Joins the split's result to what came before it, row by row. */
static void join(const struct attend_tile *t, int split, const float *part) {
    int i0, i1;
    tokens_of(t, split, &i0, &i1);
    for (int i = i0; i < i1; i++)
        for (int h = 0; h < t->group; h++) {
            size_t at = (size_t)(i * t->group + h) * row_floats(t);
            if (split == first_of(t, i) / ATTEND_SPLIT)
                memcpy(tmp_state(t) + at, part + at, row_floats(t) * sizeof *part);
            else
                kern.attend_merge(tmp_state(t) + at, part + at, d_of(t));
        }
}

static void finish(const struct attend_tile *t) {
    for (int i = 0; i < t->n; i++)
        for (int h = 0; h < t->group; h++) {
            const float *row = tmp_state(t) + (size_t)(i * t->group + h) * row_floats(t);
            float *out = t->out + (size_t)i * t->ld + (size_t)(h * t->c);
            memcpy(out, row + ATTEND_HEAD, (size_t)t->c * sizeof *out);
            kern.scale(out, t->c, 1 / row[1]);
        }
}

void attend_join(const struct attend_tile *t, const float *part) {
    int s0, s1;
    attend_splits(t, &s0, &s1);
    for (int s = s0; s < s1; s++)
        join(t, s, part + (size_t)(s - s0) * attend_part_floats(t));
    finish(t);
}

/* The lines of the result, which are written last of all. */
static void fetch_out(const struct attend_tile *t) {
    for (int i = 0; i < t->n; i++)
        for (int j = 0; j < t->group * t->c; j += 16)
            __builtin_prefetch(t->out + (size_t)i * t->ld + j, 1);
}

void attend_tile(const struct attend_tile *t) {
    int s0, s1;
    attend_splits(t, &s0, &s1);
    scale_queries(t);
    fetch_out(t);
    if (!t->first) /* all tokens begin with the first split: nothing to join it to */
        part_of(t, s0++, tmp_state(t));
    for (int s = s0; s < s1; s++) {
        part_of(t, s, tmp_part(t));
        join(t, s, tmp_part(t));
    }
    finish(t);
}
