/* gen.c - one answer: settings made effective, one request through the engine, its figures.
 * Every figure is measured by the engine or the system during this run. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/progress.h"
#include "cmd/cmd.h"

/* -- settings ---------------------------------------------------------------------------------- */

struct gen_opts gen_opts_unset(void) {
    return (struct gen_opts){.temp = NAN,
                             .top_p = NAN,
                             .min_p = NAN,
                             .repeat_penalty = NAN,
                             .presence = NAN,
                             .frequency = NAN,
                             .top_k = INT_MIN,
                             .repeat_last_n = INT_MIN,
                             .n_predict = INT_MIN,
                             .seed = -1};
}

static void set_float(float *dst, float flag, float model_default) {
    if (!isnan(flag))
        *dst = flag;
    else if (model_default >= 0)
        *dst = model_default;
}

static void set_int(int *dst, int flag, int model_default) {
    if (flag != INT_MIN)
        *dst = flag;
    else if (model_default >= 0)
        *dst = model_default;
}

/* "15043+1.5" or "15043-2"; "15043-inf" bans a token, as in the peers. */
static int parse_bias(const char *text, int vocab, struct logit_bias *out, struct err *err) {
    char *end;
    long id = strtol(text, &end, 10);
    if (end == text || (*end != '+' && *end != '-'))
        return err_set(err, E_USAGE, "--logit-bias: '%s' is not ID+NUMBER or ID-NUMBER", text);
    if (id < 0 || id >= vocab)
        return err_set(err, E_USAGE, "--logit-bias: token id %ld is outside the vocabulary of %d",
                       id, vocab);
    const char *number = end;
    double v = strtod(number, &end);
    bool ban = !strcmp(number, "-inf");
    if (!ban && (end == number + 1 || *end || !isfinite(v) || fabs(v) > 1e6))
        return err_set(err, E_USAGE, "--logit-bias: '%s' is not a bias in -1e6..1e6 or -inf",
                       number);
    *out = (struct logit_bias){(int32_t)id, ban ? -INFINITY : (float)v};
    return 0;
}

static uint64_t fresh_seed(void) {
    uint64_t s = 0;
    if (getrandom(&s, sizeof s, GRND_NONBLOCK) != sizeof s)
        s = (uint64_t)clock_us();
    return s >> 11; /* 53 bits: survives JSON readers that keep numbers as doubles */
}

int gen_resolve(const struct gen_opts *o, const struct model *m, struct gen *g, struct err *err) {
    *g = (struct gen){.sampling = sampling_default()};
    struct sampling *s = &g->sampling;
    set_float(&s->temp, o->temp, m->temp);
    set_float(&s->top_p, o->top_p, m->top_p);
    set_int(&s->top_k, o->top_k, m->top_k);
    set_float(&s->min_p, o->min_p, -1);
    set_float(&s->repeat_penalty, o->repeat_penalty, -1);
    set_float(&s->presence_penalty, o->presence, -1);
    set_float(&s->frequency_penalty, o->frequency, -1);
    set_int(&s->repeat_last_n, o->repeat_last_n, -1);
    g->n_predict = -1;
    set_int(&g->n_predict, o->n_predict, -1);
    s->seed = o->seed < 0 ? fresh_seed() : (uint64_t)o->seed;
    g->ignore_eos = o->ignore_eos;
    g->bias = mem_array((size_t)o->bias.n, sizeof *g->bias);
    for (int i = 0; i < o->bias.n; i++)
        if (parse_bias(o->bias.item[i], m->cfg.vocab, &g->bias[i], err)) {
            gen_free(g);
            return -1;
        }
    s->bias = g->bias;
    s->n_bias = o->bias.n;
    g->stop = mem_array((size_t)o->stop.n, sizeof *g->stop);
    for (int i = 0; i < o->stop.n; i++) {
        g->stop[i] = cmd_unescape(o->stop.item[i]);
        g->n_stop++;
        if (!g->stop[i][0]) {
            gen_free(g);
            return err_set(err, E_USAGE, "--stop: the text is empty");
        }
    }
    return 0;
}

void gen_free(struct gen *g) {
    for (int i = 0; i < g->n_stop; i++)
        free(g->stop[i]);
    free(g->stop);
    free(g->bias);
    *g = (struct gen){0};
}

/* -- the request ------------------------------------------------------------------------------- */

struct sink { /* the engine's callbacks write here */
    struct answer *a;
    const struct tok *tok;
    const volatile sig_atomic_t *stop_flag;
    struct progress progress;
    int n_top; /* logprobs per token */
    bool stream, done;
};

/* A token as text and as bytes, the leading space of SentencePiece included. */
static void put_token(json_t *obj, const struct tok *tok, int32_t id) {
    struct buf b = {0};
    json_object_set_new(obj, "id", json_integer(id));
    if (!tok)
        return;
    tok_show(tok, id, &b);
    json_t *bytes = json_array();
    for (size_t i = 0; i < b.len; i++)
        json_array_append_new(bytes, json_integer((unsigned char)b.data[i]));
    utf8_fix(&b);
    json_object_set_new(obj, "token", json_stringn(buf_str(&b), b.len));
    json_object_set_new(obj, "bytes", bytes);
    buf_free(&b);
}

static json_t *logprob_json(const struct sink *k, int32_t id, float logprob) {
    json_t *j = json_object();
    put_token(j, k->tok, id);
    json_object_set_new(j, "logprob",
                        json_real(logprob > -1e4f ? logprob : -1e4f)); /* JSON has no -inf */
    return j;
}

static bool on_token(void *ud, const struct token *t) {
    struct sink *k = ud;
    progress_end(&k->progress);
    buf_add(&k->a->text, t->text, t->len);
    if (k->stream && t->len) {
        fwrite(t->text, 1, t->len, stdout); /* a failure shows in ferror, which main reports */
        fflush(stdout);
    }
    if (t->id >= 0) { /* -1: only text that had been held back */
        ids_add(&k->a->ids, t->id);
        if (k->a->logprobs) {
            json_t *j = logprob_json(k, t->id, t->logprob), *top = json_array();
            for (int i = 0; i < k->n_top; i++)
                json_array_append_new(top, logprob_json(k, t->top[i].id, t->top[i].logprob));
            json_object_set_new(j, "top", top);
            json_array_append_new(k->a->logprobs, j);
        }
    }
    return !(k->stop_flag && *k->stop_flag) && !ferror(stdout);
}

static void on_done(void *ud, const struct usage *u) {
    struct sink *k = ud;
    k->a->usage = *u;
    if (u->err)
        k->a->err = *u->err;
    k->a->usage.err = NULL;
    k->done = true;
}

int gen_answer(struct loaded *l, const struct ids *prompt, const struct gen *g, bool stream,
               const volatile sig_atomic_t *stop_flag, struct answer *a, struct err *err) {
    struct sink k = {
        .a = a, .tok = l->m->tok, .stop_flag = stop_flag, .n_top = g->n_logprobs, .stream = stream};
    struct req r = {
        .ids = prompt->id,
        .n = (int)prompt->n,
        .max_new = g->n_predict,
        .sampling = g->sampling,
        .stop = (const char *const *)g->stop,
        .n_stop = g->n_stop,
        .stop_id = g->stop_id,
        .n_stop_id = g->n_stop_id,
        .ignore_eos = g->ignore_eos,
        .continues = g->continues,
        .n_logprobs = g->n_logprobs,
        .on_token = on_token,
        .on_done = on_done,
        .ud = &k,
    };
    if (prompt->n > INT_MAX)
        return err_set(err, E_USAGE, "the prompt has %zu tokens", prompt->n);
    if (engine_submit(l->e, &r, err))
        return -1;
    a->seed = g->sampling.seed;
    if (g->n_logprobs > 0)
        a->logprobs = json_array();
    k.progress = progress_start("reading the prompt", r.n);
    while (!k.done && engine_step(l->e)) {
        if (!a->ids.n && k.progress.label)
            progress_update(&k.progress, engine_slot(l->e, 0).n_kv);
        if (stop_flag && *stop_flag)
            engine_cancel(l->e, &k);
    }
    progress_end(&k.progress);
    if (a->usage.why == FIN_ERROR)
        return err_set(err, a->err.code ? a->err.code : E_IO, "%s", a->err.msg);
    return 0;
}

void answer_free(struct answer *a) {
    ids_free(&a->ids);
    buf_free(&a->text);
    json_decref(a->logprobs);
    *a = (struct answer){0};
}

/* -- its figures ------------------------------------------------------------------------------- */

const char *finish_name(enum finish f) {
    static const char *const name[] = {"stop", "length", "cancelled",
                                       "error"}; /* ORDER enum finish */
    return name[f];
}

size_t peak_memory(void) {
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (size_t)u.ru_maxrss * 1024 : 0;
}

void peak_memory_reset(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w"); /* the kernel forgets the peak on a 5 */
    if (f) {
        fputs("5", f);
        fclose(f);
    }
}

double answer_prompt_rate(const struct answer *a) {
    int n = a->usage.n_prompt - a->usage.n_cached;
    return a->usage.prompt_us > 0 ? n * 1e6 / (double)a->usage.prompt_us : 0;
}

double answer_decode_rate(const struct answer *a) {
    int n = a->usage.n_out - 1; /* the first token comes with the prompt */
    return n > 0 && a->usage.decode_us > 0 ? n * 1e6 / (double)a->usage.decode_us : 0;
}

json_t *answer_usage(const struct answer *a) {
    const struct usage *u = &a->usage;
    return json_pack("{s:i,s:i,s:i,s:i}", "prompt_tokens", u->n_prompt, "cached_tokens",
                     u->n_cached, "completion_tokens", u->n_out, "total_tokens",
                     u->n_prompt + u->n_out);
}

json_t *answer_timings(const struct answer *a) {
    const struct usage *u = &a->usage;
    return json_pack("{s:f,s:f,s:f,s:f,s:I}", "prompt_ms", (double)u->prompt_us / 1e3,
                     "predicted_ms", (double)u->decode_us / 1e3, "prompt_per_second",
                     answer_prompt_rate(a), "predicted_per_second", answer_decode_rate(a),
                     "peak_memory_bytes", (json_int_t)peak_memory());
}
