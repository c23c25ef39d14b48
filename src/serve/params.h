/* params.h - the parameters of requests, from one table: it parses, bounds, documents and feeds the
 * tests.
 *
 * null counts as absent; a wrong type or a value out of bounds is a fault that names the parameter;
 * unknown names are listed, not refused. */
#ifndef SERVE_PARAMS_H
#define SERVE_PARAMS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "serve/fault.h"

enum endpoint { /* bits */
    AT_CHAT = 1,
    AT_COMPLETION = 2,
    AT_TOKENIZE = 4,
    AT_DETOKENIZE = 8,
    AT_TEMPLATE = 16,
    AT_EMBED = 32,
    AT_GENERATE = AT_CHAT | AT_COMPLETION,
};
enum { N_ENDPOINTS = 6 };

#define ABSENT_INT INT64_MIN /* reals: NAN; strings and JSON: NULL */

struct params { /* strings and JSON are borrowed from the body */
    const char *model, *text, *cache_salt, *encoding;
    const json_t *messages, *prompt, *stop, *stop_token_ids, *stream_options, *logit_bias;
    const json_t *response_format, *tools, *tool_choice, *template_kwargs, *tokens, *input;
    int64_t max_tokens, min_tokens, top_k, repeat_last_n, seed, n, best_of, top_logprobs,
        n_logprobs, prompt_logprobs, dimensions;
    double temperature, top_p, min_p, typical_p, repeat_penalty;
    double presence_penalty, frequency_penalty;
    bool stream, logprobs, echo, ignore_eos, add_special, skip_special, parse_special, with_pieces;
    bool cache, return_tokens, return_progress, timings_each, parallel_calls;
    bool continue_final, continue_given, generation_prompt, generation_given;
};

/* Fills p, defaults where absent.  ignored: names that mean nothing here, separated by ", ". */
int params_parse(const json_t *body, enum endpoint at, struct params *p, struct buf *ignored,
                 struct fault *f);

/* The table as Markdown, for `serve --help-params` and docs/server.md. */
void params_print(FILE *f);

/* Row i for tests that try every parameter: its name, or NULL after the last; kind is one of "true
 * or false", "integer", "number", "string", "any". */
struct param_info {
    const char *name, *kind;
    unsigned at;
    double lo, hi;
};
struct param_info params_row(int i);

#endif
