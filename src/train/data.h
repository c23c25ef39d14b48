/* data.h - batches from files: documents split into training and validation, shuffled, packed into
 * rows.
 *
 * An epoch has each training document `weight` times (a fraction: that share of them, a different
 * one each epoch), in an order that the seed and the epoch's number decide. Rows are filled one
 * document after the other; what does not fit goes on in the next row, but a conversation that
 * would fit a row whole starts a new one. All state is a cursor that the caller holds. */
#ifndef TRAIN_DATA_H
#define TRAIN_DATA_H

#include "train/shard.h"

struct data_source {
    const char *path;
    enum doc_format format;
    const char *separator; /* of documents in a text; NULL = none */
    double weight;         /* > 0 */
};
struct data_spec {
    const struct data_source *train, *val; /* without val, val_fraction of the documents of train */
    int n_train, n_val;
    double val_fraction; /* by a hash of the document: the same ones whatever the seed */
    const struct tok *tok;
    enum chat_format chat;
    const char *tok_dir; /* the tokenizer's folder */
    const char *cache;   /* a folder for the ids, made if absent */
    bool skip_bad;
    int len;   /* of a row */
    bool mask; /* documents do not see each other; else they are joined by EOS */
    uint64_t seed;
    struct pool *pool; /* borrowed for the call */
};

struct data; /* one thread calls it */

/* Nothing of spec but tok is borrowed after the call. E_IO, E_FORMAT: files; E_USAGE: too little
 * data. */
struct data *data_open(const struct data_spec *spec, struct err *err);
void data_close(struct data *d);

/* Where the next row starts.  Zeroed = the beginning. */
struct data_cursor {
    int64_t epoch, unit, pair; /* unit: in the epoch's order; pair: of input and target within it */
};

/* rows rows of len ids, targets and starts (see net.h); targets of context and padding are -1.
 * start may be NULL. Moves the cursor. Training never ends; validation gives how many rows have
 * data (the rest of the batch is padding), 0 at the end. */
struct data_batch {
    int rows;
    int32_t *ids, *targets, *start;
};
int data_train(struct data *d, struct data_cursor *c, const struct data_batch *b);
int data_val(struct data *d, struct data_cursor *c, const struct data_batch *b);

/* Rows that the first n epochs fill, the last one perhaps in part. */
int64_t data_rows(struct data *d, int epochs);

struct data_stats {
    int64_t docs, bad, bytes, tokens; /* of all files; tokens: ids */
    int64_t train_units, val_units, epoch_tokens,
        val_tokens;       /* units: documents, or parts of 4,096 ids */
    bool chats;           /* there are conversations among them */
    uint64_t fingerprint; /* of all that decides which row comes when */
};
struct data_stats data_stats(const struct data *d);

/* What the batch at cursor c is made of, for messages: calls see(file, line) for each document. */
void data_trace(struct data *d, struct data_cursor c, int rows,
                void (*see)(void *arg, const char *path, int64_t line), void *arg);

#endif
