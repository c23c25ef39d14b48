/* engine.c - requests become batches (see engine.h).
 *
 * A slot is one sequence: the ids whose KV it holds, and the request it works for, if any.  A free
 * slot keeps its KV, so that the next turn of a chat, submitted in full, finds its own past there.
 *
 * Each step gives every decoding sequence its token first and fills the rest of the batch with
 * prompts in order of arrival (Sarathi's rule; the budget is fixed here).
 *
 * Invariants: (1) ids[0..n_kv) of a slot are exactly the tokens whose K and V stand in the cache;
 * (2) at least the last prompt token is computed, for its logits; (3) every accepted request gets
 * exactly one on_done.  Tested in test/unit/engine.c. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/impl.h"

/* -- open and close ---------------------------------------------------------------------------- */

struct engine *engine_open(const struct model *m, struct pool *pool, const struct engine_opts *o,
                           struct err *err) {
    struct engine *e = mem_new(sizeof *e);
    e->m = m;
    e->tail = &e->head;
    e->n_slot = o->n_slot > 0 ? o->n_slot : 1;
    e->n_ctx = o->n_ctx > 0 ? o->n_ctx : m->cfg.max_ctx < 4096 ? m->cfg.max_ctx : 4096;
    e->n_batch = o->n_batch > 0 ? o->n_batch : 512;
    e->max_queue = o->max_queue;
    if (e->n_batch < e->n_slot)
        e->n_batch = e->n_slot; /* every decode must fit */
    if (e->n_batch > e->n_ctx * e->n_slot)
        e->n_batch = e->n_ctx * e->n_slot;
    if (m->cfg.learned_pos && e->n_ctx > m->cfg.max_ctx) {
        err_set(err, E_USAGE, "context size %d: %s has learned positions for %d tokens only",
                e->n_ctx, m->cfg.arch, m->cfg.max_ctx);
        goto fail;
    }
    enum dtype type = o->kv_type;
    if (type == DT_NONE)
        type = kv_default(m->head.type);
    e->slot = mem_array((size_t)e->n_slot, sizeof *e->slot);
    e->span = mem_array((size_t)e->n_slot, sizeof *e->span);
    e->span_slot = mem_array((size_t)e->n_slot, sizeof *e->span_slot);
    e->allowed = mem_array(((size_t)m->cfg.vocab + 31) / 32, sizeof *e->allowed);
    e->logits_bytes = (size_t)e->n_slot * m->cfg.vocab * sizeof *e->logits;
    e->logits = mem_pages(e->logits_bytes, "logits", err);
    e->kv = kv_open(&m->cfg, e->n_slot, e->n_ctx, type, err);
    if (!e->logits || !e->kv || !(e->run = run_new(m, pool, e->n_batch, e->n_ctx, err)))
        goto fail;
    return e;
fail:
    engine_close(e);
    return NULL;
}

static void job_free(struct job *j) {
    sampler_free(j->sampler);
    free((void *)j->r.sampling.bias);
    buf_free(&j->text);
    for (int i = 0; i < j->r.n_stop; i++)
        free((void *)j->r.stop[i]);
    free((void *)j->r.stop);
    free((void *)j->r.stop_id);
    free((void *)j->r.ids);
    free(j);
}

static void job_end(struct engine *e, struct job *j, enum finish why, const struct err *err) {
    struct usage *u = &j->use;
    u->why = why;
    u->err = err;
    u->ended_at = clock_us();
    u->decode_us = u->first_at ? u->ended_at - u->first_at : 0;
    u->prompt_us =
        (u->first_at ? u->first_at : u->ended_at) - (u->started_at ? u->started_at : u->ended_at);
    e->stats.ended[why]++;
    if (j->r.on_done)
        j->r.on_done(j->r.ud, &j->use);
    job_free(j);
}

void engine_close(struct engine *e) {
    if (!e)
        return;
    for (struct job *j = e->head, *next; j; j = next) {
        next = j->next;
        job_end(e, j, FIN_CANCELLED, NULL);
    }
    for (int i = 0; e->slot && i < e->n_slot; i++) {
        if (e->slot[i].job)
            job_end(e, e->slot[i].job, FIN_CANCELLED, NULL);
        ids_free(&e->slot[i].ids);
    }
    run_free(e->run);
    kv_close(e->kv);
    mem_pages_free(e->logits, e->logits_bytes);
    free(e->slot);
    free(e->span);
    free(e->span_slot);
    free(e->allowed);
    free(e);
}

int engine_ctx(const struct engine *e) {
    return e->n_ctx;
}

size_t engine_kv_bytes(const struct engine *e) {
    return kv_bytes(e->kv);
}

size_t engine_kv_held(const struct engine *e) {
    size_t n = 0;
    for (int i = 0; i < e->n_slot; i++)
        n += (size_t)e->slot[i].n_kv;
    return n * kv_token_bytes(&e->m->cfg, kv_type(e->kv));
}

void engine_stats(const struct engine *e, struct engine_stats *out) {
    *out = e->stats;
    out->slots = e->n_slot;
    out->waiting = e->n_wait;
    out->budget = e->n_batch;
    out->kv_held = engine_kv_held(e);
    out->kv_reserved = engine_kv_bytes(e);
    for (int i = 0; i < e->n_slot; i++)
        out->running += e->slot[i].job != NULL;
}

struct engine_slot engine_slot(const struct engine *e, int i) {
    const struct slot *s = &e->slot[i];
    struct engine_slot out = {.busy = s->job, .n_kv = s->n_kv};
    if (s->job) {
        out.n_prompt = s->job->use.n_prompt;
        out.n_cached = s->job->use.n_cached;
        out.n_out = s->job->use.n_out;
        out.started_at = s->job->use.started_at;
    }
    return out;
}

/* -- requests ---------------------------------------------------------------------------------- */

int engine_submit(struct engine *e, const struct req *r, struct err *err) {
    if (r->n < 1)
        return err_set(err, E_USAGE, "the prompt is empty");
    if (r->n >= e->n_ctx)
        return err_set(err, E_USAGE,
                       "the prompt has %d tokens, the context holds %d (and one must stay free)",
                       r->n, e->n_ctx);
    for (int i = 0; i < r->n; i++)
        if (r->ids[i] < 0 || r->ids[i] >= e->m->cfg.vocab)
            return err_set(err, E_USAGE, "token id %d is outside the vocabulary of %d", r->ids[i],
                           e->m->cfg.vocab);
    for (int i = 0; i < r->sampling.n_bias; i++)
        if (r->sampling.bias[i].id < 0 || r->sampling.bias[i].id >= e->m->cfg.vocab)
            return err_set(err, E_USAGE, "logit_bias: id %d is outside the vocabulary of %d",
                           r->sampling.bias[i].id, e->m->cfg.vocab);
    if (e->max_queue && e->n_wait >= e->max_queue) {
        e->stats.rejected++;
        return err_set(err, E_BUSY, "the queue is full: %d requests wait", e->n_wait);
    }
    struct job *j = mem_new(sizeof *j);
    j->r = *r;
    j->r.ids = mem_dup(r->ids, (size_t)r->n * sizeof *r->ids);
    j->r.stop_id = mem_dup(r->stop_id, (size_t)r->n_stop_id * sizeof *r->stop_id);
    j->r.sampling.bias =
        mem_dup(r->sampling.bias, (size_t)r->sampling.n_bias * sizeof *r->sampling.bias);
    char **stop = mem_array((size_t)r->n_stop, sizeof *stop);
    for (int i = 0; i < r->n_stop; i++)
        stop[i] = mem_strdup(r->stop[i]);
    j->r.stop = (const char *const *)stop;
    if (j->r.n_logprobs > (int)(sizeof j->top / sizeof *j->top))
        j->r.n_logprobs = sizeof j->top / sizeof *j->top;
    j->sampler = sampler_new(&j->r.sampling, e->m->cfg.vocab);
    sampler_prompt(j->sampler, r->ids, r->n);
    if (e->m->tok)
        tok_stream_start(&j->stream, e->m->tok);
    j->stream.started = r->continues;
    j->use.n_prompt = r->n;
    j->order = ++e->arrivals;
    j->use.queued_at = clock_us();
    *e->tail = j;
    e->tail = &j->next;
    e->n_wait++;
    e->stats.accepted++;
    return 0;
}

void engine_cancel(struct engine *e, void *ud) {
    for (struct job *j = e->head; j; j = j->next)
        j->cancelled |= j->r.ud == ud;
    for (int i = 0; i < e->n_slot; i++)
        if (e->slot[i].job)
            e->slot[i].job->cancelled |= e->slot[i].job->r.ud == ud;
}

void slot_end(struct engine *e, struct slot *s, enum finish why, const struct err *err) {
    struct job *j = s->job;
    s->job = NULL;
    s->ids.n = (size_t)s->n_kv; /* the last sampled token was never run */
    s->used = e->step;
    job_end(e, j, why, err);
}

/* Length of the common prefix of a slot's cached tokens and a prompt, short of the prompt's last
 * token. */
static int reusable(const struct slot *s, const struct req *r) {
    int n = 0, most = s->n_kv < r->n - 1 ? s->n_kv : r->n - 1;
    while (n < most && s->ids.id[n] == r->ids[n])
        n++;
    return n;
}

/* Gives waiting requests to free slots: the slot that shares the longest prefix, else the least
 * recently used. */
static void admit(struct engine *e) {
    for (struct job **link = &e->head; *link;) {
        struct job *j = *link;
        struct slot *pick = NULL;
        int keep = 0;
        for (int i = 0; i < e->n_slot && !j->cancelled; i++) {
            struct slot *s = &e->slot[i];
            int n = s->job ? -1 : reusable(s, &j->r);
            if (n >= 0 && (!pick || n > keep || (n == keep && s->used < pick->used))) {
                pick = s;
                keep = n;
            }
        }
        if (!pick && !j->cancelled)
            return; /* first come, first served: nobody overtakes */
        *link = j->next;
        if (!*link)
            e->tail = link;
        e->n_wait--;
        if (j->cancelled) {
            job_end(e, j, FIN_CANCELLED, NULL);
            continue;
        }
        pick->job = j;
        pick->n_kv = keep;
        pick->ids.n = (size_t)keep;
        ids_addn(&pick->ids, j->r.ids + keep, (size_t)(j->r.n - keep));
        pick->used = e->step;
        j->use.n_cached = keep;
        j->use.started_at = clock_us();
        e->stats.prompt_tokens += j->r.n;
        e->stats.cached_tokens += keep;
    }
}

/* -- the step ---------------------------------------------------------------------------------- */

static void add_span(struct engine *e, struct batch *b, int i, int n) {
    struct slot *s = &e->slot[i];
    e->span_slot[b->n_span] = i;
    e->span[b->n_span++] =
        (struct span){.slot = i,
                      .pos = s->n_kv,
                      .n = n,
                      .ids = s->ids.id + s->n_kv,
                      .want = s->n_kv + n == (int)s->ids.n ? WANT_LAST : WANT_NONE};
}

/* The slot whose prompt is next in order of arrival after number `order`, or -1. */
static int next_prompt(const struct engine *e, int64_t order) {
    int pick = -1;
    for (int i = 0; i < e->n_slot; i++) {
        const struct job *j = e->slot[i].job;
        if (j && !j->use.n_out && j->order > order &&
            (pick < 0 || j->order < e->slot[pick].job->order))
            pick = i;
    }
    return pick;
}

/* Decodes first, one token each; then prompts in order of arrival until the batch is full. */
static struct batch plan(struct engine *e) {
    struct batch b = {.span = e->span};
    int left = e->n_batch;
    for (int i = 0; i < e->n_slot; i++)
        if (e->slot[i].job && e->slot[i].job->use.n_out) {
            add_span(e, &b, i, 1);
            left--;
        }
    int64_t order = 0;
    for (int i; left > 0 && (i = next_prompt(e, order)) >= 0; order = e->slot[i].job->order) {
        int n = (int)e->slot[i].ids.n - e->slot[i].n_kv;
        n = n < left ? n : left;
        add_span(e, &b, i, n);
        left -= n;
    }
    return b;
}

bool engine_step(struct engine *e) {
    e->step++;
    for (int i = 0; i < e->n_slot; i++)
        if (e->slot[i].job && e->slot[i].job->cancelled)
            slot_end(e, &e->slot[i], FIN_CANCELLED, NULL);
    admit(e);
    for (int i = 0; i < e->n_slot;
         i++) { /* a request for no tokens at all: its prompt fills the cache only */
        struct slot *s = &e->slot[i];
        if (s->job && s->job->r.max_new == 0 && s->n_kv == s->job->r.n)
            slot_end(e, s, FIN_LENGTH, NULL);
    }
    struct batch b = plan(e);
    if (!b.n_span)
        return e->head != NULL;
    struct err err = {0};
    e->stats.steps++;
    int failed = run_step(e->run, e->kv, &b, e->logits, &err), row = 0;
    for (int i = 0; i < b.n_span; i++) {
        struct slot *s = &e->slot[e->span_slot[i]];
        if (failed) { /* submit has checked everything run_step can refuse: report, do not loop */
            slot_end(e, s, FIN_ERROR, &err);
            continue;
        }
        s->n_kv += b.span[i].n;
        e->stats.computed_tokens += s->job->use.n_out ? 0 : b.span[i].n;
        if (b.span[i].want == WANT_LAST && s->job->r.max_new != 0)
            out_token(e, s, e->logits + (size_t)row * e->m->cfg.vocab);
        row += b.span[i].want == WANT_LAST;
    }
    return true;
}
