//! Runs that fail or panic, on a runner that does so when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{ABC, Generation, GenerationError, GenerationRequest, HELLO, fixture, greedy, stored, whole};
use crate::generation::engine::{Engine, start_with};
use crate::generation::prepare::job;
use crate::generation::runner::{DecodeRow, Runner};
use crate::{Config, Device, Package};

const FAIL: u32 = 1;
const PANIC: u32 = 2;

/// Every logit is 0 but that of the token that follows the last one.
struct Counting {
    vocab: usize,
    rows: Vec<Vec<f32>>,
    /// What the next runs of a prompt that begins with 255 do.
    trouble: Arc<AtomicU32>,
}

impl Counting {
    fn row(&self, token: u32) -> Vec<f32> {
        let mut row = vec![0.0; self.vocab];
        row[(token as usize + 1) % 250] = 1.0;
        row
    }
}

impl Runner for Counting {
    fn prefill(&mut self, _: u32, _: u32, tokens: &[u32]) -> ort::Result<()> {
        if tokens[0] == 255 {
            match self.trouble.load(Ordering::SeqCst) {
                FAIL => return Err(ort::Error::new("a node said no /src/nodes.cc:1")),
                PANIC => panic!("a test's runner"),
                _ => {}
            }
        }
        self.rows = vec![self.row(*tokens.last().unwrap())];
        Ok(())
    }

    fn decode(&mut self, rows: &[DecodeRow]) -> ort::Result<()> {
        self.rows = rows.iter().map(|row| self.row(row.token)).collect();
        Ok(())
    }

    fn logits(&mut self, row: usize) -> ort::Result<&mut [f32]> {
        Ok(&mut self.rows[row])
    }

    fn copy(&mut self, _: u32, _: u32, _: u32) -> ort::Result<()> {
        Ok(())
    }

    fn release(&mut self, _: u32) {}

    fn rest(&mut self) {}

    fn bytes(&self) -> u64 {
        0
    }
}

struct Scene {
    engine: Arc<Engine>,
    package: Package,
    trouble: Arc<AtomicU32>,
    next: u64,
    _folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let (package, folder) = stored(&fixture("decoder_genai"));
        let decoder = package.info().decoder.clone().unwrap();
        let trouble = Arc::new(AtomicU32::new(0));
        let (vocab, told) = (decoder.vocab as usize, Arc::clone(&trouble));
        let runner = move || Box::new(Counting { vocab, rows: Vec::new(), trouble: told }) as Box<dyn Runner>;
        let engine = start_with(package.model(Device::Cpu), &decoder, &Config::default(), runner);
        Self { engine, package, trouble, next: 0, _folder: folder }
    }

    fn start(&mut self, request: GenerationRequest) -> Generation {
        self.next += u64::from(request.choices);
        let (job, answer) = job(&self.package, request, self.next - 1).unwrap();
        let generation = self.engine.generation(&job);
        self.engine.submit(job).unwrap();
        assert!(answer.blocking_recv().unwrap().is_ok());
        generation
    }
}

fn read(mut generation: Generation) -> Result<Vec<u32>, GenerationError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { Ok(whole(&mut generation).await?.remove(0).ids) })
}

#[test]
fn a_failed_run_ends_those_in_it_and_no_others() {
    let mut scene = Scene::new();
    let bystander = scene.start(greedy(&HELLO, 20));
    scene.trouble.store(FAIL, Ordering::SeqCst);
    let error = read(scene.start(greedy(&[255, 1], 20))).unwrap_err();
    // What the library said, without places in files.
    assert_eq!(error.to_string(), "the generation failed: a node said no");
    assert_eq!(read(bystander).unwrap(), (68..88).collect::<Vec<_>>());
    scene.trouble.store(0, Ordering::SeqCst);
    assert_eq!(read(scene.start(greedy(&[255, 1], 3))).unwrap(), [2, 3, 4], "and it goes on");
    assert!(!scene.engine.is_closed());
}

#[test]
fn a_panic_in_a_run_ends_the_engine_and_everybody_is_told() {
    let mut scene = Scene::new();
    let running = scene.start(greedy(&HELLO, 100));
    scene.trouble.store(PANIC, Ordering::SeqCst);
    let broken = scene.start(greedy(&[255, 1], 20));
    for generation in [broken, running] {
        let error = read(generation).unwrap_err();
        assert!(matches!(&error, GenerationError::Failed(said) if said.contains("host failed")), "{error:?}");
    }
    assert!(scene.engine.is_closed());
    let (job, _) = job(&scene.package, greedy(&ABC, 1), 100).unwrap();
    assert!(scene.engine.submit(job).is_err(), "it takes no more: another one is loaded");
}

#[test]
fn closed_it_tells_everybody() {
    let mut scene = Scene::new();
    let running = scene.start(greedy(&HELLO, 100));
    scene.engine.close();
    let began = Instant::now();
    assert!(matches!(read(running), Err(GenerationError::Failed(_))));
    assert!(began.elapsed() < Duration::from_secs(5));
}
