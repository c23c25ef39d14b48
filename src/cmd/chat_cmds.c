/* chat_cmds.c - what can be typed besides messages: one table of commands, with the peers' names as
 * aliases. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/session.h"

/* A path as typed, "~/" included; owned by the caller. */
static char *expand(const char *path) {
    const char *home = getenv("HOME");
    return path[0] == '~' && path[1] == '/' && home ? path_join(home, path + 2) : mem_strdup(path);
}

/* -- settings ---------------------------------------------------------------------------------- */

static void show_params(const struct session *s) {
    struct gen g;
    struct err err = {0};
    if (gen_resolve(&s->gen, s->l->m, &g, &err)) {
        cmd_fail(&err);
        return;
    }
    const struct sampling *p = &g.sampling;
    printf("temp %g\ntop-k %d\ntop-p %g\nmin-p %g\nrepeat-penalty %g\nrepeat-last-n %d\n", p->temp,
           p->top_k, p->top_p, p->min_p, p->repeat_penalty, p->repeat_last_n);
    printf("presence-penalty %g\nfrequency-penalty %g\nn-predict %d\nseed %lld\nignore-eos %s\n",
           p->presence_penalty, p->frequency_penalty, g.n_predict, (long long)s->gen.seed,
           g.ignore_eos ? "on" : "off");
    for (int i = 0; i < s->gen.stop.n; i++)
        printf("stop %s\n", s->gen.stop.item[i]);
    for (int i = 0; i < s->gen.bias.n; i++)
        printf("logit-bias %s\n", s->gen.bias.item[i]);
    gen_free(&g);
}

static int parse_switch(const char *name, const char *value, bool *out, struct err *err) {
    bool on = !strcmp(value, "on") || !strcmp(value, "true") || !strcmp(value, "1");
    if (!on && strcmp(value, "off") && strcmp(value, "false") && strcmp(value, "0"))
        return err_set(err, E_USAGE, "%s: '%s' is not on or off", name, value);
    *out = on;
    return 0;
}

/* One row of the generation options by name; underscores count as dashes, lists are replaced. */
static int set_param(struct session *s, char *key, const char *value, struct err *err) {
    struct gen_opts o = s->gen;
    struct gen g;
    const struct opt table[] = {OPTS_GEN(&o), OPTS_END};
    for (char *p = key; *p; p++)
        if (*p == '_')
            *p = '-';
    if (!strcmp(key, "num-predict"))
        key = "n-predict";
    if (!strcmp(key, "ignore-eos"))
        return parse_switch(key, value, &s->gen.ignore_eos, err);
    struct opt_list *list = !strcmp(key, "stop")         ? &o.stop
                            : !strcmp(key, "logit-bias") ? &o.bias
                                                         : NULL;
    if (list)
        list->n = 0; /* "/set stop" alone clears */
    s->kept = mem_resize(s->kept, (size_t)s->n_kept + 1, sizeof *s->kept);
    char *copy = s->kept[s->n_kept++] = mem_strdup(value);
    if ((!list || *value) && opt_set(table, key, copy, err))
        return -1;
    if (gen_resolve(&o, s->l->m, &g, err)) /* what only the model can check: biases, stops */
        return -1;
    gen_free(&g);
    s->gen = o;
    return 0;
}

static int set_system(struct session *s, const char *text) {
    free(s->system);
    s->system = *text ? mem_strdup(text) : NULL;
    log_info(*text ? "system message set" : "no system message");
    return 0;
}

static enum cmd_result do_set(struct session *s, const char *arg, struct err *err) {
    if (!*arg) {
        show_params(s);
        return CMD_DONE;
    }
    char *key = mem_strdup(arg), *value = key + strcspn(key, " \t=");
    if (*value)
        *value++ = '\0';
    value += strspn(value, " \t");
    if (!strcmp(key, "parameter")) /* as one of the peers spells it */
        do_set(s, value, err);
    else if (!strcmp(key, "system"))
        set_system(s, value);
    else
        set_param(s, key, value, err);
    free(key);
    return CMD_DONE;
}

/* -- information ------------------------------------------------------------------------------- */

static void show_info(const struct session *s) {
    const struct model *m = s->l->m;
    printf("model %s: %s, %.2f M parameters, %.1f MiB of weights (%s)\n", m->path, m->cfg.arch,
           (double)cfg_params(&m->cfg) / 1e6, (double)m->weight_bytes / (1 << 20),
           dtype_info(m->head.type)->name);
}

static void show_template(const struct session *s) {
    printf("template %s%s\nsystem %s\n", prompter_name(s->prompter),
           s->plain ? " (plain continuation)" : "", s->system ? s->system : "(none)");
}

static void show_kv(const struct session *s) {
    printf("KV %.2f MiB held, %.2f MiB reserved for %d tokens\n",
           (double)engine_kv_held(s->l->e) / (1 << 20),
           (double)engine_kv_bytes(s->l->e) / (1 << 20), engine_ctx(s->l->e));
}

static enum cmd_result do_show(struct session *s, const char *arg, struct err *err) {
    static const struct {
        const char *name;
        void (*show)(const struct session *s);
    } what[] = {
        {"info", show_info}, {"template", show_template}, {"kv", show_kv}, {"params", show_params}};
    bool any = false;
    for (size_t i = 0; i < sizeof what / sizeof *what; i++)
        if (!*arg || !strcmp(arg, what[i].name)) {
            what[i].show(s);
            any = true;
        }
    if (!any)
        err_set(err, E_USAGE, "/show: '%s' is not info, template, kv or params", arg);
    return CMD_DONE;
}

static enum cmd_result do_history(struct session *s, const char *arg, struct err *err) {
    (void)arg;
    (void)err;
    if (s->system)
        printf("system: %s\n", s->system);
    for (int i = 0; i < s->n; i++)
        printf("%s: %s\n", s->msg[i].role, s->msg[i].text);
    if (!s->n)
        puts("(nothing yet)");
    return CMD_DONE;
}

/* -- the conversation -------------------------------------------------------------------------- */

static enum cmd_result do_quit(struct session *s, const char *arg, struct err *err) {
    (void)s;
    (void)arg;
    (void)err;
    return CMD_LEAVE;
}

static enum cmd_result do_clear(struct session *s, const char *arg, struct err *err) {
    (void)arg;
    (void)err;
    session_clear(s);
    log_info("conversation cleared");
    return CMD_DONE;
}

static enum cmd_result do_system(struct session *s, const char *arg, struct err *err) {
    (void)err;
    set_system(s, arg);
    return CMD_DONE;
}

static enum cmd_result do_regen(struct session *s, const char *arg, struct err *err) {
    (void)arg;
    session_again(s, err);
    return CMD_DONE;
}

static enum cmd_result do_undo(struct session *s, const char *arg, struct err *err) {
    (void)arg;
    if (s->n < 2) {
        err_set(err, E_USAGE, "there is no turn to take back");
        return CMD_DONE;
    }
    session_pop(s);
    session_pop(s);
    log_info("took back one turn, %d left", s->n / 2);
    return CMD_DONE;
}

/* /save, /load and /read need a path. */
static char *path_of(const char *name, const char *arg, struct err *err) {
    if (*arg)
        return expand(arg);
    err_set(err, E_USAGE, "%s: give a file", name);
    return NULL;
}

static enum cmd_result do_save(struct session *s, const char *arg, struct err *err) {
    char *path = path_of("/save", arg, err);
    if (path && !session_save(s, path, err))
        log_info("saved %d messages to %s", s->n + (s->system != NULL), path);
    free(path);
    return CMD_DONE;
}

static enum cmd_result do_load(struct session *s, const char *arg, struct err *err) {
    char *path = path_of("/load", arg, err);
    if (path && !session_load(s, path, err))
        log_info("loaded %d messages from %s", s->n + (s->system != NULL), path);
    free(path);
    return CMD_DONE;
}

static enum cmd_result do_read(struct session *s, const char *arg, struct err *err) {
    struct buf b = {0};
    char *path = path_of("/read", arg, err);
    if (path && !strcmp(path, "-"))
        err_set(err, E_USAGE, "/read: give a file");
    else if (path && !cmd_read(path, true, &b, err))
        session_say(s, buf_str(&b), err);
    buf_free(&b);
    free(path);
    return CMD_DONE;
}

static enum cmd_result do_stats(struct session *s, const char *arg, struct err *err) {
    parse_switch("/stats", arg, &s->stats, err);
    return CMD_DONE;
}

static enum cmd_result do_help(struct session *s, const char *arg, struct err *err);

static const struct {
    const char *name, *alias[3], *arg, *help;
    enum cmd_result (*run)(struct session *s, const char *arg, struct err *err);
} commands[] = {
    {"/help", {"/?"}, "", "this list", do_help},
    {"/quit", {"/exit", "/bye"}, "", "leave; also quit, exit, Ctrl-D", do_quit},
    {"/clear", {0}, "", "forget the conversation; also clear", do_clear},
    {"/history", {0}, "", "show the conversation; also history", do_history},
    {"/system", {0}, "[TEXT]", "set or remove the system message", do_system},
    {"/set", {0}, "[KEY VALUE]", "temp, top-k, top-p, min-p, seed, n-predict, stop, ...", do_set},
    {"/show", {0}, "[info|template|kv|params]", "what is in use", do_show},
    {"/regen", {0}, "", "answer the last message anew", do_regen},
    {"/undo", {0}, "", "take back the last turn", do_undo},
    {"/save", {0}, "FILE", "write the conversation as JSON", do_save},
    {"/load", {0}, "FILE", "continue a saved conversation", do_load},
    {"/read", {0}, "FILE", "send a file's text as the message", do_read},
    {"/stats", {0}, "on|off", "figures after each answer", do_stats},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static enum cmd_result do_help(struct session *s, const char *arg, struct err *err) {
    (void)s;
    (void)arg;
    (void)err;
    for (int i = 0; i < N_COMMANDS; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s %s", commands[i].name, commands[i].arg);
        printf("  %-34s%s\n", left, commands[i].help);
    }
    puts("\nA line that starts with \"\"\" opens a message of many lines, closed by \"\"\".\n"
         "A space in front sends a line that looks like a command.  Ctrl-C stops an answer.");
    return CMD_DONE;
}

static bool named(int i, const char *name, size_t n) {
    const char *names[] = {commands[i].name, commands[i].alias[0], commands[i].alias[1]};
    for (int k = 0; k < 3; k++)
        if (names[k] && strlen(names[k]) == n && !memcmp(names[k], name, n))
            return true;
    return false;
}

enum cmd_result session_command(struct session *s, const char *line, struct err *err) {
    static const char *const bare[] = {"quit", "exit", "clear", "history"};
    char *text = NULL;
    size_t len = strlen(line);
    while (len && strchr(" \t\r", line[len - 1]))
        len--;
    for (size_t i = 0; i < sizeof bare / sizeof *bare; i++)
        if (strlen(bare[i]) == len && !memcmp(bare[i], line, len))
            text = mem_new(len + 2), text[0] = '/', memcpy(text + 1, line, len);
    if (!text && line[0] != '/')
        return CMD_NOT;
    if (!text) {
        text = mem_new(len + 1);
        memcpy(text, line, len);
    }
    size_t n = strcspn(text, " \t");
    const char *arg = text + n + strspn(text + n, " \t");
    enum cmd_result r = CMD_DONE;
    int i = 0;
    while (i < N_COMMANDS && !named(i, text, n))
        i++;
    if (i < N_COMMANDS)
        r = commands[i].run(s, arg, err);
    else
        err_set(err, E_USAGE, "unknown command '%.*s'; /help lists them", (int)n, text);
    fflush(stdout);
    free(text);
    return r;
}
