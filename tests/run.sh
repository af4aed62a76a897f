#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Safe to run twice; fast the second time. Needs rustup, pip and a C
# compiler; everything else it brings itself.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET # the binaries are looked for in target/

./runtime/setup.sh
echo "[tests] building the guests that the tests upload" >&2
(cd tests/fixtures/guests && cargo build --release --locked --quiet --target wasm32-wasip2 --target-dir target)
(cd examples/own-loop && cargo build --release --locked --quiet --target wasm32-wasip2 --target-dir target)
export MAYFLY_TEST_MODELS="$root/target/test-models"
./examples/quickstart/models.sh "$MAYFLY_TEST_MODELS"

echo "[tests] the stock OpenAI clients" >&2
clients="$root/target/clients"
if ! cmp -s tests/e2e/clients/requirements.txt "$clients/python/installed"; then
    python3 -m venv "$clients/python"
    "$clients/python/bin/pip" install --quiet --disable-pip-version-check -r tests/e2e/clients/requirements.txt
    cp tests/e2e/clients/requirements.txt "$clients/python/installed"
fi
if command -v npm >/dev/null; then
    mkdir -p "$clients/node"
    cp tests/e2e/clients/check.mjs "$clients/node/"
    if ! cmp -s tests/e2e/clients/package.json "$clients/node/installed"; then
        cp tests/e2e/clients/package.json "$clients/node/"
        npm install --prefix "$clients/node" --loglevel=error --no-audit --no-fund >&2
        cp tests/e2e/clients/package.json "$clients/node/installed"
    fi
else
    echo "[tests] npm is not installed: the Node client is not tested" >&2
    without_node=(--skip the_stock_node_client)
fi

echo "[tests] formatting and lints" >&2
if cargo fmt --version >/dev/null 2>&1; then cargo fmt --all --check; else echo "[tests] rustfmt is not installed: skipped" >&2; fi

if cargo clippy --version >/dev/null 2>&1; then
    cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
else
    echo "[tests] clippy is not installed: skipped" >&2
fi
if cargo deny --version >/dev/null 2>&1; then
    # `advisories` needs a database from the network: for whoever updates dependencies.
    cargo deny --locked --log-level error check licenses bans sources >&2
else
    echo "[tests] cargo-deny is not installed: licences and sources of dependencies are not checked" >&2
fi

echo "[tests] the crates" >&2
cargo test --workspace --locked --quiet "$@" ${without_node:+-- "${without_node[@]}"}

echo "[tests] the SDK" >&2
(cd sdk/mayfly-sdk && cargo test --locked --quiet --target-dir "$root/target/sdk")

echo "[tests] the built-in handlers" >&2
(cd handlers && cargo test --locked --quiet --target "$(rustc -vV | sed -n 's/^host: //p')" --target-dir target)

echo "[tests] killing a server" >&2
./tests/crash/run.sh --kills 12 --seed 7

echo "[tests] a short time of fuzzing" >&2
./tests/fuzz/run.sh --seconds 20 --seed 7
