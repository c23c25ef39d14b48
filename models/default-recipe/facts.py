"""facts.py - questions with known answers: about.jsonl, tables.jsonl, small sums, counting, sizes.

Each fact has wordings to train on, and where it has enough of them one that is held out. Which one
depends on nothing but its text.
"""
import re
import sys

from common import Deck, article, digest, fix_articles, load

# what people write first
FREQUENT = ("greet", "how_are_you", "your_name", "what_are_you", "what_can_you", "pumice", "thanks", "bye", "are_you_human",
            "who_made_you", "pumice_methods", "user_good", "joke", "language_model", "token", "weather", "fun_fact")
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
