/* gstack_report.c - what a study found: figures as JSON, a table, a chart.
 *
 * A run's curve is all its evaluations but the last, on one fixed set; the last one, on a larger
 * set at the same step, is the final loss that differences and verdicts are about. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/plot.h"
#include "cmd/gstack.h"
#include "num/kern.h"

/* -- figures ----------------------------------------------------------------------------------- */

static const struct gs_run *run_of(const struct study *s, enum gs_arm a, int seed) {
    for (int i = 0; i < s->n_run; i++)
        if (s->run[i]->arm == (int)a && s->run[i]->seed == seed)
            return s->run[i];
    return NULL;
}

static double final_of(const struct study *s, enum gs_arm a, int seed) {
    const struct gs_run *r = run_of(s, a, seed);
    return r->row[r->n_row - 1].loss;
}

static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *estimate_json(const struct estimate *e, const double *each, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, number(each[i]));
    return json_pack("{s:o, s:o, s:i, s:o}", "mean", number(e->mean), "ci95", number(e->half), "n",
                     e->n, "each", list);
}

/* Of arm a - arm b over the seeds; n = 0 where one was not run. */
static struct estimate difference(const struct study *s, enum gs_arm a, enum gs_arm b,
                                  double *each) {
    double x[GS_MAX_SEEDS], y[GS_MAX_SEEDS];
    int n = s->plan[a].wanted && s->plan[b].wanted ? s->n_seed : 0;
    for (int i = 0; i < n; i++) {
        x[i] = final_of(s, a, i + 1);
        y[i] = final_of(s, b, i + 1);
        if (each)
            each[i] = x[i] - y[i];
    }
    return estimate_difference(x, y, n);
}

/* The arms that the claim is about: grown from a trained base. */
static bool is_claim(enum gs_arm a) {
    return a == GS_G2 || a == GS_G4 || a == GS_ZERO;
}

static enum verdict verdict_of(const struct study *s, enum gs_arm a) {
    struct estimate d = difference(s, a, GS_SCRATCH, NULL);
    struct estimate small = difference(s, GS_BASE, GS_SCRATCH, NULL);
    struct estimate small_arm = difference(s, GS_BASE, a, NULL);
    if (!is_claim(a))
        small.n = small_arm.n = 0;
    return compare_verdict(&d, &small, &small_arm);
}

/* A run's curve; *f and *l are owned by the caller. */
static struct curve curve_of(const struct gs_run *r, double **f, double **l) {
    int n = r->n_row - 1;
    *f = mem_array((size_t)r->n_row, sizeof **f);
    *l = mem_array((size_t)r->n_row, sizeof **l);
    for (int i = 0; i < n; i++) {
        (*f)[i] = r->row[i].flops;
        (*l)[i] = r->row[i].loss;
    }
    return (struct curve){*f, *l, n};
}

/* The speedup of one seed at scratch's loss after `share` of its FLOPs, or (share 0) at the arm's
 * own final loss. */
static double speedup_of(const struct study *s, enum gs_arm a, int seed, double share,
                         double *level) {
    double *f[2], *l[2];
    struct curve scratch = curve_of(run_of(s, GS_SCRATCH, seed), &f[0], &l[0]);
    struct curve arm = curve_of(run_of(s, a, seed), &f[1], &l[1]);
    const struct curve *c = share > 0 ? &scratch : &arm;
    double end = c->n ? c->flops[c->n - 1] : 0;
    *level = curve_lowest(c, share > 0 ? share * end : end);
    double x = curve_speedup(&scratch, &arm, *level);
    for (int i = 0; i < 2; i++) {
        free(f[i]);
        free(l[i]);
    }
    return x;
}

static json_t *speedups(const struct study *s, enum gs_arm a) {
    static const double share[] = {0.25, 0.5, 0.75, 1, 0};
    json_t *list = json_array();
    for (int k = 0; k < 5; k++) {
        double x[GS_MAX_SEEDS], level[GS_MAX_SEEDS];
        char of[32];
        for (int i = 0; i < s->n_seed; i++)
            x[i] = speedup_of(s, a, i + 1, share[k], &level[i]);
        struct estimate e = estimate_mean(x, s->n_seed), l = estimate_mean(level, s->n_seed);
        snprintf(of, sizeof of, share[k] > 0 ? "scratch at %.0f %%" : "the arm's final",
                 100 * share[k]);
        json_t *j = estimate_json(&e, x, s->n_seed);
        json_object_set_new(j, "level", json_string(of));
        json_object_set_new(j, "loss", number(l.mean));
        json_array_append_new(list, j);
    }
    return list;
}

/* FLOPs of the base; 0 if there is none. */
static double grown_at(const struct study *s, enum gs_arm a) {
    const struct gs_plan *p = &s->plan[a];
    const struct gs_shape *base = &s->shape[p->grow == 2 ? 1 : 2];
    return p->grow ? (double)(p->length.small * base->step_tokens) * base->token_flops : 0;
}

static json_t *arm_json(const struct study *s, enum gs_arm a) {
    const struct gs_plan *p = &s->plan[a];
    const struct gs_shape *f = &s->shape[0];
    double loss[GS_MAX_SEEDS], each[GS_MAX_SEEDS], seconds = 0;
    int64_t tokens = p->length.steps * f->step_tokens;
    for (int i = 0; i < s->n_seed; i++) {
        const struct gs_run *r = run_of(s, a, i + 1);
        loss[i] = final_of(s, a, i + 1);
        seconds += r->row[r->n_row - 1].seconds / s->n_seed;
    }
    struct estimate e = estimate_mean(loss, s->n_seed), d = difference(s, a, GS_SCRATCH, each);
    json_t *j = json_pack(
        "{s:s, s:i, s:I, s:I, s:f, s:f, s:o, s:f, s:f, s:o}", "arm", gs_arm_name[a], "layers",
        p->layers, "steps", (json_int_t)p->length.steps, "tokens", (json_int_t)tokens, "epochs",
        (double)tokens / (double)f->epoch_tokens, "flops", p->length.flops, "grown_at_flops",
        p->grow ? json_real(grown_at(s, a)) : json_null(), "learning_rate", p->lr, "seconds",
        seconds, "final_loss", estimate_json(&e, loss, s->n_seed));
    if (a == GS_SCRATCH)
        return j;
    json_object_set_new(j, "difference", estimate_json(&d, each, s->n_seed));
    json_object_set_new(j, "speedup", speedups(s, a));
    enum verdict v = verdict_of(s, a);
    json_object_set_new(j, "verdict", json_string(verdict_text(v)));
    if (is_claim(a))
        json_object_set_new(j, "claim_holds",
                            v == VERDICT_NONE ? json_null() : json_boolean(v == VERDICT_HOLDS));
    return j;
}

/* Null where an arm was not run, or one seed allows no answer. */
static json_t *checks(const struct study *s) {
    struct estimate small = difference(s, GS_BASE, GS_SCRATCH, NULL);
    enum verdict random = s->plan[GS_RANDOM].wanted ? verdict_of(s, GS_RANDOM) : VERDICT_NONE;
    return json_pack(
        "{s:o, s:o}", "small_model_beats_scratch",
        small.n > 1 ? json_boolean(small.mean < 0) : json_null(), "random_stack_is_like_scratch",
        random != VERDICT_NONE ? json_boolean(random == VERDICT_NO_EFFECT) : json_null());
}

json_t *gs_report(const struct study *s) {
    const struct gs_shape *f = &s->shape[0];
    int64_t curve = s->curve_batches * f->step_tokens, final = GS_FINAL * curve;
    json_t *arms = json_array();
    for (int a = 0; a < GS_ARMS; a++)
        if (s->plan[a].wanted)
            json_array_append_new(arms, arm_json(s, (enum gs_arm)a));
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:i, s:I, s:f, s:f, s:I, s:I, s:{s:f, s:f}, s:O, s:o, s:o}", "tier",
        s->tier->name, "dtype", s->bf16 ? "bf16" : "f32", "kernels", isa_name(kern_level()),
        "parameters", (json_int_t)f->params, "seeds", s->n_seed, "tokens", (json_int_t)s->tokens,
        "epochs", (double)s->tokens / (double)f->epoch_tokens, "budget_flops", s->budget,
        "val_tokens_curve", (json_int_t)(curve < f->val_tokens ? curve : f->val_tokens),
        "val_tokens_final", (json_int_t)(final < f->val_tokens ? final : f->val_tokens),
        "learning_rates", "scratch", s->lr, "base", s->base_lr, "tuning", s->tuning, "arms", arms,
        "checks", checks(s));
}

/* -- the table --------------------------------------------------------------------------------- */

static const char *text_of(const json_t *j, const char *key) {
    const char *v = json_string_value(json_object_get(j, key));
    return v ? v : "";
}

static double real_of(const json_t *j, const char *key) {
    const json_t *v = json_object_get(j, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* How many seeds have a value, unless all have. */
static const char *add_count(char out[48], int at, const json_t *e) {
    size_t all = json_array_size(json_object_get(e, "each")), n = (size_t)real_of(e, "n");
    if (n < all)
        snprintf(out + at, 48 - (size_t)at, " (%zu of %zu)", n, all);
    return out;
}

/* "mean +- half" */
static const char *format_loss(char out[48], const json_t *e, bool sign) {
    double mean = real_of(e, "mean"), half = real_of(e, "ci95");
    out[0] = 0;
    if (!e)
        return out;
    int at = snprintf(out, 48, sign ? "%+.4f" : "%.4f", mean);
    if (isfinite(half))
        at += snprintf(out + at, 48 - (size_t)at, " +- %.4f", half);
    return add_count(out, at, e);
}

static const char *format_percent(char out[48], const json_t *e) {
    double mean = 100 * real_of(e, "mean"), half = 100 * real_of(e, "ci95");
    snprintf(out, 48, "%s", e ? "never" : "");
    if (!isfinite(mean))
        return out;
    int at = snprintf(out, 48, "%+.1f", mean);
    if (isfinite(half))
        at += snprintf(out + at, 48 - (size_t)at, " +- %.1f", half);
    return add_count(out, at, e);
}

static void print_tuning(const json_t *report) {
    const json_t *list = json_object_get(report, "tuning"), *t;
    size_t i;
    if (json_array_size(list))
        printf("\n| learning rate of | layers | rate | loss | |\n|---|--:|--:|--:|---|\n");
    json_array_foreach(list, i, t)
        printf("| %s | %.0f | %g | %.4f | %s |\n", text_of(t, "shape"), real_of(t, "layers"),
               real_of(t, "rate"), real_of(t, "loss"),
               json_is_true(json_object_get(t, "best")) ? "best" : "");
}

static void print_arms(const json_t *arms) {
    const json_t *a;
    size_t i;
    char loss[48], diff[48], speed[48];
    printf(
        "\n| arm | steps | epochs | final loss | minus scratch | speedup at scratch's final loss, "
        "%% | s a run |\n|---|--:|--:|--:|--:|--:|--:|\n");
    json_array_foreach(arms, i, a) printf(
        "| %s | %.0f | %.2f | %s | %s | %s | %.0f |\n", text_of(a, "arm"), real_of(a, "steps"),
        real_of(a, "epochs"), format_loss(loss, json_object_get(a, "final_loss"), false),
        format_loss(diff, json_object_get(a, "difference"), true),
        format_percent(speed, json_array_get(json_object_get(a, "speedup"), 3)),
        real_of(a, "seconds"));
}

static void print_speedups(const json_t *arms) {
    const json_t *a, *level;
    size_t i, k;
    char text[48];
    printf("\nSpeedup in FLOPs, %%, at several losses (the paper: +49 at 1.1B, +55 at 7B)\n\n"
           "| arm | scratch at 25 %% | at 50 %% | at 75 %% | at its end | the arm's final |\n"
           "|---|--:|--:|--:|--:|--:|\n");
    json_array_foreach(arms, i, a) {
        if (!json_object_get(a, "speedup"))
            continue;
        printf("| %s |", text_of(a, "arm"));
        json_array_foreach(json_object_get(a, "speedup"), k, level)
            printf(" %s |", format_percent(text, level));
        printf("\n");
    }
    printf(
        "\n(never: the arm, or scratch, does not come down to that loss; (1 of 3): only in so many "
        "seeds, whose mean flatters)\n\n");
}

/* Arms that saw texts more than once: an epoch is worth less the second time. */
static void print_epochs(const json_t *arms) {
    const json_t *a;
    size_t i;
    int n = 0;
    json_array_foreach(arms, i, a) {
        if (real_of(a, "epochs") > 1)
            printf("%s%s (%.2f epochs)",
                   n++ ? ", " : "Texts repeat, which hurts, in: ", text_of(a, "arm"),
                   real_of(a, "epochs"));
    }
    if (n)
        printf("\n");
}

static void print_verdict(const json_t *arm) {
    const json_t *claim = json_object_get(arm, "claim_holds");
    printf("%s against scratch: %s%s\n", text_of(arm, "arm"), text_of(arm, "verdict"),
           json_is_true(claim)    ? ": the claim holds"
           : json_is_false(claim) ? ": the claim does not hold"
                                  : "");
}

void gs_print(const json_t *report) {
    const json_t *arms = json_object_get(report, "arms"), *a;
    const json_t *checks = json_object_get(report, "checks");
    const json_t *small = json_object_get(checks, "small_model_beats_scratch");
    const json_t *random = json_object_get(checks, "random_stack_is_like_scratch");
    size_t i;
    printf("%s, %.0f weights, %s, %s kernels; %.3g FLOPs a run, %.2f epochs from scratch; "
           "validation: %.0f tokens, at the end %.0f\n",
           text_of(report, "tier"), real_of(report, "parameters"), text_of(report, "dtype"),
           text_of(report, "kernels"), real_of(report, "budget_flops"), real_of(report, "epochs"),
           real_of(report, "val_tokens_curve"), real_of(report, "val_tokens_final"));
    print_tuning(report);
    print_arms(arms);
    print_speedups(arms);
    print_epochs(arms);
    json_array_foreach(arms, i, a) if (json_object_get(a, "verdict")) print_verdict(a);
    if (json_is_boolean(small))
        printf("%s\n", json_is_true(small)
                           ? "The small model, trained on, beats scratch: the target is too large "
                             "for this budget, and the question is moot."
                           : "The small model, trained on, does not beat scratch.");
    if (json_is_false(random))
        printf("A stack of random blocks is not like scratch: something else than growth has an "
               "effect here.\n");
}

/* -- the chart --------------------------------------------------------------------------------- */

struct chart {
    struct buf dat, spread, line; /* rows; gnuplot's plots of the seeds' spread, of the means */
    int blocks;
    double top, low;           /* of the whole: scratch's mean early on, the least of all */
    double late_top, late_low; /* of the second half of the FLOPs, all seeds of all arms */
};

/* The mean loss of the seeds at point i, the lowest and highest; false: a run diverged. */
static bool point_of(const struct study *s, enum gs_arm a, int i, double y[3]) {
    double sum = 0;
    y[1] = INFINITY;
    y[2] = -INFINITY;
    for (int seed = 1; seed <= s->n_seed; seed++) {
        double x = run_of(s, a, seed)->row[i].loss;
        sum += x;
        y[1] = fmin(y[1], x);
        y[2] = fmax(y[2], x);
    }
    y[0] = sum / s->n_seed;
    return isfinite(sum);
}

/* The points at FLOPs in (from, to] as a block of the data file; false: there are none. */
static bool add_block(struct chart *c, const struct study *s, enum gs_arm a, double from,
                      double to) {
    const struct gs_run *first = run_of(s, a, 1);
    int lines = 0;
    for (int i = 0; i < first->n_row - 1; i++) {
        double y[3], flops = first->row[i].flops, percent = 100 * flops / s->budget;
        if (flops <= from || flops > to || !point_of(s, a, i, y))
            continue;
        buf_printf(&c->dat, "%.6g %.4f %.6f %.6f %.6f\n", flops, percent, y[0], y[1], y[2]);
        lines++;
        c->low = fmin(c->low, y[1]);
        if (a == GS_SCRATCH && percent > 2.5 && !isfinite(c->top))
            c->top = y[0];
        if (percent < 50)
            continue;
        c->late_low = fmin(c->late_low, y[1]);
        c->late_top = fmax(c->late_top, y[2]);
    }
    if (lines)
        buf_adds(&c->dat, "\n\n");
    c->blocks += lines > 0;
    return lines > 0;
}

static void add_arm(struct chart *c, const struct study *s, enum gs_arm a) {
    static const char *const colour[GS_ARMS] = {"#202020", "#2980b9", "#c0392b", "#8e44ad",
                                                "#7f8c8d", "#d4a017", "#27ae60"};
    double at = grown_at(s, a) * (1 + 1e-9);
    if (at > 0 && add_block(c, s, a, 0, at))
        buf_printf(&c->line,
                   ", 'gstack.dat' index %d using 2:3 with lines lc rgb '%s' lw 1 notitle",
                   c->blocks - 1, colour[a]);
    if (!add_block(c, s, a, at, INFINITY))
        return;
    buf_printf(&c->spread,
               "%s'gstack.dat' index %d using 2:4:5 with filledcurves lc rgb '%s' fs transparent "
               "solid 0.12 noborder notitle",
               c->spread.len ? ", " : "", c->blocks - 1, colour[a]);
    buf_printf(&c->line,
               ", 'gstack.dat' index %d using 2:3 with lines lc rgb '%s' lw 2.5 title '%s'",
               c->blocks - 1, colour[a], gs_arm_name[a]);
}

/* All of the run, and its second half. */
static void add_script(struct buf *gp, const struct study *s, struct chart *c) {
    static const char *const kind[] = {"svg", "png"};
    const char *spread = buf_str(&c->spread), *line = buf_str(&c->line);
    double pad = 0.05 * (c->late_top - c->late_low);
    buf_printf(gp,
               "# gnuplot: validation loss against FLOPs, the base model's included (thin)\n"
               "set xlabel 'FLOPs, %% of %.3g'\nset ylabel 'validation loss (nats per token)'\n"
               "set grid\n",
               s->budget);
    for (int i = 0; i < 2; i++) {
        buf_printf(gp, "set terminal %s size 1200,560\nset output 'gstack.%s'\n", kind[i], kind[i]);
        buf_printf(gp,
                   "set multiplot layout 1,2\nset key on top right\nset logscale x\n"
                   "set xtics (1, 2, 3, 5, 10, 20, 30, 50, 70, 100)\nset xrange [1.5:102]\n"
                   "set yrange [%.6f:%.6f]\nplot %s%s\n",
                   c->low - 0.02 * (c->top - c->low), c->top, spread, line);
        buf_printf(gp,
                   "unset logscale x\nset key off\nset xtics autofreq\nset xrange [50:101]\n"
                   "set yrange [%.6f:%.6f]\nplot %s%s\nunset multiplot\n",
                   c->late_low - pad, c->late_top + pad, spread, line);
    }
}

int gs_chart(const struct study *s, struct err *err) {
    struct chart c = {.top = NAN, .low = INFINITY, .late_top = -INFINITY, .late_low = INFINITY};
    struct buf gp = {0};
    char *dat_path = path_join(s->dir, "gstack.dat"), *gp_path = path_join(s->dir, "gstack.gp");
    for (int a = 0; a < GS_ARMS; a++)
        if (s->plan[a].wanted)
            add_arm(&c, s, (enum gs_arm)a);
    add_script(&gp, s, &c);
    int rc = file_write(dat_path, c.dat.data, c.dat.len, err) ||
                     file_write(gp_path, gp.data, gp.len, err)
                 ? -1
                 : 0;
    if (!rc && !plot_run(s->dir, "gstack.gp"))
        log_info("%s has the chart; gnuplot, which would draw it, is not here", gp_path);
    free(dat_path);
    free(gp_path);
    buf_free(&c.dat);
    buf_free(&c.spread);
    buf_free(&c.line);
    buf_free(&gp);
    return rc;
}
