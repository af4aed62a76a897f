//! `wasi:nn` as guests see it. An input is a script for the guest `script` (`tests/fixtures/guests/script`): which calls, in
//! which order, with which tensors. It runs in a real instance, on real models.
//!
//! What must hold: no panic, no fault of ours, nothing held or alive after the call, every run that the guest saw end was
//! charged for, and the next call works.

mod account;
pub(crate) mod scene;

use std::collections::BTreeMap;
use std::path::Path;

use mayfly_types::{Digest, GuestLimits, Meter};
use tokio::runtime::Runtime;

use self::scene::{Scene, Went};
use super::Target;

/// Calls after which a script that must work is sent.
const CHECK_EVERY: u64 = 50;
/// A run of three rows, read: what [`NnTarget::check`] sends.
const GOOD: &[u8] = &[5, 0, 2, 1, 8, 0];

pub(crate) struct NnTarget {
    runtime: Runtime,
    scene: Scene,
    script: Digest,
    runs: u64,
    notes: BTreeMap<&'static str, u64>,
}

impl NnTarget {
    pub(crate) fn new(root: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let limits = GuestLimits {
            guest_cpu_ms_max: 1_000,
            deadline_ms_max: 5_000,
            memory_bytes_max: 32 << 20,
            tensor_bytes_max: 16 << 20,
            handles_max: 300,
            ..GuestLimits::default()
        };
        let mut scene = runtime.block_on(async { Scene::new(limits) })?;
        let models = root.join("tests/fixtures/models");
        for (alias, file) in [
            ("rows", "rows.onnx"),
            ("types", "types.onnx"),
            ("encoder", "encoder.onnx"),
            ("decoder", "decoder_optimum"),
            ("group-query", "decoder_genai"),
            ("stateful", "stateful.onnx"),
            ("loop", "loop.onnx"),
            ("embedder", "embedder"),
        ] {
            scene.grant(alias, &models.join(file))?;
        }
        let wasm = super::guest(root, "script")?;
        let script = Digest::of(&wasm);
        runtime.block_on(scene.compile(&wasm, script)).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let mut target = Self { runtime, scene, script, runs: 0, notes: BTreeMap::new() };
        target.check().map_err(anyhow::Error::msg)?;
        Ok(target)
    }

    /// A call that must work.
    fn check(&mut self) -> Result<(), String> {
        let went = self.runtime.block_on(self.scene.call(self.script, GOOD.to_vec(), false))?;
        match went {
            Went::Answered(text, account) if text.contains("runs=1 rows=3") && account.sum(Meter::Rows) == 3 => Ok(()),
            other => Err(format!("a call that must work does not: {other:?}")),
        }
    }
}

impl Target for NnTarget {
    fn seeds(&self) -> Vec<Vec<u8>> {
        // Each model with inputs as it wants them, once and twice; then every other step of a script.
        let mut seeds: Vec<Vec<u8>> = (0..9).map(|model| vec![5, model, 2, 1, 8, 0, 5, model, 0, 2, 9, 1]).collect();
        seeds.push(vec![0, 2, 1, 4, 1, 0, 1, 8, 0, 10, 0]);
        seeds.push(vec![3, 0, 4, 0, 6, 0, 1, 0, 0, 7, 1, 0]);
        seeds.push(vec![11, 0, 7, 11, 1, 3, 11, 2, 9]);
        seeds.push(vec![12, 3, 1, 13, 0, 2, 2, 1, 14, 1, 15, 7, 4, b't', b'e', b'x', b't']);
        seeds.push([[5, 3, 1, 1], [5, 3, 170, 1], [5, 3, 170, 1]].concat());
        seeds
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            &[5, 0, 2, 1],
            &[5, 1, 1, 0],
            &[5, 3, 170, 1],
            &[0, 1, 2, 1, 0],
            &[0, 6, 15, 15, 15],
            &[8, 0],
            &[10, 0],
            &[13, 2, 2, 1],
            &[11, 1, 2],
        ]
    }

    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        // The last byte says whether the budget says no to every third hold.
        let refuses = input.last().is_some_and(|last| last % 8 == 7);
        let went = self.runtime.block_on(self.scene.call(self.script, input.to_vec(), refuses))?;
        let what = match &went {
            Went::Answered(text, account) => {
                let number = |name: &str| {
                    let at = text.find(name).map(|at| at + name.len());
                    at.and_then(|at| text[at..].split(' ').next()?.trim().parse::<u64>().ok()).unwrap_or_default()
                };
                let (runs, rows) = (number("runs="), number("rows="));
                if account.runs() < runs || account.sum(Meter::Rows) < rows {
                    return Err(format!("work that nobody paid for\n{text}\n{account:?}"));
                }
                if runs > 0 { "answered, with runs" } else { "answered" }
            }
            Went::Failed(_) => "trapped",
        };
        *self.notes.entry(what).or_default() += 1;
        self.runs += 1;
        if self.runs.is_multiple_of(CHECK_EVERY) { self.check() } else { Ok(()) }
    }

    fn notes(&self) -> BTreeMap<&'static str, u64> {
        self.notes.clone()
    }
}
