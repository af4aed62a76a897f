//! Bodies with limits: a piece that does not come in time, a body that is too long, memory that is shared.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use mayfly_calls::Body;
use tokio::time::Sleep;

use crate::room::{NoRoom, Owner, Part, Room};

/// Errors of bodies.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that is all there.
pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The next piece of the body did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("the next piece of the body did not come within {0:?}")]
pub(crate) struct TooSlow(Duration);

/// A body whose every piece has to come within a time.
#[derive(Debug)]
pub(crate) struct Paced<B> {
    body: B,
    wait: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    pub(crate) fn new(body: B, wait: Duration) -> Self {
        Self { body, wait, timer: None }
    }
}

impl<B> http_body::Body for Paced<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.timer = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let wait = self.wait;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Box::new(TooSlow(wait))))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is longer than the limit.
    #[error("the body is longer than {limit} bytes")]
    TooLong { limit: u64 },
    /// All memory for such bodies is taken.
    #[error("the host holds as many request bodies as it has room for")]
    NoRoom,
    /// The sender broke off, or was too slow.
    #[error("the body did not arrive in full")]
    Incomplete,
}

impl From<NoRoom> for ReadError {
    fn from(_: NoRoom) -> Self {
        Self::NoRoom
    }
}

/// A body that was read whole; its room is given back when it goes.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    part: Part,
}

impl Held {
    /// The body again, to be handed on.
    pub(crate) fn into_body(self) -> Body {
        let part = self.part;
        Full::new(self.bytes)
            .map_frame(move |frame| {
                let _ = &part;
                frame
            })
            .map_err(|never| match never {})
            .boxed_unsync()
    }
}

/// Reads a body of at most `limit` bytes, which has to arrive within `wait`. Room for the declared length is taken
/// first, else as the bytes come.
///
/// # Errors
/// [`ReadError`].
pub(crate) async fn read_held(
    body: Body,
    limit: u64,
    room: &Room,
    owner: Owner,
    wait: Duration,
) -> Result<Held, ReadError> {
    let declared = body.size_hint().upper();
    if declared.is_some_and(|length| length > limit) {
        return Err(ReadError::TooLong { limit });
    }
    let part = room.take(owner, declared.unwrap_or(0))?;
    let read = tokio::time::timeout(wait, read_into(body, limit, part)).await;
    read.unwrap_or(Err(ReadError::Incomplete))
}

async fn read_into(mut body: Body, limit: u64, mut part: Part) -> Result<Held, ReadError> {
    let mut taken = body.size_hint().upper().unwrap_or(0);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ReadError::Incomplete)?;
        let Ok(data) = frame.into_data() else { continue };
        let length = bytes.len() as u64 + data.len() as u64;
        if length > limit {
            return Err(ReadError::TooLong { limit });
        }
        while length > taken {
            let more = (taken.max(32 * 1024)).min(limit - taken).max(length - taken);
            part.grow(more)?;
            taken += more;
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Held { bytes: bytes.freeze(), part })
}

/// Reads a short body of at most `limit` bytes.
///
/// # Errors
/// [`ReadError`].
pub(crate) async fn read(
    body: impl http_body::Body<Data = Bytes, Error: Into<BoxError>>,
    limit: u64,
) -> Result<Bytes, ReadError> {
    let limit_here = usize::try_from(limit).unwrap_or(usize::MAX);
    http_body_util::Limited::new(body, limit_here).collect().await.map(http_body_util::Collected::to_bytes).map_err(
        |error| {
            if error.is::<http_body_util::LengthLimitError>() {
                ReadError::TooLong { limit }
            } else {
                ReadError::Incomplete
            }
        },
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use futures::stream;
    use http_body_util::StreamBody;

    fn pieces(parts: Vec<&'static str>) -> Body {
        StreamBody::new(stream::iter(parts.into_iter().map(|p| Ok::<_, BoxError>(Frame::data(Bytes::from(p))))))
            .boxed_unsync()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_an_error() {
        let stuck =
            StreamBody::new(stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from("a")))]).chain(stream::pending()));
        use futures::StreamExt;
        let mut body = Paced::new(Box::pin(stuck), Duration::from_secs(5));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.is::<TooSlow>(), "{error}");
    }

    async fn read_held(body: Body, limit: u64, room: &Room) -> Result<Held, ReadError> {
        super::read_held(body, limit, room, None, Duration::from_secs(60)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_an_error_and_gives_its_room_back() {
        let trickle = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from("a"))), ()))
        });
        let body = Paced::new(StreamBody::new(Box::pin(trickle)), Duration::from_secs(5)).boxed_unsync();
        let room = Room::new(1 << 20);
        let read = super::read_held(body, 1 << 20, &room, None, Duration::from_secs(60)).await;
        assert!(matches!(read, Err(ReadError::Incomplete)));
        assert!(room.take(None, 1 << 20).is_ok());
    }

    #[tokio::test]
    async fn limits_and_room() {
        let room = Room::new(64 * 1024);
        assert_eq!(read_held(pieces(vec!["ab", "c"]), 3, &room).await.unwrap().bytes, "abc");
        assert!(matches!(read_held(pieces(vec!["ab", "cd"]), 3, &room).await, Err(ReadError::TooLong { limit: 3 })));
        assert!(matches!(read_held(full(Bytes::from("abcd")), 3, &room).await, Err(ReadError::TooLong { .. })));
        let held = read_held(full(Bytes::from(vec![0; 40_000])), 1 << 20, &room).await.unwrap();
        assert!(matches!(read_held(full(Bytes::from(vec![0; 40_000])), 1 << 20, &room).await, Err(ReadError::NoRoom)));
        let body = held.into_body();
        assert!(read_held(full(Bytes::from(vec![0; 40_000])), 1 << 20, &room).await.is_err());
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 40_000);
        assert!(read_held(full(Bytes::from(vec![0; 40_000])), 1 << 20, &room).await.is_ok());
    }

    #[tokio::test]
    async fn short_bodies() {
        assert_eq!(read(pieces(vec!["a", "b"]), 2).await.unwrap(), "ab");
        assert!(matches!(read(pieces(vec!["a", "b"]), 1).await, Err(ReadError::TooLong { .. })));
        let broken = StreamBody::new(stream::iter([Err::<Frame<Bytes>, BoxError>("gone".into())])).boxed_unsync();
        assert!(matches!(read(broken, 1).await, Err(ReadError::Incomplete)));
    }
}
