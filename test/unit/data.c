/* data.c - tests of the data pipeline (src/train/{reader,shard,data}.c): each document once an
 * epoch, the position exactly saved, answers alone learnt, bad files named. */
#include "testing.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "train/data.h"
#include "train/reader.h"

enum { BOS = 256, EOS = 257, IM_START = 258, IM_END = 259 };

/* Bytes, and the special tokens above. */
static struct tok *make_tok(bool add_bos) {
    static char byte[256][8];
    static const char *piece[260];
    static size_t len[260];
    static int32_t type[260];
    for (int i = 0; i < 256; i++) {
        snprintf(byte[i], sizeof byte[i], "<0x%02X>", i);
        piece[i] = byte[i];
        type[i] = 6;
    }
    piece[BOS] = "<s>";
    piece[EOS] = "</s>";
    piece[IM_START] = "<|im_start|>";
    piece[IM_END] = "<|im_end|>";
    static float score[260];
    for (int i = 0; i < 260; i++) {
        len[i] = strlen(piece[i]);
        type[i] = i < 256 ? 6 : 3;
    }
    struct err e = {0};
    struct tok_spec s = {.path = "bytes",
                         .model = "llama",
                         .n_vocab = 260,
                         .piece = piece,
                         .piece_len = len,
                         .score = score,
                         .type = type,
                         .bos = BOS,
                         .eos = EOS,
                         .unk = -1,
                         .add_bos = add_bos};
    struct tok *t = tok_new(&s, &e);
    if (!t)
        fail_msg("%s", e.msg);
    return t;
}

struct place { /* a folder of one test */
    char dir[64], cache[80];
    struct tok *tok;
    struct pool *pool;
};

static void setup(struct place *p, bool add_bos) {
    snprintf(p->dir, sizeof p->dir, "/tmp/pumice-data-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->cache, sizeof p->cache, "%s/cache", p->dir);
    p->tok = make_tok(add_bos);
    p->pool = pool_new(2);
}

static void teardown(struct place *p) {
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", p->dir);
    assert_int_equal(system(cmd), 0);
    tok_free(p->tok);
    pool_free(p->pool);
}

/* The path of a new file; static storage, eight at a time. */
static const char *put(const struct place *p, const char *name, const void *text, size_t n) {
    static char path[8][128];
    static int at;
    struct err e = {0};
    at = (at + 1) % 8;
    snprintf(path[at], sizeof path[at], "%s/%s", p->dir, name);
    assert_ok(file_write(path[at], text, n, &e), e);
    return path[at];
}

static struct data_spec spec_of(const struct place *p, const struct data_source *src, int n,
                                int len) {
    return (struct data_spec){.train = src,
                              .n_train = n,
                              .tok = p->tok,
                              .chat = CHAT_CHATML,
                              .tok_dir = p->dir,
                              .cache = p->cache,
                              .len = len,
                              .mask = true,
                              .seed = 1,
                              .pool = p->pool};
}

static struct data *must_open(const struct data_spec *s) {
    struct err e = {0};
    struct data *d = data_open(s, &e);
    if (!d)
        fail_msg("%s", e.msg);
    return d;
}

/* n documents "<tag><i>:xxx..." of random lengths up to `longest`, a line each or separated by
 * "@@". */
static void make_docs(struct buf *b, char tag, int n, int longest, uint64_t seed, const char *sep) {
    struct rng r;
    rng_seed(&r, seed);
    for (int i = 0; i < n; i++) {
        buf_printf(b, "%c%d:", tag, i);
        for (int k = (int)rng_below(&r, (uint32_t)longest); k > 0; k--)
            buf_addc(b, "abcde"[rng_below(&r, 5)]);
        buf_printf(b, ".%s", sep);
    }
}

/* -- the reader -------------------------------------------------------------------------------- */

static void documents_are_what_lies_between_separators(void **state) {
    (void)state;
    struct place p;
    setup(&p, false);
    FOR_SEEDS(30) {
        struct rng r;
        struct buf all = {0}, want = {0}, got = {0};
        struct err e = {0};
        struct piece piece;
        rng_seed(&r, seed);
        int n = 1 + (int)rng_below(&r, 8), rc;
        for (int i = 0; i < n; i++) {
            size_t len = rng_below(&r, 4) ? rng_below(&r, 3000) : rng_below(&r, 3000000);
            size_t was = all.len;
            buf_addc(&all, 'D');
            for (size_t k = 0; k < len; k++)
                buf_addc(&all, rng_below(&r, 9) ? (char)('a' + rng_below(&r, 20)) : '\n');
            buf_addc(&all, 'E');
            buf_add(&want, all.data + was, all.len - was);
            buf_addc(&want, '|');
            buf_adds(&all, rng_below(&r, 2) ? "\n@@\n" : "@@");
        }
        const char *path = put(&p, "docs", all.data, all.len);
        struct reader *rd = reader_open(path, "@@", false, &e);
        assert_non_null(rd);
        while ((rc = reader_next(rd, &piece, &e)) > 0) {
            assert_memory_equal(piece.text, all.data + piece.at, piece.len);
            assert_true(piece.len <= (size_t)2 << 20);
            buf_add(&got, piece.text, piece.len);
            if (piece.last)
                buf_addc(&got, '|');
        }
        assert_int_equal(rc, 0);
        assert_int_equal(got.len, want.len);
        assert_memory_equal(got.data, want.data, got.len);
        reader_close(rd);
        buf_free(&all);
        buf_free(&want);
        buf_free(&got);
    }
    teardown(&p);
}

/* The window ends within the separator, behind a line's end. */
static void a_separator_at_the_edge_of_the_window_is_found(void **state) {
    (void)state;
    struct place p;
    struct err e = {0};
    struct piece piece;
    setup(&p, false);
    for (size_t size = 5 * 262144 - 6; size < 5 * 262144 + 3; size++) {
        struct buf b = {0};
        for (size_t i = 0; i < size; i++)
            buf_addc(&b, 'x');
        buf_adds(&b, "@\n@@second");
        const char *path = put(&p, "edge", b.data, b.len);
        struct reader *r = reader_open(path, "@\n@@", false, &e);
        assert_int_equal(reader_next(r, &piece, &e), 1);
        assert_true(piece.first && piece.last && piece.len == size);
        assert_int_equal(reader_next(r, &piece, &e), 1);
        assert_true(piece.len == 6 && piece.line == 2);
        assert_int_equal(reader_next(r, &piece, &e), 0);
        reader_close(r);
        buf_free(&b);
    }
    teardown(&p);
}

/* -- packing ----------------------------------------------------------------------------------- */

struct rows {
    int32_t *ids, *targets, *start;
    int64_t n;
    int len;
};

static struct rows read_rows(struct data *d, struct data_cursor *c, int64_t n, int len, bool val) {
    struct rows r = {.n = n, .len = len};
    size_t cells = (size_t)n * (size_t)len;
    r.ids = mem_array(cells, sizeof *r.ids);
    r.targets = mem_array(cells, sizeof *r.targets);
    r.start = mem_array(cells, sizeof *r.start);
    const struct data_batch b = {(int)n, r.ids, r.targets, r.start};
    r.n = val ? data_val(d, c, &b) : data_train(d, c, &b);
    return r;
}

static void rows_free(struct rows *r) {
    free(r->ids);
    free(r->targets);
    free(r->start);
}

/* Appends what rows hold as text: a document is the first input and all targets, ended by '|'. */
static void spell(const struct rows *r, int64_t pairs, struct buf *out) {
    bool inside = false;
    int64_t seen = 0;
    for (int64_t i = 0; i < r->n * r->len && seen < pairs; i++) {
        if (r->targets[i] < 0 && r->ids[i] == EOS)
            continue; /* padding */
        seen++;
        if (!inside)
            buf_addc(out, (char)r->ids[i]);
        inside = r->targets[i] != EOS;
        buf_addc(out, inside ? (char)r->targets[i] : '|');
    }
    assert_int_equal(seen, pairs);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The documents of "a|b|c|", sorted; times each occurs in `times`, the same text in place. */
static int sort_docs(char *s, char **doc, int max) {
    int n = 0;
    for (char *t = strtok(s, "|"); t; t = strtok(NULL, "|")) {
        assert_true(n < max);
        doc[n++] = t;
    }
    qsort(doc, (size_t)n, sizeof *doc, by_text);
    return n;
}

static void an_epoch_has_each_document_once_and_whole(void **state) {
    (void)state;
    struct place p;
    setup(&p, false);
    FOR_SEEDS(20) {
        struct buf text = {0}, got = {0}, want = {0};
        enum { MOST = 512 };
        char *doc[MOST], *expect[MOST];
        int len = 3 + (int)(seed * 7 % 60);
        make_docs(&text, 'A', 100 + (int)seed, seed % 3 ? 40 : 4000, seed, "@@");
        make_docs(&want, 'A', 100 + (int)seed, seed % 3 ? 40 : 4000, seed, "|");
        const struct data_source src = {put(&p, "a.txt", text.data, text.len), DOC_AUTO, "@@", 1};
        struct data_spec s = spec_of(&p, &src, 1, len);
        s.seed = seed;
        struct data *d = must_open(&s);
        struct data_cursor c = {0};
        int64_t pairs = data_stats(d).epoch_tokens, rows = data_rows(d, 1);
        struct rows r = read_rows(d, &c, rows, len, false);
        spell(&r, pairs, &got);
        assert_true(strcmp(buf_str(&got), buf_str(&want)) != 0); /* shuffled */
        int n = sort_docs(got.data, doc, MOST), m = sort_docs(want.data, expect, MOST);
        assert_int_equal(n, m);
        for (int i = 0; i < n; i++)
            assert_string_equal(doc[i], expect[i]);
        data_close(d);
        rows_free(&r);
        buf_free(&text);
        buf_free(&got);
        buf_free(&want);
    }
    teardown(&p);
}

static void parts_of_a_long_document_share_one_id(void **state) {
    (void)state;
    struct place p;
    struct buf text = {0};
    struct err e = {0};
    struct shard s;
    setup(&p, true);
    make_docs(&text, 'A', 40, 20000, 1, "@@");
    const char *path = put(&p, "a.txt", text.data, text.len);
    struct shard_spec spec = {
        .path = path, .separator = "@@", .tok = p.tok, .cache = p.dir, .pool = p.pool};
    assert_ok(shard_open(&s, &spec, &e), e);
    int64_t docs = 0, at = 0;
    for (int64_t i = 0; i < s.n_unit; i++) {
        bool cont = s.unit[i].flags & UNIT_CONT;
        docs += !cont;
        assert_int_equal(s.unit[i].at, at - cont);
        assert_int_equal(s.id[s.unit[i].at] == ~BOS, !cont);
        at = s.unit[i].at + s.unit[i].n;
        assert_int_equal(s.id[at - 1] == EOS,
                         i + 1 == s.n_unit || !(s.unit[i + 1].flags & UNIT_CONT));
    }
    assert_int_equal(docs, 40);
    assert_int_equal(s.n_doc, 40);
    assert_int_equal(at, s.n_id);
    assert_true(s.n_unit > 80);
    shard_close(&s);
    buf_free(&text);
    teardown(&p);
}

/* Several files of every kind. */
static int mixed_sources(struct place *p, struct data_source *src) {
    struct buf a = {0}, b = {0}, c = {0};
    make_docs(&a, 'A', 60, 100, 1, "<|endoftext|>\n");
    src[0] = (struct data_source){put(p, "a.txt", a.data, a.len), DOC_AUTO, "<|endoftext|>", 1};
    for (int i = 0; i < 50; i++)
        buf_printf(&b, "{\"text\": \"B%d of lines\"}\n", i);
    src[1] = (struct data_source){put(p, "b.jsonl", b.data, b.len), DOC_AUTO, NULL, 2.5};
    for (int i = 0; i < 50; i++)
        buf_printf(&c,
                   "{\"messages\": [{\"role\": \"user\", \"content\": \"C%d?\"}, "
                   "{\"role\": \"assistant\", \"content\": \"yes %d\"}]}\n",
                   i, i);
    src[2] = (struct data_source){put(p, "c.jsonl", c.data, c.len), DOC_AUTO, NULL, 0.3};
    buf_free(&a);
    buf_free(&b);
    buf_free(&c);
    return 3;
}

static void a_saved_cursor_continues_the_same_stream(void **state) {
    (void)state;
    struct place p;
    struct data_source src[3];
    setup(&p, true);
    FOR_SEEDS(20) {
        struct data_spec s = spec_of(&p, src, mixed_sources(&p, src), 16 + (int)seed);
        s.seed = seed;
        s.mask = seed % 2;
        s.val_fraction = 0.1;
        struct data *d = must_open(&s);
        struct data_cursor c = {0}, saved;
        struct rng r;
        rng_seed(&r, seed);
        struct rows skip = read_rows(d, &c, 1 + rng_below(&r, 2000), s.len, false);
        saved = c;
        struct rows whole = read_rows(d, &c, 300, s.len, false);
        uint64_t print = data_stats(d).fingerprint;
        data_close(d);
        d = must_open(&s);
        struct rows again = read_rows(d, &saved, 300, s.len, false);
        size_t cells = (size_t)300 * (size_t)s.len * sizeof(int32_t);
        assert_memory_equal(whole.ids, again.ids, cells);
        assert_memory_equal(whole.targets, again.targets, cells);
        assert_memory_equal(whole.start, again.start, cells);
        assert_memory_equal(&c, &saved, sizeof c);
        assert_true(print == data_stats(d).fingerprint);
        data_close(d);
        rows_free(&skip);
        rows_free(&whole);
        rows_free(&again);
    }
    teardown(&p);
}

static void weights_repeat_and_thin_out(void **state) {
    (void)state;
    struct place p;
    struct data_source src[3];
    setup(&p, false);
    struct data_spec s = spec_of(&p, src, mixed_sources(&p, src), 64);
    struct data *d = must_open(&s);
    struct data_cursor c = {0};
    int seen[3] = {0}, epochs = 20;
    while (c.epoch < epochs) {
        struct rows r = read_rows(d, &c, 1, s.len, false);
        for (int i = 0; i < r.len; i++)
            if (r.start[i] == i && c.epoch < epochs)
                for (int k = 0; k < 3; k++)
                    seen[k] += r.ids[i] == "AB\0"[k] || (k == 2 && r.ids[i] == IM_START);
        rows_free(&r);
    }
    /* What lies behind the end of the last epoch, or begins in mid-row, is not counted. */
    assert_in_range(seen[0], 60 * epochs - 10, 60 * epochs);
    assert_in_range(seen[1], 125 * epochs - 20, 125 * epochs);
    assert_in_range(seen[2], 15 * epochs - 10, 15 * epochs);
    data_close(d);
    teardown(&p);
}

static void validation_is_the_same_for_every_seed_and_never_trained_on(void **state) {
    (void)state;
    struct place p;
    setup(&p, false);
    struct buf text = {0}, first = {0};
    make_docs(&text, 'A', 400, 30, 3, "@@");
    const struct data_source src = {put(&p, "a.txt", text.data, text.len), DOC_AUTO, "@@", 1};
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct data_spec s = spec_of(&p, &src, 1, 32);
        s.seed = seed;
        s.val_fraction = 0.1;
        struct data *d = must_open(&s);
        struct data_stats st = data_stats(d);
        assert_int_equal(st.train_units + st.val_units, 400);
        assert_in_range(st.val_units, 20, 60);
        struct data_cursor c = {0}, t = {0};
        struct buf val = {0}, train = {0};
        char *doc[512];
        struct rows v = read_rows(d, &c, 1000, 32, true);
        assert_true(v.n < 1000);
        spell(&v, st.val_tokens, &val);
        if (seed == 1)
            buf_add(&first, val.data, val.len);
        assert_int_equal(val.len, first.len);
        assert_memory_equal(val.data, first.data, val.len);
        struct rows r = read_rows(d, &t, data_rows(d, 1), 32, false);
        spell(&r, st.epoch_tokens, &train);
        buf_str(&train);
        int n = sort_docs((buf_str(&val), val.data), doc, 512);
        assert_int_equal(n, st.val_units);
        for (int i = 0; i < n; i++)
            assert_null(strstr(train.data, doc[i]));
        rows_free(&v);
        rows_free(&r);
        buf_free(&val);
        buf_free(&train);
        data_close(d);
    }
    buf_free(&text);
    buf_free(&first);
    teardown(&p);
}

static void a_share_for_validation_is_never_empty(void **state) {
    (void)state;
    struct place p;
    setup(&p, false);
    const struct data_source two = {put(&p, "two.txt", "one@@two", 8), DOC_AUTO, "@@", 1};
    struct data_spec s = spec_of(&p, &two, 1, 8);
    s.val_fraction = 1e-9;
    struct data *d = must_open(&s);
    assert_int_equal(data_stats(d).val_units, 1);
    assert_int_equal(data_stats(d).train_units, 1);
    data_close(d);
    const struct data_source one = {put(&p, "one.txt", "one", 3), DOC_AUTO, "@@", 1};
    struct err e = {0};
    s.train = &one;
    assert_null(data_open(&s, &e));
    assert_int_equal(e.code, E_USAGE);
    assert_non_null(strstr(e.msg, "eval_fraction"));
    teardown(&p);
}

/* -- conversations ----------------------------------------------------------------------------- */

static void answers_alone_are_targets(void **state) {
    (void)state;
    struct place p;
    setup(&p, false);
    static const char line[] =
        "{\"text\": \"<|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\nyo<|im_end|>\"}\n";
    const struct data_source src = {put(&p, "c.jsonl", line, sizeof line - 1), DOC_AUTO, NULL, 1};
    struct data_spec s = spec_of(&p, &src, 1, 24);
    struct data *d = must_open(&s);
    struct data_cursor c = {0};
    struct rows r = read_rows(d, &c, 1, 24, false);
    static const int32_t ids[24] = {IM_START, 'u',  's',      'e', 'r',  '\n', 'h', 'i',
                                    IM_END,   '\n', IM_START, 'a', 's',  's',  'i', 's',
                                    't',      'a',  'n',      't', '\n', 'y',  'o', IM_END};
    int32_t targets[24];
    for (int i = 0; i < 24; i++)
        targets[i] = -1;
    targets[20] = 'y';
    targets[21] = 'o';
    targets[22] = IM_END;
    assert_memory_equal(r.ids, ids, sizeof ids);
    assert_memory_equal(r.targets, targets, sizeof targets);
    rows_free(&r);
    data_close(d);
    teardown(&p);
}

static void every_spelling_of_a_conversation_gives_the_same_ids(void **state) {
    (void)state;
    static const char *const line[] = {
        "{\"text\": "
        "\"<|im_start|>user\\nhi\\n\\nyou<|im_end|>\\n<|im_start|>assistant\\nyo<|im_end|>\"}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\\n\\nyou\"},"
        " {\"role\": \"assistant\", \"content\": \"yo\"}]}",
        "{\"instruction\": \"hi\", \"input\": \"you\", \"output\": \"yo\"}",
        "[{\"instruction\": \"hi\", \"input\": \"you\", \"output\": \"yo\"}]",
    };
    struct place p;
    struct rows first = {0};
    setup(&p, false);
    for (size_t i = 0; i < 4; i++) {
        const struct data_source src = {put(&p, "c.json", line[i], strlen(line[i])), DOC_AUTO, NULL,
                                        1};
        struct data_spec s = spec_of(&p, &src, 1, 30);
        struct data *d = must_open(&s);
        struct data_cursor c = {0};
        struct rows r = read_rows(d, &c, 1, 30, false);
        if (i == 0) {
            first = r;
        } else {
            assert_memory_equal(r.ids, first.ids, 30 * sizeof(int32_t));
            assert_memory_equal(r.targets, first.targets, 30 * sizeof(int32_t));
            rows_free(&r);
        }
        data_close(d);
    }
    rows_free(&first);
    teardown(&p);
}

static void a_conversation_that_fits_a_row_is_not_split(void **state) {
    (void)state;
    struct place p;
    struct buf b = {0};
    setup(&p, false);
    for (int i = 0; i < 200; i++)
        buf_printf(&b, "{\"instruction\": \"%.*s\", \"output\": \"%.*s\"}\n", i % 23,
                   "why is it so blue, you?", 1 + i % 17, "because of it all");
    const struct data_source src = {put(&p, "c.jsonl", b.data, b.len), DOC_CHAT, NULL, 1};
    struct data_spec s = spec_of(&p, &src, 1, 100);
    struct data *d = must_open(&s);
    struct data_cursor c = {0};
    struct rows r = read_rows(d, &c, data_rows(d, 3), 100, false);
    for (int64_t i = 0; i < r.n * r.len; i++)
        if (r.start[i] == i % r.len && r.ids[i] != EOS)
            assert_int_equal(r.ids[i], IM_START);
    rows_free(&r);
    data_close(d);
    buf_free(&b);
    teardown(&p);
}

/* -- documents in a row ------------------------------------------------------------------------ */

static void documents_see_each_other_only_without_the_mask(void **state) {
    (void)state;
    struct place p;
    setup(&p, false);
    const struct data_source src = {put(&p, "a.txt", "ab@@ab@@ab", 10), DOC_TEXT, "@@", 1};
    struct data_spec s = spec_of(&p, &src, 1, 7);
    for (int mask = 0; mask < 2; mask++) {
        static const int32_t ids[2][7] = {{EOS, 'a', 'b', EOS, 'a', 'b', EOS},
                                          {'a', 'b', 'a', 'b', 'a', 'b', 'a'}};
        static const int32_t targets[2][7] = {{'a', 'b', EOS, 'a', 'b', EOS, 'a'},
                                              {'b', EOS, 'b', EOS, 'b', EOS, 'b'}};
        static const int32_t start[2][7] = {{0, 0, 0, 3, 3, 3, 6}, {0, 0, 2, 2, 4, 4, 6}};
        s.mask = mask;
        struct data *d = must_open(&s);
        struct data_cursor c = {0};
        struct rows r = read_rows(d, &c, 1, 7, false);
        assert_memory_equal(r.ids, ids[mask], sizeof ids[mask]);
        assert_memory_equal(r.targets, targets[mask], sizeof targets[mask]);
        assert_memory_equal(r.start, start[mask], sizeof start[mask]);
        rows_free(&r);
        data_close(d);
    }
    teardown(&p);
}

/* -- the cache --------------------------------------------------------------------------------- */

static void ids_are_made_once_and_again_when_anything_changes(void **state) {
    (void)state;
    struct place p;
    struct buf text = {0};
    struct err e = {0};
    struct shard s;
    setup(&p, true);
    make_docs(&text, 'A', 2000, 300, 1, "@@");
    const char *path = put(&p, "a.txt", text.data, text.len);
    struct shard_spec spec = {
        .path = path, .separator = "@@", .tok = p.tok, .cache = p.dir, .pool = p.pool};
    assert_ok(shard_open(&s, &spec, &e), e);
    assert_true(s.made);
    int64_t n_id = s.n_id;
    int32_t *ids = mem_dup(s.id, (size_t)n_id * sizeof *ids);
    shard_close(&s);

    assert_ok(shard_open(&s, &spec, &e), e);
    assert_false(s.made);
    assert_memory_equal(s.id, ids, (size_t)n_id * sizeof *ids);
    shard_close(&s);

    spec.tok_hash = 1; /* another tokenizer */
    assert_ok(shard_open(&s, &spec, &e), e);
    assert_true(s.made);
    shard_close(&s);

    text.data[100]++; /* another text of the same length */
    put(&p, "a.txt", text.data, text.len);
    assert_ok(shard_open(&s, &spec, &e), e);
    assert_true(s.made);
    shard_close(&s);

    text.data[100]--;
    put(&p, "a.txt", text.data, text.len);
    spec.tok_hash = 0;
    struct pool *one = pool_new(1); /* another number of threads: the same ids */
    char cmd[160];
    snprintf(cmd, sizeof cmd, "rm %s/*.tok", p.dir);
    assert_int_equal(system(cmd), 0);
    spec.pool = one;
    assert_ok(shard_open(&s, &spec, &e), e);
    assert_true(s.made && s.n_id == n_id);
    assert_memory_equal(s.id, ids, (size_t)n_id * sizeof *ids);
    shard_close(&s);
    pool_free(one);
    free(ids);
    buf_free(&text);
    teardown(&p);
}

static void a_damaged_cache_is_made_again(void **state) {
    (void)state;
    struct place p;
    struct buf text = {0}, good = {0};
    struct err e = {0};
    struct shard s;
    setup(&p, true);
    make_docs(&text, 'A', 50, 50, 1, "@@");
    const char *path = put(&p, "a.txt", text.data, text.len);
    struct shard_spec spec = {
        .path = path, .separator = "@@", .tok = p.tok, .cache = p.dir, .pool = p.pool};
    assert_ok(shard_open(&s, &spec, &e), e);
    shard_close(&s);
    char cmd[160], cache[160];
    snprintf(cmd, sizeof cmd, "mv %s/*.tok %s/b.tok", p.dir, p.dir);
    assert_int_equal(system(cmd), 0);
    snprintf(cache, sizeof cache, "%s/b.tok", p.dir);
    assert_ok(file_read(cache, 1 << 20, &good, &e), e);
    assert_ok(shard_open(&s, &spec, &e), e); /* finds its name */
    shard_close(&s);
    snprintf(cmd, sizeof cmd, "ls %s/a.txt-*.tok > %s/name", p.dir, p.dir);
    assert_int_equal(system(cmd), 0);
    struct buf name = {0};
    snprintf(cache, sizeof cache, "%s/name", p.dir);
    assert_ok(file_read(cache, 4096, &name, &e), e);
    name.data[name.len - 1] = '\0';
    FOR_SEEDS(60) {
        struct rng r;
        rng_seed(&r, seed);
        size_t n = good.len;
        char *bad = mem_dup(good.data, n);
        if (seed % 3)
            bad[rng_below(&r, (uint32_t)n)] ^= (char)(1 + rng_below(&r, 255));
        else
            n = rng_below(&r, (uint32_t)n);
        assert_ok(file_write(name.data, bad, n, &e), e);
        assert_ok(shard_open(&s, &spec, &e), e);
        assert_true(s.made);
        assert_int_equal(s.file.size, good.len);
        assert_memory_equal(s.file.data, good.data, good.len);
        shard_close(&s);
        free(bad);
    }
    buf_free(&text);
    buf_free(&good);
    buf_free(&name);
    teardown(&p);
}

/* -- bad files --------------------------------------------------------------------------------- */

static void bad_files_are_named(void **state) {
    (void)state;
    struct place p;
    setup(&p, false);
    struct buf endless = {0}, noise = {0};
    for (int i = 0; i < 65; i++)
        for (int k = 0; k < 1 << 20; k++)
            buf_addc(&endless, 'a');
    for (int i = 0; i < 100000; i++)
        buf_addc(&noise, (char)(128 + i % 128));
#define TEXT(s) s, sizeof(s) - 1
    const struct {
        const char *name;
        const void *text;
        size_t n;
        const char *reason;
    } row[] = {
        {"empty.txt", TEXT(""), "no documents"},
        {"white.txt", TEXT(" \n\n\t "), "no documents"},
        {"empty.jsonl", TEXT("\n\n"), "no documents"},
        {"nul.txt", TEXT("text\0text"), "byte 4 is NUL"},
        {"noise.txt", noise.data, noise.len, "not UTF-8"},
        {"endless.txt", endless.data, endless.len, "without the end of a line"},
        {"endless.jsonl", endless.data, endless.len, "without the end of a line"},
        {"cut.jsonl", TEXT("{\"text\": \"good\"}\n{\"text\": \"go\n"), "line 2"},
        {"keys.jsonl", TEXT("\n\n{\"body\": 1}\n"), "line 3"},
        {"type.jsonl", TEXT("{\"text\": 7}"), "line 1"},
        {"role.jsonl", TEXT("{\"messages\": [{\"role\": \"cat\", \"content\": \"\"}]}"),
         "assistant"},
        {"role2.jsonl",
         TEXT("{\"messages\": [{\"role\": \"cat\", \"content\": \"\"}, {\"role\": \"assistant\", "
              "\"content\": \"\"}]}"),
         "'cat'"},
        {"part.jsonl", TEXT("{\"messages\": [{\"role\": \"user\"}]}"), "messages[0]"},
        {"marks.jsonl", TEXT("{\"text\": \"<|im_start|>user\\nhi\"}"), "ChatML"},
        {"array.json", TEXT("[{\"text\": \"a\"}, 5]"), "line 2"},
        {"array2.json", TEXT("[{\"text\": \"a\""), "invalid JSON"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const struct data_source src = {put(&p, row[i].name, row[i].text, row[i].n), DOC_AUTO, "@@",
                                        1};
        struct data_spec s = spec_of(&p, &src, 1, 8);
        struct err e = {0};
        struct data *d = data_open(&s, &e);
        if (d || e.code != E_FORMAT || !strstr(e.msg, row[i].name) || !strstr(e.msg, row[i].reason))
            fail_msg("%s: %d '%s', not '%s'", row[i].name, e.code, e.msg, row[i].reason);
    }
    const struct data_source gone = {"/nonexistent/x.txt", DOC_AUTO, NULL, 1},
                             dir = {p.dir, DOC_AUTO, NULL, 1};
    struct data_spec s = spec_of(&p, &gone, 1, 8);
    struct err e = {0}, e2 = {0};
    assert_null(data_open(&s, &e));
    assert_int_equal(e.code, E_IO);
    assert_non_null(strstr(e.msg, "/nonexistent/x.txt"));
    s.train = &dir;
    assert_null(data_open(&s, &e2));
    assert_int_equal(e2.code, E_IO);
    buf_free(&endless);
    buf_free(&noise);
    teardown(&p);
}

static void bad_documents_can_be_skipped(void **state) {
    (void)state;
    struct place p;
    setup(&p, false);
    static const char text[] = "{\"text\": \"good\"}\nbad\n{\"text\": \"fine\"}\n{}\n";
    const struct data_source src = {put(&p, "a.jsonl", TEXT(text)), DOC_AUTO, NULL, 1};
    struct data_spec s = spec_of(&p, &src, 1, 8);
    s.skip_bad = true;
    struct data *d = must_open(&s);
    assert_int_equal(data_stats(d).docs, 2);
    assert_int_equal(data_stats(d).bad, 2);
    data_close(d);
    teardown(&p);
}

static void note(void *arg, const char *path, int64_t line) {
    buf_printf(arg, "%s:%lld ", strrchr(path, '/') + 1, (long long)line);
}

static void a_batch_is_traced_to_its_lines(void **state) {
    (void)state;
    struct place p;
    struct buf b = {0};
    setup(&p, false);
    static const char text[] = "one\n@@\ntwo\n@@\n\nthree\n";
    const struct data_source src = {put(&p, "a.txt", TEXT(text)), DOC_AUTO, "@@", 1};
    struct data_spec s = spec_of(&p, &src, 1, 6);
    struct data *d = must_open(&s);
    struct data_cursor c = {0};
    data_trace(d, c, 2, note, &b);
    buf_str(&b);
    assert_non_null(strstr(b.data, "a.txt:1 "));
    assert_non_null(strstr(b.data, "a.txt:3 "));
    assert_non_null(strstr(b.data, "a.txt:6 "));
    buf_free(&b);
    data_close(d);
    teardown(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_what_lies_between_separators),
        cmocka_unit_test(a_separator_at_the_edge_of_the_window_is_found),
        cmocka_unit_test(an_epoch_has_each_document_once_and_whole),
        cmocka_unit_test(parts_of_a_long_document_share_one_id),
        cmocka_unit_test(a_saved_cursor_continues_the_same_stream),
        cmocka_unit_test(weights_repeat_and_thin_out),
        cmocka_unit_test(validation_is_the_same_for_every_seed_and_never_trained_on),
        cmocka_unit_test(a_share_for_validation_is_never_empty),
        cmocka_unit_test(answers_alone_are_targets),
        cmocka_unit_test(every_spelling_of_a_conversation_gives_the_same_ids),
        cmocka_unit_test(a_conversation_that_fits_a_row_is_not_split),
        cmocka_unit_test(documents_see_each_other_only_without_the_mask),
        cmocka_unit_test(ids_are_made_once_and_again_when_anything_changes),
        cmocka_unit_test(a_damaged_cache_is_made_again),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(bad_documents_can_be_skipped),
        cmocka_unit_test(a_batch_is_traced_to_its_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
