/* fault.c - see fault.h. */
#include "serve/fault.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int fault_set(struct fault *f, int status, const char *code, const char *param, const char *fmt,
              ...) {
    if (f->status)
        return -1;
    f->status = status;
    f->code = code;
    snprintf(f->param, sizeof f->param, "%s", param ? param : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->msg, sizeof f->msg, fmt, ap);
    va_end(ap);
    return -1;
}

static const char *type_of(const struct fault *f) {
    if (f->n_ctx)
        return "exceed_context_size_error";
    switch (f->status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 429:
        return "rate_limit_error";
    case 500:
        return "server_error";
    case 501:
        return "not_supported_error";
    case 503:
        return "unavailable_error";
    default:
        return "invalid_request_error";
    }
}

static int append(const char *s, size_t n, void *out) {
    buf_add(out, s, n);
    return 0;
}

void json_quote(struct buf *out, const char *text, size_t n) {
    json_t *s = json_stringn(text, n); /* NULL if a byte is not UTF-8 */
    if (!s) {
        struct buf ascii = {0};
        for (size_t i = 0; i < n; i++) {
            if ((unsigned char)text[i] < 0x80)
                buf_addc(&ascii, text[i]);
            else
                buf_adds(&ascii, "\xef\xbf\xbd");
        }
        s = json_stringn(ascii.data, ascii.len);
        buf_free(&ascii);
    }
    json_dump_callback(s, append, out, JSON_ENCODE_ANY);
    json_decref(s);
}

void fault_json(const struct fault *f, struct buf *out) {
    buf_adds(out, "{\"error\":{\"message\":");
    json_quote(out, f->msg, strlen(f->msg));
    buf_printf(out, ",\"type\":\"%s\",\"param\":", type_of(f));
    if (f->param[0])
        json_quote(out, f->param, strlen(f->param));
    else
        buf_adds(out, "null");
    buf_adds(out, ",\"code\":");
    if (f->code)
        json_quote(out, f->code, strlen(f->code));
    else
        buf_printf(out, "%d", f->status);
    if (f->n_ctx)
        buf_printf(out, ",\"n_prompt_tokens\":%d,\"n_ctx\":%d", f->n_prompt, f->n_ctx);
    buf_adds(out, "}}");
}
