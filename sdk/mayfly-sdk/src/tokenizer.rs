//! Text to token ids and back, done by the host: a handler carries no vocabulary.

use crate::Error;
use crate::bindings::mayfly::inference::tokenizer as wit;

/// The tokenizer of a model; see [`Model::tokenizer`](crate::Model::tokenizer).
#[derive(Debug, Clone, Copy)]
pub struct Tokenizer<'model> {
    alias: &'model str,
}

/// One encoded text, unpadded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment ids, as long as `ids`.
    pub token_types: Vec<u32>,
    /// Whether the text was cut.
    pub truncated: bool,
}

impl<'model> Tokenizer<'model> {
    pub(crate) fn new(alias: &'model str) -> Self {
        Self { alias }
    }

    /// Encodes each text with the model's own first and last tokens, cut to `max_tokens` or, if that is none, to the
    /// package's own limit.
    ///
    /// # Errors
    /// 400 for more text than a call may encode, 500 if the model has no tokenizer.
    pub fn encode(&self, texts: &[String], max_tokens: Option<u32>) -> Result<Vec<Encoding>, Error> {
        self.encode_with(texts, true, max_tokens)
    }

    /// Like [`Tokenizer::encode`], without the model's own first and last tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_plain(&self, texts: &[String], max_tokens: Option<u32>) -> Result<Vec<Encoding>, Error> {
        self.encode_with(texts, false, max_tokens)
    }

    fn encode_with(
        &self,
        texts: &[String],
        special_tokens: bool,
        max_tokens: Option<u32>,
    ) -> Result<Vec<Encoding>, Error> {
        let encodings = wit::encode(self.alias, texts, wit::EncodeOptions { special_tokens, max_tokens })
            .map_err(|error| Error::of_model(self.alias, &error))?;
        Ok(encodings
            .into_iter()
            .map(|e| Encoding { ids: e.ids, token_types: e.token_types, truncated: e.truncated })
            .collect())
    }

    /// The text of `ids`.
    ///
    /// # Errors
    /// 400 for an id outside the vocabulary, 500 if the model has no tokenizer.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        wit::decode(self.alias, ids, skip_special_tokens).map_err(|error| Error::of_model(self.alias, &error))
    }

    /// How many tokens each text is, special ones included.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn count(&self, texts: &[String]) -> Result<Vec<u32>, Error> {
        wit::count(self.alias, texts).map_err(|error| Error::of_model(self.alias, &error))
    }
}
