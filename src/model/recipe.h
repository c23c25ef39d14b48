/* recipe.h - private to model/: which type each tensor of a written GGUF file gets. */
#ifndef MODEL_RECIPE_H
#define MODEL_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "num/mat.h"

struct recipe {
    const char *name;   /* "q8_0", "q4_k_m", ... */
    enum dtype type;    /* of most matrices */
    enum dtype head;    /* of the matrix that makes the logits */
    bool more;          /* attn_v and ffn_down of half the layers are Q6_K */
    uint32_t file_type; /* GGUF's general.file_type */
};
const struct recipe *recipe_find(const char *name); /* or NULL; case does not matter */
extern const char recipe_names[];                   /* all of them, for messages */

/* What a matrix of `cols` columns becomes: t, or where rows do not fill its blocks the type of 32
 * columns that is next in size, or BF16. */
enum dtype recipe_fit(enum dtype t, int64_t cols);

struct recipe_tensor {
    const char *name; /* GGUF's */
    int rank;
    int64_t cols;
    bool tied; /* the model has no output.weight */
    int n_layer;
};
enum dtype recipe_type(const struct recipe *r, const struct recipe_tensor *t);

#endif
