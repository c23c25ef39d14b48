/* dtype.c - the table of element types; sizes are those of GGUF and safetensors. */
#include <strings.h>

#include "num/mat.h"

static const struct dtype_info info[DT_COUNT] = {
    /* ORDER: enum dtype */
    {"f32", 1, 4, 1},       {"f16", 1, 2, 1},       {"bf16", 1, 2, 16},     {"q8_0", 32, 34, 16},
    {"q4_0", 32, 18, 16},   {"q4_1", 32, 20, 16},   {"q5_0", 32, 22, 16},   {"q5_1", 32, 24, 16},
    {"q4_k", 256, 144, 16}, {"q5_k", 256, 176, 16}, {"q6_k", 256, 210, 16}, {"int8", 4, 4, 16},
    {"int4", 32, 18, 16},
};

const struct dtype_info *dtype_info(enum dtype t) {
    return &info[t];
}

enum dtype dtype_parse(const char *name) {
    for (int t = 0; t < DT_COUNT; t++)
        if (strcasecmp(name, info[t].name) == 0)
            return (enum dtype)t;
    return DT_NONE;
}

/* Narrow models lose most by rounding, and have few bytes to save; wide rows cost little in groups
 * of 128, and activations are rounded in the same groups.  Chosen by perplexity (docs/speed.md). */
int int8_group(int cols) {
    return cols < 256 ? 8 : cols < 1024 ? 64 : 128;
}

size_t dtype_row_bytes(enum dtype t, int cols) {
    int group = int8_group(cols);
    size_t scales = t == DT_INT8 ? (size_t)((cols + group - 1) / group) * sizeof(float) : 0;
    return (size_t)(cols / info[t].block) * (size_t)info[t].bytes + scales;
}

size_t dtype_mat_bytes(enum dtype t, int rows, int cols) {
    size_t panel = (size_t)info[t].panel;
    return ((size_t)rows + panel - 1) / panel * panel * dtype_row_bytes(t, cols);
}
