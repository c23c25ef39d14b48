/* opt.h - command-line options from one table, which also prints --help. */
#ifndef BASE_OPT_H
#define BASE_OPT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

enum opt_type { OPT_FLAG, OPT_INT, OPT_I64, OPT_FLOAT, OPT_STR, OPT_LIST };

/* dst: bool*, int*, int64_t*, float*, const char**, struct opt_list*.  OPT_LIST collects repeated uses. */
struct opt {
    const char *name;        /* long spelling without dashes                              */
    char letter;             /* short spelling, 0 = none                                  */
    const char *alias;       /* another long spelling, or NULL                            */
    enum opt_type type;
    void *dst;
    double lo, hi;           /* range of numbers                                          */
    const char *arg, *help;  /* help NULL: accepted but not listed                        */
};
struct opt_list {
    const char *item[64];
    int n;
};

/* Fills the destinations; *rest receives the index of the first positional in argv, which getopt_long
 * has moved behind the options.  The table ends with a row whose name is NULL.  E_USAGE names the flag and
 * the reason.  Strings are borrowed from argv. */
int opt_parse(const struct opt *table, int argc, char **argv, int *rest, struct err *err);
void opt_help(FILE *f, const struct opt *table);

#endif
