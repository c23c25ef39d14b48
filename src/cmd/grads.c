/* grads.c - `pumice eval grads`: the loss of a batch and the gradient of every tensor, for
 * comparison with other implementations. The batch is a JSON list of rows of token ids, all of one
 * length, or an object with such a list under "batch".  The loss is the mean over all next tokens:
 * a row of n ids has n - 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/eval.h"
#include "train/net.h"

#define MAX_BATCH_FILE ((size_t)64 << 20)
#define MAX_IDS (1 << 20) /* of a batch */

struct grads_opts {
    const char *model, *ids, *out, *type;
    int n_threads;
};

struct rows { /* owned: ids, targets */
    int32_t *ids, *targets;
    int n, len;
};

static void rows_free(struct rows *r) {
    free(r->ids);
    free(r->targets);
}

static int read_row(const char *path, const json_t *row, int at, struct rows *r, struct err *err) {
    if (!json_is_array(row) || (int)json_array_size(row) != r->len)
        return err_set(err, E_FORMAT, "%s: row %d is not a list of %d token ids like the first",
                       path, at, r->len);
    for (int i = 0; i < r->len; i++) {
        const json_t *id = json_array_get(row, (size_t)i);
        json_int_t v = json_integer_value(id);
        if (!json_is_integer(id) || v < 0 || v > INT32_MAX)
            return err_set(err, E_FORMAT, "%s: row %d: item %d is not a token id", path, at, i);
        r->ids[at * r->len + i] = (int32_t)v;
    }
    for (int i = 0; i < r->len; i++)
        r->targets[at * r->len + i] = i + 1 < r->len ? r->ids[at * r->len + i + 1] : -1;
    return 0;
}

static int read_rows(const char *path, struct rows *r, struct err *err) {
    struct buf text = {0};
    json_error_t je;
    int rc = -1;
    if (file_read(path, MAX_BATCH_FILE, &text, err))
        return -1;
    json_t *j = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, &je);
    const json_t *list = json_is_object(j) ? json_object_get(j, "batch") : j;
    size_t n = json_array_size(list), len = json_array_size(json_array_get(list, 0));
    if (!j)
        err_set(err, E_FORMAT, "%s: invalid JSON at byte %d: %s", path, je.position, je.text);
    else if (n < 1 || len < 2)
        err_set(err, E_FORMAT, "%s: not a list of rows of two or more token ids", path);
    else if (n > MAX_IDS || len > MAX_IDS / n)
        err_set(err, E_FORMAT, "%s: %zu rows of %zu ids: at most %d ids are possible", path, n, len,
                MAX_IDS);
    else {
        *r = (struct rows){.n = (int)n, .len = (int)len};
        r->ids = mem_array(n * len, sizeof *r->ids);
        r->targets = mem_array(n * len, sizeof *r->targets);
        rc = 0;
    }
    for (size_t i = 0; !rc && i < n; i++)
        rc = read_row(path, json_array_get(list, i), (int)i, r, err);
    json_decref(j);
    buf_free(&text);
    return rc;
}

static int compute(const struct grads_opts *o, enum dtype type, const struct rows *r,
                   struct err *err) {
    struct pool *pool = pool_new(o->n_threads);
    struct net *n = NULL;
    struct net_loss loss;
    int rc = -1;
    const struct model_opts mo = {.dtype = DT_F32, .pool = pool, .no_tokenizer = true};
    struct model *m = model_open(o->model, &mo, err);
    const struct net_opts no = {.pool = pool, .type = type, .rows = r->n, .len = r->len};
    const struct net_batch b = {.rows = r->n, .len = r->len, .ids = r->ids, .targets = r->targets};
    float scale = 1.0f / ((float)r->n * (float)(r->len - 1));
    if (m && (n = net_new(m, &no, err)) && !net_grad(n, &b, scale, &loss, err) &&
        !net_write_gradients(n, o->out, err)) {
        printf("loss %.9g over %lld tokens\n", loss.sum / (double)loss.n, (long long)loss.n);
        rc = 0;
    }
    net_free(n);
    model_close(m);
    pool_free(pool);
    return rc;
}

int eval_grads(int argc, char **argv, struct err *err) {
    struct grads_opts o = {.type = "f32"};
    struct rows r = {0};
    bool help = false;
    int rest;
    const struct opt table[] = {
        {"ids", 0, NULL, OPT_STR, &o.ids, .arg = "FILE",
         .help = "JSON: rows of token ids, or an object with them under \"batch\""},
        {"out", 'o', "output", OPT_STR, &o.out, .arg = "FILE",
         .help = "the .safetensors file to write"},
        OPTS_MODEL(&o.model),
        {"dtype", 0, NULL, OPT_STR, &o.type, .arg = "TYPE",
         .help = "what products read: f32 (default) or bf16; sums are f32"},
        {"threads", 't', NULL, OPT_INT, &o.n_threads, 0, 1024, "N",
         "threads (default: one per processor)"},
        OPTS_HELP(&help),
        OPTS_END,
    };
    const struct cmd_help h = {
        "eval grads MODEL --ids FILE --out FILE [options]",
        "Writes the gradient of the mean loss over all next tokens, under the model's\n"
        "names of tensors.",
        &help};
    if (cmd_parse(&h, table, argc, argv, &rest, err) || help)
        return 0;
    if (cmd_model(&o.model, argc, argv, &rest, err) || cmd_no_more(argc, argv, rest, err))
        return -1;
    if (!o.ids || !o.out)
        return err_set(err, E_USAGE, "eval grads: give %s", o.ids ? "--out FILE" : "--ids FILE");
    enum dtype type = dtype_parse(o.type);
    if (type != DT_F32 && type != DT_BF16)
        return err_set(err, E_USAGE, "--dtype: '%s' is not f32 or bf16", o.type);
    int rc = read_rows(o.ids, &r, err) ? -1 : compute(&o, type, &r, err);
    rows_free(&r);
    return rc;
}
