/* quant.c - see quant.h and block.h.  Plain scalar code: it defines what the blocks mean, and
 * what the kernels are tested against. */
#include "num/quant.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "num/block.h"
#include "num/panel.h"
#include "num/search.h"

static uint16_t get_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static float get_f16(const uint8_t *p) {
    return f16_to_f32(get_u16(p));
}

static float get_f32(const uint8_t *p) {
    float f;
    memcpy(&f, p, 4);
    return f;
}

static void put_f16(uint8_t *p, float f) {
    uint16_t h = f16_from_f32(f);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

float f16_to_f32(unsigned short h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, mag = h & 0x7fff;
    if (mag >= 0x7c00) /* infinity, or NaN, which becomes quiet as in the hardware's conversion */
        return float_of(sign | 0x7f800000 | (mag & 0x3ff) << 13 | (mag > 0x7c00 ? 0x400000 : 0));
    /* Exponent and mantissa moved into place are the value times 2^-112, denormals included. */
    return float_of(sign | bits_of(float_of(mag << 13) * 0x1p112f));
}

unsigned short f16_from_f32(float f) {
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000, mag = u & 0x7fffffff;
    if (mag > 0x7f800000)
        return (unsigned short)(sign | 0x7e00 | (mag >> 13 & 0x3ff));
    if (mag >= 0x477ff000) /* 65520 and more round to infinity */
        return (unsigned short)(sign | 0x7c00);
    if (mag < 0x38800000) { /* below 2^-14: adding 0.5 lets the FPU round to multiples of 2^-24 */
        uint32_t r = bits_of(float_of(mag) + 0.5f);
        return (unsigned short)(sign | (r - 0x3f000000));
    }
    uint32_t even = mag >> 13 & 1;
    return (unsigned short)(sign | (mag - 0x38000000 + 0xfff + even) >> 13);
}

static uint16_t bf16_from_f32(float f) {
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* -- reading blocks ---------------------------------------------------------------------------- */

/* 16 bytes of nibbles: the low ones are elements 0..15, the high ones 16..31. */
static void nibbles(const uint8_t *q, uint8_t *u) {
    for (int i = 0; i < 16; i++) {
        u[i] = q[i] & 15;
        u[i + 16] = q[i] >> 4;
    }
}

/* Fifth bits: bit i of the 32-bit word belongs to element i. */
static void fifth_bits(const uint8_t *h, uint8_t *u) {
    for (int i = 0; i < 32; i++)
        u[i] |= (uint8_t)((h[i / 8] >> (i % 8) & 1) << 4);
}

/* The j-th of eight 6-bit scales and minima, packed in 12 bytes. */
static void scale_min(const uint8_t *q, int j, int *scale, int *min) {
    if (j < 4) {
        *scale = q[j] & 63;
        *min = q[j + 4] & 63;
    } else {
        *scale = (q[j + 4] & 15) | q[j - 4] >> 6 << 4;
        *min = q[j + 4] >> 4 | q[j] >> 6 << 4;
    }
}

/* Q4_K and Q5_K: f16 d, f16 dmin, 12 bytes of scales, [32 bytes of fifth bits], 128 bytes of
 * nibbles. */
static void slice_k45(const uint8_t *p, int j, bool five, struct slice *s) {
    int scale, min;
    scale_min(p + 4, j, &scale, &min);
    s->d[0] = s->d[1] = get_f16(p) * (float)scale;
    s->m = -(get_f16(p + 2) * (float)min);
    s->has_min = true;
    const uint8_t *h = p + 16, *q = p + (five ? 48 : 16) + 32 * (j / 2);
    for (int i = 0; i < 32; i++) {
        s->u[i] = q[i] >> (j % 2 * 4) & 15;
        if (five)
            s->u[i] |= (uint8_t)((h[i] >> j & 1) << 4);
    }
}

/* Q6_K: 128 bytes of low nibbles, 64 bytes of high pairs of bits, 16 signed scales, f16 d. */
static void slice_k6(const uint8_t *p, int j, struct slice *s) {
    const uint8_t *q = p + 64 * (j / 4) + 32 * (j % 2), *h = p + 128 + 32 * (j / 4);
    float d = get_f16(p + 208);
    for (int i = 0; i < 32; i++)
        s->u[i] = (uint8_t)((q[i] >> (j / 2 % 2 * 4) & 15) | (h[i] >> (j % 4 * 2) & 3) << 4);
    for (int i = 0; i < 2; i++)
        s->d[i] = d * (float)(int8_t)p[192 + 2 * j + i];
    s->halves = true;
    s->off = 32;
}

void slice_read(enum dtype t, const void *row, int b, struct slice *s) {
    const struct dtype_info *ti = dtype_info(t);
    int per_block = ti->block / 32;
    const uint8_t *p = (const uint8_t *)row + (size_t)(b / per_block) * (size_t)ti->bytes;
    *s = (struct slice){.off = 0};
    if (t == DT_Q4_K || t == DT_Q5_K) {
        slice_k45(p, b % 8, t == DT_Q5_K, s);
        return;
    }
    if (t == DT_Q6_K) {
        slice_k6(p, b % 8, s);
        return;
    }
    s->d[0] = s->d[1] = get_f16(p);
    switch (t) {
    case DT_Q8_0:
        for (int i = 0; i < 32; i++)
            s->u[i] = p[2 + i] ^ 0x80; /* two's complement to excess 128 */
        s->off = 128;
        break;
    case DT_Q4_0:
    case DT_INT4:
        nibbles(p + 2, s->u);
        s->off = 8;
        break;
    case DT_Q4_1:
        nibbles(p + 4, s->u);
        s->m = get_f16(p + 2);
        s->has_min = true;
        break;
    case DT_Q5_0:
        nibbles(p + 6, s->u);
        fifth_bits(p + 2, s->u);
        s->off = 16;
        break;
    case DT_Q5_1:
        nibbles(p + 8, s->u);
        fifth_bits(p + 4, s->u);
        s->m = get_f16(p + 2);
        s->has_min = true;
        break;
    default:
        assert(!"a quantised type");
    }
}

void row_to_f32(enum dtype t, const void *src, float *dst, int n) {
    const uint8_t *p = src;
    switch (t) {
    case DT_F32:
        memcpy(dst, src, (size_t)n * 4);
        return;
    case DT_F16:
        for (int i = 0; i < n; i++)
            dst[i] = get_f16(p + 2 * (size_t)i);
        return;
    case DT_BF16:
        for (int i = 0; i < n; i++)
            dst[i] = float_of((uint32_t)get_u16(p + 2 * (size_t)i) << 16);
        return;
    case DT_INT8:
        for (int i = 0, group = int8_group(n); i < n; i += group, p += 4 + group)
            for (int k = 0; k < group && i + k < n; k++)
                dst[i + k] = get_f32(p) * (float)(int8_t)p[4 + k];
        return;
    default:
        break;
    }
    for (int b = 0; b < n / 32; b++) {
        struct slice s;
        slice_read(t, src, b, &s);
        for (int i = 0; i < 32; i++) {
            float v = s.d[i / 16] * (float)(s.u[i] - s.off);
            dst[32 * b + i] = s.has_min ? v + s.m : v;
        }
    }
}

/* -- writing blocks ---------------------------------------------------------------------------- */

static void write_q8_0(const float *x, uint8_t *p) {
    float d = fabsf(search_extreme(x, 32)) / 127, id = search_inverse(d);
    put_f16(p, d);
    for (int i = 0; i < 32; i++)
        p[2 + i] = (uint8_t)(int8_t)(id != 0 ? roundf(x[i] * id) : 0);
}

static void write_q4_0(const float *x, uint8_t *p) {
    float d = search_extreme(x, 32) / -8, id = search_inverse(d);
    uint8_t u[32];
    put_f16(p, d);
    for (int i = 0; i < 32; i++) {
        int q = id != 0 ? (int)(x[i] * id + 8.5f) : 8;
        u[i] = (uint8_t)(q < 15 ? q : 15);
    }
    for (int i = 0; i < 16; i++)
        p[2 + i] = (uint8_t)(u[i] | u[i + 16] << 4);
}

void row_from_f32(enum dtype t, const float *src, void *dst, int n) {
    uint8_t *p = dst;
    switch (t) {
    case DT_F32:
        memcpy(dst, src, (size_t)n * 4);
        break;
    case DT_F16:
        for (int i = 0; i < n; i++)
            put_f16(p + 2 * (size_t)i, src[i]);
        break;
    case DT_BF16:
        for (int i = 0; i < n; i++) {
            uint16_t h = bf16_from_f32(src[i]);
            memcpy(p + 2 * (size_t)i, &h, 2);
        }
        break;
    case DT_INT8:
        int8_write(src, dst, n);
        break;
    case DT_INT4:
        int4_write(src, dst, n);
        break;
    case DT_Q8_0:
        for (int b = 0; b < n / 32; b++)
            write_q8_0(src + 32 * b, p + 34 * (size_t)b);
        break;
    case DT_Q4_0:
        for (int b = 0; b < n / 32; b++)
            write_q4_0(src + 32 * b, p + 18 * (size_t)b);
        break;
    case DT_Q4_1:
        q41_write(src, dst, n);
        break;
    case DT_Q5_0:
        q50_write(src, dst, n);
        break;
    case DT_Q5_1:
        q51_write(src, dst, n);
        break;
    case DT_Q4_K:
        q4k_write(src, dst, n);
        break;
    case DT_Q5_K:
        q5k_write(src, dst, n);
        break;
    case DT_Q6_K:
        q6k_write(src, dst, n);
        break;
    default:
        assert(!"a type");
    }
}
