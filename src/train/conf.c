/* conf.c - see conf.h.
 *
 * Numbers, booleans and strings stand in one table: key, kind, place, range. Defaults come first,
 * then the preset, then the file. The few keys that a table cannot say (data, freeze, paths)
 * follow. */
#include "train/conf.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

#define MAX_CONF ((size_t)1 << 20)

enum kind { INT, REAL, BOOL, STR, OTHER };
static const struct key {
    const char *name;
    enum kind kind;
    size_t at;
    double lo, hi;
} keys[] = {
#define AT(field) offsetof(struct conf, field)
    {"vocab_size", INT, AT(vocab_size), 1, 1 << 24},
    {"dim", INT, AT(dim), 2, 1 << 16},
    {"n_layers", INT, AT(n_layers), 1, 1024},
    {"n_heads", INT, AT(n_heads), 1, 1024},
    {"n_kv_heads", INT, AT(n_kv_heads), 1, 1024},
    {"hidden_dim", INT, AT(hidden_dim), 1, 1 << 18},
    {"max_seq_len", INT, AT(max_seq_len), 2, 1 << 20},
    {"norm_eps", REAL, AT(norm_eps), 1e-12, 1e-1},
    {"rope_theta", REAL, AT(rope_theta), 1, 1e12},
    {"tie_embeddings", BOOL, AT(tie_embeddings), 0, 0},
    {"eval_fraction", REAL, AT(eval_fraction), 0, 0.5},
    {"skip_bad_data", BOOL, AT(skip_bad_data), 0, 0},
    {"document_masking", BOOL, AT(document_masking), 0, 0},
    {"batch_size", INT, AT(batch_size), 1, 1 << 16},
    {"gradient_accumulation_steps", INT, AT(accumulation), 1, 1 << 16},
    {"max_epochs", INT, AT(max_epochs), 1, 1 << 20},
    {"max_steps", INT, AT(max_steps), 1, 1e12},
    {"learning_rate", REAL, AT(learning_rate), 0, 10},
    {"min_lr", REAL, AT(min_lr), 0, 10},
    {"decay_fraction", REAL, AT(decay_fraction), 0, 1},
    {"warmup_steps", INT, AT(warmup_steps), 0, 1e12},
    {"dropout", REAL, AT(dropout), 0, 0.999},
    {"weight_decay", REAL, AT(weight_decay), 0, 100},
    {"grad_clip", REAL, AT(grad_clip), 0, 1e9},
    {"beta1", REAL, AT(beta1), 0, 0.999999},
    {"beta2", REAL, AT(beta2), 0, 0.999999},
    {"adam_eps", REAL, AT(adam_eps), 1e-20, 1},
    {"seed", INT, AT(seed), 0, 9e18},
    {"base_moments", BOOL, AT(base_moments), 0, 0},
    {"grow_learning_rate", REAL, AT(grow_learning_rate), 0, 10},
    {"grow_zero_init", BOOL, AT(grow_zero_init), 0, 0},
    {"grow_moments", BOOL, AT(grow_moments), 0, 0},
    {"mixed_precision", BOOL, AT(mixed_precision), 0, 0},
    {"recompute", BOOL, AT(recompute), 0, 0},
    {"threads", INT, AT(threads), 0, 1024},
    {"save_checkpoint_every", INT, AT(save_every), 0, 1e12},
    {"keep_last", INT, AT(keep_last), 1, 1 << 20},
    {"keep_every", INT, AT(keep_every), 0, 1e12},
    {"eval_every", INT, AT(eval_every), 0, 1e12},
    {"eval_batches", INT, AT(eval_batches), 0, 1e12},
    {"log_every", INT, AT(log_every), 1, 1e12},
    {"sample_every", INT, AT(sample_every), 0, 1e12},
    {"sample_tokens", INT, AT(sample_tokens), 1, 1 << 16},
    {"sample_prompt", STR, AT(sample_prompt), 0, 0},
    {"preset", OTHER, 0, 0, 0},
    {"base", OTHER, 0, 0, 0},
    {"init_from", OTHER, 0, 0, 0},
    {"tokenizer", OTHER, 0, 0, 0},
    {"out", OTHER, 0, 0, 0},
    {"cache", OTHER, 0, 0, 0},
    {"data", OTHER, 0, 0, 0},
    {"val_data", OTHER, 0, 0, 0},
    {"schedule", OTHER, 0, 0, 0},
    {"freeze", OTHER, 0, 0, 0},
    {"dtype", OTHER, 0, 0, 0},
    {"grow", OTHER, 0, 0, 0},
    {"rewarm_at", OTHER, 0, 0, 0},
    {"chat_template", OTHER, 0, 0, 0},
};
enum { N_KEYS = sizeof keys / sizeof *keys };

bool conf_given(const struct conf *c, const char *key) {
    const json_t *v = json_object_get(c->json, key);
    return v && !json_is_null(v);
}

static void set_defaults(struct conf *c) {
    c->norm_eps = 1e-5;
    c->rope_theta = 10000;
    c->tie_embeddings = c->document_masking = true;
    c->eval_fraction = 0.01;
    c->batch_size = 4;
    c->accumulation = 1;
    c->schedule = LR_COSINE;
    c->learning_rate = 3e-4;
    c->decay_fraction = 0.2;
    c->warmup_steps = -1;
    c->weight_decay = 0.1;
    c->grad_clip = 1;
    c->beta1 = 0.9;
    c->beta2 = 0.95;
    c->adam_eps = 1e-8;
    c->save_every = 500;
    c->keep_last = 2;
    c->eval_every = 250;
    c->eval_batches = 20;
    c->log_every = 10;
    c->sample_tokens = 60;
    c->sample_prompt = "";
}

static const struct preset {
    const char *name;
    int dim, layers, heads, kv_heads, hidden, len, batch, accumulation;
} presets[] = {
    {"minimal", 768, 8, 12, 3, 2048, 256, 8, 4},
    {"balanced", 1024, 12, 16, 4, 2816, 512, 4, 8},
    {"high", 1280, 16, 20, 5, 3584, 1024, 2, 16},
};

static int take_preset(struct conf *c, struct err *err) {
    const char *name = NULL;
    if (json_get_str(c->json, c->path, "preset", &name, err))
        return -1;
    for (size_t i = 0; name && i < sizeof presets / sizeof *presets; i++) {
        const struct preset *p = &presets[i];
        if (strcmp(p->name, name) != 0)
            continue;
        c->dim = p->dim;
        c->n_layers = p->layers;
        c->n_heads = p->heads;
        c->n_kv_heads = p->kv_heads;
        c->hidden_dim = p->hidden;
        c->max_seq_len = p->len;
        c->batch_size = p->batch;
        c->accumulation = p->accumulation;
        c->mixed_precision = true;
        return 0;
    }
    return name ? err_set(err, E_FORMAT, "%s: preset '%s' is not minimal, balanced or high",
                          c->path, name)
                : 0;
}

static int take_key(struct conf *c, const struct key *k, struct err *err) {
    void *p = (char *)c + k->at;
    switch (k->kind) {
    case INT:
        return json_get_int(c->json, c->path, k->name, (int64_t)k->lo, (int64_t)k->hi, p, err);
    case REAL:
        return json_get_real(c->json, c->path, k->name, k->lo, k->hi, p, err);
    case BOOL:
        return json_get_bool(c->json, c->path, k->name, p, err);
    case STR:
        return json_get_str(c->json, c->path, k->name, p, err);
    case OTHER:
        return 0;
    }
    return 0;
}

static int check_names(const struct conf *c, struct err *err) {
    const char *name;
    json_t *v;
    json_object_foreach(c->json, name, v) {
        bool known = false;
        for (int i = 0; i < N_KEYS && !known; i++)
            known = !strcmp(keys[i].name, name);
        if (!known)
            return err_set(err, E_FORMAT, "%s: unknown key '%.80s'", c->path, name);
    }
    return 0;
}

/* -- paths and files --------------------------------------------------------------------------- */

/* *at: a path as seen from RUN.json's folder; untouched if name is NULL. */
static void resolve(const struct conf *c, const char *name, char **at) {
    const char *slash = strrchr(c->path, '/');
    if (!name)
        return;
    free(*at);
    if (*name == '/' || !slash) {
        *at = mem_strdup(name);
        return;
    }
    struct buf b = {0};
    buf_add(&b, c->path, (size_t)(slash - c->path) + 1);
    buf_adds(&b, name);
    buf_str(&b);
    *at = b.data;
}

static int take_path(struct conf *c, const char *key, char **at, struct err *err) {
    const char *name = NULL;
    if (json_get_str(c->json, c->path, key, &name, err))
        return -1;
    if (name && !*name)
        return err_set(err, E_FORMAT, "%s: %s is empty", c->path, key);
    resolve(c, name, at);
    return 0;
}

/* One file: "path", or {"path", "weight", "format", "separator"}. */
static int take_source(struct conf *c, const char *key, const json_t *v, struct data_source *s,
                       struct err *err) {
    const char *name = json_string_value(v), *format = "auto";
    char *path = NULL;
    *s = (struct data_source){.separator = "<|endoftext|>", .weight = 1};
    if (json_is_object(v)) {
        const char *sub;
        json_t *item;
        json_object_foreach((json_t *)v, sub, item) {
            if (strcmp(sub, "path") && strcmp(sub, "weight") && strcmp(sub, "format") &&
                strcmp(sub, "separator"))
                return err_set(err, E_FORMAT, "%s: %s: unknown key '%.80s'", c->path, key, sub);
        }
        if (json_get_str(v, c->path, "path", &name, err) ||
            json_get_real(v, c->path, "weight", 1e-6, 1000, &s->weight, err) ||
            json_get_str(v, c->path, "format", &format, err) ||
            json_get_str(v, c->path, "separator", &s->separator, err))
            return -1;
        if (json_is_null(json_object_get(v, "separator")))
            s->separator = NULL;
    }
    if (!name || !*name)
        return err_set(err, E_FORMAT, "%s: %s: a path, or an object with \"path\", is needed",
                       c->path, key);
    if (doc_format_parse(format) < 0)
        return err_set(err, E_FORMAT, "%s: %s: format '%.40s' is not text, jsonl, chat or auto",
                       c->path, key, format);
    if (s->separator && !*s->separator)
        return err_set(err, E_FORMAT, "%s: %s: separator is empty (null: none)", c->path, key);
    s->format = (enum doc_format)doc_format_parse(format);
    resolve(c, name, &path);
    s->path = path;
    return 0;
}

static int take_sources(struct conf *c, const char *key, struct data_source *list, int *n,
                        struct err *err) {
    const json_t *v = json_object_get(c->json, key);
    if (!conf_given(c, key))
        return 0;
    size_t count = json_is_array(v) ? json_array_size(v) : 1;
    if (count == 0 || count > CONF_LIST)
        return err_set(err, E_FORMAT, "%s: %s has %zu files, not 1 to %d", c->path, key, count,
                       CONF_LIST);
    for (; *n < (int)count; ++*n)
        if (take_source(c, key, json_is_array(v) ? json_array_get(v, (size_t)*n) : v, &list[*n],
                        err))
            return -1;
    return 0;
}

static int take_freeze(struct conf *c, struct err *err) {
    const json_t *v = json_object_get(c->json, "freeze");
    if (!conf_given(c, "freeze"))
        return 0;
    if (!json_is_array(v) || json_array_size(v) > CONF_LIST)
        return err_set(err, E_FORMAT, "%s: freeze must be a list of at most %d tensor names",
                       c->path, CONF_LIST);
    for (size_t i = 0; i < json_array_size(v); i++) {
        if (!json_is_string(json_array_get(v, i)))
            return err_set(err, E_FORMAT, "%s: freeze[%zu] must be a string", c->path, i);
        c->freeze[c->n_freeze++] = json_string_value(json_array_get(v, i));
    }
    return 0;
}

static int take_names(struct conf *c, struct err *err) {
    static const char *const schedules[] = {"constant", "cosine", "wsd",
                                            "wsd_sqrt"}; /* enum lr_kind */
    const char *schedule = "cosine", *type = c->mixed_precision ? "bf16" : "f32", *chat = NULL;
    if (json_get_str(c->json, c->path, "schedule", &schedule, err) ||
        json_get_str(c->json, c->path, "dtype", &type, err) ||
        json_get_str(c->json, c->path, "chat_template", &chat, err))
        return -1;
    int k = 0;
    while (k < 4 && strcmp(schedules[k], schedule) != 0)
        k++;
    if (k == 4)
        return err_set(err, E_FORMAT,
                       "%s: schedule '%.40s' is not cosine, wsd, wsd_sqrt or constant", c->path,
                       schedule);
    c->schedule = (enum lr_kind)k;
    c->dtype = dtype_parse(type);
    if (c->dtype != DT_F32 && c->dtype != DT_BF16 && c->dtype != DT_F16)
        return err_set(err, E_FORMAT, "%s: dtype '%.40s' is not f32, f16 or bf16", c->path, type);
    if (chat && (c->chat = chat_parse(chat)) == CHAT_NONE)
        return err_set(
            err, E_FORMAT,
            "%s: chat_template '%.40s' is not chatml, llama2, llama3, mistral, phi or zephyr",
            c->path, chat);
    return 0;
}

/* -- growth ------------------------------------------------------------------------------------ */

/* "10%" or "2.5%" at s as a share in [0, 1); -1 if it is none. */
static double take_share(const char *s) {
    char *end;
    double v = strtod(s, &end);
    bool digits = *s && strspn(s, "0123456789.") == (size_t)(end - s);
    return digits && !strcmp(end, "%") && v >= 0 && v < 100 ? v / 100 : -1;
}

static int take_growth(struct conf *c, const char *given, struct err *err) {
    const char *grow = NULL, *rewarm = NULL;
    if (json_get_str(c->json, c->path, "grow", &grow, err) ||
        json_get_str(c->json, c->path, "rewarm_at", &rewarm, err))
        return -1;
    if (grow && given && strcmp(grow, given) != 0)
        return err_set(err, E_USAGE, "%s: grow is '%.40s', --grow '%.40s'", c->path, grow, given);
    if (given && !grow) { /* the checkpoints' run.json then says all that the run was told */
        json_object_set_new(c->json, "grow", json_string(given));
        grow = given;
    }
    if (grow) {
        char *end = NULL;
        c->grow_factor = *grow >= '1' && *grow <= '9' ? strtoll(grow, &end, 10) : 0;
        c->grow_at = c->grow_factor && *end == '@' ? take_share(end + 1) : -1;
        if (c->grow_factor < 2 || c->grow_factor > 512 || c->grow_at < 0)
            return err_set(err, given ? E_USAGE : E_FORMAT,
                           "%s: grow '%.40s' is not FACTOR@SHARE%%, such as 4@10%%: a factor of at "
                           "least 2, a share of the steps below 100",
                           c->path, grow);
    }
    if (rewarm && (c->rewarm_at = take_share(rewarm)) <= 0)
        return err_set(err, E_FORMAT,
                       "%s: rewarm_at '%.40s' is not a share of the steps between 0 and 100, such "
                       "as 10%%",
                       c->path, rewarm);
    return 0;
}

/* -- relations --------------------------------------------------------------------------------- */

static int check_shape(const struct conf *c, struct err *err) {
    const struct {
        const char *name;
        int64_t value;
    } needed[] = {{"dim", c->dim},
                  {"n_layers", c->n_layers},
                  {"n_heads", c->n_heads},
                  {"hidden_dim", c->hidden_dim},
                  {"max_seq_len", c->max_seq_len}};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].value)
            return err_set(err, E_FORMAT, "%s: no %s (or a preset, or a base to continue from)",
                           c->path, needed[i].name);
    if (c->dim % c->n_heads || c->dim / c->n_heads % 2)
        return err_set(err, E_FORMAT, "%s: dim %lld is not n_heads %lld times an even number",
                       c->path, (long long)c->dim, (long long)c->n_heads);
    if (c->n_heads % c->n_kv_heads)
        return err_set(err, E_FORMAT, "%s: n_heads %lld is not a multiple of n_kv_heads %lld",
                       c->path, (long long)c->n_heads, (long long)c->n_kv_heads);
    return 0;
}

static int clash(const struct conf *c, const char *a, const char *b, struct err *err) {
    return err_set(err, E_FORMAT, "%s: %s and %s exclude each other", c->path, a, b);
}

static int check_growth(const struct conf *c, struct err *err) {
    static const char *const needs[] = {"grow_learning_rate", "grow_zero_init", "grow_moments"};
    for (size_t i = 0; i < sizeof needs / sizeof *needs && !c->grow_factor; i++)
        if (conf_given(c, needs[i]))
            return err_set(err, E_FORMAT, "%s: %s is for a run with grow", c->path, needs[i]);
    if (!c->grow_factor)
        return 0;
    static const char *const not [] = {"base", "init_from", "freeze", "rewarm_at"};
    for (size_t i = 0; i < sizeof not / sizeof *not ; i++)
        if (conf_given(c, not [i]))
            return clash(c, "grow", not [i], err);
    if (c->n_layers % c->grow_factor)
        return err_set(err, E_FORMAT, "%s: grow: n_layers %lld is not a multiple of %lld", c->path,
                       (long long)c->n_layers, (long long)c->grow_factor);
    if (c->n_layers / c->grow_factor < 2)
        return err_set(err, E_FORMAT,
                       "%s: grow: %lld layers come from a base of one: it must have two or more",
                       c->path, (long long)c->n_layers);
    return 0;
}

static int check_relations(struct conf *c, struct err *err) {
    if (!c->out)
        return err_set(err, E_FORMAT, "%s: no out (the folder to write to)", c->path);
    if (!c->n_train)
        return err_set(err, E_FORMAT, "%s: no data", c->path);
    if (!c->base && !c->tokenizer)
        return err_set(err, E_FORMAT, "%s: no tokenizer (a folder with tokenizer.json)", c->path);
    if (c->base && conf_given(c, "preset"))
        return clash(c, "preset", "base", err);
    if (conf_given(c, "base") && conf_given(c, "init_from"))
        return clash(c, "base", "init_from", err);
    if (c->base_moments && !c->base)
        return err_set(err, E_FORMAT, "%s: base_moments needs a base", c->path);
    if (c->n_val && conf_given(c, "eval_fraction"))
        return clash(c, "val_data", "eval_fraction", err);
    if (c->min_lr > c->learning_rate)
        return err_set(err, E_FORMAT, "%s: min_lr %g is more than learning_rate %g", c->path,
                       c->min_lr, c->learning_rate);
    if (c->max_steps && c->warmup_steps > c->max_steps)
        return err_set(err, E_FORMAT, "%s: warmup_steps %lld is more than max_steps %lld", c->path,
                       (long long)c->warmup_steps, (long long)c->max_steps);
    if (c->eval_every && conf_given(c, "eval_every") && !c->n_val && c->eval_fraction == 0)
        return err_set(err, E_FORMAT, "%s: eval_every needs val_data or an eval_fraction above 0",
                       c->path);
    if (conf_given(c, "decay_fraction") && c->schedule != LR_WSD_LINEAR &&
        c->schedule != LR_WSD_SQRT)
        return err_set(err, E_FORMAT, "%s: decay_fraction is for the schedule wsd", c->path);
    if (conf_given(c, "min_lr") && c->schedule == LR_CONSTANT)
        return err_set(err, E_FORMAT, "%s: min_lr is not for the schedule constant", c->path);
    if (c->batch_size * c->max_seq_len > (int64_t)1 << 22)
        return err_set(err, E_FORMAT, "%s: batch_size x max_seq_len is more than %d tokens",
                       c->path, 1 << 22);
    if (!c->base && check_shape(c, err))
        return -1;
    return check_growth(c, err);
}

int conf_read(struct conf *c, const char *path, struct err *err) {
    return conf_read_with(c, path, NULL, err);
}

int conf_read_with(struct conf *c, const char *path, const char *grow, struct err *err) {
    *c = (struct conf){.path = mem_strdup(path)};
    if (!(c->json = json_file(path, MAX_CONF, err)) || check_names(c, err))
        return -1;
    set_defaults(c);
    if (take_preset(c, err))
        return -1;
    for (int i = 0; i < N_KEYS; i++)
        if (take_key(c, &keys[i], err))
            return -1;
    if (take_path(c, "base", &c->base, err) || take_path(c, "init_from", &c->base, err) ||
        take_path(c, "tokenizer", &c->tokenizer, err) || take_path(c, "out", &c->out, err) ||
        take_path(c, "cache", &c->cache, err) ||
        take_sources(c, "data", c->train, &c->n_train, err) ||
        take_sources(c, "val_data", c->val, &c->n_val, err) || take_names(c, err) ||
        take_freeze(c, err) || take_growth(c, grow, err))
        return -1;
    if (!conf_given(c, "min_lr"))
        c->min_lr = c->schedule == LR_CONSTANT ? c->learning_rate : c->learning_rate / 10;
    if (!conf_given(c, "grow_learning_rate"))
        c->grow_learning_rate = c->learning_rate;
    if (!c->max_epochs && !c->max_steps)
        c->max_epochs = 1;
    if (!c->n_kv_heads)
        c->n_kv_heads = c->n_heads;
    if (c->base && !c->tokenizer)
        c->tokenizer = mem_strdup(c->base);
    if (c->out && !c->cache)
        c->cache = path_join(c->out, "cache");
    return check_relations(c, err);
}

void conf_free(struct conf *c) {
    for (int i = 0; i < c->n_train; i++)
        free((char *)c->train[i].path);
    for (int i = 0; i < c->n_val; i++)
        free((char *)c->val[i].path);
    free(c->path);
    free(c->out);
    free(c->tokenizer);
    free(c->base);
    free(c->cache);
    json_decref(c->json);
    *c = (struct conf){0};
}

/* -- the model --------------------------------------------------------------------------------- */

int conf_cfg(const struct conf *c, const struct tok *tok, struct cfg *cfg, struct err *err) {
    int64_t vocab = c->vocab_size ? c->vocab_size : tok_size(tok);
    if (vocab < tok_size(tok))
        return err_set(err, E_FORMAT, "%s: vocab_size %lld is less than the %d ids of %s", c->path,
                       (long long)vocab, tok_size(tok), c->tokenizer);
    if (cfg_family(cfg, "llama", c->path, err))
        return -1;
    cfg->vocab = (int)vocab;
    cfg->dim = (int)c->dim;
    cfg->n_layer = (int)c->n_layers;
    cfg->n_head = (int)c->n_heads;
    cfg->n_kv_head = (int)c->n_kv_heads;
    cfg->head_dim = (int)(c->dim / c->n_heads);
    cfg->rope_dim = cfg->head_dim;
    cfg->ffn = (int)c->hidden_dim;
    cfg->max_ctx = (int)c->max_seq_len;
    cfg->norm_eps = (float)c->norm_eps;
    cfg->rope_theta = (float)c->rope_theta;
    cfg->tied = c->tie_embeddings;
    cfg->bos = tok_bos(tok);
    cfg->eos[0] = tok_eos(tok);
    cfg->n_eos = tok_eos(tok) >= 0;
    return cfg_check(cfg, c->path, err);
}

int conf_agrees(const struct conf *c, const struct cfg *b, const char *from, struct err *err) {
    const struct {
        const char *name;
        int64_t own, base;
    } shape[] = {
        {"vocab_size", c->vocab_size, b->vocab},       {"dim", c->dim, b->dim},
        {"n_layers", c->n_layers, b->n_layer},         {"n_heads", c->n_heads, b->n_head},
        {"n_kv_heads", c->n_kv_heads, b->n_kv_head},   {"hidden_dim", c->hidden_dim, b->ffn},
        {"tie_embeddings", c->tie_embeddings, b->tied}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        if (conf_given(c, shape[i].name) && shape[i].own != shape[i].base)
            return err_set(err, E_FORMAT, "%s: %s is %lld, but %s has %lld", c->path, shape[i].name,
                           (long long)shape[i].own, from, (long long)shape[i].base);
    if (conf_given(c, "norm_eps") && (float)c->norm_eps != b->norm_eps)
        return err_set(err, E_FORMAT, "%s: norm_eps is %g, but %s has %g", c->path, c->norm_eps,
                       from, b->norm_eps);
    if (conf_given(c, "rope_theta") && (!b->rope_dim || (float)c->rope_theta != b->rope_theta))
        return err_set(err, E_FORMAT, "%s: rope_theta is %g, but %s has %g", c->path, c->rope_theta,
                       from, b->rope_dim ? b->rope_theta : 0);
    if (c->max_seq_len > b->max_ctx)
        return err_set(err, E_FORMAT, "%s: max_seq_len is %lld, but %s has %d positions", c->path,
                       (long long)c->max_seq_len, from, b->max_ctx);
    return 0;
}
