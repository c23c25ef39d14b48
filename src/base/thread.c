/* thread.c - see thread.h. */
#include "base/thread.h"

void thread_mask(sigset_t *old) {
    static const int fault[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t mask;
    sigfillset(&mask);
    for (size_t i = 0; i < sizeof fault / sizeof fault[0]; i++)
        sigdelset(&mask, fault[i]);
    pthread_sigmask(SIG_SETMASK, &mask, old);
}

void thread_unmask(const sigset_t *old) {
    pthread_sigmask(SIG_SETMASK, old, NULL);
}

int thread_start(pthread_t *t, void *(*fn)(void *), void *arg) {
    sigset_t old;
    thread_mask(&old);
    int rc = pthread_create(t, NULL, fn, arg);
    thread_unmask(&old);
    return rc;
}
