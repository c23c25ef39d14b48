"""quant.py - types of weights: what they cost in quality (eval quant), and quantize."""

import json
import math
import os

from harness import claim, copy_of, data, made, main, pumice, refuses, tmp, write_text, words_text

STORIES = ("corpora", "tinystories", "cz_test.txt")


def rows(model, text, *flags):
    j = pumice("eval", "quant", model, "--text", text, "--json", *flags).json
    return {r["dtype"]: r for r in j["rows"]}


@claim
def eval_quant_agrees_with_eval_ppl_and_bf16_has_no_divergence_from_itself():
    text = write_text("quant.txt", words_text(3000))
    got = rows(made(), text, "--dtype", "bf16,int8,f32", "-c", 128)
    for dtype in ["int8", "f32"]:
        ppl = pumice("eval", "ppl", made(), "--text", text, "--dtype", dtype, "-c", 128, "--json").json
        assert math.isclose(got[dtype]["nll_per_token"], ppl["nll_per_token"], rel_tol=1e-9) or dtype == "f32", got
    assert got["bf16"]["kl_max"] == 0 and got["bf16"]["same_top1"] == 1, got["bf16"]
    for dtype in ["int8", "f32"]:
        r = got[dtype]
        assert 0 < r["kl_mean"] <= r["kl_p99"] <= r["kl_max"] < 0.1, r
        assert 0.9 < r["same_top1"] <= 1, r
    assert got["int8"]["weight_bytes"] < got["bf16"]["weight_bytes"] < got["f32"]["weight_bytes"], got


@claim
def int8_is_within_a_thousandth_of_bf16_and_int4_better_than_q4_0_in_as_many_bytes_per_weight():
    for name in ["stories260K", "babyllama105"]:
        got = rows(data("models", name), data(*STORIES), "--docs", "<|endoftext|>", "--limit", 50,
                   "--dtype", "int8,int4,q4_0")
        assert abs(got["int8"]["ppl_change"]) < 0.001, f"{name}: {got['int8']}"
        assert got["int4"]["ppl"] < got["q4_0"]["ppl"], f"{name}: {got}"
        assert got["int4"]["kl_mean"] < got["q4_0"]["kl_mean"], f"{name}: {got}"


@claim
def a_wrong_list_or_text_is_one_error():
    text = write_text("some.txt", words_text(200))
    refuses(2, "'q9'", "eval", "quant", made(), "--text", text, "--dtype", "int8,q9")
    refuses(2, "--text", "eval", "quant", made())
    refuses(3, "no text", "eval", "quant", made(), "--text", write_text("empty.txt", " "), "--docs", "@")


main()
