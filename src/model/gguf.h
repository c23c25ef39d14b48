/* gguf.h - GGUF v2 and v3: key-values, tensors and the tokenizer arrays of one file or a split set.
 * Everything is validated before the first allocation that a length in the file could size. */
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include "model/cfg.h"
#include "model/tensors.h"

struct gguf;

/* Reads the header of a .gguf file (and of its siblings when it is part 1 of a split set). */
struct gguf *gguf_open(const char *path, struct err *err);
/* The same from memory, one whole file: data is borrowed until gguf_close, path only names it in
 * errors. */
struct gguf *gguf_parse(const char *path, const void *data, size_t size, struct err *err);
void gguf_close(struct gguf *g);
struct tensors *gguf_tensors(struct gguf *g); /* borrowed until gguf_close */
int gguf_cfg(const struct gguf *g, struct cfg *c, struct err *err);
struct tok *gguf_tok(const struct gguf *g, struct err *err); /* owned by the caller */

/* ORDER: the numbers are those of the file format. */
enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STR,
    GGUF_ARR,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES,
};

/* One key-value to write; everything borrowed for the call. */
struct gguf_pair {
    const char *key;
    enum gguf_type type;
    enum gguf_type elem; /* of GGUF_ARR */
    size_t n;            /* elements of GGUF_ARR */
    /* number or bool: its address; string: the char *; array: its first element (of strings: a
     * const char *const *) */
    const void *value;
    const size_t *len; /* array of strings: their lengths; NULL = NUL-terminated */
};

/* Writes one GGUF v3 file atomically; tensors in the order given (name, type, rank, shape, data
 * and bytes are read; any type of GGUF).  Data is aligned to general.alignment (a GGUF_U32
 * pair), else 32. */
int gguf_write(const char *path, const struct gguf_pair *kv, int n_kv, const struct tensor *t,
               int n_tensor, struct err *err);

#endif
