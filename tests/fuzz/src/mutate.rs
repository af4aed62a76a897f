//! Changes that know nothing of a format: bits, numbers, words of the target, pieces moved, doubled, cut, or taken from
//! another input.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Bytes of an input.
pub(crate) const INPUT_BYTES_MAX: usize = 64 * 1024;

const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

/// One to eight changes of `input`. `other` is where pieces come from.
pub(crate) fn havoc(input: &[u8], other: &[u8], words: &[&[u8]], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1_usize << rng.random_range(0..4) {
        change(&mut bytes, other, words, rng);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    match rng.random_range(0..10_u8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = rng.random(),
        2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(rng.random_range(0..32)).wrapping_sub(16),
        3 => {
            let number = NUMBERS.choose(rng).copied().unwrap_or_default().to_le_bytes();
            let width = 1 << rng.random_range(0..4);
            let end = bytes.len().min(at + width);
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        4 => splice(bytes, at, piece(other, rng), rng),
        5 => {
            let own = piece(bytes, rng).to_vec();
            splice(bytes, at, &own, rng);
        }
        6 => {
            let end = bytes.len().min(at + rng.random_range(1..=64));
            bytes.drain(at..end);
        }
        7 => {
            let fill = vec![rng.random(); 1 << rng.random_range(0..10)];
            splice(bytes, at, &fill, rng);
        }
        _ => {
            if let Some(word) = words.choose(rng) {
                splice(bytes, at, word, rng);
            }
        }
    }
}

/// Put in, or put over.
fn splice(bytes: &mut Vec<u8>, at: usize, piece: &[u8], rng: &mut StdRng) {
    let end = if rng.random() { at } else { bytes.len().min(at + piece.len()) };
    bytes.splice(at..end, piece.iter().copied());
}

fn piece<'a>(bytes: &'a [u8], rng: &mut StdRng) -> &'a [u8] {
    if bytes.is_empty() {
        return bytes;
    }
    let start = rng.random_range(0..bytes.len());
    let most = 1 << rng.random_range(0..12);
    let length = rng.random_range(1..=(bytes.len() - start).min(most));
    &bytes[start..start + length]
}
