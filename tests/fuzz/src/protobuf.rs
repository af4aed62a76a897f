//! Changes of a protobuf message that leave it one: fields doubled, dropped, swapped, their numbers and texts changed, at
//! any depth, with all lengths put right. Bytes changed blindly are mostly refused before anything looks at the graph.

use rand::Rng;
use rand::rngs::StdRng;

use crate::mutate::havoc;

/// One field of a message.
#[derive(Debug, Clone)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Varint(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(Vec<u8>),
}

/// Changes the message `bytes`; None if it is not one.
pub(crate) fn mutate(bytes: &[u8], words: &[&[u8]], rng: &mut StdRng) -> Option<Vec<u8>> {
    let mut fields = read(bytes)?;
    for _ in 0..=rng.random_range(0..3_u8) {
        change(&mut fields, words, rng, 0);
    }
    Some(write(&fields))
}

fn change(fields: &mut Vec<Field>, words: &[&[u8]], rng: &mut StdRng, depth: u8) {
    if fields.is_empty() {
        return fields.push(Field { number: rng.random_range(1..30), value: Value::Varint(rng.random()) });
    }
    let at = rng.random_range(0..fields.len());
    // Deeper, more often than not: what is interesting is inside.
    if let Value::Bytes(inner) = &mut fields[at].value
        && depth < 12
        && rng.random_range(0..4) != 0
        && let Some(mut message) = read(inner)
        && !message.is_empty()
    {
        change(&mut message, words, rng, depth + 1);
        *inner = write(&message);
        return;
    }
    match rng.random_range(0..8_u8) {
        0 => fields.insert(at, fields[at].clone()),
        1 => drop(fields.remove(at)),
        2 => {
            let other = rng.random_range(0..fields.len());
            fields.swap(at, other);
        }
        3 => fields[at].number = rng.random_range(1..30),
        // A message inside itself.
        4 => {
            let own = write(fields);
            if own.len() < 16 * 1024 {
                fields[at].value = Value::Bytes(own);
            }
        }
        _ => match &mut fields[at].value {
            Value::Varint(number) => {
                *number = match rng.random_range(0..5_u8) {
                    0 => number.wrapping_add(1),
                    1 => number.wrapping_sub(1),
                    2 => 1 << rng.random_range(0..64),
                    3 => (1_u64 << rng.random_range(0..64)).wrapping_neg(),
                    _ => rng.random_range(0..32),
                }
            }
            Value::Eight(bytes) => bytes[rng.random_range(0..8)] = rng.random(),
            Value::Four(bytes) => bytes[rng.random_range(0..4)] = rng.random(),
            Value::Bytes(bytes) => {
                let word = words.get(rng.random_range(0..words.len().max(1))).copied().unwrap_or_default();
                *bytes = if rng.random() { word.to_vec() } else { havoc(bytes, word, words, rng) };
            }
        },
    }
}

fn read(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Eight(take(&mut bytes, 8)?.try_into().ok()?),
            2 => {
                let length = varint(&mut bytes)?;
                Value::Bytes(take(&mut bytes, usize::try_from(length).ok()?)?.to_vec())
            }
            5 => Value::Four(take(&mut bytes, 4)?.try_into().ok()?),
            _ => return None,
        };
        if key >> 3 == 0 {
            return None;
        }
        fields.push(Field { number: key >> 3, value });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn write(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, value } in fields {
        let mut key = |kind: u64| put(&mut out, number << 3 | kind);
        match value {
            Value::Varint(number) => {
                key(0);
                put(&mut out, *number);
            }
            Value::Eight(bytes) => {
                key(1);
                out.extend(bytes);
            }
            Value::Bytes(bytes) => {
                key(2);
                put(&mut out, bytes.len() as u64);
                out.extend(bytes);
            }
            Value::Four(bytes) => {
                key(5);
                out.extend(bytes);
            }
        }
    }
    out
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn what_is_read_is_written_again_and_changes_stay_messages() {
        let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models/loop.onnx");
        let bytes = std::fs::read(model).unwrap();
        assert_eq!(write(&read(&bytes).unwrap()), bytes);
        let mut rng = StdRng::seed_from_u64(1);
        let changed: Vec<_> = (0..100).map(|_| mutate(&bytes, &[b"Relu"], &mut rng).unwrap()).collect();
        assert!(changed.iter().all(|bytes| read(bytes).is_some()));
        assert!(changed.iter().filter(|changed| **changed != bytes).count() > 80);
    }
}
