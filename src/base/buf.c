/* buf.c - see buf.h.  Capacities double, so n appends cost O(n). */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Next capacity that holds `need` items, doubling from `cap`. */
static size_t grow(size_t cap, size_t need) {
    size_t c = cap ? cap : 64;
    while (c < need && c <= SIZE_MAX / 2)
        c *= 2;
    return c < need ? need : c;
}

void buf_reserve(struct buf *b, size_t extra) {
    size_t need = SIZE_MAX;
    size_add(b->len, extra, &need);
    if (need <= b->cap)
        return;
    b->cap = grow(b->cap, need);
    b->data = mem_resize(b->data, b->cap, 1);
}

void buf_add(struct buf *b, const void *p, size_t n) {
    if (!n)
        return;
    buf_reserve(b, n);
    memcpy(b->data + b->len, p, n);
    b->len += n;
}

void buf_addc(struct buf *b, char c) {
    buf_add(b, &c, 1);
}

void buf_adds(struct buf *b, const char *s) {
    buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n > 0) {
        buf_reserve(b, (size_t)n + 1);
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

const char *buf_str(struct buf *b) {
    buf_reserve(b, 1);
    b->data[b->len] = 0;
    return b->data;
}

void buf_free(struct buf *b) {
    free(b->data);
    *b = (struct buf){0};
}

void ids_reserve(struct ids *v, size_t extra) {
    size_t need = SIZE_MAX;
    size_add(v->n, extra, &need);
    if (need <= v->cap)
        return;
    v->cap = grow(v->cap, need);
    v->id = mem_resize(v->id, v->cap, sizeof *v->id);
}

void ids_add(struct ids *v, int32_t id) {
    ids_reserve(v, 1);
    v->id[v->n++] = id;
}

void ids_addn(struct ids *v, const int32_t *id, size_t n) {
    if (!n)
        return;
    ids_reserve(v, n);
    memcpy(v->id + v->n, id, n * sizeof *id);
    v->n += n;
}

void ids_free(struct ids *v) {
    free(v->id);
    *v = (struct ids){0};
}
