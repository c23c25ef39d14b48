/* bench_serve.c - `pumice bench serve --url U`: streams completions from a server, times them as
 * `vllm bench serve` does, and has its field names with --json.
 *
 * Prompts are random token ids, the same for the same seed.  Times are taken here: TTFT from the
 * request's start to the first event with text; ITL between events with text; TPOT = (end - TTFT) /
 * (tokens - 1).  Tokens are the server's own count (usage), and must be those that were asked for.
 * Memory is the server's word too: what /metrics says during the run, if it is a pumice.
 *
 * With --long-prompt one more request comes when all streams generate: what it does to them is the
 * stall that Sarathi is to avoid (docs/method/sarathi.md).
 *
 * One thread does everything; the processor time that it took is reported, as it is a part of what
 * a server on the same machine does not have. */
#include <curl/curl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"

struct bench {
    const char *url, *model, *key;
    int n, concurrency, n_in, n_out, n_long, vocab, warm;
    int64_t seed;
    float rate; /* requests a second; 0 = as fast as they are answered */
    bool json, help;
    struct curl_slist *headers;
    char completions[512], name[128];
    uint64_t prompts; /* FNV-1a of the ids of all prompts that count */
};

struct series { /* milliseconds */
    double *v;
    size_t n, cap;
};

struct request {
    CURL *curl;
    struct buf body, line; /* sent; received and not yet a whole event */
    int64_t due_us;        /* since the run's begin; INT64_MAX = not yet known */
    int64_t start_us;      /* clock_us() */
    struct series at;      /* of events with text: milliseconds of the clock */
    int want_in, want_out; /* tokens asked for */
    int n_in, n_out;       /* tokens that the server counts */
    bool done, failed;
    char problem[160];
};

static void series_add(struct series *s, double ms) {
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->v = mem_resize(s->v, s->cap, sizeof *s->v);
    }
    s->v[s->n++] = ms;
}

static double first_ms(const struct request *r) { /* from its start; it has text */
    return r->at.v[0] - (double)r->start_us / 1e3;
}

/* -- one request ------------------------------------------------------------------------------- */

/* The i-th prompt of this seed.  *hash takes its ids in. */
static void make_body(const struct bench *b, struct request *r, uint64_t i, uint64_t *hash) {
    struct rng rng;
    rng_seed(&rng, (uint64_t)b->seed * 1000003 + i);
    buf_printf(&r->body,
               "{\"model\":\"%s\",\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":true,"
               "\"add_special_tokens\":false,\"stream\":true,"
               "\"stream_options\":{\"include_usage\":true},\"prompt\":[",
               b->name, r->want_out);
    for (int k = 0; k < r->want_in; k++) { /* the first ids are special in many vocabularies */
        uint32_t id = 10 + rng_below(&rng, (uint32_t)b->vocab - 10);
        buf_printf(&r->body, "%s%u", k ? "," : "", id);
        *hash = (*hash ^ id) * 0x100000001b3u;
    }
    buf_adds(&r->body, "]}");
}

static void fail(struct request *r, const char *why) {
    if (!r->failed)
        snprintf(r->problem, sizeof r->problem, "%s", why);
    r->failed = true;
}

static void on_event(struct request *r, const char *data, size_t n) {
    double now = (double)clock_us() / 1e3;
    if (n == 6 && !memcmp(data, "[DONE]", 6)) {
        r->done = true;
        return;
    }
    json_t *j = json_loadb(data, n, 0, NULL);
    const json_t *choice = json_array_get(json_object_get(j, "choices"), 0);
    const json_t *usage = json_object_get(j, "usage"), *error = json_object_get(j, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    if (!j || error)
        fail(r, message ? message : "an event is not JSON");
    if (json_string_length(json_object_get(choice, "text")))
        series_add(&r->at, now);
    if (json_is_object(usage)) {
        r->n_in = (int)json_integer_value(json_object_get(usage, "prompt_tokens"));
        r->n_out = (int)json_integer_value(json_object_get(usage, "completion_tokens"));
    }
    json_decref(j);
}

static size_t on_data(char *p, size_t size, size_t n, void *ud) {
    struct request *r = ud;
    buf_add(&r->line, p, size * n);
    for (char *end; r->line.len && (end = memmem(r->line.data, r->line.len, "\n\n", 2));) {
        size_t len = (size_t)(end - r->line.data);
        if (len > 6 && !memcmp(r->line.data, "data: ", 6))
            on_event(r, r->line.data + 6, len - 6);
        memmove(r->line.data, end + 2, r->line.len - len - 2);
        r->line.len -= len + 2;
    }
    return size * n;
}

static void start(const struct bench *b, CURLM *multi, struct request *r) {
    CURL *c = r->curl = curl_easy_init();
    if (!c) {
        fail(r, "libcurl cannot start");
        return;
    }
    curl_easy_setopt(c, CURLOPT_URL, b->completions);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, b->headers);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, buf_str(&r->body));
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)r->body.len);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(c, CURLOPT_PRIVATE, r);
    curl_easy_setopt(c, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    r->start_us = clock_us();
    curl_multi_add_handle(multi, c);
}

/* A server that counts other tokens than were asked for does other work. */
static void check_tokens(struct request *r) {
    char why[sizeof r->problem];
    if (r->failed || (r->n_in == r->want_in && r->n_out == r->want_out && r->at.n))
        return;
    snprintf(why, sizeof why, "asked for %d + %d tokens, the server counts %d + %d, %zu with text",
             r->want_in, r->want_out, r->n_in, r->n_out, r->at.n);
    fail(r, why);
}

static void finish(CURLM *multi, const CURLMsg *m, struct request *r) {
    long status = 0;
    curl_easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &status);
    if (m->data.result != CURLE_OK)
        fail(r, curl_easy_strerror(m->data.result));
    if (status != 200 && !r->failed) {
        fail(r, "");
        snprintf(r->problem, sizeof r->problem, "HTTP %ld: %.100s", status, buf_str(&r->line));
    }
    if (!r->done)
        fail(r, "the stream ended without [DONE]");
    check_tokens(r);
    curl_multi_remove_handle(multi, r->curl);
    curl_easy_cleanup(r->curl);
    r->curl = NULL;
}

/* -- the server's memory ----------------------------------------------------------------------- */

static size_t on_text(char *p, size_t size, size_t n, void *ud) {
    buf_add(ud, p, size * n);
    return size * n;
}

/* The most that /metrics has said, in bytes; `known` stays false with another server. */
struct memory {
    CURL *curl; /* of the question on its way */
    struct buf text;
    int64_t asked_us;
    bool known, off;
    double held, live, fixed, resident;
};

static void most(const char *text, const char *name, double *out) {
    const char *p = text ? strstr(text, name) : NULL;
    double v = p ? strtod(p + strlen(name), NULL) : 0;
    *out = v > *out ? v : *out;
}

static CURL *ask(const struct bench *b, const char *path, struct buf *text) {
    char url[512];
    CURL *c = curl_easy_init();
    snprintf(url, sizeof url, "%s%s", b->url, path);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, b->headers);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_text);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, text);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    return c;
}

static void memory_told(struct memory *m) {
    const char *text = buf_str(&m->text);
    m->known |= strstr(text, "\npumice_kv_bytes{") != NULL;
    m->off = !m->known;
    most(text, "\npumice_kv_bytes{state=\"held\"} ", &m->held);
    most(text, "\npumice_kv_bytes{state=\"live\"} ", &m->live);
    most(text, "\npumice_kv_bytes{state=\"static\"} ", &m->fixed);
    most(text, "\nprocess_resident_memory_bytes ", &m->resident);
    m->text.len = 0;
}

/* Asks again 0.2 s after the last time. */
static void memory_look(const struct bench *b, CURLM *multi, struct memory *m) {
    int64_t now = clock_us();
    if (m->off || m->curl || now - m->asked_us < 200000)
        return;
    m->asked_us = now;
    if ((m->curl = ask(b, "/metrics", &m->text)))
        curl_multi_add_handle(multi, m->curl);
}

static void memory_end(CURLM *multi, struct memory *m) {
    if (multi)
        curl_multi_remove_handle(multi, m->curl);
    curl_easy_cleanup(m->curl);
    m->curl = NULL;
    memory_told(m);
}

/* -- all of them ------------------------------------------------------------------------------- */

struct run {
    CURLM *multi;
    struct request *r;
    int n, next, running;
    int64_t begin;
    struct memory *memory; /* NULL = nobody asks */
};

/* The long prompt, the last request, comes when every stream has a quarter of its tokens. */
static void call_long(const struct bench *b, struct run *u, int64_t now) {
    struct request *last = &u->r[u->n - 1];
    if (!b->n_long || last->due_us != INT64_MAX)
        return;
    for (int i = 0; i < u->n - 1; i++)
        if (u->r[i].at.n < (size_t)(b->n_out + 3) / 4 && !u->r[i].failed)
            return;
    last->due_us = now;
}

static void take_ends(struct run *u) {
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(u->multi, &left));) {
        struct request *r = NULL;
        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&r);
        if (r) {
            finish(u->multi, m, r);
            u->running--;
        } else {
            memory_end(u->multi, u->memory);
        }
    }
}

/* Starts what is due, at most `concurrency` at a time, and waits for the rest. */
static int run_all(const struct bench *b, struct run *u, struct err *err) {
    int left;
    if (!(u->multi = curl_multi_init()))
        return err_set(err, E_MEMORY, "libcurl cannot start");
    u->begin = clock_us();
    while (u->next < u->n || u->running) {
        int64_t now = clock_us() - u->begin;
        call_long(b, u, now);
        while (u->next < u->n && u->running < b->concurrency && u->r[u->next].due_us <= now) {
            start(b, u->multi, &u->r[u->next]);
            u->running += u->r[u->next++].curl != NULL;
        }
        if (u->memory)
            memory_look(b, u->multi, u->memory);
        curl_multi_perform(u->multi, &left);
        take_ends(u);
        bool more = u->next < u->n && u->running < b->concurrency;
        int64_t due = more ? u->r[u->next].due_us : INT64_MAX;
        now = clock_us() - u->begin;
        int64_t wait = due - now < 0 ? 0 : due - now < 100000 ? (due - now) / 1000 : 100;
        if (u->running || u->next < u->n)
            curl_multi_poll(u->multi, NULL, 0, (int)wait, NULL);
    }
    if (u->memory && u->memory->curl)
        memory_end(u->multi, u->memory);
    curl_multi_cleanup(u->multi);
    return 0;
}

/* Arrivals of a Poisson process, or all at once. */
static void plan_arrivals(const struct bench *b, struct request *r, int n) {
    struct rng rng;
    double at = 0;
    rng_seed(&rng, (uint64_t)b->seed);
    for (int i = 0; i < n; i++) {
        r[i].due_us = b->n_long && i == n - 1 ? INT64_MAX : (int64_t)(at * 1e6);
        if (b->rate > 0)
            at += -log(1 - rng_double(&rng)) / (double)b->rate;
    }
}

/* The server's model: its name, and the size of its vocabulary if it tells. */
static int ask_model(struct bench *b, struct err *err) {
    struct buf text = {0};
    CURL *c = ask(b, "/v1/models", &text);
    CURLcode rc = curl_easy_perform(c);
    curl_easy_cleanup(c);
    json_t *j = rc ? NULL : json_loadb(text.data ? text.data : "", text.len, 0, NULL);
    const json_t *m = json_array_get(json_object_get(j, "data"), 0);
    const char *id = json_string_value(json_object_get(m, "id"));
    json_int_t vocab = json_integer_value(json_object_get(json_object_get(m, "meta"), "n_vocab"));
    if (rc)
        err_set(err, E_NETWORK, "%s/v1/models: %s", b->url, curl_easy_strerror(rc));
    else if (!id && !b->model)
        err_set(err, E_NETWORK, "%s/v1/models: names no model", b->url);
    if (!b->vocab)
        b->vocab = vocab > 10 && vocab < (1 << 24) ? (int)vocab : 1000;
    snprintf(b->name, sizeof b->name, "%s", b->model ? b->model : id ? id : "");
    json_decref(j);
    buf_free(&text);
    return err->code ? -1 : 0;
}

/* -- figures ----------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear between the two nearest, as NumPy's percentile. */
static double percentile(const struct series *s, double p) {
    if (!s->n)
        return 0;
    double at = p / 100 * (double)(s->n - 1);
    size_t i = (size_t)at;
    double next = i + 1 < s->n ? s->v[i + 1] : s->v[i];
    return s->v[i] + (at - (double)i) * (next - s->v[i]);
}

/* mean_, median_, std_, p50_, p90_, p99_, max_ and the name; sorts s. */
static void put_series(json_t *j, const char *name, struct series *s) {
    static const struct {
        const char *name;
        double p;
    } at[] = {{"median", 50}, {"p50", 50}, {"p90", 90}, {"p99", 99}, {"max", 100}};
    char key[64];
    double sum = 0, square = 0;
    for (size_t i = 0; i < s->n; i++)
        sum += s->v[i];
    double mean = s->n ? sum / (double)s->n : 0;
    for (size_t i = 0; i < s->n; i++)
        square += (s->v[i] - mean) * (s->v[i] - mean);
    if (s->n)
        qsort(s->v, s->n, sizeof *s->v, ascending);
    snprintf(key, sizeof key, "mean_%s_ms", name);
    json_object_set_new(j, key, json_real(mean));
    snprintf(key, sizeof key, "std_%s_ms", name);
    json_object_set_new(j, key, json_real(s->n ? sqrt(square / (double)s->n) : 0));
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        snprintf(key, sizeof key, "%s_%s_ms", at[i].name, name);
        json_object_set_new(j, key, json_real(percentile(s, at[i].p)));
    }
}

static void put_times(json_t *j, const struct request *r, int n) {
    struct series ttft = {0}, tpot = {0}, itl = {0}, e2el = {0};
    for (int i = 0; i < n; i++) {
        if (r[i].failed)
            continue;
        double first = first_ms(&r[i]),
               end = r[i].at.v[r[i].at.n - 1] - (double)r[i].start_us / 1e3;
        series_add(&ttft, first);
        series_add(&e2el, end);
        if (r[i].n_out > 1)
            series_add(&tpot, (end - first) / (r[i].n_out - 1));
        for (size_t k = 1; k < r[i].at.n; k++)
            series_add(&itl, r[i].at.v[k] - r[i].at.v[k - 1]);
    }
    put_series(j, "ttft", &ttft);
    put_series(j, "tpot", &tpot);
    put_series(j, "itl", &itl);
    put_series(j, "e2el", &e2el);
    free(ttft.v);
    free(tpot.v);
    free(itl.v);
    free(e2el.v);
}

/* Gaps of the streams r[0..n) that touch [from, to], or with `inside` lie in it. */
static struct series gaps(const struct request *r, int n, double from, double to, bool inside) {
    struct series out = {0};
    for (int i = 0; i < n; i++)
        for (size_t k = 1; k < r[i].at.n; k++) {
            double a = r[i].at.v[k - 1], z = r[i].at.v[k];
            if (inside ? a >= from && z <= to : z >= from && a <= to)
                series_add(&out, z - a);
        }
    return out;
}

/* What the long prompt r[n] did to the streams r[0..n): gaps between their tokens before it came,
 * when all of them generated, and while it was read. */
static int put_long(json_t *j, const struct request *r, int n, struct err *err) {
    double all = 0, come = (double)r[n].start_us / 1e3, read = r[n].at.v[0];
    for (int i = 0; i < n; i++) {
        all = r[i].at.v[0] > all ? r[i].at.v[0] : all;
        if (r[i].at.v[r[i].at.n - 1] < read)
            return err_set(err, E_USAGE,
                           "a stream ended before the long prompt was read: give more "
                           "--random-output-len");
    }
    struct series calm = gaps(r, n, all, come, true), stall = gaps(r, n, come, read, false);
    json_object_set_new(j, "long_input_len", json_integer(r[n].n_in));
    json_object_set_new(j, "long_ttft_ms", json_real(first_ms(&r[n])));
    put_series(j, "itl_before_long", &calm);
    put_series(j, "itl_during_long", &stall);
    free(calm.v);
    free(stall.v);
    return 0;
}

static json_t *bytes_or_null(const struct memory *m, double bytes) {
    return m->known ? json_integer((json_int_t)bytes) : json_null();
}

static void put_memory(json_t *j, const struct memory *m) {
    json_object_set_new(j, "kv_held_bytes", bytes_or_null(m, m->held));
    json_object_set_new(j, "kv_live_bytes", bytes_or_null(m, m->live));
    json_object_set_new(j, "kv_static_bytes", bytes_or_null(m, m->fixed));
    json_object_set_new(j, "server_resident_bytes", bytes_or_null(m, m->resident));
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static json_t *report(const struct bench *b, const struct request *r, int n, double seconds) {
    int completed = 0;
    json_int_t in = 0, out = 0;
    char date[32];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y%m%d-%H%M%S", gmtime(&now));
    for (int i = 0; i < n; i++) {
        completed += !r[i].failed;
        in += r[i].failed ? 0 : r[i].n_in;
        out += r[i].failed ? 0 : r[i].n_out;
    }
    json_t *j =
        json_pack("{s:s,s:s,s:s,s:i,s:o,s:i,s:f,s:i,s:i,s:I,s:I}", "date", date, "endpoint_type",
                  "openai", "model_id", b->name, "num_prompts", n, "request_rate",
                  b->rate > 0 ? json_real((double)b->rate) : json_string("inf"), "max_concurrency",
                  b->concurrency, "duration", seconds, "completed", completed, "failed",
                  n - completed, "total_input_tokens", in, "total_output_tokens", out);
    json_object_set_new(j, "request_throughput", json_real(completed / seconds));
    json_object_set_new(j, "output_throughput", json_real((double)out / seconds));
    json_object_set_new(j, "total_token_throughput", json_real((double)(in + out) / seconds));
    json_object_set_new(j, "prompts_hash", json_sprintf("%016llx", (unsigned long long)b->prompts));
    put_times(j, r, n);
    return j;
}

static double real(const json_t *j, const char *key) {
    return json_number_value(json_object_get(j, key));
}

static void print_series(const json_t *j, const char *title, const char *name) {
    static const char *const at[] = {"mean", "p50", "p90", "p99", "max"};
    char key[64];
    snprintf(key, sizeof key, "mean_%s_ms", name);
    if (!json_object_get(j, key))
        return;
    printf("%16s", title);
    for (int k = 0; k < 5; k++) {
        snprintf(key, sizeof key, "%s_%s_ms", at[k], name);
        printf(" %10.2f", real(j, key));
    }
    putchar('\n');
}

static void print(const json_t *j) {
    printf("%d requests in %.2f s: %.2f requests/s, %.1f output tokens/s, %.1f tokens/s\n"
           "%16s %10s %10s %10s %10s %10s  (ms)\n",
           (int)real(j, "completed"), real(j, "duration"), real(j, "request_throughput"),
           real(j, "output_throughput"), real(j, "total_token_throughput"), "", "mean", "p50",
           "p90", "p99", "max");
    print_series(j, "ttft", "ttft");
    print_series(j, "tpot", "tpot");
    print_series(j, "itl", "itl");
    print_series(j, "e2el", "e2el");
    print_series(j, "itl before long", "itl_before_long");
    print_series(j, "itl during long", "itl_during_long");
    if (json_object_get(j, "long_ttft_ms"))
        printf("long prompt of %d tokens: first token after %.1f ms\n",
               (int)real(j, "long_input_len"), real(j, "long_ttft_ms"));
    if (json_is_integer(json_object_get(j, "kv_held_bytes")))
        printf(
            "keys and values: %.1f MiB held, %.1f MiB live; all slots at full context: %.1f MiB\n",
            real(j, "kv_held_bytes") / (1 << 20), real(j, "kv_live_bytes") / (1 << 20),
            real(j, "kv_static_bytes") / (1 << 20));
    printf("processor time of this client: %.1f %% of a core\n",
           100 * real(j, "client_cpu_seconds") / real(j, "duration"));
}

/* -- the command ------------------------------------------------------------------------------- */

static void free_requests(struct request *r, int n) {
    for (int i = 0; i < n; i++) {
        buf_free(&r[i].body);
        buf_free(&r[i].line);
        free(r[i].at.v);
    }
    free(r);
}

/* The first problem of n requests, NULL = none. */
static const char *problem_of(const struct request *r, int n) {
    for (int i = 0; i < n; i++)
        if (r[i].failed)
            return r[i].problem;
    return NULL;
}

static struct request *make_requests(struct bench *b, int n, uint64_t first, uint64_t *hash) {
    struct request *r = mem_array((size_t)n, sizeof *r);
    for (int i = 0; i < n; i++) {
        bool is_long = b->n_long && first == 0 && i == n - 1;
        r[i].want_in = is_long ? b->n_long : b->n_in;
        r[i].want_out = is_long ? 1 : b->n_out;
        make_body(b, &r[i], first + (uint64_t)i, hash);
    }
    return r;
}

/* Runs the requests that count, and says what came of them. */
static int count(const struct bench *b, struct request *r, int n, struct err *err) {
    struct memory memory = {0};
    struct run run = {.r = r, .n = n, .memory = &memory};
    json_t *j = NULL;
    double cpu = cpu_seconds();
    int rc = run_all(b, &run, err);
    double seconds = (double)(clock_us() - run.begin) / 1e6;
    cpu = cpu_seconds() - cpu;
    if (rc)
        goto out;
    if (!memory.off && (memory.curl = ask(b, "/metrics", &memory.text))) {
        curl_easy_perform(memory.curl);
        memory_end(NULL, &memory);
    }
    j = report(b, r, n, seconds);
    put_memory(j, &memory);
    json_object_set_new(j, "client_cpu_seconds", json_real(cpu));
    const char *problem = problem_of(r, n);
    if (b->n_long && !problem && (rc = put_long(j, r, n - 1, err)))
        goto out;
    if (b->json)
        rc = cmd_print_json(json_incref(j), true, err);
    else
        print(j);
    if (problem)
        rc = err_set(err, E_NETWORK, "a request failed: %s", problem);
out:
    json_decref(j);
    buf_free(&memory.text);
    return rc;
}

static int measure(struct bench *b, struct err *err) {
    int n = b->n + (b->n_long > 0);
    uint64_t unused = 0;
    if (ask_model(b, err))
        return -1;
    b->prompts = 0xcbf29ce484222325u;
    struct request *r = make_requests(b, n, 0, &b->prompts);
    struct request *warm = make_requests(b, b->warm, (uint64_t)n, &unused); /* other prompts */
    plan_arrivals(b, r, n);
    int rc = run_all(b, &(struct run){.r = warm, .n = b->warm}, err);
    rc = rc || count(b, r, n, err);
    free_requests(warm, b->warm);
    free_requests(r, n);
    return rc;
}

static int bench_serve(struct bench *b, struct err *err) {
    char key[300];
    if (!b->url)
        return err_set(err, E_USAGE, "--url is missing, such as http://127.0.0.1:8080");
    if (b->n_long && b->rate > 0)
        return err_set(err, E_USAGE, "--long-prompt: not with --request-rate");
    if (b->n_long) /* all at once, and the long one beside them */
        b->concurrency = b->n + 1;
    snprintf(b->completions, sizeof b->completions, "%s/v1/completions", b->url);
    if (curl_global_init(CURL_GLOBAL_DEFAULT))
        return err_set(err, E_NETWORK, "libcurl cannot start");
    b->headers = curl_slist_append(NULL, "Content-Type: application/json");
    snprintf(key, sizeof key, "Authorization: Bearer %s", b->key ? b->key : "");
    if (b->key)
        b->headers = curl_slist_append(b->headers, key);
    int rc = measure(b, err);
    curl_slist_free_all(b->headers);
    curl_global_cleanup();
    return rc;
}

int cmd_bench_serve(int argc, char **argv) {
    struct bench b = {.n = 32, .concurrency = 16, .n_in = 256, .n_out = 64, .warm = 2};
    struct err err = {0};
    int rest;
    const struct opt table[] = {
        {"url", 0, "base-url", OPT_STR, &b.url, .arg = "URL", .help = "the server"},
        {"model", 0, NULL, OPT_STR, &b.model, .arg = "NAME",
         .help = "its model (default: the first that it lists)"},
        {"api-key", 0, NULL, OPT_STR, &b.key, .arg = "KEY", .help = "sent as a bearer's"},
        {"num-prompts", 'n', NULL, OPT_INT, &b.n, 1, 1000000, "N", "requests (default 32)"},
        {"max-concurrency", 0, NULL, OPT_INT, &b.concurrency, 1, 100000, "N",
         "at a time (default 16)"},
        {"request-rate", 0, NULL, OPT_FLOAT, &b.rate, 0, 1e6, "R",
         "a second, as a Poisson process; 0 = no pause (default)"},
        {"random-input-len", 0, "input-len", OPT_INT, &b.n_in, 1, 1 << 20, "N",
         "prompt tokens (default 256)"},
        {"random-output-len", 0, "output-len", OPT_INT, &b.n_out, 1, 1 << 20, "N",
         "generated tokens (default 64)"},
        {"long-prompt", 0, NULL, OPT_INT, &b.n_long, 1, 1 << 20, "N",
         "all -n at once; when each has a quarter of its tokens, a prompt of N tokens comes"},
        {"vocab", 0, NULL, OPT_INT, &b.vocab, 11, 1 << 24, "N",
         "prompts are random ids below N (default: what the server tells, else 1000)"},
        {"num-warmups", 0, NULL, OPT_INT, &b.warm, 0, 1000, "N",
         "requests before that do not count (default 2)"},
        {"seed", 's', NULL, OPT_I64, &b.seed, 0, 1e15, "N", "same seed, same prompts (default 0)"},
        OPTS_JSON(&b.json),
        OPTS_HELP(&b.help),
        OPTS_END,
    };
    const struct cmd_help h = {"bench serve --url URL [options]",
                               "Streams completions from a server and times them.", &b.help};
    if (!cmd_parse(&h, table, argc, argv, &rest, &err) && !b.help &&
        !cmd_no_more(argc, argv, rest, &err))
        bench_serve(&b, &err);
    return cmd_fail(&err);
}
