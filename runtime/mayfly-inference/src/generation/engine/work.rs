//! The life of an engine's thread: hear what came, ask the scheduler what to run, run it, give the tokens out.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_scheduler::generation::{
    Ended, Notice, Owner, Refused, ReuseScope, Row, Scheduler, SequenceId, Settings, Step, Submission,
};

use super::job::Job;
use super::sequence::{Live, Sequence};
use super::{Engine, Gauges};
use crate::generation::GenerationError;
use crate::generation::runner::{DecodeRow, Runner};
use crate::generation::stream::Shared;
use crate::session;

/// So long after its last step an engine gives back what only a step needs.
const REST_AFTER: Duration = Duration::from_secs(10);
/// While there are sequences the thread looks at least this often whether one was cancelled.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// What the reader is told of a failure whose details are in the log.
const HOST_FAILED: &str = "the host failed while it ran this model";

pub(super) struct Worker {
    engine: Arc<Engine>,
    runner: Box<dyn Runner>,
    scheduler: Scheduler,
    sequences: HashMap<SequenceId, Sequence>,
    /// By the first of their sequences.
    live: HashMap<u64, Rc<Live>>,
    /// Sorted.
    eos: Vec<u32>,
    /// The scheduler's time is since this.
    epoch: Instant,
    rows: Vec<DecodeRow>,
    gauges: Gauges,
}

/// The thread has to end: what a panic left of the session is unknown.
struct Broken;

impl Worker {
    pub(super) fn new(engine: Arc<Engine>, runner: Box<dyn Runner>, settings: Settings, eos: Vec<u32>) -> Self {
        Self {
            engine,
            runner,
            scheduler: Scheduler::new(settings),
            sequences: HashMap::new(),
            live: HashMap::new(),
            eos,
            epoch: Instant::now(),
            rows: Vec::new(),
            gauges: Gauges::default(),
        }
    }

    /// Works until the engine is closed.
    pub(super) fn work(mut self) {
        let mut awake = Instant::now();
        loop {
            let mail = self.engine.inbox.take();
            if mail.closed {
                mail.jobs.into_iter().for_each(Job::give_back);
                break self.end("the host unloads this model");
            }
            // Jobs first: whoever leaves at once is known then.
            mail.jobs.into_iter().for_each(|job| self.admit(job));
            mail.touched.iter().for_each(|shared| self.hear(shared));
            self.stop_cancelled();
            let step = self.scheduler.next(self.now());
            self.hear_notices();
            let (idle_until, broken) = match step {
                Step::Idle { until_ns } => (Some(until_ns), false),
                step => (None, self.step(&step).is_err()),
            };
            let now = Instant::now();
            self.gauges.busy += now.saturating_duration_since(std::mem::replace(&mut awake, now));
            self.publish();
            if broken {
                self.engine.inbox.close();
                let mail = self.engine.inbox.take();
                mail.jobs.into_iter().for_each(Job::give_back);
                break self.end(HOST_FAILED);
            }
            if let Some(until) = idle_until {
                self.sleep(until);
                awake = Instant::now();
            }
        }
    }

    fn now(&self) -> u64 {
        self.time_of(Instant::now())
    }

    fn time_of(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Sleeps until something comes, or `until_ns`.
    fn sleep(&mut self, until_ns: Option<u64>) {
        let inbox = &self.engine.inbox;
        if !self.sequences.is_empty() {
            let due = until_ns.and_then(|until| self.epoch.checked_add(Duration::from_nanos(until)));
            let look = Instant::now() + LOOK_MAX;
            inbox.sleep(Some(due.map_or(look, |due| due.min(look))), true);
            return;
        }
        if !inbox.sleep(Some(Instant::now() + REST_AFTER), false) {
            self.runner.rest();
            session::give_memory_back();
            self.publish();
            self.engine.inbox.sleep(None, false);
        }
    }

    fn publish(&mut self) {
        self.gauges.load = self.scheduler.load();
        self.gauges.bytes = self.runner.bytes();
        *self.engine.gauges() = self.gauges;
    }

    /// The reader of a generation did something.
    fn hear(&mut self, shared: &Arc<Shared>) {
        let asked = shared.asked();
        let now = self.now();
        for (choice, tokens) in asked.taken {
            self.scheduler.read(now, SequenceId(shared.first + u64::from(choice)), tokens);
        }
        for id in asked.ended.into_iter().map(|choice| SequenceId(shared.first + u64::from(choice))) {
            if self.sequences.contains_key(&id) {
                self.scheduler.leave(now, id);
            }
        }
        if asked.cancel
            && let Some(live) = self.live.get(&shared.first).cloned()
        {
            self.leave(&live);
        }
    }

    fn leave(&mut self, live: &Live) {
        let now = self.now();
        for id in live.ids() {
            if self.sequences.contains_key(&SequenceId(id)) {
                self.scheduler.leave(now, SequenceId(id));
            }
        }
    }

    /// Takes a job into the scheduler's queue, all choices or none.
    fn admit(&mut self, job: Job) {
        if job.reply.is_closed() {
            return;
        }
        if job.cancel.is_cancelled() {
            return job.refuse(GenerationError::Stopped);
        }
        let now = self.now();
        let live = Rc::new(Live::new(&job));
        for id in live.ids() {
            let submission = Submission {
                id: SequenceId(id),
                owner: Owner(job.owner),
                reuse: job.reuse.map(ReuseScope),
                prompt: Arc::clone(&job.prompt),
                new_tokens_max: job.max_tokens,
                deadline_ns: self.time_of(job.deadline),
                group: job.shared.first,
            };
            if let Err(refused) = self.scheduler.submit(now, submission) {
                // Nothing of them has run: their notices find nobody.
                live.ids().take_while(|earlier| *earlier < id).for_each(|earlier| {
                    self.scheduler.leave(now, SequenceId(earlier));
                });
                return job.refuse(refusal(refused));
            }
        }
        let Job { choices, reply, .. } = job;
        for ((id, number), choice) in live.ids().zip(0..).zip(choices) {
            self.sequences.insert(SequenceId(id), Sequence::new(&live, number, choice));
        }
        self.live.insert(live.shared.first, Rc::clone(&live));
        if reply.send(Ok(())).is_err() {
            // Its caller left meanwhile.
            self.leave(&live);
        }
    }

    fn stop_cancelled(&mut self) {
        let cancelled: Vec<_> = self.live.values().filter(|live| live.is_cancelled()).cloned().collect();
        for live in cancelled {
            live.shared.fail(GenerationError::Stopped);
            self.leave(&live);
        }
    }

    fn hear_notices(&mut self) {
        for notice in self.scheduler.notices() {
            match notice {
                Notice::Started { id, cached } => {
                    if let Some(live) = self.sequences.get(&id).map(|sequence| Rc::clone(&sequence.live)) {
                        let told = catch_unwind(AssertUnwindSafe(|| live.started(cached)));
                        if told.is_err() {
                            self.fail(&live, GenerationError::Failed(HOST_FAILED.to_owned()));
                        }
                    }
                }
                Notice::Ended { id, why } => {
                    let Some(mut sequence) = self.forget(id) else { continue };
                    match why {
                        Ended::Left => sequence.cancel(),
                        Ended::Deadline => self.fail(&sequence.live, GenerationError::Stopped),
                        Ended::Stalled => self.fail(&sequence.live, GenerationError::Stalled),
                    }
                }
            }
        }
    }

    /// A sequence is over.
    fn forget(&mut self, id: SequenceId) -> Option<Sequence> {
        let sequence = self.sequences.remove(&id)?;
        if sequence.live.choice_over() {
            self.live.remove(&sequence.live.shared.first);
        }
        Some(sequence)
    }

    /// One choice cannot go on, so the request is over.
    fn fail(&mut self, live: &Live, error: GenerationError) {
        live.shared.fail(error);
        self.leave(live);
    }

    /// Runs a step and gives out what came of it.
    fn step(&mut self, step: &Step) -> Result<(), Broken> {
        let began = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| run(&mut *self.runner, &mut self.rows, step)));
        let took = began.elapsed();
        self.gauges.run += took;
        let now = self.now();
        match ran {
            Ok(Ok(())) => self.scheduler.ran(now, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
            Ok(Err(error)) => {
                let model = self.engine.model.digest;
                tracing::warn!(%model, %error, "a run of a decoder failed");
                let said = session::readable(error.message());
                for id in self.scheduler.fail_running(now) {
                    if let Some(sequence) = self.forget(id) {
                        self.fail(&sequence.live, GenerationError::Failed(said.clone()));
                    }
                }
                return Ok(());
            }
            Err(_) => {
                tracing::error!(model = %self.engine.model.digest, "a run panicked; its engine is dropped");
                return Err(Broken);
            }
        }
        match step {
            Step::Prefill { id, last, .. } => {
                self.gauges.steps += 1;
                self.tell_time(*id, took);
                if *last {
                    self.give(0, *id);
                }
            }
            Step::Decode { rows } => {
                self.gauges.steps += 1;
                self.gauges.decode_steps += 1;
                self.gauges.decode_rows += rows.len() as u64;
                let share = took / u32::try_from(rows.len()).unwrap_or(u32::MAX).max(1);
                for (row, Row { id, .. }) in rows.iter().enumerate() {
                    self.tell_time(*id, share);
                    self.give(row, *id);
                }
            }
            Step::Idle { .. } | Step::Copy { .. } | Step::Release { .. } => {}
        }
        Ok(())
    }

    /// The model ran for that long for `id`.
    fn tell_time(&mut self, id: SequenceId, time: Duration) {
        let Some(sequence) = self.sequences.get(&id) else { return };
        if catch_unwind(AssertUnwindSafe(|| sequence.live.ran(time))).is_err() {
            let live = Rc::clone(&sequence.live);
            self.fail(&live, GenerationError::Failed(HOST_FAILED.to_owned()));
        }
    }

    /// Makes a token of a row of logits, and gives it to the sequence's reader.
    fn give(&mut self, row: usize, id: SequenceId) {
        let accepted = match self.sequences.get_mut(&id) {
            Some(sequence) => catch_unwind(AssertUnwindSafe(|| {
                let logits = self.runner.logits(row).map_err(|error| {
                    tracing::warn!(%error, "a run of a decoder gave no logits");
                    GenerationError::Failed(session::readable(error.message()))
                })?;
                sequence.accept(logits, &self.eos)
            }))
            .unwrap_or_else(|_| {
                tracing::error!(model = %self.engine.model.digest, "sampling panicked; its sequence is over");
                Err(GenerationError::Failed(HOST_FAILED.to_owned()))
            }),
            None => Err(GenerationError::Stopped),
        };
        let now = self.now();
        match accepted {
            Ok(accepted) => {
                if self.scheduler.accepted(now, id, accepted.token, accepted.over) {
                    self.forget(id);
                }
            }
            Err(error) => {
                self.scheduler.accepted(now, id, 0, true);
                if let Some(sequence) = self.forget(id) {
                    self.fail(&sequence.live, error);
                }
            }
        }
    }

    /// Everybody is over.
    fn end(&mut self, why: &str) {
        for live in self.live.values() {
            live.shared.fail(GenerationError::Failed(why.to_owned()));
        }
        self.live.clear();
        self.sequences.clear();
    }
}

fn run(runner: &mut dyn Runner, decode: &mut Vec<DecodeRow>, step: &Step) -> ort::Result<()> {
    match step {
        Step::Idle { .. } => Ok(()),
        Step::Copy { from, to, positions } => runner.copy(*from, *to, *positions),
        Step::Prefill { slot, start, tokens, .. } => runner.prefill(*slot, *start, tokens),
        Step::Decode { rows } => {
            decode.clear();
            decode.extend(rows.iter().map(|row| DecodeRow { slot: row.slot, past: row.past, token: row.token }));
            runner.decode(decode)
        }
        Step::Release { slot } => {
            runner.release(*slot);
            Ok(())
        }
    }
}

fn refusal(refused: Refused) -> GenerationError {
    match refused {
        Refused::QueueFull { waiting, limit } => GenerationError::Busy { waiting, limit },
        Refused::NeverFits { tokens, limit } => GenerationError::NeverFits { tokens, limit },
        other @ (Refused::NothingToRun | Refused::Duplicate { .. }) => {
            tracing::error!(error = %other, "a checked generation was refused");
            GenerationError::Failed(HOST_FAILED.to_owned())
        }
    }
}
