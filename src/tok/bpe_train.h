/* bpe_train.h - learn byte-level BPE merges from word counts, and write them as a tokenizer. */
#ifndef TOK_BPE_TRAIN_H
#define TOK_BPE_TRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "tok/words.h"

/* Symbols: 0..255 are bytes, 256 + i is what merge i makes. */
struct bpe_merge {
    int32_t left, right;
    int64_t count; /* how often the pair stood in the text when it was merged */
};
struct bpe_merges {
    struct bpe_merge *merge; /* n; owned, released with free() */
    int n;
    int64_t tokens; /* of the text when encoded with them, special tokens not counted */
};

/* Merges the most frequent pair of neighbouring symbols, `most` times, or until none occurs
 * min_count times.  Of equally frequent pairs the lexicographically greater is first: the left
 * symbols' bytes are compared, then the right ones'; of two strings one of which starts with the
 * other the longer is greater.  A pair in a run ("aaa") counts at each place; the leftmost is
 * merged.  The words alone decide: no order or thread count has a part.  Time O(m log m), memory
 * about 10 to 20 bytes times m, where m is the bytes of all distinct words; E_MEMORY if it does
 * not fit, or if m is beyond 4 GiB. */
int bpe_learn(const struct words *w, int most, int64_t min_count, bool progress,
              struct bpe_merges *out, struct err *err);

/* Ids: the special tokens, the 256 bytes in the order of the characters that stand for them in
 * the file, one a merge in their order. */
struct hf_spec {
    enum words_pre pre;
    const char *const *special;
    int n_special;
    const char *bos, *eos; /* among the special tokens */
    bool add_bos;          /* in front of every text */
    bool chatml;           /* with a chat template */
};

/* Why a text cannot be a special token beside a byte-level vocabulary, or NULL. */
const char *hf_bad_special(const char *text);

/* Writes DIR/tokenizer_config.json, then DIR/tokenizer.json, each whole or not at all. */
int hf_write(const char *dir, const struct hf_spec *s, const struct bpe_merges *m, struct err *err);

#endif
