//! A deployment's log, line by line.

use mayfly_api::LogLine;
use reqwest::{Method, Response};

use crate::deployments::below;
use crate::{Client, Error};

/// Bytes of one line; a longer one is no line of ours.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Lines as they come.
#[derive(Debug)]
pub struct Logs {
    response: Response,
    address: String,
    lines: Lines,
}

impl Client {
    /// The last `tail` lines; with `follow`, then those to come, until it is dropped.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn logs(&self, project: &str, name: &str, tail: u32, follow: bool) -> Result<Logs, Error> {
        let request = self
            .request(Method::GET, &below(project, name, "logs"))
            .query(&[("tail", tail.to_string()), ("follow", follow.to_string())]);
        Ok(Logs { response: self.send(request).await?, address: self.address().to_owned(), lines: Lines::default() })
    }
}

impl Logs {
    /// The next line; none at the end.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        loop {
            if let Some(line) = self.lines.take() {
                return serde_json::from_slice(&line).map(Some).map_err(|error| Error::Answer(error.to_string()));
            }
            let piece = self.response.chunk().await;
            match piece.map_err(|source| Error::Connection { address: self.address.clone(), source })? {
                Some(piece) => self.lines.add(&piece)?,
                None => return Ok(None),
            }
        }
    }
}

/// Pieces become lines.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn add(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(piece);
        if self.0.len() > LINE_BYTES_MAX && !self.0.contains(&b'\n') {
            return Err(Error::Answer("a line of the log is too long".to_owned()));
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = self.0.iter().position(|byte| *byte == b'\n')?;
            let mut line: Vec<u8> = self.0.drain(..=end).collect();
            line.pop();
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lines_across_pieces() {
        let mut lines = Lines::default();
        lines.add(b"{\"a\"").unwrap();
        assert_eq!(lines.take(), None);
        lines.add(b":1}\n\n{\"b\":2}\n{").unwrap();
        assert_eq!(lines.take().unwrap(), b"{\"a\":1}");
        assert_eq!(lines.take().unwrap(), b"{\"b\":2}");
        assert_eq!(lines.take(), None);
        assert!(lines.add(&vec![b'x'; LINE_BYTES_MAX + 1]).is_err());
    }
}
