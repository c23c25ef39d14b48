/* words.c - count the words of text files on all threads, whatever their size. A block is read,
 * cut at the last place where no word can cross (pre_cut), and split at such places among the
 * threads; each counts into its own table.  What is behind the last cut starts the next block.
 * So the counts depend neither on the block size nor on the number of threads.
 *
 * No special token crosses a cut either: pre_cut cuts only before or after ASCII white space,
 * and a special token has none. */
#include "tok/words.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/progress.h"
#include "tok/impl.h"

#define BLOCK ((size_t)4 << 20)
#define MAX_BLOCKS ((size_t)64 << 20) /* of all threads together */
#define MAX_UNCUT ((size_t)64 << 20)  /* bytes without a place to cut */

/* One thread's share of a block, and its table. */
struct part {
    struct tok *t;   /* special tokens, pre-tokeniser; its arena holds the words */
    struct map *map; /* word -> index */
    struct word *word;
    size_t n, cap;
    int64_t covered, total;
    const char *lo, *hi;
};

struct reader {
    const struct words_spec *s;
    struct pool *pool;
    struct part *part;  /* one a thread */
    struct buf text;    /* read and not yet counted */
    int64_t bytes;      /* read so far, all files */
    int64_t file_start; /* of them before this file */
    struct progress progress;
};

/* ---- one thread ---- */

static void part_add(struct part *p, const char *s, size_t n, int64_t count) {
    p->total += count;
    p->covered += count * (int64_t)n;
    int32_t i = map_get(p->map, s, n);
    if (i >= 0) {
        p->word[i].count += count;
        return;
    }
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 1024;
        p->word = mem_resize(p->word, p->cap, sizeof *p->word);
    }
    const char *copy = arena_add(p->t, s, n);
    map_put(p->map, copy, n, (int32_t)p->n);
    p->word[p->n++] = (struct word){copy, (uint32_t)n, count};
}

static void count_words(struct part *p, const char *s, const char *end) {
    for (const char *q; s < end; s = q) {
        q = pre_next(&p->t->pre[0], s, end);
        part_add(p, s, (size_t)(q - s), 1);
    }
}

static void count_part(void *arg, int id, int n) {
    (void)n;
    struct part *p = &((struct part *)arg)[id];
    size_t size = (size_t)(p->hi - p->lo), at = 0, lo, hi;
    while (matcher_find(&p->t->raw_match[1], p->lo, size, at, &lo, &hi)) {
        count_words(p, p->lo + at, p->lo + lo);
        at = hi;
    }
    count_words(p, p->lo + at, p->hi);
}

static int part_init(struct part *p, const struct words_spec *s, struct err *err) {
    p->t = vocab_new("special tokens");
    p->map = map_new(1 << 14);
    p->t->n_pre = 1;
    p->t->pre[0].type = s->pre == WORDS_GPT2 ? PRE_GPT2 : PRE_LLAMA3;
    p->t->pre[0].digits = s->pre == WORDS_GPT2 ? 0 : 3;
    for (int i = 0; i < s->n_special; i++) {
        struct added a = {.text = s->special[i], .special = true};
        a.len = (uint32_t)strlen(a.text);
        if (vocab_add_token(p->t, &a, i, err))
            return -1;
    }
    matcher_build(p->t);
    return 0;
}

/* ---- one block ---- */

/* Counts the first n bytes of the block, which end at a cut or at the end of the file, and drops
 * them. */
static void count_block(struct reader *r, size_t n) {
    int n_part = pool_size(r->pool);
    const char *text = r->text.data;
    size_t lo = 0;
    for (int i = 0; i < n_part; i++) {
        size_t want = i + 1 == n_part ? n : n / (size_t)n_part * (size_t)(i + 1), hi = n;
        if (want < n)
            hi = want > lo ? lo + pre_cut(text + lo, want - lo) : lo;
        r->part[i].lo = text + lo;
        r->part[i].hi = text + hi;
        lo = hi;
    }
    pool_run(r->pool, count_part, r->part);
    r->text.len -= n;
    memmove(r->text.data, r->text.data + n, r->text.len);
}

/* Reads until the buffer holds `want` bytes; 1 = the file or the limit ended, 0 = there may be
 * more. */
static int fill(struct reader *r, int fd, const char *path, size_t want, struct err *err) {
    struct buf *b = &r->text;
    while (b->len < want) {
        size_t room = want - b->len;
        if (r->s->limit > 0 && (int64_t)room > r->s->limit - r->bytes)
            room = (size_t)(r->s->limit - r->bytes);
        buf_reserve(b, room);
        ssize_t got = room ? read(fd, b->data + b->len, room) : 0;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(err, E_IO, "%s: %s", path, strerror(errno));
        if (got == 0)
            return 1;
        const char *nul = memchr(b->data + b->len, 0, (size_t)got);
        if (nul)
            return err_set(err, E_FORMAT, "%s: byte %lld is NUL: not a text file", path,
                           (long long)(r->bytes - r->file_start + (nul - b->data - (long)b->len)));
        b->len += (size_t)got;
        r->bytes += got;
        if (r->s->progress)
            progress_update(&r->progress, r->bytes);
    }
    return 0;
}

static bool limit_reached(const struct reader *r) {
    return r->s->limit > 0 && r->bytes >= r->s->limit;
}

static int read_file(struct reader *r, const char *path, struct err *err) {
    size_t step = r->s->block ? r->s->block : BLOCK, n = (size_t)pool_size(r->pool), want;
    step = step * n < MAX_BLOCKS ? step * n : MAX_BLOCKS;
    int fd = open(path, O_RDONLY | O_CLOEXEC), end;
    if (fd < 0)
        return err_set(err, E_IO, "%s: %s", path, strerror(errno));
    r->file_start = r->bytes;
    for (want = step; (end = fill(r, fd, path, want, err)) == 0;) {
        size_t cut = pre_cut(r->text.data, r->text.len);
        if (cut == 0 && want >= MAX_UNCUT) {
            end = err_set(
                err, E_FORMAT, "%s: %zu MiB from byte %lld on have no white space to cut at", path,
                MAX_UNCUT >> 20, (long long)(r->bytes - r->file_start - (int64_t)r->text.len));
            break;
        }
        want = cut ? step : want * 2;
        if (cut)
            count_block(r, cut);
        want = want > r->text.len ? want : r->text.len + step;
    }
    close(fd);
    if (end < 0)
        return -1;
    if (r->bytes == r->file_start && !limit_reached(r))
        return err_set(err, E_FORMAT, "%s: is empty", path);
    size_t whole = r->text.len;
    if (limit_reached(r)) {
        whole = pre_cut(r->text.data, r->text.len);
        if (whole == 0 && r->bytes == (int64_t)r->text.len) /* it is all there is */
            whole = r->text.len;
    }
    count_block(r, whole);
    r->bytes -= (int64_t)r->text.len; /* the last word, which the limit may have torn */
    r->text.len = 0;
    return 0;
}

/* ---- all files ---- */

/* Refuses before any work what cannot be read; *total is the size of all. */
static int check_files(const char *const *path, int n, int64_t *total, struct err *err) {
    *total = 0;
    for (int i = 0; i < n; i++) {
        struct stat st;
        if (stat(path[i], &st) != 0 || access(path[i], R_OK) != 0)
            return err_set(err, E_IO, "%s: %s", path[i], strerror(errno));
        if (S_ISDIR(st.st_mode))
            return err_set(err, E_IO, "%s: is a folder, not a text file", path[i]);
        if (S_ISREG(st.st_mode) && st.st_size == 0)
            return err_set(err, E_FORMAT, "%s: is empty", path[i]);
        *total += st.st_size;
    }
    return 0;
}

/* Adds all parts to the first, and moves that to w. */
static void collect(struct reader *r, struct words *w) {
    struct part *to = &r->part[0];
    for (int i = 1; i < pool_size(r->pool); i++) {
        const struct part *p = &r->part[i];
        for (size_t k = 0; k < p->n; k++)
            part_add(to, p->word[k].text, p->word[k].len, p->word[k].count);
    }
    *w = (struct words){to->word, to->n, r->bytes, to->covered, to->total, to->t};
    to->word = NULL;
    to->t = NULL;
}

static void reader_free(struct reader *r) {
    for (int i = 0; r->part && i < pool_size(r->pool); i++) {
        tok_free(r->part[i].t);
        map_free(r->part[i].map);
        free(r->part[i].word);
    }
    free(r->part);
    pool_free(r->pool);
    buf_free(&r->text);
}

struct words *words_read(const struct words_spec *s, const char *const *path, int n_path,
                         struct err *err) {
    struct reader r = {.s = s};
    struct words *w = NULL;
    int64_t size;
    if (check_files(path, n_path, &size, err))
        return NULL;
    r.progress =
        progress_start("counting words", s->limit > 0 && s->limit < size ? s->limit : size);
    r.pool = pool_new(s->n_threads);
    r.part = mem_array((size_t)pool_size(r.pool), sizeof *r.part);
    for (int i = 0; i < pool_size(r.pool); i++)
        if (part_init(&r.part[i], s, err))
            goto out;
    for (int i = 0; i < n_path && !limit_reached(&r); i++)
        if (read_file(&r, path[i], err))
            goto out;
    w = mem_new(sizeof *w);
    collect(&r, w);
    if (w->n == 0) {
        err_set(err, E_FORMAT, "%s: no text besides special tokens", path[0]);
        words_free(w);
        w = NULL;
    }
out:
    if (s->progress)
        progress_end(&r.progress);
    reader_free(&r);
    return w;
}

void words_free(struct words *w) {
    if (!w)
        return;
    free(w->word);
    tok_free(w->tok);
    free(w);
}
