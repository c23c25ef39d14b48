/* embed.c - /v1/embeddings, and Ollama's /api/embed: each input's last hidden states, averaged over
 * its tokens, at length 1.
 *
 * An input is a task that generates nothing.  At most WINDOW of a request are with the loop at a
 * time, so that many inputs neither fill the queue nor push everybody else back; each that ends
 * lets the next in.  Runs on libmicrohttpd's thread, but for on_wake. */
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/impl.h"
#include "serve/loop.h"

enum { MOST_INPUTS = 2048, WINDOW = 32 };

struct embed;
struct input {
    struct embed *of;
    struct ids ids;
    float *vector; /* (dim) */
    struct task task;
    struct box box;
};
struct embed {
    struct server *server;
    struct exchange *x; /* holds this, so it outlives it */
    json_t *body;
    struct params p; /* borrows from body */
    struct input *input;
    int n, n_sent, n_ended; /* inputs: all, with the loop at some time, through */
    bool base64, ollama;
    int64_t start_us;
};

static void embed_free(void *job) {
    struct embed *e = job;
    for (int i = 0; i < e->n; i++) {
        ids_free(&e->input[i].ids);
        free(e->input[i].vector);
        task_release(&e->input[i].task);
        box_free(&e->input[i].box);
    }
    free(e->input);
    json_decref(e->body);
    free(e);
}

/* -- reading ----------------------------------------------------------------------------------- */

static int read_options(struct embed *e, struct fault *f) {
    const struct params *p = &e->p;
    int dim = e->server->m->cfg.dim;
    if (p->encoding && strcmp(p->encoding, "float") && strcmp(p->encoding, "base64"))
        return fault_set(f, 400, "invalid_value", "encoding_format",
                         "encoding_format must be float or base64");
    e->base64 = p->encoding && !strcmp(p->encoding, "base64");
    if (p->dimensions != ABSENT_INT && p->dimensions != dim)
        return fault_set(f, 400, "invalid_value", "dimensions",
                         "dimensions must be %d, the width of this model: its vectors cannot be "
                         "shortened",
                         dim);
    return 0;
}

static int read_inputs(struct embed *e, struct fault *f) {
    const json_t *v = e->p.input;
    /* [1, 2] is one input, [[1, 2], "x"] are two. */
    bool list = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = list ? json_array_size(v) : 1;
    if (!v || n < 1 || n > MOST_INPUTS)
        return fault_set(f, 400, v ? "invalid_value" : "missing", "input",
                         "input must be a text, token ids, or 1 to %d of them", MOST_INPUTS);
    e->input = mem_array(n, sizeof *e->input);
    e->n = (int)n;
    for (size_t i = 0; i < n; i++) {
        struct input *in = &e->input[i];
        const json_t *one = list ? json_array_get(v, i) : v;
        const struct params none = {.max_tokens = ABSENT_INT};
        if (read_prompt(e->server, "input", one, true, &in->ids, f))
            return -1;
        if (!in->ids.n || (json_is_string(one) && !json_string_length(one)))
            return fault_set(f, 400, "empty_input", "input", "input[%zu] is empty", i);
        if (check_fits(e->server, (int)in->ids.n, &none, f))
            return -1;
        in->of = e;
    }
    return 0;
}

/* Takes body over; NULL with a fault. */
static struct embed *embed_read(struct server *s, struct exchange *x, json_t *body,
                                struct fault *f) {
    struct embed *e = mem_new(sizeof *e);
    e->server = s;
    e->x = x;
    e->body = body;
    e->start_us = clock_us();
    if (!body || body_params(x, body, AT_EMBED, &e->p, f) || check_model(s, e->p.model, f) ||
        read_options(e, f) || read_inputs(e, f)) {
        embed_free(e);
        return NULL;
    }
    return e;
}

/* -- tasks ------------------------------------------------------------------------------------- */

static void on_wake(void *ud, bool ended) {
    struct exchange *x = ((struct input *)ud)->of->x;
    http_wake(x);
    if (ended)
        http_drop(x);
}

static struct task *prepare(struct input *in) {
    const struct embed *e = in->of;
    in->vector = mem_array((size_t)e->server->m->cfg.dim, sizeof *in->vector);
    in->task.wake = on_wake;
    in->task.ud = in;
    in->task.r = (struct req){.ids = in->ids.id,
                              .n = (int)in->ids.n,
                              .pooled = in->vector,
                              .cache_salt = http_tenant(e->x)};
    return &in->task;
}

/* Gives the loop what the window has room for.  A refusal is a fault only if nothing of ours is
 * under way, at whose end it is tried again. */
static int send_more(struct embed *e, struct fault *f) {
    while (e->n_sent < e->n && e->n_sent - e->n_ended < WINDOW) {
        struct input *in = &e->input[e->n_sent];
        struct err err = {0};
        struct task *task = prepare(in);
        http_hold(e->x);
        if (loop_submit(e->server->loop, &task, 1, &err) == 0) {
            e->n_sent++;
            continue;
        }
        http_drop(e->x);
        free(in->vector);
        in->vector = NULL;
        if (e->n_sent > e->n_ended)
            return 0;
        f->retry_after = err.code == E_BUSY ? loop_retry_after(e->server->loop) : 1;
        return err.code == E_BUSY ? fault_set(f, 429, "queue_full", NULL, "%s", err.msg)
                                  : fault_set(f, 503, "stopping", NULL, "%s", err.msg);
    }
    return 0;
}

/* Length 1; a vector of no length, or of no numbers, has none. */
static int normalise(struct input *in, int dim, struct fault *f) {
    double sum = 0;
    for (int d = 0; d < dim; d++)
        sum += (double)in->vector[d] * (double)in->vector[d];
    if (!isfinite(sum) || sum <= 0)
        return fault_set(f, 500, "nan_embedding", NULL, "the model's output is not a number");
    double scale = 1 / sqrt(sum);
    for (int d = 0; d < dim; d++)
        in->vector[d] = (float)(in->vector[d] * scale);
    return 0;
}

static int settle(struct input *in, struct fault *f) {
    const struct task *t = &in->task;
    if (t->usage.why >= FIN_CANCELLED)
        return task_fault(t, f);
    return normalise(in, in->of->server->m->cfg.dim, f);
}

static void embed_left(void *job) {
    struct embed *e = job;
    for (int i = 0; i < e->n_sent; i++)
        if (!e->input[i].box.ended)
            loop_cancel(e->server->loop, &e->input[i].task);
}

/* -- answers ----------------------------------------------------------------------------------- */

/* Nine digits give a float its bits back. */
static void put_floats(const float *v, int n, struct buf *out) {
    for (int d = 0; d < n; d++)
        buf_printf(out, "%s%.9g", d ? "," : "[", (double)v[d]);
    buf_adds(out, "]");
}

static void put_base64(const float *v, int n, struct buf *out) {
    size_t bytes = (size_t)n * sizeof *v, chars = (bytes + 2) / 3 * 4;
    buf_adds(out, "\"");
    buf_reserve(out, chars + 1);
    EVP_EncodeBlock((unsigned char *)out->data + out->len, (const unsigned char *)v, (int)bytes);
    out->len += chars;
    buf_adds(out, "\"");
}

static int64_t prompt_tokens(const struct embed *e) {
    int64_t n = 0;
    for (int i = 0; i < e->n; i++)
        n += (int64_t)e->input[i].ids.n;
    return n;
}

static void put_openai(const struct embed *e, struct buf *out) {
    int dim = e->server->m->cfg.dim;
    long long n = (long long)prompt_tokens(e);
    buf_adds(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < e->n; i++) {
        buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "", i);
        (e->base64 ? put_base64 : put_floats)(e->input[i].vector, dim, out);
        buf_adds(out, "}");
    }
    buf_adds(out, "],\"model\":");
    json_quote(out, e->server->name, strlen(e->server->name));
    buf_printf(out, ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}", n, n);
}

static void put_ollama(const struct embed *e, struct buf *out) {
    buf_adds(out, "{\"model\":");
    json_quote(out, e->server->name, strlen(e->server->name));
    buf_adds(out, ",\"embeddings\":[");
    for (int i = 0; i < e->n; i++) {
        buf_adds(out, i ? "," : "");
        put_floats(e->input[i].vector, e->server->m->cfg.dim, out);
    }
    buf_printf(out, "],\"total_duration\":%lld,\"load_duration\":0,\"prompt_eval_count\":%lld}",
               (long long)(clock_us() - e->start_us) * 1000, (long long)prompt_tokens(e));
}

static void refuse(const struct embed *e, struct exchange *x, const struct fault *f) {
    (e->ollama ? ollama_refuse : http_fault)(x, f);
}

static bool on_step(void *job, struct exchange *x) {
    struct embed *e = job;
    struct fault f = {0};
    struct buf out = {0};
    for (int i = 0; i < e->n_sent && !f.status; i++) {
        struct input *in = &e->input[i];
        if (in->box.ended)
            continue;
        loop_take(&in->task, &in->box);
        if (!in->box.ended)
            continue;
        e->n_ended++;
        settle(in, &f);
    }
    if (f.status || send_more(e, &f)) {
        embed_left(e);
        f.retry_after = f.retry_after ? f.retry_after : f.status == 503;
        refuse(e, x, &f);
        return true;
    }
    if (e->n_ended < e->n)
        return false;
    (e->ollama ? put_ollama : put_openai)(e, &out);
    http_reply(x, 200, "application/json", &out);
    return true;
}

static const struct job_ops ops = {
    .step = on_step, .refuse = http_fault, .left = embed_left, .release = embed_free};
static const struct job_ops ollama_ops = {
    .step = on_step, .refuse = ollama_refuse, .left = embed_left, .release = embed_free};

/* -- routes ------------------------------------------------------------------------------------ */

static void embed_start(struct exchange *x, struct server *s, json_t *body, bool ollama,
                        struct fault *f) {
    struct embed *e = f->status ? NULL : embed_read(s, x, body, f);
    if (e) {
        e->ollama = ollama;
        if (send_more(e, f) == 0) {
            http_job(x, ollama ? &ollama_ops : &ops, e);
            return;
        }
        embed_free(e);
    }
    (ollama ? ollama_refuse : http_fault)(x, f);
}

void route_embeddings(struct exchange *x, void *app) {
    struct fault f = {0};
    embed_start(x, app, body_read(x, &f), false, &f);
}

void route_ollama_embed(struct exchange *x, void *app) {
    struct fault f = {0};
    json_t *body = body_read(x, &f);
    embed_start(x, app, body ? ollama_embed_body(body) : NULL, true, &f);
    json_decref(body);
}
