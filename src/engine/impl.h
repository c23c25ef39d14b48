/* impl.h - what the files of this folder share: jobs and the engine.  Above it only tests look. */
#ifndef ENGINE_IMPL_H
#define ENGINE_IMPL_H

#include "engine/engine.h"
#include "engine/prefix.h"
#include "model/run.h"

/* Alternatives that log-probabilities come with at most; rows of logits for prompts at a time. */
enum { MOST_TOP = 20, HEAD_ROWS = 16 };

struct job { /* an accepted request: its copy and its progress */
    struct req r;
    struct job *older, *newer; /* in order of arrival */
    struct ids ids;            /* the prompt, and what was generated */
    int n_kv, slot;            /* ids[0..n_kv) stand in that slot; slot -1 = waits, n_kv is 0 */
    struct sampler *sampler;   /* from the first time it was scheduled */
    struct tok_stream stream;
    struct buf text; /* decoded but not delivered: may be the start of a stop string */
    struct logprob top[MOST_TOP];
    int n_told;  /* tokens of the prompt whose probabilities were delivered */
    double *sum; /* (dim) of hidden states so far, if they are pooled */
    struct usage use;
    bool cancelled;
};

struct engine {
    const struct model *m;
    struct pool *pool; /* borrowed */
    struct run *run;
    struct kv *kv;
    struct prefix *prefix;
    int n_run, n_ctx, max_queue;
    struct job *oldest, *newest; /* all jobs; those with a slot are older than those without */
    int n_running, n_waiting;
    bool any_cancelled;
    struct sarathi_opts sched;
    struct sarathi_fit fit;
    struct sarathi_seq *seq; /* (2 * n_run) what may run in this step: */
    struct job **of;         /* (2 * n_run) whose it is */
    struct job **job;        /* (slots of kv) who works there; NULL = nobody */
    const struct job *short_of_memory; /* was refused when so many groups were free: */
    int short_free;
    struct span *span; /* (n_run) */
    float *logits;     /* (n_run, vocab) */
    size_t logits_bytes;
    float *head; /* (HEAD_ROWS, vocab) for the prompt's tokens; NULL until a request wants them */
    size_t head_bytes;
    uint32_t *allowed; /* (vocab) bits; scratch of out_token */
    struct engine_stats stats;
};

/* -- engine.c ---------------------------------------------------------------------------------- */

/* The request is over: gives its slot back, calls on_done, frees it. */
void job_end(struct engine *e, struct job *j, enum finish why, const struct err *err);

/* -- step.c ------------------------------------------------------------------------------------ */

/* Takes memory away from the latest running request, which will be computed again; false = none
 * runs.  The scheduler does so when memory is short, tests whenever they like. */
bool job_preempt_latest(struct engine *e);

/* -- out.c: from logits to the caller ---------------------------------------------------------- */

/* Samples the next token from its row of logits, delivers it, and ends the request if it was the
 * last. */
void out_token(struct engine *e, struct job *j, const float *logits);

/* -- prompt.c: what requests want to know of their prompts' own tokens ------------------------- */

/* All rows of the prompt must be computed for it, none may come from the cache. */
bool prompt_whole(const struct job *j);
bool prompt_hidden(const struct job *j); /* its next rows' hidden states are needed */
/* Takes memory for it; E_MEMORY. */
int prompt_room(struct engine *e, struct job *j, struct err *err);
/* The next n tokens of j were computed; their hidden states are row.. of the step. */
void prompt_rows(struct engine *e, struct job *j, int row, int n);
void prompt_again(const struct engine *e, struct job *j); /* it was preempted */
void prompt_end(const struct engine *e, struct job *j);   /* all of it was read */

#endif
