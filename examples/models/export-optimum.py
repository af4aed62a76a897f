#!/usr/bin/env python3
"""Exports a Hugging Face folder as Optimum does it: `past_key_values.N.*`, mask and position ids; fp32.

usage: export_optimum.py HUGGING_FACE_FOLDER OUT_FOLDER
"""
import sys

from optimum.exporters.onnx import main_export

main_export(model_name_or_path=sys.argv[1], output=sys.argv[2], task="text-generation-with-past", dtype="fp32", device="cpu",
            do_validation=False, local_files_only=True)
