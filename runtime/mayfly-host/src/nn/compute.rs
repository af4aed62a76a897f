//! From handles to outputs: take the inputs over, check and count them, hold, run, charge, hand out.
//!
//! All runs of one call are checked and held before the first one starts: all or nothing. What a run costs is charged on
//! the executor's thread at the moment it starts; from then on it is owed, whatever becomes of this future. The hold lives
//! until the last output that can still be charged for is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use mayfly_inference::{
    Caller, ElementType, InputError, LoadError, Output, Package, Prepared, Role, RunError, RunLimits, RunStats, Tensor,
    WorkerError,
};
use mayfly_types::{Hold, Line, Meter, ModelId, Refusal};
use wasmtime::component::ResourceTableError;

use super::errors::NnError;
use super::inference::Named;
use super::live::Share;
use super::tensor::{HostTensor, Input, OnRead};
use super::{NnState, NnView};
use crate::{Grant, Place};

/// Runs of one `run-many`.
const RUNS_MAX: usize = 1024;
/// Runs of one `run-many` that wait in the executor's queue together.
const RUNS_AT_ONCE: usize = 16;
/// Bytes of one tensor name.
const NAME_BYTES_MAX: usize = 256;
/// Values to check beyond which checking leaves the async thread.
const CHECK_INLINE_BYTES_MAX: u64 = 4 << 20;

/// A run's tensors by name, as handles give them and as handles take them.
pub(super) type NamedTensors = Vec<(String, HostTensor)>;

/// The inputs of one run, taken apart.
#[derive(Debug, Default)]
pub(super) struct Taken {
    inputs: Vec<(String, Tensor)>,
    /// Keeps the inputs counted as live until the run has ended.
    shares: Vec<Share>,
    /// What handing these inputs over costs.
    pub(super) exposed: Vec<OnRead>,
}

/// One run, checked and counted.
#[derive(Debug)]
struct Job {
    prepared: Prepared,
    shares: Vec<Share>,
    exposed: Vec<OnRead>,
}

impl NnState {
    /// Runs each element of `runs` on the granted model; the answers stand in the same order.
    pub(super) async fn run(&self, grant: &Grant, runs: Vec<NamedTensors>) -> Result<Vec<NamedTensors>, NnError> {
        self.open()?;
        let jobs = self.prepare(grant, runs).await?;
        let lines = add_up(jobs.iter().flat_map(|job| job.prepared.hold_lines()))?;
        let hold = Arc::new(self.hold(&lines).await?);
        self.open()?;

        let waiting: Vec<_> = jobs.into_iter().map(|job| self.run_one(grant, job, &hold)).collect();
        let mut running = futures::stream::iter(waiting).buffered(RUNS_AT_ONCE);
        let mut answers = Vec::new();
        let mut waited = RunStats::default();
        while let Some(result) = running.next().await {
            let (outputs, stats) = result?;
            answers.push(outputs);
            // These passed side by side.
            waited.queue = waited.queue.max(stats.queue);
            waited.load = waited.load.max(stats.load);
        }
        self.clock.add(|timings| {
            timings.inference_queue += waited.queue;
            if let Some(load) = waited.load {
                *timings.model_load.get_or_insert_default() += load;
            }
        });
        Ok(answers)
    }

    async fn prepare(&self, grant: &Grant, runs: Vec<NamedTensors>) -> Result<Vec<Job>, NnError> {
        if runs.len() > RUNS_MAX {
            return Err(NnError::too_large(format!("{} runs in one call; at most {RUNS_MAX} are taken", runs.len())));
        }
        // Outputs of all runs are alive together at the end, so each may take its part of what is left.
        let count = runs.len().max(1);
        let share = self.live.left() / count as u64;
        let limits = RunLimits {
            output_bytes_max: share.min(self.inference.output_bytes_max()),
            all_positions: grant.all_positions,
        };
        let taken = runs.into_iter().map(|run| take_apart(&grant.package, run)).collect::<Result<Vec<_>, _>>()?;

        let to_check = taken.iter().flat_map(|run| &run.inputs).map(|(_, tensor)| bytes_to_check(tensor)).sum::<u64>();
        let package = Arc::clone(&grant.package);
        let model = grant.model;
        let check = move || check_all(&package, model, taken, limits);
        if to_check <= CHECK_INLINE_BYTES_MAX {
            check()
        } else {
            self.within_call(tokio::task::spawn_blocking(check))
                .await?
                .unwrap_or_else(|panic| Err(NnError::ours("the inputs could not be checked", &panic.to_string())))
        }
    }

    pub(super) async fn hold(&self, lines: &[Line]) -> Result<Hold, NnError> {
        Ok(self.ask(lines).await??)
    }

    /// A hold, or why the budget refuses it; an error of its own if the call ends meanwhile.
    pub(super) async fn ask(&self, lines: &[Line]) -> Result<Result<Hold, Refusal>, NnError> {
        let held = self.within_call(Hold::take(Arc::clone(&self.budget), lines)).await?;
        Ok(held.inspect_err(|refusal| self.clock.refused(refusal.clone())))
    }

    async fn run_one(&self, grant: &Grant, job: Job, hold: &Arc<Hold>) -> Result<(NamedTensors, RunStats), NnError> {
        let Job { prepared, shares, exposed } = job;
        let lines = prepared.start_lines().to_vec();
        let on_start = Arc::clone(hold);
        let started = move || {
            on_start.charge(&lines);
            exposed.into_iter().for_each(OnRead::charge);
        };
        let caller = Caller { owner: self.asker.owner, deadline: self.deadline, cancel: &self.cancel };
        let result = match grant.place {
            Place::Server => self.inference.run(&grant.package, grant.device, prepared, caller, started).await,
            Place::Apart => self.inference.run_apart(&grant.package, grant.device, prepared, caller, started).await,
            Place::Nowhere => return Err(NnError::not_approved(&grant.name)),
        };
        drop(shares);
        let (outputs, stats) = result.map_err(|error| self.run_error(error))?;
        let micros = u64::try_from(stats.share.as_micros()).unwrap_or(u64::MAX);
        hold.charge(&[Line { meter: Meter::InferenceMicros, model: Some(grant.model), quantity: micros }]);
        self.clock.add(|timings| timings.inference += stats.run);
        if grant.place == Place::Apart {
            self.worker_works();
        }
        Ok((self.hand_out(grant, outputs, hold)?, stats))
    }

    /// Outputs as tensors of this instance, counted as live.
    fn hand_out(&self, grant: &Grant, outputs: Vec<Output>, hold: &Arc<Hold>) -> Result<NamedTensors, NnError> {
        let origin = grant.package.digest();
        outputs
            .into_iter()
            .map(|Output { name, tensor, on_read, seen }| {
                let share = self.live.take(tensor.byte_len())?;
                Ok((name, HostTensor::from_run(tensor, share, OnRead::new(hold, on_read, seen), origin)))
            })
            .collect()
    }

    pub(super) fn run_error(&self, error: RunError) -> NnError {
        match error {
            RunError::Stopped { .. } | RunError::Load(LoadError::Deadline) if self.cancel.is_cancelled() => {
                NnError::closed()
            }
            error => {
                if let RunError::Worker(lost) = &error {
                    self.worker_lost(lost);
                }
                error.into()
            }
        }
    }

    /// Remembers when the process of this tenant's own models can be there again.
    pub(super) fn worker_lost(&self, lost: &WorkerError) {
        if let Some(ms) = lost.retry_after_ms() {
            let back = Instant::now() + Duration::from_millis(ms);
            self.clock.add(|timings| timings.models_back = Some(back));
        }
    }

    /// That process has worked for this call: what came before is no cause of what comes.
    pub(super) fn worker_works(&self) {
        self.clock.add(|timings| timings.models_back = None);
    }
}

/// Splits what the guest gave into values, live shares and what handing them over costs.
pub(super) fn take_apart(package: &Package, run: NamedTensors) -> Result<Taken, NnError> {
    let mut taken = Taken::default();
    for (name, tensor) in run {
        if name.len() > NAME_BYTES_MAX {
            return Err(NnError::invalid(format!("an input name of {} bytes; no model has one this long", name.len())));
        }
        let Input { tensor, share, on_read, origin } = tensor.into_input(&name)?;
        let hands_back = origin == Some(package.digest()) && role_of(package, &name) == Some(Role::Past);
        taken.exposed.extend(on_read.filter(|_| !hands_back));
        taken.shares.push(share);
        taken.inputs.push((name, tensor));
    }
    Ok(taken)
}

fn role_of(package: &Package, input: &str) -> Option<Role> {
    package.info().inputs.iter().find(|info| info.name == input).map(|info| info.role)
}

/// Only integers (ids, masks, positions, booleans) have values that are looked at.
fn bytes_to_check(tensor: &Tensor) -> u64 {
    match tensor.element_type() {
        ElementType::I32 | ElementType::I64 | ElementType::U8 | ElementType::Bool => tensor.byte_len(),
        ElementType::F16 | ElementType::F32 | ElementType::F64 | ElementType::Bf16 => 0,
    }
}

fn check_all(package: &Package, model: ModelId, runs: Vec<Taken>, limits: RunLimits) -> Result<Vec<Job>, NnError> {
    let count = runs.len();
    let check = |(index, Taken { inputs, shares, exposed }): (usize, Taken)| {
        let prepared = package.prepare(model, inputs, limits).map_err(|error| {
            let is_large = matches!(error, InputError::TooLarge(_));
            let mut error = NnError::from(error);
            if count > 1 {
                error.text = format!("run {} of {count}: {}", index + 1, error.text);
            }
            if is_large {
                error.text.push_str("; the limit is this run's part of what is left of tensor_bytes_max");
            }
            error
        })?;
        Ok(Job { prepared, shares, exposed })
    };
    runs.into_iter().enumerate().map(check).collect()
}

/// One line for each meter and model.
fn add_up<'a>(lines: impl Iterator<Item = &'a Line>) -> Result<Vec<Line>, NnError> {
    let mut sums: Vec<Line> = Vec::new();
    for line in lines {
        match sums.iter_mut().find(|sum| (sum.meter, sum.model) == (line.meter, line.model)) {
            Some(sum) => {
                sum.quantity = sum
                    .quantity
                    .checked_add(line.quantity)
                    .ok_or_else(|| NnError::too_large("the runs of one call are more than can be counted"))?;
            }
            None => sums.push(*line),
        }
    }
    Ok(sums)
}

impl NnView<'_> {
    /// Takes owned handles out of the table. They are gone for the guest, whatever comes of the call.
    pub(super) fn take_inputs(&mut self, inputs: Vec<Named>) -> wasmtime::Result<NamedTensors> {
        inputs.into_iter().map(|(name, tensor)| Ok((name, self.table.delete(tensor)?))).collect()
    }

    /// Handles for the outputs of all runs, or for none.
    pub(super) fn push_outputs(&mut self, runs: Vec<NamedTensors>) -> Result<Vec<Vec<Named>>, NnError> {
        let mut pushed: Vec<Vec<Named>> = Vec::with_capacity(runs.len());
        for run in runs {
            let mut named = Vec::with_capacity(run.len());
            for (name, tensor) in run {
                match self.table.push(tensor) {
                    Ok(handle) => named.push((name, handle)),
                    Err(error) => {
                        pushed.push(named);
                        return Err(self.take_back(pushed, &error));
                    }
                }
            }
            pushed.push(named);
        }
        Ok(pushed)
    }

    fn take_back(&mut self, pushed: Vec<Vec<Named>>, error: &ResourceTableError) -> NnError {
        for (_, handle) in pushed.into_iter().flatten() {
            // Nobody has seen these handles yet.
            drop(self.table.delete(handle));
        }
        match error {
            ResourceTableError::Full => NnError::too_large(self.nn.too_many_handles()),
            error => NnError::ours("the outputs could not be handed out", &error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(meter: Meter, model: ModelId, quantity: u64) -> Line {
        Line { meter, model: Some(model), quantity }
    }

    #[test]
    fn lines_add_up_by_meter_and_model() {
        let (a, b) = (ModelId::new(), ModelId::new());
        let lines = [
            line(Meter::InputTokens, a, 1),
            line(Meter::OutputTokens, a, 2),
            line(Meter::InputTokens, b, 3),
            line(Meter::InputTokens, a, 4),
        ];
        let expected =
            [line(Meter::InputTokens, a, 5), line(Meter::OutputTokens, a, 2), line(Meter::InputTokens, b, 3)];
        assert_eq!(add_up(lines.iter()).expect("it fits"), expected);
    }

    #[test]
    fn sums_do_not_wrap() {
        let model = ModelId::new();
        let lines = [line(Meter::Rows, model, u64::MAX), line(Meter::Rows, model, 1)];
        assert!(add_up(lines.iter()).is_err());
    }
}
