"""peers.py - bench/peers.py beside programs that only print what llama-bench and llama-batched-bench print."""

import csv
import io
import json
import os
import subprocess
import sys

from harness import BIN, ROOT, claim, environment, made, main, tmp

FAKE = """#!%s
# A peer: RATE is its speed; BREAK is how it fails; it appends its name and flags to LOG.
import json, os, sys, time
args = sys.argv[1:]
opt = lambda name, default=None: args[args.index(name) + 1] if name in args else default
rate, broken = float(os.environ.get("RATE", 100)), os.environ.get("BREAK", "")
if args == ["--help"]:
    print("usage: NOTHING" if broken == "help" else os.environ.get("USAGE", "-p, --n-prompt -n, --n-gen -d, --n-depth"))
    sys.exit()
with open(os.environ["LOG"], "a") as f:
    print(os.environ.get("NAME"), *args, file=f)
if broken == "hang":
    sys.stdin.read()
    time.sleep(60)
if broken == "status" or broken == "generation" and opt("-n") != "0":
    print("first\\nerror: failed to load model", file=sys.stderr)
    sys.exit(3)
if opt("-npl"):
    for b in opt("-npl").split(","):
        pp, tg = int(opt("-npp")), int(opt("-ntg"))
        print("| %%6d | %%6d | %%4s | 9 | 1.0 | %%8.2f | 1.0 | %%8.2f | 2.0 | 5.0 |" %% (pp, tg, b, rate * 10, rate * int(b)),
              file=sys.stderr)
    sys.exit()
row = {"n_prompt": int(opt("-p")), "n_gen": int(opt("-n")), "n_depth": int(opt("-d", 0)), "n_threads": int(opt("-t")),
       "samples_ts": [rate] * int(opt("-r")), "build_commit": "abc"}
if opt("-gp"):
    row["n_prompt"], row["n_gen"] = map(int, opt("-gp").split(","))
if broken == "threads":
    row["n_threads"] = 7
if broken == "samples":
    del row["samples_ts"]
print("loading ... [done]\\n[\\n%%s" %% json.dumps(row) if broken == "json" else "loading\\n[\\n%%s\\n]" %% json.dumps(row))
"""


def fake(name="fake-bench"):
    path = tmp(name)
    with open(path, "w", encoding="ascii") as f:
        f.write(FAKE % sys.executable)
    os.chmod(path, 0o755)
    return path


def fake_pumice():
    """A program that prints the JSON of `bench` at once: 200 tokens/s, half of the limit."""
    path = tmp("fake-pumice")
    row = {"test": "t", "dtype": "q8_0", "kv_dtype": "bf16", "tok_per_s": 200.0, "limit_fraction": 0.5}
    with open(path, "w", encoding="ascii") as f:
        f.write(f"#!/bin/sh\necho pumice \"$@\" >> \"$LOG\"\ncat <<'END'\n"
                f"{json.dumps({'machine': {}, 'limits': [{'read_gb_per_s': 30.0}], 'rows': [row]})}\nEND\n")
    os.chmod(path, 0o755)
    return path


def peers(*args, status=0, pumice=None, log="log"):
    """(result, lines of the log)"""
    if os.path.exists(tmp(log)):
        os.remove(tmp(log))
    p = subprocess.run([sys.executable, os.path.join(ROOT, "bench", "peers.py"), pumice or fake_pumice(), *map(str, args)],
                       capture_output=True, text=True, timeout=120, env=environment(LOG=tmp(log)), check=False)
    assert p.returncode == status, (p.returncode, p.stdout, p.stderr)
    lines = []
    if os.path.exists(tmp(log)):
        with open(tmp(log), encoding="utf-8") as f:
            lines = f.read().splitlines()
    return p, lines


def model():
    path = tmp("some.gguf")
    with open(path, "wb"):
        return path


@claim
def a_row_has_rates_ratios_and_shares_of_the_limit():
    p, log = peers("--peer", f"a=RATE=100 NAME=a {fake()} -fa 1", "--peer", f"b=RATE=160 NAME=b {fake()}", "--test",
                   "pp8,tg4@16", "-r", 3, "-n", 2, "--json", model())
    j = json.loads(p.stdout)
    assert j["complete"] and [(r["file"], r["test"]) for r in j["rows"]] == [("some.gguf", "pp8"), ("some.gguf", "tg4@16")]
    for r in j["rows"]:
        assert r["pumice"]["tok_per_s"] == 200 and r["pumice"]["limit_fraction"] == 0.5, r
        assert {n: (x["ratio"], x["limit_fraction"]) for n, x in r["peers"].items()} == {"a": (2, 0.25), "b": (1.25, 0.4)}, r
        assert r["ratio"] == 1.25 and r["peers"]["a"]["build_commit"] == "abc", r
    assert [x.split()[0] for x in log[:9]] == ["pumice", "a", "b", "a", "b", "pumice", "b", "pumice", "a"], log
    assert log[1] == f"a -m {model()} -t 2 -r 2 -o json -p 8 -n 0 -fa 1", log[1]
    assert log[0] == f"pumice bench --model {model()} --dtype native --test pp8 -d 0 --batch 1 --threads 2 -r 2 --json", log[0]
    assert log[9].endswith("--test tg4 -d 16 --batch 1 --threads 2 -r 2 --json") and log[10].endswith("-p 0 -n 4 -d 16 -fa 1")


@claim
def the_fastest_of_a_peers_commands_is_compared():
    slow, quick = f"a=RATE=50 NAME=slow {fake()} -fa 0", f"a=RATE=80 NAME=quick {fake()} -fa 1"
    p, log = peers("--peer", slow, "--peer", quick, "--test", "tg4", "-r", 2, "--csv", model())
    assert [x.split()[0] for x in log] == ["slow", "quick", "pumice", "quick", "quick", "pumice"], log
    ours, theirs = csv.DictReader(io.StringIO(p.stdout))
    assert (ours["engine"], theirs["engine"]) == ("pumice", "a") and float(theirs["ratio"]) == 2.5, theirs
    assert theirs["command"] == quick.split("=", 1)[1], theirs
    log = peers("--peer", slow, "--peer", quick, "--test", "tg4", "-r", 1, "--no-tune", model())[1]
    assert [x.split()[0] for x in log] == ["pumice", "slow"], log


@claim
def depth_is_asked_for_in_the_way_that_a_peer_has():
    older = f"a=USAGE='-p, --n-prompt -n, --n-gen -gp <pp,tg>' NAME=a {fake()}"
    p, log = peers("--peer", older, "--test", "tg4@16,pp8@16", "-r", 1, model())
    assert len(log) == 3 and log[1].endswith("-p 0 -n 0 -gp 16,4"), log
    rows = [x for x in p.stdout.splitlines() if x.startswith("| some.gguf")]
    assert "2.00" in rows[0] and rows[1].endswith("| - | - | - | - | - |"), rows


@claim
def several_sequences_are_the_batched_programs_business():
    single, batched = f"a=NAME=s {fake()}", f"a=USAGE=-npl NAME=b RATE=20 {fake()} -fa 1"
    p, log = peers("--peer", single, "--peer", batched, "--test", "tg4@8x5,pp8x5", "-r", 1, "-n", 2, "--json", model())
    rows = json.loads(p.stdout)["rows"]
    assert [r["peers"]["a"]["tok_per_s"] for r in rows] == [100, 200] and not any(x.startswith("s ") for x in log), (rows, log)
    assert "--test tg4 -d 8 --batch 5" in log[0], log
    assert log[1].endswith("-c 60 -b 2048 -ub 512 -npp 8 -ntg 4 -npl 5,5 -fa 1"), log


@claim
def what_a_peer_does_wrong_is_told_in_its_name():
    for broken, part in [("status", "exit status 3"), ("json", "not llama-bench's JSON"), ("threads", "n_threads = 7, not 2"),
                         ("samples", "no list of rates"), ("help", "neither llama-bench's nor")]:
        p, _ = peers("--peer", f"odd=BREAK={broken} {fake()}", "--test", "tg4", model(), status=1)
        assert p.stderr.startswith("peers: odd: ") and part in p.stderr, (broken, p.stderr)
        assert broken != "status" or "failed to load model" in p.stderr, p.stderr
    for peer, part in [("odd=/nonexistent/x", "odd: /nonexistent/x: No such file"), ("odd", "not NAME=COMMAND"),
                       ("odd=A=1", "names no program"), (f"odd={model()}", "Permission denied")]:
        assert part in peers("--peer", peer, model(), status=1)[0].stderr, peer
    assert "odd: not done after 1 s" in peers("--peer", f"odd=BREAK=hang {fake()}", "--timeout", 1, "--test", "tg4", model(),
                                              status=1)[0].stderr
    peer = ["--peer", f"a={fake()}"]
    assert "/nonexistent.gguf: no such file" in peers(*peer, "/nonexistent.gguf", status=1)[0].stderr
    assert "is not ppN or tgN" in peers(*peer, "--test", "xx4", model(), status=2)[0].stderr
    said = peers(*peer, "--test", "tg4", model(), status=1, pumice="/bin/echo")[0].stderr
    assert "peers: pumice: not the JSON of `bench`" in said, said


@claim
def rows_that_are_whole_survive_a_failure():
    p, _ = peers("--peer", f"a=BREAK=generation {fake()}", "--test", "pp8,tg4,pp9", "-r", 1, "--json", model(), status=1)
    j = json.loads(p.stdout)
    assert not j["complete"] and [r["test"] for r in j["rows"]] == ["pp8"], j
    assert "peers: a: exit status 3" in p.stderr, p.stderr


@claim
def pumice_itself_is_measured():
    p, _ = peers("--peer", f"a={fake()}", "--test", "tg2@4,tg2@4x2,pp3", "-r", 1, "-t", 1, "--json", f"{made()}=q8_0",
                 pumice=BIN)
    rows = json.loads(p.stdout)["rows"]
    assert [(r["dtype"], r["as"]) for r in rows] == [("q8_0", "q8_0")] * 3, rows
    assert all(r["pumice"]["tok_per_s"] > 0 and r["pumice"]["limit_fraction"] > 0 for r in rows), rows
    assert [len(r["peers"]) for r in rows] == [1, 0, 1] and rows[1]["ratio"] is None, rows


main()
