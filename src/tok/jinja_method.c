/* jinja_method.c - methods of strings, lists and objects, and the functions that every template
 * has.  Methods that would change a list or an object are left out, as in Jinja's immutable
 * sandbox. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "tok/jinja_impl.h"

/* The string argument i; an error if it is another type. */
static const struct jstr *str_arg(struct jrun *r, const struct jargs *a, int i) {
    if (a->v[i].type == J_STR)
        return a->v[i].s;
    jfail(r, "must be str, not %s", jtype_name(a->v[i]));
    return NULL;
}

static bool left_out(struct jv v) {
    return v.type == J_MISSING || v.type == J_NONE;
}

static int64_t int_arg(const struct jargs *a, int i, int64_t otherwise) {
    return a->v[i].type == J_INT ? a->v[i].i : otherwise;
}

/* ---- strings ---- */

static struct jv strip(struct jrun *r, struct jv v, const struct jargs *a, int sides) {
    const struct jstr *chars = left_out(a->v[0]) ? NULL : str_arg(r, a, 0);
    return jstrip(r, v.s, chars, sides);
}

static struct jv s_strip(struct jrun *r, struct jv v, const struct jargs *a) {
    return strip(r, v, a, J_LEFT | J_RIGHT);
}

static struct jv s_lstrip(struct jrun *r, struct jv v, const struct jargs *a) {
    return strip(r, v, a, J_LEFT);
}

static struct jv s_rstrip(struct jrun *r, struct jv v, const struct jargs *a) {
    return strip(r, v, a, J_RIGHT);
}

static struct jv s_upper(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return jcased(r, v.s, J_UPPER);
}

static struct jv s_lower(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return jcased(r, v.s, J_LOWER);
}

static struct jv s_title(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return jcased(r, v.s, J_TITLE);
}

static struct jv s_capitalize(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return jcased(r, v.s, J_CAPITALIZE);
}

static struct jv s_replace(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *from = str_arg(r, a, 0), *to = str_arg(r, a, 1);
    return from && to ? jreplace(r, v.s, from, to, int_arg(a, 2, -1)) : jundef("");
}

/* Does s begin (or end) with x, a string or a tuple of them? */
static bool has_affix(struct jrun *r, const struct jstr *s, struct jv x, bool end) {
    if (x.type == J_TUPLE) {
        for (int i = 0; i < x.seq->n && jstep(r, 0); i++)
            if (has_affix(r, s, x.seq->v[i], end))
                return true;
        return false;
    }
    if (x.type != J_STR) {
        jfail(r, "startswith and endswith: must be str or a tuple of str, not %s", jtype_name(x));
        return false;
    }
    return x.s->n <= s->n && !memcmp(s->p + (end ? s->n - x.s->n : 0), x.s->p, x.s->n);
}

static struct jv s_startswith(struct jrun *r, struct jv v, const struct jargs *a) {
    return jbool(has_affix(r, v.s, a->v[0], false));
}

static struct jv s_endswith(struct jrun *r, struct jv v, const struct jargs *a) {
    return jbool(has_affix(r, v.s, a->v[0], true));
}

static struct jv s_removeprefix(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *x = str_arg(r, a, 0);
    bool yes = x && has_affix(r, v.s, a->v[0], false);
    return yes ? jsub(r, v.s, x->n, v.s->n - x->n) : v;
}

static struct jv s_removesuffix(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *x = str_arg(r, a, 0);
    bool yes = x && has_affix(r, v.s, a->v[0], true);
    return yes ? jsub(r, v.s, 0, v.s->n - x->n) : v;
}

/* The last position of needle in s[0..end), or -1. */
static int64_t find_last(const struct jstr *s, const struct jstr *needle, size_t end) {
    for (int64_t at = (int64_t)end - needle->n; at >= 0; at--)
        if (!memcmp(s->p + at, needle->p, needle->n))
            return at;
    return -1;
}

static struct jv reversed(struct jrun *r, const struct jseq *s) {
    struct jv out = jseq_new(r, J_LIST);
    for (int i = s->n - 1; i >= 0 && jseq_add(r, out.seq, s->v[i]); i--)
        continue;
    return out;
}

/* Words between white space; at most `max` cuts, from the right if `right`. */
static struct jv split_space(struct jrun *r, const struct jstr *s, int64_t max, bool right) {
    struct jv words = jseq_new(r, J_LIST), out;
    size_t start = 0;
    bool in = false;
    int32_t cp;
    for (size_t i = 0, len; i <= s->n; i += len) {
        len = i < s->n ? (size_t)jchar(s->p + i, s->p + s->n, &cp) : 1;
        bool space = i == s->n || jspace(cp);
        if (in && space && !jseq_add(r, words.seq, jsub(r, s, start, i - start)))
            return words;
        if (!in && !space)
            start = i;
        in = !space;
    }
    const struct jseq *w = words.seq;
    if (max < 0 || w->n <= max + 1)
        return words;
    int n = (int)max; /* cuts: the rest stays one word, white space inside and behind it too */
    out = jseq_new(r, J_LIST);
    if (right) {
        const struct jstr *last = w->v[w->n - n - 1].s;
        jseq_add(r, out.seq, jsub(r, s, 0, (size_t)(last->p + last->n - s->p)));
    }
    for (int i = 0; i < n; i++)
        jseq_add(r, out.seq, w->v[right ? w->n - n + i : i]);
    if (!right) {
        size_t at = (size_t)(w->v[n].s->p - s->p);
        jseq_add(r, out.seq, jsub(r, s, at, s->n - at));
    }
    return out;
}

static struct jv split(struct jrun *r, struct jv v, const struct jargs *a, bool right) {
    int64_t max = int_arg(a, 1, -1);
    if (left_out(a->v[0]))
        return split_space(r, v.s, max, right);
    const struct jstr *sep = str_arg(r, a, 0), *s = v.s;
    struct jv out = jseq_new(r, J_LIST);
    if (!sep)
        return out;
    if (!sep->n)
        return jfail(r, "split: empty separator");
    size_t at = 0, end = s->n;
    for (int64_t hit; max && !right && (hit = jfind(s, sep, at)) >= 0; max--) {
        if (!jseq_add(r, out.seq, jsub(r, s, at, (size_t)hit - at)))
            return out;
        at = (size_t)hit + sep->n;
    }
    for (int64_t hit; max && right && (hit = find_last(s, sep, end)) >= 0; max--) {
        size_t from = (size_t)hit + sep->n;
        if (!jseq_add(r, out.seq, jsub(r, s, from, end - from)))
            return out;
        end = (size_t)hit;
    }
    jseq_add(r, out.seq, jsub(r, s, at, end - at));
    return right ? reversed(r, out.seq) : out;
}

static struct jv s_split(struct jrun *r, struct jv v, const struct jargs *a) {
    return split(r, v, a, false);
}

static struct jv s_rsplit(struct jrun *r, struct jv v, const struct jargs *a) {
    return split(r, v, a, true);
}

static struct jv s_splitlines(struct jrun *r, struct jv v, const struct jargs *a) {
    return jlines(r, v.s, jtrue(a->v[0]));
}

static struct jv partition(struct jrun *r, struct jv v, const struct jargs *a, bool right) {
    const struct jstr *sep = str_arg(r, a, 0), *s = v.s;
    struct jv out = jseq_new(r, J_TUPLE);
    if (!sep || !sep->n)
        return jfail(r, "partition: empty separator");
    int64_t hit = right ? find_last(s, sep, s->n) : jfind(s, sep, 0);
    size_t at = hit >= 0 ? (size_t)hit : right ? 0 : s->n, n = hit >= 0 ? sep->n : 0;
    jseq_add(r, out.seq, jsub(r, s, 0, at));
    jseq_add(r, out.seq, jsub(r, s, at, n));
    jseq_add(r, out.seq, jsub(r, s, at + n, s->n - at - n));
    return out;
}

static struct jv s_partition(struct jrun *r, struct jv v, const struct jargs *a) {
    return partition(r, v, a, false);
}

static struct jv s_rpartition(struct jrun *r, struct jv v, const struct jargs *a) {
    return partition(r, v, a, true);
}

/* Characters in front of byte `at`. */
static struct jv chars_to(const struct jstr *s, int64_t at) {
    struct jstr head = *s;
    if (at < 0)
        return jint(-1);
    head.n = (uint32_t)at;
    return jint((int64_t)jchars(&head));
}

static struct jv s_find(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *x = str_arg(r, a, 0);
    int64_t from = int_arg(a, 1, 0);
    if (from < 0)
        from += (int64_t)jchars(v.s);
    return x ? chars_to(v.s, jfind(v.s, x, jbyte_at(v.s, from < 0 ? 0 : (size_t)from))) : v;
}

static struct jv s_rfind(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *x = str_arg(r, a, 0);
    return x ? chars_to(v.s, find_last(v.s, x, v.s->n)) : v;
}

static struct jv s_index(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv at = s_find(r, v, a);
    return at.type == J_INT && at.i < 0 ? jfail(r, "substring not found") : at;
}

static struct jv s_count(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *x = str_arg(r, a, 0);
    int64_t n = 0, at = 0;
    if (x && !x->n)
        return jint((int64_t)jchars(v.s) + 1);
    for (; x && (at = jfind(v.s, x, (size_t)at)) >= 0 && jstep(r, 0); at += x->n)
        n++;
    return jint(n);
}

static struct jv s_join(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jseq *items = jitems(r, a->v[0]);
    struct jinja_text t = {0};
    for (int i = 0; i < items->n && jstep(r, 0) && t.text.len <= JINJA_MAX_TEXT; i++) {
        if (items->v[i].type != J_STR) {
            jfail(r, "sequence item %d: expected str instance, %s found", i,
                  jtype_name(items->v[i]));
            break;
        }
        if (i)
            jput(&t, v.s, 0, v.s->n);
        jput(&t, items->v[i].s, 0, items->v[i].s->n);
    }
    struct jv out = jstr_of(r, &t);
    jinja_text_free(&t);
    return out;
}

static bool is_alpha(int32_t cp) {
    utf8proc_category_t c = utf8proc_category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_digit(int32_t cp) {
    return utf8proc_category(cp) == UTF8PROC_CATEGORY_ND;
}

static bool is_alnum(int32_t cp) {
    return is_alpha(cp) || is_digit(cp);
}

static struct jv all_are(struct jv v, bool (*is)(int32_t)) {
    for (size_t i = 0; i < v.s->n;) {
        int32_t cp;
        i += (size_t)jchar(v.s->p + i, v.s->p + v.s->n, &cp);
        if (!is(cp))
            return jbool(false);
    }
    return jbool(v.s->n > 0);
}

static struct jv s_isalpha(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return all_are(v, is_alpha);
}

static struct jv s_isdigit(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return all_are(v, is_digit);
}

static struct jv s_isalnum(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return all_are(v, is_alnum);
}

static struct jv s_isspace(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return all_are(v, jspace);
}

static struct jv s_isupper(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(jis_case(v.s, true));
}

static struct jv s_islower(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)r;
    (void)a;
    return jbool(jis_case(v.s, false));
}

static struct jv justify(struct jrun *r, struct jv v, const struct jargs *a, bool left) {
    struct jstr blank = {.p = " ", .n = 1};
    const struct jstr *fill = left_out(a->v[1]) ? &blank : str_arg(r, a, 1);
    int64_t width = int_arg(a, 0, 0), n = width - (int64_t)jchars(v.s);
    struct jinja_text t = {0};
    if (!fill || fill->n == 0 || !jfits(r, width < 0 ? 0 : (size_t)width))
        return v;
    if (left)
        jput(&t, v.s, 0, v.s->n);
    for (int64_t i = 0; i < n; i++)
        jput(&t, fill, 0, fill->n);
    if (!left)
        jput(&t, v.s, 0, v.s->n);
    v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}

static struct jv s_ljust(struct jrun *r, struct jv v, const struct jargs *a) {
    return justify(r, v, a, true);
}

static struct jv s_rjust(struct jrun *r, struct jv v, const struct jargs *a) {
    return justify(r, v, a, false);
}

/* "{} {0} {name}" without format specifications */
static struct jv s_format(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *s = v.s;
    struct jinja_text t = {0};
    int next = 0;
    for (size_t i = 0; i < s->n && jstep(r, 0) && t.text.len <= JINJA_MAX_TEXT; i++) {
        char c = s->p[i];
        bool twice = (c == '{' || c == '}') && i + 1 < s->n && s->p[i + 1] == c;
        const char *close = c == '{' && !twice ? memchr(s->p + i, '}', s->n - i) : NULL;
        if (!close) {
            if ((c == '{' || c == '}') && !twice)
                jfail(r, "format: single '%c'", c);
            jput(&t, s, i, 1);
            i += twice;
            continue;
        }
        const char *name = s->p + i + 1;
        size_t n = (size_t)(close - name);
        int at = n ? 0 : next++;
        bool digits = true;
        for (size_t k = 0; k < n && digits; k++) {
            digits = name[k] >= '0' && name[k] <= '9' && k < 4;
            at = digits ? at * 10 + name[k] - '0' : -1;
        }
        const struct jv *x = digits && at < a->n ? &a->v[at] : NULL;
        for (int k = 0; k < a->n_kw && !digits; k++)
            if (strlen(a->kw[k].name) == n && !memcmp(a->kw[k].name, name, n))
                x = &a->kw[k].v;
        if (x)
            jprint(r, &t, *x);
        else
            jfail(r, "format: '{%.*s}' is not an argument", (int)(n > 40 ? 40 : n), name);
        i = (size_t)(close - s->p);
    }
    v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}

/* ---- objects and lists ---- */

static struct jv d_get(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jv *found = jdict_get(r, v.d, a->v[0]);
    return found ? *found : a->v[1].type == J_MISSING ? jnone() : a->v[1];
}

static struct jv d_items(struct jrun *r, struct jv v, const struct jargs *a) {
    return jfilter("items", 5)->fn(r, v, a);
}

static struct jv list_of(struct jrun *r, const struct jv *v, int n) {
    struct jv out = jseq_new(r, J_LIST);
    for (int i = 0; i < n && jseq_add(r, out.seq, v[i]); i++)
        continue;
    return out;
}

static struct jv d_keys(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return list_of(r, v.d->key, v.d->n);
}

static struct jv d_values(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return list_of(r, v.d->val, v.d->n);
}

static struct jv d_copy(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv out = jdict_new(r);
    (void)a;
    for (int i = 0; i < v.d->n && jdict_put(r, out.d, v.d->key[i], v.d->val[i]); i++)
        continue;
    return out;
}

static struct jv l_copy(struct jrun *r, struct jv v, const struct jargs *a) {
    (void)a;
    return list_of(r, v.seq->v, v.seq->n);
}

static struct jv l_index(struct jrun *r, struct jv v, const struct jargs *a) {
    for (int i = 0; i < v.seq->n && jstep(r, 0); i++)
        if (jequal(r, v.seq->v[i], a->v[0]))
            return jint(i);
    return jfail(r, "index: not in the list");
}

static struct jv l_count(struct jrun *r, struct jv v, const struct jargs *a) {
    int n = 0;
    for (int i = 0; i < v.seq->n && jstep(r, 0); i++)
        n += jequal(r, v.seq->v[i], a->v[0]);
    return jint(n);
}

/* ---- loop ---- */

static struct jv loop_cycle(struct jrun *r, struct jv v, const struct jargs *a) {
    return a->n ? a->v[v.loop->i % a->n] : jfail(r, "cycle: no items for cycling given");
}

static struct jv loop_changed(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv now = jseq_new(r, J_TUPLE);
    for (int i = 0; i < a->n && jseq_add(r, now.seq, a->v[i]); i++)
        continue;
    bool same = v.loop->changed.type == J_TUPLE && jequal(r, v.loop->changed, now);
    v.loop->changed = now;
    return jbool(!same);
}

/* ---- functions ---- */

static struct jv g_raise(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jinja_text t = {0};
    (void)v;
    jprint(r, &t, a->v[0]);
    err_set(r->err, E_USAGE, "chat template: %.*s", (int)(t.text.len > 400 ? 400 : t.text.len),
            t.text.len ? t.text.data : "");
    jinja_text_free(&t);
    return jundef("");
}

static struct jv g_now(struct jrun *r, struct jv v, const struct jargs *a) {
    const struct jstr *f = str_arg(r, a, 0);
    char format[128], s[512];
    struct tm tm;
    (void)v;
    if (!f || f->n >= sizeof format || memchr(f->p, 0, f->n))
        return jfail(r, "strftime_now: needs a short format");
    memcpy(format, f->p, f->n);
    format[f->n] = 0;
    localtime_r(&r->now, &tm);
    size_t n = strftime(s, sizeof s, format, &tm);
    return jstr_plain(r, s, n);
}

static struct jv g_range(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv out = jseq_new(r, J_LIST);
    int64_t from = 0, to, step = 1;
    (void)v;
    if (a->n < 1 || a->n > 3 || a->n_kw)
        return jfail(r, "range: needs one to three whole numbers");
    for (int i = 0; i < a->n; i++)
        if (a->v[i].type != J_INT || a->v[i].i > INT32_MAX || a->v[i].i < INT32_MIN)
            return jfail(r, "range: needs one to three whole numbers");
    from = a->n > 1 ? a->v[0].i : 0;
    to = a->v[a->n > 1].i;
    step = a->n > 2 ? a->v[2].i : 1;
    if (!step)
        return jfail(r, "range: the step is 0");
    if ((to - from) / step > 100000)
        return jfail(r, "range: more than 100000 numbers");
    for (; step > 0 ? from < to : from > to; from += step)
        if (!jseq_add(r, out.seq, jint(from)))
            break;
    return out;
}

static struct jv g_dict(struct jrun *r, struct jv v, const struct jargs *a) {
    struct jv out = jdict_new(r);
    (void)v;
    for (int i = 0; i < a->n; i++) {
        if (a->v[i].type != J_DICT)
            return jfail(r, "dict and namespace take objects and named values");
        for (int k = 0; k < a->v[i].d->n; k++)
            jdict_put(r, out.d, a->v[i].d->key[k], a->v[i].d->val[k]);
    }
    for (int i = 0; i < a->n_kw; i++) {
        struct jv key = jstr_plain(r, a->kw[i].name, strlen(a->kw[i].name));
        if (key.type != J_STR || !jdict_put(r, out.d, key, a->kw[i].v))
            break;
    }
    return out;
}

static struct jv g_namespace(struct jrun *r, struct jv v, const struct jargs *a) {
    v = g_dict(r, v, a);
    if (v.type == J_DICT)
        v.type = J_SPACE;
    return v;
}

/* ---- tables ---- */

static const struct jfunc methods[] = {
    {"capitalize", s_capitalize, "", J_STR},
    {"count", s_count, "sub!", J_STR},
    {"endswith", s_endswith, "suffix!", J_STR},
    {"find", s_find, "sub! start", J_STR},
    {"format", s_format, "*", J_STR},
    {"index", s_index, "sub! start", J_STR},
    {"isalnum", s_isalnum, "", J_STR},
    {"isalpha", s_isalpha, "", J_STR},
    {"isdecimal", s_isdigit, "", J_STR},
    {"isdigit", s_isdigit, "", J_STR},
    {"islower", s_islower, "", J_STR},
    {"isnumeric", s_isdigit, "", J_STR},
    {"isspace", s_isspace, "", J_STR},
    {"isupper", s_isupper, "", J_STR},
    {"join", s_join, "iterable!", J_STR},
    {"ljust", s_ljust, "width! fillchar", J_STR},
    {"lower", s_lower, "", J_STR},
    {"lstrip", s_lstrip, "chars", J_STR},
    {"partition", s_partition, "sep!", J_STR},
    {"removeprefix", s_removeprefix, "prefix!", J_STR},
    {"removesuffix", s_removesuffix, "suffix!", J_STR},
    {"replace", s_replace, "old! new! count", J_STR},
    {"rfind", s_rfind, "sub!", J_STR},
    {"rjust", s_rjust, "width! fillchar", J_STR},
    {"rpartition", s_rpartition, "sep!", J_STR},
    {"rsplit", s_rsplit, "sep maxsplit", J_STR},
    {"rstrip", s_rstrip, "chars", J_STR},
    {"split", s_split, "sep maxsplit", J_STR},
    {"splitlines", s_splitlines, "keepends", J_STR},
    {"startswith", s_startswith, "prefix!", J_STR},
    {"strip", s_strip, "chars", J_STR},
    {"title", s_title, "", J_STR},
    {"upper", s_upper, "", J_STR},
    {"copy", d_copy, "", J_DICT},
    {"get", d_get, "key! default", J_DICT},
    {"items", d_items, "", J_DICT},
    {"keys", d_keys, "", J_DICT},
    {"values", d_values, "", J_DICT},
    {"copy", l_copy, "", J_LIST},
    {"count", l_count, "value!", J_LIST},
    {"index", l_index, "value!", J_LIST},
    {"count", l_count, "value!", J_TUPLE},
    {"index", l_index, "value!", J_TUPLE},
    {"changed", loop_changed, "*", J_LOOP},
    {"cycle", loop_cycle, "*", J_LOOP},
};

static const struct jfunc globals[] = {
    {"dict", g_dict, "*", 0},
    {"namespace", g_namespace, "*", 0},
    {"raise_exception", g_raise, "message!", 0},
    {"range", g_range, "*", 0},
    {"strftime_now", g_now, "format!", 0},
};

const struct jfunc *jmethod(enum jtype type, const char *name) {
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (methods[i].of == type && strcmp(methods[i].name, name) == 0)
            return &methods[i];
    return NULL;
}

const struct jfunc *jglobal(const char *name) {
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (strcmp(globals[i].name, name) == 0)
            return &globals[i];
    return NULL;
}
