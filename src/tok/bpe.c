/* bpe.c - byte-pair merges (Sennrich et al., 2016): symbols of a word become pieces of the
 * vocabulary. The rule: of all neighbouring pairs that have a merge, the one of lowest rank,
 * leftmost among equals, is merged; repeat.  Three things make it fast and O(n log n) on any input:
 * - a word that is itself a piece, and was seen to encode as that piece, is one look-up
 * (tok.whole); - a word is cut where no merge joins the two symbols (tok.junction), so most
 * stretches are short; - short stretches scan an array; long ones use queue_run, a queue of ranks
 * with one list of positions
 *     each, kept ascending and written as progressions, so that runs cost little;
 *     what would break the order goes to one overflow heap. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/impl.h"

#define NO_RANK UINT32_MAX
#define SHORT 40                 /* symbols up to which the quadratic scan wins */
#define JUNCTION_BITS (1u << 18) /* a false hit only costs a cut */

static inline uint64_t pair_hash(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

static inline const struct pair *pair_find(const struct tok *t, int32_t left, int32_t right) {
    if (!t->pair)
        return NULL;
    for (size_t i = pair_hash(left, right) & t->pair_mask;; i = (i + 1) & t->pair_mask) {
        const struct pair *p = &t->pair[i];
        if (p->left == left && p->right == right)
            return p;
        if (p->left < 0)
            return NULL;
    }
}

void bpe_reserve(struct tok *t, size_t n_merges) {
    size_t size = 16;
    while (size / 2 < n_merges)
        size *= 2;
    t->pair = mem_array(size, sizeof *t->pair);
    for (size_t i = 0; i < size; i++)
        t->pair[i].left = -1;
    t->pair_mask = size - 1;
}

void bpe_add(struct tok *t, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    size_t i = pair_hash(left, right) & t->pair_mask;
    while (t->pair[i].left >= 0 && (t->pair[i].left != left || t->pair[i].right != right))
        i = (i + 1) & t->pair_mask;
    t->n_pair += t->pair[i].left < 0;
    t->pair[i] = (struct pair){left, right, rank, id};
    if (rank >= t->n_rank)
        t->n_rank = rank + 1;
}

static inline uint32_t junction_bit(int32_t left, int32_t right) {
    return (uint32_t)(pair_hash(left, right) >> 13) & (JUNCTION_BITS - 1);
}

/* A merge that spans two neighbouring symbols joins a piece ending in the one to a piece
 * starting with the other, so only such pairs of symbols need a bit. */
void bpe_junctions(struct tok *t) {
    t->junction = mem_new(JUNCTION_BITS / 8);
    for (size_t i = 0; t->pair && i <= t->pair_mask; i++) {
        const struct pair *p = &t->pair[i];
        if (p->left < 0 || t->piece[p->left].last < 0 || t->piece[p->right].first < 0)
            continue;
        uint32_t bit = junction_bit(t->piece[p->left].last, t->piece[p->right].first);
        t->junction[bit / 64] |= 1ull << bit % 64;
    }
}

static inline bool may_join(const struct tok *t, int32_t left, int32_t right) {
    uint32_t bit = junction_bit(left, right);
    return t->junction[bit / 64] >> bit % 64 & 1;
}

/* ---- short stretches ---- */

static size_t scan_run(const struct tok *t, int32_t *sym, size_t n) {
    uint32_t rank[SHORT];
    int32_t id[SHORT];
    const struct pair *p;
    for (size_t i = 0; i + 1 < n; i++) {
        p = pair_find(t, sym[i], sym[i + 1]);
        rank[i] = p ? p->rank : NO_RANK;
        id[i] = p ? p->id : -1;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NO_RANK)
            break;
        sym[best] = id[best];
        n--;
        memmove(sym + best + 1, sym + best + 2, (n - best - 1) * sizeof *sym);
        memmove(rank + best, rank + best + 1, (n - best) * sizeof *rank);
        memmove(id + best, id + best + 1, (n - best) * sizeof *id);
        if (best + 1 < n) {
            p = pair_find(t, sym[best], sym[best + 1]);
            rank[best] = p ? p->rank : NO_RANK;
            id[best] = p ? p->id : -1;
        }
        if (best > 0) {
            p = pair_find(t, sym[best - 1], sym[best]);
            rank[best - 1] = p ? p->rank : NO_RANK;
            id[best - 1] = p ? p->id : -1;
        }
    }
    return n;
}

/* ---- long stretches ---- */

/* A symbol covers `span` positions; the span stands at its first and at its last, so that both
 * neighbours are found.  The rest stands at its first. */
struct link {
    uint32_t span;
    uint32_t rank; /* of the pair (this, next), NO_RANK if it has no merge or the symbol is gone */
    int32_t id;    /* what that merge makes */
};
struct node { /* positions of a rank's list: pos, pos + step, ..., count of them */
    uint32_t pos, step, count, next;
};
struct list {
    uint32_t head, tail; /* nodes; head 0 = empty, and then the rank is not in the rank heap */
};

struct queue {
    struct link *link; /* n positions */
    size_t cap;
    uint32_t n;
    struct node *node;
    uint32_t n_node, cap_node;
    uint32_t unused;   /* nodes taken from lists, chained for reuse: they are in cache; 0 = none */
    struct list *list; /* by rank */
    uint32_t *rank;    /* binary heap of the ranks with a list */
    size_t n_rank, cap_rank;
    uint64_t *over; /* binary heap of rank << 32 | position */
    size_t n_over, cap_over;
    /* the last look-up of queue_pair: most of a run of equal symbols asks the same again */
    int32_t left, right;
    const struct pair *found;
};

void queue_free(struct queue *q) {
    if (!q)
        return;
    free(q->link);
    free(q->node);
    free(q->list);
    free(q->rank);
    free(q->over);
    free(q);
}

static struct queue *queue_new(const struct tok *t) {
    struct queue *q = mem_new(sizeof *q);
    q->left = -1;
    q->list = mem_array(t->n_rank ? t->n_rank : 1, sizeof *q->list);
    return q;
}

static void rank_push(struct queue *q, uint32_t rank) {
    if (q->n_rank == q->cap_rank) {
        q->cap_rank = q->cap_rank ? q->cap_rank * 2 : 256;
        q->rank = mem_resize(q->rank, q->cap_rank, sizeof *q->rank);
    }
    size_t i = q->n_rank++;
    for (; i && q->rank[(i - 1) / 2] > rank; i = (i - 1) / 2)
        q->rank[i] = q->rank[(i - 1) / 2];
    q->rank[i] = rank;
}

static void rank_pop(struct queue *q) {
    uint32_t last = q->rank[--q->n_rank];
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < q->n_rank; i = c) {
        c += c + 1 < q->n_rank && q->rank[c + 1] < q->rank[c];
        if (q->rank[c] >= last)
            break;
        q->rank[i] = q->rank[c];
    }
    q->rank[i] = last;
}

static void over_push(struct queue *q, uint64_t key) {
    if (q->n_over == q->cap_over) {
        q->cap_over = q->cap_over ? q->cap_over * 2 : 256;
        q->over = mem_resize(q->over, q->cap_over, sizeof *q->over);
    }
    size_t i = q->n_over++;
    for (; i && q->over[(i - 1) / 2] > key; i = (i - 1) / 2)
        q->over[i] = q->over[(i - 1) / 2];
    q->over[i] = key;
}

static void over_pop(struct queue *q) {
    uint64_t last = q->over[--q->n_over];
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < q->n_over; i = c) {
        c += c + 1 < q->n_over && q->over[c + 1] < q->over[c];
        if (q->over[c] >= last)
            break;
        q->over[i] = q->over[c];
    }
    q->over[i] = last;
}

static uint32_t node_new(struct queue *q, uint32_t pos) {
    uint32_t at = q->unused;
    if (at) {
        q->unused = q->node[at].next;
    } else {
        if (q->n_node >= q->cap_node) {
            q->cap_node = q->cap_node ? q->cap_node * 2 : 256;
            q->node = mem_resize(q->node, q->cap_node, sizeof *q->node);
        }
        at = q->n_node++;
    }
    q->node[at] = (struct node){pos, 0, 1, 0};
    return at;
}

/* Appends pos to the list of its rank; false = it would not be the last in order. */
static bool list_add(struct queue *q, struct list *b, uint32_t rank, uint32_t pos) {
    if (!b->head) {
        b->head = b->tail = node_new(q, pos);
        rank_push(q, rank);
        return true;
    }
    struct node *tail = &q->node[b->tail];
    uint32_t last = tail->pos + tail->step * (tail->count - 1);
    if (pos <= last)
        return false;
    if (tail->count == 1 || pos == last + tail->step) {
        tail->step = pos - last;
        tail->count++;
        return true;
    }
    uint32_t at = node_new(q, pos); /* may move the nodes */
    q->node[b->tail].next = at;
    b->tail = at;
    return true;
}

/* Looks up the pair that starts at pos and queues it. */
static void queue_pair(struct queue *q, const struct tok *t, const int32_t *sym, uint32_t pos) {
    struct link *l = &q->link[pos];
    uint32_t next = pos + l->span;
    l->rank = NO_RANK;
    if (next == q->n)
        return;
    if (sym[pos] != q->left || sym[next] != q->right) {
        q->left = sym[pos];
        q->right = sym[next];
        q->found = pair_find(t, q->left, q->right);
    }
    const struct pair *p = q->found;
    if (!p)
        return;
    l->rank = p->rank;
    l->id = p->id;
    if (!list_add(q, &q->list[p->rank], p->rank, pos))
        over_push(q, (uint64_t)p->rank << 32 | pos);
}

/* Takes the queued pair of lowest (rank, position); false = none left. */
static bool queue_take(struct queue *q, uint32_t *rank, uint32_t *pos) {
    uint64_t key = UINT64_MAX;
    struct list *b = NULL;
    if (q->n_rank) {
        b = &q->list[q->rank[0]];
        key = (uint64_t)q->rank[0] << 32 | q->node[b->head].pos;
    }
    if (q->n_over && q->over[0] <= key) {
        key = q->over[0];
        over_pop(q);
    } else if (b) {
        struct node *head = &q->node[b->head];
        head->pos += head->step;
        if (--head->count == 0) {
            uint32_t taken = b->head;
            b->head = head->next;
            head->next = q->unused;
            q->unused = taken;
            if (!b->head)
                rank_pop(q);
        }
    } else {
        return false;
    }
    *rank = (uint32_t)(key >> 32);
    *pos = (uint32_t)key;
    return true;
}

/* Merges the pair that starts at pos. */
static void queue_merge(struct queue *q, const struct tok *t, int32_t *sym, uint32_t pos) {
    struct link *l = &q->link[pos], *gone = l + l->span;
    sym[pos] = l->id;
    gone->rank = NO_RANK;
    l->span += gone->span;
    l[l->span - 1].span = l->span;
    queue_pair(q, t, sym, pos);
    if (pos)
        queue_pair(q, t, sym, pos - q->link[pos - 1].span);
}

static size_t queue_run(struct enc *e, int32_t *sym, size_t n) {
    const struct tok *t = e->t;
    if (!e->queue)
        e->queue = queue_new(t);
    struct queue *q = e->queue;
    if (q->cap < n) {
        q->cap = n;
        q->link = mem_resize(q->link, n, sizeof *q->link);
    }
    q->n = (uint32_t)n;
    q->n_node = 1;
    q->unused = 0;
    for (uint32_t i = 0; i < n; i++)
        q->link[i].span = 1;
    for (uint32_t i = 0; i < n; i++)
        queue_pair(q, t, sym, i);
    for (uint32_t rank, pos; queue_take(q, &rank, &pos);)
        if (q->link[pos].rank == rank) /* else one of its symbols has been merged since */
            queue_merge(q, t, sym, pos);
    size_t out = 0;
    for (uint32_t i = 0; i < n; i += q->link[i].span)
        sym[out++] = sym[i]; /* out <= i: positions only grow */
    return out;
}

/* ---- words ---- */

static inline const struct map *words(const struct tok *t) {
    return t->bytes ? t->by_raw : t->by_piece;
}

/* The id of a word that is a piece and encodes as one; *maybe: a piece of which that is not
 * known yet. */
static int32_t whole_word(const struct tok *t, const char *s, size_t n, int32_t *maybe) {
    *maybe = -1;
    int32_t id = n <= t->max_piece ? map_get(words(t), s, n) : -1;
    if (id < 0 || t->piece[id].kind != PIECE_NORMAL)
        return -1;
    unsigned char known = atomic_load_explicit(&t->whole[id], memory_order_relaxed);
    if (known == 1 || (t->ignore_merges && t->bytes))
        return id;
    if (known == 0)
        *maybe = id;
    return -1;
}

/* Merges a stretch of symbols, spelt s[0..n), and emits it. */
static void stretch(struct enc *e, int32_t *sym, size_t n_sym, const char *s, size_t n) {
    const struct tok *t = e->t;
    int32_t maybe = -1, id = -1;
    if (n_sym == 0)
        return;
    e->last_unk = false;
    if (n_sym == 1) {
        ids_add(e->out, sym[0]);
        return;
    }
    if (!t->bytes && n_sym <= SHORT)
        id = whole_word(t, s, n, &maybe);
    if (id >= 0) {
        ids_add(e->out, id);
        return;
    }
    n_sym = n_sym <= SHORT ? scan_run(t, sym, n_sym) : queue_run(e, sym, n_sym);
    if (maybe >= 0)
        atomic_store_explicit(&t->whole[maybe], n_sym == 1 && sym[0] == maybe ? 1 : 2,
                              memory_order_relaxed);
    ids_addn(e->out, sym, n_sym);
}

static void emit_unknown(struct enc *e) {
    if (e->t->unk < 0 || (e->t->fuse_unk && e->last_unk))
        return;
    ids_add(e->out, e->t->unk);
    e->last_unk = true;
}

/* Symbols of one character of SentencePiece text: its piece, or its bytes, or none.  Returns
 * their number. */
static inline int char_symbols(const struct tok *t, const char *s, int len, int32_t cp,
                               int32_t sym[4]) {
    sym[0] = cp < 0x10000 ? t->char_id[cp] : map_get(t->by_piece, s, (size_t)len);
    if (sym[0] >= 0 && (cp < 0x10000 || t->piece[sym[0]].kind == PIECE_NORMAL))
        return 1;
    for (int i = 0; i < len; i++) {
        sym[i] = t->byte_id[(unsigned char)s[i]];
        if (!t->byte_fallback || sym[i] < 0)
            return 0;
    }
    return len;
}

static void text_word(struct enc *e, const char *s, size_t n) {
    const struct tok *t = e->t;
    const char *end = s + n, *lo = s;
    struct ids *v = &e->sym;
    int32_t cp, sym[4];
    v->n = 0;
    for (int len; s < end; s += len) {
        const char *c = s;
        len = utf8_next(s, end, &cp);
        int shown = len;
        if (len == 0) { /* as SentencePiece does */
            c = "\xef\xbf\xbd";
            cp = 0xfffd;
            shown = 3;
            len = 1;
        }
        int k = char_symbols(t, c, shown, cp, sym);
        if (k == 0 || shown != len || (v->n && !may_join(t, v->id[v->n - 1], sym[0]))) {
            stretch(e, v->id, v->n, lo, (size_t)(s - lo));
            v->n = 0;
            lo = s;
        }
        if (k == 0) {
            emit_unknown(e);
            lo = s + len;
            continue;
        }
        ids_reserve(v, 4);
        for (int i = 0; i < k; i++)
            v->id[v->n++] = sym[i];
        if (shown != len) {
            stretch(e, v->id, v->n, "", 0);
            v->n = 0;
            lo = s + len;
        }
    }
    stretch(e, v->id, v->n, lo, (size_t)(end - lo));
}

static void byte_word(struct enc *e, const char *s, size_t n) {
    const struct tok *t = e->t;
    int32_t maybe, id = whole_word(t, s, n, &maybe);
    if (id >= 0) {
        ids_add(e->out, id);
        return;
    }
    struct ids *v = &e->sym;
    size_t before = e->out->n;
    ids_reserve(v, n);
    v->n = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t sym = t->byte_id[(unsigned char)s[i]];
        if (v->n && (sym < 0 || !may_join(t, v->id[v->n - 1], sym))) {
            stretch(e, v->id, v->n, s, 0);
            v->n = 0;
        }
        if (sym < 0)
            emit_unknown(e);
        else
            v->id[v->n++] = sym;
    }
    stretch(e, v->id, v->n, s, 0);
    if (maybe >= 0)
        atomic_store_explicit(&t->whole[maybe],
                              e->out->n == before + 1 && e->out->id[before] == maybe ? 1 : 2,
                              memory_order_relaxed);
}

void bpe_word(struct enc *e, const char *s, size_t n) {
    e->last_unk = false;
    if (n == 0)
        return;
    if (e->t->bytes) {
        byte_word(e, s, n);
        return;
    }
    int32_t maybe, id = -1;
    if (e->t->ignore_merges && (id = whole_word(e->t, s, n, &maybe)) < 0)
        id = maybe;
    if (id >= 0)
        ids_add(e->out, id);
    else
        text_word(e, s, n);
}
