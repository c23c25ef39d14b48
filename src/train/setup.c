/* setup.c - memory of a net: what it needs, where each array lies, which parameters there are. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/rope.h"
#include "num/quant.h"
#include "train/impl.h"

#define LOGITS_BYTES                                                                               \
    ((size_t)64                                                                                    \
     << 20) /* of a chunk of logits; the gradient of the head is added once             \
                        * per chunk, so small chunks cost bandwidth */

void params_changed(struct params *p) {
    p->version++;
}

const float *ct_read(const struct net *n, const void *p, size_t at, int len, float *tmp) {
    if (n->o.type == DT_F32)
        return (const float *)p + at;
    row_to_f32(DT_BF16, (const char *)p + at * 2, tmp, len);
    return tmp;
}

/* Hands out 64-byte aligned pieces; with base NULL it only counts. */
static void *piece(char *base, size_t *used, size_t n, size_t size) {
    void *p = base ? base + *used : NULL;
    *used += (n * size + 63) / 64 * 64;
    return p;
}

static size_t max2(size_t a, size_t b) {
    return a > b ? a : b;
}

/* All of a block's activations but x. */
static void carve_act(const struct net *n, struct act *a, char *base, size_t *used) {
    const struct cfg *c = &n->m->cfg;
    size_t t = (size_t)n->o.rows * (size_t)n->o.len, e = ct_size(n), f = sizeof(float);
    size_t dq = (size_t)c->n_head * (size_t)c->head_dim;
    size_t dk = (size_t)c->n_kv_head * (size_t)c->head_dim;
    size_t dim = (size_t)c->dim, ffn = (size_t)c->ffn;
    a->mid = piece(base, used, t * dim, f);
    a->h = piece(base, used, t * dim, e);
    a->h2 = c->shared_norm ? a->h : piece(base, used, t * dim, e);
    a->q_raw = piece(base, used, c->qk_norm ? t * dq : 0, f);
    a->k_raw = piece(base, used, c->qk_norm ? t * dk : 0, f);
    a->q = piece(base, used, t * dq, e);
    a->k = piece(base, used, t * dk, e);
    a->v = piece(base, used, t * dk, e);
    a->att = piece(base, used, t * dq, e);
    a->gate = piece(base, used, c->gated ? t * ffn : 0, e);
    a->up = piece(base, used, t * ffn, e);
    a->ff = piece(base, used, t * ffn, e);
}

static size_t carve_acts(struct net *n, char *base) {
    const struct cfg *c = &n->m->cfg;
    size_t used = 0, t = (size_t)n->o.rows * (size_t)n->o.len;
    for (int i = 0; i < c->n_layer; i++) {
        if (i && n->o.recompute)
            n->act[i] = n->act[0];
        else
            carve_act(n, &n->act[i], base, &used);
        n->act[i].x = piece(base, &used, t * (size_t)c->dim, sizeof(float));
    }
    n->out = piece(base, &used, t * (size_t)c->dim, sizeof(float));
    n->h = piece(base, &used, t * (size_t)c->dim, ct_size(n));
    return used;
}

static size_t carve_scratch(struct net *n, char *base, size_t used) {
    const struct cfg *c = &n->m->cfg;
    size_t t = (size_t)n->o.rows * (size_t)n->o.len, e = ct_size(n), f = sizeof(float);
    size_t dq = (size_t)c->n_head * (size_t)c->head_dim, dim = (size_t)c->dim;
    size_t dk = (size_t)c->n_kv_head * (size_t)c->head_dim, ffn = (size_t)c->ffn;
    size_t threads = (size_t)pool_size(n->pool), vocab = (size_t)c->vocab;
    size_t turns = (size_t)n->o.len * (size_t)(c->rope_dim / 2);
    size_t heads = (size_t)c->n_head + (size_t)c->n_kv_head, fit = LOGITS_BYTES / (vocab * f);
    n->chunk = (int)(fit < 16 ? 16 : fit);
    if ((size_t)n->chunk > t)
        n->chunk = (int)t;
    n->row_len = 4 * max2(dim, max2(ffn, dq));
    n->attn_bytes = attend_bytes(n);
    n->y = piece(base, &used, t * dim, f);
    n->wide = piece(base, &used, t * max2(ffn, dq), f);
    n->wide2 = piece(base, &used, t * max2(ffn, 2 * dk), f);
    n->dx = piece(base, &used, t * dim, f);
    n->dh = piece(base, &used, t * dim, f);
    n->dy = piece(base, &used, t * dim, e);
    n->datt = piece(base, &used, t * dq, e);
    n->stat = piece(base, &used, t * max2(2, c->qk_norm ? heads : 0), f);
    n->logits = piece(base, &used, (size_t)n->chunk * vocab, f);
    n->dlogits = n->logits;
    if (n->o.type != DT_F32)
        n->dlogits = piece(base, &used, (size_t)n->chunk * vocab, e);
    n->nll = piece(base, &used, t, f);
    n->pos = piece(base, &used, t, sizeof(int));
    n->first = piece(base, &used, t, sizeof(int));
    n->cos = piece(base, &used, turns, f);
    n->sin = piece(base, &used, turns, f);
    n->nsin = piece(base, &used, turns, f);
    n->row = piece(base, &used, threads * n->row_len, f);
    n->attn = piece(base, &used, threads * n->attn_bytes, 1);
    return used;
}

/* Inputs of the widest product, or keys and values of a token. */
static int widest_row(const struct cfg *c) {
    int q = c->n_head * c->head_dim, kv = 2 * c->n_kv_head * c->head_dim;
    int heads = q > kv ? q : kv, w = heads > c->ffn ? heads : c->ffn;
    return w > c->dim ? w : c->dim;
}

/* Counts of a batch's elements are ints. */
static int check(const struct cfg *c, const struct net_opts *o, struct err *err) {
    if (o->type != DT_F32 && o->type != DT_BF16)
        return err_set(err, E_USAGE, "training computes in f32 or bf16, not %s",
                       dtype_info(o->type)->name);
    int64_t most = INT_MAX / widest_row(c);
    if (o->rows < 1 || o->len < 1 || (int64_t)o->rows * o->len > most)
        return err_set(err, E_USAGE, "a batch of %d x %d tokens: 1 to %lld are possible", o->rows,
                       o->len, (long long)most);
    if (c->learned_pos && o->len > c->max_ctx)
        return err_set(err, E_USAGE, "%d tokens do not fit the model's %d positions", o->len,
                       c->max_ctx);
    return 0;
}

/* The parts of the plan as parameters. */
static void list_params(struct net *n) {
    struct params *ps = &n->params;
    ps->p = mem_array((size_t)n->plan.n, sizeof *ps->p);
    ps->n = n->plan.n;
    ps->floats = n->plan.bytes / sizeof(float);
    ps->version = 1;
    for (int i = 0; i < ps->n; i++) {
        const struct part *q = &n->plan.part[i];
        size_t at = q->at / sizeof(float);
        const float *w = q->mat ? q->mat->data : *q->vec;
        ps->p[i] = (struct param){q->name, (float *)w, n->grad + at,  q->rows,
                                  q->cols, at,         q->t_cols > 0, false};
        if (i == 0)
            n->weight = ps->p[0].w - at;
    }
}

struct net *net_new(struct model *m, const struct net_opts *o, struct err *err) {
    const struct cfg *c = &m->cfg;
    if (check(c, o, err))
        return NULL;
    struct net *n = mem_new(sizeof *n);
    *n = (struct net){.m = m, .o = *o, .pool = o->pool};
    n->act = mem_array((size_t)c->n_layer, sizeof *n->act);
    plan_build(&n->plan, m, NULL, false);
    if (plan_types(&n->plan, DT_F32, err))
        goto fail;
    for (int i = 0; i < n->plan.n; i++)
        if (n->plan.part[i].mat && n->plan.part[i].mat->type != DT_F32) {
            err_set(err, E_USAGE, "%s: weights must be loaded as f32 to be trained", m->path);
            goto fail;
        }
    if (!(n->dense = dense_new(n->pool, o->type, err)))
        goto fail;
    if (o->type == DT_F32 && !(n->lin = linear_new(n->pool, o->rows * o->len, widest_row(c), err)))
        goto fail;
    if (!(n->grad = mem_pages(n->plan.bytes, "gradients", err)))
        goto fail;
    if (o->type != DT_F32 && !(n->copy = mem_pages(n->plan.bytes / 2, "the weights in bf16", err)))
        goto fail;
    n->arena_bytes = carve_scratch(n, NULL, carve_acts(n, NULL));
    if (!(n->arena = mem_pages(n->arena_bytes, "activations", err)))
        goto fail;
    carve_scratch(n, n->arena, carve_acts(n, n->arena));
    list_params(n);
    rope_table(c, o->len, n->cos, n->sin);
    for (int i = 0; i < o->len * (c->rope_dim / 2); i++)
        n->nsin[i] = -n->sin[i];
    return n;
fail:
    net_free(n);
    return NULL;
}

void net_free(struct net *n) {
    if (!n)
        return;
    mem_pages_free(n->arena, n->arena_bytes);
    mem_pages_free(n->copy, n->plan.bytes / 2);
    mem_pages_free(n->grad, n->plan.bytes);
    linear_free(n->lin);
    dense_free(n->dense);
    plan_free(&n->plan);
    free(n->params.p);
    free(n->act);
    free(n);
}

struct params *net_params(struct net *n) {
    return &n->params;
}

const struct model *net_model(const struct net *n) {
    return n->m;
}

int net_memory(const struct cfg *c, const struct net_opts *o, struct net_bytes *b,
               struct err *err) {
    int rc = -1;
    if (check(c, o, err))
        return -1;
    struct model m = {.cfg = *c, .layer = mem_array((size_t)c->n_layer, sizeof *m.layer)};
    struct net n = {.m = &m, .o = *o, .pool = o->pool};
    n.act = mem_array((size_t)c->n_layer, sizeof *n.act);
    plan_build(&n.plan, &m, NULL, false);
    if (plan_types(&n.plan, DT_F32, err))
        goto out;
    *b = (struct net_bytes){.weights = n.plan.bytes, .gradients = n.plan.bytes};
    b->moments = 2 * n.plan.bytes;
    b->copies = o->type == DT_F32 ? 0 : n.plan.bytes / 2;
    b->activations = carve_scratch(&n, NULL, carve_acts(&n, NULL));
    b->products = (size_t)pool_size(o->pool) * DENSE_MOST;
    b->total = b->weights + b->gradients + b->moments + b->copies + b->activations + b->products;
    rc = 0;
out:
    plan_free(&n.plan);
    free(n.act);
    free(m.layer);
    return rc;
}

int net_write(const struct net *n, const float *arena, const char *path, struct err *err) {
    struct plan p;
    plan_build(&p, n->m, NULL, false);
    int rc = plan_types(&p, DT_F32, err);
    for (int i = 0; i < p.n; i++)
        p.part[i].plus_one = p.part[i].plus_one && arena == n->weight;
    if (!rc)
        rc = plan_write(&p, arena, path, err);
    plan_free(&p);
    return rc;
}

int net_write_gradients(const struct net *n, const char *path, struct err *err) {
    return net_write(n, n->grad, path, err);
}

int net_write_weights(const struct net *n, const char *path, struct err *err) {
    return net_write(n, n->weight, path, err);
}
