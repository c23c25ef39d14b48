/* panel.h - what kern_avx2 and kern_vnni call to fill the entries of INT8 weights, and products of
 * many tokens. */
#ifndef NUM_X86_PANEL_H
#define NUM_X86_PANEL_H

#include "num/kern.h"

void panel_avx2(struct kern *k);
void panel_vnni(struct kern *k);
void pack_vnni(struct kern *k);

/* The product, if it has tokens enough for that; false if it has not, and nothing was done. */
bool many_vnni(enum dtype t, const struct gemm *g);

#endif
