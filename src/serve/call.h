/* call.h - one request for text: n choices of each prompt, each a task of the loop. */
#ifndef SERVE_CALL_H
#define SERVE_CALL_H

#include "serve/impl.h"
#include "serve/tools.h"

struct call;

struct choice {
    struct call *call;
    struct task task;
    struct box box; /* what was taken last */
    int index, prompt;
    bool begun, ended;  /* stream: the first event is out, and the last */
    int n_out;          /* tokens so far */
    int64_t first_us;   /* when the first token was seen */
    size_t offset;      /* completions: characters in front of the next token */
    int n_read;         /* tokens of the prompt that the client was told of */
    struct tok_stream shown; /* echo with logprobs: the prompt's text so far */
    struct ids tokens;  /* not streamed, return_tokens: all of them */
    json_t *echoed;     /* echo with logprobs: an entry for each token of the prompt, or NULL */
    json_t *told;       /* prompt_logprobs: the same as they are shown, or NULL */
    struct buf text;    /* not streamed: all of it */
    struct guide *guide; /* of an answer that must be JSON; NULL = free */
    struct made made;    /* stream: the calls of functions so far */
    json_t *logprobs;   /* not streamed: array of tokens; NULL = not asked for */
};

struct call {
    struct server *server;
    struct exchange *x; /* holds the call, so it outlives it */
    enum endpoint at;
    json_t *body;
    struct params p; /* borrows from body */
    char id[96];
    int64_t created;
    struct ids *prompt;
    struct buf *echo; /* a text for each prompt, or NULL */
    int n_prompt;
    struct choice *choice;
    int n_choice;
    bool continues, usage_event, usage_each;
    int n_logprobs; /* -1 = none, else alternatives for each token */
    int n_prompt_logprobs; /* the same for the prompt's */
    bool echo_logprobs;    /* logprobs begin with the prompt's */
    int64_t start_us;
    const char *stop[16];
    int n_stop;
    int32_t stop_id[80];
    int n_stop_id;
    struct logit_bias *bias;
    int n_bias;
    struct tools tools; /* chat: what answers may call */
    struct guide_schema *schema; /* shared by the choices' guides; NULL = answers are free */
    struct buf head; /* of each event, up to its choices */
    void *extra;     /* of a dialect */
};

/* Reads a body, which it takes over (NULL with a fault is passed on); NULL with a fault.
 * Everything that can be refused is refused here. */
struct call *call_read(struct server *s, struct exchange *x, enum endpoint at, json_t *body,
                       struct fault *f);
void call_free(void *call);

/* Submits the tasks and leaves the call with the exchange, by ops; or replies with the fault of a
 * full queue and frees the call. */
void call_start(struct call *c, const struct job_ops *ops);
void call_left(void *call); /* the client has gone: cancels */

/* Takes what is new of each choice; true: all have ended. */
bool call_take(struct call *c);
/* Adds what was taken to the choices' text and logprobs. */
void call_gather(struct call *c);
/* The first task that failed, as a fault; false = none. */
bool call_failed(const struct call *c, struct fault *f);

struct totals {
    int prompt, cached, out;
    int64_t prompt_us, decode_us; /* of the slowest choice */
};
struct totals call_totals(const struct call *c);
const char *finish_word(enum finish why);

#endif
