/* tools.h - functions that an answer may call: what a request says of them, the schema that holds
 * an answer to a call, and calls as OpenAI's JSON. */
#ifndef SERVE_TOOLS_H
#define SERVE_TOOLS_H

#include "serve/params.h"
#include "tok/calls.h"

enum { MOST_TOOLS = 128 };

enum tool_choice { TOOLS_OFF, TOOLS_AUTO, TOOLS_FORCED };

struct tools { /* borrows from the body */
    enum tool_choice choice;
    enum calls_style style;
    bool one; /* parallel_tool_calls is false */
    const json_t *list;
    const char *only; /* FORCED: this function; NULL = any */
    int n;
    const char *name[MOST_TOOLS];
};

/* Checks tools and tool_choice. */
int tools_read(const struct params *p, enum calls_style style, struct tools *out, struct fault *f);
bool tools_known(void *tools, const char *name); /* as struct calls_opts has it */

/* A call of one of the allowed functions as JSON schema, in the words of the style; owned by the
 * caller. */
json_t *tools_schema(const struct tools *t);
/* What the prompt of a forced answer ends with; "" = nothing. */
const char *tools_opening(const struct tools *t);

/* The calls of an answer, while they come.  Zeroed before made_begin; it must not move. */
struct made {
    const struct tools *tools; /* borrowed */
    struct calls *calls;
    uint64_t id; /* of the first call; the others count on */
    int n;
    calls_fn *part; /* gets the text, and the calls that are wanted: with `one` the first */
    void *ud;
};
void made_begin(struct made *m, const struct tools *t, calls_fn *part, void *ud);
void made_free(struct made *m);
/* Appends "id":..,"type":"function","function":{"name":..,"arguments": of the latest call. */
void made_head(const struct made *m, const char *name, size_t n, struct buf *out);

/* A whole answer: appends its own text to content and its calls to list, as [{"id", "type",
 * "function": {"name", "arguments"}}]; arguments are text, or (objects) JSON where they are valid.
 * Returns the number of calls. */
int tools_split(const struct tools *t, const struct buf *answer, bool objects, struct buf *content,
                struct buf *list);

#endif
