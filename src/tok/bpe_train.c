/* bpe_train.c - learn the merges of byte-level BPE (Sennrich et al., 2016) from word counts.
 *
 * All distinct words lie in one array of cells, with a wall on each side of a word.  A symbol of n
 * bytes covers n cells; its id stands in the first and in the last, GONE in between.  So both
 * neighbours of a symbol are one look-up away, and a long word costs no more per merge than a short
 * one.
 *
 * Each pair knows the places where it was seen, ascending.  A place may be stale: it counts only if
 * the cells still say so.  A pair can only appear in the step that makes the newer of its symbols,
 * and a symbol is made once; so from then on its count only falls, and the heap may hold a count
 * that is too high: it is put right when it comes to the top.  No string is made by two merges,
 * since equal bytes inside a symbol were merged by the same steps.
 *
 * Invariants: (1) count of a pair = sum over its live places of the word's count; (2) first and
 * last cell of a symbol agree; (3) pairs below min_count, or too long to be a piece, are not
 * kept. */
#include "tok/bpe_train.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "tok/impl.h"

#define WALL (-1)
#define GONE (-2)
#define MAX_BYTES (TOK_MAX_PIECE / 2) /* of a symbol: each byte takes up to two in a file */
#define COARSE 64                     /* cells per entry of the table that finds a cell's word */

struct symbol {
    const char *text; /* borrowed from a word */
    uint32_t len;
};
struct learnt_pair {
    int32_t left, right;
    int64_t count;
    uint32_t *place, n; /* cells where it begins; NULL once merged */
};
struct top { /* heap entry; count >= that of the pair */
    int64_t count;
    uint32_t pair;
};
struct slot { /* a pair that the current step made */
    int32_t left, right;
    int64_t count;
    uint32_t n, pair; /* places seen; index in state.pair, NONE = not kept */
};
struct seen {
    uint32_t slot, place;
};
#define NONE UINT32_MAX

struct state {
    const struct words *w;
    int64_t min_count;

    int32_t *cell;
    size_t n_cell;
    uint32_t *start;  /* first cell of each word, and n_cell */
    uint32_t *coarse; /* the word at each COARSE-th cell */

    struct symbol *symbol;
    int n_symbol;

    struct learnt_pair *pair;
    size_t n_pair, cap_pair;
    uint32_t *table; /* open addressing on (left, right): index in pair + 1 */
    size_t mask;
    struct top *heap;
    size_t n_heap, cap_heap;

    uint32_t *as_left, *as_right; /* per symbol: slot + 1 of (symbol, new), of (new, symbol) */
    struct slot *slot;
    size_t n_slot, cap_slot;
    struct seen *seen;
    size_t n_seen, cap_seen;
};

/* ---- cells ---- */

static uint32_t word_at(const struct state *s, uint32_t place) {
    uint32_t i = s->coarse[place / COARSE];
    while (s->start[i + 1] <= place)
        i++;
    return i;
}

/* Does the pair stand here still?  A cell holds an id only where that symbol begins or ends, and
 * one that ends where another once began is longer, so it has another id. */
static bool is_live(const struct state *s, uint32_t place, int32_t left, int32_t right) {
    return s->cell[place] == left && s->cell[place + s->symbol[left].len] == right;
}

static int lay_out(struct state *s, struct err *err) {
    const struct words *w = s->w;
    size_t total = 1;
    for (size_t i = 0; i < w->n; i++)
        total += (size_t)w->word[i].len + 1;
    if (total >= NONE)
        return err_set(err, E_MEMORY, "the distinct words take %zu bytes, more than 4 GiB", total);
    s->n_cell = total;
    if (!(s->cell = mem_pages(total * sizeof *s->cell, "the cells of all words", err)))
        return -1;
    s->start = mem_array(w->n + 1, sizeof *s->start);
    s->coarse = mem_array(total / COARSE + 1, sizeof *s->coarse);
    uint32_t at = 0, block = 0;
    s->cell[at++] = WALL;
    for (size_t i = 0; i < w->n; i++) {
        s->start[i] = at;
        for (uint32_t k = 0; k < w->word[i].len; k++)
            s->cell[at++] = (unsigned char)w->word[i].text[k];
        s->cell[at++] = WALL;
        for (; (size_t)block * COARSE < at; block++)
            s->coarse[block] = (uint32_t)i;
    }
    s->start[w->n] = at;
    return 0;
}

/* ---- pairs ---- */

static size_t pair_slot(const struct state *s, int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15ull;
    size_t i = (h ^ h >> 29) & s->mask;
    for (; s->table[i]; i = (i + 1) & s->mask) {
        const struct learnt_pair *p = &s->pair[s->table[i] - 1];
        if (p->left == left && p->right == right)
            break;
    }
    return i;
}

static void table_grow(struct state *s) {
    free(s->table);
    s->mask = s->mask * 2 + 1;
    s->table = mem_array(s->mask + 1, sizeof *s->table);
    for (size_t i = 0; i < s->n_pair; i++)
        s->table[pair_slot(s, s->pair[i].left, s->pair[i].right)] = (uint32_t)i + 1;
}

static int compare_text(const struct symbol *a, const struct symbol *b) {
    int c = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
    return c ? c : (a->len > b->len) - (a->len < b->len);
}

/* Is a merged before b? */
static bool before(const struct state *s, struct top a, struct top b) {
    const struct learnt_pair *p = &s->pair[a.pair], *q = &s->pair[b.pair];
    if (a.count != b.count)
        return a.count > b.count;
    int c = compare_text(&s->symbol[p->left], &s->symbol[q->left]);
    return (c ? c : compare_text(&s->symbol[p->right], &s->symbol[q->right])) > 0;
}

static void heap_push(struct state *s, struct top t) {
    if (s->n_heap == s->cap_heap) {
        s->cap_heap = s->cap_heap ? s->cap_heap * 2 : 4096;
        s->heap = mem_resize(s->heap, s->cap_heap, sizeof *s->heap);
    }
    size_t i = s->n_heap++;
    for (; i && before(s, t, s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = t;
}

/* Puts t in place of the top. */
static void heap_sink(struct state *s, struct top t) {
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < s->n_heap; i = c) {
        c += c + 1 < s->n_heap && before(s, s->heap[c + 1], s->heap[c]);
        if (!before(s, s->heap[c], t))
            break;
        s->heap[i] = s->heap[c];
    }
    s->heap[i] = t;
}

static void heap_pop(struct state *s) {
    struct top last = s->heap[--s->n_heap];
    if (s->n_heap)
        heap_sink(s, last);
}

/* Adds a pair with room for n places, unless it can never be merged; its index or NONE. */
static uint32_t pair_new(struct state *s, const struct slot *v) {
    if (v->count < s->min_count || s->symbol[v->left].len + s->symbol[v->right].len > MAX_BYTES)
        return NONE;
    if (s->n_pair == s->cap_pair) {
        s->cap_pair *= 2;
        s->pair = mem_resize(s->pair, s->cap_pair, sizeof *s->pair);
    }
    if (s->n_pair >= s->mask / 2)
        table_grow(s);
    size_t at = pair_slot(s, v->left, v->right);
    assert(!s->table[at]);
    uint32_t *place = mem_array(v->n, sizeof *place);
    s->pair[s->n_pair++] = (struct learnt_pair){v->left, v->right, v->count, place, 0};
    s->table[at] = (uint32_t)s->n_pair;
    heap_push(s, (struct top){v->count, (uint32_t)s->n_pair - 1});
    return (uint32_t)s->n_pair - 1;
}

static void pair_lose(struct state *s, int32_t left, int32_t right, int64_t count) {
    uint32_t i = s->table[pair_slot(s, left, right)];
    if (i)
        s->pair[i - 1].count -= count;
}

/* The pairs of bytes. */
static void first_pairs(struct state *s) {
    struct slot *v = mem_array(65536, sizeof *v);
    const struct words *w = s->w;
    for (size_t i = 0; i < w->n; i++)
        for (uint32_t at = s->start[i]; s->cell[at + 1] != WALL; at++) {
            struct slot *p = &v[s->cell[at] << 8 | s->cell[at + 1]];
            p->count += w->word[i].count;
            p->n++;
        }
    for (int k = 0; k < 65536; k++) {
        v[k].left = k >> 8;
        v[k].right = k & 255;
        v[k].pair = pair_new(s, &v[k]);
    }
    for (size_t at = 1; at + 1 < s->n_cell; at++) {
        if (s->cell[at] == WALL || s->cell[at + 1] == WALL)
            continue;
        uint32_t i = v[s->cell[at] << 8 | s->cell[at + 1]].pair;
        if (i != NONE)
            s->pair[i].place[s->pair[i].n++] = (uint32_t)at;
    }
    free(v);
}

/* ---- one merge ---- */

/* A place where the step made (left, right), one of them new. */
static void step_add(struct state *s, int32_t left, int32_t right, uint32_t place, int64_t count) {
    bool new_right = right == s->n_symbol - 1;
    uint32_t *index = new_right ? &s->as_left[left] : &s->as_right[right];
    if (*index == 0) {
        if (s->n_slot == s->cap_slot) {
            s->cap_slot = s->cap_slot ? s->cap_slot * 2 : 256;
            s->slot = mem_resize(s->slot, s->cap_slot, sizeof *s->slot);
        }
        s->slot[s->n_slot++] = (struct slot){.left = left, .right = right};
        *index = (uint32_t)s->n_slot;
    }
    struct slot *v = &s->slot[*index - 1];
    v->count += count;
    v->n++;
    if (s->n_seen == s->cap_seen) {
        s->cap_seen = s->cap_seen ? s->cap_seen * 2 : 4096;
        s->seen = mem_resize(s->seen, s->cap_seen, sizeof *s->seen);
    }
    s->seen[s->n_seen++] = (struct seen){*index - 1, place};
}

/* Makes symbol c of the pair at this place. */
static void merge_at(struct state *s, uint32_t place, int32_t a, int32_t b, int32_t c) {
    uint32_t i = word_at(s, place), middle = place + s->symbol[a].len;
    uint32_t end = middle + s->symbol[b].len;
    const struct word *word = &s->w->word[i];
    int32_t left = s->cell[place - 1], right = s->cell[end];
    if (!s->symbol[c].text)
        s->symbol[c].text = word->text + (place - s->start[i]);
    if (left == c) /* seen as (c, a) when c was made there */
        s->slot[s->as_right[a] - 1].count -= word->count;
    else if (left != WALL)
        pair_lose(s, left, a, word->count);
    if (left != WALL)
        step_add(s, left, c, place - s->symbol[left].len, word->count);
    if (right != WALL) {
        pair_lose(s, b, right, word->count);
        step_add(s, c, right, place, word->count);
    }
    s->cell[middle - 1] = s->cell[middle] = GONE;
    s->cell[place] = s->cell[end - 1] = c;
}

/* Keeps the pairs that the step made, with their places. */
static void step_end(struct state *s) {
    for (size_t i = 0; i < s->n_slot; i++) {
        struct slot *v = &s->slot[i];
        v->pair = pair_new(s, v);
        s->as_left[v->left] = s->as_right[v->right] = 0;
    }
    for (size_t i = 0; i < s->n_seen; i++) {
        const struct slot *v = &s->slot[s->seen[i].slot];
        if (v->pair == NONE || !is_live(s, s->seen[i].place, v->left, v->right))
            continue;
        struct learnt_pair *p = &s->pair[v->pair];
        p->place[p->n++] = s->seen[i].place;
    }
    s->n_slot = s->n_seen = 0;
}

static void merge_pair(struct state *s, uint32_t index) {
    struct learnt_pair p = s->pair[index];
    int32_t c = s->n_symbol++;
    s->symbol[c] = (struct symbol){NULL, s->symbol[p.left].len + s->symbol[p.right].len};
    for (uint32_t i = 0; i < p.n; i++)
        if (is_live(s, p.place[i], p.left, p.right))
            merge_at(s, p.place[i], p.left, p.right, c);
    assert(s->symbol[c].text);
    free(p.place);
    s->pair[index].place = NULL;
    step_end(s);
}

/* The pair to merge next, or NONE. */
static uint32_t take(struct state *s) {
    while (s->n_heap) {
        struct top t = s->heap[0];
        struct learnt_pair *p = &s->pair[t.pair];
        if (p->count == t.count) {
            heap_pop(s);
            return t.pair;
        }
        t.count = p->count;
        if (t.count >= s->min_count) {
            heap_sink(s, t);
            continue;
        }
        heap_pop(s);
        free(p->place);
        p->place = NULL;
    }
    return NONE;
}

/* ---- all of it ---- */

static int64_t count_tokens(const struct state *s) {
    int64_t tokens = 0;
    for (size_t i = 0; i < s->w->n; i++)
        for (uint32_t at = s->start[i]; s->cell[at] != WALL; at += s->symbol[s->cell[at]].len)
            tokens += s->w->word[i].count;
    return tokens;
}

static void state_free(struct state *s) {
    for (size_t i = 0; i < s->n_pair; i++)
        free(s->pair[i].place);
    mem_pages_free(s->cell, s->n_cell * sizeof *s->cell);
    free(s->start);
    free(s->coarse);
    free(s->symbol);
    free(s->pair);
    free(s->table);
    free(s->heap);
    free(s->as_left);
    free(s->as_right);
    free(s->slot);
    free(s->seen);
}

int bpe_learn(const struct words *w, int most, int64_t min_count, bool progress,
              struct bpe_merges *out, struct err *err) {
    static unsigned char bytes[256];
    struct state s = {.w = w, .min_count = min_count > 1 ? min_count : 1};
    size_t n = (size_t)most + 256;
    int rc = -1;
    *out = (struct bpe_merges){0};
    if (lay_out(&s, err))
        goto out;
    s.symbol = mem_array(n, sizeof *s.symbol);
    s.as_left = mem_array(n, sizeof *s.as_left);
    s.as_right = mem_array(n, sizeof *s.as_right);
    s.cap_pair = 4096;
    s.pair = mem_array(s.cap_pair, sizeof *s.pair);
    s.mask = 8191;
    s.table = mem_array(s.mask + 1, sizeof *s.table);
    for (int b = 0; b < 256; b++) {
        bytes[b] = (unsigned char)b;
        s.symbol[s.n_symbol++] = (struct symbol){(const char *)&bytes[b], 1};
    }
    first_pairs(&s);
    out->merge = mem_array((size_t)most, sizeof *out->merge);
    struct progress bar = progress_start("merging", most);
    for (uint32_t i; out->n < most && (i = take(&s)) != NONE;) {
        const struct learnt_pair *p = &s.pair[i];
        out->merge[out->n++] = (struct bpe_merge){p->left, p->right, p->count};
        merge_pair(&s, i);
        if (progress)
            progress_update(&bar, out->n);
    }
    if (progress)
        progress_end(&bar);
    out->tokens = count_tokens(&s);
    rc = 0;
out:
    state_free(&s);
    return rc;
}
