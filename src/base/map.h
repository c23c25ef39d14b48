/* map.h - hash map from byte strings to int32, open addressing over XXH3. */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

struct map;

struct map *map_new(size_t n_hint);
void map_free(struct map *m);

/* Value of a key, or -1.  Values must be >= 0. */
int32_t map_get(const struct map *m, const void *key, size_t len);

/* Adds key -> value unless the key is there; returns the value that now stands (the old one if
 * any).  The key's bytes are borrowed until map_free. */
int32_t map_put(struct map *m, const void *key, size_t len, int32_t value);
size_t map_count(const struct map *m);

#endif
