/* avx512.c - level AVX-512 F, BW, DQ, VL: floats in vectors of 16 (lanes.h).  Quantised products
 * stay with AVX2: without VNNI wider vectors gain little. */
#include "num/x86/zmm.h"

#include "num/x86/attend.h"
#include "num/x86/grad.h"

static double probe_f32(long iters) {
    vf acc[24], a = v_set(0.5f), b = v_set(1);
    UNROLL for (int j = 0; j < 24; j++) acc[j] = b;
    for (long i = 0; i < iters; i++)
        UNROLL for (int j = 0; j < 24; j++) {
            acc[j] = v_fma(acc[j], a, b);
            __asm__ volatile("" : "+v"(acc[j])); /* keeps the work, in a register */
        }
    return 24.0 * 2 * W * (double)iters;
}

static uint64_t probe_read(const void *p, size_t n) {
    const char *c = p;
    __m512i s = _mm512_setzero_si512();
    for (size_t i = 0; i + 64 <= n; i += 64) {
        __builtin_prefetch((const void *)((uintptr_t)c + i + 4096), 0, 2);
        s = _mm512_add_epi64(s, _mm512_loadu_si512(c + i));
    }
    uint64_t v[8], sum = 0;
    _mm512_storeu_si512(v, s);
    for (int j = 0; j < 8; j++)
        sum += v[j];
    return sum;
}

void kern_avx512(struct kern *k) {
    lanes_fill(k);
    attend_fill(k);
    grad_fill(k);
    k->probe_f32 = probe_f32;
    k->probe_read = probe_read;
}
