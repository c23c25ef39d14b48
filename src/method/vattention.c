/* vattention.c - see vattention.h.
 *
 * A group is a number: slice [id * group, (id + 1) * group) of the memfd.  A slot is a table from
 * place to id, -1 where its addresses are reserved only (PROT_NONE).  Every change is one mmap over
 * the reservation: nothing is ever unmapped there, so no other mapping can get in between.
 *
 * Invariants, checked by vatt_check: (1) group.refs is the number of slots that have it, group.live
 * of those the active ones; (2) it is busy exactly if refs > 0 or held; (3) it is read-only in all
 * slots if several have it, or it is held; (4) `maps` is not below the mappings there are, and not
 * above max_maps but by the few that giving memory back may cost. */
#include "method/vattention.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "method/vattention_ahead.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

#define HUGE ((size_t)2 << 20)
#define RW (PROT_READ | PROT_WRITE)

struct group {
    int refs, live; /* slots that have it; active ones */
    bool held, ro;
};

struct slot {
    int *id;  /* (span), -1 = none */
    int top;  /* no group from here on */
    int maps; /* mappings of its addresses, at most */
    bool active;
    long released; /* counted in releases */
};

struct vatt {
    size_t group, stride; /* bytes of a group, and from slot to slot */
    int n_slot, span, pool, max_maps;
    bool poison;
    int fd;
    char *area, *scratch;  /* the reservation; room for one group in it */
    size_t area_bytes, at; /* at: of the first slot in the area */
    struct slot *slot;
    struct group *g;
    uint8_t *busy;                   /* (pool) */
    int n_busy, n_live, n_held_idle; /* held_idle: held, in no active slot */
    int low;                         /* no group below is free */
    int maps;                        /* of all slots */
    long releases, mapped, reused, copied;
    int fail_in;
    struct ahead *ahead; /* NULL = none */
    bool (*drop)(void *ud);
    void *ud;
};

/* -- system calls ------------------------------------------------------------------------------ */

static bool injected(struct vatt *v) {
    if (!v->fail_in || --v->fail_in)
        return false;
    errno = ENOMEM;
    return true;
}

static char *address(const struct vatt *v, int slot, int i) {
    return v->area + v->at + (size_t)slot * v->stride + (size_t)i * v->group;
}

bool vatt_writable(const struct vatt *v, int slot, int i, int j) {
    const struct slot *s = &v->slot[slot];
    while (i < j && j <= s->top && s->id[i] >= 0 && !v->g[s->id[i]].ro)
        i++;
    return i >= j;
}

/* A mapping has its own flags until they are set again; then it can merge with its neighbours. */
static void keep_private(char *p, size_t bytes) {
    madvise(p, bytes, MADV_DONTFORK); /* advice: a core or a child would be larger, not wrong */
    madvise(p, bytes, MADV_DONTDUMP);
}

static bool sys_hide(struct vatt *v, char *p, size_t bytes) {
    if (injected(v) ||
        mmap(p, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
            MAP_FAILED)
        return false;
    keep_private(p, bytes);
    return true;
}

/* Pages that are not there yet are fetched by a call that can fail: a later write cannot. */
static bool fetch(struct vatt *v, char *p, int id, int n) {
    if (injected(v))
        return false;
    size_t bytes = (size_t)n * v->group;
    return ahead_fetch(v->fd, p, (off_t)((size_t)id * v->group), bytes);
}

static bool sys_map(struct vatt *v, char *p, int id, int n, int prot) {
    bool warm = ahead_warm(v->ahead, id, n);
    size_t bytes = (size_t)n * v->group;
    if (injected(v))
        return false;
    if (mmap(p, bytes, prot, MAP_SHARED | MAP_FIXED | (warm ? MAP_POPULATE : 0), v->fd,
             (off_t)((size_t)id * v->group)) == MAP_FAILED) {
        sys_hide(v, p, bytes); /* a kernel may have removed what was there */
        return false;
    }
    keep_private(p, bytes);
    if (!warm && !fetch(v, p, id, n)) {
        sys_hide(v, p, bytes);
        return false;
    }
    ahead_note(v->ahead, id, n);
    return true;
}

static bool sys_protect(struct vatt *v, char *p, int n, int prot) {
    return !injected(v) && mprotect(p, (size_t)n * v->group, prot) == 0;
}

/* -- groups ------------------------------------------------------------------------------------ */

/* Counts a change of what group id is used for: `before` is its state before it. */
static void recount(struct vatt *v, int id, struct group before) {
    const struct group *g = &v->g[id];
    bool was = before.refs || before.held, is = g->refs || g->held;
    v->n_busy += is - was;
    v->busy[id] = is;
    v->n_live += (g->live > 0) - (before.live > 0);
    v->n_held_idle += (g->held && !g->live) - (before.held && !before.live);
    if (!is) {
        v->g[id].ro = false;
        v->low = id < v->low ? id : v->low;
    }
}

static void change(struct vatt *v, int id, int refs, int live) {
    struct group before = v->g[id];
    v->g[id].refs += refs;
    v->g[id].live += live;
    recount(v, id, before);
}

static void set_held(struct vatt *v, int id, bool held) {
    struct group before = v->g[id];
    v->g[id].held = held;
    recount(v, id, before);
}

static bool shared(const struct vatt *v, int id) {
    return v->g[id].refs > 1 || v->g[id].held;
}

int vatt_available(const struct vatt *v) {
    return v->pool - v->n_live - (v->drop ? 0 : v->n_held_idle);
}

/* Free groups in a row from id on, up to n. */
static int free_run(const struct vatt *v, int id, int n) {
    int k = 0;
    while (k < n && id + k < v->pool && !v->busy[id + k])
        k++;
    return k;
}

/* Chooses n free groups: after `prev` where they are, so that mappings merge; else the lowest row
 * of n; else the lowest ones.  There are n. */
static void choose(struct vatt *v, int prev, int n, int *id) {
    while (v->low < v->pool && v->busy[v->low])
        v->low++;
    int from = prev >= 0 ? prev + 1 : 0;
    if (prev < 0 || free_run(v, from, n) < n) {
        for (from = v->low; from < v->pool; from++) {
            int k = free_run(v, from, n);
            if (k == n)
                break;
            from += k;
        }
        if (from >= v->pool)
            from = v->low;
    }
    for (int k = 0; k < n; from++) {
        assert(from < v->pool);
        if (!v->busy[from])
            id[k++] = from;
    }
}

/* -- slots ------------------------------------------------------------------------------------- */

/* Counts anew the mappings of a slot: rows of ids in order and with the same protection, and the
 * reserved rows between them. */
static void count_maps(struct vatt *v, int slot) {
    struct slot *s = &v->slot[slot];
    while (s->top > 0 && s->id[s->top - 1] < 0)
        s->top--;
    int n = s->top < v->span || v->stride > (size_t)v->span * v->group; /* what is behind */
    for (int i = 0; i < s->top; i++) {
        int a = i ? s->id[i - 1] : -2, b = s->id[i];
        bool same = a == -1 ? b < 0 : a >= 0 && b == a + 1 && v->g[a].ro == v->g[b].ro;
        n += !same;
    }
    v->maps += n - s->maps;
    s->maps = n;
}

static bool may_map(const struct vatt *v, int more) {
    return v->maps + more <= v->max_maps;
}

static void put(struct vatt *v, int slot, int i, int id) {
    struct slot *s = &v->slot[slot];
    assert(s->id[i] < 0);
    s->id[i] = id;
    s->top = i < s->top ? s->top : i + 1;
    change(v, id, 1, s->active);
}

/* Places [i, j) of a slot, all of which have groups, lose them; false = the system refused, and
 * they are still there. */
static bool take_out(struct vatt *v, int slot, int i, int j) {
    struct slot *s = &v->slot[slot];
    if (!sys_hide(v, address(v, slot, i), (size_t)(j - i) * v->group))
        return false;
    for (; i < j; i++) {
        int id = s->id[i];
        s->id[i] = -1;
        change(v, id, -1, -(int)s->active);
    }
    count_maps(v, slot);
    return true;
}

/* Maps groups id[0..n) at places [i, i + n), one call for each row; returns how many. */
static int put_all(struct vatt *v, int slot, int i, const int *id, int n, int prot) {
    int done = 0;
    for (int k; done < n; done += k) {
        for (k = 1; done + k < n && id[done + k] == id[done] + k;)
            k++;
        if (!may_map(v, 2) || !sys_map(v, address(v, slot, i + done), id[done], k, prot))
            break;
        for (int j = 0; j < k; j++)
            put(v, slot, i + done + j, id[done + j]);
        count_maps(v, slot);
        v->mapped += k;
    }
    return done;
}

static void poison(const struct vatt *v, int slot, int i) {
    if (v->poison)
        memset(address(v, slot, i), 0xff, v->group);
}

/* Places [i, j) of a slot, all with groups, become read-only. */
static bool publish(struct vatt *v, int slot, int i, int j) {
    const struct slot *s = &v->slot[slot];
    int lo = i;
    for (int k = i; k <= j; k++) /* what is already needs no call */
        if (k == j || v->g[s->id[k]].ro) {
            if (k > lo && !sys_protect(v, address(v, slot, lo), k - lo, PROT_READ))
                return false;
            for (; lo < k; lo++)
                v->g[s->id[lo]].ro = true;
            lo = k + 1;
        }
    count_maps(v, slot);
    return true;
}

/* -- reclaiming -------------------------------------------------------------------------------- */

/* Frees up to n groups of one released slot from its end; false = it has none to give. */
static bool reclaim_from(struct vatt *v, int slot, int n) {
    const struct slot *s = &v->slot[slot];
    int j = s->top, i;
    while (j > 0 && (s->id[j - 1] < 0 || v->g[s->id[j - 1]].live || v->g[s->id[j - 1]].held))
        j--;
    for (i = j; i > 0 && j - i < n; i--) {
        int id = s->id[i - 1];
        if (id < 0 || v->g[id].live || v->g[id].held)
            break;
    }
    return i < j && take_out(v, slot, i, j);
}

/* The slot released first that has something to give, up to n groups of it. */
static bool reclaim(struct vatt *v, int n) {
    long after = -1;
    for (;;) {
        int pick = -1;
        for (int i = 0; i < v->n_slot; i++) {
            const struct slot *s = &v->slot[i];
            if (!s->active && s->top && s->released > after &&
                (pick < 0 || s->released < v->slot[pick].released))
                pick = i;
        }
        if (pick < 0)
            return false;
        if (reclaim_from(v, pick, n))
            return true;
        after = v->slot[pick].released;
    }
}

/* n free groups, chosen as choose() does; false = there are not as many. */
static bool take(struct vatt *v, int prev, int n, int *id) {
    if (vatt_available(v) < n)
        return false;
    while (v->pool - v->n_busy < n)
        if (!reclaim(v, n - (v->pool - v->n_busy)) && !(v->drop && v->drop(v->ud)))
            return false;
    choose(v, prev, n, id);
    return true;
}

/* -- a slot's life ----------------------------------------------------------------------------- */

bool vatt_active(const struct vatt *v, int slot) {
    return v->slot[slot].active;
}

int vatt_mapped(const struct vatt *v, int slot) {
    const struct slot *s = &v->slot[slot];
    int n = 0;
    while (n < s->top && s->id[n] >= 0)
        n++;
    return n;
}

int vatt_count(const struct vatt *v, int slot) {
    const struct slot *s = &v->slot[slot];
    int n = 0;
    for (int i = 0; i < s->top; i++)
        n += s->id[i] >= 0;
    return n;
}

static void set_active(struct vatt *v, int slot, bool active) {
    struct slot *s = &v->slot[slot];
    assert(s->active != active);
    s->active = active;
    for (int i = 0; i < s->top; i++)
        if (s->id[i] >= 0)
            change(v, s->id[i], 0, active ? 1 : -1);
}

/* Place i of a slot, whose group nobody else has, shall be writable. */
static bool make_writable(struct vatt *v, int slot, int i) {
    struct group *g = &v->g[v->slot[slot].id[i]];
    if (!g->ro)
        return true;
    if (!may_map(v, 2) || !sys_protect(v, address(v, slot, i), 1, RW))
        return false;
    g->ro = false;
    count_maps(v, slot);
    return true;
}

void vatt_resume(struct vatt *v, int slot, int keep) {
    struct slot *s = &v->slot[slot];
    assert(!s->active);
    for (int i = keep, j; i < s->top; i = j) {
        j = i + 1;
        if (s->id[i] >= 0 && !shared(v, s->id[i])) {
            v->reused++;
            continue;
        }
        while (s->id[i] >= 0 && j < s->top && s->id[j] >= 0 && shared(v, s->id[j]))
            j++;
        if (s->id[i] >= 0)
            take_out(v, slot, i, j); /* refused: vatt_ensure tries again */
    }
    set_active(v, slot, true);
    for (int i = keep; v->poison && i < s->top; i++)
        if (s->id[i] >= 0 && !shared(v, s->id[i]) && make_writable(v, slot, i))
            poison(v, slot, i);
}

/* Groups of a slot that a sequence may write to. */
static int own_groups(const struct vatt *v, int slot) {
    const struct slot *s = &v->slot[slot];
    int n = 0;
    for (int i = 0; i < s->top; i++)
        n += s->id[i] >= 0 && !shared(v, s->id[i]);
    return n;
}

int vatt_pick(struct vatt *v, int n) {
    int pick = -1, most = 0;
    for (int i = 0; i < v->n_slot; i++) {
        if (v->slot[i].active)
            continue;
        int own = own_groups(v, i);
        bool enough = own >= n, had = pick >= 0 && most >= n;
        bool better = enough && had ? own < most : enough || (!had && own > most);
        if (pick < 0 || better || (own == most && v->slot[i].released < v->slot[pick].released)) {
            pick = i;
            most = own;
        }
    }
    if (pick >= 0)
        vatt_resume(v, pick, 0);
    return pick;
}

void vatt_release(struct vatt *v, int slot) {
    set_active(v, slot, false);
    v->slot[slot].released = ++v->releases;
}

int vatt_missing(const struct vatt *v, int slot, int n) {
    int missing = n;
    for (int i = 0; slot >= 0 && i < n && i < v->slot[slot].top; i++)
        missing -= v->slot[slot].id[i] >= 0;
    return missing;
}

/* Puts n new groups at places from i on that have none; -1 = none was. */
static int grow(struct vatt *v, int slot, int i, int n) {
    struct slot *s = &v->slot[slot];
    int *id = mem_array((size_t)n, sizeof *id);
    bool ok = take(v, i > 0 ? s->id[i - 1] : -1, n, id);
    int done = ok ? put_all(v, slot, i, id, n, RW) : 0;
    if (done && done < n && take_out(v, slot, i, i + done))
        done = 0;
    for (int k = 0; k < done; k++)
        poison(v, slot, i + k);
    if (done == n)
        ahead_used(v->ahead, id[n - 1] + 1);
    free(id);
    return done == n ? 0 : -1;
}

/* Places [from, n) that have a group have one of their own, writable. */
static bool own_all(struct vatt *v, int slot, int from, int n) {
    const struct slot *s = &v->slot[slot];
    for (int i = from; i < n && i < s->top; i++) {
        if (s->id[i] < 0)
            continue;
        if (shared(v, s->id[i]) ? !take_out(v, slot, i, i + 1) : !make_writable(v, slot, i))
            return false;
    }
    return true;
}

int vatt_ensure(struct vatt *v, int slot, int from, int n) {
    struct slot *s = &v->slot[slot];
    assert(s->active);
    if (n > v->span || !own_all(v, slot, from, n) || vatt_missing(v, slot, n) > vatt_available(v))
        return -1;
    for (int i = 0, j; i < n; i = j) {
        bool there = i < s->top && s->id[i] >= 0;
        for (j = i + 1; j < n && (j < s->top && s->id[j] >= 0) == there;)
            j++;
        if (!there && grow(v, slot, i, j - i))
            return -1;
    }
    return 0;
}

int vatt_own(struct vatt *v, int slot, int i) {
    struct slot *s = &v->slot[slot];
    int old = s->id[i], id;
    assert(s->active && old >= 0);
    if (!shared(v, old))
        return make_writable(v, slot, i) ? 0 : -1;
    if (!may_map(v, 4) || !take(v, -1, 1, &id) || !sys_map(v, v->scratch, id, 1, RW))
        return -1;
    memcpy(v->scratch, address(v, slot, i), v->group);
    ahead_used(v->ahead, id + 1);
    bool ok = sys_map(v, address(v, slot, i), id, 1, RW);
    bool back = ok || sys_map(v, address(v, slot, i), old, 1, PROT_READ);
    sys_hide(v, v->scratch, v->group); /* refused: the next use replaces it */
    if (ok || !back) {
        s->id[i] = -1;
        change(v, old, -1, -1);
    }
    if (ok) {
        put(v, slot, i, id);
        v->copied++;
    }
    count_maps(v, slot);
    return ok ? 0 : -1;
}

int vatt_copy(struct vatt *v, int dst, int src, int i) {
    assert(v->slot[dst].active && v->slot[src].id[i] >= 0);
    bool active = v->slot[src].active;
    if (!active) /* must not be reclaimed meanwhile */
        set_active(v, src, true);
    bool there = i < v->slot[dst].top && v->slot[dst].id[i] >= 0;
    int failed = there ? -!own_all(v, dst, i, i + 1) : grow(v, dst, i, 1);
    if (!failed) {
        memcpy(address(v, dst, i), address(v, src, i), v->group);
        v->copied++;
    }
    if (!active)
        set_active(v, src, false);
    return failed;
}

/* Groups of a slot at places [0, n) make room for others. */
static bool clear(struct vatt *v, int slot, int n) {
    const struct slot *s = &v->slot[slot];
    for (int i = 0, j; i < n && i < s->top; i = j) {
        j = i + 1;
        if (s->id[i] < 0)
            continue;
        while (j < n && j < s->top && s->id[j] >= 0)
            j++;
        if (!take_out(v, slot, i, j))
            return false;
    }
    return true;
}

int vatt_share(struct vatt *v, int dst, int src, int n) {
    assert(dst != src && v->slot[dst].active && n <= vatt_mapped(v, src));
    if (!n || !may_map(v, 2) || !publish(v, src, 0, n) || !clear(v, dst, n))
        return 0;
    return put_all(v, dst, 0, v->slot[src].id, n, PROT_READ);
}

/* -- groups without a slot --------------------------------------------------------------------- */

int vatt_hold(struct vatt *v, int slot, int i) {
    int id = v->slot[slot].id[i];
    assert(v->slot[slot].active && id >= 0);
    if (!v->g[id].ro && (!may_map(v, 2) || !publish(v, slot, i, i + 1)))
        return -1;
    set_held(v, id, true);
    return id;
}

void vatt_drop(struct vatt *v, int id) {
    assert(v->g[id].held);
    set_held(v, id, false);
}

int vatt_attach(struct vatt *v, int slot, const int *id, int n) {
    assert(v->slot[slot].active);
    return clear(v, slot, n) ? put_all(v, slot, 0, id, n, PROT_READ) : 0;
}

void vatt_on_short(struct vatt *v, bool (*drop)(void *ud), void *ud) {
    v->drop = drop;
    v->ud = ud;
}

bool vatt_held_alone(const struct vatt *v, int id) {
    return v->g[id].held && !v->g[id].live;
}

/* -- open and close ---------------------------------------------------------------------------- */

static int read_max_maps(void) {
    int n = 65530; /* the kernel's own default, where there is no /proc */
    FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
    if (f && fscanf(f, "%d", &n) != 1)
        n = 65530;
    if (f)
        fclose(f);
    return n / 4 * 3;
}

static int open_pool(size_t bytes, struct err *err) {
    int fd = memfd_create("pumice-kv", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) /* Linux before 6.3 */
        fd = memfd_create("pumice-kv", MFD_CLOEXEC);
    if (fd < 0)
        return err_set(err, E_MEMORY, "KV cache: memfd_create: %s", strerror(errno));
    if (ftruncate(fd, (off_t)bytes)) {
        err_set(err, E_MEMORY, "KV cache: a memory file of %zu MiB: %s", bytes >> 20,
                strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

static int reserve(struct vatt *v, struct err *err) {
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    char *p =
        mmap(NULL, v->area_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        const char *why = strerror(errno);
        getrlimit(RLIMIT_AS, &limit);
        if (limit.rlim_cur == RLIM_INFINITY)
            return err_set(err, E_MEMORY, "KV cache: reserving %zu MiB of addresses: %s",
                           v->area_bytes >> 20, why);
        return err_set(err, E_MEMORY,
                       "KV cache: reserving %zu MiB of addresses: %s (`ulimit -v` allows %zu MiB)",
                       v->area_bytes >> 20, why, (size_t)limit.rlim_cur >> 20);
    }
    keep_private(p, v->area_bytes);
    v->area = p;
    v->scratch = (char *)(((uintptr_t)p + HUGE - 1) / HUGE * HUGE);
    v->at = (size_t)(v->scratch - p) + (v->group + HUGE - 1) / HUGE * HUGE;
    return 0;
}

struct vatt *vatt_open(const struct vatt_opts *o, struct err *err) {
    struct vatt *v = mem_new(sizeof *v);
    *v = (struct vatt){.group = o->group,
                       .n_slot = o->n_slot,
                       .span = o->span,
                       .pool = o->pool,
                       .max_maps = o->max_maps ? o->max_maps : read_max_maps(),
                       .poison = o->poison,
                       .fd = -1};
    size_t pool_bytes = 0;
    if (!size_mul(o->group, (size_t)o->span, &v->stride) ||
        !size_add(v->stride, HUGE - 1, &v->stride) ||
        !size_mul(v->stride / HUGE * HUGE, (size_t)o->n_slot, &v->area_bytes) ||
        !size_add(v->area_bytes, o->group + 3 * HUGE, &v->area_bytes) ||
        !size_mul(o->group, (size_t)o->pool, &pool_bytes) || pool_bytes > (size_t)INT64_MAX) {
        err_set(err, E_MEMORY, "KV cache: %d slots of %d x %zu bytes overflow the address space",
                o->n_slot, o->span, o->group);
        goto fail;
    }
    v->stride = v->stride / HUGE * HUGE;
    if (reserve(v, err) || (v->fd = open_pool(pool_bytes, err)) < 0)
        goto fail;
    v->slot = mem_array((size_t)o->n_slot, sizeof *v->slot);
    v->g = mem_array((size_t)o->pool, sizeof *v->g);
    v->busy = mem_array((size_t)o->pool, sizeof *v->busy);
    for (int i = 0; i < o->n_slot; i++) {
        v->slot[i].id = mem_array((size_t)o->span, sizeof *v->slot[i].id);
        memset(v->slot[i].id, 0xff, (size_t)o->span * sizeof *v->slot[i].id); /* -1 */
        count_maps(v, i);
    }
    v->ahead = ahead_open(v->fd, o->group, o->pool, o->ahead);
    return v;
fail:
    vatt_close(v);
    return NULL;
}

void vatt_close(struct vatt *v) {
    if (!v)
        return;
    ahead_close(v->ahead);
    if (v->area)
        munmap(v->area, v->area_bytes);
    if (v->fd >= 0)
        close(v->fd);
    for (int i = 0; v->slot && i < v->n_slot; i++)
        free(v->slot[i].id);
    free(v->slot);
    free(v->g);
    free(v->busy);
    free(v);
}

char *vatt_base(const struct vatt *v, int slot) {
    return address(v, slot, 0);
}

/* -- figures ----------------------------------------------------------------------------------- */

void vatt_stats(const struct vatt *v, struct vatt_stats *s) {
    struct stat st = {0};
    fstat(v->fd, &st); /* cannot fail on an open file of ours */
    *s = (struct vatt_stats){.pool = v->pool,
                             .used = v->n_busy,
                             .live = v->n_live,
                             .maps = v->maps,
                             .max_maps = v->max_maps,
                             .reserved = v->area_bytes,
                             .held = (size_t)st.st_blocks * 512,
                             .mapped = v->mapped,
                             .reused = v->reused,
                             .copied = v->copied};
    ahead_counts(v->ahead, &s->warm, &s->huge);
}

void vatt_inject(struct vatt *v, int n) {
    v->fail_in = n;
}

/* One line of /proc/self/maps against the tables; counts the mappings of slots. */
static const char *check_line(const struct vatt *v, const char *line, int *maps) {
    unsigned long lo, hi, offset;
    char prot[5];
    if (sscanf(line, "%lx-%lx %4s %lx", &lo, &hi, prot, &offset) != 4)
        return "/proc/self/maps has a line of another form";
    uintptr_t first = (uintptr_t)address(v, 0, 0), last = (uintptr_t)v->area + v->area_bytes;
    if (hi <= first || lo >= last)
        return NULL;
    ++*maps;
    for (uintptr_t p = lo > first ? lo : first; p < hi && p < last; p += v->group) {
        int slot = (int)((p - first) / v->stride);
        size_t in = (p - first) % v->stride;
        if (slot >= v->n_slot || in / v->group >= (size_t)v->span) {
            p = first + (size_t)(slot + 1) * v->stride - v->group; /* to the next slot */
            continue;
        }
        int id = v->slot[slot].id[in / v->group];
        const char *want = id < 0 ? "---p" : v->g[id].ro ? "r--s" : "rw-s";
        if (strcmp(prot, want))
            return id < 0 ? "a place without a group is mapped" : "a group has another protection";
        if (id >= 0 && offset + (p - lo) != (size_t)id * v->group)
            return "a place shows another group than its own";
    }
    return NULL;
}

static const char *check_maps(const struct vatt *v) {
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    const char *wrong = NULL;
    int maps = 0;
    while (f && !wrong && fgets(line, sizeof line, f))
        wrong = check_line(v, line, &maps);
    if (f)
        fclose(f);
    return wrong ? wrong : maps > v->maps + 1 ? "there are more mappings than counted" : NULL;
}

const char *vatt_check(const struct vatt *v) {
    int *refs = mem_array((size_t)v->pool, 2 * sizeof *refs), *live = refs + v->pool;
    int busy = 0, n_live = 0, idle = 0;
    const char *wrong = NULL;
    for (int i = 0; i < v->n_slot; i++)
        for (int k = 0; k < v->slot[i].top; k++)
            if (v->slot[i].id[k] >= 0) {
                refs[v->slot[i].id[k]]++;
                live[v->slot[i].id[k]] += v->slot[i].active;
            }
    for (int i = 0; i < v->pool; i++) {
        const struct group *g = &v->g[i];
        bool used = g->refs || g->held;
        if (g->refs != refs[i] || g->live != live[i])
            wrong = "a group is counted in more or fewer slots than have it";
        if (v->busy[i] != used || (!used && i < v->low))
            wrong = "a free group is marked as used, or the other way round";
        if (used && (g->refs > 1 || g->held) && !g->ro)
            wrong = "a shared group is writable";
        busy += used;
        n_live += g->live > 0;
        idle += g->held && !g->live;
    }
    free(refs);
    if (busy != v->n_busy || n_live != v->n_live || idle != v->n_held_idle)
        wrong = "totals differ";
    return wrong ? wrong : check_maps(v);
}
