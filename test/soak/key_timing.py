#!/usr/bin/env python3
"""key_timing.py - whether the time of a refusal tells how much of an API key was right.

    test/soak/key_timing.py BINARY MODEL [REQUESTS]

Asks with a key whose first byte is wrong and with one whose last byte is wrong, in random order over one connection, and prints
both mean times and Welch's t-test; exit status 1 if p <= 0.01. Chance alone fails one run in a hundred: no test of the suite.
"""

import math
import random
import socket
import statistics
import subprocess
import sys
import time

KEY = "k" * 32


def ask(c, request):
    """Seconds until the whole answer is here."""
    begin, got = time.perf_counter(), b""
    c.sendall(request)
    while b"\r\n\r\n" not in got:
        got += c.recv(65536)
    head, body = got.split(b"\r\n\r\n", 1)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += c.recv(65536)
    if b" 401 " not in head.split(b"\r\n")[0]:
        sys.exit(f"not refused: {head!r}")
    return time.perf_counter() - begin


def main():
    binary, model, n = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 100000
    server = subprocess.Popen([binary, "serve", model, "--port", "0", "--api-key", KEY], stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        requests = [f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
                    for key in ("x" + KEY[1:], KEY[:-1] + "x")]
        times = [[], []]
        with socket.create_connection(("127.0.0.1", port)) as c:
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(500):
                ask(c, requests[0])
            for _ in range(n):
                i = random.randrange(2)
                times[i].append(ask(c, requests[i]))
    finally:
        server.terminate()
        server.wait()
    mean = [statistics.fmean(t) for t in times]
    t = (mean[0] - mean[1]) / math.sqrt(sum(statistics.variance(x) / len(x) for x in times))
    p = math.erfc(abs(t) / math.sqrt(2))
    print(f"first byte wrong {mean[0] * 1e6:.1f} us, last byte wrong {mean[1] * 1e6:.1f} us, of {n} requests: t = {t:.2f}, p = {p:.3f}")
    sys.exit(p <= 0.01)


main()
