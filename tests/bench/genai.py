"""onnxruntime-genai as a peer: reads commands from standard input, a line of JSON each, and answers each with a line.

usage: genai.py MODEL_FOLDER THREADS
    {"prompts": [[1, 2], [3, 4]], "new": 64}    as many token ids in each prompt; greedy, one static batch
    -> {"seconds": .., "decode_seconds": .., "tokens": ..}    from the prompts to the last token; from the first token to the last;
                                                              new tokens of each row
"""
import json
import sys
import time

import numpy as np
import onnxruntime_genai as og


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    config = og.Config(folder)
    options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = og.Model(config)
    print(json.dumps({"version": og.__version__}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        prompts = np.array(command["prompts"], dtype=np.int32)
        rows, length = prompts.shape
        params = og.GeneratorParams(model)
        params.set_search_options(batch_size=rows, max_length=length + command["new"], do_sample=False)
        generator = og.Generator(model, params)
        begun = time.perf_counter()
        generator.append_tokens(prompts if rows > 1 else prompts[0])
        generator.generate_next_token()
        first = time.perf_counter()
        while not generator.is_done():
            generator.generate_next_token()
        ended = time.perf_counter()
        tokens = len(generator.get_sequence(0)) - length
        print(json.dumps({"seconds": ended - begun, "decode_seconds": ended - first, "tokens": tokens}), flush=True)


main()
