/* jinja_parse.c - tokens to a tree, by recursive descent with Jinja2's own precedence.  The depth
 * of nesting is bounded while parsing and, for operators that lean left, while the tree is built:
 * whoever walks the tree may recurse. */
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "tok/jinja_impl.h"

struct parse {
    struct jinja *j;
    struct jtok *t; /* the current token */
    struct err *err;
    int nest, loops, branches;
};

/* A growing list of nodes, copied into the arena at the end. */
struct kids {
    struct jnode **v;
    char *op;
    int n, cap;
};

static struct jnode *fail(struct parse *p, const char *what) {
    err_set(p->err, E_FORMAT, "%s: line %d: %s", p->j->path, p->t->line, what);
    return NULL;
}

/* "what 'the current token'" */
static struct jnode *unexpected(struct parse *p, const char *what) {
    static const char *const names[] = {"text", "{%", "%}", "{{", "}}"};
    const struct jtok *t = p->t;
    const char *s = t->type <= T_VAR_END ? names[t->type] : t->p;
    int n = t->type <= T_VAR_END ? (int)strlen(s) : (int)(t->n > 40 ? 40 : t->n);
    err_set(p->err, E_FORMAT, "%s: line %d: %s '%.*s'", p->j->path, t->line, what, n, s);
    return NULL;
}

static void kid(struct kids *k, struct jnode *n, char op) {
    if (k->n == k->cap) {
        k->cap = k->cap ? 2 * k->cap : 8;
        k->v = mem_resize(k->v, (size_t)k->cap, sizeof *k->v);
        k->op = mem_resize(k->op, (size_t)k->cap, 1);
    }
    k->op[k->n] = op;
    k->v[k->n++] = n;
}

static struct jnode *leaf(struct parse *p, enum jkind kind) {
    struct jnode *n = jarena_add(&p->j->arena, sizeof *n);
    n->kind = kind;
    n->line = p->t->line;
    n->depth = 1;
    return n;
}

/* Completes `n` with its kids, which are released; NULL if an error happened. */
static struct jnode *with(struct parse *p, struct jnode *n, struct kids *k) {
    if (k->n) {
        n->kid = jarena_add(&p->j->arena, (size_t)k->n * sizeof *n->kid);
        memcpy(n->kid, k->v, (size_t)k->n * sizeof *n->kid);
        char *op = jarena_add(&p->j->arena, (size_t)k->n);
        memcpy(op, k->op + 1, (size_t)k->n - 1);
        n->op = op;
    }
    n->n = k->n;
    for (int i = 0; i < k->n; i++)
        if (n->kid[i] && n->kid[i]->depth >= n->depth)
            n->depth = n->kid[i]->depth + 1;
    free(k->v);
    free(k->op);
    *k = (struct kids){0};
    if (n->depth > JINJA_MAX_NEST)
        fail(p, "nested too deeply");
    return p->err->code ? NULL : n;
}

static struct jnode *node(struct parse *p, enum jkind kind, struct jnode *a, struct jnode *b) {
    struct kids k = {0};
    struct jnode *n = leaf(p, kind);
    kid(&k, a, 0);
    if (b)
        kid(&k, b, 0);
    return with(p, n, &k);
}

static bool at(const struct parse *p, const char *op) {
    return p->t->type == T_OP && strcmp(p->t->p, op) == 0;
}

static bool at_name(const struct parse *p, const char *name) {
    return p->t->type == T_NAME && strcmp(p->t->p, name) == 0;
}

static bool take(struct parse *p, const char *op) {
    bool yes = at(p, op);
    p->t += yes;
    return yes;
}

static bool take_name(struct parse *p, const char *name) {
    bool yes = at_name(p, name);
    p->t += yes;
    return yes;
}

static bool need(struct parse *p, const char *op) {
    if (take(p, op))
        return true;
    char what[32] = "expected '";
    strcat(strcat(what, op), "', not");
    unexpected(p, what);
    return false;
}

static const char *need_name(struct parse *p) {
    if (p->t->type == T_NAME)
        return (p->t++)->p;
    unexpected(p, "expected a name, not");
    return NULL;
}

/* ---- expressions ---- */

static struct jnode *expr(struct parse *p);
static struct jnode *unary(struct parse *p, bool filters);
static struct jnode *or_expr(struct parse *p);

static struct jnode *constant(struct parse *p, struct jv v) {
    struct jnode *n = leaf(p, X_CONST);
    n->value = v;
    return n;
}

static struct jv text_value(struct parse *p, const char *s, size_t n) {
    struct jstr *t = jarena_add(&p->j->arena, sizeof *t);
    *t = (struct jstr){.p = s, .n = (uint32_t)n};
    return (struct jv){.type = J_STR, .s = t};
}

static struct jnode *string(struct parse *p) {
    struct jnode *n = leaf(p, X_CONST);
    struct buf b = {0};
    for (; p->t->type == T_STRING; p->t++)
        buf_add(&b, p->t->p, p->t->n);
    char *copy = jarena_add(&p->j->arena, b.len + 1);
    if (b.len)
        memcpy(copy, b.data, b.len);
    n->value = text_value(p, copy, b.len);
    buf_free(&b);
    return n;
}

static bool ends_tuple(const struct parse *p, const char *word) {
    return p->t->type == T_BLOCK_END || p->t->type == T_VAR_END || at(p, ")") ||
           (word && at_name(p, word));
}

/* a, b, c; without a comma just a.  `word` ends it too; `cond`: a may be an inline if. */
static struct jnode *tuple(struct parse *p, const char *word, bool cond, bool may_be_empty) {
    struct jnode *n = leaf(p, X_TUPLE);
    struct kids k = {0};
    bool comma = false;
    while (!p->err->code) {
        if (k.n && !take(p, ","))
            break;
        comma = k.n > 0;
        if (ends_tuple(p, word))
            break;
        kid(&k, cond ? expr(p) : or_expr(p), 0);
    }
    if (!k.n && !may_be_empty)
        unexpected(p, "expected an expression, not");
    if (comma || !k.n || p->err->code)
        return with(p, n, &k);
    n = k.v[0];
    free(k.v);
    free(k.op);
    return n;
}

static struct jnode *list(struct parse *p) {
    struct jnode *n = leaf(p, X_LIST);
    struct kids k = {0};
    while (!p->err->code && !at(p, "]")) {
        if (k.n && (!need(p, ",") || at(p, "]")))
            break;
        kid(&k, expr(p), 0);
    }
    need(p, "]");
    return with(p, n, &k);
}

static struct jnode *dict(struct parse *p) {
    struct jnode *n = leaf(p, X_DICT);
    struct kids k = {0};
    while (!p->err->code && !at(p, "}")) {
        if (k.n && (!need(p, ",") || at(p, "}")))
            break;
        kid(&k, expr(p), 0);
        if (!p->err->code && need(p, ":"))
            kid(&k, expr(p), 0);
    }
    need(p, "}");
    return with(p, n, &k);
}

static struct jnode *name_or_constant(struct parse *p) {
    static const char *const words[] = {"true", "True", "false", "False", "none", "None"};
    struct jnode *n = leaf(p, X_NAME);
    n->name = (p->t++)->p;
    for (int i = 0; i < 6; i++)
        if (strcmp(n->name, words[i]) == 0) {
            n->kind = X_CONST;
            n->value = i < 4 ? (struct jv){.type = J_BOOL, .b = i < 2} : (struct jv){J_NONE, {0}};
        }
    return n;
}

static struct jnode *primary(struct parse *p) {
    struct jnode *n;
    switch (p->t->type) {
    case T_NAME:
        return name_or_constant(p);
    case T_STRING:
        return string(p);
    case T_INT:
        n = constant(p, (struct jv){.type = J_INT, .i = p->t->i});
        p->t++;
        return n;
    case T_FLOAT:
        n = constant(p, (struct jv){.type = J_FLOAT, .f = p->t->f});
        p->t++;
        return n;
    default:
        break;
    }
    if (take(p, "(")) {
        n = tuple(p, NULL, true, true);
        return need(p, ")") ? n : NULL;
    }
    if (take(p, "["))
        return list(p);
    if (take(p, "{"))
        return dict(p);
    return unexpected(p, "expected an expression, not");
}

/* Arguments up to ")", added to k. */
static void arguments(struct parse *p, struct kids *k) {
    int first = k->n;
    while (!p->err->code && !at(p, ")")) {
        if (k->n > first && (!need(p, ",") || at(p, ")")))
            break;
        struct jnode *n;
        if (take(p, "**")) {
            n = node(p, X_STARS, expr(p), NULL);
        } else if (take(p, "*")) {
            n = node(p, X_STAR, expr(p), NULL);
        } else if (p->t->type == T_NAME && p->t[1].type == T_OP && !strcmp(p->t[1].p, "=")) {
            const char *name = p->t->p;
            p->t += 2;
            n = node(p, X_KW, expr(p), NULL);
            if (n)
                n->name = name;
        } else {
            n = expr(p);
        }
        kid(k, n, 0);
    }
    need(p, ")");
}

static struct jnode *call(struct parse *p, struct jnode *f) {
    struct kids k = {0};
    struct jnode *n = leaf(p, X_CALL);
    kid(&k, f, 0);
    p->t++;
    arguments(p, &k);
    return with(p, n, &k);
}

static struct jnode *bracket(struct parse *p, struct jnode *of) {
    struct jnode *part[3] = {NULL};
    struct kids k = {0};
    int n = 0;
    bool slice = false;
    struct jnode *r = leaf(p, X_SLICE);
    for (; !p->err->code && !at(p, "]"); slice = true) {
        if (!at(p, ":")) {
            part[n] = expr(p);
            if (!at(p, ":"))
                break;
        }
        p->t++;
        if (++n == 3)
            return fail(p, "a slice has at most three parts");
    }
    if (!slice && !part[0])
        return fail(p, "empty [ ]");
    slice = slice || n > 0;
    if (p->err->code || !need(p, "]"))
        return NULL;
    if (!slice)
        return node(p, X_ITEM, of, part[0]);
    kid(&k, of, 0);
    for (int i = 0; i < 3; i++)
        kid(&k, part[i], 0);
    return with(p, r, &k);
}

static struct jnode *dot(struct parse *p, struct jnode *of) {
    p->t++;
    if (p->t->type == T_INT) {
        struct jnode *i = constant(p, (struct jv){.type = J_INT, .i = p->t->i});
        p->t++;
        return node(p, X_ITEM, of, i);
    }
    const char *name = need_name(p);
    struct jnode *n = name ? node(p, X_ATTR, of, NULL) : NULL;
    if (n)
        n->name = name;
    return n;
}

static struct jnode *postfix(struct parse *p, struct jnode *n) {
    while (n && !p->err->code) {
        if (at(p, "."))
            n = dot(p, n);
        else if (take(p, "["))
            n = bracket(p, n);
        else if (at(p, "("))
            n = call(p, n);
        else
            break;
    }
    return n;
}

/* The name of a filter or test at p->t, which `find` looks up for n.  As in Jinja2 an unknown one
 * is no error below an `if`, unless it is reached: templates ask first whether it is there. */
static bool lookup(struct parse *p, struct jnode *n, const char *what,
                   const struct jfunc *(*find)(const char *, size_t)) {
    if (p->t->type != T_NAME) {
        unexpected(p, "expected a name, not");
        return false;
    }
    n->name = p->t->p;
    n->fn = find(p->t->p, p->t->n);
    if (!n->fn && !p->branches)
        unexpected(p, what);
    p->t++;
    return !p->err->code;
}

static struct jnode *filter(struct parse *p, struct jnode *of) {
    struct jnode *n = leaf(p, X_FILTER);
    struct kids k = {0};
    bool ok = lookup(p, n, "unknown filter", jfilter);
    kid(&k, of, 0);
    if (ok && take(p, "("))
        arguments(p, &k);
    return with(p, n, &k);
}

static struct jnode *test(struct parse *p, struct jnode *of) {
    struct jnode *n = leaf(p, X_TEST);
    struct kids k = {0};
    n->flag = take_name(p, "not");
    bool ok = lookup(p, n, "unknown test", jtest);
    kid(&k, of, 0);
    bool starts = p->t->type == T_NAME || p->t->type == T_STRING || p->t->type == T_INT ||
                  p->t->type == T_FLOAT || at(p, "[") || at(p, "{");
    if (!ok)
        return with(p, n, &k);
    if (take(p, "("))
        arguments(p, &k);
    else if (at_name(p, "is"))
        fail(p, "tests cannot be chained");
    else if (starts && !at_name(p, "else") && !at_name(p, "or") && !at_name(p, "and"))
        kid(&k, postfix(p, primary(p)), 0);
    return with(p, n, &k);
}

static struct jnode *filters(struct parse *p, struct jnode *n) {
    while (n && !p->err->code) {
        if (take(p, "|"))
            n = filter(p, n);
        else if (take_name(p, "is"))
            n = test(p, n);
        else if (at(p, "("))
            n = call(p, n);
        else
            break;
    }
    return n;
}

static struct jnode *unary(struct parse *p, bool with_filters) {
    struct jnode *n = NULL;
    if (++p->nest > JINJA_MAX_NEST)
        fail(p, "nested too deeply");
    else if (take(p, "-"))
        n = node(p, X_NEG, unary(p, false), NULL);
    else if (take(p, "+"))
        n = node(p, X_POS, unary(p, false), NULL);
    else
        n = primary(p);
    n = postfix(p, n);
    if (with_filters)
        n = filters(p, n);
    p->nest--;
    return n;
}

static struct jnode *operand(struct parse *p, int level);

/* Operators of one level, left to right.  0: + -, 1: ~, 2: * / // %, 3: ** */
static char math_op(const struct parse *p, int level) {
    static const char *const ops[] = {"+-", "~", "*/#%", "^"};
    if (p->t->type != T_OP)
        return 0;
    char c = strcmp(p->t->p, "//") == 0 ? '#' : strcmp(p->t->p, "**") == 0 ? '^' : p->t->p[0];
    if (p->t->n == 2 && c != '#' && c != '^')
        return 0;
    return strchr(ops[level], c) ? c : 0;
}

static struct jnode *operand(struct parse *p, int level) {
    if (level == 4)
        return unary(p, true);
    struct jnode *n = leaf(p, level == 1 ? X_CONCAT : X_MATH), *first = operand(p, level + 1);
    struct kids k = {0};
    if (!first || !math_op(p, level))
        return first;
    kid(&k, first, 0);
    for (char op; !p->err->code && (op = math_op(p, level));) {
        p->t++;
        kid(&k, operand(p, level + 1), op);
    }
    return with(p, n, &k);
}

/* One comparison: '=' '!' '<' 'l' (<=) '>' 'g' (>=) 'i' (in) 'n' (not in); 0 = none.  Skips it. */
static char compare_op(struct parse *p) {
    static const char *const ops[] = {"==", "!=", "<", "<=", ">", ">="};
    for (int i = 0; i < 6; i++)
        if (take(p, ops[i]))
            return "=!<l>g"[i];
    if (take_name(p, "in"))
        return 'i';
    if (at_name(p, "not") && p->t[1].type == T_NAME && !strcmp(p->t[1].p, "in")) {
        p->t += 2;
        return 'n';
    }
    return 0;
}

static struct jnode *compare(struct parse *p) {
    struct jnode *n = leaf(p, X_COMPARE), *first = operand(p, 0);
    struct kids k = {0};
    if (!first)
        return NULL;
    kid(&k, first, 0);
    for (char op; !p->err->code && (op = compare_op(p));)
        kid(&k, operand(p, 0), op);
    if (k.n > 1 || p->err->code)
        return with(p, n, &k);
    free(k.v);
    free(k.op);
    return first;
}

static struct jnode *not_expr(struct parse *p) {
    if (!at_name(p, "not"))
        return compare(p);
    struct jnode *n = NULL;
    p->t++;
    if (++p->nest > JINJA_MAX_NEST)
        fail(p, "nested too deeply");
    else
        n = node(p, X_NOT, not_expr(p), NULL);
    p->nest--;
    return n;
}

static struct jnode *logic(struct parse *p, enum jkind kind, const char *word,
                           struct jnode *(*next)(struct parse *)) {
    struct jnode *n = leaf(p, kind), *first = next(p);
    struct kids k = {0};
    if (!first || !at_name(p, word))
        return first;
    kid(&k, first, 0);
    while (!p->err->code && take_name(p, word))
        kid(&k, next(p), 0);
    return with(p, n, &k);
}

static struct jnode *and_expr(struct parse *p) {
    return logic(p, X_AND, "and", not_expr);
}

static struct jnode *or_expr(struct parse *p) {
    return logic(p, X_OR, "or", and_expr);
}

static struct jnode *expr(struct parse *p) {
    struct jnode *n = NULL;
    if (++p->nest > JINJA_MAX_NEST)
        fail(p, "nested too deeply");
    else
        n = or_expr(p);
    while (n && !p->err->code && take_name(p, "if")) {
        struct jnode *whole = leaf(p, X_IF);
        struct kids k = {0};
        kid(&k, n, 0);
        kid(&k, or_expr(p), 0);
        kid(&k, !p->err->code && take_name(p, "else") ? expr(p) : NULL, 0);
        n = with(p, whole, &k);
    }
    p->nest--;
    return p->err->code ? NULL : n;
}

/* ---- statements ---- */

static struct jnode *body(struct parse *p, const char *const *ends);

static bool tag_close(struct parse *p) {
    if (p->t->type == T_BLOCK_END) {
        p->t++;
        return true;
    }
    unexpected(p, "expected %}, not");
    return false;
}

/* A body up to {% end %}, behind the current tag's end. */
static struct jnode *body_until(struct parse *p, const char *end) {
    const char *const ends[] = {end, NULL};
    struct jnode *b = tag_close(p) ? body(p, ends) : NULL;
    if (!b)
        return NULL;
    p->t++;
    return tag_close(p) ? b : NULL;
}

/* What can be assigned to: a name, name.attribute, or several of them. */
static struct jnode *target(struct parse *p) {
    struct jnode *n = leaf(p, X_TUPLE);
    struct kids k = {0};
    bool comma = false, paren = take(p, "(");
    do {
        if (comma && (at(p, "=") || at_name(p, "in") || at(p, ")")))
            break;
        struct jnode *one = leaf(p, X_NAME);
        if (at(p, "(")) {
            one = ++p->nest > JINJA_MAX_NEST ? fail(p, "nested too deeply") : target(p);
            p->nest--;
        } else {
            one->name = need_name(p);
            if (one->name && take(p, ".")) {
                const char *attribute = need_name(p);
                one = node(p, X_ATTR, one, NULL);
                if (one)
                    one->name = attribute;
            }
        }
        kid(&k, one, 0);
    } while (!p->err->code && take(p, ",") && (comma = true));
    if (paren)
        need(p, ")");
    if (k.n > 1 || comma || p->err->code)
        return with(p, n, &k);
    n = k.v[0];
    free(k.v);
    free(k.op);
    return n;
}

static struct jnode *for_tag(struct parse *p) {
    static const char *const ends[] = {"endfor", "else", NULL};
    struct jnode *n = leaf(p, S_FOR), *otherwise = NULL;
    struct kids k = {0};
    kid(&k, target(p), 0);
    if (!p->err->code && !take_name(p, "in"))
        unexpected(p, "expected 'in', not");
    if (!p->err->code)
        kid(&k, tuple(p, "recursive", false, false), 0);
    if (!p->err->code)
        kid(&k, take_name(p, "if") ? expr(p) : NULL, 0);
    if (!p->err->code && at_name(p, "recursive"))
        fail(p, "recursive loops are not supported");
    p->loops++;
    if (!p->err->code && tag_close(p))
        kid(&k, body(p, ends), 0);
    p->loops--;
    if (!p->err->code && take_name(p, "else"))
        otherwise = body_until(p, "endfor");
    else if (!p->err->code && take_name(p, "endfor"))
        tag_close(p);
    kid(&k, otherwise, 0);
    return with(p, n, &k);
}

static struct jnode *if_tag(struct parse *p) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct jnode *n = leaf(p, S_IF);
    struct kids k = {0};
    p->branches++;
    do {
        kid(&k, tuple(p, NULL, false, false), 0);
        if (!p->err->code && tag_close(p))
            kid(&k, body(p, ends), 0);
    } while (!p->err->code && take_name(p, "elif"));
    if (!p->err->code && take_name(p, "else"))
        kid(&k, body_until(p, "endif"), 0);
    else if (!p->err->code && take_name(p, "endif"))
        tag_close(p);
    p->branches--;
    return with(p, n, &k);
}

static struct jnode *set_tag(struct parse *p) {
    struct jnode *n = leaf(p, S_SET), *chain = NULL;
    struct kids k = {0};
    kid(&k, target(p), 0);
    if (!p->err->code && take(p, "=")) {
        kid(&k, tuple(p, NULL, true, false), 0);
        if (!p->err->code)
            tag_close(p);
        return with(p, n, &k);
    }
    n->kind = S_CAPTURE;
    while (!p->err->code && take(p, "|"))
        chain = filter(p, chain);
    kid(&k, chain, 0);
    if (!p->err->code)
        kid(&k, body_until(p, "endset"), 0);
    return with(p, n, &k);
}

/* (a, b=1) behind the name of a macro or call block. */
static void parameters(struct parse *p, struct kids *k) {
    int first = k->n;
    while (!p->err->code && !at(p, ")")) {
        if (k->n > first && (!need(p, ",") || at(p, ")")))
            break;
        const char *name = need_name(p);
        struct jnode *n = leaf(p, X_NAME);
        if (name && take(p, "="))
            n = node(p, X_KW, expr(p), NULL);
        if (n)
            n->name = name;
        kid(k, n, 0);
    }
    need(p, ")");
}

/* The body and parameters of a macro; k starts with a place for the body. */
static struct jnode *macro_rest(struct parse *p, struct jnode *n, struct kids *k, const char *end) {
    int loops = p->loops;
    p->loops = 0; /* break does not leave a macro */
    struct jnode *b = p->err->code ? NULL : body_until(p, end);
    p->loops = loops;
    k->v[0] = b;
    return with(p, n, k);
}

static struct jnode *macro_tag(struct parse *p) {
    struct jnode *n = leaf(p, S_MACRO);
    struct kids k = {0};
    kid(&k, NULL, 0);
    n->name = need_name(p);
    if (n->name && need(p, "("))
        parameters(p, &k);
    return macro_rest(p, n, &k, "endmacro");
}

static struct jnode *call_tag(struct parse *p) {
    struct jnode *m = leaf(p, S_MACRO), *what;
    struct kids k = {0};
    kid(&k, NULL, 0);
    m->name = jinja_name(p->j, "caller", 6);
    if (take(p, "("))
        parameters(p, &k);
    what = p->err->code ? NULL : expr(p);
    if (what && what->kind != X_CALL)
        fail(p, "tag 'call' needs a call");
    m = macro_rest(p, m, &k, "endcall");
    return p->err->code ? NULL : node(p, S_CALL, what, m);
}

static struct jnode *filter_tag(struct parse *p) {
    struct jnode *chain = filter(p, NULL);
    while (!p->err->code && take(p, "|"))
        chain = filter(p, chain);
    struct jnode *b = p->err->code ? NULL : body_until(p, "endfilter");
    return b ? node(p, S_FILTER, chain, b) : NULL;
}

static struct jnode *with_tag(struct parse *p) {
    struct jnode *n = leaf(p, S_WITH);
    struct kids k = {0};
    while (!p->err->code && p->t->type != T_BLOCK_END) {
        if (k.n && !need(p, ","))
            break;
        kid(&k, target(p), 0);
        if (!p->err->code && need(p, "="))
            kid(&k, expr(p), 0);
    }
    if (!p->err->code)
        kid(&k, body_until(p, "endwith"), 0);
    return with(p, n, &k);
}

static struct jnode *generation_tag(struct parse *p) {
    struct jnode *b = body_until(p, "endgeneration");
    return b ? node(p, S_SCOPE, b, NULL) : NULL;
}

static struct jnode *print_tag(struct parse *p) {
    struct jnode *e = tuple(p, NULL, true, false);
    return e && tag_close(p) ? node(p, S_PRINT, e, NULL) : NULL;
}

static struct jnode *jump_tag(struct parse *p, enum jkind kind) {
    struct jnode *n = leaf(p, kind);
    if (!p->loops)
        return fail(p, "break or continue outside of a loop");
    return tag_close(p) ? n : NULL;
}

static struct jnode *break_tag(struct parse *p) {
    return jump_tag(p, S_BREAK);
}

static struct jnode *continue_tag(struct parse *p) {
    return jump_tag(p, S_CONTINUE);
}

static struct jnode *statement(struct parse *p) {
    static const struct {
        const char *name;
        struct jnode *(*parse)(struct parse *);
    } tags[] = {{"for", for_tag},          {"if", if_tag},
                {"set", set_tag},          {"macro", macro_tag},
                {"call", call_tag},        {"filter", filter_tag},
                {"with", with_tag},        {"generation", generation_tag},
                {"print", print_tag},      {"break", break_tag},
                {"continue", continue_tag}};
    if (p->t->type != T_NAME)
        return unexpected(p, "expected a tag's name, not");
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (take_name(p, tags[i].name))
            return tags[i].parse(p);
    return unexpected(p, strncmp(p->t->p, "end", 3) ? "unknown tag" : "nothing open to end with");
}

/* Statements up to one of the tags `ends` (NULL: the end), whose name is then the current token. */
static struct jnode *body(struct parse *p, const char *const *ends) {
    struct jnode *n = leaf(p, S_BODY);
    struct kids k = {0};
    int line = ends ? p->t[-1].line : 1; /* of the tag in front */
    if (++p->nest > JINJA_MAX_NEST)
        fail(p, "nested too deeply");
    while (!p->err->code) {
        struct jtok *t = p->t++;
        if (t->type == T_TEXT) {
            struct jnode *text = leaf(p, S_TEXT);
            text->value = text_value(p, t->p, t->n);
            kid(&k, text, 0);
        } else if (t->type == T_VAR) {
            struct jnode *e = tuple(p, NULL, true, false);
            if (e && (p->t++)->type != T_VAR_END) {
                p->t--;
                unexpected(p, "expected }}, not");
            }
            kid(&k, e ? node(p, S_PRINT, e, NULL) : NULL, 0);
        } else if (t->type == T_BLOCK) {
            bool end = false;
            for (int i = 0; ends && ends[i]; i++)
                end = end || at_name(p, ends[i]);
            if (end)
                break;
            kid(&k, statement(p), 0);
        } else { /* the end of the template */
            p->t--;
            if (ends)
                err_set(p->err, E_FORMAT, "%s: line %d: no '%s' for what begins here", p->j->path,
                        line, ends[0][0] == 'e' && !strcmp(ends[0], "elif") ? "endif" : ends[0]);
            break;
        }
    }
    p->nest--;
    return with(p, n, &k);
}

int jinja_tree(struct jinja *j, struct err *err) {
    struct parse p = {.j = j, .t = j->tok, .err = err};
    j->root = body(&p, NULL);
    return j->root ? 0 : -1;
}

/* ---- the template ---- */

const char *jinja_name(struct jinja *j, const char *p, size_t n) {
    int32_t i = map_get(j->names, p, n);
    if (i >= 0)
        return j->name[i];
    char *copy = jarena_add(&j->arena, n + 1);
    memcpy(copy, p, n);
    if (j->n_name == j->cap_name) {
        j->cap_name = j->cap_name ? 2 * j->cap_name : 64;
        j->name = mem_resize(j->name, (size_t)j->cap_name, sizeof *j->name);
    }
    j->name[j->n_name] = copy;
    map_put(j->names, copy, n, j->n_name);
    return j->name[j->n_name++];
}

bool jinja_mentions(const struct jinja *j, const char *name) {
    return map_get(j->names, name, strlen(name)) >= 0;
}

struct jinja *jinja_parse(const char *path, const char *text, size_t n, struct err *err) {
    struct err local = {0};
    if (n > JINJA_MAX_SOURCE) {
        err_set(err, E_FORMAT, "%s: %zu bytes, more than %d", path, n, JINJA_MAX_SOURCE);
        return NULL;
    }
    struct jinja *j = mem_new(sizeof *j);
    j->path = mem_strdup(path);
    j->names = map_new(64);
    int rc = jinja_lex(j, text, n, &local) || jinja_tree(j, &local) ? -1 : 0;
    free(j->tok);
    j->tok = NULL;
    if (rc == 0)
        return j;
    err_set(err, local.code, "%s", local.msg);
    jinja_free(j);
    return NULL;
}

void jinja_free(struct jinja *j) {
    if (!j)
        return;
    map_free(j->names);
    free(j->name);
    free(j->path);
    jarena_free(&j->arena);
    free(j);
}
