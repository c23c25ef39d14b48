/* json.h - jansson, with limits and with errors that name file, field and reason. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Parses one JSON object; `path` only names it in errors.  Duplicate keys, bad UTF-8, trailing
 * bytes and depth beyond 2048 are E_FORMAT.  The caller owns the reference. */
json_t *json_parse(const char *path, const void *data, size_t n, struct err *err);
json_t *json_file(const char *path, size_t max_bytes, struct err *err);

/* Writes dir/name atomically, indented by `indent`; takes over j's reference.  A NULL j, what
 * jansson gives for a value it could not build, is E_MEMORY. */
int json_write(const char *dir, const char *name, json_t *j, int indent, struct err *err);

/* Typed getters: an absent or null key leaves *out untouched (set the default before) and
 * returns 0; a wrong type or a value outside [lo, hi] is E_FORMAT naming path and key.  NaN
 * cannot occur in JSON. */
int json_get_int(const json_t *obj, const char *path, const char *key, int64_t lo, int64_t hi,
                 int64_t *out, struct err *err);
int json_get_real(const json_t *obj, const char *path, const char *key, double lo, double hi,
                  double *out, struct err *err);
int json_get_bool(const json_t *obj, const char *path, const char *key, bool *out, struct err *err);
/* *out is borrowed until the object is released. */
int json_get_str(const json_t *obj, const char *path, const char *key, const char **out,
                 struct err *err);

#endif
