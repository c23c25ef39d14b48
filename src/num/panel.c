/* panel.c - see panel.h. */
#include "num/panel.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "num/quant.h"
#include "num/search.h"

#define BLOCK 32 /* columns of INT4 with one scale */
#define BLOCK_BYTES 18

/* What a block in row form holds; n_half f16s, then words, in a panel. */
static const struct layout {
    int n_half, half_at[2], word_at, n_word;
    bool fifth; /* the first word holds fifth bits */
} layouts[DT_COUNT] = {
    [DT_BF16] = {0, {0}, 0, 1, false},     [DT_Q8_0] = {1, {0}, 2, 8, false},
    [DT_Q4_0] = {1, {0}, 2, 4, false},     [DT_Q4_1] = {2, {0, 2}, 4, 4, false},
    [DT_Q5_0] = {1, {0}, 2, 5, true},      [DT_Q5_1] = {2, {0, 2}, 4, 5, true},
    [DT_Q4_K] = {2, {0, 2}, 4, 35, false}, [DT_Q5_K] = {2, {0, 2}, 4, 43, false},
    [DT_Q6_K] = {1, {208}, 0, 52, false},  [DT_INT8] = {0, {0}, 0, 1, false},
    [DT_INT4] = {1, {0}, 2, 4, false},
};

/* Bit c of fifth bits, column c's, to bit c / 4 of byte c % 4; and back. */
static uint32_t fifth_in(uint32_t v) {
    uint32_t to = 0;
    for (int c = 0; c < 32; c++)
        to |= (v >> c & 1) << (c % 4 * 8 + c / 4);
    return to;
}

static uint32_t fifth_out(uint32_t v) {
    uint32_t to = 0;
    for (int c = 0; c < 32; c++)
        to |= (v >> (c % 4 * 8 + c / 4) & 1) << c;
    return to;
}

/* Row r's block at q into the panel's block at p. */
static void block_in(const struct layout *l, const uint8_t *q, uint8_t *p, int r) {
    for (int h = 0; h < l->n_half; h++, p += PANEL * 2)
        memcpy(p + r * 2, q + l->half_at[h], 2);
    for (int w = 0; w < l->n_word; w++, p += PANEL * 4) {
        uint32_t v;
        memcpy(&v, q + l->word_at + 4 * w, 4);
        if (w == 0 && l->fifth)
            v = fifth_in(v);
        memcpy(p + r * 4, &v, 4);
    }
}

static void block_out(const struct layout *l, const uint8_t *p, uint8_t *q, int r) {
    for (int h = 0; h < l->n_half; h++, p += PANEL * 2)
        memcpy(q + l->half_at[h], p + r * 2, 2);
    for (int w = 0; w < l->n_word; w++, p += PANEL * 4) {
        uint32_t v;
        memcpy(&v, p + r * 4, 4);
        if (w == 0 && l->fifth)
            v = fifth_out(v);
        memcpy(q + l->word_at + 4 * w, &v, 4);
    }
}

static size_t block_bytes(enum dtype t) {
    return t == DT_BF16 ? 4 : (size_t)dtype_info(t)->bytes;
}

/* Rows of INT8, scales among them, and of BF16 are words throughout. */
static int n_blocks(enum dtype t, int cols) {
    return (int)(dtype_row_bytes(t, cols) / block_bytes(t));
}

/* Where lane's column behind the last word lies in a panel of BF16, whose columns are odd. */
static size_t odd_at(int lane, int cols) {
    return (size_t)(cols / 2) * 4 * PANEL + (size_t)lane * 2;
}

void panel_pack(enum dtype t, const void *rows, int n_row, int cols, void *panel) {
    size_t ld = dtype_row_bytes(t, cols), bytes = block_bytes(t);
    if (n_row < PANEL)
        memset(panel, 0, PANEL * ld);
    for (int b = 0; b < n_blocks(t, cols); b++)
        for (int r = 0; r < n_row; r++)
            block_in(&layouts[t], (const uint8_t *)rows + (size_t)r * ld + (size_t)b * bytes,
                     (uint8_t *)panel + (size_t)b * bytes * PANEL, r);
    for (int r = 0; t == DT_BF16 && cols % 2 && r < n_row; r++)
        memcpy((uint8_t *)panel + odd_at(r, cols), (const uint8_t *)rows + (size_t)(r + 1) * ld - 2,
               2);
}

void panel_row(enum dtype t, const void *panel, int lane, int cols, void *row) {
    size_t bytes = block_bytes(t);
    for (int b = 0; b < n_blocks(t, cols); b++)
        block_out(&layouts[t], (const uint8_t *)panel + (size_t)b * bytes * PANEL,
                  (uint8_t *)row + (size_t)b * bytes, lane);
    if (t == DT_BF16 && cols % 2)
        memcpy((uint8_t *)row + (size_t)(cols - 1) * 2, (const uint8_t *)panel + odd_at(lane, cols),
               2);
}

void panel_block(enum dtype t, const void *panel, int lane, int b, void *block) {
    size_t bytes = (size_t)dtype_info(t)->bytes;
    block_out(&layouts[t], (const uint8_t *)panel + (size_t)b * bytes * PANEL, block, lane);
}

/* Lane `lane` of a panel of INT8, group by group. */
static void int8_row(const uint8_t *p, int lane, int cols, float *dst) {
    for (int at = 0, group = int8_group(cols); at < cols;) {
        float scale;
        int end = at + group < cols ? at + group : cols;
        memcpy(&scale, p + lane * 4, 4);
        for (p += PANEL * 4; at < end; p += PANEL * 4)
            for (int k = 0; k < 4; k++)
                dst[at++] = scale * (float)(int8_t)p[lane * 4 + k];
    }
}

static void bf16_row(const uint8_t *p, int lane, int cols, float *dst) {
    uint32_t words[32];
    for (int c = 0, n; c < cols / 2; c += n) {
        n = cols / 2 - c < 32 ? cols / 2 - c : 32;
        for (int i = 0; i < n; i++)
            memcpy(&words[i], p + (size_t)((c + i) * PANEL + lane) * 4, 4);
        row_to_f32(DT_BF16, words, dst + 2 * c, 2 * n);
    }
    if (cols % 2)
        row_to_f32(DT_BF16, p + odd_at(lane, cols), dst + cols - 1, 1);
}

void mat_row_to_f32(const struct mat *m, int i, float *dst) {
    const struct dtype_info *d = dtype_info(m->type);
    if (d->panel == 1) {
        row_to_f32(m->type, mat_row(m, i), dst, m->cols);
        return;
    }
    const uint8_t *p = mat_row(m, i / PANEL * PANEL);
    if (m->type == DT_INT8) {
        int8_row(p, i % PANEL, m->cols, dst);
        return;
    }
    if (m->type == DT_BF16) {
        bf16_row(p, i % PANEL, m->cols, dst);
        return;
    }
    for (int b = 0; b < m->cols / d->block; b++) {
        uint8_t block[PANEL_BLOCK_MOST];
        panel_block(m->type, p, i % PANEL, b, block);
        row_to_f32(m->type, block, dst + (size_t)b * (size_t)d->block, d->block);
    }
}

/* -- quantising
 * --------------------------------------------------------------------------------
 */

/* Square error of n values (a multiple of 4) in steps of d; four sums, so that
 * compilers may use vectors and the result is the same bits whether they do or
 * not. */
static float step_error(const float *x, int n, float d) {
    float id = 1 / d, sum[4] = {0};
    for (int i = 0; i < n; i += 4)
        for (int k = 0; k < 4; k++) {
            float e = x[i + k] - d * search_nearest(x[i + k] * id);
            sum[k] += e * e;
        }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

/* The step of a group whose largest magnitude is max: it becomes 127 or
 * somewhat less, whichever of 16 trials has the least square error.  How the
 * errors fall is chance, and the shorter the group the more the best of several
 * gains: four tenths of the error for 8 columns. */
static float best_step(const float *x, int n, float max) {
    float d = max / 127, least = INFINITY;
    if (!(max > 1e-15f && max < 1e15f)) /* NaN, or squares would leave the range of float */
        return d;
    for (int k = 0; k < 16; k++) {
        float trial = max / (127 - 0.5f * (float)k), error = step_error(x, n, trial);
        if (error < least) {
            least = error;
            d = trial;
        }
    }
    return d;
}

static void write_group(const float *x, uint8_t *to, int n) {
    float max = 0;
    int8_t *q = (int8_t *)to + 4;
    for (int i = 0; i < n; i++)
        max = fmaxf(max, fabsf(x[i])); /* passes over NaN */
    for (int i = 0; i < n; i++)
        if (!isfinite(x[i]))
            max = NAN; /* the group reads as NaN */
    float d = best_step(x, n, max), id = search_inverse(d);
    memcpy(to, &d, 4);
    for (int i = 0; i < n; i++)
        q[i] = (int8_t)(id != 0 ? lrintf(x[i] * id) : 0);
}

void int8_write(const float *x, void *row, int n) {
    int group = int8_group(n);
    uint8_t *to = row;
    for (int i = 0; i < n; i += group, to += 4 + group)
        write_group(x + i, to, n - i < group ? n - i : group);
}

void int4_write(const float *x, void *row, int n) {
    uint8_t *p = row;
    for (int b = 0; b < n / BLOCK; b++, x += BLOCK, p += BLOCK_BYTES) {
        uint8_t u[BLOCK];
        uint16_t h = f16_from_f32(search_scale(x, BLOCK, 8));
        float id = search_inverse(f16_to_f32(h));
        memcpy(p, &h, 2);
        for (int i = 0; i < BLOCK; i++) /* an id of a denormal scale may overflow: cut first */
            u[i] = (uint8_t)(id != 0 ? (int)search_nearest(search_clamp(x[i] * id, -8, 7)) + 8 : 8);
        for (int i = 0; i < BLOCK / 2; i++)
            p[2 + i] = (uint8_t)(u[i] | u[i + BLOCK / 2] << 4);
    }
}
