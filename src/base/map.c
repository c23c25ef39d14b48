/* map.c - see map.h.  Power-of-two table, linear probing, at most 5/8 full; the hash is kept
 * beside the key so that a probe reads the key's bytes only on a likely match. */
#include "base/map.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"

struct entry {
    const void *key;
    uint32_t len, hash;
    int32_t value; /* -1 = free */
};

struct map {
    struct entry *e;
    size_t mask, n;
};

static struct entry *table_new(size_t size) {
    struct entry *e = mem_array(size, sizeof *e);
    for (size_t i = 0; i < size; i++)
        e[i].value = -1;
    return e;
}

struct map *map_new(size_t n_hint) {
    size_t size = 16;
    while (size / 8 * 5 < n_hint)
        size *= 2;
    struct map *m = mem_new(sizeof *m);
    m->e = table_new(size);
    m->mask = size - 1;
    return m;
}

void map_free(struct map *m) {
    if (!m)
        return;
    free(m->e);
    free(m);
}

/* The entry of the key, or the free entry where it belongs. */
static struct entry *find(const struct map *m, const void *key, size_t len, uint32_t hash) {
    for (size_t i = hash & m->mask;; i = (i + 1) & m->mask) {
        struct entry *e = &m->e[i];
        if (e->value < 0 ||
            (e->hash == hash && e->len == len && (len == 0 || memcmp(e->key, key, len) == 0)))
            return e;
    }
}

int32_t map_get(const struct map *m, const void *key, size_t len) {
    return find(m, key, len, (uint32_t)XXH3_64bits(key, len))->value;
}

static void map_grow(struct map *m) {
    struct entry *old = m->e;
    size_t n_old = m->mask + 1;
    m->e = table_new(n_old * 2);
    m->mask = n_old * 2 - 1;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].value >= 0)
            *find(m, old[i].key, old[i].len, old[i].hash) = old[i];
    free(old);
}

int32_t map_put(struct map *m, const void *key, size_t len, int32_t value) {
    uint32_t hash = (uint32_t)XXH3_64bits(key, len);
    struct entry *e = find(m, key, len, hash);
    if (e->value >= 0)
        return e->value;
    *e = (struct entry){key, (uint32_t)len, hash, value};
    if (++m->n > (m->mask + 1) / 8 * 5)
        map_grow(m);
    return value;
}

size_t map_count(const struct map *m) {
    return m->n;
}
