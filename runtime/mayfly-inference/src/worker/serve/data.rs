//! The data of an order: inputs out of the packet or the arena, outputs back.

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::session::{OutputPlan, Request};
use crate::worker::arena::Arena;
use crate::worker::message::{Fault, FromWorker, INLINE_BYTES_MAX, Order, Task, Value, bytes_of, short};
use crate::{Output, RunStats, Tensor, TensorError};

impl Worker {
    /// Copies what belongs to an order out of the packet or the arena.
    pub(super) fn take(&self, order: &Order, data: &[u8]) -> Result<Request, String> {
        let mut source = Source { arena: &self.arena, at: order.at, data };
        let mut inputs = Vec::with_capacity(order.inputs.len());
        for Value { name, element_type, dimensions } in &order.inputs {
            let len = element_type.bytes_of(dimensions).map_err(|error| error.to_string())?;
            let len = usize::try_from(len).map_err(|error| error.to_string())?;
            let tensor = Tensor::fill_with(*element_type, dimensions, len, |bytes| source.fill(bytes));
            inputs.push((name.clone(), tensor.map_err(|error: Unfilled| error.0)?));
        }
        let (wanted, output_bytes_max) = match &order.task {
            Task::Run { outputs, output_bytes_max } => (&outputs[..], *output_bytes_max),
            Task::Prompt { output_bytes_max, .. } => (&[][..], *output_bytes_max),
            Task::Generate { .. } => (&[][..], 0),
        };
        let mut outputs = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let keep = match wanted.keep {
                None => None,
                Some(rows) => {
                    let mut bytes = vec![0; (rows as usize).saturating_mul(4)];
                    source.fill(&mut bytes).map_err(|error: Unfilled| error.0)?;
                    let (positions, _) = bytes.as_chunks::<4>();
                    Some(positions.iter().map(|position| u32::from_le_bytes(*position)).collect())
                }
            };
            outputs.push(OutputPlan { name: wanted.name.clone(), opaque: None, keep, on_read: Vec::new() });
        }
        Ok(Request { inputs, outputs, output_bytes_max, joint: None })
    }

    /// Gives the outputs of a run back.
    pub(super) async fn deliver(
        &self,
        run: u64,
        outputs: &[Output],
        stats: RunStats,
        cancel: &CancellationToken,
    ) -> Result<(), Fault> {
        let value = |output: &Output| Value {
            name: output.name.clone(),
            element_type: output.tensor.element_type(),
            dimensions: output.tensor.dimensions().to_vec(),
        };
        let values: Vec<_> = outputs.iter().map(value).collect();
        let bytes = bytes_of(&values).ok_or_else(|| Fault::TooLarge(String::new()))?;
        let load_us = stats.load.map(|load| u64::try_from(load.as_micros()).unwrap_or(u64::MAX));
        let parts = || outputs.iter().map(|output| output.tensor.as_slice());
        if bytes <= INLINE_BYTES_MAX {
            let data: Vec<_> = parts().collect();
            self.say(&FromWorker::Outputs { run, load_us, outputs: values, inline: true }, &data);
            return Ok(());
        }
        let (sender, space) = oneshot::channel();
        if let Some(open) = self.open.borrow_mut().get_mut(&run) {
            open.space = Some(sender);
        }
        self.say(&FromWorker::Outputs { run, load_us, outputs: values, inline: false }, &[]);
        let mut at = tokio::select! {
            biased;
            at = space => at.map_err(|_| Fault::Stopped)?,
            () = cancel.cancelled() => return Err(Fault::Stopped),
        };
        for part in parts() {
            self.arena.write(at, part).map_err(|error| Fault::Failed(short(&error.to_string())))?;
            at = at.saturating_add(part.len() as u64);
        }
        self.say(&FromWorker::Written { run }, &[]);
        Ok(())
    }
}

/// The bytes of an input.
pub(super) fn input<'a>(request: &'a Request, name: &str) -> Result<&'a [u8], Fault> {
    let given = request.inputs.iter().find(|(given, _)| given == name);
    given.map(|(_, tensor)| tensor.as_slice()).ok_or_else(|| Fault::Failed(format!("no {name} was given")))
}

/// Where the data of an order is, up to which it was taken.
struct Source<'a> {
    arena: &'a Arena,
    at: Option<u64>,
    data: &'a [u8],
}

/// Why a tensor was not filled.
struct Unfilled(String);

impl From<TensorError> for Unfilled {
    fn from(error: TensorError) -> Self {
        Self(error.to_string())
    }
}

impl Source<'_> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Unfilled> {
        if let Some(at) = &mut self.at {
            self.arena.read(*at, bytes).map_err(|error| Unfilled(error.to_string()))?;
            *at = at.saturating_add(bytes.len() as u64);
            return Ok(());
        }
        let (front, rest) =
            self.data.split_at_checked(bytes.len()).ok_or_else(|| Unfilled("too little data".to_owned()))?;
        bytes.copy_from_slice(front);
        self.data = rest;
        Ok(())
    }
}
