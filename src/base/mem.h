/* mem.h - memory: small allocations die with a message, budgets fail with an err, no size wraps. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* Checked size arithmetic for all that comes from a file; false = would wrap, *out untouched. */
bool size_mul(size_t a, size_t b, size_t *out);
bool size_add(size_t a, size_t b, size_t *out);

/* Small allocations: zeroed, owned by the caller, released with free().  Exit with status 5 and
 * a message when the system has no memory; never return NULL.  mem_resize does not zero the new
 * part. */
void *mem_new(size_t bytes);
void *mem_array(size_t n, size_t size);
void *mem_resize(void *p, size_t n, size_t size);
void *mem_dup(const void *p, size_t bytes);
char *mem_strdup(const char *s);

/* A budget: page-aligned zeroed anonymous memory, in transparent huge pages where the system
 * allows (2 MiB alignment; a file mapping gets none, and TLB misses cost up to a third of decode
 * speed).  NULL and E_MEMORY on failure.  `what` names the purpose in the message.  Release with
 * the same size. */
void *mem_pages(size_t bytes, const char *what, struct err *err);
void mem_pages_free(void *p, size_t bytes);

/* Between enter and leave, a mem_new or mem_resize on this thread aborts: the forward pass must not
 * allocate.  Nests. */
void mem_guard_enter(void);
void mem_guard_leave(void);

/* Resident set of this process, and what the system and the limits of its control groups (versions
 * 1 and 2) could still give, in bytes (0 = unknown). */
size_t mem_resident(void);
size_t mem_available(void);
/* The latter, from a file like /proc/self/cgroup and the folder where groups are mounted;
 * SIZE_MAX = no limit. */
size_t mem_group_room(const char *cgroups, const char *mount);

#endif
