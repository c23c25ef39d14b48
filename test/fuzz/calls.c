/* calls.c - any bytes as what a model writes; the first picks the way it writes and how the rest is
 * cut.  Checked: cuts change nothing, text without a call comes out as it went in, arguments come
 * behind a name only. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "tok/calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct heard {
    struct buf b; /* parts, each run of one kind behind its mark */
    enum calls_part last;
    int n_call;
};

static void on_part(void *ud, enum calls_part part, const char *text, size_t n) {
    struct heard *h = ud;
    if (!n || (part == CALLS_ARGS && h->last == CALLS_TEXT))
        abort();
    if (part != h->last || part == CALLS_NAME)
        buf_addc(&h->b, (char)(part + 1));
    buf_add(&h->b, text, n);
    h->n_call += part == CALLS_NAME;
    h->last = part;
}

static bool known(void *ud, const char *name) {
    (void)ud;
    return strlen(name) < 4;
}

static void hear(struct heard *h, uint8_t how, const char *text, size_t n, size_t piece) {
    struct calls *c = calls_new(&(struct calls_opts){
        how & 1 ? CALLS_LLAMA3 : CALLS_HERMES, !(how & 1) && (how & 2), known, NULL, on_part, h});
    for (size_t at = 0; at < n; at += piece)
        calls_feed(c, text + at, piece < n - at ? piece : n - at);
    calls_end(c);
    calls_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct heard whole = {0}, cut = {0};
    if (!size)
        return 0;
    const char *text = (const char *)data + 1;
    hear(&whole, data[0], text, size - 1, size);
    hear(&cut, data[0], text, size - 1, 1 + (data[0] >> 2) % 8u);
    if (whole.b.len != cut.b.len || (cut.b.len && memcmp(whole.b.data, cut.b.data, cut.b.len) != 0))
        abort();
    if (!whole.n_call &&
        (whole.b.len != size - 1 || (size > 1 && memcmp(whole.b.data, text, size - 1) != 0)))
        abort();
    buf_free(&whole.b);
    buf_free(&cut.b);
    return 0;
}
