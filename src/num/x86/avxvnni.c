/* avxvnni.c - level AVX-VNNI, over AVX2: quantised products of 8 rows by vpdpbusd, which adds four
 * products of unsigned weights and signed activations to a 32-bit lane (blocks.h, int8.h).  It is
 * for processors without AVX-512, whose levels do not build on it. */
#include "num/kern.h"
#include "num/x86/ymm.h"

#include "num/x86/vnni.h"

/* sum plus the products of each lane's four factors with those of x.  In words of its own, because
 * gcc keeps sums in memory around the intrinsic: half the speed. */
INLINE vi dot4(vi sum, vi factors, vi x) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(factors), "x"(x));
    return sum;
}

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

static double probe_i8(long iters) {
    vi acc[12], a = _mm256_set1_epi8(3);
    UNROLL for (int j = 0; j < 12; j++) acc[j] = a;
    for (long i = 0; i < iters; i++)
        UNROLL for (int j = 0; j < 12; j++) {
            acc[j] = dot4(acc[j], a, a);
            __asm__ volatile("" : "+x"(acc[j])); /* keeps the work, in a register */
        }
    return 12.0 * 2 * 32 * (double)iters;
}

void kern_avxvnni(struct kern *k) {
    blocks_fill(k);
    k->gemm_int8 = gemm_int8;
    k->probe_i8 = probe_i8;
}
