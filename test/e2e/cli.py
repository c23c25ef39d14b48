"""cli.py - the contract of every command: output that scripts read, and one clear line for every refusal."""

import functools
import json
import math
import os
import random
import struct
import subprocess

from harness import (BIN, BOS, CONTEXT, EOS, VOCAB, claim, copy_of, data, edit_json, environment, ids_text, load, made, main,
                     pumice, read_json, read_npy, read_safetensors, refuses, tmp, write_safetensors, write_text)

PROMPT = "Once upon a time"
model = made


def trained():
    return data("models", "stories260K")


def greedy(n, *flags, prompt=PROMPT):
    return pumice("run", model(), "-p", prompt, "-n", n, "--temp", 0, *flags, "--json").json


@functools.cache
def prompt_ids(prompt=PROMPT):
    """BPE written out: each word's bytes, then the merges in the order they were learnt."""
    vocab, merges = (read_json(model(), "tokenizer.json")["model"][k] for k in ["vocab", "merges"])
    ids = [BOS]
    for word in prompt.replace(" ", " \u0120").split(" "):
        parts = list(word)
        for merge in merges:
            left, right = merge.split(" ")
            i = 0
            while i + 1 < len(parts):
                if parts[i:i + 2] == [left, right]:
                    parts[i:i + 2] = [left + right]
                i += 1
        ids += [vocab[p] for p in parts]
    return ids


# -- help and commands ------------------------------------------------------------------------------------------

@claim
def help_names_every_command_and_each_has_its_own():
    text = pumice("--help").out
    for name in ["chat", "run", "tokenize", "detokenize", "show", "eval", "init", "bench", "doctor"]:
        assert f"\n  {name} " in text, name
        assert pumice(name, "--help").out.startswith("usage: pumice " + name), name
    assert pumice("help", "run").out == pumice("run", "--help").out
    assert pumice("eval", "ppl", "--help").out.startswith("usage: pumice eval ppl")
    assert pumice("--version").out.startswith("pumice ")


@claim
def help_fits_80_columns():
    for args in [["--help"], ["run", "--help"], ["chat", "--help"], ["show", "--help"], ["tokenize", "--help"],
                 ["detokenize", "--help"], ["init", "--help"], ["eval", "ppl", "--help"], ["eval", "logits", "--help"],
                 ["eval", "grads", "--help"]]:
        for line in pumice(*args).out.split("\n"):
            assert len(line) <= 80, line


@claim
def a_wrong_command_is_refused_with_the_nearest_name():
    refuses(2, "unknown command 'chta'; did you mean 'chat'?", "chta")
    refuses(2, "did you mean 'tokenize'?", "tokenise")
    refuses(2, "unknown command 'frobnicate'", "frobnicate")
    refuses(2, "unknown command 'xyz'", "help", "xyz")
    pumice(status=2)
    refuses(2, "'foo' is not ppl, quant, logits or grads", "eval", "foo")


@claim
def unknown_flags_and_bad_values_are_named():
    for cmd in [["run"], ["chat"], ["show"], ["tokenize"], ["detokenize"], ["eval", "ppl"], ["eval", "logits"],
                ["init"]]:
        refuses(2, "unknown option '--larosa-sparsity'", *cmd, model(), "--larosa-sparsity", "0.4")
    for flags, part in [(["--temp", "hot"], "--temp: 'hot' is not a number"), (["--temp", "-1"], "--temp: -1"),
                        (["--top-p", "1.5"], "--top-p: 1.5 is not in 0..1"), (["-n", "1x"], "-n: '1x'"),
                        (["-n", "-2"], "-n: -2 is not in"), (["--threads", "99999"], "--threads: 99999"),
                        (["--dtype", "q3"], "--dtype: 'q3'"), (["--dtype", "q2_k"], "--dtype: 'q2_k'"),
                        (["-ctk", "q4_0"], "--kv-dtype: 'q4_0'"),
                        (["--kv", "paged"], "--kv: 'paged' is not virtual or flat"),
                        (["--kv", "flat", "--kv-pool", "9"], "--kv-pool: a flat layout"), (["-ctv", "int8"], "one type"),
                        (["-ctk", "f16", "-ctv", "int8"], "one type"), (["--seed", "1e3"], "--seed: '1e3'"),
                        (["--logit-bias", "5"], "--logit-bias: '5'"),
                        (["--logit-bias", "99999+1"], "99999 is outside the vocabulary of 512"),
                        (["--logit-bias", "5+x"], "--logit-bias: '+x'"), (["--stop", ""], "--stop: the text is empty"),
                        (["--logprobs", "3"], "--logprobs needs --json"),
                        (["--logprobs", "21", "--json"], "--logprobs: 21 is not in 0..20"),
                        (["--chat-template", "foo", "--chat"], "--chat-template: 'foo'"),
                        (["-sys", "x"], "need --chat"), (["--temp"], "--temp: needs a value"),
                        (["--json=1"], "--json: takes no value")]:
        refuses(2, part, "run", model(), "-p", PROMPT, *flags)


@claim
def a_batch_for_gradients_that_is_none_is_one_clear_error():
    out, rows = tmp("g.safetensors"), tmp("rows.json")
    refuses(2, "eval grads: give --ids FILE", "eval", "grads", model(), "--out", out)
    refuses(2, "--dtype: 'q8_0'", "eval", "grads", model(), "--ids", rows, "--out", out, "--dtype", "q8_0")
    refuses(4, "none.json", "eval", "grads", model(), "--ids", tmp("none.json"), "--out", out)
    for text, status, part in [("[[1,2],[3]]", 3, "row 1 is not a list of 2 token ids"), ("[]", 3, "not a list"),
                               ("[[1]]", 3, "two or more"), ("[[1,\"a\"]]", 3, "row 0: item 1"),
                               ("{\"batch\": 5}", 3, "not a list"), ("[[1,2", 3, "invalid JSON"),
                               ("[[1,512]]", 2, "512 is outside the vocabulary"), ("[[-1,2]]", 3, "item 0")]:
        with open(rows, "w", encoding="utf-8") as f:
            f.write(text)
        refuses(status, part, "eval", "grads", model(), "--ids", rows, "--out", out)
        assert not os.path.exists(out), text


# -- models ------------------------------------------------------------------------------------------------------

@claim
def a_model_that_is_not_there_or_no_model_is_one_clear_error():
    empty = tmp("empty")
    os.makedirs(empty, exist_ok=True)
    garbage = tmp("garbage.gguf")
    with open(garbage, "wb") as f:
        f.write(b"GGUF" + bytes(range(200)))
    for cmd in [["run", "-p", "x"], ["chat", "--message", "x"], ["show"], ["tokenize", "-p", "x"],
                ["detokenize", "--ids", "1"], ["eval", "ppl", "--text", __file__],
                ["eval", "logits", "--ids", "1", "--out", tmp("x.npy")]]:
        refuses(4, "/nonexistent/model", *cmd, "-m", "/nonexistent/model")
        r = pumice(*cmd, "-m", empty, status=None)
        assert r.status in (3, 4) and empty in r.err and r.err.count("\n") == 1, (cmd, r.status, r.err)
        refuses(3, garbage, *cmd, "-m", garbage)
        refuses(2, "no model given", *cmd)
    assert not os.path.exists(tmp("x.npy"))


@claim
def a_model_is_positional_or_a_flag():
    a = pumice("run", model(), "-p", PROMPT, "-n", 5, "--temp", 0, "--json").json
    b = pumice("run", "-m", model(), PROMPT, "-n", "5", "--temp", "0", "--json").json
    c = pumice("run", "--model", model(), *PROMPT.split(), "--n-predict=5", "--temp=0", "--json").json
    assert a["ids"] == b["ids"] == c["ids"]
    refuses(2, "unexpected argument 'extra'", "show", model(), "extra")


# -- run ----------------------------------------------------------------------------------------------------------

@claim
def run_json_has_the_documented_keys():
    j, n = greedy(12), len(prompt_ids())
    assert list(j) == ["model", "ids", "text", "finish_reason", "seed", "usage", "timings"], list(j)
    assert j["model"] == model() and j["finish_reason"] == "length"
    assert j["usage"] == {"prompt_tokens": n, "cached_tokens": 0, "completion_tokens": 12, "total_tokens": n + 12}
    assert pumice("detokenize", model(), "--ids", ids_text(j["ids"])).out == j["text"]
    t = j["timings"]
    assert t["prompt_ms"] > 0 and t["predicted_ms"] > 0 and t["peak_memory_bytes"] > 1 << 20
    assert t["predicted_per_second"] > 0 and t["prompt_per_second"] > 0


@claim
def greedy_takes_the_largest_logit_of_each_position():
    ids = greedy(16)["ids"]
    pumice("eval", "logits", model(), "--ids", ids_text(prompt_ids() + ids), "--out", tmp("greedy.npy"))
    _, cols, v = read_npy(tmp("greedy.npy"))
    for i, token in enumerate(ids):
        at = (len(prompt_ids()) - 1 + i) * cols
        row = v[at:at + cols]
        assert row[token] == max(row), (i, token, row.index(max(row)))


@claim
def a_trained_model_continues_as_its_reference_did():
    ref = load("models", "stories260K", "ref", "ref.json")
    j = pumice("run", trained(), "-p", PROMPT, "-n", 12, "--temp", 0, "--json").json
    assert j["ids"] == ref["greedy"][:12] and j["usage"]["prompt_tokens"] == len(ref["ids"])
    j = pumice("run", trained(), "--ids", json.dumps(ref["ids"]), "--n", 16, "--temp", 0, "--json").json
    assert j["ids"] == ref["greedy"][:16]


@claim
def ids_are_used_as_they_are():
    j = pumice("run", model(), "--ids", json.dumps(prompt_ids()), "--n", 16, "--temp", 0, "--json").json
    assert j["ids"] == greedy(16)["ids"]
    assert j["usage"]["prompt_tokens"] == len(prompt_ids())
    without = pumice("run", model(), "--ids", ids_text(prompt_ids()[1:]), "-n", 1, "--temp", 0, "--json").json
    assert without["usage"]["prompt_tokens"] == len(prompt_ids()) - 1, "ids get no BOS"
    refuses(2, "--ids: 'x' is not a token id", "run", model(), "--ids", "1,x,3")
    refuses(2, "--ids: '-5' is not a token id", "run", model(), "--ids", "1,-5")
    refuses(2, "is not a token id", "run", model(), "--ids", "1,99999999999")
    refuses(2, "--ids: no token ids", "run", model(), "--ids", "")
    refuses(2, "512 is outside the vocabulary of 512", "run", model(), "--ids", "1,512")


@claim
def the_prompt_comes_from_flag_words_file_or_stdin_alike():
    path = tmp("prompt.txt")
    with open(path, "w", encoding="utf-8") as f:
        f.write(PROMPT + "\n")
    flags = ["-n", "8", "--temp", "0", "--json"]
    want = pumice("run", model(), "-p", PROMPT, *flags).json["ids"]
    assert pumice("run", model(), "-f", path, *flags).json["ids"] == want
    assert pumice("run", model(), *flags, stdin=PROMPT.encode()).json["ids"] == want
    assert pumice("run", model(), *flags, stdin=PROMPT.encode() + b"\n").json["ids"] == want
    assert pumice("run", model(), "-f", "-", *flags, stdin=PROMPT.encode()).json["ids"] == want
    refuses(2, "more than one prompt", "run", model(), "-p", "a", "-f", path)
    refuses(4, "/nonexistent/p", "run", model(), "-f", "/nonexistent/p")


@claim
def an_empty_prompt_without_bos_is_refused():
    refuses(2, "the prompt is empty", "run", made("bare"), "-p", "")


@claim
def invalid_utf8_in_a_file_is_replaced_with_a_warning():
    path = tmp("bad.txt")
    with open(path, "wb") as f:
        f.write(b"Once \xff upon \xe2\x82 a time \xed\xa0\x80")
    r = pumice("run", model(), "-f", path, "-n", 4, "--temp", 0, "--json")
    assert f"{path}: not valid UTF-8: 5 parts replaced by U+FFFD" in r.err, r.err
    good = pumice("run", model(), "-p", "Once \ufffd upon \ufffd a time \ufffd\ufffd\ufffd", "-n", 4, "--temp", 0, "--json")
    assert r.json["ids"] == good.json["ids"] and good.err == ""


@claim
def text_goes_to_stdout_and_figures_to_stderr():
    r = pumice("run", model(), "-p", PROMPT, "-n", 12, "--temp", 0)
    j = pumice("run", model(), "-p", PROMPT, "-n", 12, "--temp", 0, "--json").json
    assert r.out == j["text"] + "\n", (r.out, j["text"])
    assert r.err.startswith(f"pumice: prompt {len(prompt_ids())} tokens in ") and "peak memory" in r.err, r.err
    q = pumice("run", model(), "-p", PROMPT, "-n", 12, "--temp", 0, "-q")
    assert q.out == r.out and q.err == ""


@claim
def prompt_and_completion_make_one_text():
    """A leading space of the first token is part of a completion: re-encoding finds the generated ids again."""
    for prompt in ["Tom was sad", "Once", "Once upon a time, there"]:
        j = greedy(20, prompt=prompt)
        assert j["text"].startswith(" "), (prompt, j["text"])
        whole = pumice("tokenize", model(), "--json", "-p", prompt + j["text"]).json
        alone = pumice("tokenize", model(), "--json", "-p", prompt).json
        assert len(j["ids"]) == 20 and whole == alone + j["ids"], (prompt, whole, alone, j["ids"])


@claim
def prompt_and_completion_make_one_text_with_sentencepiece():
    for prompt in ["Tom was sad", "Once", "Once upon a time, there"]:
        j = pumice("run", trained(), "-p", prompt, "-n", 20, "--temp", 0, "--json").json
        assert j["text"].startswith(" "), (prompt, j["text"])
        whole = pumice("tokenize", trained(), "--json", "-p", prompt + j["text"]).json
        alone = pumice("tokenize", trained(), "--json", "-p", prompt).json
        full = alone + j["ids"]
        assert len(whole) >= len(full) - 1 and whole == full[:len(whole)], (prompt, whole, full)  # a final space is lost


@claim
def same_seed_same_text_and_a_fresh_seed_is_reported():
    flags = ["run", model(), "-p", PROMPT, "-n", 30, "--temp", 1.2, "--json"]
    a, b = pumice(*flags, "-s", 5).json, pumice(*flags, "-s", 5).json
    assert a["ids"] == b["ids"] and a["seed"] == 5
    assert pumice(*flags, "-s", 6).json["ids"] != a["ids"]
    c, d = pumice(*flags).json, pumice(*flags).json
    assert c["seed"] != d["seed"]
    assert pumice(*flags, "-s", c["seed"]).json["ids"] == c["ids"]


@claim
def sampling_flags_reach_the_sampler():
    flags = ["run", model(), "-p", PROMPT, "-n", 20, "-s", 3, "--temp", 1.5, "--json"]
    best = greedy(20)["ids"]
    loose = pumice(*flags, "--top-k", 0, "--top-p", 1, "--min-p", 0).json["ids"]
    assert loose != best
    for narrow in [["--top-k", 1], ["--top-p", 0.0001], ["--min-p", 1]]:
        off = {"--top-k": 0, "--top-p": 1, "--min-p": 0}
        off.update([narrow])
        args = [x for pair in off.items() for x in pair]
        assert pumice(*flags, *args).json["ids"] == best, narrow
    base = ["run", model(), "-p", PROMPT, "-n", 40, "--temp", 0, "--json"]
    plain = pumice(*base).json["ids"]
    for change in [["--repeat-penalty", 2, "--repeat-last-n", -1], ["--presence-penalty", 2],
                   ["--frequency-penalty", 2]]:
        got = pumice(*base, *change).json["ids"]
        assert len(set(got)) > len(set(plain)), f"{change} does not weaken repeats"
    assert pumice(*base, "--logit-bias", "400+100").json["ids"] == [400] * 40
    banned = plain[0]
    assert pumice(*base, "--logit-bias", f"{banned}-inf").json["ids"][0] != banned
    assert pumice(*base, "--logit-bias", f"{banned}-100").json["ids"][0] != banned


@claim
def a_flag_beats_the_models_default_which_beats_ours():
    folder = copy_of(model())
    edit_json(folder, "generation_config.json", temperature=3.0, top_k=1)
    best = greedy(20)["ids"]
    flags = ["-p", PROMPT, "-n", 20, "-s", 1, "--json"]
    assert pumice("run", folder, *flags).json["ids"] == best, "top_k 1 of generation_config.json is not used"
    loose = ["--top-k", 0, "--top-p", 1, "--min-p", 0]
    hot = pumice("run", folder, *flags, *loose).json["ids"]
    assert hot == pumice("run", model(), *flags, *loose, "--temp", 3).json["ids"] != best
    assert hot != pumice("run", model(), *flags, *loose).json["ids"]


@claim
def an_answer_ends_before_a_stop_string():
    text = greedy(40)["text"]
    at = next(i for i in range(20, 80) if text.index(text[i:i + 6]) == i)  # six characters that are new there
    stop = text[at:at + 6]
    j = greedy(40, "--stop", stop)
    assert j["text"] == text[:at] and j["finish_reason"] == "stop", j
    j = greedy(40, "--reverse-prompt", "zzz", "-r", f"\\x{ord(stop[0]):02x}{stop[1:]}")
    assert j["text"] == text[:at]


@claim
def eos_ends_an_answer_unless_ignored():
    want = greedy(16)["ids"]
    at = next(i for i in range(3, 16) if want[i] not in want[:i])
    folder = copy_of(model())
    for name in ["config.json", "generation_config.json"]:
        edit_json(folder, name, eos_token_id=want[at])
    flags = ["-p", PROMPT, "-n", 16, "--temp", 0, "--json"]
    j = pumice("run", folder, *flags).json
    assert j["ids"] == want[:at] and j["finish_reason"] == "stop"
    j = pumice("run", folder, *flags, "--ignore-eos").json
    assert j["ids"] == want and j["finish_reason"] == "length"


@claim
def eos_ends_an_answer_where_the_reference_ended():
    mistral = data("reference", "mistral")
    ids = load("reference", "mistral", "ref", "ids.json")["prompts"][2]
    want = load("reference", "mistral", "ref", "ref.json")["prompts"][2]["greedy"]
    j = pumice("run", mistral, "--ids", ids[0], "-n", 16, "--temp", 0, "--json").json
    assert j["ids"] == want[:want.index(2)] and j["finish_reason"] == "stop"
    j = pumice("run", mistral, "--ids", ids[0], "-n", 16, "--temp", 0, "--json", "--ignore-eos").json
    assert j["ids"] == want and j["finish_reason"] == "length"


@claim
def logprobs_are_those_of_the_logits():
    ids = json.dumps(prompt_ids())
    j = pumice("run", model(), "--ids", ids, "-n", 3, "--temp", 0, "--logprobs", 4, "--json").json
    pumice("eval", "logits", model(), "--ids", ids, "--out", tmp("l.npy"))
    rows, cols, v = read_npy(tmp("l.npy"))
    row = v[(rows - 1) * cols:]
    z = math.log(math.fsum(math.exp(x) for x in row))
    best = sorted(range(cols), key=lambda i: (-row[i], i))[:4]
    first = j["logprobs"][0]
    assert len(j["logprobs"]) == 3 and first["id"] == j["ids"][0] == best[0]
    assert [t["id"] for t in first["top"]] == best
    for t in first["top"]:
        assert abs(t["logprob"] - (row[t["id"]] - z)) < 1e-4, t
    assert bytes(first["bytes"]).decode() == first["token"]


@claim
def a_prompt_longer_than_the_context_is_refused():
    ids = ",".join(["403"] * 600)
    refuses(2, "600 tokens", "run", model(), "--ids", ids)
    refuses(2, "600 tokens", "eval", "logits", model(), "--ids", ids, "--out", tmp("x.npy"))
    refuses(2, "context", "run", model(), "--ids", "1,2,3,4,5,6,7,8,9", "-c", 8)
    j = pumice("run", model(), "--ids", ",".join(["403"] * 500), "--temp", 0, "--ignore-eos", "--json").json
    assert j["finish_reason"] == "length" and j["usage"]["total_tokens"] in (511, 512, 513), j["usage"]


def tiny_gpt2():
    """A GPT-2 of one layer with 32 learned positions, written out here."""
    folder, dim, rng, head, blob = tmp("gpt2"), 32, random.Random(6), {}, bytearray()
    shapes = {"wte.weight": [64, dim], "wpe.weight": [32, dim]}
    for name, shape in {"attn.c_attn": [dim, 3 * dim], "attn.c_proj": [dim, dim], "mlp.c_fc": [dim, 4 * dim],
                        "mlp.c_proj": [4 * dim, dim]}.items():
        shapes.update({f"h.0.{name}.weight": shape, f"h.0.{name}.bias": shape[1:]})
    for name in ["h.0.ln_1", "h.0.ln_2", "ln_f"]:
        shapes.update({name + ".weight": [dim], name + ".bias": [dim]})
    for name, shape in shapes.items():
        n = math.prod(shape)
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(blob), len(blob) + 4 * n]}
        blob += struct.pack(f"<{n}f", *(rng.gauss(0, 0.1) for _ in range(n)))
    os.makedirs(folder, exist_ok=True)
    write_safetensors(os.path.join(folder, "model.safetensors"), head, blob)
    write_text(os.path.join(folder, "config.json"), json.dumps(
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 64, "n_embd": dim, "n_layer": 1, "n_head": 2,
         "n_positions": 32, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}))
    return folder


@claim
def learned_positions_bound_the_context():
    folder = tiny_gpt2()
    refuses(2, "context", "run", folder, "--ids", "1,2", "-c", 4096)
    refuses(2, "context", "run", folder, "--ids", "1,2", "-c", 33)
    r = pumice("bench", "--model", folder, "--test", "tg9", "--depth", 30, "--threads", 1, "-r", 1, "--json", status=2)
    assert "--test tg9 left out: depth 30 + 9 tokens exceed the model's 32 positions" in r.err and "every test" in r.err
    j = pumice("run", folder, "--ids", "1,2", "-c", 32, "--temp", 0, "--ignore-eos", "--json").json
    assert j["finish_reason"] == "length" and j["usage"]["total_tokens"] in (31, 32, 33), j["usage"]


@claim
def a_closed_pipe_is_not_an_error():
    for args in [["run", model(), "-p", PROMPT, "--temp", "0", "--ignore-eos", "-n", "400"], ["show", model()]]:
        p = subprocess.Popen([BIN, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        p.stdout.close()
        err = p.stderr.read()
        assert p.wait(30) == 0, (p.returncode, err)
        assert b"pumice: standard output" not in err, err
    r = subprocess.run(f'"{BIN}" show "{model()}" >&-', shell=True, capture_output=True, env=environment(), timeout=30)
    assert r.returncode == 0, r.stderr


@claim
def a_full_disk_on_stdout_is_an_error():
    for args in [["run", model(), "-p", PROMPT, "-n", "4"], ["show", model()], ["show", model(), "--json"],
                 ["tokenize", model(), "-p", "a"]]:
        with open("/dev/full", "wb") as full:
            p = subprocess.run([BIN, *args], stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=30)
        assert p.returncode == 4 and b"standard output" in p.stderr, (args, p.returncode, p.stderr)


@claim
def run_chat_wraps_the_prompt_as_a_message():
    m = made("chat")
    flags = ["-n", "4", "--temp", "0", "--json", "-q"]
    plain = pumice("run", m, "-p", "hi", *flags).json["usage"]["prompt_tokens"]
    chat = pumice("run", m, "-p", "hi", "--chat", "--chat-template", "none", *flags)
    assert chat.json["usage"]["prompt_tokens"] == plain and "plain text" in chat.err
    bare = pumice("run", m, "-p", "hi", "--chat", "--chat-template", "chatml", *flags)
    full = pumice("run", m, "-p", "hi", "--chat", "--chat-template", "chatml", "-sys", "be kind", *flags)
    n, more = bare.json["usage"]["prompt_tokens"], full.json["usage"]["prompt_tokens"]
    assert more > n > plain and bare.err == full.err == "", (plain, n, more, bare.err)


# -- tokenize, detokenize -------------------------------------------------------------------------------------------

@claim
def tokenize_and_detokenize_agree_with_every_tokenizer():
    for name in ["gpt2", "llama-2", "llama-3", "qwen2.5", "phi-2", "smollm2"]:
        path = data("tokenizers", name)
        cases = [c for c in load("tokenizers", name, "cases.json")["cases"] if "\0" not in c["text"]]
        # a process a case would be slow: two hard ones here, the rest is in test/unit
        for c in sorted(cases, key=lambda c: -len(set(c["text"])))[:2]:
            flags = ["--special"] if c.get("special") else []
            ids = pumice("tokenize", path, "--json", *flags, stdin=c["text"].encode()).json
            assert ids == c["ids"], f"{name}: {c['text']!r}: {ids}"
            text = pumice("detokenize", path, *flags, stdin=json.dumps(ids).encode()).raw
            if "decoded" in c:
                assert text.decode("utf-8", "replace") == c["decoded"], f"{name}: {c['text']!r}: {text!r}"


@claim
def tokenize_prints_ids_json_or_pieces():
    ids = prompt_ids()
    assert pumice("tokenize", model(), "--json", "--bos", stdin=PROMPT.encode()).json == ids
    assert pumice("tokenize", model(), "--json", stdin=PROMPT.encode()).json == ids[1:]
    assert pumice("tokenize", model(), "-p", PROMPT).out == " ".join(map(str, ids[1:])) + "\n"
    pieces = pumice("tokenize", model(), "--pieces", "-p", PROMPT).out.strip("\n").split("\n")
    assert [int(p.split("\t")[0]) for p in pieces] == ids[1:]
    assert "".join(p.split("\t")[1] for p in pieces).replace("\u0120", " ") == PROMPT
    assert pumice("tokenize", model(), "--json", stdin=b"").json == []
    refuses(2, "exclude each other", "tokenize", model(), "--json", "--pieces", "-p", "x")


@claim
def tokenize_is_that_of_the_reference_from_a_folder_and_from_gguf():
    ids = load("models", "stories260K", "ref", "ref.json")["ids"]
    assert pumice("tokenize", trained(), "--json", "--bos", stdin=PROMPT.encode()).json == ids
    for m in [trained(), data("models", "stories260K.gguf")]:
        assert pumice("tokenize", m, "--json", stdin=PROMPT.encode()).json == ids[1:]
    pieces = pumice("tokenize", trained(), "--pieces", "-p", PROMPT).out.strip("\n").split("\n")
    assert [int(p.split("\t")[0]) for p in pieces] == ids[1:]
    assert "".join(p.split("\t")[1] for p in pieces).replace("\u2581", " ").strip() == PROMPT


@claim
def detokenize_takes_json_or_white_space_and_gives_the_exact_bytes():
    text = 'Tom said, "I\'m 7 years old."  Caf\u00e9 \u2116 5 \U0001f642\n\ttab'.encode()
    path = model()
    ids = pumice("tokenize", path, "--json", stdin=text).json
    assert pumice("detokenize", path, stdin=json.dumps(ids).encode()).raw == text
    assert pumice("detokenize", path, stdin=" ".join(map(str, ids)).encode() + b"\n").raw == text
    assert pumice("detokenize", path, "--ids", ",".join(map(str, ids))).raw == text
    assert pumice("detokenize", path, stdin=b"[]").raw == b""
    assert pumice("detokenize", path, "--ids", EOS).raw == b""
    assert pumice("detokenize", path, "--ids", EOS, "--special").raw == b"</s>"
    refuses(3, "standard input: 'x' is not a token id", "detokenize", path, stdin=b"[1, x]")
    refuses(3, "has a NUL byte", "detokenize", path, stdin=b"1 \0 2")
    r = pumice("detokenize", path, stdin=b"[999999]", status=3)
    assert "999999" in r.err, r.err


# -- show, eval, init --------------------------------------------------------------------------------------------------

@claim
def show_tells_what_the_model_is():
    j, c = pumice("show", model(), "--json").json, read_json(model(), "config.json")
    assert j["architecture"] == "llama" and j["shape"]["vocabulary"] == VOCAB
    assert j["shape"]["layers"] == c["num_hidden_layers"] and j["shape"]["context"] == CONTEXT
    values = 2 * c["num_hidden_layers"] * c["head_dim"] * c["num_key_value_heads"]  # a key and a value for each
    padded = values // c["head_dim"] * -(-c["head_dim"] // 16) * 16
    assert j["kv_bytes_per_token"] == {"f32": padded * 4, "f16": padded * 2, "bf16": padded * 2,
                                       "int8": padded + values // c["head_dim"] * 4}
    assert j["weights"]["bytes_per_weight"] == 4 and list(j["weights"]["bytes_by_type"]) == ["f32"]
    head = read_safetensors(os.path.join(model(), "model.safetensors"))[0]
    count = 0
    for name, t in head.items():
        if name != "__metadata__":
            k = 1
            for d in t["shape"]:
                k *= d
            count += k
    assert j["weights"]["parameters"] == count == j["weights"]["parameters_of_shape"]
    assert j["bos"] == BOS and j["eos"] == [EOS] and j["tokenizer"]["adds_bos"] is True
    text = pumice("show", model()).out
    for part in ["architecture", "parameters", "per weight", "KV per token", "context", "tokenizer", "chat template"]:
        assert part in text, part


@claim
def show_tells_the_types_of_a_quantised_file():
    q = pumice("show", data("gguf", "llama-k256.Q4_0.gguf"), "--json").json
    assert 0.5 < q["weights"]["bytes_per_weight"] < 0.6 and "q4_0" in q["weights"]["bytes_by_type"]


@claim
def eval_logits_writes_a_file_or_nothing():
    out = tmp("logits.npy")
    pumice("eval", "logits", model(), "--ids", "1,403,407", "--out", out)
    assert read_npy(out)[:2] == (3, 512)
    refuses(2, "give --ids", "eval", "logits", model(), "--out", out)
    refuses(2, "give --out", "eval", "logits", model(), "--ids", "1")
    refuses(4, "/nonexistent/", "eval", "logits", model(), "--ids", "1", "--out", "/nonexistent/x.npy")
    before = open(out, "rb").read()
    refuses(2, "600", "eval", "logits", model(), "--ids", "1,600", "--out", out)
    assert open(out, "rb").read() == before
    assert [f for f in os.listdir(os.path.dirname(out)) if ".tmp-" in f] == []


@claim
def eval_ppl_windows_count_every_token_once():
    path = tmp("text.txt")
    with open(path, "w", encoding="utf-8") as f:
        f.write("Once upon a time, there was a little cat named Tom. " * 80)
    n = len(pumice("tokenize", model(), "--json", "-f", path).json)
    size = os.path.getsize(path)
    for ctx in [64, 512]:
        j = pumice("eval", "ppl", model(), "--text", path, "-c", ctx, "--json").json
        assert j["tokens"] == n and j["bos"] is True, (j, n)
        assert abs(j["bytes"] - size) <= 1, (j["bytes"], size)
        assert j["sequences"] == -(-n // (ctx - 1)) and j["context"] == ctx
        assert 0.9 < j["nll_per_token"] * j["tokens"] / 0.6931471805599453 / j["bytes"] / j["bits_per_byte"] < 1.1
    n = len(pumice("tokenize", made("bare"), "--json", "-f", path).json)
    j = pumice("eval", "ppl", made("bare"), "--text", path, "-c", 100, "--json").json
    assert j["bos"] is False and j["tokens"] == n - -(-n // 100), (j, n)
    refuses(2, "--ctx-size: 513", "eval", "ppl", model(), "--text", path, "-c", 513)


@claim
def eval_ppl_documents_are_split_stripped_and_scored_alone():
    a, b = "Once upon a time there was a cat.", "One day Tom went to the park."
    path = tmp("docs.txt")

    def score(text, *flags):
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return pumice("eval", "ppl", model(), "--text", path, "--json", *flags).json

    one, two = score(a, "--docs", "|"), score(b, "--docs", "|")
    for sep, flag in [("|", "|"), ("\n\n", r"\n\n"), ("<|endoftext|>", "<|endoftext|>"), ("\t", r"\x09")]:
        both = score(f"{sep}  \n{a}\n {sep}{sep} {b} {sep}\n", "--docs", flag)
        assert both["sequences"] == 2 and both["tokens"] == one["tokens"] + two["tokens"], both
        want = one["nll_per_token"] * one["tokens"] + two["nll_per_token"] * two["tokens"]
        assert abs(both["nll_per_token"] * both["tokens"] - want) < 1e-6 * want
        assert both["bytes"] == len(a) + len(b)
    assert score(f"{a}|{b}", "--docs", "|", "--limit", 1)["tokens"] == one["tokens"]
    cut = score(f"{a}|{b}", "--docs", "|", "-c", 6)
    assert cut["tokens"] == 10 and cut["sequences_cut"] == 2
    with open(path, "w", encoding="utf-8") as f:
        f.write(" \n | \n")
    refuses(3, "has no text to score", "eval", "ppl", model(), "--text", path, "--docs", "|")
    refuses(2, "the separator is empty", "eval", "ppl", model(), "--text", path, "--docs", "")
    refuses(2, "give --text", "eval", "ppl", model())
    refuses(4, "/nonexistent/t", "eval", "ppl", model(), "--text", "/nonexistent/t")


@claim
def init_writes_a_model_that_runs_and_never_overwrites():
    a, b = tmp("tiny-a"), tmp("tiny-b")
    pumice("init", "tiny", "--out", a, "--seed", 3, "--dtype", "f32")
    pumice("init", "tiny", "--out", b, "--seed", 3, "--dtype", "f32")
    files = sorted(os.listdir(a))
    assert {"config.json", "model.safetensors"} <= set(files), files
    for f in files:
        assert open(os.path.join(a, f), "rb").read() == open(os.path.join(b, f), "rb").read(), f
    refuses(2, "not empty", "init", "tiny", "--out", a)
    pumice("init", "tiny", "--out", a, "--seed", 4, "--force")
    assert 2 <= pumice("show", a, "--json").json["weights"]["bytes_per_weight"] < 2.1  # bf16, norms f32
    j = pumice("run", a, "--ids", "1,2,3", "-n", 4, "--temp", 0, "--ignore-eos", "--json").json
    assert len(j["ids"]) == 4 and j["text"] == ""
    assert len(pumice("run", a, "--ids", "1,2,3", "-n", 4, "--ignore-eos").out.split()) == 4
    refuses(2, "no tokenizer", "run", a, "-p", "x")
    refuses(2, "no tokenizer", "chat", a, "--message", "x")
    refuses(2, "168m", "init", "enormous", "--out", tmp("z"))
    refuses(2, "name a shape", "init", "--out", tmp("z"))
    refuses(2, "give --out", "init", "tiny")
    refuses(2, "--dtype: 'q8_0'", "init", "tiny", "--out", tmp("z"), "--dtype", "q8_0")
    assert not os.path.exists(tmp("z"))


main()
