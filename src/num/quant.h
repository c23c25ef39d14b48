/* quant.h - rows of weights between types.  The block formats are those of GGUF; any source type
 * can be read, and F32, F16, BF16, Q8_0 and Q4_0 can be written. */
#ifndef NUM_QUANT_H
#define NUM_QUANT_H

#include "num/mat.h"

/* n elements (a multiple of the block) from src to float. Exact: float holds every value of
 * every type. */
void row_to_f32(enum dtype t, const void *src, float *dst, int n);

/* n floats to type t, rounding to nearest even (F16, BF16) or as GGUF's reference quantiser
 * (Q8_0, Q4_0). */
void row_from_f32(enum dtype t, const float *src, void *dst, int n);
bool dtype_writable(enum dtype t); /* row_from_f32 accepts it */

float f16_to_f32(unsigned short h);
unsigned short f16_from_f32(float f); /* nearest even; overflow gives infinity */

#endif
