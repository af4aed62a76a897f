#!/usr/bin/env python3
"""Asks exported models every question, greedily, and compares each answer with the expected text.

usage: check-tiny-chat.py QUESTIONS_JSON MODEL_FOLDER...

Works on both layouts: with the cache fed back as it came out, they differ only in the input `position_ids`. Everything is read from the
folder: graph, tokenizer, template, ending tokens. Ends with an error if one answer differs. Needs `onnxruntime`, `tokenizers`, `jinja2`.
"""
import json
import sys
from pathlib import Path

import jinja2
import numpy as np
import onnxruntime
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer


class Model:
    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.inputs = {entry.name: entry for entry in self.session.get_inputs()}
        self.outputs = [entry.name for entry in self.session.get_outputs()]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self.template = environment.from_string((folder / "chat_template.jinja").read_text())
        if (folder / "genai_config.json").exists():
            model = json.loads((folder / "genai_config.json").read_text())["model"]
            self.ends, decoder = set(model["eos_token_id"]), model["decoder"]
            self.kv_heads, self.head_size = decoder["num_key_value_heads"], decoder["head_size"]
        else:
            self.ends = set(json.loads((folder / "generation_config.json").read_text())["eos_token_id"])
            config = json.loads((folder / "config.json").read_text())
            self.kv_heads, self.head_size = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]

    def greedy(self, ids, tokens_max):
        """`(ids, margin, ended)`: the most likely token each time, and the smallest lead it had over the second."""
        empty = np.zeros((1, self.kv_heads, 0, self.head_size), np.float32)
        past = {name: empty for name in self.inputs if name.startswith("past_key_values.")}
        given, margin, length, step = [], float("inf"), 0, ids
        while len(given) < tokens_max:
            length += len(step)
            feed = {"input_ids": np.array([step]), "attention_mask": np.ones((1, length), np.int64), **past}
            if "position_ids" in self.inputs:
                feed["position_ids"] = np.arange(length - len(step), length)[None]
            found = dict(zip(self.outputs, self.session.run(None, feed)))
            logits = found["logits"][0, -1]
            second, best = np.argsort(logits)[-2:]
            margin = min(margin, float(logits[best] - logits[second]))
            given.append(int(best))
            if best in self.ends:
                return given, margin, True
            past = {name: found[name.replace("past_key_values.", "present.")] for name in past}
            step = [int(best)]
        return given, margin, False


def check(folder, asked):
    model, wrong, margins = Model(folder), [], []
    entries = [(entry, model.tokenizer.encode(model.template.render(
        messages=entry["messages"], tools=[asked["tools"][name] for name in entry.get("tools", ())] or None, add_generation_prompt=True,
    ), add_special_tokens=False).ids) for entry in asked["questions"]]
    entries += [(entry, model.tokenizer.encode(entry["prompt"]).ids) for entry in asked["completions"]]
    for entry, ids in entries:
        given, margin, ended = model.greedy(ids, entry["answer_tokens"] + 8)
        answer = model.tokenizer.decode(given)
        right = ended and (answer, len(ids), len(given)) == (entry["answer"], entry["prompt_tokens"], entry["answer_tokens"])
        margins.append((margin, entry["id"]))
        if not right:
            wrong.append(f"  {entry['id']}: {answer!r}, expected {entry['answer']!r}")
    print(f"{folder.name}: {len(entries) - len(wrong)} of {len(entries)} answers exact, smallest margin %.2f (%s)" % min(margins))
    print(*wrong[:20], sep="\n", end="\n" if wrong else "")
    return not wrong


def main():
    asked = json.loads(Path(sys.argv[1]).read_text())
    if not all([check(Path(folder), asked) for folder in sys.argv[2:]]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
