/* jinja_str.c - strings of a template, in characters (code points) as Python counts them, each
 * operation carrying the marks of the bytes that it keeps.  A replaced case keeps the mark of the
 * character that it replaces. */
#include <string.h>
#include <utf8proc.h>

#include "tok/impl.h"
#include "tok/jinja_impl.h"

int jchar(const char *p, const char *end, int32_t *cp) {
    int len = utf8_next(p, end, cp);
    if (len)
        return len;
    *cp = 0xfffd;
    return 1;
}

size_t jchars(const struct jstr *s) {
    size_t n = 0;
    int32_t cp;
    for (size_t i = 0; i < s->n; n++)
        i += (size_t)jchar(s->p + i, s->p + s->n, &cp);
    return n;
}

size_t jbyte_at(const struct jstr *s, size_t i) {
    size_t at = 0;
    int32_t cp;
    for (; i && at < s->n; i--)
        at += (size_t)jchar(s->p + at, s->p + s->n, &cp);
    return at;
}

bool jspace(int32_t cp) {
    return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static bool in_set(const struct jstr *set, int32_t cp) {
    int32_t c;
    if (!set)
        return jspace(cp);
    for (size_t i = 0; i < set->n;) {
        i += (size_t)jchar(set->p + i, set->p + set->n, &c);
        if (c == cp)
            return true;
    }
    return false;
}

struct jv jstrip(struct jrun *r, const struct jstr *s, const struct jstr *chars, int sides) {
    size_t from = 0, to = s->n, keep;
    int32_t cp;
    if (!jstep(r, s->n))
        return jundef("");
    while ((sides & J_LEFT) && from < to) {
        int len = jchar(s->p + from, s->p + to, &cp);
        if (!in_set(chars, cp))
            break;
        from += (size_t)len;
    }
    keep = from;
    for (size_t i = from; i < to;) {
        i += (size_t)jchar(s->p + i, s->p + s->n, &cp);
        keep = in_set(chars, cp) ? keep : i;
    }
    return jsub(r, s, from, (sides & J_RIGHT ? keep : to) - from);
}

static bool cased(int32_t cp) {
    return utf8proc_tolower(cp) != cp || utf8proc_toupper(cp) != cp ||
           utf8proc_category(cp) == UTF8PROC_CATEGORY_LL ||
           utf8proc_category(cp) == UTF8PROC_CATEGORY_LU;
}

/* Behind which the title filter starts a word. */
static bool word_break(int32_t cp) {
    return cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || jspace(cp);
}

static void put_cased(struct jinja_text *t, const struct jstr *s, size_t at, int32_t cp,
                      bool upper) {
    utf8proc_uint8_t e[4];
    bool marked = s->mark ? s->mark[at] : s->marked;
    if (cp == 0xdf && upper) { /* the one common letter whose capital is two */
        jput_text(t, "SS", 2, marked);
        return;
    }
    utf8proc_ssize_t n =
        utf8proc_encode_char(upper ? utf8proc_toupper(cp) : utf8proc_tolower(cp), e);
    jput_text(t, (const char *)e, (size_t)n, marked);
}

struct jv jcased(struct jrun *r, const struct jstr *s, enum jcase how) {
    struct jinja_text t = {0};
    bool start = true;
    for (size_t i = 0; i < s->n && (i % 64 || jstep(r, 64));) {
        int32_t cp;
        int len = jchar(s->p + i, s->p + s->n, &cp);
        bool upper = how == J_UPPER || (how != J_LOWER && start);
        if (len == 1 && (s->p[i] & 0x80))
            jput(&t, s, i, 1);
        else
            put_cased(&t, s, i, cp, upper);
        start = how == J_TITLE ? !cased(cp) : how == J_WORDS ? word_break(cp) : false;
        i += (size_t)len;
    }
    struct jv v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}

bool jis_case(const struct jstr *s, bool upper) {
    bool any = false;
    for (size_t i = 0; i < s->n;) {
        int32_t cp;
        i += (size_t)jchar(s->p + i, s->p + s->n, &cp);
        if (!cased(cp))
            continue;
        if ((upper ? utf8proc_toupper(cp) : utf8proc_tolower(cp)) != cp)
            return false;
        any = true;
    }
    return any;
}

int64_t jfind(const struct jstr *s, const struct jstr *needle, size_t from) {
    if (from > s->n || needle->n > s->n - from)
        return -1;
    if (!needle->n)
        return (int64_t)from;
    const char *p = memmem(s->p + from, s->n - from, needle->p, needle->n);
    return p ? p - s->p : -1;
}

struct jv jreplace(struct jrun *r, const struct jstr *s, const struct jstr *from,
                   const struct jstr *to, int64_t count) {
    struct jinja_text t = {0};
    size_t at = 0;
    int32_t cp;
    for (int64_t hit; count && (hit = jfind(s, from, at)) >= 0; count--) {
        jput(&t, s, at, (size_t)hit - at);
        jput(&t, to, 0, to->n);
        at = (size_t)hit + from->n;
        if (!from->n) { /* between all characters */
            if (at == s->n) {
                at++;
                break;
            }
            size_t len = (size_t)jchar(s->p + at, s->p + s->n, &cp);
            jput(&t, s, at, len);
            at += len;
        }
        if (t.text.len > JINJA_MAX_TEXT || !jstep(r, to->n))
            break;
    }
    if (at < s->n)
        jput(&t, s, at, s->n - at);
    struct jv v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}

struct jv jlines(struct jrun *r, const struct jstr *s, bool keep) {
    struct jv v = jseq_new(r, J_LIST);
    size_t start = 0;
    for (size_t i = 0; i < s->n;) {
        int32_t cp;
        size_t end = i;
        i += (size_t)jchar(s->p + i, s->p + s->n, &cp);
        bool brk = (cp >= 10 && cp <= 13) || (cp >= 28 && cp <= 30) || cp == 0x85 || cp == 0x2028 ||
                   cp == 0x2029;
        if (!brk)
            continue;
        if (cp == '\r' && i < s->n && s->p[i] == '\n')
            i++;
        if (!jseq_add(r, v.seq, jsub(r, s, start, (keep ? i : end) - start)))
            return v;
        start = i;
    }
    if (start < s->n)
        jseq_add(r, v.seq, jsub(r, s, start, s->n - start));
    return v;
}

/* One conversion of the % operator: its letter, or 0 at a mistake; *spec is made fit for
 * snprintf. */
struct conversion {
    char letter, flags[8];
    int width, precision; /* -1 = none */
    const struct jstr *key;
};

static const char *conversion(struct jrun *r, const char *p, const char *end,
                              struct conversion *c) {
    *c = (struct conversion){.width = -1, .precision = -1};
    if (p < end && *p == '(') {
        const char *close = memchr(p, ')', (size_t)(end - p));
        if (!close)
            return NULL;
        struct jv key = jstr_plain(r, p + 1, (size_t)(close - p - 1));
        if (key.type != J_STR)
            return NULL;
        c->key = key.s;
        p = close + 1;
    }
    for (int n = 0; p < end && strchr("-+ 0#", *p) && *p && n < 6;)
        c->flags[n++] = *p++;
    for (; p < end && *p >= '0' && *p <= '9' && c->width < 1000; p++)
        c->width = (c->width < 0 ? 0 : c->width * 10) + *p - '0';
    if (p < end && *p == '.')
        for (p++, c->precision = 0; p < end && *p >= '0' && *p <= '9' && c->precision < 100; p++)
            c->precision = c->precision * 10 + *p - '0';
    if (p >= end || !strchr("sdifgexXr%", *p) || c->width > 1000 || c->precision > 100)
        return NULL;
    c->letter = *p;
    return p + 1;
}

static void put_padded(struct jinja_text *t, const struct conversion *c, const struct jstr *s) {
    size_t chars = jchars(s), width = c->width > 0 ? (size_t)c->width : 0;
    bool left = strchr(c->flags, '-') != NULL;
    if (c->precision >= 0 && (size_t)c->precision < chars)
        chars = (size_t)c->precision;
    for (size_t i = chars; i < width && !left; i++)
        jput_text(t, " ", 1, false);
    jput(t, s, 0, jbyte_at(s, chars));
    for (size_t i = chars; i < width && left; i++)
        jput_text(t, " ", 1, false);
}

static void convert(struct jrun *r, struct jinja_text *t, const struct conversion *c, struct jv v) {
    char spec[24], s[512];
    bool number = v.type == J_INT || v.type == J_FLOAT || v.type == J_BOOL;
    if (c->letter == 's' || c->letter == 'r') {
        struct jinja_text one = {0};
        if (c->letter == 's')
            jprint(r, &one, v);
        else
            jrepr(r, &one, v);
        struct jv text = jstr_of(r, &one);
        jinja_text_free(&one);
        if (text.type == J_STR)
            put_padded(t, c, text.s);
        return;
    }
    if (!number) {
        jfail(r, "%%%c format: a number is required, not %s", c->letter, jtype_name(v));
        return;
    }
    double f = v.type == J_FLOAT ? v.f : v.type == J_INT ? (double)v.i : v.b;
    bool real = strchr("fge", c->letter) != NULL;
    if (!real && !(f >= -9e18 && f <= 9e18)) {
        jfail(r, "%%%c format: the number is too large", c->letter);
        return;
    }
    long long i = v.type == J_FLOAT ? (long long)v.f : v.type == J_INT ? v.i : v.b;
    int width = c->width < 0 ? 0 : c->width > 400 ? 400 : c->width;
    int precision = c->precision < 0 ? (real ? 6 : 1) : c->precision;
    if (real) {
        snprintf(spec, sizeof spec, "%%%s*.*%c", c->flags, c->letter);
        snprintf(s, sizeof s, spec, width, precision, f);
    } else {
        bool zero = strchr(c->flags, '0') && c->precision < 0;
        snprintf(spec, sizeof spec, zero ? "%%%s*ll%c" : "%%%s*.*ll%c", c->flags,
                 c->letter == 'i' ? 'd' : c->letter);
        if (zero)
            snprintf(s, sizeof s, spec, width, i);
        else
            snprintf(s, sizeof s, spec, width, precision, i);
    }
    jput_text(t, s, strlen(s), false);
}

struct jv jformat(struct jrun *r, const struct jstr *f, struct jv args) {
    struct jinja_text t = {0};
    const char *p = f->p, *end = f->p + f->n;
    int used = 0, n = args.type == J_TUPLE ? args.seq->n : 1;
    while (p < end && jstep(r, 0) && t.text.len <= JINJA_MAX_TEXT) {
        const char *percent = memchr(p, '%', (size_t)(end - p));
        jput(&t, f, (size_t)(p - f->p), (size_t)((percent ? percent : end) - p));
        if (!percent)
            break;
        struct conversion c;
        p = conversion(r, percent + 1, end, &c);
        if (!p) {
            jfail(r, "unsupported %% format");
            break;
        }
        if (c.letter == '%') {
            jput(&t, f, (size_t)(percent - f->p), 1);
            continue;
        }
        struct jv v = args;
        if (c.key) {
            struct jv *found = args.type == J_DICT
                                   ? jdict_get(r, args.d, (struct jv){.type = J_STR, .s = c.key})
                                   : NULL;
            v = found ? *found : jfail(r, "no such key in the %% format");
        } else if (used++ >= n) {
            jfail(r, "not enough arguments for format string");
        } else if (args.type == J_TUPLE) {
            v = args.seq->v[used - 1];
        }
        convert(r, &t, &c, v);
    }
    if (!r->err->code && used < n && args.type != J_DICT)
        jfail(r, "not all arguments converted during string formatting");
    struct jv v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}
