/* prefix.c - see prefix.h.
 *
 * A chain's link is one group of kv_group_tokens() tokens that the cache holds (kv_hold).  It is
 * found by a hash of its tokens and of the link before it, and accepted only if its tokens are
 * equal and the link before it is the one just accepted.  Links are known by serial numbers that
 * never return, so a link whose predecessor is gone is never found again, and ages out.
 *
 * Invariants: (1) a held group has exactly one link; (2) a link is used later than all links after
 * it, so the end of a chain goes first; (3) known[i].ids are the tokens of slot i's keys and
 * values, of which kv_tokens(i) may be fewer.  Tested in test/unit/prefix.c. */
#include "engine/prefix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"

struct link {                /* entry i is about the group with number i */
    uint64_t serial, before; /* 0 = no link, or none before */
    uint64_t hash, salt;
    int32_t *ids;     /* (group tokens), owned */
    int bucket;       /* the next link of the bucket, or -1 */
    int newer, older; /* in order of use; -1 = none */
};

struct known {
    int32_t *ids; /* (n_ctx) */
    int n;
    uint64_t salt;
    int n_link;      /* groups that are in a chain */
    uint64_t serial; /* of the last of them */
};

struct prefix {
    struct kv *kv;
    int n_slot, n_ctx, n_group, group; /* group: tokens of one */
    struct known *known;               /* (n_slot) */
    struct link *link;                 /* (n_group) */
    int *bucket;                       /* (n_bucket), a power of 2 */
    int *page;                         /* (n_ctx / group + 1) a chain that was found */
    uint64_t n_bucket, mask;           /* mask: of a hash, for tests */
    int newest, oldest;
    uint64_t serials;
    struct prefix_stats stats;
};

/* -- links ------------------------------------------------------------------------------------- */

static uint64_t hash_of(const struct prefix *p, uint64_t before, uint64_t salt,
                        const int32_t *ids) {
    uint64_t seed = before ? before : salt;
    return XXH3_64bits_withSeed(ids, (size_t)p->group * sizeof *ids, seed) & p->mask;
}

/* The link after `before` whose tokens are ids, or -1. */
static int find(const struct prefix *p, uint64_t before, uint64_t salt, const int32_t *ids) {
    uint64_t hash = hash_of(p, before, salt, ids);
    for (int i = p->bucket[hash % p->n_bucket]; i >= 0; i = p->link[i].bucket) {
        const struct link *l = &p->link[i];
        if (l->hash == hash && l->before == before && l->salt == salt &&
            !memcmp(l->ids, ids, (size_t)p->group * sizeof *ids))
            return i;
    }
    return -1;
}

static void leave_order(struct prefix *p, int i) {
    struct link *l = &p->link[i];
    *(l->newer < 0 ? &p->newest : &p->link[l->newer].older) = l->older;
    *(l->older < 0 ? &p->oldest : &p->link[l->older].newer) = l->newer;
}

static void enter_order(struct prefix *p, int i) {
    p->link[i].newer = -1;
    p->link[i].older = p->newest;
    *(p->newest < 0 ? &p->oldest : &p->link[p->newest].newer) = i;
    p->newest = i;
}

static void unlink_group(struct prefix *p, int i) {
    struct link *l = &p->link[i];
    int *at = &p->bucket[l->hash % p->n_bucket];
    while (*at != i)
        at = &p->link[*at].bucket;
    *at = l->bucket;
    leave_order(p, i);
    l->serial = 0;
    p->stats.groups--;
}

static void link_group(struct prefix *p, int i, uint64_t before, uint64_t salt,
                       const int32_t *ids) {
    struct link *l = &p->link[i];
    if (l->serial) /* its chain was cut before it: it finds a place in another */
        unlink_group(p, i);
    if (!l->ids)
        l->ids = mem_array((size_t)p->group, sizeof *ids);
    memcpy(l->ids, ids, (size_t)p->group * sizeof *ids);
    l->serial = ++p->serials;
    l->before = before;
    l->salt = salt;
    l->hash = hash_of(p, before, salt, ids);
    int *at = &p->bucket[l->hash % p->n_bucket];
    l->bucket = *at;
    *at = i;
    enter_order(p, i);
    p->stats.groups++;
}

/* The known chain of ids[0..n): its groups in p->page, their number. */
static int walk(const struct prefix *p, const int32_t *ids, int n, uint64_t salt) {
    uint64_t before = 0;
    int m = 0;
    for (int i; (m + 1) * p->group <= n; m++) {
        if ((i = find(p, before, salt, ids + (size_t)m * p->group)) < 0)
            break;
        p->page[m] = i;
        before = p->link[i].serial;
    }
    return m;
}

/* The first m groups in p->page were used: the first of them last. */
static void touch(struct prefix *p, int m) {
    while (m-- > 0) {
        leave_order(p, p->page[m]);
        enter_order(p, p->page[m]);
    }
}

/* Gives up the group that nobody has used for longest, of those that no live sequence needs. */
static bool drop_oldest(void *ud) {
    struct prefix *p = ud;
    for (int i = p->oldest; i >= 0; i = p->link[i].newer)
        if (kv_held_alone(p->kv, i)) {
            unlink_group(p, i);
            kv_drop(p->kv, i);
            p->stats.dropped++;
            return true;
        }
    return false;
}

/* -- open and close ---------------------------------------------------------------------------- */

struct prefix *prefix_open(struct kv *kv) {
    struct prefix *p = mem_new(sizeof *p);
    *p = (struct prefix){.kv = kv,
                         .n_slot = kv_slots(kv),
                         .n_ctx = kv_ctx(kv),
                         .n_group = kv_layout(kv) == KV_VIRTUAL ? kv_groups(kv) : 0,
                         .group = kv_group_tokens(kv),
                         .n_bucket = 16,
                         .mask = UINT64_MAX,
                         .newest = -1,
                         .oldest = -1};
    while (p->n_bucket < (uint64_t)p->n_group)
        p->n_bucket *= 2;
    p->known = mem_array((size_t)p->n_slot, sizeof *p->known);
    for (int i = 0; i < p->n_slot; i++)
        p->known[i].ids = mem_array((size_t)p->n_ctx, sizeof *p->known[i].ids);
    p->link = mem_array((size_t)p->n_group, sizeof *p->link);
    p->page = mem_array((size_t)(p->n_ctx / p->group) + 1, sizeof *p->page);
    p->bucket = mem_array(p->n_bucket, sizeof *p->bucket);
    memset(p->bucket, 0xff, p->n_bucket * sizeof *p->bucket); /* -1 */
    kv_on_short(kv, drop_oldest, p);
    return p;
}

void prefix_close(struct prefix *p) {
    if (!p)
        return;
    kv_on_short(p->kv, NULL, NULL);
    for (int i = 0; i < p->n_group; i++) {
        if (p->link[i].serial)
            kv_drop(p->kv, i);
        free(p->link[i].ids);
    }
    for (int i = 0; i < p->n_slot; i++)
        free(p->known[i].ids);
    free(p->known);
    free(p->link);
    free(p->page);
    free(p->bucket);
    free(p);
}

void prefix_weaken(struct prefix *p, int bits) {
    assert(p->newest < 0); /* hashes of links would be others */
    p->mask = bits < 64 ? ((uint64_t)1 << bits) - 1 : UINT64_MAX;
}

/* -- sequences --------------------------------------------------------------------------------- */

static int common(const struct prefix *p, int slot, const int32_t *ids, int n, uint64_t salt) {
    const struct known *k = &p->known[slot];
    int most = kv_tokens(p->kv, slot), m = 0;
    most = most < k->n ? most : k->n;
    most = most < n ? most : n;
    while (m < most && k->salt == salt && k->ids[m] == ids[m])
        m++;
    return m;
}

/* The slot with the longest common beginning, *n tokens of it; a released one if several have it.
 * -1 = none has any. */
static int best_slot(const struct prefix *p, const int32_t *ids, int *n, uint64_t salt) {
    int best = -1, most = 0;
    for (int i = 0; i < p->n_slot; i++) {
        int m = common(p, i, ids, *n, salt);
        if (m > most || (m && m == most && kv_active(p->kv, best) && !kv_active(p->kv, i))) {
            best = i;
            most = m;
        }
    }
    *n = most;
    return best;
}

static int released(const struct prefix *p) {
    int n = 0;
    for (int i = 0; i < p->n_slot; i++)
        n += !kv_active(p->kv, i);
    return n;
}

/* From slot src, m tokens: src itself goes on where little of it would be lost, or where it is the
 * only one left; else another slot begins as it does. */
static int start_from(struct prefix *p, int src, int m, int n, int *n_cached) {
    bool mine = !kv_active(p->kv, src);
    if (mine && (m >= kv_tokens(p->kv, src) / 2 || released(p) == 1)) {
        *n_cached = kv_resume(p->kv, src, m);
        return src;
    }
    if (mine) /* must not be picked itself */
        kv_resume(p->kv, src, kv_tokens(p->kv, src));
    int dst = kv_pick(p->kv, n);
    if (dst >= 0)
        *n_cached = kv_share(p->kv, dst, src, m);
    if (mine)
        kv_release(p->kv, src);
    return dst;
}

int prefix_start(struct prefix *p, const int32_t *ids, int n, uint64_t salt, int *n_cached) {
    int m = n, slot;
    *n_cached = 0;
    if (!released(p))
        return -1;
    int src = best_slot(p, ids, &m, salt), links = p->n_group ? walk(p, ids, n, salt) : 0;
    touch(p, links);
    if (src >= 0 && m >= links * p->group) {
        slot = start_from(p, src, m, n, n_cached);
    } else {
        slot = kv_pick(p->kv, n);
        if (links)
            *n_cached = kv_attach(p->kv, slot, p->page, links);
    }
    struct known *k = &p->known[slot];
    memmove(k->ids, ids, (size_t)*n_cached * sizeof *ids);
    k->n = *n_cached;
    k->salt = salt;
    k->n_link = 0;
    k->serial = 0;
    p->stats.starts++;
    p->stats.hits += *n_cached > 0;
    p->stats.tokens += n;
    p->stats.cached += *n_cached;
    return slot;
}

int prefix_peek(const struct prefix *p, const int32_t *ids, int n, uint64_t salt) {
    int m = n, links = p->n_group ? walk(p, ids, n, salt) * p->group : 0;
    best_slot(p, ids, &m, salt);
    return m > links ? m : links;
}

/* Puts the slot's groups from k->n_link on into the chain, as far as they are full. */
static void extend(struct prefix *p, int slot) {
    struct known *k = &p->known[slot];
    bool added = false;
    for (; (k->n_link + 1) * p->group <= k->n; k->n_link++) {
        const int32_t *ids = k->ids + (size_t)k->n_link * p->group;
        int i = find(p, k->serial, k->salt, ids);
        if (i < 0) {
            i = kv_hold(p->kv, slot, k->n_link);
            if (i < 0) /* the system refused: tried again at the next token */
                break;
            link_group(p, i, k->serial, k->salt, ids);
            added = true;
        }
        k->serial = p->link[i].serial;
    }
    if (added)
        touch(p, walk(p, k->ids, k->n, k->salt));
}

void prefix_note(struct prefix *p, int slot, const int32_t *ids, int n) {
    struct known *k = &p->known[slot];
    assert(n >= k->n && n <= p->n_ctx && n <= kv_tokens(p->kv, slot));
    memcpy(k->ids + k->n, ids + k->n, (size_t)(n - k->n) * sizeof *ids);
    k->n = n;
    if (p->n_group)
        extend(p, slot);
}

void prefix_end(struct prefix *p, int slot) {
    kv_release(p->kv, slot);
}

void prefix_stats(const struct prefix *p, struct prefix_stats *s) {
    *s = p->stats;
}
