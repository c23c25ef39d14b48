/* conv.c - a request's messages to the ids of a prompt, by the model's template (tok/prompt.h). */
#include <string.h>

#include "serve/impl.h"

enum { MOST_MESSAGES = 4096 };

/* "messages[2].role: reason" -> the parameter in front of the colon, if there is one. */
static int refuse(const struct err *e, struct fault *f) {
    char param[64] = "messages";
    size_t n = strcspn(e->msg, ": ");
    if (e->msg[n] == ':' && n && n < sizeof param &&
        strspn(e->msg, "abcdefghijklmnopqrstuvwxyz_[].0123456789") >= n)
        snprintf(param, sizeof param, "%.*s", (int)n, e->msg);
    return fault_set(f, 400, e->code == E_USAGE ? "invalid_messages" : "template_error", param,
                     "%s", e->msg);
}

static bool speaks(const json_t *m) {
    const char *role = json_string_value(json_object_get(m, "role"));
    const json_t *content = json_object_get(m, "content");
    return role && !strcmp(role, "assistant") &&
           (json_string_length(content) || json_array_size(content));
}

int conv_ask(const struct server *s, const struct params *p, struct ask *ask, bool *continues,
             struct fault *f) {
    size_t n = json_array_size(p->messages), i;
    json_t *m;
    if (n < 1 || n > MOST_MESSAGES)
        return fault_set(f, 400, "invalid_messages", "messages",
                         "messages must hold 1 to %d messages", MOST_MESSAGES);
    json_array_foreach((json_t *)p->messages, i, m) {
        const json_t *text = json_object_get(m, "content");
        if (check_length(s, json_string_value(text), json_string_length(text), f))
            return -1;
    }
    bool last = speaks(json_array_get(p->messages, n - 1));
    bool go_on = p->continue_given ? p->continue_final
                                   : last && !(p->generation_given && p->generation_prompt);
    *ask = (struct ask){.messages = p->messages,
                        .tools = json_array_size(p->tools) ? p->tools : NULL,
                        .kwargs = p->template_kwargs,
                        .no_opening = !p->generation_prompt || go_on,
                        .continue_final = go_on};
    const char *choice = json_string_value(p->tool_choice);
    if (choice && !strcmp(choice, "none"))
        ask->tools = NULL;
    bool plain = !prompter_has_template(s->prompter) && !prompter_family(s->prompter);
    *continues = go_on || plain;
    return 0;
}

int conv_encode(const struct server *s, const struct params *p, struct ids *out, bool *continues,
                struct fault *f) {
    struct ask ask;
    struct err err = {0};
    if (conv_ask(s, p, &ask, continues, f))
        return -1;
    return prompter_ids(s->prompter, &ask, out, &err) ? refuse(&err, f) : 0;
}
