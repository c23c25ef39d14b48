/* eval.c - measure a model: `pumice eval logits` and `pumice eval ppl` (ppl.c).
 *
 * `eval logits` writes NumPy's format 1.0: "\x93NUMPY" 1 0, the header's length as 16 bits
 * little-endian, a Python dict literal padded by spaces and ended by a newline so that the data
 * starts at a multiple of 64, then float32 little-endian in C order. */
#include "cmd/eval.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

/* -- a pass ------------------------------------------------------------------------------------ */

int pass_open(struct pass *p, const struct load_opts *o, const struct loaded *l, int n_ctx,
              int chunk, struct err *err) {
    enum dtype type;
    size_t rows;
    *p = (struct pass){.vocab = l->m->cfg.vocab};
    if (cmd_kv_dtype(o->kv_dtype, &type, err))
        return -1;
    if (type == DT_NONE)
        type = kv_default(l->m->head.type);
    if (chunk <= 0) {
        size_t fit = ((size_t)64 << 20) / ((size_t)p->vocab * sizeof *p->logits);
        chunk = fit < 1 ? 1 : fit > 256 ? 256 : (int)fit;
    }
    p->chunk = chunk < n_ctx ? chunk : n_ctx;
    if (!size_mul((size_t)p->chunk, (size_t)p->vocab, &rows) ||
        !size_mul(rows, sizeof *p->logits, &p->logits_bytes))
        return err_set(err, E_MEMORY, "logits: %d rows of %d do not fit in memory", p->chunk,
                       p->vocab);
    p->logits = mem_pages(p->logits_bytes, "logits", err);
    if (p->logits && (p->kv = kv_open(&l->m->cfg, 1, n_ctx, type, err)) &&
        (p->run = run_new(l->m, l->pool, p->chunk, n_ctx, err)))
        return 0;
    pass_close(p);
    return -1;
}

void pass_close(struct pass *p) {
    run_free(p->run);
    kv_close(p->kv);
    mem_pages_free(p->logits, p->logits_bytes);
    *p = (struct pass){0};
}

int pass_run(struct pass *p, int pos, const int32_t *ids, int n, struct err *err) {
    const struct span s = {.slot = 0, .pos = pos, .n = n, .ids = ids, .want = WANT_ALL};
    const struct batch b = {&s, 1};
    return run_step(p->run, p->kv, &b, p->logits, err);
}

/* -- eval logits ------------------------------------------------------------------------------- */

static int write_npy_head(struct out *o, size_t rows, int cols, struct err *err) {
    char head[192] = "\x93NUMPY\x01";
    enum { PREFIX = 10 };
    int n = PREFIX + snprintf(head + PREFIX, sizeof head - PREFIX,
                              "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %d), }",
                              rows, cols);
    int total = (n + 1 + 63) / 64 * 64;
    memset(head + n, ' ', (size_t)(total - n));
    head[total - 1] = '\n';
    head[8] = (char)((total - PREFIX) & 0xff);
    head[9] = (char)((total - PREFIX) >> 8);
    return out_write(o, head, (size_t)total, err);
}

static int write_logits(struct pass *p, const struct ids *ids, const char *path, struct err *err) {
    struct out *o = out_open(path, err);
    if (!o)
        return -1;
    if (write_npy_head(o, ids->n, p->vocab, err))
        goto fail;
    for (size_t i = 0; i < ids->n; i += (size_t)p->chunk) {
        size_t left = ids->n - i;
        int n = left < (size_t)p->chunk ? (int)left : p->chunk;
        if (pass_run(p, (int)i, ids->id + i, n, err) ||
            out_write(o, p->logits, (size_t)n * p->vocab * sizeof *p->logits, err))
            goto fail;
    }
    return out_commit(o, err);
fail:
    out_abort(o);
    return -1;
}

static int eval_logits(int argc, char **argv, struct err *err) {
    struct load_opts lo = {0};
    const char *list = NULL, *path = NULL;
    int chunk = 0, rest, rc = -1;
    bool help = false;
    struct loaded l = {0};
    struct pass p = {0};
    struct ids ids = {0};
    const struct opt table[] = {
        {"ids", 0, NULL, OPT_STR, &list, .arg = "1,2,3", .help = "the token ids; nothing is added"},
        {"out", 'o', "output", OPT_STR, &path, .arg = "FILE", .help = "the .npy file to write"},
        {"chunk", 0, NULL, OPT_INT, &chunk, 0, 1 << 20, "N",
         "tokens per forward pass; changes the speed, never a bit of the result"},
        OPTS_LOAD(&lo),
        OPTS_HELP(&help),
        OPTS_END,
    };
    const struct cmd_help h = {"eval logits MODEL --ids 1,2,3 --out FILE.npy [options]",
                               "Writes the logits of every token as float32 (tokens, vocabulary).",
                               &help};
    if (cmd_parse(&h, table, argc, argv, &rest, err) || help)
        return 0;
    if (cmd_model(&lo.model, argc, argv, &rest, err) || cmd_no_more(argc, argv, rest, err))
        return -1;
    if (!list || !path)
        return err_set(err, E_USAGE,
                       !list ? "eval logits: give --ids 1,2,3" : "eval logits: give --out FILE");
    if (cmd_ids("--ids", list, E_USAGE, &ids, err) || cmd_load(&lo, &l, err))
        goto out;
    int n_ctx = lo.n_ctx > 0 ? lo.n_ctx : l.m->cfg.max_ctx;
    if (ids.n > (size_t)n_ctx) {
        err_set(err, E_USAGE, "--ids: %zu tokens do not fit the context of %d", ids.n, n_ctx);
        goto out;
    }
    if (pass_open(&p, &lo, &l, (int)ids.n, chunk, err) || write_logits(&p, &ids, path, err))
        goto out;
    log_info("%s: (%zu, %d) float32", path, ids.n, l.m->cfg.vocab);
    rc = 0;
out:
    pass_close(&p);
    cmd_unload(&l);
    ids_free(&ids);
    return rc;
}

int cmd_eval(int argc, char **argv) {
    static const char usage[] =
        "usage: pumice eval ppl MODEL --text FILE      how well it predicts a text\n"
        "       pumice eval logits MODEL --ids 1,2,3   the logits, as a NumPy file\n"
        "       pumice eval quant MODEL --text FILE    what types of weights cost in quality\n"
        "       pumice eval grads MODEL --ids FILE     the gradients of a batch\n"
        "\n`pumice eval ppl --help` lists the options.\n";
    struct err err = {0};
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "ppl"))
        eval_ppl(argc - 1, argv + 1, &err);
    else if (!strcmp(what, "logits"))
        eval_logits(argc - 1, argv + 1, &err);
    else if (!strcmp(what, "quant"))
        eval_quant(argc - 1, argv + 1, &err);
    else if (!strcmp(what, "grads"))
        eval_grads(argc - 1, argv + 1, &err);
    else if (!strcmp(what, "--help") || !strcmp(what, "-h"))
        fputs(usage, stdout);
    else
        err_set(&err, E_USAGE, "eval: '%s' is not ppl, quant, logits or grads", what);
    return cmd_fail(&err);
}
