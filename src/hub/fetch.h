/* fetch.h - HTTP downloads through libcurl, bounded in bytes and in patience. */
#ifndef HUB_FETCH_H
#define HUB_FETCH_H

#include "base/buf.h"
#include "base/progress.h"
#include "hub/hub.h"

struct fetch;

/* h is borrowed.  The token goes to the endpoint's host only, and never over plain HTTP except to
 * this machine.  Redirects may not leave HTTPS unless the endpoint itself is plain HTTP. */
struct fetch *fetch_open(const struct hub *h, struct err *err);
void fetch_close(struct fetch *f);

/* path is what follows the endpoint.  Appends the body, at most `max` bytes.  *next, if not NULL:
 * the path of the next page (Link: rel="next"), owned, or NULL. */
int fetch_text(struct fetch *f, const char *path, size_t max, struct buf *out, char **next,
               struct err *err);

/* Continues a file of `size` bytes of which fd holds *have, until it is complete.  A server that
 * cannot continue begins again.  After a cut connection it tries again, five times without a byte
 * of progress at most.  *have tells how far it got, also on failure. */
int fetch_file(struct fetch *f, const char *path, int fd, int64_t *have, int64_t size,
               struct progress *p, struct err *err);

#endif
