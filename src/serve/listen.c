/* listen.c - see listen.h. */
#include "serve/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static bool is_loopback(const struct sockaddr *a) {
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static int port_of(int fd) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &n))
        return 0;
    return ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port
                                        : ((struct sockaddr_in6 *)&a)->sin6_port);
}

int listen_open(const char *host, int port, int *actual, bool *loopback, struct err *err) {
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *a = NULL;
    char service[16];
    int yes = 1;
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(host, service, &want, &a);
    if (rc)
        return err_set(err, E_USAGE, "--host %s: %s", host, gai_strerror(rc));
    *loopback = is_loopback(a->ai_addr);
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) ||
        bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 1024)) {
        err_set(err, errno == EADDRINUSE ? E_BUSY : E_IO, "cannot listen on %s port %d: %s", host,
                port, strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = -1;
    } else {
        *actual = port_of(fd);
    }
    freeaddrinfo(a);
    return fd;
}

void listen_tune(int fd) {
    /* Tokens go out one by one.  A small buffer, so that a client that does not read is noticed
     * and costs little. */
    int yes = 1, bytes = 128 << 10;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

int listen_most(int wanted) {
    enum { OTHERS = LISTEN_SPARE + 64 }; /* descriptors that are not connections */
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r))
        return wanted;
    rlim_t need = (rlim_t)wanted + OTHERS;
    if (r.rlim_cur < need) {
        r.rlim_cur = r.rlim_max < need ? r.rlim_max : need;
        setrlimit(RLIMIT_NOFILE, &r);
        getrlimit(RLIMIT_NOFILE, &r);
    }
    if (r.rlim_cur >= need)
        return wanted;
    return r.rlim_cur > OTHERS + 16 ? (int)(r.rlim_cur - OTHERS) : 16;
}
