/* bench_kv.c - `bench kv`: what memory that grows with its sequences costs and saves, beside memory
 * for every sequence's whole context.  See docs/method/vattention.md.
 *
 * Layouts are timed in turns, layer by layer, in an order that rotates, by the time that the thread
 * itself ran: what else the machine does meets all of them.  A ratio is the median of the rounds'
 * own ratios. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "cmd/probe.h"
#include "method/vattention.h"
#include "model/kv.h"
#include "num/attend.h"
#include "num/kern.h"

#define MAX_REPEAT 99
#define N_GROUP 32   /* groups that are mapped one by one  */
#define N_CHURN 2000 /* sequences that use slots again     */
#define N_SLOT 2     /* sequences that attention goes over */

enum layout { FLAT, SMALL, LARGE, N_LAYOUT }; /* virtual in pages of 4 KiB; in huge pages */
static const char *const layout_name[] = {"flat", "virtual", "virtual-huge"};

struct bench {
    const char *shape, *kv_dtype;
    int depth, n_seq, n_tok, n_ctx, repeat;
    bool json, help;
    struct cfg cfg;
    enum dtype type;
    json_t *rows;
};

static void add_row(struct bench *b, json_t *row) {
    json_array_append_new(b->rows, row);
    if (b->json)
        return;
    const char *key;
    json_t *v;
    json_object_foreach(row, key, v) {
        if (json_is_string(v))
            printf("%s%s", strcmp(key, "test") ? " " : "", json_string_value(v));
        else if (json_is_real(v))
            printf("  %s %.3g", key, json_real_value(v));
        else
            printf("  %s %lld", key, (long long)json_integer_value(v));
    }
    printf("\n");
    fflush(stdout);
}

static struct kv *open_kv(const struct bench *b, int n_slot, int n_ctx, enum layout layout,
                          struct err *err) {
    return kv_open_as(&b->cfg,
                      &(struct kv_opts){.layout = layout == FLAT ? KV_FLAT : KV_VIRTUAL,
                                        .n_slot = n_slot,
                                        .n_ctx = n_ctx,
                                        .type = b->type,
                                        .ahead = layout == LARGE ? 1 << 20 : -1},
                      err);
}

/* Gives the thread that makes huge pages time for all groups; how many it has made. */
static int wait_for_huge(const struct kv *kv) {
    struct kv_stats s = {0};
    for (int i = 0; i < 1500; i++) {
        kv_stats(kv, &s);
        if (s.huge >= s.groups)
            break;
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    return s.huge;
}

static double thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* -- mapping ----------------------------------------------------------------------------------- */

/* Microseconds for each group that a slot grows by, group by group. */
static double grow_us(struct vatt *v, int slot) {
    double us[N_GROUP];
    for (int i = 0; i < N_GROUP; i++) {
        double t0 = thread_seconds();
        if (vatt_ensure(v, slot, i, i + 1))
            return NAN;
        us[i] = (thread_seconds() - t0) * 1e6;
    }
    return median(us, N_GROUP);
}

/* Sequences of 1-8 groups, four at a time in eight slots: microseconds for each of them, with what
 * it takes to find, grow and release a slot; *mapped: groups that had to be mapped for one. */
static int reuse(struct bench *b, size_t group, struct err *err) {
    struct vatt *v =
        vatt_open(&(struct vatt_opts){.group = group, .n_slot = 8, .span = 8, .pool = 40}, err);
    struct vatt_stats before = {0}, after;
    struct rng r;
    int slot[4];
    double t0 = 0;
    if (!v)
        return -1;
    rng_seed(&r, 1);
    for (int i = -200; i < N_CHURN; i++) {
        int n = 1 + (int)rng_below(&r, 8), k = (i + 200) % 4;
        if (i == 0) { /* slots and groups have been used by now */
            vatt_stats(v, &before);
            t0 = thread_seconds();
        }
        if (i >= -196)
            vatt_release(v, slot[k]);
        slot[k] = vatt_pick(v, n);
        if (slot[k] < 0 || vatt_ensure(v, slot[k], 0, n)) {
            vatt_close(v);
            return err_set(err, E_MEMORY, "bench kv: no memory for 40 x %zu bytes", group);
        }
    }
    double us = (thread_seconds() - t0) * 1e6 / N_CHURN;
    vatt_stats(v, &after);
    add_row(b, json_pack("{s:s,s:I,s:i,s:f,s:f}", "test", "reuse", "group_bytes", (json_int_t)group,
                         "sequences", N_CHURN, "us_per_sequence", us, "groups_mapped_per_sequence",
                         (double)(after.mapped - before.mapped) / N_CHURN));
    vatt_close(v);
    return 0;
}

static int map_costs(struct bench *b, size_t group, struct err *err) {
    for (int huge = 0; huge < 2; huge++) {
        struct vatt *v = vatt_open(&(struct vatt_opts){.group = group,
                                                       .n_slot = 2,
                                                       .span = N_GROUP,
                                                       .pool = N_GROUP,
                                                       .ahead = huge ? N_GROUP : 0},
                                   err);
        struct vatt_stats s = {0};
        if (!v)
            return -1;
        for (int i = 0; huge && i < 1500 && s.warm < N_GROUP; i++) {
            nanosleep(&(struct timespec){0, 10000000}, NULL);
            vatt_stats(v, &s);
        }
        int a = vatt_pick(v, 0);
        double first = grow_us(v, a);
        vatt_release(v, a);
        double again = grow_us(v, vatt_pick(v, 0)); /* each taken from the released slot */
        vatt_stats(v, &s);
        add_row(b, json_pack("{s:s,s:s,s:I,s:i,s:f,s:f}", "test", "map", "pages",
                             huge ? "ahead" : "on demand", "group_bytes", (json_int_t)group,
                             "huge_groups", s.huge, "first_us", first, "from_released_us", again));
        vatt_close(v);
    }
    return 0;
}

/* -- memory ------------------------------------------------------------------------------------ */

/* What sequences of a random length up to 2 n_tok, n_tok in the mean, hold. */
static int memory(struct bench *b, size_t *group, struct err *err) {
    struct kv_stats s;
    struct rng r;
    struct kv *kv = open_kv(b, b->n_seq, b->n_ctx, SMALL, err);
    if (!kv)
        return -1;
    rng_seed(&r, 1);
    for (int i = 0; i < b->n_seq; i++) {
        int n = 1 + (int)rng_below(&r, (uint32_t)(2 * b->n_tok));
        kv_pick(kv, n);
        if (kv_ensure(kv, i, n < b->n_ctx ? n : b->n_ctx)) {
            kv_close(kv);
            return err_set(err, E_MEMORY, "bench kv: the pool does not hold %d sequences",
                           b->n_seq);
        }
    }
    kv_stats(kv, &s);
    *group = s.group_bytes;
    add_row(b, json_pack("{s:s,s:s,s:i,s:i,s:i,s:I,s:I,s:I,s:f,s:f,s:i,s:I,s:I}", "test", "memory",
                         "layout", s.layout == KV_FLAT ? "flat" : "virtual", "sequences", b->n_seq,
                         "mean_tokens", b->n_tok, "context", b->n_ctx, "live_bytes",
                         (json_int_t)s.live_bytes, "held_bytes", (json_int_t)s.held_bytes,
                         "static_bytes", (json_int_t)s.static_bytes, "held_of_static",
                         (double)s.held_bytes / (double)s.static_bytes, "held_of_live",
                         (double)s.held_bytes / (double)s.live_bytes, "group_tokens",
                         s.group_tokens, "group_bytes", (json_int_t)s.group_bytes, "pad_bytes",
                         (json_int_t)s.pad_bytes));
    kv_close(kv);
    return 0;
}

/* -- attention --------------------------------------------------------------------------------- */

struct rig {
    const struct bench *b;
    struct kv *kv[N_LAYOUT];
    int huge;
    float *q, *out;
    void *tmp;
};

/* Keys and values that are small numbers of every type. */
static int fill(struct kv *kv, int depth) {
    struct kv_stats s;
    kv_stats(kv, &s);
    size_t used = s.group_bytes - s.pad_bytes;
    for (int i = 0; i < N_SLOT; i++) {
        int slot = kv_pick(kv, depth);
        if (slot < 0 || kv_ensure(kv, slot, depth))
            return -1;
        char *base = kv_view(kv, slot, 0).k;
        for (int at = 0; at < depth; at += s.group_tokens)
            memset(base + (size_t)(at / s.group_tokens) * s.group_bytes, 0x3c, used);
    }
    return 0;
}

/* Seconds for what one token reads in one layer. */
static double one_layer(const struct rig *r, const struct kv *kv, int slot, int layer) {
    const struct cfg *c = &r->b->cfg;
    int group = c->n_head / c->n_kv_head;
    double t0 = thread_seconds();
    struct kv_view v = kv_view(kv, slot, layer);
    for (int g = 0; g < c->n_kv_head; g++)
        attend_tile(&(struct attend_tile){.type = v.type,
                                          .c = c->head_dim,
                                          .group = group,
                                          .pos = r->b->depth - 1,
                                          .n = 1,
                                          .q = r->q,
                                          .out = r->out,
                                          .ld = (size_t)(group * c->head_dim),
                                          .k = v.k + (size_t)g * v.head,
                                          .v = v.v + (size_t)g * v.head,
                                          .at = v.at,
                                          .tmp = r->tmp});
    return thread_seconds() - t0;
}

static void time_layouts(struct bench *b, struct rig *r) {
    double rate[N_LAYOUT][MAX_REPEAT], ratio[N_LAYOUT][MAX_REPEAT];
    double bytes = (double)b->depth * N_SLOT * (double)kv_token_bytes(&b->cfg, b->type);
    int n = N_SLOT * b->cfg.n_layer;
    for (int i = -1; i < b->repeat; i++) { /* a first round to warm up */
        double t[N_LAYOUT] = {0};
        for (int k = 0; k < n * N_LAYOUT; k++) {
            int at = k / N_LAYOUT, layout = (k + at + i + 1) % N_LAYOUT;
            t[layout] += one_layer(r, r->kv[layout], at % N_SLOT, at / N_SLOT);
        }
        for (int k = 0; i >= 0 && k < N_LAYOUT; k++) {
            rate[k][i] = bytes / t[k] / 1e9;
            ratio[k][i] = t[FLAT] / t[k];
        }
    }
    for (int k = 0; k < N_LAYOUT; k++)
        add_row(b, json_pack("{s:s,s:s,s:s,s:i,s:i,s:f,s:f,s:i}", "test", "attend", "layout",
                             layout_name[k], "kv_dtype", dtype_info(b->type)->name, "depth",
                             b->depth, "huge_groups", k == LARGE ? r->huge : 0, "gb_per_s",
                             median(rate[k], b->repeat), "of_flat", median(ratio[k], b->repeat),
                             "repeat", b->repeat));
}

static int attention(struct bench *b, struct err *err) {
    const struct cfg *c = &b->cfg;
    size_t n = (size_t)c->n_head * (size_t)c->head_dim;
    struct rig r = {.b = b, .q = mem_array(n, sizeof(float)), .out = mem_array(n, sizeof(float))};
    int rc = -1;
    r.tmp = mem_new(attend_tmp(c->n_head / c->n_kv_head, c->head_dim));
    for (size_t i = 0; i < n; i++)
        r.q[i] = 0.01f * (float)(i % 7);
    for (int k = 0; k < N_LAYOUT; k++) {
        if (!(r.kv[k] = open_kv(b, N_SLOT, b->depth, (enum layout)k, err)))
            goto out;
        if (fill(r.kv[k], b->depth)) {
            err_set(err, E_MEMORY, "bench kv: no memory for %d x %d tokens", N_SLOT, b->depth);
            goto out;
        }
    }
    r.huge = wait_for_huge(r.kv[LARGE]);
    time_layouts(b, &r);
    rc = 0;
out:
    for (int k = 0; k < N_LAYOUT; k++)
        kv_close(r.kv[k]);
    free(r.q);
    free(r.out);
    free(r.tmp);
    return rc;
}

static int measure(struct bench *b, struct err *err) {
    size_t group = 0;
    b->type = kv_parse(b->kv_dtype);
    if (b->type == DT_NONE)
        return err_set(err, E_USAGE, "--kv-dtype: '%s' is not f32, f16, bf16 or int8", b->kv_dtype);
    if (cfg_shape(&b->cfg, b->shape, err))
        return -1;
    b->rows = json_array();
    int rc = memory(b, &group, err) || map_costs(b, group, err) || reuse(b, group, err) ||
                     attention(b, err)
                 ? -1
                 : 0;
    if (!rc && b->json)
        rc = cmd_print_json(json_pack("{s:o,s:s,s:O}", "machine", bench_machine(), "shape",
                                      b->shape, "rows", b->rows),
                            true, err);
    json_decref(b->rows);
    return rc;
}

int cmd_bench_kv(int argc, char **argv) {
    struct err err = {0};
    struct bench b = {.shape = "168m",
                      .kv_dtype = "bf16",
                      .depth = 4096,
                      .n_seq = 16,
                      .n_tok = 320,
                      .n_ctx = 4096,
                      .repeat = 15};
    int rest;
    const struct opt table[] = {{"shape", 0, NULL, OPT_STR, &b.shape, .arg = "NAME",
                                 .help = "tiny, 168m, llama-1b, gpt2, qwen-0.5b (default 168m)"},
                                {"kv-dtype", 0, "ctk", OPT_STR, &b.kv_dtype, .arg = "TYPE",
                                 .help = "f32, f16, bf16, int8 (default bf16)"},
                                {"depth", 'd', NULL, OPT_INT, &b.depth, 1, 1 << 20, "N",
                                 "tokens that attention goes over (default 4096)"},
                                {"parallel", 0, "np", OPT_INT, &b.n_seq, 1, 1024, "N",
                                 "sequences whose memory is compared (default 16)"},
                                {"tokens", 'T', NULL, OPT_INT, &b.n_tok, 1, 1 << 20, "N",
                                 "their tokens in the mean (default 320)"},
                                {"ctx-size", 'c', NULL, OPT_INT, &b.n_ctx, 1, 1 << 20, "N",
                                 "tokens that each might have (default 4096)"},
                                {"repetitions", 'r', NULL, OPT_INT, &b.repeat, 1, MAX_REPEAT, "N",
                                 "rounds of attention; medians are printed (default 15)"},
                                OPTS_JSON(&b.json),
                                OPTS_HELP(&b.help),
                                OPTS_END};
    const struct cmd_help help = {
        "bench kv [options]",
        "Memory of keys and values: held against reserved, cost of a group, speed of attention.",
        &b.help};
    if (cmd_parse(&help, table, argc, argv, &rest, &err) || b.help)
        return cmd_fail(&err);
    if (!cmd_no_more(argc, argv, rest, &err))
        measure(&b, &err);
    return cmd_fail(&err);
}
