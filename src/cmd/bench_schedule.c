/* bench_schedule.c - `bench schedule`: what each policy of method/sarathi.h does to the same
 * requests, on a virtual clock with the cost of a step given or measured here, and with --real in
 * the engine on the real one.  See docs/method/sarathi.md. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "method/sarathi_sim.h"
#include "num/kern.h"

#define GROUP 64 /* tokens of a group of the simulated memory */

struct bench {
    /* flags */
    struct load_opts load;
    const char *shape, *trace, *policies, *cost_text;
    float rate, slo_ms, noise, seconds, prompt, out, sigma;
    int n_req, n_slot, memory;
    int64_t seed;
    bool real, capacity, json, help;
    /* state */
    struct loaded l;
    struct sim_req *req;
    struct sim_lengths len;
    struct sim_opts sim;
    uint64_t digest; /* of the real answers of the first policy */
    json_t *rows;
};

/* -- requests ---------------------------------------------------------------------------------- */

static int get_count(const json_t *j, const char *where, const char *key, int *out,
                     struct err *err) {
    int64_t v = 0;
    if (json_get_int(j, where, key, 1, 1 << 24, &v, err))
        return -1;
    if (!v)
        return err_set(err, E_FORMAT, "%s: %s: missing", where, key);
    *out = (int)v;
    return 0;
}

/* One line: {"at": seconds, "prompt": tokens, "out": tokens}. */
static int read_line(struct bench *b, const char *where, const char *line, size_t n,
                     struct err *err) {
    struct sim_req r = {.at = -1};
    json_t *j = json_parse(where, line, n, err);
    int rc = -1;
    if (!j || json_get_real(j, where, "at", 0, 1e9, &r.at, err) ||
        get_count(j, where, "prompt", &r.n_prompt, err) ||
        get_count(j, where, "out", &r.n_out, err))
        goto out;
    if (r.at < (b->n_req ? b->req[b->n_req - 1].at : 0)) {
        err_set(err, E_FORMAT, "%s: at: missing, or before the line above", where);
        goto out;
    }
    b->req = mem_resize(b->req, (size_t)b->n_req + 1, sizeof *b->req);
    b->req[b->n_req++] = r;
    rc = 0;
out:
    json_decref(j);
    return rc;
}

static int read_trace(struct bench *b, struct err *err) {
    struct buf text = {0};
    int rc = cmd_read(b->trace, false, &text, err), number = 1;
    b->n_req = 0;
    for (size_t at = 0, end; !rc && at < text.len; at = end + 1, number++) {
        char where[512];
        for (end = at; end < text.len && text.data[end] != '\n';)
            end++;
        snprintf(where, sizeof where, "%s:%d", b->trace, number);
        if (end > at)
            rc = read_line(b, where, (const char *)text.data + at, end - at, err);
    }
    if (!rc && !b->n_req)
        rc = err_set(err, E_FORMAT, "%s: no requests", b->trace);
    buf_free(&text);
    return rc;
}

static int requests(struct bench *b, struct err *err) {
    if (b->trace)
        return read_trace(b, err);
    b->req = mem_array((size_t)b->n_req, sizeof *b->req);
    sim_poisson(b->req, b->n_req, (double)b->rate, &b->len, (uint64_t)b->seed);
    return 0;
}

/* -- the engine on the real clock -------------------------------------------------------------- */

struct live { /* one request on its way */
    struct real *all;
    int i;
};
struct real {
    const struct bench *b;
    struct engine *e;
    int64_t start;
    struct live *live;
    struct sim_marks at;
    uint64_t *digest; /* (n) of each answer */
    int ended;
};

static double seconds_since(int64_t start, int64_t at) {
    return (double)(at - start) / 1e6;
}

static bool on_token(void *ud, const struct token *t) {
    struct live *v = ud;
    struct sim_marks *m = &v->all->at;
    double now = seconds_since(v->all->start, clock_us());
    if (m->last[v->i] > 0)
        m->gap[m->n_gap++] = now - m->last[v->i];
    else
        m->first[v->i] = now;
    m->last[v->i] = now;
    v->all->digest[v->i] = (v->all->digest[v->i] ^ (uint64_t)t->id) * 0x100000001b3u;
    return true;
}

static void on_done(void *ud, const struct usage *u) {
    struct live *v = ud;
    v->all->at.start[v->i] = seconds_since(v->all->start, u->started_at);
    v->all->ended++;
}

/* Prompts are random: nothing of one is found in another. */
static int submit(struct real *r, int i, struct err *err) {
    const struct sim_req *q = &r->b->req[i];
    int32_t *ids = mem_array((size_t)q->n_prompt, sizeof *ids);
    struct rng rng;
    rng_seed(&rng, (uint64_t)i + 1);
    for (int k = 0; k < q->n_prompt; k++)
        ids[k] = (int32_t)rng_below(&rng, (uint32_t)r->b->l.m->cfg.vocab);
    struct req req = {.ids = ids,
                      .n = q->n_prompt,
                      .max_new = q->n_out,
                      .sampling = sampling_default(),
                      .ignore_eos = true,
                      .on_token = on_token,
                      .on_done = on_done,
                      .ud = &r->live[i]};
    req.sampling.temp = 0;
    int rc = engine_submit(r->e, &req, err);
    free(ids);
    return rc;
}

/* Submits each request when its time comes, and steps in between, until all have ended or `limit`
 * seconds are over. */
static int drive(struct real *r, double limit, struct err *err) {
    const struct bench *b = r->b;
    r->start = clock_us();
    for (int sent = 0; r->ended < b->n_req;) {
        double now = seconds_since(r->start, clock_us());
        if (now > limit)
            return 0;
        for (; sent < b->n_req && b->req[sent].at <= now; sent++)
            if (submit(r, sent, err))
                return -1;
        if (!engine_step(r->e) && sent < b->n_req && b->req[sent].at > now)
            usleep((useconds_t)fmin(1e5, (b->req[sent].at - now) * 1e6));
    }
    return 0;
}

static int real_open(struct real *r, const struct bench *b, enum sarathi_policy policy,
                     struct err *err) {
    size_t n = (size_t)b->n_req, made = 0;
    struct engine_opts o = {.n_slot = b->n_slot,
                            .policy = policy,
                            .tbt_slo_ms = policy == SARATHI ? b->sim.slo * 1000 : 0};
    for (int i = 0; i < b->n_req; i++)
        made += (size_t)b->req[i].n_out;
    *r = (struct real){.b = b, .live = mem_array(n, sizeof *r->live)};
    r->digest = mem_array(n, sizeof *r->digest);
    r->at.start = mem_array(3 * n, sizeof *r->at.start);
    r->at.first = r->at.start + n;
    r->at.last = r->at.first + n;
    r->at.gap = mem_array(made, sizeof *r->at.gap);
    for (int i = 0; i < b->n_req; i++)
        r->live[i] = (struct live){r, i};
    if (!cmd_engine_opts(&b->load, &o, err))
        r->e = engine_open(b->l.m, b->l.pool, &o, err);
    return r->e ? 0 : -1;
}

static void real_close(struct real *r) {
    engine_close(r->e); /* cancels what still runs, and needs the marks */
    free(r->live);
    free(r->digest);
    free(r->at.start);
    free(r->at.gap);
}

/* Replays the requests; the answers must be the same under every policy. */
static int real_run(struct bench *b, enum sarathi_policy policy, struct sim_result *out,
                    struct err *err) {
    struct real r;
    struct engine_stats s;
    uint64_t digest = 0;
    int rc = real_open(&r, b, policy, err);
    if (rc || (rc = drive(&r, INFINITY, err)))
        goto out;
    engine_stats(r.e, &s);
    *out = (struct sim_result){.steps = s.steps,
                               .preempted = s.preempted,
                               .computed = s.computed_tokens + s.out_tokens,
                               .budget_min = s.budget};
    sim_figures(b->req, b->n_req, &r.at, out);
    for (int i = 0; i < b->n_req; i++)
        digest = (digest ^ r.digest[i]) * 0x100000001b3u;
    if (b->digest && b->digest != digest)
        rc = err_set(err, E_FORMAT, "bug: answers under %s differ from those under another policy",
                     sarathi_name(policy));
    b->digest = digest;
out:
    real_close(&r);
    return rc;
}

/* -- the cost of a step ------------------------------------------------------------------------ */

static int given_cost(struct bench *b, struct err *err) {
    struct sarathi_cost *c = &b->sim.cost;
    char end;
    if (sscanf(b->cost_text, "%lf,%lf,%lf,%lf,%lf%c", &c->w, &c->d, &c->p, &c->a, &c->q, &end) !=
            5 ||
        !(c->w >= 0 && c->d >= 0 && c->p > 0 && c->a >= 0 && c->q >= 0) ||
        !isfinite(c->w + c->d + c->p + c->a + c->q))
        return err_set(err, E_USAGE, "--cost %s: not w,d,p,a,q: five numbers of seconds, p above 0",
                       b->cost_text);
    return 0;
}

/* Runs requests of all lengths for --measure seconds, and takes what the engine has learnt. */
static int measured_cost(struct bench *b, struct err *err) {
    struct bench m = *b;
    struct real r;
    struct engine_stats s;
    m.n_req = 10000;
    m.req = mem_array((size_t)m.n_req, sizeof *m.req);
    m.sim.slo = 0;
    sim_poisson(m.req, m.n_req, 1e9, &b->len, 1);
    int rc = real_open(&r, &m, SARATHI, err);
    if (rc || (rc = drive(&r, (double)b->seconds, err)))
        goto out;
    engine_stats(r.e, &s);
    b->sim.cost = s.cost;
    b->sim.noise = log(s.slack) / 2.326; /* 99 % of steps take at most `slack` times as long */
    if (!(s.cost.w + s.cost.d > 0 && s.cost.p > 0))
        rc = err_set(err, E_USAGE, "--measure %g: too short for %lld steps to tell their cost",
                     (double)b->seconds, (long long)s.steps);
out:
    real_close(&r);
    free(m.req);
    return rc;
}

/* The paper's strict objective: five times a step of 32 sequences with 4096 tokens each. */
static double strict_slo(const struct sarathi_cost *c) {
    return 5 * sarathi_time(c, &(struct sarathi_load){.decodes = 32, .past = 32 * 4096});
}

/* -- rows -------------------------------------------------------------------------------------- */

static json_t *row(const char *policy, const char *clock, const struct sim_result *r) {
    return json_pack("{s:s,s:s,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:I,s:i}", "policy",
                     policy, "clock", clock, "ttft_p50_ms", r->ttft_p50 * 1e3, "ttft_p99_ms",
                     r->ttft_p99 * 1e3, "tbt_p50_ms", r->tbt_p50 * 1e3, "tbt_p99_ms",
                     r->tbt_p99 * 1e3, "tbt_max_ms", r->tbt_max * 1e3, "delay_p50_ms",
                     r->delay_p50 * 1e3, "e2e_p50_ms", r->e2e_p50 * 1e3, "out_tok_per_s",
                     r->out_per_s, "tok_per_s", r->tok_per_s, "seconds", r->seconds, "steps",
                     (json_int_t)r->steps, "preempted", (json_int_t)r->preempted, "computed_tokens",
                     (json_int_t)r->computed, "budget_min", r->budget_min);
}

static void print_head(const struct bench *b) {
    const struct sarathi_cost *c = &b->sim.cost;
    printf("step: %.3g + %.3g B + %.3g P + %.3g past + %.3g P (past + P/2) ms (%s); TBT "
           "objective %.1f ms\n\n",
           c->w * 1e3, c->d * 1e3, c->p * 1e3, c->a * 1e3, c->q * 1e3,
           b->cost_text ? "given" : "measured", b->sim.slo * 1e3);
    printf("| policy | clock | TTFT p50 | p99 | TBT p50 | p99 | max | delay p50 | tok/s | "
           "capacity |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n");
}

static void print_row(const struct bench *b, const json_t *j, double capacity) {
    if (!json_array_size(b->rows))
        print_head(b);
    static const char *const key[] = {"ttft_p50_ms", "ttft_p99_ms", "tbt_p50_ms",
                                      "tbt_p99_ms",  "tbt_max_ms",  "delay_p50_ms"};
    printf("| %s | %s |", json_string_value(json_object_get(j, "policy")),
           json_string_value(json_object_get(j, "clock")));
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        printf(" %.1f ms |", json_real_value(json_object_get(j, key[i])));
    printf(" %.1f |", json_real_value(json_object_get(j, "tok_per_s")));
    if (capacity >= 0)
        printf(" %.3g/s", capacity);
    printf(" |\n");
    fflush(stdout);
}

static void add_row(struct bench *b, json_t *j, double capacity) {
    json_object_set_new(j, "capacity_per_s", capacity >= 0 ? json_real(capacity) : json_null());
    if (!b->json)
        print_row(b, j, capacity);
    json_array_append_new(b->rows, j);
}

static int is_policy(void *ud, const char *item, struct err *err) {
    enum sarathi_policy p;
    (void)ud;
    return sarathi_parse(item, &p, err);
}

static int on_policy(void *ud, const char *item, struct err *err) {
    struct bench *b = ud;
    struct sim_result r;
    double capacity = -1;
    struct sim_opts o = b->sim;
    if (sarathi_parse(item, &o.policy, err) || sim_run(&o, b->req, b->n_req, &r, err))
        return -1;
    if (b->capacity &&
        sim_capacity(&o, &b->len, b->n_req, o.slo, (uint64_t)b->seed, &capacity, err))
        return -1;
    add_row(b, row(item, "virtual", &r), capacity);
    if (!b->real)
        return 0;
    if (real_run(b, o.policy, &r, err))
        return -1;
    add_row(b, row(item, "real", &r), -1);
    return 0;
}

/* -- the command ------------------------------------------------------------------------------- */

static int load(struct bench *b, struct err *err) {
    struct cfg c;
    enum dtype type;
    if (b->load.model)
        return cmd_load(&b->load, &b->l, err);
    if (cmd_dtype(b->load.dtype ? b->load.dtype : "bf16", &type, err) ||
        cfg_shape(&c, b->shape, err))
        return -1;
    b->l.pool = pool_new(b->load.n_threads);
    const struct model_opts o = {.dtype = type, .pool = b->l.pool, .no_tokenizer = true};
    return (b->l.m = model_random(&c, 1, &o, err)) ? 0 : -1;
}

static int check(struct bench *b, struct err *err) {
    bool model = b->shape || b->load.model;
    if (!model && !b->cost_text)
        return err_set(err, E_USAGE, "bench schedule: --cost, --shape or a model is missing");
    if (b->cost_text && model && !b->real)
        return err_set(err, E_USAGE, "--cost: a model is of use with --real only");
    if (b->real && !model)
        return err_set(err, E_USAGE, "--real: --shape or a model is missing");
    if (b->capacity && b->trace)
        return err_set(err, E_USAGE, "--capacity: not with --trace, whose rate is its own");
    if (!b->load.n_ctx)
        b->load.n_ctx = 4096;
    return 0;
}

static int schedule(struct bench *b, struct err *err) {
    json_t *machine = NULL;
    int rc = -1;
    b->rows = json_array();
    b->len = (struct sim_lengths){(double)b->prompt, (double)b->out, (double)b->sigma,
                                  b->load.n_ctx / 2 - 1};
    int64_t tokens = b->memory ? b->memory : (int64_t)b->load.n_ctx * b->n_slot;
    b->sim = (struct sim_opts){.max_run = b->n_slot,
                               .max_tok = b->load.n_batch ? b->load.n_batch : 512,
                               .tile = 16,
                               .groups = (int)((tokens + GROUP - 1) / GROUP),
                               .group_tokens = GROUP,
                               .noise = (double)b->noise,
                               .seed = (uint64_t)b->seed};
    if (requests(b, err) || ((b->shape || b->load.model) && load(b, err)))
        goto out;
    if (b->cost_text ? given_cost(b, err) : measured_cost(b, err))
        goto out;
    b->sim.slo = b->slo_ms > 0 ? (double)b->slo_ms / 1000 : strict_slo(&b->sim.cost);
    machine = b->cost_text ? json_null() : bench_machine();
    const struct sarathi_cost *c = &b->sim.cost;
    if (bench_each(b->policies, is_policy, b, err) || bench_each(b->policies, on_policy, b, err))
        goto out;
    rc = json_array_size(b->rows) ? 0 : err_set(err, E_USAGE, "--policy: an empty list");
    if (!rc && b->json)
        rc = cmd_print_json(
            json_pack("{s:O,s:s,s:{s:f,s:f,s:f,s:f,s:f},s:f,s:f,s:i,s:i,s:i,s:I,s:O}", "machine",
                      machine, "cost_source", b->cost_text ? "given" : "measured", "cost", "w",
                      c->w, "d", c->d, "p", c->p, "a", c->a, "q", c->q, "noise", b->sim.noise,
                      "slo_ms", b->sim.slo * 1e3, "requests", b->n_req, "slots", b->n_slot,
                      "max_batch_tokens", b->sim.max_tok, "memory_tokens",
                      (json_int_t)b->sim.groups * b->sim.group_tokens, "rows", b->rows),
            true, err);
out:
    json_decref(machine);
    json_decref(b->rows);
    free(b->req);
    cmd_unload(&b->l);
    return rc;
}

int cmd_bench_schedule(int argc, char **argv) {
    struct err err = {0};
    struct bench b = {.policies = "sarathi,prefill-first,unchunked",
                      .rate = 1,
                      .n_req = 100,
                      .n_slot = 8,
                      .prompt = 256,
                      .out = 64,
                      .sigma = 0.6f,
                      .seconds = 8,
                      .seed = 1};
    const struct opt table[] = {
        OPTS_LOAD(&b.load),
        {"shape", 0, NULL, OPT_STR, &b.shape, .arg = "NAME",
         .help = "random weights: tiny, 168m, llama-1b, gpt2, qwen-0.5b"},
        OPTS_HEAD("Requests"),
        {"trace", 0, NULL, OPT_STR, &b.trace, .arg = "FILE",
         .help = "JSON lines {\"at\": seconds, \"prompt\": tokens, \"out\": tokens}; else:"},
        {"rate", 0, "request-rate", OPT_FLOAT, &b.rate, 1e-6, 1e6, "X",
         "Poisson arrivals a second (default 1)"},
        {"requests", 0, "num-prompts", OPT_INT, &b.n_req, 1, 1 << 20, "N", "how many (100)"},
        {"prompt-tokens", 0, NULL, OPT_FLOAT, &b.prompt, 1, 1e6, "N", "median (256)"},
        {"out-tokens", 0, NULL, OPT_FLOAT, &b.out, 1, 1e6, "N", "median (64)"},
        {"sigma", 0, NULL, OPT_FLOAT, &b.sigma, 0, 3, "X",
         "deviation of the logarithm of both (0.6)"},
        {"seed", 's', NULL, OPT_I64, &b.seed, 0, 9.3e18, "N", "same seed, same requests (1)"},
        OPTS_HEAD("Scheduling"),
        {"policy", 0, NULL, OPT_STR, &b.policies, .arg = "LIST",
         .help = "sarathi, prefill-first, unchunked (default all)"},
        {"parallel", 0, "np", OPT_INT, &b.n_slot, 1, 1024, "N", "sequences at a time (8)"},
        {"tbt-slo", 0, NULL, OPT_FLOAT, &b.slo_ms, 0, 1e7, "MS",
         "longest gap between tokens that sarathi plans for (default: 5 decode steps of 32 "
         "sequences with 4096 tokens)"},
        {"kv-tokens", 0, NULL, OPT_INT, &b.memory, 0, 1 << 30, "N",
         "memory of the virtual machine (default: all sequences at full context)"},
        {"cost", 0, NULL, OPT_STR, &b.cost_text, .arg = "w,d,p,a,q",
         .help = "seconds of a step of B decodes and P prompt tokens: w + d B + p P + a past + "
                 "q P (past + P/2); else measured with the model"},
        {"noise", 0, NULL, OPT_FLOAT, &b.noise, 0, 3, "X",
         "deviation of the logarithm of a step's time (default: 0, or as measured)"},
        {"measure", 0, NULL, OPT_FLOAT, &b.seconds, 0.1, 600, "S", "seconds of measuring (8)"},
        {"capacity", 0, NULL, OPT_FLAG, &b.capacity,
         .help = "also find the highest rate that keeps the objective"},
        {"real", 0, NULL, OPT_FLAG, &b.real,
         .help = "also replay in the engine, on the real clock"},
        OPTS_JSON(&b.json),
        OPTS_HELP(&b.help),
        OPTS_END};
    const struct cmd_help help = {
        "bench schedule [MODEL | --shape NAME | --cost w,d,p,a,q] [options]",
        "The policies of the scheduler on the same requests; see docs/method/sarathi.md.", &b.help};
    int rest;
    if (cmd_parse(&help, table, argc, argv, &rest, &err) || b.help)
        return cmd_fail(&err);
    log_quiet(b.load.quiet);
    if (rest < argc && !b.load.model && !b.shape)
        b.load.model = argv[rest++];
    if (!cmd_no_more(argc, argv, rest, &err) && !check(&b, &err))
        schedule(&b, &err);
    return cmd_fail(&err);
}
