//! Memory for bodies that have to be read whole: bounded over all requests, and shared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mayfly_types::TenantId;

/// Whose memory it is; none is the operator.
pub(crate) type Owner = Option<TenantId>;

/// Who holds this many times what is free gets no more: something is always left for who comes next.
const SHARE: u64 = 4;

/// All of it. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: u64,
    /// By owner; nobody holds nothing.
    held: HashMap<Owner, u64>,
}

/// There is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// A part of it. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Part {
    room: Room,
    owner: Owner,
    bytes: u64,
}

impl Room {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(State { free: bytes, held: HashMap::new() })))
    }

    /// Takes `bytes` for `owner`.
    pub(crate) fn take(&self, owner: Owner, bytes: u64) -> Result<Part, NoRoom> {
        let mut part = Part { room: self.clone(), owner, bytes: 0 };
        part.grow(bytes).map(|()| part)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Takes as many more; on failure what is there stays.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), NoRoom> {
        if bytes == 0 {
            return Ok(());
        }
        let mut state = self.room.lock();
        let held = state.held.get(&self.owner).copied().unwrap_or(0);
        if bytes > state.free || held >= state.free.saturating_mul(SHARE) {
            return Err(NoRoom);
        }
        state.free -= bytes;
        state.held.insert(self.owner, held + bytes);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.free += self.bytes;
        if let Some(held) = state.held.get_mut(&self.owner) {
            *held -= self.bytes;
            if *held == 0 {
                state.held.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn tenant(number: u8) -> Owner {
        Some(TenantId::from_bytes([number; 16]))
    }

    #[test]
    fn what_is_taken_comes_back() {
        let room = Room::new(100);
        let mut part = room.take(tenant(1), 60).unwrap();
        assert_eq!(part.grow(41), Err(NoRoom));
        part.grow(40).unwrap();
        assert!(room.take(tenant(2), 1).is_err());
        drop(part);
        let all = room.take(tenant(2), 100).unwrap();
        drop(all);
        let state = room.lock();
        assert_eq!((state.free, state.held.len()), (100, 0));
    }

    #[test]
    fn one_alone_leaves_something_for_others() {
        let room = Room::new(1_000);
        let parts: Vec<_> = std::iter::from_fn(|| room.take(tenant(1), 10).ok()).collect();
        assert_eq!(parts.len(), 80);
        let others: Vec<_> = std::iter::from_fn(|| room.take(tenant(2), 10).ok()).collect();
        assert_eq!(others.len(), 16, "until it holds four times the rest, too");
        assert!(room.take(None, 10).is_ok());
        drop(others);
        assert!(room.take(tenant(1), 10).is_err(), "it still has more than its share");
    }
}
