/* vattention_ahead.h - which groups of the pool have their pages, and a thread that fetches pages
 * before a group is used: that takes 0.1 to 1 ms a group of 2 MiB, where mapping one that has them
 * takes 5 to 150 us. */
#ifndef METHOD_VATTENTION_AHEAD_H
#define METHOD_VATTENTION_AHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct ahead;

/* fd is borrowed until ahead_close.  n: groups that the thread keeps ahead of the highest one used;
 * 0, or where no thread can be started: none. */
struct ahead *ahead_open(int fd, size_t group, int pool, int n);
void ahead_close(struct ahead *a);

bool ahead_warm(const struct ahead *a, int id, int n); /* all of groups [id, id + n) */
void ahead_note(struct ahead *a, int id, int n);       /* they are, by the caller    */
void ahead_used(struct ahead *a, int top);             /* groups below top are in use */
void ahead_counts(const struct ahead *a, int *warm, int *huge);

/* Fetches the pages of a slice of fd that is mapped writable at p; false = there is no memory. */
bool ahead_fetch(int fd, void *p, off_t at, size_t bytes);

#endif
