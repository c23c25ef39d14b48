/* vnni.c - level AVX512_VNNI: quantised products of 16 rows by vpdpbusd, which adds four products
 * of unsigned weights and signed activations to a 32-bit lane (blocks.h, panel_vnni.c). */
#include "num/x86/zmm.h"

#include <string.h>

#include "num/kern.h"
#include "num/x86/panel.h"
#include "num/x86/vnni.h"

#define SPAN 12 /* with eight vectors of weights these sums fill the registers */

INLINE vi dot16(enum dtype t, vi sum, const vi *factors, const int8_t *q) {
    (void)t;
    UNROLL for (int i = 0; i < 4; i++) {
        int four;
        memcpy(&four, q + 4 * i, 4);
        sum = _mm512_dpbusd_epi32(sum, factors[i], vi_set(four));
    }
    return sum;
}

INLINE bool many(enum dtype t, const struct gemm *g) {
    return many_vnni(t, g);
}

#include "num/x86/blocks.h"

void kern_vnni(struct kern *k) {
    blocks_fill(k);
    panel_vnni(k);
    pack_vnni(k);
    k->probe_i8 = probe_dot4;
}
