#!/usr/bin/env bash
# Makes the model of the benchmarks: Qwen2.5-0.5B's shape, int4, random weights; ORT-GenAI layout. About 350 MB, not committed.
# usage: make-05b.sh [--last-position]   ->   target/bench-models/qwen05b-int4
#        --last-position: a graph whose prefill gives the logits of the last position only (target/bench-models/qwen05b-int4-last)
# target/model-tools/build has onnxruntime-genai, the peer of the benchmarks.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$(cd "$here/../.." && pwd)/target
tools=$target/model-tools
name=qwen05b-int4
options=()
if [ "${1:-}" = --last-position ]; then
    name=qwen05b-int4-last
    options=(--extra_options prune_lm_head=true)
fi
out=$target/bench-models
[ -f "$out/$name/.done" ] && exit 0
export ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1

"$here/setup.sh" "$tools"
mkdir -p "$out"
cd "$out"
trap 'rm -rf "$out/.weights" "$out/.cache"' EXIT
rm -rf "$name" .weights
"$tools/build/bin/python" "$here/make-05b.py" .weights
"$tools/build/bin/python" -m onnxruntime_genai.models.builder -m qwen05b -i .weights -o "$name" -p int4 -e cpu -c .cache \
    "${options[@]}" >"$name.log" 2>&1 || { cat "$name.log" >&2; exit 1; }
cp .weights/tokenizer.json "$name/"
touch "$name/.done"
