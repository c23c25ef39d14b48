/* opt.h - command-line options from one table, which also prints --help. */
#ifndef BASE_OPT_H
#define BASE_OPT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

enum opt_type { OPT_FLAG, OPT_INT, OPT_I64, OPT_FLOAT, OPT_STR, OPT_LIST };

/* dst: bool*, int*, int64_t*, float*, const char**, struct opt_list*.  OPT_LIST collects repeated
 * uses. A row with the name "" is a heading of --help: only `help` counts. */
struct opt {
    const char *name;  /* long spelling without dashes                              */
    char letter;       /* short spelling, 0 = none                                  */
    const char *alias; /* another long spelling, or NULL                            */
    enum opt_type type;
    void *dst;
    double lo, hi;          /* range of numbers; lo == hi: that of the type              */
    const char *arg, *help; /* help NULL: accepted but not listed                        */
};
struct opt_list {
    const char *item[64];
    int n;
};

/* Fills the destinations; *rest receives the index of the first positional in argv, which
 * getopt_long has moved behind the options.  The table ends with a row whose name is NULL.  E_USAGE
 * names the flag and the reason.  Strings are borrowed from argv.  Abbreviated names are refused;
 * one dash does for two. */
int opt_parse(const struct opt *table, int argc, char **argv, int *rest, struct err *err);

/* Sets one row by its name or alias, as `--name value` would.  value is borrowed by OPT_STR and
 * OPT_LIST. */
int opt_set(const struct opt *table, const char *name, const char *value, struct err *err);
void opt_help(FILE *f, const struct opt *table);

#endif
