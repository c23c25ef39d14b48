/* reader.c - see reader.h.
 *
 * A window of the file grows until it holds a separator. When it exceeds PIECE bytes without one,
 * the text up to a line's end is given away; the cut leaves a separator's length behind it, so that
 * none is missed. Invariants, in bytes of the window: those before `scanned` do not begin a
 * separator, those before `uncut` hold no place to cut. */
#include "train/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"

#define PIECE ((size_t)1 << 20)
#define READ_BYTES ((size_t)256 << 10)

struct reader {
    const char *path, *separator;
    size_t sep_len;
    bool lines;
    int fd;
    bool eof;
    struct buf buf;    /* the window is buf[from..len) */
    size_t from, used; /* used: bytes of the window that the last call gave away */
    size_t scanned, uncut;
    int64_t at, line; /* of the file, where the window starts */
    int64_t total;    /* bytes read */
    bool inside;      /* the next piece continues a document */
    int more;         /* continuation bytes that the last UTF-8 lead still wants */
    int64_t invalid;
};

struct reader *reader_open(const char *path, const char *separator, bool lines, struct err *err) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        err_set(err, E_IO, "%s: %s", path, strerror(errno));
        return NULL;
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        err_set(err, E_IO, "%s: not a regular file", path);
        return NULL;
    }
    struct reader *r = mem_new(sizeof *r);
    *r = (struct reader){
        .path = path, .separator = lines ? "\n" : separator, .lines = lines, .fd = fd, .line = 1};
    r->sep_len = r->separator ? strlen(r->separator) : 0;
    buf_reserve(&r->buf, READ_BYTES); /* the window is never NULL */
    return r;
}

void reader_close(struct reader *r) {
    if (!r)
        return;
    close(r->fd);
    buf_free(&r->buf);
    free(r);
}

/* Counts bytes that cannot be UTF-8; overlong forms pass, which is near enough to know text from
 * binary. */
static int check(struct reader *r, const unsigned char *s, size_t n, struct err *err) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = s[i];
        if (c == 0)
            return err_set(err, E_FORMAT, "%s: byte %lld is NUL: not a text file", r->path,
                           (long long)(r->total + (int64_t)i));
        if (r->more && (c & 0xc0) == 0x80) {
            r->more--;
            continue;
        }
        r->invalid += r->more > 0 || (c >= 0x80 && (c < 0xc2 || c > 0xf4));
        r->more = c < 0xc2 || c > 0xf4 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    }
    r->total += (int64_t)n;
    if (r->invalid * 100 > (r->total < 4096 ? 4096 : r->total))
        return err_set(err, E_FORMAT,
                       "%s: %lld of the first %lld bytes are not UTF-8: not a text file", r->path,
                       (long long)r->invalid, (long long)r->total);
    return 0;
}

/* Puts the window at the start of its buffer and reads on. */
static int fill(struct reader *r, struct err *err) {
    struct buf *b = &r->buf;
    if (r->from) {
        b->len -= r->from;
        memmove(b->data, b->data + r->from, b->len);
        r->from = 0;
    }
    buf_reserve(b, READ_BYTES);
    ssize_t n;
    do
        n = read(r->fd, b->data + b->len, READ_BYTES);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return err_set(err, E_IO, "%s: %s", r->path, strerror(errno));
    r->eof = n == 0;
    if (check(r, (unsigned char *)b->data + b->len, (size_t)n, err))
        return -1;
    b->len += (size_t)n;
    if (r->total == n && n >= 3 && memcmp(b->data, "\xef\xbb\xbf", 3) == 0)
        r->from = (size_t)(r->at = 3); /* a byte order mark is no text */
    return 0;
}

static bool is_white(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Behind the last line's end that a word follows, or else behind the last line's end; 0 = none. */
static size_t find_cut(struct reader *r, const char *s, size_t n) {
    size_t any = 0, keep = r->sep_len ? r->sep_len : 1, end = n > keep ? n - keep : 0;
    for (size_t i = end; i > r->uncut + 1; i--) {
        if (s[i - 1] != '\n')
            continue;
        if (!is_white(s[i]))
            return i;
        any = any ? any : i;
    }
    if (!any && end > 0)
        r->uncut = end - 1;
    return any;
}

/* The length of the next piece, growing the window; *last and r->used are set. -1 on failure. */
static int64_t next_length(struct reader *r, bool *last, struct err *err) {
    for (;;) {
        const char *s = r->buf.data + r->from, *hit = NULL;
        size_t n = r->buf.len - r->from;
        if (r->sep_len && n > r->scanned)
            hit = memmem(s + r->scanned, n - r->scanned, r->separator, r->sep_len);
        *last = hit || r->eof;
        if (hit) {
            r->used = (size_t)(hit - s) + r->sep_len;
            return hit - s;
        }
        r->scanned = r->sep_len && n >= r->sep_len ? n - r->sep_len + 1 : 0;
        if (r->eof)
            return (int64_t)(r->used = n);
        if (n > PIECE && !r->lines && (r->used = find_cut(r, s, n)) > 0)
            return (int64_t)r->used;
        if (n > READER_MAX)
            return err_set(err, E_FORMAT, "%s: %zu MiB from byte %lld on without the end of a line",
                           r->path, READER_MAX >> 20, (long long)r->at);
        if (fill(r, err))
            return -1;
    }
}

static int64_t count_lines(const char *s, size_t n) {
    int64_t lines = 0;
    for (const char *end = s + n; n && (s = memchr(s, '\n', (size_t)(end - s))); s++)
        lines++;
    return lines;
}

int reader_next(struct reader *r, struct piece *p, struct err *err) {
    for (;;) {
        r->at += (int64_t)r->used;
        r->line += count_lines(r->buf.data + r->from, r->used);
        r->from += r->used;
        r->used = r->scanned = r->uncut = 0;
        if (r->eof && r->from == r->buf.len && !r->inside)
            return 0;
        bool last;
        int64_t n = next_length(r, &last, err);
        if (n < 0)
            return -1;
        const char *s = r->buf.data + r->from;
        size_t lo = 0, hi = (size_t)n;
        while (!r->inside && lo < hi && is_white(s[lo]))
            lo++;
        while (last && hi > lo && is_white(s[hi - 1]))
            hi--;
        if (lo == hi && !(r->inside && last))
            continue; /* nothing but white space: an empty document, or the start of one */
        *p = (struct piece){
            s + lo, hi - lo, !r->inside, last, r->at + (int64_t)lo, r->line + count_lines(s, lo)};
        r->inside = !last;
        return 1;
    }
}
