/* words.h - the distinct words of text files, and how often each occurs.
 * A word is what merges never cross: what the pre-tokeniser cuts, between special tokens.  Special
 * tokens that occur in the text end a word and are not counted.  Invalid UTF-8 counts as bytes. */
#ifndef TOK_WORDS_H
#define TOK_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct tok;

enum words_pre { WORDS_GPT2, WORDS_LLAMA3 };
struct words_spec {
    enum words_pre pre;
    const char *const *special; /* distinct, non-empty, without ASCII white space */
    int n_special;
    int n_threads; /* 0 = one per processor; changes the speed only */
    size_t block;  /* bytes that a thread counts at a time, 0 = 4 MiB; changes the speed only */
    int64_t limit; /* stop after this many bytes of text, at the word boundary before; 0 = all */
    bool progress; /* a line on the terminal */
};

struct word {
    const char *text;
    uint32_t len;
    int64_t count;
};

/* Owned by the caller; released with words_free.  Memory: the distinct words, once per thread
 * while reading, about 80 bytes each besides their text; and one block per thread.  E_IO: a file
 * is missing, a folder, unreadable.  E_FORMAT: a file is empty, has a NUL byte, or has 64 MiB
 * without a place to cut; or there is no word at all. */
struct words {
    struct word *word; /* n, distinct, in no order that counts */
    size_t n;
    int64_t bytes;   /* of text read */
    int64_t covered; /* of them in words, the rest being special tokens */
    int64_t total;   /* words, repeats included */
    struct tok *tok; /* owned: its arena holds the words */
};
struct words *words_read(const struct words_spec *s, const char *const *path, int n_path,
                         struct err *err);
void words_free(struct words *w);

#endif
