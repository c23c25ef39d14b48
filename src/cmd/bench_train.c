/* bench_train.c - `bench train`: speed and memory of whole optimiser steps on a random model.
 *
 * A sample is one step as train.c makes it: gradients zeroed, forward, backward, norm and clipping,
 * AdamW.  Ids are random and the same in each step, so the loss falls if the step is a whole one.
 * Every sample lies between two probes of arithmetic, because the peak moves within seconds on a
 * shared machine; a row's fraction is the median of the samples' own fractions.  Two counts of
 * operations per token: 6N, six per weight as papers quote it (attention not counted, a table of
 * embeddings as if it were multiplied), and the exact one of train_flops.
 * Nothing is written to disk. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "cmd/probe.h"
#include "train/adamw.h"
#include "train/train.h"

#define MAX_REPEAT 99
#define RATE 3e-4f
#define CLIP 1.0

struct bench {
    /* flags */
    const char *shapes, *dtypes, *threads, *rows, *lens;
    int repeat;
    bool recompute, json, csv, help;
    /* state: the item of each list that is under way, and the rows made so far */
    const char *shape;
    struct cfg cfg;
    enum dtype type;
    int n_threads, n_rows, len;
    json_t *out;
};

struct rig { /* what a step needs; all owned */
    const struct bench *b;
    struct pool *pool;
    struct model *m;
    struct net *net;
    struct adamw *adam;
    int32_t *ids, *targets;
    struct net_bytes memory;
    double loss; /* of the last step, mean over the targets */
};

/* -- one row ----------------------------------------------------------------------------------- */

/* Error if the step does not fit into memory; told before anything large is allocated. */
static int check_memory(struct rig *r, const struct net_opts *o, struct err *err) {
    const struct net_bytes *b = &r->memory;
    const double mb = 1e6;
    if (net_memory(&r->b->cfg, o, &r->memory, err))
        return -1;
    size_t have = mem_available();
    if (have == 0 || b->total <= have)
        return 0;
    return err_set(err, E_MEMORY,
                   "bench train: %s with %d x %d tokens needs %.0f MB (weights %.0f, gradients "
                   "%.0f, moments %.0f, activations %.0f) and %.0f MB are free: try a smaller "
                   "--batch or --tokens%s",
                   r->b->shape, o->rows, o->len, (double)b->total / mb, (double)b->weights / mb,
                   (double)b->gradients / mb, (double)b->moments / mb, (double)b->activations / mb,
                   (double)have / mb, o->recompute ? "" : ", or --recompute");
}

static int rig_open(struct rig *r, struct err *err) {
    const struct bench *b = r->b;
    const struct adamw_opts ao = {0.9f, 0.95f, 1e-8f, 0.1f};
    size_t cells = (size_t)b->n_rows * (size_t)b->len;
    r->pool = pool_new(b->n_threads);
    const struct model_opts mo = {.dtype = DT_F32, .pool = r->pool, .no_tokenizer = true};
    const struct net_opts no = {.pool = r->pool,
                                .type = b->type,
                                .rows = b->n_rows,
                                .len = b->len,
                                .recompute = b->recompute};
    if (check_memory(r, &no, err) || !(r->m = model_random(&b->cfg, 1, &mo, err)) ||
        !(r->net = net_new(r->m, &no, err)) ||
        !(r->adam = adamw_new(net_params(r->net), &ao, r->pool, err)))
        return -1;
    r->ids = mem_array(cells, sizeof *r->ids);
    r->targets = mem_array(cells, sizeof *r->targets);
    struct rng rng;
    rng_seed(&rng, 1);
    for (size_t i = 0; i < cells; i++) {
        r->ids[i] = (int32_t)(rng_below(&rng, (uint32_t)b->cfg.vocab));
        r->targets[i] = (int32_t)(rng_below(&rng, (uint32_t)b->cfg.vocab));
    }
    return 0;
}

static void rig_close(struct rig *r) {
    free(r->ids);
    free(r->targets);
    adamw_free(r->adam);
    net_free(r->net);
    model_close(r->m);
    pool_free(r->pool);
}

/* Seconds of one optimiser step. */
static int step(struct rig *r, double *seconds, struct err *err) {
    const struct bench *b = r->b;
    const struct net_batch batch = {
        .rows = b->n_rows, .len = b->len, .ids = r->ids, .targets = r->targets};
    struct net_loss loss;
    int64_t t0 = clock_us();
    net_zero_grad(r->net);
    if (net_grad(r->net, &batch, 1.0f / ((float)b->n_rows * (float)b->len), &loss, err))
        return -1;
    adamw_step(r->adam, RATE, adamw_clip(adamw_norm(r->adam), CLIP));
    *seconds = (double)(clock_us() - t0) / 1e6;
    r->loss = loss.sum / (double)loss.n;
    return 0;
}

static void print_row(const struct bench *b, const json_t *row) {
    static const char *const key[] = {
        "shape",       "dtype",         "threads",       "rows",           "tokens",
        "tok_per_s",   "tok_per_s_min", "tok_per_s_max", "gflops",         "gflops_exact",
        "peak_gflops", "peak_fraction", "peak_bytes",    "announced_bytes"};
    enum { N = sizeof key / sizeof *key };
    bool first = json_array_size(b->out) == 1;
    for (int i = 0; first && b->csv && i < N; i++)
        printf("%s%s", key[i], i + 1 < N ? "," : "\n");
    if (first && !b->csv)
        printf("| shape | dtype | threads | batch | tok/s | min..max | GFLOP/s as 6N | exact | of "
               "peak | peak MB | announced MB |\n"
               "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    if (!b->csv) {
        double v[N] = {0};
        for (int i = 2; i < N; i++)
            v[i] = json_number_value(json_object_get(row, key[i]));
        printf("| %s | %s | %.0f | %.0f x %.0f | %.1f | %.1f..%.1f | %.1f | %.1f | %.0f %% | %.0f "
               "| %.0f |\n",
               b->shape, dtype_info(b->type)->name, v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9],
               100 * v[11], v[12] / 1e6, v[13] / 1e6);
    }
    for (int i = 0; b->csv && i < N; i++) {
        const json_t *x = json_object_get(row, key[i]);
        if (json_is_string(x))
            printf("%s", json_string_value(x));
        else
            printf("%.10g", json_number_value(x));
        putchar(i + 1 < N ? ',' : '\n');
    }
    fflush(stdout);
}

static int run_row(struct bench *b, struct err *err) {
    struct rig r = {.b = b};
    double rate[MAX_REPEAT], peak[MAX_REPEAT], share[MAX_REPEAT], seconds, first;
    double tokens = (double)b->n_rows * b->len, six_n = 6.0 * (double)cfg_params(&b->cfg);
    int rc = -1;
    peak_memory_reset();
    if (rig_open(&r, err) || step(&r, &seconds, err)) /* warm-up: pages, primitives */
        goto out;
    first = r.loss;
    for (int i = 0; i < b->repeat; i++) {
        double before = probe_ops_rate(r.pool, b->type);
        if (step(&r, &seconds, err))
            goto out;
        peak[i] = (before + probe_ops_rate(r.pool, b->type)) / 2;
        rate[i] = tokens / seconds;
        share[i] = rate[i] * six_n / peak[i];
    }
    double mid = median(rate, b->repeat);
    json_t *row = json_pack("{s:s,s:s,s:s,s:i,s:i,s:i,s:b}", "test", "train", "shape", b->shape,
                            "dtype", dtype_info(b->type)->name, "threads", b->n_threads, "rows",
                            b->n_rows, "tokens", b->len, "recompute", b->recompute);
    json_t *figures = json_pack(
        "{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:f,s:f,s:i}", "tok_per_s", mid, "tok_per_s_min",
        rate[0], "tok_per_s_max", rate[b->repeat - 1], "gflops", mid * six_n / 1e9, "gflops_exact",
        mid * train_flops(&b->cfg, b->len) / 1e9, "peak_gflops", median(peak, b->repeat) / 1e9,
        "peak_fraction", median(share, b->repeat), "peak_bytes", (json_int_t)peak_memory(),
        "announced_bytes", (json_int_t)r.memory.total, "loss_first", first, "loss_last", r.loss,
        "repeat", b->repeat);
    json_object_update(row, figures);
    json_decref(figures);
    json_array_append_new(b->out, row);
    if (!b->json)
        print_row(b, row);
    rc = 0;
out:
    rig_close(&r);
    return rc;
}

/* -- lists: shape, dtype, threads, rows, tokens ------------------------------------------------ */

static int on_len(void *ud, const char *item, struct err *err) {
    struct bench *b = ud;
    if (bench_number("--tokens", item, 1, 1 << 20, &b->len, err))
        return -1;
    return run_row(b, err);
}

static int on_rows(void *ud, const char *item, struct err *err) {
    struct bench *b = ud;
    if (bench_number("--batch", item, 1, 1 << 16, &b->n_rows, err))
        return -1;
    return bench_each(b->lens, on_len, b, err);
}

static int on_threads(void *ud, const char *item, struct err *err) {
    struct bench *b = ud;
    if (bench_number("--threads", item, 1, 64, &b->n_threads, err))
        return -1;
    return bench_each(b->rows, on_rows, b, err);
}

static int on_dtype(void *ud, const char *item, struct err *err) {
    struct bench *b = ud;
    b->type = dtype_parse(item);
    if (b->type != DT_F32 && b->type != DT_BF16)
        return err_set(err, E_USAGE, "--dtype: '%s' is not f32 or bf16", item);
    return bench_each(b->threads, on_threads, b, err);
}

static int on_shape(void *ud, const char *item, struct err *err) {
    struct bench *b = ud;
    b->shape = item;
    if (cfg_shape(&b->cfg, item, err))
        return -1;
    return bench_each(b->dtypes, on_dtype, b, err);
}

static int speed(struct bench *b, struct err *err) {
    b->out = json_array();
    int rc = bench_each(b->shapes, on_shape, b, err);
    if (!rc && !json_array_size(b->out))
        rc = err_set(err, E_USAGE, "bench train: an empty list leaves nothing to measure");
    if (!rc && b->json)
        rc = cmd_print_json(json_pack("{s:o,s:O}", "machine", bench_machine(), "rows", b->out),
                            true, err);
    json_decref(b->out);
    return rc;
}

int cmd_bench_train(int argc, char **argv) {
    struct err err = {0};
    struct bench b = {.shapes = "168m",
                      .dtypes = "bf16",
                      .threads = "1,2",
                      .rows = "4",
                      .lens = "512",
                      .repeat = 5};
    int rest;
    const struct opt table[] = {
        {"shape", 0, NULL, OPT_STR, &b.shapes, .arg = "LIST",
         .help = "random models: tiny, 168m, llama-1b, gpt2, qwen-0.5b (default 168m)"},
        {"dtype", 0, NULL, OPT_STR, &b.dtypes, .arg = "LIST",
         .help = "what products read: bf16, f32; sums, master weights are f32 (default bf16)"},
        {"threads", 't', NULL, OPT_STR, &b.threads, .arg = "LIST", .help = "default 1,2"},
        {"batch", 'b', NULL, OPT_STR, &b.rows, .arg = "LIST",
         .help = "rows of a batch (default 4)"},
        {"tokens", 'T', NULL, OPT_STR, &b.lens, .arg = "LIST",
         .help = "tokens in each row (default 512)"},
        {"recompute", 0, NULL, OPT_FLAG, &b.recompute,
         .help = "compute activations again instead of keeping them"},
        {"repetitions", 'r', NULL, OPT_INT, &b.repeat, 1, MAX_REPEAT, "N",
         "steps timed after a first one; medians are printed (default 5)"},
        {"csv", 0, NULL, OPT_FLAG, &b.csv, .help = "print comma-separated values"},
        OPTS_JSON(&b.json),
        OPTS_HELP(&b.help),
        OPTS_END};
    const struct cmd_help help = {"bench train [options]",
                                  "Speed and memory of training steps on random weights and ids.",
                                  &b.help};
    if (cmd_parse(&help, table, argc, argv, &rest, &err) || b.help)
        return cmd_fail(&err);
    if (b.json && b.csv)
        err_set(&err, E_USAGE, "bench train: --json and --csv exclude each other");
    else if (!cmd_no_more(argc, argv, rest, &err))
        speed(&b, &err);
    return cmd_fail(&err);
}
