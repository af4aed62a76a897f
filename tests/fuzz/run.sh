#!/usr/bin/env bash
# Fuzzes what takes bytes from outside, guided by coverage of our crates. All targets in turn, or one.
#   tests/fuzz/run.sh [--minutes N | --seconds N] [--target NAME] [--seed S] [--replay FILE..]
# Inputs found in earlier runs are kept in target/fuzz; what breaks a rule goes to target/fuzz/findings.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET # the binary is looked for in target/

targets=(manifest nn package component http worker)
seconds=60 seed=$RANDOM replay=()
while [ $# -gt 0 ]; do
    case "$1" in
    --minutes) seconds=$(($2 * 60)) && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    --target) targets=("$2") && shift 2 ;;
    --seed) seed=$2 && shift 2 ;;
    --replay) shift && replay=("$@") && break ;;
    *) echo "[fuzz] $1 is not known; see the first lines of tests/fuzz/run.sh" >&2 && exit 2 ;;
    esac
done

./runtime/setup.sh
(cd tests/fixtures/guests && cargo build --release --locked --quiet --target wasm32-wasip2 --target-dir target)
# The whole workspace's features, so that dependencies are the ones that are there already. Only our own crates are built
# again: with the wrapper they are other crates to cargo. Nobody edits between two of these builds: nothing is kept to start from.
CARGO_INCREMENTAL=0 RUSTC_WORKSPACE_WRAPPER="$root/tests/fuzz/instrument.sh" cargo build --locked --quiet --workspace --bin mayfly-fuzz
# The next ordinary build puts its own binary in that place.
mkdir -p target/fuzz/findings
cp -f target/debug/mayfly-fuzz target/fuzz/mayfly-fuzz

failed=0
for target in "${targets[@]}"; do
    command=(target/fuzz/mayfly-fuzz "$target" --root "$root" --findings target/fuzz/findings)
    if [ ${#replay[@]} -gt 0 ]; then
        command+=(--replay "${replay[@]}")
    else
        command+=(--seconds "$seconds" --seed "$seed" --corpus "target/fuzz/$target")
    fi
    if ! "${command[@]}"; then
        echo "[fuzz] $target failed (seed $seed); what broke a rule is in target/fuzz/findings, or, where the process died, in" \
            "target/fuzz/findings/$target.current" >&2
        failed=1
    fi
done
exit $failed
