//! The host as its callers see it: real components, compiled by the real child, run in the real pool.
//!
//! No test harness of the standard library: the binary is also the compiling child, started again with `__compile`, and
//! the child that loads a model for the first time (`__probe-model`). Needs ONNX Runtime's library (`MAYFLY_ORT_DYLIB`, or
//! a place the binary looks in) and the guests of `tests/fixtures/guests`.

#![expect(clippy::unwrap_used, reason = "tests")]

mod answers;
mod faults;
mod generation;
mod guest;
mod limits;
mod reuse;
mod scene;
mod uploads;

use libtest_mimic::{Arguments, Trial};

/// A test by its own name, on a runtime like the server's.
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$(libtest_mimic::Trial::test(concat!(module_path!(), "::", stringify!($name)), || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
                runtime.block_on($name());
                Ok(())
            })),*]
        }
    };
}
pub(crate) use trials;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "__compile") {
        std::process::exit(mayfly_host::compile_in_child(&args[1..]));
    }
    // Before any thread is there.
    mayfly_inference::prepare_process();
    if args.first().is_some_and(|first| first == "__probe-model") {
        std::process::exit(mayfly_inference::probe_in_child(&args[1..]));
    }
    let plain = [answers::trials(), faults::trials(), limits::trials(), reuse::trials(), uploads::trials()]
        .into_iter()
        .flatten();
    let trials: Vec<Trial> = plain.chain(generation::all_trials()).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
