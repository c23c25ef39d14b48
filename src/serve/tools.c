/* tools.c - see tools.h. */
#include "serve/tools.h"

#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/mem.h"

enum { MOST_NAME = 64 };

/* -- requests ---------------------------------------------------------------------------------- */

static bool is_name(const json_t *v) {
    const char *s = json_string_value(v);
    size_t n = json_string_length(v);
    return n && n <= MOST_NAME &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n;
}

bool tools_known(void *tools, const char *name) {
    const struct tools *t = tools;
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->name[i], name))
            return true;
    return false;
}

static int read_tool(struct tools *t, const json_t *tool, struct fault *f) {
    const json_t *function = json_object_get(tool, "function");
    const json_t *name = json_object_get(function, "name");
    const json_t *params = json_object_get(function, "parameters");
    const char *type = json_string_value(json_object_get(tool, "type"));
    if (!type || strcmp(type, "function"))
        return fault_set(f, 400, "invalid_value", "tools", "tools[%d].type must be function", t->n);
    if (!is_name(name))
        return fault_set(f, 400, "invalid_value", "tools",
                         "tools[%d].function.name must be 1 to %d letters, digits, _ or -", t->n,
                         MOST_NAME);
    if (params && !json_is_null(params) && !json_is_object(params))
        return fault_set(f, 400, "invalid_type", "tools",
                         "tools[%d].function.parameters must be a JSON schema", t->n);
    if (tools_known(t, json_string_value(name)))
        return fault_set(f, 400, "invalid_value", "tools", "tools: '%s' stands there twice",
                         json_string_value(name));
    t->name[t->n++] = json_string_value(name);
    return 0;
}

static int read_choice(const json_t *v, struct tools *t, struct fault *f) {
    const char *word = json_string_value(v);
    t->choice = t->n ? TOOLS_AUTO : TOOLS_OFF;
    if (!v || (word && !strcmp(word, "auto")))
        return 0;
    if (word && !strcmp(word, "none")) {
        t->choice = TOOLS_OFF;
        return 0;
    }
    const char *type = json_string_value(json_object_get(v, "type"));
    t->only = json_string_value(json_object_get(json_object_get(v, "function"), "name"));
    if (word ? strcmp(word, "required") != 0 : !type || strcmp(type, "function") || !t->only)
        return fault_set(f, 400, "invalid_value", "tool_choice",
                         "tool_choice must be auto, none, required, or {type: function, function: "
                         "{name}}");
    if (!t->n || (t->only && !tools_known(t, t->only)))
        return fault_set(f, 400, "invalid_value", "tool_choice",
                         "tool_choice asks for a call of '%.64s', which tools do not have",
                         t->only ? t->only : "any function");
    t->choice = TOOLS_FORCED;
    return 0;
}

int tools_read(const struct params *p, enum calls_style style, struct tools *out, struct fault *f) {
    size_t n = json_array_size(p->tools), i;
    json_t *tool;
    *out = (struct tools){.style = style, .list = p->tools, .one = !p->parallel_calls};
    if (n > MOST_TOOLS)
        return fault_set(f, 400, "out_of_range", "tools", "tools has %zu, at most %d go", n,
                         MOST_TOOLS);
    json_array_foreach((json_t *)p->tools, i, tool) {
        if (read_tool(out, tool, f))
            return -1;
    }
    return read_choice(p->tool_choice, out, f);
}

/* -- the schema of a call ---------------------------------------------------------------------- */

/* References of a schema that now stands at `at` of a larger one.  Depth is bounded by the parser
 * of the body. */
static void rebase(json_t *schema, const char *at) {
    const char *key, *ref;
    json_t *v;
    size_t i;
    json_array_foreach(schema, i, v) rebase(v, at);
    if (!json_is_object(schema))
        return;
    ref = json_string_value(json_object_get(schema, "$ref"));
    if (ref && ref[0] == '#')
        json_object_set_new(schema, "$ref", json_sprintf("#%s%s", at, ref + 1));
    json_object_foreach(schema, key, v) {
        bool value = json_is_array(v) ? !strcmp(key, "enum") : !strcmp(key, "const");
        if (!value)
            rebase(v, at);
    }
}

/* A function without parameters takes none. */
static json_t *arguments_schema(const json_t *function, const char *at) {
    const json_t *given = json_object_get(function, "parameters");
    json_t *schema = json_object_size(given) ? json_deep_copy(given)
                                             : json_pack("{s:s,s:{},s:b}", "type", "object",
                                                         "properties", "additionalProperties", 0);
    rebase(schema, at);
    if (!json_object_get(schema, "type") && json_object_get(schema, "properties"))
        json_object_set_new(schema, "type", json_string("object"));
    return schema;
}

json_t *tools_schema(const struct tools *t) {
    const char *key = t->style == CALLS_LLAMA3 ? "parameters" : "arguments";
    json_t *any = json_array(), *tool;
    size_t i;
    json_array_foreach((json_t *)t->list, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        char at[64];
        if (t->only && strcmp(t->only, t->name[i]))
            continue;
        snprintf(at, sizeof at, "/anyOf/%zu/properties/%s", json_array_size(any), key);
        json_array_append_new(any, json_pack("{s:s,s:{s:{s:O},s:o},s:[s,s],s:b}", "type", "object",
                                             "properties", "name", "const",
                                             json_object_get(function, "name"), key,
                                             arguments_schema(function, at), "required", "name",
                                             key, "additionalProperties", 0));
    }
    return json_pack("{s:o}", "anyOf", any);
}

const char *tools_opening(const struct tools *t) {
    return t->choice == TOOLS_FORCED && t->style == CALLS_HERMES ? "<tool_call>\n" : "";
}

/* -- answers ----------------------------------------------------------------------------------- */

static void on_part(void *ud, enum calls_part part, const char *text, size_t n) {
    struct made *m = ud;
    m->n += part == CALLS_NAME;
    if (part != CALLS_TEXT && m->tools->one && m->n > 1)
        return;
    m->part(m->ud, part, text, n);
}

void made_begin(struct made *m, const struct tools *t, calls_fn *part, void *ud) {
    *m = (struct made){.tools = t, .part = part, .ud = ud};
    if (getrandom(&m->id, sizeof m->id, GRND_NONBLOCK) != sizeof m->id)
        m->id = (uint64_t)clock_ns();
    m->calls = calls_new(&(struct calls_opts){.style = t->style,
                                              .inside = *tools_opening(t),
                                              .known = tools_known,
                                              .part = on_part,
                                              .known_ud = (void *)t,
                                              .ud = m});
}

void made_free(struct made *m) {
    calls_free(m->calls);
    m->calls = NULL;
}

void made_head(const struct made *m, const char *name, size_t n, struct buf *out) {
    buf_printf(out, "\"id\":\"call_%016llx\",\"type\":\"function\",\"function\":{\"name\":",
               (unsigned long long)m->id + (unsigned)m->n);
    json_quote(out, name, n);
    buf_adds(out, ",\"arguments\":");
}

struct split {
    struct made made;
    struct buf *content, *list, args;
    bool objects, open;
};

static void end_call(struct split *s) {
    if (!s->open)
        return;
    json_t *valid = s->objects ? json_loadb(s->args.data, s->args.len, 0, NULL) : NULL;
    if (valid)
        buf_add(s->list, s->args.data, s->args.len);
    else
        json_quote(s->list, buf_str(&s->args), s->args.len);
    buf_adds(s->list, "}}");
    json_decref(valid);
    s->args.len = 0;
    s->open = false;
}

static void on_split(void *ud, enum calls_part part, const char *text, size_t n) {
    struct split *s = ud;
    if (part == CALLS_ARGS) {
        buf_add(&s->args, text, n);
        return;
    }
    end_call(s);
    if (part == CALLS_TEXT) {
        buf_add(s->content, text, n);
        return;
    }
    buf_adds(s->list, s->list->len ? ",{" : "[{");
    made_head(&s->made, text, n, s->list);
    s->open = true;
}

int tools_split(const struct tools *t, const struct buf *answer, bool objects, struct buf *content,
                struct buf *list) {
    struct split s = {.content = content, .list = list, .objects = objects};
    made_begin(&s.made, t, on_split, &s);
    calls_feed(s.made.calls, answer->data, answer->len);
    calls_end(s.made.calls);
    end_call(&s);
    if (list->len)
        buf_adds(list, "]");
    int n = s.made.n;
    made_free(&s.made);
    buf_free(&s.args);
    return n;
}
