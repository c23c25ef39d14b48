/* config.c - any bytes as config.json: a checked configuration that survives a round trip, or
 * one error. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/cfg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct cfg c, again;
    struct err err = {0};
    log_quiet(true);
    json_t *j = json_parse("fuzz", data, size, &err);
    if (!j)
        return 0;
    if (cfg_from_hf(&c, j, "fuzz", &err) == 0) {
        struct err none = {0};
        json_t *out = cfg_to_hf(&c);
        if (cfg_check(&c, "fuzz", &none) || cfg_from_hf(&again, out, "fuzz", &none))
            abort();
        json_t *twice = cfg_to_hf(&again);
        if (!json_equal(out, twice) || cfg_params(&c) <= 0)
            abort();
        json_decref(out);
        json_decref(twice);
    } else if (err.code != E_FORMAT || !err.msg[0]) {
        abort();
    }
    json_decref(j);
    return 0;
}
