/* render.c - for jinja.py: reads {"cases": [{"template", "input", "ours", "now"}, ...]} from
 * standard input and writes one line of JSON a case: {"text", "marks"} (marks: "0" or "1" for each
 * byte) or {"error", "code"}. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "tok/jinja.h"

static json_t *render(const json_t *c) {
    struct err err = {0};
    struct jinja_text t = {0};
    const json_t *text = json_object_get(c, "template");
    struct jinja *j =
        jinja_parse("template", json_string_value(text), json_string_length(text), &err);
    struct jinja_vars v = {.input = json_object_get(c, "input"),
                           .ours = json_object_get(c, "ours"),
                           .now = (time_t)json_integer_value(json_object_get(c, "now"))};
    json_t *out;
    if (!j || jinja_render(j, &v, &t, &err)) {
        out = json_pack("{s:s, s:i}", "error", err.msg, "code", (int)err.code);
    } else {
        for (size_t i = 0; i < t.mark.len; i++)
            t.mark.data[i] = (char)(t.mark.data[i] + '0');
        out = json_pack("{s:o, s:o}", "text", json_stringn(buf_str(&t.text), t.text.len), "marks",
                        json_stringn(buf_str(&t.mark), t.mark.len));
    }
    jinja_text_free(&t);
    jinja_free(j);
    return out;
}

int main(void) {
    struct err err = {0};
    struct buf b = {0};
    char part[65536];
    size_t i, n;
    json_t *c;
    while ((n = fread(part, 1, sizeof part, stdin)))
        buf_add(&b, part, n);
    json_t *all = json_parse("cases", buf_str(&b), b.len, &err);
    buf_free(&b);
    if (!all) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        json_t *out = render(c);
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(out);
    }
    json_decref(all);
    return 0;
}
