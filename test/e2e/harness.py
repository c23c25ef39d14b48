"""harness.py - what the end-to-end tests share: run the binary, name claims, read .npy files.

A test file registers functions with @claim and calls main().  Usage: FILE.py BINARY [NAME...]; data comes from
$PUMICE_DATA (default ../shared/data beside the source tree).  Prints TAP; exit 0 all hold, 1 some failed, 77 all skipped.
"""

import atexit
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.environ.get("PUMICE_DATA") or os.path.join(os.path.dirname(ROOT), "shared", "data")
BIN = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else ""
TMP = tempfile.mkdtemp(prefix="pumice-e2e-")
atexit.register(shutil.rmtree, TMP, ignore_errors=True)

STORIES = os.path.join(DATA, "models", "stories260K")
_claims = []


class Skip(Exception):
    pass


def claim(f):
    _claims.append(f)
    return f


def tmp(name):
    return os.path.join(TMP, name)


def data(*parts):
    path = os.path.join(DATA, *parts)
    if not os.path.exists(path):
        raise Skip("no " + path)
    return path


def environment(**changes):
    """The environment of a run: nothing of the user's that changes results, history in a scratch folder."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PUMICE_")}
    env["XDG_STATE_HOME"] = tmp("state")
    for k, v in changes.items():
        if v is None:
            env.pop(k, None)
        else:
            env[k] = v
    return env


class Result:
    def __init__(self, p):
        self.status, self.raw, self.err = p.returncode, p.stdout, p.stderr.decode("utf-8", "replace")

    @property
    def out(self):
        return self.raw.decode("utf-8")

    @property
    def json(self):
        return json.loads(self.raw)


def one_processor():
    """For the child: one thread then, and no waiting for each other on a busy machine."""
    os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})


def pumice(*args, stdin=b"", status=0, env=None, timeout=60, spread=False):
    """Runs the binary on one processor (spread: on all) and insists on the exit status (None: any but a crash)."""
    p = subprocess.run([BIN, *map(str, args)], input=stdin, capture_output=True, timeout=timeout,
                       env=env or environment(), preexec_fn=None if spread else one_processor)
    r = Result(p)
    words = " ".join(map(str, args))
    assert "Sanitizer" not in r.err and "runtime error" not in r.err, f"{words}: {r.err}"
    assert r.status >= 0, f"{words}: killed by signal {-r.status}"
    assert status is None or r.status == status, f"{words}: exit status {r.status}, not {status}; {r.err.strip()}"
    return r


def refuses(status, part, *args, **kw):
    """The command fails with this status and one line on stderr that contains `part`."""
    r = pumice(*args, status=status, **kw)
    assert r.raw == b"", f"{args}: printed {r.raw!r} and failed"
    lines = r.err.strip().split("\n")
    assert len(lines) == 1 and lines[0].startswith("pumice: "), f"{args}: stderr is {r.err!r}"
    assert part in r.err, f"{args}: {r.err.strip()!r} lacks {part!r}"
    return r


def load(*parts):
    with open(data(*parts), encoding="utf-8") as f:
        return json.load(f)


def ids_text(ids):
    return ",".join(map(str, ids))


def read_npy(path):
    """(rows, cols, flat tuple of floats) of a version 1.0 '<f4' C-order file."""
    with open(path, "rb") as f:
        blob = f.read()
    assert blob[:8] == b"\x93NUMPY\x01\x00", f"{path}: not NumPy 1.0"
    size = struct.unpack("<H", blob[8:10])[0]
    assert (10 + size) % 64 == 0, f"{path}: data starts at {10 + size}"
    head = blob[10:10 + size].decode("ascii")
    assert "'descr': '<f4'" in head and "'fortran_order': False" in head, f"{path}: {head}"
    rows, cols = (int(x) for x in head.split("(")[1].split(")")[0].split(",")[:2])
    values = struct.unpack(f"<{rows * cols}f", blob[10 + size:])
    return rows, cols, values


def main():
    """Runs the claims and prints TAP (test/summary.py)."""
    if not os.path.isfile(BIN):
        sys.exit(f"usage: {sys.argv[0]} BINARY [NAME...]")
    wanted, failed, skipped = sys.argv[2:], 0, 0
    claims = [f for f in _claims if not wanted or f.__name__ in wanted]
    print(f"1..{len(claims)}")
    for n, f in enumerate(claims, 1):
        start = time.monotonic()
        try:
            if not os.path.isdir(DATA):
                raise Skip(f"no test data at {DATA} (set PUMICE_DATA)")
            f()
            print(f"ok {n} - {f.__name__}")
        except Skip as e:
            skipped += 1
            print(f"ok {n} # SKIP {f.__name__} - {e}")
        except Exception as e:  # whatever it is, the claim did not hold, and the next one still runs
            failed += 1
            print(f"not ok {n} - {f.__name__}")
            for line in f"{type(e).__name__}: {e}".splitlines():
                print(f"# {line}")
        print(f"# {time.monotonic() - start:.2f} s", flush=True)
    sys.exit(1 if failed else 77 if skipped and skipped == len(claims) else 0)
