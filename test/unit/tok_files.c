/* tok_files.c - tests of the tokenizer loaders: what is malformed or unknown is refused by name,
 * in little time and memory. */
#include "testing.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "tok/impl.h"

static struct tok *parse(const struct buf *b, struct err *e) {
    return hf_parse("test.json", b->data, b->len, e);
}

static struct ids encode(const struct tok *t, const char *s, size_t n) {
    struct ids v = {0};
    struct err e = {0};
    assert_ok(tok_encode(t, s, n, false, &v, &e), e);
    return v;
}

static struct tok_spec base_spec(const char *model) {
    return (struct tok_spec){.path = "test.gguf", .model = model, .bos = -1, .eos = -1, .unk = -1};
}

/* ---- refusals ---- */

#define V "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
#define M "\"model\":{\"type\":\"BPE\"," V ",\"merges\":[\"a b\"]}"

static const char *const malformed[][2] = {
    {"", "test.json"},
    {"[]", "not a JSON object"},
    {"{}", "model"},
    {"{\"model\":{\"type\":\"BPE\",\"merges\":[]}}", "vocab"},
    {"{\"model\":{\"type\":\"BPE\"," V "}}", "merges: missing"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "no tokens"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "'Unigram'"},
    {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "'WordPiece'"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
     "id 0 is given twice"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", "duplicate"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\":0},\"merges\":[]}}", "empty"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "id -1"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2147483648},\"merges\":[]}}", "id 2147483648"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000},\"merges\":[]}}",
     "highest id 4000000"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}}", "not an integer"},
    {"{\"model\":{\"type\":\"BPE\"," V ",\"merges\":[\"a\"]}}", "entry 0"},
    {"{\"model\":{\"type\":\"BPE\"," V ",\"merges\":[\"a b\",\"a b c\"]}}", "entry 1"},
    {"{\"model\":{\"type\":\"BPE\"," V ",\"merges\":[[\"a\"]]}}", "entry 0"},
    {"{\"model\":{\"type\":\"BPE\"," V ",\"merges\":[7]}}", "entry 0"},
    {"{\"model\":{\"type\":\"BPE\"," V ",\"merges\":[\"z b\"]}}",
     "the left part is not in the vocabulary"},
    {"{\"model\":{\"type\":\"BPE\"," V ",\"merges\":[\"a z\"]}}",
     "the right part is not in the vocabulary"},
    {"{\"model\":{\"type\":\"BPE\"," V ",\"merges\":[\"b a\"]}}",
     "the result is not in the vocabulary"},
    {"{\"model\":{\"type\":\"BPE\"," V ",\"merges\":[\"ab ab\"]}}",
     "the result"}, /* a cycle cannot be spelt */
    {"{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\"," V ",\"merges\":[]}}", "unk_token: '?'"},
    {"{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"," V ",\"merges\":[]}}",
     "end_of_word_suffix"},
    {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.1," V ",\"merges\":[]}}", "dropout"},
    {"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<0x-1>\":0},\"merges\":["
     "]}}",
     "'<0x-1>'"},
    {"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<0xZZ>\":0},\"merges\":["
     "]}}",
     "'<0xZZ>'"},
    {"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<0x100>\":0},\"merges\":"
     "[]}}",
     "'<0x100>'"},
    {"{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}," M "}",
     "pre_tokenizer: type 'BertPreTokenizer'"},
    {"{\"pre_tokenizer\":{}," M "}", "pre_tokenizer: no type"},
    {"{\"pre_tokenizer\":7," M "}", "pre_tokenizer must be an object"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":{}}," M "}",
     "pretokenizers: must be an array"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":"
     "\"a(\"}}," M "}",
     "'a(', offset 2"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Odd\",\"pattern\":{\"String\":"
     "\"a\"}}," M "}",
     "'Odd'"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{}}," M "}",
     "pattern"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{"
     "\"type\":\"Digits\"}]}," M "}",
     "ByteLevel must be the last"},
    {"{\"normalizer\":{\"type\":\"Precompiled\"}," M "}", "normalizer: type 'Precompiled'"},
    {"{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"123456789012345678901234567890123\"}"
     "," M "}",
     "inserts 33"},
    {"{\"decoder\":{\"type\":\"WordPiece\"}," M "}", "decoder: type 'WordPiece'"},
    {"{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":2}," M "}", "start is 2"},
    {"{\"post_processor\":{\"type\":\"Odd\"}," M "}", "post_processor: type 'Odd'"},
    {"{\"added_tokens\":[{\"id\":2,\"content\":\"x\"}]," M "}", "id 2 is given twice"},
    {"{\"added_tokens\":[{\"id\":5,\"content\":\"a\"}]," M "}", "'a' has id 5"},
    {"{\"added_tokens\":[{\"id\":5,\"content\":\"\"}]," M "}", "added_tokens"},
    {"{\"added_tokens\":[{\"id\":5000000,\"content\":\"x\"}]," M "}", "id is 5000000"},
    {"{\"added_tokens\":[7]," M "}", "entry 0 is not an object"},
};

static void malformed_tokenizer_json_is_refused_by_name(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        struct err e = {0};
        struct tok *t = hf_parse("test.json", malformed[i][0], strlen(malformed[i][0]), &e);
        if (t || e.code != E_FORMAT || !strstr(e.msg, malformed[i][1]) ||
            !strstr(e.msg, "test.json"))
            fail_msg("%s: got '%s', want '%s'", malformed[i][0], t ? "accepted" : e.msg,
                     malformed[i][1]);
    }
    struct err e = {0};
    struct tok *t = hf_parse("test.json", "{" M "}", strlen("{" M "}"), &e);
    assert_non_null(t);
    tok_free(t);
}

static void bombs_are_refused_in_little_time_and_memory(void **state) {
    (void)state;
    struct buf b = {0};
    struct err e = {0};
    for (int i = 0; i < 1000000; i++)
        buf_adds(&b, "{\"a\":");
    assert_null(parse(&b, &e));
    assert_int_equal(e.code, E_FORMAT);
    b.len = 0;
    buf_adds(&b, "{\"a\":[");
    for (int i = 0; i < 5000000; i++)
        buf_adds(&b, "0,");
    buf_adds(&b, "0]}");
    e = (struct err){0};
    assert_null(parse(&b, &e));
    assert_non_null(strstr(e.msg, "JSON values"));
    b.len = 0;
    buf_adds(&b, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"");
    for (int i = 0; i < 1000000; i++)
        buf_addc(&b, 'x');
    buf_adds(&b, "\":0},\"merges\":[]}}");
    e = (struct err){0};
    assert_null(parse(&b, &e));
    assert_non_null(strstr(e.msg, "1000000 bytes"));
    b.len = 0;
    buf_adds(&b, "{\"pre_tokenizer\":");
    for (int i = 0; i < 100; i++)
        buf_adds(&b, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (int i = 0; i < 100; i++)
        buf_adds(&b, "]}");
    buf_adds(&b, "," M "}");
    e = (struct err){0};
    assert_null(parse(&b, &e));
    assert_non_null(strstr(e.msg, "nested"));
    buf_free(&b);
}

static void a_pattern_that_explodes_is_an_error(void **state) {
    (void)state;
    const char *json =
        "{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":"
        "{\"Regex\":\"(a+)+[bc]$\"}}," M "}";
    struct err e = {0};
    struct tok *t = hf_parse("test.json", json, strlen(json), &e);
    struct ids v = {0};
    char s[60];
    assert_non_null(t);
    memset(s, 'a', sizeof s);
    ids_add(&v, 7);
    assert_int_equal(tok_encode(t, s, sizeof s, false, &v, &e), -1);
    assert_int_equal(e.code, E_FORMAT);
    assert_non_null(strstr(e.msg, "limit"));
    assert_int_equal(v.n, 1);
    ids_free(&v);
    tok_free(t);
}

static void malformed_arrays_are_refused_by_name(void **state) {
    (void)state;
    const char *good[] = {"<unk>", "a", "b", "ab"}, *dup[] = {"<unk>", "a", "a", "ab"};
    const char *empty[] = {"<unk>", "a", "", "ab"}, *minus[] = {"<unk>", "a", "<0x-1>", "ab"};
    const char *hex[] = {"<unk>", "a", "<0xZZ>", "ab"}, *plain[] = {"<unk>", "a", "b", "ab"};
    const char *merge[] = {"a b"}, *lost[] = {"a c"}, *one[] = {"a"};
    const size_t len[] = {5, 1, 1, 2}, len_empty[] = {5, 1, 0, 2}, len_byte[] = {5, 1, 6, 2},
                 long_len[] = {5, 1, 1, 5000};
    const float score[] = {0, -1, -2, -3}, nan[] = {0, -1, NAN, -3};
    const int32_t type[] = {2, 1, 1, 1}, odd[] = {2, 1, 7, 1}, byte[] = {2, 1, 6, 1};
    char big[5001];
    memset(big, 'x', 5000);
    big[5000] = 0;
    const char *huge[] = {"<unk>", "a", "b", big};
    struct tok_spec l = base_spec("llama"), g = base_spec("gpt2");
    l.n_vocab = g.n_vocab = 4;
    l.piece = g.piece = good;
    l.piece_len = g.piece_len = len;
    l.score = score;
    l.type = g.type = type;
    g.n_merges = 1;
    g.merge = merge;
    struct {
        struct tok_spec s;
        const char *want;
    } table[24];
    int n = 0;
#define CASE(base, change, what)                                                                   \
    do {                                                                                           \
        table[n].s = base;                                                                         \
        struct tok_spec *s = &table[n].s;                                                          \
        change;                                                                                    \
        table[n++].want = what;                                                                    \
    } while (0)
    CASE(l, s->model = "bert", "'bert'");
    CASE(g, s->pre = "deepseek-llm", "tokenizer.ggml.pre: 'deepseek-llm'");
    CASE(l, s->piece = dup, "'a' of id 2 already has id 1");
    CASE(l, (s->piece = empty, s->piece_len = len_empty), "id 2 is empty");
    CASE(l, (s->piece = minus, s->piece_len = len_byte), "'<0x-1>'");
    CASE(l, (s->piece = hex, s->piece_len = len_byte), "'<0xZZ>'");
    CASE(l, (s->piece = plain, s->type = byte), "'b' (id 2) is not a byte token");
    CASE(l, (s->piece = huge, s->piece_len = long_len), "5000 bytes");
    CASE(l, s->type = odd, "type 7");
    CASE(l, s->score = nan, "not finite");
    CASE(l, s->score = NULL, "scores: missing");
    CASE(l, s->n_vocab = 0, "no tokens");
    CASE(l, s->bos = 4, "bos_token_id: 4");
    CASE(l, s->eos = -2, "eos_token_id: -2");
    CASE(l, s->unk = 99, "unknown_token_id: 99");
    CASE(g, s->merge = lost, "the right part");
    CASE(g, s->merge = one, "entry 0");
    CASE(g, s->n_merges = -1, "merges: -1");
    for (int i = 0; i < n; i++) {
        struct err e = {0};
        struct tok *t = tok_new(&table[i].s, &e);
        if (t || e.code != E_FORMAT || !strstr(e.msg, table[i].want) || !strstr(e.msg, "test.gguf"))
            fail_msg("case %d: got '%s', want '%s'", i, t ? "accepted" : e.msg, table[i].want);
    }
    static const char *const pres[] = {NULL,        "default", "gpt-2",    "gpt2",  "phi-2",
                                       "llama-bpe", "llama3",  "llama-v3", "qwen2", "smollm"};
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        struct err e = {0};
        g.pre = pres[i];
        struct tok *t = tok_new(&g, &e);
        assert_non_null(t);
        struct ids v = encode(t, "ab", 2);
        assert_int_equal(v.n, 1);
        assert_int_equal(v.id[0], 3);
        ids_free(&v);
        tok_free(t);
    }
#undef CASE
}

/* ---- tokenizer.model ---- */

static void field(struct buf *b, int number, const void *p, size_t n) {
    buf_addc(b, (char)(number << 3 | 2));
    assert_true(n < 128);
    buf_addc(b, (char)n);
    buf_add(b, p, n);
}

static void sp_piece(struct buf *b, const char *s, float score, int type) {
    struct buf p = {0};
    field(&p, 1, s, strlen(s));
    buf_addc(&p, 2 << 3 | 5);
    buf_add(&p, &score, 4);
    buf_addc(&p, 3 << 3);
    buf_addc(&p, (char)type);
    field(b, 1, p.data, p.len);
    buf_free(&p);
}

static void sp_model(struct buf *b, const char *trainer, size_t n_trainer, const char *norm,
                     size_t n_norm) {
    b->len = 0;
    sp_piece(b, "<unk>", 0, 2);
    sp_piece(b, "<s>", 0, 3);
    sp_piece(b, "</s>", 0, 3);
    sp_piece(b, "\xe2\x96\x81", -1, 1);
    sp_piece(b, "a", -2, 1);
    sp_piece(b,
             "\xe2\x96\x81"
             "a",
             -3, 1);
    sp_piece(b, "XX", 0, 4);
    field(b, 2, trainer, n_trainer);
    field(b, 3, norm, n_norm);
}

static void sentencepiece_models_are_read_or_refused(void **state) {
    (void)state;
    struct buf b = {0};
    struct err e = {0};
    sp_model(&b, "\x18\x02", 2, "\x20\x00", 2); /* BPE; keep extra spaces */
    struct tok *t = spm_parse("x.model", b.data, b.len, &e);
    assert_non_null(t);
    struct ids v = encode(t, "a  aXXa", 7);
    static const int32_t want[] = {5, 3, 5, 6, 4};
    assert_int_equal(v.n, 5);
    assert_memory_equal(v.id, want, sizeof want);
    ids_free(&v);
    assert_int_equal(tok_bos(t), 1);
    assert_int_equal(tok_eos(t), 2);
    assert_true(tok_adds_bos(t));
    tok_free(t);
    for (size_t n = 0; n < b.len; n++) { /* cut anywhere: read or refused, never a crash */
        struct err cut = {0};
        t = spm_parse("x.model", b.data, n, &cut);
        assert_true(t || cut.code == E_FORMAT);
        tok_free(t);
    }
    static const struct {
        const char *trainer, *norm;
        size_t n_trainer, n_norm;
        const char *want;
    } bad[] = {{"\x18\x01", "", 2, 0, "UNIGRAM"},
               {"\x18\x04", "", 2, 0, "CHAR"},
               {"\x18\x02\xc0\x01\x01", "", 5, 0, "treat_whitespace_as_suffix"},
               {"\x18\x02", "\x0a\x03nfk\x12\x01z", 2, 8, "'nfk'"},
               {"\x18\x02", "\x28\x00", 2, 2, "escape_whitespaces"},
               {"\x18\x02", "\x0a\x7f", 2, 2, "malformed"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err no = {0};
        sp_model(&b, bad[i].trainer, bad[i].n_trainer, bad[i].norm, bad[i].n_norm);
        assert_null(spm_parse("x.model", b.data, b.len, &no));
        if (no.code != E_FORMAT || !strstr(no.msg, bad[i].want))
            fail_msg("case %zu: '%s'", i, no.msg);
    }
    buf_free(&b);
}

/* ---- folders ---- */

static void put_file(const char *dir, const char *name, const char *text) {
    char path[256];
    struct err e = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(file_write(path, text, strlen(text), &e), e);
}

static void folders_are_read_or_refused_by_file(void **state) {
    (void)state;
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "vocab.json",
                                        "merges.txt",     "chat_template.jinja",   NULL};
    char dir[] = "/tmp/pumice-tok-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct err e = {0};
    assert_null(tok_open(dir, &e));
    assert_non_null(strstr(e.msg, "no tokenizer.json"));

    put_file(dir, "vocab.json", "{\"a\":0,\"b\":1,\"ab\":2,\"<e>\":3}");
    put_file(dir, "merges.txt", "#version: 0.2\na b\n");
    put_file(dir, "tokenizer_config.json",
             "{\"model_max_length\":1000000000000000019884624838656,\"tokenizer_class\":"
             "\"GPT2Tokenizer\",\"eos_token\":"
             "{\"content\":\"<e>\"},\"bos_token\":\"<b>\",\"added_tokens_decoder\":{\"4\":{"
             "\"content\":\"<b>\",\"special\":"
             "true}},\"chat_template\":[{\"name\":\"tool\",\"template\":\"no\"},{\"name\":"
             "\"default\",\"template\":\"yes\"}]}");
    e = (struct err){0};
    struct tok *t = tok_open(dir, &e);
    if (!t)
        fail_msg("%s", e.msg);
    assert_int_equal(tok_eos(t), 3);
    assert_int_equal(tok_bos(t), 4);
    assert_true(tok_is_special(t, 3) && tok_is_special(t, 4));
    assert_false(tok_adds_bos(t));
    assert_string_equal(tok_chat_template(t), "yes");
    assert_string_equal(tok_kind(t), "byte-level BPE");
    tok_free(t);

    put_file(dir, "chat_template.jinja", "file");
    t = tok_open(dir, &e);
    assert_non_null(t);
    assert_string_equal(tok_chat_template(t), "file");
    tok_free(t);

    static const char *const bad[][3] = {
        {"merges.txt", "#version: 0.2\na b\nab\n", "merges.txt: line 3"},
        {"vocab.json", "{\"a\":", "vocab.json: invalid JSON"},
        {"tokenizer_config.json", "{\"tokenizer_class\":\"OddTokenizer\"}", "'OddTokenizer'"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{}}}",
         "tokenizer_config.json: added_tokens_decoder: 'x'"},
        {"tokenizer.json", "{}", "tokenizer.json: model"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_file(dir, "merges.txt", "a b\n");
        put_file(dir, "vocab.json", "{\"a\":0,\"b\":1,\"ab\":2}");
        put_file(dir, "tokenizer_config.json", "{}");
        put_file(dir, bad[i][0], bad[i][1]);
        e = (struct err){0};
        assert_null(tok_open(dir, &e));
        if (e.code != E_FORMAT || !strstr(e.msg, bad[i][2]))
            fail_msg("%s: got '%s'", bad[i][2], e.msg);
    }
    for (int i = 0; files[i]; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_tokenizer_json_is_refused_by_name),
        cmocka_unit_test(bombs_are_refused_in_little_time_and_memory),
        cmocka_unit_test(a_pattern_that_explodes_is_an_error),
        cmocka_unit_test(malformed_arrays_are_refused_by_name),
        cmocka_unit_test(sentencepiece_models_are_read_or_refused),
        cmocka_unit_test(folders_are_read_or_refused_by_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
