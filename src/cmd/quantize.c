/* quantize.c - `quantize IN.gguf OUT.gguf TYPE`: a model file in another type. */
#include "model/quantize.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "cmd/cmd.h"

static void on_progress(void *ud, size_t done, size_t total) {
    (void)total;
    progress_update(ud, (int64_t)done);
}

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int check(const struct quantize_opts *o, const char *type, bool force, struct err *err) {
    if (!o->in || !o->out || !type)
        return err_set(err, E_USAGE, "quantize: give IN.gguf, OUT.gguf and a type, such as q8_0");
    if (o->type == DT_NONE)
        return err_set(err, E_USAGE, "quantize: unknown type '%s' (f32, f16, bf16, q8_0 or q4_0)",
                       type);
    if (file_is_dir(o->in))
        return err_set(err, E_USAGE,
                       "%s: quantize reads GGUF files; a folder is converted when it "
                       "is loaded (--dtype)",
                       o->in);
    if (same_file(o->in, o->out))
        return err_set(err, E_USAGE, "%s: input and output are one file", o->out);
    if (file_exists(o->out) && !force)
        return err_set(err, E_USAGE, "%s: exists (--force writes over it)", o->out);
    return 0;
}

int cmd_quantize(int argc, char **argv) {
    struct err err = {0};
    struct quantize_opts o = {.progress = on_progress};
    struct quantize_report r;
    struct progress p;
    const char *type = NULL, *word[3] = {NULL};
    bool dry = false, force = false, json = false, help = false;
    int rest, n = 0;
    const struct opt table[] = {
        {"type", 0, "dtype", OPT_STR, &type, .arg = "TYPE", .help = "f32, f16, bf16, q8_0 or q4_0"},
        {"dry-run", 0, NULL, OPT_FLAG, &dry, .help = "print the sizes and write nothing"},
        {"force", 0, NULL, OPT_FLAG, &force, .help = "write over a file that exists"},
        OPTS_JSON(&json),
        OPTS_HELP(&help),
        OPTS_END};
    const struct cmd_help h = {"quantize IN.gguf OUT.gguf TYPE [options]",
                               "Writes a GGUF model with its matrices in another type.", &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help)
        return cmd_fail(&err);
    while (rest < argc && n < (type ? 2 : 3))
        word[n++] = argv[rest++];
    o.in = word[0];
    o.out = word[1];
    type = type ? type : word[2];
    o.type = type ? dtype_parse(type) : DT_NONE;
    if (cmd_no_more(argc, argv, rest, &err) || check(&o, type, force || dry, &err))
        return cmd_fail(&err);
    if (dry)
        o.out = NULL;
    p = progress_start("converting", 0);
    struct stat st;
    p.total = stat(o.in, &st) == 0 ? (int64_t)st.st_size : 0;
    o.ud = &p;
    int rc = quantize_gguf(&o, &r, &err);
    progress_end(&p);
    if (rc)
        return cmd_fail(&err);
    if (r.n_kept)
        log_info("%s: %d matrices whose rows do not fill blocks are bf16, not %s", word[1],
                 r.n_kept, dtype_info(o.type)->name);
    if (json)
        cmd_print_json(json_pack("{s:s,s:s,s:i,s:I,s:I,s:b}", "out", word[1], "type",
                                 dtype_info(o.type)->name, "tensors", r.n_tensor, "from_bytes",
                                 (json_int_t)r.from_bytes, "to_bytes", (json_int_t)r.to_bytes,
                                 "dry_run", dry),
                       true, &err);
    else
        printf("%s: %d tensors, %.1f MiB -> %.1f MiB%s\n", word[1], r.n_tensor,
               (double)r.from_bytes / (1 << 20), (double)r.to_bytes / (1 << 20),
               dry ? " (nothing written)" : "");
    return cmd_fail(&err);
}
