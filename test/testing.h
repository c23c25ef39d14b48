/* testing.h - what every unit test includes: cmocka, the data folder, seeds. */
#ifndef TEST_TESTING_H
#define TEST_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Runs the body for each of n seeds; `seed` is the variable.  On failure cmocka prints the line, and this
 * prints the seed before each round. */
#define FOR_SEEDS(n) for (uint64_t seed = 1; seed <= (n); seed++)

/* PATH under the shared test data ($PUMICE_DATA, default ../shared/data beside the source tree);
 * static storage, eight at a time. */
static inline const char *data_path(const char *path) {
    static char buf[8][1024];
    static int at;
    const char *root = getenv("PUMICE_DATA");
    at = (at + 1) % 8;
    if (root)
        snprintf(buf[at], sizeof buf[at], "%s/%s", root, path);
    else
        snprintf(buf[at], sizeof buf[at], "%s/../shared/data/%s", SOURCE_ROOT, path);
    return buf[at];
}

/* Skips the running test, saying why, where the data is absent. */
static inline void need_data(const char *path) {
    FILE *f = fopen(data_path(path), "rb");
    if (!f) {
        printf("  skipped: no %s (set PUMICE_DATA)\n", data_path(path));
        skip();
    }
    fclose(f);
}

#define assert_ok(expr, e)                                                                                   \
    do {                                                                                                     \
        if ((expr) != 0)                                                                                     \
            fail_msg("%s: %s", #expr, (e).msg);                                                              \
    } while (0)

#endif
