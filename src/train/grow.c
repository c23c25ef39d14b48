/* grow.c - see grow.h.
 * Works on the tensor table, whatever the family: a tensor whose name has a layer number in it
 * (model.layers.3.x, transformer.h.3.x) is written once for each target layer that has this
 * source. */
#include "train/grow.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "method/gstack.h"
#include "model/cfg.h"
#include "model/tensors.h"
#include "train/shard.h"

struct table { /* a file's tensors, and the grown ones */
    struct tensors ts;
    struct tensor *grown; /* owned, names too */
    int n;
};

struct growth {
    const char *base, *out;
    const struct grow_opts *o;
    struct cfg cfg;
    json_t *config;
    struct ids map;
    struct table model, optimizer; /* the latter empty unless moments are kept */
    void *zeros;                   /* as large as the largest zeroed tensor */
};

bool grow_layer(const char *name, int *layer, size_t *at, size_t *len) {
    static const char *const mark[] = {"layers.", "h."};
    for (size_t i = 0; i < sizeof mark / sizeof *mark; i++)
        for (const char *p = name; (p = strstr(p, mark[i])); p++) {
            const char *digits = p + strlen(mark[i]);
            size_t n = strspn(digits, "0123456789");
            if ((p != name && p[-1] != '.') || n == 0 || n > 4 || digits[n] != '.')
                continue;
            *layer = atoi(digits);
            *at = (size_t)(digits - name);
            *len = n;
            return true;
        }
    return false;
}

bool grow_is_output(const char *name) {
    static const char *const word[] = {
        ".o_proj.",          ".down_proj.",     ".c_proj.", ".attention.dense.",
        ".self_attn.dense.", ".dense_4h_to_h.", ".fc2."};
    for (size_t i = 0; i < sizeof word / sizeof *word; i++)
        if (strstr(name, word[i]))
            return true;
    return false;
}

static int read_base(struct growth *g, struct err *err) {
    char *path = path_join(g->base, "config.json"),
         *moments = path_join(g->base, "optimizer.safetensors");
    g->config = json_file(path, (size_t)16 << 20, err);
    int rc = g->config ? cfg_from_hf(&g->cfg, g->config, path, err) : -1;
    if (!rc)
        rc = safetensors_open_dir(&g->model.ts, g->base, err);
    if (!rc && g->o->moments && !file_exists(moments))
        rc = err_set(err, E_USAGE, "%s: no such file: moments are in a checkpoint of train",
                     moments);
    if (!rc && g->o->moments)
        rc = safetensors_open(&g->optimizer.ts, moments, err);
    free(path);
    free(moments);
    if (rc)
        return -1;
    return g->o->factor ? gstack_stack(g->cfg.n_layer, g->o->factor, &g->map, err)
                        : gstack_list(g->o->layers, g->cfg.n_layer, &g->map, err);
}

/* Of a repeated block: weights, or their exact copies among the optimiser's arrays. */
static bool is_zeroed(const struct growth *g, const struct table *t, const char *name) {
    return g->o->zero_init && grow_is_output(name) &&
           (t == &g->model || !strncmp(name, "master.", 7));
}

static void add_tensor(struct table *t, const struct tensor *from, char *name, const void *data) {
    struct tensor *d = &t->grown[t->n++];
    *d = *from;
    d->name = name;
    d->data = data;
}

/* name with the layer number at [at, at+len) replaced. */
static char *renumbered(const char *name, size_t at, size_t len, size_t layer) {
    struct buf b = {0};
    buf_add(&b, name, at);
    buf_printf(&b, "%zu%s", layer, name + at + len);
    buf_str(&b);
    return b.data;
}

static void make_zeros(struct growth *g) {
    const struct table *tables[] = {&g->model, &g->optimizer};
    size_t most = 0;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < tables[k]->ts.n; i++) {
            const struct tensor *t = &tables[k]->ts.t[i];
            if (is_zeroed(g, tables[k], t->name) && t->bytes > most)
                most = t->bytes;
        }
    g->zeros = most ? mem_new(most) : NULL;
}

/* All tensors of target layer k: those of its source, in the base's order. */
static void copy_block(const struct growth *g, struct table *t, size_t k) {
    bool repeat = gstack_is_repeat(&g->map, k);
    for (int i = 0; i < t->ts.n; i++) {
        const struct tensor *from = &t->ts.t[i];
        int layer;
        size_t at, len;
        if (!grow_layer(from->name, &layer, &at, &len) || layer != g->map.id[k])
            continue;
        bool zero = repeat && is_zeroed(g, t, from->name);
        add_tensor(t, from, renumbered(from->name, at, len, k), zero ? g->zeros : from->data);
    }
}

/* The grown tensors, blocks one after another where the base has its first: the same maps give the
 * same file, whatever steps led there. */
static int copy_tensors(struct growth *g, struct table *t, struct err *err) {
    size_t at, len;
    int seen = 0, layer;
    t->grown = mem_array((size_t)t->ts.n * g->map.n, sizeof *t->grown);
    for (int i = 0; i < t->ts.n; i++) {
        const struct tensor *from = &t->ts.t[i];
        if (!grow_layer(from->name, &layer, &at, &len)) {
            add_tensor(t, from, mem_strdup(from->name), from->data);
            continue;
        }
        for (size_t k = 0; k < g->map.n && !seen; k++)
            copy_block(g, t, k);
        seen = layer + 1 > seen ? layer + 1 : seen;
    }
    if (seen != g->cfg.n_layer)
        return err_set(err, E_FORMAT, "%s: tensors of %d layers, config.json says %d", t->ts.path,
                       seen, g->cfg.n_layer);
    return 0;
}

static int write_config(struct growth *g, struct err *err) {
    static const char *const key[] = {"num_hidden_layers", "n_layer"};
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        if (json_object_get(g->config, key[i]))
            json_object_set_new(g->config, key[i], json_integer((json_int_t)g->map.n));
    return json_write(g->out, "config.json", json_incref(g->config), 2, err);
}

json_t *grow_entry(int from, const struct ids *map, bool zero_init) {
    json_t *source = json_array();
    for (size_t i = 0; i < map->n; i++)
        json_array_append_new(source, json_integer(map->id[i]));
    return json_pack("{s:i,s:i,s:o,s:b}", "from_layers", from, "to_layers", (int)map->n, "source",
                     source, "zero_init", zero_init);
}

/* The base's history and this growth. */
static int write_history(struct growth *g, struct err *err) {
    char *path = path_join(g->base, "gstack.json");
    json_t *j = file_exists(path) ? json_file(path, (size_t)1 << 20, err) : json_object();
    free(path);
    if (!j)
        return -1;
    json_t *list = json_object_get(j, "history");
    if (!json_is_array(list)) {
        list = json_array();
        json_object_set_new(j, "history", list);
    }
    json_array_append_new(list, grow_entry(g->cfg.n_layer, &g->map, g->o->zero_init));
    return json_write(g->out, "gstack.json", j, 2, err);
}

/* What "base_moments" of a run reads besides the arrays: the count of updates. */
static int write_trainer(const struct growth *g, struct err *err) {
    char *path = path_join(g->base, "trainer.json");
    json_t *j = json_file(path, (size_t)1 << 20, err);
    int64_t updates = 0;
    int rc = -1;
    if (j && !json_get_int(j, path, "updates", 0, INT64_MAX, &updates, err))
        rc = json_write(g->out, "trainer.json",
                        json_pack("{s:i, s:I}", "format", 1, "updates", (json_int_t)updates), 2,
                        err);
    json_decref(j);
    free(path);
    return rc;
}

static int write_table(const struct growth *g, const struct table *t, const char *name,
                       struct err *err) {
    char *path = path_join(g->out, name);
    int rc = safetensors_write(path, t->grown, t->n, err);
    free(path);
    return rc;
}

static int write_all(struct growth *g, struct err *err) {
    if (write_table(g, &g->model, "model.safetensors", err) || write_history(g, err))
        return -1;
    if (g->o->moments &&
        (write_table(g, &g->optimizer, "optimizer.safetensors", err) || write_trainer(g, err)))
        return -1;
    for (int i = 0; tokenizer_files[i]; i++)
        if (file_copy(g->base, tokenizer_files[i], g->out, err))
            return -1;
    if (file_copy(g->base, "generation_config.json", g->out, err))
        return -1;
    return write_config(g, err); /* the last: a folder without it is no model */
}

static void table_free(struct table *t) {
    for (int i = 0; i < t->n; i++)
        free((void *)t->grown[i].name);
    free(t->grown);
    tensors_close(&t->ts);
}

int grow_dir(const char *base, const struct grow_opts *o, const char *out, struct grow_report *r,
             struct err *err) {
    struct growth g = {.base = base, .out = out, .o = o};
    bool empty;
    int rc = -1;
    if (read_base(&g, err))
        goto out;
    make_zeros(&g);
    if ((o->moments && copy_tensors(&g, &g.optimizer, err)) || copy_tensors(&g, &g.model, err) ||
        dir_make(out, &empty, err))
        goto out;
    if (!empty) {
        err_set(err, E_USAGE, "%s: exists and is not empty", out);
        goto out;
    }
    if (write_all(&g, err))
        goto out;
    *r = (struct grow_report){.from = g.cfg.n_layer,
                              .to = (int)g.map.n,
                              .connection_rate = gstack_connection_rate(&g.map)};
    for (int i = 0; i < g.model.ts.n; i++)
        r->from_bytes += g.model.ts.t[i].bytes;
    for (int i = 0; i < g.model.n; i++)
        r->to_bytes += g.model.grown[i].bytes;
    rc = 0;
out:
    table_free(&g.model);
    table_free(&g.optimizer);
    free(g.zeros);
    ids_free(&g.map);
    json_decref(g.config);
    return rc;
}
