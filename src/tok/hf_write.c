/* hf_write.c - a learnt vocabulary as tokenizer.json (version 1.0) and tokenizer_config.json.
 * Bytes are spelt in GPT-2's alphabet (byte_to_mapped).  A merge is written as "left right",
 * which old and new readers know; no spelling has a space. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tok/bpe_train.h"
#include "tok/impl.h"

static const char chatml[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const char *hf_bad_special(const char *text) {
    const char *end = text + strlen(text);
    int32_t cp;
    if (end - text < 2)
        return "is shorter than two bytes";
    if (end - text > TOK_MAX_PIECE)
        return "is too long";
    for (int len; text < end; text += len) {
        len = utf8_next(text, end, &cp);
        if (len == 0)
            return "is not valid UTF-8";
        if (cp <= 0x20 || cp == 0x7f)
            return "has white space or a control character";
        if (cp >= 0x80 && cp < 0x144)
            return "has a character below U+0144 that stands for a byte in the vocabulary";
    }
    return NULL;
}

/* The file's spelling of every symbol, and its id. */
struct spelling {
    char **text; /* owned, each string too */
    int n, n_special;
    int rank[256]; /* of a byte's spelling among all: UTF-8 sorts as code points do */
};

static void spell(struct spelling *p, const struct bpe_merges *m, int n_special) {
    char two[256][3] = {{0}};
    p->n = 256 + m->n;
    p->n_special = n_special;
    p->text = mem_array((size_t)p->n, sizeof *p->text);
    for (int b = 0; b < 256; b++) {
        byte_to_mapped((unsigned char)b, two[b]);
        p->text[b] = mem_strdup(two[b]);
    }
    for (int b = 0; b < 256; b++)
        for (int c = 0; c < 256; c++)
            p->rank[b] += strcmp(two[c], two[b]) < 0;
    for (int i = 0; i < m->n; i++) {
        struct buf b = {0};
        buf_adds(&b, p->text[m->merge[i].left]);
        buf_adds(&b, p->text[m->merge[i].right]);
        buf_str(&b);
        p->text[256 + i] = b.data;
    }
}

static void spelling_free(struct spelling *p) {
    for (int i = 0; i < p->n; i++)
        free(p->text[i]);
    free(p->text);
}

static json_t *model_json(const struct hf_spec *s, const struct bpe_merges *m) {
    struct spelling p = {0};
    json_t *vocab = json_object(), *merges = json_array();
    int by_rank[256];
    spell(&p, m, s->n_special);
    for (int b = 0; b < 256; b++)
        by_rank[p.rank[b]] = b;
    for (int i = 0; i < s->n_special; i++)
        json_object_set_new(vocab, s->special[i], json_integer(i));
    for (int i = 0; i < p.n; i++)
        json_object_set_new(vocab, p.text[i < 256 ? by_rank[i] : i],
                            json_integer(s->n_special + i));
    for (int i = 0; i < m->n; i++)
        json_array_append_new(
            merges, json_sprintf("%s %s", p.text[m->merge[i].left], p.text[m->merge[i].right]));
    spelling_free(&p);
    return json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                     "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                     "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges", merges);
}

json_t *hf_byte_level(bool prefix, bool regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix,
                     "trim_offsets", 1, "use_regex", regex);
}

static json_t *pre_json(enum words_pre pre) {
    const struct pre llama3 = {.type = PRE_LLAMA3, .digits = 3};
    if (pre == WORDS_GPT2)
        return hf_byte_level(false, true);
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers",
                     "type", "Split", "pattern", "Regex", pre_pattern(&llama3), "behavior",
                     "Isolated", "invert", 0, hf_byte_level(false, false));
}

json_t *hf_bos_template(const char *bos, int id) {
    return json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}],"
                     " s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}],"
                     " s:{s:{s:s, s:[i], s:[s]}}}",
                     "type", "TemplateProcessing", "single", "SpecialToken", "id", bos, "type_id",
                     0, "Sequence", "id", "A", "type_id", 0, "pair", "SpecialToken", "id", bos,
                     "type_id", 0, "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", bos,
                     "type_id", 1, "Sequence", "id", "B", "type_id", 1, "special_tokens", bos, "id",
                     bos, "ids", id, "tokens", bos);
}

/* BOS in front of each text, where asked for; ByteLevel only trims offsets. */
static json_t *post_json(const struct hf_spec *s) {
    int id = 0;
    if (!s->add_bos)
        return hf_byte_level(true, true);
    while (strcmp(s->special[id], s->bos) != 0)
        id++;
    return hf_bos_template(s->bos, id);
}

static json_t *tokenizer_json(const struct hf_spec *s, const struct bpe_merges *m) {
    json_t *added = json_array();
    for (int i = 0; i < s->n_special; i++)
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", i,
                                               "content", s->special[i], "single_word", 0, "lstrip",
                                               0, "rstrip", 0, "normalized", 0, "special", 1));
    return json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:o, s:o, s:o}", "version", "1.0",
                     "truncation", "padding", "added_tokens", added, "normalizer", "pre_tokenizer",
                     pre_json(s->pre), "post_processor", post_json(s), "decoder",
                     hf_byte_level(true, true), "model", model_json(s, m));
}

static json_t *config_json(const struct hf_spec *s) {
    json_t *j = json_pack("{s:s, s:s, s:s, s:b, s:b, s:b, s:f}", "tokenizer_class",
                          "PreTrainedTokenizerFast", "bos_token", s->bos, "eos_token", s->eos,
                          "add_bos_token", s->add_bos, "add_prefix_space", 0,
                          "clean_up_tokenization_spaces", 0, "model_max_length",
                          1e30); /* "no limit": the model has one, the tokenizer has none */
    if (s->chatml)
        json_object_set_new(j, "chat_template", json_string(chatml));
    return j;
}

int hf_write(const char *dir, const struct hf_spec *s, const struct bpe_merges *m,
             struct err *err) {
    if (json_write(dir, "tokenizer_config.json", config_json(s), 1, err))
        return -1;
    return json_write(dir, "tokenizer.json", tokenizer_json(s, m), 1, err);
}
