/* mat.h - element types, and the borrowed matrix that every linear layer reads. */
#ifndef NUM_MAT_H
#define NUM_MAT_H

#include <stdbool.h>
#include <stddef.h>

/* ORDER: dtype_info in dtype.c follows this enum.  From Q8_0 to Q6_K the block layouts are GGUF's;
 * INT8 and INT4 are our own (docs/formats.md). */
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
    DT_INT8, /* groups of 8, 64 or 128 with a scale each (int8_group)            */
    DT_INT4, /* groups of 32 with a scale each                                   */
    DT_COUNT,
    DT_NONE = -1,
};

struct dtype_info {
    const char *name; /* "f32", "q8_0", ...                                    */
    int block;        /* elements per block; cols must be a multiple of it     */
    int bytes;        /* bytes per block, without the scales of INT8           */
    int panel;        /* rows that a matrix stores together, see below         */
};
const struct dtype_info *dtype_info(enum dtype t);
enum dtype dtype_parse(const char *name); /* DT_NONE if unknown; case does not matter */
size_t dtype_row_bytes(enum dtype t, int cols);
int int8_group(int cols); /* columns of an INT8 row with one scale; the last group may be shorter */
size_t dtype_mat_bytes(enum dtype t, int rows, int cols); /* whole panels; callers check overflow */

/* (rows, cols), row-major, rows without gaps; data borrowed.  Types whose panel is greater than 1
 * interleave that many rows (num/panel.h): then panels follow each other without gaps, and the last
 * one is filled up with zeros. */
struct mat {
    enum dtype type;
    int rows, cols;
    const void *data;
};

/* Row i of m, as stored; i is a multiple of the type's panel. */
static inline const void *mat_row(const struct mat *m, int i) {
    return (const char *)m->data + (size_t)i * dtype_row_bytes(m->type, m->cols);
}

#endif
