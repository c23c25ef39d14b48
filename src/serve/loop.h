/* loop.h - the engine on a thread of its own.
 *
 * Any thread submits and cancels tasks; nothing else of the engine is in reach.  What a task
 * generates gathers in its box until the owner takes it.  Each accepted task ends exactly once. */
#ifndef SERVE_LOOP_H
#define SERVE_LOOP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "engine/engine.h"
#include "serve/hist.h"

struct loop;

struct piece { /* one token */
    int32_t id; /* -1: only text that was held back */
    bool prompt; /* of the prompt: see struct token */
    int len;    /* bytes of its text in box.text */
    float logprob;
};
struct box { /* zeroed = empty */
    struct piece *piece;
    size_t n, cap;
    struct buf text;     /* of all pieces, one after another */
    struct logprob *top; /* (n, n_logprobs) */
    size_t top_cap;
    bool ended; /* nothing comes after this */
};
void box_free(struct box *b);

/* One sequence.  Zeroed and then filled by the owner, who keeps it until it has ended. */
struct task {
    struct req r; /* all that it points to is borrowed until the end; callbacks and ud are ours */
    /* Engine thread: there is something to take.  `ended` comes once, as the last call. */
    void (*wake)(void *ud, bool ended);
    void *ud;

    /* Valid once a taken box has said `ended`. */
    struct usage usage; /* usage.err is NULL: see err */
    struct err err;
    int64_t queue_us; /* between acceptance and the first look at the prompt */

    /* Any time: tokens of the prompt that were read, and of those that the cache had. */
    bool tell_progress; /* wakes at each change; set before it is submitted */
    atomic_int n_read, n_cached;

    /* Private to loop.c. */
    struct loop *loop;
    struct task *next, **link;
    pthread_mutex_t lock; /* protects box */
    struct box box;
    atomic_bool cancelled;
    atomic_int n_out;
    bool expired; /* waited longer than it may */
    int64_t submit_us, first_us, last_us;
};

struct loop_opts {
    int n_slot;
    int max_queue; /* tasks that may wait beyond those that run */
    int max_queue_ms; /* what has waited longer ends with E_BUSY; 0 = no limit */
};

/* Starts the thread.  e is borrowed until loop_close, and touched by nobody else in between. */
struct loop *loop_open(struct engine *e, const struct loop_opts *o, struct err *err);
void loop_drain(struct loop *l); /* from now on submit refuses with E_IO; what runs goes on */
bool loop_idle(struct loop *l);
/* Ends what still runs with FIN_CANCELLED and stops the thread; all tasks have ended then.  The
 * other functions stay harmless; submit refuses.  One thread calls this and loop_close. */
void loop_stop(struct loop *l);
void loop_close(struct loop *l); /* stops it if need be */

/* Accepts all n tasks or none.  E_BUSY: the queue is full.  E_IO: the loop drains. */
int loop_submit(struct loop *l, struct task *const *task, int n, struct err *err);
/* Ends a task soon with FIN_CANCELLED; no harm if it has ended.  Any thread that owns the task. */
void loop_cancel(struct loop *l, struct task *t);
/* Exchanges the task's box with *into, which must hold nothing (box_clear). */
void loop_take(struct task *t, struct box *into);
void box_clear(struct box *b); /* empty again, memory kept */
void task_release(struct task *t); /* after its end, or if it was never accepted */

/* A snapshot for /metrics, /slots and Retry-After. */
struct loop_stats {
    int running, waiting, n_slot;
    int64_t submitted, ended[4]; /* by enum finish */
    int64_t rejected_full, rejected_draining;
    int64_t rejected_late; /* waited too long: they count as accepted, and as ended by error */
    int64_t prompt_tokens, cached_tokens, out_tokens;
    struct engine_stats engine; /* at most 0.1 s old while it works */
    struct hist ttft, itl, e2e, queue, prefill; /* seconds */
};
void loop_stats(struct loop *l, struct loop_stats *out);
int loop_retry_after(struct loop *l); /* seconds until a place in the queue is likely, 1..60 */

struct loop_slot { /* a live task, without its text */
    int n_prompt, n_out;
    int64_t age_us;
    bool waiting;
};
int loop_slots(struct loop *l, struct loop_slot *out, int max);

#endif
