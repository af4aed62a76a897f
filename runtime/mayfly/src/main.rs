//! The `mayfly` command: `mayfly serve` is the server, the other commands talk to one.

use std::process::ExitCode;

use clap::Parser;
use mayfly::cli::Cli;

/// A request makes some hundred short-lived allocations on two threads. ONNX Runtime allocates through the C library, which
/// [`mayfly_inference::prepare_process`] sets up to give memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
