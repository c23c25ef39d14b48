/* pull.c - makes a snapshot of a repository complete: what to fetch, digests, links (see hub.h).
 *
 * Order of a pull: every blob is written under OID.incomplete, its digest computed from the file,
 * fsynced and renamed to OID; then the links of the snapshot; last refs/REV.  Killed anywhere, the
 * next pull goes on, and no name ever stands for bytes that were not verified. */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "hub/cache.h"
#include "hub/fetch.h"

enum {
    MAX_ANSWER = 16 << 20, /* bytes of one JSON answer */
    MAX_PAGES = 100,
    MAX_FILES = 20000,
    TRIES = 3, /* of a file whose digest is wrong */
};

struct entry { /* a file of the repository */
    char *path, oid[65];
    int64_t size;
    bool lfs, wanted;
};

struct pull {
    const struct hub *h;
    const struct hub_name *name;
    struct fetch *f;
    struct entry *entry;
    int n, cap;
    char commit[41];
    int root, repo, blobs; /* descriptors */
};

/* -- environment ------------------------------------------------------------------------------- */

static const char *env(const char *name) {
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

static char *read_token(const char *home, struct err *err) {
    struct buf b = {0};
    const char *path = env("HF_TOKEN_PATH");
    char *own = path ? mem_strdup(path) : path_join(home, "token");
    if (env("HF_TOKEN"))
        buf_adds(&b, env("HF_TOKEN"));
    else if (file_exists(own))
        file_read(own, 4096, &b, err);
    free(own);
    while (b.len && strchr(" \t\r\n", b.data[b.len - 1]))
        b.len--;
    char *token = b.len ? mem_strdup(buf_str(&b)) : NULL;
    for (const char *p = token; p && *p; p++)
        if (*p <= ' ' || *p > '~') {
            err_set(err, E_USAGE, "HF_TOKEN: has a character that no token has");
            break;
        }
    buf_free(&b);
    return token;
}

int hub_open(struct hub *h, struct err *err) {
    struct buf home = {0}, cache = {0};
    const char *endpoint = env("HF_ENDPOINT"), *off = env("HF_HUB_OFFLINE");
    *h = (struct hub){0};
    endpoint = endpoint ? endpoint : "https://huggingface.co";
    if (strncmp(endpoint, "https://", 8) != 0 && strncmp(endpoint, "http://", 7) != 0) {
        err_set(err, E_USAGE, "HF_ENDPOINT: '%s' does not begin with https:// or http://",
                endpoint);
        goto out;
    }
    h->endpoint = mem_strdup(endpoint);
    for (size_t n = strlen(h->endpoint); n && h->endpoint[n - 1] == '/'; n--)
        h->endpoint[n - 1] = 0;
    if (env("HF_HOME"))
        buf_adds(&home, env("HF_HOME"));
    else if (env("XDG_CACHE_HOME"))
        buf_printf(&home, "%s/huggingface", env("XDG_CACHE_HOME"));
    else if (env("HOME"))
        buf_printf(&home, "%s/.cache/huggingface", env("HOME"));
    else if (!env("HF_HUB_CACHE")) {
        err_set(err, E_USAGE, "HOME is not set, nor is HF_HOME or HF_HUB_CACHE");
        goto out;
    }
    if (env("HF_HUB_CACHE"))
        buf_adds(&cache, env("HF_HUB_CACHE"));
    else
        buf_printf(&cache, "%s/hub", buf_str(&home));
    h->cache = mem_strdup(buf_str(&cache));
    h->offline = off && strcmp(off, "0") != 0 && strcasecmp(off, "false") != 0;
    h->token = read_token(buf_str(&home), err);
out:
    buf_free(&home);
    buf_free(&cache);
    if (!err->code)
        return 0;
    hub_close(h);
    return -1;
}

void hub_close(struct hub *h) {
    free(h->endpoint);
    free(h->cache);
    free(h->token);
    *h = (struct hub){0};
}

/* -- what the hub says ------------------------------------------------------------------------- */

/* The answer is an array or an object; inside an object of ours the limits of json.h hold. */
static json_t *ask(struct pull *p, const char *path, char **next, struct err *err) {
    struct buf b = {0};
    json_t *j = NULL;
    buf_adds(&b, "{\"answer\":");
    if (fetch_text(p->f, path, MAX_ANSWER, &b, next, err) == 0) {
        buf_adds(&b, "}");
        j = json_parse(path, b.data, b.len, err);
    }
    buf_free(&b);
    return j;
}

/* The commit of the revision: itself, or of the branch or tag of that name. */
static int find_commit(struct pull *p, struct err *err) {
    const char *rev = p->name->rev;
    if (cache_is_commit(rev)) {
        memcpy(p->commit, rev, sizeof p->commit);
        return 0;
    }
    struct buf url = {0};
    buf_printf(&url, "/api/models/%s/refs", p->name->repo);
    json_t *j = ask(p, buf_str(&url), NULL, err), *all = json_object_get(j, "answer");
    static const char *const kinds[] = {"branches", "tags", "converts"};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        size_t i;
        json_t *ref;
        json_array_foreach(json_object_get(all, kinds[k]), i, ref) {
            const char *name = json_string_value(json_object_get(ref, "name"));
            const char *commit = json_string_value(json_object_get(ref, "targetCommit"));
            if (name && commit && !strcmp(name, rev) && cache_is_commit(commit))
                memcpy(p->commit, commit, sizeof p->commit);
        }
    }
    if (j && !p->commit[0])
        err_set(err, E_NETWORK, "%s: the hub knows no branch or tag '%s'", p->name->repo, rev);
    json_decref(j);
    buf_free(&url);
    return p->commit[0] ? 0 : -1;
}

static bool is_hex(const char *s, size_t n) {
    return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

/* One object of the tree; an entry with anything wrong in it ends the pull. */
static int add_entry(struct pull *p, const json_t *j, struct err *err) {
    const char *type = json_string_value(json_object_get(j, "type"));
    const char *path = json_string_value(json_object_get(j, "path"));
    const json_t *lfs = json_object_get(j, "lfs");
    const char *oid = json_string_value(json_object_get(lfs ? lfs : j, "oid"));
    const json_t *size = json_object_get(lfs && json_object_get(lfs, "size") ? lfs : j, "size");
    if (type && !strcmp(type, "directory"))
        return 0;
    if (!path || !cache_safe(path))
        return err_set(err, E_NETWORK, "%s: the hub lists a file whose path '%.80s' is not safe",
                       p->name->repo, path ? path : "");
    if (!oid || !is_hex(oid, lfs ? 64 : 40))
        return err_set(err, E_NETWORK, "%s: %.200s: the hub gives no digest", p->name->repo, path);
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return err_set(err, E_NETWORK, "%s: %.200s: the hub gives no size", p->name->repo, path);
    if (p->n == MAX_FILES)
        return err_set(err, E_NETWORK, "%s: more than %d files", p->name->repo, MAX_FILES);
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 64;
        p->entry = mem_resize(p->entry, (size_t)p->cap, sizeof *p->entry);
    }
    struct entry *e = &p->entry[p->n++];
    *e = (struct entry){.path = mem_strdup(path), .size = json_integer_value(size), .lfs = lfs};
    memcpy(e->oid, oid, strlen(oid) + 1);
    return 0;
}

static int find_files(struct pull *p, struct err *err) {
    struct buf first = {0};
    buf_printf(&first, "/api/models/%s/tree/%s?recursive=true", p->name->repo, p->commit);
    char *url = mem_strdup(buf_str(&first)), *next = NULL;
    int pages = 0;
    while (url && !err->code) {
        json_t *j = ask(p, url, &next, err), *list = json_object_get(j, "answer"), *item;
        size_t i;
        if (j && !json_is_array(list))
            err_set(err, E_NETWORK, "%s: the hub's list of files is no list", p->name->repo);
        json_array_foreach(list, i, item) if (add_entry(p, item, err)) break;
        json_decref(j);
        free(url);
        url = next;
        next = NULL;
        if (url && ++pages == MAX_PAGES)
            err_set(err, E_NETWORK, "%s: more than %d pages of files", p->name->repo, MAX_PAGES);
    }
    free(url);
    buf_free(&first);
    return err->code ? -1 : 0;
}

/* -- what to fetch ----------------------------------------------------------------------------- */

static bool matches(const char *path, const char *glob) {
    const char *slash = strrchr(path, '/');
    return !fnmatch(glob, path, 0) || (!strchr(glob, '/') && slash && !fnmatch(glob, slash + 1, 0));
}

static int want(struct pull *p, const char *glob, const char *with) {
    int n = 0;
    for (int i = 0; i < p->n; i++)
        if (matches(p->entry[i].path, glob) && (!with || strcasestr(p->entry[i].path, with))) {
            p->entry[i].wanted = true;
            n++;
        }
    return n;
}

static bool has(const struct pull *p, const char *path) {
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->entry[i].path, path))
            return true;
    return false;
}

/* Without globs: a folder of safetensors with all that belongs to it, else a GGUF file. */
static int choose(struct pull *p, const char *const *include, int n_include, struct err *err) {
    static const char *const folder[] = {"config.json",        "generation_config.json",
                                         "model*.safetensors", "model.safetensors.index.json",
                                         "tokenizer.json",     "tokenizer_config.json",
                                         "tokenizer.model",    "special_tokens_map.json",
                                         "added_tokens.json",  "vocab.json",
                                         "merges.txt",         "chat_template.*"};
    static const char *const quant[] = {"q4_k_m", "q4_0", "q8_0", "bf16", "f16"};
    for (int i = 0; i < n_include; i++)
        if (!want(p, include[i], NULL))
            return err_set(err, E_USAGE, "%s: no file matches '%s'", p->name->repo, include[i]);
    if (n_include)
        return 0;
    if (p->name->quant[0])
        return want(p, "*.gguf", p->name->quant)
                   ? 0
                   : err_set(err, E_USAGE, "%s: no .gguf file has '%s' in its name", p->name->repo,
                             p->name->quant);
    if (has(p, "config.json") &&
        (has(p, "model.safetensors") || has(p, "model.safetensors.index.json"))) {
        for (size_t i = 0; i < sizeof folder / sizeof folder[0]; i++)
            for (int k = 0; k < p->n; k++) /* of the top folder only */
                p->entry[k].wanted |= !fnmatch(folder[i], p->entry[k].path, FNM_PATHNAME);
        return 0;
    }
    for (size_t i = 0; i < sizeof quant / sizeof quant[0]; i++)
        if (want(p, "*.gguf", quant[i])) {
            log_info("%s: %s of its GGUF files; another one: %s:NAME", p->name->repo, quant[i],
                     p->name->repo);
            return 0;
        }
    return want(p, "*.gguf", NULL)
               ? 0
               : err_set(err, E_USAGE, "%s: neither safetensors with a config.json nor .gguf files",
                         p->name->repo);
}

static int64_t held(const struct pull *p, const struct entry *e, const char *suffix) {
    char name[80];
    struct stat st;
    snprintf(name, sizeof name, "%s%s", e->oid, suffix);
    return fstatat(p->blobs, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)
               ? st.st_size
               : -1;
}

/* Refuses what does not fit on the disk before it is full. */
static int check_space(struct pull *p, struct hub_pulled *out, struct err *err) {
    struct statvfs fs;
    int64_t part = 0;
    for (int i = 0; i < p->n; i++) {
        const struct entry *e = &p->entry[i];
        if (!e->wanted)
            continue;
        if (e->size > INT64_MAX / 2 - out->bytes)
            return err_set(err, E_NETWORK, "%s: sizes add up to too much", p->name->repo);
        out->n_file++;
        out->bytes += e->size;
        if (held(p, e, "") != e->size) {
            out->fetched += e->size;
            part += held(p, e, ".incomplete") > 0 ? held(p, e, ".incomplete") : 0;
        }
    }
    if (fstatvfs(p->blobs, &fs) == 0) {
        int64_t room = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
        if (out->fetched - part > room)
            return err_set(err, E_IO, "%s: needs %lld bytes, %lld are free in %s", p->name->repo,
                           (long long)(out->fetched - part), (long long)room, p->h->cache);
    }
    return 0;
}

/* -- one file ---------------------------------------------------------------------------------- */

/* SHA-256 of the bytes, or git's SHA-1 of "blob SIZE\0" and the bytes. */
static int digest(int fd, const struct entry *e, char hex[65], struct err *err) {
    enum { BLOCK = 1 << 18 };
    unsigned char md[EVP_MAX_MD_SIZE], *block = mem_new(BLOCK);
    unsigned n_md = 0;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex(ctx, e->lfs ? EVP_sha256() : EVP_sha1(), NULL);
    if (ok && !e->lfs) {
        char head[32];
        int n = snprintf(head, sizeof head, "blob %lld", (long long)e->size);
        ok = EVP_DigestUpdate(ctx, head, (size_t)n + 1);
    }
    ssize_t n = 0;
    for (off_t at = 0; ok && (n = pread(fd, block, BLOCK, at)) > 0; at += n)
        ok = EVP_DigestUpdate(ctx, block, (size_t)n);
    ok = ok && n == 0 && EVP_DigestFinal_ex(ctx, md, &n_md);
    for (unsigned i = 0; ok && i < n_md; i++)
        snprintf(hex + 2 * i, 3, "%02x", md[i]);
    EVP_MD_CTX_free(ctx);
    free(block);
    return ok ? 0 : err_set(err, E_IO, "%s: cannot compute its digest", e->path);
}

static int fetch_verified(struct pull *p, const struct entry *e, int fd, struct err *err) {
    struct buf url = {0};
    struct stat st;
    struct progress shown = progress_start(e->path, e->size);
    char hex[65] = "";
    int rc = -1;
    buf_printf(&url, "/%s/resolve/%s/", p->name->repo, p->commit);
    for (const char *s = e->path; *s; s++) /* a path may have '?', '#', '%' or blanks in it */
        if (strchr("/-_.~", *s) || (*s >= '0' && *s <= '9') ||
            ((*s | 32) >= 'a' && (*s | 32) <= 'z'))
            buf_addc(&url, *s);
        else
            buf_printf(&url, "%%%02X", (unsigned char)*s);
    for (int i = 0; i < TRIES; i++) {
        int64_t have = fstat(fd, &st) == 0 ? st.st_size : 0;
        if (have > e->size && ftruncate(fd, 0) == 0)
            have = 0;
        if (fetch_file(p->f, buf_str(&url), fd, &have, e->size, &shown, err) ||
            digest(fd, e, hex, err))
            goto out;
        if (!strcmp(hex, e->oid)) {
            rc = fsync(fd) == 0 ? 0 : err_set(err, E_IO, "%s: %s", e->path, strerror(errno));
            goto out;
        }
        log_warn("%s: its bytes do not have the digest that the hub gives; fetching it again",
                 e->path);
        if (ftruncate(fd, 0) != 0)
            break;
    }
    err_set(err, E_FORMAT, "%s/%s: digest %.16s..., the hub says %.16s...", p->name->repo, e->path,
            hex, e->oid);
out:
    progress_end(&shown);
    buf_free(&url);
    return rc;
}

static int fetch_blob(struct pull *p, const struct entry *e, struct err *err) {
    char part[80];
    snprintf(part, sizeof part, "%s.incomplete", e->oid);
    int fd = openat(p->blobs, part, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_set(err, E_IO, "%s/%s: %s", p->h->cache, part, strerror(errno));
    int rc = fetch_verified(p, e, fd, err);
    close(fd);
    if (rc == 0 && renameat(p->blobs, part, p->blobs, e->oid) != 0)
        rc = err_set(err, E_IO, "%s/%s: %s", p->h->cache, e->oid, strerror(errno));
    return rc;
}

/* snapshots/COMMIT/a/b -> ../../../blobs/OID */
static int link_file(struct pull *p, const struct entry *e, struct err *err) {
    struct buf dir = {0}, to = {0};
    const char *slash = strrchr(e->path, '/'), *name = slash ? slash + 1 : e->path;
    buf_printf(&dir, "snapshots/%s/%.*s", p->commit, slash ? (int)(slash - e->path) : 0, e->path);
    int fd = cache_dir(p->repo, p->name->repo, buf_str(&dir), true, err), rc = -1;
    buf_adds(&to, "../../");
    for (const char *s = e->path; *s; s++)
        if (*s == '/')
            buf_adds(&to, "../");
    buf_printf(&to, "blobs/%s", e->oid);
    if (fd >= 0) {
        char tmp[32];
        snprintf(tmp, sizeof tmp, ".link-%ld", (long)getpid());
        unlinkat(fd, tmp, 0);
        rc = symlinkat(buf_str(&to), fd, tmp) == 0 && renameat(fd, tmp, fd, name) == 0
                 ? 0
                 : err_set(err, E_IO, "%s/%s: %s", p->h->cache, e->path, strerror(errno));
        close(fd);
    }
    buf_free(&dir);
    buf_free(&to);
    return rc;
}

/* refs/REV holds the commit, so that a later command finds the snapshot by name. */
static int write_ref(struct pull *p, struct err *err) {
    struct buf path = {0};
    char *folder = cache_folder(p->name->repo);
    const char *slash = strrchr(p->name->rev, '/');
    buf_printf(&path, "refs/%.*s", slash ? (int)(slash - p->name->rev) : 0, p->name->rev);
    int fd = cache_dir(p->repo, p->name->repo, buf_str(&path), true, err), rc = -1;
    if (fd >= 0) {
        close(fd);
        path.len = 0;
        buf_printf(&path, "%s/%s/refs/%s", p->h->cache, folder, p->name->rev);
        rc = file_write(buf_str(&path), p->commit, 40, err);
    }
    free(folder);
    buf_free(&path);
    return rc;
}

/* -- the whole --------------------------------------------------------------------------------- */

static int pull_files(struct pull *p, struct hub_pulled *out, struct err *err) {
    if (check_space(p, out, err))
        return -1;
    int rc = 0;
    for (int i = 0; i < p->n && rc == 0; i++) {
        struct entry *e = &p->entry[i];
        if (!e->wanted || held(p, e, "") == e->size)
            continue;
        log_info("%s, %.1f MB", e->path, (double)e->size / 1e6);
        rc = fetch_blob(p, e, err);
    }
    for (int i = 0; i < p->n && rc == 0; i++)
        if (p->entry[i].wanted)
            rc = link_file(p, &p->entry[i], err);
    return rc || cache_is_commit(p->name->rev) ? rc : write_ref(p, err);
}

int hub_pull(const struct hub *h, const struct hub_name *name, const char *const *include,
             int n_include, struct hub_pulled *out, struct err *err) {
    struct pull p = {.h = h, .name = name, .root = -1, .repo = -1, .blobs = -1};
    char *folder = cache_folder(name->repo);
    int rc = -1, lock = -1;
    *out = (struct hub_pulled){0};
    if (!(p.f = fetch_open(h, err)) || find_commit(&p, err) || find_files(&p, err) ||
        choose(&p, include, n_include, err) || (p.root = cache_root(h, true, err)) < 0 ||
        (lock = cache_lock(p.root, folder, true, err)) < 0 ||
        (p.repo = cache_dir(p.root, h->cache, folder, true, err)) < 0 ||
        (p.blobs = cache_dir(p.repo, name->repo, "blobs", true, err)) < 0 ||
        pull_files(&p, out, err))
        goto out;
    struct buf path = {0};
    buf_printf(&path, "%s/%s/snapshots/%s", h->cache, folder, p.commit);
    out->path = hub_find(h, name);
    if (!out->path) /* files that are no model, or several models */
        out->path = mem_strdup(buf_str(&path));
    buf_free(&path);
    rc = 0;
out:
    for (int i = 0; i < p.n; i++)
        free(p.entry[i].path);
    free(p.entry);
    free(folder);
    for (int i = 0; i < 4; i++) {
        int fd = (int[]){lock, p.blobs, p.repo, p.root}[i];
        if (fd >= 0)
            close(fd);
    }
    fetch_close(p.f);
    return rc;
}
