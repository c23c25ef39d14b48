/* search.c - the quantisers of GGUF's block types: how little they lose, and that no input breaks
 * them. */
#include "num/search.h"

#include "base/rng.h"
#include "num/quant.h"
#include "testing.h"

#define N 512 /* two blocks of the largest type */

static const enum dtype types[] = {DT_Q4_1, DT_Q5_0, DT_Q5_1, DT_Q4_K, DT_Q5_K, DT_Q6_K};
#define N_TYPE (sizeof types / sizeof *types)

static void through(enum dtype t, const float *x, float *y) {
    unsigned char row[N * 4];
    memset(row, 0xee, sizeof row);
    row_from_f32(t, x, row, N);
    row_to_f32(t, row, y, N);
    for (size_t i = dtype_row_bytes(t, N); i < sizeof row; i++)
        assert_int_equal(row[i], 0xee); /* nothing beyond the row */
}

/* Half normal, half with the long tails that weights have. */
static void draw(struct rng *r, float *x, float size) {
    bool tails = rng_below(r, 2);
    for (int i = 0; i < N; i++) {
        float v = (float)rng_normal(r);
        x[i] = size * (tails ? v * fabsf(v) : v);
    }
}

static double square_error(const float *x, const float *y) {
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return sum;
}

/* Rounding to the range of each group, with scales that are not rounded themselves. */
static void naive(enum dtype t, const float *x, float *y) {
    bool line = t != DT_Q5_0 && t != DT_Q6_K, below = t == DT_Q4_K || t == DT_Q5_K;
    int n = t == DT_Q6_K ? 16 : 32, top = t == DT_Q6_K                   ? 63
                                          : t == DT_Q4_1 || t == DT_Q4_K ? 15
                                                                         : 31;
    for (int g = 0; g < N; g += n) {
        float lo = below ? 0 : x[g], hi = x[g], ext = search_extreme(x + g, n);
        for (int i = g; i < g + n; i++) {
            lo = fminf(lo, x[i]);
            hi = fmaxf(hi, x[i]);
        }
        float d = line ? (hi - lo) / (float)top : ext * -2 / (float)(top + 1);
        float m = line ? lo : -d * (float)((top + 1) / 2);
        for (int i = g; i < g + n; i++)
            y[i] = m + d * search_clamp(roundf((x[i] - m) / d), 0, (float)top);
    }
}

static void searched_scales_lose_less_than_rounding_to_the_range(void **state) {
    (void)state;
    static const double at_most[] = {0.8, 0.95, 0.82, 0.82, 0.9, 0.92}; /* ORDER: types */
    for (size_t k = 0; k < N_TYPE; k++) {
        double ours = 0, plain = 0;
        FOR_SEEDS(200) {
            struct rng r;
            float x[N], y[N];
            rng_seed(&r, seed);
            draw(&r, x, 0.02f);
            through(types[k], x, y);
            ours += square_error(x, y);
            naive(types[k], x, y);
            plain += square_error(x, y);
        }
        if (getenv("PUMICE_SHOW"))
            printf("# %s: %.3f of the square error\n", dtype_info(types[k])->name, ours / plain);
        if (!(ours < at_most[k] * plain))
            fail_msg("%s: %.3f of the square error", dtype_info(types[k])->name, ours / plain);
    }
}

static void the_size_of_weights_does_not_matter(void **state) {
    (void)state;
    for (size_t k = 0; k < N_TYPE; k++)
        FOR_SEEDS(20) {
            struct rng r;
            float x[N], scaled[N], y[N], z[N];
            rng_seed(&r, seed);
            draw(&r, x, 1);
            for (int i = 0; i < N; i++)
                scaled[i] = x[i] * 0x1p-3f; /* no scale leaves F16's normal numbers */
            through(types[k], x, y);
            through(types[k], scaled, z);
            double a = square_error(x, y), b = square_error(scaled, z) * 64;
            assert_true(fabs(a - b) <= 0.02 * a);
        }
}

static void zeros_constants_and_extremes_are_read_as_numbers(void **state) {
    (void)state;
    static const float values[] = {0, -0.0f, 1, -1, 0.5f, 1e-4f, -1e3f, 1e-38f, 1e-45f, -1e-42f};
    for (size_t k = 0; k < N_TYPE; k++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            float x[N], y[N], want = values[v];
            for (int i = 0; i < N; i++)
                x[i] = want;
            through(types[k], x, y);
            for (int i = 0; i < N; i++)
                if (!(fabsf(y[i] - want) <= fabsf(want) * 0.02f + 6e-8f))
                    fail_msg("%s: %g is read as %g", dtype_info(types[k])->name, want, y[i]);
            x[7] = 40 * want + 1; /* one far from the others */
            through(types[k], x, y);
            for (int i = 0; i < N; i++)
                assert_true(isfinite(y[i]));
        }
}

static void a_block_with_a_value_that_is_no_number_is_read_as_none(void **state) {
    (void)state;
    const float odd[] = {NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < N_TYPE; k++)
        for (int v = 0; v < 3; v++) {
            struct rng r;
            float x[N], y[N];
            int block = dtype_info(types[k])->block;
            rng_seed(&r, 1);
            draw(&r, x, 1);
            x[block + 5] = odd[v];
            through(types[k], x, y);
            for (int i = 0; i < N; i++)
                assert_int_equal(!isfinite(y[i]), i / block == 1);
        }
}

/* What is on the grid of a block already comes back, nearly: scales are fitted, not copied. */
static void a_second_rounding_loses_little(void **state) {
    (void)state;
    for (size_t k = 0; k < N_TYPE; k++) {
        double first = 0, second = 0;
        FOR_SEEDS(50) {
            struct rng r;
            float x[N], y[N], z[N];
            rng_seed(&r, seed);
            draw(&r, x, 0.02f);
            through(types[k], x, y);
            through(types[k], y, z);
            first += square_error(x, y);
            second += square_error(y, z);
        }
        if (!(second < 0.5 * first))
            fail_msg("%s: %.3f of the first", dtype_info(types[k])->name, second / first);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(searched_scales_lose_less_than_rounding_to_the_range),
        cmocka_unit_test(the_size_of_weights_does_not_matter),
        cmocka_unit_test(zeros_constants_and_extremes_are_read_as_numbers),
        cmocka_unit_test(a_block_with_a_value_that_is_no_number_is_read_as_none),
        cmocka_unit_test(a_second_rounding_loses_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
