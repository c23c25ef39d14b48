/* gguf.c - the GGUF container: a file or a split set, to a checked table of key-values and tensors.
 *
 *   offset 0   "GGUF"; u32 version 2 or 3; u64 number of tensors; u64 number of key-values
 *          24  key-values: string key, u32 type, value
 *              tensor infos: string name, u32 n_dims, u64 dims[n_dims] (innermost first), u32 type,
 *              u64 offset
 *              padding to the alignment; then the data, from where the offsets count
 *   string: u64 length, bytes.   array: u32 element type, u64 count, elements.   All little endian.
 *
 * Invariants of an open file: (1) every key-value and tensor info lies inside the file and has a
 * known type, so a later reader walks them without checks; (2) keys are unique and kv[] is sorted
 * by key; (3) tensors are unique, aligned, inside the file and do not overlap.
 * Memory: the checks need 16 bytes for a key-value (14 bytes of the file or more) and 40 for a
 * tensor (33 or more); the table of tensors is allocated only after all of them have passed.
 * docs/formats.md has the rules. */
#include "model/gguf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "model/gguf_kv.h"

#define MAX_KV 65536
#define MAX_TENSORS 65536
#define MAX_NAME 256 /* of keys and of tensors; real ones stay below 64 */
#define MAX_STR ((uint64_t)16 << 20)
#define MAX_ARR ((uint64_t)16 << 20)
#define MAX_ALIGN 65536
#define MAX_DIMS 4
#define MAX_PARTS 1024
#define HEADER 24
#define MIN_KV (8 + 1 + 4 + 1)             /* key of one byte, value of one byte */
#define MIN_TENSOR (8 + 1 + 4 + 8 + 4 + 8) /* name of one byte, one dimension    */

#define KV_AT 24

/* One file.  kv and tensor hold positions in the file. */
struct part {
    const uint8_t *data;
    size_t size;
    const char *path; /* borrowed */
    uint64_t n_kv, n_tensor;
    uint64_t *kv;     /* owned; sorted by key    */
    uint64_t *tensor; /* owned; sorted by offset */
    uint64_t align, data_at;
    uint64_t kv_end; /* they begin at KV_AT */
};

struct gguf {
    struct part part; /* the first, whose key-values count */
    struct tensors ts;
};

static const struct value_type {
    const char *name;
    int bytes; /* least size of a value */
} value_types[GGUF_TYPES] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},    {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 8}, {"array", 12}, {"u64", 8}, {"i64", 8}, {"f64", 8},
};

/* By the format's type number.  bytes 0: known by name only. */
static const struct tensor_type {
    const char *name;
    enum dtype type;
    int block, bytes;
} tensor_types[] = {
    [0] = {"F32", DT_F32, 1, 4},        [1] = {"F16", DT_F16, 1, 2},
    [2] = {"Q4_0", DT_Q4_0, 32, 18},    [3] = {"Q4_1", DT_Q4_1, 32, 20},
    [4] = {"Q4_2", DT_NONE, 0, 0},      [5] = {"Q4_3", DT_NONE, 0, 0},
    [6] = {"Q5_0", DT_Q5_0, 32, 22},    [7] = {"Q5_1", DT_Q5_1, 32, 24},
    [8] = {"Q8_0", DT_Q8_0, 32, 34},    [9] = {"Q8_1", DT_NONE, 0, 0},
    [10] = {"Q2_K", DT_NONE, 0, 0},     [11] = {"Q3_K", DT_NONE, 0, 0},
    [12] = {"Q4_K", DT_Q4_K, 256, 144}, [13] = {"Q5_K", DT_Q5_K, 256, 176},
    [14] = {"Q6_K", DT_Q6_K, 256, 210}, [15] = {"Q8_K", DT_NONE, 0, 0},
    [16] = {"IQ2_XXS", DT_NONE, 0, 0},  [17] = {"IQ2_XS", DT_NONE, 0, 0},
    [18] = {"IQ3_XXS", DT_NONE, 0, 0},  [19] = {"IQ1_S", DT_NONE, 0, 0},
    [20] = {"IQ4_NL", DT_NONE, 0, 0},   [21] = {"IQ3_S", DT_NONE, 0, 0},
    [22] = {"IQ2_S", DT_NONE, 0, 0},    [23] = {"IQ4_XS", DT_NONE, 0, 0},
    [24] = {"I8", DT_NONE, 1, 1},       [25] = {"I16", DT_NONE, 1, 2},
    [26] = {"I32", DT_NONE, 1, 4},      [27] = {"I64", DT_NONE, 1, 8},
    [28] = {"F64", DT_NONE, 1, 8},      [29] = {"IQ1_M", DT_NONE, 0, 0},
    [30] = {"BF16", DT_BF16, 1, 2},     [34] = {"TQ1_0", DT_NONE, 0, 0},
    [35] = {"TQ2_0", DT_NONE, 0, 0},    [39] = {"MXFP4", DT_NONE, 0, 0},
};
#define N_TENSOR_TYPE (sizeof tensor_types / sizeof *tensor_types)
#define SUPPORTED "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K"

uint64_t gguf_load(const uint8_t *p, int n_bytes) {
    uint64_t v = 0;
    memcpy(&v, p, (size_t)n_bytes); /* the host is little endian, as the file */
    return v;
}

struct text {
    const char *s;
    size_t n;
};

/* The string at a position, of which its length is known to be right. */
static struct text text_at(const struct part *p, uint64_t at) {
    return (struct text){(const char *)p->data + at + 8, (size_t)gguf_load(p->data + at, 8)};
}

/* --- Walking an unchecked file: only these functions see bytes that are not validated. --- */

struct cursor {
    const struct part *part;
    uint64_t at;      /* <= part->size */
    const char *kind; /* of what is being read, and its name once that is known, for messages */
    struct text name;
    struct err *err;
};

/* Always -1. */
static int fail(const struct cursor *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int fail(const struct cursor *c, const char *fmt, ...) {
    char reason[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(reason, sizeof reason, fmt, ap);
    va_end(ap);
    if (!c->name.s)
        return err_set(c->err, E_FORMAT, "%s: %s: %s", c->part->path, c->kind, reason);
    return err_set(c->err, E_FORMAT, "%s: %s '%.*s': %s", c->part->path, c->kind, (int)c->name.n,
                   c->name.s, reason);
}

static uint64_t left(const struct cursor *c) {
    return c->part->size - c->at;
}

static int take(struct cursor *c, int n_bytes, uint64_t *out) {
    if (left(c) < (uint64_t)n_bytes)
        return fail(c, "the file ends inside it, at byte %zu", c->part->size);
    *out = gguf_load(c->part->data + c->at, n_bytes);
    c->at += (uint64_t)n_bytes;
    return 0;
}

/* Steps over a string of at most max bytes. */
static int take_str(struct cursor *c, uint64_t max) {
    uint64_t len = 0;
    if (take(c, 8, &len))
        return -1;
    if (len > max)
        return fail(c, "string of %llu bytes, limit %llu", (unsigned long long)len,
                    (unsigned long long)max);
    if (len > left(c))
        return fail(c, "string of %llu bytes, but the file has %llu left", (unsigned long long)len,
                    (unsigned long long)left(c));
    c->at += len;
    return 0;
}

/* The name that begins an entry; a kind that is "key" or "tensor" goes into messages. */
static int take_name(struct cursor *c, const char *kind) {
    uint64_t at = c->at;
    struct text name;
    c->kind = kind;
    c->name = (struct text){0};
    if (take_str(c, MAX_NAME))
        return -1;
    name = text_at(c->part, at);
    if (name.n == 0 || memchr(name.s, 0, name.n))
        return fail(c, "name at byte %llu %s", (unsigned long long)at,
                    name.n ? "has a NUL byte" : "is empty");
    c->name = name;
    return 0;
}

static int walk_array(struct cursor *c) {
    uint64_t elem = 0, n = 0, skip;
    if (take(c, 4, &elem) || take(c, 8, &n))
        return -1;
    if (elem == GGUF_ARR)
        return fail(c, "arrays of arrays are not supported");
    if (elem >= GGUF_TYPES)
        return fail(c, "unknown element type %llu", (unsigned long long)elem);
    if (n > MAX_ARR)
        return fail(c, "array of %llu elements, limit %llu", (unsigned long long)n,
                    (unsigned long long)MAX_ARR);
    skip = n * (uint64_t)value_types[elem].bytes; /* at most 2^27 */
    if (skip > left(c))
        return fail(c, "array of %llu elements of %s, but the file has %llu bytes left",
                    (unsigned long long)n, value_types[elem].name, (unsigned long long)left(c));
    if (elem != GGUF_STR) {
        c->at += skip;
        return 0;
    }
    for (uint64_t i = 0; i < n; i++)
        if (take_str(c, MAX_STR))
            return -1;
    return 0;
}

static int walk_kv(struct cursor *c) {
    uint64_t type = 0, v;
    if (take_name(c, "key") || take(c, 4, &type))
        return -1;
    if (type >= GGUF_TYPES)
        return fail(c, "unknown value type %llu", (unsigned long long)type);
    if (type == GGUF_ARR)
        return walk_array(c);
    if (type == GGUF_STR)
        return take_str(c, MAX_STR);
    return take(c, value_types[type].bytes, &v);
}

/* Bytes of a tensor, or an error naming what is wrong with its type or shape. */
static int tensor_bytes(const struct cursor *c, uint64_t type, const uint64_t *dim, int n_dim,
                        size_t *bytes) {
    const struct tensor_type *t = type < N_TENSOR_TYPE ? &tensor_types[type] : NULL;
    if (!t || !t->name)
        return fail(c, "unknown type %llu (supported: %s)", (unsigned long long)type, SUPPORTED);
    if (!t->bytes)
        return fail(c, "type %s not supported (supported: %s)", t->name, SUPPORTED);
    if (dim[0] % (uint64_t)t->block)
        return fail(c, "rows of %llu elements are not a multiple of the %s block of %d",
                    (unsigned long long)dim[0], t->name, t->block);
    size_t n = (size_t)dim[0];
    bool fits = true;
    for (int i = 1; i < n_dim; i++)
        fits = fits && size_mul(n, (size_t)dim[i], &n);
    fits = fits && n <= INT64_MAX;
    if (!fits || !size_mul(n / (size_t)t->block, (size_t)t->bytes, bytes))
        return fail(c, "product of the dimensions overflows");
    return 0;
}

/* A tensor info up to its end; sizes only, since where the data begins is known after the last
 * one. */
static int walk_tensor(struct cursor *c) {
    uint64_t n_dim = 0, dim[MAX_DIMS] = {0}, type = 0, offset;
    size_t bytes;
    if (take_name(c, "tensor") || take(c, 4, &n_dim))
        return -1;
    if (n_dim < 1 || n_dim > MAX_DIMS)
        return fail(c, "%llu dimensions, not 1..%d", (unsigned long long)n_dim, MAX_DIMS);
    for (int i = 0; i < (int)n_dim; i++) {
        if (take(c, 8, &dim[i]))
            return -1;
        if (dim[i] == 0 || dim[i] > INT64_MAX)
            return fail(c, "dimension %d is %lld, must be positive", i, (long long)dim[i]);
    }
    if (take(c, 4, &type) || take(c, 8, &offset))
        return -1;
    return tensor_bytes(c, type, dim, (int)n_dim, &bytes);
}

/* --- Reading what has been walked: no checks needed. --- */

struct info {
    struct text name;
    const struct tensor_type *type;
    int n_dim;
    int64_t dim[MAX_DIMS]; /* innermost first, as in the file */
    uint64_t offset;
    size_t bytes;
};

static struct info info_at(const struct part *p, uint64_t at) {
    struct info f = {.name = text_at(p, at)};
    const uint8_t *q = (const uint8_t *)f.name.s + f.name.n;
    size_t n = 1;
    f.n_dim = (int)gguf_load(q, 4);
    q += 4;
    for (int i = 0; i < f.n_dim; i++, q += 8) {
        f.dim[i] = (int64_t)gguf_load(q, 8);
        n *= (size_t)f.dim[i];
    }
    f.type = &tensor_types[gguf_load(q, 4)];
    f.offset = gguf_load(q + 4, 8);
    f.bytes = n / (size_t)f.type->block * (size_t)f.type->bytes;
    return f;
}

static int text_cmp(struct text a, struct text b) {
    int d = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n);
    return d ? d : (a.n > b.n) - (a.n < b.n);
}

static int by_text(const void *a, const void *b, void *part) {
    return text_cmp(text_at(part, *(const uint64_t *)a), text_at(part, *(const uint64_t *)b));
}

/* A tensor's data, and where its info stands: sorted without a look at the file. */
struct place {
    uint64_t offset, at;
};

static int by_offset(const void *a, const void *b) {
    uint64_t x = ((const struct place *)a)->offset, y = ((const struct place *)b)->offset;
    return (x > y) - (x < y);
}

/* Sorts positions by the string that stands there; two equal ones are an error. */
static int sort_unique(struct part *p, uint64_t *at, uint64_t n, const char *what,
                       struct err *err) {
    qsort_r(at, (size_t)n, sizeof *at, by_text, p);
    for (uint64_t i = 1; i < n; i++) {
        struct text t = text_at(p, at[i]);
        if (text_cmp(text_at(p, at[i - 1]), t) == 0)
            return err_set(err, E_FORMAT, "%s: %s '%.*s' occurs twice", p->path, what, (int)t.n,
                           t.s);
    }
    return 0;
}

static bool part_find(const struct part *p, const char *key, struct gguf_value *v) {
    struct text want = {key, strlen(key)};
    uint64_t lo = 0, hi = p->n_kv;
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        struct text t = text_at(p, p->kv[mid]);
        int d = text_cmp(t, want);
        if (d == 0) {
            const uint8_t *q = (const uint8_t *)t.s + t.n;
            *v = (struct gguf_value){(enum gguf_type)gguf_load(q, 4), GGUF_TYPES, 1, q + 4};
            if (v->type == GGUF_ARR)
                *v = (struct gguf_value){GGUF_ARR, (enum gguf_type)gguf_load(q + 4, 4),
                                         gguf_load(q + 8, 8), q + 16};
            if (v->type == GGUF_STR)
                *v = (struct gguf_value){GGUF_STR, GGUF_TYPES, gguf_load(q + 4, 8), q + 12};
            return true;
        }
        if (d < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return false;
}

/* The value as an integer, if its type is one and it fits. */
static bool as_int(const struct gguf_value *v, int64_t *out) {
    switch (v->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        *out = (int64_t)gguf_load(v->data, value_types[v->type].bytes);
        return *out >= 0;
    case GGUF_I8:
        *out = (int8_t)gguf_load(v->data, 1);
        return true;
    case GGUF_I16:
        *out = (int16_t)gguf_load(v->data, 2);
        return true;
    case GGUF_I32:
        *out = (int32_t)gguf_load(v->data, 4);
        return true;
    case GGUF_I64:
        *out = (int64_t)gguf_load(v->data, 8);
        return true;
    default:
        return false;
    }
}

static bool is_int(enum gguf_type t) {
    return t <= GGUF_I32 || t == GGUF_U64 || t == GGUF_I64;
}

static int part_int(const struct part *p, const char *key, int64_t lo, int64_t hi, int64_t *out,
                    struct err *err) {
    struct gguf_value v;
    int64_t x = 0;
    if (!part_find(p, key, &v))
        return 0;
    if (!is_int(v.type))
        return err_set(err, E_FORMAT, "%s: %s must be an integer, is %s", p->path, key,
                       value_types[v.type].name);
    if (!as_int(&v, &x))
        return err_set(err, E_FORMAT, "%s: %s is %llu, not in %lld..%lld", p->path, key,
                       (unsigned long long)x, (long long)lo, (long long)hi);
    if (x < lo || x > hi)
        return err_set(err, E_FORMAT, "%s: %s is %lld, not in %lld..%lld", p->path, key,
                       (long long)x, (long long)lo, (long long)hi);
    *out = x;
    return 0;
}

/* --- One file --- */

static int read_header(struct cursor *c, struct part *p) {
    static const uint8_t magic[4] = "GGUF", reversed[4] = "FUGG";
    uint64_t version = 0;
    if (p->size < HEADER)
        return err_set(c->err, E_FORMAT, "%s: magic: file of %zu bytes is not a GGUF file", p->path,
                       p->size);
    if (memcmp(p->data, reversed, 4) == 0)
        return err_set(c->err, E_FORMAT, "%s: magic: big-endian GGUF is not supported", p->path);
    if (memcmp(p->data, magic, 4) != 0)
        return err_set(c->err, E_FORMAT,
                       "%s: magic: not a GGUF file (starts with %02x %02x %02x %02x)", p->path,
                       p->data[0], p->data[1], p->data[2], p->data[3]);
    c->at = 4;
    if (take(c, 4, &version) || take(c, 8, &p->n_tensor) || take(c, 8, &p->n_kv))
        return -1;
    if (version && version % 65536 == 0)
        return err_set(c->err, E_FORMAT, "%s: version: big-endian GGUF is not supported", p->path);
    if (version != 2 && version != 3)
        return err_set(c->err, E_FORMAT, "%s: version: %llu not supported (supported: 2, 3)",
                       p->path, (unsigned long long)version);
    if (p->n_tensor > MAX_TENSORS || p->n_tensor > left(c) / MIN_TENSOR)
        return err_set(c->err, E_FORMAT, "%s: number of tensors: %llu, limit %d and room for %llu",
                       p->path, (unsigned long long)p->n_tensor, MAX_TENSORS,
                       (unsigned long long)(left(c) / MIN_TENSOR));
    if (p->n_kv > MAX_KV || p->n_kv > left(c) / MIN_KV)
        return err_set(c->err, E_FORMAT, "%s: number of keys: %llu, limit %d and room for %llu",
                       p->path, (unsigned long long)p->n_kv, MAX_KV,
                       (unsigned long long)(left(c) / MIN_KV));
    return 0;
}

static int read_alignment(struct part *p, struct err *err) {
    static const char key[] = "general.alignment";
    struct gguf_value v;
    p->align = 32;
    if (!part_find(p, key, &v))
        return 0;
    if (v.type != GGUF_U32)
        return err_set(err, E_FORMAT, "%s: %s must be u32, is %s", p->path, key,
                       value_types[v.type].name);
    p->align = gguf_load(v.data, 4);
    if (p->align == 0 || p->align > MAX_ALIGN || (p->align & (p->align - 1)))
        return err_set(err, E_FORMAT, "%s: %s is %llu, not a power of two in 1..%d", p->path, key,
                       (unsigned long long)p->align, MAX_ALIGN);
    return 0;
}

/* The tensor that stands at `at` is aligned and inside the file. */
static int check_place(const struct part *p, uint64_t at, struct place *place, struct err *err) {
    uint64_t room = p->size > p->data_at ? p->size - p->data_at : 0;
    struct info f = info_at(p, at);
    if (f.offset % p->align)
        return err_set(err, E_FORMAT, "%s: tensor '%.*s': offset %llu is not aligned to %llu",
                       p->path, (int)f.name.n, f.name.s, (unsigned long long)f.offset,
                       (unsigned long long)p->align);
    if (f.offset > room || f.bytes > room - f.offset)
        return err_set(err, E_FORMAT,
                       "%s: tensor '%.*s': %zu bytes at offset %llu reach beyond the end of the "
                       "file (%llu bytes of data)",
                       p->path, (int)f.name.n, f.name.s, f.bytes, (unsigned long long)f.offset,
                       (unsigned long long)room);
    *place = (struct place){f.offset, at};
    return 0;
}

/* Every tensor inside the file, none over another.  Leaves p->tensor sorted by offset. */
static int check_layout(struct part *p, struct err *err) {
    struct place *place = mem_array((size_t)p->n_tensor, sizeof *place);
    uint64_t end = 0;
    int rc = -1;
    for (uint64_t i = 0; i < p->n_tensor; i++)
        if (check_place(p, p->tensor[i], &place[i], err))
            goto out;
    qsort(place, (size_t)p->n_tensor, sizeof *place, by_offset);
    for (uint64_t i = 0; i < p->n_tensor; i++) {
        struct info f = info_at(p, place[i].at);
        if (f.offset < end) {
            struct text before = text_at(p, place[i - 1].at);
            err_set(err, E_FORMAT, "%s: tensor '%.*s' at offset %llu overlaps tensor '%.*s'",
                    p->path, (int)f.name.n, f.name.s, (unsigned long long)f.offset, (int)before.n,
                    before.s);
            goto out;
        }
        end = f.offset + f.bytes;
        p->tensor[i] = place[i].at;
    }
    rc = 0;
out:
    free(place);
    return rc;
}

static void part_free(struct part *p) {
    free(p->kv);
    free(p->tensor);
    p->kv = p->tensor = NULL;
}

/* p->data, size and path are set; on failure the caller still calls part_free. */
static int part_parse(struct part *p, struct err *err) {
    struct cursor c = {.part = p, .kind = "header", .err = err};
    if (read_header(&c, p))
        return -1;
    /* The counts passed the room check: 8 bytes each for at least MIN_KV bytes of file. */
    p->kv = mem_array((size_t)p->n_kv, sizeof *p->kv);
    for (uint64_t i = 0; i < p->n_kv; i++) {
        p->kv[i] = c.at;
        if (walk_kv(&c))
            return -1;
    }
    p->kv_end = c.at;
    if (sort_unique(p, p->kv, p->n_kv, "key", err) || read_alignment(p, err))
        return -1;
    p->tensor = mem_array((size_t)p->n_tensor, sizeof *p->tensor);
    for (uint64_t i = 0; i < p->n_tensor; i++) {
        p->tensor[i] = c.at;
        if (walk_tensor(&c))
            return -1;
    }
    /* at <= size of an object in memory, so the sum cannot wrap */
    p->data_at = (c.at + p->align - 1) / p->align * p->align;
    if (sort_unique(p, p->tensor, p->n_tensor, "tensor", err))
        return -1;
    return check_layout(p, err);
}

/* --- The table of tensors --- */

static struct tensor make_tensor(const struct part *p, const struct info *f, const char *name) {
    struct tensor t = {.name = name, .type = f->type->type, .type_name = f->type->name};
    t.rank = f->n_dim;
    for (int i = 0; i < f->n_dim; i++)
        t.shape[i] = f->dim[f->n_dim - 1 - i];
    t.data = p->data + p->data_at + f->offset;
    t.bytes = f->bytes;
    return t;
}

/* Adds the tensors of n checked files; only a name in two files can still fail. */
static int build_table(struct tensors *ts, const struct part *part, int n_part, struct err *err) {
    size_t total = 0, names = 0;
    for (int k = 0; k < n_part; k++) {
        total += (size_t)part[k].n_tensor;
        for (uint64_t i = 0; i < part[k].n_tensor; i++)
            names += text_at(&part[k], part[k].tensor[i]).n + 1;
    }
    if (total > MAX_TENSORS)
        return err_set(err, E_FORMAT, "%s: %zu tensors in all parts, limit %d", part[0].path, total,
                       MAX_TENSORS);
    ts->t = mem_array(total, sizeof *ts->t);
    ts->names = mem_new(names);
    ts->by_name = map_new(total);
    char *name = ts->names;
    for (int k = 0; k < n_part; k++)
        for (uint64_t i = 0; i < part[k].n_tensor; i++) {
            struct info f = info_at(&part[k], part[k].tensor[i]);
            memcpy(name, f.name.s, f.name.n); /* zeroed memory ends it */
            if (map_put(ts->by_name, name, f.name.n, ts->n) != ts->n)
                return err_set(err, E_FORMAT, "%s: tensor '%s' is also in another part",
                               part[k].path, name);
            ts->t[ts->n++] = make_tensor(&part[k], &f, name);
            name += f.name.n + 1;
        }
    return 0;
}

/* --- Split sets: NAME-00001-of-00003.gguf holds the keys, every part its own tensors --- */

struct split {
    int64_t no, count, n_tensor; /* count 0: not a split file; n_tensor -1: not told */
};

static int read_split(const struct part *p, struct split *s, struct err *err) {
    *s = (struct split){0, 0, -1};
    if (part_int(p, "split.count", 0, MAX_PARTS, &s->count, err) ||
        part_int(p, "split.no", 0, MAX_PARTS - 1, &s->no, err) ||
        part_int(p, "split.tensors.count", 0, MAX_TENSORS, &s->n_tensor, err))
        return -1;
    if (s->count && s->no >= s->count)
        return err_set(err, E_FORMAT, "%s: split.no is %lld, but split.count is %lld", p->path,
                       (long long)s->no, (long long)s->count);
    return 0;
}

/* The path of part no (from 0) beside `path`, whose name must end as that of part `own`; owned. */
static char *split_path(const char *path, int64_t own, int64_t no, int64_t count, struct err *err) {
    char tail[40];
    struct buf b = {0};
    snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", (int)own + 1, (int)count);
    size_t n = strlen(path), n_tail = strlen(tail);
    if (n < n_tail || strcmp(path + n - n_tail, tail) != 0) {
        err_set(err, E_FORMAT, "%s: split.no: the name of part %d of %d must end in '%s'", path,
                (int)own + 1, (int)count, tail);
        return NULL;
    }
    buf_add(&b, path, n - n_tail);
    buf_printf(&b, "-%05d-of-%05d.gguf", (int)no + 1, (int)count);
    buf_str(&b);
    return b.data;
}

/* Opens and checks part no of the set that `first` begins; the mapping goes to *f. */
static int open_sibling(struct part *p, struct file *f, const char *first, int no, int count,
                        struct err *err) {
    struct split s;
    char *path = split_path(first, 0, no, count, err);
    int rc = -1;
    if (!path)
        return -1;
    p->path = first; /* until the path below is known to outlive the part */
    if (!file_exists(path)) {
        err_set(err, E_FORMAT, "%s: split.count: part %d of %d is missing: no %s", first, no + 1,
                count, path);
        goto out;
    }
    if (file_open(f, path, err))
        goto out;
    *p = (struct part){.data = f->data, .size = f->size, .path = path};
    if (part_parse(p, err) || read_split(p, &s, err))
        goto out;
    if (s.count != count || s.no != no) {
        err_set(err, E_FORMAT, "%s: split.no, split.count: says part %lld of %lld, not %d of %d",
                path, (long long)s.no + 1, (long long)s.count, no + 1, count);
        goto out;
    }
    rc = 0;
out:
    p->path = first;
    free(path);
    return rc;
}

static int open_set(struct gguf *g, const struct split *s, struct err *err) {
    int rc = -1, n = (int)s->count;
    struct part *part = mem_array((size_t)n, sizeof *part);
    part[0] = g->part;
    g->ts.file = mem_resize(g->ts.file, (size_t)n, sizeof *g->ts.file);
    for (; g->ts.n_file < n; g->ts.n_file++) {
        struct file *f = &g->ts.file[g->ts.n_file];
        *f = (struct file){0};
        if (open_sibling(&part[g->ts.n_file], f, g->ts.path, g->ts.n_file, n, err)) {
            file_close(f);
            goto out;
        }
    }
    if (build_table(&g->ts, part, n, err))
        goto out;
    if (s->n_tensor >= 0 && s->n_tensor != g->ts.n) {
        err_set(err, E_FORMAT, "%s: split.tensors.count is %lld, but the parts have %d", g->ts.path,
                (long long)s->n_tensor, g->ts.n);
        goto out;
    }
    rc = 0;
out:
    for (int i = 1; i < n; i++)
        part_free(&part[i]);
    free(part);
    return rc;
}

/* --- Open and close --- */

static struct gguf *gguf_new(const char *path, const void *data, size_t size) {
    struct gguf *g = mem_new(sizeof *g);
    g->ts.path = mem_strdup(path);
    g->part = (struct part){.data = data, .size = size, .path = g->ts.path};
    return g;
}

struct gguf *gguf_parse(const char *path, const void *data, size_t size, struct err *err) {
    struct gguf *g = gguf_new(path, data, size);
    struct split s;
    if (part_parse(&g->part, err) || read_split(&g->part, &s, err))
        goto fail;
    if (s.count > 1) {
        err_set(err, E_FORMAT, "%s: split.count is %lld: one part of a set cannot be read alone",
                path, (long long)s.count);
        goto fail;
    }
    if (build_table(&g->ts, &g->part, 1, err) == 0)
        return g;
fail:
    gguf_close(g);
    return NULL;
}

struct gguf *gguf_open(const char *path, struct err *err) {
    struct file f = {0};
    struct split s;
    char *first = NULL;
    if (file_open(&f, path, err))
        return NULL;
    struct gguf *g = gguf_new(path, f.data, f.size);
    g->ts.file = mem_new(sizeof f);
    g->ts.file[0] = f;
    g->ts.n_file = 1;
    if (part_parse(&g->part, err) || read_split(&g->part, &s, err))
        goto fail;
    if (s.count > 1 && s.no > 0) {
        first = split_path(path, s.no, 0, s.count, err);
        if (first)
            err_set(err, E_FORMAT, "%s: split.no: this is part %lld of %lld; open %s instead", path,
                    (long long)s.no + 1, (long long)s.count, first);
        goto fail;
    }
    if (s.count > 1 ? open_set(g, &s, err) : build_table(&g->ts, &g->part, 1, err))
        goto fail;
    return g;
fail:
    free(first);
    gguf_close(g);
    return NULL;
}

uint64_t gguf_copy_pairs(const struct gguf *g, uint32_t file_type, struct buf *b) {
    struct cursor c = {.part = &g->part, .at = KV_AT};
    uint64_t n = 0;
    while (c.at < g->part.kv_end) {
        uint64_t at = c.at;
        if (walk_kv(&c)) /* it has been walked before: it cannot fail */
            abort();
        if (c.name.n > 6 && memcmp(c.name.s, "split.", 6) == 0)
            continue;
        buf_add(b, g->part.data + at, (size_t)(c.at - at));
        const uint8_t *value = g->part.data + c.at - 4;
        bool is_type = c.name.n == 17 && memcmp(c.name.s, "general.file_type", 17) == 0;
        if (is_type && gguf_load(value - 4, 4) == GGUF_U32)
            memcpy(b->data + b->len - 4, &file_type, 4); /* the host is little endian */
        n++;
    }
    return n;
}

void gguf_close(struct gguf *g) {
    if (!g)
        return;
    part_free(&g->part);
    tensors_close(&g->ts);
    free(g);
}

struct tensors *gguf_tensors(struct gguf *g) {
    return &g->ts;
}

/* --- Getters --- */

const char *gguf_path(const struct gguf *g) {
    return g->ts.path;
}

bool gguf_find(const struct gguf *g, const char *key, struct gguf_value *v) {
    return part_find(&g->part, key, v);
}

int gguf_int(const struct gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out,
             struct err *err) {
    return part_int(&g->part, key, lo, hi, out, err);
}

static int wrong_type(const struct gguf *g, const char *key, const char *want,
                      const struct gguf_value *v, struct err *err) {
    bool array = v->type == GGUF_ARR;
    return err_set(err, E_FORMAT, "%s: %s must be %s, is %s%s", gguf_path(g), key, want,
                   array ? "an array of " : "", value_types[array ? v->elem : v->type].name);
}

int gguf_real(const struct gguf *g, const char *key, double lo, double hi, double *out,
              struct err *err) {
    struct gguf_value v;
    float f;
    double x;
    if (!gguf_find(g, key, &v))
        return 0;
    if (v.type != GGUF_F32 && v.type != GGUF_F64)
        return wrong_type(g, key, "f32", &v, err);
    if (v.type == GGUF_F32) {
        memcpy(&f, v.data, sizeof f);
        x = f;
    } else {
        memcpy(&x, v.data, sizeof x);
    }
    if (!(x >= lo && x <= hi))
        return err_set(err, E_FORMAT, "%s: %s is %g, not in %g..%g", gguf_path(g), key, x, lo, hi);
    *out = x;
    return 0;
}

int gguf_bool(const struct gguf *g, const char *key, bool *out, struct err *err) {
    struct gguf_value v;
    if (!gguf_find(g, key, &v))
        return 0;
    if (v.type != GGUF_BOOL)
        return wrong_type(g, key, "bool", &v, err);
    if (v.data[0] > 1)
        return err_set(err, E_FORMAT, "%s: %s is %d, not a bool", gguf_path(g), key, v.data[0]);
    *out = v.data[0];
    return 0;
}

int gguf_str(const struct gguf *g, const char *key, const char **s, size_t *n, struct err *err) {
    struct gguf_value v;
    if (!gguf_find(g, key, &v))
        return 0;
    if (v.type != GGUF_STR)
        return wrong_type(g, key, "a string", &v, err);
    if (memchr(v.data, 0, (size_t)v.n))
        return err_set(err, E_FORMAT, "%s: %s has a NUL byte", gguf_path(g), key);
    *s = (const char *)v.data;
    *n = (size_t)v.n;
    return 0;
}

int gguf_array(const struct gguf *g, const char *key, enum gguf_type elem, struct gguf_value *v,
               struct err *err) {
    struct gguf_value found;
    char want[32];
    if (!gguf_find(g, key, &found))
        return 0;
    snprintf(want, sizeof want, "an array of %s", value_types[elem].name);
    if (found.type != GGUF_ARR || found.elem != elem)
        return wrong_type(g, key, want, &found, err);
    *v = found;
    return 0;
}

const char *gguf_next_str(const uint8_t **p, size_t *n) {
    const char *s = (const char *)*p + 8;
    *n = (size_t)gguf_load(*p, 8);
    *p += 8 + *n;
    return s;
}
