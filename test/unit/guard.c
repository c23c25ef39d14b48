/* guard.c - claims about src/serve/guard.c: who is given up, and who is not, on real sockets. */
#include "testing.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/guard.h"

enum { PATIENCE_MS = 60000 };

struct pair { /* a TCP connection: what the guard watches, and the client's end */
    int ours, theirs;
};

static struct pair pair_new(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int small = 4096, l = socket(AF_INET, SOCK_STREAM, 0);
    struct pair p = {-1, socket(AF_INET, SOCK_STREAM, 0)};
    setsockopt(p.theirs, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    assert_int_equal(bind(l, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(l, 1), 0);
    assert_int_equal(getsockname(l, (struct sockaddr *)&a, &n), 0);
    assert_int_equal(connect(p.theirs, (struct sockaddr *)&a, n), 0);
    p.ours = accept4(l, NULL, NULL, SOCK_NONBLOCK);
    assert_true(p.ours >= 0);
    close(l);
    return p;
}

static void pair_close(struct guard *g, struct pair p) {
    guard_remove(g, p.ours);
    close(p.ours);
    close(p.theirs);
}

static struct guard *open_guard(void) {
    struct guard_opts o = {.header_ms = 100, .body_ms = 100, .write_ms = 100, .idle_ms = 100};
    struct err err = {0};
    struct guard *g = guard_open(&o, &err);
    if (!g)
        fail_msg("guard_open: %s", err.msg);
    return g;
}

static bool shut(const struct pair *p, int ms) {
    struct pollfd f = {p->ours, POLLRDHUP, 0};
    return poll(&f, 1, ms) > 0 && (f.revents & (POLLRDHUP | POLLHUP));
}

static void send_text(int fd) {
    assert_int_equal(send(fd, "GET", 3, MSG_NOSIGNAL), 3);
}

static void a_client_that_is_late_is_given_up_unless_we_have_not_read_it(void **state) {
    (void)state;
    static const enum conn_state due[] = {CONN_HEAD, CONN_BODY, CONN_IDLE};
    for (int i = 0; i < 3; i++) {
        struct guard *g = open_guard();
        struct pair ours = pair_new(), late = pair_new();
        struct pollfd there = {ours.ours, POLLIN, 0};
        send_text(ours.theirs);
        assert_int_equal(poll(&there, 1, PATIENCE_MS), 1);
        guard_add(g, ours.ours);
        guard_add(g, late.ours); /* its deadline is the later one */
        guard_state(g, ours.ours, due[i], 0);
        guard_state(g, late.ours, due[i], 0);
        assert_true(shut(&late, PATIENCE_MS));
        assert_false(shut(&ours, 0));
        char got[8];
        assert_int_equal(recv(ours.ours, got, sizeof got, 0), 3);
        assert_true(shut(&ours, PATIENCE_MS)); /* now it is the client that is late */
        pair_close(g, ours);
        pair_close(g, late);
        guard_close(g);
    }
}

static void on_left(void *ud) {
    atomic_fetch_add((atomic_int *)ud, 1);
}

static bool gives_up(void *ud, int64_t now) {
    (void)ud;
    (void)now;
    return false;
}

static void who_has_taken_all_is_not_given_up_and_who_reads_nothing_is(void **state) {
    (void)state;
    struct guard *g = open_guard();
    struct pair reads = pair_new(), deaf = pair_new();
    atomic_int left_reads = 0, left_deaf = 0;
    char text[4096] = {0};
    while (send(deaf.ours, text, sizeof text, MSG_NOSIGNAL) > 0)
        ;
    assert_int_equal(errno, EAGAIN);
    guard_add(g, reads.ours);
    guard_add(g, deaf.ours);
    guard_run(g, reads.ours, &(struct watch){on_left, gives_up, &left_reads});
    guard_run(g, deaf.ours, &(struct watch){on_left, gives_up, &left_deaf});
    for (int i = 0; i < 2; i++) { /* a second look at all came after the first */
        atomic_store(&left_deaf, 0);
        for (int ms = 0; !atomic_load(&left_deaf); ms++) {
            assert_true(ms < PATIENCE_MS);
            usleep(1000);
        }
    }
    assert_int_equal(atomic_load(&left_reads), 0);
    assert_false(shut(&reads, 0));
    pair_close(g, reads);
    pair_close(g, deaf);
    guard_close(g);
}

static void a_client_that_leaves_is_told_at_once(void **state) {
    (void)state;
    struct guard *g = open_guard();
    struct pair p = pair_new();
    atomic_int left = 0;
    guard_add(g, p.ours);
    guard_run(g, p.ours, &(struct watch){on_left, gives_up, &left});
    assert_int_equal(guard_count(g), 1);
    assert_int_equal(shutdown(p.theirs, SHUT_WR), 0);
    for (int ms = 0; !atomic_load(&left); ms++) {
        assert_true(ms < PATIENCE_MS);
        usleep(1000);
    }
    pair_close(g, p);
    assert_int_equal(guard_count(g), 0);
    guard_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_that_is_late_is_given_up_unless_we_have_not_read_it),
        cmocka_unit_test(who_has_taken_all_is_not_given_up_and_who_reads_nothing_is),
        cmocka_unit_test(a_client_that_leaves_is_told_at_once),
    };
    return cmocka_run_group_tests_name("guard", tests, NULL, NULL);
}
