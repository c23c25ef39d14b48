/* jinja_lex.c - a template's text to tokens, with white space as transformers has it: a newline
 * after a block tag goes (trim_blocks), blanks in front of a block tag that stands first on its
 * line go (lstrip_blocks), "-" takes all white space on its side, "+" keeps it. */
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "tok/impl.h"
#include "tok/jinja_impl.h"

struct lex {
    struct jinja *j;
    const char *s; /* newlines are \n, the last one of the file dropped */
    size_t n, at;
    int line;
    struct err *err;
};

static int fail(struct lex *x, const char *what) {
    return err_set(x->err, E_FORMAT, "%s: line %d: %s", x->j->path, x->line, what);
}

static struct jtok *push(struct lex *x, enum jtok_type type, const char *p, size_t n) {
    struct jinja *j = x->j;
    if (j->n_tok == j->cap_tok) {
        j->cap_tok = j->cap_tok ? 2 * j->cap_tok : 256;
        j->tok = mem_resize(j->tok, (size_t)j->cap_tok, sizeof *j->tok);
    }
    j->tok[j->n_tok] = (struct jtok){.type = type, .line = x->line, .p = p, .n = n};
    return &j->tok[j->n_tok++];
}

static void go(struct lex *x, size_t to) {
    for (; x->at < to; x->at++)
        x->line += x->s[x->at] == '\n';
}

static bool here(const struct lex *x, const char *what) {
    size_t n = strlen(what);
    return x->at + n <= x->n && memcmp(x->s + x->at, what, n) == 0;
}

static size_t skip_space(const struct lex *x, size_t at) {
    int32_t cp;
    for (int len; at < x->n; at += (size_t)len) {
        len = jchar(x->s + at, x->s + x->n, &cp);
        if (!jspace(cp))
            break;
    }
    return at;
}

static size_t drop_space(const struct lex *x, size_t from, size_t end) {
    size_t keep = from;
    int32_t cp;
    for (size_t at = from; at < end;) {
        at += (size_t)jchar(x->s + at, x->s + end, &cp);
        keep = jspace(cp) ? keep : at;
    }
    return keep;
}

/* Text [from, to) in front of a tag that begins with `sign`; `block`: not a variable. */
static void text(struct lex *x, size_t from, size_t to, char sign, bool block) {
    size_t end = to;
    if (sign == '-') {
        end = drop_space(x, from, to);
    } else if (sign != '+' && block) {
        size_t line = to;
        while (line > from && x->s[line - 1] != '\n')
            line--;
        bool first = line > from || from == 0 || x->s[from - 1] == '\n';
        if (first && drop_space(x, line, to) == line)
            end = line;
    }
    if (end > from)
        push(x, T_TEXT, x->s + from, end - from);
    go(x, to);
}

/* The end of a tag at x->at, `close` long as "%}" with an optional sign: skips it and the white
 * space that goes with it.  False = not there. */
static bool tag_end(struct lex *x, const char *close, bool newline) {
    char sign = x->s[x->at];
    size_t skip = sign == '-' || (sign == '+' && newline);
    if (x->at + skip + 2 > x->n || memcmp(x->s + x->at + skip, close, 2) != 0)
        return false;
    size_t to = x->at + skip + 2;
    if (skip && sign == '-')
        to = skip_space(x, to);
    else if (!skip && newline && to < x->n && x->s[to] == '\n')
        to++;
    go(x, to);
    return true;
}

static int comment(struct lex *x) {
    const char *end = memmem(x->s + x->at, x->n - x->at, "#}", 2);
    if (!end)
        return fail(x, "comment {# is not closed");
    size_t to = (size_t)(end - x->s);
    go(x, to > x->at && (end[-1] == '-' || end[-1] == '+') ? to - 1 : to);
    tag_end(x, "#}", true);
    return 0;
}

/* {% raw %} at x->at, behind the "{%" and its sign: its text up to {% endraw %}.  1 = was one. */
static int raw(struct lex *x) {
    size_t at = skip_space(x, x->at);
    if (at + 3 > x->n || memcmp(x->s + at, "raw", 3) != 0)
        return 0;
    at = skip_space(x, at + 3);
    bool dash = at < x->n && x->s[at] == '-';
    if (at + dash + 2 > x->n || memcmp(x->s + at + dash, "%}", 2) != 0)
        return 0;
    size_t from = dash ? skip_space(x, at + 3) : at + 2;
    go(x, from);
    for (at = from; at + 2 <= x->n; at++) {
        if (memcmp(x->s + at, "{%", 2) != 0)
            continue;
        char sign = at + 2 < x->n ? x->s[at + 2] : 0;
        size_t word = skip_space(x, at + 2 + (sign == '-' || sign == '+'));
        if (word + 6 > x->n || memcmp(x->s + word, "endraw", 6) != 0)
            continue;
        text(x, from, at, sign, true);
        go(x, skip_space(x, word + 6));
        if (x->at < x->n && tag_end(x, "%}", true))
            return 1;
        break;
    }
    return fail(x, "tag 'raw' is not closed");
}

static bool is_name(char c, bool first) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) ||
           (!first && c >= '0' && c <= '9');
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static void add_utf8(struct buf *b, uint32_t c) {
    if (c < 0x80) {
        buf_addc(b, (char)c);
        return;
    }
    if (c < 0x800) {
        buf_addc(b, (char)(0xc0 | c >> 6));
    } else {
        if (c < 0x10000) {
            buf_addc(b, (char)(0xe0 | c >> 12));
        } else {
            buf_addc(b, (char)(0xf0 | c >> 18));
            buf_addc(b, (char)(0x80 | (c >> 12 & 63)));
        }
        buf_addc(b, (char)(0x80 | (c >> 6 & 63)));
    }
    buf_addc(b, (char)(0x80 | (c & 63)));
}

/* Python's escapes; p points behind the backslash, the result behind the escape. */
static const char *escape(const char *p, const char *end, struct buf *b) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *known = *p ? strchr(from, *p) : NULL;
    if (known) {
        buf_addc(b, to[known - from]);
        return p + 1;
    }
    if (*p == '\n')
        return p + 1;
    size_t want = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0, n = 0;
    uint32_t c = 0;
    if (want) {
        for (const char *q = p + 1; n < want && q < end; n++, q++) {
            int d = is_digit(*q) ? *q - '0' : (*q | 32) - 'a' + 10;
            if (d < 0 || d > 15 || (!is_digit(*q) && (*q | 32) < 'a'))
                break;
            c = c << 4 | (uint32_t)d;
        }
        if (n == want && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff)) {
            add_utf8(b, c);
            return p + 1 + want;
        }
    }
    for (n = 0; !want && n < 3 && p + n < end && p[n] >= '0' && p[n] <= '7'; n++)
        c = c << 3 | (uint32_t)(p[n] - '0');
    if (n && !want) {
        add_utf8(b, c);
        return p + n;
    }
    buf_addc(b, '\\');
    return p;
}

static int string(struct lex *x) {
    char quote = x->s[x->at];
    const char *p = x->s + x->at + 1, *end = x->s + x->n;
    struct buf b = {0};
    while (p < end && *p != quote) {
        if (*p == '\\' && p + 1 < end)
            p = escape(p + 1, end, &b);
        else
            buf_addc(&b, *p++);
    }
    if (p == end) {
        buf_free(&b);
        return fail(x, "string is not closed");
    }
    char *copy = jarena_add(&x->j->arena, b.len + 1);
    if (b.len)
        memcpy(copy, b.data, b.len);
    push(x, T_STRING, copy, b.len);
    buf_free(&b);
    go(x, (size_t)(p + 1 - x->s));
    return 0;
}

static int number(struct lex *x) {
    char digits[64];
    size_t at = x->at, n = 0;
    bool real = false, after_dot = at > 0 && x->s[at - 1] == '.';
    for (; at < x->n && n < sizeof digits - 1; at++) {
        char c = x->s[at], next = at + 1 < x->n ? x->s[at + 1] : 0;
        bool e = (c == 'e' || c == 'E') && !after_dot &&
                 (is_digit(next) ||
                  ((next == '+' || next == '-') && at + 2 < x->n && is_digit(x->s[at + 2])));
        if (is_digit(c)) {
            digits[n++] = c;
        } else if (c == '_' && is_digit(next)) {
            continue;
        } else if ((c == '.' && !real && !after_dot && is_digit(next)) || e) {
            digits[n++] = c;
            real = true;
            if (e) {
                digits[n++] = next;
                at++;
            }
        } else {
            break;
        }
    }
    digits[n] = 0;
    char *end;
    struct jtok *t = push(x, real ? T_FLOAT : T_INT, x->s + x->at, at - x->at);
    if (n > 48 || (!real && n > 18) || (at < x->n && is_name(x->s[at], true)))
        return fail(x, "number is not supported");
    if (real)
        t->f = strtod(digits, &end);
    else
        t->i = strtoll(digits, &end, 10);
    go(x, at);
    return 0;
}

static int operator(struct lex *x, int *depth) {
    static const char *const ops[] = {"==", "!=", ">=", "<=", "//", "**", "+", "-", "/",
                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!here(x, ops[i]))
            continue;
        *depth += strchr("[({", *ops[i]) != NULL;
        *depth -= strchr("])}", *ops[i]) != NULL;
        if (*depth < 0)
            break;
        push(x, T_OP, ops[i], strlen(ops[i]));
        go(x, x->at + strlen(ops[i]));
        return 0;
    }
    char c = x->s[x->at];
    return err_set(x->err, E_FORMAT, "%s: line %d: unexpected character '%c'", x->j->path, x->line,
                   c > 32 && c < 127 ? c : '?');
}

/* Behind the beginning of a tag: its tokens, up to and with its end. */
static int inside(struct lex *x, bool block) {
    int depth = 0, line = x->line;
    const char *close = block ? "%}" : "}}";
    for (;;) {
        go(x, skip_space(x, x->at));
        if (x->at >= x->n) {
            x->line = line;
            return fail(x, block ? "{% is not closed" : "{{ is not closed");
        }
        int was = x->line;
        if (depth == 0 && tag_end(x, close, block)) {
            push(x, block ? T_BLOCK_END : T_VAR_END, close, 2)->line = was;
            return 0;
        }
        char c = x->s[x->at];
        int rc = 0;
        if (c == '\'' || c == '"') {
            rc = string(x);
        } else if (is_digit(c)) {
            rc = number(x);
        } else if (is_name(c, true)) {
            size_t to = x->at;
            while (to < x->n && is_name(x->s[to], false))
                to++;
            push(x, T_NAME, jinja_name(x->j, x->s + x->at, to - x->at), to - x->at);
            go(x, to);
        } else {
            rc = operator(x, &depth);
        }
        if (rc)
            return rc;
    }
}

/* The next "{%", "{{" or "{#" at or after x->at, else the end. */
static size_t next_tag(const struct lex *x) {
    for (size_t at = x->at; at + 1 < x->n; at++)
        if (x->s[at] == '{' && strchr("%{#", x->s[at + 1]) && x->s[at + 1])
            return at;
    return x->n;
}

/* A copy with all newlines as \n, the last one dropped; in the arena. */
static void normalise(struct lex *x, const char *text, size_t n) {
    char *s = jarena_add(&x->j->arena, n + 1);
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n')
            continue;
        s[len++] = text[i] == '\r' ? '\n' : text[i];
    }
    x->n = len && s[len - 1] == '\n' ? len - 1 : len;
    s[x->n] = 0;
    x->s = s;
}

int jinja_lex(struct jinja *j, const char *source, size_t n, struct err *err) {
    struct lex x = {.j = j, .line = 1, .err = err};
    normalise(&x, source, n);
    while (x.at < x.n) {
        size_t tag = next_tag(&x);
        char kind = tag < x.n ? x.s[tag + 1] : 0, sign = tag + 2 < x.n ? x.s[tag + 2] : 0;
        text(&x, x.at, tag, kind ? sign : '+', kind != '{');
        if (!kind)
            break;
        bool block = kind == '%';
        go(&x, tag + 2 + (sign == '-' || sign == '+'));
        int rc = block ? raw(&x) : 0;
        if (rc == 0 && kind == '#') {
            rc = comment(&x);
        } else if (rc == 0) {
            push(&x, block ? T_BLOCK : T_VAR, NULL, 0);
            rc = inside(&x, block);
        }
        if (rc < 0)
            return -1;
    }
    push(&x, T_EOF, "end", 3);
    return 0;
}
