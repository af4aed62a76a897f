//! Fuzzes the places where bytes come from outside: see README.md. `tests/fuzz/run.sh` builds and runs it.

mod allocations;
mod campaign;
mod corpus;
mod coverage;
mod mutate;
mod protobuf;
mod targets;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::campaign::Campaign;

/// Fuzzes one target.
#[derive(Debug, Parser)]
struct Args {
    /// One of `component`, `http`, `manifest`, `nn`, `package` and `worker`.
    target: String,
    /// How long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the changes come from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The checkout.
    #[arg(long)]
    root: PathBuf,
    /// Inputs that are worth keeping go here, and the next run goes on from them.
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Inputs that break a rule go here.
    #[arg(long)]
    findings: PathBuf,
    /// Only these inputs, once each.
    #[arg(long, num_args = 1..)]
    replay: Vec<PathBuf>,
}

fn main() -> ExitCode {
    // Before any thread: the process' environment and allocator settings.
    mayfly_inference::prepare_process();
    let args: Vec<String> = std::env::args().collect();
    if let Some(code) = mayfly::child::run(&args) {
        coverage::leave_to_parent();
        return code;
    }
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("[fuzz] {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<bool> {
    watch::hear_panics();
    let target = targets::open(&args.target, &args.root)?;
    let seeds = args.root.join("tests/fuzz/seeds").join(&args.target);
    let mut campaign = Campaign::new(&args.target, target, &args.findings, args.seed)?;
    if !args.replay.is_empty() {
        return campaign.replay(&args.replay);
    }
    campaign.seed(&seeds, args.corpus.as_deref())?;
    campaign.run(Duration::from_secs(args.seconds), args.corpus.as_deref())
}
