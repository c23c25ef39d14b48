/* dense.c - see dense.h.
 *
 * oneDNN compiles one primitive per shape, layout and type.  Each thread keeps its own, so only the
 * making of one is locked.  Debian's oneDNN starts an OpenMP team as large as
 * omp_get_max_threads(), a setting of each thread: every thread that comes here sets its own to 1
 * first. */
#include "num/dense.h"

#include <dnnl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "num/kern.h"

#define TILE_M 512 /* with these a thread's operands fit its cache and 16 threads find work */
#define TILE_N 512
#define TILE_K 4096 /* oneDNN takes longer sums at less than half its speed */

/* Held while oneDNN makes a primitive: its cache of compiled code is shared by all threads of the
 * process, and what one thread wrote there another finds. */
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

/* libgomp's; gcc keeps omp.h to itself and clang's is another package. */
extern void omp_set_num_threads(int n);

struct key { /* no padding: hashed as bytes */
    int type, m, n, k, lda, ldb, ldc, flags;
};

struct product {
    struct key key;
    dnnl_primitive_t prim;
    dnnl_memory_t a, b, c, scratch;
};

struct thread {
    struct product **product; /* owned */
    int n, cap;
    struct map *by_key;
    void *scratch; /* 64-byte aligned */
    size_t scratch_bytes;
    dnnl_stream_t stream;
};

struct dense_ctx {
    struct pool *pool;
    dnnl_engine_t engine;
    struct thread *thread; /* one for each of the pool's */
};

/* What can fail here is memory, on the way through a pass that has no way to undo itself. */
static void must(dnnl_status_t s, const char *what) {
    if (s == dnnl_success)
        return;
    log_warn("oneDNN: %s failed with status %d", what, (int)s);
    exit(E_MEMORY);
}

static dnnl_memory_desc_t describe(enum dtype type, int rows, int cols, int ld, bool transposed) {
    dnnl_memory_desc_t md;
    dnnl_dims_t dims = {rows, cols}, strides = {transposed ? 1 : ld, transposed ? ld : 1};
    must(dnnl_memory_desc_init_by_strides(&md, 2, dims, type == DT_BF16 ? dnnl_bf16 : dnnl_f32,
                                          strides),
         "a memory description");
    return md;
}

static dnnl_status_t try_product(dnnl_engine_t engine, const struct dense *j,
                                 dnnl_primitive_desc_t *pd) {
    dnnl_memory_desc_t a = describe(j->type, j->m, j->k, j->a.ld, j->a.t);
    dnnl_memory_desc_t b = describe(j->type, j->k, j->n, j->b.ld, j->b.t);
    dnnl_memory_desc_t c = describe(DT_F32, j->m, j->n, j->ldc, false);
    dnnl_matmul_desc_t md;
    dnnl_primitive_attr_t attr;
    must(dnnl_matmul_desc_init(&md, &a, &b, NULL, &c), "the description of a product");
    must(dnnl_primitive_attr_create(&attr), "an attribute");
    must(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "an attribute");
    if (j->add) {
        dnnl_post_ops_t ops;
        must(dnnl_post_ops_create(&ops), "an attribute");
        must(dnnl_post_ops_append_sum(ops, 1), "an attribute");
        must(dnnl_primitive_attr_set_post_ops(attr, ops), "an attribute");
        dnnl_post_ops_destroy(ops);
    }
    dnnl_status_t s = dnnl_primitive_desc_create(pd, &md, attr, engine, NULL);
    dnnl_primitive_attr_destroy(attr);
    return s;
}

static void reserve_scratch(struct thread *t, size_t bytes) {
    if (bytes <= t->scratch_bytes)
        return;
    free(t->scratch);
    t->scratch_bytes = (bytes + 63) / 64 * 64;
    t->scratch = aligned_alloc(64, t->scratch_bytes);
    must(t->scratch ? dnnl_success : dnnl_out_of_memory, "the scratch of a product");
}

static struct product *new_product(struct dense_ctx *d, struct thread *t, const struct key *key,
                                   const struct dense *j) {
    struct product *p = mem_new(sizeof *p);
    dnnl_primitive_desc_t pd;
    p->key = *key;
    pthread_mutex_lock(&making);
    must(try_product(d->engine, j, &pd), "a product");
    must(dnnl_primitive_create(&p->prim, pd), "a product");
    const dnnl_memory_desc_t *md[] = {
        dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0),
        dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0),
        dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0),
        dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0)};
    dnnl_memory_t *mem[] = {&p->a, &p->b, &p->c, &p->scratch};
    for (int i = 0; i < 4; i++)
        must(dnnl_memory_create(mem[i], md[i], d->engine, DNNL_MEMORY_NONE), "a memory");
    reserve_scratch(t, dnnl_memory_desc_get_size(md[3]));
    dnnl_primitive_desc_destroy(pd);
    pthread_mutex_unlock(&making);
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->product = mem_resize(t->product, (size_t)t->cap, sizeof *t->product);
    }
    t->product[t->n] = p;
    map_put(t->by_key, &p->key, sizeof p->key, t->n++);
    return p;
}

static void free_product(struct product *p) {
    pthread_mutex_lock(&making);
    dnnl_primitive_destroy(p->prim);
    pthread_mutex_unlock(&making);
    dnnl_memory_destroy(p->a);
    dnnl_memory_destroy(p->b);
    dnnl_memory_destroy(p->c);
    dnnl_memory_destroy(p->scratch);
    free(p);
}

struct dense_ctx *dense_new(struct pool *pool, enum dtype type, struct err *err) {
    struct dense_ctx *d = mem_new(sizeof *d);
    const struct dense probe = {
        .type = type, .m = 64, .n = 64, .k = 64, .a = {.ld = 64}, .b = {.ld = 64}, .ldc = 64};
    dnnl_primitive_desc_t pd;
    d->pool = pool;
    d->thread = mem_array((size_t)pool_size(pool), sizeof *d->thread);
    omp_set_num_threads(1);
    if (dnnl_engine_create(&d->engine, dnnl_cpu, 0) != dnnl_success) {
        err_set(err, E_MEMORY, "oneDNN did not start");
        goto fail;
    }
    /* Where BF16 has no kernels there is a reference, hundreds of times slower: not an offer. */
    if ((type != DT_F32 && type != DT_BF16) || (type == DT_BF16 && kern_best() < ISA_AVX512) ||
        try_product(d->engine, &probe, &pd)) {
        err_set(err, E_USAGE, "this processor has no %s products: use f32", dtype_info(type)->name);
        goto fail;
    }
    dnnl_primitive_desc_destroy(pd);
    for (int i = 0; i < pool_size(pool); i++) {
        must(dnnl_stream_create(&d->thread[i].stream, d->engine, dnnl_stream_default_flags),
             "a stream");
        d->thread[i].by_key = map_new(64);
    }
    return d;
fail:
    dense_free(d);
    return NULL;
}

void dense_free(struct dense_ctx *d) {
    if (!d)
        return;
    for (int i = 0; i < pool_size(d->pool); i++) {
        struct thread *t = &d->thread[i];
        for (int k = 0; k < t->n; k++)
            free_product(t->product[k]);
        free(t->product);
        map_free(t->by_key);
        free(t->scratch);
        if (t->stream)
            dnnl_stream_destroy(t->stream);
    }
    if (d->engine)
        dnnl_engine_destroy(d->engine);
    free(d->thread);
    free(d);
}

size_t dense_bytes(const struct dense_ctx *d) {
    size_t sum = 0;
    for (int i = 0; i < pool_size(d->pool); i++)
        sum += d->thread[i].scratch_bytes;
    return sum;
}

/* The operand from its row (or, transposed, column) `at` on. */
static struct dense_in from(struct dense_in in, enum dtype type, int at, bool column) {
    size_t step = column == in.t ? (size_t)in.ld : 1;
    in.p = (const char *)in.p + (size_t)at * step * dtype_row_bytes(type, 1);
    return in;
}

static void multiply(struct dense_ctx *d, int id, const struct dense *j) {
    static _Thread_local bool alone; /* this thread's OpenMP team is itself */
    struct thread *t = &d->thread[id];
    const struct key key = {(int)j->type, j->m,    j->n,   j->k,
                            j->a.ld,      j->b.ld, j->ldc, j->a.t | j->b.t << 1 | j->add << 2};
    if (!alone)
        omp_set_num_threads(1);
    alone = true;
    if (j->m < 1 || j->n < 1 || j->k < 1)
        return;
    int at = map_get(t->by_key, &key, sizeof key);
    struct product *p = at < 0 ? new_product(d, t, &key, j) : t->product[at];
    dnnl_memory_set_data_handle(p->a, (void *)j->a.p);
    dnnl_memory_set_data_handle(p->b, (void *)j->b.p);
    dnnl_memory_set_data_handle(p->c, j->c);
    dnnl_memory_set_data_handle(p->scratch, t->scratch);
    const dnnl_exec_arg_t arg[] = {{DNNL_ARG_SRC, p->a},
                                   {DNNL_ARG_WEIGHTS, p->b},
                                   {DNNL_ARG_DST, p->c},
                                   {DNNL_ARG_SCRATCHPAD, p->scratch}};
    must(dnnl_primitive_execute(p->prim, t->stream, 4, arg), "a product");
}

void dense_one(struct dense_ctx *d, int id, const struct dense *j) {
    for (int at = 0; at < j->k; at += TILE_K) {
        struct dense part = *j;
        part.k = j->k - at < TILE_K ? j->k - at : TILE_K;
        part.a = from(j->a, j->type, at, true);
        part.b = from(j->b, j->type, at, false);
        part.add = j->add || at > 0;
        multiply(d, id, &part);
    }
    for (int i = 0; j->bias && i < j->m; i++)
        kern.add(j->c + (size_t)i * (size_t)j->ldc, j->bias, j->n);
}

/* Which thread takes a tile is left to the moment, so that one that is held up holds up no other;
 * a tile's bits do not depend on it. */
struct tiles {
    struct dense_ctx *d;
    const struct dense *j;
    atomic_int next;
};

static void run_tiles(void *arg, int id, int n) {
    struct tiles *t = arg;
    const struct dense *j = t->j;
    int down = (j->m + TILE_M - 1) / TILE_M, across = (j->n + TILE_N - 1) / TILE_N;
    (void)n;
    for (int i; (i = atomic_fetch_add(&t->next, 1)) < down * across;) {
        int row = i % down * TILE_M, col = i / down * TILE_N;
        struct dense part = *j;
        part.m = j->m - row < TILE_M ? j->m - row : TILE_M;
        part.n = j->n - col < TILE_N ? j->n - col : TILE_N;
        part.a = from(j->a, j->type, row, false);
        part.b = from(j->b, j->type, col, true);
        part.c = j->c + (size_t)row * (size_t)j->ldc + col;
        part.bias = j->bias ? j->bias + col : NULL;
        dense_one(t->d, id, &part);
    }
}

void dense(struct dense_ctx *d, const struct dense *j) {
    pool_run(d->pool, run_tiles, &(struct tiles){d, j, 0});
}
