/* cfg.c - config.json to struct cfg, and back.
 * One row of `families` per architecture: the keys it spells differently and the flags it
 * fixes.  Nothing else in the program asks for the architecture by name, except where the
 * tensors are found (plan.c).
 * Invariant: a cfg that left cfg_check may size arrays; every product of two of its dimensions
 * that sizes a matrix fits in an int.  Key names and defaults follow the Hugging Face
 * configuration classes. */
#include "model/cfg.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"

enum window_rule {
    WINDOW_NONE,
    WINDOW_KEY,
    WINDOW_SWITCH
}; /* SWITCH: only with use_sliding_window (Qwen) */

struct family {
    const char *arch, *gguf, *class; /* model_type, general.architecture, architectures[0] */
    /* keys of config.json; NULL: the family has no such key */
    const char *k_dim, *k_layer, *k_head, *k_kv, *k_ffn, *k_ctx, *k_eps, *k_act;
    const char *k_head_dim, *k_rotary, *k_theta;
    const char *k_bias_attn, *k_bias_mlp; /* k_bias_attn rules q, k, v and o */
    struct cfg flags;                     /* what the family fixes, and defaults of optional keys */
    double rotary; /* default share of each head that is rotated; 0 = no rope */
    int head_dim;  /* default; 0 = dim / n_head */
    bool ffn_4x;   /* an absent ffn is 4 * dim (GPT-2) */
    enum window_rule window;
    int window_default;
};

/* The keys of most families, and those that Llama added. */
#define DIM_KEYS                                                                                   \
    .k_dim = "hidden_size", .k_layer = "num_hidden_layers", .k_head = "num_attention_heads",       \
    .k_ffn = "intermediate_size", .k_ctx = "max_position_embeddings"
#define KV_KEY .k_kv = "num_key_value_heads"
#define LLAMA_KEYS                                                                                 \
    DIM_KEYS, KV_KEY, .k_eps = "rms_norm_eps", .k_act = "hidden_act", .k_theta = "rope_theta",     \
                      .k_head_dim = "head_dim"
#define RMS_GATED .norm = NORM_RMS, .act = ACT_SILU, .gated = true, .rope_theta = 10000

static const struct family families[] = {
    {"llama", "llama", "LlamaForCausalLM", LLAMA_KEYS, .rotary = 1, .k_bias_attn = "attention_bias",
     .k_bias_mlp = "mlp_bias", .flags = {RMS_GATED, .norm_eps = 1e-6f}},
    {"mistral", "llama", "MistralForCausalLM", LLAMA_KEYS, .rotary = 1, .window = WINDOW_KEY,
     .window_default = 4096, .flags = {RMS_GATED, .norm_eps = 1e-6f}},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", LLAMA_KEYS, .rotary = 1, .window = WINDOW_SWITCH,
     .window_default = 4096, .flags = {RMS_GATED, .norm_eps = 1e-6f, .bias_qkv = true}},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", LLAMA_KEYS, .rotary = 1, .k_bias_attn = "attention_bias",
     .head_dim = 128, .window = WINDOW_SWITCH, .window_default = 4096,
     .flags = {RMS_GATED, .norm_eps = 1e-6f, .qk_norm = true}},
    {"phi3", "phi3", "Phi3ForCausalLM", LLAMA_KEYS, .k_rotary = "partial_rotary_factor",
     .rotary = 1, .window = WINDOW_KEY, .flags = {RMS_GATED, .norm_eps = 1e-5f}},
    {"gemma", "gemma", "GemmaForCausalLM", DIM_KEYS, KV_KEY, .k_eps = "rms_norm_eps",
     .k_act = "hidden_activation", .k_theta = "rope_theta", .k_head_dim = "head_dim", .rotary = 1,
     .k_bias_attn = "attention_bias", .head_dim = 256,
     .flags = {.norm = NORM_RMS,
               .act = ACT_GELU_TANH,
               .gated = true,
               .rope_theta = 10000,
               .norm_eps = 1e-6f,
               .norm_plus_one = true,
               .tied = true}},
    {"gpt2", "gpt2", "GPT2LMHeadModel", .k_dim = "n_embd", .k_layer = "n_layer", .k_head = "n_head",
     .k_ffn = "n_inner", .k_ctx = "n_positions", .k_eps = "layer_norm_epsilon",
     .k_act = "activation_function", .ffn_4x = true,
     .flags = {.norm = NORM_LAYER,
               .norm_eps = 1e-5f,
               .act = ACT_GELU_TANH,
               .learned_pos = true,
               .tied = true,
               .bias_qkv = true,
               .bias_o = true,
               .bias_mlp = true}},
    {"phi", "phi2", "PhiForCausalLM", DIM_KEYS, KV_KEY, .k_eps = "layer_norm_eps",
     .k_act = "hidden_act", .k_theta = "rope_theta", .k_rotary = "partial_rotary_factor",
     .rotary = 0.5,
     .flags = {.norm = NORM_LAYER,
               .norm_eps = 1e-5f,
               .act = ACT_GELU_TANH,
               .parallel = true,
               .shared_norm = true,
               .rope_theta = 10000,
               .bias_qkv = true,
               .bias_o = true,
               .bias_mlp = true,
               .bias_head = true}},
    {"gpt_neox", "gptneox", "GPTNeoXForCausalLM", DIM_KEYS, .k_eps = "layer_norm_eps",
     .k_act = "hidden_act", .k_rotary = "rotary_pct", .rotary = 0.25, .k_theta = "rotary_emb_base",
     .k_bias_attn = "attention_bias",
     .flags = {.norm = NORM_LAYER,
               .norm_eps = 1e-5f,
               .act = ACT_GELU_ERF,
               .parallel = true,
               .rope_theta = 10000,
               .bias_qkv = true,
               .bias_o = true,
               .bias_mlp = true}},
};
#define N_FAMILY ((int)(sizeof families / sizeof *families))

static const struct act_name {
    const char *name;
    enum act_kind act;
} acts[] = {
    /* The first name of each kind is the one we write. */
    {"silu", ACT_SILU},           {"gelu_new", ACT_GELU_TANH},
    {"gelu", ACT_GELU_ERF},       {"relu", ACT_RELU},
    {"swish", ACT_SILU},          {"gelu_pytorch_tanh", ACT_GELU_TANH},
    {"gelu_fast", ACT_GELU_TANH}, {"gelu_python", ACT_GELU_ERF},
};

int cfg_act(enum act_kind *act, const char *name, const char *path, struct err *err) {
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(acts[i].name, name) == 0) {
            *act = acts[i].act;
            return 0;
        }
    return err_set(err, E_FORMAT,
                   "%s: activation '%.64s' not supported (supported: silu, gelu, gelu_new, "
                   "gelu_pytorch_tanh, relu)",
                   path, name);
}

static const struct family *family_find(const char *arch) {
    for (int i = 0; i < N_FAMILY; i++)
        if (strcmp(families[i].arch, arch) == 0)
            return &families[i];
    for (int i = 0; i < N_FAMILY; i++)
        if (strcmp(families[i].gguf, arch) == 0)
            return &families[i];
    return NULL;
}

int cfg_family(struct cfg *c, const char *arch, const char *path, struct err *err) {
    const struct family *f = family_find(arch);
    if (!f) {
        struct buf b = {0};
        for (int i = 0; i < N_FAMILY; i++)
            buf_printf(&b, "%s%s", i ? ", " : "", families[i].arch);
        err_set(err, E_FORMAT, "%s: architecture '%.64s' not supported (supported: %s)", path, arch,
                buf_str(&b));
        buf_free(&b);
        return -1;
    }
    *c = f->flags;
    memcpy(c->arch, f->arch, strlen(f->arch) + 1);
    c->embed_scale = 1;
    c->bos = -1;
    return 0;
}

const char *cfg_gguf_arch(const struct cfg *c) {
    return family_find(c->arch)->gguf;
}

/* The source of one configuration: the object, its name for messages, and where errors go. */
struct src {
    const json_t *j;
    const char *path;
    struct err *err;
};

/* An int key in [lo, hi]; absent leaves *out, unless it is required (*out 0). */
static int get_int(const struct src *s, const char *key, int lo, int hi, int *out) {
    int64_t v = *out;
    if (json_get_int(s->j, s->path, key, lo, hi, &v, s->err))
        return -1;
    *out = (int)v;
    return 0;
}

static int need_int(const struct src *s, const char *key, int hi, int *out) {
    *out = 0;
    if (get_int(s, key, 1, hi, out))
        return -1;
    if (*out == 0)
        return err_set(s->err, E_FORMAT, "%s: %s is missing", s->path, key);
    return 0;
}

static int get_float(const struct src *s, const char *key, double lo, double hi, float *out) {
    double v = *out;
    if (json_get_real(s->j, s->path, key, lo, hi, &v, s->err))
        return -1;
    *out = (float)v;
    return 0;
}

/* ORDER of magnitude: the largest open models have vocabularies of 2.6e5, widths of 2e4, 130
 * layers. */
#define MAX_VOCAB (1 << 21)
#define MAX_DIM (1 << 17)
#define MAX_FFN (1 << 20)
#define MAX_LAYER 512
#define MAX_HEAD 2048
#define MAX_HEAD_DIM 1024
#define MAX_CTX (1 << 25)

static int read_dims(struct cfg *c, const struct family *f, const struct src *s) {
    if (need_int(s, "vocab_size", MAX_VOCAB, &c->vocab) ||
        need_int(s, f->k_dim, MAX_DIM, &c->dim) ||
        need_int(s, f->k_layer, MAX_LAYER, &c->n_layer) ||
        need_int(s, f->k_head, MAX_HEAD, &c->n_head) || need_int(s, f->k_ctx, MAX_CTX, &c->max_ctx))
        return -1;
    c->ffn = f->ffn_4x ? 4 * c->dim : 0;
    if (f->ffn_4x ? get_int(s, f->k_ffn, 1, MAX_FFN, &c->ffn)
                  : need_int(s, f->k_ffn, MAX_FFN, &c->ffn))
        return -1;
    c->n_kv_head = c->n_head;
    if (f->k_kv && get_int(s, f->k_kv, 1, c->n_head, &c->n_kv_head))
        return -1;
    c->head_dim = f->head_dim;
    if (f->k_head_dim && get_int(s, f->k_head_dim, 1, MAX_HEAD_DIM, &c->head_dim))
        return -1;
    if (c->head_dim == 0) {
        if (c->dim % c->n_head)
            return err_set(s->err, E_FORMAT, "%s: %s %d is not a multiple of %s %d", s->path,
                           f->k_dim, c->dim, f->k_head, c->n_head);
        c->head_dim = c->dim / c->n_head;
    }
    return get_float(s, f->k_eps, 0, 1, &c->norm_eps);
}

/* rope_scaling {type|rope_type, factor, ...}, or the newer rope_parameters, which also holds
 * rope_theta. */
static int read_scaling(struct cfg *c, const struct src *s, const char *key) {
    const char *type = NULL;
    if (json_get_str(s->j, s->path, "type", &type, s->err) ||
        json_get_str(s->j, s->path, "rope_type", &type, s->err))
        return -1;
    if (!type && strcmp(key, "rope_scaling") == 0)
        return err_set(s->err, E_FORMAT, "%s: %s has no rope_type", s->path, key);
    if (!type || strcmp(type, "default") == 0)
        return 0;
    bool llama3 = strcmp(type, "llama3") == 0;
    if (!llama3 && strcmp(type, "linear") != 0)
        return err_set(s->err, E_FORMAT,
                       "%s: %s type '%.64s' not supported (supported: default, linear, llama3)",
                       s->path, key, type);
    c->rope_scaling = llama3 ? ROPE_LLAMA3 : ROPE_LINEAR;
    if (get_float(s, "factor", 1, 1e6, &c->rope_factor))
        return -1;
    if (c->rope_factor == 0)
        return err_set(s->err, E_FORMAT, "%s: %s.factor is missing", s->path, key);
    if (!llama3)
        return 0;
    if (get_float(s, "low_freq_factor", 1e-6, 1e6, &c->rope_low) ||
        get_float(s, "high_freq_factor", 1e-6, 1e6, &c->rope_high) ||
        need_int(s, "original_max_position_embeddings", MAX_CTX, &c->rope_orig_ctx))
        return -1;
    if (c->rope_low == 0 || c->rope_high == 0)
        return err_set(s->err, E_FORMAT, "%s: %s.%s_freq_factor is missing", s->path, key,
                       c->rope_low == 0 ? "low" : "high");
    return 0;
}

static int read_rope(struct cfg *c, const struct family *f, const struct src *s) {
    if (f->rotary == 0)
        return 0;
    double share = f->rotary;
    if (f->k_rotary && json_get_real(s->j, s->path, f->k_rotary, 0, 1, &share, s->err))
        return -1;
    if (get_float(s, f->k_theta, 1, 1e12, &c->rope_theta))
        return -1;
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++) {
        const json_t *o = json_object_get(s->j, keys[i]);
        if (!o || json_is_null(o))
            continue;
        if (!json_is_object(o))
            return err_set(s->err, E_FORMAT, "%s: %s must be an object", s->path, keys[i]);
        struct src in = {o, s->path, s->err};
        if (get_float(&in, "rope_theta", 1, 1e12, &c->rope_theta) ||
            json_get_real(o, s->path, "partial_rotary_factor", 0, 1, &share, s->err) ||
            read_scaling(c, &in, keys[i]))
            return -1;
    }
    c->rope_dim = (int)(c->head_dim * share);
    if (c->rope_dim < 2)
        return err_set(s->err, E_FORMAT, "%s: %s %g rotates no component of a head of %d", s->path,
                       f->k_rotary ? f->k_rotary : "rope", share, c->head_dim);
    return 0;
}

/* Mistral's window is on unless null; Qwen's is off unless use_sliding_window, and then applies
 * to the layers from max_window_layers on.  We have one window for all layers, so a mixture is
 * refused. */
static int read_window(struct cfg *c, const struct family *f, const struct src *s) {
    if (f->window == WINDOW_NONE)
        return 0;
    int window = json_object_get(s->j, "sliding_window") ? 0 : f->window_default;
    int from = f->window == WINDOW_SWITCH ? c->n_layer : 0;
    bool on = f->window == WINDOW_KEY;
    if (get_int(s, "sliding_window", 0, MAX_CTX, &window) ||
        json_get_bool(s->j, s->path, "use_sliding_window", &on, s->err))
        return -1;
    if (!on || window == 0)
        return 0;
    if (get_int(s, "max_window_layers", 0, INT_MAX, &from))
        return -1;
    if (f->window == WINDOW_SWITCH && from > 0) {
        if (from >= c->n_layer)
            return 0;
        return err_set(
            s->err, E_FORMAT,
            "%s: max_window_layers %d of %d layers: a sliding window in some layers only is "
            "not supported",
            s->path, from, c->n_layer);
    }
    c->window = window;
    return 0;
}

/* Keys whose other value would change the mathematics. */
static int refuse_variants(const struct src *s) {
    static const struct {
        const char *key;
        bool want;
    } fixed[] = {{"scale_attn_weights", true},
                 {"scale_attn_by_inverse_layer_idx", false},
                 {"add_cross_attention", false},
                 {"is_encoder_decoder", false},
                 {"qk_layernorm", false}};
    const json_t *q = json_object_get(s->j, "quantization_config");
    if (q && !json_is_null(q)) {
        const char *method = json_string_value(json_object_get(q, "quant_method"));
        return err_set(
            s->err, E_FORMAT,
            "%s: quantization_config (%.32s) not supported (use F32, F16 or BF16 weights, "
            "or GGUF)",
            s->path, method ? method : "no method");
    }
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        bool v = fixed[i].want;
        if (json_get_bool(s->j, s->path, fixed[i].key, &v, s->err))
            return -1;
        if (v != fixed[i].want)
            return err_set(s->err, E_FORMAT, "%s: %s = %s not supported", s->path, fixed[i].key,
                           v ? "true" : "false");
    }
    if (json_object_get(s->j, "auto_map"))
        log_info("%s: auto_map ignored (code in a model folder is never run)", s->path);
    return 0;
}

static int read_eos(struct cfg *c, const struct src *s) {
    const json_t *v = json_object_get(s->j, "eos_token_id");
    if (!v || json_is_null(v))
        return 0;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    size_t max = sizeof c->eos / sizeof *c->eos;
    if (n > max)
        return err_set(s->err, E_FORMAT, "%s: eos_token_id has %zu ids, more than %zu", s->path, n,
                       max);
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
        json_int_t id = json_integer_value(e);
        if (!json_is_integer(e) || id < 0 || id >= c->vocab)
            return err_set(s->err, E_FORMAT, "%s: eos_token_id must be ids in 0..%d", s->path,
                           c->vocab - 1);
        c->eos[i] = (int)id;
    }
    for (size_t i = n; i < max; i++)
        c->eos[i] = 0;
    c->n_eos = (int)n;
    return 0;
}

int cfg_generation(struct cfg *c, const json_t *generation, const char *path, struct err *err) {
    return read_eos(c, &(struct src){generation, path, err});
}

static int read_flags(struct cfg *c, const struct family *f, const struct src *s) {
    const char *act = NULL;
    if (json_get_str(s->j, s->path, f->k_act, &act, s->err) ||
        (act && cfg_act(&c->act, act, s->path, s->err)) ||
        json_get_bool(s->j, s->path, "tie_word_embeddings", &c->tied, s->err))
        return -1;
    if (f->k_bias_attn) {
        if (json_get_bool(s->j, s->path, f->k_bias_attn, &c->bias_qkv, s->err))
            return -1;
        c->bias_o = c->bias_qkv;
    }
    if (f->k_bias_mlp && json_get_bool(s->j, s->path, f->k_bias_mlp, &c->bias_mlp, s->err))
        return -1;
    if (strcmp(f->arch, "gpt_neox") == 0 &&
        json_get_bool(s->j, s->path, "use_parallel_residual", &c->parallel, s->err))
        return -1;
    if (c->norm_plus_one) /* Gemma: the scale goes with it */
        c->embed_scale = sqrtf((float)c->dim);
    if (c->bias_head && c->tied)
        return err_set(s->err, E_FORMAT, "%s: tie_word_embeddings with a head bias not supported",
                       s->path);
    return 0;
}

int cfg_from_hf(struct cfg *c, const json_t *config, const char *path, struct err *err) {
    const struct src s = {config, path, err};
    const char *arch = NULL;
    struct cfg out;
    if (json_get_str(config, path, "model_type", &arch, err))
        return -1;
    if (!arch)
        return err_set(err, E_FORMAT, "%s: model_type is missing", path);
    if (cfg_family(&out, arch, path, err))
        return -1;
    const struct family *f = family_find(out.arch);
    if (refuse_variants(&s) || read_dims(&out, f, &s) || read_flags(&out, f, &s) ||
        read_rope(&out, f, &s) || read_window(&out, f, &s) ||
        get_int(&s, "bos_token_id", 0, out.vocab - 1, &out.bos) || read_eos(&out, &s) ||
        cfg_check(&out, path, err))
        return -1;
    *c = out;
    return 0;
}

static int check_range(const char *path, const char *field, int64_t v, int64_t lo, int64_t hi,
                       struct err *err) {
    if (v >= lo && v <= hi)
        return 0;
    return err_set(err, E_FORMAT, "%s: %s is %lld, not in %lld..%lld", path, field, (long long)v,
                   (long long)lo, (long long)hi);
}

static int check_real(const char *path, const char *field, double v, double lo, double hi,
                      struct err *err) {
    if (v >= lo && v <= hi) /* false for NaN */
        return 0;
    return err_set(err, E_FORMAT, "%s: %s is %g, not in %g..%g", path, field, v, lo, hi);
}

static int check_rope(const struct cfg *c, const char *path, struct err *err) {
    if (check_range(path, "rotary dimension", c->rope_dim, 0, c->head_dim, err))
        return -1;
    if (c->rope_dim == 0)
        return 0;
    if (c->rope_dim % 2)
        return err_set(err, E_FORMAT, "%s: rotary dimension %d is odd (head_dim %d)", path,
                       c->rope_dim, c->head_dim);
    if (check_real(path, "rope_theta", c->rope_theta, 1, 1e12, err))
        return -1;
    if (c->rope_scaling == ROPE_PLAIN)
        return 0;
    if (check_real(path, "rope scaling factor", c->rope_factor, 1, 1e6, err))
        return -1;
    if (c->rope_scaling == ROPE_LINEAR)
        return 0;
    if (check_real(path, "low_freq_factor", c->rope_low, 1e-6, 1e6, err) ||
        check_real(path, "high_freq_factor", c->rope_high, 1e-6, 1e6, err) ||
        check_range(path, "original_max_position_embeddings", c->rope_orig_ctx, 1, MAX_CTX, err))
        return -1;
    if (c->rope_high <= c->rope_low)
        return err_set(err, E_FORMAT, "%s: high_freq_factor %g is not above low_freq_factor %g",
                       path, c->rope_high, c->rope_low);
    return 0;
}

int cfg_check(const struct cfg *c, const char *path, struct err *err) {
    if (check_range(path, "vocabulary size", c->vocab, 1, MAX_VOCAB, err) ||
        check_range(path, "embedding width", c->dim, 1, MAX_DIM, err) ||
        check_range(path, "number of layers", c->n_layer, 1, MAX_LAYER, err) ||
        check_range(path, "number of heads", c->n_head, 1, MAX_HEAD, err) ||
        check_range(path, "number of key-value heads", c->n_kv_head, 1, c->n_head, err) ||
        check_range(path, "head_dim", c->head_dim, 1, MAX_HEAD_DIM, err) ||
        check_range(path, "feed-forward width", c->ffn, 1, MAX_FFN, err) ||
        check_range(path, "context length", c->max_ctx, 1, MAX_CTX, err) ||
        check_range(path, "sliding window", c->window, 0, MAX_CTX, err) ||
        check_range(path, "number of end-of-text ids", c->n_eos, 0, 8, err) ||
        check_range(path, "bos_token_id", c->bos, -1, c->vocab - 1, err) ||
        check_real(path, "norm epsilon", c->norm_eps, 0, 1, err) ||
        check_real(path, "embedding scale", c->embed_scale, 1e-6, 1e6, err))
        return -1;
    if (c->n_head % c->n_kv_head)
        return err_set(err, E_FORMAT,
                       "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d",
                       path, c->n_head, c->n_kv_head);
    for (int i = 0; i < c->n_eos; i++)
        if (check_range(path, "eos_token_id", c->eos[i], 0, c->vocab - 1, err))
            return -1;
    int64_t widest = c->vocab, heads = (int64_t)c->n_head * c->head_dim;
    if (heads > widest)
        widest = heads;
    if (2 * (int64_t)c->ffn > widest)
        widest = 2 * (int64_t)c->ffn;
    if (c->learned_pos && c->max_ctx > widest)
        widest = c->max_ctx;
    if (widest * c->dim > INT_MAX || 3 * heads * c->dim > INT_MAX)
        return err_set(
            err, E_FORMAT,
            "%s: a matrix of %lld rows and %d columns is larger than the limit of 2^31 weights",
            path, (long long)widest, c->dim);
    return check_rope(c, path, err);
}

static const char *act_spelling(enum act_kind act) {
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (acts[i].act == act)
            return acts[i].name;
    return NULL;
}

/* The least share with which read_rope recovers rope_dim in spite of rounding. */
static double rotary_share(const struct cfg *c) {
    double share = (double)c->rope_dim / c->head_dim;
    while ((int)(c->head_dim * share) < c->rope_dim)
        share = nextafter(share, 2);
    return share;
}

static void put_rope(json_t *j, const struct cfg *c, const struct family *f) {
    if (f->rotary == 0)
        return;
    json_object_set_new(j, f->k_theta, json_real(c->rope_theta));
    if (f->k_rotary)
        json_object_set_new(j, f->k_rotary, json_real(rotary_share(c)));
    if (c->rope_scaling == ROPE_LINEAR)
        json_object_set_new(
            j, "rope_scaling",
            json_pack("{s:s,s:f}", "rope_type", "linear", "factor", c->rope_factor));
    if (c->rope_scaling == ROPE_LLAMA3)
        json_object_set_new(j, "rope_scaling",
                            json_pack("{s:s,s:f,s:f,s:f,s:i}", "rope_type", "llama3", "factor",
                                      c->rope_factor, "low_freq_factor", c->rope_low,
                                      "high_freq_factor", c->rope_high,
                                      "original_max_position_embeddings", c->rope_orig_ctx));
}

static void put_tokens(json_t *j, const struct cfg *c) {
    json_object_set_new(j, "bos_token_id", c->bos < 0 ? json_null() : json_integer(c->bos));
    json_t *eos = c->n_eos == 0   ? json_null()
                  : c->n_eos == 1 ? json_integer(c->eos[0])
                                  : json_array();
    if (c->n_eos > 1)
        for (int i = 0; i < c->n_eos; i++)
            json_array_append_new(eos, json_integer(c->eos[i]));
    json_object_set_new(j, "eos_token_id", eos);
}

static void put_int(json_t *j, const char *key, int v) {
    if (key)
        json_object_set_new(j, key, json_integer(v));
}

json_t *cfg_to_hf(const struct cfg *c) {
    const struct family *f = family_find(c->arch);
    json_t *j = json_pack("{s:[s],s:s,s:s}", "architectures", f->class, "model_type", f->arch,
                          "torch_dtype", "float32");
    put_int(j, "vocab_size", c->vocab);
    put_int(j, f->k_dim, c->dim);
    put_int(j, f->k_layer, c->n_layer);
    put_int(j, f->k_head, c->n_head);
    put_int(j, f->k_kv, c->n_kv_head);
    put_int(j, f->k_head_dim, c->head_dim);
    put_int(j, f->k_ffn, c->ffn);
    put_int(j, f->k_ctx, c->max_ctx);
    json_object_set_new(j, f->k_eps, json_real(c->norm_eps));
    json_object_set_new(j, f->k_act, json_string(act_spelling(c->act)));
    json_object_set_new(j, "tie_word_embeddings", json_boolean(c->tied));
    if (f->k_bias_attn)
        json_object_set_new(j, f->k_bias_attn, json_boolean(c->bias_qkv));
    if (f->k_bias_mlp)
        json_object_set_new(j, f->k_bias_mlp, json_boolean(c->bias_mlp));
    if (strcmp(f->arch, "gpt_neox") == 0)
        json_object_set_new(j, "use_parallel_residual", json_boolean(c->parallel));
    if (f->window == WINDOW_SWITCH) {
        json_object_set_new(j, "use_sliding_window", json_boolean(c->window > 0));
        put_int(j, "max_window_layers", 0);
    }
    if (f->window != WINDOW_NONE)
        json_object_set_new(j, "sliding_window", c->window ? json_integer(c->window) : json_null());
    put_rope(j, c, f);
    put_tokens(j, c);
    return j;
}

static const struct shape {
    const char *name, *arch;
    int vocab, dim, n_layer, n_head, n_kv_head, head_dim, ffn, max_ctx;
    float theta, eps;
    bool tied;
    int bos, eos;
} shapes[] = {
    /* 168m: the Llama shape of the speed tables; a context of 4,096 so that long prompts can be
     * measured */
    {"168m", "llama", 32000, 1024, 12, 16, 4, 64, 2816, 4096, 10000, 1e-5f, true, 1, 2},
    /* Llama-3.2-1B with its rope scaling */
    {"llama-1b", "llama", 128256, 2048, 16, 32, 8, 64, 8192, 131072, 500000, 1e-5f, true, 128000,
     128001},
    {"gpt2", "gpt2", 50257, 768, 12, 12, 12, 64, 3072, 1024, 0, 1e-5f, true, 50256, 50256},
    {"qwen-0.5b", "qwen2", 151936, 896, 24, 14, 2, 64, 4864, 32768, 1e6f, 1e-6f, true, 151643,
     151643},
    {"tiny", "llama", 512, 64, 2, 4, 2, 16, 160, 256, 10000, 1e-5f, true, 1, 2},
};

int cfg_shape(struct cfg *c, const char *name, struct err *err) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        if (strcmp(s->name, name) != 0)
            continue;
        if (cfg_family(c, s->arch, name, err))
            return -1;
        c->vocab = s->vocab;
        c->dim = s->dim;
        c->n_layer = s->n_layer;
        c->n_head = s->n_head;
        c->n_kv_head = s->n_kv_head;
        c->head_dim = s->head_dim;
        c->ffn = s->ffn;
        c->max_ctx = s->max_ctx;
        c->rope_theta = s->theta;
        c->rope_dim = s->theta > 0 ? s->head_dim : 0;
        c->norm_eps = s->eps;
        c->tied = s->tied;
        c->bos = s->bos;
        c->eos[0] = s->eos;
        c->n_eos = 1;
        if (strcmp(name, "llama-1b") == 0) {
            c->rope_scaling = ROPE_LLAMA3;
            c->rope_factor = 32;
            c->rope_low = 1;
            c->rope_high = 4;
            c->rope_orig_ctx = 8192;
        }
        return cfg_check(c, name, err);
    }
    return err_set(err, E_USAGE, "shape '%.64s' unknown (168m, llama-1b, gpt2, qwen-0.5b, tiny)",
                   name);
}

int64_t cfg_params(const struct cfg *c) {
    int64_t dim = c->dim, q = (int64_t)c->n_head * c->head_dim,
            kv = (int64_t)c->n_kv_head * c->head_dim;
    int64_t ffn = c->ffn, mats = c->gated ? 3 : 2;
    int64_t norm = c->norm == NORM_LAYER ? 2 * dim : dim;
    int64_t layer = dim * (2 * q + 2 * kv) + mats * dim * ffn + norm * (c->shared_norm ? 1 : 2);
    layer += c->bias_qkv ? q + 2 * kv : 0;
    layer += c->bias_o ? dim : 0;
    layer += c->bias_mlp ? (mats - 1) * ffn + dim : 0;
    layer += c->qk_norm ? 2 * c->head_dim : 0;
    int64_t head = (c->tied ? 0 : c->vocab * dim) + (c->bias_head ? c->vocab : 0);
    int64_t pos = c->learned_pos ? c->max_ctx * dim : 0;
    return c->vocab * dim + pos + layer * c->n_layer + norm + head;
}
