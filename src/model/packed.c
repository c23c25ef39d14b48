/* packed.c - see packed.h.
 *
 * Only what is computed exactly is read: symmetric integers whose groups of columns are whole
 * multiples of our own (int8_group, or 32 of INT4), so that each of our groups has one scale.  All
 * keys of quantization_config that could change a value are either understood or refused by name.
 * What a folder says of activations is not used: those of INT8 are always rounded token by token
 * in the groups of the weights. */
#include "model/packed.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "num/quant.h"

#define MAX_GROUPS 64 /* config_groups */
#define BLOCK 32      /* columns of INT4 with one scale; 18 bytes in row form */

/* What the file says of its matrices. */
struct scheme {
    const char *path;
    bool words;
    int bits, n_size;
    int size[MAX_GROUPS]; /* group sizes; 0 = a scale for each row */
};

/* -- the configuration ------------------------------------------------------------------------ */

static bool among(const char *key, const char *const *list) {
    while (*list && strcmp(*list, key) != 0)
        list++;
    return *list != NULL;
}

/* Absent, null, and an empty object or list say the same. */
static bool is_nothing(const json_t *v) {
    return !v || json_is_null(v) || (json_is_object(v) && !json_object_size(v)) ||
           (json_is_array(v) && !json_array_size(v));
}

/* Every key of o is in `known`, or in `empty` and has no value. */
static int check_keys(const json_t *o, const struct scheme *s, const char *field,
                      const char *const *known, const char *const *empty, struct err *err) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)o, key, v) {
        if (among(key, known) || (among(key, empty) && is_nothing(v)))
            continue;
        return err_set(err, E_FORMAT, "%s: %s.%.64s not supported", s->path, field, key);
    }
    return 0;
}

static int refuse_value(const struct scheme *s, const char *field, const json_t *o, const char *key,
                        const char *want, struct err *err) {
    const json_t *v = json_object_get(o, key);
    char *text = v ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    err_set(err, E_FORMAT, "%s: %s.%s %.64s not supported (supported: %s)", s->path, field, key,
            text ? text : "missing", want);
    free(text);
    return -1;
}

static bool is_text(const json_t *o, const char *key, const char *want) {
    const char *v = json_string_value(json_object_get(o, key));
    return v && strcmp(v, want) == 0;
}

static int read_weights(struct scheme *s, const char *field, const json_t *w, struct err *err) {
    static const char *const known[] = {"num_bits",    "type",     "symmetric", "strategy",
                                        "group_size",  "dynamic",  "observer",  "observer_kwargs",
                                        "scale_dtype", "zp_dtype", NULL};
    static const char *const empty[] = {"actorder", "block_structure", NULL};
    int64_t bits = 0, group = -1;
    bool symmetric = true, dynamic = false;
    if (!json_is_object(w))
        return err_set(err, E_FORMAT, "%s: %s must be an object", s->path, field);
    if (check_keys(w, s, field, known, empty, err) ||
        json_get_int(w, s->path, "num_bits", 1, 64, &bits, err) ||
        json_get_int(w, s->path, "group_size", -1, 1 << 20, &group, err) ||
        json_get_bool(w, s->path, "symmetric", &symmetric, err) ||
        json_get_bool(w, s->path, "dynamic", &dynamic, err))
        return -1;
    if (bits != 8 && !(bits == 4 && s->words))
        return refuse_value(s, field, w, "num_bits", s->words ? "4, 8" : "8", err);
    if (s->bits && s->bits != bits)
        return err_set(err, E_FORMAT, "%s: %s.num_bits %lld beside %d in another group", s->path,
                       field, (long long)bits, s->bits);
    if (json_object_get(w, "type") && !is_text(w, "type", "int"))
        return refuse_value(s, field, w, "type", "int", err);
    if (!symmetric || dynamic)
        return refuse_value(s, field, w, dynamic ? "dynamic" : "symmetric",
                            dynamic ? "false" : "true", err);
    bool grouped = is_text(w, "strategy", "group");
    if (!grouped && !is_text(w, "strategy", "channel"))
        return refuse_value(s, field, w, "strategy", "group, channel", err);
    if (grouped && group < 1)
        return refuse_value(s, field, w, "group_size", "a positive number", err);
    s->bits = (int)bits;
    s->size[s->n_size++] = grouped ? (int)group : 0;
    return 0;
}

static int read_groups(struct scheme *s, const json_t *groups, struct err *err) {
    static const char *const known[] = {"targets", "weights", "input_activations", "format", NULL};
    static const char *const empty[] = {"output_activations", NULL};
    const char *name;
    json_t *g;
    if (!json_is_object(groups) || json_object_size(groups) == 0)
        return err_set(err, E_FORMAT, "%s: quantization_config.config_groups must be an object",
                       s->path);
    if (json_object_size(groups) > MAX_GROUPS)
        return err_set(err, E_FORMAT, "%s: quantization_config.config_groups has more than %d",
                       s->path, MAX_GROUPS);
    json_object_foreach((json_t *)groups, name, g) {
        struct buf field = {0};
        buf_printf(&field, "quantization_config.config_groups.%.40s", name);
        int rc = json_is_object(g)
                     ? check_keys(g, s, buf_str(&field), known, empty, err)
                     : err_set(err, E_FORMAT, "%s: %s must be an object", s->path, buf_str(&field));
        buf_adds(&field, ".weights");
        if (!rc)
            rc = read_weights(s, buf_str(&field), json_object_get(g, "weights"), err);
        buf_free(&field);
        if (rc)
            return -1;
    }
    return 0;
}

static int read_scheme(struct scheme *s, const json_t *q, struct err *err) {
    static const char *const known[] = {"quant_method",  "format", "quantization_status",
                                        "config_groups", "ignore", "global_compression_ratio",
                                        "version",       NULL};
    static const char *const empty[] = {"kv_cache_scheme", "sparsity_config", "transform_config",
                                        NULL};
    if (!json_is_object(q))
        return err_set(err, E_FORMAT, "%s: quantization_config must be an object", s->path);
    if (!is_text(q, "quant_method", "compressed-tensors"))
        return refuse_value(s, "quantization_config", q, "quant_method",
                            "compressed-tensors; or F32, F16 and BF16 weights, or GGUF", err);
    s->words = is_text(q, "format", "pack-quantized");
    if (!s->words && !is_text(q, "format", "int-quantized"))
        return refuse_value(s, "quantization_config", q, "format", "int-quantized, pack-quantized",
                            err);
    if (json_object_get(q, "quantization_status") &&
        !is_text(q, "quantization_status", "compressed"))
        return refuse_value(s, "quantization_config", q, "quantization_status", "compressed", err);
    if (check_keys(q, s, "quantization_config", known, empty, err))
        return -1;
    return read_groups(s, json_object_get(q, "config_groups"), err);
}

/* -- the tensors ------------------------------------------------------------------------------ */

/* MODULE.suffix in b, where t->name is MODULE and `cut` more bytes. */
static const struct tensor *sibling(const struct tensors *ts, const struct tensor *t, size_t cut,
                                    const char *suffix) {
    struct buf name = {0};
    buf_add(&name, t->name, strlen(t->name) - cut);
    buf_adds(&name, suffix);
    const struct tensor *found = tensors_find(ts, buf_str(&name));
    buf_free(&name);
    return found;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n > k && strcmp(s + n - k, end) == 0;
}

static int bad(const struct tensors *ts, const struct tensor *t, const char *why, struct err *err) {
    return err_set(err, E_FORMAT, "%s: tensor '%s': %s", ts->path, t->name, why);
}

/* rows and cols of the matrix; weight_shape must agree with what the words have room for. */
static int read_shape(const struct tensors *ts, const struct tensor *t, const struct scheme *s,
                      int64_t shape[2], struct err *err) {
    shape[0] = t->shape[0];
    shape[1] = t->shape[1];
    if (!s->words)
        return 0;
    int per = 32 / s->bits;
    const struct tensor *told = sibling(ts, t, strlen("packed"), "shape");
    if (!told || told->rank != 1 || told->shape[0] != 2 || strcmp(told->type_name, "I64") != 0)
        return bad(ts, t, "weight_shape must be there, two values of I64", err);
    memcpy(shape, told->data, 2 * sizeof *shape); /* the host is little endian, as the file */
    if (shape[0] != t->shape[0] || shape[1] < 1 || shape[1] > (int64_t)1 << 31 ||
        (shape[1] + per - 1) / per != t->shape[1])
        return bad(ts, t, "weight_shape does not fit its words", err);
    return 0;
}

/* The group size of a matrix: that of the configuration which explains its scales. */
static int find_group(const struct scheme *s, int64_t cols, int64_t n_scale) {
    for (int i = 0; i < s->n_size; i++) {
        int64_t group = s->size[i] ? s->size[i] : cols;
        if ((cols + group - 1) / group == n_scale)
            return (int)group;
    }
    return 0;
}

/* Checks one matrix and fills *p and the tensor's type, shape and bytes. */
static int resolve(const struct tensors *ts, struct tensor *t, const struct scheme *s,
                   struct packed *p, struct err *err) {
    size_t cut = strlen(s->words ? "_packed" : "");
    const struct tensor *scale = sibling(ts, t, cut, "_scale");
    const struct tensor *zero = sibling(ts, t, cut, "_zero_point");
    const struct tensor *order = sibling(ts, t, cut, "_g_idx");
    int64_t shape[2];
    if (zero || order)
        return bad(ts, zero ? zero : order, "not supported (symmetric, in order)", err);
    if (t->rank != 2 || strcmp(t->type_name, s->words ? "I32" : "I8") != 0)
        return bad(ts, t, s->words ? "must be a matrix of I32" : "must be a matrix of I8", err);
    if (!scale || scale->rank != 2 || scale->type == DT_NONE || scale->shape[0] != t->shape[0])
        return bad(ts, t, "weight_scale must be there, floats with a row for each of its rows",
                   err);
    if (read_shape(ts, t, s, shape, err))
        return -1;
    int group = shape[1] < (int64_t)1 << 31 ? find_group(s, shape[1], scale->shape[1]) : 0;
    enum dtype type = s->bits == 8 ? DT_INT8 : DT_INT4;
    int cols = (int)shape[1], own = s->bits == 8 ? int8_group(cols) : BLOCK;
    if (!group)
        return bad(ts, t, "no group_size of config_groups explains its weight_scale", err);
    if (group < cols && group % own)
        return err_set(err, E_FORMAT,
                       "%s: tensor '%s': group_size %d not supported with %d columns (multiples of "
                       "%d are)",
                       ts->path, t->name, group, cols, own);
    if (cols % dtype_info(type)->block)
        return err_set(err, E_FORMAT, "%s: tensor '%s': %d columns are not a multiple of %d",
                       ts->path, t->name, cols, dtype_info(type)->block);
    *p = (struct packed){.ints = t->data,
                         .scale = scale->data,
                         .scale_type = scale->type,
                         .bits = s->bits,
                         .words = s->words,
                         .group = group,
                         .n_scale = (int)scale->shape[1],
                         .ints_row = (size_t)t->shape[1] * (s->words ? 4 : 1)};
    t->type = type;
    t->type_name = dtype_info(type)->name;
    t->shape[1] = cols;
    t->bytes += scale->bytes;
    t->packed = p;
    return 0;
}

/* Scales and shapes are no tensors of the model any more. */
static int drop_companions(struct tensors *ts, struct err *err) {
    int n = 0;
    for (int i = 0; i < ts->n; i++) {
        struct tensor *t = &ts->t[i];
        char *name = (char *)t->name; /* in ts->names */
        if (ends_with(name, ".weight_scale") || ends_with(name, ".weight_shape"))
            continue;
        if (t->packed && t->packed->words)
            name[strlen(name) - strlen("_packed")] = 0;
        ts->t[n++] = *t;
    }
    ts->n = n;
    map_free(ts->by_name);
    ts->by_name = map_new((size_t)n);
    for (int i = 0; i < n; i++)
        if (map_put(ts->by_name, ts->t[i].name, strlen(ts->t[i].name), i) != i)
            return bad(ts, &ts->t[i], "is there both packed and plain", err);
    return 0;
}

int packed_open(struct tensors *ts, const json_t *config, const char *path, struct err *err) {
    struct scheme s = {.path = path};
    int n = 0;
    if (read_scheme(&s, json_object_get(config, "quantization_config"), err))
        return -1;
    ts->packed = mem_array((size_t)ts->n, sizeof *ts->packed);
    for (int i = 0; i < ts->n; i++) {
        struct tensor *t = &ts->t[i];
        bool ours = s.words ? ends_with(t->name, ".weight_packed")
                            : ends_with(t->name, ".weight") && t->type == DT_NONE;
        if (ours && resolve(ts, t, &s, &ts->packed[n++], err))
            return -1;
    }
    if (n == 0)
        return err_set(err, E_FORMAT,
                       "%s: quantization_config.format: no such matrix in the folder", path);
    return drop_companions(ts, err);
}

/* -- rows ------------------------------------------------------------------------------------- */

static float scale_at(const struct packed *p, int r, int col) {
    float f;
    size_t bytes = dtype_row_bytes(p->scale_type, 1);
    size_t at = (size_t)r * (size_t)p->n_scale + (size_t)(col / p->group);
    row_to_f32(p->scale_type, memcpy((float[]){0}, p->scale + at * bytes, bytes), &f, 1);
    return f;
}

static int8_t int8_at(const struct packed *p, const uint8_t *row, int col) {
    return (int8_t)(p->words ? row[col] - 128 : row[col]); /* bytes of a word, lowest first */
}

static void int8_row(const struct packed *p, int r, int cols, uint8_t *to) {
    const uint8_t *row = p->ints + (size_t)r * p->ints_row;
    for (int i = 0, group = int8_group(cols); i < cols; i += group) {
        float d = scale_at(p, r, i);
        memcpy(to, &d, 4);
        to += 4;
        for (int k = i; k < i + group && k < cols; k++)
            *to++ = (uint8_t)int8_at(p, row, k);
    }
}

static unsigned nibble(const uint8_t *row, int col) {
    return row[col / 2] >> (col % 2 * 4) & 15;
}

static void int4_row(const struct packed *p, int r, int cols, uint8_t *to) {
    const uint8_t *row = p->ints + (size_t)r * p->ints_row;
    for (int i = 0; i < cols; i += BLOCK, to += 18) {
        unsigned short d = f16_from_f32(scale_at(p, r, i));
        memcpy(to, &d, 2);
        for (int k = 0; k < BLOCK / 2; k++)
            to[2 + k] = (uint8_t)(nibble(row, i + k) | nibble(row, i + BLOCK / 2 + k) << 4);
    }
}

void packed_row(const struct tensor *t, int r, int cols, void *row) {
    if (t->type == DT_INT8)
        int8_row(t->packed, r, cols, row);
    else
        int4_row(t->packed, r, cols, row);
}

/* -- writing ---------------------------------------------------------------------------------- */

static char *with_suffix(const char *name, const char *suffix) {
    struct buf b = {0};
    buf_adds(&b, name);
    buf_adds(&b, suffix);
    buf_str(&b);
    return b.data;
}

int packed_tensors(const struct tensor *t, struct tensor out[PACKED_TENSORS]) {
    bool four = t->type == DT_INT4;
    int64_t rows = t->shape[0], cols = t->shape[1];
    int64_t group = four ? BLOCK : int8_group((int)cols), groups = (cols + group - 1) / group;
    out[0] = (struct tensor){.name = with_suffix(t->name, four ? "_packed" : ""),
                             .type = DT_NONE,
                             .type_name = four ? "I32" : "I8",
                             .rank = 2,
                             .shape = {rows, four ? cols / 8 : cols},
                             .bytes = (size_t)rows * (size_t)(four ? cols / 2 : cols)};
    out[1] = (struct tensor){.name = with_suffix(t->name, "_scale"),
                             .type = four ? DT_F16 : DT_F32,
                             .rank = 2,
                             .shape = {rows, groups},
                             .bytes = (size_t)rows * (size_t)groups * (four ? 2 : 4)};
    if (four)
        out[2] = (struct tensor){.name = with_suffix(t->name, "_shape"),
                                 .type = DT_NONE,
                                 .type_name = "I64",
                                 .rank = 1,
                                 .shape = {2},
                                 .bytes = 16};
    return four ? 3 : 2;
}

void packed_split(enum dtype type, const void *row, int cols, void *ints, void *scale) {
    const uint8_t *from = row;
    uint8_t *q = ints, *d = scale;
    if (type == DT_INT8) {
        for (int i = 0, group = int8_group(cols); i < cols; i += group, d += 4) {
            int n = cols - i < group ? cols - i : group;
            memcpy(d, from, 4);
            memcpy(q + i, from + 4, (size_t)n);
            from += 4 + n;
        }
        return;
    }
    for (int i = 0; i < cols; i += BLOCK, from += 18, d += 2, q += BLOCK / 2) {
        memcpy(d, from, 2);
        for (int k = 0; k < BLOCK / 2; k++) { /* elements 2k and 2k + 1 */
            int half = k >= BLOCK / 4, at = 2 + (2 * k) % (BLOCK / 2);
            q[k] =
                (uint8_t)((from[at] >> (4 * half) & 15) | (from[at + 1] >> (4 * half) & 15) << 4);
        }
    }
}

/* A regular expression for MODULE.weight without .weight, any layer's: numbers stand for all. */
static json_t *target_of(const char *name) {
    struct buf b = {0};
    buf_adds(&b, "re:^");
    for (const char *p = name, *end = name + strlen(name) - strlen(".weight"); p < end; p++) {
        bool digit = *p >= '0' && *p <= '9' && p[-(p > name)] == '.';
        if (digit)
            buf_adds(&b, "[0-9]+");
        while (digit && p + 1 < end && p[1] >= '0' && p[1] <= '9')
            p++;
        if (*p == '.')
            buf_addc(&b, '\\');
        if (!digit)
            buf_addc(&b, *p);
    }
    buf_addc(&b, '$');
    json_t *j = json_string(buf_str(&b));
    buf_free(&b);
    return j;
}

static void append_once(json_t *list, json_t *v) {
    size_t i;
    json_t *have;
    json_array_foreach(list, i, have) {
        if (!json_equal(have, v))
            continue;
        json_decref(v);
        return;
    }
    json_array_append_new(list, v);
}

static json_t *group_config(enum dtype type, int group, json_t *targets) {
    bool four = type == DT_INT4;
    json_t *input =
        four ? json_null()
             : json_pack("{s:i,s:s,s:b,s:s,s:i,s:b}", "num_bits", 8, "type", "int", "symmetric", 1,
                         "strategy", "group", "group_size", group, "dynamic", 1);
    return json_pack("{s:o,s:{s:i,s:s,s:b,s:s,s:i,s:b,s:n},s:o,s:n}", "targets", targets, "weights",
                     "num_bits", four ? 4 : 8, "type", "int", "symmetric", 1, "strategy", "group",
                     "group_size", group, "dynamic", 0, "actorder", "input_activations", input,
                     "output_activations");
}

json_t *packed_config(enum dtype type, const struct tensor *t, int n) {
    static const int sizes[] = {BLOCK, 8, 64, 128}; /* INT4's, then those of int8_group */
    json_t *groups = json_object(), *ignore = json_array();
    for (int k = type == DT_INT4 ? 0 : 1, end = type == DT_INT4 ? 1 : 4; k < end; k++) {
        json_t *targets = json_array();
        for (int i = 0; i < n; i++)
            if (t[i].type == type &&
                (type == DT_INT4 || int8_group((int)t[i].shape[1]) == sizes[k]))
                append_once(targets, target_of(t[i].name));
        char name[16];
        snprintf(name, sizeof name, "group_%zu", json_object_size(groups));
        if (json_array_size(targets))
            json_object_set_new(groups, name, group_config(type, sizes[k], json_incref(targets)));
        json_decref(targets);
    }
    for (int i = 0; i < n; i++)
        if (t[i].type != type && t[i].rank == 2)
            json_array_append_new(ignore,
                                  json_stringn(t[i].name, strlen(t[i].name) - strlen(".weight")));
    return json_pack("{s:s,s:s,s:s,s:o,s:o,s:n}", "quant_method", "compressed-tensors", "format",
                     type == DT_INT4 ? "pack-quantized" : "int-quantized", "quantization_status",
                     "compressed", "config_groups", groups, "ignore", ignore, "kv_cache_scheme");
}
