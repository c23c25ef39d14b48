/* dtype.c - the table of element types; sizes are those of GGUF and safetensors. */
#include <strings.h>

#include "num/mat.h"

static const struct dtype_info info[DT_COUNT] = {
    /* ORDER: enum dtype */
    {"f32", 1, 4},      {"f16", 1, 2},      {"bf16", 1, 2},     {"q8_0", 32, 34},
    {"q4_0", 32, 18},   {"q4_1", 32, 20},   {"q5_0", 32, 22},   {"q5_1", 32, 24},
    {"q4_k", 256, 144}, {"q5_k", 256, 176}, {"q6_k", 256, 210},
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

size_t dtype_row_bytes(enum dtype t, int cols) {
    return (size_t)(cols / info[t].block) * (size_t)info[t].bytes;
}
