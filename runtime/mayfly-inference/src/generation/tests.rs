//! Generation as a whole, on the real library and the two tiny decoders of `tests/fixtures/models`, which are one model
//! in two layouts.

mod bare;
mod bounds;
mod cuda;
mod exact;
mod faults;
mod leaving;
mod options;
mod runs;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    Chunk, Constraint, Finish, Generation, GenerationAccount, GenerationError, GenerationOptions, GenerationRequest,
    Sampling,
};
use crate::package::tests::{fixture, stored};
use crate::{Config, Device, EngineLoad, Inference, Package};

/// `hello world` and what the model makes of it, greedily; computed by another program.
const HELLO: [u32; 5] = [259, 260, 261, 75, 67];
const HELLO_GOES_ON: [u32; 20] =
    [13, 62, 104, 4, 170, 116, 144, 102, 224, 267, 208, 208, 50, 231, 208, 50, 231, 208, 193, 37];
/// `abc`, likewise.
const ABC: [u32; 3] = [64, 65, 66];
const ABC_GOES_ON: [u32; 20] =
    [190, 253, 194, 104, 248, 253, 194, 214, 220, 247, 85, 230, 101, 167, 182, 32, 45, 62, 104, 202];

const LAYOUTS: [&str; 2] = ["decoder_genai", "decoder_optimum"];

/// A server's inference side with one decoder.
struct Host {
    inference: Inference,
    package: Arc<Package>,
    device: Device,
    _folder: TempDir,
}

impl Host {
    fn new(layout: &str, config: Config) -> Self {
        Self::of(&fixture(layout), config)
    }

    fn of(model: &Path, config: Config) -> Self {
        let inference = Inference::start(config).unwrap_or_else(|error| {
            panic!("{error}\nthese tests need ORT_DISABLE_TELEMETRY=1 and, unless it is installed, MAYFLY_ORT_DYLIB")
        });
        let (package, folder) = stored(model);
        Self { inference, package: Arc::new(package), device: Device::Cpu, _folder: folder }
    }

    async fn start(&self, request: GenerationRequest) -> Result<Generation, GenerationError> {
        self.inference.generate(&self.package, self.device, request).await
    }

    /// Everything of choice 0.
    async fn run(&self, request: GenerationRequest) -> Whole {
        whole(&mut self.start(request).await.unwrap()).await.unwrap().remove(0)
    }

    fn load(&self) -> EngineLoad {
        self.inference.generation_load()[0]
    }

    /// Waits until the engine's load is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&EngineLoad) -> bool) {
        let began = Instant::now();
        while !self.inference.generation_load().first().is_some_and(&wanted) {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: {:?}", self.inference.generation_load());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// One choice, read to its end.
#[derive(Debug, Clone, Default, PartialEq)]
struct Whole {
    ids: Vec<u32>,
    text: String,
    finish: Option<Finish>,
}

/// All choices, read to their ends.
async fn whole(generation: &mut Generation) -> Result<Vec<Whole>, GenerationError> {
    let mut choices: Vec<Whole> = Vec::new();
    while let Some(Chunk { choice, text, tokens, finish, .. }) = generation.next().await? {
        if choices.len() <= choice as usize {
            choices.resize(choice as usize + 1, Whole::default());
        }
        let of = &mut choices[choice as usize];
        assert_eq!(of.finish, None, "nothing comes after the end");
        of.ids.extend(tokens.iter().map(|token| token.id));
        of.text.push_str(&text);
        of.finish = finish;
    }
    Ok(choices)
}

/// What a generation was charged.
#[derive(Debug, Default)]
struct Account {
    inputs: Mutex<Vec<(u32, u32)>>,
    outputs: AtomicU32,
    time: Mutex<Duration>,
}

impl Account {
    fn inputs(&self) -> Vec<(u32, u32)> {
        self.inputs.lock().unwrap().clone()
    }

    fn outputs(&self) -> u32 {
        self.outputs.load(Ordering::SeqCst)
    }
}

impl GenerationAccount for Account {
    fn input(&self, fresh: u32, cached: u32) {
        self.inputs.lock().unwrap().push((fresh, cached));
    }

    fn output(&self, tokens: u32) {
        self.outputs.fetch_add(tokens, Ordering::SeqCst);
    }

    fn ran(&self, time: Duration) {
        *self.time.lock().unwrap() += time;
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A greedy request of one choice that no end token ends.
fn greedy(prompt: &[u32], max_tokens: u32) -> GenerationRequest {
    GenerationRequest {
        prompt: prompt.to_vec(),
        options: GenerationOptions {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens,
            stop: Vec::new(),
            ignore_eos: true,
            logprobs: None,
            constraint: None,
        },
        choices: 1,
        owner: 1,
        reuse: None,
        deadline: soon(),
        cancel: CancellationToken::new(),
        account: Arc::new(Account::default()),
    }
}

/// Prompts of many lengths, none the beginning of another.
fn prompts(count: u32) -> Vec<Vec<u32>> {
    (0..count)
        .map(|number| (0..2 + number * 7 % 31).map(|place| (number * 37 + place * 11 + 5) % 250).collect())
        .collect()
}
