/* run.c - claims about src/model/run.c: the same request gives the same bits however it is
 * computed. */
#include "testing.h"

#include <math.h>

#include "base/rng.h"
#include "model/run.h"
#include "num/kern.h"

#define N_TOK 70 /* tokens of a test sequence: more than the largest chunk */
#define N_SEQ 8

static struct model *random_model(const struct cfg *c, enum dtype type, struct pool *pool) {
    struct err err = {0};
    struct model *m = model_random(c, 42, &(struct model_opts){.dtype = type, .pool = pool}, &err);
    if (!m)
        fail_msg("model_random: %s", err.msg);
    return m;
}

static void random_ids(int32_t *ids, int n, int vocab, uint64_t seed) {
    struct rng r;
    rng_seed(&r, seed);
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)rng_below(&r, (uint32_t)vocab);
}

/* Logits (n, vocab) of ids in spans of `chunk` tokens on a fresh cache. */
static float *logits_of(const struct model *m, struct pool *pool, const int32_t *ids, int n,
                        int chunk, enum dtype kv_type) {
    struct err err = {0};
    struct kv *kv = kv_open(&m->cfg, 1, n, kv_type, &err);
    struct run *r = run_new(m, pool, chunk, n, &err);
    assert_non_null(kv);
    assert_non_null(r);
    float *out = calloc((size_t)n * m->cfg.vocab, sizeof *out);
    for (int at = 0; at < n; at += chunk) {
        struct span s = {0, at, n - at < chunk ? n - at : chunk, ids + at, WANT_ALL};
        assert_ok(run_step(r, kv, &(struct batch){&s, 1}, out + (size_t)at * m->cfg.vocab, &err),
                  err);
    }
    run_free(r);
    kv_close(kv);
    return out;
}

static void chunks_and_threads_agree(const struct model *m, enum dtype kv_type) {
    int32_t ids[N_TOK];
    random_ids(ids, N_TOK, m->cfg.vocab, 7);
    size_t bytes = (size_t)N_TOK * m->cfg.vocab * sizeof(float);
    float *want = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        struct pool *pool = pool_new(threads);
        static const int chunk[] = {N_TOK, 1, 7, 16, 64};
        for (size_t c = 0; c < sizeof chunk / sizeof *chunk; c++) {
            float *got = logits_of(m, pool, ids, N_TOK, chunk[c], kv_type);
            if (!want) {
                want = got;
                continue;
            }
            if (memcmp(got, want, bytes))
                fail_msg("%s, isa %s, %d threads, chunks of %d: other bits than whole",
                         dtype_info(m->head.type)->name, isa_name(kern_level()), threads, chunk[c]);
            free(got);
        }
        pool_free(pool);
    }
    free(want);
}

/* Eight sequences at once, all at different places, against each alone. */
static void a_batch_agrees_with_each_alone(const struct model *m, enum dtype kv_type) {
    struct err err = {0};
    struct pool *pool = pool_new(2);
    struct kv *kv = kv_open(&m->cfg, N_SEQ, N_TOK, kv_type, &err);
    struct run *r = run_new(m, pool, N_TOK * N_SEQ, N_TOK, &err);
    int32_t ids[N_SEQ][N_TOK];
    int done[N_SEQ] = {0};
    size_t row = (size_t)m->cfg.vocab;
    float *logits = calloc((size_t)N_SEQ * N_TOK * row, sizeof *logits), *want[N_SEQ];
    for (int s = 0; s < N_SEQ; s++) {
        random_ids(ids[s], N_TOK, m->cfg.vocab, 100 + (uint64_t)s);
        want[s] = logits_of(m, pool, ids[s], N_TOK, N_TOK, kv_type);
    }
    struct rng rng;
    rng_seed(&rng, 5);
    for (bool more = true; more;) {
        struct span span[N_SEQ];
        struct batch b = {span, 0};
        for (int s = N_SEQ - 1; s >= 0; s--) { /* slots in another order than rows */
            int left = N_TOK - done[s], n = (int)rng_below(&rng, 12); /* 0: sits this step out */
            n = n < left ? n : left;
            if (n)
                span[b.n_span++] = (struct span){s, done[s], n, ids[s] + done[s], WANT_ALL};
        }
        assert_ok(run_step(r, kv, &b, logits, &err), err);
        const float *at = logits;
        more = false;
        for (int i = 0; i < b.n_span; i++) {
            int s = span[i].slot, n = span[i].n;
            if (memcmp(at, want[s] + (size_t)done[s] * row, (size_t)n * row * sizeof *at))
                fail_msg("%s, isa %s: sequence %d differs in the batch",
                         dtype_info(m->head.type)->name, isa_name(kern_level()), s);
            at += (size_t)n * row;
            done[s] += n;
        }
        for (int s = 0; s < N_SEQ; s++)
            more |= done[s] < N_TOK;
    }
    for (int s = 0; s < N_SEQ; s++)
        free(want[s]);
    free(logits);
    run_free(r);
    kv_close(kv);
    pool_free(pool);
}

static void alone_batched_and_chunked_give_the_same_bits(void **state) {
    (void)state;
    static const enum dtype type[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_INT8, DT_INT4};
    struct err err = {0};
    struct cfg c;
    struct pool *pool = pool_new(1);
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    enum isa best = kern_best();
    for (enum isa isa = ISA_REF; isa < ISA_COUNT; isa++) {
        if (!kern_has(isa))
            continue;
        assert_ok(kern_force(isa, &err), err);
        for (size_t t = 0; t < sizeof type / sizeof *type; t++) {
            struct model *m = random_model(&c, type[t], pool);
            enum dtype kv_type = type[t] == DT_F32    ? DT_F32
                                 : type[t] == DT_F16  ? DT_F16
                                 : type[t] == DT_Q4_0 ? DT_INT8
                                                      : DT_BF16;
            chunks_and_threads_agree(m, kv_type);
            a_batch_agrees_with_each_alone(m, kv_type);
            model_close(m);
        }
    }
    kern_force(best, &err);
    pool_free(pool);
}

/* Logits of the tokens from `from` on, after the cache was filled up to there in one piece. */
static float *tail_of(const struct model *m, struct pool *pool, const int32_t *ids, int from, int n,
                      int chunk, enum dtype kv_type) {
    struct err err = {0};
    struct kv *kv = kv_open(&m->cfg, 1, n, kv_type, &err);
    struct run *r = run_new(m, pool, from > chunk ? from : chunk, n, &err);
    assert_non_null(kv);
    assert_non_null(r);
    float *out = calloc((size_t)(n - from) * m->cfg.vocab, sizeof *out);
    struct span past = {0, 0, from, ids, WANT_NONE};
    if (from)
        assert_ok(run_step(r, kv, &(struct batch){&past, 1}, out, &err), err);
    for (int at = from; at < n; at += chunk) {
        struct span s = {0, at, n - at < chunk ? n - at : chunk, ids + at, WANT_ALL};
        float *to = out + (size_t)(at - from) * m->cfg.vocab;
        assert_ok(run_step(r, kv, &(struct batch){&s, 1}, to, &err), err);
    }
    run_free(r);
    kv_close(kv);
    return out;
}

/* The tokens around every boundary of splits, one by one and in pieces, on 1 and 3 threads, against
 * the whole sequence at once. */
static void splits_agree(const struct model *m, enum dtype kv_type, int n_split) {
    int n = n_split * ATTEND_SPLIT + 9;
    size_t row = (size_t)m->cfg.vocab;
    int32_t *ids = calloc((size_t)n, sizeof *ids);
    random_ids(ids, n, m->cfg.vocab, 7);
    struct pool *one = pool_new(1);
    float *want = logits_of(m, one, ids, n, n, kv_type);
    pool_free(one);
    for (int threads = 1; threads <= 3; threads += 2) {
        struct pool *pool = pool_new(threads);
        static const int chunk[] = {1, 7, 300};
        for (size_t c = 0; c < sizeof chunk / sizeof *chunk; c++)
            for (int s = 1; s <= n_split; s++) {
                int from = s * ATTEND_SPLIT - 5, end = from + 14;
                float *got = tail_of(m, pool, ids, from, end, chunk[c], kv_type);
                if (memcmp(got, want + (size_t)from * row, 14 * row * sizeof *got))
                    fail_msg("kv %s, isa %s, %d threads, chunks of %d from %d: other bits",
                             dtype_info(kv_type)->name, isa_name(kern_level()), threads, chunk[c],
                             from);
                free(got);
            }
        pool_free(pool);
    }
    free(want);
    free(ids);
}

static void long_pasts_give_the_same_bits_in_splits_and_whole(void **state) {
    (void)state;
    static const enum dtype kv_type[] = {DT_F32, DT_F16, DT_BF16, DT_INT8};
    struct err err = {0};
    struct cfg c;
    struct pool *pool = pool_new(2);
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    c.n_layer = 1;
    c.vocab = 32;
    enum isa best = kern_best();
    for (enum isa isa = ISA_REF; isa < ISA_COUNT; isa++) {
        if (!kern_has(isa))
            continue;
        assert_ok(kern_force(isa, &err), err);
        for (int i = 0; i < 5; i++) { /* the last: with a window that a split cuts */
            c.window = i == 4 ? 300 : 0;
            if ((isa == ISA_REF && i % 3) || isa == ISA_AVXVNNI || isa == ISA_VNNI)
                continue; /* slow, and one code for all types; as AVX2 and AVX-512 */
            struct model *m = random_model(&c, DT_F32, pool);
            splits_agree(m, kv_type[i % 4], isa == ISA_REF ? 1 : 2);
            model_close(m);
        }
    }
    kern_force(best, &err);
    pool_free(pool);
}

/* One token each of sequences with pasts of none, one and two splits. */
static void a_batch_of_uneven_pasts_agrees_with_each_alone(void **state) {
    (void)state;
    static const int past[] = {2 * ATTEND_SPLIT + 3, 4, ATTEND_SPLIT - 1, ATTEND_SPLIT};
    enum { N = sizeof past / sizeof *past, MOST = 2 * ATTEND_SPLIT + 4 };
    struct err err = {0};
    struct cfg c;
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    c.n_layer = 1;
    int32_t ids[MOST];
    for (int threads = 1; threads <= 3; threads++) {
        struct pool *pool = pool_new(threads);
        struct model *m = random_model(&c, DT_BF16, pool);
        struct kv *kv = kv_open(&c, N, MOST, DT_BF16, &err);
        struct run *r = run_new(m, pool, MOST, MOST, &err);
        size_t row = (size_t)c.vocab;
        float *out = calloc(N * row, sizeof *out), *want[N];
        struct span span[N];
        random_ids(ids, MOST, c.vocab, 3);
        for (int s = 0; s < N; s++) {
            want[s] = logits_of(m, pool, ids, past[s] + 1, past[s] + 1, DT_BF16);
            span[s] = (struct span){s, 0, past[s], ids, WANT_NONE};
            assert_ok(run_step(r, kv, &(struct batch){span + s, 1}, out, &err), err);
            span[s] = (struct span){s, past[s], 1, ids + past[s], WANT_LAST};
        }
        assert_ok(run_step(r, kv, &(struct batch){span, N}, out, &err), err);
        for (int s = 0; s < N; s++) {
            assert_memory_equal(out + (size_t)s * row, want[s] + (size_t)past[s] * row,
                                row * sizeof *out);
            free(want[s]);
        }
        free(out);
        run_free(r);
        kv_close(kv);
        model_close(m);
        pool_free(pool);
    }
}

/* Logits of 40 tokens with keys and values of each type beside those with floats. */
static void every_type_of_keys_and_values_is_as_close_as_it_rounds(void **state) {
    (void)state;
    static const struct {
        enum dtype type;
        double most;
    } kv[] = {{DT_F16, 2e-4}, {DT_BF16, 2e-3}, {DT_INT8, 5e-3}};
    struct err err = {0};
    struct cfg c;
    struct pool *pool = pool_new(2);
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    struct model *m = random_model(&c, DT_F32, pool);
    int32_t ids[40];
    random_ids(ids, 40, c.vocab, 8);
    float *want = logits_of(m, pool, ids, 40, 40, DT_F32);
    for (size_t t = 0; t < sizeof kv / sizeof *kv; t++) {
        float *got = logits_of(m, pool, ids, 40, 40, kv[t].type);
        double diff = 0, size = 0;
        for (int i = 0; i < 40 * c.vocab; i++) {
            diff += (got[i] - want[i]) * (got[i] - want[i]);
            size += want[i] * want[i];
        }
        double off = sqrt(diff / size);
        printf("  %s: off by %.1e\n", dtype_info(kv[t].type)->name, off);
        assert_true(off > 0 && off < kv[t].most);
        free(got);
    }
    free(want);
    model_close(m);
    pool_free(pool);
}

static void a_sliding_window_hides_older_tokens_and_nothing_else(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    struct pool *pool = pool_new(2);
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    c.n_layer = 1; /* with one layer a token's reach is exactly the window */
    c.window = 5;
    struct model *m = random_model(&c, DT_F32, pool);
    int32_t ids[20];
    random_ids(ids, 20, c.vocab, 3);
    float *before = logits_of(m, pool, ids, 20, 20, DT_F32);
    ids[4] = (ids[4] + 1) % c.vocab;
    float *after = logits_of(m, pool, ids, 20, 7, DT_F32);
    for (int t = 0; t < 20; t++) {
        bool same = !memcmp(before + (size_t)t * c.vocab, after + (size_t)t * c.vocab,
                            (size_t)c.vocab * sizeof *before);
        assert_int_equal(same, t < 4 || t >= 4 + c.window);
    }
    free(before);
    free(after);
    model_close(m);
    pool_free(pool);
}

static void wanted_rows_come_out_in_span_order_and_hidden_ones_stay(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    struct pool *pool = pool_new(2);
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    struct model *m = random_model(&c, DT_F32, pool);
    struct kv *kv = kv_open(&c, 3, 8, DT_F32, &err);
    struct run *r = run_new(m, pool, 16, 8, &err);
    int32_t ids[8];
    random_ids(ids, 8, c.vocab, 9);
    float *all = logits_of(m, pool, ids, 5, 5, DT_F32),
          *out = calloc((size_t)8 * c.vocab, sizeof *out);
    out[(size_t)3 * c.vocab] = 123; /* just behind the three rows that are due */
    struct span span[] = {
        {2, 0, 5, ids, WANT_LAST}, {0, 0, 4, ids, WANT_NONE}, {1, 0, 2, ids, WANT_ALL}};
    assert_ok(run_step(r, kv, &(struct batch){span, 3}, out, &err), err);
    size_t row = (size_t)c.vocab;
    assert_memory_equal(out, all + 4 * row, row * sizeof *out);
    assert_memory_equal(out + row, all, 2 * row * sizeof *out);
    assert_true(out[3 * row] == 123);
    span[0].hidden = span[1].hidden = true; /* their logits can be had later */
    assert_ok(run_step(r, kv, &(struct batch){span, 3}, out, &err), err);
    assert_memory_equal(out + row, all, 2 * row * sizeof *out);
    run_head(r, 4, 3, out);
    assert_memory_equal(out, all + 4 * row, row * sizeof *out);
    assert_memory_equal(out + row, all, 2 * row * sizeof *out);
    free(all);
    free(out);
    run_free(r);
    kv_close(kv);
    model_close(m);
    pool_free(pool);
}

static void a_batch_that_cannot_run_is_refused_by_name(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    struct pool *pool = pool_new(1);
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    struct model *m = random_model(&c, DT_F32, pool);
    struct kv *kv = kv_open(&c, 2, 8, DT_F32, &err);
    struct run *r = run_new(m, pool, 8, 8, &err);
    int32_t ids[9] = {0};
    float *out = calloc((size_t)9 * c.vocab, sizeof *out);
    struct {
        struct span s;
        int32_t id;
        const char *says;
    } bad[] = {
        {{0, 0, 1, ids, WANT_ALL}, -1, "-1"},
        {{0, 0, 1, ids, WANT_ALL}, c.vocab, "vocabulary"},
        {{0, 0, 9, ids, WANT_ALL}, 0, "context"},
        {{0, 8, 1, ids, WANT_ALL}, 0, "context"},
        {{0, -1, 1, ids, WANT_ALL}, 0, "context"},
        {{2, 0, 1, ids, WANT_ALL}, 0, "context"},
        {{0, 0, 0, ids, WANT_ALL}, 0, "context"},
        {{0, 2147483647, 2, ids, WANT_ALL}, 0, "context"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (struct err){0};
        ids[0] = bad[i].id;
        assert_int_equal(run_step(r, kv, &(struct batch){&bad[i].s, 1}, out, &err), -1);
        assert_int_equal(err.code, E_USAGE);
        assert_non_null(strstr(err.msg, bad[i].says));
    }
    ids[0] = 0;
    err = (struct err){0};
    struct span two[] = {{0, 0, 5, ids, WANT_ALL}, {1, 0, 5, ids, WANT_ALL}};
    assert_int_equal(run_step(r, kv, &(struct batch){two, 2}, out, &err), -1);
    assert_non_null(strstr(err.msg, "limit of 8"));
    free(out);
    run_free(r);
    kv_close(kv);
    model_close(m);
    pool_free(pool);
}

int main(void) {
    struct err err = {0};
    if (kern_init(&err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_batched_and_chunked_give_the_same_bits),
        cmocka_unit_test(long_pasts_give_the_same_bits_in_splits_and_whole),
        cmocka_unit_test(a_batch_of_uneven_pasts_agrees_with_each_alone),
        cmocka_unit_test(every_type_of_keys_and_values_is_as_close_as_it_rounds),
        cmocka_unit_test(a_sliding_window_hides_older_tokens_and_nothing_else),
        cmocka_unit_test(wanted_rows_come_out_in_span_order_and_hidden_ones_stay),
        cmocka_unit_test(a_batch_that_cannot_run_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
