//! The stage between the engine and the guest, where a deployment has a filter: what the filter has not cleared of a
//! choice's text stays here, and so do the tokens it is made of.
//!
//! A choice that the filter ends gives nothing more; its last chunk comes once the engine has stopped it, within a step,
//! and tells what was used until then. The other choices of the request go on: each is an answer of its own, and the
//! caller pays for all of them.

use std::collections::VecDeque;

use mayfly_inference::{Chunk as HostChunk, ChunkToken};

use crate::filter::{ChoiceFilter, TextFilter, Verdict};

/// Tokens of one choice that wait for their text to be cleared. A blocked text is shorter, but any number of tokens
/// without text may come while it is open; with more of them the choice ends as if it had been blocked.
const HELD_TOKENS_MAX: usize = 1024;

/// All choices of one generation.
#[derive(Debug)]
pub(super) struct Filtered {
    choices: Vec<Choice>,
}

#[derive(Debug)]
struct Choice {
    filter: Box<dyn ChoiceFilter>,
    /// Bytes passed on.
    passed: usize,
    /// The text behind them.
    text: String,
    /// Tokens whose text ends in there.
    tokens: VecDeque<ChunkToken>,
    is_cut: bool,
}

/// What goes on to the guest.
#[derive(Debug)]
pub(super) struct Passed {
    /// `finish` is the engine's word.
    pub(super) chunk: HostChunk,
    /// Whether the filter has ended this choice.
    pub(super) is_cut: bool,
}

impl Filtered {
    pub(super) fn new(filter: &dyn TextFilter, choices: u32) -> Self {
        let choice = |_| Choice {
            filter: filter.begin(),
            passed: 0,
            text: String::new(),
            tokens: VecDeque::new(),
            is_cut: false,
        };
        Self { choices: (0..choices).map(choice).collect() }
    }

    /// Takes the engine's next chunk. What is left of it may be empty: a guest that was told that something is ready
    /// need not wait for it.
    pub(super) fn pass(&mut self, chunk: HostChunk) -> Passed {
        // The engine numbers choices from 0 to one less than were asked for. What had no filter would go nowhere.
        match self.choices.get_mut(chunk.choice as usize) {
            Some(choice) => choice.pass(chunk),
            None => Passed { chunk: HostChunk { text: String::new(), tokens: Vec::new(), ..chunk }, is_cut: true },
        }
    }
}

impl Choice {
    fn pass(&mut self, chunk: HostChunk) -> Passed {
        let HostChunk { text, tokens, finish, .. } = chunk;
        let (mut out, mut out_tokens) = (String::new(), Vec::new());
        if !self.is_cut {
            self.text.push_str(&text);
            self.tokens.extend(tokens);
            let mut verdict = self.filter.push(&text);
            if finish.is_some() && !verdict.ends {
                verdict = self.filter.finish();
            }
            (out, out_tokens) = self.release(verdict);
            // At the end, tokens are left whose text is behind a stop string. In no text, so nobody has looked at it.
            self.is_cut = verdict.ends || (finish.is_none() && self.tokens.len() > HELD_TOKENS_MAX);
            if self.is_cut || finish.is_some() {
                self.text = String::new();
                self.tokens = VecDeque::new();
            }
        }
        Passed { chunk: HostChunk { text: out, tokens: out_tokens, ..chunk }, is_cut: self.is_cut }
    }

    /// Text up to `clear`, and the tokens that end there or before.
    fn release(&mut self, Verdict { clear, .. }: Verdict) -> (String, Vec<ChunkToken>) {
        let mut ready = clear.saturating_sub(self.passed).min(self.text.len());
        while !self.text.is_char_boundary(ready) {
            ready -= 1;
        }
        self.passed += ready;
        let behind = self.text.split_off(ready);
        let text = std::mem::replace(&mut self.text, behind);
        let count = self.tokens.iter().take_while(|token| token.text_end <= self.passed).count();
        (text, self.tokens.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mayfly_inference::{Finish, GenerationUsage};
    use mayfly_types::FilterSpec;

    use super::*;
    use crate::filter::text_filter;

    fn blocking(texts: &[&str]) -> Arc<dyn TextFilter> {
        let block = texts.iter().map(ToString::to_string).collect();
        text_filter(&FilterSpec { block }).expect("it is small").expect("something is blocked")
    }

    /// A generation whose tokens are given out as the engine does: ids count, text comes as it is ready.
    struct Script {
        stage: Filtered,
        /// For each choice, its text and whether it is within a character.
        texts: Vec<(usize, bool)>,
        next_id: u32,
        out: Vec<Out>,
    }

    /// What came of one choice: its text, token ids, and how it ended.
    type Out = (String, Vec<u32>, Option<(Finish, bool)>);

    impl Script {
        fn new(blocked: &[&str], choices: u32) -> Self {
            let stage = Filtered::new(&*blocking(blocked), choices);
            let of_each = choices as usize;
            Self { stage, texts: vec![(0, false); of_each], next_id: 0, out: vec![Default::default(); of_each] }
        }

        /// One token of `bytes`, with the text that is `ready` now. Whether the choice is cut.
        fn token(&mut self, choice: u32, bytes: &[u8], ready: &str, finish: Option<Finish>) -> bool {
            let (reach, within) = &mut self.texts[choice as usize];
            *reach += ready.len();
            *within = !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none());
            let text_end = *reach + usize::from(*within);
            let token = ChunkToken { id: self.next_id, bytes: bytes.to_vec(), text_end, logprob: 0.0, top: Vec::new() };
            self.next_id += 1;
            self.chunk(choice, ready, vec![token], finish)
        }

        fn chunk(&mut self, choice: u32, text: &str, tokens: Vec<ChunkToken>, finish: Option<Finish>) -> bool {
            let usage = GenerationUsage::default();
            let chunk = HostChunk { choice, text: text.to_owned(), tokens, finish, usage };
            let Passed { chunk, is_cut } = self.stage.pass(chunk);
            let (text, ids, last) = &mut self.out[choice as usize];
            assert_eq!(*last, None, "nothing comes after the end");
            text.push_str(&chunk.text);
            ids.extend(chunk.tokens.iter().map(|token| token.id));
            *last = chunk.finish.map(|finish| (finish, is_cut));
            is_cut
        }

        /// One token for each of `words`, then the end.
        fn say(&mut self, choice: u32, words: &[&str]) -> bool {
            for word in words {
                if self.token(choice, word.as_bytes(), word, None) {
                    return true;
                }
            }
            self.chunk(choice, "", Vec::new(), Some(Finish::Stop))
        }
    }

    #[test]
    fn text_before_a_blocked_one_goes_out_with_its_tokens() {
        let mut script = Script::new(&["secret"], 1);
        assert!(!script.token(0, b"the ", "the ", None));
        assert!(!script.token(0, b"big se", "big se", None));
        assert_eq!(script.out[0], ("the big ".to_owned(), vec![0], None), "a token goes with all of its text");
        assert!(!script.token(0, b"", "", None), "one without text waits in its place");
        assert!(script.token(0, b"cret", "cret", None));
        assert_eq!(script.out[0], ("the big ".to_owned(), vec![0], None));
        // What the engine ran ahead.
        assert!(script.token(0, b" is", " is", None));
        assert!(script.chunk(0, " out", Vec::new(), Some(Finish::Cancelled)));
        assert_eq!(script.out[0], ("the big ".to_owned(), vec![0], Some((Finish::Cancelled, true))));
    }

    #[test]
    fn a_blocked_text_in_the_last_chunk_counts() {
        let mut script = Script::new(&["secret"], 1);
        script.token(0, b"a sec", "a sec", None);
        assert!(script.token(0, b"ret", "ret", Some(Finish::Length)));
        assert_eq!(script.out[0], ("a ".to_owned(), vec![], Some((Finish::Length, true))));
    }

    #[test]
    fn what_waited_comes_at_the_end() {
        for finish in [Finish::Stop, Finish::Length, Finish::Cancelled] {
            let mut script = Script::new(&["secret"], 1);
            script.token(0, b"a ", "a ", None);
            script.token(0, b"sec", "sec", None);
            assert_eq!(script.out[0].0, "a ");
            assert!(!script.chunk(0, "", Vec::new(), Some(finish)));
            assert_eq!(script.out[0], ("a sec".to_owned(), vec![0, 1], Some((finish, false))));
        }
    }

    #[test]
    fn what_is_not_blocked_goes_through_at_once() {
        let mut script = Script::new(&["secret"], 1);
        for (count, word) in ["no", " harm", "", " don", "e"].into_iter().enumerate() {
            script.token(0, word.as_bytes(), word, None);
            assert_eq!(script.out[0].1.len(), count + 1, "{word}");
        }
        assert_eq!(script.out[0].0, "no harm done");
    }

    #[test]
    fn choices_are_cut_one_by_one() {
        let mut script = Script::new(&["secret"], 3);
        assert!(script.say(1, &["sec", "ret"]));
        assert!(!script.say(0, &["sec", "ond"]));
        assert!(!script.say(2, &["ret"]));
        assert!(script.chunk(1, "", Vec::new(), Some(Finish::Cancelled)));
        let said = |choice: usize| (script.out[choice].0.as_str(), script.out[choice].2);
        assert_eq!(said(0), ("second", Some((Finish::Stop, false))));
        assert_eq!(said(1), ("", Some((Finish::Cancelled, true))));
        assert_eq!(said(2), ("ret", Some((Finish::Stop, false))));
    }

    #[test]
    fn half_a_character_does_not_go_before_it_is_clear() {
        let mut script = Script::new(&["é!"], 1);
        script.token(0, b"caf\xc3", "caf", None);
        assert_eq!(script.out[0], ("caf".to_owned(), vec![], None));
        script.token(0, b"\xa9", "é", None);
        assert_eq!(script.out[0], ("caf".to_owned(), vec![], None));
        assert!(script.token(0, b"!", "!", None));
        assert_eq!(script.out[0], ("caf".to_owned(), vec![], None));

        let mut script = Script::new(&["é!"], 1);
        script.token(0, b"caf\xc3", "caf", None);
        script.token(0, b"\xa9", "é", None);
        script.token(0, b".", ".", None);
        assert_eq!(script.out[0], ("café.".to_owned(), vec![0, 1, 2], None));
    }

    #[test]
    fn tokens_of_a_stop_string_are_not_given() {
        let mut script = Script::new(&["unrelated"], 1);
        script.token(0, b"yes", "yes", None);
        // The engine cuts the text at the stop string; the token says more.
        let token = ChunkToken { id: 9, bytes: b" STOPword".to_vec(), text_end: 12, logprob: 0.0, top: Vec::new() };
        script.chunk(0, " ", vec![token], Some(Finish::Stop));
        assert_eq!(script.out[0], ("yes ".to_owned(), vec![0], Some((Finish::Stop, false))));
    }

    #[test]
    fn tokens_without_text_do_not_pile_up() {
        let mut script = Script::new(&["secret"], 1);
        script.token(0, b"sec", "sec", None);
        let cut = (0..HELD_TOKENS_MAX).map(|_| script.token(0, b"", "", None)).collect::<Vec<_>>();
        let (last, before) = cut.split_last().expect("there are many");
        assert!(*last && before.iter().all(|cut| !cut));
        assert_eq!(script.out[0], (String::new(), vec![], None));
    }

    /// Ends every text after its first three bytes.
    #[derive(Debug)]
    struct Short(usize);

    impl TextFilter for Short {
        fn begin(&self) -> Box<dyn ChoiceFilter> {
            Box::new(Self(0))
        }
    }

    impl ChoiceFilter for Short {
        fn push(&mut self, piece: &str) -> Verdict {
            self.0 += piece.len();
            Verdict { clear: self.0.min(3), ends: self.0 > 3 }
        }

        fn finish(&mut self) -> Verdict {
            Verdict { clear: self.0, ends: false }
        }
    }

    #[test]
    fn any_filter_has_its_place_here() {
        let mut script = Script { stage: Filtered::new(&Short(0), 1), ..Script::new(&["unused"], 1) };
        assert!(!script.token(0, b"ab", "ab", None));
        // Never within a character, whatever a filter says.
        assert!(script.token(0, "é".as_bytes(), "é", None));
        assert_eq!(script.out[0], ("ab".to_owned(), vec![0], None));
    }
}
