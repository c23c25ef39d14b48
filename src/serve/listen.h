/* listen.h - the listening socket, and the limits that the system sets. */
#ifndef SERVE_LISTEN_H
#define SERVE_LISTEN_H

#include <stdbool.h>

#include "base/err.h"

enum { LISTEN_SPARE = 64 }; /* connections beyond the limit that are told so */

/* A listening socket on the first address of host; port 0 takes a free one.  -1 on failure. */
int listen_open(const char *host, int port, int *actual, bool *loopback, struct err *err);
void listen_tune(int fd); /* of an accepted connection */
/* How many connections of `wanted` the limit of open files allows; raises that as far as it may. */
int listen_most(int wanted);

#endif
