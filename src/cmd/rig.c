/* rig.c - see rig.h. */
#include "cmd/rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

enum arith arith_of_weights(enum dtype t) {
    if (t == DT_F32 || t == DT_F16)
        return ARITH_F32;
    return t == DT_BF16 ? ARITH_BF16 : ARITH_I8;
}

enum arith arith_of_kv(enum dtype t) {
    return t == DT_BF16 ? ARITH_BF16 : ARITH_F32;
}

/* -- steps ------------------------------------------------------------------------------------- */

int rig_open(struct rig *r, enum dtype kv, struct err *err) {
    const struct cfg *c = &r->m->cfg;
    int most = r->n_ctx < rig_chunk(r) ? r->n_ctx : rig_chunk(r);
    kv = kv != DT_NONE ? kv : kv_default(r->m->head.type);
    if (!(r->kv = kv_open(c, r->n_batch, r->n_ctx, kv, err)) ||
        !(r->run = run_new(r->m, r->pool, most * r->n_batch, r->n_ctx, err)))
        return -1;
    r->logits = mem_array((size_t)r->n_batch * (size_t)c->vocab, sizeof *r->logits);
    r->ids = mem_array((size_t)r->n_ctx, sizeof *r->ids);
    for (int i = 0; i < r->n_ctx; i++)
        r->ids[i] = (int32_t)(((unsigned)i * 7919u + 13) % (unsigned)c->vocab);
    struct work w = {0};
    work_add(&w, r, 0, 1, true);
    for (int a = 0; a < N_ARITH; a++)
        for (int i = 0; i < RUN_OPS; i++)
            r->need[a] = r->need[a] || w.ops[i][a] > 0;
    return 0;
}

void rig_close(struct rig *r) {
    free(r->ids);
    free(r->logits);
    run_free(r->run);
    kv_close(r->kv);
    *r = (struct rig){0};
}

int rig_chunk(const struct rig *r) {
    return r->n_batch < RIG_CHUNK ? RIG_CHUNK / r->n_batch : 1;
}

void rig_step(struct rig *r, int pos, int n, bool logits) {
    struct span span[RIG_BATCH];
    struct batch b = {span, 0};
    struct err err = {0};
    for (int s = 0; s < r->n_batch; s++)
        span[b.n_span++] = (struct span){.slot = s,
                                         .pos = pos,
                                         .n = n,
                                         .ids = r->ids + pos,
                                         .want = logits ? WANT_LAST : WANT_NONE};
    if (run_step(r->run, r->kv, &b, r->logits, &err)) {
        fprintf(stderr, "pumice: bug: a measured step was refused: %s\n", err.msg);
        abort();
    }
}

void rig_fill(struct rig *r, int depth) {
    int chunk = rig_chunk(r);
    for (int at = 0; at < depth; at += chunk)
        rig_step(r, at, depth - at < chunk ? depth - at : chunk, false);
}

/* -- work -------------------------------------------------------------------------------------- */

static void add_mat(struct work *w, int op, const struct mat *m, double n_tok) {
    if (!m->data)
        return;
    w->bytes[op] += (double)m->rows * (double)dtype_row_bytes(m->type, m->cols);
    w->ops[op][arith_of_weights(m->type)] += 2.0 * m->rows * m->cols * n_tok;
}

/* The last n tokens of pos + n: the keys that any of them sees, and those that each sees. */
static void add_attention(struct work *w, const struct rig *r, int pos, int n) {
    const struct cfg *c = &r->m->cfg;
    enum dtype type = kv_type(r->kv);
    double keys = 0, reach = pos + n;
    for (int t = 0; t < n; t++) {
        int past = pos + t + 1;
        keys += c->window && past > c->window ? c->window : past;
    }
    if (c->window && reach > c->window + n - 1)
        reach = c->window + n - 1;
    w->bytes[RUN_ATTEND] += reach * (double)kv_token_bytes(c, type) * r->n_batch;
    w->ops[RUN_ATTEND][arith_of_kv(type)] +=
        4.0 * c->n_layer * c->n_head * c->head_dim * keys * r->n_batch;
}

void work_add(struct work *w, const struct rig *r, int pos, int n, bool logits) {
    for (int i = 0; i < r->m->cfg.n_layer; i++) {
        const struct layer *l = &r->m->layer[i];
        const struct mat *const of[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate, &l->up, &l->down};
        const int op[] = {RUN_QKV, RUN_QKV, RUN_QKV, RUN_O, RUN_GATE_UP, RUN_GATE_UP, RUN_DOWN};
        for (size_t k = 0; k < sizeof op / sizeof *op; k++)
            add_mat(w, op[k], of[k], (double)n * r->n_batch);
    }
    if (logits)
        add_mat(w, RUN_HEAD, &r->m->head, r->n_batch);
    add_attention(w, r, pos, n);
}

/* -- limits ------------------------------------------------------------------------------------ */

struct rates rig_rates(const struct rig *r, struct probe *p) {
    static const enum dtype whose[N_ARITH] = {DT_F32, DT_BF16, DT_Q8_0}; /* ORDER: enum arith */
    struct rates now = {.read = probe_read_rate(p, r->pool)};
    for (int a = 0; a < N_ARITH; a++)
        now.ops[a] = r->need[a] ? probe_ops_rate(r->pool, whose[a]) : 0;
    return now;
}

struct rates rates_mean(struct rates a, struct rates b) {
    a.read = (a.read + b.read) / 2;
    for (int i = 0; i < N_ARITH; i++)
        a.ops[i] = (a.ops[i] + b.ops[i]) / 2;
    return a;
}

static double seconds_of_ops(const struct work *w, int op, const struct rates *r) {
    double s = 0;
    for (int a = 0; a < N_ARITH; a++)
        s += w->ops[op][a] > 0 ? w->ops[op][a] / r->ops[a] : 0;
    return s;
}

double work_of(const struct work *w, int op, const struct rates *r) {
    return fmax(w->bytes[op] / r->read, seconds_of_ops(w, op, r));
}

double work_least(const struct work *w, const struct rates *r) {
    double bytes = 0, compute = 0;
    for (int i = 0; i < RUN_OPS; i++) {
        bytes += w->bytes[i];
        compute += seconds_of_ops(w, i, r);
    }
    return fmax(bytes / r->read, compute);
}
