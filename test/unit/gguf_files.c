/* gguf_files.c - what the GGUF reader accepts and what it makes of it: the sample files, split
 * sets (G14), configuration and tokenizer, files of our own writer, and a second opinion on
 * random damage. */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "gguf_image.h"
#include "model/gguf.h"
#include "num/quant.h"
#include "testing.h"

#define GGUF_DTYPES (DT_Q6_K + 1) /* the last two are not of this format */

static char dir[64];

static int make_dir(void **state) {
    (void)state;
    strcpy(dir, "/tmp/pumice-gguf-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char cmd[96];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static const char *in_dir(const char *name) {
    static char path[4][128];
    static int at;
    at = (at + 1) % 4;
    snprintf(path[at], sizeof path[at], "%s/%s", dir, name);
    return path[at];
}

/* --- Sample files --- */

static void sample_files_have_the_listed_types(void **state) {
    (void)state;
    need_data("gguf/quant.json");
    json_error_t je;
    json_t *list = json_load_file(data_path("gguf/quant.json"), 0, &je), *row;
    size_t i;
    assert_true(json_array_size(list) >= 6);
    json_array_foreach(list, i, row) {
        struct err err = {0};
        char name[128];
        snprintf(name, sizeof name, "gguf/%s", json_string_value(json_object_get(row, "file")));
        struct gguf *g = gguf_open(data_path(name), &err);
        if (!g)
            fail_msg("%s", err.msg);
        const struct tensors *ts = gguf_tensors(g);
        json_t *count = json_object();
        for (int k = 0; k < ts->n; k++) {
            const char *type = ts->t[k].type_name;
            json_int_t old = json_integer_value(json_object_get(count, type));
            json_object_set_new(count, type, json_integer(old + 1));
            assert_true(ts->t[k].type != DT_NONE);
        }
        assert_true(json_equal(count, json_object_get(row, "tensors")));
        json_decref(count);
        gguf_close(g);
    }
    json_decref(list);
}

/* clang-format off */
static const struct {
    const char *file, *arch;
    int vocab, dim, n_layer, n_head, n_kv, head_dim, ffn, ctx, rope_dim;
    double theta, eps;
    bool tied, bias_qkv, bias_o, bias_mlp, bias_head;
    int bos, eos;
} samples[] = {
    {"models/stories260K.gguf", "llama",
     512, 64, 5, 8, 4, 8, 172, 2048, 8, 1e4, 1e-5, 0, 0, 0, 0, 0, 1, 2},
    {"gguf/gpt2.f16.gguf", "gpt2",
     512, 48, 3, 4, 4, 12, 192, 128, 0, 0, 1e-5, 0, 1, 1, 1, 0, 511, 511},
    {"gguf/phi.f16.gguf", "phi",
     512, 80, 3, 4, 4, 20, 320, 128, 8, 1e4, 1e-5, 0, 1, 1, 1, 1, 511, 511},
    {"gguf/qwen2.f16.gguf", "qwen2",
     512, 56, 3, 7, 1, 8, 152, 128, 8, 1e6, 1e-6, 1, 1, 0, 0, 0, 511, 511},
    {"gguf/llama-k256.Q4_K_M.gguf", "llama",
     512, 256, 2, 8, 4, 32, 512, 128, 32, 1e4, 1e-5, 0, 0, 0, 0, 0, 1, 2},
};
/* clang-format on */

static void sample_configurations_are_read(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        struct err err = {0};
        struct cfg c;
        need_data(samples[i].file);
        struct gguf *g = gguf_open(data_path(samples[i].file), &err);
        if (!g || gguf_cfg(g, &c, &err))
            fail_msg("%s", err.msg);
        assert_string_equal(c.arch, samples[i].arch);
        assert_int_equal(c.vocab, samples[i].vocab);
        assert_int_equal(c.dim, samples[i].dim);
        assert_int_equal(c.n_layer, samples[i].n_layer);
        assert_int_equal(c.n_head, samples[i].n_head);
        assert_int_equal(c.n_kv_head, samples[i].n_kv);
        assert_int_equal(c.head_dim, samples[i].head_dim);
        assert_int_equal(c.ffn, samples[i].ffn);
        assert_int_equal(c.max_ctx, samples[i].ctx);
        assert_int_equal(c.rope_dim, samples[i].rope_dim);
        if (c.rope_dim)
            assert_true(c.rope_theta == (float)samples[i].theta);
        assert_true(c.norm_eps == (float)samples[i].eps);
        assert_int_equal(c.tied, samples[i].tied);
        assert_int_equal(c.bias_qkv, samples[i].bias_qkv);
        assert_int_equal(c.bias_o, samples[i].bias_o);
        assert_int_equal(c.bias_mlp, samples[i].bias_mlp);
        assert_int_equal(c.bias_head, samples[i].bias_head);
        assert_int_equal(c.bos, samples[i].bos);
        assert_int_equal(c.n_eos, 1);
        assert_int_equal(c.eos[0], samples[i].eos);
        struct tok *t = gguf_tok(g, &err);
        if (!t)
            fail_msg("%s", err.msg);
        assert_int_equal(tok_size(t), 512);
        assert_int_equal(tok_bos(t), samples[i].bos);
        assert_int_equal(tok_adds_bos(t), strcmp(samples[i].arch, "llama") == 0);
        tok_free(t);
        gguf_close(g);
    }
}

/* --- Configuration and tokenizer details --- */

static struct gguf *open_image(struct image *im) {
    struct err err = {0};
    const struct buf *b = finish(im);
    struct gguf *g = gguf_parse("test.gguf", b->data, b->len, &err);
    if (!g)
        fail_msg("%s", err.msg);
    return g;
}

static void end_of_turn_joins_the_end_ids(void **state) {
    (void)state;
    struct image im = {0};
    struct err err = {0};
    struct cfg c;
    base(&im);
    kv_int(&im, "tokenizer.ggml.eot_token_id", U32, 5);
    kv_int(&im, "tokenizer.ggml.eom_token_id", U32, 2); /* the same as eos */
    struct gguf *g = open_image(&im);
    assert_ok(gguf_cfg(g, &c, &err), err);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[0], 2);
    assert_int_equal(c.eos[1], 5);
    gguf_close(g);
    image_free(&im);
}

static void absent_ids_are_none(void **state) {
    (void)state;
    struct image im = {.skip = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"}};
    struct err err = {0};
    struct cfg c;
    base(&im);
    im.skip[0] = im.skip[1] = NULL;
    kv_int(&im, "tokenizer.ggml.bos_token_id", U32, 0xffffffff);
    kv_int(&im, "tokenizer.ggml.eos_token_id", I32, 0xffffffff);
    struct gguf *g = open_image(&im);
    assert_ok(gguf_cfg(g, &c, &err), err);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.n_eos, 0);
    gguf_close(g);
    image_free(&im);
}

static void tensors_switch_biases_and_the_head(void **state) {
    (void)state;
    struct image im = {0};
    struct err err = {0};
    struct cfg c;
    base(&im);
    tensor(&im, "output.weight", 1, 32, 8);
    tensor(&im, "output.bias", 0, 8, 0);
    tensor(&im, "blk.0.attn_k.bias", 0, 16, 0);
    tensor(&im, "blk.0.ffn_gate.bias", 0, 64, 0);
    struct gguf *g = open_image(&im);
    assert_ok(gguf_cfg(g, &c, &err), err);
    assert_false(c.tied);
    assert_true(c.bias_head);
    assert_true(c.bias_qkv);
    assert_true(c.bias_mlp);
    assert_false(c.bias_o);
    gguf_close(g);
    image_free(&im);
}

static void linear_rope_scaling_is_read(void **state) {
    (void)state;
    for (int form = 0; form < 4; form++) {
        struct image im = {0};
        struct err err = {0};
        struct cfg c;
        base(&im);
        kv_f32(&im, form == 0 ? "llama.rope.scale_linear" : "llama.rope.scaling.factor", 4);
        if (form >= 2)
            kv_str(&im, "llama.rope.scaling.type", form == 2 ? "linear" : "none");
        struct gguf *g = open_image(&im);
        assert_ok(gguf_cfg(g, &c, &err), err);
        assert_int_equal(c.rope_scaling, form == 3 ? ROPE_PLAIN : ROPE_LINEAR);
        if (form < 3)
            assert_true(c.rope_factor == 4);
        gguf_close(g);
        image_free(&im);
    }
}

/* A model with heads of 64 and the given rope_freqs.weight; what gguf_cfg makes of it. */
static int cfg_with_freqs(const float *f, struct cfg *c, struct err *err) {
    struct image im = {.skip = {"llama.attention.head_count", "llama.attention.head_count_kv"}};
    base(&im);
    im.skip[0] = im.skip[1] = NULL;
    kv_int(&im, "llama.attention.head_count", U32, 1);
    kv_int(&im, "llama.attention.head_count_kv", U32, 1);
    kv_int(&im, "llama.attention.key_length", U32, 64);
    kv_int(&im, "llama.attention.value_length", U32, 64);
    kv_f32(&im, "llama.rope.freq_base", 500000);
    uint64_t at = im.data;
    tensor(&im, "rope_freqs.weight", 0, 32, 0);
    finish(&im);
    memcpy(im.out.data + im.out.len - im.data + at, f, 32 * sizeof *f);
    struct gguf *g = gguf_parse("test.gguf", im.out.data, im.out.len, err);
    int rc = g ? gguf_cfg(g, c, err) : -1;
    gguf_close(g);
    image_free(&im);
    return rc;
}

/* As the model's published code computes it, from wavelengths (ours counts turns). */
static void converter_freqs(float *f, double factor, double low, double high, double orig) {
    for (int i = 0; i < 32; i++) {
        double freq = 1.0 / pow(500000.0, 2.0 * i / 64),
               wavelen = 2 * 3.14159265358979323846 / freq;
        double smooth = (orig / wavelen - low) / (high - low);
        if (wavelen < orig / high)
            f[i] = 1;
        else if (wavelen > orig / low)
            f[i] = (float)factor;
        else
            f[i] = (float)(1 / ((1 - smooth) / factor + smooth));
    }
}

static void rope_freqs_of_llama_3_are_recognised(void **state) {
    (void)state;
    static const double factors[] = {8, 32}, origs[] = {8192, 64, 4096, 131072};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 4; k++) {
            struct err err = {0};
            struct cfg c;
            float f[32];
            converter_freqs(f, factors[i], 1, 4, origs[k]);
            assert_ok(cfg_with_freqs(f, &c, &err), err);
            assert_int_equal(c.rope_scaling, ROPE_LLAMA3);
            assert_true(c.rope_factor == factors[i] && c.rope_low == 1 && c.rope_high == 4);
            assert_int_equal(c.rope_orig_ctx, origs[k]);
        }
    struct err err = {0};
    struct cfg c;
    float f[32];
    for (int i = 0; i < 32; i++)
        f[i] = 1;
    assert_ok(cfg_with_freqs(f, &c, &err), err);
    assert_int_equal(c.rope_scaling, ROPE_PLAIN);
}

static void other_rope_freqs_are_refused(void **state) {
    (void)state;
    for (int i = 0; i < 36; i++) {
        struct err err = {0};
        struct cfg c;
        float f[32];
        converter_freqs(f, 8, 1, i == 32 ? 5 : 4, i == 33 ? 10000 : 8192);
        if (i < 32)
            f[i] *= 1.0001f;
        if (i == 34)
            f[5] = NAN;
        if (i == 35)
            memset(f, 0, sizeof f);
        assert_int_equal(cfg_with_freqs(f, &c, &err), -1);
        assert_int_equal(err.code, E_FORMAT);
        assert_non_null(strstr(err.msg, "rope_freqs.weight"));
    }
}

static void bos_defaults_follow_the_model(void **state) {
    (void)state;
    static const struct {
        const char *model, *pre;
        int add, want; /* add: -1 = no such key */
    } cases[] = {{"llama", NULL, -1, 1},     {"llama", NULL, 0, 0},    {"gpt2", NULL, -1, 0},
                 {"gpt2", "gpt-2", 1, 1},    {"gpt2", "qwen2", -1, 0}, {"gpt2", "llama-bpe", -1, 1},
                 {"gpt2", "llama-bpe", 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct image im = {.skip = {"tokenizer.ggml.model"}};
        struct err err = {0};
        base(&im);
        im.skip[0] = NULL;
        kv_str(&im, "tokenizer.ggml.model", cases[i].model);
        if (cases[i].pre)
            kv_str(&im, "tokenizer.ggml.pre", cases[i].pre);
        if (cases[i].add >= 0)
            kv_int(&im, "tokenizer.ggml.add_bos_token", BOOL, (uint64_t)cases[i].add);
        put_text(kv_arr(&im, "tokenizer.ggml.merges", STR, 1), "a b", 3);
        kv_str(&im, "tokenizer.chat_template", "{{ messages }}");
        struct gguf *g = open_image(&im);
        struct tok *t = gguf_tok(g, &err);
        if (!t)
            fail_msg("%s", err.msg);
        assert_int_equal(tok_adds_bos(t), cases[i].want);
        assert_string_equal(tok_chat_template(t), "{{ messages }}");
        gguf_close(g); /* the tokenizer has copies */
        image_free(&im);
        struct ids ids = {0};
        assert_ok(tok_encode(t, "ab", 2, false, &ids, &err), err);
        assert_true(ids.n > 0 && ids.id[ids.n - 1] == 6);
        ids_free(&ids);
        tok_free(t);
    }
}

/* --- Split sets --- */

/* Writes part no of `count`; has no keys but the split ones from part 2 on. */
static void write_part(const char *name, int no, int count, int told, const char *tensor_name) {
    struct image im = {.version = 3, .align = 32};
    struct err err = {0};
    if (no == 0)
        base(&im);
    kv_int(&im, "split.no", U16, (uint64_t)no);
    kv_int(&im, "split.count", U16, (uint64_t)count);
    kv_int(&im, "split.tensors.count", I32, (uint64_t)told);
    tensor(&im, tensor_name, 0, 32, 8);
    const struct buf *b = finish(&im);
    assert_ok(file_write(in_dir(name), b->data, b->len, &err), err);
    image_free(&im);
}

static void write_set(void) {
    write_part("m-00001-of-00003.gguf", 0, 3, 14, "output.weight");
    write_part("m-00002-of-00003.gguf", 1, 3, 14, "second.weight");
    write_part("m-00003-of-00003.gguf", 2, 3, 14, "third.weight");
}

static void refuses_set(const char *name, const char *word, const char *word2) {
    struct err err = {0};
    struct gguf *g = gguf_open(in_dir(name), &err);
    assert_null(g);
    assert_int_equal(err.code, E_FORMAT);
    if (!strstr(err.msg, word) || !strstr(err.msg, word2))
        fail_msg("no '%s' or '%s' in: %s", word, word2, err.msg);
}

static void a_split_set_is_one_model(void **state) {
    (void)state;
    struct err err = {0};
    write_set();
    struct gguf *g = gguf_open(in_dir("m-00001-of-00003.gguf"), &err);
    if (!g)
        fail_msg("%s", err.msg);
    const struct tensors *ts = gguf_tensors(g);
    assert_int_equal(ts->n, 14);
    assert_int_equal(ts->n_file, 3);
    static const char *const names[] = {"output.weight", "second.weight", "third.weight"};
    for (int i = 0; i < 3; i++) {
        const struct tensor *t = tensors_find(ts, names[i]);
        assert_non_null(t);
        const uint8_t *p = t->data, *file = ts->file[i].data;
        assert_true(p >= file && p + t->bytes <= file + ts->file[i].size);
    }
    gguf_close(g);
}

static void g14_broken_split_sets(void **state) {
    (void)state;
    write_set();
    refuses_set("m-00002-of-00003.gguf", "part 2 of 3", "m-00001-of-00003.gguf instead");
    unlink(in_dir("m-00002-of-00003.gguf"));
    refuses_set("m-00001-of-00003.gguf", "part 2 of 3 is missing", "m-00002-of-00003.gguf");
    write_part("m-00002-of-00003.gguf", 2, 3, 14, "third.weight"); /* part 3 twice */
    refuses_set("m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "says part 3 of 3");
    write_part("m-00002-of-00003.gguf", 1, 4, 14, "second.weight");
    refuses_set("m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "says part 2 of 4");
    write_part("m-00002-of-00003.gguf", 1, 3, 14, "third.weight");
    refuses_set("m-00001-of-00003.gguf", "'third.weight'", "also in another part");
    write_set();
    write_part("m-00001-of-00003.gguf", 0, 3, 15, "output.weight");
    refuses_set("m-00001-of-00003.gguf", "split.tensors.count is 15", "the parts have 14");
    write_part("other.gguf", 0, 3, 14, "output.weight");
    refuses_set("other.gguf", "split.no", "must end in '-00001-of-00003.gguf'");
    write_part("m-00004-of-00003.gguf", 3, 3, 14, "output.weight");
    refuses_set("m-00004-of-00003.gguf", "split.no is 3", "split.count is 3");
    write_part("m-00001-of-09999.gguf", 0, 9999, 14, "output.weight");
    refuses_set("m-00001-of-09999.gguf", "split.count is 9999", "not in");
}

static void a_missing_file_is_an_io_error(void **state) {
    (void)state;
    struct err err = {0};
    assert_null(gguf_open(in_dir("none.gguf"), &err));
    assert_int_equal(err.code, E_IO);
    assert_non_null(strstr(err.msg, "none.gguf"));
}

/* --- The writer --- */

static void what_is_written_is_read_back(void **state) {
    (void)state;
    const char *words[] = {"<unk>", "", "a\0b"};
    const size_t lens[] = {5, 0, 3};
    float reals[3] = {0, -1.5f, 3};
    uint32_t dim = 32, align = 64;
    bool yes = true;
    const struct gguf_pair pairs[] = {
        {.key = "general.architecture", .type = GGUF_STR, .value = "llama"},
        {.key = "general.alignment", .type = GGUF_U32, .value = &align},
        {.key = "llama.embedding_length", .type = GGUF_U32, .value = &dim},
        {.key = "tokenizer.ggml.add_bos_token", .type = GGUF_BOOL, .value = &yes},
        {.key = "tokenizer.ggml.tokens", GGUF_ARR, GGUF_STR, 3, words, lens},
        {.key = "tokenizer.ggml.scores", GGUF_ARR, GGUF_F32, 3, reals},
    };
    uint8_t bytes[512 * 8];
    struct rng r;
    rng_seed(&r, 1);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)rng_u64(&r);
    struct tensor t[GGUF_DTYPES];
    char names[GGUF_DTYPES][16];
    for (int i = 0; i < GGUF_DTYPES; i++) {
        const struct dtype_info *d = dtype_info((enum dtype)i);
        snprintf(names[i], sizeof names[i], "t%d.weight", i);
        t[i] = (struct tensor){.name = names[i], .type = (enum dtype)i, .rank = 3};
        t[i].shape[0] = 1;
        t[i].shape[1] = 3;
        t[i].shape[2] = d->block;
        t[i].data = bytes + i;
        t[i].bytes = 3 * (size_t)d->bytes;
    }
    struct err err = {0};
    const char *path = in_dir("written.gguf");
    assert_ok(gguf_write(path, pairs, 6, t, GGUF_DTYPES, &err), err);
    struct gguf *g = gguf_open(path, &err);
    if (!g)
        fail_msg("%s", err.msg);
    const struct tensors *ts = gguf_tensors(g);
    assert_int_equal(ts->n, GGUF_DTYPES);
    for (int i = 0; i < GGUF_DTYPES; i++) {
        const struct tensor *got = tensors_find(ts, names[i]);
        assert_non_null(got);
        assert_int_equal(got->type, i);
        assert_int_equal(got->rank, 3);
        assert_memory_equal(got->shape, t[i].shape, 3 * sizeof *t[i].shape);
        assert_int_equal(got->bytes, t[i].bytes);
        assert_memory_equal(got->data, t[i].data, t[i].bytes);
        assert_int_equal((uintptr_t)got->data % 64, 0);
    }
    gguf_close(g);
}

/* Our writer and the test's generator must agree byte by byte on the same content. */
static void the_writer_follows_the_format(void **state) {
    (void)state;
    struct image im = {.version = 3, .align = 32};
    const char *words[] = {"a\0", "bc"};
    const size_t lens[] = {2, 2};
    uint16_t small = 513;
    float f[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    kv_str(&im, "general.architecture", "llama");
    kv_int(&im, "x.small", U16, small);
    put_text(kv_arr(&im, "x.words", STR, 2), "a\0", 2);
    put_text(&im.kv, "bc", 2);
    tensor(&im, "w", 0, 5, 2);
    tensor(&im, "v", 0, 5, 2);
    finish(&im);
    memcpy(im.out.data + im.out.len - 128, f, sizeof f);
    memset(im.out.data + im.out.len - 128 + 40, 0, 24);
    memcpy(im.out.data + im.out.len - 64, f, sizeof f);
    memset(im.out.data + im.out.len - 64 + 40, 0, 24);
    const struct gguf_pair pairs[] = {
        {.key = "general.architecture", .type = GGUF_STR, .value = "llama"},
        {.key = "x.small", .type = GGUF_U16, .value = &small},
        {.key = "x.words", GGUF_ARR, GGUF_STR, 2, words, lens},
    };
    struct tensor t[2] = {{.name = "w", .rank = 2, .shape = {2, 5}, .data = f, .bytes = 40},
                          {.name = "v", .rank = 2, .shape = {2, 5}, .data = f, .bytes = 40}};
    struct err err = {0};
    struct buf got = {0};
    const char *path = in_dir("format.gguf");
    assert_ok(gguf_write(path, pairs, 3, t, 2, &err), err);
    assert_ok(file_read(path, 1 << 20, &got, &err), err);
    assert_int_equal(got.len, im.out.len);
    assert_memory_equal(got.data, im.out.data, got.len);
    buf_free(&got);
    image_free(&im);
}

/* --- A second opinion: the rules again, as plainly as possible, with quadratic checks --- */

struct walk {
    const uint8_t *p;
    uint64_t n, at;
    bool ok;
};

static uint64_t num(struct walk *w, int bytes) {
    uint64_t v = 0;
    if (!w->ok || w->n - w->at < (uint64_t)bytes)
        return w->ok = false;
    memcpy(&v, w->p + w->at, (size_t)bytes);
    w->at += (uint64_t)bytes;
    return v;
}

static const uint8_t *text(struct walk *w, uint64_t max, uint64_t *n) {
    *n = num(w, 8);
    if (!w->ok || *n > max || *n > w->n - w->at) {
        w->ok = false;
        return NULL;
    }
    w->at += *n;
    return w->p + w->at - *n;
}

static void value(struct walk *w, uint64_t type, int depth) {
    static const int bytes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    uint64_t n;
    if (type > 12 || (type == 9 && depth))
        w->ok = false;
    else if (type == 8)
        text(w, 1 << 24, &n);
    else if (type == 9) {
        type = num(w, 4);
        n = num(w, 8);
        if (n > 1 << 24 || type == 9)
            w->ok = false;
        if (type > 12)
            w->ok = false;
        for (uint64_t i = 0; i < n && w->ok; i++)
            value(w, type, 1);
    } else
        num(w, bytes[type]);
}

struct seen {
    const uint8_t *name;
    uint64_t n, begin, end;
};

static bool second_opinion(const uint8_t *p, uint64_t n) {
    struct walk w = {p, n, 4, n >= 4 && memcmp(p, "GGUF", 4) == 0};
    struct seen seen[2][64];
    uint64_t version = num(&w, 4), n_tensor = num(&w, 8), n_kv = num(&w, 8), align = 32;
    if (!w.ok || (version != 2 && version != 3) || n_tensor > 64 || n_kv > 64)
        return false;
    for (uint64_t i = 0; i < n_kv && w.ok; i++) {
        struct seen *s = &seen[0][i];
        s->name = text(&w, 256, &s->n);
        uint64_t type = num(&w, 4), at = w.at;
        value(&w, type, 0);
        if (!w.ok || s->n == 0 || memchr(s->name, 0, s->n))
            return false;
        if (s->n == 17 && memcmp(s->name, "general.alignment", 17) == 0) {
            uint32_t a;
            memcpy(&a, p + at, 4);
            if (type != 4 || a == 0 || a > 65536 || (a & (a - 1)))
                return false;
            align = a;
        }
        if (s->n == 11 && memcmp(s->name, "split.count", 11) == 0)
            return false; /* the images have none */
        for (uint64_t k = 0; k < i; k++)
            if (seen[0][k].n == s->n && memcmp(seen[0][k].name, s->name, s->n) == 0)
                return false;
    }
    for (uint64_t i = 0; i < n_tensor && w.ok; i++) {
        static const int block[31] = {1, 1, 32, 32, 0, 0, 32, 32, 32, 0, 0, 0, 256, 256, 256, 0,
                                      0, 0, 0,  0,  0, 0, 0,  0,  1,  1, 1, 1, 1,   0,   1};
        static const int bytes[31] = {4, 2, 18, 20, 0, 0, 22, 24, 34, 0, 0, 0, 144, 176, 210, 0,
                                      0, 0, 0,  0,  0, 0, 0,  0,  1,  2, 4, 8, 8,   0,   2};
        struct seen *s = &seen[1][i];
        s->name = text(&w, 256, &s->n);
        uint64_t n_dim = num(&w, 4), dim[4];
        if (!w.ok || s->n == 0 || memchr(s->name, 0, s->n) || n_dim < 1 || n_dim > 4)
            return false;
        long double count = 1; /* 64 bits of mantissa: exact where it matters */
        for (uint64_t k = 0; k < n_dim; k++) {
            dim[k] = num(&w, 8);
            if (dim[k] == 0 || dim[k] > INT64_MAX)
                return false;
            count *= dim[k];
        }
        uint64_t type = num(&w, 4);
        s->begin = num(&w, 8);
        if (!w.ok || type > 30 || !block[type] || dim[0] % (uint64_t)block[type])
            return false;
        long double size = count / block[type] * bytes[type];
        if (size > n || s->begin > n)
            return false;
        s->end = s->begin + (uint64_t)size;
        for (uint64_t k = 0; k < i; k++)
            if (seen[1][k].n == s->n && memcmp(seen[1][k].name, s->name, s->n) == 0)
                return false;
    }
    uint64_t data = (w.at + align - 1) / align * align;
    for (uint64_t i = 0; i < n_tensor && w.ok; i++) {
        struct seen *s = seen[1];
        if (s[i].begin % align || data + s[i].end > n)
            return false;
        for (uint64_t k = 0; k < i; k++)
            if (s[i].begin < s[k].end && s[k].begin < s[i].end)
                return false;
    }
    return w.ok;
}

/* Damages one field: a number of 4 or 8 bytes anywhere in the header becomes an edge value. */
static void damage(struct rng *r, uint8_t *p, size_t header) {
    static const uint64_t edge[] = {0,
                                    1,
                                    2,
                                    3,
                                    4,
                                    8,
                                    9,
                                    12,
                                    13,
                                    31,
                                    32,
                                    33,
                                    64,
                                    255,
                                    256,
                                    257,
                                    4096,
                                    65536,
                                    65537,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    (uint64_t)1 << 32,
                                    (uint64_t)1 << 62,
                                    (uint64_t)1 << 63,
                                    UINT64_MAX};
    size_t at = 4 + rng_below(r, (uint32_t)header - 12), n = rng_below(r, 2) ? 4 : 8;
    uint64_t v = edge[rng_below(r, sizeof edge / sizeof *edge)], old = 0;
    memcpy(&old, p + at, n);
    if (rng_below(r, 2))
        v = old + v; /* nearby values; wraps */
    memcpy(p + at, &v, rng_below(r, 4) ? n : 1);
}

static void accepts_what_a_second_reader_accepts(void **state) {
    (void)state;
    struct image im = {0};
    base(&im);
    kv_int(&im, "general.alignment", U32, 32);
    const struct buf *b = finish(&im);
    size_t header = b->len - im.data;
    int n_ok = 0;
    uint8_t *p = mem_new(b->len);
    FOR_SEEDS(60000) {
        struct rng r;
        struct err err = {0};
        rng_seed(&r, seed);
        memcpy(p, b->data, b->len);
        for (uint32_t n = 1 + rng_below(&r, 2); n > 0; n--)
            damage(&r, p, header);
        struct gguf *g = gguf_parse("test.gguf", p, b->len, &err);
        if (!g != !second_opinion(p, b->len))
            fail_msg("seed %llu: %s", (unsigned long long)seed, g ? "accepted" : err.msg);
        n_ok += g != NULL;
        gguf_close(g);
    }
    assert_in_range(n_ok, 600, 59400); /* both verdicts were put to the test */
    free(p);
    image_free(&im);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sample_files_have_the_listed_types),
        cmocka_unit_test(sample_configurations_are_read),
        cmocka_unit_test(end_of_turn_joins_the_end_ids),
        cmocka_unit_test(absent_ids_are_none),
        cmocka_unit_test(tensors_switch_biases_and_the_head),
        cmocka_unit_test(linear_rope_scaling_is_read),
        cmocka_unit_test(rope_freqs_of_llama_3_are_recognised),
        cmocka_unit_test(other_rope_freqs_are_refused),
        cmocka_unit_test(bos_defaults_follow_the_model),
        cmocka_unit_test(a_split_set_is_one_model),
        cmocka_unit_test(g14_broken_split_sets),
        cmocka_unit_test(a_missing_file_is_an_io_error),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(the_writer_follows_the_format),
        cmocka_unit_test(accepts_what_a_second_reader_accepts),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
