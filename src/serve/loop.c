/* loop.c - see loop.h.
 *
 * The thread sleeps until a task is in the inbox, then steps the engine until nothing is left,
 * emptying the inbox before each step.  Callbacks of the engine run on this thread: they append to
 * the task's box under the task's lock, and wake the owner with no lock held.
 *
 * Invariants: (1) only the thread calls engine_*; (2) a task is in `inbox`, in `live` or ended;
 * (3) after wake(ended) the loop never touches the task again; (4) accepted - ended <=
 * n_slot + max_queue.  Tested in test/unit/loop.c. */
#include "serve/loop.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

struct loop {
    struct engine *e;
    struct loop_opts o;
    pthread_t thread;
    int64_t published_us, expired_us; /* the thread's own: when it last did so */
    pthread_mutex_t lock;             /* protects all below */
    pthread_cond_t news;
    struct task *inbox, **inbox_tail;
    struct task *live; /* what the engine has, newest first */
    int n_live, n_inbox;
    bool cancels; /* a live task has its `cancelled` set */
    bool draining, closing;
    struct loop_stats stats;
};

/* -- boxes ------------------------------------------------------------------------------------- */

void box_free(struct box *b) {
    free(b->piece);
    free(b->top);
    buf_free(&b->text);
    *b = (struct box){0};
}

void box_clear(struct box *b) {
    b->n = 0;
    b->text.len = 0;
    b->ended = false;
}

static void box_add(struct box *b, const struct token *t, int n_top) {
    if (b->n == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 8;
        b->piece = mem_resize(b->piece, b->cap, sizeof *b->piece);
    }
    size_t top = (b->n + 1) * (size_t)n_top;
    if (top > b->top_cap) {
        b->top_cap = top * 2;
        b->top = mem_resize(b->top, b->top_cap, sizeof *b->top);
    }
    if (n_top && t->id >= 0)
        memcpy(b->top + b->n * (size_t)n_top, t->top, (size_t)n_top * sizeof *b->top);
    b->piece[b->n++] = (struct piece){t->id, t->prompt, (int)t->len, t->logprob};
    buf_add(&b->text, t->text, t->len);
}

void loop_take(struct task *t, struct box *into) {
    pthread_mutex_lock(&t->lock);
    struct box was = *into;
    *into = t->box;
    t->box = was;
    t->box.ended = into->ended;
    pthread_mutex_unlock(&t->lock);
}

void task_release(struct task *t) {
    if (t->loop)
        pthread_mutex_destroy(&t->lock);
    box_free(&t->box);
}

/* -- the engine's callbacks -------------------------------------------------------------------- */

static bool on_token(void *ud, const struct token *t) {
    struct task *k = ud;
    struct loop *l = k->loop;
    int64_t now = clock_us();
    bool made = t->id >= 0 && !t->prompt;
    pthread_mutex_lock(&l->lock);
    if (made) {
        l->stats.out_tokens++;
        if (k->first_us)
            hist_add(&l->stats.itl, (double)(now - k->last_us) / 1e6);
        else
            hist_add(&l->stats.ttft, (double)(now - k->submit_us) / 1e6);
    }
    pthread_mutex_unlock(&l->lock);
    if (made) {
        k->last_us = now;
        k->first_us = k->first_us ? k->first_us : now;
        atomic_fetch_add_explicit(&k->n_out, 1, memory_order_relaxed);
    }
    pthread_mutex_lock(&k->lock);
    box_add(&k->box, t, k->r.n_logprobs);
    pthread_mutex_unlock(&k->lock);
    k->wake(k->ud, false);
    return !atomic_load_explicit(&k->cancelled, memory_order_relaxed);
}

static void on_prompt(void *ud, int n_read, int n_cached) {
    struct task *k = ud;
    atomic_store_explicit(&k->n_cached, n_cached, memory_order_relaxed);
    atomic_store_explicit(&k->n_read, n_read, memory_order_release);
    if (k->tell_progress)
        k->wake(k->ud, false);
}

static void count_end(struct loop *l, const struct task *k, int64_t now) {
    const struct usage *u = &k->usage;
    l->stats.ended[u->why]++;
    if (!k->first_us && u->why != FIN_LENGTH) /* those that generate nothing end so */
        return;
    l->stats.prompt_tokens += u->n_prompt;
    l->stats.cached_tokens += u->n_cached;
    hist_add(&l->stats.e2e, (double)(now - k->submit_us) / 1e6);
    hist_add(&l->stats.queue, (double)k->queue_us / 1e6);
    hist_add(&l->stats.prefill, (double)u->prompt_us / 1e6);
}

/* Takes a task out of the live list and tells its owner. */
static void finish(struct task *k, const struct usage *u) {
    struct loop *l = k->loop;
    int64_t now = clock_us();
    k->usage = *u;
    if (u->err)
        k->err = *u->err;
    k->usage.err = NULL;
    bool late = k->expired && u->why == FIN_CANCELLED;
    if (late) {
        k->usage.why = FIN_ERROR;
        err_set(&k->err, E_BUSY, "it waited longer than %d ms for its turn", l->o.max_queue_ms);
    }
    k->queue_us = (u->started_at ? u->started_at : now) - k->submit_us;
    pthread_mutex_lock(&l->lock);
    *k->link = k->next;
    if (k->next)
        k->next->link = k->link;
    l->n_live--;
    l->stats.rejected_late += late;
    count_end(l, k, now);
    pthread_mutex_unlock(&l->lock);
    pthread_mutex_lock(&k->lock);
    k->box.ended = true;
    pthread_mutex_unlock(&k->lock);
    k->wake(k->ud, true);
}

static void on_done(void *ud, const struct usage *u) {
    finish(ud, u);
}

/* -- the thread -------------------------------------------------------------------------------- */

/* Gives the engine a task that is in the live list already. */
static void start(struct loop *l, struct task *k) {
    struct err err = {0};
    k->r.on_token = on_token;
    k->r.on_done = on_done;
    k->r.on_prompt = on_prompt;
    k->r.ud = k;
    if (engine_submit(l->e, &k->r, &err))
        finish(k, &(struct usage){.n_prompt = k->r.n, .why = FIN_ERROR, .err = &err});
}

/* Moves the inbox to the live list; returns the last of it, where a walk by `first` begins. */
static struct task *empty_inbox(struct loop *l) {
    struct task *first = l->inbox;
    l->inbox = NULL;
    l->inbox_tail = &l->inbox;
    l->n_live += l->n_inbox;
    l->n_inbox = 0;
    return first;
}

/* The engine asks the system for some of its figures: not at every step. */
static void publish(struct loop *l, bool busy) {
    enum { PUBLISH_US = 100000 };
    int64_t now = clock_us();
    if (busy && now - l->published_us < PUBLISH_US)
        return;
    l->published_us = now;
    struct engine_stats s;
    engine_stats(l->e, &s);
    pthread_mutex_lock(&l->lock);
    l->stats.engine = s;
    pthread_mutex_unlock(&l->lock);
}

/* Submits what arrived, in order of arrival, and passes cancellations on. */
static void take_news(struct loop *l, bool wait) {
    pthread_mutex_lock(&l->lock);
    while (wait && !l->inbox && !l->cancels && !l->closing)
        pthread_cond_wait(&l->news, &l->lock);
    struct task *arrived = empty_inbox(l);
    bool cancels = l->cancels || l->closing, all = l->closing;
    l->cancels = false;
    pthread_mutex_unlock(&l->lock);
    for (struct task *k = arrived, *next; k; k = next) {
        next = k->next;
        pthread_mutex_lock(&l->lock);
        k->next = l->live;
        k->link = &l->live;
        if (l->live)
            l->live->link = &k->next;
        l->live = k;
        pthread_mutex_unlock(&l->lock);
        start(l, k);
    }
    /* Only this thread changes the live list, so that it may walk it without the lock. */
    for (struct task *k = l->live; cancels && k; k = k->next)
        if (all || atomic_load(&k->cancelled))
            engine_cancel(l->e, k);
}

/* Ends what has waited too long for the first look at its prompt. */
static void expire(struct loop *l) {
    enum { EXPIRE_US = 10000 };
    int64_t now = clock_us();
    if (!l->o.max_queue_ms || now - l->expired_us < EXPIRE_US)
        return;
    l->expired_us = now;
    for (struct task *k = l->live; k; k = k->next) {
        bool begun = atomic_load_explicit(&k->n_read, memory_order_relaxed) ||
                     atomic_load_explicit(&k->n_out, memory_order_relaxed);
        if (k->expired || begun || now - k->submit_us < l->o.max_queue_ms * 1000LL)
            continue;
        k->expired = true;
        engine_cancel(l->e, k);
    }
}

static void *run(void *arg) {
    struct loop *l = arg;
    bool busy = false, closing = false;
    while (!closing || busy) {
        take_news(l, !busy);
        expire(l);
        busy = engine_step(l->e);
        publish(l, busy);
        pthread_mutex_lock(&l->lock);
        closing = l->closing && !l->inbox;
        pthread_mutex_unlock(&l->lock);
    }
    return NULL;
}

/* -- what other threads call ------------------------------------------------------------------- */

struct loop *loop_open(struct engine *e, const struct loop_opts *o, struct err *err) {
    struct loop *l = mem_new(sizeof *l);
    l->e = e;
    l->o = *o;
    l->inbox_tail = &l->inbox;
    l->stats.n_slot = o->n_slot;
    l->stats.ttft = l->stats.e2e = l->stats.queue = l->stats.prefill = hist_wide();
    l->stats.itl = hist_fine();
    engine_stats(e, &l->stats.engine);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->news, NULL);
    int rc = thread_start(&l->thread, run, l);
    if (rc) {
        err_set(err, E_MEMORY, "cannot start the engine's thread: %s", strerror(rc));
        free(l);
        return NULL;
    }
    return l;
}

void loop_drain(struct loop *l) {
    pthread_mutex_lock(&l->lock);
    l->draining = true;
    pthread_mutex_unlock(&l->lock);
}

bool loop_idle(struct loop *l) {
    pthread_mutex_lock(&l->lock);
    bool idle = !l->n_live && !l->n_inbox;
    pthread_mutex_unlock(&l->lock);
    return idle;
}

void loop_stop(struct loop *l) {
    pthread_mutex_lock(&l->lock);
    bool running = !l->closing;
    l->draining = l->closing = true;
    pthread_cond_signal(&l->news);
    pthread_mutex_unlock(&l->lock);
    if (running)
        pthread_join(l->thread, NULL);
}

void loop_close(struct loop *l) {
    if (!l)
        return;
    loop_stop(l);
    pthread_cond_destroy(&l->news);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* Whether n more tasks may come; counts refusals. */
static int admit(struct loop *l, int n, struct err *err) {
    if (l->draining) {
        l->stats.rejected_draining += n;
        return err_set(err, E_IO, "the server is stopping");
    }
    if (l->n_live + l->n_inbox + n > l->o.n_slot + l->o.max_queue) {
        l->stats.rejected_full += n;
        return err_set(err, E_BUSY, "%d sequences run or wait; no room for %d more",
                       l->n_live + l->n_inbox, n);
    }
    return 0;
}

int loop_submit(struct loop *l, struct task *const *task, int n, struct err *err) {
    int64_t now = clock_us();
    pthread_mutex_lock(&l->lock);
    int rc = admit(l, n, err);
    for (int i = 0; i < n && !rc; i++) {
        struct task *k = task[i];
        k->loop = l;
        k->submit_us = now;
        k->next = NULL;
        pthread_mutex_init(&k->lock, NULL);
        *l->inbox_tail = k;
        l->inbox_tail = &k->next;
    }
    if (!rc) {
        l->n_inbox += n;
        l->stats.submitted += n;
        pthread_cond_signal(&l->news);
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

void loop_cancel(struct loop *l, struct task *t) {
    pthread_mutex_lock(&l->lock);
    atomic_store(&t->cancelled, true);
    l->cancels = true;
    pthread_cond_signal(&l->news);
    pthread_mutex_unlock(&l->lock);
}

void loop_stats(struct loop *l, struct loop_stats *out) {
    pthread_mutex_lock(&l->lock);
    int n = l->n_live + l->n_inbox;
    *out = l->stats;
    out->running = n < l->o.n_slot ? n : l->o.n_slot;
    out->waiting = n - out->running;
    pthread_mutex_unlock(&l->lock);
}

int loop_retry_after(struct loop *l) {
    struct loop_stats s;
    loop_stats(l, &s);
    double wait = hist_mean(&s.e2e) * (1 + s.waiting / (double)s.n_slot);
    return wait < 1 ? 1 : wait > 60 ? 60 : (int)wait;
}

static void describe(struct loop_slot *s, const struct task *k, int64_t now) {
    int n_out = atomic_load_explicit((atomic_int *)&k->n_out, memory_order_relaxed);
    *s = (struct loop_slot){
        .n_prompt = k->r.n, .n_out = n_out, .age_us = now - k->submit_us, .waiting = n_out == 0};
}

int loop_slots(struct loop *l, struct loop_slot *out, int max) {
    int64_t now = clock_us();
    int n = 0;
    pthread_mutex_lock(&l->lock);
    for (const struct task *k = l->live; k && n < max; k = k->next)
        describe(&out[n++], k, now);
    for (const struct task *k = l->inbox; k && n < max; k = k->next)
        describe(&out[n++], k, now);
    pthread_mutex_unlock(&l->lock);
    return n;
}
