//! The benchmarks: ours and the peer in one run, printed as ratios against the targets of the issues.
//!
//! A row that could not be measured says so and does not pass. Nothing here is asserted by the tests.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::Context;
use clap::Parser;
use ort::environment::Environment;

mod batching;
mod cold;
mod compute;
mod embeddings;
mod generation;
mod ledger;
mod limits;
mod live;
mod load;
mod measure;
mod onnx;
mod overload;
mod python;
mod registered;
mod row;
mod server;
mod soak;
mod throughput;
mod victim;
mod wake;
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
    /// Nothing but mixed traffic for so many minutes, and whether memory, descriptors and VMAs stay where they are.
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["only", "quick"])]
    soak: Option<u64>,
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
    onnxruntime: OnceLock<Environment>,
}

impl Bench {
    /// The server: `MAYFLY_BENCH_BINARY`, else the release build. Figures of any other build are none; it is for trying the
    /// rows out.
    fn binary(&self) -> PathBuf {
        std::env::var_os("MAYFLY_BENCH_BINARY").map_or_else(|| self.root.join("target/release/mayfly"), PathBuf::from)
    }

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
const MEASURES: [(&[&str], Measure); 20] = [
    (&[cold::P50, cold::P99, cold::FLOOR], cold::measure),
    (&[embeddings::NAME], embeddings::measure),
    (&[batching::GAIN, batching::PEER, batching::BENTO], batching::measure),
    (&[compute::SMALL, compute::MIDDLE, compute::LARGE, compute::CHAIN], compute::measure),
    (&[wake::FIRST_ANSWER, wake::MEMORY], wake::matmuls),
    (&[wake::INT4], wake::int4),
    (&[registered::NAME], registered::measure),
    (&[ledger::SETTLE], ledger::settle),
    (&[ledger::ADDED_P50, ledger::ADDED_P99], ledger::added),
    (&[throughput::NAME, throughput::TUNED, throughput::TUNED_P99], throughput::measure),
    (&[victim::NAME], victim::measure),
    (&[live::NAME], live::measure),
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
    let bench = Bench { quick: args.quick, root, onnxruntime: OnceLock::new() };
    let mut rows = Vec::new();
    if let Some(minutes) = args.soak {
        rows.push(soak::run(&bench, minutes)?);
    }
    for (names, measure) in MEASURES.into_iter().filter(|_| args.soak.is_none()) {
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
