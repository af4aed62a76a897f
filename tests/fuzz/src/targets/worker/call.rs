//! One call to a tenant's worker, and what must hold of its answer, whatever the worker said.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mayfly_inference::{
    Caller, Device, GenerationError, Inference, Output, Package, Prompt, PromptError, Role, RunError, RunLimits,
    RunStats, Tensor, WorkerError,
};
use mayfly_types::ModelId;
use tokio_util::sync::CancellationToken;

use super::reading::{Account, Reading};
use super::scene::{Inputs, Models, OUTPUT_BYTES_MAX, chat};

/// How long callers wait; those in a hurry; those of a script that must work.
const WAIT: Duration = Duration::from_millis(100);
const WAIT_SHORT: Duration = Duration::from_millis(20);
const WAIT_PATIENT: Duration = Duration::from_secs(15);
/// What an answer may take beyond that, on a machine that has more to do.
const LATE_MAX: Duration = Duration::from_secs(5);
const TEXT: &str = "some text";
/// Of a chat's prompt, as the server has it.
const CHAT_TOKENS_MAX: usize = 4 << 20;
const TEXT_TOKENS_MAX: usize = TEXT.len() + 1024;
/// In texts of scripts: a path that no caller may read.
const SECRET: &str = "/srv/secret";
const ERROR_CHARS_MAX: usize = 1_500;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Sum,
    /// Its inputs go through shared memory.
    Large,
    /// Every element type.
    Types,
    /// A decoder's step: logits that are cut, and state.
    Step,
    Text,
    Chat,
    /// One choice.
    One,
    /// Two choices with the likeliest tokens, few tokens each, of a prompt that may be reused.
    Two,
    /// Under a constraint.
    Constrained,
    /// A chat's prompt, then what goes on with it.
    Whole,
}

impl Asked {
    const ALL: [&[Self]; 13] = [
        &[Self::Sum],
        &[Self::Large],
        &[Self::Types],
        &[Self::Step],
        &[Self::Text],
        &[Self::Chat],
        &[Self::One],
        &[Self::Two],
        &[Self::Constrained],
        &[Self::Whole],
        &[Self::Sum, Self::One],
        &[Self::Large, Self::Large, Self::Sum],
        &[Self::Two, Self::Step, Self::Chat],
    ];

    pub(crate) fn of(number: u8) -> &'static [Self] {
        Self::ALL[usize::from(number) % Self::ALL.len()]
    }

    /// The number of a script that asks for this.
    pub(crate) fn number(asked: &[Self]) -> u8 {
        Self::ALL.iter().zip(0..).find(|(all, _)| **all == asked).map_or(0, |(_, number)| number)
    }
}

/// One call.
pub(crate) struct Call {
    pub(crate) what: Asked,
    /// As the script has it.
    pub(crate) manner: u8,
    pub(crate) patient: bool,
    pub(crate) owner: u128,
    pub(crate) leave: CancellationToken,
    pub(crate) inference: Inference,
    pub(crate) models: Models,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Went {
    /// In a word.
    pub(crate) how: &'static str,
    /// How often its run was said to begin, and how often it must have been.
    started: Arc<AtomicU32>,
    owed: Option<u32>,
    account: Option<Reading>,
}

impl Went {
    /// After everything: what was said to be owed is what is owed.
    pub(crate) fn check_settled(&self) -> Result<(), String> {
        let started = self.started.load(Ordering::SeqCst);
        if self.owed.is_some_and(|owed| owed != started) {
            return Err(format!("a run ({}) that began {started} times and is owed {:?} times", self.how, self.owed));
        }
        self.account.as_ref().map_or(Ok(()), Reading::check_settled)
    }
}

impl Call {
    /// Makes the call and checks its answer.
    ///
    /// # Errors
    /// A rule that was broken.
    pub(crate) async fn make(self) -> Result<Went, String> {
        let begin = Instant::now();
        let wait = match (self.patient, self.manner & 1) {
            (true, _) => WAIT_PATIENT,
            (false, 0) => WAIT,
            (false, _) => WAIT_SHORT,
        };
        let deadline = begin + wait;
        let ours = |error: anyhow::Error| format!("the fuzzer's own inputs: {error:#}");
        let went = match self.what {
            Asked::Sum => self.run(self.models.sum(false).map_err(ours)?, deadline).await,
            Asked::Large => self.run(self.models.sum(true).map_err(ours)?, deadline).await,
            Asked::Types => self.run(self.models.all_types().map_err(ours)?, deadline).await,
            Asked::Step => self.run(self.models.first_step().map_err(ours)?, deadline).await,
            Asked::Text => self.prompt(&Prompt::Text(TEXT.to_owned()), deadline).await.map(|(went, _)| went),
            Asked::Chat => self.prompt(&chat(), deadline).await.map(|(went, _)| went),
            Asked::One | Asked::Two | Asked::Constrained => self.generate(vec![1, 2, 3], deadline).await,
            Asked::Whole => match self.prompt(&chat(), deadline).await? {
                (_, Some(tokens)) => self.generate(tokens, deadline).await,
                (went, None) => Ok(went),
            },
        }?;
        // A reader may take its time; what it waits for ends at the deadline.
        if begin.elapsed() > wait + LATE_MAX {
            return Err(format!("an answer ({}) long after its deadline", went.how));
        }
        Ok(went)
    }

    fn caller(&self, deadline: Instant) -> Caller<'_> {
        Caller { owner: self.owner, deadline, cancel: &self.leave }
    }

    async fn run(&self, (package, inputs): (Arc<Package>, Inputs), deadline: Instant) -> Result<Went, String> {
        let limits = RunLimits { output_bytes_max: OUTPUT_BYTES_MAX, all_positions: false };
        let prepared = package.prepare(ModelId::new(), inputs, limits);
        let prepared = prepared.map_err(|error| format!("the fuzzer's own inputs: {error}"))?;
        let started = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&started);
        let begins = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        let ran = self.inference.run_apart(&package, Device::Cpu, prepared, self.caller(deadline), begins).await;
        let (how, owed) = match ran {
            Ok((outputs, stats)) => {
                self.check_outputs(&package, &outputs)?;
                check_stats(&stats)?;
                ("answered", Some(1))
            }
            Err(error) => of_run(&error)?,
        };
        Ok(Went { how, started, owed, account: None })
    }

    fn check_outputs(&self, package: &Package, outputs: &[Output]) -> Result<(), String> {
        let mut names: Vec<_> = outputs.iter().map(|output| output.name.as_str()).collect();
        let mut wanted: Vec<_> = package.info().outputs.iter().map(|output| output.name.as_str()).collect();
        names.sort_unstable();
        wanted.sort_unstable();
        if names != wanted {
            return Err(format!("outputs that nobody asked for\n{names:?}"));
        }
        let mut states = Vec::new();
        let mut sum = 0;
        for output in outputs {
            let (tensor, info) = (&output.tensor, package.info().outputs.iter().find(|info| info.name == output.name));
            let bytes = tensor.element_type().bytes_of(tensor.dimensions()).map_err(|error| error.to_string())?;
            if bytes != tensor.bytes().len() as u64 {
                return Err("an output of another size than its shape".to_owned());
            }
            sum += bytes;
            if tensor.element_type() == mayfly_inference::ElementType::Bool
                && tensor.bytes().iter().any(|byte| *byte > 1)
            {
                return Err("a boolean that is none".to_owned());
            }
            match info.map(|info| info.role) {
                Some(Role::Present) if tensor.is_opaque() => states.push(tensor.clone()),
                Some(Role::Present) => return Err("state that a guest may read".to_owned()),
                Some(Role::Logits) if !matches!(tensor.dimensions(), [1, 1, ..]) => {
                    return Err("logits that are not cut".to_owned());
                }
                _ => {}
            }
        }
        if sum > OUTPUT_BYTES_MAX {
            return Err("more outputs than there may be".to_owned());
        }
        if states.is_empty() { Ok(()) } else { self.check_handed_back(&states) }
    }

    /// State goes back into the next step: the server checks it like any other.
    fn check_handed_back(&self, states: &[Tensor]) -> Result<(), String> {
        let inputs = self.models.step(3, &[4], states).map_err(|error| format!("the fuzzer's own inputs: {error}"))?;
        let limits = RunLimits { output_bytes_max: OUTPUT_BYTES_MAX, all_positions: false };
        match self.models.decoder.prepare(ModelId::new(), inputs, limits) {
            Ok(_) => Ok(()),
            Err(error) => fit_to_read(&error.to_string()),
        }
    }

    async fn prompt(&self, prompt: &Prompt, deadline: Instant) -> Result<(Went, Option<Vec<u32>>), String> {
        let most = if matches!(prompt, Prompt::Chat(_)) { CHAT_TOKENS_MAX } else { TEXT_TOKENS_MAX };
        let package = &self.models.decoder;
        let made = self.inference.prompt_apart(package, Device::Cpu, prompt, self.caller(deadline)).await;
        let (how, tokens) = match made {
            Ok((tokens, _)) if tokens.len() > most => return Err("a prompt longer than it may be".to_owned()),
            Ok((tokens, _)) => ("a prompt", Some(tokens)),
            Err(PromptError::Run(error)) => (of_run(&error)?.0, None),
            Err(PromptError::Chat(error)) => {
                fit_to_read(&error.to_string())?;
                ("a prompt's fault", None)
            }
        };
        Ok((Went { how, started: Arc::default(), owed: None, account: None }, tokens))
    }

    async fn generate(&self, prompt: Vec<u32>, deadline: Instant) -> Result<Went, String> {
        let account = Arc::new(Account::default());
        let request =
            super::reading::request(self.what, prompt, deadline, self.owner, self.leave.clone(), Arc::clone(&account));
        let mut reading = Reading::new(account, &request);
        let vocab = self.models.decoder.info().decoder.as_ref().map_or(0, |decoder| decoder.vocab);
        let asked = self.inference.generate_apart(&self.models.decoder, Device::Cpu, request).await;
        let ended = match asked {
            Ok(generation) => reading.read(generation, self.manner >> 1 & 7, vocab, deadline).await?,
            Err(error) => Err(error),
        };
        let how = match &ended {
            Ok(how) => how,
            Err(error) => of_generation(error)?,
        };
        Ok(Went { how, started: Arc::default(), owed: None, account: Some(reading) })
    }
}

fn check_stats(stats: &RunStats) -> Result<(), String> {
    let most = WAIT_PATIENT + LATE_MAX;
    if [Some(stats.queue), stats.load, Some(stats.run), Some(stats.share)].iter().flatten().any(|time| *time > most) {
        return Err(format!("a time that cannot be\n{stats:?}"));
    }
    Ok(())
}

/// What a run ended with, and how often it is owed, if that is said.
fn of_run(error: &RunError) -> Result<(&'static str, Option<u32>), String> {
    fit_to_read(&error.to_string())?;
    Ok(match error {
        RunError::Stopped { started } => ("stopped", Some(u32::from(*started))),
        RunError::QueueFull { .. } => ("full", None),
        RunError::Load(_) => ("not loaded", None),
        RunError::Failed(_) => ("failed", None),
        RunError::TooLarge(_) => ("too large", None),
        RunError::Worker(error) => (of_worker(error)?, None),
    })
}

fn of_generation(error: &GenerationError) -> Result<&'static str, String> {
    // A place in a JSON schema looks like a path.
    if !matches!(error, GenerationError::Option(_)) {
        fit_to_read(&error.to_string())?;
    }
    Ok(match error {
        GenerationError::Worker(error) => of_worker(error)?,
        GenerationError::Stopped => "stopped",
        GenerationError::Option(_) => "an option's fault",
        _ => "failed",
    })
}

fn of_worker(error: &WorkerError) -> Result<&'static str, String> {
    match error {
        WorkerError::Crashed { .. } => Ok("crashed"),
        WorkerError::Resting { .. } => Ok("resting"),
        WorkerError::NoPlace { .. } | WorkerError::None => Err(format!("a worker of an earlier script: {error}")),
    }
}

fn fit_to_read(text: &str) -> Result<(), String> {
    if text.is_empty()
        || text.chars().count() > ERROR_CHARS_MAX
        || text.chars().any(char::is_control)
        || text.contains(SECRET)
    {
        return Err(format!("an error that is not fit to be read\n{text:?}"));
    }
    Ok(())
}
