//! Appends to the ledger: checked, written to the redo log, and kept at hand until the tables have them.
//!
//! A caller does this on its own thread: it is one short write. It never waits there: if another is at it for longer than
//! that, if the disk was slow a moment ago, if the log is full or has to reach the disk, the append goes to a thread, which
//! writes all that wait at once.
//!
//! Two locks. The front one is held from check to acknowledgement, so that appends stand in the log in the order of their
//! numbers. The one of the tail is held for moments only: what is not applied is added there, looked up and taken away.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use mayfly_ledger::{Append, KeptAnswer, Position};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::DbError;
use crate::journal::order::{Order, Taken};
use crate::redo::Log;

/// Appends waiting for the thread; one more is refused.
pub(super) const APPENDS_WAITING_MAX: usize = 8192;
/// Appends that one write of the thread takes.
const APPENDS_PER_WRITE_MAX: usize = 512;
/// Tries for the front before an append goes to the thread: some ten microseconds, twice what another takes there and a
/// fraction of what waking the thread does.
const TRIES: usize = 500;
/// A write that takes longer on a caller's thread sends the next appends to the thread...
const SLOW: Duration = Duration::from_millis(5);
/// ... for this long.
const SLOW_FOR: Duration = Duration::from_millis(100);
/// Rows that are not applied from which on they are due.
const ROWS_DUE: usize = 96;
/// Rows that one transaction applies: some 500 microseconds' work. On few cores whoever serves calls waits for it, and fewer
/// rows would cost more each.
const ROWS_PER_APPLY: usize = 128;
/// Rows that are not applied from which on a transaction takes...
const ROWS_BEHIND: usize = 1024;
/// ... so many.
const ROWS_PER_APPLY_BEHIND: usize = 512;
/// Age of the oldest append that is not applied from which on it is due.
pub(super) const DUE_AFTER: Duration = Duration::from_millis(100);
/// How long appends wait for room in a full log.
const FULL_WAIT_MAX: Duration = Duration::from_secs(1);

/// An append that is acknowledged and not yet in the tables.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) append: Append,
    /// Of its last row.
    pub(super) position: i64,
    bytes: u64,
}

/// Tells the thread that applies that something is due.
type Due = Box<dyn Fn() + Send + Sync>;

pub(super) struct Intake {
    /// None once the store is closed.
    front: Mutex<Option<Front>>,
    tail: Mutex<Tail>,
    /// Something was applied, or could not be.
    moved: Condvar,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// The number of the newest append that is acknowledged.
    logged: AtomicU64,
    /// The number of the newest append that is in the tables.
    applied: AtomicU64,
    /// Milliseconds since `began` until which writes count as slow.
    slow_until: AtomicU64,
    began: Instant,
    /// Bytes of the log that may be not applied.
    unapplied_bytes_max: u64,
    /// Callers may write; else the thread writes everything.
    callers: bool,
    due: Due,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("logged", &self.logged).field("applied", &self.applied).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Front {
    order: Order,
    log: Log,
    /// Looks up calls that ended long ago.
    tables: Connection,
}

/// What is acknowledged and not applied.
#[derive(Debug, Default)]
struct Tail {
    /// In the order of their numbers, without a gap.
    entries: VecDeque<Arc<Entry>>,
    rows: usize,
    bytes: u64,
    /// When the oldest came, as far as the thread that applies has to know.
    since: Option<Instant>,
    /// The newest append of each call.
    calls: HashMap<[u8; 16], u64>,
    /// The append with the answer of each scope.
    answers: HashMap<[u8; 32], u64>,
    /// Why nothing could be applied last time.
    failed: Option<DbError>,
}

#[derive(Debug, Default)]
struct Waiting {
    appends: VecDeque<(Append, oneshot::Sender<Result<Position, DbError>>)>,
    closed: bool,
}

impl Intake {
    /// `log` begins where the tables end.
    pub(super) fn new(
        order: Order,
        log: Log,
        tables: Connection,
        unapplied_bytes_max: u64,
        callers: bool,
        due: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let newest = log.newest();
        Self {
            front: Mutex::new(Some(Front { order, log, tables })),
            tail: Mutex::default(),
            moved: Condvar::new(),
            waiting: Mutex::default(),
            wake: Condvar::new(),
            logged: AtomicU64::new(newest),
            applied: AtomicU64::new(newest),
            slow_until: AtomicU64::new(0),
            began: Instant::now(),
            unapplied_bytes_max,
            callers,
            due: Box::new(due),
        }
    }

    /// Makes rows durable; the position of the last.
    pub(super) async fn append(&self, append: Append) -> Result<Position, DbError> {
        let mut append = Some(append);
        if let Some(result) = self.append_now(&mut append) {
            return result;
        }
        let Some(append) = append else { return Err(DbError::Closed) };
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.closed {
                return Err(DbError::Closed);
            }
            if waiting.appends.len() >= APPENDS_WAITING_MAX {
                return Err(DbError::Busy { waiting: waiting.appends.len() });
            }
            waiting.appends.push_back((append, reply));
        }
        self.wake.notify_one();
        answer.await.unwrap_or(Err(DbError::Closed))
    }

    /// Takes and writes the append on this thread; none if it has to go to the other one.
    fn append_now(&self, append: &mut Option<Append>) -> Option<Result<Position, DbError>> {
        if !self.callers || self.slow_until.load(Ordering::Relaxed) > millis(self.began.elapsed()) || self.is_full() {
            return None;
        }
        let mut tries = 0..TRIES;
        let mut front = loop {
            match self.front.try_lock() {
                Ok(front) => break front,
                Err(TryLockError::Poisoned(poisoned)) => break spoilt(poisoned),
                Err(TryLockError::WouldBlock) if tries.next().is_some() => std::hint::spin_loop(),
                Err(TryLockError::WouldBlock) => return None,
            }
        };
        let Some(front) = front.as_mut() else { return Some(Err(DbError::Closed)) };
        let began = Instant::now();
        let result = self.write_all(front, append.take().into_iter().collect()).pop();
        if began.elapsed() > SLOW {
            self.slow_until.store(millis(self.began.elapsed() + SLOW_FOR), Ordering::Relaxed);
        }
        result
    }

    /// Checks, writes and acknowledges appends, each for itself unless the disk fails.
    fn write_all(&self, front: &mut Front, appends: Vec<Append>) -> Vec<Result<Position, DbError>> {
        let Front { order, log, tables } = front;
        let mut room = self.unapplied_bytes_max.saturating_sub(self.tail().bytes);
        // The first one goes in while there is any room: no append is too large for an empty log.
        let mut results = Vec::with_capacity(appends.len());
        let mut taken: Vec<(Arc<Entry>, Taken)> = Vec::with_capacity(appends.len());
        let mut number = log.newest();
        for append in appends {
            let bytes = if room == 0 { Err(self.full()) } else { log.add(&append) };
            let accepted = bytes.and_then(|bytes| {
                let taken = order.take(&append, number + 1, tables).inspect_err(|_error| log.unadd())?;
                Ok((bytes, taken))
            });
            results.push(accepted.map(|(bytes, changes)| {
                room = room.saturating_sub(bytes);
                number += 1;
                let position = order.last();
                taken.push((Arc::new(Entry { number, append, position, bytes }), changes));
                Position(position)
            }));
        }
        let applied = self.applied.load(Ordering::Acquire);
        if let Err(error) = log.write(applied) {
            for (_, changes) in taken.into_iter().rev() {
                order.undo(changes);
            }
            return results.into_iter().map(|result| result.and(Err(error.clone()))).collect();
        }
        order.forget(applied);
        self.acknowledge(number, taken.into_iter().map(|(entry, _)| entry));
        results
    }

    fn acknowledge(&self, newest: u64, entries: impl Iterator<Item = Arc<Entry>>) {
        let mut tail = self.tail();
        let (was_empty, was_due) = (tail.entries.is_empty(), tail.rows >= ROWS_DUE);
        for entry in entries {
            tail.rows += entry.append.rows.len();
            tail.bytes += entry.bytes;
            for row in &entry.append.rows {
                tail.calls.insert(row.call.id.to_bytes(), entry.number);
            }
            if let Some(answer) = &entry.append.answer {
                tail.answers.insert(answer.scope.0, entry.number);
            }
            tail.entries.push_back(entry);
        }
        self.logged.store(newest, Ordering::Release);
        let tell = !tail.entries.is_empty() && (was_empty || (!was_due && tail.rows >= ROWS_DUE));
        if was_empty {
            tail.since = Some(Instant::now());
        }
        drop(tail);
        if tell {
            (self.due)();
        }
    }

    /// The thread for appends that are not written by their callers.
    pub(super) fn write_until_closed(&self) {
        loop {
            let batch: Vec<_> = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                while waiting.appends.is_empty() && !waiting.closed {
                    waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                }
                let count = waiting.appends.len().min(APPENDS_PER_WRITE_MAX);
                waiting.appends.drain(..count).collect()
            };
            if batch.is_empty() {
                return;
            }
            self.wait_for_room();
            let (appends, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let results = match self.front().as_mut() {
                Some(front) => self.write_all(front, appends),
                None => appends.iter().map(|_| Err(DbError::Closed)).collect(),
            };
            for (reply, result) in replies.into_iter().zip(results) {
                // The caller may have left; its rows stand all the same.
                let _ = reply.send(result);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.tail().bytes >= self.unapplied_bytes_max
    }

    /// Why an append finds no room.
    fn full(&self) -> DbError {
        let tail = self.tail();
        tail.failed.clone().unwrap_or(DbError::Busy { waiting: tail.rows })
    }

    fn wait_for_room(&self) {
        if !self.is_full() {
            return;
        }
        (self.due)();
        let full = |tail: &mut Tail| tail.bytes >= self.unapplied_bytes_max && tail.failed.is_none();
        drop(self.moved.wait_timeout_while(self.tail(), FULL_WAIT_MAX, full));
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As long as what this gives is held, nothing is appended.
    pub(super) fn front(&self) -> MutexGuard<'_, Option<Front>> {
        self.front.lock().unwrap_or_else(spoilt)
    }

    /// The number of the newest append that is acknowledged.
    pub(super) fn logged(&self) -> u64 {
        self.logged.load(Ordering::Acquire)
    }

    /// Whether the tables have append `number`.
    pub(super) fn has_applied(&self, number: u64) -> bool {
        self.applied.load(Ordering::Acquire) >= number
    }

    /// The newest append of `call` that is not in the tables.
    pub(super) fn unapplied_call(&self, call: [u8; 16]) -> Option<u64> {
        self.tail().calls.get(&call).copied()
    }

    /// The answer of `scope` that is not in the tables.
    pub(super) fn unapplied_answer(&self, scope: [u8; 32]) -> Option<KeptAnswer> {
        let tail = self.tail();
        let number = *tail.answers.get(&scope)?;
        let first = tail.entries.front()?.number;
        let entry = tail.entries.get(usize::try_from(number.checked_sub(first)?).ok()?)?;
        entry.append.answer.clone()
    }

    /// How long until what is not applied is due; none if everything is applied.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let tail = self.tail();
        let since = tail.since?;
        if tail.rows >= ROWS_DUE && tail.failed.is_none() {
            return Some(Duration::ZERO);
        }
        Some(DUE_AFTER.saturating_sub(since.elapsed()))
    }

    /// The oldest appends that are not applied, as many as one transaction takes.
    pub(super) fn oldest(&self) -> Vec<Arc<Entry>> {
        let tail = self.tail();
        let mut left = if tail.rows >= ROWS_BEHIND { ROWS_PER_APPLY_BEHIND } else { ROWS_PER_APPLY };
        let some = tail.entries.iter().take_while(|entry| {
            let goes_in = left > 0;
            left = left.saturating_sub(entry.append.rows.len().max(1));
            goes_in
        });
        some.cloned().collect()
    }

    /// The tables have `entries`, which are the oldest.
    pub(super) fn applied(&self, entries: &[Arc<Entry>]) {
        let Some(newest) = entries.last().map(|entry| entry.number) else { return };
        let mut tail = self.tail();
        for entry in entries {
            tail.entries.pop_front();
            tail.rows -= entry.append.rows.len();
            tail.bytes -= entry.bytes;
            for row in &entry.append.rows {
                forget(&mut tail.calls, row.call.id.to_bytes(), entry.number);
            }
            if let Some(answer) = &entry.append.answer {
                forget(&mut tail.answers, answer.scope.0, entry.number);
            }
        }
        tail.failed = None;
        tail.since = (!tail.entries.is_empty()).then(Instant::now);
        self.applied.store(newest, Ordering::Release);
        drop(tail);
        self.moved.notify_all();
    }

    /// Nothing could be applied; it is tried again after a while.
    pub(super) fn not_applied(&self, error: &DbError) {
        let mut tail = self.tail();
        tail.failed = Some(error.clone());
        tail.since = Some(Instant::now());
        drop(tail);
        self.moved.notify_all();
    }

    /// No more appends go to the thread, which ends when it has written those that wait.
    pub(super) fn close_queue(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake.notify_all();
    }

    /// Ends appending.
    pub(super) fn close(&self) -> Option<Front> {
        self.front().take()
    }
}

impl Front {
    /// The tables have everything, and rows besides that were not appended here.
    pub(super) fn read_again(&mut self) -> Result<(), DbError> {
        self.order.read_again(&self.tables)
    }

    /// The tables have everything: the log's files go.
    pub(super) fn remove(self) {
        if let Err(error) = self.log.remove() {
            tracing::warn!(%error, "the redo log was not removed; it is applied, so the next start does it");
        }
    }
}

/// Whoever held the front panicked: what is known and what was written may differ, so nothing more is taken.
fn spoilt<'a>(poisoned: PoisonError<MutexGuard<'a, Option<Front>>>) -> MutexGuard<'a, Option<Front>> {
    let mut front = poisoned.into_inner();
    if front.take().is_some() {
        tracing::error!("an append panicked; the ledger takes nothing more until a new start");
    }
    front
}

fn forget<K: std::hash::Hash + Eq>(newest: &mut HashMap<K, u64>, key: K, number: u64) {
    if newest.get(&key) == Some(&number) {
        newest.remove(&key);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
