/* init.c - a random model of a named shape, for benchmarks and tests: `pumice init SHAPE --out
 * DIR`. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cmd/cmd.h"

/* Refuses a path that is a file, or a folder with something in it unless forced. */
static int check_empty(const char *dir, bool force, struct err *err) {
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? 0 : err_set(err, E_IO, "%s: %s", dir, strerror(errno));
    bool empty = true;
    for (struct dirent *e; empty && (e = readdir(d));)
        empty = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    closedir(d);
    if (!empty && !force)
        return err_set(err, E_USAGE, "%s: not empty (--force writes into it all the same)", dir);
    return 0;
}

int cmd_init(int argc, char **argv) {
    struct err err = {0};
    const char *shape = NULL, *dir = NULL, *type_name = "bf16";
    int64_t seed = 1;
    bool force = false, help = false;
    struct cfg c;
    int rest;
    const struct opt table[] = {
        {"out", 'o', "output", OPT_STR, &dir, .arg = "DIR", .help = "the folder to write"},
        {"seed", 's', NULL, OPT_I64, &seed, 0, 9.3e18, "N", "same seed, same weights (default 1)"},
        {"dtype", 0, NULL, OPT_STR, &type_name, .arg = "TYPE", .help = "bf16 (default) or f32"},
        {"force", 0, NULL, OPT_FLAG, &force, .help = "write into a folder that is not empty"},
        OPTS_HELP(&help),
        OPTS_END,
    };
    const struct cmd_help h = {
        "init SHAPE --out DIR [options]",
        "Writes config.json and model.safetensors of a model with random weights.\n"
        "Shapes: 168m, llama-1b, gpt2, qwen-0.5b, tiny.  It has no tokenizer: use --ids.",
        &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help)
        goto out;
    if (rest < argc)
        shape = argv[rest++];
    enum dtype type = dtype_parse(type_name);
    if (!shape || !dir) {
        err_set(&err, E_USAGE,
                !shape ? "init: name a shape, such as 168m" : "init: give --out DIR");
        goto out;
    }
    if (type != DT_BF16 && type != DT_F32) {
        err_set(&err, E_USAGE, "--dtype: '%s' is not bf16 or f32", type_name);
        goto out;
    }
    if (cmd_no_more(argc, argv, rest, &err) || cfg_shape(&c, shape, &err) ||
        check_empty(dir, force, &err) || model_init(dir, &c, (uint64_t)seed, type, &err))
        goto out;
    log_info("%s: %s with %lld random weights in %s, seed %lld", dir, shape,
             (long long)cfg_params(&c), dtype_info(type)->name, (long long)seed);
out:
    return cmd_fail(&err);
}
