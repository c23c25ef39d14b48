/* gguf.h - GGUF v2 and v3: key-values, tensors and the tokenizer arrays of one file or a split set.
 * Everything is validated before the first allocation that a length in the file could size. */
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include "model/cfg.h"
#include "model/tensors.h"

struct gguf;

/* Reads the header of a .gguf file (and of its siblings when it is part 1 of a split set). */
struct gguf *gguf_open(const char *path, struct err *err);
void gguf_close(struct gguf *g);
struct tensors *gguf_tensors(struct gguf *g);                    /* borrowed until gguf_close */
int gguf_cfg(const struct gguf *g, struct cfg *c, struct err *err);
struct tok *gguf_tok(const struct gguf *g, struct err *err);     /* owned by the caller */

#endif
