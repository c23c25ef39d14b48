/* impl.h - what the routes of this folder share. */
#ifndef SERVE_IMPL_H
#define SERVE_IMPL_H

#include "serve/fault.h"
#include "serve/params.h"
#include "serve/server.h"
#include "tok/guide.h"
#include "tok/prompt.h"

struct server {
    struct server_opts o;
    const struct model *m;
    struct loop *loop;
    struct http *http;
    const struct prompter *prompter; /* what the options gave, or own */
    struct prompter *own;            /* or NULL */
    struct guide_vocab *guide_vocab; /* for answers that must be JSON */
    int n_ctx;
    time_t started;
    struct route *route; /* owned: the table of server.c, and the page's files */
    char name[128], fingerprint[64];
};

/* -- routes (app is the server) ---------------------------------------------------------------- */

void route_chat(struct exchange *x, void *app);       /* openai.c */
void route_completion(struct exchange *x, void *app);
void route_models(struct exchange *x, void *app);     /* info.c */
void route_model(struct exchange *x, void *app);
void route_health(struct exchange *x, void *app);
void route_live(struct exchange *x, void *app);
void route_props(struct exchange *x, void *app);
void route_slots(struct exchange *x, void *app);
void route_metrics(struct exchange *x, void *app);    /* metrics.c */
void route_page(struct exchange *x, void *app);       /* page.c */
void route_tokenize(struct exchange *x, void *app);   /* text.c */
void route_detokenize(struct exchange *x, void *app);
void route_template(struct exchange *x, void *app);

void route_ollama_chat(struct exchange *x, void *app); /* ollama.c */
void route_ollama_generate(struct exchange *x, void *app);
void route_ollama_tags(struct exchange *x, void *app);
void route_ollama_version(struct exchange *x, void *app);
void route_ollama_embed(struct exchange *x, void *app); /* embed.c */
void route_embeddings(struct exchange *x, void *app);

/* -- Ollama's ways (ollama.c) ------------------------------------------------------------------ */

void ollama_refuse(struct exchange *x, const struct fault *f); /* {"error": message} */
json_t *ollama_embed_body(const json_t *body); /* as one of /v1/embeddings; owned by the caller */

/* -- shared steps ------------------------------------------------------------------------------ */

/* The body as a JSON object, owned by the caller; NULL with a fault (body.c). */
json_t *body_json(const void *data, size_t n, struct fault *f);
json_t *body_read(struct exchange *x, struct fault *f); /* the exchange's */
/* A body's parameters; unknown names go into a header. */
int body_params(struct exchange *x, const json_t *body, enum endpoint at, struct params *p,
                struct fault *f);

/* -1 with 404 unless a request may name the model so; NULL may. */
int check_model(const struct server *s, const char *name, struct fault *f);

/* A token id of the vocabulary, or a fault of `param`. */
int read_id(const struct server *s, const json_t *v, const char *param, int32_t *out,
            struct fault *f);
/* A prompt as a string, with BOS if `bos` and the model has one, or as ids. */
int read_prompt(const struct server *s, const char *param, const json_t *v, bool bos,
                struct ids *out, struct fault *f);

/* The ids of a text; 400 exceed_context_size_error as soon as they are certain not to fit. */
int encode_text(const struct server *s, const char *text, size_t n, bool special, struct ids *out,
                struct fault *f);
/* The refusal alone, for texts that are encoded elsewhere. */
int check_length(const struct server *s, const char *text, size_t n, struct fault *f);
int check_fits(const struct server *s, int n_prompt, const struct params *p, struct fault *f);

/* p's messages for the model's template (conv.c); *continues: the answer goes on with a text, and
 * its leading space counts. */
int conv_ask(const struct server *s, const struct params *p, struct ask *ask, bool *continues,
             struct fault *f);
int conv_encode(const struct server *s, const struct params *p, struct ids *out, bool *continues,
                struct fault *f);

void reply_json(struct exchange *x, json_t *j); /* 200; releases j */
int task_fault(const struct task *t, struct fault *f); /* of one that has failed; -1 (call.c) */

#endif
