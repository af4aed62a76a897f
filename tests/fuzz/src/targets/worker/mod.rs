//! What a worker process says to the server. A tenant's model that took its process over may send anything over its socket
//! and write anything into the shared memory. An input is a script of that (`script`): a thread plays it (`speaker`) in
//! the place of a process, while callers wait for runs, prompts and generations (`call`, `reading`).
//!
//! What must hold: each call is answered or fails in time with an error of its worker's, fit to be read; outputs are those
//! that were asked for; what is charged is what was checked; nothing of a worker that broke the protocol stays; nothing
//! it says makes the server allocate more than tensors may have; another tenant's worker works.

mod call;
mod grammar;
mod reading;
mod scene;
mod script;
mod seeds;
mod speaker;

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use tokio::runtime::Runtime;

use self::scene::{OUTPUT_BYTES_MAX, Scene};
use self::script::Script;
use super::Target;
use crate::allocations;

/// Scripts after which one that must work is played.
const CHECK_EVERY: u64 = 100;
/// Scripts of that kind, one of which has to: a machine with other work may let each worker begin too late.
const CHECK_TRIES: usize = 3;
/// One allocation, beside the largest output.
const ALLOCATED_BESIDE_BYTES: u64 = 4096;

pub(crate) struct WorkerTarget {
    runtime: Runtime,
    scene: Scene,
    runs: u64,
    notes: BTreeMap<&'static str, u64>,
}

impl WorkerTarget {
    pub(crate) fn new(root: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let scene = runtime.block_on(async { Scene::new(root) })?;
        let mut target = Self { runtime, scene, runs: 0, notes: BTreeMap::new() };
        target.check().map_err(anyhow::Error::msg)?;
        Ok(target)
    }

    /// A worker of another tenant, which means well.
    fn check(&mut self) -> Result<(), String> {
        let mut all = Vec::new();
        for _ in 0..CHECK_TRIES {
            let went = self.runtime.block_on(self.scene.play(seeds::good(), true))?;
            if went.iter().all(|went| went.how == "answered") {
                return Ok(());
            }
            all.extend(went);
        }
        Err(format!("a worker that must work does not\n{all:?}"))
    }
}

impl Target for WorkerTarget {
    fn seeds(&self) -> Vec<Vec<u8>> {
        seeds::all()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\"ready\"",
            b"{\"started\":{\"run\":1}}",
            b"{\"taken\":{\"run\":1}}",
            b"{\"written\":{\"run\":1}}",
            b"{\"admitted\":{\"run\":1}}",
            b"{\"failed\":{\"run\":1,\"fault\":\"stopped\"}}",
            // Nobody has asked for one within a script's time: that is a breach, however it reads.
            b"{\"report\":{\"models\":[],\"sequences\":1,\"slots\":1,\"waiting\":0,\"kv_tokens\":0,\"kv_tokens_max\":9,\"state_bytes\":0}}",
            b"\"run\":2",
            b"4294967295",
            b"18446744073709551616",
            b"1e400",
            b"null",
            b"[[[[[[[[",
            b"\xff\xfe",
            b"\\ud800",
        ]
    }

    fn mutate(&self, input: &[u8], other: &[u8], rng: &mut StdRng) -> Option<Vec<u8>> {
        Some(grammar::mutate(input, other, self.words(), rng))
    }

    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        allocations::take_largest();
        let went = self.runtime.block_on(self.scene.play(Script::read(input), false))?;
        let allocated = allocations::take_largest();
        for went in went {
            *self.notes.entry(went.how).or_default() += 1;
        }
        if allocated as u64 > OUTPUT_BYTES_MAX + ALLOCATED_BESIDE_BYTES {
            return Err(format!("an allocation that no worker may cause\n{allocated} bytes"));
        }
        self.runs += 1;
        if self.runs.is_multiple_of(CHECK_EVERY) { self.check() } else { Ok(()) }
    }

    fn notes(&self) -> BTreeMap<&'static str, u64> {
        self.notes.clone()
    }
}
