/* server.c - see server.h: the table of routes, and what is opened and closed in which order. */
#include "serve/server.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "serve/impl.h"
#include "serve/page.h"

static const struct route routes[] = {
    {"POST", "/v1/chat/completions", false, route_chat},
    {"POST", "/v1/completions", false, route_completion},
    {"POST", "/v1/embeddings", false, route_embeddings},
    {"GET", "/v1/models", false, route_models},
    {"GET", "/v1/models/*", false, route_model},
    {"GET", "/health", true, route_health},
    {"GET", "/readyz", true, route_health},
    {"GET", "/livez", true, route_live},
    {"GET", "/metrics", false, route_metrics},
    {"GET", "/props", false, route_props},
    {"GET", "/slots", false, route_slots},
    {"POST", "/tokenize", false, route_tokenize},
    {"POST", "/detokenize", false, route_detokenize},
    {"POST", "/apply-template", false, route_template},
    {"POST", "/api/chat", false, route_ollama_chat},
    {"POST", "/api/generate", false, route_ollama_generate},
    {"POST", "/api/embed", false, route_ollama_embed},
    {"GET", "/api/tags", false, route_ollama_tags},
    {"GET", "/api/version", false, route_ollama_version},
};
enum { N_ROUTES = sizeof routes / sizeof routes[0] };

/* The page needs no key: it asks for one. */
static struct route *all_routes(void) {
    struct route *r = mem_array((size_t)(N_ROUTES + page_count + 1), sizeof *r);
    memcpy(r, routes, sizeof routes);
    for (int i = 0; i < page_count; i++)
        r[N_ROUTES + i] = (struct route){"GET", page_files[i].path, true, route_page};
    return r;
}

/* The path's last part, without .gguf: what clients see as the model's name. */
static void name_of(const char *path, const char *alias, char *out, size_t size) {
    const char *end = path + strlen(path);
    while (end > path && end[-1] == '/')
        end--;
    const char *from = end;
    while (from > path && from[-1] != '/')
        from--;
    if (end - from > 5 && !memcmp(end - 5, ".gguf", 5))
        end -= 5;
    if (alias)
        snprintf(out, size, "%s", alias);
    else
        snprintf(out, size, "%.*s", (int)(end - from), from);
}

struct server *server_open(const struct model *m, struct engine *e, const struct server_opts *o,
                           struct err *err) {
    struct server *s = mem_new(sizeof *s);
    s->o = *o;
    s->m = m;
    s->n_ctx = engine_ctx(e);
    s->started = time(NULL);
    name_of(m->path, o->alias, s->name, sizeof s->name);
    snprintf(s->fingerprint, sizeof s->fingerprint, "pumice-%s", PUMICE_VERSION);
    if (!m->tok) {
        err_set(err, E_FORMAT, "%s: has no tokenizer, which serving needs", m->path);
        goto fail;
    }
    if (!o->prompter && !(s->own = prompter_open(m->tok, &(struct prompter_source){0}, err)))
        goto fail;
    s->prompter = o->prompter ? o->prompter : s->own;
    s->guide_vocab = guide_vocab_new(m->tok);
    s->loop = loop_open(e, &(struct loop_opts){o->n_slot, o->max_queue, o->max_queue_ms}, err);
    if (!s->loop)
        goto fail;
    s->o.http.route = s->route = all_routes();
    s->o.http.app = s;
    s->http = http_open(&s->o.http, err);
    if (!s->http)
        goto fail;
    return s;
fail:
    server_close(s);
    return NULL;
}

int server_port(const struct server *s) {
    return http_port(s->http);
}

/* Waits for at most ms until all answers are out. */
static void wait_for_answers(struct server *s, int ms, const volatile sig_atomic_t *hurry) {
    int64_t until = clock_us() + ms * 1000LL;
    while (http_busy(s->http) && clock_us() < until && !(hurry && *hurry))
        usleep(5000);
}

void server_drain(struct server *s, int ms, const volatile sig_atomic_t *hurry) {
    enum { LAST_MS = 2000 }; /* for errors to reach those whose answer is cut off */
    loop_drain(s->loop);
    http_drain(s->http);
    wait_for_answers(s, ms, hurry);
    loop_stop(s->loop);
    wait_for_answers(s, LAST_MS, NULL);
}

void server_close(struct server *s) {
    if (!s)
        return;
    if (s->loop)
        loop_stop(s->loop);
    http_close(s->http);
    loop_close(s->loop);
    prompter_close(s->own);
    guide_vocab_free(s->guide_vocab);
    free(s->route);
    free(s);
}
