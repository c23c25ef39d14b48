/* http.h - HTTP over libmicrohttpd: one request is an exchange, handled by a route.
 *
 * All of a route's functions run on libmicrohttpd's one thread.  A route answers at once with
 * http_reply, or leaves a job behind: then the connection sleeps until http_wake, which any thread
 * may call, and the job's functions are asked for the answer or for more of a stream. */
#ifndef SERVE_HTTP_H
#define SERVE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "serve/access.h"
#include "serve/fault.h"

struct http;
struct exchange;

struct route {
    const char *method, *path; /* a path that ends in '*' stands for all that begin so */
    bool open;                 /* needs no API key */
    void (*run)(struct exchange *x, void *app);
};

/* An answer that takes time.  Of step and read exactly one is set. */
struct job_ops {
    bool (*step)(void *job, struct exchange *x); /* true: it has called http_reply */
    /* Appends what is new to a stream; false: that was all of it. */
    bool (*read)(void *job, struct exchange *x, struct buf *out);
    const char *type; /* of the stream */
    bool pings;       /* it may have server-sent comments */
    void (*refuse)(struct exchange *x, const struct fault *f); /* instead of http_fault */
    void (*left)(void *job);    /* the client has gone; not after the end of the answer */
    void (*release)(void *job); /* nobody holds the exchange any more; any thread */
};

struct http_opts {
    const char *host, *cors; /* cors as origin_allowed takes it */
    int port;                /* 0 = any free one */
    struct keys *keys;       /* borrowed until http_close */
    bool no_auth;            /* a public address without keys is meant */
    int max_connections, header_ms, body_ms, write_ms, idle_ms, ping_ms;
    size_t max_body;
    const struct route *route; /* ends with a row without method; borrowed */
    void *app;
};
/* Listens and serves.  E_USAGE: a public address without keys.  E_IO: the address is in use. */
struct http *http_open(const struct http_opts *o, struct err *err);
int http_port(const struct http *h);
void http_drain(struct http *h); /* no new connections; answers close theirs */
int http_busy(struct http *h);   /* exchanges whose answer is not out */
void http_close(struct http *h); /* all jobs must have ended */

/* -- what a route has of its exchange: borrowed until it is released --------------------------- */

const char *http_path(const struct exchange *x);
const char *http_body(const struct exchange *x, size_t *n);
const char *http_id(const struct exchange *x); /* x-request-id, the client's or ours */
uint64_t http_tenant(const struct exchange *x); /* of the API key; 0 = no key was needed */
bool http_draining(const struct exchange *x);

/* Takes over body's memory and leaves it empty. */
void http_reply(struct exchange *x, int status, const char *type, struct buf *body);
void http_reply_static(struct exchange *x, const char *type, const void *data, size_t n);
void http_header(struct exchange *x, const char *name, const char *value); /* copied; at most 8 */
void http_fault(struct exchange *x, const struct fault *f); /* replies with its JSON */

void http_job(struct exchange *x, const struct job_ops *ops, void *job);
/* Any thread: the job has something new.  Between hold and drop the exchange stays valid. */
void http_wake(struct exchange *x);
void http_hold(struct exchange *x);
void http_drop(struct exchange *x);

struct http_stats { /* of libmicrohttpd's thread: read it in a route only */
    int connections, busy;
    int64_t by_class[6];   /* answers 1xx..5xx */
    int64_t left;          /* clients that left before their answer was out */
    int64_t unauthorized, refused_host;
};
const struct http_stats *http_stats(struct exchange *x);

#endif
