//! Clients of several kinds, each calling until the server is gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::attempt::Attempt;
use crate::wire::{self, Piece};

/// Bytes of one frame of the guest `meter`.
const FRAME_BYTES: usize = 64;

/// What a client is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Short answers.
    Short,
    /// Short answers, with an `Idempotency-Key`.
    Idempotent,
    /// Reads streams to their end.
    Stream,
    /// Leaves in the middle of streams.
    Leaver,
    /// Reads streams more slowly than they come.
    Slow,
}

/// The clients of one round.
pub(crate) const KINDS: [Kind; 6] =
    [Kind::Short, Kind::Idempotent, Kind::Stream, Kind::Leaver, Kind::Slow, Kind::Stream];

/// Where and as whom to call.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Caller {
    kind: Kind,
    name: String,
    target: Arc<Target>,
    random: StdRng,
}

impl Caller {
    pub(crate) fn new(kind: Kind, name: String, target: Arc<Target>, seed: u64) -> Self {
        Self { kind, name, target, random: StdRng::seed_from_u64(seed) }
    }

    /// Calls until `over`; gives what was seen.
    pub(crate) fn run(mut self, over: &AtomicBool) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let attempt = self.call(attempts.len());
            let reached = attempt.sent;
            attempts.push(attempt);
            if !reached {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        attempts
    }

    fn call(&mut self, number: usize) -> Attempt {
        let streams = !matches!(self.kind, Kind::Short | Kind::Idempotent);
        let rows = self.random.random_range(1..5);
        let frames = if streams { self.random.random_range(2..60) } else { 1 };
        let ms = self.random.random_range(0..8);
        let path = if streams { format!("/?frames={frames}&rows={rows}&ms={ms}") } else { format!("/?rows={rows}") };
        let mut attempt = Attempt {
            name: format!("{}-{number}", self.name),
            path,
            streams,
            idempotent: self.kind == Kind::Idempotent,
            rows,
            frames,
            received: 0,
            complete: false,
            left: false,
            refused: false,
            sent: false,
        };
        let leave_after = (self.kind == Kind::Leaver).then(|| self.random.random_range(0..frames));
        let pause = if self.kind == Kind::Slow { Duration::from_millis(12) } else { Duration::ZERO };
        call(&mut attempt, &self.target, leave_after, pause);
        attempt
    }
}

/// The same call with the same key again, until it has an answer.
pub(crate) fn retry(attempt: &mut Attempt, target: &Target) {
    for _ in 0..20 {
        call(attempt, target, None, Duration::ZERO);
        if attempt.complete {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn call(attempt: &mut Attempt, target: &Target, leave_after: Option<u64>, pause: Duration) {
    let bearer = format!("Bearer {}", target.key);
    let mut headers = vec![("authorization", bearer.as_str()), ("x-mayfly-end-user", attempt.name.as_str())];
    if attempt.idempotent {
        headers.push(("idempotency-key", attempt.name.as_str()));
    }
    let path = format!("/d/default/meter{}", attempt.path);
    let method = if attempt.streams { "GET" } else { "POST" };
    let Ok(mut answer) = wire::send(target.address, method, &path, &headers, b"", &mut attempt.sent) else { return };
    if answer.status != 200 {
        attempt.refused = answer.whole().is_some();
        return;
    }
    attempt.refused = false;
    let mut bytes = 0;
    loop {
        if leave_after.is_some_and(|frames| attempt.received >= frames) {
            attempt.left = true;
            return;
        }
        match answer.piece() {
            Piece::Bytes(more) => bytes += more.len(),
            Piece::End => {
                attempt.complete = true;
                return;
            }
            Piece::Broken => return,
        }
        if attempt.streams {
            attempt.received = u64::try_from(bytes.div_ceil(FRAME_BYTES)).unwrap_or(u64::MAX);
        }
        std::thread::sleep(pause);
    }
}
