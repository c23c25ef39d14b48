/* preview.c - what the model says now: a few tokens after a prompt, by the forward pass of
 * inference. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/run.h"
#include "model/sample.h"
#include "train/loop.h"

static int encode_prompt(const struct train *t, struct ids *ids, struct err *err) {
    const struct tok *tok = t->m->tok;
    const char *prompt = t->c->sample_prompt;
    const struct chat_msg ask = {"user", prompt};
    if (t->info.data.chats && *prompt && t->m->chat != CHAT_NONE)
        return chat_encode(t->m->chat, tok, &ask, 1, ids, err);
    if (tok_adds_bos(tok))
        ids_add(ids, tok_bos(tok));
    if (tok_encode(tok, prompt, strlen(prompt), false, ids, err))
        return -1;
    if (ids->n == 0)
        ids_add(ids, tok_eos(tok)); /* the end of one document is the start of the next */
    return 0;
}

static bool ends(const struct train *t, int32_t id) {
    int32_t stop[4];
    int n = chat_stops(t->m->chat, t->m->tok, stop, 4);
    for (int i = 0; i < n; i++)
        if (stop[i] == id)
            return true;
    return id < 0 || id >= tok_size(t->m->tok) || id == tok_eos(t->m->tok);
}

int train_sample(struct train *t, struct buf *out, struct err *err) {
    const struct cfg *c = &t->m->cfg;
    struct ids ids = {0};
    struct kv *kv = NULL;
    struct run *run = NULL;
    struct sampler *sampler = NULL;
    float *logits = NULL;
    int rc = -1;
    if (encode_prompt(t, &ids, err))
        goto out;
    int n = (int)ids.n, room = n + (int)t->c->sample_tokens;
    room = room < c->max_ctx ? room : c->max_ctx;
    if (n >= room) {
        err_set(err, E_USAGE, "%s: sample_prompt has %d tokens; the model's context is %d",
                t->c->path, n, c->max_ctx);
        goto out;
    }
    if (!(kv = kv_open(c, 1, room, DT_F32, err)) || !(run = run_new(t->m, t->pool, n, room, err)))
        goto out;
    struct sampling s = sampling_default();
    s.seed = (uint64_t)t->s.step;
    sampler = sampler_new(&s, c->vocab);
    logits = mem_array((size_t)c->vocab, sizeof *logits);
    int at = 0;
    for (int32_t next; at < room; ids_add(&ids, next)) {
        const struct span span = {0, at, (int)ids.n - at, ids.id + at, WANT_LAST};
        if (run_step(run, kv, &(struct batch){&span, 1}, logits, err))
            goto out;
        at = (int)ids.n;
        next = sampler_next(sampler, logits);
        if (ends(t, next))
            break;
    }
    rc = tok_decode(t->m->tok, ids.id + n, ids.n - (size_t)n, false, out, err);
out:
    free(logits);
    sampler_free(sampler);
    run_free(run);
    kv_close(kv);
    ids_free(&ids);
    return rc;
}
