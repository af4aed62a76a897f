//! Who has a worker process: one for each tenant and device, started by the first run, ended when idle or in the way.
//!
//! One lock over a small map, held for moments and never while a process is started, killed or waited for.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mayfly_types::Digest;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::config::WorkerSettings;
use super::crashes::Crashes;
use super::message::GenerationBounds;
use super::process::{End, Process, Start};
use super::report::WorkerLoad;
use super::room::Room;
use super::sandbox;
use crate::{Caller, Copies, Device, LoadError, RunError, StartError, WorkerError};

/// Tenants whose crashes are remembered; beyond, those that crashed longest ago are forgiven.
const CRASHED_MAX: usize = 4096;

/// Pause before a claim is repeated while a failed process is reaped.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Whose process it is, and where its models run.
type Key = (u128, Device);

/// One process.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct WorkerState {
    pub owner: u128,
    pub device: Device,
    pub pid: u32,
    /// Runs that it was given and has not answered.
    pub runs_open: usize,
    /// Since its last run ended; none while it works.
    pub idle: Option<Duration>,
    /// What it has at work, as far as it tells.
    pub load: WorkerLoad,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct WorkersState {
    /// Processes that are there now, by number.
    pub workers: Vec<WorkerState>,
    /// Processes started since the server's start.
    pub starts_total: u64,
    /// Of these, how many ended otherwise than they should.
    pub crashes_total: u64,
}

/// The workers of one [`crate::Inference`]. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Workers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: WorkerSettings,
    generation: GenerationBounds,
    ort_dylib: PathBuf,
    /// This node's, for packages that have one.
    copies: Option<Copies>,
    slots: Mutex<HashMap<Key, Slot>>,
    starts: AtomicU64,
    crashes: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    live: Option<Live>,
    crashes: Crashes,
}

/// How a start ended, once it has.
type Outcome = Option<Result<Arc<Process>, WorkerError>>;

#[derive(Debug)]
enum Live {
    Starting(watch::Receiver<Outcome>),
    Ready(Arc<Process>),
}

impl Workers {
    /// None is started before it is needed.
    ///
    /// # Errors
    /// [`StartError`]: what this system cannot give, if that is required, or a folder that cannot be used.
    pub(crate) fn new(
        settings: WorkerSettings,
        generation: GenerationBounds,
        ort_dylib: PathBuf,
        copies: Option<Copies>,
    ) -> Result<Self, StartError> {
        settings.config.validate().map_err(|problems| StartError::Unusable(problems.join("; ")))?;
        sandbox::accepted(settings.config.sandbox).map_err(StartError::Sandbox)?;
        Room::sweep(&settings.folder)
            .map_err(|error| StartError::Unusable(format!("the folder of worker processes: {error}")))?;
        Ok(Self(Arc::new(Inner {
            settings,
            generation,
            ort_dylib,
            copies,
            slots: Mutex::default(),
            starts: AtomicU64::new(0),
            crashes: AtomicU64::new(0),
        })))
    }

    /// The process of a caller's owner, started if it is not there. What the wait for that takes is added to `waited`.
    ///
    /// # Errors
    /// [`RunError::Worker`], or [`LoadError::Deadline`] if the caller stops waiting.
    pub(super) async fn process(
        &self,
        device: Device,
        caller: Caller<'_>,
        waited: &mut Option<Duration>,
    ) -> Result<Arc<Process>, RunError> {
        let Caller { owner, deadline, cancel } = caller;
        loop {
            let asked = Instant::now();
            match self.0.claim((owner, device))? {
                Claim::Ready(process) => return Ok(process),
                Claim::Leaving => sleep(LOOK_AGAIN).await,
                Claim::Starting(mut outcome) => {
                    let outcome = tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Err(LoadError::Deadline.into()),
                        () = sleep_until(deadline.into()) => return Err(LoadError::Deadline.into()),
                        outcome = outcome.wait_for(Option::is_some) => outcome.ok().and_then(|outcome| outcome.clone()),
                    };
                    *waited = Some(waited.unwrap_or_default() + asked.elapsed());
                    return Ok(outcome.unwrap_or(Err(WorkerError::None))?);
                }
            }
        }
    }

    /// Whether this package has run in the process that `owner` has now.
    pub(crate) fn is_loaded(&self, owner: u128, package: Digest, device: Device) -> bool {
        match self.0.lock().get(&(owner, device)).and_then(|slot| slot.live.as_ref()) {
            Some(Live::Ready(process)) => process.is_loaded(package) && !process.is_closed(),
            _ => false,
        }
    }

    /// Memory that the load of this package took in the process that `owner` has now, as far as that tells.
    pub(crate) fn bytes_of(&self, owner: u128, package: Digest, device: Device) -> u64 {
        match self.0.lock().get(&(owner, device)).and_then(|slot| slot.live.as_ref()) {
            Some(Live::Ready(process)) if !process.is_closed() => process.bytes_of(package),
            _ => 0,
        }
    }

    /// What is there now.
    pub(crate) fn state(&self) -> WorkersState {
        let slots = self.0.lock();
        let worker = |(&(owner, device), slot): (&Key, &Slot)| match &slot.live {
            Some(Live::Ready(process)) => {
                let (pid, runs_open, idle) = (process.pid(), process.open(), process.idle());
                Some(WorkerState { owner, device, pid, runs_open, idle, load: process.load() })
            }
            _ => None,
        };
        let mut workers: Vec<_> = slots.iter().filter_map(worker).collect();
        drop(slots);
        workers.sort_unstable_by_key(|worker| worker.pid);
        WorkersState {
            workers,
            starts_total: self.0.starts.load(Ordering::Relaxed),
            crashes_total: self.0.crashes.load(Ordering::Relaxed),
        }
    }
}

enum Claim {
    Ready(Arc<Process>),
    /// It has failed and is being reaped; in a moment it is known how long that rests.
    Leaving,
    Starting(watch::Receiver<Outcome>),
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process of `key`, or the start that makes it, begun here if nobody has. Does not block.
    fn claim(self: &Arc<Self>, key: Key) -> Result<Claim, WorkerError> {
        let now = Instant::now();
        let mut slots = self.lock();
        let slot = slots.entry(key).or_default();
        match &slot.live {
            Some(Live::Ready(process)) if !process.is_closed() => return Ok(Claim::Ready(Arc::clone(process))),
            Some(Live::Ready(process)) if process.has_failed() => return Ok(Claim::Leaving),
            Some(Live::Starting(outcome)) => return Ok(Claim::Starting(outcome.clone())),
            Some(Live::Ready(_)) | None => slot.live = None,
        }
        if let Some(pause) = slot.crashes.pause(now) {
            return Err(WorkerError::Resting { retry_after_ms: millis(pause) });
        }
        let limit = self.settings.config.processes_max;
        if live(&slots) >= limit as usize && !make_room(&mut slots) {
            return Err(WorkerError::NoPlace { limit });
        }
        let (sender, outcome) = watch::channel(None);
        let inner = Arc::downgrade(self);
        let (settings, ort_dylib) = (self.settings.clone(), self.ort_dylib.clone());
        let generation = self.generation;
        // They are for the CPU.
        let copies = self.copies.clone().filter(|_| key.1 == Device::Cpu);
        let life = move || life(&inner, key, &settings, generation, &ort_dylib, copies, &sender);
        let spawned = thread::Builder::new().name("mayfly-worker".to_owned()).spawn(life);
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for a worker process");
            return Err(WorkerError::NoPlace { limit });
        }
        self.starts.fetch_add(1, Ordering::Relaxed);
        slots.entry(key).or_default().live = Some(Live::Starting(outcome.clone()));
        Ok(Claim::Starting(outcome))
    }

    /// The process of `key` is there.
    fn ready(&self, key: Key, process: &Arc<Process>) {
        self.lock().entry(key).or_default().live = Some(Live::Ready(Arc::clone(process)));
    }

    /// The process of `key` that was begun at `started` is gone; gives how long its tenant waits, after a crash.
    fn gone(&self, key: Key, process: Option<&Arc<Process>>, crashed: bool, started: Instant) -> Duration {
        let now = Instant::now();
        let mut slots = self.lock();
        let slot = slots.entry(key).or_default();
        let ours = match (&slot.live, process) {
            (Some(Live::Ready(other)), Some(process)) => Arc::ptr_eq(other, process),
            (Some(Live::Starting(_)), None) => true,
            _ => false,
        };
        if ours {
            slot.live = None;
        }
        if crashed {
            self.crashes.fetch_add(1, Ordering::Relaxed);
            let config = &self.settings.config;
            let (least, most) =
                (Duration::from_millis(config.pause_ms_min), Duration::from_millis(config.pause_ms_max));
            slot.crashes.crashed(started, now, least, most);
        }
        let pause = slot.crashes.pause(now).unwrap_or_default();
        slots.retain(|_, slot| slot.live.is_some() || !slot.crashes.are_forgotten(now));
        if slots.len() > CRASHED_MAX {
            let longest_ago = slots
                .iter()
                .filter(|(_, slot)| slot.live.is_none())
                .min_by_key(|(_, slot)| slot.crashes.pause(now))
                .map(|(&key, _)| key);
            longest_ago.map(|key| slots.remove(&key));
        }
        pause
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for slot in self.lock().values() {
            if let Some(Live::Ready(process)) = &slot.live {
                process.close();
            }
        }
    }
}

fn live(slots: &HashMap<Key, Slot>) -> usize {
    slots.values().filter(|slot| slot.live.is_some()).count()
}

/// Ends the process that has been idle longest, if one is; tells whether it did.
fn make_room(slots: &mut HashMap<Key, Slot>) -> bool {
    let idle = |slot: &Slot| match &slot.live {
        Some(Live::Ready(process)) => process.idle(),
        _ => None,
    };
    let mut all: Vec<_> = slots.iter().filter_map(|(&key, slot)| Some((idle(slot)?, key))).collect();
    all.sort_unstable_by(|left, right| right.cmp(left));
    all.into_iter().any(|(_, key)| {
        let Some(slot) = slots.get_mut(&key) else { return false };
        let closed = matches!(&slot.live, Some(Live::Ready(process)) if process.close_if_idle());
        if closed {
            slot.live = None;
        }
        closed
    })
}

/// The life of one process, on the thread that it dies with.
fn life(
    inner: &Weak<Inner>,
    key: Key,
    settings: &WorkerSettings,
    generation: GenerationBounds,
    ort_dylib: &std::path::Path,
    copies: Option<Copies>,
    sender: &watch::Sender<Outcome>,
) {
    let began = Instant::now();
    let (owner, device) = (format!("{:032x}", key.0), key.1);
    let room = Room::new(&settings.folder, &format!("{owner}-{device}-"), copies);
    let started = room.map_err(|error| format!("no folder for it: {error}"));
    let started = started.and_then(|room| {
        let (config, child) = (&settings.config, &settings.child);
        Process::start(Start { config, generation, child, ort_dylib, device, room })
    });
    let pause = |process: Option<&Arc<Process>>, crashed| {
        inner.upgrade().map_or(Duration::ZERO, |inner| inner.gone(key, process, crashed, began))
    };
    match started {
        Ok((process, running)) => {
            tracing::info!(owner, %device, pid = process.pid(), took = ?began.elapsed(), "a process for a tenant's own models was started");
            match inner.upgrade() {
                Some(inner) => inner.ready(key, &process),
                None => process.close(),
            }
            sender.send_replace(Some(Ok(Arc::clone(&process))));
            // Accounts are called here, which are others' code.
            let end = catch_unwind(AssertUnwindSafe(|| process.attend()))
                .unwrap_or_else(|_| End::Crashed("the host failed while it heard the process".to_owned()));
            // Killed and reaped before anybody is told.
            drop(running);
            let crashed = matches!(end, End::Crashed(_));
            match end {
                End::Crashed(why) => {
                    tracing::warn!(owner, %device, pid = process.pid(), why, "the process for a tenant's own models has failed");
                }
                End::Closed => {
                    tracing::info!(owner, %device, pid = process.pid(), "the process for a tenant's own models was ended")
                }
            }
            let retry_after_ms = millis(pause(Some(&process), crashed));
            process.bury(|| WorkerError::Crashed { retry_after_ms });
        }
        Err(why) => {
            tracing::error!(owner, %device, why, "a process for a tenant's own models could not be started");
            let retry_after_ms = millis(pause(None, true));
            sender.send_replace(Some(Err(WorkerError::Resting { retry_after_ms })));
        }
    }
}

fn millis(time: Duration) -> u64 {
    // Rounded up: it is true that a retry succeeds then.
    u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
