/* rope.h - the angles of rotary position embeddings, with the scalings of long contexts. */
#ifndef MODEL_ROPE_H
#define MODEL_ROPE_H

#include "model/cfg.h"

/* Fills cos and sin (n_ctx, rope_dim/2) for positions 0..n_ctx-1. */
void rope_table(const struct cfg *c, int n_ctx, float *cos, float *sin);

#endif
