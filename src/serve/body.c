/* body.c - from bytes to checked parameters and token ids: what all endpoints do first. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "serve/impl.h"

json_t *body_json(const void *data, size_t n, struct fault *f) {
    json_error_t e;
    json_t *j = json_loadb(data, n, JSON_REJECT_DUPLICATES, &e);
    if (!j) {
        fault_set(f, 400, "invalid_json", NULL, "the body is not valid JSON: byte %d: %s",
                  e.position, e.text);
        return NULL;
    }
    if (!json_is_object(j)) {
        json_decref(j);
        fault_set(f, 400, "invalid_json", NULL, "the body is not a JSON object");
        return NULL;
    }
    return j;
}

json_t *body_read(struct exchange *x, struct fault *f) {
    size_t n;
    const char *data = http_body(x, &n);
    return body_json(data, n, f);
}

int body_params(struct exchange *x, const json_t *body, enum endpoint at, struct params *p,
                struct fault *f) {
    struct buf ignored = {0};
    int rc = params_parse(body, at, p, &ignored, f);
    if (ignored.len)
        http_header(x, "X-Pumice-Ignored", buf_str(&ignored));
    buf_free(&ignored);
    return rc;
}

int check_model(const struct server *s, const char *name, struct fault *f) {
    if (!name || s->o.any_model_name || !strcmp(name, s->name))
        return 0;
    return fault_set(f, 404, "model_not_found", "model", "the model here is '%.120s'", s->name);
}

static int too_long(const struct server *s, int n, const char *at_least, struct fault *f) {
    f->n_prompt = n;
    f->n_ctx = s->n_ctx;
    return fault_set(f, 400, "context_length_exceeded", NULL,
                     "the prompt has %s%d tokens, the context holds %d, and one must stay free",
                     at_least, n, s->n_ctx);
}

int check_fits(const struct server *s, int n_prompt, const struct params *p, struct fault *f) {
    if (n_prompt < 1)
        return fault_set(f, 400, "empty_prompt", "prompt", "the prompt has no tokens");
    if (n_prompt >= s->n_ctx)
        return too_long(s, n_prompt, "", f);
    if (p->max_tokens > s->n_ctx - n_prompt) {
        f->n_prompt = n_prompt;
        f->n_ctx = s->n_ctx;
        return fault_set(f, 400, "context_length_exceeded", "max_tokens",
                         "max_tokens is %lld, but %d tokens of prompt leave room for %d of %d",
                         (long long)p->max_tokens, n_prompt, s->n_ctx - n_prompt, s->n_ctx);
    }
    return 0;
}

/* A text so long that it hardly fits is tried on its beginning: tokens seldom have more than
 * `MOST` bytes, and what follows a space changes no token in front of it. */
int check_length(const struct server *s, const char *text, size_t n, struct fault *f) {
    enum { MOST = 32 };
    size_t cut = (size_t)s->n_ctx * MOST;
    struct ids ids = {0};
    int rc = 0;
    if (n <= cut)
        return 0;
    while (cut > 1 && text[cut] != ' ' && text[cut] != '\n')
        cut--;
    if (cut > 1 && !tok_encode(s->m->tok, text, cut, false, &ids, NULL) && ids.n > (size_t)s->n_ctx)
        rc = too_long(s, (int)ids.n, "at least ", f);
    ids_free(&ids);
    return rc;
}

int encode_text(const struct server *s, const char *text, size_t n, bool special, struct ids *out,
                struct fault *f) {
    struct err err = {0};
    if (check_length(s, text, n, f))
        return -1;
    if (tok_encode(s->m->tok, text, n, special, out, &err))
        return fault_set(f, 400, "tokenizer_limit", NULL, "%s", err.msg);
    if (out->n > INT_MAX / 2)
        return too_long(s, INT_MAX / 2, "at least ", f);
    return 0;
}

void reply_json(struct exchange *x, json_t *j) {
    struct buf b = {0};
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(10));
    buf_adds(&b, text);
    free(text);
    json_decref(j);
    http_reply(x, 200, "application/json", &b);
}
