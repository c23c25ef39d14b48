/* eval_quant.c - `eval quant`: what a type of weights costs in quality, beside BF16 on one text.
 *
 * Both models read the same tokens in the same chunks.  For each scored position, with p the
 * distribution of BF16 and q that of the type: the divergence is KL(p || q) = sum p (ln p - ln q),
 * in nats, and the top agrees where both have their largest logit at the same token. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cmd/eval.h"
#include "model/sample.h"

struct quant {
    struct load_opts load;
    const char *types, *text, *docs;
    int64_t limit;
    bool json, help;
};

struct compare { /* one type beside BF16 */
    struct sequences seq;
    struct pass base, own;
    double nll_base, nll; /* nats, summed over n */
    int64_t same;
    float *kl; /* (n) */
    size_t n, cap;
};

struct figures { /* of a type */
    const char *type;
    double ppl, nll, kl_mean, kl_p99, kl_max, same, bytes, per_weight;
};

static int score(struct compare *c, const float *base, const float *own, int32_t id,
                 struct err *err) {
    int vocab = c->base.vocab, top[2];
    double za = log_sum_exp(base, vocab, &top[0]), zb = log_sum_exp(own, vocab, &top[1]), kl = 0;
    if (isnan(za) || isnan(zb))
        return err_set(err, E_FORMAT, "nan_logits: the model's output is not a number");
    for (int i = 0; i < vocab; i++) {
        double lp = base[i] - za;
        kl += exp(lp) * (lp - (own[i] - zb));
    }
    c->nll_base -= base[id] - za;
    c->nll -= own[id] - zb;
    c->same += top[0] == top[1];
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 4096;
        c->kl = mem_resize(c->kl, c->cap, sizeof *c->kl);
    }
    c->kl[c->n++] = (float)fmax(kl, 0); /* rounding may leave -1e-17 */
    return 0;
}

static int compare_sequence(void *ud, const int32_t *ids, int n, enum sequence_kind kind,
                            struct err *err) {
    struct compare *c = ud;
    (void)kind;
    for (int i = 0; i < n; i += c->base.chunk) {
        int len = n - i < c->base.chunk ? n - i : c->base.chunk;
        if (pass_run(&c->base, i, ids + i, len, err) || pass_run(&c->own, i, ids + i, len, err))
            return -1;
        for (int k = 0; k < len && i + k + 1 < n; k++) {
            size_t at = (size_t)k * c->base.vocab;
            if (score(c, c->base.logits + at, c->own.logits + at, ids[i + k + 1], err))
                return -1;
        }
    }
    return 0;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static struct figures summary(struct compare *c, const struct model *m, const char *type) {
    double n = (double)c->n, sum = 0;
    qsort(c->kl, c->n, sizeof *c->kl, by_value);
    for (size_t i = 0; i < c->n; i++)
        sum += c->kl[i];
    return (struct figures){.type = type,
                            .nll = c->nll / n,
                            .ppl = exp(c->nll / n),
                            .kl_mean = sum / n,
                            .kl_p99 = c->kl[(c->n - 1) * 99 / 100],
                            .kl_max = c->kl[c->n - 1],
                            .same = (double)c->same / n,
                            .bytes = (double)m->weight_bytes,
                            .per_weight = (double)m->weight_bytes / (double)cfg_params(&m->cfg)};
}

static void print_row(const struct figures *f, double base) {
    printf("| %s | %.3f | %.4f | %+.3f %% | %.6f | %.5f | %.2f %% |\n", f->type, f->per_weight,
           f->ppl, 100 * (f->ppl / base - 1), f->kl_mean, f->kl_p99, 100 * f->same);
    fflush(stdout);
}

static json_t *row_json(const struct figures *f, double base) {
    return json_pack("{s:s,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:f}", "dtype", f->type, "nll_per_token",
                     f->nll, "ppl", f->ppl, "ppl_change", f->ppl / base - 1, "kl_mean", f->kl_mean,
                     "kl_p99", f->kl_p99, "kl_max", f->kl_max, "same_top1", f->same, "weight_bytes",
                     (json_int_t)f->bytes, "bytes_per_weight", f->per_weight);
}

struct table {
    const struct quant *q;
    struct loaded base;
    struct sequences seq;
    json_t *rows; /* owned */
    json_t *head; /* owned: what all rows share */
};

/* The first row is BF16 itself. */
static void begin(struct table *t, const struct compare *c, const struct model *m) {
    double nll = c->nll_base / (double)c->n;
    struct figures f = {.type = "bf16", .nll = nll, .ppl = exp(nll), .same = 1};
    f.bytes = (double)m->weight_bytes;
    f.per_weight = f.bytes / (double)cfg_params(&m->cfg);
    json_array_append_new(t->rows, row_json(&f, f.ppl));
    json_object_set_new(t->head, "sequences", json_integer(c->seq.n));
    json_object_set_new(t->head, "tokens", json_integer((json_int_t)c->n));
    if (t->q->json)
        return;
    printf("%s: %lld %s, %zu tokens\n\n| weights | bytes each | perplexity | change | KL mean | KL "
           "p99 | same top |\n|---|--:|--:|--:|--:|--:|--:|\n",
           t->q->text, (long long)c->seq.n, t->q->docs ? "documents" : "windows", c->n);
    print_row(&f, f.ppl);
}

static int one_type(struct table *t, const char *name, struct err *err) {
    const struct quant *q = t->q;
    struct compare c = {.seq = t->seq};
    struct model_opts o = {.pool = t->base.pool, .no_tokenizer = true};
    struct loaded own = {.pool = t->base.pool};
    int rc = -1;
    if (cmd_dtype(name, &o.dtype, err) || !(own.m = model_open(q->load.model, &o, err)) ||
        pass_open(&c.base, &q->load, &t->base, t->seq.n_ctx, q->load.n_batch, err) ||
        pass_open(&c.own, &q->load, &own, t->seq.n_ctx, c.base.chunk, err) ||
        sequences_each(&c.seq, name, compare_sequence, &c, err))
        goto out;
    if (c.n == 0) {
        err_set(err, E_FORMAT, "%s: has no text to score", q->text);
        goto out;
    }
    if (!json_array_size(t->rows))
        begin(t, &c, t->base.m);
    double base = exp(c.nll_base / (double)c.n);
    struct figures f = summary(&c, own.m, name);
    json_array_append_new(t->rows, row_json(&f, base));
    if (!q->json)
        print_row(&f, base);
    rc = 0;
out:
    free(c.kl);
    pass_close(&c.own);
    pass_close(&c.base);
    model_close(own.m);
    return rc;
}

static int quant(struct quant *q, struct err *err) {
    struct file f = {0};
    struct table t = {.q = q, .rows = json_array(), .head = json_object()};
    char *sep = q->docs ? cmd_unescape(q->docs) : NULL, *types = mem_strdup(q->types), *save = NULL;
    struct load_opts base = q->load;
    enum dtype type;
    int rc = -1, n = 0;
    char *list[64], *p = strtok_r(types, ",", &save);
    for (; p && n < 64; p = strtok_r(NULL, ",", &save)) { /* a slip is told before the work */
        if (cmd_dtype(p, &type, err))
            goto out;
        list[n++] = p;
    }
    if (p || !n) {
        err_set(err, E_USAGE, "--dtype: %s", n ? "more than 64 types" : "no type to compare");
        goto out;
    }
    base.dtype = "bf16";
    if (file_open(&f, q->text, err) || cmd_load(&base, &t.base, err))
        goto out;
    t.seq = (struct sequences){.f = &f, .sep = sep, .limit = q->limit};
    if (sequences_open(&t.seq, t.base.m, q->load.n_ctx, err))
        goto out;
    json_object_set_new(t.head, "model", json_string(q->load.model));
    json_object_set_new(t.head, "text", json_string(q->text));
    for (int i = 0; i < n; i++)
        if (one_type(&t, list[i], err))
            goto out;
    json_object_set(t.head, "rows", t.rows);
    rc = q->json ? cmd_print_json(json_incref(t.head), true, err) : 0;
out:
    json_decref(t.rows);
    json_decref(t.head);
    cmd_unload(&t.base);
    file_close(&f);
    free(types);
    free(sep);
    return rc;
}

int eval_quant(int argc, char **argv, struct err *err) {
    struct quant q = {0};
    int rest;
    const struct opt table[] = {
        {"text", 'f', "file", OPT_STR, &q.text, .arg = "FILE", .help = "the text to predict"},
        {"docs", 0, NULL, OPT_STR, &q.docs, .arg = "SEP",
         .help = "the file holds documents separated by SEP, as for eval ppl"},
        {"limit", 0, NULL, OPT_I64, &q.limit, 0, 9.3e18, "N",
         "only the first N documents or windows; 0 = all"},
        OPTS_LOAD(&q.load),
        OPTS_JSON(&q.json),
        OPTS_HELP(&q.help),
        OPTS_END,
    };
    const struct cmd_help h = {
        "eval quant MODEL --text FILE [--dtype LIST] [options]",
        "Compares types of weights with BF16 on a text: perplexity, KL divergence, same top\n"
        "token, bytes.  --dtype is a list here (default int8,int4,q8_0,q4_0).",
        &q.help};
    if (cmd_parse(&h, table, argc, argv, &rest, err) || q.help)
        return 0;
    if (cmd_model(&q.load.model, argc, argv, &rest, err) || cmd_no_more(argc, argv, rest, err))
        return -1;
    if (!q.text)
        return err_set(err, E_USAGE, "eval quant: give --text FILE");
    q.types = q.load.dtype ? q.load.dtype : "int8,int4,q8_0,q4_0";
    return quant(&q, err);
}
