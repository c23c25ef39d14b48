/* kern_attend.h - the attention kernels beside ref, for kern.c, whose buffers and values it uses.
 * exception: part of that program. */
#include "num/attend.h"

#define MAX_TILE 13 /* rows */

struct split { /* blocks of random keys and values, and queries for them */
    enum dtype type;
    int d, m, n; /* n tokens are seen by some row */
    struct buf block[2][ATTEND_SPLIT / ATTEND_BLOCK], q, tmp;
    const char *k[ATTEND_SPLIT / ATTEND_BLOCK], *v[ATTEND_SPLIT / ATTEND_BLOCK];
    struct attend_keys see[MAX_TILE];
    struct attend a;
};

/* Token j's key and value; a token that is not a number must not be noticed by rows that do not
 * see it. */
static void put_token(struct split *s, int j, int c, bool bad) {
    float x[256];
    for (int key = 0; key < 2; key++) {
        fill(x, c, NORMAL);
        for (int i = 0; i < c && bad; i++)
            x[i] = i % 2 ? NAN : INFINITY;
        (key ? attend_put_k : attend_put_v)(s->type, s->block[key][j / ATTEND_BLOCK].p,
                                            j % ATTEND_BLOCK, x, c);
    }
}

/* Rows of a few tokens by `group` heads, whose last token sees n keys; windows of `window`. */
static void split_new(struct split *s, enum dtype t, int c, int n, int group, int window) {
    *s = (struct split){.type = t, .d = attend_dim(c), .m = 1 + (int)rng_below(&rng, MAX_TILE)};
    s->n = n;
    for (int b = 0; b * ATTEND_BLOCK < n; b++)
        for (int key = 0; key < 2; key++) {
            s->block[key][b] = buf_new(attend_block_bytes(t, c), 0);
            memset(s->block[key][b].p, 0, s->block[key][b].bytes);
            *(key ? &s->k[b] : &s->v[b]) = s->block[key][b].p;
        }
    for (int r = s->m - 1; r >= 0; r--) {
        int hi = n - (s->m - 1 - r) / group, lo = window && hi > window ? hi - window : 0;
        if (hi < 1) { /* no more rows that see anything */
            memmove(s->see, s->see + r + 1, (size_t)(s->m - 1 - r) * sizeof *s->see);
            s->m -= r + 1;
            break;
        }
        s->see[r] = (struct attend_keys){lo, hi};
    }
    for (int j = 0; j < (n + ATTEND_BLOCK - 1) / ATTEND_BLOCK * ATTEND_BLOCK; j++)
        put_token(s, j, c, j < s->see[0].lo || j >= n || (window && j == n - 1));
    s->q = buf_new((size_t)(s->m * s->d) * 4, any_shift());
    s->tmp = buf_new((size_t)(2 * ATTEND_ROWS * s->d), any_shift());
    float *q = s->q.p;
    fill(q, s->m * s->d, NORMAL);
    for (int i = 0; i < s->m * s->d; i++) {
        q[i] *= i % s->d < c ? 1.4f / sqrtf((float)c) : 0;
        unsigned short h; /* products with bfloat16 are then exact */
        row_from_f32(DT_BF16, q + i, &h, 1);
        row_to_f32(DT_BF16, &h, q + i, 1);
    }
    s->a = (struct attend){q, s->k, s->v, s->see, NULL, s->tmp.p, s->m, s->d};
}

static void split_free(struct split *s) {
    for (int b = 0; b * ATTEND_BLOCK < s->n; b++)
        for (int key = 0; key < 2; key++)
            buf_check_and_free(&s->block[key][b]);
    buf_check_and_free(&s->q);
    buf_check_and_free(&s->tmp);
}

typedef void attend_fn(const struct attend *a);

/* Each row by itself must give the same bits. */
static void check_rows_alone(attend_fn *k, const struct split *s, const float *tile) {
    size_t row = (size_t)(ATTEND_HEAD + s->d);
    for (int r = 0; r < s->m; r++) {
        struct buf one = buf_new(row * 4, any_shift());
        struct attend a = s->a;
        a.m = 1;
        a.q += (size_t)r * (size_t)s->d;
        a.see += r;
        a.part = one.p;
        k(&a);
        same_floats((float *)one.p, tile + (size_t)r * row, 2, "attend, row alone");
        same_floats((float *)one.p + ATTEND_HEAD, tile + (size_t)r * row + ATTEND_HEAD, s->d,
                    "attend, row alone");
        buf_check_and_free(&one);
    }
}

/* Rounds: of weights to bfloat16, where the level does that. */
static void check_split(attend_fn *r, attend_fn *k, const struct split *s, double rounds) {
    size_t row = (size_t)(ATTEND_HEAD + s->d);
    struct two y = two_new(NULL, (size_t)s->m * row * 4, any_shift());
    struct attend a = s->a;
    a.part = y.r.p;
    r(&a);
    a.part = y.k.p;
    k(&a);
    for (int i = 0; i < s->m; i++) {
        const float *want = (float *)y.r.p + (size_t)i * row,
                    *got = (float *)y.k.p + (size_t)i * row;
        double tol = (rounds + 2e-5) * want[1];
        close_to(got[0], want[0], 2e-5, "attend max", i);
        close_to(got[1], want[1], tol, "attend sum", i);
        for (int j = 0; j < s->d; j++)
            close_to(got[ATTEND_HEAD + j], want[ATTEND_HEAD + j], 5 * tol, "attend", j);
    }
    check_rows_alone(k, s, y.k.p);
    two_free(&y);
}

static void check_attend(attend_fn *r, attend_fn *k, enum dtype t, double rounds) {
    static const int dims[] = {1, 16, 20, 64, 72, 80, 128, 256};
    static const int keys[] = {1, 2, 3, 15, 16, 17, 31, 33, 64, 100, 129, 255, 256};
    static const int windows[] = {0, 1, 2, 5, 64};
    for (size_t di = 0; di < sizeof dims / sizeof *dims; di++)
        for (size_t ni = 0; ni < sizeof keys / sizeof *keys; ni++)
            for (int group = 1; group <= 7; group += 3) {
                struct split s;
                split_new(&s, t, dims[di], keys[ni], group, windows[rng_below(&rng, 5)]);
                check_split(r, k, &s, rounds);
                split_free(&s);
            }
}

static void check_attend_f32(const struct kern *r, const struct kern *k) {
    check_attend(r->attend_f32, k->attend_f32, DT_F32, 0);
}

static void check_attend_f16(const struct kern *r, const struct kern *k) {
    check_attend(r->attend_f16, k->attend_f16, DT_F16, 0);
}

static void check_attend_bf16(const struct kern *r, const struct kern *k) {
    check_attend(r->attend_bf16, k->attend_bf16, DT_BF16, 1.0 / 256);
}

static void check_attend_int8(const struct kern *r, const struct kern *k) {
    check_attend(r->attend_int8, k->attend_int8, DT_INT8, 0);
}

static void check_attend_merge(const struct kern *r, const struct kern *k) {
    for (int d = 16; d <= 256; d += 48)
        for (int v = 0; v < 20; v++) {
            float x[2][ATTEND_HEAD + 256];
            for (int i = 0; i < 2; i++) {
                fill(x[i], ATTEND_HEAD + d, v % 5 ? NORMAL : EXTREME);
                x[i][0] = 30 * value(NORMAL);
            }
            struct two y = two_new(x[0], (size_t)(ATTEND_HEAD + d) * 4, any_shift());
            r->attend_merge(y.r.p, x[1], d);
            k->attend_merge(y.k.p, x[1], d);
            for (int i = 0; i < ATTEND_HEAD + d; i++) {
                float want = ((float *)y.r.p)[i];
                double size = fabs(x[0][i]) + fabs(x[1][i]);
                if (i < 2 || i >= ATTEND_HEAD)
                    close_to(((float *)y.k.p)[i], want, 1e-6 * size + 1e-36, "attend_merge", i);
            }
            two_free(&y);
        }
}
