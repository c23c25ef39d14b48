"""vocab.py - `pumice vocab train`: the files it writes, against a trainer written out here, and its refusals."""

import json
import os
import random

from harness import claim, data, main, pumice, refuses, tmp, words_text, write_text as text_file

TEXT = ("the cat sat on the mat<|endoftext|>the other cat, Caf\u00e9-cat, sat there\n\n"
        "and that's that: 1234 cats<|endoftext|>\u4e2d\u6587 <b>cats</b>\n") * 3


def train(out, *args, size=300, **kw):
    return pumice("vocab", "train", "--size", size, "--out", tmp(out), *args, **kw)


def load(out, name="tokenizer.json"):
    with open(os.path.join(tmp(out), name), encoding="utf-8") as f:
        return json.load(f)


def alphabet():
    """The printable character of each byte: itself where Latin-1 prints, else U+0100 and on, in order."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in prints]
    return {**{b: chr(b) for b in prints}, **{b: chr(0x100 + i) for i, b in enumerate(others)}}


def naive_merges(words, most, least):
    """BPE by counting everything anew each time; ties go to the greater (left bytes, right bytes)."""
    words = {w: [[bytes([b]) for b in w], words.count(w)] for w in words}
    merges = []
    while len(merges) < most:
        count = {}
        for symbols, n in words.values():
            for pair in zip(symbols, symbols[1:]):
                count[pair] = count.get(pair, 0) + n
        if not count or max(count.values()) < least:
            break
        best = max(count, key=lambda p: (count[p], p))
        merges.append(best)
        for entry in words.values():
            old, new = entry[0], []
            while old:
                if tuple(old[:2]) == best:
                    new.append(old[0] + old[1])
                    old = old[2:]
                else:
                    new.append(old[0])
                    old = old[1:]
            entry[0] = new
    return merges


@claim
def merges_and_ids_are_those_of_a_plain_trainer():
    # letters and single spaces only, so that the words are plain to see
    text = "she sells sea shells on the sea shore the shells she sells are sea shells for sure " * 2
    words = [("" if i == 0 else " ") + w for i, w in enumerate(text.strip().split(" "))]
    path = text_file("plain.txt", text.strip())
    for least in [1, 2, 4]:
        out = f"plain{least}"
        r = train(out, path, "--min-frequency", least, "--json", size=256 + 1 + 40)
        want = naive_merges([w.encode() for w in words], 40, least)
        char = alphabet()
        spell = lambda s: "".join(char[b] for b in s)
        model = load(out)["model"]
        assert model["merges"] == [f"{spell(a)} {spell(b)}" for a, b in want], model["merges"]
        ids = ["<|endoftext|>", *sorted(char.values()), *(spell(a + b) for a, b in want)]
        assert model["vocab"] == {piece: i for i, piece in enumerate(ids)}
        assert r.json["size"] == len(ids) and r.json["merges"] == len(want) and r.json["special"] == 1
        assert ("no further pair" in r.err) == (len(want) < 40), r.err


@claim
def the_size_counts_bytes_specials_and_merges():
    path = text_file("text.txt", TEXT)
    for flags, specials in [([], 1), (["--chatml"], 3), (["--special", "<s>", "--special", "</s>"], 2),
                            (["--bos", "<s>"], 2), (["--special", "<s>", "--special", "<s>"], 1)]:
        r = train("size", path, "--force", "--json", *flags, size=280).json
        assert (r["size"], r["special"], r["merges"]) == (280, specials, 24 - specials), r
        j = load("size")
        assert len(j["model"]["vocab"]) == 280 and sorted(j["model"]["vocab"].values()) == list(range(280))
        assert [t["id"] for t in j["added_tokens"]] == list(range(specials))
        assert all(t["special"] for t in j["added_tokens"])
    assert train("size", path, "--force", "--json", size=257).json["merges"] == 0
    refuses(2, "less than 256 bytes and 3 special tokens", "vocab", "train", "--size", 258, "--chatml", "--out",
            tmp("small"), path)
    refuses(2, "--size: 100", "vocab", "train", "--size", 100, "--out", tmp("small"), path)
    assert not os.path.exists(tmp("small"))


@claim
def text_is_encoded_and_decoded_and_special_tokens_are_not_learnt():
    path = text_file("text.txt", TEXT)
    for pre in ["gpt2", "llama3"]:
        r = train(pre, path, "--pre", pre, "--json", "--min-frequency", 1, size=340)
        for raw in [TEXT.encode(), b"\xff\xfe invalid \xc3", "caf\u00e9 \u4e2d\u6587 's 'S\t\n \n".encode()]:
            ids = pumice("tokenize", tmp(pre), "--special", "--json", stdin=raw).json
            back = pumice("detokenize", tmp(pre), "--special", stdin=json.dumps(ids).encode()).raw
            assert back == raw, (pre, back)
        ids = pumice("tokenize", tmp(pre), "--special", "--json", stdin=TEXT.encode()).json
        assert len(ids) - ids.count(0) == r.json["tokens"] and ids.count(0) == 6
        assert r.json["bytes"] == len(TEXT.encode())
        ratio = (r.json["bytes"] - 6 * 13) / r.json["tokens"]
        assert abs(r.json["bytes_per_token"] - ratio) < 1e-9
        assert not any("endof" in m.replace(" ", "") or "<|" in m for m in load(pre)["model"]["merges"])
    assert load("gpt2")["pre_tokenizer"]["type"] == "ByteLevel"
    steps = load("llama3")["pre_tokenizer"]["pretokenizers"]
    assert [s["type"] for s in steps] == ["Split", "ByteLevel"] and steps[1]["use_regex"] is False
    numbers = text_file("numbers.txt", "1234 1234 1234 1234")
    for pre, longest in [("gpt2", 4), ("llama3", 3)]:  # Llama-3 cuts numbers into groups of three digits
        train("numbers", numbers, "--pre", pre, "--force", "--min-frequency", 1)
        assert max(sum(c.isdigit() for c in p) for p in load("numbers")["model"]["vocab"]) == longest


def same_files_for_any_number_of_threads(path):
    files = []
    for i, threads in enumerate([1, 2, 3, 2]):
        r = train(f"same{i}", path, "--threads", threads, "--chatml", "--force", "--json", size=2000)
        assert r.json["size"] == 2000, r.json
        files.append([open(os.path.join(tmp(f"same{i}"), n), "rb").read()
                      for n in ["tokenizer.json", "tokenizer_config.json"]])
    assert all(f == files[0] for f in files)
    text = open(path, "rb").read()
    ids = pumice("tokenize", tmp("same0"), "--special", "--json", "-f", path).json
    assert pumice("detokenize", tmp("same0"), "--special", stdin=json.dumps(ids).encode()).raw == text


@claim
def the_same_text_gives_the_same_files_for_any_number_of_threads():
    rng = random.Random(2)
    words = ["".join(rng.choices("aeioubcdfghklmnprst\u00e9\u4e2d", k=rng.randint(2, 9))) for _ in range(3000)]
    path = text_file("large.txt", words_text(1 << 20, words).replace(". Then", ".<|endoftext|>Then"))
    same_files_for_any_number_of_threads(path)


@claim
def stories_give_the_same_files_for_any_number_of_threads():
    same_files_for_any_number_of_threads(data("corpora", "tinystories", "train_head_2MiB.txt"))


@claim
def the_configuration_names_bos_eos_and_the_template():
    path = text_file("text.txt", TEXT)
    train("config", path)
    c = load("config", "tokenizer_config.json")
    assert (c["bos_token"], c["eos_token"], c["add_bos_token"]) == ("<|endoftext|>", "<|endoftext|>", False)
    assert "chat_template" not in c and c["model_max_length"] == 1e30
    train("config", path, "--chatml", "--bos", "<s>", "--eos", "<|im_end|>", "--force")
    c, j = load("config", "tokenizer_config.json"), load("config")
    assert (c["bos_token"], c["eos_token"], c["add_bos_token"]) == ("<s>", "<|im_end|>", True)
    assert "<|im_start|>" in c["chat_template"]
    assert j["post_processor"]["single"][0] == {"SpecialToken": {"id": "<s>", "type_id": 0}}
    assert j["post_processor"]["special_tokens"]["<s>"]["ids"] == [3]
    turn = b"<|im_start|>user\nhi<|im_end|>"
    ids = pumice("tokenize", tmp("config"), "--special", "--bos", "--json", stdin=turn).json
    assert ids[:2] == [3, 1] and ids[-1] == 2, ids
    train("config", path, "--special", "</s>", "--force")
    c = load("config", "tokenizer_config.json")
    assert (c["bos_token"], c["eos_token"]) == ("</s>", "</s>")


@claim
def an_existing_tokenizer_is_replaced_only_by_force():
    path, out = text_file("text.txt", TEXT), tmp("keep")
    train("keep", path)
    before = open(os.path.join(out, "tokenizer.json"), "rb").read()
    refuses(2, "exists (--force replaces it)", "vocab", "train", "--size", 280, "--out", out, path)
    refuses(4, "/nonexistent", "vocab", "train", "--size", 280, "--out", out, "--force", "/nonexistent")
    assert open(os.path.join(out, "tokenizer.json"), "rb").read() == before
    train("keep", path, "--force", size=280)
    assert open(os.path.join(out, "tokenizer.json"), "rb").read() != before
    assert sorted(os.listdir(out)) == ["tokenizer.json", "tokenizer_config.json"]
    refuses(4, "is not a folder", "vocab", "train", "--size", 280, "--out", path, path)
    assert open(path, encoding="utf-8").read() == TEXT
    refuses(4, "/nonexistent/a", "vocab", "train", "--size", 280, "--out", "/nonexistent/a", path)


@claim
def bad_input_is_refused_by_name_and_reason():
    good = text_file("text.txt", TEXT)
    for status, part, files in [
            (4, "/nonexistent/a.txt: No such file", ["/nonexistent/a.txt"]),
            (4, "No such file", [good, "/nonexistent/a.txt"]),
            (4, "is a folder", [tmp(".")]),
            (3, "empty.txt: is empty", [good, text_file("empty.txt", "")]),
            (3, "binary: byte 4 is NUL", [text_file("binary", b"GGUF\0\0\0")]),
            (3, "no text besides special tokens", [text_file("none.txt", "<|endoftext|>" * 9)])]:
        refuses(status, part, "vocab", "train", "--size", 300, "--out", tmp("bad"), *files)
    assert not os.path.exists(tmp("bad"))
    args = ["vocab", "train", "--size", 300, "--out", tmp("bad")]
    refuses(2, "one text file or more", *args)
    refuses(2, "give --size N", "vocab", "train", "--out", tmp("bad"), good)
    refuses(2, "give --out DIR", "vocab", "train", "--size", 300, good)
    refuses(2, "--pre: 'qwen' is not gpt2 or llama3", *args, "--pre", "qwen", good)
    refuses(2, "--special: 'a b' has white space", *args, "--special", "a b", good)
    refuses(2, "--bos: 'x' is shorter than two bytes", *args, "--bos", "x", good)
    refuses(2, "--special: '??b' has a character below", *args, "--special", "\u0120b", good)
    refuses(2, "--min-frequency: 0", *args, "--min-frequency", 0, good)
    refuses(2, "vocab: 'learn' is not train", "vocab", "learn")
    refuses(2, "vocab: '' is not train", "vocab")


@claim
def output_is_quiet_where_asked_and_help_fits_80_columns():
    path = text_file("text.txt", TEXT)
    r = train("quiet", path, "-q", size=290)
    assert r.raw == b"" and r.err == "", r.err
    r = train("quiet", path, "--force", size=290)
    assert r.raw == b"" and "290 tokens: 1 special, 256 bytes, 33 merges" in r.err, r.err
    assert "bytes per token" in r.err
    j = train("quiet", path, "-q", "--force", "--limit", 30, "--json", size=257).json
    assert j["bytes"] == 18, j  # of the 30 bytes the last whole words: "the cat sat on the"
    for line in pumice("vocab", "train", "--help").out.split("\n"):
        assert len(line) <= 80, line
    assert pumice("vocab", "--help").out.startswith("usage: pumice vocab train")


main()
