/* sarathi.c - claims about the scheduler (src/method/sarathi.c) and its simulator. */
#include "testing.h"

#include <math.h>

#include "base/rng.h"
#include "method/sarathi_sim.h"

static void assert_close(double a, double b, double tolerance) {
    if (!(fabs(a - b) <= tolerance))
        fail_msg("%.12g is not %.12g", a, b);
}

/* -- a memory of groups ------------------------------------------------------------------------ */

struct memory {
    struct sarathi_seq *seq;
    int n_seq, held[64], free, group, preempted[64], n_preempted;
    int found; /* tokens of whoever is admitted that a cache holds */
};

static bool take(struct memory *m, int i) {
    int more = (m->seq[i].n_ids + m->group - 1) / m->group - m->held[i];
    if (more > m->free)
        return false;
    m->free -= more;
    m->held[i] += more;
    return true;
}

static int on_admit(void *ud, int i) {
    const struct memory *m = ud;
    return take(ud, i) ? m->found : -1;
}

static bool on_grow(void *ud, int i) {
    return take(ud, i);
}

static void on_preempt(void *ud, int i) {
    struct memory *m = ud;
    m->free += m->held[i];
    m->held[i] = 0;
    m->preempted[m->n_preempted++ % 64] = i;
}

static struct sarathi_plan plan(const struct sarathi_opts *o, struct memory *m) {
    m->n_preempted = 0;
    const struct sarathi_mem mem = {m, on_admit, on_grow, on_preempt};
    return sarathi_plan(o, m->seq, m->n_seq, &mem);
}

static const struct sarathi_opts usual = {.max_run = 8, .max_tok = 64, .tile = 16};

/* -- one plan ---------------------------------------------------------------------------------- */

static void decodes_come_first_and_prompts_share_the_rest_in_order(void **state) {
    (void)state;
    struct sarathi_seq seq[] = {{.n_ids = 31, .n_kv = 30, .running = true},
                                {.n_ids = 100, .n_kv = 80, .running = true},
                                {.n_ids = 9, .n_kv = 8, .running = true},
                                {.n_ids = 30},
                                {.n_ids = 200},
                                {.n_ids = 5}};
    struct memory m = {seq, 6, {0}, 1000, 16, {0}, 0};
    struct sarathi_plan p = plan(&usual, &m);
    assert_int_equal(seq[0].n, 1);
    assert_int_equal(seq[2].n, 1);
    assert_int_equal(seq[1].n, 20); /* the prompt under way, to its end */
    assert_int_equal(seq[3].n, 30);
    assert_int_equal(seq[4].n, 64 - 52); /* several prompts in a step */
    assert_int_equal(seq[5].n, 0);
    assert_false(seq[5].running);
    assert_int_equal(p.n_tok, 64);
    assert_int_equal(p.admitted, 2);
    assert_int_equal(p.load.decodes, 2);
    assert_int_equal(p.load.prompt, 62);
    assert_close(p.load.past, 38, 0);
    assert_close(p.load.square, 20 * 90.0 + 30 * 15.0 + 12 * 6.0, 1e-9);
}

static void what_a_cache_holds_is_not_computed_again(void **state) {
    (void)state;
    struct sarathi_seq seq = {.n_ids = 60};
    struct memory m = {&seq, 1, {0}, 99, 16, {0}, 0, 50};
    assert_int_equal(plan(&usual, &m).n_tok, 10);
    assert_int_equal(seq.n_kv, 50);
}

static void a_chunk_ends_where_the_rows_of_the_step_fill_tiles(void **state) {
    (void)state;
    struct sarathi_opts o = usual;
    o.max_tok = 60;
    struct sarathi_seq seq[] = {{.n_ids = 31, .n_kv = 30, .running = true}, {.n_ids = 200}};
    struct memory m = {seq, 2, {0}, 1000, 16, {0}, 0};
    assert_int_equal(plan(&o, &m).n_tok, 48);
    assert_int_equal(seq[1].n, 47);
    o.max_tok = 7; /* less than a tile: still something */
    assert_int_equal(plan(&o, &m).n_tok, 7);
}

static void the_latest_is_preempted_and_nobody_is_admitted_then(void **state) {
    (void)state;
    struct sarathi_seq seq[] = {{.n_ids = 17, .n_kv = 16, .running = true},
                                {.n_ids = 40, .n_kv = 16, .running = true},
                                {.n_ids = 9, .n_kv = 8, .running = true},
                                {.n_ids = 1}};
    struct memory m = {seq, 4, {1, 3, 3}, 0, 16, {0}, 0};
    struct sarathi_plan p = plan(&usual, &m);
    assert_int_equal(p.preempted, 1);
    assert_int_equal(m.preempted[0], 2);
    assert_false(seq[2].running);
    assert_int_equal(seq[2].n_kv, 0);
    assert_int_equal(seq[2].n, 0);
    assert_int_equal(seq[0].n, 1);
    assert_int_equal(seq[1].n, 24);
    assert_int_equal(seq[3].n, 0);
    assert_int_equal(p.stuck, -1);
}

static void a_sequence_alone_with_all_memory_is_stuck_not_preempted_for_ever(void **state) {
    (void)state;
    struct sarathi_seq seq[] = {{.n_ids = 17, .n_kv = 16, .running = true}, {.n_ids = 3}};
    struct memory m = {seq, 2, {1}, 0, 16, {0}, 0};
    struct sarathi_plan p = plan(&usual, &m);
    assert_int_equal(p.stuck, 0);
    assert_int_equal(p.preempted + p.n_tok, 0);
    struct sarathi_seq big = {.n_ids = 50};
    struct memory little = {&big, 1, {0}, 2, 16, {0}, 0};
    assert_int_equal(plan(&usual, &little).stuck, 0);
}

static void prefill_first_makes_decodes_wait_and_unchunked_does_not(void **state) {
    (void)state;
    struct sarathi_seq seq[] = {{.n_ids = 17, .n_kv = 16, .running = true}, {.n_ids = 40}};
    struct memory m = {seq, 2, {2}, 99, 16, {0}, 0};
    struct sarathi_opts o = usual;
    o.policy = SARATHI_PREFILL_FIRST;
    struct sarathi_plan p = plan(&o, &m);
    assert_int_equal(seq[0].n, 0);
    assert_int_equal(seq[1].n, 40);
    assert_int_equal(p.load.decodes, 0);
    seq[1].n_kv = 40; /* computed; a token came out */
    seq[1].n_ids = 41;
    p = plan(&o, &m);
    assert_int_equal(p.load.decodes, 2);
    seq[1] = (struct sarathi_seq){.n_ids = 40};
    o.policy = SARATHI_UNCHUNKED;
    p = plan(&o, &m);
    assert_int_equal(seq[0].n, 1);
    assert_int_equal(seq[1].n, 40);
    seq[1] = (struct sarathi_seq){.n_ids = 64}; /* whole or not at all: 64 + 1 do not fit */
    p = plan(&o, &m);
    assert_int_equal(seq[1].n, 0);
    enum sarathi_policy back;
    struct err err = {0};
    for (int i = 0; i < SARATHI_POLICIES; i++) {
        assert_int_equal(sarathi_parse(sarathi_name((enum sarathi_policy)i), &back, &err), 0);
        assert_int_equal(back, i);
    }
    assert_int_equal(sarathi_parse("fair", &back, &err), -1);
}

/* -- many plans -------------------------------------------------------------------------------- */

struct walk { /* a machine without time: random arrivals, lengths and memory */
    struct rng r;
    struct sarathi_opts o;
    struct memory m;
    struct sarathi_seq seq[64];
    int end[64]; /* n_ids at which a sequence is done */
};

static void check_plan(struct walk *w, const struct sarathi_seq *before, int n,
                       const struct sarathi_plan *p) {
    int sum = 0, n_run = 0, last_run = -1, first_wait = n;
    for (int i = 0; i < n; i++) {
        const struct sarathi_seq *s = &w->seq[i];
        bool decoding = before[i].running && before[i].n_ids - before[i].n_kv == 1;
        sum += s->n;
        n_run += s->running;
        last_run = s->running ? i : last_run;
        first_wait = !s->running && i < first_wait ? i : first_wait;
        assert_true(s->n >= 0 && s->n <= s->n_ids - s->n_kv && (s->running || !s->n));
        if (decoding && s->running && !(w->o.policy == SARATHI_PREFILL_FIRST && p->load.prompt))
            assert_int_equal(s->n, 1); /* stall-free */
        if (w->o.policy != SARATHI && s->running && s->n)
            assert_int_equal(s->n, s->n_ids - s->n_kv);
    }
    assert_int_equal(sum, p->n_tok);
    assert_true(p->n_tok <= w->o.max_tok);
    assert_true(n_run <= w->o.max_run);
    assert_true(last_run < first_wait); /* nobody overtakes */
    assert_true(n == 0 || w->seq[0].n > 0 || p->load.prompt > 0 || p->preempted);
}

static void walk(struct walk *w, int n_req, int *steps) {
    int n = 0, born = 0;
    for (*steps = 0; born < n_req || n; (*steps)++) {
        for (; born < n_req && n < 64 && rng_below(&w->r, 3) == 0; born++, n++) {
            w->seq[n] = (struct sarathi_seq){.n_ids = 1 + (int)rng_below(&w->r, 60)};
            w->end[n] = w->seq[n].n_ids + 1 + (int)rng_below(&w->r, 30);
            w->m.held[n] = 0;
        }
        struct sarathi_seq before[64];
        memcpy(before, w->seq, sizeof before);
        w->m.seq = w->seq;
        w->m.n_seq = n;
        struct sarathi_plan p = plan(&w->o, &w->m);
        assert_int_equal(p.stuck, -1);
        check_plan(w, before, n, &p);
        int keep = 0;
        for (int i = 0; i < n; i++) {
            struct sarathi_seq *s = &w->seq[i];
            s->n_kv += s->n;
            s->n_ids += s->n && s->n_kv == s->n_ids;
            if (s->n_ids == w->end[i]) {
                w->m.free += w->m.held[i];
                continue;
            }
            w->end[keep] = w->end[i];
            w->m.held[keep] = w->m.held[i];
            w->seq[keep++] = *s;
        }
        n = keep;
        assert_true(*steps < 100000);
    }
}

static void every_step_keeps_the_invariants_and_every_request_ends(void **state) {
    (void)state;
    FOR_SEEDS(120) {
        struct walk w = {0};
        int steps, groups;
        rng_seed(&w.r, seed);
        w.o = (struct sarathi_opts){.policy = (enum sarathi_policy)(seed % SARATHI_POLICIES),
                                    .max_run = 1 + (int)rng_below(&w.r, 9),
                                    .tile = 1 + (int)rng_below(&w.r, 16)};
        w.o.max_tok = w.o.policy == SARATHI ? w.o.max_run + (int)rng_below(&w.r, 60) : 100;
        w.m.group = 1 + (int)rng_below(&w.r, 16);
        groups = 91 / w.m.group + 1 + (int)rng_below(&w.r, 40); /* the longest fits, alone */
        w.m.free = groups;
        walk(&w, 60, &steps);
        assert_int_equal(w.m.free, groups);
    }
}

/* -- the fitted time --------------------------------------------------------------------------- */

static const struct sarathi_cost machine = {0.012, 0.0004, 0.0011, 4e-7, 3e-8};

static struct sarathi_load random_load(struct rng *r, bool prompt) {
    struct sarathi_load x = {.decodes = (int)rng_below(r, 17)};
    x.past = x.decodes * (100.0 + rng_below(r, 2000));
    if (prompt || !x.decodes) {
        x.prompt = 16 * (1 + (int)rng_below(r, 32));
        x.square = x.prompt * (rng_below(r, 3000) + x.prompt / 2.0);
    }
    return x;
}

static void the_time_of_a_step_is_learnt_in_spite_of_outliers(void **state) {
    (void)state;
    FOR_SEEDS(20) {
        struct sarathi_fit f = {0};
        struct rng r;
        rng_seed(&r, seed);
        assert_false(f.ready);
        for (int i = 0; i < 400; i++) {
            struct sarathi_load x = random_load(&r, i % 2);
            double t = sarathi_time(&machine, &x) * exp(0.02 * (double)rng_normal(&r));
            sarathi_learn(&f, &x, rng_below(&r, 4) ? t : 2 * t); /* a neighbour computes */
        }
        assert_true(f.ready);
        for (int i = 0; i < 50; i++) {
            struct sarathi_load x = random_load(&r, i % 2);
            assert_close(sarathi_time(&f.cost, &x) / sarathi_time(&machine, &x), 1, 0.06);
        }
        assert_close(f.slack, 2.03, 0.1);
    }
}

static void coefficients_are_never_negative_whatever_was_measured(void **state) {
    (void)state;
    FOR_SEEDS(50) {
        struct sarathi_fit f = {0};
        struct rng r;
        rng_seed(&r, seed);
        for (int i = 0; i < 100; i++) {
            struct sarathi_load x = random_load(&r, true);
            sarathi_learn(&f, &x, 1e-3 * (1 + rng_below(&r, 1000)));
            const struct sarathi_cost *c = &f.cost;
            assert_true(c->w >= 0 && c->d >= 0 && c->p >= 0 && c->a >= 0 && c->q >= 0);
        }
        assert_true(f.ready && f.slack >= 1 && f.slack <= 3);
    }
}

static void a_change_of_the_machine_is_followed(void **state) {
    (void)state;
    struct sarathi_fit f = {0};
    struct rng r;
    rng_seed(&r, 3);
    for (int i = 0; i < 600; i++) {
        struct sarathi_load x = random_load(&r, i % 2);
        sarathi_learn(&f, &x, sarathi_time(&machine, &x) * (i < 300 ? 1 : 2));
    }
    struct sarathi_load x = {.decodes = 8, .prompt = 64, .past = 8000, .square = 64 * 532.0};
    assert_close(sarathi_time(&f.cost, &x) / sarathi_time(&machine, &x), 2, 0.02);
}

static void the_budget_is_the_most_whole_tiles_that_meet_the_slo(void **state) {
    (void)state;
    struct sarathi_fit f = {.cost = machine, .slack = 1, .widest = 4000, .ready = true};
    struct sarathi_opts o = usual;
    o.max_tok = 2048;
    o.slo = 0.1;
    o.fit = &f;
    for (int past = 0; past < 6000; past += 500) {
        struct sarathi_seq seq[] = {{.n_ids = 1001, .n_kv = 1000, .running = true},
                                    {.n_ids = 9000, .n_kv = past, .running = true}};
        struct memory m = {seq, 2, {99, 600}, 1000, 16, {0}, 0};
        struct sarathi_plan p = plan(&o, &m);
        assert_int_equal(p.n_tok % o.tile, 0);
        assert_true(sarathi_time(&machine, &p.load) <= o.slo);
        struct sarathi_load more = p.load;
        more.prompt += o.tile;
        more.square = more.prompt * (past + more.prompt / 2.0);
        assert_true(sarathi_time(&machine, &more) > o.slo);
    }
}

static void a_prompt_advances_by_a_tile_even_if_the_slo_cannot_be_met(void **state) {
    (void)state;
    struct sarathi_fit f = {.cost = machine, .slack = 1, .widest = 4000, .ready = true};
    struct sarathi_opts o = usual;
    o.slo = 0.001;
    o.fit = &f;
    struct sarathi_seq seq[] = {{.n_ids = 11, .n_kv = 10, .running = true}, {.n_ids = 90}};
    struct memory m = {seq, 2, {1}, 1000, 16, {0}, 0};
    assert_int_equal(plan(&o, &m).load.prompt, o.tile);
    f = (struct sarathi_fit){0}; /* nothing measured yet */
    o.slo = 10;
    seq[1] = (struct sarathi_seq){.n_ids = 90};
    assert_int_equal(plan(&o, &m).load.prompt, o.tile);
    seq[0].running = false; /* nobody decodes: nothing to protect */
    seq[0].n_kv = 0;
    seq[1] = (struct sarathi_seq){.n_ids = 90};
    assert_int_equal(plan(&o, &m).n_tok, 64);
}

static void no_prediction_is_trusted_beyond_twice_what_was_seen(void **state) {
    (void)state;
    struct sarathi_fit f = {.cost = machine, .slack = 1, .widest = 20, .ready = true};
    struct sarathi_opts o = usual;
    o.slo = 10;
    o.max_tok = 512;
    o.fit = &f;
    struct sarathi_seq seq[] = {{.n_ids = 11, .n_kv = 10, .running = true}, {.n_ids = 400}};
    struct memory m = {seq, 2, {1}, 1000, 16, {0}, 0};
    assert_true(plan(&o, &m).load.prompt <= 40);
}

/* -- the simulator ----------------------------------------------------------------------------- */

static const struct sim_lengths lengths = {.prompt = 300, .out = 60, .sigma = 0.8, .max = 2000};
static const struct sim_opts sim = {.max_run = 16,
                                    .max_tok = 512,
                                    .tile = 16,
                                    .groups = 400,
                                    .group_tokens = 64,
                                    .cost = {0.012, 0.0004, 0.0011, 4e-7, 3e-8},
                                    .noise = 0.05,
                                    .seed = 7};

static struct sim_result simulate(const struct sim_opts *o, double rate, int n) {
    struct sim_req req[400];
    struct sim_result r;
    struct err err = {0};
    sim_poisson(req, n, rate, &lengths, 11);
    assert_ok(sim_run(o, req, n, &r, &err), err);
    return r;
}

static void a_replay_is_deterministic(void **state) {
    (void)state;
    struct sim_result a = simulate(&sim, 1, 200), b = simulate(&sim, 1, 200);
    assert_memory_equal(&a, &b, sizeof a);
    assert_true(a.steps > 1000 && a.ttft_p50 > 0 && a.tbt_max >= a.tbt_p99);
}

static void sarathi_keeps_the_slo_where_whole_prompts_break_it(void **state) {
    (void)state;
    struct sim_opts o = sim;
    o.slo = 0.1;
    struct sim_result s = simulate(&o, 1, 400);
    assert_true(s.tbt_p99 <= o.slo);
    for (int p = SARATHI_PREFILL_FIRST; p < SARATHI_POLICIES; p++) {
        o.policy = (enum sarathi_policy)p;
        struct sim_result whole = simulate(&o, 1, 400);
        assert_true(whole.tbt_p99 > 3 * o.slo);
        assert_true(whole.tbt_max > 5 * s.tbt_max);
    }
}

static void capacity_under_a_strict_slo_is_higher_with_chunks(void **state) {
    (void)state;
    struct err err = {0};
    double rate[SARATHI_POLICIES];
    struct sim_opts o = sim;
    o.slo = 0.1;
    for (int p = 0; p < SARATHI_POLICIES; p++) {
        o.policy = (enum sarathi_policy)p;
        assert_ok(sim_capacity(&o, &lengths, 80, o.slo, 5, &rate[p], &err), err);
    }
    assert_true(rate[SARATHI] > 0.5);
    assert_true(rate[SARATHI] > 1.5 * rate[SARATHI_PREFILL_FIRST]);
    assert_true(rate[SARATHI] > 1.5 * rate[SARATHI_UNCHUNKED]);
}

static void short_memory_costs_work_twice_but_loses_nobody(void **state) {
    (void)state;
    struct sim_opts o = sim;
    o.groups = 70;
    struct sim_result a = simulate(&sim, 2, 100), b = simulate(&o, 2, 100);
    assert_int_equal(a.preempted, 0);
    assert_true(b.preempted > 0);
    assert_true(b.computed > a.computed);
    assert_true(b.ttft_p50 > a.ttft_p50);
}

static void a_trace_that_cannot_run_is_refused(void **state) {
    (void)state;
    struct sim_result r;
    struct err err = {0};
    struct sim_req big = {0, 400 * 64, 1}, empty = {0, 0, 1}, order[] = {{1, 1, 1}, {0, 1, 1}};
    assert_int_equal(sim_run(&sim, &big, 1, &r, &err), -1);
    assert_non_null(strstr(err.msg, "memory holds"));
    err = (struct err){0};
    assert_int_equal(sim_run(&sim, &empty, 1, &r, &err), -1);
    err = (struct err){0};
    assert_int_equal(sim_run(&sim, order, 2, &r, &err), -1);
    assert_non_null(strstr(err.msg, "request 1"));
    struct sim_opts o = sim;
    o.cost = (struct sarathi_cost){0};
    err = (struct err){0};
    order[1].at = 2;
    assert_int_equal(sim_run(&o, order, 2, &r, &err), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_come_first_and_prompts_share_the_rest_in_order),
        cmocka_unit_test(what_a_cache_holds_is_not_computed_again),
        cmocka_unit_test(a_chunk_ends_where_the_rows_of_the_step_fill_tiles),
        cmocka_unit_test(the_latest_is_preempted_and_nobody_is_admitted_then),
        cmocka_unit_test(a_sequence_alone_with_all_memory_is_stuck_not_preempted_for_ever),
        cmocka_unit_test(prefill_first_makes_decodes_wait_and_unchunked_does_not),
        cmocka_unit_test(every_step_keeps_the_invariants_and_every_request_ends),
        cmocka_unit_test(the_time_of_a_step_is_learnt_in_spite_of_outliers),
        cmocka_unit_test(coefficients_are_never_negative_whatever_was_measured),
        cmocka_unit_test(a_change_of_the_machine_is_followed),
        cmocka_unit_test(the_budget_is_the_most_whole_tiles_that_meet_the_slo),
        cmocka_unit_test(a_prompt_advances_by_a_tile_even_if_the_slo_cannot_be_met),
        cmocka_unit_test(no_prediction_is_trusted_beyond_twice_what_was_seen),
        cmocka_unit_test(a_replay_is_deterministic),
        cmocka_unit_test(sarathi_keeps_the_slo_where_whole_prompts_break_it),
        cmocka_unit_test(capacity_under_a_strict_slo_is_higher_with_chunks),
        cmocka_unit_test(short_memory_costs_work_twice_but_loses_nobody),
        cmocka_unit_test(a_trace_that_cannot_run_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
