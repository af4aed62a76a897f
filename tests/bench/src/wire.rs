//! A bare HTTP/1.1 client on one connection: as little as possible between the clock and the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// One kept-alive connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
    key: String,
}

/// An answer and how long its first byte took.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) first_byte: Duration,
    pub(crate) whole: Duration,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// One part of `Server-Timing`; none if it is not told.
    pub(crate) fn timing(&self, part: &str) -> Option<Duration> {
        let told = self.header("server-timing")?.split(", ").find_map(|told| {
            let (name, length) = told.split_once(";dur=")?;
            (name == part).then_some(length)
        })?;
        let ms: f64 = told.parse().ok()?;
        Duration::try_from_secs_f64(ms / 1e3).ok()
    }
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr, key: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream: BufReader::new(stream), key: key.to_owned() })
    }

    /// Sends one request and reads its whole answer. The clock starts before the write.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Answer> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.key,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let begin = Instant::now();
        self.stream.get_mut().write_all(&request)?;
        if self.stream.fill_buf()?.is_empty() {
            bail!("the server closed the connection");
        }
        let first_byte = begin.elapsed();
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the status line")?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, v)| v.parse().ok());
        let mut answer = Vec::new();
        match length {
            Some(length) => {
                answer.resize(length, 0);
                self.stream.read_exact(&mut answer)?;
            }
            // No content.
            None if status == 204 => {}
            None => self.read_chunks(&mut answer)?,
        }
        Ok(Answer { status, headers, body: answer, first_byte, whole: begin.elapsed() })
    }

    fn read_chunks(&mut self, into: &mut Vec<u8>) -> anyhow::Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).context("a chunk's size")?;
            let begin = into.len();
            into.resize(begin + size, 0);
            self.stream.read_exact(&mut into[begin..])?;
            line.clear();
            self.stream.read_line(&mut line)?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}
