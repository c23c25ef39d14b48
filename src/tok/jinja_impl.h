/* jinja_impl.h - inside the template interpreter: the tree and one run.
 *
 *   jinja_lex.c     text -> tokens, white space control
 *   jinja_parse.c   tokens -> tree of struct jnode
 *   jinja_run.c     the tree -> output
 *   jinja_value.c   values: memory, comparing, printing, JSON;  jinja_str.c  strings with marks
 *   jinja_ops.c     filters and tests;  jinja_method.c  methods and functions */
#ifndef TOK_JINJA_IMPL_H
#define TOK_JINJA_IMPL_H

#include "tok/jinja_value.h"

/* -- the tree ---------------------------------------------------------------------------------- */

enum jkind {
    X_CONST,   /* value                                                            */
    X_NAME,    /* name                                                             */
    X_LIST,    /* kids                                                             */
    X_TUPLE,   /* kids                                                             */
    X_DICT,    /* kids: key, value, ...                                            */
    X_ATTR,    /* kid[0] . name                                                    */
    X_ITEM,    /* kid[0] [ kid[1] ]                                                */
    X_SLICE,   /* kid[0] [ kid[1] : kid[2] : kid[3] ], NULL = left out             */
    X_CALL,    /* kid[0] ( kids from 1 )                                           */
    X_FILTER,  /* kid[0] | fn ( kids from 1 ); kid[0] NULL: of a filter block      */
    X_TEST,    /* kid[0] is fn ( kids from 1 )                                     */
    X_NOT,     /* kid[0]                                                           */
    X_NEG,     /* kid[0]                                                           */
    X_POS,     /* kid[0]                                                           */
    X_MATH,    /* kid[0] op[0] kid[1] op[1] ...; left to right, of one level       */
    X_CONCAT,  /* kids                                                             */
    X_COMPARE, /* kid[0] op[0] kid[1] ...                                          */
    X_AND,     /* kids                                                             */
    X_OR,      /* kids                                                             */
    X_IF,      /* kid[0] if kid[1] else kid[2] (NULL: undefined)                   */
    X_KW,      /* name = kid[0], among arguments                                   */
    X_STAR,    /* * kid[0]                                                         */
    X_STARS,   /* ** kid[0]                                                        */
    S_BODY,    /* kids                                                             */
    S_TEXT,    /* value                                                            */
    S_PRINT,   /* kid[0]                                                           */
    S_IF,      /* condition, body, condition, body, ..., [else body]               */
    S_FOR,     /* target, iterable, condition or NULL, body, else body or NULL     */
    S_SET,     /* target, expression                                               */
    S_CAPTURE, /* target, filter chain or NULL, body                               */
    S_MACRO,   /* name; kid[0] = body, then X_NAME or X_KW of the parameters       */
    S_CALL,    /* kid[0] = the call, kid[1] = an S_MACRO called caller             */
    S_FILTER,  /* kid[0] = filter chain, kid[1] = body                             */
    S_WITH,    /* target, expression, ..., body                                    */
    S_SCOPE,   /* kid[0] = body                                                    */
    S_BREAK,
    S_CONTINUE
};

struct jnode {
    enum jkind kind;
    int line, depth;   /* depth: of the tree below, 1 for a leaf */
    const char *name;  /* unique in the template: equal names are equal pointers */
    const char *op;    /* n - 1 of: + - * / % ^ (power) # (floor), and comparisons */
    struct jnode **kid;
    int n;
    bool flag; /* X_TEST: negated */
    const struct jfunc *fn; /* NULL: there is none of that name, an error if it is reached */
    struct jv value;
};

enum jtok_type {
    T_TEXT,
    T_BLOCK,     /* {% */
    T_BLOCK_END, /* %} */
    T_VAR,       /* {{ */
    T_VAR_END,   /* }} */
    T_NAME,
    T_STRING, /* p, n: unescaped */
    T_INT,
    T_FLOAT,
    T_OP, /* p: the operator */
    T_EOF
};
struct jtok {
    enum jtok_type type;
    int line;
    const char *p;
    size_t n;
    int64_t i;
    double f;
};

struct jinja {
    struct jarena arena;
    char *path;
    struct map *names; /* -> index in name */
    const char **name;
    int n_name, cap_name;
    struct jtok *tok; /* only while parsing */
    int n_tok, cap_tok;
    struct jnode *root;
};
const char *jinja_name(struct jinja *j, const char *p, size_t n);
int jinja_lex(struct jinja *j, const char *text, size_t n, struct err *err);
int jinja_tree(struct jinja *j, struct err *err); /* jinja_parse.c: tok -> root */

/* -- one run ----------------------------------------------------------------------------------- */

struct jvar {
    const char *name;
    struct jv v;
};
struct jscope {
    struct jscope *up;
    struct jvar *var;
    int n, cap;
};
struct jmacro {
    const struct jnode *node;
    struct jscope *scope; /* where it was defined */
    struct jv caller;     /* of a call block: what it may call */
};
struct jrun {
    const struct jinja *j;
    struct err *err;
    struct jarena arena;
    struct jinja_text *out; /* where output goes now */
    struct jscope top;
    struct jv caller; /* handed to the macro that is called next; J_MISSING = none */
    int line, depth;
    int64_t steps;
    time_t now;
};

/* jinja_run.c */
struct jv jcall(struct jrun *r, struct jv f, const struct jargs *a);
/* Calls fn with the arguments bound to its parameters. */
struct jv jbind(struct jrun *r, const struct jfunc *fn, struct jv self, const struct jargs *a);
struct jv jattr(struct jrun *r, struct jv v, const char *name);
struct jv jitem(struct jrun *r, struct jv v, struct jv key);

/* Tables; NULL if there is none of that name. */
const struct jfunc *jfilter(const char *name, size_t n);
const struct jfunc *jtest(const char *name, size_t n);
const struct jfunc *jmethod(enum jtype type, const char *name);
const struct jfunc *jglobal(const char *name);

#endif
