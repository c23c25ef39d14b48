/* hist.h - a histogram of seconds with the fixed buckets that /metrics prints. */
#ifndef SERVE_HIST_H
#define SERVE_HIST_H

#include <stdint.h>

enum { HIST_MAX = 24 };

struct hist {
    const double *bound; /* ascending upper bounds; static */
    int n;
    int64_t count[HIST_MAX + 1]; /* the last one is beyond all bounds */
    double sum;
};

struct hist hist_wide(void); /* 10 ms .. 640 s: times to the first token and of whole requests */
struct hist hist_fine(void); /* 1 ms .. 10 s: times between tokens */
void hist_add(struct hist *h, double seconds);
int64_t hist_total(const struct hist *h);
double hist_mean(const struct hist *h); /* 0 if nothing was added */

#endif
