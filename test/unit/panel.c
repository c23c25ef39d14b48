/* panel.c - INT8 and INT4: what a row and a panel hold, and how far quantising may be off. */
#include "num/panel.h"

#include <math.h>

#include "base/rng.h"
#include "num/quant.h"
#include "testing.h"

#define MAX_COLS 512
#define MAX_ROWS 40

static const enum dtype types[] = {DT_INT8, DT_INT4}; /* those whose quantiser is ours */

static void normal(struct rng *r, float *x, int n, float size) {
    for (int i = 0; i < n; i++)
        x[i] = size * (float)rng_normal(r);
}

/* Row forms of a whole matrix, and the matrix in panels. */
static struct mat make(struct rng *r, enum dtype t, int rows, int cols, unsigned char *row_form) {
    static unsigned char panels[(MAX_ROWS + PANEL) * MAX_COLS * 2];
    float x[MAX_COLS];
    size_t ld = dtype_row_bytes(t, cols);
    for (int i = 0; i < rows; i++) {
        normal(r, x, cols, 0.1f);
        row_from_f32(t, x, row_form + (size_t)i * ld, cols);
    }
    memset(panels, 0xee, sizeof panels);
    for (int i = 0; i < rows; i += PANEL)
        panel_pack(t, row_form + (size_t)i * ld, rows - i < PANEL ? rows - i : PANEL, cols,
                   panels + (size_t)i * ld);
    return (struct mat){t, rows, cols, panels};
}

static void a_panel_has_the_bytes_of_its_rows(void **state) {
    (void)state;
    assert_int_equal(dtype_row_bytes(DT_INT8, 100), 100 + 13 * 4);
    assert_int_equal(dtype_row_bytes(DT_INT8, 352), 352 + 6 * 4);
    assert_int_equal(dtype_row_bytes(DT_INT8, 2816), 2816 + 22 * 4);
    assert_int_equal(dtype_row_bytes(DT_INT4, 96), 54);
    assert_int_equal(dtype_mat_bytes(DT_INT8, 33, 100), 48 * 152);
    assert_int_equal(dtype_mat_bytes(DT_INT4, 16, 32), 288);
    assert_int_equal(dtype_mat_bytes(DT_Q8_0, 33, 64), 48 * 68);
    assert_int_equal(dtype_mat_bytes(DT_BF16, 33, 63), 48 * 126);
    for (int t = 0; t < DT_COUNT; t++)
        assert_int_equal(dtype_info((enum dtype)t)->panel, t < DT_BF16 ? 1 : PANEL);
}

static void unpacking_undoes_packing_and_missing_rows_are_zero(void **state) {
    (void)state;
    static unsigned char rows[MAX_ROWS * MAX_COLS * 2], back[MAX_COLS * 2];
    FOR_SEEDS(20) for (enum dtype t = DT_BF16; t < DT_COUNT; t++) {
        struct rng r;
        rng_seed(&r, seed);
        int block = dtype_info(t)->block;
        int n = 1 + (int)rng_below(&r, MAX_ROWS);
        int cols = block * (1 + (int)rng_below(&r, MAX_COLS / block));
        struct mat m = make(&r, t, n, cols, rows);
        size_t ld = dtype_row_bytes(t, cols);
        for (int i = 0; i < (n + PANEL - 1) / PANEL * PANEL; i++) {
            panel_row(t, mat_row(&m, i / PANEL * PANEL), i % PANEL, cols, back);
            for (size_t b = 0; b < ld; b++)
                assert_int_equal(back[b], i < n ? rows[(size_t)i * ld + b] : 0);
        }
        assert_int_equal(((const unsigned char *)m.data)[dtype_mat_bytes(t, n, cols)], 0xee);
    }
}

/* Column c of row r lies where panel.h says. */
static void words_of_sixteen_rows_lie_side_by_side(void **state) {
    (void)state;
    static unsigned char rows[MAX_ROWS * MAX_COLS * 2];
    struct rng r;
    rng_seed(&r, 1);
    struct mat m = make(&r, DT_INT8, 20, 64, rows);
    for (int i = 0; i < 20; i++)
        for (int c = 0; c < 64; c++) {
            int word = 1 + c / 8 + c / 4; /* after the scales of its group and of those before */
            const unsigned char *p = (const unsigned char *)m.data + i / 16 * 16 * 96;
            assert_int_equal(p[word * 64 + i % 16 * 4 + c % 4], rows[i * 96 + word * 4 + c % 4]);
        }
    m = make(&r, DT_BF16, 20, 7, rows);
    for (int i = 0; i < 20; i++)
        for (int c = 0; c < 7; c++) {
            const unsigned char *p = (const unsigned char *)m.data + i / 16 * 16 * 14;
            p += c < 6 ? c / 2 * 64 + i % 16 * 4 + c % 2 * 2 : 3 * 64 + i % 16 * 2;
            assert_memory_equal(p, rows + i * 14 + c * 2, 2);
        }
    m = make(&r, DT_INT4, 20, 64, rows);
    for (int i = 0; i < 20; i++)
        for (int c = 0; c < 64; c++) {
            int byte = c % 16, high = c % 32 / 16, block = c / 32;
            const unsigned char *p = (const unsigned char *)m.data + i / 16 * 16 * 36 + block * 288;
            assert_int_equal(p[32 + byte / 4 * 64 + i % 16 * 4 + byte % 4] >> (4 * high) & 15,
                             rows[i * 36 + block * 18 + 2 + byte] >> (4 * high) & 15);
        }
}

static void a_row_of_a_matrix_reads_like_its_row_form(void **state) {
    (void)state;
    static unsigned char rows[MAX_ROWS * MAX_COLS * 2];
    float want[MAX_COLS], got[MAX_COLS];
    FOR_SEEDS(10) for (enum dtype t = DT_BF16; t < DT_COUNT; t++) {
        int cols = dtype_info(t)->block > 32 ? 512 : t == DT_BF16 ? 95 : 96;
        struct rng r;
        rng_seed(&r, seed);
        struct mat m = make(&r, t, 37, cols, rows);
        for (int i = 0; i < 37; i++) {
            row_to_f32(t, rows + (size_t)i * dtype_row_bytes(t, cols), want, cols);
            mat_row_to_f32(&m, i, got);
            assert_memory_equal(got, want, (size_t)cols * sizeof *got);
        }
    }
    struct mat plain = {DT_F32, 3, 2, (float[]){1, 2, 3, 4, 5, 6}};
    mat_row_to_f32(&plain, 2, got);
    assert_true(got[0] == 5 && got[1] == 6);
}

static void int8_is_within_half_a_step_of_the_groups_largest(void **state) {
    (void)state;
    FOR_SEEDS(200) {
        struct rng r;
        float x[MAX_COLS], y[MAX_COLS];
        unsigned char row[MAX_COLS * 3 / 2];
        rng_seed(&r, seed);
        int n = 4 * (1 + (int)rng_below(&r, MAX_COLS / 4)), group = int8_group(n);
        normal(&r, x, n, powf(10, (float)(rng_double(&r) * 40 - 20)));
        row_from_f32(DT_INT8, x, row, n);
        row_to_f32(DT_INT8, row, y, n);
        for (int i = 0; i < n; i++) {
            float max = 0;
            for (int k = i / group * group; k < n && k < i / group * group + group; k++)
                max = fmaxf(max, fabsf(x[k])); /* the largest becomes 119.5 to 127 */
            assert_true(fabsf(x[i] - y[i]) <= max / 254 * 1.07f);
            assert_int_not_equal((signed char)row[i + i / group * 4 + 4], -128);
        }
    }
}

static double square_error(enum dtype t, const float *x, int n) {
    unsigned char row[MAX_COLS * 3 / 2];
    float y[MAX_COLS];
    double e = 0;
    row_from_f32(t, x, row, n);
    row_to_f32(t, row, y, n);
    for (int i = 0; i < n; i++)
        e += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return e;
}

/* The steps are searched: less error than with the largest magnitude at 127. */
static void int8_loses_less_than_the_plain_rule(void **state) {
    (void)state;
    double error = 0, plain = 0;
    FOR_SEEDS(500) {
        struct rng r;
        float x[8], max = 0;
        rng_seed(&r, seed);
        normal(&r, x, 8, 0.02f);
        for (int i = 0; i < 8; i++)
            max = fmaxf(max, fabsf(x[i]));
        for (int i = 0; i < 8; i++) {
            double e = x[i] - rint(x[i] * 127.0 / max) * max / 127.0;
            plain += e * e;
        }
        error += square_error(DT_INT8, x, 8);
    }
    printf("  square error: %.3f of the plain rule's\n", error / plain);
    assert_true(error < 0.8 * plain);
}

/* Its scale is searched, that of Q4_0 follows from the largest element. */
static void int4_loses_less_than_q4_0_in_as_many_bytes(void **state) {
    (void)state;
    double e4 = 0, q4 = 0, size = 0;
    assert_int_equal(dtype_row_bytes(DT_INT4, 256), dtype_row_bytes(DT_Q4_0, 256));
    FOR_SEEDS(500) {
        struct rng r;
        float x[256];
        rng_seed(&r, seed);
        normal(&r, x, 256, 0.02f);
        e4 += square_error(DT_INT4, x, 256);
        q4 += square_error(DT_Q4_0, x, 256);
        for (int i = 0; i < 256; i++)
            size += (double)x[i] * x[i];
    }
    printf("  square error: INT4 %.5f, Q4_0 %.5f of the weights' square\n", e4 / size, q4 / size);
    assert_true(e4 < 0.92 * q4);
}

static void int4_finds_a_scale_that_fits_exactly(void **state) {
    (void)state;
    for (int sign = -1; sign <= 1; sign += 2) {
        float x[32], y[32];
        unsigned char row[18];
        for (int i = 0; i < 32; i++)
            x[i] = (float)sign * 0.25f * (float)(i % 16 - 8);
        row_from_f32(DT_INT4, x, row, 32);
        row_to_f32(DT_INT4, row, y, 32);
        assert_memory_equal(x, y, sizeof x);
    }
}

static void sizes_at_the_edges_of_float_are_defined(void **state) {
    (void)state;
    static const float size[] = {0, 1e-45f, 1e-40f, 1e-38f, 1e-9f, 1e4f};
    for (size_t s = 0; s < sizeof size / sizeof *size; s++)
        for (int k = 0; k < 2; k++) {
            float x[32] = {size[s], -size[s], size[s] / 3}, y[32];
            unsigned char row[48];
            row_from_f32(types[k], x, row, 32);
            row_to_f32(types[k], row, y, 32);
            /* scales of INT4 are halves, in steps of 2^-24; inverses of INT8's are finite */
            float most = size[s] * (k ? 0.1f : 0.004f) + (k ? 2.4e-7f : 4e-37f);
            for (int i = 0; i < 32; i++)
                assert_true(fabsf(x[i] - y[i]) <= most);
        }
}

static void nan_and_infinity_spoil_their_group_only(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++) {
        float x[64] = {1, 2, [9] = bad[k], [40] = 3}, y[64];
        unsigned char row[96];
        row_from_f32(DT_INT8, x, row, 64);
        row_to_f32(DT_INT8, row, y, 64);
        assert_true(isnan(y[8]) && isnan(y[9]) && fabsf(y[40] - 3) < 0.02f);
        assert_int_equal(row[12 + 4 + 1], 0); /* column 9, the second of its group */
        row_from_f32(DT_INT4, x, row, 64);
        row_to_f32(DT_INT4, row, y, 64);
        assert_true(isnan(y[9]) && fabsf(y[40] - 3) < 0.01f);
        assert_int_equal(row[2], 0x88);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_panel_has_the_bytes_of_its_rows),
        cmocka_unit_test(unpacking_undoes_packing_and_missing_rows_are_zero),
        cmocka_unit_test(words_of_sixteen_rows_lie_side_by_side),
        cmocka_unit_test(a_row_of_a_matrix_reads_like_its_row_form),
        cmocka_unit_test(int8_is_within_half_a_step_of_the_groups_largest),
        cmocka_unit_test(int8_loses_less_than_the_plain_rule),
        cmocka_unit_test(int4_loses_less_than_q4_0_in_as_many_bytes),
        cmocka_unit_test(int4_finds_a_scale_that_fits_exactly),
        cmocka_unit_test(sizes_at_the_edges_of_float_are_defined),
        cmocka_unit_test(nan_and_infinity_spoil_their_group_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
