/* attend.c - attention over whole sequences, and its gradient.
 *
 * A thread takes one sequence and one key-value head with all its query heads, so sums over query
 * heads and over blocks have one order whatever the number of threads.  ATTN_ROWS query rows at a
 * time meet all the keys that any of them sees: four to five small products and a softmax of
 * complete rows.  The weights are not kept; the backward pass computes them again. With F32,
 * forward puts keys and values in blocks and goes through num/attend.h as run.c does, for the same
 * bits. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "num/attend.h"
#include "num/kern.h"
#include "train/impl.h"

struct item { /* one thread's share: sequence b, key-value head g */
    struct net *n;
    struct act *a;
    int id, b, g;
    float *s, *ds; /* (ATTN_ROWS, L) scores or weights, and their gradients */
    void *p, *dp;  /* the same as products read them */
    float *o;      /* (ATTN_ROWS, C) */
    char *k, *v;   /* F32: the head's keys and values in blocks, and what attend_tile works in */
    void *tmp;
};

#define TILE 16 /* tokens that meet keys together, in F32 */

struct block { /* rows [i0, i0 + m) of the sequence against keys [j0, j0 + n) */
    int i0, m, j0, n;
};

static size_t up64(size_t n) {
    return (n + 63) / 64 * 64;
}

/* F32: keys of one head of a sequence in blocks; rows of a tile. */
static size_t block_bytes(const struct net *n) {
    size_t blocks = ((size_t)n->o.len + ATTEND_BLOCK - 1) / ATTEND_BLOCK;
    return blocks * attend_block_bytes(DT_F32, n->m->cfg.head_dim);
}

static int tile_rows(const struct net *n) {
    return TILE * (n->m->cfg.n_head / n->m->cfg.n_kv_head);
}

size_t attend_bytes(const struct net *n) {
    size_t cells = (size_t)ATTN_ROWS * (size_t)n->o.len;
    size_t bytes = 2 * up64(cells * sizeof(float)) + 2 * up64(cells * ct_size(n)) +
                   up64((size_t)ATTN_ROWS * (size_t)n->m->cfg.head_dim * sizeof(float));
    if (n->o.type == DT_F32)
        bytes += 2 * block_bytes(n) + up64(attend_tmp(tile_rows(n), n->m->cfg.head_dim));
    return bytes;
}

static struct item item_of(struct net *n, struct act *a, int id, int i) {
    size_t cells = (size_t)ATTN_ROWS * (size_t)n->o.len;
    char *at = (char *)n->attn + (size_t)id * n->attn_bytes;
    struct item it = {
        .n = n, .a = a, .id = id, .b = i / n->m->cfg.n_kv_head, .g = i % n->m->cfg.n_kv_head};
    it.s = (float *)at;
    it.ds = (float *)(at += up64(cells * sizeof(float)));
    it.p = at += up64(cells * sizeof(float));
    it.dp = at += up64(cells * ct_size(n));
    it.o = (float *)(at += up64(cells * ct_size(n)));
    if (n->o.type == DT_F32) {
        it.k = at += up64((size_t)ATTN_ROWS * (size_t)n->m->cfg.head_dim * sizeof(float));
        it.v = at += block_bytes(n);
        it.tmp = at + block_bytes(n);
    }
    return it;
}

/* Elements of (T, heads*C) before row i of the item's sequence and head h. */
static size_t cell(const struct item *it, int i, int heads, int h) {
    const struct cfg *c = &it->n->m->cfg;
    return (((size_t)it->b * (size_t)it->n->b->len + (size_t)i) * (size_t)heads + (size_t)h) *
           (size_t)c->head_dim;
}

static const int *first_of(const struct item *it) {
    return it->n->first + (size_t)it->b * (size_t)it->n->b->len;
}

static struct dense_in operand(const struct item *it, const void *p, int i, int heads, int h) {
    return (struct dense_in){ct_at(it->n, p, cell(it, i, heads, h)), heads * it->n->m->cfg.head_dim,
                             false};
}

static struct dense_in flip(struct dense_in in) {
    in.t = !in.t;
    return in;
}

static void product(const struct item *it, struct dense j) {
    j.type = it->n->o.type;
    dense_one(it->n->dense, it->id, &j);
}

static struct block block_at(const struct item *it, int i0) {
    int len = it->n->b->len, m = len - i0 < ATTN_ROWS ? len - i0 : ATTN_ROWS;
    int j0 = first_of(it)[i0] / ATTN_ROWS * ATTN_ROWS; /* few shapes of products */
    return (struct block){i0, m, j0, i0 + m - j0};
}

/* it->s and it->p = softmax(q k^T / sqrt(C)) of head h; 0 where a key is not seen. */
static void weights(const struct item *it, const struct block *b, int h) {
    const struct net *n = it->n;
    const struct cfg *c = &n->m->cfg;
    const int *first = first_of(it);
    float scale = 1.0f / sqrtf((float)c->head_dim);
    product(it, (struct dense){.m = b->m,
                               .n = b->n,
                               .k = c->head_dim,
                               .a = operand(it, it->a->q, b->i0, c->n_head, h),
                               .b = flip(operand(it, it->a->k, b->j0, c->n_kv_head, it->g)),
                               .c = it->s,
                               .ldc = n->o.len});
    for (int r = 0; r < b->m; r++) {
        float *s = it->s + (size_t)r * (size_t)n->o.len;
        int lo = first[b->i0 + r] - b->j0, hi = b->i0 + r + 1 - b->j0;
        memset(s, 0, (size_t)lo * sizeof *s);
        memset(s + hi, 0, (size_t)(b->n - hi) * sizeof *s);
        kern.scale(s + lo, hi - lo, scale);
        kern.scale(s + lo, hi - lo, 1 / kern.softmax_exp(s + lo, hi - lo));
        ct_write(n, it->p, (size_t)r * (size_t)n->o.len, s, b->n);
    }
}

static void forward_block(const struct item *it, const struct block *b, int h) {
    const struct net *n = it->n;
    const struct cfg *c = &n->m->cfg;
    weights(it, b, h);
    product(it, (struct dense){.m = b->m,
                               .n = c->head_dim,
                               .k = b->n,
                               .a = {it->p, n->o.len, false},
                               .b = operand(it, it->a->v, b->j0, c->n_kv_head, it->g),
                               .c = it->o,
                               .ldc = c->head_dim});
    for (int r = 0; r < b->m; r++)
        ct_write(n, it->a->att, cell(it, b->i0 + r, c->n_head, h), it->o + r * c->head_dim,
                 c->head_dim);
}

/* Tokens [lo, hi), a document, as run.c computes them by themselves. */
static void forward_document(const struct item *it, int lo, int hi) {
    const struct cfg *c = &it->n->m->cfg;
    int d = c->head_dim, group = c->n_head / c->n_kv_head, first[TILE];
    size_t block = attend_block_bytes(DT_F32, d);
    for (int j = lo; j < hi; j++) {
        size_t from = cell(it, j, c->n_kv_head, it->g);
        size_t to = (size_t)((j - lo) / ATTEND_BLOCK) * block;
        attend_put_k(DT_F32, it->k + to, (j - lo) % ATTEND_BLOCK, (float *)it->a->k + from, d);
        attend_put_v(DT_F32, it->v + to, (j - lo) % ATTEND_BLOCK, (float *)it->a->v + from, d);
    }
    for (int i = lo; i < hi; i += TILE) {
        size_t at = cell(it, i, c->n_head, it->g * group);
        int n = hi - i < TILE ? hi - i : TILE;
        for (int j = 0; j < n; j++)
            first[j] = first_of(it)[i + j] - lo;
        attend_tile(&(struct attend_tile){.type = DT_F32,
                                          .c = d,
                                          .group = group,
                                          .pos = i - lo,
                                          .n = n,
                                          .first = first,
                                          .q = (float *)it->a->q + at,
                                          .out = (float *)it->a->att + at,
                                          .ld = (size_t)(c->n_head * d),
                                          .k = it->k,
                                          .v = it->v,
                                          .at = {.block = block},
                                          .tmp = it->tmp});
    }
}

static void forward_f32(const struct item *it) {
    int len = it->n->b->len;
    const int *start = it->n->b->start ? it->n->b->start + (size_t)it->b * (size_t)len : NULL;
    for (int lo = 0, hi; lo < len; lo = hi) {
        for (hi = lo + 1; hi < len && (!start || start[hi] == start[lo]); hi++)
            ;
        forward_document(it, lo, hi);
    }
}

static void forward_item(const struct item *it) {
    int group = it->n->m->cfg.n_head / it->n->m->cfg.n_kv_head;
    if (it->n->o.type == DT_F32) {
        forward_f32(it);
        return;
    }
    for (int h = it->g * group; h < (it->g + 1) * group; h++)
        for (int i = 0; i < it->n->b->len; i += ATTN_ROWS) {
            struct block b = block_at(it, i);
            forward_block(it, &b, h);
        }
}

/* it->dp = p (dp - sum p dp) / sqrt(C), from it->s = p and it->ds = dp. */
static void dsoftmax(const struct item *it, const struct block *b) {
    const struct net *n = it->n;
    float scale = 1.0f / sqrtf((float)n->m->cfg.head_dim);
    for (int r = 0; r < b->m; r++) {
        size_t at = (size_t)r * (size_t)n->o.len;
        kern.softmax_grad(it->ds + at, it->s + at, b->n, scale);
        ct_write(n, it->dp, at, it->ds + at, b->n);
    }
}

static void dblock(const struct item *it, const struct block *b, int h) {
    const struct net *n = it->n;
    const struct cfg *c = &n->m->cfg;
    int d = c->head_dim, kv = c->n_kv_head * d;
    float *dk = n->wide2, *dv = dk + (size_t)n->n_tok * (size_t)kv;
    const struct dense_in dout = operand(it, n->datt, b->i0, c->n_head, h);
    const struct dense_in q = operand(it, it->a->q, b->i0, c->n_head, h);
    const struct dense_in k = operand(it, it->a->k, b->j0, c->n_kv_head, it->g);
    const struct dense_in v = operand(it, it->a->v, b->j0, c->n_kv_head, it->g);
    const struct dense_in p = {it->p, n->o.len, false}, ds = {it->dp, n->o.len, false};
    size_t past = cell(it, b->j0, c->n_kv_head, it->g);
    weights(it, b, h);
    product(
        it,
        (struct dense){
            .m = b->m, .n = b->n, .k = d, .a = dout, .b = flip(v), .c = it->ds, .ldc = n->o.len});
    dsoftmax(it, b);
    product(it, (struct dense){.m = b->m,
                               .n = d,
                               .k = b->n,
                               .a = ds,
                               .b = k,
                               .c = n->wide + cell(it, b->i0, c->n_head, h),
                               .ldc = c->n_head * d});
    product(it, (struct dense){.m = b->n,
                               .n = d,
                               .k = b->m,
                               .a = flip(ds),
                               .b = q,
                               .c = dk + past,
                               .ldc = kv,
                               .add = true});
    product(it, (struct dense){.m = b->n,
                               .n = d,
                               .k = b->m,
                               .a = flip(p),
                               .b = dout,
                               .c = dv + past,
                               .ldc = kv,
                               .add = true});
}

static void backward_item(const struct item *it) {
    const struct cfg *c = &it->n->m->cfg;
    int group = c->n_head / c->n_kv_head;
    float *dk = it->n->wide2;
    float *dv = dk + (size_t)it->n->n_tok * (size_t)c->n_kv_head * (size_t)c->head_dim;
    for (int i = 0; i < it->n->b->len; i++) {
        memset(dk + cell(it, i, c->n_kv_head, it->g), 0, (size_t)c->head_dim * sizeof *dk);
        memset(dv + cell(it, i, c->n_kv_head, it->g), 0, (size_t)c->head_dim * sizeof *dv);
    }
    for (int h = it->g * group; h < (it->g + 1) * group; h++)
        for (int i = 0; i < it->n->b->len; i += ATTN_ROWS) {
            struct block b = block_at(it, i);
            dblock(it, &b, h);
        }
}

struct job {
    struct net *n;
    struct act *a;
    void (*fn)(const struct item *it);
    atomic_int next; /* who takes an item is left to the moment: its bits do not depend on it */
};

static void over_items(void *arg, int id, int n) {
    struct job *j = arg;
    (void)n;
    for (int i; (i = atomic_fetch_add(&j->next, 1)) < j->n->b->rows * j->n->m->cfg.n_kv_head;) {
        struct item it = item_of(j->n, j->a, id, i);
        j->fn(&it);
    }
}

void attend(struct net *n, struct act *a) {
    pool_run(n->pool, over_items, &(struct job){n, a, forward_item, 0});
}

void dattend(struct net *n, struct act *a) {
    pool_run(n->pool, over_items, &(struct job){n, a, backward_item, 0});
}
