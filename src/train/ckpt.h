/* ckpt.h - folders that are there whole or not at all: writing, checking, finding and pruning
 * checkpoints.
 *
 * In a run's folder: step-00000100/ is a checkpoint, best-00000080/ a model; `latest` and `best`
 * are links to the newest of each; *.tmp is unfinished; `lock` is held by the trainer at work. A
 * folder is complete when it has SHA256SUMS, which lists every other file in it as sha256sum(1)
 * does. */
#ifndef TRAIN_CKPT_H
#define TRAIN_CKPT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define CKPT_STEP "step" /* kinds: the names' first half */
#define CKPT_BEST "best"

/* Makes `out` where absent, locks it until the descriptor is closed or the process ends, and
 * removes what unfinished saves have left. -1: E_BUSY if another trainer has the lock, E_IO. */
int ckpt_lock(const char *out, struct err *err);

/* Removes NAME.tmp and NAME.tmp-PID of a folder that nobody else writes to. */
void ckpt_clean(const char *dir);

/* An empty folder to write files into (each fsynced by its writer, none in a sub-folder); its path
 * is owned by the caller. */
char *ckpt_begin(const char *out, const char *kind, int64_t step, struct err *err);

/* Adds SHA256SUMS, gives the folder its name, replacing one of the same step, and points `link` at
 * it. A crash leaves the old state or the new one. */
int ckpt_commit(const char *out, const char *kind, int64_t step, const char *link, struct err *err);

/* Removes what ckpt_begin made. */
void ckpt_abort(const char *out, const char *kind, int64_t step);

/* Compares every file with SHA256SUMS.  E_FORMAT or E_IO names the first that differs. */
int ckpt_verify(const char *dir, struct err *err);

/* The path of the newest checkpoint that verifies; those that do not are named in warnings. NULL:
 * there is none, which is an error only if err is set (checkpoints, all of them damaged). */
char *ckpt_newest(const char *out, const char *kind, struct err *err);
bool ckpt_any(const char *out); /* at least one folder of kind CKPT_STEP, complete or not */

/* Removes all of a kind but the last `keep` and those whose step is a multiple of `every` (0 =
 * none). */
void ckpt_prune(const char *out, const char *kind, int keep, int64_t every);

#endif
