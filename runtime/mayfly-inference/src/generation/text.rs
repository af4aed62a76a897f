//! Text of a sequence, while its tokens come: whole characters only, and nothing that a stop string may still take away.
//!
//! What the tokens' bytes are is in [`TokenTable`], built once per package. Whether a stop string ends the sequence is
//! decided here; the model's own end tokens are the engine's business.

#[cfg(test)]
pub(crate) mod samples;
mod stops;
mod table;
#[cfg(test)]
mod tests;
mod utf8;

use std::sync::Arc;

use stops::Stops;
pub(crate) use table::TokenTable;
use utf8::Characters;

/// The text of one sequence.
///
/// It is what Hugging Face `tokenizers` decodes from the same tokens without special ones, as a continuation of the
/// prompt: the space that a metaspace token begins with stays also at the very beginning. Bytes that are no UTF-8 become
/// U+FFFD.
#[derive(Debug)]
pub(crate) struct TextStream {
    table: Arc<TokenTable>,
    characters: Characters,
    stops: Stops,
    /// Ready text that was not given out, as it may be the beginning of a stop string.
    held: String,
    /// Bytes of all text that was ready.
    ready: usize,
    stopped: bool,
}

impl TextStream {
    /// `stops` has passed [`super::option::check_stops`].
    pub(crate) fn new(table: Arc<TokenTable>, stops: &[String]) -> Self {
        Self {
            table,
            characters: Characters::default(),
            stops: Stops::new(stops),
            held: String::new(),
            ready: 0,
            stopped: false,
        }
    }

    /// Takes the next token; gives the text that is ready now. After a stop string nothing more comes: see
    /// [`Self::stopped`].
    pub(crate) fn push(&mut self, token: u32) -> String {
        if self.stopped {
            return String::new();
        }
        let seen = self.held.len();
        self.characters.push(self.table.text(token), &mut self.held);
        self.ready += self.held.len() - seen;
        self.release(seen)
    }

    /// Bytes of the text that all tokens so far make, a stop string included; half a character at its end counts as one
    /// byte.
    pub(crate) fn reach(&self) -> usize {
        self.ready + usize::from(self.characters.is_within_one())
    }

    /// Whether a stop string came. It, and what followed it, is in no text.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// The sequence is over: gives what is left. A stop string that is completed by this still counts.
    pub(crate) fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let seen = self.held.len();
        self.characters.finish(&mut self.held);
        let mut text = self.release(seen);
        text.push_str(&std::mem::take(&mut self.held));
        text
    }

    /// Takes out of `held` what may be given; the first `seen` bytes of it were looked at before.
    fn release(&mut self, seen: usize) -> String {
        if self.held.len() == seen {
            return String::new();
        }
        if let Some(start) = self.stops.first_in(&self.held, seen) {
            self.stopped = true;
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return text;
        }
        let ready = self.held.len() - self.stops.begun_at_end_of(&self.held);
        let behind = self.held.split_off(ready);
        std::mem::replace(&mut self.held, behind)
    }
}
