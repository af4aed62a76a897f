//! A caller of chat completions who notes when each event of the answer came.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::server::Server;

const PATH: &str = "/d/default/chat/v1/chat/completions";

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Stream {
    connection: BufReader<TcpStream>,
    pub(super) sent: Instant,
    /// Of an event whose end has not come yet.
    open: Vec<u8>,
    /// An answer that is over when its head leaves comes in one piece, not in chunks.
    whole: bool,
    /// The server's name of the request.
    pub(super) id: String,
}

/// One event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) at: Instant,
    /// None for `[DONE]`.
    pub(super) body: Option<Value>,
}

impl Event {
    /// Whether it brought text.
    pub(super) fn has_text(&self) -> bool {
        let content = self.body.as_ref().and_then(|body| body["choices"][0]["delta"]["content"].as_str());
        content.is_some_and(|content| !content.is_empty())
    }
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) sent: Instant,
    /// When each piece of text came.
    pub(super) texts: Vec<Instant>,
    pub(super) prompt_tokens: u32,
    pub(super) cached_tokens: u32,
    pub(super) completion_tokens: u32,
}

impl Seen {
    /// From the request to the first text.
    pub(super) fn first(&self) -> Duration {
        self.texts[0] - self.sent
    }

    /// From the request to the last text.
    pub(super) fn whole(&self) -> Duration {
        self.end() - self.sent
    }

    pub(super) fn end(&self) -> Instant {
        self.texts[self.texts.len() - 1]
    }

    /// Tokens per second from the first text to the last.
    pub(super) fn decode_rate(&self) -> f64 {
        f64::from(self.completion_tokens.saturating_sub(1)) / (self.end() - self.texts[0]).as_secs_f64()
    }
}

fn named(line: &str, wanted: &str) -> bool {
    line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case(wanted))
}

impl Stream {
    /// Sends a request with `"stream": true` on a connection of its own.
    pub(super) fn ask(server: &Server, body: &Value) -> anyhow::Result<Self> {
        let body = body.to_string();
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            server.key(),
            body.len()
        );
        let mut stream = TcpStream::connect(server.data()).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let sent = Instant::now();
        stream.write_all(request.as_bytes())?;
        Ok(Self { connection: BufReader::new(stream), sent, open: Vec::new(), whole: false, id: String::new() })
    }

    /// Reads the head.
    ///
    /// # Errors
    /// Any answer but 200.
    pub(super) fn begin(&mut self) -> anyhow::Result<()> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(self.connection.read_line(&mut head)? > 0, "the server closed the connection");
        }
        let header = |wanted: &str| {
            let named = |line: &'_ str| Some(line.split_once(':')?.1.trim().to_owned()).filter(|_| named(line, wanted));
            head.lines().find_map(named)
        };
        let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
        self.id = header("x-request-id").unwrap_or_default();
        if head.starts_with("HTTP/1.1 200") {
            if let Some(length) = length {
                self.open.resize(length, 0);
                self.connection.read_exact(&mut self.open)?;
                self.whole = true;
            }
            return Ok(());
        }
        let mut text = vec![0; 2048];
        let length = self.connection.read(&mut text)?;
        let status = head.lines().next().unwrap_or_default();
        bail!("the server answered {status}: {}", String::from_utf8_lossy(&text[..length]));
    }

    /// The next event; none at the end of the body.
    ///
    /// # Errors
    /// Also for an event that says what went wrong.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(end) = self.open.windows(2).position(|two| two == b"\n\n") {
                let at = Instant::now();
                let rest = self.open.split_off(end + 2);
                let event = std::mem::replace(&mut self.open, rest);
                let data = event.strip_prefix(b"data: ").context("an event without data")?;
                if data.starts_with(b"[DONE]") {
                    return Ok(Some(Event { at, body: None }));
                }
                let body: Value = serde_json::from_slice(data)?;
                ensure!(body.get("error").is_none(), "the answer ended with {body}");
                return Ok(Some(Event { at, body: Some(body) }));
            }
            if self.whole || !self.chunk()? {
                return Ok(None);
            }
        }
    }

    /// Takes one chunk of the body; false for the last.
    fn chunk(&mut self) -> anyhow::Result<bool> {
        let mut line = String::new();
        ensure!(self.connection.read_line(&mut line)? > 0, "the server closed the connection");
        let size = usize::from_str_radix(line.trim(), 16).context("a chunk's size")?;
        let begin = self.open.len();
        self.open.resize(begin + size, 0);
        self.connection.read_exact(&mut self.open[begin..])?;
        self.connection.read_line(&mut line)?;
        Ok(size > 0)
    }

    /// Reads to the end.
    pub(super) fn read(mut self) -> anyhow::Result<Seen> {
        self.begin()?;
        let (mut texts, mut usage) = (Vec::new(), Value::Null);
        while let Some(event) = self.next()? {
            if event.has_text() {
                texts.push(event.at);
            }
            usage = event.body.map(|body| body["usage"].clone()).filter(Value::is_object).unwrap_or(usage);
        }
        ensure!(!texts.is_empty(), "no text came");
        let count = |value: &Value| value.as_u64().and_then(|count| u32::try_from(count).ok());
        Ok(Seen {
            sent: self.sent,
            texts,
            prompt_tokens: count(&usage["prompt_tokens"]).context("usage.prompt_tokens")?,
            cached_tokens: count(&usage["prompt_tokens_details"]["cached_tokens"]).unwrap_or(0),
            completion_tokens: count(&usage["completion_tokens"]).context("usage.completion_tokens")?,
        })
    }
}
