/* plot.h - charts, drawn by gnuplot where it is installed. */
#ifndef BASE_PLOT_H
#define BASE_PLOT_H

#include <stdbool.h>

/* Runs `gnuplot SCRIPT` in the folder and waits for it; its messages are dropped.  False: it is not
 * here, or has failed. */
bool plot_run(const char *dir, const char *script);

#endif
