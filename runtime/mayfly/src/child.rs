//! What this binary does when it started itself as a limited child: compile a component, or load a model for the first
//! time. Both handle bytes nobody has vouched for, so they never happen in the server's own process.

use std::process::ExitCode;

/// Runs the child's work if `args` ask for it.
pub fn run(args: &[String]) -> Option<ExitCode> {
    let code = match args.get(1)?.as_str() {
        "__compile" => mayfly_host::compile_in_child(&args[2..]),
        "__probe-model" => mayfly_inference::probe_in_child(&args[2..]),
        _ => return None,
    };
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
