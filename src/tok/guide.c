/* guide.c - the automaton of an answer that is JSON.  Bytes go in one at a time; each thread of
 * the state makes no, one or more threads.  Numbers and literals have no end of their own: what
 * cannot continue them is given to the frame below. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/guide_impl.h"

enum { MAX_FRAMES = 1 << 16 };

/* -- frames ------------------------------------------------------------------------------------ */

static bool same(const struct gf *a, const struct gf *b) {
    return a->kind == b->kind && a->depth == b->depth && a->space == b->space &&
           a->node == b->node && a->a == b->a && a->b == b->b && a->up == b->up && a->h == b->h;
}

static size_t frame_hash(const struct gf *f) {
    uint64_t h = f->h * 0x9e3779b97f4a7c15u;
    const int v[] = {f->kind, f->depth, f->space, f->node, f->a, f->b, f->up};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        h = (h ^ (uint64_t)(uint32_t)v[i]) * 0xff51afd7ed558ccdu;
    return h ^ h >> 29;
}

static void rehash(struct guide *g) {
    free(g->slot);
    g->n_slot = g->cap_f * 2;
    g->slot = mem_array((size_t)g->n_slot, sizeof *g->slot);
    memset(g->slot, 0xff, (size_t)g->n_slot * sizeof *g->slot);
    for (int i = 0; i < g->n_f; i++) {
        size_t at = frame_hash(&g->f[i]) & (size_t)(g->n_slot - 1);
        while (g->slot[at] >= 0)
            at = (at + 1) & (size_t)(g->n_slot - 1);
        g->slot[at] = i;
    }
}

/* The number of the frame that equals f. */
static int frame(struct guide *g, struct gf f) {
    size_t at = frame_hash(&f) & (size_t)(g->n_slot - 1);
    for (; g->slot[at] >= 0; at = (at + 1) & (size_t)(g->n_slot - 1))
        if (same(&g->f[g->slot[at]], &f))
            return g->slot[at];
    if (g->n_f == g->cap_f) {
        g->cap_f *= 2;
        g->f = mem_resize(g->f, (size_t)g->cap_f, sizeof *g->f);
        g->f[g->n_f++] = f;
        rehash(g);
        return g->n_f - 1;
    }
    g->f[g->n_f] = f;
    g->slot[at] = g->n_f;
    return g->n_f++;
}

/* Beyond G_THREADS threads are left out: those that stay can be completed as well. */
static void put(struct gset *out, int f) {
    int i = out->n;
    for (int k = 0; k < out->n; k++)
        if (out->f[k] == f)
            return;
    if (out->n == G_THREADS)
        return;
    for (; i > 0 && out->f[i - 1] > f; i--)
        out->f[i] = out->f[i - 1];
    out->f[i] = f;
    out->n++;
}

static void put_frame(struct guide *g, struct gset *out, struct gf f) {
    put(out, frame(g, f));
}

static bool is_space(unsigned char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* White space is what people write and no more, or a model that likes it would not come to an end:
 * one blank, or a new line and at most 4 blanks or tabs for each level behind it.  *space: 0 = none
 * so far, 1 = a blank, 2 + n = a new line and n behind it. */
static bool add_space(uint8_t *space, unsigned char c, int depth) {
    bool indents = *space >= 2 && *space < 2 + 4 * depth && *space < 50;
    if (c == ' ' && *space == 0)
        *space = 1;
    else if (c == '\n' && *space == 0)
        *space = 2;
    else if ((c == ' ' || c == '\t') && indents)
        ++*space;
    else
        return false;
    return true;
}

static bool step(struct guide *g, int id, unsigned char c, struct gset *out);

/* -- strings and keys -------------------------------------------------------------------------- */

/* Inside a character: 0 = between two; 1..3 = continuation bytes to come, with 16 * class for the
 * limits of the next one; ESC = behind a backslash; HEX + digits read * 16 + what they were. */
enum { ESC = 1 << 8, HEX = 1 << 9 };
enum { ANY, A0_BF, S80_9F, S90_BF, S80_8F };

static int lead(unsigned char c) {
    if (c < 0x20 || c == '"' || c == '\\' || (c >= 0x80 && c < 0xc2) || c > 0xf4)
        return -1;
    if (c < 0x80)
        return 0;
    if (c < 0xe0)
        return 1;
    if (c < 0xf0)
        return 2 | (c == 0xe0 ? A0_BF : c == 0xed ? S80_9F : ANY) << 4;
    return 3 | (c == 0xf0 ? S90_BF : c == 0xf4 ? S80_8F : ANY) << 4;
}

static int trail(int state, unsigned char c) {
    static const unsigned char lo[] = {0x80, 0xa0, 0x80, 0x90, 0x80};
    static const unsigned char hi[] = {0xbf, 0xbf, 0x9f, 0xbf, 0x8f};
    int class = state >> 4;
    return c < lo[class] || c > hi[class] ? -1 : (state & 15) - 1;
}

static int hex(unsigned char c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 87 : -1;
}

/* \uXXXX, surrogates and NUL left out. */
static int escape(int state, unsigned char c) {
    if (state == ESC)
        return c == 'u' ? HEX : c && strchr("\"\\/bfnrt", c) ? 0 : -1;
    int n = (state >> 4) & 3, seen = state & 15, d = hex(c); /* seen: 15 all zero, 13 "d" */
    if (d < 0 || (n == 1 && seen == 13 && d > 7))
        return -1;
    if (n == 0)
        seen = d == 13 ? 13 : d == 0 ? 15 : 0;
    else
        seen = seen == 15 && d == 0 ? 15 : 0;
    if (n == 3)
        return seen == 15 ? -1 : 0;
    return HEX | (n + 1) << 4 | seen;
}

/* The state inside a character after c, -1 = c cannot come. */
static int in_char(int state, unsigned char c) {
    if (state >= ESC)
        return escape(state, c);
    return state ? trail(state, c) : c == '\\' ? ESC : lead(c);
}

static bool step_string(struct guide *g, struct gf f, unsigned char c, struct gset *out) {
    const struct gnode *n = &g->s->node[f.node];
    if (f.b == 0 && c == '"') {
        if (f.a < n->min)
            return false;
        put(out, f.up);
        return true;
    }
    if (f.b == 0) { /* a new character */
        if (n->max >= 0 && f.a >= n->max)
            return false;
        f.a += n->max >= 0 || f.a < n->min;
    }
    if ((f.b = in_char(f.b, c)) < 0)
        return false;
    put_frame(g, out, f);
    return true;
}

static bool key_known(const struct guide *g, const struct gf *object, uint64_t h) {
    const struct gnode *n = &g->s->node[object->node];
    for (int i = 0; i < n->n_item; i++)
        if (n->hash[i] == h)
            return true;
    for (int k = (int)(uint32_t)object->h - 1; k >= 0; k = g->key[k].up)
        if (g->key[k].hash == h)
            return true;
    return false;
}

/* A key that is not declared, without escapes so that its bytes are its name. */
static bool step_open(struct guide *g, struct gf f, unsigned char c, struct gset *out) {
    struct gf object = g->f[f.up];
    if (f.b == 0 && c == '"') {
        if (key_known(g, &object, f.h))
            return false;
        if (g->n_key == g->cap_key) {
            g->cap_key = g->cap_key ? 2 * g->cap_key : 16;
            g->key = mem_resize(g->key, (size_t)g->cap_key, sizeof *g->key);
        }
        int last = g->n_key - 1, up = (int)(uint32_t)object.h - 1;
        if (last < 0 || g->key[last].hash != f.h || g->key[last].up != up)
            g->key[last = g->n_key++] = (struct gkey){f.h, up};
        object.h = (uint64_t)last + 1;
        put_frame(g, out, object);
        return true;
    }
    if (f.b == 0 && c == '\\')
        return false;
    if ((f.b = in_char(f.b, c)) < 0)
        return false;
    f.h = ghash(f.h, c);
    put_frame(g, out, f);
    return true;
}

/* -- objects ----------------------------------------------------------------------------------- */

enum { FIRST, NEXT, COLON, AFTER, OPEN_COLON };

static bool fits(const struct guide *g, int node, int depth) {
    return g->s->node[node].need + depth <= GUIDE_MAX_DEPTH;
}

/* The first property at or after `from` that must come; the number of them if there is none. */
static int next_required(const struct gnode *n, int from) {
    while (from < n->n_item && !n->required[from])
        from++;
    return from;
}

/* May property i come next, where `from` may come first and `must` has to come? */
static bool may_come(const struct guide *g, const struct gnode *n, int i, int from, int must,
                     int depth) {
    return i >= from && i <= must && fits(g, n->item[i], depth);
}

static bool key_ahead(const struct guide *g, const struct gf *f) {
    const struct gnode *n = &g->s->node[f->node];
    int must = next_required(n, f->a);
    if (n->rest >= 0 && fits(g, n->rest, f->depth))
        return true;
    for (int i = f->a; i <= must && i < n->n_item; i++)
        if (fits(g, n->item[i], f->depth))
            return true;
    return false;
}

/* Does some key that starts with what leads to trie node t fit? */
static bool key_below(const struct guide *g, const struct gf *f, int t) {
    const struct gnode *n = &g->s->node[f->node];
    int must = next_required(n, f->a);
    for (int i = n->texts.node[t].lo; i < n->texts.node[t].hi; i++)
        if (may_come(g, n, n->texts.text[i].index, f->a, must, f->depth))
            return true;
    return false;
}

static bool step_key(struct guide *g, struct gf f, unsigned char c, struct gset *out) {
    const struct gnode *n = &g->s->node[f.node];
    const struct gtrie_node *t = &n->texts.node[f.b];
    if (c == '"' && t->end) {
        int i = n->texts.text[t->lo].index;
        struct gf object = g->f[f.up];
        if (!may_come(g, n, i, f.a, next_required(n, f.a), f.depth))
            return false;
        object.b = COLON;
        object.a = i + 1;
        put_frame(g, out, object);
        return true;
    }
    if (!(f.b = gtrie_child(&n->texts, f.b, c)) || !key_below(g, &f, f.b))
        return false;
    put_frame(g, out, f);
    return true;
}

/* The opening quote of a key of object f. */
static void start_key(struct guide *g, struct gf f, struct gset *out) {
    const struct gnode *n = &g->s->node[f.node];
    f.space = 0;
    struct gf key = {.kind = F_KEY, .depth = f.depth, .node = f.node, .a = f.a};
    f.b = COLON;
    key.up = frame(g, f);
    if (n->n_item && key_below(g, &key, 0))
        put_frame(g, out, key);
    f.b = OPEN_COLON;
    if (n->rest >= 0 && fits(g, n->rest, f.depth))
        put_frame(g, out,
                  (struct gf){.kind = F_OPEN,
                              .depth = f.depth,
                              .node = f.node,
                              .h = GHASH_START,
                              .up = frame(g, f)});
}

static bool step_object(struct guide *g, struct gf f, unsigned char c, struct gset *out) {
    const struct gnode *n = &g->s->node[f.node];
    bool may_end = next_required(n, f.a) == n->n_item, spaced = f.space > 0;
    if (is_space(c)) { /* not in front of a colon or a comma */
        if (f.b == COLON || f.b == OPEN_COLON || (f.b == AFTER && !may_end) ||
            !add_space(&f.space, c, f.depth))
            return false;
        put_frame(g, out, f);
        return true;
    }
    f.space = 0;
    if (c == '}' && (f.b == FIRST || f.b == AFTER)) {
        if (!may_end)
            return false;
        put(out, f.up);
        return true;
    }
    if (c == '"' && (f.b == FIRST || f.b == NEXT)) {
        int was = out->n;
        start_key(g, f, out);
        return out->n > was;
    }
    if (c == ',' && f.b == AFTER && !spaced && key_ahead(g, &f)) {
        f.b = NEXT;
        put_frame(g, out, f);
        return true;
    }
    if (c == ':' && (f.b == COLON || f.b == OPEN_COLON)) {
        int value = f.b == COLON ? n->item[f.a - 1] : n->rest;
        f.b = AFTER;
        put_frame(g, out,
                  (struct gf){.kind = F_VALUE, .depth = f.depth, .node = value, .up = frame(g, f)});
        return true;
    }
    return false;
}

/* -- arrays ------------------------------------------------------------------------------------ */

static int item_node(const struct gnode *n, int i) {
    return i < n->n_item ? n->item[i] : n->rest;
}

static bool step_value(struct guide *g, struct gf f, unsigned char c, struct gset *out);

static bool step_array(struct guide *g, struct gf f, unsigned char c, struct gset *out) {
    const struct gnode *n = &g->s->node[f.node];
    bool more = (n->max < 0 || f.a < n->max) && item_node(n, f.a) >= 0 &&
                fits(g, item_node(n, f.a), f.depth);
    bool spaced = f.space > 0;
    if (is_space(c)) { /* not in front of a comma */
        if ((f.b == AFTER && f.a < n->min) || !add_space(&f.space, c, f.depth))
            return false;
        put_frame(g, out, f);
        return true;
    }
    f.space = 0;
    if (c == ']' && f.a >= n->min && f.b != NEXT) {
        put(out, f.up);
        return true;
    }
    if (c == ',' && f.b == AFTER && !spaced && more) {
        f.b = NEXT;
        put_frame(g, out, f);
        return true;
    }
    if (f.b == AFTER || !more)
        return false;
    struct gf after = f;
    int need = n->min > n->n_item ? n->min : n->n_item; /* counted no further than it matters */
    after.a += n->max >= 0 || f.a < need;
    after.b = AFTER;
    struct gf value = {
        .kind = F_VALUE, .depth = f.depth, .node = item_node(n, f.a), .up = frame(g, after)};
    return step_value(g, value, c, out);
}

/* -- numbers ----------------------------------------------------------------------------------- */

enum { SIGN, ZERO, WHOLE, POINT, FRACTION, EXP, EXP_SIGN, EXP_DIGITS };
enum { MINUS = 1 << 8, N_FRACTION = 1 << 16 }; /* in gf.a: digits before, sign, digits behind */

static int digits_max(const struct gnode *n) {
    return !n->bounded ? 18 : n->kind == G_INTEGER ? 16 : 15;
}

static int fraction_max(const struct gnode *n, int whole) {
    int most = 18 - whole < 9 ? 18 - whole : 9;
    return n->bounded ? most : 18;
}

static double number(bool minus, uint64_t digits, int fraction) {
    char s[64];
    snprintf(s, sizeof s, "%s%llue-%d", minus ? "-" : "", (unsigned long long)digits, fraction);
    return strtod(s, NULL);
}

static bool in_bounds(const struct gnode *n, double x) {
    return (n->lo_open ? x > n->lo : x >= n->lo) && (n->hi_open ? x < n->hi : x <= n->hi);
}

static uint64_t power_of_ten(int n) {
    uint64_t x = 1;
    while (n-- > 0)
        x *= 10;
    return x;
}

/* Is some number within the bounds whose digits start as f's, with `fraction` digits behind the
 * point filled up? */
static bool reaches(const struct gnode *n, bool minus, uint64_t digits, int have, int fraction) {
    uint64_t scale = power_of_ten(fraction - have);
    double near = number(minus, digits * scale, fraction);
    double far = number(minus, digits * scale + (scale - 1), fraction);
    double lo = minus ? far : near, hi = minus ? near : far;
    return (n->lo_open ? hi > n->lo : hi >= n->lo) && (n->hi_open ? lo < n->hi : lo <= n->hi);
}

static bool number_live(const struct gnode *n, const struct gf *f) {
    bool minus = f->a & MINUS;
    int whole = f->a & 255, fraction = f->a / N_FRACTION;
    if (!n->bounded)
        return true;
    if (f->b == SIGN)
        return n->lo < 0;
    if (f->b == POINT || f->b == FRACTION)
        return reaches(n, minus, f->h, fraction, fraction_max(n, whole));
    int most = f->b == ZERO ? whole : digits_max(n);
    uint64_t digits = f->h;
    for (int k = whole; k <= most; k++, digits *= 10) {
        uint64_t span = power_of_ten(k - whole); /* of the numbers that k digits may make */
        int behind = n->kind == G_INTEGER ? 0 : fraction_max(n, k);
        uint64_t scale = power_of_ten(behind);
        double near = number(minus, digits, 0);
        double far = number(minus, (digits + span - 1) * scale + (scale - 1), behind);
        double lo = minus ? far : near, hi = minus ? near : far;
        if ((n->lo_open ? hi > n->lo : hi >= n->lo) && (n->hi_open ? lo < n->hi : lo <= n->hi))
            return true;
    }
    return false;
}

static bool number_complete(const struct gnode *n, const struct gf *f) {
    if (f->b != ZERO && f->b != WHOLE && f->b != FRACTION && f->b != EXP_DIGITS)
        return false;
    return !n->bounded || in_bounds(n, number(f->a & MINUS, f->h, f->a / N_FRACTION));
}

/* f with the digit c behind it; false = no room. */
static bool digit(const struct gnode *n, struct gf *f, unsigned char c) {
    int whole = f->a & 255;
    if (f->b == ZERO)
        return false;
    if (f->b == SIGN && c == '0' && (f->a & MINUS) && n->kind == G_INTEGER)
        return false; /* -0 */
    if (f->b == SIGN || f->b == WHOLE) {
        if (whole >= digits_max(n))
            return false;
        f->b = f->b == SIGN && c == '0' ? ZERO : WHOLE;
        f->a++;
    } else if (f->b == POINT || f->b == FRACTION) {
        if (f->a / N_FRACTION >= fraction_max(n, whole))
            return false;
        f->a += N_FRACTION;
        f->b = FRACTION;
    } else {
        f->b = EXP_DIGITS;
        f->h++; /* of an unbounded number only the count of its exponent's digits is kept */
        return f->h <= 2;
    }
    f->h = n->bounded ? f->h * 10 + (c - '0') : 0;
    return true;
}

static bool step_number(struct guide *g, struct gf f, unsigned char c, struct gset *out) {
    const struct gnode *n = &g->s->node[f.node];
    bool ok = false, whole = f.b == ZERO || f.b == WHOLE, real = n->kind == G_NUMBER;
    struct gf was = f;
    if (c >= '0' && c <= '9') {
        ok = digit(n, &f, c);
    } else if (c == '.' && whole && real && fraction_max(n, f.a & 255) > 0) {
        f.b = POINT;
        ok = true;
    } else if ((c == 'e' || c == 'E') && (whole || f.b == FRACTION) && real && !n->bounded) {
        f.b = EXP;
        ok = true;
    } else if ((c == '+' || c == '-') && f.b == EXP) {
        f.b = EXP_SIGN;
        ok = true;
    }
    if (ok && number_live(n, &f)) {
        put_frame(g, out, f);
        return true;
    }
    return number_complete(n, &was) && step(g, was.up, c, out);
}

/* -- values ------------------------------------------------------------------------------------ */

/* The first byte of a value of a node that is no union. */
static bool start(struct guide *g, int node, const struct gf *v, unsigned char c,
                  struct gset *out) {
    const struct gnode *n = &g->s->node[node];
    struct gf f = {.depth = v->depth, .node = node, .up = v->up};
    if (!fits(g, node, v->depth))
        return false;
    switch (n->kind) {
    case G_STRING:
        f.kind = F_STRING;
        if (c == '"')
            put_frame(g, out, f);
        return c == '"';
    case G_LITERAL:
        f.kind = F_TEXT;
        return step(g, frame(g, f), c, out);
    case G_OBJECT:
    case G_ARRAY:
        if (c != (n->kind == G_OBJECT ? '{' : '['))
            return false;
        f.kind = n->kind == G_OBJECT ? F_OBJECT : F_ARRAY;
        f.depth++;
        put_frame(g, out, f);
        return true;
    default:
        f.kind = F_NUMBER;
        if (c != '-')
            return step_number(g, f, c, out);
        f.a = MINUS;
        if (!number_live(n, &f))
            return false;
        put_frame(g, out, f);
        return true;
    }
}

static bool step_value(struct guide *g, struct gf f, unsigned char c, struct gset *out) {
    const struct gnode *n = &g->s->node[f.node];
    bool any = false;
    if (is_space(c)) { /* behind a colon one blank */
        if ((c == '\n' && f.depth > 0) || !add_space(&f.space, c, 0))
            return false;
        put_frame(g, out, f);
        return true;
    }
    if (n->kind != G_UNION)
        return start(g, f.node, &f, c, out);
    for (int i = 0; i < n->n_alt; i++)
        any |= start(g, n->alt[i], &f, c, out);
    return any;
}

static bool step_text(struct guide *g, struct gf f, unsigned char c, struct gset *out) {
    const struct gtrie *t = &g->s->node[f.node].texts;
    int next = gtrie_child(t, f.b, c);
    bool any = next > 0;
    if (f.b && t->node[f.b].end)
        any |= step(g, f.up, c, out);
    f.b = next;
    if (next) {
        if (t->node[next].end && !t->node[next].child && (c == '"' || c == '}' || c == ']'))
            put(out, f.up); /* it has an end of its own */
        else
            put_frame(g, out, f);
    }
    return any;
}

static bool step(struct guide *g, int id, unsigned char c, struct gset *out) {
    struct gf f = g->f[id];
    switch (f.kind) {
    case F_VALUE:
        return step_value(g, f, c, out);
    case F_STRING:
        return step_string(g, f, c, out);
    case F_OPEN:
        return step_open(g, f, c, out);
    case F_KEY:
        return step_key(g, f, c, out);
    case F_TEXT:
        return step_text(g, f, c, out);
    case F_NUMBER:
        return step_number(g, f, c, out);
    case F_OBJECT:
        return step_object(g, f, c, out);
    case F_ARRAY:
        return step_array(g, f, c, out);
    default:
        return false;
    }
}

void gset_step(struct guide *g, const struct gset *s, unsigned char c, struct gset *out) {
    out->n = 0;
    for (int i = 0; i < s->n; i++)
        step(g, s->f[i], c, out);
}

bool gset_in_string(const struct guide *g, const struct gset *s) {
    for (int i = 0; i < s->n; i++) {
        const struct gf *f = &g->f[s->f[i]];
        int max = f->kind == F_STRING ? g->s->node[f->node].max : -1;
        if ((f->kind == F_STRING || f->kind == F_OPEN) && f->b == 0 &&
            (max < 0 || max - f->a >= g->v->longest))
            return true;
    }
    return false;
}

bool gset_complete(const struct guide *g, const struct gset *s) {
    for (int i = 0; i < s->n; i++) {
        const struct gf *f = &g->f[s->f[i]];
        const struct gnode *n = &g->s->node[f->node];
        bool top = f->up >= 0 && g->f[f->up].kind == F_DONE;
        if (f->kind == F_DONE || (f->kind == F_NUMBER && top && number_complete(n, f)) ||
            (f->kind == F_TEXT && top && f->b && n->texts.node[f->b].end))
            return true;
    }
    return false;
}

void guide_forget(struct guide *g, int n_f, int n_key) {
    while (g->n_f > n_f) { /* the newest first: nothing that stays was put behind it */
        int id = --g->n_f;
        size_t at = frame_hash(&g->f[id]) & (size_t)(g->n_slot - 1);
        while (g->slot[at] != id)
            at = (at + 1) & (size_t)(g->n_slot - 1);
        g->slot[at] = -1;
    }
    g->n_key = n_key;
}

/* -- one answer -------------------------------------------------------------------------------- */

static void clear(struct guide *g) {
    for (int i = 0; i < G_MASKS; i++)
        g->mask[i].used = 0;
    g->n_f = 0;
    rehash(g);
}

/* A frame of the old table in the new one.  `to` holds what has been moved, -1 = not yet. */
static void move(struct guide *g, const struct gf *old, int *to, int id) {
    int stack[3 * GUIDE_MAX_DEPTH + 8], n = 0;
    for (; id >= 0 && to[id] < 0; id = old[id].up)
        stack[n++] = id;
    while (n > 0) {
        struct gf f = old[stack[--n]];
        f.up = f.up < 0 ? -1 : to[f.up];
        to[stack[n]] = frame(g, f);
    }
}

void guide_shrink(struct guide *g) {
    if (g->n_f < MAX_FRAMES)
        return;
    struct gf *old = g->f;
    int n = g->n_f, *to = mem_array((size_t)n, sizeof *to);
    memset(to, 0xff, (size_t)n * sizeof *to);
    g->cap_f = 256;
    g->f = mem_array((size_t)g->cap_f, sizeof *g->f);
    clear(g);
    struct gset now = {0};
    for (int i = 0; i < g->now.n; i++) {
        move(g, old, to, g->now.f[i]);
        put(&now, to[g->now.f[i]]);
    }
    g->now = now;
    free(old);
    free(to);
}

struct guide *guide_new(const struct guide_vocab *v, const struct guide_schema *s,
                        const int32_t *end, int n_end) {
    struct guide *g = mem_new(sizeof *g);
    g->v = v;
    g->s = s;
    g->end = mem_dup(end, (size_t)n_end * sizeof *end);
    g->n_end = n_end;
    g->cap_f = 256;
    g->f = mem_array((size_t)g->cap_f, sizeof *g->f);
    clear(g);
    int done = frame(g, (struct gf){.kind = F_DONE, .up = -1});
    put_frame(g, &g->now, (struct gf){.kind = F_VALUE, .node = s->root, .up = done});
    return g;
}

void guide_free(struct guide *g) {
    if (!g)
        return;
    for (int i = 0; i < G_MASKS; i++)
        free(g->mask[i].bits);
    free(g->end);
    free(g->f);
    free(g->slot);
    free(g->key);
    free(g);
}

bool guide_byte(struct guide *g, unsigned char c) {
    struct gset next;
    guide_shrink(g);
    gset_step(g, &g->now, c, &next);
    if (!next.n)
        return false;
    g->now = next;
    return true;
}

bool guide_complete(const struct guide *g) {
    return gset_complete(g, &g->now);
}
