/* kv.h - the keys and values of past tokens, per sequence slot, in blocks of ATTEND_BLOCK tokens as
 * num/attend.h lays them out.  run.c sees only views with strides.
 *
 * Flat: each slot owns memory for n_ctx tokens from the start.  Virtual (method/vattention.h): a
 * slot owns addresses for n_ctx tokens, and memory in groups of kv_group_tokens() as it grows; a
 * group may stand in several slots.  Bits are the same.
 *
 * A slot's life: kv_pick or kv_resume; kv_share or kv_attach if its beginning is known; before each
 * run_step that writes to it kv_ensure; kv_release.  What a released slot held stays readable (for
 * kv_share and kv_resume) until it is picked or its memory is needed.  One thread calls all. */
#ifndef MODEL_KV_H
#define MODEL_KV_H

#include "model/cfg.h"
#include "num/attend.h"

struct kv;

enum kv_layout { KV_FLAT, KV_VIRTUAL };
struct kv_opts {
    enum kv_layout layout;
    int n_slot, n_ctx;
    enum dtype type; /* DT_F32, DT_F16, DT_BF16 or DT_INT8 (bytes, and a scale for each head)   */
    size_t pool;     /* virtual: bytes for all slots together and the prefix cache; 0 = every slot's
                      * n_ctx tokens, or what memory there is less a reserve, if that is less  */
    int ahead;       /* virtual: groups whose pages a thread fetches before they are used; 0 = as
                      * many as help, -1 = none, and no thread                                 */
    bool poison;     /* virtual: fill groups with NaN before use, as a build for tests does     */
};

/* E_MEMORY with the bytes needed.  Where the system refuses what the virtual layout is made of, the
 * layout is flat and kv_note says why. */
struct kv *kv_open_as(const struct cfg *c, const struct kv_opts *o, struct err *err);
/* Flat; its slots may be written without kv_pick and kv_ensure. */
struct kv *kv_open(const struct cfg *c, int n_slot, int n_ctx, enum dtype type, struct err *err);
void kv_close(struct kv *kv);
int kv_ctx(const struct kv *kv);
int kv_slots(const struct kv *kv);
enum kv_layout kv_layout(const struct kv *kv);
const char *kv_note(const struct kv *kv); /* why the layout is not the one asked for, or "" */
enum dtype kv_type(const struct kv *kv);
enum dtype kv_parse(const char *name);                       /* DT_NONE = none; "q8_0" is int8 */
enum dtype kv_default(enum dtype weights);                   /* DT_F32 for DT_F32, else DT_BF16 */
size_t kv_bytes(const struct kv *kv);                        /* reserved, all slots */
size_t kv_token_bytes(const struct cfg *c, enum dtype type); /* K and V of one token, all layers */

/* -- slots ------------------------------------------------------------------------------------ */

/* A released slot, now active and empty: the one whose memory fits n_tok tokens best; among equals
 * the one released first.  -1 = all are active. */
int kv_pick(struct kv *kv, int n_tok);
/* Makes a released slot active with the first n_tok of its tokens; how many it really has then
 * (fewer if memory for a copy of a shared group is short, or they are gone). */
int kv_resume(struct kv *kv, int slot, int n_tok);
/* Tokens that a slot holds: those of its last kv_ensure, kv_share..., or what is left of them. */
int kv_tokens(const struct kv *kv, int slot);
bool kv_active(const struct kv *kv, int slot);
/* Memory for an active slot's tokens up to n_tok, which must not be fewer than it holds.
 * -1 = there is not enough, and nothing has changed; flat: never for n_tok <= n_ctx. */
int kv_ensure(struct kv *kv, int slot, int n_tok);
/* Tokens [0, n_tok) of src, which holds them, become those of dst, which is active and empty;
 * returns how many: fewer if memory for the last group's copy is short.  Virtual: the same memory,
 * read-only in both from now on; flat: a copy. */
int kv_share(struct kv *kv, int dst, int src, int n_tok);
void kv_release(struct kv *kv, int slot);

/* -- admission -------------------------------------------------------------------------------- */

int kv_group_tokens(const struct kv *kv); /* of the unit in which memory is given; flat: n_ctx */
int kv_groups(const struct kv *kv);       /* in the pool; flat: slots */
/* Groups that kv_ensure could still hand out: free ones, and those that only released slots and the
 * prefix cache hold. */
int kv_groups_free(const struct kv *kv);
/* Groups that kv_ensure(slot, n_tok) would take of these; slot -1: of a new sequence. */
int kv_groups_need(const struct kv *kv, int slot, int n_tok);
/* The two together. */
bool kv_room(const struct kv *kv, int slot, int n_tok);

/* -- groups held by a cache (engine/prefix.h); flat has none ----------------------------------- */

/* Group `group` of an active slot, all of whose tokens are there, becomes read-only and is kept
 * until kv_drop; its number, or -1 (flat).  Again: the same. */
int kv_hold(struct kv *kv, int slot, int group);
void kv_drop(struct kv *kv, int id);
/* Held groups become the first n of an active, empty slot; returns the tokens it has then. */
int kv_attach(struct kv *kv, int slot, const int *id, int n);
/* Called when kv_ensure runs short: drop(ud) shall kv_drop one held group, the least useful first,
 * or return false. */
void kv_on_short(struct kv *kv, bool (*drop)(void *ud), void *ud);
bool kv_held_alone(const struct kv *kv, int id); /* no active slot has that group */

/* -- what run.c needs -------------------------------------------------------------------------- */

/* K and V of one layer of one slot: block b of head g is at k + g * head + attend_at(&at, b). */
struct kv_view {
    char *k, *v;
    size_t head; /* bytes from one to the next */
    struct attend_place at;
    enum dtype type;
};
struct kv_view kv_view(const struct kv *kv, int slot, int layer);
/* Tokens pos .. pos + n - 1 of a slot may be written: it has memory for them, of its own. */
bool kv_ready(const struct kv *kv, int slot, int pos, int n);

/* -- figures ----------------------------------------------------------------------------------- */

struct kv_stats {
    enum kv_layout layout;
    const char *note; /* kv_note, borrowed until kv_close */
    size_t static_bytes; /* what memory for every slot's n_ctx tokens would take              */
    size_t pool_bytes;   /* the most that may be held                                         */
    size_t held_bytes;   /* physical memory now: blocks of the pool file; flat: resident      */
    size_t live_bytes;   /* of the tokens in active slots; shared ones once                   */
    size_t cached_bytes; /* of groups that only released slots or the prefix cache hold       */
    size_t group_bytes;
    size_t pad_bytes; /* of a group, that no token can use                                  */
    int group_tokens, groups, groups_free, maps;
    int huge;                    /* groups in huge pages                                    */
    long mapped, reused, copied; /* groups since the start: by mmap, found in a slot, copied */
};
void kv_stats(const struct kv *kv, struct kv_stats *s);

#endif
