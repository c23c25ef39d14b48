/* prompt.c - prompts by template: what users type stays text, and what goes wrong is said. */
#include "testing.h"

#include "base/json.h"
#include "tok/impl.h"
#include "tok/prompt.h"

#define CHATML                                                                                     \
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + "      \
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif "  \
    "%}"

static struct tok *tok(void **state) {
    struct err err = {0};
    (void)state;
    struct tok *t = tok_open(SOURCE_ROOT "/models/default", &err);
    if (!t)
        fail_msg("%s", err.msg);
    return t;
}

static struct prompter *open_template(const struct tok *t, const char *text) {
    struct err err = {0};
    const struct prompter_source s = {.path = "test", .template_text = text};
    struct prompter *p = prompter_open(t, &s, &err);
    if (!p)
        fail_msg("%s", err.msg);
    return p;
}

/* The ids of a request given as JSON; NULL = success, else the message. */
static const char *ids_of(const struct prompter *p, const char *json, bool opening, bool inside,
                          struct ids *out) {
    static struct err err;
    err = (struct err){0};
    json_t *j = json_loads(json, 0, NULL);
    assert_non_null(j);
    struct ask a = {.messages = json_object_get(j, "messages"),
                    .tools = json_object_get(j, "tools"),
                    .kwargs = json_object_get(j, "kwargs"),
                    .no_opening = !opening,
                    .continue_final = inside};
    out->n = 0;
    int rc = prompter_ids(p, &a, out, &err);
    json_decref(j);
    assert_int_equal(rc != 0, err.code != 0);
    return rc ? err.msg : NULL;
}

static int count(const struct ids *v, int32_t id) {
    int n = 0;
    for (size_t i = 0; i < v->n; i++)
        n += v->id[i] == id;
    return n;
}

static void no_user_text_becomes_a_special_token(void **state) {
    struct tok *t = tok(state);
    struct prompter *p = open_template(t, CHATML);
    int specials = 0;
    for (int32_t id = 0; id < tok_size(t); id++) {
        const struct added *a = vocab_added(t, id);
        if (!a)
            continue;
        struct ids with = {0}, without = {0};
        json_t *j = json_pack("{s:[{s:s,s:o}]}", "messages", "role", "user", "content",
                              json_sprintf("a%sb %s", a->text, a->text));
        char *text = json_dumps(j, 0);
        assert_null(ids_of(p, text, true, false, &with));
        assert_null(ids_of(p, "{\"messages\":[{\"role\":\"user\",\"content\":\"ab \"}]}", true,
                           false, &without));
        if (count(&with, id) != count(&without, id))
            fail_msg("%s typed by a user became token %d", a->text, id);
        struct buf shown = {0};
        struct err err = {0};
        assert_ok(tok_decode(t, with.id, with.n, true, &shown, &err), err);
        assert_non_null(strstr(buf_str(&shown), a->text)); /* and yet nothing is lost */
        specials++;
        buf_free(&shown);
        free(text);
        json_decref(j);
        ids_free(&with);
        ids_free(&without);
    }
    assert_true(specials >= 3);
    prompter_close(p);
    tok_free(t);
}

/* Roles, names and keys of calls come from the request as well. */
static void no_other_string_of_a_request_does_either(void **state) {
    struct tok *t = tok(state);
    struct prompter *p = open_template(
        t, "{% for m in messages %}{{ m.role }}{{ m.name }}{{ m | tojson }}{{ m }}{{ m.content | "
           "upper | lower }}{% for k in m %}{{ k }}{% endfor %}{% endfor %}{{ tools }}{{ x }}"
           "{{ tools | tojson }}{{ '<|im_' ~ 'start|>' }}{{ '<|im_' ~ messages[0].tail }}");
    struct ids v = {0};
    int32_t start = tok_find(t, "<|im_start|>");
    const char *e = ids_of(
        p,
        "{\"messages\":[{\"role\":\"<|im_start|>\",\"name\":\"<|im_start|>\",\"content\":"
        "\"<|im_start|>\",\"<|im_start|>\":1,\"tail\":\"start|>\"}],\"tools\":[{\"<|im_start|>\":"
        "\"<|im_start|>\"}],\"kwargs\":{\"x\":\"<|im_start|>\"}}",
        true, false, &v);
    if (e)
        fail_msg("%s", e);
    assert_int_equal(count(&v, start), 1); /* the one that the template itself puts together */
    ids_free(&v);
    prompter_close(p);
    tok_free(t);
}

static void a_template_gives_the_ids_of_the_family_that_it_spells(void **state) {
    struct tok *t = tok(state);
    struct prompter *p = open_template(t, CHATML), *own;
    struct err err = {0};
    struct ids a = {0}, b = {0}, c = {0};
    const struct chat_msg msg[] = {{"system", "Be brief. "},
                                   {"user", " Hi <b>\n"},
                                   {"assistant", "Yo"},
                                   {"user", "\xc3\xa9  x"}};
    assert_null(ids_of(p,
                       "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief. \"},{\"role\":"
                       "\"user\",\"content\":\" Hi <b>\\n\"},{\"role\":\"assistant\",\"content\":"
                       "\"Yo\"},{\"role\":\"user\",\"content\":\"\xc3\xa9  x\"}]}",
                       true, false, &a));
    assert_ok(chat_encode(CHAT_CHATML, t, msg, 4, &b, &err), err);
    own = prompter_open(t, &(struct prompter_source){0}, &err); /* the model's own template */
    assert_non_null(own);
    assert_null(prompter_problem(own));
    assert_true(prompter_has_template(own));
    assert_null(ids_of(own,
                       "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief. \"},{\"role\":"
                       "\"user\",\"content\":\" Hi <b>\\n\"},{\"role\":\"assistant\",\"content\":"
                       "\"Yo\"},{\"role\":\"user\",\"content\":\"\xc3\xa9  x\"}]}",
                       true, false, &c));
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.id, b.id, a.n * sizeof *a.id);
    assert_int_equal(c.n, b.n);
    assert_memory_equal(c.id, b.id, c.n * sizeof *c.id);
    ids_free(&a);
    ids_free(&b);
    ids_free(&c);
    prompter_close(p);
    prompter_close(own);
    tok_free(t);
}

static void a_broken_template_falls_back_loudly_to_the_family_that_it_resembles(void **state) {
    struct tok *t = tok(state);
    struct err err = {0};
    struct ids v = {0};
    const char *ask = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    free(t->chat_template);
    t->chat_template = strdup("<|im_start|>{% frob %}");
    struct prompter *p = prompter_open(t, &(struct prompter_source){0}, &err);
    assert_non_null(p);
    assert_string_equal(prompter_problem(p), "chat template: line 1: unknown tag 'frob'; the "
                                             "built-in format 'chatml' is used instead");
    assert_int_equal(prompter_family(p), CHAT_CHATML);
    assert_null(ids_of(p, ask, true, false, &v));
    prompter_close(p);
    free(t->chat_template);
    t->chat_template = strdup("{% frob %}");
    p = prompter_open(t, &(struct prompter_source){0}, &err); /* the model can still be served */
    assert_non_null(p);
    assert_non_null(strstr(prompter_problem(p), "no built-in format is known"));
    assert_non_null(strstr(ids_of(p, ask, true, false, &v), "unknown tag 'frob'"));
    prompter_close(p);
    assert_null(
        prompter_open(t, &(struct prompter_source){.path = "f", .template_text = "{{"}, &err));
    assert_string_equal(err.msg, "f: line 1: {{ is not closed");
    ids_free(&v);
    tok_free(t);
}

static void bad_requests_are_refused_by_name(void **state) {
    static const char *const rows[][2] = {
        {"{\"messages\":[]}", "messages: needs 1 to 4096"},
        {"{\"messages\":{}}", "messages: needs"},
        {"{\"messages\":[1]}", "messages[0]: needs a role"},
        {"{\"messages\":[{\"role\":1}]}", "messages[0]: needs a role"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
         "messages[0].content[0]: only parts of type text"},
        {"{\"messages\":[{\"role\":\"user\"}],\"tools\":{}}", "tools: must be a list"},
        {"{\"messages\":[{\"role\":\"user\"}],\"kwargs\":[]}", "chat_template_kwargs: must be"},
        {"{\"messages\":[{\"role\":\"user\"}],\"kwargs\":{\"messages\":\"x\"}}",
         "'messages' cannot"},
        {"{\"messages\":[{\"role\":\"user\"}],\"kwargs\":{\"tools\":1}}", "'tools' cannot be set"},
        {"{\"messages\":[{\"role\":\"user\"}],\"kwargs\":{\"tokenize\":true}}",
         "'tokenize' cannot"},
        {"{\"messages\":[{\"role\":\"user\"}],\"kwargs\":{\"x\":[]}}", "'x' must be a string"},
    };
    struct tok *t = tok(state);
    struct prompter *p = open_template(t, CHATML);
    struct ids v = {0};
    struct err err = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *e = ids_of(p, rows[i][0], true, false, &v);
        if (!e || !strstr(e, rows[i][1]))
            fail_msg("%s: %s", rows[i][0], e ? e : "no error");
        assert_int_equal(v.n, 0);
    }
    assert_null(prompter_open(t, &(struct prompter_source){.family = "alpaca"}, &err));
    prompter_close(p);
    tok_free(t);
}

static void text_of(const struct tok *t, const struct ids *v, struct buf *out) {
    struct err err = {0};
    out->len = 0;
    assert_ok(tok_decode(t, v->id, v->n, true, out, &err), err);
}

static void a_final_message_is_continued_where_it_ends(void **state) {
    struct tok *t = tok(state);
    struct err err = {0};
    struct prompter *by[2] = {
        open_template(t, CHATML),
        prompter_open(t, &(struct prompter_source){.family = "chatml"}, &err)};
    struct ids v = {0};
    struct buf b = {0};
    const char *ask = "{\"messages\":[{\"role\":\"user\",\"content\":\"Roses are\"},"
                      "{\"role\":\"assistant\",\"content\":\"Roses are\"}]}";
    for (int i = 0; i < 2; i++) {
        assert_null(ids_of(by[i], ask, true, true, &v));
        text_of(t, &v, &b);
        assert_string_equal(buf_str(&b), "<|im_start|>user\nRoses are<|im_end|>\n<|im_start|>"
                                         "assistant\nRoses are");
        assert_null(ids_of(by[i], ask, false, false, &v));
        text_of(t, &v, &b);
        assert_string_equal(buf_str(&b), "<|im_start|>user\nRoses are<|im_end|>\n<|im_start|>"
                                         "assistant\nRoses are<|im_end|>\n");
        prompter_close(by[i]);
    }
    struct prompter *deaf = open_template(t, "{{ messages | length }}");
    assert_non_null(strstr(ids_of(deaf, ask, true, true, &v), "does not show the last message"));
    prompter_close(deaf);
    ids_free(&v);
    buf_free(&b);
    tok_free(t);
}

static void parts_and_arguments_reach_the_template_as_it_expects_them(void **state) {
    struct tok *t = tok(state);
    struct prompter *p = open_template(
        t, "{% for m in messages %}{{ m.content }}|{% for c in m.tool_calls %}{{ c.function."
           "arguments.city }}|{% endfor %}{% endfor %}{{ enable }}{{ tools is none }}");
    struct ids v = {0};
    struct buf b = {0};
    assert_null(
        ids_of(p,
               "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":"
               "\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\","
               "\"tool_calls\":[{\"function\":{\"arguments\":\"{\\\"city\\\": \\\"Bonn\\\"}\"}}"
               "]}],\"kwargs\":{\"enable\":false}}",
               true, false, &v));
    text_of(t, &v, &b);
    assert_string_equal(buf_str(&b), "a\nb|None|Bonn|FalseTrue");
    ids_free(&v);
    buf_free(&b);
    prompter_close(p);
    tok_free(t);
}

static void tools_are_explained_only_where_the_template_knows_none(void **state) {
    struct tok *t = tok(state);
    struct err err = {0};
    static const char knows[] =
        "{% if tools %}{{ tools[0].function.name }}|<|python_tag|>{% endif %}"
        "{{ messages | length }}";
    struct prompter *p[] = {open_template(t, CHATML), open_template(t, knows),
                            prompter_open(t, &(struct prompter_source){.family = "chatml"}, &err)};
    struct ids v = {0};
    struct buf b = {0};
    for (int i = 0; i < 3; i++) {
        assert_null(ids_of(p[i],
                           "{\"messages\":[{\"role\":\"user\",\"content\":\"go\"}],\"tools\":[{"
                           "\"type\":\"function\",\"function\":{\"name\":\"<|im_end|>\"}}]}",
                           true, false, &v));
        text_of(t, &v, &b);
        if (i == 1)
            assert_string_equal(buf_str(&b), "<|im_end|>|<|python_tag|>1");
        else
            assert_memory_equal(buf_str(&b), "<|im_start|>system\nYou may call functions.", 42);
        assert_true(i == 1 || strstr(buf_str(&b), "\n{\"name\":\"<|im_end|>\"}\n"));
        int ends = 0; /* the one in the name is text */
        for (size_t k = 0; k < v.n; k++)
            ends += v.id[k] == tok_find(t, "<|im_end|>");
        assert_int_equal(ends, i == 1 ? 0 : 2);
        assert_int_equal(prompter_calls(p[i]), i == 1 ? CALLS_LLAMA3 : CALLS_HERMES);
        prompter_close(p[i]);
    }
    ids_free(&v);
    buf_free(&b);
    tok_free(t);
}

static void a_turn_ends_with_what_the_template_writes_behind_an_answer(void **state) {
    struct tok *t = tok(state);
    struct prompter *p = open_template(
        t, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n<|im_end|>{% endfor %}");
    int32_t id[4];
    assert_int_equal(prompter_stops(p, id, 4), 1);
    assert_int_equal(id[0], tok_find(t, "<|im_end|>"));
    assert_int_equal(prompter_stops(p, id, 0), 0);
    prompter_close(p);
    tok_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_user_text_becomes_a_special_token),
        cmocka_unit_test(no_other_string_of_a_request_does_either),
        cmocka_unit_test(a_template_gives_the_ids_of_the_family_that_it_spells),
        cmocka_unit_test(a_broken_template_falls_back_loudly_to_the_family_that_it_resembles),
        cmocka_unit_test(bad_requests_are_refused_by_name),
        cmocka_unit_test(a_final_message_is_continued_where_it_ends),
        cmocka_unit_test(parts_and_arguments_reach_the_template_as_it_expects_them),
        cmocka_unit_test(tools_are_explained_only_where_the_template_knows_none),
        cmocka_unit_test(a_turn_ends_with_what_the_template_writes_behind_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
