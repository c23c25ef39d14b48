/* avx2.c - kernels of level avx2. */
#include "num/kern.h"

void kern_avx2(struct kern *k) {
    (void)k;
}
