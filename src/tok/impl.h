/* impl.h - what the files of this folder share: the loaded tokenizer and the state of one encode
 * call.
 * exception: the private declarations of ten files in the order of the steps, hence its length.
 *
 * Text becomes ids in five steps; each is a file:
 *   added.c   added and special tokens are cut out of the raw text
 *   norm.c    the rest is normalised
 *   pretok.c  and split into words
 *   bpe.c     each word becomes symbols, and the best pairs of symbols are merged
 * Loading: hf.c (JSON and text files) and spm.c (tokenizer.model, scores) fill a struct tok
 * through the vocab_* functions, which validate; tok_finish builds the tables that encoding
 * reads.
 *
 * Invariants after tok_finish: (1) every id >= 0 in any table is < n_vocab and no hole; (2) a
 * merge makes the concatenation of its two pieces, so merging ends; (3) nothing but `whole` is
 * written again. */
#ifndef TOK_IMPL_H
#define TOK_IMPL_H

#include <stdatomic.h>

#include "base/json.h"
#include "base/map.h"
#include "tok/tok.h"

#define TOK_MAX_FILE                                                                               \
    ((size_t)64 << 20) /* the largest public tokenizer.json is 33 MB               */
#define TOK_MAX_IDS (1 << 22)
#define TOK_MAX_PIECE 4096 /* bytes of one piece; the longest public ones have 500     */
#define TOK_MAX_MERGES (1 << 21)
#define TOK_MAX_STEPS 16 /* normalisers or pre-tokenisers in one sequence            */

enum piece_kind {
    PIECE_HOLE,
    PIECE_NORMAL,
    PIECE_UNKNOWN, /* stands for what the vocabulary cannot spell   */
    PIECE_CONTROL, /* special: not shown, not parsed from user text */
    PIECE_USER,    /* added but not special                         */
    PIECE_BYTE,    /* <0xHH>                                        */
    PIECE_UNUSED,  /* has an id, never matches                      */
};

struct piece {
    const char *stored, *raw; /* as in the vocabulary; as decoded text.  In the arena. */
    uint32_t stored_len, raw_len;
    enum piece_kind kind;
    int32_t first, last; /* ids of its first and last symbol, -1 = cannot be built */
    int32_t added;       /* index in tok.added + 1, 0 = none                       */
};

struct added {
    int32_t id;
    const char *text; /* content; in the arena                              */
    uint32_t len;
    bool special, lstrip, rstrip, single_word;
    bool normalized;   /* matched in the normalised text                     */
    const char *match; /* what is searched; NULL until matcher_build makes it from text */
    uint32_t match_len;
};

/* Leftmost-longest search for a set of strings: sorted, narrowed byte by byte. */
struct matcher {
    const struct added **sorted;
    int n;
    bool first[256]; /* first bytes of the set */
};

enum norm_type {
    NORM_NFC,
    NORM_NFD,
    NORM_NFKC,
    NORM_NFKD,
    NORM_LOWER,
    NORM_STRIP,
    NORM_STRIP_ACCENTS,
    NORM_PREPEND, /* to non-empty text */
    NORM_REPLACE,
    NORM_REPLACE_REGEX,
    NORM_SQUEEZE, /* SentencePiece's remove_extra_whitespaces */
};
struct norm {
    enum norm_type type;
    bool left, right;      /* STRIP */
    const char *from, *to; /* in the arena */
    size_t from_len, to_len;
    struct regex *re;
};

enum pre_type {
    PRE_GPT2,
    PRE_LLAMA3, /* digits in groups of `digits`; Qwen2's has 1 */
    PRE_DIGITS,
    PRE_REGEX,
    PRE_STRING,
    PRE_METASPACE,
    PRE_PREFIX_SPACE,
};
enum split { SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };
enum prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };
struct pre {
    enum pre_type type;
    int digits; /* LLAMA3: group; DIGITS: 1 = each alone, 0 = runs */
    enum split split;
    bool invert;
    enum prepend prepend; /* METASPACE */
    const char *text;     /* STRING, METASPACE's replacement; in the arena */
    size_t text_len;
    struct regex *re;
};

struct pair {            /* a merge; open addressing on (left, right) */
    int32_t left, right; /* left -1 = free */
    uint32_t rank;       /* lower first; equal ranks leftmost first */
    int32_t id;
};

struct tok {
    char *path;
    bool bytes; /* byte-level BPE, else SentencePiece BPE */
    bool fuse_unk, byte_fallback, ignore_merges;
    int bos, eos, unk;
    bool add_bos;
    bool strip_first; /* decoded text loses one leading space */
    int n_replace;    /* decoder steps applied while loading  */
    char *chat_template;

    struct arena *arena;
    struct piece *piece;
    int n_vocab, cap_vocab, n_pieces;
    struct map *by_piece; /* stored -> id */
    struct map *by_raw;   /* byte-level: raw bytes of normal pieces -> id */
    size_t max_piece;     /* bytes of the longest piece in the map that words are looked up in */

    struct added *added;
    int n_added, cap_added;
    struct matcher raw_match[2], norm_match[2]; /* [parse_special] */

    struct norm norm[TOK_MAX_STEPS];
    int n_norm;
    struct pre pre[TOK_MAX_STEPS];
    int n_pre;

    int32_t byte_id[256]; /* byte-level: the piece of one byte; else the <0xHH> piece; -1 = none */
    int32_t *char_id;     /* SentencePiece: the piece of one character below U+10000, -1 = none  */
    struct pair *pair;
    size_t n_pair, pair_mask; /* table size - 1, a power of two less one */
    uint32_t n_rank;          /* ranks are < n_rank */
    uint64_t *junction;       /* bit set: some merge joins symbols that hash here */
    _Atomic unsigned char
        *whole; /* per id: is the piece's text encoded as this one id?  A cache that any
                                   * thread may fill, since all compute the same answer. */
};

/* Scratch of one tok_encode call, allocated as needed and freed at its end: a struct tok is
 * shared. */
struct enc {
    const struct tok *t;
    struct ids *out;
    struct err *err;
    bool at_start;             /* nothing of the text came before this segment */
    bool last_unk;             /* the last id of this word is an unknown */
    struct buf norm[2];        /* normaliser ping-pong */
    struct ids sym;            /* symbols of the current word */
    struct queue *queue;       /* of bpe.c, for long words */
    struct regex_state *regex; /* of pretok.c */
};

/* vocab.c */
void *arena_add(struct tok *t, const void *p,
                size_t n); /* copied, NUL behind; lives as long as t */
struct tok *vocab_new(const char *path);
int vocab_add(struct tok *t, int64_t id, const char *s, size_t n, enum piece_kind kind,
              struct err *err);
int vocab_add_token(struct tok *t, const struct added *a, int64_t id,
                    struct err *err); /* a->id is ignored */
/* `type` as in tokenizer.model and GGUF: 1 normal, 2 unknown, 3 control, 4 user-defined, 5
 * unused, 6 byte. */
int vocab_add_typed(struct tok *t, int64_t id, const char *s, size_t n, int64_t type,
                    struct err *err);
int32_t vocab_find(const struct tok *t, const char *s, size_t n);
/* A merge of two pieces as stored; both and their concatenation must be in the vocabulary. */
int vocab_add_merge(struct tok *t, const char *left, size_t n_left, const char *right,
                    size_t n_right, uint32_t rank, struct err *err);
int vocab_byte_token(const char *s,
                     size_t n); /* value of <0xHH>, -1 = another piece, -2 = malformed one */
int vocab_check_bytes(struct tok *t, struct err *err); /* sets byte_id from the <0xHH> pieces */
int tok_finish(struct tok *t, struct err *err);
size_t byte_to_mapped(unsigned char b, char out[2]);
const struct added *vocab_added(const struct tok *t, int32_t id); /* or NULL */

/* added.c */
void matcher_build(struct tok *t);
void matcher_free(struct tok *t);
/* The first match in text[from..n), or NULL; [*lo, *hi) includes what lstrip and rstrip swallow. */
const struct added *matcher_find(const struct matcher *m, const char *text, size_t n, size_t from,
                                 size_t *lo, size_t *hi);
/* The same, but tokens of m[1] must lie in bytes whose mark is 0; those of m[0] may be anywhere. */
const struct added *matcher_find_marked(const struct matcher m[2], const char *text,
                                        const char *mark, size_t n, size_t from, size_t *lo,
                                        size_t *hi);

/* norm.c: *out and *out_n are the text or a view of a scratch buffer of e. */
int norm_run(struct enc *e, const char *text, size_t n, const char **out, size_t *out_n);
/* Length of the valid UTF-8 character at p (0 if invalid), its code point in *cp. */
int utf8_next(const char *p, const char *end, int32_t *cp);
bool is_space(int32_t cp); /* Unicode White_Space */

/* pretok.c */
int pre_run(struct enc *e, int step, const char *text, size_t n);
struct regex *regex_new(const char *path, const char *field, const char *pattern, size_t n,
                        struct err *err);
void regex_free(struct regex *r);
/* The text as PCRE2 must see it (see pretok.c): itself, or a copy of the same length. */
const char *regex_subject(const char *text, size_t n, struct buf *copy);
/* Next non-empty match at or after `from`: 1 and its range, 0 if none, -1 and e->err. */
int regex_find(struct enc *e, const struct regex *r, const char *sub, size_t n, size_t from,
               size_t *lo, size_t *hi);
void regex_state_free(struct regex_state *s);
/* Names the scanner that equals this pattern, or compiles it.  0 or -1. */
int pre_from_pattern(const char *path, const char *pattern, size_t n, struct pre *p,
                     struct err *err);
const char *pre_pattern(const struct pre *p); /* of a scanner: the pattern that it equals */
/* The end of the word that starts at text < end; only for a scanner. */
const char *pre_next(const struct pre *p, const char *text, const char *end);
/* The last place in (0, n) where a text may be cut without changing any scanner's words; 0 =
 * none. */
size_t pre_cut(const char *text, size_t n);

/* bpe.c */
void bpe_reserve(struct tok *t, size_t n_merges);
void bpe_add(struct tok *t, int32_t left, int32_t right, uint32_t rank,
             int32_t id); /* a repeated pair: the last */
void bpe_junctions(struct tok *t);
void bpe_word(struct enc *e, const char *s, size_t n);
void queue_free(struct queue *q);

/* spm.c */
int spm_merges_from_scores(struct tok *t, const float *score, struct err *err);
void spm_defaults(struct tok *t, bool prefix,
                  bool squeeze); /* normaliser and decoder of SentencePiece */
/* Makes decoded text of each piece: `from` replaced by `to`, and bytes from <0xHH> where
 * `bytes`. */
void spm_spell(struct tok *t, const char *from, const char *to, bool bytes);
void spm_squeeze(struct tok *t); /* adds remove_extra_whitespaces in front of the normalisers */
/* tokenizer.model bytes; call tok_finish next. */
struct tok *spm_load(const char *path, const void *data, size_t n, struct err *err);
struct tok *spm_parse(const char *path, const void *data, size_t n,
                      struct err *err); /* and finished */
/* Only the normaliser's remove_extra_whitespaces of a tokenizer.model. */
int spm_squeezes(const char *path, const void *data, size_t n, bool *out, struct err *err);

/* hf.c */
struct tok *hf_parse(const char *path, const void *data, size_t n,
                     struct err *err); /* tokenizer.json bytes */

/* hf_write.c: parts of a tokenizer.json.  ByteLevel, which splits words where `regex`; a
 * post_processor that puts BOS in front. */
json_t *hf_byte_level(bool prefix, bool regex);
json_t *hf_bos_template(const char *bos, int id);

#endif
