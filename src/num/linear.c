/* linear.c - see linear.h.
 *
 * The activations are converted once per call to what the weights' types read, then threads take
 * rows of the products as they come.  All blocking for caches is the kernels'. */
#include "num/linear.h"

#include <assert.h>
#include <stdlib.h>

#include "base/mem.h"
#include "num/kern.h"

#define UNIT 64 /* rows of weights that stay together: panels that prompts handle at once       */
#define MAX_OUT 4
#define FEW 4 /* up to so many tokens are converted without waking the pool        */

enum act { ACT_F32, ACT_BF16, ACT_Q8X, ACT_I8X, ACT_COUNT };

struct linear_ctx {
    struct pool *pool;
    int max_tok, max_cols;
    size_t bytes[ACT_COUNT];  /* of scratch, from mem_pages                     */
    void *scratch[ACT_COUNT]; /* owned; tokens of converted activations            */
};

struct job {
    struct linear_ctx *l;
    const float *x;
    int n_tok, cols, n_out;
    const struct linear_out *out;
    bool need[ACT_COUNT];
};

static enum act act_of(enum dtype t) {
    if (t == DT_F32 || t == DT_F16)
        return ACT_F32;
    return t == DT_BF16 ? ACT_BF16 : t == DT_INT8 ? ACT_I8X : ACT_Q8X;
}

static size_t act_row_bytes(enum act a, int cols) {
    switch (a) {
    case ACT_F32:
        return (size_t)cols * sizeof(float);
    case ACT_BF16:
        return (size_t)cols * 2;
    case ACT_I8X:
        return i8x_bytes(cols);
    default:
        return (size_t)(cols / 32) * sizeof(struct q8x);
    }
}

/* From token to token: not a power of two, or all of them would share a few lines of a cache. */
static size_t act_stride(enum act a, int cols) {
    return act_row_bytes(a, cols) / 64 * 64 + 128;
}

static void gemm(enum dtype t, const struct gemm *g) {
    void (*const by_type[DT_COUNT])(const struct gemm *) = {
        /* ORDER: enum dtype */
        kern.gemm_f32,  kern.gemm_f16,  kern.gemm_bf16, kern.gemm_q8_0, kern.gemm_q4_0,
        kern.gemm_q4_1, kern.gemm_q5_0, kern.gemm_q5_1, kern.gemm_q4_k, kern.gemm_q5_k,
        kern.gemm_q6_k, kern.gemm_int8, kern.gemm_int4,
    };
    by_type[t](g);
}

struct linear_ctx *linear_new(struct pool *pool, int max_tok, int max_cols, struct err *err) {
    struct linear_ctx *l = mem_new(sizeof *l);
    *l = (struct linear_ctx){.pool = pool, .max_tok = max_tok, .max_cols = max_cols};
    for (int a = ACT_BF16; a < ACT_COUNT; a++) {
        size_t bytes;
        size_t row = act_stride((enum act)a, max_cols + 31);
        if (a == ACT_I8X) /* fewer columns may have groups of 8, each with as many bytes more */
            row = 2 * (size_t)(max_cols + 31) + 128;
        if (!size_mul((size_t)max_tok, row, &bytes)) {
            err_set(err, E_MEMORY, "activations: %d tokens of %d inputs are too many", max_tok,
                    max_cols);
            goto fail;
        }
        if (!(l->scratch[a] = mem_pages(bytes, "activations", err)))
            goto fail;
        l->bytes[a] = bytes;
    }
    return l;
fail:
    linear_free(l);
    return NULL;
}

void linear_free(struct linear_ctx *l) {
    if (!l)
        return;
    for (int a = 0; a < ACT_COUNT; a++)
        if (l->scratch[a])
            mem_pages_free(l->scratch[a], l->bytes[a]);
    free(l);
}

struct pool *linear_pool(struct linear_ctx *l) {
    return l->pool;
}

static void *token(const struct job *j, enum act a, int t) {
    return (char *)j->l->scratch[a] + (size_t)t * act_stride(a, j->cols);
}

static void convert(void *arg, int lo, int hi) {
    const struct job *j = arg;
    for (int t = lo; t < hi; t++) {
        const float *x = j->x + (size_t)t * (size_t)j->cols;
        if (j->need[ACT_BF16])
            kern.bf16_pack(token(j, ACT_BF16, t), x, j->cols);
        if (j->need[ACT_Q8X])
            kern.q8x_pack(token(j, ACT_Q8X, t), x, j->cols);
        if (j->need[ACT_I8X])
            kern.i8x_pack(token(j, ACT_I8X, t), x, j->cols);
    }
}

static void add_bias(float *y, size_t ldy, const float *bias, int n_tok, int n) {
    for (int t = 0; t < n_tok; t++)
        kern.add(y + (size_t)t * ldy, bias, n);
}

/* Rows lo .. hi - 1 of a product. */
static void multiply_rows(const struct job *j, const struct linear_out *o, int lo, int hi) {
    enum act a = act_of(o->w->type);
    struct gemm g = {
        .y = o->y + lo,
        .ldy = (size_t)o->w->rows,
        .x = a == ACT_F32 ? (const void *)j->x : j->l->scratch[a],
        .ldx = a == ACT_F32 ? act_row_bytes(a, j->cols) : act_stride(a, j->cols),
        .w = mat_row(o->w, lo),
        .ldw = dtype_row_bytes(o->w->type, j->cols),
        .m = j->n_tok,
        .n = hi - lo,
        .k = j->cols,
    };
    gemm(o->w->type, &g);
    if (o->bias)
        add_bias(g.y, g.ldy, o->bias + lo, g.m, g.n);
}

static int units_of(const struct linear_out *o) {
    return (o->w->rows + UNIT - 1) / UNIT;
}

/* Units lo .. hi - 1, counted through all products. */
static void multiply(void *arg, int lo, int hi) {
    const struct job *j = arg;
    for (int i = 0; i < j->n_out && hi > 0; i++) {
        const struct linear_out *o = &j->out[i];
        int n = units_of(o), a = lo > 0 ? lo : 0, b = hi < n ? hi : n;
        if (a < b)
            multiply_rows(j, o, a * UNIT, b * UNIT < o->w->rows ? b * UNIT : o->w->rows);
        lo -= n;
        hi -= n;
    }
}

void linear(struct linear_ctx *l, const float *x, int n_tok, const struct linear_out *out,
            int n_out) {
    assert(n_out >= 1 && n_out <= MAX_OUT && n_tok <= l->max_tok && out[0].w->cols <= l->max_cols);
    if (n_tok < 1)
        return;
    struct job j = {l, x, n_tok, out[0].w->cols, n_out, out, {false}};
    for (int i = 0; i < n_out; i++) {
        assert(out[i].w->cols == j.cols && j.cols % dtype_info(out[i].w->type)->block == 0);
        j.need[act_of(out[i].w->type)] = true;
    }
    if (j.need[ACT_BF16] || j.need[ACT_Q8X] || j.need[ACT_I8X]) {
        if (n_tok <= FEW)
            convert(&j, 0, n_tok);
        else
            pool_each(l->pool, n_tok, convert, &j);
    }
    int units = 0;
    for (int i = 0; i < n_out; i++)
        units += units_of(&out[i]);
    pool_each(l->pool, units, multiply, &j);
}
