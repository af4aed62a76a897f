//! What generation needs of a package's tokenizer: its tokens' bytes, and the grammar environment over them. Each made
//! once, on first use.

use std::sync::{Arc, OnceLock};

use super::OptionError;
use super::constraint::Grammar;
use super::text::TokenTable;
use crate::{Package, TokenizerError};

/// Beside the tokenizer in a [`Package`]. Holds the outcome of each one attempt.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    table: OnceLock<Result<Arc<TokenTable>, String>>,
    grammar: OnceLock<Result<Grammar, String>>,
}

impl Package {
    /// The bytes of every token. Blocking on first use: loads the tokenizer.
    ///
    /// # Errors
    /// [`TokenizerError::None`] if the package has no tokenizer or no decoder, [`TokenizerError::Failed`] if it has one
    /// that cannot give its text piece by piece.
    pub(crate) fn token_table(&self) -> Result<&Arc<TokenTable>, TokenizerError> {
        let decoder = self.info().decoder.as_ref().ok_or(TokenizerError::None)?;
        let tokenizer = self.tokenizer()?;
        let table = self.vocabulary.table.get_or_init(|| TokenTable::new(tokenizer, decoder.vocab).map(Arc::new));
        table.as_ref().map_err(|detail| TokenizerError::Failed { detail: detail.clone() })
    }

    /// The environment for constraints. Blocking on first use: a second or so for a large vocabulary.
    ///
    /// # Errors
    /// [`OptionError::Vocabulary`].
    pub(crate) fn grammar(&self) -> Result<&Grammar, OptionError> {
        let table = self.token_table().map_err(|error| OptionError::Vocabulary(error.to_string()))?;
        let eos = self.info().decoder.as_ref().map_or(&[][..], |decoder| &decoder.eos);
        let grammar = self.vocabulary.grammar.get_or_init(|| Grammar::new(table, eos));
        grammar.as_ref().map_err(|detail| OptionError::Vocabulary(detail.clone()))
    }
}
