/* bench.h - private to cmd/: what the benches share, and the commands of `bench` besides speed. */
#ifndef CMD_BENCH_H
#define CMD_BENCH_H

#include <jansson.h>

#include "base/err.h"

int cmd_bench_train(int argc, char **argv);
int cmd_bench_serve(int argc, char **argv);
int cmd_bench_schedule(int argc, char **argv);
int cmd_bench_kv(int argc, char **argv);

json_t *bench_machine(void); /* {"cpu", "isa", "kernel"}; owned by the caller */

/* Calls fn for each item of a comma-separated list; stops at the first failure. */
int bench_each(const char *list, int (*fn)(void *ud, const char *item, struct err *err), void *ud,
               struct err *err);
/* An item that is a whole number in lo..hi; E_USAGE names the flag and the item. */
int bench_number(const char *flag, const char *item, int lo, int hi, int *out, struct err *err);

#endif
