/* guide_vocab.c - the tokens that may follow.  Most tokens are whole characters without quotes:
 * inside a string they all may come, and only the others have to be tried one by one, along a trie
 * of their bytes.  Where few bytes may follow, the trie of all tokens is soon left. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/guide_impl.h"
#include "tok/impl.h"

enum { LONGEST = 256 }; /* bytes of a token that is tried; longer ones are never used */

static const char *vocab_bytes(const struct guide_vocab *v, int32_t id, size_t *n) {
    const struct piece *p = &v->tok->piece[id];
    if (p->kind == PIECE_HOLE || p->kind == PIECE_UNUSED || tok_is_special(v->tok, id) ||
        !p->raw_len || p->raw_len > LONGEST)
        return NULL;
    *n = p->raw_len;
    return p->raw;
}

/* Whole characters that may stand inside a string; how many in *chars. */
static bool is_plain(const char *p, size_t n, int *chars) {
    int32_t cp;
    *chars = 0;
    for (size_t i = 0, len; i < n; i += len, ++*chars)
        if (!(len = (size_t)utf8_next(p + i, p + n, &cp)) || cp < 32 || cp == '"' || cp == '\\')
            return false;
    return true;
}

struct entry {
    const char *p;
    size_t n;
    int32_t id;
};

static int by_bytes(const void *pa, const void *pb) {
    const struct entry *a = pa, *b = pb;
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    return c ? c : a->n != b->n ? (a->n > b->n) - (a->n < b->n) : a->id - b->id;
}

static int child_of(struct vtrie *t, int at, unsigned char c, int last) {
    if (last && t->node[last].byte == c)
        return last;
    int id = t->n_node++;
    t->node[id].byte = c;
    if (last)
        t->node[last].next = id;
    else
        t->node[at].child = id;
    return id;
}

/* Entries are sorted: the path of the one before shares a beginning with the next. */
static void build(struct vtrie *t, const struct entry *e, int n) {
    int path[LONGEST + 1] = {0}, last[LONGEST + 1] = {0};
    size_t bytes = 1, depth = 0;
    for (int i = 0; i < n; i++)
        bytes += e[i].n;
    t->node = mem_array(bytes, sizeof *t->node);
    t->token = mem_array((size_t)n + 1, sizeof *t->token);
    t->n_node = 1;
    for (int i = 0; i < n; i++) {
        size_t same = 0;
        while (i && same < depth && same < e[i].n && e[i - 1].p[same] == e[i].p[same])
            same++;
        for (size_t k = same; k < e[i].n; k++) {
            /* last[k]: the newest child of path[k] */
            last[k] = child_of(t, path[k], (unsigned char)e[i].p[k], last[k]);
            path[k + 1] = last[k];
            last[k + 1] = 0;
        }
        depth = e[i].n;
        struct vtrie_node *node = &t->node[path[depth]];
        if (!node->n_token)
            node->token = t->n_token;
        node->n_token++;
        t->token[t->n_token++] = e[i].id;
    }
    t->node = mem_resize(t->node, (size_t)t->n_node, sizeof *t->node);
}

struct guide_vocab *guide_vocab_new(const struct tok *t) {
    struct guide_vocab *v = mem_new(sizeof *v);
    v->tok = t;
    v->n_vocab = tok_size(t);
    v->n_word = (v->n_vocab + 31) / 32;
    v->plain = mem_array((size_t)v->n_word + 1, sizeof *v->plain);
    struct entry *all = mem_array((size_t)v->n_vocab + 1, sizeof *all);
    struct entry *odd = mem_array((size_t)v->n_vocab + 1, sizeof *odd);
    int n = 0, n_odd = 0, chars;
    for (int32_t id = 0; id < v->n_vocab; id++) {
        struct entry e = {.id = id};
        if (!(e.p = vocab_bytes(v, id, &e.n)))
            continue;
        all[n++] = e;
        if (!is_plain(e.p, e.n, &chars)) {
            odd[n_odd++] = e;
            continue;
        }
        v->plain[id / 32] |= 1u << id % 32;
        v->longest = chars > v->longest ? chars : v->longest;
    }
    qsort(all, (size_t)n, sizeof *all, by_bytes);
    qsort(odd, (size_t)n_odd, sizeof *odd, by_bytes);
    build(&v->all, all, n);
    build(&v->odd, odd, n_odd);
    free(all);
    free(odd);
    return v;
}

void guide_vocab_free(struct guide_vocab *v) {
    if (!v)
        return;
    free(v->all.node);
    free(v->all.token);
    free(v->odd.node);
    free(v->odd.token);
    free(v->plain);
    free(v);
}

/* -- masks ------------------------------------------------------------------------------------- */

/* A place in the trie and the states that lead to its siblings. */
struct walk {
    int node;
    struct gset from;
};

static void walk(struct guide *g, const struct vtrie *t, uint32_t *bits) {
    struct walk *stack = mem_array(LONGEST + 2, sizeof *stack);
    int n = 1;
    stack[0] = (struct walk){t->node[0].child, g->now};
    while (n) {
        struct walk *w = &stack[n - 1];
        if (!w->node) {
            n--;
            continue;
        }
        const struct vtrie_node *node = &t->node[w->node];
        gset_step(g, &w->from, node->byte, &stack[n].from);
        w->node = node->next;
        if (!stack[n].from.n)
            continue;
        for (int i = 0; i < node->n_token; i++) {
            int32_t id = t->token[node->token + i];
            bits[id / 32] |= 1u << id % 32;
        }
        stack[n++].node = node->child;
    }
    free(stack);
}

/* The place for the state's mask: the one that has it, or the one not used for longest. */
static struct gmask *mask_place(struct guide *g) {
    struct gmask *oldest = &g->mask[0];
    for (int i = 0; i < G_MASKS; i++) {
        struct gmask *m = &g->mask[i];
        if (m->used && m->state.n == g->now.n &&
            !memcmp(m->state.f, g->now.f, (size_t)g->now.n * sizeof *g->now.f))
            return m;
        oldest = m->used < oldest->used ? m : oldest;
    }
    oldest->used = 0;
    return oldest;
}

static void fill(struct guide *g, struct gmask *m) {
    const struct guide_vocab *v = g->v;
    size_t bytes = ((size_t)v->n_word + 1) * sizeof *m->bits;
    int n_f = g->n_f, n_key = g->n_key;
    if (!m->bits)
        m->bits = mem_new(bytes);
    m->state = g->now;
    if (gset_in_string(g, &g->now)) {
        memcpy(m->bits, v->plain, bytes);
        walk(g, &v->odd, m->bits);
    } else {
        memset(m->bits, 0, bytes);
        walk(g, &v->all, m->bits);
    }
    guide_forget(g, n_f, n_key);
    for (int i = 0; i < g->n_end && gset_complete(g, &g->now); i++)
        if (g->end[i] >= 0 && g->end[i] < v->n_vocab)
            m->bits[g->end[i] / 32] |= 1u << g->end[i] % 32;
}

bool guide_mask(void *guide, uint32_t *allowed, int vocab) {
    struct guide *g = guide;
    int n = (vocab + 31) / 32 < g->v->n_word ? (vocab + 31) / 32 : g->v->n_word;
    bool any = false;
    guide_shrink(g);
    struct gmask *m = mask_place(g);
    if (!m->used)
        fill(g, m);
    m->used = ++g->clock;
    memcpy(allowed, m->bits, (size_t)n * sizeof *allowed);
    if (vocab % 32 && n == (vocab + 31) / 32)
        allowed[n - 1] &= (1u << vocab % 32) - 1;
    for (int i = 0; i < n && !any; i++)
        any = allowed[i] != 0;
    return any;
}

void guide_accept(void *guide, int32_t id) {
    struct guide *g = guide;
    size_t n = 0;
    const char *p = id >= 0 && id < g->v->n_vocab ? vocab_bytes(g->v, id, &n) : NULL;
    struct gset next = {0};
    guide_shrink(g);
    for (size_t i = 0; i < n; i++) {
        gset_step(g, &g->now, (unsigned char)p[i], &next);
        g->now = next;
    }
    if (!p)
        g->now.n = 0; /* not one of the mask: nothing may follow */
}
