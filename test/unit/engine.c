/* engine.c - claims about src/engine/engine.c on a small random model. */
#include "testing.h"

#include "base/rng.h"
#include "engine/impl.h"
#include "tiny_model.h"

struct answer {
    int32_t id[256];
    int n, n_done;
    struct usage use;
    int cancel_after; /* 0 = never */
};

static bool on_token(void *ud, const struct token *t) {
    struct answer *a = ud;
    if (t->id >= 0)
        a->id[a->n++] = t->id;
    return !(a->cancel_after && a->n >= a->cancel_after);
}

static void on_done(void *ud, const struct usage *u) {
    struct answer *a = ud;
    a->n_done++;
    a->use = *u;
}

static struct engine *open_engine(int n_slot, int n_ctx, int n_batch) {
    struct err err = {0};
    struct engine *e =
        engine_open(m, pool,
                    &(struct engine_opts){
                        .n_slot = n_slot, .n_ctx = n_ctx, .n_batch = n_batch, .kv_type = DT_NONE},
                    &err);
    if (!e)
        fail_msg("engine_open: %s", err.msg);
    return e;
}

/* Request number i: a prompt of its own length and its own sampling seed. */
static struct req request(int i, int32_t *ids, struct answer *a, int max_new) {
    int n = 3 + i * 5 % 23;
    for (int k = 0; k < n; k++)
        ids[k] = (i * 31 + k * 7 + 1) % m->cfg.vocab;
    struct req r = {.ids = ids,
                    .n = n,
                    .max_new = max_new,
                    .ignore_eos = true,
                    .on_token = on_token,
                    .on_done = on_done,
                    .ud = a};
    r.sampling = sampling_default();
    r.sampling.seed = (uint64_t)i;
    if (i % 2)
        r.sampling.temp = 0;
    return r;
}

static void run_all(struct engine *e) {
    while (engine_step(e)) {
    }
}

static void tokens_do_not_depend_on_slots_batch_size_or_company(void **state) {
    (void)state;
    enum { N = 12, NEW = 20 };
    static struct answer want[N], got[N];
    int32_t ids[64];
    struct err err = {0};
    for (int i = 0; i < N; i++) {
        struct engine *e = open_engine(1, 64, 0);
        memset(&want[i], 0, sizeof want[i]);
        struct req r = request(i, ids, &want[i], NEW);
        assert_ok(engine_submit(e, &r, &err), err);
        run_all(e);
        assert_int_equal(want[i].n, NEW);
        engine_close(e);
    }
    static const int slots[] = {1, 3, 12}, batch[] = {1, 7, 64, 0};
    for (size_t s = 0; s < 3; s++)
        for (size_t b = 0; b < 4; b++) {
            struct engine *e = open_engine(slots[s], 64, batch[b]);
            memset(got, 0, sizeof got);
            for (int i = 0; i < N; i++) {
                struct req r = request(i, ids, &got[i], NEW);
                assert_ok(engine_submit(e, &r, &err), err);
                if (i % 3 == 2)
                    engine_step(e); /* some arrive while others decode */
            }
            run_all(e);
            for (int i = 0; i < N; i++) {
                assert_int_equal(got[i].n_done, 1);
                assert_int_equal(got[i].n, NEW);
                assert_memory_equal(got[i].id, want[i].id, NEW * sizeof *want[i].id);
                assert_int_equal(got[i].use.why, FIN_LENGTH);
            }
            engine_close(e);
        }
}

static void the_next_turn_reuses_the_past_and_gives_the_same_tokens(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer first, second, cold;
    memset(&first, 0, sizeof first);
    memset(&second, 0, sizeof second);
    memset(&cold, 0, sizeof cold);
    int32_t ids[128];
    struct engine *e = open_engine(1, 128, 16);
    struct req r = request(4, ids, &first, 10);
    int n = r.n;
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    for (int i = 0; i < 10; i++) /* the user's next turn repeats all, then adds */
        ids[n++] = first.id[i];
    for (int i = 0; i < 6; i++)
        ids[n++] = i + 2;
    r.n = n;
    r.ud = &second;
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    assert_int_equal(second.use.n_cached,
                     n - 6 - 1); /* all but the last sampled token had been run */
    engine_close(e);
    e = open_engine(1, 128, 0);
    r.ud = &cold;
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    assert_int_equal(cold.use.n_cached, 0);
    assert_memory_equal(second.id, cold.id, 10 * sizeof *cold.id);
    engine_close(e);
}

static void the_same_prompt_again_still_computes_its_last_token(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    int32_t ids[64];
    struct engine *e = open_engine(1, 64, 0);
    struct req r = request(6, ids, &a, 5);
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    r.ud = &b;
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    assert_int_equal(b.use.n_cached, r.n - 1);
    assert_memory_equal(a.id, b.id, 5 * sizeof *a.id);
    engine_close(e);
}

static void each_request_ends_exactly_once_whatever_happens(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a[5];
    memset(a, 0, sizeof a);
    int32_t ids[64];
    struct engine *e = open_engine(2, 64, 0);
    for (int i = 0; i < 5; i++) {
        struct req r = request(i, ids, &a[i], 30);
        a[i].cancel_after = i == 0 ? 3 : 0; /* cancels itself from on_token */
        assert_ok(engine_submit(e, &r, &err), err);
    }
    engine_step(e);
    engine_cancel(e, &a[1]); /* running */
    engine_cancel(e, &a[4]); /* waiting */
    for (int i = 0; i < 10; i++)
        engine_step(e);
    engine_close(e); /* 2 and 3 are cut off */
    assert_int_equal(a[0].n, 3);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(a[i].n_done, 1);
        assert_int_equal(a[i].use.why, FIN_CANCELLED);
    }
    assert_int_equal(a[4].n, 0);
    assert_true(a[1].n <= 1);
}

static void the_context_ends_an_answer_and_refuses_a_longer_prompt(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a;
    memset(&a, 0, sizeof a);
    int32_t ids[64] = {0};
    struct engine *e = open_engine(1, 32, 0);
    struct req r = request(0, ids, &a, -1);
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    assert_int_equal(a.use.why, FIN_LENGTH);
    assert_int_equal(r.n + a.n, 32);
    struct req bad = r;
    bad.n = 32;
    assert_int_equal(engine_submit(e, &bad, &err), -1);
    assert_int_equal(err.code, E_USAGE);
    assert_non_null(strstr(err.msg, "32"));
    err = (struct err){0};
    bad.n = 0;
    assert_int_equal(engine_submit(e, &bad, &err), -1);
    assert_non_null(strstr(err.msg, "empty"));
    err = (struct err){0};
    bad.n = 2;
    ids[1] = m->cfg.vocab;
    assert_int_equal(engine_submit(e, &bad, &err), -1);
    assert_non_null(strstr(err.msg, "vocabulary"));
    engine_close(e);
}

static void a_stop_id_ends_the_answer_and_is_not_delivered(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    int32_t ids[64];
    struct engine *e = open_engine(1, 64, 0);
    struct req r = request(1, ids, &a, 12);
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    int32_t stop = a.id[7];
    int first = 0;
    while (a.id[first] != stop)
        first++;
    r.stop_id = &stop;
    r.n_stop_id = 1;
    r.ud = &b;
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    assert_int_equal(b.use.why, FIN_STOP);
    assert_int_equal(b.n, first);
    assert_memory_equal(a.id, b.id, (size_t)first * sizeof *a.id);
    engine_close(e);
}

static void a_request_for_no_tokens_fills_the_cache_only(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    int32_t ids[64];
    struct engine *e = open_engine(1, 64, 4);
    struct req r = request(8, ids, &a, 0);
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    assert_int_equal(a.n_done, 1);
    assert_int_equal(a.n, 0);
    r.max_new = 2;
    r.ud = &b;
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    assert_int_equal(b.use.n_cached, r.n - 1);
    engine_close(e);
}

/* -- many requests, in every way that must not matter ----------------------------------------- */

enum { MANY = 200, MANY_NEW = 12 };

static struct answer alone[MANY], together[MANY];

/* Prompt i: one of seven beginnings, often as long as the rest, and an end of its own. */
static struct req many_request(int i, int32_t *ids, struct answer *a) {
    struct rng r;
    rng_seed(&r, (uint64_t)i % 7);
    int n = 8 + (int)rng_below(&r, 70);
    for (int k = 0; k < n; k++)
        ids[k] = (int32_t)rng_below(&r, (uint32_t)m->cfg.vocab);
    rng_seed(&r, 1000 + (uint64_t)i);
    for (int end = n + 1 + (int)rng_below(&r, 40); n < end; n++)
        ids[n] = (int32_t)rng_below(&r, (uint32_t)m->cfg.vocab);
    struct req q = {.ids = ids,
                    .n = n,
                    .max_new = MANY_NEW - i % 3,
                    .ignore_eos = true,
                    .on_token = on_token,
                    .on_done = on_done,
                    .ud = a};
    q.sampling = sampling_default();
    q.sampling.seed = (uint64_t)i;
    q.sampling.temp = i % 2 ? 0 : 0.8f;
    return q;
}

struct way { /* how the requests are run */
    int n_slot, n_batch;
    double slo_ms;
    enum sarathi_policy policy;
    int preempt; /* one step in so many takes memory from the latest; 0 = none */
    int cancel;  /* one request in so many is cancelled at a random step; 0 = none */
    bool waves;  /* some arrive while others run */
    int groups;  /* of the virtual layout's memory; 0 = flat */
};

static struct engine *open_way(const struct way *w) {
    struct err err = {0};
    struct engine_opts o = {.n_slot = w->n_slot,
                            .n_ctx = 160,
                            .n_batch = w->n_batch,
                            .kv_type = DT_NONE,
                            .kv_layout = w->groups ? KV_VIRTUAL : KV_FLAT,
                            .tbt_slo_ms = w->slo_ms,
                            .policy = w->policy};
    /* Groups of this model have 64 tokens. */
    o.kv_pool = (size_t)w->groups * 64 * kv_token_bytes(&m->cfg, kv_default(m->head.type));
    struct engine *e = engine_open(m, pool, &o, &err);
    if (!e)
        fail_msg("engine_open: %s", err.msg);
    if (w->groups) {
        struct engine_stats s;
        engine_stats(e, &s);
        assert_int_equal(s.kv.layout, KV_VIRTUAL);
        assert_int_equal(s.kv.group_tokens, 64);
        assert_int_equal(s.kv.groups, w->groups);
    }
    return e;
}

static void run_alone(void) {
    static bool done;
    if (done)
        return;
    struct engine *e = open_way(&(struct way){.n_slot = 1});
    struct err err = {0};
    int32_t ids[160];
    for (int i = 0; i < MANY; i++) {
        struct req r = many_request(i, ids, &alone[i]);
        r.cache_salt = 1 + (uint64_t)i; /* nothing is shared */
        assert_ok(engine_submit(e, &r, &err), err);
        run_all(e);
        assert_int_equal(alone[i].n, r.max_new);
        assert_int_equal(alone[i].use.n_cached, 0);
    }
    engine_close(e);
    done = true;
}

/* Runs all requests in this way; every answer that was not cancelled must be the one given alone,
 * and one that was a beginning of it. */
static struct engine_stats check_way(const struct way *w, uint64_t seed) {
    run_alone();
    memset(together, 0, sizeof together);
    struct engine *e = open_way(w);
    struct engine_stats stats;
    struct err err = {0};
    struct rng r;
    int32_t ids[160];
    int sent = 0;
    rng_seed(&r, seed);
    for (bool more = true; more || sent < MANY;) {
        for (int n = w->waves ? (int)rng_below(&r, 6) : MANY; n > 0 && sent < MANY; n--, sent++) {
            struct req q = many_request(sent, ids, &together[sent]);
            assert_ok(engine_submit(e, &q, &err), err);
        }
        if (w->cancel && sent && !rng_below(&r, (uint32_t)w->cancel))
            engine_cancel(e, &together[rng_below(&r, (uint32_t)sent)]);
        more = engine_step(e);
        engine_stats(e, &stats);
        assert_true(stats.running <= w->n_slot);
        if (w->preempt && !rng_below(&r, (uint32_t)w->preempt))
            for (uint32_t n = 1 + rng_below(&r, 3); n > 0 && job_preempt_latest(e); n--)
                more = true;
    }
    engine_close(e);
    for (int i = 0; i < MANY; i++) {
        const struct answer *a = &together[i];
        bool cut = a->use.why == FIN_CANCELLED;
        assert_int_equal(a->n_done, 1);
        assert_true(cut ? w->cancel && a->n <= alone[i].n : a->n == alone[i].n);
        assert_memory_equal(a->id, alone[i].id, (size_t)a->n * sizeof *a->id);
    }
    assert_int_equal(stats.ended[FIN_LENGTH] + stats.ended[FIN_CANCELLED], MANY);
    assert_int_equal(stats.running + stats.waiting, 0);
    return stats;
}

static void tokens_do_not_depend_on_chunks_or_on_sixteen_at_once(void **state) {
    (void)state;
    static const struct way ways[] = {{1, 1}, {5, 7}, {16, 16}, {16, 64}, {16, 0}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        check_way(&ways[i], 1);
}

static void tokens_do_not_depend_on_preemption_at_random_steps(void **state) {
    (void)state;
    FOR_SEEDS(3) {
        static const int batch[] = {7, 16, 64};
        struct way w = {
            .n_slot = seed % 2 ? 16 : 3, .n_batch = batch[seed % 3], .preempt = 3, .waves = true};
        assert_true(check_way(&w, seed).preempted > 50);
    }
}

static void shared_beginnings_are_computed_once_and_change_nothing(void **state) {
    (void)state;
    struct engine_stats s = check_way(&(struct way){.n_slot = 16, .n_batch = 64}, 1);
    assert_true(s.cached_tokens > s.prompt_tokens / 4);
    assert_int_equal(s.cached_tokens + s.computed_tokens, s.prompt_tokens);
    int64_t cached = 0;
    for (int i = 0; i < MANY; i++)
        cached += together[i].use.n_cached;
    assert_int_equal(cached, s.cached_tokens);
}

static void tokens_do_not_depend_on_the_policy_or_the_slo(void **state) {
    (void)state;
    for (int p = 0; p < SARATHI_POLICIES; p++) {
        struct way w = {
            .n_slot = 16, .policy = (enum sarathi_policy)p, .preempt = 20, .waves = true};
        check_way(&w, 1);
    }
    struct engine_stats s =
        check_way(&(struct way){.n_slot = 16, .n_batch = 128, .slo_ms = 0.05, .waves = true}, 2);
    assert_true(s.cost.w + s.cost.d + s.cost.p > 0); /* it has learnt what a step takes */
    assert_true(s.budget < 128);                     /* and found that so little time is short */
}

static void tokens_do_not_depend_on_memory_that_is_short(void **state) {
    (void)state;
    /* A request needs three groups at most: with three, one runs and the others wait. */
    static const int groups[] = {3, 5, 9, 48};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        struct way w = {.n_slot = 16, .n_batch = 40, .waves = i % 2, .groups = groups[i]};
        struct engine_stats s = check_way(&w, i);
        assert_true(groups[i] == 5 || groups[i] == 9 ? s.preempted > 0 : true);
        w.preempt = 6;
        w.cancel = 9;
        check_way(&w, i);
    }
}

static void a_request_that_outgrows_all_memory_ends_with_an_error(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    int32_t ids[100] = {0};
    struct engine *e = open_way(&(struct way){.n_slot = 4, .groups = 1});
    struct req r = request(3, ids, &a, 100), small = request(4, ids + 50, &b, 5);
    assert_ok(engine_submit(e, &r, &err), err);
    assert_ok(engine_submit(e, &small, &err), err);
    run_all(e);
    assert_int_equal(a.use.why, FIN_ERROR);
    assert_int_equal(r.n + a.n, 65); /* the last token has no keys and values */
    assert_int_equal(b.use.why, FIN_LENGTH);
    assert_int_equal(b.n, 5);
    r.n = 70;
    assert_int_equal(engine_submit(e, &r, &err), -1);
    assert_int_equal(err.code, E_MEMORY);
    assert_non_null(strstr(err.msg, "kv_exhausted"));
    engine_close(e);
}

static void cancelled_requests_end_once_and_disturb_nobody(void **state) {
    (void)state;
    FOR_SEEDS(3) {
        struct way w = {
            .n_slot = 8, .n_batch = 24, .preempt = seed % 2 ? 5 : 0, .cancel = 2, .waves = true};
        assert_true(check_way(&w, seed).ended[FIN_CANCELLED] > 10);
    }
}

/* -- what a server asks for -------------------------------------------------------------------- */

static void a_full_queue_refuses_with_busy_and_takes_again_later(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a[6];
    memset(a, 0, sizeof a);
    int32_t ids[64];
    struct engine *e = engine_open(
        m, pool,
        &(struct engine_opts){.n_slot = 1, .n_ctx = 64, .kv_type = DT_NONE, .max_queue = 2}, &err);
    struct engine_stats s;
    for (int i = 0; i < 6; i++) {
        struct req r = request(i, ids, &a[i], 3);
        if (i == 1)
            engine_step(e); /* the first has left the queue */
        if (i == 3 || i == 4) {
            assert_int_equal(engine_submit(e, &r, &err), -1);
            assert_int_equal(err.code, E_BUSY);
            err = (struct err){0};
        } else {
            if (i == 5)
                run_all(e);
            assert_ok(engine_submit(e, &r, &err), err);
        }
    }
    run_all(e);
    engine_stats(e, &s);
    assert_int_equal(s.rejected, 2);
    assert_int_equal(s.accepted, 4);
    assert_int_equal(s.ended[FIN_LENGTH], 4);
    engine_close(e);
}

static void no_end_counts_before_min_new_tokens(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a, b, c;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    memset(&c, 0, sizeof c);
    int32_t ids[64];
    struct engine *e = open_engine(1, 64, 0);
    struct req r = request(1, ids, &a, 12);
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    r.stop_id = &a.id[2];
    r.n_stop_id = 1;
    r.ud = &b;
    assert_ok(engine_submit(e, &r, &err), err);
    r.min_new = 6;
    r.ud = &c;
    assert_ok(engine_submit(e, &r, &err), err);
    run_all(e);
    assert_true(b.n <= 2 && b.use.why == FIN_STOP);
    assert_true(c.n >= 6);
    for (int i = 0; i < 6; i++)
        assert_int_not_equal(c.id[i], a.id[2]);
    engine_close(e);
}

static void a_bias_of_a_hundred_decides_and_is_copied(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a;
    memset(&a, 0, sizeof a);
    int32_t ids[64];
    struct logit_bias bias = {77, 100};
    struct engine *e = open_engine(1, 64, 0);
    struct req r = request(3, ids, &a, 4);
    r.sampling.bias = &bias;
    r.sampling.n_bias = 1;
    assert_ok(engine_submit(e, &r, &err), err);
    bias = (struct logit_bias){1, -100};
    run_all(e);
    for (int i = 0; i < 4; i++)
        assert_int_equal(a.id[i], 77);
    bias.id = m->cfg.vocab;
    assert_int_equal(engine_submit(e, &r, &err), -1);
    assert_int_equal(err.code, E_USAGE);
    engine_close(e);
}

/* Allows 10, then 11, ... up to 10 + limit - 1, and nothing after that. */
struct ladder {
    int at, limit, masks, bad;
};

static bool ladder_mask(void *ud, uint32_t *allowed, int vocab) {
    struct ladder *l = ud;
    for (int i = 0; i < (vocab + 31) / 32; i++)
        l->bad += allowed[i] != 0;
    l->masks++;
    if (l->at == l->limit)
        return false;
    allowed[(10 + l->at) / 32] |= (uint32_t)1 << (10 + l->at) % 32;
    return true;
}

static void ladder_accept(void *ud, int32_t id) {
    struct ladder *l = ud;
    l->bad += id != 10 + l->at++;
}

static void a_constraint_decides_each_token_once_even_across_preemption(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    int32_t ids[64];
    struct ladder l = {.limit = 9}, lonely = {.limit = 1};
    struct engine *e = open_engine(2, 64, 4);
    struct req r = request(2, ids, &a, 30);
    r.constraint = (struct constraint){&l, ladder_mask, ladder_accept};
    assert_ok(engine_submit(e, &r, &err), err);
    r.ud = &b;
    r.min_new = 20; /* what the constraint cannot give is not waited for */
    r.constraint.ud = &lonely;
    assert_ok(engine_submit(e, &r, &err), err);
    for (int i = 0; engine_step(e); i++)
        if (i % 4 == 3)
            job_preempt_latest(e);
    assert_int_equal(a.n, 9);
    for (int i = 0; i < 9; i++)
        assert_int_equal(a.id[i], 10 + i);
    assert_int_equal(a.use.why, FIN_STOP);
    assert_true(a.use.n_preempted + b.use.n_preempted > 0);
    assert_int_equal(l.masks, 10);
    assert_int_equal(l.bad + lonely.bad, 0);
    assert_int_equal(b.n, 1);
    assert_int_equal(b.use.why, FIN_STOP);
    engine_close(e);
}

static void choices_for_one_prompt_compute_it_once(void **state) {
    (void)state;
    enum { N = 8 };
    struct err err = {0};
    static struct answer a[N];
    memset(a, 0, sizeof a);
    int32_t ids[160];
    struct engine *e = open_way(&(struct way){.n_slot = N, .n_batch = 16});
    struct req r = many_request(0, ids, a);
    for (int i = 0; i < N; i++) {
        r.ud = &a[i];
        r.sampling.seed = (uint64_t)i;
        assert_ok(engine_submit(e, &r, &err), err);
    }
    run_all(e);
    struct engine_stats s;
    engine_stats(e, &s);
    assert_int_equal(a[0].use.n_cached, 0);
    for (int i = 1; i < N; i++)
        assert_int_equal(a[i].use.n_cached, r.n - 1);
    assert_int_equal(s.computed_tokens, r.n + N - 1);
    engine_close(e);
}

static void moments_and_slots_tell_what_happened_when(void **state) {
    (void)state;
    struct err err = {0};
    static struct answer a[2];
    memset(a, 0, sizeof a);
    int32_t ids[64];
    struct engine *e = open_engine(1, 64, 0);
    for (int i = 0; i < 2; i++) {
        struct req r = request(i, ids, &a[i], 5);
        assert_ok(engine_submit(e, &r, &err), err);
    }
    assert_false(engine_slot(e, 0).busy);
    engine_step(e);
    assert_true(engine_slot(e, 0).busy);
    assert_int_equal(engine_slot(e, 0).n_out, 1);
    struct engine_stats s;
    engine_stats(e, &s);
    assert_int_equal(s.running, 1);
    assert_int_equal(s.waiting, 1);
    run_all(e);
    for (int i = 0; i < 2; i++) {
        const struct usage *u = &a[i].use;
        assert_true(u->queued_at > 0 && u->queued_at <= u->started_at);
        assert_true(u->started_at <= u->first_at && u->first_at <= u->ended_at);
        assert_int_equal(u->prompt_us, u->first_at - u->started_at);
    }
    assert_true(a[0].use.ended_at <= a[1].use.started_at);
    engine_close(e);
}

static int set_up(void **state) {
    (void)state;
    return tiny_open(DT_BF16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_do_not_depend_on_slots_batch_size_or_company),
        cmocka_unit_test(the_next_turn_reuses_the_past_and_gives_the_same_tokens),
        cmocka_unit_test(the_same_prompt_again_still_computes_its_last_token),
        cmocka_unit_test(each_request_ends_exactly_once_whatever_happens),
        cmocka_unit_test(the_context_ends_an_answer_and_refuses_a_longer_prompt),
        cmocka_unit_test(a_stop_id_ends_the_answer_and_is_not_delivered),
        cmocka_unit_test(a_request_for_no_tokens_fills_the_cache_only),
        cmocka_unit_test(tokens_do_not_depend_on_chunks_or_on_sixteen_at_once),
        cmocka_unit_test(tokens_do_not_depend_on_preemption_at_random_steps),
        cmocka_unit_test(shared_beginnings_are_computed_once_and_change_nothing),
        cmocka_unit_test(tokens_do_not_depend_on_the_policy_or_the_slo),
        cmocka_unit_test(tokens_do_not_depend_on_memory_that_is_short),
        cmocka_unit_test(a_request_that_outgrows_all_memory_ends_with_an_error),
        cmocka_unit_test(cancelled_requests_end_once_and_disturb_nobody),
        cmocka_unit_test(a_full_queue_refuses_with_busy_and_takes_again_later),
        cmocka_unit_test(no_end_counts_before_min_new_tokens),
        cmocka_unit_test(a_bias_of_a_hundred_decides_and_is_copied),
        cmocka_unit_test(a_constraint_decides_each_token_once_even_across_preemption),
        cmocka_unit_test(choices_for_one_prompt_compute_it_once),
        cmocka_unit_test(moments_and_slots_tell_what_happened_when),
    };
    return cmocka_run_group_tests(tests, set_up, tiny_close);
}
