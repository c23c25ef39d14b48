/* guide.h - answers that are JSON of a given shape: a byte automaton made from a JSON schema, and
 * which tokens of a vocabulary keep it alive.  Every answer that ends by itself is valid JSON and
 * satisfies the schema.  guide_mask and guide_accept fit model/sample.h's struct constraint. */
#ifndef TOK_GUIDE_H
#define TOK_GUIDE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tok/tok.h"

enum {
    GUIDE_MAX_NODES = 20000, /* of a schema, after $ref: each schema, property and enum value */
    GUIDE_MAX_DEPTH = 64,    /* of nested values in an answer and in a schema */
    GUIDE_MAX_COUNT = 1000000, /* the largest length, item or property count that is held to */
};

/* The bytes of every token that may stand in an answer, as a trie.  It does not change after
 * guide_vocab_new; threads may share it.  t is borrowed. */
struct guide_vocab;
struct guide_vocab *guide_vocab_new(const struct tok *t);
void guide_vocab_free(struct guide_vocab *v);

/* A compiled schema; NULL as schema: any JSON object (json_object).  NULL and E_USAGE naming the
 * path and the keyword for what is not supported, contradictory or beyond the limits.  Does not
 * change; threads may share it. */
struct guide_schema;
struct guide_schema *guide_schema_new(const json_t *schema, struct err *err);
void guide_schema_free(struct guide_schema *s);

/* One answer.  `end`: ids that end an answer, allowed where it is complete.  v and s are borrowed
 * until guide_free. */
struct guide;
struct guide *guide_new(const struct guide_vocab *v, const struct guide_schema *s,
                        const int32_t *end, int n_end);
void guide_free(struct guide *g);
bool guide_mask(void *guide, uint32_t *allowed, int vocab); /* false: nothing can follow */
void guide_accept(void *guide, int32_t id);
bool guide_complete(const struct guide *g); /* what came so far is a whole answer */

/* The same without tokens: false = the byte cannot come here (and the guide stays as it was). */
bool guide_byte(struct guide *g, unsigned char c);

#endif
