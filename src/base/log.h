/* log.h - lines to standard error, prefixed "pumice: "; warnings always, the rest unless quiet. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

void log_quiet(bool quiet); /* true: drop log_info.  Set once at start-up. */
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
