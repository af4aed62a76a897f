"""BentoML as a peer: embeddings of a sentence model, adaptive batching on, until standard input ends.

usage: bentoml_service.py MODEL_FOLDER PORT THREADS

A request is `{"input": ["a text"]}`, its answer `[[..]]`: the form that BentoML batches without a second service in front, which
would cost it another hop.
"""
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

if __name__ == "__main__":
    folder, port, threads = sys.argv[1:]
    os.setpgid(0, 0)
    here = Path(__file__).resolve()
    environment = dict(
        os.environ, PEER_FOLDER=folder, PEER_THREADS=threads, BENTOML_DO_NOT_TRACK="true",
        # Nothing of it goes to the user's home.
        BENTOML_HOME=str(Path(sys.prefix) / "home"))
    command = [sys.executable, "-m", "bentoml", "serve", f"{here.stem}:Embeddings", "--host", "127.0.0.1", "--port", port]
    subprocess.Popen(command, cwd=here.parent, env=environment, stdin=subprocess.DEVNULL)
    # Not `sys.stdin`: a fork would copy its lock.
    while os.read(0, 1024):
        pass
    # Its processes are in the same group.
    os.killpg(0, signal.SIGKILL)
else:
    import bentoml
    import numpy as np
    import onnxruntime as ort
    from tokenizers import Tokenizer

    # Requests that it expects to take longer than `max_latency_ms` are refused; none is to be.
    @bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 64})
    class Embeddings:
        def __init__(self):
            folder = Path(os.environ["PEER_FOLDER"])
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = int(os.environ["PEER_THREADS"]), 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self.session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.tokenizer.enable_padding()
            self.tokenizer.no_truncation()

        @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000, route="/v1/embeddings")
        def embed(self, input: list[str]) -> list[list[float]]:
            encoded = self.tokenizer.encode_batch(input)
            ids = np.array([row.ids for row in encoded], np.int64)
            mask = np.array([row.attention_mask for row in encoded], np.int64)
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            (hidden,) = self.session.run(["last_hidden_state"], feed)
            vectors = (hidden * mask[:, :, None]).sum(1)
            return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()
