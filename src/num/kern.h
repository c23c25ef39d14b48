/* kern.h - the kernel table.  kern.def is the only list; ref.c defines correct; x86/ files override
 * entries.
 *
 * A kernel is single-threaded, allocates nothing, takes any n and any alignment. */
#ifndef NUM_KERN_H
#define NUM_KERN_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "num/mat.h"

enum isa {
    ISA_REF,
    ISA_AVX2,
    ISA_AVXVNNI, /* AVX2 with more: no part of the levels above, whose processors may lack it */
    ISA_AVX512,
    ISA_VNNI,
    ISA_BF16,
    ISA_COUNT
}; /* ORDER: weakest first */

/* Activations for quantised weights: 32 inputs as x[i] = d * q[i].  |q| <= 127, so that sums of
 * products with 8-bit weights are exact in every instruction set.  A row of k inputs is k / 32
 * of these. */
struct q8x {
    float d;        /* largest magnitude / 127; NaN if any input was not finite            */
    float s;        /* d * sum of q: what a weight's minimum or bias multiplies            */
    int32_t sum[2]; /* sums of q[0..15] and q[16..31]: what a weight's offset multiplies   */
    int8_t q[32];
};

/* Activations for INT8 weights: x[i] = d * q[i], |q| <= 127, in the groups of int8_group(k).  A row
 * of k inputs (a multiple of 4) is one of these for each group, the last as short as its group. */
struct i8x {
    float d;     /* largest magnitude / 127; NaN if any input was not finite            */
    int32_t sum; /* of q: what a weight's offset multiplies                             */
    int8_t q[];
};
size_t i8x_bytes(int k);

/* One matrix product: y[i*ldy + j] = dot(x_i, w_j), i < m tokens, j < n rows of weights, over k
 * inputs. Element (i, j) is the same bits for any m and n: its operations depend on k, the type
 * and the level. */
struct gemm {
    float *y;
    size_t ldy;    /* elements                                                            */
    const void *x; /* token i at x + i*ldx bytes: float, bfloat16, struct q8x or i8x      */
    size_t ldx;
    const void *w; /* row j at w + j*ldw bytes, as stored; w begins with a panel          */
    size_t ldw;
    int m, n, k;
};

/* Attention of one split: m rows of queries, all of the same key-value head, against up to
 * ATTEND_SPLIT cached tokens, whose blocks num/attend.h describes.
 *     s[j] = sum_i q[i] k[j][i];   max = max_j s[j];   sum = sum_j 2^(s[j] - max);
 *     o[i] = sum_j 2^(s[j] - max) v[j][i]            over the keys j that the row sees */
struct attend_keys {
    int lo, hi; /* keys lo .. hi - 1 of the split, at least one */
};
struct attend {
    const float *q;                  /* (m, d), d a multiple of 16                            */
    const char *const *k, *const *v; /* the blocks that any row sees; then ATTEND_AHEAD more of
                                      * k to be fetched, NULL where there are none           */
    const struct attend_keys *see;   /* (m), neither lo nor hi ever decreasing                */
    float *part;                     /* (m, ATTEND_HEAD + d): max, sum, anything, o           */
    void *tmp;                       /* room for 2 ATTEND_ROWS d bytes                        */
    int m, d;
};
#define ATTEND_BLOCK 16  /* tokens whose keys, or values, lie together                       */
#define ATTEND_SPLIT 512 /* tokens after which sums start anew: part of the result's bits    */
#define ATTEND_AHEAD 4   /* blocks that are fetched before they are needed: only addresses   */
#define ATTEND_HEAD 16   /* floats in front of a row's o                                     */
#define ATTEND_ROWS 6    /* rows that a kernel computes together                             */

#define PEAK_OF 64 /* logits with one peak (kern.def: peaks) */

/* Of one update: keep = 1 - lr * decay, rate = lr / (1 - beta1^t), fix2 = 1 / sqrt(1 - beta2^t). */
struct adamw_rates {
    float beta1, beta2, eps, keep, rate, fix2, scale;
};

/* KERN(return type, name, (parameters)) */
#define KERN(ret, name, params) ret(*name) params;
struct kern {
#include "num/kern.def"
};
#undef KERN

extern struct kern kern; /* set once by kern_init, then read-only */

/* Fills the table with the best level this processor has, or with the one named by PUMICE_ISA
 * (ref|avx2|avxvnni|avx512|vnni|bf16).  E_USAGE if that name is unknown or the processor lacks
 * it. */
int kern_init(struct err *err);
int kern_force(enum isa level, struct err *err); /* for tests and bench */
enum isa kern_level(void);
bool kern_has(enum isa level); /* does this processor? */
enum isa kern_best(void);      /* strongest level of this processor */
const char *isa_name(enum isa level);

/* Each fills the entries its level has, over those of the level below (avx512: over avx2). */
void kern_ref(struct kern *k);
void kern_avx2(struct kern *k);
void kern_avxvnni(struct kern *k);
void kern_avx512(struct kern *k);
void kern_vnni(struct kern *k);
void kern_bf16(struct kern *k);

#endif
