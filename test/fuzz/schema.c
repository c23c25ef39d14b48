/* schema.c - any bytes as a JSON schema, and after a NUL byte the choices of whoever writes an
 * answer to it, byte by byte.  Checked: one error that names something, or an automaton that always
 * lets some byte follow what is not complete, and whose complete answers are JSON. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tok/guide.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LONGEST = 150 };

static void check(const struct buf *answer) {
    json_error_t e;
    json_t *j = json_loadb(answer->data, answer->len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &e);
    if (!j)
        abort();
    json_decref(j);
}

static void answer(const struct guide_schema *s, const uint8_t *choice, size_t n) {
    struct guide *g = guide_new(NULL, s, NULL, 0);
    struct buf b = {0};
    for (size_t i = 0; b.len < LONGEST; i++) {
        int first = i < n ? choice[i] : "]}\"0"[i % 4], tries = 0;
        bool whole = guide_complete(g);
        if (whole)
            check(&b);
        while (tries < 256 && !guide_byte(g, (unsigned char)(first + tries)))
            tries++;
        if (tries == 256) {
            if (!whole)
                abort();
            break;
        }
        buf_addc(&b, (char)(first + tries));
    }
    buf_free(&b);
    guide_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct err err = {0};
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - data) : size;
    json_t *j = json_loadb((const char *)data, n, JSON_DECODE_ANY, NULL);
    if (!j)
        return 0;
    struct guide_schema *s = guide_schema_new(j, &err);
    if (s)
        answer(s, nul ? nul + 1 : data, nul ? size - n - 1 : 0);
    else if (err.code != E_USAGE || !err.msg[0])
        abort();
    guide_schema_free(s);
    json_decref(j);
    return 0;
}
