//! From a rendered prompt with marks to tokens, as the model's own tokenizer makes them of the whole text, but for the
//! callers' pieces behind the marks, which are plain text to it.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use tokenizers::models::TrainerWrapper;
use tokenizers::tokenizer::normalizer::Range;
use tokenizers::{
    AddedToken, AddedVocabulary, Model, NormalizedString, Normalizer as _, NormalizerWrapper, OffsetReferential,
    OffsetType, PreTokenizedString, PreTokenizer as _, Split, Token, Tokenizer,
};

use super::shield::Marks;

/// The added tokens of a tokenizer, in two groups.
pub(super) struct Encoder {
    /// Special ones, and those that the templates write: only templates make them.
    reserved: AddedVocabulary,
    texts: Vec<String>,
    /// The others (runs of spaces, HTML tags): part of anybody's text, found in it as it is.
    plain: AddedVocabulary,
    /// Found once the text is normalized.
    plain_normalized: AddedVocabulary,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("reserved", &self.texts.len()).finish_non_exhaustive()
    }
}

impl Encoder {
    /// `templates`: their sources. `known`: tokens that templates are given as variables.
    pub(super) fn new<'a>(
        tokenizer: &Tokenizer,
        templates: impl Iterator<Item = &'a str> + Clone,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        let written = |text: &str| {
            !text.trim().is_empty()
                && (known.clone().any(|known| known == text) || templates.clone().any(|source| source.contains(text)))
        };
        let (mut reserved, mut plain, mut plain_normalized) = (Vec::new(), Vec::new(), Vec::new());
        for token in tokenizer.get_added_tokens_decoder().into_values().filter(|token| !token.content.is_empty()) {
            if token.special || written(&token.content) {
                reserved.push(token.normalized(false));
            } else if token.normalized {
                plain_normalized.push(token);
            } else {
                plain.push(token);
            }
        }
        let ids = Ids(tokenizer);
        let vocabulary = |tokens: &[AddedToken]| {
            let mut vocabulary = AddedVocabulary::new();
            vocabulary.add_tokens(tokens, &ids, tokenizer.get_normalizer());
            vocabulary
        };
        Self {
            reserved: vocabulary(&reserved),
            texts: reserved.iter().map(|token| token.content.clone()).collect(),
            plain: vocabulary(&plain),
            plain_normalized: vocabulary(&plain_normalized),
        }
    }

    /// What only templates may write.
    pub(super) fn reserved(&self) -> &[String] {
        &self.texts
    }

    /// The tokens of `prompt`. No first or last tokens are added: templates write their own.
    ///
    /// # Errors
    /// The library's; none inside if `prompt` has marks that `marks` does not know.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        prompt: &str,
        marks: &Marks,
    ) -> tokenizers::Result<Option<Vec<u32>>> {
        let mut text = String::with_capacity(prompt.len());
        let mut pieces = Vec::new();
        for (range, id) in found(&self.reserved, prompt) {
            let Some(piece) = marks.restore(&prompt[range]) else { return Ok(None) };
            let begin = text.len();
            text.push_str(&piece);
            pieces.push((begin..text.len(), id));
        }
        if text.is_empty() {
            return Ok(Some(Vec::new()));
        }
        // One string to the end: where a piece stands in the whole text matters to some tokenizers.
        let mut whole = PreTokenizedString::from(text);
        whole.split(|_, all| Ok(slices(&all, &pieces)))?;
        if !self.plain.is_empty() {
            whole.split(|_, part| Ok(slices(&part, &found(&self.plain, part.get()))))?;
        }
        if let Some(normalizer) = tokenizer.get_normalizer() {
            whole.normalize(|part| normalizer.normalize(part))?;
        }
        if !self.plain_normalized.is_empty() {
            whole.split(|_, part| Ok(slices(&part, &found(&self.plain_normalized, part.get()))))?;
        }
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut whole)?;
        }
        whole.tokenize(|part| tokenizer.get_model().tokenize(part.get()))?;
        Ok(Some(whole.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec()))
    }
}

type Piece = (std::ops::Range<usize>, Option<u32>);

/// All of `text`, cut at the tokens of `vocabulary`.
fn found(vocabulary: &AddedVocabulary, text: &str) -> Vec<Piece> {
    let split = vocabulary.extract_and_normalize(None::<&NormalizerWrapper>, text);
    split
        .get_splits(OffsetReferential::Original, OffsetType::Byte)
        .into_iter()
        .map(|(_, (begin, end), tokens)| (begin..end, tokens.as_ref().and_then(|t| t.first()).map(|t| t.id)))
        .collect()
}

/// `text` cut into `pieces`, which cover it.
fn slices(text: &NormalizedString, pieces: &[Piece]) -> Vec<Split> {
    let slice = |(range, id): &Piece| {
        let part = text.slice(Range::Normalized(range.clone()))?;
        let tokens = id.map(|id| vec![Token::new(id, part.get().to_owned(), (0, part.len()))]);
        Some(Split::from((part, tokens)))
    };
    pieces.iter().filter_map(slice).collect()
}

/// The ids of a tokenizer's tokens, added ones included, for vocabularies that are parts of its own.
struct Ids<'a>(&'a Tokenizer);

impl Model for Ids<'_> {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, _: &str) -> tokenizers::Result<Vec<Token>> {
        Err("only ids are known here".into())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        HashMap::new()
    }

    fn get_vocab_size(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("only ids are known here".into())
    }

    fn get_trainer(&self) -> TrainerWrapper {
        tokenizers::models::bpe::BpeTrainer::default().into()
    }
}
