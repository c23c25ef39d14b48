/* bench_serve.c - `pumice bench serve --url U`: streams completions from a server, times them as
 * `vllm bench serve` does, and has its field names with --json.
 *
 * Prompts are random token ids, the same for the same seed.  Times are taken here: TTFT from the
 * request's start to the first event with text; ITL between events with text; TPOT = (end - TTFT) /
 * (tokens - 1).  Tokens are the server's own count (usage). */
#include <curl/curl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"

struct bench {
    const char *url, *model, *key;
    int n, concurrency, n_in, n_out, vocab, warm;
    int64_t seed;
    float rate; /* requests a second; 0 = as fast as they are answered */
    bool json, help;
    struct curl_slist *headers;
    char completions[512], name[128];
};

struct series { /* milliseconds */
    double *v;
    size_t n, cap;
};

struct request {
    CURL *curl;
    struct buf body, line; /* sent; received and not yet a whole event */
    int64_t due_us, start_us, first_us, last_us, end_us;
    struct series itl;
    int n_in, n_out;
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

/* -- one request ------------------------------------------------------------------------------- */

static void make_body(const struct bench *b, struct request *r, uint64_t i) {
    struct rng rng;
    rng_seed(&rng, (uint64_t)b->seed * 1000003 + i);
    buf_printf(&r->body,
               "{\"model\":\"%s\",\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":true,"
               "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"prompt\":[",
               b->name, b->n_out);
    for (int k = 0; k < b->n_in; k++) /* the first ids are special in many vocabularies */
        buf_printf(&r->body, "%s%u", k ? "," : "", 10 + rng_below(&rng, (uint32_t)b->vocab - 10));
    buf_adds(&r->body, "]}");
}

static void fail(struct request *r, const char *why) {
    if (!r->failed)
        snprintf(r->problem, sizeof r->problem, "%s", why);
    r->failed = true;
}

static void on_event(struct request *r, const char *data, size_t n) {
    int64_t now = clock_us();
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
    if (json_string_length(json_object_get(choice, "text"))) {
        if (!r->first_us)
            r->first_us = now;
        else
            series_add(&r->itl, (double)(now - r->last_us) / 1e3);
        r->last_us = now;
    }
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

static void finish(CURLM *multi, const CURLMsg *m) {
    struct request *r = NULL;
    long status = 0;
    curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&r);
    curl_easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &status);
    r->end_us = clock_us();
    if (m->data.result != CURLE_OK)
        fail(r, curl_easy_strerror(m->data.result));
    if (status != 200 && !r->failed) {
        fail(r, "");
        snprintf(r->problem, sizeof r->problem, "HTTP %ld: %.100s", status, buf_str(&r->line));
    }
    if (!r->done)
        fail(r, "the stream ended without [DONE]");
    curl_multi_remove_handle(multi, r->curl);
    curl_easy_cleanup(r->curl);
    r->curl = NULL;
}

/* -- all of them ------------------------------------------------------------------------------- */

/* Starts what is due, at most `concurrency` at a time, and waits for the rest. */
static int run_all(const struct bench *b, struct request *r, int n, struct err *err) {
    CURLM *multi = curl_multi_init();
    int next = 0, running = 0, left;
    int64_t begin = clock_us();
    if (!multi)
        return err_set(err, E_MEMORY, "libcurl cannot start");
    while (next < n || running) {
        int64_t now = clock_us() - begin;
        while (next < n && running < b->concurrency && r[next].due_us <= now) {
            start(b, multi, &r[next]);
            running += r[next++].curl != NULL;
        }
        curl_multi_perform(multi, &left);
        for (CURLMsg *m; (m = curl_multi_info_read(multi, &left));)
            if (m->msg == CURLMSG_DONE) {
                finish(multi, m);
                running--;
            }
        bool more = next < n && running < b->concurrency;
        int64_t wait = more ? (r[next].due_us - (clock_us() - begin)) / 1000 : 100;
        curl_multi_poll(multi, NULL, 0, wait < 0 ? 0 : wait > 100 ? 100 : (int)wait, NULL);
    }
    curl_multi_cleanup(multi);
    return 0;
}

/* Arrivals of a Poisson process, or all at once. */
static void plan_arrivals(const struct bench *b, struct request *r, int n) {
    struct rng rng;
    double at = 0;
    rng_seed(&rng, (uint64_t)b->seed);
    for (int i = 0; i < n; i++) {
        r[i].due_us = (int64_t)(at * 1e6);
        if (b->rate > 0)
            at += -log(1 - rng_double(&rng)) / (double)b->rate;
    }
}

static size_t on_text(char *p, size_t size, size_t n, void *ud) {
    buf_add(ud, p, size * n);
    return size * n;
}

/* The server's model: its name, and the size of its vocabulary if it tells. */
static int ask_model(struct bench *b, struct err *err) {
    struct buf text = {0};
    char url[512];
    CURL *c = curl_easy_init();
    snprintf(url, sizeof url, "%s/v1/models", b->url);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, b->headers);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_text);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &text);
    CURLcode rc = curl_easy_perform(c);
    curl_easy_cleanup(c);
    json_t *j = rc ? NULL : json_loadb(text.data ? text.data : "", text.len, 0, NULL);
    const json_t *m = json_array_get(json_object_get(j, "data"), 0);
    const char *id = json_string_value(json_object_get(m, "id"));
    json_int_t vocab = json_integer_value(json_object_get(json_object_get(m, "meta"), "n_vocab"));
    if (rc)
        err_set(err, E_NETWORK, "%s: %s", url, curl_easy_strerror(rc));
    else if (!id && !b->model)
        err_set(err, E_NETWORK, "%s: names no model", url);
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
        if (r[i].failed || !r[i].first_us)
            continue;
        double first = (double)(r[i].first_us - r[i].start_us) / 1e3;
        double end = (double)(r[i].last_us - r[i].start_us) / 1e3;
        series_add(&ttft, first);
        series_add(&e2el, end);
        if (r[i].n_out > 1)
            series_add(&tpot, (end - first) / (r[i].n_out - 1));
        for (size_t k = 0; k < r[i].itl.n; k++)
            series_add(&itl, r[i].itl.v[k]);
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
    put_times(j, r, n);
    return j;
}

static double real(const json_t *j, const char *key) {
    return json_number_value(json_object_get(j, key));
}

static void print(const json_t *j) {
    static const char *const name[] = {"ttft", "tpot", "itl", "e2el"};
    printf("%d requests in %.2f s: %.2f requests/s, %.1f output tokens/s, %.1f tokens/s\n"
           "%8s %10s %10s %10s %10s %10s  (ms)\n",
           (int)real(j, "completed"), real(j, "duration"), real(j, "request_throughput"),
           real(j, "output_throughput"), real(j, "total_token_throughput"), "", "mean", "p50",
           "p90", "p99", "max");
    for (int i = 0; i < 4; i++) {
        static const char *const at[] = {"mean", "p50", "p90", "p99", "max"};
        char key[64];
        printf("%8s", name[i]);
        for (int k = 0; k < 5; k++) {
            snprintf(key, sizeof key, "%s_%s_ms", at[k], name[i]);
            printf(" %10.2f", real(j, key));
        }
        putchar('\n');
    }
}

/* -- the command ------------------------------------------------------------------------------- */

static void free_requests(struct request *r, int n) {
    for (int i = 0; i < n; i++) {
        buf_free(&r[i].body);
        buf_free(&r[i].line);
        free(r[i].itl.v);
    }
    free(r);
}

static int measure(struct bench *b, struct err *err) {
    struct request *warm = mem_array((size_t)b->warm, sizeof *warm);
    struct request *r = mem_array((size_t)b->n, sizeof *r);
    int rc = ask_model(b, err);
    for (int i = 0; i < b->n && !rc; i++)
        make_body(b, &r[i], (uint64_t)i);
    for (int i = 0; i < b->warm && !rc; i++) /* other prompts: nothing is cached by them */
        make_body(b, &warm[i], (uint64_t)(b->n + i));
    plan_arrivals(b, r, b->n);
    rc = rc || run_all(b, warm, b->warm, err);
    int64_t begin = clock_us();
    rc = rc || run_all(b, r, b->n, err);
    double seconds = (double)(clock_us() - begin) / 1e6;
    const char *problem = NULL;
    for (int i = b->n - 1; i >= 0 && !rc; i--)
        problem = r[i].failed ? r[i].problem : problem;
    if (!rc) {
        json_t *j = report(b, r, b->n, seconds);
        if (b->json)
            rc = cmd_print_json(json_incref(j), true, err);
        else
            print(j);
        json_decref(j);
    }
    if (problem)
        rc = err_set(err, E_NETWORK, "a request failed: %s", problem);
    free_requests(warm, b->warm);
    free_requests(r, b->n);
    return rc;
}

static int bench_serve(struct bench *b, struct err *err) {
    char key[300];
    if (!b->url)
        return err_set(err, E_USAGE, "--url is missing, such as http://127.0.0.1:8080");
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
