/* prompt.c - what a request wants to know of its prompt's own tokens: their log-probabilities, and
 * the mean of their hidden states.
 *
 * Both are made of rows that only a computed token has, so nothing is taken from the cache, and a
 * preempted prompt is computed again from its beginning.  Invariant: rows are added up one by one
 * in the order of tokens, so neither chunks nor company change a bit.  Tested in
 * test/unit/engine.c. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/pool.h"
#include "engine/impl.h"

bool prompt_whole(const struct job *j) {
    return j->r.no_cache || prompt_hidden(j);
}

bool prompt_hidden(const struct job *j) {
    return j->sum || (j->r.prompt_logprobs && j->n_told < j->use.n_prompt);
}

int prompt_room(struct engine *e, struct job *j, struct err *err) {
    j->r.prompt_logprobs = j->r.prompt_logprobs && j->r.n_logprobs > 0;
    if (j->r.prompt_logprobs && !e->head) {
        e->head_bytes = HEAD_ROWS * (size_t)e->m->cfg.vocab * sizeof *e->head;
        if (!(e->head = mem_pages(e->head_bytes, "logits", err)))
            return -1;
    }
    if (j->r.pooled) {
        j->r.max_new = 0;
        j->sum = mem_array((size_t)e->m->cfg.dim, sizeof *j->sum);
    }
    return 0;
}

/* Rows of logits, and of each what the token behind it is worth. */
struct scores {
    const struct engine *e;
    int n, n_top;
    const int32_t *id; /* (n) of the tokens behind them */
    float logprob[HEAD_ROWS];
    struct logprob top[HEAD_ROWS][MOST_TOP];
};

static void score(void *arg, int id, int n) {
    struct scores *s = arg;
    int vocab = s->e->m->cfg.vocab, lo, hi;
    pool_split(s->n, 1, id, n, &lo, &hi);
    for (int i = lo; i < hi; i++)
        s->logprob[i] =
            logprobs(s->e->head + (size_t)i * (size_t)vocab, vocab, s->id[i], s->top[i], s->n_top);
}

static void tell(struct engine *e, struct job *j, float logprob, const struct logprob *top) {
    struct token t = {
        .id = j->ids.id[j->n_told++], .prompt = true, .text = "", .logprob = logprob, .top = top};
    if (j->r.on_token && !j->r.on_token(j->r.ud, &t))
        j->cancelled = e->any_cancelled = true;
}

/* Row `row + k` decides the token behind the k-th that was computed. */
static void tell_rows(struct engine *e, struct job *j, int row, int n) {
    static const struct logprob none[MOST_TOP];
    struct scores s = {.e = e, .n_top = j->r.n_logprobs};
    int end = j->n_kv + n < j->use.n_prompt ? n : j->use.n_prompt - j->n_kv - 1;
    if (!j->n_told)
        tell(e, j, NAN, none);
    for (int k = j->n_told - j->n_kv - 1; k < end; k += HEAD_ROWS) {
        s.n = end - k < HEAD_ROWS ? end - k : HEAD_ROWS;
        s.id = j->ids.id + j->n_kv + k + 1;
        run_head(e->run, row + k, s.n, e->head);
        pool_run(e->pool, score, &s);
        for (int i = 0; i < s.n; i++)
            tell(e, j, s.logprob[i], s.top[i]);
    }
}

void prompt_rows(struct engine *e, struct job *j, int row, int n) {
    int dim = e->m->cfg.dim;
    const float *h = run_hidden(e->run) + (size_t)row * (size_t)dim;
    for (int k = 0; j->sum && k < n; k++, h += dim)
        for (int d = 0; d < dim; d++)
            j->sum[d] += (double)h[d];
    if (j->r.prompt_logprobs)
        tell_rows(e, j, row, n);
}

void prompt_again(const struct engine *e, struct job *j) {
    if (j->sum)
        memset(j->sum, 0, (size_t)e->m->cfg.dim * sizeof *j->sum);
}

void prompt_end(const struct engine *e, struct job *j) {
    for (int d = 0; j->sum && d < e->m->cfg.dim; d++)
        j->r.pooled[d] = (float)(j->sum[d] / j->use.n_prompt);
}
