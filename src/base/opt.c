/* opt.c - see opt.h.  getopt_long_only does the splitting; the table gives names, types and ranges.
 *
 * Beyond getopt: (1) abbreviations are refused, so that a new flag never changes what an old script
 * means; (2) numbers are parsed to the last character and checked against the row's range; (3)
 * `-ctk f16` works like `--ctk f16`, because that is how users of the peers spell it. */
#include "base/opt.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

enum { FIRST_LONG = 1000 }; /* getopt's value of row i's long spellings is FIRST_LONG + i */

static bool is_heading(const struct opt *o) {
    return o->name[0] == '\0';
}

static int parse_integer(const struct opt *o, const char *flag, const char *text, struct err *err) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end)
        return err_set(err, E_USAGE, "%s: '%s' is not a whole number", flag, text);
    int64_t lo = o->type == OPT_INT ? INT_MIN : INT64_MIN,
            hi = o->type == OPT_INT ? INT_MAX : INT64_MAX;
    /* A bound of 2^63 as a double is one beyond INT64_MAX: it bounds nothing then. */
    if (o->lo < o->hi && o->lo > (double)lo)
        lo = (int64_t)o->lo;
    if (o->lo < o->hi && o->hi < (double)hi)
        hi = (int64_t)o->hi;
    if (errno == ERANGE || v < lo || v > hi)
        return err_set(err, E_USAGE, "%s: %s is not in %lld..%lld", flag, text, (long long)lo,
                       (long long)hi);
    if (o->type == OPT_INT)
        *(int *)o->dst = (int)v;
    else
        *(int64_t *)o->dst = v;
    return 0;
}

static int parse_float(const struct opt *o, const char *flag, const char *text, struct err *err) {
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v))
        return err_set(err, E_USAGE, "%s: '%s' is not a number", flag, text);
    if (o->lo < o->hi && (v < o->lo || v > o->hi))
        return err_set(err, E_USAGE, "%s: %s is not in %g..%g", flag, text, o->lo, o->hi);
    *(float *)o->dst = (float)v;
    return 0;
}

static int store(const struct opt *o, const char *flag, char *text, struct err *err) {
    switch (o->type) {
    case OPT_FLAG:
        *(bool *)o->dst = true;
        return 0;
    case OPT_INT:
    case OPT_I64:
        return parse_integer(o, flag, text, err);
    case OPT_FLOAT:
        return parse_float(o, flag, text, err);
    case OPT_STR:
        *(const char **)o->dst = text;
        return 0;
    case OPT_LIST: {
        struct opt_list *l = o->dst;
        if (l->n == (int)(sizeof l->item / sizeof l->item[0]))
            return err_set(err, E_USAGE, "%s: given more than %d times", flag, l->n);
        l->item[l->n++] = text;
        return 0;
    }
    }
    return -1;
}

int opt_set(const struct opt *table, const char *name, const char *value, struct err *err) {
    for (const struct opt *o = table; o->name; o++)
        if (!is_heading(o) && (!strcmp(o->name, name) || (o->alias && !strcmp(o->alias, name))))
            return store(o, name, (char *)value, err);
    return err_set(err, E_USAGE, "unknown setting '%s'", name);
}

/* What the user typed for the option that getopt_long has just returned. */
static const char *typed(char **argv) {
    const char *t = argv[optind - 1];
    return optarg && optarg == t && optind >= 2 ? argv[optind - 2] : t;
}

/* True if the typed spelling is the row's whole name or alias, up to '='. */
static bool spelled_out(const struct opt *o, const char *t) {
    t += strspn(t, "-");
    size_t n = strcspn(t, "=");
    return (strlen(o->name) == n && !memcmp(o->name, t, n)) ||
           (o->alias && strlen(o->alias) == n && !memcmp(o->alias, t, n));
}

static int unknown(const char *t, struct err *err) {
    return err_set(err, E_USAGE, "unknown option '%.*s'", (int)strcspn(t, "="), t);
}

/* getopt_long's own complaints, with the name and the reason. */
static int complain(int c, const struct opt *table, char **argv, struct err *err) {
    const char *t = argv[optind - 1];
    if (c == ':')
        return err_set(err, E_USAGE, "%s: needs a value", t);
    if (optopt >= FIRST_LONG && spelled_out(&table[optopt - FIRST_LONG], t))
        return err_set(err, E_USAGE, "--%s: takes no value", table[optopt - FIRST_LONG].name);
    if (optopt > 0 && optopt < FIRST_LONG) /* a letter, perhaps in the middle of a cluster */
        return err_set(err, E_USAGE, "unknown option '-%c'", optopt);
    return unknown(t, err);
}

/* The row of getopt's value, or NULL for an abbreviation. */
static const struct opt *row_of(const struct opt *table, int c, const char *t) {
    if (c >= FIRST_LONG)
        return spelled_out(&table[c - FIRST_LONG], t) ? &table[c - FIRST_LONG] : NULL;
    for (const struct opt *o = table; o->name; o++)
        if (o->letter == c)
            return o;
    return NULL;
}

int opt_parse(const struct opt *table, int argc, char **argv, int *rest, struct err *err) {
    int n = 0, rc = -1, c;
    while (table[n].name)
        n++;
    struct option *lo = mem_array((size_t)n * 2 + 1, sizeof *lo);
    struct buf letters = {0};
    struct option *next = lo;
    buf_addc(&letters, ':');
    for (int i = 0; i < n; i++) {
        const struct opt *o = &table[i];
        if (is_heading(o))
            continue;
        int has_arg = o->type == OPT_FLAG ? no_argument : required_argument;
        *next++ = (struct option){o->name, has_arg, NULL, FIRST_LONG + i};
        if (o->alias)
            *next++ = (struct option){o->alias, has_arg, NULL, FIRST_LONG + i};
        if (o->letter) {
            buf_addc(&letters, o->letter);
            if (has_arg)
                buf_addc(&letters, ':');
        }
    }
    optind = 0; /* glibc: start afresh */
    opterr = 0;
    while ((c = getopt_long_only(argc, argv, buf_str(&letters), lo, NULL)) != -1) {
        if (c == '?' || c == ':') {
            complain(c, table, argv, err);
            goto out;
        }
        const char *t = typed(argv);
        const struct opt *o = row_of(table, c, t);
        if (!o) {
            unknown(t, err);
            goto out;
        }
        char flag[64];
        if (c >= FIRST_LONG)
            snprintf(flag, sizeof flag, "--%s", o->name);
        else
            snprintf(flag, sizeof flag, "-%c", c);
        if (store(o, flag, optarg, err))
            goto out;
    }
    *rest = optind;
    rc = 0;
out:
    buf_free(&letters);
    free(lo);
    return rc;
}

/* Prints text in columns [indent, 80), broken at spaces; the cursor stands at column `at`. */
static void print_wrapped(FILE *f, const char *text, int indent, int at) {
    while (*text) {
        size_t n = strcspn(text, " ");
        if (at > indent && at + 1 + (int)n > 80) {
            fprintf(f, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', f);
            at++;
        }
        fwrite(text, 1, n, f);
        at += (int)n;
        text += n + strspn(text + n, " ");
    }
    fputc('\n', f);
}

void opt_help(FILE *f, const struct opt *table) {
    enum { INDENT = 32 };
    struct buf b = {0};
    for (const struct opt *o = table; o->name; o++) {
        if (is_heading(o))
            fprintf(f, "\n%s:\n", o->help);
        if (is_heading(o) || !o->help)
            continue;
        b.len = 0;
        buf_adds(&b, "  ");
        if (o->letter)
            buf_printf(&b, "-%c, ", o->letter);
        size_t alias = o->alias ? strlen(o->alias) : 0;
        if (alias > 1) /* short aliases are the peers' one-dash spellings */
            buf_printf(&b, "%s%s, ", alias <= 3 ? "-" : "--", o->alias);
        buf_printf(&b, "--%s", o->name);
        if (o->arg)
            buf_printf(&b, " %s", o->arg);
        fputs(buf_str(&b), f);
        if (b.len + 2 > INDENT)
            fprintf(f, "\n%*s", INDENT, "");
        else
            fprintf(f, "%*s", INDENT - (int)b.len, "");
        print_wrapped(f, o->help, INDENT, INDENT);
    }
    buf_free(&b);
}
