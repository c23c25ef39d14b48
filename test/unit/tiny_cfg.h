/* tiny_cfg.h - the smallest model that the tests of training turn into any other. */
#ifndef TEST_UNIT_TINY_CFG_H
#define TEST_UNIT_TINY_CFG_H

#include "model/cfg.h"

/* A small Llama whose sizes are multiples of nothing in particular. */
static struct cfg tiny_cfg(void) {
    struct cfg c = {.arch = "llama",
                    .vocab = 37,
                    .dim = 24,
                    .n_layer = 2,
                    .n_head = 4,
                    .n_kv_head = 2,
                    .head_dim = 6,
                    .ffn = 20,
                    .max_ctx = 128,
                    .norm = NORM_RMS,
                    .norm_eps = 1e-5f,
                    .act = ACT_SILU,
                    .gated = true,
                    .embed_scale = 1,
                    .rope_dim = 6,
                    .rope_theta = 100,
                    .rope_factor = 1,
                    .bos = -1};
    return c;
}

#endif
