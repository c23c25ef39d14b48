/* weights.c - claims about loading: every reference folder, every type, every layout; bad
 * folders. */
#include "testing.h"

#include <math.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/model.h"
#include "num/panel.h"
#include "num/quant.h"

static struct pool *pool; /* two threads, for the whole program */
static char dir[64];

static int temp_dir(void **state) {
    (void)state;
    strcpy(dir, "/tmp/pumice-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    char cmd[128];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

static const char *in_dir(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static struct model *open_as(const char *path, enum dtype type, struct err *err) {
    return model_open(path, &(struct model_opts){type, pool, true}, err);
}

/* --- comparing models ------------------------------------------------------------------------ */

static bool same_mat(const struct mat *a, const struct mat *b) {
    if (!a->data || !b->data)
        return a->data == b->data;
    return a->type == b->type && a->rows == b->rows && a->cols == b->cols &&
           memcmp(a->data, b->data, dtype_row_bytes(a->type, a->cols) * (size_t)a->rows) == 0;
}

static bool same_vec(const float *a, const float *b, int n) {
    if (!a || !b)
        return a == b;
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

static bool same_layer(const struct layer *a, const struct layer *b, const struct cfg *c) {
    int q = c->n_head * c->head_dim, kv = c->n_kv_head * c->head_dim;
    return same_mat(&a->wq, &b->wq) && same_mat(&a->wk, &b->wk) && same_mat(&a->wv, &b->wv) &&
           same_mat(&a->wo, &b->wo) && same_mat(&a->gate, &b->gate) && same_mat(&a->up, &b->up) &&
           same_mat(&a->down, &b->down) && same_vec(a->bq, b->bq, q) &&
           same_vec(a->bk, b->bk, kv) && same_vec(a->bv, b->bv, kv) &&
           same_vec(a->bo, b->bo, c->dim) && same_vec(a->bgate, b->bgate, c->ffn) &&
           same_vec(a->bup, b->bup, c->ffn) && same_vec(a->bdown, b->bdown, c->dim) &&
           same_vec(a->norm1, b->norm1, c->dim) && same_vec(a->norm1_b, b->norm1_b, c->dim) &&
           same_vec(a->norm2, b->norm2, c->dim) && same_vec(a->norm2_b, b->norm2_b, c->dim) &&
           same_vec(a->q_norm, b->q_norm, c->head_dim) &&
           same_vec(a->k_norm, b->k_norm, c->head_dim);
}

static bool same_weights(const struct model *a, const struct model *b) {
    const struct cfg *c = &a->cfg;
    bool same = same_mat(&a->embed, &b->embed) && same_mat(&a->pos, &b->pos) &&
                same_mat(&a->head, &b->head) && same_vec(a->head_bias, b->head_bias, c->vocab) &&
                same_vec(a->norm, b->norm, c->dim) && same_vec(a->norm_b, b->norm_b, c->dim);
    for (int i = 0; i < c->n_layer; i++)
        same = same && same_layer(&a->layer[i], &b->layer[i], c);
    return same;
}

/* --- reference folders ------------------------------------------------------------------------ */

static const struct ref {
    const char *path;
    int vocab, dim, n_layer, n_head, n_kv_head, head_dim, ffn;
    int64_t params; /* counted from the files' shapes */
} refs[] = {
    {"reference/gpt2", 512, 48, 3, 4, 4, 12, 192, 115632},
    {"reference/phi", 512, 80, 3, 4, 4, 20, 320, 315632},
    {"reference/llama-gqa-tied", 512, 72, 3, 9, 3, 8, 192, 203256},
    {"reference/llama3-rope", 512, 64, 2, 4, 2, 16, 160, 119104},
    {"reference/llama-linear-rope-bias", 512, 64, 2, 4, 1, 16, 160, 148864},
    {"reference/mistral", 512, 64, 3, 4, 2, 16, 160, 195008},
    {"reference/qwen2", 512, 56, 3, 7, 1, 8, 152, 127392},
    {"models/stories260K", 512, 64, 5, 8, 4, 8, 172, 260032},
    {"models/babyllama105", 105, 128, 5, 8, 4, 16, 352, 936448},
};
#define N_REF ((int)(sizeof refs / sizeof *refs))

static void assert_mat(const struct mat *m, int rows, int cols) {
    assert_non_null(m->data);
    assert_true(m->rows == rows && m->cols == cols);
    assert_int_equal((uintptr_t)m->data % 64, 0);
}

static void assert_shapes(const struct model *m, const struct ref *r) {
    const struct cfg *c = &m->cfg;
    assert_true(c->vocab == r->vocab && c->dim == r->dim && c->n_layer == r->n_layer);
    assert_true(c->n_head == r->n_head && c->n_kv_head == r->n_kv_head &&
                c->head_dim == r->head_dim);
    assert_int_equal(c->ffn, r->ffn);
    assert_int_equal(cfg_params(c), r->params);
    assert_mat(&m->embed, r->vocab, r->dim);
    assert_mat(&m->head, r->vocab, r->dim);
    assert_true((m->head.data == m->embed.data) == c->tied);
    for (int i = 0; i < r->n_layer; i++) {
        const struct layer *l = &m->layer[i];
        assert_mat(&l->wq, r->n_head * r->head_dim, r->dim);
        assert_mat(&l->wk, r->n_kv_head * r->head_dim, r->dim);
        assert_mat(&l->wv, r->n_kv_head * r->head_dim, r->dim);
        assert_mat(&l->wo, r->dim, r->n_head * r->head_dim);
        assert_mat(&l->up, r->ffn, r->dim);
        assert_mat(&l->down, r->dim, r->ffn);
        assert_true((l->gate.data != NULL) == c->gated);
        assert_true((l->bq != NULL) == c->bias_qkv && (l->bup != NULL) == c->bias_mlp);
        assert_non_null(l->norm1);
        assert_true((l->norm2 != NULL) == !c->shared_norm);
        assert_true((l->norm1_b != NULL) == (c->norm == NORM_LAYER));
    }
}

static void every_reference_folder_loads_in_every_type(void **state) {
    (void)state;
    static const enum dtype types[] = {DT_NONE, DT_F32,  DT_F16,  DT_BF16,
                                       DT_Q8_0, DT_Q4_0, DT_INT8, DT_INT4};
    need_data("reference/gpt2/config.json");
    for (int i = 0; i < N_REF; i++) {
        for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
            struct err err = {0};
            struct model *m = open_as(data_path(refs[i].path), types[k], &err);
            if (!m)
                fail_msg("%s", err.msg);
            assert_shapes(m, &refs[i]);
            enum dtype want = types[k] == DT_NONE ? DT_F32 : types[k];
            if (refs[i].dim % dtype_info(want)->block)
                want = DT_BF16; /* never silently: the log says how many */
            assert_int_equal(m->layer[0].wq.type, want);
            assert_int_equal(m->embed.type, want);
            if (want == DT_F32)
                assert_int_equal(m->weight_bytes, 4 * refs[i].params);
            model_close(m);
        }
    }
}

/* Every weight of a plain layout, against the file and the row conversion. */
static void conversion_is_row_by_row_from_the_file(void **state) {
    (void)state;
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_INT8, DT_INT4};
    struct err err = {0};
    struct tensors ts;
    need_data("models/babyllama105/config.json");
    assert_ok(safetensors_open_dir(&ts, data_path("models/babyllama105"), &err), err);
    const struct tensor *t = tensors_find(&ts, "model.layers.3.mlp.down_proj.weight");
    float src[352];
    char row[352 * 4], got[352 * 4];
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        struct model *m = open_as(data_path("models/babyllama105"), types[k], &err);
        assert_non_null(m);
        for (int r = 0; r < 128; r++) {
            memcpy(src, (const char *)t->data + (size_t)r * sizeof src, sizeof src);
            row_from_f32(types[k], src, row, 352);
            const struct mat *w = &m->layer[3].down;
            size_t bytes = dtype_row_bytes(types[k], 352);
            if (dtype_info(types[k])->panel > 1)
                panel_row(types[k], mat_row(w, r / PANEL * PANEL), r % PANEL, 352, got);
            else
                memcpy(got, mat_row(w, r), bytes);
            assert_memory_equal(got, row, bytes);
        }
        model_close(m);
    }
    tensors_close(&ts);
}

static void gpt2_weights_are_turned_and_split(void **state) {
    (void)state;
    struct err err = {0};
    struct tensors ts;
    need_data("reference/gpt2/config.json");
    assert_ok(safetensors_open_dir(&ts, data_path("reference/gpt2"), &err), err);
    struct model *m = open_as(data_path("reference/gpt2"), DT_F32, &err);
    assert_non_null(m);
    const struct tensor *t =
        tensors_find(&ts, "transformer.h.1.attn.c_attn.weight"); /* (48, 144) */
    const struct tensor *b = tensors_find(&ts, "transformer.h.1.attn.c_attn.bias");
    const struct layer *l = &m->layer[1];
    const struct mat *part[3] = {&l->wq, &l->wk, &l->wv};
    const float *bias[3] = {l->bq, l->bk, l->bv};
    for (int p = 0; p < 3; p++)
        for (int r = 0; r < 48; r++) {
            float v;
            for (int c = 0; c < 48; c++) {
                memcpy(&v, (const char *)t->data + ((size_t)c * 144 + (size_t)(p * 48 + r)) * 4, 4);
                assert_true(((const float *)mat_row(part[p], r))[c] == v);
            }
            memcpy(&v, (const char *)b->data + (size_t)(p * 48 + r) * 4, 4);
            assert_true(bias[p][r] == v);
        }
    model_close(m);
    tensors_close(&ts);
}

static void the_number_of_threads_does_not_change_a_bit(void **state) {
    (void)state;
    struct err err = {0};
    need_data("reference/gpt2/config.json");
    struct pool *three = pool_new(3);
    struct model *a = open_as(data_path("reference/gpt2"), DT_F16, &err);
    struct model *b =
        model_open(data_path("reference/gpt2"), &(struct model_opts){DT_F16, three, true}, &err);
    struct model *n =
        model_open(data_path("reference/gpt2"), &(struct model_opts){DT_F16, NULL, true}, &err);
    assert_true(a && b && n && same_weights(a, b) && same_weights(a, n));
    model_close(a);
    model_close(b);
    model_close(n);
    struct cfg c;
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    a = model_random(&c, 7, &(struct model_opts){DT_Q8_0, pool, true}, &err);
    b = model_random(&c, 7, &(struct model_opts){DT_Q8_0, three, true}, &err);
    n = model_random(&c, 8, &(struct model_opts){DT_Q8_0, three, true}, &err);
    assert_true(same_weights(a, b));
    assert_false(same_weights(a, n));
    model_close(a);
    model_close(b);
    model_close(n);
    pool_free(three);
}

/* --- random models and the way through a folder
 * ------------------------------------------------ */

static void random_weights_are_normal_with_deviation_0_02(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    struct model *m = model_random(&c, 3, &(struct model_opts){DT_F32, pool, true}, &err);
    const float *w = m->embed.data;
    int n = c.vocab * c.dim, beyond_two = 0;
    double sum = 0, sq = 0;
    for (int i = 0; i < n; i++) {
        sum += w[i];
        sq += (double)w[i] * w[i];
        beyond_two += fabsf(w[i]) > 0.04f;
    }
    assert_true(fabs(sum / n) < 4 * 0.02 / sqrt(n));
    assert_true(fabs(sqrt(sq / n) / 0.02 - 1) < 4 / sqrt(2.0 * n));
    assert_true(fabs((double)beyond_two / n - 0.0455) < 0.005); /* 2 (1 - Phi(2)) */
    for (int i = 0; i < c.dim; i++)
        assert_true(m->norm[i] == 1 && m->layer[1].norm2[i] == 1);
    model_close(m);
}

/* A small shape of any family, with every odd layout: grouped heads, head_dim * n_head != dim. */
static void small_cfg(struct cfg *c, const char *arch) {
    struct err err = {0};
    assert_ok(cfg_family(c, arch, "made", &err), err);
    c->vocab = 50;
    c->dim = 48;
    c->n_layer = 2;
    c->n_head = 4;
    c->n_kv_head = c->learned_pos || strcmp(arch, "gpt_neox") == 0 ? 4 : 2;
    c->head_dim = 12;
    c->ffn = 40;
    c->max_ctx = 32;
    c->rope_dim = c->learned_pos ? 0 : 4;
    if (strncmp(arch, "phi", 3) != 0 && strcmp(arch, "gpt_neox") != 0 && !c->learned_pos) {
        c->rope_dim = c->head_dim = 16; /* a head_dim of its own */
    }
    if (c->norm_plus_one)
        c->embed_scale = sqrtf((float)c->dim);
}

static const char *const archs[] = {"llama", "mistral", "qwen2", "qwen3",   "phi3",
                                    "gemma", "gpt2",    "phi",   "gpt_neox"};

static void a_written_model_opens_bit_for_bit(void **state) {
    (void)state;
    static const enum dtype types[] = {DT_F32, DT_BF16, DT_F16};
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        for (int k = 0; k < 3; k++) {
            struct err err = {0};
            struct cfg c;
            small_cfg(&c, archs[i]);
            assert_ok(model_init(dir, &c, 42 + i, types[k], &err), err);
            struct model *a =
                model_random(&c, 42 + i, &(struct model_opts){types[k], pool, true}, &err);
            struct model *b = open_as(dir, DT_NONE, &err);
            if (!a || !b)
                fail_msg("%s: %s", archs[i], err.msg);
            assert_string_equal(b->cfg.arch, archs[i]);
            assert_int_equal(b->embed.type, types[k]);
            if (types[k] == DT_F32)
                assert_int_equal(b->weight_bytes, 4 * cfg_params(&c));
            if (!same_weights(a, b))
                fail_msg("%s as %s differs", archs[i], dtype_info(types[k])->name);
            model_close(a);
            model_close(b);
        }
}

static float value(const struct tensors *ts, const char *name, int64_t at) {
    const struct tensor *t = tensors_find(ts, name);
    float v;
    assert_non_null(t);
    memcpy(&v, (const char *)t->data + (size_t)at * 4, 4);
    return v;
}

static float weight(const struct mat *m, int r, int c) {
    return ((const float *)mat_row(m, r))[c];
}

/* The fused layouts, spelled out here from the formats' definitions. */
static void fused_tensors_have_the_layout_of_their_family(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    struct tensors ts;
    struct model_opts o = {DT_F32, pool, true};
    small_cfg(&c, "gpt_neox");
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    assert_ok(safetensors_open_dir(&ts, dir, &err), err);
    struct model *m = model_random(&c, 1, &o, &err);
    const struct layer *l = &m->layer[1];
    for (int head = 0; head < 4; head++)
        for (int d = 0; d < 12; d++)
            for (int x = 0; x < 48; x += 5) {
                const char *w = "gpt_neox.layers.1.attention.query_key_value.weight";
                int r = head * 12 + d, at = head * 36 + d;
                assert_true(weight(&l->wq, r, x) == value(&ts, w, (int64_t)at * 48 + x));
                assert_true(weight(&l->wk, r, x) == value(&ts, w, (int64_t)(at + 12) * 48 + x));
                assert_true(weight(&l->wv, r, x) == value(&ts, w, (int64_t)(at + 24) * 48 + x));
                assert_true(l->bk[r] == value(&ts,
                                              "gpt_neox.layers.1.attention.query_key_value.bias",
                                              at + 12));
            }
    model_close(m);
    tensors_close(&ts);
    small_cfg(&c, "phi3");
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    assert_ok(safetensors_open_dir(&ts, dir, &err), err);
    m = model_random(&c, 1, &o, &err);
    l = &m->layer[1];
    const char *qkv = "model.layers.1.self_attn.qkv_proj.weight";
    const char *gate_up = "model.layers.1.mlp.gate_up_proj.weight";
    assert_int_equal(tensors_find(&ts, qkv)->shape[0], 48 + 24 + 24);
    assert_true(weight(&l->wq, 47, 3) == value(&ts, qkv, 47 * 48 + 3));
    assert_true(weight(&l->wk, 5, 3) == value(&ts, qkv, (48 + 5) * 48 + 3));
    assert_true(weight(&l->wv, 5, 3) == value(&ts, qkv, (48 + 24 + 5) * 48 + 3));
    assert_true(weight(&l->gate, 7, 9) == value(&ts, gate_up, 7 * 48 + 9));
    assert_true(weight(&l->up, 7, 9) == value(&ts, gate_up, (40 + 7) * 48 + 9));
    model_close(m);
    tensors_close(&ts);
    small_cfg(&c, "gemma");
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    assert_ok(safetensors_open_dir(&ts, dir, &err), err);
    assert_true(value(&ts, "model.norm.weight", 0) == 0); /* stored as w - 1, and w is 1 */
    tensors_close(&ts);
}

static void only_float_types_can_be_written(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    small_cfg(&c, "llama");
    assert_int_equal(model_init(dir, &c, 1, DT_Q8_0, &err), -1);
    assert_int_equal(err.code, E_USAGE);
}

/* 64 columns do not fill a block of 256: then the type of 32 that is next in size. */
static void random_weights_come_in_every_type(void **state) {
    (void)state;
    struct cfg c;
    struct err err = {0};
    small_cfg(&c, "llama");
    for (c.dim = 64; c.dim <= 256; c.dim *= 4)
        for (enum dtype t = 0; t < DT_COUNT; t++) {
            struct model *m = model_random(&c, 1, &(struct model_opts){t, pool, true}, &err);
            assert_non_null(m);
            enum dtype got = m->layer[0].wq.type;
            assert_int_equal(got == t, c.dim % dtype_info(t)->block == 0);
            assert_true(got == t || dtype_info(got)->block == 32);
            model_close(m);
        }
}

/* --- GGUF ------------------------------------------------------------------------------------ */

/* The same weights from the other format: whatever it fuses, permutes or renames is undone. */
static void gguf_and_folder_hold_the_same_model(void **state) {
    (void)state;
    static const struct {
        const char *gguf, *folder;
        enum dtype type;
    } pairs[] = {{"models/stories260K.gguf", "models/stories260K", DT_F32},
                 {"gguf/gpt2.f16.gguf", "reference/gpt2", DT_F16},
                 {"gguf/phi.f16.gguf", "reference/phi", DT_F16},
                 {"gguf/qwen2.f16.gguf", "reference/qwen2", DT_F16}};
    for (int i = 0; i < 4; i++) {
        struct err err = {0};
        need_data(pairs[i].gguf);
        struct model *a = open_as(data_path(pairs[i].gguf), DT_NONE, &err);
        struct model *b = open_as(data_path(pairs[i].folder), pairs[i].type, &err);
        if (!a || !b)
            fail_msg("%s", err.msg);
        a->cfg.tied = b->cfg.tied; /* a converter may store the head twice; its rows are compared */
        if (!same_weights(a, b))
            fail_msg("%s differs from %s", pairs[i].gguf, pairs[i].folder);
        model_close(a);
        model_close(b);
    }
}

/* Blocks stay as they are in the file, also where rows are permuted: each row is near the same row
 * of the BF16 file (4-bit types are off by about 8 %; another row by 140 %). */
static void quantized_gguf_is_kept_as_stored(void **state) {
    (void)state;
    static const struct {
        const char *path;
        enum dtype type;
        double error;
    } files[] = {{"gguf/llama-k256.Q8_0.gguf", DT_Q8_0, 0.01},
                 {"gguf/llama-k256.Q6_K.gguf", DT_Q6_K, 0.04},
                 {"gguf/llama-k256.Q4_K.gguf", DT_Q4_K, 0.15},
                 {"gguf/llama-k256.Q4_0.gguf", DT_Q4_0, 0.15}};
    struct err err = {0};
    need_data("gguf/llama-k256.BF16.gguf");
    struct model *ref = open_as(data_path("gguf/llama-k256.BF16.gguf"), DT_F32, &err);
    assert_non_null(ref);
    for (int i = 0; i < 4; i++) {
        struct model *m = open_as(data_path(files[i].path), DT_NONE, &err);
        if (!m)
            fail_msg("%s", err.msg);
        const struct mat *q = &m->layer[1].wq, *want = &ref->layer[1].wq;
        assert_int_equal(q->type, files[i].type);
        for (int r = 0; r < q->rows; r++) {
            float got[256];
            const float *w = mat_row(want, r);
            double diff = 0, norm = 0;
            mat_row_to_f32(q, r, got);
            for (int c = 0; c < 256; c++) {
                diff += (got[c] - w[c]) * (got[c] - w[c]);
                norm += w[c] * w[c];
            }
            assert_true(sqrt(diff / norm) < files[i].error);
        }
        model_close(m);
    }
    model_close(ref);
}

/* --- bad folders
 * --------------------------------------------------------------------------------- */

static void rewrite_config(const char *key, json_t *value) {
    struct err err = {0};
    json_t *j = json_file(in_dir("config.json"), 1 << 20, &err);
    assert_non_null(j);
    json_object_set_new(j, key, value);
    char *text = json_dumps(j, 0);
    assert_ok(file_write(in_dir("config.json"), text, strlen(text), &err), err);
    free(text);
    json_decref(j);
}

static void assert_refused(enum errc code, const char *const *says) {
    struct err err = {0};
    struct timespec a, b;
    size_t before = mem_resident();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    assert_null(open_as(dir, DT_NONE, &err));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    assert_int_equal(err.code, code);
    for (; *says; says++)
        if (!strstr(err.msg, *says))
            fail_msg("the message does not say '%s': %s", *says, err.msg);
    assert_true((double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9 < 0.05);
    assert_true(mem_resident() < before + (8 << 20));
}
#define REFUSED(code, ...) assert_refused(code, (const char *const[]){__VA_ARGS__, NULL})

static void wrong_shapes_are_reported_all_at_once(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    small_cfg(&c, "llama");
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    rewrite_config("vocab_size", json_integer(51));
    rewrite_config("tie_word_embeddings", json_false());
    REFUSED(E_FORMAT, dir, "2 of its tensors",
            "model.embed_tokens.weight expected [51, 48], found [50, 48]",
            "lm_head.weight expected [51, 48], found [50, 48]");
    rewrite_config("vocab_size", json_integer(50));
    rewrite_config("intermediate_size", json_integer(41));
    REFUSED(E_FORMAT, "6 of its tensors",
            "model.layers.0.mlp.gate_proj.weight expected [41, 48], found [40, 48]",
            "model.layers.0.mlp.up_proj.weight expected [41, 48], found [40, 48]", " more");
    rewrite_config("intermediate_size", json_integer(40));
    rewrite_config("num_hidden_layers", json_integer(500));
    REFUSED(E_FORMAT, "4482 of its tensors", "model.layers.2.input_layernorm.weight missing",
            " more");
    rewrite_config("num_hidden_layers", json_integer(2));
    rewrite_config("attention_bias", json_true());
    REFUSED(E_FORMAT, "8 of its tensors", "model.layers.0.self_attn.q_proj.bias missing");
    rewrite_config("attention_bias", json_false());
    struct model *m = open_as(dir, DT_NONE, &err);
    assert_non_null(m);
    model_close(m);
}

static void a_weight_of_integers_is_refused_an_unused_one_ignored(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    struct buf b = {0};
    small_cfg(&c, "llama");
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    assert_ok(file_read(in_dir("model.safetensors"), 1 << 20, &b, &err), err);
    /* norm.weight as I32 of the same size: same bytes, another meaning */
    char *at = strstr(b.data + 8, "\"model.norm.weight\"");
    assert_non_null(at);
    memcpy(strstr(at, "F32"), "I32", 3);
    assert_ok(file_write(in_dir("model.safetensors"), b.data, b.len, &err), err);
    REFUSED(E_FORMAT, "model.norm.weight has type I32");
    memcpy(strstr(at, "I32"), "F32", 3);
    memcpy(strstr(at, "model.norm.weight"), "model.born.weight", 17);
    assert_ok(file_write(in_dir("model.safetensors"), b.data, b.len, &err), err);
    REFUSED(E_FORMAT, "model.norm.weight missing");
    buf_free(&b);
}

/* Writes the model file `file` again with its header padded by `pad` bytes, which moves all
 * data. */
static void put_padded(const struct buf *file, int pad) {
    struct err err = {0};
    struct buf p = {0};
    uint64_t n;
    memcpy(&n, file->data, 8);
    uint64_t padded = n + (uint64_t)pad;
    buf_add(&p, &padded, 8);
    buf_add(&p, file->data + 8, n);
    buf_add(&p, "   ", (size_t)pad);
    buf_add(&p, file->data + 8 + n, file->len - 8 - n);
    assert_ok(file_write(in_dir("model.safetensors"), p.data, p.len, &err), err);
    buf_free(&p);
}

/* To be run under the sanitizer, which sees a float read from an odd address. */
static void misaligned_data_loads_the_same(void **state) {
    (void)state;
    static const enum dtype types[] = {DT_NONE, DT_F32, DT_F16, DT_Q8_0};
    for (int stored = 0; stored < 2; stored++) {
        struct err err = {0};
        struct cfg c;
        struct buf b = {0};
        struct model *want[4];
        small_cfg(&c, stored ? "gpt2" : "llama");
        c.dim = 64;
        c.head_dim = 16;
        assert_ok(model_init(dir, &c, 1, stored ? DT_BF16 : DT_F32, &err), err);
        assert_ok(file_read(in_dir("model.safetensors"), 1 << 22, &b, &err), err);
        for (int k = 0; k < 4; k++)
            assert_non_null(want[k] = open_as(dir, types[k], &err));
        for (int pad = 1; pad < 4; pad++) {
            put_padded(&b, pad);
            for (int k = 0; k < 4; k++) {
                struct model *m = open_as(dir, types[k], &err);
                assert_non_null(m);
                assert_true(same_weights(want[k], m));
                model_close(m);
            }
        }
        for (int k = 0; k < 4; k++)
            model_close(want[k]);
        buf_free(&b);
    }
}

static void names_without_prefix_load_too(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    small_cfg(&c, "gpt2");
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    struct model *want = open_as(dir, DT_NONE, &err);
    struct tensors ts;
    assert_ok(safetensors_open_dir(&ts, dir, &err), err);
    for (int i = 0; i < ts.n; i++)
        ts.t[i].name += strlen("transformer.");
    assert_ok(safetensors_write(in_dir("bare"), ts.t, ts.n, &err), err);
    tensors_close(&ts);
    char bare[512];
    strcpy(bare, in_dir("bare"));
    assert_int_equal(rename(bare, in_dir("model.safetensors")), 0);
    struct model *m = open_as(dir, DT_NONE, &err);
    if (!m)
        fail_msg("%s", err.msg);
    assert_true(same_weights(want, m));
    model_close(m);
    model_close(want);
}

static void generation_config_gives_defaults_and_is_checked(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {{"{\"temperature\": -1}", "temperature"},
               {"{\"top_p\": 1.5}", "top_p"},
               {"{\"top_k\": \"x\"}", "top_k"},
               {"{\"eos_token_id\": [50]}", "eos_token_id"},
               {"nonsense", "generation_config.json"}};
    struct err err = {0};
    struct cfg c;
    small_cfg(&c, "llama");
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    struct model *m = open_as(dir, DT_NONE, &err);
    assert_true(m && m->temp < 0 && m->top_p < 0 && m->top_k < 0);
    model_close(m);
    const char *good =
        "{\"temperature\": 0.5, \"top_p\": 0.75, \"top_k\": 20, \"eos_token_id\": [3, 4]}";
    assert_ok(file_write(in_dir("generation_config.json"), good, strlen(good), &err), err);
    m = open_as(dir, DT_NONE, &err);
    assert_true(m && m->temp == 0.5f && m->top_p == 0.75f && m->top_k == 20);
    assert_true(m->cfg.n_eos == 2 && m->cfg.eos[1] == 4);
    model_close(m);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_ok(
            file_write(in_dir("generation_config.json"), bad[i].text, strlen(bad[i].text), &err),
            err);
        REFUSED(E_FORMAT, "generation_config.json", bad[i].says);
    }
}

static void every_token_needs_an_embedding(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    struct model_opts o = {DT_NONE, pool, false};
    need_data("reference/llama-gqa-tied/tokenizer.json");
    small_cfg(&c, "llama");
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    struct model *m = model_open(dir, &o, &err);
    assert_non_null(m);
    assert_null(m->tok); /* a folder may lack a tokenizer */
    model_close(m);
    char *real = realpath(data_path("reference/llama-gqa-tied/tokenizer.json"), NULL);
    assert_int_equal(symlink(real, in_dir("tokenizer.json")), 0);
    free(real);
    assert_null(model_open(dir, &o, &err));
    assert_int_equal(err.code, E_FORMAT);
    assert_non_null(strstr(err.msg, "token 50 of the tokenizer has no embedding (vocab_size 50)"));
    c.vocab = 520; /* more rows than tokens is how models are padded */
    err = (struct err){0};
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    m = model_open(dir, &o, &err);
    if (!m)
        fail_msg("%s", err.msg);
    assert_int_equal(tok_size(m->tok), 512);
    model_close(m);
}

static void peek_counts_without_loading(void **state) {
    (void)state;
    struct err err = {0};
    struct model_info info;
    need_data("reference/llama-linear-rope-bias/config.json");
    assert_ok(model_peek(data_path("reference/llama-linear-rope-bias"), &info, &err), err);
    assert_int_equal(info.params, 148864);
    assert_int_equal(info.bytes, 4 * 148864);
    assert_int_equal(info.type_bytes[DT_F32], 4 * 148864);
    assert_int_equal(info.n_tensor, 35);
    assert_int_equal(info.cfg.n_kv_head, 1);
    assert_non_null(info.tok);
    model_info_free(&info);
    assert_int_equal(model_peek("/nonexistent", &info, &err), -1);
    assert_int_equal(err.code, E_IO);
    assert_non_null(strstr(err.msg, "/nonexistent"));
}

static void bad_folders_are_refused(void **state) {
    (void)state;
    REFUSED(E_IO, "config.json");
    struct err err = {0};
    assert_ok(file_write(in_dir("config.json"), "{}", 2, &err), err);
    REFUSED(E_FORMAT, "config.json: model_type is missing");
    struct cfg c;
    small_cfg(&c, "llama");
    assert_ok(model_init(dir, &c, 1, DT_F32, &err), err);
    assert_int_equal(truncate(in_dir("model.safetensors"), 4000), 0);
    REFUSED(E_FORMAT, "model.safetensors: ", "truncated");
    assert_int_equal(unlink(in_dir("model.safetensors")), 0);
    REFUSED(E_IO, "no model.safetensors");
}

static void more_than_the_memory_is_refused_with_numbers(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    assert_ok(cfg_shape(&c, "llama-1b", &err), err);
    c.dim = 16384;
    c.ffn = 65535;
    c.n_layer = 500; /* five trillion bytes */
    assert_null(model_random(&c, 1, &(struct model_opts){DT_F32, pool, true}, &err));
    assert_int_equal(err.code, E_MEMORY);
    assert_non_null(strstr(err.msg, "MiB available"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_reference_folder_loads_in_every_type),
        cmocka_unit_test(conversion_is_row_by_row_from_the_file),
        cmocka_unit_test(gpt2_weights_are_turned_and_split),
        cmocka_unit_test(the_number_of_threads_does_not_change_a_bit),
        cmocka_unit_test(random_weights_are_normal_with_deviation_0_02),
        cmocka_unit_test_setup_teardown(a_written_model_opens_bit_for_bit, temp_dir, remove_dir),
        cmocka_unit_test_setup_teardown(fused_tensors_have_the_layout_of_their_family, temp_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(only_float_types_can_be_written, temp_dir, remove_dir),
        cmocka_unit_test(random_weights_come_in_every_type),
        cmocka_unit_test_setup_teardown(wrong_shapes_are_reported_all_at_once, temp_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(a_weight_of_integers_is_refused_an_unused_one_ignored,
                                        temp_dir, remove_dir),
        cmocka_unit_test_setup_teardown(misaligned_data_loads_the_same, temp_dir, remove_dir),
        cmocka_unit_test_setup_teardown(names_without_prefix_load_too, temp_dir, remove_dir),
        cmocka_unit_test_setup_teardown(generation_config_gives_defaults_and_is_checked, temp_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(every_token_needs_an_embedding, temp_dir, remove_dir),
        cmocka_unit_test(peek_counts_without_loading),
        cmocka_unit_test_setup_teardown(bad_folders_are_refused, temp_dir, remove_dir),
        cmocka_unit_test(gguf_and_folder_hold_the_same_model),
        cmocka_unit_test(quantized_gguf_is_kept_as_stored),
        cmocka_unit_test(more_than_the_memory_is_refused_with_numbers),
    };
    log_quiet(true);
    pool = pool_new(2);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    pool_free(pool);
    return rc;
}
