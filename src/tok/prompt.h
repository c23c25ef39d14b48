/* prompt.h - a conversation, as JSON, to the prompt of a model: by the model's own Jinja template
 * (jinja.h), or by a built-in family (chat.h) where there is none that can be read.  What comes
 * from the conversation is tokenised without parsing special tokens, what the template writes is
 * tokenised with them.  A struct prompter does not change after prompter_open: threads may share
 * it. */
#ifndef TOK_PROMPT_H
#define TOK_PROMPT_H

#include <jansson.h>
#include <time.h>

#include "tok/calls.h"
#include "tok/chat.h"

struct prompter;

/* t is borrowed until prompter_close.  template_text (NUL-terminated, named `path` in errors)
 * replaces the model's own template; a `family` other than NULL is used instead of any template
 * ("none" among them).  A template that cannot be parsed is no error here: the family that it
 * resembles is used, if any, and prompter_problem says so; without one, each prompt is the error.
 * E_USAGE if family is not known; a template_text that cannot be parsed is E_FORMAT. */
struct prompter_source {
    const char *family, *path, *template_text; /* all may be NULL: the model's own */
};
struct prompter *prompter_open(const struct tok *t, const struct prompter_source *s,
                               struct err *err);
void prompter_close(struct prompter *p);

/* NULL, or one sentence: why the model's template is not used, and what is instead.  To be said
 * once.  Borrowed until prompter_close. */
const char *prompter_problem(const struct prompter *p);
const char *prompter_name(const struct prompter *p); /* "template", "chatml", ..., "none" */
/* The family in use; CHAT_NONE for a template as well. */
enum chat_format prompter_family(const struct prompter *p);
bool prompter_has_template(const struct prompter *p);
enum calls_style prompter_calls(const struct prompter *p); /* how its answers call functions */

struct ask {
    const json_t *messages; /* array of {"role", "content", ...}; content: a string, null, or a list
                             * of {"type": "text", "text"}, which are joined by newlines */
    const json_t *tools;    /* array, or NULL; explained by calls_explain where the template knows
                             * of none */
    const json_t *kwargs;   /* chat_template_kwargs: an object of scalars, or NULL */
    bool no_opening;        /* add_generation_prompt = false */
    bool continue_final;    /* the prompt ends inside the last message */
    time_t now;             /* for strftime_now; 0 = the clock */
};

/* Appends the ids of the prompt.  E_USAGE for what the caller sent wrong (also the template's own
 * raise_exception), E_FORMAT for what the template does wrong or beyond the limits. */
int prompter_ids(const struct prompter *p, const struct ask *a, struct ids *out, struct err *err);

/* The prompt as text; only with a template (E_USAGE without). */
int prompter_text(const struct prompter *p, const struct ask *a, struct buf *out, struct err *err);

/* Ids that end an assistant's turn, besides the model's EOS; at most max, returns the count. */
int prompter_stops(const struct prompter *p, int32_t *out, int max);

#endif
