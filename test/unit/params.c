/* params.c - claims about src/serve: the table of parameters, errors, keys, hosts and origins. */
#include "testing.h"

#include <math.h>

#include "serve/access.h"
#include "serve/params.h"

static const enum endpoint places[] = {AT_CHAT,       AT_COMPLETION, AT_TOKENIZE,
                                       AT_DETOKENIZE, AT_TEMPLATE,   AT_EMBED};
enum { N_PLACES = sizeof places / sizeof places[0] };

static int parse(json_t *body, enum endpoint at, struct params *p, struct fault *f) {
    struct buf ignored = {0};
    *f = (struct fault){0};
    int rc = params_parse(body, at, p, &ignored, f);
    buf_free(&ignored);
    return rc;
}

/* Whether {name: value} is accepted; value is released. */
static bool accepts(enum endpoint at, const char *name, json_t *value, struct fault *f) {
    struct params p;
    json_t *body = json_object();
    json_object_set_new(body, name, value);
    bool ok = parse(body, at, &p, f) == 0;
    json_decref(body);
    return ok;
}

static void every_parameter_takes_null_as_absent(void **state) {
    (void)state;
    struct params empty, p;
    struct fault f;
    int n = 0;
    for (struct param_info r; (r = params_row(n)).name; n++)
        for (int k = 0; k < N_PLACES; k++) {
            if (!(r.at & places[k]))
                continue;
            json_t *none = json_object(), *body = json_object();
            json_object_set_new(body, r.name, json_null());
            assert_int_equal(parse(none, places[k], &empty, &f), 0);
            assert_int_equal(parse(body, places[k], &p, &f), 0);
            assert_memory_equal(&p, &empty, sizeof p);
            json_decref(none);
            json_decref(body);
        }
    assert_true(n > 40);
}

static void every_parameter_refuses_other_types_by_name(void **state) {
    (void)state;
    struct fault f;
    for (int i = 0; params_row(i).name; i++) {
        struct param_info r = params_row(i);
        for (int k = 0; k < N_PLACES; k++) {
            enum endpoint at = places[k];
            if (!(r.at & at))
                continue;
            json_t *value[] = {json_string("5"), json_true(),   json_real(0.5),
                               json_integer(1),  json_object(), json_array()};
            int refused = 0;
            for (int v = 0; v < 6; v++) {
                if (accepts(at, r.name, value[v], &f))
                    continue;
                refused++;
                assert_int_equal(f.status, 400);
                assert_string_equal(f.param, r.name);
                assert_non_null(strstr(f.msg, r.name));
            }
            bool any = !strcmp(r.kind, "any");
            assert_true(any || refused >= 4);
        }
    }
}

static void every_bound_is_held_on_both_sides(void **state) {
    (void)state;
    struct fault f;
    int bounded = 0;
    for (int i = 0; params_row(i).name; i++) {
        struct param_info r = params_row(i);
        enum endpoint at = 0;
        for (int k = 0; k < N_PLACES && !at; k++)
            at = r.at & places[k] ? places[k] : 0;
        if (!strcmp(r.kind, "integer")) {
            assert_true(accepts(at, r.name, json_integer((json_int_t)r.lo), &f));
            assert_false(accepts(at, r.name, json_integer((json_int_t)r.lo - 1), &f));
            assert_string_equal(f.code, "out_of_range");
            assert_false(accepts(at, r.name, json_integer(INT64_MIN), &f));
            if (r.hi < 9e18) {
                assert_true(accepts(at, r.name, json_integer((json_int_t)r.hi), &f));
                assert_false(accepts(at, r.name, json_integer((json_int_t)r.hi + 1), &f));
                assert_false(accepts(at, r.name, json_integer(INT64_MAX), &f));
            }
            bounded++;
        } else if (!strcmp(r.kind, "number")) {
            assert_true(accepts(at, r.name, json_real((r.lo + r.hi) / 2), &f));
            assert_false(accepts(at, r.name, json_real(r.lo - 0.01), &f));
            assert_false(accepts(at, r.name, json_real(r.hi + 0.01), &f));
            assert_false(accepts(at, r.name, json_real(1e308), &f));
            bounded++;
        }
    }
    assert_true(bounded > 15);
}

static void values_arrive_where_they_belong(void **state) {
    (void)state;
    struct params p;
    struct fault f;
    json_t *body = json_pack("{s:f,s:i,s:i,s:b,s:s,s:I}", "temperature", 0.5, "top_k", -1,
                             "max_completion_tokens", 7, "stream", 1, "model", "m", "seed",
                             (json_int_t)INT64_MAX);
    assert_int_equal(parse(body, AT_CHAT, &p, &f), 0);
    assert_true(p.temperature == 0.5 && p.top_k == -1 && p.max_tokens == 7 && p.stream);
    assert_true(p.seed == INT64_MAX && isnan(p.top_p) && p.n == 1);
    assert_string_equal(p.model, "m");
    json_decref(body);
}

static void one_meaning_given_by_two_names_is_refused(void **state) {
    (void)state;
    struct params p;
    struct fault f;
    json_t *body = json_pack("{s:i,s:i}", "max_tokens", 1, "n_predict", 1);
    assert_int_equal(parse(body, AT_COMPLETION, &p, &f), -1);
    assert_string_equal(f.code, "given_twice");
    json_decref(body);
}

static void unknown_names_are_listed_without_what_headers_cannot_carry(void **state) {
    (void)state;
    struct params p;
    struct fault f = {0};
    struct buf ignored = {0};
    json_t *body = json_object();
    json_object_set_new(body, "a\r\nb,\xc3\xa9", json_true());
    json_object_set_new(body, "messages", json_true()); /* not of this endpoint */
    for (int i = 0; i < 1000; i++) {
        char name[32];
        snprintf(name, sizeof name, "unknown%d", i);
        json_object_set_new(body, name, json_true());
    }
    assert_int_equal(params_parse(body, AT_COMPLETION, &p, &ignored, &f), 0);
    assert_true(ignored.len < 256);
    assert_memory_equal(buf_str(&ignored), "a??b???, messages, unknown0", 27);
    buf_free(&ignored);
    json_decref(body);
}

static void a_fault_is_valid_json_of_openais_shape(void **state) {
    (void)state;
    struct fault f = {0};
    struct buf b = {0};
    fault_set(&f, 400, "c", "p[\"x\"]", "bad \"bytes\": \xff\xfe \x01 %s", "end");
    fault_set(&f, 500, "later", NULL, "not told");
    fault_json(&f, &b);
    json_t *j = json_loads(buf_str(&b), 0, NULL), *e = json_object_get(j, "error");
    assert_non_null(e);
    assert_string_equal(json_string_value(json_object_get(e, "param")), "p[\"x\"]");
    assert_string_equal(json_string_value(json_object_get(e, "type")), "invalid_request_error");
    assert_string_equal(json_string_value(json_object_get(e, "code")), "c");
    json_decref(j);
    buf_free(&b);
}

static void only_a_whole_key_opens(void **state) {
    (void)state;
    struct err err = {0};
    struct keys *k = keys_new();
    uint64_t a = 0, b = 0, none = 0;
    assert_ok(keys_add(k, "sesame", &err), err);
    assert_ok(keys_add(k, "other", &err), err);
    assert_true(keys_match(k, "sesame", &a) && keys_match(k, "other", &b));
    assert_true(a && b && a != b);
    const char *wrong[] = {"", "sesam", "sesame ", "Sesame", "sesameother"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(keys_match(k, wrong[i], &none));
    assert_int_equal(keys_add(k, "", &err), -1);
    assert_true(tenant_salt(0, NULL) == 0 && tenant_salt(a, NULL) == a);
    assert_true(tenant_salt(a, "s") != tenant_salt(b, "s") && tenant_salt(a, "s") != a);
    keys_free(k);
}

static void hosts_of_other_names_are_not_local(void **state) {
    (void)state;
    const char *local[] = {"localhost", "LOCALHOST:80", "a.localhost:1",
                           "127.0.0.1", "127.9.9.9:8",  "[::1]:80"};
    const char *foreign[] = {"evil.com", "localhost.evil.com", "127.0.0.1.evil.com",
                             "10.0.0.1", "notlocalhost",       "[::2]",
                             "",         "127.evil.com"};
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++)
        assert_true(host_is_local(local[i]));
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        assert_false(host_is_local(foreign[i]));
}

static void origins_are_compared_whole(void **state) {
    (void)state;
    const char *list = "https://a.example,localhost";
    assert_true(origin_allowed("https://a.example", "h", list));
    assert_true(origin_allowed("http://localhost:3000", "h", list));
    assert_true(origin_allowed("http://h:80", "h:80", NULL));
    assert_true(origin_allowed("null", "h", "*"));
    assert_false(origin_allowed("https://a.example.evil", "h", list));
    assert_false(origin_allowed("https://a.exampl", "h", list));
    assert_false(origin_allowed("http://localhost.evil.com", "h", list));
    assert_false(origin_allowed("null", "null", list));
    assert_false(origin_allowed("http://h:81", "h:80", NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_parameter_takes_null_as_absent),
        cmocka_unit_test(every_parameter_refuses_other_types_by_name),
        cmocka_unit_test(every_bound_is_held_on_both_sides),
        cmocka_unit_test(values_arrive_where_they_belong),
        cmocka_unit_test(one_meaning_given_by_two_names_is_refused),
        cmocka_unit_test(unknown_names_are_listed_without_what_headers_cannot_carry),
        cmocka_unit_test(a_fault_is_valid_json_of_openais_shape),
        cmocka_unit_test(only_a_whole_key_opens),
        cmocka_unit_test(hosts_of_other_names_are_not_local),
        cmocka_unit_test(origins_are_compared_whole),
    };
    return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
