//! Protobuf's wire form, field by field, for what changes a part of a message and copies the rest byte for byte.

use std::io;

use prost::encoding::{decode_varint, encode_varint};

/// One field as it stands on the wire.
pub(super) struct Field<'a> {
    pub(super) number: u32,
    /// Tag and value.
    pub(super) whole: &'a [u8],
    /// The value of a field with a length; none for a number.
    pub(super) payload: Option<&'a [u8]>,
    /// The value of a number of variable length, else 0.
    pub(super) value: u64,
}

/// The next field of a message; none at its end.
pub(super) fn next<'a>(bytes: &mut &'a [u8]) -> io::Result<Option<Field<'a>>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let start = *bytes;
    let tag = decode_varint(bytes).map_err(io::Error::other)?;
    let number = u32::try_from(tag >> 3).map_err(io::Error::other)?;
    let (mut payload, mut value) = (None, 0);
    match tag & 7 {
        0 => value = decode_varint(bytes).map_err(io::Error::other)?,
        1 => drop(take(bytes, 8)?),
        5 => drop(take(bytes, 4)?),
        2 => {
            let length = decode_varint(bytes).map_err(io::Error::other)?;
            payload = Some(take(bytes, length)?);
        }
        _ => return Err(io::Error::other("a field of an unknown kind")),
    }
    Ok(Some(Field { number, whole: &start[..start.len() - bytes.len()], payload, value }))
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> io::Result<&'a [u8]> {
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).map_err(|_| cut())?).ok_or_else(cut)?;
    *bytes = rest;
    Ok(taken)
}

/// A field with a length.
pub(super) fn put(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_varint(u64::from(number) << 3 | 2, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A field with a number.
pub(super) fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    encode_varint(u64::from(number) << 3, out);
    encode_varint(value, out);
}
