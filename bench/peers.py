#!/usr/bin/env python3
"""peers.py - pumice and other engines on the same GGUF files, sample by sample in turns in one run.

  bench/peers.py build/pumice --peer 'NAME=[VARIABLE=VALUE ...] PATH/llama-bench [flags]' ... [options] FILE.gguf ...
  bench/peers.py build/pumice --peer 'a=/opt/a/llama-bench -fa 1' --peer 'a=/opt/a/llama-bench -fa 0' model-q8_0.gguf

A peer is a program with llama-bench's flags and JSON, or with llama-batched-bench's flags and table (for tests of several
sequences); which of the two it is its --help tells.  Peers are no part of the project: build them yourself, and give each
the flags that suit it.  Commands of one NAME are alternatives: for every test the fastest of them in a first pass is the one
that is compared (--no-tune: the first).  PUMICE too may be a command: 'PUMICE_ISA=avx2 build/pumice --kv-dtype int8'.

FILE.gguf=TYPE has pumice compute in TYPE (its --dtype), the peers still in the file's own.  A test is ppN, a prompt of N
tokens, or tgN, N generated, then perhaps @D, behind D tokens that do not count, and xB, for B sequences at a time; its rate
counts the tokens of all sequences.

Each of -r rounds runs every program once in a process of its own, in an order that rotates; a process takes -n samples after
a warm-up, and its median is the round's figure.  Ratios are of rounds, so that what slows both alike does not count.  The
limit is pumice's, probed around its samples; a peer's share is its rate over the limit of the same round.
"""

import argparse
import csv
import json
import os
import re
import statistics
import sys

from command import Command, Fail, finish, note, peer_of

TEST = re.compile(r"(pp|tg)([1-9][0-9]{0,5})(?:@([0-9]{1,6}))?(?:x([1-9][0-9]{0,2}))?")
TABLE_ROW = re.compile(r"^\|" + r"\s*([0-9.]+)\s*\|" * 10 + r"\s*$")  # of llama-batched-bench


class Test:
    def __init__(self, text):
        m = TEST.fullmatch(text)
        if not m:
            raise argparse.ArgumentTypeError(f"'{text}' is not ppN or tgN, perhaps with @DEPTH and xBATCH")
        self.text, self.kind, self.n = text, m[1], int(m[2])
        self.depth, self.batch = int(m[3] or 0), int(m[4] or 1)


def number(row, key, what):
    x = row.get(key)
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        raise Fail(f"{what}: its JSON has no number '{key}': {json.dumps(row)[:200]}")
    return x


# -- the programs ----------------------------------------------------------------------------------------------------

class Pumice(Command):
    def sample(self, a, path, dtype, test):
        """{"rate", "fraction", "dtype", "kv_dtype", "machine", "limits"}"""
        out, _ = self.run(["bench", "--model", path, "--dtype", dtype or "native", "--test", f"{test.kind}{test.n}", "-d",
                           test.depth, "--batch", test.batch, "--threads", a.threads, "-r", a.samples, "--json", *self.flags], a)
        try:
            j = json.loads(out)
            (row,), (limits,) = j["rows"], j["limits"]
            return {"rate": number(row, "tok_per_s", self.what), "fraction": number(row, "limit_fraction", self.what),
                    "dtype": row["dtype"], "kv_dtype": row["kv_dtype"], "machine": j["machine"], "limits": limits}
        except (ValueError, KeyError, TypeError):
            raise Fail(f"{self.what}: not the JSON of `bench`: {out[:200]!r}") from None


class LlamaBench(Command):
    def __init__(self, text, what, usage):
        super().__init__(text, what)
        self.depth, self.after = "--n-depth" in usage, "-gp <" in usage
        self.commit = None

    def has(self, test):
        return test.batch == 1 and (not test.depth or self.depth or test.kind == "tg" and self.after)

    def sample(self, a, path, test):
        args = ["-p", test.n, "-n", 0] if test.kind == "pp" else ["-p", 0, "-n", test.n]
        want = {"n_prompt": args[1], "n_gen": args[3], "n_threads": a.threads}
        if test.depth and self.depth:
            args += ["-d", test.depth]
            want["n_depth"] = test.depth
        elif test.depth:  # another form: generation behind a prompt that does not count
            args = ["-p", 0, "-n", 0, "-gp", f"{test.depth},{test.n}"]
            want.update(n_prompt=test.depth, n_gen=test.n)
        out, _ = self.run(["-m", path, "-t", a.threads, "-r", a.samples, "-o", "json", *args, *self.flags], a)
        return self.rate(out, want)

    def rate(self, out, want):
        start = re.search(r"^\[\s*$", out, re.MULTILINE)  # some print lines of their own first
        try:
            rows = json.loads(out[start.start():]) if start else None
        except ValueError:
            rows = None
        if not isinstance(rows, list) or len(rows) != 1 or not isinstance(rows[0], dict):
            raise Fail(f"{self.what}: not llama-bench's JSON with one row: {out[:200]!r}")
        row, rates = rows[0], rows[0].get("samples_ts")
        for key, value in want.items():
            if number(row, key, self.what) != value:
                raise Fail(f"{self.what}: measured {key} = {row[key]}, not {value}; a flag of yours?")
        if not isinstance(rates, list) or not rates or not all(isinstance(x, (int, float)) and x > 0 for x in rates):
            raise Fail(f"{self.what}: its JSON has no list of rates 'samples_ts': {json.dumps(row)[:200]}")
        self.commit = row.get("build_commit")
        return statistics.median(rates)


class BatchedBench(Command):
    commit = None

    def has(self, test):
        return test.batch > 1 and (test.depth > 0) == (test.kind == "tg")

    def sample(self, a, path, test):
        pp, tg = (test.n, 1) if test.kind == "pp" else (test.depth, test.n)
        out, err = self.run(["-m", path, "-t", a.threads, "-c", test.batch * (pp + tg), "-b", 2048, "-ub", 512, "-npp", pp,
                             "-ntg", tg, "-npl", ",".join([str(test.batch)] * a.samples), *self.flags], a)
        rows = [[float(x) for x in m.groups()] for m in map(TABLE_ROW.match, (out + err).splitlines()) if m]
        if len(rows) != a.samples or any(row[:3] != [pp, tg, test.batch] for row in rows):
            raise Fail(f"{self.what}: not llama-batched-bench's table with {a.samples} rows of {pp}, {tg}, {test.batch}: "
                       f"{(out or err)[-200:]!r}")
        return statistics.median(row[5 if test.kind == "pp" else 7] for row in rows)


def open_peer(text, a):
    """(name, program)"""
    name, command = peer_of(text)
    usage = "".join(Command(command, name).run(["--help"], a, check=False))
    if "-npl" in usage:
        return name, BatchedBench(command, name)
    if "--n-prompt" in usage and "--n-gen" in usage:
        return name, LlamaBench(command, name, usage)
    raise Fail(f"{name}: its --help is neither llama-bench's nor llama-batched-bench's: {usage[:200]!r}")


# -- one file and test -----------------------------------------------------------------------------------------------

def choose(a, alternatives, path, test):
    """The fastest of a peer's commands for this test, None where it has no such test.  One that fails is an error."""
    able = [p for p in alternatives if p.has(test)]
    if len(able) < 2 or a.no_tune:
        return able[0] if able else None
    rates = [p.sample(a, path, test) for p in able]
    for p, rate in zip(able, rates):
        note(f"{os.path.basename(path)} {test.text}: {rate:.1f} with {p.what}={p.text}")
    return able[rates.index(max(rates))]


def compare(a, ours, peers, path, dtype, test):
    """The row of a file and a test."""
    chosen = {name: choose(a, alternatives, path, test) for name, alternatives in peers.items()}
    chosen = {name: p for name, p in chosen.items() if p}
    rounds = []
    for i in range(a.rounds):
        names = ["", *chosen]
        result = {}
        for name in names[i % len(names):] + names[:i % len(names)]:
            result[name] = chosen[name].sample(a, path, test) if name else ours.sample(a, path, dtype, test)
        rounds.append(result)
        note(f"{os.path.basename(path)} {test.text}: pumice {result['']['rate']:.1f}" +
             "".join(f", {name} {result[name]:.1f}" for name in chosen))
    return make_row(a, path, dtype, test, chosen, rounds)


def spread(values):
    return {"tok_per_s": statistics.median(values), "tok_per_s_min": min(values), "tok_per_s_max": max(values)}


def make_row(a, path, dtype, test, chosen, rounds):
    first = rounds[0][""]
    row = {"file": os.path.basename(path), "test": test.text, "dtype": first["dtype"], "kv_dtype": first["kv_dtype"],
           "as": dtype, "threads": a.threads, "rounds": a.rounds, "samples": a.samples,
           "read_gb_per_s": statistics.median(r[""]["limits"].get("read_gb_per_s", 0) for r in rounds),
           "pumice": {**spread([r[""]["rate"] for r in rounds]),
                      "limit_fraction": statistics.median(r[""]["fraction"] for r in rounds)},
           "peers": {}}
    for name, p in chosen.items():
        ratios = [r[""]["rate"] / r[name] for r in rounds]
        row["peers"][name] = {
            **spread([r[name] for r in rounds]),
            "limit_fraction": statistics.median(r[name] * r[""]["fraction"] / r[""]["rate"] for r in rounds),
            "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios), "command": p.text,
            "build_commit": p.commit}
    row["ratio"] = min((p["ratio"] for p in row["peers"].values()), default=None)  # beside the best peer
    return row


# -- output ----------------------------------------------------------------------------------------------------------

def show_head(names):
    titles = ["file", "test", "pumice tok/s", "min..max", "of limit"]
    for name in names:
        titles += [f"{name} tok/s", "min..max", "of limit", f"pumice / {name}", "min..max"]
    print("| " + " | ".join(titles) + " |\n|---|---|" + "--:|" * (len(titles) - 2), flush=True)


def show(row, names):
    def side(s):
        return [f"{s['tok_per_s']:.1f}", f"{s['tok_per_s_min']:.1f}..{s['tok_per_s_max']:.1f}",
                f"{100 * s['limit_fraction']:.0f} %"]
    cells = [row["file"] + (f" as {row['as']}" if row["as"] else ""), row["test"], *side(row["pumice"])]
    for name in names:
        p = row["peers"].get(name)
        cells += [*side(p), f"{p['ratio']:.2f}", f"{p['ratio_min']:.2f}..{p['ratio_max']:.2f}"] if p else ["-"] * 5
    print("| " + " | ".join(cells) + " |", flush=True)


def show_commands(rows, names):
    """The command that was compared, once for all tests that it won."""
    for name in names:
        won = {}
        for row in rows:
            if name in row["peers"]:
                p = row["peers"][name]
                won.setdefault((p["command"], p["build_commit"]), []).append(f"{row['file']} {row['test']}")
        for (command, commit), tests in won.items():
            print(f"\n{name}{f' ({commit})' if commit else ''}, `{command}`: {', '.join(tests)}")


def write_csv(rows):
    w = csv.writer(sys.stdout, lineterminator="\n")
    w.writerow(["file", "as", "test", "threads", "engine", "tok_per_s", "tok_per_s_min", "tok_per_s_max", "limit_fraction",
                "ratio", "ratio_min", "ratio_max", "command"])
    for row in rows:
        for engine, s in [("pumice", row["pumice"]), *row["peers"].items()]:
            w.writerow([row["file"], row["as"] or "", row["test"], row["threads"], engine, s["tok_per_s"],
                        s["tok_per_s_min"], s["tok_per_s_max"], s["limit_fraction"], s.get("ratio", ""),
                        s.get("ratio_min", ""), s.get("ratio_max", ""), s.get("command", "")])


# -- the command -----------------------------------------------------------------------------------------------------

def parse():
    def tests(text):
        return [Test(t) for t in text.split(",")]

    def positive(text):
        n = int(text)
        if n < 1:
            raise ValueError
        return n

    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                epilog="The comment at the top of this file tells what is measured and how.")
    p.add_argument("pumice", help="the program, such as build/pumice")
    p.add_argument("files", nargs="+", metavar="FILE.gguf[=TYPE]", help="models; TYPE: what pumice computes in")
    p.add_argument("--peer", action="append", default=[], required=True, metavar="NAME=COMMAND",
                   help="a llama-bench or llama-batched-bench, with flags; again with the same NAME: an alternative")
    p.add_argument("--test", type=tests, default="pp512,pp2048,tg128,tg128@2048", metavar="LIST",
                   help="such as pp512,tg128@2048,tg64@128x16 (default pp512,pp2048,tg128,tg128@2048)")
    p.add_argument("-t", "--threads", type=positive, default=2)
    p.add_argument("-r", "--rounds", type=positive, default=5, help="of every program in turns (default 5)")
    p.add_argument("-n", "--samples", type=positive, default=1, help="in a round, by one process (default 1)")
    p.add_argument("--no-tune", action="store_true", help="take the first command of each NAME")
    p.add_argument("--timeout", type=positive, default=600, metavar="S", help="of one process (default 600)")
    form = p.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--csv", action="store_true")
    return p.parse_args()


def measure(a, rows):
    ours, peers = Pumice(a.pumice, "pumice"), {}
    for text in a.peer:
        name, program = open_peer(text, a)
        peers.setdefault(name, []).append(program)
    files = []
    for text in a.files:
        path, _, dtype = text.partition("=")
        if not os.path.exists(path):
            raise Fail(f"{path}: no such file")
        files.append((os.path.abspath(path), dtype))
    table = not a.json and not a.csv
    if table:
        print(f"{a.threads} threads, medians of {a.rounds} rounds of {a.samples}; load average at the start "
              f"{os.getloadavg()[0]:.1f}\n")
        show_head(peers)
    for path, dtype in files:
        for test in a.test:
            rows.append(compare(a, ours, peers, path, dtype, test))
            if table:
                show(rows[-1], peers)
    if table:
        show_commands(rows, peers)


def main():
    a = parse()
    finish("peers", a, measure, lambda rows, load: write_csv(rows) if a.csv else None)


main()
