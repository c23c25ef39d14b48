/* loop.h - private to train/: a run between its files. train.c is the loop, state.c what a
 * checkpoint holds, journal.c what is written besides. */
#ifndef TRAIN_LOOP_H
#define TRAIN_LOOP_H

#include <stdio.h>

#include "train/adamw.h"
#include "train/train.h"

#define MAX_SKIPPED 10 /* in a row, before the run stops */

struct progress_state { /* all that trainer.json keeps besides the arrays */
    int64_t step, tokens, skipped;
    int skipped_row;
    double flops, seconds;
    double best_loss, val_loss; /* NAN = none yet */
    int64_t best_step;
    struct data_cursor cursor; /* of the next batch */
};

struct train {
    const struct conf *c; /* borrowed */
    struct train_opts o;
    int lock; /* descriptor, -1 = none */
    struct pool *pool;
    struct model *m;
    struct net *net;
    struct adamw *adam;
    struct data *data;
    int rows, len, accum;
    int32_t *ids, *targets, *start; /* (accum, rows, len) */
    struct lr_plan lr;
    struct train_info info;
    struct progress_state s;
    struct data_cursor bad[MAX_SKIPPED]; /* where the last skipped steps began */
    char *resumed;
    FILE *log;
    bool log_failed;
};

/* -- state.c -- */
int state_load(struct train *t, const char *dir, struct err *err); /* m, net, adam exist */
size_t state_save_bytes(const struct cfg *c, enum dtype type);     /* memory that a save takes */

/* -- journal.c -- */
/* Opens out/log.jsonl, dropping lines after `step` and a torn one. */
int journal_open(struct train *t, struct err *err);
void journal_add(struct train *t,
                 json_t *line); /* releases line; trouble is told once, not returned */
int journal_bad_batches(struct train *t, struct err *err);
/* loss.csv, loss.gp, loss.svg and loss.png; *made: gnuplot was there and has drawn. */
int journal_chart(const char *out, bool *made, struct err *err);

#endif
