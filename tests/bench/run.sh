#!/usr/bin/env bash
# Ours and the peer, in one run, release build.
# usage: tests/bench/run.sh [--quick] [--only NAME] [--json FILE]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET # the binaries are looked for in target/
./runtime/setup.sh
(cd tests/fixtures/guests && cargo build --release --locked --quiet --target wasm32-wasip2 --target-dir target)
./examples/quickstart/models.sh target/test-models
cargo build --release --locked --quiet --workspace
exec target/release/mayfly-bench --root "$root" "$@"
