/* net.c - claims about src/train/net.c: its gradients are right, and its bits depend on nothing
 * else. The folders of data/reference hold gradients, losses and weights of a reference
 * implementation. */
#include "train/net.h"

#include <math.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/run.h"
#include "num/kern.h"
#include "testing.h"
#include "tiny_cfg.h"
#include "train/adamw.h"

static const char *const families[] = {
    "gpt2", "phi", "qwen2", "mistral", "llama3-rope", "llama-gqa-tied", "llama-linear-rope-bias"};
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
        f->ids[i] = (int32_t)json_integer_value(
            json_array_get(json_array_get(rows, (size_t)(i / len)), (size_t)(i % len)));
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

/* A component of the keys' bias that rope does not turn moves all scores of a row alike: softmax
 * does not see it.  Its gradient is rounding, of which AdamW makes steps of full size. */
static bool is_unseen(const struct cfg *c, const char *name, size_t k) {
    size_t fused = strstr(name, "attn.c_attn.bias") ? (size_t)c->dim : 0;
    if (!fused && !strstr(name, "k_proj.bias"))
        return false;
    return k >= fused && k < (fused ? 2 : 1) * (size_t)c->dim &&
           (int)(k % (size_t)c->head_dim) >= c->rope_dim;
}

/* Every tensor of the reference's file is in ours, with ||ours - theirs|| <= tol ||theirs||. */
static void compare_files(const char *ours, const char *theirs, double tol, const char *family,
                          const struct cfg *c) {
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
            if (is_unseen(c, t->name, k))
                continue;
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
        compare_files(out, data_path(path), 1e-4, families[i], &f.m->cfg);
        remove(out);
        fixture_close(&f);
    }
}

static void ten_adamw_steps_follow_the_reference(void **state) {
    (void)state;
    struct err err = {0};
    for (int i = 0; i < N_FAMILIES; i++) {
        struct fixture f;
        char path[128], out[64];
        open_reference(&f, families[i], 2);
        net_open(&f, DT_F32, false);
        json_t *how = json_object_get(f.ref, "adamw"), *betas = json_object_get(how, "betas");
        json_t *curve = json_object_get(f.ref, "loss_curve");
        struct adamw_opts o = {(float)json_real_value(json_array_get(betas, 0)),
                               (float)json_real_value(json_array_get(betas, 1)),
                               (float)json_real_value(json_object_get(how, "eps")),
                               (float)json_real_value(json_object_get(how, "weight_decay"))};
        float lr = (float)json_real_value(json_object_get(how, "lr"));
        double max = json_real_value(json_object_get(how, "clip_grad_norm"));
        struct adamw *a = adamw_new(net_params(f.n), &o, f.pool, &err);
        int steps = (int)json_integer_value(json_object_get(how, "steps"));
        assert_true(steps == 10 && json_array_size(curve) >= 10);
        for (int k = 0; k < steps; k++) {
            struct net_loss l = gradients(&f);
            double want = json_real_value(json_array_get(curve, (size_t)k));
            if (!(fabs(l.sum / (double)l.n - want) < 1e-4 * want))
                fail_msg("%s: loss %.7g at step %d, expected %.7g", families[i],
                         l.sum / (double)l.n, k, want);
            double norm = adamw_norm(a);
            if (k == 0)
                assert_true(fabs(norm / json_real_value(json_object_get(f.ref, "grad_l2_global")) -
                                 1) < 1e-4);
            adamw_step(a, lr, adamw_clip(norm, max));
        }
        snprintf(out, sizeof out, "/tmp/pumice-after-%d.safetensors", (int)getpid());
        snprintf(path, sizeof path, "reference/%s/ref/after.safetensors", families[i]);
        assert_ok(net_write_weights(f.n, out, &err), err);
        compare_files(out, data_path(path), 1e-4, families[i], &f.m->cfg);
        remove(out);
        adamw_free(a);
        fixture_close(&f);
    }
}

/* -- tiny models of any flags ---------------------------------------------------------------- */

/* Weights large enough for every path to matter, and norms that are not 1. */
static void randomize(struct fixture *f, uint64_t seed) {
    struct params *ps = net_params(f->n);
    struct rng r;
    rng_seed(&r, seed);
    for (int i = 0; i < ps->n; i++) {
        const struct param *p = &ps->p[i];
        bool is_norm = strstr(p->name, "norm.weight") || strstr(p->name, "layernorm.weight");
        float size = p->decay ? 0.35f : 0.2f;
        for (int k = 0; k < p->rows * p->cols; k++)
            p->w[k] = size * rng_normal(&r) + (is_norm ? 1 : 0);
    }
    params_changed(ps);
}

static void open_tiny(struct fixture *f, const struct cfg *c, struct net_opts o, uint64_t seed) {
    struct err err = {0};
    struct rng r;
    *f = (struct fixture){.pool = pool_new(o.recompute ? 1 : 2)};
    struct model_opts mo = {.dtype = DT_F32, .pool = f->pool, .no_tokenizer = true};
    if (!(f->m = model_random(c, seed, &mo, &err)))
        fail_msg("model_random: %s", err.msg);
    batch_new(f, o.rows, o.len);
    rng_seed(&r, seed);
    for (int i = 0; i < o.rows * o.len; i++)
        f->ids[i] = (int32_t)rng_below(&r, (uint32_t)c->vocab);
    next_tokens(f);
    net_open(f, o.type, o.recompute);
    randomize(f, seed);
}

static double mean_loss(struct fixture *f) {
    struct err err = {0};
    struct net_loss l;
    params_changed(net_params(f->n));
    assert_ok(net_eval(f->n, &f->b, &l, &err), err);
    return l.sum / (double)l.n;
}

/* Along the gradient g of each parameter, the loss rises by ||g|| per unit. */
static void check_slopes(struct fixture *f, const char *what) {
    double tol =
        f->m->cfg.act == ACT_RELU ? 0.05 : 0.01; /* a kink within the step bends the line */
    struct params *ps = net_params(f->n);
    gradients(f);
    for (int i = 0; i < ps->n; i++) {
        const struct param *p = &ps->p[i];
        size_t n = (size_t)p->rows * (size_t)p->cols;
        double norm = 0, loss[4];
        for (size_t k = 0; k < n; k++)
            norm += (double)p->g[k] * p->g[k];
        norm = sqrt(norm);
        if (norm <
            1e-4) /* a bias of keys moves all scores of a row alike: softmax does not see it */
            continue;
        float *keep = malloc(n * sizeof *keep);
        memcpy(keep, p->w, n * sizeof *keep);
        double step = 4e-3 / norm < 0.02 ? 4e-3 / norm : 0.02;
        static const double at[] = {-2, -1, 1, 2};
        for (int side = 0; side < 4; side++) {
            for (size_t k = 0; k < n; k++)
                p->w[k] = keep[k] + (float)(at[side] * step * p->g[k] / norm);
            loss[side] = mean_loss(f);
        }
        memcpy(p->w, keep, n * sizeof *keep);
        free(keep);
        double got = (8 * (loss[2] - loss[1]) - (loss[3] - loss[0])) / (12 * step);
        if (!(fabs(got / norm - 1) < tol + 2e-6 / (step * norm)))
            fail_msg("%s: %s: gradient %g, slope %g", what, p->name, norm, got);
    }
}

struct flag_case {
    const char *name;
    void (*set)(struct cfg *c);
};

static void set_nothing(struct cfg *c) {
    (void)c;
}
static void set_qk_norm(struct cfg *c) {
    strcpy(c->arch, "qwen3");
    c->qk_norm = true;
}
static void set_window(struct cfg *c) {
    c->window = 5;
}
static void set_gemma(struct cfg *c) {
    strcpy(c->arch, "gemma");
    c->norm_plus_one = c->tied = true;
    c->embed_scale = 4.9f;
    c->act = ACT_GELU_TANH;
}
static void set_neox(struct cfg *c) {
    strcpy(c->arch, "gpt_neox");
    c->parallel = c->bias_qkv = c->bias_o = c->bias_mlp = true;
    c->gated = false;
    c->norm = NORM_LAYER;
    c->act = ACT_GELU_ERF;
    c->n_kv_head = c->n_head;
    c->rope_dim = 2;
}
static void set_phi(struct cfg *c) {
    strcpy(c->arch, "phi");
    c->parallel = c->shared_norm = c->bias_qkv = c->bias_o = c->bias_mlp = c->bias_head = true;
    c->gated = false;
    c->norm = NORM_LAYER;
    c->act = ACT_RELU;
    c->rope_dim = 4;
}
static void set_gpt2(struct cfg *c) {
    strcpy(c->arch, "gpt2");
    c->bias_qkv = c->bias_o = c->bias_mlp = c->learned_pos = c->tied = true;
    c->gated = false;
    c->norm = NORM_LAYER;
    c->act = ACT_GELU_TANH;
    c->n_kv_head = c->n_head;
    c->rope_dim = 0;
}
static void set_phi3(struct cfg *c) {
    strcpy(c->arch, "phi3");
}
static void set_biases(struct cfg *c) {
    c->bias_qkv = c->bias_o = c->bias_mlp = c->bias_head = true;
}
static void set_tied_head_bias(struct cfg *c) {
    c->tied = c->bias_head = true;
}
static void set_gated_relu(struct cfg *c) {
    c->act = ACT_RELU;
}
static void set_gated_erf(struct cfg *c) {
    c->act = ACT_GELU_ERF;
    c->rope_scaling = ROPE_LINEAR;
    c->rope_factor = 3;
}
static void set_parallel_gated(struct cfg *c) {
    c->parallel = true;
    c->rope_scaling = ROPE_LLAMA3;
    c->rope_factor = 4;
    c->rope_low = 1;
    c->rope_high = 4;
    c->rope_orig_ctx = 32;
}

static const struct flag_case flag_cases[] = {
    {"plain", set_nothing},
    {"qk_norm", set_qk_norm},
    {"window", set_window},
    {"gemma", set_gemma},
    {"neox", set_neox},
    {"phi", set_phi},
    {"gpt2", set_gpt2},
    {"phi3", set_phi3},
    {"biases", set_biases},
    {"tied, head bias", set_tied_head_bias},
    {"gated relu", set_gated_relu},
    {"gated erf, linear rope", set_gated_erf},
    {"parallel gated", set_parallel_gated},
};
#define N_FLAGS ((int)(sizeof flag_cases / sizeof *flag_cases))

static struct cfg flag_cfg(int i) {
    struct cfg c = tiny_cfg();
    flag_cases[i].set(&c);
    return c;
}

static void finite_differences_agree_for_every_flag(void **state) {
    (void)state;
    for (int i = 0; i < N_FLAGS; i++) {
        struct fixture f;
        struct cfg c = flag_cfg(i);
        open_tiny(&f, &c, (struct net_opts){.type = DT_F32, .rows = 2, .len = 9}, (uint64_t)i + 1);
        check_slopes(&f, flag_cases[i].name);
        fixture_close(&f);
    }
}

/* Documents of 1 to 30 tokens, packed without gaps. */
static void cut_documents(struct fixture *f, uint64_t seed) {
    struct rng r;
    int n = f->b.rows * f->b.len, start = 0, left = 0;
    rng_seed(&r, seed);
    f->start = calloc((size_t)n, sizeof *f->start);
    for (int i = 0; i < n; i++, left--) {
        if (left == 0 || i % f->b.len == 0) {
            start = i % f->b.len;
            left = 1 + (int)rng_below(&r, 30);
            if (i)
                f->targets[i - 1] = -1;
        }
        f->start[i] = start;
    }
    f->b.start = f->start;
}

/* 80 tokens: more than one block of attention's rows. */
static void finite_differences_agree_with_documents_masks_and_windows(void **state) {
    (void)state;
    for (int i = 0; i < N_FLAGS; i++) {
        struct fixture f;
        struct cfg c = flag_cfg(i);
        c.window = i % 2 ? 0 : 13;
        c.n_layer = 1;
        open_tiny(&f, &c, (struct net_opts){.type = DT_F32, .rows = 1, .len = 80},
                  (uint64_t)i + 50);
        cut_documents(&f, 9);
        for (int k = 0; k < 80; k += 3)
            f.targets[k] = -1;
        check_slopes(&f, flag_cases[i].name);
        fixture_close(&f);
    }
}

static void packed_documents_have_the_loss_of_each_alone(void **state) {
    (void)state;
    struct err err = {0};
    for (int i = 0; i < N_FLAGS; i++) {
        struct fixture f;
        struct net_loss whole, sum = {0};
        struct cfg c = flag_cfg(i);
        open_tiny(&f, &c, (struct net_opts){.type = DT_F32, .rows = 2, .len = 100}, 3);
        cut_documents(&f, 4);
        assert_ok(net_eval(f.n, &f.b, &whole, &err), err);
        for (int at = 0, end; at < 200; at = end) {
            struct net_loss l;
            for (end = at + 1; end < 200 && f.start[end] == f.start[at] && end % 100; end++)
                ;
            struct net_batch one = {1, end - at, f.ids + at, f.targets + at, NULL};
            assert_ok(net_eval(f.n, &one, &l, &err), err);
            sum.sum += l.sum;
            sum.n += l.n;
        }
        assert_int_equal(sum.n, whole.n);
        if (!(fabs(sum.sum / whole.sum - 1) < 1e-12)) /* the same terms, added in another order */
            fail_msg("%s: %.15g together, %.15g alone", flag_cases[i].name, whole.sum, sum.sum);
        fixture_close(&f);
    }
}

/* -- bits ------------------------------------------------------------------------------------ */

/* All gradients of a batch, in one array that the caller frees, and the loss. */
static float *gradient_bits(const struct cfg *c, struct net_opts o, int threads, size_t *bytes,
                            struct net_loss *l) {
    struct fixture f;
    struct err err = {0};
    open_tiny(&f, c, o, 7);
    net_free(f.n);
    struct pool *first = f.pool;
    f.pool = pool_new(threads);
    net_open(&f, o.type, o.recompute);
    *l = gradients(&f);
    struct params *ps = net_params(f.n);
    *bytes = ps->floats * sizeof(float);
    struct adamw_opts ao = {0.9f, 0.95f, 1e-8f, 0.1f};
    struct adamw *a = adamw_new(ps, &ao, f.pool, &err);
    for (int k = 0; k < 2; k++) /* the second pass sees what the optimiser did */
        adamw_step(a, 1e-2f, adamw_clip(adamw_norm(a), 1));
    *l = gradients(&f);
    adamw_free(a);
    float *bits = malloc(*bytes);
    memcpy(bits, ps->p[0].g, *bytes);
    pool_free(first);
    fixture_close(&f);
    return bits;
}

static void no_bit_depends_on_threads_or_recomputation(void **state) {
    (void)state;
    enum dtype types[] = {DT_F32, DT_BF16};
    for (int k = 0; k < (kern_best() >= ISA_AVX512 ? 2 : 1); k++)
        for (int i = 0; i < N_FLAGS; i++) {
            struct cfg c = flag_cfg(i);
            c.n_layer = 3;
            c.vocab = 600; /* more than one tile of a product */
            struct net_opts o = {.type = types[k], .rows = 3, .len = 70};
            struct net_loss want, got;
            size_t bytes;
            float *a = gradient_bits(&c, o, 1, &bytes, &want);
            for (int threads = 1; threads <= 3; threads++) {
                o.recompute = threads != 2;
                float *b = gradient_bits(&c, o, threads, &bytes, &got);
                if (memcmp(a, b, bytes) || want.sum != got.sum)
                    fail_msg("%s, %s: other bits with %d threads%s", flag_cases[i].name,
                             dtype_info(types[k])->name, threads,
                             o.recompute ? " and recomputation" : "");
                free(b);
            }
            free(a);
        }
}

static void logits_are_those_of_the_engine_to_the_bit(void **state) {
    (void)state;
    struct err err = {0};
    for (enum isa isa = ISA_REF; isa < ISA_COUNT; isa++)
        for (int i = 0; kern_has(isa) && i < N_FLAGS; i++) {
            struct fixture f;
            struct cfg c = flag_cfg(i);
            assert_ok(kern_force(isa, &err), err);
            open_tiny(&f, &c, (struct net_opts){.type = DT_F32, .rows = 2, .len = 70}, 11);
            size_t row = (size_t)c.vocab, bytes = 70 * row * sizeof(float);
            float *ours = malloc(2 * bytes), *theirs = malloc(2 * bytes);
            assert_ok(net_logits(f.n, &f.b, ours, &err), err);
            struct kv *kv = kv_open(&c, 2, 70, DT_F32, &err);
            struct run *r = run_new(f.m, f.pool, 140, 70, &err);
            struct span s[] = {{0, 0, 70, f.ids, WANT_ALL}, {1, 0, 70, f.ids + 70, WANT_ALL}};
            assert_ok(run_step(r, kv, &(struct batch){s, 2}, theirs, &err), err);
            if (memcmp(ours, theirs, 2 * bytes))
                fail_msg("%s, isa %s: other logits than run.c", flag_cases[i].name, isa_name(isa));
            free(ours);
            free(theirs);
            run_free(r);
            kv_close(kv);
            fixture_close(&f);
        }
}

static void bf16_gradients_are_close_to_f32(void **state) {
    (void)state;
    if (kern_best() < ISA_AVX512) {
        printf("  skipped: no BF16 products on this processor\n");
        skip();
    }
    for (int i = 0; i < N_FLAGS; i++) {
        struct cfg c = flag_cfg(i);
        struct net_loss l;
        struct fixture a, b;
        struct net_opts o = {.type = DT_F32, .rows = 2, .len = 70};
        open_tiny(&a, &c, o, 5);
        o.type = DT_BF16;
        open_tiny(&b, &c, o, 5);
        gradients(&a);
        l = gradients(&b);
        assert_true(isfinite(l.sum));
        double diff = 0, norm = 0;
        const float *x = net_params(a.n)->p[0].g, *y = net_params(b.n)->p[0].g;
        for (size_t k = 0; k < net_params(a.n)->floats; k++) {
            diff += ((double)x[k] - y[k]) * ((double)x[k] - y[k]);
            norm += (double)x[k] * x[k];
        }
        if (!(sqrt(diff / norm) < 0.08))
            fail_msg("%s: off by %g", flag_cases[i].name, sqrt(diff / norm));
        if (diff == 0)
            fail_msg("%s: no rounding at all", flag_cases[i].name);
        fixture_close(&a);
        fixture_close(&b);
    }
}

/* -- the rest of the contract ---------------------------------------------------------------- */

static void gradients_add_up_over_batches(void **state) {
    (void)state;
    struct err err = {0};
    struct fixture f;
    struct net_loss l;
    struct cfg c = flag_cfg(6);
    open_tiny(&f, &c, (struct net_opts){.type = DT_F32, .rows = 4, .len = 9}, 2);
    gradients(&f);
    size_t n = net_params(f.n)->floats;
    float *g = net_params(f.n)->p[0].g, *whole = malloc(n * sizeof *whole);
    memcpy(whole, g, n * sizeof *whole);
    net_zero_grad(f.n);
    for (int half = 0; half < 2; half++) {
        struct net_batch b = {2, 9, f.ids + half * 18, f.targets + half * 18, NULL};
        assert_ok(net_grad(f.n, &b, 1.0f / 32, &l, &err), err);
        assert_int_equal(l.n, 16);
    }
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(g[i] - whole[i]) <= 1e-6f + 1e-4f * fabsf(whole[i]));
    free(whole);
    fixture_close(&f);
}

#if defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static void frozen_matrices_cost_nothing_and_change_no_other_gradient(void **state) {
    (void)state;
    for (int i = 0; i < N_FLAGS; i++) {
        struct fixture f;
        struct cfg c = flag_cfg(i);
        open_tiny(&f, &c, (struct net_opts){.type = DT_F32, .rows = 2, .len = 9}, 2);
        struct params *ps = net_params(f.n);
        gradients(&f);
        float *want = malloc(ps->floats * sizeof *want);
        memcpy(want, ps->p[0].g, ps->floats * sizeof *want);
        for (int k = 1; k < ps->n; k++) /* all but the embedding, which also gathers */
            ps->p[k].frozen = ps->p[k].cols > 1 && strcmp(ps->p[k].name, "transformer.wpe.weight");
        gradients(&f);
        for (int k = 0; k < ps->n; k++) {
            const struct param *p = &ps->p[k];
            size_t n = (size_t)p->rows * (size_t)p->cols;
            for (size_t e = 0; p->frozen && e < n; e++)
                assert_true(p->g[e] == 0);
            if (!p->frozen && memcmp(p->g, want + p->at, n * sizeof *want))
                fail_msg("%s: %s has another gradient", flag_cases[i].name, p->name);
        }
        free(want);
        fixture_close(&f);
    }
}

static void the_memory_announced_is_the_memory_used(void **state) {
    (void)state;
    if (SANITIZED) {
        printf("  skipped: a sanitizer's own memory is in what is resident\n");
        skip();
    }
    struct err err = {0};
    for (int recompute = 0; recompute < 2; recompute++) {
        struct cfg c = tiny_cfg();
        c.dim = 256;
        c.n_layer = 4;
        c.head_dim = 64;
        c.ffn = 640;
        c.vocab = 4000;
        c.rope_dim = 64;
        struct fixture f = {.pool = pool_new(2)};
        struct net_bytes want;
        size_t before = mem_resident();
        struct model_opts mo = {.dtype = DT_F32, .pool = f.pool, .no_tokenizer = true};
        f.m = model_random(&c, 1, &mo, &err);
        batch_new(&f, 4, 128);
        next_tokens(&f);
        net_open(&f, DT_F32, recompute);
        struct net_opts o = {f.pool, DT_F32, 4, 128, recompute};
        assert_ok(net_memory(&c, &o, &want, &err), err);
        struct adamw_opts ao = {0.9f, 0.95f, 1e-8f, 0.1f};
        struct adamw *a = adamw_new(net_params(f.n), &ao, f.pool, &err);
        gradients(&f);
        adamw_step(a, 1e-3f, 1);
        double used = (double)(mem_resident() - before);
        printf("  announced %.1f MB, used %.1f MB\n", (double)want.total / 1e6, used / 1e6);
        assert_true(used < 1.1 * (double)want.total && used > 0.8 * (double)want.total);
        adamw_free(a);
        fixture_close(&f);
    }
}

static void bf16_training_follows_every_update(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c = tiny_cfg();
    struct fixture f;
    if (kern_best() < ISA_AVX512) {
        printf("  skipped: no BF16 products on this processor\n");
        skip();
    }
    open_tiny(&f, &c, (struct net_opts){.type = DT_BF16, .rows = 4, .len = 32}, 1);
    struct adamw_opts ao = {0.9f, 0.95f, 1e-8f, 0};
    struct adamw *a = adamw_new(net_params(f.n), &ao, f.pool, &err);
    struct net_loss l = gradients(&f);
    double first = l.sum;
    for (int k = 0; k < 30; k++) {
        adamw_step(a, 1e-2f, adamw_clip(adamw_norm(a), 1));
        l = gradients(&f);
    }
    if (!(l.sum < 0.5 * first))
        fail_msg("the loss went from %g to %g in 30 steps on one batch", first, l.sum);
    net_free(f.n); /* a new net has no copies of older weights */
    net_open(&f, DT_BF16, false);
    assert_true(gradients(&f).sum == l.sum);
    a->ps = net_params(f.n);
    adamw_free(a);
    fixture_close(&f);
}

/* Gemma's files hold norms less one; gradients are those of the weights all the same. */
static void norms_are_written_less_one_and_their_gradients_as_they_are(void **state) {
    (void)state;
    struct err err = {0};
    struct fixture f;
    struct cfg c = flag_cfg(3);
    struct tensors file = {0};
    char out[64];
    snprintf(out, sizeof out, "/tmp/pumice-gemma-%d.safetensors", (int)getpid());
    open_tiny(&f, &c, (struct net_opts){.type = DT_F32, .rows = 2, .len = 9}, 1);
    gradients(&f);
    for (int k = 0; k < 2; k++) {
        assert_ok(k ? net_write_gradients(f.n, out, &err) : net_write_weights(f.n, out, &err), err);
        assert_ok(safetensors_open(&file, out, &err), err);
        for (int i = 0; i < net_params(f.n)->n; i++) {
            const struct param *p = &net_params(f.n)->p[i];
            const struct tensor *t = tensors_find(&file, p->name);
            assert_non_null(t);
            for (int e = 0; e < p->rows * p->cols; e++) {
                float got, want = k ? p->g[e] : p->decay ? p->w[e] : p->w[e] - 1;
                memcpy(&got, (const char *)t->data + 4 * (size_t)e, 4);
                assert_true(got == want);
            }
        }
        tensors_close(&file);
    }
    remove(out);
    fixture_close(&f);
}

static void a_batch_that_cannot_be_is_refused_by_name(void **state) {
    (void)state;
    struct fixture f;
    struct net_loss l;
    struct cfg c = tiny_cfg();
    open_tiny(&f, &c, (struct net_opts){.type = DT_F32, .rows = 2, .len = 4}, 1);
    int32_t ok[8] = {0}, high[8] = {0, 0, 0, 37}, low[8] = {-1};
    int32_t gap[8] = {0, 0, 1, 2}, past[8] = {0, 2};
    const struct {
        struct net_batch b;
        const char *says;
    } bad[] = {{{2, 4, high, ok, NULL}, "token id 37"}, {{2, 4, low, ok, NULL}, "token id -1"},
               {{2, 4, ok, high, NULL}, "target 37"},   {{3, 4, ok, ok, NULL}, "3 x 4"},
               {{1, 5, ok, ok, NULL}, "1 x 5"},         {{0, 4, ok, ok, NULL}, "0 x 4"},
               {{2, 4, ok, ok, gap}, "document"},       {{2, 4, ok, ok, past}, "document"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        assert_int_equal(net_grad(f.n, &bad[i].b, 1, &l, &err), -1);
        assert_int_equal(err.code, E_USAGE);
        if (!strstr(err.msg, bad[i].says))
            fail_msg("'%s' does not say '%s'", err.msg, bad[i].says);
    }
    struct err err = {0};
    struct net_opts o = {f.pool, DT_Q8_0, 1, 4, false};
    assert_null(net_new(f.m, &o, &err));
    assert_non_null(strstr(err.msg, "q8_0"));
    fixture_close(&f);
}

int main(void) {
    struct err err = {0};
    if (kern_init(&err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_every_family_match_the_reference),
        cmocka_unit_test(ten_adamw_steps_follow_the_reference),
        cmocka_unit_test(finite_differences_agree_for_every_flag),
        cmocka_unit_test(finite_differences_agree_with_documents_masks_and_windows),
        cmocka_unit_test(packed_documents_have_the_loss_of_each_alone),
        cmocka_unit_test(no_bit_depends_on_threads_or_recomputation),
        cmocka_unit_test(logits_are_those_of_the_engine_to_the_bit),
        cmocka_unit_test(bf16_gradients_are_close_to_f32),
        cmocka_unit_test(gradients_add_up_over_batches),
        cmocka_unit_test(frozen_matrices_cost_nothing_and_change_no_other_gradient),
        cmocka_unit_test(the_memory_announced_is_the_memory_used),
        cmocka_unit_test(bf16_training_follows_every_update),
        cmocka_unit_test(norms_are_written_less_one_and_their_gradients_as_they_are),
        cmocka_unit_test(a_batch_that_cannot_be_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
