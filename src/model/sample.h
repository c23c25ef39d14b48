/* sample.h - one row of logits to the next token.  Pure: depends on the logits, the settings, the
 * tokens so far and the seed; never on the batch, the clock or the thread. */
#ifndef MODEL_SAMPLE_H
#define MODEL_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct logit_bias {
    int32_t id;
    float bias;
};

struct sampling {
    float temp;           /* 0 = greedy                                                     */
    int top_k;            /* 0 = off                                                        */
    float top_p, min_p;   /* 1 and 0 = off                                                  */
    float typical_p;      /* 0 or 1 = off; of what top_k and top_p keep                     */
    float repeat_penalty; /* 1 = off; applied to tokens among the last repeat_last_n        */
    int repeat_last_n;    /* 0 = none, -1 = all                                             */
    float presence_penalty, frequency_penalty; /* 0 = off; OpenAI's definition, generated tokens */
    const struct logit_bias *bias;             /* borrowed while sampling                        */
    int n_bias;
    uint64_t seed;
};
struct sampling
sampling_default(void); /* temp 0.8, top_k 40, top_p 0.95, min_p 0.05, penalties off, seed 0 */

struct sampler;
struct sampler *sampler_new(const struct sampling *s,
                            int vocab); /* s is copied, its bias list borrowed */
void sampler_free(struct sampler *s);
void sampler_prompt(struct sampler *s, const int32_t *ids,
                    int n); /* the prompt counts for repeat_penalty */

/* Chooses the next token from logits (vocab) and remembers it.  Ties go to the lower id; any NaN
 * gives -1. */
int32_t sampler_next(struct sampler *s, const float *logits);

/* The same among the ids whose bit is set (id: bit id % 32 of word id / 32); NULL = all.  At least
 * one must be. */
int32_t sampler_next_of(struct sampler *s, const float *logits, const uint32_t *allowed);

/* What may follow, decided token by token, such as "a JSON object".  The engine asks `mask` before
 * every choice and reports the choice to `accept` exactly once, never again after a preemption. */
struct constraint {
    void *ud;
    /* Sets the bits of the ids that may come next in `allowed` (vocab bits, all 0 at entry), end
     * tokens among them where the answer may end.  false = nothing can follow: the answer ends as
     * if an end token had come.  The time of one call is the time of one token: keep it short. */
    bool (*mask)(void *ud, uint32_t *allowed, int vocab);
    /* id was chosen; end tokens and stop ids are not reported. */
    void (*accept)(void *ud, int32_t id);
};

struct logprob {
    int32_t id;
    float logprob;
};
/* ln of the sum of e^logit over the vocabulary, and the id of the largest (the lowest of equals);
 * NaN if any logit is NaN. */
double log_sum_exp(const float *logits, int vocab, int *top);

/* Log-softmax of the raw logits: the value for id, and the n best in `top` (descending, ties by
 * id). */
double logprobs(const float *logits, int vocab, int32_t id, struct logprob *top, int n);

#endif
