/* main.c - the command table: pick a subcommand, run it, make sure that what it printed arrived.
 *
 * Exit codes are enum errc (base/err.h).  A reader that closes the pipe (`pumice show M | head -1`)
 * is not an error: SIGPIPE ends the process quietly with 0.  Files are written through out_*, so
 * nothing is torn. */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/hub.h"
#include "cmd/prompt.h"
#include "num/kern.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"chat", cmd_chat, "talk to a model: many turns, history, /help for commands"},
    {"run", cmd_run, "continue one prompt, or answer it with --chat"},
    {"pull", cmd_pull, "fetch a model from a Hugging Face hub"},
    {"list", cmd_list, "the models in the hub's cache"},
    {"rm", cmd_rm, "delete a model from the hub's cache"},
    {"serve", cmd_serve, "answer many users over HTTP, as OpenAI's API does"},
    {"tokenize", cmd_tokenize, "text to token ids"},
    {"detokenize", cmd_detokenize, "token ids to text"},
    {"apply-template", cmd_apply_template, "a chat request to the prompt that it gives"},
    {"show", cmd_show, "what a model is: architecture, size, KV bytes per token"},
    {"eval", cmd_eval, "perplexity of a text (eval ppl), logits of tokens (eval logits)"},
    {"train", cmd_train, "train a model: new, continued, or fine-tuned on chats"},
    {"vocab", cmd_vocab, "learn a vocabulary from text (vocab train)"},
    {"init", cmd_init, "write a random model of a named shape"},
    {"grow", cmd_grow, "a deeper model from a trained one (Gstack)"},
    {"quantize", cmd_quantize, "a GGUF model with its matrices in another type"},
    {"bench", cmd_bench, "measure speed on this machine"},
    {"doctor", cmd_doctor, "what this machine offers and what pumice uses of it"},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static const struct command *find(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

/* Letters to insert, delete or replace to turn a into b (Levenshtein), both short. */
static int distance(const char *a, const char *b) {
    enum { MOST = 31 };
    int row[MOST + 1], n = (int)strlen(b);
    if (strlen(a) > MOST || n > MOST)
        return MOST;
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            row[j] = best;
        }
    }
    return row[n];
}

static int unknown_command(const char *name) {
    const struct command *near = NULL;
    int best = 3; /* further away is no likely slip */
    for (int i = 0; i < N_COMMANDS; i++) {
        int d = distance(name, commands[i].name);
        if (d < best) {
            best = d;
            near = &commands[i];
        }
    }
    struct err err = {0};
    if (near)
        err_set(&err, E_USAGE, "unknown command '%s'; did you mean '%s'?", name, near->name);
    else
        err_set(&err, E_USAGE, "unknown command '%s'; `pumice --help` lists them", name);
    return cmd_fail(&err);
}

static int help(void) {
    puts("usage: pumice COMMAND [arguments]\n\nA language-model engine for ordinary CPUs.\n");
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %-12s%s\n", commands[i].name, commands[i].help);
    puts("\n`pumice help COMMAND` or `pumice COMMAND --help` lists a command's options.\n"
         "A model is a Hugging Face folder (config.json, safetensors), a .gguf file, or\n"
         "ORG/NAME once pulled.\n\n"
         "Exit status: 0 done, 2 wrong usage, 3 bad input file, 4 input or output failed,\n"
         "5 out of memory, 6 network, 7 locked by someone else.");
    return 0;
}

static int dispatch(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    if (argc < 2) {
        help();
        return E_USAGE;
    }
    if (!strcmp(name, "--version") || !strcmp(name, "version"))
        return printf("pumice %s\n", PUMICE_VERSION) < 0;
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || (!strcmp(name, "help") && argc == 2))
        return help();
    if (!strcmp(name, "help")) {
        const struct command *c = find(argv[2]);
        char *args[] = {argv[2], "--help", NULL};
        return c ? c->run(2, args) : unknown_command(argv[2]);
    }
    const struct command *c = find(name);
    if (!c)
        return unknown_command(name);
    struct err err = {0};
    return kern_init(&err) ? cmd_fail(&err) : c->run(argc - 1, argv + 1);
}

static void on_broken_pipe(int sig) {
    (void)sig;
    _exit(0);
}

/* A descriptor 0..2 that is closed would be given to the next file opened, and printing would write
 * into it. */
static void open_standard_files(void) {
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2)
        fd = open("/dev/null", O_RDWR);
    if (fd > 2)
        close(fd);
}

int main(int argc, char **argv) {
    open_standard_files();
    signal(SIGPIPE, on_broken_pipe);
    setlocale(LC_CTYPE, "C.UTF-8"); /* line editing counts characters; numbers keep their point */
    int rc = dispatch(argc, argv);
    if ((fflush(stdout) || ferror(stdout)) && rc == 0) {
        struct err err = {0};
        err_set(&err, E_IO, "standard output: %s", errno ? strerror(errno) : "write failed");
        rc = cmd_fail(&err);
    }
    return rc;
}
