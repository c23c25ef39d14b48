/* panel.h - INT8 and INT4 weights: rows in panels of 16, interleaved as the kernels read them.
 *
 * row form   what row_from_f32 writes and row_to_f32 reads:
 *            INT8  groups of int8_group(cols) columns: f32 scale, one signed byte a column
 *            INT4  blocks as those of Q4_0: f16 scale, 16 bytes of nibbles
 * panel      16 rows.  With word = 4 neighbouring bytes of a row:
 *            INT8  each word of a row form, of 16 rows side by side (a scale is a word)
 *            INT4  for each block: 16 f16 scales, then for each of 4 words that word of 16 rows
 * A panel has the bytes of its rows, so dtype_row_bytes holds for both; 64 bytes of words are one
 * vector whose lanes are rows, and a product reads a matrix from front to back. */
#ifndef NUM_PANEL_H
#define NUM_PANEL_H

#include "num/mat.h"

#define PANEL 16             /* dtype_info.panel of both */
#define INT4_PANEL_BLOCK 288     /* bytes for 32 columns of 16 rows */

/* n_row (at most 16) rows in row form, one after another, to a panel; missing rows become zeros. */
void panel_pack(enum dtype t, const void *rows, int n_row, int cols, void *panel);
/* The inverse for one row: lane (0..15) of a panel in row form. */
void panel_row(enum dtype t, const void *panel, int lane, int cols, void *row);
/* Row i of a matrix of any type to float. */
void mat_row_to_f32(const struct mat *m, int i, float *dst);

/* Quantise to row form: row_from_f32 calls these. */
void int8_write(const float *x, void *row, int n);
void int4_write(const float *x, void *row, int n);

#endif
