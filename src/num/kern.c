/* kern.c - fills the kernel table: each level over those below, up to what this processor has. */
#include "num/kern.h"

#include <cpuid.h>
#include <stdlib.h>
#include <strings.h>

struct kern kern;
static enum isa level_now;

static const struct {
    const char *name;
    void (*fill)(struct kern *);
} levels[ISA_COUNT] = {
    /* ORDER: enum isa */
    {"ref", kern_ref},       {"avx2", kern_avx2}, {"avxvnni", kern_avxvnni},
    {"avx512", kern_avx512}, {"vnni", kern_vnni}, {"bf16", kern_bf16},
};

size_t i8x_bytes(int k) {
    int group = int8_group(k);
    return (size_t)k + (size_t)((k + group - 1) / group) * sizeof(struct i8x);
}

const char *isa_name(enum isa level) {
    return levels[level].name;
}

enum isa kern_level(void) {
    return level_now;
}

/* What __builtin_cpu_supports of some compiler does not know.  Both instructions need the registers
 * of AVX2 only, of which it asks whether the operating system saves them. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avxvnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}

bool kern_has(enum isa level) {
    __builtin_cpu_init();
    switch (level) {
    case ISA_REF:
        return true;
    case ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    case ISA_AVXVNNI:
        return kern_has(ISA_AVX2) && has_avxvnni();
    case ISA_AVX512:
        return kern_has(ISA_AVX2) && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    case ISA_VNNI:
        return kern_has(ISA_AVX512) && __builtin_cpu_supports("avx512vnni");
    case ISA_BF16:
        return kern_has(ISA_VNNI) && __builtin_cpu_supports("avx512bf16");
    default:
        return false;
    }
}

enum isa kern_best(void) {
    enum isa level = ISA_COUNT - 1;
    while (!kern_has(level))
        level--;
    return level;
}

int kern_force(enum isa level, struct err *err) {
    if (!kern_has(level))
        return err_set(err, E_USAGE, "kernels '%s': this processor lacks them; its best are '%s'",
                       isa_name(level), isa_name(kern_best()));
    for (int i = 0; i <= (int)level; i++)
        if (i != ISA_AVXVNNI || level == ISA_AVXVNNI)
            levels[i].fill(&kern);
    level_now = level;
    return 0;
}

int kern_init(struct err *err) {
    const char *want = getenv("PUMICE_ISA");
    if (!want || !*want)
        return kern_force(kern_best(), err);
    for (int i = 0; i < ISA_COUNT; i++)
        if (strcasecmp(want, levels[i].name) == 0)
            return kern_force((enum isa)i, err);
    return err_set(err, E_USAGE,
                   "PUMICE_ISA: unknown level '%s' (ref, avx2, avxvnni, avx512, vnni or bf16)",
                   want);
}
