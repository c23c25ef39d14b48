/* tok_speed.c - tests of src/tok: no text takes long.  In processor time, so that a busy machine
 * does not fail them, and in optimised builds only. */
#include "testing.h"

#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "tok/tok.h"

#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TIMED 1
#else
#define TIMED 0
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#undef TIMED
#define TIMED 0
#endif
#endif

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

static double cpu_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Best of a few runs: other programs on the machine only ever add. */
static double encode_ms(const struct tok *t, const char *s, size_t n) {
    double best = 1e9;
    for (int i = 0; i < 4; i++) {
        double start = cpu_ms();
        struct ids v = encode(t, s, n, false);
        double ms = cpu_ms() - start;
        best = ms < best ? ms : best;
        ids_free(&v);
    }
    return best;
}

static void a_megabyte_of_anything_takes_50_ms(void **state) {
    (void)state;
    need_data("tokenizers/gpt2/cases.json");
    if (!TIMED) {
        printf("  skipped: timed in release builds only\n");
        skip();
    }
    static const char *const unit[] = {
        "a",
        "_",
        " ",
        "\n",
        "\xf0\x9f\x98\x80",
        "\xe2\x80\x8d",
        "\xe1\xa0\x8e",
        "\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d ",
        "\xd8\xa7",
        "\r\n",
        "\xcc\xa3\xcc\x81",
        "\xcc\x81\xcc\xa3",
        "\xc3\xa9",
        "\xff",
        "{\"id\":12345,\"name\":\"foo_bar\",\"tags\":[\"x\",\"y\"],\"v\":-1.5e3},"};
    size_t size = 1000000;
    char *s = mem_new(size);
    for (size_t k = 0; k < N_REAL; k++) {
        struct tok *t = open_real(real[k]);
        for (size_t u = 0; u < sizeof unit / sizeof *unit; u++) {
            size_t len = strlen(unit[u]), n = size / len * len;
            for (size_t i = 0; i < n; i++)
                s[i] = unit[u][i % len];
            double ms = encode_ms(t, s, n);
            if (ms > 50)
                fail_msg("%s: 1 MB of unit %zu takes %.1f ms", real[k], u, ms);
        }
        tok_free(t);
    }
    free(s);
}

static void english_goes_at_20_megabytes_a_second(void **state) {
    (void)state;
    need_data("corpora/books/sherlock.txt");
    if (!TIMED) {
        printf("  skipped: timed in release builds only\n");
        skip();
    }
    static const char *const text[] = {"corpora/books/sherlock.txt",
                                       "corpora/books/war-and-peace.txt",
                                       "corpora/tinystories/train_head_2MiB.txt"};
    struct tok *t = open_real("gpt2");
    for (int i = 0; i < 3; i++) {
        struct buf b = {0};
        struct err e = {0};
        assert_ok(file_read(data_path(text[i]), (size_t)1 << 26, &b, &e), e);
        double mb_s = (double)b.len / 1e3 / encode_ms(t, b.data, b.len);
        printf("  %s: %.0f MB/s\n", text[i], mb_s);
        assert_true(mb_s >= 20);
        buf_free(&b);
    }
    tok_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_megabyte_of_anything_takes_50_ms),
        cmocka_unit_test(english_goes_at_20_megabytes_a_second),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
