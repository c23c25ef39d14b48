/* train.c - see train.h.
 *
 * A step: read accum batches at the cursor; zero the gradients; add each batch's, scaled by the
 * step's number of targets; clip; update. What decides the next step is in struct progress_state,
 * the weights and the optimiser alone, all of which a checkpoint holds exactly: so a resumed run
 * makes the same steps, to the bit. A step whose loss or gradient is not finite changes the
 * position only. */
#include "train/train.h"

#include <fnmatch.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "train/ckpt.h"
#include "train/loop.h"

#define DEFAULT_LEN 512 /* of rows with a base, where its context allows */

/* -- opening ----------------------------------------------------------------------------------- */

/* The shape that this run trains now: of the checkpoint, the base, or RUN.json; and t->target. */
static int find_cfg(struct train *t, const struct tok *tok, struct cfg *cfg, struct err *err) {
    const struct conf *c = t->c;
    const char *from = t->resumed ? t->resumed : c->base;
    struct model_info info;
    struct cfg want = {0};
    if (!c->base && conf_cfg(c, tok, &want, err))
        return -1;
    t->target = *cfg = want;
    if (c->grow_factor && !t->s.growth.done)
        cfg->n_layer /= (int)c->grow_factor;
    want = *cfg;
    if (!from)
        return 0;
    if (!file_is_dir(from))
        return err_set(err, E_USAGE, "%s: base '%s' is not a Hugging Face folder", c->path, from);
    if (model_peek(from, &info, err))
        return -1;
    *cfg = info.cfg;
    model_info_free(&info);
    if (c->base) {
        t->target = *cfg;
        return conf_agrees(c, cfg, from, err);
    }
    if (want.vocab != cfg->vocab || want.dim != cfg->dim || want.n_layer != cfg->n_layer ||
        want.n_head != cfg->n_head || want.n_kv_head != cfg->n_kv_head || want.ffn != cfg->ffn ||
        want.max_ctx != cfg->max_ctx || want.tied != cfg->tied || want.norm_eps != cfg->norm_eps ||
        want.rope_theta != cfg->rope_theta)
        return err_set(err, E_FORMAT, "%s: the model's shape is not that of %s", c->path,
                       t->resumed);
    return 0;
}

double train_flops(const struct cfg *c, int len) {
    double q = (double)c->n_head * c->head_dim, kv = (double)c->n_kv_head * c->head_dim;
    double block = c->dim * (2 * q + 2 * kv) + (c->gated ? 3.0 : 2.0) * c->dim * c->ffn;
    double weights = block * c->n_layer + (double)c->vocab * c->dim;
    return 6 * weights + 6 * q * len * c->n_layer; /* attention: half the square, causal */
}

/* Of the model that the run ends with: a base needs less, and is gone before its successor has more
 * than weights; only moments that are kept outlive it. */
static int check_memory(struct train *t, const struct cfg *now, struct err *err) {
    const struct net_opts *no = &t->net_opts;
    struct train_info *in = &t->info;
    const double mb = 1e6;
    struct net_bytes own;
    if (net_memory(now, no, &own, err) || net_memory(&t->target, no, &in->memory, err))
        return -1;
    const struct net_bytes *b = &in->memory;
    size_t cells = (size_t)t->accum * (size_t)t->rows * (size_t)t->len * 3 * sizeof(int32_t);
    in->need = b->total + cells + state_save_bytes(&t->target, t->c->dtype);
    if (t->c->grow_moments && now->n_layer < t->target.n_layer)
        in->need += own.moments;
    in->available = mem_available();
    if (in->available == 0 || in->need <= in->available)
        return 0;
    return err_set(
        err, E_MEMORY,
        "%s: training needs %.0f MB (weights %.0f, gradients %.0f, moments %.0f, "
        "activations %.0f, the rest %.0f) and %.0f MB are free: try a smaller batch_size or "
        "max_seq_len%s",
        t->c->path, (double)in->need / mb, (double)b->weights / mb, (double)b->gradients / mb,
        (double)b->moments / mb, (double)b->activations / mb,
        (double)(in->need - b->weights - b->gradients - b->moments - b->activations) / mb,
        (double)in->available / mb, no->recompute ? "" : ", or \"recompute\": true");
}

static int open_data(struct train *t, const struct tok *tok, enum chat_format chat,
                     struct err *err) {
    const struct conf *c = t->c;
    const struct data_spec spec = {.train = c->train,
                                   .n_train = c->n_train,
                                   .val = c->val,
                                   .n_val = c->n_val,
                                   .val_fraction = c->eval_fraction,
                                   .tok = tok,
                                   .chat = chat,
                                   .tok_dir = c->tokenizer,
                                   .cache = c->cache,
                                   .skip_bad = c->skip_bad_data,
                                   .len = t->len,
                                   .mask = c->document_masking,
                                   .seed = (uint64_t)c->seed,
                                   .pool = t->pool};
    if (!(t->data = data_open(&spec, err)))
        return -1;
    t->info.data = data_stats(t->data);
    return 0;
}

/* Outputs of blocks begin smaller the more blocks there are, so that the stream keeps its size. */
static void scale_outputs(struct model *m) {
    float scale = 1 / sqrtf(2 * (float)m->cfg.n_layer);
    for (int i = 0; i < m->cfg.n_layer; i++) {
        const struct mat *out[] = {&m->layer[i].wo, &m->layer[i].down};
        for (int k = 0; k < 2; k++)
            for (size_t j = 0; j < (size_t)out[k]->rows * (size_t)out[k]->cols; j++)
                ((float *)out[k]->data)[j] *= scale;
    }
}

static int open_model(struct train *t, const struct cfg *cfg, struct err *err) {
    const char *from = t->resumed ? t->resumed : t->c->base;
    const struct model_opts mo = {.dtype = DT_F32, .pool = t->pool, .no_tokenizer = true};
    t->m = from ? model_open(from, &mo, err) : model_random(cfg, (uint64_t)t->c->seed, &mo, err);
    if (t->m && !from)
        scale_outputs(t->m);
    return t->m ? 0 : -1;
}

static int freeze(struct train *t, struct err *err) {
    struct params *ps = net_params(t->net);
    for (int k = 0; k < t->c->n_freeze; k++) {
        int hits = 0;
        for (int i = 0; i < ps->n; i++)
            if (fnmatch(t->c->freeze[k], ps->p[i].name, 0) == 0) {
                ps->p[i].frozen = true;
                hits++;
            }
        if (!hits)
            return err_set(err, E_FORMAT, "%s: freeze '%.80s' is no tensor's name, such as '%s'",
                           t->c->path, t->c->freeze[k], ps->p[0].name);
    }
    t->info.params = t->info.trained = 0;
    for (int i = 0; i < ps->n; i++) {
        int64_t size = (int64_t)ps->p[i].rows * ps->p[i].cols;
        t->info.params += size;
        t->info.trained += ps->p[i].frozen ? 0 : size;
    }
    if (!t->info.trained)
        return err_set(err, E_FORMAT, "%s: freeze leaves nothing to train", t->c->path);
    return 0;
}

int train_equip(struct train *t, struct err *err) {
    const struct conf *c = t->c;
    const struct adamw_opts ao = {(float)c->beta1, (float)c->beta2, (float)c->adam_eps,
                                  (float)c->weight_decay};
    if (!(t->net = net_new(t->m, &t->net_opts, err)) ||
        !(t->adam = adamw_new(net_params(t->net), &ao, t->pool, err)))
        return -1;
    t->info.token_flops = train_flops(&t->m->cfg, t->len);
    t->info.layers = t->m->cfg.n_layer;
    return freeze(t, err);
}

static int find_start(struct train *t, struct err *err) {
    const char *out = t->c->out;
    struct err e = {0};
    if ((t->lock = ckpt_lock(out, err)) < 0)
        return -1;
    ckpt_clean(t->c->cache);
    if (!t->o.resume && ckpt_any(out))
        return err_set(err, E_USAGE, "%s: has checkpoints: --resume goes on from the newest", out);
    if (t->o.resume && !(t->resumed = ckpt_newest(out, CKPT_STEP, &e)) && e.code)
        return err_set(err, e.code, "%s", e.msg);
    if (t->resumed && state_peek(t, t->resumed, err))
        return -1;
    return growth_agrees(t, err);
}

static int open_all(struct train *t, struct err *err) {
    const struct conf *c = t->c;
    struct cfg cfg;
    if (find_start(t, err))
        return -1;
    struct tok *tok = tok_open(c->tokenizer, err);
    if (!tok || find_cfg(t, tok, &cfg, err))
        goto fail;
    if (tok_size(tok) > cfg.vocab) {
        err_set(err, E_FORMAT, "%s: the tokenizer has %d ids, the model only %d", c->tokenizer,
                tok_size(tok), cfg.vocab);
        goto fail;
    }
    t->rows = (int)c->batch_size;
    t->accum = (int)c->accumulation;
    t->len = c->max_seq_len              ? (int)c->max_seq_len
             : cfg.max_ctx < DEFAULT_LEN ? cfg.max_ctx
                                         : DEFAULT_LEN;
    t->pool = pool_new((int)c->threads);
    t->net_opts = (struct net_opts){.pool = t->pool,
                                    .type = c->mixed_precision ? DT_BF16 : DT_F32,
                                    .rows = t->rows,
                                    .len = t->len,
                                    .recompute = c->recompute};
    enum chat_format chat = c->chat ? c->chat : chat_detect(tok_chat_template(tok));
    if (check_memory(t, &cfg, err) || open_data(t, tok, chat, err) || open_model(t, &cfg, err))
        goto fail;
    t->m->tok = tok; /* the model's from here on */
    t->m->chat = chat;
    size_t cells = (size_t)t->accum * (size_t)t->rows * (size_t)t->len;
    t->ids = mem_array(cells, sizeof *t->ids);
    t->targets = mem_array(cells, sizeof *t->targets);
    t->start = mem_array(cells, sizeof *t->start);
    t->info.resumed = t->resumed;
    if (train_equip(t, err) || growth_plan(t, err) ||
        (t->resumed && state_load(t, t->resumed, err)) ||
        (!t->resumed && c->base_moments && state_inherit(t, c->base, err)))
        return -1;
    return journal_open(t, err);
fail:
    tok_free(tok);
    return -1;
}

struct train *train_open(const struct conf *c, const struct train_opts *o, struct err *err) {
    struct train *t = mem_new(sizeof *t);
    *t = (struct train){.c = c, .o = *o, .lock = -1};
    t->s.best_loss = t->s.val_loss = NAN;
    if (open_all(t, err) == 0)
        return t;
    train_close(t);
    return NULL;
}

void train_close(struct train *t) {
    if (!t)
        return;
    if (t->log)
        fclose(t->log);
    adamw_free(t->adam);
    net_free(t->net);
    model_close(t->m);
    data_close(t->data);
    pool_free(t->pool);
    free(t->ids);
    free(t->targets);
    free(t->start);
    free(t->resumed);
    if (t->lock >= 0)
        close(t->lock);
    free(t);
}

struct train_info train_info(const struct train *t) {
    return t->info;
}

struct net *train_net(struct train *t) {
    return t->net;
}

int64_t train_steps_done(const struct train *t) {
    return t->s.step;
}

/* -- a step ------------------------------------------------------------------------------------ */

struct net_batch train_part(const struct train *t, int i) {
    size_t at = (size_t)i * (size_t)t->rows * (size_t)t->len;
    return (struct net_batch){.rows = t->rows,
                              .len = t->len,
                              .ids = t->ids + at,
                              .targets = t->targets + at,
                              .start = t->c->document_masking ? t->start + at : NULL};
}

/* Another number for each batch of the run, which a resumed run gives again. */
static uint64_t draw_of(const struct train *t, int i) {
    uint64_t batch = (uint64_t)t->s.step * (uint64_t)t->accum + (uint64_t)i;
    return (uint64_t)t->c->seed * 0x9e3779b97f4a7c15u + batch;
}

int train_step(struct train *t, struct train_step *s, struct err *err) {
    struct progress_state *p = &t->s;
    bool grown = growth_due(t);
    if (grown && growth_do(t, err))
        return -1;
    const struct data_cursor from = p->cursor;
    struct net_loss sum = {0};
    int64_t began = clock_us(), cells = t->info.step_tokens, n = 0;
    data_train(t->data, &p->cursor,
               &(struct data_batch){t->rows * t->accum, t->ids, t->targets, t->start});
    for (int64_t i = 0; i < cells; i++)
        n += t->targets[i] >= 0;
    net_zero_grad(t->net);
    for (int i = 0; i < t->accum && n; i++) {
        struct net_batch b = train_part(t, i);
        struct net_loss loss;
        b.dropout = (float)t->c->dropout;
        b.draw = draw_of(t, i);
        if (net_grad(t->net, &b, 1.0f / (float)n, &loss, err))
            return -1;
        sum.sum += loss.sum;
    }
    *s = (struct train_step){
        .loss = n ? sum.sum / (double)n : 0, .lr = growth_lr(t, p->step), .grown = grown};
    s->norm = n ? adamw_norm(t->adam) : 0;
    s->skipped = !isfinite(s->loss) || !isfinite(s->norm);
    if (!s->skipped && n)
        adamw_step(t->adam, s->lr, adamw_clip(s->norm, t->c->grad_clip));
    if (s->skipped && p->skipped_row < MAX_SKIPPED)
        t->bad[p->skipped_row] = from;
    p->skipped += s->skipped;
    p->skipped_row = s->skipped ? p->skipped_row + 1 : 0;
    s->seconds = (double)(clock_us() - began) / 1e6;
    p->seconds += s->seconds;
    p->tokens += cells;
    s->step_flops = t->info.token_flops * (double)cells;
    p->flops += s->step_flops;
    s->step = ++p->step;
    s->tokens = p->tokens;
    s->flops = p->flops;
    return 0;
}

int train_eval(struct train *t, double *loss, struct err *err) {
    struct data_cursor c = {0};
    struct net_loss sum = {0};
    const struct data_batch b = {t->rows, t->ids, t->targets, t->start};
    for (int64_t i = 0; i < t->c->eval_batches && data_val(t->data, &c, &b) > 0; i++) {
        const struct net_batch part = train_part(t, 0);
        struct net_loss one;
        if (net_eval(t->net, &part, &one, err))
            return -1;
        sum.sum += one.sum;
        sum.n += one.n;
    }
    *loss = sum.n ? sum.sum / (double)sum.n : NAN;
    return 0;
}

/* -- the loop ---------------------------------------------------------------------------------- */

struct loop {
    struct train *t;
    const struct train_watch *w;
    struct err *err;
};

__attribute__((format(printf, 2, 3))) static void note(const struct loop *l, const char *fmt, ...) {
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (l->w->note)
        l->w->note(l->w->arg, line);
}

static void log_step(struct train *t, const struct train_step *s) {
    json_t *j = json_pack("{s:I, s:I, s:f, s:f, s:f}", "step", (json_int_t)s->step, "tokens",
                          (json_int_t)s->tokens, "flops", s->flops, "lr", (double)s->lr, "seconds",
                          s->seconds);
    json_object_set_new(j, "loss", journal_number(s->loss));
    json_object_set_new(j, "grad_norm", journal_number(s->norm));
    if (s->skipped)
        json_object_set_new(j, "skipped", json_true());
    journal_add(t, j);
}

static int evaluate(const struct loop *l) {
    struct train *t = l->t;
    struct err e = {0};
    double loss;
    if (train_eval(t, &loss, l->err))
        return -1;
    t->s.val_loss = loss;
    json_t *j = json_pack("{s:I, s:I, s:f}", "step", (json_int_t)t->s.step, "tokens",
                          (json_int_t)t->s.tokens, "flops", t->s.flops);
    json_object_set_new(j, "val_loss", journal_number(loss));
    journal_add(t, j);
    bool recovered = growth_recovers(t, loss);
    bool best = isfinite(loss) && !(loss >= t->s.best_loss);
    note(l, "step %lld: validation loss %.4f%s", (long long)t->s.step, loss,
         best ? ", the best so far" : "");
    if (recovered)
        note(l, "step %lld: the loss is below that before growth, %.4f", (long long)t->s.step,
             t->s.growth.before);
    if (!best)
        return 0;
    t->s.best_loss = loss;
    t->s.best_step = t->s.step;
    if (train_best(t, &e))
        note(l, "the best model was not saved: %s", e.msg);
    return 0;
}

static int show_sample(const struct loop *l) {
    struct buf b = {0};
    int rc = train_sample(l->t, &b, l->err);
    if (!rc) {
        json_t *text = json_stringn(b.data ? b.data : "", b.len);
        note(l, "step %lld: sample: %s%s", (long long)l->t->s.step, l->t->c->sample_prompt,
             buf_str(&b));
        journal_add(l->t, json_pack("{s:I, s:s, s:o}", "step", (json_int_t)l->t->s.step, "prompt",
                                    l->t->c->sample_prompt, "sample", text ? text : json_null()));
    }
    buf_free(&b);
    return rc;
}

/* A failure is an error only if there will be no other try. */
static int save_now(const struct loop *l, bool last) {
    struct train *t = l->t;
    struct err e = {0};
    if (train_save(t, &e) == 0) {
        note(l, "step %lld: saved %s/step-%08lld", (long long)t->s.step, t->c->out,
             (long long)t->s.step);
        return 0;
    }
    if (last)
        return err_set(l->err, e.code, "%s", e.msg);
    note(l, "step %lld: not saved: %s; training goes on and tries again", (long long)t->s.step,
         e.msg);
    json_t *j = json_pack("{s:I, s:s}", "step", (json_int_t)t->s.step, "not_saved", e.msg);
    journal_add(t, j);
    return 0;
}

static int give_up(const struct loop *l) {
    struct train *t = l->t;
    if (journal_bad_batches(t, l->err))
        return -1;
    return err_set(l->err, E_FORMAT,
                   "%s: step %lld: loss or gradient was not finite in %d steps in a row; "
                   "%s/bad_batches.json lists their documents",
                   t->c->path, (long long)t->s.step, MAX_SKIPPED, t->c->out);
}

static bool due(int64_t step, int64_t every) {
    return every > 0 && step % every == 0;
}

/* What follows a step; *stop: the run is over. */
static int after_step(const struct loop *l, const struct train_step *s, bool *stop) {
    struct train *t = l->t;
    const struct conf *c = t->c;
    bool last = s->step >= t->info.steps;
    if (s->grown)
        note(l, "step %lld: grew from %d to %d layers: loss %.4f -> %.4f", (long long)s->step - 1,
             t->target.n_layer / t->s.growth.factor, t->target.n_layer, t->s.growth.before,
             t->s.growth.after);
    log_step(t, s);
    if (l->w->step)
        l->w->step(l->w->arg, s, t->s.val_loss);
    if (s->skipped)
        note(l, "step %lld skipped: loss %g, gradient %g", (long long)s->step, s->loss, s->norm);
    if (t->s.skipped_row >= MAX_SKIPPED)
        return give_up(l);
    bool eval = t->info.data.val_units && c->eval_every && c->eval_batches;
    if (eval && (last || due(s->step, c->eval_every)) && evaluate(l))
        return -1;
    if (due(s->step, c->sample_every) && show_sample(l))
        return -1;
    *stop = last || (l->w->stop && *l->w->stop);
    if (*stop || due(s->step, c->save_every))
        return save_now(l, *stop);
    return 0;
}

int train_run(struct train *t, const struct train_watch *w, struct err *err) {
    const struct loop l = {t, w, err};
    struct train_step s;
    struct err e = {0};
    bool stop = t->s.step >= t->info.steps, drawn = false;
    while (!stop)
        if (train_step(t, &s, err) || after_step(&l, &s, &stop))
            return -1;
    if (t->s.step < t->info.steps)
        return 0;
    const struct growth_state *g = &t->s.growth;
    if (g->done && g->validated && !g->recovered)
        note(&l, "warning: validation loss has not come below that before growth, %.4f", g->before);
    if (journal_chart(t->c->out, &drawn, &e))
        note(&l, "no loss curve: %s", e.msg);
    else if (!drawn)
        note(&l, "%s/loss.csv has the loss curve; gnuplot, which would draw it, is not here",
             t->c->out);
    return 0;
}
