#!/usr/bin/env bash
# Ours and the peer, in one run, release build.
# usage: tests/bench/run.sh [--no-language-models] [--quick] [--only NAME] [--json FILE]
#        --no-language-models: without the large model and its peer, which take 6 GB; their rows say so and do not pass
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET # the binaries are looked for in target/

language_models() {
    local peer=target/bench-peers/genai wanted=onnxruntime-genai==0.18.0
    ./examples/models/make-05b.sh
    [ "$(cat "$peer/installed" 2>/dev/null)" = "$wanted" ] && return
    python3 -m venv "$peer"
    "$peer/bin/pip" install --quiet --disable-pip-version-check "$wanted"
    printf '%s' "$wanted" >"$peer/installed"
}

./runtime/setup.sh
(cd tests/fixtures/guests && cargo build --release --locked --quiet --target wasm32-wasip2 --target-dir target)
./examples/quickstart/models.sh target/test-models
if [ "${1:-}" = --no-language-models ]; then shift; else language_models; fi
cargo build --release --locked --quiet --workspace
export ORT_DISABLE_TELEMETRY=1 # read by the bare peers' library when it starts
exec target/release/mayfly-bench --root "$root" "$@"
