/* session.h - a conversation: messages, settings, one answer at a time; and the commands on it. */
#ifndef CMD_SESSION_H
#define CMD_SESSION_H

#include "cmd/prompt.h"

struct message {
    const char *role; /* "user" or "assistant", static */
    char *text;       /* owned */
};
struct session {
    struct loaded *l;    /* borrowed */
    struct gen_opts gen; /* its strings are kept in `kept` or borrowed from argv */
    struct prompter *prompter; /* owned */
    bool plain; /* no turns: one text goes on */
    char *system;        /* owned; NULL = none */
    struct message *msg; /* owned: user and assistant in turn */
    int n, cap;
    char **kept; /* owned: values of /set that gen points to */
    int n_kept;
    int n_regen;                              /* how often the last message was answered anew */
    volatile sig_atomic_t *interrupted; /* borrowed: non-zero stops the answer, which clears it */
    bool stats, json, colour;
};

void session_free(struct session *s);
void session_clear(struct session *s); /* forgets the messages, not the system message */
void session_pop(struct session *s);   /* the last message; nothing to do is fine */

/* Adds a user's message, answers it on stdout, and keeps both; on failure, or when stopped before
 * the first token, the session is as before. */
int session_say(struct session *s, const char *text, struct err *err);
int session_again(struct session *s, struct err *err); /* a new answer to the last message */

/* {"messages": [{"role", "content"}, ...]}, the system message first.  Written atomically; loading
 * checks everything before it replaces anything. */
int session_save(const struct session *s, const char *path, struct err *err);
int session_load(struct session *s, const char *path, struct err *err);

/* A line that is a command ("/help", "quit", ...).  CMD_NOT: it is a message. */
enum cmd_result { CMD_NOT, CMD_DONE, CMD_LEAVE };
enum cmd_result session_command(struct session *s, const char *line, struct err *err);

/* -- lines of input (input.c) ------------------------------------------------------------------ */

enum input_event { IN_LINE, IN_INTERRUPT, IN_END };
struct input;

/* On a terminal: line editing and persistent history; else plain lines.  *interrupted is what the
 * caller's SIGINT handler sets, and IN_INTERRUPT clears.  Owned by the caller. */
struct input *input_open(volatile sig_atomic_t *interrupted);
void input_close(struct input *in);
bool input_interactive(const struct input *in);

/* One line without its newline, in line (replaced).  IN_INTERRUPT: Ctrl-C; line holds what was
 * typed so far. */
enum input_event input_read(struct input *in, const char *prompt, struct buf *line);

#endif
