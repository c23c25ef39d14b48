/* guide_impl.h - inside guide.h.
 *
 *   guide_schema.c  a JSON schema -> nodes
 *   guide.c         the automaton: which bytes may follow
 *   guide_vocab.c   the vocabulary as tries, and the tokens that may follow
 *
 * A state is a set of threads.  A thread is a stack of frames, each of which says what becomes of
 * it when the value above it is complete; equal stacks are one number, so that states compare and
 * cache cheaply.  Each thread can always be completed: what leads nowhere is never entered. */
#ifndef TOK_GUIDE_IMPL_H
#define TOK_GUIDE_IMPL_H

#include "tok/guide.h"

enum gkind { G_UNION, G_STRING, G_INTEGER, G_NUMBER, G_LITERAL, G_OBJECT, G_ARRAY };

/* Texts that may stand here, as a trie over a sorted list of them. */
struct gtext {
    char *p;
    size_t n;
    int index; /* of the property, in order of declaration; enum values: 0 */
};
struct gtrie_node {
    int child, next; /* first child, next sibling; 0 = none; node 0 is the root */
    int lo, hi;      /* texts[lo..hi) begin with what leads here */
    unsigned char byte;
    bool end; /* texts[lo] ends here */
};
struct gtrie {
    struct gtext *text;
    struct gtrie_node *node;
    int n_text, n_node;
};

struct gnode {
    enum gkind kind;
    int need;             /* depth of the shallowest value; NEVER = there is none */
    int *alt, n_alt;      /* G_UNION: nodes; after compiling none is a union */
    int min, max;         /* characters, items; max -1 = any number */
    double lo, hi;        /* numbers */
    bool lo_open, hi_open, bounded;
    struct gtrie texts;   /* G_LITERAL: values; G_OBJECT: keys as they stand between quotes */
    int *item, n_item;    /* G_OBJECT: values of the properties; G_ARRAY: first items */
    bool *required;
    uint64_t *hash; /* of the property names */
    int rest;       /* node of other properties or items; -1 = none may come */
};
enum { NEVER = 1 << 20 };

struct guide_schema {
    struct gnode *node;
    int n, cap, root;
    int string, number, words, object, array, any; /* nodes for any value of that kind */
};
int gtrie_build(struct gtrie *t); /* from its texts, which it sorts; returns how many are equal */
int gtrie_child(const struct gtrie *t, int at, unsigned char c); /* or 0 */
uint64_t ghash(uint64_t h, unsigned char c);
#define GHASH_START 0xcbf29ce484222325u

/* -- vocabulary -------------------------------------------------------------------------------- */

struct vtrie_node {
    int child, next;   /* 0 = none; node 0 is the root */
    int token, n_token; /* first in token[] of those that end here */
    unsigned char byte;
};
struct vtrie {
    struct vtrie_node *node;
    int32_t *token;
    int n_node, n_token;
};
struct guide_vocab {
    const struct tok *tok;
    int n_vocab, n_word;   /* words of 32 bits in a mask */
    int longest;           /* characters of a plain token */
    struct vtrie all, odd; /* every token; those that are not plain */
    uint32_t *plain;       /* whole characters that may stand inside a string as they are */
};

/* -- the automaton ----------------------------------------------------------------------------- */

enum gframe {
    F_DONE,
    F_VALUE,  /* a value begins here                                                    */
    F_STRING, /* a: characters so far, b: state inside a character                        */
    F_OPEN,   /* a key that is not declared; h: its hash, b as above                      */
    F_KEY,    /* a declared key; b: node of the trie; a: property that may come first     */
    F_TEXT,   /* a literal; b: node of the trie                                           */
    F_NUMBER, /* a: digits before and after the point, b: state, h: digits as one number  */
    F_OBJECT, /* a: property that may come first, b: state, h: list of undeclared keys    */
    F_ARRAY   /* a: items so far, b: state                                                */
};
struct gf {
    uint8_t kind, depth, space; /* space: white space so far, at places where it may stand */
    int node, a, b;
    int up; /* the frame that goes on when this value is complete; -1 = the answer is */
    uint64_t h;
};
enum { G_THREADS = 64 };
struct gset {
    int n;
    int f[G_THREADS]; /* frames, ascending */
};
struct gmask {
    struct gset state;
    uint32_t *bits; /* with the end tokens */
    uint64_t used;  /* when; 0 = never */
};
enum { G_MASKS = 32 };
struct guide {
    const struct guide_vocab *v;
    const struct guide_schema *s;
    int32_t *end;
    int n_end;
    struct gf *f;
    int n_f, cap_f;
    int *slot; /* hash table of frames, -1 = free */
    int n_slot;
    struct gkey {
        uint64_t hash;
        int up;
    } *key; /* undeclared keys of the objects that are open */
    int n_key, cap_key;
    struct gset now;
    struct gmask mask[G_MASKS];
    uint64_t clock;
};
void gset_step(struct guide *g, const struct gset *s, unsigned char c, struct gset *out);
/* Some thread stands between two characters of a string with room for any plain token. */
bool gset_in_string(const struct guide *g, const struct gset *s);
bool gset_complete(const struct guide *g, const struct gset *s);
/* Forgets the frames and keys that came last, down to these counts. */
void guide_forget(struct guide *g, int n_f, int n_key);
void guide_shrink(struct guide *g); /* forgets frames that no thread needs, and the masks */

#endif
