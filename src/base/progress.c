/* progress.c - see progress.h. */
#include "base/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

struct progress progress_start(const char *label, int64_t total) {
    return (struct progress){.label = label, .total = total, .start_us = clock_us()};
}

void progress_update(struct progress *p, int64_t done) {
    int64_t now = clock_us();
    if (now - p->start_us < 2000000 || now - p->shown_us < 100000 || !isatty(STDERR_FILENO))
        return;
    p->shown_us = now;
    double rest = (double)(p->total - done);
    double left = done > 0 ? (double)(now - p->start_us) * rest / (double)done : 0;
    fprintf(stderr, "\r\033[K%s %3.0f%%  %.0f s left", p->label,
            p->total > 0 ? 100.0 * (double)done / (double)p->total : 0.0, left / 1e6);
    fflush(stderr);
}

void progress_end(struct progress *p) {
    if (p->shown_us)
        fprintf(stderr, "\r\033[K");
    *p = (struct progress){0};
}
