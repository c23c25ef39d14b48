/* plan.c - see plan.h.
 * One column of names per way of naming: five Hugging Face layouts and GGUF.  What is fused in
 * the file (q, k and v; gate and up) is described as slices of rows, so that loading knows no
 * architecture. */
#include "model/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/map.h"
#include "base/mem.h"
#include "model/recipe.h"

/* ORDER: the last of the model-wide names is N_HEAD. */
enum name {
    N_EMBED,
    N_POS,
    N_NORM,
    N_HEAD,
    N_Q,
    N_K,
    N_V,
    N_QKV,
    N_O,
    N_GATE,
    N_UP,
    N_GATE_UP,
    N_DOWN,
    N_NORM1,
    N_NORM2,
    N_Q_NORM,
    N_K_NORM,
    N_COUNT
};

struct scheme {
    const char *arch;           /* set in own_names */
    const char *prefix, *layer; /* model-wide, and before a layer's number */
    const char *name[N_COUNT];  /* without .weight and .bias; NULL = never */
    bool conv1d;                /* linear weights are (in, out) */
    bool per_head;              /* qkv is ROWS_PER_HEAD */
};

#define LLAMA_NAMES                                                                                \
    [N_EMBED] = "embed_tokens", [N_NORM] = "norm", [N_HEAD] = "lm_head",                           \
    [N_O] = "self_attn.o_proj", [N_DOWN] = "mlp.down_proj", [N_NORM1] = "input_layernorm",         \
    [N_NORM2] = "post_attention_layernorm"

static const struct scheme llama = {
    .prefix = "model.",
    .layer = "layers.",
    .name =
        {
            LLAMA_NAMES,
            [N_Q] = "self_attn.q_proj",
            [N_K] = "self_attn.k_proj",
            [N_V] = "self_attn.v_proj",
            [N_GATE] = "mlp.gate_proj",
            [N_UP] = "mlp.up_proj",
            [N_Q_NORM] = "self_attn.q_norm",
            [N_K_NORM] = "self_attn.k_norm",
        },
};

/* Where both a fused and separate names stand, the file decides. */
static const struct scheme gguf_names = {
    .prefix = "",
    .layer = "blk.",
    .name =
        {
            [N_EMBED] = "token_embd",
            [N_POS] = "position_embd",
            [N_NORM] = "output_norm",
            [N_HEAD] = "output",
            [N_Q] = "attn_q",
            [N_K] = "attn_k",
            [N_V] = "attn_v",
            [N_QKV] = "attn_qkv",
            [N_O] = "attn_output",
            [N_GATE] = "ffn_gate",
            [N_UP] = "ffn_up",
            [N_GATE_UP] = "ffn_up",
            [N_DOWN] = "ffn_down",
            [N_NORM1] = "attn_norm",
            [N_NORM2] = "ffn_norm",
            [N_Q_NORM] = "attn_q_norm",
            [N_K_NORM] = "attn_k_norm",
        },
};

/* Families that do not use Llama's names. */
static const struct scheme own_names[] = {
    {
        .arch = "gpt2",
        .prefix = "transformer.",
        .layer = "h.",
        .conv1d = true,
        .name =
            {
                [N_EMBED] = "wte",
                [N_POS] = "wpe",
                [N_NORM] = "ln_f",
                [N_HEAD] = "lm_head",
                [N_QKV] = "attn.c_attn",
                [N_O] = "attn.c_proj",
                [N_UP] = "mlp.c_fc",
                [N_DOWN] = "mlp.c_proj",
                [N_NORM1] = "ln_1",
                [N_NORM2] = "ln_2",
            },
    },
    {
        .arch = "gpt_neox",
        .prefix = "gpt_neox.",
        .layer = "layers.",
        .per_head = true,
        .name =
            {
                [N_EMBED] = "embed_in",
                [N_NORM] = "final_layer_norm",
                [N_HEAD] = "embed_out",
                [N_QKV] = "attention.query_key_value",
                [N_O] = "attention.dense",
                [N_UP] = "mlp.dense_h_to_4h",
                [N_DOWN] = "mlp.dense_4h_to_h",
                [N_NORM1] = "input_layernorm",
                [N_NORM2] = "post_attention_layernorm",
            },
    },
    {
        .arch = "phi",
        .prefix = "model.",
        .layer = "layers.",
        .name =
            {
                [N_EMBED] = "embed_tokens",
                [N_NORM] = "final_layernorm",
                [N_HEAD] = "lm_head",
                [N_Q] = "self_attn.q_proj",
                [N_K] = "self_attn.k_proj",
                [N_V] = "self_attn.v_proj",
                [N_O] = "self_attn.dense",
                [N_UP] = "mlp.fc1",
                [N_DOWN] = "mlp.fc2",
                [N_NORM1] = "input_layernorm",
            },
    },
    {
        .arch = "phi3",
        .prefix = "model.",
        .layer = "layers.",
        .name =
            {
                LLAMA_NAMES,
                [N_QKV] = "self_attn.qkv_proj",
                [N_GATE_UP] = "mlp.gate_up_proj",
            },
    },
};

static const struct scheme *scheme_of(const struct cfg *c, bool gguf) {
    if (gguf)
        return &gguf_names;
    for (size_t i = 0; i < sizeof own_names / sizeof *own_names; i++)
        if (strcmp(c->arch, own_names[i].arch) == 0)
            return &own_names[i];
    return &llama;
}

struct builder {
    struct plan *p;
    const struct cfg *c;
    const struct scheme *s;
    const struct tensors *ts; /* or NULL */
    const char *prefix;
    bool gguf;
    int layer; /* the one being listed; -1 = model-wide */
};

static void make_name(const struct builder *b, enum name name, const char *suffix, char out[128]) {
    const char *word = b->s->name[name];
    if (b->layer >= 0)
        snprintf(out, 128, "%s%s%d.%s.%s", b->prefix, b->s->layer, b->layer, word, suffix);
    else
        snprintf(out, 128, "%s%s.%s", name == N_HEAD ? "" : b->prefix, word, suffix);
}

/* The file has this weight (false without a file). */
static bool present(const struct builder *b, enum name name) {
    char full[128];
    if (!b->ts || !b->s->name[name])
        return false;
    make_name(b, name, "weight", full);
    return tensors_find(b->ts, full) != NULL;
}

static struct part *add(struct builder *b, enum name name, const char *suffix, int rows, int cols) {
    struct part *part = &b->p->part[b->p->n++];
    *part = (struct part){.rows = rows, .cols = cols, .t_rows = rows, .t_cols = cols};
    make_name(b, name, suffix, part->name);
    return part;
}

static void add_vec(struct builder *b, enum name name, const char *suffix, const float **vec,
                    int n) {
    struct part *part = add(b, name, suffix, n, 1);
    part->vec = vec;
    part->t_cols = 0;
}

/* A norm's weight and, for layer norm, its bias. */
static void add_norm(struct builder *b, enum name name, const float **w, const float **bias) {
    add_vec(b, name, "weight", w, b->c->dim);
    b->p->part[b->p->n - 1].is_norm = true;
    b->p->part[b->p->n - 1].plus_one = b->c->norm_plus_one && !b->gguf;
    if (b->c->norm == NORM_LAYER)
        add_vec(b, name, "bias", bias, b->c->dim);
}

struct slice { /* where the rows of one linear layer lie in a tensor of `total` rows */
    enum name name;
    enum row_order order;
    int base, total;
};

/* One linear layer of a block: matrix and, if bias is not NULL, its bias. */
static void add_linear(struct builder *b, struct slice s, struct mat *mat, const float **bias,
                       int rows, int cols) {
    for (int i = 0; i < (bias ? 2 : 1); i++) {
        struct part *part = add(b, s.name, i ? "bias" : "weight", rows, i ? 1 : cols);
        part->mat = i ? NULL : mat;
        part->vec = i ? bias : NULL;
        part->t_rows = s.total;
        part->t_cols = i ? 0 : cols;
        part->transposed = b->s->conv1d && !i;
        part->order = s.order;
        part->base = s.base;
        part->head_dim = b->c->head_dim;
    }
}

static struct slice whole(enum name name, int rows) {
    return (struct slice){name, ROWS_AT, 0, rows};
}

/* What readers of GGUF expect to be fused; where there is a file, it decides. */
static bool gguf_fuses(const struct builder *b, enum name name) {
    bool phi3 = strcmp(b->c->arch, "phi3") == 0;
    bool qkv = phi3 || strcmp(b->c->arch, "gpt2") == 0 || strcmp(b->c->arch, "gpt_neox") == 0;
    return b->gguf && !b->ts && (name == N_QKV ? qkv : phi3);
}

static void add_attention(struct builder *b, struct layer *l) {
    const struct cfg *c = b->c;
    int q = c->n_head * c->head_dim, kv = c->n_kv_head * c->head_dim, total = q + 2 * kv;
    bool fused =
        gguf_fuses(b, N_QKV) || (b->s->name[N_QKV] && (!b->s->name[N_Q] || present(b, N_QKV)));
    struct slice sq = whole(N_Q, q), sk = whole(N_K, kv), sv = whole(N_V, kv);
    if (fused && b->s->per_head) {
        sq = (struct slice){N_QKV, ROWS_PER_HEAD, 0, total};
        sk = (struct slice){N_QKV, ROWS_PER_HEAD, 1, total};
        sv = (struct slice){N_QKV, ROWS_PER_HEAD, 2, total};
    } else if (fused) {
        sq = (struct slice){N_QKV, ROWS_AT, 0, total};
        sk = (struct slice){N_QKV, ROWS_AT, q, total};
        sv = (struct slice){N_QKV, ROWS_AT, q + kv, total};
    }
    if (b->gguf && strcmp(c->arch, "llama") == 0)
        sq.order = sk.order = ROWS_PAIRED;
    add_linear(b, sq, &l->wq, c->bias_qkv ? &l->bq : NULL, q, c->dim);
    add_linear(b, sk, &l->wk, c->bias_qkv ? &l->bk : NULL, kv, c->dim);
    add_linear(b, sv, &l->wv, c->bias_qkv ? &l->bv : NULL, kv, c->dim);
    add_linear(b, whole(N_O, c->dim), &l->wo, c->bias_o ? &l->bo : NULL, c->dim, q);
    if (c->qk_norm) {
        add_vec(b, N_Q_NORM, "weight", &l->q_norm, c->head_dim);
        b->p->part[b->p->n - 1].is_norm = true;
        add_vec(b, N_K_NORM, "weight", &l->k_norm, c->head_dim);
        b->p->part[b->p->n - 1].is_norm = true;
    }
}

static void add_mlp(struct builder *b, struct layer *l) {
    const struct cfg *c = b->c;
    bool fused = c->gated && b->s->name[N_GATE_UP] && (!b->s->name[N_GATE] || !present(b, N_GATE));
    if (b->gguf && !present(b, N_UP) && !gguf_fuses(b, N_GATE_UP))
        fused = false; /* then gate and up are both reported as missing */
    struct slice gate = whole(N_GATE, c->ffn), up = whole(N_UP, c->ffn);
    if (fused) {
        gate = (struct slice){N_GATE_UP, ROWS_AT, 0, 2 * c->ffn};
        up = (struct slice){N_GATE_UP, ROWS_AT, c->ffn, 2 * c->ffn};
    }
    if (c->gated)
        add_linear(b, gate, &l->gate, c->bias_mlp ? &l->bgate : NULL, c->ffn, c->dim);
    add_linear(b, up, &l->up, c->bias_mlp ? &l->bup : NULL, c->ffn, c->dim);
    add_linear(b, whole(N_DOWN, c->dim), &l->down, c->bias_mlp ? &l->bdown : NULL, c->dim, c->ffn);
}

#define PARTS_PER_LAYER 20 /* seven matrices, seven biases, six norms */
#define PARTS_PER_MODEL 6

void plan_build(struct plan *p, struct model *m, const struct tensors *ts, bool gguf) {
    const struct cfg *c = &m->cfg;
    struct builder b = {p, c, scheme_of(c, gguf), ts, "", gguf, -1};
    bool bare = present(&b, N_EMBED); /* files of a model saved without its head have no prefix */
    *p = (struct plan){0};
    p->part = mem_array((size_t)c->n_layer * PARTS_PER_LAYER + PARTS_PER_MODEL, sizeof *p->part);
    b.prefix = bare ? "" : b.s->prefix;
    add(&b, N_EMBED, "weight", c->vocab, c->dim)->mat = &m->embed;
    if (c->learned_pos) {
        struct part *pos = add(&b, N_POS, "weight", c->max_ctx, c->dim);
        pos->mat = &m->pos;
        pos->f32 = true;
    }
    if (!c->tied)
        add(&b, N_HEAD, "weight", c->vocab, c->dim)->mat = &m->head;
    if (c->bias_head)
        add_vec(&b, N_HEAD, "bias", &m->head_bias, c->vocab);
    add_norm(&b, N_NORM, &m->norm, &m->norm_b);
    for (int i = 0; i < c->n_layer; i++) {
        struct layer *l = &m->layer[i];
        b.layer = i;
        add_norm(&b, N_NORM1, &l->norm1, &l->norm1_b);
        add_attention(&b, l);
        if (!c->shared_norm)
            add_norm(&b, N_NORM2, &l->norm2, &l->norm2_b);
        add_mlp(&b, l);
    }
}

void plan_free(struct plan *p) {
    free(p->part);
    *p = (struct plan){0};
}

int plan_source_row(const struct part *p, int r) {
    int hd = p->head_dim;
    switch (p->order) {
    case ROWS_PER_HEAD:
        return (r / hd * 3 + p->base) * hd + r % hd;
    case ROWS_PAIRED: {
        int half = hd / 2, in_head = r % hd;
        return p->base + r - in_head + 2 * (in_head % half) + in_head / half;
    }
    default:
        return p->base + r;
    }
}

static void print_shape(struct buf *b, const int64_t *shape, int rank) {
    buf_addc(b, '[');
    for (int i = 0; i < rank; i++)
        buf_printf(b, "%s%lld", i ? ", " : "", (long long)shape[i]);
    buf_addc(b, ']');
}

/* Appends what is wrong with the part's tensor to b; false = nothing. */
static bool describe_problem(struct buf *b, const struct part *p) {
    const struct tensor *t = p->t;
    int rank = p->t_cols ? 2 : 1;
    int64_t want[2] = {p->t_rows, p->t_cols};
    if (p->transposed) {
        want[0] = p->t_cols;
        want[1] = p->t_rows;
    }
    if (!t) {
        buf_printf(b, "%s missing", p->name);
        return true;
    }
    if (t->rank != rank || memcmp(t->shape, want, (size_t)rank * sizeof *want) != 0) {
        buf_printf(b, "%s expected ", p->name);
        print_shape(b, want, rank);
        buf_adds(b, ", found ");
        print_shape(b, t->shape, t->rank);
        return true;
    }
    if (t->type == DT_NONE || (rank == 1 && dtype_info(t->type)->block > 1)) {
        buf_printf(b, "%s has type %s", p->name, t->type_name);
        return true;
    }
    return false;
}

#define LIST_ROOM 300 /* bytes of problems that fit in a message beside the path */

int plan_resolve(struct plan *p, const struct tensors *ts, struct err *err) {
    struct buf list = {0};
    int n_bad = 0, n_listed = 0;
    for (int i = 0; i < p->n; i++) {
        struct part *part = &p->part[i];
        part->t = tensors_find(ts, part->name);
        if (part->t && part->t->packed) /* as linear layers have them, also in GPT-2 */
            part->transposed = false;
        /* The slices of a fused tensor share one report. */
        if (part->base > 0)
            continue;
        size_t before = list.len;
        if (n_listed)
            buf_adds(&list, "; ");
        if (!describe_problem(&list, part)) {
            list.len = before;
            continue;
        }
        n_bad++;
        if (list.len > LIST_ROOM && n_listed)
            list.len = before;
        else
            n_listed++;
    }
    if (n_bad && n_listed < n_bad)
        buf_printf(&list, "; and %d more", n_bad - n_listed);
    if (n_bad)
        err_set(err, E_FORMAT, "%s: %d of its tensors do not fit the configuration: %s", ts->path,
                n_bad, buf_str(&list));
    buf_free(&list);
    return n_bad ? -1 : 0;
}

int plan_types(struct plan *p, enum dtype want, struct err *err) {
    p->bytes = 0;
    p->n_fallback = 0;
    for (int i = 0; i < p->n; i++) {
        struct part *part = &p->part[i];
        part->type = DT_F32;
        if (part->mat && !part->f32 && want != DT_NONE)
            part->type = want;
        else if (part->mat && !part->f32 && part->t)
            part->type = part->t->type;
        if (part->cols % dtype_info(part->type)->block) {
            part->type = recipe_fit(part->type, part->cols);
            p->n_fallback++;
        }
        size_t row = dtype_row_bytes(part->type, part->cols), bytes;
        size_t panel = (size_t)dtype_info(part->type)->panel;
        if (!size_mul(row, ((size_t)part->rows + panel - 1) / panel * panel, &bytes) ||
            !size_add(bytes, 63, &bytes) || !size_add(p->bytes, bytes / 64 * 64, &bytes))
            return err_set(err, E_MEMORY, "the weights do not fit in the address space");
        part->at = p->bytes;
        p->bytes = bytes;
    }
    return 0;
}

/* Scatters one part into the buffer of the file's tensor; the inverse of loading.  Element types
 * agree. */
static void unload(const struct part *p, const char *src, char *dst) {
    size_t elem = (size_t)dtype_info(p->type)->bytes, row = elem * (size_t)p->cols;
    for (int r = 0; r < p->rows; r++) {
        size_t at = (size_t)plan_source_row(p, r);
        if (!p->transposed)
            memcpy(dst + at * row, src + (size_t)r * row, row);
        for (int c = 0; c < p->cols && p->transposed; c++)
            memcpy(dst + ((size_t)c * (size_t)p->t_rows + at) * elem,
                   src + (size_t)r * row + (size_t)c * elem, elem);
        if (p->plus_one)
            ((float *)dst)[at] -= 1;
    }
}

/* The part is its tensor, byte for byte. */
static bool as_stored(const struct part *p) {
    return p->rows == p->t_rows && p->order == ROWS_AT && !p->transposed && !p->plus_one;
}

/* The file's tensors of a plan, one for all the slices of a fused tensor.  Data is borrowed from
 * the arena where it lies there as it is written; the rest is put together in buffers that are
 * listed in *made. */
static int collect(const struct plan *p, const void *arena, struct tensor *t, void **made,
                   int *n_made) {
    struct map *seen = map_new((size_t)p->n);
    int n = 0;
    *n_made = 0;
    for (int i = 0; i < p->n; i++) {
        const struct part *q = &p->part[i];
        const char *src = (const char *)arena + q->at;
        int k = map_put(seen, q->name, strlen(q->name), n);
        if (k == n) {
            bool matrix = q->t_cols > 0;
            t[n++] = (struct tensor){.name = q->name, .type = q->type, .rank = matrix ? 2 : 1};
            t[k].shape[0] = q->transposed ? q->t_cols : q->t_rows;
            t[k].shape[1] = q->transposed ? q->t_rows : q->t_cols;
            t[k].bytes = dtype_row_bytes(q->type, matrix ? q->t_cols : 1) * (size_t)q->t_rows;
            t[k].data = as_stored(q) ? src : (made[(*n_made)++] = mem_new(t[k].bytes));
        }
        if (!as_stored(q))
            unload(q, src, (char *)t[k].data);
    }
    map_free(seen);
    return n;
}

int plan_write(const struct plan *p, const void *arena, const char *path, struct err *err) {
    struct tensor *t = mem_array((size_t)p->n, sizeof *t);
    void **made = mem_array((size_t)p->n, sizeof *made);
    int n_made, n = collect(p, arena, t, made, &n_made);
    int rc = safetensors_write(path, t, n, err);
    for (int i = 0; i < n_made; i++)
        free(made[i]);
    free(made);
    free(t);
    return rc;
}
