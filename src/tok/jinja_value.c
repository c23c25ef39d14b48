/* jinja_value.c - values of a template: memory with a budget, lists and objects, truth, equality,
 * order, and how Python prints them. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "tok/jinja_impl.h"

enum { CHUNK = 16 << 10 };

struct jchunk {
    struct jchunk *next;
    size_t used, size;
};

void *jarena_add(struct jarena *a, size_t n) {
    n = (n + 15) & ~(size_t)15;
    if (!a->chunk || a->chunk->size - a->chunk->used < n) {
        size_t size = n > CHUNK ? n : CHUNK;
        struct jchunk *c = mem_new(sizeof *c + 16 + size);
        c->next = a->chunk;
        c->size = size;
        a->chunk = c;
        a->total += size;
    }
    char *base = (char *)(((uintptr_t)(a->chunk + 1) + 15) & ~(uintptr_t)15);
    void *p = base + a->chunk->used;
    a->chunk->used += n;
    return p;
}

void jarena_free(struct jarena *a) {
    while (a->chunk) {
        struct jchunk *next = a->chunk->next;
        free(a->chunk);
        a->chunk = next;
    }
    a->total = 0;
}

/* ---- a run's limits ---- */

struct jv jfail(struct jrun *r, const char *fmt, ...) {
    char msg[320];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    err_set(r->err, E_FORMAT, "%s: line %d: %s", r->j->path, r->line, msg);
    return jundef("");
}

bool jstep(struct jrun *r, size_t bytes) {
    r->steps += 1 + (int64_t)(bytes / 64);
    if (r->steps > JINJA_MAX_STEPS)
        jfail(r, "more than %d steps", JINJA_MAX_STEPS);
    else if (r->arena.total > JINJA_MAX_MEMORY)
        jfail(r, "more than %d MiB of values", JINJA_MAX_MEMORY >> 20);
    return !r->err->code;
}

bool jfits(struct jrun *r, size_t n) {
    if (n > JINJA_MAX_TEXT)
        jfail(r, "more than %d MiB of text", JINJA_MAX_TEXT >> 20);
    return jstep(r, n);
}

void *jnew(struct jrun *r, size_t n) {
    return jarena_add(&r->arena, n);
}

/* ---- making ---- */

struct jv jbool(bool b) {
    return (struct jv){.type = J_BOOL, .b = b};
}

struct jv jint(int64_t i) {
    return (struct jv){.type = J_INT, .i = i};
}

struct jv jfloat(double f) {
    return (struct jv){.type = J_FLOAT, .f = f};
}

struct jv jundef(const char *name) {
    return (struct jv){.type = J_UNDEF, .name = name};
}

struct jv jnone(void) {
    return (struct jv){.type = J_NONE};
}

static struct jv str_value(struct jrun *r, const char *p, size_t n, const uint8_t *mark, bool all) {
    struct jstr *s = jnew(r, sizeof *s);
    *s = (struct jstr){.p = p, .n = (uint32_t)n, .mark = mark, .marked = all};
    return (struct jv){.type = J_STR, .s = s};
}

struct jv jstr_plain(struct jrun *r, const char *s, size_t n) {
    if (!jfits(r, n))
        return jundef("");
    char *copy = jnew(r, n + 1);
    memcpy(copy, s, n);
    return str_value(r, copy, n, NULL, false);
}

struct jv jstr_of(struct jrun *r, const struct jinja_text *t) {
    size_t n = t->text.len;
    if (!n)
        return str_value(r, "", 0, NULL, false);
    if (!jfits(r, n))
        return jundef("");
    char *copy = jnew(r, n);
    memcpy(copy, t->text.data, n);
    bool first = t->mark.data[0];
    if (!memchr(t->mark.data, !first, n))
        return str_value(r, copy, n, NULL, first);
    uint8_t *mark = jnew(r, n);
    memcpy(mark, t->mark.data, n);
    return str_value(r, copy, n, mark, false);
}

struct jv jsub(struct jrun *r, const struct jstr *s, size_t from, size_t n) {
    struct jstr *t = jnew(r, sizeof *t);
    *t = *s;
    t->p += from;
    t->n = (uint32_t)n;
    t->mark = s->mark ? s->mark + from : NULL;
    return (struct jv){.type = J_STR, .s = t};
}

void jput(struct jinja_text *t, const struct jstr *s, size_t from, size_t n) {
    if (s->mark) {
        buf_add(&t->text, s->p + from, n);
        buf_add(&t->mark, s->mark + from, n);
    } else {
        jput_text(t, s->p + from, n, s->marked);
    }
}

void jput_text(struct jinja_text *t, const char *p, size_t n, bool marked) {
    if (!n)
        return;
    buf_add(&t->text, p, n);
    buf_reserve(&t->mark, n);
    memset(t->mark.data + t->mark.len, marked, n);
    t->mark.len += n;
}

void jinja_text_free(struct jinja_text *t) {
    buf_free(&t->text);
    buf_free(&t->mark);
}

struct jv jseq_new(struct jrun *r, enum jtype type) {
    return (struct jv){.type = type, .seq = jnew(r, sizeof(struct jseq))};
}

static int depth_of(struct jv v) {
    bool seq = v.type == J_LIST || v.type == J_TUPLE || v.type == J_GEN;
    return seq ? v.seq->depth + 1 : v.type == J_DICT ? v.d->depth + 1 : 0;
}

static bool deepen(struct jrun *r, int *depth, struct jv v) {
    int d = depth_of(v);
    if (d > JINJA_MAX_VALUE)
        jfail(r, "lists and objects nested deeper than %d", JINJA_MAX_VALUE);
    *depth = d > *depth ? d : *depth;
    return jstep(r, 0);
}

bool jseq_add(struct jrun *r, struct jseq *s, struct jv v) {
    if (!deepen(r, &s->depth, v))
        return false;
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 8;
        struct jv *p = jnew(r, (size_t)cap * sizeof *p);
        if (s->n)
            memcpy(p, s->v, (size_t)s->n * sizeof *p);
        s->v = p;
        s->cap = cap;
    }
    s->v[s->n++] = v;
    return true;
}

struct jv jdict_new(struct jrun *r) {
    return (struct jv){.type = J_DICT, .d = jnew(r, sizeof(struct jdict))};
}

static bool same_str(const struct jstr *a, const struct jstr *b) {
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

bool jis(const struct jstr *s, const char *text) {
    return strlen(text) == s->n && memcmp(s->p, text, s->n) == 0;
}

struct jv *jdict_get(struct jrun *r, const struct jdict *d, struct jv key) {
    for (int i = 0; i < d->n; i++) {
        if (i % 16 == 15 && !jstep(r, 0))
            return NULL;
        bool str = d->key[i].type == J_STR && key.type == J_STR;
        if (str ? same_str(d->key[i].s, key.s) : jequal(r, d->key[i], key))
            return &d->val[i];
    }
    return NULL;
}

struct jv *jdict_name(struct jrun *r, const struct jdict *d, const char *name) {
    struct jstr s = {.p = name, .n = (uint32_t)strlen(name)};
    return jdict_get(r, d, (struct jv){.type = J_STR, .s = &s});
}

bool jdict_put(struct jrun *r, struct jdict *d, struct jv key, struct jv v) {
    if (depth_of(key) || key.type == J_UNDEF) {
        jfail(r, "unhashable type: '%s'", jtype_name(key));
        return false;
    }
    struct jv *old = jdict_get(r, d, key);
    if (!deepen(r, &d->depth, v))
        return false;
    if (old) {
        *old = v;
        return true;
    }
    if (d->n == d->cap) {
        int cap = d->cap ? 2 * d->cap : 8;
        struct jv *k = jnew(r, (size_t)cap * sizeof *k), *p = jnew(r, (size_t)cap * sizeof *p);
        if (d->n) {
            memcpy(k, d->key, (size_t)d->n * sizeof *k);
            memcpy(p, d->val, (size_t)d->n * sizeof *p);
        }
        d->key = k;
        d->val = p;
        d->cap = cap;
    }
    d->key[d->n] = key;
    d->val[d->n++] = v;
    return true;
}

static struct jv input_str(struct jrun *r, const char *p, size_t n, bool marked) {
    struct jv v = jstr_plain(r, p, n);
    return v.type == J_STR ? str_value(r, v.s->p, n, NULL, marked) : v;
}

static void from_json(struct jrun *r, const json_t *j, bool marked, int depth, struct jv *out) {
    const char *key;
    json_t *v;
    size_t i;
    struct jv x;
    *out = jundef("");
    if (depth > JINJA_MAX_VALUE)
        jfail(r, "lists and objects nested deeper than %d", JINJA_MAX_VALUE);
    if (!jstep(r, 0))
        return;
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        *out = jdict_new(r);
        json_object_foreach((json_t *)j, key, v) {
            from_json(r, v, marked, depth + 1, &x);
            struct jv name = input_str(r, key, strlen(key), marked);
            if (name.type != J_STR || !jdict_put(r, out->d, name, x))
                return;
        }
        break;
    case JSON_ARRAY:
        *out = jseq_new(r, J_LIST);
        json_array_foreach(j, i, v) {
            from_json(r, v, marked, depth + 1, &x);
            if (!jseq_add(r, out->seq, x))
                return;
        }
        break;
    case JSON_STRING:
        *out = input_str(r, json_string_value(j), json_string_length(j), marked);
        break;
    case JSON_INTEGER:
        *out = jint(json_integer_value(j));
        break;
    case JSON_REAL:
        *out = jfloat(json_real_value(j));
        break;
    case JSON_NULL:
        *out = jnone();
        break;
    default:
        *out = jbool(json_is_true(j));
    }
}

struct jv jfrom_json(struct jrun *r, const json_t *j, bool marked) {
    struct jv v;
    from_json(r, j, marked, 0, &v);
    return v;
}

/* ---- asking ---- */

const char *jtype_name(struct jv v) {
    static const char *const names[] = {"missing", "Undefined", "NoneType",    "bool",  "int",
                                        "float",   "str",       "list",        "tuple", "generator",
                                        "dict",    "Namespace", "LoopContext", "Macro", "function"};
    return names[v.type];
}

bool jtrue(struct jv v) {
    switch (v.type) {
    case J_MISSING:
    case J_UNDEF:
    case J_NONE:
        return false;
    case J_BOOL:
        return v.b;
    case J_INT:
        return v.i != 0;
    case J_FLOAT:
        return v.f != 0;
    case J_STR:
        return v.s->n > 0;
    case J_LIST:
    case J_TUPLE:
        return v.seq->n > 0;
    case J_DICT:
        return v.d->n > 0;
    default:
        return true;
    }
}

static bool is_number(struct jv v) {
    return v.type == J_BOOL || v.type == J_INT || v.type == J_FLOAT;
}

static int order_numbers(struct jv a, struct jv b) {
    if (a.type != J_FLOAT && b.type != J_FLOAT) {
        int64_t x = a.type == J_BOOL ? a.b : a.i, y = b.type == J_BOOL ? b.b : b.i;
        return (x > y) - (x < y);
    }
    double x = a.type == J_FLOAT ? a.f : a.type == J_BOOL ? a.b : (double)a.i;
    double y = b.type == J_FLOAT ? b.f : b.type == J_BOOL ? b.b : (double)b.i;
    return (x > y) - (x < y);
}

static bool equal_seq(struct jrun *r, const struct jseq *a, const struct jseq *b) {
    if (a->n != b->n)
        return false;
    for (int i = 0; i < a->n; i++)
        if (!jstep(r, 0) || !jequal(r, a->v[i], b->v[i]))
            return false;
    return true;
}

bool jequal(struct jrun *r, struct jv a, struct jv b) {
    if (is_number(a) && is_number(b))
        return order_numbers(a, b) == 0;
    if (a.type != b.type)
        return false;
    switch (a.type) {
    case J_STR:
        return same_str(a.s, b.s);
    case J_LIST:
    case J_TUPLE:
        return equal_seq(r, a.seq, b.seq);
    case J_DICT:
        if (a.d->n != b.d->n)
            return false;
        for (int i = 0; i < a.d->n; i++) {
            const struct jv *v = jstep(r, 0) ? jdict_get(r, b.d, a.d->key[i]) : NULL;
            if (!v || !jequal(r, a.d->val[i], *v))
                return false;
        }
        return true;
    case J_NONE:
    case J_UNDEF:
    case J_MISSING:
        return true;
    default:
        return a.seq == b.seq; /* the same thing */
    }
}

int jcompare(struct jrun *r, struct jv a, struct jv b) {
    if (is_number(a) && is_number(b))
        return order_numbers(a, b);
    if (a.type == J_STR && b.type == J_STR) {
        uint32_t n = a.s->n < b.s->n ? a.s->n : b.s->n;
        int c = memcmp(a.s->p, b.s->p, n);
        return c ? c : (a.s->n > b.s->n) - (a.s->n < b.s->n);
    }
    if (a.type == b.type && (a.type == J_LIST || a.type == J_TUPLE)) {
        for (int i = 0; i < a.seq->n && i < b.seq->n && jstep(r, 0); i++)
            if (!jequal(r, a.seq->v[i], b.seq->v[i]))
                return jcompare(r, a.seq->v[i], b.seq->v[i]);
        return (a.seq->n > b.seq->n) - (a.seq->n < b.seq->n);
    }
    jfail(r, "'%s' and '%s' cannot be ordered", jtype_name(a), jtype_name(b));
    return 0;
}

int jlength(struct jrun *r, struct jv v) {
    switch (v.type) {
    case J_UNDEF:
        return 0;
    case J_STR:
        return (int)jchars(v.s);
    case J_LIST:
    case J_TUPLE:
        return v.seq->n;
    case J_GEN:
        return v.seq->n - v.seq->at;
    case J_DICT:
        return v.d->n;
    default:
        jfail(r, "object of type '%s' has no len()", jtype_name(v));
        return -1;
    }
}

const struct jseq *jitems(struct jrun *r, struct jv v) {
    struct jseq *s = jnew(r, sizeof *s);
    switch (v.type) {
    case J_UNDEF:
        break;
    case J_LIST:
    case J_TUPLE:
        return v.seq;
    case J_GEN:
        if (!v.seq->n)
            break;
        *s = (struct jseq){
            .v = v.seq->v + v.seq->at, .n = v.seq->n - v.seq->at, .depth = v.seq->depth};
        v.seq->at = v.seq->n;
        break;
    case J_DICT:
        *s = (struct jseq){.v = v.d->key, .n = v.d->n, .cap = v.d->n};
        break;
    case J_STR:
        for (uint32_t i = 0, len; i < v.s->n; i += len) {
            int32_t cp;
            len = (uint32_t)jchar(v.s->p + i, v.s->p + v.s->n, &cp);
            if (!jseq_add(r, s, jsub(r, v.s, i, len)))
                break;
        }
        break;
    default:
        jfail(r, "'%s' object is not iterable", jtype_name(v));
    }
    return s;
}

bool jmarked(struct jv v) {
    bool any = false;
    switch (v.type) {
    case J_STR:
        return v.s->mark ? memchr(v.s->mark, 1, v.s->n) != NULL : v.s->marked;
    case J_LIST:
    case J_TUPLE:
    case J_GEN:
        for (int i = 0; i < v.seq->n && !any; i++)
            any = jmarked(v.seq->v[i]);
        return any;
    case J_DICT:
        for (int i = 0; i < v.d->n && !any; i++)
            any = jmarked(v.d->key[i]) || jmarked(v.d->val[i]);
        return any;
    default:
        return false;
    }
}

/* ---- printing ---- */

/* One more value may be written behind t. */
static bool room(struct jrun *r, const struct jinja_text *t) {
    return t->text.len <= JINJA_MAX_TEXT ? jstep(r, 0) : jfits(r, t->text.len);
}

/* Python's repr of a float: the shortest digits that read back the same. */
static void float_text(double f, char out[40]) {
    char s[40], digits[24];
    int precision = 1, exp;
    if (!isfinite(f)) {
        strcpy(out, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    do
        snprintf(s, sizeof s, "%.*e", precision - 1, f);
    while (strtod(s, NULL) != f && ++precision <= 17);
    char *e = strchr(s, 'e');
    exp = atoi(e + 1);
    const char *p = s + (s[0] == '-');
    int n = 0;
    for (; p < e; p++)
        if (*p != '.')
            digits[n++] = *p;
    const char *sign = s[0] == '-' ? "-" : "";
    if (exp < -4 || exp >= 16)
        snprintf(out, 40, "%s%c%s%.*se%c%02d", sign, digits[0], n > 1 ? "." : "", n - 1, digits + 1,
                 exp < 0 ? '-' : '+', abs(exp));
    else if (exp < 0)
        snprintf(out, 40, "%s0.%.*s%.*s", sign, -exp - 1, "0000", n, digits);
    else if (n <= exp + 1)
        snprintf(out, 40, "%s%.*s%.*s.0", sign, n, digits, exp + 1 - n, "0000000000000000");
    else
        snprintf(out, 40, "%s%.*s.%.*s", sign, exp + 1, digits, n - exp - 1, digits + exp + 1);
}

static void scalar(struct jinja_text *t, struct jv v) {
    char s[40];
    switch (v.type) {
    case J_NONE:
        strcpy(s, "None");
        break;
    case J_BOOL:
        strcpy(s, v.b ? "True" : "False");
        break;
    case J_INT:
        snprintf(s, sizeof s, "%" PRId64, v.i);
        break;
    case J_FLOAT:
        float_text(v.f, s);
        break;
    case J_UNDEF:
    case J_MISSING:
        s[0] = 0;
        break;
    default:
        snprintf(s, sizeof s, "<%s>", jtype_name(v));
    }
    jput_text(t, s, strlen(s), false);
}

static bool printable(int32_t cp) {
    utf8proc_category_t c = utf8proc_category(cp);
    return cp == ' ' || !(c == UTF8PROC_CATEGORY_CN || c >= UTF8PROC_CATEGORY_ZS);
}

static void repr_char(struct jinja_text *t, const struct jstr *s, size_t at, int len, int32_t cp,
                      char quote) {
    static const char from[] = "\n\r\t\\", to[] = "nrt\\";
    char e[16];
    const char *known = cp && cp < 128 ? strchr(from, cp) : NULL;
    bool marked = s->mark ? s->mark[at] : s->marked;
    if (known)
        snprintf(e, sizeof e, "\\%c", to[known - from]);
    else if (cp == quote)
        snprintf(e, sizeof e, "\\%c", quote);
    else if (printable(cp)) {
        jput(t, s, at, (size_t)len);
        return;
    } else
        snprintf(e, sizeof e,
                 cp < 256     ? "\\x%02x"
                 : cp < 65536 ? "\\u%04x"
                              : "\\U%08x",
                 (unsigned)cp);
    jput_text(t, e, strlen(e), marked);
}

static void repr_str(struct jinja_text *t, const struct jstr *s) {
    char quote = memchr(s->p, '\'', s->n) && !memchr(s->p, '"', s->n) ? '"' : '\'';
    jput_text(t, &quote, 1, false);
    for (size_t i = 0; i < s->n;) {
        int32_t cp;
        int len = jchar(s->p + i, s->p + s->n, &cp);
        repr_char(t, s, i, len, cp, quote);
        i += (size_t)len;
    }
    jput_text(t, &quote, 1, false);
}

void jrepr(struct jrun *r, struct jinja_text *t, struct jv v) {
    bool dict = v.type == J_DICT, seq = v.type == J_LIST || v.type == J_TUPLE;
    int n = dict ? v.d->n : seq ? v.seq->n : 0;
    if (!room(r, t) || (!dict && !seq && v.type != J_STR)) {
        scalar(t, v);
        return;
    }
    if (v.type == J_STR) {
        repr_str(t, v.s);
        return;
    }
    jput_text(t, dict ? "{" : v.type == J_LIST ? "[" : "(", 1, false);
    for (int i = 0; i < n && !r->err->code; i++) {
        if (i)
            jput_text(t, ", ", 2, false);
        jrepr(r, t, dict ? v.d->key[i] : v.seq->v[i]);
        if (dict) {
            jput_text(t, ": ", 2, false);
            jrepr(r, t, v.d->val[i]);
        }
    }
    if (v.type == J_TUPLE && n == 1)
        jput_text(t, ",", 1, false);
    jput_text(t, dict ? "}" : v.type == J_LIST ? "]" : ")", 1, false);
}

void jprint(struct jrun *r, struct jinja_text *t, struct jv v) {
    if (v.type == J_STR)
        jput(t, v.s, 0, v.s->n);
    else
        jrepr(r, t, v);
}

struct jv jto_str(struct jrun *r, struct jv v) {
    struct jinja_text t = {0};
    if (v.type == J_STR)
        return v;
    jprint(r, &t, v);
    v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}

/* ---- tojson ---- */

struct json_style {
    const char *comma, *colon;
    size_t n_comma, n_colon;
    const struct jstr *indent; /* of one level, or NULL */
    bool ascii, sort, marked;
};

static void put_json(struct jinja_text *t, const struct json_style *o, const char *s, size_t n) {
    jput_text(t, s, n, o->marked);
}

static void json_str(struct jinja_text *t, const struct json_style *o, const struct jstr *s) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    put_json(t, o, "\"", 1);
    for (size_t i = 0; i < s->n;) {
        int32_t cp;
        char e[16];
        int len = jchar(s->p + i, s->p + s->n, &cp);
        const char *known = cp && cp < 128 ? strchr(from, cp) : NULL;
        if (known)
            snprintf(e, sizeof e, "\\%c", to[known - from]);
        else if (cp < 32 || (o->ascii && cp > 126 && cp < 65536))
            snprintf(e, sizeof e, "\\u%04x", (unsigned)cp);
        else if (o->ascii && cp > 126)
            snprintf(e, sizeof e, "\\u%04x\\u%04x", 0xd800 + ((cp - 65536) >> 10),
                     0xdc00 + ((cp - 65536) & 1023));
        else
            snprintf(e, sizeof e, "%.*s", len, s->p + i);
        if (cp == 127 && !o->ascii)
            strcpy(e, "\x7f");
        put_json(t, o, e, cp == 0 ? 6 : strlen(e));
        i += (size_t)len;
    }
    put_json(t, o, "\"", 1);
}

static void json_newline(struct jinja_text *t, const struct json_style *o, int level) {
    if (!o->indent)
        return;
    put_json(t, o, "\n", 1);
    for (int i = 0; i < level; i++)
        put_json(t, o, o->indent->p, o->indent->n);
}

static void json_value(struct jrun *r, struct jinja_text *t, const struct json_style *o,
                       struct jv v, int level);

static void json_key(struct jrun *r, struct jinja_text *t, const struct json_style *o,
                     struct jv key) {
    bool str = key.type == J_STR;
    if (!str && key.type != J_NONE && !is_number(key)) {
        jfail(r, "tojson: keys must be strings, not %s", jtype_name(key));
        return;
    }
    if (!str)
        put_json(t, o, "\"", 1);
    json_value(r, t, o, key, 0);
    if (!str)
        put_json(t, o, "\"", 1);
    put_json(t, o, o->colon, o->n_colon);
}

/* Positions of the keys in the order in which they are written. */
static int *json_order(struct jrun *r, const struct json_style *o, const struct jdict *d) {
    int *order = jnew(r, (size_t)(d->n + 1) * sizeof *order);
    for (int i = 0; i < d->n; i++) {
        int at = i;
        while (o->sort && at > 0 && jstep(r, 0) &&
               jcompare(r, d->key[order[at - 1]], d->key[i]) > 0) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    return order;
}

static void json_value(struct jrun *r, struct jinja_text *t, const struct json_style *o,
                       struct jv v, int level) {
    if (!room(r, t))
        return;
    if (v.type == J_STR) {
        json_str(t, o, v.s);
        return;
    }
    bool dict = v.type == J_DICT, seq = v.type == J_LIST || v.type == J_TUPLE;
    if (!dict && !seq) {
        struct jinja_text s = {0};
        if (v.type == J_BOOL || v.type == J_NONE) {
            const char *word = v.type == J_NONE ? "null" : v.b ? "true" : "false";
            put_json(t, o, word, strlen(word));
        } else if (!is_number(v)) {
            jfail(r, "Object of type %s is not JSON serializable", jtype_name(v));
        } else {
            bool finite = v.type != J_FLOAT || isfinite(v.f);
            scalar(&s, v);
            if (finite)
                put_json(t, o, s.text.data, s.text.len);
            else
                put_json(t, o,
                         isnan(v.f) ? "NaN"
                         : v.f > 0  ? "Infinity"
                                    : "-Infinity",
                         isnan(v.f) ? 3
                         : v.f > 0  ? 8
                                    : 9);
        }
        jinja_text_free(&s);
        return;
    }
    int n = dict ? v.d->n : v.seq->n;
    const int *order = dict ? json_order(r, o, v.d) : NULL;
    put_json(t, o, dict ? "{" : "[", 1);
    for (int i = 0; i < n && !r->err->code; i++) {
        if (i)
            put_json(t, o, o->comma, o->n_comma);
        json_newline(t, o, level + 1);
        if (dict)
            json_key(r, t, o, v.d->key[order[i]]);
        json_value(r, t, o, dict ? v.d->val[order[i]] : v.seq->v[i], level + 1);
    }
    if (n)
        json_newline(t, o, level);
    put_json(t, o, dict ? "}" : "]", 1);
}

/* ensure_ascii indent separators sort_keys, as json.dumps has them. */
struct jv jto_json(struct jrun *r, struct jv v, const struct jargs *a) {
    struct json_style o = {.comma = ", ",
                           .colon = ": ",
                           .n_comma = 2,
                           .n_colon = 2,
                           .ascii = jtrue(a->v[0]),
                           .sort = jtrue(a->v[3]),
                           .marked = jmarked(v)};
    struct jstr blank = {.p = "                                                                "};
    if (a->v[1].type == J_STR) {
        o.indent = a->v[1].s;
    } else if (a->v[1].type == J_INT && a->v[1].i >= 0) {
        blank.n = a->v[1].i > 64 ? 64 : (uint32_t)a->v[1].i;
        o.indent = &blank;
    }
    o.n_comma = o.indent ? 1 : 2;
    if (a->v[2].type == J_TUPLE || a->v[2].type == J_LIST) {
        const struct jseq *s = a->v[2].seq;
        if (s->n != 2 || s->v[0].type != J_STR || s->v[1].type != J_STR)
            return jfail(r, "tojson: separators must be two strings");
        o.comma = s->v[0].s->p;
        o.n_comma = s->v[0].s->n;
        o.colon = s->v[1].s->p;
        o.n_colon = s->v[1].s->n;
    }
    struct jinja_text t = {0};
    json_value(r, &t, &o, v, 0);
    v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}
