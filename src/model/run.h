/* run.h - the forward pass for inference: a batch of spans in, logits out. */
#ifndef MODEL_RUN_H
#define MODEL_RUN_H

#include "model/kv.h"
#include "model/model.h"

enum want { WANT_NONE, WANT_LAST, WANT_ALL };

struct span { /* n consecutive tokens of one sequence: a prompt chunk, or a decode step */
    int slot, pos, n;   /* pos of the first; positions before it must be in the KV already */
    const int32_t *ids; /* borrowed for the call */
    enum want want;     /* which of its rows produce logits */
    bool hidden;        /* all of its rows' last hidden states stay behind: run_hidden */
};
struct batch {
    const struct span *span;
    int n_span;
};

struct run; /* activations for one batch at a time; one thread calls it */

/* Room for batches of up to max_tok tokens and spans up to n_ctx positions.  m and pool are
 * borrowed. */
struct run *run_new(const struct model *m, struct pool *pool, int max_tok, int n_ctx,
                    struct err *err);
void run_free(struct run *r);

/* Appends the batch's K and V to kv and writes one (vocab) row of logits per wanted token, in span
 * order. logits: room for all of them.  Allocates nothing.  E_USAGE for an id outside the
 * vocabulary, a span outside the context, or too many tokens (nothing is written then). */
int run_step(struct run *r, struct kv *kv, const struct batch *b, float *logits, struct err *err);

/* The last step's hidden states, as the head sees them (behind the last norm): (rows, D), in span
 * order, of the spans that asked.  Borrowed until the next step. */
const float *run_hidden(const struct run *r);
/* Logits of those rows from `first` on, n of them: the bits that the step would have given. */
void run_head(struct run *r, int first, int n, float *logits);

/* The operators of a step, as `bench profile` tells them apart; the norm before the head counts as
 * RUN_NORM.  ORDER: the names in cmd/profile.c */
enum run_op {
    RUN_EMBED,
    RUN_NORM,
    RUN_QKV,
    RUN_ROPE, /* turning q and k, and appending k and v to the cache */
    RUN_ATTEND,
    RUN_O,
    RUN_GATE_UP, /* or up alone */
    RUN_ACT,
    RUN_DOWN,
    RUN_ADD, /* to the residual stream */
    RUN_HEAD,
    RUN_OPS
};

struct run_times { /* nanoseconds, added up over steps; zeroed by the caller */
    int64_t ns[RUN_OPS];
    int64_t wait[RUN_OPS]; /* of which the calling thread waited for others */
    int64_t last, waited;  /* the end of the last operator, and waits until then */
};

/* From now on every step adds its times to t (one reading of the clock for each operator); NULL =
 * no more, which is how a run starts.  t is borrowed until then. */
void run_watch(struct run *r, struct run_times *t);

#endif
