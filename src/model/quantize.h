/* quantize.h - a GGUF file to another whose matrices have another type. */
#ifndef MODEL_QUANTIZE_H
#define MODEL_QUANTIZE_H

#include <stddef.h>

#include "base/err.h"
#include "num/mat.h"

struct quantize_opts {
    const char *in, *out; /* out NULL: only compute the report */
    enum dtype type;      /* F32, F16, BF16, Q8_0 or Q4_0 */
    void (*progress)(void *ud, size_t done, size_t total); /* or NULL */
    void *ud;
};
struct quantize_report {
    int n_tensor, n_kept; /* kept: matrices whose rows do not fill blocks, written as BF16 */
    size_t from_bytes, to_bytes;
};

/* Vectors and position embeddings become F32; with Q4_0 the head (or the embedding it is tied to)
 * becomes Q8_0.  Written atomically, in memory for a few rows.  A source that is quantised already
 * is converted from the values it holds. */
int quantize_gguf(const struct quantize_opts *o, struct quantize_report *r, struct err *err);

#endif
