/* hub.h - models of the Hugging Face hub, in the cache that its other clients share, so that one
 * download serves them all:
 *
 *     CACHE/models--ORG--NAME/refs/REV              the commit that a branch or tag was at
 *                             snapshots/COMMIT/...  links to
 *                             blobs/OID             the bytes; OID = SHA-256, or git's SHA-1
 *                             blobs/OID.incomplete  as far as a download got
 *     CACHE/.locks/models--ORG--NAME/pull.lock      held while a pull is under way
 *
 * What a hub answers is not trusted: names stay inside the snapshot, sizes are bounds, digests are
 * computed.  No folder or blob is reached through a link that somebody planted. */
#ifndef HUB_HUB_H
#define HUB_HUB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Where models come from and go to.  From the environment: HF_ENDPOINT (https://huggingface.co);
 * HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub; HF_TOKEN,
 * HF_TOKEN_PATH, HF_HOME/token; HF_HUB_OFFLINE.  The strings are owned. */
struct hub {
    char *endpoint, *cache, *token; /* token NULL = none */
    bool offline;
};
int hub_open(struct hub *h, struct err *err); /* E_USAGE names the variable that is wrong */
void hub_close(struct hub *h);

/* ORG/NAME[:QUANT][@REV]: QUANT picks among GGUF files (Q4_K_M), REV is a branch, tag or commit. */
struct hub_name {
    char repo[200], quant[32], rev[100]; /* quant may be empty; rev is "main" if not given */
};
int hub_parse(const char *text, struct hub_name *out, struct err *err);

struct hub_pulled {
    char *path; /* owned: the snapshot's folder, or the .gguf file in it that was asked for */
    int n_file;
    int64_t bytes, fetched; /* of all its files; of what had to be downloaded */
};
/* Makes the snapshot complete.  include: globs of paths, none = what a model needs (config,
 * tokenizer, safetensors; or the GGUF file of the quantisation).  A second pull of the same waits.
 * E_NETWORK, E_IO (with the bytes needed, if the disk is too small), E_FORMAT (digests, names). */
int hub_pull(const struct hub *h, const struct hub_name *name, const char *const *include,
             int n_include, struct hub_pulled *out, struct err *err);

/* The path of a pulled model as hub_pulled has it, owned by the caller; NULL if it is not there. */
char *hub_find(const struct hub *h, const struct hub_name *name);

struct hub_entry { /* borrowed during the callback */
    const char *repo, *commit, *path;
    int64_t bytes, modified; /* of its files; seconds since 1970 */
    int n_file;
};
/* Every snapshot in the cache, in the order of names. */
int hub_list(const struct hub *h, void (*each)(void *ud, const struct hub_entry *e), void *ud,
             struct err *err);
/* Deletes a repository from the cache; *freed: bytes.  E_USAGE if it is not there, E_BUSY if it is
 * being pulled. */
int hub_remove(const struct hub *h, const char *repo, int64_t *freed, struct err *err);

#endif
