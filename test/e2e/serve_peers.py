"""serve_peers.py - bench/serve_peers.py beside a program that answers as llama-server does, and beside pumice itself."""

import json
import os
import socket
import subprocess
import sys

from harness import BIN, ROOT, VOCAB, claim, environment, made, main, tmp

FAKE = """#!%s
# A peer: BREAK is how it fails; it appends its flags, and the prompts that it gets, to LOG.
import http.server, json, os, sys, threading
args, broken = sys.argv[1:], os.environ.get("BREAK", "")
opt = lambda name: args[args.index(name) + 1]
if args == ["--help"]:
    print("usage: NOTHING" if broken == "help" else "-c, --ctx-size N\\n-np, --parallel N")
    sys.exit()

def log(*words):
    with open(os.environ["LOG"], "a") as f:
        print(os.environ.get("NAME"), *words, file=f)

log("start", *args)
open("left-behind", "w").close()
if broken == "start":
    sys.exit("first\\nerror: failed to load model")
if broken == "busy":
    threading.Thread(target=lambda: all(x == 0 for x in iter(int, 1)), daemon=True).start()
read = threading.Semaphore(0)  # the client has all of the long prompt's answer

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def reply(self, data, kind="application/json", status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/metrics":
            return self.reply(b"", status=501)
        vocab = %d if broken != "vocab" else 100
        self.reply(json.dumps({"data": [{"id": "m", "meta": {"n_vocab": vocab}}]}).encode())

    def do_POST(self):
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        log("prompt", *ask["prompt"])
        n = ask["max_tokens"] - (broken == "tokens")
        if broken == "hang":
            threading.Event().wait(60)
        if broken == "wait":
            return self.wait(n, len(ask["prompt"]))
        events = [{"choices": [{"text": "a"}]} for _ in range(n)]
        usage = {"prompt_tokens": len(ask["prompt"]), "completion_tokens": n}
        events.append({"choices": [{"text": "", "finish_reason": "length"}], "usage": usage})
        lines = ["data: " + json.dumps(e) + "\\n\\n" for e in events] + ["data: [DONE]\\n\\n"]
        self.reply("".join(lines).encode(), "text/event-stream", 500 if broken == "status" else 200)

    def wait(self, n, n_prompt):
        # An answer of one token is the long prompt's; others stop after a quarter until that has been read.
        say = lambda e: self.wfile.write(b"data: " + e.encode() + b"\\n\\n")
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for i in range(n):
            if i == -(-n // 4) and not read.acquire(timeout=60):
                return
            say(json.dumps({"choices": [{"text": "a"}]}))
        say(json.dumps({"choices": [], "usage": {"prompt_tokens": n_prompt, "completion_tokens": n}}))
        say("[DONE]")
        self.close_connection = True
        if n == 1:
            self.connection.shutdown(1)
            self.connection.recv(1)
            read.release(int(opt("-np")) - 1)

http.server.ThreadingHTTPServer(("127.0.0.1", int(opt("--port"))), Handler).serve_forever()
"""


def fake():
    path = tmp("fake-server")
    with open(path, "w", encoding="ascii") as f:
        f.write(FAKE % (sys.executable, VOCAB))
    os.chmod(path, 0o755)
    return path


def compare(*args, status=0, pumice=BIN):
    """(result, lines of the peers' log)"""
    log = tmp("serve-peers-log")
    if os.path.exists(log):
        os.remove(log)
    small = ["-t", 1, "--streams", 2, "--input", 12, "--output", 6, "-c", 64, "-r", 2]
    p = subprocess.run([sys.executable, os.path.join(ROOT, "bench", "serve_peers.py"), pumice, *map(str, [*small, *args])],
                       capture_output=True, text=True, timeout=300, env=environment(LOG=log, PYTHONDONTWRITEBYTECODE="1"),
                       check=False)
    assert p.returncode == status, (p.returncode, p.stdout, p.stderr)
    lines = []
    if os.path.exists(log):
        with open(log, encoding="utf-8") as f:
            lines = f.read().splitlines()
    return p, lines


@claim
def servers_get_the_same_prompts_and_ratios_are_of_rounds():
    p, log = compare("--peer", f"a=NAME=a {fake()} --flag", "--json", "-n", 3, made("chat"))
    j = json.loads(p.stdout)
    (row,) = j["rows"]
    ours, theirs = row["servers"]["pumice"], row["servers"]["a"]
    assert not os.path.exists("left-behind"), "a peer's file where the script was started"
    assert j["complete"] and (row["streams"], row["prompts"], row["rounds"], row["context"]) == (2, 3, 2, 64), row
    rate, ratio = theirs["total_token_throughput"], theirs["total_token_throughput"]["pumice_ratio"]
    assert 0 < rate["min"] <= rate["median"] <= rate["max"] and 0 < ratio["min"] <= ratio["max"], theirs
    low, high = (ours["total_token_throughput"][k] for k in ("min", "max"))
    assert low / rate["max"] * 0.999 <= ratio["median"] <= high / rate["min"] * 1.001, (ratio, low, high, rate)
    assert ours["kv_held_bytes"] >= ours["kv_held_first_bytes"] > 0 and ours["kv_static_bytes"] > 0 and theirs["kv_held_bytes"] is None, (ours, theirs)
    assert ours["peak_bytes"] > 1 << 20 and theirs["command"].endswith("--flag") and ours["client_cpu_fraction"] > 0
    assert "pumice_ratio" not in ours["p99_ttft_ms"] and ours["p99_ttft_ms"]["median"] > 0, ours
    start = log[0].split()
    assert start[:6] == ["a", "start", "-m", made("chat"), "--host", "127.0.0.1"], start
    assert start[-7:] == ["-t", "1", "-np", "2", "-c", "128", "--flag"], start
    prompts = [tuple(x.split()[2:]) for x in log if x.split()[1] == "prompt"]
    assert len(prompts) == 8 and all(len(x) == 12 for x in prompts), prompts  # 2 that do not count, and 3 a round
    assert len({x[0:2] for x in prompts}) == 8, "prompts that begin alike"


@claim
def a_long_prompt_comes_while_all_answers_run():
    both = tmp("both")  # the client is pumice, the server waits: no other order of events is possible
    with open(both, "w", encoding="ascii") as f:
        f.write(f'#!/bin/sh\n[ "$1" = serve ] && exec env BREAK=wait NAME=p {fake()} "$@"\nexec {BIN} "$@"\n')
    os.chmod(both, 0o755)
    p, log = compare("--peer", f"a=NAME=a BREAK=wait {fake()}", "--long", 40, "-c", 64, "-r", 1, "--json", made("chat"),
                     pumice=both)
    (row,) = json.loads(p.stdout)["rows"]
    assert (row["long_prompt"], row["streams"]) == (40, 2), row
    for side in row["servers"].values():
        before, during = side["p50_itl_before_long_ms"]["median"], side["max_itl_during_long_ms"]["median"]
        assert 0 <= before and 0 < during and side["long_ttft_ms"]["median"] > 0, side
    assert row["servers"]["a"]["max_itl_during_long_ms"]["pumice_ratio"]["median"] > 0, row
    assert [x[x.index("-np"):] for x in log if x.split()[1] == "start"] == ["-np 3 -c 64", "-np 3 -c 192"], log
    lengths = [len(x.split()) - 2 for x in log if x.startswith("a prompt")]
    assert sorted(lengths) == [12] * 4 + [40] * 2 and lengths[2] == lengths[5] == 40, lengths
    p, _ = compare("--peer", f"a={fake()}", "--long", 20, made("chat"), pumice=both, status=1)
    assert "a stream ended before the long prompt was read" in p.stderr, p.stderr  # that peer sends all at once


@claim
def the_best_of_a_peers_commands_is_compared():
    commands = [f"a=NAME={n} {fake()} --{n}" for n in ("x", "y")]
    p, log = compare("--peer", commands[0], "--peer", commands[1], "-r", 1, made("chat"))
    starts = [x.split()[0] for x in log if x.split()[1] == "start"]
    assert starts[:2] == ["x", "y"] and len(starts) == 3 and starts[2] in "xy", starts
    assert f"a: `NAME={starts[2]} " in p.stdout and "| tokens/s |" in p.stdout, p.stdout
    p, log = compare("--peer", commands[0], "--peer", commands[1], "-r", 1, "--no-tune", made("chat"))
    assert [x.split()[0] for x in log if x.split()[1] == "start"] == ["x"], log


@claim
def what_a_peer_does_wrong_is_told():
    for broken, part in [("start", "a: exit status 1 before it was ready"), ("help", "neither llama-server's nor pumice's"),
                         ("tokens", "asked for 12 + 6 tokens, the server counts 12 + 5, 5 with text"),
                         ("status", "HTTP 500"), ("busy", "while it had no work"), ("vocab", "the same vocabulary")]:
        p, _ = compare("--peer", f"a=BREAK={broken} {fake()}", "--json", made("chat"), status=1)
        assert p.stderr.splitlines()[-1].startswith("serve_peers: ") or "\n  " in p.stderr, (broken, p.stderr)
        assert part in p.stderr and (broken == "help" or not json.loads(p.stdout)["complete"] if p.stdout else True), p.stderr
        assert broken != "start" or "failed to load model" in p.stderr, p.stderr
    for peer, part in [("odd=/nonexistent/x", "odd: /nonexistent/x: No such file"), ("odd", "not NAME=COMMAND"),
                       ("pumice=" + fake(), "the name of the first program")]:
        assert part in compare("--peer", peer, made("chat"), status=1)[0].stderr, peer
    assert "/nonexistent.gguf: no such file" in compare("--peer", f"a={fake()}", "/nonexistent.gguf", status=1)[0].stderr
    assert "not pumice" in compare("--peer", f"a={fake()}", made("chat"), status=1, pumice=fake())[0].stderr


@claim
def servers_do_not_outlive_the_script():
    peer = f"a=BREAK=hang {fake()}"
    words = [sys.executable, os.path.join(ROOT, "bench", "serve_peers.py"), BIN, "--peer", peer, "--streams", "2", made("chat")]
    log = tmp("serve-peers-log")
    if os.path.exists(log):
        os.remove(log)
    p = subprocess.Popen(words, stderr=subprocess.PIPE, env=environment(LOG=log, PYTHONDONTWRITEBYTECODE="1"))
    while not os.path.exists(log) or " prompt " not in open(log, encoding="utf-8").read():
        assert p.poll() is None, p.stderr.read()
    p.terminate()
    assert p.wait(timeout=60) == 130
    port = open(log, encoding="utf-8").read().split("--port ")[1].split()[0]
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", int(port))) != 0, "the peer still listens"


main()
