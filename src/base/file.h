/* file.h - files: read whole or mapped, written so that a crash leaves the old or the new one. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

bool file_exists(const char *path);
bool file_is_dir(const char *path);
char *path_join(const char *dir, const char *name); /* owned by the caller */

/* Makes dir where it is absent; *empty: nothing is in it.  E_IO if it is not a folder. */
int dir_make(const char *dir, bool *empty, struct err *err);
/* A folder that appears whole or not at all: DIR.tmp-PID, empty, into which files are written (not
 * folders); dir_commit syncs it and renames it to DIR, which must be absent or empty; dir_abort
 * removes it.  The path is owned by the caller, also after these; NULL on failure. */
char *dir_begin(const char *dir, struct err *err);
int dir_commit(const char *tmp, const char *dir, struct err *err);
void dir_abort(const char *tmp); /* accepts NULL */
/* Copies from_dir/name into to_dir if it is there. */
int file_copy(const char *from_dir, const char *name, const char *to_dir, struct err *err);

/* Appends the whole file to out.  E_IO if it cannot be read, E_FORMAT if larger than max bytes
 * (checked before anything is allocated, and again while reading). */
int file_read(const char *path, size_t max, struct buf *out, struct err *err);

/* A read-only mapping; data is borrowed until file_close. */
struct file {
    const uint8_t *data; /* NULL for an empty file */
    size_t size;
};
int file_open(struct file *f, const char *path, struct err *err);
void file_close(struct file *f); /* accepts a zeroed file */

/* Write to PATH.tmp-PID, then out_commit: flush, fsync, rename over PATH, fsync the folder.
 * out_abort (or process death) leaves PATH as it was.  All return 0 or -1. */
struct out;
struct out *out_open(const char *path, struct err *err);
int out_write(struct out *o, const void *p, size_t n, struct err *err);
int out_commit(struct out *o, struct err *err); /* frees o, also on failure */
void out_abort(struct out *o);                  /* accepts NULL */
/* Open, write, commit. */
int file_write(const char *path, const void *p, size_t n, struct err *err);

#endif
