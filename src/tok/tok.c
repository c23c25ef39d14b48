/* tok.c - the public face: encode, decode, streaming decode, and a tokenizer made from GGUF's
 * arrays. */
#include "tok/tok.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/impl.h"

int tok_size(const struct tok *t) {
    return t->n_vocab;
}

int tok_bos(const struct tok *t) {
    return t->bos;
}

int tok_eos(const struct tok *t) {
    return t->eos;
}

bool tok_adds_bos(const struct tok *t) {
    return t->add_bos && t->bos >= 0;
}

const char *tok_kind(const struct tok *t) {
    return t->bytes ? "byte-level BPE" : "SentencePiece BPE";
}

const char *tok_chat_template(const struct tok *t) {
    return t->chat_template;
}

static bool in_vocab(const struct tok *t, int32_t id) {
    return id >= 0 && id < t->n_vocab && t->piece[id].kind != PIECE_HOLE;
}

bool tok_is_special(const struct tok *t, int32_t id) {
    return in_vocab(t, id) &&
           (t->piece[id].kind == PIECE_CONTROL || t->piece[id].kind == PIECE_UNKNOWN);
}

int32_t tok_find(const struct tok *t, const char *piece) {
    int32_t id = vocab_find(t, piece, strlen(piece));
    if (id < 0)
        return -1;
    return t->piece[id].added || tok_is_special(t, id) ? id : -1;
}

const char *tok_piece(const struct tok *t, int32_t id, size_t *len) {
    if (!in_vocab(t, id))
        return NULL;
    *len = t->piece[id].stored_len;
    return t->piece[id].stored;
}

/* ---- encode ---- */

/* Positions in normalised text, which norm_run bounds by 16 times this and a little, are 32-bit. */
#define MAX_TEXT ((size_t)1 << 27)

/* Text between two special tokens: normalised, then cut at the added tokens of normalised text. */
static int segment(struct enc *e, const char *text, size_t n, bool special) {
    const struct matcher *m = &e->t->norm_match[special];
    const struct added *a;
    size_t at = 0, lo, hi;
    if (n == 0)
        return 0;
    if (norm_run(e, text, n, &text, &n))
        return -1;
    while ((a = matcher_find(m, text, n, at, &lo, &hi))) {
        if (lo > at && pre_run(e, 0, text + at, lo - at))
            return -1;
        ids_add(e->out, a->id);
        e->at_start = false;
        at = hi;
    }
    return n > at ? pre_run(e, 0, text + at, n - at) : 0;
}

/* mark: see tok_encode_marked; NULL = special tokens by parse_special everywhere. */
static int encode(const struct tok *t, const char *text, const char *mark, size_t n,
                  bool parse_special, struct ids *out, struct err *err) {
    struct enc e = {.t = t, .out = out, .err = err, .at_start = true};
    size_t was = out->n, at = 0, lo = 0, hi = 0;
    int rc = 0;
    if (n > MAX_TEXT)
        return err_set(err, E_FORMAT, "text: %zu bytes, more than %zu", n, MAX_TEXT);
    while (rc == 0) {
        const struct added *a =
            mark ? matcher_find_marked(t->raw_match, text, mark, n, at, &lo, &hi)
                 : matcher_find(&t->raw_match[parse_special], text, n, at, &lo, &hi);
        size_t end = a ? lo : n;
        bool special = mark ? !memchr(mark + at, 1, end - at) : parse_special;
        rc = segment(&e, text + at, end - at, special);
        if (!a)
            break;
        ids_add(out, a->id);
        e.at_start = false;
        at = hi;
    }
    if (rc)
        out->n = was;
    buf_free(&e.norm[0]);
    buf_free(&e.norm[1]);
    ids_free(&e.sym);
    queue_free(e.queue);
    regex_state_free(e.regex);
    return rc;
}

int tok_encode(const struct tok *t, const char *text, size_t n, bool parse_special, struct ids *out,
               struct err *err) {
    return encode(t, text, NULL, n, parse_special, out, err);
}

int tok_encode_marked(const struct tok *t, const char *text, const char *mark, size_t n,
                      struct ids *out, struct err *err) {
    return encode(t, text, mark, n, false, out, err);
}

/* ---- decode ---- */

static int check_id(const struct tok *t, int32_t id, struct err *err) {
    if (!in_vocab(t, id))
        return err_set(err, E_FORMAT, "%s: token id %d is not in the vocabulary", t->path, id);
    return 0;
}

int tok_decode(const struct tok *t, const int32_t *ids, size_t n, bool keep_special,
               struct buf *out, struct err *err) {
    size_t was = out->len;
    bool first = t->strip_first;
    for (size_t i = 0; i < n; i++) {
        if (check_id(t, ids[i], err)) {
            out->len = was;
            return -1;
        }
        if (!keep_special && tok_is_special(t, ids[i]))
            continue;
        const struct piece *p = &t->piece[ids[i]];
        bool drop = first && p->raw_len && p->raw[0] == ' ';
        buf_add(out, p->raw + drop, p->raw_len - drop);
        first = first && p->raw_len == 0;
    }
    return 0;
}

void tok_stream_start(struct tok_stream *s, const struct tok *t) {
    *s = (struct tok_stream){.tok = t};
}

/* Could s[0..n) be the beginning of a valid character that n bytes do not finish? */
static bool is_prefix(const char *s, size_t n) {
    char whole[4] = {0, (char)0x80, (char)0x80, (char)0x80};
    static const char high[] = "\xbf";
    int32_t cp;
    memcpy(whole, s, n);
    unsigned char c = (unsigned char)s[0];
    size_t need = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 1;
    if (n >= need)
        return false;
    if (utf8_next(whole, whole + 4, &cp) == (int)need)
        return true;
    if (n > 1)
        return false;
    whole[1] = high[0]; /* E0 and F0 need a high second byte */
    return utf8_next(whole, whole + 4, &cp) == (int)need;
}

/* Moves whole characters of held + p to out; each maximal invalid part becomes one U+FFFD. */
static void stream_bytes(struct tok_stream *s, const char *p, size_t n, struct buf *out) {
    char *h = s->held;
    for (size_t i = 0; i < n; i++) {
        int32_t cp;
        h[s->n_held++] = p[i];
        while (s->n_held) {
            int len = utf8_next(h, h + s->n_held, &cp);
            if (len == 0 && is_prefix(h, (size_t)s->n_held))
                break;
            size_t gone = len ? (size_t)len : 1;
            if (len)
                buf_add(out, h, gone);
            else
                buf_add(out, "\xef\xbf\xbd", 3);
            while (len == 0 && gone < (size_t)s->n_held && is_prefix(h, gone + 1))
                gone++; /* the bad character's valid beginning goes with it */
            s->n_held -= (int)gone;
            memmove(h, h + gone, (size_t)s->n_held);
        }
    }
}

int tok_stream_add(struct tok_stream *s, int32_t id, struct buf *out, struct err *err) {
    const struct tok *t = s->tok;
    if (check_id(t, id, err))
        return -1;
    const struct piece *p = &t->piece[id];
    if (tok_is_special(t, id) || p->raw_len == 0)
        return 0;
    bool drop = !s->started && t->strip_first && p->raw[0] == ' ';
    s->started = true;
    stream_bytes(s, p->raw + drop, p->raw_len - drop, out);
    return 0;
}

void tok_stream_end(struct tok_stream *s, struct buf *out) {
    if (s->n_held)
        buf_add(out, "\xef\xbf\xbd", 3); /* what is held is one unfinished character */
    s->n_held = 0;
}

void tok_show(const struct tok *t, int32_t id, struct buf *out) {
    struct tok_stream s;
    size_t n = 0;
    const char *piece = tok_is_special(t, id) ? tok_piece(t, id, &n) : NULL;
    if (piece) {
        buf_add(out, piece, n);
        return;
    }
    tok_stream_start(&s, t);
    s.started = true; /* not at the start of a text: a leading space is shown */
    tok_stream_add(&s, id, out, NULL);
    buf_add(out, s.held, (size_t)s.n_held);
}

/* ---- from GGUF's arrays ---- */

static int set_pre(struct tok *t, const char *pre, struct err *err) {
    static const struct {
        const char *name;
        struct pre pre;
        bool nfc, ignore_merges;
    } known[] = {
        {"default", {.type = PRE_GPT2}, false, false},
        {"gpt-2", {.type = PRE_GPT2}, false, false},
        {"gpt2", {.type = PRE_GPT2}, false, false},
        {"phi-2", {.type = PRE_GPT2}, false, false},
        {"llama-bpe", {.type = PRE_LLAMA3, .digits = 3}, false, true},
        {"llama3", {.type = PRE_LLAMA3, .digits = 3}, false, true},
        {"llama-v3", {.type = PRE_LLAMA3, .digits = 3}, false, true},
        {"qwen2", {.type = PRE_LLAMA3, .digits = 1}, true, false},
        {"smollm", {.type = PRE_DIGITS, .digits = 1}, false, false},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, pre ? pre : "default") != 0)
            continue;
        t->pre[t->n_pre++] = known[i].pre;
        if (known[i].pre.type == PRE_DIGITS)
            t->pre[t->n_pre++].type = PRE_GPT2;
        if (known[i].nfc)
            t->norm[t->n_norm++].type = NORM_NFC;
        t->ignore_merges = known[i].ignore_merges;
        return 0;
    }
    return err_set(err, E_FORMAT, "%s: tokenizer.ggml.pre: '%.40s' is not supported", t->path, pre);
}

static int add_pieces(struct tok *t, const struct tok_spec *s, struct err *err) {
    for (int i = 0; i < s->n_vocab; i++)
        if (vocab_add_typed(t, i, s->piece[i], s->piece_len[i], s->type ? s->type[i] : 1, err))
            return -1;
    return 0;
}

static int add_merges(struct tok *t, const struct tok_spec *s, struct err *err) {
    if (s->n_merges < 0 || s->n_merges > TOK_MAX_MERGES)
        return err_set(err, E_FORMAT, "%s: tokenizer.ggml.merges: %d, not in 0..%d", s->path,
                       s->n_merges, TOK_MAX_MERGES);
    bpe_reserve(t, (size_t)s->n_merges);
    for (int i = 0; i < s->n_merges; i++) {
        const char *m = s->merge[i], *gap = m[0] ? strchr(m + 1, ' ') : NULL;
        if (!gap)
            return err_set(err, E_FORMAT,
                           "%s: tokenizer.ggml.merges: entry %d '%.40s' is not two pieces", s->path,
                           i, m);
        if (vocab_add_merge(t, m, (size_t)(gap - m), gap + 1, strlen(gap + 1), (uint32_t)i, err))
            return -1;
    }
    return 0;
}

static int check_special(struct tok *t, const char *key, int id, int *out, struct err *err) {
    if (id < -1 || id >= t->n_vocab)
        return err_set(err, E_FORMAT, "%s: %s: %d is not a token id", t->path, key, id);
    if (id >= 0)
        *out = id;
    return 0;
}

/* Where the file has no token types, BOS and EOS must still not come from text. */
static int mark_control(struct tok *t, int id, struct err *err) {
    if (id < 0 || t->piece[id].added)
        return 0;
    struct added a = {.text = t->piece[id].stored, .len = t->piece[id].stored_len, .special = true};
    return vocab_add_token(t, &a, id, err);
}

static int check_scores(const struct tok_spec *s, struct err *err) {
    if (!s->score)
        return err_set(err, E_FORMAT, "%s: tokenizer.ggml.scores: missing", s->path);
    for (int i = 0; i < s->n_vocab; i++)
        if (!isfinite(s->score[i]))
            return err_set(err, E_FORMAT,
                           "%s: tokenizer.ggml.scores: that of token %d is not finite", s->path, i);
    return 0;
}

struct tok *tok_new(const struct tok_spec *s, struct err *err) {
    struct tok *t = vocab_new(s->path);
    t->bytes = strcmp(s->model, "gpt2") == 0;
    if (!t->bytes && strcmp(s->model, "llama") != 0) {
        err_set(err, E_FORMAT, "%s: tokenizer.ggml.model: '%.40s' is not supported", s->path,
                s->model);
        goto fail;
    }
    if (add_pieces(t, s, err) ||
        check_special(t, "tokenizer.ggml.bos_token_id", s->bos, &t->bos, err) ||
        check_special(t, "tokenizer.ggml.eos_token_id", s->eos, &t->eos, err) ||
        check_special(t, "tokenizer.ggml.unknown_token_id", s->unk, &t->unk, err))
        goto fail;
    if (!s->type && (mark_control(t, t->bos, err) || mark_control(t, t->eos, err)))
        goto fail;
    if (t->bytes) {
        if (set_pre(t, s->pre, err) || add_merges(t, s, err))
            goto fail;
        t->unk = -1; /* every byte has a piece */
    } else {
        if (vocab_check_bytes(t, err) || check_scores(s, err) ||
            spm_merges_from_scores(t, s->score, err))
            goto fail;
        spm_defaults(t, s->add_space_prefix, s->remove_extra_spaces);
    }
    t->add_bos = s->add_bos;
    t->chat_template = s->chat_template ? mem_strdup(s->chat_template) : NULL;
    if (tok_finish(t, err))
        goto fail;
    return t;
fail:
    tok_free(t);
    return NULL;
}
