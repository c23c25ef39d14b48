#!/bin/sh
# run.sh - fuzzes every target in turn: run.sh EXECUTIONS [BUILD].
# EXECUTIONS is the total, shared equally; BUILD was configured with -Dfuzz=true.  Prints TAP (see
# test/summary.py) and keeps the inputs of findings in BUILD/findings.  Exit status 1 on any finding.
set -u
cd "$(dirname "$0")/../.."
total=${1:?usage: test/fuzz/run.sh EXECUTIONS [BUILD]}
dir=${2:-build-asan}
findings=$dir/findings
mkdir -p "$findings"

targets=
n_target=0
for program in "$dir"/test/fuzz_*; do
    case $program in *.p | *'*') continue ;; esac
    targets="$targets ${program##*/fuzz_}"
    n_target=$((n_target + 1))
done
echo "1..$n_target"
[ $n_target -gt 0 ] || {
    echo "not ok 1 - no fuzz_* program in $dir/test (meson setup with -Dfuzz=true)"
    exit 1
}
runs=$((total / n_target))

# max_len: long enough for the largest seed of the format, short enough to stay fast
max_len() {
    case $1 in
    gguf | tokenizer) echo 8192 ;;
    *) echo 4096 ;;
    esac
}

n=0
bad=0
done_runs=0
for t in $targets; do
    n=$((n + 1))
    new=$(mktemp -d)
    dict=test/fuzz/$t.dict
    [ -f "$dict" ] && dict=-dict=$dict || dict=
    start=$(date +%s%3N)
    nice -n 19 "$dir/test/fuzz_$t" -runs="$runs" -max_len="$(max_len "$t")" -timeout=10 \
        -rss_limit_mb=1024 -malloc_limit_mb=256 -print_final_stats=1 -print_funcs=0 \
        -verbosity=0 $dict \
        -artifact_prefix="$findings/$t-" "$new" "test/fuzz/corpus/$t" \
        >"$findings/$t.log" 2>&1 </dev/null
    rc=$?
    ms=$(($(date +%s%3N) - start))
    rm -rf "$new"
    ran=$(sed -n 's/^stat::number_of_executed_units: *//p' "$findings/$t.log")
    ran=${ran:-0}
    done_runs=$((done_runs + ran))
    line="fuzz $t: $ran executions in $ms ms, $((ran * 1000 / (ms > 0 ? ms : 1))) a second"
    if [ $rc -eq 0 ] && [ "$ran" -ge "$runs" ]; then
        echo "ok $n - $line, no finding"
    else
        bad=1
        echo "not ok $n - $line, exit status $rc"
        grep -E 'ERROR|SUMMARY|runtime error|Test unit written' "$findings/$t.log" | sed 's/^/# /'
    fi
done
echo "# $done_runs executions in all"
exit $bad
