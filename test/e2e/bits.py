"""bits.py - batch invariance, seen from outside: the same bytes whatever the chunk, the thread count, the turn."""

import functools
import os
import random

from harness import VOCAB, claim, data, environment, ids_text, made, main, pumice, tmp

LEVELS = ["ref", "avx2", "avxvnni", "avx512", "vnni", "bf16"]
RUNS = [(1000, 1), (1000, 2), (1, 2), (7, 1), (16, 2), (64, 1)]  # chunk, threads; unit test `run` has every pair
IDS = random.Random(5).choices(range(VOCAB), k=64)


def levels():
    """Those that this processor has: the others are refused with exit status 2."""
    out = []
    for isa in LEVELS:
        r = pumice("tokenize", made(), "-p", "x", env=environment(PUMICE_ISA=isa), status=None)
        assert r.status in (0, 2), r.err
        if r.status == 0:
            out.append(isa)
    assert "ref" in out
    return out


def logits(model, *flags, isa=None):
    path = tmp("bits.npy")
    if os.path.exists(path):
        os.remove(path)
    pumice("eval", "logits", model, "--ids", ids_text(IDS), "--out", path, *flags, env=environment(PUMICE_ISA=isa))
    with open(path, "rb") as f:
        return f.read()


def same_for_every_chunk_and_thread_count(model, dtype, isa):
    first = None
    for chunk, threads in RUNS:
        got = logits(model, "--dtype", dtype, "--chunk", chunk, "-t", threads, isa=isa)
        first = first or got
        assert got == first, f"{model}: {dtype} {isa}: chunk {chunk} on {threads} threads differs"
    return first


@functools.cache
def random_bf16():
    """Of rows of 64 and of 160 weights, 2.5 times the most that a kernel takes at once."""
    pumice("init", "tiny", "--out", tmp("bf16"), "--seed", 9)
    return tmp("bf16")


def no_bit_changes_in_any_dtype_at_any_level(model):
    for isa in levels():
        seen = {d: same_for_every_chunk_and_thread_count(model, d, isa)
                for d in ["f32", "bf16", "int8", "int4", "q8_0", "q4_0", "native"]}
        assert seen["native"] == seen["bf16"], f"{isa}: native of a BF16 file is not bf16"
        assert len(set(seen.values())) == 6, f"{isa}: two dtypes give the same logits: is one ignored?"


@claim
def chunk_and_threads_never_change_a_bit_in_any_dtype_at_any_level():
    no_bit_changes_in_any_dtype_at_any_level(random_bf16())


@claim
def nor_in_wider_rows_read_from_a_gguf_file():
    no_bit_changes_in_any_dtype_at_any_level(data("gguf", "llama-k256.BF16.gguf"))


@claim
def block_types_of_files_hold_it_too():
    for t in ["Q4_0", "Q8_0", "Q4_K_M"]:
        for isa in levels():
            same_for_every_chunk_and_thread_count(data("gguf", f"llama-k256.{t}.gguf"), "native", isa)


@claim
def every_architecture_holds_it_too():
    for name in ["gpt2", "phi", "llama-gqa-tied", "llama3-rope", "llama-linear-rope-bias", "mistral", "qwen2"]:
        same_for_every_chunk_and_thread_count(data("reference", name), "native", None)


@claim
def an_unknown_level_is_refused_by_name():
    r = pumice("show", made(), env=environment(PUMICE_ISA="sse9"), status=2)
    assert "sse9" in r.err, r.err


@claim
def batch_size_and_threads_never_change_an_answer():
    model = made()
    seen = set()
    for threads in [1, 2]:
        for batch in [1, 5, 64]:
            got = pumice("run", model, "-p", "Once upon a time, there was a red fox", "-n", 40, "-s", 7, "--temp", 1,
                         "-t", threads, "-b", batch, "--json", spread=True).json
            seen.add((tuple(got["ids"]), got["text"]))
    assert len(seen) == 1, seen


@claim
def the_layout_of_memory_never_changes_an_answer():
    seen = set()
    for flags in [["--kv", "flat"], ["--kv", "virtual"], ["--kv-pool", 1]]:
        got = pumice("run", made(), "-p", "Once upon a time, there was a red fox", "-n", 150, "-s", 7, "--temp", 1,
                     "--ignore-eos", "-c", 400, "-b", 3, "--json", *flags, spread=True).json
        seen.add((tuple(got["ids"]), got["text"]))
    assert len(seen) == 1 and len(got["ids"]) == 150, seen


main()
