/* packed.c - quantised matrices of a folder: what is read, value by value, and what is refused. */
#include "model/packed.h"

#include <math.h>

#include "base/log.h"
#include "num/quant.h"
#include "testing.h"

/* A .safetensors file in memory. */
struct image {
    char head[2048], data[4096];
    int n_head;
    size_t n_data;
    uint8_t all[8192];
    size_t size;
};

static void put(struct image *f, const char *name, const char *dtype, const char *shape,
                const void *p, size_t n) {
    f->n_head += snprintf(f->head + f->n_head, sizeof f->head - (size_t)f->n_head,
                          "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                          f->n_head ? ',' : '{', name, dtype, shape, f->n_data, f->n_data + n);
    memcpy(f->data + f->n_data, p, n);
    f->n_data += n;
}

static void seal(struct image *f) {
    uint64_t n = (uint64_t)f->n_head + 1;
    memcpy(f->all, &n, 8);
    memcpy(f->all + 8, f->head, (size_t)f->n_head);
    f->all[8 + f->n_head] = '}';
    memcpy(f->all + 8 + n, f->data, f->n_data);
    f->size = 8 + (size_t)n + f->n_data;
}

static int open_file(struct tensors *ts, struct image *f, const char *config, struct err *err) {
    seal(f);
    assert_ok(safetensors_parse(ts, "w.safetensors", f->all, f->size, err), *err);
    json_t *j = json_loads(config, 0, NULL);
    assert_non_null(j);
    int rc = packed_open(ts, j, "config.json", err);
    json_decref(j);
    return rc;
}

static const char *config_of(const char *format, const char *weights) {
    static char text[1024];
    snprintf(text, sizeof text,
             "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"%s\","
             "\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{%s}}}}}",
             format, weights);
    return text;
}

#define COLS 32
#define INT8_GROUP "\"num_bits\":8,\"type\":\"int\",\"symmetric\":true,\"strategy\":\"group\""
#define INT4_GROUP "\"num_bits\":4,\"type\":\"int\",\"symmetric\":true,\"strategy\":\"group\""

/* The floats of row r of the only matrix. */
static void row_floats(const struct tensors *ts, int r, float *f) {
    uint8_t row[COLS * 8];
    const struct tensor *t = tensors_find(ts, "m.weight");
    assert_non_null(t);
    assert_true(ts->n == 1 && t->rank == 2 && t->shape[1] == COLS && t->packed);
    packed_row(t, r, COLS, row);
    row_to_f32(t->type, row, f, COLS);
}

static int8_t value(int r, int c) {
    return (int8_t)(r * 37 + c * 29);
}

/* Two rows of INT8, scales of one for each 16 columns, which are two of our groups of 8. */
static void int8_rows_are_integers_times_the_scale_of_their_group(void **state) {
    (void)state;
    struct image f = {.n_head = 0};
    struct tensors ts;
    struct err err = {0};
    int8_t q[2 * COLS];
    const float scale[4] = {0.5f, 3, 1e-3f, -2};
    for (int i = 0; i < 2 * COLS; i++)
        q[i] = value(i / COLS, i % COLS);
    put(&f, "m.weight", "I8", "2,32", q, sizeof q);
    put(&f, "m.weight_scale", "F32", "2,2", scale, sizeof scale);
    assert_ok(open_file(&ts, &f, config_of("int-quantized", INT8_GROUP ",\"group_size\":16"), &err),
              err);
    for (int r = 0; r < 2; r++) {
        float got[COLS];
        row_floats(&ts, r, got);
        for (int c = 0; c < COLS; c++)
            assert_true(got[c] == (float)value(r, c) * scale[r * 2 + c / 16]);
    }
    tensors_close(&ts);
}

static void a_scale_for_each_row_in_bf16_serves_all_its_groups(void **state) {
    (void)state;
    struct image f = {.n_head = 0};
    struct tensors ts;
    struct err err = {0};
    int8_t q[2 * COLS];
    const uint16_t scale[2] = {0x3fc0, 0xbe80}; /* 1.5, -0.25 */
    float got[COLS];
    for (int i = 0; i < 2 * COLS; i++)
        q[i] = value(i / COLS, i % COLS);
    put(&f, "m.weight", "I8", "2,32", q, sizeof q);
    put(&f, "m.weight_scale", "BF16", "2,1", scale, sizeof scale);
    assert_ok(open_file(&ts, &f,
                        config_of("int-quantized", "\"num_bits\":8,\"strategy\":\"channel\""),
                        &err),
              err);
    for (int r = 0; r < 2; r++) {
        row_floats(&ts, r, got);
        for (int c = 0; c < COLS; c++)
            assert_true(got[c] == (float)value(r, c) * (r ? -0.25f : 1.5f));
    }
    tensors_close(&ts);
}

/* The words are made here as the format says, from the lowest bits on. */
static void words_hold_four_and_eight_bit_integers(void **state) {
    (void)state;
    for (int bits = 4; bits <= 8; bits += 4) {
        struct image f = {.n_head = 0};
        struct tensors ts;
        struct err err = {0};
        uint32_t word[COLS] = {0};
        int per = 32 / bits, half = 1 << (bits - 1);
        const uint16_t scale[4] = {0x3c00, 0x4200, 0x3800, 0xc000}; /* 1, 3, 0.5, -2 in F16 */
        const float scales[] = {1, 3, 0.5f, -2};
        const int64_t shape[2] = {2, COLS};
        int q[2 * COLS], groups = bits == 4 ? 1 : 2;
        for (int i = 0; i < 2 * COLS; i++) {
            q[i] = i * 7 % (2 * half) - half;
            word[i / per] |= (uint32_t)(q[i] + half) << i % per * bits;
        }
        put(&f, "m.weight_packed", "I32", bits == 4 ? "2,4" : "2,8", word,
            (size_t)(2 * COLS / per) * 4);
        put(&f, "m.weight_scale", "F16", bits == 4 ? "2,1" : "2,2", scale, (size_t)groups * 4);
        put(&f, "m.weight_shape", "I64", "2", shape, sizeof shape);
        assert_ok(
            open_file(&ts, &f,
                      config_of("pack-quantized", bits == 4 ? INT4_GROUP ",\"group_size\":32"
                                                            : INT8_GROUP ",\"group_size\":16"),
                      &err),
            err);
        for (int r = 0; r < 2; r++) {
            float got[COLS];
            row_floats(&ts, r, got);
            for (int c = 0; c < COLS; c++)
                assert_true(got[c] ==
                            (float)q[r * COLS + c] * scales[r * groups + c * groups / COLS]);
        }
        tensors_close(&ts);
    }
}

/* What is written reads back: the integers and scales of a row in row form. */
static void a_row_that_is_split_is_put_together_again(void **state) {
    (void)state;
    const enum dtype types[] = {DT_INT8, DT_INT4};
    for (int k = 0; k < 2; k++) {
        struct tensor t = {.name = "m.weight", .type = types[k], .rank = 2, .shape = {1, COLS}};
        struct tensor made[PACKED_TENSORS];
        uint8_t row[COLS * 8], back[COLS * 8], ints[COLS], scale[COLS];
        float x[COLS];
        struct image f = {.n_head = 0};
        struct tensors ts;
        struct err err = {0};
        const int64_t shape[2] = {1, COLS};
        int n = packed_tensors(&t, made);
        for (int c = 0; c < COLS; c++)
            x[c] = sinf((float)c * 1.7f);
        row_from_f32(types[k], x, row, COLS);
        packed_split(types[k], row, COLS, ints, scale);
        assert_int_equal(n, k ? 3 : 2);
        put(&f, made[0].name, made[0].type_name, k ? "1,4" : "1,32", ints, made[0].bytes);
        put(&f, made[1].name, k ? "F16" : "F32", k ? "1,1" : "1,4", scale, made[1].bytes);
        if (k)
            put(&f, made[2].name, "I64", "2", shape, sizeof shape);
        json_t *q = json_pack("{s:o}", "quantization_config", packed_config(types[k], &t, 1));
        char *text = json_dumps(q, 0);
        assert_ok(open_file(&ts, &f, text, &err), err);
        packed_row(tensors_find(&ts, "m.weight"), 0, COLS, back);
        assert_memory_equal(back, row, dtype_row_bytes(types[k], COLS));
        tensors_close(&ts);
        free(text);
        json_decref(q);
        for (int i = 0; i < n; i++)
            free((char *)made[i].name);
    }
}

#define QUANT(rest) "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\"," rest "}}"
#define GROUPS(weights)                                                                            \
    QUANT("\"format\":\"int-quantized\",\"config_groups\":{\"g\":{\"weights\":{" weights "}}}")
#define GOOD "\"num_bits\":8,\"strategy\":\"group\",\"group_size\":8"

static void what_is_not_understood_is_one_error_that_names_the_field(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"{\"quantization_config\":7}", "quantization_config must be an object"},
        {"{\"quantization_config\":{\"quant_method\":\"gptq\"}}",
         "quantization_config.quant_method \"gptq\""},
        {"{\"quantization_config\":{}}", "quantization_config.quant_method missing"},
        {QUANT("\"format\":\"float-quantized\""), "quantization_config.format \"float-quantized\""},
        {QUANT("\"format\":\"int-quantized\",\"quantization_status\":\"frozen\""),
         "quantization_config.quantization_status \"frozen\""},
        {QUANT("\"format\":\"int-quantized\",\"odd\":1"), "quantization_config.odd"},
        {QUANT("\"format\":\"int-quantized\",\"kv_cache_scheme\":{\"num_bits\":8}"),
         "quantization_config.kv_cache_scheme"},
        {QUANT("\"format\":\"int-quantized\""), "quantization_config.config_groups"},
        {QUANT("\"format\":\"int-quantized\",\"config_groups\":{\"g\":{\"odd\":1}}"),
         "config_groups.g.odd"},
        {QUANT("\"format\":\"int-quantized\",\"config_groups\":{\"g\":{}}"),
         "config_groups.g.weights must be an object"},
        {GROUPS("\"strategy\":\"channel\""), "g.weights.num_bits missing"},
        {GROUPS("\"num_bits\":4,\"strategy\":\"channel\""), "g.weights.num_bits 4"},
        {GROUPS("\"num_bits\":\"8\""), "num_bits"},
        {GROUPS(GOOD ",\"type\":\"float\""), "g.weights.type \"float\""},
        {GROUPS(GOOD ",\"symmetric\":false"), "g.weights.symmetric false"},
        {GROUPS(GOOD ",\"dynamic\":true"), "g.weights.dynamic true"},
        {GROUPS(GOOD ",\"actorder\":\"group\""), "g.weights.actorder"},
        {GROUPS(GOOD ",\"odd\":1"), "g.weights.odd"},
        {GROUPS("\"num_bits\":8,\"strategy\":\"block\""), "g.weights.strategy \"block\""},
        {GROUPS("\"num_bits\":8,\"strategy\":\"group\",\"group_size\":0"), "group_size 0"},
        {GROUPS("\"num_bits\":8,\"strategy\":\"group\",\"group_size\":64"), "no group_size"},
        {GROUPS("\"num_bits\":8,\"strategy\":\"group\",\"group_size\":9"), "group_size 9"},
    };
    int8_t q[COLS] = {0};
    const float scale[4] = {1, 1, 1, 1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct image f = {.n_head = 0};
        struct tensors ts;
        struct err err = {0};
        put(&f, "m.weight", "I8", "1,32", q, sizeof q);
        put(&f, "m.weight_scale", "F32", "1,4", scale, sizeof scale);
        int rc = open_file(&ts, &f, bad[i][0], &err);
        if (rc != -1 || err.code != E_FORMAT || !strstr(err.msg, bad[i][1]))
            fail_msg("%s: got '%s', want '%s'", bad[i][0], rc ? err.msg : "accepted", bad[i][1]);
        tensors_close(&ts);
    }
}

static void tensors_that_contradict_each_other_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *scale, *scale_shape, *more, *say;
        size_t scale_bytes;
    } bad[] = {
        {"m.scale", "1,4", NULL, "weight_scale must be there", 16},
        {"m.weight_scale", "2,4", NULL, "weight_scale must be there", 32},
        {"m.weight_scale", "4", NULL, "weight_scale must be there", 16},
        {"m.weight_scale", "1,5", NULL, "no group_size", 20},
        {"m.weight_scale", "1,4", "m.weight_zero_point", "m.weight_zero_point", 16},
        {"m.weight_scale", "1,4", "m.weight_g_idx", "m.weight_g_idx", 16},
    };
    const char zeros[64] = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct image f = {.n_head = 0};
        struct tensors ts;
        struct err err = {0};
        put(&f, "m.weight", "I8", "1,32", zeros, COLS);
        put(&f, bad[i].scale, "F32", bad[i].scale_shape, zeros, bad[i].scale_bytes);
        if (bad[i].more)
            put(&f, bad[i].more, "I8", "4", zeros, 4);
        int rc = open_file(&ts, &f, GROUPS(GOOD), &err);
        if (rc != -1 || err.code != E_FORMAT || !strstr(err.msg, bad[i].say))
            fail_msg("case %zu: got '%s', want '%s'", i, rc ? err.msg : "accepted", bad[i].say);
        tensors_close(&ts);
    }
}

static void a_shape_that_its_words_cannot_hold_is_refused(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1, 33},  {2, 32},        {1, 0},
                                        {1, -32}, {1, INT64_MAX}, {1, 24}};
    const char zeros[64] = {0};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct image f = {.n_head = 0};
        struct tensors ts;
        struct err err = {0};
        put(&f, "m.weight_packed", "I32", "1,4", zeros, 16);
        put(&f, "m.weight_scale", "F16", "1,1", zeros, 2);
        put(&f, "m.weight_shape", "I64", "2", shapes[i], 16);
        assert_int_equal(
            open_file(&ts, &f, config_of("pack-quantized", INT4_GROUP ",\"group_size\":32"), &err),
            -1);
        assert_int_equal(err.code, E_FORMAT);
        assert_non_null(strstr(err.msg, "m.weight_packed"));
        tensors_close(&ts);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(int8_rows_are_integers_times_the_scale_of_their_group),
        cmocka_unit_test(a_scale_for_each_row_in_bf16_serves_all_its_groups),
        cmocka_unit_test(words_hold_four_and_eight_bit_integers),
        cmocka_unit_test(a_row_that_is_split_is_put_together_again),
        cmocka_unit_test(what_is_not_understood_is_one_error_that_names_the_field),
        cmocka_unit_test(tensors_that_contradict_each_other_are_refused_by_name),
        cmocka_unit_test(a_shape_that_its_words_cannot_hold_is_refused),
    };
    log_quiet(true);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
