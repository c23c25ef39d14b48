/* guard.c - see guard.h.
 *
 * Hang-ups come from an epoll of our own that holds the same sockets as libmicrohttpd's, asked for
 * EPOLLRDHUP only.  An event names a descriptor, which may have been closed and given to another
 * connection meanwhile: what counts is poll() on it under the lock.  A client that half-closes
 * while its answer is made counts as gone, as with nginx.  One that does so before its request is
 * whole is cut off soon: libmicrohttpd misses an end that arrives together with data.
 *
 * A deadline is the client's, so it does not count, for BEHIND_MS at most, while the connection
 * waits for us: a server that has more to do than it can, or was stopped for a while, must not give
 * up those who did all they should. */
#include "serve/guard.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

enum { TICK_MS = 50, HUNG_MS = 1000, BEHIND_MS = 60000 };

struct conn {
    bool open, hung; /* hung: the client sends nothing more */
    enum conn_state state;
    int64_t since, due; /* clock_us: begin of the state, its deadline (0 = none) */
    struct watch watch;
};

struct guard {
    struct guard_opts o;
    pthread_t thread;
    int epoll;
    pthread_mutex_t lock; /* protects all below */
    struct conn *conn;    /* by descriptor */
    int n, n_open;
    bool stop;
};

static struct conn *conn_of(struct guard *g, int fd) {
    return fd >= 0 && fd < g->n && g->conn[fd].open ? &g->conn[fd] : NULL;
}

static bool has_left(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* Whether it is us that the connection waits for: what the client sent has not been read, or it has
 * taken all that was written. */
static bool behind(const struct conn *c, int fd) {
    bool writes = c->state == CONN_RUN || c->state == CONN_WRITE;
    int n = 0;
    if (ioctl(fd, writes ? SIOCOUTQ : FIONREAD, &n))
        return false;
    return writes ? n == 0 : n > 0;
}

/* Wakes libmicrohttpd if it waits for this socket, and whoever makes the answer. */
static void give_up(struct conn *c, int fd) {
    shutdown(fd, SHUT_RDWR);
    c->due = 0;
    if (c->state == CONN_RUN)
        c->watch.left(c->watch.ud);
}

static int64_t due(const struct guard *g, const struct conn *c, int64_t bytes) {
    int64_t ms = c->state == CONN_HEAD   ? g->o.header_ms
                 : c->state == CONN_IDLE ? g->o.idle_ms
                 : c->state == CONN_BODY ? g->o.body_ms + bytes * 1000 / 1024
                                         : g->o.write_ms + bytes * 1000 / 1024;
    if (c->hung && c->state != CONN_WRITE && ms > HUNG_MS)
        ms = HUNG_MS;
    return c->since + ms * 1000;
}

static void on_hang_up(struct guard *g, int fd) {
    struct conn *c = conn_of(g, fd);
    if (!c || !has_left(fd))
        return;
    c->hung = true;
    if (c->state == CONN_RUN)
        c->watch.left(c->watch.ud);
    else if (c->state != CONN_WRITE)
        c->due = clock_us() + HUNG_MS * 1000;
}

static void check_deadlines(struct guard *g, int64_t now) {
    for (int fd = 0; fd < g->n; fd++) {
        struct conn *c = conn_of(g, fd);
        if (!c)
            continue;
        bool late =
            (c->due && now > c->due) || (c->state == CONN_RUN && !c->watch.tick(c->watch.ud, now));
        bool spared = late && (!c->due || now < c->due + BEHIND_MS * 1000LL) && behind(c, fd);
        if (late && !spared)
            give_up(c, fd);
    }
}

static void *run(void *arg) {
    struct guard *g = arg;
    struct epoll_event ev[64];
    int64_t next = clock_us();
    for (bool stop = false; !stop;) {
        int n = epoll_wait(g->epoll, ev, 64, TICK_MS);
        int64_t now = clock_us();
        pthread_mutex_lock(&g->lock);
        for (int i = 0; i < n; i++)
            on_hang_up(g, ev[i].data.fd);
        if (now >= next) {
            check_deadlines(g, now);
            next = now + TICK_MS * 1000;
        }
        stop = g->stop;
        pthread_mutex_unlock(&g->lock);
    }
    return NULL;
}

struct guard *guard_open(const struct guard_opts *o, struct err *err) {
    struct guard *g = mem_new(sizeof *g);
    g->o = *o;
    pthread_mutex_init(&g->lock, NULL);
    int rc = (g->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0 ? errno : 0;
    if (!rc)
        rc = thread_start(&g->thread, run, g);
    if (rc) {
        err_set(err, E_IO, "cannot watch connections: %s", strerror(rc));
        if (g->epoll >= 0)
            close(g->epoll);
        free(g);
        return NULL;
    }
    return g;
}

void guard_close(struct guard *g) {
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    pthread_mutex_unlock(&g->lock);
    pthread_join(g->thread, NULL);
    close(g->epoll);
    pthread_mutex_destroy(&g->lock);
    free(g->conn);
    free(g);
}

/* One shot: armed anew for each request, and silent between them. */
static void arm(struct guard *g, int fd, int op) {
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.fd = fd};
    epoll_ctl(g->epoll, op, fd, &ev);
}

void guard_add(struct guard *g, int fd) {
    pthread_mutex_lock(&g->lock);
    if (fd >= g->n) {
        int n = fd + 64;
        g->conn = mem_resize(g->conn, (size_t)n, sizeof *g->conn);
        memset(g->conn + g->n, 0, (size_t)(n - g->n) * sizeof *g->conn);
        g->n = n;
    }
    struct conn *c = &g->conn[fd];
    *c = (struct conn){.open = true, .since = clock_us()};
    c->due = due(g, c, 0);
    arm(g, fd, EPOLL_CTL_ADD);
    g->n_open++;
    pthread_mutex_unlock(&g->lock);
}

void guard_remove(struct guard *g, int fd) {
    pthread_mutex_lock(&g->lock);
    struct conn *c = conn_of(g, fd);
    if (c) {
        c->open = false; /* close() takes the descriptor out of the epoll */
        g->n_open--;
    }
    pthread_mutex_unlock(&g->lock);
}

void guard_state(struct guard *g, int fd, enum conn_state s, int64_t bytes) {
    pthread_mutex_lock(&g->lock);
    struct conn *c = conn_of(g, fd);
    if (c) {
        /* A body's time counts from its first byte on: 1 KiB/s at least, after a grace. */
        if (s != CONN_BODY || c->state != CONN_BODY)
            c->since = clock_us();
        c->state = s;
        c->due = due(g, c, bytes);
    }
    pthread_mutex_unlock(&g->lock);
}

void guard_run(struct guard *g, int fd, const struct watch *w) {
    pthread_mutex_lock(&g->lock);
    struct conn *c = conn_of(g, fd);
    if (c) {
        c->state = CONN_RUN;
        c->due = 0;
        c->watch = *w;
        arm(g, fd, EPOLL_CTL_MOD);
    }
    pthread_mutex_unlock(&g->lock);
}

int guard_count(struct guard *g) {
    pthread_mutex_lock(&g->lock);
    int n = g->n_open;
    pthread_mutex_unlock(&g->lock);
    return n;
}
