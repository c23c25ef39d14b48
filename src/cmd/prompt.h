/* prompt.h - how commands make prompts of conversations: --chat-template and its kin. */
#ifndef CMD_PROMPT_H
#define CMD_PROMPT_H

#include "cmd/cmd.h"
#include "tok/prompt.h"

/* clang-format off: a row is a row */
#define OPTS_TEMPLATE(o)                                                                           \
    {"chat-template", 0, NULL, OPT_STR, &(o)->format, .arg = "NAME",                               \
     .help = "chatml, llama2, llama3, mistral, phi, zephyr, none, or a template's text (default: " \
             "the model's template)"},                                                             \
    {"chat-template-file", 0, NULL, OPT_STR, &(o)->file, .arg = "FILE",                            \
     .help = "a Jinja template instead of the model's"}
#define OPTS_CHAT(o)                                                                               \
    {"system-prompt", 0, "sys", OPT_STR, &(o)->system, .arg = "TEXT",                              \
     .help = "the system message"},                                                                \
    OPTS_TEMPLATE(o)
/* clang-format on */

struct chat_opts {
    const char *system, *format, *file;
};

int cmd_apply_template(int argc, char **argv);

/* The prompter that the options ask for; says once, on standard error, where the model's own
 * template cannot be used.  Owned by the caller. */
struct prompter *cmd_prompter(const struct chat_opts *o, const struct tok *t, struct err *err);

/* {"role", "content"}; invalid UTF-8 becomes U+FFFD. */
json_t *cmd_message(const char *role, const char *text);

/* A tokenizer alone: of a folder or a GGUF file (tokenize.c). */
struct tok *cmd_open_tok(const char *path, struct err *err);

#endif
