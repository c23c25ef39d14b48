/* export.h - a loaded tokenizer in the two forms that model files carry: GGUF's arrays, and the
 * files of a Hugging Face folder. */
#ifndef TOK_EXPORT_H
#define TOK_EXPORT_H

#include "tok/tok.h"

/* spec's arrays, owned; zeroed = empty. */
struct tok_export {
    struct tok_spec spec;
    char *names, *merges; /* of ids without a piece; "left right" */
};

/* The arrays for n_vocab tokens (at least tok_size): tok_new makes a tokenizer of them that gives
 * the same ids.  Ids without a piece become unused tokens [PADn].  The pieces are borrowed from t.
 * E_USAGE names what GGUF has no word for (another pre-tokeniser or normaliser). */
int tok_export(const struct tok *t, int n_vocab, struct tok_export *e, struct err *err);
void tok_export_free(struct tok_export *e);

/* Writes DIR/tokenizer_config.json, and DIR/tokenizer.json (byte-level BPE) or
 * DIR/tokenizer.model (SentencePiece); each whole or not at all. */
int tok_write(const struct tok *t, const char *dir, struct err *err);

#endif
