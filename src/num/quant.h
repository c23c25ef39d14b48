/* quant.h - rows of weights between types.  The block formats are those of GGUF; INT8 and INT4 are
 * in row form here (num/panel.h). */
#ifndef NUM_QUANT_H
#define NUM_QUANT_H

#include "num/mat.h"

/* n elements (a multiple of the block) from src to float. Exact: float holds every value of
 * every type. */
void row_to_f32(enum dtype t, const void *src, float *dst, int n);

/* n floats to type t, rounding to nearest even (F16, BF16), as GGUF's reference quantiser (Q8_0,
 * Q4_0), or with the scales of panel.c (INT8) and search.c (all others). */
void row_from_f32(enum dtype t, const float *src, void *dst, int n);

float f16_to_f32(unsigned short h);
unsigned short f16_from_f32(float f); /* nearest even; overflow gives infinity */

#endif
