/* convert.h - private to model/: the tensors of one layout as those of another, streamed.
 *
 * The plan of the file that is read and that of the file to be written list the same arrays in the
 * same order; so row r of a target's tensor is some row of the same array's part, wherever the
 * two layouts have it (fused, transposed, paired for rotation). */
#ifndef MODEL_CONVERT_H
#define MODEL_CONVERT_H

#include "model/source.h"

struct target { /* one tensor to be written */
    struct tensor t;     /* without data; of INT8 and INT4 the matrix, see packed.h   */
    int rows, cols;      /* as the kernels read it; cols 0: a vector                  */
    int part[3], n_part; /* the plans' parts that make it: at most q, k and v         */
    bool transposed;     /* written as (cols, rows), unless it is INT8 or INT4        */
    const float *made;   /* a vector that is in no plan; owned by the conversion      */
};

struct conversion {
    struct source from;
    struct cfg cfg;       /* of the target */
    bool gguf;            /* the target is */
    struct plan in, out;  /* of the source and of the target, part by part the same arrays */
    struct target *target;
    int n_target;
    struct model *m_in, *m_out; /* what the plans point into: no weights */
    float *made;
    struct pool *pool;
};

/* Opens `path` and lists the target's tensors, types not yet chosen.  From GGUF to GGUF they are
 * those of the file, whatever they are; else those that a model of this configuration has. */
int conversion_open(struct conversion *c, const char *path, bool gguf, struct err *err);
void conversion_close(struct conversion *c); /* accepts zeroed */
void target_set_type(struct target *t, enum dtype type);

/* Where a tensor's bytes go: all of them, in order. */
struct sink {
    int (*write)(void *ud, const void *p, size_t n, struct err *err);
    void *ud;
};
/* The bytes of one target; those of INT8 and INT4 as integers, then scales, then the shape. */
int target_write(struct conversion *c, const struct target *t, const struct sink *s,
                 struct err *err);

#endif
