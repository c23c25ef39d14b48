/* jinja_value.h - what templates compute with: values, in the memory of one run.  All of a run's
 * memory is an arena that is freed at once.  The first error sticks in jrun.err; whoever loops asks
 * jstep, and what is computed after an error is thrown away. */
#ifndef TOK_JINJA_VALUE_H
#define TOK_JINJA_VALUE_H

#include <stdint.h>

#include "tok/jinja.h"

struct jarena {
    struct jchunk *chunk;
    size_t total; /* bytes in all chunks */
};
void *jarena_add(struct jarena *a, size_t n); /* zeroed; dies without memory, never NULL */
void jarena_free(struct jarena *a);

/* -- values ------------------------------------------------------------------------------------ */

enum jtype {
    J_MISSING, /* an argument that was not given */
    J_UNDEF,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_GEN, /* what lazy filters give: true even if empty, and gone once read */
    J_DICT,
    J_SPACE, /* namespace() */
    J_LOOP,
    J_MACRO,
    J_FUNC /* a function, or a method with its object */
};

struct jstr {
    const char *p;
    const uint8_t *mark; /* one for each byte, or NULL: all as `marked` */
    uint32_t n;
    bool marked;
    bool safe; /* what |safe and |escape give: + escapes what is joined to it, as Markup does */
};
struct jv {
    enum jtype type;
    union {
        bool b;
        int64_t i;
        double f;
        const struct jstr *s;
        struct jseq *seq;
        struct jdict *d;
        struct jloop *loop;
        const struct jmacro *macro;
        const struct jbound *fn;
        const char *name; /* J_UNDEF: what was looked up */
    };
};
struct jseq {
    struct jv *v;
    int n, cap, depth;
    int at; /* J_GEN: how many have been read */
};
struct jdict { /* in order of insertion; also what a namespace holds */
    struct jv *key, *val;
    int n, cap, depth;
};
struct jloop {
    const struct jseq *seq;
    struct jv changed;
    int i;
};
struct jbound {
    const struct jfunc *fn;
    struct jv self;
};

struct jkw {
    const char *name;
    struct jv v;
};
struct jargs {
    struct jv *v;
    int n;
    struct jkw *kw;
    int n_kw;
};

/* A filter, test, method or function.  params: names of its arguments in order, to which they are
 * bound ("sep maxsplit"), the missing ones as J_MISSING; "*" = as they come.  A name with "!" must
 * be given. */
struct jrun;
struct jfunc {
    const char *name;
    struct jv (*fn)(struct jrun *r, struct jv self, const struct jargs *a);
    const char *params;
    enum jtype of; /* methods: the type that has it */
};

/* One step of work that writes `bytes`; false = an error happened, stop. */
bool jstep(struct jrun *r, size_t bytes);
struct jv jfail(struct jrun *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void *jnew(struct jrun *r, size_t n); /* small things; never NULL */

/* jinja_value.c */
struct jv jbool(bool b);
struct jv jint(int64_t i);
struct jv jfloat(double f);
struct jv jundef(const char *name);
struct jv jnone(void);
struct jv jstr_plain(struct jrun *r, const char *s, size_t n); /* copied, the template's */
struct jv jstr_of(struct jrun *r, const struct jinja_text *t); /* copied */
struct jv jsub(struct jrun *r, const struct jstr *s, size_t from, size_t n); /* shares bytes */
void jput(struct jinja_text *t, const struct jstr *s, size_t from, size_t n);
void jput_text(struct jinja_text *t, const char *p, size_t n, bool marked);
bool jfits(struct jrun *r, size_t n); /* n bytes are a legal string; else an error */
struct jv jseq_new(struct jrun *r, enum jtype type);
bool jseq_add(struct jrun *r, struct jseq *s, struct jv v); /* a step; false after an error */
struct jv jdict_new(struct jrun *r);
bool jdict_put(struct jrun *r, struct jdict *d, struct jv key, struct jv v);
/* The value, or NULL. */
struct jv *jdict_get(struct jrun *r, const struct jdict *d, struct jv key);
struct jv *jdict_name(struct jrun *r, const struct jdict *d, const char *name);
bool jtrue(struct jv v);
bool jequal(struct jrun *r, struct jv a, struct jv b);
int jcompare(struct jrun *r, struct jv a, struct jv b); /* <0, 0, >0; errors as Python's */
const char *jtype_name(struct jv v);                    /* Python's */
bool jis(const struct jstr *s, const char *text);
struct jv jescape(struct jrun *r, const struct jstr *s); /* HTML, safe */
int jlength(struct jrun *r, struct jv v); /* characters or items; -1 and an error */
/* The items of what can be iterated, as a list that the caller may not change. */
const struct jseq *jitems(struct jrun *r, struct jv v);
bool jmarked(struct jv v); /* has any marked byte in it */
struct jv jto_str(struct jrun *r, struct jv v);               /* str(v) */
void jprint(struct jrun *r, struct jinja_text *t, struct jv v); /* the same, appended */
void jrepr(struct jrun *r, struct jinja_text *t, struct jv v);
struct jv jfrom_json(struct jrun *r, const json_t *j, bool marked);
struct jv jto_json(struct jrun *r, struct jv v, const struct jargs *a); /* bound as `tojson` */

/* Characters: length at p, its code point; an invalid byte is a character of its own. */
int jchar(const char *p, const char *end, int32_t *cp);
size_t jchars(const struct jstr *s);                   /* how many */
size_t jbyte_at(const struct jstr *s, size_t i);       /* where character i starts */
bool jspace(int32_t cp);                               /* str.isspace */
struct jv jstrip(struct jrun *r, const struct jstr *s, const struct jstr *chars, int sides);
enum { J_LEFT = 1, J_RIGHT = 2 };
enum jcase { J_LOWER, J_UPPER, J_TITLE, J_CAPITALIZE, J_WORDS /* the title filter's */ };
struct jv jcased(struct jrun *r, const struct jstr *s, enum jcase how);
bool jis_case(const struct jstr *s, bool upper);
struct jv jreplace(struct jrun *r, const struct jstr *s, const struct jstr *from,
                   const struct jstr *to, int64_t count);
/* Position of needle at or after `from`, or -1. */
int64_t jfind(const struct jstr *s, const struct jstr *needle, size_t from);
struct jv jlines(struct jrun *r, const struct jstr *s, bool keep); /* str.splitlines */
struct jv jformat(struct jrun *r, const struct jstr *f, struct jv args); /* the % operator */
bool jcontains(struct jrun *r, struct jv all, struct jv v); /* v in all */

#endif
