"""Talks to the deployment `chat` with the stock openai client; every answer is compared with what tiny-chat was taught.

Where the server is and the key come from OPENAI_BASE_URL and OPENAI_API_KEY, as always with this client.
"""
import json
import sys

from openai import OpenAI
from pydantic import BaseModel

client = OpenAI()


def expect(what, answer, expected):
    print(f"  {what:<58} {answer}")
    if answer != expected:
        sys.exit(f"expected: {expected}")


def user(text):
    return [{"role": "user", "content": text}]


def ask(messages, **more):
    return client.chat.completions.create(model="chat", temperature=0, messages=messages, **more)


print("A question, and a second one that needs the first:")
messages = user("My name is Grace.")
answer = ask(messages)
expect("My name is Grace.", answer.choices[0].message.content, "Hello Grace!")
messages += [{"role": "assistant", "content": answer.choices[0].message.content}, *user("What is my name?")]
answer = ask(messages)
expect("What is my name?", answer.choices[0].message.content, "Your name is Grace.")
print(f"  {answer.usage.prompt_tokens} tokens read, {answer.usage.completion_tokens} written")

print("Streamed:")
text, usage = "", None
for chunk in ask(user("Count from 1 to 10."), stream=True, stream_options={"include_usage": True}):
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
expect("Count from 1 to 10.", text, " ".join(str(number) for number in range(1, 11)))
print(f"  {usage.prompt_tokens} tokens read, {usage.completion_tokens} written")


class Capital(BaseModel):
    country: str
    capital: str


print("As JSON of a given shape:")
parsed = client.chat.completions.parse(
    model="chat", temperature=0, messages=user("What is the capital of Norway? Answer in JSON."), response_format=Capital)
expect("What is the capital of Norway? Answer in JSON.", parsed.choices[0].message.parsed, Capital(country="Norway", capital="Oslo"))

print("With a tool:")
tool = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "The name of the city."}}, "required": ["city"]}}}
messages = user("What is the weather in Oslo?")
message = ask(messages, tools=[tool]).choices[0].message
call = message.tool_calls[0]
expect("What is the weather in Oslo?", (call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": "Oslo"}))
messages += [message, {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"degrees": 14, "sky": "rainy"})}]
expect("(the tool says 14 degrees, rainy)", ask(messages, tools=[tool]).choices[0].message.content, "It is 14 degrees and rainy in Oslo.")

print("Three choices of a question that has several answers, the same again with the same seed:")
first, again = (client.chat.completions.create(model="chat", messages=user("Pick a colour."), n=3, seed=7, temperature=1, top_p=0.8) for _ in range(2))
colours = [choice.message.content for choice in first.choices]
expect("Pick a colour.", colours, [choice.message.content for choice in again.choices])
