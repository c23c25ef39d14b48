"""command.py - what the scripts of this folder share: a program that the user names with variables and flags."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile


class Fail(Exception):
    pass


class Command:
    """[VARIABLE=VALUE ...] PROGRAM [flags]"""

    def __init__(self, text, what):
        try:
            words = shlex.split(text)
        except ValueError as e:
            raise Fail(f"{what}: {e}: {text}") from None
        self.env = {}
        while words and re.match(r"[A-Za-z_][A-Za-z_0-9]*=", words[0]):
            name, self.env[name] = words.pop(0).split("=", 1)
        if not words:
            raise Fail(f"{what}: names no program")
        self.what, self.text, self.flags = what, text, words[1:]
        self.program = os.path.abspath(words[0]) if "/" in words[0] else words[0]

    def run(self, args, a, check=True):
        """What it prints and what it says; in a scratch folder, where a program may leave its log."""
        words = [self.program, *map(str, args)]
        with tempfile.TemporaryDirectory(prefix="peers-") as cwd:
            try:
                p = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, cwd=cwd,
                                   env={**os.environ, **self.env}, timeout=a.timeout, stdin=subprocess.DEVNULL)
            except subprocess.TimeoutExpired:
                raise Fail(f"{self.what}: not done after {a.timeout} s (--timeout): {shlex.join(words)}") from None
            except OSError as e:
                raise Fail(f"{self.what}: {self.program}: {e.strerror}") from None
        if check and p.returncode:
            raise Fail(f"{self.what}: {how_it_ended(p.returncode)}: {shlex.join(words)}" + last_lines(p.stderr or p.stdout))
        return p.stdout, p.stderr


def how_it_ended(status):
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def last_lines(text):
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(f"\n  {line[:200]}" for line in said[-3:])


def peer_of(text):
    """(NAME, COMMAND) of a --peer"""
    name, _, command = text.partition("=")
    if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,32}", name) or not command:
        raise Fail(f"--peer {text}: not NAME=COMMAND")
    return name, command


def note(text):
    print(text, file=sys.stderr, flush=True)


def finish(name, a, measure, show_rest):
    """Ends the script `name`: measure(a, rows) fills rows; what it had when it failed or was stopped is shown all the same, as
    JSON, or by show_rest(rows, load average at the start)."""
    rows, load, status = [], os.getloadavg()[0], 0
    try:
        measure(a, rows)
    except Fail as e:
        note(f"{name}: {e}")
        status = 1
    except KeyboardInterrupt:
        status = 130
    if a.json and (rows or not status):
        print(json.dumps({"complete": not status, "load_average": load, "rows": rows}, indent=1))
    elif not a.json and (rows or not status):
        show_rest(rows, load)
    sys.exit(status)
