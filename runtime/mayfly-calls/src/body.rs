//! The body types that go in and come out.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use mayfly_host::BodyError;
use tokio::sync::oneshot;

use crate::handoff::Taker;

/// A body: an error ends the connection without a proper end, so that nobody takes a part for the whole.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A body that is all there.
pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A request body that ends with an error once it is longer than its limit.
#[derive(Debug)]
pub(crate) struct Limited {
    inner: Body,
    limit: u64,
    left: u64,
    too_large: Arc<AtomicBool>,
}

impl Limited {
    /// `too_large` is set when the limit is passed: the caller is told so, whatever the guest makes of it.
    pub(crate) fn new(inner: Body, limit: u64, too_large: Arc<AtomicBool>) -> Self {
        Self { inner, limit, left: limit, too_large }
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.too_large.load(Ordering::Relaxed) {
            return Poll::Ready(Some(Err(BodyError::TooLarge { limit: this.limit })));
        }
        let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(cx)) else { return Poll::Ready(None) };
        let Ok(frame) = frame else { return Poll::Ready(Some(Err(BodyError::Incomplete))) };
        if let Some(data) = frame.data_ref() {
            let bytes = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            let Some(left) = this.left.checked_sub(bytes) else {
                this.too_large.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(BodyError::TooLarge { limit: this.limit })));
            };
            this.left = left;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What the task of a call sends to its streamed answer.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes whose usage is durable, and who wants to know that they were written.
    Data(Bytes, oneshot::Sender<()>),
    /// The proper end; the call has settled.
    End(Option<HeaderMap>),
    /// Cut the connection.
    Cut(&'static str),
}

/// The end of a streamed answer is missing.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut off: {0}")]
struct CutOff(&'static str);

/// A streamed answer. Ends properly only after [`Piece::End`].
#[derive(Debug)]
pub(crate) struct Streamed {
    pieces: Taker<Piece>,
    ended: bool,
    /// The last frame, as long as it may be in the server's hands only, and whether the server has had its turn since.
    unwritten: Option<(oneshot::Sender<()>, bool)>,
}

impl Streamed {
    pub(crate) fn new(pieces: Taker<Piece>) -> Self {
        Self { pieces, ended: false, unwritten: None }
    }
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // The server asks for the next frame before it writes the last one: it writes when there is none for the moment.
        if let Some((_, had_turn @ false)) = &mut self.unwritten {
            *had_turn = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some((written, _)) = self.unwritten.take() {
            let _ = written.send(());
        }
        let piece = ready!(self.pieces.poll_take(cx)).unwrap_or(Piece::Cut("the host failed"));
        Poll::Ready(match piece {
            Piece::Data(bytes, written) => {
                self.unwritten = Some((written, false));
                Some(Ok(Frame::data(bytes)))
            }
            Piece::End(trailers) => {
                self.ended = true;
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
            Piece::Cut(why) => {
                self.ended = true;
                Some(Err(CutOff(why).into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use futures::stream;
    use http_body_util::StreamBody;

    use super::*;
    use crate::handoff::handoff;

    fn body(parts: &[Result<&'static str, &'static str>]) -> Body {
        let frames: Vec<Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>> = parts
            .iter()
            .map(|part| part.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))).map_err(Into::into))
            .collect();
        StreamBody::new(stream::iter(frames)).boxed_unsync()
    }

    async fn read(parts: &[Result<&'static str, &'static str>], limit: u64) -> (Result<Bytes, BodyError>, bool) {
        let flag = Arc::new(AtomicBool::new(false));
        let read = Limited::new(body(parts), limit, flag.clone()).collect().await;
        (read.map(http_body_util::Collected::to_bytes), flag.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_request_body_has_a_limit() {
        assert_eq!(read(&[Ok("abc"), Ok("de")], 5).await, (Ok(Bytes::from_static(b"abcde")), false));
        assert_eq!(read(&[Ok("abc"), Ok("def")], 5).await, (Err(BodyError::TooLarge { limit: 5 }), true));
        assert_eq!(read(&[Ok("abc"), Err("gone")], 5).await, (Err(BodyError::Incomplete), false));
        assert_eq!(read(&[Ok("a")], 0).await.0, Err(BodyError::TooLarge { limit: 0 }));
        assert_eq!(read(&[], 0).await.0, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn an_answer_without_its_end_is_an_error() {
        let data = |text: &'static str| Piece::Data(Bytes::from_static(text.as_bytes()), oneshot::channel().0);
        let (pieces, taker) = handoff();
        pieces.give(data("half")).unwrap();
        drop(pieces);
        assert!(Streamed::new(taker).collect().await.is_err());

        let (pieces, taker) = handoff();
        let giving = async {
            pieces.give(data("all")).unwrap();
            pieces.free().await.unwrap();
            pieces.give(Piece::End(None)).unwrap();
        };
        let (answer, ()) = tokio::join!(Streamed::new(taker).collect(), giving);
        assert_eq!(answer.unwrap().to_bytes(), "all");
    }
}
