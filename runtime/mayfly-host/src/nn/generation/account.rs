//! What a generation costs: held before it starts, charged as the engine counts.

use std::time::Duration;

use mayfly_inference::GenerationAccount;
use mayfly_types::{Hold, Line, Meter, ModelId};

/// The account of one generation. What was not charged of its hold goes back when the engine lets go of it: when the
/// last choice has ended, or a step after nobody wants it any more.
#[derive(Debug)]
pub(super) struct HeldAccount {
    hold: Hold,
    model: ModelId,
}

/// The most that `choices` continuations of `prompt_tokens` can cost. The prompt is paid once: its choices share it.
pub(super) fn most(model: ModelId, prompt_tokens: u32, choices: u32, max_tokens: u32) -> [Line; 2] {
    let line = |meter, quantity| Line { meter, model: Some(model), quantity };
    [
        line(Meter::InputTokens, prompt_tokens.into()),
        line(Meter::OutputTokens, u64::from(choices) * u64::from(max_tokens)),
    ]
}

impl HeldAccount {
    pub(super) fn new(hold: Hold, model: ModelId) -> Self {
        Self { hold, model }
    }

    fn charge(&self, lines: impl IntoIterator<Item = (Meter, u64)>) {
        let line = |(meter, quantity): (Meter, u64)| Line { meter, model: Some(self.model), quantity };
        let lines: Vec<Line> = lines.into_iter().filter(|(_, quantity)| *quantity > 0).map(line).collect();
        if !lines.is_empty() {
            self.hold.charge(&lines);
        }
    }
}

impl GenerationAccount for HeldAccount {
    fn input(&self, fresh: u32, cached: u32) {
        self.charge([(Meter::InputTokens, fresh.into()), (Meter::CachedInputTokens, cached.into())]);
    }

    fn output(&self, tokens: u32) {
        self.charge([(Meter::OutputTokens, tokens.into())]);
    }

    fn ran(&self, time: Duration) {
        self.charge([(Meter::InferenceMicros, u64::try_from(time.as_micros()).unwrap_or(u64::MAX))]);
    }
}
