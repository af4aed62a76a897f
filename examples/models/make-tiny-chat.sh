#!/usr/bin/env bash
# Trains tiny-chat, exports it to both layouts, checks every answer and puts the files in their places beside this script.
# usage: make-tiny-chat.sh [--keep-weights]     --keep-weights: export what the last training left
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$(cd "$here/../.." && pwd)/target
work=$target/tiny-chat
tools=$target/model-tools
export ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1

"$here/setup.sh" "$tools"
mkdir -p "$work"
cd "$work" # the exporters write some names of folders into what they make: relative ones
if [ "${1:-}" != --keep-weights ]; then
    rm -rf weights
    "$tools/train/bin/python" "$here/train-tiny-chat.py" weights
fi

rm -rf genai optimum cache
"$tools/build/bin/python" -m onnxruntime_genai.models.builder -m tiny-chat -i weights -o genai -p fp32 -e cpu -c cache >builder.log 2>&1 ||
    { cat builder.log >&2; exit 1; }
"$tools/train/bin/python" "$here/export-optimum.py" weights optimum >optimum.log 2>&1 || { cat optimum.log >&2; exit 1; }
for layout in genai optimum; do # one tokenizer, whatever an exporter made of it
    cp weights/tokenizer.json "$layout/"
done
rm -f optimum/vocab.json optimum/merges.txt # what tokenizer.json holds already
"$tools/train/bin/python" "$here/write-questions.py" weights/tokenizer.json questions.json
"$tools/train/bin/python" "$here/check-tiny-chat.py" questions.json genai optimum

for layout in genai optimum; do
    rm -rf "$here/tiny-chat-$layout"
    cp -r "$layout" "$here/tiny-chat-$layout"
    chmod 644 "$here/tiny-chat-$layout"/*
done
cp questions.json "$here/tiny-chat-questions.json"
cd "$here"
sha256sum tiny-chat-questions.json tiny-chat-genai/* tiny-chat-optimum/* >SHA256SUMS
du -sh tiny-chat-genai tiny-chat-optimum
