/* gstack_runs.c - the runs of a study, each in a process of its own, and their curves as CSV.
 *
 * Invariants: (1) a child trains, evaluates and writes what it sees into a pipe; only the parent
 * writes the CSV.  (2) The parent has no threads when it forks.  (3) A run is in the CSV from its
 * first evaluation on, and counts as whole with its last; an unfinished one is made again.  (4) The
 * file is written anew, in an order that does not depend on which run ended first, whenever a run
 * ends: but for the seconds, the same study gives the same bytes. */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/gstack.h"
#include "train/train.h"

#define CSV_HEAD "arm,seed,tokens,flops,seconds,val_loss,val_tokens\n"
#define MAX_CSV ((size_t)256 << 20)

/* -- the table --------------------------------------------------------------------------------- */

static int run_order(const struct gs_run *a, const struct gs_run *b) {
    if (a->arm != b->arm) /* tuning comes first */
        return (a->arm == GS_ARMS ? -1 : a->arm) - (b->arm == GS_ARMS ? -1 : b->arm);
    int by_name = strcmp(a->name, b->name);
    return by_name ? by_name : a->seed - b->seed;
}

struct gs_run *gs_run_find(struct study *s, const char *name, int seed) {
    struct gs_run *r = mem_new(sizeof *r);
    *r = (struct gs_run){.arm = GS_ARMS, .seed = seed};
    snprintf(r->name, sizeof r->name, "%s", name);
    for (int i = 0; i < GS_ARMS; i++)
        if (!strcmp(gs_arm_name[i], r->name))
            r->arm = i;
    int at = 0;
    while (at < s->n_run && run_order(s->run[at], r) < 0)
        at++;
    if (at < s->n_run && run_order(s->run[at], r) == 0) {
        free(r);
        return s->run[at];
    }
    s->run = mem_resize(s->run, (size_t)s->n_run + 1, sizeof(struct gs_run *));
    memmove(s->run + at + 1, s->run + at, (size_t)(s->n_run - at) * sizeof(struct gs_run *));
    s->run[at] = r;
    s->n_run++;
    return r;
}

bool gs_run_whole(const struct gs_run *r) {
    const struct gs_row *last = r->n_row ? &r->row[r->n_row - 1] : NULL;
    return r->wanted && last && last->tokens == r->tokens && last->val_tokens == r->final_tokens;
}

static void add_row(struct gs_run *r, const struct gs_row *row) {
    if (r->n_row == r->cap_row) {
        r->cap_row = 2 * r->cap_row + 16;
        r->row = mem_resize(r->row, (size_t)r->cap_row, sizeof *r->row);
    }
    r->row[r->n_row++] = *row;
}

void gs_free(struct study *s) {
    for (int i = 0; i < s->n_run; i++) {
        json_decref(s->run[i]->conf);
        free(s->run[i]->row);
        free(s->run[i]);
    }
    free(s->run);
    json_decref(s->tuning);
}

/* -- CSV --------------------------------------------------------------------------------------- */

/* Seventeen digits give the same double back. */
static void format_row(struct buf *b, const struct gs_run *r, const struct gs_row *row) {
    buf_printf(b, "%s,%d,%lld,%.17g,%.3f,%.17g,%lld\n", r->name, r->seed, (long long)row->tokens,
               row->flops, row->seconds, row->loss, (long long)row->val_tokens);
}

static int csv_write(const struct study *s, struct err *err) {
    struct buf b = {0};
    char *path = path_join(s->dir, "gstack.csv");
    buf_adds(&b, CSV_HEAD);
    for (int i = 0; i < s->n_run; i++)
        for (int k = 0; k < s->run[i]->n_row; k++)
            format_row(&b, s->run[i], &s->run[i]->row[k]);
    int rc = file_write(path, b.data, b.len, err);
    free(path);
    buf_free(&b);
    return rc;
}

static int csv_append(const struct study *s, const struct gs_run *r, struct err *err) {
    struct buf b = {0};
    char *path = path_join(s->dir, "gstack.csv");
    FILE *f = fopen(path, "ae");
    format_row(&b, r, &r->row[r->n_row - 1]);
    bool ok = f && fwrite(b.data, 1, b.len, f) == b.len;
    if (f && fclose(f) != 0)
        ok = false;
    int rc = ok ? 0 : err_set(err, E_IO, "%s: %s", path, strerror(errno));
    free(path);
    buf_free(&b);
    return rc;
}

int gs_csv_read(struct study *s, struct err *err) {
    struct buf b = {0};
    char *path = path_join(s->dir, "gstack.csv"), *save = NULL;
    int rc = file_exists(path) ? file_read(path, MAX_CSV, &b, err) : 0;
    buf_str(&b);
    char *end = b.len ? strrchr(b.data, '\n') : NULL;
    if (end)
        end[1] = 0; /* a row that was cut short belongs to an unfinished run */
    char *line = end ? strtok_r(b.data, "\n", &save) : NULL;
    for (int n = 1; line && !rc; n++, line = strtok_r(NULL, "\n", &save)) {
        char name[32], more;
        int seed;
        long long tokens, val;
        struct gs_row row;
        if (n == 1 && !strncmp(line, CSV_HEAD, strlen(CSV_HEAD) - 1))
            continue;
        if (sscanf(line, "%31[^,],%9d,%18lld,%lf,%lf,%lf,%18lld%c", name, &seed, &tokens,
                   &row.flops, &row.seconds, &row.loss, &val, &more) != 7)
            rc = err_set(err, E_FORMAT, "%s: line %d is not a row of a study", path, n);
        row.tokens = tokens;
        row.val_tokens = val;
        if (!rc)
            add_row(gs_run_find(s, name, seed), &row);
    }
    free(path);
    buf_free(&b);
    return rc;
}

/* -- in the child ------------------------------------------------------------------------------ */

/* Shorter than PIPE_BUF: written whole or not at all. */
struct message {
    enum { MSG_ROW, MSG_SHAPE, MSG_ERR } kind;
    union {
        struct gs_row row;
        struct gs_shape shape;
        struct err err;
    };
};

static int tell(int fd, const struct message *m, struct err *err) {
    ssize_t n;
    do
        n = write(fd, m, sizeof *m);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof *m ? 0 : err_set(err, E_IO, "pipe: %s", strerror(errno));
}

static int evaluate(struct train *t, struct conf *c, const struct train_info *in, int64_t batches,
                    struct gs_row *row, struct err *err) {
    int64_t most = batches * c->batch_size * c->max_seq_len, have = in->data.val_tokens;
    c->eval_batches = batches;
    row->val_tokens = most < have ? most : have;
    return train_eval(t, &row->loss, err);
}

static int train_child(const struct study *s, const struct gs_run *r, struct conf *c, int fd,
                       struct err *err) {
    struct train *t = train_open(c, &(struct train_opts){0}, err);
    struct message m = {.kind = MSG_ROW};
    struct train_step step = {0};
    int rc = t ? 0 : -1, point = 1;
    struct train_info in = t ? train_info(t) : (struct train_info){0};
    while (!rc && step.step < in.steps) {
        int64_t began = clock_us();
        rc = train_step(t, &step, err);
        m.row.seconds += (double)(clock_us() - began) / 1e6; /* growth included */
        m.row.tokens = step.tokens;
        m.row.flops = step.flops;
        bool last = step.step == in.steps;
        if (rc || (!last && step.flops < r->flops * point / GS_POINTS))
            continue;
        while (point <= GS_POINTS && step.flops >= r->flops * point / GS_POINTS)
            point++;
        rc = evaluate(t, c, &in, s->curve_batches, &m.row, err) || tell(fd, &m, err) ? -1 : 0;
    }
    if (!rc && fabs(m.row.flops - r->flops) > 1e-9 * r->flops)
        rc = err_set(err, E_USAGE, "%s-%d: planned %.17g FLOPs, took %.17g", r->name, r->seed,
                     r->flops, m.row.flops);
    if (!rc)
        rc = evaluate(t, c, &in, s->curve_batches * GS_FINAL, &m.row, err) || tell(fd, &m, err);
    train_close(t);
    return rc ? -1 : 0;
}

static int shape_child(struct conf *c, int fd, struct err *err) {
    struct train *t = train_open(c, &(struct train_opts){0}, err);
    if (!t)
        return -1;
    struct train_info in = train_info(t);
    struct message m = {.kind = MSG_SHAPE};
    m.shape = (struct gs_shape){.layers = (int)c->n_layers,
                                .params = in.params,
                                .step_tokens = in.step_tokens,
                                .epoch_tokens = in.data.epoch_tokens,
                                .val_tokens = in.data.val_tokens,
                                .token_flops = in.token_flops,
                                .data = in.data.fingerprint};
    train_close(t);
    return tell(fd, &m, err);
}

/* r NULL: only the shape.  Never returns. */
static void child(const struct study *s, const struct gs_run *r, const char *path, int fd) {
    struct message m = {.kind = MSG_ERR};
    struct conf c;
    log_quiet(true);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody reads what an orphan trains */
    int rc = conf_read(&c, path, &m.err);
    if (!rc)
        rc = r ? train_child(s, r, &c, fd, &m.err) : shape_child(&c, fd, &m.err);
    if (rc)
        tell(fd, &m, NULL);
    conf_free(&c);
    _exit(rc ? 1 : 0);
}

/* -- in the parent ----------------------------------------------------------------------------- */

struct job {
    struct gs_run *run; /* NULL: the shape */
    pid_t pid;          /* 0 = free */
    int fd;
    struct gs_shape *shape;
};

static int job_start(const struct study *s, struct job *j, const char *name, json_t *conf,
                     struct err *err) {
    struct buf b = {0};
    int fd[2] = {-1, -1}, rc = -1;
    char *runs = path_join(s->dir, "runs");
    buf_printf(&b, "%s.json", name);
    char *path = path_join(runs, buf_str(&b));
    if (json_write(runs, buf_str(&b), json_incref(conf), 2, err))
        goto out;
    if (pipe(fd) != 0 || (j->pid = fork()) < 0) {
        err_set(err, E_IO, "%s: %s", name, strerror(errno));
        j->pid = 0;
        goto out;
    }
    if (j->pid == 0) {
        close(fd[0]);
        child(s, j->run, path, fd[1]);
    }
    j->fd = fd[0];
    fd[0] = -1;
    rc = 0;
out:
    if (fd[0] >= 0)
        close(fd[0]);
    if (fd[1] >= 0)
        close(fd[1]);
    free(runs);
    free(path);
    buf_free(&b);
    return rc;
}

static void job_end(struct job *j) {
    if (!j->pid)
        return;
    close(j->fd);
    while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *j = (struct job){0};
}

static void show_progress(const struct study *s, const struct gs_run *r) {
    const struct gs_row *row = &r->row[r->n_row - 1];
    double spent = (double)(clock_us() - s->start_us) / 1e6;
    double left = s->done > 0 ? spent / s->done * (s->all - s->done) : 0;
    if (s->quiet || !cmd_is_terminal(STDERR_FILENO))
        return;
    fprintf(stderr, "\r\033[K%s, seed %d: %.0f %%, loss %.4f; %.1f %% of all, %lld:%02lld left",
            r->name, r->seed, 100 * row->flops / r->flops, row->loss, 100 * s->done / s->all,
            (long long)left / 3600, (long long)left / 60 % 60);
    fflush(stderr);
}

static int on_row(struct study *s, struct gs_run *r, const struct gs_row *row, struct err *err) {
    double before = r->n_row ? r->row[r->n_row - 1].flops : 0;
    add_row(r, row);
    s->done += row->flops - before;
    show_progress(s, r);
    if (!gs_run_whole(r))
        return csv_append(s, r, err);
    if (cmd_is_terminal(STDERR_FILENO) && !s->quiet)
        fputs("\r\033[K", stderr);
    log_info("%s, seed %d: loss %.4f after %.0f s (%.0f %% of the study)", r->name, r->seed,
             row->loss, row->seconds, 100 * s->done / s->all);
    return csv_write(s, err);
}

/* One message; *over: there is none left. */
static int job_read(struct study *s, struct job *j, bool *over, struct err *err) {
    struct message m;
    ssize_t n;
    do
        n = read(j->fd, &m, sizeof m);
    while (n < 0 && errno == EINTR);
    *over = n != (ssize_t)sizeof m;
    if (*over && (j->run ? !gs_run_whole(j->run) : !j->shape->layers))
        return err_set(err, E_IO, "%s: the run ended without a result",
                       j->run ? j->run->name : "the model's shape");
    if (*over)
        return 0;
    if (m.kind == MSG_ERR)
        return err_set(err, m.err.code, "%s", m.err.msg);
    if (m.kind == MSG_SHAPE)
        *j->shape = m.shape;
    return m.kind == MSG_ROW ? on_row(s, j->run, &m.row, err) : 0;
}

static struct gs_run *next_run(const struct study *s, const struct job *job) {
    for (int i = 0; i < s->n_run; i++) {
        struct gs_run *r = s->run[i];
        bool busy = false;
        for (int k = 0; k < s->n_job; k++)
            busy = busy || job[k].run == r;
        if (r->wanted && !busy && !gs_run_whole(r))
            return r;
    }
    return NULL;
}

/* Gives free jobs something to do; *busy: how many have. */
static int fill_jobs(struct study *s, struct job *job, int *busy, struct err *err) {
    *busy = 0;
    for (int k = 0; k < s->n_job; k++) {
        if (!job[k].pid && (job[k].run = next_run(s, job))) {
            struct gs_run *r = job[k].run;
            char name[64];
            snprintf(name, sizeof name, "%s-%d", r->name, r->seed);
            r->n_row = 0; /* unfinished: it begins anew */
            if (job_start(s, &job[k], name, r->conf, err))
                return -1;
        }
        *busy += job[k].pid != 0;
    }
    return 0;
}

static int wait_jobs(struct study *s, struct job *job, struct err *err) {
    struct pollfd p[64];
    for (int k = 0; k < s->n_job; k++)
        p[k] = (struct pollfd){.fd = job[k].pid ? job[k].fd : -1, .events = POLLIN};
    if (poll(p, (nfds_t)s->n_job, -1) < 0)
        return errno == EINTR ? 0 : err_set(err, E_IO, "poll: %s", strerror(errno));
    for (int k = 0; k < s->n_job; k++) {
        bool over = false;
        if (!(p[k].revents & (POLLIN | POLLHUP)))
            continue;
        if (job_read(s, &job[k], &over, err))
            return -1;
        if (over)
            job_end(&job[k]);
    }
    return 0;
}

int gs_runs(struct study *s, struct err *err) {
    struct job job[64] = {0};
    int busy = 0, rc = csv_write(s, err);
    if (!s->start_us)
        s->start_us = clock_us();
    s->all = s->done + s->later;
    for (int i = 0; i < s->n_run; i++)
        if (s->run[i]->wanted && !gs_run_whole(s->run[i]))
            s->all += s->run[i]->flops;
    while (!rc) {
        rc = fill_jobs(s, job, &busy, err);
        if (rc || !busy)
            break;
        rc = wait_jobs(s, job, err);
    }
    for (int k = 0; k < s->n_job; k++) {
        if (job[k].pid)
            kill(job[k].pid, SIGKILL); /* after an error: the others are of no use without it */
        job_end(&job[k]);
    }
    return rc;
}

int gs_shape_of(struct study *s, json_t *conf, struct gs_shape *out, struct err *err) {
    struct job j = {.shape = out};
    bool over = false;
    *out = (struct gs_shape){0};
    int rc = job_start(s, &j, "shape", conf, err);
    while (!rc && !over)
        rc = job_read(s, &j, &over, err);
    job_end(&j);
    return rc;
}
