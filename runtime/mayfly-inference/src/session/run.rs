//! One run of one session: inputs in, outputs out, nothing copied but what a plan cuts.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use mayfly_types::{Digest, Line};
use ort::session::{RunOptions, Session};

use super::join::{self, Joint};
use crate::{Output, RunError, Seen, Tensor, TensorError};

/// Input bytes to one unit of cost where rows and positions do not tell it.
const COST_BYTES: u64 = 1024;

/// What to do with one output.
#[derive(Debug, Clone)]
pub(crate) struct OutputPlan {
    /// The graph's name of it.
    pub(crate) name: String,
    /// The package whose attention state it is.
    pub(crate) opaque: Option<Digest>,
    /// For each row the one position to hand out; none hands out all.
    pub(crate) keep: Option<Vec<u32>>,
    /// Charged when it is first read.
    pub(crate) on_read: Vec<Line>,
}

/// A checked run. Outputs without a plan are not handed out.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) inputs: Vec<(String, Tensor)>,
    pub(crate) outputs: Vec<OutputPlan>,
    /// The most bytes that all outputs together may take.
    pub(crate) output_bytes_max: u64,
    /// How it can share a run with others, if it can.
    pub(crate) joint: Option<Joint>,
}

impl Request {
    pub(crate) fn input_bytes(&self) -> u64 {
        self.inputs.iter().map(|(_, tensor)| tensor.byte_len()).sum()
    }

    /// What it counts for its owner where several want to run.
    pub(super) fn cost(&self) -> u64 {
        self.joint.as_ref().map_or_else(|| self.input_bytes() / COST_BYTES, |joint| joint.shape.size()).max(1)
    }
}

/// A run that gave outputs.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) outputs: Vec<Output>,
    pub(crate) queue: Duration,
    /// How long the graph ran.
    pub(crate) run: Duration,
    /// The part of that time which is this caller's, where several shared it.
    pub(crate) share: Duration,
    /// Bytes of all outputs before any cut.
    pub(super) bytes: u64,
}

/// Runs `request`. Its inputs stay alive until ONNX Runtime has returned: they are borrowed here.
pub(super) fn run(session: &mut Session, request: &Request, options: &RunOptions) -> Result<Done, RunError> {
    let (values, run) = execute(session, &request.inputs, options)?;
    let seen = Seen::default();
    let mut outputs = Vec::with_capacity(request.outputs.len());
    let mut bytes = 0_u64;
    for (name, tensor) in values {
        bytes = bytes.saturating_add(tensor.byte_len());
        within(bytes, request.output_bytes_max)?;
        let Some(plan) = request.outputs.iter().find(|plan| plan.name == name) else { continue };
        let tensor = match &plan.keep {
            Some(keep) => tensor.last_position(keep).map_err(|error| {
                RunError::Failed(format!("output `{name}` cannot be cut to its last position: {error}"))
            })?,
            None => tensor,
        };
        let tensor = match plan.opaque {
            Some(package) => tensor.into_opaque(package, seen.clone()),
            None => tensor,
        };
        outputs.push(Output { name: plan.name.clone(), tensor, on_read: plan.on_read.clone(), seen: seen.clone() });
    }
    Ok(Done { outputs, queue: Duration::ZERO, run, share: run, bytes })
}

/// Runs `requests`, which can be joined, as one; each gets its own copy of its rows.
///
/// # Errors
/// What the library said of all of them together: who of them is to blame is not known.
pub(super) fn run_joined(
    session: &mut Session,
    requests: &[&Request],
    options: &RunOptions,
) -> Result<Vec<Result<Done, RunError>>, RunError> {
    let together = |error: TensorError| RunError::Failed(error.to_string());
    let inputs = join::inputs(requests).map_err(together)?;
    let (values, run) = execute(session, &inputs, options)?;
    drop(inputs);
    let parts = join::outputs(requests, &values)?;
    let total: u64 = requests.iter().map(|request| request.cost()).sum();
    let done = requests.iter().zip(parts).map(|(request, parts)| {
        let bytes = parts.iter().map(|(_, tensor)| tensor.byte_len()).sum();
        within(bytes, request.output_bytes_max)?;
        let planned = parts.into_iter().filter_map(|(name, tensor)| {
            let plan = request.outputs.iter().find(|plan| plan.name == name)?;
            let seen = Seen::default();
            Some(Output { name: plan.name.clone(), tensor, on_read: plan.on_read.clone(), seen })
        });
        let outputs = planned.collect();
        Ok(Done { outputs, queue: Duration::ZERO, run, share: part_of(run, request.cost(), total), bytes })
    });
    Ok(done.collect())
}

fn part_of(run: Duration, cost: u64, total: u64) -> Duration {
    let nanos = run.as_nanos() * u128::from(cost) / u128::from(total.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn within(bytes: u64, most: u64) -> Result<(), RunError> {
    if bytes <= most {
        return Ok(());
    }
    Err(RunError::TooLarge(format!(
        "the outputs of this run take more than {most} bytes (output_bytes_max); give it fewer or shorter rows"
    )))
}

/// Runs the graph; gives all its outputs and how long it took.
pub(super) fn execute(
    session: &mut Session,
    inputs: &[(String, Tensor)],
    options: &RunOptions,
) -> Result<(Vec<(String, Tensor)>, Duration), RunError> {
    let borrowed = inputs
        .iter()
        .map(|(name, tensor)| Ok((Cow::from(name.as_str()), tensor.as_input()?)))
        .collect::<ort::Result<Vec<_>>>()
        .map_err(failed)?;
    let began = Instant::now();
    let values = session.run_with_options(borrowed, options).map_err(failed)?;
    let run = began.elapsed();
    let mut outputs = Vec::with_capacity(values.len());
    for (name, value) in values {
        let tensor =
            Tensor::from_output(value, inputs).map_err(|error| RunError::Failed(format!("output `{name}` {error}")))?;
        outputs.push((name.to_string(), tensor));
    }
    Ok((outputs, run))
}

fn failed(error: ort::Error) -> RunError {
    tracing::debug!(%error, "a run failed");
    RunError::Failed(readable(error.message()))
}

/// What the library said, without places in files (of its own sources or of this host), and not longer than a line.
pub(crate) fn readable(message: &str) -> String {
    let mut text = String::new();
    for word in message.split_whitespace() {
        if word.contains('/') || word.contains('\\') {
            continue;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.extend(word.chars().filter(|char| !char.is_control()));
        if text.chars().count() > 300 {
            text = text.chars().take(300).chain(['…']).collect();
            break;
        }
    }
    if text.is_empty() { "no reason was given".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_text_has_no_paths_and_an_end() {
        let said = "Non-zero status code returned while running Add node. Status Message: \
                    /onnxruntime_src/core/element_wise_ops.h:540 void onnxruntime::BroadcastIterator::Init() \
                    axis == 1 was false. 2 by 3\n";
        let text = readable(said);
        assert!(text.starts_with("Non-zero status code") && text.ends_with("2 by 3"), "{text}");
        assert!(!text.contains('/'), "{text}");
        assert_eq!(readable("/srv/models/a.onnx"), "no reason was given");
        assert_eq!(readable(&"é".repeat(5000)).chars().count(), 301);
    }
}
