/* out.c - from a row of logits to the caller: what may come next, the choice, its text, and whether
 * the answer is over.
 *
 * Invariants: (1) text that could still become a stop string is held back; (2) what an answer says
 * depends on its own request only.  Tested in test/unit/engine.c. */
#include <string.h>

#include "base/clock.h"
#include "engine/impl.h"

/* Earliest stop string in text, or the length of text; *found tells which. */
static size_t find_stop(const struct req *r, const char *text, size_t n, bool *found) {
    size_t at = n;
    *found = false;
    for (int i = 0; i < r->n_stop; i++) {
        size_t len = strlen(r->stop[i]);
        const char *p = len ? memmem(text, n, r->stop[i], len) : NULL;
        if (p && (size_t)(p - text) < at) {
            at = (size_t)(p - text);
            *found = true;
        }
    }
    return at;
}

/* How many bytes at the end of text could be the start of a stop string. */
static size_t maybe_stop(const struct req *r, const char *text, size_t n) {
    size_t hold = 0;
    for (int i = 0; i < r->n_stop; i++) {
        size_t len = strlen(r->stop[i]);
        for (size_t k = len > n ? n : len - (len > 0); k > hold; k--)
            if (memcmp(text + n - k, r->stop[i], k) == 0)
                hold = k;
    }
    return hold;
}

static bool is_end(const struct engine *e, const struct req *r, int32_t id) {
    for (int i = 0; i < e->m->cfg.n_eos && !r->ignore_eos; i++)
        if (e->m->cfg.eos[i] == id)
            return true;
    for (int i = 0; i < r->n_stop_id; i++)
        if (r->stop_id[i] == id)
            return true;
    return false;
}

/* Hands the caller a token and whatever text is safe to show; false = the caller cancels. */
static bool deliver(struct job *j, struct token *t, size_t safe) {
    t->text = buf_str(&j->text);
    t->len = safe;
    bool go_on = !j->r.on_token || j->r.on_token(j->r.ud, t);
    memmove(j->text.data, j->text.data + safe, j->text.len - safe);
    j->text.len -= safe;
    return go_on;
}

/* Text still held back goes out with id -1 when the answer ends for a reason other than a stop
 * string. */
static void flush(struct engine *e, struct job *j) {
    if (e->m->tok)
        tok_stream_end(&j->stream, &j->text);
    if (j->text.len)
        deliver(j, &(struct token){.id = -1}, j->text.len);
}

/* Decodes id into the pending text; how much of it can be shown, and whether a stop string was
 * met. */
static size_t add_text(const struct engine *e, struct job *j, int32_t id, bool *stopped) {
    *stopped = false;
    if (!e->m->tok)
        return 0;
    if (j->r.show_special && tok_is_special(e->m->tok, id)) {
        tok_stream_end(&j->stream, &j->text);
        tok_show(e->m->tok, id, &j->text);
    } else {
        tok_stream_add(&j->stream, id, &j->text,
                       NULL); /* an id without a piece (padded vocabulary) has no text */
    }
    const char *text = buf_str(&j->text);
    size_t at = find_stop(&j->r, text, j->text.len, stopped);
    return *stopped ? at : at - maybe_stop(&j->r, text, j->text.len);
}

/* Sets or clears the bit of every id that would end the answer; ids outside the vocabulary have
 * none. */
static void allow_ends(struct engine *e, const struct req *r, bool allow) {
    int n_eos = r->ignore_eos ? 0 : e->m->cfg.n_eos;
    for (int i = 0; i < n_eos + r->n_stop_id; i++) {
        int32_t id = i < n_eos ? e->m->cfg.eos[i] : r->stop_id[i - n_eos];
        if (id < 0 || id >= e->m->cfg.vocab)
            continue;
        uint32_t bit = (uint32_t)1 << id % 32;
        e->allowed[id / 32] = allow ? e->allowed[id / 32] | bit : e->allowed[id / 32] & ~bit;
    }
}

/* What may come next, or NULL for anything.  *over: nothing can follow. */
static const uint32_t *allowed(struct engine *e, const struct job *j, bool *over) {
    size_t n = ((size_t)e->m->cfg.vocab + 31) / 32, any = 0;
    const struct constraint *c = &j->r.constraint;
    bool early = j->use.n_out < j->r.min_new;
    *over = false;
    if (!early && !c->mask)
        return NULL;
    memset(e->allowed, c->mask ? 0 : 0xff, n * sizeof *e->allowed);
    if (c->mask && !c->mask(c->ud, e->allowed, e->m->cfg.vocab))
        *over = true;
    if (early)
        allow_ends(e, &j->r, false);
    for (size_t i = 0; i < n; i++)
        any += e->allowed[i] != 0;
    *over |= !any; /* a constraint that allows an end only beats a least length */
    return e->allowed;
}

void out_token(struct engine *e, struct job *j, const float *logits) {
    bool over, stopped = false;
    const uint32_t *may = allowed(e, j, &over);
    if (!j->use.first_at)
        j->use.first_at = clock_us();
    if (over) {
        flush(e, j);
        job_end(e, j, FIN_STOP, NULL);
        return;
    }
    struct token t = {.id = sampler_next_of(j->sampler, logits, may), .top = j->top};
    if (t.id < 0) {
        struct err err = {0};
        err_set(&err, E_FORMAT, "nan_logits: the model's output is not a number");
        job_end(e, j, FIN_ERROR, &err);
        return;
    }
    if (is_end(e, &j->r, t.id)) {
        flush(e, j);
        job_end(e, j, FIN_STOP, NULL);
        return;
    }
    if (j->r.constraint.accept)
        j->r.constraint.accept(j->r.constraint.ud, t.id);
    if (j->r.n_logprobs > 0)
        t.logprob = logprobs(logits, e->m->cfg.vocab, t.id, j->top, j->r.n_logprobs);
    ids_add(&j->ids, t.id);
    j->use.n_out++;
    e->stats.out_tokens++;
    size_t safe = add_text(e, j, t.id, &stopped);
    if (!deliver(j, &t, safe)) {
        job_end(e, j, FIN_CANCELLED, NULL);
    } else if (stopped) {
        job_end(e, j, FIN_STOP, NULL);
    } else if (j->use.n_out == j->r.max_new || (int)j->ids.n >= e->n_ctx) {
        flush(e, j);
        job_end(e, j, FIN_LENGTH, NULL);
    }
}
