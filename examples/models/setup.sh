#!/usr/bin/env bash
# Makes the two virtual environments of the model scripts. Each brings PyTorch: about 6 GB on disk together.
# usage: setup.sh FOLDER   ->   FOLDER/train (training, Optimum's exporter) and FOLDER/build (ONNX Runtime GenAI and its builder)
#
# Two, because Optimum's exporter wants transformers 4 and the builder wants transformers 5.
set -euo pipefail
out=${1:?usage: setup.sh FOLDER}

environment() { # NAME PACKAGE...
    local name=$1 wanted
    shift
    wanted="$*"
    [ "$(cat "$out/$name/.done" 2>/dev/null)" = "$wanted" ] && return
    echo "[models] virtual environment $out/$name" >&2
    mkdir -p "$out"
    [ -x "$out/$name/bin/python" ] || python3 -m venv "$out/$name"
    "$out/$name/bin/python" -m pip --disable-pip-version-check install --quiet "$@"
    printf '%s' "$wanted" >"$out/$name/.done"
}

environment train torch==2.15.0 transformers==4.57.6 optimum-onnx==0.1.0 onnx==1.23.2 onnxruntime==1.31.1
environment build torch==2.15.0 transformers==5.23.0 onnxruntime-genai==0.18.0 onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.31.1
