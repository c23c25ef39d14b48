/* ckpt.c - see ckpt.h.
 *
 * The order of a save: files, each fsynced; SHA256SUMS, fsynced; the folder, fsynced; its rename;
 * the folder above, fsynced; the link. So a name without .tmp always stands for a complete folder.
 * An old one is renamed to .tmp before it is deleted. */
#include "train/ckpt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#define SUMS "SHA256SUMS"
#define MAX_SUMS ((size_t)1 << 20)

static char *format_path(const char *out, const char *kind, int64_t step, const char *end) {
    struct buf b = {0};
    buf_printf(&b, "%s/%s-%08lld%s", out, kind, (long long)step, end);
    buf_str(&b);
    return b.data;
}

static int fail(const char *path, struct err *err) {
    return err_set(err, E_IO, "%s: %s", path, strerror(errno));
}

static int sync_dir(const char *path, struct err *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail(path, err);
    int rc = fsync(fd) != 0 && errno != EINVAL ? fail(path, err) : 0;
    close(fd);
    return rc;
}

/* NAME.tmp, or NAME.tmp-PID as file.h writes. */
static bool is_unfinished(const char *name) {
    const char *tmp = strstr(name, ".tmp");
    while (tmp && strstr(tmp + 1, ".tmp"))
        tmp = strstr(tmp + 1, ".tmp");
    if (!tmp)
        return false;
    tmp += 4;
    return !*tmp || (tmp[0] == '-' && tmp[1] && strspn(tmp + 1, "0123456789") == strlen(tmp + 1));
}

/* A folder without sub-folders, a file, or a link (not what it points at); best effort. */
static void remove_all(const char *path) {
    if (unlink(path) == 0)
        return;
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0); /* fails for . and .. */
    if (d)
        closedir(d);
    rmdir(path);
}

/* -- lock -------------------------------------------------------------------------------------- */

void ckpt_clean(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!is_unfinished(e->d_name))
            continue;
        char *path = path_join(dir, e->d_name);
        remove_all(path);
        free(path);
    }
    if (d)
        closedir(d);
}

int ckpt_lock(const char *out, struct err *err) {
    char who[32] = "", *path = path_join(out, "lock");
    int fd = -1;
    if (mkdir(out, 0777) != 0 && (errno != EEXIST || !file_is_dir(out))) {
        fail(out, err);
        goto out;
    }
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        fail(path, err);
        goto out;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        ssize_t n = pread(fd, who, sizeof who - 1, 0);
        err_set(err, E_BUSY, "%s: another trainer is at work here (process %.*s)", out,
                n > 0 ? (int)strcspn(who, "\n") : 1, n > 0 ? who : "?");
        close(fd);
        fd = -1;
        goto out;
    }
    int n = snprintf(who, sizeof who, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, who, (size_t)n, 0) != n)
        log_warn("%s: %s", path, strerror(errno)); /* the lock holds all the same */
    ckpt_clean(out);
out:
    free(path);
    return fd;
}

/* -- sums -------------------------------------------------------------------------------------- */

/* The SHA-256 of a file in hexadecimal. */
static int sum_file(const char *path, char hex[65], struct err *err) {
    size_t size = (size_t)1 << 20;
    unsigned char md[EVP_MAX_MD_SIZE], *block = mem_new(size);
    unsigned n_md = 0;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), rc = -1;
    if (fd < 0) {
        fail(path, err);
        goto out;
    }
    bool ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
    ssize_t n;
    while (ok && ((n = read(fd, block, size)) > 0 || (n < 0 && errno == EINTR)))
        ok = n < 0 || EVP_DigestUpdate(ctx, block, (size_t)n);
    if (!ok || n < 0 || !EVP_DigestFinal_ex(ctx, md, &n_md)) {
        err_set(err, E_IO, "%s: %s", path, ok ? strerror(errno) : "no SHA-256 here");
        goto out;
    }
    for (unsigned i = 0; i < n_md; i++)
        snprintf(hex + 2 * i, 3, "%02x", md[i]);
    rc = 0;
out:
    if (fd >= 0)
        close(fd);
    EVP_MD_CTX_free(ctx);
    free(block);
    return rc;
}

static int write_sums(const char *dir, struct err *err) {
    struct buf b = {0};
    struct dirent **list = NULL;
    int n = scandir(dir, &list, NULL, alphasort), rc = n < 0 ? fail(dir, err) : 0;
    for (int i = 0; i < n; i++) {
        char hex[65], *path = path_join(dir, list[i]->d_name);
        if (list[i]->d_name[0] != '.' && !rc && (rc = sum_file(path, hex, err)) == 0)
            buf_printf(&b, "%s  %s\n", hex, list[i]->d_name);
        free(path);
        free(list[i]);
    }
    free(list);
    char *path = path_join(dir, SUMS);
    if (!rc)
        rc = file_write(path, b.data, b.len, err);
    free(path);
    buf_free(&b);
    return rc;
}

/* One line "hex  name"; *s moves behind it. */
static int check_line(const char *dir, const char *sums, char **s, struct err *err) {
    char hex[65], *line = *s, *end = strchr(line, '\n');
    if (!end || end - line < 67 || memcmp(line + 64, "  ", 2) != 0)
        return err_set(err, E_FORMAT, "%s: not a list of checksums", sums);
    *end = '\0';
    *s = end + 1;
    if (strchr(line + 66, '/') || line[66] == '.')
        return err_set(err, E_FORMAT, "%s: '%.80s' is not a file's name", sums, line + 66);
    char *path = path_join(dir, line + 66);
    int rc = sum_file(path, hex, err);
    if (!rc && memcmp(hex, line, 64) != 0)
        rc = err_set(err, E_FORMAT, "%s: damaged: its SHA-256 is not that of %s", path, SUMS);
    free(path);
    return rc;
}

int ckpt_verify(const char *dir, struct err *err) {
    struct buf b = {0};
    char *sums = path_join(dir, SUMS);
    int rc = file_read(sums, MAX_SUMS, &b, err);
    char *s = (buf_str(&b), b.data);
    if (!rc && (b.len == 0 || memchr(s, 0, b.len)))
        rc = err_set(err, E_FORMAT, "%s: not a list of checksums", sums);
    while (!rc && *s)
        rc = check_line(dir, sums, &s, err);
    free(sums);
    buf_free(&b);
    return rc;
}

/* -- saving ------------------------------------------------------------------------------------ */

char *ckpt_begin(const char *out, const char *kind, int64_t step, struct err *err) {
    char *path = format_path(out, kind, step, ".tmp");
    remove_all(path);
    if (mkdir(path, 0777) == 0)
        return path;
    fail(path, err);
    free(path);
    return NULL;
}

void ckpt_abort(const char *out, const char *kind, int64_t step) {
    char *path = format_path(out, kind, step, ".tmp");
    remove_all(path);
    free(path);
}

static int point(const char *out, const char *link, const char *path, struct err *err) {
    struct buf b = {0};
    buf_printf(&b, "%s/%s.tmp", out, link);
    char *tmp = mem_strdup(buf_str(&b)), *name = path_join(out, link);
    unlink(tmp);
    int rc =
        symlink(strrchr(path, '/') + 1, tmp) != 0 || rename(tmp, name) != 0 ? fail(name, err) : 0;
    free(tmp);
    free(name);
    buf_free(&b);
    return rc ? rc : sync_dir(out, err);
}

int ckpt_commit(const char *out, const char *kind, int64_t step, const char *link,
                struct err *err) {
    char *tmp = format_path(out, kind, step, ".tmp"), *path = format_path(out, kind, step, "");
    int rc = -1;
    if (write_sums(tmp, err) || sync_dir(tmp, err))
        goto out;
    if (rename(tmp, path) != 0 &&
        ((errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR) ||
         renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_EXCHANGE) != 0)) {
        fail(path, err);
        goto out;
    }
    remove_all(tmp); /* what stood there before, if anything */
    rc = sync_dir(out, err) || point(out, link, path, err) ? -1 : 0;
out:
    free(tmp);
    free(path);
    return rc;
}

/* -- finding ----------------------------------------------------------------------------------- */

/* The step of "KIND-NNN", -1 for any other name. */
static int64_t step_of(const char *name, const char *kind) {
    size_t n = strlen(kind);
    if (strncmp(name, kind, n) != 0 || name[n] != '-' || name[n + 1] < '0' || name[n + 1] > '9')
        return -1;
    char *end;
    errno = 0;
    long long step = strtoll(name + n + 1, &end, 10);
    return *end || errno ? -1 : step;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x > y ? -1 : x < y;
}

/* The steps of a kind, newest first; owned by the caller. */
static int64_t *list_steps(const char *out, const char *kind, int *n) {
    int64_t *v = NULL;
    int cap = 0;
    DIR *d = opendir(out);
    *n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        int64_t step = step_of(e->d_name, kind);
        if (step < 0)
            continue;
        if (*n == cap) {
            cap = cap ? 2 * cap : 16;
            v = mem_resize(v, (size_t)cap, sizeof *v);
        }
        v[(*n)++] = step;
    }
    if (d)
        closedir(d);
    if (v)
        qsort(v, (size_t)*n, sizeof *v, newest_first);
    return v;
}

char *ckpt_newest(const char *out, const char *kind, struct err *err) {
    int n;
    int64_t *step = list_steps(out, kind, &n);
    char *found = NULL;
    struct err first = {0};
    for (int i = 0; i < n && !found; i++) {
        struct err e = {0};
        char *path = format_path(out, kind, step[i], "");
        if (ckpt_verify(path, &e) == 0) {
            found = path;
            break;
        }
        log_warn("%s", e.msg);
        err_set(&first, e.code, "%s", e.msg);
        free(path);
    }
    free(step);
    if (!found && first.code)
        err_set(err, first.code, "%s; no older checkpoint is whole", first.msg);
    return found;
}

bool ckpt_any(const char *out) {
    int n;
    free(list_steps(out, CKPT_STEP, &n));
    return n > 0;
}

void ckpt_prune(const char *out, const char *kind, int keep, int64_t every) {
    int n;
    int64_t *step = list_steps(out, kind, &n);
    for (int i = keep; i < n; i++) {
        if (every > 0 && step[i] % every == 0)
            continue;
        char *path = format_path(out, kind, step[i], ""),
             *tmp = format_path(out, kind, step[i], ".tmp");
        if (rename(path, tmp) == 0)
            remove_all(tmp);
        free(path);
        free(tmp);
    }
    free(step);
}
