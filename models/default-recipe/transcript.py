#!/usr/bin/env python3
"""transcript.py - ten chats with a model, as Markdown: python3 transcript.py PUMICE MODEL > docs/chats.md

The chats and the seed were fixed before the first run; no answer was picked.
"""
import subprocess
import sys

SEED = 1
CHATS = (
    ("Small talk", None, ("hello", "how are you?", "what can you do?", "what can't you do?", "thank you", "bye")),
    ("What pumice is", None, ("what is pumice?", "why is it called pumice?", "is it free?", "does it need a GPU?")),
    ("Its methods", None, ("what is gstack?", "what is larosa?", "what does vattention do?", "what is sarathi?",
                           "what is cake?", "what is adaptivocab?")),
    ("Language models", None, ("what is a token?", "what is a kv cache?", "what is quantisation?", "what is perplexity?")),
    ("A story", None, ("tell me a story about a dog named Max", "who was in the story?", "another one please")),
    ("A story about me", None, ("my name is Sofia", "tell me a story about me", "what is my name?")),
    ("Simple facts", None, ("what is the opposite of big?", "what colour is the sky?", "what is 4 + 3?",
                            "which is bigger, a mouse or a horse?", "what day comes after monday?")),
    ("What it does not know", None, ("who wrote hamlet?", "what is the weather like today?", "are you human?",
                                     "write a program in C that sorts a list")),
    ("A fish", "You are a small fish.", ("hello", "what do you like to eat?", "are you happy?")),
    ("A pirate", "Talk like a pirate.", ("hello", "what is the sun?", "what is a language model?")),
)


def chat(pumice, model, system, lines):
    """The answers, one a message."""
    answers, said = [], []
    for n in range(1, len(lines) + 1):
        args = [pumice, "chat", model, "-q", "--seed", str(SEED)] + (["--system-prompt", system] if system else [])
        out = subprocess.run(args, input="\n".join(lines[:n]) + "\n", capture_output=True, text=True, check=True).stdout
        said.append(out)
        before = said[-2] if n > 1 else ""
        assert out.startswith(before), "the same seed gave other answers"
        answers.append(out[len(before):].strip())
    return answers


def main():
    pumice, model = sys.argv[1:3]
    print("# Ten chats with the default model\n")
    print(f"Made by `models/default-recipe/transcript.py`: `pumice chat models/default --seed {SEED}`, settings of the model's own\n"
          "`generation_config.json`. The messages and the seed were fixed before the first run; nothing was picked or mended.")
    for title, system, lines in CHATS:
        print(f"\n## {title}\n")
        if system:
            print(f"*System: {system}*\n")
        for line, answer in zip(lines, chat(pumice, model, system, lines)):
            print(f"**{line}**\n")
            print("\n".join("> " + part if part else ">" for part in answer.split("\n")) + "\n")


main()
