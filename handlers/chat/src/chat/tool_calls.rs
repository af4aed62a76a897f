//! Finds calls in a text as it comes. Text that cannot belong to a call goes on at once; what is inside
//! `<tool_call>` waits for its end, so that a call is given whole and valid or not at all.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A part of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Call(Call),
}

/// A call of one of the tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// A JSON object as the model wrote it.
    pub(crate) arguments: String,
}

/// The text of one choice.
#[derive(Debug)]
pub(crate) struct CallParser {
    names: Vec<String>,
    /// Not given yet: inside a call what follows [`OPEN`], else white space and what may be the beginning of [`OPEN`].
    held: String,
    inside: bool,
    /// Up to here `held` has no end of the call.
    searched: usize,
    called: bool,
}

impl CallParser {
    /// `names`: the tools that may be called.
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { names, held: String::new(), inside: false, searched: 0, called: false }
    }

    /// What `text` completes.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while match self.inside {
            true => self.close(&mut pieces),
            false => self.open(&mut pieces),
        } {}
        pieces
    }

    /// What is left at the end of the text. A call that only lacks its closing tag is one.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        if self.inside {
            return vec![match self.read(&held) {
                Ok(call) => Piece::Call(call),
                Err(_) => Piece::Text(format!("{OPEN}{held}")),
            }];
        }
        match held.is_empty() || (self.called && held.trim().is_empty()) {
            true => Vec::new(),
            false => vec![Piece::Text(held)],
        }
    }

    /// Looks for the beginning of a call; false if there is none yet.
    fn open(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let found = self.held.find(OPEN);
        let keep = found.unwrap_or_else(|| {
            let partial = (1..OPEN.len()).rev().find(|&length| self.held.ends_with(&OPEN[..length])).unwrap_or(0);
            self.held.len() - partial
        });
        // White space before a call belongs to neither.
        let text = self.held[..keep].trim_end().len();
        if text > 0 {
            pieces.push(Piece::Text(self.held[..text].to_owned()));
        }
        self.held.drain(..found.map_or(text, |at| at + OPEN.len()));
        self.inside = found.is_some();
        self.inside
    }

    /// Looks for the end of a call; false if it is still to come.
    fn close(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some(at) = self.held[self.searched..].find(CLOSE).map(|at| at + self.searched) else {
            // The closing tag is ASCII, so any place at which it may begin is kept.
            let from = self.held.len().saturating_sub(CLOSE.len() - 1);
            self.searched = (from..=self.held.len()).find(|&at| self.held.is_char_boundary(at)).unwrap_or(from);
            return false;
        };
        let body = &self.held[..at];
        let piece = match self.read(body) {
            Ok(call) => Piece::Call(call),
            Err(Invalid::Unfinished) => {
                // The tag stands inside a text of the arguments.
                self.searched = at + CLOSE.len();
                return true;
            }
            Err(Invalid::Wrong) => Piece::Text(format!("{OPEN}{body}{CLOSE}")),
        };
        self.called |= matches!(piece, Piece::Call(_));
        pieces.push(piece);
        self.held.drain(..at + CLOSE.len());
        self.searched = 0;
        self.inside = false;
        true
    }

    fn read(&self, body: &str) -> Result<Call, Invalid> {
        #[derive(Deserialize)]
        struct Written<'text> {
            name: String,
            #[serde(borrow)]
            arguments: Option<&'text RawValue>,
        }
        if !body.trim_start().starts_with('{') {
            return Err(Invalid::Wrong);
        }
        let written: Written<'_> = serde_json::from_str(body)
            .map_err(|error| if error.is_eof() { Invalid::Unfinished } else { Invalid::Wrong })?;
        let arguments = written.arguments.map_or("{}", RawValue::get);
        if !arguments.starts_with('{') || !self.names.contains(&written.name) {
            return Err(Invalid::Wrong);
        }
        Ok(Call { name: written.name, arguments: arguments.to_owned() })
    }
}

enum Invalid {
    Unfinished,
    Wrong,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text's pieces, neighbouring texts joined, when it comes in parts of `size` characters; calls as `name(..)`.
    fn pieces(text: &str, size: usize) -> Vec<String> {
        let mut parser = CallParser::new(vec!["add".to_owned(), "now".to_owned()]);
        let mut all: Vec<Piece> = Vec::new();
        let chars: Vec<char> = text.chars().collect();
        for part in chars.chunks(size) {
            all.extend(parser.push(&part.iter().collect::<String>()));
        }
        all.extend(parser.finish());
        let mut shown: Vec<String> = Vec::new();
        let mut open = false;
        for piece in all {
            match piece {
                Piece::Text(text) if open => shown.last_mut().expect("a text was just put there").push_str(&text),
                Piece::Text(text) => shown.push(text),
                Piece::Call(Call { name, arguments }) => {
                    shown.push(format!("{name}({arguments})"));
                    open = false;
                    continue;
                }
            }
            open = true;
        }
        shown
    }

    fn check(text: &str, expect: &[&str]) {
        for size in [1, 2, 3, 7, 10_000] {
            assert_eq!(pieces(text, size), expect, "{text:?} in parts of {size}");
        }
    }

    const ADD: &str = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"b\": 1.0, \"a\": 2}}\n</tool_call>";

    #[test]
    fn text_alone() {
        check("", &[]);
        check(" \n", &[" \n"]);
        check("a <b> < tool_call> <tool", &["a <b> < tool_call> <tool"]);
        check("\n\nüber <tool_callé>\n", &["\n\nüber <tool_callé>\n"]);
    }

    #[test]
    fn calls_and_text_around_them() {
        let add = r#"add({"b": 1.0, "a": 2})"#;
        check(ADD, &[add]);
        check(&format!("\n{ADD}\n{ADD}\n"), &[add, add]);
        check(&format!("Let me see.\n{ADD} Done."), &["Let me see.", add, " Done."]);
        check(r#"<tool_call>{"name":"now"}</tool_call>"#, &["now({})"]);
    }

    #[test]
    fn the_closing_tag_may_stand_in_an_argument_or_be_missing() {
        check(
            r#"<tool_call>{"name":"add","arguments":{"a":"</tool_call>é</tool_call>"}}</tool_call>"#,
            &[r#"add({"a":"</tool_call>é</tool_call>"})"#],
        );
        check(r#"<tool_call>{"name":"now","arguments":{}}"#, &["now({})"]);
    }

    #[test]
    fn what_is_no_call_is_text() {
        for text in [
            r#"<tool_call>{"name":"add","arguments":{"a":"#,
            r#"<tool_call>{"name":"add","arguments":{"a":</tool_call>"#,
            r#"<tool_call>{"name":"other","arguments":{}}</tool_call>"#,
            r#"<tool_call>{"name":"add","arguments":[1]}</tool_call>"#,
            r#"<tool_call>{"arguments":{}}</tool_call> more"#,
            "<tool_call>é</tool_call>",
            "<tool_call>",
            "<tool_call></tool_call>",
            "<tool_call>é",
        ] {
            check(text, &[text]);
        }
        let deep = format!("<tool_call>{}</tool_call>", "[".repeat(10_000));
        assert_eq!(pieces(&deep, 10_000), [deep]);
    }

    #[test]
    fn text_does_not_wait() {
        let mut parser = CallParser::new(Vec::new());
        let texts = |pieces: Vec<Piece>| {
            let text = |piece| if let Piece::Text(text) = piece { text } else { String::new() };
            pieces.into_iter().map(text).collect::<String>()
        };
        assert_eq!(texts(parser.push("Hello")), "Hello");
        assert_eq!(texts(parser.push(" a<b")), " a<b");
        assert_eq!(texts(parser.push(" <")), "");
        assert_eq!(texts(parser.push("to")), "");
        assert_eq!(texts(parser.push("p> x")), " <top> x");
    }
}
