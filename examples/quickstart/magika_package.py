#!/usr/bin/env python3
"""Makes a Mayfly model package of the file-type model inside the PyPI package `magika`.

usage: magika_package.py MAGIKA DESTINATION

MAGIKA is the wheel (`pip download --no-deps magika`), or a folder inside it once installed or unpacked. DESTINATION
becomes a folder with model.onnx and model.toml; `mayfly models add magika DESTINATION` takes it from there. Needs
nothing but Python's standard library.
"""

import json
import sys
import zipfile
from pathlib import Path

MODEL = "magika/models/standard_v3_3"
KNOWLEDGE = "magika/config/content_types_kb.min.json"


def reader(source: Path):
    """A function from a path inside the package to its bytes."""
    if not source.is_dir():
        return zipfile.ZipFile(source).read
    source = source.resolve()
    for root in (source, *source.parents):
        if (root / MODEL).is_dir():
            return lambda name: (root / name).read_bytes()
    sys.exit(f"magika_package.py: {source} is no part of the package magika")


def toml(value) -> str:
    """`value` as TOML on one line. JSON's strings, numbers and lists are TOML as they are."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def properties(config: dict, knowledge: dict) -> dict:
    """What builtin:classify needs to know; handlers/classify/README.md explains each."""
    if config["mid_size"] != 0 or config["use_inputs_at_offsets"]:
        sys.exit("magika_package.py: this version of magika cuts files in a way that builtin:classify does not know")
    labels = config["target_labels_space"]
    outputs = {config["overwrite_map"].get(label, label) for label in labels}
    return {
        "task": "bytes-classification",
        "beg_size": config["beg_size"],
        "end_size": config["end_size"],
        "block_size": config["block_size"],
        "padding_token": config["padding_token"],
        "min_bytes": config["min_file_size_for_dl"],
        "threshold": config["medium_confidence_threshold"],
        "thresholds": config["thresholds"],
        "overwrite": config["overwrite_map"],
        "text_labels": sorted(label for label in outputs if knowledge[label]["is_text"]),
        "fallback_label": "unknown",
        "fallback_text_label": "txt",
        "empty_label": "empty",
    }


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    read = reader(Path(sys.argv[1]))
    destination = Path(sys.argv[2])
    config = json.loads(read(f"{MODEL}/config.min.json"))
    knowledge = json.loads(read(KNOWLEDGE))
    destination.mkdir(parents=True, exist_ok=True)
    (destination / "model.onnx").write_bytes(read(f"{MODEL}/model.onnx"))
    lines = ["# Written by magika_package.py from the configuration in the PyPI package magika."]
    lines += [f"labels = {toml(config['target_labels_space'])}", "", "[properties]"]
    lines += [f"{key} = {toml(value)}" for key, value in properties(config, knowledge).items()]
    (destination / "model.toml").write_text("\n".join(lines) + "\n", encoding="ascii")
    print(destination)


if __name__ == "__main__":
    main()
