/* bench_gstack.c - `bench gstack`: does growing a model save training?  The protocol: which arms,
 * how long, with what learning rates.
 *
 * Every arm spends the FLOPs of the run from scratch, to within half a step, the base model's
 * included; all have the same text, split, batch, optimiser and schedule (warm-up, stable, down in
 * the last fifth of the own run), and those of a seed the same order of data.  Learning rates are
 * tuned for the full model and for the small one, on runs of a tenth of the FLOPs with a seed that
 * is not compared; while the best of them is at the edge of what was tried, one more is. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/gstack.h"
#include "num/dense.h"
#include "num/kern.h"
#include "tok/bpe_train.h"
#include "train/ckpt.h"
#include "train/conf.h"

#define END_OF_TEXT "<|endoftext|>"
#define VAL_SHARE 0.02   /* of the documents */
#define EVAL_SHARE 0.001 /* tokens of an evaluation over those of the run: 3 % of its time in all */
#define TUNE_SHARE 0.1   /* of the budget */
#define GROW_AT 0.1      /* of a grown run's steps */

const char *const gs_arm_name[GS_ARMS] = {"scratch", "g2",     "g4",  "zero",
                                          "rewarm",  "random", "base"};

/* S0 to S3 grow to what two processors train in minutes to hours; nano is for tests. */
static const struct gs_tier tiers[] = {
    {"S0", 64, 8, 4, 176, 257, 64, 32, 4000000, 0.003},
    {"S1", 96, 8, 3, 256, 257, 128, 16, 6000000, 0.002},
    {"S2", 128, 8, 4, 344, 512, 128, 16, 10000000, 0.002},
    {"S3", 192, 12, 6, 512, 1024, 128, 32, 20000000, 0.0015},
    {"nano", 16, 8, 2, 32, 264, 32, 4, 20000, 0.01},
};

/* -- RUN.json ---------------------------------------------------------------------------------- */

/* What all runs share.  Paths are seen from DIR/runs; a text's is absolute. */
static json_t *common_conf(const struct study *s, const char *name, int64_t seed) {
    const struct gs_tier *t = s->tier;
    json_t *data = json_array();
    for (int i = 0; i < s->n_text; i++) {
        char *path = realpath(s->text[i], NULL);
        json_array_append_new(data, json_pack("{s:s, s:s, s:s}", "path", path ? path : s->text[i],
                                              "format", "text", "separator", END_OF_TEXT));
        free(path);
    }
    return json_pack("{s:s, s:s, s:s, s:o, s:f, s:i, s:i, s:i, s:i, s:i, s:s, s:b, s:I, s:I, s:i, "
                     "s:I, s:i}",
                     "out", name, "tokenizer", "../tokenizer", "cache", "../cache", "data", data,
                     "eval_fraction", VAL_SHARE, "dim", t->dim, "n_heads", t->heads, "hidden_dim",
                     t->ffn, "max_seq_len", t->len, "batch_size", t->rows, "schedule", "wsd",
                     "mixed_precision", s->bf16, "threads", (json_int_t)s->n_thread, "seed",
                     (json_int_t)seed, "eval_every", 0, "eval_batches",
                     (json_int_t)s->curve_batches, "save_checkpoint_every", 0);
}

static json_t *shape_conf(const struct study *s, int layers) {
    json_t *j = common_conf(s, "shape", 1);
    json_object_set_new(j, "n_layers", json_integer(layers));
    json_object_set_new(j, "max_steps", json_integer(1));
    return j;
}

static json_t *arm_conf(const struct study *s, enum gs_arm a, const char *name, int seed) {
    const struct gs_plan *p = &s->plan[a];
    json_t *j = common_conf(s, name, seed);
    char text[48];
    json_object_set_new(j, "n_layers", json_integer(p->layers));
    json_object_set_new(j, "max_steps", json_integer(p->length.steps));
    json_object_set_new(j, "learning_rate", json_real(p->lr));
    if (p->grow) {
        snprintf(text, sizeof text, "%d@%g%%", p->grow, 100 * (a == GS_RANDOM ? 0 : GROW_AT));
        json_object_set_new(j, "grow", json_string(text));
        json_object_set_new(j, "grow_learning_rate", json_real(p->base_lr));
    }
    if (a == GS_ZERO)
        json_object_set_new(j, "grow_zero_init", json_true());
    if (a == GS_REWARM) { /* where g4 has spent as much when it grows */
        const struct length *g = &s->plan[GS_G4].length;
        double share = (double)g->small * s->shape[2].token_flops /
                       ((double)p->length.steps * s->shape[0].token_flops);
        snprintf(text, sizeof text, "%.4f%%", 100 * share);
        json_object_set_new(j, "rewarm_at", json_string(text));
    }
    return j;
}

/* -- before the runs --------------------------------------------------------------------------- */

/* DIR/tokenizer, unless it is there from the study that is resumed. */
static int make_tokenizer(const struct study *s, struct err *err) {
    static const char *const special[] = {END_OF_TEXT};
    const struct words_spec read = {.pre = WORDS_GPT2, .special = special, .n_special = 1};
    const struct hf_spec write = {.pre = WORDS_GPT2,
                                  .special = special,
                                  .n_special = 1,
                                  .bos = END_OF_TEXT,
                                  .eos = END_OF_TEXT};
    char *dir = path_join(s->dir, "tokenizer"), *file = path_join(dir, "tokenizer.json");
    struct words *w = NULL;
    struct bpe_merges m = {0};
    int rc = -1, merges = s->tier->vocab - 256 - 1;
    bool empty;
    if (file_exists(file)) {
        rc = 0;
        goto out;
    }
    if (!(w = words_read(&read, s->text, s->n_text, err)) ||
        bpe_learn(w, merges, 2, false, &m, err) || dir_make(dir, &empty, err) ||
        hf_write(dir, &write, &m, err))
        goto out;
    rc = m.n == merges
             ? 0
             : err_set(err, E_USAGE, "--text: too little for a vocabulary of %d", s->tier->vocab);
out:
    words_free(w);
    free(m.merge);
    free(dir);
    free(file);
    return rc;
}

static int measure_shapes(struct study *s, struct err *err) {
    for (int i = 0; i < 3; i++) {
        json_t *conf = shape_conf(s, s->tier->layers >> i);
        int rc = gs_shape_of(s, conf, &s->shape[i], err);
        json_decref(conf);
        if (rc)
            return -1;
    }
    const struct gs_shape *full = &s->shape[0];
    int64_t steps = (s->tokens + full->step_tokens - 1) / full->step_tokens;
    s->budget = (double)(steps * full->step_tokens) * full->token_flops;
    s->curve_batches = llround((double)s->tokens * EVAL_SHARE / (double)full->step_tokens);
    if (s->curve_batches < 1)
        s->curve_batches = 1;
    if (full->val_tokens < full->step_tokens)
        return err_set(err, E_USAGE,
                       "--text: %lld tokens for validation are less than a batch of %lld: give "
                       "more text",
                       (long long)full->val_tokens, (long long)full->step_tokens);
    return 0;
}

/* DIR/settings.json: made, or compared with what a resumed study had. */
static int hold_settings(const struct study *s, struct err *err) {
    char print[24], *path = path_join(s->dir, "settings.json");
    const char *key;
    json_t *old = NULL, *value;
    int rc = -1;
    snprintf(print, sizeof print, "%016llx", (unsigned long long)s->shape[0].data);
    json_t *now = json_pack("{s:i, s:s, s:I, s:s, s:s, s:s}", "format", 1, "tier", s->tier->name,
                            "tokens", (json_int_t)s->tokens, "data", print, "dtype",
                            s->bf16 ? "bf16" : "f32", "kernels", isa_name(kern_level()));
    json_object_set_new(now, "lr", s->lr_given > 0 ? json_real(s->lr_given) : json_null());
    json_object_set_new(now, "lr_base",
                        s->base_lr_given > 0 ? json_real(s->base_lr_given) : json_null());
    if (!file_exists(path)) {
        rc = json_write(s->dir, "settings.json", json_incref(now), 2, err);
        goto out;
    }
    if (!(old = json_file(path, 1 << 16, err)))
        goto out;
    rc = 0;
    json_object_foreach(now, key, value) {
        if (!json_equal(value, json_object_get(old, key)))
            rc = err_set(err, E_USAGE, "%s: the study there has another %s: give another --out",
                         path, key);
    }
out:
    json_decref(now);
    json_decref(old);
    free(path);
    return rc;
}

/* -- learning rates ---------------------------------------------------------------------------- */

static double final_loss(const struct gs_run *r) {
    double loss = r->row[r->n_row - 1].loss;
    return isfinite(loss) ? loss : INFINITY;
}

static struct gs_run *want_tune(struct study *s, const char *of, const struct gs_shape *shape,
                                double rate) {
    char name[32];
    snprintf(name, sizeof name, "lr-%s-%g", of, rate);
    struct gs_run *r = gs_run_find(s, name, 0);
    double step = (double)shape->step_tokens * shape->token_flops;
    struct length l = length_for(s->budget * TUNE_SHARE, 0, 0, step);
    char folder[48];
    snprintf(folder, sizeof folder, "%s-0", name);
    r->wanted = true;
    r->flops = l.flops;
    r->tokens = l.steps * shape->step_tokens;
    r->final_tokens = s->curve_batches * GS_FINAL * shape->step_tokens;
    if (r->final_tokens > shape->val_tokens)
        r->final_tokens = shape->val_tokens;
    json_decref(r->conf);
    r->conf = common_conf(s, folder, 0);
    json_object_set_new(r->conf, "n_layers", json_integer(shape->layers));
    json_object_set_new(r->conf, "max_steps", json_integer(l.steps));
    json_object_set_new(r->conf, "learning_rate", json_real(rate));
    return r;
}

struct rates { /* tried for one shape, ascending */
    const char *of;
    const struct gs_shape *shape;
    double rate[GS_MAX_RATES];
    struct gs_run *run[GS_MAX_RATES];
    int n, best;
    bool more; /* the best is at an edge, and another try is left */
};

static void want_rates(struct study *s, struct rates *r) {
    for (int i = 0; i < r->n; i++)
        r->run[i] = want_tune(s, r->of, r->shape, r->rate[i]);
}

/* Picks the best; adds the next rate beyond it if it is at an edge. */
static void judge_rates(struct rates *r) {
    r->best = 0;
    for (int i = 1; i < r->n; i++)
        if (final_loss(r->run[i]) < final_loss(r->run[r->best]))
            r->best = i;
    r->more = r->n < GS_MAX_RATES && (r->best == 0 || r->best == r->n - 1);
    if (!r->more)
        return;
    if (r->best == 0) {
        memmove(r->rate + 1, r->rate, (size_t)r->n * sizeof *r->rate);
        r->rate[0] = r->rate[1] / 2;
    } else {
        r->rate[r->n] = r->rate[r->n - 1] * 2;
    }
    r->n++;
}

static double take_best(struct study *s, const struct rates *r) {
    for (int i = 0; i < r->n; i++)
        json_array_append_new(
            s->tuning, json_pack("{s:s, s:i, s:f, s:f, s:b}", "shape", r->of, "layers",
                                 r->shape->layers, "rate", r->rate[i], "loss",
                                 r->run[i]->row[r->run[i]->n_row - 1].loss, "best", i == r->best));
    if (r->best == 0 || r->best == r->n - 1)
        log_warn("learning rate of %s: the best is the %s of those tried, %g", r->of,
                 r->best ? "highest" : "lowest", r->rate[r->best]);
    return r->rate[r->best];
}

static int tune(struct study *s, struct err *err) {
    double mid = s->tier->lr;
    struct rates r[2] = {
        {.of = "scratch", .shape = &s->shape[0], .rate = {mid / 2, mid, mid * 2}, .n = 3},
        {.of = "base", .shape = &s->shape[2], .rate = {mid / 2, mid, mid * 2}, .n = 3}};
    const double *given[2] = {&s->lr_given, &s->base_lr_given};
    s->lr = s->lr_given;
    s->base_lr = s->base_lr_given;
    bool more = true;
    while (more) {
        more = false;
        for (int i = 0; i < 2; i++)
            if (*given[i] == 0)
                want_rates(s, &r[i]);
        if (gs_runs(s, err))
            return -1;
        for (int i = 0; i < 2; i++) {
            if (*given[i] == 0)
                judge_rates(&r[i]);
            more = more || r[i].more;
        }
    }
    if (s->lr == 0)
        s->lr = take_best(s, &r[0]);
    if (s->base_lr == 0)
        s->base_lr = take_best(s, &r[1]);
    return 0;
}

/* -- the arms ---------------------------------------------------------------------------------- */

static void plan_arm(struct study *s, enum gs_arm a) {
    static const int grow[GS_ARMS] = {[GS_G2] = 2, [GS_G4] = 4, [GS_ZERO] = 4, [GS_RANDOM] = 4};
    struct gs_plan *p = &s->plan[a];
    const struct gs_shape *before = &s->shape[grow[a] == 2 ? 1 : 2];
    const struct gs_shape *after = &s->shape[a == GS_BASE ? 2 : 0];
    double share = grow[a] && a != GS_RANDOM ? GROW_AT : 0;
    p->grow = grow[a];
    p->layers = after->layers;
    p->lr = a == GS_BASE ? s->base_lr : s->lr;
    p->base_lr = s->base_lr;
    p->length = length_for(s->budget, share, before->token_flops * (double)before->step_tokens,
                           after->token_flops * (double)after->step_tokens);
}

static void want_arm(struct study *s, enum gs_arm a) {
    const struct gs_plan *p = &s->plan[a];
    const struct gs_shape *full = &s->shape[0];
    for (int seed = 1; seed <= s->n_seed; seed++) {
        struct gs_run *r = gs_run_find(s, gs_arm_name[a], seed);
        char folder[48];
        snprintf(folder, sizeof folder, "%s-%d", gs_arm_name[a], seed);
        r->wanted = true;
        r->flops = p->length.flops;
        r->tokens = p->length.steps * full->step_tokens;
        r->final_tokens = s->curve_batches * GS_FINAL * full->step_tokens;
        if (r->final_tokens > full->val_tokens)
            r->final_tokens = full->val_tokens;
        r->conf = arm_conf(s, a, folder, seed);
    }
}

static void announce(const struct study *s) {
    const struct gs_shape *f = &s->shape[0];
    double epochs = (double)s->tokens / (double)f->epoch_tokens;
    log_info("%s: %lld weights, %d layers from %d or %d; %.3g FLOPs a run: %lld tokens from "
             "scratch, %.2f epochs%s",
             s->tier->name, (long long)f->params, f->layers, s->shape[1].layers, s->shape[2].layers,
             s->budget, (long long)s->tokens, epochs,
             epochs > 1 ? ", so texts repeat, which hurts all arms" : "");
}

static int run_study(struct study *s, struct err *err) {
    char *runs = path_join(s->dir, "runs");
    bool empty;
    int rc = dir_make(runs, &empty, err), n_arm = 0;
    free(runs);
    if (rc || make_tokenizer(s, err) || measure_shapes(s, err) || hold_settings(s, err) ||
        gs_csv_read(s, err))
        return -1;
    announce(s);
    for (int a = 0; a < GS_ARMS; a++)
        n_arm += s->plan[a].wanted;
    s->later = s->budget * n_arm * s->n_seed;
    if (tune(s, err))
        return -1;
    log_info("learning rates: %g, small model %g", s->lr, s->base_lr);
    s->later = 0;
    for (int a = 0; a < GS_ARMS; a++)
        plan_arm(s, (enum gs_arm)a);
    for (int a = 0; a < GS_ARMS; a++)
        if (s->plan[a].wanted)
            want_arm(s, (enum gs_arm)a);
    return gs_runs(s, err);
}

/* -- the command ------------------------------------------------------------------------------- */

struct flags {
    const char *tier, *arms, *dtype, *out;
    struct opt_list text;
    float lr, base_lr;
    bool resume, json, help;
};

static int pick_arms(struct study *s, const char *list, struct err *err) {
    char *copy = mem_strdup(list), *save = NULL;
    int rc = 0;
    s->plan[GS_SCRATCH].wanted = true; /* what all others are compared with */
    for (char *p = strtok_r(copy, ",", &save); p && !rc; p = strtok_r(NULL, ",", &save)) {
        int a = 0;
        while (a < GS_ARMS && strcmp(gs_arm_name[a], p) != 0)
            a++;
        if (a < GS_ARMS)
            s->plan[a].wanted = true;
        else
            rc = err_set(err, E_USAGE,
                         "--arms: '%s' is not scratch, g2, g4, zero, rewarm, random or base", p);
    }
    free(copy);
    return rc;
}

static int pick_dtype(struct study *s, const char *name, struct err *err) {
    struct pool *pool = pool_new(1);
    struct dense_ctx *d = dense_new(pool, DT_BF16, NULL);
    bool has = d != NULL;
    dense_free(d);
    pool_free(pool);
    s->bf16 = name ? !strcmp(name, "bf16") : has;
    if (name && strcmp(name, "f32") != 0 && strcmp(name, "bf16") != 0)
        return err_set(err, E_USAGE, "--dtype: '%s' is not f32 or bf16", name);
    if (s->bf16 && !has)
        return err_set(err, E_USAGE, "--dtype: this processor has no bf16 products");
    return 0;
}

/* What the user wrote: 0.003, not the float nearest to it. */
static double as_written(float x) {
    char text[32];
    snprintf(text, sizeof text, "%.6g", (double)x);
    return strtod(text, NULL);
}

static int resolve(struct study *s, const struct flags *f, struct err *err) {
    for (size_t i = 0; i < sizeof tiers / sizeof *tiers; i++)
        if (!strcmp(tiers[i].name, f->tier))
            s->tier = &tiers[i];
    if (!s->tier)
        return err_set(err, E_USAGE, "--tier: '%s' is not S0, S1, S2 or S3", f->tier);
    if (!s->n_text)
        return err_set(err, E_USAGE, "bench gstack: --text is missing");
    if (!s->tokens)
        s->tokens = s->tier->tokens;
    if (!s->n_thread && s->n_job > 1)
        s->n_thread = 1;
    s->dir = f->out;
    s->lr_given = as_written(f->lr);
    s->base_lr_given = as_written(f->base_lr);
    return pick_arms(s, f->arms, err) || pick_dtype(s, f->dtype, err) ? -1 : 0;
}

/* A study that is there already is only touched to go on with it. */
static int check_out(const struct study *s, bool resume, struct err *err) {
    char *path = path_join(s->dir, "gstack.csv");
    int rc = 0;
    if (file_exists(path) && !resume)
        rc =
            err_set(err, E_USAGE, "%s: exists: --resume goes on with it, keeping whole runs", path);
    free(path);
    return rc;
}

static int study(struct study *s, const struct flags *f, struct err *err) {
    int lock = -1, rc = -1;
    s->tuning = json_array();
    if (resolve(s, f, err) || (lock = ckpt_lock(s->dir, err)) < 0 || check_out(s, f->resume, err) ||
        run_study(s, err))
        goto out;
    json_t *report = gs_report(s);
    rc = json_write(s->dir, "gstack.json", json_incref(report), 2, err);
    if (!rc)
        rc = gs_chart(s, err);
    if (!rc && f->json)
        rc = cmd_print_json(json_incref(report), true, err);
    else if (!rc)
        gs_print(report);
    json_decref(report);
out:
    gs_free(s);
    if (lock >= 0)
        close(lock);
    return rc;
}

int cmd_bench_gstack(int argc, char **argv) {
    struct err err = {0};
    struct flags f = {.tier = "S1", .arms = "scratch,g2,g4,zero,base", .out = "gstack"};
    struct study s = {.n_seed = 3, .n_job = 1};
    const char *text[2 * CONF_LIST];
    int rest;
    const struct opt table[] = {
        {"text", 'f', "file", OPT_LIST, &f.text, .arg = "FILE...",
         .help = "what to train on; documents end at <|endoftext|>"},
        {"tier", 0, NULL, OPT_STR, &f.tier, .arg = "NAME",
         .help = "S0 (0.4M weights, 4M tokens), S1 (0.9M, 6M; default), "
                 "S2 (1.6M, 10M), S3 (5.5M, 20M)"},
        {"arms", 0, NULL, OPT_STR, &f.arms, .arg = "LIST",
         .help = "scratch, g2, g4, zero, rewarm, random, base "
                 "(default scratch,g2,g4,zero,base)"},
        {"seeds", 0, NULL, OPT_INT, &s.n_seed, 1, GS_MAX_SEEDS, "N", "runs of an arm (default 3)"},
        {"tokens", 0, NULL, OPT_I64, &s.tokens, 1, 1e15, "N",
         "of the run from scratch (default: the tier's)"},
        {"lr", 0, NULL, OPT_FLOAT, &f.lr, 1e-9, 10, "X",
         "learning rate of the full model (default: tuned)"},
        {"lr-base", 0, NULL, OPT_FLOAT, &f.base_lr, 1e-9, 10, "X",
         "of the small one (default: tuned)"},
        {"dtype", 0, NULL, OPT_STR, &f.dtype, .arg = "TYPE",
         .help = "of products: bf16 (default where the processor has it) or f32"},
        {"threads", 't', NULL, OPT_INT, &s.n_thread, 0, 1024, "N",
         "of a run (default: one per processor; 1 with --jobs)"},
        {"jobs", 'j', NULL, OPT_INT, &s.n_job, 1, 64, "N", "runs at a time (default 1)"},
        {"out", 'o', NULL, OPT_STR, &f.out, .arg = "DIR", .help = "default: gstack"},
        {"resume", 0, NULL, OPT_FLAG, &f.resume,
         .help = "go on with DIR; more arms and seeds may be asked for"},
        {"quiet", 'q', NULL, OPT_FLAG, &s.quiet, .help = "results, warnings and errors only"},
        OPTS_JSON(&f.json),
        OPTS_HELP(&f.help),
        OPTS_END};
    const struct cmd_help help = {
        "bench gstack --text FILE... [options]",
        "Does growing a model in depth save training?  Trains every arm with every seed\n"
        "at equal FLOPs and compares; see docs/method/gstack.md.",
        &f.help};
    if (cmd_parse(&help, table, argc, argv, &rest, &err) || f.help)
        return cmd_fail(&err);
    log_quiet(s.quiet);
    for (int i = 0; i < f.text.n; i++)
        text[s.n_text++] = f.text.item[i];
    while (rest < argc && s.n_text < CONF_LIST)
        text[s.n_text++] = argv[rest++];
    s.text = text;
    if (!cmd_no_more(argc, argv, rest, &err))
        study(&s, &f, &err);
    return cmd_fail(&err);
}
