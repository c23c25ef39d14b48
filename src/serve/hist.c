/* hist.c - see hist.h. */
#include "serve/hist.h"

static const double wide[] = {0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.5,
                              5,    10,   20,   40,   80,   160,  320,  640};
static const double fine[] = {0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015,
                              0.02,  0.03,  0.04,  0.06,  0.08,  0.1,  0.15,
                              0.2,   0.3,   0.5,   1,     2,     5,    10};

struct hist hist_wide(void) {
    return (struct hist){.bound = wide, .n = sizeof wide / sizeof wide[0]};
}

struct hist hist_fine(void) {
    return (struct hist){.bound = fine, .n = sizeof fine / sizeof fine[0]};
}

void hist_add(struct hist *h, double seconds) {
    int i = 0;
    while (i < h->n && seconds > h->bound[i])
        i++;
    h->count[i]++;
    h->sum += seconds;
}

int64_t hist_total(const struct hist *h) {
    int64_t total = 0;
    for (int i = 0; i <= h->n; i++)
        total += h->count[i];
    return total;
}

double hist_mean(const struct hist *h) {
    int64_t n = hist_total(h);
    return n ? h->sum / (double)n : 0;
}
