//! A socket whose peer has to take what is written within a time: who never reads holds nothing for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What is written from several places and is this short is copied together first: the system takes one place for less.
const JOINED_BYTES_MAX: usize = 2048;

/// `stream`, with a limit on how long a write may wait.
#[derive(Debug)]
pub(super) struct Stalling<S> {
    stream: S,
    wait: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    pub(super) fn new(stream: S, wait: Duration) -> Self {
        Self { stream, wait, timer: None }
    }

    fn check<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.timer = None;
            return poll;
        }
        let wait = self.wait;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.check(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut together = [0; JOINED_BYTES_MAX];
        let poll = match joined(&mut together, slices) {
            Some(bytes) => Pin::new(&mut self.stream).poll_write(cx, bytes),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
        };
        self.check(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// All of `slices`, one behind the other in `room`; none if they do not fit.
fn joined<'a>(room: &'a mut [u8], slices: &[io::IoSlice<'_>]) -> Option<&'a [u8]> {
    let mut end = 0_usize;
    for slice in slices {
        let begin = end;
        end = begin.checked_add(slice.len())?;
        room.get_mut(begin..end)?.copy_from_slice(slice);
    }
    Some(&room[..end])
}

#[cfg(test)]
mod tests {
    use io::IoSlice;

    use super::*;

    #[test]
    fn what_fits_is_joined() {
        let mut room = [0; 5];
        let slices =
            |parts: &[&'static str]| parts.iter().map(|part| IoSlice::new(part.as_bytes())).collect::<Vec<_>>();
        assert_eq!(joined(&mut room, &slices(&["ab", "", "cde"])), Some(&b"abcde"[..]));
        assert_eq!(joined(&mut room, &slices(&["x"])), Some(&b"x"[..]));
        assert_eq!(joined(&mut room, &slices(&["ab", "cdef"])), None, "a byte too many");
        assert_eq!(joined(&mut room, &[]), Some(&b""[..]));
    }
}
