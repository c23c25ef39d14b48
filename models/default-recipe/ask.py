#!/usr/bin/env python3
"""ask.py - asks a model what its training held out, prints the transcript, and counts.

    python3 ask.py PUMICE MODEL OUT [-n 60] [--all] [--json FILE]

PUMICE is the program, MODEL the trained folder, OUT what build_data.py wrote. Every question goes
greedily through `pumice run --chat`, alone and without a system message. The wordings were held out
of training, the facts were not; for the skills (opposites, sums, ...) likewise.

A right answer to a question about pumice or to small talk contains the key words of its intent
(held_out.jsonl); "about" is the share of intents answered so, the acceptance figure of the model
card. Key words are a coarse measure: they do not see whether a sentence is good. For this the
transcript is there to be read. In the skills only a taught answer is right, word for word.
"""
import argparse
import collections
import hashlib
import json
import os
import subprocess
import sys

STORIES = (
    # request, words of which one must occur in the story
    ("tell me a story about a dog named Max", ("Max",)),
    ("Tell me a story about Klaus.", ("Klaus",)),
    ("write a short story about a girl and a ball", ("ball",)),
    ("can you tell me a story about a bird", ("bird",)),
    ("i want to hear a story about Anna and a red balloon", ("Anna", "balloon")),
    ("a story about a brave little mouse please", ("mouse",)),
    ("tell me a story about a robot", ("robot",)),
    ("Tell me a bedtime story about the moon.", ("moon",)),
    ("Once upon a time, there was a boy named Peter.", ("Peter", "He", "he")),
    ("tell me a story", (".",)),
)
UNKNOWN = (
    "who painted the mona lisa", "what is the capital of mongolia", "when did the roman empire end",
    "how many people live in new york", "what is a carburetor", "who won the world cup in 1998",
    "what is the boiling point of ethanol", "who wrote hamlet",
)
UNSURE = ("not know", "too small", "too hard", "cannot", "can only")
CHAT = (
    "hello", "my name is Klara", "how are you", "i am fine", "what is pumice", "tell me more", "what is my name",
    "what is the opposite of hot", "tell me a short story about a cat", "who was in the story", "thank you", "bye",
)
STYLED = (
    # system message, message, what the answer must contain
    ("Answer in one short sentence.", "what is a language model", "token"),
    ("Talk like a pirate.", "what is the sun", "Arr"),
    ("You are a cat.", "how are you", "Meow"),
    ("Your name is Bruno.", "what is your name", "Bruno"),
    ("You are a small fish.", "what do you like to eat", "food"),
    ("Always end with: Be kind!", "what is a tree", "Be kind!"),
    ("You help people to book things.", "I want to find a place to eat.", "?"),
)


class Model:
    def __init__(self, pumice, folder, threads):
        self.base = [pumice, "run", folder, "--chat", "--temp", "0", "-n", "300", "--json", "-q", "-t", str(threads)]
        self.chat_base = [pumice, "chat", folder, "--temp", "0", "-n", "250", "--json", "-q", "-t", str(threads)]

    def ask(self, question, system=None):
        args = self.base + (["-sys", system] if system else []) + ["-p", question]
        r = subprocess.run(args, capture_output=True, text=True, timeout=120)
        if r.returncode:
            sys.exit(r.stderr.strip() or f"exit status {r.returncode}")
        o = json.loads(r.stdout)
        return o["text"].strip(), o["finish_reason"]

    def chat(self, lines):
        r = subprocess.run(self.chat_base, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=300)
        if r.returncode:
            sys.exit(r.stderr.strip() or f"exit status {r.returncode}")
        return [json.loads(line)["content"].strip() for line in r.stdout.splitlines()]


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def right(answer, o):
    if not o["keys"]:
        return answer in o["answers"]
    return all(any(k.lower() in answer.lower() for k in key.split("|")) for key in o["keys"])


def show(mark, question, answer):
    print(f"{mark} > {question}\n     {answer}".replace("\n\n", "\n").replace("\n", "\n     ").replace("     " + mark, mark, 1))


def questions(path, n, everything):
    """What is to be asked: N of the intents about pumice and small talk, and a tenth as many of each skill."""
    parts = collections.defaultdict(list)
    with open(path, encoding="utf-8") as f:
        for line in f:
            o = json.loads(line)
            parts[o["part"]].append(o)
    for part, items in parts.items():
        items.sort(key=lambda o: digest(o["intent"]))
        if not everything:
            parts[part] = items[:n if part == "about" else max(4, n // 10)]
    return parts


def ask_part(model, items):
    good = 0
    for o in items:
        answer, finish = model.ask(o["question"])
        ok = right(answer, o) and finish == "stop"
        good += ok
        show("  " if ok else "X ", o["question"], answer)
    return good, len(items)


def ask_fixed(model):
    """Stories, honest ignorance, system messages: (name, right, asked) of each."""
    out = {}
    print("\n== stories")
    good = 0
    for q, words in STORIES:
        answer, finish = model.ask(q)
        ok = finish == "stop" and any(w in answer for w in words) and len(answer) > 150
        good += ok
        show("  " if ok else "X ", q, answer)
    out["stories"] = (good, len(STORIES))
    print("\n== what it cannot know")
    good = 0
    for q in UNKNOWN:
        answer, _ = model.ask(q)
        ok = any(u in answer for u in UNSURE)
        good += ok
        show("  " if ok else "X ", q, answer)
    out["unknown"] = (good, len(UNKNOWN))
    print("\n== system messages")
    good = 0
    for system, q, word in STYLED:
        answer, _ = model.ask(q, system)
        ok = word in answer
        good += ok
        show("  " if ok else "X ", f"[{system}] {q}", answer)
    out["system"] = (good, len(STYLED))
    return out


def main():
    p = argparse.ArgumentParser(description="Asks a model its held-out questions and counts right answers.")
    p.add_argument("pumice", help="the program, such as build/pumice")
    p.add_argument("model", help="the model folder")
    p.add_argument("out", help="the folder that build_data.py wrote")
    p.add_argument("-n", type=int, default=60, help="questions about pumice and small talk (default 60)")
    p.add_argument("--all", action="store_true", help="all held-out questions")
    p.add_argument("--json", metavar="FILE", help="write the counts there")
    p.add_argument("-t", "--threads", type=int, default=1)
    args = p.parse_args()
    model = Model(args.pumice, args.model, args.threads)
    result = {}
    for part, items in questions(os.path.join(args.out, "held_out.jsonl"), args.n, args.all).items():
        print(f"\n== {part}")
        result[part] = ask_part(model, items)
    result.update(ask_fixed(model))
    print("\n== one chat")
    for q, answer in zip(CHAT, model.chat(CHAT)):
        show("  ", q, answer)
    print("\npart       right  asked  share")
    for name, (good, asked) in result.items():
        print(f"{name:10} {good:5} {asked:6}  {100 * good / asked:5.1f} %")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({k: {"right": g, "asked": a} for k, (g, a) in result.items()}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
