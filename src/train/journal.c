/* journal.c - what a run writes besides checkpoints: log.jsonl, a line per step and event; the
 * documents of batches that went wrong; the loss curve.
 *
 * After a resume the log has each step once: lines behind the checkpoint are dropped. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/plot.h"
#include "train/loop.h"

/* The line is of before a checkpoint of `step`.  Growth comes after the base's last step, whose
 * number it has. */
static bool is_before(const json_t *line, int64_t step, bool grown) {
    const char *event = json_string_value(json_object_get(line, "event"));
    int64_t at = json_integer_value(json_object_get(line, "step"));
    return at < step || (at == step && (grown || !event || strcmp(event, "growth") != 0));
}

/* Keeps the whole lines from before a checkpoint of `step`. */
static int trim_log(const char *path, int64_t step, bool grown, struct err *err) {
    struct file f;
    struct out *o = NULL;
    int rc = -1;
    if (!file_exists(path))
        return 0;
    if (file_open(&f, path, err))
        return -1;
    if (!(o = out_open(path, err)))
        goto out;
    const char *s = f.data ? (const char *)f.data : "", *end = s + f.size;
    for (const char *stop; s < end && (stop = memchr(s, '\n', (size_t)(end - s))); s = stop + 1) {
        json_t *j = json_loadb(s, (size_t)(stop - s), 0, NULL);
        bool keep = j && is_before(j, step, grown);
        json_decref(j);
        if (keep && out_write(o, s, (size_t)(stop + 1 - s), err))
            goto out;
    }
    rc = out_commit(o, err);
    o = NULL;
out:
    out_abort(o);
    file_close(&f);
    return rc;
}

int journal_open(struct train *t, struct err *err) {
    char *path = path_join(t->c->out, "log.jsonl");
    int rc = trim_log(path, t->resumed ? t->s.step : -1, t->s.growth.done, err);
    if (!rc && !(t->log = fopen(path, "ae")))
        rc = err_set(err, E_IO, "%s: %s", path, strerror(errno));
    free(path);
    return rc;
}

json_t *journal_number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

void journal_add(struct train *t, json_t *line) {
    char *text = json_dumps(line, JSON_COMPACT);
    bool ok = !t->log || (fprintf(t->log, "%s\n", text) > 0 && fflush(t->log) == 0);
    if (!ok && !t->log_failed)
        log_warn("%s/log.jsonl: %s; training goes on without it", t->c->out, strerror(errno));
    t->log_failed = !ok;
    if (!ok)
        clearerr(t->log);
    free(text);
    json_decref(line);
}

/* -- batches that went wrong ------------------------------------------------------------------- */

static void add_document(void *arg, const char *path, int64_t line) {
    json_array_append_new(arg, json_pack("{s:s, s:I}", "file", path, "line", (json_int_t)line));
}

int journal_bad_batches(struct train *t, struct err *err) {
    json_t *list = json_array();
    for (int i = 0; i < t->s.skipped_row && i < MAX_SKIPPED; i++) {
        json_t *docs = json_array();
        data_trace(t->data, t->bad[i], t->rows * t->accum, add_document, docs);
        json_array_append_new(list, json_pack("{s:I, s:o}", "step",
                                              (json_int_t)(t->s.step - t->s.skipped_row + i + 1),
                                              "documents", docs));
    }
    char *path = path_join(t->c->out, "bad_batches.json"), *text = json_dumps(list, JSON_INDENT(1));
    int rc = file_write(path, text, strlen(text), err);
    free(path);
    free(text);
    json_decref(list);
    return rc;
}

/* -- the curve --------------------------------------------------------------------------------- */

static const char script[] =
    "# gnuplot: the loss curve of this folder\n"
    "set datafile separator ','\n"
    "set xlabel 'tokens'\nset ylabel 'loss (nats per token)'\nset grid\nset key top right\n"
    "plot_all = \"plot 'loss.csv' using 2:4 every ::1 with lines lc rgb '#b0c4de' title "
    "'training', "
    "'' using 2:5 every ::1 with linespoints lc rgb '#c0392b' lw 2 pt 7 ps 0.5 title "
    "'validation'\"\n"
    "set terminal svg size 900,540\nset output 'loss.svg'\neval plot_all\n"
    "set terminal png size 900,540\nset output 'loss.png'\neval plot_all\n";

static void add_real(struct buf *b, const json_t *v) {
    buf_addc(b, ',');
    if (json_is_number(v))
        buf_printf(b, "%.9g", json_number_value(v));
}

/* "step,tokens,flops,loss,val_loss" of the log's lines. */
static int write_csv(const char *log, const char *csv, struct err *err) {
    struct file f;
    struct buf b = {0};
    if (file_open(&f, log, err))
        return -1;
    buf_adds(&b, "step,tokens,flops,loss,val_loss\n");
    const char *s = f.data ? (const char *)f.data : "", *end = s + f.size;
    for (const char *stop; s < end && (stop = memchr(s, '\n', (size_t)(end - s))); s = stop + 1) {
        json_t *j = json_loadb(s, (size_t)(stop - s), 0, NULL);
        const json_t *loss = json_object_get(j, "loss"), *val = json_object_get(j, "val_loss");
        if (json_is_number(loss) || json_is_number(val)) {
            buf_printf(&b, "%lld,%lld", (long long)json_integer_value(json_object_get(j, "step")),
                       (long long)json_integer_value(json_object_get(j, "tokens")));
            add_real(&b, json_object_get(j, "flops"));
            add_real(&b, loss);
            add_real(&b, val);
            buf_addc(&b, '\n');
        }
        json_decref(j);
    }
    file_close(&f);
    int rc = file_write(csv, b.data, b.len, err);
    buf_free(&b);
    return rc;
}

int journal_chart(const char *out, bool *made, struct err *err) {
    char *log = path_join(out, "log.jsonl"), *csv = path_join(out, "loss.csv");
    char *gp = path_join(out, "loss.gp");
    int rc = write_csv(log, csv, err) || file_write(gp, script, strlen(script), err) ? -1 : 0;
    *made = !rc && plot_run(out, "loss.gp");
    free(log);
    free(csv);
    free(gp);
    return rc;
}
