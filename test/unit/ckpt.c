/* ckpt.c - tests of src/train/ckpt.c: a checkpoint is there whole or not at all, whenever the
 * process dies and whatever fails. */
#include "testing.h"

#include <errno.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "train/ckpt.h"

static char dir[64];

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/pumice-ckpt-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char cmd[96];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

/* A checkpoint of two files that hold the step. */
static int save(int64_t step, struct err *err) {
    char *tmp = ckpt_begin(dir, CKPT_STEP, step, err);
    if (!tmp)
        return -1;
    struct buf b = {0};
    for (int i = 0; i < 3000; i++)
        buf_printf(&b, "%lld ", (long long)step);
    char *one = path_join(tmp, "model.safetensors"), *two = path_join(tmp, "trainer.json");
    int rc = file_write(one, b.data, b.len, err) || file_write(two, b.data, 8, err) ||
                     ckpt_commit(dir, CKPT_STEP, step, "latest", err)
                 ? -1
                 : 0;
    if (rc)
        ckpt_abort(dir, CKPT_STEP, step);
    else
        ckpt_prune(dir, CKPT_STEP, 1, 0);
    free(one);
    free(two);
    free(tmp);
    buf_free(&b);
    return rc;
}

static int64_t newest(void) {
    struct err e = {0};
    char *path = ckpt_newest(dir, CKPT_STEP, &e);
    if (e.code)
        fail_msg("%s", e.msg);
    int64_t step = path ? atoll(strrchr(path, '-') + 1) : -1;
    free(path);
    return step;
}

static bool has(const char *name) {
    char path[256];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return lstat(path, &st) == 0;
}

static void a_save_is_found_verified_and_linked(void **state) {
    (void)state;
    struct err e = {0};
    char link[64] = "", path[128];
    assert_int_equal(newest(), -1);
    assert_false(ckpt_any(dir));
    assert_ok(save(9, &e), e);
    assert_ok(save(100, &e), e);
    assert_int_equal(newest(), 100);
    assert_true(ckpt_any(dir));
    snprintf(path, sizeof path, "%s/latest", dir);
    assert_true(readlink(path, link, sizeof link - 1) > 0);
    assert_string_equal(link, "step-00000100");
    assert_false(has("step-00000009"));
    assert_ok(save(100, &e), e); /* again: replaced */
    assert_int_equal(newest(), 100);
    assert_false(has("step-00000100.tmp"));
    char cmd[160]; /* the list is what sha256sum reads */
    snprintf(cmd, sizeof cmd, "cd %s/latest && sha256sum -c --quiet SHA256SUMS", dir);
    assert_int_equal(system(cmd), 0);
}

/* Runs save(step) in a child that dies at its n-th entry to or exit from a system call. Whether it
 * died before it was done; -1 where tracing is not allowed. */
static int die_at(int64_t step, int n) {
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        struct err e = {0};
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(77);
        raise(SIGSTOP);
        _exit(save(step, &e) ? 1 : 0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status))
        return -1;
    for (int i = 0; i < n; i++) {
        assert_int_equal(ptrace(PTRACE_SYSCALL, pid, NULL, NULL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status)) {
            assert_int_equal(WEXITSTATUS(status), 0);
            return 0;
        }
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return 1;
}

static void killed_at_any_system_call_the_newest_checkpoint_is_whole(void **state) {
    (void)state;
    struct err e = {0};
    assert_ok(save(1, &e), e);
    int died = 1;
    int64_t old = 1, kept = 0, made = 0;
    for (int n = 1; died == 1; n++) {
        int64_t step = old + n % 2; /* a new one, and the same again */
        died = die_at(step, n);
        if (died < 0) {
            printf("  skipped: this system does not let a process trace its child\n");
            skip();
        }
        int64_t now = newest();
        assert_true(now == old || now == step);
        kept += now == old;
        made += now == step;
        old = now;
        /* The next trainer finds the lock free, cleans up, and can save. */
        int lock = ckpt_lock(dir, &e);
        assert_true(lock >= 0);
        assert_false(has("step-00000001.tmp") || has("latest.tmp"));
        close(lock);
        assert_int_equal(newest(), now);
        assert_true(n < 2000);
    }
    assert_true(kept > 10 && made > 10);
    assert_ok(save(old + 1, &e), e);
    assert_int_equal(newest(), old + 1);
}

static void a_full_disk_leaves_the_last_checkpoint(void **state) {
    (void)state;
    struct err e = {0};
    struct rlimit was, small;
    assert_ok(save(5, &e), e);
    getrlimit(RLIMIT_FSIZE, &was);
    signal(SIGXFSZ, SIG_IGN);
    for (size_t limit = 0; limit < 9000; limit += 300) {
        struct err full = {0};
        small = was;
        small.rlim_cur = limit;
        setrlimit(RLIMIT_FSIZE, &small);
        int rc = save(6, &full);
        setrlimit(RLIMIT_FSIZE, &was);
        if (limit >= 6000) { /* the larger file has 3000 times "6 " */
            assert_ok(rc, full);
            break;
        }
        assert_int_equal(rc, -1);
        assert_int_equal(full.code, E_IO);
        assert_non_null(strstr(full.msg, "File too large"));
        assert_false(has("step-00000006.tmp"));
        assert_int_equal(newest(), 5);
    }
    assert_int_equal(newest(), 6);
}

static void a_damaged_checkpoint_is_passed_over(void **state) {
    (void)state;
    struct err e = {0};
    static const char *const damage[] = {"printf x >> step-00000002/model.safetensors",
                                         "rm step-00000002/trainer.json",
                                         "rm step-00000002/SHA256SUMS",
                                         ": > step-00000002/SHA256SUMS",
                                         "sed -i 's/^./g/' step-00000002/SHA256SUMS",
                                         "sed -i 's/  /  ..\\//' step-00000002/SHA256SUMS",
                                         "truncate -s 100 step-00000002/SHA256SUMS",
                                         "rm -r step-00000002; : > step-00000002"};
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        char cmd[256];
        assert_ok(save(2, &e), e);
        snprintf(cmd, sizeof cmd, "cd %s && rm -rf keep && cp -r step-00000002 keep", dir);
        assert_int_equal(system(cmd), 0);
        assert_ok(save(1, &e), e); /* prunes: only 2 is left */
        snprintf(cmd, sizeof cmd, "cd %s && rm -rf step-* && cp -r keep step-00000002", dir);
        assert_int_equal(system(cmd), 0);
        snprintf(cmd, sizeof cmd, "cd %s && %s", dir, damage[i]);
        assert_int_equal(system(cmd), 0);
        struct err none = {0};
        assert_null(ckpt_newest(dir, CKPT_STEP, &none)); /* alone: an error that names it */
        assert_true(none.code == E_FORMAT || none.code == E_IO);
        assert_non_null(strstr(none.msg, "step-00000002"));
        snprintf(cmd, sizeof cmd, "cd %s && cp -r keep step-00000001", dir);
        assert_int_equal(system(cmd), 0);
        assert_int_equal(newest(), 1);
        assert_ok(save(2, &e), e); /* repairs it */
        assert_int_equal(newest(), 2);
    }
}

static void a_second_trainer_is_refused(void **state) {
    (void)state;
    struct err e = {0};
    int status, lock = ckpt_lock(dir, &e);
    assert_true(lock >= 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct err busy = {0};
        int rc = ckpt_lock(dir, &busy);
        char who[32];
        snprintf(who, sizeof who, "%ld)", (long)getppid());
        _exit(rc == -1 && busy.code == E_BUSY && strstr(busy.msg, who) && strstr(busy.msg, dir)
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(lock);
    lock = ckpt_lock(dir, &e); /* free again, though the file is still there */
    assert_true(lock >= 0);
    close(lock);
}

static void pruning_keeps_the_last_and_every_nth(void **state) {
    (void)state;
    char name[128];
    for (int step = 10; step <= 100; step += 10) {
        snprintf(name, sizeof name, "%s/step-%08d", dir, step);
        mkdir(name, 0777);
    }
    ckpt_prune(dir, CKPT_STEP, 2, 40);
    for (int step = 10; step <= 100; step += 10) {
        snprintf(name, sizeof name, "step-%08d", step);
        assert_int_equal(has(name), step >= 90 || step % 40 == 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_save_is_found_verified_and_linked, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(killed_at_any_system_call_the_newest_checkpoint_is_whole,
                                        make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_full_disk_leaves_the_last_checkpoint, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(a_damaged_checkpoint_is_passed_over, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_second_trainer_is_refused, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(pruning_keeps_the_last_and_every_nth, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
