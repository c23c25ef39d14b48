/* engine.c - requests in: checked, copied, queued, counted, ended (see engine.h).
 *
 * All requests stand in one list in order of arrival.  Those that have a slot, and so KV memory,
 * come first in it; step.c moves requests over that border in both directions.
 *
 * Invariants: (1) ids[0..n_kv) of a job are exactly the tokens whose K and V stand in its slot;
 * (2) every accepted request gets exactly one on_done.  Tested in test/unit/engine.c. */
#include "engine/engine.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/impl.h"

/* Prompts are cut where the rows of a step are a multiple of this: products handle 4 to 16 tokens
 * together, and a few more cost as much as all of them. */
#define TILE 16

/* -- open and close ---------------------------------------------------------------------------- */

static void settle_opts(struct engine *e, const struct engine_opts *o) {
    const struct cfg *c = &e->m->cfg;
    e->n_run = o->n_slot > 0 ? o->n_slot : 1;
    e->n_ctx = o->n_ctx > 0 ? o->n_ctx : c->max_ctx < 4096 ? c->max_ctx : 4096;
    e->max_queue = o->max_queue;
    int64_t most = (int64_t)e->n_ctx * e->n_run, n = o->n_batch > 0 ? o->n_batch : 512;
    if (n < e->n_run)
        n = e->n_run; /* every decode must fit */
    if (o->policy != SARATHI && n < e->n_ctx)
        n = e->n_ctx; /* every prompt must fit */
    e->sched = (struct sarathi_opts){.policy = o->policy,
                                     .max_run = e->n_run,
                                     .max_tok = (int)(n < most ? n : most),
                                     .tile = TILE,
                                     .slo = o->tbt_slo_ms / 1000,
                                     .fit = &e->fit};
    e->stats.budget = e->sched.max_tok;
}

struct engine *engine_open(const struct model *m, struct pool *pool, const struct engine_opts *o,
                           struct err *err) {
    struct engine *e = mem_new(sizeof *e);
    e->m = m;
    e->pool = pool;
    settle_opts(e, o);
    if (m->cfg.learned_pos && e->n_ctx > m->cfg.max_ctx) {
        err_set(err, E_USAGE, "context size %d: %s has learned positions for %d tokens only",
                e->n_ctx, m->cfg.arch, m->cfg.max_ctx);
        goto fail;
    }
    enum dtype type = o->kv_type == DT_NONE ? kv_default(m->head.type) : o->kv_type;
    size_t n = (size_t)e->n_run;
    e->seq = mem_array(2 * n, sizeof *e->seq);
    e->of = mem_array(2 * n, sizeof *e->of);
    e->span = mem_array(n, sizeof *e->span);
    e->allowed = mem_array(((size_t)m->cfg.vocab + 31) / 32, sizeof *e->allowed);
    e->logits_bytes = n * (size_t)m->cfg.vocab * sizeof *e->logits;
    e->logits = mem_pages(e->logits_bytes, "logits", err);
    e->kv = kv_open_as(&m->cfg,
                       &(struct kv_opts){.layout = o->kv_layout,
                                         .n_slot = e->n_run,
                                         .n_ctx = e->n_ctx,
                                         .type = type,
                                         .pool = o->kv_pool},
                       err);
    if (!e->logits || !e->kv || !(e->run = run_new(m, pool, e->sched.max_tok, e->n_ctx, err)))
        goto fail;
    e->prefix = prefix_open(e->kv);
    e->job = mem_array((size_t)kv_slots(e->kv), sizeof(struct job *));
    return e;
fail:
    engine_close(e);
    return NULL;
}

static void job_free(struct job *j) {
    sampler_free(j->sampler);
    free((void *)j->r.sampling.bias);
    free(j->sum);
    buf_free(&j->text);
    for (int i = 0; i < j->r.n_stop; i++)
        free((void *)j->r.stop[i]);
    free((void *)j->r.stop);
    free((void *)j->r.stop_id);
    ids_free(&j->ids);
    free(j);
}

void job_end(struct engine *e, struct job *j, enum finish why, const struct err *err) {
    struct usage *u = &j->use;
    if (j->slot >= 0) {
        prefix_end(e->prefix, j->slot);
        e->job[j->slot] = NULL;
    }
    *(j->slot >= 0 ? &e->n_running : &e->n_waiting) -= 1;
    *(j->older ? &j->older->newer : &e->oldest) = j->newer;
    *(j->newer ? &j->newer->older : &e->newest) = j->older;
    u->why = why;
    u->err = err;
    u->ended_at = clock_us();
    u->decode_us = u->first_at ? u->ended_at - u->first_at : 0;
    u->prompt_us =
        (u->first_at ? u->first_at : u->ended_at) - (u->started_at ? u->started_at : u->ended_at);
    e->stats.ended[why]++;
    e->short_of_memory = NULL;
    if (j->r.on_done)
        j->r.on_done(j->r.ud, u);
    job_free(j);
}

void engine_close(struct engine *e) {
    if (!e)
        return;
    while (e->oldest)
        job_end(e, e->oldest, FIN_CANCELLED, NULL);
    run_free(e->run);
    prefix_close(e->prefix);
    kv_close(e->kv);
    mem_pages_free(e->logits, e->logits_bytes);
    mem_pages_free(e->head, e->head_bytes);
    free(e->seq);
    free(e->of);
    free(e->job);
    free(e->span);
    free(e->allowed);
    free(e);
}

/* -- figures ----------------------------------------------------------------------------------- */

int engine_ctx(const struct engine *e) {
    return e->n_ctx;
}

size_t engine_kv_bytes(const struct engine *e) {
    return kv_bytes(e->kv);
}

/* Tokens of a slot: what its request has computed, or what a past one left there. */
static int slot_tokens(const struct engine *e, int i) {
    return e->job[i] ? e->job[i]->n_kv : kv_tokens(e->kv, i);
}

size_t engine_kv_held(const struct engine *e) {
    size_t n = 0;
    for (int i = 0; i < kv_slots(e->kv); i++)
        n += (size_t)slot_tokens(e, i);
    return n * kv_token_bytes(&e->m->cfg, kv_type(e->kv));
}

void engine_stats(const struct engine *e, struct engine_stats *out) {
    *out = e->stats;
    out->slots = e->n_run;
    out->policy = e->sched.policy;
    out->running = e->n_running;
    out->waiting = e->n_waiting;
    out->cost = e->fit.cost;
    out->slack = e->fit.slack;
    kv_stats(e->kv, &out->kv);
}

struct engine_slot engine_slot(const struct engine *e, int i) {
    const struct job *j = e->job[i];
    struct engine_slot out = {.busy = j, .n_kv = slot_tokens(e, i)};
    if (j) {
        out.n_prompt = j->use.n_prompt;
        out.n_cached = j->use.n_cached;
        out.n_out = j->use.n_out;
        out.started_at = j->use.started_at;
    }
    return out;
}

/* -- requests ---------------------------------------------------------------------------------- */

static int check(const struct engine *e, const struct req *r, struct err *err) {
    int vocab = e->m->cfg.vocab;
    if (r->n < 1)
        return err_set(err, E_USAGE, "the prompt is empty");
    if (r->n >= e->n_ctx)
        return err_set(err, E_USAGE,
                       "the prompt has %d tokens, the context holds %d (and one must stay free)",
                       r->n, e->n_ctx);
    for (int i = 0; i < r->n; i++)
        if (r->ids[i] < 0 || r->ids[i] >= vocab)
            return err_set(err, E_USAGE, "token id %d is outside the vocabulary of %d", r->ids[i],
                           vocab);
    for (int i = 0; i < r->sampling.n_bias; i++)
        if (r->sampling.bias[i].id < 0 || r->sampling.bias[i].id >= vocab)
            return err_set(err, E_USAGE, "logit_bias: id %d is outside the vocabulary of %d",
                           r->sampling.bias[i].id, vocab);
    int need = kv_groups_need(e->kv, -1, r->n + 1);
    if (need > kv_groups(e->kv))
        return err_set(err, E_MEMORY, "kv_exhausted: the prompt has %d tokens, KV memory holds %d",
                       r->n, kv_groups(e->kv) * kv_group_tokens(e->kv));
    return 0;
}

int engine_submit(struct engine *e, const struct req *r, struct err *err) {
    if (check(e, r, err))
        return -1;
    if (e->max_queue && e->n_waiting >= e->max_queue) {
        e->stats.rejected++;
        return err_set(err, E_BUSY, "the queue is full: %d requests wait", e->n_waiting);
    }
    struct job *j = mem_new(sizeof *j);
    j->r = *r;
    if (prompt_room(e, j, err)) {
        free(j);
        return -1;
    }
    ids_addn(&j->ids, r->ids, (size_t)r->n);
    j->r.ids = NULL;
    j->r.stop_id = mem_dup(r->stop_id, (size_t)r->n_stop_id * sizeof *r->stop_id);
    j->r.sampling.bias =
        mem_dup(r->sampling.bias, (size_t)r->sampling.n_bias * sizeof *r->sampling.bias);
    char **stop = mem_array((size_t)r->n_stop, sizeof *stop);
    for (int i = 0; i < r->n_stop; i++)
        stop[i] = mem_strdup(r->stop[i]);
    j->r.stop = (const char *const *)stop;
    if (j->r.n_logprobs > (int)(sizeof j->top / sizeof *j->top))
        j->r.n_logprobs = sizeof j->top / sizeof *j->top;
    if (e->m->tok)
        tok_stream_start(&j->stream, e->m->tok);
    j->stream.started = r->continues;
    j->slot = -1;
    j->use.n_prompt = r->n;
    j->use.queued_at = clock_us();
    j->older = e->newest;
    *(e->newest ? &e->newest->newer : &e->oldest) = j;
    e->newest = j;
    e->n_waiting++;
    e->stats.accepted++;
    return 0;
}

void engine_cancel(struct engine *e, void *ud) {
    for (struct job *j = e->oldest; j; j = j->newer)
        if (j->r.ud == ud)
            j->cancelled = e->any_cancelled = true;
}
