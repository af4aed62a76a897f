//! The benchmarks: ours and the peer in one run, printed as ratios against the targets of the issues.
//!
//! A row that could not be measured says so and does not pass. Nothing here is asserted by the tests.

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use ort::environment::Environment;

mod cold;
mod embeddings;
mod generation;
mod ledger;
mod limits;
mod load;
mod measure;
mod overload;
mod registered;
mod row;
mod server;
mod throughput;
mod wire;

use row::Row;

#[derive(Debug, Parser)]
#[command(about = "Benchmarks: ours and the peer in one run")]
struct Args {
    /// Fewer repetitions.
    #[arg(long)]
    quick: bool,
    /// Only the rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Also write the rows to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The checkout.
    #[arg(long, default_value = ".")]
    root: PathBuf,
}

/// What every row gets.
#[derive(Debug)]
struct Bench {
    quick: bool,
    root: PathBuf,
    /// A process can build one environment only.
    onnxruntime: OnceCell<Environment>,
}

impl Bench {
    /// The library in this process, for bare peers.
    fn onnxruntime(&self) -> anyhow::Result<Environment> {
        if let Some(environment) = self.onnxruntime.get() {
            return Ok(environment.clone());
        }
        let environment = ort::init_from(server::onnxruntime()?)?.with_telemetry(false).build()?;
        Ok(self.onnxruntime.get_or_init(|| environment).clone())
    }
}

type Measure = fn(&Bench) -> anyhow::Result<Vec<Row>>;

/// What is measured together, and the rows it gives.
const MEASURES: [(&[&str], Measure); 14] = [
    (&[cold::NAME], cold::measure),
    (&[embeddings::NAME], embeddings::measure),
    (&[registered::NAME], registered::measure),
    (&[ledger::SETTLE], ledger::settle),
    (&[ledger::ADDED_P50, ledger::ADDED_P99], ledger::added),
    (&[throughput::NAME], throughput::measure),
    (&[limits::TOKENS], limits::tokens),
    (&[limits::MONEY], limits::money),
    (&[overload::GOODPUT, overload::REFUSAL, overload::ADMITTED], overload::measure),
    (&[ledger::MONTH, ledger::VERIFY, ledger::BYTES], ledger::large),
    (
        &[
            generation::ONE,
            generation::EIGHT,
            generation::SCALING,
            generation::PREFILL,
            generation::ONE_GENAI,
            generation::EIGHT_GENAI,
        ],
        generation::speed,
    ),
    (&[generation::NINTH_GAP, generation::NINTH_FIRST, generation::PREFIX, generation::MASKS], generation::callers),
    (&[generation::IDLE], generation::idle),
    (&[generation::GREEDY_TINY, generation::GREEDY_LARGE], generation::greedy),
];

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let root = args.root.canonicalize().context("--root")?;
    let bench = Bench { quick: args.quick, root, onnxruntime: OnceCell::new() };
    let mut rows = Vec::new();
    for (names, measure) in MEASURES {
        if args.only.as_ref().is_some_and(|only| !names.iter().any(|name| name.contains(only.as_str()))) {
            continue;
        }
        eprintln!("[bench] {}", names.join(", "));
        let failed = |error: anyhow::Error| names.iter().map(|name| Row::failed(name, &format!("{error:#}"))).collect();
        rows.extend(measure(&bench).unwrap_or_else(failed));
    }
    anyhow::ensure!(!rows.is_empty(), "no row has `{}` in its name", args.only.unwrap_or_default());
    row::print(&rows);
    if let Some(file) = args.json {
        fs::write(&file, serde_json::to_vec_pretty(&rows)?).with_context(|| file.display().to_string())?;
    }
    Ok(if rows.iter().all(|row| row.pass) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
