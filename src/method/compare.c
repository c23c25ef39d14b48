/* compare.c - see compare.h.  Pure: no clock, no allocation, no model.
 *
 * The protocol is that of Du et al., "Stacking Your Transformers" (NeurIPS 2024), with what it
 * lacks: several seeds, and an interval.  Claims tested in test/method/compare.c. */
#include "method/compare.h"

#include <math.h>
#include <stddef.h>

/* -- curves ------------------------------------------------------------------------------------ */

/* The first crossing is where the running minimum gets to the level, as all before lies above. */
double curve_reach(const struct curve *c, double level) {
    int i = 0;
    while (i < c->n && !(c->loss[i] <= level))
        i++;
    if (i == c->n || (i == 0 && c->loss[0] < level))
        return NAN;
    if (i == 0)
        return c->flops[0];
    double x0 = log(c->flops[i - 1]), x1 = log(c->flops[i]);
    return exp(x0 + (x1 - x0) * (c->loss[i - 1] - level) / (c->loss[i - 1] - c->loss[i]));
}

double curve_lowest(const struct curve *c, double flops) {
    if (c->n < 1 || !(flops >= c->flops[0]) || !(flops <= c->flops[c->n - 1]))
        return NAN;
    double low = c->loss[0];
    int i = 1;
    for (; i < c->n && c->flops[i] <= flops; i++)
        low = fmin(low, c->loss[i]);
    if (i == c->n)
        return low;
    double x0 = log(c->flops[i - 1]), x1 = log(c->flops[i]), f = (log(flops) - x0) / (x1 - x0);
    return fmin(low, c->loss[i - 1] + f * (c->loss[i] - c->loss[i - 1]));
}

double curve_speedup(const struct curve *scratch, const struct curve *arm, double level) {
    return curve_reach(scratch, level) / curve_reach(arm, level) - 1;
}

/* -- means and intervals ----------------------------------------------------------------------- */

/* P(|T| < t), by the finite series for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and
 * 26.7.4). */
static double t_within(double t, int df) {
    double angle = atan(t / sqrt(df)), c = cos(angle), s = sin(angle);
    double term = df % 2 ? c : 1, sum = df > 1 ? term : 0;
    for (int k = df % 2 ? 3 : 2; k < df; k += 2) { /* the next term has two more cosines */
        term *= c * c * (k - 1) / k;
        sum += term;
    }
    return df % 2 ? 2 / M_PI * (angle + s * sum) : s * sum;
}

double t_quantile(double p, int df) {
    double lo = 0, hi = 1, want = 2 * p - 1;
    while (t_within(hi, df) < want)
        hi *= 2;
    for (int i = 0; i < 100; i++) {
        double mid = (lo + hi) / 2;
        if (t_within(mid, df) < want)
            lo = mid;
        else
            hi = mid;
    }
    return hi;
}

/* Of x[i] - y[i], or of x[i] where y is NULL. */
static struct estimate estimate(const double *x, const double *y, int n) {
    struct estimate e = {.mean = NAN, .half = NAN};
    double sum = 0, square = 0;
    for (int i = 0; i < n; i++) {
        double v = y ? x[i] - y[i] : x[i];
        e.n += isfinite(v) != 0;
        e.missing += !isfinite(v);
        sum += isfinite(v) ? v : 0;
    }
    if (e.n)
        e.mean = sum / e.n;
    for (int i = 0; i < n; i++) {
        double v = (y ? x[i] - y[i] : x[i]) - e.mean;
        square += isfinite(v) ? v * v : 0;
    }
    if (e.n > 1)
        e.half = t_quantile(0.975, e.n - 1) * sqrt(square / (e.n - 1) / e.n);
    return e;
}

struct estimate estimate_mean(const double *x, int n) {
    return estimate(x, NULL, n);
}

struct estimate estimate_difference(const double *a, const double *b, int n) {
    return estimate(a, b, n);
}

/* -- the verdict ------------------------------------------------------------------------------- */

enum verdict compare_verdict(const struct estimate *arm, const struct estimate *small,
                             const struct estimate *small_arm) {
    if (arm->n < 2 || arm->missing)
        return VERDICT_NONE;
    if (arm->mean - arm->half > 0)
        return VERDICT_WORSE;
    if (!(arm->mean + arm->half < 0))
        return VERDICT_NO_EFFECT;
    if ((small->n && small->mean < 0) || (small_arm->n && small_arm->mean < 0))
        return VERDICT_MOOT;
    return VERDICT_HOLDS;
}

const char *verdict_text(enum verdict v) {
    static const char *const text[] = {
        [VERDICT_NONE] = "no verdict: one seed, or a run that diverged",
        [VERDICT_HOLDS] = "lower, the interval excludes 0",
        [VERDICT_NO_EFFECT] = "no effect: 0 is in the interval",
        [VERDICT_WORSE] = "higher, the interval excludes 0",
        [VERDICT_MOOT] = "lower, but moot: the small model wins",
    };
    return text[v];
}

/* -- equal FLOPs ------------------------------------------------------------------------------- */

int64_t length_small(double share, int64_t steps) {
    int64_t n = llround(share * (double)steps);
    return n < 1 && share > 0 ? 1 : n;
}

struct length length_for(double budget, double share, double small, double full) {
    int64_t guess = (int64_t)(budget / (share * small + (1 - share) * full));
    struct length best = {0};
    for (int64_t n = guess > 2 ? guess - 2 : 1; n <= guess + 3; n++) {
        int64_t before = length_small(share, n);
        struct length l = {n, before, (double)before * small + (double)(n - before) * full};
        if (!best.steps || fabs(l.flops - budget) < fabs(best.flops - budget))
            best = l;
    }
    return best;
}
