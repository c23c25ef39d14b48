/* base.c - the claims of src/base: errors, memory, buffers, map, random numbers, JSON, progress,
 * log.
 * Files, threads and options have their own programs: files.c, pool.c, opt.c. */
#include "testing.h"

#include <fcntl.h>
#include <math.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/rng.h"

/* Runs fn in a child whose standard error is `to`, or a pipe if to < 0, and returns its wait
 * status; text receives what it wrote to the pipe. */
static int in_child(void (*fn)(void), int to, char *text, size_t cap) {
    int p[2];
    assert_int_equal(pipe(p), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        dup2(to < 0 ? p[1] : to, STDERR_FILENO);
        fn();
        _exit(0);
    }
    close(p[1]);
    size_t len = 0;
    ssize_t n;
    while (len + 1 < cap && (n = read(p[0], text + len, cap - len - 1)) > 0)
        len += (size_t)n;
    text[len] = 0;
    close(p[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* -- err --------------------------------------------------------------------------------------- */

static void the_first_error_wins(void **state) {
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set(&e, E_FORMAT, "%s: field %d", "a.json", 7), -1);
    assert_int_equal(err_set(&e, E_IO, "later"), -1);
    assert_int_equal(e.code, E_FORMAT);
    assert_string_equal(e.msg, "a.json: field 7");
    assert_int_equal(err_set(NULL, E_IO, "nobody listens"), -1);
}

static void unprintable_bytes_of_names_are_masked(void **state) {
    (void)state;
    struct err e = {0};
    err_set(&e, E_FORMAT, "tensor '%s'", "\x1b[31mred\n\x7f\xc3\xa9~");
    assert_string_equal(e.msg, "tensor '?[31mred????~'");
}

static void a_long_message_is_cut_not_overrun(void **state) {
    (void)state;
    struct err e = {0};
    char name[2000];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    err_set(&e, E_FORMAT, "%s", name);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    assert_int_equal(e.code, E_FORMAT);
}

/* -- mem --------------------------------------------------------------------------------------- */

static void size_mul_refuses_to_wrap(void **state) {
    (void)state;
    size_t r = 99;
    assert_false(size_mul(SIZE_MAX, 2, &r));
    assert_false(size_mul((size_t)1 << 32, (size_t)1 << 32, &r));
    assert_false(size_mul(SIZE_MAX / 3 + 1, 3, &r));
    assert_int_equal(r, 99);
    assert_true(size_mul(SIZE_MAX / 3, 3, &r) && r == SIZE_MAX / 3 * 3);
    assert_true(size_mul(SIZE_MAX, 1, &r) && r == SIZE_MAX);
    assert_true(size_mul(SIZE_MAX, 0, &r) && r == 0);
    assert_true(size_mul(0, 0, &r) && r == 0);
}

static void size_add_refuses_to_wrap(void **state) {
    (void)state;
    size_t r = 99;
    assert_false(size_add(SIZE_MAX, 1, &r));
    assert_false(size_add(SIZE_MAX / 2 + 1, SIZE_MAX / 2 + 1, &r));
    assert_int_equal(r, 99);
    assert_true(size_add(SIZE_MAX - 1, 1, &r) && r == SIZE_MAX);
    assert_true(size_add(SIZE_MAX, 0, &r) && r == SIZE_MAX);
}

static void small_allocations_are_zeroed_and_never_null(void **state) {
    (void)state;
    for (size_t n = 0; n < 300; n += 7) {
        unsigned char *p = mem_array(n, 3);
        assert_non_null(p);
        for (size_t i = 0; i < 3 * n; i++)
            assert_int_equal(p[i], 0);
        p = mem_resize(p, 0, 8);
        assert_non_null(p);
        free(p);
    }
    char *s = mem_strdup("pumice");
    assert_string_equal(s, "pumice");
    free(s);
    void *empty = mem_dup(NULL, 0);
    assert_non_null(empty);
    free(empty);
}

static void ask_for_too_much(void) {
    mem_array(SIZE_MAX / 2, 3);
}

static void resize_to_too_much(void) {
    mem_resize(NULL, SIZE_MAX, SIZE_MAX);
}

static void an_impossible_small_allocation_exits_with_5(void **state) {
    (void)state;
    void (*fn[])(void) = {ask_for_too_much, resize_to_too_much};
    for (int i = 0; i < 2; i++) {
        char text[4096];
        int status = in_child(fn[i], -1, text, sizeof text);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), E_MEMORY);
        assert_non_null(strstr(text, "out of memory"));
    }
}

static long address_space_kib(void) {
    char line[128];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) && sscanf(line, "VmSize: %ld kB", &kib) != 1)
        ;
    fclose(f);
    return kib;
}

static void pages_are_aligned_zeroed_and_given_back(void **state) {
    (void)state;
    const size_t size[] = {0, 1, 4095, 4096, 4097, ((size_t)2 << 20) - 1, (size_t)2 << 20, 5000000};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        struct err e = {0};
        unsigned char *p = mem_pages(size[i], "test", &e);
        assert_ok(p ? 0 : -1, e);
        assert_int_equal((uintptr_t)p % 4096, 0);
        if (size[i] >= (size_t)2 << 20)
            assert_int_equal((uintptr_t)p % ((size_t)2 << 20), 0);
        for (size_t at = 0; at < size[i]; at += 997)
            assert_int_equal(p[at], 0);
        if (size[i])
            p[size[i] - 1] = 1; /* the last byte is ours */
        mem_pages_free(p, size[i]);
    }
    mem_pages_free(NULL, 4096);
    /* What was mapped only to find the alignment is given back, and so is the block. */
    for (int i = 0; i < 2; i++) {
        size_t bytes = i ? (size_t)5 << 20 : 4096;
        mem_pages_free(mem_pages(bytes, "test", NULL), bytes);
        long before = address_space_kib();
        for (int k = 0; k < 20; k++)
            mem_pages_free(mem_pages(bytes, "test", NULL), bytes);
        assert_int_equal(address_space_kib(), before);
    }
}

static void pages_beyond_reason_are_an_error_with_a_name(void **state) {
    (void)state;
    const size_t size[] = {(size_t)1 << 60, SIZE_MAX / 2, SIZE_MAX / 2 + 1, SIZE_MAX - 4096,
                           SIZE_MAX};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        struct err e = {0};
        assert_null(mem_pages(size[i], "KV cache", &e));
        assert_int_equal(e.code, E_MEMORY);
        assert_non_null(strstr(e.msg, "KV cache"));
    }
}

static void allocate_in_guard(void) {
    mem_guard_enter();
    mem_new(1);
}

static void grow_in_guard(void) {
    struct buf b = {0};
    mem_guard_enter();
    mem_guard_enter();
    mem_guard_leave(); /* the outer guard still holds */
    buf_adds(&b, "x");
}

static void the_guard_aborts_on_allocation(void **state) {
    (void)state;
    void (*fn[])(void) = {allocate_in_guard, grow_in_guard};
    for (int i = 0; i < 2; i++) {
        char text[4096];
        int status = in_child(fn[i], -1, text, sizeof text);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGABRT);
        assert_non_null(strstr(text, "allocation inside the forward pass"));
    }
    mem_guard_enter();
    mem_guard_leave();
    free(mem_new(1));
}

static void resident_memory_grows_with_what_is_touched(void **state) {
    (void)state;
    size_t bytes = (size_t)64 << 20, before = mem_resident();
    char *p = mem_pages(bytes, "test", NULL);
    assert_non_null(p);
    memset(p, 1, bytes);
    size_t after = mem_resident();
    assert_true(before > 0 && after >= before + bytes / 8 * 7);
    assert_true(mem_available() > 0);
    mem_pages_free(p, bytes);
}

static void put_file(const char *root, const char *name, const char *text) {
    char path[512], cmd[600];
    snprintf(path, sizeof path, "%s/%s", root, name);
    snprintf(cmd, sizeof cmd, "mkdir -p \"$(dirname '%s')\"", path);
    assert_int_equal(system(cmd), 0);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* Both versions, a limit of an ancestor, files that can be given up, a container's root. */
static void limits_of_control_groups_are_known(void **state) {
    (void)state;
    char root[] = "/tmp/pumice-cgroup-XXXXXX", list[64], cmd[64];
    assert_non_null(mkdtemp(root));
    snprintf(list, sizeof list, "%s/list", root);
    put_file(root, "list", "12:cpu:/a\n0::/a/b\n");
    assert_true(mem_group_room(list, root) == SIZE_MAX);
    assert_true(mem_group_room("/nonexistent", root) == SIZE_MAX);
    put_file(root, "a/b/memory.max", "max\n");
    put_file(root, "a/b/memory.current", "5000\n");
    assert_true(mem_group_room(list, root) == SIZE_MAX);
    put_file(root, "a/memory.max", "100000\n");
    put_file(root, "a/memory.current", "30000\n");
    assert_int_equal(mem_group_room(list, root), 70000);
    put_file(root, "a/memory.stat", "anon 7\ninactive_file_x 9\ninactive_file 10000\n");
    assert_int_equal(mem_group_room(list, root), 80000);
    put_file(root, "a/b/memory.max", "6000\n");
    assert_int_equal(mem_group_room(list, root), 1000);
    put_file(root, "a/b/memory.current", "7000\n");
    assert_int_equal(mem_group_room(list, root), 0);
    put_file(root, "list", "4:memory:/of/the/host\n");
    put_file(root, "memory/memory.limit_in_bytes", "9223372036854771712\n");
    put_file(root, "memory/memory.usage_in_bytes", "1000\n");
    assert_true(mem_group_room(list, root) == SIZE_MAX);
    put_file(root, "memory/memory.limit_in_bytes", "50000\n");
    put_file(root, "memory/memory.stat", "inactive_file 1\ntotal_inactive_file 400\n");
    assert_int_equal(mem_group_room(list, root), 49400);
    snprintf(cmd, sizeof cmd, "rm -r %s", root);
    assert_int_equal(system(cmd), 0);
}

/* -- buf --------------------------------------------------------------------------------------- */

static void a_buf_holds_what_was_appended(void **state) {
    (void)state;
    FOR_SEEDS(20) {
        struct rng r;
        rng_seed(&r, seed);
        struct buf b = {0};
        char *want = malloc(100000), piece[64];
        size_t n = 0;
        for (int i = 0; i < 1000; i++) {
            int len = 0;
            if (rng_below(&r, 2)) {
                len = snprintf(piece, sizeof piece, "%d:%x,", i, rng_below(&r, 1u << 31));
                buf_printf(&b, "%s", piece);
            } else {
                for (len = 0; len < (int)rng_below(&r, sizeof piece); len++)
                    piece[len] = (char)rng_below(&r, 256);
                buf_add(&b, piece, (size_t)len);
            }
            memcpy(want + n, piece, (size_t)len);
            n += (size_t)len;
            assert_int_equal(b.len, n);
            assert_int_equal(buf_str(&b)[n], 0);
        }
        assert_memory_equal(b.data, want, n);
        buf_free(&b);
        assert_null(b.data);
        buf_addc(&b, 'x'); /* usable again */
        assert_string_equal(buf_str(&b), "x");
        buf_free(&b);
        free(want);
    }
}

static void n_appends_cost_few_allocations(void **state) {
    (void)state;
    struct buf b = {0};
    struct ids v = {0};
    int moved = 0;
    for (int i = 0; i < 1000000; i++) {
        size_t cap = b.cap + v.cap;
        buf_addc(&b, 'x');
        ids_add(&v, i);
        moved += b.cap + v.cap != cap;
    }
    assert_true(moved < 60);
    ids_addn(&v, (int32_t[]){-1, -2}, 2);
    assert_int_equal(v.n, 1000002);
    assert_int_equal(v.id[999999], 999999);
    assert_int_equal(v.id[1000001], -2);
    buf_free(&b);
    ids_free(&v);
    assert_null(v.id);
}

/* -- map --------------------------------------------------------------------------------------- */

static void map_equals_a_naive_map(void **state) {
    (void)state;
    enum { KEYS = 600 };
    FOR_SEEDS(30) {
        struct rng r;
        rng_seed(&r, seed);
        struct map *m = map_new(rng_below(&r, 100));
        char key[KEYS][8];
        size_t len[KEYS];
        int32_t value[KEYS];
        int n = 0;
        for (int i = 0; i < 2 * KEYS && n < KEYS; i++) {
            /* short keys of few letters: many repeats, the empty key and NUL bytes among them */
            size_t l = rng_below(&r, 6);
            char k[8];
            for (size_t j = 0; j < l; j++)
                k[j] = (char)rng_below(&r, 4);
            int at = 0;
            while (at < n && !(len[at] == l && memcmp(key[at], k, l) == 0))
                at++;
            int32_t new = (int32_t)rng_below(&r, 1u << 31);
            assert_int_equal(map_get(m, k, l), at < n ? value[at] : -1);
            if (at == n) {
                memcpy(key[n], k, l);
                len[n] = l;
                value[n++] = new;
            }
            assert_int_equal(map_put(m, key[at], l, new), value[at]);
            assert_int_equal(map_count(m), (size_t)n);
        }
        for (int i = 0; i < n; i++)
            assert_int_equal(map_get(m, key[i], len[i]), value[i]);
        map_free(m);
    }
    map_free(NULL);
}

static void a_large_map_finds_every_key(void **state) {
    (void)state;
    enum { N = 200000 };
    int32_t *key = mem_array(N, sizeof *key);
    struct map *m = map_new(0);
    for (int32_t i = 0; i < N; i++) {
        key[i] = i * 7919;
        assert_int_equal(map_put(m, &key[i], sizeof *key, i), i);
    }
    for (int32_t i = 0; i < N; i++) {
        int32_t absent = -1 - i;
        assert_int_equal(map_get(m, &key[i], sizeof *key), i);
        assert_int_equal(map_get(m, &absent, sizeof absent), -1);
    }
    map_free(m);
    free(key);
}

/* -- rng --------------------------------------------------------------------------------------- */

static void random_numbers_follow_the_published_generator(void **state) {
    (void)state;
    /* Published values: xoshiro256** from state 1, 2, 3, 4, and splitmix64 from 0. */
    struct rng r = {{1, 2, 3, 4}};
    const uint64_t want[] = {11520, 0, 1509978240, 1215971899390074240u};
    for (int i = 0; i < 4; i++)
        assert_true(rng_u64(&r) == want[i]);
    rng_seed(&r, 0);
    assert_true(r.s[0] == 0xe220a8397b1dcdafu && r.s[1] == 0x6e789e6aa1b965f4u);
}

static void random_distributions_have_their_moments(void **state) {
    (void)state;
    enum { N = 200000 };
    struct rng r;
    rng_seed(&r, 1);
    double sum = 0, square = 0, uniform = 0;
    int count[7] = {0};
    for (int i = 0; i < N; i++) {
        double u = rng_double(&r), g = (double)rng_normal(&r);
        uint32_t k = rng_below(&r, 7);
        assert_true(u >= 0 && u < 1 && isfinite(g) && k < 7);
        uniform += u;
        sum += g;
        square += g * g;
        count[k]++;
    }
    /* Five standard deviations each. */
    assert_true(fabs(uniform / N - 0.5) < 5 * 0.2887 / sqrt(N));
    assert_true(fabs(sum / N) < 5 / sqrt(N));
    assert_true(fabs(square / N - 1) < 5 * sqrt(2.0 / N));
    for (int k = 0; k < 7; k++)
        assert_true(abs(count[k] - N / 7) < 5 * sqrt(N / 7.0));
}

/* -- json -------------------------------------------------------------------------------------- */

/* The message of parsing text, which must fail with E_FORMAT. */
static const char *rejected(const char *text, size_t n) {
    static struct err e;
    e = (struct err){0};
    json_t *j = json_parse("x.json", text, n, &e);
    if (j)
        fail_msg("accepted: %.60s", text);
    assert_int_equal(e.code, E_FORMAT);
    assert_memory_equal(e.msg, "x.json: ", 8);
    return e.msg;
}

static void malformed_json_is_rejected_with_its_place(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "[1]",
        "3",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1}x",
        "{\"a\":\"\xff\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":NaN}",
        "{\"a\":01}",
        "{\"a\":1e999}",
        "{\"a\":99999999999999999999}",
        "{'a':1}",
        "{\"a\":1,}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        rejected(bad[i], strlen(bad[i]));
    assert_non_null(strstr(rejected("{\"abc\": !}", 10), "byte"));
    rejected("{}\0", 3);

    struct buf deep = {0};
    buf_adds(&deep, "{\"a\":");
    for (int i = 0; i < 100000; i++)
        buf_addc(&deep, '[');
    rejected(deep.data, deep.len);
    buf_free(&deep);
}

static void json_getters_return_what_is_there(void **state) {
    (void)state;
    const char *text = "{\"i\":-5,\"r\":2.5,\"b\":true,\"s\":\"t\\u0000u\",\"n\":null}";
    struct err e = {0};
    json_t *j = json_parse("x.json", text, strlen(text), &e);
    assert_ok(j ? 0 : -1, e);
    int64_t i = 1;
    double r = 1;
    bool b = false;
    const char *s = NULL;
    assert_ok(json_get_int(j, "x.json", "i", -5, -5, &i, &e), e);
    assert_ok(json_get_real(j, "x.json", "r", 0, 3, &r, &e), e);
    assert_ok(json_get_bool(j, "x.json", "b", &b, &e), e);
    assert_ok(json_get_str(j, "x.json", "s", &s, &e), e);
    assert_true(i == -5 && r == 2.5 && b && s[0] == 't');
    assert_ok(json_get_real(j, "x.json", "i", -10, 0, &r, &e), e); /* an integer is a number */
    assert_true(r == -5);
    /* Absent and null keep the default. */
    for (int k = 0; k < 2; k++) {
        const char *key = k ? "n" : "absent";
        assert_ok(json_get_int(j, "x.json", key, 0, 0, &i, &e), e);
        assert_ok(json_get_real(j, "x.json", key, 0, 0, &r, &e), e);
        assert_ok(json_get_bool(j, "x.json", key, &b, &e), e);
        assert_ok(json_get_str(j, "x.json", key, &s, &e), e);
        assert_true(i == -5 && r == -5 && b && s[0] == 't');
    }
    json_decref(j);
}

static void json_getters_name_file_field_and_reason(void **state) {
    (void)state;
    const char *text = "{\"heads\":1.5,\"layers\":99,\"eps\":\"x\",\"theta\":-1,"
                       "\"tied\":0,\"arch\":[]}";
    struct err e[6] = {{0}};
    json_t *j = json_parse("c.json", text, strlen(text), &e[0]);
    assert_ok(j ? 0 : -1, e[0]);
    int64_t i = 7;
    double r = 7;
    bool b = true;
    const char *s = "kept";
    assert_int_equal(json_get_int(j, "c.json", "heads", 1, 64, &i, &e[0]), -1);
    assert_int_equal(json_get_int(j, "c.json", "layers", 1, 64, &i, &e[1]), -1);
    assert_int_equal(json_get_real(j, "c.json", "eps", 0, 1, &r, &e[2]), -1);
    assert_int_equal(json_get_real(j, "c.json", "theta", 0, 1, &r, &e[3]), -1);
    assert_int_equal(json_get_bool(j, "c.json", "tied", &b, &e[4]), -1);
    assert_int_equal(json_get_str(j, "c.json", "arch", &s, &e[5]), -1);
    assert_string_equal(e[0].msg, "c.json: heads must be an integer");
    assert_string_equal(e[1].msg, "c.json: layers is 99, not in 1..64");
    assert_string_equal(e[2].msg, "c.json: eps must be a number");
    assert_string_equal(e[3].msg, "c.json: theta is -1, not in 0..1");
    assert_string_equal(e[4].msg, "c.json: tied must be true or false");
    assert_string_equal(e[5].msg, "c.json: arch must be a string");
    for (int k = 0; k < 6; k++)
        assert_int_equal(e[k].code, E_FORMAT);
    assert_true(i == 7 && r == 7 && b && !strcmp(s, "kept"));
    json_decref(j);
}

/* -- progress and log -------------------------------------------------------------------------- */

static void show_progress(void) {
    struct progress p = progress_start("reading", 200);
    p.start_us -= 3000000; /* as if three seconds had gone by */
    progress_update(&p, 50);
    progress_end(&p);
}

static void show_early_progress(void) {
    struct progress p = progress_start("reading", 200);
    progress_update(&p, 50);
    progress_end(&p);
}

static void progress_is_silent_without_a_terminal(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(in_child(show_progress, -1, text, sizeof text), 0);
    assert_string_equal(text, "");
}

static void progress_on_a_terminal_shows_and_wipes_a_line_after_two_seconds(void **state) {
    (void)state;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
        printf("  skipped: no pseudo-terminal here\n");
        skip();
    }
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(slave >= 0);
    char text[4096];
    assert_int_equal(in_child(show_early_progress, slave, text, sizeof text), 0);
    assert_int_equal(in_child(show_progress, slave, text, sizeof text), 0);
    ssize_t n = read(master, text, sizeof text - 1);
    assert_true(n > 0);
    text[n] = 0;
    /* 50 of 200 in 3 s leaves 9 s; one line only, so the early call wrote nothing. */
    assert_string_equal(text, "\r\033[Kreading  25%  9 s left\r\033[K");
    close(slave);
    close(master);
}

static void write_logs(void) {
    log_info("one %d", 1);
    log_quiet(true);
    log_info("two");
    log_warn("three");
}

static void quiet_drops_information_but_not_warnings(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(in_child(write_logs, -1, text, sizeof text), 0);
    assert_string_equal(text, "pumice: one 1\npumice: warning: three\n");
}

static void the_clock_never_goes_back(void **state) {
    (void)state;
    int64_t last = clock_us();
    for (int i = 0; i < 100000; i++) {
        int64_t now = clock_us();
        assert_true(now >= last);
        last = now;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_error_wins),
        cmocka_unit_test(unprintable_bytes_of_names_are_masked),
        cmocka_unit_test(a_long_message_is_cut_not_overrun),
        cmocka_unit_test(size_mul_refuses_to_wrap),
        cmocka_unit_test(size_add_refuses_to_wrap),
        cmocka_unit_test(small_allocations_are_zeroed_and_never_null),
        cmocka_unit_test(an_impossible_small_allocation_exits_with_5),
        cmocka_unit_test(pages_are_aligned_zeroed_and_given_back),
        cmocka_unit_test(pages_beyond_reason_are_an_error_with_a_name),
        cmocka_unit_test(the_guard_aborts_on_allocation),
        cmocka_unit_test(resident_memory_grows_with_what_is_touched),
        cmocka_unit_test(limits_of_control_groups_are_known),
        cmocka_unit_test(a_buf_holds_what_was_appended),
        cmocka_unit_test(n_appends_cost_few_allocations),
        cmocka_unit_test(map_equals_a_naive_map),
        cmocka_unit_test(a_large_map_finds_every_key),
        cmocka_unit_test(random_numbers_follow_the_published_generator),
        cmocka_unit_test(random_distributions_have_their_moments),
        cmocka_unit_test(malformed_json_is_rejected_with_its_place),
        cmocka_unit_test(json_getters_return_what_is_there),
        cmocka_unit_test(json_getters_name_file_field_and_reason),
        cmocka_unit_test(progress_is_silent_without_a_terminal),
        cmocka_unit_test(progress_on_a_terminal_shows_and_wipes_a_line_after_two_seconds),
        cmocka_unit_test(quiet_drops_information_but_not_warnings),
        cmocka_unit_test(the_clock_never_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
