/* jinja.h - chat templates: a bounded interpreter of the part of Jinja2 that they use, byte-equal
 * to Python's as transformers sets it up (trim_blocks, lstrip_blocks, loop controls, generation
 * blocks).  No access to the host, no recursion without a bound, and each byte of the output knows
 * whether it came from the conversation or from the template. */
#ifndef TOK_JINJA_H
#define TOK_JINJA_H

#include <jansson.h>
#include <stdbool.h>
#include <time.h>

#include "base/buf.h"
#include "base/err.h"

enum {
    JINJA_MAX_SOURCE = 1 << 20, /* bytes of a template                                       */
    JINJA_MAX_NEST = 100,       /* depth of nested expressions and statements                */
    JINJA_MAX_DEPTH = 300,      /* of the same while running, macros included                */
    JINJA_MAX_VALUE = 64,       /* depth of nested lists and objects                         */
    JINJA_MAX_STEPS = 1000000,  /* evaluations, and one for each 64 bytes that are written   */
    JINJA_MAX_TEXT = 4 << 20,   /* bytes of one string, and of the output                    */
    JINJA_MAX_MEMORY = 64 << 20 /* bytes of all values of one run                            */
};

/* A parsed template: it does not change, threads may share it. */
struct jinja;

/* NULL and E_FORMAT naming path, line and construct, for what is malformed or not supported. */
struct jinja *jinja_parse(const char *path, const char *text, size_t n, struct err *err);
void jinja_free(struct jinja *j);
bool jinja_mentions(const struct jinja *j, const char *name); /* as a variable or an attribute */

struct jinja_vars { /* two objects of variables, either may be NULL; those of `ours` win */
    const json_t *input; /* of the conversation: its strings are marked                   */
    const json_t *ours;  /* strings count as the template's (bos_token)                   */
    time_t now;          /* what strftime_now formats, as local time                      */
};

/* Zeroed before; released by jinja_text_free. */
struct jinja_text {
    struct buf text;
    struct buf mark; /* one byte for each of text: 1 = from the conversation, else 0 */
};
void jinja_text_free(struct jinja_text *t);

/* Appends to out.  E_USAGE: raise_exception, its message; E_FORMAT: all else, naming the line. */
int jinja_render(const struct jinja *j, const struct jinja_vars *v, struct jinja_text *out,
                 struct err *err);

#endif
