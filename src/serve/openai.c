/* openai.c - /v1/chat/completions and /v1/completions: a call's tokens as OpenAI's JSON, whole or
 * as server-sent events.
 *
 * Events are exactly "data: " JSON "\n\n".  The role comes with the first text, never before it:
 * clients take the first event for the first token. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "serve/call.h"

/* -- tokens with their probabilities ----------------------------------------------------------- */

static double finite_log(float x) {
    return x > -9999.0f ? (double)x : -9999.0; /* JSON has no -inf */
}

static json_t *token_text(const struct tok *t, int32_t id, struct buf *bytes) {
    struct buf quoted = {0};
    bytes->len = 0;
    tok_show(t, id, bytes);
    json_quote(&quoted, bytes->data ? bytes->data : "", bytes->len);
    json_t *s = json_loadb(quoted.data, quoted.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    buf_free(&quoted);
    return s;
}

static json_t *chat_token(const struct tok *t, int32_t id, float logprob) {
    struct buf b = {0};
    json_t *j = json_object(), *bytes = json_array();
    json_object_set_new(j, "token", token_text(t, id, &b));
    json_object_set_new(j, "logprob", json_real(finite_log(logprob)));
    for (size_t i = 0; i < b.len; i++)
        json_array_append_new(bytes, json_integer((unsigned char)b.data[i]));
    json_object_set_new(j, "bytes", bytes);
    buf_free(&b);
    return j;
}

/* One piece's entry of `content` (chat); the same object serves completions, see columns(). */
static json_t *piece_logprob(const struct call *c, const struct box *b, size_t i) {
    const struct tok *t = c->server->m->tok;
    int stride = c->n_logprobs ? c->n_logprobs : 1;
    const struct logprob *top = b->top + i * (size_t)stride;
    json_t *j = chat_token(t, b->piece[i].id, b->piece[i].logprob), *list = json_array();
    for (int k = 0; k < c->n_logprobs; k++)
        json_array_append_new(list, chat_token(t, top[k].id, top[k].logprob));
    json_object_set_new(j, "top_logprobs", list);
    return j;
}

/* Entries as the parallel arrays of /v1/completions; *offset counts characters. */
static json_t *columns(const json_t *entries, size_t *offset) {
    json_t *tokens = json_array(), *logs = json_array(), *tops = json_array(), *at = json_array();
    size_t i, k;
    json_t *e, *alt;
    json_array_foreach((json_t *)entries, i, e) {
        const json_t *token = json_object_get(e, "token");
        json_t *top = json_object();
        json_array_foreach(json_object_get(e, "top_logprobs"), k, alt) json_object_set(
            top, json_string_value(json_object_get(alt, "token")), json_object_get(alt, "logprob"));
        json_array_append(tokens, (json_t *)token);
        json_array_append(logs, json_object_get(e, "logprob"));
        json_array_append_new(tops, top);
        json_array_append_new(at, json_integer((json_int_t)*offset));
        for (const char *p = json_string_value(token); *p; p++)
            *offset += ((unsigned char)*p & 0xc0) != 0x80;
    }
    return json_pack("{s:o,s:o,s:o,s:o}", "tokens", tokens, "token_logprobs", logs, "top_logprobs",
                     tops, "text_offset", at);
}

/* The value of "logprobs" for these entries; takes entries over.  NULL = not asked for. */
static json_t *logprobs_value(const struct call *c, json_t *entries, size_t *offset) {
    if (!entries)
        return json_null();
    if (c->at == AT_CHAT)
        return json_pack("{s:o}", "content", entries);
    json_t *j = columns(entries, offset);
    json_decref(entries);
    return j;
}

/* -- figures ----------------------------------------------------------------------------------- */

static void put_usage(const struct call *c, struct buf *out) {
    struct totals t = call_totals(c);
    buf_printf(out,
               "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%d}}",
               t.prompt, t.out, t.prompt + t.out, t.cached);
}

static double rate(int n, int64_t us) {
    return us > 0 && n > 0 ? n * 1e6 / (double)us : 0;
}

static void put_timings(const struct call *c, struct buf *out) {
    struct totals t = call_totals(c);
    buf_printf(out,
               "{\"cache_n\":%d,\"prompt_n\":%d,\"prompt_ms\":%.3f,\"prompt_per_second\":%.2f,"
               "\"predicted_n\":%d,\"predicted_ms\":%.3f,\"predicted_per_second\":%.2f}",
               t.cached, t.prompt - t.cached, (double)t.prompt_us / 1e3,
               rate(t.prompt - t.cached, t.prompt_us), t.out, (double)t.decode_us / 1e3,
               rate(t.out - c->n_choice, t.decode_us));
}

/* {"id":..,"object":..,"created":..,"model":..,"system_fingerprint":..,"choices":[ */
static void put_head(const struct call *c, const char *object, struct buf *out) {
    buf_adds(out, "{\"id\":");
    json_quote(out, c->id, strlen(c->id));
    buf_printf(out, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
               (long long)c->created);
    json_quote(out, c->server->name, strlen(c->server->name));
    buf_printf(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", c->server->fingerprint);
}

static void put_json(struct buf *out, json_t *j) {
    char *text = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(8));
    buf_adds(out, text);
    free(text);
    json_decref(j);
}

/* -- whole answers ----------------------------------------------------------------------------- */

void call_gather(struct call *c) {
    for (int i = 0; i < c->n_choice; i++) {
        struct choice *k = &c->choice[i];
        buf_add(&k->text, k->box.text.data, k->box.text.len);
        for (size_t p = 0; p < k->box.n; p++) {
            if (k->box.piece[p].id < 0)
                continue;
            k->n_out++;
            if (k->logprobs)
                json_array_append_new(k->logprobs, piece_logprob(c, &k->box, p));
        }
    }
}

static void put_choice(struct call *c, struct choice *k, struct buf *out) {
    const char *why = finish_word(k->task.usage.why);
    json_t *entries = k->logprobs;
    k->logprobs = NULL;
    buf_printf(out, "%s{\"index\":%d,", k->index ? "," : "", k->index);
    if (c->at == AT_CHAT) {
        buf_adds(out, "\"message\":{\"role\":\"assistant\",\"content\":");
        json_quote(out, buf_str(&k->text), k->text.len);
        buf_adds(out, "}");
    } else {
        struct buf text = {0};
        if (c->echo)
            buf_add(&text, c->echo[k->prompt].data, c->echo[k->prompt].len);
        buf_add(&text, k->text.data, k->text.len);
        buf_adds(out, "\"text\":");
        json_quote(out, buf_str(&text), text.len);
        buf_free(&text);
    }
    buf_adds(out, ",\"logprobs\":");
    put_json(out, logprobs_value(c, entries, &k->offset));
    buf_printf(out, ",\"finish_reason\":\"%s\"}", why);
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
        f.retry_after = f.status == 503 ? 1 : 0;
        http_fault(x, &f);
        return true;
    }
    put_head(c, c->at == AT_CHAT ? "chat.completion" : "text_completion", &out);
    for (int i = 0; i < c->n_choice; i++)
        put_choice(c, &c->choice[i], &out);
    buf_adds(&out, "],\"usage\":");
    put_usage(c, &out);
    buf_adds(&out, ",\"timings\":");
    put_timings(c, &out);
    buf_adds(&out, "}");
    http_reply(x, 200, "application/json", &out);
    return true;
}

/* -- streams ----------------------------------------------------------------------------------- */

static void begin_event(const struct call *c, struct buf *out) {
    buf_adds(out, "data: ");
    buf_add(out, c->head.data, c->head.len);
}

/* What follows the choices of an event. */
static void end_event(const struct call *c, bool timings, struct buf *out) {
    buf_adds(out, "]");
    if (c->usage_each || c->usage_event)
        buf_adds(out, ",\"usage\":");
    if (c->usage_each)
        put_usage(c, out);
    else if (c->usage_event)
        buf_adds(out, "null");
    if (timings) {
        buf_adds(out, ",\"timings\":");
        put_timings(c, out);
    }
    buf_adds(out, "}\n\n");
}

/* One event with text, and with the probabilities in entries (taken over; NULL = none). */
static void text_event(struct call *c, struct choice *k, const char *text, size_t n,
                       json_t *entries, struct buf *out) {
    begin_event(c, out);
    buf_printf(out, "{\"index\":%d,", k->index);
    if (c->at == AT_CHAT) {
        buf_printf(out, "\"delta\":{%s\"content\":", k->begun ? "" : "\"role\":\"assistant\",");
        json_quote(out, text, n);
        buf_adds(out, "}");
    } else {
        buf_adds(out, "\"text\":");
        json_quote(out, text, n);
    }
    buf_adds(out, ",\"logprobs\":");
    put_json(out, logprobs_value(c, entries, &k->offset));
    buf_adds(out, ",\"finish_reason\":null}");
    end_event(c, false, out);
    k->begun = true;
}

static void finish_event(struct call *c, struct choice *k, bool last, struct buf *out) {
    begin_event(c, out);
    buf_printf(out, "{\"index\":%d,%s,\"logprobs\":null,\"finish_reason\":\"%s\"}", k->index,
               c->at == AT_CHAT ? "\"delta\":{}" : "\"text\":\"\"", finish_word(k->task.usage.why));
    end_event(c, last, out);
    k->ended = true;
}

/* An event for each token that has text or probabilities to show. */
static void choice_events(struct call *c, struct choice *k, struct buf *out) {
    const char *text = k->box.text.data;
    if (c->echo && !k->begun)
        text_event(c, k, buf_str(&c->echo[k->prompt]), c->echo[k->prompt].len, NULL, out);
    for (size_t i = 0; i < k->box.n; i++) {
        const struct piece *p = &k->box.piece[i];
        json_t *entries = NULL;
        k->n_out += p->id >= 0;
        if (c->n_logprobs >= 0 && p->id >= 0) {
            entries = json_array();
            json_array_append_new(entries, piece_logprob(c, &k->box, i));
        }
        if (p->len || entries)
            text_event(c, k, text, (size_t)p->len, entries, out);
        text += p->len;
    }
}

static void error_event(const struct fault *f, struct buf *out) {
    buf_adds(out, "data: ");
    fault_json(f, out);
    buf_adds(out, "\n\n");
}

static bool on_read(void *job, struct exchange *x, struct buf *out) {
    struct call *c = job;
    struct fault f = {0};
    int left = 0;
    (void)x;
    call_take(c);
    for (int i = 0; i < c->n_choice; i++) {
        choice_events(c, &c->choice[i], out);
        left += !c->choice[i].ended;
    }
    if (call_failed(c, &f)) {
        call_left(c);
        error_event(&f, out);
        return false;
    }
    for (int i = 0; i < c->n_choice; i++) {
        struct choice *k = &c->choice[i];
        if (!k->box.ended || k->ended)
            continue;
        if (!k->begun) /* no text at all: the role is due still */
            text_event(c, k, "", 0, NULL, out);
        finish_event(c, k, --left == 0, out);
    }
    if (left)
        return true;
    if (c->usage_event) {
        begin_event(c, out);
        buf_adds(out, "],\"usage\":");
        put_usage(c, out);
        buf_adds(out, "}\n\n");
    }
    buf_adds(out, "data: [DONE]\n\n");
    return false;
}

/* -- routes ------------------------------------------------------------------------------------ */

static const struct job_ops whole = {
    .step = on_step, .refuse = http_fault, .left = call_left, .release = call_free};
static const struct job_ops stream = {.read = on_read,
                                      .type = "text/event-stream; charset=utf-8",
                                      .pings = true,
                                      .refuse = http_fault,
                                      .left = call_left,
                                      .release = call_free};

static void generate(struct exchange *x, struct server *s, enum endpoint at) {
    struct fault f = {0};
    struct call *c = call_read(s, x, at, body_read(x, &f), &f);
    if (!c) {
        http_fault(x, &f);
        return;
    }
    if (c->p.stream)
        put_head(c, at == AT_CHAT ? "chat.completion.chunk" : "text_completion", &c->head);
    call_start(c, c->p.stream ? &stream : &whole);
}

void route_chat(struct exchange *x, void *app) {
    generate(x, app, AT_CHAT);
}

void route_completion(struct exchange *x, void *app) {
    generate(x, app, AT_COMPLETION);
}
