#!/usr/bin/env bash
# Kills a real server at random moments and compares what clients counted with what was billed.
#   tests/crash/run.sh [--kills N] [--seed S] [--release]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET # the binaries are looked for in target/

profile=debug
arguments=()
for argument in "$@"; do
    if [ "$argument" = --release ]; then profile=release; else arguments+=("$argument"); fi
done
flags=(--locked --quiet)
# The whole workspace: another selection of packages would mean other features, and compiling everything again. Released,
# linking is minutes for each program.
if [ "$profile" = release ]; then flags+=(--release --package mayfly --package mayfly-crash); else flags+=(--workspace); fi
./runtime/setup.sh
(cd tests/fixtures/guests && cargo build --release --locked --quiet --target wasm32-wasip2 --target-dir target)
cargo build "${flags[@]}"
exec "target/$profile/mayfly-crash" --root "$root" --binary "target/$profile/mayfly" "${arguments[@]}"
