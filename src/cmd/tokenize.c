/* tokenize.c - text to token ids and back: `pumice tokenize MODEL < text`, `pumice detokenize MODEL
 * < ids`. Needs a tokenizer only: a folder with tokenizer files and no weights will do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/prompt.h"
#include "model/gguf.h"

struct tok *cmd_open_tok(const char *path, struct err *err) {
    if (file_is_dir(path))
        return tok_open(path, err);
    struct gguf *g = gguf_open(path, err);
    struct tok *t = g ? gguf_tok(g, err) : NULL;
    gguf_close(g);
    if (!t)
        err_set(err, E_FORMAT, "%s: has no tokenizer", path);
    return t;
}

/* A vocabulary entry on one line: control characters and backslashes escaped as in C. */
static void print_piece(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '\t')
            fputs("\\t", stdout);
        else if (c == '\\')
            fputs("\\\\", stdout);
        else if (c < 0x20 || c == 0x7f)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
}

enum output { PLAIN, JSON, PIECES };

static void print_ids(const struct tok *t, const struct ids *ids, enum output how) {
    for (size_t i = 0; i < ids->n; i++) {
        if (how == PIECES) {
            size_t n = 0;
            const char *p = tok_piece(t, ids->id[i], &n);
            printf("%d\t", ids->id[i]);
            print_piece(p ? p : "", n);
            putchar('\n');
        } else {
            printf("%s%d", i ? (how == JSON ? ", " : " ") : how == JSON ? "[" : "", ids->id[i]);
        }
    }
    if (how == JSON)
        puts(ids->n ? "]" : "[]");
    else if (how == PLAIN)
        putchar('\n');
}

int cmd_tokenize(int argc, char **argv) {
    struct err err = {0};
    const char *model = NULL, *text = NULL, *file = NULL;
    bool json = false, pieces = false, bos = false, special = false, help = false;
    struct tok *t = NULL;
    struct buf in = {0};
    struct ids ids = {0};
    int rest;
    const struct opt table[] = {
        OPTS_MODEL(&model),
        {"prompt", 'p', NULL, OPT_STR, &text, .arg = "TEXT",
         .help = "this text, not standard input"},
        {"file", 'f', NULL, OPT_STR, &file, .arg = "FILE",
         .help = "the text of a file, byte for byte"},
        {"bos", 0, NULL, OPT_FLAG, &bos, .help = "put the beginning-of-text token in front"},
        {"special", 0, NULL, OPT_FLAG, &special,
         .help = "special tokens spelled out in the text count"},
        {"pieces", 0, NULL, OPT_FLAG, &pieces,
         .help = "one token a line: id, tab, vocabulary entry"},
        {"json", 0, NULL, OPT_FLAG, &json, .help = "print a JSON array"},
        OPTS_HELP(&help),
        OPTS_END,
    };
    const struct cmd_help h = {"tokenize MODEL [options] < TEXT",
                               "Prints the token ids of a text, separated by spaces.", &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help ||
        cmd_model(&model, argc, argv, &rest, &err) || cmd_no_more(argc, argv, rest, &err))
        goto out;
    if ((text && file) || (json && pieces)) {
        err_set(&err, E_USAGE,
                text && file ? "--prompt and --file exclude each other"
                             : "--json and --pieces exclude each other");
        goto out;
    }
    if (!(t = cmd_open_tok(model, &err)))
        goto out;
    if (bos && tok_bos(t) < 0) {
        err_set(&err, E_USAGE, "--bos: the tokenizer of %s has no beginning-of-text token", model);
        goto out;
    }
    if (text)
        buf_adds(&in, text);
    else if (cmd_read(file, false, &in, &err))
        goto out;
    if (bos)
        ids_add(&ids, tok_bos(t));
    if (tok_encode(t, buf_str(&in), in.len, special, &ids, &err) == 0)
        print_ids(t, &ids, json ? JSON : pieces ? PIECES : PLAIN);
out:
    ids_free(&ids);
    buf_free(&in);
    tok_free(t);
    return cmd_fail(&err);
}

int cmd_detokenize(int argc, char **argv) {
    struct err err = {0};
    const char *model = NULL, *list = NULL, *file = NULL;
    bool special = false, help = false;
    struct tok *t = NULL;
    struct buf in = {0}, out = {0};
    struct ids ids = {0};
    int rest;
    const struct opt table[] = {
        OPTS_MODEL(&model),
        {"ids", 0, NULL, OPT_STR, &list, .arg = "1,2,3", .help = "these ids, not standard input"},
        {"file", 'f', NULL, OPT_STR, &file, .arg = "FILE", .help = "ids from a file"},
        {"special", 0, NULL, OPT_FLAG, &special,
         .help = "show special tokens instead of leaving them out"},
        OPTS_HELP(&help),
        OPTS_END,
    };
    const struct cmd_help h = {
        "detokenize MODEL [options] < IDS",
        "Prints the exact bytes of token ids: a JSON array, or separated by white space.", &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help ||
        cmd_model(&model, argc, argv, &rest, &err) || cmd_no_more(argc, argv, rest, &err))
        goto out;
    if (list && file) {
        err_set(&err, E_USAGE, "--ids and --file exclude each other");
        goto out;
    }
    if (!(t = cmd_open_tok(model, &err)))
        goto out;
    if (list)
        buf_adds(&in, list);
    else if (cmd_read(file, false, &in, &err))
        goto out;
    const char *what = list ? "--ids" : file ? file : "standard input", *ids_text = buf_str(&in);
    if (strspn(ids_text, " \t\r\n,[]") == in.len) /* "[]" is the empty text */
        goto out;
    if (strlen(ids_text) != in.len) {
        err_set(&err, E_FORMAT, "%s: has a NUL byte", what);
        goto out;
    }
    if (cmd_ids(what, ids_text, list ? E_USAGE : E_FORMAT, &ids, &err) ||
        tok_decode(t, ids.id, ids.n, special, &out, &err))
        goto out;
    fwrite(buf_str(&out), 1, out.len, stdout);
out:
    ids_free(&ids);
    buf_free(&in);
    buf_free(&out);
    tok_free(t);
    return cmd_fail(&err);
}
