//! The answers of `/v1/chat/completions`: whole, and in chunks.

use std::io::Write;

use mayfly_sdk::Error;
use mayfly_sdk::generation::{Chunk, Finish, Token, Usage};
use serde::Serialize;

use super::tool_calls::{Call, CallParser, Piece};
use crate::head::{Head, Told, finish_reason, unique};
use crate::logprobs::ChatLogprobs;
use crate::source::Source;
use crate::sse::{Streamed, data, done};

/// What the answer is to hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    pub(crate) choices: u32,
    pub(crate) logprobs: bool,
    /// Names of the tools that may be called.
    pub(crate) tools: Option<Vec<String>>,
    /// Whether a stream ends with usage.
    pub(crate) include_usage: bool,
}

/// One choice as its text comes.
#[derive(Debug)]
struct Progress {
    parser: Option<CallParser>,
    calls: usize,
    /// Not told yet, if log probabilities were asked for.
    tokens: Option<Vec<Token>>,
}

impl Progress {
    fn of(shape: &Shape) -> Vec<Self> {
        let parser = || shape.tools.clone().map(CallParser::new);
        let one = |_| Self { parser: parser(), calls: 0, tokens: shape.logprobs.then(Vec::new) };
        (0..shape.choices).map(one).collect()
    }

    /// The text and calls that `chunk` completes and, if it is the last one, how the choice ended.
    fn take(&mut self, chunk: Chunk) -> (Vec<Piece>, Option<&'static str>) {
        if let Some(tokens) = &mut self.tokens {
            tokens.extend(chunk.tokens);
        }
        let mut pieces = match &mut self.parser {
            Some(parser) => parser.push(&chunk.text),
            None if chunk.text.is_empty() => Vec::new(),
            None => vec![Piece::Text(chunk.text)],
        };
        if let (Some(parser), Some(_)) = (&mut self.parser, chunk.finish) {
            pieces.extend(parser.finish());
        }
        self.calls += pieces.iter().filter(|piece| matches!(piece, Piece::Call(_))).count();
        let finish = chunk.finish.map(|finish| match finish {
            Finish::Stop if self.calls > 0 => "tool_calls",
            finish => finish_reason(finish),
        });
        (pieces, finish)
    }

    fn logprobs(&mut self) -> Option<ChatLogprobs> {
        self.tokens.as_mut().map(|tokens| ChatLogprobs::new(std::mem::take(tokens)))
    }
}

#[derive(Debug, Serialize)]
struct ToolCall {
    /// Only in chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Call,
}

impl ToolCall {
    fn new(function: Call, index: Option<usize>) -> Self {
        Self { index, id: unique("call_"), kind: "function", function }
    }
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

#[derive(Debug, Default, Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    refusal: (),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

/// The answer of a request that does not stream, as JSON.
pub(crate) fn whole(source: &mut impl Source, head: &Head, shape: &Shape) -> Result<Vec<u8>, Error> {
    let mut progress = Progress::of(shape);
    let mut messages: Vec<Message> =
        progress.iter().map(|_| Message { role: "assistant", ..Message::default() }).collect();
    let mut finishes = vec!["length"; progress.len()];
    while let Some((_, chunk)) = source.next()? {
        let at = place(chunk.choice, &progress)?;
        let (pieces, finish) = progress[at].take(chunk);
        for piece in pieces {
            match piece {
                Piece::Text(text) => messages[at].content.get_or_insert_default().push_str(&text),
                Piece::Call(call) => messages[at].tool_calls.push(ToolCall::new(call, None)),
            }
        }
        finishes[at] = finish.unwrap_or(finishes[at]);
    }
    let choice = |(index, ((mut progress, mut message), finish_reason)): (usize, ((Progress, Message), _))| {
        if message.tool_calls.is_empty() {
            message.content.get_or_insert_default();
        }
        Choice { index, message, logprobs: progress.logprobs(), finish_reason }
    };
    let choices: Vec<Choice> = progress.into_iter().zip(messages).zip(finishes).enumerate().map(choice).collect();
    let usage = Told::Now(source.usage().into());
    serde_json::to_vec(&head.body("chat.completion", &choices, Some(usage)))
        .map_err(|error| Error::internal(format!("the answer is no JSON: {error}")))
}

/// The host numbers choices from 0 to one less than were asked for.
fn place(choice: u32, all: &[Progress]) -> Result<usize, Error> {
    let at = usize::try_from(choice).unwrap_or(usize::MAX);
    if at < all.len() {
        Ok(at)
    } else {
        Err(Error::internal(format!("the host gave a choice {choice} nobody asked for")))
    }
}

#[derive(Debug, Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

/// The answer of a request that streams.
#[derive(Debug)]
pub(crate) struct Chunks {
    head: Head,
    include_usage: bool,
    progress: Vec<Progress>,
}

impl Chunks {
    pub(crate) fn new(head: Head, shape: &Shape) -> Self {
        Self { head, include_usage: shape.include_usage, progress: Progress::of(shape) }
    }

    fn write(&self, choice: ChunkChoice, out: &mut dyn Write) -> Result<(), Error> {
        let usage = self.include_usage.then_some(Told::Later(()));
        data(out, &self.head.body("chat.completion.chunk", &[choice], usage))
    }
}

impl Streamed for Chunks {
    fn begin(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        for index in 0..self.progress.len() {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            self.write(ChunkChoice { index, delta, logprobs: None, finish_reason: None }, out)?;
        }
        Ok(())
    }

    fn chunk(&mut self, _: usize, chunk: Chunk, out: &mut dyn Write) -> Result<(), Error> {
        let index = place(chunk.choice, &self.progress)?;
        let calls = self.progress[index].calls;
        let (pieces, finish_reason) = self.progress[index].take(chunk);
        let mut calls = calls..;
        for piece in pieces {
            let delta = match piece {
                Piece::Text(text) => Delta { content: Some(text), ..Delta::default() },
                Piece::Call(call) => Delta { tool_calls: vec![ToolCall::new(call, calls.next())], ..Delta::default() },
            };
            let logprobs = self.progress[index].logprobs();
            self.write(ChunkChoice { index, delta, logprobs, finish_reason: None }, out)?;
        }
        if finish_reason.is_some() {
            let logprobs = self.progress[index].logprobs();
            self.write(ChunkChoice { index, delta: Delta::default(), logprobs, finish_reason }, out)?;
        }
        Ok(())
    }

    fn end(&mut self, usage: Usage, out: &mut dyn Write) -> Result<(), Error> {
        if self.include_usage {
            let usage = Some(Told::Now(usage.into()));
            data(out, &self.head.body::<ChunkChoice>("chat.completion.chunk", &[], usage))?;
        }
        done(out)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use serde_json::Value;

    use super::*;
    use crate::source::tests::Scripted;
    use crate::sse;

    fn shape() -> Shape {
        Shape { choices: 1, ..Shape::default() }
    }

    fn with_tool() -> Shape {
        Shape { tools: Some(vec!["f".to_owned()]), ..shape() }
    }

    fn call() -> Scripted {
        Scripted::default()
            .text(0, 0, "Hm.\n<tool_call>")
            .text(0, 0, r#"{"name":"f","arguments":{"a":1}}"#)
            .text(0, 0, "</tool_call>\n<tool_call>{\"name\":\"f\"}</tool_call>")
            .end(0, 0, Finish::Stop)
    }

    fn json(mut source: Scripted, shape: &Shape) -> Value {
        serde_json::from_slice(&whole(&mut source, &Head::fixed(), shape).unwrap()).unwrap()
    }

    /// The events of the stream, each as JSON, `[DONE]` as text.
    fn events(mut source: Scripted, shape: &Shape) -> Vec<Value> {
        let mut out = Vec::new();
        sse::write(&mut source, &mut Chunks::new(Head::fixed(), shape), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let data = |event: &str| {
            let data = event.strip_prefix("data: ").unwrap();
            serde_json::from_str(data).unwrap_or_else(|_| data.into())
        };
        text.strip_suffix("\n\n").unwrap().split("\n\n").map(data).collect()
    }

    #[test]
    fn a_whole_answer() {
        let mut source = Scripted::default().text(0, 0, "Hel").text(0, 0, "lo").end(0, 0, Finish::Stop);
        assert_eq!(
            String::from_utf8(whole(&mut source, &Head::fixed(), &shape()).unwrap()).unwrap(),
            r#"{"id":"id-1","object":"chat.completion","created":7,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":2}}}"#
        );
    }

    #[test]
    fn nothing_said_is_an_empty_text() {
        let answer = json(Scripted::default().end(0, 0, Finish::Length), &shape());
        assert_eq!(answer["choices"][0]["message"]["content"], "");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }

    #[test]
    fn choices_interleave() {
        let source = || {
            let begun = Scripted::default().text(0, 1, "b1").text(0, 0, "a1").text(0, 1, "b2").end(0, 1, Finish::Stop);
            begun.text(0, 0, "a2").end(0, 0, Finish::Length)
        };
        let shape = Shape { choices: 2, ..shape() };
        let answer = json(source(), &shape);
        let choice =
            |at: usize| (&answer["choices"][at]["message"]["content"], &answer["choices"][at]["finish_reason"]);
        assert_eq!(choice(0), (&"a1a2".into(), &"length".into()));
        assert_eq!(choice(1), (&"b1b2".into(), &"stop".into()));
        let streamed = events(source(), &shape);
        let order: Vec<&Value> = streamed.iter().map(|event| &event["choices"][0]["index"]).collect();
        assert_eq!(order[..8], [0, 1, 1, 0, 1, 1, 0, 0]);
    }

    #[test]
    fn a_filtered_answer_says_so() {
        let source = || Scripted::default().text(0, 0, "Hel").end(0, 0, Finish::ContentFilter);
        let answer = json(source(), &shape());
        assert_eq!(answer["choices"][0]["message"]["content"], "Hel");
        assert_eq!(answer["choices"][0]["finish_reason"], "content_filter");
        let all = events(source(), &shape());
        assert_eq!(all[2]["choices"][0]["finish_reason"], "content_filter");
        assert_eq!(all[3..], ["[DONE]"]);
        // Calls that came whole are told, but not as if they were the model's last word.
        let called = Scripted::default().text(0, 0, r#"<tool_call>{"name":"f"}</tool_call> Hm"#);
        let answer = json(called.end(0, 0, Finish::ContentFilter), &with_tool());
        assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "f");
        assert_eq!(answer["choices"][0]["finish_reason"], "content_filter");
    }

    #[test]
    fn calls_in_a_whole_answer() {
        let answer = json(call(), &with_tool());
        let choice = &answer["choices"][0];
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&"Hm.".into(), &"tool_calls".into()));
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        let arguments: Vec<&Value> = calls.iter().map(|call| &call["function"]["arguments"]).collect();
        assert_eq!(arguments, [r#"{"a":1}"#, "{}"]);
        assert!(calls.iter().all(|call| call["type"] == "function" && call.get("index").is_none()));
        assert_ne!(calls[0]["id"], calls[1]["id"]);
        let silent = Scripted::default().text(0, 0, "<tool_call>{\"name\":\"f\"}").end(0, 0, Finish::Stop);
        assert_eq!(json(silent, &with_tool())["choices"][0]["message"]["content"], Value::Null);
    }

    #[test]
    fn a_call_that_was_cut_is_text() {
        let cut = Scripted::default().text(0, 0, "<tool_call>{\"name\":").end(0, 0, Finish::Length);
        let answer = json(cut, &with_tool());
        assert_eq!(answer["choices"][0]["message"]["content"], "<tool_call>{\"name\":");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }

    #[test]
    fn a_stream() {
        let source = Scripted::default().text(0, 0, "Hel").text(0, 0, "lo").end(0, 0, Finish::Stop);
        let all = events(source, &Shape { include_usage: true, ..shape() });
        let deltas: Vec<String> = all[..4].iter().map(|event| event["choices"][0]["delta"].to_string()).collect();
        assert_eq!(
            deltas,
            [r#"{"role":"assistant","content":""}"#, r#"{"content":"Hel"}"#, r#"{"content":"lo"}"#, "{}"]
        );
        assert_eq!(all[3]["choices"][0]["finish_reason"], "stop");
        assert!(all[..4].iter().all(|event| event["id"] == "id-1" && event["object"] == "chat.completion.chunk"));
        assert!(all[..4].iter().all(|event| event.get("usage") == Some(&Value::Null)));
        assert_eq!((&all[4]["choices"], &all[4]["usage"]["total_tokens"]), (&Value::Array(vec![]), &7.into()));
        assert_eq!(all[5..], ["[DONE]"]);
    }

    #[test]
    fn usage_is_told_only_if_asked_for() {
        let all = events(Scripted::default().text(0, 0, "a").end(0, 0, Finish::Stop), &shape());
        assert!(all.iter().all(|event| event.get("usage").is_none()));
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn calls_in_a_stream() {
        let all = events(call(), &with_tool());
        let delta = |at: usize| &all[at]["choices"][0]["delta"];
        assert_eq!(delta(1)["content"], "Hm.");
        for (at, index, arguments) in [(2, 0, r#"{"a":1}"#), (3, 1, "{}")] {
            let call = &delta(at)["tool_calls"][0];
            assert_eq!((&call["index"], &call["type"]), (&index.into(), &"function".into()));
            assert_eq!((&call["function"]["name"], &call["function"]["arguments"]), (&"f".into(), &arguments.into()));
        }
        assert_eq!(all[4]["choices"][0]["finish_reason"], "tool_calls");
    }

    #[test]
    fn each_token_is_told_once() {
        let shape = Shape { logprobs: true, ..with_tool() };
        let all = events(call(), &shape);
        let tokens = |event: &Value| event["choices"][0]["logprobs"]["content"].as_array().map_or(0, Vec::len);
        assert_eq!(all.iter().map(tokens).sum::<usize>(), 3);
        let answer = json(call(), &shape);
        assert_eq!(tokens(&answer), 3);
    }

    #[test]
    fn a_failure_ends_the_stream_without_done() {
        let all = events(Scripted::default().text(0, 0, "a").failure("the model broke"), &shape());
        assert_eq!(all.last().unwrap()["error"]["message"], "the model broke");
        assert_eq!(all.len(), 3);
        let mut source = Scripted::default().text(0, 0, "a").failure("the model broke");
        assert_eq!(whole(&mut source, &Head::fixed(), &shape()).unwrap_err().status(), 500);
    }

    #[test]
    fn a_choice_nobody_asked_for_is_the_host_s_fault() {
        let mut source = Scripted::default().text(0, 1, "a");
        assert_eq!(whole(&mut source, &Head::fixed(), &shape()).unwrap_err().status(), 500);
    }
}
