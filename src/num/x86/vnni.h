/* vnni.h - vpdpbusd, and weights as its unsigned factors.  Included after ymm.h or zmm.h.
 * exception: compiles only there. */
#ifndef NUM_X86_VNNI_H
#define NUM_X86_VNNI_H

#include "num/mat.h"
#include "num/x86/inline.h"

/* Two's complement to 128 in excess. */
INLINE vi eight_bits(vi v) {
    return vi_xor(v, vi_set((int)0x80808080));
}

/* By how much factors exceed the weights' integers. */
INLINE int excess(enum dtype t) {
    switch (t) {
    case DT_Q8_0:
    case DT_INT8:
        return 128;
    case DT_Q4_0:
        return 8;
    case DT_Q5_0:
        return 16;
    case DT_Q6_K:
        return 32;
    default:
        return 0;
    }
}

#ifdef __AVX512VNNI__
#define VPDPBUSD "vpdpbusd"
#else
#define VPDPBUSD "%{vex%} vpdpbusd"
#endif

/* sum plus the products of each lane's four factors with those of x.  In words of its own, because
 * gcc copies sums, or keeps them in memory, around the intrinsic: up to half the speed. */
INLINE vi dot4(vi sum, vi factors, vi x) {
    __asm__(VPDPBUSD " %2, %1, %0" : "+v"(sum) : "v"(factors), "v"(x));
    return sum;
}

/* probe_i8 of kern.def. */
INLINE double probe_dot4(long iters) {
    enum { SUMS = W == 16 ? 24 : 12 }; /* of 32 or 16 registers */
    vi acc[SUMS], a = vi_set(0x03030303);
    UNROLL for (int j = 0; j < SUMS; j++) acc[j] = a;
    for (long i = 0; i < iters; i++)
        UNROLL for (int j = 0; j < SUMS; j++) {
            acc[j] = dot4(acc[j], a, a);
            __asm__ volatile("" : "+v"(acc[j])); /* keeps the work, in a register */
        }
    return SUMS * 2.0 * 4 * W * (double)iters;
}

#endif
