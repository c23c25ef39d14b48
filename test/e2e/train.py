"""train.py - `pumice train` as a user runs it: models that run, interruptions that cost nothing, one line for trouble."""

import json
import os
import pty
import random
import signal
import subprocess
import time

from harness import (BIN, Skip, claim, data, environment, made, main, pumice, read_json, refuses, sanitized, tmp,
                     words_text, write_text)

TINY = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 64, "max_seq_len": 64, "batch_size": 4,
        "learning_rate": 0.005, "eval_every": 20, "save_checkpoint_every": 5, "max_steps": 60}


def run_file(name, **keys):
    """The path of NAME.json; its data are sentences, its out is the folder NAME beside it."""
    if not os.path.exists(tmp("sentences.txt")):
        write_text("sentences.txt", words_text(60000).replace("Once", "<|endoftext|>Once"))
    conf = {**TINY, "tokenizer": made("chat"), "data": "sentences.txt", "out": name, **keys}
    if "base" in conf:
        conf = {k: v for k, v in conf.items() if k not in ("dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim")}
    return write_text(name + ".json", json.dumps({k: v for k, v in conf.items() if v is not None}))


def log_of(name):
    with open(tmp(os.path.join(name, "log.jsonl")), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def curve(name):
    """All that training computed, of each step."""
    return [(j["step"], j.get("loss"), j.get("grad_norm"), j.get("val_loss")) for j in log_of(name)
            if "loss" in j or "val_loss" in j]


def start(*args):
    return subprocess.Popen([BIN, "train", *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment())


def wait_for_steps(process):
    """Until the announcements are out: what follows is training."""
    for line in process.stderr:
        if line.startswith(b"pumice: run: "):
            return
    raise AssertionError("it ended before the first step")


def end_of(process):
    err = process.communicate(timeout=60)[1].decode()
    return process.returncode, err


# -- what it makes ----------------------------------------------------------------------------------------------

@claim
def a_run_makes_models_that_run_a_log_and_a_curve():
    out = tmp("plain")
    result = pumice("train", run_file("plain", sample_every=30, sample_prompt="Once upon"), "--json")
    assert result.json["done"] and result.json["step"] == 60, result.out
    for name in ["latest", "best"]:
        assert len(pumice("run", os.path.join(out, name), "-p", "Once upon", "-n", 8, "--temp", 0).out) > 8
        subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=os.path.join(out, name), check=True)
    lines = log_of("plain")
    losses = [j["loss"] for j in lines if "loss" in j]
    assert len(losses) == 60 and losses[-1] < losses[0] - 1, losses
    assert [j["step"] for j in lines if "val_loss" in j] == [20, 40, 60]
    assert [j["prompt"] for j in lines if "sample" in j] == ["Once upon"] * 2
    with open(os.path.join(out, "loss.csv"), encoding="utf-8") as f:
        rows = f.read().splitlines()
    assert rows[0] == "step,tokens,flops,loss,val_loss" and len(rows) == 64
    drawn = [os.path.exists(os.path.join(out, "loss." + kind)) for kind in ["svg", "png"]]
    gnuplot = any(os.access(os.path.join(p, "gnuplot"), os.X_OK) for p in os.environ["PATH"].split(":"))
    assert drawn == [gnuplot, gnuplot], drawn
    assert gnuplot or "gnuplot" in result.err
    assert "memory: " in result.err and "left" in result.err and "GFLOP/s" in result.err


@claim
def only_the_last_checkpoints_stay():
    pumice("train", run_file("pruned", max_steps=30, keep_last=3, keep_every=10, save_checkpoint_every=2), "-q")
    have = sorted(int(n[5:]) for n in os.listdir(tmp("pruned")) if n.startswith("step-"))
    assert have == [10, 20, 26, 28, 30], have
    assert os.readlink(tmp("pruned/latest")) == "step-00000030"


@claim
def a_model_of_another_family_is_fine_tuned():
    base = os.path.realpath(data("reference", "gpt2"))
    pumice("train", run_file("gpt2", base=base, tokenizer=None, max_seq_len=24, max_steps=20, freeze=["*wte*"]), "-q")
    config = read_json(tmp("gpt2"), "latest", "config.json")
    assert config["model_type"] == "gpt2", config
    losses = [j["loss"] for j in log_of("gpt2") if "loss" in j]
    assert losses[-1] < losses[0], losses
    assert pumice("run", tmp("gpt2/latest"), "-p", "the", "-n", 4).out


@claim
def a_chat_model_learns_to_answer():
    lines = [json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
             for q, a in [("Who are you?", "A stone that floats."), ("Are you heavy?", "No, I am light.")] * 5]
    chats = write_text("chats.jsonl", "\n".join(lines) + "\n")
    run = run_file("chat", data=chats, max_steps=120, dim=64, hidden_dim=128, learning_rate=0.01, eval_every=0,
                   eval_fraction=0, save_checkpoint_every=0)
    pumice("train", run, "-q")
    for question, answer in [("Who are you?", "A stone that floats."), ("Are you heavy?", "No, I am light.")]:
        said = pumice("run", tmp("chat/latest"), "--chat", "-p", question, "-n", 30, "--temp", 0).out
        assert said.strip() == answer, (question, said)


@claim
def memory_stays_within_a_tenth_of_what_was_announced():
    if sanitized():
        raise Skip("a sanitizer's own memory is in the peak")
    run = run_file("memory", dim=512, n_layers=6, n_heads=8, hidden_dim=1408, max_seq_len=256, batch_size=8, max_steps=2,
                   eval_every=0, save_checkpoint_every=0)
    j = pumice("train", run, "--json", spread=True).json
    assert j["announced_bytes"] > 4e8, j
    assert abs(j["peak_bytes"] - j["announced_bytes"]) < 0.1 * j["announced_bytes"] + 2e7, j


# -- growth -----------------------------------------------------------------------------------------------------

@claim
def it_grows_in_the_middle_of_a_run_and_says_so():
    run = run_file("grown", n_layers=4, max_steps=40, eval_every=5)
    r = pumice("train", run, "--grow", "2@25%", "--json")
    assert "growth: after step 10, from 2 layers to 4" in r.err and "grew from 2 to 4 layers" in r.err, r.err
    event = next(j for j in log_of("grown") if j.get("event") == "growth")
    assert event["step"] == 10 and event["loss_of"] == "validation" and event["factor"] == 2, event
    assert read_json(tmp("grown"), "latest", "config.json")["num_hidden_layers"] == 4
    assert read_json(tmp("grown"), "latest", "gstack.json")["history"][0]["from_layers"] == 2
    assert read_json(tmp("grown"), "latest", "run.json")["grow"] == "2@25%"
    before, after = [[j["flops"] for j in log_of("grown") if j.get("step") == n and "loss" in j][0] for n in (10, 11)]
    assert 1.5 * before / 10 < after - before < 2 * before / 10, (before, after)
    assert pumice("run", tmp("grown/latest"), "-p", "Once", "-n", 4, "--temp", 0).out
    refuses(3, "of a run that grows by 2", "train", run, "--resume", "-q")
    refuses(2, "not FACTOR@SHARE%", "train", run_file("ungrown", n_layers=4), "--grow", "2x10", "-q")
    refuses(2, "--grow '4@10%'", "train", run_file("ungrown", n_layers=8, grow="2@10%"), "--grow", "4@10%", "-q")
    refuses(3, "a base of one", "train", run_file("ungrown", n_layers=4), "--grow", "4@10%", "-q")
    refuses(3, "not a multiple of 3", "train", run_file("ungrown", n_layers=4, grow="3@10%"), "-q")


@claim
def a_checkpoint_grows_with_its_moments_and_goes_on():
    pumice("train", run_file("sapling", max_steps=10, eval_every=0), "-q")
    pumice("grow", tmp("sapling/latest"), "--factor", 3, "--moments", "--out", tmp("tree"))
    pumice("train", run_file("forest", base=tmp("tree"), base_moments=True, max_steps=3, dropout=0.1), "-q")
    state = read_json(tmp("forest"), "latest", "trainer.json")
    assert state["updates"] == 13 and state["step"] == 3, state
    refuses(2, "optimizer.safetensors", "grow", tmp("forest/best"), "--factor", 2, "--moments", "--out", tmp("no"))
    assert not os.path.exists(tmp("no"))


# -- interruptions ----------------------------------------------------------------------------------------------

@claim
def sigterm_saves_and_resume_goes_on_as_if_nothing_had_been():
    pumice("train", run_file("whole"), "-q", spread=True)
    run = run_file("parts")
    for sig in [signal.SIGTERM, signal.SIGINT]:
        p = start(run, "--resume")
        wait_for_steps(p)
        time.sleep(0.05)
        p.send_signal(sig)
        status, err = end_of(p)
        assert status == 0, (status, err)
    pumice("train", run, "--resume", "-q", spread=True)
    assert curve("parts") == curve("whole")


@claim
def killed_at_random_moments_it_resumes_to_the_same_curve():
    if not os.path.exists(tmp("whole")):
        pumice("train", run_file("whole"), "-q", spread=True)
    run, kills = run_file("killed", save_checkpoint_every=2), 0
    while True:
        p = start(run, "--resume", "-q")
        if kills < 8:
            time.sleep(random.uniform(0.02, 0.4))
            p.kill()
        status, err = end_of(p)
        if status == 0:
            break
        assert status == -signal.SIGKILL, (status, err)
        kills += 1
    assert curve("killed") == curve("whole"), kills
    assert not [n for n in os.listdir(tmp("killed")) if ".tmp" in n]


@claim
def a_second_signal_ends_it_at_once():
    run = run_file("slow", dim=256, n_layers=4, max_seq_len=256, batch_size=16, gradient_accumulation_steps=200, hidden_dim=512)
    p = start(run)
    wait_for_steps(p)
    time.sleep(0.5)
    p.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert p.poll() is None
    began = time.monotonic()
    p.send_signal(signal.SIGINT)
    status, _ = end_of(p)
    assert status == 130 and time.monotonic() - began < 5, status


@claim
def a_terminal_gets_one_line_that_changes():
    ours, theirs = pty.openpty()
    p = subprocess.Popen([BIN, "train", run_file("tty", max_steps=5, eval_every=0, save_checkpoint_every=0)], stderr=theirs,
                         stdout=subprocess.DEVNULL, env=environment())
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how a terminal ends
            break
        if not part:
            break
        text += part
    assert p.wait(timeout=60) == 0
    assert text.count(b"\r\x1b[Kstep ") == 5, text


@claim
def two_trainers_do_not_share_a_folder():
    run = run_file("shared", max_steps=100000, save_checkpoint_every=0, eval_every=0)
    p = start(run)
    wait_for_steps(p)
    refuses(7, "another trainer is at work", "train", run, "-q")
    p.terminate()
    assert end_of(p)[0] == 0
    refuses(2, "--resume", "train", run, "-q")


# -- trouble ----------------------------------------------------------------------------------------------------

@claim
def a_damaged_checkpoint_is_passed_over():
    run = run_file("damaged", max_steps=20, eval_every=0)
    pumice("train", run, "-q")
    with open(tmp("damaged/latest/model.safetensors"), "r+b") as f:
        f.seek(-1, 2)
        last = f.read(1)
        f.seek(-1, 2)
        f.write(bytes([last[0] ^ 1]))
    r = pumice("train", run, "--resume", "--json")
    assert "damaged" in r.err and "step-00000015" in r.err, r.err
    assert [j["step"] for j in log_of("damaged") if "loss" in j] == list(range(1, 21))
    assert pumice("train", run, "--resume", "--json").json["seconds"] == 0


@claim
def every_mistake_is_one_line():
    write_text("empty.txt", "")
    write_text("binary.txt", b"\x7fELF\0\0\0")
    write_text("noise.txt", bytes(range(128, 256)) * 1000)
    write_text("endless.txt", "a" * (66 << 20))
    write_text("cut.jsonl", '{"text": "a"}\n{"text": \n')
    write_text("list.json", "[1]")
    refuses(2, "RUN.json", "train")
    refuses(2, "unexpected argument", "train", run_file("m1"), "more")
    refuses(4, "No such file", "train", tmp("gone.json"))
    refuses(3, "not a JSON object", "train", tmp("list.json"))
    refuses(3, "unknown key 'learning_rat'", "train", run_file("m2", learning_rat=1))
    refuses(3, "min_lr 1 is more than", "train", run_file("m3", min_lr=1))
    refuses(3, "batch_size is 0", "train", run_file("m4", batch_size=0))
    for name, reason in [("empty.txt", "no documents"), ("binary.txt", "NUL"), ("noise.txt", "not UTF-8"),
                         ("endless.txt", "without the end of a line"), ("cut.jsonl", "line 2")]:
        r = refuses(3, reason, "train", run_file("m5", data=name), "-q")
        assert name in r.err, r.err
    refuses(4, "gone.txt", "train", run_file("m6", data="gone.txt"), "-q")
    refuses(5, "activations", "train", run_file("m7", dim=16384, n_heads=128, n_layers=200, hidden_dim=50000), "-q")
    refuses(4, "tokenizer", "train", run_file("m8", tokenizer=tmp("nowhere-tokenizer")), "-q")


main()
