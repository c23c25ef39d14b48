/* hub.c - models of a hub: `pull`, `list`, `rm`; and the path of a pulled model by its name. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/file.h"
#include "cmd/cmd.h"
#include "cmd/hub.h"
#include "hub/hub.h"

int cmd_pull(int argc, char **argv) {
    struct err err = {0};
    struct hub hub = {0};
    struct hub_name name;
    struct hub_pulled got = {0};
    struct opt_list include = {0};
    bool help = false, json = false, offline = false;
    int rest;
    const struct opt table[] = {
        {"include", 0, NULL, OPT_LIST, &include, .arg = "GLOB",
         .help = "files to fetch (default: what a model needs); repeatable"},
        {"offline", 0, NULL, OPT_FLAG, &offline, .help = "connect to nothing"},
        OPTS_JSON(&json),
        OPTS_HELP(&help),
        OPTS_END};
    const struct cmd_help h = {
        "pull ORG/NAME[:QUANT][@REV] [options]",
        "Fetches a model from a Hugging Face hub into the cache that its other clients share, goes "
        "on\n"
        "where an earlier pull stopped, and verifies every file.  Prints the model's path.",
        &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help)
        goto out;
    if (rest == argc) {
        err_set(&err, E_USAGE, "which model? pull ORG/NAME[:QUANT][@REV]");
        goto out;
    }
    if (hub_parse(argv[rest], &name, &err) || cmd_no_more(argc, argv, rest + 1, &err) ||
        hub_open(&hub, &err))
        goto out;
    hub.offline |= offline;
    if (hub_pull(&hub, &name, include.item, include.n, &got, &err))
        goto out;
    if (json)
        cmd_print_json(json_pack("{s:s,s:i,s:I,s:I}", "path", got.path, "files", got.n_file,
                                 "bytes", (json_int_t)got.bytes, "fetched_bytes",
                                 (json_int_t)got.fetched),
                       true, &err);
    else
        puts(got.path);
out:
    free(got.path);
    hub_close(&hub);
    return cmd_fail(&err);
}

static void add_json(void *ud, const struct hub_entry *e) {
    json_array_append_new(ud, json_pack("{s:s,s:s,s:s,s:I,s:i,s:I}", "model", e->repo, "commit",
                                        e->commit, "path", e->path, "bytes", (json_int_t)e->bytes,
                                        "files", e->n_file, "modified", (json_int_t)e->modified));
}

static void print_entry(void *ud, const struct hub_entry *e) {
    char day[16] = "";
    time_t t = (time_t)e->modified;
    struct tm tm;
    if (localtime_r(&t, &tm))
        strftime(day, sizeof day, "%Y-%m-%d", &tm);
    if (!(*(int *)ud)++)
        printf("%-44s %-12s %10s  %s\n", "MODEL", "COMMIT", "SIZE", "PULLED");
    printf("%-44s %.12s %7.1f MB  %s\n", e->repo, e->commit, (double)e->bytes / 1e6, day);
}

int cmd_list(int argc, char **argv) {
    struct err err = {0};
    struct hub hub = {0};
    bool help = false, json = false;
    int rest, shown = 0;
    const struct opt table[] = {OPTS_JSON(&json), OPTS_HELP(&help), OPTS_END};
    const struct cmd_help h = {"list [--json]", "Lists the models in the hub's cache.", &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help ||
        cmd_no_more(argc, argv, rest, &err) || hub_open(&hub, &err))
        goto out;
    json_t *all = json ? json_array() : NULL;
    if (hub_list(&hub, json ? add_json : print_entry, json ? (void *)all : (void *)&shown, &err))
        json_decref(all);
    else if (json)
        cmd_print_json(all, true, &err);
    else if (!shown)
        printf("no models in %s; `pumice pull ORG/NAME` fetches one\n", hub.cache);
out:
    hub_close(&hub);
    return cmd_fail(&err);
}

int cmd_rm(int argc, char **argv) {
    struct err err = {0};
    struct hub hub = {0};
    struct hub_name name;
    bool help = false;
    int rest;
    int64_t freed;
    const struct opt table[] = {OPTS_HELP(&help), OPTS_END};
    const struct cmd_help h = {
        "rm ORG/NAME", "Deletes a model, with all its revisions, from the hub's cache.", &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help)
        goto out;
    if (rest == argc) {
        err_set(&err, E_USAGE, "which model? rm ORG/NAME");
        goto out;
    }
    if (hub_parse(argv[rest], &name, &err) || cmd_no_more(argc, argv, rest + 1, &err) ||
        hub_open(&hub, &err) || hub_remove(&hub, name.repo, &freed, &err))
        goto out;
    printf("%s: deleted, %.1f MB\n", name.repo, (double)freed / 1e6);
out:
    hub_close(&hub);
    return cmd_fail(&err);
}

int cmd_hub_path(const char **model, struct err *err) {
    static char *found[4]; /* until the process ends; no command has more models */
    static int n;
    struct hub hub = {0};
    struct hub_name name;
    struct err no_name = {0};
    if (file_exists(*model) || hub_parse(*model, &name, &no_name))
        return 0; /* a path, right or wrong */
    if (hub_open(&hub, err))
        return -1;
    char *path = hub_find(&hub, &name);
    if (!path)
        err_set(err, E_IO, "%s: no such file, and not in %s; `pumice pull %s` fetches it", *model,
                hub.cache, *model);
    hub_close(&hub);
    if (path && n < 4)
        *model = found[n++] = path;
    return path ? 0 : -1;
}
