/* prefix.c - claims about src/engine/prefix.c: it finds the longest known beginning, and never one
 * that differs. */
#include "testing.h"

#include "base/rng.h"
#include "engine/prefix.h"

#define G 64 /* tokens of a group of the tiny shape */
#define N_CTX (8 * G)

struct lab {
    struct kv *kv;
    struct prefix *p;
    int32_t ids[N_CTX];
};

/* groups = 0: flat. */
static void lab_open(struct lab *l, int n_slot, int groups) {
    struct err err = {0};
    struct cfg c;
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    struct kv_opts o = {.n_slot = n_slot, .n_ctx = N_CTX, .type = DT_BF16, .ahead = -1};
    o.layout = groups ? KV_VIRTUAL : KV_FLAT;
    o.pool = (size_t)groups * G * kv_token_bytes(&c, DT_BF16);
    l->kv = kv_open_as(&c, &o, &err);
    assert_ok(l->kv ? 0 : -1, err);
    assert_true(!groups || (kv_group_tokens(l->kv) == G && kv_groups(l->kv) == groups));
    l->p = prefix_open(l->kv);
}

static void lab_close(struct lab *l) {
    prefix_close(l->p);
    kv_close(l->kv);
}

/* Sequence `who`: all begin with the tokens of sequence 0, `same` of them. */
static const int32_t *sequence(struct lab *l, int who, int same) {
    for (int i = 0; i < N_CTX; i++)
        l->ids[i] = i < same ? i : who * N_CTX + i;
    return l->ids;
}

/* K and V of a sequence are made by its tokens: here one word of each group tells of them. */
static uint64_t *word(const struct lab *l, int slot, int pos) {
    struct kv_view v = kv_view(l->kv, slot, 0);
    return (uint64_t *)(void *)(v.k + attend_at(&v.at, pos / ATTEND_BLOCK));
}

static uint64_t word_of(const int32_t *ids, int pos) {
    uint64_t h = 1;
    for (int i = 0; i <= pos; i++)
        h = h * 6364136223846793005u + (uint64_t)ids[i];
    return h;
}

static void compute(struct lab *l, int slot, const int32_t *ids, int from, int n) {
    assert_int_equal(kv_ensure(l->kv, slot, n), 0);
    for (int i = from; i < n; i++)
        if (i % ATTEND_BLOCK == 0)
            *word(l, slot, i) = word_of(ids, i);
    prefix_note(l->p, slot, ids, n);
}

/* Starts a sequence, checks what it was given, computes the rest; how much was there. */
static int run(struct lab *l, const int32_t *ids, int n, int *slot) {
    int cached = -1, peek = prefix_peek(l->p, ids, n, 0);
    *slot = prefix_start(l->p, ids, n, 0, &cached);
    assert_true(*slot >= 0);
    assert_true(cached >= 0 && cached <= peek && peek <= n);
    for (int i = 0; i < cached; i += ATTEND_BLOCK)
        if (*word(l, *slot, i) != word_of(ids, i))
            fail_msg("token %d of %d cached ones is another's", i, cached);
    compute(l, *slot, ids, cached, n);
    return cached;
}

static void both(void (*claim)(struct lab *l), int n_slot, int groups) {
    struct lab l;
    lab_open(&l, n_slot, groups);
    claim(&l);
    lab_close(&l);
    lab_open(&l, n_slot, 0);
    claim(&l);
    lab_close(&l);
}

static void conversation_goes_on(struct lab *l) {
    int slot;
    assert_int_equal(run(l, sequence(l, 1, 0), 100, &slot), 0);
    prefix_end(l->p, slot);
    assert_int_equal(run(l, l->ids, 150, &slot), 100); /* token by token, not by groups */
    prefix_end(l->p, slot);
    sequence(l, 2, 0);
    for (int i = 0; i < 90; i++)
        l->ids[i] = N_CTX + i;                        /* sequence 1's first 90 */
    assert_int_equal(run(l, l->ids, 150, &slot), 90); /* cut back into a full group */
    prefix_end(l->p, slot);
}

static void a_conversation_goes_on_where_it_was(void **state) {
    (void)state;
    both(conversation_goes_on, 1, 8);
}

static void live_ones_share(struct lab *l) {
    int slot[4];
    for (int i = 0; i < 4; i++) {
        int got = run(l, sequence(l, i + 1, 2 * G + 9), 3 * G, &slot[i]);
        assert_int_equal(got, i ? 2 * G + 9 : 0);
    }
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3 * G; k += ATTEND_BLOCK)
            assert_true(*word(l, slot[i], k) == word_of(sequence(l, i + 1, 2 * G + 9), k));
    int cached;
    assert_int_equal(prefix_start(l->p, l->ids, 3 * G, 0, &cached), -1); /* all slots are active */
    for (int i = 0; i < 4; i++)
        prefix_end(l->p, slot[i]);
}

static void live_sequences_share_a_beginning(void **state) {
    (void)state;
    both(live_ones_share, 4, 32);
}

static void a_beginning_outlives_its_slot(void **state) {
    (void)state;
    struct lab l;
    int slot;
    lab_open(&l, 1, 16); /* one slot: the next sequence takes it */
    run(&l, sequence(&l, 1, 0), 3 * G + 5, &slot);
    prefix_end(l.p, slot);
    assert_int_equal(run(&l, sequence(&l, 2, 0), 2 * G, &slot), 0);
    prefix_end(l.p, slot);
    assert_int_equal(run(&l, sequence(&l, 1, 0), 4 * G, &slot), 3 * G); /* whole groups of it */
    prefix_end(l.p, slot);
    assert_int_equal(run(&l, sequence(&l, 2, 0), 2 * G - 1, &slot), G);
    lab_close(&l);
}

static void the_groups_used_longest_ago_go_first_and_ends_before_beginnings(void **state) {
    (void)state;
    struct lab l;
    struct prefix_stats s;
    int slot;
    lab_open(&l, 2, 8);
    for (int who = 1; who <= 2; who++) { /* 3 groups each: two are free */
        run(&l, sequence(&l, who, 0), 3 * G, &slot);
        prefix_end(l.p, slot);
    }
    run(&l, sequence(&l, 3, 0), 3 * G, &slot); /* one too many */
    prefix_end(l.p, slot);
    prefix_stats(l.p, &s);
    assert_int_equal(s.dropped, 1);
    assert_int_equal(s.groups, 8);
    assert_int_equal(prefix_peek(l.p, sequence(&l, 1, 0), 3 * G, 0), 2 * G); /* its end went */
    assert_int_equal(prefix_peek(l.p, sequence(&l, 2, 0), 3 * G, 0), 3 * G);
    assert_int_equal(prefix_peek(l.p, sequence(&l, 3, 0), 3 * G, 0), 3 * G);
    assert_int_equal(run(&l, sequence(&l, 1, 0), 2 * G, &slot), 2 * G); /* 1 is used: now 2 goes */
    int other;
    run(&l, sequence(&l, 4, 0), 4 * G, &other);
    assert_int_equal(prefix_peek(l.p, sequence(&l, 1, 0), 2 * G, 0), 2 * G);
    assert_int_equal(prefix_peek(l.p, sequence(&l, 2, 0), 3 * G, 0), 0);
    lab_close(&l);
}

static void colliding_hashes_never_give_another_sequence_s_tokens(void **state) {
    (void)state;
    struct lab l;
    struct rng r;
    long cached = 0;
    lab_open(&l, 4, 40);
    prefix_weaken(l.p, 1); /* every second group collides */
    rng_seed(&r, 9);
    for (int i = 0; i < 500; i++) { /* run() compares what it is given with its own tokens */
        int slot, who = 1 + (int)rng_below(&r, 12), same = (int)rng_below(&r, 3) * G;
        sequence(&l, who, same);
        cached += run(&l, l.ids, 1 + (int)rng_below(&r, 5 * G), &slot);
        prefix_end(l.p, slot);
    }
    assert_true(cached > 10000);
    lab_close(&l);
}

static void churn(struct lab *l) {
    struct rng r;
    int slot[4] = {-1, -1, -1, -1}, n[4], who[4], same[4];
    long short_of = 0;
    rng_seed(&r, 21);
    for (int i = 0; i < 4000; i++) {
        int k = (int)rng_below(&r, 4), cached;
        if (slot[k] < 0) {
            who[k] = 1 + (int)rng_below(&r, 30);
            same[k] = (int)rng_below(&r, 2 * G);
            n[k] = 1 + (int)rng_below(&r, 2 * G);
            sequence(l, who[k], same[k]);
            slot[k] = prefix_start(l->p, l->ids, n[k], 0, &cached);
            assert_true(slot[k] >= 0);
            for (int j = 0; j < cached; j += ATTEND_BLOCK)
                assert_true(*word(l, slot[k], j) == word_of(l->ids, j));
            n[k] = cached;
        } else if (rng_below(&r, 5) == 0) {
            prefix_end(l->p, slot[k]);
            slot[k] = -1;
            continue;
        }
        int to = n[k] + (int)rng_below(&r, G);
        if (to > 3 * G || kv_ensure(l->kv, slot[k], to)) { /* memory is short: preempted */
            short_of += to <= 3 * G;
            prefix_end(l->p, slot[k]);
            slot[k] = -1;
            continue;
        }
        compute(l, slot[k], sequence(l, who[k], same[k]), n[k], to);
        n[k] = to;
    }
    assert_true(short_of > 50 || kv_layout(l->kv) == KV_FLAT);
    for (int k = 0; k < 4; k++)
        if (slot[k] >= 0)
            prefix_end(l->p, slot[k]);
    assert_int_equal(kv_groups_free(l->kv), kv_groups(l->kv));
}

static void random_sequences_in_little_memory_get_their_own_tokens(void **state) {
    (void)state;
    both(churn, 4, 7);
}

static void tenants_do_not_see_each_other(void **state) {
    (void)state;
    struct lab l;
    int slot, cached;
    lab_open(&l, 3, 24);
    run(&l, sequence(&l, 1, 0), 3 * G, &slot);
    assert_int_equal(prefix_peek(l.p, l.ids, 3 * G, 5), 0);
    slot = prefix_start(l.p, l.ids, 3 * G, 5, &cached);
    assert_int_equal(cached, 0);
    compute(&l, slot, l.ids, 0, 3 * G);
    assert_int_equal(prefix_peek(l.p, l.ids, 3 * G, 5), 3 * G);
    assert_int_equal(prefix_peek(l.p, l.ids, 3 * G, 6), 0);
    lab_close(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_conversation_goes_on_where_it_was),
        cmocka_unit_test(live_sequences_share_a_beginning),
        cmocka_unit_test(a_beginning_outlives_its_slot),
        cmocka_unit_test(the_groups_used_longest_ago_go_first_and_ends_before_beginnings),
        cmocka_unit_test(colliding_hashes_never_give_another_sequence_s_tokens),
        cmocka_unit_test(random_sequences_in_little_memory_get_their_own_tokens),
        cmocka_unit_test(tenants_do_not_see_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
