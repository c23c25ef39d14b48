/* bpe_train.c - counting words, learning merges, writing tokenizer.json: against definitions
 * that are written out here, the long way. */
#include "testing.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tok/bpe_train.h"
#include "tok/impl.h"

static char dir[] = "/tmp/pumice-bpe-XXXXXX";
static const char *const end_of_text[] = {"<|endoftext|>"};

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char cmd[64];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

/* Writes DIR/name; static storage. */
static const char *put(const char *name, const void *text, size_t n) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return path;
}

static struct words *read_text(const struct words_spec *s, const void *text, size_t n) {
    struct err err = {0};
    const char *path = put("text", text, n);
    struct words *w = words_read(s, &path, 1, &err);
    if (!w)
        fail_msg("%s", err.msg);
    return w;
}

static struct words *words_of(const char *text) {
    const struct words_spec s = {.special = end_of_text, .n_special = 1, .n_threads = 1};
    return read_text(&s, text, strlen(text));
}

static struct bpe_merges learn(const struct words *w, int most, int64_t min_count) {
    struct bpe_merges m;
    struct err err = {0};
    assert_ok(bpe_learn(w, most, min_count, false, &m, &err), err);
    return m;
}

/* The bytes of every symbol; owned. */
static struct buf *symbols(const struct bpe_merges *m) {
    struct buf *b = mem_array((size_t)m->n + 256, sizeof *b);
    for (int i = 0; i < 256; i++)
        buf_addc(&b[i], (char)i);
    for (int i = 0; i < m->n; i++) {
        const struct buf *l = &b[m->merge[i].left], *r = &b[m->merge[i].right];
        buf_add(&b[256 + i], l->data, l->len);
        buf_add(&b[256 + i], r->data, r->len);
    }
    return b;
}

static void symbols_free(struct buf *b, const struct bpe_merges *m) {
    for (int i = 0; i < m->n + 256; i++)
        buf_free(&b[i]);
    free(b);
}

/* "left+right ..." of all merges; owned. */
static char *spelled(const struct bpe_merges *m) {
    struct buf *b = symbols(m), out = {0};
    for (int i = 0; i < m->n; i++)
        buf_printf(&out, "%s%s+%s", i ? " " : "", buf_str(&b[m->merge[i].left]),
                   buf_str(&b[m->merge[i].right]));
    symbols_free(b, m);
    buf_str(&out);
    return out.data;
}

static void expect_merges(const char *text, int most, const char *want) {
    struct words *w = words_of(text);
    struct bpe_merges m = learn(w, most, 1);
    char *got = spelled(&m);
    assert_string_equal(got, want);
    free(got);
    free(m.merge);
    words_free(w);
}

/* ---- merges ---- */

static void of_equally_frequent_pairs_the_greater_is_merged_first(void **state) {
    (void)state;
    /* cb, ca, ba: 2 each.  The left byte decides, then the right one. */
    expect_merges("ba\nca\ncb\nba\nca\ncb", 9, "c+b c+a b+a");
    /* ab: 6; then abx (ab+x) and az (a+z): 5 each, and "ab" is greater than its beginning "a". */
    expect_merges("abx\nabx\nabx\nabx\nabx\nab\naz\naz\naz\naz\naz", 9, "a+b ab+x a+z");
    /* bc: 4; then xbc (x+bc) and xb (x+b): 1 each, and "bc" is greater than its beginning "b". */
    expect_merges("bc\nbc\nbc\nxbc\nxb", 9, "b+c x+bc x+b");
    /* bytes are unsigned: U+00E9 is C3 A9, greater than z */
    expect_merges("za\n\xc3\xa9", 1, "\xc3+\xa9");
}

static void the_textbook_example_is_reproduced(void **state) {
    (void)state;
    /* Sennrich et al. (2016), words with their counts: low 5, lower 2, widest 3, newest 6. */
    struct buf b = {0};
    static const struct {
        const char *word;
        int n;
    } words[] = {{"low", 5}, {"lower", 2}, {"widest", 3}, {"newest", 6}};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < words[i].n; k++)
            buf_printf(&b, "%s\n", words[i].word);
    /* s+t 9 = e+s 9; o+w 7 = l+o 7; w+est 6, then n+e 6 = ew... and so on, by hand */
    expect_merges(buf_str(&b), 12,
                  "s+t e+st o+w l+ow w+est n+e ne+west w+i wi+d wid+est low+e lowe+r");
    buf_free(&b);
}

static void a_pair_in_a_run_counts_at_each_place_and_merges_leftmost(void **state) {
    (void)state;
    struct words *w = words_of("aaaaa");
    struct bpe_merges m = learn(w, 9, 1);
    char *got = spelled(&m);
    assert_string_equal(got, "a+a aa+aa aaaa+a");
    assert_int_equal(m.merge[0].count, 4);
    assert_int_equal(m.tokens, 1);
    free(got);
    free(m.merge);
    words_free(w);
}

/* One word of the long way: symbols as strings. */
struct naive_word {
    struct buf sym[64];
    int n;
    int64_t count;
};
struct naive_pair {
    const struct buf *left, *right;
    int64_t count;
};

static int compare(const struct buf *a, const struct buf *b) {
    int c = memcmp(a->data, b->data, a->len < b->len ? a->len : b->len);
    return c ? c : (int)a->len - (int)b->len;
}

/* Counts all pairs anew and returns the best. */
static struct naive_pair naive_best(const struct naive_word *w, int n) {
    struct naive_pair all[4096], best = {0};
    int n_all = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k + 1 < w[i].n; k++) {
            const struct buf *l = &w[i].sym[k], *r = &w[i].sym[k + 1];
            int j = 0;
            while (j < n_all && (compare(all[j].left, l) || compare(all[j].right, r)))
                j++;
            assert_true(j < 4096);
            if (j == n_all)
                all[n_all++] = (struct naive_pair){l, r, 0};
            all[j].count += w[i].count;
        }
    for (int j = 0; j < n_all; j++) {
        int c = best.left ? compare(all[j].left, best.left) : 1;
        c = c ? c : compare(all[j].right, best.right);
        if (all[j].count > best.count || (all[j].count == best.count && c > 0))
            best = all[j];
    }
    return best;
}

static void naive_merge(struct naive_word *w, const struct buf *l, const struct buf *r) {
    for (int k = 0; k + 1 < w->n; k++) {
        if (compare(&w->sym[k], l) || compare(&w->sym[k + 1], r))
            continue;
        buf_add(&w->sym[k], w->sym[k + 1].data, w->sym[k + 1].len);
        buf_free(&w->sym[k + 1]);
        memmove(&w->sym[k + 1], &w->sym[k + 2], (size_t)(w->n - k - 2) * sizeof(struct buf));
        w->n--;
    }
}

static void naive_words(struct naive_word *nw, const struct words *w) {
    for (size_t i = 0; i < w->n; i++) {
        nw[i] = (struct naive_word){.n = (int)w->word[i].len, .count = w->word[i].count};
        assert_true(nw[i].n <= 64);
        for (int k = 0; k < nw[i].n; k++)
            buf_addc(&nw[i].sym[k], w->word[i].text[k]);
    }
}

/* Words of letters behind spaces: both pre-tokenisers cut exactly at the spaces. */
static void random_corpus(struct rng *r, struct buf *b) {
    static const char *const letters[] = {"a", "b", "c", "d", "\xc3\xa9", "\xe4\xb8\xad"};
    uint32_t kinds = 1 + rng_below(r, 6), words = 1 + rng_below(r, 40), most = 1 + rng_below(r, 12);
    for (uint32_t i = 0; i < words; i++) {
        buf_addc(b, ' ');
        for (uint32_t k = 1 + rng_below(r, most); k > 0; k--)
            buf_adds(b, letters[rng_below(r, kinds)]);
    }
}

static struct tok *write_and_open(const struct hf_spec *s, const struct bpe_merges *m) {
    struct err err = {0};
    assert_ok(hf_write(dir, s, m, &err), err);
    struct tok *t = tok_open(dir, &err);
    if (!t)
        fail_msg("%s", err.msg);
    return t;
}

/* The tokenizer cuts the word as the trainer's last step left it. */
static void check_segmentation(const struct tok *t, const struct word *w,
                               const struct naive_word *nw) {
    struct ids ids = {0};
    struct err err = {0};
    assert_ok(tok_encode(t, w->text, w->len, false, &ids, &err), err);
    assert_int_equal(ids.n, nw->n);
    for (int i = 0; i < nw->n; i++) {
        struct buf one = {0};
        assert_ok(tok_decode(t, &ids.id[i], 1, false, &one, &err), err);
        assert_int_equal(compare(&one, &nw->sym[i]), 0);
        buf_free(&one);
    }
    ids_free(&ids);
}

static void merges_and_segmentation_equal_those_of_a_naive_trainer(void **state) {
    (void)state;
    static struct naive_word nw[64];
    FOR_SEEDS(300) {
        struct rng r;
        struct buf text = {0};
        rng_seed(&r, seed);
        random_corpus(&r, &text);
        struct words_spec s = {.pre = seed & 1 ? WORDS_GPT2 : WORDS_LLAMA3, .n_threads = 1};
        struct words *w = read_text(&s, text.data, text.len);
        int most = (int)rng_below(&r, 60);
        int64_t min_count = 1 + rng_below(&r, 3);
        struct bpe_merges m = learn(w, most, min_count);
        struct buf *sym = symbols(&m);
        naive_words(nw, w);
        int64_t tokens = 0;
        for (int i = 0;; i++) {
            struct naive_pair best = naive_best(nw, (int)w->n);
            if (i == most || best.count < min_count) {
                assert_int_equal(m.n, i);
                break;
            }
            assert_true(i < m.n);
            const struct buf *left = &sym[m.merge[i].left], *right = &sym[m.merge[i].right];
            assert_int_equal(m.merge[i].count, best.count);
            assert_int_equal(compare(left, best.left), 0);
            assert_int_equal(compare(right, best.right), 0);
            for (size_t k = 0; k < w->n; k++)
                naive_merge(&nw[k], left, right);
        }
        const struct hf_spec hf = {.pre = s.pre,
                                   .special = end_of_text,
                                   .n_special = 1,
                                   .bos = end_of_text[0],
                                   .eos = end_of_text[0]};
        struct tok *t = seed % 4 ? NULL : write_and_open(&hf, &m); /* it waits for the disk */
        for (size_t k = 0; k < w->n; k++) {
            if (t)
                check_segmentation(t, &w->word[k], &nw[k]);
            tokens += nw[k].n * nw[k].count;
            for (int i = 0; i < nw[k].n; i++)
                buf_free(&nw[k].sym[i]);
        }
        assert_int_equal(m.tokens, tokens);
        tok_free(t);
        symbols_free(sym, &m);
        free(m.merge);
        words_free(w);
        buf_free(&text);
    }
}

static void one_endless_word_is_learnt_up_to_the_longest_piece(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    char *text = mem_new(N);
    const struct words_spec s = {.n_threads = 2, .block = 4096};
    memset(text, 'a', N);
    struct words *w = read_text(&s, text, N);
    assert_int_equal(w->n, 1);
    assert_int_equal(w->word[0].len, N);
    struct bpe_merges m = learn(w, 1000, 2);
    assert_int_equal(m.n, 11); /* 2, 4, ... 2048 bytes */
    assert_int_equal(m.tokens, N / 2048);
    free(m.merge);
    words_free(w);

    struct rng r; /* and with all pairs different */
    rng_seed(&r, 1);
    for (int i = 0; i < N; i++)
        text[i] = (char)('a' + rng_below(&r, 26));
    w = read_text(&s, text, N);
    m = learn(w, 2000, 2);
    assert_int_equal(m.n, 2000);
    const struct hf_spec hf = {
        .special = end_of_text, .n_special = 1, .bos = end_of_text[0], .eos = end_of_text[0]};
    struct tok *t = write_and_open(&hf, &m);
    struct ids ids = {0};
    struct err err = {0};
    assert_ok(tok_encode(t, text, N, false, &ids, &err), err);
    assert_int_equal(ids.n, m.tokens);
    ids_free(&ids);
    tok_free(t);
    free(m.merge);
    words_free(w);
    free(text);
}

/* ---- words ---- */

static int by_text(const void *pa, const void *pb) {
    const struct word *a = pa, *b = pb;
    int c = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
    return c ? c : (int)a->len - (int)b->len;
}

/* All that makes cutting hard: white space of every kind, signs before newlines, contractions,
 * broken UTF-8, characters that are white space or letters only when whole, special tokens and
 * parts of them. */
static void nasty_text(struct rng *r, struct buf *b, uint32_t n_parts) {
    static const char *const parts[] = {"a",
                                        "Zz",
                                        "9",
                                        "123",
                                        " ",
                                        " ",
                                        "  ",
                                        "\n",
                                        "\n",
                                        "\r\n",
                                        "\t",
                                        "\x0b",
                                        "'",
                                        "'s",
                                        "'LL",
                                        "'",
                                        "!",
                                        "...",
                                        "\xe3\x80\x80",
                                        "\xc2\xa0",
                                        "\xc2\x85",
                                        "\xe2\x80\xa8",
                                        "\xe2\x80\x8b",
                                        "\xc3\xa9",
                                        "\xe4\xb8\xad",
                                        "\xe3\x80\x82",
                                        "\xc5\xbf",
                                        "\xd9\xa3",
                                        "\xf0\x9f\x98\x80",
                                        "\x85",
                                        "\xe3",
                                        "\xe3\x80",
                                        "\xc2",
                                        "\xf0\x9f",
                                        "\xff",
                                        "<|x|>",
                                        "<|x|>",
                                        "<|x",
                                        "|>",
                                        "<",
                                        "ab|",
                                        "\x1c"};
    for (uint32_t n = n_parts; n > 0; n--)
        buf_adds(b, parts[rng_below(r, sizeof parts / sizeof *parts)]);
}

/* Where the words of a text end. */
static void mark_ends(const struct pre *p, const char *text, const char *end, bool *ends) {
    for (const char *at = text; at < end;) {
        const char *next = pre_next(p, at, end);
        ends[next - text] = true;
        at = next;
    }
}

static void a_cut_changes_no_word_whatever_follows(void **state) {
    (void)state;
    FOR_SEEDS(4000) {
        struct rng r;
        struct buf b = {0};
        rng_seed(&r, seed);
        nasty_text(&r, &b, 1 + rng_below(&r, 10));
        struct pre p = {.type = seed & 1 ? PRE_GPT2 : PRE_LLAMA3, .digits = seed & 1 ? 0 : 3};
        bool whole[128] = {0};
        assert_true(b.len < sizeof whole);
        mark_ends(&p, b.data, b.data + b.len, whole);
        for (size_t n = 1; n <= b.len; n++) {
            size_t cut = pre_cut(b.data, n); /* sees only the first n bytes */
            assert_true(cut < n);
            bool parts[128] = {0};
            mark_ends(&p, b.data, b.data + cut, parts);
            mark_ends(&p, b.data + cut, b.data + b.len, parts + cut);
            assert_memory_equal(parts, whole, sizeof whole);
        }
        buf_free(&b);
    }
}

/* The words of the whole text, one after the other, in one go. */
static struct map *plain_count(const struct buf *b, enum words_pre pre, int64_t *count,
                               int64_t *total) {
    const struct pre p = {.type = pre == WORDS_GPT2 ? PRE_GPT2 : PRE_LLAMA3, .digits = 3};
    struct map *m = map_new(16);
    const char *at = b->data, *end = b->data + b->len, *stop, *next;
    int32_t n = 0;
    *total = 0;
    for (; at < end; at = stop < end ? stop + 5 : end) {
        stop = memmem(at, (size_t)(end - at), "<|x|>", 5);
        stop = stop ? stop : end;
        for (; at < stop; at = next) {
            next = pre_next(&p, at, stop);
            int32_t i = map_put(m, at, (size_t)(next - at), n);
            n += i == n;
            count[i]++;
            ++*total;
        }
    }
    return m;
}

static void blocks_and_threads_do_not_change_the_counts(void **state) {
    (void)state;
    static const char *const special[] = {"<|x|>", "ab|"};
    FOR_SEEDS(400) {
        struct rng r;
        struct buf text = {0};
        int64_t count[1024] = {0}, total;
        rng_seed(&r, seed);
        nasty_text(&r, &text, 1 + rng_below(&r, 120));
        buf_adds(&text, " end");
        struct words_spec s = {.pre = seed & 1 ? WORDS_GPT2 : WORDS_LLAMA3,
                               .special = special,
                               .n_special = 1,
                               .n_threads = 1 + (int)rng_below(&r, 3)};
        s.block = seed % 7 ? 1 + rng_below(&r, 100) : 0;
        struct map *want = plain_count(&text, s.pre, count, &total);
        struct words *w = read_text(&s, text.data, text.len);
        assert_int_equal(w->bytes, text.len);
        assert_int_equal(w->total, total);
        assert_int_equal(w->n, map_count(want));
        for (size_t i = 0; i < w->n; i++) {
            int32_t k = map_get(want, w->word[i].text, w->word[i].len);
            assert_true(k >= 0);
            assert_int_equal(w->word[i].count, count[k]);
        }
        words_free(w);
        map_free(want);
        buf_free(&text);
    }
}

static void thread_count_does_not_change_the_vocabulary(void **state) {
    (void)state;
    need_data("corpora/books/tinyshakespeare.txt");
    const char *path = data_path("corpora/books/tinyshakespeare.txt");
    struct bpe_merges first = {0};
    for (int n = 1; n <= 3; n++) {
        struct err err = {0};
        const struct words_spec s = {.n_threads = n, .block = 20000};
        struct words *w = words_read(&s, &path, 1, &err);
        assert_non_null(w);
        struct bpe_merges m = learn(w, 1500, 2);
        words_free(w);
        if (n == 1) {
            first = m;
            continue;
        }
        assert_int_equal(m.n, first.n);
        assert_memory_equal(m.merge, first.merge, (size_t)m.n * sizeof *m.merge);
        free(m.merge);
    }
    free(first.merge);
}

static void special_tokens_split_the_text_and_are_not_learnt(void **state) {
    (void)state;
    struct words *w = words_of("ab<|endoftext|>ab<|endoftext|><|endoftext|>a<|endof");
    qsort(w->word, w->n, sizeof *w->word, by_text);
    static const struct {
        const char *text;
        int count;
    } want[] = {{"<|", 1}, {"a", 1}, {"ab", 2}, {"endof", 1}};
    assert_int_equal(w->n, 4);
    assert_int_equal(w->total, 5);
    assert_int_equal(w->covered, 12);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(w->word[i].count, want[i].count);
        assert_memory_equal(w->word[i].text, want[i].text, w->word[i].len);
    }
    words_free(w);
}

static void a_limit_reads_whole_words_of_the_beginning(void **state) {
    (void)state;
    static const char text[] = "one two three four five";
    for (int64_t limit = 1; limit <= 30; limit++) {
        const struct words_spec s = {.n_threads = 2, .limit = limit, .block = 3};
        struct words *w = read_text(&s, text, sizeof text - 1);
        int64_t whole = 0, all = (int64_t)sizeof text - 1;
        for (int64_t i = 1; i < limit && i < all; i++)
            if (text[i] == ' ')
                whole = i;
        int64_t want = limit > all ? all : whole ? whole : limit;
        assert_int_equal(w->bytes, want);
        assert_int_equal(w->covered, want);
        words_free(w);
    }
}

static void several_files_are_several_texts(void **state) {
    (void)state;
    char a[128], b[128];
    struct err err = {0};
    strcpy(a, put("a", "ab", 2));
    strcpy(b, put("b", "cd", 2));
    const char *paths[] = {a, b, a};
    const struct words_spec s = {.n_threads = 2};
    struct words *w = words_read(&s, paths, 3, &err);
    assert_non_null(w);
    assert_int_equal(w->n, 2); /* and not "abcdab" */
    assert_int_equal(w->total, 3);
    words_free(w);
}

static void expect_refusal(const char *path, enum errc code, const char *part) {
    struct err err = {0};
    const struct words_spec s = {.special = end_of_text, .n_special = 1, .n_threads = 2};
    struct words *w = words_read(&s, &path, 1, &err);
    assert_null(w);
    assert_int_equal(err.code, code);
    if (!strstr(err.msg, path) || !strstr(err.msg, part))
        fail_msg("'%s' does not name '%s' and '%s'", err.msg, path, part);
}

static void unusable_files_are_refused_by_name_and_reason(void **state) {
    (void)state;
    expect_refusal("/nonexistent/text", E_IO, "No such file");
    expect_refusal(dir, E_IO, "folder");
    expect_refusal(put("empty", "", 0), E_FORMAT, "is empty");
    expect_refusal(put("binary", "some text\0and more", 18), E_FORMAT, "byte 9 is NUL");
    expect_refusal(put("specials", "<|endoftext|><|endoftext|>", 26), E_FORMAT, "no text");
}

static void an_uncuttable_stretch_is_refused_before_memory_runs_out(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/endless", dir);
    enum { MIB = 1 << 20 };
    char *line = mem_new(MIB);
    memset(line, 'x', MIB);
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    for (int i = 0; i < 65; i++)
        assert_int_equal(write(fd, line, MIB), MIB);
    close(fd);
    expect_refusal(path, E_FORMAT, "white space");
    unlink(path);
    free(line);
}

/* ---- the files ---- */

static void ids_are_specials_bytes_merges_in_order(void **state) {
    (void)state;
    static const char *const special[] = {"<|a|>", "<|b|>"};
    struct words *w = words_of("low low lower newer");
    struct bpe_merges m = learn(w, 5, 1);
    const struct hf_spec s = {
        .special = special, .n_special = 2, .bos = special[0], .eos = special[1]};
    struct tok *t = write_and_open(&s, &m);
    struct buf *sym = symbols(&m);
    struct err err = {0};
    assert_int_equal(tok_size(t), 2 + 256 + 5);
    assert_int_equal(tok_find(t, "<|a|>"), 0);
    assert_int_equal(tok_bos(t), 0);
    assert_int_equal(tok_eos(t), 1);
    assert_false(tok_adds_bos(t));
    assert_null(tok_chat_template(t));
    for (int32_t id = 2; id < 2 + 256 + 5; id++) {
        struct buf b = {0};
        assert_ok(tok_decode(t, &id, 1, true, &b, &err), err);
        if (id >= 258)
            assert_int_equal(compare(&b, &sym[id - 2]), 0);
        else
            assert_int_equal(b.len, 1);
        if (id == 2) /* the first printable character */
            assert_memory_equal(b.data, "!", 1);
        buf_free(&b);
    }
    tok_free(t);
    symbols_free(sym, &m);
    free(m.merge);
    words_free(w);
}

static void bos_is_added_and_the_chat_template_is_there_where_asked_for(void **state) {
    (void)state;
    static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"};
    struct words *w = words_of("abc");
    struct bpe_merges m = learn(w, 1, 1);
    const struct hf_spec s = {.pre = WORDS_LLAMA3,
                              .special = special,
                              .n_special = 4,
                              .bos = "<s>",
                              .eos = "<|endoftext|>",
                              .add_bos = true,
                              .chatml = true};
    struct tok *t = write_and_open(&s, &m);
    assert_true(tok_adds_bos(t));
    assert_int_equal(tok_bos(t), 3);
    assert_int_equal(t->pre[0].type, PRE_LLAMA3);
    assert_int_equal(t->pre[0].digits, 3);
    assert_non_null(strstr(tok_chat_template(t), "<|im_start|>assistant"));
    tok_free(t);
    free(m.merge);
    words_free(w);
}

static void any_bytes_survive_encoding_and_decoding(void **state) {
    (void)state;
    struct words *w =
        words_of("the cat and the other cat <|endoftext|> caf\xc3\xa9s, caf\xc3\xa9s");
    struct bpe_merges m = learn(w, 40, 1);
    const struct hf_spec s = {
        .special = end_of_text, .n_special = 1, .bos = end_of_text[0], .eos = end_of_text[0]};
    struct tok *t = write_and_open(&s, &m);
    FOR_SEEDS(200) {
        struct rng r;
        struct buf text = {0}, back = {0};
        struct ids ids = {0};
        struct err err = {0};
        rng_seed(&r, seed);
        if (seed & 1)
            nasty_text(&r, &text, 1 + rng_below(&r, 120));
        else
            for (int i = 0; i < 300; i++)
                buf_addc(&text, (char)rng_below(&r, 256));
        assert_ok(tok_encode(t, text.data, text.len, true, &ids, &err), err);
        assert_ok(tok_decode(t, ids.id, ids.n, true, &back, &err), err);
        assert_int_equal(back.len, text.len);
        assert_memory_equal(back.data, text.data, text.len);
        ids_free(&ids);
        buf_free(&text);
        buf_free(&back);
    }
    tok_free(t);
    free(m.merge);
    words_free(w);
}

static void a_real_corpus_encodes_to_the_announced_tokens(void **state) {
    (void)state;
    need_data("corpora/tinystories/cz_test.txt");
    const char *path = data_path("corpora/tinystories/cz_test.txt");
    for (enum words_pre pre = WORDS_GPT2; pre <= WORDS_LLAMA3; pre++) {
        struct err err = {0};
        const struct words_spec read = {
            .pre = pre, .special = end_of_text, .n_special = 1, .n_threads = 2, .block = 10000};
        struct words *w = words_read(&read, &path, 1, &err);
        assert_non_null(w);
        struct bpe_merges m = learn(w, 2000, 2);
        const struct hf_spec s = {.pre = pre,
                                  .special = end_of_text,
                                  .n_special = 1,
                                  .bos = end_of_text[0],
                                  .eos = end_of_text[0]};
        struct tok *t = write_and_open(&s, &m);
        struct buf text = {0}, back = {0};
        struct ids ids = {0};
        int64_t specials = 0;
        assert_ok(file_read(path, 1 << 24, &text, &err), err);
        assert_ok(tok_encode(t, text.data, text.len, true, &ids, &err), err);
        for (size_t i = 0; i < ids.n; i++)
            specials += ids.id[i] == 0;
        assert_true(specials > 100);
        assert_int_equal(ids.n - (size_t)specials, m.tokens);
        assert_int_equal(w->covered, text.len - (size_t)specials * 13);
        assert_ok(tok_decode(t, ids.id, ids.n, true, &back, &err), err);
        assert_int_equal(back.len, text.len);
        assert_memory_equal(back.data, text.data, text.len);
        ids_free(&ids);
        buf_free(&text);
        buf_free(&back);
        tok_free(t);
        free(m.merge);
        words_free(w);
    }
}

static void a_special_token_that_reads_as_ordinary_text_is_refused(void **state) {
    (void)state;
    assert_null(hf_bad_special("<|endoftext|>"));
    assert_null(hf_bad_special("</s>"));
    assert_null(hf_bad_special("<\xef\xbd\x9c"
                               "end\xef\xbd\x9c>")); /* U+FF5C, as one family has it */
    assert_string_equal(hf_bad_special(""), "is shorter than two bytes");
    assert_string_equal(hf_bad_special("|"), "is shorter than two bytes");
    assert_non_null(strstr(hf_bad_special("a b"), "white space"));
    assert_non_null(strstr(hf_bad_special("a\nb"), "white space"));
    assert_non_null(strstr(hf_bad_special("\xc4\xa0"
                                          "a"),
                           "stands for a byte")); /* " a" in a file */
    assert_non_null(strstr(hf_bad_special("<\xff>"), "UTF-8"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_equally_frequent_pairs_the_greater_is_merged_first),
        cmocka_unit_test(the_textbook_example_is_reproduced),
        cmocka_unit_test(a_pair_in_a_run_counts_at_each_place_and_merges_leftmost),
        cmocka_unit_test(merges_and_segmentation_equal_those_of_a_naive_trainer),
        cmocka_unit_test(one_endless_word_is_learnt_up_to_the_longest_piece),
        cmocka_unit_test(a_cut_changes_no_word_whatever_follows),
        cmocka_unit_test(blocks_and_threads_do_not_change_the_counts),
        cmocka_unit_test(thread_count_does_not_change_the_vocabulary),
        cmocka_unit_test(special_tokens_split_the_text_and_are_not_learnt),
        cmocka_unit_test(a_limit_reads_whole_words_of_the_beginning),
        cmocka_unit_test(several_files_are_several_texts),
        cmocka_unit_test(unusable_files_are_refused_by_name_and_reason),
        cmocka_unit_test(an_uncuttable_stretch_is_refused_before_memory_runs_out),
        cmocka_unit_test(ids_are_specials_bytes_merges_in_order),
        cmocka_unit_test(bos_is_added_and_the_chat_template_is_there_where_asked_for),
        cmocka_unit_test(any_bytes_survive_encoding_and_decoding),
        cmocka_unit_test(a_real_corpus_encodes_to_the_announced_tokens),
        cmocka_unit_test(a_special_token_that_reads_as_ordinary_text_is_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
