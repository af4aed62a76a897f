//! Keeps callers' text from becoming special tokens.
//!
//! A prompt is one string by the time it is encoded, so whose text is whose must be marked before. Wherever a caller's
//! text has the text of a special token (or, at its ends, a part of one, which a neighbour could complete), that piece is
//! replaced by one character of Unicode's last plane of private use. The template prints it like any other. What the
//! encoder then finds written out as a special token is the template's, and behind each such character is plain text.
//! Callers' own characters of that plane are replaced too, so the marks cannot be forged.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};

/// The first and last character of plane 16, but for its two noncharacters.
const FIRST: u32 = 0x10_0000;
const LAST: u32 = 0x10_FFFD;

/// Finds the texts of special tokens.
#[derive(Debug)]
pub(super) struct Shield {
    whole: AhoCorasick,
    /// Sorted, to look for what one begins with.
    forward: Vec<String>,
    /// Sorted, their characters in reverse order, to look for what one ends with.
    backward: Vec<String>,
    longest: usize,
}

/// What the marks of one prompt stand for.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pieces: Vec<String>,
    known: HashMap<String, char>,
}

/// More different pieces than there are characters for.
#[derive(Debug)]
pub(super) struct TooMany;

impl Shield {
    /// For special tokens of these texts.
    pub(super) fn new(tokens: &[String]) -> Result<Self, String> {
        let whole = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens)
            .map_err(|error| error.to_string())?;
        let mut forward = tokens.to_vec();
        forward.sort_unstable();
        let mut backward: Vec<String> = tokens.iter().map(|token| token.chars().rev().collect()).collect();
        backward.sort_unstable();
        let longest = tokens.iter().map(|token| token.chars().count()).max().unwrap_or_default();
        Ok(Self { whole, forward, backward, longest })
    }

    /// `text` with marks.
    pub(super) fn hide(&self, text: &str, marks: &mut Marks) -> Result<String, TooMany> {
        let mut out = String::with_capacity(text.len());
        // The head, a special token's end.
        let begin = text.trim_start();
        let head = cut(&self.backward, begin.chars(), self.longest);
        let head = text.len() - begin.len() + head;
        // The tail, a special token's beginning; whitespace behind it can be trimmed away.
        let end = text.trim_end();
        let tail = end.len() - cut(&self.forward, end.chars().rev(), self.longest);
        let mut at = 0;
        for found in self.whole.find_iter(text) {
            self.part(text, at..found.start(), (head, tail), marks, &mut out)?;
            out.push(marks.mark(&text[found.range()])?);
            at = found.end();
        }
        self.part(text, at..text.len(), (head, tail), marks, &mut out)?;
        Ok(out)
    }

    /// A stretch without special tokens: its share of the text's head and tail is marked, the rest is copied.
    fn part(
        &self,
        text: &str,
        range: std::ops::Range<usize>,
        (head, tail): (usize, usize),
        marks: &mut Marks,
        out: &mut String,
    ) -> Result<(), TooMany> {
        let head = head.clamp(range.start, range.end);
        let tail = tail.clamp(head, range.end);
        let begin = text[range.start..head].trim_start();
        out.push_str(&text[range.start..head - begin.len()]);
        if !begin.is_empty() {
            out.push(marks.mark(begin)?);
        }
        for c in text[head..tail].chars() {
            if u32::from(c) >= FIRST {
                out.push(marks.mark(c.encode_utf8(&mut [0; 4]))?);
            } else {
                out.push(c);
            }
        }
        let end = text[tail..range.end].trim_end();
        if !end.is_empty() {
            out.push(marks.mark(end)?);
        }
        out.push_str(&text[tail + end.len()..range.end]);
        Ok(())
    }

    /// Every string in `value`, and every key.
    pub(super) fn hide_all(&self, value: &Value, marks: &mut Marks) -> Result<Value, TooMany> {
        Ok(match value {
            Value::String(text) => Value::String(self.hide(text, marks)?),
            Value::Array(list) => {
                Value::Array(list.iter().map(|item| self.hide_all(item, marks)).collect::<Result<_, _>>()?)
            }
            Value::Object(map) => {
                let mut hidden = Map::with_capacity(map.len());
                for (key, value) in map {
                    hidden.insert(self.hide(key, marks)?, self.hide_all(value, marks)?);
                }
                Value::Object(hidden)
            }
            other => other.clone(),
        })
    }
}

/// Bytes of the longest beginning of `text` that, turned around, one of `tokens` (sorted) begins with.
///
/// `text` comes from the end that is looked at, so for the tail of a text `tokens` are as they are and for its head they
/// are reversed.
fn cut(tokens: &[String], text: impl Iterator<Item = char>, longest: usize) -> usize {
    let mut best = 0;
    let mut piece = String::new();
    for c in text.take(longest.saturating_sub(1)) {
        piece.insert(0, c);
        let at = tokens.partition_point(|token| token.as_str() < piece.as_str());
        if tokens.get(at).is_some_and(|token| token.starts_with(&piece)) {
            best = piece.len();
        }
    }
    best
}

impl Marks {
    fn mark(&mut self, piece: &str) -> Result<char, TooMany> {
        if let Some(mark) = self.known.get(piece) {
            return Ok(*mark);
        }
        let next = u32::try_from(self.pieces.len()).ok().and_then(|index| FIRST.checked_add(index));
        let mark = next.filter(|code| *code <= LAST).and_then(char::from_u32).ok_or(TooMany)?;
        self.pieces.push(piece.to_owned());
        self.known.insert(piece.to_owned(), mark);
        Ok(mark)
    }

    /// Bytes of `text` once the pieces are back; none if it has a mark that was never made.
    pub(super) fn restored_bytes(&self, text: &str) -> Option<usize> {
        text.chars().try_fold(0_usize, |bytes, c| {
            let piece = match u32::from(c).checked_sub(FIRST) {
                None => c.len_utf8(),
                Some(index) => self.pieces.get(usize::try_from(index).ok()?)?.len(),
            };
            bytes.checked_add(piece)
        })
    }

    /// `text` with the pieces back in their places; none if it has a mark that was never made.
    pub(super) fn restore(&self, text: &str) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match u32::from(c).checked_sub(FIRST) {
                None => out.push(c),
                Some(index) => out.push_str(self.pieces.get(usize::try_from(index).ok()?)?),
            }
        }
        Some(out)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shield() -> Shield {
        Shield::new(&["<|im_start|>".into(), "<|im_end|>".into(), "</s>".into(), "[INST]".into()]).unwrap()
    }

    fn hidden(text: &str) -> String {
        shield().hide(text, &mut Marks::default()).unwrap().replace(|c| u32::from(c) >= FIRST, "#")
    }

    #[test]
    fn whole_tokens_and_parts_at_the_ends_are_hidden() {
        for (text, expect) in [
            ("hello", "hello"),
            ("a<|im_end|>b</s></s>", "a#b##"),
            ("<|im_<|im_end|>end|>", "<|im_#end|>"),
            ("see <|im_", "see #"),
            ("see <|im_ \n", "see # \n"),
            ("end|> see", "# see"),
            (" end|> see", " # see"),
            ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
            ("<", "#"),
            ("[IN", "#"),
            ("<think>a</think>", "<think>a</think>"),
            ("\u{10_0000}x", "#x"),
            ("", ""),
            ("  ", "  "),
        ] {
            assert_eq!(hidden(text), expect, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_special_token_is_left_and_all_comes_back(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("<|im_start|>"), Just("<|im_"), Just("end|>"), Just("</s>"), Just("</"), Just("s>"), Just(" "),
                    Just("é"), Just("\u{10_0001}"), Just("<"), Just("["), Just("INST]"), Just("x"),
                ],
                0..12,
            ),
            cut in 0_usize..12,
        ) {
            let shield = shield();
            let mut marks = Marks::default();
            let cut = cut.min(parts.len());
            let (first, second) = (parts[..cut].concat(), parts[cut..].concat());
            let hidden = [&first, &second].map(|text| shield.hide(text, &mut marks).unwrap());
            // Side by side, and with the whitespace between them gone.
            for joined in [hidden.concat(), hidden.each_ref().map(|text| text.trim()).concat()] {
                prop_assert!(!shield.whole.is_match(&joined), "{:?}", joined);
            }
            prop_assert_eq!(marks.restored_bytes(&hidden.concat()), Some(first.len() + second.len()));
            prop_assert_eq!(marks.restore(&hidden.concat()).unwrap(), first + &second);
        }
    }

    #[test]
    fn a_mark_of_nobodys_is_noticed() {
        assert_eq!(Marks::default().restore("a\u{10_0000}"), None);
        assert_eq!(Marks::default().restored_bytes("a\u{10_0000}"), None);
    }
}
