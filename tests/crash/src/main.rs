//! Kills a real server with SIGKILL at random moments, while clients of several kinds count what reaches them, and
//! compares their counts with the ledger after each restart.
//!
//! Every attempt has an end user of its own, so that what was billed for it can be asked for without knowing its id:
//! a client that was cut before the head of its answer never learnt one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

mod attempt;
mod caller;
mod chat;
mod check;
mod server;
mod wire;

use attempt::Attempt;
use check::Findings;
use server::Server;

#[derive(Debug, Parser)]
#[command(about = "Kills a server at random moments and compares what was delivered with what was billed")]
struct Args {
    /// How often to kill.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// The same seed chooses the same work and the same moments (as far as a machine allows).
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The checkout.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// The server.
    #[arg(long, default_value = "target/debug/mayfly")]
    binary: PathBuf,
}

/// The whole ledger is walked, and the next kills begin with an empty one, so that a long run does not slow down.
const KILLS_PER_LEDGER: u32 = 20;

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let root = args.root.canonicalize().context("--root")?;
    let mut random = StdRng::seed_from_u64(args.seed);
    let mut server = Server::start(&args.binary, &root)?;
    let mut findings = Findings::default();
    let begun = Instant::now();
    for kill in 1..=args.kills {
        // Some kills come before the start has ended: in recovery, or while the listeners are made.
        let early = random.random_ratio(1, 5);
        if early {
            let delay = Duration::from_millis(random.random_range(0..120));
            server.restart_and_kill_after(delay)?;
            findings.early_kills += 1;
        }
        server.restart()?;
        let attempts = round(&mut server, kill, &mut random)?;
        server.restart()?;
        check::attempts(&server, &attempts, &mut findings)?;
        if kill % KILLS_PER_LEDGER == 0 || kill == args.kills {
            check::ledger(&server, &mut findings)?;
            if kill < args.kills && findings.problems.is_empty() {
                server = Server::start(&args.binary, &root)?;
            }
            eprintln!(
                "[crash] {kill} of {} kills, {} calls, {:.0} s",
                args.kills,
                findings.attempts(),
                begun.elapsed().as_secs_f64()
            );
        }
        if !findings.problems.is_empty() {
            break;
        }
    }
    findings.print(args.seed);
    Ok(if findings.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Callers of all kinds until the server is killed; gives what each attempt saw.
fn round(server: &mut Server, kill: u32, random: &mut StdRng) -> anyhow::Result<Vec<Attempt>> {
    let attempts = Mutex::new(Vec::new());
    let over = AtomicBool::new(false);
    let target = Arc::new(server.target());
    // In every other round the model is loaded already, so that the kill finds streams and not only their starts.
    let seed = random.random();
    if random.random_ratio(1, 2) {
        let mut caller = caller::Caller::new(caller::Kind::Tokens, format!("k{kill}-first"), Arc::clone(&target), seed);
        attempts.lock().unwrap_or_else(PoisonError::into_inner).push(caller.call(0, &over));
    }
    let delay = Duration::from_millis(if random.random_ratio(1, 3) {
        random.random_range(1..60)
    } else if random.random_ratio(1, 3) {
        // Long enough for streams of tokens to end.
        random.random_range(700..2500)
    } else {
        random.random_range(60..700)
    });
    std::thread::scope(|scope| {
        for (number, kind) in caller::KINDS.into_iter().enumerate() {
            let seed = random.random();
            let (attempts, over, target) = (&attempts, &over, Arc::clone(&target));
            scope.spawn(move || {
                let caller = caller::Caller::new(kind, format!("k{kill}-c{number}"), target, seed);
                let seen = caller.run(over);
                attempts.lock().unwrap_or_else(PoisonError::into_inner).extend(seen);
            });
        }
        std::thread::sleep(delay);
        let killed = server.kill();
        over.store(true, Ordering::Relaxed);
        killed
    })?;
    let mut attempts = attempts.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Calls that had no answer are tried again with their keys, as clients do.
    server.restart()?;
    let target = server.target();
    for attempt in attempts.iter_mut().filter(|attempt| attempt.idempotent && !attempt.complete) {
        caller::retry(attempt, &target);
    }
    Ok(attempts)
}
