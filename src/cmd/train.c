/* train.c - `pumice train RUN.json`: what a run needs, how it goes, what came of it.
 *
 * SIGINT and SIGTERM end the run after the step under way, with a checkpoint; the second one ends
 * the process at once. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/probe.h"
#include "train/train.h"

static volatile sig_atomic_t stopping;

static void on_signal(int sig) {
    if (stopping)
        _exit(128 + sig);
    stopping = 1;
}

static void catch_signals(void) {
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

#define PROBE_EVERY 5000000 /* us: 15 ms of probing cost less than a hundredth */

struct report {
    const struct conf *c;
    struct train_info info;
    struct pool *pool; /* as wide as the run's own: probes take their turn between steps */
    double peak;       /* operations per second of the type that products have; 0 = not asked for */
    int64_t probed;    /* when that was measured, in us */
    bool line;         /* one line, drawn over and over */
    bool drawn;        /* it is on the screen */
    bool told_stop;
    double seconds; /* of this session's steps */
    int64_t steps;  /* of this session */
};

static void wipe(struct report *r) {
    if (r->drawn)
        fputs("\r\033[K", stderr);
    r->drawn = false;
}

static void on_note(void *arg, const char *text) {
    wipe(arg);
    log_info("%s", text);
}

static void format_left(char *s, size_t n, double seconds) {
    long long t = (long long)seconds;
    if (t >= 86400)
        snprintf(s, n, "%lld d %02lld:%02lld", t / 86400, t / 3600 % 24, t / 60 % 60);
    else
        snprintf(s, n, "%lld:%02lld:%02lld", t / 3600, t / 60 % 60, t % 60);
}

/* The peak moves within seconds on a shared machine: a step is held against the mean of the probes
 * before and after it. */
static double peak_around(struct report *r) {
    double before = r->peak;
    if (clock_us() - r->probed < PROBE_EVERY)
        return before;
    r->peak = probe_ops_rate(r->pool, r->c->mixed_precision ? DT_BF16 : DT_F32);
    r->probed = clock_us();
    return (before + r->peak) / 2;
}

static void on_step(void *arg, const struct train_step *s, double val_loss) {
    struct report *r = arg;
    char text[256], left[32], val[24] = "", share[32] = "";
    r->seconds += s->seconds;
    r->steps++;
    bool last = s->step == r->info.steps;
    if (!r->line && s->step % r->c->log_every != 0 && !last && r->steps > 1)
        return;
    double rate = (double)r->info.step_tokens / s->seconds, flops = s->step_flops / s->seconds;
    format_left(left, sizeof left,
                r->seconds / (double)r->steps * (double)(r->info.steps - s->step));
    if (isfinite(val_loss))
        snprintf(val, sizeof val, "  val %.4f", val_loss);
    if (r->peak > 0)
        snprintf(share, sizeof share, " (%.0f %% of peak)", 100 * flops / peak_around(r));
    snprintf(text, sizeof text,
             "step %lld/%lld  loss %.4f%s  lr %.2e  %.0f tokens/s  %.1f GFLOP/s%s  %s left",
             (long long)s->step, (long long)r->info.steps, s->loss, val, (double)s->lr, rate,
             flops / 1e9, share, left);
    if (r->line) {
        fprintf(stderr, "\r\033[K%s", text);
        fflush(stderr);
        r->drawn = true;
    } else {
        log_info("%s", text);
    }
    if (stopping && !r->told_stop) {
        r->told_stop = true;
        on_note(r, "stopping: the checkpoint is being written (once more: stop at once)");
    }
}

static void announce(const struct report *r) {
    const struct train_info *in = &r->info;
    const struct data_stats *d = &in->data;
    const double mb = 1e6;
    if (in->resumed)
        log_info("going on from %s", in->resumed);
    log_info("model: %lld weights, %lld of them trained", (long long)in->params,
             (long long)in->trained);
    if (in->layers < in->final_layers)
        log_info("growth: after step %lld, from %d layers to %d", (long long)in->turn, in->layers,
                 in->final_layers);
    log_info("memory: %.0f MB (weights %.0f, gradients %.0f, moments %.0f, bf16 copies %.0f, "
             "activations %.0f, the rest %.0f); %.0f MB are free",
             (double)in->need / mb, (double)in->memory.weights / mb,
             (double)in->memory.gradients / mb, (double)in->memory.moments / mb,
             (double)in->memory.copies / mb, (double)in->memory.activations / mb,
             (double)(in->need - in->memory.weights - in->memory.gradients - in->memory.moments -
                      in->memory.copies - in->memory.activations) /
                 mb,
             (double)in->available / mb);
    log_info(
        "data: %lld documents%s, %.2f bytes per token; an epoch has %lld tokens, validation %lld",
        (long long)d->docs, d->chats ? " (conversations among them: loss on the answers only)" : "",
        (double)d->bytes / (double)d->tokens, (long long)d->epoch_tokens, (long long)d->val_tokens);
    log_info("run: %lld steps of %lld tokens, %.3g FLOPs", (long long)in->steps,
             (long long)in->step_tokens, in->run_flops);
}

static json_t *summary(const struct report *r, const struct train *t) {
    return json_pack(
        "{s:s, s:I, s:I, s:f, s:f, s:I, s:I, s:b}", "out", r->c->out, "step",
        (json_int_t)train_steps_done(t), "steps", (json_int_t)r->info.steps, "tok_per_s",
        r->seconds > 0 ? (double)r->info.step_tokens * (double)r->steps / r->seconds : 0.0,
        "seconds", r->seconds, "announced_bytes", (json_int_t)r->info.need, "peak_bytes",
        (json_int_t)peak_memory(), "done", train_steps_done(t) >= r->info.steps);
}

struct flags {
    bool resume, json, quiet, help;
    const char *grow;
};

static int train(const char *path, const struct flags *f, struct err *err) {
    struct conf c;
    struct train *t = NULL;
    int rc = -1;
    struct report r = {.c = &c, .line = !f->quiet && cmd_is_terminal(STDERR_FILENO)};
    if (conf_read_with(&c, path, f->grow, err))
        goto out;
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is a write that fails, not the end */
    if (!(t = train_open(&c, &(struct train_opts){.resume = f->resume}, err)))
        goto out;
    catch_signals(); /* until here there is nothing to save */
    r.info = train_info(t);
    announce(&r);
    if (f->resume && !r.info.resumed)
        log_info("%s: no checkpoint to go on from: starting", c.out);
    if (!f->quiet) {
        r.pool = pool_new((int)c.threads);
        r.peak = probe_ops_rate(r.pool, c.mixed_precision ? DT_BF16 : DT_F32);
        r.probed = clock_us();
    }
    const struct train_watch w = {&r, f->quiet ? NULL : on_step, on_note, &stopping};
    rc = train_run(t, &w, err);
    wipe(&r);
    if (!rc)
        log_info("%s after %lld steps, in %s/latest",
                 train_steps_done(t) >= r.info.steps ? "done" : "stopped: --resume goes on",
                 (long long)train_steps_done(t), c.out);
    if (!rc && f->json)
        rc = cmd_print_json(summary(&r, t), true, err);
out:
    pool_free(r.pool);
    train_close(t);
    conf_free(&c);
    return rc;
}

int cmd_train(int argc, char **argv) {
    struct err err = {0};
    struct flags f = {0};
    int rest;
    const struct opt table[] = {
        {"resume", 0, NULL, OPT_FLAG, &f.resume,
         .help = "go on from the newest whole checkpoint in the run's folder"},
        {"grow", 0, NULL, OPT_STR, &f.grow, .arg = "G@P%",
         .help = "train a base of 1/G of the layers for P % of the steps, then grow it"},
        {"quiet", 'q', NULL, OPT_FLAG, &f.quiet, .help = "errors and warnings only"},
        OPTS_JSON(&f.json),
        OPTS_HELP(&f.help),
        OPTS_END,
    };
    const struct cmd_help h = {
        "train RUN.json [--resume] [--grow G@P%]",
        "Trains a model as RUN.json says: from nothing, or on from a Hugging Face folder,\n"
        "on text or conversations.  Checkpoints are Hugging Face folders; interrupt it\n"
        "whenever you like.",
        &f.help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || f.help)
        return cmd_fail(&err);
    log_quiet(f.quiet);
    if (rest >= argc)
        err_set(&err, E_USAGE, "train: give RUN.json");
    else if (!cmd_no_more(argc, argv, rest + 1, &err))
        train(argv[rest], &f, &err);
    return cmd_fail(&err);
}
