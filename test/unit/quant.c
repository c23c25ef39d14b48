/* quant.c - what the bits of each type mean, and how floats are rounded into them. */
#include "num/quant.h"

#include <math.h>

#include "base/rng.h"
#include "testing.h"

static uint16_t half(float f) {
    return f16_from_f32(f);
}

static void put(unsigned char *p, float f) {
    uint16_t h = half(f);
    memcpy(p, &h, 2);
}

static void dtype_names_parse_back_and_rows_have_their_size(void **state) {
    (void)state;
    for (int t = 0; t < DT_COUNT; t++) {
        assert_int_equal(dtype_parse(dtype_info((enum dtype)t)->name), t);
        assert_true(
            dtype_row_bytes((enum dtype)t, 512) ==
            (size_t)(512 / dtype_info((enum dtype)t)->block * dtype_info((enum dtype)t)->bytes) +
                (t == DT_INT8 ? 8 * sizeof(float) : 0)); /* eight groups of 64 */
    }
    assert_int_equal(dtype_parse("Q4_K"), DT_Q4_K);
    assert_int_equal(dtype_parse("BF16"), DT_BF16);
    assert_int_equal(dtype_parse("q9_0"), DT_NONE);
    assert_int_equal(dtype_row_bytes(DT_Q6_K, 256), 210);
}

/* -- half precision ---------------------------------------------------------------------------- */

static double half_value(unsigned h) {
    int exp = (int)(h >> 10 & 31), frac = (int)(h & 1023);
    double mag = exp ? ldexp(1024 + frac, exp - 25) : ldexp(frac, -24);
    return h & 0x8000 ? -mag : mag;
}

static void every_half_reads_as_its_value_and_writes_back(void **state) {
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        float f = f16_to_f32((unsigned short)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(isnan(f));
            assert_int_equal(half(f), h | 0x200); /* quiet, sign and payload kept */
            continue;
        }
        if ((h & 0x7fff) == 0x7c00)
            assert_true(isinf(f));
        else
            assert_true((double)f == half_value(h));
        assert_int_equal(signbit(f) != 0, h >> 15);
        assert_int_equal(half(f), h);
    }
}

static void halves_round_to_nearest_even(void **state) {
    (void)state;
    for (unsigned h = 0; h < 0x7bff; h++) { /* between h and h + 1 */
        float lo = (float)half_value(h), hi = (float)half_value(h + 1), mid = (lo + hi) / 2;
        assert_int_equal(half(mid), h + (h & 1));
        assert_int_equal(half(nextafterf(mid, 0)), h);
        assert_int_equal(half(nextafterf(mid, 1e9f)), h + 1);
        assert_int_equal(half(-mid), 0x8000 | (h + (h & 1)));
    }
    assert_int_equal(half(65519.996f), 0x7bff);
    assert_int_equal(half(65520), 0x7c00);
    assert_int_equal(half(3e38f), 0x7c00);
    assert_int_equal(half(1e-30f), 0);
}

static uint16_t bf16(float f) {
    uint16_t h;
    row_from_f32(DT_BF16, &f, &h, 1);
    return h;
}

static void bfloats_round_to_nearest_even_and_keep_nan(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        uint32_t bits[3] = {h << 16 | 0x7fff, h << 16 | 0x8000, h << 16 | 0x8001};
        float f[3], back;
        memcpy(f, bits, sizeof f);
        assert_int_equal(bf16(f[0]), h);
        assert_int_equal(bf16(f[1]), h + (h & 1));
        assert_int_equal(bf16(f[2]), h + 1);
        uint16_t s = (uint16_t)h;
        row_to_f32(DT_BF16, &s, &back, 1);
        bits[0] = h << 16;
        assert_memory_equal(&back, bits, 4);
    }
    uint32_t low_nan = 0x7f800001; /* cutting its low bits would make it infinity */
    float nan;
    memcpy(&nan, &low_nan, 4);
    assert_true((bf16(nan) & 0x7fff) > 0x7f80);
    assert_int_equal(bf16(-INFINITY), 0xff80);
}

/* -- blocks, each from its written definition -------------------------------------------------- */

static unsigned char block[256];
static float got[256];

static void random_block(struct rng *r) {
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (unsigned char)rng_below(r, 256);
}

static void expect(int i, float want) {
    if (memcmp(&got[i], &want, 4) != 0)
        fail_msg("element %d: %.9g, want %.9g", i, (double)got[i], (double)want);
}

static void q8_0_is_scale_times_signed_byte(void **state) {
    (void)state;
    FOR_SEEDS(20) {
        struct rng r;
        rng_seed(&r, seed);
        random_block(&r);
        put(block, -0.37f);
        row_to_f32(DT_Q8_0, block, got, 32);
        for (int i = 0; i < 32; i++)
            expect(i, f16_to_f32(half(-0.37f)) * (float)(signed char)block[2 + i]);
    }
}

static void blocks_of_32_hold_low_nibbles_first(void **state) {
    (void)state;
    FOR_SEEDS(20) {
        struct rng r;
        rng_seed(&r, seed);
        float d = f16_to_f32(half(0.03f)), m = f16_to_f32(half(-1.7f));
        for (int t = DT_Q4_0; t <= DT_Q5_1; t++) {
            bool five = t >= DT_Q5_0, min = t == DT_Q4_1 || t == DT_Q5_1;
            random_block(&r);
            put(block, d);
            if (min)
                put(block + 2, m);
            const unsigned char *h = block + (min ? 4 : 2), *q = h + (five ? 4 : 0);
            row_to_f32((enum dtype)t, block, got, 32);
            for (int i = 0; i < 32; i++) {
                int u = i < 16 ? q[i] & 15 : q[i - 16] >> 4;
                u += five ? 16 * (h[i / 8] >> i % 8 & 1) : 0;
                expect(i, min ? d * (float)u + m : d * (float)(u - (five ? 16 : 8)));
            }
        }
    }
}

/* Six bits of scale and of minimum for each 32 elements: the first four pairs have theirs in the
 * low bits of bytes 0-3 and 4-7; the last four take four bits from bytes 8-11 and two from the
 * tops of the others. */
static void q4_k_and_q5_k_have_scales_of_scales(void **state) {
    (void)state;
    FOR_SEEDS(20) {
        struct rng r;
        rng_seed(&r, seed);
        float d = f16_to_f32(half(0.011f)), dmin = f16_to_f32(half(0.07f));
        for (int t = DT_Q4_K; t <= DT_Q5_K; t++) {
            random_block(&r);
            put(block, d);
            put(block + 2, dmin);
            const unsigned char *s = block + 4, *high = block + 16,
                                *q = block + (t == DT_Q5_K ? 48 : 16);
            row_to_f32((enum dtype)t, block, got, 256);
            for (int i = 0; i < 256; i++) {
                int j = i / 32;
                int scale = j < 4 ? s[j] % 64 : s[j + 4] % 16 + 16 * (s[j - 4] / 64);
                int min = j < 4 ? s[j + 4] % 64 : s[j + 4] / 16 + 16 * (s[j] / 64);
                int byte = q[i / 64 * 32 + i % 32], u = i % 64 < 32 ? byte % 16 : byte / 16;
                if (t == DT_Q5_K)
                    u += 16 * (high[i % 32] >> j & 1);
                expect(i, d * (float)scale * (float)u - dmin * (float)min);
            }
        }
    }
}

static void q6_k_has_a_signed_scale_for_each_16(void **state) {
    (void)state;
    FOR_SEEDS(20) {
        struct rng r;
        rng_seed(&r, seed);
        random_block(&r);
        float d = f16_to_f32(half(-0.002f));
        put(block + 208, d);
        row_to_f32(DT_Q6_K, block, got, 256);
        for (int i = 0; i < 256; i++) {
            int n = i / 128, at = i % 128, l = at % 32;
            int low = block[64 * n + at % 64], high = block[128 + 32 * n + l];
            int u = (at < 64 ? low % 16 : low / 16) + 16 * (high >> (at / 32 * 2) & 3);
            expect(i, d * (float)(signed char)block[192 + i / 16] * (float)(u - 32));
        }
    }
}

/* -- writing ----------------------------------------------------------------------------------- */

static void q8_0_known_block(void **state) {
    (void)state;
    float x[32] = {127,  -127, 0.5f, -0.5f,
                   1.5f, 2.4f, -2.6f}; /* scale 1; halves round away from zero */
    static const signed char want[] = {127, -127, 1, -1, 2, 2, -3, 0};
    row_from_f32(DT_Q8_0, x, block, 32);
    assert_int_equal(block[0] | block[1] << 8, half(1));
    assert_memory_equal(block + 2, want, sizeof want);
}

static void q4_0_known_block(void **state) {
    (void)state;
    float x[32] = {-8,   7,    8,        0,
                   0.4f, 0.6f, [16] = 3, -3}; /* -8 is the first of the largest: scale 1 */
    row_from_f32(DT_Q4_0, x, block, 32);
    assert_int_equal(block[0] | block[1] << 8, half(1));
    assert_int_equal(block[2], 0 | 11 << 4);
    assert_int_equal(block[3], 15 | 5 << 4);
    assert_int_equal(block[4], 15 | 8 << 4); /* 8 does not fit and becomes 7 */
    assert_int_equal(block[5], 8 | 8 << 4);
    assert_int_equal(block[6], 8 | 8 << 4);
    assert_int_equal(block[7], 9 | 8 << 4);
    x[0] = 4; /* largest is +8: the scale turns negative so that it lands on 0 */
    row_from_f32(DT_Q4_0, x, block, 32);
    assert_int_equal(block[0] | block[1] << 8, half(-1));
    assert_int_equal(block[4] & 15, 0);
    assert_int_equal(block[2] & 15, 4);
}

static void round_trip_stays_within_half_a_step(void **state) {
    (void)state;
    FOR_SEEDS(200) {
        struct rng r;
        rng_seed(&r, seed);
        float x[256], max = 0, y[256];
        for (int i = 0; i < 256; i++)
            x[i] = rng_normal(&r) * (seed % 3 ? 1 : 1e-3f);
        static const enum dtype types[] = {DT_Q8_0, DT_Q4_0};
        for (int t = 0; t < 2; t++) {
            unsigned char q[8 * 34];
            row_from_f32(types[t], x, q, 256);
            row_to_f32(types[t], q, y, 256);
            for (int b = 0; b < 256; b += 32) {
                max = 0;
                for (int i = b; i < b + 32; i++)
                    max = fmaxf(max, fabsf(x[i]));
                /* the step itself is rounded to a half, which may be denormal; in Q4_0 the
                 * largest of the other sign loses a step */
                float limit = t == 0 ? max / 127 * 0.5f + max * 5e-4f + 4e-6f : max / 8 * 1.01f;
                for (int i = b; i < b + 32; i++)
                    if (!(fabsf(x[i] - y[i]) <= limit))
                        fail_msg("seed %d type %d: %g became %g", (int)seed, t, (double)x[i],
                                 (double)y[i]);
            }
        }
        row_from_f32(DT_F32, x, y, 256);
        assert_memory_equal(x, y, sizeof x);
    }
}

static void zeros_and_denormals_are_defined(void **state) {
    (void)state;
    static const float tiny[] = {0,       -0.0f,  1e-45f,  -1e-45f, 1e-40f,
                                 -1e-39f, 1e-38f, -3e-37f, 1e-9f};
    for (size_t k = 0; k < sizeof tiny / sizeof *tiny; k++) {
        float x[32] = {tiny[k], -tiny[k]}, y[32];
        for (int t = DT_Q8_0; t <= DT_Q4_0; t++) {
            row_from_f32((enum dtype)t, x, block, 32);
            row_to_f32((enum dtype)t, block, y, 32);
            for (int i = 0; i < 32; i++)
                assert_true(fabsf(y[i] - x[i]) <= 4e-8f); /* half of the smallest half */
        }
    }
}

static void nan_and_infinity_do_not_vanish(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++)
        for (int t = DT_F16; t <= DT_Q4_0; t++) {
            float x[64] = {1, 2, [9] = bad[k], [40] = 3}, y[64];
            unsigned char q[256];
            row_from_f32((enum dtype)t, x, q, 64);
            row_to_f32((enum dtype)t, q, y, 64);
            assert_false(isfinite(y[9]));
            if (t == DT_Q4_0) /* its integers are defined, too: zeros */
                assert_int_equal(q[2], 0x88);
            assert_true(fabsf(y[40] - 3) <= 0.02f); /* other blocks are untouched */
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dtype_names_parse_back_and_rows_have_their_size),
        cmocka_unit_test(every_half_reads_as_its_value_and_writes_back),
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(bfloats_round_to_nearest_even_and_keep_nan),
        cmocka_unit_test(q8_0_is_scale_times_signed_byte),
        cmocka_unit_test(blocks_of_32_hold_low_nibbles_first),
        cmocka_unit_test(q4_k_and_q5_k_have_scales_of_scales),
        cmocka_unit_test(q6_k_has_a_signed_scale_for_each_16),
        cmocka_unit_test(q8_0_known_block),
        cmocka_unit_test(q4_0_known_block),
        cmocka_unit_test(round_trip_stays_within_half_a_step),
        cmocka_unit_test(zeros_and_denormals_are_defined),
        cmocka_unit_test(nan_and_infinity_do_not_vanish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
