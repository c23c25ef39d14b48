/* grow.c - claims about src/train/grow.c, on small random models written to a temporary folder. */
#include "testing.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "model/run.h"
#include "num/kern.h"
#include "train/grow.h"

static char root[64]; /* mkdtemp; removed at the end */
static struct pool *pool;

static const char *at(const char *name) {
    static char path[8][128];
    static int n;
    n = (n + 1) % 8;
    snprintf(path[n], sizeof path[n], "%s/%s", root, name);
    return path[n];
}

/* A folder with a random model of the given family flags and layers. */
static void make(const char *name, int n_layer) {
    struct err err = {0};
    struct cfg c;
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    c.n_layer = n_layer;
    assert_ok(model_init(at(name), &c, 7, DT_F32, &err), err);
}

static void grow(const char *base, int factor, const char *layers, bool zero, const char *out) {
    struct err err = {0};
    struct grow_report r;
    struct grow_opts o = {factor, layers, zero};
    assert_ok(grow_dir(at(base), &o, at(out), &r, &err), err);
}

static struct model *load(const char *name) {
    struct err err = {0};
    struct model *m =
        model_open(at(name), &(struct model_opts){.dtype = DT_NONE, .pool = pool}, &err);
    if (!m)
        fail_msg("%s", err.msg);
    return m;
}

/* Logits (12, vocab) of a fixed sequence. */
static float *logits_of(const struct model *m) {
    struct err err = {0};
    int32_t ids[12];
    for (int i = 0; i < 12; i++)
        ids[i] = (i * 37 + 5) % m->cfg.vocab;
    struct kv *kv = kv_open(&m->cfg, 1, 12, DT_F32, &err);
    struct run *r = run_new(m, pool, 12, 12, &err);
    float *out = calloc((size_t)12 * m->cfg.vocab, sizeof *out);
    struct span s = {0, 0, 12, ids, WANT_ALL};
    assert_ok(run_step(r, kv, &(struct batch){&s, 1}, out, &err), err);
    run_free(r);
    kv_close(kv);
    return out;
}

static void same_file(const char *a, const char *b) {
    struct err err = {0};
    struct buf x = {0}, y = {0};
    assert_ok(file_read(at(a), 1 << 28, &x, &err), err);
    assert_ok(file_read(at(b), 1 << 28, &y, &err), err);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    buf_free(&x);
    buf_free(&y);
}

static void every_block_is_a_copy_of_its_source_and_the_rest_is_kept(void **state) {
    (void)state;
    struct err err = {0};
    struct tensors base = {0}, tall = {0};
    make("base", 3);
    grow("base", 4, NULL, false, "tall");
    assert_ok(safetensors_open_dir(&base, at("base"), &err), err);
    assert_ok(safetensors_open_dir(&tall, at("tall"), &err), err);
    int in_layers = 0;
    for (int i = 0; i < tall.n; i++) {
        char name[256];
        int layer;
        const char *p = strstr(tall.t[i].name, "layers.");
        snprintf(name, sizeof name, "%s", tall.t[i].name);
        if (p) {
            char rest[200];
            assert_int_equal(sscanf(p, "layers.%d.%199s", &layer, rest), 2);
            snprintf(name, sizeof name, "%.*slayers.%d.%s", (int)(p - tall.t[i].name),
                     tall.t[i].name, layer % 3, rest);
            in_layers++;
        }
        const struct tensor *b = tensors_find(&base, name);
        assert_non_null(b);
        assert_int_equal(b->bytes, tall.t[i].bytes);
        assert_memory_equal(b->data, tall.t[i].data, b->bytes);
    }
    assert_int_equal(tall.n - in_layers + in_layers / 4, base.n);
    tensors_close(&base);
    tensors_close(&tall);
    struct model *b = load("base"), *t = load("tall");
    int64_t blocks =
        cfg_params(&t->cfg) - cfg_params(&b->cfg); /* three more times the base's blocks */
    assert_int_equal(blocks % 3, 0);
    assert_int_equal(t->cfg.n_layer, 12);
    model_close(b);
    model_close(t);
}

/* The grown model is the base's blocks run in a loop: same kernels, same order, same bits. */
static void a_grown_model_computes_the_looped_base(void **state) {
    (void)state;
    make("loop_base", 2);
    grow("loop_base", 3, NULL, false, "loop_tall");
    struct model *b = load("loop_base"), *t = load("loop_tall");
    struct layer loop[6];
    for (int i = 0; i < 6; i++)
        loop[i] = b->layer[i % 2];
    struct model looped = *b;
    looped.layer = loop;
    looped.cfg.n_layer = 6;
    float *want = logits_of(&looped), *got = logits_of(t);
    assert_memory_equal(want, got, (size_t)12 * b->cfg.vocab * sizeof *want);
    free(want);
    free(got);
    model_close(b);
    model_close(t);
}

static void factor_one_is_the_identity_and_two_growths_equal_their_product(void **state) {
    (void)state;
    make("p", 2);
    grow("p", 1, NULL, false, "p1");
    same_file("p/model.safetensors", "p1/model.safetensors");
    grow("p", 2, NULL, false, "p2");
    grow("p2", 3, NULL, false, "p2x3");
    grow("p", 6, NULL, false, "p6");
    same_file("p2x3/model.safetensors", "p6/model.safetensors");
    same_file("p2x3/config.json", "p6/config.json");
    grow("p", 0, "0-1,0-1,0-1,0-1,0-1,0-1", false, "plist");
    same_file("plist/model.safetensors", "p6/model.safetensors");
}

static void growing_twice_from_the_same_base_gives_identical_files(void **state) {
    (void)state;
    make("d", 2);
    grow("d", 2, NULL, true, "d1");
    grow("d", 2, NULL, true, "d2");
    same_file("d1/model.safetensors", "d2/model.safetensors");
    same_file("d1/config.json", "d2/config.json");
    same_file("d1/gstack.json", "d2/gstack.json");
}

static void zero_init_keeps_the_function_and_plain_stacking_does_not(void **state) {
    (void)state;
    make("z", 2);
    grow("z", 3, NULL, true, "z_zero");
    grow("z", 3, NULL, false, "z_stack");
    struct model *b = load("z"), *zero = load("z_zero"), *stack = load("z_stack");
    float *want = logits_of(b), *same = logits_of(zero), *other = logits_of(stack);
    size_t bytes = (size_t)12 * b->cfg.vocab * sizeof *want;
    assert_memory_equal(want, same, bytes); /* x + 0 is x: to the bit */
    assert_int_not_equal(memcmp(want, other, bytes), 0);
    free(want);
    free(same);
    free(other);
    model_close(b);
    model_close(zero);
    model_close(stack);
}

static void bad_requests_are_refused_and_write_nothing(void **state) {
    (void)state;
    struct err err = {0};
    struct grow_report r;
    make("bad", 2);
    struct grow_opts o = {.factor = 400};
    assert_int_equal(grow_dir(at("bad"), &o, at("none"), &r, &err), -1);
    assert_int_equal(err.code, E_USAGE);
    assert_false(file_exists(at("none")));
    err = (struct err){0};
    o.factor = 2;
    assert_int_equal(grow_dir(at("bad"), &o, at("bad"), &r, &err), -1);
    assert_non_null(strstr(err.msg, "not empty"));
    err = (struct err){0};
    assert_int_equal(grow_dir(at("missing"), &o, at("none"), &r, &err), -1);
    assert_int_equal(err.code, E_IO);
    assert_non_null(strstr(err.msg, "missing/config.json"));
    err = (struct err){0};
    struct buf b = {0};
    assert_ok(file_read(at("bad/config.json"), 1 << 20, &b, &err), err);
    char *two = strstr((char *)buf_str(&b), "\"num_hidden_layers\": 2");
    assert_non_null(two);
    two[strlen("\"num_hidden_layers\": ")] = '3';
    assert_ok(file_write(at("bad/config.json"), b.data, b.len, &err), err);
    buf_free(&b);
    assert_int_equal(grow_dir(at("bad"), &o, at("none"), &r, &err), -1);
    assert_non_null(strstr(err.msg, "tensors of 2 layers, config.json says 3"));
    assert_false(file_exists(at("none")));
}

static double mean_nll(const struct model *m, const float *logits, const int32_t *ids, int n) {
    double sum = 0;
    for (int t = 0; t + 1 < n; t++) {
        const float *row = logits + (size_t)t * m->cfg.vocab;
        double z = 0;
        for (int i = 0; i < m->cfg.vocab; i++)
            z += exp(row[i]);
        sum += log(z) - row[ids[t + 1]];
    }
    return sum / (n - 1);
}

/* On a trained model: the loss right after growth is finite and near chance at worst. */
static void the_loss_after_growth_is_finite_and_bounded(void **state) {
    (void)state;
    need_data("models/stories260K/config.json");
    struct err err = {0};
    struct grow_report r;
    struct grow_opts o = {.factor = 2};
    assert_ok(grow_dir(data_path("models/stories260K"), &o, at("stories"), &r, &err), err);
    assert_int_equal(r.to, 10);
    struct model *m = load("stories");
    assert_non_null(m->tok); /* the tokenizer came along */
    struct ids ids = {0};
    const char *text = "Once upon a time, there was a little girl named Lily.";
    ids_add(&ids, tok_bos(m->tok));
    assert_ok(tok_encode(m->tok, text, strlen(text), false, &ids, &err), err);
    struct kv *kv = kv_open(&m->cfg, 1, (int)ids.n, DT_F32, &err);
    struct run *run = run_new(m, pool, (int)ids.n, (int)ids.n, &err);
    float *logits = calloc(ids.n * (size_t)m->cfg.vocab, sizeof *logits);
    struct span s = {0, 0, (int)ids.n, ids.id, WANT_ALL};
    assert_ok(run_step(run, kv, &(struct batch){&s, 1}, logits, &err), err);
    double nll = mean_nll(m, logits, ids.id, (int)ids.n);
    assert_true(isfinite(nll) && nll < log(m->cfg.vocab) + 2);
    free(logits);
    run_free(run);
    kv_close(kv);
    ids_free(&ids);
    model_close(m);
}

static int set_up(void **state) {
    (void)state;
    struct err err = {0};
    snprintf(root, sizeof root, "/tmp/pumice-grow-XXXXXX");
    pool = pool_new(2);
    return kern_init(&err) || !mkdtemp(root) ? -1 : 0;
}

static int tear_down(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    pool_free(pool);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_is_a_copy_of_its_source_and_the_rest_is_kept),
        cmocka_unit_test(a_grown_model_computes_the_looped_base),
        cmocka_unit_test(factor_one_is_the_identity_and_two_growths_equal_their_product),
        cmocka_unit_test(growing_twice_from_the_same_base_gives_identical_files),
        cmocka_unit_test(zero_init_keeps_the_function_and_plain_stacking_does_not),
        cmocka_unit_test(bad_requests_are_refused_and_write_nothing),
        cmocka_unit_test(the_loss_after_growth_is_finite_and_bounded),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
