#!/bin/sh
# run.sh - installs what is missing, builds, and starts a chat.
#
#   ./run.sh                        chat with the small model that comes with pumice
#   ./run.sh MODEL [chat options]   chat with MODEL (a Hugging Face folder or a .gguf file)
set -eu
cd "$(dirname "$0")"
. scripts/deps.sh

install $build_packages
build build

if [ $# -eq 0 ]; then
    set -- models/default
fi
exec build/pumice chat "$@"
