/* gguf.c - what the GGUF reader refuses: rows G1..G13 and G15 of the catalogue of bad files, each
 * with the words that its message must have, in bounded time and memory.  gguf_files.c has what
 * it accepts. */
#include <math.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <time.h>

#include "base/buf.h"
#include "base/mem.h"
#include "gguf_image.h"
#include "model/gguf.h"
#include "testing.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* shadow memory and checks: neither time nor memory are the program's */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* --- Verdicts --- */

/* Of the processor, so that a busy machine does not fail the test. */
static int64_t cpu_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static long peak_kib(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

/* Which step refuses the bytes: 'o'pen, 'c'onfiguration, 't'okenizer, or 0 when all accept. */
static char verdict(const struct buf *b, struct err *err) {
    uint8_t *exact = mem_dup(b->data, b->len); /* a sanitizer sees a read beyond the end */
    struct cfg c;
    char step = 'o';
    struct gguf *g = gguf_parse("test.gguf", exact, b->len, err);
    if (g) {
        step = gguf_cfg(g, &c, err) ? 'c' : 0;
        struct tok *t = step ? NULL : gguf_tok(g, err);
        step = step ? step : t ? 0 : 't';
        tok_free(t);
    }
    gguf_close(g);
    free(exact);
    return step;
}

/* The step refuses the bytes with E_FORMAT and a message that names the file and has each of the
 * words (NULL ends the list), in 50 ms and with less than 1 MiB and twice the
 * file beyond what was used before. */
static void refused(const struct buf *b, int step, ...) {
    struct err err = {0};
    long peak = peak_kib();
    int64_t start = cpu_us();
    char got = verdict(b, &err);
    int64_t us = cpu_us() - start;
    long grown = peak_kib() - peak;
    if (got != step)
        fail_msg("refused by '%c', not '%c': %s", got ? got : '-', step, err.msg);
    assert_int_equal(err.code, E_FORMAT);
    assert_true(strncmp(err.msg, "test.gguf: ", 11) == 0);
    va_list ap;
    va_start(ap, step);
    for (const char *w = va_arg(ap, const char *); w; w = va_arg(ap, const char *))
        if (!strstr(err.msg, w))
            fail_msg("no '%s' in: %s", w, err.msg);
    va_end(ap);
    if (!SANITIZED && (us > 50000 || grown > 1024 + 2 * (long)(b->len / 1024)))
        fail_msg("%lld us, %ld KiB: %s", (long long)us, grown, err.msg);
}

static void refuse_image(struct image *im, char step, const char *word, const char *word2) {
    refused(finish(im), step, word, word2, NULL);
    image_free(im);
}

static void accepted(struct image *im) {
    struct err err = {0};
    char step = verdict(finish(im), &err);
    if (step)
        fail_msg("refused by '%c': %s", step, err.msg);
    image_free(im);
}

/* base() without `name`; the test then adds its own. */
static struct image without(const char *name) {
    struct image im = {.skip = {name}};
    base(&im);
    return im;
}

/* --- What is accepted --- */

static void versions_2_and_3_are_accepted(void **state) {
    (void)state;
    for (uint32_t v = 2; v <= 3; v++) {
        struct image im = {.version = v};
        base(&im);
        accepted(&im);
    }
}

static void every_value_type_is_walked(void **state) {
    (void)state;
    static const int bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    for (uint32_t type = 0; type <= F64; type++) {
        struct image im = {0};
        base(&im);
        if (type == STR)
            kv_str(&im, "x.value", "text");
        else if (type != ARR)
            kv_int(&im, "x.value", type, 1);
        if (type == ARR)
            kv_arr(&im, "x.array", U16, 0);
        else if (type == STR)
            put_text(kv_arr(&im, "x.array", STR, 1), "", 0);
        else
            for (int i = 0; i < 8; i++)
                put(i ? &im.kv : kv_arr(&im, "x.array", type, 8), 1, bytes[type]);
        accepted(&im);
    }
}

static void dimensions_are_reversed(void **state) {
    (void)state;
    struct image im = {0};
    base(&im);
    const struct buf *b = finish(&im);
    struct err err = {0};
    struct gguf *g = gguf_parse("m", b->data, b->len, &err);
    assert_non_null(g);
    const struct tensor *t = tensors_find(gguf_tensors(g), "blk.0.ffn_down.weight");
    assert_non_null(t);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[0], 32);
    assert_int_equal(t->shape[1], 64);
    assert_int_equal(t->type, DT_Q8_0);
    assert_string_equal(t->type_name, "Q8_0");
    assert_int_equal(t->bytes, 32 * 64 / 32 * 34);
    assert_true((const char *)t->data + t->bytes <= b->data + b->len);
    assert_true(((const char *)t->data - b->data) % 32 == 0);
    gguf_close(g);
    image_free(&im);
}

static void alignment_of_the_file_is_used(void **state) {
    (void)state;
    for (uint64_t align = 1; align <= 65536; align *= 2) {
        struct image im = {.align = align};
        base(&im);
        kv_int(&im, "general.alignment", U32, align);
        accepted(&im);
    }
}

/* --- G1..G9, G15: the container --- */

static void g1_magic_and_version(void **state) {
    (void)state;
    struct image im = {0};
    base(&im);
    finish(&im);
    char *d = im.out.data;
    for (size_t n = 0; n < 24; n++)
        refused(&(struct buf){d, n, n}, 'o', "magic", "not a GGUF file", NULL);
    memcpy(d, "GGJT", 4);
    refused(&im.out, 'o', "magic", "not a GGUF file", NULL);
    memcpy(d, "FUGG", 4);
    refused(&im.out, 'o', "big-endian", NULL);
    memcpy(d, "GGUF\0\0\0\3", 8);
    refused(&im.out, 'o', "version", "big-endian", NULL);
    static const uint32_t bad[] = {0, 1, 4, 0x7fffffff, 0xffffffff};
    for (int i = 0; i < 5; i++) {
        memcpy(d + 4, &bad[i], 4);
        refused(&im.out, 'o', "version", "supported: 2, 3", NULL);
    }
    image_free(&im);
}

static void g2_counts_beyond_the_file(void **state) {
    (void)state;
    static const uint64_t bad[] = {
        UINT64_MAX, (uint64_t)1 << 63, (uint64_t)1 << 62, (uint64_t)0x80000000, 65537, 1000};
    struct image im = {0};
    base(&im);
    finish(&im);
    for (int i = 0; i < 6; i++) {
        uint64_t old;
        memcpy(&old, im.out.data + 8, 8);
        memcpy(im.out.data + 8, &bad[i], 8);
        refused(&im.out, 'o', "number of tensors", NULL);
        memcpy(im.out.data + 8, &old, 8);
        memcpy(&old, im.out.data + 16, 8);
        memcpy(im.out.data + 16, &bad[i], 8);
        refused(&im.out, 'o', "number of keys", NULL);
        memcpy(im.out.data + 16, &old, 8);
    }
    image_free(&im);
}

static void g3_string_lengths_beyond_the_file(void **state) {
    (void)state;
    static const uint64_t bad[] = {UINT64_MAX, (uint64_t)1 << 63, UINT64_MAX - 7, 16777217,
                                   16777216};
    for (int i = 0; i < 5; i++) {
        struct image im = {0};
        base(&im);
        put(kv(&im, "x.text", STR), bad[i], 8);
        refuse_image(&im, 'o', "x.text", "string of");
        im = without(NULL);
        put(kv_arr(&im, "x.texts", STR, 1), bad[i], 8);
        refuse_image(&im, 'o', "x.texts", "string of");
        im = without(NULL);
        put(&im.kv, bad[i], 8); /* length of a key */
        im.n_kv++;
        refuse_image(&im, 'o', "key", "string of");
        im = without(NULL);
        put(&im.info, bad[i], 8); /* length of a tensor's name */
        im.n_tensor++;
        refuse_image(&im, 'o', "tensor", "string of");
    }
    struct image im = {0};
    base(&im);
    put_text(&im.kv, "a\0b", 3);
    put(&im.kv, U8, 4);
    put(&im.kv, 0, 1);
    im.n_kv++;
    refuse_image(&im, 'o', "key", "NUL");
    im = without(NULL);
    kv_int(&im, "", U8, 0);
    refuse_image(&im, 'o', "key", "empty");
}

static void g4_arrays_nested_too_long_or_of_unknown_type(void **state) {
    (void)state;
    static const uint64_t bad[] = {UINT64_MAX, (uint64_t)1 << 62, (uint64_t)1 << 61, 16777217,
                                   1 << 20};
    for (int i = 0; i < 5; i++)
        for (uint32_t elem = 0; elem <= F64; elem++) {
            struct image im = {0};
            base(&im);
            kv_arr(&im, "x.array", elem, bad[i]);
            refuse_image(&im, 'o', "x.array", elem == ARR ? "arrays of arrays" : "array of");
        }
    static const uint32_t types[] = {13, 255, 0x80000000, 0xffffffff};
    for (int i = 0; i < 4; i++) {
        struct image im = {0};
        base(&im);
        put(kv(&im, "x.value", types[i]), 0, 8);
        refuse_image(&im, 'o', "x.value", "unknown value type");
        im = without(NULL);
        put(kv_arr(&im, "x.array", types[i], 1), 0, 8);
        refuse_image(&im, 'o', "x.array", "unknown element type");
    }
}

static void g5_tensors_outside_the_file_or_over_each_other(void **state) {
    (void)state;
    const uint64_t dim[2] = {32, 1};
    static const uint64_t far[] = {(uint64_t)1 << 40, UINT64_MAX - 31, (uint64_t)1 << 63,
                                   UINT64_MAX - 127};
    for (int i = 0; i < 4; i++) {
        struct image im = {0};
        base(&im);
        info(&im, "x.weight", 0, far[i], 2, dim);
        refuse_image(&im, 'o', "x.weight", "beyond the end");
    }
    struct image im = {0};
    base(&im);
    info(&im, "x.weight", 0, im.data - 96, 2, dim); /* 32 bytes too many */
    refuse_image(&im, 'o', "x.weight", "beyond the end");
    im = without(NULL);
    info(&im, "x.weight", 0, im.data - 128, 2, dim); /* ends with the file, over ffn_down */
    refuse_image(&im, 'o', "x.weight", "overlaps tensor 'blk.0.ffn_down.weight'");
    im = without(NULL);
    info(&im, "x.weight", 0, im.data + 16, 2, dim);
    im.data += 256;
    refuse_image(&im, 'o', "x.weight", "not aligned");
    im = without(NULL);
    finish(&im);
    size_t header = im.out.len - im.data;
    for (size_t n = 24; n < im.out.len; n += n < header ? 1 : 97) /* truncation at any byte */
        refused(&(struct buf){im.out.data, n, n}, 'o', "test.gguf", NULL);
    image_free(&im);
}

static void g6_dimensions_that_wrap(void **state) {
    (void)state;
    static const struct {
        uint32_t n;
        uint64_t dim[5];
        const char *word;
    } bad[] = {
        {4, {((uint64_t)1 << 42) + 1, (uint64_t)1 << 22, 1, 1}, "overflows"},
        {4, {(uint64_t)1 << 32, (uint64_t)1 << 32, 1, 1}, "overflows"},
        {4,
         {(uint64_t)1 << 16, (uint64_t)1 << 16, (uint64_t)1 << 16, (uint64_t)1 << 16},
         "overflows"},
        {2, {INT64_MAX, 3}, "overflows"},
        {1, {INT64_MAX}, "overflows"},
        {1, {0}, "must be positive"},
        {2, {32, 0}, "must be positive"},
        {1, {(uint64_t)1 << 63}, "must be positive"},
        {1, {UINT64_MAX}, "must be positive"},
        {0, {0}, "dimensions"},
        {5, {1, 1, 1, 1, 1}, "dimensions"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct image im = {0};
        base(&im);
        info(&im, "x.weight", 0, im.data, bad[i].n, bad[i].dim);
        refuse_image(&im, 'o', "x.weight", bad[i].word);
    }
    struct image im = {0};
    base(&im);
    info(&im, "x.weight", 0, im.data, 1, (uint64_t[]){8});
    im.info.data[im.info.len - 8 - 4 - 8 - 4] = 0x40; /* 64 dimensions */
    refuse_image(&im, 'o', "x.weight", "dimensions");
}

static void g7_alignment(void **state) {
    (void)state;
    static const uint64_t bad[] = {0, 3, 33, 131072, 0x80000000, 0xffffffff};
    for (int i = 0; i < 6; i++) {
        struct image im = {0};
        base(&im);
        kv_int(&im, "general.alignment", U32, bad[i]);
        refuse_image(&im, 'o', "general.alignment", "power of two");
    }
    for (uint32_t type = 0; type <= F64; type++) {
        struct image im = {0};
        if (type == U32)
            continue;
        base(&im);
        put(kv(&im, "general.alignment", type), type == ARR ? 0 : 8, type == ARR ? 4 : 8);
        put(&im.kv, 0, 8); /* enough for any type */
        /* what is left of it is read as tensors, after the alignment was refused */
        refuse_image(&im, 'o', "general.alignment", "must be u32");
    }
}

static void g8_duplicate_keys_and_tensors(void **state) {
    (void)state;
    struct image im = {0};
    base(&im);
    kv_int(&im, "llama.block_count", U32, 1);
    refuse_image(&im, 'o', "llama.block_count", "twice");
    im = without(NULL);
    tensor(&im, "output_norm.weight", 0, 32, 0);
    refuse_image(&im, 'o', "output_norm.weight", "twice");
}

static void g9_padding_beyond_the_file(void **state) {
    (void)state;
    struct image im = {.version = 3, .align = 1};
    tensor(&im, "token_embd.weight", 0, 32, 8);
    kv_int(&im, "general.alignment", U32, 65536); /* the data would begin behind the end */
    refuse_image(&im, 'o', "beyond the end", "(0 bytes of data)");
}

static void g15_unsupported_tensor_types(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        const char *name;
    } bad[] = {{4, "Q4_2"},
               {9, "Q8_1"},
               {10, "Q2_K"},
               {11, "Q3_K"},
               {16, "IQ2_XXS"},
               {20, "IQ4_NL"},
               {23, "IQ4_XS"},
               {34, "TQ1_0"},
               {39, "MXFP4"},
               {31, "unknown type 31"},
               {40, "unknown type 40"},
               {0xffffffff, "unknown type 4294967295"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct image im = {0};
        base(&im);
        info(&im, "x.weight", bad[i].type, im.data, 1, (uint64_t[]){256});
        const struct buf *b = finish(&im);
        refused(b, 'o', "x.weight", bad[i].name, "supported: F32, F16, BF16, Q8_0", NULL);
        image_free(&im);
    }
    static const struct {
        uint32_t type, block;
    } blocks[] = {{2, 32}, {3, 32}, {6, 32}, {7, 32}, {8, 32}, {12, 256}, {13, 256}, {14, 256}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        for (uint32_t cols = 1; cols < blocks[i].block; cols *= 2) {
            struct image im = {0};
            base(&im);
            info(&im, "x.weight", blocks[i].type, im.data, 2, (uint64_t[]){cols, 256});
            im.data += 65536;
            refuse_image(&im, 'o', "x.weight", "not a multiple");
        }
}

static void many_minimal_entries_cost_little(void **state) {
    (void)state;
    struct image im = {.version = 3, .align = 32};
    for (uint32_t i = 0; i < 65536; i++) { /* the cap, shortest keys, in reverse order */
        char key[8];
        snprintf(key, sizeof key, "%04x", 65535 - i);
        kv_int(&im, key, U8, 0);
    }
    kv_int(&im, "last", U8, 0);
    im.n_kv--; /* 65,536 keys, then bytes that are no tensors */
    im.n_tensor = 1;
    const struct buf *b = finish(&im);
    refused(b, 'o', "test.gguf", NULL);
    im.n_kv++;
    refused(finish(&im), 'o', "number of keys", NULL);
    image_free(&im);
    im = (struct image){.version = 3, .align = 1, .data = 4};
    for (uint32_t i = 0; i < 65536; i++) { /* all over each other: refused at the second */
        char name[8];
        snprintf(name, sizeof name, "%04x", 65535 - i);
        info(&im, name, 24, 0, 1, (uint64_t[]){1});
    }
    kv_int(&im, "general.alignment", U32, 1);
    refused(finish(&im), 'o', "overlaps", NULL);
    image_free(&im);
}

/* --- G10..G13: key-values with wrong types and values --- */

static void g10_wrong_types_are_named(void **state) {
    (void)state;
    struct image im;
    static const char *const ints[] = {"llama.block_count", "llama.attention.head_count_kv",
                                       "tokenizer.ggml.bos_token_id"};
    for (int i = 0; i < 3; i++) {
        im = without(ints[i]);
        im.skip[0] = NULL;
        kv_f32(&im, ints[i], 1);
        refuse_image(&im, 'c', ints[i], "must be an integer, is f32");
    }
    im = without("tokenizer.ggml.tokens");
    put(kv_arr(&im, "tokenizer.ggml.tokens", U64, 8), 0, 8);
    for (int i = 0; i < 7; i++)
        put(&im.kv, 0, 8);
    refuse_image(&im, 'c', "tokenizer.ggml.tokens",
                 "must be an array of string, is an array of u64");
    im = without("tokenizer.ggml.scores");
    for (int i = 0; i < 8; i++)
        put(i ? &im.kv : kv_arr(&im, "tokenizer.ggml.scores", I32, 8), 0, 4);
    refuse_image(&im, 't', "tokenizer.ggml.scores", "is an array of i32");
    im = without("tokenizer.ggml.token_type");
    put(kv_arr(&im, "tokenizer.ggml.token_type", U8, 8), 0x0101010101010101, 8);
    refuse_image(&im, 't', "tokenizer.ggml.token_type", "is an array of u8");
    im = without("tokenizer.ggml.scores");
    for (int i = 0; i < 7; i++)
        put(i ? &im.kv : kv_arr(&im, "tokenizer.ggml.scores", F32, 7), 0, 4);
    refuse_image(&im, 't', "tokenizer.ggml.scores", "7 elements, but there are 8 tokens");
    im = without(NULL);
    kv_int(&im, "tokenizer.ggml.add_bos_token", U8, 1);
    refuse_image(&im, 't', "add_bos_token", "must be bool, is u8");
    im = without(NULL);
    kv_int(&im, "tokenizer.ggml.add_bos_token", BOOL, 2);
    refuse_image(&im, 't', "add_bos_token", "not a bool");
    im = without(NULL);
    kv_int(&im, "tokenizer.chat_template", U8, 1);
    refuse_image(&im, 't', "chat_template", "must be a string");
    im = without("tokenizer.ggml.model");
    im.skip[0] = NULL;
    kv_str(&im, "tokenizer.ggml.model", "gpt2");
    put(kv_arr(&im, "tokenizer.ggml.merges", U8, 1), 0, 1);
    refuse_image(&im, 't', "merges", "is an array of u8");
}

static void with_token(struct image *im, const char *text, size_t n, int type) {
    *im = (struct image){.skip = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}};
    base(im);
    struct buf *b = kv_arr(im, "tokenizer.ggml.tokens", STR, 8);
    for (int i = 0; i < 7; i++)
        put_text(b, tokens[i], strlen(tokens[i]));
    put_text(b, text, n);
    kv_arr(im, "tokenizer.ggml.token_type", I32, 8);
    for (int i = 0; i < 8; i++)
        put(b, i == 7 ? (uint32_t)type : token_types[i], 4);
}

static void g11_malformed_tokens(void **state) {
    (void)state;
    struct image im;
    static const char *const bytes[] = {"<0x-1>", "<0xZZ>", "<0x>", "<0x100>", "0x0A", "<0x0A"};
    for (int i = 0; i < 6; i++) {
        with_token(&im, bytes[i], strlen(bytes[i]), 6);
        refuse_image(&im, 't', "not a byte token", NULL);
    }
    with_token(&im, "", 0, 1);
    refuse_image(&im, 't', "empty", NULL);
    with_token(&im, "ab", 2, 1);
    refuse_image(&im, 't', "already has id", NULL);
    with_token(&im, "c", 1, 77);
    refuse_image(&im, 't', "type 77", NULL);
    char *mega = mem_new(1 << 20);
    memset(mega, 'x', 1 << 20);
    with_token(&im, mega, 1 << 20, 1);
    refuse_image(&im, 't', "1048576 bytes", NULL);
    free(mega);
}

static void g12_hyper_parameters_out_of_range(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint64_t v;
        const char *word;
    } bad[] = {
        {"llama.block_count", 0, "llama.block_count"},
        {"llama.block_count", 513, "layers"},
        {"llama.block_count", 0x80000000, "llama.block_count"},
        {"llama.context_length", 0, "llama.context_length"},
        {"llama.context_length", 0x80000000, "llama.context_length"},
        {"llama.context_length", 0x7fffffff, "context length"},
        {"llama.embedding_length", 0, "llama.embedding_length"},
        {"llama.embedding_length", 33, "not a multiple"},
        {"llama.feed_forward_length", 0, "llama.feed_forward_length"},
        {"llama.attention.head_count", 0, "llama.attention.head_count"},
        {"llama.attention.head_count", 5, "not a multiple"},
        {"llama.attention.head_count_kv", 0, "key-value heads"},
        {"llama.attention.head_count_kv", 3, "not a multiple"},
        {"llama.attention.head_count_kv", 8, "key-value heads"},
        {"llama.rope.dimension_count", 3, "rotary"},
        {"llama.rope.dimension_count", 10, "rotary"},
        {"llama.attention.value_length", 16, "value_length"},
        {"llama.expert_count", 8, "llama.expert_count"},
        {"llama.vocab_size", 9, "llama.vocab_size"},
        {"tokenizer.ggml.eos_token_id", 8, "tokenizer.ggml.eos_token_id"},
        {"tokenizer.ggml.eot_token_id", 0xfffffffe, "tokenizer.ggml.eot_token_id"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct image im = without(bad[i].key);
        im.skip[0] = NULL;
        kv_int(&im, bad[i].key, U32, bad[i].v);
        refuse_image(&im, 'c', bad[i].word, NULL);
    }
    static const char *const required[] = {"general.architecture",
                                           "llama.block_count",
                                           "llama.context_length",
                                           "llama.embedding_length",
                                           "llama.feed_forward_length",
                                           "llama.attention.head_count",
                                           "llama.attention.layer_norm_rms_epsilon"};
    for (int i = 0; i < 7; i++) {
        struct image im = without(required[i]);
        refuse_image(&im, 'c', required[i], "missing");
    }
    static const float bad_theta[] = {0, -1, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        struct image im = without(NULL);
        kv_f32(&im, "llama.rope.freq_base", bad_theta[i]);
        refuse_image(&im, 'c', "llama.rope.freq_base", "not in");
        im = without("llama.attention.layer_norm_rms_epsilon");
        im.skip[0] = NULL;
        kv_f32(&im, "llama.attention.layer_norm_rms_epsilon", i ? bad_theta[i] : 2);
        refuse_image(&im, 'c', "layer_norm_rms_epsilon", "not in");
    }
}

static void unsupported_features_are_named(void **state) {
    (void)state;
    static const struct {
        const char *key, *value;
    } texts[] = {{"llama.rope.scaling.type", "yarn"},
                 {"llama.rope.scaling.type", "longrope"},
                 {"general.architecture", "mamba"},
                 {"general.architecture", "phi"},
                 {"general.architecture", "mistral"}};
    struct image im;
    for (int i = 0; i < 5; i++) {
        im = without(texts[i].key);
        im.skip[0] = NULL;
        kv_str(&im, texts[i].key, texts[i].value);
        refuse_image(&im, 'c', texts[i].key, texts[i].value);
    }
    static const char *const reals[] = {"llama.attn_logit_softcapping",
                                        "llama.final_logit_softcapping", "llama.logit_scale",
                                        "llama.attention.scale"};
    for (int i = 0; i < 4; i++) {
        im = without(NULL);
        kv_f32(&im, reals[i], 30);
        refuse_image(&im, 'c', reals[i], "not supported");
        im = without(NULL);
        kv_f32(&im, reals[i], 0);
        accepted(&im);
    }
    static const char *const extra[] = {"blk.0.ffn_gate_inp.weight", "blk.0.attn_q_norm.weight",
                                        "blk.0.attn_norm.bias",      "blk.1.attn_q.weight",
                                        "rope_factors_long.weight",  "position_embd.weight",
                                        "token_types.weight"};
    for (int i = 0; i < 7; i++) {
        im = without(NULL);
        tensor(&im, extra[i], 0, 32, 0);
        refuse_image(&im, 'c', extra[i], "not supported");
    }
    static const char *const kinds[] = {"bert", "t5", "no_vocab", "plamo2"};
    for (int i = 0; i < 4; i++) {
        im = without("tokenizer.ggml.model");
        im.skip[0] = NULL;
        kv_str(&im, "tokenizer.ggml.model", kinds[i]);
        refuse_image(&im, 't', "tokenizer.ggml.model", kinds[i]);
    }
}

static void g13_vocabulary_unequal_to_embedding_rows(void **state) {
    (void)state;
    struct image im = without("token_embd.weight");
    im.skip[0] = NULL;
    tensor(&im, "token_embd.weight", 0, 32, 9);
    refuse_image(&im, 'c', "tokenizer.ggml.tokens has 8 tokens", "9 rows");
    im = without("token_embd.weight");
    refuse_image(&im, 'c', "token_embd.weight", "no tensor");
    im = without("token_embd.weight");
    im.skip[0] = NULL;
    tensor(&im, "token_embd.weight", 0, 256, 0);
    refuse_image(&im, 'c', "token_embd.weight", "two dimensions");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_2_and_3_are_accepted),
        cmocka_unit_test(every_value_type_is_walked),
        cmocka_unit_test(dimensions_are_reversed),
        cmocka_unit_test(alignment_of_the_file_is_used),
        cmocka_unit_test(g1_magic_and_version),
        cmocka_unit_test(g2_counts_beyond_the_file),
        cmocka_unit_test(g3_string_lengths_beyond_the_file),
        cmocka_unit_test(g4_arrays_nested_too_long_or_of_unknown_type),
        cmocka_unit_test(g5_tensors_outside_the_file_or_over_each_other),
        cmocka_unit_test(g6_dimensions_that_wrap),
        cmocka_unit_test(g7_alignment),
        cmocka_unit_test(g8_duplicate_keys_and_tensors),
        cmocka_unit_test(g9_padding_beyond_the_file),
        cmocka_unit_test(g15_unsupported_tensor_types),
        cmocka_unit_test(many_minimal_entries_cost_little),
        cmocka_unit_test(g10_wrong_types_are_named),
        cmocka_unit_test(g11_malformed_tokens),
        cmocka_unit_test(g12_hyper_parameters_out_of_range),
        cmocka_unit_test(unsupported_features_are_named),
        cmocka_unit_test(g13_vocabulary_unequal_to_embedding_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
