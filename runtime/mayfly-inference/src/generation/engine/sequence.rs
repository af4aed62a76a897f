//! One choice of a request while it runs: from a row of logits to what its reader gets.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::job::{Choice, Job};
use crate::generation::chunk::{ChunkToken, Finish, TopToken};
use crate::generation::sampling::Sampled;
use crate::generation::stream::Shared;
use crate::generation::text::TokenTable;
use crate::generation::{GenerationAccount, GenerationError};

/// A request that has choices running or waiting.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) shared: Arc<Shared>,
    pub(super) choices: u32,
    /// Choices that are not over.
    open: Cell<u32>,
    prompt: u32,
    ignore_eos: bool,
    max_tokens: u32,
    table: Arc<TokenTable>,
    cancel: CancellationToken,
    account: Arc<dyn GenerationAccount>,
    told: Cell<bool>,
}

impl Live {
    pub(super) fn new(job: &Job) -> Self {
        let length = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        Self {
            shared: Arc::clone(&job.shared),
            choices: length(job.choices.len()),
            open: Cell::new(length(job.choices.len())),
            prompt: length(job.prompt.len()),
            ignore_eos: job.ignore_eos,
            max_tokens: job.max_tokens,
            table: Arc::clone(&job.table),
            cancel: job.cancel.clone(),
            account: Arc::clone(&job.account),
            told: Cell::new(false),
        }
    }

    /// Its sequences' names, choice 0 first.
    pub(super) fn ids(&self) -> std::ops::Range<u64> {
        self.shared.first..self.shared.first + u64::from(self.choices)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The prompt of one of its choices is about to run; the first one is what the request is charged.
    pub(super) fn started(&self, cached: u32) {
        if !self.told.replace(true) {
            self.shared.started(cached);
            self.account.input(self.prompt.saturating_sub(cached), cached);
        }
    }

    /// The model ran for that long for one of its choices.
    pub(super) fn ran(&self, time: Duration) {
        self.account.ran(time);
    }

    /// One of its choices is over; gives whether it was the last one.
    pub(super) fn choice_over(&self) -> bool {
        self.open.set(self.open.get().saturating_sub(1));
        self.open.get() == 0
    }
}

/// One choice.
pub(super) struct Sequence {
    pub(super) live: Rc<Live>,
    pub(super) number: u32,
    choice: Choice,
    made: u32,
}

/// What a row of logits came to.
pub(super) struct Accepted {
    pub(super) token: u32,
    /// It is the last one.
    pub(super) over: bool,
}

impl Sequence {
    pub(super) fn new(live: &Rc<Live>, number: u32, choice: Choice) -> Self {
        Self { live: Rc::clone(live), number, choice, made: 0 }
    }

    /// Chooses the next token from `logits`, charges it and gives it to the reader. `eos` is sorted.
    ///
    /// # Errors
    /// The request cannot go on. A token may have been charged.
    pub(super) fn accept(&mut self, logits: &mut [f32], eos: &[u32]) -> Result<Accepted, GenerationError> {
        let Choice { sampler, matcher, text } = &mut self.choice;
        let Sampled { token, logprob, top, usable } =
            sampler.sample(logits, matcher.as_ref().map(|matcher| matcher.mask()));
        if !usable {
            return Err(GenerationError::Failed("the model gave no usable numbers".to_owned()));
        }
        self.made += 1;
        // Before anybody can see the token.
        self.live.account.output(1);
        let ends = !self.live.ignore_eos && eos.binary_search(&token).is_ok();
        let mut ready = String::new();
        if !ends {
            if let Some(matcher) = matcher {
                matcher.accept(token)?;
            }
            ready = text.push(token);
        }
        let text_end = text.reach();
        let complete = ends || text.stopped() || matcher.as_ref().is_some_and(|matcher| matcher.is_over());
        let finish = match () {
            () if complete => Some(Finish::Stop),
            () if self.made >= self.live.max_tokens => Some(Finish::Length),
            () => None,
        };
        if finish.is_some() {
            ready.push_str(&text.finish());
        }
        let table = &self.live.table;
        let top = top.into_iter().map(|(id, logprob)| TopToken { id, bytes: table.text(id).to_vec(), logprob });
        let token = ChunkToken { id: token, bytes: table.text(token).to_vec(), text_end, logprob, top: top.collect() };
        let accepted = Accepted { token: token.id, over: finish.is_some() };
        self.live.shared.push(self.number, ready, token, finish);
        Ok(accepted)
    }

    /// Its reader wants no more of it.
    pub(super) fn cancel(&mut self) {
        let text = self.choice.text.finish();
        self.live.shared.finish(self.number, &text, Finish::Cancelled);
    }
}
