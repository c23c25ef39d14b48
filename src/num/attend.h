/* attend.h - softmax(q k^T / sqrt(c)) v over cached keys and values, for a tile of queries.
 *
 * A cache holds blocks of ATTEND_BLOCK tokens of one head, whose c components are filled up with
 * zeros to d, a multiple of 16.  Element of token j and component i, by type:
 *     f32, f16   keys [i][j], values [j][i]
 *     bf16       keys [i/2][j][i%2], values [j/2][i][j%2]: what a product of pairs reads
 *     int8       bytes, keys [i][j], values [j][i], then 16 floats, the scale of each token: the
 *                largest magnitude of its head / 127
 *
 * Bit equality: a query's past is cut into splits at multiples of ATTEND_SPLIT tokens; each gives
 * a partial result, and partial results are joined from the oldest to the newest.  What is added
 * up in which order depends on a query's position and first key only: never on its neighbours in
 * the tile, nor on who computes which split. */
#ifndef NUM_ATTEND_H
#define NUM_ATTEND_H

#include "num/kern.h"

/* d of c components. */
int attend_dim(int c);
bool attend_type(enum dtype t);                     /* keys and values may have it */
size_t attend_block_bytes(enum dtype t, int c);     /* of the keys, or values, of one head */

/* Writes c components as the keys or values of token j of a block. */
void attend_put_k(enum dtype t, void *block, int j, const float *x, int c);
void attend_put_v(enum dtype t, void *block, int j, const float *x, int c);

/* Where the blocks of a head lie: `blocks` of them follow each other in a group, and groups follow
 * each other at a stride of their own, so that memory can be given to a sequence group by group.
 * blocks = 0: all of them in one group. */
struct attend_place {
    size_t block, group; /* bytes from one to the next */
    int blocks;
};
static inline size_t attend_at(const struct attend_place *p, int b) {
    if (!p->blocks)
        return (size_t)b * p->block;
    return (size_t)(b / p->blocks) * p->group + (size_t)(b % p->blocks) * p->block;
}

/* Queries of n consecutive tokens, `group` heads of c components each, which share keys. */
struct attend_tile {
    enum dtype type;
    int c, group;
    int pos, n;       /* token i stands at pos + i                                         */
    const int *first; /* (n), never decreasing: it sees keys first[i] .. pos + i; NULL = 0 */
    const float *q;   /* head h of token i at q + i * ld + h * c, and the result at out    */
    float *out;
    size_t ld;
    const char *k, *v; /* block b at k + attend_at(&at, b), of v likewise                   */
    struct attend_place at;
    void *tmp; /* attend_tmp(n * group, c) bytes                                    */
};
size_t attend_tmp(int rows, int c);
void attend_tile(const struct attend_tile *t);

/* The same in pieces that threads may share: every split in [*s0, *s1) by attend_part, then
 * attend_join.  Split s has its place at part + (s - s0) * attend_part_floats. */
void attend_splits(const struct attend_tile *t, int *s0, int *s1);
size_t attend_part_floats(const struct attend_tile *t);
void attend_part(const struct attend_tile *t, int split, float *part);
void attend_join(const struct attend_tile *t, const float *part);

#endif
