"""stories.py - the stories, what each is about, and conversations about them, all found by rule."""
import collections
import os
import re

from common import MAX_CHAT, MEMORY, SYSTEM, article, plain, size, turn, typed

STORY_FILES = ("train_head_2MiB.txt", "cz_test.txt", "cz_val.txt")
VAL_HEAD = "val_head_0.8MB.txt"
MAX_STORY = 1300   # characters; what is told whole in a chat
SHORT_STORY = 620  # what leaves room for questions or for a second story
STORY_SYSTEM = (
    "You tell stories for children.",
    "You are a story teller.",
    "You are pumice. You tell little stories.",
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


class Story:
    def __init__(self, text):
        self.text = text
        self.subjects = []  # wordings of what it is about, the main one first
        self.names = []
        self.hero = None    # (kind, name) as in "a girl named Lily"


def read_stories(data, report):
    """All whole stories, none of them near val_head, paragraphs separated by a blank line. Beside them, for
    each story, which of its paragraphs ended in a blank in the file."""
    base = os.path.join(data, "corpora", "tinystories")
    with open(os.path.join(base, VAL_HEAD), encoding="utf-8") as f:
        val = f.read()
    ends, out, n = {}, [], collections.Counter()
    for name in STORY_FILES:
        with open(os.path.join(base, name), encoding="utf-8") as f:
            parts = f.read().split("<|endoftext|>")
        for i, part in enumerate(parts):
            raw = [line for line in part.strip().split("\n") if line.strip()]
            lines = [re.sub(r"  +", " ", line.strip()) for line in raw]
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
            elif text in ends:
                n["dropped, twice"] += 1
            else:
                ends[text] = [line[-1] == " " for line in raw]
                out.append(text)
    report["stories"] = dict(n, kept=len(out))
    return out, ends


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
                if re.match(r"(He|She|It|They|But|So|And|Then|His|Her|Their|This|That|There|One|You|Your|My|Our|We|I|In the end|Suddenly|"
                            r"As|When|After|At|Finally|Soon|Now|Next|From|Later|Just|Even|Every|Inside|With|To)\b", s):
                    continue
                if any(freq[w] < common for w in re.findall(r"[a-z']+", s.lower())):
                    continue
                for w in re.findall(r"[a-z]+", s):
                    if (w in words["objects_set"] or w in words["kinds_set"]) and decent(s, words):
                        out[s] = w
    return sorted(out.items())


def misread(text):
    """Curly marks as the original collection has them in some stories: UTF-8 once read as CP-1252."""
    text = text.replace("'", "\u00e2\u20ac\u2122")
    return re.sub(r'"([^"]*)"', "\u00e2\u20ac\u0153\\1\u00e2\u20ac", text)


def as_found(text, ends, rng):
    """The story with the slips that the collection has: blanks at ends of paragraphs (where this story had them), and
    misread marks (in the 4 % of stories that have them in the part nobody cleaned). Chats never see these."""
    text = "\n\n".join(p + " " * blank for p, blank in zip(text.split("\n\n"), ends))
    return misread(text) if rng.random() < 0.04 else text


def with_other_hero(text, hero, heroes, rng):
    """The story with another story's hero name in place of its own, or as it is where that would clash."""
    if not hero:
        return text
    kind, name = hero
    new = rng.choice(heroes[kind])
    if re.search(rf"\b{new}", text) or re.search(rf"\b{name}[a-z]", text):
        return text
    return re.sub(rf"\b{name}\b", new, text)


def plain_copies(texts, ends, words, rng, copies):
    """COPIES orders of all stories; from the second on, heroes change names."""
    hero = {t: study(t, words).hero for t in texts}
    heroes = collections.defaultdict(list)
    for t in texts:
        if hero[t]:
            heroes[hero[t][0]].append(hero[t][1])
    out = []
    for i in range(copies):
        told = [(t if i == 0 else with_other_hero(t, hero[t], heroes, rng), ends[t]) for t in texts]
        rng.shuffle(told)
        out += [as_found(t, e, rng) for t, e in told]
    return out


def write_stories(path, stories):
    """Documents of six stories each, stories and paragraphs apart by a blank line, as in val_head."""
    docs = ["\n\n".join(stories[i:i + 6]) for i in range(0, len(stories), 6)]
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n<|endoftext|>\n".join(docs) + "\n")
