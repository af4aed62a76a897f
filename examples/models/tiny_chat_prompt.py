"""tiny-chat's tokenizer and chat template: conversations to token ids, the way Hugging Face's libraries do it."""
import json
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END_OF_TEXT, START, END]
# As in Qwen: single tokens, yet part of the text that is shown.
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
VOCABULARY = 2048
CONTEXT = 1024
TEMPLATE = (Path(__file__).parent / "tiny-chat.jinja").read_text()
# How Qwen cuts text before byte pairs are merged: words with the space before them, single digits, signs, line ends.
PIECES = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def train_tokenizer(lines):
    """A byte-level BPE tokenizer of exactly `VOCABULARY` entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(SPECIAL) - len(TAGS), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in TAGS])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the text gives {tokenizer.get_vocab_size()} tokens, wanted are {VOCABULARY}")
    return tokenizer


def tokenizer_config(tokenizer):
    """Hugging Face's `tokenizer_config.json`, without the template."""
    added = {str(tokenizer.token_to_id(text)): {
        "content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": text in SPECIAL,
    } for text in SPECIAL + TAGS}
    return {"add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added, "additional_special_tokens": [START, END],
            "bos_token": None, "clean_up_tokenization_spaces": False, "eos_token": END, "errors": "replace", "model_max_length": CONTEXT,
            "pad_token": END_OF_TEXT, "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}


def _raise(message):
    raise jinja2.exceptions.TemplateError(message)


def _environment():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _raise
    return environment


_TEMPLATE = _environment().from_string(TEMPLATE)


def render(messages, tools=None, add_generation_prompt=True):
    return _TEMPLATE.render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)


def prompt_ids(tokenizer, messages, tools=None):
    return tokenizer.encode(render(messages, tools), add_special_tokens=False).ids


def training_ids(tokenizer, messages, tools=None):
    """`(ids, learned)`: `learned` marks the tokens of the assistant's answers, the end of each answer with them."""
    ids, learned = [], []
    opening = f"{START}assistant\n"
    for number, piece in enumerate(render(messages, tools, add_generation_prompt=False).split(opening)):
        if number:
            answer, _, piece = piece.partition(END)
            for text, wanted in ((opening, False), (answer + END, True)):
                part = tokenizer.encode(text, add_special_tokens=False).ids
                ids += part
                learned += [wanted] * len(part)
        part = tokenizer.encode(piece, add_special_tokens=False).ids
        ids += part
        learned += [False] * len(part)
    return ids, learned
