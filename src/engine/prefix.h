/* prefix.h - the RAM prefix cache: the longest known beginning of a new sequence, over all that
 * are live or were, so that it need not be computed again.
 *
 * It knows (1) the tokens of every slot, live or released and not yet reused, token by token, and
 * (2) with the virtual layout, groups of tokens whose slot is gone, in chains from the first group
 * of a sequence; those are given up in order of last use when memory runs short.  What it returns
 * was compared token by token: a hash only finds candidates.  One thread calls everything. */
#ifndef ENGINE_PREFIX_H
#define ENGINE_PREFIX_H

#include <stdint.h>

#include "model/kv.h"

struct prefix;

/* kv is borrowed until prefix_close, which must come before kv_close. */
struct prefix *prefix_open(struct kv *kv);
void prefix_close(struct prefix *p);

/* A slot for a sequence that begins with ids, now active; its first *n_cached <= n tokens are there
 * (pass n without the tokens whose logits are wanted).  Only sequences with the same salt are
 * looked at: one salt a tenant.  -1 = all slots are active. */
int prefix_start(struct prefix *p, const int32_t *ids, int n, uint64_t salt, int *n_cached);
/* How many tokens prefix_start would find; changes nothing. */
int prefix_peek(const struct prefix *p, const int32_t *ids, int n, uint64_t salt);
/* After a step: the slot's keys and values are now those of ids[0..n); what it held before is a
 * prefix of it. */
void prefix_note(struct prefix *p, int slot, const int32_t *ids, int n);
/* The sequence is over (or preempted): kv_release; what it held can be found until it is needed. */
void prefix_end(struct prefix *p, int slot);

struct prefix_stats {
    long starts, hits;   /* sequences, and those that found something */
    long tokens, cached; /* of them in ids, and found                 */
    long dropped;        /* groups given up for want of memory        */
    int groups;          /* in chains now                             */
};
void prefix_stats(const struct prefix *p, struct prefix_stats *s);

/* For tests: as if the hash had so few bits, so that different tokens collide. */
void prefix_weaken(struct prefix *p, int bits);

#endif
