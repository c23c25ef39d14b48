/* engine.c - claims about src/engine/engine.c on a small random model. */
#include "testing.h"

#include "engine/engine.h"
#include "num/kern.h"

static struct model *m;
static struct pool *pool;

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

static int set_up(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    pool = pool_new(2);
    if (kern_init(&err) || cfg_shape(&c, "tiny", &err) ||
        !(m = model_random(&c, 1, &(struct model_opts){.dtype = DT_BF16, .pool = pool}, &err))) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    model_close(m);
    pool_free(pool);
    return 0;
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
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
