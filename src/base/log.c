/* log.c - see log.h. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static bool quiet_now; /* the log level: one of the two globals the style guide allows */

void log_quiet(bool quiet) {
    quiet_now = quiet;
}

static void line(const char *prefix, const char *fmt, va_list ap) {
    char text[1024];
    vsnprintf(text, sizeof text, fmt, ap);
    fprintf(stderr, "pumice: %s%s\n", prefix, text); /* one call, so that lines do not interleave */
}

void log_warn(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    line("warning: ", fmt, ap);
    va_end(ap);
}

void log_info(const char *fmt, ...) {
    if (quiet_now)
        return;
    va_list ap;
    va_start(ap, fmt);
    line("", fmt, ap);
    va_end(ap);
}
