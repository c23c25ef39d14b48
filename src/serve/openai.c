/* openai.c - /v1/chat/completions and /v1/completions: a call's tokens as OpenAI's JSON, whole or
 * as server-sent events.
 *
 * Events are exactly "data: " JSON "\n\n".  The role comes with the first text, never before it:
 * clients take the first event for the first token. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
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

/* A token with what it is worth; chats have its bytes as well. */
static json_t *scored(const struct call *c, int32_t id, float logprob) {
    struct buf b = {0};
    json_t *j = json_object(), *bytes = c->at == AT_CHAT ? json_array() : NULL;
    json_object_set_new(j, "token", token_text(c->server->m->tok, id, &b));
    json_object_set_new(j, "logprob",
                        isnan(logprob) ? json_null() : json_real(finite_log(logprob)));
    for (size_t i = 0; bytes && i < b.len; i++)
        json_array_append_new(bytes, json_integer((unsigned char)b.data[i]));
    if (bytes)
        json_object_set_new(j, "bytes", bytes);
    buf_free(&b);
    return j;
}

/* Its alternatives.  The first token of a prompt has none. */
static const struct logprob *piece_top(const struct choice *k, size_t i, int want, int *n) {
    *n = isnan(k->box.piece[i].logprob) ? 0 : want;
    return k->box.top + i * (size_t)k->task.r.n_logprobs;
}

/* Piece i's entry of `content` (chat); the same object serves completions, see columns(). */
static json_t *piece_logprob(const struct choice *k, size_t i) {
    const struct call *c = k->call;
    const struct piece *p = &k->box.piece[i];
    int n;
    const struct logprob *top = piece_top(k, i, c->n_logprobs, &n);
    json_t *j = scored(c, p->id, p->logprob), *list = json_array();
    for (int a = 0; a < n; a++)
        json_array_append_new(list, scored(c, top[a].id, top[a].logprob));
    json_object_set_new(j, "top_logprobs", list);
    return j;
}

static size_t characters(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

/* The entry of a token of the prompt, and how many characters of the echoed text it ends. */
static json_t *echo_logprob(struct choice *k, size_t i) {
    struct buf b = {0};
    json_t *j = piece_logprob(k, i);
    tok_stream_add(&k->shown, k->box.piece[i].id, &b, NULL);
    json_object_set_new(j, "characters", json_integer((json_int_t)characters(b.data, b.len)));
    buf_free(&b);
    return j;
}

static void put_ranked(json_t *into, const struct tok *t, struct logprob l, int rank) {
    char id[16];
    struct buf b = {0};
    snprintf(id, sizeof id, "%d", l.id);
    if (!json_object_get(into, id))
        json_object_set_new(into, id,
                            json_pack("{s:f,s:o,s:o}", "logprob", finite_log(l.logprob), "rank",
                                      rank ? json_integer(rank) : json_null(), "decoded_token",
                                      token_text(t, l.id, &b)));
    buf_free(&b);
}

/* A token of the prompt as vLLM's prompt_logprobs show it: its id and the likeliest ones' to
 * {logprob, rank, decoded_token}; the first is null. */
static json_t *prompt_logprob(const struct choice *k, size_t i) {
    const struct piece *p = &k->box.piece[i];
    const struct tok *t = k->call->server->m->tok;
    int n;
    const struct logprob *top = piece_top(k, i, k->call->n_prompt_logprobs, &n);
    if (isnan(p->logprob))
        return json_null();
    json_t *j = json_object();
    for (int a = 0; a < n; a++)
        put_ranked(j, t, top[a], a + 1);
    put_ranked(j, t, (struct logprob){p->id, p->logprob}, 0);
    return j;
}

static void gather_prompt(struct choice *k, size_t i) {
    if (k->echoed)
        json_array_append_new(k->echoed, echo_logprob(k, i));
    if (k->told)
        json_array_append_new(k->told, prompt_logprob(k, i));
}

/* Its alternatives by their text, and itself; the first token of a prompt has none: null. */
static json_t *column_top(const json_t *e) {
    json_t *top = json_object(), *alt, *logprob = json_object_get(e, "logprob");
    size_t k;
    json_array_foreach(json_object_get(e, "top_logprobs"), k, alt) json_object_set(
        top, json_string_value(json_object_get(alt, "token")), json_object_get(alt, "logprob"));
    if (json_is_null(logprob)) {
        json_decref(top);
        return json_null();
    }
    json_object_set(top, json_string_value(json_object_get(e, "token")), logprob);
    return top;
}

/* Entries as the parallel arrays of /v1/completions; *offset counts characters. */
static json_t *columns(const json_t *entries, size_t *offset) {
    json_t *tokens = json_array(), *logs = json_array(), *tops = json_array(), *at = json_array();
    size_t i;
    json_t *e;
    json_array_foreach((json_t *)entries, i, e) {
        const json_t *token = json_object_get(e, "token"), *of = json_object_get(e, "characters");
        json_array_append(tokens, (json_t *)token);
        json_array_append(logs, json_object_get(e, "logprob"));
        json_array_append_new(tops, column_top(e));
        json_array_append_new(at, json_integer((json_int_t)*offset));
        *offset += of ? (size_t)json_integer_value(of)
                      : characters(json_string_value(token), json_string_length(token));
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

static void gather_piece(struct choice *k, size_t i) {
    const struct piece *p = &k->box.piece[i];
    if (p->id < 0)
        return;
    if (p->prompt) {
        gather_prompt(k, i);
        return;
    }
    k->n_out++;
    if (k->call->p.return_tokens)
        ids_add(&k->tokens, p->id);
    if (k->logprobs)
        json_array_append_new(k->logprobs, piece_logprob(k, i));
}

void call_gather(struct call *c) {
    for (int i = 0; i < c->n_choice; i++) {
        struct choice *k = &c->choice[i];
        buf_add(&k->text, k->box.text.data, k->box.text.len);
        for (size_t p = 0; p < k->box.n; p++)
            gather_piece(k, p);
    }
}

static const char *finish_of(const struct choice *k, int n_calls) {
    enum finish why = k->task.usage.why;
    return n_calls && why == FIN_STOP ? "tool_calls" : finish_word(why);
}

/* {"role":..,"content":..,"tool_calls":[..]}; returns the number of calls. */
static int put_message(const struct call *c, const struct choice *k, struct buf *out) {
    struct buf content = {0}, list = {0};
    int n = 0;
    if (c->tools.choice == TOOLS_OFF)
        buf_add(&content, k->text.data, k->text.len);
    else
        n = tools_split(&c->tools, &k->text, false, &content, &list);
    buf_adds(out, "{\"role\":\"assistant\",\"content\":");
    if (n && !content.len)
        buf_adds(out, "null");
    else
        json_quote(out, buf_str(&content), content.len);
    if (n)
        buf_printf(out, ",\"tool_calls\":%s", buf_str(&list));
    buf_adds(out, "}");
    buf_free(&content);
    buf_free(&list);
    return n;
}

/* All entries of a choice, those of its echoed prompt first; owned by the caller. */
static json_t *all_entries(const struct call *c, struct choice *k) {
    const struct choice *first = &c->choice[k->index - k->index % (int)c->p.n];
    json_t *entries = k->logprobs;
    k->logprobs = NULL;
    if (!first->echoed)
        return entries;
    json_t *all = json_copy(first->echoed);
    json_array_extend(all, entries);
    json_decref(entries);
    return all;
}

static void put_tokens(const struct ids *v, struct buf *out) {
    buf_adds(out, ",\"tokens\":[");
    for (size_t i = 0; i < v->n; i++)
        buf_printf(out, "%s%d", i ? "," : "", v->id[i]);
    buf_adds(out, "]");
}

static void put_told(const struct call *c, const struct choice *k, struct buf *out) {
    buf_adds(out, ",\"prompt_logprobs\":");
    put_json(out, json_incref(c->choice[k->index - k->index % (int)c->p.n].told));
}

static void put_choice(struct call *c, struct choice *k, struct buf *out) {
    json_t *entries = all_entries(c, k);
    int n_calls = 0;
    buf_printf(out, "%s{\"index\":%d,", k->index ? "," : "", k->index);
    if (c->at == AT_CHAT) {
        buf_adds(out, "\"message\":");
        n_calls = put_message(c, k, out);
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
    if (c->p.return_tokens)
        put_tokens(&k->tokens, out);
    if (c->n_prompt_logprobs >= 0 && c->at == AT_COMPLETION)
        put_told(c, k, out);
    buf_printf(out, ",\"finish_reason\":\"%s\"}", finish_of(k, n_calls));
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
        f.retry_after = f.retry_after ? f.retry_after : f.status == 503;
        http_fault(x, &f);
        return true;
    }
    put_head(c, c->at == AT_CHAT ? "chat.completion" : "text_completion", &out);
    for (int i = 0; i < c->n_choice; i++)
        put_choice(c, &c->choice[i], &out);
    buf_adds(&out, "]");
    if (c->n_prompt_logprobs >= 0 && c->at == AT_CHAT)
        put_told(c, c->choice, &out);
    buf_adds(&out, ",\"usage\":");
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
    if (timings || c->p.timings_each) {
        buf_adds(out, ",\"timings\":");
        put_timings(c, out);
    }
    buf_adds(out, "}\n\n");
}

struct delta { /* of a choice */
    const char *text;
    size_t n;
    const struct buf *call; /* chat: JSON of a call's part, instead of the text; NULL = text */
    json_t *entries;        /* probabilities, taken over; NULL = none */
    int32_t id;             /* -1: no token of its own */
};

static void text_event(struct call *c, struct choice *k, const struct delta *d, struct buf *out) {
    begin_event(c, out);
    buf_printf(out, "{\"index\":%d,", k->index);
    if (c->at == AT_CHAT) {
        buf_printf(out, "\"delta\":{%s", k->begun ? "" : "\"role\":\"assistant\",");
        if (d->call) {
            buf_adds(out, k->begun ? "" : "\"content\":null,");
            buf_add(out, d->call->data, d->call->len);
        } else {
            buf_adds(out, "\"content\":");
            json_quote(out, d->text, d->n);
        }
        buf_adds(out, "}");
    } else {
        buf_adds(out, "\"text\":");
        json_quote(out, d->text, d->n);
    }
    buf_adds(out, ",\"logprobs\":");
    put_json(out, logprobs_value(c, d->entries, &k->offset));
    if (c->p.return_tokens)
        put_tokens(&(struct ids){.id = (int32_t[]){d->id}, .n = d->id >= 0}, out);
    buf_adds(out, ",\"finish_reason\":null}");
    end_event(c, false, out);
    k->begun = true;
}

static void finish_event(struct call *c, struct choice *k, bool last, struct buf *out) {
    begin_event(c, out);
    buf_printf(out, "{\"index\":%d,%s,\"logprobs\":null,\"finish_reason\":\"%s\"}", k->index,
               c->at == AT_CHAT ? "\"delta\":{}" : "\"text\":\"\"", finish_of(k, k->made.n));
    end_event(c, last, out);
    k->ended = true;
}

/* The prompt, when all of it was read. */
static void echo_event(struct call *c, struct choice *k, struct buf *out) {
    const struct buf *text = &c->echo[k->prompt];
    text_event(c, k, &(struct delta){text->data, text->len, NULL, k->echoed, -1}, out);
    k->offset = characters(text->data, text->len);
    k->echoed = NULL;
}

static bool shows(const struct call *c, const struct delta *d) {
    return d->n || d->entries || (c->p.return_tokens && d->id >= 0);
}

struct teller { /* of a delta that may be text, part of a call, or both */
    struct call *c;
    struct choice *k;
    struct delta *d;
    struct buf *out;
};

/* The first event takes the token and its probabilities. */
static void on_call_part(void *ud, enum calls_part part, const char *text, size_t n) {
    const struct teller *t = ud;
    struct made *m = &t->k->made;
    struct delta d = {text, n, NULL, t->d->entries, t->d->id};
    struct buf b = {0};
    if (part != CALLS_TEXT) {
        buf_printf(&b, "\"tool_calls\":[{\"index\":%d,", m->n - 1);
        if (part == CALLS_NAME)
            made_head(m, text, n, &b);
        else
            buf_adds(&b, "\"function\":{\"arguments\":");
        json_quote(&b, text, part == CALLS_NAME ? 0 : n);
        buf_adds(&b, "}}]");
        d.call = &b;
    }
    text_event(t->c, t->k, &d, t->out);
    t->d->entries = NULL;
    t->d->id = -1;
    buf_free(&b);
}

/* What a token says where functions may be called: nothing yet, or one event or more. */
static void call_events(struct call *c, struct choice *k, struct delta *d, bool end,
                        struct buf *out) {
    struct teller t = {c, k, d, out};
    if (!k->made.calls)
        made_begin(&k->made, &c->tools, on_call_part, NULL);
    k->made.ud = &t;
    calls_feed(k->made.calls, d->text, d->n);
    if (end)
        calls_end(k->made.calls);
    d->n = 0;
    if (shows(c, d))
        text_event(c, k, d, out);
}

/* An event for each token that has something to show. */
static void choice_events(struct call *c, struct choice *k, struct buf *out) {
    const char *text = k->box.text.data;
    for (size_t i = 0; i < k->box.n; i++) {
        const struct piece *p = &k->box.piece[i];
        struct delta d = {text, (size_t)p->len, NULL, NULL, p->id};
        if (p->prompt) {
            gather_prompt(k, i);
            continue;
        }
        if (c->echo && !k->begun)
            echo_event(c, k, out);
        if (!k->first_us)
            k->first_us = clock_us();
        k->n_out += p->id >= 0;
        if (c->n_logprobs >= 0 && p->id >= 0) {
            d.entries = json_array();
            json_array_append_new(d.entries, piece_logprob(k, i));
        }
        if (c->tools.choice != TOOLS_OFF)
            call_events(c, k, &d, false, out);
        else if (shows(c, &d))
            text_event(c, k, &d, out);
        text += p->len;
    }
    if (k->box.ended && c->echo && !k->begun)
        echo_event(c, k, out);
    if (k->box.ended && !k->ended && c->tools.choice != TOOLS_OFF)
        call_events(c, k, &(struct delta){"", 0, NULL, NULL, -1}, true, out);
}

/* How far the prompt was read, without a choice: that would look like a token. */
static void progress_event(struct call *c, struct choice *k, struct buf *out) {
    int n = atomic_load_explicit(&k->task.n_read, memory_order_acquire);
    if (!c->p.return_progress || n == k->n_read)
        return;
    k->n_read = n;
    begin_event(c, out);
    buf_printf(out,
               "],\"prompt_progress\":{\"index\":%d,\"total\":%d,\"cache\":%d,"
               "\"processed\":%d,\"time_ms\":%.3f}}\n\n",
               k->index, k->task.r.n, atomic_load_explicit(&k->task.n_cached, memory_order_relaxed),
               n, (double)(clock_us() - c->start_us) / 1e3);
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
        progress_event(c, &c->choice[i], out);
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
            text_event(c, k, &(struct delta){"", 0, NULL, NULL, -1}, out);
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
