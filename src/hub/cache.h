/* cache.h - folders of the hub's cache, reached component by component and never through links. */
#ifndef HUB_CACHE_H
#define HUB_CACHE_H

#include <stdbool.h>

#include "hub/hub.h"

/* A path inside a repository that may become one inside a snapshot: relative, '/' between
 * components, none of them empty, ".", ".." or ".git", no backslash, colon or control character,
 * at most 255 bytes a component and 1,024 in all. */
bool cache_safe(const char *path);
bool cache_is_commit(const char *s); /* 40 hexadecimal digits in small letters */
/* "models--ORG--NAME"; the result is owned. */
char *cache_folder(const char *repo);

/* Opens folder `path` below the folder fd, without following links; `make`: creating what is
 * missing.  A descriptor owned by the caller, or -1; `what` names the cache in errors. */
int cache_dir(int fd, const char *what, const char *path, bool make, struct err *err);
int cache_root(const struct hub *h, bool make, struct err *err);

/* Takes the lock of a repository; if somebody else has it, says so and waits, or, without `wait`,
 * E_BUSY.  Released by closing the descriptor. */
int cache_lock(int root, const char *folder, bool wait, struct err *err);

#endif
