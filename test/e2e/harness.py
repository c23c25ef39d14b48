"""harness.py - what the end-to-end tests share: run the binary, name claims, make models, read .npy files.

A test file registers functions with @claim and calls main().  Usage: FILE.py BINARY [NAME...].  Prints TAP; exit 0 all
hold, 1 some failed, 77 all skipped.

Models are made by the program itself (made()); what compares with outside references takes them from $PUMICE_DATA
(default ../shared/data beside the source tree) by data() or load(), which skip the claim where they are absent.
"""

import atexit
import functools
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

VOCAB, DIM, CONTEXT = 512, 64, 512  # of the models that made() makes
UNK, BOS, EOS, TURN, END_OF_TURN = range(5)  # their special tokens, the last two in a chat model only
WORDS = ("a and are at away ball bear bed big bird boat box boy brave bread cake cat cold cup day dog door duck fast find "
         "fish for fox friend fun garden girl give go good green happy hat he her hill him his home house in is it jump "
         "kind lake lamp light like little long look make mouse new nice night old on one park play rain red ride river "
         "run sad said sand saw sea ship shop sing sky small snow soft song star stone sun swim tell that the then there "
         "they tiger time to tree turtle under upon very walk want warm was water went wind wish with wood you").split()
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
        raise Skip(f"no {path} (set PUMICE_DATA)")
    return path


def sanitized():
    """Whether the program was built with a sanitizer."""
    with open(BIN, "rb") as f:
        blob = f.read()
    return b"__asan_init" in blob or b"__tsan_init" in blob


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


# -- models made here ---------------------------------------------------------------------------------------------

def words_text(size, words=None):
    """About `size` characters of sentences, the same each time."""
    rng, text, length = random.Random(1), [], 0
    while length < size:
        line = " ".join(rng.choices(words or WORDS, k=rng.randint(5, 12))).capitalize() + "."
        if rng.random() < 0.4:
            line = rng.choice(["Once upon a time, there was ", "One day Tom ran and ", "Then Tom saw "]) + line.lower()
        text.append(line)
        length += len(line) + 1
    return " ".join(text) + "\n"


def write_text(name, text):
    """The path of a new file in the scratch folder."""
    path = tmp(name)
    with open(path, "wb") as f:
        f.write(text.encode("utf-8") if isinstance(text, str) else text)
    return path


def read_json(*parts):
    with open(os.path.join(*parts), encoding="utf-8") as f:
        return json.load(f)


def edit_json(folder, name, **changes):
    """Sets fields of a JSON file; None removes one."""
    path = os.path.join(folder, name)
    j = {**read_json(path), **changes}
    with open(path, "w", encoding="utf-8") as f:
        json.dump({k: v for k, v in j.items() if v is not None}, f)


def read_safetensors(path):
    """(header, data)"""
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        return json.loads(f.read(size)), f.read()


def write_safetensors(path, head, blob):
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + blob)


def whole_words(folder):
    """The ids of tokens that are a space and a whole word."""
    vocab = read_json(folder, "tokenizer.json")["model"]["vocab"]
    return [i for piece, i in vocab.items() if piece[0] == "\u0120" and piece[1:] in WORDS]


def say_words_only(folder):
    """Gives the model an own head that is random and large for whole words, zero for every other token.

    Its text is then made of words, which is what the tokenizer would cut it into again, as the text of a trained model
    mostly is; and the likeliest token is ahead of the next by far more than kernels may differ.
    """
    path, rng = os.path.join(folder, "model.safetensors"), random.Random(4)
    head, blob = read_safetensors(path)
    rows = bytearray(VOCAB * DIM * 4)
    for i in whole_words(folder):
        struct.pack_into(f"<{DIM}f", rows, i * DIM * 4, *(rng.gauss(0, 0.7) for _ in range(DIM)))
    head["lm_head.weight"] = {"dtype": "F32", "shape": [VOCAB, DIM], "data_offsets": [len(blob), len(blob) + len(rows)]}
    write_safetensors(path, head, blob + rows)
    edit_json(folder, "config.json", tie_word_embeddings=False, max_position_embeddings=CONTEXT)


@functools.cache
def made(kind="plain"):
    """A folder with a llama model of random weights and a tokenizer.  Shared: change only copies (copy_of).

    plain: puts BOS in front, has no template; chat: with a ChatML template; bare: puts no BOS in front.
    """
    folder, text = tmp("model-" + kind), tmp("model.txt")
    if not os.path.exists(text):
        write_text("model.txt", words_text(40000))
    pumice("init", "tiny", "--out", folder, "--dtype", "f32")
    flags = {"plain": ["--bos", "<s>"], "chat": ["--bos", "<s>", "--chatml"], "bare": []}[kind]
    made_vocab = pumice("vocab", "train", "--size", VOCAB, "--out", folder, "--special", "<unk>", "--special", "<s>",
                        "--special", "</s>", "--eos", "</s>", *flags, "--json", text).json
    assert made_vocab["size"] == VOCAB, made_vocab
    say_words_only(folder)
    return folder


def copy_of(folder):
    """A copy of a model that can be changed."""
    copy = tempfile.mkdtemp(prefix="copy-", dir=TMP)
    for name in os.listdir(folder):
        if os.path.isfile(os.path.join(folder, name)):
            shutil.copyfile(os.path.join(folder, name), os.path.join(copy, name))
    return copy


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
