/* tensors.h - the named arrays of a model file, whatever the format: a validated table over
 * mapped bytes. */
#ifndef MODEL_TENSORS_H
#define MODEL_TENSORS_H

#include <stdint.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/map.h"
#include "num/mat.h"
#include "tok/tok.h"

#define TENSOR_MAX_RANK 8

struct tensor {
    const char *name;        /* borrowed until tensors_close */
    enum dtype type;         /* DT_NONE: a type we can size but not compute with (I64, BOOL, ...) */
    const char *type_name;   /* as the file spells it */
    int rank;
    int64_t shape[TENSOR_MAX_RANK]; /* outermost first (GGUF's order is reversed on reading) */
    const void *data;        /* borrowed until tensors_close; any alignment */
    size_t bytes;
    const struct packed *packed; /* NULL, or how rows are made (packed.h); then data is too */
};

struct tensors {
    struct tensor *t;
    int n;
    struct map *by_name;
    char *path;              /* folder or file, for messages */
    /* owned sources */
    struct file *file;
    int n_file;
    char *names;             /* arena of the names */
    struct packed *packed;   /* what tensors point to */
};

/* Hugging Face folder: model.safetensors, or model.safetensors.index.json and its shards. */
int safetensors_open_dir(struct tensors *ts, const char *dir, struct err *err);
/* One .safetensors file. Every rule of docs/formats.md is checked before anything is allocated
 * from a length in the file. */
int safetensors_open(struct tensors *ts, const char *path, struct err *err);
/* The same from memory: data is borrowed until tensors_close, path only names it in errors. */
int safetensors_parse(struct tensors *ts, const char *path, const void *data, size_t size,
                      struct err *err);
void tensors_close(struct tensors *ts); /* accepts zeroed */
const struct tensor *tensors_find(const struct tensors *ts, const char *name); /* or NULL */

/* Writes one .safetensors file atomically; n tensors in the order given (name, type, rank,
 * shape, data and bytes are read; F32, F16 and BF16, or DT_NONE and type_name). */
struct out;
/* Only what comes before the data; that of the tensors follows, in their order, without gaps. */
int safetensors_header(struct out *o, const struct tensor *t, int n, struct err *err);
int safetensors_write(const char *path, const struct tensor *t, int n, struct err *err);

#endif
