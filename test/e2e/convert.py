"""convert.py - `quantize` between Hugging Face folders and GGUF: the same model, whatever the layout."""

import os
import struct

from harness import (ROOT, claim, copy_of, data, edit_json, made, main, pumice, read_json, read_safetensors, refuses,
                     tmp, words_text, write_safetensors, write_text)

REFERENCES = [("reference", n) for n in ["gpt2", "llama-gqa-tied", "llama-linear-rope-bias", "llama3-rope", "mistral",
                                         "phi", "qwen2"]] + [("models", "stories260K")]
IDS = "1,5,9,20,33,4,17,60,2,7,41,12,88,90"
count = 0


def out(name):
    """A path that is not there yet."""
    global count
    count += 1
    return tmp(f"{count}-{name}")


def quantized(source, name, kind):
    path = out(name)
    pumice("quantize", source, path, kind)
    return path


def logits(model, *flags):
    path = tmp("convert.npy")
    pumice("eval", "logits", model, "--ids", IDS, "--out", path, "--kv-dtype", "f32", *flags)
    with open(path, "rb") as f:
        return f.read()


def ids_of(model, text):
    return [pumice("tokenize", model, "-f", text, *flags).raw for flags in [[], ["--special"]]]


def gguf(path):
    """(key-values, {tensor: (type number, dimensions)}, where the infos end) of a GGUF file, arrays as their lengths."""
    with open(path, "rb") as f:
        blob = f.read()
    at, pairs, tensors = 24, {}, {}
    size = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    form = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

    def number(kind):
        nonlocal at
        value = struct.unpack_from(form[kind], blob, at)[0]
        at += size[kind]
        return value

    def text():
        nonlocal at
        n = number(10)
        at += n
        return blob[at - n:at].decode("utf-8", "replace")

    assert blob[:4] == b"GGUF" and struct.unpack_from("<I", blob, 4)[0] == 3
    n_tensor, n_pair = struct.unpack_from("<QQ", blob, 8)
    for _ in range(n_pair):
        key, kind = text(), number(4)
        if kind == 9:
            elem, n = number(4), number(10)
            for _ in range(n):
                text() if elem == 8 else number(elem)
            pairs[key] = n
        else:
            pairs[key] = text() if kind == 8 else number(kind)
    pairs_end = at
    for _ in range(n_tensor):
        name = text()
        dims = [number(10) for _ in range(number(4))]
        tensors[name] = (number(4), dims, number(10))
    return pairs, tensors, blob, pairs_end, at


@claim
def a_folder_as_gguf_and_as_a_folder_again_computes_the_same_bits():
    for where in REFERENCES:
        source = data(*where)
        file = quantized(source, "a.gguf", "f32")
        again = quantized(file, "again", "f32")
        want = logits(source, "--dtype", "f32")
        assert logits(file) == want, f"{where}: GGUF"
        assert logits(again) == want, f"{where}: the folder again"


@claim
def a_converted_models_tokenizer_gives_the_same_ids():
    text = write_text("ids.txt", words_text(3000) + " <s> Größe  naïve\n\n\t1234567 'tis I'LL日本語 <|im_end|>")
    names = [("reference", "gpt2"), ("reference", "llama-gqa-tied"), ("reference", "qwen2"), ("models", "stories260K")]
    for source in [data(*where) for where in names] + [os.path.join(ROOT, "models", "default"), made("chat")]:
        file = quantized(source, "t.gguf", "bf16")
        again = quantized(file, "t-again", "bf16")
        want = ids_of(source, text)
        assert ids_of(file, text) == want, source
        assert ids_of(again, text) == want, source
        shown = [pumice("show", m, "--json").json for m in [source, file, again]]
        assert [s["bos"] for s in shown] == [shown[0]["bos"]] * 3, shown
        assert [s["eos"] for s in shown] == [shown[0]["eos"]] * 3, shown


@claim
def the_key_values_are_those_that_other_readers_expect():
    pairs, tensors, *_ = gguf(quantized(data("reference", "llama3-rope"), "kv.gguf", "bf16"))
    for key, value in [("general.architecture", "llama"), ("general.file_type", 32), ("llama.block_count", 2),
                       ("general.quantization_version", 2), ("llama.attention.head_count", 4),
                       ("llama.attention.head_count_kv", 2), ("llama.rope.dimension_count", 16),
                       ("llama.attention.key_length", 16), ("llama.vocab_size", 512),
                       ("tokenizer.ggml.model", "llama"), ("tokenizer.ggml.tokens", 512),
                       ("tokenizer.ggml.scores", 512), ("tokenizer.ggml.token_type", 512)]:
        assert pairs[key] == value, (key, pairs.get(key))
    assert tensors["rope_freqs.weight"][:2] == (0, [8]) and "output_norm.weight" in tensors, tensors
    pairs, tensors, *_ = gguf(quantized(data("reference", "gpt2"), "kv.gguf", "bf16"))
    assert pairs["tokenizer.ggml.pre"] == "gpt-2" and pairs["gpt2.attention.layer_norm_epsilon"] > 0, pairs
    assert tensors["blk.0.attn_qkv.weight"][:2] == (30, [48, 144]), tensors
    assert tensors["position_embd.weight"][0] == tensors["blk.0.attn_qkv.bias"][0] == 0, tensors
    source = copy_of(data("reference", "mistral"))
    edit_json(source, "config.json", sliding_window=5)
    file = quantized(source, "kv.gguf", "f32")
    pairs, *_ = gguf(file)
    assert pairs["general.architecture"] == "llama" and pairs["llama.attention.sliding_window"] == 5, pairs
    assert logits(source, "--dtype", "f32") == logits(file) == logits(quantized(file, "kv", "f32"))


@claim
def a_model_without_a_tokenizer_becomes_a_file_without_one():
    source = out("bare")
    pumice("init", "tiny", "--out", source, "--dtype", "bf16")
    file = quantized(source, "bare.gguf", "q8_0")
    assert gguf(file)[0]["tokenizer.ggml.model"] == "no_vocab"
    assert logits(file) == logits(source, "--dtype", "q8_0")
    assert logits(quantized(file, "bare-again", "f32")) == logits(file, "--dtype", "f32")


@claim
def a_quantised_folder_computes_what_quantising_at_load_computes():
    for where in REFERENCES + [("models", "babyllama105")]:
        for dtype in ["int8"] + ["int4"] * (where[1] in ["llama3-rope", "llama-linear-rope-bias", "babyllama105"]):
            folder = quantized(data(*where), dtype, dtype)
            assert logits(folder) == logits(data(*where), "--dtype", dtype), (where, dtype)
            again = quantized(folder, "again", dtype)
            for name in ["model.safetensors", "config.json"]:
                with open(os.path.join(folder, name), "rb") as a, open(os.path.join(again, name), "rb") as b:
                    assert a.read() == b.read(), (where, dtype, name)


def tensor(folder, name):
    head, blob = read_safetensors(os.path.join(folder, "model.safetensors"))
    t = head[name]
    return t, blob[slice(*t["data_offsets"])]


@claim
def quantised_folders_follow_the_conventions_of_compressed_tensors():
    source, module = data("reference", "llama3-rope"), "model.layers.1.mlp.down_proj"  # 64 rows of 160
    int4, int8 = quantized(source, "int4", "int4"), quantized(source, "int8", "int8")
    plain4, plain8 = quantized(int4, "plain4", "f32"), quantized(int8, "plain8", "f32")
    q = read_json(int4, "config.json")["quantization_config"]
    group = q["config_groups"]["group_0"]
    assert q["quant_method"] == "compressed-tensors" and q["format"] == "pack-quantized", q
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    assert {k: group["weights"][k] for k in weights} == weights and group["input_activations"] is None, group
    assert r"re:^model\.layers\.[0-9]+\.mlp\.down_proj$" in group["targets"], group
    (words, packed), (scales, scale), (_, shape) = (tensor(int4, f"{module}.weight_{s}")
                                                    for s in ["packed", "scale", "shape"])
    assert (words["dtype"], words["shape"], scales["dtype"], scales["shape"]) == ("I32", [64, 20], "F16", [64, 5])
    assert struct.unpack("<2q", shape) == (64, 160)
    _, want = tensor(plain4, module + ".weight")
    for i, w in enumerate(struct.unpack("<10240f", want)):
        word = struct.unpack_from("<I", packed, i // 8 * 4)[0]
        assert w == ((word >> 4 * (i % 8) & 15) - 8) * struct.unpack_from("<e", scale, i // 32 * 2)[0], i
    q = read_json(int8, "config.json")["quantization_config"]
    assert q["format"] == "int-quantized" and q["config_groups"]["group_0"]["weights"]["group_size"] == 8, q
    (ints, packed), (scales, scale) = tensor(int8, module + ".weight"), tensor(int8, module + ".weight_scale")
    assert (ints["dtype"], ints["shape"], scales["dtype"], scales["shape"]) == ("I8", [64, 160], "F32", [64, 20])
    _, want = tensor(plain8, module + ".weight")
    single = struct.Struct("<f")
    for i, w in enumerate(struct.unpack("<10240f", want)):
        exact = struct.unpack_from("<b", packed, i)[0] * struct.unpack_from("<f", scale, i // 8 * 4)[0]
        assert w == single.unpack(single.pack(exact))[0], i


@claim
def an_unknown_quantization_config_is_one_error_that_names_the_field():
    folder = quantized(made(), "int8", "int8")
    good = read_json(folder, "config.json")["quantization_config"]
    assert logits(folder)
    for change, part in [({"quant_method": "gptq"}, "quantization_config.quant_method"),
                         ({"format": "marlin-24"}, "quantization_config.format"),
                         ({"sparsity_config": {"format": "dense", "x": 1}}, "quantization_config.sparsity_config"),
                         ({"surprise": 1}, "quantization_config.surprise"), ({"config_groups": {}}, "config_groups")]:
        edit_json(folder, "config.json", quantization_config={**good, **change})
        refuses(3, part, "eval", "logits", folder, "--ids", "1", "--out", tmp("no.npy"))
    edit_json(folder, "config.json", quantization_config=good)
    head, blob = read_safetensors(os.path.join(folder, "model.safetensors"))
    head["model.layers.0.mlp.up_proj.weight_odd"] = head.pop("model.layers.0.mlp.up_proj.weight_scale")
    write_safetensors(os.path.join(folder, "model.safetensors"), head, blob)
    refuses(3, "model.layers.0.mlp.up_proj.weight", "show", folder)
    refuses(3, "quantization_config", "grow", quantized(made(), "g8", "int8"), "--factor", 2, "--out", out("grown"))


@claim
def every_type_of_gguf_is_written_and_mixes_give_some_tensors_more_bits():
    source = data("gguf", "llama-k256.BF16.gguf")
    number = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q4_k": 12, "q5_k": 13, "q6_k": 14}
    for kind in number:
        tensors = gguf(quantized(source, "k.gguf", kind))[1]
        assert tensors["blk.0.attn_q.weight"][0] == number[kind], (kind, tensors)
    for kind, base, file_type in [("Q4_K_M", 12, 15), ("Q5_K_M", 13, 17)]:
        pairs, tensors, *_ = gguf(quantized(source, "m.gguf", kind))
        assert pairs["general.file_type"] == file_type
        layers, head = pairs["llama.block_count"], "output.weight" if "output.weight" in tensors else "token_embd.weight"
        assert tensors[head][0] == 14, (kind, tensors)
        for name, (t, _, _) in tensors.items():
            part = name.split(".")
            if part[0] != "blk" or "norm" in name:
                continue
            i = int(part[1])
            more = i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2
            assert t == (14 if more and part[2] in ["attn_v", "ffn_down"] else base), (kind, name, t)


def split(path, folder):
    """The file in three parts, as other programs split it."""
    pairs, tensors, blob, pairs_end, end = gguf(path)
    start = (end + 31) // 32 * 32
    names, parts = list(tensors), []
    for no in range(3):
        mine, data_, infos = names[no::3], b"", b""
        for name in mine:
            kind, dims, offset = tensors[name]
            later = [o for _, _, o in tensors.values() if o > offset]
            size = (min(later) if later else len(blob) - start) - offset
            infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims))
            infos += struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, len(data_))
            data_ += blob[start + offset:start + offset + size]
            data_ += b"\0" * (-len(data_) % 32)
        keys = blob[24:pairs_end] if no == 0 else b""
        for key, kind, form, value in [("split.no", 2, "<H", no), ("split.count", 2, "<H", 3),
                                       ("split.tensors.count", 5, "<i", len(names))]:
            keys += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + struct.pack(form, value)
        body = b"GGUF" + struct.pack("<IQQ", 3, len(mine), (len(pairs) if no == 0 else 0) + 3) + keys + infos
        name = os.path.join(folder, f"m-{no + 1:05d}-of-00003.gguf")
        parts.append(name)
        with open(name, "wb") as f:
            f.write(body + b"\0" * (-len(body) % 32) + data_)
    return parts


@claim
def a_split_set_is_read_joined_and_a_missing_part_named():
    folder = out("split")
    os.mkdir(folder)
    whole = quantized(made(), "whole.gguf", "bf16")
    parts = split(whole, folder)
    assert logits(parts[0]) == logits(whole)
    joined = quantized(parts[0], "joined.gguf", "bf16")
    assert logits(joined) == logits(whole)
    assert not any(key.startswith("split.") for key in gguf(joined)[0])
    os.remove(parts[2])
    refuses(3, "m-00003-of-00003.gguf", "eval", "logits", parts[0], "--ids", "1", "--out", tmp("no.npy"))
    refuses(3, "m-00001-of-00003.gguf", "show", parts[1])


@claim
def what_a_layout_cannot_say_is_refused_and_nothing_is_left():
    odd = copy_of(data("reference", "gpt2"))
    edit_json(odd, "config.json", activation_function="relu")
    before = set(os.listdir(os.path.dirname(tmp("x"))))
    refuses(2, "another activation", "quantize", odd, tmp("odd.gguf"), "bf16")
    refuses(2, "no matrix has rows", "quantize", data("reference", "qwen2"), tmp("odd-folder"), "int4")
    refuses(4, "no-such-folder", "quantize", made(), tmp("no-such-folder/x"), "bf16")
    assert set(os.listdir(os.path.dirname(tmp("x")))) == before


main()
