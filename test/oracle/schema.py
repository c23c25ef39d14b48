#!/usr/bin/env python3
"""schema.py - whatever a model writes under a JSON schema is JSON that satisfies the schema.

usage: schema.py GUIDED TOKENIZER_DIR [CASES]

GUIDED (guided.c) writes answers to random schemas with a model that has no preferences; Python's
json parses them and, where it is installed, python3-jsonschema holds them against the schema.
Prints TAP (see summary.py)."""
import json
import random
import subprocess
import sys

sys.setrecursionlimit(20000)
try:
    import warnings
    warnings.simplefilter('ignore')
    import jsonschema
except ImportError:
    jsonschema = None

WORDS = ['name', 'na', 'age', 'x', 'größe', 'a"b', 'tags', 'kind', 'back\\slash', 'new\nline', '']


def value(r, depth):
    kind = r.randrange(7 if depth < 2 else 5)
    if kind == 0:
        return r.choice([True, False, None])
    if kind == 1:
        return r.randrange(-2000, 2000)
    if kind == 2:
        return round(r.uniform(-10, 10), r.randrange(4))
    if kind < 5:
        return r.choice(WORDS) + r.choice(['', 'é', '"', '1'])
    if kind == 5:
        return [value(r, depth + 1) for _ in range(r.randrange(3))]
    return {w: value(r, depth + 1) for w in r.sample(WORDS, r.randrange(3))}


def bounds(r, s, lo, hi, whole):
    a, b = sorted((r.uniform(lo, hi), r.uniform(lo, hi)))
    b += 2
    if whole:
        a, b = int(a), int(b)
    s.update(r.choice([{'minimum': a}, {'maximum': b}, {'minimum': a, 'maximum': b},
                       {'exclusiveMinimum': a, 'exclusiveMaximum': b}, {'exclusiveMinimum': a},
                       {'minimum': 0, 'exclusiveMaximum': 3}, {}]))


def of_type(r, t, depth):
    s = {'type': t}
    if t == 'string' and r.random() < .6:
        lo = r.randrange(4)
        s.update(r.choice([{'minLength': lo}, {'maxLength': lo + 3},
                           {'minLength': lo, 'maxLength': lo + r.randrange(4)}]))
    elif t in ('integer', 'number') and r.random() < .7:
        scale = r.choice([1, 30, 1e3, 1e6])
        bounds(r, s, -scale, scale, t == 'integer')
    elif t == 'array':
        if r.random() < .8:
            s['items'] = schema(r, depth + 1)
        if r.random() < .2:
            s['prefixItems'] = [schema(r, depth + 1) for _ in range(r.randrange(1, 3))]
        lo = r.randrange(3)
        s.update(r.choice([{}, {'minItems': lo}, {'maxItems': lo + 1},
                           {'minItems': lo, 'maxItems': lo + r.randrange(3)}]))
        if len(s.get('prefixItems', [])) and r.random() < .3:
            s['items'] = False
            s.pop('minItems', None)
    elif t == 'object':
        names = r.sample(WORDS, r.randrange(5))
        if names or r.random() < .5:
            s['properties'] = {n: schema(r, depth + 1) for n in names}
        s['required'] = [n for n in names if r.random() < .5]
        if r.random() < .4:
            s['additionalProperties'] = r.choice([True, False, {'type': 'integer'}])
    return s


def schema(r, depth=0):
    simple = ['string', 'integer', 'number', 'boolean', 'null']
    k = r.random()
    if k < .08:
        return {'enum': [value(r, 1) for _ in range(r.randrange(1, 6))], 'title': 'a choice'}
    if k < .12:
        return {'const': value(r, 0)}
    if k < .2 and depth < 4:
        return {'anyOf': [schema(r, depth + 1) for _ in range(r.randrange(1, 4))]}
    if k < .24:
        return {'oneOf': [of_type(r, 'string', depth), of_type(r, 'integer', depth)]}
    if k < .28 and depth < 4:
        kinds = [{'type': 'object', 'properties': {'kind': {'const': w}, 'v': schema(r, depth + 1)},
                  'required': ['kind']} for w in ('a', 'ab', 'b')]
        return {'oneOf': kinds, 'description': 'told apart by kind'}
    if k < .33:
        return {'$ref': '#/$defs/' + r.choice(['tree', 'list', 'word'])}
    if k < .37:
        return {'type': r.sample(simple, r.randrange(1, 4))}
    if k < .4:
        return r.choice([True, {}])
    return of_type(r, r.choice(simple if depth > 3 else simple + ['array', 'object'] * 4), depth)


DEFS = {
    'tree': {'type': 'object', 'properties': {'label': {'type': 'string', 'maxLength': 5},
             'left': {'$ref': '#/$defs/tree'}, 'right': {'anyOf': [{'$ref': '#/$defs/tree'},
                                                                 {'type': 'null'}]}},
             'required': ['label'], 'additionalProperties': False},
    'list': {'type': 'array', 'items': {'anyOf': [{'$ref': '#/$defs/list'}, {'type': 'integer'}]}},
    'word': {'enum': ['yes', 'no', 'maybe', 'yesterday', 1, 10, 100, True]},
}

REFUSED = [  # (schema, what the message names)
    ({'type': 'string', 'pattern': '^(a+)+$'}, 'pattern'),
    ({'type': 'object', 'patternProperties': {'^a': {}}}, 'patternProperties'),
    ({'not': {'type': 'string'}}, 'not'),
    ({'type': 'array', 'uniqueItems': True}, 'uniqueItems'),
    ({'type': 'array', 'contains': {}}, 'contains'),
    ({'if': {}, 'then': {}}, 'if'),
    ({'allOf': [{}, {}]}, 'allOf'),
    ({'type': 'number', 'multipleOf': .1}, 'multipleOf'),
    ({'type': 'word'}, 'type'),
    ({'type': 'object', 'properties': {'a': {'properties': {'b': {'pattern': 'x'}}}}},
     '#/properties/a/properties/b: pattern'),
    ({'oneOf': [{'type': 'integer'}, {'type': 'number'}]}, 'oneOf'),
    ({'$ref': '#/$defs/nowhere'}, '$ref'),
    ({'$ref': 'https://example.com/schema'}, '$ref'),
    ({'$ref': '#'}, 'no value of it ends'),
    ({'anyOf': [{'$ref': '#'}]}, 'no value of it ends'),
    ({'type': 'object', 'properties': {'a': {'$ref': '#'}}, 'required': ['a']}, 'no value of it ends'),
    ({'type': 'integer', 'minimum': 5, 'maximum': 4}, 'minimum'),
    ({'type': 'string', 'minLength': 5, 'maxLength': 4}, 'minLength'),
    ({'type': 'array', 'minItems': 2, 'maxItems': 1}, 'minItems'),
    ({'type': 'object', 'required': ['a']}, 'required'),
    ({'enum': []}, 'enum'),
    ({'enum': list(range(100000))}, 'enum'),
    (False, 'false'),
    ('string', 'not an object'),
]


# What a random schema may be refused for.
FAIR = ['may hold at once', 'too close', 'leaves no number']


def ask(guided, folder, cases):
    run = subprocess.run([guided, folder], input=json.dumps({'cases': cases}).encode(),
                         capture_output=True)
    if run.returncode:
        sys.exit(f'Bail out! {guided}: {run.stderr.decode()[-2000:]}')
    return [json.loads(line) for line in run.stdout.splitlines()]


def no_twins(pairs):
    if len({k for k, _ in pairs}) < len(pairs):
        raise ValueError('a key stands twice')
    return dict(pairs)


def deep(depth):
    s = {}
    for _ in range(depth):
        s = {'type': 'array', 'items': s}
    return s


def main():
    guided, folder = sys.argv[1:3]
    n = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    cases = [{'schema': None, 'seed': i, 'steps': 5 * i} for i in range(10)]
    for seed in range(n):
        r = random.Random(seed)
        s = schema(r)
        if isinstance(s, dict):
            s = {**s, '$defs': DEFS}
        cases.append({'schema': s, 'seed': seed, 'steps': r.randrange(40)})
    bad, written, refused, endless = [], 0, 0, 0
    for case, out in zip(cases, ask(guided, folder, cases)):
        s = case['schema']
        if 'error' in out:
            refused += 1
            if not any(s in out['error'] for s in FAIR):
                bad.append(f'{json.dumps(s)}: {out["error"]}')
            continue
        try:
            if out['stuck']:
                raise ValueError('nothing may follow, and it is not complete')
            if not out['done']:
                endless += 1  # keys that nobody asked for, one after the other
                continue
            answer = json.loads(out['text'], object_pairs_hook=no_twins)
            written += 1
            if s is None and not isinstance(answer, dict):
                raise ValueError('is no object')
            if jsonschema and s is not None:
                jsonschema.Draft202012Validator(s).validate(answer)
        except Exception as e:
            bad.append(f'{json.dumps(s)}: {out["text"][:300]!r}: {str(e)[:300]}')
    print('1..4')
    ok = not bad and written > n * .8
    print(f'{"ok" if ok else "not ok"} 1 - every answer is JSON: {written} of {n + 10}, '
          f'{refused} schemas refused, {endless} answers cut off')
    for line in bad[:5]:
        print('#', line)
    if jsonschema:
        print(f'{"ok" if ok else "not ok"} 2 - every answer satisfies its schema')
    else:
        print('ok 2 - every answer satisfies its schema # SKIP no python3-jsonschema')
    bad = [f'{what}: {out.get("error")}' for (s, what), out in
           zip(REFUSED, ask(guided, folder, [{'schema': s, 'seed': 1, 'steps': 1} for s, _ in REFUSED]))
           if what not in out.get('error', '') or out['code'] != 2]
    print(f'{"not ok" if bad else "ok"} 3 - what cannot be held to is refused by name')
    for line in bad:
        print('#', line)
    out = ask(guided, folder, [{'schema': deep(d), 'seed': 1, 'steps': 1} for d in (40, 70, 1000)])
    good = 'text' in out[0] and all('nested' in o.get('error', '') for o in out[1:])
    print(f'{"ok" if good else "not ok"} 4 - nesting has a bound')


main()
