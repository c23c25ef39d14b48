/* conv.c - a request's messages to the ids of a prompt. */
#include <string.h>

#include "base/mem.h"
#include "serve/impl.h"

enum { MOST_MESSAGES = 4096 };

/* Appends a message's content: a string, null, or parts of text. */
static int content(const json_t *v, const char *where, struct buf *out, struct fault *f) {
    size_t i;
    json_t *part;
    if (!v || json_is_null(v))
        return 0;
    if (json_is_string(v)) {
        buf_add(out, json_string_value(v), json_string_length(v));
        return 0;
    }
    if (!json_is_array(v))
        return fault_set(f, 400, "invalid_type", where, "%s must be a string or an array", where);
    json_array_foreach((json_t *)v, i, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (!type || strcmp(type, "text") || !json_is_string(text))
            return fault_set(f, 400, "invalid_content", where,
                             "%s: part %zu is not {type: text, text: a string}", where, i);
        buf_adds(out, out->len ? "\n" : "");
        buf_add(out, json_string_value(text), json_string_length(text));
    }
    return 0;
}

/* Fills msg[i]; its text is owned by the caller. */
static int read_message(const json_t *m, size_t i, struct chat_msg *msg, struct fault *f) {
    char where[48];
    struct buf text = {0};
    const char *role = json_string_value(json_object_get(m, "role"));
    snprintf(where, sizeof where, "messages[%zu].role", i);
    if (!role)
        return fault_set(f, 400, "invalid_type", where, "%s must be a string", where);
    if (!strcmp(role, "developer"))
        role = "system";
    if (strcmp(role, "system") && strcmp(role, "user") && strcmp(role, "assistant"))
        return fault_set(f, 400, "invalid_role", where, "%s: '%.40s' is not known to this model",
                         where, role);
    snprintf(where, sizeof where, "messages[%zu].content", i);
    int rc = content(json_object_get(m, "content"), where, &text, f);
    buf_str(&text);
    *msg = (struct chat_msg){role, text.data};
    return rc;
}

static int encode(const struct server *s, const struct chat_msg *msg, int n, bool continues,
                  struct ids *out, struct fault *f) {
    struct err err = {0};
    if (chat_encode(s->family, s->m->tok, msg, n - continues, out, &err))
        return fault_set(f, 400, "invalid_messages", "messages", "%s", err.msg);
    return continues ? encode_text(s, msg[n - 1].text, strlen(msg[n - 1].text), false, out, f) : 0;
}

int conv_encode(const struct server *s, const struct params *p, struct ids *out, bool *continues,
                struct fault *f) {
    size_t n = json_array_size(p->messages), i = 0;
    if (!p->messages || n < 1 || n > MOST_MESSAGES)
        return fault_set(f, 400, "invalid_messages", "messages",
                         "messages must hold 1 to %d messages", MOST_MESSAGES);
    struct chat_msg *msg = mem_array(n, sizeof *msg);
    struct ids probe = {0};
    int rc = 0;
    for (; i < n && !rc; i++) {
        rc = read_message(json_array_get(p->messages, i), i, &msg[i], f);
        if (!rc && strlen(msg[i].text) > (size_t)s->n_ctx)
            rc = encode_text(s, msg[i].text, strlen(msg[i].text), false, &probe, f);
        probe.n = 0;
    }
    bool last = !rc && !strcmp(msg[n - 1].role, "assistant");
    *continues = last && (p->continue_given ? p->continue_final
                                            : !(p->generation_given && p->generation_prompt));
    if (!rc && p->continue_given && p->continue_final && !last)
        rc = fault_set(f, 400, "invalid_messages", "continue_final_message",
                       "the last message is not the assistant's");
    if (!rc)
        rc = encode(s, msg, (int)n, *continues, out, f);
    *continues = *continues || s->family == CHAT_NONE;
    while (i--)
        free((void *)msg[i].text);
    free(msg);
    ids_free(&probe);
    return rc;
}
