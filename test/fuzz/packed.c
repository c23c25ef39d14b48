/* packed.c - any bytes as a quantised folder: config.json up to the first NUL, then a .safetensors
 * file.  Matrices whose rows can all be read, or one error. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/packed.h"
#include "num/quant.h"

static volatile float sink; /* the reads must happen */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_rows(const struct tensor *t) {
    int cols = (int)t->shape[1];
    for (int64_t r = 0; r < t->shape[0]; r++) {
        char *row = mem_new(dtype_row_bytes(t->type, cols));
        float *f = mem_array((size_t)cols, sizeof *f);
        packed_row(t, (int)r, cols, row);
        row_to_f32(t->type, row, f, cols);
        sink = f[cols - 1];
        free(f);
        free(row);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tensors ts;
    struct err err = {0};
    const uint8_t *end = memchr(data, 0, size);
    if (!end)
        return 0;
    size_t n = (size_t)(end - data) + 1;
    json_t *j = json_parse("config.json", data, n - 1, &err);
    if (!j)
        return 0;
    if (!safetensors_parse(&ts, "fuzz", data + n, size - n, &err)) {
        if (packed_open(&ts, j, "config.json", &err) == 0) {
            for (int i = 0; i < ts.n; i++)
                if (ts.t[i].packed)
                    read_rows(&ts.t[i]);
        } else if (err.code != E_FORMAT || !err.msg[0]) {
            abort();
        }
        tensors_close(&ts);
    }
    json_decref(j);
    return 0;
}
