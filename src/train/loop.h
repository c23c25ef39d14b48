/* loop.h - private to train/: a run between its files. train.c is the loop, growth.c what changes
 * in the middle of a run, state.c what a checkpoint holds, journal.c what is written besides. */
#ifndef TRAIN_LOOP_H
#define TRAIN_LOOP_H

#include <stdio.h>

#include "train/adamw.h"
#include "train/train.h"

#define MAX_SKIPPED 10 /* in a row, before the run stops */

struct growth_state {     /* of a run that grows */
    int factor;           /* 0 = it does not; the rest counts once `done` */
    bool done;            /* the weights are the grown ones */
    int64_t step;         /* steps that the base has made */
    int64_t tokens;       /* ids that it has seen */
    double before, after; /* loss around growth: of validation; where there is none, of the batch
                           * that comes next */
    bool validated;       /* they are of validation */
    bool recovered;       /* validation loss has been below `before` since */
};

struct progress_state { /* all that trainer.json keeps besides the arrays */
    int64_t step, tokens, skipped;
    int skipped_row;
    double flops, seconds;
    double best_loss, val_loss; /* NAN = none yet */
    int64_t best_step;
    struct data_cursor cursor; /* of the next batch */
    struct growth_state growth;
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
    struct cfg target;              /* the shape that the run ends with */
    struct net_opts net_opts;
    struct lr_plan lr[2]; /* before and from step `turn` on, each counting from its own start */
    int64_t turn;         /* 0 = there is nothing before */
    struct train_info info;
    struct progress_state s;
    struct data_cursor bad[MAX_SKIPPED]; /* where the last skipped steps began */
    char *resumed;
    FILE *log;
    bool log_failed;
};

/* -- train.c -- */
int train_equip(struct train *t, struct err *err); /* net, adam and info for the model in m */
struct net_batch train_part(const struct train *t, int i); /* batch i of the step */

/* -- growth.c -- */
/* How many steps, where the run turns, and the learning rates. */
int growth_plan(struct train *t, struct err *err);
/* E_FORMAT if the checkpoint to go on from is of a run that grows otherwise. */
int growth_agrees(const struct train *t, struct err *err);
bool growth_due(const struct train *t);
float growth_lr(const struct train *t, int64_t step);
/* Gives the run the grown model and all that belongs to it; logs the event. After a failure the run
 * can only be closed. */
int growth_do(struct train *t, struct err *err);
/* Told each validation loss; true when it is the first below that before growth. */
bool growth_recovers(struct train *t, double loss);
json_t *growth_history(const struct train *t); /* what gstack.json says of it */

/* -- state.c -- */
/* The part of a checkpoint that says which shape the weights have. */
int state_peek(struct train *t, const char *dir, struct err *err);
/* AdamW's moments, its count of steps and exact weights, from the folder of a base. */
int state_inherit(struct train *t, const char *dir, struct err *err);
int state_load(struct train *t, const char *dir, struct err *err); /* m, net, adam exist */
size_t state_save_bytes(const struct cfg *c, enum dtype type);     /* memory that a save takes */

/* -- journal.c -- */
/* Opens out/log.jsonl, dropping lines after `step` and a torn one. */
int journal_open(struct train *t, struct err *err);
void journal_add(struct train *t,
                 json_t *line);   /* releases line; trouble is told once, not returned */
json_t *journal_number(double x); /* null if not finite */
int journal_bad_batches(struct train *t, struct err *err);
/* loss.csv, loss.gp, loss.svg and loss.png; *made: gnuplot was there and has drawn. */
int journal_chart(const char *out, bool *made, struct err *err);

#endif
