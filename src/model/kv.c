/* kv.c - see kv.h.
 *
 * Flat: one piece for all slots, [slot][layer][k, v][kv head][block of tokens].  Attention takes one
 * head at a time, and so walks memory forwards. */
#include "model/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct slot {
    int n_tok;
    bool active;
    long released; /* when, counted in releases */
};

struct kv {
    enum dtype type;
    int n_slot, n_ctx, n_layer, n_head;
    size_t head;   /* bytes of one head's k (or v) in a group */
    size_t stride; /* bytes from slot to slot */
    struct attend_place at;
    size_t bytes;
    char *data;
    struct slot *slot;
    long releases;
};

size_t kv_token_bytes(const struct cfg *c, enum dtype type) {
    return attend_block_bytes(type, c->head_dim) / ATTEND_BLOCK * 2 * (size_t)c->n_layer *
           (size_t)c->n_kv_head;
}

struct kv *kv_open_as(const struct cfg *c, const struct kv_opts *o, struct err *err) {
    size_t bytes, slot;
    size_t n_block = ((size_t)o->n_ctx + ATTEND_BLOCK - 1) / ATTEND_BLOCK;
    if (!size_mul(kv_token_bytes(c, o->type), n_block * ATTEND_BLOCK, &slot) ||
        !size_mul(slot, (size_t)o->n_slot, &bytes)) {
        err_set(err, E_MEMORY, "KV cache: %d sequences of %d tokens overflow the address space",
                o->n_slot, o->n_ctx);
        return NULL;
    }
    size_t room = mem_available();
    if (room && bytes > room) {
        err_set(err, E_MEMORY, "KV cache: %d x %d tokens need %zu MiB, %zu MiB are available",
                o->n_slot, o->n_ctx, bytes >> 20, room >> 20);
        return NULL;
    }
    char *data = mem_pages(bytes, "KV cache", err);
    if (!data)
        return NULL;
    struct kv *kv = mem_new(sizeof *kv);
    *kv = (struct kv){.type = o->type,
                      .n_slot = o->n_slot,
                      .n_ctx = o->n_ctx,
                      .n_layer = c->n_layer,
                      .n_head = c->n_kv_head,
                      .head = attend_block_bytes(o->type, c->head_dim) * n_block,
                      .stride = slot,
                      .at = {.block = attend_block_bytes(o->type, c->head_dim)},
                      .bytes = bytes,
                      .data = data,
                      .slot = mem_array((size_t)o->n_slot, sizeof *kv->slot)};
    return kv;
}

struct kv *kv_open(const struct cfg *c, int n_slot, int n_ctx, enum dtype type, struct err *err) {
    return kv_open_as(
        c, &(struct kv_opts){.layout = KV_FLAT, .n_slot = n_slot, .n_ctx = n_ctx, .type = type},
        err);
}

void kv_close(struct kv *kv) {
    if (!kv)
        return;
    mem_pages_free(kv->data, kv->bytes);
    free(kv->slot);
    free(kv);
}

int kv_ctx(const struct kv *kv) {
    return kv->n_ctx;
}

int kv_slots(const struct kv *kv) {
    return kv->n_slot;
}

enum kv_layout kv_layout(const struct kv *kv) {
    (void)kv;
    return KV_FLAT;
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
    char *k = kv->data + (size_t)slot * kv->stride + (size_t)layer * 2 * half;
    return (struct kv_view){k, k + half, kv->head, kv->at, kv->type};
}

bool kv_ready(const struct kv *kv, int slot, int pos, int n) {
    return slot >= 0 && slot < kv->n_slot && pos >= 0 && n >= 0 && n <= kv->n_ctx &&
           pos <= kv->n_ctx - n;
}

/* -- slots ------------------------------------------------------------------------------------- */

int kv_pick(struct kv *kv, int n_tok) {
    int pick = -1;
    (void)n_tok;
    for (int i = 0; i < kv->n_slot; i++)
        if (!kv->slot[i].active && (pick < 0 || kv->slot[i].released < kv->slot[pick].released))
            pick = i;
    if (pick >= 0)
        kv->slot[pick] = (struct slot){.active = true};
    return pick;
}

int kv_resume(struct kv *kv, int slot, int n_tok) {
    struct slot *s = &kv->slot[slot];
    assert(!s->active);
    s->active = true;
    s->n_tok = n_tok < s->n_tok ? n_tok : s->n_tok;
    return s->n_tok;
}

int kv_tokens(const struct kv *kv, int slot) {
    return kv->slot[slot].n_tok;
}

bool kv_active(const struct kv *kv, int slot) {
    return kv->slot[slot].active;
}

int kv_ensure(struct kv *kv, int slot, int n_tok) {
    assert(kv->slot[slot].active && n_tok >= kv->slot[slot].n_tok);
    if (n_tok > kv->n_ctx)
        return -1;
    kv->slot[slot].n_tok = n_tok;
    return 0;
}

int kv_share(struct kv *kv, int dst, int src, int n_tok) {
    assert(kv->slot[dst].active && !kv->slot[dst].n_tok && n_tok <= kv->slot[src].n_tok);
    size_t used = ((size_t)n_tok + ATTEND_BLOCK - 1) / ATTEND_BLOCK * kv->at.block;
    for (size_t i = 0; i < (size_t)kv->n_layer * 2 * (size_t)kv->n_head; i++)
        memcpy(kv->data + (size_t)dst * kv->stride + i * kv->head,
               kv->data + (size_t)src * kv->stride + i * kv->head, used);
    kv->slot[dst].n_tok = n_tok;
    return n_tok;
}

void kv_release(struct kv *kv, int slot) {
    assert(kv->slot[slot].active);
    kv->slot[slot].active = false;
    kv->slot[slot].released = ++kv->releases;
}

/* -- admission --------------------------------------------------------------------------------- */

int kv_group_tokens(const struct kv *kv) {
    return kv->n_ctx;
}

int kv_groups(const struct kv *kv) {
    return kv->n_slot;
}

int kv_groups_free(const struct kv *kv) {
    int n = 0;
    for (int i = 0; i < kv->n_slot; i++)
        n += !kv->slot[i].active;
    return n;
}

int kv_groups_need(const struct kv *kv, int slot, int n_tok) {
    (void)kv;
    return slot < 0 && n_tok > 0;
}

bool kv_room(const struct kv *kv, int slot, int n_tok) {
    return kv_groups_need(kv, slot, n_tok) <= kv_groups_free(kv);
}

/* -- groups held by a cache -------------------------------------------------------------------- */

int kv_hold(struct kv *kv, int slot, int group) {
    (void)kv, (void)slot, (void)group;
    return -1;
}

void kv_drop(struct kv *kv, int id) {
    (void)kv, (void)id;
}

int kv_attach(struct kv *kv, int slot, const int *id, int n) {
    (void)kv, (void)slot, (void)id, (void)n;
    return 0;
}

void kv_on_short(struct kv *kv, bool (*drop)(void *ud), void *ud) {
    (void)kv, (void)drop, (void)ud;
}

bool kv_held_alone(const struct kv *kv, int id) {
    (void)kv, (void)id;
    return false;
}

/* -- figures ----------------------------------------------------------------------------------- */

void kv_stats(const struct kv *kv, struct kv_stats *s) {
    size_t token = kv->at.block / ATTEND_BLOCK * 2 * (size_t)kv->n_layer * (size_t)kv->n_head;
    *s = (struct kv_stats){.layout = KV_FLAT,
                           .static_bytes = kv->bytes,
                           .pool_bytes = kv->bytes,
                           .held_bytes = kv->bytes,
                           .group_bytes = kv->stride,
                           .group_tokens = kv->n_ctx,
                           .groups = kv->n_slot,
                           .groups_free = kv_groups_free(kv)};
    for (int i = 0; i < kv->n_slot; i++)
        if (kv->slot[i].active)
            s->live_bytes += (size_t)kv->slot[i].n_tok * token;
}
