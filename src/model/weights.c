/* weights.c - a model file to a struct model: check everything, then copy once into huge pages.
 * Order: configuration, tensor table, plan, shapes, tokenizer, memory - and only then the arena
 * and the copy, so that a bad file costs milliseconds and no memory.  The copy is split by rows
 * over the pool and each row is computed alone, so its bits do not depend on the number of
 * threads. */
#include "model/model.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/source.h"
#include "num/panel.h"
#include "num/quant.h"

struct model_store {
    void *arena; /* mem_pages */
    size_t bytes;
};

#define LANES SOURCE_ROWS

/* One thread's buffers, sized for the widest part. */
struct scratch {
    float *f;    /* LANES rows */
    char *raw;   /* one row as stored, aligned, which in the file it need not be */
    char *panel; /* PANEL rows in row form */
};

struct job {
    const struct plan *p;
    struct scratch *scratch; /* one a thread */
    uint64_t seed;
    char *arena;
};

/* A stored row in another type. */
static void convert(enum dtype from, const void *src, enum dtype to, void *dst, int n,
                    struct scratch *s) {
    if (from == to) {
        memcpy(dst, src, dtype_row_bytes(from, n));
        return;
    }
    if (to == DT_F32) {
        row_to_f32(from, src, dst, n);
        return;
    }
    const float *f = src;
    if (from != DT_F32) {
        row_to_f32(from, src, s->f, n);
        f = s->f;
    }
    row_from_f32(to, f, dst, n);
}

/* Where row r is to be made: in the matrix at dst, or beside the others of its panel. */
static char *row_begin(const struct part *p, char *dst, int r, struct scratch *s) {
    int panel = dtype_info(p->type)->panel;
    size_t row = dtype_row_bytes(p->type, p->cols);
    return panel == 1 ? dst + (size_t)r * row : s->panel + (size_t)(r % panel) * row;
}

/* Row r is made; with the last one of a panel, the panel goes into the matrix. */
static void row_end(const struct part *p, char *dst, int r, struct scratch *s) {
    int panel = dtype_info(p->type)->panel, first = r / panel * panel;
    if (panel > 1 && (r - first == panel - 1 || r == p->rows - 1))
        panel_pack(p->type, s->panel, r - first + 1, p->cols,
                   dst + (size_t)first * dtype_row_bytes(p->type, p->cols));
}

static void load_rows(const struct part *p, char *dst, int lo, int hi, struct scratch *s) {
    for (int r = lo; r < hi; r++) {
        convert(p->t->type, source_row(p, r, s->raw), p->type, row_begin(p, dst, r, s), p->cols, s);
        row_end(p, dst, r, s);
    }
}

static void load_transposed(const struct part *p, char *dst, int lo, int hi, struct scratch *s) {
    for (int r = lo; r < hi; r += LANES) {
        int n = hi - r < LANES ? hi - r : LANES;
        source_floats(p, r, n, s->f, s->raw);
        for (int k = 0; k < n; k++) {
            row_from_f32(p->type, s->f + (size_t)k * (size_t)p->cols, row_begin(p, dst, r + k, s),
                         p->cols);
            row_end(p, dst, r + k, s);
        }
    }
}

static void load(void *arg, int id, int n) {
    const struct job *j = arg;
    for (int i = 0; i < j->p->n; i++) {
        const struct part *p = &j->p->part[i];
        char *dst = j->arena + p->at;
        int lo, hi;
        pool_split(p->rows, LANES, id, n, &lo, &hi); /* panels stay whole */
        if (p->vec && i % n == id)
            source_vec(p, (float *)dst);
        else if (p->mat && p->transposed)
            load_transposed(p, dst, lo, hi, &j->scratch[id]);
        else if (p->mat)
            load_rows(p, dst, lo, hi, &j->scratch[id]);
    }
}

#define DEVIATION 0.02f

/* n normal numbers, Box-Muller in float and two at a time: a quarter of the time of rng_normal,
 * which is what starting a model of a billion random weights consists of. */
static void random_normals(struct rng *rng, float *out, int n) {
    for (int i = 0; i < n; i += 2) {
        uint64_t bits = rng_u64(rng);
        float u = (float)((bits >> 40) + 1) * 0x1p-24f; /* (0, 1]: the logarithm is finite */
        float angle = (float)(bits & 0xffffff) * (float)(2 * M_PI * 0x1p-24);
        float radius = DEVIATION * sqrtf(-2 * logf(u)), s, c;
        sincosf(angle, &s, &c);
        out[i] = radius * c;
        if (i + 1 < n)
            out[i + 1] = radius * s;
    }
}

/* Row r of part `i` has its own random stream, so that any thread can make it. */
static void random_row(const struct job *j, int i, int r, struct scratch *s) {
    const struct part *p = &j->p->part[i];
    const uint64_t key[2] = {j->seed, (uint64_t)i << 32 | (uint32_t)r};
    struct rng rng;
    rng_seed(&rng, XXH3_64bits(key, sizeof key));
    random_normals(&rng, s->f, p->cols);
    for (int c = 0; c < p->cols && p->is_norm; c++)
        s->f[c] = 1;
    char *dst = j->arena + p->at;
    row_from_f32(p->type, s->f, row_begin(p, dst, r, s), p->cols);
    row_end(p, dst, r, s);
}

static void randomize(void *arg, int id, int n) {
    const struct job *j = arg;
    for (int i = 0; i < j->p->n; i++) {
        int lo, hi;
        pool_split(j->p->part[i].rows, PANEL, id, n, &lo, &hi);
        for (int r = lo; r < hi; r++)
            random_row(j, i, r, &j->scratch[id]);
    }
}

/* Runs `work` over the plan on the pool (one thread without one). */
static void run_job(struct job *j, struct pool *pool, void (*work)(void *, int, int)) {
    int n = pool ? pool_size(pool) : 1;
    size_t max_cols = 1;
    for (int i = 0; i < j->p->n; i++)
        if ((size_t)j->p->part[i].cols > max_cols)
            max_cols = (size_t)j->p->part[i].cols;
    j->scratch = mem_array((size_t)n, sizeof *j->scratch);
    for (int i = 0; i < n; i++) {
        j->scratch[i].f = mem_array(max_cols * LANES, sizeof(float));
        j->scratch[i].raw = mem_array(max_cols + LANES, sizeof(double));
        j->scratch[i].panel = mem_array(max_cols + PANEL, PANEL * 2);
    }
    if (pool)
        pool_run(pool, work, j);
    else
        work(j, 0, 1);
    for (int i = 0; i < n; i++) {
        free(j->scratch[i].f);
        free(j->scratch[i].raw);
        free(j->scratch[i].panel);
    }
    free(j->scratch);
}

static int reserve(struct model *m, const struct plan *p, struct err *err) {
    size_t available = mem_available();
    if (available && p->bytes > available)
        return err_set(err, E_MEMORY, "%s: weights need %zu MiB, %zu MiB available", m->path,
                       p->bytes >> 20, available >> 20);
    m->store->arena = mem_pages(p->bytes, m->path, err);
    if (!m->store->arena)
        return -1;
    m->store->bytes = p->bytes;
    return 0;
}

/* Points the model's arrays into the arena. */
static void connect(struct model *m, const struct plan *p) {
    for (int i = 0; i < p->n; i++) {
        const struct part *q = &p->part[i];
        const void *data = (const char *)m->store->arena + q->at;
        if (q->mat)
            *q->mat = (struct mat){q->type, q->rows, q->cols, data};
        else
            *q->vec = data;
        m->weight_bytes += dtype_mat_bytes(q->type, q->rows, q->cols);
    }
    if (m->cfg.tied)
        m->head = m->embed;
}

static struct model *model_new(const struct cfg *c, const char *path) {
    struct model *m = mem_new(sizeof *m);
    m->cfg = *c;
    m->path = mem_strdup(path);
    m->layer = mem_array((size_t)c->n_layer, sizeof *m->layer);
    m->store = mem_new(sizeof *m->store);
    m->temp = m->top_p = -1;
    m->top_k = -1;
    return m;
}

static void note_fallback(const struct plan *p, const char *path, enum dtype want) {
    if (p->n_fallback)
        log_info("%s: %d matrices whose rows do not fill blocks of %d are kept in another type, "
                 "not %s",
                 path, p->n_fallback, dtype_info(want)->block, dtype_info(want)->name);
}

static void note_unused(const struct plan *p, const struct tensors *ts) {
    bool *used = mem_array((size_t)ts->n, sizeof *used);
    int n = 0;
    for (int i = 0; i < p->n; i++)
        used[p->part[i].t - ts->t] = true;
    for (int i = 0; i < ts->n; i++)
        n += !used[i] && strcmp(ts->t[i].name, "rope_freqs.weight") != 0; /* is in cfg */
    if (n)
        log_info("%s: %d of %d tensors are not needed and ignored", ts->path, n, ts->n);
    free(used);
}

struct model *model_open(const char *path, const struct model_opts *o, struct err *err) {
    struct source s;
    struct plan p = {0};
    struct model *m = NULL;
    bool ok = false;
    if (source_open(&s, path, err))
        return NULL;
    m = model_new(&s.cfg, path);
    m->temp = s.temp;
    m->top_p = s.top_p;
    m->top_k = s.top_k;
    plan_build(&p, m, s.ts, s.gguf != NULL);
    if (plan_resolve(&p, s.ts, err) || plan_types(&p, o->dtype, err) ||
        (!o->no_tokenizer && source_tok(&s, &m->tok, err)) || reserve(m, &p, err))
        goto out;
    m->chat = m->tok ? chat_detect(tok_chat_template(m->tok)) : CHAT_NONE;
    note_fallback(&p, path, o->dtype);
    note_unused(&p, s.ts);
    struct job job = {.p = &p, .arena = m->store->arena};
    run_job(&job, o->pool, load);
    connect(m, &p);
    ok = true;
out:
    plan_free(&p);
    source_close(&s);
    if (ok)
        return m;
    model_close(m);
    return NULL;
}

static struct model *make(const struct cfg *c, const uint64_t *seed, const struct model_opts *o,
                          struct err *err) {
    struct plan p = {0};
    if (cfg_check(c, "shape", err))
        return NULL;
    struct model *m = model_new(c, seed ? "(random weights)" : "(new weights)");
    plan_build(&p, m, NULL, false);
    if (plan_types(&p, o->dtype, err) || reserve(m, &p, err)) {
        model_close(m);
        m = NULL;
        goto out;
    }
    note_fallback(&p, m->path, o->dtype);
    struct job job = {.p = &p, .arena = m->store->arena, .seed = seed ? *seed : 0};
    if (seed)
        run_job(&job, o->pool, randomize);
    connect(m, &p);
out:
    plan_free(&p);
    return m;
}

struct model *model_random(const struct cfg *c, uint64_t seed, const struct model_opts *o,
                           struct err *err) {
    return make(c, &seed, o, err);
}

struct model *model_blank(const struct cfg *c, const struct model_opts *o, struct err *err) {
    return make(c, NULL, o, err);
}

static int write_configs(const char *dir, const struct cfg *c, enum dtype type, struct err *err) {
    static const char *const torch[] = {
        [DT_F32] = "float32", [DT_F16] = "float16", [DT_BF16] = "bfloat16"};
    json_t *config = cfg_to_hf(c), *gen = json_object();
    json_object_set_new(config, "torch_dtype", json_string(torch[type]));
    json_object_set(gen, "bos_token_id", json_object_get(config, "bos_token_id"));
    json_object_set(gen, "eos_token_id", json_object_get(config, "eos_token_id"));
    int rc = json_write(dir, "config.json", config, 2, err);
    if (rc) {
        json_decref(gen);
        return rc;
    }
    return json_write(dir, "generation_config.json", gen, 2, err);
}

/* Matrices that lie in panels back to rows, as files have them. */
static void to_rows(const struct plan *p, char *arena) {
    for (int i = 0; i < p->n; i++) {
        const struct part *q = &p->part[i];
        size_t row = dtype_row_bytes(q->type, q->cols);
        if (dtype_info(q->type)->panel == 1)
            continue;
        char *panel = mem_array(PANEL, row);
        for (int r = 0; r < q->rows; r += PANEL) {
            char *at = arena + q->at + (size_t)r * row;
            memcpy(panel, at, PANEL * row);
            for (int k = 0; k < PANEL && r + k < q->rows; k++)
                panel_row(q->type, panel, k, q->cols, at + (size_t)k * row);
        }
        free(panel);
    }
}

int model_init(const char *dir, const struct cfg *c, uint64_t seed, enum dtype type,
               struct err *err) {
    struct plan p = {0};
    char *weights = NULL;
    int rc = -1;
    if (type != DT_F32 && type != DT_F16 && type != DT_BF16)
        return err_set(err, E_USAGE, "%s: weights can be written as f32, f16 or bf16, not %s", dir,
                       dtype_info(type)->name);
    struct pool *pool = pool_new(0);
    struct model_opts o = {.dtype = type, .pool = pool};
    struct model *m = model_random(c, seed, &o, err);
    if (!m)
        goto out;
    plan_build(&p, m, NULL, false);
    if (plan_types(&p, type, err))
        goto out;
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) {
        err_set(err, E_IO, "%s: %s", dir, strerror(errno));
        goto out;
    }
    weights = path_join(dir, "model.safetensors");
    to_rows(&p, m->store->arena);
    rc = write_configs(dir, c, type, err) || plan_write(&p, m->store->arena, weights, err) ? -1 : 0;
out:
    free(weights);
    plan_free(&p);
    model_close(m);
    pool_free(pool);
    return rc;
}

void model_close(struct model *m) {
    if (!m)
        return;
    mem_pages_free(m->store->arena, m->store->bytes);
    free(m->store);
    tok_free(m->tok);
    free(m->layer);
    free(m->path);
    free(m);
}

int model_peek(const char *path, struct model_info *info, struct err *err) {
    struct source s;
    *info = (struct model_info){0};
    if (source_open(&s, path, err))
        return -1;
    int rc = source_tok(&s, &info->tok, err);
    info->cfg = s.cfg;
    info->n_tensor = s.ts->n;
    for (int i = 0; i < s.ts->n; i++) {
        const struct tensor *t = &s.ts->t[i];
        int64_t n = 1;
        for (int k = 0; k < t->rank; k++)
            n *= t->shape[k];
        info->params += n;
        info->bytes += t->bytes;
        if (t->type != DT_NONE)
            info->type_bytes[t->type] += t->bytes;
    }
    source_close(&s);
    return rc;
}

void model_info_free(struct model_info *info) {
    tok_free(info->tok);
    *info = (struct model_info){0};
}
