/* vocab.c - the vocabulary while it is being loaded, and the tables made from it. Everything
 * from a file passes vocab_add or vocab_add_token, which check: id range, no repeated id or
 * piece, no empty or oversized piece.  tok_finish refuses absurdly sparse ids. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/impl.h"

#define CHUNK ((size_t)1 << 18)

struct arena {
    struct arena *older;
    size_t used, cap;
    char data[];
};

void *arena_add(struct tok *t, const void *p, size_t n) {
    struct arena *a = t->arena;
    if (!a || a->cap - a->used < n + 1) {
        size_t cap = n + 1 > CHUNK ? n + 1 : CHUNK;
        a = mem_new(sizeof *a + cap);
        a->older = t->arena;
        a->cap = cap;
        t->arena = a;
    }
    char *at = a->data + a->used;
    if (n)
        memcpy(at, p, n);
    at[n] = 0;
    a->used += n + 1;
    return at;
}

struct tok *vocab_new(const char *path) {
    struct tok *t = mem_new(sizeof *t);
    t->path = mem_strdup(path);
    t->bos = t->eos = t->unk = -1;
    t->by_piece = map_new(1024);
    for (int i = 0; i < 256; i++)
        t->byte_id[i] = -1;
    return t;
}

void tok_free(struct tok *t) {
    if (!t)
        return;
    for (int i = 0; i < t->n_norm; i++)
        regex_free(t->norm[i].re);
    for (int i = 0; i < t->n_pre; i++)
        regex_free(t->pre[i].re);
    while (t->arena) {
        struct arena *older = t->arena->older;
        free(t->arena);
        t->arena = older;
    }
    matcher_free(t);
    map_free(t->by_piece);
    map_free(t->by_raw);
    free(t->piece);
    free(t->added);
    free(t->pair);
    free(t->junction);
    free(t->char_id);
    free((void *)t->whole);
    free(t->chat_template);
    free(t->path);
    free(t);
}

int vocab_add(struct tok *t, int64_t id, const char *s, size_t n, enum piece_kind kind,
              struct err *err) {
    if (id < 0 || id >= TOK_MAX_IDS)
        return err_set(err, E_FORMAT, "%s: vocabulary: id %lld is not in 0..%d", t->path,
                       (long long)id, TOK_MAX_IDS - 1);
    if (n == 0)
        return err_set(err, E_FORMAT, "%s: vocabulary: the token of id %lld is empty", t->path,
                       (long long)id);
    if (n > TOK_MAX_PIECE)
        return err_set(err, E_FORMAT,
                       "%s: vocabulary: the token of id %lld has %zu bytes, more than %d", t->path,
                       (long long)id, n, TOK_MAX_PIECE);
    if (id >= t->cap_vocab) {
        int cap = t->cap_vocab ? t->cap_vocab : 256;
        while (cap <= id)
            cap *= 2;
        t->piece = mem_resize(t->piece, cap, sizeof *t->piece);
        memset(t->piece + t->cap_vocab, 0, (size_t)(cap - t->cap_vocab) * sizeof *t->piece);
        t->cap_vocab = cap;
    }
    if (t->piece[id].kind != PIECE_HOLE)
        return err_set(err, E_FORMAT,
                       "%s: vocabulary: id %lld is given twice ('%.40s' and '%.40s')", t->path,
                       (long long)id, t->piece[id].stored, s);
    const char *copy = arena_add(t, s, n);
    if (map_put(t->by_piece, copy, n, (int32_t)id) != id)
        return err_set(err, E_FORMAT,
                       "%s: vocabulary: the token '%.40s' of id %lld already has id %d", t->path,
                       copy, (long long)id, map_get(t->by_piece, copy, n));
    t->piece[id] = (struct piece){copy, copy, (uint32_t)n, (uint32_t)n, kind, -1, -1, 0};
    t->n_pieces++;
    if (id >= t->n_vocab)
        t->n_vocab = (int)id + 1;
    return 0;
}

int vocab_add_token(struct tok *t, const struct added *a, int64_t id, struct err *err) {
    int32_t have = vocab_find(t, a->text, a->len);
    enum piece_kind kind = a->special ? PIECE_CONTROL : PIECE_USER;
    if (have >= 0 && have != id)
        return err_set(err, E_FORMAT,
                       "%s: added_tokens: '%.40s' has id %lld, but id %d in the vocabulary",
                       t->path, a->text, (long long)id, have);
    if (have < 0 && vocab_add(t, id, a->text, a->len, kind, err))
        return -1;
    struct piece *p = &t->piece[id];
    if (p->kind == PIECE_NORMAL || p->kind == PIECE_USER)
        p->kind = kind;
    if (p->added) {
        t->added[p->added - 1].special |= a->special;
        return 0;
    }
    if (t->n_added == t->cap_added) {
        t->cap_added = t->cap_added ? t->cap_added * 2 : 16;
        t->added = mem_resize(t->added, t->cap_added, sizeof *t->added);
    }
    struct added *to = &t->added[t->n_added++];
    *to = *a;
    to->id = (int32_t)id;
    to->text = p->stored;
    to->match = a->match ? p->stored : NULL;
    to->match_len = p->stored_len;
    p->added = t->n_added;
    return 0;
}

int vocab_add_typed(struct tok *t, int64_t id, const char *s, size_t n, int64_t type,
                    struct err *err) {
    static const enum piece_kind kinds[] = {
        [1] = PIECE_NORMAL, [2] = PIECE_UNKNOWN, [3] = PIECE_CONTROL,
        [4] = PIECE_USER,   [5] = PIECE_UNUSED,  [6] = PIECE_BYTE};
    if (type < 1 || type > 6)
        return err_set(err, E_FORMAT, "%s: vocabulary: type %lld of token %lld is not in 1..6",
                       t->path, (long long)type, (long long)id);
    if (vocab_add(t, id, s, n, kinds[type], err))
        return -1;
    if (type == 2 && t->unk < 0)
        t->unk = (int)id;
    struct added a = {.text = s,
                      .len = (uint32_t)n,
                      .special = type == 3,
                      .normalized = type == 4 && !t->bytes,
                      .match = s};
    return type == 3 || type == 4 ? vocab_add_token(t, &a, id, err) : 0;
}

int32_t vocab_find(const struct tok *t, const char *s, size_t n) {
    return map_get(t->by_piece, s, n);
}

const struct added *vocab_added(const struct tok *t, int32_t id) {
    return t->piece[id].added ? &t->added[t->piece[id].added - 1] : NULL;
}

int vocab_add_merge(struct tok *t, const char *left, size_t n_left, const char *right,
                    size_t n_right, uint32_t rank, struct err *err) {
    char both[2 * TOK_MAX_PIECE];
    int32_t l = n_left <= TOK_MAX_PIECE ? vocab_find(t, left, n_left) : -1;
    int32_t r = n_right <= TOK_MAX_PIECE ? vocab_find(t, right, n_right) : -1, id = -1;
    if (l >= 0 && r >= 0) {
        memcpy(both, left, n_left);
        memcpy(both + n_left, right, n_right);
        id = vocab_find(t, both, n_left + n_right);
    }
    if (id < 0)
        return err_set(err, E_FORMAT,
                       "%s: merges: entry %u ('%.*s' and '%.*s'): %s is not in the vocabulary",
                       t->path, rank, n_left < 40 ? (int)n_left : 40, left,
                       n_right < 40 ? (int)n_right : 40, right,
                       l < 0   ? "the left part"
                       : r < 0 ? "the right part"
                               : "the result");
    bpe_add(t, l, r, rank, id);
    return 0;
}

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int vocab_byte_token(const char *s, size_t n) {
    if (n < 4 || memcmp(s, "<0x", 3) != 0 || s[n - 1] != '>')
        return -1;
    if (n != 6 || hex(s[3]) < 0 || hex(s[4]) < 0)
        return -2;
    return hex(s[3]) * 16 + hex(s[4]);
}

int vocab_check_bytes(struct tok *t, struct err *err) {
    for (int id = 0; id < t->n_vocab; id++) {
        struct piece *p = &t->piece[id];
        if (p->kind != PIECE_NORMAL && p->kind != PIECE_BYTE)
            continue;
        int b = vocab_byte_token(p->stored, p->stored_len);
        if (b == -2 || (b == -1 && p->kind == PIECE_BYTE))
            return err_set(err, E_FORMAT,
                           "%s: vocabulary: '%.40s' (id %d) is not a byte token <0x00>..<0xFF>",
                           t->path, p->stored, id);
        if (b < 0)
            continue;
        p->kind = PIECE_BYTE;
        t->byte_id[b] = id;
    }
    return 0;
}

/* GPT-2's alphabet (Radford et al., 2019): each byte is one printable character.  Printable
 * Latin-1 stands for itself, the 68 others are U+0100, U+0101, ... in order. */
static int byte_to_cp(unsigned char b) {
    if ((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae)
        return b;
    return 0x100 + (b <= 0x20 ? b : b <= 0xa0 ? b - 0x7f + 33 : 67);
}

size_t byte_to_mapped(unsigned char b, char out[2]) {
    int cp = byte_to_cp(b);
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    out[0] = (char)(0xc0 | cp >> 6);
    out[1] = (char)(0x80 | (cp & 0x3f));
    return 2;
}

/* Spells a piece of that alphabet in bytes; returns false if it has other characters. */
static bool mapped_to_bytes(const char *s, size_t n, const int16_t *byte_of, char *out,
                            size_t *out_n) {
    const char *end = s + n;
    int32_t cp;
    *out_n = 0;
    for (int len; s < end; s += len) {
        len = utf8_next(s, end, &cp);
        if (len == 0 || cp >= 0x144 || byte_of[cp] < 0)
            return false;
        out[(*out_n)++] = (char)byte_of[cp];
    }
    return true;
}

static void spell_bytes(struct tok *t) {
    int16_t byte_of[0x144];
    char out[TOK_MAX_PIECE];
    size_t n;
    memset(byte_of, -1, sizeof byte_of);
    for (int b = 0; b < 256; b++)
        byte_of[byte_to_cp((unsigned char)b)] = (int16_t)b;
    t->by_raw = map_new((size_t)t->n_pieces);
    for (int id = 0; id < t->n_vocab; id++) {
        struct piece *p = &t->piece[id];
        if (p->kind != PIECE_NORMAL || !mapped_to_bytes(p->stored, p->stored_len, byte_of, out, &n))
            continue;
        p->raw = arena_add(t, out, n);
        p->raw_len = (uint32_t)n;
        map_put(t->by_raw, p->raw, n, id);
        if (n == 1)
            t->byte_id[(unsigned char)out[0]] = id;
        if (n > t->max_piece)
            t->max_piece = n;
    }
}

static void index_chars(struct tok *t) {
    t->char_id = mem_array(0x10000, sizeof *t->char_id);
    memset(t->char_id, -1, 0x10000 * sizeof *t->char_id);
    for (int id = 0; id < t->n_vocab; id++) {
        const struct piece *p = &t->piece[id];
        if (p->kind != PIECE_NORMAL)
            continue;
        int32_t cp;
        int len = utf8_next(p->stored, p->stored + p->stored_len, &cp);
        if (len && (uint32_t)len == p->stored_len && cp < 0x10000)
            t->char_id[cp] = id;
        if (p->stored_len > t->max_piece)
            t->max_piece = p->stored_len;
    }
}

/* Each piece's first and last symbol: what a merge of two pieces joins. */
static void set_ends(struct tok *t) {
    for (int id = 0; id < t->n_vocab; id++) {
        struct piece *p = &t->piece[id];
        if (p->kind == PIECE_HOLE)
            continue;
        if (p->kind == PIECE_BYTE) {
            p->first = p->last = id;
        } else if (t->bytes) {
            p->first = t->byte_id[(unsigned char)p->raw[0]];
            p->last = t->byte_id[(unsigned char)p->raw[p->raw_len - 1]];
        } else {
            const char *end = p->stored + p->stored_len, *tail = end - 1;
            int32_t cp;
            int len = utf8_next(p->stored, end, &cp);
            while (tail > p->stored && ((unsigned char)*tail & 0xc0) == 0x80)
                tail--;
            p->first = vocab_find(t, p->stored, len ? (size_t)len : 1);
            p->last = vocab_find(t, tail, (size_t)(end - tail));
        }
    }
}

int tok_finish(struct tok *t, struct err *err) {
    if (t->n_pieces == 0)
        return err_set(err, E_FORMAT, "%s: vocabulary: no tokens", t->path);
    if (t->n_vocab > 2 * t->n_pieces + 65536)
        return err_set(err, E_FORMAT, "%s: vocabulary: highest id %d for only %d tokens", t->path,
                       t->n_vocab - 1, t->n_pieces);
    for (int id = t->n_vocab; id < t->cap_vocab; id++)
        t->piece[id] = (struct piece){0};
    if (t->bytes)
        spell_bytes(t);
    else
        index_chars(t);
    set_ends(t);
    bpe_junctions(t);
    matcher_build(t);
    t->whole = mem_new((size_t)t->n_vocab);
    return 0;
}
