/* thread.h - threads that leave signals to the thread that expects them.
 *
 * A signal sent to the process goes to any of its threads that does not block it.  Were it taken by
 * another thread than the one that waits for it, the handler would run and the waiter would sleep
 * on; so only the main thread takes signals, but for those of a thread's own faults. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>
#include <signal.h>

/* Blocks what threads started from here on must not take; *old restores by thread_unmask. */
void thread_mask(sigset_t *old);
void thread_unmask(const sigset_t *old);

/* pthread_create with default attributes under that mask; 0 or an error number. */
int thread_start(pthread_t *t, void *(*fn)(void *), void *arg);

#endif
