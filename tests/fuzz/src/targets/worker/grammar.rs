//! Changes of a script that know what workers say: whole messages, their numbers, and data as long as they say it is.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::script::{Script, Step};
use super::speaker::message;
use crate::mutate::havoc;

const NUMBERS: [u64; 22] = [
    0,
    1,
    2,
    3,
    4,
    7,
    15,
    16,
    17,
    60,
    61,
    255,
    269,
    270,
    65_535,
    65_536,
    300_000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 53,
    u64::MAX,
];
const NAMES: [&str; 18] = [
    "z",
    "f16_out",
    "f32_out",
    "f64_out",
    "bf16_out",
    "u8_out",
    "i32_out",
    "i64_out",
    "bool_out",
    "less",
    "logits",
    "present.0.key",
    "present.0.value",
    "present.1.key",
    "present.1.value",
    "tokens",
    "",
    "/srv/secret",
];
const TYPES: [(&str, u64); 8] =
    [("f16", 2), ("f32", 4), ("f64", 8), ("bf16", 2), ("u8", 1), ("i32", 4), ("i64", 8), ("bool", 1)];
const TEXTS: [&str; 8] = [
    "",
    "no",
    "in /srv/secret",
    "a\u{1b}[31m\u{0}\r\nb",
    "\u{202e}\u{2028}é",
    "#/properties/a",
    "#\u{7}/srv/secret",
    "\u{fffd}\u{1f600}",
];
const ENDS: [&str; 3] = ["stop", "length", "cancelled"];
/// Data that a change makes.
const DATA_BYTES_MAX: u64 = 20_000;

/// One to four changes, mostly one; then, mostly, what follows from them, or the first word that does not fit would be the
/// last that is heard.
pub(super) fn mutate(input: &[u8], other: &[u8], words: &[&[u8]], rng: &mut StdRng) -> Vec<u8> {
    let (mut script, other) = (Script::read(input), Script::read(other));
    for _ in 0..pick(&[1, 1, 1, 2, 2, 4], rng) {
        change(&mut script, &other, words, rng);
    }
    if rng.random_range(0..3_u8) > 0 {
        mend(&mut script.steps);
    }
    script.write()
}

/// Tokens follow each other, and data is as long as it is said to be.
fn mend(steps: &mut [Step]) {
    let mut reach: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for step in steps {
        let Step::Say { json, data } = step else { continue };
        let Ok(mut said) = serde_json::from_slice::<Value>(json) else { continue };
        let number = |at: &str| said.pointer(at).and_then(Value::as_u64).unwrap_or_default();
        let end = reach.entry((number("/piece/run"), number("/piece/piece/choice"))).or_default();
        let tokens = said.pointer_mut("/piece/piece/tokens").and_then(Value::as_array_mut);
        for token in tokens.into_iter().flatten() {
            *end += 1;
            if let Some(place) = token.get_mut("text_end") {
                *place = json!(*end);
            }
        }
        if let Some(bytes) = data_bytes(&said) {
            let byte = data.last().copied().unwrap_or_default();
            data.resize(usize::try_from(bytes.min(DATA_BYTES_MAX)).unwrap_or_default(), byte);
        }
        *json = said.to_string().into_bytes();
    }
}

fn change(script: &mut Script, other: &Script, words: &[&[u8]], rng: &mut StdRng) {
    let steps = &mut script.steps;
    let (put, at) = (rng.random_range(0..=steps.len()), rng.random_range(0..steps.len().max(1)));
    match rng.random_range(0..18_u8) {
        0 => script.asked = rng.random_range(0..16),
        1 => script.manner = rng.random_range(0..17),
        2 | 3 => steps.insert(put, says(rng)),
        4 => steps.insert(put, does(rng)),
        5 if !other.steps.is_empty() => {
            let from = rng.random_range(0..other.steps.len());
            let to = (from + rng.random_range(1..=4)).min(other.steps.len());
            steps.splice(put..put, other.steps[from..to].iter().cloned());
        }
        _ if steps.is_empty() => {}
        10 | 11 => go_on(steps, rng),
        6 => drop(steps.remove(at)),
        7 => steps.truncate(at),
        8 => {
            let again = steps[at].clone();
            steps.insert(put, again);
        }
        9 if put < steps.len() => steps.swap(at, put),
        _ => steps[at].change(words, rng),
    }
}

/// A generation has some more of the tokens that it has.
fn go_on(steps: &mut Vec<Step>, rng: &mut StdRng) {
    let is_piece = |step: &Step| matches!(step, Step::Say { json, .. } if json.starts_with(b"{\"piece\""));
    let pieces: Vec<usize> = (0..steps.len()).filter(|at| is_piece(&steps[*at])).collect();
    let Some(&at) = pieces.choose(rng) else { return };
    let more = vec![steps[at].clone(); rng.random_range(1..=8)];
    steps.splice(at..at, more);
}

impl Step {
    fn change(&mut self, words: &[&[u8]], rng: &mut StdRng) {
        match self {
            Self::Say { json, data } => match rng.random_range(0..12_u8) {
                0 => *json = havoc(json, data, words, rng),
                1 => *data = havoc(data, json, words, rng),
                4 => data.fill(pick(&[0, 1, 2, b'x', 0x80, 0xff], rng)),
                2 => *self = Self::Raw(havoc(&message(json, data), json, words, rng)),
                3 => {
                    let bytes = pick(&[0, 1, 60_000, 65_536, 100_000], rng);
                    *self = Self::Fill { bytes, json: json.clone() };
                }
                _ => {
                    let Ok(mut said) = serde_json::from_slice::<Value>(json) else { return };
                    let nodes = count(&said);
                    let mut at = rng.random_range(0..nodes);
                    if let Some(node) = find(&mut said, &mut at) {
                        change_node(node, rng);
                    }
                    *json = said.to_string().into_bytes();
                }
            },
            Self::Raw(packet) => *packet = havoc(packet, &[], words, rng),
            Self::Fill { bytes, .. } => *bytes = rng.random_range(0..120_000),
            Self::Again(times) | Self::Pause(times) => *times = rng.random(),
            Self::Write { at, bytes } => {
                *at = number_32(rng);
                *bytes = havoc(bytes, &[], words, rng);
            }
            Self::Hear | Self::File | Self::Leave | Self::Quiet => *self = says(rng),
        }
    }
}

fn count(node: &Value) -> usize {
    1 + match node {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

/// The node of that number, from the top.
fn find<'a>(node: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(node);
    }
    *at -= 1;
    match node {
        Value::Array(items) => items.iter_mut().find_map(|item| find(item, at)),
        Value::Object(fields) => fields.values_mut().find_map(|field| find(field, at)),
        _ => None,
    }
}

fn change_node(node: &mut Value, rng: &mut StdRng) {
    match (&mut *node, rng.random_range(0..8_u8)) {
        (_, 0) => *node = odd(rng),
        (Value::Array(items), choice) if !items.is_empty() => {
            let item = items[rng.random_range(0..items.len())].clone();
            match choice {
                1 => drop(items.swap_remove(rng.random_range(0..items.len()))),
                2 => items.extend(std::iter::repeat_n(item, 1 << rng.random_range(0..8))),
                _ => items.push(item),
            }
        }
        (Value::Array(items), _) => items.push(odd(rng)),
        (Value::Object(fields), choice) => {
            let name = fields.keys().nth(rng.random_range(0..fields.len().max(1))).cloned().unwrap_or_default();
            match choice {
                1 => drop(fields.insert("more".to_owned(), odd(rng))),
                2 => drop(fields.remove(&name)),
                _ => drop(fields.insert(name, odd(rng))),
            }
        }
        (Value::Number(before), 1 | 2) => {
            let near = before.as_u64().unwrap_or_default();
            *node = json!(if rng.random() { near.wrapping_add(1) } else { near.wrapping_sub(1) });
        }
        (Value::Number(_), _) => *node = json!(number(rng)),
        (Value::String(_), 1..4) => *node = json!(pick(&NAMES, rng)),
        (Value::String(_), 4) => *node = json!(pick(&TYPES, rng).0),
        (Value::String(_), 5) => *node = json!("é\u{7}/srv/secret ".repeat(1 << rng.random_range(0..11))),
        (Value::String(_), _) => *node = json!(pick(&TEXTS, rng)),
        (Value::Bool(is), _) => *node = json!(!*is),
        (Value::Null, _) => *node = json!(number(rng)),
    }
}

fn odd(rng: &mut StdRng) -> Value {
    match rng.random_range(0..9_u8) {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(1.5),
        3 => json!(1e300),
        4 => json!(rng.random::<bool>()),
        5 => json!([]),
        6 => json!(pick(&ENDS, rng)),
        7 => json!(pick(&TEXTS, rng)),
        _ => json!(number(rng)),
    }
}

fn number(rng: &mut StdRng) -> u64 {
    pick(&NUMBERS, rng)
}

fn number_32(rng: &mut StdRng) -> u32 {
    u32::try_from(number(rng)).unwrap_or(u32::MAX)
}

fn pick<T: Copy + Default>(of: &[T], rng: &mut StdRng) -> T {
    of.choose(rng).copied().unwrap_or_default()
}

/// Bytes of data that a message says it has; none if it has none or says what cannot be.
fn data_bytes(said: &Value) -> Option<u64> {
    if let Some(piece) = said.pointer("/piece/piece") {
        let mut sum = piece.get("text")?.as_u64()?;
        for token in piece.get("tokens")?.as_array()? {
            sum = sum.checked_add(token.get("bytes")?.as_u64()?)?;
            for top in token.get("top")?.as_array()? {
                sum = sum.checked_add(top.get(1)?.as_u64()?)?;
            }
        }
        return Some(sum);
    }
    let outputs = said.get("outputs")?;
    if !outputs.get("inline")?.as_bool()? {
        return Some(0);
    }
    let mut sum = 0_u64;
    for output in outputs.get("outputs")?.as_array()? {
        let kind = output.get("element_type")?.as_str()?;
        let mut bytes = TYPES.iter().find(|(name, _)| *name == kind)?.1;
        for dimension in output.get("dimensions")?.as_array()? {
            bytes = bytes.checked_mul(dimension.as_u64()?)?;
        }
        sum = sum.checked_add(bytes)?;
    }
    Some(sum)
}

/// A message, as one may be.
fn says(rng: &mut StdRng) -> Step {
    let run = pick(&[1, 1, 1, 1, 1, 2, 2, 3, 0, u64::MAX], rng);
    let said = match rng.random_range(0..14_u8) {
        0 => json!("ready"),
        1 => json!({ "unusable": pick(&TEXTS, rng) }),
        2 => json!({ "taken": { "run": run } }),
        3 => json!({ "started": { "run": run } }),
        4 | 5 => {
            let outputs: Vec<Value> = (0..rng.random_range(0..4)).map(|_| output(rng)).collect();
            json!({ "outputs": {
                "run": run, "load_us": load(rng), "outputs": outputs, "inline": rng.random::<bool>(),
            } })
        }
        6 => json!({ "written": { "run": run } }),
        7 | 8 => json!({ "failed": { "run": run, "fault": fault(rng) } }),
        9 => json!({ "admitted": { "run": run } }),
        10 => json!({ "prefill": { "run": run, "cached": pick(&[0, 0, 1, 3, 4], rng) } }),
        _ => {
            let end = rng.random_range(0..8_u64);
            let tokens: Vec<Value> = (end..end + rng.random_range(0..4)).map(|end| token(end, rng)).collect();
            let finish = if rng.random() { Value::Null } else { json!(pick(&ENDS, rng)) };
            json!({ "piece": { "run": run, "piece": {
                "choice": rng.random_range(0..2), "text": tokens.len(), "tokens": tokens, "finish": finish,
            } } })
        }
    };
    let bytes = data_bytes(&said).unwrap_or_default().min(DATA_BYTES_MAX);
    let byte = pick(&[0, 1, b'x'], rng);
    Step::Say { json: said.to_string().into_bytes(), data: vec![byte; usize::try_from(bytes).unwrap_or_default()] }
}

fn load(rng: &mut StdRng) -> Value {
    if rng.random() { Value::Null } else { json!(number(rng)) }
}

fn output(rng: &mut StdRng) -> Value {
    let rank = rng.random_range(0..5);
    let dimensions: Vec<u64> =
        (0..rank).map(|_| if rng.random_range(0..8_u8) == 0 { number(rng) } else { rng.random_range(0..4) }).collect();
    json!({ "name": pick(&NAMES, rng), "element_type": pick(&TYPES, rng).0, "dimensions": dimensions })
}

fn token(end: u64, rng: &mut StdRng) -> Value {
    let tops = rng.random_range(0..4);
    let top: Vec<Value> = (0..tops).map(|_| json!([rng.random_range(0..280), 1, -0.5])).collect();
    json!({ "id": rng.random_range(0..280), "bytes": 1, "text_end": end, "logprob": -0.25, "top": top })
}

fn fault(rng: &mut StdRng) -> Value {
    let text = json!(pick(&TEXTS, rng));
    match rng.random_range(0..17_u8) {
        0 => json!("stopped"),
        1 => json!({ "full": { "limit": number_32(rng) } }),
        2 => json!("no_room"),
        3 => json!({ "never_fits": { "needs": number(rng), "budget": number(rng) } }),
        4 => json!({ "no_device": text }),
        5 => json!({ "load": text }),
        6 => json!({ "failed": text }),
        7 => json!({ "too_large": text }),
        8 => json!({ "prompt": { "invalid": text } }),
        9 => json!({ "prompt": { "raised": text } }),
        10 => json!({ "prompt": { "too_long": { "limit": number(rng) } } }),
        11 => json!({ "generation": { "keyword": { "keyword": text, "at": text, "reason": text } } }),
        12 => json!({ "generation": { "unusable": text } }),
        13 => json!({ "generation": { "vocabulary": text } }),
        14 => json!({ "generation": { "busy": { "waiting": number_32(rng), "limit": 1 } } }),
        15 => json!({ "generation": { "never_fits": { "tokens": number(rng), "limit": number(rng) } } }),
        _ => json!({ "generation": "stalled" }),
    }
}

/// Something that is no message.
fn does(rng: &mut StdRng) -> Step {
    match rng.random_range(0..10_u8) {
        0..4 => Step::Hear,
        4 => Step::Again(rng.random_range(1..=40)),
        5 => Step::File,
        6 => Step::Write { at: number_32(rng), bytes: vec![rng.random(); 1 << rng.random_range(0..13)] },
        7 => Step::Leave,
        8 => Step::Pause(rng.random_range(0..60)),
        _ => Step::Quiet,
    }
}
