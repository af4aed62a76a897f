//! One generation on its way through a worker, as the server sees it, and what the server accepts of its tokens.
//!
//! Its account is the server's: a token is charged when the worker says that it was accepted, and the time is measured
//! here. Everything that is heard is checked against what was asked for; the texts themselves are the model's.

mod choice;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::choice::Choice;
use super::arena::Place;
use super::flight::{Begun, EARLY_MAX, Shares, Violation};
use super::message::ToWorker;
use super::piece::{Piece, read};
use crate::generation::Shared;
use crate::{Finish, GenerationAccount, GenerationError, GenerationRequest, GenerationUsage};

/// How the start of a generation ended.
pub(super) type Admission = Result<(), GenerationError>;

/// What a generation may be, as asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) vocab: u32,
    pub(super) prompt_tokens: u32,
    pub(super) max_tokens: u32,
    /// Likeliest tokens at each place; none wants no log probabilities.
    pub(super) logprobs: Option<u32>,
    /// Whether a part of its prompt may come from an earlier one.
    pub(super) reuses: bool,
    /// What its constraint is called.
    pub(super) constraint: Option<&'static str>,
}

impl Terms {
    pub(super) fn of(request: &GenerationRequest, vocab: u32) -> Self {
        Self {
            vocab,
            prompt_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            max_tokens: request.options.max_tokens,
            logprobs: request.options.logprobs,
            reuses: request.reuse.is_some(),
            constraint: request.options.constraint.as_ref().map(|constraint| constraint.kind()),
        }
    }
}

/// A generation that a worker was given.
pub(super) struct Course {
    pub(super) shared: Arc<Shared>,
    terms: Terms,
    /// Gone once the worker has let go of it: what was held goes back then.
    account: Option<Arc<dyn GenerationAccount>>,
    /// Its caller, until it knows that it waits or runs.
    admission: Option<oneshot::Sender<Admission>>,
    admitted: bool,
    /// Where its prompt lies.
    pub(super) inputs: Option<Place>,
    choices: Vec<Choice>,
    /// Whether its prompt has begun to run.
    begun: bool,
    /// Since when it runs, unless all of it waits for its reader.
    clock: Option<Begun>,
    deadline: Instant,
    cancel: CancellationToken,
    /// A worker that has not let go of it by then is killed.
    until: Instant,
    /// So long it may take from the word to the end.
    grace: Duration,
    cancelling: Word,
    stopping: Word,
    /// Nobody can read it any more.
    pub(super) abandoned: bool,
}

/// Something that the worker has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    No,
    ToSay,
    Said,
}

impl Word {
    fn ask(&mut self) {
        if *self == Self::No {
            *self = Self::ToSay;
        }
    }
}

impl Course {
    /// `grace`: `stop_ms_max`.
    pub(super) fn new(
        request: &GenerationRequest,
        vocab: u32,
        grace: Duration,
    ) -> (Self, oneshot::Receiver<Admission>) {
        let (admission, answer) = oneshot::channel();
        let terms = Terms::of(request, vocab);
        let usage = GenerationUsage { prompt_tokens: terms.prompt_tokens.into(), ..GenerationUsage::default() };
        let course = Self {
            shared: Arc::new(Shared::new(0, request.choices, usage)),
            terms,
            account: Some(Arc::clone(&request.account)),
            admission: Some(admission),
            admitted: false,
            inputs: None,
            choices: (0..request.choices).map(|_| Choice::default()).collect(),
            begun: false,
            clock: None,
            deadline: request.deadline,
            cancel: request.cancel.clone(),
            until: request.deadline + grace,
            grace,
            cancelling: Word::No,
            stopping: Word::No,
            abandoned: false,
        };
        (course, answer)
    }

    /// Whether the worker has let go of it.
    pub(super) fn is_over(&self) -> bool {
        self.account.is_none()
    }

    /// Bytes that its reader has not taken.
    pub(super) fn unread(&self) -> u64 {
        self.choices.iter().map(|choice| choice.unread_bytes()).sum()
    }

    /// The worker's engine has it.
    pub(super) fn admit(&mut self) -> Result<(), Violation> {
        if std::mem::replace(&mut self.admitted, true) {
            return Err(Violation("a generation that is admitted twice"));
        }
        if let Some(admission) = self.admission.take() {
            // Who left needs no answer.
            let _ = admission.send(Ok(()));
        }
        Ok(())
    }

    /// Its prompt begins to run. Owed from here on.
    pub(super) fn prefill(&mut self, cached: u32, shares: &mut Shares) -> Result<(), Violation> {
        let Terms { prompt_tokens, reuses, .. } = self.terms;
        if std::mem::replace(&mut self.begun, true) {
            return Err(Violation("a prompt that begins twice"));
        }
        if cached > prompt_tokens || (cached > 0 && !reuses) {
            return Err(Violation("a prompt of which too much is reused"));
        }
        self.clock = Some(shares.begin(Instant::now()));
        self.shared.started(cached);
        if let Some(account) = &self.account {
            account.input(prompt_tokens - cached, cached);
        }
        Ok(())
    }

    /// Tokens of one choice: checked, then charged, then given to the reader.
    pub(super) fn piece(&mut self, piece: &Piece, data: &[u8], shares: &mut Shares) -> Result<(), Violation> {
        // One that is cancelled before its turn ends without either.
        if !self.admitted || (!self.begun && !piece.tokens.is_empty()) {
            return Err(Violation("tokens before their prompt"));
        }
        let (text, tokens) = read(piece, data).ok_or(Violation("tokens of other data"))?;
        let cancelled = self.cancelling != Word::No || self.stopping != Word::No;
        let choice = self.choices.get_mut(piece.choice as usize).ok_or(Violation("a choice nobody asked for"))?;
        choice.take(&self.terms, &text, &tokens, piece.finish, cancelled)?;
        self.tell_time(shares);
        let number = piece.choice;
        let Some((last, before)) = tokens.split_last() else {
            self.shared.finish(number, &text, piece.finish.unwrap_or(Finish::Cancelled));
            return Ok(());
        };
        // Before anybody can see them.
        if let Some(account) = &self.account {
            account.output(u32::try_from(tokens.len()).unwrap_or(u32::MAX));
        }
        for token in before {
            self.shared.push(number, String::new(), token.clone(), None);
        }
        self.shared.push(number, text, last.clone(), piece.finish);
        Ok(())
    }

    /// Whether every choice has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.choices.iter().all(|choice| choice.over)
    }

    /// Charges the time since it was last asked, and stops the clock while nothing of it can go on.
    fn tell_time(&mut self, shares: &mut Shares) {
        let now = Instant::now();
        if let Some(begun) = self.clock.take() {
            let share = shares.end(now, begun);
            if let Some(account) = &self.account {
                account.ran(share);
            }
        }
        let goes_on = self.begun && !self.is_over() && self.choices.iter().any(Choice::goes_on);
        self.clock = goes_on.then(|| shares.begin(now));
    }

    /// Takes up what the reader did.
    pub(super) fn hear_reader(&mut self, shares: &mut Shares) {
        let asked = self.shared.asked();
        if self.is_over() {
            for (choice, tokens) in asked.taken {
                self.choices.get_mut(choice as usize).map(|choice| choice.read(tokens));
            }
            return;
        }
        let until = Instant::now() + self.grace;
        for choice in asked.ended {
            if let Some(choice) = self.choices.get_mut(choice as usize) {
                choice.end(until);
            }
        }
        if asked.cancel {
            self.cancelling.ask();
            self.until = self.until.min(until);
        }
        let mut resumed = false;
        for (choice, tokens) in asked.taken {
            if let Some(choice) = self.choices.get_mut(choice as usize) {
                resumed |= choice.read(tokens);
            }
        }
        if resumed {
            self.tell_time(shares);
        }
    }

    /// What time brings: gives false if the worker should have let go of it by now.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        if now >= self.until || self.choices.iter().any(|choice| choice.is_late(now)) {
            return false;
        }
        if self.stopping == Word::No && (now >= self.deadline || self.cancel.is_cancelled()) {
            self.stop(now);
        }
        true
    }

    /// Whether the worker may say now that it was stopped.
    pub(super) fn may_stop(&self, now: Instant) -> bool {
        self.stopping != Word::No || self.cancelling != Word::No || now + EARLY_MAX >= self.deadline
    }

    /// Nobody waits for it any more.
    pub(super) fn stop(&mut self, now: Instant) {
        self.stopping.ask();
        self.until = self.until.min(now + self.grace);
        self.fail(GenerationError::Stopped);
    }

    /// Tells its caller or its reader that nothing more comes.
    fn fail(&mut self, error: GenerationError) {
        match self.admission.take() {
            // Who left needs no answer.
            Some(admission) => drop(admission.send(Err(error))),
            None => self.shared.fail(error),
        }
    }

    /// The worker has let go of it; `error` is why, unless it came to its end.
    pub(super) fn end(&mut self, error: Option<GenerationError>, shares: &mut Shares) {
        self.tell_time(shares);
        if let Some(begun) = self.clock.take() {
            shares.end(Instant::now(), begun);
        }
        self.account = None;
        if let Some(error) = error {
            self.fail(error);
        }
    }

    /// What its constraint is called.
    pub(super) fn constraint(&self) -> &'static str {
        self.terms.constraint.unwrap_or("constraint")
    }

    /// Says what the worker was not told yet; gives false if that has to be tried again.
    pub(super) fn say(&mut self, run: u64, mut said: impl FnMut(&ToWorker) -> bool) -> bool {
        if self.is_over() {
            return true;
        }
        for (word, message) in
            [(&mut self.stopping, ToWorker::Stop { run }), (&mut self.cancelling, ToWorker::Cancel { run })]
        {
            if *word == Word::ToSay {
                if !said(&message) {
                    return false;
                }
                *word = Word::Said;
            }
        }
        for (choice, number) in self.choices.iter_mut().zip(0..) {
            if choice.end_to_say() {
                if !said(&ToWorker::EndChoice { run, choice: number }) {
                    return false;
                }
                choice.end_said();
            }
        }
        let news = |(choice, number): (&Choice, u32)| choice.news().map(|tokens| (number, tokens));
        let tokens: Vec<(u32, u32)> = self.choices.iter().zip(0..).filter_map(news).collect();
        if tokens.is_empty() {
            return true;
        }
        if !said(&ToWorker::Read { run, tokens }) {
            return false;
        }
        self.choices.iter_mut().for_each(Choice::news_said);
        true
    }
}
