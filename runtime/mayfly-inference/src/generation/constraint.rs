//! Constraints: which tokens may come next so that the text stays a JSON value of a schema, a match of a regular
//! expression, one of some choices or a sentence of a grammar.
//!
//! [`Grammar`] is one model's environment (a trie of its tokens), [`Matcher`] one sequence's state, [`Mask`] the tokens
//! allowed next. `llguidance` does the work; this module bounds it. Everything in a [`Constraint`] is a caller's, so
//! sizes are checked before anything is parsed, [`schema`] refuses what cannot be enforced, and a constraint is compiled
//! on a thread of its own with a stack for the deepest one that the sizes admit. What a step may cost is bounded too,
//! as other sequences wait for it.

mod compile;
mod matcher;
mod schema;
#[cfg(test)]
mod tests;
mod trie;

use std::fmt;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::InferenceCapabilities;
pub(crate) use matcher::{Mask, Matcher};
use serde::{Deserialize, Serialize};

use super::OptionError;
use super::text::TokenTable;

/// Bytes of a schema, an expression, a grammar, or of all choices.
const CONSTRAINT_BYTES_MAX: usize = 64 << 10;
/// Choices of one constraint.
const CHOICES_MAX: usize = 1024;

/// Work to build the automaton of a constraint: milliseconds times 50,000.
const COMPILE_FUEL: u64 = 1_000_000;
/// Symbols in the productions of a constraint.
const GRAMMAR_SYMBOLS_MAX: usize = 200_000;
/// Work of the automaton for one mask: milliseconds times 14,000. Other sequences wait for it.
const STEP_FUEL: u64 = 100_000;
/// Parser items for one mask: milliseconds times 20,000.
const STEP_ITEMS_MAX: usize = 50_000;
/// Parser items for one token.
const TOKEN_ITEMS_MAX: usize = 2_000;
/// States of a sequence's automaton, 1 to 2 KiB each.
const STATES_MAX: usize = 32_000;

/// What generated text must look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that satisfies this JSON Schema, strictly: a keyword that cannot be enforced is refused.
    JsonSchema(String),
    /// Text that this regular expression matches as a whole (the syntax of Rust's `regex`, no look-around).
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A sentence of this grammar in `llguidance`'s dialect of Lark.
    Grammar(String),
}

impl Constraint {
    /// Its kind, as error texts name it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::JsonObject => "JSON object",
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Choice(_) => "list of choices",
            Self::Grammar(_) => "grammar",
        }
    }
}

/// The environment in which a model's constraints are compiled.
pub(crate) struct Grammar {
    factory: ParserFactory,
}

impl Grammar {
    /// The environment of a vocabulary. `eos` are the tokens that end a text.
    ///
    /// # Errors
    /// A text: the vocabulary cannot be made a trie.
    pub(crate) fn new(table: &TokenTable, eos: &[u32]) -> Result<Self, String> {
        let environment = trie::environment(table, eos)?;
        let slices = llguidance::earley::SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_items_in_row: TOKEN_ITEMS_MAX,
            initial_lexer_fuel: COMPILE_FUEL,
            step_lexer_fuel: STEP_FUEL,
            step_max_items: STEP_ITEMS_MAX,
            max_lexer_states: STATES_MAX,
            max_grammar_size: GRAMMAR_SYMBOLS_MAX,
            // It can take seconds, and steps are bounded without it.
            precompute_large_lexemes: false,
            // The parser's state is nobody's business.
            verbose_errors: false,
        };
        Ok(Self { factory })
    }

    /// Compiles `constraint` and its first mask. Blocking and CPU-bound: milliseconds for an ordinary schema, at most
    /// some hundred for what the limits admit.
    ///
    /// # Errors
    /// [`OptionError`]: too large, unsupported, or nothing satisfies it.
    pub(crate) fn matcher(&self, constraint: &Constraint) -> Result<Matcher, OptionError> {
        compile::matcher(&self.factory, constraint)
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}
