/* compare.h - two ways of training side by side: FLOPs to equal loss, differences over paired seeds
 * with confidence intervals, and a verdict by a rule that is fixed before the runs. */
#ifndef METHOD_COMPARE_H
#define METHOD_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

/* Validation loss along a run; borrowed.  Losses may rise and fall: what counts is the running
 * minimum, so a loss is reached when it is first seen, whatever follows. */
struct curve {
    const double *flops, *loss; /* n; flops above 0 and increasing */
    int n;
};

/* FLOPs at which the running minimum comes down to `level`: linear between points in the logarithm
 * of FLOPs.  NAN: never, or before the first point, where nothing is known. */
double curve_reach(const struct curve *c, double level);
/* The running minimum at so many FLOPs, by the same line; NAN outside the curve. */
double curve_lowest(const struct curve *c, double flops);
/* How much more `scratch` spends to come down to the level: 0.5 = half as much again; NAN if one of
 * them never does. */
double curve_speedup(const struct curve *scratch, const struct curve *arm, double level);

/* The t that a Student variable with df >= 1 degrees of freedom stays below with probability p,
 * 0.5 <= p < 1. */
double t_quantile(double p, int df);

struct estimate {
    int n;       /* values that are finite numbers */
    int missing; /* values that are not: runs that diverged, levels never reached */
    double mean; /* NAN if n is 0 */
    double half; /* of the 95 % confidence interval mean +- half; NAN if n < 2 */
};
struct estimate estimate_mean(const double *x, int n); /* leaves out what is not finite */
/* Of a[i] - b[i]: i is the seed. */
struct estimate estimate_difference(const double *a, const double *b, int n);

/* Of an arm against scratch at equal FLOPs. */
enum verdict {
    VERDICT_NONE,      /* one seed, or a run that diverged: no interval, so nothing to say */
    VERDICT_HOLDS,     /* the arm's loss is lower and the interval excludes 0              */
    VERDICT_NO_EFFECT, /* the interval includes 0                                          */
    VERDICT_WORSE,     /* higher, and the interval excludes 0                              */
    VERDICT_MOOT       /* the arm is lower, but the small model trained on to the same FLOPs
                        * beats scratch or the arm: the large one is too large for the budget */
};
/* Differences of final losses: arm - scratch, small - scratch, small - arm.  The last two have n =
 * 0 where the small model was not run.  It wins by its mean alone: the burden of proof is the
 * claim's. */
enum verdict compare_verdict(const struct estimate *arm, const struct estimate *small,
                             const struct estimate *small_arm);
const char *verdict_text(enum verdict v);

/* A run's length in steps whose first `share` are those of a small model (share 0: none). */
struct length {
    int64_t steps, small; /* all; those of the small model */
    double flops;         /* of all */
};
/* How many of `steps` come before a growth at `share`, as the trainer counts: the nearest, at least
 * one unless the share is 0. */
int64_t length_small(double share, int64_t steps);
/* The length that comes nearest to `budget` when a step costs `small` before and `full` after. */
struct length length_for(double budget, double share, double small, double full);

#endif
