/* replay.c - runs a fuzz target over every file of the folders named, without libFuzzer.
 * Linked with one target each, so that the corpus is replayed by gcc, by release builds, and under
 * any sanitizer.  Prints TAP: one test for the whole corpus; if a file kills it, the last "# input"
 * line names that file. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_BYTES_MAX ((size_t)64 << 20)

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name); /* not strcoll: the same order in every locale */
}

/* Runs one file from a copy of exactly its size, so that a sanitizer sees a read beyond the end. */
static int replay(const char *path) {
    struct err err = {0};
    struct buf b = {0};
    if (file_read(path, INPUT_BYTES_MAX, &b, &err)) {
        printf("# %s\n", err.msg);
        return -1;
    }
    uint8_t *exact = malloc(b.len ? b.len : 1);
    if (!exact)
        abort();
    if (b.len)
        memcpy(exact, b.data, b.len);
    printf("# input %s\n", path);
    fflush(stdout);
    LLVMFuzzerTestOneInput(exact, b.len);
    free(exact);
    buf_free(&b);
    return 0;
}

/* Returns how many files it ran, or -1. */
static int replay_dir(const char *dir) {
    struct dirent **entry;
    int n = scandir(dir, &entry, NULL, by_name), ran = 0;
    if (n < 0) {
        printf("# %s: cannot list\n", dir);
        return -1;
    }
    for (int i = 0; i < n; i++) {
        if (entry[i]->d_name[0] != '.' && ran >= 0) {
            char *path = path_join(dir, entry[i]->d_name);
            ran = replay(path) ? -1 : ran + 1;
            free(path);
        }
        free(entry[i]);
    }
    free(entry);
    return ran;
}

int main(int argc, char **argv) {
    int total = 0;
    printf("1..1\n");
    for (int i = 1; i < argc; i++) {
        int ran = replay_dir(argv[i]);
        if (ran <= 0) {
            printf("not ok 1 - corpus %s\n", argv[i]);
            return 1;
        }
        total += ran;
    }
    printf("%sok 1 - %d corpus inputs do no harm\n", total ? "" : "not ", total);
    return !total;
}
