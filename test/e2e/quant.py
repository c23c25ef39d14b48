"""quant.py - types of weights: what they cost in quality (eval quant), and quantize."""

import math
import os

from harness import claim, data, made, main, pumice, refuses, tmp, words_text, write_text

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


def logits(model, *flags):
    path = tmp("quant.npy")
    pumice("eval", "logits", model, "--ids", "1,5,9,200,33,4", "--out", path, *flags)
    with open(path, "rb") as f:
        return f.read()


@claim
def a_written_type_gives_the_bits_of_the_same_type_converted_in_memory():
    source = data("gguf", "llama-k256.BF16.gguf")
    for dtype in ["q8_0", "f16", "bf16", "f32", "q4_k", "q5_k", "q6_k"]:
        out = tmp(f"made.{dtype}.gguf")
        r = pumice("quantize", source, out, dtype.upper(), "--json").json
        size = os.path.getsize(out)
        assert r["to_bytes"] <= size < r["to_bytes"] + 100000, (r, size)
        kv = ["--kv-dtype", "f32"]
        assert logits(out, *kv) == logits(source, "--dtype", dtype, *kv), dtype
        assert pumice("tokenize", out, "-p", "Once upon a time").raw == pumice("tokenize", source, "-p",
                                                                               "Once upon a time").raw
        show = pumice("show", out, "--json").json["weights"]["bytes_by_type"]
        assert set(show) == {"f32", dtype}, show


@claim
def q4_0_keeps_the_head_at_eight_bits_and_vectors_are_f32():
    out = tmp("made.q4_0.gguf")
    pumice("quantize", data("gguf", "llama-k256.BF16.gguf"), out, "q4_0")
    types = pumice("show", out, "--json").json["weights"]["bytes_by_type"]
    assert set(types) == {"f32", "q8_0", "q4_0"}, types
    assert len(logits(out)) > 1000


@claim
def a_dry_run_tells_the_sizes_and_writes_nothing():
    source, out = data("gguf", "llama-k256.BF16.gguf"), tmp("dry.gguf")
    dry = pumice("quantize", source, out, "--type", "q8_0", "--dry-run", "--json").json
    assert not os.path.exists(out) and dry["dry_run"], dry
    assert pumice("quantize", source, out, "q8_0", "--json").json["to_bytes"] == dry["to_bytes"]


@claim
def what_cannot_be_quantised_is_refused_by_name():
    source = data("gguf", "llama-k256.BF16.gguf")
    refuses(2, "unknown type 'q9'", "quantize", source, tmp("no.gguf"), "q9")
    refuses(2, "unknown type 'q6_k' of a folder", "quantize", source, tmp("no-folder"), "q6_k")
    refuses(2, "unknown type 'int8' of a GGUF file", "quantize", source, tmp("no.gguf"), "int8")
    refuses(2, "give IN, OUT", "quantize", source)
    refuses(2, "are one", "quantize", source, source, "q8_0", "--force")
    refuses(2, "exists", "quantize", source, write_text("there.gguf", "x"), "q8_0")
    refuses(3, "short.gguf", "quantize", write_text("short.gguf", "GGUF"), tmp("no.gguf"), "q8_0")
    refuses(4, "no-such-folder", "quantize", source, tmp("no-such-folder/x.gguf"), "q8_0")
    refuses(2, "not an empty folder", "quantize", source, made(), "bf16", "--force")
    refuses(4, "nothing-here", "quantize", tmp("nothing-here"), tmp("no.gguf"), "bf16")
    assert not os.path.exists(tmp("no.gguf")) and not os.path.exists(tmp("no-folder"))


main()
