/* dropout.c - claims about what a training pass leaves out (src/train/dropout.c, net.c): the right
 * share, exact gradients, and the same elements whoever computes them. */
#include "testing.h"

#include <math.h>

#include "base/rng.h"
#include "num/kern.h"
#include "tiny_cfg.h"
#include "train/dropout.h"
#include "train/net.h"

static int set_up(void **state) {
    (void)state;
    struct err e = {0};
    return kern_init(&e);
}

/* -- masks ------------------------------------------------------------------------------------- */

#define N 100000

static float ones[N], got[N], more[N];

static void the_share_left_out_is_p_and_the_sum_keeps_its_size(void **state) {
    (void)state;
    static const float p[] = {0.001f, 0.05f, 0.1f, 0.5f, 0.9f};
    for (int i = 0; i < N; i++)
        ones[i] = 1;
    for (int k = 0; k < 5; k++) {
        struct dropout d = dropout_at(p[k], 42, 3, DROP_MLP);
        double sum = 0, zeros = 0, sigma = sqrt((double)p[k] * (1 - (double)p[k]) / N);
        dropout_mask(&d, got, ones, 0, N);
        for (int i = 0; i < N; i++) {
            assert_true(got[i] == 0 || fabsf(got[i] * (1 - p[k]) - 1) < 1e-4f);
            zeros += got[i] == 0;
            sum += (double)got[i];
        }
        assert_true(fabs(zeros / N - (double)p[k]) < 4.5 * sigma);
        assert_true(fabs(sum / N - 1) < 4.5 * sigma / (1 - (double)p[k]));
    }
}

/* The share of elements that two masks of p = 1/2 agree on, the second one shifted. */
static double agreement(const struct dropout *a, const struct dropout *b, int shift) {
    double same = 0;
    dropout_mask(a, got, ones, 0, N);
    dropout_mask(b, more, ones, 0, N);
    for (int i = 0; i + shift < N; i++)
        same += (got[i] == 0) == (more[i + shift] == 0);
    return same / (N - shift);
}

static void masks_of_other_places_batches_and_neighbours_have_nothing_in_common(void **state) {
    (void)state;
    const double limit = 4.5 * 0.5 / sqrt(N);
    struct dropout d = dropout_at(0.5f, 7, 0, DROP_EMBED);
    const struct dropout other[] = {
        dropout_at(0.5f, 8, 0, DROP_EMBED),     dropout_at(0.5f, 7, 1, DROP_EMBED),
        dropout_at(0.5f, 7, 0, DROP_ATTENTION), dropout_at(0.5f, 7, 0, DROP_MLP),
        dropout_at(0.5f, 0, 0, DROP_EMBED),     dropout_at(0.5f, 7, 4, DROP_EMBED)};
    for (int i = 0; i < N; i++)
        ones[i] = 1;
    for (size_t k = 0; k < sizeof other / sizeof *other; k++)
        for (int shift = 0; shift < 4; shift++)
            assert_true(fabs(agreement(&d, &other[k], shift) - 0.5) < limit);
    static const int shifts[] = {1, 2, 3, 8, 24, 64, 768, 4096, 16384};
    for (size_t k = 0; k < sizeof shifts / sizeof *shifts; k++)
        assert_true(fabs(agreement(&d, &d, shifts[k]) - 0.5) < limit);
    assert_true(agreement(&d, &d, 0) == 1);
}

static void a_mask_does_not_depend_on_how_it_is_cut(void **state) {
    (void)state;
    struct dropout d = dropout_at(0.3f, 1, 2, DROP_ATTENTION);
    float x[500], whole[500], part[500], sum[500];
    for (int i = 0; i < 500; i++)
        x[i] = (float)(i + 1);
    dropout_mask(&d, whole, x, 0, 500);
    for (int at = 0, n = 1; at < 500; at += n++) {
        int len = n < 500 - at ? n : 500 - at;
        dropout_mask(&d, part + at, x + at, (size_t)at, len);
        dropout_add(&d, sum + at, x + at, x + at, (size_t)at, len);
    }
    assert_memory_equal(whole, part, sizeof whole);
    for (int i = 0; i < 500; i++)
        assert_true(sum[i] == x[i] + whole[i]);
}

/* -- passes ------------------------------------------------------------------------------------ */

enum { ROWS = 2, LEN = 11, CELLS = ROWS * LEN };

struct fixture {
    struct pool *pool;
    struct model *m;
    struct net *n;
    int32_t ids[CELLS], targets[CELLS];
    struct net_batch b;
};

static struct cfg shape(bool parallel, bool shared_norm) {
    struct cfg c = tiny_cfg();
    c.parallel = parallel;
    c.shared_norm = shared_norm;
    return c;
}

/* false: this processor has no bf16 */
static bool open_net(struct fixture *f, const struct cfg *c, struct net_opts o, int threads) {
    struct err e = {0};
    struct rng r;
    *f = (struct fixture){.pool = pool_new(threads)};
    const struct model_opts mo = {.dtype = DT_F32, .pool = f->pool, .no_tokenizer = true};
    if (!(f->m = model_random(c, 5, &mo, &e)))
        fail_msg("%s", e.msg);
    o.pool = f->pool;
    o.rows = ROWS;
    o.len = LEN;
    if (!(f->n = net_new(f->m, &o, &e))) {
        printf("  skipped in part: %s\n", e.msg);
        assert_int_equal(o.type, DT_BF16);
        model_close(f->m);
        pool_free(f->pool);
        return false;
    }
    rng_seed(&r, 9);
    struct params *ps = net_params(f->n);
    for (int i = 0; i < ps->n; i++)
        for (int k = 0; k < ps->p[i].rows * ps->p[i].cols; k++)
            ps->p[i].w[k] = ps->p[i].decay ? 0.35f * rng_normal(&r) : 1 + 0.2f * rng_normal(&r);
    params_changed(ps);
    for (int i = 0; i < CELLS; i++) {
        f->ids[i] = (int32_t)rng_below(&r, 37);
        f->targets[i] = (int32_t)rng_below(&r, 37);
    }
    f->b = (struct net_batch){.rows = ROWS,
                              .len = LEN,
                              .ids = f->ids,
                              .targets = f->targets,
                              .dropout = 0.3f,
                              .draw = 11};
    return true;
}

static void close_net(struct fixture *f) {
    net_free(f->n);
    model_close(f->m);
    pool_free(f->pool);
}

static double loss_of_pass(struct fixture *f) {
    struct err e = {0};
    struct net_loss l;
    net_zero_grad(f->n);
    params_changed(net_params(f->n));
    assert_ok(net_grad(f->n, &f->b, 1.0f / CELLS, &l, &e), e);
    return l.sum / (double)l.n;
}

/* Along the gradient g of each parameter, the loss under the same mask rises by ||g|| per unit. */
static void check_slopes(struct fixture *f, const char *what) {
    struct params *ps = net_params(f->n);
    float *all = malloc(ps->floats * sizeof *all);
    loss_of_pass(f);
    for (int i = 0; i < ps->n; i++)
        memcpy(all + ps->p[i].at, ps->p[i].g,
               (size_t)ps->p[i].rows * (size_t)ps->p[i].cols * sizeof *all);
    for (int i = 0; i < ps->n; i++) {
        const struct param *p = &ps->p[i];
        size_t n = (size_t)p->rows * (size_t)p->cols;
        const float *g = all + p->at;
        static const double at[] = {-2, -1, 1, 2};
        double norm = 0, loss[4];
        for (size_t k = 0; k < n; k++)
            norm += (double)g[k] * g[k];
        norm = sqrt(norm);
        assert_true(norm > 1e-4);
        float *keep = malloc(n * sizeof *keep);
        memcpy(keep, p->w, n * sizeof *keep);
        double step = 4e-3 / norm < 0.02 ? 4e-3 / norm : 0.02;
        for (int side = 0; side < 4; side++) {
            for (size_t k = 0; k < n; k++)
                p->w[k] = keep[k] + (float)(at[side] * step * g[k] / norm);
            loss[side] = loss_of_pass(f);
        }
        memcpy(p->w, keep, n * sizeof *keep);
        free(keep);
        double slope = (8 * (loss[2] - loss[1]) - (loss[3] - loss[0])) / (12 * step);
        if (!(fabs(slope / norm - 1) < 0.01 + 2e-6 / (step * norm)))
            fail_msg("%s: %s: gradient %g, slope %g", what, p->name, norm, slope);
    }
    free(all);
}

static void finite_differences_agree_under_one_mask(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool parallel, shared_norm, recompute;
    } row[] = {{"plain", false, false, false},
               {"recomputed", false, false, true},
               {"parallel", true, false, false},
               {"parallel, one norm", true, true, true}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct fixture f;
        struct cfg c = shape(row[i].parallel, row[i].shared_norm);
        open_net(&f, &c, (struct net_opts){.type = DT_F32, .recompute = row[i].recompute}, 2);
        check_slopes(&f, row[i].name);
        close_net(&f);
    }
}

/* The gradients of a pass; owned by the caller; NULL if this processor cannot. */
static float *gradient_bits(enum dtype type, bool recompute, int threads, float p, uint64_t draw,
                            size_t *bytes) {
    struct fixture f;
    struct cfg c = shape(false, false);
    if (!open_net(&f, &c, (struct net_opts){.type = type, .recompute = recompute}, threads))
        return NULL;
    f.b.dropout = p;
    f.b.draw = draw;
    loss_of_pass(&f);
    struct params *ps = net_params(f.n);
    *bytes = ps->floats * sizeof(float);
    float *bits = malloc(*bytes);
    memcpy(bits, ps->p[0].g - ps->p[0].at, *bytes);
    close_net(&f);
    return bits;
}

static void no_bit_depends_on_threads_or_recomputation(void **state) {
    (void)state;
    static const enum dtype types[] = {DT_F32, DT_BF16};
    for (int k = 0; k < 2; k++) {
        size_t bytes;
        float *want = gradient_bits(types[k], false, 1, 0.3f, 11, &bytes);
        if (!want)
            break;
        for (int threads = 1; threads <= 5; threads++) {
            float *again = gradient_bits(types[k], threads % 2 == 0, threads, 0.3f, 11, &bytes);
            assert_memory_equal(again, want, bytes);
            free(again);
        }
        float *other = gradient_bits(types[k], false, 1, 0.3f, 12, &bytes);
        assert_memory_not_equal(other, want, bytes);
        free(other);
        free(want);
    }
}

static void without_it_no_bit_changes_and_evaluation_never_sees_it(void **state) {
    (void)state;
    struct err e = {0};
    struct fixture f;
    struct cfg c = shape(false, false);
    struct net_loss plain, masked;
    float a[CELLS * 37], b[CELLS * 37];
    size_t bytes;
    float *none = gradient_bits(DT_F32, false, 2, 0, 11, &bytes);
    float *also = gradient_bits(DT_F32, false, 2, 0, 12, &bytes);
    assert_memory_equal(none, also, bytes);
    free(none);
    free(also);
    open_net(&f, &c, (struct net_opts){.type = DT_F32}, 2);
    double under = loss_of_pass(&f);
    assert_ok(net_eval(f.n, &f.b, &masked, &e), e);
    assert_ok(net_logits(f.n, &f.b, b, &e), e);
    f.b.dropout = 0;
    assert_ok(net_eval(f.n, &f.b, &plain, &e), e);
    assert_ok(net_logits(f.n, &f.b, a, &e), e);
    assert_true(masked.sum == plain.sum && under != plain.sum / (double)plain.n);
    assert_memory_equal(a, b, sizeof a);
    close_net(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_share_left_out_is_p_and_the_sum_keeps_its_size),
        cmocka_unit_test(masks_of_other_places_batches_and_neighbours_have_nothing_in_common),
        cmocka_unit_test(a_mask_does_not_depend_on_how_it_is_cut),
        cmocka_unit_test(finite_differences_agree_under_one_mask),
        cmocka_unit_test(no_bit_depends_on_threads_or_recomputation),
        cmocka_unit_test(without_it_no_bit_changes_and_evaluation_never_sees_it),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
