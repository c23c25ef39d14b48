/* hf.c - tokenizers as Hugging Face folders hold them.
 * tokenizer.json names its parts by type; a type that is not implemented is refused by name,
 * since a guess would give ids that the model was not trained on.  Sizes, counts and nesting are
 * bounded before anything is allocated from them; jansson bounds depth and refuses repeated
 * keys. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tok/impl.h"

#define MAX_VALUES                                                                                 \
    ((size_t)4 << 20) /* in one tokenizer.json; a vocabulary of 262,144 has 1.8 million */
#define MAX_CONFIG ((size_t)16 << 20)
#define MAX_CONTENT 32 /* bytes that a replacement may insert */

/* Refuses JSON whose values would take far more memory than its text. */
static int count_values(const char *path, const char *s, size_t n, struct err *err) {
    size_t values = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"')
            in_string = !in_string;
        else if (in_string)
            i += s[i] == '\\';
        else
            values += s[i] == ',' || s[i] == '[' || s[i] == '{';
    }
    if (values > MAX_VALUES)
        return err_set(err, E_FORMAT, "%s: more than %zu JSON values", path, MAX_VALUES);
    return 0;
}

static int refuse(const char *path, const char *field, const json_t *o, struct err *err) {
    const json_t *type = json_object_get(o, "type");
    if (!json_is_string(type))
        return err_set(err, E_FORMAT, "%s: %s: no type", path, field);
    return err_set(err, E_FORMAT, "%s: %s: type '%.40s' is not supported", path, field,
                   json_string_value(type));
}

static bool is_type(const json_t *o, const char *type) {
    const json_t *v = json_object_get(o, "type");
    return json_is_string(v) && strcmp(json_string_value(v), type) == 0;
}

/* A string value with its length; absent = untouched. */
static int get_text(const json_t *o, const char *path, const char *field, const char *key,
                    const char **s, size_t *n, struct err *err) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_string(v))
        return err_set(err, E_FORMAT, "%s: %s.%s must be a string", path, field, key);
    *s = json_string_value(v);
    *n = json_string_length(v);
    return 0;
}

/* The one key of {"Regex": ...} or {"String": ...}. */
static int get_pattern(const json_t *o, const char *path, const char *field, bool *regex,
                       const char **s, size_t *n, struct err *err) {
    const json_t *p = json_object_get(o, "pattern");
    *regex = json_object_get(p, "Regex") != NULL;
    *s = NULL;
    if (get_text(p, path, field, *regex ? "Regex" : "String", s, n, err))
        return -1;
    if (!*s || *n == 0)
        return err_set(err, E_FORMAT, "%s: %s.pattern: must be a non-empty Regex or String", path,
                       field);
    return 0;
}

/* ---- normalizer ---- */

static int add_replace(struct tok *t, const json_t *o, struct norm *op, struct err *err) {
    bool regex;
    const char *s, *to = "";
    size_t n, n_to = 0;
    if (get_pattern(o, t->path, "normalizer", &regex, &s, &n, err) ||
        get_text(o, t->path, "normalizer", "content", &to, &n_to, err))
        return -1;
    op->type = regex ? NORM_REPLACE_REGEX : NORM_REPLACE;
    if (regex && !(op->re = regex_new(t->path, "normalizer", s, n, err)))
        return -1;
    op->from = arena_add(t, s, n);
    op->from_len = n;
    op->to = arena_add(t, to, n_to);
    op->to_len = n_to;
    return 0;
}

static int add_norm(struct tok *t, const json_t *o, struct err *err) {
    static const struct {
        const char *name;
        enum norm_type type;
    } plain[] = {{"NFC", NORM_NFC},         {"NFD", NORM_NFD},
                 {"NFKC", NORM_NFKC},       {"NFKD", NORM_NFKD},
                 {"Lowercase", NORM_LOWER}, {"StripAccents", NORM_STRIP_ACCENTS}};
    struct norm *op = &t->norm[t->n_norm];
    const char *to = NULL;
    size_t n = 0;
    if (t->n_norm >= TOK_MAX_STEPS - 1) /* one is kept for spm_squeeze */
        return err_set(err, E_FORMAT, "%s: normalizer: more than %d steps", t->path,
                       TOK_MAX_STEPS - 1);
    t->n_norm++; /* what op owns is freed with t from here on */
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (is_type(o, plain[i].name)) {
            op->type = plain[i].type;
            return 0;
        }
    if (is_type(o, "Strip")) {
        op->type = NORM_STRIP;
        op->left = op->right = true;
        return json_get_bool(o, t->path, "strip_left", &op->left, err) ||
                       json_get_bool(o, t->path, "strip_right", &op->right, err)
                   ? -1
                   : 0;
    }
    if (is_type(o, "Prepend")) {
        op->type = NORM_PREPEND;
        if (get_text(o, t->path, "normalizer", "prepend", &to, &n, err))
            return -1;
        op->to = arena_add(t, to, n);
        op->to_len = n;
    } else if (!is_type(o, "Replace")) {
        t->n_norm--;
        return refuse(t->path, "normalizer", o, err);
    } else if (add_replace(t, o, op, err)) {
        return -1;
    }
    if (op->to_len > MAX_CONTENT)
        return err_set(err, E_FORMAT, "%s: normalizer: inserts %zu bytes, more than %d", t->path,
                       op->to_len, MAX_CONTENT);
    return 0;
}

/* Calls add for o, or for each item of it if it is a Sequence; sequences may nest eight deep. */
static int each_step(struct tok *t, const json_t *o, const char *field, const char *items,
                     int depth, int (*add)(struct tok *, const json_t *, struct err *),
                     struct err *err) {
    size_t i;
    json_t *item;
    if (!o || json_is_null(o))
        return 0;
    if (!json_is_object(o))
        return err_set(err, E_FORMAT, "%s: %s must be an object", t->path, field);
    if (!is_type(o, "Sequence"))
        return add(t, o, err);
    const json_t *list = json_object_get(o, items);
    if (!json_is_array(list) || depth == 8)
        return err_set(err, E_FORMAT, "%s: %s.%s: %s", t->path, field, items,
                       depth == 8 ? "nested too deeply" : "must be an array");
    json_array_foreach(list, i, item) {
        if (each_step(t, item, field, items, depth + 1, add, err))
            return -1;
    }
    return 0;
}

/* ---- pre_tokenizer ---- */

static struct pre *next_pre(struct tok *t, enum pre_type type, struct err *err) {
    if (t->n_pre == TOK_MAX_STEPS) {
        err_set(err, E_FORMAT, "%s: pre_tokenizer: more than %d steps", t->path, TOK_MAX_STEPS);
        return NULL;
    }
    t->pre[t->n_pre].type = type;
    return &t->pre[t->n_pre++];
}

static int add_split(struct tok *t, const json_t *o, struct err *err) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"}; /* ORDER: enum split */
    const char *s, *how = "";
    size_t n;
    bool regex;
    struct pre *p = next_pre(t, PRE_STRING, err);
    if (!p || get_pattern(o, t->path, "pre_tokenizer", &regex, &s, &n, err) ||
        json_get_str(o, t->path, "behavior", &how, err) ||
        json_get_bool(o, t->path, "invert", &p->invert, err))
        return -1;
    size_t i = 0;
    while (i < 5 && strcmp(names[i], how) != 0)
        i++;
    if (i == 5)
        return err_set(err, E_FORMAT, "%s: pre_tokenizer.behavior: '%.40s' is not supported",
                       t->path, how);
    p->split = (enum split)i;
    p->text = arena_add(t, s, n);
    p->text_len = n;
    if (!regex)
        return 0;
    if (p->split == SPLIT_ISOLATED && !p->invert)
        return pre_from_pattern(t->path, p->text, n, p, err);
    p->type = PRE_REGEX;
    p->re = regex_new(t->path, "pre_tokenizer", p->text, n, err);
    return p->re ? 0 : -1;
}

static int add_metaspace(struct tok *t, const json_t *o, struct err *err) {
    const char *with = "\xe2\x96\x81", *scheme = "always";
    size_t n = 3;
    bool prefix = true, split = true;
    struct pre *p = next_pre(t, PRE_METASPACE, err);
    if (!p || get_text(o, t->path, "pre_tokenizer", "replacement", &with, &n, err) ||
        json_get_str(o, t->path, "prepend_scheme", &scheme, err) ||
        json_get_bool(o, t->path, "add_prefix_space", &prefix, err) ||
        json_get_bool(o, t->path, "split", &split, err))
        return -1;
    if (strcmp(scheme, "never") == 0 || !prefix)
        p->prepend = PREPEND_NEVER;
    else if (strcmp(scheme, "first") == 0)
        p->prepend = PREPEND_FIRST;
    else if (strcmp(scheme, "always") != 0)
        return err_set(err, E_FORMAT, "%s: pre_tokenizer.prepend_scheme: '%.40s' is not supported",
                       t->path, scheme);
    if (n == 0 || n > 4)
        return err_set(err, E_FORMAT, "%s: pre_tokenizer.replacement: must be one character",
                       t->path);
    p->split = split ? SPLIT_NEXT : SPLIT_ISOLATED;
    p->text = arena_add(t, with, n);
    p->text_len = n;
    return 0;
}

static int add_pre(struct tok *t, const json_t *o, struct err *err) {
    bool prefix = true, regex = true, each = false;
    if (t->bytes) /* what follows would see the byte alphabet, not text */
        return err_set(err, E_FORMAT, "%s: pre_tokenizer: ByteLevel must be the last step",
                       t->path);
    if (is_type(o, "ByteLevel")) {
        t->bytes = true;
        if (json_get_bool(o, t->path, "add_prefix_space", &prefix, err) ||
            json_get_bool(o, t->path, "use_regex", &regex, err))
            return -1;
        if (prefix && !next_pre(t, PRE_PREFIX_SPACE, err))
            return -1;
        return regex && !next_pre(t, PRE_GPT2, err) ? -1 : 0;
    }
    if (is_type(o, "Digits")) {
        struct pre *p = next_pre(t, PRE_DIGITS, err);
        if (!p || json_get_bool(o, t->path, "individual_digits", &each, err))
            return -1;
        p->digits = each;
        return 0;
    }
    if (is_type(o, "Split"))
        return add_split(t, o, err);
    if (is_type(o, "Metaspace"))
        return add_metaspace(t, o, err);
    return refuse(t->path, "pre_tokenizer", o, err);
}

/* ---- post_processor: only whether it puts BOS in front ---- */

static int add_post(struct tok *t, const json_t *o, struct err *err) {
    if (is_type(o, "ByteLevel"))
        return 0;
    if (!is_type(o, "TemplateProcessing"))
        return refuse(t->path, "post_processor", o, err);
    const json_t *first = json_array_get(json_object_get(o, "single"), 0);
    const json_t *name = json_object_get(json_object_get(first, "SpecialToken"), "id");
    if (!json_is_string(name))
        return 0;
    t->bos = vocab_find(t, json_string_value(name), json_string_length(name));
    if (t->bos < 0)
        return err_set(err, E_FORMAT, "%s: post_processor: '%.40s' is not in the vocabulary",
                       t->path, json_string_value(name));
    t->add_bos = true;
    return 0;
}

/* ---- decoder ---- */

static int add_strip(struct tok *t, const json_t *o, struct err *err) {
    int64_t start = 0, stop = 0;
    const char *what = " ";
    if (json_get_int(o, t->path, "start", 0, 1, &start, err) ||
        json_get_int(o, t->path, "stop", 0, 0, &stop, err) ||
        json_get_str(o, t->path, "content", &what, err))
        return -1;
    if (strcmp(what, " ") != 0)
        return err_set(err, E_FORMAT, "%s: decoder: Strip of '%.40s' is not supported", t->path,
                       what);
    t->strip_first = start == 1;
    return 0;
}

static int add_decoder(struct tok *t, const json_t *o, struct err *err) {
    const char *from, *to = "", *scheme = "always", *with = "\xe2\x96\x81";
    size_t n, n_to = 0;
    bool regex, prefix = true;
    if (t->bytes)
        return is_type(o, "ByteLevel") ? 0 : refuse(t->path, "decoder", o, err);
    if (is_type(o, "Fuse"))
        return 0;
    if (is_type(o, "ByteFallback")) {
        spm_spell(t, "", "", true);
        return 0;
    }
    if (is_type(o, "Strip"))
        return add_strip(t, o, err);
    if (is_type(o, "Metaspace")) {
        if (json_get_str(o, t->path, "replacement", &with, err) ||
            json_get_str(o, t->path, "prepend_scheme", &scheme, err) ||
            json_get_bool(o, t->path, "add_prefix_space", &prefix, err))
            return -1;
        spm_spell(t, with, " ", false);
        t->strip_first = prefix && strcmp(scheme, "never") != 0;
        return 0;
    }
    if (!is_type(o, "Replace"))
        return refuse(t->path, "decoder", o, err);
    if (get_pattern(o, t->path, "decoder", &regex, &from, &n, err) ||
        get_text(o, t->path, "decoder", "content", &to, &n_to, err))
        return -1;
    if (regex || n_to > n ||
        ++t->n_replace > TOK_MAX_STEPS) /* so pieces cannot grow without bound */
        return err_set(err, E_FORMAT, "%s: decoder: %s is not supported", t->path,
                       regex      ? "Replace of a Regex"
                       : n_to > n ? "Replace by a longer string"
                                  : "so many Replace");
    spm_spell(t, from, to, false);
    return 0;
}

/* ---- model ---- */

static int add_vocab(struct tok *t, const json_t *vocab, struct err *err) {
    const char *key;
    json_t *v;
    if (!json_is_object(vocab))
        return err_set(err, E_FORMAT, "%s: vocab must be an object", t->path);
    json_object_foreach((json_t *)vocab, key, v) {
        if (!json_is_integer(v))
            return err_set(err, E_FORMAT, "%s: vocab: the id of '%.40s' is not an integer", t->path,
                           key);
        if (vocab_add(t, json_integer_value(v), key, strlen(key), PIECE_NORMAL, err))
            return -1;
    }
    return 0;
}

/* Merge number i: "left right", or ["left", "right"]. */
static int add_merge(struct tok *t, const json_t *m, uint32_t i, struct err *err) {
    const json_t *l = json_array_get(m, 0), *r = json_array_get(m, 1);
    if (json_is_array(m) && json_array_size(m) == 2 && json_is_string(l) && json_is_string(r))
        return vocab_add_merge(t, json_string_value(l), json_string_length(l), json_string_value(r),
                               json_string_length(r), i, err);
    const char *s = json_string_value(m), *gap = s ? strchr(s, ' ') : NULL;
    if (!gap || strchr(gap + 1, ' '))
        return err_set(err, E_FORMAT, "%s: merges: entry %u is not two pieces", t->path, i);
    return vocab_add_merge(t, s, (size_t)(gap - s), gap + 1, strlen(gap + 1), i, err);
}

static int add_merges(struct tok *t, const json_t *merges, struct err *err) {
    size_t i;
    json_t *m;
    if (!json_is_array(merges))
        return err_set(err, E_FORMAT, "%s: model.merges: %s", t->path,
                       merges ? "must be an array" : "missing");
    if (json_array_size(merges) > TOK_MAX_MERGES)
        return err_set(err, E_FORMAT, "%s: model.merges: %zu, more than %d", t->path,
                       json_array_size(merges), TOK_MAX_MERGES);
    bpe_reserve(t, json_array_size(merges));
    json_array_foreach(merges, i, m) {
        if (add_merge(t, m, (uint32_t)i, err))
            return -1;
    }
    return 0;
}

static int add_model(struct tok *t, const json_t *m, struct err *err) {
    const char *unk = NULL, *prefix = "", *suffix = "";
    double dropout = 0;
    if (!json_is_object(m))
        return err_set(err, E_FORMAT, "%s: model: missing", t->path);
    if (json_object_get(m, "type") && !is_type(m, "BPE"))
        return refuse(t->path, "model", m, err);
    if (json_get_str(m, t->path, "unk_token", &unk, err) ||
        json_get_str(m, t->path, "continuing_subword_prefix", &prefix, err) ||
        json_get_str(m, t->path, "end_of_word_suffix", &suffix, err) ||
        json_get_bool(m, t->path, "fuse_unk", &t->fuse_unk, err) ||
        json_get_bool(m, t->path, "byte_fallback", &t->byte_fallback, err) ||
        json_get_bool(m, t->path, "ignore_merges", &t->ignore_merges, err) ||
        json_get_real(m, t->path, "dropout", 0, 0, &dropout, err))
        return -1;
    if (*prefix || *suffix)
        return err_set(err, E_FORMAT, "%s: model.%s: not supported", t->path,
                       *prefix ? "continuing_subword_prefix" : "end_of_word_suffix");
    if (add_vocab(t, json_object_get(m, "vocab"), err) ||
        add_merges(t, json_object_get(m, "merges"), err))
        return -1;
    if (unk) {
        t->unk = vocab_find(t, unk, strlen(unk));
        if (t->unk < 0)
            return err_set(err, E_FORMAT, "%s: model.unk_token: '%.40s' is not in the vocabulary",
                           t->path, unk);
        t->piece[t->unk].kind = PIECE_UNKNOWN;
    }
    return t->byte_fallback ? vocab_check_bytes(t, err) : 0;
}

static int add_token(struct tok *t, const json_t *o, int64_t id, struct err *err) {
    struct added a = {.special = false};
    size_t n = 0;
    if (json_get_bool(o, t->path, "special", &a.special, err))
        return -1;
    a.normalized = !a.special;
    if (get_text(o, t->path, "added_tokens", "content", &a.text, &n, err) ||
        json_get_bool(o, t->path, "normalized", &a.normalized, err) ||
        json_get_bool(o, t->path, "lstrip", &a.lstrip, err) ||
        json_get_bool(o, t->path, "rstrip", &a.rstrip, err) ||
        json_get_bool(o, t->path, "single_word", &a.single_word, err))
        return -1;
    if (!a.text || n == 0 || n > TOK_MAX_PIECE)
        return err_set(err, E_FORMAT, "%s: added_tokens: the content of id %lld is %s", t->path,
                       (long long)id, n ? "too long" : "missing or empty");
    a.len = (uint32_t)n;
    return vocab_add_token(t, &a, id, err);
}

static int add_tokens(struct tok *t, const json_t *list, struct err *err) {
    size_t i;
    json_t *o;
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list))
        return err_set(err, E_FORMAT, "%s: added_tokens must be an array", t->path);
    json_array_foreach(list, i, o) {
        int64_t id = -1;
        if (!json_is_object(o))
            return err_set(err, E_FORMAT, "%s: added_tokens: entry %zu is not an object", t->path,
                           i);
        if (json_get_int(o, t->path, "id", 0, TOK_MAX_IDS - 1, &id, err) ||
            add_token(t, o, id, err))
            return -1;
    }
    return 0;
}

/* Everything of a tokenizer.json; the caller finishes. */
static struct tok *load_json(const char *path, const void *data, size_t n, struct err *err) {
    if (count_values(path, data, n, err))
        return NULL;
    json_t *j = json_parse(path, data, n, err);
    if (!j)
        return NULL;
    struct tok *t = vocab_new(path);
    if (each_step(t, json_object_get(j, "pre_tokenizer"), "pre_tokenizer", "pretokenizers", 0,
                  add_pre, err) ||
        add_model(t, json_object_get(j, "model"), err) ||
        add_tokens(t, json_object_get(j, "added_tokens"), err) ||
        each_step(t, json_object_get(j, "normalizer"), "normalizer", "normalizers", 0, add_norm,
                  err) ||
        each_step(t, json_object_get(j, "post_processor"), "post_processor", "processors", 0,
                  add_post, err) ||
        each_step(t, json_object_get(j, "decoder"), "decoder", "decoders", 0, add_decoder, err)) {
        tok_free(t);
        t = NULL;
    }
    json_decref(j);
    return t;
}

struct tok *hf_parse(const char *path, const void *data, size_t n, struct err *err) {
    struct tok *t = load_json(path, data, n, err);
    if (t && tok_finish(t, err)) {
        tok_free(t);
        t = NULL;
    }
    return t;
}

/* ---- the other files of a folder ---- */

/* Parses dir/name if it is there: *out NULL where absent, owned by the caller.  All numbers
 * become reals: public configurations hold a model_max_length of 10^30. */
static int optional_json(const char *dir, const char *name, json_t **out, char **path,
                         struct err *err) {
    json_error_t je;
    *path = path_join(dir, name);
    *out = NULL;
    if (!file_exists(*path))
        return 0;
    struct buf b = {0};
    if (file_read(*path, MAX_CONFIG, &b, err) == 0 && count_values(*path, b.data, b.len, err) == 0)
        *out = json_loadb(b.data, b.len,
                          JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &je);
    if (!*out)
        err_set(err, E_FORMAT, "%s: invalid JSON at byte %d: %s", *path, je.position, je.text);
    buf_free(&b);
    return *out ? 0 : -1;
}

/* The text of a special token: "x" or {"content": "x"}; NULL if absent. */
static const char *token_name(const json_t *config, const char *key) {
    const json_t *v = json_object_get(config, key);
    if (json_is_object(v))
        v = json_object_get(v, "content");
    return json_string_value(v);
}

static void named_id(struct tok *t, const json_t *config, const char *key, int *id) {
    const char *name = token_name(config, key);
    int32_t found = name ? vocab_find(t, name, strlen(name)) : -1;
    if (found >= 0)
        *id = found;
}

/* Marks a vocabulary entry that a configuration names as special. */
static int mark_special(struct tok *t, const char *name, struct err *err) {
    int32_t id = name ? vocab_find(t, name, strlen(name)) : -1;
    struct added a = {.text = name, .special = true};
    if (id < 0 || t->piece[id].added)
        return 0;
    a.len = (uint32_t)strlen(name);
    return vocab_add_token(t, &a, id, err);
}

static int mark_specials(struct tok *t, const json_t *config, struct err *err) {
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    const json_t *more = json_object_get(config, "additional_special_tokens");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (mark_special(t, token_name(config, keys[i]), err))
            return -1;
    for (size_t i = 0; i < json_array_size(more); i++)
        if (mark_special(t, json_string_value(json_array_get(more, i)), err))
            return -1;
    return 0;
}

/* {"id": {content, special, ...}}: tokens that tokenizer.json may lack. */
static int add_decoder_tokens(struct tok *t, const char *path, const json_t *list,
                              struct err *err) {
    const char *key;
    json_t *o;
    if (list && !json_is_null(list) && !json_is_object(list))
        return err_set(err, E_FORMAT, "%s: added_tokens_decoder must be an object", path);
    json_object_foreach((json_t *)list, key, o) {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (*end || end == key || id < 0 || id >= TOK_MAX_IDS || !json_is_object(o))
            return err_set(err, E_FORMAT,
                           "%s: added_tokens_decoder: '%.40s' is not an id with an object", path,
                           key);
        if (add_token(t, o, id, err))
            return -1;
    }
    return 0;
}

/* chat_template: a string, or [{name, template}, ...] of which "default" counts. */
static void set_template(struct tok *t, const json_t *v) {
    const char *text = json_string_value(v);
    for (size_t i = 0; !text && i < json_array_size(v); i++) {
        const json_t *o = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(o, "name"));
        if (name && strcmp(name, "default") == 0)
            text = json_string_value(json_object_get(o, "template"));
    }
    if (text) {
        free(t->chat_template);
        t->chat_template = mem_strdup(text);
    }
}

static int read_template(struct tok *t, const char *dir, struct err *err) {
    char *path = path_join(dir, "chat_template.jinja"), *json_path;
    struct buf b = {0};
    json_t *j = NULL;
    int rc = 0;
    if (file_exists(path) && (rc = file_read(path, MAX_CONFIG, &b, err)) == 0) {
        free(t->chat_template);
        t->chat_template = mem_strdup(buf_str(&b));
    }
    buf_free(&b);
    free(path);
    if (rc)
        return rc;
    rc = optional_json(dir, "chat_template.json", &j, &json_path, err);
    set_template(t, json_object_get(j, "chat_template"));
    json_decref(j);
    free(json_path);
    return rc;
}

/* tokenizer_config.json and special_tokens_map.json: names of BOS and EOS, more tokens, the
 * template. */
static int read_config(struct tok *t, const char *dir, const json_t *config, const char *path,
                       struct err *err) {
    char *map_path;
    json_t *map = NULL;
    int rc = -1;
    if (optional_json(dir, "special_tokens_map.json", &map, &map_path, err) ||
        add_decoder_tokens(t, path, json_object_get(config, "added_tokens_decoder"), err) ||
        mark_specials(t, map, err) || mark_specials(t, config, err) ||
        json_get_bool(config, path, "add_bos_token", &t->add_bos, err))
        goto out;
    named_id(t, map, "bos_token", &t->bos);
    named_id(t, map, "eos_token", &t->eos);
    named_id(t, config, "bos_token", &t->bos);
    named_id(t, config, "eos_token", &t->eos);
    set_template(t, json_object_get(config, "chat_template"));
    rc = read_template(t, dir, err);
out:
    json_decref(map);
    free(map_path);
    return rc;
}

/* Where no configuration names EOS: the usual names, special tokens only. */
static void usual_eos(struct tok *t) {
    static const char *const names[] = {"</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>"};
    for (size_t i = 0; t->eos < 0 && i < sizeof names / sizeof *names; i++)
        t->eos = tok_find(t, names[i]);
}

/* merges.txt: one "left right" a line, rank by line; the first line may be "#version: ...". */
static int read_merges(struct tok *t, const char *path, struct err *err) {
    struct buf b = {0};
    size_t lines = 1;
    uint32_t rank = 0;
    int rc = file_read(path, TOK_MAX_FILE, &b, err);
    if (rc)
        goto out;
    buf_str(&b);
    for (size_t i = 0; i < b.len; i++)
        lines += b.data[i] == '\n';
    if (lines > TOK_MAX_MERGES) {
        rc = err_set(err, E_FORMAT, "%s: more than %d lines", path, TOK_MAX_MERGES);
        goto out;
    }
    bpe_reserve(t, lines);
    char *line = b.data, *next, *end = b.data + b.len;
    for (int number = 1; rc == 0 && line < end; line = next, number++) {
        char *nl = memchr(line, '\n', (size_t)(end - line));
        next = nl ? nl + 1 : end;
        size_t n = (size_t)((nl ? nl : end) - line);
        n -= n && line[n - 1] == '\r';
        line[n] = 0;
        if (n == 0 || (number == 1 && strncmp(line, "#version", 8) == 0))
            continue;
        char *gap = strchr(line, ' ');
        if (!gap || strchr(gap + 1, ' '))
            rc = err_set(err, E_FORMAT, "%s: line %d is not two pieces", path, number);
        else
            rc = vocab_add_merge(t, line, (size_t)(gap - line), gap + 1, strlen(gap + 1), rank++,
                                 err);
    }
out:
    buf_free(&b);
    return rc;
}

/* The classes that read vocab.json and merges.txt, and their pre-tokenisers. */
static int class_pre(struct tok *t, const char *path, const json_t *config, struct err *err) {
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    bool prefix = false;
    if (json_get_bool(config, path, "add_prefix_space", &prefix, err))
        return -1;
    if (prefix)
        t->pre[t->n_pre++].type = PRE_PREFIX_SPACE;
    if (!name || strncmp(name, "GPT2Tokenizer", 13) == 0 ||
        strncmp(name, "CodeGenTokenizer", 16) == 0) {
        t->pre[t->n_pre++].type = PRE_GPT2; /* the format is GPT-2's own */
        return 0;
    }
    if (strncmp(name, "Qwen2Tokenizer", 14) == 0) {
        t->pre[t->n_pre++] = (struct pre){.type = PRE_LLAMA3, .digits = 1};
        t->norm[t->n_norm++].type = NORM_NFC;
        return 0;
    }
    return err_set(err, E_FORMAT,
                   "%s: tokenizer_class: '%.40s' with vocab.json and merges.txt is not supported",
                   path, name);
}

/* added_tokens.json: {"content": id}. */
static int read_added(struct tok *t, const char *dir, struct err *err) {
    char *path;
    const char *key;
    json_t *j, *v;
    int rc = optional_json(dir, "added_tokens.json", &j, &path, err);
    json_object_foreach(j, key, v) {
        struct added a = {.text = key, .len = (uint32_t)strlen(key)};
        double id = json_is_number(v) ? json_number_value(v) : -1;
        if (rc == 0 && !(id >= 0 && id < TOK_MAX_IDS && id == (int)id))
            rc = err_set(err, E_FORMAT, "%s: the id of '%.40s' is not in 0..%d", path, key,
                         TOK_MAX_IDS - 1);
        if (rc == 0)
            rc = vocab_add_token(t, &a, (int64_t)id, err);
    }
    json_decref(j);
    free(path);
    return rc;
}

static struct tok *load_vocab_merges(const char *dir, const json_t *config, const char *config_path,
                                     struct err *err) {
    char *vocab = path_join(dir, "vocab.json"), *merges = path_join(dir, "merges.txt");
    struct tok *t = NULL;
    json_t *j = NULL;
    struct buf b = {0};
    if (file_read(vocab, TOK_MAX_FILE, &b, err) || count_values(vocab, b.data, b.len, err) ||
        !(j = json_parse(vocab, b.data, b.len, err)))
        goto out;
    t = vocab_new(vocab);
    t->bytes = true;
    if (add_vocab(t, j, err) || read_merges(t, merges, err) ||
        class_pre(t, config_path, config, err) || read_added(t, dir, err)) {
        tok_free(t);
        t = NULL;
    }
out:
    json_decref(j);
    buf_free(&b);
    free(vocab);
    free(merges);
    return t;
}

static struct tok *load_file(const char *path,
                             struct tok *(*load)(const char *, const void *, size_t, struct err *),
                             struct err *err) {
    struct buf b = {0};
    struct tok *t = file_read(path, TOK_MAX_FILE, &b, err) ? NULL : load(path, b.data, b.len, err);
    buf_free(&b);
    return t;
}

/* A tokenizer.json that was converted from a tokenizer.model cannot say that extra spaces are
 * removed; the model that lies beside it does, and it is what the weights were trained with. */
static int squeeze_like(struct tok *t, const char *model, struct err *err) {
    struct buf b = {0};
    bool squeeze = false;
    int rc = file_read(model, TOK_MAX_FILE, &b, err);
    if (rc == 0)
        rc = spm_squeezes(model, b.data, b.len, &squeeze, err);
    buf_free(&b);
    if (rc == 0 && squeeze)
        spm_squeeze(t);
    return rc;
}

struct tok *tok_open(const char *dir, struct err *err) {
    char *json = path_join(dir, "tokenizer.json"), *model = path_join(dir, "tokenizer.model");
    char *vocab = path_join(dir, "vocab.json"), *config_path = NULL;
    json_t *config = NULL;
    struct tok *t = NULL;
    if (optional_json(dir, "tokenizer_config.json", &config, &config_path, err))
        goto out;
    if (file_exists(json)) {
        t = load_file(json, load_json, err);
        if (t && !t->bytes && file_exists(model) && squeeze_like(t, model, err))
            goto fail;
    } else if (file_exists(model)) {
        t = load_file(model, spm_load, err);
    } else if (file_exists(vocab)) {
        t = load_vocab_merges(dir, config, config_path, err);
    } else {
        err_set(err, E_IO, "%s: no tokenizer.json, tokenizer.model or vocab.json", dir);
    }
    if (!t || read_config(t, dir, config, config_path, err) || tok_finish(t, err))
        goto fail;
    usual_eos(t);
    goto out;
fail:
    tok_free(t);
    t = NULL;
out:
    json_decref(config);
    free(json);
    free(model);
    free(vocab);
    free(config_path);
    return t;
}
