/* file.c - see file.h. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

bool file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

bool file_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *path_join(const char *dir, const char *name) {
    struct buf b = {0};
    buf_adds(&b, dir);
    if (b.len && b.data[b.len - 1] != '/')
        buf_addc(&b, '/');
    buf_adds(&b, name);
    buf_str(&b);
    return b.data;
}

/* Opens a regular file (no folder, no device that blocks) and stats it. */
static int open_regular(const char *path, struct stat *st, struct err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(err, E_IO, "%s: %s", path, strerror(errno));
    if (fstat(fd, st) != 0 || !S_ISREG(st->st_mode)) {
        close(fd);
        return err_set(err, E_IO, "%s: not a regular file", path);
    }
    return fd;
}

int file_read(const char *path, size_t max, struct buf *out, struct err *err) {
    struct stat st;
    int fd = open_regular(path, &st, err);
    if (fd < 0)
        return -1;
    int rc = -1;
    size_t total = 0;
    if ((uint64_t)st.st_size > max)
        goto large;
    buf_reserve(out, (size_t)st.st_size + 1);
    for (;;) {
        buf_reserve(out, 1);
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err_set(err, E_IO, "%s: %s", path, strerror(errno));
            goto out;
        }
        if (n == 0)
            break;
        out->len += (size_t)n;
        total += (size_t)n;
        if (total > max)
            goto large;
    }
    rc = 0;
    goto out;
large:
    err_set(err, E_FORMAT, "%s: larger than the limit of %zu bytes", path, max);
out:
    close(fd);
    return rc;
}

int file_open(struct file *f, const char *path, struct err *err) {
    struct stat st;
    int fd = open_regular(path, &st, err);
    if (fd < 0)
        return -1;
    *f = (struct file){NULL, (size_t)st.st_size};
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            close(fd);
            return err_set(err, E_IO, "%s: cannot map: %s", path, strerror(errno));
        }
        f->data = p;
    }
    close(fd);
    return 0;
}

void file_close(struct file *f) {
    if (f->data)
        munmap((void *)f->data, f->size);
    *f = (struct file){0};
}

struct out {
    FILE *f;
    char *path, *tmp;
};

static void out_free(struct out *o) {
    free(o->path);
    free(o->tmp);
    free(o);
}

struct out *out_open(const char *path, struct err *err) {
    struct buf b = {0};
    buf_printf(&b, "%s.tmp-%ld", path, (long)getpid());
    struct out *o = mem_new(sizeof *o);
    o->path = mem_strdup(path);
    o->tmp = mem_strdup(buf_str(&b));
    buf_free(&b);
    /* A name left by a dead process, or planted as a link, is removed, never followed. */
    unlink(o->tmp);
    int fd = open(o->tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd >= 0 && !(o->f = fdopen(fd, "wb")))
        close(fd);
    if (!o->f) {
        err_set(err, E_IO, "%s: %s", o->tmp, strerror(errno));
        out_free(o);
        return NULL;
    }
    return o;
}

int out_write(struct out *o, const void *p, size_t n, struct err *err) {
    if (n && fwrite(p, 1, n, o->f) != n)
        return err_set(err, E_IO, "%s: %s", o->tmp, strerror(errno));
    return 0;
}

void out_abort(struct out *o) {
    if (!o)
        return;
    if (o->f)
        fclose(o->f);
    unlink(o->tmp);
    out_free(o);
}

static void sync_folder(const char *path) {
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        fsync(dir); /* best effort on odd file systems */
        close(dir);
    }
}

/* A rename is durable once its folder is. */
static void sync_parent(const char *path) {
    char *copy = mem_strdup(path);
    sync_folder(dirname(copy));
    free(copy);
}

int out_commit(struct out *o, struct err *err) {
    bool ok = fflush(o->f) == 0 && fsync(fileno(o->f)) == 0;
    ok = fclose(o->f) == 0 && ok;
    o->f = NULL;
    if (!ok || rename(o->tmp, o->path) != 0) {
        err_set(err, E_IO, "%s: %s", o->path, strerror(errno));
        out_abort(o);
        return -1;
    }
    sync_parent(o->path);
    out_free(o);
    return 0;
}

int file_write(const char *path, const void *p, size_t n, struct err *err) {
    struct out *o = out_open(path, err);
    if (!o)
        return -1;
    if (out_write(o, p, n, err)) {
        out_abort(o);
        return -1;
    }
    return out_commit(o, err);
}

int file_copy(const char *from_dir, const char *name, const char *to_dir, struct err *err) {
    struct file f = {0};
    char *from = path_join(from_dir, name), *to = path_join(to_dir, name);
    int rc = 0;
    if (file_exists(from))
        rc = file_open(&f, from, err) || file_write(to, f.data, f.size, err) ? -1 : 0;
    file_close(&f);
    free(from);
    free(to);
    return rc;
}

int dir_make(const char *dir, bool *empty, struct err *err) {
    *empty = true;
    if (mkdir(dir, 0777) == 0)
        return 0;
    int why = errno;
    DIR *d = why == EEXIST ? opendir(dir) : NULL;
    if (!d)
        return err_set(err, E_IO, "%s: %s", dir, strerror(why == EEXIST ? errno : why));
    for (struct dirent *e; *empty && (e = readdir(d));)
        *empty = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    closedir(d);
    return 0;
}

char *dir_begin(const char *dir, struct err *err) {
    struct buf b = {0};
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    buf_add(&b, dir, n);
    buf_printf(&b, ".tmp-%ld", (long)getpid());
    buf_str(&b);
    dir_abort(b.data); /* left by a dead process */
    if (mkdir(b.data, 0777) != 0) {
        err_set(err, E_IO, "%s: %s", b.data, strerror(errno));
        buf_free(&b);
    }
    return b.data;
}

int dir_commit(const char *tmp, const char *dir, struct err *err) {
    sync_folder(tmp);
    if (rename(tmp, dir) != 0)
        return err_set(err, E_IO, "%s: %s", dir, strerror(errno));
    sync_parent(dir);
    return 0;
}

void dir_abort(const char *tmp) {
    DIR *d = tmp ? opendir(tmp) : NULL;
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0); /* "." and ".." refuse */
    closedir(d);
    rmdir(tmp);
}
