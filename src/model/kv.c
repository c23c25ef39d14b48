/* kv.c - see kv.h.
 *
 * A group of tokens is [layer][kv head][k, v][block of tokens]; attention takes one head at a time,
 * some keys, then their values: what a processor fetches beyond the end of the keys is of use.  A
 * slot is a row of groups.  Flat: one group holds n_ctx tokens, and all slots are one piece of
 * memory.  Virtual: vattention gives a slot its groups as it grows; what is here turns tokens into
 * groups. */
#include "model/kv.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "method/vattention.h"

#define HUGE ((size_t)2 << 20)
#define RESERVE ((size_t)256 << 20) /* bytes that a pool of its own size leaves to others */
#define MOST_GROUPS (1 << 24)
#define AHEAD ((size_t)8 << 20) /* bytes of pages that are fetched ahead */

struct slot {
    int n_tok;
    bool active;   /* of a flat layout */
    long released; /* likewise, counted in releases */
};

struct kv {
    enum dtype type;
    int n_slot, n_ctx, n_layer, n_head;
    int group_tok; /* tokens of a group */
    size_t group;  /* bytes of a group */
    size_t token;  /* bytes of a token */
    size_t head;   /* bytes of one head's k (or v) in a group */
    struct attend_place at;
    size_t bytes;
    char *data;      /* flat */
    struct vatt *va; /* virtual; NULL = flat */
    struct slot *slot;
    long releases;
    char note[512];
};

size_t kv_token_bytes(const struct cfg *c, enum dtype type) {
    return attend_block_bytes(type, c->head_dim) / ATTEND_BLOCK * 2 * (size_t)c->n_layer *
           (size_t)c->n_kv_head;
}

/* -- open and close ---------------------------------------------------------------------------- */

static size_t round_up(size_t n, size_t unit) {
    return (n + unit - 1) / unit * unit;
}

/* Tokens of a group.  Tokens of at least 8 KiB: the fewest huge pages that at least 32 tokens fill
 * to 93 %, or as well as up to eight can.  Smaller ones: 64 tokens, so that a short sequence of a
 * small model does not take 2 MiB; its keys and values fit a cache, huge pages would not help. */
static int group_tokens(size_t token, int n_ctx) {
    size_t best = 32;
    double fill = 0;
    if (token < HUGE / 256)
        best = 64;
    for (size_t n = 1; token >= HUGE / 256 && n <= 8 && fill < 0.93; n++) {
        size_t t = n * HUGE / token / ATTEND_BLOCK * ATTEND_BLOCK;
        double f = (double)(t * token) / (double)(n * HUGE);
        if (t >= 32 && f > fill) {
            best = t;
            fill = f;
        }
    }
    size_t most = round_up((size_t)n_ctx, ATTEND_BLOCK);
    return (int)(best < most ? best : most);
}

static size_t group_bytes(size_t token, int tokens) {
    size_t bytes = token * (size_t)tokens;
    return round_up(bytes, bytes > HUGE / 4 * 3 ? HUGE : (size_t)sysconf(_SC_PAGESIZE));
}

static int open_flat(struct kv *kv, struct err *err) {
    size_t room = mem_available();
    kv->group_tok = kv->n_ctx;
    kv->at.blocks = 0;
    if (!size_mul(kv->token, round_up((size_t)kv->n_ctx, ATTEND_BLOCK), &kv->group) ||
        !size_mul(kv->group, (size_t)kv->n_slot, &kv->bytes))
        return err_set(err, E_MEMORY,
                       "KV cache: %d sequences of %d tokens overflow the address space", kv->n_slot,
                       kv->n_ctx);
    if (room && kv->bytes > room)
        return err_set(err, E_MEMORY,
                       "KV cache: %d x %d tokens need %zu MiB, %zu MiB are available", kv->n_slot,
                       kv->n_ctx, kv->bytes >> 20, room >> 20);
    kv->data = mem_pages(kv->bytes, "KV cache", err);
    return kv->data ? 0 : -1;
}

/* Groups of the pool: what was asked for, or what is needed at most and is there. */
static int pool_groups(const struct kv *kv, size_t pool, struct err *err) {
    size_t most = (size_t)kv->n_slot * (size_t)((kv->n_ctx - 1) / kv->group_tok + 1), n = most;
    size_t room = mem_available();
    if (pool) {
        n = pool / kv->group;
    } else if (room) {
        size_t spare = room / 10 > RESERVE ? room / 10 : RESERVE;
        spare = spare < room / 2 ? spare : room / 2;
        n = (room - spare) / kv->group < most ? (room - spare) / kv->group : most;
    }
    if (n < 1)
        return err_set(err, E_MEMORY,
                       "KV cache: %zu KiB hold no group of %d tokens, which has %zu KiB",
                       (pool ? pool : room) >> 10, kv->group_tok, kv->group >> 10);
    return n < MOST_GROUPS ? (int)n : MOST_GROUPS;
}

static int open_virtual(struct kv *kv, const struct kv_opts *o, struct err *err) {
    struct err refused = {0};
    kv->group_tok = group_tokens(kv->token, kv->n_ctx);
    kv->group = group_bytes(kv->token, kv->group_tok);
    int pool = pool_groups(kv, o->pool, err);
    if (pool < 0)
        return -1;
    size_t ahead = AHEAD / kv->group;
    ahead = ahead < 1 ? 1 : ahead > 16 ? 16 : ahead;
    if (o->ahead)
        ahead = o->ahead < 0 ? 0 : (size_t)o->ahead;
    kv->va = vatt_open(&(struct vatt_opts){.group = kv->group,
                                           .n_slot = kv->n_slot,
                                           .span = (kv->n_ctx - 1) / kv->group_tok + 1,
                                           .pool = pool,
                                           .ahead = (int)ahead,
                                           .poison = o->poison},
                       &refused);
    if (!kv->va) {
        snprintf(kv->note, sizeof kv->note, "%s: the layout is flat", refused.msg);
        return open_flat(kv, err);
    }
    kv->bytes = (size_t)pool * kv->group;
    kv->at.blocks = kv->group_tok / ATTEND_BLOCK;
    return 0;
}

struct kv *kv_open_as(const struct cfg *c, const struct kv_opts *o, struct err *err) {
    struct kv *kv = mem_new(sizeof *kv);
    *kv = (struct kv){.type = o->type,
                      .n_slot = o->n_slot,
                      .n_ctx = o->n_ctx,
                      .n_layer = c->n_layer,
                      .n_head = c->n_kv_head,
                      .token = kv_token_bytes(c, o->type),
                      .at = {.block = attend_block_bytes(o->type, c->head_dim)}};
    kv->slot = mem_array((size_t)o->n_slot, sizeof *kv->slot);
    if (o->layout == KV_VIRTUAL ? open_virtual(kv, o, err) : open_flat(kv, err)) {
        kv_close(kv);
        return NULL;
    }
    kv->at.group = kv->group;
    kv->head = kv->at.block * round_up((size_t)kv->group_tok, ATTEND_BLOCK) / ATTEND_BLOCK;
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
    vatt_close(kv->va);
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
    return kv->va ? KV_VIRTUAL : KV_FLAT;
}

const char *kv_note(const struct kv *kv) {
    return kv->note;
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
    char *base = kv->va ? vatt_base(kv->va, slot) : kv->data + (size_t)slot * kv->group;
    char *k = base + (size_t)layer * 2 * kv->head * (size_t)kv->n_head;
    return (struct kv_view){k, k + kv->head, 2 * kv->head, kv->at, kv->type};
}

/* -- slots ------------------------------------------------------------------------------------- */

static int groups_of(const struct kv *kv, int n_tok) {
    return (n_tok + kv->group_tok - 1) / kv->group_tok;
}

bool kv_ready(const struct kv *kv, int slot, int pos, int n) {
    if (slot < 0 || slot >= kv->n_slot || pos < 0 || n < 0 || n > kv->n_ctx || pos > kv->n_ctx - n)
        return false;
    return !kv->va || vatt_writable(kv->va, slot, pos / kv->group_tok, groups_of(kv, pos + n));
}

bool kv_active(const struct kv *kv, int slot) {
    return kv->va ? vatt_active(kv->va, slot) : kv->slot[slot].active;
}

int kv_tokens(const struct kv *kv, int slot) {
    int n = kv->slot[slot].n_tok;
    if (!kv->va || vatt_active(kv->va, slot))
        return n;
    int64_t left = (int64_t)vatt_mapped(kv->va, slot) * kv->group_tok;
    return left < n ? (int)left : n;
}

int kv_pick(struct kv *kv, int n_tok) {
    int pick = -1;
    if (kv->va) {
        pick = vatt_pick(kv->va, groups_of(kv, n_tok));
    } else {
        for (int i = 0; i < kv->n_slot; i++)
            if (!kv->slot[i].active && (pick < 0 || kv->slot[i].released < kv->slot[pick].released))
                pick = i;
    }
    if (pick >= 0)
        kv->slot[pick] = (struct slot){.active = true};
    return pick;
}

int kv_resume(struct kv *kv, int slot, int n_tok) {
    struct slot *s = &kv->slot[slot];
    int n = kv_tokens(kv, slot), part;
    assert(!kv_active(kv, slot));
    n = n_tok < n ? n_tok : n;
    part = n % kv->group_tok;
    s->active = true;
    if (kv->va) {
        vatt_resume(kv->va, slot, groups_of(kv, n));
        if (part && vatt_own(kv->va, slot, n / kv->group_tok))
            n -= part;
    }
    return s->n_tok = n;
}

int kv_ensure(struct kv *kv, int slot, int n_tok) {
    struct slot *s = &kv->slot[slot];
    assert(kv_active(kv, slot) && n_tok >= s->n_tok);
    if (n_tok > kv->n_ctx)
        return -1;
    if (kv->va && vatt_ensure(kv->va, slot, s->n_tok / kv->group_tok, groups_of(kv, n_tok)))
        return -1;
    s->n_tok = n_tok;
    return 0;
}

static void copy_flat(struct kv *kv, int dst, int src, int n_tok) {
    size_t used = ((size_t)n_tok + ATTEND_BLOCK - 1) / ATTEND_BLOCK * kv->at.block;
    for (size_t i = 0; i < (size_t)kv->n_layer * 2 * (size_t)kv->n_head; i++)
        memcpy(kv->data + (size_t)dst * kv->group + i * kv->head,
               kv->data + (size_t)src * kv->group + i * kv->head, used);
}

int kv_share(struct kv *kv, int dst, int src, int n_tok) {
    struct slot *s = &kv->slot[dst];
    assert(kv_active(kv, dst) && !s->n_tok && n_tok <= kv_tokens(kv, src));
    s->n_tok = n_tok;
    if (!kv->va) {
        copy_flat(kv, dst, src, n_tok);
        return n_tok;
    }
    int full = n_tok / kv->group_tok, got = vatt_share(kv->va, dst, src, full);
    if (got < full || (n_tok % kv->group_tok && vatt_copy(kv->va, dst, src, full)))
        s->n_tok = got * kv->group_tok;
    return s->n_tok;
}

void kv_release(struct kv *kv, int slot) {
    assert(kv_active(kv, slot));
    if (kv->va)
        vatt_release(kv->va, slot);
    kv->slot[slot].active = false;
    kv->slot[slot].released = ++kv->releases;
}

/* -- admission --------------------------------------------------------------------------------- */

int kv_group_tokens(const struct kv *kv) {
    return kv->group_tok;
}

int kv_groups(const struct kv *kv) {
    return (int)(kv->bytes / kv->group);
}

int kv_groups_free(const struct kv *kv) {
    int n = 0;
    if (kv->va)
        return vatt_available(kv->va);
    for (int i = 0; i < kv->n_slot; i++)
        n += !kv->slot[i].active;
    return n;
}

int kv_groups_need(const struct kv *kv, int slot, int n_tok) {
    if (kv->va)
        return vatt_missing(kv->va, slot, groups_of(kv, n_tok));
    return slot < 0 && n_tok > 0;
}

bool kv_room(const struct kv *kv, int slot, int n_tok) {
    return n_tok <= kv->n_ctx && kv_groups_need(kv, slot, n_tok) <= kv_groups_free(kv);
}

/* -- groups held by a cache -------------------------------------------------------------------- */

int kv_hold(struct kv *kv, int slot, int group) {
    assert((group + 1) * kv->group_tok <= kv->slot[slot].n_tok);
    return kv->va ? vatt_hold(kv->va, slot, group) : -1;
}

void kv_drop(struct kv *kv, int id) {
    vatt_drop(kv->va, id);
}

int kv_attach(struct kv *kv, int slot, const int *id, int n) {
    return kv->slot[slot].n_tok = vatt_attach(kv->va, slot, id, n) * kv->group_tok;
}

void kv_on_short(struct kv *kv, bool (*drop)(void *ud), void *ud) {
    if (kv->va)
        vatt_on_short(kv->va, drop, ud);
}

bool kv_held_alone(const struct kv *kv, int id) {
    return vatt_held_alone(kv->va, id);
}

/* -- figures ----------------------------------------------------------------------------------- */

/* Of memory that is given page by page as it is touched. */
static size_t resident(char *p, size_t bytes) {
    static const size_t step = (size_t)4096 * 4096;
    unsigned char page[4096];
    size_t n = 0, size = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < bytes; at += step) {
        size_t len = bytes - at < step ? bytes - at : step;
        if (mincore(p + at, len, page))
            return bytes;
        for (size_t i = 0; i * size < len; i++)
            n += page[i] & 1;
    }
    return n * size < bytes ? n * size : bytes;
}

void kv_stats(const struct kv *kv, struct kv_stats *s) {
    size_t row = round_up((size_t)kv->n_ctx, ATTEND_BLOCK) * kv->token;
    *s = (struct kv_stats){.layout = kv_layout(kv),
                           .note = kv->note,
                           .static_bytes = row * (size_t)kv->n_slot,
                           .pool_bytes = kv->bytes,
                           .group_bytes = kv->group,
                           .pad_bytes =
                               kv->group - kv->head * 2 * (size_t)kv->n_layer * (size_t)kv->n_head,
                           .group_tokens = kv->group_tok,
                           .groups = kv_groups(kv),
                           .groups_free = kv_groups_free(kv)};
    if (!kv->va) {
        s->held_bytes = resident(kv->data, kv->bytes);
        for (int i = 0; i < kv->n_slot; i++)
            s->live_bytes += kv->slot[i].active ? (size_t)kv->slot[i].n_tok * kv->token : 0;
        return;
    }
    struct vatt_stats v;
    vatt_stats(kv->va, &v);
    size_t live = (size_t)v.live * (size_t)kv->group_tok; /* tokens; less what is not filled: */
    for (int i = 0; i < kv->n_slot; i++)
        if (vatt_active(kv->va, i))
            live -= (size_t)(vatt_count(kv->va, i) * kv->group_tok - kv->slot[i].n_tok);
    s->live_bytes = live * kv->token;
    s->held_bytes = v.held;
    s->cached_bytes = (size_t)(v.used - v.live) * kv->group;
    s->maps = v.maps;
    s->huge = v.huge;
    s->mapped = v.mapped;
    s->reused = v.reused;
    s->copied = v.copied;
}
