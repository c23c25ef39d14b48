/* pretok.c - pre-tokenisers: cut text into the words that merges never cross. GPT-2's, Llama-3's
 * and Qwen2's patterns have scanners written by hand (a test holds them equal to PCRE2 on random
 * text); any other pattern runs on PCRE2 with JIT.
 *
 * White space is Unicode's White_Space.  PCRE2's \s also takes U+180E, so a subject that has one
 * is matched on a copy where it is U+200B: as long in UTF-8, and equal to it in every other
 * class. Bounds: PCRE2's match limit, its heap limit, and MATCH_SECONDS for all matches of one
 * tok_encode. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tok/impl.h"

/* ---- character classes ---- */

enum cls { OTHER, LETTER, NUMBER, SPACE, WIDE }; /* WIDE: look at the whole character */

static const unsigned char ascii_class[256] = {
    ['\t' ... '\r'] = SPACE, [' '] = SPACE,          ['0' ... '9'] = NUMBER,
    ['A' ... 'Z'] = LETTER,  ['a' ... 'z'] = LETTER, [128 ... 255] = WIDE,
};

static int wide_class(const char *p, const char *end, int *len) {
    int32_t cp;
    *len = utf8_next(p, end, &cp);
    if (*len == 0) {
        *len = 1;
        return OTHER;
    }
    if (is_space(cp))
        return SPACE;
    utf8proc_category_t c = utf8proc_category(cp);
    if (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO)
        return LETTER;
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO ? NUMBER : OTHER;
}

static inline int class_at(const char *p, const char *end, int *len) {
    int c = ascii_class[(unsigned char)*p];
    *len = 1;
    return c == WIDE ? wide_class(p, end, len) : c;
}

/* End of the run of class c from p. */
static inline const char *run(const char *p, const char *end, int c) {
    int len;
    for (; p < end; p += len) {
        len = 1;
        int have = ascii_class[(unsigned char)*p];
        if (have != c && (have != WIDE || wide_class(p, end, &len) != c))
            break;
    }
    return p;
}

/* ---- scanners: the end of the word that starts at p < end ---- */

/* 's 't 're 've 'm 'll 'd, in any case where `fold`; 0 = none.  U+017F folds to s. */
static int contraction(const char *p, const char *end, bool fold) {
    ptrdiff_t n = end - p;
    if (*p != '\'' || n < 2)
        return 0;
    int bit = fold ? 0x20 : 0;
    char a = (char)(p[1] | bit), b = n > 2 ? (char)(p[2] | bit) : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return 3;
    return fold && n > 2 && memcmp(p + 1, "\xc5\xbf", 2) == 0 ? 3 : 0;
}

/* \s+(?!\S)|\s+ : a run of white space, less its last character where a word follows. */
static const char *spaces(const char *p, const char *end) {
    const char *q = run(p, end, SPACE), *last = q - 1;
    if (q == end)
        return q;
    while (last > p && ((unsigned char)*last & 0xc0) == 0x80)
        last--;
    return last > p ? last : q;
}

static const char *gpt2_word(const char *p, const char *end) {
    int len, n = contraction(p, end, false);
    if (n)
        return p + n;
    const char *q = p + (*p == ' ' && p + 1 < end);
    int c = class_at(q, end, &len);
    if (c != SPACE)
        return run(q + len, end, c);
    return spaces(p, end);
}

static const char *digit_group(const char *p, const char *end, int most) {
    for (int len; most > 0 && p < end && class_at(p, end, &len) == NUMBER; most--)
        p += len;
    return p;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static const char *newlines(const char *p, const char *end) {
    const char *q = run(p, end, SPACE);
    while (q > p && q[-1] != '\n' && q[-1] != '\r')
        q--;
    return q > p ? q : spaces(p, end);
}

static const char *llama3_word(const char *p, const char *end, int digits) {
    int len, next, n = contraction(p, end, true);
    if (n)
        return p + n;
    int c = class_at(p, end, &len);
    if (c == LETTER)
        return run(p + len, end, LETTER);
    if (c == NUMBER)
        return digit_group(p, end, digits);
    bool newline = *p == '\r' || *p == '\n';
    if (!newline && p + len < end && class_at(p + len, end, &next) == LETTER)
        return run(p + len + next, end, LETTER);
    const char *q = p + (*p == ' ' && p + 1 < end);
    if (class_at(q, end, &next) == OTHER) {
        q = run(q + next, end, OTHER);
        while (q < end && (*q == '\r' || *q == '\n'))
            q++;
        return q;
    }
    return newlines(p, end);
}

/* ---- PCRE2 ---- */

#define MATCH_LIMIT 10000000
#define HEAP_KIB (64 * 1024)
#define MATCH_SECONDS 10
#define STARTS 4096 /* bytes of match starts tried between two looks at the clock */

struct regex {
    pcre2_code *code;
    char *pattern;
};

/* Scratch of one tok_encode. */
struct regex_state {
    pcre2_match_data *md;
    pcre2_match_context *mc;
    pcre2_jit_stack *stack;
    int64_t stop_us;
};

struct regex *regex_new(const char *path, const char *field, const char *pattern, size_t n,
                        struct err *err) {
    int code;
    PCRE2_SIZE at;
    PCRE2_UCHAR msg[160];
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)pattern, n,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF |
                                      PCRE2_USE_OFFSET_LIMIT | PCRE2_NEVER_BACKSLASH_C,
                                  &code, &at, NULL);
    if (!c) {
        pcre2_get_error_message(code, msg, sizeof msg);
        err_set(err, E_FORMAT, "%s: %s: pattern '%.60s', offset %zu: %s", path, field, pattern,
                (size_t)at, (char *)msg);
        return NULL;
    }
    pcre2_jit_compile(c, PCRE2_JIT_COMPLETE); /* where it fails, the interpreter runs */
    struct regex *r = mem_new(sizeof *r);
    r->code = c;
    r->pattern = mem_strdup(pattern);
    return r;
}

void regex_free(struct regex *r) {
    if (!r)
        return;
    pcre2_code_free(r->code);
    free(r->pattern);
    free(r);
}

static struct regex_state *state_new(void) {
    struct regex_state *s = mem_new(sizeof *s);
    s->md = pcre2_match_data_create(1, NULL);
    s->mc = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(32 * 1024, 1024 * 1024, NULL);
    pcre2_set_match_limit(s->mc, MATCH_LIMIT);
    pcre2_set_heap_limit(s->mc, HEAP_KIB);
    pcre2_jit_stack_assign(s->mc, NULL, s->stack);
    s->stop_us = clock_us() + (int64_t)MATCH_SECONDS * 1000000;
    return s;
}

void regex_state_free(struct regex_state *s) {
    if (!s)
        return;
    pcre2_match_data_free(s->md);
    pcre2_match_context_free(s->mc);
    pcre2_jit_stack_free(s->stack);
    free(s);
}

const char *regex_subject(const char *text, size_t n, struct buf *copy) {
    const char *at = n ? memmem(text, n, "\xe1\xa0\x8e", 3) : NULL;
    if (!at)
        return text;
    copy->len = 0;
    buf_add(copy, text, n);
    char *p = copy->data + (at - text), *end = copy->data + n;
    for (; p; p = memmem(p, (size_t)(end - p), "\xe1\xa0\x8e", 3))
        memcpy(p, "\xe2\x80\x8b", 3);
    return copy->data;
}

int regex_find(struct enc *e, const struct regex *r, const char *sub, size_t n, size_t from,
               size_t *lo, size_t *hi) {
    if (!e->regex)
        e->regex = state_new();
    struct regex_state *s = e->regex;
    while (from < n) {
        size_t limit = from + STARTS;
        pcre2_set_offset_limit(s->mc, limit);
        int rc = pcre2_match(r->code, (PCRE2_SPTR)sub, n, from, PCRE2_NOTEMPTY, s->md, s->mc);
        if (rc >= 0) {
            const PCRE2_SIZE *v = pcre2_get_ovector_pointer(s->md);
            if (v[0] < from || v[1] <= v[0]) /* \K can move the start anywhere */
                return err_set(e->err, E_FORMAT, "%s: pattern '%.60s' matches backwards",
                               e->t->path, r->pattern);
            *lo = v[0];
            *hi = v[1];
            return 1;
        }
        if (rc != PCRE2_ERROR_NOMATCH) {
            PCRE2_UCHAR msg[120];
            pcre2_get_error_message(rc, msg, sizeof msg);
            return err_set(e->err, E_FORMAT, "%s: pattern '%.60s' at byte %zu: %s", e->t->path,
                           r->pattern, from, (char *)msg);
        }
        if (clock_us() > s->stop_us)
            return err_set(e->err, E_FORMAT, "%s: pattern '%.60s' took more than %d s", e->t->path,
                           r->pattern, MATCH_SECONDS);
        from = limit + 1;
        while (from < n && ((unsigned char)sub[from] & 0xc0) == 0x80)
            from++;
    }
    return 0;
}

/* ---- splits ---- */

/* What a split has cut but not handed on yet; prev: was the last part a match? */
struct cutter {
    struct enc *e;
    int step;
    enum split how;
    const char *lo, *hi; /* pending, empty if lo == hi */
    bool prev;
};

static int flush(struct cutter *c) {
    const char *lo = c->lo, *hi = c->hi;
    c->lo = c->hi;
    return hi > lo ? pre_run(c->e, c->step, lo, (size_t)(hi - lo)) : 0;
}

/* The next part of the text, in order. */
static int cut(struct cutter *c, const char *lo, const char *hi, bool match) {
    bool joins = false;
    if (lo == hi)
        return 0;
    switch (c->how) {
    case SPLIT_ISOLATED:
    case SPLIT_REMOVED:
        break;
    case SPLIT_PREVIOUS:
        joins = match && !c->prev;
        break;
    case SPLIT_NEXT:
        joins = !match && c->prev;
        break;
    case SPLIT_CONTIGUOUS:
        joins = match == c->prev;
        break;
    }
    c->prev = match;
    if (joins && c->lo < c->hi) {
        c->hi = hi;
        return 0;
    }
    if (flush(c))
        return -1;
    if (c->how == SPLIT_REMOVED && match)
        return 0;
    c->lo = lo;
    c->hi = hi;
    return 0;
}

static int next_match(struct enc *e, const struct pre *p, const char *text, size_t n, size_t *lo,
                      size_t *hi) {
    size_t from = *hi;
    if (p->type == PRE_REGEX)
        return regex_find(e, p->re, text, n, from, lo, hi);
    const char *at = memmem(text + from, n - from, p->text, p->text_len);
    if (!at)
        return 0;
    *lo = (size_t)(at - text);
    *hi = *lo + p->text_len;
    return 1;
}

static int split_run(struct enc *e, int step, const char *text, size_t n) {
    const struct pre *p = &e->t->pre[step];
    struct cutter c = {e, step + 1, p->split, text, text, false};
    struct buf copy = {0};
    const char *sub = p->type == PRE_REGEX ? regex_subject(text, n, &copy) : text;
    size_t at = 0, lo = 0, hi = 0;
    int rc;
    while ((rc = next_match(e, p, sub, n, &lo, &hi)) > 0) {
        rc = cut(&c, text + at, text + lo, p->invert);
        if (rc || (rc = cut(&c, text + lo, text + hi, !p->invert)))
            break;
        at = hi;
    }
    if (rc == 0)
        rc = cut(&c, text + at, text + n, p->invert);
    if (rc == 0)
        rc = flush(&c);
    buf_free(&copy);
    return rc;
}

/* Runs of digits stand alone, or each digit does; what is between stays together. */
static int digits_run(struct enc *e, int step, const char *text, size_t n) {
    const char *end = text + n, *p = text, *lo = text;
    for (int len; p < end;) {
        if (class_at(p, end, &len) != NUMBER) {
            p += len;
            continue;
        }
        const char *q = e->t->pre[step].digits ? p + len : run(p + len, end, NUMBER);
        if ((p > lo && pre_run(e, step + 1, lo, (size_t)(p - lo))) ||
            pre_run(e, step + 1, p, (size_t)(q - p)))
            return -1;
        p = lo = q;
    }
    return end > lo ? pre_run(e, step + 1, lo, (size_t)(end - lo)) : 0;
}

/* Spaces become the replacement; words start at it. */
static int metaspace_run(struct enc *e, int step, const char *text, size_t n) {
    const struct pre *p = &e->t->pre[step];
    struct buf b = {0};
    bool has = n >= p->text_len && memcmp(text, p->text, p->text_len) == 0;
    if (p->prepend == PREPEND_ALWAYS || (p->prepend == PREPEND_FIRST && e->at_start))
        if (n && text[0] != ' ' && !has)
            buf_add(&b, p->text, p->text_len);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == ' ')
            buf_add(&b, p->text, p->text_len);
        else
            buf_addc(&b, text[i]);
    }
    int rc = 0;
    size_t lo = 0;
    for (size_t i = 1; i < b.len && rc == 0 && p->split == SPLIT_NEXT; i++)
        if (b.len - i >= p->text_len && memcmp(b.data + i, p->text, p->text_len) == 0) {
            rc = pre_run(e, step + 1, b.data + lo, i - lo);
            lo = i;
        }
    if (rc == 0 && b.len > lo)
        rc = pre_run(e, step + 1, b.data + lo, b.len - lo);
    buf_free(&b);
    return rc;
}

static int prefix_space_run(struct enc *e, int step, const char *text, size_t n) {
    if (n == 0 || text[0] == ' ')
        return pre_run(e, step + 1, text, n);
    struct buf b = {0};
    buf_addc(&b, ' ');
    buf_add(&b, text, n);
    int rc = pre_run(e, step + 1, b.data, b.len);
    buf_free(&b);
    return rc;
}

int pre_run(struct enc *e, int step, const char *text, size_t n) {
    if (step == e->t->n_pre) {
        bpe_word(e, text, n);
        return 0;
    }
    const struct pre *p = &e->t->pre[step];
    switch (p->type) {
    case PRE_GPT2:
    case PRE_LLAMA3:
        for (const char *next, *end = text + n; text < end; text = next) {
            next = pre_next(p, text, end);
            if (pre_run(e, step + 1, text, (size_t)(next - text)))
                return -1;
        }
        return 0;
    case PRE_DIGITS:
        return digits_run(e, step, text, n);
    case PRE_REGEX:
    case PRE_STRING:
        return split_run(e, step, text, n);
    case PRE_METASPACE:
        return metaspace_run(e, step, text, n);
    case PRE_PREFIX_SPACE:
        break;
    }
    return prefix_space_run(e, step, text, n);
}

/* The patterns that the scanners equal. */
static const struct {
    const char *pattern;
    enum pre_type type;
    int digits;
} known[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", PRE_GPT2,
     0},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     PRE_LLAMA3, 3},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     PRE_LLAMA3, 1},
};
#define N_KNOWN ((int)(sizeof known / sizeof *known))

int pre_from_pattern(const char *path, const char *pattern, size_t n, struct pre *p,
                     struct err *err) {
    for (int i = 0; i < N_KNOWN; i++)
        if (n == strlen(known[i].pattern) && memcmp(pattern, known[i].pattern, n) == 0) {
            p->type = known[i].type;
            p->digits = known[i].digits;
            return 0;
        }
    p->type = PRE_REGEX;
    p->re = regex_new(path, "pre_tokenizer", pattern, n, err);
    return p->re ? 0 : -1;
}

const char *pre_pattern(const struct pre *p) {
    int i = 0;
    while (known[i].type != p->type || known[i].digits != p->digits)
        i++;
    return known[i].pattern;
}

/* ---- one word at a time, for counting ---- */

const char *pre_next(const struct pre *p, const char *text, const char *end) {
    return p->type == PRE_GPT2 ? gpt2_word(text, end) : llama3_word(text, end, p->digits);
}

/* Class of the character that ends at p > text. */
static int class_before(const char *text, const char *p) {
    const char *q = p - 1;
    while (q > text && p - q < 4 && ((unsigned char)*q & 0xc0) == 0x80)
        q--;
    int len, c = class_at(q, p, &len);
    return q + len == p ? c : OTHER; /* the tail of an invalid sequence */
}

/* No word of either scanner goes on past a letter, a digit or a sign into white space, but
 * Llama-3's signs take the newlines that follow; and none goes on past a lone newline.  What
 * ends there is the same word whether the rest of the text is there or not. */
static bool can_cut(const char *text, size_t n, size_t at) {
    int len, before = class_before(text, text + at);
    if (ascii_class[(unsigned char)text[at]] == SPACE)
        return before == LETTER || before == NUMBER || (before == OTHER && text[at] == ' ');
    if (text[at - 1] != '\n' || n - at < 4 || class_at(text + at, text + n, &len) == SPACE)
        return false;
    return at == 1 || class_before(text, text + at - 1) != SPACE;
}

size_t pre_cut(const char *text, size_t n) {
    size_t at = n ? n - 1 : 0;
    while (at > 0 && !can_cut(text, n, at))
        at--;
    return at;
}
