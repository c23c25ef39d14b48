/* chat.c - `pumice chat MODEL`: the loop of a conversation.
 *
 * Answers go to stdout, everything else that is not asked for (warnings, figures) to stderr; escape
 * codes are used on a terminal only.  Lines from a pipe work like lines typed, so that a
 * conversation can be scripted: then the first error becomes the exit status. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "cmd/session.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

struct chat_cmd {
    struct load_opts load;
    struct gen_opts gen;
    struct chat_opts chat;
    const char *message;
    bool json, interactive, help;
};

/* Removes the final """ of a line; true if it was there. */
static bool closes(struct buf *line) {
    size_t n = line->len;
    while (n && strchr(" \t", line->data[n - 1]))
        n--;
    if (n < 3 || memcmp(line->data + n - 3, "\"\"\"", 3))
        return false;
    line->len = n - 3;
    return true;
}

/* A message: one line, or what stands between """ and """, without the line breaks next to them. */
static enum input_event read_message(struct input *in, struct buf *text) {
    struct buf line = {0};
    enum input_event ev = input_read(in, ">>> ", text);
    if (ev != IN_LINE || text->len < 3 || memcmp(text->data, "\"\"\"", 3))
        return ev;
    text->len -= 3;
    memmove(text->data, text->data + 3, text->len);
    bool closed = closes(text);
    bool first = !text->len;
    while (!closed && (ev = input_read(in, "... ", &line)) == IN_LINE) {
        closed = closes(&line);
        if (!first && !(closed && !line.len))
            buf_addc(text, '\n');
        buf_add(text, line.data, line.len);
        first = false;
    }
    buf_free(&line);
    if (ev == IN_END && text->len)
        ev = IN_LINE; /* the end of the input closes it too */
    return ev;
}

static bool is_blank(const struct buf *b) {
    for (size_t i = 0; i < b->len; i++)
        if (!strchr(" \t\r\n", b->data[i]))
            return false;
    return true;
}

/* One message or command.  Errors are printed; in a script the first one is kept in *first. */
static bool take_line(struct session *s, struct buf *text, struct err *first) {
    struct err err = {0};
    if (utf8_fix(text))
        log_warn("the line is not valid UTF-8: the wrong parts are replaced by U+FFFD");
    bool message = strlen(buf_str(text)) != text->len || memchr(text->data, '\n', text->len);
    enum cmd_result r = message ? CMD_NOT : session_command(s, buf_str(text), &err);
    if (r == CMD_NOT) {
        const char *p = buf_str(text);
        session_say(s, *p == ' ' && (p[1] == '/' || p[1] == '"') ? p + 1 : p, &err);
    }
    if (err.code != E_OK) {
        cmd_fail(&err);
        if (first->code == E_OK)
            *first = err;
    }
    return r != CMD_LEAVE;
}

/* Ctrl-C is remembered until whoever it stops has seen it: the answer (session.c) or the line
 * (input.c), so none is lost that comes between the two.  It does not end a write: to a terminal
 * that is not draining that would fail, and text would be lost. */
static void catch_interrupt(void) {
    struct sigaction sa = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &sa, NULL);
}

/* Reads and answers until the user leaves; returns the exit status. */
static int converse(struct session *s, struct input *in) {
    struct buf text = {0};
    struct err first = {0};
    bool warned = false, go_on = true;
    if (input_interactive(in))
        catch_interrupt();
    while (go_on && !ferror(stdout)) {
        enum input_event ev = read_message(in, &text);
        if (ev == IN_END) {
            if (input_interactive(in))
                putchar('\n');
            break;
        }
        if (ev == IN_INTERRUPT) {
            putchar('\n');
            bool empty = is_blank(&text);
            if (empty && warned)
                break;
            if (empty)
                fprintf(stderr, "Ctrl-C again, Ctrl-D or /quit leaves.\n");
            warned = empty;
            continue;
        }
        warned = false;
        if (!is_blank(&text))
            go_on = take_line(s, &text, &first);
    }
    buf_free(&text);
    return input_interactive(in) ? E_OK : (int)first.code;
}

/* No answer would ever end in a model that knows no turns: cap it unless told otherwise. */
enum { PLAIN_TOKENS = 128 };

static int open_session(struct chat_cmd *c, struct loaded *l, struct session *s, struct err *err) {
    if (cmd_load(&c->load, l, err) || cmd_engine(&c->load, l, err))
        return -1;
    if (!l->m->tok)
        return err_set(err, E_USAGE, "%s: has no tokenizer: nothing to chat with", l->m->path);
    *s = (struct session){.l = l, .gen = c->gen, .json = c->json, .interrupted = &interrupted};
    if (!(s->prompter = cmd_prompter(&c->chat, l->m->tok, err)))
        return -1;
    s->plain = !prompter_has_template(s->prompter) && !prompter_family(s->prompter) &&
               !prompter_problem(s->prompter);
    s->system = c->chat.system && *c->chat.system ? mem_strdup(c->chat.system) : NULL;
    s->colour = cmd_colour(STDERR_FILENO);
    struct gen g;
    if (gen_resolve(&s->gen, l->m, &g, err)) /* bad flags fail before the first message */
        return -1;
    if (s->plain) {
        if (s->gen.n_predict == INT_MIN)
            s->gen.n_predict = PLAIN_TOKENS;
        log_warn("%s: no known chat template: it continues your text (-n %d)", l->m->path,
                 s->gen.n_predict);
    }
    gen_free(&g);
    return 0;
}

static int chat(struct chat_cmd *c, struct err *err) {
    struct loaded l = {0};
    struct session s = {0};
    struct input *in = NULL;
    int status = 0;
    if (open_session(c, &l, &s, err))
        goto out;
    if (c->message) {
        struct buf b = {0};
        buf_adds(&b, c->message);
        utf8_fix(&b);
        session_say(&s, buf_str(&b), err);
        buf_free(&b);
        goto out;
    }
    in = input_open(&interrupted);
    if (input_interactive(in)) {
        s.stats = !c->load.quiet && !c->json;
        log_info("%s, %s, %.2f M parameters, context %d; /help lists commands, Ctrl-D leaves",
                 l.m->path, l.m->cfg.arch, (double)cfg_params(&l.m->cfg) / 1e6, engine_ctx(l.e));
    }
    status = converse(&s, in);
out:
    input_close(in);
    session_free(&s);
    cmd_unload(&l);
    return status;
}

int cmd_chat(int argc, char **argv) {
    struct chat_cmd c = {.gen = gen_opts_unset()};
    struct err err = {0};
    int rest, status = 0;
    const struct opt table[] = {
        OPTS_HEAD("Conversation"),
        {"message", 'p', "prompt", OPT_STR, &c.message, .arg = "TEXT",
         .help = "answer this and exit"},
        OPTS_CHAT(&c.chat),
        {"json", 0, NULL, OPT_FLAG, &c.json, .help = "one JSON object a line for each answer"},
        {"interactive", 'i', NULL, OPT_FLAG, &c.interactive,
         .help = "accepted; without --message it always is"},
        OPTS_GEN(&c.gen),
        OPTS_LOAD(&c.load),
        OPTS_HELP(&c.help),
        OPTS_END,
    };
    const struct cmd_help h = {
        "chat MODEL [options]",
        "Talks to a model.  /help lists the commands; lines may also come from a pipe.", &c.help};
    if (!cmd_parse(&h, table, argc, argv, &rest, &err) && !c.help &&
        !cmd_model(&c.load.model, argc, argv, &rest, &err) &&
        !cmd_no_more(argc, argv, rest, &err)) {
        if (c.interactive && c.message)
            err_set(&err, E_USAGE, "--interactive and --message exclude each other");
        else
            status = chat(&c, &err);
    }
    return err.code ? cmd_fail(&err) : status;
}
