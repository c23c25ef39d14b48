/* dense.c - claims about src/num/dense.c: products of any shape and layout are right, and their
 * bits do not depend on the number of threads. */
#include "num/dense.h"

#include <math.h>

#include "base/rng.h"
#include "num/kern.h"
#include "num/quant.h"
#include "testing.h"

struct problem { /* owned arrays behind one product */
    struct dense j;
    float *a, *b, *c, *bias; /* what the operands hold, as floats, as stored */
    void *pa, *pb;
};

static void fill(struct rng *r, enum dtype type, float *f, void *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        f[i] = rng_normal(r);
        row_from_f32(type, &f[i], (char *)p + i * dtype_row_bytes(type, 1), 1);
        row_to_f32(type, (char *)p + i * dtype_row_bytes(type, 1), &f[i], 1);
    }
}

static void problem_new(struct problem *p, struct rng *r, enum dtype type, bool large) {
    int most = large ? 700 : 70;
    struct dense *j = &p->j;
    *p = (struct problem){.j = {.type = type}};
    j->m = 1 + (int)rng_below(r, (uint32_t)most);
    j->n = 1 + (int)rng_below(r, (uint32_t)most);
    j->k = 1 + (int)rng_below(r, 70);
    j->a.t = rng_below(r, 2);
    j->b.t = rng_below(r, 2);
    j->add = rng_below(r, 2);
    j->a.ld = (j->a.t ? j->m : j->k) + (int)rng_below(r, 5);
    j->b.ld = (j->b.t ? j->k : j->n) + (int)rng_below(r, 5);
    j->ldc = j->n + (int)rng_below(r, 5);
    size_t na = (size_t)j->a.ld * (size_t)(j->a.t ? j->k : j->m);
    size_t nb = (size_t)j->b.ld * (size_t)(j->b.t ? j->n : j->k),
           nc = (size_t)j->ldc * (size_t)j->m;
    p->a = calloc(na, sizeof *p->a);
    p->b = calloc(nb, sizeof *p->b);
    p->c = calloc(nc, sizeof *p->c);
    p->bias = calloc((size_t)j->n, sizeof *p->bias);
    p->pa = calloc(na, sizeof(float));
    p->pb = calloc(nb, sizeof(float));
    fill(r, type, p->a, p->pa, na);
    fill(r, type, p->b, p->pb, nb);
    for (int i = 0; i < j->n; i++)
        p->bias[i] = rng_normal(r);
    j->a.p = p->pa;
    j->b.p = p->pb;
    j->c = p->c;
    j->bias = !j->add && rng_below(r, 2) ? p->bias : NULL;
    for (size_t i = 0; i < nc; i++)
        p->c[i] = 100; /* where the rows have room it must stay */
}

static void problem_free(struct problem *p) {
    free(p->a);
    free(p->b);
    free(p->c);
    free(p->bias);
    free(p->pa);
    free(p->pb);
}

static double want_at(const struct problem *p, int row, int col) {
    const struct dense *j = &p->j;
    double sum = j->add ? 100 : j->bias ? j->bias[col] : 0;
    for (int l = 0; l < j->k; l++) {
        float a = j->a.t ? p->a[(size_t)l * j->a.ld + row] : p->a[(size_t)row * j->a.ld + l];
        float b = j->b.t ? p->b[(size_t)col * j->b.ld + l] : p->b[(size_t)l * j->b.ld + col];
        sum += (double)a * b;
    }
    return sum;
}

static void check(const struct problem *p, int step) {
    const struct dense *j = &p->j;
    for (int row = 0; row < j->m; row++)
        for (int col = row % step; col < j->ldc; col += step) {
            float got = p->c[(size_t)row * j->ldc + col];
            double want = col < j->n ? want_at(p, row, col) : 100;
            if (!(fabs(got - want) < 1e-4 || (col < j->n && fabs(got - want) < 1e-5 * fabs(want))))
                fail_msg("%s %d x %d x %d%s%s%s at (%d, %d): %g, expected %g",
                         dtype_info(j->type)->name, j->m, j->n, j->k, j->a.t ? " a^T" : "",
                         j->b.t ? " b^T" : "", j->add ? " add" : "", row, col, (double)got, want);
        }
}

static void any_shape_and_layout_is_right(void **state) {
    (void)state;
    struct pool *pool = pool_new(2);
    struct err err = {0};
    for (int k = 0; k < (kern_best() >= ISA_AVX512 ? 2 : 1); k++) {
        enum dtype type = k ? DT_BF16 : DT_F32;
        struct dense_ctx *d = dense_new(pool, type, &err);
        if (!d)
            fail_msg("%s", err.msg);
        FOR_SEEDS(60) {
            struct problem p;
            struct rng r;
            rng_seed(&r, seed);
            problem_new(&p, &r, type, seed % 4 == 0);
            dense(d, &p.j);
            check(&p, seed % 4 ? 1 : 7);
            problem_free(&p);
        }
        struct dense wide = {.type = type, .m = 512, .n = 512, .k = 5000, .ldc = 512};
        wide.a.p = calloc(5000 * 512, 4);
        wide.b.p = calloc(5000 * 512, 4);
        wide.c = calloc(512 * 512, 4);
        for (int t = 0; t < 8; t++) { /* the layouts that need the most scratch are among these */
            wide.a = (struct dense_in){wide.a.p, t & 1 ? 512 : 5000, t & 1};
            wide.b = (struct dense_in){wide.b.p, t & 2 ? 5000 : 512, (t & 2) != 0};
            wide.add = t & 4;
            dense(d, &wide);
        }
        free((void *)wide.a.p);
        free((void *)wide.b.p);
        free(wide.c);
        printf("  scratch: %zu bytes, at most %zu\n", dense_bytes(d), 2 * DENSE_MOST);
        assert_true(dense_bytes(d) > 0 && dense_bytes(d) <= 2 * DENSE_MOST);
        dense_free(d);
    }
    pool_free(pool);
}

static void no_bit_depends_on_the_number_of_threads(void **state) {
    (void)state;
    struct err err = {0};
    FOR_SEEDS(20) {
        float *want = NULL;
        for (int threads = 1; threads <= 3; threads++) {
            enum dtype type = seed % 2 && kern_best() >= ISA_AVX512 ? DT_BF16 : DT_F32;
            struct pool *pool = pool_new(threads);
            struct dense_ctx *d = dense_new(pool, type, &err);
            struct problem p;
            struct rng r;
            rng_seed(&r, seed);
            problem_new(&p, &r, type, true);
            dense(d, &p.j);
            size_t bytes = (size_t)p.j.ldc * (size_t)p.j.m * sizeof *want;
            if (!want)
                memcpy(want = malloc(bytes), p.c, bytes);
            assert_memory_equal(want, p.c, bytes);
            problem_free(&p);
            dense_free(d);
            pool_free(pool);
        }
        free(want);
    }
}

static void a_type_without_products_is_refused(void **state) {
    (void)state;
    struct pool *pool = pool_new(1);
    struct err err = {0};
    assert_null(dense_new(pool, DT_Q8_0, &err));
    assert_int_equal(err.code, E_USAGE);
    assert_non_null(strstr(err.msg, "q8_0"));
    pool_free(pool);
}

int main(void) {
    struct err err = {0};
    if (kern_init(&err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_shape_and_layout_is_right),
        cmocka_unit_test(no_bit_depends_on_the_number_of_threads),
        cmocka_unit_test(a_type_without_products_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
