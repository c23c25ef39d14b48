"""bench.py - the contract of `bench` and `doctor`: keys, rows, refusals.  No claim is about how fast anything is."""

import itertools
import json
import math
import os
import struct

from harness import (claim, copy_of, data, made, main, pumice, read_safetensors, refuses, sanitized, tmp, words_text,
                     write_safetensors, write_text)

LIMITS = ["threads", "read_gb_per_s", "f32_gflops", "bf16_gflops", "int8_gops", "barrier_us"]
ROW = ["test", "shape", "dtype", "threads", "batch", "depth", "tok_per_s", "tok_per_s_min", "tok_per_s_max",
       "tok_per_s_each", "limit_fraction", "repeat", "kv_dtype"]


def bench(**lists):
    """The JSON of a run; a list for each flag."""
    flags = [x for name, items in lists.items() for x in ["--" + name, ",".join(map(str, items))]]
    return pumice("bench", *flags, "--json", spread=True).json


def check_numbers(j):
    """Every measured figure is a finite number above zero, and a median lies between its ends."""
    for entry in j["limits"] + j["rows"]:
        for key, value in entry.items():
            if isinstance(value, float):
                assert math.isfinite(value) and value > 0, (key, entry)
    for row in j["rows"]:
        assert row["tok_per_s_min"] <= row["tok_per_s"] <= row["tok_per_s_max"], row
        assert abs(row["tok_per_s_each"] * row["batch"] - row["tok_per_s"]) < 1e-6 * row["tok_per_s"], row


@claim
def bench_json_has_the_documented_keys():
    j = bench(shape=["tiny"], dtype=["q4_0"], threads=[1, 2], test=["tg2"], repetitions=[3])
    assert list(j) == ["machine", "limits", "rows"], list(j)
    assert list(j["machine"]) == ["cpu", "isa", "kernel"] and all(j["machine"].values()), j["machine"]
    assert j["machine"]["kernel"] == os.uname().release
    assert [list(x) for x in j["limits"]] == [LIMITS, LIMITS] and [x["threads"] for x in j["limits"]] == [1, 2]
    assert [list(x) for x in j["rows"]] == [ROW, ROW], j["rows"]
    assert all(row["repeat"] == 3 for row in j["rows"])
    check_numbers(j)
    assert all(isinstance(x[k], float) for x in j["limits"] for k in LIMITS[1:])
    assert all(isinstance(x[k], float) for x in j["rows"] for k in ROW[6:11])


@claim
def bench_has_a_row_for_each_combination_asked_for():
    asked = {"shape": ["tiny"], "dtype": ["f32", "q8_0"], "threads": [1], "batch": [1, 3], "depth": [0, 5],
             "test": ["pp4", "tg2"]}
    j = bench(**asked, repetitions=[1])
    got = [tuple(row[k] for k in asked) for row in j["rows"]]
    assert sorted(got) == sorted(itertools.product(*asked.values())), got
    check_numbers(j)
    j = bench(shape=["tiny"], dtype=["bf16"], threads=[2, 1], test=["tg1"], repetitions=[1])
    assert sorted(row["threads"] for row in j["rows"]) == [1, 2] and [x["threads"] for x in j["limits"]] == [2, 1]
    check_numbers(j)


@claim
def bench_takes_depth_and_sequences_from_a_test_or_from_the_lists():
    j = bench(shape=["tiny"], dtype=["bf16"], threads=[1], batch=[2, 1], depth=[0, 3], repetitions=[1],
              test=["tg2@5x3", "pp4@7", "tg1x4", "pp2"])
    got = [(r["test"], r["depth"], r["batch"]) for r in j["rows"]]
    want = [("tg2", 5, 3), ("pp4", 7, 2), ("pp4", 7, 1), ("tg1", 0, 4), ("tg1", 3, 4), ("pp2", 0, 2), ("pp2", 3, 2),
            ("pp2", 0, 1), ("pp2", 3, 1)]
    assert got == want, got
    check_numbers(j)


@claim
def bench_of_a_model_uses_its_own_weights():
    flags = ["--test", "tg2", "--threads", 1, "-r", 1, "--json"]
    for dtype, want in [([], "f32"), (["--dtype", "native"], "f32"), (["--dtype", "q8_0"], "q8_0")]:
        j = pumice("bench", "--model", made(), *dtype, *flags).json
        assert [(r["shape"], r["dtype"]) for r in j["rows"]] == [(os.path.basename(made()), want)], j["rows"]
        check_numbers(j)
    refuses(4, "/nonexistent/m", "bench", "--model", "/nonexistent/m", *flags)


@claim
def bench_prints_a_table_with_the_same_rows():
    out = pumice("bench", "--shape", "tiny", "--dtype", "f32", "--test", "pp4,tg2", "--threads", 1, "-r", 1).out
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in out.split("\n") if line.startswith("| tiny ")]
    assert [r[:6] for r in rows] == [["tiny", "f32", t, "1", "1", "0"] for t in ["pp4", "tg2"]], out
    assert all(len(r) == 10 and float(r[6]) > 0 and r[9].endswith(" %") for r in rows), rows
    for part in ["| shape | dtype | test |", "| threads | read GB/s |", "kernels "]:
        assert part in out, (part, out)


@claim
def bench_output_has_the_same_rows_in_every_form():
    flags = ["--shape", "tiny", "--dtype", "f32", "--test", "pp4,tg2", "--threads", 1, "-r", 1]
    lines = pumice("bench", *flags, "-o", "csv").out.strip().split("\n")
    assert lines[0] == ",".join(ROW), lines
    rows = [dict(zip(ROW, line.split(","))) for line in lines[1:]]
    assert [(r["test"], r["shape"], r["dtype"], r["repeat"]) for r in rows] == [
        (t, "tiny", "f32", "1") for t in ["pp4", "tg2"]], rows
    assert all(float(r["tok_per_s"]) > 0 and float(r["limit_fraction"]) > 0 for r in rows), rows
    assert [list(r) for r in pumice("bench", *flags, "--output", "json").json["rows"]] == [ROW, ROW]
    assert "| shape | dtype | test |" in pumice("bench", *flags, "-o", "md").out
    refuses(2, "--output: 'xml'", "bench", *flags, "-o", "xml")
    refuses(2, "contradicts --json", "bench", *flags, "-o", "csv", "--json")


@claim
def bench_measures_every_type_and_test_of_the_speed_tables():
    types = ["bf16", "int8", "int4", "q8_0", "q4_0", "q4_k"]
    j = bench(shape=["tiny"], dtype=types, threads=[1], test=["pp128", "tg2"], repetitions=[1])
    assert sorted((r["dtype"], r["test"]) for r in j["rows"]) == sorted(itertools.product(types, ["pp128", "tg2"]))
    check_numbers(j)
    if sanitized():
        return
    for asked in [{"test": ["pp512", "pp2048", "tg128"], "depth": [0, 2048], "batch": [1]},
                  {"test": ["pp128", "tg64"], "depth": [0], "batch": [1, 4, 16]}]:
        j = bench(shape=["tiny"], dtype=["bf16"], threads=[1], repetitions=[1], **asked)
        got = [tuple(r[k] for k in asked) for r in j["rows"]]
        assert sorted(got) == sorted(itertools.product(*asked.values())), got
        check_numbers(j)


@claim
def bench_leaves_out_what_a_model_has_no_positions_for():
    flags = ["bench", "--model", data("reference", "gpt2"), "--threads", 1, "-r", 1]
    r = pumice(*flags, "--test", "pp2048,tg2", "--json")
    assert [x["test"] for x in r.json["rows"]] == ["tg2"], r.json
    assert "pp2048 left out" in r.err, r.err
    assert "every test exceeds" in pumice(*flags, "--test", "pp2048", status=2).err


@claim
def bench_names_the_flag_it_cannot_take():
    good = {"--shape": "tiny", "--dtype": "f32", "--test": "tg1", "--threads": "1", "-r": "1"}
    for flag, value, part in [
            ("--shape", "tiny,enormous", "shape 'enormous' unknown (168m"), ("--dtype", "f32,q9_k", "--dtype: 'q9_k'"),
            ("--test", "xx5", "--test xx5: not ppN or tgN"), ("--test", "tg0", "--test tg0:"),
            ("--test", "tg1,pp5x", "--test pp5x:"), ("--test", "tg4@", "--test tg4@:"), ("--test", "tg4@-1", "--test tg4@-1:"),
            ("--test", "tg4x0", "--test tg4x0:"), ("--test", "tg4@2x257", "--test tg4@2x257:"), ("--test", "pp4x2@3", "--test pp4x2@3:"),
            ("--test", "pp 4", "--test pp 4:"), ("--threads", "0", "--threads: '0'"),
            ("--threads", "1,65", "--threads: '65'"), ("--threads", "two", "--threads: 'two'"),
            ("--shape", ",", "an empty list"), ("--test", "", "an empty list"), ("--batch", "257", "--batch: '257'"), ("--depth", "1e3", "--depth: '1e3'"),
            ("-r", "0", "-r: 0 is not in 1..99"), ("--sparsity", "1", "'--sparsity'")]:
        args = [x for pair in {**good, flag: value}.items() for x in pair]
        refuses(2, part, "bench", *args, "--json")
    refuses(2, "unexpected argument 'extra'", "bench", "extra")
    refuses(2, "--model and --shape exclude each other", "bench", "--model", made(), "--shape", "tiny")


@claim
def bench_refuses_before_it_measures():
    """A list's last item is looked at before the first is measured, which might take minutes."""
    for flags, part in [(["--shape", "llama-1b,enormous"], "shape 'enormous' unknown"), (["--test", "pp1048576,tg"], "--test tg:"),
                        (["--threads", "1,none"], "--threads: 'none'")]:
        r = pumice("bench", *flags, status=2)
        assert part in r.err and not r.out, (flags, r.out, r.err)


# -- train ---------------------------------------------------------------------------------------------------------

TRAIN = ["test", "shape", "dtype", "threads", "rows", "tokens", "recompute", "tok_per_s", "tok_per_s_min", "tok_per_s_max",
         "gflops", "gflops_exact", "peak_gflops", "peak_fraction", "peak_bytes", "announced_bytes", "loss_first",
         "loss_last", "repeat"]


def tiny_steps(*flags):
    return ["bench", "train", "--shape", "tiny", "-b", 2, "-T", 16, "-r", 3, "--threads", 1, *flags]


@claim
def bench_train_has_a_row_for_each_combination_asked_for():
    asked = {"dtype": ["bf16", "f32"], "threads": [1, 2], "batch": [1, 3], "tokens": [8, 20]}
    flags = [x for name, items in asked.items() for x in ["--" + name, ",".join(map(str, items))]]
    j = pumice("bench", "train", "--shape", "tiny", *flags, "-r", 1, "--json", spread=True).json
    assert list(j) == ["machine", "rows"] and j["machine"]["kernel"] == os.uname().release, j
    got = [(r["dtype"], r["threads"], r["rows"], r["tokens"]) for r in j["rows"]]
    assert sorted(got) == sorted(itertools.product(*asked.values())), got
    for r in j["rows"]:
        assert list(r) == TRAIN and r["test"] == "train" and r["shape"] == "tiny" and r["repeat"] == 1, r


@claim
def bench_train_figures_agree_with_each_other():
    for flags in [[], ["--recompute"]]:
        row = pumice(*tiny_steps("--json", *flags)).json["rows"][0]
        assert row["recompute"] == bool(flags)
        assert 0 < row["tok_per_s_min"] <= row["tok_per_s"] <= row["tok_per_s_max"], row
        matrices = 512 * 64 + 2 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 160)  # the tied table once, two layers
        six_n, exact = 6 * (matrices + 5 * 64), 6 * matrices + 6 * 64 * 16 * 2  # with norms; with attention
        assert abs(row["gflops"] * 1e9 / row["tok_per_s"] - six_n) < 1e-3, row
        assert abs(row["gflops_exact"] * 1e9 / row["tok_per_s"] - exact) < 1e-3, row
        assert row["peak_gflops"] > 0 and row["peak_fraction"] > 0, row
        assert row["announced_bytes"] > 16 * matrices and row["peak_bytes"] > 16 * matrices, row


@claim
def bench_train_makes_whole_steps():
    """The ids of every step are the same, so that learning shows: ln 512 = 6.24 at first."""
    for dtype in ["bf16", "f32"]:
        row = pumice(*tiny_steps("--dtype", dtype, "-r", 40, "--json")).json["rows"][0]
        assert abs(row["loss_first"] - math.log(512)) < 0.3 and row["loss_last"] < row["loss_first"] - 0.3, row


@claim
def bench_train_prints_the_rows_as_a_table_or_as_csv():
    out = pumice(*tiny_steps("--dtype", "f32,bf16")).out.split("\n")
    assert out[0].startswith("| shape | dtype | threads | batch | tok/s |") and len(out) == 5, out
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in out[2:4]]
    assert [r[:4] for r in rows] == [["tiny", t, "1", "2 x 16"] for t in ["f32", "bf16"]], rows
    assert all(len(r) == 11 and float(r[4]) > 0 and r[8].endswith(" %") for r in rows), rows
    head, *rows = [line.split(",") for line in pumice(*tiny_steps("--csv", "-b", "1,2")).out.split()]
    assert set(head) < set(TRAIN) and [dict(zip(head, r))["rows"] for r in rows] == ["1", "2"], (head, rows)
    assert all(len(r) == len(head) and float(dict(zip(head, r))["tok_per_s"]) > 0 for r in rows), rows


@claim
def bench_train_names_the_flag_it_cannot_take():
    for flags, part in [
            (["--shape", "enormous"], "shape 'enormous' unknown"), (["--dtype", "q8_0"], "--dtype: 'q8_0' is not f32 or bf16"),
            (["--threads", "0"], "--threads: '0'"), (["-b", "two"], "--batch: 'two'"), (["-T", "0"], "--tokens: '0'"),
            (["-b", ","], "an empty list"), (["-r", "100"], "-r: 100 is not in 1..99"), (["--json", "--csv"], "exclude each other"),
            (["--shape", "gpt2", "-T", "1025"], "1024 positions"), (["extra"], "unexpected argument 'extra'")]:
        refuses(2, part, *tiny_steps(*flags))
    many = ["--shape", "llama-1b", "-b", 1000, "-T", 200]
    refuses(5, "llama-1b with 1000 x 200 tokens needs ", *tiny_steps(*many))


@claim
def bench_tokenize_counts_bytes_and_tokens():
    text = words_text(20000)
    path = write_text("speed.txt", text)
    j = pumice("bench", "tokenize", made(), "--text", path, "-r", 2, "--json").json
    assert list(j) == ["test", "bytes", "tokens", "mb_per_s", "mb_per_s_min", "mb_per_s_max", "tok_per_s"], list(j)
    ids = pumice("tokenize", made(), "--json", stdin=text.encode()).json
    assert j["test"] == "tokenize" and j["bytes"] == len(text) and j["tokens"] == len(ids), j
    figures = [j[k] for k in ["mb_per_s_min", "mb_per_s", "mb_per_s_max"]]
    assert all(math.isfinite(x) and x > 0 for x in figures) and figures == sorted(figures), j
    want = j["mb_per_s"] * 1e6 * j["tokens"] / j["bytes"]
    assert abs(j["tok_per_s"] - want) < 1e-6 * want, j
    refuses(2, "--text is missing", "bench", "tokenize", made())
    refuses(2, "empty", "bench", "tokenize", made(), "--text", write_text("nothing.txt", ""))
    refuses(4, "/nonexistent/t", "bench", "tokenize", made(), "--text", "/nonexistent/t")
    refuses(2, "no model given", "bench", "tokenize", "--text", path)
    bare = tmp("no-tokenizer")
    pumice("init", "tiny", "--out", bare)
    refuses(4, bare, "bench", "tokenize", bare, "--text", path)


PHASE = ["phase", "tokens", "batch", "depth", "ms", "tok_per_s", "read_gb_per_s", "peak_gops", "attention_gops", "rows"]
OPERATOR = ["operator", "ms", "share", "wait_ms", "gb_per_s", "gops", "limit_fraction"]
PRODUCTS = ["qkv", "attention", "o", "gate, up", "down", "head"]
STEP = ["embed", "norm", "qkv", "rope, kv append", "attention", "o", "gate, up", "act", "down", "add", "head"]


@claim
def profile_divides_a_step_among_its_operators():
    j = pumice("bench", "profile", "--shape", "tiny", "--dtype", "q8_0", "-p", 24, "-n", 5, "-d", 3, "-r", 3, "-t", 2,
               "--json", spread=True).json
    assert [j["model"], j["dtype"], j["threads"]] == ["tiny", "q8_0", 2] and j["isa"], j
    assert [(p["phase"], p["tokens"], p["depth"]) for p in j["phases"]] == [("prompt", 24, 3), ("generation", 5, 3)]
    for p in j["phases"]:
        assert list(p) == PHASE and all(list(r) == OPERATOR for r in p["rows"]), p
        want = STEP + (["sampling"] if p["phase"] == "generation" else []) + ["the rest"]
        assert [r["operator"] for r in p["rows"]] == want, p["rows"]
        shares = {r["operator"]: r["share"] for r in p["rows"]}
        assert abs(sum(shares.values()) - 1) < 1e-6 and shares["the rest"] < 0.2, shares
        assert abs(sum(r["ms"] for r in p["rows"]) - p["ms"]) < 1e-3 * p["ms"], p
        assert abs(p["tok_per_s"] - p["tokens"] / p["ms"] * 1e3) < 1e-6 * p["tok_per_s"], p
        for r in p["rows"]:
            assert 0 <= r["wait_ms"] <= r["ms"] + 1e-9, r
            assert (r["gops"] is not None) == (r["operator"] in PRODUCTS), r
            if r["gops"]:
                assert r["gb_per_s"] > 0 and r["limit_fraction"] > 0 and math.isfinite(r["limit_fraction"]), r


@claim
def profile_counts_the_work_of_a_product():
    j = pumice("bench", "profile", made(), "--dtype", "f32", "-p", 8, "-n", 0, "-r", 1, "-t", 1, "--json").json
    head = read_safetensors(os.path.join(made(), "model.safetensors"))[0]
    params = sum(math.prod(t["shape"]) for name, t in head.items() if name.endswith("down_proj.weight"))
    (phase,) = j["phases"]
    (row,) = [r for r in phase["rows"] if r["operator"] == "down"]
    assert abs(row["gops"] * row["ms"] * 1e6 - 2 * 8 * params) < 1e-6 * 16 * params, (row, params)
    assert abs(row["gb_per_s"] * row["ms"] * 1e6 - 4 * params) < 1e-6 * 4 * params, (row, params)


@claim
def profile_counts_the_work_of_a_batch():
    """Of `tiny` (2 layers, 4 heads of 16, 2 of them for keys) in bfloat16: weights once, the rest for each sequence."""
    def work(*flags):
        j = pumice("bench", "profile", "--shape", "tiny", "-r", 1, "-t", 1, "--json", *flags).json
        (phase,) = j["phases"]
        return {r["operator"]: (r["gops"] * r["ms"] * 1e6, r["gb_per_s"] * r["ms"] * 1e6) for r in phase["rows"] if r["gops"]}

    down, kv = 2 * 64 * 160, 2 * 2 * 2 * 16 * 2  # weights; bytes of a token's keys and values
    for depth, n, batch in [(0, 1, 1), (5, 1, 3), (4, 6, 2)]:
        for p, tokens, keys, reach in [
                (["-p", n, "-n", 0], n, sum(range(depth + 1, depth + n + 1)), depth + n),
                (["-p", 0, "-n", n], n, sum(range(depth + 1, depth + n + 1)), sum(range(depth + 1, depth + n + 1)))]:
            w = work(*p, "-d", depth, "--batch", batch)
            steps = 1 if p[1] else n
            for op, ops, size in [("down", 2 * down * tokens * batch, 2 * down * steps),
                                  ("attention", 4 * 2 * 4 * 16 * keys * batch, reach * kv * batch),
                                  ("head", 2 * 512 * 64 * steps * batch, 2 * 512 * 64 * steps)]:
                assert abs(w[op][0] - ops) < 1e-6 * ops and abs(w[op][1] - size) < 1e-6 * size, (op, w[op], ops, size)


@claim
def a_sliding_window_bounds_the_work_of_attention():
    folder = copy_of(made())
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    with open(path, "w", encoding="utf-8") as f:
        json.dump({**config, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4}, f)
    j = pumice("bench", "profile", folder, "-p", 0, "-n", 1, "-d", 9, "-r", 1, "-t", 1, "--json").json
    (row,) = [r for r in j["phases"][0]["rows"] if r["operator"] == "attention"]
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    want = 4 * layers * heads * (config["hidden_size"] // heads) * 4
    assert abs(row["gops"] * row["ms"] * 1e6 - want) < 1e-6 * want, (row, want)


@claim
def profile_prints_a_table_for_each_phase():
    out = pumice("bench", "profile", "--shape", "tiny", "-p", 4, "-n", 2, "-r", 1, "-t", 1).out
    assert out.startswith("tiny, bf16, 1 threads") and out.count("| attention |") == 2 and out.count("| sampling |") == 1, out
    refuses(2, "exclude each other", "bench", "profile", "--model", made(), "--shape", "tiny")
    refuses(2, "shape 'enormous' unknown", "bench", "profile", "--shape", "enormous")
    refuses(2, "-p: -1 is not in", "bench", "profile", "-p", "-1")
    refuses(2, "nothing to measure", "bench", "profile", "-p", 0, "-n", 0)
    refuses(2, "unexpected argument 'b'", "bench", "profile", made(), "b")
    refuses(4, "/nonexistent/m", "bench", "profile", "/nonexistent/m")


# -- doctor --------------------------------------------------------------------------------------------------------

def findings(*args):
    """{check: finding} of doctor, the model's tensors apart, after the form is checked."""
    j = pumice("doctor", *args, "--json").json
    assert list(j) == ["checks", "advice"], list(j)
    for c in j["checks"]:
        assert list(c) == ["check", "found", "ok", "advice"] and c["found"] and c["ok"] == (c["advice"] is None), c
    assert j["advice"] == sum(not c["ok"] for c in j["checks"])
    tensors = [c["found"] for c in j["checks"] if c["check"] == "tensor"]
    return {c["check"]: c for c in j["checks"] if c["check"] != "tensor"}, tensors


@claim
def doctor_tells_what_the_machine_has():
    checks, tensors = findings()
    assert {"system", "processors", "kernels", "memory", "huge pages"} <= set(checks) and tensors == []
    assert "weights" not in checks
    assert checks["processors"]["found"] == "1 usable", "the run is bound to one"
    assert os.uname().release in checks["system"]["found"] and "ref" in checks["kernels"]["found"]
    out = pumice("doctor").out.split("\n")
    for name in checks:
        assert any(line.split(None, 1)[1].startswith(name) for line in out if line), (name, out)
    refuses(2, "unexpected argument 'b'", "doctor", made(), "b")
    refuses(4, "/nonexistent/m", "doctor", "/nonexistent/m", "--json")
    assert "/nonexistent/m" in pumice("doctor", "/nonexistent/m", status=4).err


@claim
def doctor_counts_the_values_of_a_sound_model():
    head = read_safetensors(os.path.join(made(), "model.safetensors"))[0]
    n = sum(math.prod(t["shape"]) for name, t in head.items() if name != "__metadata__")
    checks, tensors = findings(made())
    assert checks["weights"]["ok"] and tensors == []
    assert checks["weights"]["found"] == f"{len(head) - ('__metadata__' in head)} tensors, {n} values, 0 not finite"


@claim
def doctor_names_each_tensor_that_has_a_nan_or_an_infinity():
    folder = copy_of(made())
    path = os.path.join(folder, "model.safetensors")
    head, blob = read_safetensors(path)
    blob, first, second = bytearray(blob), "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
    for name, at, value in [(first, 7, math.nan), (first, 160 * 64 - 1, math.nan), (second, 0, -math.inf)]:
        struct.pack_into("<f", blob, head[name]["data_offsets"][0] + 4 * at, value)
    write_safetensors(path, head, bytes(blob))
    checks, tensors = findings(folder)
    assert sorted(tensors) == [f"{first}: 2 NaN, 0 infinite of {160 * 64}", f"{second}: 0 NaN, 1 infinite of 64"], tensors
    assert not checks["weights"]["ok"] and checks["weights"]["found"].endswith(", 3 not finite"), checks["weights"]
    out = pumice("doctor", "-m", folder).out
    assert f"{first}: 2 NaN" in out and f"{second}: 0 NaN, 1 infinite" in out, out
    write_safetensors(path, head, blob[:-4])
    refuses(3, path, "doctor", folder, "--json")


@claim
def help_fits_80_columns():
    for args in [["bench"], ["bench", "tokenize"], ["bench", "profile"], ["doctor"]]:
        out = pumice(*args, "--help").out
        assert out.startswith("usage: pumice " + " ".join(args)), out
        for line in out.split("\n"):
            assert len(line) <= 80, line


main()
