/* framing.h - a request's header, read strictly: what two servers could read differently is
 * refused. */
#ifndef SERVE_FRAMING_H
#define SERVE_FRAMING_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/fault.h"

struct MHD_Connection;

struct request_head { /* strings are borrowed until the end of the request; NULL = absent */
    const char *host, *origin, *authorization, *api_key;
    const char *id; /* X-Request-Id, if it is one that we would hand out too */
    int64_t length; /* of the body; 0 = none or chunked */
    bool chunked, expects, json; /* expects: 100-continue; json: or no type given */
};

/* -1 with a fault: Content-Length beside Transfer-Encoding, either of them or Host twice, a coding
 * other than chunked, more than 16 KiB or 100 fields of header. */
int framing_read(struct MHD_Connection *c, const char *version, struct request_head *head,
                 struct fault *f);

#endif
