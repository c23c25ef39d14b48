/* gguf_cfg.c - the key-values and the tensor list of a GGUF file to struct cfg.
 * Keys are ARCH.NAME with ARCH from general.architecture.  What a GGUF file says only by having a
 * tensor (a head of its own, biases, Llama-3 rope factors) is read from the tensor list.
 * Invariant: whatever in the file would change the mathematics is either understood or refused by
 * its name - unknown tensors and the keys of `refused` are errors, not ignored. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/gguf_kv.h"

/* One file being read; key() spells ARCH.NAME in place. */
struct source {
    const struct gguf *g;
    const struct tensors *ts;
    const char *path;
    struct err *err;
    char arch[16];
    char key[80];
};

/* ORDER: general.architecture; cfg_family knows more names (those of Hugging Face), which no GGUF
 * uses. */
static const char *const architectures[] = {"llama", "gpt2", "qwen2",   "qwen3",
                                            "phi2",  "phi3", "gptneox", "gemma"};
#define N_ARCH (sizeof architectures / sizeof *architectures)

static const char *key(struct source *s, const char *name) {
    snprintf(s->key, sizeof s->key, "%s.%s", s->arch, name);
    return s->key;
}

/* The range keeps the value in an int; what is sensible is cfg_check's business. */
static int get_int(struct source *s, const char *name, int *out) {
    int64_t v = *out;
    if (gguf_int(s->g, key(s, name), 0, INT32_MAX, &v, s->err))
        return -1;
    *out = (int)v;
    return 0;
}

/* A required key, at least 1. */
static int need_int(struct source *s, const char *name, int *out) {
    struct gguf_value v;
    int64_t x = 0;
    if (!gguf_find(s->g, key(s, name), &v))
        return err_set(s->err, E_FORMAT, "%s: %s is missing", s->path, s->key);
    if (gguf_int(s->g, s->key, 1, INT32_MAX, &x, s->err))
        return -1;
    *out = (int)x;
    return 0;
}

static int get_float(struct source *s, const char *name, double lo, double hi, float *out) {
    double v = *out;
    if (gguf_real(s->g, key(s, name), lo, hi, &v, s->err))
        return -1;
    *out = (float)v;
    return 0;
}

static int read_arch(struct source *s, struct cfg *c) {
    const char *name = NULL;
    size_t n = 0;
    if (gguf_str(s->g, "general.architecture", &name, &n, s->err))
        return -1;
    if (!name)
        return err_set(s->err, E_FORMAT, "%s: general.architecture is missing", s->path);
    for (size_t i = 0; i < N_ARCH; i++)
        if (n == strlen(architectures[i]) && memcmp(name, architectures[i], n) == 0) {
            memcpy(s->arch, name, n);
            return cfg_family(c, s->arch, s->path, s->err);
        }
    return err_set(s->err, E_FORMAT,
                   "%s: general.architecture '%.*s' not supported (supported: llama, gpt2, qwen2, "
                   "qwen3, phi2, phi3, gptneox, gemma)",
                   s->path, n > 64 ? 64 : (int)n, name);
}

/* Keys that change the mathematics unless they have the value that stands for "off". */
static int refuse_features(struct source *s) {
    static const struct {
        const char *name;
        double off;
    } refused[] = {
        {"expert_count", 0},
        {"expert_used_count", 0},
        {"attn_logit_softcapping", 0},
        {"final_logit_softcapping", 0},
        {"logit_scale", 0},
        {"embedding_scale", 0},
        {"residual_scale", 0},
        {"attention.scale", 0},
        {"attention.clamp_kqv", 0},
        {"attention.max_alibi_bias", 0},
        {"attention.temperature_length", 0},
        {"attention.causal", 1},
        {"rope.scaling.attn_factor", 1},
        {"leading_dense_block_count", 0},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct gguf_value v;
        int64_t as_int = 0;
        double x = 0;
        bool b = false;
        if (!gguf_find(s->g, key(s, refused[i].name), &v))
            continue;
        if (v.type == GGUF_F32 || v.type == GGUF_F64) {
            if (gguf_real(s->g, s->key, -HUGE_VAL, HUGE_VAL, &x, s->err))
                return -1;
        } else if (v.type == GGUF_BOOL) {
            if (gguf_bool(s->g, s->key, &b, s->err))
                return -1;
            x = b;
        } else {
            if (gguf_int(s->g, s->key, INT64_MIN, INT64_MAX, &as_int, s->err))
                return -1;
            x = (double)as_int;
        }
        if (x != refused[i].off)
            return err_set(s->err, E_FORMAT, "%s: %s = %g not supported", s->path, s->key, x);
    }
    return 0;
}

/* Rows of the embedding; the vocabulary that keys tell must agree, or ids would index beyond it. */
static int read_vocab(struct source *s, struct cfg *c) {
    const struct tensor *t = tensors_find(s->ts, "token_embd.weight");
    struct gguf_value tokens = {0};
    if (!t)
        return err_set(s->err, E_FORMAT, "%s: no tensor 'token_embd.weight'", s->path);
    if (t->rank != 2 || t->shape[0] > INT32_MAX)
        return err_set(
            s->err, E_FORMAT,
            "%s: tensor 'token_embd.weight' must have two dimensions that fit in 31 bits", s->path);
    c->vocab = (int)t->shape[0];
    int told = c->vocab;
    if (get_int(s, "vocab_size", &told) ||
        gguf_array(s->g, "tokenizer.ggml.tokens", GGUF_STR, &tokens, s->err))
        return -1;
    if (told != c->vocab)
        return err_set(s->err, E_FORMAT, "%s: %s is %d, but token_embd.weight has %d rows", s->path,
                       s->key, told, c->vocab);
    if (tokens.data && tokens.n != (uint64_t)c->vocab)
        return err_set(s->err, E_FORMAT,
                       "%s: tokenizer.ggml.tokens has %llu tokens, but token_embd.weight has %d "
                       "rows",
                       s->path, (unsigned long long)tokens.n, c->vocab);
    return 0;
}

static int read_dims(struct source *s, struct cfg *c) {
    int v_dim = 0;
    const char *eps =
        c->norm == NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
    if (need_int(s, "block_count", &c->n_layer) || need_int(s, "context_length", &c->max_ctx) ||
        need_int(s, "embedding_length", &c->dim) || need_int(s, "feed_forward_length", &c->ffn) ||
        need_int(s, "attention.head_count", &c->n_head))
        return -1;
    c->n_kv_head = c->n_head;
    if (get_int(s, "attention.head_count_kv", &c->n_kv_head) ||
        get_int(s, "attention.key_length", &c->head_dim))
        return -1;
    if (c->head_dim == 0 && c->dim % c->n_head)
        return err_set(s->err, E_FORMAT,
                       "%s: %s.embedding_length %d is not a multiple of "
                       "attention.head_count %d",
                       s->path, s->arch, c->dim, c->n_head);
    if (c->head_dim == 0)
        c->head_dim = c->dim / c->n_head;
    v_dim = c->head_dim;
    if (get_int(s, "attention.value_length", &v_dim))
        return -1;
    if (v_dim != c->head_dim)
        return err_set(s->err, E_FORMAT, "%s: %s %d differs from the key length %d: not supported",
                       s->path, s->key, v_dim, c->head_dim);
    struct gguf_value v;
    if (!gguf_find(s->g, key(s, eps), &v))
        return err_set(s->err, E_FORMAT, "%s: %s is missing", s->path, s->key);
    if (get_float(s, eps, 0, 1, &c->norm_eps) || get_int(s, "attention.sliding_window", &c->window))
        return -1;
    return 0;
}

static int read_scaling(struct source *s, struct cfg *c) {
    const char *type = NULL;
    size_t n = 0;
    float factor = 0;
    /* scale_linear is the older spelling; like it, a factor without a type means linear */
    if (get_float(s, "rope.scale_linear", 0, 1e6, &factor) ||
        get_float(s, "rope.scaling.factor", 0, 1e6, &factor) ||
        gguf_str(s->g, key(s, "rope.scaling.type"), &type, &n, s->err))
        return -1;
    bool none = type && n == 4 && memcmp(type, "none", 4) == 0;
    bool linear = !type || (n == 6 && memcmp(type, "linear", 6) == 0);
    if (!none && !linear)
        return err_set(s->err, E_FORMAT, "%s: %s '%.*s' not supported (supported: none, linear)",
                       s->path, s->key, n > 64 ? 64 : (int)n, type);
    if (linear && factor != 0 && factor != 1) {
        c->rope_scaling = ROPE_LINEAR;
        c->rope_factor = factor;
    }
    return 0;
}

static int read_rope(struct source *s, struct cfg *c) {
    if (c->learned_pos)
        return 0;
    c->rope_dim = c->head_dim;
    if (get_int(s, "rope.dimension_count", &c->rope_dim) ||
        get_float(s, "rope.freq_base", 1, 1e12, &c->rope_theta))
        return -1;
    return read_scaling(s, c);
}

double gguf_rope_divisor(const struct cfg *c, int i, int n) {
    double wavelength = 2 * M_PI * pow(c->rope_theta, (double)i / n);
    double turns = c->rope_orig_ctx / wavelength; /* within the original context */
    if (turns > c->rope_high)
        return 1;
    if (turns < c->rope_low)
        return c->rope_factor;
    double smooth = (turns - c->rope_low) / (c->rope_high - c->rope_low);
    return 1 / ((1 - smooth) / c->rope_factor + smooth);
}

static bool explains(const struct cfg *c, const float *f, int n) {
    for (int i = 0; i < n; i++)
        if (!(fabs(f[i] / gguf_rope_divisor(c, i, n) - 1) < 1e-5))
            return false;
    return true;
}

bool gguf_rope_scaling(struct cfg *c, const float *f, int n) {
    struct cfg try = *c;
    try.rope_scaling = ROPE_LLAMA3;
    try.rope_factor = 0;
    for (int i = 0; i < n; i++)
        try.rope_factor = fmaxf(try.rope_factor, f[i]);
    try.rope_low = 1;
    try.rope_high = 4;
    for (int orig = 64; orig <= 1 << 20; orig *= 2) {
        try.rope_orig_ctx = orig;
        if (explains(&try, f, n)) {
            *c = try;
            return true;
        }
    }
    return false;
}

static int read_rope_freqs(struct source *s, struct cfg *c) {
    const struct tensor *t = tensors_find(s->ts, "rope_freqs.weight");
    int n = c->rope_dim / 2;
    if (!t)
        return 0;
    if (t->type != DT_F32 || t->rank != 1 || t->shape[0] != n || n == 0)
        return err_set(s->err, E_FORMAT, "%s: tensor 'rope_freqs.weight' must be %d F32 values",
                       s->path, n);
    float *f = mem_dup(t->data, t->bytes);
    bool plain = true;
    for (int i = 0; i < n; i++)
        plain = plain && f[i] == 1;
    bool bad = !plain && (c->rope_scaling != ROPE_PLAIN || !gguf_rope_scaling(c, f, n));
    free(f);
    if (bad)
        return err_set(s->err, E_FORMAT,
                       "%s: tensor 'rope_freqs.weight' is not Llama-3 rope scaling: not supported",
                       s->path);
    return 0;
}

/* Which tensors of a block the flags allow; a bias switches its flag on. */
static bool known_layer_tensor(struct cfg *c, const char *name) {
    static const char *const always[] = {
        "attn_norm.weight", "attn_q.weight",      "attn_k.weight",   "attn_v.weight",
        "attn_qkv.weight",  "attn_output.weight", "ffn_down.weight", "ffn_up.weight"};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        if (strcmp(name, always[i]) == 0)
            return true;
    if (strcmp(name, "ffn_norm.weight") == 0)
        return !c->shared_norm;
    if (strcmp(name, "ffn_norm.bias") == 0)
        return !c->shared_norm && c->norm == NORM_LAYER;
    if (strcmp(name, "attn_norm.bias") == 0)
        return c->norm == NORM_LAYER;
    if (strcmp(name, "ffn_gate.weight") == 0)
        return c->gated;
    if (strcmp(name, "attn_q_norm.weight") == 0 || strcmp(name, "attn_k_norm.weight") == 0)
        return c->qk_norm;
    /* of older converters: the frequencies of plain rope, which follow from the keys */
    if (strcmp(name, "attn_rot_embd") == 0)
        return true;
    static const struct {
        const char *name;
        size_t flag;
    } biases[] = {{"attn_q.bias", offsetof(struct cfg, bias_qkv)},
                  {"attn_k.bias", offsetof(struct cfg, bias_qkv)},
                  {"attn_v.bias", offsetof(struct cfg, bias_qkv)},
                  {"attn_qkv.bias", offsetof(struct cfg, bias_qkv)},
                  {"attn_output.bias", offsetof(struct cfg, bias_o)},
                  {"ffn_gate.bias", offsetof(struct cfg, bias_mlp)},
                  {"ffn_up.bias", offsetof(struct cfg, bias_mlp)},
                  {"ffn_down.bias", offsetof(struct cfg, bias_mlp)}};
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++)
        if (strcmp(name, biases[i].name) == 0) {
            *(bool *)((char *)c + biases[i].flag) = true;
            return true;
        }
    return false;
}

static bool known_tensor(struct cfg *c, const char *name) {
    int layer, at = 0;
    if (sscanf(name, "blk.%9d.%n", &layer, &at) == 1 && at > 0)
        return layer >= 0 && layer < c->n_layer && known_layer_tensor(c, name + at);
    if (strcmp(name, "output.bias") == 0) {
        c->bias_head = true;
        return true;
    }
    if (strcmp(name, "position_embd.weight") == 0)
        return c->learned_pos;
    if (strcmp(name, "output_norm.bias") == 0)
        return c->norm == NORM_LAYER;
    return strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output_norm.weight") == 0 ||
           strcmp(name, "output.weight") == 0 || strcmp(name, "rope_freqs.weight") == 0;
}

static int read_tensor_list(struct source *s, struct cfg *c) {
    c->tied = !tensors_find(s->ts, "output.weight");
    for (int i = 0; i < s->ts->n; i++)
        if (!known_tensor(c, s->ts->t[i].name))
            return err_set(s->err, E_FORMAT,
                           "%s: tensor '%s' not supported in architecture %s (%d layers)", s->path,
                           s->ts->t[i].name, s->arch, c->n_layer);
    if (c->bias_head && c->tied)
        return err_set(s->err, E_FORMAT,
                       "%s: tensor 'output.bias' without output.weight: not supported", s->path);
    return read_rope_freqs(s, c);
}

/* A converter writes -1 (as u32) for a token that the model lacks. */
static int read_token_id(struct source *s, const char *name, int vocab, int *out) {
    int64_t v = -1;
    if (gguf_int(s->g, name, -1, UINT32_MAX, &v, s->err))
        return -1;
    if (v == UINT32_MAX)
        v = -1;
    if (v >= vocab)
        return err_set(s->err, E_FORMAT, "%s: %s is %lld, but the vocabulary has %d tokens",
                       s->path, name, (long long)v, vocab);
    *out = (int)v;
    return 0;
}

static int read_tokens(struct source *s, struct cfg *c) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    if (read_token_id(s, "tokenizer.ggml.bos_token_id", c->vocab, &c->bos))
        return -1;
    for (int i = 0; i < 3; i++) {
        int id = -1, k = 0;
        if (read_token_id(s, ends[i], c->vocab, &id))
            return -1;
        while (k < c->n_eos && c->eos[k] != id)
            k++;
        if (id >= 0 && k == c->n_eos)
            c->eos[c->n_eos++] = id;
    }
    return 0;
}

int gguf_cfg(const struct gguf *g, struct cfg *c, struct err *err) {
    struct source s = {
        .g = g, .ts = gguf_tensors((struct gguf *)g), .path = gguf_path(g), .err = err};
    struct cfg out;
    if (read_arch(&s, &out) || refuse_features(&s) || read_vocab(&s, &out) || read_dims(&s, &out) ||
        read_rope(&s, &out) || gguf_bool(g, key(&s, "use_parallel_residual"), &out.parallel, err))
        return -1;
    if (out.norm_plus_one) /* Gemma: GGUF stores the norm weight whole, but the scale stays */
        out.embed_scale = sqrtf((float)out.dim);
    if (cfg_check(&out, s.path, err) || read_tensor_list(&s, &out) || read_tokens(&s, &out) ||
        cfg_check(&out, s.path, err))
        return -1;
    *c = out;
    return 0;
}
