//! The hash chain: each row's hash covers every column of the row, what its numbers stand for, and the hash before it.
//! BLAKE3: hashing is most of what a walk over millions of rows does, and not every processor helps with SHA-256.

use rusqlite::types::ValueRef;

pub(super) type Hash = [u8; 32];

/// Where the chain of one start of a node begins.
pub(super) fn genesis(node: &[u8], boot: i64) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"mayfly ledger 1").update(node).update(&boot.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Collects the values of one row in a form that two different rows never share.
#[derive(Debug, Default)]
pub(super) struct Link(Vec<u8>);

impl Link {
    /// One value. The order of values is part of the form.
    pub(super) fn value(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.0.push(0),
            ValueRef::Integer(number) => {
                self.0.push(1);
                // Small on both sides of zero.
                self.number(((number << 1) ^ (number >> 63)).cast_unsigned());
            }
            ValueRef::Real(number) => {
                self.0.push(2);
                self.0.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            ValueRef::Text(bytes) => self.bytes(3, bytes),
            ValueRef::Blob(bytes) => self.bytes(4, bytes),
        }
    }

    fn bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.0.push(tag);
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Seven bits in each byte: hashing is most of the work, so the form is short.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    /// The hash of the values, linked to `previous`. Empties the collection.
    pub(super) fn close(&mut self, previous: &Hash) -> Hash {
        let hash = Self::hash(previous, &self.0);
        self.0.clear();
        hash
    }

    /// Moves the values to the end of `bytes`, to be hashed there.
    pub(super) fn move_to(&mut self, bytes: &mut Vec<u8>) {
        bytes.append(&mut self.0);
    }

    /// The hash of collected values, linked to `previous`.
    pub(super) fn hash(previous: &Hash, values: &[u8]) -> Hash {
        *blake3::Hasher::new().update(previous).update(values).finalize().as_bytes()
    }
}

/// The hash of `values` alone.
pub(super) fn digest<'a>(values: impl IntoIterator<Item = ValueRef<'a>>) -> Hash {
    let mut link = Link::default();
    values.into_iter().for_each(|value| link.value(value));
    link.close(&[0; 32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_run_into_each_other() {
        let all = [
            digest([ValueRef::Text(b"ab"), ValueRef::Text(b"c")]),
            digest([ValueRef::Text(b"a"), ValueRef::Text(b"bc")]),
            digest([ValueRef::Text(b"abc")]),
            digest([ValueRef::Blob(b"ab"), ValueRef::Text(b"c")]),
            digest([ValueRef::Null, ValueRef::Integer(0)]),
            digest([ValueRef::Integer(0), ValueRef::Null]),
            digest([ValueRef::Integer(-1), ValueRef::Null]),
            digest([ValueRef::Integer(i64::MAX), ValueRef::Null]),
            digest([ValueRef::Integer(i64::MIN), ValueRef::Null]),
            digest([ValueRef::Integer(128)]),
            digest([ValueRef::Integer(64), ValueRef::Integer(0)]),
            digest([]),
        ];
        for (place, one) in all.iter().enumerate() {
            assert_eq!(all.iter().filter(|other| *other == one).count(), 1, "{place}");
        }
        assert_ne!(genesis(&[1; 16], 1), genesis(&[1; 16], 2));
    }
}
