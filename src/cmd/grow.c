/* grow.c - `grow`: a deeper model from a trained one (Gstack). */
#include "train/grow.h"

#include <stdio.h>

#include "cmd/cmd.h"

int cmd_grow(int argc, char **argv) {
    struct err err = {0};
    struct grow_opts o = {0};
    struct grow_report r;
    const char *model = NULL, *out = NULL;
    bool json = false, help = false;
    int rest;
    const struct opt table[] = {
        OPTS_MODEL(&model),
        {"factor", 'g', NULL, OPT_INT, &o.factor, 1, 512, "G",
         "stack the whole block sequence G times"},
        {"layers", 0, NULL, OPT_STR, &o.layers, .arg = "LIST",
         .help = "or name the source of each new layer, such as 0-5,0-5"},
        {"zero-init", 0, NULL, OPT_FLAG, &o.zero_init,
         .help = "repeated layers begin as the identity (output projections zero)"},
        {"moments", 0, NULL, OPT_FLAG, &o.moments,
         .help = "of a checkpoint of train: the optimiser's state too"},
        {"out", 'o', NULL, OPT_STR, &out, .arg = "DIR",
         .help = "folder to write; must not exist or be empty"},
        OPTS_JSON(&json),
        OPTS_HELP(&help),
        OPTS_END};
    const struct cmd_help h = {
        "grow MODEL --factor G --out DIR",
        "A deeper model whose layers are copies of a trained one's (Gstack).", &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help)
        return cmd_fail(&err);
    if (cmd_model(&model, argc, argv, &rest, &err) || cmd_no_more(argc, argv, rest, &err))
        return cmd_fail(&err);
    if (!out)
        err_set(&err, E_USAGE, "grow: --out is missing");
    else if (!o.factor == !o.layers)
        err_set(&err, E_USAGE, "grow: give either --factor or --layers");
    if (err.code || grow_dir(model, &o, out, &r, &err))
        return cmd_fail(&err);
    if (json)
        cmd_print_json(json_pack("{s:s,s:i,s:i,s:I,s:I,s:f}", "out", out, "from_layers", r.from,
                                 "to_layers", r.to, "from_bytes", (json_int_t)r.from_bytes,
                                 "to_bytes", (json_int_t)r.to_bytes, "connection_rate",
                                 r.connection_rate),
                       true, &err);
    else
        printf("%s: %d layers -> %d, %.1f MiB -> %.1f MiB, connection rate %.1f %%\n", out, r.from,
               r.to, (double)r.from_bytes / (1 << 20), (double)r.to_bytes / (1 << 20),
               100 * r.connection_rate);
    return cmd_fail(&err);
}
