/* tok.c - tests of src/tok: ids equal the reference's, merges equal their definition, decoding
 * undoes encoding.  Bad files: tok_files.c; time: tok_speed.c. */
#include "testing.h"

#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tok/impl.h"

static const char *const real[] = {"gpt2", "llama-2", "llama-3", "phi-2", "qwen2.5", "smollm2"};
#define N_REAL (sizeof real / sizeof *real)

static struct tok *open_real(const char *name) {
    struct err e = {0};
    char path[128];
    snprintf(path, sizeof path, "tokenizers/%s", name);
    struct tok *t = tok_open(data_path(path), &e);
    if (!t)
        fail_msg("%s", e.msg);
    return t;
}

static struct ids encode(const struct tok *t, const char *s, size_t n, bool special) {
    struct ids v = {0};
    struct err e = {0};
    assert_ok(tok_encode(t, s, n, special, &v, &e), e);
    return v;
}

static void assert_ids(const struct ids *v, const json_t *want, const char *text) {
    bool same = json_array_size(want) == v->n;
    for (size_t i = 0; same && i < v->n; i++)
        same = json_integer_value(json_array_get(want, i)) == v->id[i];
    if (!same)
        fail_msg("ids of '%s' differ", text);
}

static json_t *load(const char *path) {
    struct err e = {0};
    json_t *j = json_file(data_path(path), (size_t)1 << 26, &e);
    if (!j)
        fail_msg("%s", e.msg);
    return j;
}

/* Every case of a cases.json: ids, pieces where given, decoded text. */
static void check_cases(const struct tok *t, const char *name) {
    char path[128];
    size_t i, len;
    json_t *c;
    snprintf(path, sizeof path, "tokenizers/%s/cases.json", name);
    json_t *all = load(path);
    assert_true(json_array_size(json_object_get(all, "cases")) >= 40);
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        const json_t *text = json_object_get(c, "text"), *decoded = json_object_get(c, "decoded");
        const json_t *pieces = json_object_get(c, "pieces");
        struct ids v = encode(t, json_string_value(text), json_string_length(text),
                              json_is_true(json_object_get(c, "special")));
        struct buf b = {0};
        struct err e = {0};
        assert_ids(&v, json_object_get(c, "ids"), json_string_value(text));
        assert_ok(tok_decode(t, v.id, v.n, true, &b, &e), e);
        assert_int_equal(b.len, json_string_length(decoded));
        assert_string_equal(buf_str(&b), json_string_value(decoded));
        for (size_t k = 0; k < json_array_size(pieces); k++)
            assert_string_equal(tok_piece(t, v.id[k], &len),
                                json_string_value(json_array_get(pieces, k)));
        buf_free(&b);
        ids_free(&v);
    }
    json_decref(all);
}

static void ids_and_text_equal_the_reference(void **state) {
    (void)state;
    need_data("tokenizers/gpt2/cases.json");
    for (size_t i = 0; i < N_REAL; i++) {
        struct tok *t = open_real(real[i]);
        check_cases(t, real[i]);
        tok_free(t);
    }
}

/* A temporary folder with links to some files of a data folder. */
static void link_files(char *dir, const char *from, const char *const *file) {
    char a[2048], b[2048];
    assert_non_null(mkdtemp(dir));
    for (; *file; file++) {
        snprintf(a, sizeof a, "%s/%s", data_path(from), *file);
        snprintf(b, sizeof b, "%s/%s", dir, *file);
        char *whole = realpath(a, NULL);
        if (whole)
            assert_int_equal(symlink(whole, b), 0);
        free(whole);
    }
}

static void remove_files(const char *dir, const char *const *file) {
    char path[2048];
    for (; *file; file++) {
        snprintf(path, sizeof path, "%s/%s", dir, *file);
        unlink(path);
    }
    rmdir(dir);
}

static void vocab_and_merges_or_model_give_the_ids_of_tokenizer_json(void **state) {
    (void)state;
    need_data("tokenizers/gpt2/vocab.json");
    static const char *const names[] = {"gpt2", "qwen2.5", "llama-2"};
    static const char *const files[] = {"vocab.json", "merges.txt", "tokenizer.model",
                                        "tokenizer_config.json", NULL};
    for (int i = 0; i < 3; i++) {
        char dir[] = "/tmp/pumice-tok-XXXXXX", from[64];
        struct err e = {0};
        snprintf(from, sizeof from, "tokenizers/%s", names[i]);
        link_files(dir, from, files);
        struct tok *t = tok_open(dir, &e), *whole = open_real(names[i]);
        remove_files(dir, files);
        if (!t)
            fail_msg("%s", e.msg);
        check_cases(t, names[i]);
        assert_int_equal(tok_bos(t), tok_bos(whole));
        assert_int_equal(tok_eos(t), tok_eos(whole));
        assert_int_equal(tok_adds_bos(t), tok_adds_bos(whole));
        tok_free(t);
        tok_free(whole);
    }
}

static void ids_of_the_reference_models(void **state) {
    (void)state;
    need_data("reference/gpt2/ref/text.json");
    static const char *const names[] = {"reference/gpt2",
                                        "reference/phi",
                                        "reference/llama-gqa-tied",
                                        "reference/llama3-rope",
                                        "reference/llama-linear-rope-bias",
                                        "reference/mistral",
                                        "reference/qwen2",
                                        "models/stories260K",
                                        "models/babyllama105"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct err e = {0};
        char path[128];
        bool model = strncmp(names[i], "models", 6) == 0;
        snprintf(path, sizeof path, "%s/ref/%s.json", names[i], model ? "ref" : "text");
        json_t *j = load(path);
        struct tok *t = tok_open(data_path(names[i]), &e);
        if (!t)
            fail_msg("%s", e.msg);
        const char *s = json_string_value(json_object_get(j, model ? "prompt" : "text"));
        struct ids v = {0};
        if (tok_adds_bos(t))
            ids_add(&v, tok_bos(t));
        assert_ok(tok_encode(t, s, strlen(s), false, &v, &e), e);
        assert_ids(&v, json_object_get(j, "ids"), s);
        ids_free(&v);
        tok_free(t);
        json_decref(j);
    }
}

/* stories260K's tokenizer.model removes extra spaces; its tokenizer.json cannot say so. */
static void extra_spaces_are_removed_where_the_model_says_so(void **state) {
    (void)state;
    need_data("models/stories260K/tokenizer.model");
    struct err e = {0};
    struct tok *t = tok_open(data_path("models/stories260K"), &e);
    struct ids a = encode(t, "Once upon a  time", 17, false),
               b = encode(t, " Once upon   a time ", 20, false);
    struct ids want = encode(t, "Once upon a time", 16, false);
    assert_int_equal(a.n, want.n);
    assert_int_equal(b.n, want.n);
    assert_memory_equal(a.id, want.id, want.n * sizeof *want.id);
    assert_memory_equal(b.id, want.id, want.n * sizeof *want.id);
    tok_free(t);
    ids_free(&a);
    ids_free(&b);
    ids_free(&want);
}

/* ---- small tokenizers made here ---- */

#define BYTE_PRE                                                                                   \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"

static void json_text(struct buf *b, const char *s, size_t n) {
    buf_addc(b, '"');
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"' || s[i] == '\\')
            buf_addc(b, '\\');
        buf_addc(b, s[i]);
    }
    buf_addc(b, '"');
}

/* The 256 byte pieces, ids 0..255, as members of a vocab. */
static void byte_pieces(struct buf *b) {
    for (int i = 0; i < 256; i++) {
        char s[2];
        json_text(b, s, byte_to_mapped((unsigned char)i, s));
        buf_printf(b, ":%d%s", i, i < 255 ? "," : "");
    }
}

static struct tok *parse(const struct buf *b, struct err *e) {
    return hf_parse("test.json", b->data, b->len, e);
}

struct grown { /* a random vocabulary over a..d */
    char piece[64][16];
    int n; /* pieces; the first four are the letters */
    int left[200], right[200], made[200];
    float score[64];
    int n_merge;
};

/* Each new piece is two old ones; afterwards every split of a piece into pieces is a merge. */
static void grow(struct grown *g, struct rng *r, bool scored) {
    memset(g, 0, sizeof *g);
    for (g->n = 0; g->n < 4; g->n++)
        g->piece[g->n][0] = (char)('a' + g->n);
    while (g->n < 40) {
        char s[32];
        snprintf(s, sizeof s, "%s%s", g->piece[rng_below(r, (uint32_t)g->n)],
                 g->piece[rng_below(r, (uint32_t)g->n)]);
        bool old = strlen(s) > 10;
        for (int i = 0; i < g->n; i++)
            old = old || strcmp(s, g->piece[i]) == 0;
        if (old)
            continue;
        snprintf(g->piece[g->n++], sizeof g->piece[0], "%.15s", s);
    }
    for (int i = 0; i < g->n; i++)
        g->score[i] = scored ? -(float)rng_below(r, 12) : 0; /* few values: ties */
    for (int i = 4; i < g->n; i++)
        for (int l = 0; l < g->n; l++)
            for (int k = 0; k < g->n && g->n_merge < 200; k++) {
                char s[32];
                snprintf(s, sizeof s, "%s%s", g->piece[l], g->piece[k]);
                if (strcmp(s, g->piece[i]) == 0) {
                    g->left[g->n_merge] = l;
                    g->right[g->n_merge] = k;
                    g->made[g->n_merge++] = i;
                }
            }
    for (int i = g->n_merge - 1; i > 0 && !scored;
         i--) { /* any order: ranks need not follow lengths */
        int k = (int)rng_below(r, (uint32_t)i + 1);
        int t[3] = {g->left[i], g->right[i], g->made[i]};
        g->left[i] = g->left[k], g->right[i] = g->right[k], g->made[i] = g->made[k];
        g->left[k] = t[0], g->right[k] = t[1], g->made[k] = t[2];
    }
}

/* The definition: merge the pair of lowest rank, leftmost, until there is none. */
static size_t naive(const struct grown *g, bool scored, const char *s, size_t n, int *id) {
    for (size_t i = 0; i < n; i++)
        id[i] = s[i] - 'a';
    for (;;) {
        double best = 1e9;
        size_t at = 0;
        int made = -1;
        for (size_t i = 0; i + 1 < n; i++)
            for (int m = 0; m < g->n_merge; m++) {
                double rank = scored ? -g->score[g->made[m]] : m;
                if (g->left[m] == id[i] && g->right[m] == id[i + 1] && rank < best)
                    best = rank, at = i, made = g->made[m];
            }
        if (made < 0)
            return n;
        id[at] = made;
        memmove(id + at + 1, id + at + 2, (n - at - 2) * sizeof *id);
        n--;
    }
}

static struct tok *grown_json(const struct grown *g) {
    struct buf b = {0};
    struct err e = {0};
    buf_adds(&b, "{" BYTE_PRE ",\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int i = 0; i < g->n; i++)
        buf_printf(&b, "%s\"%s\":%d", i ? "," : "", g->piece[i], i);
    buf_adds(&b, "},\"merges\":[");
    for (int i = 0; i < g->n_merge; i++)
        buf_printf(&b, "%s\"%s %s\"", i ? "," : "", g->piece[g->left[i]], g->piece[g->right[i]]);
    buf_adds(&b, "]}}");
    struct tok *t = parse(&b, &e);
    if (!t)
        fail_msg("%s", e.msg);
    buf_free(&b);
    return t;
}

static struct tok_spec base_spec(const char *model) {
    return (struct tok_spec){.path = "test.gguf", .model = model, .bos = -1, .eos = -1, .unk = -1};
}

static struct tok *grown_scores(const struct grown *g) {
    const char *piece[64];
    size_t len[64];
    struct err e = {0};
    struct tok_spec s = base_spec("llama");
    for (int i = 0; i < g->n; i++) {
        piece[i] = g->piece[i];
        len[i] = strlen(piece[i]);
    }
    s.n_vocab = g->n;
    s.piece = piece;
    s.piece_len = len;
    s.score = g->score;
    struct tok *t = tok_new(&s, &e);
    if (!t)
        fail_msg("%s", e.msg);
    return t;
}

static void merges_equal_their_definition(void **state) {
    (void)state;
    FOR_SEEDS(60) {
        struct grown g;
        struct rng r;
        bool scored = seed % 2;
        rng_seed(&r, seed);
        grow(&g, &r, scored);
        struct tok *t = scored ? grown_scores(&g) : grown_json(&g);
        for (int round = 0; round < 12; round++) {
            char s[600];
            int want[600];
            size_t n = 1 + rng_below(&r, round % 2 ? 500 : 60);
            uint32_t letters = 1 + rng_below(&r, 4);
            for (size_t i = 0; i < n; i++)
                s[i] = (char)('a' + rng_below(&r, letters));
            size_t m = naive(&g, scored, s, n, want);
            struct ids v = encode(t, s, n, false);
            if (v.n != m || memcmp(v.id, want, m * sizeof *want) != 0)
                fail_msg("seed %d: %.*s", (int)seed, (int)n, s);
            ids_free(&v);
        }
        tok_free(t);
    }
}

/* ---- pre-tokenisers ---- */

static const char *const patterns[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"};

static void random_text(struct buf *b, struct rng *r, int chars) {
    static const char *const bits[] = {"'",
                                       "s",
                                       "S",
                                       "t",
                                       "re",
                                       "VE",
                                       "m",
                                       "ll",
                                       "LL",
                                       "d",
                                       " ",
                                       " ",
                                       "  ",
                                       "\n",
                                       "\r",
                                       "\t",
                                       "\r\n",
                                       "1",
                                       "23",
                                       "a",
                                       "Word",
                                       ".",
                                       "!?",
                                       "_",
                                       "\xc5\xbf",
                                       "\xc3\xa9",
                                       "\xc3\x89",
                                       "\xe4\xb8\xad",
                                       "\xd7\xa9",
                                       "\xd8\xa7",
                                       "\xcc\x81",
                                       "\xc2\xa0",
                                       "\xe2\x80\x83",
                                       "\xe2\x80\x8b",
                                       "\xe2\x80\x8d",
                                       "\xe1\xa0\x8e",
                                       "\xef\xbb\xbf",
                                       "\xc2\x85",
                                       "\xe2\x80\xa8",
                                       "\xf0\x9f\x98\x80",
                                       "\xf0\x9d\x94\x98",
                                       "\xd9\xa3",
                                       "\xc2\xbd",
                                       "\xe2\x85\xa7",
                                       "\xe2\x84\xaa"};
    b->len = 0;
    for (int i = 0; i < chars; i++) {
        if (rng_below(r, 8)) {
            buf_adds(b, bits[rng_below(r, sizeof bits / sizeof *bits)]);
            continue;
        }
        utf8proc_uint8_t s[4]; /* any character that both tables know: below U+3000 */
        int32_t cp = 1 + (int32_t)rng_below(r, 0x2fff);
        if (utf8proc_category(cp) != UTF8PROC_CATEGORY_CN)
            buf_add(b, s, (size_t)utf8proc_encode_char(cp, s));
    }
}

static void scanners_equal_their_patterns(void **state) {
    (void)state;
    struct err e = {0};
    struct buf b = {0}, copy = {0};
    for (int k = 0; k < 3; k++) {
        struct pre p = {.type = PRE_GPT2};
        struct regex *re = regex_new("test", "pattern", patterns[k], strlen(patterns[k]), &e);
        assert_non_null(re);
        assert_ok(pre_from_pattern("test", patterns[k], strlen(patterns[k]), &p, &e), e);
        assert_int_not_equal(p.type, PRE_REGEX);
        FOR_SEEDS(4000) {
            struct rng r;
            struct enc enc = {.err = &e};
            size_t at = 0, lo = 0, hi = 0;
            rng_seed(&r, seed);
            random_text(&b, &r, 1 + (int)rng_below(&r, 40));
            const char *sub = regex_subject(b.data, b.len, &copy);
            for (; at < b.len; at = hi) {
                if (regex_find(&enc, re, sub, b.len, at, &lo, &hi) != 1 || lo != at ||
                    pre_next(&p, b.data + at, b.data + b.len) != b.data + hi)
                    fail_msg("pattern %d, seed %d, byte %zu of '%s'", k, (int)seed, at,
                             buf_str(&b));
            }
            regex_state_free(enc.regex);
        }
        regex_free(re);
    }
    buf_free(&b);
    buf_free(&copy);
}

static void mongolian_vowel_separator_is_no_space(void **state) {
    (void)state;
    struct err e = {0};
    struct regex *re = regex_new("test", "pattern", "\\s+", 3, &e);
    struct enc enc = {.err = &e};
    struct buf copy = {0};
    size_t lo, hi;
    const char *s = "a\xe1\xa0\x8e \xe1\xa0\x8e";
    assert_int_equal(regex_find(&enc, re, regex_subject(s, 8, &copy), 8, 0, &lo, &hi), 1);
    assert_int_equal(lo, 4);
    assert_int_equal(hi, 5);
    regex_state_free(enc.regex);
    regex_free(re);
    buf_free(&copy);
}

/* Splits of "ab1cd22e" by digits, told apart by a vocabulary of letters and the pairs that
 * merges make. */
static void assert_words(const char *pre, const char *text, const char *want) {
    struct buf b = {0}, got = {0};
    struct err e = {0};
    /* every pair of neighbouring characters merges, so each word of two characters becomes one
     * piece */
    buf_adds(&b, "{\"pre_tokenizer\":");
    buf_adds(&b, pre);
    buf_adds(&b, ",\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0");
    const char *set = "abcde12-";
    int id = 1;
    for (int i = 0; i < 8; i++)
        buf_printf(&b, ",\"%c\":%d", set[i], id++);
    for (int i = 0; i < 64; i++)
        buf_printf(&b, ",\"%c%c\":%d", set[i / 8], set[i % 8], id++);
    buf_adds(&b, "},\"merges\":[");
    for (int i = 0; i < 64; i++)
        buf_printf(&b, "%s\"%c %c\"", i ? "," : "", set[i / 8], set[i % 8]);
    buf_adds(&b, "]}}");
    struct tok *t = parse(&b, &e);
    if (!t)
        fail_msg("%s", e.msg);
    struct ids v = encode(t, text, strlen(text), false);
    for (size_t i = 0, n; i < v.n; i++)
        buf_printf(&got, "%s%s", i ? " " : "", tok_piece(t, v.id[i], &n));
    assert_string_equal(buf_str(&got), want);
    ids_free(&v);
    buf_free(&b);
    buf_free(&got);
    tok_free(t);
}

static void splits_follow_their_behaviour(void **state) {
    (void)state;
#define SPLIT(how, inv)                                                                            \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[0-9-]\"},\"behavior\":\"" how                   \
    "\",\"invert\":" inv "}"
    assert_words("null", "ab1cd2-e", "ab 1 cd 2- e");
    assert_words("{\"type\":\"Digits\",\"individual_digits\":false}", "a12e", "a 12 e");
    assert_words("{\"type\":\"Digits\",\"individual_digits\":true}", "a12e", "a 1 2 e");
    assert_words(SPLIT("Isolated", "false"), "ab1cd2-e", "ab 1 cd 2 - e");
    assert_words(SPLIT("Removed", "false"), "ab1cd2-e", "ab cd e");
    assert_words(SPLIT("Removed", "true"), "ab1cd2-e", "1 2 -");
    assert_words(SPLIT("MergedWithPrevious", "false"), "a1cd2-e", "a1 cd 2 - e");
    assert_words(SPLIT("MergedWithNext", "false"), "a1c2-e", "a 1c 2 -e");
    assert_words("null", "ab12-e", "ab 12 -e");
    assert_words(SPLIT("Contiguous", "false"), "ab12-e", "ab 12 - e");
    assert_words("{\"type\":\"Split\",\"pattern\":{\"String\":\"-\"},\"behavior\":\"Isolated\"}",
                 "a-e", "a - e");
#undef SPLIT
}

/* ---- normalisers ---- */

static void unicode_forms_equal_utf8proc(void **state) {
    (void)state;
    static const int opts[] = {UTF8PROC_COMPOSE, UTF8PROC_DECOMPOSE,
                               UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                               UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    struct buf b = {0};
    FOR_SEEDS(3000) {
        struct rng r;
        rng_seed(&r, seed);
        b.len = 0;
        for (int i = 0, n = 1 + (int)rng_below(&r, 60); i < n; i++) {
            static const int32_t base[] = {0x20,   0x300,  0x1100, 0x1160, 0x11a0,
                                           0xac00, 0x1e00, 0x2100, 0xfb00, 0x900};
            utf8proc_uint8_t s[4];
            int32_t cp = base[rng_below(&r, 10)] + (int32_t)rng_below(&r, 100);
            buf_add(&b, s, (size_t)utf8proc_encode_char(cp, s));
        }
        for (int k = 0; k < 4; k++) {
            struct tok t = {.n_norm = 1, .norm = {{.type = (enum norm_type)(NORM_NFC + k)}}};
            struct enc e = {.t = &t};
            utf8proc_uint8_t *want;
            const char *got;
            size_t n;
            utf8proc_ssize_t m =
                utf8proc_map((const utf8proc_uint8_t *)b.data, (utf8proc_ssize_t)b.len, &want,
                             (utf8proc_option_t)(UTF8PROC_STABLE | opts[k]));
            assert_int_equal(norm_run(&e, b.data, b.len, &got, &n), 0);
            if (m != (utf8proc_ssize_t)n || memcmp(got, want, n) != 0)
                fail_msg("seed %d, form %d", (int)seed, k);
            free(want);
            buf_free(&e.norm[0]);
            buf_free(&e.norm[1]);
        }
    }
    buf_free(&b);
}

static void assert_norm(const char *spec, const char *text, const char *want) {
    struct buf b = {0}, out = {0};
    struct err e = {0};
    buf_printf(&b, "{\"normalizer\":%s," BYTE_PRE ",\"model\":{\"type\":\"BPE\",\"vocab\":{", spec);
    byte_pieces(&b);
    buf_adds(&b, "},\"merges\":[]}}");
    struct tok *t = parse(&b, &e);
    if (!t)
        fail_msg("%s", e.msg);
    struct ids v = encode(t, text, strlen(text), false);
    assert_ok(tok_decode(t, v.id, v.n, false, &out, &e), e);
    assert_string_equal(buf_str(&out), want);
    ids_free(&v);
    buf_free(&b);
    buf_free(&out);
    tok_free(t);
}

static void normalizers_do_what_they_are_called(void **state) {
    (void)state;
    assert_norm("{\"type\":\"NFC\"}", "e\xcc\x81 \xff", "\xc3\xa9 \xff");
    assert_norm("{\"type\":\"Lowercase\"}", "A\xc3\x89\xc4\xb0", "a\xc3\xa9i\xcc\x87");
    assert_norm("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}",
                " \xe2\x80\x83"
                "a b\n",
                "a b");
    assert_norm("{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}", " a ", " a");
    assert_norm(
        "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},{\"type\":\"StripAccents\"}]}",
        "\xc3\xa9t\xc3\xa9", "ete");
    assert_norm("{\"type\":\"Prepend\",\"prepend\":\"_\"}", "a", "_a");
    assert_norm("{\"type\":\"Prepend\",\"prepend\":\"_\"}", "", "");
    assert_norm("{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"__\"}", " a b",
                "__a__b");
    assert_norm("{\"type\":\"Replace\",\"pattern\":{\"String\":\"ab\"},\"content\":\"\"}", "xababy",
                "xy");
    assert_norm("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\"+\"}",
                "a  b c   ", "a+b c+");
}

/* ---- round trips and streams ---- */

static struct tok *byte_tok(const char *more) {
    struct buf b = {0};
    struct err e = {0};
    buf_adds(&b, "{" BYTE_PRE ",\"model\":{\"type\":\"BPE\",\"vocab\":{");
    byte_pieces(&b);
    buf_adds(&b, ",\"ab\":256,\"\xc4\xa0"
                 "ab\":257},\"merges\":[\"a b\",\"\xc4\xa0 ab\"]}");
    buf_adds(&b, more);
    buf_adds(&b, "}");
    struct tok *t = parse(&b, &e);
    if (!t)
        fail_msg("%s", e.msg);
    buf_free(&b);
    return t;
}

static void stream_equals(const struct tok *t, const struct ids *v, const char *want, size_t n,
                          int seed) {
    struct tok_stream s;
    struct buf b = {0};
    struct err e = {0};
    tok_stream_start(&s, t);
    for (size_t i = 0; i < v->n; i++) {
        size_t was = b.len;
        assert_ok(tok_stream_add(&s, v->id[i], &b, &e), e);
        int32_t cp;
        for (int len; was < b.len; was += (size_t)len)
            if ((len = utf8_next(b.data + was, b.data + b.len, &cp)) == 0)
                fail_msg("seed %d: a character was cut", seed);
    }
    tok_stream_end(&s, &b);
    if (b.len != n || memcmp(b.data ? b.data : "", want, n) != 0)
        fail_msg("seed %d: stream differs from decode", seed);
    buf_free(&b);
}

/* The text with each maximal invalid part as U+FFFD, by Unicode's table 3-7, written
 * independently. */
static void lossy(const unsigned char *s, size_t n, struct buf *out) {
    for (size_t i = 0; i < n;) {
        unsigned c = s[i], lo = 0x80, hi = 0xbf;
        size_t need = c < 0x80                 ? 0
                      : c >= 0xc2 && c <= 0xdf ? 1
                      : c >= 0xe0 && c <= 0xef ? 2
                      : c >= 0xf0 && c <= 0xf4 ? 3
                                               : 9;
        lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : lo;
        hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : hi;
        size_t k = 0;
        while (need < 9 && k < need && i + k + 1 < n && s[i + k + 1] >= (k ? 0x80 : lo) &&
               s[i + k + 1] <= (k ? 0xbf : hi))
            k++;
        if (need == k)
            buf_add(out, s + i, k + 1);
        else
            buf_adds(out, "\xef\xbf\xbd");
        i += k + 1;
    }
}

static void random_bytes_survive_byte_level_bpe(void **state) {
    (void)state;
    struct tok *t = byte_tok("");
    FOR_SEEDS(3000) {
        struct rng r;
        char s[200];
        struct buf b = {0}, shown = {0};
        struct err e = {0};
        rng_seed(&r, seed);
        size_t n = rng_below(&r, sizeof s);
        static const unsigned char often[] = {0xe0, 0xed, 0xf0, 0xf4, 0xc3, 0x80, 0x90,
                                              0x9f, 0xa0, 0xbf, 'a',  'b',  ' '};
        for (size_t i = 0; i < n; i++)
            s[i] = (char)(seed % 2 ? rng_below(&r, 256) : often[rng_below(&r, sizeof often)]);
        struct ids v = encode(t, s, n, false);
        assert_ok(tok_decode(t, v.id, v.n, false, &b, &e), e);
        if (b.len != n || memcmp(b.data ? b.data : "", s, n) != 0)
            fail_msg("seed %d", (int)seed);
        lossy((const unsigned char *)s, n, &shown);
        stream_equals(t, &v, shown.data ? shown.data : "", shown.len, (int)seed);
        ids_free(&v);
        buf_free(&b);
        buf_free(&shown);
    }
    tok_free(t);
}

/* SentencePiece with byte tokens: exact for valid UTF-8, invalid bytes become U+FFFD. */
static struct tok *byte_fallback_tok(bool squeeze) {
    static char text[262][8];
    static const char *piece[262];
    static size_t len[262];
    static float score[262];
    static int32_t type[262];
    struct err e = {0};
    struct tok_spec s = base_spec("llama");
    const char *more[] = {"\xe2\x96\x81", "a", "\xe2\x96\x81\x61", "\xe2\x96\x81\xe2\x96\x81",
                          "\xc3\xa9"};
    snprintf(text[0], 8, "<unk>");
    for (int i = 0; i < 256; i++)
        snprintf(text[i + 1], 8, "<0x%02X>", (unsigned)i);
    for (int i = 0; i < 5; i++)
        snprintf(text[i + 257], 8, "%s", more[i]);
    for (int i = 0; i < 262; i++) {
        piece[i] = text[i];
        len[i] = strlen(text[i]);
        type[i] = i == 0 ? 2 : i < 257 ? 6 : 1;
        score[i] = i < 257 ? 0 : -(float)i;
    }
    s.n_vocab = 262;
    s.piece = piece;
    s.piece_len = len;
    s.score = score;
    s.type = type;
    s.unk = 0;
    s.add_space_prefix = true;
    s.remove_extra_spaces = squeeze;
    struct tok *t = tok_new(&s, &e);
    if (!t)
        fail_msg("%s", e.msg);
    return t;
}

static void random_text_survives_byte_fallback(void **state) {
    (void)state;
    struct tok *t = byte_fallback_tok(false);
    struct buf text = {0};
    FOR_SEEDS(2000) {
        struct rng r;
        struct buf b = {0};
        struct err e = {0};
        rng_seed(&r, seed);
        random_text(&text, &r, (int)rng_below(&r, 40));
        struct ids v = encode(t, text.data, text.len, false);
        assert_ok(tok_decode(t, v.id, v.n, false, &b, &e), e);
        if (b.len != text.len ||
            memcmp(b.data ? b.data : "", text.data ? text.data : "", b.len) != 0)
            fail_msg("seed %d", (int)seed);
        stream_equals(t, &v, b.data ? b.data : "", b.len, (int)seed);
        ids_free(&v);
        buf_free(&b);
    }
    buf_free(&text);
    struct ids v = encode(t, "a\xff", 2, false);
    struct buf b = {0};
    struct err e = {0};
    assert_ok(tok_decode(t, v.id, v.n, false, &b, &e), e);
    assert_string_equal(buf_str(&b), "a\xef\xbf\xbd");
    buf_free(&b);
    ids_free(&v);
    tok_free(t);
}

static void removing_extra_spaces_keeps_one_between_words(void **state) {
    (void)state;
    struct tok *t = byte_fallback_tok(true);
    struct ids v = encode(t, "  a   a ", 8, false), want = encode(t, "a a", 3, false);
    struct ids spaces = encode(t, "   ", 3, false);
    assert_int_equal(want.n, 2);
    assert_int_equal(v.n, 2);
    assert_memory_equal(v.id, want.id, 2 * sizeof *v.id);
    assert_int_equal(spaces.n, 0);
    ids_free(&v);
    ids_free(&want);
    ids_free(&spaces);
    tok_free(t);
}

static void ids_outside_the_vocabulary_are_refused(void **state) {
    (void)state;
    struct tok *t =
        byte_tok(",\"added_tokens\":[{\"id\":300,\"content\":\"<x>\",\"special\":true}]");
    static const int32_t bad[] = {-1, 258, 299, 301, INT32_MAX, INT32_MIN};
    assert_int_equal(tok_size(t), 301);
    for (int i = 0; i < 6; i++) {
        struct err e = {0}, e2 = {0};
        struct buf b = {0};
        struct tok_stream s;
        int32_t ids[2] = {97, bad[i]};
        tok_stream_start(&s, t);
        assert_int_equal(tok_decode(t, ids, 2, true, &b, &e), -1);
        assert_int_equal(e.code, E_FORMAT);
        assert_int_equal(b.len, 0);
        assert_int_equal(tok_stream_add(&s, bad[i], &b, &e2), -1);
        assert_null(tok_piece(t, bad[i], &(size_t){0}));
        assert_false(tok_is_special(t, bad[i]));
        buf_free(&b);
    }
    tok_free(t);
}

/* ---- special and added tokens ---- */

static void user_text_gives_no_special_ids(void **state) {
    (void)state;
    need_data("tokenizers/gpt2/cases.json");
    for (size_t k = 0; k < N_REAL; k++) {
        struct tok *t = open_real(real[k]);
        struct buf all = {0};
        for (int id = 0; id < tok_size(t); id++) {
            size_t n;
            const char *s = tok_piece(t, id, &n);
            if (!s || !t->piece[id].added || s[0] == ' ' || s[0] == '\t')
                continue;
            struct ids v = encode(t, s, n, false), parsed = encode(t, s, n, true);
            for (size_t i = 0; i < v.n; i++)
                if (t->piece[v.id[i]].added)
                    fail_msg("%s: '%s' became token %d", real[k], s, id);
            assert_int_equal(parsed.n, 1);
            assert_int_equal(parsed.id[0], id);
            assert_int_equal(tok_find(t, s), id);
            buf_printf(&all, "x%s %s", s, s);
            ids_free(&v);
            ids_free(&parsed);
        }
        struct ids v = encode(t, all.data, all.len, false);
        for (size_t i = 0; i < v.n; i++)
            assert_false(tok_is_special(t, v.id[i]));
        ids_free(&v);
        buf_free(&all);
        tok_free(t);
    }
}

static void assert_added(const char *flags, const char *text, const char *want) {
    struct buf more = {0}, got = {0};
    buf_printf(
        &more,
        ",\"added_tokens\":[{\"id\":300,\"content\":\"XY\",\"special\":false,\"normalized\":false%"
        "s},"
        "{\"id\":301,\"content\":\"XYZ\",\"special\":true},{\"id\":302,\"content\":\"<m>\"}]",
        flags);
    struct tok *t = byte_tok(buf_str(&more));
    struct ids v = encode(t, text, strlen(text), false);
    for (size_t i = 0; i < v.n; i++) {
        if (v.id[i] >= 300)
            buf_printf(&got, "[%d]", v.id[i]);
        else
            buf_add(&got, t->piece[v.id[i]].raw, t->piece[v.id[i]].raw_len);
    }
    assert_string_equal(buf_str(&got), want);
    ids_free(&v);
    buf_free(&more);
    buf_free(&got);
    tok_free(t);
}

static void added_tokens_follow_their_flags(void **state) {
    (void)state;
    assert_added("", "a XY b", "a [300] b");
    assert_added(",\"lstrip\":true", "a  XY b", "a[300] b");
    assert_added(",\"rstrip\":true", "a XY\n\t b", "a [300]b");
    assert_added(",\"single_word\":true", "aXY XYb \xc3\xa9XY XY.", "aXY XYb \xc3\xa9XY [300].");
    assert_added("", "XYZ",
                 "[300]Z"); /* the longer one is special: not parsed, so the shorter matches */
    assert_added("", "<m>", "<m>"); /* a marker, whatever its flag says */
}

/* ---- speed ---- */

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_text_equal_the_reference),
        cmocka_unit_test(vocab_and_merges_or_model_give_the_ids_of_tokenizer_json),
        cmocka_unit_test(ids_of_the_reference_models),
        cmocka_unit_test(extra_spaces_are_removed_where_the_model_says_so),
        cmocka_unit_test(merges_equal_their_definition),
        cmocka_unit_test(scanners_equal_their_patterns),
        cmocka_unit_test(mongolian_vowel_separator_is_no_space),
        cmocka_unit_test(splits_follow_their_behaviour),
        cmocka_unit_test(unicode_forms_equal_utf8proc),
        cmocka_unit_test(normalizers_do_what_they_are_called),
        cmocka_unit_test(random_bytes_survive_byte_level_bpe),
        cmocka_unit_test(random_text_survives_byte_fallback),
        cmocka_unit_test(removing_extra_spaces_keeps_one_between_words),
        cmocka_unit_test(ids_outside_the_vocabulary_are_refused),
        cmocka_unit_test(user_text_gives_no_special_ids),
        cmocka_unit_test(added_tokens_follow_their_flags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
