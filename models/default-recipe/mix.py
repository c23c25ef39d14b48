#!/usr/bin/env python3
"""mix.py A B SHARE OUT - the weights of two runs of one model, averaged: A * (1 - SHARE) + B * SHARE, BF16 or F32 safetensors.

Between a model and what a short further training made of it lie models that have most of what both can do (Wortsman et
al., "Robust fine-tuning of zero-shot models", 2022). The header of A is kept; B must have the same.
"""
import array
import json
import sys


def read(path):
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        head = f.read(n)
        return head, f.read()


def floats(kind, data):
    """BF16 are the upper halves of floats."""
    out = array.array("f")
    out.frombytes(data if kind == "F32" else array.array("I", (h << 16 for h in array.array("H", data))).tobytes())
    return out


def pack(kind, values):
    """BF16 rounded to the nearest, ties to even."""
    if kind == "F32":
        return array.array("f", values).tobytes()
    bits = array.array("I")
    bits.frombytes(array.array("f", values).tobytes())
    return array.array("H", ((b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits)).tobytes()


def main():
    a, b, share, out = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
    (head, x), (other, y) = read(a), read(b)
    tensors, others = ({k: v for k, v in json.loads(h).items() if k != "__metadata__"} for h in (head, other))
    if tensors != others or any(t["dtype"] not in ("BF16", "F32") for t in tensors.values()):
        sys.exit("mix.py: two files of the same tensors in BF16 and F32 are needed")
    with open(out, "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head)
        for t in sorted(tensors.values(), key=lambda t: t["data_offsets"]):
            at, end = t["data_offsets"]
            pairs = zip(floats(t["dtype"], x[at:end]), floats(t["dtype"], y[at:end]))
            f.write(pack(t["dtype"], (p + (q - p) * share for p, q in pairs)))


main()
