/* pool.h - one pool of pinned threads.
 * pool_run cuts work into n shares by index alone, so what a share computes never depends on
 * timing; a thread that is done takes shares that nobody has begun.  pool_each lets threads take
 * over parts of begun shares as well. */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <stdint.h>

struct pool;

/* n_threads >= 1, the caller included; 0 = one per processor we may use.  Owned by the caller. */
struct pool *pool_new(int n_threads);
void pool_free(struct pool *p);
int pool_size(const struct pool *p);

/* Runs fn(arg, id, n) once for each share id = 0..n-1, no two of the same id at a time, and returns
 * when all are done.  The caller takes part.  Not reentrant.  Allocates nothing. */
void pool_run(struct pool *p, void (*fn)(void *arg, int id, int n), void *arg);

/* Calls fn(arg, lo, hi) for ranges that together are [0, total), each once, and returns when all
 * are done.  Each thread walks a share of its own from the front, some of the rest at a time; one
 * that is through takes from the back of the others' shares.  So a thread that is slowed down
 * holds up nobody for long, but what a call covers depends on timing: for work whose bits do
 * not.  As pool_run otherwise. */
void pool_each(struct pool *p, int total, void (*fn)(void *arg, int lo, int hi), void *arg);

/* From now on each pool_run and pool_each adds to *waited the nanoseconds that its caller, with
 * nothing left to take, waited for the other threads; NULL = no more.  Borrowed until then. */
void pool_watch(struct pool *p, int64_t *waited);

/* The half-open range [*lo, *hi) of `total` items for thread id of n, in multiples of `unit`
 * (the last may be shorter). */
void pool_split(int total, int unit, int id, int n, int *lo, int *hi);

#endif
