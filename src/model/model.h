/* model.h - a loaded model: configuration, weights in the type that the kernels read, tokenizer. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "base/pool.h"
#include "model/cfg.h"
#include "model/tensors.h"
#include "num/mat.h"
#include "tok/chat.h"
#include "tok/tok.h"

/* One block.  Vectors are float; a NULL vector or a mat with NULL data is absent. */
struct layer {
    struct mat wq, wk, wv;         /* (n_head*head_dim | n_kv_head*head_dim, dim)     */
    struct mat wo;                 /* (dim, n_head*head_dim)                          */
    struct mat gate, up;           /* (ffn, dim); gate only if cfg.gated              */
    struct mat down;               /* (dim, ffn)                                      */
    const float *bq, *bk, *bv, *bo, *bgate, *bup, *bdown;
    const float *norm1, *norm1_b;  /* (dim) before attention                          */
    const float *norm2, *norm2_b;  /* (dim) before the MLP; NULL if cfg.shared_norm   */
    const float *q_norm, *k_norm;  /* (head_dim) if cfg.qk_norm                       */
};

struct model {
    struct cfg cfg;
    struct mat embed;              /* (vocab, dim)                                    */
    struct mat pos;                /* (max_ctx, dim) float if cfg.learned_pos         */
    struct mat head;               /* (vocab, dim); equals embed if cfg.tied          */
    const float *head_bias;        /* (vocab) or NULL (Phi)                           */
    const float *norm, *norm_b;    /* (dim) final                                     */
    struct layer *layer;           /* cfg.n_layer                                     */
    struct tok *tok;               /* NULL if the source has none                     */
    enum chat_format chat;         /* recognised from the tokenizer's template        */
    size_t weight_bytes;           /* all mats and vectors, tied head once            */
    char *path;
    /* generation_config.json or GGUF defaults; temp < 0 = not given */
    float temp, top_p;
    int top_k;
    struct model_store *store;     /* owns every array above                          */
};

struct model_opts {
    enum dtype dtype;  /* what matrices are converted to; DT_NONE = "native": as in the file */
    struct pool *pool; /* conversion runs on it; borrowed for the call; NULL = this thread */
    bool no_tokenizer; /* leave tok NULL (bench on random shapes) */
};

/* A folder or a .gguf file.  Errors name file, tensor or key, expected and found; all shape
 * mismatches are collected into the one message.  Weights are copied into huge pages in the
 * kernels' layout, so the file may change afterwards. */
struct model *model_open(const char *path, const struct model_opts *o, struct err *err);

/* A model of cfg's shape with random weights (normal, deviation 0.02; norms 1), same bits for
 * the same seed. */
struct model *model_random(const struct cfg *c, uint64_t seed, const struct model_opts *o,
                           struct err *err);
/* The same, all weights 0, for a caller that fills them. */
struct model *model_blank(const struct cfg *c, const struct model_opts *o, struct err *err);

/* Writes such a random model as a Hugging Face folder: config.json, generation_config.json and
 * model.safetensors (F32, F16 or BF16; vectors in F32) in dir, which is created.  Opened again it
 * equals model_random bit for bit. */
int model_init(const char *dir, const struct cfg *c, uint64_t seed, enum dtype type,
               struct err *err);

void model_close(struct model *m);

/* What `show` prints without loading weights: configuration, tensor table, tokenizer. */
struct model_info {
    struct cfg cfg;
    struct tok *tok;               /* owned; NULL if none         */
    int64_t params;                /* counted in the tensor table */
    size_t bytes;
    int n_tensor;
    size_t type_bytes[DT_COUNT];   /* bytes by type               */
};
int model_peek(const char *path, struct model_info *info, struct err *err);
void model_info_free(struct model_info *info);

#endif
