#!/usr/bin/env python3
"""serve_peers.py - pumice's server and others on the same GGUF file, driven in turns by one client in one run.

  bench/serve_peers.py build/pumice --peer 'NAME=[VARIABLE=VALUE ...] PATH/llama-server [flags]' ... [options] FILE.gguf
  bench/serve_peers.py build/pumice --peer 'prefill-first=build/pumice --schedule prefill-first' --long 2000 FILE.gguf

A peer is a program with llama-server's flags and OpenAI's /v1/completions, or pumice itself with other flags; which of the
two it is its --help tells.  Peers are no part of the project: build them yourself, and give each the flags that suit it;
they come last and may say otherwise than this script.  Commands of one NAME are alternatives: the best of them in a first
pass is the one that is compared (--no-tune: the first).  PUMICE too may be a command: 'build/pumice -b 256'.

All servers that are compared run at the same time, each with as many threads, slots and tokens of context a slot; only one
of them has work at a time, and one that computes while it should be idle ends the run.  In each of -r rounds every server
gets the same requests from `pumice bench serve` (-n prompts of random ids, --streams at a time, so many tokens each), in an
order that rotates.  No two prompts of the run begin alike, so no cache of prompts helps anybody.  A server that counts other
tokens than were asked for ends the run.  Ratios are of rounds, so that what slows all alike does not count.

With --long N, --streams answers run, and when each has a quarter of its tokens a prompt of N tokens comes: "before" are the
gaps between tokens until then, "during" those that touch the time until its first token.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from command import Command, Fail, finish, how_it_ended, last_lines, note, peer_of

METRICS = [("total_token_throughput", "tokens/s"), ("output_throughput", "output tokens/s"),
           ("request_throughput", "requests/s"), ("p50_ttft_ms", "TTFT p50, ms"), ("p99_ttft_ms", "TTFT p99, ms"),
           ("p50_itl_ms", "ITL p50, ms"), ("p99_itl_ms", "ITL p99, ms"), ("max_itl_ms", "ITL max, ms")]
LONG = [("p50_itl_before_long_ms", "ITL before, p50, ms"), ("p99_itl_before_long_ms", "ITL before, p99, ms"),
        ("p50_itl_during_long_ms", "ITL during, p50, ms"), ("p99_itl_during_long_ms", "ITL during, p99, ms"),
        ("max_itl_during_long_ms", "ITL during, max, ms"), ("long_ttft_ms", "TTFT of the long prompt, ms"),
        ("output_throughput", "output tokens/s")]
IDLE = 0.05  # of a core: more than a server without work may use


def metrics(a):
    return LONG if a.long else METRICS


# -- servers ---------------------------------------------------------------------------------------------------------

class Server(Command):
    """A command that can be started; use with `with`."""

    def __init__(self, text, what, a):
        super().__init__(text, what)
        self.a, self.p = a, None
        usage = "".join(self.run(["--help"], a, check=False))
        self.ours = usage.startswith("usage: pumice")
        if not self.ours and not ("--parallel" in usage and "--ctx-size" in usage):
            raise Fail(f"{what}: its --help is neither llama-server's nor pumice's: {usage[:200]!r}")

    def arguments(self, path, port):
        slots = self.a.streams + (1 if self.a.long else 0)
        same = ["--host", "127.0.0.1", "--port", port, "-t", self.a.threads, "-np", slots]
        if self.ours:  # the context is of a slot
            return ["serve", path, *same, "-c", self.a.context, *self.flags]
        return ["-m", path, *same, "-c", self.a.context * slots, *self.flags]

    def start(self, path):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile("w+", errors="replace", prefix="serve-peers-")
        self.scratch = tempfile.TemporaryDirectory(prefix="serve-peers-")  # where a program may leave its log
        words = [self.program, *map(str, self.arguments(path, port))]
        try:
            self.p = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                      env={**os.environ, **self.env}, cwd=self.scratch.name)
        except OSError as e:
            raise Fail(f"{self.what}: {self.program}: {e.strerror}") from None
        self.await_ready()

    def await_ready(self):
        until = time.monotonic() + self.a.timeout
        while time.monotonic() < until:
            if self.p.poll() is not None:
                raise Fail(f"{self.what}: {how_it_ended(self.p.returncode)} before it was ready" + self.said())
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=self.a.timeout):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise Fail(f"{self.what}: not ready after {self.a.timeout} s (--timeout)" + self.said())

    def said(self):
        self.log.seek(0)
        return last_lines(self.log.read())

    def stop(self):
        if self.p is None:
            return
        self.p.send_signal(signal.SIGTERM)
        try:
            self.p.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        self.p = None
        self.log.close()
        self.scratch.cleanup()

    def cpu_seconds(self):
        with open(f"/proc/{self.p.pid}/stat", encoding="ascii", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self):
        with open(f"/proc/{self.p.pid}/status", encoding="ascii", errors="replace") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))


# -- samples ---------------------------------------------------------------------------------------------------------

def sample(a, client, server, seed, prompts=None):
    """What `bench serve` measures with the prompts of this seed."""
    args = ["bench", "serve", "--url", server.url, "--random-input-len", a.input, "--random-output-len", a.output,
            "--num-warmups", 0, "--seed", seed, "--json"]
    args += ["-n", a.streams, "--long-prompt", a.long] if a.long else ["-n", prompts or a.prompts, "--max-concurrency", a.streams]
    try:
        out, _ = client.run(args, a)
    except Fail as e:
        raise Fail(f"{server.what}: {e}" + (server.said() if server.p.poll() is not None else "")) from None
    try:
        j = json.loads(out)
        for key, _ in metrics(a):
            j[key] = float(j[key])
        j["prompts_hash"] += ""
    except (ValueError, KeyError, TypeError):
        raise Fail(f"{client.what}: not the JSON of `bench serve`: {out[:200]!r}") from None
    return j


class Idle:
    """with Idle(servers): none of them may compute meanwhile."""

    def __init__(self, servers):
        self.servers = servers

    def __enter__(self):
        self.cpu, self.begin = [s.cpu_seconds() for s in self.servers], time.monotonic()

    def __exit__(self, *failure):
        allowed = IDLE * max(1, time.monotonic() - self.begin)
        for s, cpu in zip(self.servers, self.cpu):
            if not failure[0] and s.cpu_seconds() - cpu > allowed:
                raise Fail(f"{s.what}: used {s.cpu_seconds() - cpu:.2f} s of processor time while it had no work")


def choose(a, client, alternatives, path):
    """The best of a peer's commands: most tokens/s, or with --long the shortest longest gap."""
    if len(alternatives) < 2 or a.no_tune:
        return alternatives[0]
    key, better = ("max_itl_during_long_ms", min) if a.long else ("total_token_throughput", max)
    rates = []
    for s in alternatives:
        try:
            s.start(path)
            sample(a, client, s, 1)
            rates.append(sample(a, client, s, 2)[key])
        finally:
            s.stop()
        note(f"{s.what}={s.text}: {key} {rates[-1]:.1f}")
    return alternatives[rates.index(better(rates))]


def compare(a, client, ours, peers, path):
    """The row of a file."""
    chosen = {"": ours}
    for name, alternatives in peers.items():
        chosen[name] = choose(a, client, alternatives, path)
    rounds, names, first = [], list(chosen), {}
    try:
        for name, s in chosen.items():
            s.start(path)
            first[name] = sample(a, client, s, 1, a.streams)  # touches all memory
        with Idle(chosen.values()):
            time.sleep(0.5)
        for i in range(a.rounds):
            k, result = i % len(names), {}
            for name in names[k:] + names[:k]:
                with Idle([s for n, s in chosen.items() if n != name]):
                    result[name] = sample(a, client, chosen[name], 1000 + i)
                result[name]["server_peak_bytes"] = chosen[name].peak_bytes()
            if len({j["prompts_hash"] for j in result.values()}) != 1:
                raise Fail("the servers did not get the same prompts: do they have the same vocabulary?")
            rounds.append(result)
            key, title = metrics(a)[0] if not a.long else metrics(a)[4]
            note(f"{os.path.basename(path)}, {title}: " + ", ".join(f"{n or 'pumice'} {result[n][key]:.1f}" for n in names))
    finally:
        for s in chosen.values():
            s.stop()
    return make_row(a, path, chosen, first, rounds)


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def make_row(a, path, chosen, first, rounds):
    row = {"file": os.path.basename(path), "threads": a.threads, "streams": a.streams, "input_len": a.input,
           "output_len": a.output, "long_prompt": a.long, "context": a.context, "rounds": a.rounds,
           "prompts": a.streams if a.long else a.prompts, "servers": {}}
    for name, s in chosen.items():
        mine = [r[name] for r in rounds]
        side = {"command": s.text, "peak_bytes": mine[-1]["server_peak_bytes"],
                "client_cpu_fraction": statistics.median(j["client_cpu_seconds"] / j["duration"] for j in mine)}
        for key in ("kv_held_bytes", "kv_live_bytes", "kv_static_bytes"):
            told = [j[key] for j in [first[name], *mine] if j.get(key) is not None]
            side[key] = max(told) if told else None
        side["kv_held_first_bytes"] = first[name].get("kv_held_bytes")
        for key, _ in metrics(a):
            side[key] = spread([j[key] for j in mine])
            if name and all(j[key] > 0 for j in mine):
                side[key]["pumice_ratio"] = spread([r[""][key] / r[name][key] for r in rounds])
        row["servers"][name or "pumice"] = side
    return row


# -- output ----------------------------------------------------------------------------------------------------------

def number(x):
    return f"{x:.3g}" if x < 1 else f"{x:.2f}" if x < 10 else f"{x:.1f}"


def cell(s):
    return f"{number(s['median'])} ({number(s['min'])}..{number(s['max'])})"


def mib(x):
    return "-" if x is None else f"{x / (1 << 20):.1f}"


def show(a, row):
    servers = row["servers"]
    names = [n for n in servers if n != "pumice"]
    print(f"\n{row['file']}: {row['prompts']} prompts of {row['input_len']} tokens and {row['output_len']} generated, "
          f"{row['streams']} at a time" + (f", then a prompt of {a.long}" if a.long else "") + f"; {row['threads']} threads, "
          f"{row['context']} tokens of context a slot; medians of {row['rounds']} rounds (lowest..highest)\n")
    print("| | pumice | " + " | ".join(f"{n} | pumice / {n}" for n in names) + " |\n|---|--:|" + "--:|--:|" * len(names))
    for key, title in metrics(a):
        cells = [cell(servers["pumice"][key])]
        for n in names:
            ratio = servers[n][key].get("pumice_ratio")
            cells += [cell(servers[n][key]), f"**{ratio['median']:.2f}** ({ratio['min']:.2f}..{ratio['max']:.2f})" if ratio
                      else "-"]
        print(f"| {title} | " + " | ".join(cells) + " |")
    for key, title in [("peak_bytes", "most resident memory, MiB"),
                       ("kv_held_first_bytes", f"KV memory held with the first {a.streams} answers, MiB"),
                       ("kv_held_bytes", "the same later, with what past prompts left, MiB"),
                       ("kv_static_bytes", "all slots at full context, MiB")]:
        cells = [mib(servers["pumice"][key])]
        for n in names:
            cells += [mib(servers[n][key]), "-"]
        print(f"| {title} | " + " | ".join(cells) + " |")
    busiest = max(s["client_cpu_fraction"] for s in servers.values())
    print(f"\nThe client used {100 * busiest:.1f} % of a core at most.")
    for n in names:
        print(f"{n}: `{servers[n]['command']}`")


# -- the command -----------------------------------------------------------------------------------------------------

def parse():
    def positive(text):
        n = int(text)
        if n < 1:
            raise ValueError
        return n

    p = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0],
                                epilog="The comment at the top of this file tells what is measured and how.")
    p.add_argument("pumice", help="the program, such as build/pumice; it is also the client")
    p.add_argument("files", nargs="+", metavar="FILE.gguf", help="a model with a tokenizer")
    p.add_argument("--peer", action="append", default=[], required=True, metavar="NAME=COMMAND",
                   help="a llama-server, or pumice with other flags; again with the same NAME: an alternative")
    p.add_argument("-t", "--threads", type=positive, default=2)
    p.add_argument("--streams", type=positive, default=16, help="answers at a time (default 16)")
    p.add_argument("--input", type=positive, default=256, help="tokens of a prompt (default 256)")
    p.add_argument("--output", type=positive, help="tokens generated (default 64, with --long 512)")
    p.add_argument("-n", "--prompts", type=positive, help="in a sample (default twice --streams)")
    p.add_argument("--long", type=positive, default=0, metavar="N", help="send a prompt of N tokens while all answers run")
    p.add_argument("-c", "--context", type=positive, help="tokens of a slot (default 2048, with --long what it needs)")
    p.add_argument("-r", "--rounds", type=positive, default=5, help="of every server in turns (default 5)")
    p.add_argument("--no-tune", action="store_true", help="take the first command of each NAME")
    p.add_argument("--timeout", type=positive, default=600, metavar="S", help="of one sample, or of a start (default 600)")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    a.output = a.output or (512 if a.long else 64)
    a.prompts = a.prompts or 2 * a.streams
    a.context = a.context or -(-max(2048, a.input + a.output + 1, a.long + 2) // 256) * 256
    return a


def measure(a, rows):
    client, ours, peers = Command(a.pumice, "pumice"), Server(a.pumice, "pumice", a), {}
    if not ours.ours:
        raise Fail(f"{a.pumice}: not pumice")
    for text in a.peer:
        name, command = peer_of(text)
        if name == "pumice":
            raise Fail("--peer pumice=...: that is the name of the first program")
        peers.setdefault(name, []).append(Server(command, name, a))
    for path in a.files:
        if not os.path.exists(path):
            raise Fail(f"{path}: no such file")
    for path in a.files:
        rows.append(compare(a, client, ours, peers, os.path.abspath(path)))
        if not a.json:
            show(a, rows[-1])


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers must not outlive us
    finish("serve_peers", parse(), measure, lambda rows, load: print(f"\nLoad average at the start: {load:.1f}"))


main()
