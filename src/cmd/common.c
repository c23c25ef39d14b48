/* common.c - what the subcommands share before and after the work: arguments, loading, input,
 * messages. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/hub.h"
#include "model/kv.h"
#include "num/quant.h"

/* -- arguments --------------------------------------------------------------------------------- */

int cmd_parse(const struct cmd_help *h, const struct opt *table, int argc, char **argv, int *rest,
              struct err *err) {
    if (opt_parse(table, argc, argv, rest, err))
        return -1;
    if (*h->help) {
        printf("usage: pumice %s\n\n%s\n", h->usage, h->about);
        opt_help(stdout, table);
    }
    return 0;
}

int cmd_model(const char **model, int argc, char **argv, int *rest, struct err *err) {
    if (!*model && *rest < argc)
        *model = argv[(*rest)++];
    if (!*model || !**model)
        return err_set(err, E_USAGE, "no model given: name a model folder or a .gguf file");
    return cmd_hub_path(model, err);
}

int cmd_no_more(int argc, char **argv, int rest, struct err *err) {
    if (rest < argc)
        return err_set(err, E_USAGE, "unexpected argument '%s'", argv[rest]);
    return 0;
}

int cmd_fail(const struct err *err) {
    if (err->code != E_OK)
        fprintf(stderr, "pumice: %s\n", err->msg);
    return (int)err->code;
}

int cmd_dtype(const char *name, enum dtype *out, struct err *err) {
    *out = DT_NONE;
    if (!name || !strcmp(name, "native"))
        return 0;
    enum dtype t = dtype_parse(name);
    if (t == DT_NONE)
        return err_set(err, E_USAGE,
                       "--dtype: '%s' is not f32, f16, bf16, int8, int4, q8_0, q4_0, q4_1, q5_0, "
                       "q5_1, q4_k, q5_k, q6_k or native",
                       name);
    *out = t;
    return 0;
}

int cmd_kv_dtype(const char *name, enum dtype *out, struct err *err) {
    *out = name ? kv_parse(name) : DT_NONE;
    if (name && *out == DT_NONE)
        return err_set(err, E_USAGE, "--kv-dtype: '%s' is not f32, f16, bf16 or int8", name);
    return 0;
}

int cmd_format(const char *name, enum chat_format *out, struct err *err) {
    if (!name)
        return 0;
    enum chat_format f = chat_parse(name);
    if (f == CHAT_NONE && strcmp(name, "none"))
        return err_set(
            err, E_USAGE,
            "--chat-template: '%s' is not chatml, llama2, llama3, mistral, phi, zephyr or none",
            name);
    *out = f;
    return 0;
}

int cmd_ids(const char *what, const char *text, enum errc code, struct ids *out, struct err *err) {
    const char *skip = " \t\r\n,[]";
    for (const char *p = text + strspn(text, skip); *p; p += strspn(p, skip)) {
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        size_t n = strcspn(p, skip);
        if (end != p + n || errno || v < 0 || v > INT32_MAX)
            return err_set(err, code, "%s: '%.*s' is not a token id", what, n > 40 ? 40 : (int)n,
                           p);
        ids_add(out, (int32_t)v);
        p = end;
    }
    return out->n ? 0 : err_set(err, code, "%s: no token ids", what);
}

static int hex(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

char *cmd_unescape(const char *s) {
    static const char from[] = "ntr\\", to[] = "\n\t\r\\";
    struct buf b = {0};
    while (*s) {
        const char *known = s[0] == '\\' && s[1] ? strchr(from, s[1]) : NULL;
        if (known) {
            buf_addc(&b, to[known - from]);
            s += 2;
        } else if (s[0] == '\\' && s[1] == 'x' && hex(s[2]) >= 0 && hex(s[3]) >= 0) {
            buf_addc(&b, (char)(hex(s[2]) * 16 + hex(s[3])));
            s += 4;
        } else {
            buf_addc(&b, *s++);
        }
    }
    buf_str(&b);
    return b.data;
}

/* -- loading ----------------------------------------------------------------------------------- */

int cmd_load(const struct load_opts *o, struct loaded *out, struct err *err) {
    struct model_opts mo = {0};
    enum dtype kv;
    log_quiet(o->quiet);
    if (cmd_dtype(o->dtype, &mo.dtype, err) || cmd_kv_dtype(o->kv_dtype, &kv, err))
        return -1;
    if (o->v_dtype && (!o->kv_dtype || strcasecmp(o->v_dtype, o->kv_dtype)))
        return err_set(err, E_USAGE, "-ctv %s: keys and values have one type; give -ctk %s as well",
                       o->v_dtype, o->v_dtype);
    *out = (struct loaded){.pool = pool_new(o->n_threads)};
    mo.pool = out->pool;
    out->m = model_open(o->model, &mo, err);
    if (!out->m) {
        cmd_unload(out);
        return -1;
    }
    return 0;
}

int cmd_engine_opts(const struct load_opts *o, struct engine_opts *eo, struct err *err) {
    eo->n_ctx = o->n_ctx;
    eo->n_batch = o->n_batch;
    eo->kv_layout = o->kv && !strcmp(o->kv, "flat") ? KV_FLAT : KV_VIRTUAL;
    eo->kv_pool = (size_t)o->kv_pool << 20;
    if (o->kv && strcmp(o->kv, "flat") && strcmp(o->kv, "virtual"))
        return err_set(err, E_USAGE, "--kv: '%s' is not virtual or flat", o->kv);
    if (o->kv_pool && eo->kv_layout == KV_FLAT)
        return err_set(err, E_USAGE, "--kv-pool: a flat layout takes every sequence's context");
    return cmd_kv_dtype(o->kv_dtype, &eo->kv_type, err);
}

static void tell_note(const struct engine *e) {
    struct engine_stats s;
    engine_stats(e, &s);
    if (*s.kv.note)
        log_warn("%s", s.kv.note);
}

void cmd_tell_memory(const struct engine *e) {
    struct engine_stats s;
    engine_stats(e, &s);
    tell_note(e);
    if (s.kv.layout == KV_FLAT)
        log_info("KV memory: flat, %zu MiB for %d sequences of %d tokens", s.kv.pool_bytes >> 20,
                 s.slots, engine_ctx(e));
    else
        log_info("KV memory: at most %zu MiB, in groups of %d tokens (%zu KiB); flat, %d sequences "
                 "of %d tokens would take %zu MiB",
                 s.kv.pool_bytes >> 20, s.kv.group_tokens, s.kv.group_bytes >> 10, s.slots,
                 engine_ctx(e), s.kv.static_bytes >> 20);
}

int cmd_engine(const struct load_opts *o, struct loaded *l, struct err *err) {
    struct engine_opts eo = {.n_slot = 1};
    if (cmd_engine_opts(o, &eo, err))
        return -1;
    l->e = engine_open(l->m, l->pool, &eo, err);
    if (l->e)
        tell_note(l->e);
    if (l->e && engine_ctx(l->e) > l->m->cfg.max_ctx)
        log_warn("a context of %d tokens is longer than the %d that the model was trained for",
                 engine_ctx(l->e), l->m->cfg.max_ctx);
    return l->e ? 0 : -1;
}

void cmd_unload(struct loaded *l) {
    engine_close(l->e);
    model_close(l->m);
    pool_free(l->pool);
    *l = (struct loaded){0};
}

/* -- text in ----------------------------------------------------------------------------------- */

/* Length of the well-formed character at p, or 0; *bad receives the length of the maximal
 * ill-formed part (Unicode 15, section 3.9, table 3-7 and "U+FFFD substitution of maximal
 * subparts"). */
static size_t utf8_char(const unsigned char *p, size_t n, size_t *bad) {
    unsigned char lo = 0x80, hi = 0xbf;
    size_t len = p[0] < 0x80   ? 1
                 : p[0] < 0xc2 ? 0
                 : p[0] < 0xe0 ? 2
                 : p[0] < 0xf0 ? 3
                 : p[0] < 0xf5 ? 4
                               : 0;
    *bad = 1;
    if (p[0] == 0xe0)
        lo = 0xa0; /* overlong */
    else if (p[0] == 0xed)
        hi = 0x9f; /* surrogates */
    else if (p[0] == 0xf0)
        lo = 0x90; /* overlong */
    else if (p[0] == 0xf4)
        hi = 0x8f; /* beyond U+10FFFF */
    for (size_t i = 1; i < len; i++) {
        if (i >= n || p[i] < lo || p[i] > hi) {
            *bad = i;
            return 0;
        }
        lo = 0x80;
        hi = 0xbf;
    }
    return len;
}

size_t utf8_fix(struct buf *b) {
    struct buf out = {0};
    size_t wrong = 0, bad;
    for (size_t i = 0; i < b->len;) {
        size_t len = utf8_char((const unsigned char *)b->data + i, b->len - i, &bad);
        if (len) {
            buf_add(&out, b->data + i, len);
        } else {
            buf_adds(&out, "\xef\xbf\xbd");
            wrong++;
        }
        i += len ? len : bad;
    }
    buf_free(b);
    *b = out;
    return wrong;
}

static int read_stdin(struct buf *out, struct err *err) {
    for (;;) {
        buf_reserve(out, 1 << 16);
        ssize_t n = read(STDIN_FILENO, out->data + out->len, 1 << 16);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, E_IO, "standard input: %s", strerror(errno));
        if (n == 0)
            return 0;
        out->len += (size_t)n;
        if (out->len > TEXT_MAX)
            return err_set(err, E_FORMAT, "standard input: larger than the limit of %d bytes",
                           TEXT_MAX);
    }
}

int cmd_read(const char *path, bool fix, struct buf *out, struct err *err) {
    bool in = !path || !strcmp(path, "-");
    if (in ? read_stdin(out, err) : file_read(path, TEXT_MAX, out, err))
        return -1;
    size_t wrong = fix ? utf8_fix(out) : 0;
    if (wrong)
        log_warn("%s: not valid UTF-8: %zu part%s replaced by U+FFFD", in ? "standard input" : path,
                 wrong, wrong == 1 ? "" : "s");
    return 0;
}

/* -- text out ---------------------------------------------------------------------------------- */

bool cmd_is_terminal(int fd) {
    return isatty(fd) == 1;
}

bool cmd_colour(int fd) {
    const char *term = getenv("TERM"), *no = getenv("NO_COLOR");
    return cmd_is_terminal(fd) && term && strcmp(term, "dumb") && !(no && *no);
}

int cmd_print_json(json_t *j, bool pretty, struct err *err) {
    size_t flags = JSON_REAL_PRECISION(10) | JSON_PRESERVE_ORDER | (pretty ? JSON_INDENT(2) : 0);
    int rc = json_dumpf(j, stdout, flags);
    json_decref(j);
    if (rc || putchar('\n') == EOF || fflush(stdout))
        return err_set(err, E_IO, "standard output: %s", strerror(errno));
    return 0;
}
