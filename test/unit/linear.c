/* linear.c - a product is right within its type's budget, and the same bits alone, in a batch,
 * in a group, and with any number of threads, at every level of instructions. */
#include "num/linear.h"

#include <math.h>

#include "base/rng.h"
#include "num/kern.h"
#include "num/panel.h"
#include "num/quant.h"
#include "testing.h"

#define MAX_TOK 600
#define MAX_COLS 1312
#define MAX_ROWS 100

static float x[MAX_TOK * MAX_COLS], wf[4][MAX_ROWS * MAX_COLS];
static unsigned char wq[4][(MAX_ROWS + PANEL) * MAX_COLS * 4], rows_of[MAX_ROWS * MAX_COLS * 2];
static float bias[MAX_ROWS];

/* Quantised from normal weights; wf[i] holds what they mean. */
static struct mat weights(struct rng *r, int i, enum dtype t, int rows, int cols) {
    struct mat m = {t, rows, cols, wq[i]};
    size_t row = dtype_row_bytes(t, cols);
    for (int j = 0; j < rows; j++) {
        bool panels = dtype_info(t)->panel > 1;
        unsigned char *p = (panels ? rows_of : wq[i]) + (size_t)j * row;
        float *f = wf[i] + j * cols;
        for (int k = 0; k < cols; k++)
            f[k] = 0.02f * rng_normal(r);
        row_from_f32(t, f, p, cols);
        row_to_f32(t, p, f, cols);
        if (panels && (j % PANEL == PANEL - 1 || j == rows - 1))
            panel_pack(t, rows_of + (size_t)(j / PANEL * PANEL) * row, j % PANEL + 1, cols,
                       wq[i] + (size_t)(j / PANEL * PANEL) * row);
    }
    return m;
}

static void inputs(struct rng *r, int n) {
    for (int i = 0; i < n; i++)
        x[i] = rng_normal(r);
    for (int i = 0; i < MAX_ROWS; i++)
        bias[i] = rng_normal(r);
}

static struct linear_ctx *open_ctx(struct pool *p) {
    struct err e = {0};
    struct linear_ctx *l = linear_new(p, MAX_TOK, MAX_COLS, &e);
    assert_non_null(l);
    assert_ptr_equal(linear_pool(l), p);
    return l;
}

/* How far activations may be from float: bfloat16 has 8 bits, blocks of 8-bit integers half a
 * step of the block's largest (normal inputs: about 3). */
static double budget(enum dtype t, const float *xr, const float *wr, int cols) {
    double rel = 0, abs = 0, sum = 0;
    for (int k = 0; k < cols; k++) {
        double max = 0;
        int group = t == DT_INT8 ? int8_group(cols) : 32, lo = k / group * group, hi = lo + group;
        for (int b = lo; b < hi && b < cols; b++)
            max = fmax(max, fabs((double)xr[b]));
        rel += fabs((double)xr[k] * wr[k]);
        abs += max / 254 * fabs((double)wr[k]);
        sum += fabs((double)wr[k]);
    }
    if (t == DT_F32 || t == DT_F16)
        return 1e-6 * rel;
    return t == DT_BF16 ? rel / 256 : abs * 1.001 + 1e-6 * rel + 1e-7 * sum;
}

static const int shapes[][2] = {{100, 256}, {33, 512}, {16, 256}, {5, 256},  {1, 512}, {64, 48},
                                {7, 172},   {40, 96},  {9, 1312}, {80, 768}, {20, 257}};
#define LARGE 9 /* all blocks of the kernels for prompts, and something left of each */
#define N_SHAPES ((int)(sizeof shapes / sizeof *shapes))

#define FOR_LEVELS                                                                                 \
    for (int level = ISA_REF; level < ISA_COUNT; level++)                                          \
        if (kern_has((enum isa)level))

static void force(int level) {
    struct err e = {0};
    assert_ok(kern_force((enum isa)level, &e), e);
}

static void product_is_within_budget_of_exact(void **state) {
    (void)state;
    struct rng r;
    rng_seed(&r, 1);
    struct pool *p = pool_new(2);
    struct linear_ctx *l = open_ctx(p);
    FOR_LEVELS for (int t = 0; t < DT_COUNT; t++) for (int s = 0; s < N_SHAPES; s++) {
        int rows = shapes[s][0], cols = shapes[s][1], n = s % 2 ? 1 : 9;
        float y[9 * MAX_ROWS];
        if (cols % dtype_info((enum dtype)t)->block)
            continue;
        force(level);
        struct mat m = weights(&r, 0, (enum dtype)t, rows, cols);
        inputs(&r, n * cols);
        struct linear_out o = {y, &m, s % 3 ? bias : NULL};
        linear(l, x, n, &o, 1);
        for (int i = 0; i < n * rows; i++) {
            const float *xr = x + i / rows * cols, *wr = wf[0] + i % rows * cols;
            double want = o.bias ? bias[i % rows] : 0;
            for (int k = 0; k < cols; k++)
                want += (double)xr[k] * wr[k];
            if (!(fabs(y[i] - want) <= budget((enum dtype)t, xr, wr, cols) + 1e-6 * fabs(want)))
                fail_msg("%s %s (%d, %d): y[%d] = %g, exactly %g", isa_name((enum isa)level),
                         dtype_info((enum dtype)t)->name, rows, cols, i, (double)y[i], want);
        }
    }
    linear_free(l);
    pool_free(p);
}

static void a_token_is_the_same_bits_in_any_batch_and_with_any_threads(void **state) {
    (void)state;
    /* on both sides of where kernels take prompts in another way */
    static const int batches[] = {2, 3, 5, 8, 33, 97, MAX_TOK};
    static float alone[MAX_TOK * MAX_ROWS], y[MAX_TOK * MAX_ROWS];
    struct rng r;
    rng_seed(&r, 2);
    struct pool *pools[3] = {pool_new(1), pool_new(2), pool_new(3)};
    struct linear_ctx *l[3] = {open_ctx(pools[0]), open_ctx(pools[1]), open_ctx(pools[2])};
    FOR_LEVELS for (int t = 0; t < DT_COUNT; t++) for (int s = 0; s < N_SHAPES; s++) {
        int rows = shapes[s][0], cols = shapes[s][1];
        if (cols % dtype_info((enum dtype)t)->block)
            continue;
        force(level);
        struct mat m = weights(&r, 0, (enum dtype)t, rows, cols);
        bool most = s == LARGE && level > ISA_REF; /* which has no blocks, and is slow */
        int n_batch = (int)(sizeof batches / sizeof *batches) - !most;
        inputs(&r, batches[n_batch - 1] * cols);
        for (int i = 0; i < batches[n_batch - 1]; i++) {
            struct linear_out o = {alone + i * rows, &m, bias};
            linear(l[0], x + i * cols, 1, &o, 1);
        }
        for (int b = 0; b < n_batch; b++)
            for (int c = 0; c < 3; c++) {
                struct linear_out o = {y, &m, bias};
                memset(y, 0xff, sizeof y);
                linear(l[c], x, batches[b], &o, 1);
                if (memcmp(y, alone, (size_t)(batches[b] * rows) * 4) != 0)
                    fail_msg("%s %s (%d, %d): batch of %d, %d threads", isa_name((enum isa)level),
                             dtype_info((enum dtype)t)->name, rows, cols, batches[b], c + 1);
            }
    }
    for (int c = 0; c < 3; c++) {
        linear_free(l[c]);
        pool_free(pools[c]);
    }
}

static void a_group_equals_its_products_alone_whatever_their_types(void **state) {
    (void)state;
    static const enum dtype groups[][4] = {{DT_Q4_K, DT_Q6_K, DT_Q4_K, DT_F32},
                                           {DT_BF16, DT_Q8_0, DT_F16, DT_BF16},
                                           {DT_INT4, DT_INT8, DT_INT8, DT_Q4_0},
                                           {DT_F32, DT_F32, DT_F32, DT_F32}};
    static const int rows[] = {64, 16, 33, 100};
    static float group[4][9 * MAX_ROWS], one[9 * MAX_ROWS];
    struct rng r;
    rng_seed(&r, 3);
    struct pool *p = pool_new(2);
    struct linear_ctx *l = open_ctx(p);
    FOR_LEVELS for (size_t k = 0; k < sizeof groups / sizeof *groups; k++) for (int n = 1; n <= 9;
                                                                                n += 4) {
        struct mat m[4];
        struct linear_out o[4];
        force(level);
        inputs(&r, n * 256);
        for (int i = 0; i < 4; i++) {
            m[i] = weights(&r, i, groups[k][i], rows[i], 256);
            o[i] = (struct linear_out){group[i], &m[i], i % 2 ? bias : NULL};
        }
        linear(l, x, n, o, 4);
        for (int i = 0; i < 4; i++) {
            struct linear_out single = {one, &m[i], o[i].bias};
            linear(l, x, n, &single, 1);
            assert_memory_equal(one, group[i], (size_t)(n * rows[i]) * 4);
        }
    }
    linear_free(l);
    pool_free(p);
}

static void quantised_products_are_the_same_bits_at_every_level(void **state) {
    (void)state;
    static float want[9 * MAX_ROWS], y[9 * MAX_ROWS];
    struct rng r;
    rng_seed(&r, 4);
    struct pool *p = pool_new(2);
    struct linear_ctx *l = open_ctx(p);
    for (int t = DT_Q8_0; t < DT_COUNT; t++) {
        struct mat m = weights(&r, 0, (enum dtype)t, MAX_ROWS, 512);
        inputs(&r, 9 * 512);
        for (int n = 1; n <= 9; n += 8)
            FOR_LEVELS {
                force(level);
                struct linear_out o = {level == ISA_REF ? want : y, &m, bias};
                linear(l, x, n, &o, 1);
                if (level > ISA_REF)
                    assert_memory_equal(y, want, (size_t)(n * MAX_ROWS) * 4);
            }
    }
    linear_free(l);
    pool_free(p);
}

static void a_nan_input_reaches_every_output_of_its_token_only(void **state) {
    (void)state;
    static float y[3 * MAX_ROWS];
    struct rng r;
    rng_seed(&r, 5);
    struct pool *p = pool_new(2);
    struct linear_ctx *l = open_ctx(p);
    FOR_LEVELS for (int t = 0; t < DT_COUNT; t++) {
        force(level);
        struct mat m = weights(&r, 0, (enum dtype)t, 20, 256);
        inputs(&r, 3 * 256);
        x[256 + 100] = level % 2 ? NAN : INFINITY;
        struct linear_out o = {y, &m, NULL};
        linear(l, x, 3, &o, 1);
        for (int i = 0; i < 60; i++)
            assert_int_equal(isfinite(y[i]) != 0, i / 20 != 1);
    }
    linear_free(l);
    pool_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product_is_within_budget_of_exact),
        cmocka_unit_test(a_token_is_the_same_bits_in_any_batch_and_with_any_threads),
        cmocka_unit_test(a_group_equals_its_products_alone_whatever_their_types),
        cmocka_unit_test(quantised_products_are_the_same_bits_at_every_level),
        cmocka_unit_test(a_nan_input_reaches_every_output_of_its_token_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
