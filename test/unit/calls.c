/* calls.c - claims about src/tok/calls.c: calls of functions in what a model writes. */
#include "testing.h"

#include "base/buf.h"
#include "base/rng.h"
#include "tok/calls.h"

/* Everything that comes out, as one text: content as it is, [name|arguments]. */
struct heard {
    struct buf b;
    enum calls_part last;
    int pieces;
};

static void on_part(void *ud, enum calls_part part, const char *text, size_t n) {
    struct heard *h = ud;
    h->pieces++;
    if (h->last != CALLS_TEXT && part != CALLS_ARGS)
        buf_adds(&h->b, "]");
    if (part == CALLS_NAME)
        buf_adds(&h->b, "[");
    if (part == CALLS_ARGS && h->last == CALLS_NAME)
        buf_adds(&h->b, "|");
    buf_add(&h->b, text, n);
    h->last = part;
}

static bool known(void *ud, const char *name) {
    (void)ud;
    return name[0] == 'f';
}

/* Fed in pieces of `most` bytes at most (0: whole). */
static void hear(struct heard *h, enum calls_style style, bool inside, const char *text,
                 uint64_t most) {
    struct rng r;
    size_t n = strlen(text), at = 0;
    struct calls *c = calls_new(&(struct calls_opts){style, inside, known, NULL, on_part, h});
    rng_seed(&r, most);
    while (at < n) {
        size_t k = most ? 1 + rng_below(&r, (uint32_t)most) : n;
        k = k < n - at ? k : n - at;
        calls_feed(c, text + at, k);
        at += k;
    }
    calls_end(c);
    calls_free(c);
    if (h->last != CALLS_TEXT)
        buf_adds(&h->b, "]");
}

static void says(enum calls_style style, bool inside, const char *text, const char *want) {
    for (uint64_t most = 0; most < 12; most++) {
        struct heard h = {0};
        hear(&h, style, inside, text, most);
        assert_string_equal(buf_str(&h.b), want);
        buf_free(&h.b);
    }
}

#define HERMES(text, want) says(CALLS_HERMES, false, text, want)
#define INSIDE(text, want) says(CALLS_HERMES, true, text, want)
#define LLAMA3(text, want) says(CALLS_LLAMA3, false, text, want)

static void hermes_calls_stand_between_text(void **state) {
    (void)state;
    HERMES("<tool_call>\n{\"name\": \"go\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>",
           "[go|{\"a\": [1, \"}\"]}]");
    HERMES("Sure.\n<tool_call>{\"arguments\":{},\"name\":\"go\"}</tool_call> and"
           "\n<tool_call>{\"name\":\"s\\u0074op\"}</tool_call>\n",
           "Sure.[go|{}] and[stop|{}]");
    HERMES(
        "<tool_call>{\"id\":[{\"name\":1}],\"name\":\"a\",\"parameters\":{\"x\\\"{\":\"\\\\\"} , "
        "\"arguments\":{\"late\":1}}</tool_call>",
        "[a|{\"x\\\"{\":\"\\\\\"}]");
    HERMES("<tool_call>{\"name\":\"a\",\"arguments\":{}}<tool_call>{\"name\":\"b\"}</tool_call>",
           "[a|{}][b|{}]");
    INSIDE("{\"name\": \"a\", \"arguments\": {\"b\": 2}}", "[a|{\"b\": 2}]");
    INSIDE("\n{\"name\": \"a\", \"arguments\": {}}\n</tool_call>", "[a|{}]");
}

static void llama3_calls_are_the_whole_answer(void **state) {
    (void)state;
    LLAMA3("{\"name\": \"f1\", \"parameters\": {\"a\": \"b\"}}", "[f1|{\"a\": \"b\"}]");
    LLAMA3(" {\"name\":\"f\",\"parameters\":{}}; {\"name\":\"f2\",\"arguments\":{\"c\":{}}}\n",
           "[f|{}][f2|{\"c\":{}}]");
    LLAMA3("{\"name\": \"other\", \"parameters\": {}}",
           "{\"name\": \"other\", \"parameters\": {}}");
    LLAMA3("Look: {\"name\": \"f\", \"parameters\": {}}",
           "Look: {\"name\": \"f\", \"parameters\": {}}");
    LLAMA3("{\"colour\": \"red\"}", "{\"colour\": \"red\"}");
    LLAMA3("{\"name\":\"f\",\"parameters\":{}} done", "[f|{}] done");
    LLAMA3("  plain <tool_call>", "  plain <tool_call>");
}

static void arguments_may_be_a_string_or_null(void **state) {
    (void)state;
    HERMES("<tool_call>{\"name\":\"a\",\"arguments\":\"{\\\"b\\\": 1}\"}</tool_call>",
           "[a|{\"b\": 1}]");
    HERMES("<tool_call>{\"arguments\":\"{\\\"b\\\": 1}\",\"name\":\"a\"}</tool_call>",
           "[a|{\"b\": 1}]");
    HERMES("<tool_call>{\"name\":\"a\",\"arguments\":null }</tool_call>", "[a|{}]");
}

static void what_only_looks_like_a_call_is_text(void **state) {
    (void)state;
    static const char *const texts[] = {"a <tool_cal",
                                        "<tool_call>",
                                        "<<tool_call",
                                        "<tool_call>\n",
                                        "<tool_call> no",
                                        "x < y <t> \n",
                                        "<tool_call>{\"name\": 5}",
                                        "<tool_call>{\"name\": \"\"}",
                                        "<tool_call>{\"a\": 1}</tool_call>",
                                        "<tool_call>{name: \"a\"}",
                                        "<tool_call>{\"name\" \"a\"}",
                                        "<tool_call>{\"name\": \"a",
                                        "<tool_call>{\"arguments\": {\"a\": 1}}",
                                        "<tool_call>{\"arguments\": 5, \"name\": \"a\"}",
                                        "<tool_call>{\"arguments\": \"x\", \"name\": \"a\"}",
                                        "<tool_call>[{\"name\": \"a\"}]",
                                        " \n ",
                                        ""};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        HERMES(texts[i], texts[i]);
    LLAMA3("{\"name\": \"f", "{\"name\": \"f");
    LLAMA3("{}", "{}");
    LLAMA3(" \n", " \n");
}

static void a_call_that_breaks_off_keeps_what_came(void **state) {
    (void)state;
    HERMES("<tool_call>{\"name\":\"a\",\"arguments\":{\"b\": \"cu", "[a|{\"b\": \"cu]");
    HERMES("<tool_call>{\"name\":\"a\"", "[a]");
    HERMES("<tool_call>{\"name\":\"a\",\"arguments\":{}}\n</tool_c", "[a|{}]");
    HERMES("<tool_call>{\"name\":\"a\" oops}</tool_call>", "[a|{}]oops}</tool_call>");
}

static void a_name_and_its_arguments_come_as_soon_as_they_are_certain(void **state) {
    (void)state;
    struct heard h = {0};
    struct calls *c = calls_new(&(struct calls_opts){CALLS_HERMES, false, NULL, NULL, on_part, &h});
    calls_feed(c, "<tool_call>{\"name\": \"go", 23);
    assert_int_equal(h.pieces, 0);
    calls_feed(c, "\"", 1);
    assert_string_equal(buf_str(&h.b), "[go");
    calls_feed(c, ", \"arguments\": {\"a", 18);
    assert_string_equal(buf_str(&h.b), "[go|{\"a");
    calls_feed(c, "b", 1);
    assert_string_equal(buf_str(&h.b), "[go|{\"ab");
    calls_end(c);
    calls_free(c);
    buf_free(&h.b);
}

static void the_style_is_that_of_the_template(void **state) {
    (void)state;
    assert_int_equal(calls_detect("{{ '<tool_call>' }} {\"parameters\": "), CALLS_HERMES);
    assert_int_equal(calls_detect("'{\"name\": \"' + f.name + '\", ' + '\"parameters\": '"),
                     CALLS_LLAMA3);
    assert_int_equal(calls_detect("<|python_tag|>"), CALLS_LLAMA3);
    assert_int_equal(calls_detect("{{ messages }}"), CALLS_HERMES);
    assert_int_equal(calls_detect(NULL), CALLS_HERMES);
}

static void a_conversation_with_calls_is_spelled_out_for_models_without(void **state) {
    (void)state;
    json_t *tools = json_loads("[{\"type\":\"function\",\"function\":{\"name\":\"go\"}}]", 0, NULL);
    json_t *talk = json_loads(
        "[{\"role\":\"system\",\"content\":\"Be kind.\"},{\"role\":\"user\",\"content\":\"hi\"},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"function\":{"
        "\"name\":"
        "\"go\",\"arguments\":{\"a\":1}}}]},{\"role\":\"tool\",\"content\":\"done\"}]",
        0, NULL);
    calls_spell(talk);
    calls_explain(talk, tools);
    assert_int_equal(json_array_size(talk), 4);
    const char *system = json_string_value(json_object_get(json_array_get(talk, 0), "content"));
    assert_memory_equal(system, "Be kind.\n\n", 10);
    assert_non_null(strstr(system, "\n{\"name\":\"go\"}\n"));
    const json_t *call = json_array_get(talk, 2), *result = json_array_get(talk, 3);
    assert_string_equal(json_string_value(json_object_get(call, "content")),
                        "<tool_call>\n{\"name\": \"go\", \"arguments\": {\"a\":1}}\n</tool_call>");
    assert_null(json_object_get(call, "tool_calls"));
    assert_string_equal(json_string_value(json_object_get(result, "role")), "user");
    assert_string_equal(json_string_value(json_object_get(result, "content")),
                        "<tool_response>\ndone\n</tool_response>");
    json_array_remove(talk, 0);
    calls_explain(talk, tools);
    assert_int_equal(json_array_size(talk), 4); /* there was no system message */
    assert_string_equal(json_string_value(json_object_get(json_array_get(talk, 0), "role")),
                        "system");
    json_decref(tools);
    json_decref(talk);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hermes_calls_stand_between_text),
        cmocka_unit_test(llama3_calls_are_the_whole_answer),
        cmocka_unit_test(arguments_may_be_a_string_or_null),
        cmocka_unit_test(what_only_looks_like_a_call_is_text),
        cmocka_unit_test(a_call_that_breaks_off_keeps_what_came),
        cmocka_unit_test(a_name_and_its_arguments_come_as_soon_as_they_are_certain),
        cmocka_unit_test(the_style_is_that_of_the_template),
        cmocka_unit_test(a_conversation_with_calls_is_spelled_out_for_models_without),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
