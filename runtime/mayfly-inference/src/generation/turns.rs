//! Turns to compile constraints. Compiling one can take seconds of a core and cannot be stopped half way, so few are
//! compiled at once, and nobody has all of the turns: decoding goes on, and so do the constraints of others.
//!
//! A turn ends with the work, not with the caller who waited for it: who leaves early gets no second one sooner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::GenerationError;

/// The turns of one node.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// Turns of each owner that has or wants some.
    owners: Mutex<HashMap<u128, Weak<Semaphore>>>,
    owner_max: usize,
    waiting: Semaphore,
    waiting_max: u32,
}

/// One turn; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _of_owner: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    /// `at_once`: constraints compiled at once, at least one; half of them, rounded up, of one owner. `waiting_max`: those
    /// that wait.
    pub(crate) fn new(at_once: usize, waiting_max: u32) -> Self {
        Self {
            all: Arc::new(Semaphore::new(at_once.max(1))),
            owners: Mutex::default(),
            owner_max: at_once.max(1).div_ceil(2),
            waiting: Semaphore::new(usize::try_from(waiting_max).unwrap_or(Semaphore::MAX_PERMITS)),
            waiting_max,
        }
    }

    /// Waits for a turn, behind those who came before. Cancel safe.
    ///
    /// # Errors
    /// [`GenerationError::BusyCompiling`]: as many wait as may.
    pub(crate) async fn take(&self, owner: u128) -> Result<Turn, GenerationError> {
        const OPEN: &str = "nobody closes it";
        let full = |_| GenerationError::BusyCompiling { limit: self.waiting_max };
        let _waits = self.waiting.try_acquire().map_err(full)?;
        // The owner's first: one who wants many waits in one place of the line that all stand in.
        let _of_owner = self.turns_of(owner).acquire_owned().await.expect(OPEN);
        let _of_all = Arc::clone(&self.all).acquire_owned().await.expect(OPEN);
        Ok(Turn { _of_owner, _of_all })
    }

    fn turns_of(&self, owner: u128) -> Arc<Semaphore> {
        // Nothing that can panic runs under this lock.
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        // No more are left than have a turn or wait for one.
        owners.retain(|_, turns| turns.strong_count() > 0);
        if let Some(turns) = owners.get(&owner).and_then(Weak::upgrade) {
            return turns;
        }
        let turns = Arc::new(Semaphore::new(self.owner_max));
        owners.insert(owner, Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn few_have_a_turn_at_once_and_nobody_has_all() {
        let turns = Turns::new(2, 10);
        let first = turns.take(1).now_or_never().unwrap().unwrap();
        let mut second_of_the_same = pin!(turns.take(1));
        assert!((&mut second_of_the_same).now_or_never().is_none());
        let other = turns.take(2).now_or_never().expect("the other half").unwrap();
        let mut third = pin!(turns.take(3));
        assert!((&mut third).now_or_never().is_none());
        drop(other);
        let _third = third.now_or_never().unwrap().unwrap();
        assert!((&mut second_of_the_same).now_or_never().is_none());
        drop(first);
        second_of_the_same.now_or_never().unwrap().unwrap();
    }

    #[test]
    fn who_wants_many_does_not_stand_before_others() {
        let turns = Turns::new(1, 10);
        let first = turns.take(1).now_or_never().unwrap().unwrap();
        let mut more = [pin!(turns.take(1)), pin!(turns.take(1))];
        for wanted in &mut more {
            assert!(wanted.as_mut().now_or_never().is_none());
        }
        let mut other = pin!(turns.take(2));
        assert!((&mut other).now_or_never().is_none());
        drop(first);
        let other = other.now_or_never().expect("the others of the first owner wait for each other").unwrap();
        drop(other);
        let [second, third] = &mut more;
        drop(second.as_mut().now_or_never().unwrap().unwrap());
        drop(third.as_mut().now_or_never().unwrap().unwrap());
        drop(turns.take(3).now_or_never().unwrap().unwrap());
        assert_eq!(turns.owners.lock().unwrap().len(), 1, "who is gone leaves nothing");
    }

    #[test]
    fn as_many_wait_as_may() {
        let turns = Turns::new(1, 2);
        let _first = turns.take(1).now_or_never().unwrap().unwrap();
        {
            let mut waiting = [pin!(turns.take(2)), pin!(turns.take(3))];
            for wanted in &mut waiting {
                assert!(wanted.as_mut().now_or_never().is_none());
            }
            let refused = turns.take(4).now_or_never().unwrap().unwrap_err();
            assert!(matches!(refused, GenerationError::BusyCompiling { limit: 2 }), "{refused}");
        }
        assert!(turns.take(4).now_or_never().is_none(), "who leaves waits no more");
    }
}
