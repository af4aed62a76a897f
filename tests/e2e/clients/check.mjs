// The stock OpenAI client for Node against a running server; see check.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI, { AzureOpenAI } from "openai";

const { MAYFLY_DATA: data, MAYFLY_KEY: apiKey } = process.env;
const asked = JSON.parse(readFileSync(process.argv[2], "utf8"));
const plain = asked.questions.filter((entry) => !entry.tools && !["json", "tool"].includes(entry.kind));

async function chat(client) {
  for (const entry of plain.slice(0, 4)) {
    const answer = await client.chat.completions.create({ model: "chat", messages: entry.messages, temperature: 0 });
    assert.equal(answer.choices[0].message.content, entry.answer);
    assert.equal(answer.usage.prompt_tokens, entry.prompt_tokens);
    assert.equal(answer.usage.completion_tokens, entry.answer_tokens);
  }
}

async function streaming(client) {
  const entry = plain.reduce((one, other) => (other.answer_tokens > one.answer_tokens ? other : one));
  const stream = await client.chat.completions.create({
    model: "chat", messages: entry.messages, temperature: 0, stream: true, stream_options: { include_usage: true },
  });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, entry.answer);
  assert.equal(usage.completion_tokens, entry.answer_tokens);
}

async function tools(client) {
  const entry = asked.questions.find((entry) => entry.calls);
  const tools = entry.tools.map((name) => asked.tools[name]);
  const answer = await client.chat.completions.create({ model: "chat", messages: entry.messages, tools, temperature: 0 });
  const calls = answer.choices[0].message.tool_calls.map((call) => ({
    name: call.function.name, arguments: JSON.parse(call.function.arguments),
  }));
  assert.deepEqual(calls, entry.calls);
}

async function refusals(client) {
  await assert.rejects(client.chat.completions.create({ model: "nobody", messages: plain[0].messages }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ model: "chat", messages: [] }), OpenAI.BadRequestError);
}

const client = new OpenAI({ baseURL: `${data}/v1`, apiKey, maxRetries: 0 });
await chat(client);
await streaming(client);
await tools(client);
await refusals(client);
const vectors = await client.embeddings.create({ model: "embed", input: "how do I reset my password" });
assert.equal(vectors.data[0].embedding.length, 384);
const azure = new AzureOpenAI({ endpoint: data, apiKey, apiVersion: "2024-10-21", maxRetries: 0 });
await chat(azure);
await streaming(azure);
console.log("all as it must be");
