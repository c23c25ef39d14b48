/* chat.h - messages to the prompt that a chat model was trained on. The family is recognised from
 * the model's Jinja template; the text of a message is encoded without parsing special tokens, so
 * no user can type a turn marker. */
#ifndef TOK_CHAT_H
#define TOK_CHAT_H

#include "tok/tok.h"

enum chat_format {
    CHAT_NONE,
    CHAT_CHATML,
    CHAT_LLAMA2,
    CHAT_LLAMA3,
    CHAT_MISTRAL,
    CHAT_PHI,
    CHAT_ZEPHYR
};

struct chat_msg {
    const char *role; /* "system", "user" or "assistant" */
    const char *text;
};

/* CHAT_NONE when no family is recognised (or the template is NULL). */
enum chat_format chat_detect(const char *jinja_template);
enum chat_format chat_parse(const char *name); /* "chatml", "llama2", ...; CHAT_NONE if unknown */
const char *chat_name(enum chat_format f);     /* "none" for CHAT_NONE */

/* Appends the ids of the conversation, BOS where the family has one, followed by the opening of the
 * assistant's turn.  With CHAT_NONE the texts are joined by newlines as plain text.  E_FORMAT names
 * a role that the family does not know. */
int chat_encode(enum chat_format f, const struct tok *t, const struct chat_msg *msg, int n,
                struct ids *out, struct err *err);

/* The conversation to train on: the ids of chat_encode, but ended by the last message.  Those that
 * the assistant has to write (its texts, and the markers that end its turns) are as they are, all
 * others stand as ~id. */
int chat_encode_answers(enum chat_format f, const struct tok *t, const struct chat_msg *msg, int n,
                        struct ids *out, struct err *err);

/* Ids that end an assistant's turn in this family (besides the model's EOS); at most max, returns
 * the count. */
int chat_stops(enum chat_format f, const struct tok *t, int32_t *out, int max);

#endif
