/* json.c - see json.h. */
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

json_t *json_parse(const char *path, const void *data, size_t n, struct err *err) {
    json_error_t je;
    json_t *j = json_loadb(data, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (!j) {
        err_set(err, E_FORMAT, "%s: invalid JSON at byte %d: %s", path, je.position, je.text);
        return NULL;
    }
    if (!json_is_object(j)) {
        json_decref(j);
        err_set(err, E_FORMAT, "%s: not a JSON object", path);
        return NULL;
    }
    return j;
}

json_t *json_file(const char *path, size_t max_bytes, struct err *err) {
    struct buf b = {0};
    json_t *j = file_read(path, max_bytes, &b, err) ? NULL : json_parse(path, b.data, b.len, err);
    buf_free(&b);
    return j;
}

int json_write(const char *dir, const char *name, json_t *j, int indent, struct err *err) {
    char *path = path_join(dir, name), *text = j ? json_dumps(j, JSON_INDENT(indent)) : NULL;
    int rc = text ? file_write(path, text, strlen(text), err)
                  : err_set(err, E_MEMORY, "%s: cannot be built", path);
    json_decref(j);
    free(text);
    free(path);
    return rc;
}

/* The value of a key, or NULL when absent or null. */
static const json_t *present(const json_t *obj, const char *key) {
    const json_t *v = json_object_get(obj, key);
    return v && !json_is_null(v) ? v : NULL;
}

int json_get_int(const json_t *obj, const char *path, const char *key, int64_t lo, int64_t hi,
                 int64_t *out, struct err *err) {
    const json_t *v = present(obj, key);
    if (!v)
        return 0;
    if (!json_is_integer(v))
        return err_set(err, E_FORMAT, "%s: %s must be an integer", path, key);
    json_int_t x = json_integer_value(v);
    if (x < lo || x > hi)
        return err_set(err, E_FORMAT, "%s: %s is %lld, not in %lld..%lld", path, key, (long long)x,
                       (long long)lo, (long long)hi);
    *out = x;
    return 0;
}

int json_get_real(const json_t *obj, const char *path, const char *key, double lo, double hi,
                  double *out, struct err *err) {
    const json_t *v = present(obj, key);
    if (!v)
        return 0;
    if (!json_is_number(v))
        return err_set(err, E_FORMAT, "%s: %s must be a number", path, key);
    double x = json_number_value(v);
    if (!(x >= lo && x <= hi))
        return err_set(err, E_FORMAT, "%s: %s is %g, not in %g..%g", path, key, x, lo, hi);
    *out = x;
    return 0;
}

int json_get_bool(const json_t *obj, const char *path, const char *key, bool *out,
                  struct err *err) {
    const json_t *v = present(obj, key);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return err_set(err, E_FORMAT, "%s: %s must be true or false", path, key);
    *out = json_is_true(v);
    return 0;
}

int json_get_str(const json_t *obj, const char *path, const char *key, const char **out,
                 struct err *err) {
    const json_t *v = present(obj, key);
    if (!v)
        return 0;
    if (!json_is_string(v))
        return err_set(err, E_FORMAT, "%s: %s must be a string", path, key);
    *out = json_string_value(v);
    return 0;
}
