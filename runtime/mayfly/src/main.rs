//! The `mayfly` command: `mayfly serve` is the server, the other commands talk to one.

use std::process::ExitCode;

use clap::Parser;
use mayfly::cli::Cli;

fn main() -> ExitCode {
    // Before any thread: the process' environment and allocator settings.
    mayfly_inference::prepare_process();

    let args: Vec<String> = std::env::args().collect();
    if let Some(code) = mayfly::child::run(&args) {
        return code;
    }
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
