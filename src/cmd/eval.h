/* eval.h - the forward pass without an engine, for `eval`: one sequence, logits of every token. */
#ifndef CMD_EVAL_H
#define CMD_EVAL_H

#include "base/file.h"
#include "base/progress.h"
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
 * logits small). The type of keys and values follows --kv-dtype, else kv_default. */
int pass_open(struct pass *p, const struct load_opts *o, const struct loaded *l, int n_ctx,
              int chunk, struct err *err);
void pass_close(struct pass *p); /* accepts zeroed */

/* Runs ids[0..n), n <= chunk, at position pos; p->logits then holds n rows. */
int pass_run(struct pass *p, int pos, const int32_t *ids, int n, struct err *err);

/* -- what is scored (sequences.c) ------------------------------------------------------------ */

enum sequence_kind { SEQ_DOCUMENT, SEQ_FIRST_WINDOW, SEQ_LATER_WINDOW };
struct sequences { /* all borrowed */
    const struct tok *tok;
    const struct file *f;
    const char *sep;             /* NULL: windows */
    int n_ctx, bos;              /* bos -1 = none in front */
    int64_t limit;               /* 0 = all */
    struct progress *progress;   /* set while they are gone through */
    int64_t n, cut;              /* gone through; of these, cut to the context */
};
/* Fills in what the model says, after f, sep and limit; n_ctx 0 = the model's. */
int sequences_open(struct sequences *s, const struct model *m, int n_ctx, struct err *err);

/* n >= 2 ids, BOS included; the first is context only.  -1 ends it. */
typedef int sequence_fn(void *ud, const int32_t *ids, int n, enum sequence_kind kind,
                        struct err *err);
int sequences_each(struct sequences *s, const char *label, sequence_fn *fn, void *ud,
                   struct err *err);

int eval_ppl(int argc, char **argv, struct err *err);
int eval_quant(int argc, char **argv, struct err *err);
int eval_grads(int argc, char **argv, struct err *err);

#endif
