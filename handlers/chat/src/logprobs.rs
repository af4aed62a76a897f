//! Log probabilities in the two forms that OpenAI has. They are of the distribution after penalties and bias, at
//! temperature 1, before truncation.

use mayfly_sdk::generation::Token;
use serde::Serialize;
use serde_json::{Map, Value};

/// The chat form.
#[derive(Debug, Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: (),
}

#[derive(Debug, Serialize)]
struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<ChatTop>,
}

#[derive(Debug, Serialize)]
struct ChatTop {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    pub(crate) fn new(tokens: Vec<Token>) -> Self {
        let token = |token: Token| {
            let top = token.top.into_iter().map(|top| ChatTop {
                token: shown(&top.bytes),
                logprob: finite(top.logprob),
                bytes: top.bytes,
            });
            let top_logprobs = top.collect();
            ChatToken { token: shown(&token.bytes), logprob: finite(token.logprob), bytes: token.bytes, top_logprobs }
        };
        Self { content: tokens.into_iter().map(token).collect(), refusal: () }
    }
}

/// The completions form: a list for each property.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
    text_offset: Vec<usize>,
    /// Characters of the text before the next token.
    #[serde(skip)]
    offset: usize,
}

impl Logprobs {
    pub(crate) fn extend(&mut self, tokens: Vec<Token>) {
        for token in tokens {
            self.text_offset.push(self.offset);
            // Bytes that go on a character belong to the character before.
            self.offset += token.bytes.iter().filter(|&byte| byte & 0xC0 != 0x80).count();
            self.tokens.push(shown(&token.bytes));
            self.token_logprobs.push(finite(token.logprob));
            let top = token.top.iter().map(|top| (shown(&top.bytes), finite(top.logprob).into()));
            self.top_logprobs.push(top.collect());
        }
    }

    /// What was put in since the last time; the text goes on.
    pub(crate) fn take(&mut self) -> Self {
        let offset = self.offset;
        std::mem::replace(self, Self { offset, ..Self::default() })
    }
}

/// A token that is a part of a character cannot be shown as it is; its bytes say what it is.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// JSON has no infinities; this is what OpenAI writes for "never".
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use mayfly_sdk::generation::TopToken;

    use super::*;

    fn tokens() -> Vec<Token> {
        let top = |bytes: &[u8], logprob| TopToken { id: 0, bytes: bytes.to_vec(), logprob };
        let token = |bytes: &[u8], logprob, top| Token { id: 0, bytes: bytes.to_vec(), logprob, top };
        vec![
            token(b"a", -0.5, vec![top(b"a", -0.5), top(b"b", f32::NEG_INFINITY)]),
            token(&[0xC3], -1.0, Vec::new()),
            token(&[0xBC], -2.0, Vec::new()),
            token(b"c", f32::NAN, Vec::new()),
        ]
    }

    #[test]
    fn chat() {
        assert_eq!(
            serde_json::to_string(&ChatLogprobs::new(tokens()[..2].to_vec())).unwrap(),
            r#"{"content":[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[{"token":"a","logprob":-0.5,"bytes":[97]},{"token":"b","logprob":-9999.0,"bytes":[98]}]},{"token":"�","logprob":-1.0,"bytes":[195],"top_logprobs":[]}],"refusal":null}"#
        );
    }

    #[test]
    fn completions() {
        let mut all = Logprobs::default();
        all.extend(tokens());
        assert_eq!(
            serde_json::to_string(&all.take()).unwrap(),
            r#"{"tokens":["a","�","�","c"],"token_logprobs":[-0.5,-1.0,-2.0,-9999.0],"top_logprobs":[{"a":-0.5,"b":-9999.0},{},{},{}],"text_offset":[0,1,2,2]}"#
        );
        all.extend(tokens()[..1].to_vec());
        assert_eq!((all.take().text_offset, all.tokens.len()), (vec![3], 0));
    }
}
