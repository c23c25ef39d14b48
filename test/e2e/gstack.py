"""gstack.py - `bench gstack`: equal FLOPs, the same bits however it is run, statistics that follow from the CSV.

No claim is about which way of training wins: the runs here are far too short to say.
"""

import csv
import fcntl
import functools
import json
import math
import os
import subprocess
import time

from harness import BIN, claim, environment, main, pumice, read_json, refuses, tmp, words_text, write_text

ARMS = ["scratch", "g2", "g4", "zero", "rewarm", "random", "base"]
SHORT = ["--tier", "nano", "--tokens", 6000, "--lr", 0.01, "--lr-base", 0.02]
HEAD = "arm,seed,tokens,flops,seconds,val_loss,val_tokens"
STEP = 128  # tokens in a step of the tier nano


@functools.cache
def text():
    return write_text("stories.txt", words_text(150000).replace("Once", "<|endoftext|>Once"))


def study(name, *args, **kw):
    """The report of a study in the folder NAME, all digits of it."""
    shown = pumice("bench", "gstack", "--text", text(), "--out", tmp(name), "--json", "-q", *args, **kw).json
    report = read_json(tmp(name), "gstack.json")
    assert shown.keys() == report.keys() and abs(shown["budget_flops"] / report["budget_flops"] - 1) < 1e-9
    return report


@functools.cache
def reference():
    """A study of all arms, one run after the other with one thread."""
    return study("reference", *SHORT, "--arms", ",".join(ARMS), "--seeds", 2, "-t", 1)


def rows(name):
    """The CSV by runs: {(arm, seed): [row]}, numbers as they are written."""
    with open(tmp(os.path.join(name, "gstack.csv")), encoding="utf-8") as f:
        assert f.readline().strip() == HEAD
        runs = {}
        for row in csv.DictReader(f, HEAD.split(",")):
            runs.setdefault((row["arm"], int(row["seed"])), []).append(row)
    return runs


def bits(name, arms=None):
    """All of the CSV but the seconds, in the file's order."""
    return [[v for k, v in row.items() if k != "seconds"] for run, rs in rows(name).items() for row in rs
            if not arms or run[0] in arms]


def close(a, b):
    assert a == b or abs(a - b) <= 1e-9 * max(abs(a), abs(b)), (a, b)


# -- what is run ------------------------------------------------------------------------------------------------

@claim
def every_arm_spends_the_flops_of_scratch_to_within_a_step():
    j, runs = reference(), rows("reference")
    assert [a["arm"] for a in j["arms"]] == ARMS and set(runs) == {(a, s) for a in ARMS for s in [1, 2]}
    for arm in j["arms"]:
        full = j["budget_flops"] / (math.ceil(6000 / STEP))  # of a step of the full model
        for seed in [1, 2]:
            last = runs[arm["arm"], seed][-1]
            assert abs(float(last["flops"]) - j["budget_flops"]) <= full / 2 + 1, (arm["arm"], last)
            assert float(last["flops"]) == arm["flops"] and int(last["tokens"]) == arm["tokens"] == STEP * arm["steps"]
    by_name = {a["arm"]: a for a in j["arms"]}
    assert by_name["scratch"]["steps"] == by_name["random"]["steps"] == by_name["rewarm"]["steps"] == 47
    assert 47 < by_name["g2"]["steps"] < by_name["g4"]["steps"] == by_name["zero"]["steps"] < by_name["base"]["steps"]
    assert [by_name[a]["layers"] for a in ARMS] == [8] * 6 + [2]


@claim
def a_run_grows_where_its_plan_says_and_its_flops_tell():
    j = reference()
    for arm, factor, zero in [("g2", 2, None), ("g4", 4, None), ("zero", 4, True), ("random", 4, None)]:
        conf = read_json(tmp("reference"), "runs", arm + "-1.json")
        assert conf["grow"] == f"{factor}@{0 if arm == 'random' else 10}%" and conf.get("grow_zero_init") == zero, conf
        assert (conf["learning_rate"], conf["grow_learning_rate"]) == (0.01, 0.02), conf
        at = next(a for a in j["arms"] if a["arm"] == arm)["grown_at_flops"]
        assert (at == 0) == (arm == "random") and at < 0.1 * j["budget_flops"], (arm, at)
    g4, rewarm = [next(a for a in j["arms"] if a["arm"] == name) for name in ["g4", "rewarm"]]
    share = float(read_json(tmp("reference"), "runs", "rewarm-1.json")["rewarm_at"].rstrip("%")) / 100
    assert abs(share * rewarm["flops"] - g4["grown_at_flops"]) < 1e-4 * rewarm["flops"]
    flops = [float(r["flops"]) for r in rows("reference")["g4", 1]]
    tokens = [int(r["tokens"]) for r in rows("reference")["g4", 1]]
    rates = [(flops[i] - flops[i - 1]) / (tokens[i] - tokens[i - 1]) for i in range(1, len(flops) - 1)]
    assert rates[0] < 0.5 * rates[-1], (rates[0], rates[-1])


@claim
def a_curve_has_a_point_for_each_hundredth_of_the_flops():
    j = reference()
    for run, rs in rows("reference").items():
        curve, last = rs[:-1], rs[-1]
        percent = [100 * float(r["flops"]) / float(last["flops"]) for r in curve]
        assert percent[-1] == 100 and all(int(a + 1e-9) < int(b + 1e-9) for a, b in zip(percent, percent[1:])), run
        if run[0] in ["scratch", "random", "rewarm"]:  # a step is more than a hundredth
            assert [int(r["tokens"]) for r in curve] == [STEP * i for i in range(1, 48)], run
        if run[0] == "base":  # less
            assert max(b - a for a, b in zip(percent, percent[1:])) < 2 and len(curve) > 90, (run, len(curve))
        assert {int(r["val_tokens"]) for r in curve} == {j["val_tokens_curve"]}, run
        assert int(last["val_tokens"]) == j["val_tokens_final"] > j["val_tokens_curve"], run
        assert float(last["val_loss"]) < float(curve[0]["val_loss"]), run
        assert all(float(r["seconds"]) >= 0 for r in rs)


@claim
def runs_of_a_seed_see_the_same_text_and_those_of_another_do_not():
    runs = rows("reference") if reference() else None
    losses = [[float(r["val_loss"]) for r in runs["scratch", s]] for s in [1, 2]]
    assert losses[0] != losses[1]
    confs = [read_json(tmp("reference"), "runs", f"{a}-{s}.json") for a in ARMS for s in [1, 2]]
    same = ["data", "batch_size", "max_seq_len", "eval_fraction", "schedule", "tokenizer", "mixed_precision"]
    assert all(c[k] == confs[0][k] for c in confs for k in same)
    assert [c["seed"] for c in confs] == [1, 2] * len(ARMS)


# -- the same bits ----------------------------------------------------------------------------------------------

@claim
def two_runs_at_a_time_and_two_threads_give_the_same_bits():
    reference()
    arms = ["scratch", "g4"]
    for name, flags in [("jobs", ["--jobs", 2]), ("threads", ["-t", 2])]:
        study(name, *SHORT, "--arms", "g4", "--seeds", 2, *flags, spread=True)
        assert bits(name) == bits("reference", arms), name


@claim
def a_study_killed_anywhere_is_resumed_to_the_same_bits():
    reference()
    args = ["--text", text(), *map(str, SHORT), "--arms", "g4", "--seeds", "2", "--resume", "-q"]
    path = tmp("killed/gstack.csv")
    for kill in range(3):
        p = subprocess.Popen([BIN, "bench", "gstack", "--out", tmp("killed"), *args], stdout=subprocess.DEVNULL,
                             env=environment())
        size = os.path.getsize(path) if os.path.exists(path) else 0
        while p.poll() is None and (not os.path.exists(path) or os.path.getsize(path) <= size + 3000 * kill):
            time.sleep(0.005)
        p.kill()
        p.wait()
        with open(path, "ab") as f:
            f.write(b"g4,2,128,1e6")  # torn, as by a full disk
    before = os.path.getsize(path)
    study("killed", *SHORT, "--arms", "g4", "--seeds", 2, "--resume")
    assert before > 0 and bits("killed") == bits("reference", ["scratch", "g4"])


@claim
def whole_runs_are_kept_when_more_is_asked_for():
    study("more", *SHORT, "--arms", "g2", "--seeds", 1)
    before = rows("more")
    j = study("more", *SHORT, "--arms", "zero", "--seeds", 2, "--resume")
    after = rows("more")
    assert [a["arm"] for a in j["arms"]] == ["scratch", "zero"]
    assert all(after[run] == rs for run, rs in before.items()), "a run was repeated: its seconds have changed"
    assert set(after) == {("scratch", 1), ("scratch", 2), ("zero", 1), ("zero", 2), ("g2", 1)}
    refuses(2, "--resume", "bench", "gstack", "--text", text(), *SHORT, "--out", tmp("more"), "-q")
    for change, part in [(["--tokens", 7000], "another tokens"), (["--lr", 0.02], "another lr"),
                         (["--tier", "S0"], "another tier")]:
        refuses(2, part, "bench", "gstack", "--text", text(), *SHORT, *change, "--out", tmp("more"), "--resume", "-q")


# -- what is said of it -----------------------------------------------------------------------------------------

def reach(curve, level):
    """FLOPs at which a curve [(flops, loss)] first comes down to the level."""
    for i, (flops, loss) in enumerate(curve):
        if loss <= level and i:
            x0, y0 = curve[i - 1]
            return x0 * (flops / x0) ** ((y0 - level) / (y0 - loss))
    return math.nan


@claim
def figures_follow_from_the_csv():
    j, runs = reference(), rows("reference")
    final = {run: float(rs[-1]["val_loss"]) for run, rs in runs.items()}
    curve = {run: [(float(r["flops"]), float(r["val_loss"])) for r in rs[:-1]] for run, rs in runs.items()}
    for arm in j["arms"]:
        each = [final[arm["arm"], s] for s in [1, 2]]
        assert arm["final_loss"]["each"] == each and arm["final_loss"]["n"] == 2
        close(arm["final_loss"]["mean"], sum(each) / 2)
        if arm["arm"] == "scratch":
            continue
        d = [final[arm["arm"], s] - final["scratch", s] for s in [1, 2]]
        close(arm["difference"]["mean"], sum(d) / 2)
        assert abs(arm["difference"]["ci95"] - 12.7062047 * abs(d[0] - d[1]) / 2) < 1e-6  # t of one degree of freedom
        at_end = arm["speedup"][3]
        assert at_end["level"] == "scratch at 100 %"
        for s in [1, 2]:
            level = min(loss for _, loss in curve["scratch", s])
            want = reach(curve["scratch", s], level) / reach(curve[arm["arm"], s], level) - 1
            got = at_end["each"][s - 1]
            assert got is None and math.isnan(want) or abs(got - want) < 1e-9, (arm["arm"], s, got, want)
        low, high = arm["difference"]["mean"] - arm["difference"]["ci95"], \
            arm["difference"]["mean"] + arm["difference"]["ci95"]
        word = "higher" if low > 0 else "lower" if high < 0 else "no effect"
        assert arm["verdict"].startswith(word), arm
        assert ("claim_holds" in arm) == (arm["arm"] in ["g2", "g4", "zero"])
    small = sum(final["base", s] - final["scratch", s] for s in [1, 2]) < 0
    assert j["checks"]["small_model_beats_scratch"] == small


@claim
def one_seed_has_no_interval_and_no_verdict():
    j = study("one", *SHORT, "--arms", "g4", "--seeds", 1)
    g4 = j["arms"][1]
    assert g4["difference"]["mean"] is not None and g4["difference"]["ci95"] is None
    assert g4["verdict"].startswith("no verdict") and g4["claim_holds"] is None
    assert j["checks"] == {"small_model_beats_scratch": None, "random_stack_is_like_scratch": None}


@claim
def learning_rates_are_tuned_on_short_runs_and_the_choice_is_shown():
    j = study("tuned", "--tier", "nano", "--tokens", 20000, "--arms", "scratch", "--seeds", 1)
    runs = rows("tuned")
    for shape, layers in [("scratch", 8), ("base", 2)]:
        tried = [t for t in j["tuning"] if t["shape"] == shape]
        assert 3 <= len(tried) <= 5 and all(t["layers"] == layers for t in tried)
        best = min(tried, key=lambda t: t["loss"])
        assert [t for t in tried if t["best"]] == [best] and j["learning_rates"][shape] == best["rate"]
        edge = best in [tried[0], tried[-1]]
        assert not edge or len(tried) == 5, "a best rate at the edge asks for one more"
        for t in tried:
            rs = runs[f"lr-{shape}-{t['rate']:g}", 0]
            assert float(rs[-1]["val_loss"]) == t["loss"]
            assert abs(float(rs[-1]["flops"]) / j["budget_flops"] - 0.1) < 0.005
    assert read_json(tmp("tuned"), "runs", "scratch-1.json")["learning_rate"] == j["learning_rates"]["scratch"]


@claim
def a_table_a_chart_and_a_study_that_train_repeats():
    reference()
    out = pumice("bench", "gstack", "--text", text(), *SHORT, "--arms", ",".join(ARMS), "--seeds", 2, "--resume",
                 "--out", tmp("reference")).out
    for part in ["| g4 |", "minus scratch", "speedup", "g4 against scratch: ", "the claim ", "The small model, trained on"]:
        assert part in out, (part, out)
    have = set(os.listdir(tmp("reference")))
    assert {"gstack.csv", "gstack.json", "gstack.gp", "gstack.dat", "settings.json", "tokenizer"} <= have, have
    gnuplot = any(os.access(os.path.join(p, "gnuplot"), os.X_OK) for p in os.environ["PATH"].split(":"))
    assert [n in have for n in ["gstack.svg", "gstack.png"]] == [gnuplot, gnuplot]
    pumice("train", tmp("reference/runs/g4-1.json"), "-q")
    with open(tmp("reference/runs/g4-1/log.jsonl"), encoding="utf-8") as f:
        steps = [json.loads(line) for line in f]
    last = [s for s in steps if "loss" in s][-1]
    assert last["flops"] == next(a for a in reference()["arms"] if a["arm"] == "g4")["flops"]


@claim
def a_text_that_is_shorter_than_an_arm_needs_is_told():
    few = write_text("short.txt", words_text(20000).replace("Once", "<|endoftext|>Once"))
    r = pumice("bench", "gstack", "--text", few, *SHORT, "--tokens", 10000, "--arms", "base", "--seeds", 1, "--out",
               tmp("short"))
    base = read_json(tmp("short"), "gstack.json")["arms"][1]
    assert base["epochs"] > 1 and f"base ({base['epochs']:.2f} epochs)" in r.out, r.out
    assert "epochs" in r.err, r.err


@claim
def help_fits_80_columns():
    out = pumice("bench", "gstack", "--help").out
    assert out.startswith("usage: pumice bench gstack") and all(len(line) <= 80 for line in out.split("\n")), out


@claim
def what_cannot_be_is_refused():
    few = write_text("few.txt", "A cat.<|endoftext|>A dog.<|endoftext|>")
    for args, part, status in [
            ([], "--text is missing", 2), (["--text", text(), "--tier", "S9"], "--tier: 'S9' is not S0", 2),
            (["--text", text(), "--arms", "g3"], "--arms: 'g3' is not scratch", 2),
            (["--text", text(), "--dtype", "f16"], "--dtype: 'f16' is not f32 or bf16", 2),
            (["--text", few], "--text: ", 2), (["--text", "/nonexistent/t"], "/nonexistent/t", 4),
            (["--text", text(), "--seeds", 0], "--seeds", 2), (["--text", text(), "--jobs", 65], "--jobs", 2)]:
        out = tmp("refused-" + str(len(os.listdir(tmp("")))))
        refuses(status, part, "bench", "gstack", "--tier", "nano", *args, "--out", out, "-q")
    reference()
    path = tmp("reference/gstack.csv")
    with open(path, encoding="utf-8") as f:
        good = f.read()
    write_text("reference/gstack.csv", good.replace("scratch,1,256,", "scratch,one,256,", 1))
    refuses(3, path, "bench", "gstack", "--text", text(), *SHORT, "--out", tmp("reference"), "--resume", "-q")
    write_text("reference/gstack.csv", good)
    with open(tmp("reference/lock"), "w", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        refuses(7, tmp("reference"), "bench", "gstack", "--text", text(), *SHORT, "--out", tmp("reference"), "--resume")


main()
