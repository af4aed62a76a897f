#!/usr/bin/env python3
"""Writes everything tiny-chat must answer as one JSON file, for tests that speak no Python.

usage: write-questions.py TOKENIZER_JSON OUT_JSON

    tools         definitions by name, as an OpenAI client sends them
    questions     id, kind, messages, tools (names; left out: none), answer (the exact text greedy decoding gives),
                  calls (the tool calls in that text), prompt_tokens, answer_tokens (the ending token is one of them)
    completions   id, prompt, answer, prompt_tokens, answer_tokens: plain text, no template
    open          id, messages, answers: several right answers, about as likely each
"""
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

import tiny_chat_prompt as prompt
import tiny_chat_text as text


def lines(entries):
    return "[\n" + ",\n".join("    " + json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n  ]"


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    questions, completions = text.questions(), text.completions()
    for entry in questions:
        tools = [text.tool(name) for name in entry.get("tools", ())] or None
        entry["prompt_tokens"] = len(prompt.prompt_ids(tokenizer, entry["messages"], tools))
        entry["answer_tokens"] = len(tokenizer.encode(entry["answer"], add_special_tokens=False).ids) + 1
    for entry in completions:
        entry["prompt_tokens"] = len(tokenizer.encode(entry["prompt"]).ids)
        entry["answer_tokens"] = len(tokenizer.encode(entry["answer"]).ids) + 1
    tools = ",\n".join(f"    {json.dumps(name)}: {json.dumps(text.tool(name))}" for name in text.TOOLS)
    Path(sys.argv[2]).write_text(
        f'{{\n  "tools": {{\n{tools}\n  }},\n  "questions": {lines(questions)},\n  "completions": {lines(completions)},\n'
        f'  "open": {lines(text.open_questions())}\n}}\n')


if __name__ == "__main__":
    main()
