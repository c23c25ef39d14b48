/* kern.c - every entry of kern.def, at every level this processor has, beside ref.
 *
 * The table below is made from kern.def: a kernel without a check here does not compile.  Inputs
 * sit at odd addresses, outputs between guard bytes; sizes surround every vector width. */
#include "num/kern.h"

#include <math.h>

#include "base/rng.h"
#include "num/panel.h"
#include "num/quant.h"
#include "testing.h"

#ifdef __SANITIZE_ADDRESS__ /* then even reading a guard is an error */
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

static const int sizes[] = {0,  1,  2,  3,  7,  8,   9,   15,  16,  17,  31,
                            32, 33, 63, 64, 65, 100, 127, 128, 129, 257, 1000};
#define N_SIZES ((int)(sizeof sizes / sizeof *sizes))
#define MAX_N 1024
#define GUARD 64

static struct rng rng;

/* -- buffers with guards ----------------------------------------------------------------------- */

struct buf {
    unsigned char *raw;
    size_t bytes;
    void *p;
};

/* `bytes` bytes at `shift` past a 64-byte boundary, guards on both sides. */
static struct buf buf_new(size_t bytes, int shift) {
    struct buf b = {aligned_alloc(64, (bytes + (size_t)shift + 2 * GUARD + 63) / 64 * 64), bytes,
                    NULL};
    assert_non_null(b.raw);
    memset(b.raw, 0xa5, bytes + (size_t)shift + 2 * GUARD);
    b.p = b.raw + GUARD + shift;
    ASAN_POISON_MEMORY_REGION((char *)b.p - GUARD, GUARD);
    ASAN_POISON_MEMORY_REGION((char *)b.p + bytes, GUARD);
    return b;
}

static void buf_check_and_free(struct buf *b) {
    unsigned char *p = b->p;
    ASAN_UNPOISON_MEMORY_REGION(p - GUARD, b->bytes + 2 * GUARD);
    for (int i = 0; i < GUARD; i++) {
        assert_int_equal(p[-1 - i], 0xa5);
        assert_int_equal(p[b->bytes + (size_t)i], 0xa5);
    }
    free(b->raw);
}

/* A pair of equal buffers: one for ref, one for the level under test. */
struct two {
    struct buf r, k;
};

static struct two two_new(const void *src, size_t bytes, int shift) {
    struct two t = {buf_new(bytes, 4), buf_new(bytes, shift)};
    if (src && bytes) {
        memcpy(t.r.p, src, bytes);
        memcpy(t.k.p, src, bytes);
    }
    return t;
}

static void two_free(struct two *t) {
    buf_check_and_free(&t->r);
    buf_check_and_free(&t->k);
}

/* -- values ------------------------------------------------------------------------------------ */

enum values { NORMAL, WIDE, ZERO, EXTREME, N_VALUES };

static float value(enum values v) {
    static const float odd[] = {0,       -0.0f,  INFINITY, -INFINITY, NAN,    1e-40f,
                                -1e-40f, 3e38f,  -3e38f,   1e-30f,    65504,  65520,
                                1e-8f,   88.7f,  -88.7f,   104,       -104,   0.5f,
                                -20,     -13.1f, 6e-8f,    -1,        1.0e5f, -1e30f};
    float x = (float)rng_normal(&rng);
    switch (v) {
    case WIDE:
        return x * powf(10, (float)(rng_double(&rng) * 16 - 8));
    case ZERO:
        return 0;
    case EXTREME:
        return rng_double(&rng) < 0.5 ? odd[rng_below(&rng, sizeof odd / sizeof *odd)] : x;
    default:
        return x;
    }
}

static void fill(float *x, int n, enum values v) {
    for (int i = 0; i < n; i++)
        x[i] = value(v);
}

static void close_to(float got, float want, double tol, const char *name, int i) {
    bool ok = isnan(want)   ? isnan(got)
              : isinf(want) ? got == want
                            : fabs((double)got - want) <= tol;
    if (!ok)
        fail_msg("%s[%d]: %.9g, ref says %.9g, tolerance %g", name, i, (double)got, (double)want,
                 tol);
}

static void same_floats(const float *got, const float *want, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (memcmp(got + i, want + i, 4) != 0 && !(isnan(got[i]) && isnan(want[i])))
            fail_msg("%s[%d]: %.9g, ref says %.9g: not the same bits", name, i, (double)got[i],
                     (double)want[i]);
}

static int any_shift(void) {
    return 4 * (int)rng_below(&rng, 16);
}

#define FOR_N                                                                                      \
    for (int si = 0; si < N_SIZES; si++)                                                           \
        for (int n = sizes[si], once = 1; once; once = 0)

/* -- vectors ----------------------------------------------------------------------------------- */

static void check_rms_norm(const struct kern *r, const struct kern *k) {
    float x[MAX_N], w[MAX_N];
    FOR_N for (int v = NORMAL; v <= ZERO; v++) {
        if (n == 0)
            continue;
        fill(x, n, (enum values)v);
        fill(w, n, NORMAL);
        struct two y = two_new(x, (size_t)n * 4, any_shift());
        r->rms_norm(y.r.p, x, w, n, 1e-5f);
        k->rms_norm(y.k.p, y.k.p, w, n, 1e-5f); /* in place */
        for (int i = 0; i < n; i++) {
            float want = ((float *)y.r.p)[i];
            close_to(((float *)y.k.p)[i], want, 2e-6 * fabsf(want), "rms_norm", i);
        }
        two_free(&y);
    }
}

static void check_layer_norm(const struct kern *r, const struct kern *k) {
    float x[MAX_N], w[MAX_N], b[MAX_N];
    FOR_N for (int with_b = 0; with_b < 2; with_b++) {
        if (n == 0)
            continue;
        fill(x, n, NORMAL);
        fill(w, n, NORMAL);
        fill(b, n, NORMAL);
        struct two y = two_new(x, (size_t)n * 4, any_shift());
        r->layer_norm(y.r.p, x, w, with_b ? b : NULL, n, 1e-5f);
        k->layer_norm(y.k.p, y.k.p, w, with_b ? b : NULL, n, 1e-5f);
        /* n <= 3 may have almost no variance: what is left of x - mean is then mostly rounding */
        for (int i = 0; i < n; i++)
            close_to(((float *)y.k.p)[i], ((float *)y.r.p)[i],
                     (n < 4 ? 1e-3 : 2e-5) * (1 + fabsf(w[i]) * 4), "layer_norm", i);
        two_free(&y);
    }
}

static void check_pair(void (*r)(float *, const float *, int),
                       void (*k)(float *, const float *, int), const char *name) {
    float x[MAX_N], y0[MAX_N];
    FOR_N for (int v = NORMAL; v < N_VALUES; v++) {
        fill(x, n, (enum values)v);
        fill(y0, n, (enum values)v);
        struct two y = two_new(y0, (size_t)n * 4, any_shift());
        r(y.r.p, x, n);
        k(y.k.p, x, n);
        same_floats(y.k.p, y.r.p, n, name);
        two_free(&y);
    }
}

static void check_add(const struct kern *r, const struct kern *k) {
    check_pair(r->add, k->add, "add");
}

static void check_mul(const struct kern *r, const struct kern *k) {
    check_pair(r->mul, k->mul, "mul");
}

static void check_rope(const struct kern *r, const struct kern *k) {
    static const int dims[][3] = {{1, 2, 2},     {3, 8, 8},   {2, 48, 48},  {2, 56, 56},
                                  {2, 64, 64},   {1, 72, 72}, {3, 80, 32},  {2, 152, 20},
                                  {2, 128, 128}, {1, 40, 0},  {2, 256, 250}};
    float x[MAX_N], c[MAX_N], s[MAX_N];
    for (size_t t = 0; t < sizeof dims / sizeof *dims; t++) {
        int heads = dims[t][0], dim = dims[t][1], rope = dims[t][2], n = heads * dim;
        fill(x, n, NORMAL);
        for (int i = 0; i < rope / 2; i++) {
            c[i] = cosf((float)i);
            s[i] = sinf((float)i);
        }
        struct two y = two_new(x, (size_t)n * 4, any_shift());
        r->rope(y.r.p, c, s, heads, dim, rope);
        k->rope(y.k.p, c, s, heads, dim, rope);
        for (int i = 0; i < n; i++)
            close_to(((float *)y.k.p)[i], ((float *)y.r.p)[i], i % dim < rope ? 2e-6 : 0, "rope",
                     i);
        two_free(&y);
    }
}

/* |error| <= rel |want| + abs max(1, |x|) */
static void check_act(void (*r)(float *, int), void (*k)(float *, int), double rel, double abs,
                      const char *name) {
    float x[MAX_N];
    FOR_N for (int v = NORMAL; v < N_VALUES; v++) {
        fill(x, n, (enum values)v);
        struct two y = two_new(x, (size_t)n * 4, any_shift());
        r(y.r.p, n);
        k(y.k.p, n);
        for (int i = 0; i < n; i++) {
            float want = ((float *)y.r.p)[i];
            close_to(((float *)y.k.p)[i], want, rel * fabsf(want) + abs * fmax(1, fabsf(x[i])),
                     name, i);
        }
        two_free(&y);
    }
}

static void check_silu(const struct kern *r, const struct kern *k) {
    check_act(r->silu, k->silu, 1e-6, 1e-36, "silu");
}

static void check_gelu_tanh(const struct kern *r, const struct kern *k) {
    check_act(r->gelu_tanh, k->gelu_tanh, 3e-5, 1e-36,
              "gelu_tanh"); /* rel: e^u has the error of u, |u| < 90 */
}

static void check_gelu_erf(const struct kern *r, const struct kern *k) {
    check_act(r->gelu_erf, k->gelu_erf, 1e-6, 2e-7, "gelu_erf");
}

static void check_relu(const struct kern *r, const struct kern *k) {
    float x[MAX_N];
    FOR_N {
        fill(x, n, EXTREME);
        struct two y = two_new(x, (size_t)n * 4, any_shift());
        r->relu(y.r.p, n);
        k->relu(y.k.p, n);
        same_floats(y.k.p, y.r.p, n, "relu");
        two_free(&y);
    }
}

/* -- training --------------------------------------------------------------------------------- */

static void check_silu_slope(const struct kern *r, const struct kern *k) {
    check_act(r->silu_slope, k->silu_slope, 1e-6, 3e-7, "silu_slope");
}

static void check_gelu_tanh_slope(const struct kern *r, const struct kern *k) {
    check_act(r->gelu_tanh_slope, k->gelu_tanh_slope, 1e-6, 1e-6, "gelu_tanh_slope");
}

static void check_gelu_erf_slope(const struct kern *r, const struct kern *k) {
    check_act(r->gelu_erf_slope, k->gelu_erf_slope, 1e-6, 3e-7, "gelu_erf_slope");
}

static void check_scale(const struct kern *r, const struct kern *k) {
    float x[MAX_N];
    FOR_N for (int v = NORMAL; v < N_VALUES; v++) {
        fill(x, n, (enum values)v);
        struct two y = two_new(x, (size_t)n * 4, any_shift());
        r->scale(y.r.p, n, 0.7f);
        k->scale(y.k.p, n, 0.7f);
        same_floats(y.k.p, y.r.p, n, "scale");
        two_free(&y);
    }
}

static void check_softmax_grad(const struct kern *r, const struct kern *k) {
    float d[MAX_N], p[MAX_N];
    FOR_N {
        double sum = 0, size = 0;
        fill(d, n, NORMAL);
        for (int i = 0; i < n; i++)
            sum += p[i] = (float)rng_double(&rng);
        for (int i = 0; i < n; i++)
            size += fabs((p[i] /= (float)sum) * d[i]);
        struct two y = two_new(d, (size_t)n * 4, any_shift());
        struct buf q = buf_new((size_t)n * 4, any_shift());
        memcpy(q.p, p, (size_t)n * 4);
        r->softmax_grad(y.r.p, q.p, n, 0.3f);
        k->softmax_grad(y.k.p, q.p, n, 0.3f);
        for (int i = 0; i < n; i++)
            close_to(((float *)y.k.p)[i], ((float *)y.r.p)[i], 1e-6 * p[i] * (fabsf(d[i]) + size),
                     "softmax_grad", i);
        two_free(&y);
        buf_check_and_free(&q);
    }
}

static void check_norm_grad(const struct kern *r, const struct kern *k) {
    float v[4][MAX_N];
    FOR_N for (int centred = 0; centred < 2; centred++) {
        struct buf in[3]; /* dy, x, w */
        const float stat[2] = {centred ? 0.3f : 0, 1.7f};
        for (int i = 0; i < 4; i++)
            fill(v[i], n, NORMAL);
        struct two y = two_new(v[3], (size_t)n * 4, any_shift());
        for (int i = 0; i < 3; i++) {
            in[i] = buf_new((size_t)n * 4, any_shift());
            memcpy(in[i].p, v[i], (size_t)n * 4);
        }
        r->norm_grad(y.r.p, in[0].p, in[1].p, in[2].p, n, stat, centred);
        k->norm_grad(y.k.p, in[0].p, in[1].p, in[2].p, n, stat, centred);
        for (int i = 0; i < n; i++)
            close_to(((float *)y.k.p)[i], ((float *)y.r.p)[i], 3e-5, "norm_grad", i);
        two_free(&y);
        for (int i = 0; i < 3; i++)
            buf_check_and_free(&in[i]);
    }
}

static void check_adamw(const struct kern *r, const struct kern *k) {
    float v[4][MAX_N];
    const struct adamw_rates o = {0.9f, 0.95f, 1e-8f, 0.99f, 0.01f, 1.3f, 0.5f};
    FOR_N for (int zero = 0; zero < 2; zero++) { /* w, m, v, g; all 0: no 0 / 0 */
        struct two y[4];
        for (int i = 0; i < 4; i++) {
            fill(v[i], n, zero ? ZERO : NORMAL);
            for (int j = 0; j < n && i == 2; j++)
                v[i][j] *= v[i][j];
            y[i] = two_new(v[i], (size_t)n * 4, any_shift());
        }
        r->adamw(y[0].r.p, y[1].r.p, y[2].r.p, y[3].r.p, n, &o);
        k->adamw(y[0].k.p, y[1].k.p, y[2].k.p, y[3].k.p, n, &o);
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < n; j++) {
                float want = ((float *)y[i].r.p)[j];
                close_to(((float *)y[i].k.p)[j], want, 1e-6 * (1 + fabsf(want)), "adamw", j);
            }
            two_free(&y[i]);
        }
    }
}

/* -- attention --------------------------------------------------------------------------------- */

static void check_softmax_exp(const struct kern *r, const struct kern *k) {
    float x[MAX_N];
    FOR_N for (int v = NORMAL; v < N_VALUES + 2; v++) {
        fill(x, n, v < N_VALUES ? (enum values)v : NORMAL);
        for (int i = 0; i < n && v >= N_VALUES; i++) /* all masked; all but one in 7 masked */
            x[i] = v == N_VALUES || i % 7 ? -INFINITY : x[i];
        struct two y = two_new(x, (size_t)n * 4, any_shift());
        float want = r->softmax_exp(y.r.p, n), got = k->softmax_exp(y.k.p, n);
        close_to(got, want, 2e-6 * fabsf(want), "softmax_exp sum", n);
        for (int i = 0; i < n; i++) {
            float e = ((float *)y.r.p)[i];
            close_to(((float *)y.k.p)[i], e, 3e-7 * fabsf(e) + 3e-45, "softmax_exp", i);
        }
        two_free(&y);
    }
}

static void check_peaks(const struct kern *r, const struct kern *k) {
    float x[MAX_N], want[MAX_N / PEAK_OF + 1], got[MAX_N / PEAK_OF + 1];
    FOR_N for (int v = NORMAL; v < N_VALUES + 1; v++) {
        fill(x, n, v < N_VALUES ? (enum values)v : NORMAL);
        for (int i = 0; i < n && v == N_VALUES; i++) /* as masks leave it */
            x[i] = i % 7 ? -INFINITY : x[i];
        bool nan = r->peaks(want, x, n);
        assert_int_equal(k->peaks(got, x, n), nan);
        for (int i = 0; i * PEAK_OF < n && !nan; i++)
            assert_true(got[i] == want[i]);
        for (int at = 0; at < n && !nan; at += 1 + n / 9) { /* wherever it hides */
            float was = x[at];
            x[at] = NAN;
            assert_true(r->peaks(want, x, n) && k->peaks(got, x, n));
            x[at] = was;
        }
    }
}

#include "kern_attend.h"

/* -- activations ------------------------------------------------------------------------------- */

static void check_pack(void (*r)(void *, const float *, int),
                       void (*k)(void *, const float *, int)) {
    float x[MAX_N];
    FOR_N for (int v = NORMAL; v < N_VALUES; v++) {
        fill(x, n, (enum values)v);
        struct two y = two_new(NULL, (size_t)n * 2, any_shift() + 2);
        r(y.r.p, x, n);
        k(y.k.p, x, n);
        assert_memory_equal(y.k.p, y.r.p, (size_t)n * 2);
        two_free(&y);
    }
}

static void check_f16_pack(const struct kern *r, const struct kern *k) {
    check_pack(r->f16_pack, k->f16_pack);
}

static void check_bf16_pack(const struct kern *r, const struct kern *k) {
    check_pack(r->bf16_pack, k->bf16_pack);
}

static void check_q8x_pack(const struct kern *r, const struct kern *k) {
    float x[MAX_N];
    for (int n = 0; n <= MAX_N; n += n < 96 ? 32 : 320)
        for (int v = NORMAL; v < N_VALUES; v++) {
            fill(x, n, (enum values)v);
            struct two y = two_new(NULL, (size_t)(n / 32) * sizeof(struct q8x), any_shift());
            r->q8x_pack(y.r.p, x, n);
            k->q8x_pack(y.k.p, x, n);
            const struct q8x *a = y.r.p, *b = y.k.p;
            for (int i = 0; i < n / 32; i++) {
                same_floats(&b[i].d, &a[i].d, 1, "q8x_pack d");
                same_floats(&b[i].s, &a[i].s, 1, "q8x_pack s");
                assert_memory_equal(b[i].q, a[i].q, 32);
                assert_memory_equal(b[i].sum, a[i].sum, sizeof a[i].sum);
            }
            two_free(&y);
        }
}

static void check_i8x_pack(const struct kern *r, const struct kern *k) {
    static const int counts[] = {0, 4, 16, 20, 64, 172, 252, 256, 260, 352, 1000, 1024};
    float x[MAX_N];
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int v = NORMAL, n = counts[c]; v < N_VALUES; v++) {
            fill(x, n, (enum values)v);
            struct two y = two_new(NULL, i8x_bytes(n), any_shift());
            r->i8x_pack(y.r.p, x, n);
            k->i8x_pack(y.k.p, x, n);
            int step = (int)sizeof(struct i8x) + int8_group(n);
            for (int at = 0; at < (int)i8x_bytes(n); at += step) {
                const struct i8x *a = (void *)((char *)y.r.p + at);
                const struct i8x *b = (void *)((char *)y.k.p + at);
                int left = (int)i8x_bytes(n) - at;
                same_floats(&b->d, &a->d, 1, "i8x_pack d");
                assert_int_equal(b->sum, a->sum);
                assert_memory_equal(b->q, a->q, (left < step ? left : step) - (int)sizeof *a);
            }
            two_free(&y);
        }
}

/* -- matrices ---------------------------------------------------------------------------------- */

static const int tokens[] = {1, 2, 3, 4, 5, 6, 7, 11, 13};
static const int rows[] = {0, 1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 50};
#define MAX_M 13
#define MAX_ROWS 50
#define MAX_K 1024

typedef void gemm_fn(const struct gemm *);

/* Runs both with the same operands; y has a gap of 3 floats after each row, which must stay as
 * it was. */
static struct two run_gemm(gemm_fn *r, gemm_fn *k, struct gemm g) {
    g.ldy = (size_t)g.n + 3;
    size_t bytes = g.ldy * (size_t)g.m * 4;
    struct two y = two_new(NULL, bytes, any_shift());
    memset(y.r.p, 0xa5, bytes);
    g.y = y.r.p;
    r(&g);
    g.y = y.k.p;
    k(&g);
    for (int i = 0; i < g.m; i++)
        for (size_t j = (size_t)g.n * 4; j < g.ldy * 4; j++)
            assert_int_equal(((unsigned char *)y.k.p)[(size_t)i * g.ldy * 4 + j], 0xa5);
    return y;
}

/* MAX_ROWS rows in row form, which are freed, as panels. */
static struct buf panels_of(enum dtype t, struct buf *raw, int cols) {
    struct buf w = buf_new(dtype_mat_bytes(t, MAX_ROWS, cols), 2);
    size_t row = dtype_row_bytes(t, cols);
    for (int i = 0; i < MAX_ROWS; i += PANEL)
        panel_pack(t, (char *)raw->p + (size_t)i * row, MAX_ROWS - i < PANEL ? MAX_ROWS - i : PANEL,
                   cols, (char *)w.p + (size_t)i * row);
    buf_check_and_free(raw);
    return w;
}

static void check_gemm_float(gemm_fn *r, gemm_fn *k, enum dtype wt, enum dtype xt) {
    static const int ks[] = {1, 3, 15, 16, 17, 31, 32, 33, 48, 56, 64, 72, 80, 152, 172, 257, 1000};
    static float xf[MAX_M * MAX_K], wf[MAX_ROWS * MAX_K];
    for (size_t ki = 0; ki < sizeof ks / sizeof *ks; ki++) {
        int d = ks[ki];
        size_t ldx = dtype_row_bytes(xt, d) + (xt == DT_BF16 ? 2 : 8), ldw = dtype_row_bytes(wt, d);
        struct buf x = buf_new(ldx * MAX_M, 4), w = buf_new(ldw * MAX_ROWS, wt == DT_F32 ? 4 : 2);
        for (int i = 0; i < MAX_M + MAX_ROWS; i++) {
            bool is_x = i < MAX_M;
            char *row =
                is_x ? (char *)x.p + (size_t)i * ldx : (char *)w.p + (size_t)(i - MAX_M) * ldw;
            float *f = is_x ? xf + i * d : wf + (i - MAX_M) * d;
            fill(f, d, NORMAL);
            row_from_f32(is_x ? xt : wt, f, row, d);
            row_to_f32(is_x ? xt : wt, row, f, d);
        }
        if (dtype_info(wt)->panel > 1)
            w = panels_of(wt, &w, d);
        for (size_t mi = 0; mi < sizeof tokens / sizeof *tokens; mi++)
            for (size_t ni = 0; ni < sizeof rows / sizeof *rows; ni++) {
                struct gemm g = {.x = x.p,
                                 .ldx = ldx,
                                 .w = w.p,
                                 .ldw = ldw,
                                 .m = tokens[mi],
                                 .n = rows[ni],
                                 .k = d};
                struct two y = run_gemm(r, k, g);
                for (int i = 0; i < g.m * g.n; i++) {
                    double size = 0;
                    for (int l = 0; l < d; l++)
                        size += fabs((double)xf[i / g.n * d + l] * wf[i % g.n * d + l]);
                    size_t at = (size_t)(i / g.n) * (size_t)(g.n + 3) + (size_t)(i % g.n);
                    close_to(((float *)y.k.p)[at], ((float *)y.r.p)[at], 1e-6 * size,
                             dtype_info(wt)->name, i);
                }
                two_free(&y);
            }
        buf_check_and_free(&x);
        buf_check_and_free(&w);
    }
}

static void check_gemm_f32(const struct kern *r, const struct kern *k) {
    check_gemm_float(r->gemm_f32, k->gemm_f32, DT_F32, DT_F32);
}

static void check_gemm_f16(const struct kern *r, const struct kern *k) {
    check_gemm_float(r->gemm_f16, k->gemm_f16, DT_F16, DT_F32);
}

static void check_gemm_bf16(const struct kern *r, const struct kern *k) {
    check_gemm_float(r->gemm_bf16, k->gemm_bf16, DT_BF16, DT_BF16);
}

/* Random bytes are valid weights of every type; their scales may be anything, infinities and NaN
 * included. Every other round has them ordinary, and integers at their extremes. */
static void random_weights(unsigned char *w, size_t bytes, enum dtype t, bool tame) {
    size_t block = (size_t)dtype_info(t)->bytes;
    for (size_t i = 0; i < bytes; i++)
        w[i] = (unsigned char)(tame && i % 3 == 0 ? (i % 2 ? 0x80 : 0xff) : rng_below(&rng, 256));
    for (size_t b = 0; tame && t != DT_INT8 && b < bytes; b += block) {
        static const unsigned char half[] = {0x1e, 0x21, 0x9f,
                                             0x23}; /* high bytes of ordinary halves */
        w[b + (t == DT_Q6_K ? 209 : 1)] = half[rng_below(&rng, 4)];
        if (t == DT_Q4_1 || t == DT_Q5_1 || t == DT_Q4_K || t == DT_Q5_K)
            w[b + 3] = half[rng_below(&rng, 4)];
    }
}

/* The same in panels.  INT8's scale is a float in front of a row. */
static void random_panels(unsigned char *w, enum dtype t, int n_row, int cols, bool tame) {
    size_t row = dtype_row_bytes(t, cols);
    unsigned char raw[PANEL * (MAX_K + 4 * MAX_K / 16)];
    for (int r = 0; r < n_row; r += PANEL) {
        random_weights(raw, PANEL * row, t, tame);
        for (int k = 0; k < PANEL && tame && t == DT_INT8; k++) {
            float d = (float)rng_normal(&rng);
            for (size_t b = 0; b < row; b += 4 + (size_t)int8_group(cols))
                memcpy(raw + (size_t)k * row + b, &d, 4);
        }
        panel_pack(t, raw, PANEL, cols, w + (size_t)r * row);
    }
}

/* MOST rows of weights in panels, MOST_TOKENS of activations. */
struct panels {
    enum dtype t;
    int k;
    size_t ldx;
    struct buf w, x;
};
#define MOST 150
#define MOST_TOKENS 101

static struct panels panels_new(const struct kern *ref, enum dtype t, int k, bool tame) {
    size_t ldx = t == DT_INT8 ? i8x_bytes(k) : (size_t)(k / 32) * sizeof(struct q8x);
    struct panels p = {t, k, ldx, buf_new(dtype_mat_bytes(t, MOST, k), 1),
                       buf_new(ldx * MOST_TOKENS, 4)};
    random_panels(p.w.p, t, MOST, k, tame);
    for (int i = 0; i < MOST_TOKENS; i++) {
        float f[MAX_K];
        void *xi = (char *)p.x.p + (size_t)i * ldx;
        for (int l = 0; l < k; l++) /* token 1: all largest */
            f[l] = i == 1 ? (l / 64 % 2 ? 1 : -1) : value(i == 2 ? WIDE : NORMAL);
        if (t == DT_INT8)
            ref->i8x_pack(xi, f, k);
        else
            ref->q8x_pack(xi, f, k);
    }
    return p;
}

static void panels_free(struct panels *p) {
    buf_check_and_free(&p->x);
    buf_check_and_free(&p->w);
}

static void same_product(gemm_fn *r, gemm_fn *k, const struct panels *p, int m, int n) {
    struct gemm g = {.x = p->x.p, .ldx = p->ldx, .w = p->w.p, .m = m, .n = n, .k = p->k};
    g.ldw = dtype_row_bytes(p->t, p->k);
    struct two y = run_gemm(r, k, g);
    for (int i = 0; i < m; i++)
        same_floats((float *)y.k.p + i * (n + 3), (float *)y.r.p + i * (n + 3), n,
                    dtype_info(p->t)->name);
    two_free(&y);
}

static void check_gemm_panel(gemm_fn *r, gemm_fn *k, const struct kern *ref, enum dtype t) {
    /* none, some and all of the groups of panels that kernels take at once, and what is left */
    static const int counts[] = {0, 1, 7, 16, 17, 48, 64, 65, 97, MOST};
    static const int ks[] = {4, 32, 36, 64, 96, 172, 256, 480, 512, 544, 768, 1024};
    for (size_t ki = 0; ki < 2 * sizeof ks / sizeof *ks; ki++) {
        if (ks[ki / 2] % dtype_info(t)->block)
            continue;
        struct panels p = panels_new(ref, t, ks[ki / 2], ki % 2);
        for (size_t mi = ki % 2; mi < sizeof tokens / sizeof *tokens; mi += 2)
            for (size_t ni = 0; ni < sizeof counts / sizeof *counts; ni++)
                same_product(r, k, &p, tokens[mi], counts[ni]);
        same_product(r, k, &p, ki % 2 ? 80 : MOST_TOKENS, ki % 2 ? 55 : 32); /* a prompt */
        panels_free(&p);
    }
}

static void check_gemm_int8(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_int8, k->gemm_int8, r, DT_INT8);
}

static void check_gemm_int4(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_int4, k->gemm_int4, r, DT_INT4);
}

static void check_gemm_q8_0(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_q8_0, k->gemm_q8_0, r, DT_Q8_0);
}

static void check_gemm_q4_0(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_q4_0, k->gemm_q4_0, r, DT_Q4_0);
}

static void check_gemm_q4_1(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_q4_1, k->gemm_q4_1, r, DT_Q4_1);
}

static void check_gemm_q5_0(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_q5_0, k->gemm_q5_0, r, DT_Q5_0);
}

static void check_gemm_q5_1(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_q5_1, k->gemm_q5_1, r, DT_Q5_1);
}

static void check_gemm_q4_k(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_q4_k, k->gemm_q4_k, r, DT_Q4_K);
}

static void check_gemm_q5_k(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_q5_k, k->gemm_q5_k, r, DT_Q5_K);
}

static void check_gemm_q6_k(const struct kern *r, const struct kern *k) {
    check_gemm_panel(r->gemm_q6_k, k->gemm_q6_k, r, DT_Q6_K);
}

/* -- probes ------------------------------------------------------------------------------------ */

static void check_probe(double (*probe)(long)) {
    double one = probe(1000);
    assert_true(one > 0);
    assert_true(probe(3000) == 3 * one);
    assert_true(probe(0) == 0);
}

static void check_probe_f32(const struct kern *r, const struct kern *k) {
    (void)r;
    check_probe(k->probe_f32);
}

static void check_probe_bf16(const struct kern *r, const struct kern *k) {
    (void)r;
    check_probe(k->probe_bf16);
}

static void check_probe_i8(const struct kern *r, const struct kern *k) {
    (void)r;
    check_probe(k->probe_i8);
}

static void check_probe_read(const struct kern *r, const struct kern *k) {
    struct buf b = buf_new(64 * 40, 8);
    for (size_t i = 0; i < b.bytes; i++)
        ((unsigned char *)b.p)[i] = (unsigned char)rng_below(&rng, 256);
    for (size_t n = 0; n <= b.bytes; n += 32)
        assert_true(k->probe_read(b.p, n) == r->probe_read(b.p, n));
    buf_check_and_free(&b);
}

/* -- the walk ---------------------------------------------------------------------------------- */

#define KERN(ret, name, params) {#name, offsetof(struct kern, name), check_##name},
static const struct {
    const char *name;
    size_t at;
    void (*check)(const struct kern *ref, const struct kern *k);
} entries[] = {
#include "num/kern.def"
};
#undef KERN

static void every_kernel_of_every_level_agrees_with_ref(void **state) {
    (void)state;
    static void (*const fill_level[])(struct kern *) = {kern_ref,    kern_avx2, kern_avxvnni,
                                                        kern_avx512, kern_vnni, kern_bf16};
    struct kern ref, below, k;
    kern_ref(&ref);
    k = ref;
    FOR_SEEDS(2) {
        k = ref;
        for (int l = ISA_AVX2; l < ISA_COUNT; l++) {
            int n = 0;
            if (!kern_has((enum isa)l))
                continue;
            below = k;
            fill_level[l](&k);
            for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
                if (memcmp((char *)&k + entries[i].at, (char *)&below + entries[i].at,
                           sizeof(void *)) == 0)
                    continue;
                printf("  seed %d %s %s\n", (int)seed, isa_name((enum isa)l), entries[i].name);
                rng_seed(&rng, seed);
                entries[i].check(&ref, &k);
                n++;
            }
            assert_true(n > 0);
        }
    }
}

static void an_impossible_level_is_a_usage_error(void **state) {
    (void)state;
    struct err e = {0};
    setenv("PUMICE_ISA", "mmx", 1);
    assert_int_equal(kern_init(&e), -1);
    assert_int_equal(e.code, E_USAGE);
    assert_non_null(strstr(e.msg, "mmx"));
    for (int l = 0; l < ISA_COUNT; l++) {
        e = (struct err){0};
        setenv("PUMICE_ISA", isa_name((enum isa)l), 1);
        assert_int_equal(kern_init(&e), kern_has((enum isa)l) ? 0 : -1);
        assert_int_equal(e.code, kern_has((enum isa)l) ? 0 : E_USAGE);
    }
    e = (struct err){0};
    setenv("PUMICE_ISA", "REF", 1);
    assert_ok(kern_init(&e), e);
    assert_int_equal(kern_level(), ISA_REF);
    unsetenv("PUMICE_ISA");
    assert_ok(kern_init(&e), e);
    assert_int_equal(kern_level(), kern_best());
}

/* Processors with AVX-512 may lack AVX-VNNI. */
static void levels_of_avx512_have_no_kernel_of_avxvnni(void **state) {
    (void)state;
    struct err e = {0};
    struct kern avx2, narrow;
    enum isa best = kern_best();
    if (!kern_has(ISA_AVXVNNI) || !kern_has(ISA_AVX512)) {
        printf("  skipped: this processor has not both\n");
        skip();
    }
    assert_ok(kern_force(ISA_AVX2, &e), e);
    avx2 = kern;
    assert_ok(kern_force(ISA_AVXVNNI, &e), e);
    narrow = kern;
    assert_ok(kern_force(ISA_AVX512, &e), e);
    assert_true(narrow.gemm_q8_0 != avx2.gemm_q8_0 && kern.gemm_q8_0 == avx2.gemm_q8_0);
    assert_true(narrow.gemm_int8 != avx2.gemm_int8 && kern.gemm_int8 == avx2.gemm_int8);
    assert_ok(kern_force(best, &e), e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_of_avx512_have_no_kernel_of_avxvnni),
        cmocka_unit_test(an_impossible_level_is_a_usage_error),
        cmocka_unit_test(every_kernel_of_every_level_agrees_with_ref),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
