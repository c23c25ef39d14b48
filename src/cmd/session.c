/* session.c - see session.h.
 *
 * Each turn encodes the whole conversation anew and submits it; the engine finds the part whose KV
 * it still holds.  When the conversation no longer leaves room for an answer, the oldest turns are
 * dropped, never the system message, and the user is told. */
#include "cmd/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

enum { FILE_MAX = 64 << 20 };

/* -- messages ---------------------------------------------------------------------------------- */

static void add(struct session *s, const char *role, const char *text, size_t n) {
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 16;
        s->msg = mem_resize(s->msg, (size_t)s->cap, sizeof *s->msg);
    }
    char *copy = mem_new(n + 1);
    memcpy(copy, text, n);
    s->msg[s->n++] = (struct message){role, copy};
}

void session_pop(struct session *s) {
    if (s->n)
        free(s->msg[--s->n].text);
}

void session_clear(struct session *s) {
    while (s->n)
        session_pop(s);
}

void session_free(struct session *s) {
    session_clear(s);
    for (int i = 0; i < s->n_kept; i++)
        free(s->kept[i]);
    free(s->kept);
    free(s->msg);
    free(s->system);
    prompter_close(s->prompter);
}

/* Removes the oldest message and all up to the next one of the user. */
static void drop_oldest_turn(struct session *s) {
    int n = 1;
    while (n < s->n && strcmp(s->msg[n].role, "user"))
        n++;
    for (int i = 0; i < n; i++)
        free(s->msg[i].text);
    memmove(s->msg, s->msg + n, (size_t)(s->n - n) * sizeof *s->msg);
    s->n -= n;
}

/* -- one turn ---------------------------------------------------------------------------------- */

/* Without a chat format the conversation is one text: an answer goes on where the user's text
 * ended, so that the model sees what it wrote as it wrote it and its KV is found again. */
static int encode_plain(const struct session *s, struct ids *out, struct err *err) {
    struct buf b = {0};
    if (s->system)
        buf_printf(&b, "%s\n", s->system);
    for (int i = 0; i < s->n; i++) {
        if (i > 0 && !strcmp(s->msg[i].role, "user") && b.len && b.data[b.len - 1] != '\n')
            buf_addc(&b, '\n');
        buf_adds(&b, s->msg[i].text);
    }
    int rc =
        chat_encode(CHAT_NONE, s->l->m->tok, &(struct chat_msg){"user", buf_str(&b)}, 1, out, err);
    buf_free(&b);
    return rc;
}

static int encode(const struct session *s, struct ids *out, struct err *err) {
    out->n = 0;
    if (s->plain)
        return encode_plain(s, out, err);
    json_t *m = json_array();
    if (s->system)
        json_array_append_new(m, cmd_message("system", s->system));
    for (int i = 0; i < s->n; i++)
        json_array_append_new(m, cmd_message(s->msg[i].role, s->msg[i].text));
    int rc = prompter_ids(s->prompter, &(struct ask){.messages = m}, out, err);
    json_decref(m);
    return rc;
}

/* The prompt, short enough that a quarter of the context (or --n-predict, if less) is left for the
 * answer; returns how many turns had to go, or -1. */
static int encode_to_fit(struct session *s, int n_predict, struct ids *out, struct err *err) {
    int ctx = engine_ctx(s->l->e), room = ctx / 4, dropped = 0;
    if (n_predict >= 0 && n_predict < room)
        room = n_predict;
    for (;;) {
        if (encode(s, out, err))
            return -1;
        if (s->n <= 1 || out->n + (size_t)room < (size_t)ctx)
            return dropped;
        drop_oldest_turn(s);
        dropped++;
    }
}

static void print_stats(const struct session *s, const struct answer *a) {
    const struct usage *u = &a->usage;
    fprintf(stderr,
            "%s[%d tokens, %.1f/s; prompt %d (%d reused), %.1f/s; KV %.2f/%.2f MiB; memory %.1f "
            "MiB%s]%s\n",
            s->colour ? "\033[2m" : "", u->n_out, answer_decode_rate(a), u->n_prompt, u->n_cached,
            answer_prompt_rate(a), (double)engine_kv_held(s->l->e) / (1 << 20),
            (double)engine_kv_bytes(s->l->e) / (1 << 20), (double)mem_resident() / (1 << 20),
            u->why == FIN_LENGTH      ? "; cut off"
            : u->why == FIN_CANCELLED ? "; stopped"
                                      : "",
            s->colour ? "\033[0m" : "");
}

static int print_json(struct answer *a, int dropped, struct err *err) {
    struct buf text = {0};
    buf_add(&text, a->text.data, a->text.len);
    utf8_fix(&text);
    json_t *j = json_object();
    json_object_set_new(j, "role", json_string("assistant"));
    json_object_set_new(j, "content", json_stringn(buf_str(&text), text.len));
    json_object_set_new(j, "finish_reason", json_string(finish_name(a->usage.why)));
    json_object_set_new(j, "seed", json_integer((json_int_t)a->seed));
    json_object_set_new(j, "dropped_turns", json_integer(dropped));
    json_object_set_new(j, "usage", answer_usage(a));
    json_object_set_new(j, "timings", answer_timings(a));
    buf_free(&text);
    return cmd_print_json(j, false, err);
}

static int show(const struct session *s, struct answer *a, int dropped, struct err *err) {
    if (s->json)
        return print_json(a, dropped, err);
    if (!a->text.len || a->text.data[a->text.len - 1] != '\n')
        putchar('\n');
    fflush(stdout);
    if (s->stats)
        print_stats(s, a);
    return 0;
}

/* Answers the conversation, whose last message is the user's, and adds the answer. */
static int answer(struct session *s, struct err *err) {
    struct gen g = {0};
    struct ids ids = {0};
    struct answer a = {0};
    int rc = -1, dropped;
    if (gen_resolve(&s->gen, s->l->m, &g, err))
        return -1;
    g.continues = s->plain;
    if (s->gen.seed >= 0)
        g.sampling.seed +=
            (uint64_t)s->n_regen; /* the same seed would give the same answer again */
    g.n_stop_id =
        prompter_stops(s->prompter, g.stop_id, (int)(sizeof g.stop_id / sizeof *g.stop_id));
    if ((dropped = encode_to_fit(s, g.n_predict, &ids, err)) < 0)
        goto out;
    if (dropped)
        log_warn("the context of %d tokens is full: forgot the %d oldest turn%s",
                 engine_ctx(s->l->e), dropped, dropped == 1 ? "" : "s");
    if (gen_answer(s->l, &ids, &g, !s->json, s->interrupted, &a, err))
        goto out;
    if (a.usage.why == FIN_CANCELLED)
        *s->interrupted = 0;
    bool nothing = a.usage.why == FIN_CANCELLED && !a.ids.n;
    if (!nothing)
        add(s, "assistant", buf_str(&a.text), a.text.len);
    rc = show(s, &a, dropped, err);
    if (nothing) /* stopped while the prompt was read: as if it had not been asked */
        session_pop(s);
out:
    answer_free(&a);
    ids_free(&ids);
    gen_free(&g);
    return rc;
}

int session_say(struct session *s, const char *text, struct err *err) {
    s->n_regen = 0;
    add(s, "user", text, strlen(text));
    int rc = answer(s, err);
    if (rc && s->n && !strcmp(s->msg[s->n - 1].role, "user"))
        session_pop(s);
    return rc;
}

int session_again(struct session *s, struct err *err) {
    if (s->n < 2)
        return err_set(err, E_USAGE, "there is no answer yet");
    struct message last = s->msg[--s->n];
    s->n_regen++;
    int rc = answer(s, err);
    bool user_left = s->n && !strcmp(s->msg[s->n - 1].role, "user");
    if (rc && user_left)
        s->msg[s->n++] = last; /* room: it was there before */
    else
        free(last.text);
    return rc;
}

/* -- files ------------------------------------------------------------------------------------- */

static void append_message(json_t *list, const char *role, const char *text) {
    json_array_append_new(list, cmd_message(role, text));
}

int session_save(const struct session *s, const char *path, struct err *err) {
    json_t *list = json_array();
    if (s->system)
        append_message(list, "system", s->system);
    for (int i = 0; i < s->n; i++)
        append_message(list, s->msg[i].role, s->msg[i].text);
    json_t *j = json_pack("{s:o}", "messages", list);
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    int rc = text ? file_write(path, text, strlen(text), err)
                  : err_set(err, E_MEMORY, "%s: too large", path);
    free(text);
    json_decref(j);
    return rc;
}

/* Message i of a loaded list: role and content, in the order that a conversation has. */
static int check_message(const json_t *list, size_t i, const char *path, bool system,
                         struct err *err) {
    const json_t *m = json_array_get(list, i);
    const char *role = NULL, *text = NULL, *want = (i - system) % 2 ? "assistant" : "user";
    if (i == 0 && system)
        want = "system";
    if (!json_is_object(m))
        return err_set(err, E_FORMAT, "%s: messages[%zu] is not an object", path, i);
    if (json_get_str(m, path, "role", &role, err) || json_get_str(m, path, "content", &text, err))
        return -1;
    if (!role || strcmp(role, want) || !text)
        return err_set(err, E_FORMAT, "%s: messages[%zu]: needs role '%s' and a content", path, i,
                       want);
    if (strlen(text) != json_string_length(json_object_get(m, "content")))
        return err_set(err, E_FORMAT, "%s: messages[%zu]: has a NUL character", path, i);
    return 0;
}

int session_load(struct session *s, const char *path, struct err *err) {
    json_t *j = json_file(path, FILE_MAX, err);
    if (!j)
        return -1;
    const json_t *list = json_object_get(j, "messages");
    size_t n = json_array_size(list);
    int rc = -1;
    if (!json_is_array(list)) {
        err_set(err, E_FORMAT, "%s: messages: not a list", path);
        goto out;
    }
    const char *first = json_string_value(json_object_get(json_array_get(list, 0), "role"));
    bool system = first && !strcmp(first, "system");
    for (size_t i = 0; i < n; i++)
        if (check_message(list, i, path, system, err))
            goto out;
    if ((n - system) % 2) {
        err_set(err, E_FORMAT, "%s: messages: the last one must be the assistant's", path);
        goto out;
    }
    session_clear(s);
    free(s->system);
    s->system = NULL;
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_object_get(json_array_get(list, i), "content"));
        if (i == 0 && system)
            s->system = mem_strdup(text);
        else
            add(s, (i - system) % 2 ? "assistant" : "user", text, strlen(text));
    }
    rc = 0;
out:
    json_decref(j);
    return rc;
}
