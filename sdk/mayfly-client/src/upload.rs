//! Bodies that are made while they are sent: bounded memory whatever their size, and a word on how far they are.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::Body;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::PackageError;
use crate::package::Package;

/// Bytes of one piece.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait to be sent.
const PIECES_WAITING_MAX: usize = 4;

type Callback = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Told how many bytes were sent, and how many there are in all (of files: an archive's own headers come on top).
#[derive(Clone, Default)]
pub struct Progress(Option<Callback>);

impl Progress {
    /// Tells nobody.
    pub fn none() -> Self {
        Self(None)
    }

    /// Calls `tell` with `(sent, total)` after each piece.
    pub fn new(tell: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    fn tell(&self, sent: u64, total: u64) {
        if let Some(tell) = &self.0 {
            tell(sent, total);
        }
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Progress(…)" } else { "Progress(none)" })
    }
}

/// A file as a body, and its length.
pub(crate) async fn file_body(path: &Path, progress: Progress) -> Result<(Body, u64), PackageError> {
    let at = path.to_owned();
    let error = |source| PackageError::Io { path: at.clone(), source };
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        Ok::<_, io::Error>((file, length))
    });
    let (file, length) = opened.await.map_err(io::Error::other).and_then(|opened| opened).map_err(error)?;
    let body = body(length, progress, move |writer| {
        // A file that grows meanwhile must not make the body longer than it was said to be.
        io::copy(&mut file.take(length), writer).map(drop)
    });
    Ok((body, length))
}

/// A package as a tar archive.
pub(crate) fn package_body(package: Package, progress: Progress) -> Body {
    let total = package.bytes;
    body(total, progress, move |writer| {
        package.write(writer).map_err(|error| match error {
            PackageError::Io { source, .. } => source,
            other => io::Error::other(other),
        })
    })
}

/// What `write` writes on a thread that may block, as a body. Its error is the body's.
fn body(total: u64, progress: Progress, write: impl FnOnce(&mut Pieces) -> io::Result<()> + Send + 'static) -> Body {
    let (send, receive) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { send, piece: Vec::with_capacity(PIECE_BYTES) };
        let written = write(&mut pieces).and_then(|()| pieces.flush());
        if let Err(error) = written {
            // Nobody listens if the request has ended: then the error is known already.
            let _ = pieces.send.blocking_send(Err(error));
        }
    });
    let mut sent = 0_u64;
    Body::wrap_stream(ReceiverStream::new(receive).inspect(move |piece: &io::Result<Bytes>| {
        if let Ok(piece) = piece {
            sent = sent.saturating_add(piece.len() as u64);
            progress.tell(sent, total);
        }
    }))
}

/// Collects small writes to pieces.
struct Pieces {
    send: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.send.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[tokio::test]
    async fn a_file_is_sent_whole_and_progress_is_told() {
        use http_body_util::BodyExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..PIECE_BYTES * 2 + 7).map(|n| u8::try_from(n % 251).unwrap()).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let last = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&last);
        let progress = Progress::new(move |sent, total| {
            assert!(sent <= total);
            seen.store(sent, Ordering::Relaxed);
        });
        let (body, length) = file_body(file.path(), progress).await.unwrap();
        let read = body.collect().await.unwrap().to_bytes();
        assert_eq!((read.len() as u64, length), (bytes.len() as u64, bytes.len() as u64));
        assert_eq!(read, bytes);
        assert_eq!(last.load(Ordering::Relaxed), length);
    }

    #[tokio::test]
    async fn an_error_breaks_the_body() {
        use http_body_util::BodyExt;
        let broken = body(1, Progress::none(), |_| Err(io::Error::other("gone")));
        assert!(broken.collect().await.is_err());
        assert!(file_body(Path::new("/no/such/file"), Progress::none()).await.is_err());
    }
}
