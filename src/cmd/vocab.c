/* vocab.c - `pumice vocab train`: learn a byte-level BPE vocabulary from text files. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "tok/bpe_train.h"

enum { MAX_SPECIALS = 64 + 4 }; /* a full opt_list, and what --chatml, --bos and --eos add */

struct vocab_train {
    const char *out, *pre, *bos, *eos;
    struct opt_list special;
    int size, min_count, n_threads;
    int64_t limit;
    bool chatml, force, quiet, json, help;

    const char *token[MAX_SPECIALS]; /* all special tokens, distinct, in the order of their ids */
    int n_token;
    struct words_spec read;
    struct hf_spec write;
    int64_t start_us;
};

static int add_special(struct vocab_train *v, const char *flag, const char *token,
                       struct err *err) {
    const char *bad = hf_bad_special(token);
    if (bad)
        return err_set(err, E_USAGE, "%s: '%s' %s", flag, token, bad);
    for (int i = 0; i < v->n_token; i++)
        if (!strcmp(v->token[i], token))
            return 0;
    v->token[v->n_token++] = token;
    return 0;
}

/* The list of special tokens, and which of them begin and end a text. */
static int resolve_specials(struct vocab_train *v, struct err *err) {
    static const char usual[] = "<|endoftext|>";
    const char *eos = v->eos;
    if (v->special.n == 0 && add_special(v, "--special", usual, err))
        return -1;
    for (int i = 0; i < v->special.n; i++)
        if (add_special(v, "--special", v->special.item[i], err))
            return -1;
    if (v->chatml && (add_special(v, "--chatml", "<|im_start|>", err) ||
                      add_special(v, "--chatml", "<|im_end|>", err)))
        return -1;
    if ((v->bos && add_special(v, "--bos", v->bos, err)) ||
        (v->eos && add_special(v, "--eos", v->eos, err)))
        return -1;
    for (int i = 0; !eos && i < v->n_token; i++)
        if (!strcmp(v->token[i], usual))
            eos = usual;
    eos = eos ? eos : v->token[0];
    v->write = (struct hf_spec){.special = v->token,
                                .n_special = v->n_token,
                                .eos = eos,
                                .bos = v->bos ? v->bos : eos,
                                .add_bos = v->bos,
                                .chatml = v->chatml};
    return 0;
}

static int resolve(struct vocab_train *v, int n_file, struct err *err) {
    enum words_pre pre = WORDS_GPT2;
    if (v->size == 0 || !v->out || n_file == 0)
        return err_set(err, E_USAGE, "vocab train: give %s",
                       v->size == 0 ? "--size N"
                       : !v->out    ? "--out DIR"
                                    : "one text file or more");
    if (!strcmp(v->pre, "llama3"))
        pre = WORDS_LLAMA3;
    else if (strcmp(v->pre, "gpt2") != 0)
        return err_set(err, E_USAGE, "--pre: '%s' is not gpt2 or llama3", v->pre);
    if (resolve_specials(v, err))
        return -1;
    if (v->size < 256 + v->n_token)
        return err_set(err, E_USAGE, "--size: %d is less than 256 bytes and %d special tokens",
                       v->size, v->n_token);
    v->write.pre = pre;
    v->read = (struct words_spec){.pre = pre,
                                  .special = v->token,
                                  .n_special = v->n_token,
                                  .n_threads = v->n_threads,
                                  .limit = v->limit,
                                  .progress = !v->quiet};
    return 0;
}

/* Refuses before the work to replace a tokenizer. */
static int check_out(const struct vocab_train *v, struct err *err) {
    char *path = path_join(v->out, "tokenizer.json");
    int rc = 0;
    if (file_exists(path) && !v->force)
        rc = err_set(err, E_USAGE, "%s: exists (--force replaces it)", path);
    free(path);
    return rc;
}

static int make_out(const char *dir, struct err *err) {
    if (mkdir(dir, 0777) == 0 || (errno == EEXIST && file_is_dir(dir)))
        return 0;
    return err_set(err, E_IO, "%s: %s", dir, errno == EEXIST ? "is not a folder" : strerror(errno));
}

static int report(const struct vocab_train *v, const struct words *w, const struct bpe_merges *m,
                  struct err *err) {
    int size = v->n_token + 256 + m->n;
    double seconds = (double)(clock_us() - v->start_us) / 1e6;
    double ratio = (double)w->covered / (double)m->tokens;
    if (size < v->size)
        log_warn("%s: %d tokens, not %d: no further pair occurs %d times", v->out, size, v->size,
                 v->min_count);
    log_info("%s: %d tokens: %d special, 256 bytes, %d merges", v->out, size, v->n_token, m->n);
    log_info("%lld bytes, %lld words (%zu distinct), %.3f bytes per token, %.1f s",
             (long long)w->bytes, (long long)w->total, w->n, ratio, seconds);
    if (!v->json)
        return 0;
    return cmd_print_json(json_pack("{s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:I}",
                                    "out", v->out, "size", size, "special", v->n_token, "merges",
                                    m->n, "bytes", (json_int_t)w->bytes, "words",
                                    (json_int_t)w->total, "distinct_words", (json_int_t)w->n,
                                    "tokens", (json_int_t)m->tokens, "bytes_per_token", ratio,
                                    "seconds", seconds, "peak_bytes", (json_int_t)peak_memory()),
                          true, err);
}

static int train(struct vocab_train *v, const char *const *path, int n_path, struct err *err) {
    struct words *w = NULL;
    struct bpe_merges m = {0};
    int rc = -1;
    v->start_us = clock_us();
    if (resolve(v, n_path, err) || check_out(v, err) ||
        !(w = words_read(&v->read, path, n_path, err)) || make_out(v->out, err) ||
        bpe_learn(w, v->size - 256 - v->n_token, v->min_count, !v->quiet, &m, err) ||
        hf_write(v->out, &v->write, &m, err))
        goto out;
    rc = report(v, w, &m, err);
out:
    words_free(w);
    free(m.merge);
    return rc;
}

static int vocab_train(int argc, char **argv, struct err *err) {
    struct vocab_train v = {.pre = "gpt2", .min_count = 2};
    int rest;
    const struct opt table[] = {
        {"size", 'n', "vocab-size", OPT_INT, &v.size, 256, 1 << 21, "N",
         "ids in all: 256 bytes, special tokens, merges"},
        {"out", 'o', "output", OPT_STR, &v.out, .arg = "DIR", .help = "the folder to write"},
        {"pre", 0, NULL, OPT_STR, &v.pre, .arg = "NAME",
         .help = "how words are cut: gpt2 (default) or llama3"},
        {"special", 0, NULL, OPT_LIST, &v.special, .arg = "TOKEN",
         .help = "a special token; repeatable (default <|endoftext|>)"},
        {"chatml", 0, NULL, OPT_FLAG, &v.chatml,
         .help = "add <|im_start|>, <|im_end|> and a chat template"},
        {"bos", 0, NULL, OPT_STR, &v.bos, .arg = "TOKEN",
         .help = "put in front of every text (default: nothing is)"},
        {"eos", 0, NULL, OPT_STR, &v.eos, .arg = "TOKEN",
         .help = "ends a text (default <|endoftext|>, or the first special)"},
        {"min-frequency", 0, NULL, OPT_INT, &v.min_count, 1, 1 << 30, "N",
         "merge no pair that occurs less often (default 2)"},
        {"limit", 0, NULL, OPT_I64, &v.limit, 0, 9.2e18, "BYTES",
         "read at most this much; 0 = all"},
        {"threads", 't', NULL, OPT_INT, &v.n_threads, 0, 1024, "N",
         "threads (default: one per processor)"},
        {"force", 0, NULL, OPT_FLAG, &v.force, .help = "replace an existing tokenizer"},
        {"quiet", 'q', NULL, OPT_FLAG, &v.quiet, .help = "errors and warnings only"},
        OPTS_JSON(&v.json),
        OPTS_HELP(&v.help),
        OPTS_END,
    };
    const struct cmd_help h = {
        "vocab train --size N --out DIR FILES...",
        "Learns a byte-level BPE vocabulary and writes tokenizer.json.  The same text\n"
        "gives the same file.  Special tokens in the text split it and are not learnt.",
        &v.help};
    if (cmd_parse(&h, table, argc, argv, &rest, err))
        return -1;
    if (v.help)
        return 0;
    log_quiet(v.quiet);
    return train(&v, (const char *const *)argv + rest, argc - rest, err);
}

int cmd_vocab(int argc, char **argv) {
    static const char usage[] =
        "usage: pumice vocab train --size N --out DIR FILES...   learn a vocabulary from text\n"
        "\n`pumice vocab train --help` lists the options.\n";
    struct err err = {0};
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "train"))
        vocab_train(argc - 1, argv + 1, &err);
    else if (!strcmp(what, "--help") || !strcmp(what, "-h"))
        fputs(usage, stdout);
    else
        err_set(&err, E_USAGE, "vocab: '%s' is not train", what);
    return cmd_fail(&err);
}
