/* rig.h - private to cmd/: a model set up to be measured in steps of equal sequences, what such a
 * step must read and compute, and the least time that takes on this machine.
 *
 * Bytes: weights once a step (those of the head only if there are logits), keys and values once a
 * sequence.  Operations: two per weight and token, four per component of each attended key.
 * Operators that only touch activations, which stay in the caches, have neither. */
#ifndef CMD_RIG_H
#define CMD_RIG_H

#include "cmd/probe.h"
#include "model/run.h"

enum {
    RIG_CHUNK = 512, /* tokens of a prompt in one step, of all sequences together */
    RIG_BATCH = 256, /* sequences at most */
    RIG_REPEAT = 99, /* samples at most */
};

/* Whose instructions multiply; a level that lacks them is held to the next wider ones. */
enum arith { ARITH_F32, ARITH_BF16, ARITH_I8, N_ARITH };
enum arith arith_of_weights(enum dtype t);
enum arith arith_of_kv(enum dtype t); /* attention: pairs of BF16, or floats */

struct rig {
    const struct model *m; /* borrowed, like pool, until rig_close */
    struct pool *pool;
    int n_batch, n_ctx; /* sequences at a time; positions of each */
    /* owned; by rig_open */
    struct run *run;
    struct kv *kv;
    float *logits; /* (n_batch, vocab) of the last step that gave any */
    int32_t *ids;  /* (n_ctx) what every sequence consists of */
    bool need[N_ARITH];
};

/* m, pool, n_batch <= RIG_BATCH and n_ctx are set, the rest is zeroed; kv: DT_NONE = the type that
 * suits the weights.  After a failure too rig_close must follow. */
int rig_open(struct rig *r, enum dtype kv, struct err *err);
void rig_close(struct rig *r);

/* Tokens of each sequence in a step of a prompt. */
int rig_chunk(const struct rig *r);
/* n tokens of each sequence from position pos; logits: of the last of them. */
void rig_step(struct rig *r, int pos, int n, bool logits);
/* Prompts of `depth` tokens, of which nothing is wanted but keys and values. */
void rig_fill(struct rig *r, int depth);

struct work { /* what a step must do at least, by operator */
    double bytes[RUN_OPS], ops[RUN_OPS][N_ARITH];
};
void work_add(struct work *w, const struct rig *r, int pos, int n, bool logits);

struct rates { /* what the machine can do just now, per second; 0 = not needed by this rig */
    double read, ops[N_ARITH];
};
struct rates rig_rates(const struct rig *r, struct probe *p); /* about 50 ms */
struct rates rates_mean(struct rates a, struct rates b);

/* Least seconds for an operator: reading and computing overlap, and one of them binds. */
double work_of(const struct work *w, int op, const struct rates *r);
/* The same of all operators, where one may read while another computes. */
double work_least(const struct work *w, const struct rates *r);

#endif
