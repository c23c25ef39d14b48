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
# build_and_test LABEL DIR "meson setup options" [meson test options] - a build that fails counts as
# one failed test; summary.py counts the others.
build_and_test() {
    label=$1
    dir=$2
    setup=$3
    shift 3
    if build "$dir" $setup; then
        say "testing $dir"
        rm -f "$dir/meson-logs/testlog.json"
        CMOCKA_MESSAGE_OUTPUT=TAP meson test -C "$dir" --no-rebuild --quiet "$@" </dev/null || true
        logs="$logs $label=$dir/meson-logs/testlog.json"
    else
        echo "not ok 1 - $dir builds" >"$dir/build.tap"
        logs="$logs $label=$dir/build.tap"
    fi
}

install $build_packages $test_packages
if [ $quick = yes ]; then
    build_and_test release build "" --suite unit
else
    build_and_test release build ""
    export CC=clang
    clang="-Db_lundef=false -Dbuildtype=debugoptimized"
    build_and_test asan build-asan "$clang -Db_sanitize=address,undefined -Dfuzz=true" \
        --no-suite source
    build_and_test tsan build-tsan "$clang -Db_sanitize=thread" --suite threads
    say "fuzzing"
    test/fuzz/run.sh $fuzz_runs build-asan >build-asan/fuzz.tap || true
    logs="$logs fuzz=build-asan/fuzz.tap"
fi
exec python3 test/summary.py $logs
