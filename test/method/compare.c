/* compare.c - tests of how two ways of training are compared (src/method/compare.c). */
#include "testing.h"

#include <math.h>

#include "base/rng.h"
#include "method/compare.h"

static void assert_close(double a, double b, double tolerance) {
    if (!(fabs(a - b) <= tolerance))
        fail_msg("%.12g is not %.12g", a, b);
}

/* -- curves ------------------------------------------------------------------------------------ */

static void a_level_is_reached_between_points_in_log_flops(void **state) {
    (void)state;
    const double flops[] = {10, 100, 1000}, loss[] = {4, 3, 1};
    const struct curve c = {flops, loss, 3};
    assert_close(curve_reach(&c, 3.5), sqrt(10 * 100.0), 1e-9);
    assert_close(curve_reach(&c, 2), sqrt(100 * 1000.0), 1e-9);
    assert_close(curve_reach(&c, 3), 100, 1e-9);
    assert_close(curve_reach(&c, 1), 1000, 1e-9);
    assert_close(curve_reach(&c, 4), 10, 1e-9);
}

static void a_level_outside_the_curve_is_not_reached(void **state) {
    (void)state;
    const double flops[] = {10, 100}, loss[] = {4, 3}, nan_loss[] = {NAN, NAN};
    const struct curve c = {flops, loss, 2}, none = {flops, loss, 0}, bad = {flops, nan_loss, 2};
    assert_true(isnan(curve_reach(&c, 2.9)));
    assert_true(isnan(curve_reach(&c, 4.1))); /* before the first point nothing is known */
    assert_true(isnan(curve_reach(&none, 3)));
    assert_true(isnan(curve_reach(&bad, 3)));
    assert_true(isnan(curve_lowest(&c, 9)) && isnan(curve_lowest(&c, 101)));
    assert_true(isnan(curve_lowest(&none, 10)));
    assert_true(isnan(curve_speedup(&c, &c, 2)));
}

static void a_loss_counts_from_when_it_is_first_seen(void **state) {
    (void)state;
    const double flops[] = {1, 2, 4, 8, 16}, loss[] = {5, 3, 4, 3.5, 2};
    const struct curve c = {flops, loss, 5};
    assert_close(curve_reach(&c, 4), sqrt(2), 1e-12);
    assert_close(curve_reach(&c, 3), 2, 1e-12);
    assert_close(curve_reach(&c, 2.75), 8 * sqrt(2), 1e-9); /* half way from 3.5 to 2 */
    assert_close(curve_lowest(&c, 4), 3, 1e-12);
    assert_close(curve_lowest(&c, 8), 3, 1e-12);
    assert_close(curve_lowest(&c, 16), 2, 1e-12);
    assert_close(curve_lowest(&c, sqrt(2)), 4, 1e-12);
}

static void lowest_and_reach_are_inverse_to_each_other(void **state) {
    (void)state;
    FOR_SEEDS(200) {
        struct rng r;
        double flops[20], loss[20], x = 1;
        rng_seed(&r, seed);
        for (int i = 0; i < 20; i++) {
            flops[i] = x *= 1.1 + rng_double(&r);
            loss[i] = 5 - 0.2 * i + rng_double(&r);
        }
        const struct curve c = {flops, loss, 20};
        double at = flops[0] * pow(flops[19] / flops[0], rng_double(&r));
        double level = curve_lowest(&c, at), reach = curve_reach(&c, level);
        assert_true(reach <= at * (1 + 1e-9));
        assert_close(curve_lowest(&c, reach), level, 1e-9);
        assert_true(level <= loss[0]);
    }
}

static void a_curve_that_needs_two_thirds_of_the_flops_has_a_speedup_of_a_half(void **state) {
    (void)state;
    double a[50], b[50], loss[50];
    for (int i = 0; i < 50; i++) {
        a[i] = 3e9 * (i + 1);
        b[i] = 2e9 * (i + 1);
        loss[i] = 6 - log(i + 1);
    }
    const struct curve scratch = {a, loss, 50}, arm = {b, loss, 50};
    for (double level = 2.2; level < 6; level += 0.3)
        assert_close(curve_speedup(&scratch, &arm, level), 0.5, 1e-9);
    assert_close(curve_speedup(&arm, &scratch, 3), -1.0 / 3, 1e-9);
    assert_close(curve_speedup(&arm, &arm, 3), 0, 1e-12);
}

/* -- intervals --------------------------------------------------------------------------------- */

static void t_quantiles_are_those_of_the_printed_table(void **state) {
    (void)state;
    static const struct {
        int df;
        double p95, p975, p995;
    } table[] = {
        {1, 6.3138, 12.7062, 63.6567}, {2, 2.9200, 4.3027, 9.9248},  {3, 2.3534, 3.1824, 5.8409},
        {4, 2.1318, 2.7764, 4.6041},   {5, 2.0150, 2.5706, 4.0321},  {9, 1.8331, 2.2622, 3.2498},
        {10, 1.8125, 2.2281, 3.1693},  {30, 1.6973, 2.0423, 2.7500}, {120, 1.6577, 1.9799, 2.6174},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_close(t_quantile(0.95, table[i].df), table[i].p95, 6e-5);
        assert_close(t_quantile(0.975, table[i].df), table[i].p975, 6e-5);
        assert_close(t_quantile(0.995, table[i].df), table[i].p995, 6e-5);
    }
    assert_close(t_quantile(0.5, 7), 0, 1e-12);
}

static void a_paired_interval_is_that_of_the_differences(void **state) {
    (void)state;
    const double a[] = {1.1, 2.3, 3.2}, b[] = {1.0, 2.1, 3.1};
    struct estimate e = estimate_difference(a, b, 3);
    double sd = sqrt((2 * pow(0.1 - 0.4 / 3, 2) + pow(0.2 - 0.4 / 3, 2)) / 2);
    assert_int_equal(e.n, 3);
    assert_close(e.mean, 0.4 / 3, 1e-12);
    assert_close(e.half, 4.30265273 * sd / sqrt(3), 1e-8);
    struct estimate far = estimate_mean(a, 3); /* unpaired, the spread of the seeds is in it */
    assert_true(far.half > 5 * e.half);
}

static void one_value_has_a_mean_and_no_interval(void **state) {
    (void)state;
    const double x[] = {2, NAN, INFINITY}, y[] = {NAN, 1, 1};
    struct estimate e = estimate_mean(x, 3), none = estimate_difference(x, y, 3);
    assert_true(e.n == 1 && e.missing == 2);
    assert_close(e.mean, 2, 0);
    assert_true(isnan(e.half));
    assert_int_equal(none.n, 0);
    assert_true(isnan(none.mean) && isnan(none.half));
}

/* Of intervals of normal samples nineteen in twenty hold the true mean. */
static void intervals_hold_the_mean_as_often_as_they_say(void **state) {
    (void)state;
    struct rng r;
    int hit = 0, rounds = 20000;
    rng_seed(&r, 7);
    for (int i = 0; i < rounds; i++) {
        double x[3];
        for (int k = 0; k < 3; k++)
            x[k] = 1 + 0.3 * (double)rng_normal(&r);
        struct estimate e = estimate_mean(x, 3);
        hit += fabs(e.mean - 1) <= e.half;
    }
    assert_close((double)hit / rounds, 0.95, 0.005);
}

/* -- verdicts ---------------------------------------------------------------------------------- */

static enum verdict verdict(double mean, double half, double small, double small_arm) {
    const struct estimate arm = {3, 0, mean, half};
    int n = isnan(small) ? 0 : 3;
    const struct estimate a = {n, 0, small, 1}, b = {n, 0, small_arm, 1};
    return compare_verdict(&arm, &a, &b);
}

static void a_claim_holds_only_if_its_interval_excludes_zero(void **state) {
    (void)state;
    assert_int_equal(verdict(-0.05, 0.04, NAN, NAN), VERDICT_HOLDS);
    assert_int_equal(verdict(-0.05, 0.06, NAN, NAN), VERDICT_NO_EFFECT);
    assert_int_equal(verdict(-0.05, 0.05, NAN, NAN), VERDICT_NO_EFFECT);
    assert_int_equal(verdict(0.05, 0.06, NAN, NAN), VERDICT_NO_EFFECT);
    assert_int_equal(verdict(0.05, 0.04, NAN, NAN), VERDICT_WORSE);
}

static void one_seed_or_a_diverged_run_gives_no_verdict(void **state) {
    (void)state;
    const double x[] = {-1, -1.01, NAN};
    const struct estimate one = estimate_mean(x, 1), none = estimate_mean(x, 0);
    assert_int_equal(compare_verdict(&one, &none, &none), VERDICT_NONE);
    assert_int_equal(compare_verdict(&none, &none, &none), VERDICT_NONE);
    const struct estimate two = estimate_mean(x, 2), diverged = estimate_mean(x, 3);
    assert_int_equal(compare_verdict(&two, &none, &none), VERDICT_HOLDS);
    assert_int_equal(compare_verdict(&diverged, &none, &none), VERDICT_NONE);
}

static void a_small_model_that_wins_makes_the_question_moot(void **state) {
    (void)state;
    assert_int_equal(verdict(-0.05, 0.04, 0.1, 0.15), VERDICT_HOLDS);
    assert_int_equal(verdict(-0.05, 0.04, -0.01, 0.04), VERDICT_MOOT); /* it beats scratch */
    assert_int_equal(verdict(-0.05, 0.04, -0.1, -0.05), VERDICT_MOOT); /* and the arm */
    assert_int_equal(verdict(0.05, 0.04, -0.1, -0.15), VERDICT_WORSE);
}

static void every_verdict_has_its_own_words(void **state) {
    (void)state;
    for (int i = VERDICT_NONE; i <= VERDICT_MOOT; i++)
        for (int k = VERDICT_NONE; k < i; k++)
            assert_string_not_equal(verdict_text((enum verdict)i), verdict_text((enum verdict)k));
}

/* -- equal FLOPs ------------------------------------------------------------------------------- */

static void arms_of_equal_flops_differ_by_less_than_a_step(void **state) {
    (void)state;
    FOR_SEEDS(500) {
        struct rng r;
        rng_seed(&r, seed);
        double full = 1e6 * (1 + rng_double(&r)), small = full * (0.2 + 0.6 * rng_double(&r));
        double share = seed % 4 == 0 ? 0 : 0.5 * rng_double(&r);
        double budget = full * (50 + rng_below(&r, 5000));
        struct length l = length_for(budget, share, small, full);
        assert_int_equal(l.small, length_small(share, l.steps));
        assert_close(l.flops, (double)l.small * small + (double)(l.steps - l.small) * full, 1);
        assert_true(fabs(l.flops - budget) <= full / 2 + 1);
    }
    struct length scratch = length_for(3e9, 0, 0, 1e6);
    assert_true(scratch.steps == 3000 && scratch.small == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_level_is_reached_between_points_in_log_flops),
        cmocka_unit_test(a_level_outside_the_curve_is_not_reached),
        cmocka_unit_test(a_loss_counts_from_when_it_is_first_seen),
        cmocka_unit_test(lowest_and_reach_are_inverse_to_each_other),
        cmocka_unit_test(a_curve_that_needs_two_thirds_of_the_flops_has_a_speedup_of_a_half),
        cmocka_unit_test(t_quantiles_are_those_of_the_printed_table),
        cmocka_unit_test(a_paired_interval_is_that_of_the_differences),
        cmocka_unit_test(one_value_has_a_mean_and_no_interval),
        cmocka_unit_test(intervals_hold_the_mean_as_often_as_they_say),
        cmocka_unit_test(a_claim_holds_only_if_its_interval_excludes_zero),
        cmocka_unit_test(one_seed_or_a_diverged_run_gives_no_verdict),
        cmocka_unit_test(a_small_model_that_wins_makes_the_question_moot),
        cmocka_unit_test(every_verdict_has_its_own_words),
        cmocka_unit_test(arms_of_equal_flops_differ_by_less_than_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
