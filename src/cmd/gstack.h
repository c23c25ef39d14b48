/* gstack.h - private to cmd/: the Gstack study between its files.  bench_gstack.c decides what is
 * run, gstack_runs.c runs it, gstack_report.c says what came of it.
 *
 * DIR/tokenizer/       trained on the text
 * DIR/cache/           the text as ids
 * DIR/settings.json    what must not change when a study is resumed
 * DIR/runs/ARM-N.json  RUN.json of the run with seed N: `pumice train` repeats it alone
 * DIR/gstack.csv       arm,seed,tokens,flops,seconds,val_loss,val_tokens: the curves of all runs
 * DIR/gstack.json      the report; gstack.gp, .dat, .svg, .png: its chart */
#ifndef CMD_GSTACK_H
#define CMD_GSTACK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "method/compare.h"

enum {
    GS_POINTS = 100,     /* evaluations in a run's curve */
    GS_FINAL = 16,       /* times the curve's batches are in the last evaluation, which decides */
    GS_MAX_SEEDS = 32,
    GS_MAX_RATES = 5     /* learning rates tried for one shape */
};

enum gs_arm { GS_SCRATCH, GS_G2, GS_G4, GS_ZERO, GS_REWARM, GS_RANDOM, GS_BASE, GS_ARMS };

struct gs_tier {
    const char *name;
    int dim, layers, heads, ffn, vocab, len, rows;
    int64_t tokens; /* of the run from scratch */
    double lr;      /* the middle one of those tried */
};

struct gs_shape { /* of a depth, as the trainer counts */
    int layers;
    int64_t params, step_tokens, epoch_tokens, val_tokens;
    double token_flops;
    uint64_t data; /* fingerprint */
};

struct gs_row { /* an evaluation; the last one of a run has val_tokens of the final set */
    int64_t tokens, val_tokens;
    double flops, seconds, loss; /* flops and seconds: of the steps so far */
};

struct gs_run {
    char name[32]; /* the arm's, or "lr-scratch-0.003" */
    int arm;       /* enum gs_arm; GS_ARMS for what is not compared */
    int seed;
    bool wanted;
    /* what it will be; 0 where it is not wanted */
    json_t *conf; /* RUN.json; owned */
    int64_t tokens, final_tokens;
    double flops;
    /* what there is */
    struct gs_row *row; /* owned */
    int n_row, cap_row;
};

struct gs_plan { /* of an arm */
    bool wanted;
    struct length length;
    int layers, grow;   /* of the deepest model; factor, 0 = none */
    double lr, base_lr; /* peaks; base_lr: before growth */
};

struct study {
    /* flags */
    const char *const *text;
    int n_text, n_seed, n_thread, n_job;
    const char *dir;
    double lr_given, base_lr_given; /* 0 = to be tuned */
    int64_t tokens;
    bool bf16, quiet;
    /* plan */
    const struct gs_tier *tier;
    struct gs_shape shape[3]; /* all layers, half, a quarter */
    double budget, lr, base_lr;
    int64_t curve_batches;
    json_t *tuning; /* [{"shape", "rate", "loss"}]; owned */
    struct gs_plan plan[GS_ARMS];
    struct gs_run **run; /* owned, in the order of the CSV */
    int n_run;
    /* progress, in FLOPs */
    double done, later, all; /* later: what gs_runs is not yet asked for */
    int64_t start_us;
};

int cmd_bench_gstack(int argc, char **argv); /* a command of `bench` */

extern const char *const gs_arm_name[GS_ARMS];

/* -- gstack_runs.c -- */
struct gs_run *gs_run_find(struct study *s, const char *name, int seed); /* made where absent */
bool gs_run_whole(const struct gs_run *r); /* wanted, and its last evaluation is there */
int gs_csv_read(struct study *s, struct err *err); /* nothing where there is no file */
/* Runs what is wanted and not whole, n_job processes at a time, adding to the CSV. */
int gs_runs(struct study *s, struct err *err);
/* What the trainer says of the model and data of a RUN.json. */
int gs_shape_of(struct study *s, json_t *conf, struct gs_shape *out, struct err *err);
void gs_free(struct study *s);

/* -- gstack_report.c -- */
json_t *gs_report(const struct study *s);
void gs_print(const json_t *report);
/* gstack.gp and gstack.dat; svg and png where gnuplot is installed. */
int gs_chart(const struct study *s, struct err *err);

#endif
