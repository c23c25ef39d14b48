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

int read_id(const struct server *s, const json_t *v, const char *param, int32_t *out,
            struct fault *f) {
    int vocab = s->m->cfg.vocab;
    if (!json_is_integer(v))
        return fault_set(f, 400, "invalid_type", param, "%s: a token id must be an integer", param);
    if (json_integer_value(v) < 0 || json_integer_value(v) >= vocab)
        return fault_set(f, 400, "out_of_range", param,
                         "%s: token id %lld is outside the vocabulary of %d", param,
                         (long long)json_integer_value(v), vocab);
    *out = (int32_t)json_integer_value(v);
    return 0;
}

static int read_ids(const struct server *s, const char *param, const json_t *list, struct ids *out,
                    struct fault *f) {
    size_t n = json_array_size(list);
    if (n >= (size_t)s->n_ctx) { /* before anything is made for each of them */
        f->n_prompt = n < INT32_MAX ? (int)n : INT32_MAX;
        f->n_ctx = s->n_ctx;
        return fault_set(f, 400, "context_length_exceeded", param,
                         "the prompt has %zu tokens, the context holds %d, and one must stay free",
                         n, s->n_ctx);
    }
    ids_reserve(out, n);
    for (size_t i = 0; i < n; i++)
        if (read_id(s, json_array_get(list, i), param, &out->id[out->n++], f))
            return -1;
    return 0;
}

int read_prompt(const struct server *s, const char *param, const json_t *v, bool bos,
                struct ids *out, struct fault *f) {
    const struct tok *t = s->m->tok;
    if (json_is_array(v))
        return read_ids(s, param, v, out, f);
    if (!json_is_string(v))
        return fault_set(f, 400, "invalid_type", param,
                         "%s must be a string, token ids, or an array of either", param);
    if (bos && tok_adds_bos(t) && tok_bos(t) >= 0)
        ids_add(out, tok_bos(t));
    return encode_text(s, json_string_value(v), json_string_length(v), false, out, f);
}

void reply_json(struct exchange *x, json_t *j) {
    struct buf b = {0};
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(10));
    buf_adds(&b, text);
    free(text);
    json_decref(j);
    http_reply(x, 200, "application/json", &b);
}
