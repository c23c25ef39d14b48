/* quantize.c - `quantize IN OUT TYPE`: a model in another type, as GGUF file or as folder. */
#include "model/quantize.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "cmd/cmd.h"

static void on_progress(void *ud, size_t done, size_t total) {
    ((struct progress *)ud)->total = (int64_t)total;
    progress_update(ud, (int64_t)done);
}

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int check(const struct quantize_opts *o, bool force, struct err *err) {
    if (!o->in || !o->out || !o->type)
        return err_set(err, E_USAGE, "quantize: give IN, OUT and a type, such as q8_0");
    if (same_file(o->in, o->out))
        return err_set(err, E_USAGE, "%s: input and output are one", o->out);
    if (quantize_to_gguf(o->out) && file_exists(o->out) && !force)
        return err_set(err, E_USAGE, "%s: exists (--force writes over it)", o->out);
    return 0;
}

int cmd_quantize(int argc, char **argv) {
    struct err err = {0};
    struct quantize_opts o = {.progress = on_progress};
    struct quantize_report r;
    struct progress p;
    const char *word[3] = {NULL};
    bool force = false, json = false, help = false;
    int rest, n = 0;
    const struct opt table[] = {
        {"type", 0, "dtype", OPT_STR, &o.type, .arg = "TYPE",
         .help = "of OUT.gguf: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q4_k_m, q5_k, "
                 "q5_k_m or q6_k; of a folder: f32, f16, bf16, int8 or int4"},
        {"dry-run", 0, NULL, OPT_FLAG, &o.dry, .help = "print the sizes and write nothing"},
        {"force", 0, NULL, OPT_FLAG, &force, .help = "write over a file that exists"},
        OPTS_JSON(&json),
        OPTS_HELP(&help),
        OPTS_END};
    const struct cmd_help h = {
        "quantize IN OUT TYPE [options]",
        "Writes a model (a folder or a GGUF file) as OUT.gguf or as a folder, in another type.",
        &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help)
        return cmd_fail(&err);
    while (rest < argc && n < (o.type ? 2 : 3))
        word[n++] = argv[rest++];
    o.in = word[0];
    o.out = word[1];
    o.type = o.type ? o.type : word[2];
    if (cmd_no_more(argc, argv, rest, &err) || check(&o, force || o.dry, &err))
        return cmd_fail(&err);
    p = progress_start("converting", 0);
    o.ud = &p;
    int rc = quantize(&o, &r, &err);
    progress_end(&p);
    if (rc)
        return cmd_fail(&err);
    if (r.n_kept)
        log_info("%s: %d matrices whose rows do not fill blocks of %s have another type", o.out,
                 r.n_kept, r.type);
    if (json)
        cmd_print_json(json_pack("{s:s,s:s,s:i,s:I,s:I,s:b}", "out", o.out, "type", r.type,
                                 "tensors", r.n_tensor, "from_bytes", (json_int_t)r.from_bytes,
                                 "to_bytes", (json_int_t)r.to_bytes, "dry_run", o.dry),
                       true, &err);
    else
        printf("%s: %d tensors, %.1f MiB -> %.1f MiB%s\n", o.out, r.n_tensor,
               (double)r.from_bytes / (1 << 20), (double)r.to_bytes / (1 << 20),
               o.dry ? " (nothing written)" : "");
    return cmd_fail(&err);
}
