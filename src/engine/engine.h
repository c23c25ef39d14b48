/* engine.h - THE boundary: requests in, tokens out.  Callers submit the full prompt every time;
 * what to reuse, extend or compute is the engine's business.  Above it nobody sees a tensor; below
 * it nobody sees a request.  One thread calls everything here. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>

#include "method/sarathi.h"
#include "model/kv.h"
#include "model/model.h"
#include "model/sample.h"

struct engine;

struct engine_opts {
    int n_slot;         /* sequences at a time (1 for chat)                                   */
    int n_ctx;          /* tokens per sequence; 0 = the model's own, at most 4096             */
    int n_batch;        /* tokens per step: decodes first, the rest goes to prompts; 0 = 512  */
    enum dtype kv_type; /* as kv_open takes; DT_NONE = kv_default of the head                 */
    enum kv_layout kv_layout;
    size_t kv_pool;     /* bytes for all sequences together, as kv_opts.pool; flat: not used  */
    int max_queue;      /* requests that wait; 0 = any number                                 */
    double tbt_slo_ms;  /* what a step with decodes in it may take; 0 = n_batch alone decides */
    enum sarathi_policy policy; /* SARATHI, or what it is compared with                       */
};

enum finish { FIN_STOP, FIN_LENGTH, FIN_CANCELLED, FIN_ERROR };

struct token {        /* one token, borrowed during the callback */
    int32_t id;       /* -1: only text that was held back in case it began a stop string */
    bool prompt;      /* of the prompt, without text; the first has no logprob and no top */
    const char *text; /* whole UTF-8 characters that became final; may be empty */
    size_t len;
    float logprob;             /* if n_logprobs > 0 */
    const struct logprob *top; /* n_logprobs of them */
};
struct usage {
    int n_prompt, n_cached, n_out; /* cached = prompt tokens whose KV was reused */
    int n_preempted;               /* how often its KV was given up and computed again */
    int64_t prompt_us, decode_us;  /* first scheduled to first token; from there to the end */
    /* Moments of clock_us(): accepted, first scheduled, first token, end; 0 = never came to it. */
    int64_t queued_at, started_at, first_at, ended_at;
    enum finish why;
    const struct err *err; /* FIN_ERROR only; borrowed during the callback */
};

typedef bool token_fn(void *ud, const struct token *t); /* false = cancel */
typedef void prompt_fn(void *ud, int n_read, int n_cached); /* tokens of the prompt so far */
typedef void done_fn(void *ud, const struct usage *u);

struct req {
    const int32_t *ids; /* full prompt, copied */
    int n;
    int max_new; /* -1 = until the context is full */
    int min_new; /* no end token, stop id or stop string counts before so many tokens */
    struct sampling sampling;     /* its bias list is copied */
    struct constraint constraint; /* all NULL = none; its ud is borrowed until on_done returns */
    uint64_t cache_salt; /* KV is shared between requests of the same salt only */
    const char *const *stop; /* stop strings, copied; the stop and what follows is not delivered */
    int n_stop;
    const int32_t *stop_id; /* token ids that end the answer, besides the model's EOS; copied */
    int n_stop_id;
    bool ignore_eos;
    bool continues;     /* the answer goes on the prompt's text: its leading space is kept */
    int n_logprobs;     /* 0 = none, up to 20 */
    bool prompt_logprobs; /* with n_logprobs: the prompt's tokens come first, with theirs */
    float *pooled; /* (dim) or NULL: the mean of the prompt's last hidden states, written before
                    * on_done; such a request generates nothing (max_new is 0) */
    bool no_cache; /* reuses no keys and values; the two above do not either */
    bool show_special; /* special tokens have a text: their names */
    token_fn *on_token; /* may be NULL */
    prompt_fn *on_prompt; /* may be NULL: after each step that computed some of the prompt */
    done_fn *on_done;   /* exactly one call for each accepted request; may be NULL */
    void *ud;
};

/* m and pool are borrowed until engine_close. */
struct engine *engine_open(const struct model *m, struct pool *pool, const struct engine_opts *o,
                           struct err *err);
void engine_close(struct engine *e);
int engine_ctx(const struct engine *e);
size_t engine_kv_bytes(const struct engine *e); /* the most it may hold */
size_t engine_kv_held(const struct engine *e);  /* of the tokens now in the slots */

/* Queues a request.  E_USAGE if the prompt is empty, does not fit the context, or an id is outside
 * the vocabulary; E_MEMORY if the KV memory could never hold it, or there is none for what it asks
 * of its prompt; E_BUSY if the queue is full. */
int engine_submit(struct engine *e, const struct req *r, struct err *err);
bool engine_step(struct engine *e);             /* one forward pass; false = nothing left to do */
void engine_cancel(struct engine *e, void *ud); /* requests with this ud end with FIN_CANCELLED */

struct engine_stats {
    int running, waiting, slots; /* now; slots = the most that can run */
    int budget;                  /* tokens that the last step could have had */
    enum sarathi_policy policy;
    struct kv_stats kv;
    /* Since engine_open: */
    int64_t steps, preempted, accepted, rejected; /* rejected: E_BUSY only */
    int64_t ended[FIN_ERROR + 1];                 /* by enum finish */
    int64_t prompt_tokens, cached_tokens;         /* of requests that were scheduled */
    int64_t computed_tokens; /* in chunks: of prompts, and whatever was computed again */
    int64_t out_tokens;
    struct sarathi_cost cost; /* the fitted time of a step; all 0 = not yet                    */
    double slack;             /* a step takes up to so many times as long (99 %); 0 = not yet  */
};
void engine_stats(const struct engine *e, struct engine_stats *out);

struct engine_slot { /* what a sequence does now; no text, no ids */
    bool busy;       /* else n_kv tokens of a past request wait to be reused */
    int n_prompt, n_cached, n_kv, n_out;
    int64_t started_at;
};
struct engine_slot engine_slot(const struct engine *e, int i); /* i < engine_stats.slots */

#endif
