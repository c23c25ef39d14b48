/* run.c - one prompt, one answer: `pumice run MODEL [PROMPT]`.
 *
 * Plain completion by default (BOS where the model was trained with one); --chat wraps the prompt
 * in the model's chat format.  The answer goes to stdout as it is generated, figures to stderr;
 * --json prints one object at the end instead.  The object's keys are a contract
 * (docs/commands.md). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "cmd/prompt.h"

struct run_cmd {
    struct load_opts load;
    struct gen_opts gen;
    struct chat_opts chat;
    const char *prompt, *file, *ids;
    int n_logprobs;
    bool as_chat, special, json, help;
};

/* Where the prompt comes from, in this order: --ids (elsewhere), -p, positional words, -f, standard
 * input. */
static int read_prompt(const struct run_cmd *c, int argc, char **argv, int rest, struct buf *out,
                       struct err *err) {
    int given = (c->prompt != NULL) + (rest < argc) + (c->file != NULL) + (c->ids != NULL);
    if (given > 1)
        return err_set(err, E_USAGE,
                       "more than one prompt: give one of --prompt, --file, --ids, or words");
    if (c->ids)
        return 0;
    if (c->prompt)
        buf_adds(out, c->prompt);
    for (int i = rest; i < argc; i++)
        buf_printf(out, "%s%s", i > rest ? " " : "", argv[i]);
    if (c->prompt || rest < argc) {
        if (utf8_fix(out))
            log_warn("the prompt is not valid UTF-8: the wrong parts are replaced by U+FFFD");
        return 0;
    }
    if (!c->file && cmd_is_terminal(STDIN_FILENO))
        return err_set(err, E_USAGE,
                       "no prompt: give --prompt TEXT, --file FILE, or text on standard input");
    if (cmd_read(c->file, true, out, err))
        return -1;
    if (out->len && out->data[out->len - 1] == '\n')
        out->len--; /* the newline that editors and echo add is not part of the prompt */
    return 0;
}

static int encode_chat(const struct run_cmd *c, const struct model *m, const char *text,
                       struct gen *g, struct ids *out, struct err *err) {
    struct prompter *p = cmd_prompter(&c->chat, m->tok, err);
    if (!p)
        return -1;
    g->continues = !prompter_has_template(p) && !prompter_family(p);
    if (g->continues && !prompter_problem(p))
        log_warn("%s: no known chat template: the prompt is continued as plain text", m->path);
    json_t *messages = json_array();
    if (c->chat.system)
        json_array_append_new(messages, cmd_message("system", c->chat.system));
    json_array_append_new(messages, cmd_message("user", text));
    g->n_stop_id = prompter_stops(p, g->stop_id, (int)(sizeof g->stop_id / sizeof *g->stop_id));
    int rc = prompter_ids(p, &(struct ask){.messages = messages}, out, err);
    json_decref(messages);
    prompter_close(p);
    return rc;
}

/* The prompt's token ids; g receives the ids that end a chat answer. */
static int encode_prompt(const struct run_cmd *c, const struct model *m, struct buf *text,
                         struct gen *g, struct ids *out, struct err *err) {
    g->continues = true;
    if (c->ids)
        return cmd_ids("--ids", c->ids, E_USAGE, out, err);
    if (!m->tok)
        return err_set(err, E_USAGE, "%s: has no tokenizer: give --ids", m->path);
    if (c->as_chat) {
        return encode_chat(c, m, buf_str(text), g, out, err);
    }
    if (tok_adds_bos(m->tok) && tok_bos(m->tok) >= 0)
        ids_add(out, tok_bos(m->tok));
    return tok_encode(m->tok, buf_str(text), text->len, c->special, out, err);
}

static int print_answer_json(const struct run_cmd *c, const struct answer *a, struct err *err) {
    json_t *ids = json_array();
    for (size_t i = 0; i < a->ids.n; i++)
        json_array_append_new(ids, json_integer(a->ids.id[i]));
    struct buf text = {0};
    buf_add(&text, a->text.data, a->text.len);
    utf8_fix(&text);
    json_t *j = json_object();
    json_object_set_new(j, "model", json_string(c->load.model));
    json_object_set_new(j, "ids", ids);
    json_object_set_new(j, "text", json_stringn(buf_str(&text), text.len));
    json_object_set_new(j, "finish_reason", json_string(finish_name(a->usage.why)));
    json_object_set_new(j, "seed", json_integer((json_int_t)a->seed));
    json_object_set_new(j, "usage", answer_usage(a));
    json_object_set_new(j, "timings", answer_timings(a));
    if (a->logprobs)
        json_object_set(j, "logprobs", a->logprobs);
    buf_free(&text);
    return cmd_print_json(j, false, err);
}

static void print_timings(const struct answer *a) {
    const struct usage *u = &a->usage;
    log_info("prompt %d tokens in %.3f s (%.1f/s), answer %d tokens in %.3f s (%.1f/s), peak "
             "memory %.1f MiB",
             u->n_prompt, (double)u->prompt_us / 1e6, answer_prompt_rate(a), u->n_out,
             (double)u->decode_us / 1e6, answer_decode_rate(a), (double)peak_memory() / (1 << 20));
}

static int run(struct run_cmd *c, int argc, char **argv, int rest, struct err *err) {
    struct loaded l = {0};
    struct gen g = {0};
    struct buf text = {0};
    struct ids ids = {0};
    struct answer a = {0};
    int rc = -1;
    if (c->n_logprobs && !c->json)
        return err_set(err, E_USAGE, "--logprobs needs --json");
    if ((c->chat.format || c->chat.file || c->chat.system) && !c->as_chat)
        return err_set(err, E_USAGE, "--system-prompt and --chat-template need --chat");
    if (cmd_model(&c->load.model, argc, argv, &rest, err) ||
        read_prompt(c, argc, argv, rest, &text, err) || cmd_load(&c->load, &l, err) ||
        gen_resolve(&c->gen, l.m, &g, err) || encode_prompt(c, l.m, &text, &g, &ids, err) ||
        cmd_engine(&c->load, &l, err))
        goto out;
    g.n_logprobs = c->n_logprobs;
    if (gen_answer(&l, &ids, &g, !c->json, NULL, &a, err))
        goto out;
    if (c->json) {
        if (print_answer_json(c, &a, err))
            goto out;
    } else {
        if (!l.m->tok) { /* nothing to decode with */
            for (size_t i = 0; i < a.ids.n; i++)
                printf("%s%d", i ? " " : "", a.ids.id[i]);
            putchar('\n');
        } else if (!a.text.len || a.text.data[a.text.len - 1] != '\n') {
            putchar('\n');
        }
        fflush(stdout);
        print_timings(&a);
    }
    rc = 0;
out:
    answer_free(&a);
    ids_free(&ids);
    buf_free(&text);
    gen_free(&g);
    cmd_unload(&l);
    return rc;
}

int cmd_run(int argc, char **argv) {
    struct run_cmd c = {.gen = gen_opts_unset()};
    struct err err = {0};
    int rest;
    const struct opt table[] = {
        OPTS_HEAD("Prompt"),
        {"prompt", 'p', NULL, OPT_STR, &c.prompt, .arg = "TEXT", .help = "the prompt"},
        {"file", 'f', NULL, OPT_STR, &c.file, .arg = "FILE",
         .help = "prompt from a file, - for standard input; one final newline is dropped"},
        {"ids", 0, NULL, OPT_STR, &c.ids, .arg = "1,2,3",
         .help = "prompt as token ids; nothing is added"},
        {"chat", 0, NULL, OPT_FLAG, &c.as_chat,
         .help = "the prompt is a user's message to a chat model"},
        OPTS_CHAT(&c.chat),
        {"special", 0, NULL, OPT_FLAG, &c.special,
         .help = "special tokens spelled out in the prompt count"},
        OPTS_GEN(&c.gen),
        {"logprobs", 0, NULL, OPT_INT, &c.n_logprobs, 0, 20, "N",
         "with --json: log-probabilities, and the N best alternatives of each token"},
        OPTS_LOAD(&c.load),
        OPTS_JSON(&c.json),
        OPTS_HELP(&c.help),
        OPTS_END,
    };
    const struct cmd_help h = {"run MODEL [PROMPT] [options]",
                               "Continues a prompt, or with --chat answers it.", &c.help};
    if (!cmd_parse(&h, table, argc, argv, &rest, &err) && !c.help)
        run(&c, argc, argv, rest, &err);
    return cmd_fail(&err);
}
