//! The benchmarks: ours and the peer in one run, printed as ratios against the targets of the issues.
//!
//! A row that could not be measured says so and does not pass. Nothing here is asserted by the tests.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

mod cold;
mod embeddings;
mod measure;
mod registered;
mod row;
mod server;
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
}

type Measure = fn(&Bench) -> anyhow::Result<Row>;

const ROWS: [(&str, Measure); 3] =
    [(cold::NAME, cold::measure), (embeddings::NAME, embeddings::measure), (registered::NAME, registered::measure)];

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let bench = Bench { quick: args.quick, root: args.root.canonicalize().context("--root")? };
    let mut rows = Vec::new();
    for (name, measure) in ROWS {
        if args.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        eprintln!("[bench] {name}");
        rows.push(measure(&bench).unwrap_or_else(|error| Row::failed(name, &format!("{error:#}"))));
    }
    anyhow::ensure!(!rows.is_empty(), "no row has `{}` in its name", args.only.unwrap_or_default());
    row::print(&rows);
    if let Some(file) = args.json {
        fs::write(&file, serde_json::to_vec_pretty(&rows)?).with_context(|| file.display().to_string())?;
    }
    Ok(if rows.iter().all(|row| row.pass) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
