//! The hash chains, on a thread of their own: hashing is half of the work.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Problems;
use crate::journal::chain::{Hash, Link};

/// Rows that are handed over together.
const ROWS_PER_BATCH: usize = 1_024;
/// Batches that wait for the hashing thread; the walk waits beyond.
const BATCHES_WAITING_MAX: usize = 4;

/// What the hash of each of some rows covers.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Of all rows, one after the other.
    bytes: Vec<u8>,
    rows: Vec<Linked>,
}

#[derive(Debug)]
struct Linked {
    pos: i64,
    boot: i64,
    /// Where its bytes end.
    end: usize,
    /// As stored; none if it is not of a hash's length.
    hash: Option<Hash>,
}

/// The walk's end.
#[derive(Debug)]
pub(super) struct Links {
    batch: Batch,
    to: SyncSender<Batch>,
}

pub(super) fn links() -> (Links, Receiver<Batch>) {
    let (to, from) = sync_channel(BATCHES_WAITING_MAX);
    (Links { batch: Batch::default(), to }, from)
}

impl Links {
    /// The next row in its order; takes what `link` has collected.
    pub(super) fn add(&mut self, pos: i64, boot: i64, link: &mut Link, stored: &[u8]) {
        link.move_to(&mut self.batch.bytes);
        let end = self.batch.bytes.len();
        self.batch.rows.push(Linked { pos, boot, end, hash: stored.try_into().ok() });
        if self.batch.rows.len() >= ROWS_PER_BATCH {
            self.send();
        }
    }

    /// Nothing follows.
    pub(super) fn finish(mut self) {
        self.send();
    }

    fn send(&mut self) {
        // The other end goes away only by a panic, which its thread's end tells.
        let _ = self.to.send(std::mem::take(&mut self.batch));
    }
}

/// Follows the chain of each boot. `boots`: where each begins.
pub(super) fn follow(batches: &Receiver<Batch>, mut boots: HashMap<i64, Hash>) -> Problems {
    let mut problems = Problems::default();
    while let Ok(batch) = batches.recv() {
        let mut begin = 0;
        for Linked { pos, boot, end, hash: stored } in batch.rows {
            let Some(previous) = boots.get_mut(&boot) else {
                problems.add(|| format!("row {pos} is of boot {boot}, which is not there"));
                begin = end;
                continue;
            };
            let hash = Link::hash(previous, &batch.bytes[begin..end]);
            begin = end;
            if Some(hash) != stored {
                problems.add(|| format!("row {pos} is not what its hash says, or does not follow the row before"));
            }
            // From here on as it stands, so that one changed row is one problem.
            *previous = stored.unwrap_or(hash);
        }
    }
    problems
}
