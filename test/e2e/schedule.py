"""schedule.py - the contract of `bench schedule`.  No claim is about how fast anything is."""

from harness import claim, made, main, pumice, refuses, write_text

COST = ["--cost", "0.012,0.0004,0.0011,4e-7,3e-8"]
TOP = ["machine", "cost_source", "cost", "noise", "slo_ms", "requests", "slots", "max_batch_tokens", "memory_tokens", "rows"]
ROW = ["policy", "clock", "ttft_p50_ms", "ttft_p99_ms", "tbt_p50_ms", "tbt_p99_ms", "tbt_max_ms", "delay_p50_ms", "e2e_p50_ms",
       "out_tok_per_s", "tok_per_s", "seconds", "steps", "preempted", "computed_tokens", "budget_min", "capacity_per_s"]


def trace(*lines):
    return write_text("trace.jsonl", "".join(line + "\n" for line in lines))


@claim
def a_replay_with_a_given_cost_prints_the_same_bytes_twice():
    args = ["bench", "schedule", *COST, "--tbt-slo", "100", "--rate", "1", "--requests", "60", "--noise", "0.1", "--json"]
    a, b = pumice(*args), pumice(*args)
    assert a.raw == b.raw
    assert list(a.json) == TOP and a.json["machine"] is None and a.json["cost_source"] == "given", a.json
    assert [r["policy"] for r in a.json["rows"]] == ["sarathi", "prefill-first", "unchunked"]
    for row in a.json["rows"]:
        assert list(row) == ROW and row["clock"] == "virtual" and row["capacity_per_s"] is None, row
        assert row["tbt_p50_ms"] <= row["tbt_p99_ms"] <= row["tbt_max_ms"] and row["ttft_p50_ms"] <= row["ttft_p99_ms"], row
    sarathi, first, _ = a.json["rows"]
    assert sarathi["tbt_p99_ms"] <= 100 < first["tbt_p99_ms"], a.json["rows"]
    other = pumice(*args[:-1], "--seed", "2", "--json").json
    assert other["rows"][0]["ttft_p50_ms"] != sarathi["ttft_p50_ms"]


@claim
def a_trace_says_exactly_what_happens():
    path = trace('{"at": 1, "prompt": 100, "out": 3}', '', '{"at": 100.5, "prompt": 20, "out": 1}')
    j = pumice("bench", "schedule", "--cost", "0.01,0,0.001,0,0", "--trace", path, "--policy", "sarathi", "--json").json
    row = j["rows"][0]
    want = {"ttft_p50_ms": 30, "ttft_p99_ms": 110, "tbt_p50_ms": 10, "tbt_max_ms": 10, "delay_p50_ms": 0, "e2e_p50_ms": 30,
            "seconds": 99.53, "steps": 4, "preempted": 0, "computed_tokens": 122}
    for key, value in want.items():
        assert abs(row[key] - value) < 1e-6 * max(1, value), (key, row)


@claim
def the_engine_gives_the_same_answers_under_every_policy():
    j = pumice("bench", "schedule", "--shape", "tiny", "--measure", "0.3", "--rate", "1000", "--requests", "12", "--prompt-tokens", "40",
               "--out-tokens", "8", "-c", "512", "--parallel", "4", "-t", "1", "--real", "--json").json
    assert j["cost_source"] == "measured" and j["machine"]["isa"], j
    assert [r["clock"] for r in j["rows"]] == ["virtual", "real"] * 3, j["rows"]
    assert all(r["tok_per_s"] > 0 for r in j["rows"])


@claim
def bad_traces_and_flags_are_refused_with_file_line_and_field():
    bench = ["bench", "schedule"]
    for line, part in [('{"at": 0, "prompt": 0, "out": 1}', ":1: prompt"), ('{"at": 0, "prompt": 1}', ":1: out: missing"),
                       ('{"at": "x", "prompt": 1, "out": 1}', ":1: at"), ("[", "trace.jsonl:1"), ("", "no requests")]:
        refuses(3, part, *bench, *COST, "--trace", trace(line), "--json")
    refuses(3, ":2: at:", *bench, *COST, "--trace", trace('{"at": 5, "prompt": 1, "out": 1}', '{"at": 4, "prompt": 1, "out": 1}'))
    refuses(2, "memory holds", *bench, *COST, "--trace", trace('{"at": 0, "prompt": 900, "out": 1}'), "--kv-tokens", "640")
    refuses(4, "/nonexistent/t", *bench, *COST, "--trace", "/nonexistent/t")
    refuses(2, "--cost 1,2: ", *bench, "--cost", "1,2")
    refuses(2, "--cost nan,0,0,0,0", *bench, "--cost", "nan,0,0,0,0")
    refuses(2, "--shape or a model is missing", *bench)
    refuses(2, "--real", *bench, *COST, "--real")
    refuses(2, "'fair' is not", *bench, *COST, "--policy", "fair")
    refuses(2, "--policy: an empty list", *bench, *COST, "--policy", "")
    refuses(2, "'fair' is not", "serve", made(), "--port", "0", "--schedule", "fair")
    refuses(2, "--capacity", *bench, *COST, "--capacity", "--trace", trace('{"at": 0, "prompt": 1, "out": 1}'))


@claim
def capacity_is_highest_with_chunks():
    j = pumice("bench", "schedule", *COST, "--tbt-slo", "100", "--requests", "25", "--capacity", "--json").json
    chunks, first, whole = [row["capacity_per_s"] for row in j["rows"]]
    assert chunks > 1.2 * first and chunks > 1.2 * whole, j["rows"]


@claim
def help_fits_80_columns():
    out = pumice("bench", "schedule", "--help").out
    assert out.startswith("usage: pumice bench schedule"), out
    for line in out.split("\n"):
        assert len(line) <= 80, line


main()
