#!/usr/bin/env bash
# Installs what building and running Mayfly needs beside rustup, pip and a C compiler, and builds the built-in handlers:
#   - the rust target wasm32-wasip2
#   - ONNX Runtime's shared library, out of its PyPI wheel, checksum verified, in the folder where the binary looks
#     (skipped if MAYFLY_ORT_DYLIB names one)
#   - handlers/, which the binary embeds
# Safe to run twice; fast the second time.
set -euo pipefail

ORT_VERSION=1.31.1
declare -A ORT_WHEEL_SHA256=(
    [x86_64]=5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f
    [aarch64]=da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3
)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { echo "[set-up] $*" >&2; }
fail() { say "$*"; exit 1; }

command -v cargo >/dev/null || fail "cargo is not on the PATH: install rustup first"
command -v cc >/dev/null || fail "no C compiler (cc) is on the PATH: install gcc or clang first"

target_libs=$(rustc --print target-libdir --target wasm32-wasip2 2>/dev/null || true)
if [ -z "$target_libs" ] || [ ! -d "$target_libs" ]; then
    command -v rustup >/dev/null || fail "rustup is not on the PATH and the target wasm32-wasip2 is not installed"
    say "adding the rust target wasm32-wasip2"
    (cd "$root" && rustup target add wasm32-wasip2)
fi

install_onnxruntime() {
    local machine library_folder library work wheel sum
    machine=$(uname -m)
    library_folder="${MAYFLY_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/mayfly}/ort/$ORT_VERSION"
    library="$library_folder/libonnxruntime.so.$ORT_VERSION"
    [ -f "$library" ] && return
    [ -n "${ORT_WHEEL_SHA256[$machine]:-}" ] || fail "there is no ONNX Runtime wheel for $machine: set MAYFLY_ORT_DYLIB to a library you have"
    command -v python3 >/dev/null || fail "python3 with pip is needed to fetch ONNX Runtime (or set MAYFLY_ORT_DYLIB)"
    say "fetching ONNX Runtime $ORT_VERSION (24 MB)"
    mkdir -p "$library_folder"
    work=$(mktemp -d "$library_folder/.fetch.XXXXXX")
    # The wheel's Python tag does not matter: only the library inside is used.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
        --implementation cp --platform "manylinux_2_28_$machine" --dest "$work" "onnxruntime==$ORT_VERSION"
    wheel=$(echo "$work"/*.whl)
    sum=$(sha256sum "$wheel" | cut -d' ' -f1)
    [ "$sum" = "${ORT_WHEEL_SHA256[$machine]}" ] || { rm -rf "$work"; fail "the wheel's checksum is $sum, expected ${ORT_WHEEL_SHA256[$machine]}: not installed"; }
    python3 - "$wheel" "$work/library" "onnxruntime/capi/libonnxruntime.so.$ORT_VERSION" <<'PY'
import shutil, sys, zipfile
wheel, out, member = sys.argv[1:]
with zipfile.ZipFile(wheel) as z, z.open(member) as source, open(out, "wb") as target:
    shutil.copyfileobj(source, target)
PY
    chmod 755 "$work/library"
    mv "$work/library" "$library"
    rm -rf "$work"
    say "installed $library"
}
[ -n "${MAYFLY_ORT_DYLIB:-}" ] || install_onnxruntime

say "building the built-in handlers"
(cd "$root/handlers" && cargo build --release --locked --quiet --target wasm32-wasip2 --target-dir target)
