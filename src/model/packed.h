/* packed.h - private to model/: quantised matrices in a Hugging Face folder, by the conventions of
 * compressed-tensors.
 *
 *   config.json   quantization_config: {"quant_method": "compressed-tensors", "format": FORMAT,
 *                 "config_groups": {NAME: {"targets": [...], "weights": {"num_bits", "type": "int",
 *                 "symmetric": true, "strategy", "group_size", ...}, ...}, ...}, "ignore": [...]}
 *   int-quantized   MODULE.weight (rows, cols) I8
 *   pack-quantized  MODULE.weight_packed (rows, words) I32: element j of a row is q + 2^(bits - 1)
 *                   in bits `bits * (j mod n)` of word j / n, n = 32 / bits; MODULE.weight_shape
 *                   (2) I64: rows, cols
 *   both            MODULE.weight_scale (rows, groups) F16, BF16 or F32: a weight is q * scale
 *
 * A reader sees such a matrix as a tensor MODULE.weight of type INT8 or INT4 whose rows are put
 * together as they are asked for.  docs/formats.md has the rules. */
#ifndef MODEL_PACKED_H
#define MODEL_PACKED_H

#include "model/tensors.h"

/* Where a matrix's integers and scales lie; borrowed from the mapping. */
struct packed {
    const uint8_t *ints, *scale;
    enum dtype scale_type;
    int bits;            /* 8 or 4                                             */
    bool words;          /* pack-quantized                                     */
    int group, n_scale;  /* columns with one scale, and scales in a row        */
    size_t ints_row;     /* bytes of a row of ints                             */
};

/* Reads quantization_config (of the config.json `path`) and turns the matrices that it describes
 * into tensors of type INT8 and INT4.  E_FORMAT names the field, or the tensor, that is not
 * understood. */
int packed_open(struct tensors *ts, const json_t *config, const char *path, struct err *err);

/* Row r in row form (num/panel.h). */
void packed_row(const struct tensor *t, int r, int cols, void *row);

/* -- writing ---------------------------------------------------------------------------------- */

/* The tensors that stand for a matrix of INT8 or INT4, in the order in which their data is
 * written: integers, scales and, of INT4, the shape.  t->name is the matrix's, MODULE.weight; the
 * names made here are owned by the caller. */
#define PACKED_TENSORS 3
int packed_tensors(const struct tensor *t, struct tensor out[PACKED_TENSORS]);

/* A row in row form to a row of integers and one of scales. */
void packed_split(enum dtype type, const void *row, int cols, void *ints, void *scale);

/* quantization_config of a folder whose matrices are t[0..n): those of `type` are in groups, the
 * others to be ignored.  Owned by the caller. */
json_t *packed_config(enum dtype type, const struct tensor *t, int n);

#endif
