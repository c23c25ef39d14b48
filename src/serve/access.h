/* access.h - who may ask: API keys, the Host header, origins of browsers. */
#ifndef SERVE_ACCESS_H
#define SERVE_ACCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct keys; /* hashes of the API keys */

/* One empty set; keys_add copies the hash only.  A file has one key a line; empty lines and those
 * that begin with '#' do not count.  E_USAGE for an empty key or a file without any. */
struct keys *keys_new(void);
void keys_free(struct keys *k);
int keys_add(struct keys *k, const char *key, struct err *err);
int keys_file(struct keys *k, const char *path, struct err *err);
int keys_count(const struct keys *k);
/* The time does not depend on which byte differs, nor on which key matches.  *tenant becomes a
 * number of the key's own, never 0. */
bool keys_match(const struct keys *k, const char *key, uint64_t *tenant);
/* What keeps the cached prompts of different tenants and salts apart; 0 for neither (0, NULL). */
uint64_t tenant_salt(uint64_t tenant, const char *salt);

/* Whether a Host header's value names this machine by a name that no foreign DNS can give it:
 * localhost, *.localhost, a loopback address, our own host name.  Guards a server on a loopback
 * address against pages that point their own name at it. */
bool host_is_local(const char *host);

/* Whether a browser's page of this origin may read answers.  allowed: comma-separated origins,
 * "localhost" for any port of this machine, "*" for all; NULL = none.  The server's own page
 * (origin's host equals the Host header) always may. */
bool origin_allowed(const char *origin, const char *host, const char *allowed);

#endif
