#!/usr/bin/env python3
"""serve_soak.py - `pumice serve` under load: many streams, clients that leave, slow clients, many requests.

    test/soak/serve_soak.py BINARY [--streams N] [--aborts N] [--slow N] [--requests N] [--free-ms MS] [--seed N]

Each part that is asked for starts a server of its own on a small random model. Prints what was counted as one JSON
object; exit status 1 if a claim does not hold. test/e2e/soak.py runs small sizes of it.

streams   N answers are streamed at the same moment; each must be, to the byte, that of the same request alone.
aborts    N clients leave in every state, among 32 that stay. What they asked for must leave the engine (--free-ms:
          99 % of them within MS) and its memory, every accepted sequence end exactly once, and those that stay lose no token.
slow      N clients that send their header a byte at a time, N that do so with their body, and N/4 that do not read: all
          are cut off, and others get their answers; the times of these beside those among N/4 clients that ask for
          the same and read it.
requests  N requests of many kinds after 1000 others: memory, files, threads and mappings stay as they are.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

from harness import CONTEXT  # noqa: E402
from server import PATIENCE, request, serving  # noqa: E402

PROMPTS = ["Once upon a time", "One day Tom", "the cat and the dog", "a big ship in the snow", "little bird", "red bear"]


def check(ok, what):
    if not ok:
        raise AssertionError(what)


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p))] if values else 0


# -- a client --------------------------------------------------------------------------------------------------------

async def connect(s, receive=0):
    """A connection to server s; tries again while the machine has no place for it."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", s.port))
    return await asyncio.open_connection(sock=sock, limit=1 << 20)


def hang_up(writer, reset=False):
    if reset:
        sock = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort() if reset else writer.close()


class Kept:
    """Requests one after another over one connection."""

    def __init__(self, s):
        self.s, self.r, self.w = s, None, None

    async def ask(self, method, path, body=None):
        """(status, body's bytes)"""
        if not self.w:
            self.r, self.w = await connect(self.s)
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.w.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        head = await asyncio.wait_for(self.r.readuntil(b"\r\n\r\n"), PATIENCE)
        if b"chunked" in head:
            out = b""
            while n := int(await self.r.readline(), 16):
                out += (await self.r.readexactly(n + 2))[:-2]
            await self.r.readexactly(2)
        else:
            out = await asyncio.wait_for(self.r.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1])), PATIENCE)
        return int(head[9:12]), out

    async def metrics(self):
        status, text = await self.ask("GET", "/metrics")
        check(status == 200, "no metrics")
        return {k: float(v) for k, v in re.findall(r"^(\S+) (\S+)$", text.decode(), re.M)}

    def close(self):
        if self.w:
            self.w.close()


def live(m):
    return int(m["pumice_sequences_running"] + m["pumice_sequences_waiting"])


def ended(m):
    return sum(int(v) for k, v in m.items() if k.startswith("pumice_sequences_ended_total"))


async def until_idle(kept):
    end = time.monotonic() + PATIENCE
    while live(m := await kept.metrics()):
        check(time.monotonic() < end, f"{live(m)} sequences still live after {PATIENCE} s")
        await asyncio.sleep(0.01)
    return m


def stream_of(raw):
    """(text, tokens, whole) of a streamed completion as it came over the wire."""
    head, _, body = raw.partition(b"\r\n\r\n")
    check(head.startswith(b"HTTP/1.1 200"), f"answered {raw[:200]!r}")
    data = []
    while body:
        size, _, body = body.partition(b"\r\n")
        n = int(size, 16)
        data.append(body[:n])
        body = body[n + 2:]
    events = [e for e in b"".join(data).decode().split("\n\n") if e and not e.startswith(":")]
    whole = bool(events) and events.pop() == "data: [DONE]"
    choices = [json.loads(e[6:])["choices"][0] for e in events]
    whole = whole and [c["finish_reason"] for c in choices].count("length") == 1
    return "".join(c["text"] for c in choices), sum(c["finish_reason"] is None for c in choices), whole


async def streamed(s, body, times=None):
    """One stream on a connection of its own, as it came; times: seconds to the first event and to the end."""
    began, first = time.monotonic(), 0
    r, w = await connect(s)
    w.write(request({**body, "stream": True}, extra="Connection: close\r\n"))
    parts = []
    while part := await asyncio.wait_for(r.read(1 << 16), PATIENCE):
        parts.append(part)
        first = first or (time.monotonic() if b"data: " in part else 0)
    w.close()
    if times is not None:
        times.append((first - began, time.monotonic() - began))
    return b"".join(parts)


def variant(i, tokens):
    return {"prompt": PROMPTS[i % len(PROMPTS)], "max_tokens": tokens, "ignore_eos": True, "seed": i, "top_k": 0,
            "temperature": i // len(PROMPTS) % 2}


async def alone(s, tokens, n=12):
    """The texts of n variants, each asked for by itself."""
    kept = Kept(s)
    texts = []
    for i in range(n):
        status, answer = await kept.ask("POST", "/v1/completions", variant(i, tokens))
        check(status == 200, answer)
        texts.append(json.loads(answer)["choices"][0]["text"])
    kept.close()
    return texts


# -- streams ---------------------------------------------------------------------------------------------------------

async def all_at_once(s, n, tokens):
    want = await alone(s, tokens)
    kept = Kept(s)
    before, most = await kept.metrics(), 0
    began = time.monotonic()
    tasks = [asyncio.ensure_future(streamed(s, variant(i % len(want), tokens))) for i in range(n)]
    while not all(t.done() for t in tasks):
        most = max(most, live(await kept.metrics()))
        await asyncio.sleep(0.02)
    took = time.monotonic() - began
    after = await until_idle(kept)
    lost = broken = 0
    for i, t in enumerate(tasks):
        text, got, whole = stream_of(t.result())
        lost += tokens - got
        broken += text != want[i % len(want)] or not whole
    kept.close()
    return {"streams": n, "live_at_once": most, "tokens": n * tokens, "tokens_lost": lost, "broken": broken,
            "tokens_generated": int(after["pumice_generation_tokens_total"] - before["pumice_generation_tokens_total"]),
            "seconds": round(took, 2), "resident_mib": round(after["process_resident_memory_bytes"] / 2**20, 1)}


def streams(n):
    for tokens in (48, 96, 200, 400, 4000):  # more where the machine is through with the first before the last has come
        with serving("-np", min(n, 4096), "--max-queue", n, "--max-connections", n + 64, "-c", tokens + 64) as s:
            r = asyncio.run(all_at_once(s, n, tokens))
        check(r["broken"] == r["tokens_lost"] == 0 and r["tokens_generated"] == r["tokens"], r)
        if r["live_at_once"] == n:
            return r
    raise AssertionError(f"never {n} at once: {r}")


# -- clients that leave ----------------------------------------------------------------------------------------------

class Watch:
    """Looks at /slots all the time: until when was a sequence of a prompt of so many tokens there?"""

    SURE = 0.1  # seconds of absence that count as its end

    def __init__(self, s):
        self.kept, self.seen, self.looked, self.done = Kept(s), {}, 0, False

    async def run(self):
        while not self.done:
            now = time.monotonic()
            status, text = await self.kept.ask("GET", "/slots")
            check(status == 200, text)
            at = time.monotonic()
            for slot in json.loads(text):
                self.seen[slot["n_prompt"]] = at
            self.looked = now  # what has not been seen was absent from here on
            await asyncio.sleep(0.002)
        self.kept.close()

    async def gone(self, n_prompt, left):
        """Seconds from `left` to the last moment at which it was there (0: never after that)."""
        while self.looked < max(left, self.seen.get(n_prompt, 0)) + self.SURE:
            check(time.monotonic() < left + PATIENCE, f"a sequence lives {PATIENCE} s after its client")
            await asyncio.sleep(0.005)
        return max(0.0, self.seen.get(n_prompt, 0) - left)


STATES = ["connected", "in the header", "in the body", "asked", "asked", "waits", "streams", "streams", "last token"]


async def leave(s, state, n_prompt, rng):
    """One client that leaves in a state; the time at which it did."""
    short = state == "last token"
    body = {"prompt": [5 + n_prompt % 7] * n_prompt, "ignore_eos": True, "max_tokens": 4 if short else None,
            "stream": state in ("streams", "last token") or rng.random() < 0.5, "n": 1 if short else rng.choice([1, 1, 3])}
    data = request(body)
    head = data.index(b"\r\n\r\n")
    cut = {"connected": 0, "in the header": rng.randrange(1, head), "in the body": rng.randrange(head + 4, len(data))}
    r, w = await connect(s)
    w.write(data[:cut.get(state, len(data))])
    if state == "waits":
        await asyncio.sleep(rng.random() * 0.03)
    elif state in ("streams", "last token"):
        got, mark = b"", b"[DONE]" if short else b"data: {"
        while mark not in got:
            part = await asyncio.wait_for(r.read(1 << 16), PATIENCE)
            check(part, f"no {mark}: {got[-200:]!r}")
            got += part
    left = time.monotonic()
    hang_up(w, rng.random() < 0.5)
    return left


async def memory_after(s, state, rng):
    """Seconds until no memory for keys and values is held any more by a lone client that leaves."""
    kept, live_kv = Kept(s), 'pumice_kv_bytes{state="live"}'
    r, w = await connect(s)
    w.write(request({"prompt": [7] * 1000, "ignore_eos": True, "stream": state == "streams"}))
    end = time.monotonic() + PATIENCE
    while not (await kept.metrics())[live_kv]:
        check(time.monotonic() < end, "it never had memory")
    await asyncio.sleep(rng.random() * 0.05)
    hang_up(w, rng.random() < 0.5)
    left = time.monotonic()
    while (await kept.metrics())[live_kv]:
        check(time.monotonic() < left + PATIENCE, "its memory stays")
        await asyncio.sleep(0.002)
    kept.close()
    return time.monotonic() - left


async def come_and_go(s, n, rng):
    tokens, stay, workers = 60, 32, 32
    want = await alone(s, tokens)
    memory = [await memory_after(s, rng.choice(["streams", "asked"]), rng) for _ in range(max(1, n // 50))]
    watch, kept = Watch(s), Kept(s)
    looking = asyncio.ensure_future(watch.run())
    before = await kept.metrics()
    todo, times, by_state, answers, over = list(range(n)), [], dict.fromkeys(STATES, 0), [], False

    async def steady(i):
        while not over:
            text, _, whole = stream_of(await streamed(s, variant(i % len(want), tokens)))
            answers.append(whole and text == want[i % len(want)])

    async def leaver(i):
        while todo:
            state = STATES[todo.pop() % len(STATES)]
            by_state[state] += 1
            times.append(await watch.gone(100 + i, await leave(s, state, 100 + i, rng)))
    staying = [asyncio.ensure_future(steady(i)) for i in range(stay)]
    began = time.monotonic()
    try:
        await asyncio.gather(*(leaver(i) for i in range(workers)))
    finally:
        over = watch.done = True
    took = time.monotonic() - began
    await asyncio.gather(looking, *staying)
    after = await until_idle(kept)
    kept.close()
    grown = {k: after[k] - before.get(k, 0) for k in after}
    return {"aborts": n, "states": by_state, "freed_ms": {"p50": round(percentile(times, 0.5) * 1e3, 1),
            "p99": round(percentile(times, 0.99) * 1e3, 1), "max": round(max(times) * 1e3, 1)},
            "kv_freed_ms": {"aborts": len(memory), "p99": round(percentile(memory, 0.99) * 1e3, 1), "max": round(max(memory) * 1e3, 1)},
            "accepted": int(grown["pumice_sequences_accepted_total"]), "ended": ended(grown),
            "cancelled": int(grown['pumice_sequences_ended_total{reason="cancelled"}']),
            "answers_of_others": len(answers), "broken": answers.count(False),
            "kv_live_bytes_after": int(after['pumice_kv_bytes{state="live"}']), "seconds": round(took, 1)}


def aborts(n, free_ms, seed):
    with serving("-np", 48, "--max-queue", 512, "-c", 4096, "--drain", 3600) as s:
        r = asyncio.run(come_and_go(s, n, random.Random(seed)))
    check(r["broken"] == 0 and r["answers_of_others"] > 0, r)
    check(r["accepted"] == r["ended"] and r["cancelled"] > 0 and r["kv_live_bytes_after"] == 0, r)
    check(not free_ms or max(r["freed_ms"]["p99"], r["kv_freed_ms"]["p99"]) <= free_ms, r)
    return r


# -- slow clients ----------------------------------------------------------------------------------------------------

async def drip(s, first):
    """Sends a byte twice a second until the server has had enough."""
    r, w = await connect(s)
    end = time.monotonic() + PATIENCE
    with contextlib.suppress(ConnectionError):
        w.write(first)
        while time.monotonic() < end:
            w.write(b"x")
            with contextlib.suppress(asyncio.TimeoutError):
                if not await asyncio.wait_for(r.read(4096), 0.5):
                    break
        else:
            raise AssertionError(f"still there after {PATIENCE} s")
    hang_up(w, True)


async def stay_on(s, over, reads):
    """Asks for a stream without end, and reads it or leaves it on the socket."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    with sock:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", s.port))
        await loop.sock_sendall(sock, request({"prompt": "Once", "ignore_eos": True, "stream": True}))
        while reads and not over.is_set() and await loop.sock_recv(sock, 1 << 20):
            pass
        await over.wait()


async def among_slow(s, n):
    tokens = 60
    want = await alone(s, tokens)
    kept, broken, done = Kept(s), 0, 0

    async def others(rounds, stop):
        nonlocal broken, done
        times = []

        async def one(i):
            nonlocal broken, done
            while not stop():
                text, _, whole = stream_of(await streamed(s, variant(i, tokens), times))
                broken += text != want[i] or not whole
                done += 1
                rounds[i] += 1
        await asyncio.gather(*(one(i) for i in range(8)))
        return times
    over = asyncio.Event()
    fast = [asyncio.ensure_future(stay_on(s, over, True)) for _ in range(n // 4)]
    rounds = [0] * 8
    calm = await others(rounds, lambda: min(rounds) >= 12)
    over.set()
    await asyncio.gather(*fast)
    gone = int((await until_idle(kept))["pumice_http_clients_left_total"])
    over = asyncio.Event()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"
    dripping = [asyncio.ensure_future(drip(s, f)) for f in (b"GET /health HTTP/1.1\r\nA: ", head) for _ in range(n)]
    deaf = [asyncio.ensure_future(stay_on(s, over, False)) for _ in range(n // 4)]
    left = 0

    async def count():
        nonlocal left
        while left < len(deaf):
            left = int((await kept.metrics())["pumice_http_clients_left_total"]) - gone
            await asyncio.sleep(0.02)
    counting = asyncio.ensure_future(asyncio.wait_for(count(), PATIENCE))
    slow = await others([0] * 8, lambda: counting.done() and all(t.done() for t in dripping))
    over.set()
    await asyncio.gather(counting, *dripping, *deaf)
    await until_idle(kept)
    kept.close()

    def figures(times):
        return {f"{name}_{p}_ms": round(percentile([t[k] for t in times], q) * 1e3, 1)
                for k, name in enumerate(("first", "all")) for p, q in (("p50", 0.5), ("p99", 0.99))}
    return {"slow_headers": n, "slow_bodies": n, "not_reading": len(deaf), "cut_off": 2 * n + left, "answers_of_others": done,
            "broken": broken, "others_among_fast": figures(calm), "others_among_slow": figures(slow)}


def slow(n):
    with serving("-np", n // 4 + 16, "-c", 20000, "--header-timeout", 3, "--body-timeout", 3, "--write-timeout", 3) as s:
        r = asyncio.run(among_slow(s, n))
    check(r["broken"] == 0 and r["cut_off"] == 2 * n + r["not_reading"], r)
    return r


# -- many requests ---------------------------------------------------------------------------------------------------

def some_request(rng):
    """(path, body, the status due)"""
    text = " ".join(rng.choices("the cat and dog ran to a big red ship in snow".split(), k=rng.randint(1, 30)))
    short = {"prompt": text, "max_tokens": rng.randint(0, 8)}
    return rng.choice([
        ("/v1/completions", short, 200),
        ("/v1/completions", {**short, "stream": True}, 200),
        ("/v1/completions", {**short, "logprobs": 3, "n": 2, "temperature": 1}, 200),
        ("/v1/completions", {**short, "stop": ["cat", "e"], "echo": True}, 200),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 4}, 200),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 4, "stream": True}, 200),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 12,
                                  "response_format": {"type": "json_object"}}, 200),
        ("/tokenize", {"content": text}, 200),
        ("/apply-template", {"messages": [{"role": "user", "content": text}]}, 200),
        ("/v1/completions", {**short, "temperature": 9}, 400),
        ("/v1/completions", {"prompt": "cat " * 2 * CONTEXT}, 400),
        ("/v1/completions", b'{"prompt": ', 400),
        ("/v1/completions", {**short, "model": "other"}, 404),
        ("/nothing", {}, 404),
    ])


def state_of(pid):
    """Resident KiB, files, threads, mappings."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        resident = int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])
    with open(f"/proc/{pid}/maps", "rb") as f:
        maps = f.read().count(b"\n")
    return resident, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), maps


async def ask_many(s, n, rng, fresh=0.1):
    """n requests by 8 clients, a part of them on new connections."""
    left = n

    async def client():
        nonlocal left
        kept = Kept(s)
        while left > 0:
            left -= 1
            path, body, status = some_request(rng)
            got, answer = await kept.ask("POST", path, body)
            check(got == status, f"{path} {str(body)[:200]}: {got}, not {status}: {answer[:300]}")
            if rng.random() < fresh:
                kept.close()
                kept = Kept(s)
        kept.close()
    await asyncio.gather(*(client() for _ in range(8)))


async def settle(s):
    """All connections closed and all sequences ended."""
    kept = Kept(s)
    while (await until_idle(kept))["pumice_http_connections"] > 1:
        await asyncio.sleep(0.01)
    kept.close()


def requests(n, seed):
    rng, marks = random.Random(seed), []
    with serving() as s:
        asyncio.run(ask_many(s, 1000, rng))
        asyncio.run(settle(s))
        base = state_of(s.p.pid)
        began = time.monotonic()
        for _ in range(10):
            asyncio.run(ask_many(s, n // 10, rng))
            asyncio.run(settle(s))
            marks.append(state_of(s.p.pid))
        took = time.monotonic() - began
    drift = [max(m[i] for m in marks) - base[i] for i in range(4)]
    r = {"requests": n, "resident_kib": base[0], "resident_kib_each_tenth": [m[0] for m in marks], "files": base[1],
         "threads": base[2], "mappings": base[3], "drift": dict(zip(("resident_kib", "files", "threads", "mappings"), drift)),
         "requests_per_second": round(n / took)}
    check(drift[0] <= max(base[0] / 100, 8192) and max(drift[1:]) <= 2, r)
    return r


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("binary")
    for name in ("streams", "aborts", "slow", "requests"):
        p.add_argument("--" + name, type=int, default=0, metavar="N")
    p.add_argument("--free-ms", type=float, default=0, metavar="MS")
    p.add_argument("--seed", type=int, default=1, metavar="N")
    a = p.parse_args()
    parts = {"streams": lambda: streams(a.streams), "aborts": lambda: aborts(a.aborts, a.free_ms, a.seed),
             "slow": lambda: slow(a.slow), "requests": lambda: requests(a.requests, a.seed)}
    out, failed = {}, False
    for name, run in parts.items():
        if getattr(a, name):
            try:
                out[name] = run()
            except Exception as e:  # the other parts still count
                out[name], failed = {"failed": f"{type(e).__name__}: {e}"}, True
    print(json.dumps(out, indent=2))
    sys.exit(failed)


if __name__ == "__main__":
    main()
