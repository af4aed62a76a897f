//! Whether something fits, said before anybody waits for it.

use super::sessions::{Need, Phase};
use super::state::Residency;

/// A load that can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// There is room.
    Fits,
    /// Something else has to go first, now or once it is idle and has stayed as long as it may.
    FitsAfterEviction,
}

/// Why a load was not taken, or a wait was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is more than this device may ever have.
    #[error("{needs} bytes, and at most {budget} may be loaded")]
    NeverFits {
        /// Bytes of its own and of the files that it maps.
        needs: u64,
        /// `bytes_max`.
        budget: u64,
    },
    /// What is loaded works, is pinned or stays for a while, and will not make room in time.
    #[error("what is loaded makes no room in time")]
    NoRoom,
    /// As many wait for loads as may.
    #[error("{limit} wait for loads already")]
    Full {
        /// `waiting_max`.
        limit: u32,
    },
}

impl Residency {
    /// Whether a session that takes `need` can be had, with what is loaded and being loaded now.
    ///
    /// # Errors
    /// [`Refused::NeverFits`].
    pub fn fit(&self, need: Need) -> Result<Fit, Refused> {
        let (needs, budget) = (need.own.saturating_add(need.mapped), self.settings.bytes_max);
        if needs > budget {
            return Err(Refused::NeverFits { needs, budget });
        }
        let (bytes, sessions) = self.lacking(need);
        Ok(if bytes == 0 && sessions == 0 { Fit::Fits } else { Fit::FitsAfterEviction })
    }

    /// Bytes and sessions that have to go before `need` is there.
    pub(super) fn lacking(&self, need: Need) -> (u64, usize) {
        let bytes = self.sessions.bytes().own.saturating_add(need.own).saturating_sub(self.settings.bytes_max);
        let most = self.settings.sessions_max.max(1) as usize;
        (bytes, (self.sessions.0.len() + 1).saturating_sub(most))
    }

    /// When there may be room for `need` at the earliest: if all that works were idle from now on. None: never, as things are.
    pub(super) fn room_at(&self, now: u64, need: Need) -> Option<u64> {
        let (mut bytes, mut sessions) = self.lacking(need);
        let stay = self.settings.stay_ns;
        let mut ends: Vec<(u64, u64)> = self
            .sessions
            .0
            .values()
            .filter_map(|session| {
                let until = match session.phase {
                    Phase::Leaving => Some(now),
                    Phase::Loading if !session.pinned => Some(now.saturating_add(stay)),
                    _ => session.stays_until(stay),
                };
                Some((until?, session.need.own))
            })
            .collect();
        ends.sort_unstable();
        let mut at = now;
        let mut ends = ends.into_iter();
        while bytes > 0 || sessions > 0 {
            let (until, freed) = ends.next()?;
            at = at.max(until);
            bytes = bytes.saturating_sub(freed);
            sessions = sessions.saturating_sub(1);
        }
        Some(at)
    }
}
