/* train.c - tests of the training run (src/train/{conf,train,state,journal,preview}.c): whatever
 * interrupts it, the losses are those of a run that was not interrupted, to the bit. */
#include "train_dir.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "base/mem.h"
#include "train/adamw.h"

/* -- resume ------------------------------------------------------------------------------------ */

static void a_resumed_run_equals_one_that_was_never_stopped(void **state) {
    (void)state;
    static const char *const kind[] = {
        RUN TEXT "\"max_steps\": 200, \"eval_every\": 40, \"save_checkpoint_every\": 30, ",
        RUN
        "\"data\": [\"text.txt\", {\"path\": \"chat.jsonl\", \"weight\": 0.7}], \"max_steps\": 60, "
        "\"mixed_precision\": true, \"recompute\": true, \"gradient_accumulation_steps\": 3, "
        "\"schedule\": \"wsd\", \"tie_embeddings\": false, \"eval_every\": 20, \"dropout\": 0.2, ",
    };
    for (int k = 0; k < 2; k++) {
        struct seen whole = {.stop_at = -1}, part = {0};
        struct err e = {0};
        char a[16], b[16];
        snprintf(a, sizeof a, "whole%d", k);
        snprintf(b, sizeof b, "part%d", k);
        if (try_run(conf_file(a, kind[k]), false, &whole, &e)) {
            if (k == 1 && e.code == E_USAGE) {
                printf("  skipped in part: %s\n", e.msg);
                continue;
            }
            fail_msg("%s", e.msg);
        }
        const char *path = conf_file(b, kind[k]);
        part.stop_at = 1;
        run(path, false, &part);
        for (int at = 8; at < 300; at += at / 2) {
            part.stop_at = at;
            part.stop = 0;
            run(path, true, &part);
        }
        assert_int_equal(whole.n, k ? 60 : 200);
        assert_int_equal(part.n, whole.n);
        for (int i = 1; i <= whole.n; i++)
            assert_true(whole.loss[i] == part.loss[i]);
        assert_same_run(a, b);
    }
}

static void killed_at_any_moment_it_resumes_to_the_same_run(void **state) {
    (void)state;
    static const char keys[] =
        RUN TEXT "\"max_steps\": 200, \"eval_every\": 25, \"sample_every\": 50, "
                 "\"save_checkpoint_every\": 3, ";
    struct seen whole = {.stop_at = -1};
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    run(conf_file("calm", keys), false, &whole);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double all =
        (double)(end.tv_sec - start.tv_sec) * 1e6 + (double)(end.tv_nsec - start.tv_nsec) / 1e3;
    const char *path = conf_file("killed", keys);
    struct rng r;
    rng_seed(&r, (uint64_t)getpid());
    int kills = 0, status;
    for (bool done = false; !done;) {
        pid_t pid = fork();
        if (pid == 0) {
            static struct seen v = {.stop_at = -1};
            struct err e = {0};
            _exit(try_run(path, true, &v, &e) ? 1 : 0);
        }
        if (kills < 12) {
            /* a twentieth of a run on average: also on a machine that has become twice as fast,
             * the run outlives four of these */
            usleep((useconds_t)(all / 60 + rng_double(&r) * all / 15));
            kill(pid, SIGKILL);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        done = WIFEXITED(status);
        kills += !done;
        if (done)
            assert_int_equal(WEXITSTATUS(status), 0);
    }
    printf("  killed %d times\n", kills);
    assert_true(kills > 3);
    assert_same_run("calm", "killed");
}

static void threads_and_evaluations_change_no_bit(void **state) {
    (void)state;
    struct seen a = {.stop_at = -1}, b = {.stop_at = -1};
    run(conf_file("a", RUN TEXT "\"max_steps\": 30, \"eval_every\": 0, "), false, &a);
    run(conf_file("b",
                  SHAPE TEXT "\"batch_size\": 2, \"learning_rate\": 0.01, \"tokenizer\": \"tok\", "
                             "\"threads\": 1, \"max_steps\": 30, \"eval_every\": 3, "
                             "\"sample_every\": 5, \"sample_prompt\": \"the cat\", "),
        false, &b);
    for (int i = 1; i <= 30; i++)
        assert_true(a.loss[i] == b.loss[i]);
    assert_true(isnan(a.val) && isfinite(b.val));
}

static void accumulated_batches_are_one_batch(void **state) {
    (void)state;
    struct seen a = {.stop_at = -1}, b = {.stop_at = -1};
#define REST TEXT "\"max_steps\": 10, \"tokenizer\": \"tok\", \"learning_rate\": 0.001, "
    run(conf_file("a", SHAPE REST "\"batch_size\": 6, "), false, &a);
    run(conf_file("b", SHAPE REST "\"batch_size\": 2, \"gradient_accumulation_steps\": 3, "), false,
        &b);
    for (int i = 1; i <= 10; i++)
        assert_true(fabs(a.loss[i] - b.loss[i]) < 1e-4);
}

static void a_signal_ends_the_run_with_a_checkpoint_of_that_step(void **state) {
    (void)state;
    const char *path = conf_file("s", RUN TEXT "\"max_steps\": 50, \"save_checkpoint_every\": 0, ");
    struct seen v = {.stop_at = 7};
    run(path, false, &v);
    assert_int_equal(v.n, 7);
    assert_true(file_exists(in_dir("s", "step-00000007/trainer.json")));
    struct err e = {0};
    assert_int_equal(try_run(path, false, &v, &e), -1); /* not by accident over what is there */
    assert_int_equal(e.code, E_USAGE);
    assert_non_null(strstr(e.msg, "--resume"));
}

static void checkpoints_of_other_data_or_shapes_are_refused(void **state) {
    (void)state;
    struct seen v = {.stop_at = -1};
    run(conf_file("o", RUN TEXT "\"max_steps\": 3, "), false, &v);
    static const struct {
        const char *keys, *reason;
    } row[] = {{RUN "\"data\": \"chat.jsonl\", \"max_steps\": 5, ", "the data"},
               {RUN TEXT "\"seed\": 5, \"max_steps\": 5, ", "the data"},
               {RUN TEXT "\"vocab_size\": 400, \"max_steps\": 5, ", "shape"}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct err e = {0};
        assert_int_equal(try_run(conf_file("o", row[i].keys), true, &v, &e), -1);
        assert_int_equal(e.code, E_FORMAT);
        assert_non_null(strstr(e.msg, row[i].reason));
    }
    v.n = 0; /* a longer run of the same is no contradiction */
    run(conf_file("o", RUN TEXT "\"max_steps\": 5, "), true, &v);
    assert_int_equal(v.n, 2);
}

static void only_one_trainer_works_in_a_folder(void **state) {
    (void)state;
    const char *path = conf_file("one", RUN TEXT "\"max_steps\": 3, ");
    struct conf c;
    struct err e = {0};
    struct seen v = {.stop_at = -1};
    assert_ok(conf_read(&c, path, &e), e);
    struct train *t = train_open(&c, &(struct train_opts){0}, &e);
    assert_non_null(t);
    assert_int_equal(try_run(path, false, &v, &e), -1);
    assert_int_equal(e.code, E_BUSY);
    train_close(t);
    conf_free(&c);
    run(path, false, &v);
}

/* -- trouble ----------------------------------------------------------------------------------- */

static float kept;

static void poison_for_a_while(struct train *t, int step) {
    struct param *p = &net_params(train_net(t))->p[0];
    if (step == 5) {
        kept = p->w[0];
        p->w[0] = NAN;
    }
    if (step == 8)
        p->w[0] = kept;
}

static void a_step_that_is_not_finite_changes_nothing_and_is_counted(void **state) {
    (void)state;
    struct seen v = {.stop_at = -1, .at_step = poison_for_a_while};
    run(conf_file("nan", RUN TEXT "\"max_steps\": 20, \"save_checkpoint_every\": 0, "), false, &v);
    assert_int_equal(v.skipped, 3);
    assert_true(isnan(v.loss[6]) && isnan(v.loss[8]) && isfinite(v.loss[9]) &&
                isfinite(v.loss[20]));
    struct err e = {0};
    json_t *j = json_file(in_dir("nan", "latest/trainer.json"), 1 << 20, &e);
    assert_int_equal(json_integer_value(json_object_get(j, "skipped")), 3);
    assert_int_equal(json_integer_value(json_object_get(j, "updates")), 17);
    assert_int_equal(json_integer_value(json_object_get(j, "skipped_in_a_row")), 0);
    json_decref(j);
}

static void poison_for_good(struct train *t, int step) {
    if (step == 5)
        net_params(train_net(t))->p[0].w[0] = NAN;
}

static void ten_such_steps_in_a_row_end_the_run_and_name_the_documents(void **state) {
    (void)state;
    const char *path = conf_file("ten", RUN TEXT "\"max_steps\": 50, ");
    struct seen v = {.stop_at = -1, .at_step = poison_for_good};
    struct err e = {0};
    assert_int_equal(try_run(path, false, &v, &e), -1);
    assert_int_equal(e.code, E_FORMAT);
    assert_non_null(strstr(e.msg, "bad_batches.json"));
    assert_int_equal(v.skipped, 10);
    assert_int_equal(v.n, 15);
    struct buf b = {0};
    assert_ok(file_read(in_dir("ten", "bad_batches.json"), 1 << 20, &b, &(struct err){0}), e);
    json_t *list = json_loads(buf_str(&b), 0, NULL);
    assert_int_equal(json_array_size(list), 10);
    for (size_t i = 0; i < 10; i++) {
        const json_t *one = json_array_get(list, i);
        assert_int_equal(json_integer_value(json_object_get(one, "step")), 6 + i);
        const json_t *doc = json_array_get(json_object_get(one, "documents"), 0);
        assert_non_null(strstr(json_string_value(json_object_get(doc, "file")), "text.txt"));
        assert_true(json_integer_value(json_object_get(doc, "line")) >= 1);
    }
    json_decref(list);
    buf_free(&b);
}

static struct rlimit was;

static void fill_the_disk_for_a_while(struct train *t, int step) {
    (void)t;
    struct rlimit small = was;
    small.rlim_cur = 20000; /* enough for the log, too little for the weights */
    setrlimit(RLIMIT_FSIZE, step >= 9 && step < 18 ? &small : &was);
}

static void a_full_disk_costs_checkpoints_but_not_the_run(void **state) {
    (void)state;
    struct seen calm = {.stop_at = -1}, v = {.stop_at = -1, .at_step = fill_the_disk_for_a_while};
    static const char keys[] = RUN TEXT "\"max_steps\": 30, \"save_checkpoint_every\": 5, "
                                        "\"eval_every\": 12, \"keep_last\": 9, ";
    run(conf_file("calm", keys), false, &calm);
    getrlimit(RLIMIT_FSIZE, &was);
    signal(SIGXFSZ, SIG_IGN);
    run(conf_file("full", keys), false, &v);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_non_null(strstr(v.last_note, "File too large"));
    for (int step = 5; step <= 30; step += 5) {
        char name[32];
        snprintf(name, sizeof name, "step-%08d", step);
        assert_int_equal(file_exists(in_dir("full", name)), step != 10 && step != 15);
    }
    assert_same_run("calm", "full");
}

/* -- RUN.json ---------------------------------------------------------------------------------- */

static void bad_keys_are_named(void **state) {
    (void)state;
    static const struct {
        const char *keys, *reason;
    } row[] = {
        {RUN TEXT "\"learning_rat\": 1, ", "unknown key 'learning_rat'"},
        {RUN TEXT "\"n_layers\": 3, ", "duplicate"},
        {RUN TEXT "\"seed\": \"1\", ", "seed must be an integer"},
        {RUN TEXT "\"weight_decay\": -1, ", "weight_decay is -1"},
        {RUN TEXT "\"dropout\": 1, ", "dropout is 1"},
        {RUN TEXT "\"mixed_precision\": 1, ", "mixed_precision must be true or false"},
        {RUN TEXT "\"schedule\": \"linear\", ", "schedule 'linear'"},
        {RUN TEXT "\"dtype\": \"q8_0\", ", "dtype 'q8_0'"},
        {RUN TEXT "\"preset\": \"huge\", ", "preset 'huge'"},
        {RUN TEXT "\"chat_template\": \"x\", ", "chat_template 'x'"},
        {RUN TEXT "\"min_lr\": 1, ", "min_lr 1 is more than learning_rate"},
        {RUN TEXT "\"schedule\": \"constant\", \"min_lr\": 0.001, ", "min_lr is not for"},
        {RUN TEXT "\"decay_fraction\": 0.1, ", "decay_fraction is for"},
        {RUN TEXT "\"max_steps\": 5, \"warmup_steps\": 6, ", "warmup_steps 6"},
        {RUN TEXT "\"max_epochs\": 1, \"warmup_steps\": 100000, ", "warmup_steps 100000"},
        {RUN TEXT "\"vocab_size\": 100, ", "vocab_size 100"},
        {RUN TEXT "\"eval_fraction\": 0.1, \"val_data\": \"text.txt\", ",
         "val_data and eval_fraction"},
        {RUN TEXT "\"eval_fraction\": 0, \"eval_every\": 5, ", "eval_every needs"},
        {RUN TEXT "\"base\": \"x\", \"init_from\": \"x\", ", "base and init_from"},
        {RUN TEXT "\"base\": \"x\", \"preset\": \"minimal\", ", "preset and base"},
        {RUN TEXT "\"freeze\": [\"nothing*\"], ", "freeze 'nothing*'"},
        {RUN TEXT "\"freeze\": [\"*\"], ", "nothing to train"},
        {RUN TEXT "\"freeze\": \"*\", ", "freeze must be a list"},
        {RUN TEXT "\"grow\": \"4\", ", "grow '4' is not"},
        {RUN TEXT "\"grow\": \"1@10%\", ", "grow '1@10%' is not"},
        {RUN TEXT "\"grow\": \"4@100%\", ", "grow '4@100%' is not"},
        {RUN TEXT "\"grow\": \"4@-1%\", ", "grow '4@-1%' is not"},
        {RUN TEXT "\"grow\": \"4@10\", ", "grow '4@10' is not"},
        {RUN TEXT "\"grow\": \"3@10%\", ", "n_layers 2 is not a multiple of 3"},
        {RUN TEXT "\"grow\": \"2@10%\", ", "a base of one"},
        {RUN TEXT "\"grow_moments\": true, ", "grow_moments is for"},
        {RUN TEXT "\"base\": \"x\", \"grow\": \"2@10%\", ", "grow and base"},
        {DEEP "\"grow\": \"2@10%\", \"rewarm_at\": \"10%\", ", "grow and rewarm_at"},
        {DEEP "\"grow\": \"2@10%\", \"freeze\": [\"*\"], ", "grow and freeze"},
        {DEEP "\"grow\": \"2@99%\", \"max_steps\": 5, ", "none is left"},
        {DEEP "\"grow\": \"2@50%\", \"max_steps\": 9, \"warmup_steps\": 5, ", "second part"},
        {DEEP "\"grow\": \"2@20%\", \"max_steps\": 9, \"warmup_steps\": 5, ", "first part"},
        {RUN TEXT "\"rewarm_at\": \"0%\", ", "rewarm_at '0%' is not"},
        {RUN TEXT "\"base_moments\": true, ", "base_moments needs"},
        {RUN, "no data"},
        {RUN "\"data\": [], ", "data has 0 files"},
        {RUN "\"data\": {\"weight\": 1}, ", "data: a path"},
        {RUN "\"data\": {\"path\": \"text.txt\", \"wait\": 1}, ", "data: unknown key 'wait'"},
        {RUN "\"data\": {\"path\": \"text.txt\", \"format\": \"xml\"}, ", "format 'xml'"},
        {RUN "\"data\": {\"path\": \"text.txt\", \"separator\": \"\"}, ", "separator is empty"},
        {RUN "\"data\": {\"path\": \"text.txt\", \"weight\": 0}, ", "weight is 0"},
        {RUN "\"data\": \"gone.txt\", ", "gone.txt: No such file"},
        {SHAPE TEXT, "no tokenizer"},
        {SHAPE TEXT "\"tokenizer\": \"gone\", ", "gone"},
        {TEXT "\"tokenizer\": \"tok\", ", "no dim"},
        {"\"preset\": \"minimal\", \"n_heads\": 7, \"tokenizer\": \"tok\", " TEXT, "n_heads 7"},
        {"\"preset\": \"minimal\", \"n_kv_heads\": 5, \"tokenizer\": \"tok\", " TEXT,
         "n_kv_heads 5"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct err e = {0};
        struct seen v = {.stop_at = -1};
        int rc = try_run(conf_file("bad", row[i].keys), false, &v, &e);
        if (rc != -1 || (e.code != E_FORMAT && e.code != E_IO) || !strstr(e.msg, row[i].reason) ||
            !strstr(e.msg, dir))
            fail_msg("{%s}: %d '%s', not '%s'", row[i].keys, e.code, e.msg, row[i].reason);
    }
}

static void presets_are_the_users_shapes(void **state) {
    (void)state;
    struct conf c;
    struct err e = {0};
    assert_ok(conf_read(&c,
                        conf_file("p", "\"preset\": \"balanced\", \"tokenizer\": \"tok\", " TEXT),
                        &e),
              e);
    struct tok *tok = tok_open(c.tokenizer, &e);
    struct cfg cfg;
    assert_ok(conf_cfg(&c, tok, &cfg, &e), e);
    assert_int_equal(cfg.dim, 1024);
    assert_int_equal(cfg.n_layer, 12);
    assert_int_equal(cfg.n_kv_head, 4);
    assert_int_equal(cfg.ffn, 2816);
    assert_int_equal(cfg.max_ctx, 512);
    assert_true(cfg.tied && c.mixed_precision && c.batch_size == 4 && c.accumulation == 8);
    cfg.vocab = 32000;
    assert_in_range(cfg_params(&cfg), 167e6, 169e6);
    tok_free(tok);
    conf_free(&c);
}

static void a_model_too_large_for_memory_is_refused_with_the_figures(void **state) {
    (void)state;
    struct err e = {0};
    struct seen v = {.stop_at = -1};
    static const char keys[] =
        "\"dim\": 16384, \"n_layers\": 500, \"n_heads\": 128, \"hidden_dim\": 50000, "
        "\"max_seq_len\": 512, \"tokenizer\": \"tok\", " TEXT;
    assert_int_equal(try_run(conf_file("big", keys), false, &v, &e), -1);
    assert_int_equal(e.code, E_MEMORY);
    assert_non_null(strstr(e.msg, "moments"));
    assert_non_null(strstr(e.msg, "are free"));
}

/* -- learning ---------------------------------------------------------------------------------- */

static void a_small_text_is_learnt_by_heart(void **state) {
    (void)state;
    struct err e = {0};
    static const char text[] = "Pumice is a rock so full of holes that it floats.";
    char path[128];
    snprintf(path, sizeof path, "%s/one.txt", dir);
    assert_ok(file_write(path, text, sizeof text - 1, &e), e);
    struct seen v = {.stop_at = -1};
    static const char keys[] = "\"dim\": 64, \"n_layers\": 2, \"n_heads\": 4, \"hidden_dim\": 128, "
                               "\"max_seq_len\": 64, \"batch_size\": 2, \"learning_rate\": 0.005, "
                               "\"tokenizer\": \"tok\", \"data\": \"one.txt\", \"max_steps\": 120, "
                               "\"eval_fraction\": 0, \"sample_prompt\": \"Pumice is\", ";
    run(conf_file("heart", keys), false, &v);
    assert_true(v.loss[1] > 5 && v.loss[120] < 0.1);
    struct conf c;
    assert_ok(conf_read(&c, conf_file("heart", keys), &e), e);
    struct train *t = train_open(&c, &(struct train_opts){.resume = true}, &e);
    assert_non_null(t);
    struct buf said = {0};
    assert_ok(train_sample(t, &said, &e), e);
    assert_string_equal(buf_str(&said), " a rock so full of holes that it floats.");
    buf_free(&said);
    train_close(t);
    conf_free(&c);
}

static void answers_are_learnt_from_conversations(void **state) {
    (void)state;
    struct seen v = {.stop_at = -1};
    run(conf_file("chat",
                  SHAPE "\"batch_size\": 4, \"learning_rate\": 0.01, \"tokenizer\": \"tok\", "
                        "\"data\": \"chat.jsonl\", \"max_steps\": 80, \"sample_every\": 40, "
                        "\"sample_prompt\": \"what is 7?\", \"eval_every\": 40, "),
        false, &v);
    assert_true(v.loss[80] < v.loss[1] / 2);
    assert_true(v.val < v.loss[1] / 2);
}

/* A checkpoint is a model that inference opens; in F32 with the very weights. */
static void a_checkpoint_opens_as_a_model(void **state) {
    (void)state;
    static const char *const type[] = {"f32", "bf16"};
    for (int k = 0; k < 2; k++) {
        char keys[512], name[16];
        struct err e = {0};
        struct conf c;
        snprintf(name, sizeof name, "m%d", k);
        snprintf(keys, sizeof keys, RUN TEXT "\"max_steps\": 3, \"dtype\": \"%s\", ", type[k]);
        struct seen v = {.stop_at = -1};
        const char *path = conf_file(name, keys);
        run(path, false, &v);
        assert_ok(conf_read(&c, path, &e), e);
        struct train *t = train_open(&c, &(struct train_opts){.resume = true}, &e);
        const struct model_opts mo = {.dtype = DT_F32};
        struct model *m = model_open(in_dir(name, "latest"), &mo, &e);
        if (!t || !m)
            fail_msg("%s", e.msg);
        assert_non_null(m->tok);
        assert_int_equal(m->chat, CHAT_CHATML);
        const struct mat *a = &net_model(train_net(t))->layer[1].down, *b = &m->layer[1].down;
        for (int i = 0; i < a->rows * a->cols; i++) {
            float x = ((const float *)a->data)[i], y = ((const float *)b->data)[i];
            assert_true(k ? fabsf(x - y) <= fabsf(x) / 256 : x == y);
        }
        model_close(m);
        train_close(t);
        conf_free(&c);
    }
}

static void models_of_every_family_are_trained_on(void **state) {
    (void)state;
    static const char *const family[] = {"gpt2", "phi", "llama-gqa-tied", "mistral", "qwen2"};
    need_data("reference/gpt2/config.json");
    for (size_t i = 0; i < sizeof family / sizeof *family; i++) {
        char keys[1024], name[32], root[256];
        snprintf(name, sizeof name, "reference/%s", family[i]);
        assert_non_null(realpath(data_path(name), root));
        snprintf(
            keys, sizeof keys,
            "\"base\": \"%s\", \"max_seq_len\": 24, \"batch_size\": 4, \"learning_rate\": 0.003, "
            "\"max_steps\": 25, " TEXT,
            root);
        struct seen v = {.stop_at = 10};
        const char *path = conf_file(family[i], keys);
        run(path, false, &v);
        v.stop_at = -1;
        v.stop = 0;
        run(path, true, &v);
        assert_int_equal(v.n, 25);
        if (!(v.loss[25] < v.loss[1] - 0.3))
            fail_msg("%s: loss %g, then %g", family[i], v.loss[1], v.loss[25]);
    }
}

static void frozen_tensors_keep_their_bits(void **state) {
    (void)state;
    struct err e = {0};
    struct seen v = {.stop_at = -1};
    run(conf_file("base", RUN TEXT "\"max_steps\": 5, "), false, &v);
    run(conf_file("ice", "\"base\": \"base/latest\", \"max_steps\": 5, \"batch_size\": 2, "
                         "\"freeze\": [\"*.mlp.*\", \"model.embed_tokens.weight\"], " TEXT),
        false, &v);
    const struct model_opts mo = {.dtype = DT_F32, .no_tokenizer = true};
    struct model *a = model_open(in_dir("base", "latest"), &mo, &e);
    struct model *b = model_open(in_dir("ice", "latest"), &mo, &e);
    assert_true(a && b);
    for (int i = 0; i < 2; i++) {
        size_t n = (size_t)a->layer[i].down.rows * (size_t)a->layer[i].down.cols * sizeof(float);
        assert_memory_equal(a->layer[i].down.data, b->layer[i].down.data, n);
        n = (size_t)a->layer[i].wq.rows * (size_t)a->layer[i].wq.cols * sizeof(float);
        assert_memory_not_equal(a->layer[i].wq.data, b->layer[i].wq.data, n);
    }
    model_close(a);
    model_close(b);
    static const struct {
        const char *keys, *reason;
    } row[] = {{"\"dim\": 64, ", "dim is 64, but"},
               {"\"n_layers\": 3, ", "n_layers is 3, but"},
               {"\"max_seq_len\": 33, ", "33"},
               {"\"norm_eps\": 0.1, ", "norm_eps"}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char keys[256];
        struct err bad = {0};
        snprintf(keys, sizeof keys, "\"base\": \"base/latest\", %s" TEXT, row[i].keys);
        assert_int_equal(try_run(conf_file("not", keys), false, &v, &bad), -1);
        assert_int_equal(bad.code, E_FORMAT);
        assert_non_null(strstr(bad.msg, row[i].reason));
    }
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        T(a_resumed_run_equals_one_that_was_never_stopped),
        T(killed_at_any_moment_it_resumes_to_the_same_run),
        T(threads_and_evaluations_change_no_bit),
        T(accumulated_batches_are_one_batch),
        T(a_signal_ends_the_run_with_a_checkpoint_of_that_step),
        T(checkpoints_of_other_data_or_shapes_are_refused),
        T(only_one_trainer_works_in_a_folder),
        T(a_step_that_is_not_finite_changes_nothing_and_is_counted),
        T(ten_such_steps_in_a_row_end_the_run_and_name_the_documents),
        T(a_full_disk_costs_checkpoints_but_not_the_run),
        T(bad_keys_are_named),
        T(presets_are_the_users_shapes),
        T(a_model_too_large_for_memory_is_refused_with_the_figures),
        T(a_small_text_is_learnt_by_heart),
        T(answers_are_learnt_from_conversations),
        T(a_checkpoint_opens_as_a_model),
        T(models_of_every_family_are_trained_on),
        T(frozen_tensors_keep_their_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
