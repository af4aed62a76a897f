//! Request bodies that have to be read whole before their call may begin: how long each may be, and all together.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Body;

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotHeld {
    /// It is longer than the limit.
    #[error("the request body is longer than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// All memory for such bodies is taken.
    #[error("this host holds idempotent_held_bytes_max of request bodies; retry in a moment")]
    NoRoom,
    /// The sender broke off, or was too slow.
    #[error("the request body did not arrive in full")]
    Incomplete,
}

/// Memory for such bodies, counted in KiB. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

/// A body that was read whole; its room is given back when it goes.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    permit: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn new(bytes: u64) -> Self {
        let kib = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(kib)))
    }

    fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, NotHeld> {
        let kib = u32::try_from(bytes.div_ceil(1024)).map_err(|_| NotHeld::NoRoom)?;
        Arc::clone(&self.0).try_acquire_many_owned(kib).map_err(|_| NotHeld::NoRoom)
    }

    /// Reads a body of at most `limit` bytes. Room is taken before the bytes are kept.
    ///
    /// # Errors
    /// [`NotHeld`].
    pub(crate) async fn read(&self, mut body: Body, limit: u64) -> Result<Held, NotHeld> {
        if body.size_hint().lower() > limit {
            return Err(NotHeld::TooLarge { limit });
        }
        let mut permit = self.take(0)?;
        let mut parts: Vec<Bytes> = Vec::new();
        let mut length = 0_u64;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| NotHeld::Incomplete)?.into_data() else { continue };
            if data.is_empty() {
                continue;
            }
            length = length.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            if length > limit {
                return Err(NotHeld::TooLarge { limit });
            }
            let taken = u64::try_from(permit.num_permits()).unwrap_or(u64::MAX);
            permit.merge(self.take(length.saturating_sub(taken.saturating_mul(1024)))?);
            parts.push(data);
        }
        Ok(Held { bytes: joined(parts), permit })
    }
}

impl Held {
    /// The body again, to be handed on.
    pub(crate) fn into_body(self) -> Body {
        let permit = self.permit;
        let body = Full::new(self.bytes).map_frame(move |frame| {
            let _until_it_is_dropped = &permit;
            frame
        });
        body.map_err(|never| match never {}).boxed_unsync()
    }
}

/// One piece is taken over, several are copied together.
fn joined(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() <= 1 {
        return parts.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all.freeze()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    fn body(parts: &[Result<&'static [u8], &'static str>]) -> Body {
        let frame =
            |part: &Result<&'static [u8], &'static str>| -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
                part.map(|bytes| Frame::data(Bytes::from_static(bytes))).map_err(Into::into)
            };
        let frames: Vec<_> = parts.iter().map(frame).collect();
        StreamBody::new(stream::iter(frames)).boxed_unsync()
    }

    #[tokio::test]
    async fn a_body_has_a_limit_and_all_bodies_have_one() {
        let room = Room::new(4 * 1024);
        let held = room.read(body(&[Ok(b"ab"), Ok(b""), Ok(b"c")]), 3).await.unwrap();
        assert_eq!(held.bytes, "abc");
        assert_eq!(room.read(body(&[Ok(b"ab"), Ok(b"cd")]), 3).await.unwrap_err(), NotHeld::TooLarge { limit: 3 });
        assert_eq!(room.read(body(&[Ok(b"ab"), Err("gone")]), 3).await.unwrap_err(), NotHeld::Incomplete);
        let long = [7_u8; 3 * 1024];
        let long: &'static [u8] = Vec::leak(long.to_vec());
        let second = room.read(body(&[Ok(long)]), 1 << 20).await.unwrap();
        assert_eq!(room.read(body(&[Ok(b"x")]), 1 << 20).await.unwrap_err(), NotHeld::NoRoom);
        let again = second.into_body();
        assert_eq!(room.read(body(&[Ok(b"x")]), 1 << 20).await.unwrap_err(), NotHeld::NoRoom, "handed on, not gone");
        assert_eq!(again.collect().await.unwrap().to_bytes().len(), 3 * 1024);
        assert!(room.read(body(&[Ok(long)]), 1 << 20).await.is_ok());
    }
}
