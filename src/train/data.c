/* data.c - see data.h.
 *
 * A unit (shard.h) of n ids is a chain of pairs, id -> next id: n - 1 of them. Where documents see
 * each other, the first part of a document has one more in front, EOS -> first id. So within an
 * epoch each id is a target exactly once, but for those that nothing comes before. */
#include "train/data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/rng.h"

#define MAX_UNITS ((int64_t)1 << 31)
#define VAL_SEED 0x76616cu /* the order of validation is the same in every run */

struct source {
    char *path;
    double weight;
    struct shard shard;
    uint32_t first;  /* number of its first unit among those of all sources */
    uint32_t *train; /* owned: numbers of its training units, shuffled once */
    int64_t n_train;
};

struct data {
    struct source *source; /* training, then validation files */
    int n_source, n_files; /* training files; all */
    int len;
    bool mask;
    int32_t eos;
    uint64_t seed;
    uint32_t *val; /* shuffled */
    int64_t n_val;
    int64_t epoch; /* which `order` is for; -1 = none yet */
    uint32_t *order;
    int64_t n_order, cap_order;
    uint64_t fingerprint;
};

/* -- units ------------------------------------------------------------------------------------- */

static const struct unit *find_unit(const struct data *d, uint32_t number,
                                    const struct source **of) {
    const struct source *s = d->source + d->n_files - 1;
    while (s->first > number)
        s--;
    if (of)
        *of = s;
    return &s->shard.unit[number - s->first];
}

static int unit_pairs(const struct data *d, const struct unit *u) {
    return u->n - (d->mask || (u->flags & UNIT_CONT));
}

/* Pairs [at, at + n) of a unit. */
static void copy_pairs(const struct data *d, const struct source *s, const struct unit *u, int at,
                       int n, int32_t *ids, int32_t *targets) {
    const int32_t *id = s->shard.id + u->at;
    int shift = u->n - unit_pairs(d, u); /* 0: pair 0 is EOS -> id 0 */
    for (int i = 0; i < n; i++) {
        int k = at + i + shift;
        int32_t from = k > 0 ? id[k - 1] : d->eos;
        ids[i] = from < 0 ? ~from : from;
        targets[i] = id[k] < 0 ? -1 : id[k];
    }
}

static void shuffle(uint32_t *v, int64_t n, uint64_t seed) {
    struct rng r;
    rng_seed(&r, seed);
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t k = rng_below(&r, (uint32_t)(i + 1));
        uint32_t t = v[i];
        v[i] = v[k];
        v[k] = t;
    }
}

/* -- the split --------------------------------------------------------------------------------- */

static uint64_t unit_hash(const struct shard *s, const struct unit *u) {
    return XXH3_64bits(s->id + u->at, (size_t)u->n * sizeof *s->id);
}

/* Gives each unit of the training files to one side; a share > 0 has at least one. */
static void split(struct data *d, double share) {
    uint64_t limit = share > 0 ? (uint64_t)(share * 0x1p64) : 0, least = UINT64_MAX;
    uint32_t n = d->source[d->n_source - 1].first;
    n += (uint32_t)d->source[d->n_source - 1].shard.n_unit;
    uint32_t *val = mem_array(n, sizeof *val);
    for (uint32_t i = 0; i < n && share > 0; i++) {
        const struct source *s;
        const struct unit *u = find_unit(d, i, &s);
        uint64_t h = unit_hash(&s->shard, u);
        least = h < least ? h : least;
    }
    limit = limit > least ? limit : least + (share > 0);
    for (uint32_t i = 0; i < n; i++) {
        const struct source *s;
        const struct unit *u = find_unit(d, i, &s);
        struct source *own = d->source + (s - d->source);
        if (!own->train)
            own->train = mem_array((size_t)s->shard.n_unit, sizeof *own->train);
        if (share > 0 && unit_hash(&s->shard, u) < limit)
            val[d->n_val++] = i;
        else
            own->train[own->n_train++] = i;
    }
    d->val = val;
}

static void take_val_files(struct data *d) {
    int64_t n = 0;
    for (int i = d->n_source; i < d->n_files; i++)
        n += d->source[i].shard.n_unit;
    if (n == 0)
        return;
    d->val = mem_resize(d->val, (size_t)n, sizeof *d->val);
    for (int i = d->n_source; i < d->n_files; i++)
        for (int64_t k = 0; k < d->source[i].shard.n_unit; k++)
            d->val[d->n_val++] = d->source[i].first + (uint32_t)k;
}

/* -- epochs ------------------------------------------------------------------------------------ */

static void add_units(struct data *d, const struct source *s, int64_t from, int64_t n) {
    if (d->n_order + n > d->cap_order) {
        d->cap_order = d->n_order + n;
        d->order = mem_resize(d->order, (size_t)d->cap_order, sizeof *d->order);
    }
    for (int64_t i = 0; i < n; i++)
        d->order[d->n_order++] = s->train[(from + i) % s->n_train];
}

static void set_epoch(struct data *d, int64_t epoch) {
    if (d->epoch == epoch)
        return;
    d->n_order = 0;
    for (int i = 0; i < d->n_source; i++) {
        const struct source *s = &d->source[i];
        double whole = (double)(int64_t)s->weight, part = (s->weight - whole) * (double)s->n_train;
        for (int64_t k = 0; k < (int64_t)whole; k++)
            add_units(d, s, 0, s->n_train);
        /* The share of this epoch follows that of the last one. */
        int64_t from = (int64_t)(part * (double)epoch), to = (int64_t)(part * (double)(epoch + 1));
        if (s->n_train)
            add_units(d, s, from, to - from);
    }
    shuffle(d->order, d->n_order, d->seed + 0x9e3779b97f4a7c15u * (uint64_t)(epoch + 1));
    d->epoch = epoch;
}

/* -- rows -------------------------------------------------------------------------------------- */

struct walk {
    struct data *d;
    bool val;
    struct data_cursor *c;
    void (*see)(void *arg, const char *path, int64_t line);
    void *arg;
};

/* The unit under the cursor, going on to the next epoch where one ends; NULL = the end of
 * validation. */
static const struct unit *here(const struct walk *w, const struct source **s) {
    struct data *d = w->d;
    if (w->val)
        return w->c->unit < d->n_val ? find_unit(d, d->val[w->c->unit], s) : NULL;
    set_epoch(d, w->c->epoch);
    while (w->c->unit >= d->n_order) { /* a share of less than one unit can leave an epoch empty */
        w->c->unit = 0;
        set_epoch(d, ++w->c->epoch);
    }
    return find_unit(d, d->order[w->c->unit], s);
}

/* Fills one row; ids may be NULL, to count only.  False if there was nothing left. */
static bool take_row(const struct walk *w, int32_t *ids, int32_t *targets, int32_t *start) {
    struct data *d = w->d;
    struct data_cursor *c = w->c;
    const struct source *s;
    const struct unit *u;
    int p = 0;
    while (p < d->len && (u = here(w, &s))) {
        int64_t pairs = unit_pairs(d, u);
        if (c->pair >= pairs) { /* not a cursor of ours; it is harmless */
            c->unit++;
            c->pair = 0;
            continue;
        }
        int left = (int)(pairs - c->pair), room = d->len - p;
        if ((u->flags & UNIT_WHOLE) && c->pair == 0 && left > room && left <= d->len)
            break;
        int n = left < room ? left : room;
        if (w->see)
            w->see(w->arg, s->path, u->line);
        if (ids)
            copy_pairs(d, s, u, (int)c->pair, n, ids + p, targets + p);
        for (int i = 0; i < n && start; i++)
            start[p + i] = p;
        p += n;
        c->pair += n;
        if (n == left) {
            c->unit++;
            c->pair = 0;
        }
    }
    bool any = p > 0;
    for (; p < d->len && ids; p++) {
        ids[p] = d->eos;
        targets[p] = -1;
        if (start)
            start[p] = p;
    }
    return any;
}

static int take(const struct walk *w, const struct data_batch *b) {
    int n = 0;
    for (int i = 0; i < b->rows; i++) {
        size_t at = (size_t)i * (size_t)w->d->len;
        n += take_row(w, b->ids + at, b->targets + at, b->start ? b->start + at : NULL);
    }
    return n;
}

int data_train(struct data *d, struct data_cursor *c, const struct data_batch *b) {
    return take(&(struct walk){.d = d, .c = c}, b);
}

int data_val(struct data *d, struct data_cursor *c, const struct data_batch *b) {
    return take(&(struct walk){.d = d, .c = c, .val = true}, b);
}

int64_t data_rows(struct data *d, int epochs) {
    struct data_cursor c = {0};
    struct walk w = {.d = d, .c = &c};
    int64_t n = 0;
    while (c.epoch < epochs &&
           !(c.epoch == epochs - 1 && d->epoch == c.epoch && c.unit >= d->n_order)) {
        take_row(&w, NULL, NULL, NULL);
        n++;
    }
    return n;
}

void data_trace(struct data *d, struct data_cursor c, int rows,
                void (*see)(void *arg, const char *path, int64_t line), void *arg) {
    struct walk w = {.d = d, .c = &c, .see = see, .arg = arg};
    for (int i = 0; i < rows; i++)
        take_row(&w, NULL, NULL, NULL);
}

/* -- opening ----------------------------------------------------------------------------------- */

static int open_source(struct data *d, const struct data_spec *spec, const struct data_source *from,
                       uint64_t tok_hash, struct err *err) {
    struct source *s = &d->source[d->n_files];
    struct shard_spec ss = {.path = from->path,
                            .format = from->format,
                            .separator = from->separator,
                            .tok = spec->tok,
                            .chat = spec->chat,
                            .tok_hash = tok_hash,
                            .cache = spec->cache,
                            .skip_bad = spec->skip_bad,
                            .pool = spec->pool};
    int64_t first = 0;
    if (d->n_files)
        first = s[-1].first + s[-1].shard.n_unit;
    *s = (struct source){
        .path = mem_strdup(from->path), .weight = from->weight, .first = (uint32_t)first};
    d->n_files++;
    if (shard_open(&s->shard, &ss, err))
        return -1;
    if (first + s->shard.n_unit >= MAX_UNITS)
        return err_set(err, E_USAGE, "%s: more than %lld documents in all", s->path,
                       (long long)MAX_UNITS);
    return 0;
}

static void make_fingerprint(struct data *d) {
    XXH3_state_t *h = XXH3_createState();
    int64_t head[] = {d->len, d->mask, (int64_t)d->seed, d->n_source};
    XXH3_64bits_reset(h);
    XXH3_64bits_update(h, head, sizeof head);
    for (int i = 0; i < d->n_source; i++) {
        struct source *s = &d->source[i];
        const uint8_t *end = s->shard.file.data + s->shard.file.size - 8; /* the hash of the file */
        XXH3_64bits_update(h, &s->weight, sizeof s->weight);
        XXH3_64bits_update(h, end, 8);
        XXH3_64bits_update(h, s->train, (size_t)s->n_train * sizeof *s->train);
    }
    d->fingerprint = XXH3_64bits_digest(h);
    XXH3_freeState(h);
}

/* Splits, shuffles; E_USAGE if one side has nothing. */
static int arrange(struct data *d, double share, struct err *err) {
    int64_t n = 0;
    split(d, d->n_files > d->n_source ? 0 : share);
    take_val_files(d);
    shuffle(d->val, d->n_val, VAL_SEED);
    for (int i = 0; i < d->n_source; i++) {
        struct source *s = &d->source[i];
        shuffle(s->train, s->n_train, d->seed ^ (uint64_t)i << 32);
        n += s->n_train;
    }
    make_fingerprint(d);
    if (n == 0)
        return err_set(err, E_USAGE,
                       "%s: one document, which validation takes: set eval_fraction to 0, or name "
                       "val_data",
                       d->source[0].path);
    double units = 0;
    for (int i = 0; i < d->n_source; i++)
        units += d->source[i].weight * (double)d->source[i].n_train;
    if (units < 1)
        return err_set(err, E_USAGE, "%s: the weights leave less than one document for an epoch",
                       d->source[0].path);
    if (units >= (double)MAX_UNITS)
        return err_set(err, E_USAGE, "%s: the weights make an epoch of more than %lld documents",
                       d->source[0].path, (long long)MAX_UNITS);
    return 0;
}

struct data *data_open(const struct data_spec *spec, struct err *err) {
    struct data *d = mem_new(sizeof *d);
    uint64_t tok_hash;
    *d = (struct data){.len = spec->len,
                       .mask = spec->mask,
                       .eos = tok_eos(spec->tok),
                       .seed = spec->seed,
                       .epoch = -1,
                       .n_source = spec->n_train};
    d->source = mem_array((size_t)(spec->n_train + spec->n_val), sizeof *d->source);
    if (mkdir(spec->cache, 0777) != 0 && errno != EEXIST) {
        err_set(err, E_IO, "%s: %s", spec->cache, strerror(errno));
        goto fail;
    }
    if (shard_tok_hash(spec->tok_dir, &tok_hash, err))
        goto fail;
    for (int i = 0; i < spec->n_train; i++)
        if (open_source(d, spec, &spec->train[i], tok_hash, err))
            goto fail;
    for (int i = 0; i < spec->n_val; i++)
        if (open_source(d, spec, &spec->val[i], tok_hash, err))
            goto fail;
    if (arrange(d, spec->val_fraction, err))
        goto fail;
    return d;
fail:
    data_close(d);
    return NULL;
}

void data_close(struct data *d) {
    if (!d)
        return;
    for (int i = 0; i < d->n_files; i++) {
        shard_close(&d->source[i].shard);
        free(d->source[i].path);
        free(d->source[i].train);
    }
    free(d->source);
    free(d->val);
    free(d->order);
    free(d);
}

struct data_stats data_stats(const struct data *d) {
    struct data_stats st = {.val_units = d->n_val, .fingerprint = d->fingerprint};
    for (int i = 0; i < d->n_files; i++) {
        const struct shard *s = &d->source[i].shard;
        st.docs += s->n_doc;
        st.bad += s->n_bad;
        st.bytes += s->bytes;
        st.tokens += s->n_id;
        for (int64_t k = 0; k < s->n_unit && !st.chats; k++)
            st.chats = s->unit[k].flags & UNIT_WHOLE;
    }
    for (int i = 0; i < d->n_source; i++) {
        const struct source *s = &d->source[i];
        int64_t n = 0;
        for (int64_t k = 0; k < s->n_train; k++)
            n += unit_pairs(d, find_unit(d, s->train[k], NULL));
        st.train_units += s->n_train;
        st.epoch_tokens += (int64_t)(s->weight * (double)n);
    }
    for (int64_t k = 0; k < d->n_val; k++)
        st.val_tokens += unit_pairs(d, find_unit(d, d->val[k], NULL));
    return st;
}
