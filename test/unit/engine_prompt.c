/* engine_prompt.c - claims about src/engine/prompt.c on a small random model: pooled hidden states
 * and log-probabilities of a prompt's own tokens. */
#include "testing.h"

#include <math.h>

#include "base/rng.h"
#include "engine/impl.h"
#include "tiny_model.h"

enum { N = 10, CTX = 96, TOP = 3 };

struct told {
    int n, n_done, n_out, n_read, n_cached;
    int32_t id[CTX];
    float logprob[CTX];
    struct logprob top[CTX][TOP];
    float pooled[512];
    struct usage use;
};
static struct told want[N], got[N];

static bool on_token(void *ud, const struct token *t) {
    struct told *a = ud;
    if (!t->prompt) {
        a->n_out += t->id >= 0;
        return true;
    }
    assert_int_equal(a->n_out, 0);
    assert_int_equal(t->len, 0);
    a->id[a->n] = t->id;
    a->logprob[a->n] = t->logprob;
    memcpy(a->top[a->n++], t->top, sizeof a->top[0]);
    return true;
}

static void on_prompt(void *ud, int n_read, int n_cached) {
    struct told *a = ud;
    a->n_read = n_read;
    a->n_cached = n_cached;
}

static void on_done(void *ud, const struct usage *u) {
    struct told *a = ud;
    a->n_done++;
    a->use = *u;
}

/* Request i: every third a plain one that the others' beginnings are shared with. */
static struct req request(int i, int32_t *ids, struct told *a) {
    int n = 1 + i * 37 % 71;
    for (int k = 0; k < n; k++)
        ids[k] = k < 20 ? k + 5 : (i * 31 + k * 7 + 1) % m->cfg.vocab;
    struct req r = {.ids = ids,
                    .n = n,
                    .max_new = i % 4,
                    .ignore_eos = true,
                    .prompt_logprobs = i % 3 == 1,
                    .n_logprobs = i % 3 == 1 ? TOP : 0,
                    .pooled = i % 3 == 2 ? a->pooled : NULL,
                    .on_token = on_token,
                    .on_prompt = on_prompt,
                    .on_done = on_done,
                    .ud = a};
    r.sampling = sampling_default();
    return r;
}

/* What one pass over the whole prompt says. */
static void reference(const struct req *r, struct told *out) {
    struct err err = {0};
    struct kv *kv = kv_open(&m->cfg, 1, CTX, kv_default(m->head.type), &err);
    struct run *run = run_new(m, pool, CTX, CTX, &err);
    float *logits = calloc((size_t)r->n * m->cfg.vocab, sizeof *logits);
    struct span s = {0, 0, r->n, r->ids, WANT_ALL, .hidden = true};
    assert_ok(run_step(run, kv, &(struct batch){&s, 1}, logits, &err), err);
    for (int d = 0; r->pooled && d < m->cfg.dim; d++) {
        double sum = 0;
        for (int i = 0; i < r->n; i++)
            sum += (double)run_hidden(run)[(size_t)i * m->cfg.dim + d];
        out->pooled[d] = (float)(sum / r->n);
    }
    out->n = r->prompt_logprobs ? r->n : 0;
    for (int i = 0; i < out->n; i++)
        out->id[i] = r->ids[i];
    for (int i = 1; i < out->n; i++)
        out->logprob[i] = logprobs(logits + (size_t)(i - 1) * m->cfg.vocab, m->cfg.vocab, r->ids[i],
                                   out->top[i], TOP);
    free(logits);
    run_free(run);
    kv_close(kv);
}

static void check(const struct told *a, const struct told *b, const struct req *r) {
    assert_int_equal(a->n_done, 1);
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->id, b->id, (size_t)b->n * sizeof *b->id);
    if (b->n > 0)
        assert_true(isnan(a->logprob[0]));
    for (int i = 1; i < b->n; i++) {
        assert_true(a->logprob[i] == b->logprob[i]);
        assert_memory_equal(a->top[i], b->top[i], sizeof b->top[i]);
    }
    assert_memory_equal(a->pooled, b->pooled, sizeof b->pooled);
    assert_int_equal(a->n_out, r->pooled ? 0 : r->max_new);
    assert_int_equal(a->n_read, r->n);
    assert_int_equal(a->use.n_cached, a->n_cached);
    if (r->pooled || r->prompt_logprobs || r->no_cache)
        assert_int_equal(a->use.n_cached, 0);
}

/* All requests through an engine of n_slot, steps of n_batch tokens; one in `preempt` steps takes
 * a slot away.  Returns the tokens that came from the cache. */
static int64_t go(int n_slot, int n_batch, int preempt, uint64_t seed) {
    struct err err = {0};
    struct engine_stats stats;
    struct rng rng;
    int32_t ids[CTX];
    struct engine *e =
        engine_open(m, pool,
                    &(struct engine_opts){
                        .n_slot = n_slot, .n_ctx = CTX, .n_batch = n_batch, .kv_type = DT_NONE},
                    &err);
    rng_seed(&rng, seed);
    memset(got, 0, sizeof got);
    for (int i = 0; i < N; i++) {
        struct req r = request(i, ids, &got[i]);
        assert_ok(engine_submit(e, &r, &err), err);
    }
    while (engine_step(e))
        if (preempt && !rng_below(&rng, (uint32_t)preempt))
            job_preempt_latest(e);
    engine_stats(e, &stats);
    engine_close(e);
    for (int i = 0; i < N; i++) {
        struct req r = request(i, ids, &got[i]);
        check(&got[i], &want[i], &r);
    }
    return stats.cached_tokens;
}

static void what_is_told_of_prompts_depends_on_neither_chunks_nor_company(void **state) {
    (void)state;
    static const int slots[] = {1, 3, N}, batch[] = {1, 7, 40, 0};
    int64_t cached = 0;
    for (size_t s = 0; s < 3; s++)
        for (size_t b = 0; b < 4; b++)
            cached += go(slots[s], batch[b], 0, 0);
    assert_true(cached > 0); /* the plain ones did share */
}

static void what_is_told_of_prompts_survives_preemption(void **state) {
    (void)state;
    FOR_SEEDS(4) {
        go(seed % 2 ? 3 : N, 7, 3, seed);
    }
}

static void a_prompt_that_is_known_is_computed_again_where_its_rows_are_wanted(void **state) {
    (void)state;
    struct err err = {0};
    int32_t ids[CTX];
    static struct told first, second, third;
    struct engine *e = engine_open(
        m, pool, &(struct engine_opts){.n_slot = 1, .n_ctx = CTX, .kv_type = DT_NONE}, &err);
    memset(&first, 0, sizeof first);
    second = third = first;
    struct req r = request(3, ids, &first);
    assert_ok(engine_submit(e, &r, &err), err);
    while (engine_step(e)) {
    }
    r.ud = &second;
    assert_ok(engine_submit(e, &r, &err), err);
    while (engine_step(e)) {
    }
    assert_int_equal(second.use.n_cached, r.n - 1);
    r.ud = &third;
    r.no_cache = true;
    assert_ok(engine_submit(e, &r, &err), err);
    while (engine_step(e)) {
    }
    assert_int_equal(third.use.n_cached, 0);
    engine_close(e);
}

static int set_up(void **state) {
    int32_t ids[CTX];
    (void)state;
    if (tiny_open(DT_BF16))
        return -1;
    for (int i = 0; i < N; i++) {
        struct req r = request(i, ids, &want[i]);
        reference(&r, &want[i]);
    }
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_told_of_prompts_depends_on_neither_chunks_nor_company),
        cmocka_unit_test(what_is_told_of_prompts_survives_preemption),
        cmocka_unit_test(a_prompt_that_is_known_is_computed_again_where_its_rows_are_wanted),
    };
    return cmocka_run_group_tests(tests, set_up, tiny_close);
}
