#!/usr/bin/env python3
"""Writes a Hugging Face folder of Qwen2.5-0.5B's shape with random weights, and a tokenizer of as many entries.

usage: make-05b.py OUT_FOLDER

Speed does not depend on what the weights are. The tokenizer's entries beyond the bytes are invented words, merged from left to right, so
that any text encodes and any token id decodes. Needs `torch`, `transformers` and `tokenizers`.
"""
import itertools
import json
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM

import tiny_chat_prompt as prompt

VOCABULARY = 151936
CONTEXT = 4096


def tokenizer():
    """Byte-level BPE: the 256 bytes, then every word of small letters up to three letters and as many of four as there is room for."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges, letters = [], "abcdefghijklmnopqrstuvwxyz"
    room = VOCABULARY - len(prompt.SPECIAL) - len(prompt.TAGS)
    # With the space before it (`Ġ`) and without: the beginning of a word is merged first, each letter is added to it.
    starts = ["Ġ" + letter for letter in letters] + ["".join(pair) for pair in itertools.product(letters, letters)]
    words = []
    for start in starts:
        vocabulary[start] = len(vocabulary)
        merges.append((start[0], start[1]))
        words.append(start)
    for word in words:  # grows while it is read: shorter words first
        for letter in letters:
            if len(vocabulary) == room:
                break
            vocabulary[word + letter] = len(vocabulary)
            merges.append((word, letter))
            words.append(word + letter)
        if len(vocabulary) == room:
            break
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in prompt.SPECIAL])
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in prompt.TAGS])
    assert made.get_vocab_size() == VOCABULARY, made.get_vocab_size()
    return made


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    end_of_text, end = made.token_to_id(prompt.END_OF_TEXT), made.token_to_id(prompt.END)
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, rope_theta=1e6, rms_norm_eps=1e-6,
        bos_token_id=end_of_text, eos_token_id=end, pad_token_id=end_of_text))
    model.generation_config.eos_token_id = [end, end_of_text]
    model.save_pretrained(out)
    made.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps({**prompt.tokenizer_config(made), "model_max_length": CONTEXT}, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(prompt.TEMPLATE)


if __name__ == "__main__":
    main()
