/* gguf_image.h - makes GGUF files in memory for the tests, good and bad.
 * Shares no code with the reader or the writer; what base() makes, all of the reader accepts. */
#ifndef TEST_GGUF_IMAGE_H
#define TEST_GGUF_IMAGE_H

#include "base/buf.h"
#include "testing.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 };

struct image {
    struct buf kv, info, out;
    uint64_t n_kv, n_tensor, data, align; /* data: bytes of tensor data so far */
    uint32_t version;
    const char *skip[4]; /* names of keys and tensors that base() leaves out */
};

static inline void put(struct buf *b, uint64_t v, int n_bytes) {
    for (int i = 0; i < n_bytes; i++)
        buf_addc(b, (char)(v >> (8 * i)));
}

static inline void put_text(struct buf *b, const char *s, uint64_t n) {
    put(b, n, 8);
    buf_add(b, s, n);
}

static inline bool skipped(const struct image *im, const char *name) {
    for (int i = 0; i < 4; i++)
        if (im->skip[i] && strcmp(im->skip[i], name) == 0)
            return true;
    return false;
}

/* Begins a key-value; the caller puts the value. */
static inline struct buf *kv(struct image *im, const char *key, uint32_t type) {
    put_text(&im->kv, key, strlen(key));
    put(&im->kv, type, 4);
    im->n_kv++;
    return &im->kv;
}

static inline void kv_int(struct image *im, const char *key, uint32_t type, uint64_t v) {
    static const int bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (!skipped(im, key))
        put(kv(im, key, type), v, bytes[type]);
}

static inline void kv_f32(struct image *im, const char *key, float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    kv_int(im, key, F32, bits);
}

static inline void kv_str(struct image *im, const char *key, const char *s) {
    if (!skipped(im, key))
        put_text(kv(im, key, STR), s, strlen(s));
}

static inline struct buf *kv_arr(struct image *im, const char *key, uint32_t elem, uint64_t n) {
    struct buf *b = kv(im, key, ARR);
    put(b, elem, 4);
    put(b, n, 8);
    return b;
}

static inline void info(struct image *im, const char *name, uint32_t type, uint64_t offset,
                        uint32_t n_dim, const uint64_t *dim) {
    put_text(&im->info, name, strlen(name));
    put(&im->info, n_dim, 4);
    for (uint32_t i = 0; i < n_dim; i++)
        put(&im->info, dim[i], 8);
    put(&im->info, type, 4);
    put(&im->info, offset, 8);
    im->n_tensor++;
}

/* A tensor with data behind those before it; cols innermost, rows 0 = one dimension. */
static inline void tensor(struct image *im, const char *name, uint32_t type, uint64_t cols,
                          uint64_t rows) {
    static const int block[31] = {1, 1, 32, 32, [6] = 32, 32, 32, [12] = 256, 256, 256, [30] = 1};
    static const int bytes[31] = {4, 2, 18, 20, [6] = 22, 24, 34, [12] = 144, 176, 210, [30] = 2};
    uint64_t dim[2] = {cols, rows}, a = im->align;
    if (skipped(im, name))
        return;
    info(im, name, type, im->data, rows ? 2 : 1, dim);
    im->data += cols * (rows ? rows : 1) / (uint64_t)block[type] * (uint64_t)bytes[type];
    im->data = (im->data + a - 1) / a * a;
}

static inline const struct buf *finish(struct image *im) {
    im->out.len = 0;
    buf_adds(&im->out, "GGUF");
    put(&im->out, im->version, 4);
    put(&im->out, im->n_tensor, 8);
    put(&im->out, im->n_kv, 8);
    buf_add(&im->out, im->kv.data, im->kv.len);
    buf_add(&im->out, im->info.data, im->info.len);
    while (im->out.len % im->align)
        buf_addc(&im->out, 0);
    for (uint64_t i = 0; i < im->data; i++)
        buf_addc(&im->out, (char)(i % 64)); /* 0x3f3e3d3c: finite as F32 */
    return &im->out;
}

static inline void image_free(struct image *im) {
    buf_free(&im->kv);
    buf_free(&im->info);
    buf_free(&im->out);
}

static const char *const tokens[8] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81",
                                      "a",     "b",   "ab",   "<0x0A>"};
static const uint32_t token_types[8] = {2, 3, 3, 1, 1, 1, 1, 6};

static inline void put_tokenizer(struct image *im) {
    kv_str(im, "tokenizer.ggml.model", "llama");
    if (!skipped(im, "tokenizer.ggml.tokens")) {
        struct buf *b = kv_arr(im, "tokenizer.ggml.tokens", STR, 8);
        for (int i = 0; i < 8; i++)
            put_text(b, tokens[i], strlen(tokens[i]));
    }
    if (!skipped(im, "tokenizer.ggml.scores")) {
        struct buf *b = kv_arr(im, "tokenizer.ggml.scores", F32, 8);
        for (int i = 0; i < 8; i++)
            put(b, 0, 4);
    }
    if (!skipped(im, "tokenizer.ggml.token_type")) {
        struct buf *b = kv_arr(im, "tokenizer.ggml.token_type", I32, 8);
        for (int i = 0; i < 8; i++)
            put(b, token_types[i], 4);
    }
    kv_int(im, "tokenizer.ggml.bos_token_id", U32, 1);
    kv_int(im, "tokenizer.ggml.eos_token_id", U32, 2);
    kv_int(im, "tokenizer.ggml.unknown_token_id", U32, 0);
}

/* A one-layer Llama that gguf_open, gguf_cfg and gguf_tok accept, without what im->skip names. */
static inline void base(struct image *im) {
    im->version = im->version ? im->version : 3;
    im->align = im->align ? im->align : 32;
    kv_str(im, "general.architecture", "llama");
    kv_int(im, "llama.block_count", U32, 1);
    kv_int(im, "llama.context_length", U32, 16);
    kv_int(im, "llama.embedding_length", U32, 32);
    kv_int(im, "llama.feed_forward_length", U32, 64);
    kv_int(im, "llama.attention.head_count", U32, 4);
    kv_int(im, "llama.attention.head_count_kv", U32, 2);
    kv_f32(im, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    put_tokenizer(im);
    tensor(im, "token_embd.weight", 8, 32, 8);
    tensor(im, "output_norm.weight", 0, 32, 0);
    tensor(im, "blk.0.attn_norm.weight", 0, 32, 0);
    tensor(im, "blk.0.attn_q.weight", 1, 32, 32);
    tensor(im, "blk.0.attn_k.weight", 30, 32, 16);
    tensor(im, "blk.0.attn_v.weight", 2, 32, 16);
    tensor(im, "blk.0.attn_output.weight", 3, 32, 32);
    tensor(im, "blk.0.ffn_norm.weight", 0, 32, 0);
    tensor(im, "blk.0.ffn_gate.weight", 6, 32, 64);
    tensor(im, "blk.0.ffn_up.weight", 7, 32, 64);
    tensor(im, "blk.0.ffn_down.weight", 8, 64, 32);
}

#endif
