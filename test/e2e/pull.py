#!/usr/bin/env python3
"""pull.py - models of a hub: `pull`, `list`, `rm`, against a small hub of our own that can be told to misbehave."""

import gzip
import hashlib
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

from harness import BIN, claim, environment, main, made, pumice, refuses, tmp

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """Serves files = {path: bytes} as repository org/small; large ones as LFS. Every attribute is a switch."""

    def __init__(self, files):
        self.files, self.log, self.tree = dict(files), [], None
        self.cut = self.page = self.sent = 0
        self.gate = None  # a semaphore: each 64 KiB of a body waits for it
        self.ranges = True
        self.redirect = self.spoil = self.more = self.zipped = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.log.append((self.path, self.headers.get("Range"), self.headers.get("Authorization"), self.headers.get("Host")))
                outer.answer(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *args: None  # of clients that were killed
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def listing(self):
        out = [{"type": "directory", "path": "sub", "oid": "0" * 40, "size": 0}]
        for path, data in self.files.items():
            e = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
            if len(data) > 20000:
                e["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            out.append(e)
        return out

    def send(self, h, status, body, **headers):
        h.send_response(status)
        for k, v in headers.items():
            h.send_header(k.replace("_", "-"), v)
        h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        h.wfile.write(body)

    def answer(self, h):
        if h.path == "/api/models/org/small/refs":
            return self.send(h, 200, json.dumps({"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}],
                                                 "tags": [{"name": "v1", "targetCommit": COMMIT}]}).encode())
        tree = f"/api/models/org/small/tree/{COMMIT}?recursive=true"
        if h.path.startswith(tree):
            entries = self.tree if self.tree is not None else self.listing()
            at = int(h.path.split("cursor=")[1]) if "cursor=" in h.path else 0
            if self.page and at + self.page < len(entries):
                return self.send(h, 200, json.dumps(entries[at:at + self.page]).encode(), Link=f'<{self.url}{tree}&cursor={at + self.page}>; rel="next"')
            return self.send(h, 200, json.dumps(entries[at:]).encode())
        prefix = f"/org/small/resolve/{COMMIT}/"
        path = urllib.parse.unquote(h.path[len(prefix):]) if h.path.startswith(prefix) else None
        if path not in self.files:
            return self.send(h, 404, b'{"error":"not found"}')
        if self.redirect and self.redirect not in ("http://" + h.headers.get("Host", "")):
            return self.send(h, 302, b"", Location=self.redirect + h.path)
        self.body(h, path, self.files[path])

    def body(self, h, path, data):
        if self.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.more:
            data += b"x" * self.more
        if self.zipped:
            return self.send(h, 200, gzip.compress(b"\0" * (1 << 20)), Content_Encoding="gzip")
        start = 0
        if self.ranges and h.headers.get("Range"):
            start = int(h.headers["Range"].split("=")[1].rstrip("-"))
        h.send_response(206 if start else 200)
        if start:
            h.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        h.send_header("Content-Length", str(len(data) - start))
        h.end_headers()
        rest = data[start:]
        if self.cut and len(rest) > self.cut:
            h.wfile.write(rest[:self.cut])
            h.wfile.flush()
            h.connection.shutdown(socket.SHUT_RDWR)
            h.close_connection = True
            return
        for i in range(0, len(rest), 65536):
            if self.gate:
                self.gate.acquire()
            h.wfile.write(rest[i:i + 65536])
            h.wfile.flush()
            self.sent += 1

    def env(self, cache, **more):
        none = dict.fromkeys(("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "http_proxy", "https_proxy", "all_proxy"))
        return environment(**{**none, "HF_ENDPOINT": self.url, "HF_HUB_CACHE": cache, "HF_HOME": tmp("no-home"), **more})


_n = 0
PATIENCE = 60  # seconds before a state that must come counts as not coming


def wait(state, what):
    until = time.monotonic() + PATIENCE
    while not state():
        assert time.monotonic() < until, f"{what}: not after {PATIENCE} s"
        time.sleep(0.005)


def cache():
    global _n
    _n += 1
    return tmp(f"hub-{_n}")


def model_files():
    folder = made()
    out = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            out[name] = f.read()
    assert any(len(v) > 20000 for v in out.values())
    return out


def repo(c, *parts):
    return os.path.join(c, "models--org--small", *parts)


@claim
def a_pulled_model_lies_where_other_clients_of_the_hub_look_and_is_opened_by_its_name():
    hub, c = Hub({**model_files(), "README.md": b"not needed", "sub/other.bin": b"nor this"}), cache()
    path = pumice("pull", "org/small", env=hub.env(c)).out.strip()
    assert path == repo(c, "snapshots", COMMIT)
    with open(repo(c, "refs", "main")) as f:
        assert f.read() == COMMIT
    assert "README.md" not in os.listdir(path)
    for name in os.listdir(path):
        link = os.readlink(os.path.join(path, name))
        data = hub.files[name]
        assert link == "../../blobs/" + (hashlib.sha256(data).hexdigest() if len(data) > 20000 else git_oid(data))
        with open(os.path.join(path, name), "rb") as f:
            assert f.read() == data
    said = pumice("show", "org/small", "--json", env=hub.env(c)).json
    assert said["model"] == path
    n = len(hub.log)
    assert pumice("pull", "org/small@v1", "--json", env=hub.env(c)).json["fetched_bytes"] == 0
    assert not any("/resolve/" in entry[0] for entry in hub.log[n:])


@claim
def globs_and_quantisations_choose_files():
    files = {"a-Q4_0.gguf": b"4" * 9, "a-Q8_0.gguf": b"8" * 9, "sub/notes.txt": b"text", "x y?.txt": b"odd name"}
    hub, c = Hub(files), cache()
    path = pumice("pull", "org/small:q8_0", env=hub.env(c)).out.strip()
    assert path == repo(c, "snapshots", COMMIT, "a-Q8_0.gguf") and len(os.listdir(os.path.dirname(path))) == 1
    path = pumice("pull", "org/small", "--include", "*.txt", "--include", "*Q4_0*", env=hub.env(c)).out.strip()
    with open(repo(c, "snapshots", COMMIT, "sub", "notes.txt")) as f:
        assert f.read() == "text"
    assert os.readlink(repo(c, "snapshots", COMMIT, "sub", "notes.txt")).startswith("../../../blobs/")
    refuses(2, "no file matches '*.bin'", "pull", "org/small", "--include", "*.bin", env=hub.env(c))
    refuses(2, "no .gguf file has 'q5_k'", "pull", "org/small:q5_k", env=hub.env(c))


@claim
def a_list_of_files_in_pages_is_read_to_its_end():
    hub, c = Hub({f"f{i}.txt": b"%d" % i for i in range(25)}), cache()
    hub.page = 7
    assert pumice("pull", "org/small", "--include", "*.txt", "--json", env=hub.env(c)).json["files"] == 25


@claim
def a_cut_download_goes_on_where_it_stopped():
    big = os.urandom(300000)
    hub, c = Hub({"big.gguf": big}), cache()
    hub.cut = 120000
    path = pumice("pull", "org/small", env=hub.env(c)).out.strip()
    with open(path, "rb") as f:
        assert f.read() == big
    ranges = [entry[1] for entry in hub.log if "/resolve/" in entry[0]]
    assert ranges == [None, "bytes=120000-", "bytes=240000-"], ranges


@claim
def a_server_that_cannot_continue_begins_again():
    big = os.urandom(300000)
    hub, c = Hub({"big.gguf": big}), cache()
    hub.ranges = False
    os.makedirs(repo(c, "blobs"))
    with open(repo(c, "blobs", hashlib.sha256(big).hexdigest() + ".incomplete"), "wb") as f:
        f.write(b"?" * 1000)
    with open(pumice("pull", "org/small", env=hub.env(c)).out.strip(), "rb") as f:
        assert f.read() == big
    assert [e[1] for e in hub.log if "/resolve/" in e[0]] == ["bytes=1000-"]


@claim
def killed_at_any_time_the_next_pull_goes_on_and_no_name_has_wrong_bytes():
    big = os.urandom(3 << 20)  # 48 pieces
    hub, c = Hub({"big.gguf": big}), cache()
    for pieces in (0, 1, 9, 4, 17):
        hub.gate, hub.sent = threading.Semaphore(pieces), 0
        p = subprocess.Popen([BIN, "pull", "org/small"], env=hub.env(c), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait(lambda: hub.sent == pieces, f"{pieces} pieces sent")  # some are written, some on their way
        p.send_signal(signal.SIGKILL)
        p.wait()
        blobs = os.listdir(repo(c, "blobs")) if os.path.isdir(repo(c, "blobs")) else []
        for name in blobs:
            if not name.endswith(".incomplete"):
                with open(repo(c, "blobs", name), "rb") as f:
                    assert hashlib.sha256(f.read()).hexdigest() == name
    hub.gate = None  # what served the killed ones waits for ever
    with open(pumice("pull", "org/small", env=hub.env(c)).out.strip(), "rb") as f:
        assert f.read() == big


@claim
def wrong_bytes_are_fetched_three_times_and_never_kept():
    hub, c = Hub({"big.gguf": os.urandom(50000)}), cache()
    hub.spoil = True
    r = pumice("pull", "org/small", env=hub.env(c), status=3)
    assert "org/small/big.gguf: digest" in r.err
    assert len([e for e in hub.log if "/resolve/" in e[0]]) == 3
    assert all(n.endswith(".incomplete") for n in os.listdir(repo(c, "blobs"))) and not os.path.exists(repo(c, "refs", "main"))
    hub.spoil = None
    pumice("pull", "org/small", env=hub.env(c))


@claim
def more_bytes_than_announced_and_compressed_bodies_are_refused():
    hub, c = Hub({"big.gguf": os.urandom(50000)}), cache()
    hub.more = 70000
    assert "more bytes than the 50000 announced" in pumice("pull", "org/small", env=hub.env(c), status=6).err
    hub.more, hub.zipped, c = None, True, cache()
    assert pumice("pull", "org/small", env=hub.env(c), status=None).status in (3, 6)
    assert os.listdir(repo(c, "blobs")) == [hashlib.sha256(hub.files["big.gguf"]).hexdigest() + ".incomplete"]


@claim
def a_hub_cannot_write_outside_the_snapshot():
    hub = Hub({"a.gguf": b"x"})
    good = {"type": "file", "size": 1, "oid": git_oid(b"x")}
    for path in ("../../etc/cron.d/x", "/etc/passwd", "C:\\x", "C:x", "", ".", "a//b", "a/./b", "a/../b", "y" * 300, "z/" * 700 + "a", ".git/config", "a\nb", "sub/.GIT/x"):
        hub.tree = [{**good, "path": "a.gguf"}, {**good, "path": path}]
        c = cache()
        assert "is not safe" in pumice("pull", "org/small", env=hub.env(c), status=6).err, path
        assert not os.path.exists(repo(c)), path
    for oid, lfs in (("../../x", None), ("A" * 40, None), ("0" * 39, None), ("0" * 40, {"oid": "../" * 20 + "abcd", "size": 1}), ("0" * 40, {"oid": "0" * 63, "size": 1})):
        hub.tree = [{**good, "path": "a.gguf", "oid": oid, **({"lfs": lfs} if lfs else {})}]
        assert "gives no digest" in pumice("pull", "org/small", env=hub.env(cache()), status=6).err
    for size in (-1, 1.5, "1", None):
        hub.tree = [{**good, "path": "a.gguf", "size": size}]
        assert "gives no size" in pumice("pull", "org/small", env=hub.env(cache()), status=6).err
    hub.tree = [{**good, "path": "a.gguf", "size": 1 << 60}]
    assert "are free in" in pumice("pull", "org/small", env=hub.env(cache()), status=4).err


@claim
def links_planted_in_the_cache_are_not_followed():
    for planted in (("blobs",), ("snapshots",), ("snapshots", COMMIT), ("refs",)):
        hub, c, outside = Hub({"a.gguf": b"x" * 9}), cache(), tmp("outside")
        os.makedirs(outside, exist_ok=True)
        os.makedirs(repo(c, *planted[:-1]))
        os.symlink(outside, repo(c, *planted))
        assert "a link or a file where a folder must be" in pumice("pull", "org/small", env=hub.env(c), status=4).err
        assert os.listdir(outside) == [], planted


@claim
def the_token_goes_to_the_hub_only_and_redirects_stay_on_http():
    hub, c = Hub({"big.gguf": os.urandom(30000)}), cache()
    hub.redirect = hub.url.replace("127.0.0.1", "localhost")
    pumice("pull", "org/small", env=hub.env(c, HF_TOKEN="hf_secret"))
    assert hub.log and all((auth == "Bearer hf_secret") == host.startswith("127.0.0.1") for _, _, auth, host in hub.log), hub.log
    assert any(host.startswith("localhost") for *_, host in hub.log)
    for scheme in ("file://", "ftp://"):
        hub.redirect = scheme + "127.0.0.1"
        pumice("pull", "org/small", env=hub.env(cache()), status=6)
    r = refuses(2, "HF_TOKEN", "pull", "org/small", env=hub.env(c, HF_TOKEN="a\nb: c"))
    assert "b: c" not in r.err


@claim
def names_that_are_no_models_of_a_hub_are_refused_before_anything_is_asked():
    hub = Hub({})
    for name in ("a/../../b", "a//b", "a", "a/b/c", "/a", "a/", "a/-b", "a/b.", "a/b--c", "a/b@../x", "a/b:q@", "\u0430/b", "a/b:../x"):
        r = pumice("pull", name, env=hub.env(cache()), status=2)
        assert "is no model of a hub" in r.err or "is no name" in r.err, (name, r.err)
    assert hub.log == []


@claim
def offline_nothing_is_asked_and_what_is_there_can_be_used():
    hub, c = Hub(model_files()), cache()
    pumice("pull", "org/small", env=hub.env(c))
    n = len(hub.log)
    refuses(6, "HF_HUB_OFFLINE is set", "pull", "org/small", env=hub.env(c, HF_HUB_OFFLINE="1"))
    pumice("show", "org/small", env=hub.env(c, HF_HUB_OFFLINE="1"))
    refuses(4, "`pumice pull org/other` fetches it", "show", "org/other", env=hub.env(c))
    assert len(hub.log) == n


@claim
def a_second_pull_of_the_same_waits_for_the_first():
    hub, c = Hub({"big.gguf": os.urandom(2 << 20)}), cache()
    hub.gate = threading.Semaphore(1)
    pull = [BIN, "pull", "org/small"]
    first = subprocess.Popen(pull, env=hub.env(c), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wait(lambda: hub.sent, "the first pull is under way")
    refuses(7, "being pulled", "rm", "org/small", env=hub.env(c))
    second = subprocess.Popen(pull, env=hub.env(c), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = second.stderr.readline()
    assert b"waiting" in said, said
    hub.gate.release(99)
    out, _ = second.communicate(timeout=PATIENCE)
    assert first.wait(PATIENCE) == second.returncode == 0 and out == first.communicate()[0], out
    assert len([e for e in hub.log if "/resolve/" in e[0]]) == 1


@claim
def list_shows_what_is_there_and_rm_deletes_it():
    hub, c = Hub(model_files()), cache()
    assert "no models in" in pumice("list", env=hub.env(c)).out and pumice("list", "--json", env=hub.env(c)).json == []
    pumice("pull", "org/small", env=hub.env(c))
    e, = pumice("list", "--json", env=hub.env(c)).json
    assert e["model"] == "org/small" and e["commit"] == COMMIT and e["bytes"] == sum(map(len, hub.files.values())) and e["files"] == len(hub.files)
    assert "org/small" in pumice("list", env=hub.env(c)).out
    assert "deleted" in pumice("rm", "org/small", env=hub.env(c)).out
    assert pumice("list", "--json", env=hub.env(c)).json == [] and not os.path.exists(repo(c))
    refuses(2, "is not in", "rm", "org/small", env=hub.env(c))


if __name__ == "__main__":
    main()
