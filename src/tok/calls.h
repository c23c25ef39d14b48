/* calls.h - calls of functions in what a model writes, read while it comes.  Two ways of writing:
 *
 *   Hermes   <tool_call>{"name": "f", "arguments": {...}}</tool_call>: several, with text around
 *   Llama 3  {"name": "f", "parameters": {...}} as the whole answer: several, apart by ; or space
 *
 * What only looks like a call is text, byte for byte.  Either key is taken in either way; the
 * object's other members are passed over.  Pure: what comes out depends on the bytes only, not on
 * how they were cut. */
#ifndef TOK_CALLS_H
#define TOK_CALLS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum calls_style { CALLS_HERMES, CALLS_LLAMA3 };

/* The way that a chat template teaches; Hermes if it shows none. */
enum calls_style calls_detect(const char *jinja_template);

enum calls_part {
    CALLS_TEXT, /* of the answer itself                                                    */
    CALLS_NAME, /* a call begins: its function's name, once, before its arguments          */
    CALLS_ARGS, /* of the arguments' JSON, in pieces; at least one unless the answer is cut */
};
typedef void calls_fn(void *ud, enum calls_part part, const char *text, size_t n);

struct calls_opts {
    enum calls_style style;
    bool inside; /* the answer begins behind <tool_call>, which the prompt ended with */
    /* Llama 3: whether a function has this name; without one the object is text. */
    bool (*known)(void *ud, const char *name);
    void *known_ud;
    calls_fn *part; /* text is borrowed for the call */
    void *ud;
};
struct calls;
struct calls *calls_new(const struct calls_opts *o);
void calls_free(struct calls *c);
void calls_feed(struct calls *c, const char *text, size_t n);
void calls_end(struct calls *c); /* the answer is over: what was held back goes out */

/* For templates that know no functions; both change messages.  Past calls and results become text
 * in Hermes' way; */
void calls_spell(json_t *messages);
/* the system message explains the functions, and how to call one in that way. */
void calls_explain(json_t *messages, const json_t *tools);

#endif
