/* vattention_ahead.c - see vattention_ahead.h.
 *
 * The thread goes through the pool once, in order, as the allocator hands out the lowest group
 * first.  It never writes to memory: whose group that is does not matter.  Where the system can, it
 * makes huge pages of what it fetched (MADV_COLLAPSE needs no privilege, and later mappings of that
 * slice use them). */
#include "method/vattention_ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "base/thread.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE ((size_t)2 << 20)

struct ahead {
    int fd, pool, n;
    size_t group;
    atomic_uchar *warm; /* (pool) */
    atomic_int n_warm, n_huge;
    bool threaded;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int want;  /* under lock: groups below this shall be warm */
    bool stop; /* under lock */
};

bool ahead_fetch(int fd, void *p, off_t at, size_t bytes) {
    if (madvise(p, bytes, MADV_POPULATE_WRITE) == 0)
        return true;
    return errno == EINVAL && fallocate(fd, 0, at, (off_t)bytes) == 0; /* Linux before 5.14 */
}

static void set_warm(struct ahead *a, int id) {
    if (!atomic_exchange(&a->warm[id], 1))
        atomic_fetch_add(&a->n_warm, 1);
}

bool ahead_warm(const struct ahead *a, int id, int n) {
    while (n > 0 && atomic_load(&a->warm[id + n - 1]))
        n--;
    return n == 0;
}

void ahead_note(struct ahead *a, int id, int n) {
    while (n-- > 0)
        set_warm(a, id + n);
}

/* Fetches one group through a mapping of the thread's own; false = no more. */
static bool fetch_group(struct ahead *a, char *room, int id) {
    off_t at = (off_t)((size_t)id * a->group);
    if (atomic_load(&a->warm[id]) && a->group % HUGE)
        return true;
    if (mmap(room, a->group, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, a->fd, at) ==
        MAP_FAILED)
        return false;
    madvise(room, a->group, MADV_DONTFORK); /* it stays after the group is in use: as all of them */
    madvise(room, a->group, MADV_DONTDUMP);
    if (!ahead_fetch(a->fd, room, at, a->group))
        return false;
    if (a->group % HUGE == 0 && madvise(room, a->group, MADV_COLLAPSE) == 0)
        atomic_fetch_add(&a->n_huge, 1);
    set_warm(a, id);
    return true;
}

static void *work(void *arg) {
    struct ahead *a = arg;
    size_t bytes = (a->group + HUGE - 1) / HUGE * HUGE + HUGE;
    char *room = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *start = (char *)(((uintptr_t)room + HUGE - 1) / HUGE * HUGE);
    int id = 0;
    if (room == MAP_FAILED)
        return NULL;
    pthread_mutex_lock(&a->lock);
    while (!a->stop && id < a->pool) {
        if (id >= a->want) {
            pthread_cond_wait(&a->wake, &a->lock);
            continue;
        }
        pthread_mutex_unlock(&a->lock);
        bool more = fetch_group(a, start, id++);
        pthread_mutex_lock(&a->lock);
        if (!more) /* the pool is larger than memory: whoever needs a group will be told */
            break;
    }
    pthread_mutex_unlock(&a->lock);
    munmap(room, bytes);
    return NULL;
}

struct ahead *ahead_open(int fd, size_t group, int pool, int n) {
    struct ahead *a = mem_new(sizeof *a);
    *a = (struct ahead){.fd = fd, .pool = pool, .n = n, .group = group, .want = n};
    a->warm = mem_array((size_t)pool, sizeof *a->warm);
    if (!n)
        return a;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->wake, NULL);
    a->threaded = thread_start(&a->thread, work, a) == 0;
    return a;
}

void ahead_close(struct ahead *a) {
    if (!a)
        return;
    if (a->threaded) {
        pthread_mutex_lock(&a->lock);
        a->stop = true;
        pthread_cond_signal(&a->wake);
        pthread_mutex_unlock(&a->lock);
        pthread_join(a->thread, NULL);
    }
    if (a->n) {
        pthread_mutex_destroy(&a->lock);
        pthread_cond_destroy(&a->wake);
    }
    free(a->warm);
    free(a);
}

void ahead_used(struct ahead *a, int top) {
    if (!a->threaded)
        return;
    pthread_mutex_lock(&a->lock);
    if (top + a->n > a->want) {
        a->want = top + a->n;
        pthread_cond_signal(&a->wake);
    }
    pthread_mutex_unlock(&a->lock);
}

void ahead_counts(const struct ahead *a, int *warm, int *huge) {
    *warm = atomic_load(&a->n_warm);
    *huge = atomic_load(&a->n_huge);
}
