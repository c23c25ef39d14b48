/* kv.c - see kv.h.
 *
 * One piece for all slots: [slot][layer][k, v][kv head][block of tokens].  Attention takes one head
 * at a time, and so walks memory forwards. */
#include "model/kv.h"

#include <stdlib.h>

#include "base/mem.h"
#include "num/attend.h"

struct kv {
    enum dtype type;
    int n_slot, n_ctx, n_layer, n_head;
    size_t block, head; /* bytes of a block of tokens, and of a sequence, of one head's k (or v) */
    size_t bytes;
    char *data;
};

size_t kv_token_bytes(const struct cfg *c, enum dtype type) {
    return attend_block_bytes(type, c->head_dim) / ATTEND_BLOCK * 2 * (size_t)c->n_layer *
           (size_t)c->n_kv_head;
}

struct kv *kv_open(const struct cfg *c, int n_slot, int n_ctx, enum dtype type, struct err *err) {
    size_t bytes;
    size_t n_block = ((size_t)n_ctx + ATTEND_BLOCK - 1) / ATTEND_BLOCK;
    if (!size_mul(kv_token_bytes(c, type), n_block * ATTEND_BLOCK, &bytes) ||
        !size_mul(bytes, (size_t)n_slot, &bytes)) {
        err_set(err, E_MEMORY, "KV cache: %d sequences of %d tokens overflow the address space",
                n_slot, n_ctx);
        return NULL;
    }
    size_t room = mem_available();
    if (room && bytes > room) {
        err_set(err, E_MEMORY, "KV cache: %d x %d tokens need %zu MiB, %zu MiB are available",
                n_slot, n_ctx, bytes >> 20, room >> 20);
        return NULL;
    }
    char *data = mem_pages(bytes, "KV cache", err);
    if (!data)
        return NULL;
    struct kv *kv = mem_new(sizeof *kv);
    *kv = (struct kv){.type = type,
                      .n_slot = n_slot,
                      .n_ctx = n_ctx,
                      .n_layer = c->n_layer,
                      .n_head = c->n_kv_head,
                      .block = attend_block_bytes(type, c->head_dim),
                      .head = attend_block_bytes(type, c->head_dim) * n_block,
                      .bytes = bytes,
                      .data = data};
    return kv;
}

void kv_close(struct kv *kv) {
    if (!kv)
        return;
    mem_pages_free(kv->data, kv->bytes);
    free(kv);
}

int kv_ctx(const struct kv *kv) {
    return kv->n_ctx;
}

int kv_slots(const struct kv *kv) {
    return kv->n_slot;
}

enum dtype kv_type(const struct kv *kv) {
    return kv->type;
}

enum dtype kv_parse(const char *name) {
    enum dtype t = dtype_parse(name);
    return t == DT_Q8_0 ? DT_INT8 : attend_type(t) ? t : DT_NONE;
}

enum dtype kv_default(enum dtype weights) {
    return weights == DT_F32 ? DT_F32 : DT_BF16;
}

size_t kv_bytes(const struct kv *kv) {
    return kv->bytes;
}

struct kv_view kv_view(const struct kv *kv, int slot, int layer) {
    size_t half = kv->head * (size_t)kv->n_head;
    char *k = kv->data + ((size_t)slot * (size_t)kv->n_layer + (size_t)layer) * 2 * half;
    return (struct kv_view){k, k + half, kv->head, kv->block, kv->type};
}
