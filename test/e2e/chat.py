"""chat.py - conversations, through a pipe as a script holds them and through a terminal as a person does."""

import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import stat
import struct
import subprocess
import termios
import time

from harness import (BIN, END_OF_TURN, claim, copy_of, data, edit_json, environment, made, main, one_processor, pumice,
                     refuses, tmp)

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
PROMPT = "Once upon a time"
model = made


def answer(n=12):
    """(what the model says after PROMPT without the space in front, the usage)"""
    j = pumice("run", model(), "-p", PROMPT, "--temp", 0, "-n", n, "--json").json
    return j["text"].strip(), j["usage"]


def chat(*lines, flags=(), status=0, env=None, m=None):
    """A scripted conversation."""
    text = "".join(line + "\n" for line in lines)
    return pumice("chat", m or model(), "--temp", 0, "-n", 12, *flags, stdin=text.encode(), status=status, env=env)


def turns(*lines, flags=(), m=None):
    """The JSON of each answer."""
    out = chat(*lines, flags=("--json", *flags), m=m).out
    return [json.loads(line) for line in out.split("\n") if line.startswith("{")]


class Terminal:
    """The program on a pseudo-terminal of 100 columns."""

    def __init__(self, *args, **env):
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            one_processor()
            full = environment(TERM="xterm", COLUMNS="100", LINES="40", NO_COLOR=None, **env)
            os.execve(BIN, [BIN, "chat", *map(str, args)], full)

    def until(self, text, timeout=60):
        """Reads until `text` appears (escape codes removed); returns what came before and forgets it."""
        end = time.monotonic() + timeout
        while text not in ESCAPES.sub("", self.seen):
            left = end - time.monotonic()
            ready = select.select([self.fd], [], [], max(left, 0))[0]
            assert ready, f"no {text!r} after {timeout} s, only {ESCAPES.sub('', self.seen)[-300:]!r}"
            try:
                chunk = os.read(self.fd, 65536)
            except OSError:
                chunk = b""
            assert chunk, f"ended without {text!r}: {ESCAPES.sub('', self.seen)[-300:]!r}"
            self.seen += chunk.decode("utf-8", "replace")
        plain = ESCAPES.sub("", self.seen)
        at = plain.index(text) + len(text)
        self.seen = plain[at:]
        return plain[:at]

    def watch(self, seconds):
        """Reads along, as a terminal does, so that the program need not wait for room to write."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")

    def fill(self):
        """Waits, without reading, until the program writes no more."""
        held, since = -1, time.monotonic()
        while time.monotonic() - since < 0.5 or held < 1000:
            n = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, b"\0" * 4))[0]
            held, since = n, since if n == held else time.monotonic()
            time.sleep(0.01)

    def send(self, text):
        os.write(self.fd, text.encode())

    def say(self, text):
        self.send(text + "\r")

    def end(self, timeout=60):
        """Waits for the exit status, draining output."""
        end = time.monotonic() + timeout
        while True:
            if select.select([self.fd], [], [], 0.02)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                os.close(self.fd)
                raise AssertionError(f"still running: {ESCAPES.sub('', self.seen)[-300:]!r}")


# -- through a pipe -----------------------------------------------------------------------------------------------

@claim
def a_script_gets_answers_only_and_no_escape_codes():
    r = chat(PROMPT, "Tom was", "/quit", "never said")
    assert len(r.out.strip().split("\n")) == 2, r.out
    assert "\x1b" not in r.out + r.err and ">>>" not in r.out
    assert r.err.count("\n") == 1 and "no known chat template" in r.err, r.err
    one = pumice("run", model(), "-p", PROMPT, "--temp", 0, "-n", 12, "-q").out
    assert r.out.startswith(one)


@claim
def every_way_of_leaving_leaves():
    for word in ["quit", "exit", "/quit", "/exit", "/bye", "exit  "]:
        assert chat(word, PROMPT).out == "", word
    assert chat().out == ""


def later_turns_reuse(m):
    a, b = turns(PROMPT, "Then Tom", m=m)
    assert a["usage"]["cached_tokens"] == 0 and a["role"] == "assistant" and a["finish_reason"] == "length"
    held = a["usage"]["prompt_tokens"] + a["usage"]["completion_tokens"] - 1  # the last token was never run
    assert b["usage"]["cached_tokens"] >= held - 2, (a["usage"], b["usage"])
    alone = turns("Then Tom", m=m)[0]
    assert b["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"] + 12
    assert b["content"] != alone["content"]


@claim
def later_turns_see_the_earlier_ones_and_reuse_their_kv():
    later_turns_reuse(model())


@claim
def later_turns_reuse_kv_with_sentencepiece_too():
    later_turns_reuse(data("models", "stories260K"))


@claim
def clear_forgets_and_history_tells():
    first, again = turns(PROMPT, "clear", PROMPT)
    assert first["content"] == again["content"] and first["usage"]["prompt_tokens"] == again["usage"]["prompt_tokens"]
    r = chat("history", PROMPT, "history", "/clear", "/history")
    lines = r.out.split("\n")
    assert lines[0] == "(nothing yet)" and lines[2] == "user: " + PROMPT, lines
    assert lines[3] == "assistant: " + lines[1] and lines[4] == "(nothing yet)", lines


@claim
def undo_takes_back_a_turn_and_regen_answers_anew():
    flags = ["--temp", 3, "--top-k", 0, "--top-p", 1, "--min-p", 0, "-s", 11]
    a, b, c = turns(PROMPT, "/undo", PROMPT, "/regen", flags=flags)
    assert a["content"] == b["content"] and a["usage"]["prompt_tokens"] == b["usage"]["prompt_tokens"]
    assert c["usage"]["prompt_tokens"] == b["usage"]["prompt_tokens"] and c["content"] != b["content"]
    assert c["seed"] == 12
    for cmd, part in [("/regen", "there is no answer yet"), ("/undo", "there is no turn to take back")]:
        assert part in chat(cmd, status=2).err


@claim
def the_system_message_comes_first_and_survives_clear():
    plain = turns(PROMPT)[0]["usage"]["prompt_tokens"]
    with_system = turns("/system You are Tom.", "/clear", PROMPT)[0]["usage"]["prompt_tokens"]
    flag = turns(PROMPT, flags=["-sys", "You are Tom."])[0]["usage"]["prompt_tokens"]
    assert with_system == flag > plain
    assert turns("/system x y z", "/system", PROMPT)[0]["usage"]["prompt_tokens"] == plain
    assert chat("/system You are Tom.", "history").out.startswith("system: You are Tom.\n")


@claim
def set_changes_every_setting_and_refuses_bad_ones():
    r = chat("/set temp 0.5", "/set top_k 7", "/set parameter top_p 0.9", "/set n_predict 3", "/set seed 42", "/set stop END",
             "/set repeat-penalty 1.3", "/set ignore_eos on", "/set logit_bias 5+1", "/show params")
    for part in ["temp 0.5\n", "top-k 7\n", "top-p 0.9\n", "n-predict 3\n", "seed 42\n", "stop END\n",
                 "repeat-penalty 1.3\n", "ignore-eos on\n", "logit-bias 5+1\n"]:
        assert part in r.out, (part, r.out)
    assert "stop" not in chat("/set stop END", "/set stop", "/show params").out
    assert turns("/set n_predict 3", PROMPT)[0]["usage"]["completion_tokens"] == 3
    for line, part in [("/set temp hot", "temp: 'hot' is not a number"), ("/set top_p 3", "top-p: 3 is not in 0..1"),
                       ("/set nonsense 3", "unknown setting 'nonsense'"), ("/set logit_bias 9999+1", "outside the vocabulary"),
                       ("/set ignore_eos maybe", "'maybe' is not on or off"), ("/stats maybe", "'maybe' is not on or off"),
                       ("/show nonsense", "'nonsense' is not info"), ("/frobnicate", "unknown command '/frobnicate'"),
                       ("/save", "/save: give a file"), ("/read", "/read: give a file")]:
        r = chat(line, "/show params", status=2)
        assert part in r.err and "temp 0\n" in r.out, (line, r.err, r.out)


@claim
def save_and_load_carry_a_conversation_over():
    path = tmp("session.json")
    a, b = turns("/system You are Tom.", PROMPT, f"/save {path}", "Then Tom")
    c = turns(f"/load {path}", "Then Tom")[0]
    assert c["content"] == b["content"] and c["usage"]["prompt_tokens"] == b["usage"]["prompt_tokens"]
    with open(path, encoding="utf-8") as f:
        j = json.load(f)
    assert [m["role"] for m in j["messages"]] == ["system", "user", "assistant"]
    assert j["messages"][2]["content"] == a["content"]


@claim
def a_bad_file_leaves_the_session_as_it_was():
    bad = {
        "syntax": "{", "list": "[]", "none": "{}", "type": '{"messages": 3}', "item": '{"messages": [3]}',
        "role": '{"messages": [{"role": "tool", "content": "x"}]}',
        "order": '{"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}]}',
        "half": '{"messages": [{"role": "user", "content": "x"}]}',
        "content": '{"messages": [{"role": "user", "content": null}, {"role": "assistant", "content": "x"}]}',
        "late": '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": 5}]}',
        "nul": '{"messages": [{"role": "user", "content": "a\\u0000b"}, {"role": "assistant", "content": "x"}]}',
    }
    for name, text in bad.items():
        path = tmp(name + ".json")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        r = chat(PROMPT, f"/load {path}", "history", status=3)
        assert path in r.err and f"user: {PROMPT}\n" in r.out, (name, r.err, r.out)
    for line in ["/load /nonexistent/f", "/save /nonexistent/f", "/read /nonexistent/f"]:
        r = chat(PROMPT, line, "history", status=4)
        assert "/nonexistent/f" in r.err and r.out.count("user: ") == 1, (line, r.err)


@claim
def many_lines_and_files_are_one_message():
    path = tmp("message.txt")
    with open(path, "w", encoding="utf-8") as f:
        f.write("One day\nTom ran")
    a = turns('"""One day', 'Tom ran"""')[0]
    b = turns('"""', "One day", "Tom ran", '"""')[0]
    c = turns(f"/read {path}")[0]
    assert a["content"] == c["content"] and a["usage"]["prompt_tokens"] == c["usage"]["prompt_tokens"]
    assert a["content"] == b["content"] and a["usage"]["prompt_tokens"] == b["usage"]["prompt_tokens"]
    assert chat('"""Once', "upon", "history").out == chat('"""', 'Once', 'upon', 'history"""').out
    r = chat(" /etc/passwd is a file", "history")
    assert "user: /etc/passwd is a file\n" in r.out


@claim
def a_full_context_drops_the_oldest_turns_and_says_so():
    lines = [f"Tom and cat number {i} went to the big green park to play with a ball." for i in range(8)]
    r = chat("/system Be Tom.", *lines, "history", flags=["-c", "128"])
    assert "the context of 128 tokens is full: forgot the 1 oldest turn" in r.err, r.err
    assert lines[0] not in r.out and lines[-1] in r.out and "system: Be Tom." in r.out, r.out
    js = turns(*lines, flags=["-c", "128"])
    assert len(js) == 8 and sum(j["dropped_turns"] for j in js) > 0
    assert all(j["usage"]["completion_tokens"] == 12 for j in js)
    r = chat("word " * 300, PROMPT, "history", flags=["-c", "128"], status=2)
    assert "the context holds 128" in r.err and r.out.count("user: ") == 1, (r.err, r.out)
    assert chat("word " * 300, "history", flags=["-c", "128"], status=2).out == "(nothing yet)\n"


@claim
def one_message_is_answered_and_the_program_ends():
    r = pumice("chat", model(), "--message", PROMPT, "--temp", 0, "-n", 12, "-q")
    assert r.out == chat(PROMPT).out
    j = pumice("chat", model(), "--message", PROMPT, "--temp", 0, "-n", 12, "--json").json
    assert j["content"] + "\n" == r.out
    refuses(2, "exclude each other", "chat", model(), "--message", "x", "--interactive")
    assert chat(PROMPT, flags=["--interactive"]).out == r.out


def without_template():
    """A model that has the tokens of ChatML but no template."""
    folder = copy_of(made("chat"))
    edit_json(folder, "tokenizer_config.json", chat_template=None)
    assert "chatml" not in pumice("show", folder).out
    return folder


@claim
def the_formats_end_of_turn_ends_an_answer():
    folder = without_template()
    flags = ["--message", "hi", "--temp", 0, "-n", 5, "--logit-bias", f"{END_OF_TURN}+1000", "--json"]
    j = pumice("chat", folder, "--chat-template", "chatml", *flags).json
    assert j["finish_reason"] == "stop" and j["usage"]["completion_tokens"] == 0 and j["content"] == "", j
    j = pumice("chat", folder, "--chat-template", "none", *flags).json
    assert j["finish_reason"] == "length" and j["usage"]["completion_tokens"] == 5, j


@claim
def the_models_own_template_is_used():
    folder, bare = without_template(), without_template()
    template = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
                "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
    edit_json(folder, "tokenizer_config.json", chat_template=template)
    assert "chatml" in pumice("show", folder).out and "chatml" in pumice("show", made("chat")).out
    flags = ["--message", "hi", "--temp", 0, "-n", 3, "--json"]
    own = pumice("chat", folder, *flags)
    assert own.err == "", own.err
    forced = pumice("chat", bare, "--chat-template", "chatml", *flags)
    assert own.json["content"] == forced.json["content"]
    assert own.json["usage"]["prompt_tokens"] == forced.json["usage"]["prompt_tokens"] > 5
    plain = pumice("chat", folder, "--chat-template", "none", *flags)
    assert plain.json["usage"]["prompt_tokens"] < own.json["usage"]["prompt_tokens"] and "no known" in plain.err


@claim
def invalid_utf8_in_a_line_is_replaced_as_unicode_says():
    rng = random.Random(1)
    lines = [b"a\xff b", b"a\xe2\x82", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80",
             b"\xc0\xaf", b"\xf0\x9f\x99", b"\xc3(", "fine \u00e9\U0001f642".encode()]
    pool = [0x41, 0x80, 0x90, 0xa0, 0xbf, 0xc3, 0xe0, 0xe2, 0xed, 0xf0, 0xf4, 0xf5]
    lines += [b"x" + bytes(rng.choice(pool) for _ in range(12)) for _ in range(100)]
    p = subprocess.run([BIN, "chat", model(), "-n", "0", "-c", "60000"], input=b"\n".join(lines) + b"\nhistory\n",
                       capture_output=True, env=environment(), timeout=30)
    assert p.returncode == 0, p
    told = [t[len("user: "):] for t in p.stdout.decode("utf-8").split("\n") if t.startswith("user: ")]
    assert told == [t.decode("utf-8", "replace") for t in lines], told
    assert p.stderr.count(b"not valid UTF-8") >= 9


# -- on a terminal --------------------------------------------------------------------------------------------------

@claim
def a_person_sees_prompt_answer_and_figures():
    text, usage = answer()
    t = Terminal(model(), "--temp", 0, "-n", 12)
    t.until("/help lists commands")
    t.until(">>> ")
    t.say(PROMPT)
    t.until(text)
    stats = t.until("]")
    assert re.search(r"\[12 tokens, [\d.]+/s; prompt %d \(0 reused\), [\d.]+/s; KV 0\.\d\d/0\.\d\d MiB; memory [\d.]+ MiB"
                     % usage["prompt_tokens"], stats), stats
    t.until(">>> ")
    t.say("/stats off")
    t.until(">>> ")
    t.say("Then Tom")
    assert "reused" not in t.until(">>> ").replace("Then Tom", "")
    t.say("/bye")
    assert t.end() == 0


@claim
def ctrl_c_stops_the_answer_only_and_keeps_it():
    text = answer()[0]
    # the plain kernels: a model this small would else write faster than this test reads
    t = Terminal(model(), "--temp", 0, "--ignore-eos", "-n", -1, "-c", 60000, PUMICE_ISA="ref")
    t.until(">>> ")
    t.say(PROMPT)
    t.until(text)
    t.watch(0.3)
    t.send("\x03")
    t.until("; stopped]")
    t.until(">>> ")
    t.say("history")
    t.until("assistant: ")
    assert text in t.until(">>> ")
    t.say("/set n-predict 5")
    t.until(">>> ")
    t.say("Then")
    t.until("[5 tokens")
    t.until(">>> ")
    t.say("exit")
    assert t.end() == 0


@claim
def ctrl_c_while_the_terminal_does_not_drain_stops_the_answer_and_not_the_session():
    t = Terminal(model(), "--temp", 0, "--ignore-eos", "-n", -1, "-c", 60000)
    t.until(">>> ")
    t.say(PROMPT)
    t.fill()  # nobody reads: the answer fills the terminal's buffer, and a write waits
    t.send("\x03")
    t.until("; stopped]")
    t.until(">>> ")
    t.say("exit")
    assert t.end() == 0


@claim
def ctrl_c_at_an_empty_prompt_warns_once_then_leaves():
    t = Terminal(model())
    t.until(">>> ")
    t.send("half a line")
    t.until("half a line")
    t.send("\x03")  # drops the line, no warning
    assert "again" not in t.until(">>> ")
    t.send("\x03")
    t.until("Ctrl-C again")
    t.until(">>> ")
    t.say("/show template")  # anything in between starts over
    t.until(">>> ")
    t.send("\x03")
    t.until("Ctrl-C again")
    t.until(">>> ")
    t.send("\x03")
    assert t.end() == 0


@claim
def ctrl_d_leaves():
    t = Terminal(model())
    t.until(">>> ")
    t.send("\x04")
    assert t.end() == 0


@claim
def ctrl_d_typed_during_an_answer_leaves_after_it():
    text = answer(4)[0]
    t = Terminal(model(), "--temp", 0, "--ignore-eos", "-n", 4000, "-c", 6000)
    t.until(">>> ")
    t.say(PROMPT)
    t.until(text)
    t.send("\x04")
    t.until("[4000 tokens", timeout=240)  # slow without vector instructions
    assert t.end() == 0


@claim
def lines_can_be_edited_and_history_persists_for_the_user_only():
    state = tmp("history-state")
    t = Terminal(model(), "-n", 3, XDG_STATE_HOME=state)
    t.until(">>> ")
    t.send("Oncd\x7fe upon caf\u00e9x\x7f\r")  # backspace over ASCII and after a wide character
    t.until("]")
    t.until(">>> ")
    t.say("history")
    t.until("user: Once upon caf\u00e9\n")
    t.until(">>> ")
    t.send("\x04")
    assert t.end() == 0
    path = os.path.join(state, "pumice", "history")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with open(path, encoding="utf-8") as f:
        assert f.read() == "Once upon caf\u00e9\nhistory\n"
    t = Terminal(model(), "-n", 3, XDG_STATE_HOME=state)
    t.until(">>> ")
    t.send("\x1b[A\x1b[A\r")  # up, up
    t.until("]")
    t.say("history")
    t.until("user: Once upon caf\u00e9\n")
    t.until(">>> ")
    t.send("\x04")
    assert t.end() == 0


@claim
def a_paste_of_many_lines_is_one_message():
    state = tmp("paste-state")
    t = Terminal(model(), "-n", 3, XDG_STATE_HOME=state)
    t.until(">>> ")
    t.send("say: \x1b[200~one\r\ttwo\x04\nthr\u00e9e\x1b[201~!\r")
    t.until("]")
    t.until(">>> ")
    t.say("history")
    assert "user: say: one\n\ttwo\nthr\u00e9e!\n" in t.until("assistant: ")
    t.until(">>> ")
    t.send("\x1b[A\x1b[A\r")  # the same again from history
    t.until("]")
    t.until(">>> ")
    t.say("history")
    assert t.until(">>> ").count("user: say: one\n\ttwo\nthr\u00e9e!\n") == 2
    t.send("\x04")
    assert t.end() == 0
    with open(os.path.join(state, "pumice", "history"), encoding="utf-8") as f:
        assert f.read().count("\n") == 4


@claim
def it_works_without_a_home():
    t = Terminal(model(), "-n", 3, XDG_STATE_HOME=None, HOME=None)
    t.until(">>> ")
    t.say(PROMPT)
    t.until("]")
    t.until(">>> ")
    t.say("quit")
    assert t.end() == 0


@claim
def the_terminal_is_left_as_it_was():
    """Echo and line mode are back after each way of leaving."""
    m = model()  # not in the child
    for leave in ["/quit\r", "\x04", *["\x03\x03"] * 4]:
        pid, fd = pty.fork()
        if pid == 0:
            os.execvpe("sh", ["sh", "-c", 'trap : INT; "$1" chat "$2"; echo "left $?"; sleep 5', "sh", BIN, m],
                       environment(TERM="xterm"))
        t = Terminal.__new__(Terminal)
        t.pid, t.fd, t.seen = pid, fd, ""
        t.until(">>> ")
        if leave[0] == "\x03":
            t.send("\x03")
            t.until("Ctrl-C again")  # the next one comes before, while or after the line is read anew
            t.send("\x03")
        else:
            t.send(leave)
        t.until("left 0")
        flags = termios.tcgetattr(fd)[3]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)
        assert flags & termios.ECHO and flags & termios.ICANON, leave


main()
