/* calls.c - see calls.h.  A byte at a time; memory grows only by what is held back: a name, and the
 * arguments that come before it.
 *
 * Invariants: (1) bytes are held while they could be text as well as a call, and go out as one or
 * the other exactly once; (2) after a name was told nothing of its call becomes text.
 * Tested in test/unit/calls.c and test/fuzz/calls.c. */
#include "tok/calls.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

static const char OPEN[] = "<tool_call>", CLOSE[] = "</tool_call>";
enum { MAX_NAME = 256, MAX_KEY = 64 };

enum place {
    IN_TEXT,
    IN_GAP,   /* before the object of a call */
    IN_CALL,  /* in it */
    IN_CLOSE, /* behind it, where </tool_call> may come */
    IN_REST   /* Llama 3: the answer is text */
};
enum where {        /* in the object of a call, outside of its values */
             W_KEY, /* a key or the end may come */
             W_IN_KEY,
             W_COLON,
             W_VALUE,
             W_IN_VALUE,
             W_COMMA /* a comma or the end may come */
};
enum value { V_OTHER, V_NAME, V_ARGS };

struct calls {
    struct calls_opts o;
    enum place place;
    int tag;         /* bytes of OPEN or CLOSE that matched */
    struct buf held; /* text, unless it turns out to be a call */
    struct buf out;  /* of one part, not yet handed over */
    enum calls_part out_part;
    int n_call; /* calls whose name was told */

    /* Of the object in hand. */
    enum where where;
    enum value value;
    struct buf key, name, args; /* with their quotes; args: what was not told yet */
    int depth;                  /* of what is open inside the value */
    bool in_string, escaped;    /* of the key or the value */
    bool streams;               /* the value is an object: it goes out as it comes */
    bool told, has_args, args_told;
};

enum calls_style calls_detect(const char *jinja_template) {
    bool hermes = jinja_template && strstr(jinja_template, OPEN);
    bool llama = jinja_template && (strstr(jinja_template, "<|python_tag|>") ||
                                    strstr(jinja_template, "\"parameters\": "));
    return llama && !hermes ? CALLS_LLAMA3 : CALLS_HERMES;
}

struct calls *calls_new(const struct calls_opts *o) {
    struct calls *c = mem_new(sizeof *c);
    c->o = *o;
    c->place = o->inside || o->style == CALLS_LLAMA3 ? IN_GAP : IN_TEXT;
    return c;
}

void calls_free(struct calls *c) {
    if (!c)
        return;
    buf_free(&c->held);
    buf_free(&c->out);
    buf_free(&c->key);
    buf_free(&c->name);
    buf_free(&c->args);
    free(c);
}

static bool is_space(char b) {
    return b == ' ' || b == '\n' || b == '\t' || b == '\r';
}

/* -- what goes out ----------------------------------------------------------------------------- */

static void flush(struct calls *c) {
    if (c->out.len)
        c->o.part(c->o.ud, c->out_part, c->out.data, c->out.len);
    c->out.len = 0;
}

static void give(struct calls *c, enum calls_part part, const char *text, size_t n) {
    if (part != c->out_part)
        flush(c);
    c->out_part = part;
    buf_add(&c->out, text, n);
    if (part == CALLS_NAME)
        flush(c);
}

static void release(struct calls *c) {
    give(c, CALLS_TEXT, c->held.data, c->held.len);
    c->held.len = 0;
}

/* The text of a JSON string with its quotes; NULL if it is none. */
static json_t *unquote(const struct buf *b) {
    json_t *s = json_loadb(b->data, b->len, JSON_DECODE_ANY, NULL);
    if (json_is_string(s))
        return s;
    json_decref(s);
    return NULL;
}

/* Arguments that are not told yet, if their call is known. */
static void give_args(struct calls *c) {
    if (!c->told || !c->args.len)
        return;
    give(c, CALLS_ARGS, c->args.data, c->args.len);
    c->args.len = 0;
    c->args_told = true;
}

/* -- the object of a call ---------------------------------------------------------------------- */

static void begin_object(struct calls *c) {
    c->place = IN_CALL;
    c->where = W_KEY;
    c->key.len = c->name.len = c->args.len = 0;
    c->depth = 0;
    c->in_string = c->escaped = c->streams = c->told = c->has_args = c->args_told = false;
}

/* The name's string is complete; false: it is none. */
static bool take_name(struct calls *c) {
    json_t *name = unquote(&c->name);
    bool known = name && json_string_length(name) &&
                 (c->o.style == CALLS_HERMES || !c->o.known ||
                  c->o.known(c->o.known_ud, json_string_value(name)));
    if (known) {
        c->held.len = 0;
        c->told = true;
        c->n_call++;
        give(c, CALLS_NAME, json_string_value(name), json_string_length(name));
    }
    json_decref(name);
    return known;
}

/* The arguments are complete.  Some models write the object as a string, or null for none; anything
 * else than an object is none: false. */
static bool take_args(struct calls *c) {
    json_t *text = NULL, *object = NULL;
    bool none = c->args.len == 4 && !memcmp(c->args.data, "null", 4), ok = c->streams || none;
    c->has_args = true;
    if (!ok && (text = unquote(&c->args)))
        object = json_loadb(json_string_value(text), json_string_length(text), 0, NULL);
    if (none || json_is_object(object)) {
        c->args.len = 0;
        buf_add(&c->args, text ? json_string_value(text) : "{}",
                text ? json_string_length(text) : 2);
        ok = true;
    }
    json_decref(object);
    json_decref(text);
    return ok;
}

static bool end_value(struct calls *c) {
    c->where = W_COMMA;
    if ((c->value == V_ARGS && !take_args(c)) || (c->value == V_NAME && !take_name(c)))
        return false;
    if (c->has_args)
        give_args(c);
    return true;
}

/* What a byte did to the object: it goes on, it is complete, or it is none. */
enum step { GOES_ON, COMPLETE, NO_CALL, AGAIN /* the value ended in front of the byte */ };

static bool inside_string(struct calls *c, char b) {
    c->in_string = b != '"' || c->escaped;
    c->escaped = b == '\\' && !c->escaped;
    return c->in_string;
}

/* A byte of a value; its quotes and brackets say where it ends. */
static enum step value_byte(struct calls *c, char b) {
    bool ends = false;
    if (c->in_string) {
        ends = !inside_string(c, b) && c->depth == 0;
    } else if (c->depth == 0 && (b == ',' || b == '}' || b == ']' || is_space(b))) {
        return end_value(c) ? AGAIN : NO_CALL;
    } else if (b == '"') {
        c->in_string = true;
    } else if (b == '{' || b == '[') {
        c->depth++;
    } else if (b == '}' || b == ']') {
        ends = --c->depth == 0;
    }
    if (c->value != V_OTHER)
        buf_addc(c->value == V_NAME ? &c->name : &c->args, b);
    if (c->value == V_NAME && c->name.len > MAX_NAME)
        return NO_CALL;
    if (c->value == V_ARGS && c->streams)
        give_args(c);
    return !ends || end_value(c) ? GOES_ON : NO_CALL;
}

static void end_key(struct calls *c) {
    static const struct {
        const char *key;
        enum value value;
    } keys[] = {{"name\"", V_NAME}, {"arguments\"", V_ARGS}, {"parameters\"", V_ARGS}};
    c->value = V_OTHER;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (c->key.len == strlen(keys[i].key) && !memcmp(c->key.data, keys[i].key, c->key.len))
            c->value = keys[i].value;
    if ((c->value == V_NAME && c->told) || (c->value == V_ARGS && c->has_args))
        c->value = V_OTHER; /* the first counts */
    c->where = W_COLON;
}

static void key_byte(struct calls *c, char b) {
    if (c->key.len < MAX_KEY)
        buf_addc(&c->key, b);
    if (!inside_string(c, b))
        end_key(c);
}

/* Names are strings; arguments are objects, or a string or null that stands for one. */
static enum step begin_value(struct calls *c, char b) {
    if (strchr(",:}]", b) || (c->value == V_NAME && b != '"') ||
        (c->value == V_ARGS && !strchr("{\"n", b)))
        return NO_CALL;
    c->where = W_IN_VALUE;
    c->streams = b == '{';
    return value_byte(c, b);
}

/* A byte between keys and values. */
static enum step mark_byte(struct calls *c, char b) {
    if (c->where == W_VALUE)
        return begin_value(c, b);
    if (c->where == W_KEY && b == '"') {
        c->where = W_IN_KEY;
        c->in_string = true;
        c->key.len = 0;
    } else if (c->where == W_COLON && b == ':') {
        c->where = W_VALUE;
    } else if (c->where == W_COMMA && b == ',') {
        c->where = W_KEY;
    } else {
        return b == '}' && c->where != W_COLON ? COMPLETE : NO_CALL;
    }
    return GOES_ON;
}

static enum step object_byte(struct calls *c, char b) {
    enum step s = AGAIN;
    if (c->where == W_IN_KEY) {
        key_byte(c, b);
        return GOES_ON;
    }
    if (c->where == W_IN_VALUE)
        s = value_byte(c, b);
    if (s != AGAIN)
        return s;
    return is_space(b) ? GOES_ON : mark_byte(c, b);
}

/* -- the answer -------------------------------------------------------------------------------- */

static void text_byte(struct calls *c, char b) {
    if (c->place == IN_REST) {
        give(c, CALLS_TEXT, &b, 1);
    } else if (b == OPEN[c->tag]) {
        buf_addc(&c->held, b);
        if (OPEN[++c->tag] == 0) {
            c->place = IN_GAP;
            c->tag = 0;
        }
    } else if (c->tag) { /* '<' stands at the beginning of the mark only */
        c->tag = 0;
        release(c);
        text_byte(c, b);
    } else {
        buf_addc(&c->held, b);
        if (!is_space(b)) /* space goes with what follows: it is not shown in front of a call */
            release(c);
    }
}

/* What was held is text after all. */
static void no_call(struct calls *c) {
    c->place = c->o.style == CALLS_HERMES ? IN_TEXT : IN_REST;
    c->tag = 0;
    release(c);
}

static void gap_byte(struct calls *c, char b) {
    bool between = c->o.style == CALLS_LLAMA3 && c->n_call && b == ';';
    if (is_space(b) || between || b == '{') {
        buf_addc(&c->held, b);
        if (b == '{')
            begin_object(c);
        return;
    }
    no_call(c);
    text_byte(c, b);
}

static void finish_args(struct calls *c) {
    if (c->told && !c->args_told)
        give(c, CALLS_ARGS, "{}", 2);
}

static void call_byte(struct calls *c, char b) {
    bool told = c->told;
    if (!told)
        buf_addc(&c->held, b);
    enum step s = object_byte(c, b);
    if (s == GOES_ON)
        return;
    if (s == COMPLETE && c->told) {
        finish_args(c);
        c->place = c->o.style == CALLS_HERMES ? IN_CLOSE : IN_GAP;
        return;
    }
    finish_args(c);
    no_call(c);
    if (told)
        text_byte(c, b);
}

static void close_byte(struct calls *c, char b) {
    bool matches = b == CLOSE[c->tag];
    if (matches || (is_space(b) && !c->tag)) {
        buf_addc(&c->held, b);
        if (matches && CLOSE[++c->tag] == 0) {
            c->held.len = 0;
            c->tag = 0;
            c->place = IN_TEXT;
        }
        return;
    }
    struct buf was = c->held;
    c->held = (struct buf){0};
    c->tag = 0;
    c->place = IN_TEXT;
    for (size_t i = 0; i < was.len; i++)
        text_byte(c, was.data[i]);
    buf_free(&was);
    text_byte(c, b);
}

void calls_feed(struct calls *c, const char *text, size_t n) {
    static void (*const byte[])(struct calls *, char) = {/* ORDER enum place */
                                                         text_byte, gap_byte, call_byte, close_byte,
                                                         text_byte};
    for (size_t i = 0; i < n; i++)
        byte[c->place](c, text[i]);
    flush(c);
}

void calls_end(struct calls *c) {
    bool blank = c->place == IN_CLOSE && c->n_call;
    size_t i = 0;
    while (i < c->held.len &&
           (is_space(c->held.data[i]) || (c->held.data[i] == ';' && c->o.style == CALLS_LLAMA3)))
        i++;
    if (!blank && !(c->n_call && i == c->held.len))
        release(c);
    flush(c);
}

/* -- a model that knows no functions ----------------------------------------------------------- */

static void add_json(struct buf *b, const json_t *j) {
    char *text = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
    buf_adds(b, text ? text : "null");
    free(text);
}

static json_t *taken(struct buf *b) {
    json_t *s = json_stringn(buf_str(b), b->len);
    buf_free(b);
    return s;
}

static void add_text(struct buf *b, const json_t *message) {
    const json_t *text = json_object_get(message, "content");
    buf_add(b, json_string_value(text), json_string_length(text));
}

/* Behind what `system` says already; it may be NULL. */
static json_t *explanation(const json_t *tools, const json_t *system) {
    struct buf b = {0};
    size_t i;
    json_t *t;
    add_text(&b, system);
    buf_adds(&b, b.len ? "\n\n" : "");
    buf_adds(&b, "You may call functions. These exist, one a line:\n");
    json_array_foreach((json_t *)tools, i, t) {
        const json_t *f = json_object_get(t, "function");
        add_json(&b, f ? f : t);
        buf_adds(&b, "\n");
    }
    buf_adds(&b, "To call one, write only this, with its name and an object of arguments:\n"
                 "<tool_call>\n{\"name\": \"...\", \"arguments\": {...}}\n</tool_call>\n"
                 "What it returned then comes in <tool_response>. Without need of a function, "
                 "answer as usual.");
    return taken(&b);
}

/* An assistant's calls behind its text. */
static void spell_calls(json_t *m) {
    const json_t *list = json_object_get(m, "tool_calls");
    struct buf b = {0};
    size_t i;
    json_t *call;
    if (!json_array_size(list))
        return;
    add_text(&b, m);
    json_array_foreach((json_t *)list, i, call) {
        const json_t *f = json_object_get(call, "function"), *args;
        args = json_object_get(f, "arguments");
        buf_printf(&b, "%s%s\n{\"name\": ", b.len ? "\n" : "", OPEN);
        add_json(&b, json_object_get(f, "name"));
        buf_adds(&b, ", \"arguments\": ");
        add_json(&b, args);
        buf_printf(&b, "}\n%s", CLOSE);
    }
    json_object_set_new(m, "content", taken(&b));
    json_object_del(m, "tool_calls");
}

static void spell_result(json_t *m) {
    struct buf b = {0};
    buf_adds(&b, "<tool_response>\n");
    add_text(&b, m);
    buf_adds(&b, "\n</tool_response>");
    json_object_set_new(m, "content", taken(&b));
    json_object_set_new(m, "role", json_string("user"));
}

static bool has_role(const json_t *m, const char *role) {
    const char *r = json_string_value(json_object_get(m, "role"));
    return r && !strcmp(r, role);
}

void calls_spell(json_t *messages) {
    size_t i;
    json_t *m;
    json_array_foreach(messages, i, m) {
        if (has_role(m, "assistant"))
            spell_calls(m);
        if (has_role(m, "tool"))
            spell_result(m);
    }
}

void calls_explain(json_t *messages, const json_t *tools) {
    json_t *first = json_array_get(messages, 0);
    bool system = has_role(first, "system") || has_role(first, "developer");
    json_t *text = explanation(tools, system ? first : NULL);
    if (system)
        json_object_set_new(first, "content", text);
    else
        json_array_insert_new(messages, 0,
                              json_pack("{s:s,s:o}", "role", "system", "content", text));
}
