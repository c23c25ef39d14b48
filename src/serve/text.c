/* text.c - /tokenize, /detokenize, /apply-template: what the server makes of texts. */
#include <stdlib.h>
#include <string.h>

#include "serve/impl.h"

static json_t *piece_json(const struct tok *t, int32_t id) {
    struct buf b = {0}, quoted = {0};
    tok_show(t, id, &b);
    json_quote(&quoted, b.data ? b.data : "", b.len);
    json_t *piece = json_loadb(quoted.data, quoted.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    buf_free(&b);
    buf_free(&quoted);
    return json_pack("{s:i,s:o}", "id", (int)id, "piece", piece);
}

static int tokenize(struct exchange *x, const struct server *s, const struct params *p,
                    struct fault *f) {
    const struct tok *t = s->m->tok;
    struct ids ids = {0};
    struct err err = {0};
    if (!p->text)
        return fault_set(f, 400, "missing", "content", "content is missing");
    if (p->add_special && tok_adds_bos(t) && tok_bos(t) >= 0)
        ids_add(&ids, tok_bos(t));
    if (tok_encode(t, p->text, strlen(p->text), p->parse_special, &ids, &err)) {
        ids_free(&ids);
        return fault_set(f, 400, "tokenizer_limit", "content", "%s", err.msg);
    }
    json_t *list = json_array();
    for (size_t i = 0; i < ids.n; i++)
        json_array_append_new(list,
                              p->with_pieces ? piece_json(t, ids.id[i]) : json_integer(ids.id[i]));
    reply_json(x, json_pack("{s:o,s:I,s:i}", "tokens", list, "count", (json_int_t)ids.n,
                            "max_model_len", s->n_ctx));
    ids_free(&ids);
    return 0;
}

void route_tokenize(struct exchange *x, void *app) {
    struct server *s = app;
    struct params p;
    struct fault f = {0};
    json_t *body = body_read(x, &f);
    if (!body || body_params(x, body, AT_TOKENIZE, &p, &f) || check_model(s, p.model, &f) ||
        tokenize(x, s, &p, &f))
        http_fault(x, &f);
    json_decref(body);
}

static int detokenize(struct exchange *x, const struct server *s, const struct params *p,
                      struct fault *f) {
    struct ids ids = {0};
    struct buf text = {0}, out = {0};
    size_t i;
    json_t *v;
    int rc = p->tokens ? 0 : fault_set(f, 400, "missing", "tokens", "tokens is missing");
    json_array_foreach((json_t *)p->tokens, i, v) {
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id >= tok_size(s->m->tok)) {
            rc = fault_set(f, 400, "out_of_range", "tokens", "tokens[%zu] is not a token id", i);
            break;
        }
        ids_add(&ids, (int32_t)id);
    }
    struct err err = {0};
    if (!rc && tok_decode(s->m->tok, ids.id, ids.n, false, &text, &err))
        rc = fault_set(f, 400, "out_of_range", "tokens", "%s", err.msg);
    if (!rc) {
        buf_adds(&out, "{\"content\":");
        json_quote(&out, buf_str(&text), text.len);
        buf_adds(&out, "}");
        http_reply(x, 200, "application/json", &out);
    }
    ids_free(&ids);
    buf_free(&text);
    return rc;
}

void route_detokenize(struct exchange *x, void *app) {
    struct server *s = app;
    struct params p;
    struct fault f = {0};
    json_t *body = body_read(x, &f);
    if (!body || body_params(x, body, AT_DETOKENIZE, &p, &f) || check_model(s, p.model, &f) ||
        detokenize(x, s, &p, &f))
        http_fault(x, &f);
    json_decref(body);
}

/* The prompt that a chat request would give, as text and as ids. */
static int apply_template(struct exchange *x, const struct server *s, const struct params *p,
                          struct fault *f) {
    struct ids ids = {0};
    struct buf text = {0}, out = {0};
    struct ask ask;
    bool continues;
    int rc = conv_ask(s, p, &ask, &continues, f);
    rc = rc ? rc : conv_encode(s, p, &ids, &continues, f);
    if (!rc) {
        if (!prompter_has_template(s->prompter) || prompter_text(s->prompter, &ask, &text, NULL))
            tok_decode(s->m->tok, ids.id, ids.n, true, &text, NULL);
        buf_adds(&out, "{\"prompt\":");
        json_quote(&out, buf_str(&text), text.len);
        buf_adds(&out, ",\"tokens\":[");
        for (size_t i = 0; i < ids.n; i++)
            buf_printf(&out, "%s%d", i ? "," : "", ids.id[i]);
        buf_adds(&out, "]}");
        http_reply(x, 200, "application/json", &out);
    }
    ids_free(&ids);
    buf_free(&text);
    return rc;
}

void route_template(struct exchange *x, void *app) {
    struct server *s = app;
    struct params p;
    struct fault f = {0};
    json_t *body = body_read(x, &f);
    if (!body || body_params(x, body, AT_TEMPLATE, &p, &f) || check_model(s, p.model, &f) ||
        apply_template(x, s, &p, &f))
        http_fault(x, &f);
    json_decref(body);
}
