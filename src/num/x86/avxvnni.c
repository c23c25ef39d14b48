/* avxvnni.c - level AVX-VNNI, over AVX2: quantised products of 8 rows by vpdpbusd, which adds four
 * products of unsigned weights and signed activations to a 32-bit lane (blocks.h, int8.h).  It is
 * for processors without AVX-512, whose levels do not build on it. */
#include "num/kern.h"
#include "num/x86/ymm.h"

#include "num/x86/vnni.h"

/* -- blocks ------------------------------------------------------------------------------------ */

#define SPAN 8 /* more than fit: sums wait in the first cache while weights are opened once */

INLINE vi dot16(enum dtype t, vi sum, const vi *factors, const int8_t *q) {
    (void)t;
    UNROLL for (int i = 0; i < 4; i++) sum = dot4(sum, factors[i], vi_words(q + 4 * i));
    return sum;
}

INLINE bool many(enum dtype t, const struct gemm *g) {
    (void)t;
    (void)g;
    return false;
}

#include "num/x86/blocks.h"

/* -- INT8 -------------------------------------------------------------------------------------- */

#define TOKENS 6 /* twelve sums, two vectors of weights and one of activations */

INLINE int begin(const struct i8x *x) {
    return -excess(DT_INT8) * x->sum;
}

INLINE vi factors_of(vi w) {
    return eight_bits(w);
}

INLINE vi add4(vi sum, vi w, vi factors, vi x) {
    (void)w;
    return dot4(sum, factors, x);
}

#include "num/x86/int8.h"

/* -- the level --------------------------------------------------------------------------------- */

void kern_avxvnni(struct kern *k) {
    blocks_fill(k);
    k->gemm_int8 = gemm_int8;
    k->probe_i8 = probe_dot4;
}
