/* tokenizer.c - any bytes as a tokenizer file, then a short text through what was read. First
 * byte 'M': the rest is a tokenizer.model; otherwise the whole input is a tokenizer.json.  The
 * rest of the input after a NUL byte, if any, is the text.  Checked: one error, or a tokenizer
 * whose ids are all in its vocabulary and decode, in a stream too. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tok/impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tok *t, const char *text, size_t n, bool special) {
    struct ids v = {0};
    struct buf all = {0}, parts = {0};
    struct err err = {0};
    if (tok_encode(t, text, n, special, &v, &err)) {
        if (err.code != E_FORMAT || !err.msg[0] || v.n)
            abort();
        goto out;
    }
    struct tok_stream s;
    tok_stream_start(&s, t);
    if (tok_decode(t, v.id, v.n, false, &all, &err))
        abort();
    for (size_t i = 0; i < v.n; i++)
        if (tok_stream_add(&s, v.id[i], &parts, &err))
            abort();
    tok_stream_end(&s, &parts);
    int32_t cp;
    for (size_t i = 0, len; i < parts.len; i += len)
        if ((len = (size_t)utf8_next(parts.data + i, parts.data + parts.len, &cp)) == 0)
            abort();
out:
    ids_free(&v);
    buf_free(&all);
    buf_free(&parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char fixed[] =
        "Hello  world, it's 1234 caf\xc3\xa9 e\xcc\x81 \xf0\x9f\x98\x80\n\n <s> ab\xff aaaaaaaa";
    struct err err = {0};
    const char *nul = memchr(data, 0, size), *text = fixed;
    size_t n_text = sizeof fixed - 1, n = size;
    struct tok *t;
    log_quiet(true);
    if (size && data[0] == 'M') {
        t = spm_parse("fuzz", data + 1, size - 1, &err);
    } else {
        if (nul) {
            n = (size_t)(nul - (const char *)data);
            text = nul + 1;
            n_text = size - n - 1;
        }
        t = hf_parse("fuzz", data, n, &err);
    }
    if (t) {
        use(t, text, n_text, false);
        use(t, text, n_text, true);
        tok_free(t);
    } else if (err.code != E_FORMAT || !err.msg[0]) {
        abort();
    }
    return 0;
}
