/* train_dir.h - a folder with a tokenizer and some text, runs in it, and what they told: for the
 * tests of training runs. */
#ifndef TEST_TRAIN_DIR_H
#define TEST_TRAIN_DIR_H

#include "testing.h"

#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "num/kern.h"
#include "tok/bpe_train.h"
#include "train/train.h"

static char dir[64];

/* A folder with a tokenizer of bytes, and some text. */
static int make_dir(void **state) {
    (void)state;
    static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    const struct hf_spec spec = {
        .special = special, .n_special = 3, .bos = special[0], .eos = special[0], .chatml = true};
    struct bpe_merges none = {0};
    struct err e = {0};
    struct buf text = {0}, chat = {0};
    char path[128];
    snprintf(dir, sizeof dir, "/tmp/pumice-train-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    log_quiet(true);
    assert_ok(kern_init(&e), e);
    snprintf(path, sizeof path, "%s/tok", dir);
    mkdir(path, 0777);
    assert_ok(hf_write(path, &spec, &none, &e), e);
    static const char *const word[] = {"the ", "cat ", "sat ", "on ",
                                       "a ",   "mat ", "and ", "slept. "};
    struct rng r;
    rng_seed(&r, 1);
    for (int i = 0; i < 200; i++) {
        for (int k = 5 + (int)rng_below(&r, 20); k > 0; k--)
            buf_adds(&text, word[rng_below(&r, 8)]);
        buf_adds(&text, "<|endoftext|>");
        buf_printf(&chat, "{\"instruction\": \"what is %d?\", \"output\": \"it is %d.\"}\n", i, i);
    }
    snprintf(path, sizeof path, "%s/text.txt", dir);
    assert_ok(file_write(path, text.data, text.len, &e), e);
    snprintf(path, sizeof path, "%s/chat.jsonl", dir);
    assert_ok(file_write(path, chat.data, chat.len, &e), e);
    buf_free(&text);
    buf_free(&chat);
    return 0;
}

static int remove_dir(void **state) {
    (void)state;
    char cmd[96];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

#define SHAPE                                                                                      \
    "\"dim\": 32, \"n_layers\": 2, \"n_heads\": 4, \"n_kv_heads\": 2, \"hidden_dim\": 64, "        \
    "\"max_seq_len\": 32, "
#define RUN                                                                                        \
    SHAPE "\"batch_size\": 2, \"learning_rate\": 0.01, \"tokenizer\": \"tok\", \"threads\": 2, "
#define TEXT "\"data\": \"text.txt\", "

#define DEEP                                                                                       \
    "\"dim\": 32, \"n_layers\": 8, \"n_heads\": 4, \"n_kv_heads\": 2, \"hidden_dim\": 64, "        \
    "\"max_seq_len\": 32, \"batch_size\": 2, \"learning_rate\": 0.01, \"tokenizer\": \"tok\", "    \
    "\"threads\": 2, " TEXT

/* Writes dir/NAME.json = "{keys, "out": "NAME"}"; static storage. */
static inline const char *conf_file(const char *name, const char *keys) {
    static char path[128];
    struct buf b = {0};
    struct err e = {0};
    buf_printf(&b, "{%s\"out\": \"%s\"}", keys, name);
    snprintf(path, sizeof path, "%s/%s.json", dir, name);
    assert_ok(file_write(path, b.data, b.len, &e), e);
    buf_free(&b);
    return path;
}

struct seen { /* what a run told */
    double loss[512], val;
    int n, skipped, notes;
    char last_note[512];
    volatile sig_atomic_t stop;
    int stop_at;
    void (*at_step)(struct train *t, int step);
    struct train *t;
};

static void see_step(void *arg, const struct train_step *s, double val) {
    struct seen *v = arg;
    v->loss[s->step] = s->loss;
    v->n++;
    v->skipped += s->skipped;
    v->val = val;
    if (v->at_step)
        v->at_step(v->t, (int)s->step);
    v->stop = s->step == v->stop_at;
}

static void see_note(void *arg, const char *line) {
    struct seen *v = arg;
    v->notes++;
    if (strstr(line, "not saved"))
        snprintf(v->last_note, sizeof v->last_note, "%s", line);
}

static int try_run(const char *path, bool resume, struct seen *v, struct err *err) {
    struct conf c;
    int rc = conf_read(&c, path, err);
    if (!rc && (v->t = train_open(&c, &(struct train_opts){.resume = resume}, err))) {
        const struct train_watch w = {v, see_step, see_note, &v->stop};
        rc = train_run(v->t, &w, err);
        train_close(v->t);
    } else {
        rc = -1;
    }
    conf_free(&c);
    return rc;
}

static void run(const char *path, bool resume, struct seen *v) {
    struct err e = {0};
    assert_ok(try_run(path, resume, v, &e), e);
}

static inline char *in_dir(const char *a, const char *b) {
    static char path[8][160];
    static int at;
    at = (at + 1) % 8;
    snprintf(path[at], sizeof path[at], "%s/%s/%s", dir, a, b);
    return path[at];
}

static void assert_same_file(const char *a, const char *b) {
    struct buf x = {0}, y = {0};
    struct err e = {0};
    assert_ok(file_read(a, 1 << 26, &x, &e), e);
    assert_ok(file_read(b, 1 << 26, &y, &e), e);
    if (x.len != y.len || memcmp(x.data, y.data, x.len) != 0)
        fail_msg("%s and %s differ", a, b);
    buf_free(&x);
    buf_free(&y);
}

/* Appends "step loss norm" or "step val" of each line of a log, all digits. */
static void read_curve(const char *out, struct buf *b) {
    struct buf log = {0};
    struct err e = {0};
    assert_ok(file_read(in_dir(out, "log.jsonl"), 1 << 26, &log, &e), e);
    buf_str(&log);
    for (char *s = strtok(log.data, "\n"); s; s = strtok(NULL, "\n")) {
        json_t *j = json_loads(s, 0, NULL);
        const json_t *loss = json_object_get(j, "loss"), *val = json_object_get(j, "val_loss");
        assert_non_null(j);
        if (loss || val)
            buf_printf(b, "%lld %.17g %.17g %.17g\n",
                       (long long)json_integer_value(json_object_get(j, "step")),
                       json_real_value(loss), json_real_value(json_object_get(j, "grad_norm")),
                       json_real_value(val));
        json_decref(j);
    }
    buf_free(&log);
}

/* Both runs ended with the same curve, weights and optimiser. */
static void assert_same_run(const char *a, const char *b) {
    struct buf x = {0}, y = {0};
    read_curve(a, &x);
    read_curve(b, &y);
    assert_string_equal(buf_str(&x), buf_str(&y));
    assert_same_file(in_dir(a, "latest/model.safetensors"), in_dir(b, "latest/model.safetensors"));
    assert_same_file(in_dir(a, "latest/optimizer.safetensors"),
                     in_dir(b, "latest/optimizer.safetensors"));
    assert_same_file(in_dir(a, "best/model.safetensors"), in_dir(b, "best/model.safetensors"));
    buf_free(&x);
    buf_free(&y);
}

#endif
