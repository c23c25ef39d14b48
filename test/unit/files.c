/* files.c - the claims of base/file.h: bounded reads, and writes that leave the old or the new file
 * whatever happens: a full disk, a file size limit, kill -9.
 *
 * Faults run in a child process, so that limits, mounts and deaths stay there. */
#include "testing.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

static char dir[] = "/tmp/pumice-files-XXXXXX";

static int enter_dir(void **state) {
    (void)state;
    return mkdtemp(dir) && chdir(dir) == 0 ? 0 : -1;
}

static int leave_dir(void **state) {
    (void)state;
    return chdir("/") == 0 && rmdir(dir) == 0 ? 0 : -1; /* fails if a test left a file behind */
}

static void put(const char *path, const char *text) {
    struct err e = {0};
    assert_ok(file_write(path, text, strlen(text), &e), e);
}

static void assert_content(const char *path, const char *want) {
    struct err e = {0};
    struct buf b = {0};
    assert_ok(file_read(path, 1 << 20, &b, &e), e);
    assert_string_equal(buf_str(&b), want);
    buf_free(&b);
}

/* Number of files here whose name starts with `prefix`. */
static int count_files(const char *prefix) {
    char cmd[200], line[64] = "";
    snprintf(cmd, sizeof cmd, "ls -A | grep -c '^%s'", prefix);
    FILE *f = popen(cmd, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    pclose(f);
    return atoi(line);
}

/* Exit status of fn in a child. */
static int in_child(int (*fn)(void)) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(fn());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* -- reading ----------------------------------------------------------------------------------- */

static void reading_appends_the_whole_file(void **state) {
    (void)state;
    struct err e = {0};
    struct buf b = {0};
    put("a", "second");
    buf_adds(&b, "first ");
    assert_ok(file_read("a", 6, &b, &e), e);
    assert_string_equal(buf_str(&b), "first second");
    buf_free(&b);

    struct file f;
    assert_ok(file_open(&f, "a", &e), e);
    assert_int_equal(f.size, 6);
    assert_memory_equal(f.data, "second", 6);
    file_close(&f);
    assert_null(f.data);
    file_close(&f);
    unlink("a");
}

static void a_file_beyond_the_limit_is_refused_before_it_is_read(void **state) {
    (void)state;
    struct err e = {0};
    struct buf b = {0};
    put("a", "12345");
    assert_int_equal(file_read("a", 4, &b, &e), -1);
    assert_int_equal(e.code, E_FORMAT);
    assert_string_equal(e.msg, "a: larger than the limit of 4 bytes");
    /* A terabyte of hole: the answer must come from its size. */
    assert_int_equal(truncate("a", (off_t)1 << 40), 0);
    e = (struct err){0};
    assert_int_equal(file_read("a", 1 << 20, &b, &e), -1);
    assert_int_equal(e.code, E_FORMAT);
    assert_null(b.data);
    unlink("a");
}

static void an_empty_file_is_not_an_error(void **state) {
    (void)state;
    struct err e = {0};
    struct buf b = {0};
    struct file f;
    put("a", "");
    assert_ok(file_read("a", 0, &b, &e), e);
    assert_int_equal(b.len, 0);
    assert_ok(file_open(&f, "a", &e), e);
    assert_true(f.data == NULL && f.size == 0);
    file_close(&f);
    buf_free(&b);
    unlink("a");
}

static void what_is_no_file_is_named_and_never_blocks(void **state) {
    (void)state;
    assert_int_equal(mkfifo("pipe", 0600), 0);
    assert_int_equal(symlink("loop", "loop"), 0);
    static const char *const bad[] = {"absent", ".", "pipe", "/dev/zero", "loop"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e[2] = {{0}};
        struct buf b = {0};
        struct file f;
        alarm(10); /* opening a pipe without a writer would wait for ever */
        assert_int_equal(file_read(bad[i], 1000, &b, &e[0]), -1);
        assert_int_equal(file_open(&f, bad[i], &e[1]), -1);
        alarm(0);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(e[k].code, E_IO);
            assert_memory_equal(e[k].msg, bad[i], strlen(bad[i]));
        }
        buf_free(&b);
    }
    assert_false(file_exists("absent"));
    assert_true(file_exists("pipe"));
    assert_true(file_is_dir("."));
    assert_false(file_is_dir("pipe"));
    unlink("pipe");
    unlink("loop");
}

static void paths_join_with_one_slash(void **state) {
    (void)state;
    static const char *const t[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char *p = path_join(t[i][0], t[i][1]);
        assert_string_equal(p, t[i][2]);
        free(p);
    }
}

/* -- writing ----------------------------------------------------------------------------------- */

static void a_commit_replaces_and_an_abort_does_not(void **state) {
    (void)state;
    struct err e = {0};
    put("a", "old");
    struct out *o = out_open("a", &e);
    assert_ok(o ? 0 : -1, e);
    assert_ok(out_write(o, "ne", 2, &e), e);
    assert_content("a", "old"); /* readers see the old file until the commit */
    assert_ok(out_write(o, "w", 1, &e), e);
    assert_ok(out_commit(o, &e), e);
    assert_content("a", "new");

    o = out_open("a", &e);
    assert_ok(out_write(o, "lost", 4, &e), e);
    out_abort(o);
    out_abort(NULL);
    assert_content("a", "new");
    assert_int_equal(count_files("a"), 1);
    unlink("a");
}

static void a_temporary_name_that_is_a_link_is_not_followed(void **state) {
    (void)state;
    struct err e = {0};
    char tmp[64];
    snprintf(tmp, sizeof tmp, "a.tmp-%ld", (long)getpid());
    put("victim", "untouched");
    assert_int_equal(symlink("victim", tmp), 0);
    assert_ok(file_write("a", "new", 3, &e), e);
    assert_content("victim", "untouched");
    assert_content("a", "new");
    unlink("a");
    unlink("victim");
}

static void a_folder_that_is_missing_is_an_error(void **state) {
    (void)state;
    struct err e = {0};
    assert_int_equal(file_write("no/such/file", "x", 1, &e), -1);
    assert_int_equal(e.code, E_IO);
    assert_memory_equal(e.msg, "no/such/file", 12);
    assert_int_equal(mkdir("d", 0700), 0);
    e = (struct err){0};
    assert_int_equal(file_write("d", "x", 1, &e), -1); /* cannot be renamed over a folder */
    assert_int_equal(e.code, E_IO);
    assert_int_equal(count_files("d"), 1);
    rmdir("d");
}

/* Writes over "a" what fails in out_write (a megabyte), then what fails only when out_commit
 * flushes it (2,000 bytes).  0 if both failed as they must: E_IO with the path, nothing left
 * behind. */
static int overwrites_must_fail(void) {
    static char big[1 << 20];
    static const size_t size[] = {sizeof big, 2000};
    for (int i = 0; i < 2; i++) {
        struct err e = {0};
        if (file_write("a", big, size[i], &e) != -1 || e.code != E_IO || strncmp(e.msg, "a", 1))
            return 1;
        if (count_files("a") != 1)
            return 2;
    }
    return 0;
}

static int under_a_size_limit(void) {
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &(struct rlimit){1000, 1000}) != 0)
        return 77;
    return overwrites_must_fail();
}

static void a_size_limit_keeps_the_old_file(void **state) {
    (void)state;
    put("a", "old");
    assert_int_equal(in_child(under_a_size_limit), 0);
    assert_content("a", "old");
    unlink("a");
}

/* Mounts 64 KiB of file system over the folder "full", in a mount namespace of the child alone. */
static int on_a_full_disk(void) {
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return 77;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("pumice-test", "full", "tmpfs", 0, "size=64k") != 0 || chdir("full") != 0)
        return 77;
    struct err e = {0};
    if (file_write("a", "old", 3, &e) != 0)
        return 3;
    FILE *filler = fopen("filler", "w");
    while (fputc('x', filler) != EOF)
        ;
    fclose(filler);
    int rc = overwrites_must_fail();
    struct buf b = {0};
    if (file_read("a", 100, &b, &e) != 0 || strcmp(buf_str(&b), "old") != 0)
        rc = 4;
    buf_free(&b);
    return rc;
}

static void a_full_disk_keeps_the_old_file(void **state) {
    (void)state;
    assert_int_equal(mkdir("full", 0700), 0);
    int rc = in_child(on_a_full_disk);
    rmdir("full");
    if (rc == 77) {
        printf("  skipped: mounting a small tmpfs needs root or user namespaces\n");
        skip();
    }
    assert_int_equal(rc, 0);
}

static void kill_9_before_the_commit_leaves_the_old_file(void **state) {
    (void)state;
    put("a", "old");
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static char big[1 << 20];
        struct err e = {0};
        struct out *o = out_open("a", &e);
        if (!o || out_write(o, big, sizeof big, &e) || write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char c;
    assert_int_equal(read(ready[0], &c, 1), 1); /* a megabyte is written, the commit is not */
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_content("a", "old");
    char tmp[64];
    snprintf(tmp, sizeof tmp, "a.tmp-%ld", (long)pid);
    assert_int_equal(unlink(tmp), 0);
    close(ready[0]);
    close(ready[1]);
    unlink("a");
}

static void kill_9_at_any_moment_leaves_an_old_or_a_new_file(void **state) {
    (void)state;
    enum { SIZE = 100000 };
    static char text[SIZE + 1];
    struct err e = {0};
    memset(text, 'a', SIZE);
    assert_ok(file_write("a", text, SIZE, &e), e);
    for (int round = 0; round < 30; round++) {
        fflush(NULL);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            for (char c = 'b';; c = c == 'z' ? 'b' : (char)(c + 1)) {
                memset(text, c, SIZE);
                if (file_write("a", text, SIZE, NULL))
                    _exit(1);
            }
        }
        usleep(1000 + 137 * (useconds_t)round);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        struct buf b = {0};
        assert_ok(file_read("a", SIZE, &b, &e), e);
        assert_int_equal(b.len, SIZE);
        for (int i = 1; i < SIZE; i++)
            assert_int_equal(b.data[i], b.data[0]);
        buf_free(&b);
        char tmp[64];
        snprintf(tmp, sizeof tmp, "a.tmp-%ld", (long)pid);
        unlink(tmp);
    }
    unlink("a");
}

static void a_folder_is_made_once_and_known_to_be_empty(void **state) {
    (void)state;
    struct err e = {0};
    bool empty = false;
    assert_ok(dir_make("new", &empty, &e), e);
    assert_true(empty && file_is_dir("new"));
    put("new/x", "1");
    assert_ok(dir_make("new", &empty, &e), e);
    assert_false(empty);
    assert_int_equal(dir_make("new/x", &empty, &e), -1);
    assert_int_equal(e.code, E_IO);
    unlink("new/x");
    assert_ok(dir_make("new", &empty, &e), e);
    assert_true(empty);
    rmdir("new");
}

static void copying_brings_what_is_there_and_no_more(void **state) {
    (void)state;
    struct err e = {0};
    bool empty;
    assert_ok(dir_make("from", &empty, &e), e);
    assert_ok(dir_make("to", &empty, &e), e);
    put("from/a", "text");
    put("from/none", "");
    assert_ok(file_copy("from", "a", "to", &e), e);
    assert_ok(file_copy("from", "none", "to", &e), e);
    assert_ok(file_copy("from", "b", "to", &e), e);
    assert_content("to/a", "text");
    assert_content("to/none", "");
    assert_false(file_exists("to/b"));
    assert_int_equal(file_copy("from", "a", "nowhere", &e), -1);
    assert_int_equal(e.code, E_IO);
    static const char *const made[] = {"from/a", "from/none", "to/a", "to/none"};
    for (int i = 0; i < 4; i++)
        unlink(made[i]);
    rmdir("from");
    rmdir("to");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reading_appends_the_whole_file),
        cmocka_unit_test(a_file_beyond_the_limit_is_refused_before_it_is_read),
        cmocka_unit_test(an_empty_file_is_not_an_error),
        cmocka_unit_test(what_is_no_file_is_named_and_never_blocks),
        cmocka_unit_test(paths_join_with_one_slash),
        cmocka_unit_test(a_folder_is_made_once_and_known_to_be_empty),
        cmocka_unit_test(copying_brings_what_is_there_and_no_more),
        cmocka_unit_test(a_commit_replaces_and_an_abort_does_not),
        cmocka_unit_test(a_temporary_name_that_is_a_link_is_not_followed),
        cmocka_unit_test(a_folder_that_is_missing_is_an_error),
        cmocka_unit_test(a_size_limit_keeps_the_old_file),
        cmocka_unit_test(a_full_disk_keeps_the_old_file),
        cmocka_unit_test(kill_9_before_the_commit_leaves_the_old_file),
        cmocka_unit_test(kill_9_at_any_moment_leaves_an_old_or_a_new_file),
    };
    return cmocka_run_group_tests(tests, enter_dir, leave_dir);
}
