/* grow.c - see grow.h.
 * Works on the tensor table, whatever the family: a tensor whose name has a layer number in it
 * (model.layers.3.x, transformer.h.3.x) is written once for each target layer that has this
 * source. */
#include "train/grow.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "method/gstack.h"
#include "model/cfg.h"
#include "model/tensors.h"

struct growth {
    const char *base, *out;
    const struct grow_opts *o;
    struct cfg cfg;
    json_t *config;
    struct tensors ts;
    struct ids map;
    struct tensor *grown; /* owned, names too */
    int n_grown;
    void *zeros; /* as large as the largest zeroed tensor */
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
    char *path = path_join(g->base, "config.json");
    g->config = json_file(path, (size_t)16 << 20, err);
    int rc = g->config ? cfg_from_hf(&g->cfg, g->config, path, err) : -1;
    free(path);
    if (rc || safetensors_open_dir(&g->ts, g->base, err))
        return -1;
    return g->o->factor ? gstack_stack(g->cfg.n_layer, g->o->factor, &g->map, err)
                        : gstack_list(g->o->layers, g->cfg.n_layer, &g->map, err);
}

static void add_tensor(struct growth *g, const struct tensor *t, char *name, const void *data) {
    struct tensor *d = &g->grown[g->n_grown++];
    *d = *t;
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

/* All tensors of target layer k: those of its source, in the base's order. */
static void copy_block(struct growth *g, size_t k) {
    bool repeat = g->o->zero_init && gstack_is_repeat(&g->map, k);
    for (int i = 0; i < g->ts.n; i++) {
        const struct tensor *t = &g->ts.t[i];
        int layer;
        size_t at, len;
        if (!grow_layer(t->name, &layer, &at, &len) || layer != g->map.id[k])
            continue;
        bool zero = repeat && grow_is_output(t->name);
        add_tensor(g, t, renumbered(t->name, at, len, k), zero ? g->zeros : t->data);
    }
}

/* The grown tensors, blocks one after another where the base has its first: the same maps give the
 * same file, whatever steps led there. */
static int copy_tensors(struct growth *g, struct err *err) {
    size_t at, len, largest = 0;
    int seen = 0, layer;
    g->grown = mem_array((size_t)g->ts.n * g->map.n, sizeof *g->grown);
    for (int i = 0; i < g->ts.n; i++)
        if (grow_is_output(g->ts.t[i].name) && g->ts.t[i].bytes > largest)
            largest = g->ts.t[i].bytes;
    g->zeros = g->o->zero_init ? mem_new(largest) : NULL;
    for (int i = 0; i < g->ts.n; i++) {
        const struct tensor *t = &g->ts.t[i];
        if (!grow_layer(t->name, &layer, &at, &len)) {
            add_tensor(g, t, mem_strdup(t->name), t->data);
            continue;
        }
        for (size_t k = 0; k < g->map.n && !seen; k++)
            copy_block(g, k);
        seen = layer + 1 > seen ? layer + 1 : seen;
    }
    if (seen != g->cfg.n_layer)
        return err_set(err, E_FORMAT, "%s: tensors of %d layers, config.json says %d", g->base,
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

static int copy_files(const struct growth *g, struct err *err) {
    static const char *const name[] = {
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json",  "special_tokens_map.json",
        "vocab.json",     "merges.txt",      "generation_config.json", "chat_template.jinja"};
    int rc = 0;
    for (size_t i = 0; i < sizeof name / sizeof *name && !rc; i++) {
        char *from = path_join(g->base, name[i]), *to = path_join(g->out, name[i]);
        struct buf b = {0};
        if (file_exists(from))
            rc = file_read(from, (size_t)256 << 20, &b, err) || file_write(to, b.data, b.len, err)
                     ? -1
                     : 0;
        buf_free(&b);
        free(from);
        free(to);
    }
    return rc;
}

/* Creates dir unless it is there and empty. */
static int make_empty_dir(const char *dir, struct err *err) {
    if (mkdir(dir, 0777) == 0)
        return 0;
    if (errno != EEXIST)
        return err_set(err, E_IO, "%s: %s", dir, strerror(errno));
    DIR *d = opendir(dir);
    if (!d)
        return err_set(err, E_IO, "%s: %s", dir, strerror(errno));
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n > 2 ? err_set(err, E_USAGE, "%s: exists and is not empty", dir) : 0; /* . and .. */
}

int grow_dir(const char *base, const struct grow_opts *o, const char *out, struct grow_report *r,
             struct err *err) {
    struct growth g = {.base = base, .out = out, .o = o};
    int rc = -1;
    if (read_base(&g, err) || copy_tensors(&g, err) || make_empty_dir(out, err))
        goto out;
    char *path = path_join(out, "model.safetensors");
    rc = safetensors_write(path, g.grown, g.n_grown, err);
    free(path);
    if (rc || write_history(&g, err) || copy_files(&g, err) || write_config(&g, err)) {
        rc = -1; /* config.json comes last: a folder without it is no model */
        goto out;
    }
    *r = (struct grow_report){.from = g.cfg.n_layer,
                              .to = (int)g.map.n,
                              .connection_rate = gstack_connection_rate(&g.map)};
    for (int i = 0; i < g.ts.n; i++)
        r->from_bytes += g.ts.t[i].bytes;
    for (int i = 0; i < g.n_grown; i++)
        r->to_bytes += g.grown[i].bytes;
out:
    for (int i = 0; i < g.n_grown; i++)
        free((void *)g.grown[i].name);
    free(g.grown);
    free(g.zeros);
    ids_free(&g.map);
    json_decref(g.config);
    tensors_close(&g.ts);
    return rc;
}
