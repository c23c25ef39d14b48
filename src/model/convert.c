/* convert.c - see convert.h.  Rows are independent, so threads share a chunk of them and the bytes
 * do not depend on their number. */
#include "model/convert.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "model/gguf_kv.h"
#include "model/packed.h"
#include "num/quant.h"

#define CHUNK ((size_t)8 << 20) /* bytes of floats that are converted together, at least a row */

/* -- the target's configuration and tensors --------------------------------------------------- */

static bool same_flags(const struct cfg *a, const struct cfg *b) {
    return a->norm == b->norm && a->act == b->act && a->gated == b->gated &&
           a->parallel == b->parallel && a->shared_norm == b->shared_norm &&
           a->qk_norm == b->qk_norm && a->bias_qkv == b->bias_qkv && a->bias_o == b->bias_o &&
           a->bias_mlp == b->bias_mlp && a->bias_head == b->bias_head && a->tied == b->tied &&
           a->head_dim == b->head_dim && a->rope_dim == b->rope_dim && a->window == b->window &&
           a->rope_scaling == b->rope_scaling && a->n_kv_head == b->n_kv_head;
}

/* A folder's config.json has fewer words than GGUF's tensor list: what it would lose is refused. */
static int check_folder_cfg(const struct cfg *c, const char *path, struct err *err) {
    struct cfg back;
    struct err why = {0};
    json_t *j = cfg_to_hf(c);
    bool same = !cfg_from_hf(&back, j, path, &why) && same_flags(&back, c);
    json_decref(j);
    if (!same)
        return err_set(err, E_USAGE, "%s: a config.json of model_type %s cannot say what this is",
                       path, c->arch);
    return 0;
}

static void rename_arch(struct cfg *c, const char *arch) {
    memset(c->arch, 0, sizeof c->arch);
    memcpy(c->arch, arch, strlen(arch));
}

/* GGUF knows Mistral as llama with a window; Hugging Face's Llama has no window. */
static int target_cfg(struct conversion *c, struct err *err) {
    c->cfg = c->from.cfg;
    if (c->gguf) {
        if (strcmp(c->cfg.arch, "mistral") == 0)
            rename_arch(&c->cfg, "llama");
        return 0;
    }
    if (strcmp(c->cfg.arch, "llama") == 0 && c->cfg.window)
        rename_arch(&c->cfg, "mistral");
    return check_folder_cfg(&c->cfg, c->from.path, err);
}

static struct model *shell(const struct cfg *c) {
    struct model *m = mem_new(sizeof *m);
    m->cfg = *c;
    m->layer = mem_array((size_t)c->n_layer, sizeof *m->layer);
    return m;
}

static void shell_free(struct model *m) {
    if (m)
        free(m->layer);
    free(m);
}

static void list_targets(struct conversion *c) {
    struct map *seen = map_new((size_t)c->out.n);
    c->target = mem_array((size_t)c->out.n + 1, sizeof *c->target);
    for (int i = 0; i < c->out.n; i++) {
        const struct part *p = &c->out.part[i];
        int k = map_put(seen, p->name, strlen(p->name), c->n_target);
        struct target *t = &c->target[k];
        t->part[t->n_part++] = i;
        if (k < c->n_target)
            continue;
        c->n_target++;
        t->rows = p->t_rows;
        t->cols = p->t_cols;
        t->transposed = p->transposed;
        t->t.name = p->name;
        t->t.rank = p->t_cols ? 2 : 1;
        t->t.shape[0] = p->transposed ? p->t_cols : p->t_rows;
        t->t.shape[1] = p->transposed ? p->t_rows : p->t_cols;
    }
    map_free(seen);
}

/* Llama 3's rope scaling, which GGUF has as a tensor. */
static void add_rope_freqs(struct conversion *c) {
    int n = c->cfg.rope_dim / 2;
    if (!c->gguf || c->cfg.rope_scaling != ROPE_LLAMA3)
        return;
    c->made = mem_array((size_t)n, sizeof *c->made);
    for (int i = 0; i < n; i++)
        c->made[i] = (float)gguf_rope_divisor(&c->cfg, i, n);
    c->target[c->n_target++] = (struct target){
        .made = c->made, .rows = n, .t = {.name = "rope_freqs.weight", .rank = 1, .shape = {n}}};
}

/* GGUF to GGUF: each tensor is a part, and a target of the same name and shape. */
static int list_same(struct conversion *c, struct err *err) {
    const struct tensors *ts = c->from.ts;
    c->in.part = mem_array((size_t)ts->n, sizeof *c->in.part);
    c->out.part = mem_array((size_t)ts->n, sizeof *c->out.part);
    c->target = mem_array((size_t)ts->n, sizeof *c->target);
    c->in.n = c->out.n = c->n_target = ts->n;
    for (int i = 0; i < ts->n; i++) {
        const struct tensor *t = &ts->t[i];
        int64_t rows = t->rank < 2 ? t->shape[0] : 1,
                cols = t->rank < 2 ? 1 : t->shape[t->rank - 1];
        for (int k = 0; k + 1 < t->rank; k++)
            rows *= t->shape[k]; /* no overflow: the file has been checked */
        if (t->type == DT_NONE || rows > INT_MAX || cols > INT_MAX)
            return err_set(err, E_FORMAT,
                           "%s: tensor '%s': type %s, %lld rows of %lld cannot be "
                           "converted",
                           c->from.path, t->name, t->type_name, (long long)rows, (long long)cols);
        int t_cols = t->rank < 2 ? 0 : (int)cols;
        c->in.part[i] = (struct part){
            .t = t, .rows = (int)rows, .cols = (int)cols, .t_rows = (int)rows, .t_cols = t_cols};
        c->out.part[i] = c->in.part[i];
        c->target[i] =
            (struct target){.rows = (int)rows, .cols = t_cols, .part = {i}, .n_part = 1, .t = *t};
    }
    return 0;
}

void target_set_type(struct target *t, enum dtype type) {
    bool packed = type == DT_INT8 || type == DT_INT4; /* these are always (rows, cols) */
    t->t.type = type;
    t->t.type_name = dtype_info(type)->name;
    t->t.bytes = dtype_row_bytes(type, t->cols ? t->cols : 1) * (size_t)t->rows;
    if (t->transposed && packed) {
        t->transposed = false;
        t->t.shape[0] = t->rows;
        t->t.shape[1] = t->cols;
    }
}

int conversion_open(struct conversion *c, const char *path, bool gguf, struct err *err) {
    *c = (struct conversion){.gguf = gguf};
    if (source_open(&c->from, path, err) || target_cfg(c, err))
        return -1;
    c->pool = pool_new(0);
    if (gguf && c->from.gguf)
        return list_same(c, err);
    c->m_in = shell(&c->from.cfg);
    c->m_out = shell(&c->cfg);
    plan_build(&c->in, c->m_in, c->from.ts, c->from.gguf != NULL);
    plan_build(&c->out, c->m_out, NULL, gguf);
    if (plan_resolve(&c->in, c->from.ts, err))
        return -1;
    list_targets(c);
    add_rope_freqs(c);
    return 0;
}

void conversion_close(struct conversion *c) {
    plan_free(&c->in);
    plan_free(&c->out);
    shell_free(c->m_in);
    shell_free(c->m_out);
    free(c->target);
    free(c->made);
    pool_free(c->pool);
    source_close(&c->from);
    *c = (struct conversion){.gguf = false};
}

/* -- rows ------------------------------------------------------------------------------------- */

struct origin { /* of one row of a target: row r of part `part` of the plans */
    int part, r;
};

struct chunk { /* rows lo .. hi - 1 of a target */
    const struct conversion *c;
    const struct target *t;
    const struct origin *origin;
    int lo, hi, cols;
    char *dst;   /* rows one after another, or only their integers   */
    char *scale; /* of row lo, of INT8 and INT4                      */
    size_t to;   /* bytes of a row at dst                            */
    size_t to_scale;
    float **f; /* one a thread: SOURCE_ROWS rows */
    char **raw, **form;
};

/* Rows at..at + n - 1 are rows r.. of one part. */
static int run_of(const struct chunk *k, int at, int hi) {
    int n = 1;
    while (at + n < hi && n < SOURCE_ROWS && k->origin[at + n].part == k->origin[at].part &&
           k->origin[at + n].r == k->origin[at].r + n)
        n++;
    return n;
}

static void put_row(const struct chunk *k, int row, const void *form) {
    size_t i = (size_t)(row - k->lo);
    if (k->scale)
        packed_split(k->t->t.type, form, k->cols, k->dst + i * k->to, k->scale + i * k->to_scale);
    else
        memcpy(k->dst + i * k->to, form, k->to);
}

static void convert_rows(void *arg, int id, int n_thread) {
    const struct chunk *k = arg;
    enum dtype type = k->t->t.type;
    int lo, hi;
    pool_split(k->hi - k->lo, 1, id, n_thread, &lo, &hi);
    for (int at = k->lo + lo, n; at < k->lo + hi; at += n) {
        n = run_of(k, at, k->lo + hi);
        struct origin o = k->origin[at];
        const struct part *p = &k->c->in.part[o.part];
        if (p->t->type == type && !p->transposed) {
            for (int i = 0; i < n; i++)
                put_row(k, at + i, source_row(p, o.r + i, k->raw[id]));
            continue;
        }
        source_floats(p, o.r, n, k->f[id], k->raw[id]);
        for (int i = 0; i < n; i++) {
            row_from_f32(type, k->f[id] + (size_t)i * (size_t)k->cols, k->form[id], k->cols);
            put_row(k, at + i, k->form[id]);
        }
    }
}

/* Which row of which part each row of the target's tensor is. */
static struct origin *origins(const struct conversion *c, const struct target *t, int rows) {
    struct origin *o = mem_array((size_t)rows, sizeof *o);
    for (int i = 0; i < t->n_part; i++) {
        const struct part *p = &c->out.part[t->part[i]];
        for (int r = 0; r < p->rows; r++)
            o[plan_source_row(p, r)] = (struct origin){t->part[i], r};
    }
    return o;
}

/* (rows, cols) of elem bytes each to (cols, rows). */
static int write_transposed(const struct chunk *k, size_t elem, const struct sink *s,
                            struct err *err) {
    size_t rows = (size_t)(k->hi - k->lo);
    char *line = mem_new(rows * elem);
    int rc = 0;
    for (size_t c = 0; c < (size_t)k->cols && !rc; c++) {
        for (size_t r = 0; r < rows; r++)
            memcpy(line + r * elem, k->dst + r * k->to + c * elem, elem);
        rc = s->write(s->ud, line, rows * elem, err);
    }
    free(line);
    return rc;
}

static int write_chunks(struct conversion *c, struct chunk *k, int rows, int per,
                        const struct sink *s, struct err *err) {
    char *scales = k->scale;
    for (k->lo = 0; k->lo < rows; k->lo = k->hi) {
        k->hi = rows - k->lo < per ? rows : k->lo + per;
        pool_run(c->pool, convert_rows, k);
        int rc = k->t->transposed && !scales
                     ? write_transposed(k, dtype_row_bytes(k->t->t.type, 1), s, err)
                     : s->write(s->ud, k->dst, (size_t)(k->hi - k->lo) * k->to, err);
        if (rc)
            return -1;
        if (scales)
            k->scale += (size_t)(k->hi - k->lo) * k->to_scale;
    }
    if (scales && s->write(s->ud, scales, (size_t)rows * k->to_scale, err))
        return -1;
    const int64_t shape[2] = {rows, k->cols};
    return k->t->t.type == DT_INT4 ? s->write(s->ud, shape, sizeof shape, err) : 0;
}

static int write_matrix(struct conversion *c, const struct target *t, const struct sink *s,
                        struct err *err) {
    int rows = t->rows, cols = t->cols, n = pool_size(c->pool);
    bool packed = t->t.type == DT_INT8 || t->t.type == DT_INT4;
    size_t form = dtype_row_bytes(t->t.type, cols);
    struct chunk k = {.c = c, .t = t, .cols = cols, .to = form};
    if (packed) {
        struct tensor made[PACKED_TENSORS];
        int n_made = packed_tensors(&t->t, made);
        k.to = made[0].bytes / (size_t)rows;
        k.to_scale = made[1].bytes / (size_t)rows;
        for (int i = 0; i < n_made; i++)
            free((char *)made[i].name);
    }
    size_t room = CHUNK / ((size_t)cols * sizeof(float));
    int per = t->transposed || room >= (size_t)rows ? rows : room < 1 ? 1 : (int)room;
    struct origin *origin = origins(c, t, rows);
    char *scale = packed ? mem_new((size_t)rows * k.to_scale) : NULL;
    k.origin = origin;
    k.scale = scale;
    k.dst = mem_new((size_t)per * k.to);
    k.f = mem_array((size_t)n, sizeof *k.f);
    k.raw = mem_array((size_t)n, sizeof *k.raw);
    k.form = mem_array((size_t)n, sizeof *k.form);
    for (int i = 0; i < n; i++) {
        k.f[i] = mem_array((size_t)cols * SOURCE_ROWS, sizeof(float));
        k.raw[i] = mem_array((size_t)cols + SOURCE_ROWS, sizeof(double));
        k.form[i] = mem_new(form);
    }
    int rc = write_chunks(c, &k, rows, per, s, err);
    for (int i = 0; i < n; i++) {
        free(k.f[i]);
        free(k.raw[i]);
        free(k.form[i]);
    }
    free(k.f);
    free(k.raw);
    free(k.form);
    free(k.dst);
    free(scale);
    free(origin);
    return rc;
}

static int write_vector(const struct conversion *c, const struct target *t, const struct sink *s,
                        struct err *err) {
    float *to = mem_array((size_t)t->rows, sizeof *to);
    for (int i = 0; i < t->n_part; i++) {
        const struct part *p = &c->out.part[t->part[i]];
        float *f = mem_array((size_t)p->rows, sizeof *f);
        source_vec(&c->in.part[t->part[i]], f);
        for (int r = 0; r < p->rows; r++)
            to[plan_source_row(p, r)] = p->plus_one ? f[r] - 1 : f[r];
        free(f);
    }
    int rc = s->write(s->ud, to, t->t.bytes, err);
    free(to);
    return rc;
}

int target_write(struct conversion *c, const struct target *t, const struct sink *s,
                 struct err *err) {
    if (t->made)
        return s->write(s->ud, t->made, t->t.bytes, err);
    return t->cols ? write_matrix(c, t, s, err) : write_vector(c, t, s, err);
}
