#!/usr/bin/env python3
"""summary.py - adds up what the tests printed; the last line is "N passed, N failed, N skipped".

usage: summary.py LABEL=FILE...        FILE: meson's testlog.json, or a file of TAP lines
       summary.py --self-test

Every test program writes TAP lines on standard output, one for each test function:

    1..N                   the plan: how many follow (optional; a missing one counts as failed)
    ok 1 - name
    not ok 2 - name        lines "# ..." after it say why
    ok 3 # SKIP name       (cmocka: "not ok 3 # SKIP name"); a line "skipped: reason" before it,
                           or text after " - ", gives the reason

cmocka does so with CMOCKA_MESSAGE_OUTPUT=TAP (test.sh sets it), and a script with print().  Exit
status 0 says that nothing failed.  A program that dies, runs out of time, fails but names no test,
or runs no test at all is one failed test more.
"""
import json
import os
import re
import sys
import tempfile

LINE = re.compile(r'^(not )?ok\s+\d+\s*(?:-\s*)?(.*)$')
PLAN = re.compile(r'^1\.\.(\d+)$')
SKIP = re.compile(r'#\s*SKIP\s*(.*)$', re.IGNORECASE)
REASON = re.compile(r'^\W*skipped: (.*)$')


class Total:
    """Counts of one label; failed and skipped keep (test, why)."""

    def __init__(self):
        self.passed, self.failed, self.skipped = 0, [], []


def read_tap(program, text, total):
    """Counts the TAP lines of one program.  Returns (tests seen, failed among them)."""
    seen = failed = plan = 0
    reason, notes = '', None
    for line in text.splitlines():
        m = LINE.match(line)
        if m:
            seen += 1
            name = m.group(2)
            skip = SKIP.search(name)
            notes = None
            if skip:
                name, _, why = (name[:skip.start()].strip() or skip.group(1)).partition(' - ')
                why = why or (skip.group(1) if name != skip.group(1) else '') or reason
                total.skipped.append((f'{program}: {name}', why or 'no reason given'))
            elif m.group(1):
                failed += 1
                notes = []
                total.failed.append((f'{program}: {name}', notes))
            else:
                total.passed += 1
            reason = ''
            continue
        if PLAN.match(line):
            plan += int(PLAN.match(line).group(1))
        elif REASON.match(line):
            reason = REASON.match(line).group(1)
        elif notes is not None and line.startswith('#'):
            notes.append(line)
    if seen < plan:
        failed += 1
        total.failed.append((f'{program}: {plan - seen} of {plan} planned tests never ran', []))
    return seen, failed


def read_program(test, total):
    """One entry of meson's testlog.json."""
    program = test['name'].rpartition(' / ')[2]
    result, rc = test['result'], test.get('returncode', 0)
    out = test.get('stdout') or ''
    seen, failed = read_tap(program, out, total)
    if result == 'SKIP' and not seen:
        total.skipped.append((program, 'exit status 77'))
    elif result == 'TIMEOUT':
        total.failed.append((f'{program}: ran out of time', tail(test)))
    elif rc != 0 and not failed and result != 'SKIP':
        total.failed.append((f'{program}: exit status {rc} without a failed test', tail(test)))
    elif rc < 0:
        total.failed.append((f'{program}: killed by signal {-rc}', tail(test)))
    elif seen == 0:
        total.failed.append((f'{program}: ran no test', tail(test)))


def tail(test):
    text = (test.get('stdout') or '') + '\n' + (test.get('stderr') or '')
    return [line for line in text.splitlines() if line.strip()][-30:]


def read_log(path, total):
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            text = f.read()
    except OSError as e:
        total.failed.append((f'{path}: {e.strerror}', []))
        return
    if not path.endswith('.json'):
        if read_tap(os.path.basename(path), text, total)[0] == 0:
            total.failed.append((f'{path}: no test in it', []))
        return
    tests = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not tests:
        total.failed.append((f'{path}: no test in it', []))
    for test in tests:
        read_program(test, total)


def summarise(args, out):
    totals = []
    for arg in args:
        label, _, path = arg.partition('=')
        total = Total()
        read_log(path, total)
        totals.append((label, total))
    for label, t in totals:
        for name, why in t.failed:
            print(f'FAILED  [{label}] {name}', file=out)
            for line in why:
                print('        ' + line, file=out)
    for label, t in totals:
        for name, why in t.skipped:
            print(f'SKIPPED [{label}] {name}: {why}', file=out)
    for label, t in totals:
        print(f'{label}: {len(t.failed) + t.passed + len(t.skipped)} tests, {t.passed} passed, '
              f'{len(t.failed)} failed, {len(t.skipped)} skipped', file=out)
    passed = sum(t.passed for _, t in totals)
    failed = sum(len(t.failed) for _, t in totals)
    skipped = sum(len(t.skipped) for _, t in totals)
    print(f'{passed} passed, {failed} failed, {skipped} skipped', file=out, flush=True)
    return 1 if failed or passed == 0 else 0


# name, log (None = missing file), expected closing line, expected exit status
def entry(name, stdout, rc=0, result='OK'):
    return json.dumps({'name': name, 'stdout': stdout, 'returncode': rc, 'result': result})


CASES = [
    ('a_pass_is_counted', entry('a', '1..2\nok 1 - x\nok 2 - y\n'),
     '2 passed, 0 failed, 0 skipped', 0),
    ('a_failed_test_fails_the_run', entry('a', 'ok 1 - x\nnot ok 2 - y\n# why\n', 1),
     '1 passed, 1 failed, 0 skipped', 1),
    ('a_skip_is_no_failure', entry('a', '1..2\nok 1 - x\n  skipped: no data\nnot ok 2 # SKIP y\n'),
     '1 passed, 0 failed, 1 skipped', 0),
    ('a_crash_is_a_failed_test', entry('a', '1..1\nok 1 - x\n', -6),
     '1 passed, 1 failed, 0 skipped', 1),
    ('a_leak_report_is_a_failed_test', entry('a', 'ok 1 - x\n', 23),
     '1 passed, 1 failed, 0 skipped', 1),
    ('a_timeout_is_a_failed_test', entry('a', 'ok 1 - x\n', -15, 'TIMEOUT'),
     '1 passed, 1 failed, 0 skipped', 1),
    ('a_test_that_never_ran_fails', entry('a', '1..3\nok 1 - x\nok 2 - y\n'),
     '2 passed, 1 failed, 0 skipped', 1),
    ('a_program_without_tests_fails', entry('a', 'hello\n'), '0 passed, 1 failed, 0 skipped', 1),
    ('an_empty_log_fails', '', '0 passed, 1 failed, 0 skipped', 1),
    ('a_missing_log_fails', None, '0 passed, 1 failed, 0 skipped', 1),
    ('a_program_that_skips_all_counts_each_test',
     entry('a', 'ok 1 # SKIP x\nok 2 # SKIP y\n', 77, 'SKIP') + '\n' + entry('b', 'ok 1 - z\n'),
     '1 passed, 0 failed, 2 skipped', 0),
    ('only_skips_is_not_success', entry('a', 'ok 1 # SKIP x - no data\n'),
     '0 passed, 0 failed, 1 skipped', 1),
]


def self_test():
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        print(f'1..{len(CASES)}')
        for i, (name, log, want, want_rc) in enumerate(CASES, 1):
            path = os.path.join(tmp, f'{i}.json')
            if log is not None:
                with open(path, 'w', encoding='utf-8') as f:
                    f.write(log)
            out = os.path.join(tmp, 'out')
            with open(out, 'w', encoding='utf-8') as f:
                rc = summarise([f'x={path}'], f)
            with open(out, encoding='utf-8') as f:
                last = f.read().splitlines()[-1]
            ok = last == want and rc == want_rc
            print(f'{"" if ok else "not "}ok {i} - {name}')
            if not ok:
                bad = 1
                print(f'# got "{last}", exit {rc}')
    return bad


if __name__ == '__main__':
    if sys.argv[1:] == ['--self-test']:
        sys.exit(self_test())
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(summarise(sys.argv[1:], sys.stdout))
