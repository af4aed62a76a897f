"""LitServe as a peer: `/v1/embeddings` of a sentence model, batching on, until standard input ends.

usage: litserve.py MODEL_FOLDER PORT THREADS
"""
import os
import signal
import sys
import threading
from pathlib import Path

# This file has the package's name.
sys.path.pop(0)

import litserve as ls
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer


class Embeddings(ls.LitAPI):
    def __init__(self, folder, threads):
        super().__init__(max_batch_size=32, batch_timeout=0.005, api_path="/v1/embeddings")
        self.folder, self.threads = folder, threads

    def setup(self, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(self.folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.tokenizer.enable_padding()
        self.tokenizer.no_truncation()

    def decode_request(self, request):
        return request["input"]

    def batch(self, inputs):
        return inputs

    def predict(self, texts):
        encoded = self.tokenizer.encode_batch(texts)
        ids = np.array([row.ids for row in encoded], np.int64)
        mask = np.array([row.attention_mask for row in encoded], np.int64)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self.session.run(["last_hidden_state"], feed)
        vectors = (hidden * mask[:, :, None]).sum(1)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, vector):
        return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": vector.tolist()}]}


def end_with_input():
    # Not `sys.stdin`: a fork would copy its lock as this thread holds it.
    while os.read(0, 1024):
        pass
    # Its workers are in the same group: see below.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    os.setpgid(0, 0)
    folder, port, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=end_with_input, daemon=True).start()
    server = ls.LitServer(Embeddings(folder, threads), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", generate_client_file=False)
