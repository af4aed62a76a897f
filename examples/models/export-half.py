#!/usr/bin/env python3
"""tiny-chat in half precision: what a GPU's GroupQueryAttention takes. For the opt-in tests on a GPU; not committed.

    export-half.py OUT      writes OUT (2.4 MB) from `tiny-chat-genai` beside this file

Every weight, past, present and the logits become f16; nothing else changes. Runs in the environment `build` of setup.sh.
"""

import json
import shutil
import sys
from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

SOURCE = Path(__file__).parent / "tiny-chat-genai"


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    half = convert_float_to_float16(onnx.load(SOURCE / "model.onnx"), keep_io_types=False, disable_shape_infer=True, op_block_list=[])
    onnx.save(half, out / "model.onnx")
    for name in ("genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(SOURCE / name, out / name)
    (out / ".done").touch()
    print(json.dumps({"made": str(out), "bytes": (out / "model.onnx").stat().st_size}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
