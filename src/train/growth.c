/* growth.c - what changes in the middle of a run: the model grows by Gstack, or the learning rate
 * alone starts again.
 *
 * A run that grows trains a base of n_layers / factor blocks for its first steps, stacks the base's
 * blocks once (method/gstack.c), and trains the result for the rest (Du et al., "Stacking Your
 * Transformers", NeurIPS 2024).
 *
 * Invariants: (1) the data's cursor is not touched: the grown model's first row is the one that
 * the base would have read next; (2) growth happens before the first step from `turn` on that the
 * run makes, is decided by what a checkpoint holds, and needs no random number: so a run killed
 * around it grows again to the same bits; (3) tokens and FLOPs go on counting from the base's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "method/gstack.h"
#include "model/plan.h"
#include "train/grow.h"
#include "train/loop.h"

/* -- the plan ---------------------------------------------------------------------------------- */

static int64_t share_of(double share, int64_t steps) {
    int64_t n = llround(share * (double)steps);
    return n < 1 && share > 0 ? 1 : n;
}

static int64_t step_count(const struct train *t) {
    const struct conf *c = t->c;
    int64_t per = (int64_t)t->rows * t->accum;
    if (!c->max_epochs)
        return c->max_steps;
    int64_t all = (data_rows(t->data, (int)c->max_epochs) + per - 1) / per;
    return c->max_steps && c->max_steps < all ? c->max_steps : all;
}

/* Of n steps.  Where a run turns, both parts warm up for as long as the paper's small runs would:
 * a hundred steps or 2 %, which of a short part is at most a tenth. */
static int64_t warmup_of(const struct train *t, int64_t n) {
    if (t->c->warmup_steps >= 0)
        return t->c->warmup_steps;
    if (!t->turn)
        return n / 20 < 1000 ? n / 20 : 1000;
    int64_t want = n / 50 > 100 ? n / 50 : 100;
    return want < n / 10 ? want : n / 10;
}

/* The schedule of the n steps after the turn, or of a whole run. */
static int plan_last(struct train *t, int64_t n, struct err *err) {
    const struct conf *c = t->c;
    struct lr_plan *lr = &t->lr[1];
    *lr = (struct lr_plan){.kind = c->schedule,
                           .peak = (float)c->learning_rate,
                           .min = (float)c->min_lr,
                           .warmup = warmup_of(t, n),
                           .total = n};
    if (lr->warmup > n)
        return err_set(err, E_FORMAT, "%s: warmup_steps %lld is more than the %lld steps of the %s",
                       c->path, (long long)lr->warmup, (long long)n,
                       t->turn ? "run's second part" : "run");
    if (c->schedule == LR_WSD_LINEAR || c->schedule == LR_WSD_SQRT) {
        lr->decay = (int64_t)(c->decay_fraction * (double)n);
        if (lr->decay > n - lr->warmup)
            lr->decay = n - lr->warmup;
    }
    return lr_check(lr, err);
}

/* Before the turn every schedule is at its warm-up, then at its peak: one that fell would be cut
 * off. */
static int plan_first(struct train *t, struct err *err) {
    const struct conf *c = t->c;
    struct lr_plan *lr = &t->lr[0];
    double peak = c->grow_factor ? c->grow_learning_rate : c->learning_rate;
    *lr = (struct lr_plan){.kind = LR_CONSTANT,
                           .peak = (float)peak,
                           .warmup = warmup_of(t, t->turn),
                           .total = t->turn};
    if (lr->warmup > t->turn)
        return err_set(err, E_FORMAT,
                       "%s: warmup_steps %lld is more than the %lld steps of the run's first part",
                       c->path, (long long)lr->warmup, (long long)t->turn);
    return lr_check(lr, err);
}

int growth_plan(struct train *t, struct err *err) {
    const struct conf *c = t->c;
    const struct growth_state *g = &t->s.growth;
    struct train_info *in = &t->info;
    struct cfg base = t->target;
    in->steps = step_count(t);
    in->step_tokens = (int64_t)t->rows * t->accum * t->len;
    t->turn = g->done ? g->step : share_of(c->grow_factor ? c->grow_at : c->rewarm_at, in->steps);
    if (c->grow_factor && !g->done && t->s.step > t->turn)
        t->turn = t->s.step; /* the run has become shorter than it was */
    if (t->turn > 0 && t->turn >= in->steps)
        return err_set(err, E_FORMAT, "%s: %s: %lld of %lld steps come before it: none is left",
                       c->path, c->grow_factor ? "grow" : "rewarm_at", (long long)t->turn,
                       (long long)in->steps);
    if (c->grow_factor)
        base.n_layer /= (int)c->grow_factor;
    in->turn = t->turn;
    in->final_layers = t->target.n_layer;
    in->run_flops =
        (double)in->step_tokens * ((double)t->turn * train_flops(&base, t->len) +
                                   (double)(in->steps - t->turn) * train_flops(&t->target, t->len));
    if (t->turn && plan_first(t, err))
        return -1;
    return plan_last(t, in->steps - t->turn, err);
}

int growth_agrees(const struct train *t, struct err *err) {
    int ours = (int)t->c->grow_factor, theirs = t->s.growth.factor;
    if (!t->resumed || ours == theirs)
        return 0;
    if (!theirs)
        return err_set(err, E_FORMAT, "%s: grow: %s is of a run that does not grow", t->c->path,
                       t->resumed);
    return err_set(err, E_FORMAT,
                   "%s: %s is of a run that grows by %d: RUN.json or --grow must say so",
                   t->c->path, t->resumed, theirs);
}

bool growth_due(const struct train *t) {
    return t->c->grow_factor && !t->s.growth.done && t->s.step >= t->turn;
}

float growth_lr(const struct train *t, int64_t step) {
    return step < t->turn ? lr_at(&t->lr[0], step) : lr_at(&t->lr[1], step - t->turn);
}

/* -- growing ----------------------------------------------------------------------------------- */

/* What the base leaves to its successor. */
struct legacy {
    struct model *m;
    float *moment[2]; /* m and v, laid out as the base's weights; NULL = they are not kept */
    int64_t step;
    size_t bytes; /* of an array of moments */
};

/* Parts of two models of one family, block for block in the same order. */
struct twins {
    struct plan from, to;
    int *source; /* of each part of `to`, the one of `from` that it copies */
    bool *zero;  /* it is an output of a repeated block that begins as the identity */
};

static int layer_of(const struct part *p) {
    int layer;
    size_t at, len;
    return grow_layer(p->name, &layer, &at, &len) ? layer : -1;
}

/* The part of p in `layer` that has `before` others of it in front. */
static int nth_of_layer(const int *layers, int n, int layer, int before) {
    for (int i = 0; i < n; i++)
        if (layers[i] == layer && before-- == 0)
            return i;
    return -1;
}

static int pair_parts(struct twins *w, const struct ids *map, bool zero_init, struct err *err) {
    int *layers = mem_array((size_t)w->from.n, sizeof *layers), last = -2, before = 0, rc = 0;
    w->source = mem_array((size_t)w->to.n, sizeof *w->source);
    w->zero = mem_array((size_t)w->to.n, sizeof *w->zero);
    for (int i = 0; i < w->from.n; i++)
        layers[i] = layer_of(&w->from.part[i]);
    for (int i = 0, loose = 0; i < w->to.n && !rc; i++) {
        const struct part *p = &w->to.part[i];
        int layer = layer_of(p), from = layer < 0 ? -1 : map->id[layer];
        before = layer == last ? before + 1 : 0;
        last = layer;
        w->source[i] = nth_of_layer(layers, w->from.n, from, layer < 0 ? loose++ : before);
        const struct part *q = w->source[i] < 0 ? NULL : &w->from.part[w->source[i]];
        if (!q || q->rows != p->rows || q->cols != p->cols)
            rc = err_set(err, E_FORMAT, "growth: the base has no counterpart of %s", p->name);
        w->zero[i] = zero_init && layer >= 0 && gstack_is_repeat(map, (size_t)layer) &&
                     grow_is_output(p->name);
    }
    free(layers);
    return rc;
}

static int twins_make(struct twins *w, struct train *t, struct model *base, struct err *err) {
    struct ids map = {0};
    plan_build(&w->from, base, NULL, false);
    plan_build(&w->to, t->m, NULL, false);
    int rc = plan_types(&w->from, DT_F32, err) || plan_types(&w->to, DT_F32, err) ||
                     gstack_stack(base->cfg.n_layer, t->s.growth.factor, &map, err) ||
                     pair_parts(w, &map, t->c->grow_zero_init, err)
                 ? -1
                 : 0;
    ids_free(&map);
    return rc;
}

static void twins_free(struct twins *w) {
    plan_free(&w->from);
    plan_free(&w->to);
    free(w->source);
    free(w->zero);
}

static float *part_data(const struct part *p) {
    return (float *)(p->mat ? p->mat->data : *p->vec);
}

static size_t part_bytes(const struct part *p) {
    return (size_t)p->rows * (size_t)p->cols * sizeof(float);
}

static void copy_weights(const struct twins *w) {
    for (int i = 0; i < w->to.n; i++)
        if (!w->zero[i]) /* a new model's weights are zeros */
            memcpy(part_data(&w->to.part[i]), part_data(&w->from.part[w->source[i]]),
                   part_bytes(&w->to.part[i]));
}

static void copy_moments(struct train *t, const struct twins *w, const struct legacy *l) {
    float *to[2] = {t->adam->m, t->adam->v};
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < w->to.n && l->moment[k]; i++)
            memcpy((char *)to[k] + w->to.part[i].at,
                   (const char *)l->moment[k] + w->from.part[w->source[i]].at,
                   part_bytes(&w->to.part[i]));
    t->adam->step = l->step;
}

/* Takes what is kept, and gives back the memory of the rest. */
static struct legacy retire_base(struct train *t) {
    struct legacy l = {.m = t->m};
    if (t->c->grow_moments) {
        l.bytes = t->adam->ps->floats * sizeof(float);
        l.moment[0] = t->adam->m;
        l.moment[1] = t->adam->v;
        l.step = t->adam->step;
        t->adam->m = t->adam->v = NULL;
    }
    adamw_free(t->adam);
    net_free(t->net);
    t->adam = NULL;
    t->net = NULL;
    t->m = NULL;
    return l;
}

static int stack(struct train *t, struct err *err) {
    const struct model_opts mo = {.dtype = DT_F32, .pool = t->pool, .no_tokenizer = true};
    struct legacy old = retire_base(t);
    struct twins w = {0};
    int rc = -1;
    if (!(t->m = model_blank(&t->target, &mo, err)) || twins_make(&w, t, old.m, err))
        goto out;
    copy_weights(&w);
    t->m->tok = old.m->tok;
    t->m->chat = old.m->chat;
    old.m->tok = NULL;
    model_close(old.m); /* before the successor's gradients and moments are allocated */
    old.m = NULL;
    if (train_equip(t, err))
        goto out;
    copy_moments(t, &w, &old);
    rc = 0;
out:
    model_close(old.m);
    mem_pages_free(old.moment[0], old.bytes);
    mem_pages_free(old.moment[1], old.bytes);
    twins_free(&w);
    return rc;
}

/* Of validation, or where there is none of the batch that comes next. */
static int loss_now(struct train *t, double *loss, struct err *err) {
    struct data_cursor next = t->s.cursor;
    struct net_loss sum;
    if (t->s.growth.validated)
        return train_eval(t, loss, err);
    data_train(t->data, &next, &(struct data_batch){t->rows, t->ids, t->targets, t->start});
    const struct net_batch b = train_part(t, 0);
    if (net_eval(t->net, &b, &sum, err))
        return -1;
    *loss = sum.n ? sum.sum / (double)sum.n : NAN;
    return 0;
}

int growth_do(struct train *t, struct err *err) {
    struct progress_state *p = &t->s;
    struct growth_state *g = &p->growth;
    *g = (struct growth_state){.factor = (int)t->c->grow_factor,
                               .step = p->step,
                               .tokens = p->tokens,
                               .validated = t->info.data.val_units && t->c->eval_batches};
    int from = t->m->cfg.n_layer;
    if (loss_now(t, &g->before, err))
        return -1;
    int64_t began = clock_us();
    if (stack(t, err))
        return -1;
    double seconds = (double)(clock_us() - began) / 1e6;
    g->done = true;
    if (loss_now(t, &g->after, err))
        return -1;
    p->seconds += seconds;
    p->val_loss = g->validated ? g->after : NAN;
    p->best_loss = NAN; /* the best of the model that the run is for */
    json_t *j =
        json_pack("{s:s, s:I, s:I, s:f, s:i, s:i, s:i, s:s, s:f}", "event", "growth", "step",
                  (json_int_t)p->step, "tokens", (json_int_t)p->tokens, "flops", p->flops, "factor",
                  g->factor, "from_layers", from, "to_layers", t->target.n_layer, "loss_of",
                  g->validated ? "validation" : "next batch", "seconds", seconds);
    json_object_set_new(j, "loss_before", journal_number(g->before));
    json_object_set_new(j, "loss_after", journal_number(g->after));
    journal_add(t, j);
    return 0;
}

/* -- after growth ------------------------------------------------------------------------------ */

bool growth_recovers(struct train *t, double loss) {
    const struct progress_state *p = &t->s;
    struct growth_state *g = &t->s.growth;
    double steps = (double)t->info.steps;
    if (!g->done || !g->validated || g->recovered || !(loss < g->before))
        return false;
    g->recovered = true;
    journal_add(t, json_pack("{s:s, s:I, s:I, s:f, s:f, s:f}", "event", "recovered", "step",
                             (json_int_t)p->step, "tokens", (json_int_t)p->tokens, "flops",
                             p->flops, "fraction", (double)p->step / steps, "fraction_since_growth",
                             (double)(p->step - g->step) / steps));
    return true;
}

json_t *growth_history(const struct train *t) {
    const struct growth_state *g = &t->s.growth;
    struct ids map = {0};
    struct err e = {0};
    int from = t->target.n_layer / g->factor;
    json_t *one = NULL;
    if (gstack_stack(from, g->factor, &map, &e) == 0)
        one = grow_entry(from, &map, t->c->grow_zero_init);
    ids_free(&map);
    json_object_set_new(one, "tokens", json_integer(g->tokens));
    return json_pack("{s:[o]}", "history", one);
}
