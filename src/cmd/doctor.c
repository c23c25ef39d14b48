/* doctor.c - `doctor`: what pumice finds on this machine, and whether a model's numbers are
 * numbers. */
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "model/gguf.h"
#include "model/tensors.h"
#include "num/kern.h"
#include "num/quant.h"

struct report {
    bool json;
    json_t *checks;
    int n_bad;
};

/* One finding: what it is, what was found, and advice (NULL = fine as it is). */
static void found(struct report *r, const char *what, const char *value, const char *advice) {
    r->n_bad += advice != NULL;
    json_array_append_new(r->checks, json_pack("{s:s,s:s,s:b,s:s?}", "check", what, "found", value,
                                               "ok", advice == NULL, "advice", advice));
    if (!r->json)
        printf("%-7s %-16s %s%s%s\n", advice ? "advice" : "ok", what, value, advice ? "; " : "",
               advice ? advice : "");
}

/* First line of a small file without its newline, or "" if it cannot be read. */
static void first_line(const char *path, char *out, size_t n) {
    FILE *f = fopen(path, "r");
    out[0] = 0;
    if (!f)
        return;
    if (fgets(out, (int)n, f))
        out[strcspn(out, "\n")] = 0;
    fclose(f);
}

static void check_processor(struct report *r) {
    char text[256];
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    snprintf(text, sizeof text, "%d usable", CPU_COUNT(&set));
    found(r, "processors", text, NULL);
    size_t at = 0;
    for (enum isa i = ISA_REF; i < ISA_COUNT; i++)
        if (kern_has(i))
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", i ? " " : "", isa_name(i));
    snprintf(text + at, sizeof text - at, " (in use: %s)", isa_name(kern_level()));
    const char *advice = NULL;
    if (kern_level() < kern_best())
        advice = "PUMICE_ISA forces slower kernels";
    else if (kern_best() == ISA_REF)
        advice = "no AVX2: only the plain C kernels run, expect a tenth of the speed";
    found(r, "kernels", text, advice);
}

static void check_memory(struct report *r) {
    char text[128], thp[128];
    snprintf(text, sizeof text, "%.1f GiB available", (double)mem_available() / (1 << 30));
    found(r, "memory", text, mem_available() < (size_t)1 << 30 ? "less than 1 GiB is free" : NULL);
    first_line("/sys/kernel/mm/transparent_hugepage/enabled", thp, sizeof thp);
    bool off = strstr(thp, "[never]") || !thp[0];
    found(r, "huge pages", thp[0] ? thp : "not reported",
          off ? "set transparent_hugepage to madvise: decoding reads weights faster" : NULL);
    struct rlimit lim = {0};
    getrlimit(RLIMIT_AS, &lim);
    if (lim.rlim_cur != RLIM_INFINITY) {
        snprintf(text, sizeof text, "limited to %.1f GiB", (double)lim.rlim_cur / (1 << 30));
        found(r, "address space", text, "ulimit -v bounds what a model may map");
    }
}

static void check_system(struct report *r) {
    struct utsname u = {0};
    char text[256];
    uname(&u);
    snprintf(text, sizeof text, "%s %s %s", u.sysname, u.release, u.machine);
    found(r, "system", text, NULL);
}

/* -- a model's weights ------------------------------------------------------------------------- */

struct census {
    int64_t nan, inf, n;
};

static void count_values(const struct tensor *t, struct census *c) {
    const struct dtype_info *d = dtype_info(t->type);
    enum { BLOCKS = 64 };
    float value[BLOCKS * 256];
    char block[BLOCKS * 256 *
               sizeof(float)]; /* an aligned copy: data in a file may stand anywhere */
    size_t n_block = t->bytes / (size_t)d->bytes;
    for (size_t at = 0; at < n_block; at += BLOCKS) {
        size_t n = n_block - at < BLOCKS ? n_block - at : BLOCKS;
        memcpy(block, (const char *)t->data + at * (size_t)d->bytes, n * (size_t)d->bytes);
        row_to_f32(t->type, block, value, (int)n * d->block);
        for (size_t i = 0; i < n * (size_t)d->block; i++) {
            c->nan += isnan(value[i]) != 0;
            c->inf += isinf(value[i]) != 0;
        }
        c->n += (int64_t)n * d->block;
    }
}

static int check_weights(struct report *r, const char *path, struct err *err) {
    struct tensors dir = {0}, *ts = &dir;
    struct gguf *g = NULL;
    if (file_is_dir(path) ? safetensors_open_dir(&dir, path, err) : !(g = gguf_open(path, err)))
        return -1;
    if (g)
        ts = gguf_tensors(g);
    struct census all = {0};
    for (int i = 0; i < ts->n; i++) {
        struct census c = {0};
        if (ts->t[i].type != DT_NONE)
            count_values(&ts->t[i], &c);
        if (c.nan || c.inf) {
            char text[256];
            snprintf(text, sizeof text, "%.120s: %lld NaN, %lld infinite of %lld", ts->t[i].name,
                     (long long)c.nan, (long long)c.inf, (long long)c.n);
            found(r, "tensor", text, "the model's answers will be broken");
        }
        all.nan += c.nan;
        all.inf += c.inf;
        all.n += c.n;
    }
    char text[128];
    snprintf(text, sizeof text, "%d tensors, %lld values, %lld not finite", ts->n, (long long)all.n,
             (long long)(all.nan + all.inf));
    found(r, "weights", text, all.nan + all.inf ? "see the tensors above" : NULL);
    tensors_close(&dir);
    gguf_close(g);
    return 0;
}

int cmd_doctor(int argc, char **argv) {
    struct err err = {0};
    struct report r = {.checks = json_array()};
    const char *model = NULL;
    bool help = false;
    int rest;
    const struct opt table[] = {OPTS_MODEL(&model), OPTS_JSON(&r.json), OPTS_HELP(&help), OPTS_END};
    const struct cmd_help h = {
        "doctor [MODEL]",
        "What this machine offers; with a model, whether every weight is a number.", &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help)
        goto out;
    if (!model && rest < argc)
        model = argv[rest++];
    if (cmd_no_more(argc, argv, rest, &err))
        goto out;
    check_system(&r);
    check_processor(&r);
    check_memory(&r);
    if (model && check_weights(&r, model, &err))
        goto out;
    if (r.json)
        cmd_print_json(json_pack("{s:O,s:i}", "checks", r.checks, "advice", r.n_bad), true, &err);
out:
    json_decref(r.checks);
    return cmd_fail(&err);
}
