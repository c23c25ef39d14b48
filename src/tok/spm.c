/* spm.c - SentencePiece BPE (Kudo and Richardson, 2018): the tokenizer.model file, and merges from
 * scores.
 *
 * tokenizer.model is a protobuf message.  Fields read (number: meaning): 1 piece, repeated { 1
 * text; 2 score, float; 3 type, default 1 } 2 trainer { 3 model_type, 2 = BPE, default 1 = unigram;
 * 24 treat_whitespace_as_suffix; 35 byte_fallback;
 *               41 bos_id, default 1; 42 eos_id, default 2 }
 *   3 normaliser { 1 name; 2 compiled rules; 3 add_dummy_prefix, 4 remove_extra_whitespaces,
 *                  5 escape_whitespaces, all default true }
 * SentencePiece merges the neighbours whose concatenation has the highest score, so each way to
 * split a piece into two pieces is a merge, ranked by the piece's score. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/impl.h"

#define META "\xe2\x96\x81" /* U+2581, a visible space */

/* ---- merges ---- */

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *pa, const void *pb) {
    const struct scored *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

/* A polynomial hash whose value for any substring follows from those of the prefixes, and one
 * bit per piece: most splits are refused without looking at their bytes. */
#define BASE 0x100000001b3ull

struct splitter {
    uint64_t pow[TOK_MAX_PIECE + 1], pre[TOK_MAX_PIECE + 1];
    uint64_t *seen, mask; /* mask + 1 bits */
};

static void hash_prefixes(struct splitter *s, const char *p, size_t n) {
    s->pre[0] = 0;
    for (size_t i = 0; i < n; i++)
        s->pre[i + 1] = s->pre[i] * BASE + (unsigned char)p[i] + 1;
}

static uint64_t seen_bit(const struct splitter *s, uint64_t h) {
    h *= 0x9e3779b97f4a7c15ull;
    return (h ^ h >> 32) & s->mask;
}

static bool seen(const struct splitter *s, size_t lo, size_t hi) {
    uint64_t b = seen_bit(s, s->pre[hi] - s->pre[lo] * s->pow[hi - lo]);
    return s->seen[b / 64] >> b % 64 & 1;
}

static void splitter_init(struct splitter *s, const struct tok *t) {
    s->mask = 1023;
    while (s->mask < (uint64_t)t->n_pieces * 16)
        s->mask = s->mask * 2 + 1;
    s->seen = mem_new((s->mask + 1) / 8);
    s->pow[0] = 1;
    for (size_t i = 0; i < TOK_MAX_PIECE; i++)
        s->pow[i + 1] = s->pow[i] * BASE;
    for (int id = 0; id < t->n_vocab; id++) {
        const struct piece *p = &t->piece[id];
        if (p->kind != PIECE_NORMAL)
            continue;
        hash_prefixes(s, p->stored, p->stored_len);
        uint64_t b = seen_bit(s, s->pre[p->stored_len]);
        s->seen[b / 64] |= 1ull << b % 64;
    }
}

static int32_t normal_piece(const struct tok *t, const char *s, size_t n) {
    int32_t id = vocab_find(t, s, n);
    return id >= 0 && t->piece[id].kind == PIECE_NORMAL ? id : -1;
}

struct merges {
    struct pair *m;
    size_t n, cap;
};

static int add_splits(struct merges *v, struct splitter *s, const struct tok *t, int32_t id,
                      uint32_t rank, struct err *err) {
    const struct piece *p = &t->piece[id];
    hash_prefixes(s, p->stored, p->stored_len);
    for (size_t i = 1; i < p->stored_len; i++) {
        if (((unsigned char)p->stored[i] & 0xc0) == 0x80 || !seen(s, 0, i) ||
            !seen(s, i, p->stored_len))
            continue;
        int32_t l = normal_piece(t, p->stored, i),
                r = normal_piece(t, p->stored + i, p->stored_len - i);
        if (l < 0 || r < 0)
            continue;
        if (v->n == TOK_MAX_MERGES)
            return err_set(err, E_FORMAT,
                           "%s: vocabulary: pieces split into pieces in more than %d ways", t->path,
                           TOK_MAX_MERGES);
        if (v->n == v->cap) {
            v->cap = v->cap ? v->cap * 2 : 1024;
            v->m = mem_resize(v->m, v->cap, sizeof *v->m);
        }
        v->m[v->n++] = (struct pair){l, r, rank, id};
    }
    return 0;
}

int spm_merges_from_scores(struct tok *t, const float *score, struct err *err) {
    struct scored *order = mem_array((size_t)t->n_vocab + 1, sizeof *order);
    struct splitter *s = mem_new(sizeof *s);
    struct merges v = {0};
    int n = 0, rc = -1;
    splitter_init(s, t);
    for (int id = 0; id < t->n_vocab; id++)
        if (t->piece[id].kind == PIECE_NORMAL)
            order[n++] = (struct scored){score[id], id};
    qsort(order, (size_t)n, sizeof *order, by_score);
    uint32_t rank = 0;
    for (int i = 0; i < n; i++) {
        rank += i && order[i].score != order[i - 1].score;
        if (add_splits(&v, s, t, order[i].id, rank, err))
            goto out;
    }
    bpe_reserve(t, v.n);
    for (size_t i = 0; i < v.n; i++)
        bpe_add(t, v.m[i].left, v.m[i].right, v.m[i].rank, v.m[i].id);
    rc = 0;
out:
    free(v.m);
    free(s->seen);
    free(s);
    free(order);
    return rc;
}

/* ---- what SentencePiece does around the merges ---- */

void spm_spell(struct tok *t, const char *from, const char *to, bool bytes) {
    struct buf b = {0};
    size_t n_from = strlen(from);
    for (int id = 0; id < t->n_vocab; id++) {
        struct piece *p = &t->piece[id];
        if (p->kind == PIECE_HOLE)
            continue;
        const char *s = p->raw, *end = s + p->raw_len, *hit;
        if (p->kind == PIECE_BYTE && bytes) {
            char c = (char)vocab_byte_token(p->stored, p->stored_len);
            p->raw = arena_add(t, &c, 1);
            p->raw_len = 1;
            continue;
        }
        if (!n_from || !memmem(s, p->raw_len, from, n_from))
            continue;
        for (b.len = 0; (hit = memmem(s, (size_t)(end - s), from, n_from)); s = hit + n_from) {
            buf_add(&b, s, (size_t)(hit - s));
            buf_adds(&b, to);
        }
        buf_add(&b, s, (size_t)(end - s));
        p->raw = arena_add(t, b.data, b.len);
        p->raw_len = (uint32_t)b.len;
    }
    buf_free(&b);
}

void spm_squeeze(struct tok *t) {
    if (t->n_norm == TOK_MAX_STEPS)
        return;
    memmove(t->norm + 1, t->norm, (size_t)t->n_norm * sizeof *t->norm);
    t->norm[0] = (struct norm){.type = NORM_SQUEEZE};
    t->n_norm++;
}

void spm_defaults(struct tok *t, bool prefix, bool squeeze) {
    if (prefix)
        t->norm[t->n_norm++] = (struct norm){.type = NORM_PREPEND, .to = META, .to_len = 3};
    t->norm[t->n_norm++] =
        (struct norm){.type = NORM_REPLACE, .from = " ", .from_len = 1, .to = META, .to_len = 3};
    if (squeeze)
        spm_squeeze(t);
    t->strip_first = prefix;
    t->fuse_unk = true;
    for (int i = 0; i < 256; i++)
        t->byte_fallback |= t->byte_id[i] >= 0;
    spm_spell(t, META, " ", true);
}

/* ---- tokenizer.model ---- */

struct pb {
    const uint8_t *p, *end;
};
struct field {
    uint64_t number, wire, value; /* value of varints, fixed32, fixed64 */
    struct pb sub;                /* bytes of length-delimited fields   */
};

static bool pb_varint(struct pb *b, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && b->p < b->end; shift += 7) {
        uint8_t c = *b->p++;
        *out |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80)
            return true;
    }
    return false;
}

/* 1 = a field, 0 = end, -1 = malformed. */
static int pb_next(struct pb *b, struct field *f) {
    uint64_t key;
    if (b->p == b->end)
        return 0;
    if (!pb_varint(b, &key))
        return -1;
    *f = (struct field){key >> 3, key & 7, 0, {NULL, NULL}};
    size_t left = (size_t)(b->end - b->p), n = f->wire == 1 ? 8 : 4;
    switch (f->wire) {
    case 0:
        return pb_varint(b, &f->value) ? 1 : -1;
    case 1:
    case 5:
        if (left < n)
            return -1;
        memcpy(&f->value, b->p, n);
        b->p += n;
        return 1;
    case 2:
        if (!pb_varint(b, &f->value) || f->value > (size_t)(b->end - b->p))
            return -1;
        f->sub = (struct pb){b->p, b->p + f->value};
        b->p = f->sub.end;
        return 1;
    default:
        return -1;
    }
}

struct model { /* what is read of the file */
    float *score;
    size_t n, cap;
    int64_t type, bos, eos;
    bool prefix, squeeze, escape, suffix;
    struct pb name, rules;
};

static int malformed(const char *path, const char *what, struct err *err) {
    return err_set(err, E_FORMAT, "%s: %s: not a SentencePiece model (malformed protobuf)", path,
                   what);
}

static int read_piece(struct tok *t, struct model *m, struct pb b, struct err *err) {
    struct field f;
    struct pb text = {NULL, NULL};
    int64_t type = 1;
    float score = 0;
    int more;
    while ((more = pb_next(&b, &f)) > 0) {
        if (f.number == 1 && f.wire == 2)
            text = f.sub;
        else if (f.number == 2 && f.wire == 5)
            memcpy(&score, &f.value, 4);
        else if (f.number == 3 && f.wire == 0)
            type = (int64_t)f.value;
    }
    if (more < 0)
        return malformed(t->path, "pieces", err);
    if (!isfinite(score))
        return err_set(err, E_FORMAT, "%s: pieces: the score of piece %zu is not finite", t->path,
                       m->n);
    if (m->n == m->cap) {
        m->cap = m->cap ? m->cap * 2 : 1024;
        m->score = mem_resize(m->score, m->cap, sizeof *m->score);
    }
    m->score[m->n] = score;
    return vocab_add_typed(t, (int64_t)m->n++, (const char *)text.p, (size_t)(text.end - text.p),
                           type, err);
}

static int read_trainer(const char *path, struct model *m, struct pb b, struct err *err) {
    struct field f;
    int more;
    while ((more = pb_next(&b, &f)) > 0) {
        if (f.wire != 0)
            continue;
        if (f.number == 3)
            m->type = (int64_t)f.value;
        else if (f.number == 24)
            m->suffix = f.value != 0;
        else if (f.number == 41)
            m->bos = (int64_t)f.value;
        else if (f.number == 42)
            m->eos = (int64_t)f.value;
    }
    return more < 0 ? malformed(path, "trainer_spec", err) : 0;
}

static int read_normalizer(const char *path, struct model *m, struct pb b, struct err *err) {
    struct field f;
    int more;
    while ((more = pb_next(&b, &f)) > 0) {
        if (f.number == 1 && f.wire == 2)
            m->name = f.sub;
        else if (f.number == 2 && f.wire == 2)
            m->rules = f.sub;
        else if (f.number == 3 && f.wire == 0)
            m->prefix = f.value != 0;
        else if (f.number == 4 && f.wire == 0)
            m->squeeze = f.value != 0;
        else if (f.number == 5 && f.wire == 0)
            m->escape = f.value != 0;
    }
    return more < 0 ? malformed(path, "normalizer_spec", err) : 0;
}

/* Reads all fields; pieces only where t is given. */
static int read_model(const char *path, struct tok *t, struct model *m, struct pb b,
                      struct err *err) {
    struct field f;
    int more, rc = 0;
    *m = (struct model){
        .type = 1, .bos = 1, .eos = 2, .prefix = true, .squeeze = true, .escape = true};
    while (rc == 0 && (more = pb_next(&b, &f)) != 0) {
        if (more < 0)
            return malformed(path, "file", err);
        if (f.wire != 2)
            continue;
        if (f.number == 1 && t)
            rc = read_piece(t, m, f.sub, err);
        else if (f.number == 2)
            rc = read_trainer(path, m, f.sub, err);
        else if (f.number == 3)
            rc = read_normalizer(path, m, f.sub, err);
    }
    return rc;
}

static int check_model(const char *path, const struct model *m, struct err *err) {
    static const char *const types[] = {"?", "UNIGRAM", "BPE", "WORD", "CHAR"};
    if (m->type != 2)
        return err_set(err, E_FORMAT, "%s: trainer_spec.model_type: %s is not supported, only BPE",
                       path, m->type >= 1 && m->type <= 4 ? types[m->type] : types[0]);
    if (m->rules.p < m->rules.end)
        return err_set(err, E_FORMAT, "%s: normalizer_spec: '%.*s' is not supported, only identity",
                       path, m->name.end - m->name.p < 40 ? (int)(m->name.end - m->name.p) : 40,
                       m->name.p ? (const char *)m->name.p : "");
    if (!m->escape || m->suffix)
        return err_set(err, E_FORMAT, "%s: %s is not supported", path,
                       m->suffix ? "trainer_spec.treat_whitespace_as_suffix"
                                 : "normalizer_spec without escape_whitespaces");
    return 0;
}

static int control_id(const struct tok *t, int64_t id) {
    return id >= 0 && id < t->n_vocab && t->piece[id].kind == PIECE_CONTROL ? (int)id : -1;
}

struct tok *spm_load(const char *path, const void *data, size_t n, struct err *err) {
    struct tok *t = vocab_new(path);
    struct model m = {0};
    struct pb b = {data, (const uint8_t *)data + n};
    if (read_model(path, t, &m, b, err) || check_model(path, &m, err) ||
        vocab_check_bytes(t, err) || spm_merges_from_scores(t, m.score, err)) {
        tok_free(t);
        t = NULL;
        goto out;
    }
    spm_defaults(t, m.prefix, m.squeeze);
    t->bos = control_id(t, m.bos);
    t->eos = control_id(t, m.eos);
    t->add_bos = t->bos >= 0;
out:
    free(m.score);
    return t;
}

struct tok *spm_parse(const char *path, const void *data, size_t n, struct err *err) {
    struct tok *t = spm_load(path, data, n, err);
    if (t && tok_finish(t, err)) {
        tok_free(t);
        t = NULL;
    }
    return t;
}

int spm_squeezes(const char *path, const void *data, size_t n, bool *out, struct err *err) {
    struct model m;
    struct pb b = {data, (const uint8_t *)data + n};
    if (read_model(path, NULL, &m, b, err))
        return -1;
    *out = m.squeeze;
    return 0;
}
