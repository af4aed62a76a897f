//! What a caller may ask: OpenAI's request body, read with bounds so that no body can take more memory than it has bytes.

use std::fmt;

use mayfly_sdk::Error;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Inputs in one request, as at OpenAI.
const INPUTS_MAX: usize = 2048;
/// Token ids in one input: far above any encoder's context, so the model's own limit is what callers meet.
const IDS_MAX: usize = 1 << 17;

/// What is to be embedded; a request holds one shape or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inputs {
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
}

impl Inputs {
    fn lengths(&self) -> Vec<usize> {
        match self {
            Self::Texts(texts) => texts.iter().map(String::len).collect(),
            Self::Ids(lists) => lists.iter().map(Vec::len).collect(),
        }
    }
}

/// How the vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Float,
    Base64,
}

/// A checked request: between one and [`INPUTS_MAX`] inputs, none of them empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) inputs: Inputs,
    pub(crate) format: Format,
    pub(crate) dimensions: Option<usize>,
    pub(crate) model: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    input: Option<Read>,
    model: Option<String>,
    encoding_format: Option<String>,
    dimensions: Option<u64>,
    // Accepted as OpenAI does; nothing is done with it.
    #[serde(rename = "user")]
    _user: Option<String>,
}

impl Wanted {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        let body: Body = serde_json::from_slice(body)?;
        let inputs = match body.input {
            Some(Read(Ok(inputs))) => inputs,
            Some(Read(Err(message))) => return Err(Error::invalid(message).with_param("input")),
            None => return Err(Error::invalid("`input` is missing: a string, or a list of them").with_param("input")),
        };
        let lengths = inputs.lengths();
        if lengths.is_empty() {
            return Err(Error::invalid("`input` is an empty list; give at least one text").with_param("input"));
        }
        if let Some(at) = lengths.iter().position(|&length| length == 0) {
            return Err(Error::invalid(format!("input[{at}] is empty")).with_param("input"));
        }
        let format = match body.encoding_format.as_deref() {
            None | Some("float") => Format::Float,
            Some("base64") => Format::Base64,
            Some(_) => {
                let message = "`encoding_format` is neither `float` nor `base64`";
                return Err(Error::invalid(message).with_param("encoding_format"));
            }
        };
        let dimensions = match body.dimensions {
            None => None,
            Some(0) => return Err(Error::invalid("`dimensions` is 0; ask for at least 1").with_param("dimensions")),
            Some(n) => Some(usize::try_from(n).unwrap_or(usize::MAX)),
        };
        Ok(Self { inputs, format, dimensions, model: body.model })
    }
}

/// The four shapes of `input`. A breach of a bound is kept as text, so that the caller is told which field it was.
struct Read(Result<Inputs, String>);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadVisitor)
    }
}

struct ReadVisitor;

impl<'de> Visitor<'de> for ReadVisitor {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids or a list of lists of token ids")
    }

    fn visit_str<E>(self, text: &str) -> Result<Read, E> {
        Ok(Read(Ok(Inputs::Texts(vec![text.to_owned()]))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Read, A::Error> {
        let mut all = Lists::default();
        while let Some(item) = items.next_element::<Item>()? {
            if let Err(message) = all.push(item) {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Read(Err(message)));
            }
        }
        Ok(Read(Ok(all.into_inputs())))
    }
}

/// What a list has held so far; only one of the three may fill.
#[derive(Default)]
struct Lists {
    texts: Vec<String>,
    ids: Vec<u32>,
    lists: Vec<Vec<u32>>,
}

impl Lists {
    fn push(&mut self, item: Item) -> Result<(), String> {
        match item {
            Item::Text(text) if self.ids.is_empty() && self.lists.is_empty() => self.texts.push(text),
            Item::Id(id) if self.texts.is_empty() && self.lists.is_empty() => self.ids.push(id),
            Item::Ids(ids) if self.texts.is_empty() && self.ids.is_empty() => self.lists.push(ids),
            Item::Breach(message) => return Err(message),
            _ => return Err("`input` mixes texts, token ids and lists of them; use one shape".to_owned()),
        }
        if self.texts.len().max(self.lists.len()) > INPUTS_MAX {
            return Err(format!("`input` has more than {INPUTS_MAX} elements; send them in several requests"));
        }
        if self.ids.len() > IDS_MAX { Err(too_many_ids()) } else { Ok(()) }
    }

    fn into_inputs(self) -> Inputs {
        if !self.ids.is_empty() {
            Inputs::Ids(vec![self.ids])
        } else if !self.lists.is_empty() {
            Inputs::Ids(self.lists)
        } else {
            Inputs::Texts(self.texts)
        }
    }
}

/// One element of a list.
enum Item {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
    Breach(String),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }

    fn visit_str<E>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, id: u64) -> Result<Item, E> {
        Ok(u32::try_from(id).map_or_else(|_| Item::Breach(format!("{id} is no token id")), Item::Id))
    }

    fn visit_i64<E>(self, id: i64) -> Result<Item, E> {
        Ok(Item::Breach(format!("{id} is no token id")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = items.next_element::<u32>()? {
            if ids.len() == IDS_MAX {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Item::Breach(too_many_ids()));
            }
            ids.push(id);
        }
        Ok(Item::Ids(ids))
    }
}

fn too_many_ids() -> String {
    format!("a list of token ids is longer than {IDS_MAX}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn inputs(json: &str) -> Inputs {
        Wanted::parse(json.as_bytes()).unwrap().inputs
    }

    fn refused(json: &str, param: Option<&str>, part: &str) {
        let error = Wanted::parse(json.as_bytes()).unwrap_err();
        assert_eq!((error.status(), error.param()), (400, param), "{json}");
        assert!(error.message().contains(part), "{json}: {error}");
    }

    #[test]
    fn all_four_shapes() {
        let texts = |texts: &[&str]| Inputs::Texts(texts.iter().map(|&text| text.to_owned()).collect());
        assert_eq!(inputs(r#"{"input":"a"}"#), texts(&["a"]));
        assert_eq!(inputs(r#"{"input":["a","b"]}"#), texts(&["a", "b"]));
        assert_eq!(inputs(r#"{"input":[1,2]}"#), Inputs::Ids(vec![vec![1, 2]]));
        assert_eq!(inputs(r#"{"input":[[1],[2,3]]}"#), Inputs::Ids(vec![vec![1], vec![2, 3]]));
    }

    #[test]
    fn options() {
        let wanted = Wanted::parse(
            br#"{"input":"a","model":"m","encoding_format":"base64","dimensions":8,"user":"u","other":1}"#,
        )
        .unwrap();
        assert_eq!((wanted.format, wanted.dimensions, wanted.model.as_deref()), (Format::Base64, Some(8), Some("m")));
    }

    #[test]
    fn bad_bodies_say_what_is_wrong() {
        refused("", None, "JSON");
        refused("[]", None, "JSON");
        refused("{}", Some("input"), "missing");
        refused(r#"{"input":null}"#, Some("input"), "missing");
        refused(r#"{"input":[]}"#, Some("input"), "empty list");
        refused(r#"{"input":""}"#, Some("input"), "input[0] is empty");
        refused(r#"{"input":["a",""]}"#, Some("input"), "input[1] is empty");
        refused(r#"{"input":[[1],[]]}"#, Some("input"), "input[1] is empty");
        refused(r#"{"input":[1,"a"]}"#, Some("input"), "mixes");
        refused(r#"{"input":["a",1]}"#, Some("input"), "mixes");
        refused(r#"{"input":[-1]}"#, Some("input"), "no token id");
        refused(r#"{"input":[4294967296]}"#, Some("input"), "no token id");
        refused(r#"{"input":5}"#, None, "JSON");
        refused(r#"{"input":[1.5]}"#, None, "JSON");
        refused(r#"{"input":[[[1]]]}"#, None, "JSON");
        refused(r#"{"input":"a","dimensions":0}"#, Some("dimensions"), "at least 1");
        refused(r#"{"input":"a","dimensions":-1}"#, None, "JSON");
        refused(r#"{"input":"a","encoding_format":"hex"}"#, Some("encoding_format"), "base64");
    }

    #[test]
    fn bounds_hold() {
        let many = format!(r#"{{"input":[{}]}}"#, vec![r#""a""#; INPUTS_MAX + 1].join(","));
        refused(&many, Some("input"), "2048");
        let long = format!(r#"{{"input":[{}]}}"#, vec!["1"; IDS_MAX + 1].join(","));
        refused(&long, Some("input"), "131072");
        let long = format!(r#"{{"input":[[{}],[1]]}}"#, vec!["1"; IDS_MAX + 1].join(","));
        refused(&long, Some("input"), "131072");
    }
}
