//! Calls of the deployment `chat` that stream, and what their clients count: tokens, one entry of `logprobs` each.
//!
//! Tokens are charged when the engine has chosen them, before anybody sees them. It chooses at most [`AHEAD`] that the
//! handler has not taken; the handler takes what there is and writes it as one frame. So one frame holds at most
//! [`AHEAD`] tokens, and when it is written at most so many more are charged. What a frame was written with is durable
//! before it leaves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::attempt::{Attempt, Left};
use crate::caller::Target;
use crate::wire::{self, Piece};

/// Tokens that the engine may be ahead of the handler, and so the most of one frame.
const AHEAD: u64 = 16;
/// Tokens billed beyond those that came, if the process was killed: those of the one frame that was on its way, and
/// those the engine was ahead when it was written.
pub(crate) const AFTER_A_KILL: u64 = AHEAD + AHEAD;
/// Frames between the handler's hand and the connection: the handler's own, two in its body, one that is made durable,
/// one handed over, two at the HTTP library.
const FRAMES_INSIDE: u64 = 7;
/// Tokens of the 20 ms for which the server waits whether an answer is short: their frames wait together, for as long as
/// the stream lasts if its client reads no faster than it is made. The engine needs 0.8 ms for one, alone.
const GATHERED: u64 = 64;
/// Tokens billed beyond those that came, if the client left and read what was on its way: all that was made inside.
pub(crate) const AFTER_LEAVING: u64 = GATHERED + AHEAD * FRAMES_INSIDE + AHEAD;

/// The tokens of tiny-chat that show no text. Without them each chunk of text brings the tokens it was made of, so no
/// token waits in the handler.
const TEXTLESS: [&str; 3] = ["2041", "2042", "2043"];
const QUESTIONS: [&str; 4] = ["tell me everything", "hello", "What is Mayfly?", "Count from one to ten."];

/// How a client reads.
#[derive(Debug)]
pub(crate) struct Manner {
    /// Leaves after so many tokens.
    pub(crate) leave: Option<(u64, Left)>,
    /// Waits so long after each piece, while there is a server.
    pub(crate) pause: Duration,
}

/// How many tokens to ask for: too many for an answer that is sent at once, and fewer than the model's context has.
pub(crate) fn length(random: &mut StdRng) -> u64 {
    if random.random_ratio(1, 2) { random.random_range(100..200) } else { random.random_range(200..900) }
}

/// Calls once.
pub(crate) fn call(attempt: &mut Attempt, target: &Target, manner: &Manner, random: &mut StdRng, over: &AtomicBool) {
    let body = json!({
        "messages": [{ "role": "user", "content": QUESTIONS[random.random_range(0..QUESTIONS.len())] }],
        "stream": true,
        "stream_options": { "include_usage": true },
        "max_tokens": attempt.frames,
        "ignore_eos": true,
        "logit_bias": TEXTLESS.iter().map(|id| (*id, -100)).collect::<std::collections::BTreeMap<_, _>>(),
        "logprobs": true,
        "temperature": 0,
    });
    let bearer = format!("Bearer {}", target.key);
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-mayfly-end-user", attempt.name.as_str()),
        ("content-type", "application/json"),
    ];
    let (path, body) = ("/d/default/chat/v1/chat/completions", body.to_string());
    let sent = &mut attempt.sent;
    let Ok(mut answer) = wire::send(target.address, "POST", path, &headers, body.as_bytes(), sent) else { return };
    if answer.status != 200 {
        let text = answer.whole();
        attempt.refused = text.is_some();
        // Nothing here asks for more than there is.
        attempt.wrong = text.map(|text| format!("{}: {}", answer.status, String::from_utf8_lossy(&text)));
        return;
    }
    attempt.opened = true;
    let mut events = Events::default();
    loop {
        if let Some((after, how)) = manner.leave
            && attempt.left.is_none()
            && events.tokens >= after
        {
            attempt.left = Some(how);
            if how == Left::Closed || answer.leave().is_err() {
                return;
            }
        }
        match answer.piece() {
            Piece::Bytes(bytes) => events.read(&bytes),
            Piece::End => {
                attempt.complete = true;
                attempt.wrong = events.wrong_for(attempt.frames);
                return;
            }
            Piece::Broken => return,
        }
        attempt.received = events.tokens;
        if !over.load(Ordering::Relaxed) {
            std::thread::sleep(manner.pause);
        }
    }
}

/// Server-sent events as their bytes come.
#[derive(Debug, Default)]
struct Events {
    /// The event whose end has not come.
    rest: Vec<u8>,
    tokens: u64,
    /// As the last chunk said.
    usage: Option<u64>,
    done: bool,
    unexpected: Option<String>,
}

impl Events {
    fn read(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = self.rest.drain(..end + 2).collect();
            self.event(String::from_utf8_lossy(&event).trim());
        }
    }

    fn event(&mut self, event: &str) {
        if event == "data: [DONE]" {
            self.done = true;
            return;
        }
        let data = event.strip_prefix("data: ").and_then(|data| serde_json::from_str::<Value>(data).ok());
        match data {
            Some(chunk) if chunk["choices"].is_array() => {
                let tokens = chunk["choices"][0]["logprobs"]["content"].as_array().map_or(0, Vec::len);
                self.tokens += u64::try_from(tokens).unwrap_or(u64::MAX);
                self.usage = chunk["usage"]["completion_tokens"].as_u64().or(self.usage);
            }
            _ => self.unexpected = Some(event.to_owned()),
        }
    }

    /// What is wrong with an answer of `asked` tokens that has ended.
    fn wrong_for(&self, asked: u64) -> Option<String> {
        let right = self.unexpected.is_none() && self.done && self.tokens == asked && self.usage == Some(asked);
        (!right).then(|| format!("{asked} tokens were asked for: {self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: &[u8] = b"data: {\"choices\":[{\"logprobs\":{\"content\":[{},{}]}}],\"usage\":null}\n\n";
    const LAST: &[u8] = b"data: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

    #[test]
    fn tokens_count_with_the_end_of_their_event() {
        let mut events = Events::default();
        let (all_but_one, one) = CHUNK.split_at(CHUNK.len() - 1);
        events.read(all_but_one);
        assert_eq!(events.tokens, 0);
        events.read(one);
        assert_eq!(events.tokens, 2);
        events.read(LAST);
        assert_eq!((events.wrong_for(2), events.wrong_for(3).is_some()), (None, true));
    }

    #[test]
    fn an_error_in_the_stream_is_wrong() {
        let mut events = Events::default();
        events.read(&[CHUNK, b"data: {\"error\":{}}\n\n", LAST].concat());
        assert!(events.wrong_for(2).is_some());
    }
}
