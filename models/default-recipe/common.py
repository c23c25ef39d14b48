"""common.py - what the other files of the recipe share: how people type, dealing in turn, messages."""
import hashlib
import json
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
# Characters. A row of 512 tokens holds about 1,900 of them; a conversation must fit with its markers.
MAX_CHAT = 1650
SYSTEM = (
    "You are pumice, a small helpful assistant.",
    "You are pumice, a small and friendly language model.",
    "You are a helpful assistant.",
    "You are pumice. You answer in simple words.",
    "You are a friendly assistant. Answer in simple sentences.",
    "You are pumice, a small model that tells stories and answers questions.",
)


def load(name):
    path = os.path.join(HERE, name)
    with open(path, encoding="utf-8") as f:
        if name.endswith(".json"):
            return json.load(f)
        return [json.loads(line) for line in f if line.strip()]


def digest(text):
    """A number that depends on nothing but the text, to hold things out by."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def plain(text):
    """ASCII, or None where that would lose a letter."""
    for a, b in (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2013", "-"),
                 ("\u2014", " - "), ("\u2026", "..."), ("\u00e9", "e"), ("\u00a0", " ")):
        text = text.replace(a, b)
    return text if text.isascii() else None


ONLY_ONE = "sun moon sea rain snow sky beach ocean jungle zoo park forest market kitchen".split()


def article(noun):
    if noun in ONLY_ONE:
        return "the " + noun
    return ("an " if noun[0] in "aeiou" and not noun.startswith("uni") else "a ") + noun


class Deck:
    """Deals its cards in random order, each once before any comes twice."""

    def __init__(self, cards, rng):
        self.cards, self.rng, self.left = list(cards), rng, []

    def __call__(self):
        if not self.left:
            self.left = self.cards[:]
            self.rng.shuffle(self.left)
        return self.left.pop()


LEADS = ("please", "hey", "hi,", "ok,", "so", "well,", "pumice,", "hello,", "and", "tell me,")
ASKS = re.compile(r"(\w+, |so |and |hey |hello |please |now )*((in|to|at|with|from|under) (\w+ ){1,4}?)?(what|what's|who|how|why|where|"
                  r"when|which|is|are|am|was|were|has|do|does|can|could|will|should|did|may|would|have (?:you|we|i))\b(?! you like)", re.I)
TYPO_KEEP = re.compile(r"^[a-z]{5,}$")
CASUAL = {
    "what is": ("what's", "whats"), "i am": ("i'm", "im"), "you are": ("you're", "u are"), "do not": ("don't", "dont"),
    "cannot": ("can't", "cant"), "please": ("pls", "plz"), "are you": ("are u", "r u"), "who is": ("who's", "whos"),
    "want to": ("wanna",), "i don't": ("i dont",), "thank you": ("thank u", "thx"), "how is": ("how's",),
    "tell me about": ("tell me sth about", "tell me something about"), "can you": ("can u", "could you"), "it is": ("it's", "its"),
    "do you know what": ("do u know what", "you know what"),
}
CASUAL_RE = re.compile(r"\b(" + "|".join(sorted(CASUAL, key=lambda k: -len(k))) + r")\b")


def typo(word, rng):
    i = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:i] + word[i + 1:]
    if kind == 1:
        return word[:i] + word[i] + word[i:]
    return word[:i] + word[i + 1] + word[i] + word[i + 2:]


def typed(text, rng, question=True):
    """One way in which a person may write TEXT: cases, marks at the end, now and then a slip."""
    if rng.random() < 0.08:
        text = CASUAL_RE.sub(lambda m: rng.choice(CASUAL[m.group(1)]), text)
    words = text.split(" ")
    if rng.random() < 0.04:
        slots = [i for i, w in enumerate(words) if TYPO_KEEP.match(w)]
        if slots:
            i = rng.choice(slots)
            words[i] = typo(words[i], rng)
    text = " ".join(words)
    r = rng.random()
    if r < 0.05 and question and len(words) > 2:
        text = rng.choice(LEADS) + " " + text
    if rng.random() < 0.012 and len(words) < 7:
        return text.upper()
    style = rng.random()
    if style < 0.45:
        return text
    asks = ASKS.match(text)
    text = text[0].upper() + text[1:]
    text = re.sub(r"\bi\b", "I", text)
    if text[-1].isalnum():
        if asks:
            text += "?" if style < 0.95 else ""
        else:
            text += "." if style < 0.78 else ""
    return text


def turn(user, answer):
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def size(messages):
    return sum(len(m["content"]) + 24 for m in messages)


def fix_articles(text):
    return re.sub(r"\b([Aa]) (?=[aeio][a-z])", r"\1n ", text)


MEMORY = (
    ("name", ("my name is {v}", "i am called {v}", "hi, i am {v}", "you can call me {v}", "hello my name is {v}",
              "i'm {v}", "people call me {v}", "my friends call me {v}"),
     ("Hello, {v}! It is nice to meet you.", "Nice to meet you, {v}!", "Hi, {v}! How can I help you?"),
     ("what is my name", "do you know my name", "who am i", "what am i called", "tell me my name",
      "do you remember my name", "can you say my name", "what's my name again"),
     ("Your name is {v}.", "You are {v}.")),
    ("colour", ("my favourite colour is {v}", "i like {v} the most", "i like the colour {v}", "my favorite color is {v}"),
     ("{V} is a nice colour!", "I like {v} too.", "{V} is a very nice colour."),
     ("what is my favourite colour", "which colour do i like", "do you know my favourite colour",
      "what is my favorite color", "what colour do i like"),
     ("Your favourite colour is {v}.", "You like {v}.")),
    ("food", ("my favourite food is {v}", "i like to eat {v}", "i love {v}", "my favorite food is {v}"),
     ("I cannot eat, but {v} sounds good.", "Mmm, {v}! That sounds good."),
     ("what is my favourite food", "what do i like to eat", "what food do i like", "what is my favorite food"),
     ("You like {v}.", "Your favourite food is {v}.")),
    ("city", ("i live in {v}", "i am from {v}", "my home is {v}", "i come from {v}"),
     ("{v} is a nice city.", "I hope you like it in {v}."),
     ("where do i live", "where am i from", "which city do i live in", "where is my home"),
     ("You live in {v}.", "You told me that you live in {v}.")),
    ("age", ("i am {v} years old", "my age is {v}", "i'm {v} years old", "i turned {v} today"),
     ("{v} is a good age!", "{v} years, that is a good age."),
     ("how old am i", "what is my age", "do you know how old i am", "tell me how old i am"),
     ("You are {v} years old.",)),
    ("pet", ("i have a {v} called {n}", "my {v} is called {n}", "i have a {v}, its name is {n}", "my {v} has the name {n}"),
     ("{n} is a good name for a {v}!", "I like the name {n}.", "A {v}! I hope {n} is well."),
     ("what is the name of my {v}", "how is my {v} called", "what is my {v} called", "do you remember the name of my {v}"),
     ("Your {v} is called {n}.", "The name of your {v} is {n}.")),
)
