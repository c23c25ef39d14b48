/* train.h - a training run: from RUN.json to checkpoints. */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

#include <signal.h>

#include "model/model.h"
#include "train/conf.h"
#include "train/net.h"

struct train;

struct train_opts {
    bool resume; /* go on from the newest whole checkpoint in conf.out, if there is one */
};

/* Locks conf.out, reads tokenizer and data, checks that memory suffices, makes or loads the model.
 * c is borrowed until train_close. E_BUSY: another trainer; E_MEMORY: what is needed and what there
 * is; E_USAGE: conf.out has checkpoints and resume is not set. */
struct train *train_open(const struct conf *c, const struct train_opts *o, struct err *err);
void train_close(struct train *t);

struct train_info {
    int64_t params, trained; /* weights now; those that are not frozen */
    size_t need, available;  /* bytes of memory: all that will be allocated, what there was */
    struct net_bytes memory; /* the parts of it, of the grown model */
    struct data_stats data;
    int64_t step_tokens, steps; /* ids in a step; steps of the whole run */
    double token_flops;         /* of a step, per id: forward and backward */
    const char *resumed;        /* the checkpoint's folder, NULL = from the start; borrowed */
    double run_flops;           /* of the whole run, a base's included */
    int layers, final_layers;   /* now; when the run ends */
    int64_t turn; /* steps before growth, or before the learning rate starts again; 0 = neither */
};
struct train_info train_info(const struct train *t);

/* Operations per id, forward and backward, in rows of len: six per weight of a product, and
 * attention over half the square. */
double train_flops(const struct cfg *c, int len);

/* One optimiser step. */
struct train_step {
    int64_t step;      /* steps done, this one included */
    double loss, norm; /* mean over the targets; L2 of the gradients before clipping */
    float lr;
    int64_t tokens;    /* ids since the start of the run */
    double flops;      /* the same */
    double seconds;    /* of this step */
    bool skipped;      /* loss or gradient not finite: nothing was changed but the position */
    double step_flops; /* of this step alone */
    bool grown; /* the model grew before this step: weights, optimiser and train_info are new */
};
int train_step(struct train *t, struct train_step *s, struct err *err);

/* Mean loss over the fixed validation batches; NAN if there are none. */
int train_eval(struct train *t, double *loss, struct err *err);

/* A checkpoint of now; train_best writes the model alone as out/best. */
int train_save(struct train *t, struct err *err);
int train_best(struct train *t, struct err *err);

/* What the model says after conf.sample_prompt; appended to out. */
int train_sample(struct train *t, struct buf *out, struct err *err);

struct net *train_net(struct train *t); /* borrowed until the model grows, or train_close */
int64_t train_steps_done(const struct train *t);

/* What train_run tells while it goes; each may be NULL. */
struct train_watch {
    void *arg;
    void (*step)(void *arg, const struct train_step *s,
                 double val_loss);             /* val_loss: NAN until known */
    void (*note)(void *arg, const char *line); /* evaluations, saves, samples, trouble */
    const volatile sig_atomic_t *stop;         /* non-zero: save and return after this step */
};
/* Steps, evaluations, samples, log.jsonl and checkpoints until the end of the run; then loss.svg
 * and loss.png. A save that fails is tried again at the next interval; at the end it is an error.
 * E_FORMAT after ten steps in a row whose loss or gradient was not finite (bad_batches.json says
 * which documents they had). */
int train_run(struct train *t, const struct train_watch *w, struct err *err);

#endif
