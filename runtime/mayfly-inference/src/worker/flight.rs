//! One run, or the making of a prompt, on its way through a worker, as the server sees it, and what the server accepts as
//! its answer.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::arena::Place;
use super::message::{Order, Task, Value, Wanted, bytes_of};
use crate::session::{OutputPlan, Request};
use crate::{ChatError, ElementType, LoadError, Output, RunError, RunStats, Seen, Tensor, TensorError, WorkerError};

/// Outputs, and where the time went.
pub(super) type Answer = Result<(Vec<Output>, RunStats), Unanswered>;

/// Why there are none.
#[derive(Debug)]
pub(super) enum Unanswered {
    Run(RunError),
    /// Where the output is the tokens of a prompt.
    Prompt(ChatError),
}

impl From<RunError> for Unanswered {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

impl From<LoadError> for Unanswered {
    fn from(error: LoadError) -> Self {
        Self::Run(error.into())
    }
}

impl From<WorkerError> for Unanswered {
    fn from(error: WorkerError) -> Self {
        Self::Run(error.into())
    }
}

/// Called when the run begins.
pub(super) type Started = Box<dyn FnOnce() + Send>;

/// A run that a worker was given.
pub(super) struct Flight {
    /// Taken when it begins, or when its caller leaves before.
    pub(super) started: Option<Started>,
    pub(super) begun: Option<Begun>,
    pub(super) sent: Instant,
    pub(super) deadline: Instant,
    /// A worker that has said nothing of it by then is killed.
    pub(super) until: Instant,
    pub(super) wanted: Vec<OutputPlan>,
    pub(super) output_bytes_max: u64,
    /// None once its caller was told, or has left.
    pub(super) reply: Option<oneshot::Sender<Answer>>,
    /// Where its inputs lie.
    pub(super) inputs: Option<Place>,
    /// What it puts out, while that waits for space or to be written.
    pub(super) outputs: Option<Announced>,
    /// Its part of the process's time, once it is over.
    pub(super) share: Duration,
}

/// A worker's clock may be before ours by this much: it is told how long it has, in milliseconds.
pub(super) const EARLY_MAX: Duration = Duration::from_millis(50);

/// When a run began, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    at: Instant,
    each: Duration,
}

/// What the time of a process comes to for each of the runs that share it: a clock that goes slower the more there are.
/// What the worker itself says of that is not asked.
#[derive(Debug)]
pub(super) struct Shares {
    each: Duration,
    as_of: Instant,
    running: u32,
}

impl Shares {
    pub(super) fn new(now: Instant) -> Self {
        Self { each: Duration::ZERO, as_of: now, running: 0 }
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.as_of);
        self.each += passed.checked_div(self.running).unwrap_or_default();
        self.as_of = now;
    }

    pub(super) fn begin(&mut self, now: Instant) -> Begun {
        self.advance(now);
        self.running += 1;
        Begun { at: now, each: self.each }
    }

    /// Ends a run; gives its share of the time since it began.
    pub(super) fn end(&mut self, now: Instant, begun: Begun) -> Duration {
        self.advance(now);
        self.running = self.running.saturating_sub(1);
        self.each.saturating_sub(begun.each)
    }
}

/// Outputs that are on their way.
#[derive(Debug)]
pub(super) struct Announced {
    pub(super) values: Vec<Value>,
    pub(super) load_us: Option<u64>,
    pub(super) bytes: u64,
    pub(super) place: Option<Place>,
}

/// A worker that says what it cannot mean: it is not what we started any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it broke the protocol: {0}")]
pub(super) struct Violation(pub(super) &'static str);

impl Flight {
    /// It begins now, unless it has. Its caller owes it from here on.
    pub(super) fn begin(&mut self, shares: &mut Shares) {
        if self.begun.is_none() {
            self.begun = Some(shares.begin(Instant::now()));
            if let Some(started) = self.started.take() {
                started();
            }
        }
    }

    /// Its caller leaves; gives whether it is owed. If not, it never will be.
    pub(super) fn leave(&mut self) -> bool {
        self.started = None;
        // From here on the worker may say that it was stopped.
        self.reply = None;
        self.begun.is_some()
    }

    /// Checks what the worker says it puts out, and gives how many bytes that is.
    ///
    /// # Errors
    /// [`Violation`], or that it is too much, which is the run's own fault.
    pub(super) fn check(&self, values: &[Value]) -> Result<Result<u64, RunError>, Violation> {
        let mut names = HashSet::new();
        for value in values {
            let plan =
                self.wanted.iter().find(|plan| plan.name == value.name).ok_or(Violation("an output nobody wants"))?;
            if !names.insert(value.name.as_str()) {
                return Err(Violation("an output twice"));
            }
            if let Some(keep) = &plan.keep
                && !matches!(&value.dimensions[..], [rows, 1, ..] if *rows as usize == keep.len())
            {
                return Err(Violation("an output that was not cut"));
            }
        }
        if names.len() != self.wanted.len() {
            return Err(Violation("an output is missing"));
        }
        let bytes = bytes_of(values).ok_or(Violation("an output of no size"))?;
        if bytes > self.output_bytes_max {
            return Ok(Err(too_large(self.output_bytes_max)));
        }
        Ok(Ok(bytes))
    }

    /// Whether the worker may say now that it was stopped: nobody waits for it, or its time is up.
    pub(super) fn may_stop(&self, now: Instant) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed) || now + EARLY_MAX >= self.deadline
    }

    /// Tells the caller, if it still waits and was not told before.
    pub(super) fn answer(&mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            // Nobody there to hear it is nothing to do about.
            let _ = reply.send(answer);
        }
    }

    /// Where the time went, as far as it can be told from here: what a worker says of itself only moves waiting from one
    /// name to another.
    pub(super) fn stats(&self, load_us: Option<u64>) -> RunStats {
        let begun = self.begun.map_or(self.sent, |begun| begun.at);
        let waited = begun.saturating_duration_since(self.sent);
        let load = load_us.map(|us| Duration::from_micros(us).min(waited));
        let queue = waited.saturating_sub(load.unwrap_or_default());
        RunStats { queue, load, run: begun.elapsed(), share: self.share }
    }
}

/// Makes outputs of values that were checked. `fill` gives the bytes, one value after the other.
///
/// # Errors
/// [`Violation`], or that the host has no memory for them.
pub(super) fn outputs(
    wanted: &[OutputPlan],
    values: &[Value],
    mut fill: impl FnMut(&mut [u8]) -> Result<(), Violation>,
) -> Result<Result<Vec<Output>, RunError>, Violation> {
    let seen = Seen::default();
    let mut outputs = Vec::with_capacity(values.len());
    for value in values {
        let plan = wanted.iter().find(|plan| plan.name == value.name).ok_or(Violation("an output nobody wants"))?;
        let len = value.bytes().and_then(|bytes| usize::try_from(bytes).ok()).ok_or(Violation("no size"))?;
        let made = Tensor::fill_with(value.element_type, &value.dimensions, len, |bytes| {
            fill(bytes).map_err(Unmade::Violation)?;
            // ONNX Runtime takes any other byte for undefined behaviour, and this may become its input.
            if value.element_type == ElementType::Bool && bytes.iter().any(|&byte| byte > 1) {
                return Err(Unmade::Violation(Violation("a boolean that is none")));
            }
            Ok(())
        });
        let tensor = match made {
            Ok(tensor) => tensor,
            Err(Unmade::Violation(violation)) => return Err(violation),
            Err(Unmade::Tensor(error)) => return Ok(Err(RunError::Failed(error.to_string()))),
        };
        let tensor = match plan.opaque {
            Some(package) => tensor.into_opaque(package, seen.clone()),
            None => tensor,
        };
        outputs.push(Output { name: plan.name.clone(), tensor, on_read: plan.on_read.clone(), seen: seen.clone() });
    }
    Ok(Ok(outputs))
}

/// What keeps a tensor from being made.
enum Unmade {
    Violation(Violation),
    Tensor(TensorError),
}

impl From<TensorError> for Unmade {
    fn from(error: TensorError) -> Self {
        Self::Tensor(error)
    }
}

pub(super) fn too_large(limit: u64) -> RunError {
    RunError::TooLarge(format!(
        "the outputs of this run take more than {limit} bytes (output_bytes_max); give it fewer or shorter rows"
    ))
}

/// `request` as a run of its graph.
pub(super) fn run_of(request: &Request) -> Task {
    let wanted = |plan: &OutputPlan| Wanted {
        name: plan.name.clone(),
        keep: plan.keep.as_ref().map(|keep| u32::try_from(keep.len()).unwrap_or(u32::MAX)),
    };
    Task::Run { outputs: request.outputs.iter().map(wanted).collect(), output_bytes_max: request.output_bytes_max }
}

/// `request` as an order, and the data that belongs to it beside the inputs' bytes: which positions to keep.
pub(super) fn order(
    request: &Request,
    task: Task,
    run: u64,
    package: mayfly_types::Digest,
    timeout_ms: u64,
) -> (Order, Vec<u8>) {
    let value = |(name, tensor): &(String, Tensor)| Value {
        name: name.clone(),
        element_type: tensor.element_type(),
        dimensions: tensor.dimensions().to_vec(),
    };
    let keep = request.outputs.iter().filter_map(|plan| plan.keep.as_deref()).flatten();
    let inputs = request.inputs.iter().map(value).collect();
    let order = Order { run, package, timeout_ms, inputs, at: None, task };
    (order, keep.flat_map(|position| position.to_le_bytes()).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn flight(wanted: &[(&str, Option<Vec<u32>>)]) -> (Flight, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&count);
        let plan = |(name, keep): &(&str, Option<Vec<u32>>)| OutputPlan {
            name: (*name).to_owned(),
            opaque: None,
            keep: keep.clone(),
            on_read: Vec::new(),
        };
        let flight = Flight {
            started: Some(Box::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
            })),
            begun: None,
            sent: Instant::now(),
            deadline: Instant::now(),
            until: Instant::now(),
            wanted: wanted.iter().map(plan).collect(),
            output_bytes_max: 100,
            reply: None,
            inputs: None,
            outputs: None,
            share: Duration::ZERO,
        };
        (flight, count)
    }

    fn value(name: &str, dimensions: &[u32]) -> Value {
        Value { name: name.to_owned(), element_type: ElementType::F32, dimensions: dimensions.to_vec() }
    }

    #[test]
    fn a_run_is_owed_once_and_never_after_its_caller_left() {
        let mut shares = Shares::new(Instant::now());
        let (mut flight, count) = flight(&[]);
        flight.begin(&mut shares);
        flight.begin(&mut shares);
        assert!(flight.leave());
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let (mut flight, count) = self::flight(&[]);
        assert!(!flight.leave());
        flight.begin(&mut shares);
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn runs_at_once_share_the_time() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut shares = Shares::new(start);
        let first = shares.begin(at(10));
        let second = shares.begin(at(12));
        // 2 s alone, then 4 s for two.
        assert_eq!(shares.end(at(16), first), Duration::from_secs(4));
        assert_eq!(shares.end(at(19), second), Duration::from_secs(5));
        let third = shares.begin(at(30));
        assert_eq!(shares.end(at(31), third), Duration::from_secs(1), "time without work is nobody's");
    }

    #[test]
    fn only_what_was_asked_for_is_accepted() {
        let (flight, _) = flight(&[("a", None), ("b", Some(vec![4, 2]))]);
        let good = [value("b", &[2, 1, 3]), value("a", &[5])];
        assert_eq!(flight.check(&good).unwrap().unwrap(), 44);
        let violated = |values: &[Value]| flight.check(values).is_err();
        assert!(violated(&[value("a", &[5])]), "one is missing");
        assert!(violated(&[value("a", &[5]), value("a", &[5])]), "twice");
        assert!(violated(&[value("a", &[5]), value("c", &[5])]), "not wanted");
        assert!(violated(&[value("a", &[5]), value("b", &[2, 2])]), "not cut");
        assert!(violated(&[value("a", &[5]), value("b", &[3, 1])]), "other rows");
        assert!(violated(&[value("a", &[u32::MAX; 3]), value("b", &[2, 1])]), "no size");
        assert!(violated(&[value("a", &[1; 17]), value("b", &[2, 1])]), "no rank");
        let large = flight.check(&[value("a", &[50]), value("b", &[2, 1])]);
        assert!(matches!(large, Ok(Err(RunError::TooLarge(_)))), "its own fault");
    }

    #[test]
    fn booleans_are_booleans() {
        let (flight, _) = flight(&[("a", None)]);
        let value = Value { element_type: ElementType::Bool, ..value("a", &[2]) };
        let make = |bytes: [u8; 2]| {
            outputs(&flight.wanted, std::slice::from_ref(&value), |to| {
                to.copy_from_slice(&bytes);
                Ok(())
            })
        };
        assert_eq!(make([0, 1]).unwrap().unwrap()[0].tensor.as_slice(), [0, 1]);
        assert!(make([2, 1]).is_err());
    }
}
