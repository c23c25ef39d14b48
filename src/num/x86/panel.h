/* panel.h - what kern_avx2 and kern_vnni call to fill the entries of INT8 weights. */
#ifndef NUM_X86_PANEL_H
#define NUM_X86_PANEL_H

#include "num/kern.h"

void panel_avx2(struct kern *k);
void panel_vnni(struct kern *k);

#endif
