/* gguf_tok.c - the tokenizer.ggml.* key-values of a GGUF file to tok_new.
 * Memory: 16 bytes a token and its merges once, whatever the file says; both are bounded by the
 * file. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/gguf_kv.h"

#define MAX_TOKENS (1 << 21) /* as cfg_check */
#define PRE "tokenizer.ggml."

/* The arrays of a tok_spec; all owned. */
struct arrays {
    const char **piece, **merge;
    size_t *len;
    float *score;
    int32_t *type;
    char *merges; /* the texts of merge[], NUL-terminated */
    char *model, *pre, *chat;
};

static void arrays_free(struct arrays *a) {
    free(a->piece);
    free(a->merge);
    free(a->len);
    free(a->score);
    free(a->type);
    free(a->merges);
    free(a->model);
    free(a->pre);
    free(a->chat);
}

/* NULL stays when the key is absent. */
static int copy_str(const struct gguf *g, const char *key, char **out, struct err *err) {
    const char *s = NULL;
    size_t n = 0;
    if (gguf_str(g, key, &s, &n, err))
        return -1;
    if (s) {
        *out = mem_new(n + 1);
        memcpy(*out, s, n);
    }
    return 0;
}

static int read_pieces(const struct gguf *g, struct tok_spec *spec, struct arrays *a,
                       struct err *err) {
    struct gguf_value v = {0};
    if (gguf_array(g, PRE "tokens", GGUF_STR, &v, err))
        return -1;
    if (v.n == 0 || v.n > MAX_TOKENS)
        return err_set(err, E_FORMAT, "%s: " PRE "tokens has %llu tokens, not 1..%d", gguf_path(g),
                       (unsigned long long)v.n, MAX_TOKENS);
    a->piece = mem_array((size_t)v.n, sizeof *a->piece);
    a->len = mem_array((size_t)v.n, sizeof *a->len);
    const uint8_t *p = v.data;
    for (uint64_t i = 0; i < v.n; i++)
        a->piece[i] = gguf_next_str(&p, &a->len[i]);
    spec->n_vocab = (int)v.n;
    spec->piece = a->piece;
    spec->piece_len = a->len;
    return 0;
}

/* A numeric array with one 4-byte element a token, copied because the file may not align it. */
static int read_per_token(const struct gguf *g, const char *key, enum gguf_type elem, int n_vocab,
                          void **out, struct err *err) {
    struct gguf_value v = {0};
    if (gguf_array(g, key, elem, &v, err))
        return -1;
    if (!v.data)
        return 0;
    if (v.n != (uint64_t)n_vocab)
        return err_set(err, E_FORMAT, "%s: %s has %llu elements, but there are %d tokens",
                       gguf_path(g), key, (unsigned long long)v.n, n_vocab);
    *out = mem_dup(v.data, (size_t)v.n * 4);
    return 0;
}

static int read_merges(const struct gguf *g, struct tok_spec *spec, struct arrays *a,
                       struct err *err) {
    struct gguf_value v = {0};
    if (gguf_array(g, PRE "merges", GGUF_STR, &v, err))
        return -1;
    const uint8_t *p = v.data;
    size_t n, total = 0;
    for (uint64_t i = 0; i < v.n; i++) {
        const char *s = gguf_next_str(&p, &n);
        if (memchr(s, 0, n))
            return err_set(err, E_FORMAT, "%s: " PRE "merges: merge %llu has a NUL byte",
                           gguf_path(g), (unsigned long long)i);
        total += n + 1;
    }
    a->merge = mem_array((size_t)v.n, sizeof *a->merge);
    a->merges = mem_new(total);
    char *to = a->merges;
    p = v.data;
    for (uint64_t i = 0; i < v.n; i++) {
        const char *s = gguf_next_str(&p, &n);
        memcpy(to, s, n); /* zeroed memory ends it */
        a->merge[i] = to;
        to += n + 1;
    }
    spec->n_merges = (int)v.n; /* at most 2^24 */
    spec->merge = a->merge;
    return 0;
}

static int read_id(const struct gguf *g, const char *key, const struct tok_spec *spec, int *out,
                   struct err *err) {
    int64_t v = *out;
    if (gguf_int(g, key, -1, UINT32_MAX, &v, err))
        return -1;
    if (v == UINT32_MAX) /* -1 as u32: the model has no such token */
        v = -1;
    if (v >= spec->n_vocab)
        return err_set(err, E_FORMAT, "%s: %s is %lld, but the vocabulary has %d tokens",
                       gguf_path(g), key, (long long)v, spec->n_vocab);
    *out = (int)v;
    return 0;
}

/* Defaults of absent keys: those of the format's home, where SentencePiece models have <unk> <s>
 * </s> in front, and Llama 3's byte-level BPE, whose files do not say so, begins each text with
 * BOS. */
static void set_defaults(struct tok_spec *spec, bool spm) {
    static const char *const with_bos[] = {"llama3", "llama-v3", "llama-bpe"};
    spec->unk = spm ? 0 : -1;
    spec->bos = spm && spec->n_vocab > 1 ? 1 : -1;
    spec->eos = spm && spec->n_vocab > 2 ? 2 : -1;
    spec->add_bos = spec->add_space_prefix = spm;
    for (size_t i = 0; i < sizeof with_bos / sizeof *with_bos; i++)
        if (!spm && spec->pre && strcmp(spec->pre, with_bos[i]) == 0)
            spec->add_bos = true;
}

static int read_spec(const struct gguf *g, struct tok_spec *spec, struct arrays *a,
                     struct err *err) {
    if (copy_str(g, PRE "model", &a->model, err) || copy_str(g, PRE "pre", &a->pre, err) ||
        copy_str(g, "tokenizer.chat_template", &a->chat, err))
        return -1;
    if (!a->model)
        return err_set(err, E_FORMAT, "%s: " PRE "model is missing", gguf_path(g));
    bool spm = strcmp(a->model, "llama") == 0;
    if (!spm && strcmp(a->model, "gpt2") != 0)
        return err_set(err, E_FORMAT,
                       "%s: " PRE "model '%.64s' not supported (supported: llama, gpt2)",
                       gguf_path(g), a->model);
    if (read_pieces(g, spec, a, err))
        return -1;
    struct gguf_value v;
    bool types_u32 = gguf_find(g, PRE "token_type", &v) && v.type == GGUF_ARR && v.elem == GGUF_U32;
    void *score = NULL, *type = NULL;
    int rc = read_per_token(g, PRE "scores", GGUF_F32, spec->n_vocab, &score, err) ||
             read_per_token(g, PRE "token_type", types_u32 ? GGUF_U32 : GGUF_I32, spec->n_vocab,
                            &type, err);
    spec->score = a->score = score;
    spec->type = a->type = type;
    if (rc || (!spm && read_merges(g, spec, a, err)))
        return -1;
    spec->path = gguf_path(g);
    spec->model = a->model;
    spec->pre = a->pre;
    spec->chat_template = a->chat;
    set_defaults(spec, spm);
    if (read_id(g, PRE "bos_token_id", spec, &spec->bos, err) ||
        read_id(g, PRE "eos_token_id", spec, &spec->eos, err) ||
        read_id(g, PRE "unknown_token_id", spec, &spec->unk, err) ||
        gguf_bool(g, PRE "add_bos_token", &spec->add_bos, err) ||
        gguf_bool(g, PRE "add_space_prefix", &spec->add_space_prefix, err))
        return -1;
    return gguf_bool(g, PRE "remove_extra_whitespaces", &spec->remove_extra_spaces, err);
}

struct tok *gguf_tok(const struct gguf *g, struct err *err) {
    struct tok_spec spec = {0};
    struct arrays a = {0};
    struct tok *t = read_spec(g, &spec, &a, err) ? NULL : tok_new(&spec, err);
    arrays_free(&a);
    return t;
}
