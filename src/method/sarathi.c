/* sarathi.c - choose the next step so that answers never stall behind a long prompt.
 * Agrawal et al., OSDI 2024, algorithm 3; the budget follows from a fitted time of a step, which
 * the paper leaves to future work.
 *
 * Invariants: (1) every running sequence that decodes is in the plan unless it was preempted;
 * (2) n_tok <= max_tok; (3) nobody overtakes: waiting sequences are admitted in order of arrival,
 * and the latest is the one preempted, so the oldest always advances and each one becomes the
 * oldest; (4) a prompt that is running gets at least a tile, or what is left of it.
 * Used by engine.c and by sarathi_sim.c.  Tested in test/method/sarathi.c. */
#include "method/sarathi.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const policy_name[] = {"sarathi", "prefill-first", "unchunked"};

const char *sarathi_name(enum sarathi_policy p) {
    return policy_name[p];
}

int sarathi_parse(const char *name, enum sarathi_policy *out, struct err *err) {
    for (int i = 0; i < SARATHI_POLICIES; i++)
        if (!strcmp(name, policy_name[i])) {
            *out = (enum sarathi_policy)i;
            return 0;
        }
    return err_set(err, E_USAGE, "schedule '%s' is not sarathi, prefill-first or unchunked", name);
}

/* -- the time of a step ------------------------------------------------------------------------ */

#define REFIT 8 /* samples between fits; a fit takes some ten microseconds */
#define ROUNDS 4

double sarathi_time(const struct sarathi_cost *c, const struct sarathi_load *x) {
    return c->w + c->d * x->decodes + c->p * x->prompt + c->a * x->past + c->q * x->square;
}

/* One row of the least squares: terms over time, so that errors are relative. */
static void terms(const struct sarathi_sample *s, double *row) {
    row[0] = 1 / s->t;
    row[1] = s->x.decodes / s->t;
    row[2] = s->x.prompt / s->t;
    row[3] = s->x.past / s->t;
    row[4] = s->x.square / s->t;
}

/* Solves the normal equations for the terms in `mask` (Cholesky, scaled to a unit diagonal with a
 * little added: terms may be collinear, as w and d are when the batch never changes). */
static void solve(double (*m)[SARATHI_TERMS], const double *v, unsigned mask, double *x) {
    int at[SARATHI_TERMS], n = 0;
    double l[SARATHI_TERMS][SARATHI_TERMS], y[SARATHI_TERMS], scale[SARATHI_TERMS];
    for (int i = 0; i < SARATHI_TERMS; i++) {
        x[i] = 0;
        if (mask >> i & 1 && m[i][i] > 0)
            at[n++] = i;
    }
    for (int i = 0; i < n; i++)
        scale[i] = 1 / sqrt(m[at[i]][at[i]]);
    for (int i = 0; i < n; i++) {
        double b = v[at[i]] * scale[i];
        for (int j = 0; j <= i; j++) {
            double s = m[at[i]][at[j]] * scale[i] * scale[j] + (i == j ? 1e-9 : 0);
            for (int k = 0; k < j; k++)
                s -= l[i][k] * l[j][k];
            l[i][j] = i == j ? sqrt(s > 1e-12 ? s : 1e-12) : s / l[j][j];
        }
        for (int k = 0; k < i; k++)
            b -= l[i][k] * y[k];
        y[i] = b / l[i][i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++)
            y[i] -= l[k][i] * y[k];
        y[i] /= l[i][i];
        x[at[i]] = y[i] * scale[i];
    }
}

/* The best coefficients that are all >= 0.  They are the plain solution over some subset of the
 * terms, and there are 32 subsets: try them. */
static void fit_nonnegative(double (*m)[SARATHI_TERMS], const double *v, double *best) {
    double least = INFINITY;
    for (unsigned mask = 1; mask < 1u << SARATHI_TERMS; mask++) {
        double x[SARATHI_TERMS], error = 0;
        bool ok = true;
        solve(m, v, mask, x);
        for (int i = 0; i < SARATHI_TERMS; i++) {
            ok = ok && x[i] >= 0;
            error -= 2 * x[i] * v[i];
            for (int j = 0; j < SARATHI_TERMS; j++)
                error += x[i] * m[i][j] * x[j];
        }
        if (ok && error < least) {
            least = error;
            memcpy(best, x, sizeof x);
        }
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Value at fraction p of n sorted ones. */
static double quantile(const double *sorted, int n, double p) {
    return sorted[(int)(p * (n - 1) + 0.5)];
}

static int window(const struct sarathi_fit *f, int kind) {
    return f->seen[kind] < SARATHI_WINDOW ? (int)f->seen[kind] : SARATHI_WINDOW;
}

/* Measured over predicted time of sample i of the window. */
static double ratio(const struct sarathi_fit *f, int i, struct sarathi_sample *s) {
    int n0 = window(f, 0);
    *s = i < n0 ? f->ring[0][i] : f->ring[1][i - n0];
    double t = sarathi_time(&f->cost, &s->x);
    return t > 0 ? s->t / t : 1;
}

/* Weighted least squares over the window. */
static void solve_weighted(struct sarathi_fit *f, const double *weight, int n) {
    double m[SARATHI_TERMS][SARATHI_TERMS] = {0}, v[SARATHI_TERMS] = {0}, x[SARATHI_TERMS] = {0};
    for (int i = 0; i < n; i++) {
        struct sarathi_sample s;
        double row[SARATHI_TERMS];
        ratio(f, i, &s);
        terms(&s, row);
        for (int a = 0; a < SARATHI_TERMS; a++) {
            v[a] += weight[i] * row[a];
            for (int b = 0; b < SARATHI_TERMS; b++)
                m[a][b] += weight[i] * row[a] * row[b];
        }
    }
    fit_nonnegative(m, v, x);
    f->cost = (struct sarathi_cost){x[0], x[1], x[2], x[3], x[4]};
}

/* Reweighted a few times with Huber's weights: beyond twice the median error a sample pulls with
 * constant force only. */
static void fit(struct sarathi_fit *f) {
    double weight[2 * SARATHI_WINDOW], error[2 * SARATHI_WINDOW], sorted[2 * SARATHI_WINDOW];
    int n = window(f, 0) + window(f, 1);
    struct sarathi_sample s;
    for (int i = 0; i < n; i++)
        weight[i] = 1;
    for (int round = 0; round < ROUNDS; round++) {
        solve_weighted(f, weight, n);
        for (int i = 0; i < n; i++)
            error[i] = fabs(1 - 1 / ratio(f, i, &s));
        memcpy(sorted, error, sizeof error);
        qsort(sorted, (size_t)n, sizeof *sorted, by_value);
        double usual = 2 * quantile(sorted, n, 0.5) + 1e-6;
        for (int i = 0; i < n; i++)
            weight[i] = error[i] > usual ? usual / error[i] : 1;
    }
    for (int i = 0; i < n; i++)
        sorted[i] = ratio(f, i, &s);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    double slack = quantile(sorted, n, 0.99);
    f->slack = slack < 1 ? 1 : slack > 3 ? 3 : slack;
}

void sarathi_learn(struct sarathi_fit *f, const struct sarathi_load *x, double seconds) {
    if (!(seconds > 0) || x->decodes + x->prompt < 1)
        return;
    int kind = x->prompt > 0;
    f->ring[kind][f->seen[kind]++ % SARATHI_WINDOW] = (struct sarathi_sample){*x, seconds};
    f->widest = 0;
    for (int i = 0; i < window(f, 1); i++)
        f->widest = f->ring[1][i].x.prompt > f->widest ? f->ring[1][i].x.prompt : f->widest;
    if (++f->pending < REFIT || f->seen[1] < REFIT / 2)
        return;
    f->pending = 0;
    fit(f);
    f->ready = true;
}

/* -- the budget -------------------------------------------------------------------------------- */

struct room { /* what a step still has */
    const struct sarathi_opts *o;
    struct sarathi_plan *plan;
    double time; /* seconds, INFINITY = does not matter */
    bool served; /* a prompt has its least share */
};

/* Most tokens of a chunk with `past` tokens before it that take no longer than `time`: the root of
 * (p + q past) n + q n^2 / 2 = time. */
static double tokens_in(const struct sarathi_cost *c, int past, double time) {
    double b = c->p + c->q * past;
    if (time <= 0)
        return 0;
    if (b <= 0 && c->q <= 0)
        return INFINITY;
    return 2 * time / (b + sqrt(b * b + 2 * c->q * time));
}

/* How many of the next `left` tokens of a prompt go into the step. */
static int chunk(const struct room *r, int past, int left) {
    const struct sarathi_opts *o = r->o;
    int most = o->max_tok - r->plan->n_tok;
    if (o->policy != SARATHI)
        return left <= most ? left : 0;
    if (isfinite(r->time)) {
        const struct sarathi_fit *f = o->fit;
        /* Twice what was seen: no prediction is trusted farther out. */
        int wide = (f->widest > o->tile ? 2 * f->widest : o->tile) - r->plan->load.prompt;
        double fits = f->ready ? tokens_in(&f->cost, past, r->time) : o->tile;
        most = most < wide ? most : wide;
        most = fits < most ? (int)fits : most;
    }
    if (most < left) { /* a chunk: products have rows for n_tok + chunk tokens */
        int total = (r->plan->n_tok + (most > 0 ? most : 0)) / o->tile * o->tile;
        most = total - r->plan->n_tok;
    }
    int least = o->max_tok - r->plan->n_tok < o->tile ? o->max_tok - r->plan->n_tok : o->tile;
    if (!r->served && most < least)
        most = least;
    return left < most ? left : most < 0 ? 0 : most;
}

/* Gives sequence s a chunk; false = there is no room left. */
static bool add_prompt(struct room *r, struct sarathi_seq *s) {
    int n = chunk(r, s->n_kv, s->n_ids - s->n_kv);
    if (n < 1)
        return false;
    struct sarathi_load one = {.prompt = n, .square = (double)n * (s->n_kv + n / 2.0)};
    struct sarathi_load *sum = &r->plan->load;
    s->n = n;
    r->plan->n_tok += n;
    sum->prompt += n;
    sum->square += one.square;
    r->served = true;
    if (isfinite(r->time))
        r->time -= sarathi_time(&r->o->fit->cost, &one) - r->o->fit->cost.w;
    return true;
}

/* -- the plan ---------------------------------------------------------------------------------- */

static bool decodes(const struct sarathi_seq *s) {
    return s->running && s->n_ids - s->n_kv == 1;
}

static int running(const struct sarathi_seq *seq, int n_seq) {
    int n = 0;
    for (int i = 0; i < n_seq; i++)
        n += seq[i].running;
    return n;
}

/* Memory for one more token of sequence i, taken from the latest running ones if need be; false = i
 * was preempted itself, or is stuck. */
static bool make_room(struct sarathi_plan *p, struct sarathi_seq *seq, int n_seq, int i,
                      const struct sarathi_mem *mem) {
    while (!mem->grow(mem->ud, i)) {
        int last = n_seq - 1;
        while (!seq[last].running)
            last--;
        if (last == i && running(seq, n_seq) == 1) {
            p->stuck = i;
            return false;
        }
        mem->preempt(mem->ud, last);
        seq[last].running = false;
        seq[last].n_kv = 0;
        p->preempted++;
        if (last == i)
            return false;
    }
    return true;
}

static void plan_decodes(struct sarathi_plan *p, struct sarathi_seq *seq, int n_seq,
                         const struct sarathi_mem *mem) {
    for (int i = 0; i < n_seq; i++) {
        if (!decodes(&seq[i]) || !make_room(p, seq, n_seq, i, mem))
            continue;
        seq[i].n = 1;
        p->n_tok++;
        p->load.decodes++;
        p->load.past += seq[i].n_kv;
    }
}

/* Prompts that are under way, then those that wait, in order of arrival. */
static void plan_prompts(struct room *r, struct sarathi_seq *seq, int n_seq,
                         const struct sarathi_mem *mem) {
    struct sarathi_plan *p = r->plan;
    for (int i = 0; i < n_seq; i++)
        if (seq[i].running && !seq[i].n && !decodes(&seq[i]) && !add_prompt(r, &seq[i]))
            return;
    if (p->preempted) /* memory is short: whoever came now would only be preempted again */
        return;
    for (int i = 0; i < n_seq; i++) {
        if (seq[i].running)
            continue;
        if (running(seq, n_seq) >= r->o->max_run || chunk(r, 0, seq[i].n_ids) < 1)
            return;
        int found = mem->admit(mem->ud, i);
        if (found < 0) {
            p->stuck = running(seq, n_seq) ? p->stuck : i;
            return;
        }
        seq[i].running = true;
        seq[i].n_kv = found;
        p->admitted++;
        if (!add_prompt(r, &seq[i]))
            return;
    }
}

struct sarathi_plan sarathi_plan(const struct sarathi_opts *o, struct sarathi_seq *seq, int n_seq,
                                 const struct sarathi_mem *mem) {
    struct sarathi_plan p = {.stuck = -1, .budget = o->max_tok};
    struct room r = {.o = o, .plan = &p, .time = INFINITY};
    for (int i = 0; i < n_seq; i++)
        seq[i].n = 0;
    if (o->policy != SARATHI_PREFILL_FIRST)
        plan_decodes(&p, seq, n_seq, mem);
    if (o->policy == SARATHI && o->slo > 0 && p.load.decodes) {
        /* Without decodes nobody waits for the step's end but those whose prompts it computes. */
        r.time = o->fit->ready ? o->slo / o->fit->slack - sarathi_time(&o->fit->cost, &p.load) : 0;
        p.budget = p.n_tok + chunk(&r, 0, o->max_tok);
    }
    if (p.stuck < 0)
        plan_prompts(&r, seq, n_seq, mem);
    if (o->policy == SARATHI_PREFILL_FIRST && !p.n_tok && p.stuck < 0)
        plan_decodes(&p, seq, n_seq, mem);
    return p;
}
