/* mem.c - see mem.h. */
#include "base/mem.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static _Thread_local int guard_depth;

bool size_mul(size_t a, size_t b, size_t *out) {
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

bool size_add(size_t a, size_t b, size_t *out) {
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static void die(size_t bytes) {
    fprintf(stderr, "pumice: out of memory (%zu bytes)\n", bytes);
    exit(E_MEMORY);
}

static void check_guard(void) {
    if (guard_depth > 0) {
        fprintf(stderr, "pumice: bug: allocation inside the forward pass\n");
        abort();
    }
}

void *mem_array(size_t n, size_t size) {
    check_guard();
    size_t bytes;
    if (!size_mul(n, size, &bytes))
        die(SIZE_MAX);
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        die(bytes);
    return p;
}

void *mem_new(size_t bytes) {
    return mem_array(1, bytes);
}

void *mem_resize(void *p, size_t n, size_t size) {
    check_guard();
    size_t bytes;
    if (!size_mul(n, size, &bytes))
        die(SIZE_MAX);
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q)
        die(bytes);
    return q;
}

void *mem_dup(const void *p, size_t bytes) {
    void *q = mem_new(bytes);
    if (bytes)
        memcpy(q, p, bytes);
    return q;
}

char *mem_strdup(const char *s) {
    return mem_dup(s, strlen(s) + 1);
}

#define HUGE ((size_t)2 << 20)

/* Small requests are rounded to pages, large ones to huge pages; free recomputes the size. */
static size_t page_round(size_t bytes) {
    size_t unit = bytes >= HUGE ? HUGE : 4096;
    return (bytes + unit - 1) / unit * unit;
}

void *mem_pages(size_t bytes, const char *what, struct err *err) {
    if (bytes == 0)
        bytes = 1;
    size_t total = 0;
    bool fits = bytes <= SIZE_MAX / 2 && size_add(page_round(bytes), HUGE, &total);
    char *p = fits ? mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                   : MAP_FAILED;
    if (p == MAP_FAILED) {
        err_set(err, E_MEMORY, "%s: cannot get %zu bytes of memory", what, bytes);
        return NULL;
    }
    /* Give back the ends so that the block starts on a huge page. */
    size_t keep = page_round(bytes);
    char *start = (char *)(((uintptr_t)p + HUGE - 1) / HUGE * HUGE);
    if (start > p)
        munmap(p, (size_t)(start - p));
    if (start + keep < p + total)
        munmap(start + keep, (size_t)(p + total - (start + keep)));
    if (keep >= HUGE)
        madvise(start, keep, MADV_HUGEPAGE); /* advice only: refusal costs speed, not results */
    return start;
}

void mem_pages_free(void *p, size_t bytes) {
    if (p)
        munmap(p, page_round(bytes ? bytes : 1));
}

void mem_guard_enter(void) {
    guard_depth++;
}

void mem_guard_leave(void) {
    guard_depth--;
}

size_t mem_resident(void) {
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f)
        return 0;
    size_t total = 0, resident = 0;
    int got = fscanf(f, "%zu %zu", &total, &resident);
    fclose(f);
    return got == 2 ? resident * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

/* The number in a file of one, or behind `key` in a file of lines "key number"; 0 = there is none
 * (a limit of "max"). */
static size_t number_in(const char *folder, const char *name, const char *key) {
    char path[1024], line[256];
    unsigned long long n = 0;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return 0;
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    for (bool found = false; !found && fgets(line, sizeof line, f);) {
        size_t len = key ? strlen(key) : 0;
        if (!key || (!strncmp(line, key, len) && line[len] == ' '))
            found = sscanf(line + len, "%llu", &n) == 1;
    }
    fclose(f);
    return (size_t)n;
}

/* What the limit of one control group leaves, cached files counted as free; SIZE_MAX = no limit. */
static size_t room_in(const char *folder, bool v1) {
    size_t limit = number_in(folder, v1 ? "memory.limit_in_bytes" : "memory.max", NULL);
    size_t used = number_in(folder, v1 ? "memory.usage_in_bytes" : "memory.current", NULL);
    size_t cached = number_in(folder, "memory.stat", v1 ? "total_inactive_file" : "inactive_file");
    if (!limit || limit > (size_t)1 << 60)
        return SIZE_MAX;
    used = used > cached ? used - cached : 0;
    return limit > used ? limit - used : 0;
}

/* The least of a group's and its ancestors' room.  In a container the path may be the host's: then
 * only its root is there, which is the container's own group. */
static size_t room_up_from(const char *mount, char *path, bool v1) {
    char folder[1024];
    size_t room = SIZE_MAX;
    for (;;) {
        snprintf(folder, sizeof folder, "%s%s", mount, path);
        size_t here = room_in(folder, v1);
        room = here < room ? here : room;
        char *slash = strrchr(path, '/');
        if (!slash)
            return room;
        *slash = 0;
    }
}

size_t mem_group_room(const char *cgroups, const char *mount) {
    FILE *f = fopen(cgroups, "r");
    char line[512], v1_mount[512];
    size_t room = SIZE_MAX;
    if (!f)
        return room;
    snprintf(v1_mount, sizeof v1_mount, "%s/memory", mount);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *name = strchr(line, ':'), *path = name ? strchr(name + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        bool v1 = !strcmp(name + 1, "memory"), v2 = !strcmp(line, "0:");
        if (!v1 && !v2)
            continue;
        size_t here = room_up_from(v1 ? v1_mount : mount, path, v1);
        room = here < room ? here : room;
    }
    fclose(f);
    return room;
}

size_t mem_available(void) {
    size_t free_kib = number_in("/proc", "meminfo", "MemAvailable:"); /* 0: there is no /proc */
    size_t room = mem_group_room("/proc/self/cgroup", "/sys/fs/cgroup");
    size_t bytes = free_kib * 1024;
    return free_kib && bytes < room ? bytes : room == SIZE_MAX ? 0 : room;
}
