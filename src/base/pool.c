/* pool.c - see pool.h.
 * Workers spin on a generation counter for a short while, then sleep on a futex: a decode step
 * enters the pool a hundred times, so a wake-up through the kernel each time would cost more
 * than the work. */
#include "base/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

#define SPIN 20000 /* about 100 us: longer than the gap between two parallel regions of a step */

/* What is left of a share of pool_each: lo in the low half, hi in the high half. */
struct range {
    _Alignas(64) _Atomic uint64_t left;
};

struct pool {
    int n, spin; /* spin 0 with more threads than processors: spinners hold up those they await */
    pthread_t *thread;
    _Alignas(64) atomic_uint generation; /* + 1 for each pool_run; futex word */
    atomic_bool stop;
    _Alignas(64) atomic_int pending; /* shares of this generation not finished; futex word */
    _Alignas(64) atomic_int sleepers;
    atomic_uint *taken;           /* by share: the generation in which it was last begun */
    struct range *range;          /* by share */
    void (*fn)(void *, int, int); /* fn and arg are published by the release store to generation */
    void *arg;
    int64_t *waited; /* the caller's; NULL = nobody asks */
};

struct worker {
    struct pool *pool;
    int id, cpu;
};

static void futex(void *word, int op, unsigned value) {
    syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void relax(void) {
    __builtin_ia32_pause();
}

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set); /* pinning is for speed; a refusal is harmless */
}

static unsigned await_generation(struct pool *p, unsigned seen) {
    for (int i = 0; i < p->spin; i++) {
        unsigned now = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (now != seen)
            return now;
        relax();
    }
    atomic_fetch_add(&p->sleepers, 1);
    unsigned now;
    while ((now = atomic_load(&p->generation)) == seen)
        futex(&p->generation, FUTEX_WAIT, seen);
    atomic_fetch_sub(&p->sleepers, 1);
    return now;
}

/* Computes shares of generation now, its own first, until none is left to begin.  fn and arg may
 * be read only after a share was won: until that is finished, pool_run does not return and
 * change them. */
static void compute(struct pool *p, int id, unsigned now) {
    for (int k = 0; k < p->n; k++) {
        int share = (id + k) % p->n;
        unsigned before = now - 1;
        if (!atomic_compare_exchange_strong(&p->taken[share], &before, now))
            continue;
        p->fn(p->arg, share, p->n);
        if (atomic_fetch_sub_explicit(&p->pending, 1, memory_order_acq_rel) == 1 && id != 0)
            futex(&p->pending, FUTEX_WAKE, 1);
    }
}

static void *work(void *arg) {
    struct worker w = *(struct worker *)arg;
    free(arg);
    if (w.cpu >= 0)
        pin(w.cpu);
    unsigned seen = 0;
    for (;;) {
        seen = await_generation(w.pool, seen);
        if (atomic_load(&w.pool->stop))
            return NULL;
        compute(w.pool, w.id, seen);
    }
}

struct pool *pool_new(int n_threads) {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    int n_cpu = CPU_COUNT(&set), cpu = -1;
    if (n_threads < 1)
        n_threads = n_cpu > 0 ? n_cpu : 1;
    struct pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p)
        abort();
    *p = (struct pool){.n = n_threads, .spin = n_threads <= n_cpu ? SPIN : 0};
    p->thread = mem_array((size_t)n_threads, sizeof *p->thread);
    p->taken = mem_array((size_t)n_threads, sizeof *p->taken);
    p->range = aligned_alloc(64, (size_t)n_threads * sizeof *p->range);
    if (!p->range)
        abort();
    /* The caller keeps the first processor's share unpinned: a library must not move its host's
     * thread.  Workers go to the remaining processors, one each; with more threads than
     * processors none is pinned. */
    for (int id = 0; id < n_threads; id++) {
        do
            cpu = (cpu + 1) % CPU_SETSIZE;
        while (n_cpu > 0 && !CPU_ISSET(cpu, &set));
        if (id == 0)
            continue;
        struct worker *w = mem_new(sizeof *w);
        *w = (struct worker){p, id, n_threads <= n_cpu ? cpu : -1};
        if (thread_start(&p->thread[id], work, w) != 0) {
            free(w);
            p->n = id; /* the system gives no more threads: go on with those we have */
            break;
        }
    }
    return p;
}

void pool_free(struct pool *p) {
    if (!p)
        return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->generation, 1);
    futex(&p->generation, FUTEX_WAKE, (unsigned)p->n);
    for (int id = 1; id < p->n; id++)
        pthread_join(p->thread[id], NULL);
    free(p->thread);
    free(p->taken);
    free(p->range);
    free(p);
}

int pool_size(const struct pool *p) {
    return p->n;
}

static void await_others(struct pool *p) {
    for (int i = 0; i < p->spin; i++) {
        if (atomic_load_explicit(&p->pending, memory_order_acquire) == 0)
            return;
        relax();
    }
    int left;
    while ((left = atomic_load(&p->pending)) != 0)
        futex(&p->pending, FUTEX_WAIT, (unsigned)left);
}

void pool_run(struct pool *p, void (*fn)(void *arg, int id, int n), void *arg) {
    if (p->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->pending, p->n);
    /* sequentially consistent with the sleepers count below */
    unsigned now = atomic_fetch_add(&p->generation, 1) + 1;
    if (atomic_load(&p->sleepers) > 0)
        futex(&p->generation, FUTEX_WAKE, (unsigned)p->n);
    compute(p, 0, now);
    int64_t since = p->waited ? clock_ns() : 0;
    await_others(p);
    if (p->waited)
        *p->waited += clock_ns() - since;
}

struct each {
    struct pool *pool;
    void (*fn)(void *, int, int);
    void *arg;
};

/* A quarter of what is left of the share, from the front or the back; false = nothing is. */
static bool take(struct range *r, bool front, int *lo, int *hi) {
    uint64_t old = atomic_load_explicit(&r->left, memory_order_relaxed), now;
    do {
        uint32_t a = (uint32_t)old, b = (uint32_t)(old >> 32), n = (b - a) / 4;
        if (a >= b)
            return false;
        n = n ? n : 1;
        *lo = (int)(front ? a : b - n);
        *hi = (int)(front ? a + n : b);
        now = front ? (uint64_t)b << 32 | (a + n) : (uint64_t)(b - n) << 32 | a;
    } while (!atomic_compare_exchange_weak_explicit(&r->left, &old, now, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

static void each_share(void *arg, int id, int n) {
    struct each *e = arg;
    for (int k = 0, lo, hi; k < n; k++)
        while (take(&e->pool->range[(id + k) % n], k == 0, &lo, &hi))
            e->fn(e->arg, lo, hi);
}

void pool_each(struct pool *p, int total, void (*fn)(void *arg, int lo, int hi), void *arg) {
    if (total < 1)
        return;
    if (p->n == 1) {
        fn(arg, 0, total);
        return;
    }
    for (int id = 0; id < p->n; id++) {
        int lo, hi;
        pool_split(total, 1, id, p->n, &lo, &hi);
        atomic_store_explicit(&p->range[id].left, (uint64_t)(uint32_t)hi << 32 | (uint32_t)lo,
                              memory_order_relaxed); /* pool_run publishes it */
    }
    pool_run(p, each_share, &(struct each){p, fn, arg});
}

void pool_watch(struct pool *p, int64_t *waited) {
    p->waited = waited;
}

void pool_split(int total, int unit, int id, int n, int *lo, int *hi) {
    int units = (total + unit - 1) / unit;
    int a = (int)((long long)units * id / n), b = (int)((long long)units * (id + 1) / n);
    *lo = a * unit;
    *hi = b * unit < total ? b * unit : total;
    if (*lo > total)
        *lo = total;
}
