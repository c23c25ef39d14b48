/* rope.c - see rope.h. */
#include "model/rope.h"

#include <math.h>
#include <stddef.h>

/* Rotation speed of component pair i, radians per position; float arithmetic as in the reference.
 */
static float speed(const struct cfg *c, int i) {
    float f = 1.0f / powf(c->rope_theta, (float)(2 * i) / (float)c->rope_dim);
    if (c->rope_scaling == ROPE_LINEAR)
        return f / c->rope_factor;
    if (c->rope_scaling == ROPE_PLAIN)
        return f;
    /* Llama 3.1: slow components are stretched by the factor, fast ones kept, those between
     * blended. */
    float wavelen = 2 * (float)M_PI / f, ctx = (float)c->rope_orig_ctx;
    if (wavelen > ctx / c->rope_low)
        return f / c->rope_factor;
    if (wavelen < ctx / c->rope_high)
        return f;
    float keep = (ctx / wavelen - c->rope_low) / (c->rope_high - c->rope_low);
    return (1 - keep) * f / c->rope_factor + keep * f;
}

void rope_table(const struct cfg *c, int n_ctx, float *cos, float *sin) {
    size_t half = (size_t)(c->rope_dim / 2);
    for (size_t i = 0; i < half; i++) {
        float s = speed(c, (int)i);
        for (int p = 0; p < n_ctx; p++) {
            cos[(size_t)p * half + i] = cosf((float)p * s);
            sin[(size_t)p * half + i] = sinf((float)p * s);
        }
    }
}
