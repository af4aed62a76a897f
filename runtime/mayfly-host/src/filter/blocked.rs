//! Blocked texts: a choice ends before the first of them.
//!
//! They are found literally, whatever the case of their letters: two texts are alike if they are once each of their
//! characters is put in upper and then in lower case (so `ß` is `ss`, and every form of sigma is one). What a reader
//! would take for the same text (spaces between letters, look-alikes, other normal forms of Unicode) is not found.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::nfa::noncontiguous::NFA;

use super::{ChoiceFilter, FilterError, TextFilter, Verdict};

/// The texts of one revision, compiled.
#[derive(Debug)]
pub(super) struct BlockedTexts(Arc<Compiled>);

struct Compiled {
    automaton: NFA,
    start: StateID,
    /// For each state, how many bytes at the end of what was seen may be the beginning of a blocked text.
    begun: Vec<usize>,
}

impl BlockedTexts {
    /// None of `texts` is empty.
    pub(super) fn new(texts: &[String]) -> Result<Self, FilterError> {
        let folded: Vec<String> = texts.iter().map(|text| text.chars().flat_map(folded).collect()).collect();
        // Standard semantics: each match counts as soon as it is complete. A prefilter would be for whole texts only.
        let automaton = NFA::builder().prefilter(false).build(&folded)?;
        let start = automaton.start_state(Anchored::No).expect("an automaton of this kind has both starts");
        let mut begun = Vec::new();
        for text in &folded {
            // The beginning of a text leads to the state of just that beginning: nothing seen before is longer.
            let mut state = start;
            for (bytes, byte) in (1..).zip(text.bytes()) {
                state = automaton.next_state(Anchored::No, state, byte);
                let index = state.as_usize();
                begun.resize(begun.len().max(index + 1), 0);
                begun[index] = bytes;
            }
        }
        Ok(Self(Arc::new(Compiled { automaton, start, begun })))
    }
}

impl TextFilter for BlockedTexts {
    fn begin(&self) -> Box<dyn ChoiceFilter> {
        let texts = Arc::clone(&self.0);
        Box::new(Search { state: texts.start, texts, seen: 0, folded: 0, open: VecDeque::new(), found: None })
    }
}

/// The search through one text.
#[derive(Debug)]
struct Search {
    texts: Arc<Compiled>,
    state: StateID,
    /// Bytes seen.
    seen: usize,
    /// Bytes seen, in their folded form.
    folded: usize,
    /// The characters at the end that may belong to a blocked text; no more than the longest one has.
    open: VecDeque<Begin>,
    /// Where a blocked text begins.
    found: Option<usize>,
}

/// Where a character begins, in the text and in its folded form.
#[derive(Debug, Clone, Copy)]
struct Begin {
    seen: usize,
    folded: usize,
}

impl Search {
    fn take(&mut self, character: char) {
        self.open.push_back(Begin { seen: self.seen, folded: self.folded });
        self.seen += character.len_utf8();
        let mut first = None;
        for character in folded(character) {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                self.folded += 1;
                self.state = self.texts.automaton.next_state(Anchored::No, self.state, byte);
                let longest = self.texts.longest_match(self.state);
                first = first.or(longest.map(|bytes| self.folded - bytes));
            }
        }
        if let Some(first) = first {
            // A text may begin inside of what one character became: all of that character is blocked.
            let begin = self.open.iter().take_while(|begin| begin.folded <= first).last();
            self.found = begin.map(|begin| begin.seen);
            return;
        }
        let open_from = self.folded - self.texts.begun(self.state);
        let next_begins = |open: &VecDeque<Begin>, folded| open.get(1).map_or(folded, |next| next.folded);
        while !self.open.is_empty() && next_begins(&self.open, self.folded) <= open_from {
            self.open.pop_front();
        }
    }

    fn verdict(&self) -> Verdict {
        match self.found {
            Some(found) => Verdict { clear: found, ends: true },
            None => Verdict { clear: self.open.front().map_or(self.seen, |begin| begin.seen), ends: false },
        }
    }
}

impl ChoiceFilter for Search {
    fn push(&mut self, piece: &str) -> Verdict {
        for character in piece.chars() {
            if self.found.is_some() {
                break;
            }
            self.take(character);
        }
        self.verdict()
    }

    fn finish(&mut self) -> Verdict {
        self.open.clear();
        self.verdict()
    }
}

impl Compiled {
    /// Bytes of the longest text that is complete in `state`.
    fn longest_match(&self, state: StateID) -> Option<usize> {
        if !self.automaton.is_match(state) {
            return None;
        }
        let length = |index| self.automaton.pattern_len(self.automaton.match_pattern(state, index));
        (0..self.automaton.match_len(state)).map(length).max()
    }

    fn begun(&self, state: StateID) -> usize {
        self.begun.get(state.as_usize()).copied().unwrap_or(0)
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("texts", &self.automaton.patterns_len()).finish_non_exhaustive()
    }
}

/// What a character becomes before it is compared.
fn folded(character: char) -> impl Iterator<Item = char> {
    character.to_uppercase().flat_map(char::to_lowercase)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn filter(texts: &[&str]) -> BlockedTexts {
        BlockedTexts::new(&texts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    /// Every way to cut `text` into three pieces, some of them empty.
    fn cuts(text: &str) -> Vec<[&str; 3]> {
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut all = Vec::new();
        for (index, first) in ends.iter().enumerate() {
            all.extend(ends[index..].iter().map(|second| [&text[..*first], &text[*first..*second], &text[*second..]]));
        }
        all
    }

    /// `text` with the texts `blocked` comes to `expect`, and whether it was cut, in whatever pieces it comes. What was
    /// clear once is never taken back.
    fn check(blocked: &[&str], text: &str, expect: &str, cut: bool) {
        let filter = filter(blocked);
        for pieces in cuts(text) {
            let mut search = filter.begin();
            let mut clear = 0;
            let mut ended = false;
            for piece in pieces {
                let verdict = search.push(piece);
                assert!(verdict.clear >= clear && expect.len() >= verdict.clear, "{pieces:?} {verdict:?}");
                (clear, ended) = (verdict.clear, verdict.ends);
                if ended {
                    break;
                }
            }
            if !ended {
                let verdict = search.finish();
                (clear, ended) = (verdict.clear, verdict.ends);
            }
            assert_eq!((&text[..clear], ended), (expect, cut), "{pieces:?} without {blocked:?}");
        }
    }

    #[test]
    fn a_text_is_found_however_it_is_cut() {
        check(&["secret"], "the secret is out", "the ", true);
        check(&["secret"], "the secre is out", "the secre is out", false);
        check(&["secret"], "the secre", "the secre", false);
        check(&["secret"], "secsecret", "sec", true);
        check(&["aab"], "aaaaab", "aaa", true);
        check(&["abac"], "ababac!", "ab", true);
        check(&["€uro"], "in €€uros", "in €", true);
        check(&["😀"], "half 😁 and 😀", "half 😁 and ", true);
    }

    #[test]
    fn of_several_the_first_complete_one_counts_and_the_longest_of_those() {
        check(&["abcd", "b"], "say abc", "say a", true);
        check(&["abc", "c"], "say abc", "say ", true);
        check(&["b", "ab"], "say ab", "say ", true);
        check(&["x", "y", "nothing"], "abc", "abc", false);
    }

    #[test]
    fn the_case_of_letters_does_not_matter() {
        check(&["Secret"], "the sEcReT", "the ", true);
        check(&["ÄRGER"], "großer ärger", "großer ", true);
        check(&["STRASSE"], "die Straße", "die ", true);
        check(&["straße"], "die STRASSE", "die ", true);
        check(&["ΟΔΟΣ"], "η οδος", "η ", true);
        check(&["ΟΔΟΣ"], "η οδοσ", "η ", true);
        check(&["kelvin"], "in \u{212a}elvin", "in ", true);
        check(&["istanbul"], "in \u{130}stanbul", "in \u{130}stanbul", false);
        // A character whose folded form is longer is blocked as a whole.
        check(&["s"], "aß", "a", true);
        check(&["sx"], "aßx", "a", true);
    }

    #[test]
    fn only_what_may_be_the_beginning_of_a_blocked_text_waits() {
        let filter = filter(&["secret", "set"]);
        let mut search = filter.begin();
        let mut clear = |piece| search.push(piece).clear;
        assert_eq!(clear("no matter"), 9);
        assert_eq!(clear(" s"), 10);
        assert_eq!(clear("E"), 10);
        assert_eq!(clear("c"), 10);
        assert_eq!(clear("o"), 14, "`seco` begins nothing");
        assert_eq!(clear("sese"), 16, "`se` may go on");
        assert_eq!(search.finish(), Verdict { clear: 18, ends: false });
    }

    #[test]
    fn each_choice_is_searched_by_itself() {
        let filter = filter(&["secret"]);
        let (mut one, mut other) = (filter.begin(), filter.begin());
        assert_eq!(one.push("sec"), Verdict { clear: 0, ends: false });
        assert_eq!(other.push("ret"), Verdict { clear: 3, ends: false });
        assert_eq!(one.push("ret"), Verdict { clear: 0, ends: true });
        assert_eq!(other.finish(), Verdict { clear: 3, ends: false });
    }

    #[test]
    fn a_full_list_is_compiled_into_little() {
        let texts: Vec<String> = (0..256).map(|number| format!("{number:064}")).collect();
        let filter = BlockedTexts::new(&texts).unwrap();
        let states = filter.0.begun.len() * size_of::<usize>();
        let bytes = filter.0.automaton.memory_usage() + states;
        assert!(bytes < 2 << 20, "{bytes} bytes");
        let mut search = filter.begin();
        assert_eq!(search.push(&format!("so {}", texts[255])), Verdict { clear: 3, ends: true });
    }
}
