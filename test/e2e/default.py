"""default.py - the model that comes with pumice: what its card says of it holds, and it talks sense.

Answers are greedy, so they are the same bits on every machine of one instruction set; what is asked of them here is
coarse enough for all. models/default-recipe/ask.py asks more, for a person to read.
"""

import functools
import os
import re

from harness import ROOT, Skip, claim, data, main, pumice, sanitized

MODEL = os.path.join(ROOT, "models", "default")
LIMIT = 12_000_000  # bytes in the repository


@functools.cache
def card():
    with open(os.path.join(MODEL, "README.md"), encoding="utf-8") as f:
        return f.read()


def figure(pattern):
    """A number of the card."""
    found = re.search(pattern, card())
    assert found, f"the card has no {pattern!r}"
    return float(found.group(1).replace(",", ""))


def ask(question, *args):
    return pumice("run", MODEL, "--chat", "--temp", 0, "-n", 300, "-q", *args, question).out.strip()


@claim
def the_folder_is_small_and_loads_as_what_the_card_says():
    size = sum(os.path.getsize(os.path.join(MODEL, name)) for name in os.listdir(MODEL))
    assert size <= LIMIT, size
    shown = pumice("show", MODEL, "--json").json
    assert shown["weights"]["parameters"] == figure(r"([\d,]+) parameters"), shown["weights"]


@claim
def it_answers_in_whole_sentences():
    for question in ("hello", "how are you", "who are you", "what can you do", "thank you", "what is a token",
                     "what is the opposite of hot", "what is the capital of mongolia"):
        answer = ask(question)
        assert re.fullmatch(r"[A-Z0-9].*[.!?]", answer, re.S), (question, answer)


@claim
def it_knows_what_pumice_and_gstack_are():
    assert "engine" in ask("what is pumice")
    assert re.search("stack|layer|small", ask("what is gstack"))


@claim
def it_tells_a_story_about_whom_the_user_names():
    for name in ("Max", "Lily"):
        story = ask(f"tell me a story about a {'dog' if name == 'Max' else 'girl'} named {name}")
        assert name in story and story.count(".") > 3, story


@claim
def a_chat_remembers_the_name_it_was_told():
    said = pumice("chat", MODEL, "--temp", 0, "-q", stdin=b"my name is Tom\nwhat is my name\n").out
    assert said.count("Tom") >= 2, said


@claim
def the_bits_per_byte_of_the_card_are_those_of_held_out_stories():
    if sanitized():
        raise Skip("a minute with a sanitizer; the release build computes it")
    text = data("corpora", "tinystories", "val_head_0.8MB.txt")
    got = pumice("eval", "ppl", MODEL, "--text", text, "--json").json["bits_per_byte"]
    stated = figure(r"([\d.]+) bits per byte")
    assert abs(got / stated - 1) < 0.001, (got, stated)


main()
