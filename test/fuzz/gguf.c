/* gguf.c - any bytes as a GGUF file: table, configuration and tokenizer, or one error.
 * Flipped bytes die at the magic or leave the file walkable in only one way, so the mutator below
 * finds the fields of the input first and edits those: counts, lengths, types, offsets,
 * dimensions, values; whole entries are doubled or removed, and names become ones that the reader
 * looks for. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"

/* Absent in the replay program, which never mutates. */
__attribute__((weak)) size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static volatile uint8_t sink; /* the reads must happen */

static void check_tensors(const struct tensors *ts) {
    for (int i = 0; i < ts->n; i++) {
        const uint8_t *p = ts->t[i].data;
        if (tensors_find(ts, ts->t[i].name) != &ts->t[i])
            abort();
        for (size_t k = 0; k < ts->t[i].bytes; k++)
            sink = p[k];
    }
}

static void check_tok(const struct tok *t) {
    struct ids ids = {0};
    struct buf text = {0};
    struct err err = {0};
    if (tok_encode(t, "ab a\n\xc3\xa9", 7, true, &ids, &err) == 0)
        tok_decode(t, ids.id, ids.n, true, &text, &err);
    ids_free(&ids);
    buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct err err = {0}, err2 = {0};
    struct cfg c;
    struct gguf *g = gguf_parse("fuzz", data, size, &err);
    if (!g) {
        if (err.code != E_FORMAT || !err.msg[0])
            abort();
        return 0;
    }
    check_tensors(gguf_tensors(g));
    if (gguf_cfg(g, &c, &err) == 0 ? cfg_check(&c, "fuzz", &err2) != 0 : err.code != E_FORMAT)
        abort();
    struct tok *t = gguf_tok(g, &err2);
    if (t)
        check_tok(t);
    else if (err2.code != E_FORMAT)
        abort();
    tok_free(t);
    gguf_close(g);
    return 0;
}

/* --- The mutator --- */

enum kind { COUNT, LENGTH, TYPE, N_DIM, DIM, OFFSET, VALUE, KINDS };

struct field {
    size_t at;
    int bytes;
    enum kind kind;
};

struct entry { /* a key-value or a tensor info: [begin, end) and where the file counts them */
    size_t begin, end, count_at;
};

#define MAX_FIELDS 1024
#define MAX_ENTRIES 128

struct map_of {
    uint8_t *p;
    size_t size, at;
    struct field field[MAX_FIELDS];
    struct entry entry[MAX_ENTRIES];
    int n_field, n_entry;
    bool ok;
};

static uint64_t rnd(uint64_t *s) { /* xorshift64 */
    *s ^= *s << 13;
    *s ^= *s >> 7;
    return *s ^= *s << 17;
}

static uint64_t load(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    memcpy(&v, p, (size_t)bytes);
    return v;
}

/* Notes the field at m->at and steps over it. */
static uint64_t note(struct map_of *m, int bytes, enum kind kind) {
    if (!m->ok || m->size - m->at < (size_t)bytes) {
        m->ok = false;
        return 0;
    }
    if (m->n_field < MAX_FIELDS)
        m->field[m->n_field++] = (struct field){m->at, bytes, kind};
    m->at += (size_t)bytes;
    return load(m->p + m->at - bytes, bytes);
}

static void note_str(struct map_of *m) {
    uint64_t n = note(m, 8, LENGTH);
    m->ok = m->ok && n <= m->size - m->at;
    m->at += m->ok ? (size_t)n : 0;
}

static void note_value(struct map_of *m, uint64_t type, bool in_array) {
    static const int bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) {
        note_str(m);
    } else if (type == 9 && !in_array) {
        uint64_t elem = note(m, 4, TYPE), n = note(m, 8, LENGTH);
        for (uint64_t i = 0; i < n && m->ok; i++)
            note_value(m, elem, true);
    } else if (type < 13 && type != 9) {
        note(m, bytes[type], VALUE);
    } else {
        m->ok = false;
    }
}

static void note_tensor(struct map_of *m) {
    note_str(m);
    uint64_t n = note(m, 4, N_DIM);
    for (uint64_t i = 0; i < n && i < 8; i++)
        note(m, 8, DIM);
    note(m, 4, TYPE);
    note(m, 8, OFFSET);
}

static void find_fields(struct map_of *m) {
    m->at = 4;
    m->ok = m->size >= 24;
    note(m, 4, TYPE);
    uint64_t n[2];
    n[1] = note(m, 8, COUNT);
    n[0] = note(m, 8, COUNT);
    for (int what = 0; what < 2; what++)
        for (uint64_t i = 0; i < n[what] && m->ok; i++) {
            size_t begin = m->at;
            if (what == 0) {
                note_str(m);
                note_value(m, note(m, 4, TYPE), false);
            } else {
                note_tensor(m);
            }
            if (m->ok && m->n_entry < MAX_ENTRIES)
                m->entry[m->n_entry++] = (struct entry){begin, m->at, what ? 8 : 16};
        }
}

static void edit_number(struct map_of *m, const struct field *f, uint64_t *s) {
    static const uint64_t edge[] = {0,
                                    1,
                                    2,
                                    3,
                                    8,
                                    31,
                                    32,
                                    255,
                                    256,
                                    257,
                                    513,
                                    65535,
                                    65536,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    (uint64_t)1 << 32,
                                    ((uint64_t)1 << 42) + 1,
                                    (uint64_t)1 << 61,
                                    (uint64_t)1 << 62,
                                    INT64_MAX,
                                    (uint64_t)1 << 63,
                                    UINT64_MAX - 31,
                                    UINT64_MAX};
    uint64_t v = load(m->p + f->at, f->bytes);
    switch (rnd(s) % 4) {
    case 0:
        v += rnd(s) % 9 - 4;
        break;
    case 1:
        v = f->kind == TYPE ? rnd(s) % 41 : rnd(s) % 65;
        break;
    case 2:
        v ^= (uint64_t)1 << rnd(s) % (8 * (uint64_t)f->bytes);
        break;
    default:
        v = edge[rnd(s) % (sizeof edge / sizeof *edge)];
    }
    memcpy(m->p + f->at, &v, (size_t)f->bytes);
}

/* Replaces [at, at + old) by `with`; returns the new size, or the old one if there is no room. */
static size_t splice(uint8_t *p, size_t size, size_t max, size_t at, size_t old, const void *with,
                     size_t n) {
    if (size - old + n > max)
        return size;
    memmove(p + at + n, p + at + old, size - at - old);
    memcpy(p + at, with, n);
    return size - old + n;
}

/* Makes a string one that the reader looks for. */
static size_t edit_text(struct map_of *m, const struct field *f, size_t max, uint64_t *s) {
    static const char *const known[] = {"general.architecture",
                                        "general.alignment",
                                        "llama",
                                        "gpt2",
                                        "qwen3",
                                        "phi3",
                                        "gemma",
                                        "llama.block_count",
                                        "llama.attention.key_length",
                                        "llama.attention.head_count_kv",
                                        "llama.attention.sliding_window",
                                        "llama.rope.dimension_count",
                                        "llama.rope.freq_base",
                                        "llama.rope.scaling.type",
                                        "llama.rope.scaling.factor",
                                        "llama.vocab_size",
                                        "linear",
                                        "split.count",
                                        "split.no",
                                        "tokenizer.ggml.pre",
                                        "tokenizer.ggml.scores",
                                        "tokenizer.ggml.token_type",
                                        "tokenizer.ggml.merges",
                                        "tokenizer.ggml.eot_token_id",
                                        "tokenizer.ggml.add_space_prefix",
                                        "tokenizer.ggml.remove_extra_whitespaces",
                                        "tokenizer.chat_template",
                                        "token_embd.weight",
                                        "output.weight",
                                        "output.bias",
                                        "rope_freqs.weight",
                                        "blk.0.attn_q.bias",
                                        "blk.0.ffn_up.bias",
                                        "<0x-1>",
                                        "<0xFF>",
                                        ""};
    uint64_t old = load(m->p + f->at, 8);
    if (old > m->size - f->at - 8) /* the count of an array, or a length beyond the end */
        return m->size;
    const char *k = known[rnd(s) % (sizeof known / sizeof *known)];
    uint64_t n = strlen(k);
    size_t size = splice(m->p, m->size, max, f->at + 8, (size_t)old, k, (size_t)n);
    if (size == m->size - old + n)
        memcpy(m->p + f->at, &n, 8);
    return size;
}

/* Doubles or removes a key-value or tensor info, and counts right. */
static size_t edit_entry(struct map_of *m, size_t max, uint64_t *s) {
    static uint8_t copy[1 << 16];
    const struct entry *e = &m->entry[rnd(s) % (uint64_t)m->n_entry];
    size_t n = e->end - e->begin, old = n, size;
    uint64_t count = load(m->p + e->count_at, 8);
    if (n > sizeof copy)
        return m->size;
    memcpy(copy, m->p + e->begin, n);
    bool twice = rnd(s) % 2;
    if (twice) { /* insert the copy, at the end of another entry of its kind */
        const struct entry *to = &m->entry[rnd(s) % (uint64_t)m->n_entry];
        size_t at = to->count_at == e->count_at ? to->end : e->end;
        size = splice(m->p, m->size, max, at, 0, copy, n);
    } else {
        size = splice(m->p, m->size, max, e->begin, old, copy, 0);
    }
    if (size != m->size) {
        count += twice ? 1 : (uint64_t)-1;
        memcpy(m->p + e->count_at, &count, 8);
    }
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    static struct map_of m; /* too large for the stack */
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;
    if (LLVMFuzzerMutate && rnd(&s) % 16 == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    for (uint64_t edits = 1 + rnd(&s) % 3; edits > 0; edits--) {
        m = (struct map_of){.p = data, .size = size};
        find_fields(&m);
        if (m.n_field == 0)
            return LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, max_size) : size;
        const struct field *f = &m.field[rnd(&s) % (uint64_t)m.n_field];
        uint64_t how = rnd(&s) % 8;
        if (how == 0 && m.n_entry > 0)
            size = edit_entry(&m, max_size, &s);
        else if (how <= 2 && f->kind == LENGTH)
            size = edit_text(&m, f, max_size, &s);
        else
            edit_number(&m, f, &s);
    }
    return size;
}
