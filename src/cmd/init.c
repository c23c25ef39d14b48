/* init.c - a random model of a named shape, for benchmarks and tests: `pumice init SHAPE --out
 * DIR`. */
#include <stdio.h>

#include "base/file.h"
#include "base/log.h"
#include "cmd/cmd.h"

int cmd_init(int argc, char **argv) {
    struct err err = {0};
    const char *shape = NULL, *dir = NULL, *type_name = "bf16";
    int64_t seed = 1;
    bool force = false, help = false, empty;
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
        dir_make(dir, &empty, &err))
        goto out;
    if (!empty && !force) {
        err_set(&err, E_USAGE, "%s: not empty (--force writes into it all the same)", dir);
        goto out;
    }
    if (model_init(dir, &c, (uint64_t)seed, type, &err))
        goto out;
    log_info("%s: %s with %lld random weights in %s, seed %lld", dir, shape,
             (long long)cfg_params(&c), dtype_info(type)->name, (long long)seed);
out:
    return cmd_fail(&err);
}
