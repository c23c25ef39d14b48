/* adamw.c - see adamw.h.
 * Parameters are cut into spans of a fixed size that do not depend on the number of threads; a span
 * is updated, or summed, by one thread, and the sums are added in their order. */
#include "train/adamw.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "num/kern.h"

#define SPAN 65536 /* floats */

struct adamw *adamw_new(struct params *ps, const struct adamw_opts *o, struct pool *pool,
                        struct err *err) {
    struct adamw *a = mem_new(sizeof *a);
    *a = (struct adamw){.o = *o, .ps = ps, .pool = pool};
    size_t bytes = ps->floats * sizeof(float);
    if (!(a->m = mem_pages(bytes, "optimiser", err)) ||
        !(a->v = mem_pages(bytes, "optimiser", err))) {
        adamw_free(a);
        return NULL;
    }
    return a;
}

void adamw_free(struct adamw *a) {
    if (!a)
        return;
    mem_pages_free(a->m, a->ps->floats * sizeof(float));
    mem_pages_free(a->v, a->ps->floats * sizeof(float));
    free(a);
}

struct job {
    const struct adamw *a;
    double *sum;              /* one a span, of the norm */
    struct adamw_rates rates; /* of a param that decays */
};

/* Span k of param p: [*lo, *hi). */
static size_t span_count(const struct param *p) {
    return ((size_t)p->rows * (size_t)p->cols + SPAN - 1) / SPAN;
}

static void span_range(const struct param *p, size_t k, size_t *lo, size_t *hi) {
    size_t n = (size_t)p->rows * (size_t)p->cols;
    *lo = k * SPAN;
    *hi = *lo + SPAN < n ? *lo + SPAN : n;
}

static void sum_squares(void *arg, int id, int n) {
    const struct job *j = arg;
    size_t at = 0;
    for (int i = 0; i < j->a->ps->n; i++) {
        const struct param *p = &j->a->ps->p[i];
        for (size_t k = 0; k < span_count(p); k++, at++) {
            double part[8] = {0}; /* a sum of eight has no chain of additions to wait for */
            size_t lo, hi;
            if (p->frozen || at % (size_t)n != (size_t)id)
                continue;
            span_range(p, k, &lo, &hi);
            for (; lo + 8 <= hi; lo += 8)
                for (int c = 0; c < 8; c++)
                    part[c] += (double)p->g[lo + (size_t)c] * p->g[lo + (size_t)c];
            for (; lo < hi; lo++)
                part[0] += (double)p->g[lo] * p->g[lo];
            j->sum[at] = ((part[0] + part[1]) + (part[2] + part[3])) +
                         ((part[4] + part[5]) + (part[6] + part[7]));
        }
    }
}

double adamw_norm(const struct adamw *a) {
    size_t n = 0;
    double total = 0;
    for (int i = 0; i < a->ps->n; i++)
        n += span_count(&a->ps->p[i]);
    struct job j = {.a = a, .sum = mem_array(n, sizeof *j.sum)};
    pool_run(a->pool, sum_squares, &j);
    for (size_t i = 0; i < n; i++)
        total += j.sum[i];
    free(j.sum);
    return sqrt(total);
}

float adamw_clip(double norm, double max) {
    double f = max / (norm + 1e-6); /* the constant of the reference, for the same bits */
    return max > 0 && f < 1 ? (float)f : 1;
}

static void update_span(const struct job *j, const struct param *p, size_t lo, size_t hi) {
    float *m = j->a->m + p->at, *v = j->a->v + p->at;
    struct adamw_rates rates = j->rates;
    if (!p->decay)
        rates.keep = 1;
    kern.adamw(p->w + lo, m + lo, v + lo, p->g + lo, (int)(hi - lo), &rates);
}

static void update(void *arg, int id, int n) {
    const struct job *j = arg;
    size_t at = 0;
    for (int i = 0; i < j->a->ps->n; i++) {
        const struct param *p = &j->a->ps->p[i];
        for (size_t k = 0; k < span_count(p); k++, at++) {
            size_t lo, hi;
            if (p->frozen || at % (size_t)n != (size_t)id)
                continue;
            span_range(p, k, &lo, &hi);
            update_span(j, p, lo, hi);
        }
    }
}

void adamw_step(struct adamw *a, float lr, float scale) {
    const struct adamw_opts *o = &a->o;
    double t = (double)++a->step;
    struct job j = {.a = a};
    j.rates = (struct adamw_rates){.beta1 = o->beta1,
                                   .beta2 = o->beta2,
                                   .eps = o->eps,
                                   .keep = 1 - lr * o->decay,
                                   .rate = (float)((double)lr / (1 - pow((double)o->beta1, t))),
                                   .fix2 = (float)(1 / sqrt(1 - pow((double)o->beta2, t))),
                                   .scale = scale};
    pool_run(a->pool, update, &j);
    params_changed(a->ps);
}
