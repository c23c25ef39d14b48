/* avx512.c - kernels of level avx512. */
#include "num/kern.h"

void kern_avx512(struct kern *k) {
    (void)k;
}
