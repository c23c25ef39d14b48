/* search.h - private to num/: scales of quantised blocks that lose least.
 *
 * Every writer weighs an element's square error by sqrt(mean(x^2) + x^2): large elements count
 * somewhat more, as activations are not equally large everywhere (chosen by perplexity,
 * docs/formats.md).  Sums are kept in eight parts, so that compilers may use vectors and the
 * result is the same bits whether they do or not. */
#ifndef NUM_SEARCH_H
#define NUM_SEARCH_H

#include <math.h>

#define SEARCH_MOST 256 /* elements that are looked at together */

/* 1/d, and 0 where that is no use: d is 0, too small to invert, or NaN (the block then reads as
 * NaN, whatever its integers are). */
static inline float search_inverse(float d) {
    float id = 1 / d;
    return isfinite(id) ? id : 0;
}

/* Nearest integer, ties to even, for |v| < 2^22. */
static inline float search_nearest(float v) {
    return (v + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: the sum has no room for a fraction */
}

static inline float search_clamp(float v, float lo, float hi) {
    v = v < lo ? lo : v;
    return v > hi ? hi : v;
}

/* The element of largest magnitude of x[0..n), with its sign; NaN if any is not finite. */
float search_extreme(const float *x, int n);

/* x ~ d q, q = -half .. half - 1, n a multiple of 8: the best of twelve trials, each fitted.  0:
 * too small; NaN: not finite. */
float search_scale(const float *x, int n, int half);

/* The writers of rows of n elements in GGUF's blocks (docs/formats.md). */
void q41_write(const float *x, void *row, int n);
void q50_write(const float *x, void *row, int n);
void q51_write(const float *x, void *row, int n);
void q4k_write(const float *x, void *row, int n);
void q5k_write(const float *x, void *row, int n);
void q6k_write(const float *x, void *row, int n);

#endif
