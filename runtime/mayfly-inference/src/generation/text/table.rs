//! The bytes of every token of a vocabulary.
//!
//! Two kinds of decoders are known: byte-level BPE (each character of a token stands for a byte) and metaspace (`▁` is a
//! space, `<0x0A>` a byte). Decoder models use no others; another one is refused by name.

use std::fmt;

use serde_json::Value;
use tokenizers::Tokenizer;

/// The bytes of every token, and which tokens are special.
pub(crate) struct TokenTable {
    /// All bytes, one token behind the other; token `i` ends at `ends[i]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    special: Vec<bool>,
}

/// How a token's name becomes bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decoder {
    ByteLevel,
    Pieces { replaced: Vec<(String, String)>, byte_tokens: bool },
}

impl TokenTable {
    /// The table of a tokenizer. `vocab` is how many logits the model gives; ids the tokenizer does not know are empty.
    ///
    /// # Errors
    /// A text for the log: a decoder that is not known, or a vocabulary that is far too large.
    pub(crate) fn new(tokenizer: &Tokenizer, vocab: u32) -> Result<Self, String> {
        let decoder = Decoder::of(tokenizer)?;
        let added = tokenizer.get_added_vocabulary();
        let mut table = Self { bytes: Vec::new(), ends: Vec::new(), special: Vec::new() };
        for token in 0..vocab {
            let name = tokenizer.id_to_token(token).unwrap_or_default();
            let special = added.is_special_token(&name);
            if special {
                table.bytes.extend_from_slice(name.as_bytes());
            } else {
                decoder.append(&name, &mut table.bytes);
            }
            let end = u32::try_from(table.bytes.len()).map_err(|_| "the vocabulary has more than 4 GiB of text")?;
            table.ends.push(end);
            table.special.push(special);
        }
        Ok(table)
    }

    /// A table of these tokens, none of them special.
    #[cfg(test)]
    pub(crate) fn of(tokens: &[&[u8]]) -> Self {
        let mut table = Self { bytes: Vec::new(), ends: Vec::new(), special: vec![false; tokens.len()] };
        for token in tokens {
            table.bytes.extend_from_slice(token);
            table.ends.push(u32::try_from(table.bytes.len()).expect("tests are small"));
        }
        table
    }

    /// Number of ids.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What a token adds to the text: its bytes, nothing for special tokens and unknown ids.
    pub(crate) fn text(&self, token: u32) -> &[u8] {
        if self.is_special(token) { &[] } else { self.name(token) }
    }

    /// The bytes of a token; of a special one, its name.
    pub(crate) fn name(&self, token: u32) -> &[u8] {
        let index = token as usize;
        let Some(end) = self.ends.get(index) else { return &[] };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..*end as usize]
    }

    /// Whether it is special: a mark for the model, no text.
    pub(crate) fn is_special(&self, token: u32) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }
}

impl fmt::Debug for TokenTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenTable").field("tokens", &self.len()).finish_non_exhaustive()
    }
}

impl Decoder {
    fn of(tokenizer: &Tokenizer) -> Result<Self, String> {
        let Some(decoder) = tokenizer.get_decoder() else {
            return Err("the tokenizer has no decoder".to_owned());
        };
        // Its fields are private; its JSON form is public.
        let decoder = serde_json::to_value(decoder).map_err(|error| error.to_string())?;
        let mut steps = Vec::new();
        flatten(&decoder, &mut steps);
        let kind = |step: &Value| step["type"].as_str().unwrap_or("without a type").to_owned();
        if steps.iter().any(|step| kind(step) == "ByteLevel") {
            return Ok(Self::ByteLevel);
        }
        let (mut replaced, mut byte_tokens) = (Vec::new(), false);
        for step in steps {
            match kind(step).as_str() {
                "Metaspace" => {
                    let mark = step["replacement"].as_str().unwrap_or("▁");
                    replaced.push((mark.to_owned(), " ".to_owned()));
                }
                "Replace" => match (step["pattern"]["String"].as_str(), step["content"].as_str()) {
                    (Some(pattern), Some(content)) if !pattern.is_empty() => {
                        replaced.push((pattern.to_owned(), content.to_owned()));
                    }
                    _ => return Err("the tokenizer's decoder replaces a regular expression".to_owned()),
                },
                "ByteFallback" => byte_tokens = true,
                // Both shape only the beginning of a text, and ours is a continuation.
                "Fuse" | "Strip" => {}
                other => return Err(format!("the tokenizer's decoder `{other}` is not known")),
            }
        }
        Ok(Self::Pieces { replaced, byte_tokens })
    }

    fn append(&self, name: &str, into: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => {
                let start = into.len();
                for character in name.chars() {
                    match byte_of(character) {
                        Some(byte) => into.push(byte),
                        // Added tokens can have plain text; then all of the token is.
                        None => {
                            into.truncate(start);
                            into.extend_from_slice(name.as_bytes());
                            return;
                        }
                    }
                }
            }
            Self::Pieces { replaced, byte_tokens } => {
                if *byte_tokens && let Some(byte) = byte_token(name) {
                    into.push(byte);
                    return;
                }
                let text = replaced.iter().fold(name.to_owned(), |text, (from, to)| text.replace(from, to));
                into.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn flatten<'a>(decoder: &'a Value, into: &mut Vec<&'a Value>) {
    match decoder["decoders"].as_array() {
        Some(inner) => inner.iter().for_each(|decoder| flatten(decoder, into)),
        None => into.push(decoder),
    }
}

/// `<0x0A>`
fn byte_token(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The byte that a character of a byte-level token stands for. Printable bytes of Latin-1 are themselves; the others,
/// in order, are the characters from U+0100 on.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let moved = |first: u8, from: u32| u8::try_from(code - from).ok().map(|offset| first + offset);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => moved(0, 0x100),
        0x121..=0x142 => moved(0x7f, 0x121),
        0x143 => Some(0xad),
        _ => None,
    }
}
