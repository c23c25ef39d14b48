/* guide_schema.c - a JSON schema to nodes.  Understood: type, enum, const, properties, required,
 * additionalProperties, items, prefixItems, minItems, maxItems, minLength, maxLength, minimum,
 * maximum, exclusiveMinimum, exclusiveMaximum, anyOf, oneOf of alternatives that exclude each
 * other, allOf of one, $ref into the same schema.  Notes such as title are passed over; every other
 * keyword is an error.  Where a schema leaves a choice the narrower one is taken: properties come
 * in their declared order, and no others come beside declared ones unless additionalProperties
 * says so. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "tok/guide_impl.h"

enum { N_SEEN = 1 << 12, MAX_TEXT = 4096 };

struct seen {
    const json_t *schema;
    int node;
};
struct compile {
    struct guide_schema *s;
    const json_t *root;
    struct seen *seen; /* hash table of N_SEEN: what $ref points to has a node */
    int n_seen, depth;
    struct buf path; /* of the schema in hand, as a JSON pointer */
    struct err *err;
};

static int fail(struct compile *c, const char *what, const char *why) {
    return err_set(c->err, E_USAGE, "json_schema: #%s: %s: %s", buf_str(&c->path), what, why);
}

/* ---- tries ---- */

uint64_t ghash(uint64_t h, unsigned char c) {
    return (h ^ c) * 0x100000001b3u;
}

static int by_text(const void *pa, const void *pb) {
    const struct gtext *a = pa, *b = pb;
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

/* Nodes of texts[lo..hi), equal up to `depth`, below node `at`.  Recursion is as deep as the
 * longest text, so it goes byte by byte with its own list instead. */
struct span {
    int at, lo, hi;
    size_t depth;
};

int gtrie_build(struct gtrie *t) {
    int twice = 0, n_todo = 1;
    size_t bytes = 1;
    if (t->n_text)
        qsort(t->text, (size_t)t->n_text, sizeof *t->text, by_text);
    for (int i = 0; i < t->n_text; i++) {
        bytes += t->text[i].n;
        twice += i > 0 && by_text(&t->text[i - 1], &t->text[i]) == 0;
    }
    t->node = mem_array(bytes, sizeof *t->node);
    struct span *todo = mem_array(bytes + 1, sizeof *todo);
    t->n_node = 1;
    todo[0] = (struct span){0, 0, t->n_text, 0};
    while (n_todo) {
        struct span s = todo[--n_todo];
        int lo = s.lo, last = 0;
        t->node[s.at].lo = s.lo;
        t->node[s.at].hi = s.hi;
        while (lo < s.hi && t->text[lo].n == s.depth) {
            t->node[s.at].end = true;
            lo++;
        }
        while (lo < s.hi) {
            char byte = t->text[lo].p[s.depth];
            int hi = lo, id = t->n_node++;
            while (hi < s.hi && t->text[hi].p[s.depth] == byte)
                hi++;
            t->node[id].byte = (unsigned char)byte;
            if (last)
                t->node[last].next = id;
            else
                t->node[s.at].child = id;
            last = id;
            todo[n_todo++] = (struct span){id, lo, hi, s.depth + 1};
            lo = hi;
        }
    }
    free(todo);
    return twice;
}

int gtrie_child(const struct gtrie *t, int at, unsigned char c) {
    int k = t->node[at].child;
    while (k && t->node[k].byte != c)
        k = t->node[k].next;
    return k;
}

static void add_text(struct gtrie *t, char *p, size_t n, int index) {
    if ((t->n_text & (t->n_text - 1)) == 0)
        t->text = mem_resize(t->text, t->n_text ? 2 * (size_t)t->n_text : 1, sizeof *t->text);
    t->text[t->n_text++] = (struct gtext){p, n, index};
}

/* ---- nodes ---- */

static int node_new(struct compile *c, enum gkind kind) {
    struct guide_schema *s = c->s;
    if (s->n == GUIDE_MAX_NODES)
        return fail(c, "schema", "too large");
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 16;
        s->node = mem_resize(s->node, (size_t)s->cap, sizeof *s->node);
    }
    s->node[s->n] = (struct gnode){.kind = kind, .max = -1, .rest = -1, .need = NEVER};
    return s->n++;
}

static void add_alt(struct gnode *u, int alt) {
    if ((u->n_alt & (u->n_alt - 1)) == 0)
        u->alt = mem_resize(u->alt, u->n_alt ? 2 * (size_t)u->n_alt : 1, sizeof *u->alt);
    u->alt[u->n_alt++] = alt;
}

static struct seen *seen_at(struct compile *c, const json_t *schema) {
    size_t i = ((uintptr_t)schema >> 4) * 0x9e3779b97f4a7c15u >> 52;
    while (c->seen[i].schema && c->seen[i].schema != schema)
        i = (i + 1) % N_SEEN;
    return &c->seen[i];
}

static int compile(struct compile *c, const json_t *schema);

/* compile() of a part, whose name is added to the path meanwhile. */
static int part(struct compile *c, const char *name, int index, const json_t *schema) {
    size_t was = c->path.len;
    if (index >= 0)
        buf_printf(&c->path, "/%s/%d", name, index);
    else
        buf_printf(&c->path, "/%s", name);
    int node = compile(c, schema);
    c->path.len = was;
    return node;
}

/* Nodes that any schema may need. */
static int basics(struct compile *c) {
    static const char *const words[] = {"true", "false", "null"};
    struct guide_schema *s = c->s;
    s->string = node_new(c, G_STRING);
    s->number = node_new(c, G_NUMBER);
    s->words = node_new(c, G_LITERAL);
    for (int i = 0; i < 3; i++)
        add_text(&s->node[s->words].texts, mem_strdup(words[i]), strlen(words[i]), 0);
    gtrie_build(&s->node[s->words].texts);
    s->object = node_new(c, G_OBJECT);
    s->array = node_new(c, G_ARRAY);
    s->any = node_new(c, G_UNION);
    s->node[s->object].rest = s->node[s->array].rest = s->any;
    gtrie_build(&s->node[s->object].texts);
    const int all[] = {s->string, s->number, s->words, s->object, s->array};
    for (int i = 0; i < 5; i++)
        add_alt(&s->node[s->any], all[i]);
    return 0;
}

/* ---- keywords ---- */

static bool is_note(const char *key) {
    static const char *const notes[] = {
        "title",    "description", "default",         "examples",         "$schema", "$id",
        "$comment", "deprecated",  "readOnly",        "writeOnly",        "$defs",   "definitions",
        "format",   "example",     "contentEncoding", "contentMediaType", "$anchor"};
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++)
        if (strcmp(key, notes[i]) == 0)
            return true;
    return false;
}

/* Every keyword is a note or among `known`, words between blanks. */
static int check_keys(struct compile *c, const json_t *schema, const char *known) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)schema, key, v) {
        const char *hit = strstr(known, key);
        size_t n = strlen(key);
        while (hit && !((hit == known || hit[-1] == ' ') && (hit[n] == ' ' || !hit[n])))
            hit = strstr(hit + 1, key);
        if (!is_note(key) && (!hit || !n))
            return fail(c, key, "not supported here");
    }
    return 0;
}

/* A count in 0..GUIDE_MAX_COUNT; larger ones are as good as none. */
static int get_count(struct compile *c, const json_t *schema, const char *key, int *out) {
    const json_t *v = json_object_get(schema, key);
    if (!v)
        return 0;
    double x = json_number_value(v);
    if (!json_is_number(v) || x < 0 || x != floor(x))
        return fail(c, key, "must be a whole number");
    if (x > GUIDE_MAX_COUNT)
        return key[1] == 'i' ? fail(c, key, "too large") : 0;
    *out = (int)x;
    return 0;
}

static int string_node(struct compile *c, const json_t *schema) {
    int id = node_new(c, G_STRING);
    if (id < 0 || get_count(c, schema, "minLength", &c->s->node[id].min) ||
        get_count(c, schema, "maxLength", &c->s->node[id].max))
        return -1;
    if (c->s->node[id].max >= 0 && c->s->node[id].min > c->s->node[id].max)
        return fail(c, "minLength", "is above maxLength");
    return id;
}

static int get_bound(struct compile *c, const json_t *schema, const char *key, bool *there,
                     double *out) {
    const json_t *v = json_object_get(schema, key);
    *there = v != NULL;
    if (v && !json_is_number(v))
        return fail(c, key, "must be a number");
    *out = v ? json_number_value(v) : 0;
    return 0;
}

/* Bounds of a number; whole: of an integer, where open ones become closed. */
static int bounds(struct compile *c, const json_t *schema, struct gnode *n, bool whole) {
    bool lo = false, hi = false, lo_open = false, hi_open = false;
    double a = 0, b = 0, open_a = 0, open_b = 0,
           limit = whole ? 9007199254740992.0 /* 2^53 */ : 1e15;
    if (get_bound(c, schema, "minimum", &lo, &a) || get_bound(c, schema, "maximum", &hi, &b) ||
        get_bound(c, schema, "exclusiveMinimum", &lo_open, &open_a) ||
        get_bound(c, schema, "exclusiveMaximum", &hi_open, &open_b))
        return -1;
    n->bounded = lo || hi || lo_open || hi_open;
    n->lo = lo ? a : -limit;
    n->hi = hi ? b : limit;
    if (lo_open && open_a >= n->lo) {
        n->lo = open_a;
        n->lo_open = true;
    }
    if (hi_open && open_b <= n->hi) {
        n->hi = open_b;
        n->hi_open = true;
    }
    if (whole) {
        n->lo = n->lo_open ? floor(n->lo) + 1 : ceil(n->lo);
        n->hi = n->hi_open ? ceil(n->hi) - 1 : floor(n->hi);
        n->lo_open = n->hi_open = false;
    }
    n->lo = n->lo < -limit ? -limit : n->lo;
    n->hi = n->hi > limit ? limit : n->hi;
    if (n->lo > n->hi || n->lo > limit || n->hi < -limit)
        return fail(c, "minimum", "leaves no number below the maximum");
    double size = fmax(1, fmax(fabs(n->lo), fabs(n->hi)));
    if (!whole && n->hi - n->lo < 1e-8 * size && n->bounded)
        return fail(c, "minimum", "is too close to the maximum");
    return 0;
}

static int number_node(struct compile *c, const json_t *schema, bool whole) {
    int id = node_new(c, whole ? G_INTEGER : G_NUMBER);
    const json_t *step = json_object_get(schema, "multipleOf");
    if (id < 0 || bounds(c, schema, &c->s->node[id], whole))
        return -1;
    if (step && !(whole && json_number_value(step) == 1))
        return fail(c, "multipleOf", "not supported");
    return id;
}

static int array_node(struct compile *c, const json_t *schema) {
    const json_t *first = json_object_get(schema, "prefixItems");
    const json_t *rest = json_object_get(schema, "items");
    int id = node_new(c, G_ARRAY), n = (int)json_array_size(first);
    if (id < 0)
        return -1;
    if (first && !json_is_array(first))
        return fail(c, "prefixItems", "must be a list");
    if (json_is_true(json_object_get(schema, "uniqueItems")))
        return fail(c, "uniqueItems", "not supported");
    int *item = mem_array((size_t)n + 1, sizeof *item), min = 0, max = -1;
    c->s->node[id].item = item;
    for (int i = 0; i < n; i++)
        if ((item[i] = part(c, "prefixItems", i, json_array_get(first, (size_t)i))) < 0)
            return -1;
    int node = c->s->any;
    if (rest && json_is_false(rest))
        node = -1;
    else if (rest && (node = part(c, "items", -1, rest)) < 0)
        return -1;
    if (get_count(c, schema, "minItems", &min) || get_count(c, schema, "maxItems", &max))
        return -1;
    if (node < 0 && (max < 0 || max > n))
        max = n;
    if (max >= 0 && min > max)
        return fail(c, "minItems", "is above what may come");
    struct gnode *a = &c->s->node[id];
    a->n_item = n;
    a->rest = node;
    a->min = min;
    a->max = max;
    return id;
}

/* A JSON value as the one text that stands for it; owned by the caller. */
static char *value_text(const json_t *v, size_t *n) {
    size_t flags = JSON_COMPACT | JSON_ENCODE_ANY;
    char *s = json_dumps(v, flags | JSON_REAL_PRECISION(15));
    if (json_is_real(v) && s && strtod(s, NULL) != json_real_value(v)) {
        free(s);
        s = json_dumps(v, flags);
    }
    *n = s ? strlen(s) : 0;
    return s;
}

static int literal_node(struct compile *c, const json_t *values, const json_t *schema);

/* Is v of a type that the schema's "type" allows? */
static bool has_type(const json_t *v, const json_t *type) {
    const char *name = json_string_value(type);
    if (json_is_array(type)) {
        for (size_t i = 0; i < json_array_size(type); i++)
            if (has_type(v, json_array_get(type, i)))
                return true;
        return false;
    }
    if (!name)
        return true;
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return !strcmp(name, "object");
    case JSON_ARRAY:
        return !strcmp(name, "array");
    case JSON_STRING:
        return !strcmp(name, "string");
    case JSON_INTEGER:
        return !strcmp(name, "integer") || !strcmp(name, "number");
    case JSON_REAL:
        return !strcmp(name, "number") ||
               (!strcmp(name, "integer") && json_real_value(v) == floor(json_real_value(v)));
    case JSON_NULL:
        return !strcmp(name, "null");
    default:
        return !strcmp(name, "boolean");
    }
}

static int literal_node(struct compile *c, const json_t *values, const json_t *schema) {
    int id = node_new(c, G_LITERAL);
    struct gtrie t = {0};
    size_t i;
    json_t *v;
    if (id < 0)
        return -1;
    json_array_foreach((json_t *)values, i, v) {
        size_t n = 0;
        if (!has_type(v, json_object_get(schema, "type")))
            continue;
        char *text = t.n_text < GUIDE_MAX_NODES ? value_text(v, &n) : NULL;
        if (!text || n > MAX_TEXT) {
            free(text);
            c->s->node[id].texts = t;
            return fail(c, "enum", "too many or too long values");
        }
        add_text(&t, text, n, 0);
    }
    if (t.n_text)
        gtrie_build(&t);
    c->s->node[id].texts = t;
    return t.n_text ? id : fail(c, "enum", "no value of the given type");
}

/* ---- objects ---- */

static int check_required(struct compile *c, const json_t *required, const json_t *properties) {
    size_t i;
    json_t *name;
    if (required && !json_is_array(required))
        return fail(c, "required", "must be a list");
    json_array_foreach((json_t *)required, i, name) {
        if (!json_is_string(name))
            return fail(c, "required", "must be a list of names");
        if (!json_object_get(properties, json_string_value(name)))
            return fail(c, "required", "names what is not among the properties");
    }
    return 0;
}

static bool is_required(const json_t *required, const char *name) {
    for (size_t i = 0; i < json_array_size(required); i++)
        if (!strcmp(json_string_value(json_array_get(required, i)), name))
            return true;
    return false;
}

static int properties(struct compile *c, const json_t *props, const json_t *required, int id) {
    size_t n = json_object_size(props), at = 0;
    const char *name;
    json_t *v;
    if (n > GUIDE_MAX_NODES)
        return fail(c, "properties", "too many");
    int *item = c->s->node[id].item = mem_array(n + 1, sizeof *item);
    bool *must = c->s->node[id].required = mem_array(n + 1, sizeof *must);
    uint64_t *hash = c->s->node[id].hash = mem_array(n + 1, sizeof *hash);
    json_object_foreach((json_t *)props, name, v) {
        size_t len;
        json_t *key = json_string(name);
        char *text = value_text(key, &len); /* "name", escaped */
        json_decref(key);
        memmove(text, text + 1, len -= 2);
        text[len] = 0;
        add_text(&c->s->node[id].texts, text, len, (int)at);
        if (len > MAX_TEXT)
            return fail(c, "properties", "a name is too long");
        hash[at] = GHASH_START;
        for (const char *p = name; *p; p++)
            hash[at] = ghash(hash[at], (unsigned char)*p);
        must[at] = is_required(required, name);
        size_t was = c->path.len;
        buf_adds(&c->path, "/properties");
        item[at] = part(c, name, -1, v);
        c->path.len = was;
        if (item[at] < 0)
            return -1;
        at++;
    }
    c->s->node[id].n_item = (int)n;
    return 0;
}

static int object_node(struct compile *c, const json_t *schema) {
    const json_t *props = json_object_get(schema, "properties");
    const json_t *required = json_object_get(schema, "required");
    const json_t *rest = json_object_get(schema, "additionalProperties");
    int id = node_new(c, G_OBJECT), min = 0, max = -1, n_must = 0;
    if (id < 0)
        return -1;
    if (props && !json_is_object(props))
        return fail(c, "properties", "must be an object");
    if (check_required(c, required, props) || properties(c, props, required, id))
        return -1;
    gtrie_build(&c->s->node[id].texts);
    int node = -1;
    if (json_is_true(rest) || (!rest && !props))
        node = c->s->any;
    else if (rest && !json_is_false(rest) && (node = part(c, "additionalProperties", -1, rest)) < 0)
        return -1;
    struct gnode *o = &c->s->node[id];
    o->rest = node;
    for (int i = 0; i < o->n_item; i++)
        n_must += o->required[i];
    if (get_count(c, schema, "minProperties", &min) || get_count(c, schema, "maxProperties", &max))
        return -1;
    if (min > n_must)
        return fail(c, "minProperties", "above the number of required ones: not supported");
    if (max >= 0 && (node >= 0 || o->n_item > max))
        return fail(c, "maxProperties", "below what may come: not supported");
    return id;
}

/* ---- combinations ---- */

/* Kinds of values that a node may be, as bits; an integer is a number. */
static unsigned kinds(const struct guide_schema *s, const struct gnode *n, int depth) {
    unsigned k = 0;
    switch (n->kind) {
    case G_UNION:
        for (int i = 0; i < n->n_alt && depth < 16; i++)
            k |= kinds(s, &s->node[n->alt[i]], depth + 1);
        return depth < 16 ? k : ~0u;
    case G_INTEGER:
        return 1u << G_NUMBER;
    case G_LITERAL:
        for (int i = 0; i < n->texts.n_text; i++) {
            char c = n->texts.text[i].p[0];
            k |= c == '"'               ? 1u << G_STRING
                 : c == '{'             ? 1u << G_OBJECT
                 : c == '['             ? 1u << G_ARRAY
                 : c == 't' || c == 'f' ? 1u << 10
                 : c == 'n'             ? 1u << 11
                                        : 1u << G_NUMBER;
        }
        return k;
    default:
        return 1u << n->kind;
    }
}

static bool no_text_in_common(const struct gtrie *a, const struct gtrie *b) {
    for (int i = 0, k = 0; i < a->n_text && k < b->n_text;) {
        int c = by_text(&a->text[i], &b->text[k]);
        if (c == 0)
            return false;
        i += c < 0;
        k += c > 0;
    }
    return true;
}

/* Whatever is one of them is surely not the other: another kind, another constant, or an object
 * that must have a property in which they differ. */
static bool exclude(const struct guide_schema *s, int ia, int ib, int depth, int *budget) {
    const struct gnode *a = &s->node[ia], *b = &s->node[ib];
    if (--*budget < 0)
        return false;
    if (!(kinds(s, a, 0) & kinds(s, b, 0)))
        return true;
    if (a->kind == G_UNION && depth < 8) {
        for (int i = 0; i < a->n_alt; i++)
            if (!exclude(s, a->alt[i], ib, depth + 1, budget))
                return false;
        return a->n_alt > 0;
    }
    if (b->kind == G_UNION)
        return depth < 8 && exclude(s, ib, ia, depth + 1, budget);
    if (a->kind == G_LITERAL && b->kind == G_LITERAL)
        return no_text_in_common(&a->texts, &b->texts);
    if (a->kind != G_OBJECT || b->kind != G_OBJECT || depth > 8)
        return false;
    for (int i = 0; i < a->n_item; i++)
        for (int k = 0; k < b->n_item; k++)
            if (--*budget >= 0 && a->required[i] && b->required[k] && a->hash[i] == b->hash[k] &&
                exclude(s, a->item[i], b->item[k], depth + 1, budget))
                return true;
    return false;
}

static int union_node(struct compile *c, const json_t *list, const char *keyword) {
    int id = node_new(c, G_UNION), n = (int)json_array_size(list);
    if (id < 0)
        return -1;
    if (!json_is_array(list) || n < 1 || n > G_THREADS)
        return fail(c, keyword, "must be a list of 1 to 64 schemas");
    for (int i = 0; i < n; i++) {
        int alt = part(c, keyword, i, json_array_get(list, (size_t)i));
        if (alt < 0)
            return -1;
        add_alt(&c->s->node[id], alt);
    }
    int budget = 1000000; /* comparisons */
    for (int i = 0; i < n && !strcmp(keyword, "oneOf"); i++)
        for (int k = 0; k < i; k++)
            if (!exclude(c->s, c->s->node[id].alt[k], c->s->node[id].alt[i], 0, &budget))
                return fail(c, keyword, "alternatives that may hold at once are not supported");
    return id;
}

/* "#/a/b": the value there, or NULL. */
static const json_t *resolve(const json_t *root, const char *ref) {
    if (*ref++ != '#')
        return NULL;
    while (root && *ref == '/') {
        char name[256];
        size_t n = 0;
        for (ref++; *ref && *ref != '/' && n < sizeof name - 1; ref++) {
            if (*ref == '~' && (ref[1] == '0' || ref[1] == '1'))
                name[n++] = *++ref == '0' ? '~' : '/';
            else
                name[n++] = *ref;
        }
        name[n] = 0;
        root = json_is_array(root) ? json_array_get(root, (size_t)atoi(name))
                                   : json_object_get(root, name);
    }
    return *ref ? NULL : root;
}

/* A $ref is a union of one, so that schemas can point to themselves. */
static int ref_node(struct compile *c, const json_t *ref) {
    const json_t *to = json_is_string(ref) ? resolve(c->root, json_string_value(ref)) : NULL;
    if (!to)
        return fail(c, "$ref", "points nowhere in this schema");
    struct seen *seen = seen_at(c, to);
    if (seen->schema)
        return seen->node;
    int id = node_new(c, G_UNION);
    if (id < 0)
        return -1;
    if (++c->n_seen > N_SEEN / 2)
        return fail(c, "$ref", "too many");
    *seen = (struct seen){to, id};
    int node = compile(c, to);
    if (node < 0)
        return -1;
    add_alt(&c->s->node[id], node);
    return id;
}

static int typed_node(struct compile *c, const json_t *schema, const char *type) {
    if (!strcmp(type, "string"))
        return string_node(c, schema);
    if (!strcmp(type, "integer") || !strcmp(type, "number"))
        return number_node(c, schema, type[0] == 'i');
    if (!strcmp(type, "object"))
        return object_node(c, schema);
    if (!strcmp(type, "array"))
        return array_node(c, schema);
    json_t *values = !strcmp(type, "null")      ? json_pack("[n]")
                     : !strcmp(type, "boolean") ? json_pack("[b,b]", 1, 0)
                                                : NULL;
    if (!values)
        return fail(c, "type", "is not one of JSON's");
    int id = literal_node(c, values, NULL);
    json_decref(values);
    return id;
}

static const char typed_keys[] =
    "type minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf "
    "properties required additionalProperties minProperties maxProperties items prefixItems "
    "minItems maxItems uniqueItems";

/* Without "type" the keywords say what it is. */
static const char *implied_type(const json_t *schema) {
    static const char *const of[][2] = {
        {"properties", "object"},      {"additionalProperties", "object"},
        {"required", "object"},        {"items", "array"},
        {"prefixItems", "array"},      {"minItems", "array"},
        {"maxItems", "array"},         {"minLength", "string"},
        {"maxLength", "string"},       {"minimum", "number"},
        {"maximum", "number"},         {"exclusiveMinimum", "number"},
        {"exclusiveMaximum", "number"}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (json_object_get(schema, of[i][0]))
            return of[i][1];
    return NULL;
}

static int types_node(struct compile *c, const json_t *schema) {
    const json_t *type = json_object_get(schema, "type");
    const char *name = type ? json_string_value(type) : implied_type(schema);
    if (check_keys(c, schema, typed_keys))
        return -1;
    if (!type && !name)
        return c->s->any;
    if (name)
        return typed_node(c, schema, name);
    int id = node_new(c, G_UNION);
    size_t i;
    json_t *one;
    if (id < 0)
        return -1;
    if (!json_array_size(type) || json_array_size(type) > 7)
        return fail(c, "type", "must be a name or a list of names");
    json_array_foreach((json_t *)type, i, one) {
        int alt = json_is_string(one) ? typed_node(c, schema, json_string_value(one))
                                      : fail(c, "type", "must be a name or a list of names");
        if (alt < 0)
            return -1;
        add_alt(&c->s->node[id], alt);
    }
    return id;
}

static int compile_object(struct compile *c, const json_t *schema) {
    const json_t *v;
    if ((v = json_object_get(schema, "$ref")))
        return check_keys(c, schema, "$ref") ? -1 : ref_node(c, v);
    if ((v = json_object_get(schema, "allOf"))) {
        if (check_keys(c, schema, "allOf"))
            return -1;
        return json_array_size(v) == 1 ? part(c, "allOf", 0, json_array_get(v, 0))
                                       : fail(c, "allOf", "more than one is not supported");
    }
    if ((v = json_object_get(schema, "const"))) {
        json_t *one = json_pack("[O]", v);
        int id = check_keys(c, schema, "const type") ? -1 : literal_node(c, one, schema);
        json_decref(one);
        return id;
    }
    if ((v = json_object_get(schema, "enum"))) {
        if (check_keys(c, schema, "enum type"))
            return -1;
        return json_is_array(v) ? literal_node(c, v, schema) : fail(c, "enum", "must be a list");
    }
    static const char *const unions[] = {"anyOf", "oneOf"};
    for (int i = 0; i < 2; i++)
        if ((v = json_object_get(schema, unions[i])))
            return check_keys(c, schema, unions[i]) ? -1 : union_node(c, v, unions[i]);
    return types_node(c, schema);
}

static int compile(struct compile *c, const json_t *schema) {
    int id = -1;
    if (json_is_true(schema))
        return c->s->any;
    if (!json_is_object(schema))
        return fail(c, "schema", json_is_false(schema) ? "false allows nothing" : "not an object");
    if (++c->depth > GUIDE_MAX_DEPTH)
        fail(c, "schema", "nested too deeply");
    else
        id = compile_object(c, schema);
    c->depth--;
    return id;
}

/* ---- afterwards ---- */

static int need_of(const struct guide_schema *s, const struct gnode *n) {
    int need = 0, x;
    switch (n->kind) {
    case G_UNION:
        need = NEVER;
        for (int i = 0; i < n->n_alt; i++)
            if ((x = s->node[n->alt[i]].need) < need)
                need = x;
        return need;
    case G_OBJECT:
    case G_ARRAY:
        for (int i = 0; i < n->n_item; i++) {
            bool must = n->kind == G_OBJECT ? n->required[i] : i < n->min;
            if (must && (x = s->node[n->item[i]].need) > need)
                need = x;
        }
        if (n->kind == G_ARRAY && n->min > n->n_item && (x = s->node[n->rest].need) > need)
            need = x;
        return need >= NEVER ? NEVER : need + 1;
    default:
        return 0;
    }
}

/* Depths of the shallowest values, by repetition until nothing changes. */
static void needs(struct guide_schema *s) {
    for (bool changed = true; changed;) {
        changed = false;
        for (int i = s->n - 1; i >= 0; i--) { /* parts have higher numbers than wholes */
            int need = need_of(s, &s->node[i]);
            changed = changed || need < s->node[i].need;
            s->node[i].need = need < s->node[i].need ? need : s->node[i].need;
        }
    }
}

/* Makes a union's alternatives those of the unions in it; they may be circular.  todo and met have
 * room for every node; met holds which union last met a node. */
static void flatten(struct compile *c, int id, int *todo, int *met) {
    struct guide_schema *s = c->s;
    struct gnode flat = s->node[id];
    int n_todo = 1;
    flat.alt = NULL;
    flat.n_alt = 0;
    todo[0] = id;
    met[id] = id + 1;
    while (n_todo) {
        const struct gnode *u = &s->node[todo[--n_todo]];
        for (int i = u->n_alt - 1; i >= 0; i--) {
            int alt = u->alt[i];
            if (met[alt] == id + 1)
                continue;
            met[alt] = id + 1;
            if (s->node[alt].kind == G_UNION)
                todo[n_todo++] = alt;
            else
                add_alt(&flat, alt);
        }
    }
    if (flat.n_alt > G_THREADS)
        fail(c, "anyOf", "more than 64 alternatives");
    free(s->node[id].alt);
    s->node[id] = flat;
}

static void finish(struct compile *c) {
    int *todo = mem_array((size_t)c->s->n + 1, sizeof *todo);
    int *met = mem_array((size_t)c->s->n + 1, sizeof *met);
    for (int i = 0; i < c->s->n && !c->err->code; i++)
        if (c->s->node[i].kind == G_UNION)
            flatten(c, i, todo, met);
    free(todo);
    free(met);
    if (c->err->code)
        return;
    needs(c->s);
    if (c->s->node[c->s->root].need > GUIDE_MAX_DEPTH)
        fail(c, "schema", "no value of it ends within the greatest depth");
}

struct guide_schema *guide_schema_new(const json_t *schema, struct err *err) {
    struct err e = {0};
    struct compile c = {.s = mem_new(sizeof *c.s), .root = schema, .err = &e};
    c.seen = mem_array(N_SEEN, sizeof *c.seen);
    basics(&c);
    c.s->root = schema ? compile(&c, schema) : c.s->object;
    if (!e.code)
        finish(&c);
    free(c.seen);
    buf_free(&c.path);
    if (!e.code)
        return c.s;
    guide_schema_free(c.s);
    err_set(err, e.code, "%s", e.msg);
    return NULL;
}

void guide_schema_free(struct guide_schema *s) {
    if (!s)
        return;
    for (int i = 0; i < s->n; i++) {
        struct gnode *n = &s->node[i];
        for (int k = 0; k < n->texts.n_text; k++)
            free(n->texts.text[k].p);
        free(n->texts.text);
        free(n->texts.node);
        free(n->alt);
        free(n->item);
        free(n->required);
        free(n->hash);
    }
    free(s->node);
    free(s);
}
