/* eval.h - the forward pass without an engine, for `eval`: one sequence, logits of every token. */
#ifndef CMD_EVAL_H
#define CMD_EVAL_H

#include "cmd/cmd.h"
#include "model/run.h"

struct pass { /* owned: kv, run, logits */
    struct kv *kv;
    struct run *run;
    float *logits; /* (chunk, vocab) */
    size_t logits_bytes;
    int chunk, vocab;
};

/* Room for one sequence of n_ctx tokens in chunks of at most `chunk` (0 = as many as keep the
 * logits small). The type of keys and values follows --kv-dtype, else F32 for F32 weights and F16
 * otherwise. */
int pass_open(struct pass *p, const struct load_opts *o, const struct loaded *l, int n_ctx,
              int chunk, struct err *err);
void pass_close(struct pass *p); /* accepts zeroed */

/* Runs ids[0..n), n <= chunk, at position pos; p->logits then holds n rows. */
int pass_run(struct pass *p, int pos, const int32_t *ids, int n, struct err *err);

int eval_ppl(int argc, char **argv, struct err *err);
int eval_grads(int argc, char **argv, struct err *err);

#endif
