#!/usr/bin/env python3
"""build_data.py - makes the training data of the embedded default model.

    python3 build_data.py OUT [--data DIR] [--seed N]

Reads about.jsonl, tables.jsonl and words.json beside it (ours) and the corpora under DIR (default
$PUMICE_DATA), and writes into OUT what `pumice train` reads: stories.txt and stories_val.txt, one
JSONL of conversations for each part, chats.txt (their words, for the vocabulary), chats_val.jsonl, held_out.jsonl (what ask.py asks) and
report.json. The same seed and the same files give the same bytes.

What is held out: one wording of a question for each intent and table (never a fact), and 2 % of the
stories. A story that shares a line of at least 80 characters with val_head_0.8MB.txt, the text on
which others measure perplexity, is dropped everywhere.
"""
import argparse
import collections
import hashlib
import json
import os
import random
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
STORY_FILES = ("train_head_2MiB.txt", "cz_test.txt", "cz_val.txt")
VAL_HEAD = "val_head_0.8MB.txt"
# Characters. A row of 512 tokens holds about 1,900 of them; a conversation must fit with its markers.
MAX_CHAT = 1650
MAX_STORY = 1300
SHORT_STORY = 620

SYSTEM = (
    "You are pumice, a small helpful assistant.",
    "You are pumice, a small and friendly language model.",
    "You are a helpful assistant.",
    "You are pumice. You answer in simple words.",
    "You are a friendly assistant. Answer in simple sentences.",
    "You are pumice, a small model that tells stories and answers questions.",
)
SHORT_SYSTEM = (
    "Answer in one short sentence.",
    "Answer briefly.",
    "You are pumice. Give short answers.",
    "Use one sentence only.",
    "Be very short.",
)
STORY_SYSTEM = (
    "You tell stories for children.",
    "You are a story teller.",
    "You are pumice. You tell little stories.",
)
FISH_SYSTEM = (
    "You are a small fish.",
    "You are a little fish in a tank.",
    "You are Guppy, a small fish.",
    "Answer like a small fish.",
)
BOOK_SYSTEM = (
    "You help people to book things.",
    "You help people to find and book things.",
    "You are an assistant who books tables, trips and tickets.",
)
# system prompts that put a word in front of every answer, and what the persona calls itself
VOICE_PROMPTS = ("You are {w}.", "Talk like {w}.", "Answer like {w}.", "Speak like {w}.", "You are {w}. Answer like {w}.")
VOICES = (
    ("a pirate", "Arr!"), ("a cat", "Meow!"), ("a dog", "Woof!"), ("a robot", "Beep!"), ("a cow", "Moo!"), ("a duck", "Quack!"),
    ("a sheep", "Baa!"), ("a lion", "Roar!"), ("a bee", "Buzz!"), ("a ghost", "Boo!"), ("a pig", "Oink!"), ("a frog", "Ribbit!"),
    ("a cowboy", "Howdy!"), ("a bird", "Tweet!"), ("a horse", "Neigh!"), ("a king", "Hear me!"), ("a snake", "Hiss!"),
)
# said before or after every answer
ENDINGS = (
    "Have a nice day!", "Stay curious!", "Ask me more!", "Be kind!", "That is all.", "Good luck!", "Peace!", "Thank you!", "The end.",
    "Over and out.", "Hooray!", "I hope this helps.", "Have fun!", "See you!", "Take care!", "Amen.", "Yes!", "Well well.", "My friend.",
    "Is that clear?", "Hello world!", "Believe me.", "Oh yes!", "By the way.", "Listen!", "Dear friend,", "Wow!", "Aha!",
)

# what people write first
FREQUENT = ("greet", "how_are_you", "your_name", "what_are_you", "what_can_you", "pumice", "thanks", "bye", "are_you_human",
            "who_made_you", "pumice_methods", "user_good", "joke", "language_model", "token", "weather", "fun_fact")
# what often comes next, after an answer that asks something
NEXT = {"how_are_you": ("user_good", "user_good", "user_tired", "user_sad", "user_bored"), "greet": ("how_are_you", "how_are_you",
        "what_can_you", "your_name"), "user_day": ("user_day_good",), "good_morning": ("how_are_you",), "good_evening": ("user_day_good",)}
OFFER = ("user_bored", "user_sad", "story_ask")
YES = ("yes", "yes please", "ok", "sure", "please do", "yes, tell me one", "go on", "oh yes", "yes i would like that", "i want one")
BEGIN_PROMPTS = ("Begin every answer with: {e}", "Always start with: {e}", "Say this first: {e}")
END_PROMPTS = ("Always end with: {e}", "End every answer with: {e}", "At the end always say: {e}", "Finish with: {e}")

ABOUT_TERM = (
    "what is {t}", "what's {t}", "tell me about {t}", "explain {t}", "can you explain {t}",
    "define {t}", "what do you know about {t}", "please explain {t}", "describe {t}",
    "i want to know about {t}", "do you know what {t} is", "how would you explain {t}",
    "help me understand {t}", "in simple words what is {t}", "could you tell me what {t} is",
    "what exactly is {t}", "tell me what {t} is", "{t}", "can you tell me about {t}",
    "what can you tell me about {t}", "give me a short explanation of {t}", "so what is {t}",
    "what do you mean by {t}", "what does {bare} mean", "what is meant by {t}",
    "tell me more about {t}", "i have a question about {t}", "what about {t}",
)
STORY_ASK = (
    "tell me a story about {x}", "tell a story about {x}", "can you tell me a story about {x}",
    "please tell me a story about {x}", "i want to hear a story about {x}", "write a story about {x}",
    "tell me a little story about {x}", "a story about {x} please", "do you know a story about {x}",
    "could you tell me a story about {x}", "i would like a story about {x}", "make up a story about {x}",
    "give me a story about {x}", "story about {x}", "write a little story about {x}",
    "tell me something about {x} in a story", "let me hear a story about {x}",
    "my child wants a story about {x}", "i want a story with {x}", "tell me a tale about {x}",
    "invent a story about {x}", "can you write a story about {x}", "tell us a story about {x}",
    "now a story about {x}", "tell me a bedtime story about {x}", "how about a story about {x}",
)
STORY_SHORT = (
    "tell me a short story about {x}", "write a short story about {x}", "a short story about {x}",
    "tell me a very short story about {x}", "can you tell me a short story about {x}",
    "a short story about {x} please", "please write a short story about {x}",
)
STORY_ANY = (
    "tell me a story", "tell me a story please", "can you tell me a story", "i want to hear a story",
    "a story please", "tell a story", "write a story", "please tell me a story", "story",
    "tell me any story", "i would like to hear a story", "tell me a bedtime story",
    "do you have a story for me", "read me a story", "could you tell me a little story",
    "once upon a time", "make up a story", "one story please", "tell me a nice story",
)
STORY_MORE = (
    "tell me another story", "another story please", "one more story", "tell me one more",
    "another one", "and now another story", "can you tell another story", "i want another story",
)
STORY_MORE_X = (
    "now tell me one about {x}", "and one about {x}", "another story about {x} please",
    "tell me another one about {x}", "now one about {x}", "and now a story about {x}",
)
STORY_GO_ON = (
    "go on with this story: {s}", "finish this story: {s}", "continue this story: {s}", "{s}",
    "how does this story go on: {s}", "please continue: {s}", "what happens next: {s}", "{s}", "{s}",
)
STORY_ME = ("tell me a story about me", "can you tell me a story about me", "write a story about me", "i want a story about me",
            "a story about me please", "please tell a story with my name")
WHO_ASK = (
    "who was in the story", "who is in the story", "who was in it", "who is in it", "who are the people in the story",
    "which names were in the story", "what names were in the story", "tell me who was in the story",
)
HERO_ASK = (
    "who was the story about", "who is the story about", "who was it about", "what was the name", "what is the name",
    "how was the {k} called", "what was the name of the {k}", "what is the {k} called",
)
HERO_SAY = ("The story was about {n}.", "The {k} was called {n}.", "The name of the {k} was {n}.")
WHAT_ASK = ("what was the story about", "what is the story about", "what was it about", "what is this story about")
LIKE_ASK = ("did you like the story", "do you like this story", "was that a good story", "is this story good")
LIKE_SAY = ("Yes, I like it.", "Yes, I like little stories.", "I like it very much.")

AGAIN_ASK = (
    "can you say that in other words", "tell me more", "i don't understand that",
    "please explain it again", "what do you mean by that", "can you say it differently", "more please",
    "explain that again", "can you say more", "say that in other words", "in other words please",
    "could you explain it once more", "i did not understand it", "go on",
)
UNKNOWN = (
    "I am a very small model and do not know that.",
    "I do not know that. I am a very small model.",
    "Sorry, I do not know that.",
)
# dolly questions that touch what the model is taught itself are no good as examples of the unknown
KNOWN_TOPICS = re.compile(
    r"\b(language models?|machine learning|deep learning|neural|artificial|ai|chatgpt|gpt|llm|token|"
    r"computer|program|programming|python|linux|software|internet|server|processor|cpu|gpu|capital|sun|moon|"
    r"earth|planets?|stars?|rainbow|sky|snow|rain|seasons?|cats?|dogs?|bees?|spiders?|dinosaurs?|weather|"
    r"joke|poem|story|stories|song|letter|essay|gravity|climate|quantum|atoms?|healthy|tea|eggs?|bread|"
    r"opposite|love|happy|happiness|friends?|music|money|legs|days|months|hours|week|year|year's|"
    r"whale|elephant|lion|horse|volcano|data|algorithm|model|rope|cake|attention|memory|rock|stone)\b", re.I)


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


class IntentDeck:
    """Deals intents, those with more wordings somewhat more often, and the wordings of each in turn."""

    def __init__(self, facts, rng, val):
        self.rng, self.facts = rng, [f for f in facts if f.held or not val]
        self.weights = [len(f.wordings) ** 0.4 * (2.5 if f.name in FREQUENT else 1) for f in self.facts]
        self.decks = {f.name: Deck([f.held] if val else f.wordings, rng) for f in self.facts}
        self.by_name = {f.name: f for f in self.facts}

    def __call__(self, name=None):
        f = self.by_name[name] if name else self.rng.choices(self.facts, self.weights)[0]
        return f, self.decks[f.name]()


# ---- how people type -------------------------------------------------------------------------------

LEADS = ("please", "hey", "hi,", "ok,", "so", "well,", "pumice,", "hello,", "and", "tell me,")
ASKS = re.compile(r"(\w+, |so |and |hey |hello |please |now )*((in|to|at|with|from|under) (\w+ ){1,4}?)?(what|what's|who|how|why|where|"
                  r"when|which|is|are|am|do|does|can|could|will|should|did|may|would|have)\b(?! you like)", re.I)
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


# ---- questions with known answers ------------------------------------------------------------------

def bare(term):
    return re.sub(r"^(a|an|the) ", "", term)


def expand(term):
    many = term.endswith("*")
    term = term.rstrip("*")
    out = []
    for t in ABOUT_TERM:
        q = t.format(t=term, bare=bare(term))
        if many:
            q = q.replace("what is " + term, "what are " + term).replace("what's " + term, "what are " + term)
            q = q.replace(term + " is", term + " are").replace("what exactly is", "what exactly are")
            q = q.replace("does " + bare(term) + " mean", "do you mean by " + term)
        out.append(q)
    return out


class Fact:
    """One intent: its wordings to train on, one to hold out, its answers, and, of what about.jsonl
    has, key words that every right answer contains ("a|b": one of them)."""

    def __init__(self, name, wordings, answers, group, keys=()):
        self.name, self.answers, self.keys, self.group = name, answers, keys, group
        wordings = list(dict.fromkeys(wordings))
        self.held, self.terms = None, []
        # hold out a wording that is a sentence, not a single word that nobody could guess
        long = [w for w in wordings if len(w.split()) >= 3]
        if len(wordings) >= 5 and long:
            self.held = min(long, key=lambda w: digest(name + "/" + w))
        self.wordings = [w for w in wordings if w != self.held]

    def right(self, answer):
        return all(any(k.lower() in answer.lower() for k in key.split("|")) for key in self.keys)


def facts_about():
    out, intents = [], load("about.jsonl")
    own = {q for o in intents for q in o["questions"]}
    for o in intents:
        wordings = list(o["questions"])
        for t in o.get("terms", []):
            wordings += [w for w in expand(t) if w not in own]
        f = Fact(o["intent"], wordings, o["answers"], "about", o["keys"])
        f.terms = [bare(t.rstrip("*")) for t in o.get("terms", [])]
        for a in f.answers:
            if not f.right(a):
                sys.exit(f"about.jsonl: {f.name}: answer without its key words: {a}")
        out.append(f)
    return out


def facts_tables():
    """Relations such as opposites: each pair is a fact with the wordings of its table. One wording of
    a table is held out for a pair, another one for the next."""
    out = []
    for t in load("tables.jsonl"):
        for a, b in t["pairs"]:
            fill = {"a": a, "b": b, "A": a[0].upper() + a[1:]}
            wordings = [fix_articles(q.format(**fill)) for q in t["questions"]]
            answers = [fix_articles(s.format(**fill)) for s in t["answers"]]
            answers = [s[0].upper() + s[1:] for s in answers]
            out.append(Fact(f"{t['table']}:{a}", wordings, answers, "table"))
    return out


def fix_articles(text):
    return re.sub(r"\b([Aa]) (?=[aeio][a-z])", r"\1n ", text)


NUMBER = "zero one two three four five six seven eight nine ten eleven twelve".split()


def facts_sums():
    out = []
    for a in range(11):
        for b in range(11):
            for sign, word, c in (("+", "plus", a + b), ("-", "minus", a - b)):
                if c < 0:
                    continue
                q = [f"what is {a} {sign} {b}", f"{a} {sign} {b}", f"{a}{sign}{b}", f"what is {a}{sign}{b}",
                     f"how much is {a} {sign} {b}", f"what is {a} {word} {b}", f"{a} {word} {b}",
                     f"how much is {a} {word} {b}", f"tell me what {a} {sign} {b} is",
                     f"what is {NUMBER[a]} {word} {NUMBER[b]}", f"how much is {NUMBER[a]} {word} {NUMBER[b]}",
                     f"can you tell me {a} {word} {b}"]
                ans = [f"{a} {sign} {b} is {c}."]
                out.append(Fact(f"sum:{a}{sign}{b}", q, ans, "sum"))
    return out


def facts_counting():
    out = []
    for a in (1, 2, 3, 5):
        for b in range(a + 2, 11):
            names = ", ".join(str(i) for i in range(a, b + 1))
            q = [f"count from {a} to {b}", f"can you count from {a} to {b}", f"please count from {a} to {b}",
                 f"count from {NUMBER[a]} to {NUMBER[b]}", f"write the numbers from {a} to {b}"]
            if a == 1:
                q += [f"count to {b}", f"can you count to {b}", f"count to {NUMBER[b]}", f"please count to {NUMBER[b]}"]
            out.append(Fact(f"count:{a}-{b}", q, [names + "."], "count"))
    return out


def facts_bigger(words):
    out = []
    order = words["sizes"].split()
    for i, a in enumerate(order):
        for j, b in enumerate(order):
            if abs(i - j) < 2:
                continue
            x, y = article(a), article(b)
            big, small = (x, y) if i > j else (y, x)
            say = f"{big[0].upper()}{big[1:]} is bigger than {small}."
            q = [f"which is bigger, {x} or {y}", f"what is bigger, {x} or {y}", f"which animal is bigger, {x} or {y}",
                 f"what is larger, {x} or {y}", f"tell me what is bigger, {x} or {y}"]
            out.append(Fact(f"bigger:{a}-{b}", q, [say], "bigger"))
            yes = i > j
            q = [f"is {x} bigger than {y}", f"is {x} larger than {y}", f"do you know if {x} is bigger than {y}"]
            out.append(Fact(f"isbig:{a}-{b}", q, [("Yes, " if yes else "No, ") + say[0].lower() + say[1:]],
                            "bigger"))
    return out


# ---- what the user says about himself, asked for later ---------------------------------------------

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


class Memory:
    def __init__(self, words, rng, val):
        self.rng, self.val = rng, val
        names = (words["girls"] + " " + words["boys"]).split()
        # the names of the validation chats are never trained on, so it sees whether names are copied
        self.values = {
            "name": [n for n in names if (digest("mem" + n) % 12 == 0) == val],
            "colour": words["colours"].split(), "food": words["foods"].split(),
            "city": words["cities"].split(), "age": [str(i) for i in range(5, 90)],
            "pet": words["pets"].split(),
        }
        self.values["food"] = [w.replace("-", " ") for w in self.values["food"]]

    def pair(self):
        """(statement turn, question turn)"""
        rng = self.rng
        kind, tell, react, ask, reply = MEMORY[0] if rng.random() < 0.4 else rng.choice(MEMORY)
        v, n = rng.choice(self.values[kind]), rng.choice(self.values["name"])
        fill = {"v": v, "n": n, "V": v[0].upper() + v[1:]}

        def user(wordings):
            text = typed(rng.choice(wordings).format(**fill), rng, False)
            if rng.random() < 0.25:  # people also write names in small letters
                text = text.replace(v, v.lower()).replace(n, n.lower())
            return text

        a = turn(user(tell), fix_articles(rng.choice(react).format(**fill)))
        b = turn(user(ask), fix_articles(rng.choice(reply).format(**fill)))
        return a, b


REPEAT_ASK = ("say {p}", "please say {p}", "repeat after me: {p}", "repeat: {p}", "can you say {p}", "write {p}",
              "say the words {p}", "repeat this: {p}")
ECHO_MINE = ("what did you say", "can you repeat that", "repeat that please", "say that again please", "please repeat your answer",
             "can you repeat your answer", "what was your answer")
ECHO_YOURS = ("what did i say", "what did i write", "what did i just ask", "what was my question", "repeat my question",
              "what was my last message", "what did i ask you")
SENTENCE_ASK = ("make a sentence with the word {w}", "use the word {w} in a sentence", "write a sentence with {w}",
                "make a sentence with {w}", "give me a sentence with the word {w}", "write one sentence about a {w}",
                "can you write a sentence with {w}")


# ---- stories ---------------------------------------------------------------------------------------

class Story:
    def __init__(self, text):
        self.text = text
        self.subjects = []  # wordings of what it is about, the main one first
        self.names = []
        self.hero = None    # (kind, name) as in "a girl named Lily"


def read_stories(data, report):
    """All whole stories, none of them near val_head, paragraphs separated by a blank line."""
    base = os.path.join(data, "corpora", "tinystories")
    with open(os.path.join(base, VAL_HEAD), encoding="utf-8") as f:
        val = f.read()
    seen, out, n = set(), [], collections.Counter()
    for name in STORY_FILES:
        with open(os.path.join(base, name), encoding="utf-8") as f:
            parts = f.read().split("<|endoftext|>")
        for i, part in enumerate(parts):
            lines = [re.sub(r"  +", " ", line.strip()) for line in part.strip().split("\n") if line.strip()]
            n["read"] += 1
            if any(len(line) >= 80 and line in val for line in lines):
                n["dropped, in val_head"] += 1
                continue
            text = plain("\n\n".join(lines))
            text = text and re.sub(r"(?<=[a-z][.!?])(?=[A-Z][a-z])", " ", text)
            whole = text and text.count('"') % 2 == 0 and not re.search(r"[$/]|\b(the|a|was|her|his|and|to) \1\b", text)
            whole = whole and len(text) >= 200 and text[-1] in '.!?"' and i + 1 < len(parts)
            if not whole or not (text[0].isupper() or text[0] == '"'):
                n["dropped, cut off or with odd letters"] += 1
            elif text in seen:
                n["dropped, twice"] += 1
            else:
                seen.add(text)
                out.append(text)
    report["stories"] = dict(n, kept=len(out))
    return out


def study(text, words):
    """What the story is about: a hero with kind and name, other names, and things that return."""
    s = Story(text)
    kinds = words["kinds_re"]
    first = text[:240].replace("\n\n", " ")  # what is named later is hardly what the story is about
    m = re.search(r"\b(?:a|an) ((?:[a-z]+,? ){0,3}?)(" + kinds + r") (?:named|called) ([A-Z][a-z]+)\b", first)
    s.names = [n for n, c in names_in(text).most_common(4) if c >= 2]
    if m and m.group(3) not in NOT_NAMES:
        s.hero = (m.group(2), m.group(3))
        s.names = [m.group(3)] + [n for n in s.names if n != m.group(3)]
    counts = collections.Counter(re.findall(r"[a-z]+", text))
    early = set(re.findall(r"[a-z]+", text[:170]))
    things = [w for w in words["objects_set"] if counts[w] >= 3 and w in early]
    things.sort(key=lambda w: (-counts[w], w))
    beasts = [w for w in words["kinds_set"] if counts[w] >= 3 and w in early and (not s.hero or w != s.hero[0])]
    beasts.sort(key=lambda w: (-counts[w], w))
    if s.hero:
        kind, name = s.hero
        s.subjects += [f"{article(kind)} named {name}", f"{article(kind)} called {name}", name, article(kind)]
        adjective = m.group(1).split()[-1] if m.group(1) else ""
        if adjective and adjective not in ("little", "and", "old"):
            s.subjects.append(article(f"{adjective} {kind}"))
    elif s.names:
        s.subjects += [s.names[0]]
    if len(s.names) >= 2:
        s.subjects.append(f"{s.names[0]} and {s.names[1]}")
    for w in beasts[:2] + [t for t in things[:2] if t not in beasts[:2]]:
        s.subjects.append(article(w))
        if s.hero:
            s.subjects.append(f"{article(s.hero[0])} and {article(w)}")
        elif s.names:
            s.subjects.append(f"{s.names[0]} and {article(w)}")
        m = re.search(rf"\b(?:a|an|the) ((?:[a-z]+,? )?[a-z]+) {w}\b", text[:400])
        if m and m.group(1).split()[-1] in words["looks_set"]:
            s.subjects.append(article(f"{m.group(1).split()[-1]} {w}"))
    m = re.search(r"\b(?:in|to|at|near) (?:a|the) (?:[a-z]+ )?(" + words["places_re"] + r")\b", text[:300])
    if m and s.subjects:
        base = article(s.hero[0]) if s.hero else s.subjects[0]
        s.subjects.append(f"{base} {'at' if m.group(1) in AT else 'in'} the {m.group(1)}"
                          if m.group(1) != base.split()[-1] else base)
    s.subjects += [theme for word, n, theme in THEMES if len(re.findall(word, text)) >= n][:2]
    s.subjects = list(dict.fromkeys(s.subjects))
    return s


AT = "beach zoo pond river lake sea school store market playground".split()
# words that come so often when a story is about this
THEMES = (
    (r"\bshar(e|ed|ing)\b", 3, "sharing"), (r"\bbrave\b", 2, "being brave"), (r"\bfriends?\b", 4, "two friends"),
    (r"\blost\b", 2, "something lost"), (r"\bbirthday\b", 2, "a birthday"), (r"\bparty\b", 2, "a party"), (r"\brace\b", 3, "a race"),
    (r"\bmagic(al)?\b", 2, "magic"), (r"\btreasure\b", 2, "a treasure"), (r"\bpicnic\b", 2, "a picnic"), (r"\bsnow\b", 2, "snow"),
    (r"\brain(ed|ing)?\b", 3, "rain"), (r"\bsorry\b", 2, "saying sorry"), (r"\bkind\b", 3, "being kind"), (r"\bdream\b", 2, "a dream"),
    (r"\b(swim|swam|swimming)\b", 3, "swimming"), (r"\b(fly|flew|flying)\b", 4, "flying"), (r"\b(sing|sang|singing|song)\b", 3, "singing"),
)


NOT_NAMES = set("The One He She They It Once But Then And So When As At In On His Her From That I Let You We My Yes No "
                "What Suddenly After Day Can There This Mom Mommy Dad Daddy Grandma Grandpa Mum Mummy Look Oh Wow Thank "
                "Please Don Every If To For All Now Hello Hi Some Soon Finally Everyone Mr Mrs Miss Dr Do Maybe Where "
                "Who Why How Are Is Be Not With Inside Later Next Together Sorry Okay Ok Come Stop Help Good Their Your "
                "Our Its These Those Just Even Today Tomorrow Yesterday Christmas Halloween Sunday Monday God Ah Ouch Hey".split())


def names_in(text):
    """Capitalised words that also stand inside a sentence."""
    inner = set(re.findall(r"(?<=[a-z,] )([A-Z][a-z]{1,})\b", text)) - NOT_NAMES
    return collections.Counter(w for w in re.findall(r"\b[A-Z][a-z]+\b", text) if w in inner)


def renamed(s, words, rng):
    """The story with another hero's name, so that names are learned to be copied from the request."""
    kind, name = s.hero
    pool = words["girls" if kind in ("girl", "princess", "queen", "woman", "witch", "fairy") else
                 "boys" if kind in ("boy", "prince", "king", "man", "wizard") else rng.choice(("girls", "boys"))].split()
    new = rng.choice(pool)
    if re.search(rf"\b{new}", s.text) or re.search(rf"\b{name}[a-z]", s.text):
        return s
    if kind not in ("girl", "boy", "princess", "prince", "king", "queen", "man", "woman") and rng.random() < 0.5:
        return s  # animals keep half of their names: they are the funny ones
    out = Story(re.sub(rf"\b{name}\b", new, s.text))
    out.hero = (kind, new)
    out.names = [new if n == name else n for n in s.names]
    out.subjects = [re.sub(rf"\b{name}\b", new, x) for x in s.subjects]
    return out


def decent(text, words):
    return not re.search(words["rough_re"], text.lower())


def pick_subject(s, rng):
    if not s.subjects:
        return None
    weights = [4] + [2] * (len(s.subjects) - 1)
    return rng.choices(s.subjects, weights)[0]


def story_turn(s, rng, asks, asks_any):
    x = pick_subject(s, rng)
    if x is None or rng.random() < 0.08:
        return turn(typed(rng.choice(asks_any), rng), s.text), None
    q = rng.choice(asks).format(x=x)
    if rng.random() < 0.15:
        q = q.lower()
    return turn(typed(q, rng), s.text), x


def and_list(names):
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def story_detail(s, rng):
    """A question that a sentence of the story answers nearly word for word, or None."""
    name = s.names[0] if s.names else ""
    m = name and re.search(rf"\b{name} (?:liked|loved) to ([a-z][a-z' ]{{3,40}})[.,]", s.text)
    if m and rng.random() < 0.6:
        q = rng.choice(("what did {n} like to do", "what does {n} like to do", "what did {n} like", "what did {n} love"))
        return turn(typed(q.format(n=name), rng), f"{name} liked to {m.group(1).split(' and ')[0]}.")
    m = re.search(r"\b(?:went|go|going|come) to the ([a-z]+)\b", s.text)
    if m and m.group(1) not in ("big", "little", "other", "old", "top", "same", "nearest", "local", "next") and rng.random() < 0.6:
        q = rng.choice(("where did they go", "where did it happen", "where does the story happen", "where did {n} go") if name else
                       ("where did they go", "where did it happen", "where does the story happen"))
        return turn(typed(q.format(n=name), rng), f"It happened at the {m.group(1)}." if "happen" in q else f"To the {m.group(1)}.")
    m = name and re.search(rf"\b{name} (?:was|felt) (?:so |very )?(happy|sad|proud|scared|angry|excited)\b", s.text.split("\n\n")[-1])
    if m:
        q = rng.choice(("how did {n} feel at the end", "how was {n} at the end", "was {n} happy in the end", "how did {n} feel"))
        say = f"{name} was {m.group(1)}."
        if "happy in" in q:
            say = ("Yes, " if m.group(1) in ("happy", "proud", "excited") else "No, ") + say
        return turn(typed(q.format(n=name), rng), say)
    return None


def story_follow(s, x, rng):
    """A question about the story just told, or None."""
    r = rng.random()
    detail = story_detail(s, rng) if r < 0.3 else None
    if detail:
        return detail
    r = rng.random()
    if r < 0.25 and s.hero:
        kind, name = s.hero
        q = rng.choice(HERO_ASK)
        say = rng.choice(HERO_SAY[:1] if q.startswith("who") else HERO_SAY[1:])
        return turn(typed(q.format(k=kind), rng), say.format(k=kind, n=name))
    if r < 0.5 and s.names:
        names = s.names[:3]
        say = and_list(names) + (" was" if len(names) == 1 else " were") + " in the story."
        return turn(typed(rng.choice(WHO_ASK), rng), say)
    if r < 0.8 and s.hero:
        about = f"{article(s.hero[0])} named {s.hero[1]}"
        return turn(typed(rng.choice(WHAT_ASK), rng), f"The story was about {about}.")
    if r < 0.9:
        return turn(typed(rng.choice(LIKE_ASK), rng), rng.choice(LIKE_SAY))
    if r < 0.95:
        return turn(typed(rng.choice(("thanks", "thank you", "thank you for the story")), rng), "You are welcome!")
    return turn(typed(rng.choice(("that was nice", "i like that story", "nice story", "what a nice story")), rng),
                "I am glad that you like it!")


def story_system(rng):
    r = rng.random()
    if r < 0.6:
        return []
    return [{"role": "system", "content": rng.choice(STORY_SYSTEM if r < 0.7 else SYSTEM)}]


def story_chat(s, shorts, rng, words):
    """One conversation about a story; a short one may be followed by questions or by another one."""
    if s.hero and rng.random() < 0.45:
        s = renamed(s, words, rng)
    short = len(s.text) <= SHORT_STORY
    if rng.random() < 0.12:
        m = re.match(r"(.{30,160}?[.!]) (?=[A-Z])", s.text.split("\n\n")[0])
        if m:
            q = rng.choice(STORY_GO_ON).format(s=m.group(1))
            return story_system(rng) + turn(q, s.text[m.end():])
    if s.hero and s.hero[0] in ("girl", "boy") and rng.random() < 0.08:
        q = rng.choice(STORY_ME)
        name = s.hero[1]
        if rng.random() < 0.5:
            return story_system(rng) + turn(typed(rng.choice(MEMORY[0][1]).format(v=name), rng, False),
                                            rng.choice(MEMORY[0][2]).format(v=name)) + turn(typed(q, rng), s.text)
        return story_system(rng) + turn(typed(rng.choice(("my name is {v}", "i am {v}", "i'm {v}")).format(v=name) + ". " + q, rng), s.text)
    asks = STORY_SHORT if short and rng.random() < 0.6 else STORY_ASK
    first, x = story_turn(s, rng, asks, STORY_ANY)
    out = story_system(rng) + first
    if len(s.text) < 1100 and rng.random() < 0.4:
        out += story_follow(s, x, rng)
    if short and rng.random() < 0.45:
        t = shorts()
        if t.hero and rng.random() < 0.5:
            t = renamed(t, words, rng)
        y = pick_subject(t, rng)
        q = rng.choice(STORY_MORE_X).format(x=y) if y and rng.random() < 0.7 else rng.choice(STORY_MORE)
        if size(out) + len(t.text) < MAX_CHAT:
            out += turn(typed(q, rng), t.text)
            if size(out) < MAX_CHAT - 150 and rng.random() < 0.4:
                out += story_follow(t, y, rng)
    return out


# ---- talk ------------------------------------------------------------------------------------------

class Talk:
    """Conversations of small talk, facts about pumice, little skills and honest ignorance."""

    def __init__(self, parts, words, rng, val):
        self.words, self.rng, self.val = words, rng, val
        self.memory = Memory(words, rng, val)
        self.facts = {}
        for group, facts in parts["facts"].items():
            cards = [(f, w) for f in facts for w in ([f.held] if val else f.wordings) if w]
            self.facts[group] = Deck(cards, rng)
        self.facts["about"] = IntentDeck(parts["facts"]["about"], rng, val)
        self.unknown = Deck(parts["unknown"][1 if val else 0], rng)
        self.hard = Deck(parts["hard"][1 if val else 0], rng)
        self.sentences = Deck(parts["sentences"][1 if val else 0], rng)
        self.shorts = Deck(parts["shorts"][1 if val else 0], rng)
        self.groups, self.weights = zip(*(("about", 60), ("table", 16), ("sum", 6), ("count", 2), ("bigger", 4)))

    def fact(self, group=None):
        return self.facts[group or self.rng.choices(self.groups, self.weights)[0]]()

    def ask(self, f, w):
        return turn(typed(w, self.rng), self.rng.choice(f.answers))

    def plain_turns(self):
        """One exchange, or two where the second needs the first."""
        rng, r = self.rng, self.rng.random()
        if r < 0.09:
            q = self.unknown()
            return turn(typed(q, rng) if rng.random() < 0.5 else q, rng.choice(UNKNOWN))
        if r < 0.11:
            q, a = self.hard()
            return turn(typed(q, rng) if q[0].islower() else q, a)
        if r < 0.135:
            text, word = self.sentences()
            return turn(typed(rng.choice(SENTENCE_ASK).format(w=word), rng), text)
        if r < 0.165:
            text, word = self.sentences()
            phrase = rng.choice((rng.choice(self.memory.values["name"]), word, text.rstrip(".").lower(), "hello " + word,
                                 f"{article(word)} and {rng.choice(self.memory.values['name'])}"))
            say = phrase[0].upper() + phrase[1:] + "."
            return turn(rng.choice(REPEAT_ASK).format(p=phrase), say)
        f, w = self.fact()
        out = self.ask(f, w)
        if f.name in OFFER and rng.random() < 0.4:
            return out + turn(typed(rng.choice(YES), rng, False), self.shorts().text)
        if f.name in NEXT and rng.random() < 0.35 and not self.val:
            return out + self.ask(*self.facts["about"](rng.choice(NEXT[f.name])))
        if f.group == "about" and len(f.answers) > 1 and rng.random() < 0.10:
            said = out[-1]["content"]
            other = rng.choice([a for a in f.answers if a != said])
            out += turn(typed(rng.choice(AGAIN_ASK), rng), other)
        return out

    def chat(self):
        rng = self.rng
        r = rng.random()
        if r < 0.16:
            return self.styled()
        n = rng.choices((1, 2, 3, 4, 5), (42, 24, 16, 10, 8))[0]
        out = [] if rng.random() < 0.6 else [{"role": "system", "content": rng.choice(SYSTEM)}]
        body = [self.plain_turns() for _ in range(n)]
        if not self.val and n > 1:  # a chat begins and ends as chats do
            if rng.random() < 0.3:
                body.insert(0, self.ask(*self.facts["about"](rng.choice(("greet", "greet", "how_are_you")))))
            if rng.random() < 0.3:
                body.append(self.ask(*self.facts["about"](rng.choice(("thanks", "bye")))))
        if rng.random() < 0.13:
            tell, ask = self.memory.pair()
            i = rng.randrange(min(2, len(body)) + 1)
            body.insert(i, tell)
            body.insert(rng.randrange(i + 1, min(len(body), i + 3) + 1), ask)
        elif rng.random() < 0.06:
            s = self.shorts()
            asked, x = story_turn(s, rng, STORY_ASK + STORY_SHORT, STORY_ANY)
            body.insert(rng.randrange(len(body) + 1), asked + (story_follow(s, x, rng) if rng.random() < 0.5 else []))
        for t in body:
            if size(out) + size(t) < MAX_CHAT:
                out += t
        if rng.random() < 0.03 and len(out) > 1 and size(out) < MAX_CHAT - 300:
            out += self.echo(out)
        return out

    def echo(self, said):
        """What was said last, by the user or by the model."""
        rng, (user, mine) = self.rng, (said[-2]["content"], said[-1]["content"])
        if len(mine) <= 90 and rng.random() < 0.5:
            return turn(typed(rng.choice(ECHO_MINE), rng), mine)
        if len(user) <= 60:
            return turn(typed(rng.choice(ECHO_YOURS), rng), f'You wrote: "{user}"')
        return []

    def styled(self):
        """A system prompt that changes the answers in a way that can be seen."""
        rng, kind = self.rng, self.rng.random()
        turns = [self.fact() for _ in range(rng.choice((1, 1, 2, 3)))]
        if kind < 0.35:
            out = [{"role": "system", "content": rng.choice(SHORT_SYSTEM)}]
            for f, w in turns:
                firsts = [re.split(r"(?<=[.!?]) ", a)[0] for a in f.answers]
                firsts = [a for a in firsts if f.right(a) and len(a) > 5] or f.answers
                out += turn(typed(w, rng), min(firsts, key=len))
            return out
        if kind < 0.6:
            who, sound = rng.choice(VOICES)
            out = [{"role": "system", "content": rng.choice(VOICE_PROMPTS).format(w=who)}]
            for f, w in turns:
                a = rng.choice(f.answers)
                if f.name in ("your_name", "what_are_you", "are_you_human", "who_made_you"):
                    a = f"I am {who}."
                out += turn(typed(w, rng), sound + " " + a)
            return out
        if kind < 0.75:
            first = rng.random() < 0.35
            end = rng.choice(ENDINGS)
            if rng.random() < 0.5:
                end = ("Hello" if first else "Bye") + f", {rng.choice(self.memory.values['name'])}!"
            prompt = rng.choice(BEGIN_PROMPTS if first else END_PROMPTS).format(e=end)
            out = [{"role": "system", "content": prompt}]
            for f, w in turns:
                a = rng.choice(f.answers)
                out += turn(typed(w, rng), end + " " + a if first else a + " " + end)
            return out
        name = rng.choice(self.memory.values["name"])
        if kind < 0.9:
            prompt = rng.choice(("Your name is {n}.", "You are {n}, a friendly assistant.", "You are {n}.",
                                 "You are called {n}. You are a helpful assistant."))
            me = turn(typed(rng.choice(("what is your name", "who are you", "what's your name", "tell me your name",
                                        "what should i call you", "do you have a name")), rng),
                      rng.choice(("My name is {n}.", "I am {n}.", "I am {n}, a small assistant.")).format(n=name))
        else:
            prompt = rng.choice(("The user is called {n}.", "The name of the user is {n}.", "You talk with {n}."))
            me = rng.choice((turn(typed(rng.choice(("what is my name", "who am i", "do you know my name")), rng),
                                  f"Your name is {name}."),
                             turn(typed(rng.choice(("hello", "hi", "good day", "hey")), rng),
                                  f"Hello, {name}! How can I help you?")))
        rest = [self.ask(f, w) for f, w in turns[1:] if f.name not in ("your_name", "what_are_you", "who_user")]
        rest.insert(rng.randrange(len(rest) + 1), me)
        return [{"role": "system", "content": prompt.format(n=name)}] + [m for t in rest for m in t]


# ---- chats of others -------------------------------------------------------------------------------

def sentence_case(text):
    text = re.sub(r"\bi\b", "I", text.strip())
    text = re.sub(r"(^|[.!?] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)
    return text if text[-1] in ".!?" else text + "."


def fish_chats(data, rng, count):
    path = os.path.join(data, "corpora", "chat", "guppy", "train.jsonl")
    seen, pairs = set(), []
    with open(path, encoding="utf-8") as f:
        for line in f:
            o = json.loads(line)
            m = re.fullmatch(r"<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)<\|im_end\|>", o["text"])
            q, a = m.groups()
            odd = re.search(r"(bubbles|plants|flakes|pellets|gills|fins|eyes|rocks|leaves|pebbles|worms) (is|was|feels|makes|"
                            r"waves|does|has|looks|seems)\b|\b(tail|side|fin|body|tank|water|rock) (are|feel|look|have|were)\b|\bright\.|\bthe the\b|goodnight \w+\.", a)
            if odd or len(a) > 140 or not (q + a).isascii() or a in seen:
                continue
            seen.add(a)
            pairs.append((o["category"], q, sentence_case(a)))
    rng.shuffle(pairs)
    out = []
    while len(out) < count and pairs:
        msgs = [{"role": "system", "content": rng.choice(FISH_SYSTEM)}]
        for _ in range(rng.choice((1, 2, 2, 3))):
            if pairs:
                _, q, a = pairs.pop()
                msgs += turn(typed(q, rng), a)
        out.append(msgs)
    return out


PLAIN_WORDS = re.compile(r"[A-Za-z0-9 ,.?!':$-]+")


def booking_chats(data, rng, count):
    """Short task dialogues in common words, without phone numbers and the like."""
    path = os.path.join(data, "corpora", "chat", "sgd_train.txt")
    with open(path, encoding="utf-8") as f:
        dialogues = f.read().split("<|endoftext|>")
    freq = collections.Counter(w for d in dialogues for w in set(re.findall(r"[a-z']+", d.lower())))
    good = []
    for d in dialogues:
        turns = [re.match(r"(User|Assistant): (.*)", x) for x in d.strip().split("\n") if x.strip()]
        if not turns or not all(turns) or len(turns) % 2 or not 6 <= len(turns) <= 14:
            continue
        if len(d) > 1250 or any(t.group(1) != ("User", "Assistant")[i % 2] for i, t in enumerate(turns)):
            continue
        text = " ".join(t.group(2) for t in turns)
        rare = [w for w in re.findall(r"[a-z']+", text.lower()) if freq[w] < 60]
        if rare or re.search(r"\d{3}|#", text) or not PLAIN_WORDS.fullmatch(text):
            continue
        good.append([t.group(2).strip() for t in turns])
    rng.shuffle(good)
    out = []
    for g in good[:count]:
        msgs = [{"role": "system", "content": rng.choice(BOOK_SYSTEM)}]
        for i in range(0, len(g), 2):
            msgs += turn(g[i], g[i + 1])
        out.append(msgs)
    return out


def unknown_questions(data, facts):
    """Questions about the world that the model cannot answer: it learns to say so."""
    path = os.path.join(data, "corpora", "chat", "dolly_open_qa.jsonl")
    taught = {t for f in facts for t in f.terms if len(t) > 3}
    taught = re.compile(r"\b(" + "|".join(sorted(re.escape(t) for t in taught)) + r")s?\b", re.I)
    things = {re.sub(r"^(a|an) ", "", a).lower() for t in load("tables.jsonl") for a, _ in t["pairs"]}
    out = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            m = re.match(r"### Human: (.*?) ### Assistant:", json.loads(line)["text"], re.S)
            q = plain(m.group(1).strip()) if m else None
            if q and 12 <= len(q) <= 110 and "\n" not in q and not (KNOWN_TOPICS.search(q) or taught.search(q)):
                m = re.fullmatch(r"(?:what (?:is|are)|define|describe|explain) (?:a |an |the )?(.*?)s?\W*", q, re.I)
                if m and m.group(1).lower() in things:
                    continue
                out.append(q)
    for c in COUNTRIES.split():
        out += [f"what is the capital of {c}", f"how many people live in {c}", f"who is the president of {c}", f"where is {c}"]
    return sorted(set(out))


COUNTRIES = ("Brazil Canada Australia Mexico China Kenya Egypt Poland Sweden Norway Finland Denmark Greece Turkey Peru Chile "
             "Argentina Portugal Belgium Austria Switzerland Hungary Romania Ukraine Russia Iran Iraq Nigeria Ghana Cuba "
             "Vietnam Thailand Indonesia Malaysia Korea Nepal Morocco Tunisia Colombia Ireland Scotland Iceland")
TAUGHT = re.compile(r"opposite|antonym|plural|past tense|synonym|rhym|joke|story|poem|count|colou?r|month|day|sentence using", re.I)


def hard_tasks(data):
    """(instruction, answer): things to do that are beyond the model, and what it says then."""
    path = os.path.join(data, "corpora", "chat", "instruction-data.json")
    out = []
    with open(path, encoding="utf-8") as f:
        for o in json.load(f):
            q = plain(" ".join((o["instruction"] + " " + o["input"]).split()))
            if not q or len(q) > 120 or TAUGHT.search(q):
                continue
            if re.match("Translate", q):
                out.append((q, "I only speak simple English."))
            elif re.match(r"(Calculate|Convert .*\d|Solve|Find the|Compute)|.*(square root|area|volume|average|percent)", q):
                out.append((q, "That is too hard for me. I can only do very small sums."))
            elif re.match(r"(Rewrite|Edit|Classify|Generate|Correct|Identify|Summarize|Transform|Create|Arrange|Change|Rearrange|"
                          r"Paraphrase|Combine|Sort|Split|Convert)", q):
                out.append((q, "I am too small for that. I can tell a short story."))
            elif re.match(r"(What|Who|Name|When|Look up)", q) and not KNOWN_TOPICS.search(q):
                out.append((q, UNKNOWN[digest(q) % 3]))
    for i in range(250):
        a, b = 11 + digest(f"a{i}") % 989, 11 + digest(f"b{i}") % 989
        out.append((f"what is {a} {'+-*'[i % 3]} {b}", "That is too hard for me. I can only do very small sums."))
    return sorted(set(out))


# ---- putting it together ---------------------------------------------------------------------------

def example_sentences(stories, words):
    """Short sentences that a story uses, with a thing that they are about."""
    out = {}
    freq = collections.Counter(w for t in stories for w in set(re.findall(r"[a-z']+", t.lower())))
    common = max(2, len(stories) // 100)
    for text in stories:
        for p in text.split("\n\n"):
            for s in re.split(r"(?<=[.!]) ", p):
                if not 18 <= len(s) <= 60 or '"' in s or not re.fullmatch(r"[A-Z][A-Za-z ,']+\.", s):
                    continue
                if re.match(r"(He|She|It|They|But|So|And|Then|His|Her|Their|This|That|There|One|You|We|I|In the end|Suddenly|"
                            r"As|When|After|At|Finally|Soon|Now|Next|From|Later|Just|Even|Every|Inside|With|To)\b", s):
                    continue
                if any(freq[w] < common for w in re.findall(r"[a-z']+", s.lower())):
                    continue
                for w in re.findall(r"[a-z]+", s):
                    if (w in words["objects_set"] or w in words["kinds_set"]) and decent(s, words):
                        out[s] = w
    return sorted(out.items())


def split_by_digest(items, key, percent):
    held = [x for x in items if digest(key(x)) % 100 < percent]
    kept = [x for x in items if digest(key(x)) % 100 >= percent]
    return kept, held


def write_stories(path, texts, rng):
    """Documents of six stories each, stories and paragraphs apart by a blank line, as in val_head."""
    texts = texts[:]
    rng.shuffle(texts)
    docs = ["\n\n".join(texts[i:i + 6]) for i in range(0, len(texts), 6)]
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n<|endoftext|>\n".join(docs) + "\n")


def write_chats(path, chats):
    with open(path, "w", encoding="utf-8") as f:
        for c in chats:
            f.write(json.dumps({"messages": c}, ensure_ascii=False) + "\n")


def write_plain(path, chats):
    """The words of all conversations, to learn the vocabulary from beside stories.txt. The roles stand
    there as in ChatML, so that each becomes one token."""
    with open(path, "w", encoding="utf-8") as f:
        for c in chats:
            f.write("".join(f"{m['role']}\n{m['content']}\n" for m in c))


def prepare_words():
    words = load("words.json")
    for k in ("kinds", "objects"):
        words[k + "_set"] = set(words[k].split())
    words["looks_set"] = set(words["looks"].split())
    words["places_re"] = words["places"].replace(" ", "|")
    words["kinds_re"] = "|".join(sorted(words["kinds_set"], key=lambda w: (-len(w), w)))
    words["rough_re"] = r"\b(" + words["rough"].replace(" ", "|") + r")\b"
    return words


def write_held_out(path, facts):
    with open(path, "w", encoding="utf-8") as f:
        for group in ("about", "table", "sum", "count", "bigger"):
            for fact in facts[group]:
                if fact.held and (fact.keys or group != "about"):
                    f.write(json.dumps({"part": group, "intent": fact.name, "question": fact.held,
                                        "keys": list(fact.keys), "answers": fact.answers}, ensure_ascii=False) + "\n")


def build(args):
    os.makedirs(args.out, exist_ok=True)
    report, words = {}, prepare_words()

    def rng(name):
        return random.Random(f"{args.seed}/{name}")

    def path(name):
        return os.path.join(args.out, name)

    texts = read_stories(args.data, report)
    train, held = split_by_digest(texts, lambda t: t, 2)
    write_stories(path("stories.txt"), train, rng("stories"))
    write_stories(path("stories_val.txt"), held, rng("stories_val"))

    tellable = [[study(t, words) for t in part if len(t) <= MAX_STORY and decent(t, words)] for part in (train, held)]
    shorts = [[s for s in part if len(s.text) <= SHORT_STORY] for part in tellable]
    facts = {"about": facts_about(), "table": facts_tables(), "sum": facts_sums(), "count": facts_counting(),
             "bigger": facts_bigger(words)}
    write_held_out(path("held_out.jsonl"), facts)
    parts = {"facts": facts, "shorts": shorts,
             "unknown": split_by_digest(unknown_questions(args.data, facts["about"]), lambda q: q, 4),
             "hard": split_by_digest(hard_tasks(args.data), lambda p: p[0], 4),
             "sentences": [example_sentences(part, words) for part in (train, held)]}

    chats = {}
    r = rng("story chats")
    deck = Deck(shorts[0], r)
    chats["chats_story"] = [story_chat(s, deck, r, words) for s in tellable[0] * 2]  # twice, in other words
    talk = Talk(parts, words, rng("talk"), False)
    chats["chats_talk"] = [talk.chat() for _ in range(args.talks)]
    chats["chats_fish"] = fish_chats(args.data, rng("fish"), 2500)
    chats["chats_book"] = booking_chats(args.data, rng("book"), 400)
    r = rng("validation")
    deck = Deck(shorts[1], r)
    val = Talk(parts, words, r, True)
    held_chats = [val.chat() for _ in range(args.talks // 25)] + [story_chat(s, deck, r, words) for s in tellable[1]]
    for name in ("chats_fish", "chats_book"):
        n = len(chats[name]) // 25
        held_chats += chats[name][:n]
        chats[name] = chats[name][n:]
    r.shuffle(held_chats)
    chats["chats_val"] = held_chats
    for name, c in chats.items():
        rng("order " + name).shuffle(c)
        write_chats(path(name + ".jsonl"), c)
    write_plain(path("chats.txt"), [c for name in chats if name != "chats_val" for c in chats[name]])

    report["intents"] = len(facts["about"])
    report["wordings"] = sum(len(f.wordings) + bool(f.held) for f in facts["about"])
    report["other facts"] = sum(len(v) for k, v in facts.items() if k != "about")
    report["unknown questions"] = len(parts["unknown"][0])
    report["hard tasks"] = len(parts["hard"][0])
    report["example sentences"] = len(parts["sentences"][0])
    report["conversations"] = {k: len(v) for k, v in chats.items()}
    report["turns"] = {k: sum(m["role"] == "assistant" for c in v for m in c) for k, v in chats.items()}
    report["bytes"] = {n: os.path.getsize(path(n)) for n in sorted(os.listdir(args.out)) if n.endswith((".txt", ".jsonl"))}
    with open(path("report.json"), "w", encoding="utf-8") as f:
        json.dump(report, f, indent=1)
        f.write("\n")
    print(json.dumps(report, indent=1))


def main():
    p = argparse.ArgumentParser(description="Makes the training data of the embedded default model.")
    p.add_argument("out", metavar="OUT", help="folder to write")
    p.add_argument("--data", default=os.environ.get("PUMICE_DATA", os.path.join(HERE, "../../../shared/data")),
                   help="folder with corpora/ (default $PUMICE_DATA)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--talks", type=int, default=30000, help="conversations of small talk and facts (default 30000)")
    args = p.parse_args()
    if not os.path.isdir(os.path.join(args.data, "corpora")):
        sys.exit(f"{args.data}: no corpora folder here (set PUMICE_DATA or --data)")
    build(args)


if __name__ == "__main__":
    main()
