//! Hugging Face tokenizers on the host's side, so that a handler carries none.
//!
//! Loaded once per package, on first use. Padding and truncation that a `tokenizer.json` asks for are switched off: what
//! comes out depends on the text and the options alone.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{PostProcessor as _, Tokenizer};

use crate::{Package, TokenizerError};

/// Texts of one call.
const TEXTS_MAX: usize = 1024;
/// Bytes of all texts of one call.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// Ids of one call.
const IDS_MAX: usize = 1 << 20;

/// How to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the model's own first and last tokens.
    pub special_tokens: bool,
    /// Cut each text to this many tokens; none takes the package's own limit.
    pub max_tokens: Option<u32>,
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

/// The outcome of the one attempt to load a package's tokenizer.
pub(crate) struct Loaded(Result<Tokenizer, String>);

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_ok() { "Loaded" } else { "NotLoaded" })
    }
}

impl Package {
    /// Encodes each text. Blocking and CPU-bound: milliseconds per 100 KB.
    ///
    /// # Errors
    /// [`TokenizerError`].
    pub fn encode(&self, texts: &[String], options: EncodeOptions) -> Result<Vec<Encoding>, TokenizerError> {
        let tokenizer = self.tokenizer()?;
        check_texts(texts)?;
        let most = options.max_tokens.or(self.info().max_tokens).map_or(usize::MAX, |most| most as usize);
        let added = match tokenizer.get_post_processor() {
            Some(processor) if options.special_tokens => processor.added_tokens(false),
            _ => 0,
        };
        if most == 0 || most < added {
            return Err(TokenizerError::Invalid(format!(
                "max_tokens is {most}; it must be at least {} (the model's own tokens take {added})",
                added.max(1)
            )));
        }
        texts
            .iter()
            .map(|text| {
                let mut encoding = guarded(|| tokenizer.encode_fast(text.as_str(), false))?;
                // The cut comes before the special tokens, so that they stay.
                let truncated = encoding.len() > most - added;
                if truncated {
                    encoding.truncate(most - added, 0, TruncationDirection::Right);
                }
                let encoding = guarded(|| tokenizer.post_process(encoding, None, options.special_tokens))?;
                Ok(Encoding {
                    ids: encoding.get_ids().to_vec(),
                    token_types: encoding.get_type_ids().to_vec(),
                    truncated,
                })
            })
            .collect()
    }

    /// Text of token ids.
    ///
    /// # Errors
    /// [`TokenizerError`], also for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
        let tokenizer = self.tokenizer()?;
        if ids.len() > IDS_MAX {
            return Err(TokenizerError::Invalid(format!("{} ids; at most {IDS_MAX} are taken in one call", ids.len())));
        }
        if let Some(id) = ids.iter().find(|id| tokenizer.id_to_token(**id).is_none()) {
            return Err(TokenizerError::Invalid(format!("the id {id} is not in the vocabulary")));
        }
        guarded(|| tokenizer.decode(ids, skip_special_tokens))
    }

    /// Tokens of each text, special ones included, never cut.
    ///
    /// # Errors
    /// [`TokenizerError`].
    pub fn count(&self, texts: &[String]) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = self.tokenizer()?;
        check_texts(texts)?;
        texts
            .iter()
            .map(|text| {
                let encoding = guarded(|| tokenizer.encode_fast(text.as_str(), true))?;
                Ok(u32::try_from(encoding.len()).unwrap_or(u32::MAX))
            })
            .collect()
    }

    /// Says why the package's tokenizer cannot be loaded, if it cannot. A package without one is fine.
    pub(crate) fn check_tokenizer(&self) -> Result<(), String> {
        match self.tokenizer() {
            Ok(_) | Err(TokenizerError::None) => Ok(()),
            Err(TokenizerError::Failed { detail }) => Err(format!("`tokenizer.json` cannot be loaded: {detail}")),
            Err(other) => Err(other.to_string()),
        }
    }

    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer, TokenizerError> {
        if !self.info().has_tokenizer {
            return Err(TokenizerError::None);
        }
        let Loaded(outcome) = self.tokenizer.get_or_init(|| Loaded(self.load_tokenizer()));
        outcome.as_ref().map_err(|detail| TokenizerError::Failed { detail: detail.clone() })
    }

    fn load_tokenizer(&self) -> Result<Tokenizer, String> {
        let bytes = std::fs::read(self.file_path("tokenizer.json")).map_err(|error| error.to_string())?;
        // The library's own checks are many, but it was not written for hostile files.
        let loaded = catch_unwind(AssertUnwindSafe(|| Tokenizer::from_bytes(bytes)));
        let mut tokenizer = loaded
            .map_err(|_| "the file makes the tokenizer library panic".to_owned())?
            .map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        Ok(tokenizer)
    }
}

pub(crate) fn check_texts(texts: &[impl AsRef<str>]) -> Result<(), TokenizerError> {
    if texts.len() > TEXTS_MAX {
        return Err(TokenizerError::Invalid(format!(
            "{} texts; at most {TEXTS_MAX} are taken in one call",
            texts.len()
        )));
    }
    let bytes = texts.iter().map(|text| text.as_ref().len()).fold(0, usize::saturating_add);
    if bytes > TEXT_BYTES_MAX {
        return Err(TokenizerError::Invalid(format!(
            "{bytes} bytes of text; at most {TEXT_BYTES_MAX} are taken in one call"
        )));
    }
    Ok(())
}

pub(crate) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(TokenizerError::Failed { detail: error.to_string() }),
        Err(_) => Err(TokenizerError::Failed { detail: "the tokenizer panicked".to_owned() }),
    }
}
