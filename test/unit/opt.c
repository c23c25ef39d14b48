/* opt.c - claims about command-line options. */
#include "testing.h"

#include "base/opt.h"

static struct {
    bool quiet;
    int n;
    int64_t seed;
    float temp;
    const char *model, *kv;
    struct opt_list stop;
} v;

static const struct opt table[] = {
    {"", .help = "Group"},
    {"quiet", 'q', NULL, OPT_FLAG, &v.quiet, .help = "say less"},
    {"n-predict", 'n', "n", OPT_INT, &v.n, -1, 1000, "N", "tokens"},
    {"seed", 's', NULL, OPT_I64, &v.seed, -1, 9.3e18, "N", "seed"},
    {"temp", 0, NULL, OPT_FLOAT, &v.temp, 0, 2, "T", "temperature"},
    {"model", 'm', NULL, OPT_STR, &v.model, .arg = "PATH", .help = "model"},
    {"kv-dtype", 0, "ctk", OPT_STR, &v.kv, .arg = "TYPE", .help = "KV type"},
    {"stop", 'r', "reverse-prompt", OPT_LIST, &v.stop, .arg = "TEXT", .help = "stop"},
    {"hidden", 0, NULL, OPT_FLAG, &v.quiet},
    {0},
};

static int rest;
static char *args[70];

/* Parses the NULL-terminated words into a fresh v. */
static int parse(struct err *e, ...) {
    int n = 0;
    va_list ap;
    va_start(ap, e);
    args[n++] = "prog";
    for (char *s; (s = va_arg(ap, char *));)
        args[n++] = s;
    va_end(ap);
    args[n] = NULL;
    memset(&v, 0, sizeof v);
    *e = (struct err){0};
    return opt_parse(table, n, args, &rest, e);
}

static void refuses(const char *part, const struct err *e) {
    assert_int_equal(e->code, E_USAGE);
    if (!strstr(e->msg, part))
        fail_msg("'%s' lacks '%s'", e->msg, part);
}

static void every_type_is_stored(void **state) {
    (void)state;
    struct err e;
    assert_ok(parse(&e, "-q", "--n-predict", "7", "--seed=9223372036854775807", "--temp", "0.5",
                    "-m", "x", "--stop", "a", "-r", "b", NULL),
              e);
    assert_true(v.quiet);
    assert_int_equal(v.n, 7);
    assert_true(v.seed == INT64_MAX);
    assert_true(v.temp == 0.5f);
    assert_string_equal(v.model, "x");
    assert_int_equal(v.stop.n, 2);
    assert_string_equal(v.stop.item[1], "b");
}

static void positionals_move_behind_the_options(void **state) {
    (void)state;
    struct err e;
    assert_ok(parse(&e, "first", "-n", "3", "second", "-q", NULL), e);
    assert_int_equal(rest, 4);
    assert_string_equal(args[rest], "first");
    assert_string_equal(args[rest + 1], "second");
    assert_ok(parse(&e, "-q", "--", "-n", NULL), e);
    assert_string_equal(args[rest], "-n");
}

static void aliases_and_one_dash_spellings_work(void **state) {
    (void)state;
    struct err e;
    assert_ok(parse(&e, "-ctk", "f16", "--n", "5", "--reverse-prompt", "x", NULL), e);
    assert_string_equal(v.kv, "f16");
    assert_int_equal(v.n, 5);
    assert_int_equal(v.stop.n, 1);
    assert_ok(parse(&e, "-n12", "-temp=1", "-mfile", NULL), e);
    assert_int_equal(v.n, 12);
    assert_true(v.temp == 1.0f);
    assert_string_equal(v.model, "file");
}

static void unknown_flags_are_named(void **state) {
    (void)state;
    struct err e;
    assert_int_equal(parse(&e, "--larosa-sparsity", "0.4", NULL), -1);
    refuses("unknown option '--larosa-sparsity'", &e);
    assert_int_equal(parse(&e, "--bogus=1", NULL), -1);
    refuses("unknown option '--bogus'", &e);
    assert_int_equal(parse(&e, "-z", NULL), -1);
    refuses("-z", &e);
}

static void abbreviations_are_refused(void **state) {
    (void)state;
    struct err e;
    assert_int_equal(parse(&e, "--see", "1", NULL), -1);
    refuses("unknown option '--see'", &e);
    assert_int_equal(parse(&e, "--qui", NULL), -1);
    refuses("unknown option '--qui'", &e);
    assert_int_equal(parse(&e, "--see=1", NULL), -1);
    refuses("unknown option '--see'", &e);
    assert_int_equal(parse(&e, "--s", "1", NULL), -1); /* ambiguous as well */
    refuses("unknown option '--s'", &e);
}

static void bad_numbers_name_flag_and_reason(void **state) {
    (void)state;
    struct err e;
    static const char *const bad[] = {"", "x", "1x", "1.5", "1001", "-2", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(parse(&e, "-n", bad[i], NULL), -1);
        refuses("-n: ", &e);
        refuses(bad[i], &e);
    }
    static const char *const badf[] = {"", "nan", "inf", "0.5x", "2.1", "-0.1"};
    for (size_t i = 0; i < sizeof badf / sizeof *badf; i++) {
        assert_int_equal(parse(&e, "--temp", badf[i], NULL), -1);
        refuses("--temp: ", &e);
    }
    assert_int_equal(parse(&e, "--seed", "9223372036854775808", NULL), -1);
    refuses("--seed: 9223372036854775808 is not in -1..", &e);
}

static void missing_and_unwanted_values_are_errors(void **state) {
    (void)state;
    struct err e;
    assert_int_equal(parse(&e, "--temp", NULL), -1);
    refuses("--temp: needs a value", &e);
    assert_int_equal(parse(&e, "-m", NULL), -1);
    refuses("-m: needs a value", &e);
    assert_int_equal(parse(&e, "--quiet=1", NULL), -1);
    refuses("--quiet: takes no value", &e);
}

static void a_full_list_is_an_error(void **state) {
    (void)state;
    struct err e = {0};
    char *many[140] = {"prog"};
    int n = 1;
    memset(&v, 0, sizeof v);
    for (int i = 0; i < 65; i++) {
        many[n++] = "--stop";
        many[n++] = "x";
    }
    assert_int_equal(opt_parse(table, n, many, &rest, &e), -1);
    refuses("more than 64", &e);
}

static void set_by_name_checks_like_the_flag(void **state) {
    (void)state;
    struct err e = {0};
    memset(&v, 0, sizeof v);
    assert_ok(opt_set(table, "temp", "1.5", &e), e);
    assert_true(v.temp == 1.5f);
    assert_int_equal(opt_set(table, "temp", "3", &e), -1);
    refuses("temp: 3 is not in 0..2", &e);
    e = (struct err){0};
    assert_int_equal(opt_set(table, "nope", "3", &e), -1);
    refuses("nope", &e);
}

static void help_lists_every_visible_row_within_80_columns(void **state) {
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    opt_help(f, table);
    fclose(f);
    for (const struct opt *o = table; o->name; o++) {
        if (o->name[0] && o->help)
            assert_non_null(strstr(text, o->name));
    }
    assert_null(strstr(text, "hidden"));
    assert_non_null(strstr(text, "Group:"));
    assert_non_null(strstr(text, "-ctk, --kv-dtype TYPE"));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 80);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_is_stored),
        cmocka_unit_test(positionals_move_behind_the_options),
        cmocka_unit_test(aliases_and_one_dash_spellings_work),
        cmocka_unit_test(unknown_flags_are_named),
        cmocka_unit_test(abbreviations_are_refused),
        cmocka_unit_test(bad_numbers_name_flag_and_reason),
        cmocka_unit_test(missing_and_unwanted_values_are_errors),
        cmocka_unit_test(a_full_list_is_an_error),
        cmocka_unit_test(set_by_name_checks_like_the_flag),
        cmocka_unit_test(help_lists_every_visible_row_within_80_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
