/* grow.h - a deeper model from a trained one: Gstack applied to a Hugging Face folder. */
#ifndef TRAIN_GROW_H
#define TRAIN_GROW_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct grow_opts {
    int factor;         /* repeat the whole block sequence so often; 0 = use layers */
    const char *layers; /* or the source layer of each target layer, such as "0-5,0-5" */
    bool zero_init;     /* repeated blocks begin as the identity, their attention and MLP outputs
                         * zeroed: the function-preserving competitor */
    bool moments;       /* base is a checkpoint of train: its optimizer.safetensors, block by block,
                         * and the count of updates in trainer.json, for "base_moments" of a run */
};

struct grow_report {
    int from, to;                /* layers */
    size_t from_bytes, to_bytes; /* of tensors */
    double connection_rate;
};

/* Writes out/ (created; must not exist or be empty): config.json with the new depth,
 * model.safetensors with every tensor copied byte for byte in its own type, the tokenizer's files,
 * and gstack.json, the history of growth.  The embedding, final norm and head are copied once.
 * Nothing is rescaled and no noise added. */
int grow_dir(const char *base, const struct grow_opts *o, const char *out, struct grow_report *r,
             struct err *err);

/* -- for growth in the middle of a run -- */

/* Where the layer number stands in a tensor's name; false if the tensor belongs to no layer. */
bool grow_layer(const char *name, int *layer, size_t *at, size_t *len);
/* Whether a block adds to the residual stream through it: zeroed, the block is the identity. */
bool grow_is_output(const char *name);
/* One growth as gstack.json has it: from `from` layers to the sources in map. */
json_t *grow_entry(int from, const struct ids *map, bool zero_init);

#endif
