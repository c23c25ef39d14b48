/* quantize.c - see quantize.h.
 *
 * The key-values are copied byte for byte, but for general.file_type, which says what most tensors
 * are.  Sizes are known before anything is converted, so the header goes out first and each tensor
 * follows a few rows at a time: memory is bounded by those rows. */
#include "model/quantize.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/gguf_kv.h"
#include "num/quant.h"

#define ROOM ((size_t)1 << 20) /* bytes of floats that are converted together, or one row */

static const struct target {
    enum dtype type;
    uint32_t number, file_type; /* GGUF's tensor type and general.file_type */
} targets[] = {{DT_F32, 0, 0}, {DT_F16, 1, 1}, {DT_BF16, 30, 32}, {DT_Q4_0, 2, 2}, {DT_Q8_0, 8, 7}};
#define N_TARGET (sizeof targets / sizeof *targets)

static const struct target *target_of(enum dtype t) {
    for (size_t i = 0; i < N_TARGET; i++)
        if (targets[i].type == t)
            return &targets[i];
    return NULL;
}

struct job {
    const char *in, *out;
    struct gguf *g;
    struct tensors *ts;
    struct out *file;
    enum dtype *type; /* (ts->n) what each tensor becomes */
    size_t align;
};

static size_t tensor_bytes(const struct tensor *t, enum dtype type) {
    int64_t rows = 1;
    for (int k = 0; k + 1 < t->rank; k++)
        rows *= t->shape[k];
    return dtype_row_bytes(type, (int)t->shape[t->rank - 1]) * (size_t)rows;
}

/* Vectors and position embeddings become F32.  The matrix that makes the logits stays at 8 bits
 * where the others get 4: it is the most sensitive, and read once a token like any other. */
static enum dtype choose(const struct job *j, const struct tensor *t, enum dtype want) {
    bool tied = !tensors_find(j->ts, "output.weight");
    bool head = !strcmp(t->name, tied ? "token_embd.weight" : "output.weight");
    if (t->rank < 2 || !strcmp(t->name, "position_embd.weight"))
        return DT_F32;
    if (t->shape[t->rank - 1] % dtype_info(want)->block)
        return DT_BF16;
    return want == DT_Q4_0 && head ? DT_Q8_0 : want;
}

static int plan(struct job *j, enum dtype want, struct quantize_report *r, struct err *err) {
    j->type = mem_array((size_t)j->ts->n, sizeof *j->type);
    for (int i = 0; i < j->ts->n; i++) {
        const struct tensor *t = &j->ts->t[i];
        if (t->type == DT_NONE || t->rank < 1)
            return err_set(err, E_FORMAT, "%s: tensor '%s': type %s cannot be converted", j->in,
                           t->name, t->type_name);
        j->type[i] = choose(j, t, want);
        r->n_tensor++;
        r->n_kept += t->rank > 1 && j->type[i] == DT_BF16 && want != DT_BF16;
        r->from_bytes += t->bytes;
        r->to_bytes += tensor_bytes(t, j->type[i]);
    }
    return 0;
}

static size_t padding(size_t at, size_t align) {
    return (align - at % align) % align;
}

static void put(struct buf *b, uint64_t v, int bytes) {
    buf_add(b, &v, (size_t)bytes); /* the host is little endian, as the file */
}

/* Everything before the data; the layout is drawn in gguf.c. */
static int put_header(struct job *j, struct buf *b, uint32_t file_type, struct err *err) {
    struct gguf_value v;
    size_t n, at = 0;
    uint64_t n_kv;
    int64_t align = 32;
    const char *raw = gguf_raw(j->g, &n, &n_kv);
    if (gguf_int(j->g, "general.alignment", 1, 65536, &align, err))
        return -1;
    j->align = (size_t)align;
    buf_adds(b, "GGUF");
    put(b, 3, 4);
    put(b, (uint64_t)j->ts->n, 8);
    put(b, n_kv, 8);
    size_t kv_at = b->len;
    buf_add(b, raw, n);
    if (gguf_find(j->g, "general.file_type", &v) && v.type == GGUF_U32)
        memcpy(b->data + kv_at + ((const char *)v.data - raw), &file_type, sizeof file_type);
    for (int i = 0; i < j->ts->n; i++) {
        const struct tensor *t = &j->ts->t[i];
        put(b, strlen(t->name), 8);
        buf_adds(b, t->name);
        put(b, (uint64_t)t->rank, 4);
        for (int k = t->rank - 1; k >= 0; k--)
            put(b, (uint64_t)t->shape[k], 8);
        put(b, target_of(j->type[i])->number, 4);
        put(b, at, 8);
        size_t bytes = tensor_bytes(t, j->type[i]);
        at += bytes + padding(bytes, j->align);
    }
    while (b->len % j->align)
        buf_addc(b, 0);
    return 0;
}

/* Rows of one tensor, converted through float in pieces; raw holds a row at an aligned address. */
static int write_tensor(struct job *j, int i, struct err *err) {
    const struct tensor *t = &j->ts->t[i];
    static const char zeros[65536];
    int cols = (int)t->shape[t->rank - 1];
    size_t from = dtype_row_bytes(t->type, cols), to = dtype_row_bytes(j->type[i], cols);
    size_t rows = from ? t->bytes / from : 0, room = ROOM / ((size_t)cols * sizeof(float));
    room = room < 1 ? 1 : room < rows ? room : rows;
    float *f = mem_array((size_t)cols, sizeof *f);
    char *raw = mem_new(from), *dst = mem_new(room * to);
    int rc = -1;
    for (size_t r = 0; r < rows; r += room) {
        size_t n = rows - r < room ? rows - r : room;
        for (size_t k = 0; k < n; k++) {
            memcpy(t->type == j->type[i] ? dst + k * to : raw,
                   (const char *)t->data + (r + k) * from, from);
            if (t->type == j->type[i])
                continue;
            row_to_f32(t->type, raw, f, cols);
            row_from_f32(j->type[i], f, dst + k * to, cols);
        }
        if (out_write(j->file, dst, n * to, err))
            goto out;
    }
    rc = out_write(j->file, zeros, padding(rows * to, j->align), err);
out:
    free(f);
    free(raw);
    free(dst);
    return rc;
}

int quantize_gguf(const struct quantize_opts *o, struct quantize_report *r, struct err *err) {
    struct job j = {.in = o->in, .out = o->out};
    struct buf header = {0};
    struct cfg c;
    size_t done = 0;
    int rc = -1;
    *r = (struct quantize_report){0};
    if (!target_of(o->type))
        return err_set(err, E_USAGE,
                       "quantize: %s cannot be written to GGUF (f32, f16, bf16, q8_0 "
                       "and q4_0 can)",
                       dtype_info(o->type)->name);
    if (!(j.g = gguf_open(o->in, err)) || gguf_cfg(j.g, &c, err))
        goto out;
    j.ts = gguf_tensors(j.g);
    if (j.ts->n_file > 1) {
        err_set(err, E_USAGE, "%s: a set of %d files: join it first", o->in, j.ts->n_file);
        goto out;
    }
    if (plan(&j, o->type, r, err) || put_header(&j, &header, target_of(o->type)->file_type, err))
        goto out;
    if (!o->out) {
        rc = 0;
        goto out;
    }
    if (!(j.file = out_open(o->out, err)) || out_write(j.file, header.data, header.len, err))
        goto out;
    for (int i = 0; i < j.ts->n; i++) {
        if (write_tensor(&j, i, err))
            goto out;
        done += j.ts->t[i].bytes;
        if (o->progress)
            o->progress(o->ud, done, r->from_bytes);
    }
    rc = out_commit(j.file, err);
    j.file = NULL;
out:
    out_abort(j.file);
    free(j.type);
    buf_free(&header);
    gguf_close(j.g);
    return rc;
}
