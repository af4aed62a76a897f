//! What is fuzzed. Each target knows how to run an input and which rules must hold after it.

mod component;
mod http;
mod manifest;
mod nn;
mod package;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;

pub(crate) trait Target {
    /// Inputs beside the committed ones, made from what the tests have anyway.
    fn seeds(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// Words of its format.
    fn words(&self) -> &'static [&'static [u8]] {
        &[]
    }

    /// A change that knows the format; none leaves it to the one that knows nothing.
    fn mutate(&self, _input: &[u8], _other: &[u8], _rng: &mut StdRng) -> Option<Vec<u8>> {
        None
    }

    /// Runs one input.
    ///
    /// # Errors
    /// Which rule it broke; the first line is what tells one finding from another.
    fn run(&mut self, input: &[u8]) -> Result<(), String>;

    /// The longest that one input may take.
    fn seconds_max(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// How often inputs ended in which way, so that one sees whether they reach what they are meant for.
    fn notes(&self) -> BTreeMap<&'static str, u64>;
}

/// The target of that name, ready to run.
pub(crate) fn open(name: &str, root: &Path) -> anyhow::Result<Box<dyn Target>> {
    Ok(match name {
        "component" => Box::new(component::ComponentTarget::new(root)?),
        "http" => Box::new(http::HttpTarget::new(root)?),
        "manifest" => Box::new(manifest::ManifestTarget::new(root)),
        "nn" => Box::new(nn::NnTarget::new(root)?),
        "package" => Box::new(package::PackageTarget::new(root)?),
        "worker" => Box::new(worker::WorkerTarget::new(root)?),
        other => anyhow::bail!("there is no target `{other}`"),
    })
}

/// A guest of `tests/fixtures/guests`.
fn guest(root: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let file = root.join(format!("tests/fixtures/guests/target/wasm32-wasip2/release/{name}.wasm"));
    std::fs::read(&file).map_err(|error| anyhow::anyhow!("{}: {error}; run tests/fuzz/run.sh", file.display()))
}
