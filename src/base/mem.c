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

size_t mem_available(void) {
    FILE *f = fopen("/proc/meminfo", "r");
    if (!f)
        return 0;
    char line[128];
    size_t kib = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %zu kB", &kib) == 1)
            break;
    fclose(f);
    return kib * 1024;
}
