/* sample.c - claims about src/model/sample.c. */
#include "testing.h"

#include <math.h>

#include "base/rng.h"
#include "model/sample.h"
#include "num/kern.h"

static struct sampling plain(float temp) {
    return (struct sampling){.temp = temp, .top_p = 1, .repeat_penalty = 1};
}

static int32_t once(struct sampling s, const float *logits, int n) {
    struct sampler *p = sampler_new(&s, n);
    int32_t id = sampler_next(p, logits);
    sampler_free(p);
    return id;
}

/* Counts of 20,000 draws, each from a sampler with its own seed. */
static void tally(struct sampling s, const float *logits, int n, int *count) {
    memset(count, 0, (size_t)n * sizeof *count);
    for (uint64_t seed = 0; seed < 20000; seed++) {
        s.seed = seed;
        count[once(s, logits, n)]++;
    }
}

static void greedy_takes_the_best_and_the_lowest_id_of_equals(void **state) {
    (void)state;
    assert_int_equal(once(plain(0), (float[]){1, 3, 2, 3}, 4), 1);
    assert_int_equal(once(plain(0), (float[]){-INFINITY, -5, -INFINITY}, 3), 1);
}

static void nan_logits_are_reported_not_sampled(void **state) {
    (void)state;
    assert_int_equal(once(plain(0), (float[]){1, NAN, 2}, 3), -1);
    assert_int_equal(once(plain(1), (float[]){1, 2, NAN}, 3), -1);
}

static void draws_follow_the_softmax_at_each_temperature(void **state) {
    (void)state;
    float logits[] = {0, 1, 2, -1};
    for (float temp = 0.5f; temp <= 2; temp *= 2) {
        int count[4];
        tally(plain(temp), logits, 4, count);
        double sum = 0;
        for (int i = 0; i < 4; i++)
            sum += exp(logits[i] / temp);
        for (int i = 0; i < 4; i++) {
            double p = exp(logits[i] / temp) / sum, sd = sqrt(20000 * p * (1 - p));
            if (fabs(count[i] - 20000 * p) > 5 * sd + 1)
                fail_msg("temp %g id %d: %d draws, expected %.0f", temp, i, count[i], 20000 * p);
        }
    }
}

static void top_k_keeps_exactly_the_k_best(void **state) {
    (void)state;
    struct sampling s = plain(5);
    s.top_k = 2;
    int count[6];
    tally(s, (float[]){1, 5, 2, 5, 0, 4}, 6, count);
    assert_true(count[1] > 5000 && count[3] > 5000);
    assert_int_equal(count[1] + count[3], 20000);
}

/* As many blocks of logits as a small vocabulary has, with equal ones, also at the edge of the
 * k. */
static void top_k_finds_the_k_best_of_a_whole_vocabulary(void **state) {
    (void)state;
    enum { N = 1003, K = 9 };
    float logits[N];
    FOR_SEEDS(20) {
        struct rng r;
        rng_seed(&r, seed);
        for (int i = 0; i < N; i++)
            logits[i] = (float)rng_below(&r, 200) / 100 - 1 / (float)(1 + i % 3);
        struct sampling s = plain(1000); /* nearly uniform among those that are kept */
        s.top_k = K;
        s.seed = seed;
        struct sampler *p = sampler_new(&s, N);
        int count[N] = {0};
        for (int i = 0; i < 1000; i++)
            count[sampler_next(p, logits)]++;
        sampler_free(p);
        for (int i = 0; i < N; i++) {
            int before = 0; /* how many come before i */
            for (int j = 0; j < N; j++)
                before += logits[j] > logits[i] || (logits[j] == logits[i] && j < i);
            if ((before < K) != (count[i] > 0))
                fail_msg("seed %d: id %d, in place %d, was drawn %d times", (int)seed, i, before,
                         count[i]);
        }
    }
}

static void top_p_keeps_the_smallest_set_that_reaches_p(void **state) {
    (void)state;
    /* probabilities 0.5, 0.3, 0.15, 0.05 */
    float logits[] = {logf(0.15f), logf(0.5f), logf(0.05f), logf(0.3f)};
    struct sampling s = plain(1);
    int count[4];
    s.top_p = 0.79f;
    tally(s, logits, 4, count);
    assert_true(count[1] > 0 && count[3] > 0);
    assert_int_equal(count[0] + count[2], 0);
    s.top_p = 0.81f;
    tally(s, logits, 4, count);
    assert_true(count[0] > 0);
    assert_int_equal(count[2], 0);
    s.top_p = 0.1f; /* the best candidate always stays */
    tally(s, logits, 4, count);
    assert_int_equal(count[1], 20000);
}

static void min_p_drops_what_is_unlikely_beside_the_best(void **state) {
    (void)state;
    float logits[] = {logf(0.5f), logf(0.06f), logf(0.04f), logf(0.4f)};
    struct sampling s = plain(1);
    s.min_p = 0.1f;
    int count[4];
    tally(s, logits, 4, count);
    assert_true(count[0] > 0 && count[1] > 0 && count[3] > 0);
    assert_int_equal(count[2], 0);
}

/* The set by sorting, as the paper defines it. */
static void typical_set(const double *prob, int n, double mass, bool *in) {
    double entropy = 0, sum = 0;
    for (int i = 0; i < n; i++) {
        entropy -= prob[i] * log(prob[i]);
        in[i] = false;
    }
    while (sum < mass) {
        int next = -1;
        for (int i = 0; i < n; i++)
            if (!in[i] &&
                (next < 0 || fabs(-log(prob[i]) - entropy) < fabs(-log(prob[next]) - entropy)))
                next = i;
        in[next] = true;
        sum += prob[next];
    }
}

static void typical_p_keeps_what_surprises_as_much_as_expected(void **state) {
    (void)state;
    enum { N = 6 };
    const double prob[N] = {0.6, 0.15, 0.12, 0.08, 0.04, 0.01};
    float logits[N];
    for (int i = 0; i < N; i++)
        logits[i] = (float)log(prob[i]) + 3;
    for (float mass = 0.1f; mass < 1; mass += 0.17f) {
        struct sampling s = plain(1);
        int count[N];
        bool in[N];
        s.typical_p = mass;
        typical_set(prob, N, (double)mass, in);
        tally(s, logits, N, count);
        for (int i = 0; i < N; i++)
            assert_int_equal(count[i] > 0, in[i]);
    }
    struct sampling s = plain(1);
    s.typical_p = 0.1f; /* not the likeliest */
    assert_int_equal(once(s, logits, N), 1);
    s.top_k = 1;
    assert_int_equal(once(s, logits, N), 0);
    s = plain(1);
    s.typical_p = 0.5f;
    assert_int_equal(once(s, (float[]){-INFINITY, 2, -INFINITY}, 3), 1);
}

static void same_seed_gives_the_same_tokens_whatever_the_filter_order(void **state) {
    (void)state;
    float logits[500];
    FOR_SEEDS(50) {
        struct rng r;
        rng_seed(&r, seed);
        for (int i = 0; i < 500; i++)
            logits[i] = 3 * rng_normal(&r);
        struct sampling s = sampling_default();
        s.seed = seed;
        struct sampler *a = sampler_new(&s, 500), *b = sampler_new(&s, 500);
        for (int i = 0; i < 20; i++)
            assert_int_equal(sampler_next(a, logits), sampler_next(b, logits));
        sampler_free(a);
        sampler_free(b);
        /* top_k = vocabulary is no filter: the same draws as without it */
        struct sampling all = plain(1), k = plain(1);
        all.seed = k.seed = seed;
        k.top_k = 500;
        assert_int_equal(once(all, logits, 500), once(k, logits, 500));
    }
}

static void repetition_penalty_reaches_back_over_the_last_n_only(void **state) {
    (void)state;
    struct sampling s = plain(0);
    s.repeat_penalty = 2;
    s.repeat_last_n = 2;
    float logits[] = {4, 3, 1, -1};
    struct sampler *p = sampler_new(&s, 4);
    sampler_prompt(p, (int32_t[]){0, 2, 3}, 3); /* 0 has left the window */
    assert_int_equal(sampler_next(p, logits), 0);
    assert_int_equal(sampler_next(p, logits), 1); /* 0 is now 4/2 */
    sampler_free(p);
}

static void presence_and_frequency_count_generated_tokens_only(void **state) {
    (void)state;
    struct sampling s = plain(0);
    s.presence_penalty = 1;
    s.frequency_penalty = 0.5f;
    float logits[] = {3.0f, 1.4f, -9};
    struct sampler *p = sampler_new(&s, 3);
    sampler_prompt(p, (int32_t[]){0, 0, 0, 0}, 4);
    assert_int_equal(sampler_next(p, logits), 0);
    assert_int_equal(sampler_next(p, logits), 0); /* 3 - 1 - 0.5 = 1.5 */
    assert_int_equal(sampler_next(p, logits), 1); /* 3 - 1 - 1.0 = 1.0 */
    sampler_free(p);
}

static void logit_bias_adds_and_ignores_ids_outside_the_vocabulary(void **state) {
    (void)state;
    struct logit_bias bias[] = {{2, 10}, {99, 1}, {-1, 1}};
    struct sampling s = plain(0);
    s.bias = bias;
    s.n_bias = 3;
    assert_int_equal(once(s, (float[]){5, 6, 0}, 3), 2);
}

static void logits_are_left_as_they_were(void **state) {
    (void)state;
    struct sampling s = sampling_default();
    s.repeat_penalty = 1.5f;
    s.presence_penalty = 1;
    float logits[] = {1, 2, 3}, copy[] = {1, 2, 3};
    struct sampler *p = sampler_new(&s, 3);
    for (int i = 0; i < 5; i++)
        sampler_next(p, logits);
    sampler_free(p);
    assert_memory_equal(logits, copy, sizeof copy);
}

static void logprobs_are_the_log_softmax_in_descending_order(void **state) {
    (void)state;
    float logits[] = {1, 4, 2, 4, 0};
    struct logprob top[3];
    double z = exp(1) + 2 * exp(4) + exp(2) + 1;
    assert_true(fabs(logprobs(logits, 5, 2, top, 3) - (2 - log(z))) < 1e-6);
    assert_int_equal(top[0].id, 1);
    assert_int_equal(top[1].id, 3);
    assert_int_equal(top[2].id, 2);
    assert_true(fabs(top[0].logprob - (4 - log(z))) < 1e-6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_best_and_the_lowest_id_of_equals),
        cmocka_unit_test(nan_logits_are_reported_not_sampled),
        cmocka_unit_test(draws_follow_the_softmax_at_each_temperature),
        cmocka_unit_test(top_k_keeps_exactly_the_k_best),
        cmocka_unit_test(top_k_finds_the_k_best_of_a_whole_vocabulary),
        cmocka_unit_test(top_p_keeps_the_smallest_set_that_reaches_p),
        cmocka_unit_test(min_p_drops_what_is_unlikely_beside_the_best),
        cmocka_unit_test(typical_p_keeps_what_surprises_as_much_as_expected),
        cmocka_unit_test(same_seed_gives_the_same_tokens_whatever_the_filter_order),
        cmocka_unit_test(repetition_penalty_reaches_back_over_the_last_n_only),
        cmocka_unit_test(presence_and_frequency_count_generated_tokens_only),
        cmocka_unit_test(logit_bias_adds_and_ignores_ids_outside_the_vocabulary),
        cmocka_unit_test(logits_are_left_as_they_were),
        cmocka_unit_test(logprobs_are_the_log_softmax_in_descending_order),
    };
    struct err err = {0};
    if (kern_init(&err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
