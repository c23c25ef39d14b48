#!/bin/sh
# test.sh - installs what is missing, builds, and runs every test; the last line is
# "N passed, N failed, N skipped".
#
#   ./test.sh           release build with gcc; ASan+UBSan and TSan builds with clang; fuzzing
#   ./test.sh --quick   unit tests of the release build only
#
# A test counts once in each build that runs it.  Exit status 1 if one failed or none ran.
set -eu
cd "$(dirname "$0")"
. scripts/deps.sh

fuzz_runs=200000 # executions over all fuzz targets: some seconds each

quick=no
case "${1-}" in
'') ;;
--quick) quick=yes ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

logs=
# run_tests LABEL DIR [meson test options] - failures are counted by summary.py, not here.
run_tests() {
    label=$1
    dir=$2
    shift 2
    say "testing $dir"
    rm -f "$dir/meson-logs/testlog.json"
    CMOCKA_MESSAGE_OUTPUT=TAP meson test -C "$dir" --no-rebuild --quiet "$@" </dev/null || true
    logs="$logs $label=$dir/meson-logs/testlog.json"
}

install $build_packages $test_packages
build build
if [ $quick = yes ]; then
    run_tests release build --suite unit
else
    run_tests release build
    CC=clang build build-asan -Db_sanitize=address,undefined -Db_lundef=false \
        -Dbuildtype=debugoptimized -Dfuzz=true
    run_tests asan build-asan --no-suite source
    CC=clang build build-tsan -Db_sanitize=thread -Db_lundef=false -Dbuildtype=debugoptimized
    run_tests tsan build-tsan --suite threads
    say "fuzzing"
    test/fuzz/run.sh $fuzz_runs build-asan >build-asan/fuzz.tap && rc=0 || rc=$?
    logs="$logs fuzz=build-asan/fuzz.tap"
fi
exec python3 test/summary.py $logs
