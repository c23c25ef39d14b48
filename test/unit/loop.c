/* loop.c - claims about src/serve/loop.c: tasks from other threads, on a small random model. */
#include "testing.h"

#include <unistd.h>

#include "base/clock.h"
#include "serve/loop.h"
#include "tiny_model.h"

enum { N_CTX = 128, N_PROMPT = 9 };

static struct engine *e;

struct client { /* owns one task and gathers what it gives */
    struct task t;
    int32_t prompt[N_PROMPT];
    int32_t id[N_CTX];
    int n;
    atomic_int woken, ended;
};

static atomic_bool held; /* the engine's thread stays where it is */

static void on_wake(void *ud, bool ended) {
    struct client *c = ud;
    while (atomic_load(&held))
        usleep(100);
    atomic_fetch_add(&c->woken, 1);
    if (ended)
        atomic_fetch_add(&c->ended, 1);
}

static void client_init(struct client *c, int i, int max_new) {
    *c = (struct client){0};
    for (int k = 0; k < N_PROMPT; k++)
        c->prompt[k] = (i * 31 + k * 7 + 1) % m->cfg.vocab;
    c->t.r = (struct req){
        .ids = c->prompt, .n = N_PROMPT, .max_new = max_new, .ignore_eos = true, .n_logprobs = 2};
    c->t.r.sampling = sampling_default();
    c->t.r.sampling.seed = (uint64_t)i;
    c->t.wake = on_wake;
    c->t.ud = c;
}

static void client_take(struct client *c) {
    struct box b = {0};
    loop_take(&c->t, &b);
    for (size_t i = 0; i < b.n; i++) {
        if (b.piece[i].id < 0)
            continue;
        assert_true(b.top[2 * i].logprob >= b.top[2 * i + 1].logprob);
        assert_true(c->n < N_CTX);
        c->id[c->n++] = b.piece[i].id;
    }
    box_free(&b);
}

static void client_wait(struct client *c) {
    int64_t until = clock_us() + 60000000;
    while (!atomic_load(&c->ended)) {
        if (clock_us() > until)
            fail_msg("no end after 60 s");
        client_take(c);
        usleep(200);
    }
    client_take(c);
}

static struct loop *open_loop(int n_slot, int max_queue) {
    struct err err = {0};
    e = engine_open(m, pool, &(struct engine_opts){.n_slot = n_slot, .n_ctx = N_CTX}, &err);
    if (!e)
        fail_msg("engine_open: %s", err.msg);
    struct loop *l = loop_open(e, &(struct loop_opts){n_slot, max_queue}, &err);
    if (!l)
        fail_msg("loop_open: %s", err.msg);
    return l;
}

static void close_loop(struct loop *l) {
    loop_close(l);
    engine_close(e);
}

static void submit(struct loop *l, struct client *c) {
    struct err err = {0};
    assert_ok(loop_submit(l, &(struct task *){&c->t}, 1, &err), err);
}

static void what_a_task_gives_does_not_depend_on_company(void **state) {
    (void)state;
    enum { N = 10, NEW = 24 };
    static struct client alone[N], together[N];
    struct loop *l = open_loop(1, N);
    for (int i = 0; i < N; i++) {
        client_init(&alone[i], i, NEW);
        submit(l, &alone[i]);
        client_wait(&alone[i]);
        assert_int_equal(alone[i].n, NEW);
        task_release(&alone[i].t);
    }
    close_loop(l);
    l = open_loop(4, N);
    for (int i = 0; i < N; i++) {
        client_init(&together[i], i, NEW);
        submit(l, &together[i]);
    }
    for (int i = 0; i < N; i++) {
        client_wait(&together[i]);
        assert_int_equal(together[i].n, NEW);
        assert_memory_equal(together[i].id, alone[i].id, NEW * sizeof alone[i].id[0]);
        assert_int_equal(together[i].t.usage.why, FIN_LENGTH);
        task_release(&together[i].t);
    }
    struct loop_stats s;
    loop_stats(l, &s);
    assert_int_equal(s.out_tokens, N * NEW);
    assert_int_equal(s.ended[FIN_LENGTH], N);
    assert_int_equal(hist_total(&s.ttft), N);
    assert_int_equal(hist_total(&s.itl), N * (NEW - 1));
    close_loop(l);
}

static void a_full_queue_refuses_all_of_a_group(void **state) {
    (void)state;
    struct client c[5];
    struct task *group[] = {&c[3].t, &c[4].t};
    struct err err = {0};
    struct loop *l = open_loop(1, 3);
    atomic_store(&held, true);
    for (int i = 0; i < 5; i++)
        client_init(&c[i], i, N_CTX - N_PROMPT);
    for (int i = 0; i < 3; i++)
        submit(l, &c[i]);
    assert_int_equal(loop_submit(l, group, 2, &err), -1);
    assert_int_equal(err.code, E_BUSY);
    submit(l, &c[3]); /* one still fits: nothing of the group had been taken */
    assert_true(loop_retry_after(l) >= 1);
    for (int i = 0; i < 4; i++)
        loop_cancel(l, &c[i].t);
    atomic_store(&held, false);
    for (int i = 0; i < 4; i++)
        client_wait(&c[i]);
    assert_true(loop_idle(l));
    for (int i = 0; i < 5; i++)
        task_release(&c[i].t);
    close_loop(l);
}

static void each_task_ends_once_when_cancelled_at_any_moment(void **state) {
    (void)state;
    enum { N = 24 };
    static struct client c[N];
    struct loop *l = open_loop(3, N);
    for (int i = 0; i < N; i++) {
        client_init(&c[i], i, 30);
        submit(l, &c[i]);
    }
    for (int i = 0; i < N; i += 2) { /* some wait, some read their prompt, some generate */
        usleep((useconds_t)(i * 37 % 400));
        loop_cancel(l, &c[i].t);
    }
    for (int i = 0; i < N; i++)
        client_wait(&c[i]);
    for (int i = 0; i < N; i++) {
        loop_cancel(l, &c[i].t); /* after the end: no harm */
        assert_int_equal(atomic_load(&c[i].ended), 1);
        if (i % 2)
            assert_int_equal(c[i].n, 30);
        else
            assert_true(c[i].t.usage.why == FIN_CANCELLED || c[i].n == 30);
        task_release(&c[i].t);
    }
    close_loop(l);
}

static void draining_finishes_what_runs_and_refuses_the_rest(void **state) {
    (void)state;
    struct client c[2];
    struct err err = {0};
    struct loop *l = open_loop(1, 8);
    client_init(&c[0], 0, 40);
    client_init(&c[1], 1, 40);
    submit(l, &c[0]);
    loop_drain(l);
    assert_int_equal(loop_submit(l, &(struct task *){&c[1].t}, 1, &err), -1);
    assert_int_equal(err.code, E_IO);
    client_wait(&c[0]);
    assert_int_equal(c[0].n, 40);
    task_release(&c[0].t);
    task_release(&c[1].t);
    close_loop(l);
}

static void closing_ends_every_task(void **state) {
    (void)state;
    struct client c[6];
    struct loop *l = open_loop(2, 8);
    for (int i = 0; i < 6; i++) {
        client_init(&c[i], i, N_CTX - N_PROMPT);
        submit(l, &c[i]);
    }
    close_loop(l);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(atomic_load(&c[i].ended), 1);
        task_release(&c[i].t);
    }
}

static void what_the_engine_refuses_ends_with_its_error(void **state) {
    (void)state;
    struct client c;
    struct loop *l = open_loop(1, 1);
    client_init(&c, 0, 5);
    c.prompt[3] = m->cfg.vocab;
    submit(l, &c);
    client_wait(&c);
    assert_int_equal(c.t.usage.why, FIN_ERROR);
    assert_non_null(strstr(c.t.err.msg, "outside the vocabulary"));
    task_release(&c.t);
    close_loop(l);
}

static int setup(void **state) {
    (void)state;
    return tiny_open(DT_F32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_task_gives_does_not_depend_on_company),
        cmocka_unit_test(a_full_queue_refuses_all_of_a_group),
        cmocka_unit_test(each_task_ends_once_when_cancelled_at_any_moment),
        cmocka_unit_test(draining_finishes_what_runs_and_refuses_the_rest),
        cmocka_unit_test(closing_ends_every_task),
        cmocka_unit_test(what_the_engine_refuses_ends_with_its_error),
    };
    return cmocka_run_group_tests_name("loop", tests, setup, tiny_close);
}
