/* sarathi.h - which tokens go into the next step (Agrawal et al., "Taming Throughput-Latency
 * Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024): every running answer gets its token,
 * and prompts fill what is left of a budget in chunks.  Arrays in, a plan out: no clock, no model,
 * no allocation; memory is asked for through callbacks. */
#ifndef METHOD_SARATHI_H
#define METHOD_SARATHI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum sarathi_policy {
    SARATHI,               /* decodes, then chunks of prompts                                 */
    SARATHI_PREFILL_FIRST, /* whole prompts alone whenever one can be admitted; decodes wait   */
    SARATHI_UNCHUNKED,     /* decodes and whole prompts in one step                           */
    SARATHI_POLICIES
};
const char *sarathi_name(enum sarathi_policy p); /* "sarathi", "prefill-first", "unchunked" */
int sarathi_parse(const char *name, enum sarathi_policy *out, struct err *err);

/* -- the time of a step ------------------------------------------------------------------------ */

enum { SARATHI_TERMS = 5, SARATHI_WINDOW = 64 };

struct sarathi_load { /* what a step computes; zeroed = nothing */
    int decodes;      /* B: sequences that get one token */
    int prompt;       /* P: tokens of prompts */
    double past;      /* tokens that the decodes attend to, all together */
    double square;    /* sum over chunks of n * (tokens before it + n / 2) */
};

/* t = w + d*B + p*P + a*past + q*square, in seconds. */
struct sarathi_cost {
    double w, d, p, a, q;
};
double sarathi_time(const struct sarathi_cost *c, const struct sarathi_load *x);

struct sarathi_sample {
    struct sarathi_load x;
    double t;
};
/* The last steps with prompts in them and the last without, in two rings, lest one kind push out
 * the other; and what follows from them.  Zeroed at the start. */
struct sarathi_fit {
    struct sarathi_sample ring[2][SARATHI_WINDOW];
    int64_t seen[2];
    int pending;              /* samples since the last fit */
    struct sarathi_cost cost; /* all 0 until `ready` */
    double slack;             /* a step takes up to so many times as long as predicted (99 %)   */
    int widest;               /* most prompt tokens of a step in the window                     */
    bool ready;
};
/* Takes in a measured step; the cost is fitted anew now and then: least squares of the relative
 * error, outliers weighted down, every coefficient >= 0. */
void sarathi_learn(struct sarathi_fit *f, const struct sarathi_load *x, double seconds);

/* -- the plan ---------------------------------------------------------------------------------- */

struct sarathi_opts {
    enum sarathi_policy policy;
    int max_run; /* sequences at a time                                                          */
    int max_tok; /* tokens in a step, at least max_run; whole prompts must fit if not chunked    */
    int tile;    /* rows that products handle together: chunks end at multiples                  */
    double slo;  /* seconds a step with decodes in it may take; 0 = max_tok alone decides        */
    const struct sarathi_fit *fit; /* with an slo; borrowed during the call                      */
};

struct sarathi_seq { /* an accepted request; the caller keeps them oldest first */
    int n_ids;       /* its tokens: prompt, and what was generated so far                */
    int n_kv;        /* of them, the first whose KV stands; one missing = it decodes     */
    bool running;    /* has memory */
    int n;           /* out: how many of its tokens this step computes                   */
};

/* Memory, by index of the sequence. */
struct sarathi_mem {
    void *ud;
    /* Room for all n_ids tokens of a waiting sequence; how many of them are found in a cache (fewer
     * than n_ids), or -1 = not now, and nothing has changed. */
    int (*admit)(void *ud, int i);
    bool (*grow)(void *ud, int i);    /* room for n_ids tokens of a running one */
    void (*preempt)(void *ud, int i); /* takes its memory away */
};

struct sarathi_plan {
    int n_tok, preempted, admitted;
    int stuck; /* a sequence that has all memory to itself and needs more; -1 = none */
    struct sarathi_load load;
    int budget; /* tokens that the step could have had */
};

/* Plans one step: sets n and n_kv of each sequence, `running` of those admitted and preempted.
 * Running sequences must be older than waiting ones, which admission in order and preemption of the
 * latest preserve. */
struct sarathi_plan sarathi_plan(const struct sarathi_opts *o, struct sarathi_seq *seq, int n_seq,
                                 const struct sarathi_mem *mem);

#endif
