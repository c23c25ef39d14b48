/* block.h - one reading of GGUF's quantised blocks, for quant.c and ref.c.
 *
 * Every type is seen as slices of 32 elements: value[i] = d[i / 16] * (u[i] - off) + m.  A type
 * with 256-element blocks has eight slices in each. */
#ifndef NUM_BLOCK_H
#define NUM_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "num/mat.h"

struct slice {
    uint8_t u[32];
    int off;
    float d[2];  /* scales of the two halves                                    */
    bool halves; /* they differ (Q6_K), else d[0] == d[1]                       */
    float m;
    bool has_min; /* m counts (else it is 0, and must not turn -0 into +0)       */
};

/* Slice b (elements 32 b .. 32 b + 31) of a row of type t. */
void slice_read(enum dtype t, const void *row, int b, struct slice *s);

#endif
