/* source.h - private to model/: a model file that is open for reading, and its rows as the parts of
 * a plan see them. */
#ifndef MODEL_SOURCE_H
#define MODEL_SOURCE_H

#include "model/gguf.h"
#include "model/plan.h"

/* A Hugging Face folder or a GGUF file.  All owned but path. */
struct source {
    const char *path; /* borrowed */
    struct gguf *gguf;
    struct tensors own, *ts; /* ts = &own for a folder */
    struct cfg cfg;
    float temp, top_p; /* of generation_config.json; negative = not given */
    int top_k;
};

/* Configuration and tensor table, checked; no tensor's data is touched. */
int source_open(struct source *s, const char *path, struct err *err);
void source_close(struct source *s);

/* *tok stays NULL where the source has none.  Every piece must have an embedding. */
int source_tok(const struct source *s, struct tok **tok, struct err *err);

#define SOURCE_ROWS 16 /* rows of a transposed matrix read together: a cache line of F32 */

/* Row r of a part as stored, of type p->t->type; in the file, or put together in `raw` (room for a
 * row of F32), where it is aligned.  Not of a transposed part. */
const void *source_row(const struct part *p, int r, void *raw);

/* n <= SOURCE_ROWS rows from r on, as floats, p->cols each.  `raw` as above. */
void source_floats(const struct part *p, int r, int n, float *f, void *raw);

/* A vector of p->rows floats; 1 is added where the file has w - 1. */
void source_vec(const struct part *p, float *dst);

#endif
