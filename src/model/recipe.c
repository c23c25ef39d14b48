/* recipe.c - see recipe.h; docs/formats.md has the rules in words. */
#include "model/recipe.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct recipe recipes[] = {
    {"f32", DT_F32, DT_F32, false, 0},     {"f16", DT_F16, DT_F16, false, 1},
    {"bf16", DT_BF16, DT_BF16, false, 32}, {"q8_0", DT_Q8_0, DT_Q8_0, false, 7},
    {"q4_0", DT_Q4_0, DT_Q8_0, false, 2},  {"q4_1", DT_Q4_1, DT_Q8_0, false, 3},
    {"q5_0", DT_Q5_0, DT_Q8_0, false, 8},  {"q5_1", DT_Q5_1, DT_Q8_0, false, 9},
    {"q4_k", DT_Q4_K, DT_Q4_K, false, 14}, {"q4_k_m", DT_Q4_K, DT_Q6_K, true, 15},
    {"q5_k", DT_Q5_K, DT_Q5_K, false, 16}, {"q5_k_m", DT_Q5_K, DT_Q6_K, true, 17},
    {"q6_k", DT_Q6_K, DT_Q6_K, false, 18},
};
const char recipe_names[] =
    "f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q4_k_m, q5_k, q5_k_m, q6_k";

const struct recipe *recipe_find(const char *name) {
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (strcasecmp(recipes[i].name, name) == 0)
            return &recipes[i];
    return NULL;
}

enum dtype recipe_fit(enum dtype t, int64_t cols) {
    if (cols % dtype_info(t)->block == 0)
        return t;
    enum dtype next = t == DT_Q4_K ? DT_Q5_0 : t == DT_Q5_K ? DT_Q5_1 : t == DT_Q6_K ? DT_Q8_0 : t;
    return cols % dtype_info(next)->block == 0 ? next : DT_BF16;
}

/* Errors of the first and the last layers weigh most; every third of those between evens out the
 * size. */
static bool has_more(int layer, int n) {
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

enum dtype recipe_type(const struct recipe *r, const struct recipe_tensor *t) {
    int layer = 0, at = 0;
    if (t->rank < 2 || strcmp(t->name, "position_embd.weight") == 0)
        return DT_F32;
    if (strcmp(t->name, t->tied ? "token_embd.weight" : "output.weight") == 0)
        return recipe_fit(r->head, t->cols);
    if (!r->more || sscanf(t->name, "blk.%9d.%n", &layer, &at) != 1 || at == 0)
        return recipe_fit(r->type, t->cols);
    const char *role = t->name + at;
    bool sensitive = strcmp(role, "attn_v.weight") == 0 || strcmp(role, "attn_qkv.weight") == 0 ||
                     strcmp(role, "ffn_down.weight") == 0;
    return recipe_fit(sensitive && has_more(layer, t->n_layer) ? DT_Q6_K : r->type, t->cols);
}
