//! The answers of `/v1/completions`: whole, and in chunks.

use std::io::Write;

use mayfly_sdk::Error;
use mayfly_sdk::generation::{Chunk, Usage};
use serde::Serialize;

use crate::head::{Head, Told, finish_reason};
use crate::logprobs::Logprobs;
use crate::source::Source;
use crate::sse::{Streamed, data, done};

/// What the answer is to hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// What the choices of each prompt begin with.
    pub(crate) echoes: Vec<String>,
    /// Of each prompt.
    pub(crate) choices: u32,
    pub(crate) logprobs: bool,
    /// Whether a stream ends with usage.
    pub(crate) include_usage: bool,
}

impl Shape {
    /// What each choice of the answer begins with; the choices of a prompt stand side by side.
    fn begins(&self) -> impl Iterator<Item = &str> {
        self.echoes.iter().flat_map(|echo| (0..self.choices).map(move |_| echo.as_str()))
    }

    fn place(&self, prompt: usize, choice: u32) -> Result<usize, Error> {
        if prompt < self.echoes.len() && choice < self.choices {
            return Ok(prompt * self.choices as usize + choice as usize);
        }
        Err(Error::internal(format!("the host gave a choice {choice} nobody asked for")))
    }
}

#[derive(Debug, Serialize)]
struct Choice {
    text: String,
    index: usize,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

/// The answer of a request that does not stream, as JSON.
pub(crate) fn whole(source: &mut impl Source, head: &Head, shape: &Shape) -> Result<Vec<u8>, Error> {
    let begun = |(index, echo): (usize, &str)| {
        let logprobs = shape.logprobs.then(Logprobs::default);
        Choice { text: echo.to_owned(), index, logprobs, finish_reason: Some("length") }
    };
    let mut choices: Vec<Choice> = shape.begins().enumerate().map(begun).collect();
    while let Some((prompt, chunk)) = source.next()? {
        let choice = &mut choices[shape.place(prompt, chunk.choice)?];
        choice.text.push_str(&chunk.text);
        if let Some(logprobs) = &mut choice.logprobs {
            logprobs.extend(chunk.tokens);
        }
        choice.finish_reason = chunk.finish.map(finish_reason).or(choice.finish_reason);
    }
    let usage = Told::Now(source.usage().into());
    serde_json::to_vec(&head.body("text_completion", &choices, Some(usage)))
        .map_err(|error| Error::internal(format!("the answer is no JSON: {error}")))
}

/// The answer of a request that streams.
#[derive(Debug)]
pub(crate) struct Chunks {
    head: Head,
    shape: Shape,
    /// For each choice, the log probabilities that were not told yet, if any were asked for.
    logprobs: Vec<Option<Logprobs>>,
}

impl Chunks {
    pub(crate) fn new(head: Head, shape: Shape) -> Self {
        let logprobs = shape.begins().map(|_| shape.logprobs.then(Logprobs::default)).collect();
        Self { head, shape, logprobs }
    }

    fn write(&self, choice: Choice, out: &mut dyn Write) -> Result<(), Error> {
        let usage = self.shape.include_usage.then_some(Told::Later(()));
        data(out, &self.head.body("text_completion", &[choice], usage))
    }
}

impl Streamed for Chunks {
    fn begin(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        for (index, echo) in self.shape.begins().enumerate().filter(|(_, echo)| !echo.is_empty()) {
            self.write(Choice { text: echo.to_owned(), index, logprobs: None, finish_reason: None }, out)?;
        }
        Ok(())
    }

    fn chunk(&mut self, prompt: usize, chunk: Chunk, out: &mut dyn Write) -> Result<(), Error> {
        let index = self.shape.place(prompt, chunk.choice)?;
        let mut logprobs = None;
        if let Some(waiting) = &mut self.logprobs[index] {
            waiting.extend(chunk.tokens);
        }
        if chunk.text.is_empty() && chunk.finish.is_none() {
            return Ok(());
        }
        if let Some(waiting) = &mut self.logprobs[index] {
            logprobs = Some(waiting.take());
        }
        self.write(Choice { text: chunk.text, index, logprobs, finish_reason: chunk.finish.map(finish_reason) }, out)
    }

    fn end(&mut self, usage: Usage, out: &mut dyn Write) -> Result<(), Error> {
        if self.shape.include_usage {
            data(out, &self.head.body::<Choice>("text_completion", &[], Some(Told::Now(usage.into()))))?;
        }
        done(out)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use mayfly_sdk::generation::Finish;

    use super::*;
    use crate::source::tests::Scripted;
    use crate::sse;

    fn shape(echoes: &[&str], choices: u32) -> Shape {
        let echoes = echoes.iter().map(|&echo| echo.to_owned()).collect();
        Shape { echoes, choices, ..Shape::default() }
    }

    fn events(mut source: Scripted, shape: Shape) -> Vec<String> {
        let mut out = Vec::new();
        sse::write(&mut source, &mut Chunks::new(Head::fixed(), shape), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
    }

    #[test]
    fn a_whole_answer() {
        let mut source = Scripted::default().text(0, 0, "a").text(0, 0, "b").end(0, 0, Finish::Stop);
        let answer = whole(&mut source, &Head::fixed(), &Shape { logprobs: true, ..shape(&[""], 1) }).unwrap();
        assert_eq!(
            String::from_utf8(answer).unwrap(),
            r#"{"id":"id-1","object":"text_completion","created":7,"model":"m","choices":[{"text":"ab","index":0,"logprobs":{"tokens":["a","b"],"token_logprobs":[-0.5,-0.5],"top_logprobs":[{"a":-0.5},{"b":-0.5}],"text_offset":[0,1]},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":2}}}"#
        );
    }

    #[test]
    fn choices_of_a_prompt_stand_side_by_side() {
        let mut source = Scripted::default()
            .text(1, 0, "c")
            .text(0, 1, "b")
            .text(0, 0, "a")
            .text(1, 1, "d")
            .end(1, 1, Finish::Length)
            .end(0, 0, Finish::Stop);
        let answer = whole(&mut source, &Head::fixed(), &shape(&["0:", "1:"], 2)).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        let choices = answer["choices"].as_array().unwrap();
        let texts: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(texts, ["0:a", "0:b", "1:c", "1:d"]);
        assert!(choices.iter().enumerate().all(|(index, choice)| choice["index"] == index));
        let mut beyond = Scripted::default().text(0, 2, "a");
        assert_eq!(whole(&mut beyond, &Head::fixed(), &shape(&["", ""], 2)).unwrap_err().status(), 500);
    }

    #[test]
    fn a_stream() {
        let source = Scripted::default().text(0, 0, "a").text(0, 0, "").text(0, 0, "ü").end(0, 0, Finish::Length);
        let shape = Shape { logprobs: true, include_usage: true, ..shape(&[""], 1) };
        let all = events(source, shape);
        let head = r#"{"id":"id-1","object":"text_completion","created":7,"model":"m","choices":["#;
        assert!(all[0].starts_with(&format!(r#"{head}{{"text":"a","index":0,"logprobs":{{"tokens":["a"]"#)), "{all:?}");
        assert!(all[1].contains(r#""text":"ü","index":0,"logprobs":{"tokens":["","ü"]"#), "{all:?}");
        assert!(all[1].contains(r#""text_offset":[1,1]"#), "{all:?}");
        assert!(all[2].contains(r#""text":"","index":0"#) && all[2].contains(r#""finish_reason":"length""#), "{all:?}");
        assert!(all[3].starts_with(&format!(r#"{head}],"usage":{{"prompt_tokens":5"#)), "{all:?}");
        assert_eq!(all[4..], ["[DONE]"]);
    }

    #[test]
    fn a_filtered_choice_says_so() {
        let source = || Scripted::default().text(0, 0, "a").end(0, 0, Finish::ContentFilter);
        let all = events(source(), shape(&[""], 1));
        assert!(all[1].contains(r#""finish_reason":"content_filter""#), "{all:?}");
        let answer = whole(&mut source(), &Head::fixed(), &shape(&[""], 1)).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["choices"][0]["finish_reason"], "content_filter");
    }

    #[test]
    fn an_echo_comes_first() {
        let all = events(Scripted::default().text(0, 0, "b").end(0, 0, Finish::Stop), shape(&["a"], 1));
        assert!(all[0].contains(r#""text":"a""#) && all[1].contains(r#""text":"b""#), "{all:?}");
    }
}
