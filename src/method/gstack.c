/* gstack.c - see gstack.h.  Claims tested in test/method/gstack.c and test/unit/grow.c. */
#include "method/gstack.h"

#include <ctype.h>
#include <stdlib.h>

int gstack_stack(int l, int g, struct ids *map, struct err *err) {
    if (l < 1 || g < 1 || g > GSTACK_MAX_LAYERS / l)
        return err_set(err, E_USAGE,
                       "growth factor %d: %d layers would become more than %d, or none", g, l,
                       GSTACK_MAX_LAYERS);
    for (int i = 0; i < g * l; i++)
        ids_add(map, i % l);
    return 0;
}

/* A layer number at *p, which moves behind it; -1 if there is none below l. */
static int layer_at(const char **p, int l) {
    if (!isdigit((unsigned char)**p))
        return -1;
    char *end;
    long v = strtol(*p, &end, 10);
    *p = end;
    return v < l ? (int)v : -1;
}

int gstack_list(const char *text, int l, struct ids *map, struct err *err) {
    struct ids out = {0};
    const char *p = text;
    do {
        const char *item = p;
        int from = layer_at(&p, l), to = from;
        if (*p == '-') {
            p++;
            to = layer_at(&p, l);
        }
        if (from < 0 || to < from || (*p && *p != ',')) {
            err_set(err, E_USAGE, "layer list at '%.32s': not a layer N or a range N-M of 0..%d",
                    item, l - 1);
            goto fail;
        }
        if (out.n + (size_t)(to - from) + 1 > GSTACK_MAX_LAYERS) {
            err_set(err, E_USAGE, "layer list: more than %d layers", GSTACK_MAX_LAYERS);
            goto fail;
        }
        for (int i = from; i <= to; i++)
            ids_add(&out, i);
    } while (*p++);
    ids_addn(map, out.id, out.n);
    ids_free(&out);
    return 0;
fail:
    ids_free(&out);
    return -1;
}

bool gstack_is_repeat(const struct ids *map, size_t i) {
    for (size_t k = 0; k < i; k++)
        if (map->id[k] == map->id[i])
            return true;
    return false;
}

double gstack_connection_rate(const struct ids *map) {
    size_t kept = 0;
    for (size_t i = 1; i < map->n; i++)
        kept += map->id[i] == map->id[i - 1] + 1;
    return map->n < 2 ? 1 : (double)kept / (double)(map->n - 1);
}
