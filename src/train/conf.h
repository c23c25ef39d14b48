/* conf.h - RUN.json: what to train, on what, and how.  docs/commands.md lists the keys. */
#ifndef TRAIN_CONF_H
#define TRAIN_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include "model/cfg.h"
#include "num/mat.h"
#include "tok/chat.h"
#include "train/data.h"
#include "train/lr.h"

#define CONF_LIST 64 /* data files, freeze patterns */

struct conf {
    char *path;   /* of RUN.json */
    json_t *json; /* owns the strings below */
    /* A folder or file is the path as given when absolute, else seen from RUN.json's folder. */
    char *out, *tokenizer, *base, *cache; /* owned; base NULL = a new model */
    bool base_moments;                    /* AdamW goes on from the state in the base's folder */

    /* a new model's shape; 0 = not given */
    int64_t vocab_size, dim, n_layers, n_heads, n_kv_heads, hidden_dim, max_seq_len;
    double norm_eps, rope_theta;
    bool tie_embeddings;

    struct data_source train[CONF_LIST], val[CONF_LIST];
    int n_train, n_val;
    double eval_fraction;
    bool skip_bad_data, document_masking;
    enum chat_format chat; /* CHAT_NONE = the tokenizer's */

    int64_t batch_size, accumulation;
    int64_t max_epochs, max_steps; /* 0 = no limit; at least one is set */
    enum lr_kind schedule;
    double learning_rate, min_lr, decay_fraction; /* of WSD: the share of the steps that falls */
    int64_t warmup_steps;                         /* -1 = a twentieth of the run, at most 1,000 */
    double dropout;                               /* [0, 1) */
    double weight_decay, grad_clip, beta1, beta2, adam_eps;
    const char *freeze[CONF_LIST]; /* globs of tensor names */
    int n_freeze;
    int64_t seed;

    /* Growth in the middle of the run; the shape above is the grown model's. */
    int64_t grow_factor;       /* 0 = none */
    double grow_at;            /* share of the steps that train the base, [0, 1) */
    double grow_learning_rate; /* peak of the base's; learning_rate unless given */
    bool grow_zero_init;       /* repeated blocks begin as the identity */
    bool grow_moments;         /* AdamW's moments and its count of steps are kept */
    double rewarm_at;          /* without growth: where the learning rate starts again; 0 = no */

    bool mixed_precision, recompute;
    int64_t threads;  /* 0 = one per processor */
    enum dtype dtype; /* of the checkpoints' weights */

    int64_t save_every, keep_last, keep_every, eval_every, eval_batches, log_every;
    int64_t sample_every, sample_tokens;
    const char *sample_prompt;
};

/* Reads and checks; the first key that is unknown, of a wrong type, out of range or in
 * contradiction to another is E_FORMAT naming file and key. conf_free also after a failure. */
int conf_read(struct conf *c, const char *path, struct err *err);
/* The same with the key grow given as an argument (NULL = not), which may not contradict the
 * file's: E_USAGE. */
int conf_read_with(struct conf *c, const char *path, const char *grow, struct err *err);
void conf_free(struct conf *c);
bool conf_given(const struct conf *c, const char *key);

/* The new model's configuration, Llama's family; ids of BOS and EOS are the tokenizer's. */
int conf_cfg(const struct conf *c, const struct tok *tok, struct cfg *cfg, struct err *err);

/* E_FORMAT if RUN.json gives a key of the shape another value than the model in `from` has. */
int conf_agrees(const struct conf *c, const struct cfg *model, const char *from, struct err *err);

#endif
