/* quantize.h - a model file to another, of another type or layout: GGUF to GGUF, a Hugging Face
 * folder to GGUF, GGUF or a folder to a folder. */
#ifndef MODEL_QUANTIZE_H
#define MODEL_QUANTIZE_H

#include <stddef.h>

#include "base/err.h"
#include "num/mat.h"

struct quantize_opts {
    const char *in;   /* a folder or a .gguf file                                              */
    const char *out;  /* ends in .gguf, or is the folder to make: absent, or empty             */
    const char *type; /* of GGUF: recipe_names in recipe.h; of a folder: f32, f16, bf16, int8 or
                       * int4 */
    bool dry;         /* only compute the report */
    void (*progress)(void *ud, size_t done, size_t total); /* or NULL */
    void *ud;
};
struct quantize_report {
    const char *type;     /* as it is spelt */
    int n_tensor, n_kept; /* kept: matrices whose rows do not fill blocks, in another type */
    size_t from_bytes, to_bytes;
};

/* Vectors and position embeddings become F32; docs/formats.md says which matrices get other types
 * than the one asked for.  Written atomically, in memory for a few rows on each thread and the
 * scales of one matrix.  A source that is quantised already is converted from the values it holds;
 * rows that have the type already are copied. */
int quantize(const struct quantize_opts *o, struct quantize_report *r, struct err *err);
bool quantize_to_gguf(const char *out); /* by its name */

#endif
