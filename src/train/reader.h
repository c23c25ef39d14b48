/* reader.h - the documents of a text file, piece by piece, in bounded memory. */
#ifndef TRAIN_READER_H
#define TRAIN_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define READER_MAX ((size_t)64 << 20) /* the longest stretch without a place to cut */

struct piece {
    const char *text; /* borrowed until the next call */
    size_t len;
    bool first, last; /* of its document; a long document comes in several pieces */
    int64_t at, line; /* where in the file: byte from 0, line from 1 */
};

struct reader;

/* separator ends a document (NULL: the file is one); white space around documents is dropped and
 * empty ones are left out. With `lines` a document is a line and never cut. path and separator are
 * borrowed until reader_close. */
struct reader *reader_open(const char *path, const char *separator, bool lines, struct err *err);
void reader_close(struct reader *r);

/* 1 = *p is the next piece, 0 = the end. E_FORMAT names the file and the byte: a NUL byte, more
 * than one percent that is not UTF-8, READER_MAX bytes without a line's end. */
int reader_next(struct reader *r, struct piece *p, struct err *err);

#endif
