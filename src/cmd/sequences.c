/* sequences.c - a text cut into what `eval` scores: documents, or windows of the context's length.
 * The rules are those of docs/commands.md under `eval ppl`. */
#include <stdlib.h>
#include <string.h>

#include "cmd/eval.h"

static bool is_space(uint8_t c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int document(struct sequences *s, const uint8_t *p, size_t n, sequence_fn *fn, void *ud,
                    struct err *err) {
    struct ids ids = {0};
    int rc = -1;
    if (s->bos >= 0)
        ids_add(&ids, s->bos);
    if (tok_encode(s->tok, (const char *)p, n, false, &ids, err))
        goto out;
    if (ids.n > (size_t)s->n_ctx) {
        ids.n = (size_t)s->n_ctx;
        s->cut++;
    }
    rc = ids.n > 1 ? fn(ud, ids.id, (int)ids.n, SEQ_DOCUMENT, err) : 0;
    s->n += ids.n > 1;
out:
    ids_free(&ids);
    return rc;
}

static int documents(struct sequences *s, sequence_fn *fn, void *ud, struct err *err) {
    size_t sep_len = strlen(s->sep);
    const uint8_t *p = s->f->data, *end = s->f->data + s->f->size;
    while (p < end && (!s->limit || s->n < s->limit)) {
        const uint8_t *next = memmem(p, (size_t)(end - p), s->sep, sep_len);
        const uint8_t *a = p, *b = next ? next : end;
        while (a < b && is_space(*a))
            a++;
        while (b > a && is_space(b[-1]))
            b--;
        if (b > a && document(s, a, (size_t)(b - a), fn, ud, err))
            return -1;
        p = next ? next + sep_len : end;
        progress_update(s->progress, p - s->f->data);
    }
    return 0;
}

static int windows(struct sequences *s, sequence_fn *fn, void *ud, struct err *err) {
    struct ids ids = {0}, window = {0};
    int rc = -1;
    if (tok_encode(s->tok, (const char *)s->f->data, s->f->size, false, &ids, err))
        goto out;
    size_t room = (size_t)s->n_ctx - (s->bos >= 0);
    for (size_t i = 0; i < ids.n && (!s->limit || s->n < s->limit); i += room) {
        size_t n = ids.n - i < room ? ids.n - i : room;
        window.n = 0;
        if (s->bos >= 0)
            ids_add(&window, s->bos);
        ids_addn(&window, ids.id + i, n);
        if (window.n > 1 &&
            fn(ud, window.id, (int)window.n, i > 0 ? SEQ_LATER_WINDOW : SEQ_FIRST_WINDOW, err))
            goto out;
        s->n += window.n > 1;
        progress_update(s->progress, (int64_t)((double)i / (double)ids.n * (double)s->f->size));
    }
    rc = 0;
out:
    ids_free(&ids);
    ids_free(&window);
    return rc;
}

int sequences_open(struct sequences *s, const struct model *m, int n_ctx, struct err *err) {
    if (!m->tok)
        return err_set(err, E_USAGE, "%s: has no tokenizer", m->path);
    s->tok = m->tok;
    s->bos = tok_adds_bos(s->tok) ? tok_bos(s->tok) : -1;
    s->n_ctx = n_ctx > 0 ? n_ctx : m->cfg.max_ctx;
    if (s->n_ctx > m->cfg.max_ctx || s->n_ctx < 2)
        return err_set(err, E_USAGE, "--ctx-size: %d is not in 2..%d, the model's context",
                       s->n_ctx, m->cfg.max_ctx);
    if (s->sep && !*s->sep)
        return err_set(err, E_USAGE, "--docs: the separator is empty");
    return 0;
}

int sequences_each(struct sequences *s, const char *label, sequence_fn *fn, void *ud,
                   struct err *err) {
    struct progress p = progress_start(label, (int64_t)s->f->size);
    s->progress = &p;
    s->n = s->cut = 0;
    int rc = s->sep ? documents(s, fn, ud, err) : windows(s, fn, ud, err);
    progress_end(&p);
    return rc;
}
