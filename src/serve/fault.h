/* fault.h - why a request is refused or has failed, as clients of OpenAI's API read it. */
#ifndef SERVE_FAULT_H
#define SERVE_FAULT_H

#include <stdbool.h>

#include "base/buf.h"

/* Zeroed = none; the first fault wins. */
struct fault {
    int status; /* HTTP */
    const char *code; /* static; NULL = null */
    char param[64];   /* "" = null */
    char msg[512];
    int n_prompt, n_ctx; /* exceed_context_size_error */
    int retry_after;     /* seconds; 0 = none */
};

/* Records it unless one is there already.  Always returns -1.  param may be NULL. */
int fault_set(struct fault *f, int status, const char *code, const char *param, const char *fmt,
              ...) __attribute__((format(printf, 5, 6)));

/* Appends {"error":{"message":..,"type":..,"param":..,"code":..}}. */
void fault_json(const struct fault *f, struct buf *out);

/* Appends text[0..n) as a JSON string with its quotes.  Bytes that are not UTF-8 become U+FFFD. */
void json_quote(struct buf *out, const char *text, size_t n);

#endif
