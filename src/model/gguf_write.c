/* gguf_write.c - one GGUF v3 file; the layout is drawn in gguf.c.
 * The header is built in memory, then header and tensors go out through one atomic write. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "model/gguf_kv.h"

#define ALIGN 32 /* the format's default */

static const int value_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

static const uint32_t type_number[DT_COUNT] = {
    [DT_F32] = 0,  [DT_F16] = 1,  [DT_BF16] = 30, [DT_Q8_0] = 8,  [DT_Q4_0] = 2, [DT_Q4_1] = 3,
    [DT_Q5_0] = 6, [DT_Q5_1] = 7, [DT_Q4_K] = 12, [DT_Q5_K] = 13, [DT_Q6_K] = 14};

/* The host is little endian, as the file. */
static void put32(struct buf *b, uint32_t v) {
    buf_add(b, &v, sizeof v);
}

static void put64(struct buf *b, uint64_t v) {
    buf_add(b, &v, sizeof v);
}

static void put_str(struct buf *b, const char *s, size_t n) {
    put64(b, n);
    buf_add(b, s, n);
}

void gguf_put_pair(struct buf *b, const struct gguf_pair *kv) {
    put_str(b, kv->key, strlen(kv->key));
    put32(b, kv->type);
    if (kv->type == GGUF_STR) {
        put_str(b, kv->value, strlen(kv->value));
    } else if (kv->type != GGUF_ARR) {
        buf_add(b, kv->value, (size_t)value_bytes[kv->type]);
    } else {
        put32(b, kv->elem);
        put64(b, kv->n);
        const char *const *s = kv->value;
        if (kv->elem != GGUF_STR)
            buf_add(b, kv->value, kv->n * (size_t)value_bytes[kv->elem]);
        for (size_t i = 0; i < kv->n && kv->elem == GGUF_STR; i++)
            put_str(b, s[i], kv->len ? kv->len[i] : strlen(s[i]));
    }
}

size_t gguf_padding(size_t at, size_t align) {
    return (align - at % align) % align;
}

void gguf_put_header(struct buf *b, const struct buf *kv, uint64_t n_kv, const struct tensor *t,
                     int n_tensor, size_t align) {
    size_t offset = 0;
    buf_adds(b, "GGUF");
    put32(b, 3);
    put64(b, (uint64_t)n_tensor);
    put64(b, n_kv);
    buf_add(b, kv->data, kv->len);
    for (int i = 0; i < n_tensor; i++) {
        put_str(b, t[i].name, strlen(t[i].name));
        put32(b, (uint32_t)t[i].rank);
        for (int k = t[i].rank - 1; k >= 0; k--)
            put64(b, (uint64_t)t[i].shape[k]);
        put32(b, type_number[t[i].type]);
        put64(b, offset);
        offset += t[i].bytes + gguf_padding(t[i].bytes, align);
    }
    for (size_t n = gguf_padding(b->len, align); n > 0; n--)
        buf_addc(b, 0);
}

int gguf_write(const char *path, const struct gguf_pair *kv, int n_kv, const struct tensor *t,
               int n_tensor, struct err *err) {
    struct buf b = {0}, pairs = {0};
    struct out *o = NULL;
    uint32_t align = ALIGN;
    char *zeros = NULL;
    int rc = -1;
    for (int i = 0; i < n_tensor; i++)
        if (t[i].type > DT_Q6_K)
            return err_set(err, E_USAGE, "%s: tensor '%s': GGUF has no type %s", path, t[i].name,
                           dtype_info(t[i].type)->name);
    for (int i = 0; i < n_kv; i++) {
        gguf_put_pair(&pairs, &kv[i]);
        if (strcmp(kv[i].key, "general.alignment") == 0 && kv[i].type == GGUF_U32)
            memcpy(&align, kv[i].value, sizeof align);
    }
    gguf_put_header(&b, &pairs, (uint64_t)n_kv, t, n_tensor, align);
    zeros = mem_new(align);
    o = out_open(path, err);
    if (!o || out_write(o, b.data, b.len, err))
        goto out;
    for (int i = 0; i < n_tensor; i++)
        if (out_write(o, t[i].data, t[i].bytes, err) ||
            out_write(o, zeros, gguf_padding(t[i].bytes, align), err))
            goto out;
    rc = out_commit(o, err);
    o = NULL;
out:
    out_abort(o);
    free(zeros);
    buf_free(&pairs);
    buf_free(&b);
    return rc;
}
