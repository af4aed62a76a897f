//! The trie of a vocabulary, over which masks are computed.

use std::sync::Arc;

use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};

use super::TokenTable;

/// Tokens with more bytes are never allowed: the trie holds no deeper ones, and no text needs them.
const TOKEN_BYTES_MAX: usize = 1000;
/// Tokens of a vocabulary.
const TOKENS_MAX: usize = 1 << 20;

/// The environment without the tokenizer itself: masks then allow every way to write a text in tokens, and the model
/// takes the one it knows.
pub(super) fn environment(table: &TokenTable, eos: &[u32]) -> Result<TokEnv, String> {
    if table.len() == 0 || table.len() > TOKENS_MAX {
        return Err(format!("it has {} tokens; constraints need 1 to {TOKENS_MAX}", table.len()));
    }
    let vocab_size = u32::try_from(table.len()).expect("checked above");
    let mut words = Vec::with_capacity(table.len());
    for token in 0..vocab_size {
        let name = table.name(token);
        let mut word = Vec::new();
        if name.len() <= TOKEN_BYTES_MAX && !name.is_empty() {
            if table.is_special(token) {
                word.push(TokTrie::SPECIAL_TOKEN_MARKER);
            }
            word.extend_from_slice(name);
        }
        words.push(word);
    }
    let eos: Vec<u32> = eos.iter().copied().filter(|token| *token < vocab_size).collect();
    let info = TokRxInfo::new(vocab_size, eos.first().copied().unwrap_or(INVALID_TOKEN));
    // The library asserts what it expects of a vocabulary.
    let trie = catch_unwind(|| {
        let trie = TokTrie::from(&info, &words);
        Ok(if eos.len() > 1 { trie.with_eos_tokens(&eos) } else { trie })
    });
    let trie = trie.map_err(|error| {
        tracing::warn!(%error, "a vocabulary cannot be made a trie");
        "its vocabulary is not one that constraints can work with".to_owned()
    })?;
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}
