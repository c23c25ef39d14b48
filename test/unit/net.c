/* net.c - claims about src/train/net.c: its gradients are right, and its bits depend on nothing else.
 * The folders of data/reference hold gradients, losses and weights of a reference implementation. */
#include "train/net.h"

#include <math.h>
#include <unistd.h>

#include "base/json.h"
#include "base/rng.h"
#include "model/run.h"
#include "num/kern.h"
#include "testing.h"
#include "train/adamw.h"

static const char *const families[] = {"gpt2",        "phi",
                                       "qwen2",       "mistral",
                                       "llama3-rope", "llama-gqa-tied",
                                       "llama-linear-rope-bias"};
#define N_FAMILIES ((int)(sizeof families / sizeof *families))

struct fixture { /* a model, a batch and a net over it */
    struct model *m;
    struct pool *pool;
    struct net *n;
    struct net_batch b;
    int32_t *ids, *targets, *start;
    json_t *ref;
};

static void next_tokens(struct fixture *f) {
    for (int i = 0; i < f->b.rows * f->b.len; i++)
        f->targets[i] = (i + 1) % f->b.len ? f->ids[i + 1] : -1;
}

static void batch_new(struct fixture *f, int rows, int len) {
    size_t n = (size_t)rows * (size_t)len;
    f->ids = calloc(n, sizeof *f->ids);
    f->targets = calloc(n, sizeof *f->targets);
    f->b = (struct net_batch){rows, len, f->ids, f->targets, NULL};
}

static void net_open(struct fixture *f, enum dtype type, bool recompute) {
    struct err err = {0};
    struct net_opts o = {f->pool, type, f->b.rows, f->b.len, recompute};
    if (!(f->n = net_new(f->m, &o, &err)))
        fail_msg("net_new: %s", err.msg);
}

static void open_reference(struct fixture *f, const char *family, int threads) {
    char path[128];
    struct err err = {0};
    *f = (struct fixture){.pool = pool_new(threads)};
    snprintf(path, sizeof path, "reference/%s", family);
    need_data("reference/gpt2/config.json");
    struct model_opts o = {.dtype = DT_F32, .pool = f->pool, .no_tokenizer = true};
    if (!(f->m = model_open(data_path(path), &o, &err)))
        fail_msg("%s", err.msg);
    snprintf(path, sizeof path, "reference/%s/ref/train.json", family);
    if (!(f->ref = json_file(data_path(path), 1 << 24, &err)))
        fail_msg("%s", err.msg);
    json_t *rows = json_object_get(f->ref, "batch");
    int len = (int)json_array_size(json_array_get(rows, 0));
    batch_new(f, (int)json_array_size(rows), len);
    for (int i = 0; i < f->b.rows * len; i++)
        f->ids[i] =
            (int32_t)json_integer_value(json_array_get(json_array_get(rows, (size_t)(i / len)), (size_t)(i % len)));
    next_tokens(f);
}

static void fixture_close(struct fixture *f) {
    net_free(f->n);
    model_close(f->m);
    pool_free(f->pool);
    free(f->ids);
    free(f->targets);
    free(f->start);
    json_decref(f->ref);
}

static struct net_loss gradients(struct fixture *f) {
    struct err err = {0};
    struct net_loss l;
    int n = 0;
    for (int i = 0; i < f->b.rows * f->b.len; i++)
        n += f->targets[i] >= 0;
    net_zero_grad(f->n);
    assert_ok(net_grad(f->n, &f->b, 1.0f / (float)n, &l, &err), err);
    return l;
}

/* Every tensor of the reference's file is in ours, with ||ours - theirs|| <= tol ||theirs||. */
static void compare_files(const char *ours, const char *theirs, double tol, const char *family) {
    struct tensors a = {0}, b = {0};
    struct err err = {0};
    assert_ok(safetensors_open(&a, ours, &err), err);
    assert_ok(safetensors_open(&b, theirs, &err), err);
    double worst = 0;
    const char *where = "";
    for (int i = 0; i < b.n; i++) {
        const struct tensor *t = &b.t[i], *u = tensors_find(&a, t->name);
        if (!u)
            fail_msg("%s: no tensor %s", family, t->name);
        assert_int_equal(u->bytes, t->bytes);
        assert_memory_equal(u->shape, t->shape, (size_t)t->rank * sizeof *t->shape);
        double diff = 0, norm = 0;
        for (size_t k = 0; k < t->bytes / 4; k++) {
            float x, y;
            memcpy(&x, (const char *)u->data + 4 * k, 4);
            memcpy(&y, (const char *)t->data + 4 * k, 4);
            diff += ((double)x - y) * ((double)x - y);
            norm += (double)y * y;
        }
        double rel = sqrt(diff / (norm > 0 ? norm : 1));
        if (!(rel <= worst)) {
            worst = rel;
            where = t->name;
        }
    }
    printf("  %s: worst %.2e (%s)\n", family, worst, where);
    if (!(worst <= tol))
        fail_msg("%s: %s is off by %g of its norm", family, where, worst);
    tensors_close(&a);
    tensors_close(&b);
}

static void gradients_of_every_family_match_the_reference(void **state) {
    (void)state;
    struct err err = {0};
    for (int i = 0; i < N_FAMILIES; i++) {
        struct fixture f;
        char path[128], out[64];
        open_reference(&f, families[i], 2);
        net_open(&f, DT_F32, false);
        struct net_loss l = gradients(&f);
        double want = json_real_value(json_object_get(f.ref, "loss"));
        if (!(fabs(l.sum / (double)l.n - want) < 1e-5 * want))
            fail_msg("%s: loss %g, expected %g", families[i], l.sum / (double)l.n, want);
        snprintf(out, sizeof out, "/tmp/pumice-grads-%d.safetensors", (int)getpid());
        snprintf(path, sizeof path, "reference/%s/ref/grads.safetensors", families[i]);
        assert_ok(net_write_gradients(f.n, out, &err), err);
        compare_files(out, data_path(path), 1e-4, families[i]);
        remove(out);
        fixture_close(&f);
    }
}

int main(void) {
    struct err err = {0};
    if (kern_init(&err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_every_family_match_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
