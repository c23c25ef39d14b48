/* cfg.c - claims about config.json: what is refused and how it is said, and the way back. */
#include <math.h>

#include "testing.h"

#include "base/log.h"
#include "base/rng.h"
#include "model/cfg.h"

static const char *const families[] = {"llama", "mistral", "qwen2", "qwen3",   "phi3",
                                       "gemma", "gpt2",    "phi",   "gpt_neox"};
#define N_FAMILY ((int)(sizeof families / sizeof *families))

static const char base_llama[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 512, \"hidden_size\": 64, \"num_hidden_layers\": "
    "2,"
    " \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 160,"
    " \"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\","
    " \"rope_theta\": 10000.0, \"bos_token_id\": 1, \"eos_token_id\": 2}";

/* Reads base_llama with one key replaced by a JSON text (NULL = removed). */
static int read_with(struct cfg *c, const char *key, const char *value, struct err *err) {
    json_t *j = json_loads(base_llama, 0, NULL);
    assert_non_null(j);
    if (value) {
        json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
        assert_non_null(v);
        json_object_set_new(j, key, v);
    } else {
        json_object_del(j, key);
    }
    int rc = cfg_from_hf(c, j, "config.json", err);
    json_decref(j);
    return rc;
}

static void bad_values_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *key, *value, *says;
    } bad[] = {
        {"vocab_size", "0", "vocab_size"},
        {"vocab_size", "-512", "vocab_size"},
        {"vocab_size", "2147483648", "vocab_size"},
        {"vocab_size", "512.0", "vocab_size"},
        {"vocab_size", "\"512\"", "vocab_size"},
        {"vocab_size", NULL, "vocab_size is missing"},
        {"hidden_size", "-64", "hidden_size"},
        {"hidden_size", "9223372036854775807", "hidden_size"},
        {"hidden_size", "66", "not a multiple"},
        {"num_hidden_layers", "0", "num_hidden_layers"},
        {"num_hidden_layers", "513", "num_hidden_layers"},
        {"num_attention_heads", "0", "num_attention_heads"},
        {"num_attention_heads", "[4]", "num_attention_heads"},
        {"num_key_value_heads", "8", "num_key_value_heads"},
        {"num_key_value_heads", "0", "num_key_value_heads"},
        {"num_key_value_heads", "3", "num_key_value_heads"},
        {"head_dim", "15", "rotary dimension"},
        {"head_dim", "100000", "head_dim"},
        {"intermediate_size", NULL, "intermediate_size is missing"},
        {"intermediate_size", "1000000000000", "intermediate_size"},
        {"max_position_embeddings", "0", "max_position_embeddings"},
        {"max_position_embeddings", "2147483647", "max_position_embeddings"},
        {"rms_norm_eps", "1e308", "rms_norm_eps"},
        {"rms_norm_eps", "-1e-5", "rms_norm_eps"},
        {"rms_norm_eps", "\"tiny\"", "rms_norm_eps"},
        {"rope_theta", "0", "rope_theta"},
        {"rope_theta", "-1e4", "rope_theta"},
        {"hidden_act", "\"mish\"", "mish"},
        {"hidden_act", "7", "hidden_act"},
        {"tie_word_embeddings", "1", "tie_word_embeddings"},
        {"eos_token_id", "512", "eos_token_id"},
        {"eos_token_id", "-1", "eos_token_id"},
        {"eos_token_id", "[2, \"x\"]", "eos_token_id"},
        {"eos_token_id", "[1, 2, 3, 4, 5, 6, 7, 8, 9]", "eos_token_id"},
        {"bos_token_id", "512", "bos_token_id"},
        {"model_type", NULL, "model_type is missing"},
        {"model_type", "\"mamba\"", "'mamba' not supported (supported: llama, mistral"},
        {"model_type", "3", "model_type"},
        {"quantization_config", "{\"quant_method\": \"gptq\"}", "quantization_config (gptq)"},
        {"rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4.0}", "'yarn' not supported"},
        {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": 4.0}", "'dynamic' not supported"},
        {"rope_scaling", "{\"factor\": 4.0}", "rope_type"},
        {"rope_scaling", "[4.0]", "rope_scaling"},
        {"rope_scaling", "{\"type\": \"linear\"}", "factor is missing"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 0.5}", "factor"},
        {"rope_scaling", "{\"type\": \"llama3\", \"factor\": 8.0}",
         "original_max_position_embeddings"},
        {"rope_scaling",
         "{\"type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 4.0, \"high_freq_factor\": "
         "4.0,"
         " \"original_max_position_embeddings\": 64}",
         "high_freq_factor"},
        {"rope_parameters", "{\"rope_theta\": 1e4, \"rope_type\": \"longrope\"}", "'longrope'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct cfg c;
        struct err err = {0};
        memset(&c, 0x5a, sizeof c);
        if (read_with(&c, bad[i].key, bad[i].value, &err) == 0)
            fail_msg("%s = %s was accepted", bad[i].key, bad[i].value ? bad[i].value : "(absent)");
        assert_int_equal(err.code, E_FORMAT);
        if (!strstr(err.msg, bad[i].says) || !strstr(err.msg, "config.json"))
            fail_msg("%s = %s: the message does not say '%s': %s", bad[i].key,
                     bad[i].value ? bad[i].value : "(absent)", bad[i].says, err.msg);
        assert_int_equal(c.vocab, 0x5a5a5a5a); /* outputs are written only on success */
    }
}

static void nan_in_json_is_refused(void **state) {
    (void)state;
    static const char *const texts[] = {"{\"rms_norm_eps\": NaN}",
                                        "{\"rope_theta\": Infinity}",
                                        "{\"rms_norm_eps\": 1e999}",
                                        "{\"a\": 1, \"a\": 2}",
                                        "[1]",
                                        ""};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct err err = {0};
        assert_null(json_parse("config.json", texts[i], strlen(texts[i]), &err));
        assert_int_equal(err.code, E_FORMAT);
    }
}

static void check_refuses_nan_and_huge_products(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    c.norm_eps = strtof("nan", NULL);
    assert_int_equal(cfg_check(&c, "x", &err), -1);
    err = (struct err){0};
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    c.rope_theta = strtof("inf", NULL);
    assert_int_equal(cfg_check(&c, "x", &err), -1);
    err = (struct err){0};
    assert_ok(cfg_shape(&c, "tiny", &err), err);
    c.vocab = 1 << 20;
    c.dim = 1 << 16;
    assert_int_equal(cfg_check(&c, "x", &err), -1);
    assert_non_null(strstr(err.msg, "2^31"));
}

static void optional_keys_have_the_reference_defaults(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    assert_ok(read_with(&c, "num_key_value_heads", NULL, &err), err);
    assert_int_equal(c.n_kv_head, c.n_head);
    assert_ok(read_with(&c, "auto_map", "{\"AutoModel\": \"x.py\"}", &err), err); /* ignored */
    assert_ok(read_with(&c, "rope_theta", NULL, &err), err);
    assert_true(c.rope_theta == 10000);
    assert_ok(read_with(&c, "model_type", "\"mistral\"", &err), err);
    assert_int_equal(c.window, 4096); /* absent means 4,096; only null means none */
    assert_ok(read_with(&c, "model_type", "\"qwen2\"", &err), err);
    assert_int_equal(c.window, 0);
    assert_true(c.bias_qkv && !c.bias_o && !c.bias_mlp);
    assert_ok(read_with(&c, "model_type", "\"phi\"", &err), err);
    assert_int_equal(c.rope_dim, 8);
    assert_true(c.shared_norm && c.parallel && c.bias_head && c.norm == NORM_LAYER);
    assert_ok(read_with(&c, "model_type", "\"gpt_neox\"", &err), err);
    assert_int_equal(c.rope_dim, 4);
    assert_true(c.parallel && !c.shared_norm && c.n_kv_head == 4);
    assert_ok(read_with(&c, "model_type", "\"gemma\"", &err), err);
    assert_true(c.head_dim == 256 && c.tied && c.norm_plus_one && c.embed_scale == 8);
}

static void both_spellings_of_rope_settings_agree(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg a, b;
    assert_ok(read_with(&a, "rope_scaling", "{\"type\": \"linear\", \"factor\": 4.0}", &err), err);
    assert_ok(read_with(&b, "rope_parameters",
                        "{\"rope_type\": \"linear\", \"factor\": 4.0, \"rope_theta\": 10000.0}",
                        &err),
              err);
    assert_int_equal(a.rope_scaling, ROPE_LINEAR);
    assert_int_equal(b.rope_scaling, ROPE_LINEAR);
    assert_true(a.rope_factor == 4 && b.rope_factor == 4 && a.rope_theta == b.rope_theta);
    assert_ok(read_with(&b, "rope_parameters", "{\"rope_theta\": 5e5}", &err), err);
    assert_true(b.rope_scaling == ROPE_PLAIN && b.rope_theta == 5e5f);
}

static void a_window_in_some_layers_only_is_refused(void **state) {
    (void)state;
    struct cfg c;
    struct err err = {0};
    json_t *j = json_loads(base_llama, 0, NULL);
    json_object_set_new(j, "model_type", json_string("qwen2"));
    json_object_set_new(j, "use_sliding_window", json_true());
    json_object_set_new(j, "sliding_window", json_integer(16));
    assert_ok(cfg_from_hf(&c, j, "config.json", &err), err);
    assert_int_equal(c.window, 0); /* without max_window_layers: from the last layer on */
    json_object_set_new(j, "max_window_layers", json_integer(0));
    assert_ok(cfg_from_hf(&c, j, "config.json", &err), err);
    assert_int_equal(c.window, 16);
    json_object_set_new(j, "use_sliding_window", json_false());
    assert_ok(cfg_from_hf(&c, j, "config.json", &err), err);
    assert_int_equal(c.window, 0);
    json_object_set_new(j, "use_sliding_window", json_true());
    json_object_set_new(j, "max_window_layers", json_integer(1));
    assert_int_equal(cfg_from_hf(&c, j, "config.json", &err), -1);
    assert_non_null(strstr(err.msg, "max_window_layers"));
    json_decref(j);
}

static void eos_may_be_one_id_or_a_list_and_generation_replaces_it(void **state) {
    (void)state;
    struct err err = {0};
    struct cfg c;
    assert_ok(read_with(&c, "eos_token_id", "[7, 8, 9]", &err), err);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos[2], 9);
    json_t *g = json_loads("{\"eos_token_id\": 5}", 0, NULL);
    assert_ok(cfg_generation(&c, g, "generation_config.json", &err), err);
    assert_true(c.n_eos == 1 && c.eos[0] == 5 && c.eos[1] == 0);
    json_object_del(g, "eos_token_id");
    assert_ok(cfg_generation(&c, g, "generation_config.json", &err), err);
    assert_true(c.n_eos == 1 && c.eos[0] == 5);
    json_object_set_new(g, "eos_token_id", json_integer(600));
    assert_int_equal(cfg_generation(&c, g, "generation_config.json", &err), -1);
    json_decref(g);
}

#define SAME(field) (a->field == b->field)
static bool same(const struct cfg *a, const struct cfg *b) {
    bool eos = SAME(n_eos);
    for (int i = 0; i < 8; i++)
        eos = eos && SAME(eos[i]);
    return eos && strcmp(a->arch, b->arch) == 0 && SAME(vocab) && SAME(dim) && SAME(n_layer) &&
           SAME(n_head) && SAME(n_kv_head) && SAME(head_dim) && SAME(ffn) && SAME(max_ctx) &&
           SAME(norm) && SAME(norm_eps) && SAME(norm_plus_one) && SAME(act) && SAME(gated) &&
           SAME(parallel) && SAME(shared_norm) && SAME(learned_pos) && SAME(qk_norm) &&
           SAME(tied) && SAME(bias_qkv) && SAME(bias_o) && SAME(bias_mlp) && SAME(bias_head) &&
           SAME(embed_scale) && SAME(rope_dim) && SAME(rope_theta) && SAME(rope_scaling) &&
           SAME(rope_factor) && SAME(rope_low) && SAME(rope_high) && SAME(rope_orig_ctx) &&
           SAME(window) && SAME(bos);
}

static void assert_round_trip(const struct cfg *c, uint64_t seed) {
    struct err err = {0};
    struct cfg back;
    assert_ok(cfg_check(c, "made", &err), err);
    json_t *j = cfg_to_hf(c);
    /* through text, as a file would */
    char *text = json_dumps(j, 0);
    json_t *again = json_parse("text", text, strlen(text), &err);
    assert_non_null(again);
    assert_ok(cfg_from_hf(&back, again, "text", &err), err);
    if (!same(c, &back))
        fail_msg("seed %llu: not the same after %s", (unsigned long long)seed, text);
    free(text);
    json_decref(j);
    json_decref(again);
}

/* A random configuration that the family can express. */
static void random_cfg(struct cfg *c, const char *arch, struct rng *r) {
    struct err err = {0};
    assert_ok(cfg_family(c, arch, "made", &err), err);
    bool llama = strcmp(arch, "llama") == 0, neox = strcmp(arch, "gpt_neox") == 0;
    bool partial = neox || strncmp(arch, "phi", 3) == 0;
    c->vocab = 16 + (int)rng_below(r, 1000);
    c->n_kv_head = 1 + (int)rng_below(r, 8);
    c->n_head = c->n_kv_head * (1 + (int)rng_below(r, 4));
    if (c->learned_pos || neox)
        c->n_kv_head = c->n_head;
    c->head_dim = 2 + 2 * (int)rng_below(r, 100);
    c->dim = c->n_head * c->head_dim;
    c->n_layer = 1 + (int)rng_below(r, 40);
    c->ffn = 1 + (int)rng_below(r, 5000);
    c->max_ctx = 1 + (int)rng_below(r, 100000);
    c->norm_eps = (float)(rng_double(r) * 1e-4);
    c->act = (enum act_kind)rng_below(r, 4);
    c->bos = (int)rng_below(r, (uint32_t)c->vocab) - 1;
    c->n_eos = (int)rng_below(r, 9);
    for (int i = 0; i < c->n_eos; i++)
        c->eos[i] = (int)rng_below(r, (uint32_t)c->vocab);
    if (!c->bias_head)
        c->tied = rng_below(r, 2);
    if (c->norm_plus_one)
        c->embed_scale = sqrtf((float)c->dim);
    if (llama || neox || strcmp(arch, "qwen3") == 0 || strcmp(arch, "gemma") == 0)
        c->bias_qkv = c->bias_o = rng_below(r, 2);
    if (llama)
        c->bias_mlp = rng_below(r, 2);
    if (neox)
        c->parallel = rng_below(r, 2);
    if (strcmp(arch, "mistral") == 0 || strcmp(arch, "phi3") == 0 || strncmp(arch, "qwen", 4) == 0)
        c->window = (int)rng_below(r, 3) * 100;
    if (c->learned_pos)
        return;
    c->rope_dim = partial ? 2 + 2 * (int)rng_below(r, (uint32_t)c->head_dim / 2) : c->head_dim;
    c->rope_theta = (float)(1 + rng_double(r) * 1e6);
    c->rope_scaling = (enum rope_scaling)rng_below(r, 3);
    if (c->rope_scaling != ROPE_PLAIN)
        c->rope_factor = (float)(1 + rng_double(r) * 31);
    if (c->rope_scaling == ROPE_LLAMA3) {
        c->rope_low = (float)(0.5 + rng_double(r));
        c->rope_high = (float)(2 + rng_double(r));
        c->rope_orig_ctx = 1 + (int)rng_below(r, 10000);
    }
}

static void hf_round_trip_is_identity(void **state) {
    (void)state;
    static const char *const shapes[] = {"168m", "llama-1b", "gpt2", "qwen-0.5b", "tiny"};
    struct err err = {0};
    struct cfg c;
    for (int i = 0; i < 5; i++) {
        assert_ok(cfg_shape(&c, shapes[i], &err), err);
        assert_round_trip(&c, 0);
    }
    FOR_SEEDS(300) {
        struct rng r;
        rng_seed(&r, seed);
        random_cfg(&c, families[seed % (uint64_t)N_FAMILY], &r);
        assert_round_trip(&c, seed);
    }
}

static void shapes_have_their_published_sizes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t params;
    } want[] = {/* from the model cards: 1.24B, 124M, 494M; 168m: 32000*1024 + 12*(2*1024*1024 +
                 * 2*1024*256 + 3*1024*2816 + 2*1024) + 1024 */
                {"168m", 168059904},
                {"llama-1b", 1235814400},
                {"gpt2", 124439808},
                {"qwen-0.5b", 494032768}};
    for (int i = 0; i < 4; i++) {
        struct cfg c;
        struct err err = {0};
        assert_ok(cfg_shape(&c, want[i].name, &err), err);
        assert_int_equal(cfg_params(&c), want[i].params);
    }
    struct err err = {0};
    struct cfg c;
    assert_int_equal(cfg_shape(&c, "huge", &err), -1);
    assert_int_equal(err.code, E_USAGE);
    assert_non_null(strstr(err.msg, "qwen-0.5b"));
}

static void families_are_found_by_both_their_names(void **state) {
    (void)state;
    struct cfg c;
    struct err err = {0};
    assert_ok(cfg_family(&c, "phi2", "x", &err), err);
    assert_string_equal(c.arch, "phi");
    assert_ok(cfg_family(&c, "gptneox", "x", &err), err);
    assert_string_equal(c.arch, "gpt_neox");
    assert_int_equal(cfg_family(&c, "", "x", &err), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_values_are_refused_by_name),
        cmocka_unit_test(nan_in_json_is_refused),
        cmocka_unit_test(check_refuses_nan_and_huge_products),
        cmocka_unit_test(optional_keys_have_the_reference_defaults),
        cmocka_unit_test(both_spellings_of_rope_settings_agree),
        cmocka_unit_test(a_window_in_some_layers_only_is_refused),
        cmocka_unit_test(eos_may_be_one_id_or_a_list_and_generation_replaces_it),
        cmocka_unit_test(hf_round_trip_is_identity),
        cmocka_unit_test(shapes_have_their_published_sizes),
        cmocka_unit_test(families_are_found_by_both_their_names),
    };
    log_quiet(true);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
