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

/* The round of FOR_SEEDS now running.  A failed assertion leaves the loop by longjmp, so a round
 * still set when the next loop starts, or at exit, is one that failed. */
static struct {
    const char *test;
    unsigned long long seed;
} test_round;

__attribute__((destructor)) static void test_report_round(void) {
    if (test_round.test)
        printf("# %s stopped at seed %llu\n", test_round.test, test_round.seed);
    test_round.test = NULL;
}

static inline bool test_next_round(const char *test, uint64_t seed, uint64_t n) {
    if (seed == 1)
        test_report_round();
    test_round.test = seed <= n ? test : NULL;
    test_round.seed = seed;
    return seed <= n;
}

/* Runs the body for each of n seeds; `seed` is the variable.  A failure prints its seed. */
#define FOR_SEEDS(n) for (uint64_t seed = 1; test_next_round(__func__, seed, (n)); seed++)

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

/* expr returned 0, or the test fails with e's message. */
#define assert_ok(expr, e)                                                                         \
    do {                                                                                           \
        if ((expr) != 0)                                                                           \
            fail_msg("%s: %s", #expr, (e).msg);                                                    \
    } while (0)

/* A crash must not swallow the results of the tests before it. */
__attribute__((constructor)) static void test_line_buffered(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
}

#endif
