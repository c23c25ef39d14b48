/* pool.c - the claims of base/pool.h: every id runs once a round, all is finished when pool_run
 * returns,
 * and the split covers everything once.  Shared data here is plain, so that ThreadSanitizer
 * reports any missing ordering. */
#include "testing.h"

#include <stdatomic.h>
#include <unistd.h>

#include "base/pool.h"

enum { MAX_THREADS = 8 };

static void the_split_covers_everything_exactly_once(void **state) {
    (void)state;
    static const int units[] = {1, 2, 3, 8, 16, 64};
    for (int u = 0; u < 6; u++)
        for (int total = 0; total < 300; total++)
            for (int n = 1; n <= 9; n++) {
                int unit = units[u], next = 0;
                for (int id = 0; id < n; id++) {
                    int lo = -1, hi = -1;
                    pool_split(total, unit, id, n, &lo, &hi);
                    assert_int_equal(lo, next); /* no gap, no overlap */
                    assert_true(hi >= lo && hi <= total);
                    assert_true((hi - lo) % unit == 0 || hi == total);
                    next = hi;
                }
                assert_int_equal(next, total);
            }
}

static void the_split_is_even(void **state) {
    (void)state;
    for (int total = 1; total < 500; total += 7)
        for (int n = 1; n <= 9; n++)
            for (int id = 0; id < n; id++) {
                int lo, hi;
                pool_split(total, 1, id, n, &lo, &hi);
                assert_true(hi - lo == total / n || hi - lo == total / n + 1);
            }
}

static void the_split_of_two_billion_does_not_overflow(void **state) {
    (void)state;
    int lo, hi, total = 2000000000;
    for (int id = 0; id < 64; id++) {
        pool_split(total, 16, id, 64, &lo, &hi);
        assert_true(lo >= 0 && hi > lo && hi <= total);
    }
    assert_int_equal(hi, total);
}

struct job {
    long round, seen[MAX_THREADS]; /* seen[id] = last round of thread id; plain on purpose */
    int calls[MAX_THREADS], n;
};

static void work(void *arg, int id, int n) {
    struct job *j = arg;
    j->seen[id] = j->round; /* round was written by the caller before pool_run */
    j->calls[id]++;
    if (id == 0)
        j->n = n;
}

/* rounds of work; every `nap`th one comes after a pause that lets the workers fall asleep. */
static void run_rounds(int n_threads, int rounds, int nap) {
    struct pool *p = pool_new(n_threads);
    struct job j = {0};
    assert_int_equal(pool_size(p), n_threads);
    for (j.round = 1; j.round <= rounds; j.round++) {
        if (nap && j.round % nap == 0)
            usleep(2000);
        pool_run(p, work, &j);
        for (int id = 0; id < n_threads; id++)
            assert_int_equal(j.seen[id], j.round);
    }
    assert_int_equal(j.n, n_threads);
    for (int id = 0; id < n_threads; id++)
        assert_int_equal(j.calls[id], rounds);
    pool_free(p);
}

static void every_id_runs_once_in_each_of_10000_rounds(void **state) {
    (void)state;
    static const int n[] = {1, 2, 3, 5};
    for (int i = 0; i < 4; i++)
        run_rounds(n[i], 10000, 0);
}

static void sleeping_workers_wake_up(void **state) {
    (void)state;
    run_rounds(2, 200, 2);
    run_rounds(3, 200, 1);
}

struct sum {
    const int *x;
    int total;
    long part[MAX_THREADS];
};

static void add_part(void *arg, int id, int n) {
    struct sum *s = arg;
    int lo, hi;
    pool_split(s->total, 4, id, n, &lo, &hi);
    s->part[id] = 0;
    for (int i = lo; i < hi; i++)
        s->part[id] += s->x[i];
}

static void work_shared_out_gives_the_same_sum(void **state) {
    (void)state;
    static int x[10007];
    struct sum s = {.x = x, .total = 10007};
    long want = 0;
    for (int i = 0; i < s.total; i++)
        want += x[i] = i * 31 % 1009;
    for (int n = 1; n <= MAX_THREADS; n++) {
        struct pool *p = pool_new(n);
        for (int round = 0; round < 20; round++) {
            long got = 0;
            pool_run(p, add_part, &s);
            for (int id = 0; id < n; id++)
                got += s.part[id];
            assert_int_equal(got, want);
        }
        pool_free(p);
    }
}

struct each {
    int total, calls[1000]; /* plain: each is touched by one thread */
    atomic_int done;
    bool stay; /* whoever has index 0 returns last */
};

static void count(void *arg, int lo, int hi) {
    struct each *e = arg;
    assert_true(0 <= lo && lo < hi && hi <= e->total);
    for (int i = lo; i < hi; i++)
        e->calls[i]++;
    for (int ms = 0; e->stay && lo == 0 && atomic_load(&e->done) < e->total - hi; ms++) {
        assert_true(ms < 60000);
        usleep(1000);
    }
    atomic_fetch_add(&e->done, hi - lo);
}

static void each_index_is_in_one_range(void **state) {
    (void)state;
    static const int n[] = {1, 2, 3, 5}, totals[] = {0, 1, 2, 3, 7, 64, 999};
    for (int i = 0; i < 4; i++) {
        struct pool *p = pool_new(n[i]);
        for (int round = 0; round < 7 * 200; round++) {
            struct each e = {.total = totals[round % 7]};
            pool_each(p, e.total, count, &e);
            assert_int_equal(atomic_load(&e.done), e.total);
            for (int k = 0; k < e.total; k++)
                assert_int_equal(e.calls[k], 1);
        }
        pool_free(p);
    }
}

static void ranges_of_a_thread_that_is_held_up_are_taken_over(void **state) {
    (void)state;
    for (int n = 2; n <= 3; n++) {
        struct pool *p = pool_new(n);
        struct each e = {.total = 100, .stay = true};
        pool_each(p, e.total, count, &e);
        assert_int_equal(atomic_load(&e.done), e.total);
        pool_free(p);
    }
}

static void a_pool_that_never_ran_can_be_freed(void **state) {
    (void)state;
    for (int i = 0; i < 50; i++)
        pool_free(pool_new(4));
    pool_free(NULL);
    struct pool *p = pool_new(0);
    assert_true(pool_size(p) >= 1);
    pool_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_split_covers_everything_exactly_once),
        cmocka_unit_test(the_split_is_even),
        cmocka_unit_test(the_split_of_two_billion_does_not_overflow),
        cmocka_unit_test(every_id_runs_once_in_each_of_10000_rounds),
        cmocka_unit_test(sleeping_workers_wake_up),
        cmocka_unit_test(work_shared_out_gives_the_same_sum),
        cmocka_unit_test(each_index_is_in_one_range),
        cmocka_unit_test(ranges_of_a_thread_that_is_held_up_are_taken_over),
        cmocka_unit_test(a_pool_that_never_ran_can_be_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
