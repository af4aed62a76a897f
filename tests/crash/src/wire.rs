//! A bare HTTP/1.1 client that counts the bytes of the body as they come, to the very last one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// How long a client waits for the next byte. Longer than any frame takes.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// The beginning of an answer; its body is still to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    length: Option<usize>,
    stream: BufReader<TcpStream>,
}

/// How a body went on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// So many bytes came.
    Bytes(Vec<u8>),
    /// The proper end.
    End,
    /// The connection broke.
    Broken,
}

/// Sends a request; gives the head of its answer.
pub(crate) fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    sent: &mut bool,
) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: crash\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(request.as_bytes())?;
    stream.get_mut().write_all(body)?;
    *sent = true;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
    let mut length = None;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            bail!("the head broke off");
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse().context("content-length")?);
        }
    }
    Ok(Answer { status, length, stream })
}

impl Answer {
    /// Tells the server that its client has gone; what was on its way can still be read.
    pub(crate) fn leave(&self) -> std::io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }

    /// The next bytes of the body, as soon as there are any.
    pub(crate) fn piece(&mut self) -> Piece {
        self.read().unwrap_or(Piece::Broken)
    }

    fn read(&mut self) -> std::io::Result<Piece> {
        if let Some(left) = self.length {
            if left == 0 {
                return Ok(Piece::End);
            }
            let bytes = self.some(left)?;
            self.length = Some(left - bytes.len());
            return Ok(if bytes.is_empty() { Piece::Broken } else { Piece::Bytes(bytes) });
        }
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let Ok(size) = usize::from_str_radix(line.trim(), 16) else { return Ok(Piece::Broken) };
        if size == 0 {
            // The end counts only with its empty line.
            line.clear();
            self.stream.read_line(&mut line)?;
            return Ok(if line == "\r\n" { Piece::End } else { Piece::Broken });
        }
        let mut bytes = vec![0; size];
        let mut have = 0;
        while have < size {
            match self.stream.read(&mut bytes[have..]) {
                Ok(0) | Err(_) => break,
                Ok(more) => have += more,
            }
        }
        bytes.truncate(have);
        if have == size {
            line.clear();
            self.stream.read_line(&mut line)?;
        }
        Ok(if have == 0 { Piece::Broken } else { Piece::Bytes(bytes) })
    }

    fn some(&mut self, most: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; most.min(1 << 16)];
        let have = self.stream.read(&mut bytes)?;
        bytes.truncate(have);
        Ok(bytes)
    }

    /// The whole body; none if it broke off.
    pub(crate) fn whole(&mut self) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            match self.piece() {
                Piece::Bytes(bytes) => all.extend(bytes),
                Piece::End => return Some(all),
                Piece::Broken => return None,
            }
        }
    }
}
