#!/usr/bin/env bash
# Ours and the peer, in one run, release build.
# usage: tests/bench/run.sh [--no-language-models] [--quick] [--only NAME] [--soak MINUTES] [--json FILE]
#        --no-language-models: without the large model and its peer, which take 6 GB; their rows say so and do not pass
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET # the binaries are looked for in target/

peer() { # NAME PACKAGE..
    local folder=target/bench-peers/$1 wanted=${*:2}
    [ "$(cat "$folder/installed" 2>/dev/null)" = "$wanted" ] && return
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
    printf '%s' "$wanted" >"$folder/installed"
}

language_models() {
    ./examples/models/make-05b.sh
    peer genai onnxruntime-genai==0.18.0
}

./runtime/setup.sh
(cd tests/fixtures/guests && cargo build --release --locked --quiet --target wasm32-wasip2 --target-dir target)
./examples/quickstart/models.sh target/test-models
peer litserve litserve==0.2.19 onnxruntime==1.31.1 tokenizers==0.23.3
peer bentoml bentoml==1.4.40 onnxruntime==1.31.1 tokenizers==0.23.3
if [ "${1:-}" = --no-language-models ]; then shift; else language_models; fi
# Not the workspace's other programs: linking is minutes for each.
cargo build --release --locked --quiet --package mayfly --package mayfly-bench
export ORT_DISABLE_TELEMETRY=1 # read by the bare peers' library when it starts
exec target/release/mayfly-bench --root "$root" "$@"
