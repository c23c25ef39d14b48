/* progress.h - a line on standard error for work of more than two seconds; only on a terminal. */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdint.h>

struct progress {
    const char *label; /* borrowed until progress_end */
    int64_t total, start_us, shown_us;
};

struct progress progress_start(const char *label, int64_t total);
void progress_update(struct progress *p, int64_t done); /* redraws at most ten times a second */
void progress_end(struct progress *p);                  /* wipes the line */

#endif
