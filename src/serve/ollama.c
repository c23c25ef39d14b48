/* ollama.c - the part of Ollama's API that its clients need to chat: /api/chat, /api/generate,
 * /api/tags, /api/version; /api/embed is in embed.c.
 *
 * A request is rewritten as one of /v1 and read like that, so every limit is the same.  Answers are
 * objects, one a line, or a single one with "stream": false. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/call.h"

struct dialect { /* of a call */
    bool chat;
    int64_t start_us;
};

/* {"error": message}: its clients expect a string. */
void ollama_refuse(struct exchange *x, const struct fault *f) {
    struct buf b = {0};
    char seconds[16];
    buf_adds(&b, "{\"error\":");
    json_quote(&b, f->msg, strlen(f->msg));
    buf_adds(&b, "}");
    snprintf(seconds, sizeof seconds, "%d", f->retry_after);
    if (f->retry_after)
        http_header(x, "Retry-After", seconds);
    http_reply(x, f->status, "application/json", &b);
}

/* -- requests ---------------------------------------------------------------------------------- */

/* Copies body[key] to out[as] if it is there. */
static void move(const json_t *body, const char *key, json_t *out, const char *as) {
    json_t *v = json_object_get(body, key);
    if (v)
        json_object_set(out, as, v);
}

/* "options": the sampling parameters have OpenAI's names, but for the number of tokens. */
static int options(const json_t *body, json_t *out, struct fault *f) {
    const json_t *o = json_object_get(body, "options");
    const char *key;
    json_t *v;
    if (o && !json_is_null(o) && !json_is_object(o))
        return fault_set(f, 400, "invalid_type", "options", "options must be an object");
    json_object_foreach((json_t *)o, key, v) {
        bool no_limit = json_is_integer(v) && json_integer_value(v) < 0;
        if (strcmp(key, "num_predict"))
            json_object_set(out, key, v);
        else if (!no_limit)
            json_object_set(out, "max_tokens", v);
    }
    return 0;
}

/* "format": "json", or a schema. */
static int format(const json_t *body, json_t *out, struct fault *f) {
    json_t *v = json_object_get(body, "format");
    if (!v || json_is_null(v) || (json_is_string(v) && !json_string_length(v)))
        return 0;
    if (json_is_string(v) && !strcmp(json_string_value(v), "json"))
        return json_object_set_new(out, "response_format",
                                   json_pack("{s:s}", "type", "json_object"));
    if (!json_is_object(v))
        return fault_set(f, 400, "invalid_type", "format", "format must be \"json\" or a schema");
    return json_object_set_new(out, "response_format",
                               json_pack("{s:s,s:{s:s,s:O}}", "type", "json_schema", "json_schema",
                                         "name", "format", "schema", v));
}

/* The model's name with or without Ollama's tag. */
static void name(const json_t *body, json_t *out) {
    const char *m = json_string_value(json_object_get(body, "model"));
    size_t n = m ? strlen(m) : 0, tag = strlen(":latest");
    if (n > tag && !strcmp(m + n - tag, ":latest"))
        json_object_set_new(out, "model", json_stringn(m, n - tag));
    else
        move(body, "model", out, "model");
}

json_t *ollama_embed_body(const json_t *body) {
    json_t *out = json_object();
    name(body, out);
    move(body, "input", out, "input");
    move(body, "dimensions", out, "dimensions");
    return out;
}

static json_t *prompt_as_messages(const json_t *body) {
    json_t *list = json_array(), *system = json_object_get(body, "system");
    if (json_string_length(system))
        json_array_append_new(list, json_pack("{s:s,s:O}", "role", "system", "content", system));
    json_array_append_new(
        list, json_pack("{s:s,s:O}", "role", "user", "content", json_object_get(body, "prompt")));
    return list;
}

/* The request as one of /v1; *chat: of which.  Owned by the caller; NULL with a fault. */
static json_t *translate(const json_t *body, bool generate, bool *chat, struct fault *f) {
    json_t *out = json_object(), *stream = json_object_get(body, "stream");
    *chat = !generate || !json_is_true(json_object_get(body, "raw"));
    name(body, out);
    json_object_set(out, "stream", stream && !json_is_null(stream) ? stream : json_true());
    if (!generate)
        move(body, "messages", out, "messages");
    else if (!json_is_string(json_object_get(body, "prompt")))
        fault_set(f, 400, "invalid_type", "prompt", "prompt must be a string");
    else if (*chat)
        json_object_set_new(out, "messages", prompt_as_messages(body));
    else
        move(body, "prompt", out, "prompt");
    move(body, "tools", out, "tools");
    if (f->status || options(body, out, f) || format(body, out, f)) {
        json_decref(out);
        return NULL;
    }
    return out;
}

/* -- answers ----------------------------------------------------------------------------------- */

static void put_head(const struct call *c, struct buf *out) {
    char date[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    buf_adds(out, "{\"model\":");
    json_quote(out, c->server->name, strlen(c->server->name));
    buf_printf(out, ",\"created_at\":\"%s\"", date);
}

static void put_text(const struct call *c, const char *text, size_t n, struct buf *out) {
    const struct dialect *d = c->extra;
    buf_adds(out, d->chat ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"response\":");
    json_quote(out, text, n);
    buf_adds(out, d->chat ? "}" : "");
}

static void put_end(const struct call *c, struct buf *out) {
    const struct dialect *d = c->extra;
    struct totals t = call_totals(c);
    buf_printf(out,
               ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%lld,\"load_duration\":0,"
               "\"prompt_eval_count\":%d,\"prompt_eval_duration\":%lld,\"eval_count\":%d,"
               "\"eval_duration\":%lld}",
               finish_word(c->choice->task.usage.why), (long long)(clock_us() - d->start_us) * 1000,
               t.prompt, (long long)t.prompt_us * 1000, t.out, (long long)t.decode_us * 1000);
}

/* The whole answer, with its calls. */
static void put_answer(const struct call *c, struct buf *out) {
    const struct choice *k = c->choice;
    struct buf content = {0}, list = {0};
    if (c->tools.choice == TOOLS_OFF) {
        put_text(c, buf_str((struct buf *)&k->text), k->text.len, out);
        return;
    }
    tools_split(&c->tools, &k->text, true, &content, &list);
    put_text(c, buf_str(&content), content.len, out);
    if (list.len) {
        out->len--; /* the message's bracket */
        buf_printf(out, ",\"tool_calls\":%s}", buf_str(&list));
    }
    buf_free(&content);
    buf_free(&list);
}

static bool on_step(void *job, struct exchange *x) {
    struct call *c = job;
    struct fault f = {0};
    struct buf out = {0};
    bool all = call_take(c);
    call_gather(c);
    if (!all)
        return false;
    if (call_failed(c, &f)) {
        ollama_refuse(x, &f);
        return true;
    }
    put_head(c, &out);
    put_answer(c, &out);
    put_end(c, &out);
    http_reply(x, 200, "application/json", &out);
    return true;
}

static bool on_read(void *job, struct exchange *x, struct buf *out) {
    struct call *c = job;
    struct choice *k = c->choice;
    struct fault f = {0};
    const char *text;
    bool all = call_take(c);
    (void)x;
    text = k->box.text.data;
    if (c->tools.choice != TOOLS_OFF)
        call_gather(c); /* it goes out whole */
    for (size_t i = 0; i < k->box.n && c->tools.choice == TOOLS_OFF; i++) {
        size_t n = (size_t)k->box.piece[i].len;
        k->n_out += k->box.piece[i].id >= 0;
        if (!n)
            continue;
        put_head(c, out);
        put_text(c, text, n, out);
        buf_adds(out, ",\"done\":false}\n");
        text += n;
    }
    if (!all)
        return true;
    if (call_failed(c, &f)) {
        buf_adds(out, "{\"error\":");
        json_quote(out, f.msg, strlen(f.msg));
        buf_adds(out, "}\n");
        return false;
    }
    if (c->tools.choice != TOOLS_OFF) {
        put_head(c, out);
        put_answer(c, out);
        buf_adds(out, ",\"done\":false}\n");
    }
    put_head(c, out);
    put_text(c, "", 0, out);
    put_end(c, out);
    buf_adds(out, "\n");
    return false;
}

static const struct job_ops whole = {
    .step = on_step, .refuse = ollama_refuse, .left = call_left, .release = call_free};
static const struct job_ops lines = {.read = on_read,
                                     .type = "application/x-ndjson",
                                     .refuse = ollama_refuse,
                                     .left = call_left,
                                     .release = call_free};

/* -- routes ------------------------------------------------------------------------------------ */

static void answer(struct exchange *x, struct server *s, bool generate) {
    struct fault f = {0};
    size_t n;
    const char *data = http_body(x, &n);
    bool chat = false;
    json_t *body = body_json(data, n, &f), *v1 = body ? translate(body, generate, &chat, &f) : NULL;
    json_decref(body);
    struct call *c = v1 ? call_read(s, x, chat ? AT_CHAT : AT_COMPLETION, v1, &f) : NULL;
    if (c && c->n_choice != 1)
        fault_set(&f, 400, "out_of_range", "n", "one answer to one prompt");
    if (f.status) {
        if (c)
            call_free(c);
        ollama_refuse(x, &f);
        return;
    }
    struct dialect *d = c->extra = mem_new(sizeof *d);
    d->chat = !generate;
    d->start_us = clock_us();
    call_start(c, c->p.stream ? &lines : &whole);
}

void route_ollama_chat(struct exchange *x, void *app) {
    answer(x, app, false);
}

void route_ollama_generate(struct exchange *x, void *app) {
    answer(x, app, true);
}

void route_ollama_tags(struct exchange *x, void *app) {
    struct server *s = app;
    struct tm tm;
    char date[32];
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&s->started, &tm));
    reply_json(x, json_pack("{s:[{s:s,s:s,s:s,s:I,s:{s:s,s:I}}]}", "models", "name", s->name,
                            "model", s->name, "modified_at", date, "size",
                            (json_int_t)s->m->weight_bytes, "details", "family", s->m->cfg.arch,
                            "parameter_count", (json_int_t)cfg_params(&s->m->cfg)));
}

void route_ollama_version(struct exchange *x, void *app) {
    (void)app;
    reply_json(x, json_pack("{s:s}", "version", PUMICE_VERSION));
}
