/* sarathi_sim.h - replays requests through sarathi_plan on a virtual clock: a machine whose steps
 * take what a cost model says, with memory in groups.  Same input, same figures. */
#ifndef METHOD_SARATHI_SIM_H
#define METHOD_SARATHI_SIM_H

#include "method/sarathi.h"

struct sim_req {
    double at; /* arrival, seconds */
    int n_prompt, n_out;
};

struct sim_lengths { /* log-normal: the median, and the deviation of the logarithm */
    double prompt, out, sigma;
    int max; /* of a prompt, and of an answer */
};
/* n requests at `rate` a second.  The same seed gives the same lengths, and arrivals that only
 * scale with the rate. */
void sim_poisson(struct sim_req *out, int n, double rate, const struct sim_lengths *len,
                 uint64_t seed);

struct sim_opts {
    enum sarathi_policy policy;
    int max_run, max_tok, tile; /* max_tok is raised to the longest request if prompts stay whole */
    double slo;
    int groups, group_tokens; /* memory */
    struct sarathi_cost cost; /* of the machine; the scheduler does not see it: it learns       */
    double noise;             /* steps take exp(noise * normal) times as long                   */
    uint64_t seed;            /* of the noise                                                   */
};

struct sim_result { /* times in seconds; TTFT = first token - arrival, TBT = gap between tokens */
    double ttft_p50, ttft_p99, tbt_p50, tbt_p99, tbt_max, delay_p50, e2e_p50;
    double out_per_s, tok_per_s; /* generated; with prompts, each counted once */
    double seconds;              /* from the first arrival to the last token */
    int64_t steps, preempted, computed; /* computed: tokens, those computed again included */
    int budget_min;                     /* least tokens that a step with decodes in it could have */
};

/* When what happened to each of n requests: first scheduled, first and last token, on the clock of
 * their arrivals; and the gaps between the tokens of each. */
struct sim_marks {
    double *start, *first, *last; /* (n) */
    double *gap;                  /* (n_gap) */
    int n_gap;
};
/* The figures that follow from the marks, all but steps, preempted, computed and budget_min, which
 * stay; sorts the gaps. */
void sim_figures(const struct sim_req *req, int n, const struct sim_marks *m,
                 struct sim_result *out);

/* req is in order of arrival.  E_USAGE: a request that memory can never hold, or one of no
 * tokens. */
int sim_run(const struct sim_opts *o, const struct sim_req *req, int n, struct sim_result *out,
            struct err *err);

/* The highest rate, within 2 %, at which a Poisson trace keeps TBT p99 <= tbt and the median delay
 * until a request is scheduled <= 2 s; 0 = not even at a request in a thousand seconds. */
int sim_capacity(const struct sim_opts *o, const struct sim_lengths *len, int n, double tbt,
                 uint64_t seed, double *rate, struct err *err);

#endif
