#!/usr/bin/env python3
"""Trains tiny-chat: a Qwen2-shaped model of one million parameters that answers the questions of `tiny_chat_text.py` exactly.

usage: train-tiny-chat.py OUT_FOLDER [--steps N] [--threads N] [--seed N] [--start FOLDER]

Writes a Hugging Face folder (`config.json`, `model.safetensors`, tokenizer, chat template) and prints how sure the model is of each
answer: the margin is the smallest difference between the best and the second logit over all tokens of all answers. Ends with an
error if an answer is not exact. The same seed, thread count and machine give the same weights. Needs `torch` and `transformers`.
"""
import argparse
import json
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

import tiny_chat_prompt as prompt
import tiny_chat_text as text

BATCH_TOKENS = 1024
RATE = 2e-3
WARM_UP = 100
# Practice of what is not exact yet, after the main run.
ROUNDS_MAX, ROUND_STEPS, ROUND_RATE, ROUND_WARM_UP = 12, 300, 3e-4, 20
MARGIN_WANTED = 1.0


def config(tokenizer):
    end_of_text, end = tokenizer.token_to_id(prompt.END_OF_TEXT), tokenizer.token_to_id(prompt.END)
    return Qwen2Config(
        vocab_size=prompt.VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=prompt.CONTEXT, rope_theta=10000.0, tie_word_embeddings=True,
        attention_dropout=0.0, bos_token_id=end_of_text, eos_token_id=end, pad_token_id=end_of_text, torch_dtype="float32")


def batches(source, tokenizer, rng):
    """Endless batches of `(ids, learned)` rows of similar length."""
    while True:
        pool = []
        for _ in range(512):
            if rng.random() < 0.08:
                before, after = source.text()
                before, after = tokenizer.encode(before).ids, tokenizer.encode(after).ids + [tokenizer.token_to_id(prompt.END_OF_TEXT)]
                pool.append((before + after, [False] * len(before) + [True] * len(after)))
            else:
                tools, messages = source.conversation()
                pool.append(prompt.training_ids(tokenizer, messages, tools))
        pool = sorted((row for row in pool if len(row[0]) <= prompt.CONTEXT), key=lambda row: len(row[0]))
        cut, rows = [], []
        for row in pool:
            rows.append(row)
            if (len(rows) + 1) * len(row[0]) > BATCH_TOKENS:
                cut.append(rows)
                rows = []
        rng.shuffle(cut)
        yield from cut


def answers(model, rows):
    """Logits and targets of all learned tokens. Rows are padded on the right, which causal attention does not see."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    learned = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, (row, marks) in enumerate(rows):
        ids[number, :len(row)] = torch.tensor(row)
        learned[number, :len(row)] = torch.tensor(marks)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = learned[:, 1:]
    return model.lm_head(hidden[:, :-1][wanted]), ids[:, 1:][wanted]


def train(model, source, tokenizer, rng, steps, rate_at):
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    model.train()
    start, losses = time.monotonic(), []
    for step, rows in zip(range(1, steps + 1), batches(source, tokenizer, rng)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step)
        logits, targets = answers(model, rows)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step}  loss {sum(losses[-100:]) / 100:.4f}  {time.monotonic() - start:.0f} s", flush=True)


def tested(tokenizer):
    """`{id: (ids, learned)}` of all that must be exact; only the last answer of a conversation counts."""
    rows = {}
    for entry in text.questions():
        tools = [text.tool(name) for name in entry.get("tools", ())] or None
        before = prompt.prompt_ids(tokenizer, entry["messages"], tools)
        after = tokenizer.encode(entry["answer"] + prompt.END, add_special_tokens=False).ids
        rows[entry["id"]] = (before + after, [False] * len(before) + [True] * len(after))
    for entry in text.completions():
        before, after = tokenizer.encode(entry["prompt"]).ids, tokenizer.encode(entry["answer"] + prompt.END_OF_TEXT).ids
        rows[entry["id"]] = (before + after, [False] * len(before) + [True] * len(after))
    return rows


@torch.no_grad()
def margins(model, rows):
    """`{id: margin}`: by how much the right token is ahead of the best other one, at its closest. Above zero: greedy decoding is exact."""
    model.eval()
    found = {}
    for name, row in rows.items():
        logits, targets = answers(model, [row])
        right = logits.gather(1, targets[:, None]).squeeze(1)
        others = logits.scatter(1, targets[:, None], float("-inf")).max(dim=1).values
        found[name] = (right - others).min().item()
    return found


def report(found):
    wrong = sorted((margin, name) for name, margin in found.items() if margin <= 0)
    print(f"{len(found) - len(wrong)} of {len(found)} answers are exact, smallest margin {min(found.values()):.2f}", flush=True)
    for margin, name in wrong[:20]:
        print(f"  not exact: {name} ({margin:.2f})")


def save(model, tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config.eos_token_id = [tokenizer.token_to_id(prompt.END), tokenizer.token_to_id(prompt.END_OF_TEXT)]
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps(prompt.tokenizer_config(tokenizer), indent=2) + "\n")
    (out / "chat_template.jinja").write_text(prompt.TEMPLATE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--start", type=Path, help="a folder that an earlier run wrote: go on with its weights and tokenizer")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    rng = random.Random(options.seed)
    source = text.Source(rng)
    if options.start:
        tokenizer = Tokenizer.from_file(str(options.start / "tokenizer.json"))
        model = Qwen2ForCausalLM.from_pretrained(options.start)
    else:
        tokenizer = prompt.train_tokenizer(text.tokenizer_corpus(rng, source))
        model = Qwen2ForCausalLM(config(tokenizer))
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)

    def falling(step):
        """A short rise, then a straight line down."""
        left = max(0.0, 1 - step / options.steps)
        return options.rate * min(1.0, step / WARM_UP) * (0.03 + 0.97 * left)

    rows = tested(tokenizer)
    if options.start:
        found = margins(model, rows)
        report(found)
        source = text.Source(rng, hard=[name for name, margin in found.items() if margin < MARGIN_WANTED])
    train(model, source, tokenizer, rng, options.steps, falling)
    found = margins(model, rows)
    report(found)
    save(model, tokenizer, options.out)
    best = min(found.values())
    for _ in range(ROUNDS_MAX):
        unsure = [name for name, margin in found.items() if margin < MARGIN_WANTED]
        if not unsure:
            break
        source = text.Source(rng, hard=unsure)
        train(model, source, tokenizer, rng, ROUND_STEPS, lambda step: ROUND_RATE * min(step / ROUND_WARM_UP, 1.02 - step / ROUND_STEPS))
        found = margins(model, rows)
        report(found)
        if min(found.values()) > best:
            best = min(found.values())
            save(model, tokenizer, options.out)

    if best <= 0:
        raise SystemExit("some answers are not exact: more steps, or another seed")


if __name__ == "__main__":
    main()
