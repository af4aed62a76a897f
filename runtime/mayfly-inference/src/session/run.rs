//! One run of one session: inputs in, outputs out, nothing copied but what a plan cuts.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use mayfly_types::{Digest, Line};
use ort::session::{RunOptions, Session};

use crate::{Output, RunError, Seen, Tensor};

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
}

impl Request {
    pub(crate) fn input_bytes(&self) -> u64 {
        self.inputs.iter().map(|(_, tensor)| tensor.byte_len()).sum()
    }
}

/// A run that gave outputs.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) outputs: Vec<Output>,
    pub(crate) queue: Duration,
    pub(crate) run: Duration,
    /// Bytes of all outputs before any cut.
    pub(super) bytes: u64,
}

/// Runs `request`. Its inputs stay alive until ONNX Runtime has returned: they are borrowed here.
pub(super) fn run(session: &mut Session, request: &Request, options: &RunOptions) -> Result<Done, RunError> {
    let inputs = request
        .inputs
        .iter()
        .map(|(name, tensor)| Ok((Cow::from(name.as_str()), tensor.as_input()?)))
        .collect::<ort::Result<Vec<_>>>()
        .map_err(failed)?;
    let began = Instant::now();
    let values = session.run_with_options(inputs, options).map_err(failed)?;
    let run = began.elapsed();

    let seen = Seen::default();
    let mut outputs = Vec::with_capacity(request.outputs.len());
    let mut bytes = 0_u64;
    for (name, value) in values {
        let tensor = Tensor::from_output(value, &request.inputs)
            .map_err(|error| RunError::Failed(format!("output `{name}` {error}")))?;
        bytes = bytes.saturating_add(tensor.byte_len());
        if bytes > request.output_bytes_max {
            return Err(RunError::TooLarge(format!(
                "the outputs of this run take more than {} bytes (output_bytes_max); give it fewer or shorter rows",
                request.output_bytes_max
            )));
        }
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
    Ok(Done { outputs, queue: Duration::ZERO, run, bytes })
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
