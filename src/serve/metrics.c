/* metrics.c - /metrics in Prometheus' text format, version 0.0.4.
 *
 * Own names without colons, which are reserved for recording rules; with --metrics-compat vllm the
 * values that gateways look for stand there once more under vLLM's names.  Counts only: no text of
 * a request comes here. */
#include <string.h>
#include <sys/resource.h>

#include "base/mem.h"
#include "serve/impl.h"

static void head(struct buf *b, const char *name, const char *type, const char *help) {
    buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(struct buf *b, const char *name, const char *type, const char *help, double v) {
    head(b, name, type, help);
    buf_printf(b, "%s %.17g\n", name, v);
}

static void histogram(struct buf *b, const char *name, const char *help, const struct hist *h) {
    int64_t sum = 0;
    head(b, name, "histogram", help);
    for (int i = 0; i < h->n; i++) {
        sum += h->count[i];
        buf_printf(b, "%s_bucket{le=\"%g\"} %lld\n", name, h->bound[i], (long long)sum);
    }
    sum += h->count[h->n];
    buf_printf(b, "%s_bucket{le=\"+Inf\"} %lld\n%s_sum %.9g\n%s_count %lld\n", name, (long long)sum,
               name, h->sum, name, (long long)sum);
}

static void requests(struct buf *b, const struct loop_stats *s) {
    static const char *const why[] = {"stop", "length", "cancelled",
                                      "error"}; /* ORDER enum finish */
    head(b, "pumice_sequences_ended_total", "counter", "Sequences by how they ended.");
    for (int i = 0; i < 4; i++)
        buf_printf(b, "pumice_sequences_ended_total{reason=\"%s\"} %lld\n", why[i],
                   (long long)s->ended[i]);
    head(b, "pumice_sequences_rejected_total", "counter",
         "Sequences refused before they waited, or after too long (which count as ended too).");
    buf_printf(b,
               "pumice_sequences_rejected_total{why=\"queue_full\"} %lld\n"
               "pumice_sequences_rejected_total{why=\"queue_timeout\"} %lld\n"
               "pumice_sequences_rejected_total{why=\"stopping\"} %lld\n",
               (long long)s->rejected_full, (long long)s->rejected_late,
               (long long)s->rejected_draining);
    value(b, "pumice_sequences_accepted_total", "counter", "Sequences accepted.",
          (double)s->submitted);
    value(b, "pumice_sequences_running", "gauge", "Sequences that the engine works on.",
          s->running);
    value(b, "pumice_sequences_waiting", "gauge", "Sequences that wait for a slot.", s->waiting);
}

static void tokens(struct buf *b, const struct loop_stats *s) {
    value(b, "pumice_prompt_tokens_total", "counter", "Prompt tokens of started sequences.",
          (double)s->prompt_tokens);
    head(b, "pumice_prefix_source_tokens_total", "counter", "Prompt tokens by where KV came from.");
    buf_printf(b,
               "pumice_prefix_source_tokens_total{source=\"ram\"} %lld\n"
               "pumice_prefix_source_tokens_total{source=\"computed\"} %lld\n",
               (long long)s->cached_tokens, (long long)(s->prompt_tokens - s->cached_tokens));
    value(b, "pumice_computed_tokens_total", "counter",
          "Prompt tokens computed, those computed again after a preemption included.",
          (double)s->engine.computed_tokens);
    value(b, "pumice_preemptions_total", "counter", "Sequences whose KV was given up for a while.",
          (double)s->engine.preempted);
    value(b, "pumice_steps_total", "counter", "Forward passes.", (double)s->engine.steps);
    value(b, "pumice_generation_tokens_total", "counter", "Tokens generated.",
          (double)s->out_tokens);
    const struct kv_stats *kv = &s->engine.kv;
    head(b, "pumice_kv_bytes", "gauge",
         "Keys and values: physical memory held; of it live sequences' and the prefix cache's; "
         "the most that may be held; what every slot's full context would take.");
    buf_printf(b,
               "pumice_kv_bytes{state=\"held\"} %zu\npumice_kv_bytes{state=\"live\"} %zu\n"
               "pumice_kv_bytes{state=\"cached\"} %zu\npumice_kv_bytes{state=\"reserved\"} %zu\n"
               "pumice_kv_bytes{state=\"static\"} %zu\n",
               kv->held_bytes, kv->live_bytes, kv->cached_bytes, kv->pool_bytes, kv->static_bytes);
}

static void http(struct buf *b, const struct http_stats *s) {
    head(b, "pumice_http_responses_total", "counter", "Answers by class of status.");
    for (int i = 2; i < 6; i++)
        buf_printf(b, "pumice_http_responses_total{class=\"%dxx\"} %lld\n", i,
                   (long long)s->by_class[i]);
    value(b, "pumice_http_clients_left_total", "counter",
          "Clients that left before their answer was out.", (double)s->left);
    value(b, "pumice_http_connections", "gauge", "Open connections.", s->connections);
}

static void process(struct buf *b, const struct server *s) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    value(b, "process_cpu_seconds_total", "counter", "Processor time.", cpu);
    value(b, "process_resident_memory_bytes", "gauge", "Resident memory.", (double)mem_resident());
    value(b, "process_start_time_seconds", "gauge", "Start, since 1970.", (double)s->started);
    head(b, "pumice_build_info", "gauge", "Always 1.");
    buf_printf(b, "pumice_build_info{version=\"%s\"} 1\n", PUMICE_VERSION);
}

static void compat_vllm(struct buf *b, const struct loop_stats *s) {
    const struct kv_stats *kv = &s->engine.kv;
    value(b, "vllm:num_requests_running", "gauge", "As pumice_sequences_running.", s->running);
    value(b, "vllm:num_requests_waiting", "gauge", "As pumice_sequences_waiting.", s->waiting);
    value(b, "vllm:kv_cache_usage_perc", "gauge", "Live of reserved KV bytes, 0 to 1.",
          kv->pool_bytes ? (double)kv->live_bytes / (double)kv->pool_bytes : 0);
    value(b, "vllm:prompt_tokens_total", "counter", "As pumice_prompt_tokens_total.",
          (double)s->prompt_tokens);
    value(b, "vllm:generation_tokens_total", "counter", "As pumice_generation_tokens_total.",
          (double)s->out_tokens);
}

void route_metrics(struct exchange *x, void *app) {
    struct server *s = app;
    struct loop_stats st;
    struct buf b = {0};
    loop_stats(s->loop, &st);
    requests(&b, &st);
    tokens(&b, &st);
    histogram(&b, "pumice_time_to_first_token_seconds", "From acceptance to the first token.",
              &st.ttft);
    histogram(&b, "pumice_inter_token_latency_seconds", "Between two tokens of a sequence.",
              &st.itl);
    histogram(&b, "pumice_e2e_request_latency_seconds", "From acceptance to the end.", &st.e2e);
    histogram(&b, "pumice_request_queue_time_seconds", "From acceptance to the first step.",
              &st.queue);
    histogram(&b, "pumice_request_prefill_time_seconds", "Reading the prompt.", &st.prefill);
    http(&b, http_stats(x));
    process(&b, s);
    if (s->o.compat_vllm)
        compat_vllm(&b, &st);
    http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}
