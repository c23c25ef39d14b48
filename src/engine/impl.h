/* impl.h - what the files of this folder share: jobs, slots, the engine.  Nobody else sees it. */
#ifndef ENGINE_IMPL_H
#define ENGINE_IMPL_H

#include "engine/engine.h"
#include "model/run.h"

struct job { /* an accepted request: its copy and its progress */
    struct req r;
    struct job *next; /* queue */
    struct sampler *sampler;
    struct tok_stream stream;
    struct buf text; /* decoded but not delivered: may be the start of a stop string */
    struct logprob top[20];
    struct usage use;
    int64_t order; /* arrival number */
    bool cancelled;
};

struct slot {
    struct ids ids;
    int n_kv;
    struct job *job; /* NULL = free */
    int64_t used;    /* step counter at last use, for choosing among free slots */
};

struct engine {
    const struct model *m;
    struct run *run;
    struct kv *kv;
    struct slot *slot;
    int n_slot, n_ctx, n_batch, max_queue;
    int64_t step, arrivals;
    struct job *head, **tail; /* waiting requests, oldest first */
    int n_wait;
    struct span *span; /* (n_slot) */
    int *span_slot;    /* (n_slot) which slot a span belongs to */
    float *logits;     /* (n_slot, vocab) */
    size_t logits_bytes;
    uint32_t *allowed; /* (vocab) bits; scratch of out_token */
    struct engine_stats stats;
};

/* -- engine.c ---------------------------------------------------------------------------------- */

/* The slot's request is over: frees the slot, which keeps its KV, and calls on_done. */
void slot_end(struct engine *e, struct slot *s, enum finish why, const struct err *err);

/* -- out.c: from logits to the caller ---------------------------------------------------------- */

/* Samples the slot's next token from its row of logits, delivers it, and ends the request if it was
 * the last. */
void out_token(struct engine *e, struct slot *s, const float *logits);

#endif
