"""The stock OpenAI client against a running server: everything a program written for OpenAI or Azure OpenAI does.

usage: check.py QUESTIONS_JSON, with MAYFLY_DATA (the data plane's URL) and MAYFLY_KEY set. The deployments `chat` (tiny-chat)
and `embed` (MiniLM) are there. Fails with the first thing that is not as it must be.
"""
import asyncio
import base64
import json
import os
import struct
import sys
from typing import Literal

import openai
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from pydantic import BaseModel

DATA, KEY = os.environ["MAYFLY_DATA"], os.environ["MAYFLY_KEY"]
ASKED = json.load(open(sys.argv[1]))
QUESTIONS = ASKED["questions"]


def of_kind(kind, count, needs=lambda entry: True):
    found = [entry for entry in QUESTIONS if entry["kind"] == kind and needs(entry)][:count]
    assert len(found) == count, f"{len(found)} questions of kind {kind}"
    return found


def tools_of(entry):
    return {"tools": [ASKED["tools"][name] for name in entry["tools"]]} if entry.get("tools") else {}


def plain(count=6):
    return [entry for entry in QUESTIONS if not entry.get("tools") and entry["kind"] not in ("json", "tool")][:count]


def check_usage(usage, entry):
    assert usage.prompt_tokens == entry["prompt_tokens"], (usage, entry)
    assert usage.completion_tokens == entry["answer_tokens"], (usage, entry)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def chat(client, model="chat"):
    for entry in plain():
        answer = client.chat.completions.create(model=model, messages=entry["messages"], temperature=0)
        assert answer.choices[0].message.content == entry["answer"], (answer, entry)
        assert answer.choices[0].message.role == "assistant" and answer.choices[0].finish_reason == "stop", answer
        assert answer.object == "chat.completion" and answer.model == model, answer
        check_usage(answer.usage, entry)


def streaming(client, model="chat"):
    entry = max(plain(40), key=lambda entry: entry["answer_tokens"])
    stream = client.chat.completions.create(
        model=model, messages=entry["messages"], temperature=0, stream=True, stream_options={"include_usage": True}
    )
    text, usage, finish, chunks = "", None, None, 0
    for chunk in stream:
        chunks += 1
        if chunk.usage:
            assert chunk.choices == [], chunk
            usage = chunk.usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == entry["answer"] and finish == "stop" and chunks > 3, (text, entry, chunks)
    check_usage(usage, entry)


def limits_of_an_answer(client):
    entry = max(plain(40), key=lambda entry: entry["answer_tokens"])
    answer = client.chat.completions.create(model="chat", messages=entry["messages"], temperature=0, max_tokens=2)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 2, answer
    assert entry["answer"].startswith(answer.choices[0].message.content), answer
    stop = entry["answer"].split(" ")[1]
    answer = client.chat.completions.create(model="chat", messages=entry["messages"], temperature=0, stop=[stop])
    assert answer.choices[0].message.content == entry["answer"].split(stop)[0], (answer, stop)
    assert answer.choices[0].finish_reason == "stop", answer


def choices_and_seeds(client):
    entry = ASKED["open"][0]
    ask = {"model": "chat", "messages": entry["messages"], "temperature": 1, "n": 4, "max_tokens": 24}
    one, same = (client.chat.completions.create(seed=7, **ask) for _ in range(2))
    texts = [choice.message.content for choice in one.choices]
    assert texts == [choice.message.content for choice in same.choices], (one, same)
    assert [choice.index for choice in one.choices] == [0, 1, 2, 3], one
    seen = {choice.message.content for seed in range(6) for choice in client.chat.completions.create(seed=seed, **ask).choices}
    assert len(seen & set(entry["answers"])) > 1, (seen, entry)


def logprobs(client):
    entry = plain()[0]
    answer = client.chat.completions.create(
        model="chat", messages=entry["messages"], temperature=0, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content).startswith(entry["answer"]), answer
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3, token
        assert token.top_logprobs[0].token == token.token, token
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token or token.bytes, token


def json_answers(client):
    for entry in of_kind("json", 3):
        answer = client.chat.completions.create(
            model="chat", messages=entry["messages"], temperature=0, response_format={"type": "json_object"}
        )
        assert json.loads(answer.choices[0].message.content) == json.loads(entry["answer"]), (answer, entry)

    class Light(BaseModel):
        colour: Literal["red", "green", "blue"]
        on: bool

    # Whatever the model would rather say, what comes out has the shape.
    answer = client.chat.completions.parse(
        model="chat", messages=[{"role": "user", "content": "a light"}], response_format=Light, temperature=0, max_tokens=400
    )
    assert isinstance(answer.choices[0].message.parsed, Light), answer


def tools(client):
    for entry in of_kind("tool", 4, lambda entry: entry.get("calls")):
        answer = client.chat.completions.create(
            model="chat", messages=entry["messages"], temperature=0, **tools_of(entry)
        )
        check_calls(answer.choices[0], entry)
        check_usage(answer.usage, entry)
        with client.chat.completions.stream(
            model="chat", messages=entry["messages"], temperature=0, **tools_of(entry)
        ) as stream:
            for _event in stream:
                pass
            check_calls(stream.get_final_completion().choices[0], entry)
    entry = of_kind("tool", 1, lambda entry: any(message["role"] == "tool" for message in entry["messages"]))[0]
    answer = client.chat.completions.create(model="chat", messages=entry["messages"], temperature=0, **tools_of(entry))
    assert answer.choices[0].message.content == entry["answer"], (answer, entry)
    entry = of_kind("tool", 1, lambda entry: entry.get("calls"))[0]
    name = entry["calls"][0]["name"]
    answer = client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "hello"}], temperature=0, max_tokens=80,
        tool_choice={"type": "function", "function": {"name": name}}, **tools_of(entry)
    )
    if answer.choices[0].finish_reason != "length":
        call = answer.choices[0].message.tool_calls[0]
        assert call.function.name == name and isinstance(json.loads(call.function.arguments), dict), answer


def check_calls(choice, entry):
    calls = [{"name": call.function.name, "arguments": json.loads(call.function.arguments)} for call in choice.message.tool_calls]
    assert calls == entry["calls"] and choice.finish_reason == "tool_calls", (choice, entry)
    assert len({call.id for call in choice.message.tool_calls}) == len(calls), choice


def completions(client):
    for entry in ASKED["completions"][:3]:
        answer = client.completions.create(model="chat", prompt=entry["prompt"], temperature=0, max_tokens=40)
        assert answer.choices[0].text == entry["answer"], (answer, entry)
        text = "".join(
            chunk.choices[0].text
            for chunk in client.completions.create(
                model="chat", prompt=entry["prompt"], temperature=0, max_tokens=40, stream=True
            )
            if chunk.choices
        )
        assert text == entry["answer"], (text, entry)


def refusals(client):
    def refused(kind, status, **ask):
        try:
            client.chat.completions.create(**{"model": "chat", "messages": [{"role": "user", "content": "x"}], **ask})
        except kind as error:
            assert error.status_code == status and error.code and error.message, error
            return error
        raise AssertionError(f"{ask} was not refused")

    refused(openai.NotFoundError, 404, model="nobody")
    assert refused(openai.BadRequestError, 400, messages=[]).param == "messages"
    assert refused(openai.BadRequestError, 400, temperature=3).param == "temperature"
    long = refused(openai.BadRequestError, 400, messages=[{"role": "user", "content": "word " * 3000}])
    assert long.code == "context_length_exceeded", long
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}, "strict": True}}
    refused(openai.BadRequestError, 400, response_format=wrong)
    stranger = OpenAI(base_url=f"{DATA}/v1", api_key="mf_wrong", max_retries=0)
    try:
        stranger.models.list()
    except openai.AuthenticationError as error:
        assert error.status_code == 401, error
    else:
        raise AssertionError("a wrong key was let in")


def embeddings(client):
    floats = client.embeddings.create(model="embed", input=["how do I reset my password"], encoding_format="float")
    encoded = client.embeddings.create(model="embed", input="how do I reset my password", encoding_format="base64")
    raw = base64.b64decode(encoded.data[0].embedding)
    values = struct.unpack(f"<{len(raw) // 4}f", raw)
    assert all(abs(a - b) < 1e-6 for a, b in zip(values, floats.data[0].embedding)) and len(values) == 384, values[:4]
    assert floats.usage.prompt_tokens == 8, floats.usage


def responses(client):
    entry = plain()[0]
    answer = client.responses.create(model="chat", input=entry["messages"][-1]["content"], temperature=0)
    assert answer.output_text == entry["answer"] and answer.status == "completed", answer
    assert answer.usage.output_tokens == entry["answer_tokens"], answer.usage
    text = "".join(
        event.delta
        for event in client.responses.create(model="chat", input=entry["messages"], temperature=0, stream=True)
        if event.type == "response.output_text.delta"
    )
    assert text == entry["answer"], text


async def many_at_once():
    client = AsyncOpenAI(base_url=f"{DATA}/v1", api_key=KEY, max_retries=0)
    asked = plain(24)

    async def one(entry, streamed):
        if not streamed:
            answer = await client.chat.completions.create(model="chat", messages=entry["messages"], temperature=0)
            return answer.choices[0].message.content
        stream = await client.chat.completions.create(
            model="chat", messages=entry["messages"], temperature=0, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    answers = await asyncio.gather(*(one(entry, number % 2) for number, entry in enumerate(asked)))
    for answer, entry in zip(answers, asked):
        assert answer == entry["answer"], (answer, entry)
    # One who leaves in mid-stream disturbs nobody.
    stream = await client.chat.completions.create(model="chat", messages=asked[0]["messages"], stream=True)
    async for _chunk in stream:
        break
    await stream.close()
    assert await one(asked[1], False) == asked[1]["answer"]


def main():
    client = OpenAI(base_url=f"{DATA}/v1", api_key=KEY, max_retries=0)
    names = [model.id for model in client.models.list()]
    assert {"chat", "embed"} <= set(names), names
    chat(client)
    streaming(client)
    limits_of_an_answer(client)
    choices_and_seeds(client)
    logprobs(client)
    json_answers(client)
    tools(client)
    completions(client)
    refusals(client)
    embeddings(client)
    responses(client)
    asyncio.run(many_at_once())
    azure = AzureOpenAI(azure_endpoint=DATA, api_key=KEY, api_version="2024-10-21", max_retries=0)
    chat(azure)
    streaming(azure)
    embeddings(azure)
    chat(OpenAI(base_url=f"{DATA}/openai/v1/", api_key=KEY, max_retries=0))
    print("all as it must be")


main()
