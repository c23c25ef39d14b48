#!/bin/sh
# run.sh - installs what is missing, builds, and starts pumice.
#
#   ./run.sh MODEL [chat options]   chat with MODEL (a Hugging Face folder or a .gguf file)
#   ./run.sh                        check this machine and measure it briefly
set -eu
cd "$(dirname "$0")"
. scripts/deps.sh

install $build_packages
build build

if [ $# -gt 0 ]; then
    model=$1
    shift
    exec build/pumice chat "$model" "$@"
fi
say "no model named; checking the machine (build/pumice doctor)"
build/pumice doctor
say "measuring random weights of a 168M-parameter model (build/pumice bench)"
build/pumice bench --shape 168m --dtype q8_0 --test pp128,tg32 -r 3
say "to chat: ./run.sh MODEL, where MODEL is a Hugging Face folder or a .gguf file"
