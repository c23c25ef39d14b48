/* call.c - see call.h.
 *
 * Everything here runs on libmicrohttpd's thread, but for on_wake, which the engine's thread calls.
 * The exchange is held once for each task that has not ended, so a call is freed by whoever is
 * last: the client's end, or the last task's. */
#include "serve/call.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/mem.h"

enum {
    MOST_PROMPTS = 256,
    STOP_BYTES = 256,
    MOST_STOP_IDS = 64,
    MOST_BIAS = 1024,
    MOST_SCORES = 1 << 18
};

/* -- reading a request ------------------------------------------------------------------------- */

static int read_stop(struct call *c, struct fault *f) {
    const json_t *v = c->p.stop;
    size_t n = json_is_array(v) ? json_array_size(v) : v ? 1 : 0;
    if (n > sizeof c->stop / sizeof c->stop[0])
        return fault_set(f, 400, "out_of_range", "stop", "stop has %zu texts, at most %zu go", n,
                         sizeof c->stop / sizeof c->stop[0]);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s))
            return fault_set(f, 400, "invalid_type", "stop", "stop[%zu] must be a string", i);
        if (!json_string_length(s) || json_string_length(s) > STOP_BYTES)
            return fault_set(f, 400, "out_of_range", "stop", "stop[%zu] must have 1 to %d bytes", i,
                             STOP_BYTES);
        c->stop[c->n_stop++] = json_string_value(s);
    }
    return 0;
}

static int read_stop_ids(struct call *c, struct fault *f) {
    size_t n = json_array_size(c->p.stop_token_ids);
    if (n > MOST_STOP_IDS)
        return fault_set(f, 400, "out_of_range", "stop_token_ids",
                         "stop_token_ids has %zu ids, at most %d go", n, MOST_STOP_IDS);
    for (size_t i = 0; i < n; i++)
        if (read_id(c->server, json_array_get(c->p.stop_token_ids, i), "stop_token_ids",
                    &c->stop_id[c->n_stop_id++], f))
            return -1;
    if (c->at == AT_CHAT)
        c->n_stop_id +=
            prompter_stops(c->server->prompter, c->stop_id + c->n_stop_id,
                           (int)(sizeof c->stop_id / sizeof c->stop_id[0]) - c->n_stop_id);
    return 0;
}

static int read_bias(struct call *c, struct fault *f) {
    size_t n = json_object_size(c->p.logit_bias);
    const char *key;
    json_t *v;
    if (n > MOST_BIAS)
        return fault_set(f, 400, "out_of_range", "logit_bias",
                         "logit_bias has %zu tokens, at most %d go", n, MOST_BIAS);
    c->bias = mem_array(n, sizeof *c->bias);
    json_object_foreach((json_t *)c->p.logit_bias, key, v) {
        char *end;
        long id = strtol(key, &end, 10);
        if (end == key || *end || id < 0 || id >= c->server->m->cfg.vocab)
            return fault_set(f, 400, "out_of_range", "logit_bias",
                             "logit_bias: '%.40s' is not a token id below %d", key,
                             c->server->m->cfg.vocab);
        if (!json_is_number(v) || !(fabs(json_number_value(v)) <= 100))
            return fault_set(f, 400, "out_of_range", "logit_bias",
                             "logit_bias: the value of %ld must be a number in [-100, 100]", id);
        c->bias[c->n_bias++] = (struct logit_bias){(int32_t)id, (float)json_number_value(v)};
    }
    return 0;
}

static int option_bool(const json_t *obj, const char *key, bool *out, struct fault *f) {
    const json_t *v = json_object_get(obj, key);
    if (v && !json_is_null(v) && !json_is_boolean(v))
        return fault_set(f, 400, "invalid_type", "stream_options",
                         "stream_options.%s must be true or false", key);
    *out = json_is_true(v);
    return 0;
}

static int read_logprobs(struct call *c, struct fault *f) {
    const struct params *p = &c->p;
    c->n_logprobs = -1;
    if (c->at == AT_CHAT && p->top_logprobs && !p->logprobs)
        return fault_set(f, 400, "invalid_value", "top_logprobs", "top_logprobs needs logprobs");
    if (c->at == AT_CHAT && p->logprobs)
        c->n_logprobs = (int)p->top_logprobs;
    if (c->at == AT_COMPLETION && p->n_logprobs != ABSENT_INT)
        c->n_logprobs = (int)p->n_logprobs;
    c->n_prompt_logprobs = p->prompt_logprobs == ABSENT_INT ? -1 : (int)p->prompt_logprobs;
    if (c->n_prompt_logprobs >= 0 && p->stream)
        return fault_set(f, 400, "invalid_value", "prompt_logprobs",
                         "prompt_logprobs are not given in a stream");
    c->echo_logprobs = p->echo && c->n_logprobs >= 0;
    return 0;
}

static int check_support(struct call *c, struct fault *f) {
    const struct params *p = &c->p;
    if (p->best_of != ABSENT_INT && p->best_of != p->n)
        return fault_set(f, 400, "invalid_value", "best_of", "best_of must equal n");
    if (p->n > c->server->o.max_n)
        return fault_set(f, 400, "out_of_range", "n", "n must be in [1, %d]", c->server->o.max_n);
    return 0;
}

/* response_format: free text, any JSON object, or JSON of a schema. */
static int read_format(struct call *c, struct fault *f) {
    const json_t *format = c->p.response_format, *schema = NULL;
    const char *type = json_string_value(json_object_get(format, "type"));
    struct err err = {0};
    if (!format || (type && !strcmp(type, "text")))
        return 0;
    if (!type || (strcmp(type, "json_object") && strcmp(type, "json_schema")))
        return fault_set(f, 400, "invalid_value", "response_format",
                         "response_format.type must be text, json_object or json_schema");
    if (!strcmp(type, "json_schema")) {
        schema = json_object_get(json_object_get(format, "json_schema"), "schema");
        if (!schema)
            return fault_set(f, 400, "missing", "response_format",
                             "response_format.json_schema.schema is missing");
    }
    if (!(c->schema = guide_schema_new(schema, &err)))
        return fault_set(f, 400, "invalid_schema", "response_format", "response_format: %s",
                         err.msg);
    return 0;
}

/* tools: what may be called, or must be: then a schema holds the answer to one call. */
static int read_tools(struct call *c, struct fault *f) {
    struct err err = {0};
    if (c->at != AT_CHAT)
        return 0;
    if (tools_read(&c->p, prompter_calls(c->server->prompter), &c->tools, f))
        return -1;
    if (c->tools.choice != TOOLS_FORCED) {
        if (c->schema)
            c->tools.choice = TOOLS_OFF; /* JSON is the answer, not a call */
        return 0;
    }
    if (c->schema)
        return fault_set(f, 400, "invalid_value", "response_format",
                         "response_format and tool_choice ask for different answers");
    json_t *schema = tools_schema(&c->tools);
    c->schema = guide_schema_new(schema, &err);
    json_decref(schema);
    return c->schema ? 0 : fault_set(f, 400, "invalid_schema", "tools", "tools: %s", err.msg);
}

/* The text to show in front of the answer. */
static int echo_prompt(struct call *c, const json_t *v, int i) {
    if (json_is_array(v))
        return tok_decode(c->server->m->tok, c->prompt[i].id, c->prompt[i].n, !c->p.skip_special,
                          &c->echo[i], NULL);
    buf_add(&c->echo[i], json_string_value(v), json_string_length(v));
    return 0;
}

static int read_prompts(struct call *c, struct fault *f) {
    const json_t *v = c->p.prompt;
    /* [1, 2] is one prompt, [[1, 2], "x"] are two. */
    bool list = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = list ? json_array_size(v) : 1;
    if (!v || n < 1 || n > MOST_PROMPTS)
        return fault_set(f, 400, "invalid_value", "prompt",
                         "prompt must be a text, token ids, or 1 to %d of them", MOST_PROMPTS);
    c->prompt = mem_array(n, sizeof *c->prompt);
    c->echo = c->p.echo ? mem_array(n, sizeof *c->echo) : NULL;
    c->n_prompt = (int)n;
    for (size_t i = 0; i < n; i++)
        if (read_prompt(c->server, "prompt", list ? json_array_get(v, i) : v, c->p.add_special,
                        &c->prompt[i], f) ||
            (c->echo && echo_prompt(c, list ? json_array_get(v, i) : v, (int)i)) ||
            check_fits(c->server, (int)c->prompt[i].n, &c->p, f))
            return -1;
    return 0;
}

/* What prompts are worth is kept until the answer: it must not grow without bound. */
static int check_scores(const struct call *c, struct fault *f) {
    int64_t n = 0, each = c->n_prompt_logprobs + 1;
    for (int i = 0; i < c->n_prompt; i++)
        n += (int64_t)c->prompt[i].n * (c->p.stream ? c->p.n : 1);
    each += c->echo_logprobs ? c->n_logprobs + 1 : 0;
    if (n * each <= MOST_SCORES)
        return 0;
    return fault_set(f, 400, "out_of_range", c->echo_logprobs ? "logprobs" : "prompt_logprobs",
                     "%lld log-probabilities of prompts are asked for, at most %d go in a request",
                     (long long)(n * each), MOST_SCORES);
}

static int read_messages(struct call *c, struct fault *f) {
    const char *opening = tools_opening(&c->tools);
    c->prompt = mem_array(1, sizeof *c->prompt);
    c->n_prompt = 1;
    return conv_encode(c->server, &c->p, c->prompt, &c->continues, f) ||
                   encode_text(c->server, opening, strlen(opening), true, c->prompt, f) ||
                   check_fits(c->server, (int)c->prompt->n, &c->p, f)
               ? -1
               : 0;
}

/* -- tasks ------------------------------------------------------------------------------------- */

static void on_wake(void *ud, bool ended) {
    struct choice *k = ud;
    struct exchange *x = k->call->x;
    http_wake(x);
    if (ended)
        http_drop(x);
}

static uint64_t fresh_seed(void) {
    uint64_t s = 0;
    if (getrandom(&s, sizeof s, GRND_NONBLOCK) != sizeof s)
        s = (uint64_t)clock_ns();
    return s;
}

static void set_real(float *dst, double v) {
    if (!isnan(v))
        *dst = (float)v;
}

static struct sampling sampling_of(const struct call *c, int choice) {
    const struct params *p = &c->p;
    struct sampling s = c->server->o.sampling;
    set_real(&s.temp, p->temperature);
    set_real(&s.top_p, p->top_p);
    set_real(&s.min_p, p->min_p);
    set_real(&s.typical_p, p->typical_p);
    set_real(&s.repeat_penalty, p->repeat_penalty);
    set_real(&s.presence_penalty, p->presence_penalty);
    set_real(&s.frequency_penalty, p->frequency_penalty);
    if (p->top_k != ABSENT_INT)
        s.top_k = p->top_k < 0 ? 0 : (int)p->top_k;
    if (p->repeat_last_n != ABSENT_INT)
        s.repeat_last_n = (int)p->repeat_last_n;
    s.seed = p->seed < 0 ? fresh_seed() : (uint64_t)p->seed + (uint64_t)choice;
    s.bias = c->bias;
    s.n_bias = c->n_bias;
    return s;
}

static int max_new(const struct call *c) {
    return c->p.max_tokens != ABSENT_INT ? (int)c->p.max_tokens : c->server->o.max_new;
}

/* Holds the choice to the schema: it may end where the JSON is whole. */
static void constrain(struct call *c, struct choice *k) {
    const struct cfg *cfg = &c->server->m->cfg;
    int32_t end[sizeof c->stop_id / sizeof c->stop_id[0] + sizeof cfg->eos / sizeof cfg->eos[0]];
    int n = 0;
    for (int i = 0; i < cfg->n_eos && !c->p.ignore_eos; i++)
        end[n++] = cfg->eos[i];
    for (int i = 0; i < c->n_stop_id; i++)
        end[n++] = c->stop_id[i];
    k->guide = guide_new(c->server->guide_vocab, c->schema, end, n);
    k->task.r.constraint = (struct constraint){k->guide, guide_mask, guide_accept};
}

/* Log-probabilities that the engine gives for each token. */
static int stride(const struct call *c) {
    int n = c->n_logprobs > c->n_prompt_logprobs ? c->n_logprobs : c->n_prompt_logprobs;
    return n < 0 ? 0 : n == 0 ? 1 : n;
}

/* The prompt's are computed once for all choices of it, unless each has a stream of its own. */
static void want_logprobs(const struct call *c, struct choice *k) {
    bool first = c->p.stream || k->index % (int)c->p.n == 0;
    if (c->n_logprobs >= 0)
        k->logprobs = json_array();
    if (c->echo_logprobs && first)
        k->echoed = json_array();
    if (c->n_prompt_logprobs >= 0 && first)
        k->told = json_array();
    tok_stream_start(&k->shown, c->server->m->tok);
}

static void make_choices(struct call *c) {
    uint64_t salt = tenant_salt(http_tenant(c->x), c->p.cache_salt);
    c->n_choice = c->n_prompt * (int)c->p.n;
    c->choice = mem_array((size_t)c->n_choice, sizeof *c->choice);
    for (int i = 0; i < c->n_choice; i++) {
        struct choice *k = &c->choice[i];
        k->call = c;
        k->index = i;
        k->prompt = i / (int)c->p.n;
        want_logprobs(c, k);
        k->task.tell_progress = c->p.return_progress && c->p.stream;
        k->task.wake = on_wake;
        k->task.ud = k;
        k->task.r = (struct req){.ids = c->prompt[k->prompt].id,
                                 .n = (int)c->prompt[k->prompt].n,
                                 .max_new = max_new(c),
                                 .min_new = (int)c->p.min_tokens,
                                 .cache_salt = salt,
                                 .sampling = sampling_of(c, i % (int)c->p.n),
                                 .stop = c->stop,
                                 .n_stop = c->n_stop,
                                 .stop_id = c->stop_id,
                                 .n_stop_id = c->n_stop_id,
                                 .ignore_eos = c->p.ignore_eos,
                                 .continues = c->at == AT_COMPLETION || c->continues,
                                 .no_cache = !c->p.cache,
                                 .show_special = !c->p.skip_special,
                                 .prompt_logprobs = k->echoed || k->told,
                                 .n_logprobs = stride(c)};
        if (c->schema)
            constrain(c, k);
    }
}

struct call *call_read(struct server *s, struct exchange *x, enum endpoint at, json_t *body,
                       struct fault *f) {
    struct call *c = mem_new(sizeof *c);
    c->body = body;
    c->server = s;
    c->x = x;
    c->at = at;
    c->created = (int64_t)time(NULL);
    snprintf(c->id, sizeof c->id, "%s-%s", at == AT_CHAT ? "chatcmpl" : "cmpl", http_id(x));
    if (!body || body_params(x, body, at, &c->p, f) || check_model(s, c->p.model, f) ||
        check_support(c, f) || read_logprobs(c, f) || read_stop(c, f) || read_stop_ids(c, f) ||
        read_bias(c, f) || read_format(c, f) || read_tools(c, f) ||
        option_bool(c->p.stream_options, "include_usage", &c->usage_event, f) ||
        option_bool(c->p.stream_options, "continuous_usage_stats", &c->usage_each, f) ||
        (at == AT_CHAT ? read_messages(c, f) : read_prompts(c, f)) || check_scores(c, f)) {
        call_free(c);
        return NULL;
    }
    make_choices(c);
    return c;
}

void call_free(void *call) {
    struct call *c = call;
    for (int i = 0; i < c->n_choice; i++) {
        task_release(&c->choice[i].task);
        box_free(&c->choice[i].box);
        buf_free(&c->choice[i].text);
        json_decref(c->choice[i].logprobs);
        json_decref(c->choice[i].echoed);
        json_decref(c->choice[i].told);
        ids_free(&c->choice[i].tokens);
        guide_free(c->choice[i].guide);
        made_free(&c->choice[i].made);
    }
    for (int i = 0; i < c->n_prompt; i++) {
        ids_free(&c->prompt[i]);
        if (c->echo)
            buf_free(&c->echo[i]);
    }
    guide_schema_free(c->schema);
    json_decref(c->body);
    buf_free(&c->head);
    free(c->extra);
    free(c->prompt);
    free(c->echo);
    free(c->choice);
    free(c->bias);
    free(c);
}

void call_start(struct call *c, const struct job_ops *ops) {
    struct loop *l = c->server->loop;
    struct err err = {0};
    struct fault f = {0};
    struct task **task = mem_array((size_t)c->n_choice, sizeof *task);
    c->start_us = clock_us();
    for (int i = 0; i < c->n_choice; i++) {
        task[i] = &c->choice[i].task;
        http_hold(c->x);
    }
    if (loop_submit(l, task, c->n_choice, &err) == 0) {
        http_job(c->x, ops, c);
    } else {
        for (int i = 0; i < c->n_choice; i++)
            http_drop(c->x);
        if (err.code == E_BUSY)
            fault_set(&f, 429, "queue_full", NULL, "%s", err.msg);
        else
            fault_set(&f, 503, "stopping", NULL, "%s", err.msg);
        f.retry_after = err.code == E_BUSY ? loop_retry_after(l) : 1;
        ops->refuse(c->x, &f);
        call_free(c);
    }
    free(task);
}

void call_left(void *call) {
    struct call *c = call;
    for (int i = 0; i < c->n_choice; i++)
        loop_cancel(c->server->loop, &c->choice[i].task);
}

/* -- what the tasks give ----------------------------------------------------------------------- */

bool call_take(struct call *c) {
    bool all = true;
    for (int i = 0; i < c->n_choice; i++) {
        struct choice *k = &c->choice[i];
        bool ended = k->box.ended;
        box_clear(&k->box);
        k->box.ended = ended;
        if (!ended)
            loop_take(&k->task, &k->box);
        all = all && k->box.ended;
    }
    return all;
}

int task_fault(const struct task *t, struct fault *f) {
    if (t->usage.why == FIN_CANCELLED)
        return fault_set(f, 503, "stopping", NULL, "the server is stopping");
    if (t->err.code == E_BUSY) {
        f->retry_after = loop_retry_after(t->loop);
        return fault_set(f, 503, "queue_timeout", NULL, "%s", t->err.msg);
    }
    if (t->err.code == E_MEMORY)
        return fault_set(f, 503, "kv_exhausted", NULL, "%s", t->err.msg);
    return fault_set(f, 500, strncmp(t->err.msg, "nan_", 4) ? "engine" : "nan_logits", NULL, "%s",
                     t->err.msg);
}

bool call_failed(const struct call *c, struct fault *f) {
    for (int i = 0; i < c->n_choice; i++) {
        const struct choice *k = &c->choice[i];
        if (k->box.ended && k->task.usage.why >= FIN_CANCELLED)
            return task_fault(&k->task, f) != 0;
    }
    return false;
}

struct totals call_totals(const struct call *c) {
    struct totals t = {0};
    for (int i = 0; i < c->n_choice; i++) {
        const struct choice *k = &c->choice[i];
        const struct usage *u = &k->task.usage;
        bool ended = k->box.ended;
        int64_t now = ended ? 0 : clock_us(), first = k->first_us ? k->first_us : now;
        int64_t prompt_us = ended ? u->prompt_us : first - c->start_us;
        int64_t decode_us = ended ? u->decode_us : now - first;
        t.out += k->n_out;
        if (i % (int)c->p.n == 0) { /* choices share their prompt */
            t.prompt += k->task.r.n;
            t.cached += atomic_load_explicit((atomic_int *)&k->task.n_cached, memory_order_relaxed);
        }
        if (prompt_us > t.prompt_us)
            t.prompt_us = prompt_us;
        if (decode_us > t.decode_us)
            t.decode_us = decode_us;
    }
    return t;
}

const char *finish_word(enum finish why) {
    return why == FIN_LENGTH ? "length" : "stop";
}
