/* safetensors.c - any bytes as a .safetensors file: a validated table, or one error. */
#include <stdint.h>
#include <stdlib.h>

#include "model/tensors.h"

static volatile uint8_t sink; /* the reads must happen */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tensors ts;
    struct err err = {0};
    if (safetensors_parse(&ts, "fuzz", data, size, &err)) {
        if (err.code != E_FORMAT || !err.msg[0])
            abort();
        return 0;
    }
    for (int i = 0; i < ts.n; i++) {
        const uint8_t *p = ts.t[i].data;
        if (tensors_find(&ts, ts.t[i].name) != &ts.t[i])
            abort();
        for (size_t k = 0; k < ts.t[i].bytes; k++)
            sink = p[k];
    }
    tensors_close(&ts);
    return 0;
}
