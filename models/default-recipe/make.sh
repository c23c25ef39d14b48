#!/bin/sh
# make.sh - makes the default model again: data, vocabulary, training, folder.
#
#   PUMICE_DATA=DIR models/default-recipe/make.sh OUT
#
# DIR holds corpora/ as README.md lists it. Everything is written below OUT, the model at last to
# OUT/default; models/default itself is not touched. Interrupted, the same command goes on.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
pumice=$here/../../build/pumice
out=${1:?usage: PUMICE_DATA=DIR make.sh OUT}

if [ ! -x "$pumice" ]; then
    (cd "$here/../.." && . scripts/deps.sh && install $build_packages && build build)
fi
if [ ! -e "$out/tok/tokenizer.json" ]; then
    python3 "$here/build_data.py" "$out"
    "$pumice" vocab train --size 4096 --chatml --out "$out/tok" "$out/stories.txt" "$out/chats.txt"
fi
cp "$here/run.json" "$here/polish.json" "$out/"
"$pumice" train "$out/run.json" --resume
"$pumice" train "$out/polish.json" --resume

mkdir -p "$out/default"
for f in config.json tokenizer.json tokenizer_config.json; do
    cp "$out/run/best/$f" "$out/default/$f"
done
python3 "$here/mix.py" "$out/run/best/model.safetensors" "$out/polish/latest/model.safetensors" 0.5 \
    "$out/default/model.safetensors"
cp "$here/generation_config.json" "$out/default/"
python3 "$here/ask.py" "$pumice" "$out/default" "$out" >"$out/transcript.txt"
tail -n 20 "$out/transcript.txt"
