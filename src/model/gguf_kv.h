/* gguf_kv.h - private to model/: the key-values of an open GGUF file, through getters that check
 * types. */
#ifndef MODEL_GGUF_KV_H
#define MODEL_GGUF_KV_H

#include "model/gguf.h"

/* A value as it lies in the file: borrowed until gguf_close, any alignment. */
struct gguf_value {
    enum gguf_type type;
    enum gguf_type
        elem;   /* of an array                                                            */
    uint64_t n; /* elements of an array, bytes of a string, else 1                        */
    const uint8_t
        *data; /* the first element; of an array of strings, its length field            */
};

const char *gguf_path(const struct gguf *g); /* borrowed until gguf_close */

/* The key-values of the first part as they lie in the file, n bytes with `count` of them: borrowed
 * until gguf_close. */
const void *gguf_raw(const struct gguf *g, size_t *n, uint64_t *count);

/* False if the key is absent. */
bool gguf_find(const struct gguf *g, const char *key, struct gguf_value *v);

/* Typed getters: an absent key leaves *out untouched and returns 0; a wrong type or a value outside
 * [lo, hi] (for reals: NaN too) is E_FORMAT naming file and key.  Integers may be of any width. */
int gguf_int(const struct gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out,
             struct err *err);
int gguf_real(const struct gguf *g, const char *key, double lo, double hi, double *out,
              struct err *err);
int gguf_bool(const struct gguf *g, const char *key, bool *out, struct err *err);
/* Not NUL-terminated; *s NULL stays when absent.  A NUL inside is E_FORMAT. */
int gguf_str(const struct gguf *g, const char *key, const char **s, size_t *n, struct err *err);
/* An array of `elem`; *v keeps n = 0 when absent. */
int gguf_array(const struct gguf *g, const char *key, enum gguf_type elem, struct gguf_value *v,
               struct err *err);

/* The string at *p of an array of strings; moves *p to the next. */
const char *gguf_next_str(const uint8_t **p, size_t *n);
uint64_t gguf_load(const uint8_t *p, int n_bytes); /* little endian, 1..8 bytes */

#endif
