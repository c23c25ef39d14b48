/* vnni.h - weights as the unsigned factors of vpdpbusd.  Included after ymm.h or zmm.h.
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

#endif
