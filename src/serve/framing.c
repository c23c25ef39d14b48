/* framing.c - see framing.h. */
#include "serve/framing.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HEADER_BYTES = 16384, HEADER_FIELDS = 100, ID_BYTES = 64 };

struct scan {
    struct request_head *head;
    const char *type, *length, *coding;
    int n_length, n_coding, n_host, n_field;
    size_t bytes;
};

static enum MHD_Result on_field(void *cls, enum MHD_ValueKind kind, const char *key,
                                const char *value) {
    struct scan *s = cls;
    struct request_head *h = s->head;
    (void)kind;
    value = value ? value : "";
    s->n_field++;
    s->bytes += strlen(key) + strlen(value) + 4;
    if (!strcasecmp(key, "Host")) {
        h->host = value;
        s->n_host++;
    } else if (!strcasecmp(key, "Content-Length")) {
        s->length = value;
        s->n_length++;
    } else if (!strcasecmp(key, "Transfer-Encoding")) {
        s->coding = value;
        s->n_coding++;
    } else if (!strcasecmp(key, "Origin")) {
        h->origin = value;
    } else if (!strcasecmp(key, "Authorization")) {
        h->authorization = value;
    } else if (!strcasecmp(key, "X-Api-Key")) {
        h->api_key = value;
    } else if (!strcasecmp(key, "X-Request-Id")) {
        h->id = value;
    } else if (!strcasecmp(key, "Content-Type")) {
        s->type = value;
    } else if (!strcasecmp(key, "Expect")) {
        h->expects = true;
    }
    return MHD_YES;
}

static bool is_json(const char *type) {
    size_t n = strcspn(type, "; \t");
    return (n == 16 && !strncasecmp(type, "application/json", n)) ||
           (n > 5 && !strncasecmp(type + n - 5, "+json", 5));
}

static bool is_id(const char *s) {
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:");
    return n && !s[n] && n <= ID_BYTES;
}

int framing_read(struct MHD_Connection *c, const char *version, struct request_head *head,
                 struct fault *f) {
    struct scan s = {.head = head};
    *head = (struct request_head){0};
    MHD_get_connection_values(c, MHD_HEADER_KIND, on_field, &s);
    if (head->id && !is_id(head->id))
        head->id = NULL;
    head->json = !s.type || is_json(s.type);
    head->chunked = s.n_coding > 0;
    if (s.bytes > HEADER_BYTES || s.n_field > HEADER_FIELDS)
        return fault_set(f, 431, "header_too_large", NULL,
                         "the header has more than %d bytes or %d fields", HEADER_BYTES,
                         HEADER_FIELDS);
    if (s.n_length && s.n_coding)
        return fault_set(f, 400, "bad_framing", NULL,
                         "Content-Length and Transfer-Encoding exclude each other");
    if (s.n_length > 1 || s.n_coding > 1 || s.n_host > 1)
        return fault_set(f, 400, "bad_framing", NULL,
                         "Content-Length, Transfer-Encoding and Host may stand once");
    if (s.n_coding && (strcasecmp(s.coding, "chunked") || strcmp(version, "HTTP/1.1")))
        return fault_set(f, 400, "bad_framing", NULL,
                         "Transfer-Encoding: only chunked, and only in HTTP/1.1");
    if (s.n_length) {
        size_t n = strspn(s.length, "0123456789");
        if (!n || s.length[n] || n > 18)
            return fault_set(f, 400, "bad_framing", NULL, "Content-Length is not a length");
        head->length = strtoll(s.length, NULL, 10);
    }
    return 0;
}
