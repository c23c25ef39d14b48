/* vattention.h - memory for arrays that grow: each has its addresses from the start, and gets
 * physical memory in groups as it needs them.
 *
 * After vAttention (Prabhu et al., ASPLOS 2025), on Linux: the pool is a memfd, a group a slice of
 * it, growing a slot an mmap over its reserved addresses.  A group may stand in several slots, then
 * read-only in all of them, the owner's included.  Knows bytes, slots and groups; not what is in
 * them.  One thread calls everything; a thread of its own only fetches pages for groups that are
 * not yet in use.  docs/method/vattention.md has the figures. */
#ifndef METHOD_VATTENTION_H
#define METHOD_VATTENTION_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct vatt;

struct vatt_opts {
    size_t group;     /* bytes, a multiple of the page size                                     */
    int n_slot, span; /* slots, and groups that each has addresses for                          */
    int pool;         /* groups of memory, at most                                              */
    int max_maps;     /* of this process's mappings, at most; 0 = 3/4 of vm.max_map_count       */
    int ahead;        /* groups whose pages a thread fetches before they are used; 0 = none     */
    bool poison;      /* fill groups with 0xff (NaN) before they are used: finds stale reads    */
};

/* Reserves addresses, takes no memory.  E_MEMORY naming what the system refused. */
struct vatt *vatt_open(const struct vatt_opts *o, struct err *err);
void vatt_close(struct vatt *v);
char *vatt_base(const struct vatt *v, int slot); /* aligned to 2 MiB; vatt_opts.span groups */

/* -- slots: released until picked or resumed, then active until vatt_release ----------------- */

/* The released slot that best fits n groups: the fewest that it need not share and are at least n,
 * else the most; of equals the one released first.  Its shared groups are gone then, the others
 * hold anything.  -1 = none. */
int vatt_pick(struct vatt *v, int n);
/* The first `keep` groups of a released slot stay, as do later ones that nobody shares. */
void vatt_resume(struct vatt *v, int slot, int keep);
void vatt_release(struct vatt *v, int slot);
bool vatt_active(const struct vatt *v, int slot);
int vatt_mapped(const struct vatt *v, int slot); /* groups from the first to the first missing */
int vatt_count(const struct vatt *v, int slot);  /* all of its groups */

/* Groups [0, n) of an active slot have memory, and those from `from` on are its own and writable.
 * -1 = there is not enough, or the system refused: what the slot held it still holds. */
int vatt_ensure(struct vatt *v, int slot, int from, int n);
bool vatt_writable(const struct vatt *v, int slot, int i, int j); /* groups [i, j) */
/* Group i of an active slot is the slot's own and writable, with its contents: copied if it was
 * shared.  -1 as above. */
int vatt_own(struct vatt *v, int slot, int i);
/* The first n groups of src become those of dst, active and without groups; returns how many. */
int vatt_share(struct vatt *v, int dst, int src, int n);
/* Group i of dst, which is active, becomes a writable copy of the one of src.  -1 as above. */
int vatt_copy(struct vatt *v, int dst, int src, int i);

/* -- groups without a slot -------------------------------------------------------------------- */

int vatt_hold(struct vatt *v, int slot, int i); /* keeps group i until vatt_drop; -1 as above */
void vatt_drop(struct vatt *v, int id);
int vatt_attach(struct vatt *v, int slot, const int *id, int n); /* as vatt_share, of held groups */
/* Called when memory is short: drop(ud) shall vatt_drop one group or return false. */
void vatt_on_short(struct vatt *v, bool (*drop)(void *ud), void *ud);
bool vatt_held_alone(const struct vatt *v, int id); /* held, and in no active slot */

/* -- figures ----------------------------------------------------------------------------------- */

int vatt_available(const struct vatt *v); /* groups that active slots could still get */
int vatt_missing(const struct vatt *v, int slot, int n); /* of [0, n); slot -1: n */

struct vatt_stats {
    int pool, used, live;               /* groups: all, in use, in active slots                 */
    int maps, max_maps;                 /* mappings of the slots                                */
    size_t reserved, held;              /* bytes of addresses; of the memfd's blocks            */
    long mapped, reused, copied;        /* groups since the start: mmap, found in the slot, copy */
    int warm, huge;                     /* groups whose pages are there; in huge pages          */
};
void vatt_stats(const struct vatt *v, struct vatt_stats *s);
/* Conservation, and what is mapped against /proc/self/maps; NULL = all is well.  For tests. */
const char *vatt_check(const struct vatt *v);
/* For tests: the n-th system call from now fails with ENOMEM; 0 = none. */
void vatt_inject(struct vatt *v, int n);

#endif
