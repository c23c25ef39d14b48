/* dropout.c - see dropout.h.
 * 32 random bits, of a mixer with two multiplications in which the key enters twice, serve two
 * elements of a block: the loops have no memory and become vector code of any width, with the same
 * bits. */
#include "train/dropout.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 256, HALF = BLOCK / 2 };

/* The finaliser of splitmix64 (Steele, Lea and Flood, 2014). */
static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct dropout dropout_at(float p, uint64_t draw, int layer, enum dropout_site site) {
    uint64_t place = ((uint64_t)(unsigned)layer << 2 | site) + 1;
    uint64_t key = mix64(mix64(draw) + place * 0x9e3779b97f4a7c15u);
    int32_t below = (int32_t)lrint((double)p * 65536); /* and the scale that fits it */
    return (struct dropout){.key = {(uint32_t)key, (uint32_t)(key >> 32)},
                            .below = below,
                            .scale = (float)(65536 / (65536.0 - below))};
}

static inline uint32_t bits(const struct dropout *d, uint32_t i) {
    uint32_t x = i ^ d->key[0];
    x = ((x ^ (x >> 16)) * 0x21f0aaadu) ^ d->key[1];
    x = (x ^ (x >> 15)) * 0x735a2d97u;
    return x ^ (x >> 15);
}

static inline float factor(const struct dropout *d, uint32_t sixteen) {
    return (int32_t)sixteen >= d->below ? d->scale : 0;
}

/* Of elements from .. to - 1 of one half of the block whose bits start at `first`. */
static inline void half_factors(const struct dropout *d, float *f, uint32_t first, int from, int to,
                                int shift) {
    for (int k = from; k < to; k++)
        f[k - from] = factor(d, bits(d, first + (uint32_t)k) >> shift & 0xffff);
}

/* out = z masked, plus x if there is one: elements skip .. skip + len - 1 of a block. */
static inline void part(const struct dropout *d, float *out, const float *x, const float *z,
                        uint32_t first, int skip, int len) {
    float f[BLOCK];
    int end = skip + len, low = end < HALF ? end : HALF, high = skip > HALF ? skip : HALF;
    if (skip < low)
        half_factors(d, f, first, skip, low, 0);
    if (end > HALF)
        half_factors(d, f + (high - skip), first, high - HALF, end - HALF, 16);
    for (int k = 0; k < len; k++)
        out[k] = x ? x[k] + z[k] * f[k] : z[k] * f[k];
}

/* The same of a whole block. */
static inline void whole(const struct dropout *d, float *out, const float *x, const float *z,
                         uint32_t first) {
    for (int k = 0; k < HALF; k++) {
        uint32_t h = bits(d, first + (uint32_t)k);
        float low = z[k] * factor(d, h & 0xffff), high = z[HALF + k] * factor(d, h >> 16);
        out[k] = x ? x[k] + low : low;
        out[HALF + k] = x ? x[HALF + k] + high : high;
    }
}

/* y = z masked, plus x if there is one. */
static inline void apply(const struct dropout *d, float *y, const float *x, const float *z,
                         size_t at, int n) {
    const struct dropout c = *d; /* a copy that no array aliases, as is out */
    float out[BLOCK];
    for (int len; n > 0; at += (size_t)len, n -= len, y += len, z += len) {
        int skip = (int)(at % BLOCK);
        uint32_t first = (uint32_t)(at / BLOCK * HALF);
        len = BLOCK - skip < n ? BLOCK - skip : n;
        if (len == BLOCK)
            whole(&c, out, x, z, first);
        else
            part(&c, out, x, z, first, skip, len);
        memcpy(y, out, (size_t)len * sizeof *y);
        x = x ? x + len : NULL;
    }
}

void dropout_mask(const struct dropout *d, float *y, const float *x, size_t at, int n) {
    apply(d, y, NULL, x, at, n);
}

void dropout_add(const struct dropout *d, float *y, const float *x, const float *z, size_t at,
                 int n) {
    apply(d, y, x, z, at, n);
}
