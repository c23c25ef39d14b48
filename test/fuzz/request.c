/* request.c - any bytes as the body of a request: parameters within their bounds, or one fault
 * that is valid JSON.  The first byte picks the endpoint. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "serve/impl.h"
#include "serve/tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_fault(const struct fault *f) {
    struct buf b = {0};
    fault_json(f, &b);
    json_t *j = json_loadb(b.data, b.len, 0, NULL);
    if (f->status < 400 || !f->msg[0] || !json_is_object(json_object_get(j, "error")))
        abort();
    json_decref(j);
    buf_free(&b);
}

static void check_params(const struct params *p) {
    if (p->n < 1 || p->n > 16 || p->min_tokens < 0 || p->top_logprobs < 0 || p->top_logprobs > 20)
        abort();
    if (!isnan(p->temperature) && !(p->temperature >= 0 && p->temperature <= 2))
        abort();
    if (p->messages && !json_is_array(p->messages))
        abort();
}

/* Functions that may be called, and the schema of a call. */
static void check_tools(const struct params *p, enum calls_style style) {
    struct tools t;
    struct fault f = {0};
    struct err err = {0};
    if (tools_read(p, style, &t, &f)) {
        check_fault(&f);
        return;
    }
    if (t.choice != TOOLS_FORCED)
        return;
    json_t *schema = tools_schema(&t);
    struct guide_schema *s = guide_schema_new(schema, &err);
    if (!s && err.code != E_USAGE)
        abort();
    guide_schema_free(s);
    json_decref(schema);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct params p;
    struct fault f = {0};
    struct buf ignored = {0};
    if (!size)
        return 0;
    enum endpoint at = 1 << data[0] % N_ENDPOINTS;
    json_t *body = body_json(data + 1, size - 1, &f);
    if (!body || params_parse(body, at, &p, &ignored, &f))
        check_fault(&f);
    else
        check_params(&p);
    if (body && !f.status)
        check_tools(&p, data[0] & 64 ? CALLS_LLAMA3 : CALLS_HERMES);
    for (size_t i = 0; i < ignored.len; i++)
        if (ignored.data[i] < ' ' || ignored.data[i] > '~')
            abort();
    buf_free(&ignored);
    json_decref(body);
    return 0;
}
