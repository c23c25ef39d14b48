/* gstack.c - claims about src/method/gstack.c: which layer becomes which. */
#include "testing.h"

#include "method/gstack.h"

static void same(const struct ids *m, const int32_t *want, size_t n) {
    assert_int_equal(m->n, n);
    assert_memory_equal(m->id, want, n * sizeof *want);
}

static void stacking_repeats_the_whole_sequence(void **state) {
    (void)state;
    struct ids m = {0};
    struct err err = {0};
    assert_ok(gstack_stack(3, 2, &m, &err), err);
    same(&m, (int32_t[]){0, 1, 2, 0, 1, 2}, 6);
    ids_free(&m);
}

static void a_factor_of_one_is_the_identity_and_factors_multiply(void **state) {
    (void)state;
    struct err err = {0};
    for (int l = 1; l <= 6; l++)
        for (int a = 1; a <= 4; a++)
            for (int b = 1; b <= 4; b++) {
                struct ids first = {0}, second = {0}, both = {0};
                assert_ok(gstack_stack(l, a, &first, &err), err);
                assert_ok(gstack_stack(l * a, b, &second, &err), err);
                assert_ok(gstack_stack(l, a * b, &both, &err), err);
                for (size_t i = 0; i < both.n; i++)
                    assert_int_equal(first.id[second.id[i]], both.id[i]);
                for (int i = 0; a == 1 && i < l; i++)
                    assert_int_equal(first.id[i], i);
                ids_free(&first);
                ids_free(&second);
                ids_free(&both);
            }
}

static void lists_express_interpolation_and_partial_stacks(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int32_t want[12];
        size_t n;
    } good[] = {
        {"0,0,1,1,2,2", {0, 0, 1, 1, 2, 2}, 6},
        {"0-2,0-2", {0, 1, 2, 0, 1, 2}, 6},
        {"0,1,1-2,2", {0, 1, 1, 2, 2}, 5},
        {"2", {2}, 1},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct ids m = {0};
        struct err err = {0};
        assert_ok(gstack_list(good[i].text, 3, &m, &err), err);
        same(&m, good[i].want, good[i].n);
        ids_free(&m);
    }
}

static void an_illegal_list_is_refused_and_leaves_the_map_alone(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",     ",",     "3",   "0,3",  "-1",  "0-", "1-0",
        "0 1",  "0,,1",  "a",   "0-2x", "0-9", "0,", "99999999999999999999",
        "0--1", "0-1-2", "0x1", "+1",   " 1",  "1 "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ids m = {0};
        struct err err = {0};
        if (gstack_list(bad[i], 3, &m, &err) != -1)
            fail_msg("'%s' was accepted", bad[i]);
        assert_int_equal(err.code, E_USAGE);
        assert_int_equal(m.n, 0);
    }
}

static void too_many_layers_are_refused(void **state) {
    (void)state;
    struct ids m = {0};
    struct err err = {0};
    assert_ok(gstack_stack(128, 4, &m, &err), err);
    ids_free(&m);
    assert_int_equal(gstack_stack(128, 5, &m, &err), -1);
    err = (struct err){0};
    assert_int_equal(gstack_stack(3, 0, &m, &err), -1);
    err = (struct err){0};
    assert_int_equal(gstack_list("0-400,0-400", 401, &m, &err), -1);
    assert_int_equal(m.n, 0);
}

static void repeats_are_all_but_the_first_use_of_a_source(void **state) {
    (void)state;
    struct ids m = {0};
    struct err err = {0};
    assert_ok(gstack_list("1,0,1,0,2", 3, &m, &err), err);
    static const bool want[] = {false, false, true, true, false};
    for (size_t i = 0; i < m.n; i++)
        assert_int_equal(gstack_is_repeat(&m, i), want[i]);
    ids_free(&m);
}

/* Section 7 of the paper: 8 -> 24 layers by whole stacking keeps 91.3 % of connections, by
 * interpolation 30.4 %. */
static void connection_rates_are_those_of_the_paper(void **state) {
    (void)state;
    struct ids m = {0};
    struct err err = {0};
    assert_ok(gstack_stack(8, 3, &m, &err), err);
    assert_true(gstack_connection_rate(&m) > 0.9130 && gstack_connection_rate(&m) < 0.9131);
    ids_free(&m);
    for (int i = 0; i < 24; i++)
        ids_add(&m, i / 3);
    assert_true(gstack_connection_rate(&m) > 0.3043 && gstack_connection_rate(&m) < 0.3044);
    ids_free(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stacking_repeats_the_whole_sequence),
        cmocka_unit_test(a_factor_of_one_is_the_identity_and_factors_multiply),
        cmocka_unit_test(lists_express_interpolation_and_partial_stacks),
        cmocka_unit_test(an_illegal_list_is_refused_and_leaves_the_map_alone),
        cmocka_unit_test(too_many_layers_are_refused),
        cmocka_unit_test(repeats_are_all_but_the_first_use_of_a_source),
        cmocka_unit_test(connection_rates_are_those_of_the_paper),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
