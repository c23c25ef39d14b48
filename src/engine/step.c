/* step.c - one step: who gets memory, what is computed (method/sarathi.h decides both), and what
 * becomes of the results.
 *
 * A request that is preempted loses its slot and keeps all else: its tokens, its sampler, its text.
 * It waits as the oldest of those that wait, and its next prompt is all the tokens it has; nothing
 * is drawn twice, so the answer is the same.  At least its last token is computed, for the logits.
 * Tested in test/unit/engine.c. */
#include "base/clock.h"
#include "engine/impl.h"

/* -- memory ------------------------------------------------------------------------------------ */

static int common(const struct job *a, const struct job *b) {
    int n = 0, most = (int)(a->ids.n < b->ids.n ? a->ids.n : b->ids.n);
    while (n < most && a->ids.id[n] == b->ids.id[n])
        n++;
    return n;
}

/* How many tokens of j may come from the cache. */
static int reusable(const struct job *j) {
    return prompt_whole(j) ? 0 : (int)j->ids.n - 1;
}

/* Somebody is just computing what would be half or more of j's work: j does better to wait for that
 * than to compute it as well.  So n choices for one prompt compute it once. */
static bool better_later(const struct engine *e, const struct job *j, int found) {
    int most = reusable(j);
    for (const struct job *k = e->oldest; k && k->slot >= 0; k = k->newer) {
        if (k->n_kv >= k->use.n_prompt || k->r.cache_salt != j->r.cache_salt)
            continue;
        int n = common(j, k) < most ? common(j, k) : most;
        if (n > k->n_kv && 2 * (n - found) >= most - found)
            return true;
    }
    return false;
}

/* A slot with memory for all tokens of a waiting job, -1 = not now.  A hundredth of the memory
 * stays free, lest the first tokens of the newcomer push somebody out. */
static int take_slot(struct engine *e, struct job *j, int *found) {
    int n = (int)j->ids.n, spare = e->n_running ? kv_groups(e->kv) / 100 : 0;
    int peek = prefix_peek(e->prefix, j->ids.id, reusable(j), j->r.cache_salt);
    if (better_later(e, j, peek))
        return -1;
    /* Groups that are found may be in use already, and so cost nothing. */
    int need = kv_groups_need(e->kv, -1, n) - peek / kv_group_tokens(e->kv);
    if (need + spare > kv_groups_free(e->kv))
        return -1;
    if (j == e->short_of_memory && kv_groups_free(e->kv) <= e->short_free)
        return -1; /* tried, at the cost of copies, and nothing has changed */
    int slot = prefix_start(e->prefix, j->ids.id, reusable(j), j->r.cache_salt, found);
    if (slot >= 0 && (kv_ensure(e->kv, slot, n) || kv_groups_free(e->kv) < spare)) {
        prefix_end(e->prefix, slot);
        e->short_of_memory = j;
        e->short_free = kv_groups_free(e->kv);
        slot = -1;
    }
    return slot;
}

static int on_admit(void *ud, int i) {
    struct engine *e = ud;
    struct job *j = e->of[i];
    int found = 0, slot = take_slot(e, j, &found);
    if (slot < 0)
        return -1;
    j->slot = slot;
    j->n_kv = found;
    e->job[slot] = j;
    e->n_waiting--;
    e->n_running++;
    if (!j->use.started_at) {
        j->use.started_at = clock_us();
        j->use.n_cached = found;
        e->stats.prompt_tokens += j->use.n_prompt;
        e->stats.cached_tokens += found;
        j->sampler = sampler_new(&j->r.sampling, e->m->cfg.vocab);
        sampler_prompt(j->sampler, j->ids.id, j->use.n_prompt);
    }
    return found;
}

static bool on_grow(void *ud, int i) {
    const struct engine *e = ud;
    return !kv_ensure(e->kv, e->of[i]->slot, (int)e->of[i]->ids.n);
}

static void preempt(struct engine *e, struct job *j) {
    prefix_end(e->prefix, j->slot);
    e->job[j->slot] = NULL;
    j->slot = -1;
    j->n_kv = 0;
    j->use.n_preempted++;
    prompt_again(e, j);
    e->n_running--;
    e->n_waiting++;
    e->stats.preempted++;
}

static void on_preempt(void *ud, int i) {
    struct engine *e = ud;
    preempt(e, e->of[i]);
}

bool job_preempt_latest(struct engine *e) {
    struct job *last = NULL;
    for (struct job *j = e->oldest; j && j->slot >= 0; j = j->newer)
        last = j;
    if (last)
        preempt(e, last);
    return last;
}

/* -- the step ---------------------------------------------------------------------------------- */

static void end_cancelled(struct engine *e) {
    if (!e->any_cancelled)
        return;
    e->any_cancelled = false;
    for (struct job *j = e->oldest, *next; j; j = next) {
        next = j->newer;
        if (j->cancelled)
            job_end(e, j, FIN_CANCELLED, NULL);
    }
}

/* No more than all that run and as many that wait can matter. */
static struct sarathi_plan plan(struct engine *e, int *n_seq) {
    const struct sarathi_mem mem = {e, on_admit, on_grow, on_preempt};
    int n = 0;
    for (struct job *j = e->oldest; j && n < 2 * e->n_run; j = j->newer, n++) {
        e->of[n] = j;
        e->seq[n] =
            (struct sarathi_seq){.n_ids = (int)j->ids.n, .n_kv = j->n_kv, .running = j->slot >= 0};
    }
    *n_seq = n;
    return sarathi_plan(&e->sched, e->seq, n, &mem);
}

/* The plan as spans; e->of becomes who they belong to. */
static struct batch spans(struct engine *e, int n_seq) {
    struct batch b = {.span = e->span};
    for (int i = 0; i < n_seq; i++) {
        struct job *j = e->of[i];
        int n = e->seq[i].n;
        if (!n)
            continue;
        bool last = j->n_kv + n == (int)j->ids.n && j->r.max_new != 0;
        e->of[b.n_span] = j;
        e->span[b.n_span++] = (struct span){.slot = j->slot,
                                            .pos = j->n_kv,
                                            .n = n,
                                            .ids = j->ids.id + j->n_kv,
                                            .want = last ? WANT_LAST : WANT_NONE,
                                            .hidden = prompt_hidden(j)};
    }
    return b;
}

/* Says how far a prompt has been read. */
static void progress(const struct job *j) {
    if (j->r.on_prompt && !j->use.n_out)
        j->r.on_prompt(j->r.ud, j->n_kv, j->use.n_cached);
}

/* What was computed stands; whoever has logits gets his token. */
static void settle(struct engine *e, const struct batch *b) {
    const float *row = e->logits;
    for (int i = 0, hidden = 0; i < b->n_span; i++) {
        struct job *j = e->of[i];
        if (b->span[i].hidden) {
            prompt_rows(e, j, hidden, b->span[i].n);
            hidden += b->span[i].n;
        }
        j->n_kv += b->span[i].n;
        progress(j);
        e->stats.computed_tokens += b->span[i].n - (b->span[i].n == 1 && j->use.n_out > 0);
        prefix_note(e->prefix, j->slot, j->ids.id, j->n_kv);
        if (b->span[i].want == WANT_LAST) {
            out_token(e, j, row);
            row += e->m->cfg.vocab;
        } else if (j->n_kv == (int)j->ids.n) { /* a request for no tokens: it fills the cache */
            prompt_end(e, j);
            job_end(e, j, FIN_LENGTH, NULL);
        }
    }
}

bool engine_step(struct engine *e) {
    int64_t start = clock_us();
    int n_seq;
    end_cancelled(e);
    struct sarathi_plan p = plan(e, &n_seq);
    struct err err = {0};
    if (p.stuck >= 0) {
        err_set(&err, E_MEMORY, "kv_exhausted: %zu tokens need more KV memory than the %d of all",
                e->of[p.stuck]->ids.n, kv_groups(e->kv) * kv_group_tokens(e->kv));
        job_end(e, e->of[p.stuck], FIN_ERROR, &err);
        return e->oldest;
    }
    struct batch b = spans(e, n_seq);
    if (!b.n_span)
        return e->oldest;
    e->stats.steps++;
    e->stats.budget = p.budget;
    if (run_step(e->run, e->kv, &b, e->logits, &err)) {
        /* submit has checked everything run_step can refuse: report, do not loop */
        for (int i = 0; i < b.n_span; i++)
            job_end(e, e->of[i], FIN_ERROR, &err);
        return true;
    }
    settle(e, &b);
    sarathi_learn(&e->fit, &p.load, (double)(clock_us() - start) / 1e6);
    return true;
}
