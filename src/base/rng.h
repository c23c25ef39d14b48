/* rng.h - xoshiro256** (Blackman and Vigna, 2018), seeded by splitmix64: the same seed gives
 * the same stream anywhere. */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t s[4];
};

void rng_seed(struct rng *r, uint64_t seed);
uint64_t rng_u64(struct rng *r);
double rng_double(struct rng *r);               /* uniform in [0, 1), 53 bits */
uint32_t rng_below(struct rng *r, uint32_t n);  /* uniform in [0, n), n > 0 */
float rng_normal(struct rng *r);                /* standard normal, Box-Muller */

#endif
