/* source.c - see source.h.  Everything that a number in the file decides is checked when it is
 * opened; reading rows cannot fail. */
#include "model/source.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/gguf_kv.h"
#include "model/packed.h"
#include "num/quant.h"

#define MAX_CONFIG (16 << 20) /* bytes of config.json and generation_config.json */

void source_close(struct source *s) {
    tensors_close(&s->own);
    gguf_close(s->gguf);
}

/* generation_config.json beside config.json; a folder may lack it. */
static int read_generation(struct source *s, struct err *err) {
    char *path = path_join(s->path, "generation_config.json");
    double temp = -1, top_p = -1;
    int64_t top_k = -1;
    int rc = 0;
    json_t *j = NULL;
    if (file_exists(path)) {
        rc = -1;
        j = json_file(path, MAX_CONFIG, err);
        if (j && !json_get_real(j, path, "temperature", 0, 100, &temp, err) &&
            !json_get_real(j, path, "top_p", 0, 1, &top_p, err) &&
            !json_get_int(j, path, "top_k", 0, 1 << 24, &top_k, err))
            rc = cfg_generation(&s->cfg, j, path, err);
    }
    s->temp = (float)temp;
    s->top_p = (float)top_p;
    s->top_k = (int)top_k;
    json_decref(j);
    free(path);
    return rc;
}

/* A folder of quantised matrices has the configuration of the model that it was made from, and one
 * key more. */
static int read_config(struct source *s, json_t *j, const char *path, struct err *err) {
    const json_t *q = json_object_get(j, "quantization_config");
    json_t *plain = json_copy(j);
    json_object_del(plain, "quantization_config");
    int rc = cfg_from_hf(&s->cfg, plain, path, err);
    json_decref(plain);
    if (rc || read_generation(s, err) || safetensors_open_dir(&s->own, s->path, err))
        return -1;
    return q && !json_is_null(q) ? packed_open(&s->own, j, path, err) : 0;
}

static int open_folder(struct source *s, struct err *err) {
    char *path = path_join(s->path, "config.json");
    json_t *j = json_file(path, MAX_CONFIG, err);
    int rc = j ? read_config(s, j, path, err) : -1;
    s->ts = &s->own;
    json_decref(j);
    free(path);
    return rc;
}

static int open_gguf(struct source *s, struct err *err) {
    s->gguf = gguf_open(s->path, err);
    if (!s->gguf || gguf_cfg(s->gguf, &s->cfg, err))
        return -1;
    s->ts = gguf_tensors(s->gguf);
    return 0;
}

int source_open(struct source *s, const char *path, struct err *err) {
    *s = (struct source){.path = path, .temp = -1, .top_p = -1, .top_k = -1};
    int rc = file_is_dir(path) ? open_folder(s, err) : open_gguf(s, err);
    if (rc)
        source_close(s);
    return rc;
}

/* A GGUF file may say that it comes without a tokenizer. */
static bool has_vocabulary(const struct gguf *g) {
    struct gguf_value v;
    static const char *const none[] = {"no_vocab", "none"};
    if (!gguf_find(g, "tokenizer.ggml.model", &v) || v.type != GGUF_STR)
        return true; /* gguf_tok says what is missing */
    for (int i = 0; i < 2; i++)
        if (v.n == strlen(none[i]) && memcmp(v.data, none[i], v.n) == 0)
            return false;
    return true;
}

int source_tok(const struct source *s, struct tok **tok, struct err *err) {
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "vocab.json"};
    bool any = s->gguf && has_vocabulary(s->gguf);
    *tok = NULL;
    for (int i = 0; i < 3 && !any; i++) {
        char *p = path_join(s->path, files[i]);
        any = file_exists(p);
        free(p);
    }
    if (!any)
        return 0;
    struct tok *t = s->gguf ? gguf_tok(s->gguf, err) : tok_open(s->path, err);
    if (!t)
        return -1;
    for (int32_t id = s->cfg.vocab; id < tok_size(t); id++) {
        size_t len;
        if (!tok_piece(t, id, &len))
            continue;
        err_set(err, E_FORMAT, "%s: token %d of the tokenizer has no embedding (vocab_size %d)",
                s->path, (int)id, s->cfg.vocab);
        tok_free(t);
        return -1;
    }
    *tok = t;
    return 0;
}

/* -- rows -------------------------------------------------------------------------------------- */

const void *source_row(const struct part *p, int r, void *raw) {
    const struct tensor *t = p->t;
    int row = plan_source_row(p, r);
    if (t->packed) {
        packed_row(t, row, p->cols, raw);
        return raw;
    }
    size_t bytes = dtype_row_bytes(t->type, p->cols);
    const char *at = (const char *)t->data + (size_t)row * bytes;
    if ((uintptr_t)at % 4 == 0)
        return at;
    return memcpy(raw, at, bytes);
}

/* The file has (cols, t_rows): n neighbours of each of its rows become a column of ours. */
static void transposed(const struct part *p, int r, int n, float *f) {
    enum dtype type = p->t->type;
    size_t elem = dtype_row_bytes(type, 1);
    for (int c = 0; c < p->cols; c++) {
        float raw[SOURCE_ROWS], lane[SOURCE_ROWS];
        size_t at = (size_t)c * (size_t)p->t_rows + (size_t)(p->base + r);
        memcpy(raw, (const char *)p->t->data + at * elem, (size_t)n * elem);
        row_to_f32(type, raw, lane, n);
        for (int k = 0; k < n; k++)
            f[(size_t)k * (size_t)p->cols + (size_t)c] = lane[k];
    }
}

void source_floats(const struct part *p, int r, int n, float *f, void *raw) {
    if (p->transposed) {
        transposed(p, r, n, f);
        return;
    }
    for (int k = 0; k < n; k++)
        row_to_f32(p->t->type, source_row(p, r + k, raw), f + (size_t)k * (size_t)p->cols, p->cols);
}

void source_vec(const struct part *p, float *dst) {
    enum dtype from = p->t->type;
    size_t elem = dtype_row_bytes(from, 1);
    for (int r = 0; r < p->rows; r++) {
        float raw;
        memcpy(&raw, (const char *)p->t->data + (size_t)plan_source_row(p, r) * elem, elem);
        row_to_f32(from, &raw, &dst[r], 1);
        if (p->plus_one)
            dst[r] += 1;
    }
}
