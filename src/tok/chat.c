/* chat.c - a conversation in the form that a family of chat models was trained on. What each
 * family's public template renders, written out: no template is interpreted.  Turn markers are
 * control ids where the vocabulary has them and plain text where it has not; text of messages,
 * and plain text around it, is encoded as one stretch without parsing special tokens. */
#include "tok/chat.h"

#include <string.h>

#include "tok/impl.h"

static const char *const names[] = {"none",    "chatml", "llama2", "llama3",
                                    "mistral", "phi",    "zephyr"};

enum chat_format chat_detect(const char *t) {
    if (!t)
        return CHAT_NONE;
    if (strstr(t, "<|im_start|>"))
        return strstr(t, "<|im_sep|>") ? CHAT_NONE : CHAT_CHATML; /* Phi-4 looks alike but is not */
    if (strstr(t, "<|start_header_id|>"))
        return CHAT_LLAMA3;
    if (strstr(t, "[INST]"))
        return strstr(t, "<<SYS>>") ? CHAT_LLAMA2 : CHAT_MISTRAL;
    if (strstr(t, "Instruct:") && strstr(t, "Output:"))
        return CHAT_PHI;
    if (!strstr(t, "<|user|>") && !strstr(t, "'<|' +") && !strstr(t, "\"<|\" +"))
        return CHAT_NONE;
    if (strstr(t, "<|end|>"))
        return CHAT_PHI;
    return strstr(t, "eos_token") || strstr(t, "</s>") ? CHAT_ZEPHYR : CHAT_NONE;
}

enum chat_format chat_parse(const char *name) {
    for (int f = CHAT_NONE; f <= CHAT_ZEPHYR; f++)
        if (strcmp(name, names[f]) == 0)
            return (enum chat_format)f;
    return CHAT_NONE;
}

const char *chat_name(enum chat_format f) {
    return names[f];
}

/* The prompt being built: text gathers in `text` until a control token cuts it. */
struct prompt {
    const struct tok *t;
    struct ids *out;
    struct err *err;
    struct buf text;
    bool trim_next; /* the last control token swallows white space after it */

    bool train; /* ids that the assistant does not write become ~id; no turn is opened at the end */
    bool writing;    /* the assistant writes what comes next */
    struct ids turn; /* where in text that changes, in bytes */
};

static size_t skip_space(const char *s, size_t n) {
    size_t i = 0;
    int32_t cp;
    for (int len; (len = utf8_next(s + i, s + n, &cp)) && is_space(cp); i += (size_t)len)
        continue;
    return i;
}

static size_t drop_space(const char *s, size_t n) {
    while (n) {
        size_t i = n - 1;
        int32_t cp;
        while (i && ((unsigned char)s[i] & 0xc0) == 0x80)
            i--;
        if (utf8_next(s + i, s + n, &cp) == 0 || !is_space(cp))
            break;
        n = i;
    }
    return n;
}

/* The assistant takes or leaves the pen at this point of the conversation. */
static void writes(struct prompt *p, bool assistant) {
    if (!p->train || p->writing == assistant)
        return;
    ids_add(&p->turn, (int32_t)p->text.len);
    p->writing = assistant;
}

/* How many of id[0..n), marked or not, the text up to byte `cut` gives when encoded alone: there
 * a prompt would end. */
static int64_t ids_before(struct prompt *p, const char *text, size_t cut, const int32_t *id,
                          size_t n) {
    struct ids part = {0};
    size_t same = 0;
    int rc = tok_encode(p->t, text, cut, false, &part, p->err);
    while (same < part.n && same < n &&
           part.id[same] == (id[same] < 0 ? ~id[same] : id[same]))
        same++;
    ids_free(&part);
    return rc ? -1 : (int64_t)same;
}

/* Marks the ids from `from` on, which text[0..n) became, and forgets the turns.  skip: bytes
 * that were dropped in front of text. */
static int attribute(struct prompt *p, const char *text, size_t n, size_t skip, size_t from) {
    bool assistant = p->writing ^ (p->turn.n % 2);
    int32_t *id = p->out->id + from;
    int64_t n_id = (int64_t)(p->out->n - from), at = 0;
    for (size_t i = 0; i <= p->turn.n; i++) {
        size_t cut = i < p->turn.n ? (size_t)p->turn.id[i] : n + skip;
        cut = cut > skip ? cut - skip : 0;
        int64_t until = cut < n ? ids_before(p, text, cut, id, (size_t)n_id) : n_id;
        if (until < 0)
            return -1;
        for (; at < until; at++)
            id[at] = assistant ? id[at] : ~id[at];
        assistant = !assistant;
    }
    p->turn.n = 0;
    return 0;
}

static int flush(struct prompt *p) {
    size_t skip = p->trim_next ? skip_space(p->text.data, p->text.len) : 0, from = p->out->n;
    const char *text = buf_str(&p->text) + skip;
    size_t n = p->text.len - skip;
    int rc = n ? tok_encode(p->t, text, n, false, p->out, p->err) : 0;
    if (p->out->n == from)
        p->turn.n = 0; /* nothing to mark */
    else if (p->train && !rc)
        rc = attribute(p, text, n, skip, from);
    p->text.len = 0;
    p->trim_next = false;
    return rc;
}

static void put(struct prompt *p, const char *s) {
    buf_adds(&p->text, s);
}

static void put_trimmed(struct prompt *p, const char *s) {
    size_t n = strlen(s), skip = skip_space(s, n);
    buf_add(&p->text, s + skip, drop_space(s + skip, n - skip));
}

static int control(struct prompt *p, int32_t id) {
    const struct added *a = vocab_added(p->t, id);
    if (a && a->lstrip)
        p->text.len = drop_space(p->text.data, p->text.len);
    if (flush(p))
        return -1;
    ids_add(p->out, p->train && !p->writing ? ~id : id);
    p->trim_next = a && a->rstrip;
    return 0;
}

/* A turn marker: its token, or its text where the vocabulary has no such token. */
static int mark(struct prompt *p, const char *marker) {
    int32_t id = tok_find(p->t, marker);
    if (id >= 0)
        return control(p, id);
    put(p, marker);
    return 0;
}

static int bos(struct prompt *p) {
    return tok_bos(p->t) >= 0 ? control(p, tok_bos(p->t)) : 0;
}

/* BOS where the template writes it or the model saw it in front of each text. */
static int maybe_bos(struct prompt *p) {
    const char *s = tok_chat_template(p->t);
    return (s && strstr(s, "bos_token")) || tok_adds_bos(p->t) ? bos(p) : 0;
}

static int eos(struct prompt *p) {
    return tok_eos(p->t) >= 0 ? control(p, tok_eos(p->t)) : mark(p, "</s>");
}

static bool is_role(const struct chat_msg *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

/* ---- families ---- */

static int chatml(struct prompt *p, const struct chat_msg *m, int n) {
    if (maybe_bos(p))
        return -1;
    for (int i = 0; i < n; i++) {
        if (mark(p, "<|im_start|>"))
            return -1;
        put(p, m[i].role);
        put(p, "\n");
        writes(p, is_role(&m[i], "assistant"));
        put(p, m[i].text);
        if (mark(p, "<|im_end|>"))
            return -1;
        writes(p, false);
        put(p, "\n");
    }
    if (p->train)
        return 0;
    if (mark(p, "<|im_start|>"))
        return -1;
    put(p, "assistant\n");
    return 0;
}

static int llama3_header(struct prompt *p, const char *role) {
    if (mark(p, "<|start_header_id|>"))
        return -1;
    put(p, role);
    if (mark(p, "<|end_header_id|>"))
        return -1;
    put(p, "\n\n");
    return 0;
}

static int llama3(struct prompt *p, const struct chat_msg *m, int n) {
    if (bos(p))
        return -1;
    for (int i = 0; i < n; i++) {
        if (llama3_header(p, m[i].role))
            return -1;
        writes(p, is_role(&m[i], "assistant"));
        put_trimmed(p, m[i].text);
        if (mark(p, "<|eot_id|>"))
            return -1;
        writes(p, false);
    }
    return p->train ? 0 : llama3_header(p, "assistant");
}

/* The system message goes into the first user turn; BOS in front of each user turn. */
static int llama2(struct prompt *p, const struct chat_msg *m, int n) {
    const char *system = NULL;
    for (int i = 0; i < n; i++) {
        if (is_role(&m[i], "system")) {
            system = m[i].text;
        } else if (is_role(&m[i], "user")) {
            if (bos(p))
                return -1;
            put(p, "[INST] ");
            if (system) { /* the template trims the two together */
                put(p, "<<SYS>>\n");
                put(p, system);
                put(p, "\n<</SYS>>\n\n");
                put(p, m[i].text);
                p->text.len = drop_space(p->text.data, p->text.len);
            } else {
                put_trimmed(p, m[i].text);
            }
            put(p, " [/INST]");
            system = NULL;
        } else {
            writes(p, true);
            put(p, " ");
            put_trimmed(p, m[i].text);
            put(p, " ");
            if (eos(p))
                return -1;
            writes(p, false);
        }
    }
    return 0;
}

/* Spacing around [INST] changed from version to version: the template says, else the vocabulary,
 * in which the markers are tokens from version 3 on. */
struct mistral_style {
    bool lead, after, before; /* " [INST]", "[INST] ", " [/INST]" */
    bool answer, answer_trim; /* a space in front of the answer; white space around it dropped */
    bool eos_space;           /* "</s> " */
    bool system_last;         /* the system message stands in the last user turn, not the first */
};

static bool has(const char *s, const char *single, const char *doubled) {
    return strstr(s, single) || strstr(s, doubled);
}

static struct mistral_style mistral_style(const struct tok *t) {
    const char *s = tok_chat_template(t);
    bool v3 = tok_find(t, "[INST]") >= 0;
    if (!s || !strstr(s, "[INST]"))
        return (struct mistral_style){
            .after = true, .before = !v3, .answer = true, .system_last = v3};
    return (struct mistral_style){
        .lead = has(s, "' [INST]", "\" [INST]"),
        .after = strstr(s, "[INST] ") != NULL,
        .before = strstr(s, " [/INST]") != NULL,
        .answer = has(s, "' ' + message", "\" \" + message"),
        .answer_trim = has(s, "'content']|trim", "\"content\"]|trim") ||
                       has(s, "'content'] | trim", "\"content\"] | trim"),
        .eos_space = has(s, "eos_token + ' '", "eos_token + \" \"") || strstr(s, "eos_token+ ' '"),
        .system_last = strstr(s, "loop.last and system") != NULL,
    };
}

static int mistral_user(struct prompt *p, const struct mistral_style *st, const char *system,
                        const char *text) {
    put(p, st->lead ? " " : "");
    if (mark(p, "[INST]"))
        return -1;
    put(p, st->after ? " " : "");
    if (system) {
        put(p, system);
        put(p, "\n\n");
    }
    put(p, text);
    put(p, st->before ? " " : "");
    return mark(p, "[/INST]");
}

static int mistral_answer(struct prompt *p, const struct mistral_style *st, const char *text) {
    writes(p, true);
    put(p, st->answer ? " " : "");
    if (st->answer_trim)
        put_trimmed(p, text);
    else
        put(p, text);
    if (eos(p))
        return -1;
    writes(p, false);
    put(p, st->eos_space ? " " : "");
    return 0;
}

static int mistral(struct prompt *p, const struct chat_msg *m, int n) {
    struct mistral_style st = mistral_style(p->t);
    const char *system = NULL;
    if (bos(p))
        return -1;
    for (int i = 0; i < n; i++) {
        if (is_role(&m[i], "system")) {
            system = m[i].text;
        } else if (is_role(&m[i], "user")) {
            bool here = system && (!st.system_last || i == n - 1);
            if (mistral_user(p, &st, here ? system : NULL, m[i].text))
                return -1;
            system = here ? NULL : system;
        } else if (mistral_answer(p, &st, m[i].text)) {
            return -1;
        }
    }
    return 0;
}

/* Phi-2: plain words, no tokens. */
static int phi2(struct prompt *p, const struct chat_msg *m, int n) {
    for (int i = 0; i < n; i++) {
        bool answer = is_role(&m[i], "assistant");
        put(p, is_role(&m[i], "user") ? "Instruct: " : answer ? "Output:" : "");
        writes(p, answer);
        put(p, answer ? " " : "");
        put(p, m[i].text);
        put(p, "\n");
        writes(p, false);
    }
    put(p, p->train ? "" : "Output:");
    return 0;
}

static const char *role_marker(const struct chat_msg *m) {
    return is_role(m, "system") ? "<|system|>" : is_role(m, "user") ? "<|user|>" : "<|assistant|>";
}

/* Phi-3 breaks lines after the markers; its successors of the same shape do not. */
static const char *phi_newline(const struct tok *t) {
    const char *s = tok_chat_template(t);
    return !s || has(s, "|>\n", "|>\\n") || strstr(s, "|>' + '\\n'") ? "\n" : "";
}

static int phi(struct prompt *p, const struct chat_msg *m, int n) {
    const char *s = tok_chat_template(p->t), *newline = phi_newline(p->t);
    if ((s && strstr(s, "Instruct:")) ||
        (tok_find(p->t, "<|user|>") < 0 && tok_find(p->t, "<|end|>") < 0))
        return phi2(p, m, n);
    if (maybe_bos(p))
        return -1;
    for (int i = 0; i < n; i++) {
        if (mark(p, role_marker(&m[i])))
            return -1;
        put(p, newline);
        writes(p, is_role(&m[i], "assistant"));
        put(p, m[i].text);
        if (mark(p, "<|end|>"))
            return -1;
        writes(p, false);
        put(p, newline);
    }
    if (p->train)
        return 0;
    if (mark(p, "<|assistant|>"))
        return -1;
    put(p, newline);
    return 0;
}

static int zephyr(struct prompt *p, const struct chat_msg *m, int n) {
    if (maybe_bos(p))
        return -1;
    for (int i = 0; i < n; i++) {
        if (mark(p, role_marker(&m[i])))
            return -1;
        put(p, "\n");
        writes(p, is_role(&m[i], "assistant"));
        put(p, m[i].text);
        if (eos(p))
            return -1;
        writes(p, false);
        put(p, "\n");
    }
    if (p->train)
        return 0;
    if (mark(p, "<|assistant|>"))
        return -1;
    put(p, "\n");
    return 0;
}

static int plain(struct prompt *p, const struct chat_msg *m, int n) {
    if (tok_adds_bos(p->t) && bos(p))
        return -1;
    for (int i = 0; i < n; i++) {
        writes(p, is_role(&m[i], "assistant"));
        put(p, i ? "\n" : "");
        put(p, m[i].text);
        writes(p, false);
    }
    return 0;
}

static int encode(struct prompt *p, enum chat_format f, const struct chat_msg *msg, int n) {
    static int (*const family[])(struct prompt *, const struct chat_msg *, int) = {
        plain, chatml, llama2, llama3, mistral, phi, zephyr}; /* ORDER: enum chat_format */
    size_t was = p->out->n;
    for (int i = 0; i < n; i++)
        if (!is_role(&msg[i], "system") && !is_role(&msg[i], "user") &&
            !is_role(&msg[i], "assistant"))
            return err_set(p->err, E_FORMAT,
                           "message %d: role '%.40s' is not system, user or assistant", i,
                           msg[i].role);
    int rc = family[f](p, msg, n);
    if (rc == 0)
        rc = flush(p);
    if (rc)
        p->out->n = was;
    buf_free(&p->text);
    ids_free(&p->turn);
    return rc;
}

int chat_encode(enum chat_format f, const struct tok *t, const struct chat_msg *msg, int n,
                struct ids *out, struct err *err) {
    struct prompt p = {.t = t, .out = out, .err = err};
    return encode(&p, f, msg, n);
}

int chat_encode_answers(enum chat_format f, const struct tok *t, const struct chat_msg *msg, int n,
                        struct ids *out, struct err *err) {
    struct prompt p = {.t = t, .out = out, .err = err, .train = true};
    return encode(&p, f, msg, n);
}

int chat_stops(enum chat_format f, const struct tok *t, int32_t *out, int max) {
    static const char *const stops[][4] = {
        /* ORDER: enum chat_format */
        {NULL},
        {"<|im_end|>", "<|endoftext|>"},
        {"</s>"},
        {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"},
        {"</s>"},
        {"<|end|>", "<|endoftext|>"},
        {"</s>", "<|endoftext|>"},
    };
    int n = 0;
    for (int i = 0; i < 4 && stops[f][i] && n < max; i++) {
        int32_t id = tok_find(t, stops[f][i]);
        if (id >= 0)
            out[n++] = id;
    }
    return n;
}
