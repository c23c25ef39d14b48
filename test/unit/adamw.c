/* adamw.c - claims about src/train/adamw.c and lr.c: the update is the paper's, frozen is frozen,
 * and schedules go through the points that their names promise. */
#include "train/adamw.h"

#include <math.h>

#include "base/rng.h"
#include "num/kern.h"
#include "testing.h"
#include "train/lr.h"

#define N_PARAM 3
#define FLOATS 200016 /* more than one span */

struct fixture {
    struct params ps;
    struct param p[N_PARAM];
    float *w, *g;
    struct pool *pool;
    struct adamw *a;
};

static void open_fixture(struct fixture *f, int threads) {
    struct err err = {0};
    static const struct adamw_opts o = {0.9f, 0.95f, 1e-8f, 0.1f};
    struct rng r;
    rng_seed(&r, 1);
    *f = (struct fixture){.pool = pool_new(threads)};
    f->w = calloc(FLOATS, sizeof *f->w);
    f->g = calloc(FLOATS, sizeof *f->g);
    for (int i = 0; i < FLOATS; i++) {
        f->w[i] = rng_normal(&r);
        f->g[i] = rng_normal(&r);
    }
    f->p[0] = (struct param){"matrix", f->w, f->g, 499, 400, 0, true, false};
    f->p[1] = (struct param){"vector", f->w + 199600, f->g + 199600, 300, 1, 199600, false, false};
    f->p[2] = (struct param){"frozen", f->w + 199904, f->g + 199904, 10, 10, 199904, true, true};
    f->ps = (struct params){f->p, N_PARAM, FLOATS, 1};
    if (!(f->a = adamw_new(&f->ps, &o, f->pool, &err)))
        fail_msg("%s", err.msg);
}

static void close_fixture(struct fixture *f) {
    adamw_free(f->a);
    pool_free(f->pool);
    free(f->w);
    free(f->g);
}

static void an_update_is_the_one_of_the_paper(void **state) {
    (void)state;
    struct fixture f;
    open_fixture(&f, 2);
    double w[2] = {f.w[123], f.w[199600 + 7]}, m[2] = {0}, v[2] = {0};
    const int at[2] = {123, 199600 + 7};
    for (int t = 1; t <= 5; t++) {
        double lr = 0.01 * t, scale = 0.5;
        adamw_step(f.a, (float)lr, (float)scale);
        for (int k = 0; k < 2; k++) {
            double g = scale * f.g[at[k]];
            m[k] = 0.9 * m[k] + 0.1 * g;
            v[k] = 0.95 * v[k] + 0.05 * g * g;
            if (k == 0) /* the matrix decays, the vector does not */
                w[k] -= lr * 0.1 * w[k];
            w[k] -= lr * (m[k] / (1 - pow(0.9, t))) / (sqrt(v[k] / (1 - pow(0.95, t))) + 1e-8);
            assert_true(fabs(f.w[at[k]] - w[k]) < 2e-6);
            assert_true(fabs(f.a->m[at[k]] - m[k]) < 1e-6 && fabs(f.a->v[at[k]] - v[k]) < 1e-6);
        }
    }
    assert_int_equal(f.a->step, 5);
    assert_int_equal(f.ps.version, 6); /* a net must see that its copies are old */
    close_fixture(&f);
}

static void a_frozen_param_moves_neither_weights_nor_moments(void **state) {
    (void)state;
    struct fixture f;
    open_fixture(&f, 2);
    float before[100];
    memcpy(before, f.p[2].w, sizeof before);
    double norm = adamw_norm(f.a);
    f.p[2].g[5] = 1e20f; /* not in the norm either */
    assert_true(adamw_norm(f.a) == norm);
    for (int t = 0; t < 3; t++)
        adamw_step(f.a, 0.1f, 1);
    assert_memory_equal(before, f.p[2].w, sizeof before);
    for (int i = 0; i < 100; i++)
        assert_true(f.a->m[199904 + i] == 0 && f.a->v[199904 + i] == 0);
    f.p[2].frozen = false;
    adamw_step(f.a, 0.1f, 1);
    assert_true(memcmp(before, f.p[2].w, sizeof before) != 0);
    close_fixture(&f);
}

static void clipping_bounds_the_norm_and_leaves_small_ones_alone(void **state) {
    (void)state;
    struct fixture f;
    open_fixture(&f, 2);
    double sum = 0;
    for (int i = 0; i < 199900; i++)
        sum += (double)f.g[i] * f.g[i];
    double norm = adamw_norm(f.a);
    assert_true(fabs(norm / sqrt(sum) - 1) < 1e-12);
    assert_true(fabs((double)adamw_clip(norm, 1) * norm - 1) < 1e-5);
    assert_true(adamw_clip(0.5, 1) == 1);
    assert_true(adamw_clip(1e9, 0) == 1);
    f.g[17] = NAN;
    assert_true(isnan(adamw_norm(f.a)));
    close_fixture(&f);
}

static void norm_and_update_have_the_same_bits_for_any_threads(void **state) {
    (void)state;
    struct fixture f[3];
    for (int i = 0; i < 3; i++) {
        open_fixture(&f[i], i + 1);
        double norm = adamw_norm(f[i].a);
        assert_true(norm == adamw_norm(f[0].a));
        adamw_step(f[i].a, 0.1f, 1);
        assert_memory_equal(f[i].w, f[0].w, FLOATS * sizeof(float));
    }
    for (int i = 0; i < 3; i++)
        close_fixture(&f[i]);
}

static void schedules_pass_through_their_points(void **state) {
    (void)state;
    struct lr_plan p = {LR_COSINE, 1, 0.1f, 10, 0, 110};
    assert_true(fabsf(lr_at(&p, 0) - 0.1f) < 1e-6f);
    assert_true(lr_at(&p, 9) == 1 && lr_at(&p, 10) == 1);
    assert_true(fabsf(lr_at(&p, 60) - 0.55f) < 1e-6f);
    assert_true(fabsf(lr_at(&p, 110) - 0.1f) < 1e-6f && lr_at(&p, 1000) == lr_at(&p, 110));
    p = (struct lr_plan){LR_WSD_LINEAR, 1, 0, 10, 20, 110};
    assert_true(lr_at(&p, 10) == 1 && lr_at(&p, 90) == 1);
    assert_true(fabsf(lr_at(&p, 95) - 0.75f) < 1e-6f && lr_at(&p, 110) == 0);
    p.kind = LR_WSD_SQRT;
    assert_true(fabsf(lr_at(&p, 95) - 0.5f) < 1e-6f && lr_at(&p, 110) == 0);
    p = (struct lr_plan){LR_CONSTANT, 0.5f, 0, 0, 0, 0};
    assert_true(lr_at(&p, 0) == 0.5f && lr_at(&p, 1 << 30) == 0.5f);
    for (int kind = LR_CONSTANT; kind <= LR_WSD_SQRT; kind++) {
        p = (struct lr_plan){(enum lr_kind)kind, 3e-4f, 3e-5f, 7, 11, 100};
        for (int i = 1; i < 120; i++) {
            float before = lr_at(&p, i - 1), now = lr_at(&p, i);
            assert_true(i < 7 ? now > before : now <= before);
            assert_true(now >= p.min && now <= p.peak);
        }
    }
}

static void a_schedule_that_cannot_be_is_refused(void **state) {
    (void)state;
    const struct lr_plan ok = {LR_COSINE, 1, 0, 10, 0, 100},
                         bad[] = {
                             {LR_COSINE, -1, 0, 0, 0, 10}, {LR_COSINE, NAN, 0, 0, 0, 10},
                             {LR_COSINE, 1, 2, 0, 0, 10},  {LR_COSINE, INFINITY, 0, 0, 0, 10},
                             {LR_COSINE, 1, 0, 11, 0, 10}, {LR_WSD_LINEAR, 1, 0, 5, 6, 10},
                             {LR_COSINE, 1, 0, -1, 0, 10},
                         };
    struct err err = {0};
    assert_ok(lr_check(&ok, &err), err);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (struct err){0};
        assert_int_equal(lr_check(&bad[i], &err), -1);
        assert_int_equal(err.code, E_USAGE);
    }
}

int main(void) {
    struct err err = {0};
    if (kern_init(&err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_update_is_the_one_of_the_paper),
        cmocka_unit_test(a_frozen_param_moves_neither_weights_nor_moments),
        cmocka_unit_test(clipping_bounds_the_norm_and_leaves_small_ones_alone),
        cmocka_unit_test(norm_and_update_have_the_same_bits_for_any_threads),
        cmocka_unit_test(schedules_pass_through_their_points),
        cmocka_unit_test(a_schedule_that_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
