/* plan.h - private to model/: which tensor of a file fills which array of a model, and in what
 * order.
 * One list serves reading (weights.c), random models, and writing a Hugging Face folder. */
#ifndef MODEL_PLAN_H
#define MODEL_PLAN_H

#include "model/model.h"

/* How a matrix's rows lie in the file's tensor. */
enum row_order {
    ROWS_AT,       /* row r is row base + r: whole tensors, slices of [q; k; v] and [gate; up] */
    ROWS_PER_HEAD, /* GPT-NeoX: (head, which of q k v = base, head_dim) */
    ROWS_PAIRED,   /* GGUF Llama q, k: rotary partners adjacent; ours are half a head apart */
};

/* One destination array.  A vector of n is seen as (n, 1). */
struct part {
    struct mat *mat; /* exactly one of mat and vec is set; both borrowed from the model */
    const float **vec;
    int rows, cols;
    enum dtype type;        /* of the destination: set by plan_types */
    bool f32;               /* a matrix that is kept in F32 whatever was asked for */
    size_t at;              /* byte offset in the arena: set by plan_types */
    char name[128];         /* the tensor in the file */
    const struct tensor *t; /* set by plan_resolve */
    int t_rows, t_cols;     /* the tensor's whole shape as rows of weights; cols 0 = vector */
    bool transposed;        /* the file has (cols, rows) (GPT-2's Conv1D) */
    enum row_order order;
    int base, head_dim;
    bool is_norm;  /* a norm's weight: 1 in a random model */
    bool plus_one; /* the file has w - 1 */
};

struct plan {
    struct part *part; /* owned */
    int n;
    size_t bytes;   /* of the arena */
    int n_fallback; /* matrices whose columns do not fill the blocks of the type asked for */
};

/* Lists m->cfg's arrays; m->layer must be allocated.  ts may be NULL (nothing to read: HF
 * names). */
void plan_build(struct plan *p, struct model *m, const struct tensors *ts, bool gguf);
void plan_free(struct plan *p);

/* Finds every tensor; missing ones, wrong shapes and wrong types are collected into one
 * E_FORMAT. */
int plan_resolve(struct plan *p, const struct tensors *ts, struct err *err);

/* Chooses the type of each array and lays them out, 64-byte aligned.  DT_NONE keeps a resolved
 * tensor's type. */
int plan_types(struct plan *p, enum dtype want, struct err *err);

/* Writes an arena that is laid out by the plan as one .safetensors file, atomically: slices are
 * fused, rows put in the file's order, and 1 is taken from the norms that are plus_one.  F32, F16
 * or BF16; the arena has rows, not panels. */
int plan_write(const struct plan *p, const void *arena, const char *path, struct err *err);

/* Which row of the file's tensor is row r of the part. */
int plan_source_row(const struct part *p, int r);

#endif
