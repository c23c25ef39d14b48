/* attend.c - attention over whole sequences, and its gradient.
 *
 * A thread takes one sequence and one key-value head with all its query heads, so sums over query
 * heads and over blocks have one order whatever the number of threads.  ATTN_ROWS query rows at a
 * time meet all the keys that any of them sees: four to five small products and a softmax of
 * complete rows.  The weights are not kept; the backward pass computes them again. With F32,
 * forward is row by row with the kernels of run.c, for the same bits. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "num/kern.h"
#include "train/impl.h"

struct item { /* one thread's share: sequence b, key-value head g */
    struct net *n;
    struct act *a;
    int id, b, g;
    float *s, *ds; /* (ATTN_ROWS, L) scores or weights, and their gradients */
    void *p, *dp;  /* the same as products read them */
    float *o;      /* (ATTN_ROWS, C) */
};

struct block { /* rows [i0, i0 + m) of the sequence against keys [j0, j0 + n) */
    int i0, m, j0, n;
};

static size_t up64(size_t n) {
    return (n + 63) / 64 * 64;
}

size_t attend_bytes(const struct net *n) {
    size_t cells = (size_t)ATTN_ROWS * (size_t)n->o.len;
    return 2 * up64(cells * sizeof(float)) + 2 * up64(cells * ct_size(n)) +
           up64((size_t)ATTN_ROWS * (size_t)n->m->cfg.head_dim * sizeof(float));
}

static struct item item_of(struct net *n, struct act *a, int id, int i) {
    size_t cells = (size_t)ATTN_ROWS * (size_t)n->o.len;
    char *at = (char *)n->attn + (size_t)id * n->attn_bytes;
    struct item it = {n,    a,    id,  i / n->m->cfg.n_kv_head, i % n->m->cfg.n_kv_head, NULL, NULL,
                      NULL, NULL, NULL};
    it.s = (float *)at;
    it.ds = (float *)(at += up64(cells * sizeof(float)));
    it.p = at += up64(cells * sizeof(float));
    it.dp = at += up64(cells * ct_size(n));
    it.o = (float *)(at + up64(cells * ct_size(n)));
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

/* Row i of head h as run.c computes it. */
static void forward_row(const struct item *it, int i, int h) {
    const struct cfg *c = &it->n->m->cfg;
    int first = first_of(it)[i], n = i - first + 1;
    size_t stride = (size_t)c->n_kv_head * (size_t)c->head_dim * sizeof(float);
    size_t past = cell(it, first, c->n_kv_head, it->g), at = cell(it, i, c->n_head, h);
    float scale = 1.0f / sqrtf((float)c->head_dim);
    kern.attn_score_f32(it->s, (float *)it->a->q + at, (float *)it->a->k + past, stride, n,
                        c->head_dim, scale);
    float sum = kern.softmax_exp(it->s, n);
    kern.attn_mix_f32((float *)it->a->att + at, it->s, (float *)it->a->v + past, stride, n,
                      c->head_dim, 1.0f / sum);
}

static void forward_item(const struct item *it) {
    int group = it->n->m->cfg.n_head / it->n->m->cfg.n_kv_head;
    for (int h = it->g * group; h < (it->g + 1) * group; h++) {
        if (it->n->o.type == DT_F32) {
            for (int i = 0; i < it->n->b->len; i++)
                forward_row(it, i, h);
            continue;
        }
        for (int i = 0; i < it->n->b->len; i += ATTN_ROWS) {
            struct block b = block_at(it, i);
            forward_block(it, &b, h);
        }
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
