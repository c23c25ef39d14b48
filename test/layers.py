#!/usr/bin/env python3
"""layers.py - holds the source tree to its shape.  Prints TAP (see summary.py).

Rules, each with a broken copy of the tree below that must be caught:
  includes   a file includes only headers of its own folder and of the folders named in MAY_INCLUDE
  relative   headers are named from src/ ("base/err.h"), never by "../"
  alone      every header compiles on its own
  file       a .c or .def has at most 900 lines, a .h at most 200
  function   a function has at most 80 lines, from its name to its closing brace
  columns    a line has at most 100 columns
A comment "exception: reason" in the first 15 lines of a file (file, alone), on the line before a
function, or on a long line itself lifts the rule there.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

BELOW_MODEL = {'tok', 'method', 'num', 'base'}
MAY_INCLUDE = {
    'base': set(),
    'num': {'base'},
    'method': {'num', 'base'},
    'tok': {'method', 'num', 'base'},
    'model': BELOW_MODEL,
    'engine': BELOW_MODEL | {'model'},
    'hub': {'base'},
    'serve': BELOW_MODEL | {'model', 'engine'},
    'train': BELOW_MODEL | {'model'},
    'cmd': BELOW_MODEL | {'model', 'engine', 'serve', 'train', 'hub'},
}
GENERATED = {'version.h'}  # by the build
ISA_FLAGS = ('-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni '
             '-mavx512bf16')
MAX_FILE = {'.c': 900, '.def': 900, '.h': 200}
MAX_FUNCTION = 80
MAX_COLUMNS = 100
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
EXCEPTION = re.compile(r'exception: \S')


def sources(root, folders):
    for folder in folders:
        for where, dirs, names in os.walk(os.path.join(root, folder)):
            dirs[:] = sorted(d for d in dirs if d != 'node_modules')
            for name in sorted(names):
                if os.path.splitext(name)[1] in MAX_FILE:
                    path = os.path.join(where, name)
                    with open(path, encoding='utf-8') as f:
                        yield os.path.relpath(path, root), f.read().splitlines()


def check_includes(root):
    for path, lines in sources(root, ['src']):
        folder = path.split(os.sep)[1]
        if folder not in MAY_INCLUDE:
            yield f'{path}: folder src/{folder} has no place in the order of layers'
            continue
        for n, line in enumerate(lines, 1):
            m = INCLUDE.match(line)
            if not m or m.group(1).startswith('../'):
                continue
            target = m.group(1)
            if target in GENERATED:
                continue
            if not os.path.exists(os.path.join(root, 'src', target)):
                yield f'{path}:{n}: "{target}" is not a path under src/'
            elif target.split('/')[0] not in MAY_INCLUDE[folder] | {folder}:
                yield f'{path}:{n}: {folder} must not include "{target}"'


def check_relative(root):
    for path, lines in sources(root, ['src', 'test', 'bench']):
        for n, line in enumerate(lines, 1):
            m = INCLUDE.match(line)
            if m and m.group(1).startswith('../'):
                yield f'{path}:{n}: "{m.group(1)}" climbs out of its folder'


def check_alone(root):
    for path, lines in sources(root, ['src']):
        if not path.endswith('.h') or any(EXCEPTION.search(line) for line in lines[:15]):
            continue
        cmd = os.environ.get('CC', 'cc').split() + [
            '-std=gnu17', '-D_GNU_SOURCE', '-Wall', '-Werror', '-fsyntax-only',
            '-I', os.path.join(root, 'src'), '-include', os.path.join(root, path),
            '-x', 'c', os.devnull]
        if path.startswith('src/num/x86/'):
            cmd += ISA_FLAGS.split()
        run = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             check=False)
        if run.returncode:
            yield f'{path}: does not compile alone: {run.stdout.splitlines()[:1]}'


def check_file(root):
    for path, lines in sources(root, ['src', 'test', 'bench']):
        limit = MAX_FILE[os.path.splitext(path)[1]]
        if len(lines) > limit and not any(EXCEPTION.search(line) for line in lines[:15]):
            yield f'{path}: {len(lines)} lines, the limit is {limit}'


def functions(lines):
    """(first line, last line, name), 1-based.  Relies on the layout: a definition starts in column
    0 and its closing brace stands alone there."""
    start = None
    for n, line in enumerate(lines, 1):
        if line.rstrip() == '}' and start:
            yield start[0], n, start[1]
            start = None
        elif re.match(r'[A-Za-z_]', line):
            m = re.search(r'(\w+)\(', line)
            if m and not line.rstrip().endswith(';') and not line.startswith('typedef'):
                start = (n, m.group(1))
            elif '(' not in line:
                start = None


def check_function(root):
    for path, lines in sources(root, ['src', 'test', 'bench']):
        for first, last, name in functions(lines):
            if last - first + 1 > MAX_FUNCTION and not EXCEPTION.search(lines[first - 2]):
                yield (f'{path}:{first}: {name} has {last - first + 1} lines, the limit is '
                       f'{MAX_FUNCTION}')


def check_columns(root):
    for path, lines in sources(root, ['src', 'test', 'bench']):
        for n, line in enumerate(lines, 1):
            if len(line) > MAX_COLUMNS and not EXCEPTION.search(line):
                yield f'{path}:{n}: {len(line)} columns'


RULES = {
    'includes': check_includes,
    'relative': check_relative,
    'alone': check_alone,
    'file': check_file,
    'function': check_function,
    'columns': check_columns,
}

LONG = 'a' * (MAX_COLUMNS + 1)
# rule, file to break, text appended to it, what the report must contain
BREAKS = [
    ('includes', 'src/base/err.c', '#include "num/mat.h"\n', 'base must not include "num/mat.h"'),
    ('includes', 'src/num/ref.c', '#include "tok/tok.h"\n', 'num must not include "tok/tok.h"'),
    ('includes', 'src/tok/tok.h', '#include "model/cfg.h"\n', 'tok must not include "model/cfg.h"'),
    ('includes', 'src/model/run.c', '  #  include "engine/engine.h"\n',
     'model must not include "engine/engine.h"'),
    ('includes', 'src/engine/engine.c', '#include "cmd/cmd.h"\n', 'must not include "cmd/cmd.h"'),
    ('includes', 'src/train/new.c', '#include "engine/engine.h"\n', 'train must not'),
    ('includes', 'src/serve/new.c', '#include "train/new.h"\n', 'not a path under src/'),
    ('includes', 'src/misc/new.c', 'int misc;\n', 'src/misc has no place'),
    ('includes', 'src/model/run.c', '#include "run.h"\n', '"run.h" is not a path under src/'),
    ('relative', 'src/model/run.c', '#include "../base/err.h"\n', 'climbs out'),
    ('alone', 'src/base/err.h', 'int err_count(size_t n);\n', 'err.h: does not compile alone'),
    ('file', 'src/base/err.c', '\n' * 900, 'src/base/err.c: 9'),
    ('file', 'src/base/err.h', '\n' * 200, 'src/base/err.h: 2'),
    ('function', 'src/base/err.c',
     'static int f(int a,\n    int b) {\n' + '    a++;\n' * 80 + '}\n',
     'f has 83 lines'),
    ('columns', 'src/base/err.c', f'/* {LONG} */\n', '107 columns'),
]
# rule, file, text appended to it that must NOT be reported
PASSES = [
    ('includes', 'src/model/run.c', '#include "base/err.h"\n#include <stdio.h>\n'),
    ('includes', 'src/train/new.c', '#include "model/cfg.h"\n'),
    ('function', 'src/base/err.c', 'static const int table[] = {\n' + '    1,\n' * 100 + '};\n'),
    ('function', 'src/base/err.c',
     '/* exception: one case a line */\nint f(void) {\n' + '    g();\n' * 80 + '}\n'),
    ('columns', 'src/base/err.c', f'/* exception: an address {LONG} */\n'),
]


def copy_with(root, tmp, name, text):
    """A copy of the tree's src/ in tmp, with text added to one file."""
    shutil.copytree(os.path.join(root, 'src'), os.path.join(tmp, 'src'))
    path = os.path.join(tmp, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'a', encoding='utf-8') as f:
        f.write(text)


def new_reports(root, rule, name, text):
    """What the rule reports about the copy that it does not report about the tree itself."""
    with tempfile.TemporaryDirectory() as tmp:
        copy_with(root, tmp, name, text)
        known = set(RULES[rule](root))
        return [line for line in RULES[rule](tmp) if line not in known]


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
    print(f'1..{len(RULES) + len(BREAKS) + len(PASSES)}')
    n = bad = 0

    def result(name, problems):
        nonlocal n, bad
        n += 1
        bad += bool(problems)
        print(f'{"not " if problems else ""}ok {n} - {name}')
        for line in problems:
            print('# ' + line)

    for rule, check in RULES.items():
        result(f'the tree keeps rule {rule}', list(check(root)))
    for rule, name, text, want in BREAKS:
        got = new_reports(root, rule, name, text)
        result(f'rule {rule} catches a broken {name}: {want}',
               [] if any(want in line for line in got) else [f'not caught; reported: {got}'])
    for rule, name, text in PASSES:
        result(f'rule {rule} allows what it should in {name}', new_reports(root, rule, name, text))
    return min(bad, 1)


if __name__ == '__main__':
    sys.exit(main())
