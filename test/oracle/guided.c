/* guided.c - for schema.py: guided TOKENIZER reads {"cases": [{"schema", "seed", "steps"}, ...]}
 * from standard input, lets a model without preferences write an answer to each schema (null: any
 * object) and writes one line of JSON a case: {"text", "done", "stuck"} or {"error", "code"}.
 * Tokens that close something are preferred after `steps` of them, so that answers end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/rng.h"
#include "tok/guide.h"

enum { STEPS = 1000 };

struct writer {
    const struct tok *t;
    int32_t end;
    uint32_t *mask;
    bool *closes; /* the token is all closing bytes */
    struct rng rng;
};

static bool allowed(const struct writer *w, int32_t id) {
    return w->mask[id / 32] >> id % 32 & 1;
}

/* One of the allowed tokens; those that close if `closing` and there are any. */
static int32_t choose(struct writer *w, bool closing) {
    int n = tok_size(w->t), count[2] = {0};
    if (closing && allowed(w, w->end))
        return w->end;
    for (int32_t id = 0; id < n; id++)
        if (allowed(w, id))
            count[w->closes[id]]++;
    bool want = closing ? count[1] > 0 : false;
    int total = want ? count[1] : count[0] + count[1];
    if (!total)
        return -1;
    int at = (int)rng_below(&w->rng, (uint32_t)total);
    for (int32_t id = 0; id < n; id++)
        if (allowed(w, id) && (!want || w->closes[id]) && at-- == 0)
            return id;
    return -1;
}

static json_t *write_one(struct writer *w, const struct guide_vocab *v, const json_t *c) {
    struct err err = {0};
    const json_t *schema = json_object_get(c, "schema");
    struct guide_schema *s = guide_schema_new(json_is_null(schema) ? NULL : schema, &err);
    if (!s)
        return json_pack("{s:s,s:i}", "error", err.msg, "code", (int)err.code);
    struct guide *g = guide_new(v, s, &w->end, 1);
    struct buf text = {0};
    size_t words = ((size_t)tok_size(w->t) + 31) / 32;
    int n = 0, steps = (int)json_integer_value(json_object_get(c, "steps"));
    int32_t id = -1;
    rng_seed(&w->rng, (uint64_t)json_integer_value(json_object_get(c, "seed")));
    for (; n < STEPS; n++) {
        memset(w->mask, 0, words * sizeof *w->mask);
        id = guide_mask(g, w->mask, tok_size(w->t)) ? choose(w, n >= steps) : -1;
        if (id < 0 || id == w->end)
            break;
        guide_accept(g, id);
        tok_decode(w->t, &id, 1, true, &text, &err);
    }
    json_t *out = json_pack("{s:b,s:b,s:i}", "done", id == w->end, "stuck", id < 0, "tokens", n);
    json_object_set_new(out, "text", json_stringn(buf_str(&text), text.len));
    buf_free(&text);
    guide_free(g);
    guide_schema_free(s);
    return out;
}

int main(int argc, char **argv) {
    struct err err = {0};
    struct buf b = {0};
    char part[65536];
    size_t i, n;
    json_t *c;
    while ((n = fread(part, 1, sizeof part, stdin)))
        buf_add(&b, part, n);
    struct tok *t = argc == 2 ? tok_open(argv[1], &err) : NULL;
    struct writer w = {.t = t};
    json_t *all = t ? json_parse("cases", buf_str(&b), b.len, &err) : NULL;
    if (!all) {
        fprintf(stderr, "guided TOKENIZER_DIR: %s\n", err.msg);
        return 1;
    }
    w.end = tok_eos(w.t);
    w.mask = calloc((size_t)tok_size(w.t) / 32 + 1, sizeof *w.mask);
    w.closes = calloc((size_t)tok_size(w.t), sizeof *w.closes);
    for (int32_t id = 0; id < tok_size(w.t); id++) {
        size_t len;
        const char *p = tok_piece(w.t, id, &len);
        w.closes[id] = p && strspn(p, "]}\"") == len;
    }
    struct guide_vocab *v = guide_vocab_new(w.t);
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        json_t *out = write_one(&w, v, c);
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(out);
    }
    guide_vocab_free(v);
    tok_free(t);
    free(w.mask);
    free(w.closes);
    buf_free(&b);
    json_decref(all);
    return 0;
}
