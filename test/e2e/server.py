"""server.py - `pumice serve` as a test's own process, and raw requests to it."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import time

from harness import BIN, environment, made, tmp

PATIENCE = 120  # seconds before a state that must come counts as not coming: no claim rests on how long something takes
ENDLESS = 200000  # tokens of context that no machine fills while a test runs


class Server:
    def __init__(self, *args, model="chat", env=None, under=()):
        """under: a command that runs it, and becomes it"""
        folder = model if "/" in model else made(model)
        self.log = open(tmp(f"serve-{time.monotonic_ns()}.log"), "w+b")
        self.p = subprocess.Popen([*under, BIN, "serve", folder, "--port", "0", "--temp", "0", "-t", "1", *map(str, args)],
                                  stdout=subprocess.PIPE, stderr=self.log, env=env or environment())
        line = self.p.stdout.readline().decode()
        m = re.fullmatch(r"pumice: ready on http://[^:]+:(\d+)\n", line)
        assert m, f"the ready line is {line!r}; {self.errors()}"
        self.port = int(m.group(1))

    def errors(self):
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def connect(self, timeout=PATIENCE):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def send(self, data):
        """Sends bytes on a new connection; all that comes until the server closes it."""
        with self.connect() as s:
            s.sendall(data)
            return read_all(s)

    def ask(self, method, path, body=None, headers=None, key=None):
        """(status, headers, body parsed where it is JSON)"""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        head = {"Content-Type": "application/json", **(headers or {})}
        if key:
            head["Authorization"] = "Bearer " + key
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        c.request(method, path, data, head)
        r = c.getresponse()
        raw = r.read()
        c.close()
        is_json = (r.getheader("Content-Type") or "").startswith("application/json")
        return r.status, r.headers, json.loads(raw) if is_json and raw else raw.decode()

    def post(self, path, body, status=200, **kw):
        got, head, answer = self.ask("POST", path, body, **kw)
        assert got == status, f"{path} {str(body)[:200]}: {got} {answer}"
        return answer

    def events(self, path, body):
        """The data of a stream's events, the last one being '[DONE]' unless the stream ended with an error."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        c.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
        r = c.getresponse()
        text = r.read().decode()
        c.close()
        assert r.status == 200, text
        out = []
        for event in text.split("\n\n")[:-1]:
            if not event.startswith(":"):
                assert event.startswith("data: ") and "\n" not in event, repr(event)
                out.append(event[6:])
        return [json.loads(e) if e != "[DONE]" else e for e in out]

    def metric(self, name):
        text = self.ask("GET", "/metrics")[2]
        m = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        assert m, f"no {name} in /metrics"
        return float(m.group(1))

    def wait(self, state, what):
        """Until state() holds."""
        until = time.monotonic() + PATIENCE
        while not state():
            assert time.monotonic() < until, f"{what}: not after {PATIENCE} s"
            time.sleep(0.005)

    def live(self):
        """How many sequences run or wait."""
        return self.metric("pumice_sequences_running") + self.metric("pumice_sequences_waiting")

    def wait_idle(self):
        self.wait(lambda: not self.live(), "all sequences have ended")

    @contextlib.contextmanager
    def busy(self, **body):
        """While this lasts, an answer is streamed that does not end (of a server with -c ENDLESS)."""
        with self.connect() as c:
            c.sendall(request({"prompt": "Once upon a time", "ignore_eos": True, "stream": True, **body}))
            read_until(c, b"data: {")
            yield c

    def stop(self, status=0):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
        got = self.p.wait(timeout=PATIENCE)
        assert got == status, f"exit status {got}; {self.errors()}"
        assert "Sanitizer" not in self.errors() and "runtime error" not in self.errors(), self.errors()


@contextlib.contextmanager
def serving(*args, **kw):
    s = Server(*args, **kw)
    try:
        yield s
        s.stop()
    finally:
        if s.p.poll() is None:
            s.p.kill()
            s.p.wait()
        s.p.stdout.close()
        s.log.close()


def read_all(s):
    out = b""
    with contextlib.suppress(ConnectionError):
        while chunk := s.recv(65536):
            out += chunk
    return out


def read_until(s, mark):
    """What comes up to and with mark; fails if the connection ends before."""
    out = b""
    while mark not in out:
        chunk = s.recv(65536)
        assert chunk, f"no {mark!r}, only {out[-300:]!r}"
        out += chunk
    return out


def request(body, path="/v1/completions", extra="", version="1.1", host="Host: localhost\r\n"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (f"POST {path} HTTP/{version}\r\n{host}Content-Type: application/json\r\n{extra}"
            f"Content-Length: {len(data)}\r\n\r\n").encode() + data
