//! An engine without a model: KV memory as lists of tokens, time by a cost model, tokens by arithmetic on what is in
//! the slot. So a wrong slot, a hole or a stale position shows as a wrong token, and every step is checked as it comes.

use std::collections::BTreeMap;

use crate::generation::{
    Ended, Notice, Owner, Refused, ReuseScope, Row, Scheduler, SequenceId, Settings, Step, Submission,
};

pub(super) const MS: u64 = 1_000_000;

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Finished,
    Failed,
    Cut(Ended),
}

/// One written position: which token, and for whom it was run.
#[derive(Clone, Copy, Debug)]
struct Cell {
    token: u32,
    by: SequenceId,
}

/// What the outside saw of one sequence.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) submission: Submission,
    pub(super) accepted: Vec<u32>,
    pub(super) unread: u32,
    pub(super) end: Option<End>,
    pub(super) started: bool,
    left: bool,
    pub(super) cached: u32,
    /// Prompt tokens that were run.
    pub(super) fresh: u32,
    /// When each token came.
    pub(super) times: Vec<u64>,
}

impl Seen {
    fn tokens(&self) -> Vec<u32> {
        self.submission.prompt.iter().chain(&self.accepted).copied().collect()
    }

    /// What it must generate, computed alone.
    fn alone(&self, may_stop: bool) -> Vec<u32> {
        let mut tokens = self.submission.prompt.to_vec();
        let mut new = Vec::new();
        while new.len() < self.submission.new_tokens_max as usize {
            let (token, last) = model(&tokens);
            tokens.push(token);
            new.push(token);
            if last && may_stop {
                break;
            }
        }
        new
    }
}

/// The next token after `tokens`, and whether it ends the answer.
fn model(tokens: &[u32]) -> (u32, bool) {
    let state = tokens.iter().fold(17u32, |state, token| state.wrapping_mul(31).wrapping_add(*token) % 1_000_003);
    (state % 5, state % 23 == 0)
}

/// A run takes `run_ns` and `token_ns` for each of its tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) run_ns: u64,
    pub(super) token_ns: u64,
}

#[derive(Debug)]
pub(super) struct Simulation {
    pub(super) scheduler: Scheduler,
    pub(super) settings: Settings,
    pub(super) now: u64,
    pub(super) sequences: BTreeMap<SequenceId, Seen>,
    /// Every token is read as it comes.
    pub(super) readers_keep_up: bool,
    /// Some answers end before their last allowed token.
    pub(super) answers_may_stop: bool,
    pub(super) cost: Cost,
    /// They leave while the next step runs.
    pub(super) leave_meanwhile: Vec<SequenceId>,
    slots: Vec<Vec<Cell>>,
    /// Positions written to each slot since it was released.
    touched: Vec<u64>,
    next_id: u64,
}

pub(super) fn settings() -> Settings {
    Settings {
        slots: 4,
        context_max: 64,
        kv_tokens_max: 1_000,
        waiting_max: 100,
        ahead_max: 16,
        stall_after_ns: 1_000 * MS,
        prefill_chunk_max: 8,
        step_target_ns: 20 * MS,
        batched: true,
    }
}

impl Simulation {
    pub(super) fn new(settings: Settings) -> Self {
        let slots = settings.kv_slots() as usize;
        Self {
            scheduler: Scheduler::new(settings.clone()),
            settings,
            now: 0,
            sequences: BTreeMap::new(),
            readers_keep_up: true,
            answers_may_stop: false,
            leave_meanwhile: Vec::new(),
            cost: Cost { run_ns: MS, token_ns: MS },
            slots: vec![Vec::new(); slots],
            touched: vec![0; slots],
            next_id: 1,
        }
    }

    /// A sequence of owner 1, nothing shared, no deadline, in a group of its own.
    pub(super) fn request(&mut self, prompt: &[u32], new_tokens_max: u32) -> Submission {
        let id = self.next_id;
        self.next_id += 1;
        let prompt = prompt.into();
        let (owner, group) = (Owner(1), id);
        Submission { id: SequenceId(id), owner, reuse: None, prompt, new_tokens_max, deadline_ns: u64::MAX, group }
    }

    pub(super) fn submit(&mut self, submission: Submission) -> Result<SequenceId, Refused> {
        let id = submission.id;
        self.scheduler.submit(self.now, submission.clone())?;
        let (accepted, times) = (Vec::new(), Vec::new());
        let seen = Seen {
            submission,
            accepted,
            unread: 0,
            end: None,
            started: false,
            left: false,
            cached: 0,
            fresh: 0,
            times,
        };
        assert!(self.sequences.insert(id, seen).is_none(), "{id:?} was taken twice");
        Ok(id)
    }

    /// Submits what [`Simulation::request`] makes.
    pub(super) fn add(&mut self, prompt: &[u32], new_tokens_max: u32) -> SequenceId {
        let submission = self.request(prompt, new_tokens_max);
        self.submit(submission).expect("there is room")
    }

    pub(super) fn add_for(&mut self, owner: u128, scope: Option<u8>, prompt: &[u32], new: u32) -> SequenceId {
        let submission = self.request(prompt, new);
        let reuse = scope.map(|scope| ReuseScope([scope; 32]));
        self.submit(Submission { owner: Owner(owner), reuse, ..submission }).expect("there is room")
    }

    pub(super) fn seen(&self, id: SequenceId) -> &Seen {
        &self.sequences[&id]
    }

    /// Ids of the sequences that have not ended, in order.
    pub(super) fn open(&self) -> Vec<SequenceId> {
        self.sequences.iter().filter(|(_, seen)| seen.end.is_none()).map(|(id, _)| *id).collect()
    }

    pub(super) fn read(&mut self, id: SequenceId, tokens: u32) {
        let seen = self.sequences.get_mut(&id).expect("submitted");
        let tokens = tokens.min(seen.unread);
        seen.unread -= tokens;
        self.scheduler.read(self.now, id, tokens);
    }

    pub(super) fn leave(&mut self, id: SequenceId) {
        self.sequences.get_mut(&id).expect("submitted").left = true;
        self.scheduler.leave(self.now, id);
    }

    /// Asks for a step, runs it, reports it. The text of the step, short.
    pub(super) fn step(&mut self) -> String {
        let step = self.scheduler.next(self.now);
        self.take_notices();
        self.check_memory(&step);
        match step {
            Step::Idle { until_ns: None } => "idle".to_owned(),
            Step::Idle { until_ns: Some(until) } => {
                assert!(until > self.now, "idle until a time that is over: {until}");
                format!("idle until {} ms", until / MS)
            }
            Step::Copy { from, to, positions } => {
                let copied = self.slots[from as usize][..positions as usize].to_vec();
                assert!(from != to && positions > 0);
                self.write(to, 0, &copied);
                self.ran(positions / 100);
                format!("copy {from}>{to} x{positions}")
            }
            Step::Release { slot } => {
                self.slots[slot as usize].clear();
                self.touched[slot as usize] = 0;
                self.ran(0);
                format!("release {slot}")
            }
            Step::Prefill { id, slot, start, tokens, last } => self.prefill(id, slot, start, &tokens, last),
            Step::Decode { rows } => self.decode(&rows),
        }
    }

    /// Asks for a step and reports that it failed.
    pub(super) fn fail(&mut self) -> Vec<SequenceId> {
        let step = self.scheduler.next(self.now);
        self.take_notices();
        let ids = self.scheduler.fail_running(self.now);
        let spoilt = match &step {
            Step::Idle { .. } => vec![],
            Step::Release { slot } => {
                self.touched[*slot as usize] = 0;
                vec![*slot]
            }
            Step::Copy { to, .. } => vec![*to],
            Step::Prefill { slot, .. } => vec![*slot],
            Step::Decode { rows } => rows.iter().map(|row| row.slot).collect(),
        };
        for slot in spoilt {
            self.slots[slot as usize].clear();
        }
        for id in &ids {
            self.ended(*id, End::Failed);
        }
        ids
    }

    /// Runs `count` steps and gives their texts.
    pub(super) fn steps(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.step()).collect()
    }

    /// Runs until nothing is left to run; every reader takes what there is.
    pub(super) fn drain(&mut self) {
        let left: u64 = self.open().iter().map(|id| self.seen(*id).submission.tokens_max()).sum();
        // Each token of progress may need every slot to be moved or released first.
        let bound = (left + 10) * (u64::from(self.settings.kv_slots()) * 4 + 4);
        for _ in 0..bound {
            for id in self.open() {
                self.read(id, u32::MAX);
            }
            if self.step().starts_with("idle") && self.scheduler.is_idle() {
                return;
            }
        }
        panic!("not idle after {bound} steps: {:?}", self.scheduler);
    }

    /// Every sequence ended, and those that finished have the tokens that they would have alone.
    pub(super) fn check_all_ended(&self) {
        for (id, seen) in &self.sequences {
            let end = seen.end.unwrap_or_else(|| panic!("{id:?} never ended"));
            let alone = seen.alone(self.answers_may_stop);
            assert!(alone.starts_with(&seen.accepted), "{id:?}: {:?} and alone {alone:?}", seen.accepted);
            if end == End::Finished {
                assert_eq!(seen.accepted, alone, "{id:?}");
                assert_eq!(u64::from(seen.fresh + seen.cached), seen.submission.prompt.len() as u64, "{id:?}");
            }
        }
        let load = self.scheduler.load();
        assert_eq!((load.active, load.waiting), (0, 0));
    }

    fn prefill(&mut self, id: SequenceId, slot: u32, start: u32, tokens: &[u32], last: bool) -> String {
        self.check_slot(id, slot, start);
        let seen = self.sequences.get_mut(&id).expect("submitted");
        assert!(seen.started, "{id:?} runs before its notice");
        let (from, end) = (start as usize, start as usize + tokens.len());
        assert_eq!(&seen.submission.prompt[from..end], tokens, "{id:?}");
        assert_eq!(last, end == seen.submission.prompt.len(), "{id:?}");
        assert!(!tokens.is_empty() && tokens.len() <= self.settings.prefill_chunk_max as usize);
        assert_eq!(seen.fresh + seen.cached, start, "{id:?} leaves prompt tokens out or repeats them");
        seen.fresh += count(tokens.len());
        let cells: Vec<_> = tokens.iter().map(|token| Cell { token: *token, by: id }).collect();
        self.write(slot, from, &cells);
        self.ran(count(tokens.len()));
        if last {
            self.accept(id, slot);
        }
        format!("prefill {}@{slot} {start}..{end}{}", id.0, if last { " last" } else { "" })
    }

    fn decode(&mut self, rows: &[Row]) -> String {
        assert!(!rows.is_empty() && rows.len() <= self.settings.slots as usize);
        assert!(self.settings.batched || rows.len() == 1);
        for (index, row) in (0u32..).zip(rows) {
            assert!(!self.settings.batched || row.slot == index, "a hole in {rows:?}");
            self.check_slot(row.id, row.slot, row.past);
            let tokens = self.seen(row.id).tokens();
            assert_eq!(row.past as usize, tokens.len() - 1, "{:?} holds all but its last token", row.id);
            assert_eq!(Some(&row.token), tokens.last());
            self.write(row.slot, row.past as usize, &[Cell { token: row.token, by: row.id }]);
        }
        self.ran(count(rows.len()));
        for row in rows {
            self.accept(row.id, row.slot);
        }
        let rows: Vec<_> = rows.iter().map(|row| format!("{}@{}", row.id.0, row.slot)).collect();
        format!("decode {}", rows.join(" "))
    }

    /// The first `positions` of `slot` are those of `id`, and it may use whoever's run they come from.
    fn check_slot(&self, id: SequenceId, slot: u32, positions: u32) {
        let seen = self.seen(id);
        assert_eq!(seen.end, None, "{id:?} runs after its end");
        assert!(!seen.left, "{id:?} runs after its caller left");
        let expected = seen.tokens();
        let cells = &self.slots[slot as usize];
        assert!(cells.len() >= positions as usize, "{id:?} at {positions}, and slot {slot} has {}", cells.len());
        for (cell, token) in cells[..positions as usize].iter().zip(&expected) {
            assert_eq!(cell.token, *token, "slot {slot} is not what {id:?} expects");
            let (mine, theirs) = (&seen.submission, &self.seen(cell.by).submission);
            let same_request = mine.owner == theirs.owner && mine.group == theirs.group;
            let same_scope = mine.reuse.is_some() && mine.reuse == theirs.reuse;
            assert!(same_request || same_scope, "{id:?} got positions of {:?}", cell.by);
        }
    }

    /// Limits that hold whenever the model runs.
    fn check_memory(&self, step: &Step) {
        if matches!(step, Step::Prefill { .. } | Step::Decode { .. }) {
            let (load, limit) = (self.scheduler.load(), self.settings.kv_tokens_max);
            let touched: u64 = self.touched.iter().sum();
            assert!(load.kv_tokens <= limit, "{load:?}");
            assert!(touched <= load.kv_tokens, "{touched} positions written, {} counted", load.kv_tokens);
            assert!(load.active <= self.settings.slots);
        }
        let open = u32::try_from(self.open().len()).expect("few");
        let load = self.scheduler.load();
        assert_eq!(load.active + load.waiting, open, "the scheduler lost or invented a sequence");
    }

    /// What is behind the written positions is void from now on.
    fn write(&mut self, slot: u32, start: usize, cells: &[Cell]) {
        let content = &mut self.slots[slot as usize];
        content.truncate(start);
        content.extend_from_slice(cells);
        assert!(content.len() <= self.settings.context_max as usize, "slot {slot} is full");
        let touched = &mut self.touched[slot as usize];
        *touched = (*touched).max(content.len() as u64);
    }

    fn ran(&mut self, tokens: u32) {
        let took = if tokens == 0 { 0 } else { self.cost.run_ns + u64::from(tokens) * self.cost.token_ns };
        for id in std::mem::take(&mut self.leave_meanwhile) {
            self.leave(id);
        }
        self.now += took;
        self.scheduler.ran(self.now, took);
    }

    /// Samples from what is in the slot.
    fn accept(&mut self, id: SequenceId, slot: u32) {
        let tokens: Vec<u32> = self.slots[slot as usize].iter().map(|cell| cell.token).collect();
        let (token, last) = model(&tokens);
        let last = last && self.answers_may_stop;
        let seen = self.sequences.get_mut(&id).expect("submitted");
        seen.accepted.push(token);
        seen.times.push(self.now);
        let over = last || seen.accepted.len() == seen.submission.new_tokens_max as usize;
        assert_eq!(self.scheduler.accepted(self.now, id, token, last), over, "{id:?}");
        if !self.readers_keep_up {
            seen.unread += 1;
            assert!(seen.unread <= self.settings.ahead_max.max(1), "{id:?} ran too far ahead");
        }
        if over {
            self.ended(id, End::Finished);
        } else if self.readers_keep_up {
            self.scheduler.read(self.now, id, 1);
        }
    }

    fn take_notices(&mut self) {
        for notice in self.scheduler.notices() {
            match notice {
                Notice::Started { id, cached } => {
                    let seen = self.sequences.get_mut(&id).expect("submitted");
                    assert!(!std::mem::replace(&mut seen.started, true), "{id:?} started twice");
                    seen.cached = cached;
                }
                Notice::Ended { id, why } => self.ended(id, End::Cut(why)),
            }
        }
    }

    fn ended(&mut self, id: SequenceId, end: End) {
        let before = self.sequences.get_mut(&id).expect("submitted").end.replace(end);
        assert_eq!(before, None, "{id:?} ended twice");
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("few tokens")
}
