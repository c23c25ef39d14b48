/* cfg.h - one transformer family: hyper-parameters and flags, validated once.
 * There is no per-architecture code path; a new architecture is a new row of flags in cfg.c. */
#ifndef MODEL_CFG_H
#define MODEL_CFG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"

enum norm_kind { NORM_RMS, NORM_LAYER };
enum act_kind { ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF, ACT_RELU };
enum rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 };

struct cfg {
    char arch[32]; /* "llama", "gpt2", "mistral", "qwen2", "phi", "gpt_neox", ... */
    int vocab, dim, n_layer, n_head, n_kv_head, head_dim, ffn;
    int max_ctx; /* positions the model was trained for */

    enum norm_kind norm;
    float norm_eps;
    bool norm_plus_one; /* HF files store the RMS weight as w - 1 (Gemma); model_open adds it */
    bool qk_norm;       /* RMS norm of each q and k head before rope (Qwen3) */

    enum act_kind act;
    bool gated;       /* down(act(gate x) * up x), else down(act(up x)) */
    bool parallel;    /* x + attn(norm1 x) + mlp(norm2 x) */
    bool shared_norm; /* parallel with norm2 = norm1 (Phi) */

    bool bias_qkv, bias_o, bias_mlp, bias_head; /* which linear layers have a bias */
    bool tied;         /* head = token embedding */
    float embed_scale; /* token embedding is multiplied by this (Gemma: sqrt(dim)); 1 = none */

    bool learned_pos; /* learned position embeddings (GPT-2) */
    int rope_dim;     /* rotated leading components of each head, half-split; 0 = no rope */
    float rope_theta;
    enum rope_scaling rope_scaling;
    float rope_factor, rope_low, rope_high; /* linear: factor; llama3: all three */
    int rope_orig_ctx;                      /* llama3 */
    int window; /* sliding window: a token sees the last `window` tokens; 0 = all */

    int bos, eos[8], n_eos; /* bos -1 = none */
};

/* Clears *c and sets the flags that the architecture fixes, and defaults for what a file may
 * leave out; sizes stay 0.  arch is a Hugging Face model_type ("phi", "gpt_neox") or a GGUF
 * general.architecture ("phi2", "gptneox"); c->arch becomes the former.  E_FORMAT lists the
 * supported ones. */
int cfg_family(struct cfg *c, const char *arch, const char *path, struct err *err);

/* general.architecture of a GGUF file of this family. */
const char *cfg_gguf_arch(const struct cfg *c);

/* ACT_* of an activation's name in config.json ("gelu_new", "silu", ...); E_FORMAT names it. */
int cfg_act(enum act_kind *act, const char *name, const char *path, struct err *err);

/* From the parsed config.json of a Hugging Face folder; path only names it in errors. */
int cfg_from_hf(struct cfg *c, const json_t *config, const char *path, struct err *err);

/* Ranges and relations that hold whatever the source (GGUF keys go through it too): E_FORMAT
 * names the field and the value.  Sizes are bounded so that products of two fit in an int. */
int cfg_check(const struct cfg *c, const char *path, struct err *err);

/* The end-of-text ids of generation_config.json replace those of config.json when it has any. */
int cfg_generation(struct cfg *c, const json_t *generation, const char *path, struct err *err);

/* config.json object that cfg_from_hf reads back to the same cfg.  The caller owns the
 * reference. */
json_t *cfg_to_hf(const struct cfg *c);

/* A named shape for benchmarks and tests: 168m, llama-1b, gpt2, qwen-0.5b, and tiny
 * (seconds-fast tests).  E_USAGE lists the names. */
int cfg_shape(struct cfg *c, const char *name, struct err *err);

int64_t cfg_params(const struct cfg *c); /* number of weights, tied head counted once */

#endif
