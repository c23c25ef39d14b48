/* sarathi.h - which tokens go into the next step (Agrawal et al., "Taming Throughput-Latency
 * Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024): every running answer gets its token,
 * and prompts fill what is left of a token budget in chunks.  Pure: arrays in, a plan out; memory
 * is asked for through callbacks; no clock, no model, no allocation. */
#ifndef METHOD_SARATHI_H
#define METHOD_SARATHI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum sarathi_policy {
    SARATHI,               /* decodes, then chunks of prompts                             */
    SARATHI_PREFILL_FIRST, /* whole prompts alone whenever one can be admitted: decodes wait */
    SARATHI_UNCHUNKED      /* decodes and whole prompts in one step                       */
};
const char *sarathi_name(enum sarathi_policy p); /* "sarathi", "prefill-first", "unchunked" */
int sarathi_parse(const char *name, enum sarathi_policy *out, struct err *err);

/* -- the time of a step ------------------------------------------------------------------------ */

enum { SARATHI_TERMS = 5 };

/* t = w + d*B + p*P + a*sum(ctx of decodes) + q*sum(P*(ctx_p + P/2)), seconds. */
struct sarathi_cost {
    double w, d, p, a, q;
};

#endif
