/* profile.c - `bench profile`: where the time of a prompt and of generation goes, by operator.
 *
 * run.c takes the times (run_watch), this file knows how much work an operator is: the bytes it
 * must read from memory (weights once a step, keys and values once a sequence) and its operations
 * (two per weight and token, four per component of each attended key).  Operators that only touch
 * activations, which stay in the caches, have neither.  Each pass is timed whole, between two
 * probes of the machine, and the one of median time is shown: shares of one pass add up, medians of
 * operators would not. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/probe.h"
#include "model/run.h"
#include "model/sample.h"
#include "num/kern.h"

#define CHUNK 512 /* prompt tokens per step, as bench's */
#define MAX_REPEAT 99
#define MAX_BATCH 256

enum { SAMPLING = RUN_OPS, OTHER, N_ROWS }; /* rows after the operators of a step */

static const char *const row_name[N_ROWS] = {
    /* ORDER: enum run_op */
    "embed", "norm", "qkv",  "rope, kv append", "attention", "o", "gate, up", "act",
    "down",  "add",  "head", "sampling",        "the rest",
};

struct profile {
    /* flags */
    const char *model, *shape, *dtype;
    int n_prompt, n_gen, depth, n_batch, n_threads, repeat;
    bool json, help;
    /* state */
    struct model *m;
    struct pool *pool;
    struct kv *kv;
    struct run *run;
    float *logits;
    int32_t *ids;
    struct sampler *sampler;
    struct probe *probe;
};

struct pass { /* one repetition of a phase; nanoseconds, bytes, operations */
    int64_t total, ns[N_ROWS], wait[N_ROWS];
    double bytes[N_ROWS], ops[N_ROWS];
    double read, peak, attn; /* of the machine meanwhile, per second; products in the weights' type,
                              * and in that of keys and values */
    int n_tok;
};

/* -- work -------------------------------------------------------------------------------------- */

/* A product with n_tok tokens, of which a step reads the weights once. */
static void add_mat(struct pass *p, int row, const struct mat *m, double n_tok) {
    if (!m->data)
        return;
    p->bytes[row] += (double)m->rows * (double)dtype_row_bytes(m->type, m->cols);
    p->ops[row] += 2.0 * m->rows * m->cols * n_tok;
}

/* A step of n tokens from position pos in each sequence. */
static void add_work(const struct profile *f, struct pass *p, int pos, int n) {
    const struct cfg *c = &f->m->cfg;
    double keys = 0, reach = pos + n;
    for (int t = 0; t < n; t++) {
        int past = pos + t + 1;
        keys += c->window && past > c->window ? c->window : past;
    }
    if (c->window && reach > c->window + n - 1)
        reach = c->window + n - 1;
    for (int i = 0; i < c->n_layer; i++) {
        const struct layer *l = &f->m->layer[i];
        const struct mat *const of[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate, &l->up, &l->down};
        const int row[] = {RUN_QKV, RUN_QKV, RUN_QKV, RUN_O, RUN_GATE_UP, RUN_GATE_UP, RUN_DOWN};
        for (size_t k = 0; k < sizeof row / sizeof *row; k++)
            add_mat(p, row[k], of[k], (double)n * f->n_batch);
    }
    add_mat(p, RUN_HEAD, &f->m->head, f->n_batch);
    p->bytes[RUN_ATTEND] += reach * (double)kv_token_bytes(c, kv_type(f->kv)) * f->n_batch;
    p->ops[RUN_ATTEND] += 4.0 * c->n_layer * c->n_head * c->head_dim * keys * f->n_batch;
}

/* Least seconds for the work of a row. */
static double row_limit(const struct pass *p, int row) {
    double peak = row == RUN_ATTEND ? p->attn : p->peak;
    return fmax(p->bytes[row] / p->read, p->ops[row] / peak);
}

static void add_rates(const struct profile *f, struct pass *p) {
    p->read += probe_read_rate(f->probe, f->pool) / 2;
    p->peak += probe_ops_rate(f->pool, f->m->layer[0].wq.type) / 2;
    p->attn += probe_ops_rate(f->pool, kv_type(f->kv) == DT_BF16 ? DT_BF16 : DT_F32) / 2;
}

/* -- passes ------------------------------------------------------------------------------------ */

static void step(struct profile *f, int pos, int n) {
    struct span span[MAX_BATCH];
    struct batch b = {span, 0};
    struct err err = {0};
    for (int s = 0; s < f->n_batch; s++)
        span[b.n_span++] = (struct span){s, pos, n, f->ids + pos, WANT_LAST};
    if (run_step(f->run, f->kv, &b, f->logits, &err)) {
        fprintf(stderr, "pumice: bug: profile step refused: %s\n", err.msg);
        abort();
    }
}

/* n tokens of each sequence from position depth; one a step, and sampled, where they are
 * generated. */
static void pass(struct profile *f, int n, bool generation, struct pass *p) {
    int chunk = generation ? 1 : CHUNK;
    struct run_times t = {0};
    *p = (struct pass){.n_tok = n * f->n_batch};
    add_rates(f, p);
    run_watch(f->run, &t);
    int64_t t0 = clock_ns();
    for (int at = 0; at < n; at += chunk) {
        step(f, f->depth + at, n - at < chunk ? n - at : chunk);
        int64_t since = clock_ns();
        for (int s = 0; generation && s < f->n_batch; s++)
            sampler_next(f->sampler, f->logits + (size_t)s * (size_t)f->m->cfg.vocab);
        p->ns[SAMPLING] += generation ? clock_ns() - since : 0;
    }
    p->total = clock_ns() - t0;
    run_watch(f->run, NULL);
    add_rates(f, p);
    p->ns[OTHER] = p->total - p->ns[SAMPLING];
    for (int i = 0; i < RUN_OPS; i++) {
        p->ns[i] = t.ns[i];
        p->wait[i] = t.wait[i];
        p->ns[OTHER] -= t.ns[i];
    }
    for (int at = 0; at < n; at += chunk)
        add_work(f, p, f->depth + at, n - at < chunk ? n - at : chunk);
}

static int by_total(const void *a, const void *b) {
    int64_t x = ((const struct pass *)a)->total, y = ((const struct pass *)b)->total;
    return (x > y) - (x < y);
}

/* -- output ------------------------------------------------------------------------------------ */

static json_t *row_json(const struct pass *p, int row) {
    double seconds = (double)p->ns[row] / 1e9;
    json_t *j =
        json_pack("{s:s,s:f,s:f,s:f}", "operator", row_name[row], "ms", seconds * 1e3, "share",
                  (double)p->ns[row] / (double)p->total, "wait_ms", (double)p->wait[row] / 1e6);
    bool work = p->ops[row] > 0 && p->ns[row] > 0;
    json_object_set_new(j, "gb_per_s",
                        work ? json_real(p->bytes[row] / seconds / 1e9) : json_null());
    json_object_set_new(j, "gops", work ? json_real(p->ops[row] / seconds / 1e9) : json_null());
    json_object_set_new(j, "limit_fraction",
                        work ? json_real(row_limit(p, row) / seconds) : json_null());
    return j;
}

static json_t *phase_json(const struct profile *f, const struct pass *p, bool generation) {
    json_t *rows = json_array();
    for (int i = 0; i < N_ROWS; i++)
        if (p->ns[i] || i == OTHER)
            json_array_append_new(rows, row_json(p, i));
    return json_pack("{s:s,s:i,s:i,s:i,s:f,s:f,s:f,s:f,s:f,s:o}", "phase",
                     generation ? "generation" : "prompt", "tokens", p->n_tok, "batch", f->n_batch,
                     "depth", f->depth, "ms", (double)p->total / 1e6, "tok_per_s",
                     p->n_tok * 1e9 / (double)p->total, "read_gb_per_s", p->read / 1e9, "peak_gops",
                     p->peak / 1e9, "attention_gops", p->attn / 1e9, "rows", rows);
}

static void print_cell(const json_t *row, const char *key, const char *format, double scale) {
    const json_t *v = json_object_get(row, key);
    if (json_is_null(v))
        printf(" - |");
    else
        printf(format, json_number_value(v) * scale);
}

static void print_phase(const json_t *phase) {
    const json_t *row;
    size_t i;
    printf("\n%s: %lld tokens from position %lld, %.1f ms, %.1f tok/s\n"
           "limits: read %.1f GB/s, products %.0f, of attention %.0f GOP/s\n\n",
           json_string_value(json_object_get(phase, "phase")),
           (long long)json_integer_value(json_object_get(phase, "tokens")),
           (long long)json_integer_value(json_object_get(phase, "depth")),
           json_real_value(json_object_get(phase, "ms")),
           json_real_value(json_object_get(phase, "tok_per_s")),
           json_real_value(json_object_get(phase, "read_gb_per_s")),
           json_real_value(json_object_get(phase, "peak_gops")),
           json_real_value(json_object_get(phase, "attention_gops")));
    printf("| operator | ms | share | waiting ms | GB/s | GOP/s | of limit |\n"
           "|---|--:|--:|--:|--:|--:|--:|\n");
    json_array_foreach(json_object_get(phase, "rows"), i, row) {
        printf("| %s |", json_string_value(json_object_get(row, "operator")));
        print_cell(row, "ms", " %.2f |", 1);
        print_cell(row, "share", " %.1f %% |", 100);
        print_cell(row, "wait_ms", " %.2f |", 1);
        print_cell(row, "gb_per_s", " %.1f |", 1);
        print_cell(row, "gops", " %.0f |", 1);
        print_cell(row, "limit_fraction", " %.0f %% |", 100);
        printf("\n");
    }
}

/* -- set-up ------------------------------------------------------------------------------------ */

static int prepare(struct profile *f, struct err *err) {
    struct cfg c;
    struct model_opts o = {.no_tokenizer = true};
    int n = f->n_prompt > f->n_gen ? f->n_prompt : f->n_gen, n_ctx = f->depth + n;
    int widest = f->depth > f->n_prompt ? f->depth : f->n_prompt;
    if (cmd_dtype(f->dtype, &o.dtype, err) || (!f->model && cfg_shape(&c, f->shape, err)))
        return -1;
    if (!f->model && o.dtype == DT_NONE)
        o.dtype = DT_BF16;
    f->pool = o.pool = pool_new(f->n_threads);
    f->m = f->model ? model_open(f->model, &o, err) : model_random(&c, 1, &o, err);
    if (!f->m)
        return -1;
    const struct cfg *mc = &f->m->cfg;
    if (mc->learned_pos && n_ctx > mc->max_ctx)
        return err_set(err, E_USAGE, "bench profile: %d positions exceed the model's %d", n_ctx,
                       mc->max_ctx);
    f->kv = kv_open(mc, f->n_batch, n_ctx, kv_default(f->m->head.type), err);
    widest = widest < 1 ? 1 : widest < CHUNK ? widest : CHUNK;
    f->run = f->kv ? run_new(f->m, f->pool, widest * f->n_batch, n_ctx, err) : NULL;
    if (!f->run)
        return -1;
    struct sampling s = sampling_default();
    f->sampler = sampler_new(&s, mc->vocab);
    f->logits = mem_array((size_t)f->n_batch * (size_t)mc->vocab, sizeof *f->logits);
    f->ids = mem_array((size_t)n_ctx, sizeof *f->ids);
    for (int i = 0; i < n_ctx; i++)
        f->ids[i] = (int32_t)((i * 7919u + 13) % (unsigned)mc->vocab);
    return 0;
}

static void release(struct profile *f) {
    free(f->ids);
    free(f->logits);
    sampler_free(f->sampler);
    run_free(f->run);
    kv_close(f->kv);
    model_close(f->m);
    pool_free(f->pool);
}

/* n tokens, measured; the first pass only warms up. */
static json_t *phase(struct profile *f, int n, bool generation) {
    struct pass p[MAX_REPEAT + 1];
    for (int i = 0; i <= f->repeat; i++)
        pass(f, n, generation, &p[i]);
    qsort(p + 1, (size_t)f->repeat, sizeof *p, by_total);
    return phase_json(f, &p[1 + (f->repeat - 1) / 2], generation);
}

static int measure(struct profile *f, struct err *err) {
    json_t *phases = json_array();
    int rc = -1;
    if (prepare(f, err) || !(f->probe = probe_new(err)))
        goto out;
    for (int at = 0; at < f->depth; at += CHUNK)
        step(f, at, f->depth - at < CHUNK ? f->depth - at : CHUNK);
    if (f->n_prompt)
        json_array_append_new(phases, phase(f, f->n_prompt, false));
    if (f->n_gen)
        json_array_append_new(phases, phase(f, f->n_gen, true));
    const char *name = f->model ? f->model : f->shape;
    const char *type = dtype_info(f->m->layer[0].wq.type)->name;
    rc = 0;
    if (f->json) {
        rc = cmd_print_json(json_pack("{s:s,s:s,s:i,s:s,s:O}", "model", name, "dtype", type,
                                      "threads", pool_size(f->pool), "isa", isa_name(kern_level()),
                                      "phases", phases),
                            true, err);
        goto out;
    }
    printf("%s, %s, %d threads, kernels %s\n", name, type, pool_size(f->pool),
           isa_name(kern_level()));
    for (size_t i = 0; i < json_array_size(phases); i++)
        print_phase(json_array_get(phases, i));
out:
    json_decref(phases);
    probe_free(f->probe);
    release(f);
    return rc;
}

int cmd_bench_profile(int argc, char **argv) {
    struct err err = {0};
    struct profile f = {.n_prompt = 512, .n_gen = 64, .n_batch = 1, .repeat = 5};
    const struct opt table[] = {
        OPTS_MODEL(&f.model),
        {"shape", 0, NULL, OPT_STR, &f.shape, .arg = "NAME",
         .help = "random weights instead: tiny, 168m, llama-1b, gpt2, qwen-0.5b"},
        {"dtype", 0, NULL, OPT_STR, &f.dtype, .arg = "TYPE",
         .help = "type of the weights (default: the model's; bf16 of a shape)"},
        {"n-prompt", 'p', NULL, OPT_INT, &f.n_prompt, 0, 1 << 20, "N",
         "tokens of the prompt; 0 = leave it out (default 512)"},
        {"n-gen", 'n', NULL, OPT_INT, &f.n_gen, 0, 1 << 20, "N",
         "tokens to generate; 0 = none (default 64)"},
        {"depth", 'd', "n-depth", OPT_INT, &f.depth, 0, 1 << 20, "N",
         "tokens already in the KV cache (default 0)"},
        {"batch", 0, NULL, OPT_INT, &f.n_batch, 1, MAX_BATCH, "N",
         "sequences at a time (default 1)"},
        {"threads", 't', NULL, OPT_INT, &f.n_threads, 0, 64, "N",
         "threads (default: one per processor)"},
        {"repetitions", 'r', NULL, OPT_INT, &f.repeat, 1, MAX_REPEAT, "N",
         "passes; the median one is shown (default 5)"},
        OPTS_JSON(&f.json),
        OPTS_HELP(&f.help),
        OPTS_END};
    const struct cmd_help help = {"bench profile [MODEL | --shape NAME] [options]",
                                  "Where the time of a step goes, by operator.", &f.help};
    int rest;
    if (cmd_parse(&help, table, argc, argv, &rest, &err) || f.help)
        return cmd_fail(&err);
    if (!f.model && !f.shape && rest < argc)
        f.model = argv[rest++];
    if (f.model && f.shape)
        err_set(&err, E_USAGE, "bench profile: a model and --shape exclude each other");
    else if (!cmd_no_more(argc, argv, rest, &err)) {
        f.shape = f.model || f.shape ? f.shape : "168m";
        measure(&f, &err);
    }
    return cmd_fail(&err);
}
