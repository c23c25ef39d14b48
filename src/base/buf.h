/* buf.h - growable bytes and growable token ids. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed = empty.  data is owned by the buf, valid until the next call that grows it. */
struct buf {
    char *data;
    size_t len, cap;
};

void buf_reserve(struct buf *b, size_t extra); /* room for `extra` more bytes beyond len */
void buf_add(struct buf *b, const void *p, size_t n);
void buf_addc(struct buf *b, char c);
void buf_adds(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* NUL-terminated view (the NUL is not counted in len); borrowed until the next call. */
const char *buf_str(struct buf *b);
void buf_free(struct buf *b); /* leaves it empty and usable */

/* The same for int32 token ids. */
struct ids {
    int32_t *id;
    size_t n, cap;
};

void ids_reserve(struct ids *v, size_t extra);
void ids_add(struct ids *v, int32_t id);
void ids_addn(struct ids *v, const int32_t *id, size_t n);
void ids_free(struct ids *v);

#endif
