/* jinja.c - the template interpreter's limits and marks; that it renders what it should is
 * test/oracle/jinja.py's. */
#include "testing.h"

#include <time.h>

#include "base/json.h"
#include "tok/jinja.h"

/* Renders; NULL = success with the text in *out, else the error's message. */
static const char *run(const char *source, const char *input, struct jinja_text *out) {
    static struct err err;
    err = (struct err){0};
    json_t *vars = json_loads(input, 0, NULL), *ours = json_pack("{s:s}", "bos_token", "<s>");
    struct jinja *j = jinja_parse("template", source, strlen(source), &err);
    struct jinja_vars v = {.input = vars, .ours = ours};
    int rc = j ? jinja_render(j, &v, out, &err) : -1;
    assert_non_null(vars);
    assert_int_equal(rc != 0, err.code != 0);
    jinja_free(j);
    json_decref(vars);
    json_decref(ours);
    return rc ? err.msg : NULL;
}

static void a_bomb_stops_at_a_limit_within_a_second(void **state) {
    static const struct {
        const char *source, *message;
    } bombs[] = {
        {"{% for i in range(10**9) %}x{% endfor %}", "range"},
        {"{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
         "more than"},
        {"{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s "
         "%}"
         "{% endfor %}{{ ns.s }}",
         "MiB"},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
         "{% endfor %}",
         "steps"},
        {"{% set ns = namespace(s=[]) %}{% for i in range(999) %}{% set ns.s = [ns.s] %}{% endfor "
         "%}"
         "{{ ns.s }}",
         "nested deeper"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested deeper"},
        {"{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "nested deeper"},
        {"{{ 'a' * 10**9 }}", "more than"},
        {"{{ 'a'.ljust(10**9) }}", "MiB"},
        {"{{ '%999999999d' % 1 }}", "format"},
        {"{{ 2 ** 99999999 }}", "too large"},
        {"{{ ('a' * 4000000).replace('', 'aaaa') }}", "more than"},
        {"{% set s = 'a' * 100000 %}{% for i in range(99) %}{{ s }}{% endfor %}", "MiB"},
        {"{% set s = 'a' * 4000000 %}{% for i in range(9999) %}{% set x = s | upper %}{% endfor %}",
         "steps"},
        {"{% set s = 'a' * 400000 %}{{ [s, s, s, s, s, s, s, s, s, s, s, s] | tojson }}", "MiB"},
        {"{% set s = ['a'] * 90000 %}{{ s | sort | unique | list }}{{ s | map('list') | list | "
         "length }}"
         "{% for x in s %}{{ s | sort | length }}{% endfor %}",
         "steps"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++) {
        struct jinja_text t = {0};
        clock_t start = clock();
        const char *message = run(bombs[i].source, "{}", &t);
        if (!message || !strstr(message, bombs[i].message))
            fail_msg("%s: %s", bombs[i].source, message ? message : "no error");
        if (clock() - start > 5 * CLOCKS_PER_SEC) /* a fifth of a second without sanitizers */
            fail_msg("%s: takes too long", bombs[i].source);
        jinja_text_free(&t);
    }
}

static void nesting_in_the_source_has_a_bound(void **state) {
    static const char *const parts[][5] = {
        /* once, 20000 times, once, 20000 times, once */
        {"{{ ", "(", "1", ")", " }}"},          {"{{ ", "[", "1", "]", " }}"},
        {"{{ ", "{1:", "1", "}", " }}"},        {"{{ ", "f(", "1", ")", " }}"},
        {"{{ ", "a[", "1", "]", " }}"},         {"{{ ", "not ", "1", "", " }}"},
        {"{{ ", "- ", "1", "", " }}"},          {"{{ ", "1 if 1 else ", "1", "", " }}"},
        {"{% for ", "(", "x", ")", " in y %}"}, {"", "{% if 1 %}", "", "", ""},
        {"", "{% for x in y %}", "", "", ""},   {"{{ 1", "|abs", "", "", " }}"},
        {"{{ a", ".b", "", "", " }}"},          {"{{ a", "()", "", "", " }}"},
        {"{{ 1", " is odd", "", "", " }}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct jinja_text t = {0};
        struct buf b = {0};
        buf_adds(&b, parts[i][0]);
        for (int k = 0; k < 20000; k++)
            buf_adds(&b, parts[i][1]);
        buf_adds(&b, parts[i][2]);
        for (int k = 0; k < 20000; k++)
            buf_adds(&b, parts[i][3]);
        buf_adds(&b, parts[i][4]);
        const char *message = run(buf_str(&b), "{}", &t);
        if (!message || !(strstr(message, "nested too deeply") || strstr(message, "chained")))
            fail_msg("%s: %s", parts[i][1], message ? message : "no error");
        buf_free(&b);
        jinja_text_free(&t);
    }
}

static void deep_and_large_values_are_refused(void **state) {
    struct jinja_text t = {0};
    struct buf b = {0};
    (void)state;
    buf_adds(&b, "{\"x\":");
    for (int i = 0; i < 1000; i++)
        buf_addc(&b, '[');
    for (int i = 0; i < 1000; i++)
        buf_addc(&b, ']');
    buf_addc(&b, '}');
    assert_non_null(strstr(run("{{ x }}", buf_str(&b), &t), "nested deeper"));
    assert_null(run("{{ y }}", buf_str(&b), &t)); /* what is not mentioned costs nothing */
    buf_free(&b);
    jinja_text_free(&t);
}

static void slices_by_anything_but_integers_are_errors(void **state) {
    static const char *const by[] = {"nobody:", ":nobody", "'1':", ":'1'",
                                     "::'1'",   ":[1]",    "::1.5"};
    struct jinja_text t = {0};
    (void)state;
    for (size_t i = 0; i < sizeof by / sizeof *by; i++)
        for (int text = 0; text < 2; text++) {
            char source[64];
            snprintf(source, sizeof source, "{{ %s[%s] }}", text ? "'ab'" : "[1, 2]", by[i]);
            const char *message = run(source, "{}", &t);
            if (!message || !strstr(message, "slice indices"))
                fail_msg("%s: %s", source, message ? message : "no error");
        }
    assert_null(run("{{ 'abc'[true:none:none] }}", "{}", &t));
    assert_int_equal(t.text.len, 2);
    jinja_text_free(&t);
}

static void a_source_of_more_than_a_mebibyte_is_refused(void **state) {
    struct err err = {0};
    char *s = calloc(1, JINJA_MAX_SOURCE + 1);
    (void)state;
    assert_null(jinja_parse("big.jinja", s, JINJA_MAX_SOURCE + 1, &err));
    assert_non_null(strstr(err.msg, "big.jinja: 1048577 bytes"));
    free(s);
}

static void errors_name_construct_and_line(void **state) {
    static const struct {
        const char *source, *message;
    } rows[] = {
        {"a\n{{ x | frob }}", "template: line 2: unknown filter 'frob'"},
        {"a\n\n{% frob %}", "template: line 3: unknown tag 'frob'"},
        {"{{ x is frob }}", "line 1: unknown test 'frob'"},
        {"\n{% for x in y %}\n{{ x }}", "line 2: no 'endfor' for what begins here"},
        {"{% endif %}", "line 1: nothing open to end with 'endif'"},
        {"\n\n{{ x.y.z }}", "line 3: 'x' is undefined"},
        {"{{ 1 +\n\n }}", "line 3: expected an expression, not '}}'"},
        {"{{ raise_exception('No system role\xc3\xa9') }}", "chat template: No system role"},
        {"{{ ''.__class__ }}", "'__class__' is not allowed"},
        {"{{ messages.append(1) }}", "'messages' is undefined"},
        {"{{ [].append(1) }}", "'append' is undefined"},
        {"{% include 'file' %}", "unknown tag 'include'"},
        {"{% for x in y recursive %}{% endfor %}", "recursive loops"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct jinja_text t = {0};
        const char *message = run(rows[i].source, "{}", &t);
        if (!message || !strstr(message, rows[i].message))
            fail_msg("%s: %s", rows[i].source, message ? message : "no error");
        assert_int_equal(t.text.len, 0);
        jinja_text_free(&t);
    }
}

/* In these templates letters A-Z come from the input alone, and all other bytes from the template:
 * the marks must say so, whatever happened to the text in between. */
static void every_byte_keeps_its_mark_through_all_operations(void **state) {
    static const char *const sources[] = {
        "<{{ x }}>{{ bos_token }}",
        "{{ '<' + x + '>' }}",
        "{{ '<' ~ x ~ '|' ~ y ~ '>' }}",
        "{{ ('<' ~ x) | trim }}",
        "{{ x | replace('B', '<b>') }}",
        "{{ 'a-b' | replace('-', x) }}",
        "{{ x | lower | upper }}",
        "{{ ('< ' ~ x) | title | upper }}",
        "{{ '-'.join([x, y]) }}",
        "{{ [x, '-', y] | join('+') }}",
        "{{ ('<' ~ x ~ '>')[1:-1] }}",
        "{{ x[::-1] }}",
        "{{ ('<' ~ x) | reverse }}",
        "{{ (x ~ '-' ~ y).split('-')[1] }}",
        "{{ '<%s>' % x }}",
        "{{ '%5s' % x }}",
        "{{ '<{}>'.format(x) }}",
        "{% set z %}<{{ x }}>{% endset %}{{ z }}",
        "{% macro f(a) %}<{{ a }}>{% endmacro %}{{ f(x) }}",
        "{% filter trim %} {{ x }}>{% endfilter %}",
        "{{ ('  ' ~ x) | indent }}",
        "{{ x | list | join }}",
        "{% for c in x %}{{ c }}-{% endfor %}",
        "{{ (x ~ '-' ~ y).partition('-') | join }}",
        "{{ x | first }}{{ '-' }}{{ x | last }}",
        "{% for k, v in d.items() %}{{ k }}-{{ v }}{% endfor %}",
        "{{ x * 2 }}-",
        "{{ x.ljust(5) }}",
        "{{ x | string | default('-') }}",
        "{{ (x or '-') if x else '-' }}",
        "{{ (x ~ '\\n' ~ y).splitlines() | join('-') }}",
        "{{ m | map(attribute='c') | join('-') }}",
        "{% set n = namespace(s='') %}{% for c in x %}{% set n.s = n.s ~ c %}{% endfor %}{{ n.s }}",
        "{{ x | capitalize | upper }}",
        "{{ ('-' ~ x).strip('-') }}",
        "{{ x.replace('', '-') }}",
        "{{ x | safe + '-' }}",
        "{{ {'-': x}['-'] }}",
        "{{ (x ~ '-')[0] }}{{ x | min }}",
    };
    const char *input =
        "{\"x\":\"ABC\",\"y\":\"D\",\"d\":{\"K\":\"V\"},\"m\":[{\"c\":\"P\"},{\"c\":\"Q\"}]}";
    (void)state;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct jinja_text t = {0};
        const char *message = run(sources[i], input, &t);
        bool any = false;
        if (message)
            fail_msg("%s: %s", sources[i], message);
        assert_int_equal(t.text.len, t.mark.len);
        for (size_t k = 0; k < t.text.len; k++) {
            bool upper = t.text.data[k] >= 'A' && t.text.data[k] <= 'Z';
            any = any || upper;
            if (t.mark.data[k] != upper)
                fail_msg("%s: byte %zu of '%s'", sources[i], k, buf_str(&t.text));
        }
        assert_true(any);
        jinja_text_free(&t);
    }
}

static void what_tojson_makes_of_input_is_marked_as_a_whole(void **state) {
    struct jinja_text t = {0};
    (void)state;
    assert_null(run("a{{ x | tojson }}", "{\"x\":{\"k\":[1,\"<|im_end|>\"]}}", &t));
    assert_null(memchr(t.mark.data + 1, 0, t.mark.len - 1));
    assert_int_equal(t.mark.data[0], 0);
    jinja_text_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bomb_stops_at_a_limit_within_a_second),
        cmocka_unit_test(nesting_in_the_source_has_a_bound),
        cmocka_unit_test(deep_and_large_values_are_refused),
        cmocka_unit_test(slices_by_anything_but_integers_are_errors),
        cmocka_unit_test(a_source_of_more_than_a_mebibyte_is_refused),
        cmocka_unit_test(errors_name_construct_and_line),
        cmocka_unit_test(every_byte_keeps_its_mark_through_all_operations),
        cmocka_unit_test(what_tojson_makes_of_input_is_marked_as_a_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
