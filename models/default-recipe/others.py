"""others.py - chats of others (fish, bookings), and questions of others that the model cannot answer."""
import collections
import json
import os
import re

from common import digest, load, plain, turn, typed

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
