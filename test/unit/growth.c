/* growth.c - claims about growth in the middle of a run (src/train/growth.c) and about what a run
 * takes over from a checkpoint that was grown. */
#include "train_dir.h"

#include <sys/wait.h>

#include "model/tensors.h"
#include "train/grow.h"
#include "train/loop.h"

struct opened {
    struct conf c;
    struct train *t;
};

static void open_run(struct opened *o, const char *keys) {
    struct err e = {0};
    assert_ok(conf_read(&o->c, conf_file("open", keys), &e), e);
    if (!(o->t = train_open(&o->c, &(struct train_opts){0}, &e)))
        fail_msg("%s", e.msg);
}

static void close_run(struct opened *o) {
    char cmd[128];
    train_close(o->t);
    conf_free(&o->c);
    snprintf(cmd, sizeof cmd, "rm -rf %s/open", dir);
    assert_int_equal(system(cmd), 0);
}

static struct train_step step(struct opened *o) {
    struct train_step s;
    struct err e = {0};
    assert_ok(train_step(o->t, &s, &e), e);
    return s;
}

static int layer_of(const struct param *p) {
    int layer;
    size_t at, len;
    return grow_layer(p->name, &layer, &at, &len) ? layer : -1;
}

/* The param that a grown model's has been copied from, were it of l layers: the same name but for
 * the layer's number. */
static const struct param *original(const struct params *ps, const struct param *p, int l) {
    char name[192];
    int layer;
    size_t at, len;
    if (!grow_layer(p->name, &layer, &at, &len))
        return p;
    snprintf(name, sizeof name, "%.*s%d%s", (int)at, p->name, layer % l, p->name + at + len);
    for (int i = 0; i < ps->n; i++)
        if (!strcmp(ps->p[i].name, name))
            return &ps->p[i];
    fail_msg("no %s", name);
    return NULL;
}

static size_t bytes_of(const struct param *p) {
    return (size_t)p->rows * (size_t)p->cols * sizeof(float);
}

/* -- the moment of growth ---------------------------------------------------------------------- */

static void blocks_are_stacked_and_the_data_goes_on_where_it_was(void **state) {
    (void)state;
    struct opened o;
    struct err e = {0};
    open_run(&o, DEEP "\"max_steps\": 40, \"grow\": \"4@25%\", ");
    while (o.t->s.step < 10)
        assert_false(step(&o).grown);
    assert_int_equal(train_info(o.t).layers, 2);
    const struct params *ps = net_params(train_net(o.t));
    struct data_cursor before = o.t->s.cursor;
    size_t floats = ps->floats;
    float *base = malloc(floats * sizeof *base);
    size_t at[64];
    assert_true(ps->n <= 64);
    for (int i = 0; i < ps->n; i++) {
        at[i] = ps->p[i].at;
        memcpy(base + at[i], ps->p[i].w, bytes_of(&ps->p[i]));
    }
    assert_true(growth_due(o.t));
    assert_ok(growth_do(o.t, &e), e);
    assert_false(growth_due(o.t));
    assert_memory_equal(&before, &o.t->s.cursor, sizeof before);
    ps = net_params(train_net(o.t));
    assert_int_equal(train_info(o.t).layers, 8);
    assert_int_equal(o.t->adam->step, 0);
    int of_base = 0; /* params of the first two layers and those of none lie as the base's did */
    for (int i = 0; i < ps->n; i++) {
        const struct param *p = &ps->p[i], *q = original(ps, p, 2);
        if (p == q)
            assert_memory_equal(p->w, base + at[of_base++], bytes_of(p));
        assert_memory_equal(p->w, q->w, bytes_of(p));
        for (size_t k = 0; k < bytes_of(p) / sizeof(float); k++)
            assert_true(o.t->adam->m[p->at + k] == 0 && o.t->adam->v[p->at + k] == 0);
    }
    free(base);
    close_run(&o);
}

static void copies_are_independent_and_differ_after_a_step(void **state) {
    (void)state;
    struct opened o;
    struct err e = {0};
    open_run(&o, DEEP "\"max_steps\": 40, \"grow\": \"4@10%\", ");
    while (o.t->s.step < 4)
        step(&o);
    assert_ok(growth_do(o.t, &e), e);
    struct params *ps = net_params(train_net(o.t));
    float *all = malloc(ps->floats * sizeof *all), *arena = ps->p[0].w - ps->p[0].at;
    memcpy(all, arena, ps->floats * sizeof *all);
    for (int i = 0; i < ps->n; i++)
        if (layer_of(&ps->p[i]) == 2) /* a copy of block 0, and the source of none */
            for (size_t k = 0; k < bytes_of(&ps->p[i]) / sizeof(float); k++)
                ps->p[i].w[k] += 1;
    for (int i = 0; i < ps->n; i++)
        if (layer_of(&ps->p[i]) == 2)
            assert_memory_not_equal(ps->p[i].w, all + ps->p[i].at, bytes_of(&ps->p[i]));
        else
            assert_memory_equal(ps->p[i].w, all + ps->p[i].at, bytes_of(&ps->p[i]));
    memcpy(arena, all, ps->floats * sizeof *all);
    free(all);
    params_changed(ps);
    struct train_step s = step(&o);
    assert_false(s.grown); /* growth_do was called, not due */
    for (int i = 0; i < ps->n; i++)
        if (original(ps, &ps->p[i], 2) != &ps->p[i])
            assert_memory_not_equal(ps->p[i].w, original(ps, &ps->p[i], 2)->w, bytes_of(&ps->p[i]));
    close_run(&o);
}

/* Along the gradient g of each parameter of the grown model, the loss rises by ||g|| per unit. */
static void gradients_of_a_grown_model_agree_with_finite_differences(void **state) {
    (void)state;
    struct opened o;
    struct err e = {0};
    int32_t ids[24], targets[24];
    open_run(&o, "\"dim\": 24, \"n_layers\": 4, \"n_heads\": 4, \"n_kv_heads\": 2, \"hidden_dim\": "
                 "20, \"max_seq_len\": 12, \"batch_size\": 2, \"tokenizer\": \"tok\", "
                 "\"learning_rate\": 0.02, \"threads\": 2, \"max_steps\": 40, \"grow\": "
                 "\"2@50%\", " TEXT);
    while (!o.t->s.growth.done)
        step(&o);
    for (int i = 0; i < 24; i++) {
        ids[i] = 'a' + i * 7 % 26;
        targets[i] = 'a' + i * 5 % 26;
    }
    const struct net_batch b = {.rows = 2, .len = 12, .ids = ids, .targets = targets};
    struct net *n = train_net(o.t);
    struct params *ps = net_params(n);
    struct net_loss l;
    net_zero_grad(n);
    assert_ok(net_grad(n, &b, 1 / 24.0f, &l, &e), e);
    for (int i = 0; i < ps->n; i++) {
        const struct param *p = &ps->p[i];
        size_t count = bytes_of(p) / sizeof(float);
        static const double at[] = {-2, -1, 1, 2};
        double norm = 0, loss[4];
        for (size_t k = 0; k < count; k++)
            norm += (double)p->g[k] * p->g[k];
        norm = sqrt(norm);
        double size = 8e-3 / norm < 0.02 ? 8e-3 / norm : 0.02;
        if (norm < 1e-3)
            continue;
        float *keep = malloc(bytes_of(p));
        memcpy(keep, p->w, bytes_of(p));
        for (int side = 0; side < 4; side++) {
            for (size_t k = 0; k < count; k++)
                p->w[k] = keep[k] + (float)(at[side] * size * p->g[k] / norm);
            params_changed(ps);
            assert_ok(net_eval(n, &b, &l, &e), e);
            loss[side] = l.sum / (double)l.n;
        }
        memcpy(p->w, keep, bytes_of(p));
        free(keep);
        double got = (8 * (loss[2] - loss[1]) - (loss[3] - loss[0])) / (12 * size);
        if (!(fabs(got / norm - 1) < 0.01 + 4e-6 / (size * norm)))
            fail_msg("%s: gradient %g, slope %g", p->name, norm, got);
    }
    close_run(&o);
}

static void zero_init_keeps_the_loss_and_kept_moments_are_stacked(void **state) {
    (void)state;
    struct opened o;
    struct err e = {0};
    open_run(&o, DEEP "\"max_steps\": 40, \"grow\": \"4@25%\", \"grow_zero_init\": true, "
                      "\"grow_moments\": true, ");
    while (o.t->s.step < 10)
        step(&o);
    assert_ok(growth_do(o.t, &e), e);
    assert_true(o.t->s.growth.before == o.t->s.growth.after);
    assert_int_equal(o.t->adam->step, 10);
    const struct params *ps = net_params(train_net(o.t));
    int zeroed = 0;
    for (int i = 0; i < ps->n; i++) {
        const struct param *p = &ps->p[i], *q = original(ps, p, 2);
        bool zero = p != q && (strstr(p->name, "o_proj") || strstr(p->name, "down_proj"));
        zeroed += zero;
        assert_memory_equal(o.t->adam->m + p->at, o.t->adam->m + q->at, bytes_of(p));
        assert_memory_equal(o.t->adam->v + p->at, o.t->adam->v + q->at, bytes_of(p));
        assert_true(o.t->adam->v[p->at] != 0 || strstr(p->name, "embed"));
        for (size_t k = 0; zero && k < bytes_of(p) / sizeof(float); k++)
            assert_true(p->w[k] == 0);
    }
    assert_int_equal(zeroed, 12);
    close_run(&o);
}

/* -- rates and figures ------------------------------------------------------------------------- */

static void assert_rate(const struct opened *o, int64_t step, double want) {
    double got = (double)growth_lr(o->t, step);
    if (!(fabs(got - want) < 1e-8))
        fail_msg("step %lld has rate %.9g, not %.9g", (long long)step, got, want);
}

static void both_parts_warm_up_and_only_the_last_falls(void **state) {
    (void)state;
    static const char *const turn[] = {"\"grow\": \"2@20%\", \"grow_learning_rate\": 0.02, ",
                                       "\"rewarm_at\": \"20%\", "};
    for (int k = 0; k < 2; k++) {
        struct opened o;
        char keys[512];
        double first = k ? 0.01 : 0.02;
        snprintf(keys, sizeof keys, DEEP "\"max_steps\": 20000, %s", turn[k]);
        open_run(&o, keys);
        assert_int_equal(train_info(o.t).turn, 4000);
        assert_int_equal(train_info(o.t).layers, k ? 8 : 4);
        assert_rate(&o, 0, first / 100); /* 2 % of 4,000 are less than 100 */
        assert_rate(&o, 99, first);
        assert_rate(&o, 3999, first);
        assert_rate(&o, 4000, 0.01 / 320); /* 2 % of 16,000 */
        assert_rate(&o, 4319, 0.01);
        assert_rate(&o, 4320 + 15680 / 2, 0.0055);
        assert_rate(&o, 20000, 0.001);
        close_run(&o);
    }
    struct opened o;
    open_run(&o, DEEP "\"max_steps\": 200, \"grow\": \"2@20%\", \"schedule\": \"wsd\", ");
    assert_rate(&o, 3, 0.01); /* a tenth of 40 */
    assert_rate(&o, 39, 0.01);
    assert_rate(&o, 40, 0.01 / 16);
    assert_rate(&o, 167, 0.01);
    assert_rate(&o, 184, 0.0055); /* the last fifth of 160 falls */
    close_run(&o);
}

static void flops_are_those_of_both_models(void **state) {
    (void)state;
    struct opened o;
    struct train_step s = {0};
    double sum = 0;
    int64_t last = 0;
    open_run(&o, DEEP "\"max_steps\": 20, \"grow\": \"4@50%\", ");
    double small = train_info(o.t).token_flops, total = train_info(o.t).run_flops;
    for (int i = 0; i < 20; i++) {
        s = step(&o);
        assert_int_equal(s.grown, i == 10);
        assert_int_equal(s.tokens, last + train_info(o.t).step_tokens);
        assert_true(s.step_flops ==
                    train_info(o.t).token_flops * (double)train_info(o.t).step_tokens);
        last = s.tokens;
        sum += s.step_flops;
    }
    assert_true(train_info(o.t).token_flops > 2 * small);
    assert_true(fabs(s.flops - total) < 1e-9 * total && fabs(sum - total) < 1e-9 * total);
    close_run(&o);
}

static void without_growth_the_rate_alone_starts_again(void **state) {
    (void)state;
    struct opened o;
    open_run(&o, DEEP "\"max_steps\": 20, \"rewarm_at\": \"50%\", ");
    for (int i = 0; i < 20; i++)
        assert_false(step(&o).grown);
    assert_int_equal(o.t->adam->step, 20);
    assert_int_equal(train_info(o.t).layers, 8);
    close_run(&o);
}

static void a_stack_of_random_layers_is_trained_from_the_first_step(void **state) {
    (void)state;
    struct opened o;
    open_run(&o, DEEP "\"max_steps\": 20, \"grow\": \"4@0%\", ");
    struct train_step s = step(&o);
    assert_true(s.grown && s.step == 1);
    assert_int_equal(train_info(o.t).layers, 8);
    assert_true(s.step_flops * 20 == train_info(o.t).run_flops);
    close_run(&o);
}

static void the_loss_jumps_within_bounds_and_recovers(void **state) {
    (void)state;
    struct seen v = {.stop_at = -1};
    struct err e = {0};
    run(conf_file("toy", DEEP "\"max_steps\": 200, \"grow\": \"4@20%\", \"eval_every\": 10, "),
        false, &v);
    json_t *j = json_file(in_dir("toy", "latest/trainer.json"), 1 << 20, &e);
    json_t *g = json_object_get(j, "growth");
    double before = json_real_value(json_object_get(g, "loss_before"));
    double after = json_real_value(json_object_get(g, "loss_after"));
    printf("  loss before growth %.3f, after %.3f\n", before, after);
    assert_true(after > before && after < log(259) + 2);
    assert_true(json_is_true(json_object_get(g, "recovered")));
    assert_true(json_real_value(json_object_get(j, "best_loss")) < before);
    json_decref(j);
    j = json_file(in_dir("toy", "latest/gstack.json"), 1 << 20, &e);
    const json_t *one = json_array_get(json_object_get(j, "history"), 0);
    assert_int_equal(json_integer_value(json_object_get(one, "from_layers")), 2);
    assert_int_equal(json_integer_value(json_object_get(one, "tokens")), 40 * 64);
    json_decref(j);
}

static void without_validation_the_next_batch_is_the_measure(void **state) {
    (void)state;
    struct opened o;
    struct err e = {0};
    open_run(&o, DEEP "\"max_steps\": 40, \"grow\": \"4@25%\", \"eval_fraction\": 0, ");
    while (o.t->s.step < 10)
        step(&o);
    assert_ok(growth_do(o.t, &e), e);
    assert_false(o.t->s.growth.validated);
    double after = o.t->s.growth.after;
    struct train_step s = step(&o); /* the batch that the loss was of */
    assert_true(s.loss == after);
    close_run(&o);
}

/* -- resuming ---------------------------------------------------------------------------------- */

static void die_at_18(struct train *t, int step) {
    (void)t;
    if (step == 18)
        _exit(9);
}

/* The events of a log, their seconds left out. */
static void read_events(const char *out, struct buf *b) {
    struct buf log = {0};
    struct err e = {0};
    assert_ok(file_read(in_dir(out, "log.jsonl"), 1 << 26, &log, &e), e);
    buf_str(&log);
    for (char *s = strtok(log.data, "\n"); s; s = strtok(NULL, "\n")) {
        json_t *j = json_loads(s, 0, NULL);
        json_object_del(j, "seconds");
        char *text = json_dumps(j, JSON_COMPACT);
        if (json_object_get(j, "event"))
            buf_printf(b, "%s\n", text);
        free(text);
        json_decref(j);
    }
    buf_free(&log);
}

static void interrupted_around_growth_it_resumes_to_the_same_run(void **state) {
    (void)state;
    static const char *const kind[] = {
        DEEP "\"max_steps\": 60, \"grow\": \"4@25%\", \"eval_every\": 5, "
             "\"save_checkpoint_every\": 15, ",
        DEEP "\"max_steps\": 40, \"grow\": \"2@37.5%\", \"grow_moments\": true, "
             "\"grow_learning_rate\": 0.02, \"dtype\": \"bf16\", \"schedule\": \"wsd\", "
             "\"eval_every\": 5, \"save_checkpoint_every\": 13, ",
    };
    for (int k = 0; k < 2; k++) {
        struct seen whole = {.stop_at = -1}, part = {0};
        struct buf x = {0}, y = {0};
        char a[16], b[16];
        int status;
        snprintf(a, sizeof a, "grown%d", k);
        snprintf(b, sizeof b, "regrown%d", k);
        run(conf_file(a, kind[k]), false, &whole);
        const char *path = conf_file(b, kind[k]);
        pid_t pid = fork();
        if (pid == 0) { /* dies when it has grown, and the newest checkpoint is the base's */
            static struct seen v = {.stop_at = -1, .at_step = die_at_18};
            struct err e = {0};
            _exit(try_run(path, false, &v, &e) ? 1 : 0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 9);
        assert_false(file_exists(in_dir(b, "latest/gstack.json")));
        int first = k ? 14 : 16; /* after the checkpoint of 13, or of 15, when growth is next */
        for (int at = first; at < 100; at += at < 17 ? 1 : at / 2) {
            part.stop_at = at;
            part.stop = 0;
            run(path, true, &part);
        }
        for (int i = first; i <= whole.n; i++)
            if (whole.loss[i] != part.loss[i])
                fail_msg("kind %d: step %d: %.9g, not %.9g", k, i, part.loss[i], whole.loss[i]);
        assert_same_run(a, b);
        read_events(a, &x);
        read_events(b, &y);
        assert_string_equal(buf_str(&x), buf_str(&y));
        assert_non_null(strstr(x.data, "\"event\":\"growth\",\"step\":15,\"tokens\":960,"));
        buf_free(&x);
        buf_free(&y);
    }
}

static void checkpoints_of_runs_that_grow_otherwise_are_refused(void **state) {
    (void)state;
    struct seen v = {.stop_at = 4};
    static const struct {
        const char *made, *resumed, *reason;
    } row[] = {
        {"\"grow\": \"4@50%\", ", "", "of a run that grows by 4"},
        {"\"grow\": \"4@50%\", ", "\"grow\": \"2@50%\", ", "of a run that grows by 4"},
        {"", "\"grow\": \"4@50%\", ", "of a run that does not grow"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char keys[512], name[16];
        struct err e = {0};
        snprintf(name, sizeof name, "other%zu", i);
        snprintf(keys, sizeof keys, DEEP "\"max_steps\": 20, %s", row[i].made);
        run(conf_file(name, keys), false, &v);
        snprintf(keys, sizeof keys, DEEP "\"max_steps\": 20, %s", row[i].resumed);
        assert_int_equal(try_run(conf_file(name, keys), true, &v, &e), -1);
        assert_int_equal(e.code, E_FORMAT);
        if (!strstr(e.msg, row[i].reason))
            fail_msg("'%s', not '%s'", e.msg, row[i].reason);
    }
}

static void an_argument_may_say_it_but_not_contradict(void **state) {
    (void)state;
    struct conf c;
    struct err e = {0};
    assert_ok(conf_read_with(&c, conf_file("arg", DEEP), "4@12.5%", &e), e);
    assert_true(c.grow_factor == 4 && c.grow_at == 0.125);
    assert_string_equal(json_string_value(json_object_get(c.json, "grow")), "4@12.5%");
    conf_free(&c);
    assert_ok(conf_read_with(&c, conf_file("arg", DEEP "\"grow\": \"4@10%\", "), "4@10%", &e), e);
    conf_free(&c);
    assert_int_equal(
        conf_read_with(&c, conf_file("arg", DEEP "\"grow\": \"4@10%\", "), "2@10%", &e), -1);
    assert_int_equal(e.code, E_USAGE);
    assert_non_null(strstr(e.msg, "--grow '2@10%'"));
    conf_free(&c);
}

/* -- moments of a folder ----------------------------------------------------------------------- */

/* Every array of an optimiser's file is, but for the layer's number, one of the base's. */
static void assert_stacked(const char *tall, const char *base, int l) {
    struct tensors a = {0}, b = {0};
    struct err e = {0};
    assert_ok(safetensors_open(&a, tall, &e), e);
    assert_ok(safetensors_open(&b, base, &e), e);
    for (int i = 0; i < a.n; i++) {
        char name[192];
        int layer;
        size_t at, len;
        snprintf(name, sizeof name, "%s", a.t[i].name);
        if (grow_layer(name, &layer, &at, &len))
            snprintf(name, sizeof name, "%.*s%d%s", (int)at, a.t[i].name, layer % l,
                     a.t[i].name + at + len);
        const struct tensor *t = tensors_find(&b, name);
        assert_non_null(t);
        assert_int_equal(t->bytes, a.t[i].bytes);
        assert_memory_equal(t->data, a.t[i].data, t->bytes);
    }
    assert_true(a.n > 2 * b.n && a.n < 3 * b.n);
    tensors_close(&a);
    tensors_close(&b);
}

static void a_grown_checkpoint_goes_on_with_its_moments_and_exact_weights(void **state) {
    (void)state;
    struct err e = {0};
    struct seen v = {.stop_at = -1};
    struct grow_report r;
    char base[160], out[160];
    run(conf_file("small", RUN TEXT "\"max_steps\": 12, \"dtype\": \"bf16\", "), false, &v);
    snprintf(base, sizeof base, "%s", in_dir("small", "latest"));
    snprintf(out, sizeof out, "%s/tall", dir);
    const struct grow_opts o = {.factor = 3, .moments = true};
    assert_ok(grow_dir(base, &o, out, &r, &e), e);
    assert_stacked(in_dir("tall", "optimizer.safetensors"),
                   in_dir("small", "latest/optimizer.safetensors"), 2);
    struct opened p;
    open_run(&p,
             "\"base\": \"tall\", \"base_moments\": true, \"max_steps\": 5, \"dtype\": \"bf16\", "
             "\"max_seq_len\": 32, " TEXT);
    assert_int_equal(p.t->adam->step, 12);
    assert_ok(train_save(p.t, &e), e); /* weights that bf16 has rounded came back exactly */
    assert_stacked(in_dir("open", "latest/optimizer.safetensors"),
                   in_dir("small", "latest/optimizer.safetensors"), 2);
    step(&p);
    assert_int_equal(p.t->adam->step, 13);
    close_run(&p);
    assert_int_equal(unlink(in_dir("tall", "optimizer.safetensors")), 0);
    assert_int_equal(try_run(conf_file("none", "\"base\": \"tall\", \"base_moments\": true, " TEXT),
                             false, &v, &e),
                     -1);
    assert_non_null(strstr(e.msg, "tall/optimizer.safetensors"));
    e = (struct err){0};
    assert_int_equal(grow_dir(in_dir("tall", ""), &o, in_dir("more", ""), &r, &e), -1);
    assert_non_null(strstr(e.msg, "optimizer.safetensors"));
    assert_false(file_exists(in_dir("more", "")));
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        T(blocks_are_stacked_and_the_data_goes_on_where_it_was),
        T(copies_are_independent_and_differ_after_a_step),
        T(gradients_of_a_grown_model_agree_with_finite_differences),
        T(zero_init_keeps_the_loss_and_kept_moments_are_stacked),
        T(both_parts_warm_up_and_only_the_last_falls),
        T(flops_are_those_of_both_models),
        T(without_growth_the_rate_alone_starts_again),
        T(a_stack_of_random_layers_is_trained_from_the_first_step),
        T(the_loss_jumps_within_bounds_and_recovers),
        T(without_validation_the_next_batch_is_the_measure),
        T(interrupted_around_growth_it_resumes_to_the_same_run),
        T(checkpoints_of_runs_that_grow_otherwise_are_refused),
        T(an_argument_may_say_it_but_not_contradict),
        T(a_grown_checkpoint_goes_on_with_its_moments_and_exact_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
