/* prompt.c - prompts of conversations, and the command that prints them: `pumice apply-template
 * MODEL < request.json`.  Needs a tokenizer only. */
#include "cmd/prompt.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

enum { TEMPLATE_MAX = 1 << 20 };

struct prompter *cmd_prompter(const struct chat_opts *o, const struct tok *t, struct err *err) {
    struct prompter_source s = {.family = o->format};
    struct buf b = {0};
    struct prompter *p = NULL;
    enum chat_format family;
    bool inlined = o->format && (strstr(o->format, "{{") || strstr(o->format, "{%"));
    if (!inlined && cmd_format(o->format, &family, err))
        return NULL;
    if (o->format && o->file) {
        err_set(err, E_USAGE, "--chat-template and --chat-template-file exclude each other");
        return NULL;
    }
    if (inlined)
        s = (struct prompter_source){.path = "--chat-template", .template_text = o->format};
    if (o->file && file_read(o->file, TEMPLATE_MAX, &b, err))
        goto out;
    if (o->file)
        s = (struct prompter_source){.path = o->file, .template_text = buf_str(&b)};
    p = prompter_open(t, &s, err);
    if (p && prompter_problem(p))
        log_warn("%s", prompter_problem(p));
out:
    buf_free(&b);
    return p;
}

json_t *cmd_message(const char *role, const char *text) {
    struct buf b = {0};
    buf_adds(&b, text);
    utf8_fix(&b);
    json_t *m = json_pack("{s:s,s:s}", "role", role, "content", buf_str(&b));
    buf_free(&b);
    return m;
}

/* -- apply-template ---------------------------------------------------------------------------- */

/* What the request says, as the server's /apply-template reads it. */
static int read_ask(const json_t *j, const char *path, struct ask *ask, struct err *err) {
    bool opening = true, inside = false;
    if (json_get_bool(j, path, "add_generation_prompt", &opening, err) ||
        json_get_bool(j, path, "continue_final_message", &inside, err))
        return -1;
    *ask = (struct ask){.messages = json_object_get(j, "messages"),
                        .tools = json_object_get(j, "tools"),
                        .kwargs = json_object_get(j, "chat_template_kwargs"),
                        .no_opening = !opening,
                        .continue_final = inside};
    return 0;
}

static int print_ids(const struct ids *ids) {
    for (size_t i = 0; i < ids->n; i++)
        printf("%s%d", i ? " " : "", ids->id[i]);
    putchar('\n');
    return 0;
}

static int apply(const struct prompter *p, const struct tok *t, const struct ask *ask, bool as_ids,
                 struct err *err) {
    struct ids ids = {0};
    struct buf text = {0};
    int rc = -1;
    if (!as_ids && prompter_has_template(p)) {
        rc = prompter_text(p, ask, &text, err);
    } else if (prompter_ids(p, ask, &ids, err) == 0) {
        rc = as_ids ? print_ids(&ids) : tok_decode(t, ids.id, ids.n, true, &text, err);
    }
    if (rc == 0)
        fwrite(text.data, 1, text.len, stdout);
    buf_free(&text);
    ids_free(&ids);
    return rc;
}

int cmd_apply_template(int argc, char **argv) {
    struct err err = {0};
    const char *model = NULL, *file = NULL;
    bool ids = false, help = false;
    struct chat_opts chat = {0};
    struct tok *t = NULL;
    struct prompter *p = NULL;
    struct buf in = {0};
    json_t *j = NULL;
    struct ask ask;
    int rest;
    const struct opt table[] = {
        OPTS_MODEL(&model),
        {"file", 'f', NULL, OPT_STR, &file, .arg = "FILE", .help = "the request, as JSON"},
        {"ids", 0, NULL, OPT_FLAG, &ids, .help = "print token ids, not text"},
        OPTS_TEMPLATE(&chat),
        OPTS_HELP(&help),
        OPTS_END,
    };
    const struct cmd_help h = {
        "apply-template MODEL [options] < REQUEST",
        "Prints the prompt that a chat request gives: {\"messages\": [...], \"tools\": [...],\n"
        "\"chat_template_kwargs\": {...}, \"add_generation_prompt\": true,\n"
        "\"continue_final_message\": false}, all but messages optional.",
        &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help ||
        cmd_model(&model, argc, argv, &rest, &err) || cmd_no_more(argc, argv, rest, &err))
        goto out;
    const char *name = file ? file : "standard input";
    if (!(t = cmd_open_tok(model, &err)) || !(p = cmd_prompter(&chat, t, &err)) ||
        cmd_read(file, false, &in, &err) || !(j = json_parse(name, buf_str(&in), in.len, &err)) ||
        read_ask(j, name, &ask, &err))
        goto out;
    apply(p, t, &ask, ids, &err);
out:
    json_decref(j);
    buf_free(&in);
    prompter_close(p);
    tok_free(t);
    return cmd_fail(&err);
}
