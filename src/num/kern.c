/* kern.c - fills the kernel table: each level over the one below, up to what this processor has. */
#include "num/kern.h"

#include <cpuid.h>
#include <stdlib.h>
#include <strings.h>

struct kern kern;
static enum isa level_now;

static const char *const names[ISA_COUNT] = {"ref", "avx2", "avx512", "vnni",
                                             "bf16"}; /* ORDER: enum isa */
static void (*const fill[ISA_COUNT])(struct kern *) = {kern_ref, kern_avx2, kern_avx512, kern_vnni,
                                                       kern_bf16};

size_t i8x_bytes(int k) {
    int group = int8_group(k);
    return (size_t)k + (size_t)((k + group - 1) / group) * sizeof(struct i8x);
}

const char *isa_name(enum isa level) {
    return names[level];
}

enum isa kern_level(void) {
    return level_now;
}

/* clang's __builtin_cpu_supports does not know "f16c". */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* __builtin_cpu_supports also asks whether the operating system saves the registers. */
enum isa kern_best(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
        return ISA_REF;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return ISA_AVX2;
    if (!__builtin_cpu_supports("avx512vnni"))
        return ISA_AVX512;
    return __builtin_cpu_supports("avx512bf16") ? ISA_BF16 : ISA_VNNI;
}

int kern_force(enum isa level, struct err *err) {
    if (level > kern_best())
        return err_set(err, E_USAGE, "kernels '%s': this processor has only up to '%s'",
                       names[level], names[kern_best()]);
    for (int i = 0; i <= (int)level; i++)
        fill[i](&kern);
    level_now = level;
    return 0;
}

int kern_init(struct err *err) {
    const char *want = getenv("PUMICE_ISA");
    if (!want || !*want)
        return kern_force(kern_best(), err);
    for (int i = 0; i < ISA_COUNT; i++)
        if (strcasecmp(want, names[i]) == 0)
            return kern_force((enum isa)i, err);
    return err_set(err, E_USAGE, "PUMICE_ISA: unknown level '%s' (ref, avx2, avx512, vnni or bf16)",
                   want);
}
