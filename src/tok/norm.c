/* norm.c - normalisers: text in, text out, before it is split into words. Invalid UTF-8 passes
 * through untouched.  Unicode forms follow UAX #15 over utf8proc's tables, with our own
 * canonical ordering, since utf8proc sorts runs of combining marks in quadratic time. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "tok/impl.h"

int utf8_next(const char *p, const char *end, int32_t *cp) {
    const unsigned char *s = (const unsigned char *)p;
    ptrdiff_t n = end - p;
    if (n <= 0)
        return 0;
    unsigned c = s[0];
    if (c < 0x80) {
        *cp = (int32_t)c;
        return 1;
    }
    if (c < 0xc2 || c > 0xf4 || n < 2 || (s[1] & 0xc0) != 0x80)
        return 0;
    if (c < 0xe0) {
        *cp = (int32_t)((c & 0x1f) << 6 | (s[1] & 0x3fu));
        return 2;
    }
    if (n < 3 || (s[2] & 0xc0) != 0x80)
        return 0;
    if (c < 0xf0) {
        *cp = (int32_t)((c & 0x0f) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu));
        return *cp < 0x800 || (*cp >= 0xd800 && *cp <= 0xdfff) ? 0 : 3;
    }
    if (n < 4 || (s[3] & 0xc0) != 0x80)
        return 0;
    *cp = (int32_t)((c & 0x07) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu));
    return *cp < 0x10000 || *cp > 0x10ffff ? 0 : 4;
}

bool is_space(int32_t cp) {
    if (cp < 0x1680)
        return cp == 0x20 || (cp >= 9 && cp <= 13) || cp == 0x85 || cp == 0xa0;
    return cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static void add_cp(struct buf *out, int32_t cp) {
    utf8proc_uint8_t s[4];
    buf_add(out, s, (size_t)utf8proc_encode_char(cp, s));
}

/* A character that no Unicode form changes and that nothing before it can combine with. */
static bool is_inert(int32_t cp) {
    if (cp < 0x80)
        return true;
    if ((cp >= 0x1100 && cp <= 0x11ff) ||
        (cp >= 0xac00 && cp <= 0xd7a3)) /* Hangul composes by rule */
        return false;
    const utf8proc_property_t *p = utf8proc_get_property(cp);
    return p->combining_class == 0 && p->decomp_seqindex == UINT16_MAX &&
           (p->comb_index == UINT16_MAX || p->comb_index < 0x8000);
}

static int mark_class(int32_t cp) {
    return utf8proc_get_property(cp)->combining_class; /* 0..254 */
}

/* Stable sort by combining class: by insertion where short, else by counting. */
static void sort_marks(int32_t *cp, size_t n, struct ids *tmp) {
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            int32_t c = cp[i];
            size_t j = i;
            for (; j > 0 && mark_class(cp[j - 1]) > mark_class(c); j--)
                cp[j] = cp[j - 1];
            cp[j] = c;
        }
        return;
    }
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[mark_class(cp[i]) + 1]++;
    for (int c = 1; c < 257; c++)
        at[c] += at[c - 1];
    tmp->n = 0;
    ids_reserve(tmp, n);
    memcpy(tmp->id, cp, n * sizeof *cp);
    for (size_t i = 0; i < n; i++)
        cp[at[mark_class(tmp->id[i])]++] = tmp->id[i];
}

/* Sorts each run of non-starters. */
static void canonical_order(int32_t *cp, size_t n) {
    struct ids tmp = {0};
    for (size_t i = 0, j; i < n; i = j + 1) {
        bool sorted = true;
        int last = 0, c;
        for (j = i; j < n && (c = mark_class(cp[j])); j++) {
            sorted = sorted && c >= last;
            last = c;
        }
        if (!sorted)
            sort_marks(cp + i, j - i, &tmp);
    }
    ids_free(&tmp);
}

/* Appends the form of the valid UTF-8 s[0..n). */
static void unicode_part(enum norm_type form, const char *s, size_t n, struct ids *cps,
                         struct buf *out) {
    const char *end = s + n;
    bool compat = form == NORM_NFKC || form == NORM_NFKD,
         compose = form == NORM_NFC || form == NORM_NFKC;
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0),
        boundary = 0;
    int32_t cp = 0;
    cps->n = 0;
    for (int len; s < end; s += len) {
        len = utf8_next(s, end, &cp);
        ids_reserve(cps, 32); /* the longest decomposition has 18 */
        utf8proc_ssize_t k = utf8proc_decompose_char(cp, cps->id + cps->n, 32, options, &boundary);
        if (k > 0 && k <= 32)
            cps->n += (size_t)k;
    }
    canonical_order(cps->id, cps->n);
    utf8proc_ssize_t m = (utf8proc_ssize_t)cps->n;
    if (compose)
        m = utf8proc_normalize_utf32(cps->id, m, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < m; i++)
        add_cp(out, cps->id[i]);
}

/* False = nothing to change.  Only stretches between inert characters go through the tables. */
static bool unicode_form(enum norm_type form, const char *s, size_t n, struct buf *out) {
    const char *end = s + n, *done = s, *starter = s, *p = s;
    struct ids cps = {0};
    int32_t cp;
    while (p < end) {
        int len = utf8_next(p, end, &cp);
        if (len == 0 || is_inert(cp)) {
            starter = len ? p : p + 1;
            p += len ? len : 1;
            continue;
        }
        const char *q = p;
        while (q < end && (len = utf8_next(q, end, &cp)) && !is_inert(cp))
            q += len;
        buf_add(out, done, (size_t)(starter - done));
        unicode_part(form, starter, (size_t)(q - starter), &cps, out);
        done = starter = p = q;
    }
    if (done > s)
        buf_add(out, done, (size_t)(end - done));
    ids_free(&cps);
    return done > s;
}

static void per_char(const struct norm *op, const char *s, size_t n, struct buf *out) {
    const char *end = s + n;
    int32_t cp;
    for (int len; s < end; s += len) {
        len = utf8_next(s, end, &cp);
        if (len == 0) {
            buf_addc(out, *s);
            len = 1;
        } else if (op->type == NORM_STRIP_ACCENTS) {
            if (utf8proc_category(cp) != UTF8PROC_CATEGORY_MN)
                buf_add(out, s, (size_t)len);
        } else if (cp == 0x130) { /* the only character whose lower case has two */
            buf_adds(out, "i\xcc\x87");
        } else {
            add_cp(out, utf8proc_tolower(cp));
        }
    }
}

static void replace(const struct norm *op, const char *s, size_t n, struct buf *out) {
    const char *end = s + n, *hit;
    if (op->from_len == 1) { /* spaces, everywhere */
        size_t hits = 0;
        for (size_t i = 0; i < n; i++)
            hits += s[i] == op->from[0];
        buf_reserve(out, n + hits * op->to_len + 1); /* never NULL, even for no text */
        char *to = out->data + out->len;
        for (; s < end; s++) {
            if (*s != op->from[0]) {
                *to++ = *s;
                continue;
            }
            for (size_t i = 0; i < op->to_len; i++)
                *to++ = op->to[i];
        }
        out->len = (size_t)(to - out->data);
        return;
    }
    while (op->from_len && (hit = memmem(s, (size_t)(end - s), op->from, op->from_len))) {
        buf_add(out, s, (size_t)(hit - s));
        buf_add(out, op->to, op->to_len);
        s = hit + op->from_len;
    }
    buf_add(out, s, (size_t)(end - s));
}

static int replace_regex(struct enc *e, const struct norm *op, const char *s, size_t n,
                         struct buf *out) {
    struct buf copy = {0};
    const char *sub = regex_subject(s, n, &copy);
    size_t at = 0, lo, hi;
    int rc;
    while ((rc = regex_find(e, op->re, sub, n, at, &lo, &hi)) > 0) {
        buf_add(out, s + at, lo - at);
        buf_add(out, op->to, op->to_len);
        at = hi;
    }
    buf_add(out, s + at, n - at);
    buf_free(&copy);
    return rc;
}

/* SentencePiece: no spaces at the ends, one between words. */
static void squeeze(const char *s, size_t n, struct buf *out) {
    size_t was = out->len;
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' || (out->len > was && out->data[out->len - 1] != ' '))
            buf_addc(out, s[i]);
    while (out->len > was && out->data[out->len - 1] == ' ')
        out->len--;
}

/* Trims white space; only moves the view. */
static void strip(const struct norm *op, const char **s, size_t *n) {
    const char *end = *s + *n;
    int32_t cp;
    for (int len; op->left && (len = utf8_next(*s, end, &cp)) && is_space(cp);)
        *s += len;
    while (op->right && end > *s) {
        const char *p = end - 1;
        while (p > *s && ((unsigned char)*p & 0xc0) == 0x80)
            p--;
        if (utf8_next(p, end, &cp) == 0 || !is_space(cp))
            break;
        end = p;
    }
    *n = (size_t)(end - *s);
}

int norm_run(struct enc *e, const char *text, size_t n, const char **out, size_t *out_n) {
    const struct tok *t = e->t;
    int rc = 0, which = 0;
    size_t limit = n * 16 + 4096; /* NFKC makes at most 11 bytes of one */
    for (int i = 0; i < t->n_norm && rc == 0; i++) {
        const struct norm *op = &t->norm[i];
        struct buf *b = &e->norm[which];
        bool changed = true;
        b->len = 0;
        switch (op->type) {
        case NORM_NFC:
        case NORM_NFD:
        case NORM_NFKC:
        case NORM_NFKD:
            changed = unicode_form(op->type, text, n, b);
            break;
        case NORM_LOWER:
        case NORM_STRIP_ACCENTS:
            per_char(op, text, n, b);
            break;
        case NORM_STRIP:
            strip(op, &text, &n);
            changed = false;
            break;
        case NORM_PREPEND:
            if (n)
                buf_add(b, op->to, op->to_len);
            buf_add(b, text, n);
            break;
        case NORM_REPLACE:
            replace(op, text, n, b);
            break;
        case NORM_REPLACE_REGEX:
            rc = replace_regex(e, op, text, n, b);
            break;
        case NORM_SQUEEZE:
            squeeze(text, n, b);
            break;
        }
        if (b->len > limit && rc == 0)
            rc = err_set(e->err, E_FORMAT, "%s: normalizer: makes more than %zu bytes of the text",
                         t->path, limit);
        if (changed) {
            text = b->data ? b->data : "";
            n = b->len;
            which ^= 1;
        }
    }
    *out = text;
    *out_n = n;
    return rc;
}
