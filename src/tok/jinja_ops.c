/* jinja_ops.c - filters and tests, as Jinja2's built-in ones and transformers' tojson.  The tables
 * at the end are the only lists of them; a template that names another one is refused when it is
 * parsed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tok/jinja_impl.h"

/* str(v), as soft_str: NULL after an error */
static const struct jstr *text_of(struct jrun *r, struct jv v) {
    v = jto_str(r, v);
    return v.type == J_STR ? v.s : NULL;
}

static bool given(struct jv v) {
    return v.type != J_MISSING;
}

/* a.b.c of an item, as `attribute=` of filters has it; numbers are positions. */
static struct jv dotted(struct jrun *r, struct jv v, const struct jstr *path) {
    for (size_t at = 0; at <= path->n && jstep(r, 0);) {
        const char *dot = memchr(path->p + at, '.', path->n - at);
        size_t n = dot ? (size_t)(dot - path->p) - at : path->n - at;
        struct jv key = jsub(r, path, at, n);
        char *end, number[24];
        snprintf(number, sizeof number, "%.*s", (int)n, path->p + at);
        long i = strtol(number, &end, 10);
        v = jitem(r, v, n && n < 10 && !*end ? jint(i) : key);
        at += n + 1;
    }
    return v;
}

static struct jv pick(struct jrun *r, struct jv v, struct jv attribute) {
    if (attribute.type == J_STR)
        return dotted(r, v, attribute.s);
    return given(attribute) && attribute.type != J_NONE ? jitem(r, v, attribute) : v;
}

static struct jv lowered(struct jrun *r, struct jv v) {
    return v.type == J_STR ? jcased(r, v.s, J_LOWER) : v;
}

/* ---- text ---- */

static struct jv f_trim(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *s = text_of(r, v);
    bool all = !given(a->v[0]) || a->v[0].type == J_NONE;
    return s ? jstrip(r, s, all ? NULL : text_of(r, a->v[0]), J_LEFT | J_RIGHT) : jundef("");
}

static struct jv recase(struct jrun *r, struct jv v, enum jcase how) {
    const struct jstr *s = text_of(r, v);
    return s ? jcased(r, s, how) : jundef("");
}

static struct jv f_upper(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return recase(r, v, J_UPPER);
}

static struct jv f_lower(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return recase(r, v, J_LOWER);
}

static struct jv f_title(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return recase(r, v, J_WORDS);
}

static struct jv f_capitalize(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return recase(r, v, J_CAPITALIZE);
}

static struct jv f_replace(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *s = text_of(r, v), *from = text_of(r, a->v[0]), *to = text_of(r, a->v[1]);
    if (!s || !from || !to)
        return jundef("");
    return jreplace(r, s, from, to, a->v[2].type == J_INT ? a->v[2].i : -1);
}

static struct jv f_string(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return jto_str(r, v);
}

static struct jv f_safe(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *s = text_of(r, v);
    struct jstr *t = jnew(r, sizeof *t);
    (void)a;
    if (!s)
        return jundef("");
    *t = *s;
    t->safe = true;
    return (struct jv){.type = J_STR, .s = t};
}

struct jv jescape(struct jrun *r, const struct jstr *s) {
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    struct jinja_text t = {0};
    for (size_t i = 0; i < s->n && (i % 64 || jstep(r, 64)); i++) {
        const char *hit = s->p[i] ? strchr(from, s->p[i]) : NULL;
        if (hit)
            jput_text(&t, to[hit - from], strlen(to[hit - from]), s->mark ? s->mark[i] : s->marked);
        else
            jput(&t, s, i, 1);
    }
    struct jv v = jstr_of(r, &t);
    jinja_text_free(&t);
    return f_safe(r, v, NULL);
}

static struct jv f_escape(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *s = text_of(r, v);
    (void)a;
    return !s ? jundef("") : s->safe ? v : jescape(r, s);
}

/* width first blank */
static struct jv f_indent(struct jrun *r, struct jv v, const struct jargs *a) {
    static const char blanks[] = "                                                                ";
    struct jstr pad = {.p = blanks, .n = 4};
    const struct jstr *s = text_of(r, v);
    struct jinja_text t = {0};
    if (a->v[0].type == J_STR)
        pad = *a->v[0].s;
    else if (a->v[0].type == J_INT)
        pad.n = a->v[0].i < 0 ? 0 : a->v[0].i > 64 ? 64 : (uint32_t)a->v[0].i;
    if (!s)
        return jundef("");
    const struct jseq *line = jlines(r, s, false).seq;
    bool ends = s->n && s->p[s->n - 1] == '\n';
    int n = line->n + (ends || !line->n);
    for (int i = 0; i < n && jstep(r, pad.n) && t.text.len <= JINJA_MAX_TEXT; i++) {
        bool empty = i >= line->n || !line->v[i].s->n;
        if (i)
            jput_text(&t, "\n", 1, false);
        if (i ? jtrue(a->v[2]) || !empty : jtrue(a->v[1]))
            jput(&t, &pad, 0, pad.n);
        if (!empty)
            jput(&t, line->v[i].s, 0, line->v[i].s->n);
    }
    v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}

static struct jv f_format(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv args = jseq_new(r, J_TUPLE);
    for (int i = 0; i < a->n && jseq_add(r, args.seq, a->v[i]); i++)
        continue;
    const struct jstr *s = text_of(r, v);
    return s ? jformat(r, s, args) : jundef("");
}

/* d attribute */
static struct jv f_join(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jseq *items = jitems(r, v);
    const struct jstr *d = given(a->v[0]) ? text_of(r, a->v[0]) : NULL;
    struct jinja_text t = {0};
    for (int i = 0; i < items->n && jstep(r, 0) && t.text.len <= JINJA_MAX_TEXT; i++) {
        if (i && d)
            jput(&t, d, 0, d->n);
        jprint(r, &t, pick(r, items->v[i], a->v[1]));
    }
    v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}

static struct jv f_wordcount(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *s = text_of(r, v);
    int n = 0;
    bool in = false;
    (void)a;
    for (size_t i = 0; s && i < s->n;) {
        int32_t cp;
        i += (size_t)jchar(s->p + i, s->p + s->n, &cp);
        n += !jspace(cp) && !in;
        in = !jspace(cp);
    }
    return jint(n);
}

/* ---- numbers ---- */

/* The number that text is, by Python's int() or float(): 1 = yes. */
static bool number_in(const struct jstr *s, bool real, int base, struct jv *out) {
    char copy[64], *end;
    size_t n = 0;
    for (size_t i = 0; i < s->n && n < sizeof copy - 1; i++)
        if (s->p[i] != '_')
            copy[n++] = s->p[i];
    copy[n] = 0;
    if (!n || n == sizeof copy - 1 || strpbrk(copy, real ? "xXpP" : "."))
        return false;
    *out = real ? jfloat(strtod(copy, &end)) : jint(strtoll(copy, &end, base));
    if (end == copy)
        return false;
    while (*end && jspace(*end))
        end++;
    return !*end;
}

/* default base */
static struct jv f_int(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv out = given(a->v[0]) ? a->v[0] : jint(0), x;
    int base = a->v[1].type == J_INT && a->v[1].i >= 2 && a->v[1].i <= 36 ? (int)a->v[1].i : 10;
    (void)r;
    if (v.type == J_INT)
        return v;
    if (v.type == J_BOOL)
        return jint(v.b);
    if (v.type == J_STR && number_in(v.s, false, base, &x))
        return x;
    double f = NAN;
    if (v.type == J_FLOAT)
        f = v.f;
    else if (v.type == J_STR && number_in(v.s, true, 0, &x))
        f = x.f;
    return f >= -9.2e18 && f <= 9.2e18 ? jint((int64_t)f) : out;
}

static struct jv f_float(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv x;
    (void)r;
    if (v.type == J_FLOAT)
        return v;
    if (v.type == J_INT || v.type == J_BOOL)
        return jfloat(v.type == J_INT ? (double)v.i : v.b);
    if (v.type == J_STR && number_in(v.s, true, 0, &x))
        return x;
    return given(a->v[0]) ? a->v[0] : jfloat(0);
}

static struct jv f_abs(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    if (v.type == J_INT && v.i != INT64_MIN)
        return jint(v.i < 0 ? -v.i : v.i);
    if (v.type == J_FLOAT)
        return jfloat(fabs(v.f));
    return jfail(r, "bad operand type for abs(): '%s'", jtype_name(v));
}

/* precision method */
static struct jv f_round(struct jrun *r, struct jv v, const struct jargs *a) {
    int64_t p = a->v[0].type == J_INT ? a->v[0].i : 0;
    const struct jstr *how = a->v[1].type == J_STR ? a->v[1].s : NULL;
    struct jv f = f_float(r, v, &(struct jargs){.v = &(struct jv){J_MISSING, {0}}, .n = 1});
    if ((v.type != J_INT && v.type != J_FLOAT && v.type != J_BOOL) || p < 0 || p > 15)
        return jfail(r, "round: not a number, or a precision that is not in 0..15");
    if (how && (jis(how, "ceil") || jis(how, "floor"))) {
        double scale = pow(10, (double)p);
        return jfloat((jis(how, "ceil") ? ceil(f.f * scale) : floor(f.f * scale)) / scale);
    }
    char s[400];
    snprintf(s, sizeof s, "%.*f", (int)p, f.f); /* correctly rounded, as Python's */
    return v.type == J_FLOAT ? jfloat(strtod(s, NULL)) : v;
}

/* ---- lists ---- */

static struct jv f_length(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    int n = jlength(r, v);
    return jint(n);
}

static struct jv f_list(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jseq *items = jitems(r, v);
    struct jv out = jseq_new(r, J_LIST);
    (void)a;
    for (int i = 0; i < items->n && jseq_add(r, out.seq, items->v[i]); i++)
        continue;
    return out;
}

static struct jv f_items(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv out = jseq_new(r, J_LIST);
    (void)a;
    if (v.type == J_UNDEF)
        return out;
    if (v.type != J_DICT)
        return jfail(r, "Can only get item pairs from a mapping.");
    for (int i = 0; i < v.d->n; i++) {
        struct jv pair = jseq_new(r, J_TUPLE);
        jseq_add(r, pair.seq, v.d->key[i]);
        jseq_add(r, pair.seq, v.d->val[i]);
        if (!jseq_add(r, out.seq, pair))
            break;
    }
    return out;
}

static struct jv f_first(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    if (v.type == J_GEN)
        return v.seq->at < v.seq->n ? v.seq->v[v.seq->at++] : jundef("first");
    const struct jseq *items = jitems(r, v);
    return items->n ? items->v[0] : jundef("first");
}

static struct jv f_last(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jseq *items = jitems(r, v);
    (void)a;
    return items->n ? items->v[items->n - 1] : jundef("last");
}

static struct jv f_reverse(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jseq *items = jitems(r, v);
    struct jv out = jseq_new(r, J_GEN);
    struct jinja_text t = {0};
    (void)a;
    for (int i = items->n - 1; i >= 0; i--) {
        if (v.type == J_STR)
            jprint(r, &t, items->v[i]);
        else if (!jseq_add(r, out.seq, items->v[i]))
            break;
    }
    if (v.type == J_STR)
        out = jstr_of(r, &t);
    jinja_text_free(&t);
    return out;
}

/* Sorts n pairs of a key and a value, stable. */
struct sorting {
    struct jrun *r;
    struct jv *key, *val;
    bool down;
};

static void merge(const struct sorting *s, int lo, int mid, int hi, struct jv *k, struct jv *v) {
    int a = lo, b = mid;
    for (int i = lo; i < hi; i++) {
        bool right = a == mid;
        if (a < mid && b < hi && jstep(s->r, 0)) {
            int c = jcompare(s->r, s->key[b], s->key[a]);
            right = s->down ? c > 0 : c < 0;
        }
        int from = right && b < hi ? b++ : a++;
        k[i] = s->key[from];
        v[i] = s->val[from];
    }
}

static void sort_pairs(const struct sorting *s, int n) {
    struct jv *k = jnew(s->r, (size_t)(n + 1) * sizeof *k),
              *v = jnew(s->r, (size_t)(n + 1) * sizeof *v);
    for (int width = 1; width < n && !s->r->err->code; width *= 2) {
        for (int lo = 0; lo < n && !s->r->err->code; lo += 2 * width) {
            int mid = lo + width < n ? lo + width : n, hi = mid + width < n ? mid + width : n;
            merge(s, lo, mid, hi, k, v);
        }
        if (s->r->err->code)
            break;
        memcpy(s->key, k, (size_t)n * sizeof *k);
        memcpy(s->val, v, (size_t)n * sizeof *v);
    }
}

/* reverse case_sensitive attribute */
static struct jv f_sort(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv out = f_list(r, v, a);
    int n = out.seq->n;
    struct sorting s = {r, jnew(r, (size_t)(n + 1) * sizeof *s.key), out.seq->v, jtrue(a->v[0])};
    for (int i = 0; i < n && jstep(r, 0); i++) {
        s.key[i] = pick(r, out.seq->v[i], a->v[2]);
        if (!jtrue(a->v[1]))
            s.key[i] = lowered(r, s.key[i]);
    }
    if (!r->err->code)
        sort_pairs(&s, n);
    return out;
}

/* case_sensitive by reverse */
static struct jv f_dictsort(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv out = f_items(r, v, a);
    bool by_value = a->v[1].type == J_STR && jis(a->v[1].s, "value");
    if (out.type != J_LIST || r->err->code)
        return out;
    int n = out.seq->n;
    struct sorting s = {r, jnew(r, (size_t)(n + 1) * sizeof *s.key), out.seq->v, jtrue(a->v[2])};
    for (int i = 0; i < n && jstep(r, 0); i++) {
        s.key[i] = out.seq->v[i].seq->v[by_value];
        if (!jtrue(a->v[0]))
            s.key[i] = lowered(r, s.key[i]);
    }
    if (!r->err->code)
        sort_pairs(&s, n);
    return out;
}

/* case_sensitive attribute */
static struct jv f_unique(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jseq *items = jitems(r, v);
    struct jv out = jseq_new(r, J_GEN), seen = jseq_new(r, J_LIST);
    for (int i = 0; i < items->n && !r->err->code; i++) {
        struct jv key = pick(r, items->v[i], a->v[1]);
        bool old = false;
        if (!jtrue(a->v[0]))
            key = lowered(r, key);
        for (int k = 0; k < seen.seq->n && !old && jstep(r, 0); k++)
            old = jequal(r, seen.seq->v[k], key);
        if (!old) {
            jseq_add(r, seen.seq, key);
            jseq_add(r, out.seq, items->v[i]);
        }
    }
    return out;
}

static struct jv extreme(struct jrun *r, struct jv v, const struct jargs *a, int sign) {
    const struct jseq *items = jitems(r, v);
    struct jv best = jundef(sign < 0 ? "min" : "max"), best_key = best;
    for (int i = 0; i < items->n && jstep(r, 0); i++) {
        struct jv key = pick(r, items->v[i], a->v[1]);
        if (!jtrue(a->v[0]))
            key = lowered(r, key);
        if (i && jcompare(r, key, best_key) * sign <= 0)
            continue;
        best = items->v[i];
        best_key = key;
    }
    return best;
}

static struct jv f_min(struct jrun *r, struct jv v, const struct jargs *a) {
    return extreme(r, v, a, -1);
}

static struct jv f_max(struct jrun *r, struct jv v, const struct jargs *a) {
    return extreme(r, v, a, 1);
}

/* attribute start */
static struct jv f_sum(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jseq *items = jitems(r, v);
    struct jv sum = given(a->v[1]) ? a->v[1] : jint(0);
    for (int i = 0; i < items->n && jstep(r, 0); i++) {
        struct jv x = pick(r, items->v[i], a->v[0]);
        int64_t whole;
        bool ints = x.type == J_INT && sum.type == J_INT;
        if ((x.type != J_INT && x.type != J_FLOAT) || (sum.type != J_INT && sum.type != J_FLOAT))
            return jfail(r, "sum: '%s' is not a number", jtype_name(x));
        if (ints && __builtin_add_overflow(sum.i, x.i, &whole))
            return jfail(r, "sum: too large");
        sum = ints ? jint(whole)
                   : jfloat((sum.type == J_INT ? (double)sum.i : sum.f) +
                            (x.type == J_INT ? (double)x.i : x.f));
    }
    return sum;
}

/* A filter or test named by a[0], called on v with the arguments behind it. */
static struct jv by_name(struct jrun *r, struct jv v, const struct jargs *a, int at, bool test) {
    struct jv name = at < a->n ? a->v[at] : jundef("");
    const struct jfunc *f = NULL;
    if (name.type == J_STR)
        f = test ? jtest(name.s->p, name.s->n) : jfilter(name.s->p, name.s->n);
    if (!f)
        return jfail(r, "unknown %s '%.*s'", test ? "test" : "filter",
                     name.type == J_STR ? (int)name.s->n : 0, name.type == J_STR ? name.s->p : "");
    struct jargs rest = {a->v + at + 1, a->n - at - 1, a->kw, a->n_kw}; /* f: there is a->v[at] */
    return jbind(r, f, v, &rest);
}

static const struct jkw *keyword(const struct jargs *a, const char *name) {
    for (int i = 0; i < a->n_kw; i++)
        if (strcmp(a->kw[i].name, name) == 0)
            return &a->kw[i];
    return NULL;
}

/* map('filter', args...) or map(attribute='a', default=x) */
static struct jv f_map(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jseq *items = jitems(r, jtrue(v) ? v : jundef("")); /* none is as good as empty */
    const struct jkw *attribute = keyword(a, "attribute"), *other = keyword(a, "default");
    struct jv out = jseq_new(r, J_GEN);
    for (int i = 0; i < items->n && !r->err->code; i++) {
        struct jv x;
        if (a->n || !attribute)
            x = by_name(r, items->v[i], a, 0, false);
        else
            x = pick(r, items->v[i], attribute->v);
        if (x.type == J_UNDEF && other && !a->n)
            x = other->v;
        jseq_add(r, out.seq, x);
    }
    return out;
}

/* attr: the test is of an attribute named by the first argument; want: which result is kept. */
static struct jv choose(struct jrun *r, struct jv v, const struct jargs *a, bool attr, bool want) {
    const struct jseq *items = jitems(r, jtrue(v) ? v : jundef(""));
    struct jv out = jseq_new(r, J_GEN);
    if (attr && !a->n)
        return jfail(r, "selectattr and rejectattr need the name of an attribute");
    for (int i = 0; i < items->n && jstep(r, 0); i++) {
        struct jv x = attr ? pick(r, items->v[i], a->v[0]) : items->v[i];
        if (a->n > attr)
            x = by_name(r, x, a, attr, true);
        if (jtrue(x) == want)
            jseq_add(r, out.seq, items->v[i]);
    }
    return out;
}

static struct jv f_select(struct jrun *r, struct jv v, const struct jargs *a) {
    return choose(r, v, a, false, true);
}

static struct jv f_reject(struct jrun *r, struct jv v, const struct jargs *a) {
    return choose(r, v, a, false, false);
}

static struct jv f_selectattr(struct jrun *r, struct jv v, const struct jargs *a) {
    return choose(r, v, a, true, true);
}

static struct jv f_rejectattr(struct jrun *r, struct jv v, const struct jargs *a) {
    return choose(r, v, a, true, false);
}

/* ---- any value ---- */

/* default_value boolean */
static struct jv f_default(struct jrun *r, struct jv v, const struct jargs *a) {
    if (v.type != J_UNDEF && !(jtrue(a->v[1]) && !jtrue(v)))
        return v;
    return given(a->v[0]) ? a->v[0] : jstr_plain(r, "", 0);
}

static struct jv f_attr(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *s = text_of(r, a->v[0]);
    struct jv name = s ? jstr_plain(r, s->p, s->n) : jundef("");
    const struct jfunc *f = name.type == J_STR ? jmethod(v.type, name.s->p) : NULL;
    return f ? jattr(r, v, f->name) : jundef("attr");
}

/* ---- tests ---- */

static struct jv t_defined(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type != J_UNDEF);
}

static struct jv t_undefined(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_UNDEF);
}

static struct jv t_none(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_NONE);
}

static struct jv t_string(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_STR);
}

static struct jv t_mapping(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_DICT);
}

static struct jv t_sequence(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_STR || v.type == J_LIST || v.type == J_TUPLE || v.type == J_DICT ||
                 v.type == J_UNDEF);
}

static struct jv t_iterable(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv seq = t_sequence(r, v, a);
    return jbool(seq.b || v.type == J_GEN || v.type == J_LOOP);
}

static struct jv t_number(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_INT || v.type == J_FLOAT || v.type == J_BOOL);
}

static struct jv t_integer(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_INT);
}

static struct jv t_float(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_FLOAT);
}

static struct jv t_boolean(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_BOOL);
}

static struct jv t_true(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_BOOL && v.b);
}

static struct jv t_false(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_BOOL && !v.b);
}

static struct jv t_callable(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_MACRO || v.type == J_FUNC);
}

static struct jv t_lower(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *s = text_of(r, v);
    (void)a;
    return jbool(s && jis_case(s, false));
}

static struct jv t_upper(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *s = text_of(r, v);
    (void)a;
    return jbool(s && jis_case(s, true));
}

static struct jv divides(struct jrun *r, struct jv v, int64_t by, int64_t want) {
    if (v.type != J_INT || by == 0)
        return jfail(r, "divisibleby, odd and even are for whole numbers");
    int64_t rest = by == -1 ? 0 : v.i % by;
    return jbool((rest != 0) == want);
}

static struct jv t_odd(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return divides(r, v, 2, 1);
}

static struct jv t_even(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return divides(r, v, 2, 0);
}

static struct jv t_divisibleby(struct jrun *r, struct jv v, const struct jargs *a) {
    return divides(r, v, a->v[0].type == J_INT ? a->v[0].i : 0, 0);
}

static struct jv t_eq(struct jrun *r, struct jv v, const struct jargs *a) {
    return jbool(jequal(r, v, a->v[0]));
}

static struct jv t_ne(struct jrun *r, struct jv v, const struct jargs *a) {
    return jbool(!jequal(r, v, a->v[0]));
}

static struct jv t_lt(struct jrun *r, struct jv v, const struct jargs *a) {
    return jbool(jcompare(r, v, a->v[0]) < 0);
}

static struct jv t_le(struct jrun *r, struct jv v, const struct jargs *a) {
    return jbool(jcompare(r, v, a->v[0]) <= 0);
}

static struct jv t_gt(struct jrun *r, struct jv v, const struct jargs *a) {
    return jbool(jcompare(r, v, a->v[0]) > 0);
}

static struct jv t_ge(struct jrun *r, struct jv v, const struct jargs *a) {
    return jbool(jcompare(r, v, a->v[0]) >= 0);
}

static struct jv t_sameas(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv b = a->v[0];
    bool pointer = v.type >= J_STR && v.type == b.type;
    return jbool(pointer ? v.seq == b.seq : v.type == b.type && jequal(r, v, b));
}

static struct jv t_in(struct jrun *r, struct jv v, const struct jargs *a) {
    return jbool(jcontains(r, a->v[0], v));
}

static struct jv t_filter(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_STR && jfilter(v.s->p, v.s->n));
}

static struct jv t_test(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(v.type == J_STR && jtest(v.s->p, v.s->n));
}

bool jcontains(struct jrun *r, struct jv all, struct jv v) {
    if (all.type == J_STR) {
        if (v.type != J_STR)
            jfail(r, "'in <string>' requires string as left operand, not %s", jtype_name(v));
        return v.type == J_STR && jstep(r, all.s->n) && jfind(all.s, v.s, 0) >= 0;
    }
    if (all.type == J_DICT)
        return jdict_get(r, all.d, v) != NULL;
    const struct jseq *items = jitems(r, all);
    for (int i = 0; i < items->n && jstep(r, 0); i++)
        if (jequal(r, items->v[i], v))
            return true;
    return false;
}

/* ---- tables ---- */

static const struct jfunc filters[] = {
    {"abs", f_abs, "", 0},
    {"attr", f_attr, "name!", 0},
    {"capitalize", f_capitalize, "", 0},
    {"count", f_length, "", 0},
    {"d", f_default, "default_value boolean", 0},
    {"default", f_default, "default_value boolean", 0},
    {"dictsort", f_dictsort, "case_sensitive by reverse", 0},
    {"e", f_escape, "", 0},
    {"escape", f_escape, "", 0},
    {"first", f_first, "", 0},
    {"float", f_float, "default", 0},
    {"format", f_format, "*", 0},
    {"indent", f_indent, "width first blank", 0},
    {"int", f_int, "default base", 0},
    {"items", f_items, "", 0},
    {"join", f_join, "d attribute", 0},
    {"last", f_last, "", 0},
    {"length", f_length, "", 0},
    {"list", f_list, "", 0},
    {"lower", f_lower, "", 0},
    {"map", f_map, "*", 0},
    {"max", f_max, "case_sensitive attribute", 0},
    {"min", f_min, "case_sensitive attribute", 0},
    {"reject", f_reject, "*", 0},
    {"rejectattr", f_rejectattr, "*", 0},
    {"replace", f_replace, "old! new! count", 0},
    {"reverse", f_reverse, "", 0},
    {"round", f_round, "precision method", 0},
    {"safe", f_safe, "", 0},
    {"select", f_select, "*", 0},
    {"selectattr", f_selectattr, "*", 0},
    {"sort", f_sort, "reverse case_sensitive attribute", 0},
    {"string", f_string, "", 0},
    {"sum", f_sum, "attribute start", 0},
    {"title", f_title, "", 0},
    {"tojson", jto_json, "ensure_ascii indent separators sort_keys", 0},
    {"trim", f_trim, "chars", 0},
    {"unique", f_unique, "case_sensitive attribute", 0},
    {"upper", f_upper, "", 0},
    {"wordcount", f_wordcount, "", 0},
};

static const struct jfunc tests[] = {
    {"boolean", t_boolean, "", 0},
    {"callable", t_callable, "", 0},
    {"defined", t_defined, "", 0},
    {"divisibleby", t_divisibleby, "num!", 0},
    {"eq", t_eq, "other!", 0},
    {"equalto", t_eq, "other!", 0},
    {"==", t_eq, "other!", 0},
    {"even", t_even, "", 0},
    {"false", t_false, "", 0},
    {"filter", t_filter, "", 0},
    {"float", t_float, "", 0},
    {"ge", t_ge, "other!", 0},
    {">=", t_ge, "other!", 0},
    {"greaterthan", t_gt, "other!", 0},
    {"gt", t_gt, "other!", 0},
    {">", t_gt, "other!", 0},
    {"in", t_in, "seq!", 0},
    {"integer", t_integer, "", 0},
    {"iterable", t_iterable, "", 0},
    {"le", t_le, "other!", 0},
    {"<=", t_le, "other!", 0},
    {"lessthan", t_lt, "other!", 0},
    {"lower", t_lower, "", 0},
    {"lt", t_lt, "other!", 0},
    {"<", t_lt, "other!", 0},
    {"mapping", t_mapping, "", 0},
    {"ne", t_ne, "other!", 0},
    {"!=", t_ne, "other!", 0},
    {"none", t_none, "", 0},
    {"number", t_number, "", 0},
    {"odd", t_odd, "", 0},
    {"sameas", t_sameas, "other!", 0},
    {"sequence", t_sequence, "", 0},
    {"string", t_string, "", 0},
    {"test", t_test, "", 0},
    {"true", t_true, "", 0},
    {"undefined", t_undefined, "", 0},
    {"upper", t_upper, "", 0},
};

static const struct jfunc *find(const struct jfunc *table, size_t n, const char *name, size_t len) {
    for (size_t i = 0; i < n; i++)
        if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0)
            return &table[i];
    return NULL;
}

const struct jfunc *jfilter(const char *name, size_t n) {
    return find(filters, sizeof filters / sizeof *filters, name, n);
}

const struct jfunc *jtest(const char *name, size_t n) {
    return find(tests, sizeof tests / sizeof *tests, name, n);
}
