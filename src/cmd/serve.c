/* serve.c - `pumice serve MODEL`: the HTTP server until SIGTERM or SIGINT, then a drain.
 *
 * Prints one line when it is ready.  The second signal ends the wait for running answers. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/prompt.h"
#include "serve/params.h"
#include "serve/server.h"

struct serve_cmd {
    struct load_opts load;
    struct gen_opts gen;
    struct chat_opts chat;
    const char *host, *alias, *cors, *key_file, *compat;
    const char *schedule;
    float tbt_slo_ms;
    struct opt_list key;
    int port, n_slot, max_queue, max_queue_ms, max_n, max_connections, ping, drain;
    int header, body, write, idle, max_body_mib;
    bool any_model, no_auth, help_params, help;
};

static volatile sig_atomic_t stop_asked, hurry_asked;

static void on_signal(int sig) {
    (void)sig;
    if (stop_asked)
        hurry_asked = 1;
    stop_asked = 1;
}

static int read_keys(const struct serve_cmd *c, struct keys *k, struct err *err) {
    for (int i = 0; i < c->key.n; i++)
        if (keys_add(k, c->key.item[i], err))
            return -1;
    return c->key_file ? keys_file(k, c->key_file, err) : 0;
}

static int open_engine(const struct serve_cmd *c, struct loaded *l, struct err *err) {
    struct engine_opts eo = {.n_slot = c->n_slot, .tbt_slo_ms = (double)c->tbt_slo_ms};
    if (sarathi_parse(c->schedule, &eo.policy, err) || cmd_engine_opts(&c->load, &eo, err))
        return -1;
    l->e = engine_open(l->m, l->pool, &eo, err);
    if (l->e)
        cmd_tell_memory(l->e);
    return l->e ? 0 : -1;
}

static struct server_opts options(const struct serve_cmd *c, const struct gen *g,
                                  struct keys *keys) {
    return (struct server_opts){
        .alias = c->alias,
        .any_model_name = c->any_model,
        .compat_vllm = c->compat != NULL,
        .n_slot = c->n_slot,
        .max_queue = c->max_queue,
        .max_queue_ms = c->max_queue_ms,
        .max_n = c->max_n,
        .max_new = g->n_predict,
        .sampling = g->sampling,
        .http = {.host = c->host,
                 .port = c->port,
                 .cors = c->cors,
                 .keys = keys,
                 .no_auth = c->no_auth,
                 .max_connections = c->max_connections,
                 .header_ms = c->header * 1000,
                 .body_ms = c->body * 1000,
                 .write_ms = c->write * 1000,
                 .idle_ms = c->idle * 1000,
                 .ping_ms = c->ping * 1000,
                 .max_body = (size_t)c->max_body_mib << 20},
    };
}

/* Waits with the signals blocked but for the moments in which it looks: none is missed. */
static void wait_for_signal(void) {
    sigset_t both, before;
    sigemptyset(&both);
    sigaddset(&both, SIGTERM);
    sigaddset(&both, SIGINT);
    sigprocmask(SIG_BLOCK, &both, &before);
    while (!stop_asked)
        sigsuspend(&before);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

static int check(const struct serve_cmd *c, struct err *err) {
    if (c->compat && strcmp(c->compat, "vllm"))
        return err_set(err, E_USAGE, "--metrics-compat: '%s' is not vllm", c->compat);
    return 0;
}

static int serve(struct serve_cmd *c, int argc, char **argv, int rest, struct err *err) {
    struct loaded l = {0};
    struct gen g = {0};
    struct keys *keys = keys_new();
    struct server *s = NULL;
    struct prompter *p = NULL;
    struct sigaction act = {.sa_handler = on_signal};
    int rc = -1;
    signal(SIGPIPE, SIG_IGN); /* clients that leave are no reason to end */
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    if (check(c, err) || read_keys(c, keys, err) ||
        cmd_model(&c->load.model, argc, argv, &rest, err) || cmd_no_more(argc, argv, rest, err) ||
        cmd_load(&c->load, &l, err) || gen_resolve(&c->gen, l.m, &g, err) ||
        open_engine(c, &l, err))
        goto out;
    if (l.m->tok && !(p = cmd_prompter(&c->chat, l.m->tok, err)))
        goto out;
    struct server_opts o = options(c, &g, keys);
    o.prompter = p;
    if (!(s = server_open(l.m, l.e, &o, err)))
        goto out;
    printf("pumice: ready on http://%s:%d\n", c->host, server_port(s));
    fflush(stdout);
    wait_for_signal();
    log_info("stopping: what runs may finish within %d s", c->drain);
    server_drain(s, c->drain * 1000, &hurry_asked);
    rc = 0;
out:
    server_close(s);
    prompter_close(p);
    keys_free(keys);
    gen_free(&g);
    cmd_unload(&l);
    return rc;
}

static struct serve_cmd defaults(void) {
    return (struct serve_cmd){.gen = gen_opts_unset(),
                              .host = "127.0.0.1",
                              .schedule = "sarathi",
                              .port = 8080,
                              .n_slot = 8,
                              .max_queue = 512,
                              .max_n = 16,
                              .max_connections = 8192,
                              .ping = 10,
                              .drain = 30,
                              .header = 10,
                              .body = 30,
                              .write = 30,
                              .idle = 60,
                              .max_body_mib = 8};
}

int cmd_serve(int argc, char **argv) {
    struct serve_cmd c = defaults();
    struct err err = {0};
    int rest;
    const struct opt table[] = {
        OPTS_HEAD("Server"),
        {"host", 0, NULL, OPT_STR, &c.host, .arg = "ADDRESS",
         .help = "where to listen (default 127.0.0.1); a public address needs API keys"},
        {"port", 0, NULL, OPT_INT, &c.port, 0, 65535, "N", "default 8080; 0 = any free one"},
        {"api-key", 0, NULL, OPT_LIST, &c.key, .arg = "KEY",
         .help = "required by all routes but /health, /livez, /readyz; repeatable"},
        {"api-key-file", 0, NULL, OPT_STR, &c.key_file, .arg = "FILE", .help = "one key a line"},
        {"insecure-no-auth", 0, NULL, OPT_FLAG, &c.no_auth,
         .help = "listen on a public address without keys"},
        {"cors-origins", 0, NULL, OPT_STR, &c.cors, .arg = "LIST",
         .help = "origins whose pages may ask, separated by commas; localhost = this machine's, "
                 "* = all (default: none)"},
        {"alias", 'a', NULL, OPT_STR, &c.alias, .arg = "NAME",
         .help = "the model's name in the API (default: the path's last part)"},
        {"any-model-name", 0, NULL, OPT_FLAG, &c.any_model,
         .help = "answer whatever model a request names"},
        {"parallel", 0, "np", OPT_INT, &c.n_slot, 1, 4096, "N", "sequences at a time (default 8)"},
        {"max-queue", 0, NULL, OPT_INT, &c.max_queue, 0, 1 << 20, "N",
         "sequences that may wait; more are refused with 429 (default 512)"},
        {"max-queue-ms", 0, NULL, OPT_INT, &c.max_queue_ms, 0, 86400000, "MS",
         "what has waited longer for its turn is refused with 503 (default 0: none)"},
        {"schedule", 0, NULL, OPT_STR, &c.schedule, .arg = "NAME",
         .help = "sarathi (default); for comparison prefill-first or unchunked"},
        {"tbt-slo", 0, NULL, OPT_FLOAT, &c.tbt_slo_ms, 0, 1e7, "MS",
         "cut prompts so that running answers get a token every MS (default: -b alone decides)"},
        {"max-n", 0, NULL, OPT_INT, &c.max_n, 1, 16, "N", "choices of one request (default 16)"},
        {"max-connections", 0, NULL, OPT_INT, &c.max_connections, 1, 1 << 20, "N",
         "default 8192, or what the limit of open files allows"},
        {"max-body", 0, NULL, OPT_INT, &c.max_body_mib, 1, 1024, "MIB",
         "largest request body (default 8)"},
        {"sse-ping-interval", 0, NULL, OPT_INT, &c.ping, 0, 3600, "S",
         "a comment into a silent stream every S seconds (default 10; 0 = never)"},
        {"header-timeout", 0, NULL, OPT_INT, &c.header, 1, 3600, "S",
         "for a request's header (default 10)"},
        {"body-timeout", 0, NULL, OPT_INT, &c.body, 1, 3600, "S",
         "for its body, and a second for each KiB (default 30)"},
        {"write-timeout", 0, NULL, OPT_INT, &c.write, 1, 3600, "S",
         "for a client that does not read (default 30)"},
        {"idle-timeout", 0, NULL, OPT_INT, &c.idle, 1, 3600, "S",
         "between two requests (default 60)"},
        {"drain", 0, NULL, OPT_INT, &c.drain, 0, 86400, "S",
         "at the end, for what runs (default 30)"},
        {"metrics-compat", 0, NULL, OPT_STR, &c.compat, .arg = "vllm",
         .help = "some of /metrics under vLLM's names too"},
        OPTS_TEMPLATE(&c.chat),
        {"help-params", 0, NULL, OPT_FLAG, &c.help_params,
         .help = "print the parameters of requests and exit"},
        OPTS_GEN(&c.gen),
        OPTS_LOAD(&c.load),
        OPTS_HELP(&c.help),
        OPTS_END,
    };
    const struct cmd_help h = {"serve MODEL [options]",
                               "Serves a model over HTTP with OpenAI's API.  What stands under "
                               "Generation holds\nwhere a request does not say.",
                               &c.help};
    if (!cmd_parse(&h, table, argc, argv, &rest, &err) && !c.help) {
        if (c.help_params)
            params_print(stdout);
        else
            serve(&c, argc, argv, rest, &err);
    }
    return cmd_fail(&err);
}
