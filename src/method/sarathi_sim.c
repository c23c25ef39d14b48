/* sarathi_sim.c - see sarathi_sim.h.  The loop is that of engine.c without a model. */
#include "method/sarathi_sim.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

struct sim {
    const struct sim_opts *o;
    const struct sim_req *req;
    int n, next; /* requests; the next to arrive */
    double now;
    struct sarathi_fit fit;
    struct sarathi_seq *seq; /* (n) those that have arrived and not ended, oldest first */
    int *who, n_live;        /* (n) which request each of them is */
    int *held;               /* (n) groups of a request */
    int *made;               /* (n) its tokens so far */
    int free;                /* groups */
    struct sim_marks at;     /* start < 0: not yet scheduled */
    struct rng noise;
    struct sim_result *out;
};

/* -- traces ------------------------------------------------------------------------------------ */

static int draw_length(struct rng *r, double median, const struct sim_lengths *len) {
    double n = median * exp(len->sigma * (double)rng_normal(r));
    return n < 1 ? 1 : n > len->max ? len->max : (int)n;
}

void sim_poisson(struct sim_req *out, int n, double rate, const struct sim_lengths *len,
                 uint64_t seed) {
    struct rng r;
    double at = 0;
    rng_seed(&r, seed);
    for (int i = 0; i < n; i++) {
        at -= log(1 - rng_double(&r));
        out[i] = (struct sim_req){at / rate, draw_length(&r, len->prompt, len),
                                  draw_length(&r, len->out, len)};
    }
}

/* -- memory ------------------------------------------------------------------------------------ */

static int groups_for(const struct sim *s, int n_tok) {
    return (n_tok + s->o->group_tokens - 1) / s->o->group_tokens;
}

static bool take(struct sim *s, int i, int spare) {
    int more = groups_for(s, s->seq[i].n_ids) - s->held[s->who[i]];
    if (s->free - more < spare)
        return false;
    s->free -= more;
    s->held[s->who[i]] += more;
    return true;
}

/* A hundredth stays free, lest the newcomer's first tokens push someone out. */
static int on_admit(void *ud, int i) {
    struct sim *s = ud;
    bool alone = s->free == s->o->groups;
    if (!take(s, i, alone ? 0 : s->o->groups / 100))
        return -1;
    if (s->at.start[s->who[i]] < 0)
        s->at.start[s->who[i]] = s->now;
    return 0;
}

static bool on_grow(void *ud, int i) {
    return take(ud, i, 0);
}

static void on_preempt(void *ud, int i) {
    struct sim *s = ud;
    s->free += s->held[s->who[i]];
    s->held[s->who[i]] = 0;
}

/* -- the loop ---------------------------------------------------------------------------------- */

static void arrive(struct sim *s) {
    for (; s->next < s->n && s->req[s->next].at <= s->now; s->next++) {
        s->who[s->n_live] = s->next;
        s->seq[s->n_live++] = (struct sarathi_seq){.n_ids = s->req[s->next].n_prompt};
    }
}

/* Request number `who` has one more token, now. */
static void token(struct sim *s, int who) {
    if (s->made[who]++)
        s->at.gap[s->at.n_gap++] = s->now - s->at.last[who];
    else
        s->at.first[who] = s->now;
    s->at.last[who] = s->now;
}

/* After a step: what was computed stands, whoever has all his tokens leaves. */
static void settle(struct sim *s) {
    int keep = 0;
    for (int i = 0; i < s->n_live; i++) {
        struct sarathi_seq *q = &s->seq[i];
        int who = s->who[i];
        q->n_kv += q->n;
        if (q->n && q->n_kv == q->n_ids) {
            token(s, who);
            q->n_ids++;
        }
        if (s->made[who] == s->req[who].n_out) {
            on_preempt(s, i);
            continue;
        }
        s->seq[keep] = *q;
        s->who[keep++] = who;
    }
    s->n_live = keep;
}

static void step(struct sim *s, const struct sarathi_opts *so) {
    const struct sarathi_mem mem = {s, on_admit, on_grow, on_preempt};
    struct sarathi_plan p = sarathi_plan(so, s->seq, s->n_live, &mem);
    assert(p.stuck < 0); /* check() has seen to it */
    s->out->preempted += p.preempted;
    if (!p.n_tok)
        return;
    double t = sarathi_time(&s->o->cost, &p.load) *
               (s->o->noise > 0 ? exp(s->o->noise * (double)rng_normal(&s->noise)) : 1);
    sarathi_learn(&s->fit, &p.load, t);
    s->now += t;
    s->out->steps++;
    s->out->computed += p.n_tok;
    if (p.load.decodes && p.budget < s->out->budget_min)
        s->out->budget_min = p.budget;
    settle(s);
}

/* -- figures ----------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank of n sorted values; 0 if there are none. */
static double rank(const double *x, int n, double p) {
    int at = (int)ceil(p * n) - 1;
    return n ? x[at < 0 ? 0 : at] : 0;
}

/* Sorts to[i] - from[i] into from. */
static void spans(double *from, const double *to, int n) {
    for (int i = 0; i < n; i++)
        from[i] = to[i] - from[i];
    qsort(from, (size_t)n, sizeof *from, by_value);
}

void sim_figures(const struct sim_req *req, int n, const struct sim_marks *m,
                 struct sim_result *r) {
    double *at = mem_array((size_t)n, sizeof *at), tokens = 0, made = 0, end = 0;
    const double *to[] = {m->first, m->start, m->last};
    double *p50[] = {&r->ttft_p50, &r->delay_p50, &r->e2e_p50};
    for (int pass = 0; pass < 3; pass++) {
        for (int i = 0; i < n; i++)
            at[i] = req[i].at;
        spans(at, to[pass], n);
        *p50[pass] = rank(at, n, 0.5);
        if (pass == 0)
            r->ttft_p99 = rank(at, n, 0.99);
    }
    free(at);
    qsort(m->gap, (size_t)m->n_gap, sizeof *m->gap, by_value);
    r->tbt_p50 = rank(m->gap, m->n_gap, 0.5);
    r->tbt_p99 = rank(m->gap, m->n_gap, 0.99);
    r->tbt_max = rank(m->gap, m->n_gap, 1);
    for (int i = 0; i < n; i++) {
        made += req[i].n_out;
        tokens += req[i].n_prompt + req[i].n_out;
        end = m->last[i] > end ? m->last[i] : end;
    }
    r->seconds = end - req[0].at;
    r->out_per_s = made / r->seconds;
    r->tok_per_s = tokens / r->seconds;
}

/* -- a run ------------------------------------------------------------------------------------- */

static int check(const struct sim_opts *o, const struct sim_req *req, int n, struct err *err) {
    if (n < 1)
        return err_set(err, E_USAGE, "trace: no requests");
    for (int i = 0; i < n; i++) {
        if (req[i].n_prompt < 1 || req[i].n_out < 1)
            return err_set(err, E_USAGE, "trace: request %d: prompt and output need a token", i);
        if (!(req[i].at >= (i ? req[i - 1].at : 0)) || !isfinite(req[i].at))
            return err_set(err, E_USAGE, "trace: request %d: arrives before the one above it", i);
        if ((int64_t)req[i].n_prompt + req[i].n_out > (int64_t)o->groups * o->group_tokens)
            return err_set(err, E_USAGE, "trace: request %d: %d + %d tokens, memory holds %lld", i,
                           req[i].n_prompt, req[i].n_out, (long long)o->groups * o->group_tokens);
    }
    if (!(sarathi_time(&o->cost, &(struct sarathi_load){.decodes = 1, .past = 1}) > 0) ||
        !(sarathi_time(&o->cost, &(struct sarathi_load){.prompt = 1, .square = 1}) > 0))
        return err_set(err, E_USAGE, "cost: a step takes no time");
    return 0;
}

int sim_run(const struct sim_opts *o, const struct sim_req *req, int n, struct sim_result *out,
            struct err *err) {
    if (check(o, req, n, err))
        return -1;
    struct sarathi_opts so = {.policy = o->policy,
                              .max_run = o->max_run,
                              .max_tok = o->max_tok > o->max_run ? o->max_tok : o->max_run,
                              .tile = o->tile,
                              .slo = o->slo};
    size_t made = 0, count = (size_t)n;
    for (int i = 0; i < n; i++) {
        int whole = req[i].n_prompt + req[i].n_out;
        made += (size_t)req[i].n_out;
        if (o->policy != SARATHI && whole > so.max_tok)
            so.max_tok = whole;
    }
    *out = (struct sim_result){.budget_min = so.max_tok};
    struct sim s = {.o = o, .req = req, .n = n, .free = o->groups, .out = out, .now = req[0].at};
    s.seq = mem_array(count, sizeof *s.seq);
    s.who = mem_array(3 * count, sizeof *s.who);
    s.held = s.who + n;
    s.made = s.held + n;
    s.at.start = mem_array(3 * count, sizeof *s.at.start);
    s.at.first = s.at.start + n;
    s.at.last = s.at.first + n;
    s.at.gap = mem_array(made, sizeof *s.at.gap);
    for (int i = 0; i < n; i++)
        s.at.start[i] = -1;
    so.fit = &s.fit;
    rng_seed(&s.noise, o->seed);
    while (s.n_live || s.next < n) {
        if (!s.n_live && req[s.next].at > s.now)
            s.now = req[s.next].at;
        arrive(&s);
        step(&s, &so);
    }
    sim_figures(req, n, &s.at, out);
    free(s.seq);
    free(s.who);
    free(s.at.start);
    free(s.at.gap);
    return 0;
}

int sim_capacity(const struct sim_opts *o, const struct sim_lengths *len, int n, double tbt,
                 uint64_t seed, double *rate, struct err *err) {
    struct sim_req *req = mem_array((size_t)n, sizeof *req);
    double lo = 0, hi = 0, r = 1e-3;
    int rc = 0;
    while (!rc && (hi == 0 || hi / lo > 1.02)) {
        struct sim_result res;
        sim_poisson(req, n, r, len, seed);
        rc = sim_run(o, req, n, &res, err);
        if (!rc && res.tbt_p99 <= tbt && res.delay_p50 <= 2)
            lo = r;
        else
            hi = r;
        if (lo == 0 || lo > 1e6)
            break;
        r = hi == 0 ? 4 * lo : sqrt(lo * hi);
    }
    *rate = lo;
    free(req);
    return rc;
}
