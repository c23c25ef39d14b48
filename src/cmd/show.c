/* show.c - what a model is, without loading its weights: `pumice show MODEL`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "model/kv.h"

static json_t *weights_json(const struct model_info *in) {
    json_t *types = json_object();
    for (int t = 0; t < DT_COUNT; t++)
        if (in->type_bytes[t])
            json_object_set_new(types, dtype_info((enum dtype)t)->name,
                                json_integer((json_int_t)in->type_bytes[t]));
    double per = in->params > 0 ? (double)in->bytes / (double)in->params : 0;
    return json_pack("{s:I,s:I,s:I,s:i,s:f,s:f,s:o}", "parameters", (json_int_t)in->params,
                     "parameters_of_shape", (json_int_t)cfg_params(&in->cfg), "bytes",
                     (json_int_t)in->bytes, "tensors", in->n_tensor, "bytes_per_weight", per,
                     "bits_per_weight", per * 8, "bytes_by_type", types);
}

static json_t *shape_json(const struct cfg *c) {
    static const char *const act[] = {"silu", "gelu_tanh", "gelu",
                                      "relu"};                       /* ORDER enum act_kind */
    static const char *const rope[] = {"plain", "linear", "llama3"}; /* ORDER enum rope_scaling */
    json_t *j =
        json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i}", "vocabulary", c->vocab, "dim", c->dim,
                  "layers", c->n_layer, "heads", c->n_head, "kv_heads", c->n_kv_head, "head_dim",
                  c->head_dim, "ffn", c->ffn, "context", c->max_ctx);
    json_object_set_new(j, "norm", json_string(c->norm == NORM_RMS ? "rms" : "layer"));
    json_object_set_new(j, "activation", json_string(act[c->act]));
    json_object_set_new(j, "gated", json_boolean(c->gated));
    json_object_set_new(j, "parallel", json_boolean(c->parallel));
    json_object_set_new(j, "tied_head", json_boolean(c->tied));
    json_object_set_new(j, "positions",
                        json_string(c->learned_pos ? "learned"
                                    : c->rope_dim  ? "rope"
                                                   : "none"));
    if (c->rope_dim) {
        json_object_set_new(j, "rope_dim", json_integer(c->rope_dim));
        json_object_set_new(j, "rope_theta", json_real(c->rope_theta));
        json_object_set_new(j, "rope_scaling", json_string(rope[c->rope_scaling]));
    }
    json_object_set_new(j, "window", c->window ? json_integer(c->window) : json_null());
    return j;
}

static json_t *tokenizer_json(const struct model_info *in) {
    const struct tok *t = in->tok;
    if (!t)
        return json_null();
    json_t *j = json_object();
    json_object_set_new(j, "kind", json_string(tok_kind(t)));
    json_object_set_new(j, "size", json_integer(tok_size(t)));
    json_object_set_new(j, "bos", tok_bos(t) >= 0 ? json_integer(tok_bos(t)) : json_null());
    json_object_set_new(j, "eos", tok_eos(t) >= 0 ? json_integer(tok_eos(t)) : json_null());
    json_object_set_new(j, "adds_bos", json_boolean(tok_adds_bos(t)));
    json_object_set_new(j, "chat_template",
                        json_string(chat_name(chat_detect(tok_chat_template(t)))));
    return j;
}

static int print_json(const char *path, const struct model_info *in, struct err *err) {
    const struct cfg *c = &in->cfg;
    json_t *eos = json_array();
    for (int i = 0; i < c->n_eos; i++)
        json_array_append_new(eos, json_integer(c->eos[i]));
    json_t *j = json_object();
    json_object_set_new(j, "model", json_string(path));
    json_object_set_new(j, "architecture", json_string(c->arch));
    json_object_set_new(j, "weights", weights_json(in));
    json_object_set_new(j, "shape", shape_json(c));
    json_object_set_new(j, "kv_bytes_per_token",
                        json_pack("{s:I,s:I,s:I,s:I}", "f32", (json_int_t)kv_token_bytes(c, DT_F32),
                                  "f16", (json_int_t)kv_token_bytes(c, DT_F16), "bf16",
                                  (json_int_t)kv_token_bytes(c, DT_BF16), "int8",
                                  (json_int_t)kv_token_bytes(c, DT_INT8)));
    json_object_set_new(j, "bos", c->bos >= 0 ? json_integer(c->bos) : json_null());
    json_object_set_new(j, "eos", eos);
    json_object_set_new(j, "tokenizer", tokenizer_json(in));
    return cmd_print_json(j, true, err);
}

/* "1.24 M", with the exact number where it is short. */
static void print_count(const char *label, int64_t n) {
    double v = (double)n;
    if (n < 1000)
        printf("%-18s %lld\n", label, (long long)n);
    else
        printf("%-18s %.2f %s (%lld)\n", label,
               v < 1e6   ? v / 1e3
               : v < 1e9 ? v / 1e6
                         : v / 1e9,
               v < 1e6   ? "thousand"
               : v < 1e9 ? "million"
                         : "billion",
               (long long)n);
}

static void print_text(const char *path, const struct model_info *in) {
    const struct cfg *c = &in->cfg;
    double per = in->params > 0 ? (double)in->bytes / (double)in->params : 0;
    printf("%-18s %s\n%-18s %s\n", "model", path, "architecture", c->arch);
    print_count("parameters", in->params);
    printf("%-18s %.2f MiB in %d tensors:", "weights", (double)in->bytes / (1 << 20), in->n_tensor);
    for (int t = 0; t < DT_COUNT; t++)
        if (in->type_bytes[t])
            printf(" %s %.2f MiB", dtype_info((enum dtype)t)->name,
                   (double)in->type_bytes[t] / (1 << 20));
    printf("\n%-18s %.3f bytes, %.2f bits\n", "per weight", per, per * 8);
    printf("%-18s %d layers, dim %d, ffn %d, %d heads of %d (%d for keys and values)\n", "shape",
           c->n_layer, c->dim, c->ffn, c->n_head, c->head_dim, c->n_kv_head);
    printf("%-18s %d tokens", "context", c->max_ctx);
    if (c->window)
        printf(", sliding window of %d", c->window);
    printf("\n%-18s %zu bytes in f32, %zu in f16 and bf16, %zu in int8\n", "KV per token",
           kv_token_bytes(c, DT_F32), kv_token_bytes(c, DT_BF16), kv_token_bytes(c, DT_INT8));
    printf("%-18s %d%s\n", "vocabulary", c->vocab, c->tied ? ", head tied to the embedding" : "");
    printf("%-18s bos ", "special ids");
    if (c->bos >= 0)
        printf("%d, eos", c->bos);
    else
        printf("none, eos");
    for (int i = 0; i < c->n_eos; i++)
        printf(" %d", c->eos[i]);
    puts(c->n_eos ? "" : " none");
    if (!in->tok) {
        printf("%-18s none\n", "tokenizer");
        return;
    }
    printf("%-18s %s, %d entries, %s\n", "tokenizer", tok_kind(in->tok), tok_size(in->tok),
           tok_adds_bos(in->tok) ? "texts start with bos" : "texts start without bos");
    printf("%-18s %s\n", "chat template", chat_name(chat_detect(tok_chat_template(in->tok))));
}

int cmd_show(int argc, char **argv) {
    struct err err = {0};
    const char *model = NULL;
    bool json = false, help = false;
    struct model_info info = {0};
    int rest;
    const struct opt table[] = {OPTS_MODEL(&model), OPTS_JSON(&json), OPTS_HELP(&help), OPTS_END};
    const struct cmd_help h = {
        "show MODEL [--json]",
        "Prints architecture, size, bytes per weight, KV bytes per token and tokenizer.", &help};
    if (cmd_parse(&h, table, argc, argv, &rest, &err) || help ||
        cmd_model(&model, argc, argv, &rest, &err) || cmd_no_more(argc, argv, rest, &err) ||
        model_peek(model, &info, &err))
        goto out;
    if (json)
        print_json(model, &info, &err);
    else
        print_text(model, &info);
out:
    model_info_free(&info);
    return cmd_fail(&err);
}
