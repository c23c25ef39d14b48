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

/* Appends the key-values of the first part as they lie in the file, but for those of a split set,
 * and with another general.file_type (where that is a u32); returns how many. */
uint64_t gguf_copy_pairs(const struct gguf *g, uint32_t file_type, struct buf *b);

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

/* The divisor that Llama 3's rope scaling gives frequency i of n. */
double gguf_rope_divisor(const struct cfg *c, int i, int n);
/* GGUF has that scaling as the finished divisors, f[n].  Every published model has low 1 and high
 * 4, the lowest frequencies show the factor itself, and original contexts are powers of two: tries
 * those, sets *c, and returns false if none explains every component. */
bool gguf_rope_scaling(struct cfg *c, const float *f, int n);

/* The string at *p of an array of strings; moves *p to the next. */
const char *gguf_next_str(const uint8_t **p, size_t *n);
uint64_t gguf_load(const uint8_t *p, int n_bytes); /* little endian, 1..8 bytes */

/* -- writing (gguf_write.c) ------------------------------------------------------------------- */

void gguf_put_pair(struct buf *b, const struct gguf_pair *kv);
/* All that comes before the data: n_kv pairs as they lie in `kv`, the tensors' infos, padding. */
void gguf_put_header(struct buf *b, const struct buf *kv, uint64_t n_kv, const struct tensor *t,
                     int n_tensor, size_t align);
size_t gguf_padding(size_t at, size_t align); /* bytes up to the next multiple */

/* -- the key-values of a model (gguf_meta.c) -------------------------------------------------- */

struct gguf_meta {
    const struct cfg *cfg;
    const struct tok *tok; /* NULL: none */
    const char *name;      /* general.name */
    uint32_t file_type;    /* general.file_type */
};
/* Appends all that readers of this family expect.  E_USAGE names what GGUF cannot express. */
int gguf_put_meta(struct buf *kv, uint64_t *n_kv, const struct gguf_meta *m, struct err *err);

#endif
