/* gstack.h - Gstack: grow a model in depth by stacking copies of its whole block sequence (Du et
 * al., "Stacking Your Transformers", NeurIPS 2024).
 *
 * A leaf: it maps layer numbers to layer numbers and knows no weights.  train/grow.c applies it to
 * a model's folder. */
#ifndef METHOD_GSTACK_H
#define METHOD_GSTACK_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

#define GSTACK_MAX_LAYERS 512 /* of the grown model; cfg.c's bound */

/* Appends the source layer of each target layer: 0..l-1, g times.  E_USAGE if g < 1 or g*l is too
 * many. */
int gstack_stack(int l, int g, struct ids *map, struct err *err);

/* The same from a list such as "0-5,0-5,2,1" of a base of l layers: any order, any subset, repeats
 * allowed (the paper's ablations).  E_USAGE names the item that is wrong. */
int gstack_list(const char *text, int l, struct ids *map, struct err *err);

/* Whether target layer i repeats a source that an earlier target layer already has. */
bool gstack_is_repeat(const struct ids *map, size_t i);

/* Connection rate: the share of neighbouring target layers that were neighbours in the base; 1 for
 * a map of fewer than two layers.  The paper's best operators keep it high. */
double gstack_connection_rate(const struct ids *map);

#endif
