/* vattention.c - claims about src/method/vattention.c: nothing is lost, leaked or seen by another,
 * whatever runs short. */
#include "testing.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "method/vattention.h"

#define GROUP 4096 /* small ones, so that thousands of them cost little */

static struct vatt *open_small(int n_slot, int span, int pool) {
    struct err err = {0};
    struct vatt *v = vatt_open(
        &(struct vatt_opts){.group = GROUP, .n_slot = n_slot, .span = span, .pool = pool}, &err);
    if (!v)
        fail_msg("vatt_open: %s", err.msg);
    return v;
}

static void check(const struct vatt *v) {
    const char *wrong = vatt_check(v);
    if (wrong)
        fail_msg("%s", wrong);
}

/* Mappings of pools in this process; a sanitizer's own come and go. */
static int pool_maps(void) {
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    int n = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        n += strstr(line, "memfd:pumice-kv") != NULL;
    fclose(f);
    return n;
}

static int open_files(void) {
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* -- contents ---------------------------------------------------------------------------------- */

/* A group that sequence `who` has written tells of it in its first and last word. */
static void stamp(const struct vatt *v, int slot, int i, size_t group, uint64_t who) {
    uint64_t *p = (uint64_t *)(void *)(vatt_base(v, slot) + (size_t)i * group);
    p[0] = who;
    p[group / 8 - 1] = ~who;
}

static bool stamped(const struct vatt *v, int slot, int i, size_t group, uint64_t who) {
    const uint64_t *p = (const uint64_t *)(void *)(vatt_base(v, slot) + (size_t)i * group);
    return p[0] == who && p[group / 8 - 1] == ~who;
}

/* -- churn ------------------------------------------------------------------------------------- */

#define N_SLOT 16
#define SPAN 12
#define POOL 60 /* far fewer than all slots could use */

struct world { /* what the slots should hold, kept beside the allocator */
    struct vatt *v;
    struct rng rng;
    int n[N_SLOT];              /* groups of an active slot */
    uint64_t who[N_SLOT][SPAN]; /* who has written them */
    uint64_t next;
    int held[POOL], n_held; /* kept groups, and who has written them */
    uint64_t held_who[POOL];
    long failed, shared;
};

static bool drop_one(void *ud) {
    struct world *w = ud;
    for (int i = 0; i < w->n_held; i++)
        if (vatt_held_alone(w->v, w->held[i])) {
            vatt_drop(w->v, w->held[i]);
            w->n_held--;
            w->held[i] = w->held[w->n_held];
            w->held_who[i] = w->held_who[w->n_held];
            return true;
        }
    return false;
}

static void verify(const struct world *w, int slot) {
    for (int i = 0; i < w->n[slot]; i++)
        if (!stamped(w->v, slot, i, GROUP, w->who[slot][i]))
            fail_msg("slot %d has lost group %d", slot, i);
}

static void write_from(struct world *w, int slot, int from) {
    for (int i = from; i < w->n[slot]; i++)
        stamp(w->v, slot, i, GROUP, w->who[slot][i] = ++w->next);
}

static void grow_to(struct world *w, int slot, int n) {
    int had = w->n[slot];
    if (n <= had)
        return;
    if (vatt_ensure(w->v, slot, had, n)) {
        w->failed++;
        return;
    }
    w->n[slot] = n;
    write_from(w, slot, had);
}

static void start(struct world *w) {
    int slot = vatt_pick(w->v, 1 + (int)rng_below(&w->rng, SPAN));
    if (slot < 0)
        return;
    w->n[slot] = 0;
    int src = (int)rng_below(&w->rng, N_SLOT), how = (int)rng_below(&w->rng, 3);
    if (how == 0 && src != slot && vatt_active(w->v, src) && w->n[src]) {
        int n = vatt_share(w->v, slot, src, (int)rng_below(&w->rng, (uint32_t)w->n[src] + 1));
        memcpy(w->who[slot], w->who[src], sizeof w->who[src]);
        w->n[slot] = n;
        w->shared += n;
    } else if (how == 1 && w->n_held) {
        int i = (int)rng_below(&w->rng, (uint32_t)w->n_held);
        w->n[slot] = vatt_attach(w->v, slot, &w->held[i], 1);
        w->who[slot][0] = w->held_who[i];
    }
    grow_to(w, slot, 1 + (int)rng_below(&w->rng, SPAN));
}

static void hold_one(struct world *w, int slot) {
    int i = (int)rng_below(&w->rng, (uint32_t)w->n[slot]);
    int id = vatt_hold(w->v, slot, i);
    for (int k = 0; k < w->n_held; k++)
        if (w->held[k] == id) /* held already */
            return;
    if (id >= 0) {
        w->held_who[w->n_held] = w->who[slot][i];
        w->held[w->n_held++] = id;
    }
}

/* Sequences start, grow, share, write over what they share, are kept, and end, at random. */
static void churn(struct world *w, int steps) {
    for (int i = 0; i < steps; i++) {
        int slot = (int)rng_below(&w->rng, N_SLOT);
        if (!vatt_active(w->v, slot)) {
            start(w);
            continue;
        }
        verify(w, slot);
        switch (rng_below(&w->rng, 4)) {
        case 0:
            vatt_release(w->v, slot);
            break;
        case 1:
            if (w->n[slot])
                hold_one(w, slot);
            break;
        case 2: /* a writer into the middle copies first */
            if (w->n[slot] && vatt_own(w->v, slot, w->n[slot] - 1) == 0)
                write_from(w, slot, w->n[slot] - 1);
            break;
        default:
            grow_to(w, slot, w->n[slot] + 1 < SPAN ? w->n[slot] + 1 : SPAN);
        }
        if (i % 500 == 0)
            check(w->v);
    }
}

static void churn_of_10000_sequences_loses_and_leaks_nothing(void **state) {
    (void)state;
    int files = open_files();
    struct world w = {.v = open_small(N_SLOT, SPAN, POOL)};
    struct vatt_stats s;
    vatt_on_short(w.v, drop_one, &w);
    rng_seed(&w.rng, 11);
    churn(&w, 40000);
    for (int i = 0; i < N_SLOT; i++)
        if (vatt_active(w.v, i)) {
            verify(&w, i);
            vatt_release(w.v, i);
        }
    check(w.v);
    vatt_stats(w.v, &s);
    assert_true(w.failed > 100); /* the pool did run short, groups were shared and copied */
    assert_true(w.shared > 1000 && s.copied > 1000 && s.reused > 1000);
    assert_true(s.held <= (size_t)POOL * GROUP);
    assert_int_equal(s.live, 0);
    while (drop_one(&w))
        ;
    assert_int_equal(vatt_available(w.v), POOL);
    for (int i = 0; i * SPAN < POOL; i++) { /* all of it can be had at once */
        int slot = vatt_pick(w.v, SPAN);
        assert_int_equal(vatt_ensure(w.v, slot, 0, SPAN), 0);
    }
    check(w.v);
    vatt_close(w.v);
    assert_int_equal(pool_maps(), 0);
    assert_int_equal(open_files(), files);
}

static void mappings_come_back_to_where_they_were(void **state) {
    (void)state;
    struct vatt *v = open_small(8, 64, 512);
    int slot[8];
    FOR_SEEDS(300) {
        struct rng r;
        rng_seed(&r, seed);
        for (int i = 0; i < 8; i++) {
            slot[i] = vatt_pick(v, 1);
            assert_int_equal(vatt_ensure(v, slot[i], 0, 1 + (int)rng_below(&r, 64)), 0);
        }
        for (int i = 0; i < 8; i++)
            vatt_release(v, slot[i]);
    }
    check(v);
    struct vatt_stats s;
    vatt_stats(v, &s);
    assert_true(pool_maps() <= s.maps && s.maps < 200);
    vatt_close(v);
    assert_int_equal(pool_maps(), 0);
}

/* -- short of something ------------------------------------------------------------------------ */

static void exhaustion_fails_cleanly_and_live_data_stays(void **state) {
    (void)state;
    struct vatt *v = open_small(3, 10, 12);
    int a = vatt_pick(v, 8), b;
    assert_int_equal(vatt_ensure(v, a, 0, 8), 0);
    for (int i = 0; i < 8; i++)
        stamp(v, a, i, GROUP, 100 + (uint64_t)i);
    b = vatt_pick(v, 4);
    assert_int_equal(vatt_available(v), 4);
    assert_int_equal(vatt_ensure(v, b, 0, 5), -1);
    assert_int_equal(vatt_count(v, b), 0);
    assert_int_equal(vatt_available(v), 4);
    assert_int_equal(vatt_ensure(v, b, 0, 4), 0);
    assert_int_equal(vatt_available(v), 0);
    assert_int_equal(vatt_ensure(v, a, 8, 9), -1);
    for (int i = 0; i < 8; i++)
        assert_true(stamped(v, a, i, GROUP, 100 + (uint64_t)i));
    vatt_release(v, b);
    assert_int_equal(vatt_ensure(v, a, 8, 10), 0); /* from b's end */
    assert_int_equal(vatt_mapped(v, b), 2);
    check(v);
    vatt_close(v);
}

static void the_budget_of_mappings_is_never_exceeded(void **state) {
    (void)state;
    struct err err = {0};
    struct vatt *v = vatt_open(
        &(struct vatt_opts){.group = GROUP, .n_slot = 8, .span = 50, .pool = 400, .max_maps = 60},
        &err);
    struct vatt_stats s;
    int n[8] = {0}, failed = 0;
    assert_non_null(v);
    for (int i = 0; i < 8; i++)
        assert_int_equal(vatt_pick(v, 1), i);
    for (int round = 1; round <= 50; round++) /* in turns: no two groups of a slot are neighbours */
        for (int i = 0; i < 8; i++) {
            if (vatt_ensure(v, i, n[i], n[i] + 1))
                failed++;
            else
                stamp(v, i, n[i]++, GROUP, (uint64_t)(i * 1000 + round));
            vatt_stats(v, &s);
            assert_true(s.maps <= 60);
        }
    assert_true(failed > 0);
    check(v);
    for (int i = 0; i < 8; i++)
        assert_true(n[i] > 0 && stamped(v, i, 0, GROUP, (uint64_t)(i * 1000 + 1)));
    vatt_release(v, 0); /* what is given back can be used again */
    assert_int_equal(vatt_pick(v, 1), 0);
    assert_int_equal(vatt_ensure(v, 0, 0, n[0]), 0);
    vatt_close(v);
}

/* Every system call that the churn makes fails once; then it goes on. */
static void any_refused_system_call_leaves_all_data_intact(void **state) {
    (void)state;
    FOR_SEEDS(150) {
        struct world w = {.v = open_small(N_SLOT, SPAN, POOL)};
        vatt_on_short(w.v, drop_one, &w);
        rng_seed(&w.rng, seed % 5);
        vatt_inject(w.v, (int)seed);
        churn(&w, 120);
        vatt_inject(w.v, 0);
        for (int i = 0; i < N_SLOT; i++)
            if (vatt_active(w.v, i))
                verify(&w, i);
        check(w.v);
        vatt_close(w.v);
    }
}

static void what_cannot_be_reserved_is_an_error_with_its_size(void **state) {
    (void)state;
    struct err err = {0};
    assert_null(vatt_open(
        &(struct vatt_opts){
            .group = (size_t)1 << 40, .n_slot = 1 << 20, .span = 1 << 20, .pool = 1},
        &err));
    assert_int_equal(err.code, E_MEMORY);
    assert_non_null(strstr(err.msg, "overflow the address space"));
    err = (struct err){0};
    assert_null(vatt_open(
        &(struct vatt_opts){.group = (size_t)1 << 40, .n_slot = 1, .span = 1 << 10, .pool = 1},
        &err));
    assert_int_equal(err.code, E_MEMORY);
    assert_non_null(strstr(err.msg, "of addresses"));
}

/* -- reuse and sharing ------------------------------------------------------------------------- */

static void best_fit_prefers_enough_and_smallest_else_the_largest(void **state) {
    (void)state;
    struct vatt *v = open_small(3, 20, 40);
    static const int had[] = {9, 2, 5};
    struct vatt_stats before, after;
    for (int i = 0; i < 3; i++)
        assert_int_equal(vatt_ensure(v, vatt_pick(v, had[i]), 0, had[i]), 0);
    for (int i = 0; i < 3; i++)
        vatt_release(v, i);
    vatt_stats(v, &before);
    assert_int_equal(vatt_pick(v, 4), 2); /* 5 are enough, 9 more than needed */
    assert_int_equal(vatt_ensure(v, 2, 0, 5), 0);
    assert_int_equal(vatt_pick(v, 20), 0); /* none is enough: the largest */
    assert_int_equal(vatt_ensure(v, 0, 0, 9), 0);
    vatt_stats(v, &after);
    assert_int_equal(after.mapped, before.mapped); /* both found their memory mapped */
    vatt_close(v);
}

static void released_slots_give_from_their_end_the_oldest_first(void **state) {
    (void)state;
    struct vatt *v = open_small(4, 10, 20);
    for (int i = 0; i < 4; i++)
        assert_int_equal(vatt_ensure(v, vatt_pick(v, 5), 0, 5), 0);
    for (int i = 0; i < 5; i++)
        stamp(v, 1, i, GROUP, 50 + (uint64_t)i);
    vatt_release(v, 2);
    vatt_release(v, 1);
    assert_int_equal(vatt_ensure(v, 0, 5, 8), 0);
    assert_int_equal(vatt_mapped(v, 2), 2);
    assert_int_equal(vatt_mapped(v, 1), 5);
    assert_int_equal(vatt_ensure(v, 3, 5, 9), 0);
    assert_int_equal(vatt_mapped(v, 2), 0);
    assert_int_equal(vatt_mapped(v, 1), 3);
    vatt_resume(v, 1, 3);
    for (int i = 0; i < 3; i++)
        assert_true(stamped(v, 1, i, GROUP, 50 + (uint64_t)i));
    check(v);
    vatt_close(v);
}

static void shared_groups_are_the_same_memory_until_somebody_writes(void **state) {
    (void)state;
    struct vatt *v = open_small(3, 10, 20);
    struct vatt_stats one, two;
    int a = vatt_pick(v, 4), b = vatt_pick(v, 1);
    assert_int_equal(vatt_ensure(v, a, 0, 4), 0);
    for (int i = 0; i < 4; i++)
        stamp(v, a, i, GROUP, 7 + (uint64_t)i);
    vatt_stats(v, &one);
    assert_int_equal(vatt_share(v, b, a, 3), 3);
    vatt_stats(v, &two);
    assert_int_equal(one.held, two.held);
    assert_int_equal(one.used, two.used);
    assert_false(vatt_writable(v, a, 0, 1));
    assert_true(vatt_writable(v, a, 3, 4));
    assert_int_equal(vatt_copy(v, b, a, 3), 0);
    assert_int_equal(vatt_own(v, b, 1), 0);
    stamp(v, b, 1, GROUP, 99);
    stamp(v, b, 3, GROUP, 98);
    for (int i = 0; i < 4; i++)
        assert_true(stamped(v, a, i, GROUP, 7 + (uint64_t)i));
    assert_true(stamped(v, b, 0, GROUP, 7) && stamped(v, b, 1, GROUP, 99) &&
                stamped(v, b, 2, GROUP, 9) && stamped(v, b, 3, GROUP, 98));
    vatt_release(v, a); /* the other one keeps what they share */
    vatt_pick(v, 1);
    assert_true(stamped(v, b, 0, GROUP, 7) && stamped(v, b, 2, GROUP, 9));
    check(v);
    vatt_close(v);
}

static void a_held_group_outlives_its_slot_and_is_dropped_when_memory_is_short(void **state) {
    (void)state;
    struct world w = {.v = open_small(2, 10, 6)};
    int a = vatt_pick(w.v, 4), id[2];
    vatt_on_short(w.v, drop_one, &w);
    assert_int_equal(vatt_ensure(w.v, a, 0, 4), 0);
    for (int i = 0; i < 4; i++)
        stamp(w.v, a, i, GROUP, 20 + (uint64_t)i);
    for (int i = 0; i < 2; i++)
        w.held[w.n_held++] = id[i] = vatt_hold(w.v, a, i);
    vatt_release(w.v, a);
    int b = vatt_pick(w.v, 1);
    assert_int_equal(vatt_attach(w.v, b, id, 2), 2);
    assert_true(stamped(w.v, b, 0, GROUP, 20) && stamped(w.v, b, 1, GROUP, 21));
    assert_int_equal(vatt_ensure(w.v, b, 2, 6), 0); /* takes all there is but the held ones */
    assert_int_equal(w.n_held, 2);
    vatt_release(w.v, b);
    b = vatt_pick(w.v, 6);
    assert_int_equal(vatt_ensure(w.v, b, 0, 6), 0);
    assert_int_equal(w.n_held, 0);
    check(w.v);
    vatt_close(w.v);
}

static void groups_in_order_are_one_mapping(void **state) {
    (void)state;
    struct vatt *v = open_small(2, 200, 400);
    struct vatt_stats s;
    int a = vatt_pick(v, 1);
    for (int n = 1; n <= 200; n++)
        assert_int_equal(vatt_ensure(v, a, n - 1, n), 0);
    vatt_stats(v, &s);
    assert_true(s.maps <= 3);
    assert_int_equal(pool_maps(), 1);
    vatt_close(v);
}

static void fresh_groups_are_poisoned_where_asked(void **state) {
    (void)state;
    struct err err = {0};
    struct vatt *v = vatt_open(
        &(struct vatt_opts){.group = GROUP, .n_slot = 2, .span = 4, .pool = 4, .poison = true},
        &err);
    assert_non_null(v);
    for (int round = 0; round < 3; round++) { /* fresh, found in the slot, from another's end */
        int a = vatt_pick(v, 4);
        assert_int_equal(vatt_ensure(v, a, 0, 4), 0);
        for (int i = 0; i < 4 * GROUP; i++)
            assert_int_equal((unsigned char)vatt_base(v, a)[i], 0xff);
        memset(vatt_base(v, a), round, 4 * GROUP);
        int other = round == 1 ? vatt_pick(v, 1) : -1;
        vatt_release(v, a);
        if (other >= 0)
            vatt_release(v, other);
    }
    vatt_close(v);
}

/* -- guards ------------------------------------------------------------------------------------ */

/* Whether a child dies of SIGSEGV when it does this with a pool of its own. */
static bool dies(void (*act)(struct vatt *v)) {
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct err err = {0};
        signal(SIGSEGV, SIG_DFL); /* not a sanitizer's report */
        signal(SIGBUS, SIG_DFL);
        struct vatt *v =
            vatt_open(&(struct vatt_opts){.group = GROUP, .n_slot = 2, .span = 8, .pool = 8}, &err);
        vatt_pick(v, 1);
        vatt_pick(v, 1);
        if (vatt_ensure(v, 0, 0, 3))
            _exit(3);
        act(v);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static void nothing(struct vatt *v) {
    *(volatile char *)(vatt_base(v, 0) + 3 * GROUP - 1) = 1;
}

static void read_past_the_end(struct vatt *v) {
    (void)*(volatile char *)(vatt_base(v, 0) + 3 * GROUP);
}

static void write_as_guest(struct vatt *v) {
    vatt_share(v, 1, 0, 2);
    *(volatile char *)vatt_base(v, 1) = 1;
}

static void write_as_owner(struct vatt *v) {
    vatt_share(v, 1, 0, 2);
    *(volatile char *)vatt_base(v, 0) = 1;
}

static void write_to_held(struct vatt *v) {
    vatt_hold(v, 0, 1);
    *(volatile char *)(vatt_base(v, 0) + GROUP) = 1;
}

static void read_after_it_was_reclaimed(struct vatt *v) {
    vatt_release(v, 0);
    vatt_ensure(v, 1, 0, 8);
    (void)*(volatile char *)vatt_base(v, 0);
}

static void reading_past_the_end_or_writing_what_is_shared_is_fatal(void **state) {
    (void)state;
    assert_false(dies(nothing));
    assert_true(dies(read_past_the_end));
    assert_true(dies(write_as_guest));
    assert_true(dies(write_as_owner));
    assert_true(dies(write_to_held));
    assert_true(dies(read_after_it_was_reclaimed));
}

static void a_forked_child_and_a_core_have_none_of_it(void **state) {
    (void)state;
    struct vatt *v = open_small(1, 4, 4);
    char line[256], *at = NULL;
    unsigned long lo, hi, flags = 0;
    int a = vatt_pick(v, 2), status = 0;
    assert_int_equal(vatt_ensure(v, a, 0, 2), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(pool_maps());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(pool_maps(), 1);
    FILE *f = fopen("/proc/self/smaps", "r");
    bool mine = false;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &lo, &hi) == 2)
            mine = lo <= (uintptr_t)vatt_base(v, a) && (uintptr_t)vatt_base(v, a) < hi;
        if (mine && (at = strstr(line, "VmFlags:")))
            flags += strstr(at, " dd") && strstr(at, " dc");
    }
    if (f)
        fclose(f);
    assert_int_equal(flags, 1);
    vatt_close(v);
}

/* -- the thread -------------------------------------------------------------------------------- */

static void pages_are_fetched_ahead_of_use(void **state) {
    (void)state;
    struct err err = {0};
    size_t group = (size_t)2 << 20;
    struct vatt *v = vatt_open(
        &(struct vatt_opts){.group = group, .n_slot = 2, .span = 8, .pool = 16, .ahead = 2}, &err);
    struct vatt_stats s = {0};
    assert_non_null(v);
    int a = vatt_pick(v, 1);
    for (int n = 1; n <= 6; n++) { /* uses groups while the thread fetches and collapses them */
        assert_int_equal(vatt_ensure(v, a, n - 1, n), 0);
        stamp(v, a, n - 1, group, (uint64_t)n);
        for (int i = 0; i < n; i++)
            assert_true(stamped(v, a, i, group, (uint64_t)i + 1));
    }
    for (int i = 0; i < 2000 && s.warm < 8; i++) {
        nanosleep(&(struct timespec){0, 5000000}, NULL);
        vatt_stats(v, &s);
    }
    assert_int_equal(s.warm, 8); /* two more than are used */
    assert_int_equal(s.held, 8 * group);
    for (int i = 0; i < 6; i++)
        assert_true(stamped(v, a, i, group, (uint64_t)i + 1));
    printf("  %d of 8 groups in huge pages\n", s.huge);
    check(v);
    vatt_close(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(churn_of_10000_sequences_loses_and_leaks_nothing),
        cmocka_unit_test(mappings_come_back_to_where_they_were),
        cmocka_unit_test(exhaustion_fails_cleanly_and_live_data_stays),
        cmocka_unit_test(the_budget_of_mappings_is_never_exceeded),
        cmocka_unit_test(any_refused_system_call_leaves_all_data_intact),
        cmocka_unit_test(what_cannot_be_reserved_is_an_error_with_its_size),
        cmocka_unit_test(best_fit_prefers_enough_and_smallest_else_the_largest),
        cmocka_unit_test(released_slots_give_from_their_end_the_oldest_first),
        cmocka_unit_test(shared_groups_are_the_same_memory_until_somebody_writes),
        cmocka_unit_test(a_held_group_outlives_its_slot_and_is_dropped_when_memory_is_short),
        cmocka_unit_test(groups_in_order_are_one_mapping),
        cmocka_unit_test(fresh_groups_are_poisoned_where_asked),
        cmocka_unit_test(reading_past_the_end_or_writing_what_is_shared_is_fatal),
        cmocka_unit_test(a_forked_child_and_a_core_have_none_of_it),
        cmocka_unit_test(pages_are_fetched_ahead_of_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
