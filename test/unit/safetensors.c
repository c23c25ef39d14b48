/* safetensors.c - claims S1-S9 about .safetensors files and sharded folders. */
#include "testing.h"

#include <math.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/tensors.h"

/* A file's bytes: the header's length, the header, n_data bytes counting up. */
static void make(struct buf *b, const char *header, uint64_t len, size_t n_data) {
    b->len = 0;
    for (int i = 0; i < 8; i++)
        buf_addc(b, (char)(len >> (8 * i)));
    buf_adds(b, header);
    for (size_t i = 0; i < n_data; i++)
        buf_addc(b, (char)i);
}

static int parse(struct buf *b, struct tensors *ts, struct err *err) {
    /* An exact copy on the heap, so that the sanitizer sees any read past the end. */
    void *copy = mem_dup(b->data, b->len);
    int rc = safetensors_parse(ts, "f.safetensors", copy, b->len, err);
    if (rc) {
        free(copy);
        return rc;
    }
    ts->file = mem_new(sizeof *ts->file); /* n_file stays 0: the test frees the copy */
    ts->file->data = copy;
    return 0;
}

static void done(struct tensors *ts) {
    void *copy = (void *)ts->file->data;
    tensors_close(ts);
    free(copy);
}

static void bad_length_costs_no_time_and_no_memory(void **state) {
    (void)state;
    static const uint64_t bad[] = {
        0, 1, 100000001, 1000, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    struct buf b = {0};
    for (size_t size = 0; size < 8; size++) {
        struct tensors ts;
        struct err err = {0};
        make(&b, "", 16, 0);
        b.len = size;
        assert_int_equal(parse(&b, &ts, &err), -1);
        assert_int_equal(err.code, E_FORMAT);
        assert_non_null(strstr(err.msg, "header length invalid"));
    }
    size_t before = mem_resident();
    clock_t start = clock();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tensors ts;
        struct err err = {0};
        make(&b, "{\"a\":{}}", bad[i], 0);
        assert_int_equal(parse(&b, &ts, &err), -1);
        assert_int_equal(err.code, E_FORMAT);
        assert_non_null(strstr(err.msg, "f.safetensors: header length invalid"));
    }
    assert_true(clock() - start < CLOCKS_PER_SEC / 100);
    assert_true(mem_resident() < before + (4 << 20));
    buf_free(&b);
}

#define A8 "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define B8(from, to) "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" from "," to "]}"
#define ONE(dtype, shape, offsets)                                                                 \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const struct {
    const char *header;
    size_t n_data;
    const char *says;
} bad_headers[] = {
    /* S2 */
    {"[1,2,3]", 0, "does not start with '{'"},
    {" {}", 0, "does not start with '{'"},
    {"{\"a\":", 0, "JSON"},
    {"{" A8 "}x", 8, "JSON"},
    {"{" A8 "}\n{}", 8, "JSON"},
    {"{\"\xff\xfe\":{}}", 0, "JSON"},
    {"{\"a\\u0000b\":{}}", 0, "JSON"},
    /* S3 */
    {"{" A8 "," A8 "}", 8, "duplicate"},
    {"{\"__metadata__\":{},\"__metadata__\":{}," A8 "}", 8, "duplicate"},
    {"{\"__metadata__\":[]," A8 "}", 8, "__metadata__"},
    {"{\"__metadata__\":{\"format\":7}," A8 "}", 8, "__metadata__.format"},
    /* S4 */
    {"{" A8 "," B8("4", "12") "}", 12, "'b'"},
    {"{" A8 "," B8("12", "20") "}", 20, "'b'"},
    {"{" A8 "," B8("16", "8") "}", 16, "'b'"},
    {"{" A8 "," B8("0", "8") "}", 8, "'"},
    {"{" B8("4", "12") "}", 12, "'b'"},
    {ONE("\"F32\"", "[2]", "[-8,0]"), 8, "'a': data_offsets"},
    {ONE("\"F32\"", "[2]", "[0.0,8.0]"), 8, "'a': data_offsets"},
    {ONE("\"F32\"", "[2]", "[0,1e30]"), 8, "'a': data_offsets"},
    {ONE("\"F32\"", "[2]", "[\"0\",\"8\"]"), 8, "'a': data_offsets"},
    {ONE("\"F32\"", "[2]", "[0,8,8]"), 8, "'a': data_offsets"},
    {ONE("\"F32\"", "[2]", "[8]"), 8, "'a': data_offsets"},
    {ONE("\"F32\"", "[2]", "8"), 8, "'a': data_offsets"},
    {ONE("\"F32\"", "[2]", "[0,99999999999999999999]"), 8, "JSON"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "'a': data_offsets"},
    {"{" A8 "}", 7, "'a': data ends at byte 8 of 7"},
    {"{" A8 "}", 9, "9 bytes of data, but the tensors end at 8"},
    {"{}", 1, "1 bytes of data"},
    /* S5 */
    {ONE("\"F32\"", "[4294967296,4294967296]", "[0,8]"), 8, "'a': shape overflows"},
    {ONE("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, "'a': shape overflows"},
    {ONE("\"F32\"", "[4294967296,4294967296,0]", "[0,0]"), 0, "'a': shape overflows"},
    {ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "'a': shape"},
    {ONE("\"F32\"", "[-2]", "[0,8]"), 8, "'a': shape[0]"},
    {ONE("\"F32\"", "[2.0]", "[0,8]"), 8, "'a': shape[0]"},
    {ONE("\"F32\"", "[1,null]", "[0,8]"), 8, "'a': shape[1]"},
    {ONE("\"F32\"", "2", "[0,8]"), 8, "'a': shape"},
    {ONE("\"F32\"", "{}", "[0,8]"), 8, "'a': shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "'a': shape"},
    /* S6 */
    {ONE("\"F8_E4M3\"", "[8]", "[0,8]"), 8,
     "'a': dtype F8_E4M3 not supported (supported: F32, F16, BF16)"},
    {ONE("\"I4\"", "[8]", "[0,4]"), 4, "dtype I4 not supported"},
    {ONE("\"f32\"", "[2]", "[0,8]"), 8, "dtype f32 not supported"},
    {ONE("\"\"", "[2]", "[0,8]"), 8, "not supported"},
    {ONE("32", "[2]", "[0,8]"), 8, "'a': dtype must be a string"},
    {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'a': dtype"},
    {"{\"a\":7}", 0, "'a'"},
    /* S7 */
    {ONE("\"F16\"", "[2]", "[0,8]"), 8, "'a': 8 bytes of data, but dtype F16 and shape need 4"},
    {ONE("\"F32\"", "[]", "[0,8]"), 8, "need 4"},
    {ONE("\"F32\"", "[0]", "[0,8]"), 8, "need 0"},
};

static void bad_headers_are_refused_with_tensor_and_reason(void **state) {
    (void)state;
    struct buf b = {0};
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        const char *h = bad_headers[i].header;
        struct tensors ts;
        struct err err = {0};
        make(&b, h, strlen(h), bad_headers[i].n_data);
        if (parse(&b, &ts, &err) == 0)
            fail_msg("accepted: %s", h);
        assert_int_equal(err.code, E_FORMAT);
        if (!strstr(err.msg, bad_headers[i].says) || strncmp(err.msg, "f.safetensors: ", 15) != 0)
            fail_msg("%s: the message does not say '%s': %s", h, bad_headers[i].says, err.msg);
    }
    buf_free(&b);
}

static void odd_but_valid_headers_are_accepted(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
        int n;
    } good[] = {
        {"{}", 0, 0},
        {"{}      ", 0, 0},
        {"{" A8 "}   \n", 8, 1},
        {"{" B8("8", "16") "," A8 "}", 16, 2}, /* order of names is not the order of data */
        {"{\"__metadata__\":{\"format\":\"pt\"}," A8 "}", 8, 1},
        {ONE("\"F32\"", "[]", "[0,4]"), 4, 1},
        {ONE("\"F32\"", "[0,7]", "[0,0]"), 0, 1},
        {ONE("\"F32\"", "[1,1,1,1,1,1,1,1]", "[0,4]"), 4, 1},
        {ONE("\"BOOL\"", "[3]", "[0,3]"), 3, 1},
        {ONE("\"I64\"", "[1]", "[0,8]"), 8, 1},
        {ONE("\"F64\"", "[1]", "[0,8]"), 8, 1},
    };
    struct buf b = {0};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct tensors ts;
        struct err err = {0};
        make(&b, good[i].header, strlen(good[i].header), good[i].n_data);
        if (parse(&b, &ts, &err))
            fail_msg("%s: %s", good[i].header, err.msg);
        assert_int_equal(ts.n, good[i].n);
        done(&ts);
    }
    struct tensors ts;
    struct err err = {0};
    make(&b, "{" B8("8", "16") "," A8 "}", strlen("{" B8("8", "16") "," A8 "}"), 16);
    assert_ok(parse(&b, &ts, &err), err);
    const struct tensor *t = tensors_find(&ts, "b");
    assert_non_null(t);
    assert_true(t->type == DT_F32 && t->rank == 1 && t->shape[0] == 2 && t->bytes == 8);
    assert_int_equal(*(const char *)t->data, 8);
    assert_null(tensors_find(&ts, "c"));
    done(&ts);
    buf_free(&b);
}

static void names_and_counts_are_capped(void **state) {
    (void)state;
    struct buf h = {0}, b = {0};
    for (int len = 256; len <= 257; len++) {
        struct tensors ts;
        struct err err = {0};
        h.len = 0;
        buf_adds(&h, "{\"");
        for (int i = 0; i < len; i++)
            buf_addc(&h, 'n');
        buf_adds(&h, "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
        make(&b, buf_str(&h), h.len, 0);
        int rc = parse(&b, &ts, &err);
        assert_int_equal(rc, len == 256 ? 0 : -1);
        if (rc == 0)
            done(&ts);
        else
            assert_non_null(strstr(err.msg, "longer than 256"));
    }
    buf_free(&h);
    buf_free(&b);
}

static void put_tensors(struct buf *h, int n) {
    h->len = 0;
    buf_addc(h, '{');
    for (int i = 0; i < n; i++)
        buf_printf(
            h,
            "%s\"model.layers.%d.weight\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
            i ? "," : "", i);
    buf_addc(h, '}');
}

/* Processor seconds to parse a header of n tensors. */
static double parse_seconds(int n) {
    struct buf h = {0}, b = {0};
    struct tensors ts;
    struct err err = {0};
    put_tensors(&h, n);
    make(&b, buf_str(&h), h.len, 0);
    clock_t start = clock();
    assert_ok(parse(&b, &ts, &err), err);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    assert_int_equal(ts.n, n);
    done(&ts);
    buf_free(&h);
    buf_free(&b);
    return seconds;
}

/* S8: names must differ, which a table tells; each beside all others would take 2,500 times
 * as long. */
static void fifty_times_the_tensors_take_no_more_than_a_few_times_fifty(void **state) {
    (void)state;
    double few = parse_seconds(2000), many = parse_seconds(100000);
    for (int i = 0; i < 2; i++)
        few = fmax(few, parse_seconds(2000));
    assert_true(many < 500 * few);
}

static void more_than_200000_tensors_are_refused(void **state) {
    (void)state;
    struct buf h = {0}, b = {0};
    struct tensors ts;
    struct err err = {0};
    put_tensors(&h, 200001);
    make(&b, buf_str(&h), h.len, 0);
    assert_int_equal(parse(&b, &ts, &err), -1);
    assert_non_null(strstr(err.msg, "200001 tensors, more than 200000"));
    buf_free(&h);
    buf_free(&b);
}

/* Sixty megabytes of values that no tensor table needs must not become gigabytes of JSON
 * objects. */
static void a_header_full_of_values_is_refused_unparsed(void **state) {
    (void)state;
    struct buf h = {0}, b = {0};
    struct tensors ts;
    struct err err = {0};
    buf_adds(&h, "{\"a\":[0");
    for (int i = 0; i < 4000000; i++)
        buf_adds(&h, ",0");
    buf_adds(&h, "]}");
    make(&b, buf_str(&h), h.len, 0);
    size_t before = mem_resident();
    assert_int_equal(parse(&b, &ts, &err), -1);
    assert_non_null(strstr(err.msg, "more values"));
    assert_true(mem_resident() < before + (16 << 20));
    buf_free(&h);
    buf_free(&b);
}

/* --- property: one broken rule, one refusal ------------------------------------------------- */

#define MAX_T 6
struct entry {
    char name[24];
    int type, rank;
    int64_t shape[3], range[2];
};

static const struct {
    const char *name;
    int bytes;
} types[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"U8", 1}};

struct made {
    struct entry e[MAX_T];
    int n;
    int64_t total;
};

static void random_file(struct made *m, struct rng *r) {
    *m = (struct made){.n = 1 + (int)rng_below(r, MAX_T)};
    for (int i = 0; i < m->n; i++) {
        struct entry *e = &m->e[i];
        snprintf(e->name, sizeof e->name, "t%d.%u", i, rng_below(r, 100));
        e->type = (int)rng_below(r, 5);
        e->rank = (int)rng_below(r, 4);
        int64_t n = types[e->type].bytes;
        for (int k = 0; k < e->rank; k++)
            n *= e->shape[k] = 1 + rng_below(r, 4);
        e->range[0] = m->total;
        e->range[1] = m->total += n;
    }
}

static void print_file(const struct made *m, struct buf *h) {
    h->len = 0;
    buf_addc(h, '{');
    for (int i = m->n - 1; i >= 0; i--) { /* the order of entries does not matter */
        const struct entry *e = &m->e[i];
        buf_printf(h, "\"%s\":{\"shape\":[", e->name);
        for (int k = 0; k < e->rank; k++)
            buf_printf(h, "%s%lld", k ? "," : "", (long long)e->shape[k]);
        buf_printf(h, "],\"dtype\":\"%s\",\"data_offsets\":[%lld,%lld]}%s", types[e->type].name,
                   (long long)e->range[0], (long long)e->range[1], i ? "," : "");
    }
    buf_addc(h, '}');
}

#define N_MUTATION 9
/* Breaks one rule; *extra changes the number of data bytes. */
static void mutate(struct made *m, int which, struct rng *r, int *extra) {
    struct entry *e = &m->e[rng_below(r, (uint32_t)m->n)];
    switch (which) {
    case 0:
        e->range[0]++;
        break;
    case 1:
        e->range[1]++;
        break;
    case 2:
        e->range[1]--;
        break;
    case 3: {
        int64_t t = e->range[0];
        e->range[0] = e->range[1];
        e->range[1] = t;
        break;
    }
    case 4:
        e->type = (e->type + 1) % 5 == 2 ? 3 : (e->type + 1) % 5; /* F16 and BF16 have one size */
        break;
    case 5:
        e->rank = e->rank < 3 ? e->rank + 1 : 3;
        e->shape[e->rank - 1] = e->shape[e->rank - 1] * 2 + 2;
        break;
    case 6:
        *extra = 1;
        break;
    case 7:
        *extra = -1;
        break;
    default:
        for (int k = 0; k < 2; k++)
            e->range[k] += m->total; /* a hole where it was, or at the start */
    }
}

static void any_one_broken_rule_is_refused(void **state) {
    (void)state;
    struct buf h = {0}, b = {0};
    FOR_SEEDS(300) {
        struct rng r;
        struct made m;
        struct tensors ts;
        struct err err = {0};
        rng_seed(&r, seed);
        random_file(&m, &r);
        print_file(&m, &h);
        make(&b, buf_str(&h), h.len, (size_t)m.total);
        if (parse(&b, &ts, &err))
            fail_msg("seed %llu: %s: %s", (unsigned long long)seed, buf_str(&h), err.msg);
        assert_int_equal(ts.n, m.n);
        for (int i = 0; i < m.n; i++) {
            const struct tensor *t = tensors_find(&ts, m.e[i].name);
            assert_non_null(t);
            assert_int_equal(t->bytes, m.e[i].range[1] - m.e[i].range[0]);
            assert_int_equal(*(const uint8_t *)t->data, (uint8_t)m.e[i].range[0]);
        }
        done(&ts);
        for (int which = 0; which < N_MUTATION; which++) {
            struct made bad = m;
            int extra = 0;
            mutate(&bad, which, &r, &extra);
            print_file(&bad, &h);
            make(&b, buf_str(&h), h.len, (size_t)(m.total + extra));
            err = (struct err){0};
            if (parse(&b, &ts, &err) == 0)
                fail_msg("seed %llu, mutation %d accepted: %s", (unsigned long long)seed, which,
                         buf_str(&h));
            assert_int_equal(err.code, E_FORMAT);
        }
    }
    buf_free(&h);
    buf_free(&b);
}

/* --- folders --------------------------------------------------------------------------------- */

static char dir[64];

static int temp_dir(void **state) {
    (void)state;
    strcpy(dir, "/tmp/pumice-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    char cmd[128];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

static const char *in_dir(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put_file(const char *name, const char *text) {
    struct err err = {0};
    assert_ok(file_write(in_dir(name), text, strlen(text), &err), err);
}

static void put_shard(const char *file, const char *tensor, float value) {
    struct tensor t = {
        .name = tensor, .type = DT_F32, .rank = 1, .shape = {1}, .data = &value, .bytes = 4};
    struct err err = {0};
    assert_ok(safetensors_write(in_dir(file), &t, 1, &err), err);
}

static void what_is_written_is_read_back(void **state) {
    (void)state;
    static const uint16_t half[6] = {1, 2, 3, 4, 5, 6};
    static const float one[3] = {1.5f, -2, 1e30f};
    struct tensor t[2] = {
        {.name = "x \"y\"\n",
         .type = DT_BF16,
         .rank = 2,
         .shape = {2, 3},
         .data = half,
         .bytes = 12},
        {.name = "b", .type = DT_F32, .rank = 1, .shape = {3}, .data = one, .bytes = 12},
    };
    struct tensors ts;
    struct err err = {0};
    assert_ok(safetensors_write(in_dir("w.safetensors"), t, 2, &err), err);
    assert_ok(safetensors_open(&ts, in_dir("w.safetensors"), &err), err);
    assert_int_equal(ts.n, 2);
    for (int i = 0; i < 2; i++) {
        const struct tensor *r = tensors_find(&ts, t[i].name);
        assert_non_null(r);
        assert_true(r->type == t[i].type && r->rank == t[i].rank && r->bytes == t[i].bytes);
        assert_memory_equal(r->shape, t[i].shape, (size_t)r->rank * sizeof *r->shape);
        assert_memory_equal(r->data, t[i].data, r->bytes);
    }
    tensors_close(&ts);
    assert_int_equal(safetensors_write("/nonexistent/dir/x", t, 2, &err), -1);
    assert_int_equal(err.code, E_IO);
}

static void shards_become_one_table(void **state) {
    (void)state;
    struct tensors ts;
    struct err err = {0};
    put_shard("one.safetensors", "a", 1);
    put_shard("two.safetensors", "b", 2);
    put_file("model.safetensors.index.json",
             "{\"metadata\":{},\"weight_map\":{\"b\":\"two.safetensors\","
             "\"a\":\"one.safetensors\"}}");
    assert_ok(safetensors_open_dir(&ts, dir, &err), err);
    assert_int_equal(ts.n, 2);
    assert_true(*(const float *)tensors_find(&ts, "a")->data == 1);
    assert_true(*(const float *)tensors_find(&ts, "b")->data == 2);
    tensors_close(&ts);
}

static void bad_shard_indexes_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *index;
        enum errc code;
        const char *says;
    } bad[] = {
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", E_FORMAT,
         "'../one.safetensors' is not a plain"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\\u0000\"}}", E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":7}}", E_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"a\":\"three.safetensors\"}}", E_IO, "three.safetensors"},
        {"{\"weight_map\":{\"b\":\"one.safetensors\"}}", E_FORMAT, "'b' is not in one.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"also-a.safetensors\"}}", E_FORMAT,
         "'c' is not in also-a.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"d\":\"a-and-d.safetensors\"}}", E_FORMAT,
         "'a' is in more than one shard"},
        {"{\"weight_map\":{\"a\":\"broken.safetensors\"}}", E_FORMAT,
         "broken.safetensors: header length"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}", E_FORMAT,
         "duplicate"},
        {"{\"weight_map\":{}}", E_FORMAT, "weight_map is empty"},
        {"{\"weight_map\":[]}", E_FORMAT, "weight_map must be an object"},
        {"{}", E_FORMAT, "weight_map must be an object"},
        {"{", E_FORMAT, "JSON"},
    };
    float v[2] = {1, 2};
    struct tensor two[2] = {
        {.name = "a", .type = DT_F32, .rank = 1, .shape = {1}, .data = v, .bytes = 4},
        {.name = "d", .type = DT_F32, .rank = 1, .shape = {1}, .data = v, .bytes = 4}};
    struct err none = {0};
    put_shard("one.safetensors", "a", 1);
    put_shard("also-a.safetensors", "a", 1);
    put_file("broken.safetensors", "xyz");
    assert_ok(safetensors_write(in_dir("a-and-d.safetensors"), two, 2, &none), none);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tensors ts;
        struct err err = {0};
        put_file("model.safetensors.index.json", bad[i].index);
        if (safetensors_open_dir(&ts, dir, &err) == 0)
            fail_msg("accepted: %s", bad[i].index);
        assert_int_equal(err.code, bad[i].code);
        if (!strstr(err.msg, bad[i].says))
            fail_msg("%s: the message does not say '%s': %s", bad[i].index, bad[i].says, err.msg);
        assert_null(ts.t);
    }
}

static void an_empty_folder_is_named(void **state) {
    (void)state;
    struct tensors ts;
    struct err err = {0};
    assert_int_equal(safetensors_open_dir(&ts, dir, &err), -1);
    assert_non_null(strstr(err.msg, "no model.safetensors"));
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, temp_dir, remove_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_length_costs_no_time_and_no_memory),
        cmocka_unit_test(bad_headers_are_refused_with_tensor_and_reason),
        cmocka_unit_test(odd_but_valid_headers_are_accepted),
        cmocka_unit_test(names_and_counts_are_capped),
        cmocka_unit_test(fifty_times_the_tensors_take_no_more_than_a_few_times_fifty),
        cmocka_unit_test(more_than_200000_tensors_are_refused),
        cmocka_unit_test(a_header_full_of_values_is_refused_unparsed),
        cmocka_unit_test(any_one_broken_rule_is_refused),
        IN_DIR(what_is_written_is_read_back),
        IN_DIR(shards_become_one_table),
        IN_DIR(bad_shard_indexes_are_refused),
        IN_DIR(an_empty_folder_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
