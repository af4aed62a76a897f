//! What this binary does when it started itself as a limited child: compile a component, load a model for the first time,
//! or run the models that one tenant brought. All handle bytes nobody has vouched for, so they never happen in the
//! server's own process.

use std::process::ExitCode;

/// Runs the child's work if `args` ask for it.
pub fn run(args: &[String]) -> Option<ExitCode> {
    let code = match args.get(1)?.as_str() {
        "__compile" => mayfly_host::compile_in_child(&args[2..]),
        "__probe-model" => mayfly_inference::probe_in_child(&args[2..]),
        "__worker" => mayfly_inference::run_worker(),
        _ => return None,
    };
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
