/* cmd.h - the subcommands, and what they share: option blocks, loading, prompts, one answer.
 *
 * A command is `int cmd_NAME(int argc, char **argv)`; argv[0] is its own name and the result is the
 * exit status (enum errc).  Only this folder prints and exits.  One option table per command is
 * composed of the OPTS_ blocks below, so that a flag means the same wherever it is accepted. */
#ifndef CMD_CMD_H
#define CMD_CMD_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/opt.h"
#include "engine/engine.h"

int cmd_chat(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_detokenize(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_init(int argc, char **argv);
int cmd_grow(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_vocab(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_bench_profile(int argc, char **argv); /* of `bench profile` */
int cmd_doctor(int argc, char **argv);

/* -- option blocks ----------------------------------------------------------------------------- */

/* clang-format off: a row is a row */
#define OPTS_HEAD(text) {"", .help = (text)}
#define OPTS_END {0}
#define OPTS_MODEL(dst)                                                                            \
    {"model", 'm', NULL, OPT_STR, (dst), .arg = "PATH",                                            \
     .help = "model folder or .gguf file (or the first argument)"}
#define OPTS_HELP(dst) {"help", 'h', NULL, OPT_FLAG, (dst), .help = "print this and exit"}
#define OPTS_JSON(dst) {"json", 0, NULL, OPT_FLAG, (dst), .help = "print JSON"}
#define OPTS_LOAD(o)                                                                               \
    OPTS_HEAD("Model"), OPTS_MODEL(&(o)->model),                                                   \
    {"dtype", 0, NULL, OPT_STR, &(o)->dtype, .arg = "TYPE",                                        \
     .help = "weights: f32, f16, bf16, int8, int4, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, "     \
             "q6_k or native = as in the file"},                                                   \
    {"kv-dtype", 0, "ctk", OPT_STR, &(o)->kv_dtype, .arg = "TYPE",                                 \
     .help = "keys and values: f32, f16, bf16 or int8 (default: f32 for f32 weights, else bf16)"}, \
    {"cache-type-k", 0, NULL, OPT_STR, &(o)->kv_dtype},                                            \
    {"cache-type-v", 0, "ctv", OPT_STR, &(o)->v_dtype},                                            \
    {"kv", 0, NULL, OPT_STR, &(o)->kv, .arg = "LAYOUT",                                            \
     .help = "virtual = memory as sequences grow, shared where they begin alike (default); flat"}, \
    {"kv-pool", 0, NULL, OPT_INT, &(o)->kv_pool, 1, 1 << 24, "MIB",                                \
     "the most for keys and values (default: all sequences' contexts, or what there is)"},         \
    {"ctx-size", 'c', NULL, OPT_INT, &(o)->n_ctx, 0, 1 << 24, "N",                                 \
     "tokens of context (default: the model's, at most 4096)"},                                    \
    {"threads", 't', NULL, OPT_INT, &(o)->n_threads, 0, 1024, "N",                                 \
     "threads (default: one per processor)"},                                                      \
    {"batch-size", 'b', NULL, OPT_INT, &(o)->n_batch, 0, 1 << 16, "N",                             \
     "prompt tokens per step (default 512)"},                                                      \
    {"quiet", 'q', NULL, OPT_FLAG, &(o)->quiet, .help = "answers, warnings and errors only"}
#define OPTS_GEN(o)                                                                                \
    OPTS_HEAD("Generation"),                                                                       \
    {"n-predict", 'n', "n", OPT_INT, &(o)->n_predict, -1, 1 << 24, "N",                            \
     "tokens to generate; -1 = until the context is full"},                                        \
    {"temp", 0, "temperature", OPT_FLOAT, &(o)->temp, 0, 100, "T",                                 \
     "0 = greedy (default: the model's, else 0.8)"},                                               \
    {"top-k", 0, NULL, OPT_INT, &(o)->top_k, 0, 1 << 24, "N",                                      \
     "keep the N likeliest; 0 = off (default: the model's, else 40)"},                             \
    {"top-p", 0, NULL, OPT_FLOAT, &(o)->top_p, 0, 1, "P",                                          \
     "keep the likeliest that sum to P; 1 = off (default: the model's, else 0.95)"},               \
    {"min-p", 0, NULL, OPT_FLOAT, &(o)->min_p, 0, 1, "P",                                          \
     "keep those at least P times as likely as the best; 0 = off (default 0.05)"},                 \
    {"repeat-penalty", 0, NULL, OPT_FLOAT, &(o)->repeat_penalty, 0.01, 100, "X",                   \
     "weaken recent tokens; 1 = off (default)"},                                                   \
    {"repeat-last-n", 0, NULL, OPT_INT, &(o)->repeat_last_n, -1, 1 << 24, "N",                     \
     "how many tokens are recent; -1 = all (default 64)"},                                         \
    {"presence-penalty", 0, NULL, OPT_FLOAT, &(o)->presence, -2, 2, "X",                           \
     "weaken tokens that the answer has; 0 = off (default)"},                                      \
    {"frequency-penalty", 0, NULL, OPT_FLOAT, &(o)->frequency, -2, 2, "X",                         \
     "weaken tokens by their count in the answer; 0 = off (default)"},                             \
    {"logit-bias", 0, NULL, OPT_LIST, &(o)->bias, .arg = "ID(+|-)X",                               \
     .help = "add to or subtract from one token's logit, such as 15043+1; repeatable"},            \
    {"seed", 's', NULL, OPT_I64, &(o)->seed, -1, 9.3e18, "N",                                      \
     "same seed, same text; -1 = a fresh one (default)"},                                          \
    {"stop", 'r', "reverse-prompt", OPT_LIST, &(o)->stop, .arg = "TEXT",                           \
     .help = "end the answer before TEXT; \\n, \\t, \\\\ and \\xHH are understood; repeatable"},   \
    {"ignore-eos", 0, NULL, OPT_FLAG, &(o)->ignore_eos,                                            \
     .help = "go on after the end-of-text token"}
/* clang-format on */

struct load_opts { /* where the rows store how a model is loaded; NULL and 0 = not given */
    const char *model, *dtype, *kv_dtype, *v_dtype, *kv;
    int n_ctx, n_threads, n_batch, kv_pool; /* kv_pool: MiB */
    bool quiet;
};
struct gen_opts { /* how an answer is generated; NAN and INT_MIN = not given */
    float temp, top_p, min_p, repeat_penalty, presence, frequency;
    int top_k, repeat_last_n, n_predict;
    int64_t seed; /* -1 = a fresh one each time */
    struct opt_list bias, stop;
    bool ignore_eos;
};
struct gen_opts gen_opts_unset(void);

/* -- shared steps (common.c) ------------------------------------------------------------------- */

/* Parses argv by the table.  *help set: prints "usage", `about` and the table, and the caller
 * returns 0. */
struct cmd_help {
    const char *usage, *about;
    const bool *help; /* where OPTS_HELP stores */
};
int cmd_parse(const struct cmd_help *h, const struct opt *table, int argc, char **argv, int *rest,
              struct err *err);

/* The model: the flag, or else the next positional, which is consumed. */
int cmd_model(const char **model, int argc, char **argv, int *rest, struct err *err);
int cmd_no_more(int argc, char **argv, int rest,
                struct err *err); /* E_USAGE names what is left over */

/* Prints "pumice: message" unless code is 0; returns the exit status. */
int cmd_fail(const struct err *err);

/* A weight type by name; NULL and "native" are DT_NONE. */
int cmd_dtype(const char *name, enum dtype *out, struct err *err);
int cmd_kv_dtype(const char *name, enum dtype *out, struct err *err);
int cmd_format(const char *name, enum chat_format *out, struct err *err); /* NULL leaves *out */

struct loaded { /* owned: pool, m, e; e only after cmd_engine */
    struct pool *pool;
    struct model *m;
    struct engine *e;
};
int cmd_load(const struct load_opts *o, struct loaded *out, struct err *err);
int cmd_engine_opts(const struct load_opts *o, struct engine_opts *eo,
                    struct err *err); /* what the flags say; the rest of *eo stays */
int cmd_engine(const struct load_opts *o, struct loaded *l, struct err *err); /* one slot */
void cmd_tell_memory(const struct engine *e); /* a line about keys and values, and a warning */
void cmd_unload(struct loaded *l);

/* Whole input as text: a file or standard input, at most `max` bytes; invalid UTF-8 becomes U+FFFD
 * with a warning when `fix` is set. */
enum { TEXT_MAX = 1 << 28 };
int cmd_read(const char *path, bool fix, struct buf *out,
             struct err *err);  /* NULL or "-" = stdin */
size_t utf8_fix(struct buf *b); /* replaces each maximal invalid part by U+FFFD; returns how many */

/* Backslash escapes \n \t \r \\ \xHH; anything else stays as it is.  *out owned by the caller. */
char *cmd_unescape(const char *s);

/* "1,2,3", white space and brackets allowed too; an error has `code` and names `what` and the
 * item. */
int cmd_ids(const char *what, const char *text, enum errc code, struct ids *out, struct err *err);

bool cmd_is_terminal(int fd);
bool cmd_colour(int fd); /* terminal that wants escape codes */
int cmd_print_json(json_t *j, bool pretty,
                   struct err *err); /* one value and a newline; releases j */

/* -- one answer (gen.c) ------------------------------------------------------------------------ */

/* Generation settings made effective: flag, else the model's default, else sampling_default. */
struct gen {
    struct sampling sampling;
    struct logit_bias *bias; /* owned */
    char **stop;             /* owned, each string too */
    int n_stop, n_predict, n_logprobs;
    int32_t stop_id[8];
    int n_stop_id;
    bool ignore_eos,
        continues; /* continues: a completion, whose first token's leading space counts */
};
int gen_resolve(const struct gen_opts *o, const struct model *m, struct gen *g, struct err *err);
void gen_free(struct gen *g);

struct answer { /* what one request gave; zeroed before, released by answer_free */
    struct ids ids;
    struct buf text;
    json_t *logprobs; /* array, if asked for; owned */
    struct usage usage;
    struct err err; /* FIN_ERROR */
    uint64_t seed;
};
/* Runs one request to its end, to stdout as it comes if `stream`.  *stop_flag (or NULL) ends it. */
int gen_answer(struct loaded *l, const struct ids *prompt, const struct gen *g, bool stream,
               const volatile sig_atomic_t *stop_flag, struct answer *a, struct err *err);
void answer_free(struct answer *a);
const char *finish_name(enum finish f);
json_t *answer_usage(const struct answer *a);   /* prompt_tokens, completion_tokens, ... */
json_t *answer_timings(const struct answer *a); /* milliseconds, tokens per second, peak memory */
double answer_prompt_rate(const struct answer *a); /* tokens computed, not cached, a second */
double answer_decode_rate(const struct answer *a); /* after the first token; 0 = none */
size_t peak_memory(void);                   /* bytes, of the whole process so far */
void peak_memory_reset(void);               /* from now on it counts anew */

#endif
