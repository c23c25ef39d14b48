/* cache.c - see cache.h and hub.h. */
#include "hub/cache.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

/* -- names ------------------------------------------------------------------------------------- */

bool cache_safe(const char *path) {
    size_t n = strlen(path);
    if (n == 0 || n > 1024)
        return false;
    for (const char *p = path;;) {
        size_t len = strcspn(p, "/");
        if (len == 0 || len > 255 || (len == 1 && p[0] == '.') || !strncmp(p, "..", len) ||
            (len == 4 && !strncasecmp(p, ".git", 4)))
            return false;
        for (size_t i = 0; i < len; i++)
            if ((unsigned char)p[i] < 32 || p[i] == 127 || p[i] == '\\' || p[i] == ':')
                return false;
        if (!p[len])
            return true;
        p += len + 1;
    }
}

bool cache_is_commit(const char *s) {
    return strlen(s) == 40 && strspn(s, "0123456789abcdef") == 40;
}

char *cache_folder(const char *repo) {
    struct buf b = {0};
    buf_adds(&b, "models--");
    for (; *repo; repo++)
        if (*repo == '/')
            buf_adds(&b, "--");
        else
            buf_addc(&b, *repo);
    buf_str(&b);
    return b.data;
}

/* Organisation and name each: letters, digits, '-', '_', '.', not beginning or ending with '-' or
 * '.', no "--" and no ".." (which would be read as a separator or a way up). */
static bool good_part(const char *s, size_t n) {
    if (n < 1 || n > 96 || strchr("-.", s[0]) || strchr("-.", s[n - 1]))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!isalnum((unsigned char)s[i]) && !strchr("-_.", s[i]))
            return false;
        if (i && strchr("-.", s[i]) && s[i] == s[i - 1])
            return false;
    }
    return true;
}

static int copy_part(char *dst, size_t size, const char *s, size_t n) {
    if (n < 1 || n >= size)
        return -1;
    memcpy(dst, s, n);
    dst[n] = 0;
    return 0;
}

int hub_parse(const char *text, struct hub_name *out, struct err *err) {
    *out = (struct hub_name){.rev = "main"};
    size_t end = strcspn(text, ":@"), org = strcspn(text, "/");
    if (org >= end || !good_part(text, org) || !good_part(text + org + 1, end - org - 1) ||
        copy_part(out->repo, sizeof out->repo, text, end))
        return err_set(err, E_USAGE, "'%s' is no model of a hub: ORG/NAME[:QUANT][@REV]", text);
    const char *p = text + end;
    if (*p == ':') {
        size_t n = strcspn(++p, "@");
        if (strspn(p, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") < n ||
            copy_part(out->quant, sizeof out->quant, p, n))
            return err_set(err, E_USAGE, "'%s': the quantisation after ':' is no name", text);
        p += n;
    }
    if (*p == '@' &&
        (copy_part(out->rev, sizeof out->rev, p + 1, strlen(p + 1)) || !cache_safe(out->rev)))
        return err_set(err, E_USAGE, "'%s': the revision after '@' is no name", text);
    return 0;
}

/* -- folders ----------------------------------------------------------------------------------- */

int cache_dir(int fd, const char *what, const char *path, bool make, struct err *err) {
    int at = dup(fd);
    for (const char *p = path; at >= 0 && *p;) {
        char name[256];
        size_t len = strcspn(p, "/");
        if (copy_part(name, sizeof name, p, len)) {
            close(at);
            return err_set(err, E_FORMAT, "%s/%s: not a path", what, path);
        }
        if (make && mkdirat(at, name, 0777) != 0 && errno != EEXIST) {
            err_set(err, E_IO, "%s/%s: %s", what, path, strerror(errno));
            close(at);
            return -1;
        }
        int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int why = errno;
        close(at);
        at = next;
        errno = why;
        p += len + (p[len] == '/');
    }
    if (at < 0)
        err_set(err, E_IO, "%s/%s: %s", what, path,
                errno == ELOOP || errno == ENOTDIR ? "a link or a file where a folder must be"
                                                   : strerror(errno));
    return at;
}

int cache_root(const struct hub *h, bool make, struct err *err) {
    char *copy = mem_strdup(h->cache);
    for (char *p = copy + 1; make && *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(copy, 0777); /* what fails here fails again, with its reason, at the end */
            *p = '/';
        }
    if (make)
        mkdir(copy, 0777);
    free(copy);
    int fd = open(h->cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* the root itself may be a link */
    if (fd < 0)
        err_set(err, E_IO, "%s: %s", h->cache, strerror(errno));
    return fd;
}

int cache_lock(int root, const char *folder, bool wait, struct err *err) {
    struct buf b = {0};
    buf_printf(&b, ".locks/%s", folder);
    int dir = cache_dir(root, "cache", buf_str(&b), true, err), fd = -1;
    if (dir >= 0) {
        fd = openat(dir, "pull.lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (fd < 0)
            err_set(err, E_IO, ".locks/%s/pull.lock: %s", folder, strerror(errno));
        close(dir);
    }
    buf_free(&b);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    if (wait) {
        log_info("%s is being pulled by another process: waiting", folder);
        while (flock(fd, LOCK_EX) != 0)
            if (errno != EINTR) {
                err_set(err, E_IO, "lock of %s: %s", folder, strerror(errno));
                close(fd);
                return -1;
            }
        return fd;
    }
    close(fd);
    return err_set(err, E_BUSY, "%s is being pulled by another process", folder);
}

/* -- what is there ----------------------------------------------------------------------------- */

static int not_dot(const struct dirent *e) {
    return e->d_name[0] != '.';
}

/* Adds up the regular files that the links of a snapshot lead to. */
static void measure(const char *dir, struct hub_entry *e, int depth) {
    struct dirent **list;
    int n = depth < 8 ? scandir(dir, &list, not_dot, alphasort) : 0;
    for (int i = 0; i < n; i++) {
        char *path = path_join(dir, list[i]->d_name);
        struct stat st, link;
        if (stat(path, &st) == 0 && lstat(path, &link) == 0) {
            if (S_ISDIR(link.st_mode)) {
                measure(path, e, depth + 1);
            } else if (S_ISREG(st.st_mode)) {
                e->bytes += st.st_size;
                e->n_file++;
                e->modified = link.st_mtime > e->modified ? link.st_mtime : e->modified;
            }
        }
        free(path);
        free(list[i]);
    }
    if (n > 0)
        free(list);
}

static void list_repo(const struct hub *h, const char *folder,
                      void (*each)(void *ud, const struct hub_entry *e), void *ud) {
    struct buf repo = {0}, dir = {0};
    for (const char *p = folder + strlen("models--"); *p; p++)
        if (p[0] == '-' && p[1] == '-') {
            buf_addc(&repo, '/');
            p++;
        } else
            buf_addc(&repo, *p);
    buf_printf(&dir, "%s/%s/snapshots", h->cache, folder);
    struct dirent **list;
    int n = scandir(buf_str(&dir), &list, not_dot, alphasort);
    for (int i = 0; i < n; i++) {
        char *path = path_join(buf_str(&dir), list[i]->d_name);
        struct hub_entry e = {.repo = buf_str(&repo), .commit = list[i]->d_name, .path = path};
        if (cache_is_commit(list[i]->d_name)) {
            measure(path, &e, 0);
            each(ud, &e);
        }
        free(path);
        free(list[i]);
    }
    if (n >= 0)
        free(list);
    buf_free(&repo);
    buf_free(&dir);
}

static int is_repo(const struct dirent *e) {
    return !strncmp(e->d_name, "models--", strlen("models--"));
}

int hub_list(const struct hub *h, void (*each)(void *ud, const struct hub_entry *e), void *ud,
             struct err *err) {
    struct dirent **list;
    int n = scandir(h->cache, &list, is_repo, alphasort);
    if (n < 0)
        return errno == ENOENT ? 0 : err_set(err, E_IO, "%s: %s", h->cache, strerror(errno));
    for (int i = 0; i < n; i++) {
        list_repo(h, list[i]->d_name, each, ud);
        free(list[i]);
    }
    free(list);
    return 0;
}

static int64_t removed; /* bytes, of the walk under way: nftw has no argument for its callback */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at) {
    (void)at;
    if (kind == FTW_F && st->st_nlink == 1)
        removed += st->st_size;
    return remove(path);
}

int hub_remove(const struct hub *h, const char *repo, int64_t *freed, struct err *err) {
    char *folder = cache_folder(repo), *path = path_join(h->cache, folder);
    struct buf locks = {0};
    int rc = -1, lock = -1, root = -1;
    struct stat st;
    *freed = removed = 0;
    if (lstat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        err_set(err, E_USAGE, "%s is not in %s", repo, h->cache);
        goto out;
    }
    if ((root = cache_root(h, false, err)) < 0 || (lock = cache_lock(root, folder, false, err)) < 0)
        goto out;
    rc = nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (rc != 0)
        rc = err_set(err, E_IO, "%s: %s", path, strerror(errno));
    *freed = removed;
    buf_printf(&locks, "%s/.locks/%s", h->cache, folder);
    if (rc == 0)
        nftw(buf_str(&locks), remove_one, 16, FTW_DEPTH | FTW_PHYS); /* best effort */
out:
    if (lock >= 0)
        close(lock);
    if (root >= 0)
        close(root);
    buf_free(&locks);
    free(path);
    free(folder);
    return rc;
}

/* -- finding a model --------------------------------------------------------------------------- */

static int is_gguf(const struct dirent *e) {
    return !fnmatch("*.gguf", e->d_name, FNM_CASEFOLD);
}

/* The one .gguf file of a folder, the one whose name has the quantisation in it, or the first part
 * of a split one; NULL if there is none, or several and nothing chooses. */
static char *pick_gguf(const char *dir, const char *quant) {
    struct dirent **list;
    int n = scandir(dir, &list, is_gguf, alphasort), pick = -1, fit = 0;
    for (int i = 0; i < n; i++) {
        const char *part = strstr(list[i]->d_name, "-of-");
        bool later = part && part - list[i]->d_name >= 6 && strncmp(part - 6, "-00001", 6) != 0;
        if (!later && (!quant[0] || strcasestr(list[i]->d_name, quant))) {
            pick = pick < 0 ? i : pick;
            fit++;
        }
    }
    char *out = fit == 1 || (fit > 1 && quant[0]) ? path_join(dir, list[pick]->d_name) : NULL;
    for (int i = 0; i < n; i++)
        free(list[i]);
    if (n >= 0)
        free(list);
    return out;
}

char *hub_find(const struct hub *h, const struct hub_name *name) {
    char *folder = cache_folder(name->repo), *out = NULL;
    struct buf path = {0}, commit = {0};
    if (cache_is_commit(name->rev)) {
        buf_adds(&commit, name->rev);
    } else {
        buf_printf(&path, "%s/%s/refs/%s", h->cache, folder, name->rev);
        file_read(buf_str(&path), 64, &commit, NULL);
        commit.len = strcspn(buf_str(&commit), "\n");
    }
    if (cache_is_commit(buf_str(&commit))) {
        path.len = 0;
        buf_printf(&path, "%s/%s/snapshots/%s", h->cache, folder, buf_str(&commit));
        char *config = path_join(buf_str(&path), "config.json");
        if (file_is_dir(buf_str(&path)))
            out = name->quant[0] || !file_exists(config) ? pick_gguf(buf_str(&path), name->quant)
                                                         : mem_strdup(buf_str(&path));
        free(config);
    }
    buf_free(&path);
    buf_free(&commit);
    free(folder);
    return out;
}
