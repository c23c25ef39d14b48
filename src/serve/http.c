/* http.c - see http.h.
 *
 * Threads: libmicrohttpd's runs everything but three functions: http_wake (any thread), and left()
 * and tick() (the guard's thread).  What they share with it is under the exchange's lock.
 *
 * A connection without an answer is suspended: libmicrohttpd does not touch it then, so whoever
 * finds `suspended` set under the lock may resume it, and clears it in the same breath.
 *
 * Locks are taken in this order: the guard's, the exchange's, libmicrohttpd's own. */
#include "serve/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/thread.h"
#include "serve/framing.h"
#include "serve/guard.h"
#include "serve/listen.h"

enum { SWALLOW = 4 }; /* bodies up to this many times the limit are read and dropped */

struct http {
    struct http_opts o;
    struct MHD_Daemon *daemon;
    struct guard *guard;
    struct rng rng; /* of request ids */
    int fd, port;
    bool loopback;
    atomic_bool draining;
    atomic_int busy;
    struct http_stats stats;
};

struct exchange {
    struct http *http;
    struct MHD_Connection *conn; /* NULL once libmicrohttpd is done with it */
    int fd;
    char method[16], path[128], id[80];
    char origin[256]; /* that may read the answer; "" = none */
    struct buf body;
    size_t received;
    uint64_t tenant;
    const struct route *route;
    bool begun, dispatched, drop_body, close;

    bool replied, sent;
    int status;
    const char *type;
    struct buf reply;
    const void *constant; /* instead of reply */
    size_t constant_n;
    struct {
        const char *name;
        char value[256];
    } header[8];
    int n_header;

    const struct job_ops *ops;
    void *job;
    struct buf out; /* of a stream, out_at bytes of it given to libmicrohttpd */
    size_t out_at;
    bool streaming, finished, fresh; /* fresh: the job has something for it */

    atomic_int refs;      /* libmicrohttpd's, and those of http_hold */
    pthread_mutex_t lock; /* protects all below */
    bool suspended, news, left, ping;
    int64_t asked_us, gave_us; /* when libmicrohttpd last asked for data, and got some */
};

/* -- life of an exchange ----------------------------------------------------------------------- */

static void resume(struct exchange *x) { /* under x->lock */
    if (!x->suspended)
        return;
    x->suspended = false;
    MHD_resume_connection(x->conn);
}

void http_hold(struct exchange *x) {
    atomic_fetch_add(&x->refs, 1);
}

void http_drop(struct exchange *x) {
    if (atomic_fetch_sub(&x->refs, 1) != 1)
        return;
    if (x->ops)
        x->ops->release(x->job);
    pthread_mutex_destroy(&x->lock);
    buf_free(&x->body);
    buf_free(&x->reply);
    buf_free(&x->out);
    free(x);
}

void http_wake(struct exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->news = true;
    resume(x);
    pthread_mutex_unlock(&x->lock);
}

static void on_left(void *ud) {
    struct exchange *x = ud;
    pthread_mutex_lock(&x->lock);
    x->left = true;
    resume(x);
    pthread_mutex_unlock(&x->lock);
}

/* Sends pings into streams that have been silent, and gives up clients that do not read: they are
 * those whose connection is not ours, but libmicrohttpd's, for too long. */
static bool on_tick(void *ud, int64_t now) {
    struct exchange *x = ud;
    const struct http_opts *o = &x->http->o;
    bool keep = true;
    pthread_mutex_lock(&x->lock);
    bool pings = x->streaming && x->ops->pings && o->ping_ms;
    if (pings && x->suspended && now - x->gave_us > o->ping_ms * 1000LL) {
        x->ping = true;
        resume(x);
    } else if (x->streaming && !x->suspended) {
        keep = now - x->asked_us < o->write_ms * 1000LL;
    }
    pthread_mutex_unlock(&x->lock);
    return keep;
}

static int fd_of(struct MHD_Connection *c) {
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    return i ? i->connect_fd : -1;
}

/* The request line is in: an exchange begins, and the header is due. */
static void *on_uri(void *cls, const char *uri, struct MHD_Connection *c) {
    struct http *h = cls;
    struct exchange *x = mem_new(sizeof *x);
    (void)uri;
    x->http = h;
    x->conn = c;
    x->fd = fd_of(c);
    atomic_init(&x->refs, 1);
    pthread_mutex_init(&x->lock, NULL);
    atomic_fetch_add(&h->busy, 1);
    guard_state(h->guard, x->fd, CONN_HEAD, 0);
    return x;
}

static void on_completed(void *cls, struct MHD_Connection *c, void **ud,
                         enum MHD_RequestTerminationCode how) {
    struct http *h = cls;
    struct exchange *x = *ud;
    (void)c;
    if (!x)
        return;
    *ud = NULL;
    guard_state(h->guard, x->fd, CONN_IDLE, 0);
    bool whole = how == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    h->stats.left += x->dispatched && !whole;
    if (x->ops && x->ops->left && !whole)
        x->ops->left(x->job);
    atomic_fetch_sub(&h->busy, 1);
    http_drop(x);
}

static void on_connection(void *cls, struct MHD_Connection *c, void **ud,
                          enum MHD_ConnectionNotificationCode what) {
    struct http *h = cls;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        listen_tune(fd_of(c));
        guard_add(h->guard, fd_of(c));
        h->stats.connections++;
        *ud = h->stats.connections > h->o.max_connections ? h : NULL; /* one too many */
    } else {
        guard_remove(h->guard, fd_of(c));
        h->stats.connections--;
    }
}

/* -- what routes call -------------------------------------------------------------------------- */

const char *http_path(const struct exchange *x) {
    return x->path;
}

const char *http_body(const struct exchange *x, size_t *n) {
    *n = x->body.len;
    return x->body.len ? x->body.data : "";
}

const char *http_id(const struct exchange *x) {
    return x->id;
}

uint64_t http_tenant(const struct exchange *x) {
    return x->tenant;
}

bool http_draining(const struct exchange *x) {
    return atomic_load(&x->http->draining);
}

const struct http_stats *http_stats(struct exchange *x) {
    x->http->stats.busy = atomic_load(&x->http->busy);
    return &x->http->stats;
}

void http_header(struct exchange *x, const char *name, const char *value) {
    if (x->n_header == (int)(sizeof x->header / sizeof x->header[0]))
        return;
    x->header[x->n_header].name = name;
    snprintf(x->header[x->n_header++].value, sizeof x->header[0].value, "%s", value);
}

void http_reply(struct exchange *x, int status, const char *type, struct buf *body) {
    x->replied = true;
    x->status = status;
    x->type = type;
    buf_free(&x->reply);
    x->reply = *body;
    *body = (struct buf){0};
}

void http_reply_static(struct exchange *x, const char *type, const void *data, size_t n) {
    x->replied = true;
    x->status = 200;
    x->type = type;
    x->constant = data;
    x->constant_n = n;
}

void http_fault(struct exchange *x, const struct fault *f) {
    struct buf b = {0};
    char seconds[16];
    fault_json(f, &b);
    if (f->retry_after) {
        snprintf(seconds, sizeof seconds, "%d", f->retry_after);
        http_header(x, "Retry-After", seconds);
    }
    http_reply(x, f->status, "application/json", &b);
}

void http_job(struct exchange *x, const struct job_ops *ops, void *job) {
    x->ops = ops;
    x->job = job;
    http_wake(x); /* look once before sleeping */
}

/* -- answers out ------------------------------------------------------------------------------- */

/* Headers that every answer has. */
static void add_headers(struct exchange *x, struct MHD_Response *r, const char *type) {
    if (type)
        MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "X-Request-Id", x->id);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    if (x->origin[0]) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", x->origin);
        MHD_add_response_header(r, "Access-Control-Expose-Headers", "x-request-id");
        MHD_add_response_header(r, "Vary", "Origin");
    }
    for (int i = 0; i < x->n_header; i++)
        MHD_add_response_header(r, x->header[i].name, x->header[i].value);
    if (x->close || atomic_load(&x->http->draining))
        MHD_add_response_header(r, "Connection", "close");
}

static enum MHD_Result queue(struct exchange *x, int status, struct MHD_Response *r) {
    if (!r)
        return MHD_NO;
    enum MHD_Result ok = MHD_queue_response(x->conn, (unsigned)status, r);
    MHD_destroy_response(r);
    x->sent = true;
    x->http->stats.by_class[status / 100]++;
    return ok;
}

static enum MHD_Result send_reply(struct exchange *x) {
    size_t n = x->constant ? x->constant_n : x->reply.len;
    struct MHD_Response *r =
        x->constant
            ? MHD_create_response_from_buffer(n, (void *)x->constant, MHD_RESPMEM_PERSISTENT)
            : MHD_create_response_from_buffer(n, x->reply.data, MHD_RESPMEM_MUST_FREE);
    x->reply = (struct buf){0};
    if (r)
        add_headers(x, r, x->type);
    guard_state(x->http->guard, x->fd, CONN_WRITE, (int64_t)n);
    return queue(x, x->status, r);
}

/* Flags set by other threads since the last look. */
static void look(struct exchange *x, bool *news, bool *left, bool *ping) {
    pthread_mutex_lock(&x->lock);
    *news = x->news;
    *left = x->left;
    *ping = x->ping;
    x->news = x->ping = false;
    x->asked_us = clock_us();
    pthread_mutex_unlock(&x->lock);
}

/* Suspends the connection unless something has come up; true = it sleeps. */
static bool sleep_until_woken(struct exchange *x) {
    pthread_mutex_lock(&x->lock);
    bool nothing = !x->news && !x->left && !x->ping;
    if (nothing) {
        x->suspended = true;
        MHD_suspend_connection(x->conn);
    }
    pthread_mutex_unlock(&x->lock);
    return nothing;
}

static ssize_t give(struct exchange *x, char *to, size_t max) {
    size_t n = x->out.len - x->out_at;
    n = n < max ? n : max;
    memcpy(to, x->out.data + x->out_at, n);
    x->out_at += n;
    if (x->out_at == x->out.len)
        x->out.len = x->out_at = 0;
    pthread_mutex_lock(&x->lock);
    x->gave_us = clock_us();
    pthread_mutex_unlock(&x->lock);
    return (ssize_t)n;
}

/* libmicrohttpd asks for the next bytes of a stream. */
static ssize_t on_read(void *cls, uint64_t pos, char *to, size_t max) {
    struct exchange *x = cls;
    bool news, left, ping;
    (void)pos;
    do {
        look(x, &news, &left, &ping);
        if (left)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        x->fresh |= news;
        if (x->fresh && !x->out.len && !x->finished) { /* not ahead of what the client takes */
            x->fresh = false;
            x->finished = !x->ops->read(x->job, x, &x->out);
        }
        if (ping && !x->out.len && !x->finished)
            buf_adds(&x->out, ": ping\n\n");
        if (x->out.len)
            return give(x, to, max);
        if (x->finished)
            return MHD_CONTENT_READER_END_OF_STREAM;
    } while (!sleep_until_woken(x));
    return 0;
}

static enum MHD_Result start_stream(struct exchange *x) {
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, on_read, x, NULL);
    if (r) {
        add_headers(x, r, x->ops->type);
        MHD_add_response_header(r, "Cache-Control", "no-cache");
        MHD_add_response_header(r, "X-Accel-Buffering", "no");
    }
    pthread_mutex_lock(&x->lock);
    x->streaming = true;
    x->asked_us = x->gave_us = clock_us();
    pthread_mutex_unlock(&x->lock);
    return queue(x, 200, r);
}

/* -- requests in ------------------------------------------------------------------------------- */

/* *other: a method that the path does take, or NULL. */
static const struct route *find_route(const struct exchange *x, const char **other) {
    const char *method = strcmp(x->method, "HEAD") ? x->method : "GET";
    *other = NULL;
    for (const struct route *r = x->http->o.route; r->method; r++) {
        size_t n = strlen(r->path);
        bool prefix = r->path[n - 1] == '*';
        if (prefix ? strncmp(x->path, r->path, n - 1) : strcmp(x->path, r->path))
            continue;
        if (!strcmp(r->method, method))
            return r;
        *other = r->method;
    }
    return NULL;
}

static bool has_key(struct exchange *x, const struct request_head *head) {
    const struct keys *keys = x->http->o.keys;
    const char *bearer = head->authorization;
    if (!keys_count(keys))
        return true;
    if (bearer && !strncasecmp(bearer, "Bearer ", 7) && keys_match(keys, bearer + 7, &x->tenant))
        return true;
    return head->api_key && keys_match(keys, head->api_key, &x->tenant);
}

/* Host, Origin and key.  -1 with a fault for whoever may not ask. */
static int check_access(struct exchange *x, const struct request_head *head, struct fault *f) {
    struct http *h = x->http;
    if (h->loopback && head->host && !host_is_local(head->host)) {
        h->stats.refused_host++;
        return fault_set(f, 403, "host_not_allowed", NULL, "the Host header names another machine");
    }
    if (head->origin) {
        if (!origin_allowed(head->origin, head->host, h->o.cors))
            return fault_set(f, 403, "origin_not_allowed", NULL,
                             "pages of this origin may not ask here (--cors-origins)");
        snprintf(x->origin, sizeof x->origin, "%s", head->origin);
    }
    if (!strcmp(x->method, "OPTIONS"))
        return 0;
    const char *other;
    x->route = find_route(x, &other);
    if (!(x->route && x->route->open) && !has_key(x, head)) {
        h->stats.unauthorized++;
        return fault_set(f, 401, "invalid_api_key", NULL, "Invalid API Key");
    }
    if (x->route)
        return 0;
    if (!other)
        return fault_set(f, 404, "not_found", NULL, "there is nothing at this path");
    http_header(x, "Allow", other);
    return fault_set(f, 405, "method_not_allowed", NULL, "%s takes %s", x->path, other);
}

static int check_body(struct exchange *x, const struct request_head *head, struct fault *f) {
    if (head->length > (int64_t)x->http->o.max_body)
        return fault_set(f, 413, "body_too_large", NULL, "the body has more than %zu bytes",
                         x->http->o.max_body);
    if ((head->length > 0 || head->chunked) && !head->json && strncmp(x->path, "/api/", 5))
        return fault_set(f, 415, "unsupported_media_type", NULL,
                         "the body must be application/json");
    return 0;
}

/* Whether its connection came beyond the limit, and still is: those that were there first go on. */
static bool came_too_late(const struct exchange *x) {
    const struct http *h = x->http;
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(x->conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return i && i->socket_context && h->stats.connections > h->o.max_connections;
}

/* What a browser asks before it sends a request from another origin. */
static void preflight(struct exchange *x) {
    struct buf none = {0};
    http_header(x, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    http_header(x, "Access-Control-Allow-Headers",
                "authorization, content-type, x-api-key, x-request-id, x-stainless-lang, "
                "x-stainless-package-version, x-stainless-os, x-stainless-arch, "
                "x-stainless-runtime, x-stainless-runtime-version, x-stainless-retry-count, "
                "x-stainless-timeout");
    http_header(x, "Access-Control-Max-Age", "600");
    http_reply(x, 204, NULL, &none);
}

/* The header is in; true = the answer goes out now, whatever body may follow. */
static bool begin(struct exchange *x, const char *url, const char *method, const char *version) {
    struct http *h = x->http;
    struct request_head head;
    struct fault f = {0};
    snprintf(x->method, sizeof x->method, "%s", method);
    snprintf(x->path, sizeof x->path, "%s", strlen(url) < sizeof x->path ? url : "");
    bool broken = framing_read(x->conn, version, &head, &f) != 0;
    if (head.id)
        snprintf(x->id, sizeof x->id, "%s", head.id);
    else
        snprintf(x->id, sizeof x->id, "req-%016llx", (unsigned long long)rng_u64(&h->rng));
    if (!broken && came_too_late(x))
        broken =
            fault_set(&f, 503, "too_many_connections", NULL,
                      "the server holds %d connections and takes no more", h->o.max_connections);
    if (!broken && !check_access(x, &head, &f) && !check_body(x, &head, &f)) {
        if (!strcmp(x->method, "OPTIONS"))
            preflight(x);
        return false;
    }
    if (f.status == 503)
        f.retry_after = 1;
    http_fault(x, &f);
    x->drop_body = true;
    /* A client that has begun to send its body reads no answer before it is done with that: a
     * reset would overtake the answer.  So a body of bearable size is read and dropped. */
    bool swallow = head.length <= SWALLOW * (int64_t)h->o.max_body && !head.expects;
    x->close = broken || !swallow;
    return x->close;
}

static enum MHD_Result take_body(struct exchange *x, const char *data, size_t *n) {
    struct http *h = x->http;
    x->received += *n;
    if (x->received > SWALLOW * h->o.max_body)
        return MHD_NO;
    if (x->received > h->o.max_body && !x->drop_body) { /* chunked: nobody said how much it is */
        struct fault f = {0};
        fault_set(&f, 413, "body_too_large", NULL, "the body has more than %zu bytes",
                  h->o.max_body);
        http_fault(x, &f);
        x->drop_body = true;
        buf_free(&x->body);
    }
    if (!x->drop_body)
        buf_add(&x->body, data, *n);
    guard_state(h->guard, x->fd, CONN_BODY, (int64_t)x->received);
    *n = 0;
    return MHD_YES;
}

/* The request is whole: runs its route, or looks again after a wake. */
static enum MHD_Result answer(struct exchange *x) {
    bool news = true, left = false, ping;
    if (!x->dispatched && !x->replied) {
        x->dispatched = true;
        guard_run(x->http->guard, x->fd, &(struct watch){on_left, on_tick, x});
        x->route->run(x, x->http->o.app);
    }
    if (x->replied)
        return send_reply(x);
    if (x->ops->read)
        return start_stream(x);
    do {
        look(x, &news, &left, &ping);
        if (left)
            return MHD_NO;
        if (news && x->ops->step(x->job, x))
            return send_reply(x);
    } while (!sleep_until_woken(x));
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *n, void **ud) {
    struct exchange *x = *ud;
    (void)cls;
    (void)c;
    if (x->sent)
        return MHD_YES;
    if (!x->begun) {
        x->begun = true;
        if (begin(x, url, method, version))
            return send_reply(x);
        guard_state(x->http->guard, x->fd, CONN_BODY, 0);
        return MHD_YES;
    }
    return *n ? take_body(x, data, n) : answer(x);
}

/* -- open and close ---------------------------------------------------------------------------- */

struct http *http_open(const struct http_opts *o, struct err *err) {
    struct http *h = mem_new(sizeof *h);
    struct guard_opts g = {o->header_ms, o->body_ms, o->write_ms, o->idle_ms};
    h->o = *o;
    rng_seed(&h->rng, (uint64_t)clock_ns() ^ ((uint64_t)getpid() << 40));
    h->fd = listen_open(o->host, o->port, &h->port, &h->loopback, err);
    if (h->fd < 0)
        goto fail;
    if (!h->loopback && !keys_count(o->keys) && !o->no_auth) {
        err_set(err, E_USAGE,
                "--host %s can be reached from other machines: give --api-key or --api-key-file "
                "(or --insecure-no-auth)",
                o->host);
        goto fail;
    }
    if (!(h->guard = guard_open(&g, err)))
        goto fail;
    h->o.max_connections = listen_most(o->max_connections);
    if (h->o.max_connections < o->max_connections)
        log_info("the limit of open files allows %d connections, not %d", h->o.max_connections,
                 o->max_connections);
    sigset_t old;
    thread_mask(&old); /* libmicrohttpd starts a thread of its own */
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, NULL, NULL,
        on_request, h, MHD_OPTION_LISTEN_SOCKET, h->fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        h, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_URI_LOG_CALLBACK, on_uri, h,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)h->o.max_connections + LISTEN_SPARE, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_END);
    thread_unmask(&old);
    if (!h->daemon) {
        err_set(err, E_IO, "%s:%d: cannot start the HTTP server", o->host, h->port);
        goto fail;
    }
    h->fd = -1; /* libmicrohttpd's now */
    return h;
fail:
    http_close(h);
    return NULL;
}

int http_port(const struct http *h) {
    return h->port;
}

void http_drain(struct http *h) {
    atomic_store(&h->draining, true);
    h->fd = MHD_quiesce_daemon(h->daemon);
    if (h->fd >= 0)
        shutdown(h->fd, SHUT_RDWR); /* libmicrohttpd's thread may be at it still: closed later */
}

int http_busy(struct http *h) {
    return atomic_load(&h->busy);
}

void http_close(struct http *h) {
    if (!h)
        return;
    if (h->daemon)
        MHD_stop_daemon(h->daemon);
    guard_close(h->guard);
    if (h->fd >= 0)
        close(h->fd);
    free(h);
}
