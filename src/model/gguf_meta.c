/* gguf_meta.c - a configuration and a tokenizer as GGUF's key-values: gguf_cfg.c and gguf_tok.c
 * the other way round.  What has a default is written all the same, since readers differ in
 * their defaults. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/gguf_kv.h"
#include "tok/export.h"

#define PRE "tokenizer.ggml."

struct put {
    struct buf *b;
    uint64_t n;
    const char *arch;
};

static void put_u32(struct put *p, const char *key, int64_t v) {
    uint32_t u = (uint32_t)v;
    gguf_put_pair(p->b, &(struct gguf_pair){.key = key, .type = GGUF_U32, .value = &u});
    p->n++;
}

static void put_bool(struct put *p, const char *key, bool v) {
    uint8_t u = v;
    gguf_put_pair(p->b, &(struct gguf_pair){.key = key, .type = GGUF_BOOL, .value = &u});
    p->n++;
}

static void put_str(struct put *p, const char *key, const char *v) {
    gguf_put_pair(p->b, &(struct gguf_pair){.key = key, .type = GGUF_STR, .value = v});
    p->n++;
}

/* ARCH.name */
static char *arch_key(const struct put *p, const char *name) {
    struct buf b = {0};
    buf_printf(&b, "%s.%s", p->arch, name);
    buf_str(&b);
    return b.data;
}

static void arch_int(struct put *p, const char *name, int v) {
    char *key = arch_key(p, name);
    put_u32(p, key, v);
    free(key);
}

static void arch_float(struct put *p, const char *name, float v) {
    char *key = arch_key(p, name);
    gguf_put_pair(p->b, &(struct gguf_pair){.key = key, .type = GGUF_F32, .value = &v});
    p->n++;
    free(key);
}

static void arch_str(struct put *p, const char *name, const char *v) {
    char *key = arch_key(p, name);
    put_str(p, key, v);
    free(key);
}

static void arch_bool(struct put *p, const char *name, bool v) {
    char *key = arch_key(p, name);
    put_bool(p, key, v);
    free(key);
}

static void put_rope(struct put *p, const struct cfg *c) {
    if (c->rope_dim == 0)
        return;
    arch_int(p, "rope.dimension_count", c->rope_dim);
    arch_float(p, "rope.freq_base", c->rope_theta);
    if (c->rope_scaling != ROPE_LINEAR)
        return; /* Llama 3's is the tensor rope_freqs.weight */
    arch_str(p, "rope.scaling.type", "linear");
    arch_float(p, "rope.scaling.factor", c->rope_factor);
}

static void put_cfg(struct put *p, const struct cfg *c) {
    bool layer_norm = c->norm == NORM_LAYER;
    arch_int(p, "vocab_size", c->vocab);
    arch_int(p, "context_length", c->max_ctx);
    arch_int(p, "embedding_length", c->dim);
    arch_int(p, "block_count", c->n_layer);
    arch_int(p, "feed_forward_length", c->ffn);
    arch_int(p, "attention.head_count", c->n_head);
    arch_int(p, "attention.head_count_kv", c->n_kv_head);
    arch_int(p, "attention.key_length", c->head_dim);
    arch_int(p, "attention.value_length", c->head_dim);
    arch_float(p, layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
               c->norm_eps);
    if (c->window)
        arch_int(p, "attention.sliding_window", c->window);
    if (strcmp(c->arch, "gpt_neox") == 0)
        arch_bool(p, "use_parallel_residual", c->parallel);
    put_rope(p, c);
}

/* An architecture fixes its activation, and Llama 3's scaling must be one that readers know. */
static int check_cfg(const struct cfg *c, const char *name, struct err *err) {
    struct cfg fixed;
    if (cfg_family(&fixed, c->arch, name, err))
        return -1;
    if (c->act != fixed.act)
        return err_set(err, E_USAGE, "%s: GGUF's %s has another activation", name,
                       cfg_gguf_arch(c));
    bool power = (c->rope_orig_ctx & (c->rope_orig_ctx - 1)) == 0 && c->rope_orig_ctx >= 64 &&
                 c->rope_orig_ctx <= 1 << 20;
    if (c->rope_scaling == ROPE_LLAMA3 && (c->rope_low != 1 || c->rope_high != 4 || !power))
        return err_set(err, E_USAGE,
                       "%s: rope_scaling llama3 with low %g, high %g, original context %d: readers "
                       "of GGUF know 1, 4 and powers of two",
                       name, c->rope_low, c->rope_high, c->rope_orig_ctx);
    return 0;
}

static void put_array(struct put *p, const char *key, enum gguf_type elem, size_t n, const void *v,
                      const size_t *len) {
    gguf_put_pair(p->b,
                  &(struct gguf_pair){
                      .key = key, .type = GGUF_ARR, .elem = elem, .n = n, .value = v, .len = len});
    p->n++;
}

/* The ids that end a text: the tokenizer's first, then those of the configuration. */
static void put_ends(struct put *p, const struct cfg *c, int eos) {
    static const char *const keys[] = {PRE "eos_token_id", PRE "eot_token_id", PRE "eom_token_id"};
    int n = 0;
    if (eos >= 0)
        put_u32(p, keys[n++], eos);
    for (int i = 0; i < c->n_eos && n < 3; i++)
        if (c->eos[i] != eos)
            put_u32(p, keys[n++], c->eos[i]);
}

static int put_tok(struct put *p, const struct gguf_meta *m, struct err *err) {
    struct tok_export e;
    const struct tok_spec *s = &e.spec;
    if (!m->tok) {
        put_str(p, PRE "model", "no_vocab");
        put_ends(p, m->cfg, -1);
        if (m->cfg->bos >= 0)
            put_u32(p, PRE "bos_token_id", m->cfg->bos);
        return 0;
    }
    if (tok_export(m->tok, m->cfg->vocab, &e, err))
        return -1;
    size_t n = (size_t)s->n_vocab;
    int bos = s->bos >= 0 ? s->bos : m->cfg->bos;
    put_str(p, PRE "model", s->model);
    if (s->pre)
        put_str(p, PRE "pre", s->pre);
    put_array(p, PRE "tokens", GGUF_STR, n, s->piece, s->piece_len);
    if (s->score)
        put_array(p, PRE "scores", GGUF_F32, n, s->score, NULL);
    put_array(p, PRE "token_type", GGUF_I32, n, s->type, NULL);
    if (s->merge)
        put_array(p, PRE "merges", GGUF_STR, (size_t)s->n_merges, s->merge, NULL);
    bool spm = s->score != NULL; /* its defaults are tokens: -1 as u32 says that there is none */
    if (bos >= 0 || spm)
        put_u32(p, PRE "bos_token_id", bos);
    put_ends(p, m->cfg, s->eos);
    if (s->eos < 0 && m->cfg->n_eos == 0 && spm)
        put_u32(p, PRE "eos_token_id", -1);
    if (s->unk >= 0 || spm)
        put_u32(p, PRE "unknown_token_id", s->unk);
    put_bool(p, PRE "add_bos_token", s->add_bos);
    put_bool(p, PRE "add_eos_token", false);
    if (s->score) {
        put_bool(p, PRE "add_space_prefix", s->add_space_prefix);
        put_bool(p, PRE "remove_extra_whitespaces", s->remove_extra_spaces);
    }
    if (s->chat_template)
        put_str(p, "tokenizer.chat_template", s->chat_template);
    tok_export_free(&e);
    return 0;
}

int gguf_put_meta(struct buf *kv, uint64_t *n_kv, const struct gguf_meta *m, struct err *err) {
    struct put p = {.b = kv, .arch = cfg_gguf_arch(m->cfg)};
    if (check_cfg(m->cfg, m->name, err))
        return -1;
    put_str(&p, "general.architecture", p.arch);
    put_str(&p, "general.name", m->name);
    put_u32(&p, "general.file_type", m->file_type);
    put_u32(&p, "general.quantization_version", 2); /* of the block formats, since 2023 */
    put_cfg(&p, m->cfg);
    if (put_tok(&p, m, err))
        return -1;
    *n_kv += p.n;
    return 0;
}
