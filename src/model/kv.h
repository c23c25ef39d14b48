/* kv.h - the keys and values of past tokens, per sequence slot, in blocks of ATTEND_BLOCK tokens as
 * num/attend.h lays them out.  Flat layout: one piece per slot; run.c sees only views with strides,
 * so that another layout is a change to this pair of files. */
#ifndef MODEL_KV_H
#define MODEL_KV_H

#include "model/cfg.h"
#include "num/mat.h"

struct kv;

/* Room for n_slot sequences of n_ctx tokens; type is DT_F32, DT_F16, DT_BF16 or DT_INT8 (bytes, and
 * a scale for each head of a token).  E_MEMORY with the bytes needed. */
struct kv *kv_open(const struct cfg *c, int n_slot, int n_ctx, enum dtype type, struct err *err);
void kv_close(struct kv *kv);
int kv_ctx(const struct kv *kv);
int kv_slots(const struct kv *kv);
enum dtype kv_type(const struct kv *kv);
enum dtype kv_parse(const char *name);                       /* DT_NONE = none; "q8_0" is int8 */
enum dtype kv_default(enum dtype weights);                   /* DT_F32 for DT_F32, else DT_BF16 */
size_t kv_bytes(const struct kv *kv);                        /* reserved, all slots */
size_t kv_token_bytes(const struct cfg *c, enum dtype type); /* K and V of one token, all layers */

/* K and V of one layer of one slot: block b of head g is at k + g * head + b * block. */
struct kv_view {
    char *k, *v;
    size_t head, block; /* bytes from one to the next */
    enum dtype type;
};
struct kv_view kv_view(const struct kv *kv, int slot, int layer);

#endif
