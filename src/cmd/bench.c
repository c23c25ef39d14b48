/* bench.c - `bench`: prefill and decode speed of a shape or a model, beside this machine's limits.
 *
 * Every sample is taken between two probes of bandwidth and arithmetic, because both move within
 * seconds on a shared machine; a row's fraction is the median of the samples' own fractions, and a
 * sample's is the least time that its steps can take (rig.h) over the time they took. */
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "cmd/gstack.h"
#include "cmd/rig.h"
#include "num/kern.h"

enum form { FORM_MD, FORM_CSV, FORM_JSON };

struct bench {
    /* flags */
    const char *shapes, *dtypes, *tests, *threads, *batches, *depths, *model, *text, *kv_dtype;
    const char *output;
    int repeat;
    bool json, help;
    enum form form;
    enum dtype kv; /* DT_NONE = what suits the weights */
    bool left_out; /* a test that the model has no positions for */
    /* state */
    struct probe *probe;
    json_t *limits, *rows;
};

struct test { /* "tg64@128x16": 64 tokens generated behind 128 in each of 16 sequences */
    bool decode;
    int n;
    int depth, batch; /* -1 = those of the lists */
};

/* One sample: the test's tokens from position `depth`; seconds, and the least they could be. */
static double sample(struct bench *b, struct rig *r, const struct test *t, double *limit) {
    int chunk = t->decode ? 1 : rig_chunk(r);
    struct rates before = rig_rates(r, b->probe);
    int64_t t0 = clock_us();
    for (int at = 0; at < t->n; at += chunk) {
        int n = t->n - at < chunk ? t->n - at : chunk;
        rig_step(r, t->depth + at, n, t->decode || at + n == t->n);
    }
    double seconds = (double)(clock_us() - t0) / 1e6;
    struct rates mean = rates_mean(before, rig_rates(r, b->probe));
    *limit = 0;
    for (int at = 0; at < t->n; at += chunk) {
        int n = t->n - at < chunk ? t->n - at : chunk;
        struct work w = {0};
        work_add(&w, r, t->depth + at, n, t->decode || at + n == t->n);
        *limit += work_least(&w, &mean);
    }
    return seconds;
}

/* -- rows -------------------------------------------------------------------------------------- */

/* The keys of a row in their order; numbers as JSON writes them. */
static void csv_row(const json_t *row, bool head) {
    const char *key, *comma = "";
    json_t *v;
    json_object_foreach((json_t *)row, key, v) {
        printf("%s%s", head ? comma : "", head ? key : "");
        comma = ",";
    }
    printf("%s", head ? "\n" : "");
    comma = "";
    json_object_foreach((json_t *)row, key, v) {
        if (json_is_string(v))
            printf("%s%s", comma, json_string_value(v));
        else if (json_is_integer(v))
            printf("%s%lld", comma, (long long)json_integer_value(v));
        else
            printf("%s%.9g", comma, json_real_value(v));
        comma = ",";
    }
    printf("\n");
    fflush(stdout);
}

static void add_row(struct bench *b, json_t *row) {
    json_array_append_new(b->rows, row);
    if (b->form == FORM_CSV)
        csv_row(row, json_array_size(b->rows) == 1);
    if (b->form != FORM_MD)
        return;
    if (json_array_size(b->rows) == 1)
        printf("\n| shape | dtype | test | threads | batch | depth | tok/s | min..max | each | of "
               "limit |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
    json_int_t threads = json_integer_value(json_object_get(row, "threads"));
    json_int_t batch = json_integer_value(json_object_get(row, "batch"));
    json_int_t depth = json_integer_value(json_object_get(row, "depth"));
    printf("| %s | %s | %s | %lld | %lld | %lld | %.1f | %.1f..%.1f | %.1f | %.0f %% |\n",
           json_string_value(json_object_get(row, "shape")),
           json_string_value(json_object_get(row, "dtype")),
           json_string_value(json_object_get(row, "test")), (long long)threads, (long long)batch,
           (long long)depth, json_real_value(json_object_get(row, "tok_per_s")),
           json_real_value(json_object_get(row, "tok_per_s_min")),
           json_real_value(json_object_get(row, "tok_per_s_max")),
           json_real_value(json_object_get(row, "tok_per_s_each")),
           100 * json_real_value(json_object_get(row, "limit_fraction")));
    fflush(stdout);
}

/* A number at *p up to `most`, not below `least`, behind the letter; *p moves behind it.  Without
 * the letter -1. */
static bool test_number(const char **p, char letter, int least, int most, int *out) {
    *out = -1;
    if (**p != letter)
        return true;
    char *end;
    long v = (*p)[1] >= '0' && (*p)[1] <= '9' ? strtol(*p + 1, &end, 10) : -1;
    if (v < least || v > most)
        return false;
    *out = (int)v;
    *p = end;
    return true;
}

static int parse_test(const char *text, struct test *t, struct err *err) {
    const char *p = text + 1;
    t->decode = strncmp(text, "tg", 2) == 0;
    if ((t->decode || strncmp(text, "pp", 2) == 0) &&
        test_number(&p, t->decode ? 'g' : 'p', 1, 1 << 20, &t->n) &&
        test_number(&p, '@', 0, 1 << 20, &t->depth) &&
        test_number(&p, 'x', 1, RIG_BATCH, &t->batch) && !*p)
        return 0;
    return err_set(err, E_USAGE,
                   "--test %.60s: not ppN or tgN with N in 1..1048576, perhaps @DEPTH up to "
                   "1048576, perhaps xBATCH up to %d",
                   text, RIG_BATCH);
}

struct sweep { /* the nested loops: shape, dtype, threads, test, batch, depth */
    struct bench *b;
    const char *shape, *dtype; /* as asked for */
    struct model *m;
    struct pool *pool;
    struct test test; /* depth and batch of the row in hand */
};

static json_t *measure(const struct sweep *s, struct rig *r) {
    struct bench *b = s->b;
    const struct test *t = &s->test;
    struct test warm = *t;
    double rate[RIG_REPEAT], fraction[RIG_REPEAT];
    char name[16], label[96];
    snprintf(name, sizeof name, "%s%d", t->decode ? "tg" : "pp", t->n);
    snprintf(label, sizeof label, "%.40s %s %s@%dx%d", s->shape, s->dtype, name, t->depth,
             t->batch);
    struct progress progress = progress_start(label, b->repeat + 1);
    rig_fill(r, t->depth);
    warm.n = t->decode && t->n > 16 ? 16 : t->n;
    sample(b, r, &warm, &fraction[0]);
    for (int i = 0; i < b->repeat; i++) {
        progress_update(&progress, i + 1);
        double limit, seconds = sample(b, r, t, &limit);
        rate[i] = t->n * r->n_batch / seconds;
        fraction[i] = limit / seconds;
    }
    progress_end(&progress);
    double mid = median(rate, b->repeat);
    return json_pack("{s:s,s:s,s:s,s:i,s:i,s:i,s:f,s:f,s:f,s:f,s:f,s:i,s:s}", "test", name, "shape",
                     s->shape, "dtype", s->dtype, "threads", pool_size(r->pool), "batch",
                     r->n_batch, "depth", t->depth, "tok_per_s", mid, "tok_per_s_min", rate[0],
                     "tok_per_s_max", rate[b->repeat - 1], "tok_per_s_each", mid / r->n_batch,
                     "limit_fraction", median(fraction, b->repeat), "repeat", b->repeat, "kv_dtype",
                     dtype_info(kv_type(r->kv))->name);
}

static int run_test(const struct sweep *s, struct err *err) {
    const struct test *t = &s->test;
    struct rig r = {.m = s->m, .pool = s->pool, .n_batch = t->batch, .n_ctx = t->depth + t->n};
    int rc = 0;
    if (s->m->cfg.learned_pos && r.n_ctx > s->m->cfg.max_ctx) {
        log_warn("%s: --test %s%d left out: depth %d + %d tokens exceed the model's %d positions",
                 s->shape, t->decode ? "tg" : "pp", t->n, t->depth, t->n, s->m->cfg.max_ctx);
        s->b->left_out = true;
        return 0;
    }
    if (!(rc = rig_open(&r, s->b->kv, err)))
        add_row(s->b, measure(s, &r));
    rig_close(&r);
    return rc;
}

/* -- lists ------------------------------------------------------------------------------------- */

int bench_each(const char *list, int (*fn)(void *ud, const char *item, struct err *err), void *ud,
               struct err *err) {
    char *copy = mem_strdup(list), *save = NULL;
    int rc = 0;
    for (char *p = strtok_r(copy, ",", &save); p && !rc; p = strtok_r(NULL, ",", &save))
        rc = fn(ud, p, err);
    free(copy);
    return rc;
}

int bench_number(const char *flag, const char *item, int lo, int hi, int *out, struct err *err) {
    char *end;
    long v = strtol(item, &end, 10);
    if (*end || end == item || v < lo || v > hi)
        return err_set(err, E_USAGE, "%s: '%s' is not a number in %d..%d", flag, item, lo, hi);
    *out = (int)v;
    return 0;
}

static int on_depth(void *ud, const char *item, struct err *err) {
    struct sweep *s = ud;
    if (bench_number("--depth", item, 0, 1 << 20, &s->test.depth, err))
        return -1;
    return run_test(s, err);
}

static int at_depths(struct sweep *s, int own, struct err *err) {
    s->test.depth = own;
    return own >= 0 ? run_test(s, err) : bench_each(s->b->depths, on_depth, s, err);
}

static int on_batch(void *ud, const char *item, struct err *err) {
    struct sweep *s = ud;
    int own = s->test.depth;
    if (bench_number("--batch", item, 1, RIG_BATCH, &s->test.batch, err) || at_depths(s, own, err))
        return -1;
    s->test.depth = own;
    return 0;
}

static int on_test(void *ud, const char *item, struct err *err) {
    struct sweep *s = ud;
    if (parse_test(item, &s->test, err))
        return -1;
    return s->test.batch > 0 ? at_depths(s, s->test.depth, err)
                             : bench_each(s->b->batches, on_batch, s, err);
}

static int on_threads(void *ud, const char *item, struct err *err) {
    struct sweep *s = ud;
    int n = 1;
    if (bench_number("--threads", item, 1, 64, &n, err))
        return -1;
    s->pool = pool_new(n);
    int rc = bench_each(s->b->tests, on_test, s, err);
    pool_free(s->pool);
    return rc;
}

static int on_dtype(void *ud, const char *item, struct err *err) {
    struct sweep *s = ud;
    struct cfg c;
    enum dtype type;
    if (cmd_dtype(item, &type, err) || (!s->b->model && cfg_shape(&c, s->shape, err)))
        return -1;
    struct pool *pool = pool_new(0);
    struct model_opts o = {.dtype = type, .pool = pool, .no_tokenizer = true};
    s->m = s->b->model ? model_open(s->b->model, &o, err) : model_random(&c, 1, &o, err);
    pool_free(pool);
    /* rows that fill no blocks have another type; the row is named after the one asked for */
    if (s->m)
        s->dtype = dtype_info(type != DT_NONE ? type : s->m->layer[0].wq.type)->name;
    int rc = s->m ? bench_each(s->b->threads, on_threads, s, err) : -1;
    model_close(s->m);
    return rc;
}

static int on_shape(void *ud, const char *item, struct err *err) {
    struct sweep *s = ud;
    s->shape = item;
    return bench_each(s->b->dtypes, on_dtype, s, err);
}

/* -- what can be refused before minutes have passed -------------------------------------------- */

static int check_shape(void *ud, const char *item, struct err *err) {
    struct cfg c;
    (void)ud;
    return cfg_shape(&c, item, err);
}

static int check_dtype(void *ud, const char *item, struct err *err) {
    enum dtype t;
    (void)ud;
    return cmd_dtype(item, &t, err);
}

static int check_test(void *ud, const char *item, struct err *err) {
    struct test t;
    (void)ud;
    return parse_test(item, &t, err);
}

struct range { /* of the numbers that a flag takes */
    const char *flag;
    int lo, hi;
};

static int check_number(void *ud, const char *item, struct err *err) {
    const struct range *r = ud;
    int n;
    return bench_number(r->flag, item, r->lo, r->hi, &n, err);
}

static int check_lists(struct bench *b, struct err *err) {
    struct range threads = {"--threads", 1, 64}, batch = {"--batch", 1, RIG_BATCH};
    struct range depth = {"--depth", 0, 1 << 20};
    if (b->model && b->shapes)
        return err_set(err, E_USAGE, "bench: --model and --shape exclude each other");
    b->shapes = b->shapes ? b->shapes : "168m";
    b->dtypes = b->dtypes ? b->dtypes : b->model ? "native" : "bf16,q8_0,q4_0";
    b->kv = DT_NONE;
    if (b->kv_dtype && cmd_kv_dtype(b->kv_dtype, &b->kv, err))
        return -1;
    return bench_each(b->shapes, check_shape, NULL, err) ||
                   bench_each(b->dtypes, check_dtype, NULL, err) ||
                   bench_each(b->tests, check_test, NULL, err) ||
                   bench_each(b->threads, check_number, &threads, err) ||
                   bench_each(b->batches, check_number, &batch, err) ||
                   bench_each(b->depths, check_number, &depth, err)
               ? -1
               : 0;
}

/* -- limits and output ------------------------------------------------------------------------- */

static int on_limits(void *ud, const char *item, struct err *err) {
    struct bench *b = ud;
    int n = 1;
    if (bench_number("--threads", item, 1, 64, &n, err))
        return -1;
    struct pool *pool = pool_new(n);
    struct limits l = probe_limits(b->probe, pool);
    pool_free(pool);
    if (b->form == FORM_MD && !json_array_size(b->limits))
        printf("\n| threads | read GB/s | F32 GFLOP/s | BF16 GFLOP/s | INT8 GOP/s "
               "| barrier us |\n|--:|--:|--:|--:|--:|--:|\n");
    if (b->form == FORM_MD)
        printf("| %d | %.1f | %.0f | %.0f | %.0f | %.2f |\n", n, l.read / 1e9, l.f32 / 1e9,
               l.bf16 / 1e9, l.i8 / 1e9, l.barrier * 1e6);
    json_array_append_new(
        b->limits, json_pack("{s:i,s:f,s:f,s:f,s:f,s:f}", "threads", n, "read_gb_per_s",
                             l.read / 1e9, "f32_gflops", l.f32 / 1e9, "bf16_gflops", l.bf16 / 1e9,
                             "int8_gops", l.i8 / 1e9, "barrier_us", l.barrier * 1e6));
    return 0;
}

/* First "key : value" of /proc/cpuinfo, or "unknown". */
static void cpu_name(char *out, size_t n) {
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    snprintf(out, n, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            line[strcspn(line, "\n")] = 0;
            snprintf(out, n, "%s", colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

json_t *bench_machine(void) {
    char cpu[128];
    struct utsname u = {0};
    uname(&u);
    cpu_name(cpu, sizeof cpu);
    return json_pack("{s:s,s:s,s:s}", "cpu", cpu, "isa", isa_name(kern_level()), "kernel",
                     u.release);
}

/* --json, or --output as llama-bench spells it. */
static int find_form(struct bench *b, struct err *err) {
    static const char *const names[] = {"md", "csv", "json"}; /* ORDER: enum form */
    b->form = b->json ? FORM_JSON : FORM_MD;
    for (int i = 0; i < 3; i++) {
        if (!b->output || strcmp(b->output, names[i]) != 0)
            continue;
        if (b->json && i != FORM_JSON)
            break;
        b->form = (enum form)i;
        return 0;
    }
    if (b->output)
        return err_set(err, E_USAGE, "--output: '%.40s' is not md, csv or json%s", b->output,
                       b->json ? " (or contradicts --json)" : "");
    return 0;
}

static int speed(struct bench *b, struct err *err) {
    struct sweep s = {.b = b, .shape = b->model};
    if (find_form(b, err) || check_lists(b, err))
        return -1;
    if (b->model && strrchr(b->model, '/'))
        s.shape = strrchr(b->model, '/') + 1;
    json_t *m = bench_machine();
    int rc = -1;
    b->limits = json_array();
    b->rows = json_array();
    if (!(b->probe = probe_new(err)))
        goto out;
    if (b->form == FORM_MD)
        printf("%s, kernels %s\n", json_string_value(json_object_get(m, "cpu")),
               isa_name(kern_level()));
    if (bench_each(b->threads, on_limits, b, err))
        goto out;
    rc = b->model ? bench_each(b->dtypes, on_dtype, &s, err)
                  : bench_each(b->shapes, on_shape, &s, err);
    if (!rc && !json_array_size(b->rows))
        rc = err_set(err, E_USAGE,
                     b->left_out ? "bench: every test exceeds the model's positions"
                                 : "bench: an empty list leaves nothing to measure");
    if (!rc && b->form == FORM_JSON)
        rc = cmd_print_json(
            json_pack("{s:O,s:O,s:O}", "machine", m, "limits", b->limits, "rows", b->rows), true,
            err);
out:
    json_decref(m);
    json_decref(b->limits);
    json_decref(b->rows);
    probe_free(b->probe);
    return rc;
}

/* -- tokenising -------------------------------------------------------------------------------- */

static int tokenize_speed(struct bench *b, struct err *err) {
    struct buf text = {0};
    struct ids ids = {0};
    struct model_info info = {0};
    double rate[RIG_REPEAT];
    int rc = -1;
    struct tok *t = file_is_dir(b->model) ? tok_open(b->model, err) : NULL;
    if (!t && (file_is_dir(b->model) || model_peek(b->model, &info, err)))
        goto out;
    if (cmd_read(b->text, false, &text, err))
        goto out;
    if (!text.len) {
        err_set(err, E_USAGE, "--text %s: empty", b->text);
        goto out;
    }
    for (int i = -1; i < b->repeat; i++) { /* -1: warm-up */
        int64_t t0 = clock_us(), us = 0;
        int rounds = 0;
        for (; us < 200000; rounds++, us = clock_us() - t0) {
            ids.n = 0;
            if (tok_encode(t ? t : info.tok, text.data, text.len, false, &ids, err))
                goto out;
        }
        rate[i < 0 ? 0 : i] = (double)text.len * rounds / (double)us;
    }
    double mid = median(rate, b->repeat);
    rc = 0;
    if (b->json)
        rc = cmd_print_json(json_pack("{s:s,s:I,s:I,s:f,s:f,s:f,s:f}", "test", "tokenize", "bytes",
                                      (json_int_t)text.len, "tokens", (json_int_t)ids.n, "mb_per_s",
                                      mid, "mb_per_s_min", rate[0], "mb_per_s_max",
                                      rate[b->repeat - 1], "tok_per_s",
                                      mid * 1e6 * (double)ids.n / (double)text.len),
                            true, err);
    else
        printf("%zu bytes, %zu tokens: %.1f MB/s on one core (%.1f..%.1f)\n", text.len, ids.n, mid,
               rate[0], rate[b->repeat - 1]);
out:
    tok_free(t);
    model_info_free(&info);
    buf_free(&text);
    ids_free(&ids);
    return rc;
}

/* -- the command ------------------------------------------------------------------------------- */

int cmd_bench(int argc, char **argv) {
    struct err err = {0};
    struct bench b = {.dtypes = NULL,
                      .tests = "pp512,tg128",
                      .threads = "1,2",
                      .batches = "1",
                      .depths = "0",
                      .repeat = 5};
    bool tokenize = argc > 1 && strcmp(argv[1], "tokenize") == 0;
    if (argc > 1 && strcmp(argv[1], "train") == 0)
        return cmd_bench_train(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "serve") == 0)
        return cmd_bench_serve(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "schedule") == 0)
        return cmd_bench_schedule(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "kv") == 0)
        return cmd_bench_kv(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "gstack") == 0)
        return cmd_bench_gstack(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "profile") == 0)
        return cmd_bench_profile(argc - 1, argv + 1);
    const struct opt speed_table[] = {
        {"shape", 0, NULL, OPT_STR, &b.shapes, .arg = "LIST",
         .help = "random models: tiny, 168m, llama-1b, gpt2, qwen-0.5b (default 168m)"},
        {"model", 'm', NULL, OPT_STR, &b.model, .arg = "PATH",
         .help = "a real model instead of a shape"},
        {"dtype", 0, NULL, OPT_STR, &b.dtypes, .arg = "LIST",
         .help = "f32, f16, bf16, int8, int4, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k "
                 "(default bf16,q8_0,q4_0; with --model: native)"},
        {"kv-dtype", 0, "ctk", OPT_STR, &b.kv_dtype, .arg = "TYPE",
         .help =
             "keys and values: f32, f16, bf16 or int8 (default: f32 for f32 weights, else bf16)"},
        {"test", 0, NULL, OPT_STR, &b.tests, .arg = "LIST",
         .help = "ppN = a prompt of N tokens, tgN = N generated; then perhaps @DEPTH and xBATCH, "
                 "such as tg64@128x16 (default pp512,tg128)"},
        {"threads", 't', NULL, OPT_STR, &b.threads, .arg = "LIST", .help = "default 1,2"},
        {"batch", 0, NULL, OPT_STR, &b.batches, .arg = "LIST",
         .help = "sequences at a time (default 1)"},
        {"depth", 'd', "n-depth", OPT_STR, &b.depths, .arg = "LIST",
         .help = "tokens already in the KV cache (default 0)"},
        {"repetitions", 'r', NULL, OPT_INT, &b.repeat, 1, RIG_REPEAT, "N",
         "samples; medians are printed (default 5)"},
        {"output", 'o', NULL, OPT_STR, &b.output, .arg = "FORM",
         .help = "md (default), csv or json; rows of md and csv are printed as they come"},
        OPTS_JSON(&b.json),
        OPTS_HELP(&b.help),
        OPTS_END};
    const struct opt tok_table[] = {
        OPTS_MODEL(&b.model),
        {"text", 'f', "file", OPT_STR, &b.text, .arg = "FILE", .help = "what to tokenise"},
        {"repetitions", 'r', NULL, OPT_INT, &b.repeat, 1, RIG_REPEAT, "N", "samples (default 5)"},
        OPTS_JSON(&b.json),
        OPTS_HELP(&b.help),
        OPTS_END};
    const struct cmd_help help = {tokenize ? "bench tokenize MODEL --text FILE" : "bench [options]",
                                  tokenize
                                      ? "Tokenising speed on one core."
                                      : "Prefill and decode speed beside this machine's limits.",
                                  &b.help};
    int rest;
    argc -= tokenize;
    argv += tokenize;
    if (cmd_parse(&help, tokenize ? tok_table : speed_table, argc, argv, &rest, &err) || b.help)
        return cmd_fail(&err);
    if (tokenize && cmd_model(&b.model, argc, argv, &rest, &err))
        return cmd_fail(&err);
    if (cmd_no_more(argc, argv, rest, &err))
        return cmd_fail(&err);
    if (tokenize && !b.text)
        err_set(&err, E_USAGE, "bench tokenize: --text is missing");
    else if (tokenize)
        tokenize_speed(&b, &err);
    else
        speed(&b, &err);
    return cmd_fail(&err);
}
