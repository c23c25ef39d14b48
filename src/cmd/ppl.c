/* ppl.c - `pumice eval ppl`: the negative log-likelihood of a text, in nats per token and bits per
 * byte.
 *
 * With --docs SEP the text is split at the separator; each document is stripped of ASCII white
 * space, empty ones are dropped, BOS goes in front where the model has one, the rest beyond the
 * context is cut off, and all tokens but the first are scored.  Documents are scored one by one:
 * nothing is carried over.
 *
 * Without --docs the text is encoded whole and cut into windows of the context's length that do not
 * overlap; each starts with BOS where the model was trained with one.  A window's first token is
 * context only.
 *
 * Bytes are those of the scored tokens' text, so that models with different vocabularies
 * compare. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "cmd/eval.h"

struct ppl {
    struct load_opts load;
    const char *text, *docs;
    int64_t limit;
    bool json, help;
};
struct score {
    struct pass pass;
    struct sequences seq;
    int64_t tokens, bytes;
    double nll; /* nats, summed over `tokens` */
};

/* Scores one sequence that fits the context.  The scored tokens are decoded to count their bytes;
 * only a text's own start drops a leading space. */
static int score_sequence(void *ud, const int32_t *ids, int n, enum sequence_kind kind,
                          struct err *err) {
    struct score *s = ud;
    struct tok_stream stream;
    struct buf text = {0};
    int rc = -1;
    tok_stream_start(&stream, s->seq.tok);
    stream.started = kind == SEQ_LATER_WINDOW;
    if (kind == SEQ_DOCUMENT && s->seq.bos < 0) /* not scored, but where the text starts */
        tok_stream_add(&stream, ids[0], &text, NULL);
    for (int i = 0; i < n; i += s->pass.chunk) {
        int len = n - i < s->pass.chunk ? n - i : s->pass.chunk;
        if (pass_run(&s->pass, i, ids + i, len, err))
            goto out;
        for (int k = i; k < i + len && k + 1 < n; k++) {
            const float *row = s->pass.logits + (size_t)(k - i) * s->pass.vocab;
            double lp = logprobs(row, s->pass.vocab, ids[k + 1], NULL, 0);
            if (isnan(lp)) {
                err_set(err, E_FORMAT, "nan_logits: the model's output is not a number");
                goto out;
            }
            s->nll -= lp;
            text.len = 0;
            tok_stream_add(&stream, ids[k + 1], &text, NULL);
            s->bytes += (int64_t)text.len;
        }
    }
    text.len = 0;
    tok_stream_end(&stream, &text);
    s->bytes += (int64_t)text.len;
    s->tokens += n - 1;
    rc = 0;
out:
    buf_free(&text);
    return rc;
}

static int report(const struct ppl *c, const struct score *s, int64_t us, struct err *err) {
    double per_token = s->nll / (double)s->tokens, per_byte = s->nll / M_LN2 / (double)s->bytes;
    double rate = us > 0 ? (double)s->tokens * 1e6 / (double)us : 0;
    if (c->json) {
        json_t *j = json_pack(
            "{s:s,s:s,s:s,s:I,s:I,s:I,s:f,s:f,s:f,s:I,s:i,s:b,s:f,s:f}", "model", c->load.model,
            "text", c->text, "split", c->docs ? "documents" : "windows", "sequences",
            (json_int_t)s->seq.n, "sequences_cut", (json_int_t)s->seq.cut, "tokens",
            (json_int_t)s->tokens, "nll_per_token", per_token, "ppl", exp(per_token),
            "bits_per_byte", per_byte, "bytes", (json_int_t)s->bytes, "context", s->seq.n_ctx,
            "bos", s->seq.bos >= 0, "seconds", (double)us / 1e6, "tokens_per_second", rate);
        if (!j)
            return err_set(err, E_USAGE, "--json: a path is not valid UTF-8");
        return cmd_print_json(j, false, err);
    }
    printf("%s: %lld %s (%lld cut to %d tokens), %lld tokens, %lld bytes\n", c->text,
           (long long)s->seq.n, c->docs ? "documents" : "windows", (long long)s->seq.cut,
           s->seq.n_ctx, (long long)s->tokens, (long long)s->bytes);
    printf("perplexity %.4f, %.5f nats per token, %.4f bits per byte\n", exp(per_token), per_token,
           per_byte);
    log_info("%.2f s, %.0f tokens/s", (double)us / 1e6, rate);
    return 0;
}

static int ppl(struct ppl *c, struct err *err) {
    struct loaded l = {0};
    struct score s = {0};
    struct file f = {0};
    char *sep = c->docs ? cmd_unescape(c->docs) : NULL;
    int rc = -1;
    if (file_open(&f, c->text, err) || cmd_load(&c->load, &l, err))
        goto out;
    s.seq = (struct sequences){.f = &f, .sep = sep, .limit = c->limit};
    if (sequences_open(&s.seq, l.m, c->load.n_ctx, err) ||
        pass_open(&s.pass, &c->load, &l, s.seq.n_ctx, c->load.n_batch, err))
        goto out;
    int64_t start = clock_us();
    if (sequences_each(&s.seq, "scoring", score_sequence, &s, err))
        goto out;
    int64_t us = clock_us() - start;
    if (s.tokens == 0) {
        err_set(err, E_FORMAT, "%s: has no text to score", c->text);
        goto out;
    }
    rc = report(c, &s, us, err);
out:
    pass_close(&s.pass);
    cmd_unload(&l);
    file_close(&f);
    free(sep);
    return rc;
}

int eval_ppl(int argc, char **argv, struct err *err) {
    struct ppl c = {0};
    int rest;
    const struct opt table[] = {
        {"text", 'f', "file", OPT_STR, &c.text, .arg = "FILE", .help = "the text to predict"},
        {"docs", 0, NULL, OPT_STR, &c.docs, .arg = "SEP",
         .help = "the file holds documents separated by SEP, such as '<|endoftext|>' or '\\n\\n' "
                 "(\\n, \\t, \\\\ "
                 "and \\xHH are understood), scored one by one; default: windows of the context's "
                 "length"},
        {"limit", 0, NULL, OPT_I64, &c.limit, 0, 9.3e18, "N",
         "only the first N documents or windows; 0 = all"},
        OPTS_LOAD(&c.load),
        OPTS_JSON(&c.json),
        OPTS_HELP(&c.help),
        OPTS_END,
    };
    const struct cmd_help h = {"eval ppl MODEL --text FILE [options]",
                               "Prints perplexity, nats per token and bits per byte of a text.",
                               &c.help};
    if (cmd_parse(&h, table, argc, argv, &rest, err) || c.help)
        return 0;
    if (cmd_model(&c.load.model, argc, argv, &rest, err) || cmd_no_more(argc, argv, rest, err))
        return -1;
    if (!c.text)
        return err_set(err, E_USAGE, "eval ppl: give --text FILE");
    return ppl(&c, err);
}
