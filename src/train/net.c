/* net.c - the transformer, forwards and backwards.
 *
 * The forward half has the functions of model/run.c in its order; the backward half is the forward
 * half reversed, each function's name prefixed d.  Gradients of weights are added to, gradients of
 * activations overwrite what the backward pass no longer needs.
 *
 * Invariants: (1) with F32 the logits are those of run.c to the bit; (2) no sum is split among
 * threads, so no bit depends on their number; (3) a block computed again gives the bits it gave
 * first. Shapes and the arrays are in train/impl.h.  Claims tested in test/unit/net.c. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "num/kern.h"
#include "num/quant.h"
#include "train/act.h"
#include "train/dropout.h"
#include "train/impl.h"

/* -- rows: work that each token does for itself ---------------------------------------------- */

struct rows {
    struct net *n;
    struct act *a;
    const struct layer *l;
    int t, width; /* tokens, elements of each */
    int at;       /* the first token of the chunk whose logits these are */
    float *y;
    const float *x, *w, *b;
    void *out; /* in the type that products read */
    float *dw, *db;
    float scale;
    bool grad;
    const struct dropout *drop; /* NULL = none */
};

/* Of this pass; NULL where nothing is left out. */
static const struct dropout *drop_at(const struct net *n, int layer, enum dropout_site site,
                                     struct dropout *d) {
    if (n->dropout == 0)
        return NULL;
    if (n->m->cfg.parallel && site == DROP_MLP)
        site = DROP_ATTENTION; /* what both add is one sum, whose gradient they share */
    *d = dropout_at(n->dropout, n->b->draw, layer, site);
    return d;
}

static void over_rows(const struct rows *j, void (*fn)(void *arg, int id, int n)) {
    pool_run(j->n->pool, fn, (void *)j);
}

void ct_write(const struct net *n, void *p, size_t at, const float *src, int len) {
    if (n->o.type == DT_F32)
        memcpy((float *)p + at, src, (size_t)len * sizeof *src);
    else
        kern.bf16_pack((char *)p + at * 2, src, len);
}

static size_t offset(const struct net *n, const void *w) {
    return (size_t)((const float *)w - n->weight);
}

static float *grad_of(const struct net *n, const void *w) {
    return w ? n->grad + offset(n, w) : NULL;
}

/* A matrix as products read it. */
static const void *weight_of(const struct net *n, const struct mat *w) {
    return n->copy ? (char *)n->copy + 2 * offset(n, w->data) : w->data;
}

static void copy_weights(void *arg, int id, int n) {
    const struct net *net = arg;
    for (int i = 0; i < net->params.n; i++) {
        const struct param *p = &net->params.p[i];
        int lo, hi;
        pool_split(p->rows, 1, id, n, &lo, &hi);
        size_t at = p->at + (size_t)lo * (size_t)p->cols;
        if (lo < hi)
            kern.bf16_pack((char *)net->copy + 2 * at, net->weight + at, (hi - lo) * p->cols);
    }
}

/* -- forward ---------------------------------------------------------------------------------- */

/* y (t, rows of w) = x (t, cols of w) w^T + bias */
static void matmul(const struct net *n, float *y, const void *x, const struct mat *w,
                   const float *bias, int t) {
    if (n->lin) {
        linear(n->lin, x, t, &(struct linear_out){y, w, bias}, 1);
        return;
    }
    dense(n->dense, &(struct dense){.type = n->o.type,
                                    .m = t,
                                    .n = w->rows,
                                    .k = w->cols,
                                    .a = {x, w->cols, false},
                                    .b = {weight_of(n, w), w->cols, true},
                                    .c = y,
                                    .ldc = w->rows,
                                    .bias = bias});
}

static void norm_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    const struct cfg *c = &j->n->m->cfg;
    float *y = thread_row(j->n, id);
    int lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    for (int t = lo; t < hi; t++) {
        const float *x = j->x + (size_t)t * (size_t)c->dim;
        if (c->norm == NORM_RMS)
            kern.rms_norm(y, x, j->w, c->dim, c->norm_eps);
        else
            kern.layer_norm(y, x, j->w, j->b, c->dim, c->norm_eps);
        ct_write(j->n, j->out, (size_t)t * (size_t)c->dim, y, c->dim);
    }
}

/* out = norm(x), both (T, D). */
static void norm(struct net *n, void *out, const float *x, const float *w, const float *b) {
    over_rows(&(struct rows){.n = n, .t = n->n_tok, .x = x, .w = w, .b = b, .out = out}, norm_rows);
}

static void add_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    int lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    size_t at = (size_t)lo * (size_t)j->width, count = (size_t)(hi - lo) * (size_t)j->width;
    if (j->drop) {
        dropout_add(j->drop, j->y + at, j->x + at, j->n->y + at, at, (int)count);
        return;
    }
    if (j->y != j->x)
        memcpy(j->y + at, j->x + at, count * sizeof *j->y);
    kern.add(j->y + at, j->n->y + at, (int)count);
}

/* z = x + n->y, all (T, D); z may be x. */
static void add(struct net *n, float *z, const float *x, const struct dropout *drop) {
    over_rows(
        &(struct rows){.n = n, .t = n->n_tok, .width = n->m->cfg.dim, .y = z, .x = x, .drop = drop},
        add_rows);
}

static void embed_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    const struct cfg *c = &j->n->m->cfg;
    int lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    for (int t = lo; t < hi; t++) {
        float *x = j->y + (size_t)t * (size_t)c->dim;
        memcpy(x, mat_row(&j->n->m->embed, j->n->b->ids[t]), (size_t)c->dim * sizeof *x);
        for (int d = 0; c->embed_scale != 1 && d < c->dim; d++)
            x[d] *= c->embed_scale;
        if (c->learned_pos)
            kern.add(x, mat_row(&j->n->m->pos, j->n->pos[t]), c->dim);
        if (j->drop)
            dropout_mask(j->drop, x, x, (size_t)t * (size_t)c->dim, c->dim);
    }
}

static void embed(struct net *n) {
    struct dropout d;
    over_rows(
        &(struct rows){
            .n = n, .t = n->n_tok, .y = n->act[0].x, .drop = drop_at(n, 0, DROP_EMBED, &d)},
        embed_rows);
}

/* Norms and turns q and k, and stores all three as attention reads them. */
static void rope_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    const struct net *net = j->n;
    const struct cfg *c = &net->m->cfg;
    int hd = c->head_dim, dq = c->n_head * hd, dk = c->n_kv_head * hd, half = c->rope_dim / 2;
    int lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    for (int t = lo; t < hi; t++) {
        size_t at_q = (size_t)t * (size_t)dq, at_k = (size_t)t * (size_t)dk;
        float *q = net->wide + at_q, *k = net->wide2 + at_k;
        const float *v = net->wide2 + (size_t)j->t * (size_t)dk + at_k;
        if (c->qk_norm) {
            memcpy(j->a->q_raw + at_q, q, (size_t)dq * sizeof *q);
            memcpy(j->a->k_raw + at_k, k, (size_t)dk * sizeof *k);
        }
        for (int h = 0; c->qk_norm && h < c->n_head; h++)
            kern.rms_norm(q + h * hd, q + h * hd, j->l->q_norm, hd, c->norm_eps);
        for (int h = 0; c->qk_norm && h < c->n_kv_head; h++)
            kern.rms_norm(k + h * hd, k + h * hd, j->l->k_norm, hd, c->norm_eps);
        if (half) {
            const float *cos = net->cos + (size_t)net->pos[t] * (size_t)half;
            const float *sin = net->sin + (size_t)net->pos[t] * (size_t)half;
            kern.rope(q, cos, sin, c->n_head, hd, c->rope_dim);
            kern.rope(k, cos, sin, c->n_kv_head, hd, c->rope_dim);
        }
        ct_write(net, j->a->q, at_q, q, dq);
        ct_write(net, j->a->k, at_k, k, dk);
        ct_write(net, j->a->v, at_k, v, dk);
    }
}

/* n->y = attention(a->h) */
static void attention(struct net *n, const struct layer *l, struct act *a) {
    float *v = n->wide2 + (size_t)n->n_tok * (size_t)l->wk.rows;
    matmul(n, n->wide, a->h, &l->wq, l->bq, n->n_tok);
    matmul(n, n->wide2, a->h, &l->wk, l->bk, n->n_tok);
    matmul(n, v, a->h, &l->wv, l->bv, n->n_tok);
    over_rows(&(struct rows){.n = n, .a = a, .l = l, .t = n->n_tok}, rope_rows);
    attend(n, a);
    matmul(n, n->y, a->att, &l->wo, l->bo, n->n_tok);
}

/* a->ff = act(gate) * up, or act(up), and what its gradient needs */
static void act_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    const struct net *net = j->n;
    const struct cfg *c = &net->m->cfg;
    int lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    for (int t = lo; t < hi; t++) {
        size_t at = (size_t)t * (size_t)c->ffn;
        float *x = net->wide + at;
        const float *up = net->wide2 + at;
        ct_write(net, c->gated ? j->a->gate : j->a->up, at, x, c->ffn);
        act_forward(c->act, x, c->ffn);
        if (c->gated) {
            ct_write(net, j->a->up, at, up, c->ffn);
            kern.mul(x, up, c->ffn);
        }
        ct_write(net, j->a->ff, at, x, c->ffn);
    }
}

/* a->ff = act(gate h) * up h, or act(up h); n->y = down a->ff if wanted */
static void mlp(struct net *n, const struct layer *l, struct act *a, bool down) {
    bool gated = n->m->cfg.gated;
    if (gated)
        matmul(n, n->wide, a->h2, &l->gate, l->bgate, n->n_tok);
    matmul(n, gated ? n->wide2 : n->wide, a->h2, &l->up, l->bup, n->n_tok);
    over_rows(&(struct rows){.n = n, .a = a, .t = n->n_tok}, act_rows);
    if (down)
        matmul(n, n->y, a->ff, &l->down, l->bdown, n->n_tok);
}

/* out = block i of a->x; NULL = only what the backward pass reads */
static void block(struct net *n, int i, float *out) {
    const struct cfg *c = &n->m->cfg;
    const struct layer *l = &n->m->layer[i];
    struct act *a = &n->act[i];
    struct dropout d;
    norm(n, a->h, a->x, l->norm1, l->norm1_b);
    attention(n, l, a);
    add(n, a->mid, a->x, drop_at(n, i, DROP_ATTENTION, &d));
    if (!c->shared_norm)
        norm(n, a->h2, c->parallel ? a->x : a->mid, l->norm2, l->norm2_b);
    mlp(n, l, a, out != NULL);
    if (out)
        add(n, out, a->mid, drop_at(n, i, DROP_MLP, &d));
}

static float *block_out(const struct net *n, int i) {
    return i + 1 < n->m->cfg.n_layer ? n->act[i + 1].x : n->out;
}

/* Logits of the rows of n->h from `at` on, t of them. */
static void head(struct net *n, int at, int t) {
    const void *h = ct_at(n, n->h, (size_t)at * (size_t)n->m->cfg.dim);
    matmul(n, n->logits, h, &n->m->head, n->m->head_bias, t);
}

static float max_of(const float *x, int n) {
    float lane[16], max = x[0];
    int i = 0;
    for (int k = 0; k < 16; k++)
        lane[k] = x[0];
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++)
            lane[k] = x[i + k] > lane[k] ? x[i + k] : lane[k];
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int k = 0; k < 16; k++)
        max = lane[k] > max ? lane[k] : max;
    return max;
}

/* nll of the chunk that starts at j->at; with j->grad the logits become their gradients. */
static void loss_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    const struct net *net = j->n;
    int vocab = net->m->cfg.vocab, lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    for (int t = lo; t < hi; t++) {
        float *x = net->logits + (size_t)t * (size_t)vocab;
        int target = net->b->targets[j->at + t];
        if (target < 0) {
            memset(x, 0, (size_t)vocab * sizeof *x);
        } else {
            float below = max_of(x, vocab) - x[target], sum = kern.softmax_exp(x, vocab);
            net->nll[j->at + t] = below + logf(sum);
            float scale = j->scale / sum;
            for (int v = 0; j->grad && v < vocab; v++)
                x[v] *= scale;
            x[target] -= j->scale;
        }
        if (j->grad && net->dlogits != net->logits)
            ct_write(net, net->dlogits, (size_t)t * (size_t)vocab, x, vocab);
    }
}

/* -- backward --------------------------------------------------------------------------------- */

#define STRIP 256 /* columns that are summed together: they stay in cache, and fit on the stack */

/* db += sum of the rows of dy (j->out), in their order; a thread takes some columns. */
static void dbias_columns(void *arg, int id, int n) {
    const struct rows *j = arg;
    float tmp[STRIP];
    int lo, hi;
    pool_split(j->width, 16, id, n, &lo, &hi);
    for (int w; lo < hi; lo += w) {
        w = hi - lo < STRIP ? hi - lo : STRIP;
        for (int t = 0; t < j->t; t++) {
            size_t at = (size_t)t * (size_t)j->width + (size_t)lo;
            kern.add(j->db + lo, ct_read(j->n, j->out, at, w, tmp), w);
        }
    }
}

static void dbias(struct net *n, const float *bias, const void *dy, int width, int t) {
    if (bias)
        over_rows(
            &(struct rows){
                .n = n, .t = t, .width = width, .out = (void *)dy, .db = grad_of(n, bias)},
            dbias_columns);
}

static bool is_frozen(const struct net *n, const struct mat *w) {
    for (int i = 0; i < n->params.n; i++)
        if (n->params.p[i].w == w->data)
            return n->params.p[i].frozen;
    return false;
}

/* Of y = x w^T + bias: dx (t, cols) = or += dy (t, rows) w, dw += dy^T x unless w is frozen,
 * dbias += dy. */
static void dmatmul(struct net *n, float *dx, bool add_dx, const void *dy, const void *x,
                    const struct mat *w, const float *bias, int t) {
    dense(n->dense, &(struct dense){.type = n->o.type,
                                    .m = t,
                                    .n = w->cols,
                                    .k = w->rows,
                                    .a = {dy, w->rows, false},
                                    .b = {weight_of(n, w), w->cols, false},
                                    .c = dx,
                                    .ldc = w->cols,
                                    .add = add_dx});
    const struct dense dw = {.type = n->o.type,
                             .m = w->rows,
                             .n = w->cols,
                             .k = t,
                             .a = {dy, w->rows, true},
                             .b = {x, w->cols, false},
                             .c = grad_of(n, w->data),
                             .ldc = w->cols,
                             .add = true};
    if (!is_frozen(n, w))
        dense(n->dense, &dw);
    dbias(n, bias, dy, w->rows, t);
}

static void dnorm_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    const struct cfg *c = &j->n->m->cfg;
    int lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    for (int t = lo; t < hi; t++) {
        size_t at = (size_t)t * (size_t)c->dim;
        float *stat = j->n->stat + 2 * (size_t)t;
        norm_stat(c->norm, j->x + at, c->dim, c->norm_eps, stat);
        kern.norm_grad(j->y + at, j->n->dh + at, j->x + at, j->w, c->dim, stat,
                       c->norm == NORM_LAYER);
    }
}

/* dw += dy * normed x, db += dy, over all rows in order; a thread takes some columns. */
static void dnorm_columns(void *arg, int id, int n) {
    const struct rows *j = arg;
    int lo, hi;
    pool_split(j->width, 16, id, n, &lo, &hi);
    for (int t = 0; t < j->t; t++) {
        const float *x = j->x + (size_t)t * (size_t)j->width;
        const float *dy = j->n->dh + (size_t)t * (size_t)j->width;
        float mean = j->n->stat[2 * t], r = j->n->stat[2 * t + 1];
        for (int i = lo; i < hi; i++)
            j->dw[i] += dy[i] * (x[i] - mean) * r;
        for (int i = lo; j->db && i < hi; i++)
            j->db[i] += dy[i];
    }
}

/* n->dx += gradient of x where n->dh is that of norm(x). */
static void dnorm(struct net *n, const float *x, const float *w, const float *b) {
    struct rows j = {.n = n,
                     .t = n->n_tok,
                     .width = n->m->cfg.dim,
                     .y = n->dx,
                     .x = x,
                     .w = w,
                     .dw = grad_of(n, w),
                     .db = grad_of(n, b)};
    over_rows(&j, dnorm_rows);
    over_rows(&j, dnorm_columns);
}

static void pack_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    int lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    size_t at = (size_t)lo * (size_t)j->width;
    if (j->drop && j->n->o.type == DT_F32)
        dropout_mask(j->drop, (float *)j->out + at, j->x + at, at, (hi - lo) * j->width);
    else if (!j->drop)
        ct_write(j->n, j->out, at, j->x + at, (hi - lo) * j->width);
    else
        for (; lo < hi; lo++, at += (size_t)j->width) {
            float *row = thread_row(j->n, id);
            dropout_mask(j->drop, row, j->x + at, at, j->width);
            ct_write(j->n, j->out, at, row, j->width);
        }
}

static void pack_masked(struct net *n, void *out, const float *x, int width,
                        const struct dropout *drop) {
    over_rows(
        &(struct rows){.n = n, .t = n->n_tok, .width = width, .x = x, .out = out, .drop = drop},
        pack_rows);
}

static void pack(struct net *n, void *out, const float *x, int width) {
    pack_masked(n, out, x, width, NULL);
}

/* n->wide = gradient of a->ff becomes those of gate and up, which take the place of gate and up. */
static void dact_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    const struct net *net = j->n;
    const struct cfg *c = &net->m->cfg;
    float *tmp = thread_row(net, id);
    int lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    for (int t = lo; t < hi; t++) {
        size_t at = (size_t)t * (size_t)c->ffn;
        float *d = net->wide + at, *slope = tmp + 2 * c->ffn;
        const float *up = ct_read(net, j->a->up, at, c->ffn, tmp);
        const float *x = c->gated ? ct_read(net, j->a->gate, at, c->ffn, tmp + c->ffn) : up;
        memcpy(slope, x, (size_t)c->ffn * sizeof *x);
        act_slope(c->act, slope, c->ffn);
        kern.mul(slope, d, c->ffn); /* d * act'(x) */
        if (!c->gated) {
            ct_write(net, j->a->up, at, slope, c->ffn);
            continue;
        }
        float *y = tmp + 3 * c->ffn;
        memcpy(y, x, (size_t)c->ffn * sizeof *x);
        act_forward(c->act, y, c->ffn);
        kern.mul(slope, up, c->ffn);
        kern.mul(y, d, c->ffn);
        ct_write(net, j->a->gate, at, slope, c->ffn);
        ct_write(net, j->a->up, at, y, c->ffn);
    }
}

/* n->dh = gradient of the MLP's input where n->dy is that of its output. */
static void dmlp(struct net *n, const struct layer *l, struct act *a) {
    dmatmul(n, n->wide, false, n->dy, a->ff, &l->down, l->bdown, n->n_tok);
    over_rows(&(struct rows){.n = n, .a = a, .t = n->n_tok}, dact_rows);
    dmatmul(n, n->dh, false, a->up, a->h2, &l->up, l->bup, n->n_tok);
    if (n->m->cfg.gated)
        dmatmul(n, n->dh, true, a->gate, a->h2, &l->gate, l->bgate, n->n_tok);
}

/* Turns dq and dk back; without norms of heads this is all. */
static void drope_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    const struct net *net = j->n;
    const struct cfg *c = &net->m->cfg;
    int dq = c->n_head * c->head_dim, dk = c->n_kv_head * c->head_dim, half = c->rope_dim / 2;
    int lo, hi;
    pool_split(j->t, 1, id, n, &lo, &hi);
    for (int t = lo; t < hi; t++) {
        float *q = net->wide + (size_t)t * (size_t)dq, *k = net->wide2 + (size_t)t * (size_t)dk;
        const float *cos = net->cos + (size_t)net->pos[t] * (size_t)half;
        const float *nsin = net->nsin + (size_t)net->pos[t] * (size_t)half;
        if (half) {
            kern.rope(q, cos, nsin, c->n_head, c->head_dim, c->rope_dim);
            kern.rope(k, cos, nsin, c->n_kv_head, c->head_dim, c->rope_dim);
        }
    }
}

struct heads { /* the heads of q or of k */
    struct net *n;
    float *d; /* (T, heads*C) gradient of the normed heads, then of the raw ones */
    const float *raw, *w;
    int heads;
    float *dw;
};

static void dhead_norm_rows(void *arg, int id, int n) {
    const struct heads *j = arg;
    const struct cfg *c = &j->n->m->cfg;
    float *tmp = thread_row(j->n, id);
    int lo, hi;
    pool_split(j->n->n_tok * j->heads, 1, id, n, &lo, &hi);
    for (int i = lo; i < hi; i++) {
        size_t at = (size_t)i * (size_t)c->head_dim;
        const float stat[2] = {0, j->n->stat[i]};
        memset(tmp, 0, (size_t)c->head_dim * sizeof *tmp);
        kern.norm_grad(tmp, j->d + at, j->raw + at, j->w, c->head_dim, stat, false);
        memcpy(j->d + at, tmp, (size_t)c->head_dim * sizeof *tmp);
    }
}

static void dhead_norm_stat(void *arg, int id, int n) {
    const struct heads *j = arg;
    const struct cfg *c = &j->n->m->cfg;
    int lo, hi;
    pool_split(j->n->n_tok * j->heads, 1, id, n, &lo, &hi);
    for (int i = lo; i < hi; i++) {
        float stat[2];
        norm_stat(NORM_RMS, j->raw + (size_t)i * (size_t)c->head_dim, c->head_dim, c->norm_eps,
                  stat);
        j->n->stat[i] = stat[1];
    }
}

static void dhead_norm_columns(void *arg, int id, int n) {
    const struct heads *j = arg;
    int hd = j->n->m->cfg.head_dim, lo, hi;
    pool_split(hd, 16, id, n, &lo, &hi);
    for (int i = 0; i < j->n->n_tok * j->heads; i++)
        for (int k = lo; k < hi; k++)
            j->dw[k] += j->d[(size_t)i * hd + k] * j->raw[(size_t)i * hd + k] * j->n->stat[i];
}

static void dhead_norm(struct net *n, float *d, const float *raw, const float *w, int heads) {
    struct heads j = {n, d, raw, w, heads, grad_of(n, w)};
    pool_run(n->pool, dhead_norm_stat, &j);
    pool_run(n->pool, dhead_norm_columns, &j);
    pool_run(n->pool, dhead_norm_rows, &j);
}

/* n->dh = or += gradient of attention's input where n->dy is that of its output. */
static void dattention(struct net *n, const struct layer *l, struct act *a, bool add_dh) {
    const struct cfg *c = &n->m->cfg;
    int dq = l->wq.rows, dk = l->wk.rows;
    dmatmul(n, n->wide, false, n->dy, a->att, &l->wo, l->bo, n->n_tok);
    pack(n, n->datt, n->wide, dq);
    dattend(n, a);
    over_rows(&(struct rows){.n = n, .t = n->n_tok}, drope_rows);
    if (c->qk_norm) {
        dhead_norm(n, n->wide, a->q_raw, l->q_norm, c->n_head);
        dhead_norm(n, n->wide2, a->k_raw, l->k_norm, c->n_kv_head);
    }
    pack(n, a->q, n->wide, dq);
    pack(n, a->k, n->wide2, dk);
    pack(n, a->v, n->wide2 + (size_t)n->n_tok * (size_t)dk, dk);
    dmatmul(n, n->dh, add_dh, a->q, a->h, &l->wq, l->bq, n->n_tok);
    dmatmul(n, n->dh, true, a->k, a->h, &l->wk, l->bk, n->n_tok);
    dmatmul(n, n->dh, true, a->v, a->h, &l->wv, l->bv, n->n_tok);
}

/* n->dx: gradient of the block's output in, of its input out */
static void dblock(struct net *n, int i) {
    const struct cfg *c = &n->m->cfg;
    const struct layer *l = &n->m->layer[i];
    struct act *a = &n->act[i];
    struct dropout d;
    pack_masked(n, n->dy, n->dx, c->dim, drop_at(n, i, DROP_MLP, &d));
    dmlp(n, l, a);
    if (!c->shared_norm)
        dnorm(n, c->parallel ? a->x : a->mid, l->norm2, l->norm2_b);
    if (!c->parallel)
        pack_masked(n, n->dy, n->dx, c->dim, drop_at(n, i, DROP_ATTENTION, &d));
    dattention(n, l, a, c->shared_norm);
    dnorm(n, a->x, l->norm1, l->norm1_b);
}

static void mask_rows(void *arg, int id, int n) {
    const struct rows *j = arg;
    int lo, hi, dim = j->n->m->cfg.dim;
    pool_split(j->t, 1, id, n, &lo, &hi);
    float *y = j->y + (size_t)lo * (size_t)dim;
    dropout_mask(j->drop, y, y, (size_t)lo * (size_t)dim, (hi - lo) * dim);
}

/* A token's row of the embedding gets the sum over its places, in order; a thread takes some
 * columns. */
static void dembed_columns(void *arg, int id, int n) {
    const struct rows *j = arg;
    const struct net *net = j->n;
    const struct cfg *c = &net->m->cfg;
    float *dembed = grad_of(net, net->m->embed.data);
    float *dpos = c->learned_pos ? grad_of(net, net->m->pos.data) : NULL;
    int lo, hi;
    pool_split(c->dim, 16, id, n, &lo, &hi);
    for (int t = 0; t < j->t; t++) {
        const float *dx = net->dx + (size_t)t * (size_t)c->dim;
        float *e = dembed + (size_t)net->b->ids[t] * (size_t)c->dim;
        for (int i = lo; i < hi; i++)
            e[i] += dx[i] * c->embed_scale;
        for (int i = lo; dpos && i < hi; i++)
            dpos[(size_t)net->pos[t] * (size_t)c->dim + (size_t)i] += dx[i];
    }
}

static void dembed(struct net *n) {
    struct dropout d;
    if (drop_at(n, 0, DROP_EMBED, &d))
        over_rows(&(struct rows){.n = n, .t = n->n_tok, .y = n->dx, .drop = &d}, mask_rows);
    over_rows(&(struct rows){.n = n, .t = n->n_tok}, dembed_columns);
}

/* -- the pass --------------------------------------------------------------------------------- */

/* loss: the targets are needed */
static int check(const struct net *n, const struct net_batch *b, bool loss, struct err *err) {
    int vocab = n->m->cfg.vocab;
    assert(b->targets || !loss);
    assert(b->dropout >= 0 && b->dropout <= 0.999f);
    if (b->rows < 1 || b->len < 1 || b->rows > n->o.rows || b->len > n->o.len)
        return err_set(err, E_USAGE, "a batch of %d x %d tokens: room is for %d x %d", b->rows,
                       b->len, n->o.rows, n->o.len);
    for (int i = 0; i < b->rows * b->len; i++) {
        if (b->ids[i] < 0 || b->ids[i] >= vocab)
            return err_set(err, E_USAGE, "token id %d is outside the vocabulary of %d", b->ids[i],
                           vocab);
        if (b->targets && b->targets[i] >= vocab)
            return err_set(err, E_USAGE, "target %d is outside the vocabulary of %d", b->targets[i],
                           vocab);
        int t = i % b->len, start = b->start ? b->start[i] : 0;
        if (start < 0 || start > t || (start < t && b->start && b->start[i - 1] != start))
            return err_set(err, E_USAGE, "token %d of row %d: its document cannot start at %d", t,
                           i / b->len, start);
    }
    return 0;
}

static void begin(struct net *n, const struct net_batch *b, float dropout) {
    n->b = b;
    n->dropout = dropout;
    n->n_tok = b->rows * b->len;
    for (int i = 0; i < n->n_tok; i++) {
        int t = i % b->len, start = b->start ? b->start[i] : 0, window = n->m->cfg.window;
        n->pos[i] = t - start;
        n->first[i] = window && t - window + 1 > start ? t - window + 1 : start;
    }
    if (n->copy && n->copy_version != n->params.version) {
        pool_run(n->pool, copy_weights, n);
        n->copy_version = n->params.version;
    }
}

static void forward(struct net *n) {
    embed(n);
    for (int i = 0; i < n->m->cfg.n_layer; i++)
        block(n, i, block_out(n, i));
    norm(n, n->h, n->out, n->m->norm, n->m->norm_b);
}

/* The head, its loss and, with grad, its gradient: chunk after chunk, so that the logits of the
 * whole batch never exist.  Then n->dh is the gradient of n->h. */
static void head_and_loss(struct net *n, bool grad, float scale) {
    const struct model *m = n->m;
    for (int at = 0; at < n->n_tok; at += n->chunk) {
        int t = n->n_tok - at < n->chunk ? n->n_tok - at : n->chunk;
        size_t row = (size_t)at * (size_t)m->cfg.dim;
        head(n, at, t);
        over_rows(&(struct rows){.n = n, .t = t, .at = at, .grad = grad, .scale = scale},
                  loss_rows);
        if (grad)
            dmatmul(n, n->dh + row, false, n->dlogits, ct_at(n, n->h, row), &m->head, m->head_bias,
                    t);
    }
}

static void backward(struct net *n) {
    memset(n->dx, 0, (size_t)n->n_tok * (size_t)n->m->cfg.dim * sizeof *n->dx);
    dnorm(n, n->out, n->m->norm, n->m->norm_b);
    for (int i = n->m->cfg.n_layer - 1; i >= 0; i--) {
        if (n->o.recompute)
            block(n, i, NULL);
        dblock(n, i);
    }
    dembed(n);
}

static struct net_loss sum_loss(const struct net *n) {
    struct net_loss l = {0};
    for (int t = 0; t < n->n_tok; t++)
        if (n->b->targets[t] >= 0) {
            l.sum += n->nll[t];
            l.n++;
        }
    return l;
}

int net_eval(struct net *n, const struct net_batch *b, struct net_loss *loss, struct err *err) {
    if (check(n, b, true, err))
        return -1;
    begin(n, b, 0);
    forward(n);
    head_and_loss(n, false, 0);
    *loss = sum_loss(n);
    return 0;
}

int net_grad(struct net *n, const struct net_batch *b, float scale, struct net_loss *loss,
             struct err *err) {
    if (check(n, b, true, err))
        return -1;
    begin(n, b, b->dropout);
    forward(n);
    head_and_loss(n, true, scale);
    backward(n);
    *loss = sum_loss(n);
    return 0;
}

int net_logits(struct net *n, const struct net_batch *b, float *logits, struct err *err) {
    if (check(n, b, false, err))
        return -1;
    begin(n, b, 0);
    forward(n);
    size_t vocab = (size_t)n->m->cfg.vocab;
    for (int at = 0; at < n->n_tok; at += n->chunk) {
        int t = n->n_tok - at < n->chunk ? n->n_tok - at : n->chunk;
        head(n, at, t);
        memcpy(logits + (size_t)at * vocab, n->logits, (size_t)t * vocab * sizeof *logits);
    }
    return 0;
}

void net_zero_grad(struct net *n) {
    memset(n->grad, 0, n->params.floats * sizeof *n->grad);
}
