/* kv.c - claims about src/model/kv.c: where keys and values lie never changes a bit of the result,
 * and memory is held for what is there. */
#include "testing.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "model/run.h"
#include "num/kern.h"

#define N_CTX 600 /* more than a split of attention */

struct lab { /* a model, and a cache of each layout */
    struct cfg c;
    struct pool *pool;
    struct model *m;
    struct run *run;
    struct kv *flat, *kv;
    int group; /* tokens */
    int32_t ids[N_CTX];
    float *want, *got;
};

static void lab_open(struct lab *l, enum dtype type) {
    struct err err = {0};
    l->pool = pool_new(2);
    l->m = model_random(&l->c, 42, &(struct model_opts){.dtype = DT_F32, .pool = l->pool}, &err);
    assert_ok(l->m ? 0 : -1, err);
    l->run = run_new(l->m, l->pool, N_CTX, N_CTX, &err);
    l->flat = kv_open(&l->c, 1, N_CTX, type, &err);
    struct kv_opts o = {.layout = KV_VIRTUAL, .n_slot = 3, .n_ctx = N_CTX, .type = type};
    o.poison = true;
    l->kv = kv_open_as(&l->c, &o, &err);
    assert_ok(l->run && l->flat && l->kv ? 0 : -1, err);
    assert_string_equal(kv_note(l->kv), "");
    assert_int_equal(kv_layout(l->kv), KV_VIRTUAL);
    l->group = kv_group_tokens(l->kv);
    l->want = calloc((size_t)l->c.vocab, sizeof(float));
    l->got = calloc((size_t)l->c.vocab, sizeof(float));
}

static void lab_close(struct lab *l) {
    free(l->want);
    free(l->got);
    kv_close(l->kv);
    kv_close(l->flat);
    run_free(l->run);
    model_close(l->m);
    pool_free(l->pool);
}

/* The test's sequence number `seed`; two of them agree in their first `same` tokens. */
static void sequence(struct lab *l, uint64_t seed, int same) {
    struct rng r, other;
    rng_seed(&r, 1);
    rng_seed(&other, seed);
    for (int i = 0; i < N_CTX; i++) {
        int32_t a = (int32_t)rng_below(&r, (uint32_t)l->c.vocab);
        int32_t b = (int32_t)rng_below(&other, (uint32_t)l->c.vocab);
        l->ids[i] = i < same ? a : b;
    }
}

/* Runs ids[from..n) in chunks; the last token's logits. */
static void feed(struct lab *l, struct kv *kv, int slot, int from, int n, int chunk, float *out) {
    struct err err = {0};
    for (int at = from; at < n; at += chunk) {
        int k = n - at < chunk ? n - at : chunk;
        struct span s = {slot, at, k, l->ids + at, at + k == n ? WANT_LAST : WANT_NONE};
        if (kv != l->flat)
            assert_int_equal(kv_ensure(kv, slot, at + k), 0);
        assert_ok(run_step(l->run, kv, &(struct batch){&s, 1}, out, &err), err);
    }
}

/* What the slot gives from token `from` on equals a flat cache's result from the first. */
static void agrees(struct lab *l, int slot, int from, int n, int chunk, const char *when) {
    feed(l, l->flat, 0, 0, n, n, l->want);
    feed(l, l->kv, slot, from, n, chunk, l->got);
    if (memcmp(l->want, l->got, (size_t)l->c.vocab * sizeof(float)))
        fail_msg("%s, kv %s, groups of %d: %d tokens, from %d in chunks of %d: other bits", when,
                 dtype_info(kv_type(l->kv))->name, l->group, n, from, chunk);
}

/* Shapes whose groups have 64 tokens, and 112: a split of 512 is no multiple of it. */
static void shape(struct cfg *c, bool large) {
    struct err err = {0};
    assert_ok(cfg_shape(c, "tiny", &err), err);
    c->n_layer = 2;
    c->vocab = 32;
    if (large) {
        c->n_head = c->n_kv_head = 72;
        c->head_dim = c->rope_dim = 16;
    }
}

static void lengths_agree(struct lab *l, size_t step) {
    static const int chunk[] = {N_CTX, 7, 100};
    int g = l->group, n[] = {1, g - 1, g, g + 1, 2 * g - 1, 2 * g, 2 * g + 3, 513, N_CTX};
    sequence(l, 2, 0);
    for (size_t i = 0; i < sizeof n / sizeof *n; i += step) {
        int slot = kv_pick(l->kv, n[i]); /* all but the first have been used */
        agrees(l, slot, 0, n[i], chunk[i % 3], "used again");
        kv_release(l->kv, slot);
    }
}

/* Another sequence that begins alike takes what they share, and both go on their own way. */
static void shares_agree(struct lab *l, size_t step) {
    int g = l->group, n[] = {1, 15, g - 1, g, g + 1, 2 * g - 5, 2 * g};
    for (size_t i = 0; i < sizeof n / sizeof *n; i += step) {
        int a = kv_pick(l->kv, 2 * g), b;
        sequence(l, 2, n[i]);
        feed(l, l->kv, a, 0, 2 * g, 64, l->got);
        b = kv_pick(l->kv, 2 * g);
        assert_int_equal(kv_share(l->kv, b, a, n[i]), n[i]);
        sequence(l, 3, n[i]);
        agrees(l, b, n[i], 2 * g + 3, 33, "shared");
        sequence(l, 2, n[i]);
        agrees(l, a, 2 * g, 2 * g + 2, 1, "shared by another");
        kv_release(l->kv, a);
        int cut = n[i] > g ? n[i] - 5 : n[i];
        sequence(l, 4, cut); /* a is cut back into a group that b has too */
        assert_int_equal(kv_resume(l->kv, a, cut), cut);
        agrees(l, a, cut, 2 * g + 1, 50, "resumed");
        sequence(l, 3, n[i]);
        agrees(l, b, 2 * g + 3, 2 * g + 4, 1, "after another resumed");
        kv_release(l->kv, a);
        kv_release(l->kv, b);
    }
}

static void virtual_and_flat_give_the_same_bits(void **state) {
    (void)state;
    static const enum dtype type[] = {DT_F32, DT_F16, DT_BF16, DT_INT8};
    struct err err = {0};
    enum isa best = kern_best();
    for (int i = 0; i < 6; i++) { /* every type, the window, and the plain code */
        struct lab l;
        assert_ok(kern_force(i == 5 ? ISA_REF : best, &err), err);
        shape(&l.c, i == 0);
        l.c.window = i == 4 ? 100 : 0;
        lab_open(&l, type[i % 4]);
        assert_int_equal(l.group, i == 0 ? 112 : 64);
        lengths_agree(&l, i == 2 ? 1 : 3);
        shares_agree(&l, i == 2 ? 1 : 4);
        lab_close(&l);
    }
    kern_force(best, &err);
}

static void a_slot_holds_no_more_than_its_tokens_need(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    struct rng r;
    struct kv_stats s;
    shape(&c, false);
    struct kv_opts o = {.layout = KV_VIRTUAL, .n_slot = 16, .n_ctx = 2048, .type = DT_BF16};
    o.ahead = -1;
    struct kv *kv = kv_open_as(&c, &o, &err);
    assert_ok(kv ? 0 : -1, err);
    int g = kv_group_tokens(kv), n[16], groups = 0;
    size_t tokens = 0;
    rng_seed(&r, 3);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(kv_pick(kv, 1), i);
        n[i] = 1 + (int)rng_below(&r, 2000);
        assert_int_equal(kv_ensure(kv, i, n[i]), 0);
        groups += (n[i] + g - 1) / g;
        tokens += (size_t)n[i];
    }
    kv_stats(kv, &s);
    assert_int_equal(s.groups - s.groups_free, groups);
    assert_int_equal(s.live_bytes, tokens * kv_token_bytes(&c, DT_BF16));
    assert_int_equal(s.held_bytes, (size_t)groups * s.group_bytes);
    assert_true(s.held_bytes - s.live_bytes <
                16 * s.group_bytes); /* half a group each, in the mean */
    assert_true(s.static_bytes > s.held_bytes);
    for (int i = 0; i < 16; i++)
        kv_release(kv, i);
    kv_stats(kv, &s);
    assert_int_equal(s.live_bytes, 0);
    assert_int_equal(s.groups_free, s.groups);
    assert_int_equal(s.cached_bytes, s.held_bytes);
    kv_close(kv);
}

static void groups_are_sized_so_that_little_is_wasted(void **state) {
    (void)state;
    static const char *const name[] = {"tiny", "168m", "llama-1b", "gpt2", "qwen-0.5b"};
    struct err err = {0};
    struct cfg c;
    struct kv_stats s;
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        for (enum dtype t = DT_F32; t <= DT_BF16; t++) {
            assert_ok(cfg_shape(&c, name[i], &err), err);
            struct kv_opts o = {.layout = KV_VIRTUAL, .n_slot = 2, .n_ctx = 4096, .type = t};
            o.ahead = -1;
            struct kv *kv = kv_open_as(&c, &o, &err);
            assert_ok(kv ? 0 : -1, err);
            kv_stats(kv, &s);
            printf("  %s %s: %d tokens in %zu KiB, %.1f %% unused\n", name[i], dtype_info(t)->name,
                   s.group_tokens, s.group_bytes >> 10,
                   100 * (double)s.pad_bytes / (double)s.group_bytes);
            assert_true(s.group_tokens % ATTEND_BLOCK == 0);
            assert_true(s.pad_bytes * 14 <= s.group_bytes);
            assert_true(s.group_bytes <= (size_t)16 << 20);
            kv_close(kv);
        }
}

static void a_span_without_memory_is_refused(void **state) {
    (void)state;
    struct err err = {0};
    struct lab l;
    shape(&l.c, false);
    lab_open(&l, DT_BF16);
    sequence(&l, 2, 0);
    int a = kv_pick(l.kv, 1), b;
    struct span s = {a, 0, 2 * l.group, l.ids, WANT_LAST};
    assert_int_equal(run_step(l.run, l.kv, &(struct batch){&s, 1}, l.got, &err), -1);
    assert_non_null(strstr(err.msg, "has no memory for"));
    err = (struct err){0};
    assert_int_equal(kv_ensure(l.kv, a, 2 * l.group), 0);
    assert_ok(run_step(l.run, l.kv, &(struct batch){&s, 1}, l.got, &err), err);
    b = kv_pick(l.kv, 1);
    assert_int_equal(kv_share(l.kv, b, a, l.group), l.group);
    assert_int_equal(run_step(l.run, l.kv, &(struct batch){&s, 1}, l.got, &err), -1);
    lab_close(&l); /* would write to what b reads */
}

static void a_pool_too_small_gives_what_it_has_and_no_more(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    shape(&c, false);
    size_t group = 64 * kv_token_bytes(&c, DT_BF16);
    struct kv_opts o = {.layout = KV_VIRTUAL, .n_slot = 4, .n_ctx = 640, .type = DT_BF16};
    o.pool = 5 * group + group / 2;
    struct kv *kv = kv_open_as(&c, &o, &err);
    assert_ok(kv ? 0 : -1, err);
    assert_int_equal(kv_groups(kv), 5);
    int a = kv_pick(kv, 100), b = kv_pick(kv, 200);
    assert_int_equal(kv_groups_need(kv, -1, 193), 4);
    assert_int_equal(kv_ensure(kv, a, 100), 0);
    assert_false(kv_room(kv, b, 200));
    assert_int_equal(kv_ensure(kv, b, 200), -1);
    assert_int_equal(kv_tokens(kv, b), 0);
    assert_true(kv_room(kv, b, 192));
    assert_int_equal(kv_ensure(kv, b, 192), 0);
    assert_int_equal(kv_groups_free(kv), 0);
    assert_int_equal(kv_ensure(kv, a, 128), 0);
    assert_int_equal(kv_ensure(kv, a, 129), -1);
    kv_release(kv, b);
    assert_int_equal(kv_ensure(kv, a, 129), 0);
    assert_int_equal(kv_tokens(kv, b), 128); /* it gave the end of what it had */
    kv_close(kv);
    o.pool = group - 1;
    assert_null(kv_open_as(&c, &o, &err));
    assert_int_equal(err.code, E_MEMORY);
    assert_non_null(strstr(err.msg, "hold no group of 64 tokens"));
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

static void without_addresses_to_reserve_the_layout_is_flat_and_says_why(void **state) {
    (void)state;
#ifdef SANITIZED
    skip(); /* its own memory would not fit the limit */
#endif
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct err err = {0};
        struct cfg c;
        struct rlimit limit = {(rlim_t)2 << 30, (rlim_t)2 << 30};
        cfg_shape(&c, "168m", &err);
        setrlimit(RLIMIT_AS, &limit);
        struct kv_opts o = {.layout = KV_VIRTUAL, .n_slot = 1, .n_ctx = 4096, .type = DT_BF16};
        o.n_slot = 64;
        struct kv *kv = kv_open_as(&c, &o, &err);
        if (kv || !strstr(err.msg, "KV cache")) /* too much for flat, too */
            _exit(1);
        o.n_slot = 1;
        limit.rlim_cur = (rlim_t)256 << 20;
        setrlimit(RLIMIT_AS, &limit);
        o.n_ctx = 2048;
        kv = kv_open_as(&c, &o, &err);
        _exit(kv && (kv_layout(kv) == KV_FLAT) == (strstr(kv_note(kv), "ulimit -v") != NULL) ? 0
                                                                                             : 2);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
    struct err err = {0};
    if (kern_init(&err))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(virtual_and_flat_give_the_same_bits),
        cmocka_unit_test(a_slot_holds_no_more_than_its_tokens_need),
        cmocka_unit_test(groups_are_sized_so_that_little_is_wasted),
        cmocka_unit_test(a_span_without_memory_is_refused),
        cmocka_unit_test(a_pool_too_small_gives_what_it_has_and_no_more),
        cmocka_unit_test(without_addresses_to_reserve_the_layout_is_flat_and_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
