/* profile.c - `bench profile`: where the time of a prompt and of generation goes, by operator.
 *
 * run.c takes the times (run_watch), rig.h knows how much work an operator is.  Each pass is timed
 * whole, between two probes of the machine, and the one of median time is shown: shares of one pass
 * add up, medians of operators would not. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/rig.h"
#include "model/sample.h"
#include "num/kern.h"

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
    struct rig rig;
    struct sampler *sampler;
    struct probe *probe;
};

struct pass { /* one repetition of a phase; nanoseconds */
    int64_t total, ns[N_ROWS], wait[N_ROWS];
    struct work work;
    struct rates rates; /* of the machine meanwhile */
    int n_tok;
};

/* -- passes ------------------------------------------------------------------------------------ */

/* n tokens of each sequence from position depth; one a step, and sampled, where they are
 * generated. */
static void pass(struct profile *f, int n, bool generation, struct pass *p) {
    struct rig *r = &f->rig;
    int chunk = generation ? 1 : rig_chunk(r);
    struct run_times t = {0};
    *p = (struct pass){.n_tok = n * f->n_batch};
    struct rates before = rig_rates(r, f->probe);
    run_watch(r->run, &t);
    int64_t t0 = clock_ns();
    for (int at = 0; at < n; at += chunk) {
        int now = n - at < chunk ? n - at : chunk;
        rig_step(r, f->depth + at, now, generation || at + now == n);
        int64_t since = clock_ns();
        for (int s = 0; generation && s < f->n_batch; s++)
            sampler_next(f->sampler, r->logits + (size_t)s * (size_t)f->m->cfg.vocab);
        p->ns[SAMPLING] += generation ? clock_ns() - since : 0;
    }
    p->total = clock_ns() - t0;
    run_watch(r->run, NULL);
    p->rates = rates_mean(before, rig_rates(r, f->probe));
    p->ns[OTHER] = p->total - p->ns[SAMPLING];
    for (int i = 0; i < RUN_OPS; i++) {
        p->ns[i] = t.ns[i];
        p->wait[i] = t.wait[i];
        p->ns[OTHER] -= t.ns[i];
    }
    for (int at = 0; at < n; at += chunk) {
        int now = n - at < chunk ? n - at : chunk;
        work_add(&p->work, r, f->depth + at, now, generation || at + now == n);
    }
}

static int by_total(const void *a, const void *b) {
    int64_t x = ((const struct pass *)a)->total, y = ((const struct pass *)b)->total;
    return (x > y) - (x < y);
}

/* -- output ------------------------------------------------------------------------------------ */

static json_t *row_json(const struct pass *p, int row) {
    double seconds = (double)p->ns[row] / 1e9, ops = 0;
    json_t *j =
        json_pack("{s:s,s:f,s:f,s:f}", "operator", row_name[row], "ms", seconds * 1e3, "share",
                  (double)p->ns[row] / (double)p->total, "wait_ms", (double)p->wait[row] / 1e6);
    for (int a = 0; row < RUN_OPS && a < N_ARITH; a++)
        ops += p->work.ops[row][a];
    bool work = ops > 0 && p->ns[row] > 0;
    json_object_set_new(j, "gb_per_s",
                        work ? json_real(p->work.bytes[row] / seconds / 1e9) : json_null());
    json_object_set_new(j, "gops", work ? json_real(ops / seconds / 1e9) : json_null());
    json_object_set_new(j, "limit_fraction",
                        work ? json_real(work_of(&p->work, row, &p->rates) / seconds)
                             : json_null());
    return j;
}

static json_t *phase_json(const struct profile *f, const struct pass *p, bool generation) {
    json_t *rows = json_array();
    double peak = p->rates.ops[arith_of_weights(f->m->layer[0].wq.type)];
    double attention = p->rates.ops[arith_of_kv(kv_type(f->rig.kv))];
    for (int i = 0; i < N_ROWS; i++)
        if (p->ns[i] || i == OTHER)
            json_array_append_new(rows, row_json(p, i));
    return json_pack("{s:s,s:i,s:i,s:i,s:f,s:f,s:f,s:f,s:f,s:o}", "phase",
                     generation ? "generation" : "prompt", "tokens", p->n_tok, "batch", f->n_batch,
                     "depth", f->depth, "ms", (double)p->total / 1e6, "tok_per_s",
                     p->n_tok * 1e9 / (double)p->total, "read_gb_per_s", p->rates.read / 1e9,
                     "peak_gops", peak / 1e9, "attention_gops", attention / 1e9, "rows", rows);
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
    int n_ctx = f->depth + (f->n_prompt > f->n_gen ? f->n_prompt : f->n_gen);
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
    struct sampling s = sampling_default();
    f->sampler = sampler_new(&s, mc->vocab);
    f->rig = (struct rig){.m = f->m, .pool = f->pool, .n_batch = f->n_batch, .n_ctx = n_ctx};
    return rig_open(&f->rig, DT_NONE, err);
}

static void release(struct profile *f) {
    rig_close(&f->rig);
    sampler_free(f->sampler);
    model_close(f->m);
    pool_free(f->pool);
}

/* n tokens, measured; the first pass only warms up. */
static json_t *phase(struct profile *f, int n, bool generation) {
    struct pass p[RIG_REPEAT + 1];
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
    rig_fill(&f->rig, f->depth);
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
        {"batch", 0, NULL, OPT_INT, &f.n_batch, 1, RIG_BATCH, "N",
         "sequences at a time (default 1)"},
        {"threads", 't', NULL, OPT_INT, &f.n_threads, 0, 64, "N",
         "threads (default: one per processor)"},
        {"repetitions", 'r', NULL, OPT_INT, &f.repeat, 1, RIG_REPEAT, "N",
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
    else if (!f.n_prompt && !f.n_gen)
        err_set(&err, E_USAGE, "bench profile: -p 0 and -n 0 leave nothing to measure");
    else if (!cmd_no_more(argc, argv, rest, &err)) {
        f.shape = f.model || f.shape ? f.shape : "168m";
        measure(&f, &err);
    }
    return cmd_fail(&err);
}
