/* jinja_run.c - walks a template's tree.  Scopes as in Jinja2: loops, macros, blocks that capture
 * and `with` have their own, `if` has not; a loop's scope starts empty in each round. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "tok/jinja_impl.h"

enum go { GO_ON, GO_BREAK, GO_CONTINUE };

static struct jv eval(struct jrun *r, const struct jnode *n, struct jscope *s);
static enum go exec(struct jrun *r, const struct jnode *n, struct jscope *s);

/* ---- variables ---- */

/* The template's own pointer for a name, NULL if it never mentions it. */
static const char *known(const struct jrun *r, const char *name) {
    int32_t i = map_get(r->j->names, name, strlen(name));
    return i < 0 ? NULL : r->j->name[i];
}

static void define(struct jrun *r, struct jscope *s, const char *name, struct jv v) {
    if (!name)
        return;
    for (int i = 0; i < s->n; i++)
        if (s->var[i].name == name) {
            s->var[i].v = v;
            return;
        }
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 4;
        struct jvar *p = jnew(r, (size_t)cap * sizeof *p);
        if (s->n)
            memcpy(p, s->var, (size_t)s->n * sizeof *p);
        s->var = p;
        s->cap = cap;
    }
    s->var[s->n++] = (struct jvar){name, v};
}

static struct jv function(struct jrun *r, const struct jfunc *fn, struct jv self) {
    struct jbound *b = jnew(r, sizeof *b);
    *b = (struct jbound){fn, self};
    return (struct jv){.type = J_FUNC, .fn = b};
}

static struct jv variable(struct jrun *r, const struct jscope *s, const char *name) {
    for (; s; s = s->up)
        for (int i = 0; i < s->n; i++)
            if (s->var[i].name == name)
                return s->var[i].v;
    const struct jfunc *fn = jglobal(name);
    return fn ? function(r, fn, jnone()) : jundef(name);
}

static struct jscope *scope_new(struct jrun *r, struct jscope *up) {
    struct jscope *s = jnew(r, sizeof *s);
    s->up = up;
    return s;
}

static void assign(struct jrun *r, const struct jnode *to, struct jv v, struct jscope *s) {
    r->line = to->line;
    if (to->kind == X_NAME) {
        define(r, s, to->name, v);
    } else if (to->kind == X_ATTR) {
        struct jv ns = eval(r, to->kid[0], s);
        struct jv key = jstr_plain(r, to->name, strlen(to->name));
        if (ns.type != J_SPACE)
            jfail(r, "only attributes of a namespace can be set, not of '%s'", jtype_name(ns));
        else if (key.type == J_STR)
            jdict_put(r, ns.d, key, v);
    } else {
        const struct jseq *items = jitems(r, v);
        if (items->n != to->n)
            jfail(r, "%d values to unpack into %d names", items->n, to->n);
        for (int i = 0; i < to->n && !r->err->code; i++)
            assign(r, to->kid[i], items->v[i], s);
    }
}

/* ---- attributes and items ---- */

static struct jv loop_attr(struct jrun *r, const struct jloop *l, const char *name) {
    static const char *const names[] = {"index",  "index0",   "revindex", "revindex0",
                                        "length", "depth",    "depth0",   "first",
                                        "last",   "previtem", "nextitem"};
    const struct jseq *s = l->seq;
    int n = s->n, i = l->i, which = 0;
    int value[] = {i + 1, i, n - i, n - i - 1, n, 1, 0};
    while (which < 11 && strcmp(names[which], name))
        which++;
    (void)r;
    if (which < 7)
        return jint(value[which]);
    if (which < 9)
        return jbool(which == 7 ? i == 0 : i == n - 1);
    if (which == 9 && i > 0)
        return s->v[i - 1];
    return which == 10 && i + 1 < n ? s->v[i + 1] : jundef(name);
}

struct jv jattr(struct jrun *r, struct jv v, const char *name) {
    const struct jfunc *m = jmethod(v.type, name);
    if (v.type == J_UNDEF)
        return jfail(r, "'%s' is undefined", v.name);
    if (name[0] == '_' && name[1] == '_')
        return jfail(r, "access to attribute '%s' is not allowed", name);
    if (m)
        return function(r, m, v);
    if (v.type == J_LOOP)
        return loop_attr(r, v.loop, name);
    const struct jv *found =
        v.type == J_DICT || v.type == J_SPACE ? jdict_name(r, v.d, name) : NULL;
    return found ? *found : jundef(name);
}

/* A position: negative ones from the end; -1 = outside. */
static int64_t position(struct jv key, int64_t n) {
    int64_t i = key.type == J_BOOL ? key.b : key.i;
    i = i < 0 ? i + n : i;
    return i >= 0 && i < n ? i : -1;
}

struct jv jitem(struct jrun *r, struct jv v, struct jv key) {
    bool number = key.type == J_INT || key.type == J_BOOL;
    if (v.type == J_UNDEF)
        return jfail(r, "'%s' is undefined", v.name);
    if (v.type == J_DICT) {
        const struct jv *found = jdict_get(r, v.d, key);
        if (found)
            return *found;
    }
    if (number && (v.type == J_LIST || v.type == J_TUPLE)) {
        int64_t i = position(key, v.seq->n);
        return i < 0 ? jundef("item of a list") : v.seq->v[i];
    }
    if (number && v.type == J_STR) {
        int64_t i = position(key, (int64_t)jchars(v.s));
        int32_t cp;
        if (!jstep(r, v.s->n) || i < 0)
            return jundef("character of a string");
        size_t at = jbyte_at(v.s, (size_t)i);
        return jsub(r, v.s, at, (size_t)jchar(v.s->p + at, v.s->p + v.s->n, &cp));
    }
    if (key.type != J_STR)
        return jundef("item");
    struct jv name = jstr_plain(r, key.s->p, key.s->n); /* with a NUL behind it */
    if (name.type != J_STR)
        return name;
    return v.type == J_DICT && !jmethod(J_DICT, name.s->p) ? jundef(name.s->p)
                                                           : jattr(r, v, name.s->p);
}

static int64_t index_of(struct jrun *r, struct jv v, int64_t otherwise) {
    if (v.type == J_INT)
        return v.i;
    if (v.type == J_BOOL)
        return v.b;
    if (v.type != J_MISSING && v.type != J_NONE)
        jfail(r, "slice indices must be integers or None");
    return otherwise;
}

static int64_t bound(struct jrun *r, struct jv v, int64_t n, int64_t otherwise, bool down) {
    if (v.type == J_MISSING || v.type == J_NONE)
        return otherwise;
    int64_t i = index_of(r, v, 0);
    i = i < -n - 1 ? -n - 1 : i > n + 1 ? n + 1 : i;
    i = i < 0 ? i + n : i;
    return i < 0 ? (down ? -1 : 0) : i >= n ? (down ? n - 1 : n) : i;
}

static struct jv slice(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jv v = eval(r, n->kid[0], s), part[3];
    for (int i = 0; i < 3; i++)
        part[i] = n->kid[i + 1] ? eval(r, n->kid[i + 1], s) : (struct jv){J_MISSING, {0}};
    r->line = n->line;
    if (v.type != J_STR && v.type != J_LIST && v.type != J_TUPLE)
        return v.type == J_UNDEF ? jfail(r, "'%s' is undefined", v.name) : jundef("slice");
    int64_t len = jlength(r, v);
    int64_t step = index_of(r, part[2], 1);
    if (r->err->code)
        return jundef("slice");
    if (!step)
        return jfail(r, "slice step cannot be zero");
    int64_t from = bound(r, part[0], len, step < 0 ? len - 1 : 0, step < 0);
    int64_t to = bound(r, part[1], len, step < 0 ? -1 : len, step < 0);
    step = step > len + 1 ? len + 1 : step < -len - 1 ? -len - 1 : step;
    if (v.type == J_STR && step == 1) {
        size_t a = jbyte_at(v.s, (size_t)from), b = jbyte_at(v.s, (size_t)to);
        jstep(r, v.s->n);
        return jsub(r, v.s, a, b > a ? b - a : 0);
    }
    const struct jseq *items = jitems(r, v);
    struct jv out = jseq_new(r, v.type == J_STR ? J_LIST : v.type);
    for (; !r->err->code && (step > 0 ? from < to : from > to); from += step)
        jseq_add(r, out.seq, items->v[from]);
    if (v.type != J_STR || r->err->code)
        return out;
    struct jinja_text t = {0};
    for (int i = 0; i < out.seq->n; i++)
        jprint(r, &t, out.seq->v[i]);
    out = jstr_of(r, &t);
    jinja_text_free(&t);
    return out;
}

/* ---- calls ---- */

static void add_arg(struct jrun *r, struct jargs *a, int *cap, struct jv v) {
    if (a->n == *cap) {
        *cap = *cap ? 2 * *cap : 4;
        struct jv *p = jnew(r, (size_t)*cap * sizeof *p);
        if (a->n)
            memcpy(p, a->v, (size_t)a->n * sizeof *p);
        a->v = p;
    }
    a->v[a->n++] = v;
}

static void add_keyword(struct jrun *r, struct jargs *a, const char *name, struct jv v) {
    if (a->n_kw % 8 == 0) {
        struct jkw *p = jnew(r, (size_t)(a->n_kw + 8) * sizeof *p);
        if (a->n_kw)
            memcpy(p, a->kw, (size_t)a->n_kw * sizeof *p);
        a->kw = p;
    }
    for (int i = 0; i < a->n_kw; i++)
        if (!strcmp(a->kw[i].name, name))
            jfail(r, "argument '%s' is given twice", name);
    a->kw[a->n_kw++] = (struct jkw){name, v};
}

/* Evaluates the arguments of a call, filter or test: its kids from 1 on. */
static struct jargs arguments(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jargs a = {0};
    int cap = 0;
    for (int i = 1; i < n->n && !r->err->code; i++) {
        const struct jnode *k = n->kid[i];
        bool named = k->kind == X_KW, star = k->kind == X_STAR, stars = k->kind == X_STARS;
        struct jv v = eval(r, named || star || stars ? k->kid[0] : k, s);
        if (named) {
            add_keyword(r, &a, k->name, v);
        } else if (star) {
            const struct jseq *items = jitems(r, v);
            for (int x = 0; x < items->n && jstep(r, 0); x++)
                add_arg(r, &a, &cap, items->v[x]);
        } else if (stars && v.type != J_DICT) {
            jfail(r, "argument after ** must be a mapping, not %s", jtype_name(v));
        } else if (stars) {
            for (int x = 0; x < v.d->n && jstep(r, 0); x++) {
                struct jv key = jto_str(r, v.d->key[x]);
                if (key.type == J_STR)
                    key = jstr_plain(r, key.s->p, key.s->n);
                if (key.type == J_STR)
                    add_keyword(r, &a, key.s->p, v.d->val[x]);
            }
        } else {
            add_arg(r, &a, &cap, v);
        }
    }
    r->line = n->line;
    return a;
}

struct jv jbind(struct jrun *r, const struct jfunc *fn, struct jv self, const struct jargs *a) {
    struct jv v[6] = {{0}};
    struct jargs given = {.v = v};
    int used = 0;
    if (r->err->code)
        return jundef("");
    if (!strcmp(fn->params, "*"))
        return fn->fn(r, self, a);
    for (const char *p = fn->params; *p; given.n++) {
        size_t n = strcspn(p, " !");
        if (given.n < a->n)
            v[given.n] = a->v[given.n];
        for (int i = 0; i < a->n_kw; i++)
            if (strlen(a->kw[i].name) == n && !memcmp(a->kw[i].name, p, n)) {
                v[given.n] = a->kw[i].v;
                used++;
            }
        if (p[n] == '!' && v[given.n].type == J_MISSING)
            return jfail(r, "%s: argument '%.*s' is missing", fn->name, (int)n, p);
        p += n + (p[n] == '!');
        p += *p == ' ';
    }
    if (a->n > given.n || used < a->n_kw)
        return jfail(r, "%s: an argument is unknown or one too many", fn->name);
    return fn->fn(r, self, &given);
}

static struct jv capture(struct jrun *r, const struct jnode *body, struct jscope *s) {
    struct jinja_text t = {0}, *was = r->out;
    r->out = &t;
    exec(r, body, s);
    r->out = was;
    struct jv v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}

static const struct jkw *keyword(const struct jargs *a, const char *name) {
    for (int i = 0; i < a->n_kw; i++)
        if (!strcmp(a->kw[i].name, name))
            return &a->kw[i];
    return NULL;
}

static void rest_of_arguments(struct jrun *r, struct jscope *s, const struct jnode *m,
                              const struct jargs *a) {
    struct jv rest = jseq_new(r, J_TUPLE), named = jdict_new(r);
    for (int i = m->n - 1; i < a->n && jseq_add(r, rest.seq, a->v[i]); i++)
        continue;
    for (int i = 0; i < a->n_kw && !r->err->code; i++) {
        bool parameter = false;
        for (int k = 1; k < m->n; k++)
            parameter = parameter || !strcmp(m->kid[k]->name, a->kw[i].name);
        struct jv key = jstr_plain(r, a->kw[i].name, strlen(a->kw[i].name));
        if (!parameter && key.type == J_STR)
            jdict_put(r, named.d, key, a->kw[i].v);
    }
    if ((rest.seq->n && !known(r, "varargs")) || (named.d->n && !known(r, "kwargs")))
        jfail(r, "macro '%s': an argument is unknown or one too many", m->name);
    define(r, s, known(r, "varargs"), rest);
    define(r, s, known(r, "kwargs"), named);
}

static struct jv call_macro(struct jrun *r, const struct jmacro *m, const struct jargs *a,
                            struct jv caller) {
    const struct jnode *n = m->node;
    struct jscope *s = scope_new(r, m->scope);
    for (int i = 1; i < n->n && !r->err->code; i++) {
        const struct jnode *p = n->kid[i];
        const struct jkw *kw = keyword(a, p->name);
        struct jv v = jundef(p->name);
        if (i <= a->n)
            v = a->v[i - 1];
        else if (kw)
            v = kw->v;
        else if (p->kind == X_KW)
            v = eval(r, p->kid[0], s);
        define(r, s, p->name, v);
    }
    rest_of_arguments(r, s, n, a);
    if (caller.type != J_MISSING)
        define(r, s, known(r, "caller"), caller);
    return capture(r, n->kid[0], s);
}

struct jv jcall(struct jrun *r, struct jv f, const struct jargs *a) {
    struct jv caller = r->caller;
    r->caller = (struct jv){J_MISSING, {0}};
    if (r->err->code)
        return jundef("");
    if (f.type == J_MACRO)
        return call_macro(r, f.macro, a, caller);
    if (f.type == J_FUNC)
        return jbind(r, f.fn->fn, f.fn->self, a);
    if (f.type == J_UNDEF)
        return jfail(r, "'%s' is undefined", f.name);
    return jfail(r, "'%s' object is not callable", jtype_name(f));
}

static struct jv call(struct jrun *r, const struct jnode *n, struct jscope *s, struct jv caller) {
    struct jv f = eval(r, n->kid[0], s);
    struct jargs a = arguments(r, n, s);
    r->caller = caller;
    return jcall(r, f, &a);
}

static struct jv macro(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jmacro *m = jnew(r, sizeof *m);
    *m = (struct jmacro){.node = n, .scope = s};
    return (struct jv){.type = J_MACRO, .macro = m};
}

/* A chain of filters whose innermost one has no operand of its own. */
static struct jv filtered(struct jrun *r, const struct jnode *n, struct jscope *s, struct jv v) {
    if (!n)
        return v;
    v = n->kid[0] && n->kid[0]->kind != X_FILTER ? eval(r, n->kid[0], s)
                                                 : filtered(r, n->kid[0], s, v);
    struct jargs a = arguments(r, n, s);
    return n->fn ? jbind(r, n->fn, v, &a) : jfail(r, "unknown filter '%s'", n->name);
}

static struct jv test(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jv v = eval(r, n->kid[0], s);
    struct jargs a = arguments(r, n, s);
    v = n->fn ? jbind(r, n->fn, v, &a) : jfail(r, "unknown test '%s'", n->name);
    return jbool(jtrue(v) != n->flag);
}

/* ---- operators ---- */

static bool is_number(struct jv v) {
    return v.type == J_INT || v.type == J_FLOAT || v.type == J_BOOL;
}

static double real(struct jv v) {
    return v.type == J_FLOAT ? v.f : v.type == J_INT ? (double)v.i : v.b;
}

static struct jv power(struct jrun *r, int64_t a, int64_t b) {
    int64_t x = 1;
    for (; b > 0; b--)
        if (!jstep(r, 0) || __builtin_mul_overflow(x, a, &x))
            return jfail(r, "number too large");
    return jint(x);
}

static struct jv whole_math(struct jrun *r, int64_t a, int64_t b, char op) {
    int64_t x = 0;
    bool over = false;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &x);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &x);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &x);
        break;
    case '^':
        return b < 0 ? jfloat(pow((double)a, (double)b)) : power(r, a, b);
    default:
        if (b == 0)
            return jfail(r, "division by zero");
        over = a == INT64_MIN && b == -1;
        if (over)
            break;
        x = op == '%' ? a % b : a / b;
        if (op == '%' && x && (x < 0) != (b < 0))
            x += b;
        if (op == '#' && a % b && (a < 0) != (b < 0))
            x--;
    }
    return over ? jfail(r, "number too large") : jint(x);
}

static struct jv number_math(struct jrun *r, struct jv a, struct jv b, char op) {
    if (op != '/' && a.type != J_FLOAT && b.type != J_FLOAT)
        return whole_math(r, a.type == J_INT ? a.i : a.b, b.type == J_INT ? b.i : b.b, op);
    double x = real(a), y = real(b);
    if ((op == '/' || op == '#' || op == '%') && y == 0)
        return jfail(r, "division by zero");
    if (op == '+' || op == '-')
        return jfloat(op == '+' ? x + y : x - y);
    if (op == '%') {
        double rest = fmod(x, y);
        return jfloat(rest && (rest < 0) != (y < 0) ? rest + y : rest);
    }
    return jfloat(op == '*' ? x * y : op == '^' ? pow(x, y) : op == '/' ? x / y : floor(x / y));
}

static struct jv repeat(struct jrun *r, struct jv v, struct jv times) {
    int64_t n = times.type == J_INT ? times.i : times.b;
    struct jinja_text t = {0};
    struct jv out = v.type == J_STR ? v : jseq_new(r, v.type);
    for (int64_t i = 0; i < n && jstep(r, 0) && t.text.len <= JINJA_MAX_TEXT; i++) {
        if (v.type == J_STR)
            jput(&t, v.s, 0, v.s->n);
        for (int k = 0; v.type != J_STR && k < v.seq->n; k++)
            if (!jseq_add(r, out.seq, v.seq->v[k]))
                break;
    }
    if (v.type == J_STR)
        out = jstr_of(r, &t);
    jinja_text_free(&t);
    return out;
}

static struct jv add_things(struct jrun *r, struct jv a, struct jv b) {
    if (a.type == J_STR) {
        struct jinja_text t = {0};
        bool safe = a.s->safe || b.s->safe;
        a = safe && !a.s->safe ? jescape(r, a.s) : a;
        b = safe && !b.s->safe ? jescape(r, b.s) : b;
        jprint(r, &t, a);
        jprint(r, &t, b);
        struct jv v = jstr_of(r, &t);
        jinja_text_free(&t);
        return safe ? jbind(r, jfilter("safe", 4), v, &(struct jargs){0}) : v;
    }
    struct jv out = jseq_new(r, a.type);
    for (int i = 0; i < a.seq->n && jseq_add(r, out.seq, a.seq->v[i]); i++)
        continue;
    for (int i = 0; i < b.seq->n && jseq_add(r, out.seq, b.seq->v[i]); i++)
        continue;
    return out;
}

static struct jv math(struct jrun *r, struct jv a, struct jv b, char op) {
    bool list_a = a.type == J_STR || a.type == J_LIST || a.type == J_TUPLE;
    bool list_b = b.type == J_STR || b.type == J_LIST || b.type == J_TUPLE;
    if (r->err->code)
        return a;
    if (is_number(a) && is_number(b))
        return number_math(r, a, b, op);
    if (op == '+' && list_a && a.type == b.type)
        return add_things(r, a, b);
    if (op == '%' && a.type == J_STR)
        return jformat(r, a.s, b);
    if (op == '*' && list_a && (b.type == J_INT || b.type == J_BOOL))
        return repeat(r, a, b);
    if (op == '*' && list_b && (a.type == J_INT || a.type == J_BOOL))
        return repeat(r, b, a);
    if (a.type == J_UNDEF || b.type == J_UNDEF)
        return jfail(r, "'%s' is undefined", a.type == J_UNDEF ? a.name : b.name);
    return jfail(r, "unsupported operand types for %s: '%s' and '%s'",
                 op == '#'   ? "//"
                 : op == '^' ? "**"
                             : (char[]){op, 0},
                 jtype_name(a), jtype_name(b));
}

static bool compare(struct jrun *r, struct jv a, struct jv b, char op) {
    switch (op) {
    case '=':
        return jequal(r, a, b);
    case '!':
        return !jequal(r, a, b);
    case 'i':
        return jcontains(r, b, a);
    case 'n':
        return !jcontains(r, b, a);
    case '<':
        return jcompare(r, a, b) < 0;
    case 'l':
        return jcompare(r, a, b) <= 0;
    case '>':
        return jcompare(r, a, b) > 0;
    default:
        return jcompare(r, a, b) >= 0;
    }
}

static struct jv compare_all(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jv a = eval(r, n->kid[0], s);
    for (int i = 1; i < n->n && !r->err->code; i++) {
        struct jv b = eval(r, n->kid[i], s);
        r->line = n->line;
        if (!compare(r, a, b, n->op[i - 1]))
            return jbool(false);
        a = b;
    }
    return jbool(true);
}

static struct jv concat(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jinja_text t = {0};
    for (int i = 0; i < n->n && !r->err->code && t.text.len <= JINJA_MAX_TEXT; i++)
        jprint(r, &t, eval(r, n->kid[i], s));
    struct jv v = jstr_of(r, &t);
    jinja_text_free(&t);
    return v;
}

static struct jv negative(struct jrun *r, struct jv v, bool minus) {
    if (!is_number(v) || (v.type == J_INT && v.i == INT64_MIN))
        return jfail(r, "bad operand type for unary %c: '%s'", minus ? '-' : '+', jtype_name(v));
    if (v.type == J_FLOAT)
        return jfloat(minus ? -v.f : v.f);
    int64_t i = v.type == J_INT ? v.i : v.b;
    return jint(minus ? -i : i);
}

static struct jv elements(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jv v =
        n->kind == X_DICT ? jdict_new(r) : jseq_new(r, n->kind == X_LIST ? J_LIST : J_TUPLE);
    for (int i = 0; i < n->n && !r->err->code; i++) {
        struct jv x = eval(r, n->kid[i], s);
        if (n->kind == X_DICT)
            jdict_put(r, v.d, x, eval(r, n->kid[++i], s));
        else
            jseq_add(r, v.seq, x);
    }
    return v;
}

static struct jv logic(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jv v = eval(r, n->kid[0], s);
    for (int i = 1; i < n->n && !r->err->code && jtrue(v) == (n->kind == X_AND); i++)
        v = eval(r, n->kid[i], s);
    return v;
}

static struct jv conditional(struct jrun *r, const struct jnode *n, struct jscope *s) {
    if (jtrue(eval(r, n->kid[1], s)))
        return eval(r, n->kid[0], s);
    return n->kid[2] ? eval(r, n->kid[2], s) : jundef("inline if without else");
}

static struct jv evaluate(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jv v, key;
    switch (n->kind) {
    case X_CONST:
        return n->value;
    case X_NAME:
        return variable(r, s, n->name);
    case X_LIST:
    case X_TUPLE:
    case X_DICT:
        return elements(r, n, s);
    case X_ATTR:
        v = eval(r, n->kid[0], s);
        r->line = n->line;
        return r->err->code ? v : jattr(r, v, n->name);
    case X_ITEM:
        v = eval(r, n->kid[0], s);
        key = eval(r, n->kid[1], s);
        r->line = n->line;
        return r->err->code ? v : jitem(r, v, key);
    case X_SLICE:
        return slice(r, n, s);
    case X_CALL:
        return call(r, n, s, (struct jv){J_MISSING, {0}});
    case X_FILTER:
        return filtered(r, n, s, jnone());
    case X_TEST:
        return test(r, n, s);
    case X_NOT:
        return jbool(!jtrue(eval(r, n->kid[0], s)));
    case X_NEG:
    case X_POS:
        v = eval(r, n->kid[0], s);
        return r->err->code ? v : negative(r, v, n->kind == X_NEG);
    case X_MATH:
        v = eval(r, n->kid[0], s);
        for (int i = 1; i < n->n && !r->err->code; i++) {
            key = eval(r, n->kid[i], s);
            r->line = n->line;
            v = math(r, v, key, n->op[i - 1]);
        }
        return v;
    case X_CONCAT:
        return concat(r, n, s);
    case X_COMPARE:
        return compare_all(r, n, s);
    case X_AND:
    case X_OR:
        return logic(r, n, s);
    default:
        return conditional(r, n, s);
    }
}

static bool deeper(struct jrun *r, const struct jnode *n) {
    r->line = n->line;
    if (++r->depth > JINJA_MAX_DEPTH)
        jfail(r, "calls nested deeper than %d", JINJA_MAX_DEPTH);
    return jstep(r, 0);
}

static struct jv eval(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jv v = jundef("");
    if (deeper(r, n))
        v = evaluate(r, n, s);
    r->depth--;
    return v;
}

/* ---- statements ---- */

static enum go for_loop(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jv all = eval(r, n->kid[1], s);
    const struct jnode *cond = n->kid[2], *otherwise = n->kid[4];
    r->line = n->line;
    if (r->err->code)
        return GO_ON;
    const struct jseq *items = jitems(r, all);
    if (cond) {
        struct jseq *kept = jseq_new(r, J_LIST).seq;
        for (int i = 0; i < items->n && jstep(r, 0); i++) {
            struct jscope *one = scope_new(r, s);
            assign(r, n->kid[0], items->v[i], one);
            if (jtrue(eval(r, cond, one)))
                jseq_add(r, kept, items->v[i]);
        }
        items = kept;
    }
    struct jloop *loop = jnew(r, sizeof *loop);
    loop->seq = items;
    const char *name = known(r, "loop");
    for (; loop->i < items->n && !r->err->code; loop->i++) {
        struct jscope *round = scope_new(r, s);
        define(r, round, name, (struct jv){.type = J_LOOP, .loop = loop});
        assign(r, n->kid[0], items->v[loop->i], round);
        if (exec(r, n->kid[3], round) == GO_BREAK)
            break;
    }
    if (!items->n && otherwise)
        return exec(r, otherwise, scope_new(r, s));
    return GO_ON;
}

static enum go branch(struct jrun *r, const struct jnode *n, struct jscope *s) {
    int i = 0;
    for (; i + 1 < n->n && !r->err->code; i += 2)
        if (jtrue(eval(r, n->kid[i], s)))
            return exec(r, n->kid[i + 1], s);
    return i < n->n && !r->err->code ? exec(r, n->kid[i], s) : GO_ON;
}

static void print(struct jrun *r, struct jv v) {
    size_t was = r->out->text.len;
    if (!r->err->code)
        jprint(r, r->out, v);
    if (r->out->text.len > JINJA_MAX_TEXT)
        jfail(r, "more than %d MiB of output", JINJA_MAX_TEXT >> 20);
    jstep(r, r->out->text.len - was);
}

static enum go with(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jscope *inner = scope_new(r, s);
    for (int i = 0; i + 2 < n->n && !r->err->code; i += 2)
        assign(r, n->kid[i], eval(r, n->kid[i + 1], s), inner);
    return exec(r, n->kid[n->n - 1], inner);
}

static enum go body(struct jrun *r, const struct jnode *n, struct jscope *s) {
    enum go go = GO_ON;
    for (int i = 0; i < n->n && go == GO_ON && !r->err->code; i++)
        go = exec(r, n->kid[i], s);
    return go;
}

static enum go execute(struct jrun *r, const struct jnode *n, struct jscope *s) {
    struct jv v;
    switch (n->kind) {
    case S_BODY:
        return body(r, n, s);
    case S_TEXT:
        print(r, n->value);
        return GO_ON;
    case S_PRINT:
        print(r, eval(r, n->kid[0], s));
        return GO_ON;
    case S_IF:
        return branch(r, n, s);
    case S_FOR:
        return for_loop(r, n, s);
    case S_SET:
        v = eval(r, n->kid[1], s);
        if (!r->err->code)
            assign(r, n->kid[0], v, s);
        return GO_ON;
    case S_CAPTURE:
        v = filtered(r, n->kid[1], s, capture(r, n->kid[2], scope_new(r, s)));
        if (!r->err->code)
            assign(r, n->kid[0], v, s);
        return GO_ON;
    case S_MACRO:
        define(r, s, n->name, macro(r, n, s));
        return GO_ON;
    case S_CALL:
        print(r, call(r, n->kid[0], s, macro(r, n->kid[1], s)));
        return GO_ON;
    case S_FILTER:
        print(r, filtered(r, n->kid[0], s, capture(r, n->kid[1], scope_new(r, s))));
        return GO_ON;
    case S_WITH:
        return with(r, n, s);
    case S_SCOPE:
        return exec(r, n->kid[0], scope_new(r, s));
    default:
        return n->kind == S_BREAK ? GO_BREAK : GO_CONTINUE;
    }
}

static enum go exec(struct jrun *r, const struct jnode *n, struct jscope *s) {
    enum go go = GO_ON;
    if (deeper(r, n))
        go = execute(r, n, s);
    r->depth--;
    return go;
}

/* ---- the whole ---- */

static void define_all(struct jrun *r, const json_t *vars, bool marked) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)vars, key, v) {
        const char *name = known(r, key);
        if (name)
            define(r, &r->top, name, jfrom_json(r, v, marked));
    }
}

int jinja_render(const struct jinja *j, const struct jinja_vars *v, struct jinja_text *out,
                 struct err *err) {
    struct err local = {0};
    struct jrun r = {.j = j, .err = &local, .out = out, .now = v->now, .line = 1};
    size_t was = out->text.len;
    define_all(&r, v->input, true);
    define_all(&r, v->ours, false);
    if (!local.code)
        exec(&r, j->root, &r.top);
    jarena_free(&r.arena);
    if (!local.code)
        return 0;
    out->text.len = out->mark.len = was;
    return err_set(err, local.code, "%s", local.msg);
}
