/* tok.h - text to token ids and back.
 * Byte-level BPE (GPT-2, Llama-3, Qwen2, ...), and SentencePiece BPE with byte fallback
 * (Llama-2, Mistral). A struct tok does not change after loading and may be used from several
 * threads: an encode call owns its scratch, and what calls learn about the vocabulary is kept in
 * atomic bytes that all compute alike. */
#ifndef TOK_TOK_H
#define TOK_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct tok;

/* From a Hugging Face folder: tokenizer.json, else tokenizer.model, else vocab.json +
 * merges.txt; reads tokenizer_config.json and special_tokens_map.json beside it.  Owned by the
 * caller. */
struct tok *tok_open(const char *dir, struct err *err);

/* From arrays (GGUF): everything is copied. */
struct tok_spec {
    const char *path;  /* names the source in errors                              */
    const char *model; /* "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)  */
    const char *pre;   /* GGUF's tokenizer.ggml.pre; NULL or "default" = GPT-2's  */
    int n_vocab;
    const char *const *piece; /* n_vocab byte strings                                    */
    const size_t *piece_len;
    const float *score; /* n_vocab, or NULL                                        */
    const int32_t
        *type;    /* GGUF token types (1 normal, 2 unknown, 3 control, 4 user, 6 byte), or NULL */
    int n_merges; /* "gpt2" only                                             */
    const char *const *merge; /* "left right", NUL-terminated                            */
    int bos, eos, unk;        /* -1 = none                                               */
    bool add_bos, add_space_prefix;
    bool remove_extra_spaces;
    const char *chat_template; /* or NULL                                                 */
};
struct tok *tok_new(const struct tok_spec *spec, struct err *err);
void tok_free(struct tok *t);

int tok_size(const struct tok *t); /* highest id + 1, holes included */
int tok_bos(const struct tok *t);  /* -1 = none */
int tok_eos(const struct tok *t);
bool tok_adds_bos(const struct tok *t); /* the model was trained with BOS in front of each text */
const char *tok_kind(const struct tok *t);            /* "byte-level BPE" or "SentencePiece BPE" */
const char *tok_chat_template(const struct tok *t);   /* NULL = none; borrowed until tok_free */
bool tok_is_special(const struct tok *t, int32_t id); /* control token: not shown in decoded text */
int32_t tok_find(const struct tok *t,
                 const char *piece); /* id of an added or special token, or -1 */
/* The piece as stored in the vocabulary, NULL for a hole; borrowed until tok_free. */
const char *tok_piece(const struct tok *t, int32_t id, size_t *len);

/* Appends the ids of text[0..n).  Special tokens inside the text are parsed only with
 * parse_special (never for what a user typed); added tokens that are not special always are,
 * unless they look like a marker, <...> or [...].  No BOS is added.  Invalid UTF-8 is encoded
 * byte by byte (byte-level) or as U+FFFD (SentencePiece), never rejected.  O(n log n).
 * E_FORMAT, with out as it was, if a pattern hits its match limit or n is beyond 128 MiB. */
int tok_encode(const struct tok *t, const char *text, size_t n, bool parse_special, struct ids *out,
               struct err *err);

/* The same for text of which mark[i] = 1 says that byte i is a user's: special tokens are parsed
 * where all their bytes are unmarked, and nowhere else. */
int tok_encode_marked(const struct tok *t, const char *text, const char *mark, size_t n,
                      struct ids *out, struct err *err);

/* Appends the exact bytes of ids[0..n), which need not be valid UTF-8; special tokens are left
 * out unless keep_special.  Where the decoder says so the very first space is dropped.  Ids
 * outside the vocabulary are E_FORMAT, with out as it was. */
int tok_decode(const struct tok *t, const int32_t *ids, size_t n, bool keep_special,
               struct buf *out, struct err *err);

/* Streaming decode: feed one id at a time; appends only whole UTF-8 characters, keeps the rest.
 * The concatenation over all calls and the final flush equals tok_decode of all the ids without
 * special tokens, with each maximal invalid part (Unicode 15, table 3-7) as one U+FFFD. */
struct tok_stream {
    const struct tok *tok; /* borrowed until the stream is done */
    char held[8];
    int n_held;
    bool started; /* the first piece's leading space is dropped where the decoder says so */
};
void tok_stream_start(struct tok_stream *s, const struct tok *t);
int tok_stream_add(struct tok_stream *s, int32_t id, struct buf *out, struct err *err);
void tok_stream_end(struct tok_stream *s, struct buf *out);

/* Appends the exact bytes of one token as a person is shown it: special ones by name, a leading
 * space of SentencePiece included; not always UTF-8. */
void tok_show(const struct tok *t, int32_t id, struct buf *out);

#endif
