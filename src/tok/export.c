/* export.c - see export.h.
 *
 * What GGUF can say of a tokenizer is less than what tokenizer.json can: a name for the
 * pre-tokeniser, and for each token a text, a score and a type.  What it cannot say is refused, so
 * that a converted model never gives other ids in silence.  SentencePiece's scores are made anew
 * from the order of the merges, which is all that they decide. */
#include "tok/export.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "tok/impl.h"

#define META "\xe2\x96\x81" /* SentencePiece's visible space */

static int refuse(const struct tok *t, const char *what, struct err *err) {
    return err_set(err, E_USAGE, "%s: %s: GGUF cannot express it", t->path, what);
}

/* -- GGUF's arrays ---------------------------------------------------------------------------- */

/* Every piece is what merges make of its text, so that it does not matter whether a word that is a
 * piece is looked up first. */
static bool pieces_are_whole(const struct tok *t) {
    struct ids ids = {0};
    bool whole = true;
    for (int id = 0; id < t->n_vocab && whole; id++) {
        const struct piece *p = &t->piece[id];
        struct enc e = {.t = t, .out = &ids};
        if (p->kind != PIECE_NORMAL)
            continue;
        ids.n = 0;
        bpe_word(&e, p->raw, p->raw_len);
        whole = ids.n == 1 && ids.id[0] == id;
        ids_free(&e.sym);
        queue_free(e.queue);
    }
    ids_free(&ids);
    return whole;
}

static bool pre_is(const struct tok *t, int i, enum pre_type type, int digits) {
    return t->pre[i].type == type && t->pre[i].digits == digits;
}

/* tokenizer.ggml.pre, as tok.c reads it. */
static const char *pre_name(const struct tok *t) {
    bool nfc = t->n_norm == 1 && t->norm[0].type == NORM_NFC;
    if (t->n_norm > nfc)
        return NULL;
    if (t->n_pre == 1 && !nfc && !t->ignore_merges && pre_is(t, 0, PRE_GPT2, 0))
        return "gpt-2";
    if (t->n_pre == 1 && !nfc && pre_is(t, 0, PRE_LLAMA3, 3) &&
        (t->ignore_merges || pieces_are_whole(t)))
        return "llama-bpe";
    if (t->n_pre == 1 && nfc && !t->ignore_merges && pre_is(t, 0, PRE_LLAMA3, 1))
        return "qwen2";
    if (t->n_pre == 2 && !nfc && !t->ignore_merges && pre_is(t, 0, PRE_DIGITS, 1) &&
        pre_is(t, 1, PRE_GPT2, 0))
        return "smollm";
    return NULL;
}

/* SentencePiece's normaliser: [squeeze], [prefix], " " to a visible space; or the last two as a
 * pre-tokeniser. */
static bool spm_norms(const struct tok *t, struct tok_spec *s) {
    bool replaced = false;
    for (int i = 0; i < t->n_norm; i++) {
        const struct norm *n = &t->norm[i];
        if (n->type == NORM_SQUEEZE && i == 0)
            s->remove_extra_spaces = true;
        else if (n->type == NORM_PREPEND && strcmp(n->to, META) == 0 && !s->add_space_prefix)
            s->add_space_prefix = true;
        else if (n->type == NORM_REPLACE && !replaced && strcmp(n->from, " ") == 0 &&
                 strcmp(n->to, META) == 0)
            replaced = true;
        else
            return false;
    }
    if (t->n_pre == 0)
        return replaced;
    const struct pre *p = &t->pre[0];
    if (t->n_pre > 1 || p->type != PRE_METASPACE || strcmp(p->text, META) != 0)
        return false;
    if (p->prepend == PREPEND_FIRST)
        log_info("%s: after special tokens GGUF's readers put a space in front as well", t->path);
    s->add_space_prefix |= p->prepend != PREPEND_NEVER;
    return true;
}

static int by_rank(const void *pa, const void *pb) {
    const struct pair *a = pa, *b = pb;
    return a->rank != b->rank ? (a->rank < b->rank ? -1 : 1)
                              : (a->left > b->left) - (a->left < b->left);
}

/* All merges in their order; owned by the caller. */
static struct pair *sorted_merges(const struct tok *t) {
    struct pair *all = mem_array(t->n_pair + 1, sizeof *all);
    size_t n = 0;
    for (size_t i = 0; t->pair && i <= t->pair_mask; i++)
        if (t->pair[i].left >= 0)
            all[n++] = t->pair[i];
    qsort(all, n, sizeof *all, by_rank);
    return all;
}

static int32_t type_of(enum piece_kind kind) {
    static const int32_t types[] = {
        [PIECE_HOLE] = 5, [PIECE_NORMAL] = 1, [PIECE_UNKNOWN] = 2, [PIECE_CONTROL] = 3,
        [PIECE_USER] = 4, [PIECE_BYTE] = 6,   [PIECE_UNUSED] = 5};
    return types[kind];
}

/* Pieces and types; returns the texts of what has no piece. */
static char *list_pieces(const struct tok *t, struct tok_spec *s) {
    struct buf text = {0};
    const char **piece = mem_array((size_t)s->n_vocab, sizeof *piece);
    size_t *len = mem_array((size_t)s->n_vocab, sizeof *len);
    int32_t *type = mem_array((size_t)s->n_vocab, sizeof *type);
    buf_reserve(&text, (size_t)s->n_vocab * 20); /* so that it does not move */
    for (int id = 0; id < s->n_vocab; id++) {
        const struct piece *p = id < t->n_vocab ? &t->piece[id] : NULL;
        type[id] = type_of(p ? p->kind : PIECE_HOLE);
        if (p && p->kind != PIECE_HOLE) {
            piece[id] = p->stored;
            len[id] = p->stored_len;
            continue;
        }
        size_t at = text.len;
        for (int64_t k = id;; k += s->n_vocab) { /* the vocabulary may have that text */
            text.len = at;
            buf_printf(&text, "[PAD%lld]", (long long)k);
            if (vocab_find(t, text.data + at, text.len - at) < 0)
                break;
        }
        piece[id] = text.data + at;
        len[id] = text.len - at;
    }
    s->piece = piece;
    s->piece_len = len;
    s->type = type;
    return text.data;
}

/* Returns "left right" of each merge, one after another. */
static char *list_merges(const struct tok *t, struct tok_spec *s) {
    struct pair *m = sorted_merges(t);
    const char **merge = mem_array(t->n_pair, sizeof *merge);
    struct buf text = {0};
    size_t room = 1;
    for (size_t i = 0; i < t->n_pair; i++)
        room += t->piece[m[i].left].stored_len + t->piece[m[i].right].stored_len + 2;
    buf_reserve(&text, room); /* so that it does not move */
    for (size_t i = 0; i < t->n_pair; i++) {
        const struct piece *l = &t->piece[m[i].left], *r = &t->piece[m[i].right];
        merge[i] = text.data + text.len;
        buf_add(&text, l->stored, l->stored_len);
        buf_addc(&text, ' ');
        buf_add(&text, r->stored, r->stored_len);
        buf_addc(&text, 0);
    }
    free(m);
    s->merge = merge;
    s->n_merges = (int)t->n_pair; /* at most TOK_MAX_MERGES */
    return text.data;
}

/* The earlier a piece is made, the higher; what no merge makes comes last. */
static void list_scores(const struct tok *t, struct tok_spec *s) {
    struct pair *m = sorted_merges(t);
    float *score = mem_array((size_t)s->n_vocab, sizeof *score);
    for (int id = 0; id < s->n_vocab; id++) {
        bool plain = id < t->n_vocab && t->piece[id].kind == PIECE_NORMAL;
        score[id] = plain ? -(float)t->n_rank - 1 : 0;
    }
    for (size_t i = t->n_pair; i-- > 0;)
        score[m[i].id] = -(float)m[i].rank;
    free(m);
    s->score = score;
}

void tok_export_free(struct tok_export *e) {
    free((void *)e->spec.piece);
    free((void *)e->spec.piece_len);
    free((void *)e->spec.type);
    free((void *)e->spec.score);
    free((void *)e->spec.merge);
    free(e->names);
    free(e->merges);
    *e = (struct tok_export){.names = NULL};
}

int tok_export(const struct tok *t, int n_vocab, struct tok_export *e, struct err *err) {
    struct tok_spec *s = &e->spec;
    *e = (struct tok_export){.names = NULL};
    *s = (struct tok_spec){.path = t->path,
                           .model = t->bytes ? "gpt2" : "llama",
                           .n_vocab = n_vocab,
                           .bos = t->bos,
                           .eos = t->eos,
                           .unk = t->unk,
                           .add_bos = tok_adds_bos(t),
                           .chat_template = t->chat_template};
    if (t->bytes && !(s->pre = pre_name(t)))
        return refuse(t, "pre_tokenizer or normalizer", err);
    if (!t->bytes && !spm_norms(t, s))
        return refuse(t, "normalizer or pre_tokenizer", err);
    if (!t->bytes && t->ignore_merges)
        return refuse(t, "ignore_merges", err);
    e->names = list_pieces(t, s);
    if (t->bytes)
        e->merges = list_merges(t, s);
    else
        list_scores(t, s);
    return 0;
}

/* -- the files of a folder -------------------------------------------------------------------- */

static json_t *text_json(const struct piece *p) {
    return json_stringn(p->stored, p->stored_len);
}

static json_t *added_json(const struct tok *t) {
    json_t *list = json_array();
    for (int id = 0; id < t->n_vocab; id++) {
        const struct added *a = t->piece[id].kind == PIECE_HOLE ? NULL : vocab_added(t, id);
        if (!a)
            continue;
        json_array_append_new(list,
                              json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", id, "content",
                                        text_json(&t->piece[id]), "single_word", a->single_word,
                                        "lstrip", a->lstrip, "rstrip", a->rstrip, "normalized",
                                        a->normalized, "special", a->special));
    }
    return list;
}

static json_t *step_json(const struct pre *p) {
    if (p->type == PRE_DIGITS)
        return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", p->digits == 1);
    if (p->type == PRE_GPT2)
        return hf_byte_level(false, true);
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                     pre_pattern(p), "behavior", "Isolated", "invert", 0);
}

/* ByteLevel must come last: it is the last step itself if it splits. */
static json_t *pre_json(const struct tok *t) {
    json_t *list = json_array();
    for (int i = 0; i < t->n_pre; i++)
        json_array_append_new(list, step_json(&t->pre[i]));
    if (!t->n_pre || t->pre[t->n_pre - 1].type != PRE_GPT2)
        json_array_append_new(list, hf_byte_level(false, false));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

static json_t *model_json(const struct tok *t) {
    struct pair *m = sorted_merges(t);
    json_t *vocab = json_object(), *merges = json_array();
    for (int id = 0; id < t->n_vocab; id++) {
        const struct piece *p = &t->piece[id];
        if (p->kind == PIECE_HOLE || p->kind == PIECE_UNUSED)
            continue;
        json_object_setn_new(vocab, p->stored, p->stored_len, json_integer(id));
    }
    for (size_t i = 0; i < t->n_pair; i++) {
        const struct piece *l = &t->piece[m[i].left], *r = &t->piece[m[i].right];
        json_array_append_new(merges, json_sprintf("%.*s %.*s", (int)l->stored_len, l->stored,
                                                   (int)r->stored_len, r->stored));
    }
    free(m);
    return json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                     "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                     "byte_fallback", 0, "ignore_merges", t->ignore_merges, "vocab", vocab,
                     "merges", merges);
}

static int write_json(const struct tok *t, const char *dir, struct err *err) {
    char *bos = t->bos >= 0 ? strndup(t->piece[t->bos].stored, t->piece[t->bos].stored_len) : NULL;
    bool nfc = t->n_norm == 1 && t->norm[0].type == NORM_NFC;
    json_t *post = bos && t->add_bos ? hf_bos_template(bos, t->bos) : hf_byte_level(true, true);
    json_t *j = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0",
                          "truncation", "padding", "added_tokens", added_json(t), "normalizer",
                          nfc ? json_pack("{s:s}", "type", "NFC") : json_null(), "pre_tokenizer",
                          pre_json(t), "post_processor", post, "decoder", hf_byte_level(true, true),
                          "model", model_json(t));
    free(bos);
    return json_write(dir, "tokenizer.json", j, 1, err);
}

/* Protobuf: varints of 7 bits, the lowest first; a field's key is number << 3 | wire. */
static void pb_varint(struct buf *b, uint64_t v) {
    for (; v > 127; v >>= 7)
        buf_addc(b, (char)(v | 128));
    buf_addc(b, (char)v);
}

static void pb_int(struct buf *b, int number, int64_t v) {
    pb_varint(b, (uint64_t)number << 3);
    pb_varint(b, (uint64_t)v);
}

static void pb_bytes(struct buf *b, int number, const void *p, size_t n) {
    pb_varint(b, (uint64_t)number << 3 | 2);
    pb_varint(b, n);
    buf_add(b, p, n);
}

/* tokenizer.model; its fields are listed in spm.c. */
static int write_model(const struct tok_spec *s, const char *dir, struct err *err) {
    struct buf file = {0}, sub = {0};
    bool fallback = false;
    for (int i = 0; i < s->n_vocab; i++) {
        sub.len = 0;
        fallback |= s->type[i] == 6;
        pb_bytes(&sub, 1, s->piece[i], s->piece_len[i]);
        pb_varint(&sub, 2 << 3 | 5);
        buf_add(&sub, &s->score[i], 4); /* the host is little endian, as the file */
        pb_int(&sub, 3, s->type[i]);
        pb_bytes(&file, 1, sub.data, sub.len);
    }
    sub.len = 0;
    pb_int(&sub, 3, 2); /* BPE */
    pb_int(&sub, 4, s->n_vocab);
    pb_int(&sub, 35, fallback);
    pb_int(&sub, 40, s->unk);
    pb_int(&sub, 41, s->bos);
    pb_int(&sub, 42, s->eos);
    pb_bytes(&file, 2, sub.data, sub.len);
    sub.len = 0;
    pb_bytes(&sub, 1, "identity", 8);
    pb_int(&sub, 3, s->add_space_prefix);
    pb_int(&sub, 4, s->remove_extra_spaces);
    pb_int(&sub, 5, 1);
    pb_bytes(&file, 3, sub.data, sub.len);
    char *path = path_join(dir, "tokenizer.model");
    int rc = file_write(path, file.data, file.len, err);
    free(path);
    buf_free(&file);
    buf_free(&sub);
    return rc;
}

static int write_config(const struct tok *t, const char *dir, struct err *err) {
    json_t *j = json_pack("{s:s, s:b, s:b, s:b, s:f}", "tokenizer_class",
                          t->bytes ? "PreTrainedTokenizerFast" : "LlamaTokenizer", "add_bos_token",
                          tok_adds_bos(t), "add_eos_token", 0, "clean_up_tokenization_spaces", 0,
                          "model_max_length", 1e30); /* no limit of the tokenizer's own */
    if (t->bos >= 0)
        json_object_set_new(j, "bos_token", text_json(&t->piece[t->bos]));
    if (t->eos >= 0)
        json_object_set_new(j, "eos_token", text_json(&t->piece[t->eos]));
    if (t->chat_template)
        json_object_set_new(j, "chat_template", json_string(t->chat_template));
    return json_write(dir, "tokenizer_config.json", j, 1, err);
}

int tok_write(const struct tok *t, const char *dir, struct err *err) {
    struct tok_export e = {.names = NULL};
    if (write_config(t, dir, err))
        return -1;
    if (t->bytes)
        return write_json(t, dir, err);
    int rc = tok_export(t, t->n_vocab, &e, err) || write_model(&e.spec, dir, err) ? -1 : 0;
    tok_export_free(&e);
    return rc;
}
