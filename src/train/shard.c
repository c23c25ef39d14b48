/* shard.c - see shard.h.
 *
 * Documents are read in order, encoded on all threads a batch at a time, and written in order: the
 * ids do not depend on the number of threads. */
#include "train/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "train/reader.h"

#define BATCH_ITEMS 256
#define BATCH_BYTES ((size_t)4 << 20)
#define MAX_ARRAY_FILE ((size_t)256 << 20) /* a JSON array is read whole */

static const char magic[] = "PUMTOK01";
struct ending {
    int64_t n_id, n_unit, n_doc, n_bad, bytes;
    uint64_t hash;
};

const char *const tokenizer_files[] = {
    "tokenizer.json",    "tokenizer.model",     "tokenizer_config.json",
    "vocab.json",        "merges.txt",          "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", NULL};

int doc_format_parse(const char *name) {
    static const char *const names[] = {"auto", "text", "jsonl",
                                        "chat"}; /* ORDER: enum doc_format */
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, names[i]))
            return i;
    return -1;
}

/* -- hashes ------------------------------------------------------------------------------------ */

static int hash_file(const char *path, XXH3_state_t *h, struct err *err) {
    size_t size = (size_t)1 << 20;
    char *block = mem_new(size);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : 0;
    while (fd >= 0 && ((n = read(fd, block, size)) > 0 || (n < 0 && errno == EINTR)))
        if (n > 0)
            XXH3_128bits_update(h, block, (size_t)n);
    int rc = n < 0 ? err_set(err, E_IO, "%s: %s", path, strerror(errno)) : 0;
    if (fd >= 0)
        close(fd);
    free(block);
    return rc;
}

int shard_tok_hash(const char *dir, uint64_t *hash, struct err *err) {
    XXH3_state_t *h = XXH3_createState();
    int rc = 0;
    XXH3_128bits_reset(h);
    for (int i = 0; tokenizer_files[i] && !rc; i++) {
        char *path = path_join(dir, tokenizer_files[i]);
        if (file_exists(path)) {
            XXH3_128bits_update(h, tokenizer_files[i], strlen(tokenizer_files[i]));
            rc = hash_file(path, h, err);
        }
        free(path);
    }
    *hash = XXH3_128bits_digest(h).low64;
    XXH3_freeState(h);
    return rc;
}

static int make_key(const struct shard_spec *spec, XXH128_hash_t *key, struct err *err) {
    XXH3_state_t *h = XXH3_createState();
    struct buf b = {0};
    buf_printf(&b, "%d %d %d %d %llx %s", UNIT_TOKENS, (int)spec->format, (int)spec->chat,
               spec->skip_bad, (unsigned long long)spec->tok_hash,
               spec->separator ? spec->separator : "");
    XXH3_128bits_reset(h);
    XXH3_128bits_update(h, b.data, b.len);
    int rc = hash_file(spec->path, h, err);
    *key = XXH3_128bits_digest(h);
    XXH3_freeState(h);
    buf_free(&b);
    return rc;
}

/* -- one document ------------------------------------------------------------------------------ */

struct item {
    struct buf raw; /* a piece of text, or an object */
    int64_t line;
    bool first, last; /* of its document */
    bool chat;        /* out: a conversation */
    struct ids ids;   /* out: without BOS and EOS */
    struct err err;
};

struct talk {
    struct chat_msg *msg;
    int n, cap;
};

static void say(struct talk *t, const char *role, const char *text) {
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 8;
        t->msg = mem_resize(t->msg, (size_t)t->cap, sizeof *t->msg);
    }
    t->msg[t->n++] = (struct chat_msg){role, text};
}

static int encode_talk(const struct shard_spec *spec, const struct talk *t, struct item *it) {
    bool answered = false;
    for (int i = 0; i < t->n; i++)
        answered = answered || !strcmp(t->msg[i].role, "assistant");
    if (!answered)
        return err_set(&it->err, E_FORMAT, "a conversation without an assistant's message");
    it->chat = true;
    return chat_encode_answers(spec->chat, spec->tok, t->msg, t->n, &it->ids, &it->err);
}

static int encode_messages(const struct shard_spec *spec, const json_t *list, struct item *it) {
    struct talk t = {0};
    int rc = 0;
    for (size_t i = 0; i < json_array_size(list) && !rc; i++) {
        const json_t *m = json_array_get(list, i);
        const char *role = json_string_value(json_object_get(m, "role"));
        const char *text = json_string_value(json_object_get(m, "content"));
        if (role && text)
            say(&t, role, text);
        else
            rc = err_set(&it->err, E_FORMAT, "messages[%zu]: no strings \"role\" and \"content\"",
                         i);
    }
    if (!rc)
        rc = encode_talk(spec, &t, it);
    free(t.msg);
    return rc;
}

/* "<|im_start|>ROLE\nTEXT<|im_end|>", white space between; the text is taken apart in place. */
static int encode_chatml(const struct shard_spec *spec, char *s, struct item *it) {
    static const char begin[] = "<|im_start|>", end[] = "<|im_end|>";
    struct talk t = {0};
    int rc = 0;
    for (s += strspn(s, " \t\r\n"); *s && !rc; s += strspn(s, " \t\r\n")) {
        char *role = s + strlen(begin), *line = strchr(s, '\n');
        char *stop = line ? strstr(line, end) : NULL;
        if (strncmp(s, begin, strlen(begin)) != 0 || !stop) {
            rc = err_set(&it->err, E_FORMAT, "\"text\" is not a conversation in ChatML");
            break;
        }
        *line = *stop = '\0';
        say(&t, role, line + 1);
        s = stop + strlen(end);
    }
    if (!rc)
        rc = encode_talk(spec, &t, it);
    free(t.msg);
    return rc;
}

static int encode_instruction(const struct shard_spec *spec, const json_t *j, struct item *it) {
    const char *ask = json_string_value(json_object_get(j, "instruction"));
    const char *input = json_string_value(json_object_get(j, "input"));
    const char *answer = json_string_value(json_object_get(j, "output"));
    struct buf user = {0};
    struct talk t = {0};
    if (!ask || !answer)
        return err_set(&it->err, E_FORMAT,
                       "no \"text\", no \"messages\", no \"instruction\" and \"output\"");
    buf_adds(&user, ask);
    if (input && *input) {
        buf_adds(&user, "\n\n");
        buf_adds(&user, input);
    }
    say(&t, "user", buf_str(&user));
    say(&t, "assistant", answer);
    int rc = encode_talk(spec, &t, it);
    buf_free(&user);
    free(t.msg);
    return rc;
}

static int encode_object(const struct shard_spec *spec, struct item *it) {
    json_t *j = json_parse("object", it->raw.data, it->raw.len, &it->err);
    if (!j)
        return -1;
    const json_t *text = json_object_get(j, "text"), *list = json_object_get(j, "messages");
    int rc;
    if (json_is_array(list)) {
        rc = encode_messages(spec, list, it);
    } else if (!json_is_string(text)) {
        rc = encode_instruction(spec, j, it);
    } else if (spec->format == DOC_CHAT ||
               (spec->format == DOC_AUTO &&
                !strncmp(json_string_value(text), "<|im_start|>", 12))) {
        char *copy = mem_strdup(json_string_value(text));
        rc = encode_chatml(spec, copy, it);
        free(copy);
    } else {
        rc = tok_encode(spec->tok, json_string_value(text), json_string_length(text), false,
                        &it->ids, &it->err);
    }
    json_decref(j);
    return rc;
}

/* -- a file ------------------------------------------------------------------------------------ */

struct making {
    const struct shard_spec *spec;
    bool lines;
    struct item item[BATCH_ITEMS];
    int n_item;
    size_t batch_bytes;

    struct out *out;
    XXH3_state_t *hash;
    struct ending end;
    struct unit *unit; /* end.n_unit */
    size_t cap;
    int64_t doc_id, doc_line; /* where the current document starts: its first id; in the file */
    struct err first_bad;
};

static void encode_items(void *arg, int id, int n) {
    struct making *m = arg;
    for (int i = id; i < m->n_item; i += n) {
        struct item *it = &m->item[i];
        if (m->lines)
            encode_object(m->spec, it);
        else
            tok_encode(m->spec->tok, it->raw.data, it->raw.len, false, &it->ids, &it->err);
    }
}

static int put(struct making *m, const void *p, size_t n, struct err *err) {
    XXH3_64bits_update(m->hash, p, n);
    return out_write(m->out, p, n, err);
}

static int put_id(struct making *m, int32_t id, struct err *err) {
    m->end.n_id++;
    return put(m, &id, sizeof id, err);
}

/* The ids since doc_id are a document: its units. */
static void end_document(struct making *m, bool whole) {
    int64_t at = m->doc_id, left = m->end.n_id - at;
    uint32_t flags = whole && left <= UNIT_TOKENS ? UNIT_WHOLE : 0;
    for (; left >= 2; at += UNIT_TOKENS - 1, left -= UNIT_TOKENS - 1, flags = UNIT_CONT) {
        if ((size_t)m->end.n_unit == m->cap) {
            m->cap = m->cap ? 2 * m->cap : 1024;
            m->unit = mem_resize(m->unit, m->cap, sizeof *m->unit);
        }
        int32_t n = left > UNIT_TOKENS ? UNIT_TOKENS : (int32_t)left;
        m->unit[m->end.n_unit++] = (struct unit){at, m->doc_line, n, flags};
    }
    m->end.n_doc++;
}

static int put_item(struct making *m, struct item *it, struct err *err) {
    const struct tok *t = m->spec->tok;
    int32_t stop[8];
    if (it->first) {
        m->doc_id = m->end.n_id;
        m->doc_line = it->line;
        if (!it->chat && tok_adds_bos(t) && put_id(m, ~tok_bos(t), err))
            return -1;
    }
    m->end.n_id += (int64_t)it->ids.n;
    m->end.bytes += (int64_t)it->raw.len;
    if (put(m, it->ids.id, it->ids.n * sizeof *it->ids.id, err))
        return -1;
    if (!it->last)
        return 0;
    /* A family whose turns end with a token of their own does not write EOS. */
    bool ends = it->chat && chat_stops(m->spec->chat, t, stop, 8) > 0;
    if (put_id(m, ends ? ~tok_eos(t) : tok_eos(t), err))
        return -1;
    end_document(m, it->chat);
    return 0;
}

static int flush_batch(struct making *m, struct err *err) {
    const struct shard_spec *spec = m->spec;
    int rc = 0;
    pool_run(spec->pool, encode_items, m);
    for (int i = 0; i < m->n_item && !rc; i++) {
        struct item *it = &m->item[i];
        if (!it->err.code) {
            rc = put_item(m, it, err);
            continue;
        }
        m->end.n_bad++;
        err_set(&m->first_bad, it->err.code, "%s: line %lld: %s", spec->path, (long long)it->line,
                it->err.msg);
        if (!spec->skip_bad)
            rc = err_set(err, m->first_bad.code, "%s", m->first_bad.msg);
    }
    m->n_item = 0;
    m->batch_bytes = 0;
    return rc;
}

static int add_item(struct making *m, const struct piece *p, struct err *err) {
    struct item *it = &m->item[m->n_item++];
    it->raw.len = it->ids.n = 0;
    it->err = (struct err){0};
    it->chat = false;
    it->first = p->first;
    it->last = p->last;
    it->line = p->line;
    buf_add(&it->raw, p->text, p->len);
    m->batch_bytes += p->len;
    return m->n_item == BATCH_ITEMS || m->batch_bytes > BATCH_BYTES ? flush_batch(m, err) : 0;
}

static int read_documents(struct making *m, int64_t size, struct err *err) {
    const struct shard_spec *spec = m->spec;
    struct reader *r = reader_open(spec->path, spec->separator, m->lines, err);
    struct progress bar = progress_start("encoding", size);
    struct piece p;
    int rc = -1, got = -1;
    while (r && (got = reader_next(r, &p, err)) > 0) {
        if (add_item(m, &p, err))
            break;
        progress_update(&bar, p.at);
    }
    if (got == 0)
        rc = flush_batch(m, err);
    progress_end(&bar);
    reader_close(r);
    return rc;
}

static int read_array(struct making *m, struct err *err) {
    struct buf b = {0};
    json_error_t je;
    if (file_read(m->spec->path, MAX_ARRAY_FILE, &b, err))
        return -1;
    json_t *list = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, &je);
    buf_free(&b);
    if (!list)
        return err_set(err, E_FORMAT, "%s: invalid JSON at byte %d: %s", m->spec->path, je.position,
                       je.text);
    int rc = 0;
    for (size_t i = 0; i < json_array_size(list) && !rc; i++) {
        char *text = json_dumps(json_array_get(list, i), JSON_ENCODE_ANY | JSON_COMPACT);
        struct piece p = {text, text ? strlen(text) : 0, true, true, 0, (int64_t)i + 1};
        rc = add_item(m, &p, err);
        free(text);
    }
    json_decref(list);
    return rc ? rc : flush_batch(m, err);
}

/* Whether the file holds objects, and whether in one array. */
static int look(const struct shard_spec *spec, bool *lines, bool *array, int64_t *size,
                struct err *err) {
    struct file f;
    const char *dot = strrchr(spec->path, '.');
    if (file_open(&f, spec->path, err))
        return -1;
    *size = (int64_t)f.size;
    *lines = spec->format == DOC_JSONL || spec->format == DOC_CHAT ||
             (spec->format == DOC_AUTO && dot &&
              (!strcmp(dot, ".jsonl") || !strcmp(dot, ".json") || !strcmp(dot, ".ndjson")));
    size_t i = 0;
    while (*lines && i < f.size && i < 4096 && strchr(" \t\r\n", f.data[i]) && f.data[i])
        i++;
    *array = *lines && i < f.size && f.data[i] == '[';
    file_close(&f);
    return 0;
}

static int write_all(struct making *m, const XXH128_hash_t *key, struct err *err) {
    const struct shard_spec *spec = m->spec;
    bool array;
    int64_t size;
    static const char zeros[8];
    if (put(m, magic, 8, err) || put(m, key, sizeof *key, err) ||
        look(spec, &m->lines, &array, &size, err) ||
        (array ? read_array(m, err) : read_documents(m, size, err)))
        return -1;
    if (m->end.n_unit == 0)
        return err_set(err, E_FORMAT, "%s: no documents in it%s%s", spec->path,
                       m->end.n_bad ? "; the first that was skipped: " : "",
                       m->end.n_bad ? m->first_bad.msg : "");
    if (m->end.n_bad)
        log_warn("%lld documents skipped; the first: %s", (long long)m->end.n_bad,
                 m->first_bad.msg);
    if ((m->end.n_id % 2 && put(m, zeros, 4, err)) ||
        put(m, m->unit, (size_t)m->end.n_unit * sizeof *m->unit, err))
        return -1;
    m->end.hash = XXH3_64bits_digest(m->hash);
    return out_write(m->out, &m->end, sizeof m->end, err);
}

static int make(const struct shard_spec *spec, const char *path, const XXH128_hash_t *key,
                struct err *err) {
    struct making *m = mem_new(sizeof *m);
    int rc = -1;
    m->spec = spec;
    m->hash = XXH3_createState();
    XXH3_64bits_reset(m->hash);
    if ((m->out = out_open(path, err)))
        rc = write_all(m, key, err);
    if (rc)
        out_abort(m->out);
    else
        rc = out_commit(m->out, err);
    for (int i = 0; i < BATCH_ITEMS; i++) {
        buf_free(&m->item[i].raw);
        ids_free(&m->item[i].ids);
    }
    XXH3_freeState(m->hash);
    free(m->unit);
    free(m);
    return rc;
}

/* -- a cache file ------------------------------------------------------------------------------ */

static bool units_fit(const struct shard *s) {
    for (int64_t i = 0; i < s->n_unit; i++) {
        const struct unit *u = &s->unit[i];
        if (u->n < 2 || u->n > UNIT_TOKENS || u->at < 0 || u->at > s->n_id - u->n)
            return false;
    }
    return true;
}

static bool ids_fit(const struct shard *s, int32_t n_vocab) {
    for (int64_t i = 0; i < s->n_id; i++)
        if ((s->id[i] < 0 ? ~s->id[i] : s->id[i]) >= n_vocab)
            return false;
    return true;
}

/* Maps a cache file; false if it is absent or not the one that is wanted. */
static bool load(struct shard *s, const char *path, const XXH128_hash_t *key, int n_vocab) {
    struct err ignored = {0};
    struct ending end;
    enum { HEAD = 24 };
    *s = (struct shard){0};
    if (!file_exists(path) || file_open(&s->file, path, &ignored))
        return false;
    const uint8_t *p = s->file.data;
    size_t size = s->file.size;
    if (size < HEAD + sizeof end || memcmp(p, magic, 8) != 0 || memcmp(p + 8, key, 16) != 0)
        goto bad;
    size -= sizeof end;
    memcpy(&end, p + size, sizeof end);
    if (end.n_id < 0 || end.n_unit <= 0 || end.n_id > (int64_t)size || end.n_unit > (int64_t)size)
        goto bad;
    size_t ids = ((size_t)end.n_id * 4 + 7) / 8 * 8;
    if (HEAD + ids + (size_t)end.n_unit * sizeof *s->unit != size ||
        XXH3_64bits(p, size) != end.hash)
        goto bad;
    s->id = (const int32_t *)(p + HEAD);
    s->unit = (const struct unit *)(p + HEAD + ids);
    s->n_id = end.n_id;
    s->n_unit = end.n_unit;
    s->n_doc = end.n_doc;
    s->n_bad = end.n_bad;
    s->bytes = end.bytes;
    if (units_fit(s) && ids_fit(s, n_vocab))
        return true;
bad:
    shard_close(s);
    return false;
}

int shard_open(struct shard *s, const struct shard_spec *spec, struct err *err) {
    XXH128_hash_t key;
    *s = (struct shard){0};
    if (tok_eos(spec->tok) < 0)
        return err_set(err, E_FORMAT,
                       "%s: the tokenizer has no end-of-text token to end documents with",
                       spec->path);
    if (make_key(spec, &key, err))
        return -1;
    struct buf b = {0};
    char *copy = mem_strdup(spec->path);
    buf_printf(&b, "%.80s-%016llx.tok", basename(copy), (unsigned long long)key.low64);
    char *path = path_join(spec->cache, buf_str(&b));
    int rc = 0;
    if (!load(s, path, &key, tok_size(spec->tok))) {
        rc = make(spec, path, &key, err);
        if (!rc && !load(s, path, &key, tok_size(spec->tok)))
            rc = err_set(err, E_IO, "%s: what was written does not read back", path);
        s->made = true;
    }
    free(path);
    free(copy);
    buf_free(&b);
    return rc;
}

void shard_close(struct shard *s) {
    file_close(&s->file);
    *s = (struct shard){0};
}
