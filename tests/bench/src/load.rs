//! Many connections in a closed loop, driven by one thread, as cheaply as it goes: the server has to share the
//! machine's cores with it, and what it costs is in both sides of a ratio.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};

use crate::measure::Samples;

/// The longest answer it takes, head and body.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// What is sent, again and again.
#[derive(Debug)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    pub(crate) fn get(path: &str, key: &str) -> Self {
        Self(format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\r\n").into_bytes())
    }

    /// With a body of JSON, shorter than a socket's buffer.
    pub(crate) fn post(path: &str, key: &str, body: &str) -> Self {
        let head = format!("POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n");
        let length = body.len();
        Self(format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes())
    }
}

struct Connection {
    stream: TcpStream,
    begun: Instant,
    seen: Vec<u8>,
}

/// Sends `request` over `connections` connections, each again as soon as it was answered, for `length`. Gives the
/// answers per second and what each took.
///
/// # Errors
/// Any answer but 200, a closed connection, an answer longer than 16 KiB.
#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
pub(crate) fn load(
    address: SocketAddr,
    request: &Request,
    connections: usize,
    length: Duration,
) -> anyhow::Result<(f64, Samples)> {
    let begun = Instant::now();
    let mut all = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.write_all(&request.0)?;
        stream.set_nonblocking(true)?;
        all.push(Connection { stream, begun: Instant::now(), seen: Vec::with_capacity(ANSWER_BYTES_MAX) });
    }
    let mut samples = Samples::default();
    let mut ready = VecDeque::with_capacity(connections);
    while begun.elapsed() < length {
        let mut waiting: Vec<_> = all.iter().map(|one| PollFd::new(&one.stream, PollFlags::IN)).collect();
        poll(&mut waiting, Some(&rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 }))?;
        ready.extend(waiting.iter().enumerate().filter(|(_, one)| !one.revents().is_empty()).map(|(place, _)| place));
        ensure!(!ready.is_empty(), "no answer within 10 s");
        while let Some(place) = ready.pop_front() {
            let one = &mut all[place];
            if one.read()? {
                samples.push(one.begun.elapsed());
                one.seen.clear();
                one.begun = Instant::now();
                // A request is shorter than any socket's buffer.
                one.stream.write_all(&request.0)?;
            }
        }
    }
    Ok((samples.len() as f64 / begun.elapsed().as_secs_f64(), samples))
}

impl Connection {
    /// Takes what has come. True if the answer is whole.
    fn read(&mut self) -> anyhow::Result<bool> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(count) => self.seen.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        ensure!(self.seen.len() <= ANSWER_BYTES_MAX, "an answer is longer than {ANSWER_BYTES_MAX} bytes");
        let Some(head) = self.seen.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
        let (head, body) = self.seen.split_at(head + 4);
        ensure!(head.starts_with(b"HTTP/1.1 200"), "answer: {}", String::from_utf8_lossy(head));
        let length = head.split(|byte| *byte == b'\n').find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:").then(|| String::from_utf8_lossy(value).trim().parse().ok())?
        });
        Ok(match length {
            Some(length) => body.len() >= length,
            // In chunks.
            None => body.ends_with(b"0\r\n\r\n"),
        })
    }
}
