#!/usr/bin/env bash
# Two tenants, a price change at noon, a cap reached, a disconnect, a kill: and every number checked.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET # the binary is looked for in target/

./runtime/setup.sh
if [ -n "${MAYFLY_BIN:-}" ]; then
    mayfly=$MAYFLY_BIN
else
    cargo build --release --locked --package mayfly
    mayfly=$root/target/release/mayfly
fi
models=${MAYFLY_TEST_MODELS:-$root/target/test-models}
./examples/quickstart/models.sh "$models"
(cd "$here/handler" && cargo build --release --locked --quiet --target wasm32-wasip2 --target-dir target)
exec python3 "$here/story.py" "$mayfly" "$models/minilm" "$here/handler/target/wasm32-wasip2/release/lines.wasm"
