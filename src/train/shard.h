/* shard.h - one data file as token ids: made once, kept in a cache file, then mapped.
 *
 * Cache file, little-endian: "PUMTOK01", key (16 bytes); ids (int32 each; ~id where the id is
 * context and no target); zeros up to a multiple of 8; units (struct unit each); the end: ids,
 * units, documents, skipped, bytes of text (int64 each), XXH3 of all before (uint64). The key is a
 * hash of the data file, the tokenizer's files and all that shapes the ids; a file with another
 * key, another length or another hash is made again. */
#ifndef TRAIN_SHARD_H
#define TRAIN_SHARD_H

#include "base/file.h"
#include "base/pool.h"
#include "tok/chat.h"
#include "tok/tok.h"

enum doc_format {
    DOC_AUTO,  /* by the file's name and content                                     */
    DOC_TEXT,  /* plain text; documents end at the separator                         */
    DOC_JSONL, /* an object a line: "text", "messages", or "instruction" and "output" */
    DOC_CHAT,  /* the same, and "text" is a conversation in ChatML                   */
};
int doc_format_parse(const char *name); /* -1 if unknown */

#define UNIT_TOKENS                                                                                \
    4097 /* a longer document is cut; each part begins with the last id of the one before */

enum { UNIT_CONT = 1, UNIT_WHOLE = 2 };
struct unit {     /* what is shuffled: a document, or a part of a long one */
    int64_t at;   /* of its first id                                                          */
    int64_t line; /* where its document starts in the file, from 1; in a JSON array: which it is */
    int32_t n;
    uint32_t flags; /* CONT: not the first part of its document; WHOLE: better not split (chat) */
};

struct shard_spec {
    const char *path;
    enum doc_format format;
    const char *separator; /* NULL = none; for text */
    const struct tok *tok;
    enum chat_format chat; /* how conversations are written */
    uint64_t tok_hash;     /* of the tokenizer's files: shard_tok_hash */
    const char *cache;     /* folder, which exists */
    bool skip_bad;         /* leave out documents that cannot be read, and count them */
    struct pool *pool;     /* borrowed for the call */
};
struct shard {
    const int32_t *id; /* borrowed from the mapping, as is unit */
    const struct unit *unit;
    int64_t n_id, n_unit, n_doc, n_bad, bytes;
    bool made; /* now, not found in the cache */
    struct file file;
};

/* The ids of one file.  E_IO, E_FORMAT: name file and place. */
int shard_open(struct shard *s, const struct shard_spec *spec, struct err *err);
void shard_close(struct shard *s);

/* The names of the files that make a tokenizer, its chat template among them; ends with NULL. */
extern const char *const tokenizer_files[];
int shard_tok_hash(const char *dir, uint64_t *hash, struct err *err);

#endif
