/* quantize.c - see quantize.h.
 *
 * Sizes are known before anything is converted, so a header goes out first and each tensor follows
 * a few rows at a time (convert.c).  From GGUF to GGUF the key-values are copied byte for byte, but
 * for general.file_type; from a folder they are made (gguf_meta.c). */
#include "model/quantize.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/convert.h"
#include "model/gguf_kv.h"
#include "model/packed.h"
#include "model/recipe.h"
#include "tok/export.h"

struct job {
    const struct quantize_opts *o;
    struct quantize_report *r;
    struct conversion c;
    const struct recipe *recipe; /* of GGUF */
    enum dtype type;             /* of a folder */
    size_t done;
};

bool quantize_to_gguf(const char *out) {
    size_t n = strlen(out);
    return n > 5 && strcmp(out + n - 5, ".gguf") == 0;
}

/* -- which type each tensor gets -------------------------------------------------------------- */

static int find_type(struct job *j, struct err *err) {
    const char *name = j->o->type;
    if (j->c.gguf) {
        j->recipe = recipe_find(name);
        if (!j->recipe)
            return err_set(err, E_USAGE, "quantize: unknown type '%.40s' of a GGUF file (%s)", name,
                           recipe_names);
        j->r->type = j->recipe->name;
        return 0;
    }
    j->type = dtype_parse(name);
    if (j->type != DT_F32 && j->type != DT_F16 && j->type != DT_BF16 && j->type != DT_INT8 &&
        j->type != DT_INT4)
        return err_set(err, E_USAGE,
                       "quantize: unknown type '%.40s' of a folder (f32, f16, bf16, int8 or int4; "
                       "a name in .gguf makes a GGUF file)",
                       name);
    j->r->type = dtype_info(j->type)->name;
    return 0;
}

static bool has_head(const struct conversion *c) {
    for (int i = 0; i < c->n_target; i++)
        if (strcmp(c->target[i].t.name, "output.weight") == 0)
            return true;
    return false;
}

static enum dtype type_in_folder(const struct job *j, const struct target *t) {
    if (!t->cols || j->c.out.part[t->part[0]].f32)
        return DT_F32;
    return recipe_fit(j->type, t->cols);
}

static int choose_types(struct job *j, struct err *err) {
    struct conversion *c = &j->c;
    int n_packed = 0;
    enum dtype want = c->gguf ? j->recipe->type : j->type;
    struct recipe_tensor rt = {.tied = !has_head(c), .n_layer = c->cfg.n_layer};
    for (int i = 0; i < c->n_target; i++) {
        struct target *t = &c->target[i];
        rt.name = t->t.name;
        rt.rank = t->cols ? 2 : 1;
        rt.cols = t->cols;
        target_set_type(t, c->gguf ? recipe_type(j->recipe, &rt) : type_in_folder(j, t));
        j->r->n_kept += t->t.type != DT_F32 && t->cols % dtype_info(want)->block != 0;
        j->r->to_bytes += t->t.bytes;
        n_packed += t->t.type == want;
    }
    if (!c->gguf && n_packed == 0)
        return err_set(err, E_USAGE, "%s: no matrix has rows that fill blocks of %s (%d columns)",
                       j->o->in, j->r->type, dtype_info(want)->block);
    j->r->n_tensor = c->n_target;
    for (int i = 0; i < c->from.ts->n; i++)
        j->r->from_bytes += c->from.ts->t[i].bytes;
    return 0;
}

/* -- writing ---------------------------------------------------------------------------------- */

static int to_file(void *ud, const void *p, size_t n, struct err *err) {
    return out_write(ud, p, n, err);
}

/* All tensors to a file that has its header, each padded to the alignment. */
static int write_tensors(struct job *j, struct out *file, size_t align, struct err *err) {
    static const char zeros[65536];
    const struct sink sink = {to_file, file};
    for (int i = 0; i < j->c.n_target; i++) {
        const struct target *t = &j->c.target[i];
        if (target_write(&j->c, t, &sink, err) ||
            out_write(file, zeros, gguf_padding(t->t.bytes, align), err))
            return -1;
        j->done += t->t.bytes;
        if (j->o->progress)
            j->o->progress(j->o->ud, j->done, j->r->to_bytes);
    }
    return 0;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static int gguf_pairs(struct job *j, struct buf *kv, uint64_t *n, int64_t *align, struct err *err) {
    uint32_t file_type = j->recipe->file_type;
    struct tok *tok = NULL;
    if (j->c.from.gguf) {
        *n = gguf_copy_pairs(j->c.from.gguf, file_type, kv);
        return gguf_int(j->c.from.gguf, "general.alignment", 1, 65536, align, err);
    }
    if (source_tok(&j->c.from, &tok, err))
        return -1;
    char *name = mem_strdup(j->o->in);
    while (strlen(name) > 1 && name[strlen(name) - 1] == '/')
        name[strlen(name) - 1] = 0;
    struct gguf_meta m = {
        .cfg = &j->c.cfg, .tok = tok, .name = base_name(name), .file_type = file_type};
    int rc = gguf_put_meta(kv, n, &m, err);
    free(name);
    tok_free(tok);
    return rc;
}

static int write_gguf(struct job *j, struct err *err) {
    struct buf kv = {0}, header = {0};
    struct out *file = NULL;
    struct tensor *t = mem_array((size_t)j->c.n_target, sizeof *t);
    uint64_t n_kv = 0;
    int64_t align = 32;
    int rc = -1;
    for (int i = 0; i < j->c.n_target; i++)
        t[i] = j->c.target[i].t;
    if (gguf_pairs(j, &kv, &n_kv, &align, err))
        goto out;
    gguf_put_header(&header, &kv, n_kv, t, j->c.n_target, (size_t)align);
    if (j->o->dry) {
        rc = 0;
        goto out;
    }
    if (!(file = out_open(j->o->out, err)) || out_write(file, header.data, header.len, err) ||
        write_tensors(j, file, (size_t)align, err))
        goto out;
    rc = out_commit(file, err);
    file = NULL;
out:
    out_abort(file);
    free(t);
    buf_free(&kv);
    buf_free(&header);
    return rc;
}

/* -- a folder --------------------------------------------------------------------------------- */

/* What is copied from folder to folder. */
static const char *const beside[] = {"generation_config.json",
                                     "tokenizer.json",
                                     "tokenizer.model",
                                     "tokenizer_config.json",
                                     "vocab.json",
                                     "merges.txt",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "chat_template.jinja",
                                     "chat_template.json",
                                     NULL};

/* config.json: the source's own where there is one, so that keys we do not know survive. */
static json_t *folder_config(const struct job *j, const struct tensor *t, struct err *err) {
    static const char *const torch[] = {
        [DT_F32] = "float32", [DT_F16] = "float16", [DT_BF16] = "bfloat16"};
    json_t *config = NULL;
    if (j->c.from.gguf) {
        config = cfg_to_hf(&j->c.cfg);
    } else {
        char *path = path_join(j->o->in, "config.json");
        config = json_file(path, (size_t)16 << 20, err);
        free(path);
        if (!config)
            return NULL;
    }
    bool packed = j->type == DT_INT8 || j->type == DT_INT4;
    json_object_del(config, "quantization_config");
    json_object_set_new(config, "torch_dtype", json_string(torch[packed ? DT_BF16 : j->type]));
    if (packed)
        json_object_set_new(config, "quantization_config",
                            packed_config(j->type, t, j->c.n_target));
    return config;
}

static int write_generation(const struct job *j, const char *dir, struct err *err) {
    json_t *config = cfg_to_hf(&j->c.cfg), *gen = json_object();
    json_object_set(gen, "bos_token_id", json_object_get(config, "bos_token_id"));
    json_object_set(gen, "eos_token_id", json_object_get(config, "eos_token_id"));
    json_decref(config);
    return json_write(dir, "generation_config.json", gen, 2, err);
}

static int write_beside(const struct job *j, const char *dir, struct err *err) {
    struct tok *tok = NULL;
    for (int i = 0; beside[i] && !j->c.from.gguf; i++)
        if (file_copy(j->o->in, beside[i], dir, err))
            return -1;
    if (!j->c.from.gguf)
        return 0;
    if (write_generation(j, dir, err) || source_tok(&j->c.from, &tok, err))
        return -1;
    int rc = tok ? tok_write(tok, dir, err) : 0;
    tok_free(tok);
    return rc;
}

static int write_safetensors(struct job *j, const char *dir, const struct tensor *t,
                             struct err *err) {
    struct tensor *file = mem_array((size_t)j->c.n_target * PACKED_TENSORS, sizeof *file);
    bool *made = mem_array((size_t)j->c.n_target * PACKED_TENSORS, sizeof *made);
    int n = 0, rc = -1;
    for (int i = 0; i < j->c.n_target; i++) {
        bool packed = t[i].type == DT_INT8 || t[i].type == DT_INT4;
        int k = packed ? packed_tensors(&t[i], file + n) : 1;
        if (!packed)
            file[n] = t[i];
        for (; k > 0; k--)
            made[n++] = packed;
    }
    char *path = path_join(dir, "model.safetensors");
    struct out *out = out_open(path, err);
    if (!out || safetensors_header(out, file, n, err) || write_tensors(j, out, 1, err))
        goto out;
    rc = out_commit(out, err);
    out = NULL;
out:
    out_abort(out);
    for (int i = 0; i < n; i++)
        if (made[i])
            free((char *)file[i].name);
    free(made);
    free(file);
    free(path);
    return rc;
}

static bool is_absent_or_empty(const char *dir) {
    bool empty = false;
    return !file_exists(dir) || (file_is_dir(dir) && !dir_make(dir, &empty, NULL) && empty);
}

static int write_folder(struct job *j, struct err *err) {
    struct tensor *t = mem_array((size_t)j->c.n_target, sizeof *t);
    char *tmp = NULL;
    int rc = -1;
    for (int i = 0; i < j->c.n_target; i++)
        t[i] = j->c.target[i].t;
    json_t *config = folder_config(j, t, err);
    if (!config)
        goto out;
    if (j->o->dry) {
        rc = 0;
        goto out;
    }
    if (!is_absent_or_empty(j->o->out)) {
        err_set(err, E_USAGE, "%s: exists and is not an empty folder", j->o->out);
        goto out;
    }
    if (!(tmp = dir_begin(j->o->out, err)) ||
        json_write(tmp, "config.json", json_incref(config), 2, err) || write_beside(j, tmp, err) ||
        write_safetensors(j, tmp, t, err))
        goto out;
    rc = dir_commit(tmp, j->o->out, err);
out:
    if (rc)
        dir_abort(tmp);
    free(tmp);
    free(t);
    json_decref(config);
    return rc;
}

int quantize(const struct quantize_opts *o, struct quantize_report *r, struct err *err) {
    struct job j = {.o = o, .r = r, .c = {.gguf = quantize_to_gguf(o->out)}};
    *r = (struct quantize_report){0};
    if (find_type(&j, err))
        return -1;
    int rc = conversion_open(&j.c, o->in, j.c.gguf, err);
    if (!rc)
        rc = choose_types(&j, err);
    if (!rc)
        rc = j.c.gguf ? write_gguf(&j, err) : write_folder(&j, err);
    conversion_close(&j.c);
    return rc;
}
