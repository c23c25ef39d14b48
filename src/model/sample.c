/* sample.c - see sample.h. Order of the filters as in llama.cpp: bias and penalties, top_k, top_p,
 * min_p, temperature; typical_p comes behind top_p.  The largest logit of every 64, its peak, is
 * found first, in one pass; none of the k best is below the k-th peak, so that few others need a
 * look.  Nothing sorts a vocabulary of 150,000, nor copies it unless a logit changes. */
#include "model/sample.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "num/kern.h"

struct cand {
    int32_t id;
    float logit;
};

struct sampler {
    struct sampling s;
    int vocab;
    struct rng rng;
    struct ids past;    /* prompt and generated tokens */
    int32_t *generated; /* (vocab) how often each token was generated */
    uint8_t *seen;      /* (vocab) among the last repeat_last_n; scratch, all zero between calls */
    struct cand *cand;  /* (vocab) */
    const float *logit; /* (vocab) of this token: the caller's, or weight after penalties */
    float *weight;      /* (vocab) the logits after penalties, then the candidates' weights */
    float *peak;        /* (vocab / PEAK_OF, rounded up) */
};

struct sampling sampling_default(void) {
    return (struct sampling){.temp = 0.8f,
                             .top_k = 40,
                             .top_p = 0.95f,
                             .min_p = 0.05f,
                             .repeat_penalty = 1,
                             .repeat_last_n = 64};
}

struct sampler *sampler_new(const struct sampling *s, int vocab) {
    struct sampler *p = mem_new(sizeof *p);
    p->s = *s;
    p->vocab = vocab;
    rng_seed(&p->rng, s->seed);
    p->generated = mem_array((size_t)vocab, sizeof *p->generated);
    p->seen = mem_array((size_t)vocab, 1);
    p->cand = mem_array((size_t)vocab, sizeof *p->cand);
    p->weight = mem_array((size_t)vocab, sizeof *p->weight);
    p->peak = mem_array((size_t)vocab / PEAK_OF + 1, sizeof *p->peak);
    return p;
}

void sampler_free(struct sampler *s) {
    if (!s)
        return;
    ids_free(&s->past);
    free(s->generated);
    free(s->seen);
    free(s->cand);
    free(s->weight);
    free(s->peak);
    free(s);
}

void sampler_prompt(struct sampler *s, const int32_t *ids, int n) {
    ids_addn(&s->past, ids, (size_t)n);
}

/* -- bias and penalties ------------------------------------------------------------------------ */

static bool changes_logits(const struct sampling *s) {
    return s->n_bias > 0 || s->repeat_penalty != 1 || s->presence_penalty != 0 ||
           s->frequency_penalty != 0;
}

static void penalise(struct sampler *p, float *logits) {
    const struct sampling *s = &p->s;
    for (int i = 0; i < s->n_bias; i++)
        if (s->bias[i].id >= 0 && s->bias[i].id < p->vocab)
            logits[s->bias[i].id] += s->bias[i].bias;
    size_t n = p->past.n;
    size_t from =
        s->repeat_last_n >= 0 && (size_t)s->repeat_last_n < n ? n - (size_t)s->repeat_last_n : 0;
    if (s->repeat_penalty != 1) {
        for (size_t i = from; i < n; i++) {
            int32_t id = p->past.id[i];
            if (id < 0 || id >= p->vocab || p->seen[id])
                continue;
            p->seen[id] = 1;
            logits[id] =
                logits[id] > 0 ? logits[id] / s->repeat_penalty : logits[id] * s->repeat_penalty;
        }
        for (size_t i = from; i < n; i++)
            if (p->past.id[i] >= 0 && p->past.id[i] < p->vocab)
                p->seen[p->past.id[i]] = 0;
    }
    if (s->presence_penalty != 0 || s->frequency_penalty != 0)
        for (int id = 0; id < p->vocab; id++)
            if (p->generated[id])
                logits[id] -= s->presence_penalty + s->frequency_penalty * (float)p->generated[id];
}

/* Fills the peaks; the best id (lowest among equals), or -1 if any logit is NaN. */
static int32_t best(struct sampler *p) {
    int n = (p->vocab + PEAK_OF - 1) / PEAK_OF, top = 0;
    if (kern.peaks(p->peak, p->logit, p->vocab))
        return -1;
    for (int i = 1; i < n; i++)
        if (p->peak[i] > p->peak[top])
            top = i;
    int32_t at = top * PEAK_OF;
    while (p->logit[at] != p->peak[top])
        at++;
    return at;
}

/* -- the best candidates in order -------------------------------------------------------------- */

static bool better(struct cand a, struct cand b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(struct cand *h, int n, int i) {
    struct cand x = h[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(h[child + 1], h[child]))
            child++;
        if (!better(h[child], x))
            break;
        h[i] = h[child];
    }
    h[i] = x;
}

static void heap_make(struct cand *h, int n) {
    for (int i = n / 2 - 1; i >= 0; i--)
        sift_down(h, n, i);
}

/* Moves the best of h[0..n) to h[n-1] and restores the heap below it. */
static void heap_pop(struct cand *h, int n) {
    struct cand top = h[0];
    h[0] = h[n - 1];
    h[n - 1] = top;
    sift_down(h, n - 1, 0);
}

/* A heap of the k best so far, the worst of them on top. */
static void replace_worst(struct cand *h, int k, struct cand x) {
    int i = 0;
    for (int child; (child = 2 * i + 1) < k; i = child) {
        if (child + 1 < k && better(h[child], h[child + 1]))
            child++;
        if (!better(x, h[child]))
            break;
        h[i] = h[child];
    }
    h[i] = x;
}

/* k candidates that are worse than any. */
static void heap_blank(struct cand *h, int k) {
    for (int i = 0; i < k; i++)
        h[i] = (struct cand){INT32_MAX, -INFINITY};
}

/* Makes h[0..k) a heap of the k best peaks, and returns the worst of them: no logit below it is
 * among the k best.  -inf where there are fewer peaks. */
static float worst_peak(const struct sampler *p, struct cand *h, int k) {
    heap_blank(h, k);
    for (int i = 0; i * PEAK_OF < p->vocab; i++)
        if (p->peak[i] > h[0].logit)
            replace_worst(h, k, (struct cand){i, p->peak[i]});
    return h[0].logit;
}

/* The k best (k <= vocab / 2) to cand[vocab-1], [vocab-2], ..., which the heap at the front does
 * not reach. */
static void take_best(struct sampler *p, int k) {
    struct cand *h = p->cand;
    float floor = worst_peak(p, h, k);
    heap_blank(h, k);
    for (int b = 0; b * PEAK_OF < p->vocab; b++) {
        if (p->peak[b] < floor)
            continue;
        for (int i = b * PEAK_OF; i < (b + 1) * PEAK_OF && i < p->vocab; i++) {
            struct cand x = {i, p->logit[i]};
            if (x.logit >= floor && better(x, h[0]))
                replace_worst(h, k, x);
        }
    }
    for (int m = k; m > 0; m--) {
        struct cand worst = h[0];
        replace_worst(h, m - 1, h[m - 1]);
        p->cand[p->vocab - m] = worst;
    }
}

/* All candidates, as a heap whose top is the best. */
static void heap_all(struct sampler *p) {
    for (int i = 0; i < p->vocab; i++)
        p->cand[i] = (struct cand){i, p->logit[i]};
    heap_make(p->cand, p->vocab);
}

/* How many of the best candidates top_k and top_p keep; they end up at cand[vocab-1], [vocab-2],
 * ...  `top` is the best logit. */
static int select_best(struct sampler *p, float top) {
    int n = p->vocab, limit = p->s.top_k > 0 && p->s.top_k < n ? p->s.top_k : n, kept = 0;
    double total = 0;
    if (limit <= n / 2) {
        take_best(p, limit);
        kept = limit;
    } else {
        heap_all(p);
        for (; limit < n && kept < limit; kept++)
            heap_pop(p->cand, n - kept);
    }
    if (p->s.top_p < 1 && limit == n) /* over all candidates: no need to order them first */
        for (int i = 0; i < n; i++)
            total += exp((double)p->cand[i].logit - top);
    for (int i = 0; i < kept; i++)
        total += exp((double)p->cand[n - 1 - i].logit - top);
    if (p->s.top_p >= 1 && limit < n)
        return kept;
    double sum = 0;
    for (int i = 0; i < limit; i++) {
        if (i >= kept) {
            heap_pop(p->cand, n - i);
            kept = i + 1;
        }
        sum += exp((double)p->cand[n - 1 - i].logit - top);
        if (sum >= (double)p->s.top_p * total)
            return i + 1;
    }
    return limit;
}

/* Locally typical sampling (Meister et al., TACL 2023) among the `kept` candidates: the smallest
 * set that holds typical_p of their mass, those first whose surprise is nearest to the expected.
 * They end up at cand[vocab-1], [vocab-2], ...; returns how many. */
static int keep_typical(struct sampler *p, int kept, float top) {
    struct cand *h = p->cand + p->vocab - kept;
    double total = 0, entropy = 0, sum = 0;
    int n = 0;
    for (int i = 0; i < kept; i++)
        total += exp((double)h[i].logit - top);
    for (int i = 0; i < kept; i++) { /* e^-inf times -inf is not a number, but nothing */
        double x = (double)h[i].logit - top, share = exp(x) / total;
        entropy += share > 0 ? share * (log(total) - x) : 0;
    }
    for (int i = 0; i < kept; i++)
        h[i].logit = (float)-fabs(log(total) - ((double)h[i].logit - top) - entropy);
    heap_make(h, kept);
    while (n < kept && sum < (double)p->s.typical_p * total) {
        heap_pop(h, kept - n++);
        h[kept - n].logit = p->logit[h[kept - n].id];
        sum += exp((double)h[kept - n].logit - top);
    }
    return n;
}

/* Draws among the candidates; `top` is the best logit. */
static int32_t draw(struct sampler *p, float top) {
    const struct sampling *s = &p->s;
    int n = p->vocab, kept = n;
    if ((s->top_k > 0 && s->top_k < n) || s->top_p < 1)
        kept = select_best(p, top);
    else
        for (int i = 0; i < n; i++)
            p->cand[i] = (struct cand){i, p->logit[i]};
    if (s->typical_p > 0 && s->typical_p < 1)
        kept = keep_typical(p, kept, top);
    float floor = s->min_p > 0 ? top + logf(s->min_p) : -INFINITY;
    double sum = 0;
    for (int i = 0; i < kept; i++) { /* walk from the back, where select_best left the best */
        struct cand c = p->cand[n - 1 - i];
        p->weight[i] = c.logit >= floor ? expf((c.logit - top) / s->temp) : 0;
        sum += p->weight[i];
    }
    double at = rng_double(&p->rng) * sum;
    int32_t last = p->cand[n - 1].id;
    for (int i = 0; i < kept; i++) {
        if (p->weight[i] <= 0)
            continue;
        last = p->cand[n - 1 - i].id;
        at -= p->weight[i];
        if (at < 0)
            break;
    }
    return last;
}

static bool is_allowed(const uint32_t *allowed, int id) {
    return allowed[id / 32] >> (id % 32) & 1;
}

int32_t sampler_next_of(struct sampler *p, const float *logits, const uint32_t *allowed) {
    p->logit = logits;
    if (allowed || changes_logits(&p->s)) {
        p->logit = memcpy(p->weight, logits, (size_t)p->vocab * sizeof *logits);
        penalise(p, p->weight);
    }
    for (int id = 0; allowed && id < p->vocab; id++)
        if (!is_allowed(allowed, id))
            p->weight[id] = -INFINITY;
    int32_t id = best(p);
    if (id < 0)
        return -1;
    while (allowed && !is_allowed(allowed, id)) /* all that are allowed have a logit of -inf */
        id = (id + 1) % p->vocab;
    if (p->s.temp > 0 && isfinite(p->logit[id])) /* nothing to weigh beside an infinite logit */
        id = draw(p, p->logit[id]);
    ids_add(&p->past, id);
    p->generated[id]++;
    return id;
}

int32_t sampler_next(struct sampler *p, const float *raw) {
    return sampler_next_of(p, raw, NULL);
}

/* -- log-probabilities ------------------------------------------------------------------------- */

double log_sum_exp(const float *logits, int vocab, int *top) {
    double sum = 0;
    *top = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[*top])
            *top = i;
    for (int i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - logits[*top]);
    return log(sum) + logits[*top];
}

double logprobs(const float *logits, int vocab, int32_t id, struct logprob *top, int n) {
    int have = 0, best_id;
    double norm = log_sum_exp(logits, vocab, &best_id);
    for (int i = 0; i < vocab && n > 0; i++) { /* insertion into a short sorted list */
        float v = (float)(logits[i] - norm);
        if (have == n && v <= top[n - 1].logprob)
            continue;
        int at = have < n ? have++ : n - 1;
        for (; at > 0 && v > top[at - 1].logprob; at--)
            top[at] = top[at - 1];
        top[at] = (struct logprob){i, v};
    }
    return logits[id] - norm;
}
