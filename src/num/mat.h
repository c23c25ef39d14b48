/* mat.h - element types, and the borrowed row-major matrix that every linear layer reads. */
#ifndef NUM_MAT_H
#define NUM_MAT_H

#include <stdbool.h>
#include <stddef.h>

/* ORDER: dtype_info in dtype.c follows this enum.  Block layouts are GGUF's (docs/formats.md). */
enum dtype {
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_Q8_0,
    DT_Q4_0,
    DT_Q4_1,
    DT_Q5_0,
    DT_Q5_1,
    DT_Q4_K,
    DT_Q5_K,
    DT_Q6_K,
    DT_COUNT,
    DT_NONE = -1,
};

struct dtype_info {
    const char *name; /* "f32", "q8_0", ...                                    */
    int block;        /* elements per block; cols must be a multiple of it     */
    int bytes;        /* bytes per block                                       */
};
const struct dtype_info *dtype_info(enum dtype t);
enum dtype dtype_parse(const char *name); /* DT_NONE if unknown; case does not matter */
size_t dtype_row_bytes(enum dtype t, int cols);

struct mat { /* (rows, cols), row-major, rows without gaps; data borrowed */
    enum dtype type;
    int rows, cols;
    const void *data;
};

/* Row i of m, as stored. */
static inline const void *mat_row(const struct mat *m, int i) {
    return (const char *)m->data + (size_t)i * dtype_row_bytes(m->type, m->cols);
}

#endif
