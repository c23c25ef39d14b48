/* state.c - what a checkpoint holds: a Hugging Face folder, optimizer.safetensors (F32 master
 * weights and moments, exactly), trainer.json (all else that decides the next step).
 *
 * Arrays are named after their tensor: "exp_avg.NAME"; where a file fuses several into one tensor
 * (q, k and v), the second and third are "exp_avg.NAME.1" and ".2". Master weights are left out
 * where model.safetensors has the same bits: F32, norms as stored. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/plan.h"
#include "model/tensors.h"
#include "num/quant.h"
#include "train/ckpt.h"
#include "train/loop.h"

#define MAX_STATE ((size_t)1 << 20)

static const char *const arrays[] = {"exp_avg", "exp_avg_sq", "master"};

/* -- names and numbers ------------------------------------------------------------------------- */

static char *array_name(const struct params *ps, int i, int which) {
    struct buf b = {0};
    int earlier = 0;
    for (int k = 0; k < i; k++)
        earlier += !strcmp(ps->p[k].name, ps->p[i].name);
    buf_printf(&b, "%s.%s", arrays[which], ps->p[i].name);
    if (earlier)
        buf_printf(&b, ".%d", earlier);
    buf_str(&b);
    return b.data;
}

static float *array_at(const struct train *t, int i, int which) {
    const struct param *p = &t->adam->ps->p[i];
    return which == 0 ? t->adam->m + p->at : which == 1 ? t->adam->v + p->at : p->w;
}

static bool needs_master(const struct train *t) {
    return t->c->dtype != DT_F32 || t->m->cfg.norm_plus_one;
}

/* -- saving ------------------------------------------------------------------------------------ */

size_t state_save_bytes(const struct cfg *c, enum dtype type) {
    return type == DT_F32 ? 0 : (size_t)cfg_params(c) * 2;
}

static int write_weights(const struct train *t, const char *path, struct err *err) {
    struct plan p = {0};
    char *arena = NULL;
    int rc = -1;
    if (t->c->dtype == DT_F32)
        return net_write_weights(t->net, path, err);
    plan_build(&p, t->m, NULL, false);
    if (plan_types(&p, t->c->dtype, err) || !(arena = mem_pages(p.bytes, "a copy to save", err)))
        goto out;
    for (int i = 0; i < p.n; i++) {
        const struct part *q = &p.part[i];
        const float *w = q->mat ? q->mat->data : *q->vec;
        size_t row = dtype_row_bytes(q->type, q->cols);
        for (int r = 0; r < q->rows; r++)
            row_from_f32(q->type, w + (size_t)r * (size_t)q->cols, arena + q->at + (size_t)r * row,
                         q->cols);
    }
    rc = plan_write(&p, arena, path, err);
out:
    mem_pages_free(arena, p.bytes);
    plan_free(&p);
    return rc;
}

static int write_optimizer(const struct train *t, const char *path, struct err *err) {
    const struct params *ps = t->adam->ps;
    int kinds = needs_master(t) ? 3 : 2, n = 0;
    struct tensor *list = mem_array((size_t)(ps->n * kinds), sizeof *list);
    for (int which = 0; which < kinds; which++)
        for (int i = 0; i < ps->n; i++) {
            const struct param *p = &ps->p[i];
            list[n++] = (struct tensor){.name = array_name(ps, i, which),
                                        .type = DT_F32,
                                        .rank = 2,
                                        .shape = {p->rows, p->cols},
                                        .data = array_at(t, i, which),
                                        .bytes = (size_t)p->rows * (size_t)p->cols * sizeof(float)};
        }
    int rc = safetensors_write(path, list, n, err);
    for (int i = 0; i < n; i++)
        free((char *)list[i].name);
    free(list);
    return rc;
}

/* null where a run does not grow; until it has, its factor alone. */
static json_t *growth_json(const struct growth_state *g, int factor) {
    if (!factor)
        return json_null();
    json_t *j = json_pack("{s:i, s:b}", "factor", factor, "done", g->done);
    if (!g->done)
        return j;
    json_object_set_new(j, "step", json_integer(g->step));
    json_object_set_new(j, "tokens", json_integer(g->tokens));
    json_object_set_new(j, "loss_before", journal_number(g->before));
    json_object_set_new(j, "loss_after", journal_number(g->after));
    json_object_set_new(j, "validated", json_boolean(g->validated));
    json_object_set_new(j, "recovered", json_boolean(g->recovered));
    return j;
}

static int write_trainer(const struct train *t, const char *dir, struct err *err) {
    const struct progress_state *s = &t->s;
    char print[24];
    snprintf(print, sizeof print, "%016llx", (unsigned long long)t->info.data.fingerprint);
    json_t *j =
        json_pack("{s:i, s:I, s:I, s:I, s:f, s:I, s:i, s:f}", "format", 1, "step",
                  (json_int_t)s->step, "updates", (json_int_t)t->adam->step, "tokens",
                  (json_int_t)s->tokens, "flops", s->flops, "skipped", (json_int_t)s->skipped,
                  "skipped_in_a_row", s->skipped_row, "seconds", s->seconds);
    json_object_set_new(j, "val_loss", journal_number(s->val_loss));
    json_object_set_new(j, "best_loss", journal_number(s->best_loss));
    json_object_set_new(j, "best_step", json_integer(s->best_step));
    json_object_set_new(j, "growth", growth_json(&s->growth, (int)t->c->grow_factor));
    json_object_set_new(j, "data",
                        json_pack("{s:s, s:I, s:I, s:I}", "fingerprint", print, "epoch",
                                  (json_int_t)s->cursor.epoch, "unit", (json_int_t)s->cursor.unit,
                                  "pair", (json_int_t)s->cursor.pair));
    const struct lr_plan *lr = &t->lr[s->step >= t->turn];
    json_object_set_new(j, "schedule",
                        json_pack("{s:i, s:f, s:f, s:I, s:I, s:I}", "kind", (int)lr->kind, "peak",
                                  (double)lr->peak, "min", (double)lr->min, "warmup",
                                  (json_int_t)lr->warmup, "decay", (json_int_t)lr->decay, "total",
                                  (json_int_t)lr->total));
    return json_write(dir, "trainer.json", j, 2, err);
}

static int write_generation(const struct train *t, const char *dir, struct err *err) {
    const struct cfg *c = &t->m->cfg;
    int32_t stop[4];
    char *own = t->c->base ? path_join(t->c->base, "generation_config.json") : NULL;
    bool inherit = own && file_exists(own);
    free(own);
    if (inherit)
        return file_copy(t->c->base, "generation_config.json", dir, err);
    json_t *j = json_object(), *eos = json_array();
    for (int i = 0; i < c->n_eos; i++)
        json_array_append_new(eos, json_integer(c->eos[i]));
    int n = chat_stops(t->m->chat, t->m->tok, stop, 4);
    for (int i = 0; i < n; i++) {
        bool known = false;
        for (int k = 0; k < c->n_eos; k++)
            known = known || c->eos[k] == stop[i];
        if (!known)
            json_array_append_new(eos, json_integer(stop[i]));
    }
    if (c->bos >= 0)
        json_object_set_new(j, "bos_token_id", json_integer(c->bos));
    json_object_set_new(j, "eos_token_id", eos);
    return json_write(dir, "generation_config.json", j, 2, err);
}

/* The Hugging Face folder. */
static int write_model(const struct train *t, const char *dir, struct err *err) {
    static const char *const torch[] = {
        [DT_F32] = "float32", [DT_F16] = "float16", [DT_BF16] = "bfloat16"};
    json_t *config = cfg_to_hf(&t->m->cfg);
    json_object_set_new(config, "torch_dtype", json_string(torch[t->c->dtype]));
    char *weights = path_join(dir, "model.safetensors");
    int rc = json_write(dir, "config.json", config, 2, err);
    if (!rc)
        rc = write_generation(t, dir, err);
    for (int i = 0; tokenizer_files[i] && !rc; i++)
        rc = file_copy(t->c->tokenizer, tokenizer_files[i], dir, err);
    if (!rc && t->c->base) /* how the base was grown */
        rc = file_copy(t->c->base, "gstack.json", dir, err);
    if (!rc && t->s.growth.done)
        rc = json_write(dir, "gstack.json", growth_history(t), 2, err);
    if (!rc)
        rc = write_weights(t, weights, err);
    free(weights);
    return rc;
}

static int save(struct train *t, const char *kind, const char *link, bool whole, struct err *err) {
    const char *out = t->c->out;
    char *tmp = ckpt_begin(out, kind, t->s.step, err);
    if (!tmp)
        return -1;
    char *optimizer = path_join(tmp, "optimizer.safetensors"), *text = NULL, *run = NULL;
    int rc = write_model(t, tmp, err);
    if (!rc && whole) {
        text = json_dumps(t->c->json, JSON_INDENT(2));
        run = path_join(tmp, "run.json");
        rc = write_optimizer(t, optimizer, err) || write_trainer(t, tmp, err) ||
                     file_write(run, text, strlen(text), err)
                 ? -1
                 : 0;
    }
    if (!rc)
        rc = ckpt_commit(out, kind, t->s.step, link, err);
    if (rc)
        ckpt_abort(out, kind, t->s.step);
    free(text);
    free(run);
    free(optimizer);
    free(tmp);
    return rc;
}

int train_save(struct train *t, struct err *err) {
    if (save(t, CKPT_STEP, "latest", true, err))
        return -1;
    ckpt_prune(t->c->out, CKPT_STEP, (int)t->c->keep_last, t->c->keep_every);
    return 0;
}

int train_best(struct train *t, struct err *err) {
    if (save(t, CKPT_BEST, "best", false, err))
        return -1;
    ckpt_prune(t->c->out, CKPT_BEST, 1, 0);
    return 0;
}

/* -- loading ----------------------------------------------------------------------------------- */

static int load_optimizer(struct train *t, const char *path, struct err *err) {
    const struct params *ps = t->adam->ps;
    struct tensors ts = {0};
    if (safetensors_open(&ts, path, err))
        return -1;
    int rc = 0;
    for (int which = 0; which < 3 && !rc; which++)
        for (int i = 0; i < ps->n && !rc; i++) {
            const struct param *p = &ps->p[i];
            char *name = array_name(ps, i, which);
            const struct tensor *x = tensors_find(&ts, name);
            size_t bytes = (size_t)p->rows * (size_t)p->cols * sizeof(float);
            if (x && x->type == DT_F32 && x->bytes == bytes)
                memcpy(array_at(t, i, which), x->data, bytes);
            else if (x || which < 2)
                rc =
                    err_set(err, E_FORMAT, "%s: no F32 array '%s' of %zu bytes", path, name, bytes);
            free(name);
        }
    tensors_close(&ts);
    params_changed(t->adam->ps);
    return rc;
}

static int get_loss(const json_t *j, const char *path, const char *key, double *out,
                    struct err *err) {
    *out = NAN; /* null stays so */
    return json_get_real(j, path, key, -1e9, 1e9, out, err);
}

static int load_trainer(struct train *t, const char *path, struct err *err) {
    json_t *j = json_file(path, MAX_STATE, err);
    const json_t *d = json_object_get(j, "data");
    struct progress_state s = {0};
    const char *print = "";
    char now[24];
    const int64_t most = INT64_MAX;
    int64_t row = 0;
    int rc = -1;
    if (!j || json_get_int(j, path, "step", 0, most, &s.step, err) ||
        json_get_int(j, path, "updates", 0, most, &t->adam->step, err) ||
        json_get_int(j, path, "tokens", 0, most, &s.tokens, err) ||
        json_get_int(j, path, "skipped", 0, most, &s.skipped, err) ||
        json_get_int(j, path, "skipped_in_a_row", 0, MAX_SKIPPED, &row, err) ||
        json_get_int(j, path, "best_step", 0, most, &s.best_step, err) ||
        json_get_real(j, path, "flops", 0, 1e300, &s.flops, err) ||
        json_get_real(j, path, "seconds", 0, 1e300, &s.seconds, err) ||
        get_loss(j, path, "best_loss", &s.best_loss, err) ||
        get_loss(j, path, "val_loss", &s.val_loss, err) ||
        json_get_int(d, path, "epoch", 0, INT32_MAX, &s.cursor.epoch, err) ||
        json_get_int(d, path, "unit", 0, most, &s.cursor.unit, err) ||
        json_get_int(d, path, "pair", 0, most, &s.cursor.pair, err) ||
        json_get_str(d, path, "fingerprint", &print, err))
        goto out;
    s.skipped_row = (int)row;
    snprintf(now, sizeof now, "%016llx", (unsigned long long)t->info.data.fingerprint);
    if (strcmp(now, print) != 0) {
        err_set(err, E_FORMAT,
                "%s: the data, its tokenizer or order are not those of this checkpoint: name the "
                "folder "
                "as \"base\" of a new run",
                path);
        goto out;
    }
    s.growth = t->s.growth; /* state_peek has read it */
    t->s = s;
    rc = 0;
out:
    json_decref(j);
    return rc;
}

int state_peek(struct train *t, const char *dir, struct err *err) {
    char *path = path_join(dir, "trainer.json");
    json_t *j = json_file(path, MAX_STATE, err);
    const json_t *g = json_object_get(j, "growth");
    struct growth_state s = {0};
    int64_t factor = 0;
    const int64_t most = INT64_MAX;
    int rc = -1;
    if (j && !json_get_int(j, path, "step", 0, most, &t->s.step, err) &&
        !json_get_int(g, path, "factor", 2, 512, &factor, err) &&
        !json_get_bool(g, path, "done", &s.done, err) &&
        !json_get_int(g, path, "step", 0, most, &s.step, err) &&
        !json_get_int(g, path, "tokens", 0, most, &s.tokens, err) &&
        !get_loss(g, path, "loss_before", &s.before, err) &&
        !get_loss(g, path, "loss_after", &s.after, err) &&
        !json_get_bool(g, path, "validated", &s.validated, err) &&
        !json_get_bool(g, path, "recovered", &s.recovered, err))
        rc = 0;
    s.factor = (int)factor;
    t->s.growth = s;
    json_decref(j);
    free(path);
    return rc;
}

int state_inherit(struct train *t, const char *dir, struct err *err) {
    char *optimizer = path_join(dir, "optimizer.safetensors"),
         *trainer = path_join(dir, "trainer.json");
    json_t *j = json_file(trainer, MAX_STATE, err);
    int rc = j && !json_get_int(j, trainer, "updates", 0, INT64_MAX, &t->adam->step, err) &&
                     !load_optimizer(t, optimizer, err)
                 ? 0
                 : -1;
    json_decref(j);
    free(optimizer);
    free(trainer);
    return rc;
}

int state_load(struct train *t, const char *dir, struct err *err) {
    char *optimizer = path_join(dir, "optimizer.safetensors"),
         *trainer = path_join(dir, "trainer.json");
    int rc = load_trainer(t, trainer, err) || load_optimizer(t, optimizer, err) ? -1 : 0;
    free(optimizer);
    free(trainer);
    return rc;
}
