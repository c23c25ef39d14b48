/* info.c - what the server says about itself: models, health, properties, slots. */
#include <string.h>

#include "serve/impl.h"

static json_t *model_json(const struct server *s) {
    const struct cfg *c = &s->m->cfg;
    return json_pack("{s:s,s:s,s:I,s:s,s:i,s:{s:i,s:i,s:i,s:I,s:I}}", "id", s->name, "object",
                     "model", "created", (json_int_t)s->started, "owned_by", "pumice",
                     "max_model_len", s->n_ctx, "meta", "n_vocab", c->vocab, "n_ctx_train",
                     c->max_ctx, "n_embd", c->dim, "n_params", (json_int_t)cfg_params(c), "size",
                     (json_int_t)s->m->weight_bytes);
}

void route_models(struct exchange *x, void *app) {
    reply_json(x, json_pack("{s:s,s:[o]}", "object", "list", "data", model_json(app)));
}

void route_model(struct exchange *x, void *app) {
    struct server *s = app;
    struct fault f = {0};
    if (check_model(s, http_path(x) + strlen("/v1/models/"), &f))
        http_fault(x, &f);
    else
        reply_json(x, model_json(s));
}

/* Ready to take requests: false while draining. */
void route_health(struct exchange *x, void *app) {
    struct fault f = {.retry_after = 1};
    (void)app;
    if (http_draining(x)) {
        fault_set(&f, 503, NULL, NULL, "the server is stopping");
        http_fault(x, &f);
    } else {
        reply_json(x, json_pack("{s:s}", "status", "ok"));
    }
}

void route_live(struct exchange *x, void *app) {
    (void)app;
    reply_json(x, json_pack("{s:s}", "status", "ok"));
}

static json_t *sampling_json(const struct server *s) {
    const struct sampling *p = &s->o.sampling;
    return json_pack("{s:f,s:i,s:f,s:f,s:f,s:i,s:f,s:f,s:i}", "temperature", (double)p->temp,
                     "top_k", p->top_k, "top_p", (double)p->top_p, "min_p", (double)p->min_p,
                     "repetition_penalty", (double)p->repeat_penalty, "repeat_last_n",
                     p->repeat_last_n, "presence_penalty", (double)p->presence_penalty,
                     "frequency_penalty", (double)p->frequency_penalty, "max_tokens", s->o.max_new);
}

/* What the page lists: the methods that this server could use, and which of them it does. */
static json_t *methods_json(const struct loop_stats *st) {
    struct buf budget = {0};
    bool virtual = st->engine.kv.layout != KV_FLAT, sarathi = st->engine.policy == SARATHI;
    buf_printf(&budget, "at most %d tokens a step", st->engine.budget);
    json_t *j = json_pack("[{s:s,s:s,s:b,s:s},{s:s,s:s,s:b,s:s},{s:s,s:s,s:b,s:s}]", "name",
                          "vattention", "title", "vAttention", "on", virtual, "note",
                          "memory for keys and values as they grow", "name", "prefix", "title",
                          "Prefix cache in memory", "on", true, "note",
                          "what several prompts begin with is computed once", "name", "sarathi",
                          "title", "Sarathi", "on", sarathi, "note", buf_str(&budget));
    buf_free(&budget);
    return j;
}

void route_props(struct exchange *x, void *app) {
    struct server *s = app;
    struct loop_stats st;
    const struct kv_stats *kv = &st.engine.kv;
    loop_stats(s->loop, &st);
    reply_json(
        x, json_pack("{s:s,s:s,s:o,s:i,s:i,s:i,s:i,s:s,s:b,s:s?,s:s?,s:s,s:o,s:{s:I,s:I,s:I,s:I}}",
                     "build_info", s->fingerprint, "model_alias", s->name,
                     "default_generation_settings", sampling_json(s), "n_ctx", s->n_ctx,
                     "total_slots", s->o.n_slot, "max_queue", s->o.max_queue, "max_n", s->o.max_n,
                     "chat_format", prompter_name(s->prompter), "template_fallback",
                     prompter_problem(s->prompter) != NULL, "template_problem",
                     prompter_problem(s->prompter), "chat_template", tok_chat_template(s->m->tok),
                     "kv_layout", kv->layout == KV_FLAT ? "flat" : "virtual", "methods",
                     methods_json(&st), "kv_bytes", "held", (json_int_t)kv->held_bytes, "live",
                     (json_int_t)kv->live_bytes, "reserved", (json_int_t)kv->pool_bytes, "static",
                     (json_int_t)kv->static_bytes));
}

/* Counts only: never what was asked or answered. */
void route_slots(struct exchange *x, void *app) {
    enum { MOST = 256 };
    struct server *s = app;
    struct loop_slot slot[MOST];
    int n = loop_slots(s->loop, slot, MOST);
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:i,s:b,s:i,s:i,s:f}", "id", i, "is_processing",
                                              !slot[i].waiting, "n_prompt", slot[i].n_prompt,
                                              "n_decoded", slot[i].n_out, "age_seconds",
                                              (double)slot[i].age_us / 1e6));
    reply_json(x, list);
}
