/* params.c - see params.h.  The one table of what a request may say. */
#include "serve/params.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum kind { BOOL, INT, REAL, STRING, JSON, NOTHING }; /* NOTHING: accepted, without effect */
enum json_kind { STR = 1, ARR = 2, OBJ = 4 };         /* what a JSON row may be */

struct row {
    const char *name, *alias, *alias2;
    enum kind kind;
    unsigned at; /* enum endpoint */
    size_t dst;
    double lo, hi;    /* bounds; JSON: lo holds enum json_kind */
    const char *open; /* "(" or ")": that bound is excluded */
    const char *standard, *help;
    size_t given; /* bool that tells whether it was there; 0 = nobody asks */
};

#define TO(field) offsetof(struct params, field)
#define BIG 2147483647.0

/* clang-format off: a row is a row */
static const struct row table[] = {
    {"model", .kind = STRING,
     .at = AT_GENERATE | AT_TOKENIZE | AT_DETOKENIZE | AT_TEMPLATE | AT_EMBED, .dst = TO(model),
     .standard = "the one loaded", .help = "name of the model; another name is 404"},
    {"messages", .kind = JSON, .at = AT_CHAT | AT_TEMPLATE, .dst = TO(messages), .lo = ARR,
     .help = "1 to 4096 of {role, content}; roles system, developer, user, assistant, tool; "
             "content a string or parts {type: text}; a last message of the assistant is "
             "continued"},
    {"prompt", .kind = JSON, .at = AT_COMPLETION, .dst = TO(prompt), .lo = STR | ARR,
     .help = "a string, token ids, or an array of either"},
    {"max_tokens", "max_completion_tokens", "n_predict", INT, AT_GENERATE, TO(max_tokens), 0, BIG,
     .standard = "to the end of the context",
     .help = "most tokens to generate; 0 only reads the prompt"},
    {"min_tokens", .kind = INT, .at = AT_GENERATE, .dst = TO(min_tokens), .lo = 0, .hi = BIG,
     .standard = "0", .help = "nothing ends the answer before so many tokens"},
    {"temperature", .kind = REAL, .at = AT_GENERATE, .dst = TO(temperature), .lo = 0, .hi = 2,
     .standard = "the server's", .help = "0 is greedy"},
    {"top_p", .kind = REAL, .at = AT_GENERATE, .dst = TO(top_p), .lo = 0, .hi = 1, .open = "(",
     .standard = "the server's", .help = "keep the likeliest that sum to this; 1 is off"},
    {"top_k", .kind = INT, .at = AT_GENERATE, .dst = TO(top_k), .lo = -1, .hi = BIG,
     .standard = "the server's", .help = "keep so many of the likeliest; 0 and -1 are off"},
    {"min_p", .kind = REAL, .at = AT_GENERATE, .dst = TO(min_p), .lo = 0, .hi = 1, .open = ")",
     .standard = "the server's", .help = "keep those at least so likely, relative to the best"},
    {"typical_p", .kind = REAL, .at = AT_GENERATE, .dst = TO(typical_p), .lo = 0, .hi = 1,
     .open = "(", .standard = "1",
     .help = "keep the most typical that sum to this, of what top_k and top_p keep; 1 is off"},
    {"repetition_penalty", "repeat_penalty", NULL, REAL, AT_GENERATE, TO(repeat_penalty), 0, 10,
     "(", .standard = "the server's", .help = "weaken recent tokens; 1 is off"},
    {"repeat_last_n", .kind = INT, .at = AT_GENERATE, .dst = TO(repeat_last_n), .lo = -1, .hi = BIG,
     .standard = "the server's", .help = "how many tokens are recent; -1 is all"},
    {"presence_penalty", .kind = REAL, .at = AT_GENERATE, .dst = TO(presence_penalty), .lo = -2,
     .hi = 2, .standard = "the server's", .help = "weaken tokens that the answer has"},
    {"frequency_penalty", .kind = REAL, .at = AT_GENERATE, .dst = TO(frequency_penalty), .lo = -2,
     .hi = 2, .standard = "the server's", .help = "weaken tokens by their count in the answer"},
    {"seed", .kind = INT, .at = AT_GENERATE, .dst = TO(seed), .lo = -1, .hi = 9223372036854775807.0,
     .standard = "-1",
     .help = "same seed, same text, whatever else runs; choice i uses seed + i; -1 is a fresh one"},
    {"n", .kind = INT, .at = AT_GENERATE, .dst = TO(n), .lo = 1, .hi = 16, .standard = "1",
     .help = "choices for each prompt (at most `--max-n`)"},
    {"best_of", .kind = INT, .at = AT_COMPLETION, .dst = TO(best_of), .lo = 1, .hi = 16,
     .standard = "n", .help = "accepted only if it equals n"},
    {"stop", .kind = JSON, .at = AT_GENERATE, .dst = TO(stop), .lo = STR | ARR, .standard = "none",
     .help = "a string or up to 16 of 1 to 256 bytes; the answer ends before it"},
    {"stop_token_ids", .kind = JSON, .at = AT_GENERATE, .dst = TO(stop_token_ids), .lo = ARR,
     .standard = "none", .help = "up to 64 token ids that end the answer"},
    {"stream", .kind = BOOL, .at = AT_GENERATE, .dst = TO(stream), .standard = "false",
     .help = "answer as server-sent events"},
    {"stream_options", .kind = JSON, .at = AT_GENERATE, .dst = TO(stream_options), .lo = OBJ,
     .standard = "none", .help = "{include_usage, continuous_usage_stats}"},
    {"logprobs", .kind = BOOL, .at = AT_CHAT, .dst = TO(logprobs), .standard = "false",
     .help = "log-probabilities of the answer's tokens"},
    {"top_logprobs", .kind = INT, .at = AT_CHAT, .dst = TO(top_logprobs), .lo = 0, .hi = 20,
     .standard = "0", .help = "and of so many alternatives; needs logprobs"},
    {"logprobs", .kind = INT, .at = AT_COMPLETION, .dst = TO(n_logprobs), .lo = 0, .hi = 20,
     .standard = "none",
     .help = "log-probabilities of the answer's tokens, and of so many alternatives"},
    {"echo", .kind = BOOL, .at = AT_COMPLETION, .dst = TO(echo), .standard = "false",
     .help = "put the prompt in front of the text, and its tokens in front of logprobs"},
    {"prompt_logprobs", .kind = INT, .at = AT_GENERATE, .dst = TO(prompt_logprobs), .lo = 0,
     .hi = 20, .standard = "none",
     .help = "log-probabilities of the prompt's tokens, and of so many alternatives; not in a "
             "stream"},
    {"logit_bias", .kind = JSON, .at = AT_GENERATE, .dst = TO(logit_bias), .lo = OBJ,
     .standard = "none", .help = "token id -> -100..100, up to 1024; added to the logit"},
    {"response_format", .kind = JSON, .at = AT_GENERATE, .dst = TO(response_format), .lo = OBJ,
     .standard = "text",
     .help = "{type: text}, {type: json_object} or {type: json_schema, json_schema: {schema}}"},
    {"tools", .kind = JSON, .at = AT_CHAT | AT_TEMPLATE, .dst = TO(tools), .lo = ARR,
     .standard = "none", .help = "functions, given to the model's template"},
    {"tool_choice", .kind = JSON, .at = AT_CHAT, .dst = TO(tool_choice), .lo = STR | OBJ,
     .standard = "auto",
     .help = "auto, none, required, or {type: function, function: {name}}: the answer is a call"},
    {"parallel_tool_calls", .kind = BOOL, .at = AT_CHAT, .dst = TO(parallel_calls),
     .standard = "true", .help = "false: at most one call in an answer"},
    {"chat_template_kwargs", .kind = JSON, .at = AT_CHAT | AT_TEMPLATE, .dst = TO(template_kwargs),
     .lo = OBJ, .standard = "none",
     .help = "scalars for the model's template; not messages, tools or tokenize"},
    {"ignore_eos", .kind = BOOL, .at = AT_GENERATE, .dst = TO(ignore_eos), .standard = "false",
     .help = "go on after the end-of-text token"},
    {"add_special_tokens", "add_special", NULL, BOOL, AT_COMPLETION | AT_TOKENIZE, TO(add_special),
     .standard = "completions: true, tokenize: false",
     .help = "put BOS in front where the model has one"},
    {"skip_special_tokens", .kind = BOOL, .at = AT_GENERATE, .dst = TO(skip_special),
     .standard = "true", .help = "false: special tokens stand in the text by their names"},
    {"continue_final_message", .kind = BOOL, .at = AT_CHAT | AT_TEMPLATE, .dst = TO(continue_final),
     .given = TO(continue_given), .standard = "whether the last message is the assistant's",
     .help = "go on with the last message"},
    {"add_generation_prompt", .kind = BOOL, .at = AT_CHAT | AT_TEMPLATE,
     .dst = TO(generation_prompt), .given = TO(generation_given), .standard = "true",
     .help = "true: open a turn of the assistant"},
    {"cache_salt", .kind = STRING, .at = AT_GENERATE, .dst = TO(cache_salt), .standard = "none",
     .help = "keys and values of prompts are reused within one salt, and one API key, only"},
    {"cache_prompt", .kind = BOOL, .at = AT_GENERATE, .dst = TO(cache), .standard = "true",
     .help = "false: compute the whole prompt, reuse nothing"},
    {"return_tokens", .kind = BOOL, .at = AT_GENERATE, .dst = TO(return_tokens),
     .standard = "false", .help = "choices and events have the ids of their tokens, `tokens`"},
    {"return_progress", .kind = BOOL, .at = AT_GENERATE, .dst = TO(return_progress),
     .standard = "false",
     .help = "streams: events with `prompt_progress` while the prompt is read"},
    {"timings_per_token", .kind = BOOL, .at = AT_GENERATE, .dst = TO(timings_each),
     .standard = "false", .help = "streams: `timings` in each event with choices"},
    {"input", .kind = JSON, .at = AT_EMBED, .dst = TO(input), .lo = STR | ARR,
     .help = "a string, token ids, or an array of up to 2048 of either"},
    {"encoding_format", .kind = STRING, .at = AT_EMBED, .dst = TO(encoding), .standard = "float",
     .help = "float, or base64 of 32-bit floats, little-endian"},
    {"dimensions", .kind = INT, .at = AT_EMBED, .dst = TO(dimensions), .lo = 1, .hi = BIG,
     .standard = "the model's", .help = "accepted only if it is the model's"},
    {"user", .kind = NOTHING, .at = AT_GENERATE | AT_EMBED, .help = "accepted, no effect"},
    {"metadata", .kind = NOTHING, .at = AT_GENERATE, .help = "accepted, no effect"},
    {"store", .kind = NOTHING, .at = AT_GENERATE, .help = "accepted, no effect"},
    {"service_tier", .kind = NOTHING, .at = AT_GENERATE, .help = "accepted, no effect"},
    {"reasoning_effort", .kind = NOTHING, .at = AT_CHAT, .help = "accepted, no effect"},
    {"content", "prompt", NULL, STRING, AT_TOKENIZE, TO(text), .help = "the text"},
    {"parse_special", .kind = BOOL, .at = AT_TOKENIZE, .dst = TO(parse_special),
     .standard = "false", .help = "special tokens spelled out in the text count"},
    {"with_pieces", .kind = BOOL, .at = AT_TOKENIZE, .dst = TO(with_pieces), .standard = "false",
     .help = "give {id, piece} for each token"},
    {"tokens", .kind = JSON, .at = AT_DETOKENIZE, .dst = TO(tokens), .lo = ARR,
     .help = "token ids"},
};
/* clang-format on */
enum { N_ROWS = sizeof table / sizeof table[0] };

static bool named(const struct row *r, const char *name) {
    return !strcmp(r->name, name) || (r->alias && !strcmp(r->alias, name)) ||
           (r->alias2 && !strcmp(r->alias2, name));
}

static const struct row *find(const char *name, enum endpoint at) {
    for (int i = 0; i < N_ROWS; i++)
        if ((table[i].at & at) && named(&table[i], name))
            return &table[i];
    return NULL;
}

static const char *const kind_name[] = {/* ORDER enum kind */
                                        "true or false", "integer", "number",
                                        "string",        "any",     "any"};

static int wrong_type(const char *name, const char *want, struct fault *f) {
    return fault_set(f, 400, "invalid_type", name, "%s must be %s", name, want);
}

static int outside(const struct row *r, const char *name, struct fault *f) {
    return fault_set(f, 400, "out_of_range", name, "%s must be in %s%.15g, %.15g%s", name,
                     r->open && r->open[0] == '(' ? "(" : "[", r->lo, r->hi,
                     r->open && r->open[0] == ')' ? ")" : "]");
}

static bool in_range(const struct row *r, double x) {
    char open = r->open ? r->open[0] : 0;
    return x >= r->lo && x <= r->hi && !(open == '(' && x == r->lo) && !(open == ')' && x == r->hi);
}

static bool is_kind(const json_t *v, int kinds) {
    return (json_is_string(v) && (kinds & STR)) || (json_is_array(v) && (kinds & ARR)) ||
           (json_is_object(v) && (kinds & OBJ));
}

static const char *kinds_text(int kinds) {
    return kinds == ARR           ? "an array"
           : kinds == OBJ         ? "an object"
           : kinds == (STR | ARR) ? "a string or an array"
                                  : "a string or an object";
}

static int store(const struct row *r, const char *name, const json_t *v, struct params *p,
                 struct fault *f) {
    void *dst = (char *)p + r->dst;
    switch (r->kind) {
    case BOOL:
        if (!json_is_boolean(v))
            return wrong_type(name, "true or false", f);
        *(bool *)dst = json_is_true(v);
        break;
    case INT:
        if (!json_is_integer(v))
            return wrong_type(name, "an integer", f);
        /* Compared as doubles: the bounds are powers of two or far from where that matters. */
        if (!in_range(r, (double)json_integer_value(v)))
            return outside(r, name, f);
        *(int64_t *)dst = json_integer_value(v);
        break;
    case REAL:
        if (!json_is_number(v))
            return wrong_type(name, "a number", f);
        if (!in_range(r, json_number_value(v)))
            return outside(r, name, f);
        *(double *)dst = json_number_value(v);
        break;
    case STRING:
        if (!json_is_string(v))
            return wrong_type(name, "a string", f);
        *(const char **)dst = json_string_value(v);
        break;
    case JSON:
        if (!is_kind(v, (int)r->lo))
            return wrong_type(name, kinds_text((int)r->lo), f);
        *(const json_t **)dst = v;
        break;
    case NOTHING:
        break;
    }
    if (r->given)
        *((bool *)((char *)p + r->given)) = true;
    return 0;
}

/* Names come from the client and go into a header: only what is harmless there. */
static void list_ignored(struct buf *b, const char *name) {
    enum { MOST = 200 };
    if (b->len + strlen(name) > MOST)
        return;
    buf_printf(b, "%s", b->len ? ", " : "");
    for (; *name; name++)
        buf_addc(b, *name > ' ' && *name < 127 && *name != ',' ? *name : '?');
}

static void set_defaults(struct params *p, enum endpoint at) {
    memset(p, 0, sizeof *p); /* padding too: tests compare bytes */
    p->max_tokens = p->top_k = p->repeat_last_n = p->best_of = ABSENT_INT;
    p->n_logprobs = p->prompt_logprobs = p->dimensions = ABSENT_INT;
    p->temperature = p->top_p = p->min_p = p->typical_p = NAN;
    p->repeat_penalty = p->presence_penalty = p->frequency_penalty = NAN;
    p->seed = -1;
    p->n = 1;
    p->add_special = at == AT_COMPLETION;
    p->skip_special = p->cache = p->parallel_calls = p->generation_prompt = true;
}

int params_parse(const json_t *body, enum endpoint at, struct params *p, struct buf *ignored,
                 struct fault *f) {
    const char *by[N_ROWS] = {0}; /* the name that a row was given by */
    const char *name;
    json_t *v;
    set_defaults(p, at);
    json_object_foreach((json_t *)body, name, v) {
        const struct row *r = find(name, at);
        if (!r) {
            list_ignored(ignored, name);
            continue;
        }
        if (json_is_null(v))
            continue;
        if (by[r - table])
            return fault_set(f, 400, "given_twice", name, "%s and %s mean the same: give one",
                             by[r - table], name);
        by[r - table] = name;
        if (store(r, name, v, p, f))
            return -1;
    }
    return 0;
}

struct param_info params_row(int i) {
    if (i >= N_ROWS)
        return (struct param_info){0};
    const struct row *r = &table[i];
    return (struct param_info){r->name, kind_name[r->kind], r->at, r->lo, r->hi};
}

static void print_range(FILE *f, const struct row *r) {
    if (r->kind == INT || r->kind == REAL) {
        bool lo = r->open && r->open[0] == '(', hi = r->open && r->open[0] == ')';
        fprintf(f, "%s%.10g, ", lo ? "(" : "[", r->lo);
        if (r->hi > BIG)
            fputs("2^63-1]", f);
        else
            fprintf(f, "%.10g%s", r->hi, hi ? ")" : "]");
    }
}

void params_print(FILE *f) {
    static const char *const place[] = {/* ORDER enum endpoint */
                                        "chat",       "completions",    "tokenize",
                                        "detokenize", "apply-template", "embeddings"};
    fputs("| parameter | where | type | range | default | meaning |\n|---|---|---|---|---|---|\n",
          f);
    for (int i = 0; i < N_ROWS; i++) {
        const struct row *r = &table[i];
        fprintf(f, "| `%s`", r->name);
        if (r->alias)
            fprintf(f, ", `%s`", r->alias);
        if (r->alias2)
            fprintf(f, ", `%s`", r->alias2);
        fputs(" | ", f);
        for (int b = 0, first = 1; b < N_ENDPOINTS; b++)
            if (r->at & (1u << b)) {
                fprintf(f, "%s%s", first ? "" : ", ", place[b]);
                first = 0;
            }
        fprintf(f, " | %s | ", r->kind == JSON ? kinds_text((int)r->lo) : kind_name[r->kind]);
        print_range(f, r);
        fprintf(f, " | %s | %s |\n", r->standard ? r->standard : "", r->help);
    }
}
