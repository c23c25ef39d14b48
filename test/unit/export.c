/* export.c - a tokenizer as GGUF's arrays, and as files of a folder again, gives the same ids. */
#include "tok/export.h"

#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "testing.h"

static const char *const real[] = {"gpt2", "llama-2", "llama-3", "phi-2", "qwen2.5", "smollm2"};
#define N_REAL (sizeof real / sizeof *real)

static struct tok *open_dir(const char *dir) {
    struct err e = {0};
    struct tok *t = tok_open(dir, &e);
    if (!t)
        fail_msg("%s", e.msg);
    return t;
}

static struct tok *through_arrays(const struct tok *t, int n_vocab) {
    struct tok_export x;
    struct err e = {0};
    assert_ok(tok_export(t, n_vocab, &x, &e), e);
    struct tok *made = tok_new(&x.spec, &e);
    if (!made)
        fail_msg("%s", e.msg);
    tok_export_free(&x);
    return made;
}

static void remove_dir(const char *dir) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model",
                                        "tokenizer_config.json"};
    for (int i = 0; i < 3; i++) {
        char *path = path_join(dir, names[i]);
        unlink(path);
        free(path);
    }
    rmdir(dir);
}

static struct tok *through_files(const struct tok *t) {
    char dir[] = "/tmp/pumice-export-XXXXXX";
    struct err e = {0};
    assert_non_null(mkdtemp(dir));
    assert_ok(tok_write(t, dir, &e), e);
    struct tok *made = open_dir(dir);
    remove_dir(dir);
    return made;
}

static void same_text(const struct tok *a, const struct tok *b, const char *s, size_t n) {
    for (int special = 0; special < 2; special++) {
        struct ids x = {0}, y = {0};
        struct buf tx = {0}, ty = {0};
        struct err e = {0};
        assert_ok(tok_encode(a, s, n, special, &x, &e), e);
        assert_ok(tok_encode(b, s, n, special, &y, &e), e);
        assert_int_equal(x.n, y.n);
        for (size_t i = 0; i < x.n; i++)
            if (x.id[i] != y.id[i])
                fail_msg("id %zu of '%.60s' is %d, then %d", i, s, x.id[i], y.id[i]);
        assert_ok(tok_decode(a, x.id, x.n, false, &tx, &e), e);
        assert_ok(tok_decode(b, x.id, x.n, false, &ty, &e), e);
        assert_int_equal(tx.len, ty.len);
        assert_true(!tx.len || memcmp(tx.data, ty.data, tx.len) == 0);
        buf_free(&tx);
        buf_free(&ty);
        ids_free(&x);
        ids_free(&y);
    }
}

/* The texts of cases.json, whose ids for `first` are tested in tok.c; prose, and prose in other
 * scripts. */
static void same_everywhere(const struct tok *first, const struct tok *t, const char *name) {
    static const char *const corpora[] = {"corpora/tinystories/cz_test.txt",
                                          "corpora/wikitext2/wiki.test.raw"};
    char path[128];
    struct err e = {0};
    size_t i;
    json_t *c;
    snprintf(path, sizeof path, "tokenizers/%s/cases.json", name);
    json_t *all = json_file(data_path(path), 16 << 20, &e);
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        const json_t *text = json_object_get(c, "text");
        same_text(first, t, json_string_value(text), json_string_length(text));
    }
    assert_true(i >= 40);
    json_decref(all);
    for (int k = 0; k < 2; k++) {
        struct buf b = {0};
        if (file_exists(data_path(corpora[k])) &&
            !file_read(data_path(corpora[k]), 64 << 20, &b, &e))
            same_text(first, t, b.data, b.len < 50000 ? b.len : 50000);
        buf_free(&b);
    }
    assert_int_equal(tok_bos(first), tok_bos(t));
    assert_int_equal(tok_eos(first), tok_eos(t));
    assert_int_equal(tok_adds_bos(first), tok_adds_bos(t));
    if (tok_chat_template(first))
        assert_string_equal(tok_chat_template(first), tok_chat_template(t));
    else
        assert_null(tok_chat_template(t));
}

static void gguf_arrays_give_the_same_ids_as_the_files(void **state) {
    (void)state;
    need_data("tokenizers/gpt2/cases.json");
    for (size_t i = 0; i < N_REAL; i++) {
        char path[64];
        snprintf(path, sizeof path, "tokenizers/%s", real[i]);
        struct tok *t = open_dir(data_path(path)), *made = through_arrays(t, tok_size(t) + 5);
        assert_int_equal(tok_size(made), tok_size(t) + 5);
        same_everywhere(t, made, real[i]);
        tok_free(made);
        tok_free(t);
    }
}

static void files_made_of_arrays_give_the_same_ids(void **state) {
    (void)state;
    need_data("tokenizers/gpt2/cases.json");
    for (size_t i = 0; i < N_REAL; i++) {
        char path[64];
        snprintf(path, sizeof path, "tokenizers/%s", real[i]);
        struct tok *t = open_dir(data_path(path)), *arrays = through_arrays(t, tok_size(t));
        struct tok *files = through_files(arrays);
        same_everywhere(t, files, real[i]);
        tok_free(files);
        tok_free(arrays);
        tok_free(t);
    }
}

#define BYTES_MODEL                                                                                \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"[PAD3]\":4},"               \
    "\"merges\":[\"a b\"]},\"decoder\":{\"type\":\"ByteLevel\"}"

static struct tok *from_json(const char *json) {
    char dir[] = "/tmp/pumice-export-XXXXXX";
    struct err e = {0};
    assert_non_null(mkdtemp(dir));
    char *path = path_join(dir, "tokenizer.json");
    assert_ok(file_write(path, json, strlen(json), &e), e);
    struct tok *t = open_dir(dir);
    remove_dir(dir);
    free(path);
    return t;
}

static void what_gguf_cannot_say_is_refused(void **state) {
    (void)state;
    static const char *const odd[] = {
        ("{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}," BYTES_MODEL "}"),
        ("{\"normalizer\":{\"type\":\"Lowercase\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\","
         "\"add_prefix_space\":false}," BYTES_MODEL "}"),
        ("{\"normalizer\":{\"type\":\"NFC\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},"
         "\"merges\":[]}}"),
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        struct tok *t = from_json(odd[i]);
        struct tok_export x;
        struct err e = {0};
        assert_int_equal(tok_export(t, 8, &x, &e), -1);
        assert_int_equal(e.code, E_USAGE);
        assert_non_null(strstr(e.msg, "GGUF cannot express it"));
        tok_export_free(&x);
        tok_free(t);
    }
}

/* Id 3 has no piece, and the name that it would get is taken. */
static void ids_without_a_piece_become_unused_tokens_of_other_names(void **state) {
    (void)state;
    struct tok *t = from_json("{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":"
                              "false}," BYTES_MODEL "}");
    struct tok_export x;
    struct err e = {0};
    assert_ok(tok_export(t, 7, &x, &e), e);
    assert_int_equal(x.spec.type[3], 5);
    assert_int_equal(x.spec.piece_len[3], strlen("[PAD10]"));
    assert_memory_equal(x.spec.piece[3], "[PAD10]", 7);
    assert_int_equal(x.spec.type[6], 5);
    assert_int_equal(x.spec.type[4], 1);
    struct tok *made = tok_new(&x.spec, &e);
    assert_non_null(made);
    same_text(t, made, "ab abba", 7);
    tok_free(made);
    tok_export_free(&x);
    tok_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_arrays_give_the_same_ids_as_the_files),
        cmocka_unit_test(files_made_of_arrays_give_the_same_ids),
        cmocka_unit_test(what_gguf_cannot_say_is_refused),
        cmocka_unit_test(ids_without_a_piece_become_unused_tokens_of_other_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
