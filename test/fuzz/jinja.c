/* jinja.c - any bytes as a chat template, rendered over a fixed conversation.  Checked: one error
 * that names something, or output with a mark for each byte. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tok/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char talk[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be <b>brief</b>. \"},{\"role\":\"user\","
    "\"content\":\" H\xc3\xa9llo\\n\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
    "\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":[1,2.5,true]}}}]}],\"tools\":[{"
    "\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}],"
    "\"add_generation_prompt\":true}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static json_t *input, *ours;
    struct err err = {0};
    struct jinja_text t = {0};
    if (!input) {
        input = json_loads(talk, 0, NULL);
        ours = json_pack("{s:s}", "bos_token", "<s>");
    }
    struct jinja *j = jinja_parse("fuzz", (const char *)data, size, &err);
    struct jinja_vars v = {.input = input, .ours = ours, .now = 1763720000};
    int rc = j ? jinja_render(j, &v, &t, &err) : -1;
    if (rc ? !err.msg[0] || t.text.len : t.text.len != t.mark.len || err.code)
        abort();
    jinja_text_free(&t);
    jinja_free(j);
    return 0;
}
