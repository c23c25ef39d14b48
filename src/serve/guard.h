/* guard.h - watches connections for what libmicrohttpd does not: absolute deadlines for header,
 * body and answer, and clients that leave while nothing is read from or written to them.
 *
 * One thread.  A connection is known from its acceptance to its close; whoever serves it says what
 * state it is in.  Past a deadline the socket is shut down, which libmicrohttpd then sees. */
#ifndef SERVE_GUARD_H
#define SERVE_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct guard;

enum conn_state {
    CONN_HEAD,  /* the request line has come, or the connection is new: the header is due */
    CONN_BODY,  /* the body is due, the later the more of it has come */
    CONN_RUN,   /* an answer is made or streamed: watched for a client that leaves */
    CONN_WRITE, /* a whole answer is under way, due by its length */
    CONN_IDLE,  /* between two requests: the next request line is due */
};

struct guard_opts {
    int header_ms, body_ms, write_ms, idle_ms; /* body and write: plus a second for each KiB */
};

/* Called on the guard's thread while the connection is in CONN_RUN. */
struct watch {
    void (*left)(void *ud);              /* the client has closed, or half closed */
    bool (*tick)(void *ud, int64_t now); /* some times a second; false = give the client up */
    void *ud;
};

struct guard *guard_open(const struct guard_opts *o, struct err *err);
void guard_close(struct guard *g);
void guard_add(struct guard *g, int fd);    /* a new connection, in CONN_HEAD */
void guard_remove(struct guard *g, int fd); /* before fd is closed */
/* bytes: received so far (CONN_BODY) or to be sent (CONN_WRITE).  When it returns, no callback of
 * an earlier guard_run is running or will. */
void guard_state(struct guard *g, int fd, enum conn_state s, int64_t bytes);
void guard_run(struct guard *g, int fd, const struct watch *w); /* CONN_RUN */
int guard_count(struct guard *g);                               /* connections open */

#endif
