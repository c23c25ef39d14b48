/* server.h - the server: a model, the engine's thread, HTTP, and the routes between them. */
#ifndef SERVE_SERVER_H
#define SERVE_SERVER_H

#include <signal.h>
#include <time.h>

#include "serve/http.h"
#include "serve/loop.h"
#include "tok/prompt.h"

struct server_opts { /* strings are borrowed until server_close; 0 = the default in brackets */
    const char *alias;        /* the model's name in the API [its path's last part] */
    const struct prompter *prompter; /* borrowed; how chats become prompts [the model's template] */
    bool any_model_name;      /* requests may name any model */
    bool compat_vllm;         /* /metrics: five values under vLLM's names too */
    int n_slot, max_queue, max_queue_ms; /* as loop_opts */
    int max_n;                /* choices of one request [16] */
    int max_new;              /* tokens where a request does not say; -1 = the context's end */
    struct sampling sampling; /* where a request does not say; bias not used */
    struct http_opts http;    /* route and app are ours */
};

struct server;

/* m and e are borrowed until server_close; e belongs to the server's thread meanwhile. */
struct server *server_open(const struct model *m, struct engine *e, const struct server_opts *o,
                           struct err *err);
int server_port(const struct server *s);
/* Stops accepting, lets what runs finish for at most ms milliseconds (until *hurry, if that comes
 * first), and ends the rest with an error. */
void server_drain(struct server *s, int ms, const volatile sig_atomic_t *hurry);
void server_close(struct server *s);

#endif
