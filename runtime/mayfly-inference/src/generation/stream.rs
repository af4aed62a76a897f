//! The reader's end of a generation, and what it shares with whoever makes it: an engine here, or a process apart.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::GenerationError;
use super::chunk::{Chunk, ChunkToken, Finish, GenerationUsage};

/// Who makes a generation.
pub(crate) trait Maker: Send + Sync {
    /// The reader did something: [`Shared::asked`] has it. Must not block.
    fn touch(&self, shared: &Arc<Shared>);
}

/// A running generation. Dropping it cancels it.
pub struct Generation {
    shared: Arc<Shared>,
    maker: Arc<dyn Maker>,
    /// Whether its end is that of the work, too.
    owns: bool,
}

impl Generation {
    pub(crate) fn new(shared: Arc<Shared>, maker: Arc<dyn Maker>) -> Self {
        Self { shared, maker, owns: true }
    }

    /// Nothing came of it on this engine, and its job goes on to another.
    pub(crate) fn let_go(mut self) {
        self.owns = false;
    }

    /// The next chunk, in the order the engine made them; none once every choice is over.
    ///
    /// Chunks of one choice that are ready together come as one. The engine runs at most 16 tokens ahead of what was
    /// taken here; who takes nothing for too long is cut. Cancel safe.
    ///
    /// # Errors
    /// [`GenerationError`], once; then none.
    pub async fn next(&mut self) -> Result<Option<Chunk>, GenerationError> {
        let taken = self.next_unread().await;
        if let Ok(Some(chunk)) = &taken {
            self.read(chunk.choice, chunk.tokens.len());
        }
        taken
    }

    /// As [`Self::next`], for whoever hands chunks on: their tokens count as read once [`Self::read`] says so.
    pub(crate) async fn next_unread(&mut self) -> Result<Option<Chunk>, GenerationError> {
        loop {
            // Before the look: what comes between the two is not missed.
            let woken = self.shared.news.notified();
            if let Some(taken) = self.shared.take() {
                return taken;
            }
            woken.await;
        }
    }

    /// So many more tokens of a choice were read.
    pub(crate) fn read(&self, choice: u32, tokens: usize) {
        if tokens > 0 {
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            self.shared.lock().asked.taken.push((choice, tokens));
        }
        self.maker.touch(&self.shared);
    }

    /// Waits until [`Self::next`] would not wait. Cancel safe.
    pub async fn ready(&mut self) {
        loop {
            let woken = self.shared.news.notified();
            if self.shared.lock().is_ready() {
                return;
            }
            woken.await;
        }
    }

    /// Ends every choice that is not over, within a step of the engine. Their last chunks say [`Finish::Cancelled`].
    pub fn cancel(&self) {
        self.shared.lock().asked.cancel = true;
        self.maker.touch(&self.shared);
    }

    /// Ends one choice within a step of the engine, unless it is over; its last chunk says [`Finish::Cancelled`]. The
    /// others go on.
    pub fn end_choice(&self, choice: u32) {
        if self.shared.ask_end(choice) {
            self.maker.touch(&self.shared);
        }
    }

    /// What was used so far, also what was not read yet.
    pub fn usage(&self) -> GenerationUsage {
        self.shared.lock().usage
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.owns {
            self.cancel();
        }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// What the maker puts in and the reader takes out.
pub(crate) struct Shared {
    /// Names its sequences: an engine's own number for choice 0, and those that follow it.
    pub(in crate::generation) first: u64,
    state: Mutex<State>,
    news: Notify,
}

struct State {
    choices: Vec<Pending>,
    /// Choices with something to take, in the order in which it came.
    order: VecDeque<u32>,
    /// Choices that are not over.
    open: usize,
    failed: Option<GenerationError>,
    usage: GenerationUsage,
    asked: Asked,
}

/// What was made of one choice and not taken yet.
#[derive(Default)]
struct Pending {
    text: String,
    tokens: Vec<ChunkToken>,
    finish: Option<Finish>,
    over: bool,
    queued: bool,
}

/// What the reader did since the maker looked last.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Tokens taken, by choice.
    pub(crate) taken: Vec<(u32, u32)>,
    /// Choices it wants no more of, each once.
    pub(crate) ended: Vec<u32>,
    pub(crate) cancel: bool,
}

impl State {
    fn is_ready(&self) -> bool {
        !self.order.is_empty() || self.failed.is_some() || self.open == 0
    }
}

impl Shared {
    pub(crate) fn new(first: u64, choices: u32, usage: GenerationUsage) -> Self {
        let state = State {
            choices: (0..choices).map(|_| Pending::default()).collect(),
            order: VecDeque::new(),
            open: choices as usize,
            failed: None,
            usage,
            asked: Asked::default(),
        };
        Self { first, state: Mutex::new(state), news: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing for the reader; none if there is nothing yet.
    fn take(&self) -> Option<Result<Option<Chunk>, GenerationError>> {
        let mut state = self.lock();
        if let Some(choice) = state.order.pop_front() {
            let usage = state.usage;
            let pending = &mut state.choices[choice as usize];
            pending.queued = false;
            let (text, tokens) = (std::mem::take(&mut pending.text), std::mem::take(&mut pending.tokens));
            let finish = pending.finish.take();
            return Some(Ok(Some(Chunk { choice, text, tokens, finish, usage })));
        }
        if let Some(error) = state.failed.take() {
            return Some(Err(error));
        }
        (state.open == 0).then_some(Ok(None))
    }

    /// What the reader did since this was asked last.
    pub(crate) fn asked(&self) -> Asked {
        std::mem::take(&mut self.lock().asked)
    }

    /// Its reader wants no more of a choice; false if that changes nothing.
    fn ask_end(&self, choice: u32) -> bool {
        let mut state = self.lock();
        let runs = state.choices.get(choice as usize).is_some_and(|pending| !pending.over);
        let news = runs && !state.asked.ended.contains(&choice);
        if news {
            state.asked.ended.push(choice);
        }
        news
    }

    /// The prompt begins to run; so much of it is reused.
    pub(crate) fn started(&self, cached: u32) {
        self.lock().usage.cached_tokens = cached.into();
    }

    /// A choice got a token.
    pub(crate) fn push(&self, choice: u32, text: String, token: ChunkToken, finish: Option<Finish>) {
        self.put(choice, finish, |pending, usage| {
            pending.tokens.push(token);
            if pending.text.is_empty() {
                pending.text = text;
            } else {
                pending.text.push_str(&text);
            }
            usage.completion_tokens += 1;
        });
    }

    /// A choice ends without another token, and with what was held back of its text.
    pub(crate) fn finish(&self, choice: u32, text: &str, finish: Finish) {
        self.put(choice, Some(finish), |pending, _| pending.text.push_str(text));
    }

    fn put(&self, choice: u32, finish: Option<Finish>, add: impl FnOnce(&mut Pending, &mut GenerationUsage)) {
        let mut state = self.lock();
        let State { choices, order, open, usage, .. } = &mut *state;
        let pending = &mut choices[choice as usize];
        if pending.over {
            return;
        }
        add(pending, usage);
        if finish.is_some() {
            pending.finish = finish;
            pending.over = true;
            *open -= 1;
        }
        if !std::mem::replace(&mut pending.queued, true) {
            order.push_back(choice);
        }
        drop(state);
        self.news.notify_one();
    }

    /// All of it is over, with an error after what was not taken yet.
    pub(crate) fn fail(&self, error: GenerationError) {
        let mut state = self.lock();
        if state.open > 0 {
            state.open = 0;
            state.choices.iter_mut().for_each(|pending| pending.over = true);
            state.failed = Some(error);
        }
        drop(state);
        self.news.notify_one();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("first", &self.first).finish_non_exhaustive()
    }
}
