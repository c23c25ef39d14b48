/* dropout.h - private to train/: which elements a training pass leaves out (Srivastava et al.,
 * 2014), and the factor that the others get so that sums keep their size.
 *
 * The mask is a pure function of (draw, layer, site, element): it is computed again where it is
 * needed and never stored, and no bit depends on threads, recomputation or where a run resumed. */
#ifndef TRAIN_DROPOUT_H
#define TRAIN_DROPOUT_H

#include <stddef.h>
#include <stdint.h>

enum dropout_site { DROP_EMBED, DROP_ATTENTION, DROP_MLP };

struct dropout {
    uint32_t key[2];
    int32_t below; /* an element is left out if its 16 random bits are below this: p in 65,536ths */
    float scale;   /* of the others: 1 / (1 - p) */
};

/* 0 < p <= 0.999; draw: which batch of the run this is. */
struct dropout dropout_at(float p, uint64_t draw, int layer, enum dropout_site site);

/* y = x masked; y may be x.  at: the first one's number among the array's elements. */
void dropout_mask(const struct dropout *d, float *y, const float *x, size_t at, int n);
/* y = x + z masked; y may be x. */
void dropout_add(const struct dropout *d, float *y, const float *x, const float *z, size_t at,
                 int n);

#endif
