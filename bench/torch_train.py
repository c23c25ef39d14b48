#!/usr/bin/env python3
"""torch_train.py - training steps of pumice and of PyTorch, sample by sample in turns in one run.

  bench/torch_train.py build/pumice [--shape 168m] [--dtype bf16] [-b 4] [-T 512] [-t 2] [-r 5] [--json]
  bench/torch_train.py build/pumice --check [--shape tiny] ...

PyTorch (Debian: python3-torch, run with /usr/bin/python3) is no part of the project and is looked for only here.  It gets
the same Llama from the folder that `pumice init` writes: rotary halves, grouped heads, RMS norm, SwiGLU, tied head, mean
loss over all positions, clipping by the global norm, AdamW.  It runs in a process of its own, with the settings that suit it:
autocast, AdamW over lists of tensors, buffers kept by malloc, one pool of threads; attention and these settings are tried
first (--no-tune: taken as they stand).  A sample of pumice is a `bench train -r STEPS` of its own, after a step that does
not count; a sample of PyTorch is STEPS steps.  Both print their own peak of resident memory.

--check compares loss and gradients of both at equal weights on equal ids in F32, and the loss of the BF16 step.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("pumice", help="the program, such as build/pumice")
    p.add_argument("--shape", help="one of `pumice init`'s Llama shapes (default 168m; with --check tiny)")
    p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    p.add_argument("-b", "--batch", type=int, default=4, help="rows")
    p.add_argument("-T", "--tokens", type=int, default=512, help="in each row")
    p.add_argument("-t", "--threads", type=int, default=2)
    p.add_argument("-r", "--rounds", type=int, default=5, help="samples of each, in turns")
    p.add_argument("--steps", type=int, default=1, help="in a sample")
    p.add_argument("--no-tune", action="store_true", help="do not try settings of PyTorch first")
    p.add_argument("--check", action="store_true", help="compare loss and gradients instead of speed")
    p.add_argument("--json", action="store_true")
    p.add_argument("--worker", help=argparse.SUPPRESS)  # settings as JSON: this process is the PyTorch side
    a = p.parse_args()
    a.shape = a.shape or ("tiny" if a.check else "168m")
    return a


# -- PyTorch's side: a process that reads commands from stdin and answers in JSON lines ------------------------------

def read_safetensors(path):
    """{name: float32 tensor}"""
    import torch
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with open(path, "rb") as f:
        head = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        blob = bytearray(f.read())
    out = {}
    for name, t in head.items():
        if name != "__metadata__":
            lo, hi = t["data_offsets"]
            x = torch.frombuffer(blob, dtype=kinds[t["dtype"]], offset=lo, count=math.prod(t["shape"]))
            out[name] = x.reshape(t["shape"]).to(torch.float32, copy=True)
    return out


class Llama:
    """Weights under their Hugging Face names, and the loss of a batch."""

    def __init__(self, folder, tokens, attention):
        import torch
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            c = json.load(f)
        assert c["model_type"] == "llama" and c["tie_word_embeddings"] and not c.get("rope_scaling"), "a plain tied Llama"
        self.n_layer, self.eps, self.attention = c["num_hidden_layers"], c["rms_norm_eps"], attention
        self.heads, self.groups = c["num_attention_heads"], c["num_key_value_heads"]
        self.dim = c["hidden_size"] // self.heads
        self.w = read_safetensors(os.path.join(folder, "model.safetensors"))
        for x in self.w.values():
            x.requires_grad_(True)
        angle = torch.outer(torch.arange(tokens), c["rope_theta"] ** (-torch.arange(0, self.dim, 2) / self.dim))
        self.cos, self.sin = angle.cos().repeat(1, 2)[:, None], angle.sin().repeat(1, 2)[:, None]
        self.mask = torch.full((tokens, tokens), -math.inf).triu(1)

    def norm(self, x, name):
        import torch
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.w[name]

    def rotate(self, x):
        """(B, T, heads, dim): halves turned into each other."""
        import torch
        half = self.dim // 2
        return x * self.cos + torch.cat((-x[..., half:], x[..., :half]), -1) * self.sin

    def attend(self, q, k, v):
        import torch
        b, t, h, d = q.shape
        each = h // self.groups
        if self.attention == "grouped":  # heads of a group as rows of one product
            q = q.reshape(b, t, self.groups, each, d).permute(0, 2, 3, 1, 4).reshape(b, self.groups, each * t, d)
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        else:
            q = q.transpose(1, 2)
            k, v = (x.repeat_interleave(each, 2).transpose(1, 2) for x in (k, v))
        s = torch.matmul(q, k.transpose(2, 3)).view(b, h, t, t)
        p = torch.softmax((s * d ** -0.5).add_(self.mask), -1, dtype=torch.float32).to(v.dtype)
        y = torch.matmul(p.view(s.shape[0], k.shape[1], -1, t), v).view(b, h, t, d)
        return y.transpose(1, 2).reshape(b, t, h * d)

    def loss(self, ids, targets):
        import torch
        from torch.nn.functional import cross_entropy, linear, silu
        b, t = ids.shape
        x = self.w["model.embed_tokens.weight"][ids]
        for i in range(self.n_layer):
            w = lambda name: self.w[f"model.layers.{i}.{name}.weight"]
            y = self.norm(x, f"model.layers.{i}.input_layernorm.weight")
            q = linear(y, w("self_attn.q_proj")).view(b, t, self.heads, self.dim)
            k = linear(y, w("self_attn.k_proj")).view(b, t, self.groups, self.dim)
            v = linear(y, w("self_attn.v_proj")).view(b, t, self.groups, self.dim)
            q, k = self.rotate(q).to(v.dtype), self.rotate(k).to(v.dtype)
            x = x + linear(self.attend(q, k, v), w("self_attn.o_proj"))
            y = self.norm(x, f"model.layers.{i}.post_attention_layernorm.weight")
            x = x + linear(silu(linear(y, w("mlp.gate_proj"))) * linear(y, w("mlp.up_proj")), w("mlp.down_proj"))
        logits = linear(self.norm(x, "model.norm.weight"), self.w["model.embed_tokens.weight"])
        return cross_entropy(logits.float().view(b * t, -1), targets.reshape(-1), ignore_index=-1)


def worker(a):
    import torch
    s = json.loads(a.worker)
    torch.set_num_threads(a.threads)
    torch.set_num_interop_threads(1)
    m = Llama(s["folder"], a.tokens, s["attention"])
    adam = torch.optim.AdamW([{"params": [x for x in m.w.values() if x.dim() > 1], "weight_decay": 0.1},
                              {"params": [x for x in m.w.values() if x.dim() == 1], "weight_decay": 0.0}],
                             lr=3e-4, betas=(0.9, 0.95), eps=1e-8, foreach=s["foreach"])
    ids = torch.tensor(s["ids"])
    targets = torch.tensor(s["targets"])

    def gradients():
        adam.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = m.loss(ids, targets)
        loss.backward()
        return loss.item()

    def step():
        t0 = time.perf_counter()
        loss = gradients()
        torch.nn.utils.clip_grad_norm_(list(m.w.values()), 1.0)
        adam.step()
        return loss, time.perf_counter() - t0

    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        if line.strip() == "gradients":
            want = read_safetensors(s["gradients"])
            answer = {"loss": gradients(), "worst": worst_difference(m.w, want)}
        else:
            answer = dict(zip(("loss", "seconds"), step()))
        with open("/proc/self/status", encoding="ascii") as f:
            answer["peak_bytes"] = next(int(x.split()[1]) * 1024 for x in f if x.startswith("VmHWM"))
        print(json.dumps(answer), flush=True)


def worst_difference(weights, want):
    """[relative L2 distance, name] of the tensor whose gradient agrees least."""
    assert set(weights) == set(want), set(weights) ^ set(want)
    return max([float((x.grad - want[n]).norm() / want[n].norm()), n] for n, x in weights.items())


class Torch:
    """The worker process."""

    def __init__(self, a, settings):
        env = dict(os.environ)
        if settings["keep"]:  # freed buffers stay in the process: no page faults in each step
            env.update(MALLOC_MMAP_THRESHOLD_=str(1 << 30), MALLOC_TRIM_THRESHOLD_=str(1 << 34), MALLOC_TOP_PAD_=str(1 << 26))
        self.p = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), a.pumice, "--dtype", a.dtype, "-b", str(a.batch), "-T",
             str(a.tokens), "-t", str(a.threads), "--worker", json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.version = self.read()["version"]

    def read(self):
        line = self.p.stdout.readline()
        if not line:
            sys.exit(f"torch_train: the PyTorch process ended with {self.p.wait()}; is python3-torch installed for "
                     f"{sys.executable}?")
        return json.loads(line)

    def ask(self, what="step"):
        self.p.stdin.write(what + "\n")
        self.p.stdin.flush()
        return self.read()

    def close(self):
        self.p.stdin.close()
        self.p.wait()


# -- both ------------------------------------------------------------------------------------------------------------

def pumice(a, *args):
    p = subprocess.run([a.pumice, *map(str, args)], capture_output=True, text=True, check=False)
    if p.returncode:
        sys.exit(f"torch_train: {a.pumice} {args[0]} ended with {p.returncode}: {p.stderr.strip()}")
    return p.stdout


def settings_for(a, folder):
    """Ids of a batch, and settings of PyTorch to begin with."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        vocab = json.load(f)["vocab_size"]
    rng = random.Random(1)
    ids = [[rng.randrange(vocab) for _ in range(a.tokens)] for _ in range(a.batch)]
    return {"folder": folder, "attention": "grouped", "foreach": True, "keep": True, "ids": ids,
            "targets": [row[1:] + [-1] for row in ids]}


def tune(a, settings):
    """Changes one setting at a time and keeps it where the step got faster by more than 2 %."""
    def seconds(s):
        t = Torch(a, s)
        t.ask()
        best = min(t.ask()["seconds"] for _ in range(2))
        t.close()
        return best
    best = seconds(settings)
    for key, other in [("attention", "repeated"), ("foreach", False), ("keep", False)]:
        changed = {**settings, key: other}
        took = seconds(changed)
        if took < best * 0.98:
            best, settings = took, changed
    return settings


def check(a, folder):
    """Loss and gradients in F32, loss in BF16; what differs is rounding."""
    s = settings_for(a, folder)
    ids, s["gradients"] = os.path.join(folder, "ids.json"), os.path.join(folder, "gradients.safetensors")
    with open(ids, "w", encoding="utf-8") as f:
        json.dump(s["ids"], f)
    ours, theirs = {}, {}
    for a.dtype in ["bf16", "f32"]:  # the F32 gradients are what remains
        ours[a.dtype] = float(pumice(a, "eval", "grads", folder, "--ids", ids, "--out", s["gradients"], "--dtype", a.dtype,
                                     "-t", a.threads).split()[1])
        for s["attention"] in ["repeated", "grouped"]:
            t = Torch(a, s)
            theirs[a.dtype] = t.ask("gradients")
            t.close()
            apart = abs(theirs[a.dtype]["loss"] - ours[a.dtype]) / ours[a.dtype]
            worst, name = theirs[a.dtype]["worst"]
            limits = {"f32": (1e-5, 1e-4), "bf16": (2e-3, 5e-2)}[a.dtype]
            print(f"{a.dtype}, {s['attention']} attention: loss pumice {ours[a.dtype]:.7f}, PyTorch "
                  f"{theirs[a.dtype]['loss']:.7f}; gradients apart by at most {worst:.1e} of their norm ({name})")
            if not (apart < limits[0] and worst < limits[1]):
                sys.exit(f"torch_train: not the same computation: limits are {limits[0]:.0e} and {limits[1]:.0e}")


def compare(a, folder):
    settings = settings_for(a, folder)
    if not a.no_tune:
        settings = tune(a, settings)
    t = Torch(a, settings)
    t.ask()  # warm-up
    samples = []
    for _ in range(a.rounds):
        ours = json.loads(pumice(a, "bench", "train", "--shape", a.shape, "--dtype", a.dtype, "-b", a.batch, "-T", a.tokens,
                                 "-t", a.threads, "-r", a.steps, "--json"))["rows"][0]
        theirs = [t.ask() for _ in range(a.steps)]
        samples.append({"pumice": ours["tok_per_s"], "peak_fraction": ours["peak_fraction"],
                        "torch": a.batch * a.tokens / statistics.median(x["seconds"] for x in theirs),
                        "pumice_peak_bytes": ours["peak_bytes"], "announced_bytes": ours["announced_bytes"],
                        "torch_peak_bytes": theirs[-1]["peak_bytes"], "gflops_per_tok_per_s": ours["gflops"] / ours["tok_per_s"],
                        "peak_gflops": ours["peak_gflops"]})
        if not a.json:
            print(f"pumice {samples[-1]['pumice']:.1f}  PyTorch {samples[-1]['torch']:.1f} tokens/s", flush=True)
    t.close()
    return report(a, samples, settings, t.version)


def report(a, samples, settings, version):
    def middle(key):
        return statistics.median(s[key] for s in samples)

    def side(rate, peak):
        values = sorted(s[rate] for s in samples)
        gflops = middle(rate) * samples[0]["gflops_per_tok_per_s"]
        return {"tok_per_s": middle(rate), "tok_per_s_min": values[0], "tok_per_s_max": values[-1], "gflops": gflops,
                "peak_fraction": statistics.median(s[rate] * s["gflops_per_tok_per_s"] / s["peak_gflops"] for s in samples),
                "peak_bytes": max(s[peak] for s in samples)}

    return {"shape": a.shape, "dtype": a.dtype, "rows": a.batch, "tokens": a.tokens, "threads": a.threads,
            "rounds": a.rounds, "steps": a.steps, "torch": version,
            "settings": {k: settings[k] for k in ["attention", "foreach", "keep"]},
            "pumice": {**side("pumice", "pumice_peak_bytes"), "announced_bytes": samples[0]["announced_bytes"]},
            "pytorch": side("torch", "torch_peak_bytes"),
            "ratio": statistics.median(s["pumice"] / s["torch"] for s in samples), "samples": samples}


def show(r):
    print(f"\n{r['shape']}, {r['dtype']}, {r['rows']} x {r['tokens']} tokens, {r['threads']} threads, medians of {r['rounds']}; "
          f"PyTorch {r['torch']} with {r['settings']}\n")
    print("| | tok/s | min..max | GFLOP/s as 6N | of peak | peak MB |\n|---|--:|--:|--:|--:|--:|")
    for name in ["pumice", "pytorch"]:
        s = r[name]
        print(f"| {name} | {s['tok_per_s']:.1f} | {s['tok_per_s_min']:.1f}..{s['tok_per_s_max']:.1f} | {s['gflops']:.1f} | "
              f"{100 * s['peak_fraction']:.0f} % | {s['peak_bytes'] / 1e6:.0f} |")
    print(f"\nratio of each round, median: {r['ratio']:.2f}; pumice announced {r['pumice']['announced_bytes'] / 1e6:.0f} MB")


def main():
    a = parse()
    if a.worker:
        worker(a)
        return
    with tempfile.TemporaryDirectory(prefix="torch-train-") as folder:
        if a.check:
            a.tokens = min(a.tokens, 64)
        pumice(a, "init", a.shape, "--out", folder, "--dtype", "f32", "--force")
        if a.check:
            check(a, folder)
            return
        r = compare(a, folder)
    if a.json:
        print(json.dumps(r, indent=1))
    else:
        show(r)


main()
