/* kv.c - see kv.h.
 *
 * One block for all slots: [slot][layer][k, v][token][kv head][component].  A view's stride is one
 * token of one layer, so attention walks memory forwards. */
#include "model/kv.h"

#include <stdlib.h>

#include "base/mem.h"

struct kv {
    enum dtype type;
    int n_slot, n_ctx, n_layer;
    size_t stride; /* bytes of one token's k (or v) of one layer */
    size_t bytes;
    char *data;
};

size_t kv_token_bytes(const struct cfg *c, enum dtype type) {
    return (size_t)2 * c->n_layer * dtype_row_bytes(type, c->n_kv_head * c->head_dim);
}

struct kv *kv_open(const struct cfg *c, int n_slot, int n_ctx, enum dtype type, struct err *err) {
    size_t bytes;
    if (!size_mul(kv_token_bytes(c, type), (size_t)n_ctx, &bytes) ||
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
                      .stride = dtype_row_bytes(type, c->n_kv_head * c->head_dim),
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

size_t kv_bytes(const struct kv *kv) {
    return kv->bytes;
}

struct kv_view kv_view(const struct kv *kv, int slot, int layer) {
    size_t half = kv->stride * (size_t)kv->n_ctx;
    char *k = kv->data + ((size_t)slot * kv->n_layer + layer) * 2 * half;
    return (struct kv_view){k, k + half, kv->stride, kv->type};
}
