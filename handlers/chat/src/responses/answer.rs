//! The answers of `/v1/responses`: whole, and as typed events.

use std::io::Write;

use mayfly_sdk::Error;
use mayfly_sdk::generation::{Chunk, Finish, Usage};
use serde_json::{Map, Value, json};

use crate::head::{Head, unique};
use crate::source::Source;
use crate::sse::{Streamed, event};

/// One response with one message.
#[derive(Debug)]
pub(crate) struct Answer {
    head: Head,
    /// Fields of the request that the answer repeats.
    told: Map<String, Value>,
    item: String,
    text: String,
    finish: Option<Finish>,
}

impl Answer {
    pub(crate) fn new(head: Head, told: Map<String, Value>) -> Self {
        Self { head, told, item: unique("msg_"), text: String::new(), finish: None }
    }

    /// The answer of a request that does not stream.
    pub(crate) fn whole(mut self, source: &mut impl Source) -> Result<Value, Error> {
        while let Some((_, chunk)) = source.next()? {
            self.take(&chunk);
        }
        Ok(self.response(self.status(), vec![self.message(self.status())], Some(source.usage())))
    }

    fn take(&mut self, chunk: &Chunk) {
        self.text.push_str(&chunk.text);
        self.finish = chunk.finish.or(self.finish);
    }

    fn status(&self) -> &'static str {
        match self.finish {
            Some(Finish::Stop) => "completed",
            _ => "incomplete",
        }
    }

    fn why_incomplete(&self) -> &'static str {
        match self.finish {
            Some(Finish::ContentFilter) => "content_filter",
            _ => "max_output_tokens",
        }
    }

    fn response(&self, status: &str, output: Vec<Value>, usage: Option<Usage>) -> Value {
        let usage = usage.map(|usage| {
            json!({
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": { "cached_tokens": usage.cached_tokens },
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": usage.prompt_tokens.saturating_add(usage.completion_tokens),
            })
        });
        let mut response = json!({
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "error": null,
            "incomplete_details": (status == "incomplete").then(|| json!({ "reason": self.why_incomplete() })),
            "model": self.head.model,
            "output": output,
            "parallel_tool_calls": false,
            "previous_response_id": null,
            "store": false,
            "tool_choice": "auto",
            "tools": [],
            "truncation": "disabled",
            "usage": usage,
        });
        if let Value::Object(fields) = &mut response {
            fields.extend(self.told.clone());
        }
        response
    }

    fn message(&self, status: &str) -> Value {
        let content = if status == "in_progress" { json!([]) } else { json!([self.part()]) };
        json!({ "id": self.item, "type": "message", "status": status, "role": "assistant", "content": content })
    }

    fn part(&self) -> Value {
        json!({ "type": "output_text", "text": self.text, "annotations": [], "logprobs": [] })
    }
}

/// The answer of a request that streams.
#[derive(Debug)]
pub(crate) struct Events {
    answer: Answer,
    written: u64,
}

impl Events {
    pub(crate) fn new(answer: Answer) -> Self {
        Self { answer, written: 0 }
    }

    /// Writes the event `kind` with these fields.
    fn write(&mut self, kind: &str, fields: Value, out: &mut dyn Write) -> Result<(), Error> {
        let mut all = Map::new();
        all.insert("type".to_owned(), kind.into());
        all.insert("sequence_number".to_owned(), self.written.into());
        if let Value::Object(fields) = fields {
            all.extend(fields);
        }
        self.written += 1;
        event(out, kind, &all)
    }

    /// Writes an event about the text.
    fn about_text(&mut self, kind: &str, field: &str, value: Value, out: &mut dyn Write) -> Result<(), Error> {
        let mut fields = json!({ "item_id": self.answer.item, "output_index": 0, "content_index": 0 });
        fields[field] = value;
        if kind.starts_with("response.output_text") {
            fields["logprobs"] = json!([]);
        }
        self.write(kind, fields, out)
    }
}

impl Streamed for Events {
    fn begin(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        let response = self.answer.response("in_progress", Vec::new(), None);
        self.write("response.created", json!({ "response": response }), out)?;
        self.write("response.in_progress", json!({ "response": response }), out)?;
        let item = self.answer.message("in_progress");
        self.write("response.output_item.added", json!({ "output_index": 0, "item": item }), out)?;
        self.about_text("response.content_part.added", "part", self.answer.part(), out)
    }

    fn chunk(&mut self, _: usize, chunk: Chunk, out: &mut dyn Write) -> Result<(), Error> {
        self.answer.take(&chunk);
        if chunk.text.is_empty() {
            return Ok(());
        }
        self.about_text("response.output_text.delta", "delta", chunk.text.into(), out)
    }

    fn end(&mut self, usage: Usage, out: &mut dyn Write) -> Result<(), Error> {
        let status = self.answer.status();
        self.about_text("response.output_text.done", "text", self.answer.text.clone().into(), out)?;
        self.about_text("response.content_part.done", "part", self.answer.part(), out)?;
        let item = self.answer.message(status);
        self.write("response.output_item.done", json!({ "output_index": 0, "item": item }), out)?;
        let response = self.answer.response(status, vec![item], Some(usage));
        self.write(&format!("response.{status}"), json!({ "response": response }), out)
    }

    /// Clients raise what has an `error`, and show an event of this type by its own fields.
    fn fail(&mut self, error: &Error, out: &mut dyn Write) -> Result<(), Error> {
        let mut fields = json!({ "code": error.code(), "message": error.message(), "param": error.param() });
        fields["error"] = error.envelope()["error"].take();
        self.write("error", fields, out)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::source::tests::Scripted;
    use crate::sse;

    fn answer() -> Answer {
        let told = Map::from_iter([("temperature".to_owned(), json!(0.5))]);
        Answer { item: "msg_1".to_owned(), ..Answer::new(Head::fixed(), told) }
    }

    /// The types and the data of the events.
    fn events(mut source: Scripted) -> Vec<(String, Value)> {
        let mut out = Vec::new();
        sse::write(&mut source, &mut Events::new(answer()), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let event = |event: &str| {
            let (kind, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            (kind.to_owned(), serde_json::from_str(data).unwrap())
        };
        text.split_terminator("\n\n").map(event).collect()
    }

    #[test]
    fn a_whole_answer() {
        let mut source = Scripted::default().text(0, 0, "Hel").text(0, 0, "lo").end(0, 0, Finish::Stop);
        let whole = answer().whole(&mut source).unwrap();
        assert_eq!((&whole["status"], &whole["incomplete_details"]), (&json!("completed"), &Value::Null));
        assert_eq!((&whole["object"], &whole["temperature"]), (&json!("response"), &json!(0.5)));
        assert_eq!(
            whole["output"],
            json!([{ "id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
                "content": [{ "type": "output_text", "text": "Hello", "annotations": [], "logprobs": [] }] }])
        );
        assert_eq!(
            whole["usage"],
            json!({ "input_tokens": 5, "input_tokens_details": { "cached_tokens": 2 }, "output_tokens": 2,
                "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 7 })
        );
        let mut cut = Scripted::default().text(0, 0, "Hel").end(0, 0, Finish::Length);
        let cut = answer().whole(&mut cut).unwrap();
        assert_eq!(
            (&cut["status"], &cut["incomplete_details"]["reason"]),
            (&json!("incomplete"), &json!("max_output_tokens"))
        );
        let mut filtered = Scripted::default().text(0, 0, "Hel").end(0, 0, Finish::ContentFilter);
        let filtered = answer().whole(&mut filtered).unwrap();
        assert_eq!(
            (&filtered["status"], &filtered["incomplete_details"]["reason"]),
            (&json!("incomplete"), &json!("content_filter"))
        );
    }

    #[test]
    fn a_stream() {
        let all = events(Scripted::default().text(0, 0, "Hel").text(0, 0, "lo").end(0, 0, Finish::Stop));
        let kinds: Vec<&str> = all.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
                "response.output_text.delta",
                "response.output_text.delta",
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.completed",
            ]
        );
        for (at, (kind, data)) in all.iter().enumerate() {
            assert_eq!((&data["type"], &data["sequence_number"]), (&json!(kind), &json!(at)));
        }
        assert_eq!(
            (&all[0].1["response"]["status"], &all[0].1["response"]["output"]),
            (&json!("in_progress"), &json!([]))
        );
        assert_eq!((&all[2].1["item"]["content"], &all[3].1["part"]["text"]), (&json!([]), &json!("")));
        assert_eq!(
            (&all[4].1["delta"], &all[5].1["delta"], &all[6].1["text"]),
            (&json!("Hel"), &json!("lo"), &json!("Hello"))
        );
        assert_eq!(all[4].1["item_id"], "msg_1");
        assert_eq!(all[9].1["response"]["output"][0]["content"][0]["text"], "Hello");
        assert_eq!(all[9].1["response"]["usage"]["total_tokens"], 7);
    }

    #[test]
    fn a_stream_that_was_cut_is_incomplete() {
        let all = events(Scripted::default().end(0, 0, Finish::Length));
        assert_eq!(all.last().unwrap().0, "response.incomplete");
        let all = events(Scripted::default().end(0, 0, Finish::ContentFilter));
        let (kind, data) = all.last().unwrap();
        assert_eq!(kind, "response.incomplete");
        assert_eq!(data["response"]["incomplete_details"]["reason"], "content_filter");
    }

    #[test]
    fn a_failure_ends_the_stream() {
        let all = events(Scripted::default().text(0, 0, "a").failure("the model broke"));
        let (kind, data) = all.last().unwrap();
        assert_eq!((kind.as_str(), &data["message"]), ("error", &json!("the model broke")));
        assert_eq!(data["error"]["type"], "server_error");
        assert_eq!(all.len(), 6);
    }
}
