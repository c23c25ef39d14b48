/* panel.h - quantised and BF16 weights: rows in panels of 16, interleaved as the kernels read them.
 *
 * row form   what row_from_f32 writes and row_to_f32 reads: GGUF's blocks (docs/formats.md), or
 *            INT8  groups of int8_group(cols) columns: f32 scale, one signed byte a column
 *            INT4  blocks as those of Q4_0: f16 scale, 16 bytes of nibbles
 *            BF16  the numbers
 * panel      16 rows.  With word = 4 neighbouring bytes of a row:
 *            INT8    each word of a row form, of 16 rows side by side (a scale is a word)
 *            BF16    the same; where the number of columns is odd, the last one of 16 rows follows
 *            others  for each block: each f16 of 16 rows side by side, then each word, in the order
 *                    of the block, of 16 rows.  The word of fifth bits of Q5_0 and Q5_1 has them in
 *                    another order: bit i of byte c is column 4i + c's, so that one shift moves
 *                    those of a word of nibbles into place.
 * A panel has the bytes of its rows, so dtype_row_bytes holds for both; 64 bytes of words are one
 * vector whose lanes are rows, and a product reads a matrix from front to back. */
#ifndef NUM_PANEL_H
#define NUM_PANEL_H

#include "num/mat.h"

#define PANEL 16 /* dtype_info.panel of all of them */

/* n_row (at most 16) rows in row form, one after another, to a panel; missing rows become zeros. */
void panel_pack(enum dtype t, const void *rows, int n_row, int cols, void *panel);
/* The inverse for one row: lane (0..15) of a panel in row form. */
void panel_row(enum dtype t, const void *panel, int lane, int cols, void *row);
/* Block b of that row; at most PANEL_BLOCK_MOST bytes. */
void panel_block(enum dtype t, const void *panel, int lane, int b, void *block);
#define PANEL_BLOCK_MOST 256

/* Row i of a matrix of any type to float. */
void mat_row_to_f32(const struct mat *m, int i, float *dst);

/* Quantise to row form: row_from_f32 calls these. */
void int8_write(const float *x, void *row, int n);
void int4_write(const float *x, void *row, int n);

#endif
