//! Clients of several kinds, each calling until the server is gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::attempt::{Attempt, Left, Meter};
use crate::chat::{self, Manner};
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
    /// Reads streams of tokens to their end.
    Tokens,
    /// Leaves in the middle of streams of tokens.
    TokensLeaver,
    /// Reads streams of tokens more slowly than they come.
    TokensSlow,
}

/// The clients of one round.
pub(crate) const KINDS: [Kind; 10] = [
    Kind::Short,
    Kind::Idempotent,
    Kind::Stream,
    Kind::Leaver,
    Kind::Slow,
    Kind::Stream,
    Kind::Tokens,
    Kind::TokensLeaver,
    Kind::TokensSlow,
    Kind::Tokens,
];

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
            let attempt = self.call(attempts.len(), over);
            let reached = attempt.sent;
            attempts.push(attempt);
            if !reached {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        attempts
    }

    /// Calls once.
    pub(crate) fn call(&mut self, number: usize, over: &AtomicBool) -> Attempt {
        let name = format!("{}-{number}", self.name);
        match self.kind {
            Kind::Tokens | Kind::TokensLeaver | Kind::TokensSlow => self.tokens(name, over),
            _ => self.rows(name),
        }
    }

    fn tokens(&mut self, name: String, over: &AtomicBool) -> Attempt {
        let length = chat::length(&mut self.random);
        let mut attempt = Attempt::new(name, Meter::OutputTokens, 1, length);
        let leave = (self.kind == Kind::TokensLeaver).then(|| {
            let how = if self.random.random_ratio(1, 2) { Left::Closed } else { Left::Drained };
            (self.random.random_range(0..80), how)
        });
        let pause = if self.kind == Kind::TokensSlow { Duration::from_millis(12) } else { Duration::ZERO };
        chat::call(&mut attempt, &self.target, &Manner { leave, pause }, &mut self.random, over);
        attempt
    }

    fn rows(&mut self, name: String) -> Attempt {
        let streams = !matches!(self.kind, Kind::Short | Kind::Idempotent);
        let rows = self.random.random_range(1..5);
        let frames = if streams { self.random.random_range(2..60) } else { 1 };
        let ms = self.random.random_range(0..8);
        let path = if streams { format!("/?frames={frames}&rows={rows}&ms={ms}") } else { format!("/?rows={rows}") };
        let mut attempt = Attempt {
            path,
            streams,
            idempotent: self.kind == Kind::Idempotent,
            ..Attempt::new(name, Meter::Rows, rows, frames)
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
    attempt.opened = true;
    let mut bytes = 0;
    loop {
        if leave_after.is_some_and(|frames| attempt.received >= frames) {
            attempt.left = Some(Left::Closed);
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
