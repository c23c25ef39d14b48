/* prompt.c - see prompt.h.  Special tokens are found where all their bytes were written by the
 * template; text of the conversation and the template's plain text around it are encoded as one
 * stretch, as the reference does with the whole prompt. */
#include "tok/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/jinja.h"

enum { MAX_MESSAGES = 4096, MAX_STOPS = 4 };

struct prompter {
    const struct tok *tok;
    enum chat_format family;
    struct jinja *template;
    char *problem;                 /* of the model's own template */
    bool knows_tools, knows_calls; /* the template shows them */
    enum calls_style calls;
    int32_t stop[MAX_STOPS];
    int n_stop;
};

static int render(const struct prompter *p, const struct ask *a, struct jinja_text *out,
                  struct err *err);

/* ---- opening ---- */

/* The model ends a turn with what the template writes behind an answer. */
static void find_stop(struct prompter *p) {
    struct jinja_text t = {0};
    struct ids ids = {0};
    struct err err = {0};
    json_t *talk = json_pack("[{s:s,s:s},{s:s,s:s}]", "role", "user", "content", "a", "role",
                             "assistant", "content", "b");
    size_t at;
    if (render(p, &(struct ask){.messages = talk, .no_opening = true}, &t, &err) || !t.text.len)
        goto out;
    const char *last = memrchr(t.mark.data, 1, t.mark.len);
    at = last ? (size_t)(last - t.mark.data) + 1 : t.text.len;
    while (at < t.text.len && strchr(" \n", t.text.data[at]))
        at++;
    if (at < t.text.len &&
        !tok_encode_marked(p->tok, t.text.data + at, t.mark.data + at, t.text.len - at, &ids,
                           &err) &&
        ids.n && tok_is_special(p->tok, ids.id[0]))
        p->stop[p->n_stop++] = ids.id[0];
out:
    json_decref(talk);
    ids_free(&ids);
    jinja_text_free(&t);
}

static void add_family_stops(struct prompter *p, enum chat_format f) {
    int32_t id[MAX_STOPS];
    int n = chat_stops(f, p->tok, id, MAX_STOPS);
    for (int i = 0; i < n && p->n_stop < MAX_STOPS; i++)
        if (!p->n_stop || p->stop[0] != id[i])
            p->stop[p->n_stop++] = id[i];
}

/* The model's own template cannot be used. */
static void fall_back(struct prompter *p, enum chat_format f, const char *why) {
    struct buf b = {0};
    p->family = f;
    if (f)
        buf_printf(&b, "%s; the built-in format '%s' is used instead", why, chat_name(f));
    else
        buf_printf(&b, "%s; no built-in format is known for it: choose one with --chat-template",
                   why);
    p->problem = mem_strdup(buf_str(&b));
    buf_free(&b);
}

static int choose(struct prompter *p, const struct prompter_source *s, struct err *err) {
    const char *text = s->template_text ? s->template_text : tok_chat_template(p->tok);
    struct err e = {0};
    if (s->family) {
        p->family = chat_parse(s->family);
        if (p->family == CHAT_NONE && strcmp(s->family, "none"))
            return err_set(err, E_USAGE,
                           "chat template '%.40s' is not chatml, llama2, llama3, mistral, phi, "
                           "zephyr or none",
                           s->family);
        add_family_stops(p, p->family);
        return 0;
    }
    if (!text)
        return 0;
    p->template = jinja_parse(s->path ? s->path : "chat template", text, strlen(text), &e);
    if (!p->template && s->template_text)
        return err_set(err, E_FORMAT, "%s", e.msg);
    enum chat_format f = chat_detect(text);
    p->calls = calls_detect(text);
    p->knows_tools = p->template && jinja_mentions(p->template, "tools");
    p->knows_calls = p->knows_tools || (p->template && jinja_mentions(p->template, "tool_calls"));
    if (p->template)
        find_stop(p);
    else
        fall_back(p, f, e.msg);
    add_family_stops(p, f);
    return 0;
}

struct prompter *prompter_open(const struct tok *t, const struct prompter_source *s,
                               struct err *err) {
    struct prompter *p = mem_new(sizeof *p);
    p->tok = t;
    if (choose(p, s, err) == 0)
        return p;
    prompter_close(p);
    return NULL;
}

void prompter_close(struct prompter *p) {
    if (!p)
        return;
    jinja_free(p->template);
    free(p->problem);
    free(p);
}

const char *prompter_problem(const struct prompter *p) {
    return p->problem;
}

const char *prompter_name(const struct prompter *p) {
    return p->template ? "template" : chat_name(p->family);
}

enum chat_format prompter_family(const struct prompter *p) {
    return p->family;
}

bool prompter_has_template(const struct prompter *p) {
    return p->template != NULL;
}

enum calls_style prompter_calls(const struct prompter *p) {
    return p->knows_tools ? p->calls : CALLS_HERMES;
}

int prompter_stops(const struct prompter *p, int32_t *out, int max) {
    int n = p->n_stop < max ? p->n_stop : max;
    memcpy(out, p->stop, (size_t)n * sizeof *out);
    return n;
}

/* ---- the conversation ---- */

/* A list of text parts as one string, NULL if it is something else. */
static json_t *join_parts(const json_t *parts, size_t at, struct err *err) {
    struct buf b = {0};
    size_t i;
    json_t *part, *out = NULL;
    json_array_foreach((json_t *)parts, i, part) {
        const json_t *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!json_is_string(text) || (type && strcmp(type, "text"))) {
            err_set(err, E_USAGE, "messages[%zu].content[%zu]: only parts of type text can be read",
                    at, i);
            goto out;
        }
        buf_adds(&b, i ? "\n" : "");
        buf_add(&b, json_string_value(text), json_string_length(text));
    }
    out = json_stringn(buf_str(&b), b.len);
out:
    buf_free(&b);
    return out;
}

/* Arguments of calls, which clients send as text of JSON, as the object that templates expect. */
static void parse_arguments(json_t *message) {
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(message, "tool_calls"), i, call) {
        json_t *function = json_object_get(call, "function");
        const json_t *text = json_object_get(function, "arguments");
        json_t *args = !json_is_string(text)
                           ? NULL
                           : json_loadb(json_string_value(text), json_string_length(text), 0, NULL);
        if (json_is_object(args))
            json_object_set(function, "arguments", args);
        json_decref(args);
    }
}

/* How deep v nests, counted up to max: so that what copies it may recurse. */
static int depth_of(const json_t *v, int max) {
    const char *key;
    size_t i;
    json_t *kid;
    int deepest = 0;
    if (max <= 0)
        return 1;
    if (json_is_object(v)) {
        json_object_foreach((json_t *)v, key, kid) {
            int d = depth_of(kid, max - 1) + 1;
            deepest = d > deepest ? d : deepest;
        }
    } else {
        json_array_foreach((json_t *)v, i, kid) {
            int d = depth_of(kid, max - 1) + 1;
            deepest = d > deepest ? d : deepest;
        }
    }
    return deepest;
}

/* The messages as templates see them; owned by the caller, NULL after an error. */
static json_t *conversation(const struct prompter *p, const struct ask *a, struct err *err) {
    size_t n = json_array_size(a->messages), i;
    if (!json_is_array(a->messages) || !n || n > MAX_MESSAGES) {
        err_set(err, E_USAGE, "messages: needs 1 to %d of them", MAX_MESSAGES);
        return NULL;
    }
    if (depth_of(a->messages, JINJA_MAX_VALUE) >= JINJA_MAX_VALUE) {
        err_set(err, E_USAGE, "messages: nested deeper than %d", JINJA_MAX_VALUE);
        return NULL;
    }
    json_t *out = json_deep_copy(a->messages), *m;
    json_array_foreach(out, i, m) {
        const json_t *content = json_object_get(m, "content");
        if (!json_is_string(json_object_get(m, "role"))) {
            err_set(err, E_USAGE, "messages[%zu]: needs a role", i);
            break;
        }
        if (json_is_array(content)) {
            json_t *text = join_parts(content, i, err);
            if (!text)
                break;
            json_object_set_new(m, "content", text);
        } else if (content && !json_is_string(content) && !json_is_null(content)) {
            err_set(err, E_USAGE, "messages[%zu].content: neither a string nor a list of parts", i);
            break;
        } else if (!content) {
            json_object_set_new(m, "content",
                                json_is_array(json_object_get(m, "tool_calls")) ? json_null()
                                                                                : json_string(""));
        }
        parse_arguments(m);
    }
    if (i < n) {
        json_decref(out);
        return NULL;
    }
    if (!p->knows_calls)
        calls_spell(out);
    if (json_array_size(a->tools) && !p->knows_tools)
        calls_explain(out, a->tools);
    return out;
}

static int check_kwargs(const json_t *kwargs, struct err *err) {
    static const char *const ours[] = {"messages",
                                       "tools",
                                       "documents",
                                       "add_generation_prompt",
                                       "continue_final_message",
                                       "tokenize",
                                       "bos_token",
                                       "eos_token",
                                       "unk_token",
                                       "pad_token",
                                       "chat_template",
                                       "loop",
                                       "namespace",
                                       "range",
                                       "raise_exception",
                                       "strftime_now",
                                       "dict",
                                       "caller",
                                       "tokenizer"};
    const char *key;
    json_t *v;
    if (kwargs && !json_is_object(kwargs) && !json_is_null(kwargs))
        return err_set(err, E_USAGE, "chat_template_kwargs: must be an object");
    json_object_foreach((json_t *)kwargs, key, v) {
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
            if (strcmp(key, ours[i]) == 0)
                return err_set(err, E_USAGE, "chat_template_kwargs: '%s' cannot be set", key);
        if (json_is_object(v) || json_is_array(v))
            return err_set(err, E_USAGE,
                           "chat_template_kwargs: '%.40s' must be a string, a number, true, false "
                           "or null",
                           key);
    }
    return 0;
}

/* ---- by template ---- */

static json_t *token_text(const struct tok *t, int32_t id) {
    size_t n = 0;
    const char *s = id >= 0 ? tok_piece(t, id, &n) : NULL;
    return s ? json_stringn(s, n) : NULL;
}

static void set_token(json_t *vars, const char *name, json_t *text) {
    if (text)
        json_object_set_new(vars, name, text);
}

static void cut(struct jinja_text *t, size_t n) {
    t->text.len = t->mark.len = n;
}

static bool is_blank(char c) {
    return c == ' ' || (c >= 9 && c <= 13);
}

/* Ends the prompt inside the last message's text, where it stands last, as transformers does it:
 * with the white space behind it if the template kept it. */
static int end_in_message(struct jinja_text *t, const json_t *messages, struct err *err) {
    const json_t *m = json_array_get(messages, json_array_size(messages) - 1);
    const json_t *content = json_object_get(m, "content");
    const char *s = json_string_value(content);
    size_t n = json_string_length(content), skip = 0, keep = n;
    while (skip < n && is_blank(s[skip]))
        skip++;
    while (keep > skip && is_blank(s[keep - 1]))
        keep--;
    if (keep == skip)
        return err_set(err, E_USAGE, "continue_final_message: the last message has no text");
    for (size_t at = t->text.len; at-- > 0;) {
        if (t->text.len - at < keep - skip || memcmp(t->text.data + at, s + skip, keep - skip))
            continue;
        size_t whole = n - skip;
        bool kept = t->text.len - at >= whole && !memcmp(t->text.data + at, s + skip, whole);
        cut(t, at + (kept ? whole : keep - skip));
        return 0;
    }
    return err_set(err, E_USAGE,
                   "continue_final_message: the template does not show the last message as it is");
}

static int render(const struct prompter *p, const struct ask *a, struct jinja_text *out,
                  struct err *err) {
    json_t *messages = NULL, *input = NULL, *ours = NULL;
    int rc = -1;
    if (a->tools && !json_is_array(a->tools) && !json_is_null(a->tools))
        return err_set(err, E_USAGE, "tools: must be a list");
    if (check_kwargs(a->kwargs, err) || !(messages = conversation(p, a, err)))
        return -1;
    input = json_object();
    if (a->kwargs)
        json_object_update(input, (json_t *)a->kwargs);
    bool tools = json_array_size(a->tools) > 0 && p->knows_tools;
    json_object_set(input, "messages", messages);
    json_object_set_new(input, "tools", tools ? json_incref((json_t *)a->tools) : json_null());
    json_object_set_new(input, "documents", json_null());
    json_object_set_new(input, "add_generation_prompt",
                        json_boolean(!a->no_opening && !a->continue_final));
    ours = json_object();
    set_token(ours, "bos_token", token_text(p->tok, tok_bos(p->tok)));
    set_token(ours, "eos_token", token_text(p->tok, tok_eos(p->tok)));
    struct jinja_vars vars = {input, ours, a->now ? a->now : time(NULL)};
    if (jinja_render(p->template, &vars, out, err) == 0)
        rc = a->continue_final ? end_in_message(out, messages, err) : 0;
    json_decref(messages);
    json_decref(input);
    json_decref(ours);
    return rc;
}

int prompter_text(const struct prompter *p, const struct ask *a, struct buf *out, struct err *err) {
    struct jinja_text t = {0};
    if (!p->template)
        return err_set(err, E_USAGE, "%s",
                       p->problem ? p->problem : "the model has no chat template");
    int rc = render(p, a, &t, err);
    if (rc == 0)
        buf_add(out, t.text.data, t.text.len);
    jinja_text_free(&t);
    return rc;
}

static int by_template(const struct prompter *p, const struct ask *a, struct ids *out,
                       struct err *err) {
    struct jinja_text t = {0};
    struct ids ids = {0};
    int rc = render(p, a, &t, err);
    if (rc == 0 && t.text.len)
        rc = tok_encode_marked(p->tok, t.text.data, t.mark.data, t.text.len, &ids, err);
    if (rc == 0) {
        int32_t bos = tok_bos(p->tok);
        if (tok_adds_bos(p->tok) && (!ids.n || ids.id[0] != bos))
            ids_add(out, bos); /* the model saw it in front of each text */
        ids_addn(out, ids.id, ids.n);
    }
    jinja_text_free(&t);
    ids_free(&ids);
    return rc;
}

/* ---- by family ---- */

/* The last message is the beginning of the answer: it stands behind the opening of its turn. */
static int continue_family(const struct prompter *p, struct chat_msg *m, int n, struct ids *out,
                           struct err *err) {
    if (strcmp(m[n - 1].role, "assistant"))
        return err_set(err, E_USAGE,
                       "continue_final_message: the last message is not the "
                       "assistant's");
    if (chat_encode(p->family, p->tok, m, n - 1, out, err))
        return -1;
    return tok_encode(p->tok, m[n - 1].text, strlen(m[n - 1].text), false, out, err);
}

/* The conversation without an opening behind it. */
static int closed_family(const struct prompter *p, struct chat_msg *m, int n, struct ids *out,
                         struct err *err) {
    size_t was = out->n;
    int rc = chat_encode_answers(p->family, p->tok, m, n, out, err);
    for (size_t i = was; i < out->n; i++)
        out->id[i] = out->id[i] < 0 ? ~out->id[i] : out->id[i];
    return rc;
}

static int by_family(const struct prompter *p, const struct ask *a, struct ids *out,
                     struct err *err) {
    json_t *messages = conversation(p, a, err), *m;
    int n = (int)json_array_size(messages), rc = -1;
    size_t i, was = out->n;
    struct chat_msg *msg = mem_array((size_t)n + 1, sizeof *msg);
    struct err e = {0};
    json_array_foreach(messages, i, m) {
        const json_t *content = json_object_get(m, "content");
        const char *text = json_string_value(content), *role;
        role = json_string_value(json_object_get(m, "role"));
        if (text && strlen(text) != json_string_length(content)) {
            err_set(err, E_USAGE, "messages[%zu].content: has a NUL character", i);
            goto out;
        }
        msg[i] = (struct chat_msg){strcmp(role, "developer") ? role : "system", text ? text : ""};
    }
    if (!messages)
        goto out;
    if (a->continue_final)
        rc = continue_family(p, msg, n, out, &e);
    else if (a->no_opening)
        rc = closed_family(p, msg, n, out, &e);
    else
        rc = chat_encode(p->family, p->tok, msg, n, out, &e);
    if (rc) {
        out->n = was;
        err_set(err, e.code == E_FORMAT ? E_USAGE : e.code, "%s", e.msg);
    }
out:
    free(msg);
    json_decref(messages);
    return rc;
}

int prompter_ids(const struct prompter *p, const struct ask *a, struct ids *out, struct err *err) {
    if (p->template)
        return by_template(p, a, out, err);
    if (p->problem && !p->family)
        return err_set(err, E_FORMAT, "%s", p->problem);
    if (check_kwargs(a->kwargs, err))
        return -1;
    return by_family(p, a, out, err);
}
