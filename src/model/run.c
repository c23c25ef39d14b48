/* run.c - the transformer, forwards.
 *
 * One pass for all families; what differs is a flag of struct cfg.  Shapes in comments: T tokens of
 * the batch, D model width, H heads, G key-value heads, C components of a head, F width of the MLP.
 *
 * Invariants: (1) the arithmetic of a token's row depends on the token, its position and its
 * sequence's KV only: every kernel works on one row, and attention adds up the past in an order of
 * its own (attend.h), so a batch, a chunk and a single step give the same bits; (2) nothing is
 * allocated between entry and exit of run_step.  Tested in test/unit/run.c. */
#include "model/run.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "model/rope.h"
#include "num/attend.h"
#include "num/kern.h"
#include "num/linear.h"
#include "num/panel.h"

#define TILE 64  /* rows of queries that meet a block of keys together */
#define SHARES 4 /* a thread, at least, or the past is split */

struct tile { /* n consecutive tokens of a span */
    int tok, n;
};

struct run {
    const struct model *m; /* borrowed */
    struct pool *pool;     /* borrowed */
    struct linear_ctx *lin;
    int max_tok, n_ctx;

    float *x;             /* (T, D) the residual stream                     */
    float *h, *h2;        /* (T, D) normed inputs of attention and MLP      */
    float *q, *att;       /* (T, H*C)                                       */
    float *k, *v;         /* (T, G*C)                                       */
    float *gate, *up;     /* (T, F)                                         */
    float *y;             /* (T, D) what a sub-layer adds to the stream     */
    float *cos, *sin;     /* (n_ctx, rope_dim/2)                            */
    int *id, *slot, *pos; /* (T) which token this is, whose, and where      */
    struct tile *tile;    /* (T) the batch in tiles                         */
    int n_tile, n_split;  /* n_split: of the longest past                 */
    char *tmp;            /* (threads) of tmp_bytes for attend_tile()          */
    size_t tmp_bytes, part_floats;
    float *part;      /* (SHARES * threads) of part_floats: results of splits */
    atomic_int *done; /* (SHARES * threads) splits that are finished        */
    void *arena;      /* owns all of the above                          */
    size_t arena_bytes;

    struct run_times *times; /* borrowed; NULL = nobody watches */
    int64_t waited;          /* in the pool, while somebody does */
};

/* -- set-up ------------------------------------------------------------------------------------ */

/* Hands out 64-byte aligned pieces; with base NULL it only counts. */
static void *piece(char *base, size_t *used, size_t n, size_t size) {
    void *p = base ? base + *used : NULL;
    *used += (n * size + 63) / 64 * 64;
    return p;
}

/* Tokens in a tile. */
static int tile_tokens(const struct cfg *c) {
    int group = c->n_head / c->n_kv_head;
    return group < TILE ? TILE / group : 1;
}

static size_t carve(struct run *r, char *base) {
    const struct cfg *c = &r->m->cfg;
    size_t used = 0, t = (size_t)r->max_tok, f = sizeof(float);
    size_t half = (size_t)r->n_ctx * (c->rope_dim / 2);
    r->x = piece(base, &used, t * c->dim, f);
    r->h = piece(base, &used, t * c->dim, f);
    r->h2 = piece(base, &used, t * c->dim, f);
    r->y = piece(base, &used, t * c->dim, f);
    r->q = piece(base, &used, t * c->n_head * c->head_dim, f);
    r->att = piece(base, &used, t * c->n_head * c->head_dim, f);
    r->k = piece(base, &used, t * c->n_kv_head * c->head_dim, f);
    r->v = piece(base, &used, t * c->n_kv_head * c->head_dim, f);
    r->gate = piece(base, &used, c->gated ? t * c->ffn : 0, f);
    r->up = piece(base, &used, t * c->ffn, f);
    size_t shares = (size_t)SHARES * (size_t)pool_size(r->pool);
    r->tile = piece(base, &used, t, sizeof *r->tile);
    r->tmp = piece(base, &used, (size_t)pool_size(r->pool), r->tmp_bytes);
    r->part = piece(base, &used, shares * r->part_floats, f);
    r->done = piece(base, &used, shares, sizeof *r->done);
    r->cos = piece(base, &used, half, f);
    r->sin = piece(base, &used, half, f);
    r->id = piece(base, &used, t, sizeof(int));
    r->slot = piece(base, &used, t, sizeof(int));
    r->pos = piece(base, &used, t, sizeof(int));
    return used;
}

struct run *run_new(const struct model *m, struct pool *pool, int max_tok, int n_ctx,
                    struct err *err) {
    const struct cfg *c = &m->cfg;
    struct run *r = mem_new(sizeof *r);
    *r = (struct run){.m = m, .pool = pool, .max_tok = max_tok, .n_ctx = n_ctx};
    int widest = c->ffn > c->n_head * c->head_dim ? c->ffn : c->n_head * c->head_dim;
    r->lin = linear_new(pool, max_tok, widest > c->dim ? widest : c->dim, err);
    if (!r->lin)
        goto fail;
    int group = c->n_head / c->n_kv_head, n_split = (n_ctx + ATTEND_SPLIT - 1) / ATTEND_SPLIT;
    r->tmp_bytes = (attend_tmp(tile_tokens(c) * group, c->head_dim) + 63) / 64 * 64;
    r->part_floats =
        attend_part_floats(&(struct attend_tile){.c = c->head_dim, .n = 1, .group = group}) *
        (size_t)n_split;
    r->arena_bytes = carve(r, NULL);
    r->arena = mem_pages(r->arena_bytes, "activations", err);
    if (!r->arena)
        goto fail;
    carve(r, r->arena);
    rope_table(&m->cfg, n_ctx, r->cos, r->sin);
    return r;
fail:
    run_free(r);
    return NULL;
}

void run_free(struct run *r) {
    if (!r)
        return;
    linear_free(r->lin);
    mem_pages_free(r->arena, r->arena_bytes);
    free(r);
}

/* -- times ------------------------------------------------------------------------------------- */

void run_watch(struct run *r, struct run_times *t) {
    r->times = t;
    r->waited = 0;
    pool_watch(r->pool, t ? &r->waited : NULL);
}

/* What has passed since the last lap was `op`. */
static void lap(const struct run *r, enum run_op op) {
    struct run_times *t = r->times;
    if (!t)
        return;
    int64_t now = clock_ns();
    t->ns[op] += now - t->last;
    t->wait[op] += r->waited - t->waited;
    t->last = now;
    t->waited = r->waited;
}

/* -- rows: work that each token does for itself ------------------------------------------------ */

struct rows {
    const struct run *r;
    int width;
    float *y;
    const float *x, *w, *b;
};

/* Enters the pool only where the rows are worth a barrier. */
static void over_rows(const struct run *r, int n, void (*fn)(void *arg, int lo, int hi),
                      void *arg) {
    if (n < 4)
        fn(arg, 0, n);
    else
        pool_each(r->pool, n, fn, arg);
}

static void norm_rows(void *arg, int lo, int hi) {
    const struct rows *j = arg;
    const struct cfg *c = &j->r->m->cfg;
    for (int t = lo; t < hi; t++) {
        float *y = j->y + (size_t)t * j->width;
        const float *x = j->x + (size_t)t * j->width;
        if (c->norm == NORM_RMS)
            kern.rms_norm(y, x, j->w, j->width, c->norm_eps);
        else
            kern.layer_norm(y, x, j->w, j->b, j->width, c->norm_eps);
    }
}

/* y = norm(x), both (n, D). */
static void norm(const struct run *r, float *y, const float *x, int n, const float *w,
                 const float *b) {
    over_rows(r, n, norm_rows, &(struct rows){r, r->m->cfg.dim, y, x, w, b});
    lap(r, RUN_NORM);
}

static void add_rows(void *arg, int lo, int hi) {
    const struct rows *j = arg;
    kern.add(j->y + (size_t)lo * j->width, j->x + (size_t)lo * j->width, (hi - lo) * j->width);
}

/* x += y, both (n, D). */
static void add(const struct run *r, float *x, const float *y, int n) {
    over_rows(r, n, add_rows, &(struct rows){r, r->m->cfg.dim, x, y, NULL, NULL});
    lap(r, RUN_ADD);
}

static void act_row(enum act_kind act, float *y, int n) {
    switch (act) {
    case ACT_SILU:
        kern.silu(y, n);
        break;
    case ACT_GELU_TANH:
        kern.gelu_tanh(y, n);
        break;
    case ACT_GELU_ERF:
        kern.gelu_erf(y, n);
        break;
    case ACT_RELU:
        kern.relu(y, n);
        break;
    }
}

/* Row by row: it is still in the first cache when it is multiplied. */
static void act_rows(void *arg, int lo, int hi) {
    const struct rows *j = arg;
    for (int t = lo; t < hi; t++) {
        float *y = j->y + (size_t)t * j->width;
        act_row(j->r->m->cfg.act, y, j->width);
        if (j->x)
            kern.mul(y, j->x + (size_t)t * j->width, j->width);
    }
}

/* -- the layers -------------------------------------------------------------------------------- */

static void embed_rows(void *arg, int lo, int hi) {
    const struct rows *j = arg;
    const struct run *r = j->r;
    const struct cfg *c = &r->m->cfg;
    for (int t = lo; t < hi; t++) {
        float *x = j->y + (size_t)t * j->width;
        mat_row_to_f32(&r->m->embed, r->id[t], x);
        for (int d = 0; c->embed_scale != 1 && d < c->dim; d++)
            x[d] *= c->embed_scale;
        if (c->learned_pos)
            kern.add(x, mat_row(&r->m->pos, r->pos[t]), c->dim);
    }
}

static void embed(const struct run *r, const struct batch *b) {
    int t = 0;
    for (int s = 0; s < b->n_span; s++)
        for (int i = 0; i < b->span[s].n; i++, t++) {
            r->id[t] = b->span[s].ids[i];
            r->slot[t] = b->span[s].slot;
            r->pos[t] = b->span[s].pos + i;
        }
    over_rows(r, t, embed_rows, &(struct rows){r, r->m->cfg.dim, r->x, NULL, NULL, NULL});
}

/* Cuts the batch into tiles of about TILE rows. */
static void cut(struct run *r, const struct batch *b) {
    int most = tile_tokens(&r->m->cfg), t = 0;
    r->n_tile = r->n_split = 0;
    for (int s = 0; s < b->n_span; s++) {
        const struct span *sp = &b->span[s];
        int n_split = (sp->pos + sp->n - 1) / ATTEND_SPLIT + 1;
        r->n_split = n_split > r->n_split ? n_split : r->n_split;
        for (int i = 0; i < sp->n; i += most)
            r->tile[r->n_tile++] = (struct tile){t + i, sp->n - i < most ? sp->n - i : most};
        t += sp->n;
    }
}

struct attn {
    struct run *r;
    const struct kv *kv;
    const struct layer *l;
    int layer, n_tok;
    atomic_int next; /* which share of attention nobody has taken yet */
};

/* Turns q and k by their positions and appends k and v to the cache. */
static void rope_and_store(void *arg, int lo, int hi) {
    const struct attn *a = arg;
    const struct run *r = a->r;
    const struct cfg *c = &r->m->cfg;
    int dq = c->n_head * c->head_dim, dk = c->n_kv_head * c->head_dim, half = c->rope_dim / 2;
    for (int t = lo; t < hi; t++) {
        float *q = r->q + (size_t)t * dq, *k = r->k + (size_t)t * dk, *v = r->v + (size_t)t * dk;
        for (int h = 0; c->qk_norm && h < c->n_head; h++)
            kern.rms_norm(q + h * c->head_dim, q + h * c->head_dim, a->l->q_norm, c->head_dim,
                          c->norm_eps);
        for (int h = 0; c->qk_norm && h < c->n_kv_head; h++)
            kern.rms_norm(k + h * c->head_dim, k + h * c->head_dim, a->l->k_norm, c->head_dim,
                          c->norm_eps);
        if (half) {
            const float *cos = r->cos + (size_t)r->pos[t] * half,
                        *sin = r->sin + (size_t)r->pos[t] * half;
            kern.rope(q, cos, sin, c->n_head, c->head_dim, c->rope_dim);
            kern.rope(k, cos, sin, c->n_kv_head, c->head_dim, c->rope_dim);
        }
        struct kv_view kv = kv_view(a->kv, r->slot[t], a->layer);
        size_t block = attend_at(&kv.at, r->pos[t] / ATTEND_BLOCK);
        for (int g = 0, j = r->pos[t] % ATTEND_BLOCK; g < c->n_kv_head; g++) {
            size_t at = (size_t)g * kv.head + block;
            attend_put_k(kv.type, kv.k + at, j, k + g * c->head_dim, c->head_dim);
            attend_put_v(kv.type, kv.v + at, j, v + g * c->head_dim, c->head_dim);
        }
    }
}

/* Tile i's queries of the heads that share key-value head g. */
static struct attend_tile tile_of(const struct attn *a, int i, int g, int *first, char *tmp) {
    const struct run *r = a->r;
    const struct cfg *c = &r->m->cfg;
    const struct tile t = r->tile[i];
    struct kv_view kv = kv_view(a->kv, r->slot[t.tok], a->layer);
    size_t group = (size_t)(c->n_head / c->n_kv_head), ld = (size_t)(c->n_head * c->head_dim);
    size_t at = (size_t)t.tok * ld + (size_t)g * group * (size_t)c->head_dim;
    for (int j = 0; c->window && j < t.n; j++) {
        int p = r->pos[t.tok + j] + 1 - c->window;
        first[j] = p > 0 ? p : 0;
    }
    return (struct attend_tile){.type = kv.type,
                                .c = c->head_dim,
                                .group = (int)group,
                                .pos = r->pos[t.tok],
                                .n = t.n,
                                .first = c->window ? first : NULL,
                                .q = r->q + at,
                                .out = r->att + at,
                                .ld = ld,
                                .k = kv.k + (size_t)g * kv.head,
                                .v = kv.v + (size_t)g * kv.head,
                                .at = kv.at,
                                .tmp = tmp};
}

/* Threads take one tile and key-value head after the other, the late tokens first: their pasts are
 * the longest.  Who takes which is left to the moment; no bit depends on it. */
static void attend_tiles(void *arg, int id, int n) {
    struct attn *a = arg;
    const struct run *r = a->r;
    int g = r->m->cfg.n_kv_head, first[TILE];
    (void)n;
    for (int i; (i = atomic_fetch_add(&a->next, 1)) < r->n_tile * g;) {
        struct attend_tile t =
            tile_of(a, r->n_tile - 1 - i / g, i % g, first, r->tmp + (size_t)id * r->tmp_bytes);
        attend_tile(&t);
    }
}

/* The same with a share for each split of the keys: for a few tokens with long pasts.  Whoever
 * finishes the last split of a tile joins them. */
static void attend_shares(void *arg, int id, int n) {
    struct attn *a = arg;
    const struct run *r = a->r;
    int g = r->m->cfg.n_kv_head, first[TILE], s0, s1;
    (void)n;
    for (int i; (i = atomic_fetch_add(&a->next, 1)) < r->n_tile * g * r->n_split;) {
        int at = i / r->n_split, split = i % r->n_split;
        struct attend_tile t =
            tile_of(a, at / g, at % g, first, r->tmp + (size_t)id * r->tmp_bytes);
        float *part = r->part + (size_t)at * r->part_floats;
        attend_splits(&t, &s0, &s1);
        if (split >= s0 && split < s1)
            attend_part(&t, split, part + (size_t)(split - s0) * attend_part_floats(&t));
        if (atomic_fetch_add(&r->done[at], 1) == r->n_split - 1)
            attend_join(&t, part);
    }
}

static void attend_all(struct attn *a) {
    struct run *r = a->r;
    int items = r->n_tile * r->m->cfg.n_kv_head;
    if (items >= SHARES * pool_size(r->pool) || a->n_tok > r->n_tile) {
        pool_run(r->pool, attend_tiles, a);
        return;
    }
    for (int i = 0; i < items; i++)
        atomic_store_explicit(&r->done[i], 0, memory_order_relaxed);
    pool_run(r->pool, attend_shares, a);
}

/* r->y = attention(r->h) for layer i. */
static void attention(struct run *r, const struct kv *kv, int i, int n_tok) {
    const struct layer *l = &r->m->layer[i];
    struct attn a = {r, kv, l, i, n_tok, 0};
    linear(
        r->lin, r->h, n_tok,
        (struct linear_out[]){{r->q, &l->wq, l->bq}, {r->k, &l->wk, l->bk}, {r->v, &l->wv, l->bv}},
        3);
    lap(r, RUN_QKV);
    over_rows(r, n_tok, rope_and_store, &a);
    lap(r, RUN_ROPE);
    attend_all(&a);
    lap(r, RUN_ATTEND);
    linear(r->lin, r->att, n_tok, &(struct linear_out){r->y, &l->wo, l->bo}, 1);
    lap(r, RUN_O);
}

/* r->y = down(act(gate h) * up h), or down(act(up h)). */
static void mlp(struct run *r, const struct layer *l, const float *h, int n_tok) {
    const struct cfg *c = &r->m->cfg;
    float *a = c->gated ? r->gate : r->up;
    if (c->gated)
        linear(r->lin, h, n_tok,
               (struct linear_out[]){{r->gate, &l->gate, l->bgate}, {r->up, &l->up, l->bup}}, 2);
    else
        linear(r->lin, h, n_tok, &(struct linear_out){r->up, &l->up, l->bup}, 1);
    lap(r, RUN_GATE_UP);
    over_rows(r, n_tok, act_rows,
              &(struct rows){r, c->ffn, a, c->gated ? r->up : NULL, NULL, NULL});
    lap(r, RUN_ACT);
    linear(r->lin, a, n_tok, &(struct linear_out){r->y, &l->down, l->bdown}, 1);
    lap(r, RUN_DOWN);
}

static void block(struct run *r, const struct kv *kv, int i, int n_tok) {
    const struct layer *l = &r->m->layer[i];
    norm(r, r->h, r->x, n_tok, l->norm1, l->norm1_b);
    if (r->m->cfg.parallel && !r->m->cfg.shared_norm)
        norm(r, r->h2, r->x, n_tok, l->norm2, l->norm2_b);
    attention(r, kv, i, n_tok);
    add(r, r->x, r->y, n_tok);
    const float *h = r->h;
    if (!r->m->cfg.shared_norm) {
        h = r->h2;
        if (!r->m->cfg.parallel)
            norm(r, r->h2, r->x, n_tok, l->norm2, l->norm2_b);
    }
    mlp(r, l, h, n_tok);
    add(r, r->x, r->y, n_tok);
}

static bool is_wanted(const struct span *s, int i, bool hidden) {
    return hidden ? s->hidden : s->want == WANT_ALL || (s->want == WANT_LAST && i == s->n - 1);
}

/* r->h = the final norm of the rows that logits are wanted of, or hidden states, in span order;
 * returns their number. */
static int wanted(const struct run *r, const struct batch *b, bool hidden) {
    size_t row = (size_t)r->m->cfg.dim;
    int t = 0, n = 0;
    for (int s = 0; s < b->n_span; s++) {
        const struct span *sp = &b->span[s];
        for (int i = 0; i < sp->n; i++, t++)
            if (is_wanted(sp, i, hidden))
                memcpy(r->y + row * n++, r->x + row * t, row * sizeof *r->x);
    }
    if (n)
        norm(r, r->h, r->y, n, r->m->norm, r->m->norm_b);
    return n;
}

const float *run_hidden(const struct run *r) {
    return r->h;
}

void run_head(struct run *r, int first, int n, float *logits) {
    linear(r->lin, r->h + (size_t)first * (size_t)r->m->cfg.dim, n,
           &(struct linear_out){logits, &r->m->head, r->m->head_bias}, 1);
}

/* -- the step ---------------------------------------------------------------------------------- */

static int check(const struct run *r, const struct kv *kv, const struct batch *b, int *n_tok,
                 struct err *err) {
    int n_ctx = r->n_ctx < kv_ctx(kv) ? r->n_ctx : kv_ctx(kv);
    int64_t total = 0;
    for (int s = 0; s < b->n_span; s++) {
        const struct span *sp = &b->span[s];
        if (sp->n < 1 || sp->slot < 0 || sp->slot >= kv_slots(kv) || sp->pos < 0 || sp->n > n_ctx ||
            sp->pos > n_ctx - sp->n)
            return err_set(err, E_USAGE, "%d tokens from position %d do not fit the context of %d",
                           sp->n, sp->pos, n_ctx);
        if (!kv_ready(kv, sp->slot, sp->pos, sp->n))
            return err_set(err, E_USAGE, "slot %d has no memory for %d tokens from position %d",
                           sp->slot, sp->n, sp->pos);
        for (int i = 0; i < sp->n; i++)
            if (sp->ids[i] < 0 || sp->ids[i] >= r->m->cfg.vocab)
                return err_set(err, E_USAGE, "token id %d is outside the vocabulary of %d",
                               sp->ids[i], r->m->cfg.vocab);
        total += sp->n;
    }
    if (total > r->max_tok)
        return err_set(err, E_USAGE, "a batch of %lld tokens exceeds the limit of %d",
                       (long long)total, r->max_tok);
    *n_tok = (int)total;
    return 0;
}

int run_step(struct run *r, struct kv *kv, const struct batch *b, float *logits, struct err *err) {
    int n_tok = 0;
    if (check(r, kv, b, &n_tok, err))
        return -1;
    mem_guard_enter();
    if (r->times)
        r->times->last = clock_ns();
    embed(r, b);
    cut(r, b);
    lap(r, RUN_EMBED);
    for (int i = 0; i < r->m->cfg.n_layer; i++)
        block(r, kv, i, n_tok);
    int n = wanted(r, b, false);
    if (n) {
        run_head(r, 0, n, logits);
        lap(r, RUN_HEAD);
    }
    wanted(r, b, true);
    mem_guard_leave();
    return 0;
}
