/* probe.c - see probe.h. Reading: one pass over 512 MiB in huge pages, each thread its own half.
 * Arithmetic: the probe kernels, which keep independent sums in registers. */
#include "cmd/probe.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "num/kern.h"

#define PROBE_BYTES ((size_t)512 << 20)
#define PROBE_RUNS 9
#define BARRIERS 1001

struct probe {
    char *data;
    uint64_t sum[64]; /* per thread: keeps the reads from being optimised away */
};

struct probe *probe_new(struct err *err) {
    char *data = mem_pages(PROBE_BYTES, "bandwidth probe", err);
    if (!data)
        return NULL;
    memset(data, 1, PROBE_BYTES); /* untouched pages would all map to the zero page */
    struct probe *p = mem_new(sizeof *p);
    p->data = data;
    return p;
}

void probe_free(struct probe *p) {
    if (!p)
        return;
    mem_pages_free(p->data, PROBE_BYTES);
    free(p);
}

static void read_share(void *arg, int id, int n) {
    struct probe *p = arg;
    size_t share = PROBE_BYTES / (size_t)n / 64 * 64;
    p->sum[id % 64] += kern.probe_read(p->data + share * (size_t)id, share);
}

double probe_read_rate(struct probe *p, struct pool *pool) {
    int64_t t0 = clock_us();
    pool_run(pool, read_share, p);
    int64_t us = clock_us() - t0;
    return (double)PROBE_BYTES / (double)(us > 0 ? us : 1) * 1e6;
}

struct burn {
    double (*kernel)(long iters);
    long iters;
    double ops[64];
};

static void burn_share(void *arg, int id, int n) {
    (void)n;
    struct burn *b = arg;
    b->ops[id % 64] = b->kernel(b->iters);
}

/* Operations per second of one kernel on all threads, over about 10 ms. */
static double burn_rate(double (*kernel)(long), struct pool *pool) {
    struct burn b = {.kernel = kernel, .iters = 1000};
    for (;;) {
        memset(b.ops, 0, sizeof b.ops);
        int64_t t0 = clock_us();
        pool_run(pool, burn_share, &b);
        int64_t us = clock_us() - t0;
        double ops = 0;
        for (int i = 0; i < 64; i++)
            ops += b.ops[i];
        if (ops == 0)
            return 0;
        if (us >= 10000)
            return ops / (double)us * 1e6;
        b.iters *= us < 1000 ? 10 : 2;
    }
}

struct meeting {
    atomic_int here;
};

/* Waits until every thread has come, so that none is left out of the round. */
static void meet(void *arg, int id, int n) {
    struct meeting *m = arg;
    (void)id;
    atomic_fetch_add(&m->here, 1);
    while (atomic_load_explicit(&m->here, memory_order_relaxed) < n)
        __builtin_ia32_pause();
}

/* Median over rounds for at most about 50 ms. */
static double barrier_time(struct pool *pool) {
    double took[BARRIERS];
    int64_t begin = clock_ns();
    int n = 0;
    while (n < BARRIERS && (n == 0 || clock_ns() - begin < 50000000)) {
        struct meeting m = {0};
        int64_t t0 = clock_ns();
        pool_run(pool, meet, &m);
        took[n++] = (double)(clock_ns() - t0) / 1e9;
    }
    return median(took, n);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

struct limits probe_limits(struct probe *p, struct pool *pool) {
    double read[PROBE_RUNS], f32[PROBE_RUNS], bf16[PROBE_RUNS], i8[PROBE_RUNS];
    for (int i = 0; i < PROBE_RUNS;
         i++) { /* interleaved: a noisy moment touches one sample of each */
        read[i] = probe_read_rate(p, pool);
        f32[i] = burn_rate(kern.probe_f32, pool);
        bf16[i] = burn_rate(kern.probe_bf16, pool);
        i8[i] = burn_rate(kern.probe_i8, pool);
    }
    return (struct limits){median(read, PROBE_RUNS), median(f32, PROBE_RUNS),
                           median(bf16, PROBE_RUNS), median(i8, PROBE_RUNS), barrier_time(pool)};
}

double probe_ops_rate(struct pool *pool, enum dtype weights) {
    double rate = 0;
    if (weights != DT_F32 && weights != DT_F16) {
        if (weights != DT_BF16)
            rate = burn_rate(kern.probe_i8, pool);
        if (rate == 0)
            rate = burn_rate(kern.probe_bf16, pool);
    }
    return rate > 0 ? rate : burn_rate(kern.probe_f32, pool);
}
