/* safetensors.c - the safetensors format: one file, or the shards of a Hugging Face folder.
 *
 *   offset 0      u64, little endian: n, the length of the header
 *   offset 8      header, padded by spaces: one JSON object { NAME: {"dtype": "F32",
 *                 "shape": [2, 3], "data_offsets": [b, e]}, ...,
 *                 "__metadata__": {string: string} }
 *   offset 8 + n  data; b and e count from here
 *
 * Invariants of a table that left safetensors_parse: the data ranges follow each other without
 * hole or overlap and end with the file; each range has the bytes that dtype and shape ask for;
 * names are unique.  The order of the checks is that of the format's reference implementation;
 * the caps are our own. */
#include "model/tensors.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

#define MAX_HEADER 100000000
#define MAX_TENSORS 200000
#define MAX_NAME 256
#define MAX_SHARDS 1024
#define MAX_COMMAS                                                                                 \
    (MAX_TENSORS * 16) /* three fields, eight dimensions, two offsets, and room for metadata */

static const struct st_type {
    const char *name;
    int bytes;
    enum dtype type; /* DT_NONE: sized, so that the file can be walked, but not computed with */
} st_types[] = {
    {"F32", 4, DT_F32},   {"F16", 2, DT_F16},  {"BF16", 2, DT_BF16}, {"F64", 8, DT_NONE},
    {"I64", 8, DT_NONE},  {"I32", 4, DT_NONE}, {"I16", 2, DT_NONE},  {"I8", 1, DT_NONE},
    {"U64", 8, DT_NONE},  {"U32", 4, DT_NONE}, {"U16", 2, DT_NONE},  {"U8", 1, DT_NONE},
    {"BOOL", 1, DT_NONE},
};

static const struct st_type *find_type(const char *name) {
    for (size_t i = 0; i < sizeof st_types / sizeof *st_types; i++)
        if (strcmp(st_types[i].name, name) == 0)
            return &st_types[i];
    return NULL;
}

/* Commas outside strings bound how many values a JSON text holds, hence what parsing it may
 * allocate. */
static size_t count_commas(const char *s, size_t n) {
    size_t commas = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string && s[i] == '\\')
            i++;
        else if (s[i] == '"')
            in_string = !in_string;
        else if (s[i] == ',' && !in_string)
            commas++;
    }
    return commas;
}

/* The header as JSON, and where the data begins. */
static json_t *parse_header(const char *path, const uint8_t *data, size_t size, size_t *data_at,
                            struct err *err) {
    uint64_t n = 0;
    if (size < 8) {
        err_set(err, E_FORMAT, "%s: header length invalid: the file has %zu bytes", path, size);
        return NULL;
    }
    for (int i = 7; i >= 0; i--)
        n = n << 8 | data[i];
    if (n < 2 || n > MAX_HEADER || n > size - 8) {
        err_set(err, E_FORMAT, "%s: header length invalid: %llu bytes (file %zu, limit %d)", path,
                (unsigned long long)n, size, MAX_HEADER);
        return NULL;
    }
    if (data[8] != '{') {
        err_set(err, E_FORMAT, "%s: header does not start with '{'", path);
        return NULL;
    }
    if (count_commas((const char *)data + 8, (size_t)n) > MAX_COMMAS) {
        err_set(err, E_FORMAT, "%s: header has more values than %d tensors can have", path,
                MAX_TENSORS);
        return NULL;
    }
    *data_at = 8 + (size_t)n;
    return json_parse(path, data + 8, (size_t)n, err);
}

/* The text of a JSON string without NUL inside, else NULL. */
static const char *as_text(const json_t *v) {
    const char *s = json_string_value(v);
    return s && strlen(s) == json_string_length(v) ? s : NULL;
}

/* A non-negative JSON integer. */
static bool as_offset(const json_t *v, int64_t *out) {
    *out = v && json_is_integer(v) ? json_integer_value(v) : -1;
    return *out >= 0;
}

/* dtype, shape and offsets of one entry; *begin and *end count from the start of the data. */
static int parse_entry(struct tensor *t, const char *path, const char *name, const json_t *j,
                       int64_t range[2], struct err *err) {
    const char *dtype = as_text(json_object_get(j, "dtype"));
    const json_t *shape = json_object_get(j, "shape"), *off = json_object_get(j, "data_offsets");
    if (!dtype)
        return err_set(err, E_FORMAT, "%s: tensor '%s': dtype must be a string", path, name);
    const struct st_type *ty = find_type(dtype);
    if (!ty)
        return err_set(err, E_FORMAT,
                       "%s: tensor '%s': dtype %.32s not supported (supported: F32, F16, BF16)",
                       path, name, dtype);
    if (!json_is_array(shape) || json_array_size(shape) > TENSOR_MAX_RANK)
        return err_set(err, E_FORMAT, "%s: tensor '%s': shape must be an array of at most %d sizes",
                       path, name, TENSOR_MAX_RANK);
    t->type = ty->type;
    t->type_name = ty->name;
    t->rank = (int)json_array_size(shape);
    t->bytes = (size_t)ty->bytes;
    bool fits = true;
    for (int i = 0; i < t->rank; i++) {
        if (!as_offset(json_array_get(shape, (size_t)i), &t->shape[i]))
            return err_set(err, E_FORMAT, "%s: tensor '%s': shape[%d] is not a size", path, name,
                           i);
        fits = fits && size_mul(t->bytes, (size_t)t->shape[i], &t->bytes);
    }
    if (!fits)
        return err_set(err, E_FORMAT, "%s: tensor '%s': shape overflows", path, name);
    if (json_array_size(off) != 2 || !as_offset(json_array_get(off, 0), &range[0]) ||
        !as_offset(json_array_get(off, 1), &range[1]))
        return err_set(err, E_FORMAT, "%s: tensor '%s': data_offsets must be two byte positions",
                       path, name);
    return 0;
}

/* One tensor and where the header puts its data; sorted to check the layout. */
struct placed {
    int64_t range[2];
    struct tensor t;
};

static int by_place(const void *pa, const void *pb) {
    const struct placed *a = pa, *b = pb;
    for (int i = 0; i < 2; i++)
        if (a->range[i] != b->range[i])
            return a->range[i] < b->range[i] ? -1 : 1;
    return 0;
}

/* Ranges are contiguous from 0 to the end of the file, each as long as its tensor. */
static int check_layout(struct placed *p, int n, const char *path, const uint8_t *data,
                        size_t data_size, struct err *err) {
    qsort(p, (size_t)n, sizeof *p, by_place);
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        const int64_t *r = p[i].range;
        if (r[0] != at || r[1] < r[0])
            return err_set(
                err, E_FORMAT,
                "%s: tensor '%s': data_offsets [%lld, %lld] do not follow %lld (hole, overlap or "
                "reversed)",
                path, p[i].t.name, (long long)r[0], (long long)r[1], (long long)at);
        if ((uint64_t)(r[1] - r[0]) != p[i].t.bytes)
            return err_set(err, E_FORMAT,
                           "%s: tensor '%s': %lld bytes of data, but dtype %s and shape need %zu",
                           path, p[i].t.name, (long long)(r[1] - r[0]), p[i].t.type_name,
                           p[i].t.bytes);
        if ((uint64_t)r[1] > data_size)
            return err_set(err, E_FORMAT,
                           "%s: tensor '%s': data ends at byte %lld of %zu (truncated file)", path,
                           p[i].t.name, (long long)r[1], data_size);
        p[i].t.data = data + r[0];
        at = r[1];
    }
    if ((uint64_t)at != data_size)
        return err_set(err, E_FORMAT, "%s: %zu bytes of data, but the tensors end at %lld", path,
                       data_size, (long long)at);
    return 0;
}

static int check_metadata(const json_t *meta, const char *path, struct err *err) {
    const char *key;
    json_t *v;
    if (!json_is_object(meta) && !json_is_null(meta))
        return err_set(err, E_FORMAT, "%s: __metadata__ is not an object", path);
    json_object_foreach((json_t *)meta, key, v) if (!json_is_string(v)) return err_set(
        err, E_FORMAT, "%s: __metadata__.%.64s is not a string", path, key);
    return 0;
}

/* Copies the names into one arena and indexes them.  Names are unique within one file; across
 * shards a second one is refused. */
static int index_names(struct tensors *ts, const char *path, struct err *err) {
    size_t total = 0, at = 0;
    for (int i = 0; i < ts->n; i++)
        total += strlen(ts->t[i].name) + 1;
    ts->names = mem_new(total);
    ts->by_name = map_new((size_t)ts->n);
    for (int i = 0; i < ts->n; i++) {
        size_t len = strlen(ts->t[i].name);
        memcpy(ts->names + at, ts->t[i].name, len + 1);
        ts->t[i].name = ts->names + at;
        at += len + 1;
        if (map_put(ts->by_name, ts->t[i].name, len, i) != i)
            return err_set(err, E_FORMAT, "%s: tensor '%s' is in more than one shard", path,
                           ts->t[i].name);
    }
    return 0;
}

int safetensors_parse(struct tensors *ts, const char *path, const void *data, size_t size,
                      struct err *err) {
    struct placed *placed = NULL;
    const char *name;
    json_t *entry;
    size_t data_at;
    int rc = -1, n = 0;
    *ts = (struct tensors){0};
    json_t *header = parse_header(path, data, size, &data_at, err);
    if (!header)
        goto out;
    size_t entries = json_object_size(header) - (json_object_get(header, "__metadata__") != NULL);
    if (entries > MAX_TENSORS) {
        err_set(err, E_FORMAT, "%s: %zu tensors, more than %d", path, entries, MAX_TENSORS);
        goto out;
    }
    placed = mem_array(entries, sizeof *placed);
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            if (check_metadata(entry, path, err))
                goto out;
            continue;
        }
        if (strlen(name) > MAX_NAME) {
            err_set(err, E_FORMAT, "%s: tensor name '%.32s...' is longer than %d bytes", path, name,
                    MAX_NAME);
            goto out;
        }
        placed[n].t.name = name;
        if (parse_entry(&placed[n].t, path, name, entry, placed[n].range, err))
            goto out;
        n++;
    }
    if (check_layout(placed, n, path, (const uint8_t *)data + data_at, size - data_at, err))
        goto out;
    ts->n = n;
    ts->t = mem_array((size_t)n, sizeof *ts->t);
    for (int i = 0; i < n; i++)
        ts->t[i] = placed[i].t;
    ts->path = mem_strdup(path);
    rc = index_names(ts, path, err);
out:
    free(placed);
    json_decref(header);
    if (rc)
        tensors_close(ts);
    return rc;
}

int safetensors_open(struct tensors *ts, const char *path, struct err *err) {
    struct file *f = mem_new(sizeof *f);
    *ts = (struct tensors){0};
    if (file_open(f, path, err) || safetensors_parse(ts, path, f->data, f->size, err)) {
        file_close(f);
        free(f);
        return -1;
    }
    ts->file = f;
    ts->n_file = 1;
    return 0;
}

void tensors_close(struct tensors *ts) {
    map_free(ts->by_name);
    free(ts->t);
    free(ts->names);
    free(ts->packed);
    free(ts->path);
    for (int i = 0; i < ts->n_file; i++)
        file_close(&ts->file[i]);
    free(ts->file);
    *ts = (struct tensors){0};
}

const struct tensor *tensors_find(const struct tensors *ts, const char *name) {
    int32_t i = ts->by_name ? map_get(ts->by_name, name, strlen(name)) : -1;
    return i < 0 ? NULL : &ts->t[i];
}

/* A shard's name must not lead out of the folder. */
static bool plain_name(const char *s) {
    return *s && *s != '.' && !strpbrk(s, "/\\") && strlen(s) <= 255;
}

/* The distinct shard names in weight_map, in `shard` (room for MAX_SHARDS); -1 with an error. */
static int list_shards(const json_t *weight_map, const char *path, const char **shard,
                       struct err *err) {
    struct map *seen = map_new(64);
    const char *name;
    json_t *v;
    int n = 0;
    json_object_foreach((json_t *)weight_map, name, v) {
        const char *file = as_text(v);
        if (!file || !plain_name(file)) {
            n = err_set(err, E_FORMAT,
                        "%s: weight_map: '%.64s' is not a plain file name (tensor '%.128s')", path,
                        file ? file : "?", name);
            break;
        }
        if (map_put(seen, file, strlen(file), n) < n)
            continue;
        if (n == MAX_SHARDS) {
            n = err_set(err, E_FORMAT, "%s: weight_map names more than %d files", path, MAX_SHARDS);
            break;
        }
        shard[n++] = file;
    }
    map_free(seen);
    if (n == 0)
        return err_set(err, E_FORMAT, "%s: weight_map is empty", path);
    return n;
}

/* Each promised tensor is in the shard it is promised in. */
static int check_promises(const json_t *weight_map, const char *path, const struct tensors *part,
                          const struct map *shard_index, struct err *err) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)weight_map, name, v) {
        const char *file = json_string_value(v);
        if (!tensors_find(&part[map_get(shard_index, file, strlen(file))], name))
            return err_set(err, E_FORMAT, "%s: weight_map: tensor '%.128s' is not in %s", path,
                           name, file);
    }
    return 0;
}

/* Moves the n parts' tensors and files into one table. */
static int merge(struct tensors *ts, struct tensors *part, int n, const char *dir,
                 struct err *err) {
    int total = 0;
    for (int i = 0; i < n; i++)
        total += part[i].n;
    if (total > MAX_TENSORS)
        return err_set(err, E_FORMAT, "%s: %d tensors, more than %d", dir, total, MAX_TENSORS);
    ts->t = mem_array((size_t)total, sizeof *ts->t);
    ts->file = mem_array((size_t)n, sizeof *ts->file);
    ts->path = mem_strdup(dir);
    for (int i = 0; i < n; i++) {
        memcpy(ts->t + ts->n, part[i].t, (size_t)part[i].n * sizeof *ts->t);
        ts->n += part[i].n;
        ts->file[ts->n_file++] = *part[i].file;
        *part[i].file = (struct file){0};
    }
    return index_names(ts, dir, err); /* while the parts still hold the old names */
}

static int open_sharded(struct tensors *ts, const char *dir, const char *index, struct err *err) {
    const char *shard[MAX_SHARDS];
    struct tensors *part = NULL;
    struct map *shard_index = map_new(64);
    int rc = -1, n = 0;
    json_t *j = json_file(index, MAX_HEADER, err);
    if (!j)
        goto out;
    const json_t *weight_map = json_object_get(j, "weight_map");
    if (!json_is_object(weight_map)) {
        err_set(err, E_FORMAT, "%s: weight_map must be an object", index);
        goto out;
    }
    int n_shard = list_shards(weight_map, index, shard, err);
    if (n_shard < 0)
        goto out;
    part = mem_array((size_t)n_shard, sizeof *part);
    for (; n < n_shard; n++) {
        char *path = path_join(dir, shard[n]);
        int bad = safetensors_open(&part[n], path, err);
        free(path);
        if (bad)
            goto out;
        map_put(shard_index, shard[n], strlen(shard[n]), n);
    }
    if (!check_promises(weight_map, index, part, shard_index, err))
        rc = merge(ts, part, n, dir, err);
out:
    for (int i = 0; i < n; i++)
        tensors_close(&part[i]);
    free(part);
    map_free(shard_index);
    json_decref(j);
    return rc;
}

int safetensors_open_dir(struct tensors *ts, const char *dir, struct err *err) {
    char *single = path_join(dir, "model.safetensors");
    char *index = path_join(dir, "model.safetensors.index.json");
    int rc;
    *ts = (struct tensors){0};
    if (file_exists(single))
        rc = safetensors_open(ts, single, err);
    else if (file_exists(index))
        rc = open_sharded(ts, dir, index, err);
    else
        rc =
            err_set(err, E_IO, "%s: no model.safetensors and no model.safetensors.index.json", dir);
    if (rc)
        tensors_close(ts);
    free(single);
    free(index);
    return rc;
}

static const char *st_name(const struct tensor *t) {
    if (t->type == DT_NONE)
        return t->type_name;
    for (size_t i = 0; i < sizeof st_types / sizeof *st_types; i++)
        if (st_types[i].type == t->type)
            return st_types[i].name;
    return NULL;
}

/* The length word and the header, padded so that the data starts on a multiple of 8. */
static void put_header(struct buf *b, const struct tensor *t, int n) {
    uint64_t at = 0;
    json_t *j = json_object();
    for (int i = 0; i < n; i++) {
        json_t *shape = json_array();
        for (int k = 0; k < t[i].rank; k++)
            json_array_append_new(shape, json_integer(t[i].shape[k]));
        json_t *entry = json_pack("{s:s,s:o,s:[I,I]}", "dtype", st_name(&t[i]), "shape", shape,
                                  "data_offsets", (json_int_t)at, (json_int_t)(at + t[i].bytes));
        assert(entry && !json_object_get(j, t[i].name));
        json_object_set_new(j, t[i].name, entry);
        at += t[i].bytes;
    }
    char *text = json_dumps(j, JSON_COMPACT);
    uint64_t len = (strlen(text) + 7) / 8 * 8;
    for (int i = 0; i < 8; i++)
        buf_addc(b, (char)(len >> (8 * i)));
    buf_adds(b, text);
    while (b->len < 8 + len)
        buf_addc(b, ' ');
    free(text);
    json_decref(j);
}

int safetensors_header(struct out *o, const struct tensor *t, int n, struct err *err) {
    struct buf header = {0};
    put_header(&header, t, n);
    int rc = out_write(o, header.data, header.len, err);
    buf_free(&header);
    return rc;
}

int safetensors_write(const char *path, const struct tensor *t, int n, struct err *err) {
    struct out *o = out_open(path, err);
    if (!o)
        return -1;
    int rc = safetensors_header(o, t, n, err);
    for (int i = 0; i < n && rc == 0; i++)
        rc = out_write(o, t[i].data, t[i].bytes, err);
    if (rc) {
        out_abort(o);
        return -1;
    }
    return out_commit(o, err);
}
