//! Processes for tenants' own models: the same answers, and nobody else's trouble. This binary is its own worker, as
//! `mayfly` is.
//!
//! Needs ONNX Runtime's library, which the set-up scripts put in place (`MAYFLY_ORT_DYLIB` names another).
#![expect(clippy::unwrap_used, reason = "tests")]

mod generations;
mod hostile;
mod lies;
mod life;
mod reader;
mod runs;
mod scene;
mod speech;
#[path = "../common/weights.rs"]
mod weights;

use libtest_mimic::{Arguments, Trial};

fn main() {
    mayfly_inference::prepare_process();
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("__worker") => std::process::exit(mayfly_inference::run_worker()),
        Some("__probe-model") => std::process::exit(mayfly_inference::probe_in_child(&args[2..])),
        Some("__hostile") => return hostile::worker(&args[2]),
        Some("__liar") => return lies::worker(&args[2]),
        _ => {}
    }
    let all = [runs::trials(), generations::trials(), life::trials(), hostile::trials(), lies::trials()];
    let trials: Vec<Trial> = all.into_iter().flatten().collect();
    // One after the other: some look at processes and at time.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test with a scene, inside a runtime.
fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn(scene::Scene) -> F) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test(scene::Scene::new()));
        Ok(())
    })
}
