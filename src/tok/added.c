/* added.c - finds added and special tokens in text, leftmost and longest first. The set is
 * sorted; a candidate range of it narrows by one byte of text at a time, so a position costs at
 * most the longest token's length, and nothing where its first byte starts no token.
 *
 * Whatever the flag says, a token in the shape of a marker, <...> or [...], is never matched in
 * text whose special tokens are not to be parsed: a user must not be able to type one. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "tok/impl.h"

static int by_match(const void *pa, const void *pb) {
    const struct added *a = *(const struct added *const *)pa, *b = *(const struct added *const *)pb;
    size_t n = a->match_len < b->match_len ? a->match_len : b->match_len;
    int c = memcmp(a->match, b->match, n);
    return c ? c : a->match_len < b->match_len ? -1 : a->match_len > b->match_len;
}

static bool is_marker(const struct added *a) {
    char head = a->text[0], tail = a->text[a->len - 1];
    return a->special ||
           (a->len > 2 && ((head == '<' && tail == '>') || (head == '[' && tail == ']')));
}

static void build_one(struct matcher *m, struct tok *t, bool normalized, bool special) {
    m->sorted = mem_array((size_t)t->n_added + 1, sizeof *m->sorted);
    for (int i = 0; i < t->n_added; i++) {
        const struct added *a = &t->added[i];
        if (a->normalized != normalized || (!special && is_marker(a)) || a->match_len == 0)
            continue;
        m->sorted[m->n++] = a;
        m->first[(unsigned char)a->match[0]] = true;
    }
    qsort(m->sorted, (size_t)m->n, sizeof *m->sorted, by_match);
}

void matcher_build(struct tok *t) {
    struct enc e = {.t = t};
    for (int i = 0; i < t->n_added; i++) {
        struct added *a = &t->added[i];
        const char *s = a->text;
        size_t n = a->len;
        a->normalized =
            a->normalized && !a->special; /* special tokens always match as they are written */
        if (a->match)
            continue;
        if (a->normalized && norm_run(&e, a->text, a->len, &s, &n) == 0 && n <= TOK_MAX_PIECE)
            s = arena_add(t, s, n);
        else
            s = a->text, n = a->len;
        a->match = s;
        a->match_len = (uint32_t)n;
    }
    for (int special = 0; special < 2; special++) {
        build_one(&t->raw_match[special], t, false, special);
        build_one(&t->norm_match[special], t, true, special);
    }
    buf_free(&e.norm[0]);
    buf_free(&e.norm[1]);
    regex_state_free(e.regex);
}

void matcher_free(struct tok *t) {
    for (int i = 0; i < 2; i++) {
        free(t->raw_match[i].sorted);
        free(t->norm_match[i].sorted);
    }
}

/* First index in [lo, hi) whose byte at `depth` is >= b; tokens shorter than that sort before. */
static int lower(const struct matcher *m, int lo, int hi, uint32_t depth, int b) {
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        const struct added *a = m->sorted[mid];
        int have = a->match_len > depth ? (unsigned char)a->match[depth] : -1;
        if (have < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool is_word(int32_t cp) {
    utf8proc_category_t c = utf8proc_category(cp);
    return c <= UTF8PROC_CATEGORY_LO || (c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ND) ||
           c == UTF8PROC_CATEGORY_PC;
}

static int32_t char_before(const char *text, size_t at, size_t floor, size_t *start) {
    size_t i = at;
    int32_t cp = -1;
    do
        i--;
    while (i > floor && ((unsigned char)text[i] & 0xc0) == 0x80 && at - i < 4);
    if (utf8_next(text + i, text + at, &cp) == 0)
        cp = -1;
    *start = i;
    return cp;
}

static bool stands_alone(const char *text, size_t n, size_t lo, size_t hi) {
    size_t start;
    int32_t cp;
    if (lo > 0 && is_word(char_before(text, lo, 0, &start)))
        return false;
    return hi == n || utf8_next(text + hi, text + n, &cp) == 0 || !is_word(cp);
}

/* The longest token at `at`, respecting single_word. */
static const struct added *match_at(const struct matcher *m, const char *text, size_t n,
                                    size_t at) {
    const struct added *best = NULL;
    int lo = 0, hi = m->n;
    for (uint32_t depth = 0; at + depth < n; depth++) {
        int b = (unsigned char)text[at + depth];
        lo = lower(m, lo, hi, depth, b);
        hi = lower(m, lo, hi, depth, b + 1);
        if (lo == hi)
            break;
        const struct added *a = m->sorted[lo];
        if (a->match_len == depth + 1 &&
            (!a->single_word || stands_alone(text, n, at, at + depth + 1)))
            best = a;
    }
    return best;
}

/* Where the match a at `at` reaches with what lstrip and rstrip swallow. */
static void reach(const struct added *a, const char *text, size_t n, size_t from, size_t at,
                  size_t *lo, size_t *hi) {
    int32_t cp;
    *lo = at;
    *hi = at + a->match_len;
    for (size_t s; a->lstrip && *lo > from && is_space(char_before(text, *lo, from, &s)); *lo = s)
        continue;
    for (int len; a->rstrip && (len = utf8_next(text + *hi, text + n, &cp)) && is_space(cp);
         *hi += (size_t)len)
        continue;
}

const struct added *matcher_find(const struct matcher *m, const char *text, size_t n, size_t from,
                                 size_t *lo, size_t *hi) {
    if (m->n == 0)
        return NULL;
    for (size_t at = from; at < n; at++) {
        const struct added *a = m->first[(unsigned char)text[at]] ? match_at(m, text, n, at) : NULL;
        if (!a)
            continue;
        reach(a, text, n, from, at, lo, hi);
        return a;
    }
    return NULL;
}

/* The longest token of m[1] at `at` that is free of marks, else that of m[0]. */
static const struct added *marked_at(const struct matcher m[2], const char *text, const char *mark,
                                     size_t n, size_t at) {
    const struct added *a = match_at(&m[1], text, n, at);
    const char *first = a ? memchr(mark + at, 1, a->match_len) : NULL;
    if (!first)
        return a;
    a = first > mark + at ? match_at(&m[1], text, (size_t)(first - mark), at) : NULL;
    return a ? a : match_at(&m[0], text, n, at);
}

const struct added *matcher_find_marked(const struct matcher m[2], const char *text,
                                        const char *mark, size_t n, size_t from, size_t *lo,
                                        size_t *hi) {
    for (size_t at = from; at < n; at++) {
        if (!m[1].first[(unsigned char)text[at]])
            continue;
        const struct added *a = marked_at(m, text, mark, n, at);
        if (!a)
            continue;
        reach(a, text, n, from, at, lo, hi);
        return a;
    }
    return NULL;
}
