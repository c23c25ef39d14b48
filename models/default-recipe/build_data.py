#!/usr/bin/env python3
"""build_data.py - makes the training data of the embedded default model.

    python3 build_data.py OUT [--data DIR] [--seed N]

Reads about.jsonl, tables.jsonl and words.json beside it (ours) and the corpora under DIR (default
$PUMICE_DATA), and writes into OUT what `pumice train` reads: stories.txt and stories_val.txt, one
JSONL of conversations for each part, chats.txt (their words, for the vocabulary), chats_val.jsonl,
held_out.jsonl (what ask.py asks) and report.json. The same seed and files give the same bytes.

What is held out: one wording of a question for each intent and table (never a fact), and 2 % of the
stories. A story that shares a line of at least 80 characters with val_head_0.8MB.txt, the text on
which others measure perplexity, is dropped everywhere.
"""
import argparse
import json
import os
import random
import re
import sys

sys.dont_write_bytecode = True  # leave nothing in the source folder

from common import (Deck, HERE, MAX_CHAT, MEMORY, SYSTEM, article, digest, fix_articles, load, size, turn, typed)
from facts import IntentDeck, facts_about, facts_bigger, facts_counting, facts_sums, facts_tables
from stories import (MAX_STORY, SHORT_STORY, STORY_ANY, STORY_ASK, STORY_SHORT, decent, example_sentences,
                     plain_copies, read_stories, story_chat, story_follow, story_turn, study, write_stories)
from others import UNKNOWN, booking_chats, fish_chats, hard_tasks, unknown_questions

SHORT_SYSTEM = (
    "Answer in one short sentence.",
    "Answer briefly.",
    "You are pumice. Give short answers.",
    "Use one sentence only.",
    "Be very short.",
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
# what often comes next, after an answer that asks something
NEXT = {"how_are_you": ("user_good", "user_good", "user_tired", "user_sad", "user_bored"), "greet": ("how_are_you", "how_are_you",
        "what_can_you", "your_name"), "user_day": ("user_day_good",), "good_morning": ("how_are_you",), "good_evening": ("user_day_good",)}
OFFER = ("user_bored", "user_sad", "story_ask")
YES = ("yes", "yes please", "ok", "sure", "please do", "yes, tell me one", "go on", "oh yes", "yes i would like that", "i want one")
BEGIN_PROMPTS = ("Begin every answer with: {e}", "Always start with: {e}", "Say this first: {e}")
END_PROMPTS = ("Always end with: {e}", "End every answer with: {e}", "At the end always say: {e}", "Finish with: {e}")
AGAIN_ASK = (
    "can you say that in other words", "tell me more", "i don't understand that",
    "please explain it again", "what do you mean by that", "can you say it differently", "more please",
    "explain that again", "can you say more", "say that in other words", "in other words please",
    "could you explain it once more", "i did not understand it", "go on",
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


def split_by_digest(items, key, percent):
    held = [x for x in items if digest(key(x)) % 100 < percent]
    kept = [x for x in items if digest(key(x)) % 100 >= percent]
    return kept, held


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


def bare_words(text):
    return " ".join(re.findall(r"[a-z0-9'+*-]+", text.lower()))


def drop_leaks(chats, facts):
    """Takes out training chats in which a short form or another part happens to be a held-out wording."""
    held = {bare_words(f.held) for group in facts.values() for f in group if f.held}
    n = 0
    for name, old in chats.items():
        chats[name] = [c for c in old if not any(m["role"] == "user" and bare_words(m["content"]) in held for m in c)]
        n += len(old) - len(chats[name])
    return n


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

    texts, ends = read_stories(args.data, report)
    train, held = split_by_digest(texts, lambda t: t, 2)
    write_stories(path("stories.txt"), plain_copies(train, ends, words, rng("stories"), 4))
    write_stories(path("stories_val.txt"), plain_copies(held, ends, words, rng("stories_val"), 1))

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
    report["dropped, as they ask a held-out question"] = drop_leaks(chats, facts)
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
