/* input.c - lines from the user: libedit on a terminal, plain reads elsewhere.
 *
 * History is one line per entry in $XDG_STATE_HOME/pumice/history (else ~/.local/state), readable
 * by the user only; each line is appended as it is entered, so a crash loses nothing and two
 * sessions do not overwrite each other.  Without a home there is history for the session only.
 *
 * A bracketed paste is one line to the editor: its line breaks and tabs are shown as the symbols
 * for them and turned back when the line is done; history keeps the symbols.
 *
 * Ctrl-C: libedit leaves the terminal's interrupt character on, the caller's handler sets
 * *interrupted, and read_byte below turns that into the end of the line.  It comes to this thread
 * only (base/thread.h), and only while it waits, so that none slips in between a look at the flag
 * and the wait. */
#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/session.h"

enum { HISTORY_LINES = 1000, HISTORY_BYTES = 1 << 20 };
enum { ESC = 0x1b, SYMBOL_NEWLINE = 0x2424, SYMBOL_TAB = 0x2409 };
#define SYMBOL_NEWLINE_UTF8 "\xe2\x90\xa4"
#define SYMBOL_TAB_UTF8 "\xe2\x90\x89"

struct input {
    EditLine *el; /* NULL when not a terminal */
    History *history;
    char *path;         /* history file; NULL = none */
    const char *prompt; /* borrowed during input_read */
    volatile sig_atomic_t *interrupted;
    char *line; /* getline's buffer */
    size_t cap;
    char ahead[8]; /* bytes read while looking for the end of an escape sequence */
    int n_ahead;
    bool pasting, stopped; /* stopped: Ctrl-C ended the line */
};

/* -- the history file -------------------------------------------------------------------------- */

/* Creates the folders of a path, for the user alone; failure shows when the file is opened. */
static void make_parents(char *path) {
    for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
}

static char *history_path(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && state[0] == '/')
        return path_join(state, "pumice/history");
    return home && home[0] == '/' ? path_join(home, ".local/state/pumice/history") : NULL;
}

/* Loads the newest entries; when the file has grown past its limit, keeps only those on disk
 * too. */
static void load_history(struct input *in) {
    struct buf b = {0};
    HistEvent ev;
    struct stat st;
    if (!in->path || stat(in->path, &st) || st.st_size > 64 * HISTORY_BYTES ||
        file_read(in->path, 64 * (size_t)HISTORY_BYTES, &b, NULL))
        goto out;
    char *p = b.data + b.len;
    int lines = 0;
    while (p > b.data && lines <= HISTORY_LINES)
        lines += *--p == '\n';
    if (lines > HISTORY_LINES)
        p++;
    if (b.len > HISTORY_BYTES) {
        mode_t old = umask(077);
        file_write(in->path, p, (size_t)(b.data + b.len - p),
                   NULL); /* best effort: the old file stays */
        umask(old);
    }
    buf_str(&b);
    for (char *save = NULL, *s = strtok_r(p, "\n", &save); s; s = strtok_r(NULL, "\n", &save))
        history(in->history, &ev, H_ENTER, s);
out:
    buf_free(&b);
}

static void remember(struct input *in, const char *line) {
    HistEvent ev;
    if (!*line)
        return;
    history(in->history, &ev, H_ENTER, line);
    int fd = in->path ? open(in->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return;
    struct buf b = {0};
    buf_printf(&b, "%s\n", line);
    ssize_t n = write(fd, b.data,
                      b.len); /* one write: lines of two sessions do not mix; loss is harmless */
    (void)n;
    close(fd);
    buf_free(&b);
}

/* -- the terminal ------------------------------------------------------------------------------ */

static char *prompt_of(EditLine *el) {
    struct input *in;
    el_get(el, EL_CLIENTDATA, &in);
    return (char *)in->prompt;
}

/* Waits for input or Ctrl-C; true = Ctrl-C, which is taken. */
static bool await_input(struct input *in) {
    struct pollfd p = {STDIN_FILENO, POLLIN, 0};
    sigset_t interrupt, old;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_BLOCK, &interrupt, &old);
    while (!*in->interrupted && ppoll(&p, 1, NULL, &old) < 0 && errno == EINTR)
        ; /* a resized window, for one */
    bool stopped = *in->interrupted;
    *in->interrupted = 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return stopped;
}

/* One byte: 1, 0 at the end of input, -1 when interrupted. */
static int read_byte(struct input *in, char *out) {
    if (in->n_ahead) {
        *out = in->ahead[0];
        memmove(in->ahead, in->ahead + 1, (size_t)--in->n_ahead);
        return 1;
    }
    in->stopped = await_input(in);
    if (in->stopped)
        return -1;
    ssize_t got;
    while ((got = read(STDIN_FILENO, out, 1)) < 0 && errno == EINTR)
        ;
    return (int)got;
}

/* After ESC: true and consumed if the rest of `mark` follows at once; else what was read stays
 * ahead. */
static bool follows(struct input *in, const char *mark) {
    size_t n = strlen(mark);
    for (size_t i = 0; i < n; i++) {
        struct pollfd p = {STDIN_FILENO, POLLIN, 0};
        if (i >= (size_t)in->n_ahead &&
            (poll(&p, 1, 20) <= 0 || read(STDIN_FILENO, &in->ahead[in->n_ahead], 1) != 1))
            return false;
        if (i >= (size_t)in->n_ahead)
            in->n_ahead++;
        if (in->ahead[i] != mark[i])
            return false;
    }
    in->n_ahead -= (int)n;
    memmove(in->ahead, in->ahead + n, (size_t)in->n_ahead);
    return true;
}

/* The first byte of a character that is for the editor; paste marks are taken out here. */
static int read_first(struct input *in, char *out) {
    for (;;) {
        int got = read_byte(in, out);
        if (got != 1)
            return got;
        if (*out == ESC && follows(in, in->pasting ? "[201~" : "[200~"))
            in->pasting = !in->pasting;
        else if (!in->pasting || *out == '\r' || *out == '\n' || *out == '\t' ||
                 (unsigned char)*out >= ' ')
            return 1;
        /* other control characters of a paste would be commands to the editor */
    }
}

/* One character for libedit: 1, 0 at the end of input, -1 when interrupted. */
static int read_char(EditLine *el, wchar_t *out) {
    struct input *in;
    char bytes[8];
    el_get(el, EL_CLIENTDATA, &in);
    for (size_t n = 0; n < sizeof bytes;) {
        int got = n ? read_byte(in, bytes + n) : read_first(in, bytes);
        if (got != 1)
            return got;
        if (n == 0 && bytes[0] == '\0')
            bytes[0] =
                'D' & 0x1f; /* Ctrl-D typed ahead, while lines were read whole, arrives as NUL */
        n++;
        mbstate_t state = {0};
        size_t len = mbrtowc(out, bytes, n, &state);
        if (len == (size_t)-1)
            n = 0; /* not UTF-8: skipped */
        if (len >= (size_t)-2)
            continue;
        if (in->pasting && *out < ' ')
            *out = *out == '\t' ? SYMBOL_TAB : SYMBOL_NEWLINE;
        return 1;
    }
    return 0;
}

/* Puts real line breaks and tabs where a paste left their symbols. */
static void restore_paste(struct buf *line) {
    struct buf out = {0};
    for (size_t i = 0; i < line->len;) {
        size_t left = line->len - i;
        bool newline = left >= 3 && !memcmp(line->data + i, SYMBOL_NEWLINE_UTF8, 3);
        bool tab = left >= 3 && !memcmp(line->data + i, SYMBOL_TAB_UTF8, 3);
        buf_addc(&out, newline ? '\n' : tab ? '\t' : line->data[i]);
        i += newline || tab ? 3 : 1;
    }
    buf_free(line);
    *line = out;
}

static void bracketed_paste(bool on) {
    fputs(on ? "\033[?2004h" : "\033[?2004l", stdout);
    fflush(stdout);
}

struct input *input_open(volatile sig_atomic_t *interrupted) {
    struct input *in = mem_new(sizeof *in);
    HistEvent ev;
    in->interrupted = interrupted;
    if (!cmd_is_terminal(STDIN_FILENO) || !cmd_is_terminal(STDOUT_FILENO))
        return in;
    in->el = el_init("pumice", stdin, stdout, stderr);
    if (!in->el)
        return in;
    in->history = history_init();
    in->path = history_path();
    if (in->path)
        make_parents(in->path);
    history(in->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(in->history, &ev, H_SETUNIQUE, 1);
    el_set(in->el, EL_CLIENTDATA, in);
    el_set(in->el, EL_PROMPT, prompt_of);
    el_set(in->el, EL_EDITOR, "emacs");
    el_set(in->el, EL_HIST, history, in->history);
    el_set(in->el, EL_GETCFN, read_char);
    el_set(in->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_set(in->el, EL_BIND, "\\e[3~", "ed-delete-next-char", NULL);
    el_set(in->el, EL_BIND, "\\e[1~", "ed-move-to-beg", NULL);
    el_set(in->el, EL_BIND, "\\e[4~", "ed-move-to-end", NULL);
    el_source(in->el, NULL); /* the user's ~/.editrc has the last word */
    load_history(in);
    return in;
}

void input_close(struct input *in) {
    if (!in)
        return;
    if (in->el)
        el_end(in->el);
    if (in->history)
        history_end(in->history);
    free(in->path);
    free(in->line);
    free(in);
}

bool input_interactive(const struct input *in) {
    return in->el != NULL;
}

static enum input_event read_terminal(struct input *in, const char *prompt, struct buf *line) {
    int n = 0;
    in->prompt = prompt;
    in->stopped = false;
    el_resize(in->el);
    el_set(in->el, EL_PREP_TERM,
           1); /* before the prompt: keys typed at once belong to the editor */
    bool paste = cmd_colour(STDOUT_FILENO); /* a terminal that knows escape codes */
    if (paste)
        bracketed_paste(true);
    const char *s = el_gets(in->el, &n);
    if (paste)
        bracketed_paste(false);
    if (in->stopped) {
        const LineInfo *li = el_line(in->el);
        buf_add(line, li->buffer, (size_t)(li->lastchar - li->buffer));
        return IN_INTERRUPT;
    }
    if (!s || n <= 0)
        return IN_END;
    buf_add(line, s, (size_t)n);
    while (line->len && strchr("\r\n", line->data[line->len - 1]))
        line->len--;
    remember(in, buf_str(line));
    restore_paste(line);
    return IN_LINE;
}

enum input_event input_read(struct input *in, const char *prompt, struct buf *line) {
    line->len = 0;
    if (in->el)
        return read_terminal(in, prompt, line);
    ssize_t n = getline(&in->line, &in->cap, stdin);
    if (n < 0)
        return IN_END;
    buf_add(line, in->line, (size_t)n);
    while (line->len && strchr("\r\n", line->data[line->len - 1]))
        line->len--;
    return IN_LINE;
}
