/* probe.h - what this machine can do at most, measured now: the scale for every row of the
 * bench. */
#ifndef CMD_PROBE_H
#define CMD_PROBE_H

#include "base/err.h"
#include "base/pool.h"
#include "num/mat.h"

struct limits {  /* all threads of the pool together */
    double read; /* bytes per second from memory     */
    double f32, bf16,
        i8; /* operations per second, a multiply-add counts two; 0 = no such instruction */
    double barrier; /* seconds to enter the pool, meet the other threads and leave it        */
};

struct probe; /* a block of memory several times larger than the caches */

struct probe *probe_new(struct err *err);
void probe_free(struct probe *p);

double probe_read_rate(struct probe *p, struct pool *pool);     /* one pass, about 15 ms */
struct limits probe_limits(struct probe *p, struct pool *pool); /* medians of nine       */

/* Operations per second that bound a product with weights of this type: its own instruction's peak,
 * or the next wider one that the processor has; about 15 ms. */
double probe_ops_rate(struct pool *pool, enum dtype weights);

double median(double *v, int n); /* sorts v; n > 0 */

#endif
